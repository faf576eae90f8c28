//! Drains a queue with RustStream: a typed handler that does nothing, 64 workers.

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use ruststream_lapin::prelude::*;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Envelope {
    sent_ns: u64,
    event_id: String,
    event_type: String,
    timestamp: String,
    version: String,
    source: Value,
    correlation_ids: Vec<String>,
    payload: Value,
}

static SEEN: AtomicU64 = AtomicU64::new(0);
static EXPECTED: AtomicU64 = AtomicU64::new(0);
static LATENCIES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

#[subscriber(RabbitQueue::new("services.router.drain").durable(true).prefetch(nonzero!(500)), workers(64))]
async fn handle(event: &Envelope) -> HandlerOutcome {
    let latency = EXPECTED.load(Ordering::Relaxed) & 1 << 63 != 0;
    if latency {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        LATENCIES.lock().unwrap().push(now.saturating_sub(event.sent_ns) / 1_000);
    }
    let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    if seen == 1 {
        println!("begin");
    }
    if seen == EXPECTED.load(Ordering::Relaxed) & !(1 << 63) {
        if latency {
            let mut all = LATENCIES.lock().unwrap();
            all.sort_unstable();
            println!("latency {} {}", all[(all.len() - 1) * 500 / 1_000], all[(all.len() - 1) * 990 / 1_000]);
        }
        println!("end");
    }
    HandlerOutcome::ack()
}

#[ruststream::app]
fn app() -> impl App {
    let told = |name: &str| env::var(name).unwrap_or_default();
    let latency = u64::from(told("BENCH_MODE") == "latency") << 63;
    EXPECTED.store(told("BENCH_EVENTS").parse::<u64>().unwrap_or(0) | latency, Ordering::Relaxed);
    let broker = LapinBroker::new(told("BENCH_URL"));
    RustStream::new(AppInfo::new("drain", "0.1.0")).with_broker(broker, |b| {
        b.include(handle);
    })
}
