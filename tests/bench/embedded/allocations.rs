//! Counts what is allocated for an event that no route wants. A program of its own, since its allocator counts. Prints a line for each.

#![allow(clippy::print_stdout, reason = "a program that shows what it counts")]

// Links the plugins that routes can name.
use plugins as _;

use router_api::{DecodeLimits, Envelope, PatternTrie, RoutingKey};
use router_core::filter::EventFilter;

#[path = "../src/events.rs"]
#[allow(dead_code, reason = "the other benchmark measures latency with it, too")]
mod events;
mod filtered_route;

type Failed = Box<dyn std::error::Error + Send + Sync>;

const EVENTS: u64 = 1_000;

fn main() -> Result<(), Failed> {
    let decoded = |number| {
        let (key, body, _) = events::event(number, 0);
        let (key, body): (RoutingKey, _) = (key.parse()?, bytes::Bytes::from(body));
        Ok::<_, Failed>((key, body))
    };
    let all: Vec<(RoutingKey, bytes::Bytes)> = (0..EVENTS).map(decoded).collect::<Result<_, _>>()?;
    let mut trie = PatternTrie::new();
    for number in 0..1_000 {
        trie.insert(&format!("other.k{number}.#").parse()?, number);
    }
    trie.insert(&"session.thread.#".parse()?, 1_000);
    let filter = EventFilter::compile(&serde_json::json!({ "tool_name": ["None"], "file_path": [{ "suffix": ".nothing" }] }))
        .map_err(|problems| format!("{problems:?}"))?;
    // Each event is decoded in there, too.
    let whole = filtered_route::count(&all)?;
    let mut envelopes = Vec::with_capacity(all.len());
    let counted = allocation_counter::measure(|| {
        for (key, body) in &all {
            envelopes.extend(Envelope::decode(key.clone(), body.clone(), DecodeLimits::default()).ok());
        }
    });
    let decoding = counted.count_total;
    println!("decoding {}", decoding as f64 / EVENTS as f64);
    println!("whole route {}", whole.saturating_sub(decoding) as f64 / EVENTS as f64);
    // The first search of a thread makes what all later ones use.
    trie.each(&all[0].0, |_| {});
    let mut wanted = 0;
    let counted = allocation_counter::measure(|| {
        for event in &envelopes {
            let mut fits = 0;
            trie.each(event.key(), |_| fits += 1);
            wanted += usize::from(fits != 1 || filter.matches(event));
        }
    });
    assert_eq!((envelopes.len() as u64, wanted), (EVENTS, 0), "each fits one pattern, and no filter wants any");
    println!("pattern and filter {}", counted.count_total as f64 / EVENTS as f64);
    Ok(())
}
