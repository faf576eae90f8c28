//! `ci`: one run for a burst, and an event that tells what came of it.

use std::time::Duration;

use plugins::ci::Ci;
use router_api::{CommandReply, CommandRequest, EffectClass, EffectError, EffectKind, EffectReply, EffectRequest, HandlerError, HttpReply, HttpRequest};
use router_testkit::{EventBuilder, Handled, TestContext, event};
use serde_json::{Value, json};

use crate::{answer, built, class, dagster::hostile, effect_error, end, header, is_done, json_body, skipped, wrong_fields};

fn write(file: &str) -> EventBuilder {
    event("session.thread.agent.action").session("s-1").tool("Write").file(file).working_directory("/srv/app").git_branch("feat/x")
}

/// The runs of the check itself, without the questions to git.
fn runs(test: &TestContext) -> Vec<CommandRequest> {
    let runs = test.effects.requests().into_iter().filter(|requested| requested.name == "run");
    runs.filter_map(|requested| if let EffectRequest::Command(command) = requested.request { Some(command) } else { None }).collect()
}

fn finished(handled: &Handled) -> &Value {
    assert!(is_done(handled), "{:?}", handled.result);
    assert_eq!(handled.emits.len(), 1);
    assert_eq!(handled.emits[0].key.as_str(), "ci.run.finished");
    &handled.emits[0].body["payload"]
}

#[tokio::test]
async fn a_green_run_of_a_burst_is_told_with_all_its_files_and_sessions() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "command": ["ruff", "check", "{{ files }}"], "env": { "CI": "true" } })).await;
    test.effects
        .once("run", |_| Ok(EffectReply::Command(CommandReply { stdout: "all good\n".into(), elapsed: Duration::from_millis(1234), ..CommandReply::exit(0) })));
    let burst = [write("/srv/app/a.py"), write("/srv/app/-b.py").session("s-2"), write("/srv/app/a.py"), write("/etc/passwd"), write("/srv/app/../x.py")];
    let handled = test.handle(handler.as_ref(), burst).await;
    assert_eq!(
        finished(&handled),
        &json!({
            "status": "passed", "exit_code": 0, "signal": null, "timed_out": false, "files": ["/srv/app/a.py", "/srv/app/-b.py"], "events": 5,
            "session_id": "s-1", "session_ids": ["s-1", "s-2"], "working_directory": "/srv/app", "git_branch": "feat/x",
            "command": "ruff check -- /srv/app/a.py /srv/app/-b.py", "duration_ms": 1234, "output_tail": "all good\n", "error_tail": "",
        })
    );
    assert_eq!(handled.emits[0].body["correlation_ids"].as_array().unwrap().len(), 5);
    assert_eq!(handled.note.as_deref(), Some("passed: exit code 0, 2 files, 1.2 s"));
    let command = &runs(&test)[0];
    assert_eq!(command.args, ["check", "--", "/srv/app/a.py", "/srv/app/-b.py"]);
    assert_eq!((command.cwd.as_deref(), command.stdin.as_ref()), (Some("/srv/app".as_ref()), None));
    assert_eq!(command.env, [("CI".to_owned(), "true".to_owned())]);
}

#[tokio::test]
async fn a_red_run_is_a_finding_and_no_failure() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "command": ["pytest", "-q"], "output_tail_bytes": 8 })).await;
    end(&test.effects, "run", 1, "................ 1 failed", "warned");
    let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await;
    let told = finished(&handled);
    assert_eq!(
        (&told["status"], &told["exit_code"], &told["output_tail"], &told["error_tail"]),
        (&json!("failed"), &json!(1), &json!("1 failed"), &json!("warned"))
    );
    assert_eq!(handled.note.as_deref(), Some("failed: exit code 1, 1 file, 0.0 s"));
}

#[tokio::test]
async fn a_run_ended_by_a_signal_or_by_its_own_limit_is_told_as_an_error() {
    let test = TestContext::new().timeout(Duration::from_secs(60));
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"], "timeout_ms": 5000 })).await;
    test.effects.once("run", |_| Ok(EffectReply::Command(CommandReply { signal: Some(11), ..CommandReply::default() })));
    let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await;
    assert_eq!((&finished(&handled)["status"], &finished(&handled)["signal"]), (&json!("error"), &json!(11)));

    test.effects.once("run", |_| Err(EffectError::new(EffectClass::Timeout, "took too long")));
    let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await;
    let told = finished(&handled);
    assert_eq!((&told["status"], &told["timed_out"], &told["exit_code"], &told["duration_ms"]), (&json!("error"), &json!(true), &json!(null), &json!(5000)));
}

