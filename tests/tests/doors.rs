//! The HTTP door of the built binary: the examples of its page, who holds a taken port, its tokens and what they open, hostile requests,
//! and two thousand connections that say nothing.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use router_tests::{Home, eventually, post, request, workspace};
use serde_json::Value;

/// A request and the answer to it, as they stand on the page.
fn examples() -> Vec<(String, String)> {
    let text = fs::read_to_string(workspace().join("docs/http.md")).expect("the page is there");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "```http" {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
        }
    }
    assert_eq!(blocks.len() % 2, 0, "each request has its answer");
    blocks.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn parts(block: &str) -> (&str, &str) {
    block.split_once("\n\n").unwrap_or((block, ""))
}

/// Equal, except where the page has `…`.
fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(text), found) if text == "…" => !found.is_null(),
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len() && expected.iter().all(|(name, value)| found.get(name).is_some_and(|found| fits(value, found)))
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(expected, found)| fits(expected, found))
        }
        _ => expected == found,
    }
}

#[test]
fn every_example_of_the_page_is_what_the_door_answers() {
    let (plain, guarded) = (Home::new(""), with_token("0f3c51d2a7e94b6c8d1e", ""));
    let (plain, guarded) = ((plain.serve(), plain), (guarded.serve(), guarded));
    let examples = examples();
    assert!(examples.len() >= 17);
    for (asked, answered) in examples {
        let (head, body) = parts(&asked);
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let headers: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        // What is sent with a token goes to a door that knows it.
        let address = if headers.contains("Authorization:") { guarded.0.address() } else { plain.0.address() };
        let text = format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        let answer = request(address, text.as_bytes()).expect("an answer");
        let (head, body) = parts(&answered);
        assert!(answer.head.starts_with(head), "{asked}\nis answered with\n{answer:?}");
        match body {
            "" => assert_eq!(answer.body, "", "{asked}"),
            body => {
                let expected = serde_json::from_str(body).expect("the page has JSON");
                assert!(fits(&expected, &answer.json()), "{asked}\nis answered with\n{}\nnot\n{body}", answer.body);
            }
        }
    }
    plain.0.stop();
    let log = guarded.0.stop();
    let told = log.iter().find(|line| line.contains("routes/ci/pause")).expect("the verb is told");
    let page = fs::read_to_string(workspace().join("docs/http.md")).expect("the page is there");
    let line = page.lines().map(str::trim_start).find(|line| line.starts_with("WARN")).expect("the page shows the line");
    let sentence = line.trim_start_matches("WARN").trim().split(" outcome=").next().expect("a sentence");
    assert!(told.contains(sentence), "{told}");
}

#[test]
fn a_port_that_bloodbank_holds_is_named_with_both_ways_out() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let is_over = Arc::new(AtomicBool::new(false));
    let bloodbank = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked);
                let body = r#"{"ok":true,"service":"bloodbank"}"#;
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n{body}", body.len());
            }
        }
    });
    let home = Home::new("");
    home.write("config/router.toml", &format!("[store]\npath = \"../state/router.db\"\n[http]\nlisten = \"{address}\"\n"));
    // Who holds the port has a few seconds to say who it is, which a machine that is busy may well be too slow for.
    let ran = eventually("the holder of the port says who it is", || Some(home.run(&["run"]).code(1)).filter(|ran| ran.stderr.contains("a running Bloodbank")));
    is_over.store(true, Ordering::SeqCst);
    drop(TcpStream::connect(address));
    bloodbank.join().expect("it answered");
    for part in ["a running Bloodbank", "stop it", "listen = \"off\""] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

