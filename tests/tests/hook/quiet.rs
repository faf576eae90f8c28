//! Whatever happens: exit code 0, and not a byte on either stream, unless somebody debugs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use router_tests::{Home, eventually, post};
use serde_json::{Value, json};

use crate::world::*;

fn spooled(home: &Home) -> String {
    String::from_utf8_lossy(&fs::read(home.path().join("spool/events")).unwrap_or_default()).into_owned()
}

#[test]
fn nothing_that_comes_in_is_answered_or_fails() {
    let home = home("");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let big = hook(&home, "PostToolUse", &json!({ "tool_name": "Write", "tool_input": { "content": "ä".repeat(4_000_000) } })).to_string();
    let odd: [&[u8]; 12] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b"{\"TODO\"}",
        b"{\"session_id\":7,\"hook_event_name\":[]}",
        b"{\"session_id\":\"../../../etc/passwd\",\"hook_event_name\":\"Stop\",\"cwd\":\"/nowhere/at/all\"}",
        b"{\"hook_event_name\":\"PostToolUse\",\"tool_name\":7,\"tool_input\":[],\"tool_response\":7,\"duration_ms\":-1.5e300}",
        deep.as_bytes(),
        big.as_bytes(),
    ];
    for input in odd {
        for arguments in [&[][..], &["tool-action"], &["session-start"], &["session-end", "manual"], &["nonsense", "\u{1b}[31m"], &["--feedback"]] {
            is_silent(&call(command(&home, arguments), input));
        }
    }
    assert!(!home.path().join("etc").exists());
}

#[test]
fn nothing_that_is_broken_on_the_machine_is_shown() {
    let home = home("");
    let input = hook(&home, "Stop", &json!({})).to_string();
    // A file where the spool should be, no home, a directory that nobody may write to.
    let file = home.write("a-file", "x");
    let mut one = command(&home, &[]);
    one.env("EVENT_ROUTER_SPOOL", &file);
    is_silent(&call(one, input.as_bytes()));
    let mut two = command(&home, &[]);
    two.env_remove("HOME").env_remove("EVENT_ROUTER_SPOOL");
    is_silent(&call(two, input.as_bytes()));
    for url in ["https://127.0.0.1:1", "nonsense", "http://", "http://no-such-host.invalid:1"] {
        let mut three = command(&home, &[]);
        three.env("BLOODBANK_URL", url);
        is_silent(&call(three, input.as_bytes()));
    }
    home.write("project/.claude/sessions/s-1.json", "{ half");
    home.write("project/.claude/session-tracking.json", "[]");
    silent_hook(&home, "Stop", &json!({}));
    home.write("spool/events", "no spool at all, but longer than its header");
    silent_hook(&home, "Stop", &json!({}));
    assert!(spooled(&home).contains("session.thread.turn.completed"));
}

#[test]
fn switched_off_it_does_nothing() {
    let home = home("");
    let mut off = command(&home, &[]);
    off.env("BLOODBANK_ENABLED", "false");
    is_silent(&call(off, hook(&home, "Stop", &json!({})).to_string().as_bytes()));
    assert!(!home.path().join("spool").exists() && !project(&home).join(".claude").exists());
}