#[tokio::test]
async fn a_run_that_the_route_ends_or_that_cannot_start_is_tried_again() {
    let test = TestContext::new().timeout(Duration::from_secs(3));
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"], "timeout_ms": 5000 })).await;
    for expected in [EffectClass::Timeout, EffectClass::Failed, EffectClass::Unreachable] {
        test.effects.once("run", move |_| Err(EffectError::new(expected, "no")));
        let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await;
        assert_eq!(class(&handled), expected);
        assert!(handled.emits.is_empty());
    }
}

#[tokio::test]
async fn nothing_runs_without_a_directory_or_without_a_file_for_a_command_that_takes_files() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "command": ["ruff", "{{files}}"] })).await;
    let nowhere = event("session.thread.agent.action").tool("Write").file("/srv/app/a.py");
    assert_eq!(skipped(&test.handle(handler.as_ref(), [nowhere]).await), "the event names no working directory");
    let handled = test.handle(handler.as_ref(), [write("/elsewhere/a.py")]).await;
    assert!(skipped(&handled).contains("outside of the repository of `/srv/app`"), "{}", skipped(&handled));
    assert!(runs(&test).is_empty());
}

#[tokio::test]
async fn a_directory_outside_of_the_roots_goes_to_the_dead_letters() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"], "roots": ["/home/me/code"] })).await;
    assert_eq!(class(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), EffectClass::Forbidden);
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_dry_run_shows_the_run_and_tells_no_result() {
    let test = TestContext::new().shadow();
    let handler = built::<Ci>(&test, json!({ "command": ["pytest", "-q"] })).await;
    let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would run: pytest -q".to_owned()]));
    assert!(handled.emits.is_empty());
}

#[tokio::test]
async fn a_shell_line_with_event_data_and_other_mistakes_are_refused_at_load() {
    let test = TestContext::new();
    assert!(test.build::<Ci>(json!({ "command": ["sh", "-c", "pytest {{ file_path }}"] })).await.is_err());
    let options = json!({ "command": ["pytest"], "timeout_ms": 0, "output_tail_bytes": 70_000, "cwd": "/srv", "roots": ["/srv"] });
    assert_eq!(wrong_fields::<Ci>(&test, options).await, ["output_tail_bytes", "roots", "timeout_ms"]);
}

// ── which events count ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// An event of any dialect.
fn raw(key: &str, body: Value) -> std::sync::Arc<router_api::Envelope> {
    let key = key.parse().unwrap();
    std::sync::Arc::new(router_api::Envelope::decode(key, body.to_string(), router_api::DecodeLimits::default()).unwrap())
}

fn v2(tool: &str, input: Value, more: Value) -> std::sync::Arc<router_api::Envelope> {
    let mut metadata = json!({ "tool_name": tool, "tool_input": input, "success": true });
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let payload = json!({ "session_id": "s-1", "tool_metadata": metadata, "working_directory": "/srv/app", "git_branch": "main" });
    raw("session.thread.agent.action", json!({ "event_id": "e-1", "event_type": "session.thread.agent.action", "payload": payload }))
}

fn hookd(own: &str, tool: &str, more: Value) -> std::sync::Arc<router_api::Envelope> {
    let mut inner = json!({ "hook_event_name": "PostToolUse", "session_id": "s-1", "tool_name": tool, "tool_input": { "file_path": "/srv/app/a.py" } });
    inner.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    raw(
        "tool.mutation.write",
        json!({
            "event_type": "tool.mutation.write", "hook_type": "post_tool_use", "tool_name": own, "repo": { "git_root": "/srv/app", "branch": "main" },
            "file_path": "/srv/app/a.py", "raw_payload": inner,
        }),
    )
}

fn cloud(tool: &str, arguments: Value, outcome: &str) -> std::sync::Arc<router_api::Envelope> {
    let data = json!({ "tool_name": tool, "arguments": arguments, "outcome": outcome, "working_directory": "/srv/app" });
    raw(
        "bloodbank.evt.v1.agent.tool.completed",
        json!({ "specversion": "1.0", "id": "c-1", "source": "urn:x", "type": "bloodbank.v1.agent.tool.completed", "data": data }),
    )
}

