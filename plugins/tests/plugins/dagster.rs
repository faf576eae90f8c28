//! `dagster`: a launch for each event, and what its answers mean. The answers are of the shapes that Dagster 1.13 gives.

use plugins::dagster::Dagster;
use router_api::{Clock, EffectClass, EffectError, EffectKind, EffectReply, HttpReply};
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

    let test = TestContext::new().attempt(2, 8);
    answer(&test.effects, "look-up", 200, json!({ "data": { "runsOrError": { "__typename": "Runs", "results": [] } } }));
    answer(&test.effects, "launch", 200, success());
    assert!(is_done(&handled(&test).await));
    let launch = json_body(&test.effects.http()[1]);
    let tags = launch["variables"]["params"]["executionMetadata"]["tags"].as_array().unwrap();
    assert!(tags.contains(&asked), "the tag that is looked for is the one that is set");

    let test = TestContext::new().attempt(2, 8);
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
        // Half an answer: the run may be there, and the next try looks for it.
        (200, launched(json!({ "__typename": "LaunchRunSuccess" })), EffectClass::Failed),
        (200, launched(json!({ "__typename": "LaunchRunSuccess", "run": { "runId": "" } })), EffectClass::Failed),
        (200, launched(json!({ "__typename": "LaunchRunSuccess", "run": { "runId": "a b\n" } })), EffectClass::Failed),
        (200, launched(json!("LaunchRunSuccess")), EffectClass::Failed),
        (200, json!({ "data": { "launchRun": null }, "errors": [{ "message": "Cannot return null" }] }), EffectClass::Failed),
        (200, json!([launched(json!({ "__typename": "LaunchRunSuccess", "run": { "runId": "r-1" } }))]), EffectClass::Failed),
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
        "tags": { "33god/event_id": "x", "with space": "x" }, "api_token": "secret\n",
    });
    assert_eq!(
        wrong_fields::<Dagster>(&test, options).await,
        ["api_token", "job", "location", "run_config", "tags.33god/event_id", "tags.with space", "timeout_ms", "url"]
    );
}

