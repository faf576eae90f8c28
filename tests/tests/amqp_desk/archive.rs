//! The stream of all events, followed into a store.

use std::sync::Arc;

use router_amqp::{AmqpOptions, AmqpTransport, ArchiveOptions};
use router_api::{
    ArchivedEvent, Archivist, BuildContext, BuildError, DeliveryState, EventQuery, Fate, FateRecord, Handler, Plugin, Registration, Registry, SeenEvent, Store,
    StoreError, Subscription, Transport,
};
use router_core::config::{Config, HttpConfig, Limits, LogConfig, LogFormat, RedactConfig, Retention, SessionsConfig, StoreConfig, TransportConfig};
use router_embedded::{Embedded, EmbeddedOptions};
use router_testkit::{MemoryState, MemoryStore, SeededChance};
use router_tests::{AmqpClient, Broker, Vhost};
use serde_json::json;

use crate::house::*;

pub(crate) const STREAM: &str = "services.router.sys.archive";

/// Hands everything to a store without changing it, and fails as often as it is told to.
struct Plain {
    store: Arc<dyn Store>,
    failures: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl Archivist for Plain {
    async fn position(&self) -> Result<Option<u64>, StoreError> {
        self.store.archive_position().await
    }

    async fn keep(&self, events: Vec<SeenEvent>) -> Result<(), StoreError> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(StoreError { message: "the disk is full, says the test".to_owned(), full: true });
        }
        self.store.archive(events.into_iter().map(|event| router_api::ArchiveEntry { event, redactions: 0, wanted: None }).collect()).await
    }
}

pub(crate) fn archive() -> Option<ArchiveOptions> {
    AmqpOptions::new("amqp://x").archive
}

/// A router that follows the archive into `store`.
async fn follower(vhost: &Vhost, store: Arc<dyn Store>, failures: u32) -> Arc<AmqpTransport> {
    follower_at(&vhost.url(), store, failures, &[subscription("a", &["k.#"])]).await
}

/// … over this URL, with these routes.
pub(crate) async fn follower_at(url: &str, store: Arc<dyn Store>, failures: u32, routes: &[Subscription]) -> Arc<AmqpTransport> {
    follower_with(AmqpOptions { archive: archive(), ..AmqpOptions::new(url) }, store, failures, routes).await
}

pub(crate) async fn follower_with(options: AmqpOptions, store: Arc<dyn Store>, failures: u32, routes: &[Subscription]) -> Arc<AmqpTransport> {
    let archivist = Arc::new(Plain { store: Arc::clone(&store), failures: failures.into() });
    let transport = AmqpTransport::start(options, store, Some(archivist), Arc::new(RealClock), Arc::new(SeededChance::new(7)));
    within("reaching the broker", transport.reached(PATIENCE)).await.expect("the broker is there");
    within("binding", transport.bind(routes)).await.expect("the broker takes it");
    transport
}

/// The stream takes what is published from now on.
pub(crate) async fn collecting(vhost: &Vhost) {
    until("the stream is bound", || vhost.bindings().iter().any(|binding| binding.destination == STREAM && binding.key == "#")).await;
}

pub(crate) async fn kept(store: &dyn Store) -> Vec<ArchivedEvent> {
    let mut events = store.events(&EventQuery { last: Some(10_000), ..EventQuery::default() }).await.unwrap();
    events.reverse();
    events
}

