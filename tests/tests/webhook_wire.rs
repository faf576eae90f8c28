//! Signed webhooks as they arrive: real requests over TCP, judged by a receiver that is written here and knows the published examples.
//!
//! The examples are those of the standards' own pages: the test `sign function works` that every library of
//! <https://github.com/standard-webhooks/standard-webhooks> has, and the section "Testing the webhook payload validation" of
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use plugins::webhook::{
    Webhook,
    signature::{Signer, Signing, Style},
};
use router_api::{Cancellation, Effect, EffectContext, EffectKind, EffectPort, EffectReply, EffectRequest, Endpoint, HttpRequest, Method};
use router_effects::{Performer, PerformerOptions};
use router_testkit::{TestContext, VirtualClock};
use router_tests::{Home, eventually};
use serde_json::{Value, json};
use sha2::Sha256;

/// Longer than anything should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const STANDARD_AT: i64 = 1_614_265_330;
const STANDARD_BODY: &str = r#"{"test": 2432232314}"#;
const STANDARD_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

const GITHUB_SECRET: &str = "It's a Secret to Everybody";
const GITHUB_BODY: &str = "Hello, World!";
const GITHUB_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

// ── the receiver ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A request as it came over the wire.
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: impl Read) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim_end_matches("\r\n").split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(Self { line: line.trim_end().to_owned(), headers, body })
    }

    /// A header's value, which must be there once.
    fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_else(|| panic!("no `{name}` in {:?}", self.headers));
        assert_eq!(values.next(), None, "`{name}` is there twice");
        value
    }
}

/// Answers each request with the next status, the last one for ever, and hands the requests on. With 429 it wants to be left alone for
/// two seconds.
struct Target {
    address: SocketAddr,
    requests: Receiver<Request>,
}

impl Target {
    fn answering(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, requests) = sync_channel(100);
        std::thread::spawn(move || {
            for (nth, stream) in listener.incoming().flatten().enumerate() {
                if let Some(request) = Request::read(&stream) {
                    let _ = sender.send(request);
                    let status = statuses[nth.min(statuses.len() - 1)];
                    let wait = if status == 429 { "retry-after: 2\r\n" } else { "" };
                    let _ = (&stream).write_all(format!("HTTP/1.1 {status} X\r\n{wait}content-length: 0\r\nconnection: close\r\n\r\n").as_bytes());
                }
            }
        });
        Self { address, requests }
    }

    fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }
}

/// Verifies as the standard tells receivers to: any of the signatures, each with its version before it.
fn is_standard(secret: &str, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("a secret is base64");
    signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")).any(|signature| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key has any length");
        mac.update([id.as_bytes(), timestamp.as_bytes(), body].join(&b'.').as_slice());
        STANDARD.decode(signature).is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
    })
}

fn is_github(secret: &str, body: &[u8], signature: &str) -> bool {
    let Some(hex) = signature.strip_prefix("sha256=").filter(|hex| hex.len() == 64) else { return false };
    let bytes: Option<Vec<u8>> = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()).collect();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key has any length");
    mac.update(body);
    bytes.is_some_and(|bytes| mac.verify_slice(&bytes).is_ok())
}