#[tokio::test]
async fn a_run_follows_a_successful_write_of_a_wanted_file_in_every_dialect_and_nothing_else() {
    let a = || json!({ "file_path": "/srv/app/a.py" });
    let none = || json!({});
    for (expected, what, event) in [
        (true, "v2", v2("Write", a(), none())),
        (true, "v2", v2("Edit", a(), none())),
        (true, "legacy", v2("MultiEdit", a(), none())),
        (true, "success is not said", v2("Write", a(), json!({ "success": null }))),
        (true, "done", v2("Write", a(), json!({ "tool_response": { "filePath": "/srv/app/a.py", "success": true } }))),
        (false, "failed", v2("Write", a(), json!({ "success": false }))),
        (false, "staged", v2("Edit", a(), json!({ "tool_response": { "filePath": "/srv/app/a.py", "staged": true } }))),
        (false, "failed inside", v2("Edit", a(), json!({ "tool_response": { "success": false } }))),
        (false, "reads", v2("Read", a(), none())),
        (false, "no file", v2("Bash", json!({ "command": "touch a.py" }), none())),
        (false, "no file", v2("Write", none(), none())),
        (false, "not wanted", v2("Write", json!({ "file_path": "/srv/app/a.pyc" }), none())),
        (false, "not wanted", v2("NotebookEdit", json!({ "notebook_path": "/srv/app/a.ipynb" }), none())),
        (false, "climbs", v2("Write", json!({ "file_path": "/srv/app/../b.py" }), none())),
        (false, "outside", v2("Write", json!({ "file_path": "/srv/other/b.py" }), none())),
        (true, "hookd", hookd("Write", "Write", none())),
        (true, "hookd says write for an edit", hookd("write", "Edit", none())),
        (false, "hookd staged", hookd("write", "Edit", json!({ "tool_response": { "staged": true } }))),
        (false, "hookd failed", hookd("write", "Edit", json!({ "hook_event_name": "PostToolUseFailure", "error": "no" }))),
        (false, "hookd before", hookd("write", "Edit", json!({ "hook_event_name": "PreToolUse" }))),
        (true, "cloud", cloud("Write", a(), "success")),
        (false, "cloud failed", cloud("Write", a(), "error")),
        (false, "cloud reads", cloud("Grep", a(), "success")),
    ] {
        let test = TestContext::new();
        let handler = built::<Ci>(&test, json!({})).await;
        let shown = String::from_utf8_lossy(event.raw()).into_owned();
        let handled = test.handle_envelopes(handler.as_ref(), vec![event]).await;
        assert_eq!((is_done(&handled), runs(&test).len()), (expected, usize::from(expected)), "{what}: {:?} {shown}", handled.result);
        if expected {
            assert_eq!((finished(&handled)["command"].as_str(), &finished(&handled)["files"]), (Some("pytest -q"), &json!(["/srv/app/a.py"])));
        }
    }
}

#[tokio::test]
async fn one_write_that_counts_is_enough_for_a_burst_and_its_file_alone_is_told() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "paths": ["src/**/*.py", "*.toml"] })).await;
    let burst = [
        write("/srv/app/README.md"),
        write("/srv/app/src/x/a.py"),
        write("/srv/app/tests/b.py"),
        write("/srv/app/x/pyproject.toml"),
        write("/srv/app/c.py").tool("Read"),
    ];
    let handled = test.handle(handler.as_ref(), burst).await;
    assert_eq!(finished(&handled)["files"], json!(["/srv/app/src/x/a.py", "/srv/app/x/pyproject.toml"]));
    let handled = test.handle(handler.as_ref(), [write("/srv/app/README.md")]).await;
    assert!(skipped(&handled).contains("`/srv/app/README.md` is no file of `src/**/*.py`, `*.toml`"), "{}", skipped(&handled));
}

