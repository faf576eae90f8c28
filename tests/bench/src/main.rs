//! The drain benchmark: how fast the whole router empties a queue, and what it costs, against the raw client, other frameworks, and the
//! goals. `tests/bench/run` builds and runs it.
//!
//! A private broker is filled again and again; every client drains it in a process of its own, all in turn, in several rounds. Read
//! `rows.rs` for who drains, `run.rs` for what is measured, `report.rs` for the goals.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows what it does")]

mod clients;
mod events;
mod figures;
mod inbox;
mod process;
mod report;
mod rows;
mod run;
mod settings;
mod tally;
mod whole;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use router_tests::{AmqpClient, Broker, broker::Vhost};
use tokio::runtime::{Builder, Runtime};

use crate::{
    clients::Raw,
    report::Series,
    rows::{How, ROWS, Row},
    run::{Draining, Measured},
    settings::{LATENCY_RATE, PREFETCH, Settings, USAGE},
    whole::{QUEUE, Remembers},
};

/// As in the shipped program. The raw clients have it too, and neither gain nor lose by it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever went wrong.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Of events, so long for one run of latency.
const LATENCY_SECONDS: u32 = 5;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("client") => client(arguments.get(1).map_or("", String::as_str)).map(|()| true),
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            let peers = std::env::var_os("BENCH_PEERS").map(PathBuf::from);
            match Settings::of(arguments.drain(..), peers) {
                Ok(settings) => measure(&settings),
                Err(why) => {
                    eprintln!("{why}\n{USAGE}");
                    return ExitCode::from(2);
                }
            }
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

// ── the process that drains ─────────────────────────────────────────────────────────────────────────────────────────────────

fn client(which: &str) -> Result<(), Failed> {
    let told = |name: &str| std::env::var(name).map_err(|_| format!("`{name}` is not set"));
    let (url, kind, events) = (told("BENCH_URL")?, told("BENCH_KIND")?, told("BENCH_EVENTS")?.parse()?);
    tally::expect(events, told("BENCH_MODE")? == "latency");
    let raw = match which {
        "multiple" => Raw::Multiple,
        "parsed" => Raw::MultipleParsed,
        "single" => Raw::Single,
        _ => {
            let remembers = match which {
                "router" => Remembers::InMemory,
                "router-on-disk" => Remembers::OnDisk,
                "router-everything" => Remembers::Everything,
                other => return Err(format!("there is no client `{other}`").into()),
            };
            let io = runtime("io", event_router::io_threads())?;
            let handlers = event_router::HandlerThreads::start()?;
            io.spawn(handlers.watch(Arc::new(event_router::SystemClock)));
            let result = io.block_on(whole::drain(remembers, &url, &kind, handlers.handle()));
            handlers.end(Duration::ZERO);
            return result;
        }
    };
    // As `#[tokio::main]` makes it for a program on this machine.
    let io = runtime("io", processors())?;
    io.block_on(async { tokio::spawn(async move { clients::drain(raw, &url, QUEUE, events).await }).await? })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn runtime(name: &str, threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
}

// ── the process that measures ───────────────────────────────────────────────────────────────────────────────────────────────

/// Where one kind of queue is drained. The archive's stream gets a copy of everything, so it has a place of its own.
struct Place {
    plain: Vhost,
    archived: Vhost,
}

struct Bench<'a> {
    settings: &'a Settings,
    runtime: Runtime,
    erlang: u32,
    /// Of the next event, so that none is like another.
    next: u64,
}

fn measure(settings: &Settings) -> Result<bool, Failed> {
    let begun = report::machine();
    let rows: Vec<Row> = ROWS
        .into_iter()
        .filter(|row| row.is_needed() || settings.only.is_empty() || settings.only.iter().any(|text| row.name.contains(text.as_str())))
        .collect();
    let (rows, absent): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.command(settings.peers.as_deref()).is_some());
    let mut not_run: Vec<String> = absent.iter().map(|row| format!("{}, which is not installed", row.name)).collect();
    println!("{begun}");
    let broker = Broker::start();
    let erlang = broker.pid().and_then(process::erlang_machine).ok_or("the broker's Erlang machine was not found")?;
    let mut bench = Bench { settings, runtime: runtime("bench", 2)?, erlang, next: 0 };
    let mut all = Vec::new();
    for kind in &settings.kinds {
        let place = Place { plain: broker.vhost(), archived: broker.vhost() };
        bench.runtime.block_on(async {
            whole::make_queue(&place.plain.url(), kind, Remembers::InMemory).await?;
            whole::make_queue(&place.archived.url(), kind, Remembers::Everything).await
        })?;
        bench.kind(kind, &place, &rows, &mut all, &mut not_run)?;
    }
    let goals = report::goals(&all, &settings.kinds);
    let page = report::page(settings, &broker.version(), &commit(), &begun, &all, &goals, &not_run);
    println!("\n{page}");
    if settings.results {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/RESULTS.md"), &page)?;
    }
    let failed = goals.iter().filter(|goal| goal.is_failed()).count();
    if failed > 0 {
        println!("{failed} goals are missed by more than a tenth");
    }
    // A goal that nobody can judge is not reached.
    let unjudged = all.iter().filter(|series| series.drains.is_empty() && rows.iter().any(|row| row.is_needed() && row.name == series.row));
    let unjudged: Vec<String> = unjudged.map(|series| format!("{}, on {}", series.row, series.kind)).collect();
    if !unjudged.is_empty() {
        println!("nothing is known of: {}", unjudged.join("; "));
    }
    Ok(failed == 0 && unjudged.is_empty() && !goals.is_empty())
}

