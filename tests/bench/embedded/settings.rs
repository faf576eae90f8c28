//! What the program is told on its command line and by the script that runs it.

use std::path::PathBuf;

/// How it is used, for people.
pub const USAGE: &str = "usage: tests/bench/embedded/run [--quick] [--rounds N] [--only PART]... [--against PROGRAM]... [--no-results]

  --rounds N     rounds, in each of which everything is measured once; default 5
  --quick        a tenth of the events, one round unless --rounds says otherwise
  --only PART    only this part: ingest, routes, matching, allocations, exec, memory; may be repeated
  --against PROGRAM
                 instead of all that, the way in of the shipped program and of this one, such as an older build; may be repeated
  --no-results   write no RESULTS-embedded.md";

const PARTS: [&str; 6] = ["ingest", "routes", "matching", "allocations", "exec", "memory"];

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rounds: u32,
    pub quick: bool,
    only: Vec<String>,
    /// Other builds of the program.
    pub against: Vec<PathBuf>,
    pub results: bool,
    /// The program as it is shipped.
    pub event_router: PathBuf,
    /// The program that counts allocations.
    pub allocations: PathBuf,
    /// On the disk that is measured.
    pub directory: PathBuf,
}

impl Settings {
    /// Reads the arguments.
    pub fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("`{name}` is not set; tests/bench/embedded/run does"));
        let mut settings = Self {
            rounds: 0,
            quick: false,
            only: Vec::new(),
            against: Vec::new(),
            results: true,
            event_router: path("BENCH_EVENT_ROUTER")?,
            allocations: path("BENCH_ALLOCATIONS")?,
            directory: path("BENCH_DIRECTORY")?,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("`{argument}` needs a value"));
            match argument.as_str() {
                // Cargo says this to every benchmark.
                "--bench" => {}
                "--quick" => settings.quick = true,
                "--rounds" => {
                    let text = value()?;
                    settings.rounds = text.parse().ok().filter(|rounds| *rounds > 0).ok_or_else(|| format!("`{text}` is no number of rounds"))?;
                }
                "--only" => {
                    let part = value()?;
                    if !PARTS.contains(&part.as_str()) {
                        return Err(format!("there is no part `{part}`"));
                    }
                    settings.only.push(part);
                }
                "--against" => settings.against.push(value()?.into()),
                "--no-results" => settings.results = false,
                other => return Err(format!("`{other}` is not known")),
            }
        }
        if settings.rounds == 0 {
            settings.rounds = if settings.quick { 1 } else { 5 };
        }
        Ok(settings)
    }

    /// Is this part asked for?
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// So many, or in a short run a tenth of them.
    pub fn events(&self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }
}
