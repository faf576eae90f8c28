//! What these tests have in common.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use router_amqp::{AmqpOptions, AmqpTransport};
use router_api::{
    AttemptRecord, BoxFuture, Clock, Consumer, DeadLetter, DeadLetterQuery, DeadLetterReason, Delivery, Envelope, FailureClass, Fate, Matcher, Publication,
    QueueWish, RouteName, RoutingKey, Settlement, Store, StoredDeadLetter, Subscription, Transport, TransportError,
};
use router_testkit::{MemoryState, MemoryStore, SeededChance};
use router_tests::{Broker, Vhost};
use serde_json::json;

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const EXCHANGE: &str = "bloodbank.events.v1";

/// Where what waited comes back from, and where it goes that nobody takes then.
pub(crate) const RETURN: &str = "services.router.sys.return";
pub(crate) const LOST: &str = "services.router.sys.lost";

/// The clock of this machine: a broker has no other.
pub(crate) struct RealClock;

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

/// A virtual host with a transport on it, and what the transport remembers.
pub(crate) struct House {
    pub(crate) vhost: Vhost,
    pub(crate) state: MemoryState,
    pub(crate) transport: Arc<AmqpTransport>,
}

pub(crate) fn route(name: &str) -> RouteName {
    name.parse().expect("a route name")
}

/// Wants all.
struct All;

impl Matcher for All {
    fn matches(&self, _: &Envelope) -> bool {
        true
    }

    fn lane(&self, _: &Envelope) -> Option<String> {
        None
    }
}

pub(crate) fn subscription(name: &str, patterns: &[&str]) -> Subscription {
    adopting(name, patterns, None)
}

/// … with a queue that may be there already.
pub(crate) fn adopting(name: &str, patterns: &[&str], queue: Option<&str>) -> Subscription {
    Subscription {
        route: route(name),
        patterns: patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect(),
        matcher: Arc::new(All),
        queue: QueueWish { name: queue.map(str::to_owned), ..QueueWish::default() },
    }
}

/// A transport at `url` that remembers in `store`.
pub(crate) async fn reached(options: AmqpOptions, store: Arc<dyn Store>) -> Arc<AmqpTransport> {
    let transport = AmqpTransport::start(options, store, None, Arc::new(RealClock), Arc::new(SeededChance::new(7)));
    transport.reached(PATIENCE).await.expect("the broker is there");
    transport
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut AmqpOptions)) -> Self {
        Self::on(Broker::shared().vhost(), change).await
    }

    pub(crate) async fn on(vhost: Vhost, change: impl FnOnce(&mut AmqpOptions)) -> Self {
        let state = MemoryState::new();
        let mut options = AmqpOptions { archive: None, ..AmqpOptions::new(vhost.url()) };
        change(&mut options);
        let transport = reached(options, Arc::new(MemoryStore::new(&state))).await;
        Self { vhost, state, transport }
    }

    /// Another router on the same virtual host, with a store of its own.
    pub(crate) async fn neighbour(&self) -> Arc<AmqpTransport> {
        self.neighbour_at(self.vhost.url()).await
    }

    /// The same, by another way.
    pub(crate) async fn neighbour_at(&self, url: String) -> Arc<AmqpTransport> {
        let options = AmqpOptions { archive: None, ..AmqpOptions::new(url) };
        reached(options, Arc::new(MemoryStore::new(&MemoryState::new()))).await
    }

    pub(crate) async fn bind(&self, subscriptions: &[Subscription]) {
        within("binding", self.transport.bind(subscriptions)).await.expect("the broker takes it");
    }

    /// Publishes `{"event_id": id, …}`.
    pub(crate) async fn publish(&self, key: &str, id: &str) {
        let body = json!({ "event_id": id, "event_type": "test", "payload": { "n": id } }).to_string();
        publish(&self.transport, key, &body).await;
    }

    pub(crate) async fn consume(&self, name: &str) -> Arc<dyn Consumer> {
        within("taking up a queue", self.transport.consume(&route(name), 100)).await.expect("the queue is there")
    }

    /// Publishes events and gives them up, in this order.
    pub(crate) async fn bury(&self, name: &str, key: &str, ids: &[&str]) {
        for id in ids {
            self.publish(key, id).await;
        }
        let consumer = self.consume(name).await;
        for id in ids {
            let delivery = take(&consumer).await;
            assert_eq!(&id_of(&delivery.body), id);
            let settled = within("burying", consumer.settle(vec![delivery], Settlement::Bury(Box::new(letter(name, DeadLetterReason::Exhausted))))).await;
            settled.expect("the broker takes it");
        }
        consumer.close().await;
    }

    pub(crate) async fn letters(&self, name: &str) -> Vec<StoredDeadLetter> {
        letters(&self.transport, name).await
    }

    /// Events that wait in a queue of the broker, by what the broker says.
    pub(crate) fn depth(&self, queue: &str) -> u64 {
        self.vhost.queue(queue).map_or(0, |queue| queue.ready)
    }

    /// Everything that there is on the broker, apart from counts.
    pub(crate) fn shape(&self) -> String {
        let queues: Vec<String> = self.vhost.queues().iter().map(|queue| format!("{} {:?}", queue.name, queue.arguments)).collect();
        format!("{queues:#?} {:#?} {:#?}", self.vhost.bindings(), self.vhost.exchanges())
    }

    /// The keys with which `queue` is bound to the exchange.
    pub(crate) fn keys(&self, queue: &str) -> Vec<String> {
        self.vhost.bindings().into_iter().filter(|binding| binding.source == EXCHANGE && binding.destination == queue).map(|binding| binding.key).collect()
    }
}

