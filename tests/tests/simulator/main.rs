//! A simulator of the whole core: the router that is shipped, on a clock that is moved by hand, over a transport and a store that fail in
//! every way that they may, in thousands of schedules that follow from their seeds. An oracle watches from outside.
//!
//! ```text
//! plan (seed) ─► life ─► router_core::Router ─► transport, broker ─► oracle
//!                 │            └──────────────► store, handler ─────────┘
//!                 └ one runtime for each process; to drop it is the process's death
//! ```
//!
//! `EVENT_ROUTER_SIMULATIONS` is how many schedules there are at most, `EVENT_ROUTER_SIMULATION_SECONDS` how long they may take,
//! `EVENT_ROUTER_SIMULATION_SEED` the first seed; `EVENT_ROUTER_TESTS_LONG` makes it a long one.

#![allow(clippy::print_stdout, reason = "what was run, and with which seeds")]

mod broker;
mod cases;
mod draw;
mod handler;
mod life;
mod mutants;
mod oracle;
mod panics;
mod plan;
mod routes;
mod shrink;
mod store;
mod transport;
/// The part of the AMQP transport that decides what to acknowledge, as it is.
#[allow(dead_code)]
#[path = "../../../router/amqp/src/window.rs"]
mod window;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use plan::Plan;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn is_long() -> bool {
    std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some()
}

/// A schedule that fails, as a person wants to see it.
fn told(seed: u64) -> String {
    let (plan, report) = shrink::shrink(&Plan::of(seed));
    let finding = report.finding.unwrap_or_else(|| "it does not fail any more when it is run again: something is left to chance".to_owned());
    format!("seed {seed}: {finding}\n\nthe smallest schedule found:\n{plan}\nwhat happened:\n  {}\n", report.trace.join("\n  "))
}

#[test]
fn every_schedule_keeps_the_promises() {
    let (count, seconds) = if is_long() { (200_000, 1_200) } else { (3_000, 45) };
    let (count, seconds) = (number("EVENT_ROUTER_SIMULATIONS", count), number("EVENT_ROUTER_SIMULATION_SECONDS", seconds));
    let first = number("EVENT_ROUTER_SIMULATION_SEED", 1);
    let (begun, limit) = (Instant::now(), Duration::from_secs(seconds));
    let (next, ran, lives, handled, repeated) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let most = usize::try_from(number("EVENT_ROUTER_SIMULATION_FINDINGS", 1)).unwrap_or(usize::MAX);
    let found: Mutex<Vec<(u64, String)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                panics::listen();
                while begun.elapsed() < limit && found.lock().unwrap().len() < most {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        break;
                    }
                    let report = life::run(&Plan::of(seed), false);
                    ran.fetch_add(1, Ordering::SeqCst);
                    lives.fetch_add(report.lives, Ordering::SeqCst);
                    handled.fetch_add(report.handled, Ordering::SeqCst);
                    repeated.fetch_add(report.repeated, Ordering::SeqCst);
                    if let Some(finding) = report.finding {
                        found.lock().unwrap().push((seed, finding));
                    }
                }
                panics::ignore();
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_unstable();
    println!("{ran:?} schedules, {lives:?} processes, {handled:?} handled, {repeated:?} of them again, in {:?}", begun.elapsed());
    found.iter().for_each(|(seed, finding)| println!("  seed {seed}: {finding}"));
    assert!(ran.into_inner() > 0, "not one schedule was run");
    if let Some((seed, _)) = found.first() {
        panics::listen();
        let told = told(*seed);
        panics::ignore();
        panic!("{told}\nagain: EVENT_ROUTER_SIMULATION_SEED={seed} EVENT_ROUTER_SIMULATIONS=1");
    }
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in 1..=number("EVENT_ROUTER_SIMULATION_TRACES", 40) {
        let plan = Plan::of(seed);
        let (first, second) = (life::run(&plan, true), life::run(&plan, true));
        let differs = first.trace.iter().zip(&second.trace).position(|(first, second)| first != second);
        if let Some(at) = differs.or((first.trace.len() != second.trace.len()).then(|| first.trace.len().min(second.trace.len()))) {
            let line = |trace: &[String]| trace[at.saturating_sub(6)..(at + 2).min(trace.len())].join("\n  ");
            panic!("seed {seed} differs in line {at}:\n  {}\nand\n  {}\n\n{plan}", line(&first.trace), line(&second.trace));
        }
        assert!(first.trace.len() > 2, "seed {seed} has no trace");
    }
}
