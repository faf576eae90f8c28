//! What these tests have in common.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use router_amqp::{AmqpOptions, AmqpTransport};
use router_api::{BoxFuture, Clock, Publication, Published, RoutingKey, Transport, TransportError};
use router_testkit::{MemoryState, MemoryStore, SeededChance};
use router_tests::AmqpClient;
use serde_json::json;

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const EXCHANGE: &str = "bloodbank.events.v1";

/// The clock of this machine: a broker has no other.
struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

pub(crate) fn options(url: &str) -> AmqpOptions {
    AmqpOptions { archive: None, ..AmqpOptions::new(url) }
}

pub(crate) fn start(options: AmqpOptions) -> Arc<AmqpTransport> {
    AmqpTransport::start(options, Arc::new(MemoryStore::new(&MemoryState::new())), None, Arc::new(RealClock), Arc::new(SeededChance::new(7)))
}

/// A transport that has reached its broker.
pub(crate) async fn reached(options: AmqpOptions) -> Arc<AmqpTransport> {
    let transport = start(options);
    transport.reached(PATIENCE).await.expect("the broker is there");
    transport
}

/// A client that looks from outside, with a queue that collects `key` from the exchange.
pub(crate) async fn collector(url: &str, queue: &str, key: &str) -> AmqpClient {
    let client = AmqpClient::connect(url).await;
    client.declare_exchange(EXCHANGE, "topic", &json!({})).await;
    client.declare_queue(queue, &json!({"x-queue-type": "quorum"})).await;
    client.bind(queue, EXCHANGE, key).await;
    client
}

pub(crate) fn event(key: &str, body: impl Into<Bytes>) -> Publication {
    Publication::new(RoutingKey::new(key).expect("a key"), body)
}

/// Publishes again as long as the transport says that it may heal, as everybody does who publishes with an id.
pub(crate) async fn publish_until_safe(transport: &AmqpTransport, key: &str, body: &str) -> Published {
    within("publishing in the end", async {
        loop {
            match transport.publish(event(key, body.to_owned())).await {
                Ok(published) => return published,
                Err(TransportError::Unavailable(_) | TransportError::Full(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("publishing: {error}"),
            }
        }
    })
    .await
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, mut look: impl FnMut() -> bool) {
    within(what, async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("still not: {what}"))
}
