//! What sums over sessions cost: `sessions stats` on a store with many events beside one with few, of as many sessions. `tests/bench/stats`
//! builds and runs it.
//!
//! Both stores are asked in turn, by the built program, as a user asks, with its start: first without a router, then with one that runs on
//! each. The goal is less than 300 ms for a million events; what the events alone cost is the ratio of the two, which no machine's load
//! changes. The first look after a day, or after a kill, reads the whole store: it is told apart, and has no goal.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows what it does")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use router_api::{ArchiveEntry, Clock, SeenEvent, Store as _, Transport as _};
use router_embedded::{Embedded, EmbeddedOptions};
use serde_json::{Value, json};

/// Events of one commit while a store is filled.
const AT_ONCE: u64 = 1_000;
/// Sessions that go on at the same time.
const BESIDE: u64 = 8;
/// The goal, at the median.
const GOAL: Duration = Duration::from_millis(300);
const ROUNDS: usize = 9;
/// For a router to start.
const PATIENCE: Duration = Duration::from_secs(60);
const BY: [&str; 6] = ["tool", "model", "project", "branch", "day", "feature"];

/// The machine's.
struct Wall(Instant);

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Settings {
    program: PathBuf,
    directory: PathBuf,
    events: u64,
    sessions: u64,
}

fn settings() -> Result<Settings, String> {
    let usage = "usage: tests/bench/stats [--events N] [--sessions N]";
    let mut settings = Settings {
        program: std::env::var_os("BENCH_EVENT_ROUTER").map(PathBuf::from).ok_or("BENCH_EVENT_ROUTER does not name the program; tests/bench/stats does")?,
        directory: std::env::var_os("BENCH_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from),
        events: 1_000_000,
        sessions: 5_000,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).filter(|number| *number > 0).ok_or_else(|| usage.to_owned());
        match argument.as_str() {
            "--events" => settings.events = number()?,
            "--sessions" => settings.sessions = number()?,
            // What cargo says to every bench.
            "--bench" => {}
            _ => return Err(usage.to_owned()),
        }
    }
    Ok(settings)
}

