//! One measured run: a process drains the queue, and what it and the broker used between its first and its last event is read from the
//! kernel.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{Failed, process};

/// For the first event: a slow peer starts slowly on a loaded machine.
const START: Duration = Duration::from_secs(90);

/// Between two events of a drain that goes on, at least this many a second come.
const SLOWEST: u32 = 100;

/// Between two looks at the memory of a process.
const LOOK: Duration = Duration::from_millis(20);

/// For a process to let go of the broker when it is told to end.
const GOODBYE: Duration = Duration::from_secs(15);

/// What was seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Events a second.
    pub rate: f64,
    /// Microseconds of processor time for an event.
    pub cpu: f64,
    /// The same of the broker.
    pub broker_cpu: f64,
    /// MiB.
    pub rss: f64,
    /// Microseconds from sending to handling; only in a run for latency.
    pub p50: f64,
    pub p99: f64,
}

/// A process that has not begun yet.
pub struct Draining {
    child: Child,
    lines: mpsc::Receiver<String>,
    events: u32,
    /// The most memory that was seen, in MiB: a process that has ended does not tell any more.
    peak: Option<f64>,
}

impl Draining {
    /// Starts the process.
    pub fn start(mut command: Command, url: &str, kind: &str, events: u32, latency: bool) -> Result<Self, Failed> {
        let mode = if latency { "latency" } else { "drain" };
        command.env("BENCH_URL", url).env("BENCH_KIND", kind).env("BENCH_EVENTS", events.to_string()).env("BENCH_MODE", mode);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let out = child.stdout.take().ok_or("the process has no output")?;
        let (sender, lines) = mpsc::sync_channel(16);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, events, peak: None })
    }

    /// Waits until everything is drained.
    pub fn finish(mut self, broker: u32) -> Result<Measured, Failed> {
        let result = self.measure(broker);
        self.end();
        result
    }

    fn measure(&mut self, broker: u32) -> Result<Measured, Failed> {
        let pid = self.child.id();
        self.wait_for("begin", START)?;
        let (begun, cpu, broker_cpu) = (Instant::now(), process::cpu_seconds(pid), process::cpu_seconds(broker));
        let said = self.wait_for("end", START + Duration::from_secs(u64::from(self.events / SLOWEST)))?;
        let seconds = begun.elapsed().as_secs_f64();
        // The first event was handled before the clock was started.
        let events = f64::from(self.events - 1);
        let used = |before: Option<f64>, pid| before.zip(process::cpu_seconds(pid)).map_or(f64::NAN, |(before, now)| (now - before) * 1e6 / events);
        let mut measured = Measured {
            rate: events / seconds,
            cpu: used(cpu, pid),
            broker_cpu: used(broker_cpu, broker),
            rss: self.peak.unwrap_or(f64::NAN),
            ..Measured::default()
        };
        if let Some(figures) = said.iter().find_map(|line| line.strip_prefix("latency ")) {
            let mut figures = figures.split(' ').map(|figure| figure.parse().unwrap_or(f64::NAN));
            measured.p50 = figures.next().unwrap_or(f64::NAN);
            measured.p99 = figures.next().unwrap_or(f64::NAN);
        }
        Ok(measured)
    }

    /// What it said before, too. What a framework logs is passed over.
    fn wait_for(&mut self, mark: &str, patience: Duration) -> Result<Vec<String>, Failed> {
        let until = Instant::now() + patience;
        let mut said = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let received = self.lines.recv_timeout(left.min(LOOK));
            // The kernel keeps the most itself, so what counts is the last answer.
            self.peak = process::peak_rss_mib(self.child.id()).or(self.peak);
            match received {
                Ok(line) if line == mark => return Ok(said),
                Ok(line) => said.push(line),
                Err(mpsc::RecvTimeoutError::Timeout) if left > LOOK => {}
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(format!("no `{mark}` within {} s", patience.as_secs()).into()),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(format!("the process ended before it said `{mark}`").into()),
            }
        }
    }

    /// Some end by themselves, others when they are told; one that does neither is killed.
    fn end(&mut self) {
        let patience = Instant::now() + GOODBYE;
        let told_at = Instant::now() + Duration::from_secs(1);
        let mut told = false;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > patience {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            if !told && Instant::now() > told_at {
                told = true;
                if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
