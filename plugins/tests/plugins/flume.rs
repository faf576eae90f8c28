//! `flume`: the whole record of a session for each request. On the built program: `tests/tests/integrations/flume.rs`.

use plugins::flume::Flume;
use router_api::{EffectClass, EffectReply, HttpReply, Method};
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
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert!(is_done(&handled));
    let request = &test.effects.http()[0];
    assert_eq!((request.method, request.url.as_str()), (Method::Put, "http://records.example/api/sessions/s%2F1"));
    let body = json_body(request);
    let version = body["version"].as_u64().unwrap();
    assert_eq!(
        body,
        json!({
            "schema": "event-router.session.v1", "session_id": "s/1", "version": version, "state": "active",
            "started_at": body["started_at"], "last_event_at": body["last_event_at"], "ended_at": null, "end": null,
            "working_directory": "/srv/app", "git_branch": "main", "git_remote": null, "project": "app",
            "feature": null, "ticket": null, "parent": null, "origin": "events", "model": null, "host": "127.0.0.1", "app": "claude-code",
            "models": {}, "turns": 0, "tools": {}, "files": [], "commits": [], "tokens": null, "cost_usd": null, "errors": 0, "last_error": null,
            "events": 1, "is_complete": true,
        })
    );
    assert_eq!(header(request, "session-version"), Some(version.to_string().as_str()));
    assert_eq!(header(request, "authorization"), Some("Bearer t0k3n"));
    assert!(!format!("{request:?}").contains("t0k3n"), "the token is never shown");
    assert!(header(request, "idempotency-key").is_some());
    assert_eq!(handled.note.unwrap(), format!("active session, version {version}: answered 200"));
}

#[tokio::test]
async fn the_end_of_a_session_ends_its_record_and_a_repeat_is_the_same_request() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    let end = event("session.thread.end").session("s-1").payload(json!({ "end_reason": "user_stop", "final_status": "success", "total_turns": 3 }));
    for _ in 0..2 {
        assert!(is_done(&test.handle(handler.as_ref(), [start().session("s-1"), end.clone()]).await));
    }
    let requests = test.effects.http();
    let body = json_body(&requests[0]);
    assert_eq!((&body["state"], &body["events"], &body["turns"], &body["end"]["reason"]), (&json!("ended"), &json!(2), &json!(3), &json!("user_stop")));
    assert_eq!(header(&requests[0], "idempotency-key"), header(&requests[1], "idempotency-key"));
    assert_eq!(requests[0].body, requests[1].body);
}

#[tokio::test]
async fn every_session_of_a_burst_has_a_record_of_its_own() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    let of = |session: &str| event("session.thread.message").session(session);
    assert!(is_done(&test.handle(handler.as_ref(), [of("b"), of("a"), of("b")]).await));
    let sent: Vec<_> = test.effects.http().iter().map(|request| (request.url.as_str().to_owned(), json_body(request)["events"].clone())).collect();
    assert_eq!(sent, [("http://records.example/sessions/b".to_owned(), json!(2)), ("http://records.example/sessions/a".to_owned(), json!(1))]);
    let many: Vec<_> = (0..101).map(|n| of(&format!("s{n}"))).collect();
    assert!(test.handle(handler.as_ref(), many).await.result.is_err());
}

#[tokio::test]
async fn answers_decide_what_happens_next() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    for (status, expected) in [
        (500, EffectClass::Failed),
        (408, EffectClass::Failed),
        (503, EffectClass::Unreachable),
        (429, EffectClass::Busy),
        (422, EffectClass::Refused),
        (302, EffectClass::Refused),
        (401, EffectClass::Refused),
        (404, EffectClass::Refused),
    ] {
        answer(&test.effects, "session", status, json!({ "detail": "why" }));
        let handled = test.handle(handler.as_ref(), [start()]).await;
        assert_eq!(class(&handled), expected, "{status}");
        assert!(effect_error(&handled).detail.as_deref().unwrap().contains("why"));
        assert_eq!(effect_error(&handled).message.contains("takes no session records"), status == 404, "{status}");
    }
}

