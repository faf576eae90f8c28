//! HTTP calls against a server that is written here by hand, so that it can misbehave.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use router_api::{
    BoxFuture, Cancellation, Canceller, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply, EffectRequest, Endpoint,
    HttpReply, HttpRequest, Method, OwnWork,
};
use router_effects::{HostResolver, Performer, PerformerOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const LONG: Duration = Duration::from_secs(60);

/// Answers each connection by `answer`, and remembers what was sent.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn new<F>(answer: impl Fn(TcpStream, String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), requests: Arc::default(), connections: Arc::default() };
        let (requests, connections, answer) = (Arc::clone(&server.requests), Arc::clone(&server.connections), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                tokio::spawn(async move {
                    if let Some(request) = read_request(&mut stream).await {
                        requests.lock().unwrap().push(request.clone());
                        answer(stream, request).await;
                    }
                });
            }
        });
        server
    }

    /// Always the same bytes.
    async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::new(move |mut stream, _| {
            let answer = Arc::clone(&answer);
            async move {
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Head and body of one request, by its `content-length`.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
            _ => return None,
        }
    }
}

fn context(remaining: Duration) -> EffectContext {
    EffectContext { route: "r".to_owned(), handling: "h".to_owned(), remaining, cancellation: Cancellation::never() }
}

fn effect(request: HttpRequest) -> Effect {
    Effect { name: "http".to_owned(), kind: EffectKind::Write, request: EffectRequest::Http(request), dry_run_reply: None }
}

fn get(url: &str) -> HttpRequest {
    HttpRequest::new(Method::Get, Endpoint::parse(url).unwrap().url())
}

async fn call_with(options: PerformerOptions, request: HttpRequest, cx: &EffectContext) -> Result<HttpReply, EffectError> {
    call_on(&Performer::new(options).unwrap(), request, cx).await
}

/// With the default options. Reading the system's certificates takes a while, so it is done once.
fn performer() -> &'static Performer {
    static PERFORMER: OnceLock<Arc<Performer>> = OnceLock::new();
    PERFORMER.get_or_init(|| Performer::new(PerformerOptions::default()).unwrap())
}