#[test]
fn the_receiver_takes_the_published_examples_and_nothing_else() {
    let at = STANDARD_AT.to_string();
    assert!(is_standard(STANDARD_SECRET, STANDARD_ID, &at, STANDARD_BODY.as_bytes(), STANDARD_SIGNATURE));
    // A sender that changes its secret signs with both.
    let both = format!("v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= {STANDARD_SIGNATURE}");
    assert!(is_standard(STANDARD_SECRET, STANDARD_ID, &at, STANDARD_BODY.as_bytes(), &both));
    for (id, at, body, signature) in [
        ("msg_other", "1614265330", STANDARD_BODY, STANDARD_SIGNATURE),
        (STANDARD_ID, "1614265331", STANDARD_BODY, STANDARD_SIGNATURE),
        (STANDARD_ID, "1614265330", r#"{"test":2432232314}"#, STANDARD_SIGNATURE),
        (STANDARD_ID, "1614265330", STANDARD_BODY, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ] {
        assert!(!is_standard(STANDARD_SECRET, id, at, body.as_bytes(), signature), "{id} {at} {body} {signature}");
    }
    assert!(is_github(GITHUB_SECRET, GITHUB_BODY.as_bytes(), GITHUB_SIGNATURE));
    assert!(!is_github(GITHUB_SECRET, b"Hello, World", GITHUB_SIGNATURE));
    assert!(!is_github("another", GITHUB_BODY.as_bytes(), GITHUB_SIGNATURE));
}

// ── the sender ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Sends a body with the headers of a signer, as the handler does, by the performer that the router has.
async fn sent(signer: &Signer, id: &str, at: i64, key: &str, body: &str) -> Request {
    let target = Target::answering(&[204]);
    let url = Endpoint::parse(&format!("http://{}/hook", target.address)).expect("an address").url();
    let mut request = HttpRequest::new(Method::Post, url);
    request.body = body.to_owned().into();
    for (name, value) in signer.headers(id.to_owned(), Timestamp::from_second(at).expect("a time"), key, body.as_bytes()) {
        request = request.header(name, value);
    }
    let effect = Effect { name: "webhook".to_owned(), kind: EffectKind::Write, request: EffectRequest::Http(request), dry_run_reply: None };
    let cx = EffectContext { route: "r".to_owned(), handling: "h".to_owned(), remaining: PATIENCE, cancellation: Cancellation::never() };
    let performer = Performer::new(PerformerOptions::default()).expect("a performer can be made");
    match performer.perform(effect, None, &cx).await.expect("the target answers") {
        EffectReply::Http(reply) => assert_eq!(reply.status, 204),
        other => panic!("no answer of a server: {other:?}"),
    }
    target.next()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_message_of_standard_webhooks_arrives_byte_for_byte() {
    let signer = Signer::new(Signing { style: Style::StandardWebhooks, secret: STANDARD_SECRET.to_owned() }).unwrap_or_else(|error| panic!("{error}"));
    let request = sent(&signer, STANDARD_ID, STANDARD_AT, "any.key", STANDARD_BODY).await;
    assert_eq!(request.line, "POST /hook HTTP/1.1");
    assert_eq!(request.header("webhook-id"), STANDARD_ID);
    assert_eq!(request.header("webhook-timestamp"), "1614265330");
    assert_eq!(request.header("webhook-signature"), STANDARD_SIGNATURE);
    assert_eq!(request.body, STANDARD_BODY.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_message_of_github_arrives_byte_for_byte() {
    let signer = Signer::new(Signing { style: Style::Github, secret: GITHUB_SECRET.to_owned() }).unwrap_or_else(|error| panic!("{error}"));
    let request = sent(&signer, "72d3162e-cc78-11e3-81ab-4c9367dc0958", STANDARD_AT, "tool.mutation.write", GITHUB_BODY).await;
    assert_eq!(request.header("x-hub-signature-256"), GITHUB_SIGNATURE);
    assert_eq!(request.header("x-github-delivery"), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
    assert_eq!(request.header("x-github-event"), "tool.mutation.write");
    assert_eq!(request.body, GITHUB_BODY.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handler_signs_the_bytes_that_arrive_at_the_time_that_it_is() {
    let target = Target::answering(&[200]);
    let mut test = TestContext::new();
    test.clock = VirtualClock::new(Timestamp::from_second(STANDARD_AT).expect("a time"));
    let options = json!({ "url": format!("http://{}/hook", target.address), "hmac": { "style": "standard-webhooks", "secret": STANDARD_SECRET } });
    let handler = test.build::<Webhook>(options).await.unwrap_or_else(|error| panic!("{error}"));
    // Spaces and their places are the sender's, and are signed as they are.
    let envelope = std::sync::Arc::new(
        router_api::Envelope::decode("any.key".parse().expect("a key"), STANDARD_BODY.as_bytes().to_vec(), router_api::DecodeLimits::default())
            .expect("it is JSON"),
    );
    let performer = Performer::new(PerformerOptions::default()).expect("a performer can be made");
    let cx = test.context_over(performer, vec![std::sync::Arc::clone(&envelope)]);
    let _ = handler.handle(&envelope, &cx).await.expect("it is sent");

    let request = target.next();
    assert_eq!((request.body.as_slice(), request.header("webhook-timestamp")), (STANDARD_BODY.as_bytes(), "1614265330"));
    let id = request.header("webhook-id");
    assert_eq!([id, id], [request.header("idempotency-key"), cx.idempotency_key().as_str()]);
    assert!(is_standard(STANDARD_SECRET, id, "1614265330", &request.body, request.header("webhook-signature")));
}

// ── the program ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_program_signs_what_it_sends_and_a_repeat_has_the_same_id_and_a_new_signature() {
    let (standard, github) = (Target::answering(&[429, 200]), Target::answering(&[200]));
    let home = Home::new(&format!(
        r#"
[[route]]
name = "standard"
on = ["tool.#"]
handler = "webhook"
with = {{ url = "http://{}/s", hmac = {{ style = "standard-webhooks", secret = "${{STANDARD_SECRET}}" }} }}

[[route]]
name = "github"
on = ["tool.#"]
handler = "webhook"
with = {{ url = "http://{}/g", body = {{ tool = "{{{{ tool_name }}}}", session = "{{{{ session_id }}}}" }}, hmac = {{ style = "github", secret = "${{GITHUB_SECRET}}" }} }}
"#,
        standard.address, github.address
    ));
    let secrets = [("STANDARD_SECRET", STANDARD_SECRET), ("GITHUB_SECRET", GITHUB_SECRET)];
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.envs(secrets);
    let service = router_tests::Service::start(command);
    let body = json!({ "event_id": "e-1", "event_type": "tool.mutation.write", "payload": { "session_id": "s — 1", "tool_name": "Write" } });
    service.send("tool.mutation.write", &body);

    let (first, second) = (standard.next(), standard.next());
    let mut timestamps = Vec::new();
    for request in [&first, &second] {
        let (id, at) = (request.header("webhook-id"), request.header("webhook-timestamp"));
        assert!(is_standard(STANDARD_SECRET, id, at, &request.body, request.header("webhook-signature")), "{:?}", request.headers);
        assert_eq!(request.body, body.to_string().into_bytes());
        timestamps.push(at.parse::<i64>().expect("seconds"));
    }
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    // Two seconds were asked for, so the time that is signed is another one.
    assert!(timestamps[0] < timestamps[1], "{timestamps:?}");
    assert_ne!(first.header("webhook-signature"), second.header("webhook-signature"));

    let request = github.next();
    assert!(is_github(GITHUB_SECRET, &request.body, request.header("x-hub-signature-256")), "{:?}", request.headers);
    assert_eq!(request.header("x-github-event"), "tool.mutation.write");
    assert_eq!(serde_json::from_slice::<Value>(&request.body).expect("JSON"), json!({ "tool": "Write", "session": "s — 1" }));
    assert_ne!(first.header("idempotency-key"), request.header("idempotency-key"), "each route has its own");

    let events = eventually("both routes have handled it", || {
        let ran = home.run_with(&secrets, &["events", "--json"]).code(0);
        let states: Vec<Value> = ran.json()["events"][0]["deliveries"].as_array()?.iter().map(|delivery| delivery["state"]["fate"].clone()).collect();
        (states == ["handled", "handled"]).then_some(ran.stdout)
    });
    let shown = home.run_with(&secrets, &["config", "show"]).code(0).stdout;
    let log = service.stop().join("\n");
    for secret in [STANDARD_SECRET, GITHUB_SECRET] {
        assert!(![&events, &shown, &log].iter().any(|text| text.contains(secret)), "a secret is shown");
    }
}
