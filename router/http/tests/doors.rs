//! Both doors on real sockets: what is let in, what is refused and how, what a stalled or rude sender can and cannot do.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use router_api::{
    Admin, AdminError, ArchivedEvent, BoxFuture, Chance, Clock, Condition, DeadLetterQuery, DecodeLimits, Destination, EventQuery, Publication, Published,
    RouterStatus, RoutingKey, StoredDeadLetter, TransportError,
};
use router_http::{Access, AdminClient, AdminSocket, Door, DoorError, DoorParts, ServeLimits};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

/// An answer is waited for so long before a test fails.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct FakeAdmin {
    published: Mutex<Vec<Publication>>,
    asked: Mutex<Vec<String>>,
    /// What `publish` fails with, once.
    failure: Mutex<Option<AdminError>>,
    /// `publish` never returns.
    hangs: bool,
    /// `publish` takes so long.
    takes: Duration,
}

#[async_trait]
impl Admin for FakeAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let (version, transport, config_hash, condition) = ("0".into(), "fake".into(), "h".into(), Condition::well());
        Ok(RouterStatus { version, started_at: jiff::Timestamp::UNIX_EPOCH, transport, config_hash, condition, untold: None, routes: Vec::new() })
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.takes).await;
        if let Some(error) = self.failure.lock().unwrap().take() {
            return Err(error);
        }
        let mut published = self.published.lock().unwrap();
        published.push(publication);
        Ok(Published { routed: true, seq: Some(published.len() as u64) })
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        self.asked.lock().unwrap().push(serde_json::to_string(query).unwrap());
        Ok(vec![archived(7)])
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        self.asked.lock().unwrap().push(reference.to_owned());
        Err(AdminError::NotFound(format!("no event `{reference}`")))
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        self.asked.lock().unwrap().push(serde_json::to_string(query).unwrap());
        Ok(Vec::new())
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        Err(AdminError::NotFound(format!("no dead letter `{id}`")))
    }
}

fn archived(seq: u64) -> ArchivedEvent {
    ArchivedEvent {
        seq,
        id: Some("e-1".into()),
        key: RoutingKey::new("a.b").unwrap(),
        body: bytes::Bytes::from_static(b"\xff not text"),
        stored_at: jiff::Timestamp::UNIX_EPOCH,
        hops: 0,
        redactions: 0,
        deliveries: Vec::new(),
    }
}