fn main() -> ExitCode {
    match settings().and_then(|settings| run(&settings).map_err(|error| error.to_string())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tests/bench/stats: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Was the goal met?
fn run(settings: &Settings) -> Result<bool, Box<dyn std::error::Error>> {
    let few = (settings.events / 100).max(settings.sessions * 2);
    let home = tempfile::Builder::new().prefix("bench-sessions").tempdir_in(&settings.directory)?;
    let mut stores = Vec::new();
    for (name, events) in [("few", few), ("many", settings.events)] {
        let directory = home.path().join(name);
        fill(&directory, events, settings.sessions)?;
        let begun = Instant::now();
        let list = ask(settings, &directory, &["list", "--last", "1", "--json"])?.1;
        println!(
            "{events:>9} events in {} sessions: {:>6.1} MiB; the first question made the sessions of them in {:.1} s",
            settings.sessions,
            std::fs::metadata(directory.join("router.db"))?.len() as f64 / f64::from(1 << 20),
            begun.elapsed().as_secs_f64()
        );
        assert_eq!(list["result"]["events_behind"], 0, "the first question looks at everything");
        stores.push((directory, events));
    }
    let many = &stores[1].0;
    let (again, _) = ask(settings, many, &["list", "--last", "1", "--json"])?;
    // A small store has none, and is read as a whole by every look.
    let _ = std::fs::remove_file(many.join("router.db.closed"));
    let (whole, _) = ask(settings, many, &["list", "--last", "1", "--json"])?;
    let (beside, _) = ask(settings, many, &["list", "--last", "1", "--json"])?;
    println!("a look at {} events: {}; one that reads the whole store: {}; the next one: {}", settings.events, shown(again), shown(whole), shown(beside));

    println!("\nwithout a router");
    let mut is_met = compare(settings, &stores, few)?;
    println!("\nwith a router that runs");
    let running = stores.iter().map(|(directory, _)| Running::start(settings, directory)).collect::<Result<Vec<_>, _>>()?;
    is_met &= compare(settings, &stores, few)?;
    running.into_iter().for_each(drop);
    let verdict = if is_met { "met" } else { "MISSED" };
    println!("\nthe goal, {} ms at the median of {ROUNDS}, the program's start included: {verdict}", GOAL.as_millis());
    Ok(is_met)
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// A router on one of the stores; ended with this value.
struct Running(Child);

impl Running {
    fn start(settings: &Settings, directory: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut command = Command::new(&settings.program);
        command.arg("-c").arg(directory.join("router.toml")).arg("run").env("EVENT_ROUTER_SPOOL", "off");
        let running = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(directory.join("router.db.sock")).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("the router does not answer on its socket".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Asks both stores in turn, by everything; was the goal met?
fn compare(settings: &Settings, stores: &[(PathBuf, u64)], few: u64) -> Result<bool, Box<dyn std::error::Error>> {
    println!("{:>10} {:>14} {:>14} {:>7}", "by", format!("{few} events"), format!("{} events", settings.events), "ratio");
    let mut is_met = true;
    for by in BY {
        let mut times: [Vec<Duration>; 2] = Default::default();
        let mut answers = [0, 0];
        for _ in 0..ROUNDS {
            for (place, (directory, _)) in stores.iter().enumerate().take(2) {
                let (time, answer) = ask(settings, directory, &["stats", "--by", by, "--days", "30", "--json"])?;
                times[place].push(time);
                answers[place] = answer["result"]["total"]["sessions"].as_u64().unwrap_or(0);
            }
        }
        assert_eq!(answers, [settings.sessions; 2], "both are about as many sessions");
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let [few, many] = times.each_mut().map(median);
        is_met &= many < GOAL;
        println!("{by:>10} {:>14} {:>14} {:>7.2}", shown(few), shown(many), many.as_secs_f64() / few.as_secs_f64());
    }
    Ok(is_met)
}

fn ask(settings: &Settings, directory: &Path, arguments: &[&str]) -> Result<(Duration, Value), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let output = Command::new(&settings.program).arg("-c").arg(directory.join("router.toml")).arg("sessions").args(arguments).output()?;
    let time = begun.elapsed();
    if !output.status.success() {
        return Err(format!("`{}` says: {}", settings.program.display(), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok((time, serde_json::from_slice(&output.stdout)?))
}

/// A store with events of the last three weeks.
fn fill(directory: &Path, events: u64, sessions: u64) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(
        directory.join("router.toml"),
        "[store]\npath = \"router.db\"\nretention_bytes_max = 100_000_000_000\n[http]\nlisten = \"off\"\n[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n",
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let options = EmbeddedOptions { sync: false, retention_bytes_max: u64::MAX >> 1, ..EmbeddedOptions::new(directory.join("router.db")) };
        let store = Embedded::open(options, Arc::new(Wall(Instant::now())))?;
        let begun = Timestamp::now() - SignedDuration::from_hours(24 * 21);
        let step = SignedDuration::from_hours(24 * 20).as_micros() / i128::from(events.max(1));
        let each = (events / sessions).max(2);
        let mut batch = Vec::new();
        for number in 0..each * sessions {
            let at = begun + SignedDuration::from_micros(i64::try_from(step * i128::from(number))?);
            batch.push(entry(number, at, each)?);
            if batch.len() as u64 >= AT_ONCE {
                store.archive(std::mem::take(&mut batch)).await?;
            }
        }
        if !batch.is_empty() {
            store.archive(batch).await?;
        }
        store.close().await;
        Ok(())
    })
}

fn entry(number: u64, at: Timestamp, each: u64) -> Result<ArchiveEntry, Box<dyn std::error::Error>> {
    // A few sessions at a time, one event of each in turn.
    let (group, within) = (number / (each * BESIDE), number % (each * BESIDE));
    let (session, turn) = (group * BESIDE + within % BESIDE, within / BESIDE);
    let id = format!("{session:08x}-0000-4000-8000-000000000000");
    let model = ["claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5"][(session % 3) as usize];
    let (key, payload) = if turn + 1 == each {
        let tokens = 1_000 * each;
        let payload = json!({ "session_id": id, "turn_number": turn, "model": model, "total_tokens": tokens, "total_cost_usd": 0.5,
            "working_directory": format!("/home/ada/project-{}", session % 20), "git_branch": format!("fix/GOD-{}", session % 50) });
        ("session.thread.turn.completed", payload)
    } else {
        let tool = ["Bash", "Read", "Write", "Grep"][(turn % 4) as usize];
        let file = format!("/home/ada/project-{}/src/file-{}.rs", session % 20, turn % 40);
        let payload = json!({ "session_id": id, "turn_number": turn / 20, "model": model, "git_branch": format!("fix/GOD-{}", session % 50),
            "working_directory": format!("/home/ada/project-{}", session % 20), "tags": [format!("feature:feature-{}", session % 30)],
            "tool_metadata": { "tool_name": tool, "tool_input": { "file_path": file }, "success": true, "execution_time_ms": 12 } });
        ("session.thread.agent.action", payload)
    };
    let event_id = format!("{number:08x}-0000-4000-8000-000000000001");
    let body = json!({ "event_id": event_id, "event_type": key, "timestamp": at, "version": "1.0.0",
        "source": { "host": "ada", "type": "hook", "app": "claude-code" }, "correlation_ids": [], "agent_context": null, "payload": payload });
    let event = SeenEvent { offset: number, identity: event_id, key: key.parse()?, body: body.to_string().into(), stored_at: at, hops: 0, traceparent: None };
    Ok(ArchiveEntry { event, redactions: 0, wanted: Some(0) })
}
