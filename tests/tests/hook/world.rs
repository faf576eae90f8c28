//! A project in which Claude Code works, and what it does with hooks.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use router_tests::{Home, eventually, hook_binary};
use serde_json::{Value, json};

/// A route that appends each event, one a line, to `seen` in the home.
pub const ROUTES: &str = r##"
[[route]]
name = "seen"
on = ["session.#"]
order_by = "session_id"
handler = "exec"
with = { command = ["sh", "append.sh"], cwd = "HOME" }
"##;

/// A home with that route, and a project beside its configuration.
pub fn home(transport: &str) -> Home {
    let home = Home::new("");
    home.configure(&format!("{transport}\n{ROUTES}").replace("HOME", &home.path().display().to_string()));
    home.write("append.sh", "text=$(cat); printf '%s\\n' \"$text\" >> seen\n");
    home.write("project/.git/HEAD", "ref: refs/heads/feature/auth\n");
    home.write("project/.git/refs/heads/feature/auth", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b\n");
    home.write("project/.git/config", "[remote \"origin\"]\n\turl = git@github.com:user/repo.git\n");
    home
}

pub fn project(home: &Home) -> PathBuf {
    home.path().join("project")
}

/// A call as Claude Code makes it; `url` is where nobody is unless a test says otherwise.
pub fn command(home: &Home, arguments: &[&str]) -> Command {
    let mut command = Command::new(hook_binary());
    command.args(arguments).current_dir(project(home)).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("HOME", home.path()).env("EVENT_ROUTER_SPOOL", home.path().join("spool")).env("CLAUDE_PROJECT_DIR", project(home));
    // Port 1 is nobody's.
    command.env("CLAUDECODE", "1").env("BLOODBANK_URL", "http://127.0.0.1:1");
    command
}

pub fn call(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().expect("the hook runs");
    // One that is switched off does not read.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(input);
    child.wait_with_output().expect("the hook ends")
}

/// Exit code 0, and not a byte.
pub fn is_silent(output: &Output) {
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (Some(0), &b""[..], ""),
        "a hook must not be seen"
    );
}

/// A hook of session `s-1`, with what all hooks have.
pub fn hook(home: &Home, name: &str, more: &Value) -> Value {
    let mut hook = json!({
        "session_id": "s-1", "cwd": project(home), "hook_event_name": name, "prompt_id": "11111111-0000-4000-8000-000000000001",
        "transcript_path": home.path().join("transcript.jsonl"), "permission_mode": "default"
    });
    if let (Some(hook), Some(more)) = (hook.as_object_mut(), more.as_object()) {
        hook.extend(more.clone());
    }
    hook
}

pub fn silent_hook(home: &Home, name: &str, more: &Value) {
    is_silent(&call(command(home, &[]), hook(home, name, more).to_string().as_bytes()));
}

/// The events that the route has seen, as soon as there are so many.
pub fn seen(home: &Home, count: usize) -> Vec<Value> {
    let events = eventually(&format!("{count} events at the route"), || {
        let text = home.read("seen");
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (events.len() >= count).then_some(events)
    });
    assert_eq!(events.len(), count, "{}", home.read("seen"));
    events
}

pub fn keys(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event_type"].as_str().unwrap_or_default()).collect()
}
