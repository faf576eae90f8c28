//! The HTTP door of the built binary: the examples of its page, who holds a taken port, its tokens, and two thousand connections
//! that say nothing.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use router_tests::{Home, post, request, workspace};
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
    let home = Home::new("");
    let service = home.serve();
    let examples = examples();
    assert!(examples.len() >= 14);
    for (asked, answered) in examples {
        let (head, body) = parts(&asked);
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let headers: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let text = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}", service.address());
        let answer = request(service.address(), text.as_bytes()).expect("an answer");
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
    service.stop();
}

#[test]
fn a_port_that_bloodbank_holds_is_named_with_both_ways_out() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let bloodbank = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked);
        let body = r#"{"ok":true,"service":"bloodbank"}"#;
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n{body}", body.len());
    });
    let home = Home::new("");
    home.write("config/router.toml", &format!("[store]\npath = \"../state/router.db\"\n[http]\nlisten = \"{address}\"\n"));
    let ran = home.run(&["run"]);
    bloodbank.join().expect("it was asked");
    assert_eq!(ran.code, Some(1), "{ran:?}");
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

#[test]
fn two_thousand_silent_and_slow_connections_do_not_hold_up_the_others() {
    const CONNECTIONS: usize = 2_000;
    const EVENTS: u32 = 200;
    let home = Home::new("");
    let service = home.serve();
    let address = service.address();
    let post_all = || {
        let begun = Instant::now();
        for _ in 0..EVENTS {
            let answer = post(address, "/events?key=a", "{}").expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        begun.elapsed()
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
    // Were one of them waited for, a single event would take ten seconds and more.
    assert!(crowded < alone * 5 + Duration::from_secs(5), "{crowded:?} with the crowd, {alone:?} without");
    drop(crowd);
    service.stop();
}
