//! The benchmark of the embedded transport: how much of what the disk and SQLite allow the router leaves, and what matching, decoding,
//! starting commands and memory cost. `tests/bench/embedded/run` builds and runs it.
//!
//! Everything is compared within one run, each round measuring everything once, so that a busy machine is busy for all of them. Read
//! `ingest.rs` for what is measured of the way in, `report.rs` for the goals.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows what it does")]

// Links the plugins that routes can name.
use plugins as _;

mod commands;
mod door;
#[allow(dead_code, reason = "the other benchmark measures latency with it, too")]
#[path = "../src/events.rs"]
mod events;
mod ingest;
mod matching;
mod memory;
#[allow(dead_code, reason = "the other benchmark watches a broker with it, too")]
#[path = "../src/process.rs"]
mod process;
mod report;
mod samples;
mod served;
mod settings;

use std::{path::Path, process::ExitCode};

use crate::{
    samples::Samples,
    settings::{Settings, USAGE},
};

/// As in the shipped program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever went wrong.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if served::is_wanted() {
        return event_router::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h")) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::of(arguments.into_iter()) {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match measure(&settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Was every goal reached, or nearly so?
fn measure(settings: &Settings) -> Result<bool, Failed> {
    let begun = process::machine();
    println!("{begun}");
    let mut samples = Samples::default();
    if !settings.against.is_empty() {
        for round in 1..=settings.rounds {
            println!("round {round} of {}", settings.rounds);
            for case in ingest::CASES {
                ingest::against(settings, case, &mut samples)?;
            }
        }
        println!("\n{}", report::compared(settings, &samples));
        return Ok(true);
    }
    if settings.wants("allocations") {
        matching::allocations(settings, &mut samples)?;
    }
    for round in 1..=settings.rounds {
        println!("round {round} of {}", settings.rounds);
        if settings.wants("ingest") {
            for case in ingest::CASES {
                ingest::measure(settings, case, &mut samples)?;
            }
        }
        if settings.wants("routes") {
            ingest::with_many_routes(settings, &mut samples)?;
        }
        if settings.wants("matching") {
            matching::measure(settings, &mut samples)?;
        }
        if settings.wants("exec") {
            commands::measure(settings, &mut samples)?;
        }
        if settings.wants("memory") {
            memory::measure(settings, &mut samples)?;
        }
    }
    let goals = report::goals(&samples);
    let page = report::page(settings, &commit(), &begun, &samples, &goals);
    println!("\n{page}");
    if settings.results {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/RESULTS-embedded.md"), &page)?;
    }
    let failed: Vec<String> = goals.iter().filter(|goal| goal.is_failed()).map(report::Goal::line).collect();
    for line in &failed {
        eprintln!("missed: {line}");
    }
    Ok(failed.is_empty())
}

/// What is measured, with a mark if it is not what was committed.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output();
        output.ok().filter(|output| output.status.success()).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changed| changed.is_empty());
    if is_clean { commit } else { format!("{commit}, with changes") }
}