#[tokio::test]
async fn what_git_ignores_or_what_lies_outside_of_its_repository_does_not_count() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({})).await;
    // The session works below the top of the repository.
    end(&test.effects, "top", 0, "/srv/app\n", "");
    end(&test.effects, "ignored", 0, "/srv/app/build/x.py\0", "");
    let inside = |file: &str| write(file).working_directory("/srv/app/web");
    let burst = [inside("/srv/app/build/x.py"), inside("/srv/app/api/a.py"), inside("/etc/b.py"), inside("/srv/app/web/--collect-only.py")];
    let handled = test.handle(handler.as_ref(), burst).await;
    assert_eq!(finished(&handled)["files"], json!(["/srv/app/web/--collect-only.py"]), "the command is told what lies where it runs");
    let git: Vec<_> = test.effects.requests().into_iter().filter(|requested| requested.name != "run").collect();
    assert!(git.iter().all(|requested| requested.kind == EffectKind::Read));
    assert_eq!(test.effects.commands()[1].stdin.as_deref(), Some(&b"/srv/app/build/x.py\0/srv/app/api/a.py\0/srv/app/web/--collect-only.py\0"[..]));

    // All of it ignored.
    end(&test.effects, "ignored", 0, "/srv/app/build/x.py\0", "");
    assert!(skipped(&test.handle(handler.as_ref(), [write("/srv/app/build/x.py")]).await).contains("ignored by git"));
    // None ignored, no repository, no such directory: it counts.
    for (code, said) in [(1, ""), (128, "fatal: not a git repository")] {
        end(&test.effects, "ignored", code, "", said);
        assert!(is_done(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), "{code}");
    }
    test.effects.once("ignored", |_| Err(EffectError::new(EffectClass::Refused, "is not a directory on this machine")));
    assert!(is_done(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await));
    // But one that may not be entered is not entered.
    test.effects.once("ignored", |_| Err(EffectError::new(EffectClass::Forbidden, "leads out of the directories that the route allows")));
    let before = runs(&test).len();
    assert_eq!(class(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), EffectClass::Forbidden);
    assert_eq!(runs(&test).len(), before);
}

#[tokio::test]
async fn a_run_without_tests_is_told_as_that() {
    let test = TestContext::new();
    for (codes, expected) in [(json!([5]), "no_tests"), (json!([]), "failed")] {
        let handler = built::<Ci>(&test, json!({ "no_tests_exit_codes": codes })).await;
        end(&test.effects, "run", 5, "no tests ran in 0.01s", "");
        assert_eq!(finished(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await)["status"], expected);
    }
}

#[tokio::test]
async fn hostile_names_of_files_are_arguments_or_nothing() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "command": ["pytest", "-q", "{{ files }}"], "paths": ["*"] })).await;
    for text in hostile() {
        for file in [text.clone(), format!("/srv/app/{text}"), format!("/srv/app/{text}.py")] {
            let event = event("session.thread.agent.action").session(&text).tool("Write").file(&file).working_directory("/srv/app").git_branch(&text);
            let before = runs(&test).len();
            let handled = test.handle(handler.as_ref(), [event]).await;
            for run in &runs(&test)[before..] {
                assert_eq!(run.args[..2], ["-q", "--"], "what follows is no option: {file:.60?}");
                assert!(
                    run.args.len() == 3
                        && run.args[2].trim_start_matches("./") == file.trim_start_matches("./")
                        && !file.split('/').any(|part| part == "..")
                        && !file.contains('\0'),
                    "{file:.60?}"
                );
                assert!(is_done(&handled));
            }
        }
        // A tool or a directory of any name.
        let odd = event("session.thread.agent.action").tool(&text).file("/srv/app/a.py").working_directory(&text);
        let handled = test.handle(handler.as_ref(), [odd]).await;
        assert!(!is_done(&handled), "{:?}", handled.result);
    }
}

// ── CI servers ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn pushed() -> EventBuilder {
    event("session.thread.end").id("e-1").session("s-1").working_directory("/srv/app").git_branch("feat/x").payload(json!({
        "session_id": "s-1", "working_directory": "/srv/app", "git_branch": "feat/x", "git_commits": ["33d73bf"],
    }))
}

fn github(more: Value) -> Value {
    let mut options = json!({ "repository": "octo/repo", "token": "t0k3n" });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "provider": "github", "github": options })
}

/// GitHub's own description of its requests.
fn shapes() -> Value {
    serde_json::from_str(include_str!("../github-dispatches.json")).unwrap()
}

