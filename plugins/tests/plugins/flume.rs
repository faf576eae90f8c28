//! `flume`: one whole record for each request.

use plugins::flume::Flume;
use router_api::{EffectClass, Method};
use router_testkit::{EventBuilder, TestContext, event};
use serde_json::json;

use crate::{answer, built, class, effect_error, header, is_done, json_body, skipped, wrong_fields};

fn start() -> EventBuilder {
    event("session.thread.start").id("e-1").session("s/1").working_directory("/srv/app").git_branch("main")
}

#[tokio::test]
async fn an_event_puts_the_record_of_its_session() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example/api/", "token": "t0k3n" })).await;
    assert!(is_done(&test.handle(handler.as_ref(), [start()]).await));
    let request = &test.effects.http()[0];
    assert_eq!((request.method, request.url.as_str()), (Method::Put, "http://records.example/api/sessions/s%2F1"));
    assert_eq!(
        json_body(request),
        json!({
            "session_id": "s/1", "state": "active", "git_branch": "main", "working_directory": "/srv/app",
            "source": { "host": "127.0.0.1", "type": "agent", "app": "claude-code" },
            "last_event": { "id": "e-1", "key": "session.thread.start", "type": "session.thread.start", "time": "2026-01-02T03:04:05.25Z" },
            "events": 1, "end": null,
        })
    );
    assert_eq!(header(request, "authorization"), Some("Bearer t0k3n"));
    assert!(!format!("{request:?}").contains("t0k3n"), "the token is never shown");
    assert!(header(request, "idempotency-key").is_some());
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_record_and_a_repeat_has_the_same_key() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    let end = event("session.thread.end").session("s-1").payload(json!({ "end_reason": "user_stop", "final_status": "success", "total_turns": 3 }));
    for _ in 0..2 {
        assert!(is_done(&test.handle(handler.as_ref(), [start().session("s-1"), end.clone()]).await));
    }
    let requests = test.effects.http();
    let body = json_body(&requests[0]);
    assert_eq!((&body["state"], &body["events"], &body["end"]["total_turns"], &body["end"]["summary"]), (&json!("ended"), &json!(2), &json!(3), &json!(null)));
    assert_eq!(header(&requests[0], "idempotency-key"), header(&requests[1], "idempotency-key"));
    assert_eq!(requests[0].body, requests[1].body);
}

#[tokio::test]
async fn answers_decide_what_happens_next() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    for (status, expected) in
        [(500, EffectClass::Failed), (503, EffectClass::Unreachable), (429, EffectClass::Busy), (422, EffectClass::Refused), (302, EffectClass::Refused)]
    {
        answer(&test.effects, "session", status, json!({ "detail": "why" }));
        let handled = test.handle(handler.as_ref(), [start()]).await;
        assert_eq!(class(&handled), expected, "{status}");
        assert!(effect_error(&handled).detail.as_deref().unwrap().contains("why"));
    }
}

#[tokio::test]
async fn an_event_without_session_is_skipped() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    assert_eq!(skipped(&test.handle(handler.as_ref(), [event("system.heartbeat")]).await), "the event names no session");
}

#[tokio::test]
async fn a_session_that_would_climb_out_of_the_path_is_forbidden() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    assert_eq!(class(&test.handle(handler.as_ref(), [start().session("..")]).await), EffectClass::Forbidden);
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let test = TestContext::new().shadow();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    let handled = test.handle(handler.as_ref(), [start().session("s-1")]).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would send: PUT http://records.example/sessions/s-1".to_owned()]));
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_missing_address_is_told_with_what_to_write() {
    let test = TestContext::new();
    assert_eq!(wrong_fields::<Flume>(&test, json!({ "timeout_ms": 0 })).await, ["base", "timeout_ms"]);
    let error = test.build::<Flume>(json!({})).await.err().unwrap();
    assert!(error.problems[0].help.as_deref().unwrap().contains("no session endpoint"));
}
