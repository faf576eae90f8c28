//! Without a router on this machine: events go to a Bloodbank over HTTP, or wait for it.

use std::{
    io::{BufReader, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use router_tests::eventually;
use serde_json::{Value, json};

use crate::world::*;

/// Answers every request the same way; keeps the bodies.
pub fn bloodbank(status: &'static str, body: &'static str) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            while let Some(body_of_request) = request(&mut reader) {
                kept.lock().unwrap().push(body_of_request);
                let _ = reader.get_mut().write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
            }
        }
    });
    (url, bodies)
}

fn request(reader: &mut impl std::io::BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

fn call_with(home: &router_tests::Home, url: &str, name: &str) {
    let mut command = command(home, &[]);
    command.env("BLOODBANK_URL", url);
    is_silent(&call(command, hook(home, name, &json!({})).to_string().as_bytes()));
}

#[test]
fn an_event_that_a_bloodbank_published_before_it_failed_counts_as_published() {
    for (status, body) in [("200 OK", "{}"), ("500 Internal Server Error", "{\"detail\":\"Object of type UUID is not JSON serializable\"}")] {
        let home = home("");
        let (url, bodies) = bloodbank(status, body);
        let spool = router_claude::Spool::at(&home.path().join("spool"), 1_000_000);
        // A machine that stands still may take longer than a hook waits for an answer: then the next call sends it again, under the same id.
        eventually("the spool is empty", || {
            call_with(&home, &url, "Stop");
            (spool.waiting().bytes == 0).then_some(())
        });
        let mut types: Vec<String> = bodies.lock().unwrap().iter().map(|body| body["event_type"].as_str().unwrap_or_default().to_owned()).collect();
        types.dedup();
        assert_eq!(types, ["session.thread.start", "session.thread.turn.completed"], "{status}");
    }
}

#[test]
fn what_a_bloodbank_does_not_take_now_waits_and_comes_first() {
    let home = home("");
    let (away, _) = bloodbank("503 Busy", "");
    call_with(&home, &away, "Stop");
    call_with(&home, "http://127.0.0.1:1", "StopFailure");
    let spool = router_claude::Spool::at(&home.path().join("spool"), 1_000_000);
    assert!(spool.waiting().bytes > 0);
    let (url, bodies) = bloodbank("200 OK", "{}");
    eventually("the spool is empty", || {
        call_with(&home, &url, "SessionEnd");
        (spool.waiting().bytes == 0).then_some(())
    });
    let mut types: Vec<String> = bodies.lock().unwrap().iter().map(|body| body["event_type"].as_str().unwrap_or_default().to_owned()).collect();
    types.dedup();
    assert_eq!(types, ["session.thread.start", "session.thread.turn.completed", "session.thread.error", "session.thread.end"]);
}
