//! What it costs to find out who wants an event: patterns, filters, and the decoding before both. In memory, on one thread.

use std::{hint::black_box, process::Command, time::Instant};

use router_api::{DecodeLimits, Envelope, PatternTrie, RoutingKey};
use router_core::filter::EventFilter;
use serde_json::{Value, json};

use crate::{Failed, events, samples::Samples, settings::Settings};

/// So many routes.
pub const ROUTES: [usize; 4] = [1, 10, 1_000, 10_000];

/// The pattern of a route by its number.
type Pattern = fn(usize) -> String;

/// Patterns such as topic exchanges are given.
pub const FAMILIES: [(&str, Pattern); 3] = [
    ("exact `a.b.k7.end`", |number| format!("a.b.k{number}.end")),
    ("star `*.b.k7.*`", |number| format!("*.b.k{number}.*")),
    ("hash `#.k7.#`", |number| format!("#.k{number}.#")),
];

/// Keys that take turns, so that no processor learns one by heart.
const KEYS: usize = 64;

/// Name of a value.
pub fn of(family: &str, routes: usize) -> String {
    format!("match {family} {routes}")
}

/// One round of each.
pub fn measure(settings: &Settings, samples: &mut Samples) -> Result<(), Failed> {
    let times = settings.events(200_000);
    for (family, pattern) in FAMILIES {
        for routes in ROUTES {
            let mut trie = PatternTrie::new();
            for number in 0..routes {
                trie.insert(&pattern(number).parse()?, number);
            }
            let keys: Vec<RoutingKey> = (0..KEYS).map(|number| format!("a.b.k{}.end", number * routes / KEYS).parse()).collect::<Result<_, _>>()?;
            let begun = Instant::now();
            for time in 0..times {
                let found = black_box(&trie).matches(black_box(&keys[time % KEYS]));
                if black_box(found).len() != 1 {
                    return Err("a key fits one of the patterns".into());
                }
            }
            samples.add(of(family, routes), begun.elapsed().as_secs_f64() * 1e9 / times as f64);
        }
    }
    let event = sample(1)?;
    for routes in ROUTES {
        // Each wants another file.
        let filters: Vec<EventFilter> = (0..routes).map(filter).collect::<Result<_, _>>()?;
        let rounds = (times / routes).max(1);
        let begun = Instant::now();
        for _ in 0..rounds {
            let wanted = black_box(&filters).iter().filter(|filter| filter.matches(black_box(&event))).count();
            if black_box(wanted) != 1 {
                return Err("one filter wants the event".into());
            }
        }
        samples.add(format!("filter {routes}"), begun.elapsed().as_secs_f64() * 1e9 / (rounds * routes) as f64);
    }
    decoding(times / 10, samples)?;
    println!(
        "  matching: {} ns, a filter {} ns, decoding {} ns a KiB",
        samples.cell(&of(FAMILIES[2].0, 10_000), 0),
        samples.cell("filter 1000", 0),
        samples.cell("decode", 0)
    );
    Ok(())
}

fn sample(number: u64) -> Result<Envelope, Failed> {
    let (key, body, _) = events::event(number, 0);
    Ok(Envelope::decode(key.parse()?, body, DecodeLimits::default())?)
}

/// The sample has file 1.
fn filter(number: usize) -> Result<EventFilter, Failed> {
    let tree = json!({ "tool_name": ["Write", "Edit", "Bash", "Read"], "file_path": [{ "suffix": format!("/cart{}.py", number + 1) }] });
    EventFilter::compile(&tree).map_err(|problems| format!("{problems:?}").into())
}

/// In nanoseconds a KiB: the envelope, and beside it the tree that a parser for any JSON would build.
fn decoding(times: usize, samples: &mut Samples) -> Result<(), Failed> {
    let bodies: Vec<(RoutingKey, bytes::Bytes)> = (0..KEYS as u64)
        .map(|number| {
            let (key, body, _) = events::event(number, 0);
            Ok::<_, Failed>((key.parse()?, bytes::Bytes::from(body)))
        })
        .collect::<Result<_, _>>()?;
    let kib = (0..times).map(|time| bodies[time % KEYS].1.len()).sum::<usize>() as f64 / 1_024.0;
    let begun = Instant::now();
    for time in 0..times {
        let (key, body) = &bodies[time % KEYS];
        black_box(Envelope::decode(black_box(key).clone(), black_box(body).clone(), DecodeLimits::default())?);
    }
    samples.add("decode", begun.elapsed().as_secs_f64() * 1e9 / kib);
    let begun = Instant::now();
    for time in 0..times {
        black_box(serde_json::from_slice::<Value>(black_box(&bodies[time % KEYS].1))?);
    }
    samples.add("serde_json", begun.elapsed().as_secs_f64() * 1e9 / kib);
    Ok(())
}

/// What the other program counts.
pub fn allocations(settings: &Settings, samples: &mut Samples) -> Result<(), Failed> {
    let output = Command::new(&settings.allocations).output()?;
    if !output.status.success() {
        return Err(format!("the count of allocations failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    for line in String::from_utf8(output.stdout)?.lines() {
        let (name, value) = line.rsplit_once(' ').ok_or("a line of the count has no number")?;
        samples.add(name, value.parse()?);
    }
    Ok(())
}