#[test]
fn the_doors_tokens_come_from_the_configuration_and_are_told_to_nobody() {
    let home = Home::new("");
    let token = "0f3c51d2a7e94b6c8d1e";
    home.write("token", token);
    let config = "[store]\npath = \"../state/router.db\"\n[http]\nlisten = \"0.0.0.0:0\"\nallowed_hosts = [\"router.lan\"]\n";
    home.write("config/router.toml", config);
    let refused = home.run(&["check"]);
    assert_eq!(refused.code, Some(78), "without tokens it does not open: {refused:?}");
    home.write("config/router.toml", &format!("{config}tokens = {{ laptop = \"${{file:../token}}\" }}\n"));
    let service = home.serve();
    let address = SocketAddr::from(([127, 0, 0, 1], service.address().port()));
    let ask = |host: &str, authorization: &str| {
        let body = r#"{"event_type":"a"}"#;
        let text = format!(
            "POST /events HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        request(address, text.as_bytes()).expect("an answer").status
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(ask(&address.to_string(), ""), 401);
    assert_eq!(ask(&address.to_string(), "Authorization: Bearer 0f3c51d2a7e94b6c8d1f\r\n"), 401);
    assert_eq!(ask("evil.example", &bearer), 403);
    assert_eq!(ask("router.lan", &bearer), 200);
    let log = service.stop().join("\n");
    let shown = home.run(&["config", "show"]).code(0).stdout;
    assert!(!log.contains(token) && !shown.contains(token), "{shown}");
}

/// Of a client that may send events alone.
const SENDERS_TOKEN: &str = "81b2d0c4e6f7a9931c55";

/// A door with a token for one admin, and for one client that sends.
fn with_token(token: &str, routes: &str) -> Home {
    let home = Home::new(routes);
    let tokens = format!("[http]\ntokens = {{ ci = \"{SENDERS_TOKEN}\" }}\nadmin_tokens = {{ laptop = \"{token}\" }}\n");
    let text = home.read("config/router.toml").replace("[http]\n", &tokens);
    home.write("config/router.toml", &text);
    home
}

fn ask(address: SocketAddr, line: &str, token: &str, body: &str) -> router_tests::Answer {
    let text = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request(address, text.as_bytes()).expect("an answer")
}

#[test]
fn the_admin_api_over_tcp_says_without_tokens_how_to_set_one() {
    let home = Home::new("");
    let service = home.serve();
    let answer = ask(service.address(), "POST /api/v1/reload", "0f3c51d2a7e94b6c8d1e", "");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.json()["error"].as_str().is_some_and(|sentence| sentence.contains("[http] admin_tokens")), "{answer:?}");
    let log = service.stop().join("\n");
    assert!(!log.contains("asked for"), "a verb that nobody carried out is not told: {log}");
}

#[test]
fn who_asked_for_what_over_tcp_or_the_socket_stands_in_the_log() {
    let token = "0f3c51d2a7e94b6c8d1e";
    let home = with_token(token, "[[route]]\nname = \"does\"\non = [\"a\"]\nhandler = \"log\"\n");
    let service = home.serve();
    let status = |line: &str, body: &str| ask(service.address(), line, token, body).status;
    assert_eq!(status("GET /api/v1/status", ""), 200);
    assert_eq!(status("POST /api/v1/routes/does/pause", ""), 200);
    for (line, body) in [("POST /api/v1/dead-letters/discard", "{}"), ("GET /api/v1/dead-letters", ""), ("GET /api/v1/status", "")] {
        assert_eq!(ask(service.address(), line, SENDERS_TOKEN, body).status, 403, "{line}");
    }
    for (line, body) in [("GET /metrics", ""), ("GET /readyz", ""), ("POST /events", r#"{"event_type":"b"}"#)] {
        assert_eq!(ask(service.address(), line, SENDERS_TOKEN, body).status, 200, "{line}");
    }
    assert_eq!(status("POST /api/v1/routes/nobody%0a%1b[31m/pause", ""), 400);
    assert_eq!(status("POST /api/v1/dead-letters/discard", "{\"ruote\":1}"), 400);
    assert_eq!(ask(service.address(), "POST /api/v1/routes/does/resume", "0f3c51d2a7e94b6c8d1f", "").status, 401);
    let _ = home.run(&["routes", "resume", "does"]).code(0);
    let log = service.stop();
    let told: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(|line: &Value| line["verb"].is_string()).collect();
    let user = told.last().and_then(|line| line["user"].as_str()).expect("the log knows who asked through the socket");
    let own = rustix::process::getuid().as_raw();
    assert!(own != 0 || user == "root", "{user}");
    assert!(told.iter().rev().skip(1).all(|line| line["user"].is_null()), "{told:?}");
    let sentence = format!("client `socket` (user `{user}`) asked for `POST /api/v1/routes/does/resume`: done");
    assert!(log.iter().any(|line| line.contains(&sentence)), "{log:?}");
    let told: Vec<_> = told.iter().map(|line| ["client", "verb", "outcome"].map(|name| line[name].as_str().unwrap_or_default())).collect();
    assert_eq!(
        told,
        [
            ["laptop", "POST /api/v1/routes/does/pause", "done"],
            ["laptop", "POST /api/v1/routes/nobody%0a%1b[31m/pause", "refused"],
            ["laptop", "POST /api/v1/dead-letters/discard", "refused"],
            ["socket", "POST /api/v1/routes/does/resume", "done"],
        ],
        "{log:?}"
    );
}

#[test]
fn what_is_not_there_is_not_found() {
    let token = "0f3c51d2a7e94b6c8d1e";
    let home = with_token(token, "[[route]]\nname = \"does\"\non = [\"a\"]\nhandler = \"log\"\n");
    let service = home.serve();
    for (line, body, sentence) in [
        ("POST /api/v1/routes/nobody/enable", r#"{"from":"now"}"#, "there is no route `nobody` in the configuration; there are `does`"),
        ("POST /api/v1/routes/nobody/pause", "", "there is no route `nobody`; there are `does`"),
        ("GET /api/v1/events/nothing", "", "there is no stored event `nothing`"),
        ("GET /api/v1/events/4711", "", "there is no stored event `4711`"),
        ("GET /api/v1/dead-letters/nothing", "", "there is no dead letter `nothing`"),
    ] {
        let answer = ask(service.address(), line, token, body);
        assert_eq!(answer.status, 404, "{line}: {answer:?}");
        let told = answer.json();
        assert_eq!((told["kind"].as_str(), told["error"].as_str()), (Some("not-found"), Some(sentence)), "{line}");
    }
    let on = ask(service.address(), "POST /api/v1/routes/does/enable", token, r#"{"from":"now"}"#);
    assert_eq!(on.status, 400, "what is there and cannot be is no missing thing: {on:?}");
    let unknown = home.run(&["explain", "nothing"]).code(1);
    assert!(unknown.stderr.contains("no stored event `nothing` and no file of that name"), "{}", unknown.stderr);
    service.stop();
}

#[test]
fn tokens_that_have_changed_say_that_they_need_a_restart() {
    let token = "0f3c51d2a7e94b6c8d1e";
    let home = with_token(token, "");
    let mut service = home.serve();
    let other = "5d0e77f3b1a24c9e8f60";
    home.write("config/router.toml", &home.read("config/router.toml").replace(token, other));
    let reloaded = ask(service.address(), "POST /api/v1/reload", token, "");
    assert_eq!((reloaded.status, &reloaded.json()["result"]["needs_restart"]), (200, &serde_json::json!(["http"])), "{reloaded:?}");
    let _ = service.wait_for("`http` has changed, which needs a restart").expect("the log says so");
    assert_eq!(ask(service.address(), "GET /api/v1/status", token, "").status, 200, "what the door was opened with counts");
    assert_eq!(ask(service.address(), "GET /api/v1/status", other, "").status, 401);
    service.stop();
}

#[test]
fn a_verb_whose_client_hangs_up_is_carried_out_and_told() {
    let token = "0f3c51d2a7e94b6c8d1e";
    let home = with_token(token, "[[route]]\nname = \"does\"\non = [\"a\"]\nhandler = \"log\"\n");
    let mut service = home.serve();
    let address = service.address();
    let mut stream = TcpStream::connect(address).expect("the door is open");
    let text = format!("POST /api/v1/reload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).expect("it can be sent");
    drop(stream);
    let told = service.wait_for("asked for `POST /api/v1/reload`").expect("it is told");
    assert!(told.contains("done"), "{told}");
    service.stop();
}

#[test]
fn the_id_in_an_answer_is_the_one_that_the_event_is_found_by() {
    let home = Home::new("");
    let service = home.serve();
    let secret = ["ghp_", "FiNdMeGiThUb0123456789abcdefghijklmnop"].concat();
    let answers = [
        post(service.address(), "/events", &format!("{{\"event_type\":\"a\",\"event_id\":\"{secret}\"}}")).expect("an answer"),
        post(service.address(), "/events", &format!("[{{\"event_type\":\"a\",\"event_id\":\"{secret}\"}}]")).expect("an answer"),
    ];
    let published = home.run_with_input(&["publish", "-", "--key", "a", "--json"], format!("{{\"event_id\":\"{secret}\"}}").as_bytes()).code(0).json();
    let envelope = format!("{{\"session_id\":\"s\",\"error_type\":\"x\",\"error_message\":\"{secret}\"}}");
    let envelope = post(service.address(), "/events/claude-code/error", &envelope).expect("an answer");
    assert_eq!(envelope.status, 200, "{envelope:?}");
    assert!(!envelope.body.contains(&secret), "the answer is what is stored: {envelope:?}");
    service.stop();
    // Without a router, the command takes the event in itself.
    let alone = home.run_with_input(&["publish", "-", "--key", "a", "--json"], format!("{{\"event_id\":\"{secret}\"}}").as_bytes()).code(0).json();
    let of_batch = answers[1].json()["events"][0].clone();
    for published in [answers[0].json(), of_batch, published, alone] {
        let id = published["event_id"].as_str().expect("it has an id").to_owned();
        assert!(!id.contains(&secret) && !id.is_empty(), "{published}");
        let found = home.run(&["events", "--json"]).code(0).json();
        let found = found["events"].as_array().expect("events").iter().find(|event| event["seq"] == published["seq"]).cloned().expect("it is there");
        assert_eq!(found["id"], published["event_id"]);
    }
    let found = home.run(&["events", "--json", "--last", "100"]).code(0).json();
    let stored = found["events"].as_array().expect("events").iter().find(|event| event["key"] == "session.thread.error").cloned().expect("it is there");
    assert_eq!(stored["body"].as_str(), Some(envelope.body.as_str()));
}

#[test]
fn two_thousand_silent_and_slow_connections_do_not_hold_up_the_others() {
    const CONNECTIONS: usize = 2_000;
    const EVENTS: u32 = 200;
    let home = Home::new("");
    let service = home.serve();
    let address = service.address();
    // The median, since what else the machine does falls on some of them.
    let post_all = || {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..EVENTS {
            let begun = Instant::now();
            let answer = post(address, "/events?key=a", "{}").expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            times.push(begun.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    };
    let alone = post_all();
    let mut crowd = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address).expect("the door is open");
        let _ = match number % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"POST /events HTTP/1.1\r\nHost: loc"),
            _ => stream.write_all(
                format!("POST /events?key=slow HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{").as_bytes(),
            ),
        };
        crowd.push(stream);
    }
    let crowded = post_all();
    // Were one of them waited for, each event would take ten seconds and more.
    assert!(crowded < alone * 5 + Duration::from_secs(3), "{crowded:?} for an event with the crowd, {alone:?} without");
    drop(crowd);
    service.stop();
}

/// What is sent after the request line and the right `Host`, and the status that answers it; 0 for a connection that is closed without
/// a word.
fn hostile() -> Vec<(&'static str, String, &'static [u16])> {
    let json = "Content-Type: application/json\r\n";
    let with = |line: &str, headers: &str, body: &str| format!("{line} HTTP/1.1\r\nHost: HOST\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    let event = |body: &str| with("POST /events?key=hostile", json, body);
    let raw = |rest: &str| format!("POST /events?key=hostile HTTP/1.1\r\n{rest}");
    let bad = &[400][..];
    let mut all = vec![
        ("nothing", event(""), bad),
        ("a word", event("hello"), bad),
        ("half an object", event("{\"a\":"), bad),
        ("two objects", event("{}{}"), bad),
        ("an object and a word", event("{} x"), bad),
        ("a number", event("1"), bad),
        ("null", event("null"), bad),
        ("a text", event("\"x\""), bad),
        ("an array of numbers", event("[1,2]"), bad),
        ("half an array", event("[{}"), bad),
        ("an array in an array", event("[[{}]]"), bad),
        ("a single quote", event("{'a':1}"), bad),
        ("a comment", event("{/*x*/\"a\":1}"), bad),
        ("a trailing comma", event("{\"a\":1,}"), bad),
        ("NaN", event("{\"a\":NaN}"), bad),
        ("a lone surrogate", event("{\"a\":\"\\ud800\"}"), bad),
        ("a control character", event("{\"a\":\"\u{1}\"}"), bad),
        ("a byte order mark", event("\u{feff}{}"), bad),
        ("a zero byte", event("{\"a\":1}\u{0}"), bad),
        ("deep objects", event(&format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000))), bad),
        ("deep arrays", event(&format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000))), bad),
        ("open arrays", event(&"[".repeat(100_000)), bad),
        ("too many events", event(&format!("[{}]", vec!["{}"; 1_001].join(","))), bad),
        ("too many lines", with("POST /events?key=hostile", "Content-Type: application/x-ndjson\r\n", &"{}\n".repeat(1_001)), bad),
        ("a line that is none", with("POST /events?key=hostile", "Content-Type: application/x-ndjson\r\n", "{}\nx"), bad),
        ("an empty key", with("POST /events?key=", json, "{}"), bad),
        ("a key with a line break", with("POST /events?key=a%0Ab", json, "{}"), bad),
        ("a long key", with(&format!("POST /events?key={}", "k".repeat(300)), json, "{}"), bad),
        ("an unknown parameter", with("POST /events?kye=a", json, "{}"), bad),
        ("an address that is not theirs", with("POST /events?key=a&route=ci", json, "{}"), bad),
        ("no key", with("POST /events", json, "{}"), bad),
        ("a key that is a number", with("POST /events", json, "{\"event_type\":1}"), bad),
        ("no type", with("POST /events?key=hostile", "", "{}"), &[415]),
        ("text", with("POST /events?key=hostile", "Content-Type: text/plain\r\n", "{}"), &[415]),
        ("a form", with("POST /events?key=hostile", "Content-Type: application/x-www-form-urlencoded\r\n", "a=1"), &[415]),
        ("a compressed body", with("POST /events?key=hostile", &format!("{json}Content-Encoding: gzip\r\n"), "\u{1f}\u{8b}\u{8}"), bad),
        ("half a CloudEvent", with("POST /events", "Content-Type: application/cloudevents+json\r\n", "{\"type\":\"a\"}"), bad),
        ("a batch that is none", with("POST /events", "Content-Type: application/cloudevents-batch+json\r\n", "{}"), bad),
        ("headers of half a CloudEvent", with("POST /events", &format!("{json}ce-specversion: 1.0\r\n"), "{}"), bad),
        (
            "an attribute twice",
            with("POST /events", &format!("{json}ce-specversion: 1.0\r\nce-id: 1\r\nce-id: 2\r\nce-source: s\r\nce-type: t\r\n"), "{}"),
            bad,
        ),
        ("a foreign host", raw("Host: evil.example\r\nContent-Length: 0\r\n\r\n"), &[403]),
        ("two hosts", raw("Host: HOST\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"), bad),
        ("no host", raw("Content-Length: 0\r\n\r\n"), bad),
        ("a foreign page", with("POST /events?key=hostile", &format!("{json}Origin: https://evil.example\r\n"), "{}"), &[403]),
        ("a page of nowhere", with("POST /events?key=hostile", &format!("{json}Origin: null\r\n"), "{}"), &[403]),
        ("a foreign address", with("POST http://evil.example/events?key=hostile", json, "{}"), &[403]),
        ("both lengths", raw(&format!("Host: HOST\r\n{json}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")), bad),
        ("two lengths", raw(&format!("Host: HOST\r\n{json}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}")), bad),
        ("a length below zero", raw(&format!("Host: HOST\r\n{json}Content-Length: -2\r\n\r\n{{}}")), bad),
        ("a length that is a word", raw(&format!("Host: HOST\r\n{json}Content-Length: two\r\n\r\n{{}}")), bad),
        ("a length beyond counting", raw(&format!("Host: HOST\r\n{json}Content-Length: 99999999999999999999999\r\n\r\n{{}}")), bad),
        ("a giant length", raw(&format!("Host: HOST\r\n{json}Content-Length: 999999999999\r\n\r\n")), &[413]),
        ("a chunk of no size", raw(&format!("Host: HOST\r\n{json}Transfer-Encoding: chunked\r\n\r\nzz\r\n")), &[400, 0]),
        ("an encoding that nobody knows", raw(&format!("Host: HOST\r\n{json}Transfer-Encoding: gzip\r\n\r\n")), &[400, 411, 501]),
        ("a header without end", raw(&format!("Host: HOST\r\nx: {}\r\n\r\n", "y".repeat(200_000))), &[431]),
        ("a thousand headers", raw(&format!("Host: HOST\r\n{}\r\n", "x: y\r\n".repeat(1_000))), &[431]),
        ("a header that is none", raw("Host: HOST\r\nno colon\r\n\r\n"), bad),
        ("a folded header", raw("Host: HOST\r\nx: a\r\n b\r\n\r\n"), bad),
        ("no HTTP", "hello\r\n\r\n".to_owned(), bad),
        ("another protocol", "\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n".to_owned(), &[400, 0]),
        ("another version", "POST /events HTTP/9.9\r\n\r\n".to_owned(), &[400, 505, 0]),
        ("another method", with("DELETE /events", json, ""), &[405]),
        ("a preflight", with("OPTIONS /events", "Origin: http://localhost\r\n", ""), &[405]),
        ("another path", with("POST /../../etc/passwd", json, "{}"), &[404]),
        ("an admin's path", with("GET /api/v1/status", "", ""), &[403]),
        ("an admin's verb", with("POST /api/v1/dead-letters/discard", json, "{}"), &[403]),
        ("an admin's verb in other words", with("POST /api/v1/%64ead-letters/discard", json, "{}"), &[403, 404]),
        ("an admin's verb behind a detour", with("POST //api/v1/reload", "", ""), &[404]),
        ("a key that is no text", with("POST /events?key=%ff", json, "{}"), bad),
        ("a key that is half a letter", with("POST /events?key=a%C3", json, "{}"), bad),
        ("a query that is no text", with("POST /hooks/claude-code?%ff=1", json, "{}"), bad),
        ("an odd path of an agent", with("POST /events/agent/%ff/heartbeat", json, "{\"agent_name\":\"x\",\"status\":\"ok\"}"), bad),
        ("a line break in an agent", with("POST /events/agent/a%0Ab/heartbeat", json, "{\"agent_name\":\"x\",\"status\":\"ok\"}"), bad),
        ("wrong fields", with("POST /events/claude-code/message", json, "{\"session_id\":[]}"), &[422]),
        ("half a hook", with("POST /hooks/claude-code", json, "{"), bad),
    ];
    let chunks = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(80);
    all.push(("chunks without end", raw(&format!("Host: HOST\r\n{json}Transfer-Encoding: chunked\r\n\r\n{chunks}")), &[413]));
    all
}

