//! What the program is told on its command line.

use std::path::PathBuf;

/// Deliveries in hand, for every client.
pub const PREFETCH: u16 = 500;

/// Of the raw clients: acknowledged together.
pub const ACK_BATCH: u32 = 100;

/// Events a second while latency is measured.
pub const LATENCY_RATE: u32 = 1_000;

/// How it is used, for people.
pub const USAGE: &str =
    "usage: tests/bench/run [--quick] [--events N] [--rounds N] [--only TEXT]... [--kind classic|quorum] [--no-latency] [--no-peers] [--no-results]

  --events N     events that a fast client drains in one round; default 100000
  --rounds N     rounds, in each of which every client drains once; default 3
  --quick        20000 events
  --only TEXT    only clients whose name contains TEXT, and those that the goals are held against; may be repeated
  --kind KIND    only queues of this kind
  --no-latency   leave the latency out
  --no-peers     leave the other frameworks out
  --no-results   write no RESULTS.md";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    pub events: u32,
    pub rounds: u32,
    pub only: Vec<String>,
    pub kinds: Vec<&'static str>,
    pub latency: bool,
    pub peers: Option<PathBuf>,
    pub results: bool,
}

impl Settings {
    /// Reads the arguments. `peers` is where the other frameworks were installed.
    pub fn of(mut arguments: impl Iterator<Item = String>, peers: Option<PathBuf>) -> Result<Self, String> {
        let mut settings = Self { events: 100_000, rounds: 3, only: Vec::new(), kinds: vec!["classic", "quorum"], latency: true, peers, results: true };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("`{argument}` needs a value"));
            match argument.as_str() {
                // Cargo says this to every benchmark.
                "--bench" => {}
                "--quick" => settings.events = 20_000,
                "--events" => settings.events = number(&value()?)?.max(1_000),
                "--rounds" => settings.rounds = number(&value()?)?.max(1),
                "--only" => settings.only.push(value()?),
                "--kind" => match value()?.as_str() {
                    "classic" => settings.kinds = vec!["classic"],
                    "quorum" => settings.kinds = vec!["quorum"],
                    other => return Err(format!("there is no kind of queue `{other}` here")),
                },
                "--no-latency" => settings.latency = false,
                "--no-peers" => settings.peers = None,
                "--no-results" => settings.results = false,
                other => return Err(format!("`{other}` is not known")),
            }
        }
        Ok(settings)
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
