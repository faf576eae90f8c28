//! `exec`: what the command is given, and what its exit code does.

use plugins::exec::Exec;
use router_api::{CommandReply, EffectClass, EffectReply, HandlerError};
use router_testkit::{EventBuilder, TestContext, event};
use serde_json::json;

use crate::{built, class, effect_error, end, is_done, skipped, wrong_fields};

fn write() -> EventBuilder {
    event("tool.mutation.write").session("s-1").tool("Write").file("/p/a.py").working_directory("/srv/p")
}

#[tokio::test]
async fn the_command_gets_the_event_byte_for_byte_and_its_own_directory_and_variables() {
    let test = TestContext::new().base_dir("/etc/router");
    let options = json!({
        "command": ["notify", "--title", "{{ tool_name }}", "{{ file_path }}"],
        "cwd": "{{ working_directory }}", "roots": ["/srv"], "env": { "SESSION": "{{ session_id }}", "LANG": "C" }, "timeout_ms": 1500,
    });
    let handler = built::<Exec>(&test, options).await;
    let event = write();
    assert!(is_done(&test.handle(handler.as_ref(), [event.clone()]).await));
    let command = &test.effects.commands()[0];
    assert_eq!(command.display_argv(), ["notify", "--title", "Write", "/p/a.py"]);
    assert_eq!(command.cwd.as_deref(), Some("/srv/p".as_ref()));
    assert_eq!(command.env, [("LANG".to_owned(), "C".to_owned()), ("SESSION".to_owned(), "s-1".to_owned())]);
    assert_eq!(command.stdin.as_ref(), Some(&event.bytes()));
    assert_eq!(command.timeout.map(|timeout| timeout.as_millis()), Some(1500));
}

#[tokio::test]
async fn a_burst_goes_in_as_one_line_for_each_event_or_not_at_all() {
    let pretty = router_api::Envelope::decode("k".parse().unwrap(), "{\r\n \"a\": \"x\\ny\",\n \"n\": 1.0\n}", Default::default()).unwrap();
    let burst = vec![std::sync::Arc::new(pretty), event("k").id("e-2").envelope()];
    let second = burst[1].raw().clone();
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p"], "input": "burst-lines" })).await;
    assert!(is_done(&test.handle_envelopes(handler.as_ref(), burst).await));
    let stdin = test.effects.commands()[0].stdin.clone().unwrap();
    assert_eq!(stdin, [&b"{   \"a\": \"x\\ny\",  \"n\": 1.0 }\n"[..], &second, b"\n"].concat());

    let handler = built::<Exec>(&test, json!({ "command": ["p"], "input": "none" })).await;
    test.handle(handler.as_ref(), [write()]).await;
    assert_eq!(test.effects.commands()[1].stdin, None);
}

#[tokio::test]
async fn a_relative_directory_without_template_is_relative_to_the_configuration() {
    let test = TestContext::new().base_dir("/etc/router");
    for (options, cwd) in [(json!({ "command": ["p"], "cwd": "../scripts" }), "/etc/scripts"), (json!({ "command": ["p"] }), "/etc/router")] {
        let handler = built::<Exec>(&test, options).await;
        test.handle(handler.as_ref(), [write()]).await;
        assert_eq!(test.effects.commands().last().unwrap().cwd.as_deref(), Some(cwd.as_ref()));
    }
}

#[tokio::test]
async fn exit_codes_mean_what_the_table_says() {
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p"] })).await;
    for (code, expected) in [
        (75, EffectClass::Failed),
        (1, EffectClass::Failed),
        (64, EffectClass::Refused),
        (65, EffectClass::Refused),
        (78, EffectClass::Refused),
        (69, EffectClass::Unreachable),
    ] {
        end(&test.effects, "exec", code, "", "the end of it");
        let handled = test.handle(handler.as_ref(), [write()]).await;
        assert_eq!(class(&handled), expected, "exit code {code}");
        assert_eq!(effect_error(&handled).detail.as_deref(), Some("the end of it"));
    }
    assert!(is_done(&test.handle(handler.as_ref(), [write()]).await));
}

#[tokio::test]
async fn own_exit_codes_replace_the_defaults_list_by_list() {
    let test = TestContext::new();
    let codes = json!({ "done": [0, 3], "skip": [4], "reject": [5] });
    let handler = built::<Exec>(&test, json!({ "command": ["p"], "exit_codes": codes })).await;
    end(&test.effects, "exec", 3, "", "");
    assert!(is_done(&test.handle(handler.as_ref(), [write()]).await));
    end(&test.effects, "exec", 4, "looked\nnothing new\n", "");
    assert_eq!(skipped(&test.handle(handler.as_ref(), [write()]).await), "nothing new");
    end(&test.effects, "exec", 5, "", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [write()]).await), EffectClass::Refused);
    end(&test.effects, "exec", 64, "", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [write()]).await), EffectClass::Failed);
    end(&test.effects, "exec", 69, "", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [write()]).await), EffectClass::Unreachable);
}