#[test]
fn debugging_names_each_event_and_what_became_of_it() {
    let home = home("");
    let debug = |name: &str| {
        let mut command = command(&home, &[]);
        command.env("BLOODBANK_DEBUG", "true");
        let output = call(command, hook(&home, name, &json!({})).to_string().as_bytes());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = debug("Stop");
    assert!(said.lines().all(|line| line.starts_with("[bloodbank-publisher] ")), "{said}");
    assert!(said.contains("session.thread.start") && said.contains("session.thread.turn.completed") && said.contains("spooled"), "{said}");
    assert!(debug("Notification").contains("no event"));
    let service = home.serve();
    eventually("the router has the spool", || debug("StopFailure").contains(" published").then_some(()));
    let _ = service.stop();
}

#[test]
fn the_documented_files_answer_and_a_deleted_one_is_made_again_for_the_same_session() {
    let home = home("");
    silent_hook(&home, "SessionStart", &json!({ "source": "startup", "model": "m" }));
    silent_hook(&home, "UserPromptSubmit", &json!({}));
    silent_hook(&home, "PostToolUse", &json!({ "tool_name": "Bash", "tool_use_id": "t-1" }));
    let tracking = project(&home).join(".claude/session-tracking.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&tracking).unwrap()).unwrap();
    let state = read();
    assert_eq!(
        (&state["session_id"], &state["git_branch"], &state["turn_number"], &state["tools_used"], &state["working_directory"]),
        (&json!("s-1"), &json!("feature/auth"), &json!(1), &json!({ "Bash": 1 }), &json!(project(&home)))
    );
    assert!(state["started_at"].is_string());
    assert_eq!(fs::read(project(&home).join(".claude/sessions/s-1.json")).unwrap(), fs::read(&tracking).unwrap());
    assert_eq!(fs::metadata(&tracking).unwrap().permissions().mode() & 0o077, 0);
    assert!(fs::read_to_string(project(&home).join(".claude/.gitignore")).unwrap().contains("session-tracking.json"));
    fs::remove_dir_all(project(&home).join(".claude")).unwrap();
    silent_hook(&home, "PostToolUse", &json!({ "tool_name": "Read", "tool_use_id": "t-2" }));
    assert_eq!((&read()["session_id"], &read()["tools_used"]), (&json!("s-1"), &json!({ "Read": 1 })));
}

#[test]
fn the_original_interface_has_one_session_from_its_start_to_its_end() {
    let home = home("");
    let session = || serde_json::from_slice::<Value>(&fs::read(project(&home).join(".claude/session-tracking.json")).unwrap()).unwrap();
    let original = |arguments: &[&str], input: &str, claude: bool| {
        let mut command = command(&home, arguments);
        if !claude {
            command.env_remove("CLAUDECODE");
        }
        is_silent(&call(command, input.as_bytes()));
    };
    original(&["session-start"], "{}", true);
    let id = session()["session_id"].as_str().unwrap().to_owned();
    original(&["tool-action"], r#"{"tool_name":"Test","tool_input":{}}"#, true);
    original(&["tool-action"], r#"{"tool_name":"Test","tool_input":{}}"#, true);
    // Wired to `Stop`, as the original settings have it.
    original(&["session-end", "user_stop"], "{\"TODO\"}", true);
    assert_eq!((session()["session_id"].as_str(), &session()["ended"], &session()["tools_used"]), (Some(id.as_str()), &json!(false), &json!({ "Test": 2 })));
    original(&["session-end", "manual"], "{}", false);
    assert_eq!(session()["ended"], json!(true));
    let service = home.serve();
    let events = seen(&home, 5);
    let expected =
        ["session.thread.start", "session.thread.agent.action", "session.thread.agent.action", "session.thread.turn.completed", "session.thread.end"];
    assert_eq!(keys(&events), expected);
    assert!(events.iter().all(|event| event["payload"]["session_id"] == id.as_str()));
    assert_ne!(events[1]["event_id"], events[2]["event_id"], "the same call twice is two calls");
    assert_eq!(events[4]["payload"]["end_reason"], "manual");
    let _ = service.stop();
}

#[test]
fn a_second_router_leaves_the_spool_alone_and_says_so() {
    let home = home("");
    silent_hook(&home, "Stop", &json!({}));
    let first = home.serve();
    seen(&home, 2);
    let other = Home::new("");
    let mut command = other.command(&["run", "--log-format", "json"]);
    command.env("EVENT_ROUTER_SPOOL", home.path().join("spool"));
    let mut second = router_tests::Service::start(command);
    let _ = second.wait_for("is drained by another router").expect("it says so");
    let ready = router_tests::request(second.address(), format!("GET /readyz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", second.address()).as_bytes());
    assert!(ready.expect("it answers").json()["notes"].to_string().contains("another router"));
    silent_hook(&home, "StopFailure", &json!({}));
    seen(&home, 3);
    // The one that stays takes the spool over.
    first.kill();
    silent_hook(&home, "StopFailure", &json!({ "error": "later" }));
    let _ = second.wait_for("come in from the spool").expect("it takes over");
    eventually("the second router has it", || other.run(&["events", "--json"]).code(0).stdout.contains("session.thread.error").then_some(()));
    let _ = second.stop();
}

#[test]
fn what_is_no_event_for_the_router_is_kept_beside_the_spool_and_holds_up_nothing() {
    let home = home("");
    let spool = router_claude::Spool::open(&home.path().join("spool"), 1_000_000).unwrap();
    let record = |key: &str, body: &str| router_claude::Record { key: key.into(), session: "s".into(), body: body.into() };
    let good = json!({ "event_id": "e-1", "event_type": "session.x", "payload": { "session_id": "s" } }).to_string();
    spool.append(&[record("session.x", "no JSON"), record(&"k".repeat(300), "{}"), record("session.x", &good)], std::time::Duration::from_secs(60)).unwrap();
    let mut service = home.serve();
    assert_eq!(seen(&home, 1)[0]["event_id"], "e-1");
    let _ = service.wait_for("is none for the router").expect("it is told");
    eventually("the spool is empty", || (spool.waiting().bytes == 0).then_some(()));
    assert_eq!((spool.waiting().lost.refused, fs::read_dir(home.path().join("spool/refused")).unwrap().count()), (2, 2));
    assert!(post(service.address(), "/events?key=other", "{}").is_some_and(|answer| answer.status == 200));
    let _ = service.stop();
}