fn fits(request: &HttpRequest, shape: &Value) {
    let body = json_body(request);
    for (name, value) in body.as_object().unwrap() {
        let kind = if value.is_string() {
            "string"
        } else if value.is_object() {
            "object"
        } else {
            "boolean"
        };
        assert_eq!(shape["properties"][name], kind, "{name}");
        if let Some(max) = shape["members_max"][name].as_u64() {
            assert!(value.as_object().unwrap().len() as u64 <= max, "{name}");
        }
    }
    assert!(shape["required"].as_array().unwrap().iter().all(|name| body.get(name.as_str().unwrap()).is_some()));
    assert!(request.body.len() < 64 * 1024);
    assert_eq!((header(request, "accept"), header(request, "authorization")), (Some("application/vnd.github+json"), Some("Bearer t0k3n")));
    assert!(header(request, "x-github-api-version").is_some() && !format!("{request:?}").contains("t0k3n"));
}

#[tokio::test]
async fn a_workflow_is_dispatched_on_the_branch_of_a_commit() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, github(json!({ "workflow": "ci.yml", "inputs": { "event": "{{ id }}", "session": "{{ session_id }}" } }))).await;
    let shape = &shapes()["workflow"];
    test.effects.once("dispatch", |_| Ok(EffectReply::Http(HttpReply::new(200, shapes()["workflow"]["answers"]["200"].to_string()))));
    let handled = test.handle(handler.as_ref(), [pushed()]).await;
    assert_eq!((is_done(&handled), handled.note.as_deref()), (true, Some("started https://github.com/o/r/actions/runs/1")));
    let request = &test.effects.http()[0];
    assert_eq!(request.url.as_str(), "https://api.github.com/repos/octo/repo/actions/workflows/ci.yml/dispatches");
    fits(request, shape);
    assert_eq!(json_body(request), json!({ "ref": "feat/x", "inputs": { "event": "e-1", "session": "s-1" }, "return_run_details": true }));

    test.effects.once("dispatch", |_| Ok(EffectReply::Http(HttpReply::new(204, ""))));
    assert!(is_done(&test.handle(handler.as_ref(), [pushed()]).await));
    for branch in ["HEAD", "unknown", ""] {
        let nowhere = pushed().with("git_branch", branch);
        assert!(skipped(&test.handle(handler.as_ref(), [nowhere]).await).contains("names no branch"));
    }
    assert!(skipped(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await).contains("no commit and no push"), "a write is not pushed");
    assert_eq!(test.effects.http().len(), 2);
}

#[tokio::test]
async fn a_repository_dispatch_carries_what_happened() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, github(json!({ "event_type": "session-pushed", "api": "https://ghe.example/api/v3" }))).await;
    for key in ["git.push", "webhook.github.push"] {
        test.effects.once("dispatch", |_| Ok(EffectReply::Http(HttpReply::new(204, ""))));
        assert!(is_done(&test.handle(handler.as_ref(), [event(key).id("e-2").file("/srv/app/a.py")]).await), "{key}");
    }
    let did = json!({ "tool_name": "Bash", "tool_response": { "gitOperation": { "push": { "branch": "main" } } }, "session_id": "s-1" });
    assert!(is_done(&test.handle(handler.as_ref(), [event("claude.tool").payload(did)]).await));
    let request = &test.effects.http()[0];
    assert_eq!(request.url.as_str(), "https://ghe.example/api/v3/repos/octo/repo/dispatches");
    fits(request, &shapes()["repository"]);
    let body = json_body(request);
    assert_eq!(
        (&body["event_type"], &body["client_payload"]["event_id"], &body["client_payload"]["files"]),
        (&json!("session-pushed"), &json!("e-2"), &json!(["/srv/app/a.py"]))
    );
    assert!(body["client_payload"]["handling"].is_string());
}

/// Retried, stopped (for so long), or to the dead letters.
#[derive(Debug, PartialEq)]
enum Then {
    Again,
    Wait(Option<u64>),
    Never,
}

fn then(handled: &Handled) -> Then {
    match &handled.result {
        Err(HandlerError::Reject { .. }) => Then::Never,
        _ => match class(handled) {
            EffectClass::Refused | EffectClass::Forbidden => Then::Never,
            EffectClass::Unreachable => Then::Wait(effect_error(handled).retry_after.map(|wait| wait.as_secs())),
            _ => Then::Again,
        },
    }
}