/// Publishes again as long as the transport says that it may heal, as everybody does who publishes with an id.
pub(crate) async fn publish(transport: &AmqpTransport, key: &str, body: &str) {
    within("publishing in the end", async {
        loop {
            match transport.publish(Publication::new(RoutingKey::new(key).expect("a key"), body.to_owned())).await {
                Ok(_) => return,
                Err(TransportError::Unavailable(_) | TransportError::Full(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("publishing: {error}"),
            }
        }
    })
    .await;
}

pub(crate) async fn letters(transport: &AmqpTransport, name: &str) -> Vec<StoredDeadLetter> {
    let query = DeadLetterQuery { route: Some(route(name)), ..DeadLetterQuery::default() };
    within("listing dead letters", transport.admin().dead_letters(&query)).await.expect("the broker answers")
}

pub(crate) async fn take(consumer: &Arc<dyn Consumer>) -> Delivery {
    within("a delivery", consumer.next()).await.expect("the consumer lives").expect("the broker hands it out")
}

pub(crate) async fn done(consumer: &Arc<dyn Consumer>, delivery: Delivery) {
    let settlement = Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }], inbox: Vec::new() };
    within("settling", consumer.settle(vec![delivery], settlement)).await.expect("the session lives");
}

/// The event's own id.
pub(crate) fn id_of(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).expect("the body is JSON");
    body["event_id"].as_str().expect("the body has an id").to_owned()
}

pub(crate) fn ids_of(letters: &[StoredDeadLetter]) -> Vec<String> {
    letters.iter().map(|letter| id_of(&letter.body)).collect()
}

pub(crate) fn letter(name: &str, reason: DeadLetterReason) -> DeadLetter {
    let attempt = |number| AttemptRecord { number, at: Timestamp::now(), class: FailureClass::Timeout, error: format!("attempt {number} took too long") };
    DeadLetter {
        route: route(name),
        plugin: "test".to_owned(),
        reason,
        error: "no use".to_owned(),
        detail: Some("it said: no".to_owned()),
        attempts: 2,
        history: vec![attempt(1), attempt(2)],
        buried_at: Timestamp::now(),
        config_hash: "c0ffee".to_owned(),
        burst: None,
        traceparent: None,
    }
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, mut look: impl FnMut() -> bool) {
    within(what, async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("still not: {what}"))
}