#[tokio::test]
async fn a_page_for_people_keeps_no_record() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    for (status, headers, body) in [
        (200, vec![("content-type", "text/html; charset=utf-8")], "Please sign in"),
        (201, vec![("content-type", "TEXT/HTML")], ""),
        (200, vec![], "\n <!DOCTYPE html><html>"),
        (200, vec![("content-type", "application/json")], "<HTML><body>"),
    ] {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let reply = HttpReply { headers, ..HttpReply::new(status, body) };
        test.effects.once("session", move |_| Ok(EffectReply::Http(reply.clone())));
        let handled = test.handle(handler.as_ref(), [start()]).await;
        assert_eq!(class(&handled), EffectClass::Failed, "{body}");
        assert!(effect_error(&handled).message.contains("a page for people"), "{}", effect_error(&handled));
    }
    // What a server of records says beside 2xx is its own.
    for body in ["", "{\"kept\":true}", "kept <1>"] {
        test.effects.once("session", move |_| Ok(EffectReply::Http(HttpReply::new(200, body))));
        assert!(test.handle(handler.as_ref(), [start()]).await.result.is_ok(), "{body}");
    }
}

#[tokio::test]
async fn a_newer_record_on_the_other_side_is_no_failure() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    for status in [409, 412] {
        answer(&test.effects, "session", status, json!({}));
        assert_eq!(skipped(&test.handle(handler.as_ref(), [start()]).await), "the server has a newer record");
    }
}

#[tokio::test]
async fn an_event_without_session_is_skipped_and_so_is_what_is_no_session() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    assert_eq!(skipped(&test.handle(handler.as_ref(), [event("system.heartbeat")]).await), "the event names no session");
    assert!(skipped(&test.handle(handler.as_ref(), [start().session(&"x".repeat(1 << 20))]).await).contains("too long"));
    let ours = start().source(json!({ "host": "h", "type": "service", "app": "event-router" }));
    assert!(skipped(&test.handle(handler.as_ref(), [ours]).await).contains("only routers"));
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_session_that_would_climb_out_of_the_path_is_forbidden_and_other_hostile_ones_stay_one_segment() {
    let test = TestContext::new();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example/api" })).await;
    for climbing in ["..", "."] {
        assert_eq!(class(&test.handle(handler.as_ref(), [start().session(climbing)]).await), EffectClass::Forbidden);
    }
    for hostile in ["../../admin", "a?b=c#d", "a\r\nx-evil: 1", "https://evil.example/", "$(id)\"'`", "..%2f..", "\u{202e}ün\u{0}", "--x"] {
        let handled = test.handle(handler.as_ref(), [start().session(hostile)]).await;
        let Some(request) = test.effects.http().pop().filter(|_| is_done(&handled)) else {
            assert_eq!(class(&handled), EffectClass::Forbidden, "{hostile:?}");
            continue;
        };
        let rest = request.url.as_str().strip_prefix("http://records.example/api/sessions/").unwrap().to_owned();
        assert!(!rest.contains(['/', '?', '#', '\r', '\n', ' ']) && !rest.is_empty(), "{hostile:?}: {rest}");
        assert_eq!(json_body(&request)["session_id"], hostile);
        assert!(request.headers.iter().all(|header| !header.value.contains(['\r', '\n'])));
    }
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let test = TestContext::new().shadow();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    let handled = test.handle(handler.as_ref(), [start().session("s-1")]).await;
    assert!(handled.note.as_deref().is_some_and(|note| note.starts_with("active session") && !note.contains("answered")), "{:?}", handled.note);
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would send: PUT http://records.example/sessions/s-1".to_owned()]));
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_missing_address_is_told_with_what_to_write() {
    let test = TestContext::new();
    assert_eq!(wrong_fields::<Flume>(&test, json!({ "timeout_ms": 0, "token": "secret\n" })).await, ["base", "timeout_ms", "token"]);
    assert_eq!(wrong_fields::<Flume>(&test, json!({ "base": "http://records.example", "token": "" })).await, ["token"]);
    let error = test.build::<Flume>(json!({})).await.err().unwrap();
    assert!(error.problems[0].help.as_deref().unwrap().contains("no session endpoint"));
}