#[tokio::test]
async fn githubs_answers_lead_to_what_its_rules_say() {
    let test = TestContext::new();
    let in_ten_minutes = (router_api::Clock::now(&test.clock).as_second() + 600).to_string();
    let secondary = "{\"message\":\"You have exceeded a secondary rate limit. Please wait.\"}";
    for (status, headers, body, expected) in [
        (408, vec![], "", Then::Again),
        (425, vec![], "", Then::Again),
        (500, vec![], "", Then::Again),
        (502, vec![], "", Then::Wait(None)),
        (503, vec![], "", Then::Wait(None)),
        (504, vec![], "", Then::Wait(None)),
        (429, vec![("retry-after", "7")], "", Then::Wait(Some(7))),
        (429, vec![], "", Then::Wait(Some(60))),
        (403, vec![("retry-after", "30")], "", Then::Wait(Some(30))),
        (403, vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", in_ten_minutes.as_str())], "", Then::Wait(Some(600))),
        (403, vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")], "", Then::Wait(Some(1))),
        (403, vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "9999999999")], "", Then::Wait(Some(7_200))),
        (403, vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "soon")], "", Then::Wait(Some(60))),
        (403, vec![], secondary, Then::Wait(Some(60))),
        (403, vec![("x-ratelimit-remaining", "4999"), ("x-ratelimit-reset", "9999999999")], "{\"message\":\"Resource not accessible\"}", Then::Never),
        (301, vec![("location", "https://elsewhere.example/")], "", Then::Never),
        (400, vec![], "", Then::Never),
        (401, vec![], "", Then::Never),
        (404, vec![], "{\"message\":\"Not Found\"}", Then::Never),
        (405, vec![], "", Then::Never),
        (409, vec![], "", Then::Never),
        (410, vec![], "", Then::Never),
        (413, vec![], "", Then::Never),
        (415, vec![], "", Then::Never),
        (422, vec![], "{\"message\":\"No ref found\"}", Then::Never),
        // Something between here and GitHub has answered.
        (200, vec![("content-type", "text/html")], "Please sign in", Then::Again),
        (200, vec![], "<!doctype html>", Then::Again),
    ] {
        let handler = built::<Ci>(&test, github(json!({ "workflow": "ci.yml" }))).await;
        let reply = HttpReply {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..HttpReply::new(status, body.to_owned())
        };
        test.effects.once("dispatch", move |_| Ok(EffectReply::Http(reply.clone())));
        let handled = test.handle(handler.as_ref(), [pushed()]).await;
        assert_eq!(then(&handled), expected, "{status} {headers:?} {body}: {:?}", handled.result);
    }
    for (error, expected) in [(EffectClass::Unreachable, Then::Wait(None)), (EffectClass::Timeout, Then::Again), (EffectClass::Failed, Then::Again)] {
        let handler = built::<Ci>(&test, github(json!({ "workflow": "ci.yml" }))).await;
        test.effects.once("dispatch", move |_| Err(EffectError::new(error, "no")));
        assert_eq!(then(&test.handle(handler.as_ref(), [pushed()]).await), expected);
    }
}

#[tokio::test]
async fn hostile_values_stay_values_of_a_dispatch() {
    let test = TestContext::new();
    let workflow = built::<Ci>(&test, github(json!({ "workflow": "ci.yml", "inputs": { "text": "{{ payload.text }}" } }))).await;
    let repository = built::<Ci>(&test, github(json!({ "event_type": "pushed" }))).await;
    for text in hostile() {
        for handler in [&workflow, &repository] {
            let before = test.effects.http().len();
            let event =
                pushed().id(format!("id-{}", text.len())).with("git_branch", text.as_str()).with("session_id", text.as_str()).with("text", text.as_str());
            let _ = test.handle(handler.as_ref(), [event]).await;
            for request in &test.effects.http()[before..] {
                let body = json_body(request);
                fits(request, &shapes()[if body.get("ref").is_some() { "workflow" } else { "repository" }]);
                assert!(request.url.as_str().starts_with("https://api.github.com/repos/octo/repo/"));
                assert!(body.get("ref").is_none_or(|reference| !reference.as_str().unwrap().starts_with('-') && reference.as_str().unwrap().len() <= 255));
            }
        }
    }
}

fn buildbot(more: Value) -> Value {
    let mut options = json!({ "url": "http://build.example:8010" });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "provider": "buildbot", "trigger": "writes", "buildbot": options })
}

