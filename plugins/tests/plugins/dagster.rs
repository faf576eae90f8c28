//! `dagster`: a launch for each event, and what its answers mean. The answers are of the shapes that Dagster 1.13 gives.

use plugins::dagster::Dagster;
use router_api::{EffectClass, EffectError, EffectKind, EffectReply, HttpReply};
use router_testkit::{EventBuilder, Handled, TestContext, event};
use serde_json::{Value, json};

use crate::{answer, built, class, effect_error, header, is_done, json_body, skipped, wrong_fields};

fn end() -> EventBuilder {
    event("session.thread.end").id("e-1").session("s-1").working_directory("/srv/app").payload(json!({ "files_modified": ["src/a.py"], "git_commits": [] }))
}

fn options() -> Value {
    json!({ "url": "http://dagster.example:3000/graphql", "location": "pipelines.py" })
}

fn launched(answer: Value) -> Value {
    json!({ "data": { "launchRun": answer } })
}

fn success() -> Value {
    launched(json!({ "__typename": "LaunchRunSuccess", "run": { "runId": "0b0cf0ee" } }))
}

fn not_found() -> Value {
    launched(json!({ "__typename": "PipelineNotFoundError", "message": "Could not find Pipeline pipelines.py.__repository__.job" }))
}

fn locations(entries: Value) -> Value {
    json!({ "data": { "workspaceOrError": { "__typename": "Workspace", "locationEntries": entries } } })
}

async fn handled(test: &TestContext) -> Handled {
    let handler = built::<Dagster>(test, options()).await;
    test.handle(handler.as_ref(), [end()]).await
}

#[tokio::test]
async fn a_changed_session_launches_the_job_with_its_configuration_and_tags() {
    let test = TestContext::new();
    answer(&test.effects, "launch", 200, success());
    let mut options = options();
    options["run_config"] = json!({ "ops": { "process": { "config": { "session_id": "{{ session_id }}", "files": "{{ payload.files_modified }}" } } } });
    options["tags"] = json!({ "33god/repo": "{{ working_directory }}" });
    options["api_token"] = json!("t0k3n");
    let handler = built::<Dagster>(&test, options).await;
    assert!(is_done(&test.handle(handler.as_ref(), [end()]).await));

    let requests = test.effects.http();
    assert_eq!(requests.len(), 1, "the first try looks nothing up");
    let request = &requests[0];
    assert_eq!(request.url.as_str(), "http://dagster.example:3000/graphql");
    assert!(request.timeout.unwrap().as_secs() >= 30);
    assert_eq!((header(request, "content-type"), header(request, "dagster-cloud-api-token")), (Some("application/json"), Some("t0k3n")));
    assert!(!format!("{request:?}").contains("t0k3n"));
    let params = &json_body(request)["variables"]["params"];
    assert_eq!(params["selector"], json!({ "repositoryLocationName": "pipelines.py", "repositoryName": "__repository__", "jobName": "post_session_pipeline" }));
    assert_eq!(params["runConfigData"], json!({ "ops": { "process": { "config": { "session_id": "s-1", "files": ["src/a.py"] } } } }));
    let tags = params["executionMetadata"]["tags"].as_array().unwrap();
    let tag = |key: &str| tags.iter().find(|tag| tag["key"] == key).map(|tag| tag["value"].as_str().unwrap());
    assert_eq!((tag("33god/event_id"), tag("33god/session_id"), tag("33god/repo"), tags.len()), (Some("e-1"), Some("s-1"), Some("/srv/app"), 4));
    assert!(tag("33god/handling").is_some());
}

#[tokio::test]
async fn a_session_without_changes_is_skipped_unless_wanted() {
    let test = TestContext::new();
    let idle = || end().payload(json!({ "files_modified": [], "git_commits": [] }));
    let handler = built::<Dagster>(&test, options()).await;
    assert!(skipped(&test.handle(handler.as_ref(), [idle()]).await).contains("changed nothing"));
    assert!(test.effects.requests().is_empty());

    answer(&test.effects, "launch", 200, success());
    let committed = idle().with("git_commits", json!(["abc"]));
    assert!(is_done(&test.handle(handler.as_ref(), [committed]).await));

    answer(&test.effects, "launch", 200, success());
    let mut every = options();
    every["only_if_changed"] = json!(false);
    let handler = built::<Dagster>(&test, every).await;
    assert!(is_done(&test.handle(handler.as_ref(), [idle()]).await));
}

#[tokio::test]
async fn a_later_try_launches_only_when_no_earlier_one_did() {
    let test = TestContext::new().attempt(2, 8);
    answer(&test.effects, "look-up", 200, json!({ "data": { "runsOrError": { "__typename": "Runs", "results": [{ "runId": "r-1" }] } } }));
    assert!(is_done(&handled(&test).await));
    assert_eq!(test.effects.requests().len(), 1);
    assert_eq!(test.effects.requests()[0].kind, EffectKind::Read);
    let asked = json_body(&test.effects.http()[0])["variables"]["filter"]["tags"][0].clone();
    assert_eq!(asked["key"], "33god/handling");

    answer(&test.effects, "look-up", 200, json!({ "data": { "runsOrError": { "__typename": "Runs", "results": [] } } }));
    answer(&test.effects, "launch", 200, success());
    assert!(is_done(&handled(&test).await));
    let launch = json_body(&test.effects.http()[2]);
    let tags = launch["variables"]["params"]["executionMetadata"]["tags"].as_array().unwrap();
    assert!(tags.contains(&asked), "the tag that is looked for is the one that is set");

    answer(&test.effects, "look-up", 200, json!({ "data": { "runsOrError": { "__typename": "InvalidPipelineRunsFilterError", "message": "no" } } }));
    assert_eq!(class(&handled(&test).await), EffectClass::Failed);
}

