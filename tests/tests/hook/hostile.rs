//! What a machine, a repository or a caller can do to the hook: it ends with 0 and in silence, and where it can it still tells its event.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use router_claude::{Spool, state::StateDir};
use router_tests::{Home, hook_binary};
use serde_json::{Value, json};

use crate::world::*;

fn spooled(home: &Home) -> Vec<Value> {
    let Some(drain) = Spool::at(&home.path().join("spool"), 1).drain().unwrap() else { return Vec::new() };
    let batch = drain.batch(100_000, usize::MAX).unwrap();
    batch.records.iter().map(|record| serde_json::from_slice(&record.body).unwrap()).collect()
}

#[test]
fn an_input_that_is_never_closed_is_taken_as_far_as_it_came() {
    let home = home("");
    let whole = hook(&home, "Stop", &json!({})).to_string();
    let calls: Vec<_> = [whole.as_str(), "{\"half\":", ""]
        .into_iter()
        .map(|input| {
            let mut child = command(&home, &[]).spawn().expect("the hook runs");
            let mut stdin = child.stdin.take().expect("stdin is a pipe");
            stdin.write_all(input.as_bytes()).expect("the hook reads");
            (child, stdin)
        })
        .collect();
    for (child, stdin) in calls {
        is_silent(&child.wait_with_output().expect("the hook ends"));
        drop(stdin);
    }
    assert_eq!(keys(&spooled(&home)), ["session.thread.start", "session.thread.turn.completed"]);
}

#[test]
fn an_input_of_many_mebibytes_is_an_event_of_a_few_kilobytes() {
    let home = home("");
    let mebibytes = if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { 100 } else { 8 };
    let content = "a line of a file\n".repeat(mebibytes * 1024 * 1024 / 17);
    let more = json!({ "tool_name": "Write", "tool_use_id": "t-1", "tool_input": { "file_path": "/a.py", "content": content },
        "tool_response": { "filePath": "/a.py", "stdout": content } });
    let output = call(command(&home, &[]), hook(&home, "PostToolUse", &more).to_string().as_bytes());
    is_silent(&output);
    let events = spooled(&home);
    assert_eq!(keys(&events), ["session.thread.start", "session.thread.agent.action"]);
    assert_eq!(events[1]["payload"]["tool_metadata"]["tool_input"]["content"], format!("[{} bytes]", content.len()));
    assert!(events[1].to_string().len() < 8_000, "{}", events[1]);
}

#[test]
fn bytes_that_are_no_text_and_depths_that_nobody_needs_cost_only_themselves() {
    let home = home("");
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for (id, odd) in [("t-1", b"\"\xff\xfe\"".as_slice()), ("t-2", b"\"cut in the middle of \\ud83d\""), ("t-3", deep.as_bytes())] {
        let text = hook(&home, "PostToolUse", &json!({ "tool_name": "Bash", "tool_use_id": id, "tool_response": { "stdout": "ODD" } })).to_string();
        let (before, after) = text.split_once("\"ODD\"").expect("it is there");
        is_silent(&call(command(&home, &[]), &[before.as_bytes(), odd, after.as_bytes()].concat()));
    }
    assert_eq!(spooled(&home).len(), 4);
}

#[test]
fn a_directory_that_is_gone_stays_gone() {
    let home = home("");
    let gone = home.path().join("gone");
    for (session, input) in
        [("named", hook(&home, "Stop", &json!({ "session_id": "s-1", "cwd": gone })).to_string()), ("not named", "{\"hook_event_name\":\"Stop\"}".to_owned())]
    {
        fs::create_dir_all(&gone).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "rmdir \"$PWD\" && exec \"$0\""]).arg(hook_binary()).current_dir(&gone).env_clear();
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("EVENT_ROUTER_SPOOL", home.path().join("spool"));
        shell.env("BLOODBANK_URL", "http://127.0.0.1:1").env("CLAUDE_PROJECT_DIR", &gone);
        is_silent(&call(shell, input.as_bytes()));
        assert!(!gone.exists(), "{session}");
    }
    assert_eq!(spooled(&home).len(), 3, "the start of one session, and two turns of it");
}

#[test]
fn a_disk_that_is_full_and_a_home_that_nobody_may_write_to_are_not_shown() {
    let home = home("");
    let input = hook(&home, "Stop", &json!({})).to_string();
    fs::create_dir_all(home.path().join("spool")).unwrap();
    symlink("/dev/full", home.path().join("spool/events")).unwrap();
    is_silent(&call(command(&home, &[]), input.as_bytes()));
    for odd in ["/proc", "/dev/null", "relative", ""] {
        let mut command = command(&home, &[]);
        command.env("HOME", odd).env_remove("EVENT_ROUTER_SPOOL");
        is_silent(&call(command, input.as_bytes()));
    }
}