#[tokio::test]
async fn a_build_is_forced_with_the_events_ids() {
    let test = TestContext::new();
    let handler = built::<Ci>(
        &test,
        buildbot(json!({ "scheduler": "force", "builders": ["pytest"], "project": "shop", "properties": { "first": "{{ files | first }}" } })),
    )
    .await;
    answer(&test.effects, "force", 200, json!({ "id": 1, "jsonrpc": "2.0", "result": [7, { "1": 9 }] }));
    let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py").id("e-1")]).await;
    assert_eq!((is_done(&handled), handled.note.as_deref()), (true, Some("forced buildset 7")));
    let request = test.effects.http()[0].clone();
    assert_eq!((request.url.as_str(), header(&request, "content-type")), ("http://build.example:8010/api/v2/forceschedulers/force", Some("application/json")));
    let body = json_body(&request);
    assert_eq!((&body["method"], &body["jsonrpc"]), (&json!("force"), &json!("2.0")));
    let params = &body["params"];
    assert!(params["handling"].is_string());
    for (name, value) in [
        ("builderNames", json!(["pytest"])),
        ("event_id", json!("e-1")),
        ("session_id", json!("s-1")),
        ("branch", json!("feat/x")),
        ("project", json!("shop")),
        ("first", json!("/srv/app/a.py")),
    ] {
        assert_eq!(params[name], value, "{name}");
    }
}

#[tokio::test]
async fn what_buildbot_answers_decides_by_its_body_first() {
    let test = TestContext::new();
    let error = |code: i32, message: &str| json!({ "error": { "code": code, "message": message }, "id": 1, "jsonrpc": "2.0" });
    for (status, body, expected) in [
        (500, error(-32603, "AttributeError(\"'NoneType' object has no attribute 'force'\")"), Then::Never),
        (500, error(-32603, "KeyError('builderNames not specified or not supported')"), Then::Never),
        (500, error(-32603, "OperationalError('database is locked')"), Then::Again),
        (200, json!({ "id": 1, "jsonrpc": "2.0", "result": null }), Then::Never),
        (400, error(-32600, "Invalid content-type"), Then::Never),
        (400, error(-32700, "JSON parse error"), Then::Never),
        (200, json!("<html>"), Then::Never),
        (502, json!("<html>"), Then::Wait(None)),
        (503, json!({}), Then::Wait(None)),
        (401, json!({}), Then::Never),
        (404, json!({}), Then::Never),
    ] {
        let handler = built::<Ci>(&test, buildbot(json!({ "scheduler": "force" }))).await;
        answer(&test.effects, "force", status, body.clone());
        assert_eq!(then(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), expected, "{status} {body}");
    }
    let handler = built::<Ci>(&test, buildbot(json!({ "scheduler": "force" }))).await;
    test.effects.once("force", |_| Ok(EffectReply::Http(HttpReply::new(200, "<html>"))));
    assert_eq!(then(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), Then::Again);
    for (status, body, expected) in [
        (400, "unknown dialect", Then::Never),
        (401, "", Then::Never),
        (500, "trouble", Then::Again),
        (503, "", Then::Wait(None)),
        (200, "<html>", Then::Again),
        (200, "", Then::Again),
        (200, "{}", Then::Again),
    ] {
        let handler = built::<Ci>(&test, buildbot(json!({ "change_hook": "base" }))).await;
        test.effects.once("change", move |_| Ok(EffectReply::Http(HttpReply::new(status, body))));
        assert_eq!(then(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), expected, "{status}");
    }
}

