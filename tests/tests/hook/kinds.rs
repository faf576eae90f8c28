//! Every kind of event, field by field, from the hook's standard input to a route, on both transports.

use std::{collections::HashMap, fs};

use router_tests::{Broker, Home, Service, workspace};
use serde_json::{Value, json};

use crate::world::*;

/// Calls of one session, in their order: the hook, and what it has beside what all have.
fn session() -> Vec<(&'static str, Value)> {
    let commit = json!({ "sha": "9f86d08", "kind": "committed", "branch": "feature/auth" });
    vec![
        ("SessionStart", json!({ "source": "startup", "model": "claude-sonnet-4-5", "prompt_id": null })),
        ("UserPromptSubmit", json!({ "prompt": "use ghp_a1B2c3D4e5F6g7H8i9J0 for it" })),
        ("PreToolUse", json!({ "tool_name": "Write", "tool_use_id": "t-1", "tool_input": {} })),
        (
            "PostToolUse",
            json!({
                "tool_name": "Write", "tool_use_id": "t-1", "duration_ms": 12, "tool_input": { "file_path": "PROJECT/src/app.py", "content": "the file" },
                "tool_response": { "type": "create", "filePath": "PROJECT/src/app.py", "content": "the file", "originalFile": "the file",
                    "structuredPatch": [{ "lines": ["+the file"] }] }
            }),
        ),
        (
            "PostToolUse",
            json!({
                "tool_name": "Bash", "tool_use_id": "t-2", "duration_ms": 125, "tool_input": { "command": "git commit && git push", "description": "Commit" },
                "tool_response": { "stdout": "x".repeat(5_000), "stderr": "", "interrupted": false,
                    "gitOperation": { "commit": commit, "push": { "branch": "feature/auth" } } }
            }),
        ),
        (
            "PostToolUse",
            json!({
                "tool_name": "mcp__files__list", "tool_use_id": "t-3", "agent_id": "a-1", "agent_type": "Explore", "tool_input": { "api_key": "k-12345-abcdef" },
                "tool_response": "some text", "prompt_id": "99999999-0000-4000-8000-000000000009"
            }),
        ),
        (
            "PostToolUseFailure",
            json!({ "tool_name": "Bash", "tool_use_id": "t-4", "tool_input": { "command": "npm test" }, "error": "Exit code 1\nError: no", "is_interrupt": false,
                "duration_ms": 4187 }),
        ),
        ("SomethingOfTomorrow", json!({ "unknown": { "field": [1, 2, 3] } })),
        ("PostCompact", json!({ "trigger": "auto", "compact_summary": "we did things" })),
        ("StopFailure", json!({ "error": "overloaded", "error_details": "try again" })),
        ("SubagentStop", json!({ "agent_id": "a-1", "agent_type": "Explore", "stop_hook_active": false })),
        ("Stop", json!({ "stop_hook_active": false, "last_assistant_message": "done", "background_tasks": [{ "id": "b" }] })),
        ("SessionEnd", json!({ "reason": "prompt_input_exit" })),
        ("SessionEnd", json!({ "reason": "other" })),
        ("SessionStart", json!({ "source": "resume", "model": "claude-sonnet-4-5" })),
    ]
}

/// What the model answered: one answer on two lines, one of a synthetic model, and thoughts.
fn transcript() -> String {
    let answer = |id: &str, model: &str, input: u64, output: u64, content: &Value| {
        json!({
            "type": "assistant", "uuid": format!("u-{id}-{output}"), "requestId": format!("req_{id}"), "sessionId": "s-1", "timestamp": "2026-03-02T09:14:06.900Z",
            "message": { "id": format!("msg_{id}"), "model": model, "role": "assistant", "content": content,
                "usage": { "input_tokens": input, "output_tokens": output, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 } }
        })
        .to_string()
    };
    let thought = json!([{ "type": "thinking", "thinking": "how about a test" }]);
    let said = json!([{ "type": "text", "text": "done" }]);
    let lines =
        [answer("01", "claude-sonnet-4-5", 1_000, 5, &thought), answer("01", "claude-sonnet-4-5", 1_000, 300, &said), answer("02", "<synthetic>", 7, 7, &said)];
    lines.join("\n") + "\n"
}

