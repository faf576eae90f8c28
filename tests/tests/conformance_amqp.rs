//! The transport over RabbitMQ against the suite that every transport must pass, on a real broker, with queues of both types.
//!
//! What AMQP cannot do is skipped by name, so that nothing else ever is.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use router_amqp::{AmqpOptions, AmqpTransport};
use router_api::{BoxFuture, Clock, Features, QueueKind, RouteName, Store, Transport};
use router_testkit::{
    MemoryState, MemoryStore, SeededChance,
    conformance::{self, Abilities, Factory, Stop, Subject},
};
use router_tests::{AmqpClient, Broker, FaultProxy, Vhost};

/// Longer than a connection takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);

const AMQP: Features = Features {
    persistent: true,
    filters_at_intake: false,
    inbox_in_settlement: false,
    holds_lanes: false,
    archives: false,
    competing_consumers: true,
    exact_times: false,
};

/// The broker matches keys only, and the store beside it keeps inbox and archive.
const AMQP_SKIPS: &[&str] = &[
    "the_filter_is_asked_before_an_event_is_queued",
    "a_held_lane_is_handed_out_only_when_it_is_free",
    "a_done_key_is_in_the_inbox_of_its_route",
    "the_archive_says_what_became_of_an_event",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_amqp_transport_conforms_on_quorum_queues() {
    conformance::run("amqp, quorum", &AmqpFactory(QueueKind::Quorum), AMQP).await.expect(AMQP_SKIPS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_amqp_transport_conforms_on_classic_queues() {
    conformance::run("amqp, classic", &AmqpFactory(QueueKind::Classic), AMQP).await.expect(AMQP_SKIPS);
}

/// Opens transports on virtual hosts of their own.
struct AmqpFactory(QueueKind);

struct AmqpSubject {
    kind: QueueKind,
    vhost: Arc<Vhost>,
    /// What the store beside the broker holds, over restarts.
    state: MemoryState,
    /// The way to the broker, always at the same address: the store knows brokers by it.
    proxy: FaultProxy,
    transport: Arc<AmqpTransport>,
}

impl AmqpSubject {
    async fn open(kind: QueueKind, vhost: &Vhost, proxy: &FaultProxy, state: &MemoryState) -> Arc<AmqpTransport> {
        let options = AmqpOptions { queue_kind: kind, archive: None, ..AmqpOptions::new(vhost.url_through(proxy)) };
        let transport = AmqpTransport::start(options, Arc::new(MemoryStore::new(state)), None, Arc::new(RealClock), Arc::new(SeededChance::new(7)));
        transport.reached(PATIENCE).await.unwrap_or_else(|error| panic!("the broker is not reached: {error}"));
        transport
    }
}

/// A broker has no other.
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

/// Asks the node, which takes a while, without holding up what else runs.
async fn on_node<T: Send + 'static>(vhost: &Arc<Vhost>, ask: impl FnOnce(&Vhost) -> T + Send + 'static) -> T {
    let vhost = Arc::clone(vhost);
    tokio::task::spawn_blocking(move || ask(&vhost)).await.unwrap_or_else(|error| panic!("{error}"))
}

#[async_trait]
impl Factory for AmqpFactory {
    fn abilities(&self) -> Abilities {
        Abilities { restart: true, kill: true, fail_settles: true, lose_session: true }
    }

    async fn open(&self) -> Box<dyn Subject> {
        let vhost = tokio::task::spawn_blocking(|| Arc::new(Broker::shared().vhost())).await.unwrap_or_else(|error| panic!("{error}"));
        let state = MemoryState::new();
        let proxy = vhost.broker().proxy();
        let transport = AmqpSubject::open(self.0, &vhost, &proxy, &state).await;
        Box::new(AmqpSubject { kind: self.0, vhost, state, proxy, transport })
    }
}

#[async_trait]
impl Subject for AmqpSubject {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport) as Arc<dyn Transport>
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(RealClock)
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn delay(&self) -> Duration {
        // One step of the ladder of waits, and long enough to do something else before.
        Duration::from_secs(2)
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn fails_done(&self) -> bool {
        // An acknowledgement is accepted at once, and nobody waits for the broker to see it.
        false
    }

    fn counts_exactly(&self) -> bool {
        false
    }

    async fn restart(&mut self, stop: Stop) {
        if stop == Stop::Kill {
            // From here on it reaches nobody, and nobody it.
            self.proxy.refuse();
        }
        // After a kill so that its tasks end as well.
        self.transport.close().await;
        self.proxy.heal();
        self.transport = AmqpSubject::open(self.kind, &self.vhost, &self.proxy, &self.state).await;
    }

    async fn acknowledged(&self, route: &RouteName, in_hand: u64) {
        let queue = format!("services.router.{route}");
        let what = format!("{in_hand} deliveries of queue `{queue}` are in hand");
        on_node(&self.vhost, move |vhost| {
            router_tests::eventually(&what, || vhost.queue(&queue).filter(|facts| facts.unacked == in_hand));
        })
        .await;
    }

    async fn fail_settles(&self, failing: bool) {
        if failing {
            // The transport makes it again as soon as it misses it, so this fails once.
            let client = AmqpClient::connect(&self.vhost.url()).await;
            client.delete_queue("services.router.one.dead").await;
            client.close().await;
        } else {
            on_node(&self.vhost, |vhost| router_tests::eventually("the queue of dead letters is there again", || vhost.queue("services.router.one.dead")))
                .await;
        }
    }

    async fn lose_session(&self, _: &RouteName) {
        on_node(&self.vhost, |vhost| {
            router_tests::eventually("the transport has two connections", || (vhost.connections().len() >= 2).then_some(()));
            vhost.close_connections("conformance");
        })
        .await;
    }

    async fn end(self: Box<Self>) {
        self.transport.close().await;
        let vhost = self.vhost;
        tokio::task::spawn_blocking(move || drop(vhost)).await.unwrap_or_else(|error| panic!("{error}"));
    }
}
