//! What strangers may hand to the router, each as a function over arbitrary bytes that panics when a promise is broken.
//!
//! They run two ways: over the corpus and mutations of it in every test run (`tests/tests/fuzz.rs`), and for as long as one likes under
//! libFuzzer (`tests/fuzz/run`). What a run finds becomes a file of the corpus, and stays.

mod config;
pub mod envelope;
mod filter;
mod hook;
mod http;
pub mod pattern;
mod redaction;
mod store;
mod template;
mod transcript;

/// A function that takes anything.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directory in the corpus.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Mutations that a test run tries, spread over the seeds; fewer where one takes long.
    pub mutations: u32,
    /// What means something here, for mutations that put it in.
    pub words: &'static [&'static str],
}

/// Stands between the two parts of an input that has two.
pub const BETWEEN: &str = "\n---\n";

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "envelope", run: envelope::run, mutations: 6_000, words: envelope::WORDS },
    Target { name: "pattern", run: pattern::run, mutations: 8_000, words: &["#", "*", ".", "#.#.#", "*.#", "..", "a", "\n"] },
    Target { name: "filter", run: filter::run, mutations: 5_000, words: filter::WORDS },
    Target { name: "template", run: template::run, mutations: 3_000, words: template::WORDS },
    Target { name: "config", run: config::run, mutations: 250, words: config::WORDS },
    Target { name: "http", run: http::run, mutations: 1_200, words: http::WORDS },
    Target { name: "hook", run: hook::run, mutations: 500, words: hook::WORDS },
    Target { name: "redaction", run: redaction::run, mutations: 4_000, words: redaction::WORDS },
    Target { name: "transcript", run: transcript::run, mutations: 1_500, words: transcript::WORDS },
    Target { name: "store", run: store::run, mutations: 60, words: &["\0", "\u{1}", "\u{7f}", "SQLite format 3"] },
];

/// The two parts of an input; the second is empty where [`BETWEEN`] is missing.
fn two_parts(data: &[u8]) -> (&[u8], &[u8]) {
    let between = BETWEEN.as_bytes();
    match data.windows(between.len()).position(|window| window == between) {
        Some(at) => (&data[..at], &data[at + between.len()..]),
        None => (data, &[]),
    }
}