/// Everything that a session can tell, as the variables of `settings.json` ask for it.
fn play(home: &Home) {
    home.write("transcript.jsonl", &transcript());
    home.write("project/.mcp.json", r#"{"mcpServers":{"claude-flow":{},"ruv-swarm":{}}}"#);
    for (name, more) in session() {
        let input = hook(home, name, &more).to_string().replace("PROJECT", &project(home).display().to_string());
        let mut command = command(home, &[]);
        command.env("BLOODBANK_MESSAGES", "true").env("BLOODBANK_THINKING", "true").env("BLOODBANK_SNAPSHOTS", "1").env("CLAUDE_FEATURE", "checkout");
        command.env("BLOODBANK_REDACT", "payload.summary");
        is_silent(&call(command, input.as_bytes()));
    }
}

const EXPECTED: [&str; 16] = [
    "session.thread.start",
    "session.thread.message",
    "session.thread.agent.action",
    "session.thread.agent.action",
    "session.thread.git.commit",
    "session.thread.git.push",
    "session.thread.agent.action",
    "session.thread.agent.action",
    "session.thread.error",
    "session.context.snapshot",
    "session.thread.error",
    "session.thread.message",
    "session.thread.agent.thinking",
    "session.thread.turn.completed",
    "session.thread.end",
    "session.thread.resumed",
];

#[test]
fn every_kind_of_event_comes_to_a_route_of_a_router_that_runs() {
    let home = home("");
    let service = home.serve();
    play(&home);
    check(&home, service);
}

#[test]
fn every_kind_of_event_waits_for_a_router_that_does_not_run() {
    let home = home("");
    play(&home);
    let service = home.serve();
    check(&home, service);
}

#[test]
fn every_kind_of_event_comes_to_a_route_on_rabbitmq() {
    let vhost = Broker::shared().vhost();
    let home = home(&format!("[transport]\nkind = \"amqp\"\nurl = \"{}\"\n", vhost.url()));
    let service = home.serve();
    play(&home);
    check(&home, service);
}

fn check(home: &Home, service: Service) {
    let events = seen(home, EXPECTED.len());
    assert_eq!(keys(&events), EXPECTED);
    let text = serde_json::to_string(&events).unwrap();
    for secret in ["ghp_a1B2", "k-12345-abcdef", "the file"] {
        assert!(!text.contains(secret), "`{secret}` travelled");
    }
    golden(home, &events);
    let _ = service.stop();
}

/// Every field that an event has is explained under its type in `docs/claude-code-events.md`.
#[test]
fn the_table_of_the_docs_has_every_field_of_every_event() {
    let page = fs::read_to_string(workspace().join("docs/claude-code-events.md")).unwrap();
    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(workspace().join("tests/golden/hook_events.json")).unwrap()).unwrap();
    let mut types = 0;
    for event in &events {
        let kind = event["event_type"].as_str().unwrap();
        let section = page.split("\n### ").find(|section| section.starts_with(&format!("`{kind}`"))).unwrap_or_else(|| panic!("`{kind}` has no section"));
        let told: String = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect::<Vec<_>>().join(" ");
        for field in event["payload"].as_object().unwrap().keys() {
            assert!(told.contains(&format!("`{field}`")), "`{field}` of `{kind}` is not explained");
        }
        types += 1;
    }
    assert_eq!(types, EXPECTED.len());
}

/// Compares with `tests/golden/hook_events.json`, with everything taken out that differs from run to run.
fn golden(home: &Home, events: &[Value]) {
    let mut names = HashMap::new();
    let mut events = Value::from(events.to_vec());
    steady(home, "", &mut events, &mut names);
    let text = serde_json::to_string_pretty(&events).unwrap() + "\n";
    let path = workspace().join("tests/golden/hook_events.json");
    if std::env::var_os("EVENT_ROUTER_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected != text {
        let at = expected.lines().zip(text.lines()).position(|(one, other)| one != other).unwrap_or(0);
        let around: Vec<&str> = text.lines().skip(at.saturating_sub(5)).take(12).collect();
        panic!("`tests/golden/hook_events.json` differs at line {}:\n{}", at + 1, around.join("\n"));
    }
}

fn steady(home: &Home, key: &str, value: &mut Value, names: &mut HashMap<String, String>) {
    match value {
        Value::String(text) => {
            *text = text.replace(&home.path().display().to_string(), "<home>");
            let is_id = text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
            if matches!(key, "timestamp" | "started_at" | "resumed_at") {
                *text = "<time>".to_owned();
            } else if key == "prices_as_of" {
                *text = "<day>".to_owned();
            } else if key == "host" {
                *text = "<host>".to_owned();
            } else if is_id && matches!(key, "event_id" | "correlation_ids") {
                let next = format!("<id-{}>", names.len() + 1);
                *text = names.entry(text.clone()).or_insert(next).clone();
            } else if let Some((before, rest)) = text.clone().split_once("[redacted:") {
                // The key of the fingerprints is this spool's own.
                let kind = rest.split(':').next().unwrap_or_default();
                let after = rest.split_once(']').map_or("", |(_, after)| after);
                *text = format!("{before}[redacted:{kind}]{after}");
            }
        }
        Value::Number(_) if key == "duration_seconds" => *value = "<seconds>".into(),
        Value::Array(items) => items.iter_mut().for_each(|item| steady(home, key, item, names)),
        Value::Object(members) => members.iter_mut().for_each(|(key, item)| steady(home, key, item, names)),
        _ => {}
    }
}
