//! `ci`: one run for a burst, and an event that tells what came of it.

use std::time::Duration;

use plugins::ci::Ci;
use router_api::{CommandReply, EffectClass, EffectError, EffectReply};
use router_testkit::{EventBuilder, TestContext, event};
use serde_json::{Value, json};

use crate::{built, class, end, is_done, skipped, wrong_fields};

fn write(file: &str) -> EventBuilder {
    event("session.thread.agent.action").session("s-1").tool("Write").file(file).working_directory("/srv/app").git_branch("feat/x")
}

fn finished(handled: &router_testkit::Handled) -> &Value {
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
            "session_ids": ["s-1", "s-2"], "working_directory": "/srv/app", "git_branch": "feat/x",
            "command": "ruff check -- /srv/app/a.py /srv/app/-b.py", "duration_ms": 1234, "output_tail": "all good\n", "error_tail": "",
        })
    );
    assert_eq!(handled.emits[0].body["correlation_ids"].as_array().unwrap().len(), 5);
    assert_eq!(handled.note.as_deref(), Some("passed: exit code 0, 2 files, 1.2 s"));
    let command = &test.effects.commands()[0];
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
    assert!(skipped(&handled).contains("/srv/app"));
    assert!(test.effects.requests().is_empty());
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
    assert!(test.build::<Ci>(json!({})).await.is_err());
    let options = json!({ "command": ["pytest"], "timeout_ms": 0, "output_tail_bytes": 70_000, "cwd": "/srv", "roots": ["/srv"] });
    assert_eq!(wrong_fields::<Ci>(&test, options).await, ["output_tail_bytes", "roots", "timeout_ms"]);
}