#[tokio::test]
async fn an_end_by_a_signal_is_tried_again() {
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p"] })).await;
    test.effects.once("exec", |_| Ok(EffectReply::Command(CommandReply { signal: Some(9), ..CommandReply::default() })));
    assert_eq!(class(&test.handle(handler.as_ref(), [write()]).await), EffectClass::Failed);
}

#[tokio::test]
async fn an_event_cannot_leave_the_roots_or_become_an_option() {
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p", "{{ session_id }}"], "cwd": "{{ working_directory }}", "roots": ["/srv/p"] })).await;
    for hostile in ["/etc", "/srv/p/../../etc", "relative", "/srv/pp"] {
        assert_eq!(class(&test.handle(handler.as_ref(), [write().working_directory(hostile)]).await), EffectClass::Forbidden, "{hostile}");
    }
    assert_eq!(class(&test.handle(handler.as_ref(), [write().session("--upload-pack=x")]).await), EffectClass::Forbidden);
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_dry_run_records_the_command_and_ends() {
    let test = TestContext::new().shadow();
    test.effects.no_program("p");
    let handler = built::<Exec>(&test, json!({ "command": ["p", "a b"] })).await;
    let handled = test.handle(handler.as_ref(), [write()]).await;
    assert!(is_done(&handled));
    assert_eq!(handled.would, ["would run: p 'a b'"]);
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn all_that_is_wrong_with_the_options_comes_at_once() {
    let test = TestContext::new();
    test.effects.no_program("nosuch");
    let options = json!({
        "command": ["nosuch"], "timeout_ms": 0, "roots": ["/srv"],
        "env": { "1X": "a", "LD_PRELOAD": "{{ file_path }}", "PATH": "/usr/bin" },
        "exit_codes": { "retry": [75, 0], "pause": [75] },
    });
    let fields = wrong_fields::<Exec>(&test, options).await;
    assert_eq!(fields, ["command.0", "env.1X", "env.LD_PRELOAD", "exit_codes.pause", "exit_codes.retry", "exit_codes.retry", "roots", "timeout_ms"]);
}

/// The verdict with which the command answers the next event.
fn verdict(test: &TestContext, answer: serde_json::Value) {
    end(&test.effects, "exec", 0, &answer.to_string(), "");
}

#[tokio::test]
async fn a_command_that_stays_is_given_a_line_with_the_event_as_it_came() {
    let test = TestContext::new();
    let pretty = router_api::Envelope::decode("a.b".parse().unwrap(), "{\n \"n\": 1.0,\n \"big\": 12345678901234567890\n}", Default::default()).unwrap();
    let handler = built::<Exec>(&test, json!({ "command": ["p"], "keep_alive": true, "processes": 2, "idle_s": 5 })).await;
    let envelope = std::sync::Arc::new(pretty);
    assert!(is_done(&test.handle_envelopes(handler.as_ref(), vec![envelope.clone()]).await));
    assert!(is_done(&test.handle_envelopes(handler.as_ref(), vec![envelope]).await));
    let commands = test.effects.commands();
    let line = String::from_utf8(commands[0].stdin.as_ref().unwrap().to_vec()).unwrap();
    assert!(line.ends_with("\"event\":{  \"n\": 1.0,  \"big\": 12345678901234567890 }}\n") && line.lines().count() == 1, "{line}");
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    let keep_alive = commands[0].keep_alive.as_ref().unwrap();
    assert_eq!((read["id"].as_str(), read["attempt"].as_u64(), read["key"].as_str()), (Some(keep_alive.id.as_str()), Some(1), Some("a.b")));
    assert!(keep_alive.id.starts_with(read["idempotency_key"].as_str().unwrap()));
    assert_eq!((keep_alive.processes.map(u16::from), keep_alive.idle.as_secs()), (Some(2), 5));
    assert_eq!(keep_alive.leased.number(), commands[1].keep_alive.as_ref().unwrap().leased.number());
    assert!(!keep_alive.leased.over().is_cancelled());
    drop(handler);
    assert!(keep_alive.leased.over().is_cancelled(), "its processes end with the handler");
}

#[tokio::test]
async fn a_burst_is_one_line_for_a_command_that_stays() {
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p"], "keep_alive": true, "input": "burst-lines" })).await;
    let burst = [write(), write()];
    assert!(is_done(&test.handle(handler.as_ref(), burst.clone()).await));
    let read: serde_json::Value = serde_json::from_slice(test.effects.commands()[0].stdin.as_ref().unwrap()).unwrap();
    assert_eq!(read["events"], json!([burst[0].body(), burst[1].body()]));
    assert_eq!(read.get("event"), None);
}

#[tokio::test]
async fn a_verdict_decides_what_becomes_of_the_event() {
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p"], "keep_alive": true })).await;

    verdict(&test, json!({ "id": "x", "outcome": "done", "note": "three files", "emit": [{ "key": "a.b", "payload": { "n": 1 } }], "own": true }));
    let handled = test.handle(handler.as_ref(), [write()]).await;
    assert!(is_done(&handled));
    assert_eq!(handled.emits.iter().map(|emit| (emit.key.as_str(), emit.body["payload"].clone())).collect::<Vec<_>>(), [("a.b", json!({ "n": 1 }))]);

    for (answer, reason) in
        [(json!({ "outcome": "skipped", "reason": "not mine" }), "not mine"), (json!({ "outcome": "skipped" }), "the command had nothing to do")]
    {
        verdict(&test, answer);
        assert_eq!(skipped(&test.handle(handler.as_ref(), [write()]).await), reason);
    }
    for (answer, expected) in [
        (json!({ "outcome": "retry", "reason": "busy" }), "Retry: busy"),
        (json!({ "outcome": "retry", "delay_ms": 1500 }), "RetryAfter 1.5s: the command asked to be tried again"),
        (json!({ "outcome": "reject", "reason": "no such thing" }), "Reject: no such thing"),
        (json!({ "outcome": "pause", "reason": "down", "delay_ms": u64::MAX }), "Pause Some(86400s): down"),
        (json!({ "outcome": "pause" }), "Pause None: the command asked for a pause"),
        (json!({ "outcome": "done", "emit": vec![json!({ "key": "a", "payload": 1 }); 101] }), "Reject: the verdict emits 101 events, 100 are the limit"),
    ] {
        verdict(&test, answer);
        assert_eq!(told(&test.handle(handler.as_ref(), [write()]).await.result.unwrap_err()), expected);
    }
}

fn told(error: &HandlerError) -> String {
    match error {
        HandlerError::Retry { .. } => format!("Retry: {error}"),
        HandlerError::RetryAfter { delay, .. } => format!("RetryAfter {delay:?}: {error}"),
        HandlerError::Reject { .. } => format!("Reject: {error}"),
        HandlerError::Pause { delay, .. } => format!("Pause {delay:?}: {error}"),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_that_is_no_verdict_is_tried_again_and_says_what_is_wrong() {
    let test = TestContext::new();
    let handler = built::<Exec>(&test, json!({ "command": ["p"], "keep_alive": true })).await;
    for (answer, wrong) in [
        (json!({ "id": "x", "outcome": "dnoe" }), "unknown variant `dnoe`"),
        (json!({ "id": "x" }), "missing field `outcome`"),
        (json!({ "outcome": "done", "emit": [{ "key": "a\nb", "payload": 1 }] }), "the answer is no verdict"),
        (json!({ "outcome": "retry", "delay_ms": -1 }), "the answer is no verdict"),
    ] {
        verdict(&test, answer);
        let handled = test.handle(handler.as_ref(), [write()]).await;
        let error = handled.result.unwrap_err();
        assert!(matches!(error, HandlerError::Retry { .. }) && error.to_string().contains(wrong), "{error}");
        assert!(handled.emits.is_empty());
    }
}

#[tokio::test]
async fn a_dry_run_asks_no_command_that_stays() {
    let test = TestContext::new().shadow();
    let handler = built::<Exec>(&test, json!({ "command": ["p", "{{ session_id }}"], "keep_alive": true })).await;
    let handled = test.handle(handler.as_ref(), [write()]).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would run: p s-1".to_owned()]));
}

#[tokio::test]
async fn options_that_do_not_go_together_with_staying_are_refused() {
    let test = TestContext::new();
    let staying = json!({ "command": ["p"], "keep_alive": true, "exit_codes": {}, "input": "none", "processes": 65, "idle_s": 0 });
    assert_eq!(wrong_fields::<Exec>(&test, staying).await, ["exit_codes", "idle_s", "input", "processes"]);
    assert_eq!(wrong_fields::<Exec>(&test, json!({ "command": ["p"], "processes": 1, "idle_s": 9 })).await, ["idle_s", "processes"]);
}
