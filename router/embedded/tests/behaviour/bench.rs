//! What the tests are written with: a store in a directory of its own, and short calls.

use std::{path::Path, sync::Arc, time::Duration};

use router_api::{
    AttemptRecord, Consumer, DeadLetter, DeadLetterReason, Delivery, Destination, Envelope, FailureClass, Fate, Matcher, Publication, Published, RouteName,
    RoutingKey, Settlement, Subscription, Transport,
};
use router_embedded::{Embedded, EmbeddedOptions};
use serde_json::json;
use tempfile::TempDir;

use crate::clock::ManualClock;

/// What must come is waited for this long, in real time.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Bench {
    pub directory: TempDir,
    pub clock: ManualClock,
    pub store: Arc<Embedded>,
}

/// Takes the lane from the field `lane`; wants what has no `unwanted`.
struct ByFields;

impl Matcher for ByFields {
    fn matches(&self, event: &Envelope) -> bool {
        event.body().get("unwanted").is_none()
    }

    fn lane(&self, event: &Envelope) -> Option<String> {
        event.body().get("lane")?.as_str().map(str::to_owned)
    }
}

pub fn route(name: &str) -> RouteName {
    name.parse().unwrap()
}

pub fn key(text: &str) -> RoutingKey {
    text.parse().unwrap()
}

pub fn subscription(name: &str, patterns: &[&str]) -> Subscription {
    Subscription {
        route: route(name),
        patterns: patterns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        matcher: Arc::new(ByFields),
        queue: router_api::QueueWish::default(),
    }
}

pub fn options(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions { sync: false, reserve_bytes: 0, ..EmbeddedOptions::new(directory.join("router.db")) }
}

pub fn failure(number: u32) -> AttemptRecord {
    AttemptRecord { number, at: "2026-01-02T03:04:05Z".parse().unwrap(), class: FailureClass::Error, error: format!("failed {number}") }
}

pub fn letter(name: &str, reason: DeadLetterReason) -> DeadLetter {
    DeadLetter {
        route: route(name),
        plugin: "test".to_owned(),
        reason,
        error: "no use".to_owned(),
        detail: None,
        attempts: 1,
        history: vec![failure(1)],
        buried_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        config_hash: "c".to_owned(),
        burst: None,
        traceparent: None,
    }
}

pub fn handled(count: usize) -> Settlement {
    Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }; count], inbox: Vec::new() }
}

/// The files of a store as a process that dies now would leave them. The store must be at rest.
pub fn crash_image(directory: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // The shared memory is a cache of the log, and of no use to another process without the locks on it.
        if path.extension().is_none_or(|extension| extension != "db-shm") {
            std::fs::copy(&path, image.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    image
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut EmbeddedOptions)) -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::default());
        let mut options = options(directory.path());
        change(&mut options);
        let store = Embedded::open(options, Arc::new(clock.clone())).unwrap();
        Self { directory, clock, store }
    }

    /// Closes the store and opens it again.
    pub async fn restart(self) -> Self {
        self.store.close().await;
        let store = Embedded::open(options(self.directory.path()), Arc::new(self.clock.clone())).unwrap();
        Self { store, ..self }
    }

    /// Opens what a process that dies now would leave.
    pub async fn kill(self) -> Self {
        let directory = crash_image(self.directory.path());
        self.store.close().await;
        let store = Embedded::open(options(directory.path()), Arc::new(self.clock.clone())).unwrap();
        Self { directory, store, clock: self.clock }
    }

    pub async fn bind(&self, routes: &[(&str, &[&str])]) {
        let subscriptions: Vec<_> = routes.iter().map(|(name, patterns)| subscription(name, patterns)).collect();
        self.store.bind(&subscriptions).await.unwrap();
    }

    pub async fn publish(&self, to: &str, body: serde_json::Value) -> Published {
        self.store.publish(Publication::new(key(to), body.to_string())).await.unwrap()
    }

    /// Publishes `{"n": …}`.
    pub async fn publish_all(&self, to: &str, range: std::ops::Range<u64>) {
        for n in range {
            self.publish(to, json!({ "n": n })).await;
        }
    }

    pub async fn send(&self, to: &str, n: u64, delay: Duration) -> Published {
        let destination = Destination::Route { route: route(to), delay };
        let publication = Publication { to: destination, ..Publication::new(key("direct"), json!({ "n": n }).to_string()) };
        self.store.publish(publication).await.unwrap()
    }

    pub async fn consume(&self, name: &str, prefetch: u32) -> Arc<dyn Consumer> {
        self.store.consume(&route(name), prefetch).await.unwrap()
    }

    pub fn sql(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.directory.path().join("router.db")).unwrap()
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.sql().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes within the patience of the tests")
}

pub async fn take(consumer: &Arc<dyn Consumer>) -> Delivery {
    within(consumer.next()).await.expect("the consumer lives").expect("the store can be read")
}

pub async fn take_many(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(take(consumer).await);
    }
    deliveries
}

/// The field `n` of the body.
pub fn number(delivery: &Delivery) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&delivery.body).unwrap()["n"].as_u64().unwrap()
}

pub fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(number).collect()
}
