//! `exec`: what the command is given, and what its exit code does.

use plugins::exec::Exec;
use router_api::{CommandReply, EffectClass, EffectReply};
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
