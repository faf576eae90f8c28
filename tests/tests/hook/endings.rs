//! How sessions end: with what their transcripts come to, however long those are, and also when nobody ends them.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    time::SystemTime,
};

use jiff::{Timestamp, ToSpan as _};
use router_claude::{Session, Spool, event::end_id, state::StateDir};
use router_tests::{Home, eventually, post};
use serde_json::{Value, json};

use crate::{bloodbank::bloodbank, world::*};

/// Of a transcript; `tests/run --long` makes 200.
fn mebibytes() -> usize {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { 200 } else { 12 }
}

fn answer(id: &str, input: u64) -> String {
    let answer = json!({
        "type": "assistant", "uuid": id, "requestId": format!("req_{id}"), "sessionId": "s-1", "timestamp": "2026-03-02T09:14:06.900Z",
        "message": { "id": format!("msg_{id}"), "model": "claude-sonnet-4-5", "role": "assistant", "content": [],
            "usage": { "input_tokens": input, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 } }
    });
    answer.to_string() + "\n"
}

/// A mebibyte of what is said in a session, which costs nothing.
fn talk() -> String {
    let line = json!({ "type": "user", "uuid": "u", "sessionId": "s-1", "message": { "role": "user", "content": "x".repeat(900) } }).to_string() + "\n";
    line.repeat(1024 * 1024 / line.len())
}

fn transcript(home: &Home) -> PathBuf {
    home.path().join("transcript.jsonl")
}

fn append(home: &Home, text: &str) {
    File::options().append(true).create(true).open(transcript(home)).unwrap().write_all(text.as_bytes()).unwrap();
}

/// What waits in the spool, with nothing taken from it.
fn spooled(home: &Home, kind: &str) -> Vec<Value> {
    let Some(drain) = Spool::at(&home.path().join("spool"), 1).drain().unwrap() else { return Vec::new() };
    let batch = drain.batch(100_000, usize::MAX).unwrap();
    let events = batch.records.iter().filter_map(|record| serde_json::from_slice::<Value>(&record.body).ok());
    events.filter(|event| event["event_type"] == kind).collect()
}

#[test]
fn a_long_transcript_that_earlier_calls_have_read_is_not_read_again_at_the_end() {
    let home = home("");
    append(&home, &answer("first", 1_000_000));
    for _ in 0..mebibytes() {
        append(&home, &talk());
    }
    eventually("the turns have read what there is", || {
        silent_hook(&home, "Stop", &json!({}));
        spooled(&home, "session.thread.turn.completed").last().filter(|turn| turn["payload"]["total_tokens"] == 1_000_000).map(drop)
    });
    // Whoever read it again from its beginning would count another million.
    let text = fs::read(transcript(&home)).unwrap();
    let changed = answer("first", 2_000_000);
    File::options().write(true).open(transcript(&home)).unwrap().write_all(changed.as_bytes()).unwrap();
    assert_eq!(fs::metadata(transcript(&home)).unwrap().len(), text.len() as u64);
    append(&home, &answer("last", 7));
    silent_hook(&home, "SessionEnd", &json!({ "reason": "other" }));
    let ends = spooled(&home, "session.thread.end");
    assert_eq!((ends.len(), &ends[0]["payload"]["total_tokens"]), (1, &json!(1_000_007)), "{ends:?}");
    assert!(ends[0]["source"]["meta"]["transcript_unread"].is_null());
}

#[test]
fn a_long_transcript_that_nobody_has_read_is_summed_up_by_the_router_that_takes_the_end() {
    let home = home("");
    append(&home, &answer("first", 1_000_000));
    for _ in 0..mebibytes() {
        append(&home, &talk());
    }
    append(&home, &answer("last", 7));
    silent_hook(&home, "SessionEnd", &json!({ "reason": "other" }));
    let service = home.serve();
    let events = seen(&home, 2);
    assert_eq!(keys(&events), ["session.thread.start", "session.thread.end"]);
    assert_eq!((&events[1]["payload"]["total_tokens"], &events[1]["payload"]["total_cost_usd"]), (&json!(1_000_007), &json!(3.000_021)));
    assert_eq!(events[1]["event_id"], end_id("s-1", 0).to_string());
    let meta = &events[1]["source"]["meta"];
    assert_eq!((&meta["cost_estimated"], &meta["transcript_unread"]), (&json!(true), &Value::Null), "{meta}");
    let _ = service.stop();
}