#[test]
fn files_that_are_directories_cost_the_counting_and_not_the_event() {
    let home = home("");
    let state = StateDir::of_project(&project(&home));
    let files = [state.tracking(), state.file("s-1"), state.tally("s-1"), state.sessions().join(".lock"), project(&home).join(".claude/.gitignore")];
    for (number, file) in files.iter().enumerate() {
        let _ = fs::remove_dir_all(project(&home).join(".claude"));
        fs::create_dir_all(file).unwrap();
        silent_hook(&home, "PostToolUse", &json!({ "tool_name": "Read", "tool_use_id": format!("t-{number}") }));
        assert_eq!(spooled(&home).iter().filter(|event| event["event_type"] == "session.thread.agent.action").count(), number + 1, "{}", file.display());
    }
    fs::remove_dir_all(home.path().join("spool")).unwrap();
    fs::create_dir_all(home.path().join("spool/events")).unwrap();
    silent_hook(&home, "PostToolUse", &json!({ "tool_name": "Read", "tool_use_id": "t-9" }));
    assert!(!spooled(&home).is_empty());
}

#[test]
fn links_of_a_repository_lead_nobody_to_write_elsewhere() {
    let home = home("");
    let precious = home.write("precious", "export A=1\n");
    fs::create_dir_all(project(&home).join(".claude")).unwrap();
    symlink(&precious, project(&home).join(".claude/.gitignore")).unwrap();
    symlink(&precious, project(&home).join(".claude/session-tracking.json")).unwrap();
    silent_hook(&home, "Stop", &json!({}));
    assert_eq!(home.read("precious"), "export A=1\n");
    assert!(project(&home).join(".claude/session-tracking.json").symlink_metadata().unwrap().is_file());
    // A directory that its user keeps elsewhere is respected.
    fs::remove_dir_all(project(&home).join(".claude")).unwrap();
    fs::create_dir_all(home.path().join("dotfiles")).unwrap();
    symlink(home.path().join("dotfiles"), project(&home).join(".claude")).unwrap();
    silent_hook(&home, "Stop", &json!({}));
    assert!(home.path().join("dotfiles/sessions/s-1.json").is_file());
}

#[test]
fn a_clock_that_was_set_back_makes_no_session_longer_or_abandoned() {
    let home = home("");
    silent_hook(&home, "SessionStart", &json!({}));
    let state = StateDir::of_project(&project(&home));
    let mut session = state.load("s-1").unwrap();
    session.started_at = Some("2199-01-01T00:00:00Z".parse().unwrap());
    session.last_seen = session.started_at;
    state.save(&session).unwrap();
    silent_hook(&home, "SessionStart", &json!({ "session_id": "s-2" }));
    silent_hook(&home, "SessionEnd", &json!({ "reason": "other" }));
    let ends: Vec<Value> = spooled(&home).into_iter().filter(|event| event["event_type"] == "session.thread.end").collect();
    assert_eq!((ends.len(), &ends[0]["payload"]["duration_seconds"], &ends[0]["payload"]["end_reason"]), (1, &json!(0), &json!("other")), "{ends:?}");
}

#[test]
fn two_sessions_in_one_project_count_each_for_itself() {
    let home = home("");
    for number in 0..6 {
        let session = if number % 3 == 0 { "s-2" } else { "s-1" };
        silent_hook(&home, "PostToolUse", &json!({ "session_id": session, "tool_name": "Read", "tool_use_id": format!("t-{number}") }));
    }
    let state = StateDir::of_project(&project(&home));
    assert_eq!((state.load("s-1").unwrap().tools_used["Read"], state.load("s-2").unwrap().tools_used["Read"]), (4, 2));
    assert_eq!(state.active().unwrap().session_id, "s-1", "the copy is of the one that was active last");
    silent_hook(&home, "SessionEnd", &json!({ "session_id": "s-2", "reason": "other" }));
    silent_hook(&home, "PostToolUse", &json!({ "tool_name": "Read", "tool_use_id": "t-7" }));
    let events = spooled(&home);
    assert_eq!(events.iter().filter(|event| event["event_type"] == "session.thread.start").count(), 2);
    assert!(!keys(&events).contains(&"session.thread.resumed"), "{:?}", keys(&events));
}