fn run_tag(request: &router_api::HttpRequest, key: &str) -> Option<String> {
    let body = json_body(request);
    let tags = body["variables"]["params"]["executionMetadata"]["tags"].as_array()?;
    tags.iter().find(|tag| tag["key"] == key)?["value"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_session_that_ends_again_launches_again_only_for_what_changed_since() {
    let test = TestContext::new();
    let handler = built::<Dagster>(&test, options()).await;
    let ended = |id: &str, payload: Value| event("session.thread.end").id(id).session("s-1").payload(payload);
    let mut launches = 0;
    for (id, payload, launched) in [
        ("e-1", json!({ "files_modified": ["a.py", "b.py"] }), true),
        // Taken up, and left without a change; a list in another order is the same list.
        ("e-2", json!({ "files_modified": ["b.py", "a.py"] }), false),
        ("e-3", json!({ "files_modified": ["b.py", "a.py", "a.py"], "git_commits": [] }), false),
        ("e-4", json!({ "files_modified": ["a.py", "b.py"], "git_commits": ["33d73bf"] }), true),
        ("e-5", json!({ "files_modified": [], "git_commits": ["33d73bf"] }), true),
        ("e-6", json!({ "files_modified": [], "git_commits": ["33d73bf"], "tools_used": { "Read": 7 } }), false),
        // The same file was written again.
        ("e-7", json!({ "git_commits": ["33d73bf"], "tools_used": { "Edit": 1 } }), true),
        ("e-8", json!({ "git_commits": ["33d73bf"], "tools_used": { "Edit": 1, "Bash": 3 } }), false),
        ("e-9", json!({ "git_commits": ["33d73bf"], "tools_used": { "Edit": 1, "Write": 1 } }), true),
        ("e-10", json!({}), false),
    ] {
        if launched {
            answer(&test.effects, "launch", 200, success());
            launches += 1;
        }
        let handled = test.handle(handler.as_ref(), [ended(id, payload)]).await;
        assert_eq!(is_done(&handled), launched, "{id}: {:?}", handled.result);
        assert_eq!(test.effects.requests().len(), launches, "{id}");
    }
    // Another session with the same files is another session.
    answer(&test.effects, "launch", 200, success());
    let other = event("session.thread.end").session("s-2").payload(json!({ "files_modified": ["a.py", "b.py"] }));
    assert!(is_done(&test.handle(handler.as_ref(), [other]).await));
    // And in a burst one event with a change is enough.
    answer(&test.effects, "launch", 200, success());
    let burst = [ended("e-11", json!({ "files_modified": ["c.py"] })), ended("e-12", json!({}))];
    assert!(is_done(&test.handle(handler.as_ref(), burst).await));
}

#[tokio::test]
async fn a_repeat_after_the_launch_was_remembered_launches_nothing() {
    let test = TestContext::new();
    let handler = built::<Dagster>(&test, options()).await;
    answer(&test.effects, "launch", 200, success());
    assert!(is_done(&test.handle(handler.as_ref(), [end()]).await));
    let handled = test.handle(handler.as_ref(), [end()]).await;
    assert!(is_done(&handled), "done, and not skipped as a session without changes: {:?}", handled.result);
    assert_eq!(handled.note.as_deref(), Some("launched by an earlier attempt: run 0b0cf0ee"));
    assert_eq!(test.effects.requests().len(), 1);
}

#[tokio::test]
async fn a_failed_launch_is_not_remembered() {
    let test = TestContext::new();
    let handler = built::<Dagster>(&test, options()).await;
    answer(&test.effects, "launch", 500, json!({}));
    assert_eq!(class(&test.handle(handler.as_ref(), [end()]).await), EffectClass::Failed);
    answer(&test.effects, "launch", 200, success());
    assert!(is_done(&test.handle(handler.as_ref(), [end().id("e-2")]).await));
}

#[tokio::test]
async fn assets_are_materialized_by_their_keys() {
    let test = TestContext::new();
    for (job, expected) in [(json!(null), "__ASSET_JOB"), (json!("nightly"), "nightly")] {
        let mut options = options();
        options["assets"] = json!(["session_report", "marts/sessions"]);
        options["job"] = job;
        let handler = built::<Dagster>(&test, options).await;
        answer(&test.effects, "launch", 200, success());
        assert!(is_done(&test.handle(handler.as_ref(), [end().id(expected).session(expected)]).await));
        let selector = json_body(test.effects.http().last().unwrap())["variables"]["params"]["selector"].clone();
        assert_eq!(selector["jobName"], expected);
        assert_eq!(selector["assetSelection"], json!([{ "path": ["session_report"] }, { "path": ["marts", "sessions"] }]));
    }
    let mut wrong = options();
    wrong["assets"] = json!(["a//b", "", "{{ key }}", "fine"]);
    assert_eq!(wrong_fields::<Dagster>(&test, wrong).await, ["assets.0", "assets.1", "assets.2"]);
}

fn run_is(status: &str) -> Value {
    json!({ "data": { "runOrError": {
        "__typename": "Run", "runId": "0b0cf0ee", "status": status, "jobName": "post_session_pipeline", "startTime": 1795347122.5, "endTime": 1795347129.75,
    } } })
}

/// The event that the plugin sent itself, as it comes back.
fn back(handled: &Handled) -> EventBuilder {
    assert_eq!((handled.emits.len(), handled.emits[0].key.as_str()), (1, "dagster.run.follow"), "{handled:?}");
    event("dagster.run.follow").id(handled.emits[0].id.to_string()).payload(handled.emits[0].body["payload"].clone())
}

#[tokio::test]
async fn a_followed_run_is_looked_at_ever_more_rarely_until_it_has_ended() {
    let test = TestContext::new();
    let mut options = options();
    options["follow_ms"] = json!(600_000);
    let handler = built::<Dagster>(&test, options).await;
    answer(&test.effects, "launch", 200, success());
    let mut handled = test.handle(handler.as_ref(), [end()]).await;
    for (seconds, status) in [(2, "QUEUED"), (4, "STARTED")] {
        assert_eq!(handled.emits[0].after.map(|after| after.as_secs()), Some(seconds));
        answer(&test.effects, "run", 200, run_is(status));
        handled = test.handle(handler.as_ref(), [back(&handled)]).await;
        assert_eq!((is_done(&handled), handled.note.clone()), (true, Some(format!("run 0b0cf0ee is {status}"))));
    }
    // A repeat of the launch follows the same run, by the same event.
    answer(&test.effects, "run", 200, run_is("FAILURE"));
    let ended = test.handle(handler.as_ref(), [back(&handled)]).await;
    assert!(is_done(&ended));
    assert_eq!((ended.emits.len(), ended.emits[0].key.as_str(), ended.emits[0].after), (1, "dagster.run.finished", None));
    assert_eq!(
        ended.emits[0].body["payload"],
        json!({
            "run": "0b0cf0ee", "status": "FAILURE", "succeeded": false, "job": "post_session_pipeline", "location": "pipelines.py", "session_id": "s-1",
            "event_id": "e-1", "started_at": "2026-11-22T11:32:02.5Z", "ended_at": "2026-11-22T11:32:09.75Z", "duration_ms": 7250,
            "url": "http://dagster.example:3000/runs/0b0cf0ee",
        })
    );
    let looks = test.effects.requests().iter().filter(|requested| requested.name == "run" && requested.kind == EffectKind::Read).count();
    assert_eq!(looks, 3);
}

#[tokio::test]
async fn a_run_is_followed_no_longer_than_wanted_and_what_is_gone_is_skipped() {
    let test = TestContext::new();
    let mut options = options();
    options["follow_ms"] = json!(6 * 60 * 60 * 1_000);
    let handler = built::<Dagster>(&test, options).await;
    answer(&test.effects, "launch", 200, success());
    let begun = test.clock.now();
    let mut handled = test.handle(handler.as_ref(), [end()]).await;
    let mut looks = 0;
    // As the router does it: each look comes after the wait that was asked for, and emits nothing but the next one.
    while let Some(after) = handled.emits.first().and_then(|emit| emit.after) {
        assert!((1..=300).contains(&after.as_secs()), "{after:?}");
        test.clock.advance(after);
        answer(&test.effects, "run", 200, run_is("STARTED"));
        handled = test.handle(handler.as_ref(), [back(&handled)]).await;
        looks += 1;
    }
    assert!(skipped(&handled).contains("still STARTED") && handled.emits.is_empty());
    // Eight looks in 510 seconds, then one every five minutes; the last one when the time is over.
    assert_eq!((looks, test.clock.now().duration_since(begun).as_secs()), (79, 6 * 60 * 60));

    answer(&test.effects, "launch", 200, success());
    let handled = test.handle(handler.as_ref(), [end().id("e-2").session("s-2")]).await;
    answer(&test.effects, "run", 200, json!({ "data": { "runOrError": { "__typename": "RunNotFoundError", "message": "Pipeline run could not be found." } } }));
    assert!(skipped(&test.handle(handler.as_ref(), [back(&handled)]).await).contains("knows no run"));
    // What Dagster's own trouble leads to is the same as for a launch.
    for (status, body, expected) in [
        (500, json!({ "data": { "runOrError": { "__typename": "PythonError", "className": "OperationalError", "message": "x" } } }), EffectClass::Failed),
        (200, json!({ "data": { "runOrError": { "__typename": "SomethingNew" } } }), EffectClass::Failed),
        (503, json!("no"), EffectClass::Unreachable),
    ] {
        answer(&test.effects, "run", status, body);
        assert_eq!(class(&test.handle(handler.as_ref(), [back(&handled)]).await), expected);
    }
}

#[tokio::test]
async fn an_event_that_only_looks_like_the_plugins_own_is_refused() {
    let test = TestContext::new();
    let handler = built::<Dagster>(&test, options()).await;
    let own = json!({ "run": "0b0cf0ee", "look": 1, "until": test.clock.now(), "route": "test", "session_id": null, "event_id": null });
    for (name, value) in [
        ("run", json!("../../x")),
        ("run", json!("")),
        ("look", json!(0)),
        ("look", json!(-1)),
        ("until", json!("9999-01-01T00:00:00Z")),
        ("until", json!(null)),
        ("route", json!("other")),
        ("run", json!(null)),
    ] {
        let mut payload = own.clone();
        payload[name] = value;
        let handled = test.handle(handler.as_ref(), [event("dagster.run.follow").payload(payload.clone())]).await;
        assert!(matches!(handled.result, Err(router_api::HandlerError::Reject { .. })), "{payload}: {:?}", handled.result);
    }
    assert!(test.effects.requests().is_empty());
}

/// What a hostile producer may write into any field.
pub(crate) fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "\"}} }}\" ... } mutation { terminateRun }",
        "line\r\nbreak\n\u{0}\u{1b}[2J",
        "$(touch /tmp/x); `id` && ${HOME}",
        "../../../etc/passwd",
        "--collect-only",
        "http://169.254.169.254/latest",
        "{{ raw }} {% for x in burst %}",
        "\u{202e}gpj.exe\u{200b}\u{feff}",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("x".repeat(1 << 20));
    texts
}

#[tokio::test]
async fn whatever_an_event_says_is_a_value_of_the_launch_and_never_part_of_the_query() {
    let test = TestContext::new();
    let mut options = options();
    options["run_config"] = json!({ "ops": { "process": { "config": { "session": "{{ session_id | default('') }}", "text": "{{ payload.text }}" } } } });
    let handler = built::<Dagster>(&test, options).await;
    for text in hostile() {
        answer(&test.effects, "launch", 200, success());
        let payload = json!({ "text": text, "git_commits": ["33d73bf"] });
        let handled = test.handle(handler.as_ref(), [event("session.thread.end").id(format!("id-{text}")).session(&text).payload(payload)]).await;
        assert!(is_done(&handled), "{text:.40?}: {:?}", handled.result);
        let requests = test.effects.http();
        let request = requests.last().unwrap();
        let body = json_body(request);
        assert!(body["query"].as_str().unwrap().starts_with("mutation Launch($params: ExecutionParams!)"));
        assert_eq!(body["query"], json_body(&requests[0])["query"]);
        assert_eq!(body["variables"]["params"]["runConfigData"]["ops"]["process"]["config"]["text"], text.as_str());
        assert!(run_tag(request, "33god/event_id").unwrap().len() <= 256 && run_tag(request, "33god/session_id").unwrap_or_default().len() <= 256);
    }
}

#[tokio::test]
async fn an_event_chooses_no_variable_of_dagsters_environment() {
    let test = TestContext::new();
    let with = |run_config: Value| {
        let mut options = options();
        options["run_config"] = run_config;
        options
    };
    let handler = built::<Dagster>(&test, with(json!({ "ops": { "a": { "config": { "x": "{{ payload.x }}", "own": { "env": "TOKEN" } } } } }))).await;
    for x in [json!({ "env": "AWS_SECRET_ACCESS_KEY" }), json!([{ "deep": { "env": "X" } }])] {
        let handled = test.handle(handler.as_ref(), [end().with("x", x)]).await;
        assert_eq!((class(&handled), effect_error(&handled).message.contains("run_config.ops.a.config.x")), (EffectClass::Forbidden, true));
    }
    assert!(test.effects.requests().is_empty());
    answer(&test.effects, "launch", 200, success());
    assert!(is_done(&test.handle(handler.as_ref(), [end().with("x", json!({ "environment": "prod" }))]).await), "the configuration itself may name one");
}

#[tokio::test]
async fn a_tag_that_becomes_too_long_is_refused() {
    let test = TestContext::new();
    let mut options = options();
    options["tags"] = json!({ "33god/repo": "{{ working_directory }}" });
    let handler = built::<Dagster>(&test, options).await;
    let handled = test.handle(handler.as_ref(), [end().working_directory(&"d".repeat(5_000))]).await;
    assert_eq!((class(&handled), effect_error(&handled).message.contains("33god/repo")), (EffectClass::Refused, true));
}

#[tokio::test]
async fn a_launch_whose_outcome_is_unknown_is_looked_for_only_when_dagster_has_had_the_time_for_it() {
    let test = TestContext::new();
    let mut options = options();
    options["timeout_ms"] = json!(20_000);
    let handler = built::<Dagster>(&test, options).await;
    test.effects.fail("launch", 1, EffectClass::Timeout, "no answer within 20 s");
    assert_eq!(effect_error(&handled_by(&test, handler.as_ref()).await).retry_after.map(|after| after.as_secs()), Some(20));
    answer(&test.effects, "launch", 504, json!("a gateway"));
    assert_eq!(effect_error(&handled_by(&test, handler.as_ref()).await).retry_after.map(|after| after.as_secs()), Some(20));
    // What was certainly not launched need not wait.
    test.effects.fail("launch", 1, EffectClass::Unreachable, "connection refused");
    assert_eq!(effect_error(&handled_by(&test, handler.as_ref()).await).retry_after, None);
}

async fn handled_by(test: &TestContext, handler: &dyn router_api::Handler) -> Handled {
    test.handle(handler, [end()]).await
}
