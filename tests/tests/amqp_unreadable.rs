//! What any producer can send and lapin cannot read: on a real broker, from a producer that writes bytes where others write text.
//!
//! Without the sieve before lapin each of these ends the connection, the next one too, and so on for all routes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use router_amqp::{AmqpOptions, AmqpTransport};
use router_api::{
    AttemptRecord, BoxFuture, Clock, Consumer, DeadLetter, DeadLetterQuery, DeadLetterReason, Delivery, Envelope, FailureClass, Fate, Matcher, QueueWish,
    Settlement, Subscription, Transport,
};
use router_testkit::{MemoryState, MemoryStore, SeededChance};
use router_tests::{AmqpClient, Broker, Vhost};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(180);
const EXCHANGE: &str = "bloodbank.events.v1";

// ── a producer ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// AMQP 0-9-1 by hand, as far as publishing with confirms goes.
struct Producer {
    stream: TcpStream,
}

impl Producer {
    fn connect(vhost: &Vhost) -> Self {
        let uri: lapin::uri::AMQPUri = vhost.url().parse().expect("it is a URL");
        let (user, password) = (uri.authority.userinfo.username, uri.authority.userinfo.password);
        let stream = TcpStream::connect(vhost.broker().address()).expect("the broker is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
        let mut this = Self { stream };
        this.stream.write_all(b"AMQP\x00\x00\x09\x01").expect("the broker reads");
        this.expect(10, 10);
        let login = format!("\0{user}\0{password}");
        this.method(0, &[&[0, 10, 0, 11][..], &long(b""), &short(b"PLAIN"), &long(login.as_bytes()), &short(b"en_US")].concat());
        let tune = this.expect(10, 30);
        this.method(0, &[&[0, 10, 0, 31][..], &tune[4..10], &[0, 0]].concat());
        this.method(0, &[&[0, 10, 0, 40][..], &short(vhost.name().as_bytes()), &short(b""), &[0]].concat());
        this.expect(10, 41);
        this.method(1, &[&[0, 20, 0, 10][..], &short(b"")].concat());
        this.expect(20, 11);
        this.method(1, &[0, 85, 0, 10, 0]);
        this.expect(85, 11);
        this
    }

    /// Publishes persistently with properties of any bytes, and returns when the broker has it. `table` are headers.
    fn publish(&mut self, exchange: &str, key: &[u8], message_id: &[u8], table: &[u8], body: &[u8]) {
        self.method(1, &[&[0, 60, 0, 40, 0, 0][..], &short(exchange.as_bytes()), &short(key), &[0]].concat());
        let size = u64::try_from(body.len()).expect("it fits").to_be_bytes();
        // Headers, delivery mode and message id.
        let properties = [&[0b0011_0000, 0b1000_0000][..], &long(table), &[2], &short(message_id)].concat();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, &properties].concat());
        self.frame(3, 1, body);
        self.expect(60, 80);
    }

    fn method(&mut self, channel: u8, payload: &[u8]) {
        self.frame(1, channel, payload);
    }

    fn frame(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let size = u32::try_from(payload.len()).expect("it fits").to_be_bytes();
        self.stream.write_all(&[&[kind, 0, channel][..], &size, payload, &[0xce]].concat()).expect("the broker reads");
    }

    /// The next method, which must be this one.
    fn expect(&mut self, class: u8, method: u8) -> Vec<u8> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).expect("the broker answers");
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.stream.read_exact(&mut payload).expect("the broker answers");
            if head[0] == 1 {
                assert_eq!(payload[..4], [0, class, 0, method], "instead the broker said {}", String::from_utf8_lossy(&payload));
                return payload;
            }
        }
    }
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("it is short")][..], bytes].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("it fits").to_be_bytes()[..], bytes].concat()
}

// ── a router ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

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

async fn one_route(vhost: &Vhost) -> Arc<AmqpTransport> {
    let options = AmqpOptions { archive: None, ..AmqpOptions::new(vhost.url()) };
    let store = Arc::new(MemoryStore::new(&MemoryState::new()));
    let transport = AmqpTransport::start(options, store, None, Arc::new(RealClock), Arc::new(SeededChance::new(7)));
    transport.reached(PATIENCE).await.expect("the broker is there");
    let one = Subscription {
        route: "one".parse().expect("a route name"),
        patterns: vec!["#".parse().expect("a pattern")],
        matcher: Arc::new(All),
        queue: QueueWish::default(),
    };
    transport.bind(&[one]).await.expect("the route can be bound");
    transport
}

async fn take(consumer: &Arc<dyn Consumer>) -> Delivery {
    match tokio::time::timeout(PATIENCE, consumer.next()).await {
        Ok(Some(Ok(delivery))) => delivery,
        other => panic!("instead of a delivery there came {other:?}"),
    }
}