#[tokio::test]
async fn a_job_that_is_not_found_depends_on_its_code_location() {
    let test = TestContext::new();
    for (entries, expected) in [
        (json!([{ "name": "pipelines.py", "loadStatus": "LOADED", "locationOrLoadError": { "__typename": "RepositoryLocation" } }]), EffectClass::Refused),
        (
            json!([{ "name": "pipelines.py", "loadStatus": "LOADED", "locationOrLoadError": { "__typename": "PythonError", "className": "DagsterUserCodeLoadError", "message": "SyntaxError" } }]),
            EffectClass::Unreachable,
        ),
        (json!([{ "name": "pipelines.py", "loadStatus": "LOADING", "locationOrLoadError": null }]), EffectClass::Failed),
        (json!([{ "name": "other.py", "loadStatus": "LOADED", "locationOrLoadError": { "__typename": "RepositoryLocation" } }]), EffectClass::Failed),
        (json!([]), EffectClass::Failed),
    ] {
        answer(&test.effects, "launch", 200, not_found());
        answer(&test.effects, "locations", 200, locations(entries.clone()));
        let handled = handled(&test).await;
        assert_eq!(class(&handled), expected, "{entries}: {}", effect_error(&handled));
    }
    let kinds: Vec<_> = test.effects.requests().iter().map(|requested| (requested.name.clone(), requested.kind)).take(2).collect();
    assert_eq!(kinds, [("launch".to_owned(), EffectKind::Write), ("locations".to_owned(), EffectKind::Read)]);
}

#[tokio::test]
async fn the_body_decides_before_the_status_does() {
    let test = TestContext::new();
    let refused = launched(
        json!({ "__typename": "RunConfigValidationInvalid", "errors": [{ "reason": "MISSING_REQUIRED_FIELD", "message": "Missing required config entry \"files\"" }] }),
    );
    let python = |class: &str| launched(json!({ "__typename": "PythonError", "className": class, "message": "went wrong" }));
    let unread = |message: &str| json!({ "data": null, "errors": [{ "message": message }] });
    for (status, body, expected) in [
        (200, refused, EffectClass::Refused),
        (200, launched(json!({ "__typename": "UnauthorizedError", "message": "read-only" })), EffectClass::Refused),
        (200, launched(json!({ "__typename": "InvalidSubsetError", "message": "no such asset" })), EffectClass::Refused),
        (200, launched(json!({ "__typename": "RunConflict", "message": "x" })), EffectClass::Refused),
        (200, launched(json!({ "__typename": "SomethingNew" })), EffectClass::Failed),
        (500, python("DagsterUserCodeUnreachableError"), EffectClass::Unreachable),
        (500, python("OperationalError"), EffectClass::Failed),
        (200, python("OperationalError"), EffectClass::Failed),
        (400, unread("Syntax Error: Expected Name, found <EOF>."), EffectClass::Refused),
        (500, unread("Variable '$params' got invalid value {...} at 'params.executionMetadata'"), EffectClass::Refused),
        (500, unread("Internal Server Error"), EffectClass::Failed),
        (200, json!({}), EffectClass::Failed),
        (200, json!("<html>"), EffectClass::Failed),
    ] {
        answer(&test.effects, "launch", status, body.clone());
        let handled = handled(&test).await;
        assert_eq!(class(&handled), expected, "{status} {body}: {}", effect_error(&handled));
    }
}

#[tokio::test]
async fn without_json_the_status_decides() {
    let test = TestContext::new();
    for (status, expected) in [
        (400, EffectClass::Refused),
        (405, EffectClass::Refused),
        (401, EffectClass::Refused),
        (500, EffectClass::Failed),
        (503, EffectClass::Unreachable),
        // The launch may have gone through, so the try must count: only a later one looks it up.
        (502, EffectClass::Timeout),
        (504, EffectClass::Timeout),
        (200, EffectClass::Failed),
    ] {
        test.effects.once("launch", move |_| Ok(EffectReply::Http(HttpReply::new(status, "plain text"))));
        assert_eq!(class(&handled(&test).await), expected, "{status}");
    }
    test.effects.once("launch", |_| Err(EffectError::new(EffectClass::Unreachable, "connection refused")));
    assert_eq!(class(&handled(&test).await), EffectClass::Unreachable);
    test.effects.once("launch", |_| Err(EffectError::new(EffectClass::Timeout, "no answer")));
    assert_eq!(class(&handled(&test).await), EffectClass::Timeout);
}

#[tokio::test]
async fn what_is_wrong_with_a_configuration_reaches_the_dead_letter() {
    let test = TestContext::new();
    answer(
        &test.effects,
        "launch",
        200,
        launched(
            json!({ "__typename": "RunConfigValidationInvalid", "errors": [{ "reason": "FIELD_NOT_DEFINED", "message": "Received unexpected config entry \"x\"" }] }),
        ),
    );
    assert_eq!(effect_error(&handled(&test).await).detail.as_deref(), Some("FIELD_NOT_DEFINED: Received unexpected config entry \"x\""));
}

#[tokio::test]
async fn a_dry_run_launches_nothing() {
    let test = TestContext::new().shadow();
    let handled = handled(&test).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would send: POST http://dagster.example:3000/graphql".to_owned()]));
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn all_that_is_wrong_with_the_options_comes_at_once() {
    let test = TestContext::new();
    let options = json!({
        "location": "{{ working_directory }}", "job": "", "run_config": ["x"], "timeout_ms": 0,
        "tags": { "33god/event_id": "x", "with space": "x" },
    });
    assert_eq!(wrong_fields::<Dagster>(&test, options).await, ["job", "location", "run_config", "tags.33god/event_id", "tags.with space", "timeout_ms", "url"]);
}
