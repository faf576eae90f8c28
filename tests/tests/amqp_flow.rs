//! How events flow over a real RabbitMQ: what is made on it, how deliveries come into hand and out of it, and what breaks in between.
//! Looked at from outside, by a client of its own.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use router_amqp::{AmqpOptions, AmqpTransport};
use router_api::{
    AttemptRecord, BoxFuture, Clock, Consumer, DeadLetter, DeadLetterReason, Delivery, Envelope, FailureClass, Fate, Matcher, QueueKind, QueueWish, Settlement,
    Subscription, Transport, TransportError,
};
use router_testkit::{MemoryState, MemoryStore, SeededChance};
use router_tests::{AmqpClient, Broker, Vhost, amqp_client::persistent, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);
const EXCHANGE: &str = "bloodbank.events.v1";

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

struct All;

impl Matcher for All {
    fn matches(&self, _: &Envelope) -> bool {
        true
    }

    fn lane(&self, _: &Envelope) -> Option<String> {
        None
    }
}

fn route(name: &str, patterns: &[&str], queue: QueueWish) -> Subscription {
    let patterns = patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect();
    Subscription { route: name.parse().expect("a route name"), patterns, matcher: Arc::new(All), queue }
}

fn plain(name: &str, patterns: &[&str]) -> Subscription {
    route(name, patterns, QueueWish::default())
}

async fn start(vhost: &Vhost, change: impl FnOnce(AmqpOptions) -> AmqpOptions) -> Arc<AmqpTransport> {
    let options = change(AmqpOptions { archive: None, ..AmqpOptions::new(vhost.url()) });
    let store = Arc::new(MemoryStore::new(&MemoryState::new()));
    let transport = AmqpTransport::start(options, store, None, Arc::new(RealClock), Arc::new(SeededChance::new(7)));
    transport.reached(PATIENCE).await.expect("the broker is there");
    transport
}

/// A transport with one route called `one`, which takes everything, and a client that looks from outside.
async fn one_route(vhost: &Vhost, queue: QueueWish) -> (Arc<AmqpTransport>, AmqpClient) {
    let transport = start(vhost, |options| options).await;
    transport.bind(&[route("one", &["#"], queue)]).await.expect("the route can be bound");
    (transport, AmqpClient::connect(&vhost.url()).await)
}

async fn consume(transport: &AmqpTransport, prefetch: u32) -> Arc<dyn Consumer> {
    transport.consume(&"one".parse().expect("a route name"), prefetch).await.expect("the queue can be taken up")
}

async fn publish(client: &AmqpClient, numbers: std::ops::Range<u64>) {
    let events = numbers.map(|n| (format!("key.{n}"), json!({ "n": n }).to_string().into_bytes(), persistent()));
    client.publish_all(EXCHANGE, events).await;
}

async fn take(consumer: &Arc<dyn Consumer>) -> Delivery {
    // In a task of its own, so that the end of our patience does not wake what should have been woken by something else.
    let consumer = Arc::clone(consumer);
    match tokio::time::timeout(PATIENCE, tokio::spawn(async move { consumer.next().await })).await {
        Ok(Ok(Some(Ok(delivery)))) => delivery,
        other => panic!("instead of a delivery there came {other:?}"),
    }
}

async fn take_many(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        deliveries.push(take(consumer).await);
    }
    deliveries
}

fn number(delivery: &Delivery) -> u64 {
    serde_json::from_slice::<Value>(&delivery.body).ok().and_then(|body| body["n"].as_u64()).expect("a number")
}

fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(number).collect()
}

async fn done(consumer: &Arc<dyn Consumer>, deliveries: Vec<Delivery>) {
    let fates = vec![Fate::Handled { burst: None, note: None }; deliveries.len()];
    consumer.settle(deliveries, Settlement::Done { fates, inbox: Vec::new() }).await.expect("the deliveries are in hand");
}

fn failure() -> AttemptRecord {
    AttemptRecord { number: 1, at: Timestamp::UNIX_EPOCH, class: FailureClass::Error, error: "no".to_owned() }
}

fn letter() -> DeadLetter {
    DeadLetter {
        route: "one".parse().expect("a route name"),
        plugin: "exec".to_owned(),
        reason: DeadLetterReason::Rejected,
        error: "no".to_owned(),
        detail: None,
        attempts: 1,
        history: vec![failure()],
        buried_at: Timestamp::now(),
        config_hash: String::new(),
        burst: None,
        traceparent: None,
    }
}