impl Bench<'_> {
    fn kind(&mut self, kind: &'static str, place: &Place, rows: &[Row], all: &mut Vec<Series>, not_run: &mut Vec<String>) -> Result<(), Failed> {
        let events = |row: &Row| (self.settings.events / 100 * row.share).max(1_000);
        let from = all.len();
        all.extend(rows.iter().map(|row| Series { row: row.name, kind, events: events(row), drains: Vec::new(), latencies: Vec::new() }));
        let mut failures: HashMap<&str, String> = HashMap::new();
        for round in 1..=self.settings.rounds {
            for (index, row) in rows.iter().enumerate() {
                if failures.contains_key(row.name) {
                    continue;
                }
                let vhost = if row.name == rows::ROUTER_EVERYTHING { &place.archived } else { &place.plain };
                let count = all[from + index].events;
                match self.again(row, |bench| bench.drain(row, vhost, kind, count)) {
                    Ok(measured) => {
                        println!(
                            "{kind} {round}/{}  {:<44} {:>8.0}/s  CPU {:>6.1} µs  broker {:>6.1} µs  {:>4.0} MiB",
                            self.settings.rounds, row.name, measured.rate, measured.cpu, measured.broker_cpu, measured.rss
                        );
                        all[from + index].drains.push(measured);
                    }
                    Err(error) => drop(failures.insert(row.name, error.to_string())),
                }
                if row.latency && self.settings.latency && !failures.contains_key(row.name) {
                    match self.again(row, |bench| bench.latency(row, vhost, kind)) {
                        Ok(measured) => {
                            println!("{kind} {round}/{}  {:<44} p50 {:>7.0} µs  p99 {:>7.0} µs", self.settings.rounds, row.name, measured.p50, measured.p99);
                            all[from + index].latencies.push(measured);
                        }
                        Err(error) => drop(failures.insert(row.name, error.to_string())),
                    }
                }
            }
        }
        not_run.extend(failures.into_iter().map(|(name, why)| format!("{name}, on {kind}: {why}")));
        Ok(())
    }

    /// One of ours that fails is tried once more, since nothing can be judged without it; a peer is left out.
    fn again(&mut self, row: &Row, run: impl Fn(&mut Self) -> Result<Measured, Failed>) -> Result<Measured, Failed> {
        match run(self) {
            Err(error) if matches!(row.how, How::Own(_)) => {
                println!("{}: {error}; once more", row.name);
                run(self)
            }
            ended => ended,
        }
    }

    fn drain(&mut self, row: &Row, vhost: &Vhost, kind: &str, count: u32) -> Result<Measured, Failed> {
        let (url, from) = (vhost.url(), self.next);
        self.next += u64::from(count);
        self.runtime.block_on(async {
            let client = AmqpClient::connect(&url).await;
            client.purge(QUEUE).await;
            let routed = client.publish_all(events::EXCHANGE, (from..from + u64::from(count)).map(|number| events::event(number, 0))).await;
            client.close().await;
            if routed != count as usize { Err(format!("only {routed} of {count} events came into the queue")) } else { Ok(()) }
        })?;
        let command = row.command(self.settings.peers.as_deref()).ok_or("it is not installed")?;
        let measured = Draining::start(command, &url, kind, count, false)?.finish(self.erlang)?;
        self.look_behind(vhost)?;
        Ok(measured)
    }

    fn latency(&mut self, row: &Row, vhost: &Vhost, kind: &str) -> Result<Measured, Failed> {
        // The first second warms up the connection of a peer and counts like the others: it is the same for all.
        let count = LATENCY_RATE * LATENCY_SECONDS;
        let url = vhost.url();
        let command = row.command(self.settings.peers.as_deref()).ok_or("it is not installed")?;
        let draining = Draining::start(command, &url, kind, count, true)?;
        let from = self.next;
        self.next += u64::from(count);
        let published = self.runtime.block_on(async {
            until_consumed(vhost).await?;
            let client = AmqpClient::connect(&url).await;
            let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / u64::from(LATENCY_RATE)));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            for number in from..from + u64::from(count) {
                ticks.tick().await;
                let (key, body, properties) = events::event(number, tally::wall_clock());
                // Confirms are not waited for: the loop is open.
                client
                    .channel()
                    .basic_publish(events::EXCHANGE.into(), key.as_str().into(), lapin::options::BasicPublishOptions::default(), &body, properties)
                    .await?;
            }
            Ok::<_, Failed>(client)
        });
        let measured = draining.finish(self.erlang);
        self.runtime.block_on(published?.close());
        self.look_behind(vhost)?;
        measured
    }

    /// What was handled must be acknowledged, too; a peer that was told to end may leave what it had in hand.
    fn look_behind(&self, vhost: &Vhost) -> Result<(), Failed> {
        let left = self.runtime.block_on(async {
            let client = AmqpClient::connect(&vhost.url()).await;
            let left = client.depth(QUEUE).await;
            client.purge(QUEUE).await;
            client.close().await;
            left
        });
        match left {
            Some(left) if left <= u32::from(PREFETCH) => Ok(()),
            left => Err(format!("{left:?} events are left in the queue").into()),
        }
    }
}

/// Waits until somebody consumes the queue.
async fn until_consumed(vhost: &Vhost) -> Result<(), Failed> {
    for _ in 0..900 {
        if vhost.queue(QUEUE).is_some_and(|queue| queue.consumers > 0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("nobody consumes the queue".into())
}

/// The commit that is measured, with a word if the tree differs.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no", "--", "../router", "../plugins"]).is_some_and(|changed| changed.is_empty());
    if is_clean { hash } else { format!("{hash}, with changes in `router`") }
}
