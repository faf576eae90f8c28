//! A publisher from outside: numbers, sessions, confirms, and everything again that was not confirmed.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lapin::{Confirmation, options::BasicPublishOptions, tcp::OwnedTLSConfig};
use router_tests::{AmqpClient, amqp_client::persistent};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::world::{EXCHANGE, wait};

/// Sessions, unless a test says otherwise.
pub const LANES: u64 = 12;

/// Publishes that may wait for their confirm at once.
const WINDOW: usize = 128;

/// For an answer of a broker that may be gone.
const LIMIT: Duration = Duration::from_secs(10);

/// What an event carries: its number, its session, its place in the session, and what the handler is to answer.
pub fn body(id: u64, lane: u64, seq: u64, verdict: &str) -> Vec<u8> {
    json!({
        "event_id": format!("00000000-0000-4000-8000-{id:012}"),
        "event_type": "kept.event",
        "payload": { "session_id": format!("s{lane}"), "mark": format!("{id} {lane} {seq} {verdict}") },
    })
    .to_string()
    .into_bytes()
}

/// The number of an event, from its body.
pub fn id_in(body: &[u8]) -> u64 {
    let event: serde_json::Value = serde_json::from_slice(body).expect("a body of ours is JSON");
    let mark = event["payload"]["mark"].as_str().expect("a body of ours has a mark");
    mark.split(' ').next().and_then(|id| id.parse().ok()).expect("a mark begins with a number")
}

/// Event `id` of a load that goes round its sessions.
fn nth(id: u64) -> Vec<u8> {
    body(id, id % LANES, id / LANES, "done")
}

/// Publishes `count` events at once and waits until the broker has them all. Their numbers.
pub fn publish(url: &str, key: &str, count: u64) -> BTreeSet<u64> {
    publish_more(url, key, 0..count)
}

/// Publishes the events of these numbers at once and waits until the broker has them all.
pub fn publish_more(url: &str, key: &str, ids: Range<u64>) -> BTreeSet<u64> {
    wait(async {
        let client = AmqpClient::connect(url).await;
        let routed = client.publish_all(EXCHANGE, ids.clone().map(|id| (key.to_owned(), nth(id), persistent()))).await;
        assert_eq!(routed, ids.clone().count(), "a queue wants every event");
        client.close().await;
    });
    ids.collect()
}

#[derive(Default)]
struct Shared {
    confirmed: Mutex<BTreeSet<u64>>,
    count: AtomicU64,
    stop: AtomicBool,
    sent_again: AtomicU64,
}

/// Publishes with ascending numbers until it is told to end, and through every failure: what is not confirmed is sent again under the
/// same id and before anything later, so that the first of each come in order.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// So many events a second, if the broker takes them.
    pub fn start(url: &str, key: &str, per_s: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let (url, key, of_thread) = (url.to_owned(), key.to_owned(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || wait(run(&url, &key, per_s, &of_thread)));
        Self { shared, thread }
    }

    /// How many were confirmed until now.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Publishes nothing new, and waits until all that was published is confirmed. The numbers of all.
    pub fn end(self) -> BTreeSet<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the publisher does not fail");
        let confirmed = std::mem::take(&mut *self.shared.confirmed.lock().unwrap_or_else(PoisonError::into_inner));
        say!("published {}, {} of them more than once", confirmed.len(), self.shared.sent_again.load(Ordering::Relaxed));
        confirmed
    }
}

async fn run(url: &str, key: &str, per_s: u32, shared: &Shared) {
    let mut again: VecDeque<u64> = VecDeque::new();
    let mut next = 0_u64;
    let begun = Instant::now();
    loop {
        let stopped = || shared.stop.load(Ordering::Relaxed);
        if stopped() && again.is_empty() {
            return;
        }
        let Ok(Ok(client)) = timeout(LIMIT, AmqpClient::try_connect(url, OwnedTLSConfig::default())).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut flight = VecDeque::with_capacity(WINDOW);
        let mut lost = None;
        loop {
            let is_due = || (begun.elapsed().as_secs_f64() * f64::from(per_s)) as u64 > next;
            let id = if flight.len() == WINDOW {
                None
            } else if let Some(id) = again.pop_front() {
                Some(id)
            } else if !stopped() && is_due() {
                next += 1;
                Some(next - 1)
            } else {
                None
            };
            if let Some(id) = id {
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let body = nth(id);
                match timeout(LIMIT, client.channel().basic_publish(EXCHANGE.into(), key.into(), options, &body, persistent())).await {
                    Ok(Ok(confirm)) => flight.push_back((id, confirm)),
                    _ => {
                        again.push_front(id);
                        break;
                    }
                }
                continue;
            }
            let Some((id, confirm)) = flight.pop_front() else {
                if stopped() {
                    break;
                }
                sleep(Duration::from_millis(2)).await;
                continue;
            };
            match timeout(LIMIT, confirm).await {
                Ok(Ok(Confirmation::Ack(None))) => {
                    shared.confirmed.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                    shared.count.fetch_add(1, Ordering::Relaxed);
                }
                // Lost, refused, or wanted by no queue: with all that follow it, so that they stay in order.
                _ => {
                    lost = Some(id);
                    break;
                }
            }
        }
        for id in flight.into_iter().map(|(id, _)| id).rev().chain(lost) {
            shared.sent_again.fetch_add(1, Ordering::Relaxed);
            again.push_front(id);
        }
        drop(client);
    }
}