/// Looks at the broker until it is so.
async fn on_broker<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    tokio::task::block_in_place(|| eventually(what, look))
}

fn in_hand_at(vhost: &Vhost, queue: &str, count: u64) -> Option<()> {
    vhost.queue(queue).filter(|facts| facts.unacked == count).map(drop)
}

// ── what is made ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_route_needs_is_made_as_the_house_has_it() {
    let vhost = Broker::shared().vhost();
    let (transport, client) = one_route(&vhost, QueueWish::default()).await;
    let queue = vhost.queue("services.router.one").expect("the route's queue");
    let expected = json!({
        "x-queue-type": "quorum", "x-delivery-limit": 1_000_000, "x-single-active-consumer": true, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "services.router.one.dead", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
    });
    assert_eq!((queue.kind.as_str(), queue.durable, json!(queue.arguments)), ("quorum", true, expected));
    let dead = vhost.queue("services.router.one.dead").expect("its dead queue");
    assert_eq!(json!(dead.arguments), json!({ "x-queue-type": "quorum", "x-delivery-limit": 1_000_000 }));
    let wait = vhost.queue("services.router.sys.wait.1024").expect("the longest wait");
    let expected = json!({
        "x-queue-type": "quorum", "x-message-ttl": 1_024_000, "x-dead-letter-exchange": "services.router.sys.return",
        "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
    });
    assert_eq!(json!(wait.arguments), expected);
    let exchanges = vhost.exchanges();
    let exchange = |name: &str| exchanges.iter().find(|exchange| exchange.name == name).unwrap_or_else(|| panic!("exchange `{name}`"));
    assert_eq!((exchange(EXCHANGE).kind.as_str(), exchange(EXCHANGE).durable, exchange(EXCHANGE).arguments.len()), ("topic", true, 0));
    assert_eq!(exchange("services.router.sys.return").arguments["alternate-exchange"], json!("services.router.sys.lost"));
    // Nothing is made twice, and what others made is held against it.
    let again = start(&vhost, |options| options).await;
    again.bind(&[plain("one", &["#"])]).await.expect("it is all there");
    client.close().await;
    again.close().await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_form_is_refused_with_the_argument_and_a_way_out() {
    let vhost = Broker::shared().vhost();
    let client = AmqpClient::connect(&vhost.url()).await;
    client.declare_queue("services.router.one", &json!({ "x-queue-type": "quorum", "x-delivery-limit": 5 })).await;
    client.publish("", "services.router.one", b"{\"n\":1}").await;
    let transport = start(&vhost, |options| options).await;
    match transport.bind(&[plain("one", &["#"]), plain("other", &["#"])]).await {
        Err(TransportError::Refused(sentence)) => {
            for part in ["`one`", "`services.router.one`", "`x-", "not set", "queue = "] {
                assert!(sentence.contains(part), "{part}: {sentence}");
            }
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(client.depth("services.router.one").await, Some(1), "nothing is lost by asking");
    assert!(vhost.queue("services.router.other").is_some(), "the others stand");
    // As the sentence says.
    let adopted = QueueWish { name: Some("services.router.one".to_owned()), ..QueueWish::default() };
    transport.bind(&[route("one", &["#"], adopted)]).await.expect("a queue of any form can be adopted");
    let consumer = consume(&transport, 1).await;
    assert_eq!(number(&take(&consumer).await), 1);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_any_form_is_adopted_and_works() {
    let vhost = Broker::shared().vhost();
    let client = AmqpClient::connect(&vhost.url()).await;
    let forms = [
        json!({}),
        json!({ "x-queue-type": "classic", "x-max-length": 1_000, "x-message-ttl": 3_600_000, "x-dead-letter-exchange": "amq.fanout" }),
        json!({ "x-queue-type": "quorum" }),
        json!({ "x-queue-type": "quorum", "x-delivery-limit": 3, "x-overflow": "drop-head", "x-max-length": 50, "x-expires": 3_600_000 }),
    ];
    for (place, form) in forms.iter().enumerate() {
        let name = format!("theirs-{place}");
        client.declare_queue(&name, form).await;
        let transport = start(&vhost, |options| options).await;
        let wish = QueueWish { name: Some(name.clone()), ..QueueWish::default() };
        transport.bind(&[route("one", &["#"], wish)]).await.unwrap_or_else(|error| panic!("{form}: {error}"));
        publish(&client, 0..3).await;
        let consumer = consume(&transport, 10).await;
        let mut deliveries = take_many(&consumer, 3).await;
        consumer.settle(vec![deliveries.remove(0)], Settlement::RetryIn { delay: Duration::ZERO, failure: failure() }).await.expect("it waits");
        consumer.settle(vec![deliveries.remove(0)], Settlement::Bury(Box::new(letter()))).await.expect("it is buried");
        done(&consumer, deliveries).await;
        let back = take(&consumer).await;
        assert_eq!((number(&back), back.attempts, back.key.as_str()), (0, 1, "key.0"), "{form}");
        done(&consumer, vec![back]).await;
        consumer.close().await;
        assert_eq!(client.depth(&name).await, Some(0), "{form}");
        assert_eq!(client.drain("services.router.one.dead").await.len(), 1, "{form}");
        transport.close().await;
        client.unbind(&name, EXCHANGE, "#").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_makes_nothing_and_names_what_is_missing() {
    let vhost = Broker::shared().vhost();
    let transport = start(&vhost, |options| options).await;
    transport.bind(&[plain("one", &["#"])]).await.expect("it is made");
    transport.close().await;
    let verify = |options| AmqpOptions { topology: router_amqp::Topology::Verify, ..options };
    let transport = start(&vhost, verify).await;
    transport.bind(&[plain("one", &["#"])]).await.expect("it is all there");
    match transport.bind(&[plain("two", &["#"])]).await {
        Err(TransportError::Refused(sentence)) => assert!(sentence.contains("`services.router.two.dead`") && sentence.contains("verify"), "{sentence}"),
        other => panic!("not refused: {other:?}"),
    }
    assert!(vhost.queue("services.router.two").is_none() && vhost.queue("services.router.two.dead").is_none());
    transport.close().await;
}

// ── in hand ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_finished_above_a_slow_one_is_acknowledged_and_the_slow_one_is_not() {
    let vhost = Broker::shared().vhost();
    for kind in [QueueKind::Quorum, QueueKind::Classic] {
        let wish = QueueWish { name: Some(format!("{kind:?}")), kind: Some(kind), ..QueueWish::default() };
        let (transport, client) = one_route(&vhost, wish).await;
        publish(&client, 0..300).await;
        let consumer = consume(&transport, 100).await;
        let slow = take(&consumer).await;
        for expected in 1..300 {
            let next = take(&consumer).await;
            assert_eq!(number(&next), expected);
            done(&consumer, vec![next]).await;
        }
        let queue = format!("{kind:?}");
        on_broker("all but the slow one are acknowledged", || in_hand_at(&vhost, &queue, 1)).await;
        // The gap closes: one frame for what was acknowledged before as well would close the channel.
        done(&consumer, vec![slow]).await;
        on_broker("the slow one is acknowledged", || in_hand_at(&vhost, &queue, 0)).await;
        publish(&client, 300..301).await;
        assert_eq!(number(&take(&consumer).await), 300, "the channel lives");
        client.unbind(&queue, EXCHANGE, "#").await;
        transport.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_finished_at_the_last_moment_does_not_come_again() {
    let forms =
        [QueueWish::default(), QueueWish { parallel: true, ..QueueWish::default() }, QueueWish { kind: Some(QueueKind::Classic), ..QueueWish::default() }];
    for wish in forms {
        let (vhost, is_shared) = (Broker::shared().vhost(), wish.parallel);
        // Nothing is acknowledged before the end, and then all of it one by one.
        let transport = start(&vhost, |options| AmqpOptions { ack_delay: PATIENCE, ..options }).await;
        transport.bind(&[route("one", &["#"], wish)]).await.expect("the route can be bound");
        let client = AmqpClient::connect(&vhost.url()).await;
        publish(&client, 0..700).await;
        let consumer = consume(&transport, 500).await;
        // One less than are acknowledged at once.
        let (finished, left): (Vec<_>, Vec<_>) =
            take_many(&consumer, 200).await.into_iter().partition(|delivery| number(delivery) % 2 == 1 && number(delivery) < 198);
        assert_eq!(finished.len(), 99);
        done(&consumer, finished).await;
        consumer.close().await;
        let mut expected = numbers(&left);
        expected.extend(200..700);
        let again = consume(&transport, 500).await;
        let (mut back, mut open) = (Vec::new(), expected.len());
        while open > 0 {
            // No more than can be in hand.
            let some = take_many(&again, open.min(100)).await;
            open -= some.len();
            back.extend(numbers(&some));
            done(&again, some).await;
        }
        if is_shared {
            back.sort_unstable();
        }
        assert_eq!(back, expected);
        again.close().await;
        assert_eq!(client.depth("services.router.one").await, Some(0));
        client.close().await;
        transport.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_gets_everything_in_order_when_the_active_one_leaves() {
    let vhost = Broker::shared().vhost();
    let (active, client) = one_route(&vhost, QueueWish::default()).await;
    let standby = start(&vhost, |options| options).await;
    standby.bind(&[plain("one", &["#"])]).await.expect("it is all there");
    publish(&client, 0..200).await;
    let first = consume(&active, 50).await;
    let second = consume(&standby, 50).await;
    let mut in_hand = take_many(&first, 50).await;
    done(&first, in_hand.drain(..20).collect()).await;
    // A few from the middle, so that there are gaps.
    done(&first, in_hand.drain(5..10).collect()).await;
    let left = numbers(&in_hand);
    first.close().await;
    let taken = take_many(&second, 45).await;
    let mut expected = left;
    expected.extend(50..70);
    assert_eq!(numbers(&taken), expected, "what was in hand comes first, and nothing was done twice");
    assert!(taken[..25].iter().all(|delivery| delivery.redelivered && delivery.attempts == 0));
    for transport in [active, standby] {
        transport.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_headers_have_no_effect() {
    let vhost = Broker::shared().vhost();
    let (transport, client) = one_route(&vhost, QueueWish::default()).await;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("x-router-attempts", AMQPValue::LongLongInt(1_000_000_000)),
        ("x-router-delay-left", AMQPValue::LongLongInt(3_600_000)),
        ("x-router-direct", AMQPValue::Boolean(true)),
        ("x-router-key", AMQPValue::LongString("other.key".into())),
        ("x-router-hops", AMQPValue::LongInt(7)),
        ("x-death", AMQPValue::FieldTable(FieldTable::default())),
    ] {
        headers.insert(name.into(), value);
    }
    client.publish_with(EXCHANGE, "some.key", b"{}", BasicProperties::default().with_headers(headers)).await;
    let consumer = consume(&transport, 1).await;
    let delivery = take(&consumer).await;
    assert_eq!((delivery.attempts, delivery.direct, delivery.key.as_str(), delivery.hops), (0, false, "some.key", 7));
    transport.close().await;
}

// ── what waits ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_of_several_steps_ends_once_and_in_time_with_all_that_was_known() {
    let vhost = Broker::shared().vhost();
    let (transport, client) = one_route(&vhost, QueueWish::default()).await;
    let mut headers = FieldTable::default();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
    headers.insert("x-router-hops".into(), AMQPValue::LongInt(3));
    let properties = persistent().with_message_id("id-1".into()).with_timestamp(1_700_000_000).with_headers(headers);
    client.publish_with(EXCHANGE, "agent.\u{e9}.one", b"{\"n\":1}", properties).await;
    let consumer = consume(&transport, 10).await;
    let first = take(&consumer).await;
    let known = |delivery: &Delivery| {
        (
            delivery.identity.clone(),
            delivery.key.clone(),
            delivery.body.clone(),
            delivery.stored_at,
            delivery.hops,
            delivery.traceparent.clone(),
            delivery.direct,
        )
    };
    let before = known(&first);
    assert_eq!((first.key.as_str(), first.hops, first.traceparent.as_deref()), ("agent.\u{e9}.one", 3, Some(traceparent)));

    // Two seconds, one second, and the rest in hand.
    let delay = Duration::from_millis(3_400);
    let begun = Instant::now();
    consumer.settle(vec![first], Settlement::RetryIn { delay, failure: failure() }).await.expect("it waits");
    let second = take(&consumer).await;
    assert!(begun.elapsed() >= delay, "it came back after {:?}", begun.elapsed());
    assert_eq!((second.attempts, &second.history, second.redelivered), (1, &vec![failure()], true));
    assert_eq!(known(&second), before);

    let again = AttemptRecord { number: 2, at: Timestamp::from_second(1_700_000_000).expect("a time"), class: FailureClass::Timeout, error: "late".to_owned() };
    let delay = Duration::from_millis(1_200);
    let begun = Instant::now();
    consumer.settle(vec![second], Settlement::RetryIn { delay, failure: again.clone() }).await.expect("it waits");
    let third = take(&consumer).await;
    assert!(begun.elapsed() >= delay, "it came back after {:?}", begun.elapsed());
    assert_eq!((third.attempts, &third.history), (2, &vec![failure(), again]));
    assert_eq!(known(&third), before);
    done(&consumer, vec![third]).await;
    on_broker("it was there once", || {
        let rest = vhost.queues().into_iter().filter(|queue| queue.name.starts_with("services.router.") && queue.ready + queue.unacked > 0).count();
        (rest == 0).then_some(())
    })
    .await;
    transport.close().await;
}

/// A virtual host with the routes `one` and `gone`; so many events of `gone` wait, and their queue is deleted. `delay` is how long they wait.
async fn waiting_for_a_deleted_queue(count: usize) -> (Vhost, Arc<AmqpTransport>, AmqpClient, Duration) {
    // What comes back before its queue is deleted is deleted with it: where the machine is slower than that, they wait longer.
    for delay in [2, 16, 128].map(Duration::from_secs) {
        let vhost = Broker::shared().vhost();
        let (transport, client) = one_route(&vhost, QueueWish::default()).await;
        let both = [plain("one", &["one"]), plain("gone", &["gone"])];
        transport.bind(&both).await.expect("both can be bound");
        let gone = transport.consume(&"gone".parse().expect("a name"), 100).await.expect("it can be taken up");
        for _ in 0..count {
            client.publish(EXCHANGE, "gone", b"{\"n\":7}").await;
        }
        for delivery in take_many(&gone, count).await {
            gone.settle(vec![delivery], Settlement::RetryIn { delay, failure: failure() }).await.expect("it waits");
        }
        gone.close().await;
        transport.bind(&both[..1]).await.expect("one can be bound");
        client.delete_queue("services.router.gone").await;
        let waits = tokio::task::block_in_place(|| vhost.queues()).into_iter().filter(|queue| queue.name.starts_with("services.router.sys.wait."));
        if waits.map(|queue| queue.ready).sum::<u64>() == count as u64 {
            return (vhost, transport, client, delay);
        }
        transport.close().await;
    }
    panic!("they came back before their queue could be deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_among_the_lost_is_a_trouble_until_it_is_brought_back_by_hand() {
    let (_vhost, transport, client, _) = waiting_for_a_deleted_queue(1).await;
    let both = [plain("one", &["one"]), plain("gone", &["gone"])];
    let name = "gone".parse().expect("a name");
    let trouble = on_broker("it is a trouble", || transport.condition().troubles.into_iter().find(|trouble| trouble.contains("sys.lost"))).await;
    assert!(trouble.starts_with("1 event came back") && trouble.contains("`services.router.sys.return`"), "{trouble}");
    assert!(transport.condition().accepts, "nothing else is wrong");

    // As the sentence says.
    transport.bind(&both).await.expect("both can be bound");
    for lost in client.drain("services.router.sys.lost").await {
        client.publish_with("services.router.sys.return", &lost.key, &lost.body, lost.properties).await;
    }
    let gone = transport.consume(&name, 10).await.expect("it can be taken up");
    let back = take(&gone).await;
    assert_eq!((number(&back), back.key.as_str(), back.attempts), (7, "gone", 1));
    on_broker("the trouble is over", || transport.condition().troubles.is_empty().then_some(())).await;
    transport.close().await;
}

// ── what breaks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_ends_its_consumer_and_is_made_again() {
    let vhost = Broker::shared().vhost();
    let (transport, client) = one_route(&vhost, QueueWish::default()).await;
    let consumer = consume(&transport, 10).await;
    publish(&client, 0..1).await;
    let held = take(&consumer).await;
    client.delete_queue("services.router.one").await;
    assert!(tokio::time::timeout(PATIENCE, consumer.next()).await.expect("it is noticed").is_none());
    assert!(consumer.settle(vec![held], Settlement::Done { fates: vec![Fate::Filtered], inbox: Vec::new() }).await.is_err());
    consumer.close().await;
    let consumer = consume(&transport, 10).await;
    publish(&client, 1..2).await;
    assert_eq!(number(&take(&consumer).await), 1, "it collects again");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_deleted_queue_holds_up_nobody_and_is_not_lost() {
    let (vhost, transport, client, delay) = waiting_for_a_deleted_queue(64).await;
    client.publish(EXCHANGE, "one", b"{\"n\":1}").await;
    let consumer = consume(&transport, 10).await;
    let first = take(&consumer).await;
    consumer.settle(vec![first], Settlement::RetryIn { delay, failure: failure() }).await.expect("it waits");
    assert_eq!(take(&consumer).await.attempts, 1, "it came back past those that have nowhere to go");
    on_broker("what has nowhere to go is kept", || vhost.queue("services.router.sys.lost").filter(|lost| lost.ready == 64)).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_dead_queue_costs_no_event() {
    let vhost = Broker::shared().vhost();
    let (transport, client) = one_route(&vhost, QueueWish::default()).await;
    let consumer = consume(&transport, 10).await;
    client.publish(EXCHANGE, "a", b"\xff no json").await;
    let mut delivery = take(&consumer).await;
    client.delete_queue("services.router.one.dead").await;
    let begun = Instant::now();
    loop {
        match consumer.settle(vec![delivery], Settlement::Bury(Box::new(letter()))).await {
            Ok(()) => break,
            Err((error, mut back)) => {
                // A queue that is just going refuses, before it is missing.
                let said = error.to_string();
                assert!(said.contains("`services.router.one.dead`") || said.contains("the broker did not take the event"), "{said}");
                delivery = back.pop().expect("it comes back in hand");
            }
        }
        assert!(begun.elapsed() < PATIENCE, "the dead queue is not made again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let dead = client.drain("services.router.one.dead").await;
    assert_eq!((dead.len(), &dead[0].body[..]), (1, &b"\xff no json"[..]));
    on_broker("it is acknowledged", || in_hand_at(&vhost, "services.router.one", 0)).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_long_in_hand_is_due_for_renewal() {
    let vhost = Broker::shared().vhost();
    let transport = start(&vhost, |options| AmqpOptions { ack_timeout: Duration::from_secs(4), ..options }).await;
    transport.bind(&[plain("one", &["#"])]).await.expect("it can be bound");
    let client = AmqpClient::connect(&vhost.url()).await;
    let consumer = consume(&transport, 10).await;
    assert!(tokio::time::timeout(Duration::from_secs(3), consumer.renewal_due()).await.is_err(), "nothing is in hand");
    publish(&client, 0..1).await;
    // The core wants nothing, and it grows old all the same.
    tokio::time::timeout(PATIENCE, consumer.renewal_due()).await.expect("it is due");
    assert_eq!(number(&take(&consumer).await), 0);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_the_broker_has_forgotten_ends_and_is_taken_up_again() {
    let vhost = Broker::shared().vhost();
    let transport = start(&vhost, |options| AmqpOptions { ack_timeout: Duration::from_secs(4), queue_kind: QueueKind::Classic, ..options }).await;
    transport.bind(&[plain("one", &["#"])]).await.expect("it can be bound");
    let client = AmqpClient::connect(&vhost.url()).await;
    let consumer = consume(&transport, 10).await;
    publish(&client, 0..1).await;
    let first = take(&consumer).await;
    done(&consumer, vec![first]).await;
    on_broker("it is acknowledged", || in_hand_at(&vhost, "services.router.one", 0)).await;
    // The queue drops it, and tells nobody.
    let queue = format!("{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"services.router.one\">>)),", vhost.name());
    let forget = "begin [{Channel, Tag, _, _, _, _, _, _}] = rabbit_amqqueue:consumers(Q), \
        ok = gen_server2:call(amqqueue:get_pid(Q), {basic_cancel, Channel, Tag, undefined, <<\"tests\">>}), true end";
    tokio::task::block_in_place(|| vhost.broker().ask(&queue, forget));
    publish(&client, 1..2).await;
    assert!(tokio::time::timeout(PATIENCE, consumer.next()).await.expect("it is noticed").is_none());
    consumer.close().await;
    let consumer = consume(&transport, 10).await;
    assert_eq!(number(&take(&consumer).await), 1);
    assert_eq!(transport.condition().reconnects, 0, "the connection was good");
    transport.close().await;
}
