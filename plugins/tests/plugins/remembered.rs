//! What the ledger gives a plugin that is handed an event a second time, after its handling was cut short.

use std::time::Duration;

use plugins::{ci::Ci, dagster::Dagster, flume::Flume};
use router_api::{EffectClass, EffectError, HttpReply};
use router_testkit::{EventBuilder, TestContext, event};
use serde_json::json;

use crate::{answer, built, class, end, is_done, polled};

fn write() -> EventBuilder {
    event("session.thread.agent.action").id("w-1").session("s-1").tool("Write").file("/srv/app/a.py").working_directory("/srv/app")
}

fn ended() -> EventBuilder {
    event("session.thread.end").id("e-1").session("s-1").payload(json!({ "files_modified": ["a.py"] }))
}

fn asked(test: &TestContext, name: &str) -> usize {
    test.effects.requests().iter().filter(|requested| requested.name == name).count()
}

#[tokio::test]
async fn a_check_that_ran_before_the_router_died_is_told_again_and_not_run_again() {
    let test = TestContext::new().ledger();
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"] })).await;
    end(&test.effects, "run", 1, "1 failed", "");
    let first = test.handle(handler.as_ref(), [write()]).await;
    // The event was not settled: it is handed out again.
    let second = test.clone().handle(handler.as_ref(), [write()]).await;
    assert_eq!((asked(&test, "run"), second.emits[0].id), (1, first.emits[0].id));
    assert_eq!((&second.emits[0].body["payload"]["status"], &second.emits[0].body["payload"]["output_tail"]), (&json!("failed"), &json!("1 failed")));
}

#[tokio::test]
async fn a_launch_that_was_under_way_is_looked_for_before_it_is_done_again() {
    for is_there in [true, false] {
        let test = TestContext::new().ledger();
        let options = json!({ "url": "http://dagster.example:3000/graphql", "location": "pipelines.py" });
        let handler = built::<Dagster>(&test, options).await;
        test.effects.hang("launch");
        assert!(polled(test.handle(handler.as_ref(), [ended()])).is_none(), "it was cut short");
        test.effects.forget_rules();
        let runs = if is_there { json!([{ "runId": "r-1" }]) } else { json!([]) };
        answer(&test.effects, "look-up", 200, json!({ "data": { "runsOrError": { "__typename": "Runs", "results": runs } } }));
        answer(&test.effects, "launch", 200, json!({ "data": { "launchRun": { "__typename": "LaunchRunSuccess", "run": { "runId": "r-2" } } } }));
        let handled = test.handle(handler.as_ref(), [ended()]).await;
        assert!(is_done(&handled), "{:?}", handled.result);
        assert_eq!((asked(&test, "look-up"), asked(&test, "launch")), (1, if is_there { 1 } else { 2 }));
        assert!(handled.note.is_some_and(|note| note.ends_with(if is_there { "r-1" } else { "r-2" })));
    }
}

#[tokio::test]
async fn a_record_that_was_taken_is_not_sent_again_and_one_that_was_not_is() {
    let test = TestContext::new().ledger();
    let handler = built::<Flume>(&test, json!({ "base": "http://records.example" })).await;
    answer(&test.effects, "session", 500, json!({}));
    assert_eq!(class(&test.handle(handler.as_ref(), [ended()]).await), EffectClass::Failed);
    answer(&test.effects, "session", 200, json!({}));
    for _ in 0..3 {
        assert!(is_done(&test.handle(handler.as_ref(), [ended()]).await));
    }
    assert_eq!(asked(&test, "session"), 2);
    // What certainly did not happen leaves nothing that would keep it from happening.
    test.effects.once("session", |_| Err(EffectError::new(EffectClass::Unreachable, "connection refused")));
    let later = || ended().id("e-2");
    assert_eq!(class(&test.handle(handler.as_ref(), [later()]).await), EffectClass::Unreachable);
    test.effects.once("session", |_| Ok(router_api::EffectReply::Http(HttpReply::new(409, ""))));
    test.clock.advance(Duration::from_secs(1));
    let refused = test.handle(handler.as_ref(), [later()]).await;
    assert!(matches!(refused.result, Ok(router_api::Outcome::Skipped { .. })), "{:?}", refused.result);
}