#[test]
fn hostile_requests_are_refused_and_leave_nothing_behind() {
    let home = Home::new("");
    let service = home.serve();
    let address = service.address();
    let all = hostile();
    assert!(all.len() >= 60);
    let answered = |(what, text, expected): (&'static str, String, &'static [u16])| {
        let status = hostile_status(address, text.replace("HOST", &address.to_string()).as_bytes());
        (!expected.contains(&status)).then(|| format!("{what}: {status}, not {expected:?}"))
    };
    let wrong: Vec<String> = all.into_iter().filter_map(answered).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let answer = post(address, "/events?key=honest", "{}").expect("an answer");
    assert_eq!((answer.status, &answer.json()["seq"]), (200, &Value::from(1)), "nothing hostile was stored: {answer:?}");
    service.stop();
}

fn hostile_status(address: SocketAddr, bytes: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).expect("the door is open");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time can be set");
    let _ = stream.write_all(bytes);
    // The status is enough: who waits for the end of a connection that is kept open waits for its time-out.
    let mut answer = vec![0; 16];
    let mut read = 0;
    while read < answer.len() {
        match stream.read(&mut answer[read..]) {
            // A wait that has a limit is not taken up again by itself when this process was stopped for a moment.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(bytes) => read += bytes,
        }
    }
    String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
