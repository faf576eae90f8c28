//! A transcript, read at once and in pieces: no panic, and the same totals.

use std::sync::LazyLock;

use router_transcripts::{Prices, Tally};

pub(super) const WORDS: &[&str] = &[
    "{\"type\":\"assistant\",\"message\":{\"id\":\"m\",\"model\":\"claude-opus-4-1\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n",
    "\"requestId\":\"r\",",
    "\"model\":\"<synthetic>\",",
    "\"input_tokens\":18446744073709551615",
    "\"output_tokens\":-1",
    "\"cache_creation_input_tokens\":1e30",
    "\"timestamp\":\"2026-01-30T12:00:00Z\"",
    "\"isSidechain\":true",
    "\n",
    "\r\n",
    "{\"type\":\"user\"",
    "null\n",
];

static PRICES: LazyLock<Prices> = LazyLock::new(Prices::builtin);

fn totals(path: &std::path::Path, piece: u64) -> String {
    let mut tally = Tally::default();
    // A piece may end within a line, so some calls read nothing new; the limit stands for a reader that never ends.
    for _ in 0..1_000_000 {
        if tally.read_on(path, piece).expect("a readable file") {
            return format!("{:?}", tally.totals(&PRICES));
        }
        let kept = serde_json::to_string(&tally).expect("a tally is JSON");
        tally = serde_json::from_str(&kept).expect("and reads again");
    }
    panic!("it never comes to the end")
}

pub(super) fn run(data: &[u8]) {
    let file = tempfile::NamedTempFile::with_suffix(".jsonl").expect("a file");
    std::fs::write(file.path(), data).expect("it is written");
    let whole = totals(file.path(), u64::MAX / 2);
    let pieces = totals(file.path(), 1 + data.len() as u64 / 3);
    assert_eq!(whole, pieces, "at once and in pieces");
}