#[test]
fn without_a_router_the_calls_that_come_next_read_it_to_its_end_before_the_end_is_sent() {
    let home = home("");
    let (url, bodies) = bloodbank("200 OK", "{}");
    append(&home, &answer("first", 1_000_000));
    for _ in 0..mebibytes() {
        append(&home, &talk());
    }
    let spool = Spool::at(&home.path().join("spool"), 1_000_000);
    let call_with = |name: &str, session: &str| {
        let mut command = command(&home, &[]);
        command.env("BLOODBANK_URL", &url);
        is_silent(&call(command, hook(&home, name, &json!({ "session_id": session })).to_string().as_bytes()));
    };
    call_with("SessionEnd", "s-1");
    eventually("the spool is empty", || {
        call_with("Notification", "s-2");
        (spool.waiting().bytes == 0).then_some(())
    });
    // The calls may be slower than they wait for an answer, so that an event is sent again, under its id.
    let mut ends = bodies.lock().unwrap().clone();
    ends.retain(|event| event["event_type"] == "session.thread.end");
    ends.dedup();
    assert_eq!((ends.len(), &ends[0]["payload"]["total_tokens"]), (1, &json!(1_000_000)), "{ends:?}");
}

/// Changes what is known of a session, and when that was written.
fn change(home: &Home, id: &str, days_ago: i64, change: impl FnOnce(&mut Session)) {
    let state = StateDir::of_project(&project(home));
    let mut session = state.load(id).expect("the session is known");
    let seen = Timestamp::now() - (24 * days_ago).hours();
    session.last_seen = Some(seen);
    change(&mut session);
    state.save(&session).unwrap();
    File::options().write(true).open(state.file(id)).unwrap().set_modified(SystemTime::from(seen)).unwrap();
}

fn handled(home: &Home) {
    let spool = Spool::at(&home.path().join("spool"), 1);
    eventually("the spool is empty", || (spool.waiting().bytes == 0).then_some(()));
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    eventually("all queues are empty", || {
        let waiting: i64 = store.query_row("SELECT count(*) FROM deliveries WHERE state < 2", [], |row| row.get(0)).ok()?;
        (waiting == 0).then_some(())
    });
}

fn ends_of(home: &Home, session: &str) -> Vec<Value> {
    let text = home.read("seen");
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event_type"] == "session.thread.end" && event["payload"]["session_id"] == session).collect()
}

#[test]
fn a_session_that_nobody_ends_is_ended_by_the_router_and_whoever_else_ends_it_tells_of_the_same_end() {
    let home = home("");
    append(&home, &answer("first", 7));
    for session in ["s-1", "s-2"] {
        silent_hook(&home, "PostToolUse", &json!({ "session_id": session, "tool_name": "Read", "tool_use_id": session }));
    }
    // One has lost its program; that of the other, this test, is still there.
    change(&home, "s-1", 2, |session| session.process = None);
    change(&home, "s-2", 2, |session| assert!(session.process.is_some()));
    let mut service = home.serve();
    let said = service.wait_for("ended as abandoned").expect("the router says so");
    assert!(said.contains("s-1"), "{said}");
    let ends = eventually("the end has come", || Some(ends_of(&home, "s-1")).filter(|ends| !ends.is_empty()));
    assert_eq!(ends[0]["event_id"], end_id("s-1", 0).to_string());
    let payload = &ends[0]["payload"];
    assert_eq!((&payload["end_reason"], &payload["final_status"], &payload["total_tokens"]), (&json!("abandoned"), &json!("abandoned"), &json!(7)));
    // As if the router had been killed before it noted that: the next start ends it once more.
    change(&home, "s-1", 2, |session| session.ended = false);
    silent_hook(&home, "SessionStart", &json!({ "session_id": "s-3", "source": "startup" }));
    assert!(StateDir::of_project(&project(&home)).load("s-1").unwrap().ended);
    handled(&home);
    assert_eq!(ends_of(&home, "s-1").len(), 1, "the same end is handled once");
    assert_eq!(ends_of(&home, "s-2").len(), 0, "it may go on");
    // It was only asleep: it goes on as the same session, and is not a new one.
    silent_hook(&home, "Stop", &json!({ "session_id": "s-1" }));
    eventually("it has gone on", || home.read("seen").contains("session.thread.resumed").then_some(()));
    handled(&home);
    assert_eq!(home.read("seen").matches("\"event_type\":\"session.thread.start\"").count(), 3, "{}", home.read("seen"));
    let _ = service.stop();
}