async fn call_on(performer: &Performer, request: HttpRequest, cx: &EffectContext) -> Result<HttpReply, EffectError> {
    match performer.perform(effect(request), None, cx).await? {
        EffectReply::Http(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

async fn call(request: HttpRequest) -> Result<HttpReply, EffectError> {
    call_on(performer(), request, &context(LONG)).await
}

#[tokio::test]
async fn a_call_goes_out_as_it_was_asked_for() {
    let server = Server::saying("HTTP/1.1 201 Created\r\nX-Answer: Yes\r\ncontent-length: 4\r\n\r\nbody").await;
    let url = Endpoint::parse(&server.url("/base")).unwrap().join(["a/b", "c d"]).unwrap().query("q", "x&y");
    let request = HttpRequest::new(Method::Put, url).json(&serde_json::json!({"a": 1})).secret_header("authorization", "Bearer x");
    let reply = call(request).await.unwrap();
    assert_eq!((reply.status, &reply.body[..], reply.header("x-answer")), (201, &b"body"[..], Some("Yes")));
    let sent = &server.requests()[0];
    assert!(sent.starts_with("PUT /base/a%2Fb/c%20d?q=x%26y HTTP/1.1\r\n"), "{sent}");
    assert!(sent.ends_with("\r\n\r\n{\"a\":1}"), "{sent}");
    for line in [
        "content-type: application/json",
        "authorization: Bearer x",
        &format!("user-agent: event-router/{}", env!("CARGO_PKG_VERSION")),
        &format!("host: {}", server.address),
    ] {
        assert!(sent.lines().any(|sent| sent == line), "{line} in {sent}");
    }
    assert!(!sent.to_lowercase().contains("accept-encoding"), "nothing is asked to be compressed: {sent}");
}

#[tokio::test]
async fn every_status_is_a_reply() {
    for status in [200, 204, 404, 429, 500, 503] {
        let server = Server::saying(format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n")).await;
        let reply = call(get(&server.url("/"))).await.unwrap();
        assert_eq!((reply.status, reply.retry_after()), (status, Some(Duration::from_secs(7))));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [301, 302, 303, 307, 308] {
        let server = Server::saying(format!("HTTP/1.1 {status} X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url("/secret"))).await;
        let reply = call(get(&server.url("/"))).await.unwrap();
        assert_eq!(reply.status, status);
        assert_eq!(reply.ok().unwrap_err().class, EffectClass::Refused);
    }
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout() {
    let server = Server::new(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let begun = Instant::now();
    let error = call(get(&server.url("/path?token=s3cret")).timeout(Duration::from_millis(200))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Timeout);
    assert!(begun.elapsed() < LONG);
    assert!(error.message.contains(&server.address.to_string()) && !error.message.contains("s3cret"), "{}", error.message);
    let error = call_on(performer(), get(&server.url("/")).timeout(LONG), &context(Duration::from_millis(200))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Timeout, "the handling's own end is a limit, too");
}

#[tokio::test]
async fn one_byte_at_a_time_does_not_outlast_the_limit() {
    let server = Server::new(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let error = call(get(&server.url("/")).timeout(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Timeout);
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let server = Server::new(move |mut stream, _| {
        let sent = Arc::clone(&counted);
        async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let reply = call(get(&server.url("/"))).await.unwrap();
    assert_eq!((reply.status, reply.body.len()), (200, 1024 * 1024));
    let small = PerformerOptions { reply_bytes_max: 10, ..PerformerOptions::default() };
    assert_eq!(&call_with(small, get(&server.url("/")), &context(LONG)).await.unwrap().body[..], b"xxxxxxxxxx");
    assert!(sent.load(Ordering::SeqCst) < 64 * 1024 * 1024, "the connection was closed");
}

#[tokio::test]
async fn a_compressed_answer_stays_compressed() {
    let server = Server::saying([b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n".as_slice(), &[0x1f, 0x8b, 8, 0]].concat()).await;
    let reply = call(get(&server.url("/"))).await.unwrap();
    assert_eq!(&reply.body[..], [0x1f, 0x8b, 8, 0]);
}

#[tokio::test]
async fn a_refused_connection_or_unknown_host_is_unreachable() {
    // Bound, so that it is nobody else's, and without anybody who listens.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = nobody.local_addr().unwrap();
    let error = call(get(&format!("http://{closed}/hook/T0KEN"))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Unreachable);
    assert!(error.message.contains("refused") && !error.message.contains("T0KEN"), "{}", error.message);
    assert!(!format!("{error:?}").contains("T0KEN"), "{error:?}");
    let unknown = PerformerOptions { resolver: Arc::new(Nobody), ..PerformerOptions::default() };
    let error = call_with(unknown, get("http://unknown.example/T0KEN"), &context(LONG)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Unreachable);
    assert_eq!(error.message, "`http://unknown.example` could not be reached: nobody knows it");
}

#[tokio::test]
async fn a_tls_handshake_that_fails_or_hangs_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = call(get(&format!("https://{plain}/"))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Unreachable, "{error}");
    let silent = Server::new(|_, _| async {}).await;
    let options = PerformerOptions { connect_timeout: Duration::from_millis(200), ..PerformerOptions::default() };
    let error = call_with(options, get(&format!("https://{}/", silent.address)), &context(LONG)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Unreachable, "{error}");
    assert!(error.message.contains("200ms"), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_can_be_tried_again() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", "no http at all\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
        let server = Server::saying(answer).await;
        let error = call(get(&server.url("/"))).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Failed, "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn headers_that_split_or_lead_elsewhere_are_forbidden() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for (name, value) in [
        ("x-a", "b\r\nx-evil: 1"),
        ("x-a", "b\n"),
        ("x-a", "\r"),
        ("x-a", "a\0b"),
        ("x-a", "\u{e9}"),
        ("x-a", "\u{1b}[31m"),
        ("x-a\r\nx-evil", "1"),
        ("x a", "1"),
        ("", "1"),
        ("x-a:", "1"),
        ("Host", "evil"),
        ("content-length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "close"),
        ("proxy-authorization", "x"),
        ("x-long", "x".repeat(9_000).as_str()),
    ] {
        let request = get(&server.url("/")).header(name, value);
        let error = call(request.clone()).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Forbidden, "{name:?}: {value:?}");
        assert!(!error.message.contains(['\r', '\n', '\0', '\u{1b}']), "{:?}", error.message);
        assert_eq!(performer().check(&effect(request)).unwrap_err().class, EffectClass::Forbidden, "a dry run is told, too");
    }
    let error = call(get(&server.url("/")).secret_header("authorization", "Bearer s3cret\n")).await.unwrap_err();
    assert!(!format!("{error:?}").contains("s3cret"));
    let many = (0..101).fold(get(&server.url("/")), |request, n| request.header(format!("x-{n}"), "1"));
    assert_eq!(call(many).await.unwrap_err().class, EffectClass::Forbidden);
    assert_eq!(server.connections.load(Ordering::SeqCst), 0, "nothing of it was sent");
    assert!(call(get(&server.url("/")).header("x-a", "1").header("x-a", "~ !")).await.is_ok());
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut request = get(&server.url("/"));
    request.body = vec![b'x'; 11].into();
    let options = PerformerOptions { request_bytes_max: 10, ..PerformerOptions::default() };
    assert_eq!(call_with(options, request, &context(LONG)).await.unwrap_err().class, EffectClass::Refused);
}

#[tokio::test]
async fn a_cancelled_call_ends_at_once() {
    let (arrived, mut arrival) = tokio::sync::mpsc::channel(1);
    let server = Server::new(move |stream, _| {
        let arrived = arrived.clone();
        async move {
            let _ = arrived.send(()).await;
            std::future::pending::<()>().await;
            drop(stream);
        }
    })
    .await;
    let (canceller, cancellation) = Canceller::new();
    let cx = EffectContext { cancellation, ..context(LONG) };
    let (result, ()) = tokio::join!(call_on(performer(), get(&server.url("/")), &cx), async {
        arrival.recv().await;
        canceller.cancel();
    });
    assert_eq!(result.unwrap_err().class, EffectClass::Cancelled);
}

/// Knows no host.
struct Nobody;

impl HostResolver for Nobody {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Err(io::Error::new(io::ErrorKind::NotFound, "nobody knows it")) })
    }
}

/// Answers with given addresses, one list for each lookup, the last again and again.
struct Stub {
    answers: Vec<Vec<&'static str>>,
    asked: AtomicUsize,
}

impl Stub {
    fn options(answers: &[&[&'static str]]) -> PerformerOptions {
        let stub = Self { answers: answers.iter().map(|answer| answer.to_vec()).collect(), asked: AtomicUsize::new(0) };
        PerformerOptions { resolver: Arc::new(stub), connect_timeout: Duration::from_secs(5), ..PerformerOptions::default() }
    }
}

impl HostResolver for Stub {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        let answer = self.answers[asked].iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test]
async fn a_name_for_an_address_of_credentials_is_forbidden() {
    for address in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"] {
        let error = call_with(Stub::options(&[&[address]]), get("http://rebound.example/latest/meta-data/"), &context(LONG)).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Forbidden, "{address}: {error}");
        assert!(error.message.contains("rebound.example"), "{error}");
    }
}

#[tokio::test]
async fn only_allowed_addresses_of_a_name_are_connected_to() {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let url = format!("http://both.example:{}/", server.address.port());
    let reply = call_with(Stub::options(&[&["169.254.169.254", "127.0.0.1"]]), get(&url), &context(LONG)).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(server.requests()[0].contains(&format!("host: both.example:{}", server.address.port())));
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_again() {
    let server = Server::saying("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let performer = Performer::new(Stub::options(&[&["127.0.0.1"], &["169.254.169.254"]])).unwrap();
    let url = format!("http://rebound.example:{}/", server.address.port());
    assert!(performer.perform(effect(get(&url)), None, &context(LONG)).await.is_ok());
    let error = performer.perform(effect(get(&url)), None, &context(LONG)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Forbidden, "{error}");
}

#[tokio::test]
async fn a_host_without_addresses_is_unreachable() {
    let error = call_with(Stub::options(&[&[]]), get("http://empty.example/"), &context(LONG)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Unreachable, "{error}");
}

async fn own(work: OwnWork<'_>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
    let request = EffectRequest::Own { input: serde_json::json!({}) };
    let effect = Effect { name: "rows".to_owned(), kind: EffectKind::Write, request, dry_run_reply: None };
    performer().perform(effect, Some(work), cx).await
}

#[tokio::test]
async fn a_plugins_own_work_is_done_under_the_same_limits() {
    let reply = own(Box::new(|| Box::pin(async { Ok(serde_json::json!(3)) })), &context(LONG)).await.unwrap();
    assert_eq!(reply, EffectReply::Own(serde_json::json!(3)));
    let error = own(Box::new(|| Box::pin(async { Err("no table".into()) })), &context(LONG)).await.unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (EffectClass::Failed, "the effect `rows` failed: no table"));
    let error = own(Box::new(|| Box::pin(async { Err(EffectError::new(EffectClass::Busy, "slow down").into()) })), &context(LONG)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Busy, "an effect's error keeps its class");
    let error = own(Box::new(|| Box::pin(std::future::pending())), &context(Duration::from_millis(50))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Timeout);
    let (canceller, cancellation) = Canceller::new();
    canceller.cancel();
    let cx = EffectContext { cancellation, ..context(LONG) };
    let error = own(Box::new(|| panic!("cancelled work does not begin")), &cx).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Cancelled);
}