async fn done(consumer: &Arc<dyn Consumer>, delivery: Delivery) {
    let settlement = Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }], inbox: Vec::new() };
    consumer.settle(vec![delivery], settlement).await.expect("it is in hand");
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

/// Arrays in arrays.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = vec![b'V'];
    for _ in 0..depth {
        value = [&b"A"[..], &long(&value)].concat();
    }
    value
}

// ── what is promised ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_text_end_no_connection_and_lose_no_event() {
    let vhost = Broker::shared().vhost();
    let transport = one_route(&vhost).await;
    let mut producer = Producer::connect(&vhost);
    let header = |name: &[u8], value: &[u8]| [&short(name)[..], value].concat();
    let text = |bytes: &[u8]| [&b"S"[..], &long(bytes)].concat();
    producer.publish(EXCHANGE, b"a.caf\xe9", b"id-1", b"", b"{\"n\":1}");
    producer.publish(EXCHANGE, b"b", b"id-\xff\xfe", b"", b"{\"n\":2}");
    producer.publish(EXCHANGE, b"c", b"id-3", &header(b"na\xffme", &text(b"v")), b"{\"n\":3}");
    producer.publish(EXCHANGE, b"d", b"id-4", &header(b"name", &text(b"\xff\xfe")), b"{\"n\":4}");
    producer.publish(EXCHANGE, b"e", b"id-5", &header(b"deep", &nested(20_000)), b"{\"n\":5}");
    producer.publish(EXCHANGE, b"f", b"id-6", b"", b"\xff\xfe no json");
    let consumer = transport.consume(&"one".parse().expect("a name"), 10).await.expect("it can be taken up");
    let mut keys = Vec::new();
    for n in 1..=6_u8 {
        let delivery = take(&consumer).await;
        keys.push(delivery.key.as_str().to_owned());
        if n < 6 {
            assert_eq!(delivery.body, json!({ "n": n }).to_string().as_bytes());
        }
        match n {
            // Through a wait, and through the dead letters.
            1 => consumer.settle(vec![delivery], Settlement::RetryIn { delay: Duration::ZERO, failure: failure() }).await.expect("it waits"),
            2 => consumer.settle(vec![delivery], Settlement::Bury(Box::new(letter()))).await.expect("it is buried"),
            _ => done(&consumer, delivery).await,
        }
    }
    assert_eq!(keys, ["a.caf?", "b", "c", "d", "e", "f"]);
    let back = take(&consumer).await;
    assert_eq!((back.key.as_str(), back.attempts), ("a.caf?", 1));
    done(&consumer, back).await;
    let letters = transport.admin().dead_letters(&DeadLetterQuery::default()).await.expect("the dead letters can be listed");
    assert_eq!(letters.len(), 1);
    assert_eq!(transport.condition().reconnects, 0, "{:?}", transport.condition());
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_a_dead_queue_unreadably_is_listed_too() {
    let vhost = Broker::shared().vhost();
    let transport = one_route(&vhost).await;
    // As the broker puts it there: with the producer's own properties.
    let mut producer = Producer::connect(&vhost);
    producer.publish("", b"services.router.one.dead", b"\xff", &[&short(b"\xfe")[..], b"V"].concat(), b"{}");
    let letters = transport.admin().dead_letters(&DeadLetterQuery::default()).await.expect("the dead letters can be listed");
    assert_eq!(letters.len(), 1);
    assert_eq!(transport.condition().reconnects, 0, "{:?}", transport.condition());
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_outgrew_a_frame_cost_the_headers_only() {
    let vhost = Broker::shared().vhost();
    let transport = one_route(&vhost).await;
    let client = AmqpClient::connect(&vhost.url()).await;
    // The broker adds its note of the death to headers that filled their frame.
    client.declare_queue("theirs", &json!({ "x-message-ttl": 1, "x-dead-letter-exchange": EXCHANGE, "x-dead-letter-routing-key": "a" })).await;
    let large = [&short(b"large")[..], b"S", &long(&vec![b'x'; 131_072 - 60])].concat();
    Producer::connect(&vhost).publish("", b"theirs", b"id", &large, b"{\"n\":1}");
    client.publish(EXCHANGE, "b", b"{\"n\":2}").await;
    let consumer = transport.consume(&"one".parse().expect("a name"), 10).await.expect("it can be taken up");
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let delivery = take(&consumer).await;
        bodies.push(String::from_utf8_lossy(&delivery.body).into_owned());
        done(&consumer, delivery).await;
    }
    bodies.sort();
    assert_eq!(bodies, ["{\"n\":1}", "{\"n\":2}"]);
    assert_eq!(transport.condition().reconnects, 0, "{:?}", transport.condition());
    transport.close().await;
}
