//! The plugin without a broker, a network or a clock: alone, and on a route.

use router_api::{Outcome, Plugin as _};
use router_testkit::{TestContext, TestRouter, event, handler_conformance};
use serde_json::json;
use {{crate}}::{{Name}}Options;

#[tokio::test]
async fn it_answers_an_event_of_a_session() {
    let test = TestContext::new();
    let handler = test.build::<{{Name}}Options>(json!({ "text": "hello" })).await.expect("the options are right");

    let handled = test.handle(handler.as_ref(), [event("session.thread.start").session("s-1")]).await;
    assert!(matches!(handled.result, Ok(Outcome::Done)));
    assert_eq!(handled.emits[0].key.as_str(), "{{name}}.answered");
    assert_eq!(handled.emits[0].body["payload"]["text"], "hello");
}

#[tokio::test]
async fn it_skips_an_event_without_a_session() {
    let test = TestContext::new();
    let handler = test.build::<{{Name}}Options>(json!({ "text": "hello" })).await.expect("the options are right");

    let handled = test.handle(handler.as_ref(), [event("session.thread.start")]).await;
    assert!(matches!(handled.result, Ok(Outcome::Skipped { .. })));
}

#[tokio::test]
async fn it_keeps_what_every_plugin_promises() {
    // Good options, and wrong values for some of them.
    handler_conformance::<{{Name}}Options>(json!({ "text": "hello" }), json!({ "text": " ", "key": "two\nlines" })).await;
}

#[tokio::test]
async fn it_works_on_a_route() {
    let mut test = TestRouter::with_route(&format!(
        "name = \"answers\"\non = [\"session.thread.start\"]\nhandler = \"{}\"\nwith = {{ text = \"hello\" }}\n",
        {{Name}}Options::NAME
    ))
    .plugin::<{{Name}}Options>()
    .build()
    .await;
    test.publish(event("session.thread.start").session("s-1")).await;
    let outcome = test.outcome().await;
    assert!(outcome.is_handled(), "{outcome:?}");
    test.end().await;
}