#[tokio::test]
async fn a_change_is_a_form_whose_values_stay_values() {
    let test = TestContext::new();
    let options = json!({ "change_hook": "base", "user": "router", "password": "p&ss", "repository": "file:///srv/app", "branch": "{{ git_branch }}" });
    let mut options = buildbot(options);
    options["paths"] = json!(["*"]);
    let handler = built::<Ci>(&test, options).await;
    for text in hostile() {
        test.effects.once("change", |_| Ok(EffectReply::Http(HttpReply::new(200, "1 change found"))));
        let before = test.effects.http().len();
        let event = event("session.thread.agent.action")
            .id(format!("id{text}"))
            .session("s")
            .tool("Write")
            .file("/srv/app/a.py")
            .working_directory("/srv/app")
            .git_branch(&text);
        let handled = test.handle(handler.as_ref(), [event]).await;
        for request in &test.effects.http()[before..] {
            let body = std::str::from_utf8(&request.body).unwrap();
            let names: Vec<_> = body.split('&').map(|field| field.split('=').next().unwrap()).collect();
            assert_eq!(names, ["author", "comments", "files", "properties", "repository", "branch"], "{text:.40?}");
            assert!(request.body.len() < 64 * 1024 && header(request, "authorization").unwrap().starts_with("Basic "));
        }
        assert_eq!(is_done(&handled), text.len() <= 1_024, "{text:.40?}: {:?}", handled.result);
        test.effects.forget_rules();
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_provider_comes_at_once() {
    let test = TestContext::new();
    assert_eq!(wrong_fields::<Ci>(&test, json!({ "provider": "github", "command": ["pytest"] })).await, ["command", "github"]);
    assert_eq!(wrong_fields::<Ci>(&test, json!({ "github": { "repository": "o/r", "token": "t", "workflow": "a.yml" } })).await, ["github"]);
    assert_eq!(wrong_fields::<Ci>(&test, json!({ "paths": [] })).await, ["paths"]);
    let bad = github(json!({ "repository": "o/../r", "token": "a b", "workflow": "a/b.yml", "event_type": "x", "timeout_ms": 0 }));
    assert_eq!(wrong_fields::<Ci>(&test, bad).await, ["github.repository", "github.timeout_ms", "github.token", "github.workflow"]);
    let bad = buildbot(json!({ "scheduler": "..", "user": "u", "properties": { "reason": "x" }, "timeout_ms": 0 }));
    assert_eq!(
        wrong_fields::<Ci>(&test, bad).await,
        ["buildbot.properties.reason", "buildbot.scheduler", "buildbot.timeout_ms", "buildbot.user", "buildbot.user"]
    );
    assert_eq!(wrong_fields::<Ci>(&test, buildbot(json!({ "builders": ["x"] }))).await, ["buildbot.builders", "buildbot.scheduler"]);
}

#[tokio::test]
async fn a_directory_of_another_machine_is_skipped_and_one_that_the_configuration_names_is_a_mistake() {
    let test = TestContext::new();
    let gone = |name: &str| test.effects.once(name, |_| Err(EffectError::new(EffectClass::Refused, "`/srv/app` is not a directory on this machine")));
    for options in [json!({ "command": ["pytest"] }), json!({ "command": ["pytest"], "cwd": "{{ working_directory }}" })] {
        let handler = built::<Ci>(&test, options).await;
        gone("ignored");
        gone("run");
        let handled = test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await;
        assert!(skipped(&handled).contains("not on this machine: there is no directory `/srv/app`") && handled.emits.is_empty());
    }
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"], "cwd": "/srv/app" })).await;
    gone("run");
    assert_eq!(class(&test.handle(handler.as_ref(), [write("/srv/app/a.py")]).await), EffectClass::Refused);
}

#[tokio::test]
async fn a_burst_that_was_gathered_by_something_else_than_its_place_goes_to_the_dead_letters_instead_of_being_checked_in_part() {
    let test = TestContext::new();
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"] })).await;
    let burst = || [write("/srv/app/a.py"), write("/srv/other/b.py").working_directory("/srv/other"), write("/srv/app/c.py")];
    let handled = test.handle(handler.as_ref(), burst()).await;
    let Err(HandlerError::Reject { reason, .. }) = &handled.result else { panic!("{:?}", handled.result) };
    assert!(reason.to_string().contains("2 working directories") && reason.to_string().contains("`coalesce = { by = \"working_directory\", … }`"), "{reason}");
    assert!(test.effects.requests().is_empty());
    // One place for all is what the configuration may say.
    let handler = built::<Ci>(&test, json!({ "command": ["pytest"], "cwd": "/srv" })).await;
    assert!(is_done(&test.handle(handler.as_ref(), burst()).await));

    let handler = built::<Ci>(&test, github(json!({ "workflow": "ci.yml" }))).await;
    let handled = test.handle(handler.as_ref(), [pushed(), pushed().git_branch("other"), pushed().git_branch("HEAD")]).await;
    assert!(matches!(&handled.result, Err(HandlerError::Reject { reason, .. }) if reason.to_string().contains("2 branches")), "{:?}", handled.result);
    let handler = built::<Ci>(&test, github(json!({ "workflow": "ci.yml", "ref": "main" }))).await;
    assert!(is_done(&test.handle(handler.as_ref(), [pushed(), pushed().git_branch("other")]).await));
}
