//! Every shipped plugin keeps what every plugin promises.

use plugins::{ci::Ci, dagster::Dagster, exec::Exec, flume::Flume, imi::Imi, log::Log, webhook::Webhook};
use router_api::{EffectReply, HttpReply, Registry};
use router_testkit::{HandlerConformance, event, handler_conformance};
use serde_json::{Value, json};

/// Those below; one that is added and not checked is found by the test at the end.
const CHECKED: [&str; 7] = ["ci", "dagster", "exec", "flume", "imi", "log", "webhook"];

#[tokio::test]
async fn log_conforms() {
    handler_conformance::<Log>(json!({ "level": "warn", "template": "{{ tool_name }}" }), json!({ "level": "loud", "template": "{{ tool_name" })).await;
}

#[tokio::test]
async fn exec_conforms() {
    let bad = json!({ "command": [], "input": "both", "timeout_ms": -1, "exit_codes": { "done": [300] } });
    let seen = handler_conformance::<Exec>(json!({ "command": ["notify", "{{ tool_name }}"] }), bad).await;
    assert_eq!((seen.recorded, seen.asked), (1, 1));
}

#[tokio::test]
async fn ci_conforms() {
    let bad = json!({ "command": ["{{ tool_name }}"], "timeout_ms": "long", "roots": "everywhere" });
    let seen = handler_conformance::<Ci>(json!({ "command": ["pytest", "-q"] }), bad).await;
    // Whether git ignores the file is asked before the check is run.
    assert_eq!((seen.recorded, seen.asked, seen.emitted), (1, 2, 1));
}

#[tokio::test]
async fn webhook_conforms() {
    let good = json!({ "url": "https://hooks.example/{{ session_id }}", "hmac": { "style": "standard-webhooks", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" } });
    let bad = json!({ "url": "https://{{ session_id }}/", "method": "BREW", "hmac": { "style": "standard-webhooks" }, "timeout_ms": "1" });
    let seen = handler_conformance::<Webhook>(good, bad).await;
    assert_eq!((seen.recorded, seen.asked), (1, 1));
}

#[tokio::test]
async fn flume_conforms() {
    let bad = json!({ "base": "no address", "ended_keys": ["two\nlines"], "timeout_ms": true });
    let seen = handler_conformance::<Flume>(json!({ "base": "http://records.example/api" }), bad).await;
    assert!(seen.recorded > 0 && seen.asked > 0, "{seen:?}");
}

#[tokio::test]
async fn imi_conforms() {
    let bad = json!({ "backend": "svn", "git": 3, "timeout_ms": -5 });
    let seen = handler_conformance::<Imi>(json!({}), bad).await;
    assert!(seen.asked > 0, "{seen:?}");
}

#[tokio::test]
async fn dagster_conforms() {
    let answer = |body: Value| move |_: &router_api::Effect| Ok(EffectReply::Http(HttpReply::new(200, body.to_string())));
    let launched = json!({ "data": { "launchRun": { "__typename": "LaunchRunSuccess", "run": { "runId": "0b0cf0ee" } } } });
    let ended = event("session.thread.end")
        .id("e-1")
        .session("s-1")
        .working_directory("/srv/app")
        .payload(json!({ "files_modified": ["src/a.py"], "git_commits": [] }));
    let seen = HandlerConformance::<Dagster>::new(
        json!({ "url": "http://dagster.example:3000/graphql", "location": "pipelines.py" }),
        json!({ "url": "ftp://dagster.example", "location": 7, "timeout_ms": "x" }),
    )
    .event(ended)
    .answers(move |effects| effects.when(|_| true, answer(launched.clone())))
    .run()
    .await;
    assert!(seen.recorded > 0 && seen.asked > 0, "{seen:?}");
}

#[test]
fn no_shipped_plugin_is_left_out() {
    let registry = Registry::linked().expect("the plugins are linked");
    assert_eq!(registry.iter().map(|plugin| plugin.name).collect::<Vec<_>>(), CHECKED);
}
