//! What a draining process tells the one that measures it, as lines of its standard output: `begin` with the first event, `end` with the
//! last one, and in a run for latency what it saw.

use std::{
    io::Write as _,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

use crate::events;

static SEEN: AtomicU64 = AtomicU64::new(0);
static EXPECTED: OnceLock<Expected> = OnceLock::new();
static LATENCIES: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static DONE: Notify = Notify::const_new();

struct Expected {
    events: u64,
    latency: bool,
}

/// Nanoseconds since 1970: two processes compare them.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Before the first event.
pub fn expect(events: u64, latency: bool) {
    let _ = EXPECTED.set(Expected { events, latency });
}

/// An event is handled.
pub fn handled(body: &[u8]) {
    let Some(expected) = EXPECTED.get() else { return };
    if expected.latency
        && let Some(sent) = events::sent_in(body)
    {
        LATENCIES.lock().unwrap_or_else(PoisonError::into_inner).push(wall_clock().saturating_sub(sent) / 1_000);
    }
    let before = SEEN.fetch_add(1, Ordering::Relaxed);
    if before == 0 {
        say("begin");
    }
    if before + 1 == expected.events {
        if expected.latency {
            let mut all = LATENCIES.lock().unwrap_or_else(PoisonError::into_inner);
            all.sort_unstable();
            let at = |share: usize| all.get(all.len().saturating_sub(1) * share / 1_000).copied().unwrap_or(0);
            say(&format!("latency {} {}", at(500), at(990)));
        }
        say("end");
        DONE.notify_one();
    }
}

/// All are handled.
pub async fn done() {
    DONE.notified().await;
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
