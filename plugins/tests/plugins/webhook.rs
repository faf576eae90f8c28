//! `webhook`: what is sent, how it is signed, and what the answer does.

use std::time::Duration;

use plugins::webhook::Webhook;
use router_api::{EffectClass, EffectReply, HttpReply, Method};
use router_testkit::{EventBuilder, TestContext, event};
use serde_json::json;

use crate::{answer, built, class, effect_error, header, is_done, json_body, wrong_fields};

fn write() -> EventBuilder {
    event("tool.mutation.write").session("s 1").tool("Write").file("/p/a.py")
}

#[tokio::test]
async fn the_newest_event_is_sent_byte_for_byte() {
    let test = TestContext::new();
    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/hooks/{{ session_id }}?tool={{ tool_name }}" })).await;
    let newest = write();
    assert!(is_done(&test.handle(handler.as_ref(), [write(), newest.clone()]).await));
    let request = &test.effects.http()[0];
    assert_eq!((request.method, request.url.as_str()), (Method::Post, "https://ci.example/hooks/s%201?tool=Write"));
    assert_eq!(request.body, newest.bytes());
    assert_eq!(header(request, "content-type"), Some("application/json"));
    assert!(header(request, "idempotency-key").is_some());
}

#[tokio::test]
async fn a_body_a_burst_and_headers_are_made_as_configured() {
    let test = TestContext::new();
    let options = json!({
        "url": "https://ci.example/", "method": "PUT", "body": { "tool": "{{ tool_name }}", "n": "{{ events }}" },
        "headers": { "X-Session": "{{ session_id }}", "Content-Type": "application/vnd.ci+json" }, "secret_headers": { "Authorization": "Bearer hidden" },
    });
    let handler = built::<Webhook>(&test, options).await;
    assert!(is_done(&test.handle(handler.as_ref(), [write(), write()]).await));
    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/", "send": "burst" })).await;
    let burst = [write(), write()];
    assert!(is_done(&test.handle(handler.as_ref(), burst.clone()).await));

    let requests = test.effects.http();
    assert_eq!(json_body(&requests[0]), json!({ "tool": "Write", "n": 2 }));
    assert_eq!(requests[0].headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-type")).count(), 1);
    assert_eq!((header(&requests[0], "x-session"), header(&requests[0], "authorization")), (Some("s 1"), Some("Bearer hidden")));
    assert!(!format!("{:?}", requests[0]).contains("hidden"));
    assert_eq!(json_body(&requests[1]), json!([burst[0].body(), burst[1].body()]));
}

#[tokio::test]
async fn signatures_go_along_and_the_id_stays_while_the_time_does_not() {
    let test = TestContext::new();
    let options = json!({ "url": "https://ci.example/", "hmac": { "style": "standard-webhooks", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" } });
    let handler = built::<Webhook>(&test, options).await;
    let event = write();
    test.handle(handler.as_ref(), [event.clone()]).await;
    test.clock.advance(Duration::from_secs(90));
    test.handle(handler.as_ref(), [event.clone()]).await;
    let requests = test.effects.http();
    let of = |index: usize, name: &str| header(&requests[index], name).unwrap().to_owned();
    assert_eq!(of(0, "webhook-id"), of(1, "webhook-id"));
    assert_eq!(of(0, "webhook-id"), of(0, "idempotency-key"));
    assert_eq!(of(1, "webhook-timestamp").parse::<i64>().unwrap() - of(0, "webhook-timestamp").parse::<i64>().unwrap(), 90);
    assert!(of(0, "webhook-signature").starts_with("v1,") && of(0, "webhook-signature") != of(1, "webhook-signature"));

    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/", "hmac": { "style": "github", "secret": "s" } })).await;
    test.handle(handler.as_ref(), [event]).await;
    let request = &test.effects.http()[2];
    assert!(header(request, "x-hub-signature-256").unwrap().starts_with("sha256="));
    assert_eq!(header(request, "x-github-event"), Some("tool.mutation.write"));
}

#[tokio::test]
async fn answers_decide_what_happens_next() {
    let test = TestContext::new();
    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/" })).await;
    for (status, expected) in
        [(500, EffectClass::Failed), (502, EffectClass::Unreachable), (400, EffectClass::Refused), (410, EffectClass::Refused), (301, EffectClass::Refused)]
    {
        answer(&test.effects, "webhook", status, json!({}));
        assert_eq!(class(&test.handle(handler.as_ref(), [write()]).await), expected, "{status}");
    }
    assert!(is_done(&test.handle(handler.as_ref(), [write()]).await));
}

#[tokio::test]
async fn the_time_that_the_target_asks_for_is_kept_in_both_its_forms() {
    let test = TestContext::new();
    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/" })).await;
    let context = test.context_over(std::sync::Arc::new(test.effects.clone()), vec![write().envelope()]);
    let in_two_minutes = context.now() + Duration::from_secs(120);
    let date = jiff::fmt::rfc2822::to_string(&in_two_minutes.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
    for (value, expected) in [("7".to_owned(), Some(7)), (date, Some(120)), ("soon".to_owned(), None)] {
        let reply = HttpReply { headers: vec![("retry-after".to_owned(), value.clone())], ..HttpReply::new(429, "") };
        test.effects.once("webhook", move |_| Ok(EffectReply::Http(reply.clone())));
        let handled = test.handle(handler.as_ref(), [write()]).await;
        let seconds = effect_error(&handled).retry_after.map(|delay| delay.as_secs_f64().round() as u64);
        assert_eq!((class(&handled), seconds), (EffectClass::Busy, expected), "{value}");
    }
}

#[tokio::test]
async fn a_missing_field_is_never_tried_again() {
    let test = TestContext::new();
    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/{{ git_branch }}" })).await;
    assert_eq!(class(&test.handle(handler.as_ref(), [write()]).await), EffectClass::Refused);
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let test = TestContext::new().shadow();
    let handler = built::<Webhook>(&test, json!({ "url": "https://ci.example/x" })).await;
    let handled = test.handle(handler.as_ref(), [write()]).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would send: POST https://ci.example/x".to_owned()]));
}

#[tokio::test]
async fn all_that_is_wrong_with_the_options_comes_at_once() {
    let test = TestContext::new();
    let options = json!({
        "url": "https://ci.example/", "method": "GET", "send": "event", "body": {}, "timeout_ms": 0,
        "headers": { "Host": "x", "bad name": "x", "X-A": "1" }, "secret_headers": { "x-a": "2", "x-b": "{{ key }}", "x-c": "line\n" },
        "hmac": { "style": "standard-webhooks", "secret": "plain" },
    });
    let fields = wrong_fields::<Webhook>(&test, options).await;
    assert_eq!(
        fields,
        ["headers.Host", "headers.bad name", "hmac.secret", "method", "secret_headers.x-a", "secret_headers.x-b", "secret_headers.x-c", "send", "timeout_ms"]
    );
    assert!(test.build::<Webhook>(json!({ "url": "https://{{ session_id }}.example/" })).await.is_err(), "no event chooses the host");
    let signed = json!({ "url": "https://ci.example/", "headers": { "Webhook-Id": "mine" }, "hmac": { "style": "standard-webhooks", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" } });
    assert_eq!(wrong_fields::<Webhook>(&test, signed).await, ["headers.Webhook-Id"]);
}
