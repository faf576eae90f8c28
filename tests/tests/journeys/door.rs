//! The HTTP door: what it takes, what it refuses and why, and that a 2xx means on disk.

use std::{collections::BTreeSet, net::SocketAddr};

use router_tests::{Answer, Home, request};
use serde_json::json;

use crate::{
    golden::golden,
    world::{ROUTES, finished, posted, write},
};

/// A request whose head is written out; `HOST` stands for the door.
fn raw(address: SocketAddr, head: &str, body: &str) -> Answer {
    let head = head.replace("HOST", &address.to_string()).replace('\n', "\r\n");
    let text = format!("{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    request(address, text.as_bytes()).expect("the door answers")
}

fn error(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["schema"], &body["kind"]), (&"event-router.error.v1".into(), &kind.into()), "{answer:?}");
    assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{answer:?}");
}

#[test]
fn an_event_is_taken_with_a_key_in_the_query_or_in_itself() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let address = service.address();
    let answer = posted(address, "/events?key=session.thread.agent.action", &write(1, "/home/ada/shop/cart.py").to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    golden(&home, "published-over-http", &answer.json());
    let named = posted(address, "/events", &write(2, "/home/ada/shop/cart.py").to_string());
    assert_eq!((named.status, &named.json()["key"]), (200, &"session.thread.agent.action".into()));
    let encoded = posted(address, "/events?key=kept%2Ewith%20space%C3%A9", "{}");
    assert_eq!((encoded.status, &encoded.json()["key"], &encoded.json()["routed"]), (200, &"kept.with spaceé".into(), &false.into()));
    finished(&home);
    assert_eq!(home.read("seen").matches("\"event_id\"").count(), 2);
    service.stop();
}

#[test]
fn the_health_of_the_process_can_be_asked() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let answer = raw(service.address(), "GET /healthz HTTP/1.1\nhost: HOST", "");
    assert_eq!(answer.status, 200);
    golden(&home, "healthz", &answer.json());
    service.stop();
}

#[test]
fn what_is_no_event_is_a_400_that_does_not_repeat_it() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let address = service.address();
    for body in [
        "{\"event_type\":\"a\",",
        "[1]",
        "",
        "\"hunter2-secret\"",
        "null",
        "{\"a\":1} trailing",
        "{\"event_type\":7}",
        "{\"event_type\":\"\"}",
        "{\"password\":\"hunter2-secret\"",
    ] {
        let answer = posted(address, "/events", body);
        error(&answer, 400, "bad-request");
        assert!(!answer.body.contains("hunter2"), "{answer:?}");
    }
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    error(&posted(address, "/events?key=a", &deep), 400, "bad-request");
    error(&posted(address, &format!("/events?key={}", "a.".repeat(128)), "{}"), 400, "bad-request");
    error(&posted(address, "/events?key=a%1Bb", "{}"), 400, "bad-request");
    error(&posted(address, "/events?kye=a", "{}"), 400, "bad-request");
    error(&posted(address, "/events?key=a&route=kept", "{}"), 400, "bad-request");
    golden(&home, "error-over-http", &posted(address, "/events", "{}").json());
    assert_eq!(home.run(&["events"]).code(0).stdout, "no such events\n", "nothing of it is stored");
    service.stop();
}

#[test]
fn what_is_too_large_is_a_413_whether_it_says_so_or_not() {
    let home = Home::new(&format!("[limits]\nbody_bytes_max = 1_024\n{ROUTES}"));
    let service = home.serve();
    let address = service.address();
    let body = json!({ "event_type": "kept.x", "text": "x".repeat(2_000) }).to_string();
    error(&posted(address, "/events", &body), 413, "too-large");
    let chunked = format!(
        "POST /events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    error(&request(address, chunked.as_bytes()).expect("the door answers"), 413, "too-large");
    // Much is declared and nothing sent: refused without waiting for it.
    let declared =
        format!("POST /events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 9999999999\r\nconnection: close\r\n\r\n");
    error(&request(address, declared.as_bytes()).expect("the door answers"), 413, "too-large");
    assert_eq!(posted(address, "/events?key=kept.small", "{}").status, 200, "the door is still open");
    service.stop();
}

#[test]
fn other_content_types_are_a_415_since_any_web_page_can_send_them() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"] {
        let answer = raw(service.address(), &format!("POST /events?key=a HTTP/1.1\nhost: HOST\ncontent-type: {kind}"), "{}");
        error(&answer, 415, "unsupported-media-type");
    }
    error(&raw(service.address(), "POST /events?key=a HTTP/1.1\nhost: HOST", "{}"), 415, "unsupported-media-type");
    for kind in ["application/json; charset=utf-8", "application/vnd.shop+json", "Application/JSON"] {
        let answer = raw(service.address(), &format!("POST /events?key=a HTTP/1.1\nhost: HOST\ncontent-type: {kind}"), "{}");
        assert_eq!(answer.status, 200, "{kind}: {answer:?}");
    }
    service.stop();
}

