//! The whole program in a process of its own, with one more plugin that does nothing and says when it has done it often enough.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin, register};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Failed, door, process};

/// Tells this program that it is the router.
const ROLE: &str = "BENCH_IS_ROUTER";

/// For anything on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at what a router says of itself.
const LOOK: Duration = Duration::from_millis(10);

/// What the plugin prints at its end.
const HANDLED: &str = "handled all";

/// Is this process the one that is measured?
pub fn is_wanted() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// Counts.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {
    /// After so many events it says so.
    expected: u64,
}

struct Counting {
    expected: u64,
    seen: AtomicU64,
}

#[async_trait]
impl Plugin for Nothing {
    const NAME: &'static str = "nothing";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(Counting { expected: self.expected, seen: AtomicU64::new(0) }))
    }
}

#[async_trait]
impl Handler for Counting {
    async fn handle(&self, _: &Envelope, _: &Context) -> Result<Outcome, HandlerError> {
        if self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.expected {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{HANDLED}");
            let _ = out.flush();
        }
        Ok(Outcome::Done)
    }
}

register!(Nothing);

/// A router that runs. Killed when dropped.
pub struct Served {
    child: Child,
    out: Receiver<String>,
    pub address: SocketAddr,
}

/// A route for all that is sent, and a handler.
pub fn configure(directory: &Path, handler: &str) -> std::io::Result<()> {
    std::fs::write(
        directory.join("router.toml"),
        format!("[store]\npath = \"router.db\"\n[http]\nlisten = \"127.0.0.1:0\"\n[[route]]\nname = \"bench\"\non = [\"session.thread.#\"]\n{handler}\n"),
    )
}

impl Served {
    /// This program as the router, with a handler that does nothing.
    pub fn with_nothing(directory: &Path, expected: usize) -> Result<Self, Failed> {
        configure(directory, &format!("handler = \"nothing\"\n[route.with]\nexpected = {expected}"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(ROLE, "1");
        Self::start(command, directory)
    }

    /// Any program of ours, over the configuration in `directory`.
    pub fn start(mut command: Command, directory: &Path) -> Result<Self, Failed> {
        command.arg("-c").arg(directory.join("router.toml")).arg("run");
        command.env("HOME", directory).env("EVENT_ROUTER_SPOOL", directory.join("spool")).env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = child.stderr.take().map(lines).ok_or("the router has no log")?;
        let out = child.stdout.take().map(lines).ok_or("the router has no output")?;
        let mut served = Self { child, out, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let until = Instant::now() + PATIENCE;
        let mut log = Vec::new();
        loop {
            let line =
                said.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|_| format!("the router did not start: {}", log.join("\n")))?;
            if let Some(rest) = line.split("events come in at http://").nth(1) {
                served.address = rest.split('/').next().unwrap_or_default().parse()?;
            }
            if line.ends_with(" ready") {
                break;
            }
            log.push(line);
        }
        Ok(served)
    }

    /// Waits until the plugin has had what it expects.
    pub fn handled(&self) -> Result<(), Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            let line = self.out.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|_| "not everything was handled in time")?;
            if line == HANDLED {
                return Ok(());
            }
        }
    }

    /// Waits until a router has handled so many, as it says itself. For one that does not have the plugin.
    pub fn has_handled(&self, expected: usize) -> Result<(), Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            let metrics = door::get(self.address, "/metrics")?;
            let handled = metrics.lines().filter(|line| line.starts_with("event_router_handled_events_total{"));
            let handled: f64 = handled.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
            if handled >= expected as f64 {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{handled} of {expected} were handled in time").into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Processor seconds so far.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.child.id()).unwrap_or(f64::NAN)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its lines; those that nobody takes are dropped, so that the program never waits for us.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.try_send(line);
        }
    });
    receiver
}