/// An event of a session, as `POST /hooks/claude-code` made it so many hours ago; `via` is what it says of that.
fn of_http_hook(home: &Home, session: &str, hours_ago: i64, via: Value) {
    let at = Timestamp::now() - hours_ago.hours();
    let event = json!({
        "event_id": format!("{session}-action"), "event_type": "session.thread.agent.action", "timestamp": at, "version": "1.0.0",
        "source": { "host": "127.0.0.1", "type": "hook", "app": "claude-code", "meta": { "hook_event_name": "PostToolUse", "via": via, "resumes": 1 } },
        "correlation_ids": [], "agent_context": null,
        "payload": { "session_id": session, "working_directory": "/home/ada/shop", "turn_number": 3,
            "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": "/home/ada/shop/a.py" }, "success": true } }
    });
    let _ = home.run_with_input(&["publish", "-"], event.to_string().as_bytes()).code(0);
}

#[test]
fn a_session_of_http_hooks_that_nobody_ends_is_ended_once_by_whichever_router_runs_then_and_goes_on_as_the_same() {
    let home = home("");
    of_http_hook(&home, "h-silent", 48, json!("http"));
    of_http_hook(&home, "h-program", 48, Value::Null);
    of_http_hook(&home, "h-fresh", 1, json!("http"));
    let mut service = home.serve();
    let said = service.wait_for("ended as abandoned").expect("the router says so");
    assert!(said.contains("h-silent"), "{said}");
    let ends = eventually("the end has come", || Some(ends_of(&home, "h-silent")).filter(|ends| !ends.is_empty()));
    assert_eq!(ends[0]["event_id"], end_id("h-silent", 1).to_string(), "the id that its own end would have had");
    let payload = &ends[0]["payload"];
    let told = [&payload["end_reason"], &payload["final_status"], &payload["total_turns"], &payload["tools_used"], &payload["files_modified"]];
    assert_eq!(told.map(Value::to_string), ["\"abandoned\"", "\"abandoned\"", "3", "{\"Write\":1}", "[\"a.py\"]"], "{payload}");
    let _ = service.stop();

    // What was ended stays so; another one shows that the next router has looked.
    of_http_hook(&home, "h-later", 30, json!("http"));
    let service = home.serve();
    let _ = eventually("the end of the other", || Some(ends_of(&home, "h-later")).filter(|ends| !ends.is_empty()));
    handled(&home);
    for (session, ends) in [("h-silent", 1), ("h-later", 1), ("h-program", 0), ("h-fresh", 0)] {
        assert_eq!(ends_of(&home, session).len(), ends, "{session}");
    }
    // It was only asleep.
    let hook = json!({ "session_id": "h-later", "cwd": "/home/ada/shop", "hook_event_name": "Stop", "prompt_id": "p" });
    assert_eq!(post(service.address(), "/hooks/claude-code", &hook.to_string()).expect("an answer").status, 200);
    eventually("it goes on", || home.read("seen").contains("session.thread.resumed").then_some(()));
    handled(&home);
    assert!(!home.read("seen").contains("\"event_type\":\"session.thread.start\""), "it is not a new one: {}", home.read("seen"));
    let _ = service.stop();
}

#[test]
fn health_tells_what_waits_in_the_spool() {
    let home = home("");
    let spool = |home: &Home| home.run(&["health", "--json"]).json()["spool"].clone();
    assert_eq!(spool(&home), Value::Null, "there is none");
    silent_hook(&home, "Stop", &json!({}));
    let waiting = spool(&home);
    assert_eq!((&waiting["waiting_events"], &waiting["refused"]), (&json!(2), &json!(0)), "{waiting}");
    assert!(waiting["oldest_at"].is_string() && waiting["waiting_bytes"].as_u64() > Some(0), "{waiting}");
    let said = home.run(&["health"]).code(1).stdout;
    assert!(said.contains("2 events wait in ") && said.contains("the oldest since"), "{said}");
    let service = home.serve();
    eventually("nothing waits", || (spool(&home)["waiting_events"] == 0).then_some(()));
    let _ = service.stop();
}