#[test]
fn strangers_do_not_get_in_by_a_foreign_host_or_origin() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let (address, port) = (service.address(), service.address().port());
    for host in ["evil.example".to_owned(), format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}"), "127.0.0.1:1".to_owned()] {
        for line in ["POST /events?key=a", "GET /healthz"] {
            error(&raw(address, &format!("{line} HTTP/1.1\nhost: {host}\ncontent-type: application/json"), "{}"), 403, "forbidden");
        }
    }
    for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
        let answer = raw(address, &format!("POST /events?key=a HTTP/1.1\nhost: HOST\norigin: {origin}\ncontent-type: application/json"), "{}");
        error(&answer, 403, "forbidden");
        assert!(!answer.head.to_ascii_lowercase().contains("access-control-allow"), "{answer:?}");
    }
    let own = raw(address, "POST /events?key=a HTTP/1.1\nhost: HOST\norigin: http://localhost:3000\ncontent-type: application/json", "{}");
    assert_eq!(own.status, 200, "{own:?}");
    service.stop();
}

#[test]
fn other_paths_and_methods_are_refused_and_the_admin_api_is_closed_without_a_token_for_it() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let address = service.address();
    for path in ["/", "/api/v1/nothing", "/metrics/", "/events/1"] {
        error(&raw(address, &format!("GET {path} HTTP/1.1\nhost: HOST"), ""), 404, "not-found");
    }
    for path in ["/api/v1/events", "/api/v1/dead-letters", "/api/v1/status"] {
        error(&raw(address, &format!("GET {path} HTTP/1.1\nhost: HOST"), ""), 403, "forbidden");
    }
    error(&raw(address, "GET /events HTTP/1.1\nhost: HOST", ""), 405, "method-not-allowed");
    error(&raw(address, "DELETE /healthz HTTP/1.1\nhost: HOST", ""), 405, "method-not-allowed");
    service.stop();
}

#[test]
fn what_was_answered_with_2xx_is_there_after_a_kill_right_behind_it() {
    let home = Home::new(ROUTES);
    let mut sent = BTreeSet::new();
    for round in 0..3 {
        let service = home.serve();
        for number in 0..5 {
            let id = format!("safe-{round}-{number}");
            let answer = posted(service.address(), "/events?key=nobody.listens", &json!({ "event_type": "nobody.listens", "event_id": id }).to_string());
            assert_eq!(answer.status, 200, "{answer:?}");
            sent.insert(id);
        }
        service.kill();
    }
    let events = home.run(&["events", "--last", "100", "--json"]).code(0).json();
    let events = events["events"].as_array().expect("a list");
    let stored: BTreeSet<String> = events.iter().filter_map(|event| event["id"].as_str()).map(str::to_owned).collect();
    assert_eq!(stored, sent);
    assert_eq!(events.len(), sent.len(), "and none of them twice");
}

#[test]
fn a_sender_that_hangs_up_in_the_middle_harms_nobody() {
    use std::io::Write as _;

    let home = Home::new(ROUTES);
    let service = home.serve();
    let mut half = std::net::TcpStream::connect(service.address()).expect("the door is open");
    let head =
        format!("POST /events?key=kept.x HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"half\":", service.address());
    half.write_all(head.as_bytes()).expect("the door reads");
    drop(half);
    assert_eq!(posted(service.address(), "/events?key=whole.event", "{}").status, 200);
    let events = home.run(&["events", "--json"]).code(0).json();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(1), "{events}");
    service.stop();
}