/// Waits until as many events are kept, and returns their ids, oldest first.
async fn ids_kept(store: &dyn Store, count: usize) -> Vec<String> {
    within("the archive has caught up", async {
        loop {
            let events = kept(store).await;
            if events.len() >= count {
                return events.iter().map(|event| id_of(&event.body)).collect();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

pub(crate) fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(&MemoryState::new()))
}

async fn publish_ids(transport: &AmqpTransport, ids: std::ops::Range<u32>) {
    for id in ids {
        publish(transport, "k.one", &json!({ "event_id": format!("e{id}"), "event_type": "test", "payload": {} }).to_string()).await;
    }
}

fn ids(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|id| format!("e{id}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_router_keeps_everything_that_is_published_whether_a_route_wants_it_or_not() {
    let vhost = Broker::shared().vhost();
    let (one, two) = (memory(), memory());
    let transport = follower(&vhost, Arc::clone(&one) as _, 0).await;
    collecting(&vhost).await;
    publish_ids(&transport, 0..5).await;
    publish(&transport, "nobody.wants", &json!({ "event_id": "e5" }).to_string()).await;
    // From outside, by somebody who sets nothing.
    let client = AmqpClient::connect(&vhost.url()).await;
    client.publish(EXCHANGE, "k", json!({ "event_id": "e6" }).to_string().as_bytes()).await;
    let _late = follower(&vhost, Arc::clone(&two) as _, 0).await;
    assert_eq!(ids_kept(&*one, 7).await, ids(0..7));
    assert_eq!(ids_kept(&*two, 7).await, ids(0..7), "from the beginning of the stream");
    let last = kept(&*one).await.pop().unwrap();
    assert_eq!(last.key.as_str(), "k");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fate_finds_its_event_by_the_identity_that_the_delivery_had() {
    let vhost = Broker::shared().vhost();
    let store = memory();
    let transport = follower(&vhost, Arc::clone(&store) as _, 0).await;
    collecting(&vhost).await;
    publish_ids(&transport, 0..1).await;
    let client = AmqpClient::connect(&vhost.url()).await;
    client.publish(EXCHANGE, "k", json!({ "event_id": "e1" }).to_string().as_bytes()).await;
    let consumer = within("taking up", transport.consume(&route("a"), 10)).await.unwrap();
    for _ in 0..2 {
        let delivery = take(&consumer).await;
        let state = DeliveryState::Finished(Fate::Handled { burst: None, note: Some(id_of(&delivery.body)) });
        let record = router_api::DeliveryRecord { route: route("a"), state, attempts: 0, at: jiff::Timestamp::now() };
        store.record_fates(vec![FateRecord { identity: delivery.identity.clone(), record }]).await.unwrap();
        done(&consumer, delivery).await;
    }
    ids_kept(&*store, 2).await;
    for event in kept(&*store).await {
        let note = Some(id_of(&event.body));
        assert!(matches!(&event.deliveries[0].state, DeliveryState::Finished(Fate::Handled { note: told, .. }) if *told == note), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_delays_the_archive_and_skips_nothing() {
    let vhost = Broker::shared().vhost();
    let store = memory();
    let transport = follower(&vhost, Arc::clone(&store) as _, 2).await;
    collecting(&vhost).await;
    publish_ids(&transport, 0..20).await;
    assert_eq!(ids_kept(&*store, 20).await, ids(0..20));
    until("it is well again", || transport.admin().condition().troubles.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_made_anew_is_kept_from_its_beginning() {
    let vhost = Broker::shared().vhost();
    let store = memory();
    let transport = follower(&vhost, Arc::clone(&store) as _, 0).await;
    collecting(&vhost).await;
    publish_ids(&transport, 0..10).await;
    ids_kept(&*store, 10).await;
    let client = AmqpClient::connect(&vhost.url()).await;
    client.delete_queue(STREAM).await;
    until("it is made anew", || vhost.queue(STREAM).is_some()).await;
    collecting(&vhost).await;
    publish_ids(&transport, 10..13).await;
    assert_eq!(ids_kept(&*store, 13).await, ids(0..13));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_be_made_is_off_and_says_so_while_routes_work() {
    let house = House::open().await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    // Somebody's queue, and no stream.
    client.declare_queue(STREAM, &json!({ "x-queue-type": "quorum" })).await;
    let store = memory();
    let transport = follower(&house.vhost, Arc::clone(&store) as _, 0).await;
    publish_ids(&transport, 0..1).await;
    until("it says so", || transport.admin().condition().troubles.iter().any(|trouble| trouble.contains("archive"))).await;
    assert!(transport.admin().condition().reachable);
    let consumer = within("taking up", transport.consume(&route("a"), 1)).await.unwrap();
    let delivery = take(&consumer).await;
    assert_eq!(id_of(&delivery.body), "e0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_streams_has_no_archive_and_says_so_while_everything_else_works() {
    if Broker::shared().major() >= 4 {
        // Every node has streams there.
        return;
    }
    let broker = Broker::options().without_streams().start();
    let vhost = broker.vhost();
    let store = memory();
    let transport = follower(&vhost, Arc::clone(&store) as _, 0).await;
    assert!(vhost.queue(STREAM).is_none(), "there are no streams");
    until("it says so", || transport.admin().condition().troubles.iter().any(|trouble| trouble.starts_with("the archive is off"))).await;
    until("events are taken in", || transport.condition().accepts).await;
    let consumer = within("taking up", transport.consume(&route("a"), 1)).await.unwrap();
    publish_ids(&transport, 0..3).await;
    for id in ids(0..3) {
        let delivery = take(&consumer).await;
        assert_eq!(id_of(&delivery.body), id);
        done(&consumer, delivery).await;
    }
    transport.close().await;
}

/// The whole way: redacted by the core's rules, kept in the real store, over restarts of the broker and of the router.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_restarts_of_the_broker_and_of_the_router_nothing_is_missing_doubled_or_unredacted() {
    let broker = Broker::start();
    let vhost = broker.vhost();
    let directory = tempfile::tempdir().unwrap();
    let open = || Embedded::open(EmbeddedOptions::new(directory.path().join("router.db")), Arc::new(RealClock)).unwrap();
    let publish = async |transport: &AmqpTransport, ids: std::ops::Range<u32>| {
        for id in ids {
            let body = json!({ "event_id": format!("e{id}"), "event_type": "test", "payload": { "password": "hunter2-and-more" } });
            publish(transport, "k.one", &body.to_string()).await;
        }
    };

    let store = open();
    let router = Redacting::start(&vhost, Arc::clone(&store)).await;
    collecting(&vhost).await;
    publish(&router.transport, 0..30).await;
    ids_kept(&*store, 20).await;
    broker.kill();
    broker.begin();
    publish(&router.transport, 30..60).await;
    ids_kept(&*store, 40).await;
    router.transport.close().await;
    store.close().await;
    drop(router);

    let store = open();
    let outside = AmqpClient::connect(&vhost.url()).await;
    for id in 60..80 {
        let body = json!({ "event_id": format!("e{id}"), "event_type": "test", "payload": { "password": "hunter2-and-more" } });
        outside.publish(EXCHANGE, "k.one", body.to_string().as_bytes()).await;
    }
    let router = Redacting::start(&vhost, Arc::clone(&store)).await;
    broker.stop();
    broker.begin();
    publish(&router.transport, 80..100).await;
    let kept_ids = ids_kept(&*store, 100).await;
    // A confirm that was lost with the broker may have been for an event that is safe, and it was published again under its id.
    let mut once = kept_ids.clone();
    once.dedup();
    assert_eq!(once, ids(0..100));
    let offsets = directory_offsets(directory.path());
    assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "every place of the stream once: {offsets:?}");
    for event in kept(&*store).await {
        let body = String::from_utf8(event.body.to_vec()).unwrap();
        assert!(body.contains("[redacted:key:") && !body.contains("hunter2") && event.redactions == 1, "{body}");
    }
}

/// A registry must not be empty.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Idle {}

#[async_trait::async_trait]
impl Plugin for Idle {
    const NAME: &'static str = "idle";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Err(BuildError::at("", "it is never built"))
    }
}

/// A configuration that redacts what is shaped like a secret, and routes nothing.
fn no_routes() -> Config {
    Config {
        hash: "c".to_owned(),
        text: String::new(),
        transport: TransportConfig::Embedded,
        store: StoreConfig { path: "router.db".into(), sync: true, retention: Retention { age: PATIENCE, bytes_max: 1 << 30 }, ledger_bytes_max: 64 << 20 },
        http: HttpConfig { listen: None, tokens: Vec::new(), admin_tokens: Vec::new(), allowed_hosts: Vec::new() },
        limits: Limits { decode: router_api::DecodeLimits::default() },
        redact: RedactConfig { paths: Vec::new(), patterns: Vec::new(), builtin: true },
        sessions: SessionsConfig::default(),
        log: LogConfig { level: "info".to_owned(), format: LogFormat::Text },
        routes: Vec::new(),
    }
}

/// Places in the stream, as the store has them.
fn directory_offsets(directory: &std::path::Path) -> Vec<i64> {
    let conn = rusqlite::Connection::open(directory.join("router.db")).unwrap();
    let mut statement = conn.prepare("SELECT place FROM seen ORDER BY seq").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A router whose archive is redacted by the rules of its configuration.
struct Redacting {
    transport: Arc<AmqpTransport>,
    _router: router_core::Router,
}

impl Redacting {
    async fn start(vhost: &Vhost, store: Arc<Embedded>) -> Self {
        let clock: Arc<dyn router_api::Clock> = Arc::new(RealClock);
        let archiving = router_core::Archiving::new(Arc::clone(&store) as _, Arc::clone(&clock));
        let options = AmqpOptions { archive: archive(), ..AmqpOptions::new(vhost.url()) };
        let transport =
            AmqpTransport::start(options, Arc::clone(&store) as _, Some(Arc::clone(&archiving) as _), Arc::clone(&clock), Arc::new(SeededChance::new(7)));
        within("reaching the broker", transport.reached(PATIENCE)).await.expect("the broker is there");
        let registry = Registry::of([Registration::of::<Idle>()]).unwrap();
        let effects = Arc::new(router_testkit::FakeEffects::new());
        let router = router_core::Router::builder(registry, Arc::clone(&transport) as _, store, effects, clock, Arc::new(SeededChance::new(8)))
            .archiving(archiving)
            .build();
        within("applying", router.apply(no_routes())).await.expect("it is valid");
        Self { transport, _router: router }
    }
}
