//! `sessions` with what nobody should send, or leave lying about.

use std::{
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use jiff::{SignedDuration, Timestamp};
use router_tests::Home;
use serde_json::{Value, json};

const SESSION: &str = "7b1a2c1a-9d0b-4b52-8a63-2f1f6f3a9c11";

fn answer(message: &str, output: u64) -> String {
    let at = Timestamp::now() - SignedDuration::from_hours(1);
    json!({ "type": "assistant", "sessionId": SESSION, "timestamp": at, "cwd": "/home/ada/shop", "requestId": message,
        "message": { "id": message, "model": "claude-opus-5", "role": "assistant", "content": [], "usage": { "output_tokens": output } } })
    .to_string()
        + "\n"
}

#[test]
fn an_import_passes_over_what_is_no_transcript_and_counts_what_it_cannot_understand() {
    let home = Home::new("");
    let huge = format!("{{\"type\":\"user\",\"x\":\"{}\"}}\n", "x".repeat(5 << 20));
    let text = format!("{}{huge}\u{0}\u{0}no json\n{}{{\"type\":\"assistant\",\"mess", answer("m1", 100), answer("m2", 200));
    let transcript = home.write(&format!("projects/p/{SESSION}.jsonl"), &text);
    let directory = transcript.parent().expect("it lies in one").to_owned();
    home.write("projects/p/empty.jsonl", "");
    home.write("projects/p/other.txt", &answer("m3", 1_000));
    home.write("projects/p/directory.jsonl/note.txt", "");
    symlink("..", directory.join("loop")).expect("a link can be made");
    symlink(&transcript, directory.join("again.jsonl")).expect("a link can be made");
    symlink("/nowhere/at.jsonl", directory.join("nowhere.jsonl")).expect("a link can be made");
    let pipe = directory.join("pipe.jsonl");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());

    let found = home.run(&["sessions", "import", "projects", "--json"]).code(0).json();
    assert_eq!((&found["sessions"], &found["stats"]["total"]["tokens"], &found["lines_skipped"]), (&json!(1), &json!(300), &json!(2)), "{found:#}");
    // What is no file is refused at once; to open it would take for ever.
    let refused = home.run(&["sessions", "import", "projects/p/pipe.jsonl"]).code(1).stderr;
    assert!(refused.contains("pipe.jsonl` cannot be read"), "{refused}");
    let refused = home.run(&["sessions", "import", "projects", "--prices", "projects/p/pipe.jsonl"]).code(1).stderr;
    assert!(refused.contains("it is no file"), "{refused}");
}

#[test]
fn hostile_names_steer_no_terminal_and_break_no_question() {
    let home = Home::new("[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n");
    let service = home.serve();
    let names =
        ["../../etc/passwd", "\u{1b}]0;evil\u{7}\u{1b}[2J", "two\nlines\r", "'; DROP TABLE sessions; --", "\u{202e}gpj.exe", "%s%n{}", "=cmd|'/c calc'!A1"];
    let huge = "x".repeat(1 << 20);
    for (number, name) in names.iter().copied().chain([huge.as_str()]).enumerate() {
        let at = Timestamp::now() - SignedDuration::from_mins(5);
        // A body of more than 4 MiB would not be taken at all.
        let (id, name) = if name.len() > 1_000 { (name, "huge") } else { (name, name) };
        let payload = json!({ "session_id": id, "working_directory": format!("/home/ada/{name}"), "git_branch": name, "model": name, "turn_number": 1,
            "tags": [format!("feature:{name}")], "tool_metadata": { "tool_name": name, "tool_input": {} } });
        let event = json!({ "event_id": format!("e-{number}"), "event_type": "session.thread.agent.action", "timestamp": at, "version": "1.0.0",
            "source": { "host": name, "type": "hook", "app": name }, "correlation_ids": [name], "agent_context": null, "payload": payload });
        service.send("session.thread.agent.action", &event);
    }
    let list = home.run(&["sessions", "list", "--json"]).code(0).json();
    let known: Vec<&str> = list["result"]["sessions"].as_array().expect("a list").iter().filter_map(|session| session["session_id"].as_str()).collect();
    assert_eq!(known.len(), names.len(), "what is longer than any id is none: {known:?}");
    let harmless = |args: &[&str]| {
        let text = home.run(args).code(0).stdout;
        let deceptive = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(deceptive), "{args:?} show {text:?}");
        text.lines().count()
    };
    assert_eq!(harmless(&["sessions", "list"]), names.len() + 1, "a line each");
    for by in ["tool", "model", "project", "branch", "feature"] {
        harmless(&["sessions", "stats", "--by", by]);
    }
    for name in names {
        harmless(&["sessions", "show", "--related", "--", name]);
        let shown: Value = home.run(&["sessions", "show", "--json", "--", name]).code(0).json();
        assert_eq!(shown["result"]["session"]["session_id"], name);
        harmless(&["replay", "--session", name]);
    }
    let unknown = home.run(&["sessions", "show", "--", "\u{1b}[31m"]);
    assert!(unknown.code != Some(0) && !unknown.stderr.contains('\u{1b}'), "{unknown:?}");
    service.stop();
}

#[test]
fn whoever_reads_an_export_may_stop_reading() {
    let home = Home::new("");
    for number in 0..200 {
        let session = format!("7b1a2c1a-9d0b-4b52-8a63-{number:012}");
        home.write(&format!("projects/p/{session}.jsonl"), &answer(&format!("m{number}"), 100).replace(SESSION, &session));
    }
    let _ = home.run(&["sessions", "import", "projects"]).code(0);
    for args in
        [&["sessions", "export"][..], &["sessions", "export", "--format", "csv"], &["sessions", "export", "--json"], &["sessions", "list", "--last", "200"]]
    {
        let mut child = home.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        drop(child.stdout.take());
        let ended = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code().is_some_and(|code| code != 101) && !stderr.contains("panicked"), "{args:?}: {:?} {stderr}", ended.status);
    }
}