struct Running {
    address: SocketAddr,
    admin: Arc<FakeAdmin>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// Time stands still and every number is another.
struct Still(AtomicU64);

impl Clock for Still {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_795_000_000).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Chance for Still {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

fn parts(admin: Arc<FakeAdmin>, decode: DecodeLimits) -> DoorParts {
    DoorParts { admin, clock: Arc::new(Still(AtomicU64::new(0))), chance: Arc::new(Still(AtomicU64::new(0))), decode }
}

async fn open(admin: FakeAdmin, limits: ServeLimits) -> Running {
    open_for(admin, limits, Access::default()).await
}

async fn open_for(admin: FakeAdmin, limits: ServeLimits, access: Access) -> Running {
    let admin = Arc::new(admin);
    let decode = DecodeLimits { body_bytes_max: 1_000, depth_max: 8 };
    let door = Door::bind("127.0.0.1:0".parse().unwrap(), access, parts(admin.clone(), decode)).await.unwrap().limits(limits);
    let address = door.address();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(door.serve(async {
        let _ = stopped.await;
    }));
    Running { address, admin, stop, serving }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` as it is and reads until the door closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// A request with the right `Host` and any further header lines.
    async fn send(&self, line: &str, headers: &str, body: &str) -> String {
        let port = self.address.port();
        self.raw(&format!("{line} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())).await
    }

    async fn post(&self, target: &str, body: &str) -> String {
        self.send(&format!("POST {target}"), "Content-Type: application/json\r\n", body).await
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("serving ends").unwrap();
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
    if answer.is_empty() {
        read.expect("an answer");
    }
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status line in {answer:?}")).parse().unwrap()
}

fn json(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn health_is_the_answer_that_bloodbanks_users_know() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let answer = door.send("GET /healthz", "", "").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(json(&answer), serde_json::json!({ "ok": true, "service": "event-router" }));
    door.end().await;
}

#[tokio::test]
async fn an_event_is_answered_with_its_key_id_and_number_once_it_is_published() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let body = r#"{"event_id":"e-1","event_type":"session.thread.start","payload":{}}"#;
    let answer = door.post("/events", body).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let expected = serde_json::json!({ "schema": "event-router.published.v1", "key": "session.thread.start", "event_id": "e-1", "seq": 1, "routed": true });
    assert_eq!(json(&answer), expected);
    let answer = door.post("/events?key=my.own%20key", body).await;
    assert_eq!(json(&answer)["key"], "my.own key");
    let published = door.admin.published.lock().unwrap().clone();
    assert_eq!(published[0].body, body.as_bytes(), "byte for byte");
    assert_eq!((published[1].key.as_str(), &published[1].to), ("my.own key", &Destination::Subscribers));
    door.end().await;
}

#[tokio::test]
async fn what_is_no_event_is_refused_with_a_sentence_and_not_published() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(20), "}".repeat(20));
    for (target, body, word) in [
        ("/events?key=a", "", "JSON"),
        ("/events?key=a", "not json", "JSON"),
        ("/events?key=a", "[1,2]", "object"),
        ("/events?key=a", &deep, "nested"),
        ("/events", r#"{"x":1}"#, "no routing key"),
        ("/events?key=", r#"{"x":1}"#, "empty"),
        ("/events?key=a%0Ab", r#"{"x":1}"#, "control character"),
        ("/events?kye=a", r#"{"x":1}"#, "kye"),
        ("/events?key=a&route=ci", r#"{"x":1}"#, "socket only"),
    ] {
        let answer = door.post(target, body).await;
        assert_eq!(status(&answer), 400, "{target} {body}: {answer}");
        let sentence = json(&answer)["error"].as_str().unwrap().to_owned();
        assert!(sentence.contains(word), "{sentence}");
    }
    assert!(door.admin.published.lock().unwrap().is_empty());
    door.end().await;
}

#[tokio::test]
async fn types_that_a_web_page_may_send_unasked_are_refused() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let body = r#"{"event_type":"a"}"#;
    for kind in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Content-Type: text/plain+json\r\n",
    ] {
        assert_eq!(status(&door.send("POST /events", kind, body).await), 415, "{kind:?}");
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/activity+json"] {
        assert_eq!(status(&door.send("POST /events", &format!("Content-Type: {kind}\r\n"), body).await), 200, "{kind:?}");
    }
    door.end().await;
}

#[tokio::test]
async fn a_rebound_name_and_a_foreign_page_stay_outside() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let port = door.address.port();
    let rest = "Content-Type: application/json\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{\"event_type\":\"a\"}";
    let foreign_host = door.raw(&format!("POST /events HTTP/1.1\r\nHost: evil.example:{port}\r\n{rest}")).await;
    assert_eq!(status(&foreign_host), 403);
    let absolute = door.raw(&format!("POST http://evil.example/events HTTP/1.1\r\nHost: localhost:{port}\r\n{rest}")).await;
    assert_eq!(status(&absolute), 403);
    let foreign_page = door.raw(&format!("POST /events HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://evil.example\r\n{rest}")).await;
    assert_eq!(status(&foreign_page), 403);
    let own_page = door.raw(&format!("POST /events HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://localhost:3000\r\n{rest}")).await;
    assert_eq!(status(&own_page), 200);
    assert_eq!(door.admin.published.lock().unwrap().len(), 1);
    door.end().await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_before_it_is_read() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let port = door.address.port();
    // Only the head is sent: the answer cannot wait for the body.
    let answer =
        door.raw(&format!("POST /events HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")).await;
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"));
    door.end().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_read_up_to_the_limit_and_the_sender_sees_the_answer() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let port = door.address.port();
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let request = format!(
        "POST /events?key=a HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(200)
    );
    assert_eq!(status(&door.raw(&request).await), 413);
    door.end().await;
}

#[tokio::test]
async fn two_lengths_never_lead_to_a_second_request() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let port = door.address.port();
    let head = format!("POST /events?key=a HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n");
    let smuggled = format!("POST /events?key=smuggled HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
    for lengths in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"] {
        let answer = door.raw(&format!("{head}{lengths}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{smuggled}")).await;
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "one answer, then the end: {answer}");
    }
    assert!(door.admin.published.lock().unwrap().iter().all(|publication| publication.key.as_str() == "a"));
    door.end().await;
}

#[tokio::test]
async fn a_sender_that_dribbles_is_cut_off() {
    // Of each its own door: what is not slow has all the time that it needs.
    let door = open(FakeAdmin::default(), ServeLimits { header_timeout: Duration::from_millis(100), ..ServeLimits::default() }).await;
    let mut slow_head = door.connect().await;
    slow_head.write_all(b"POST /events HTTP/1.1\r\nHost: loc").await.unwrap();
    let answer = read_to_end(&mut slow_head).await;
    assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
    door.end().await;
    let door = open(FakeAdmin::default(), ServeLimits { body_timeout: Duration::from_millis(100), ..ServeLimits::default() }).await;
    let port = door.address.port();
    let mut slow_body = door.connect().await;
    let head = format!("POST /events?key=a HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{");
    slow_body.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status(&read_to_end(&mut slow_body).await), 408);
    door.end().await;
}

#[tokio::test]
async fn heads_beyond_reason_are_refused() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    assert_eq!(status(&door.send("GET /healthz", &many, "").await), 431);
    let long = format!("x: {}\r\n", "y".repeat(200_000));
    assert_eq!(status(&door.send("GET /healthz", &long, "").await), 431);
    door.end().await;
}

#[tokio::test]
async fn silent_connections_make_room_for_one_that_speaks() {
    let limits = ServeLimits { connections_max: 4, header_timeout: PATIENCE, ..ServeLimits::default() };
    let door = open(FakeAdmin::default(), limits).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(door.connect().await);
    }
    let begun = Instant::now();
    assert_eq!(status(&door.post("/events", r#"{"event_type":"a"}"#).await), 200);
    // Were they waited for, it would be until each has timed out.
    assert!(begun.elapsed() < limits.header_timeout, "did not wait for the silent ones to time out");
    door.end().await;
}

#[tokio::test]
async fn trouble_behind_the_door_has_its_own_status() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    for (error, expected) in [
        (TransportError::Unavailable("away".into()), 503),
        (TransportError::Full("the disk is full".into()), 507),
        (TransportError::Refused("broken".into()), 500),
    ] {
        *door.admin.failure.lock().unwrap() = Some(error.into());
        assert_eq!(status(&door.post("/events", r#"{"event_type":"a"}"#).await), expected);
    }
    door.end().await;
}

#[tokio::test]
async fn an_event_that_is_not_safe_in_time_is_no_success_and_the_stop_is_bounded() {
    let limits = ServeLimits { publish_timeout: Duration::from_millis(50), ..ServeLimits::default() };
    let door = open(FakeAdmin { hangs: true, ..FakeAdmin::default() }, limits).await;
    assert_eq!(status(&door.post("/events", r#"{"event_type":"a"}"#).await), 503);
    door.end().await;

    let limits = ServeLimits { drain: Duration::from_millis(50), ..ServeLimits::default() };
    let door = open(FakeAdmin { hangs: true, ..FakeAdmin::default() }, limits).await;
    let port = door.address.port();
    let mut hanging = door.connect().await;
    let request = format!("POST /events?key=a HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
    hanging.write_all(request.as_bytes()).await.unwrap();
    let idle = door.connect().await;
    door.end().await;
    drop(idle);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    assert_eq!(status(&door.send("GET /api/v2/status", "", "").await), 404);
    assert_eq!(status(&door.send("GET /events", "", "").await), 405);
    assert_eq!(status(&door.send("OPTIONS /events", "", "").await), 405);
    assert_eq!(status(&door.send("DELETE /api/v1/status", "", "").await), 405);
    door.end().await;
}

const ADMIN: [(&str, &str); 9] = [
    ("GET /api/v1/status", ""),
    ("GET /api/v1/events?last=3", ""),
    ("GET /api/v1/events/7", ""),
    ("GET /api/v1/dead-letters", ""),
    ("GET /api/v1/dead-letters/x", ""),
    ("POST /api/v1/events?key=a&route=ci&delay_ms=5", "{}"),
    ("POST /api/v1/dead-letters/discard", "{}"),
    ("POST /api/v1/routes/ci/pause", ""),
    ("POST /api/v1/reload", ""),
];

#[tokio::test]
async fn without_tokens_the_admin_api_on_tcp_says_how_to_set_one() {
    let door = open(FakeAdmin::default(), ServeLimits::default()).await;
    for (line, body) in ADMIN {
        for headers in ["Content-Type: application/json\r\n", "Content-Type: application/json\r\nAuthorization: Bearer sesame\r\n"] {
            let answer = door.send(line, headers, body).await;
            assert_eq!(status(&answer), 403, "{line}: {answer}");
            let sentence = json(&answer)["error"].as_str().unwrap().to_owned();
            assert!(sentence.contains("[http] admin_tokens") && sentence.contains("socket"), "{sentence}");
        }
    }
    assert!(door.admin.asked.lock().unwrap().is_empty() && door.admin.published.lock().unwrap().is_empty(), "nothing was asked of the router");
    door.end().await;
}

/// One client that may send events, one that may use the admin API.
fn admins() -> Access {
    Access::new([("ci".to_owned(), "for sending".to_owned())], []).admin([("laptop".to_owned(), "sesame".to_owned())])
}

#[tokio::test]
async fn a_token_for_sending_opens_nothing_of_the_admin_api() {
    let with = Access::new([("ci".to_owned(), "for sending".to_owned())], []);
    for access in [with, admins()] {
        let door = open_for(FakeAdmin::default(), ServeLimits::default(), access).await;
        for (line, body) in ADMIN {
            let answer = door.send(line, "Content-Type: application/json\r\nAuthorization: Bearer for sending\r\n", body).await;
            assert_eq!(status(&answer), 403, "{line}: {answer}");
            assert!(json(&answer)["error"].as_str().unwrap().contains("[http] admin_tokens"), "{answer}");
            let other_host =
                format!("{line} HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer for sending\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(status(&door.raw(&other_host).await), 403, "{line}");
            for unknown in ["", "Authorization: Bearer other\r\n"] {
                assert_eq!(status(&door.send(line, &format!("Content-Type: application/json\r\n{unknown}"), body).await), 401, "{line} {unknown}");
            }
        }
        assert!(door.admin.asked.lock().unwrap().is_empty() && door.admin.published.lock().unwrap().is_empty(), "nothing was asked of the router");
        let sent = door.send("POST /events", "Content-Type: application/json\r\nAuthorization: Bearer for sending\r\n", r#"{"event_type":"a"}"#).await;
        assert_eq!(status(&sent), 200, "{sent}");
        door.end().await;
    }
}

#[tokio::test]
async fn where_only_admins_have_tokens_the_admin_api_asks_for_one_and_events_come_in_without() {
    let access = Access::new([], []).admin([("laptop".to_owned(), "sesame".to_owned())]);
    let door = open_for(FakeAdmin::default(), ServeLimits::default(), access).await;
    assert_eq!(status(&door.post("/events", r#"{"event_type":"a"}"#).await), 200);
    for (line, body) in ADMIN {
        for headers in ["", "Authorization: Bearer other\r\n"] {
            let answer = door.send(line, &format!("Content-Type: application/json\r\n{headers}"), body).await;
            assert_eq!(status(&answer), 401, "{line}: {answer}");
        }
    }
    door.end().await;
}

#[tokio::test]
async fn with_an_admin_token_the_admin_api_on_tcp_is_that_of_the_socket() {
    let access = admins();
    let door = open_for(FakeAdmin::default(), ServeLimits::default(), access).await;
    for (line, body) in ADMIN {
        for headers in ["", "Authorization: Bearer other\r\n", "Authorization: Basic sesame\r\n"] {
            assert_eq!(status(&door.send(line, &format!("Content-Type: application/json\r\n{headers}"), body).await), 401, "{line}");
        }
        let answer = door.send(line, "Content-Type: application/json\r\nAuthorization: Bearer sesame\r\n", body).await;
        // The router behind this door knows no event, no dead letter and no verb, and says so itself.
        assert!(matches!(status(&answer), 200 | 400 | 404) && !answer.contains("no such path"), "{line}: {answer}");
        let host = format!("{line} HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer sesame\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status(&door.raw(&host).await), 403, "{line}");
    }
    let to = door.admin.published.lock().unwrap()[0].to.clone();
    assert_eq!(to, Destination::Route { route: "ci".parse().unwrap(), delay: Duration::from_millis(5) });
    door.end().await;
}

#[tokio::test]
async fn a_verb_has_its_own_limits_for_what_it_is_given() {
    let access = admins();
    let limits = ServeLimits { body_timeout: Duration::from_millis(100), ..ServeLimits::default() };
    let door = open_for(FakeAdmin::default(), limits, access).await;
    let port = door.address.port();
    let head = |rest: &str| format!("POST /api/v1/dead-letters/discard HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer sesame\r\n{rest}");
    let json = "Content-Type: application/json\r\n";
    for (rest, expected) in [
        (format!("{json}Content-Length: 2000000\r\n\r\n"), 413),
        (format!("{json}Content-Length: 10\r\n\r\n{{"), 408),
        ("Connection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}".to_owned(), 415),
        (format!("Connection: close\r\n{json}Content-Length: 3\r\n\r\n{{]}}"), 400),
        (format!("Connection: close\r\n{json}Content-Length: 13\r\n\r\n{{\"ruote\":\"a\"}}"), 400),
    ] {
        assert_eq!(status(&door.raw(&head(&rest)).await), expected, "{rest}");
    }
    door.end().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_answer() {
    // Long enough for the door to notice the end of what comes in while the event is stored.
    let door = open(FakeAdmin { takes: Duration::from_millis(100), ..FakeAdmin::default() }, ServeLimits::default()).await;
    let port = door.address.port();
    let head = format!("POST /events?key=a HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n");
    for (request, expected) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"), 200),
        (format!("{head}Content-Length: 2\r\n\r\n{{}}"), 200),
        (format!("{head}Content-Length: 10\r\n\r\n{{"), 400),
    ] {
        let mut stream = door.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let begun = Instant::now();
        assert_eq!(status(&read_to_end(&mut stream).await), expected, "{request}");
        assert!(begun.elapsed() < ServeLimits::default().header_timeout, "the end is not waited for");
    }
    let mut silent = door.connect().await;
    silent.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, "", "who says nothing and leaves is let go at once");
    door.end().await;
}

#[tokio::test]
async fn bytes_that_are_no_text_become_no_key() {
    let access = admins();
    let door = open_for(FakeAdmin::default(), ServeLimits::default(), access).await;
    let headers = "Content-Type: application/json\r\nAuthorization: Bearer sesame\r\n";
    for target in [
        "/events?key=%ff",
        "/events?key=a%C3",
        "/hooks/claude-code?messages=%ff",
        "/events/agent/%ff/heartbeat",
        "/events/agent/a/%ff",
        "/api/v1/events?key=%ff",
        "/api/v1/routes/%ff/pause",
    ] {
        let answer = door.send(&format!("POST {target}"), headers, r#"{"agent_name":"a","status":"ok"}"#).await;
        assert_eq!(status(&answer), 400, "{target}: {answer}");
        assert!(json(&answer)["error"].as_str().unwrap().contains("UTF-8"), "{answer}");
    }
    assert!(door.admin.published.lock().unwrap().is_empty());
    let answer = door.send("POST /events?key=%C3%A4.b+c", headers, "{}").await;
    assert_eq!(json(&answer)["key"], "ä.b c");
    door.end().await;
}

#[tokio::test]
async fn an_address_beyond_loopback_and_a_taken_port_are_refused_with_the_way_out() {
    let admin = Arc::new(FakeAdmin::default());
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let refused = Door::bind(address.parse().unwrap(), Access::default(), parts(admin.clone(), DecodeLimits::default())).await;
        assert!(matches!(refused, Err(DoorError::NotLoopback(_))), "{address}");
    }
    let first = Door::bind("127.0.0.1:0".parse().unwrap(), Access::default(), parts(admin.clone(), DecodeLimits::default())).await.unwrap();
    let Err(error) = Door::bind(first.address(), Access::default(), parts(admin, DecodeLimits::default())).await else { panic!("the port is taken") };
    assert!(error.to_string().contains("listen = \"off\""), "{error}");
}

async fn with_socket(store: &Path, admin: Arc<FakeAdmin>) -> (AdminClient, oneshot::Sender<()>, JoinHandle<()>) {
    let socket = AdminSocket::bind(store, admin, DecodeLimits::default()).unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(socket.serve(async {
        let _ = stopped.await;
    }));
    (AdminClient::connect(store).await.unwrap(), stop, serving)
}

#[tokio::test]
async fn the_client_gives_the_answers_and_errors_of_the_router_itself() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("router.db");
    let admin = Arc::new(FakeAdmin::default());
    assert!(AdminClient::connect(&store).await.is_err(), "nobody listens yet");
    let (client, stop, serving) = with_socket(&store, admin.clone()).await;

    assert_eq!(client.status().await.unwrap().transport, "fake");
    let to = Destination::Route { route: "ci".parse().unwrap(), delay: Duration::from_millis(1_500) };
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let publication =
        Publication { to: to.clone(), hops: 3, traceparent: Some(trace.into()), ..Publication::new(RoutingKey::new("ä b.#&=?").unwrap(), r#"{"x":1}"#) };
    assert_eq!(client.publish(publication).await.unwrap(), Published { routed: true, seq: Some(1) });
    let published = admin.published.lock().unwrap()[0].clone();
    assert_eq!((published.key.as_str(), published.to, published.hops, published.traceparent.as_deref()), ("ä b.#&=?", to, 3, Some(trace)));

    let query = EventQuery { last: Some(5), pattern: Some("a.#".parse().unwrap()), unmatched: true, session: Some("s 1&x".into()), before: None };
    let events = client.events(&query).await.unwrap();
    assert_eq!((events[0].seq, &events[0].body[..]), (7, &b"\xff not text"[..]), "bytes that are no text come through");
    assert_eq!(admin.asked.lock().unwrap().pop().unwrap(), serde_json::to_string(&query).unwrap());
    let letters = DeadLetterQuery { route: Some("ci".parse().unwrap()), reason: Some("exhausted".into()), class: None, limit: Some(9) };
    assert!(client.dead_letters(&letters).await.unwrap().is_empty());
    assert_eq!(admin.asked.lock().unwrap().pop().unwrap(), serde_json::to_string(&letters).unwrap());

    let Err(AdminError::NotFound(message)) = client.event("../a/b?c").await else { panic!("not found") };
    assert_eq!(message, "no event `../a/b?c`");
    assert!(matches!(client.dead_letter("x").await, Err(AdminError::NotFound(_))));
    *admin.failure.lock().unwrap() = Some(TransportError::Full("no room".into()).into());
    let full = client.publish(Publication::new(RoutingKey::new("a").unwrap(), "{}")).await;
    assert!(matches!(full, Err(AdminError::Transport(TransportError::Full(_)))));
    let wrong = client.publish(Publication::new(RoutingKey::new("a").unwrap(), "[]")).await;
    assert!(matches!(wrong, Err(AdminError::Invalid(_))));
    let too_many = client.events(&EventQuery { last: Some(1_000_000), ..EventQuery::default() }).await;
    assert!(matches!(too_many, Err(AdminError::Invalid(_))));

    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert!(!router_http::socket_path(&store).exists(), "the socket goes with its router");
    assert!(matches!(client.status().await, Err(AdminError::Transport(TransportError::Unavailable(_)))));
}
