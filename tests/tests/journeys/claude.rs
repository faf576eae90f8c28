//! `claude`: its hooks wired in settings that belong to somebody else, tried, and taken out again.
//!
//! [`Player`] plays Claude Code by the settings as they were installed: it finds the hooks of an event, and runs each as Claude Code does,
//! without a shell, with the hook on the standard input, within its time-out.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use router_tests::{Home, Ran, Service, eventually, hook_binary, target_dir, workspace};
use serde_json::{Value, json};

use crate::golden::golden;

const ROUTES: &str = "[[route]]\nname = \"seen\"\non = [\"session.#\"]\nhandler = \"log\"\n";

const ORIGINAL: &str = r#"{
  "env": {
    "BLOODBANK_ENABLED": "true",
    "BLOODBANK_URL": "http://localhost:8682"
  },
  "permissions": { "allow": ["Bash(ls:*)"] },
  "hooks": {
    "PostToolUse": [
      { "matcher": ".*", "hooks": [{ "type": "command", "command": "cat | .claude/hooks/bloodbank-publisher.sh tool-action" }] },
      { "matcher": "Write", "hooks": [{ "type": "command", "command": "true" }] }
    ],
    "Stop": [
      { "hooks": [{ "type": "command", "command": "echo '{\"TODO\"}' | .claude/hooks/bloodbank-publisher.sh session-end user_stop" }] }
    ]
  }
}
"#;

/// A home with a project in it, whose user has nothing else.
struct Desk {
    home: Home,
}

impl Desk {
    fn new() -> Self {
        let home = Home::new(ROUTES);
        fs::create_dir_all(home.path().join("user/.claude")).expect("a directory can be made");
        fs::create_dir_all(home.path().join("shop/.git")).expect("a directory can be made");
        Self { home }
    }

    fn project(&self) -> PathBuf {
        self.home.path().join("shop")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.command(args);
        let config = self.home.path().join("config");
        command.current_dir(self.project()).env("HOME", self.home.path().join("user")).env("EVENT_ROUTER_CONFIG", config);
        command.env("EVENT_ROUTER_SPOOL", self.home.path().join("spool")).env("CARGO_TARGET_TMPDIR", "");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program runs"))
    }

    fn install(&self, more: &[&str]) -> Ran {
        let hook = hook_binary().display().to_string();
        self.run(&[&["claude", "install", "--yes", "--hook", &hook], more].concat())
    }

    fn serve(&self) -> Service {
        Service::start(self.command(&["run", "--log-format", "json"]))
    }

    fn settings(&self) -> String {
        self.home.read("shop/.claude/settings.json")
    }

    fn has(&self, path: &str) -> bool {
        self.project().join(path).exists()
    }
}

/// Plays Claude Code: see the module.
struct Player<'d> {
    desk: &'d Desk,
    session: &'d str,
}

impl Player<'_> {
    /// Tells all hooks of an event, and returns what they print.
    fn tell(&self, event: &str, tool: Option<&str>, more: &Value) -> Vec<String> {
        self.begin(event, tool, more).into_iter().map(Self::end).collect()
    }

    /// Starts all hooks of an event, each with its input.
    fn begin(&self, event: &str, tool: Option<&str>, more: &Value) -> Vec<Child> {
        let settings: Value = serde_json::from_str(&self.desk.settings()).expect("the settings are JSON");
        let mut hook =
            json!({ "session_id": self.session, "transcript_path": "/nonexistent/none.jsonl", "cwd": self.desk.project(), "hook_event_name": event });
        hook.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        if let Some(tool) = tool {
            hook["tool_name"] = tool.into();
        }
        let mut begun = Vec::new();
        for group in settings["hooks"][event].as_array().into_iter().flatten() {
            let matcher = group["matcher"].as_str().unwrap_or("*");
            if tool.is_some_and(|tool| !matches!(matcher, "*" | "" | ".*") && !matcher.split(['|', ',']).any(|name| name == tool)) {
                continue;
            }
            for handler in group["hooks"].as_array().into_iter().flatten() {
                begun.push(self.call(&settings, handler, &hook));
            }
        }
        begun
    }

    fn call(&self, settings: &Value, handler: &Value, hook: &Value) -> Child {
        let program = handler["command"].as_str().expect("a command hook has a command");
        // In exec form there is no shell.
        let mut command = match handler["args"].as_array() {
            Some(args) => {
                let mut command = Command::new(program);
                command.args(args.iter().filter_map(Value::as_str));
                command
            }
            None => {
                let mut shell = Command::new("sh");
                shell.args(["-c", program]);
                shell
            }
        };
        command.current_dir(self.desk.project()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.desk.home.path().join("user")).env("CLAUDE_PROJECT_DIR", self.desk.project()).env("CLAUDECODE", "1");
        command.env("EVENT_ROUTER_SPOOL", self.desk.home.path().join("spool"));
        for (name, value) in settings["env"].as_object().into_iter().flatten() {
            command.env(name, value.as_str().expect("a variable is a text"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the hook starts");
        let _ = child.stdin.take().expect("stdin is a pipe").write_all(hook.to_string().as_bytes());
        let timeout = handler["timeout"].as_u64().expect("each hook says how long it may take");
        assert!((1..=60).contains(&timeout), "{handler}");
        child
    }

    /// Claude Code would kill it when its time is over; a slow machine is given more here, since its speed is measured elsewhere.
    fn end(child: Child) -> String {
        let output = child.wait_with_output().expect("the hook ends");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a hook prints text")
    }
}

#[test]
fn a_project_is_wired_once_and_unwired_to_what_it_was() {
    let desk = Desk::new();
    let before =
        "{\n    \"model\": \"opus\",\n    \"hooks\": {\n        \"Stop\": [ { \"hooks\": [ {\"type\":\"command\",\"command\":\"say done\"} ] } ]\n    }\n}\n";
    desk.home.write("shop/.claude/settings.json", before);
    let shown = desk.run(&["claude", "install", "--hook", &hook_binary().display().to_string()]);
    assert_eq!(shown.code, Some(2), "nobody is there to be asked: {}", shown.stderr);
    assert!(shown.stdout.contains("+         \"SessionStart\": [") && shown.stderr.contains("`--yes`"), "{}\n{}", shown.stdout, shown.stderr);
    assert_eq!(desk.settings(), before);
    let told = desk.install(&[]).code(0).stdout;
    assert!(told.contains("installed") && told.contains("the file as it was"), "{told}");
    let after = desk.settings();
    assert!(
        after.contains("[ { \"hooks\": [ {\"type\":\"command\",\"command\":\"say done\"} ] }") && after.starts_with("{\n    \"model\": \"opus\",\n"),
        "{after}"
    );
    assert_eq!(desk.home.read("shop/.claude/settings.json.before-event-router"), before);
    assert_eq!(desk.home.read("shop/.claude/.gitignore"), "/session-tracking.json*\n/sessions/\n");
    assert!(!desk.has(".claude/hooks/bloodbank-publisher.sh"), "nobody asked for the scripts");
    let settings: Value = serde_json::from_str(&after).expect("JSON");
    assert_eq!(settings["env"]["BLOODBANK_ENABLED"], "true");
    assert_eq!(settings["hooks"]["PostToolUse"][0]["hooks"][0]["args"], json!([]), "exec form");
    assert_eq!(settings["hooks"]["SessionEnd"][0]["hooks"][0]["timeout"], 10);
    // Twice is once.
    assert!(desk.install(&[]).code(0).stdout.contains("nothing to change"));
    assert_eq!(desk.settings(), after);
    golden(&desk.home, "claude-status", &steady(desk.run(&["claude", "status", "--json"]).code(0).json()));
    assert!(desk.run(&["claude", "uninstall", "--yes"]).code(0).stdout.contains("uninstalled"));
    assert_eq!(desk.settings(), before);
    assert!(desk.run(&["claude", "uninstall", "--yes"]).code(0).stdout.contains("nothing is installed here"));
}

/// The publisher lies elsewhere on each machine.
fn steady(answer: Value) -> Value {
    let text = answer.to_string().replace(&hook_binary().display().to_string(), "<publisher>").replace(&target_dir().display().to_string(), "<target>");
    let mut answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["publisher"] = "<publisher>".into();
    answer["publisher_error"] = Value::Null;
    answer
}

#[test]
fn the_original_wiring_is_replaced_with_its_scripts_and_other_hooks_stay() {
    let desk = Desk::new();
    desk.home.write("shop/.claude/settings.json", ORIGINAL);
    desk.home.write("shop/.claude/hooks/bloodbank-publisher.sh", "#!/bin/bash\n# the original\n");
    let told = desk.install(&[]).code(0).stdout;
    assert!(told.contains("the original shell publisher is wired here"), "{told}");
    let settings: Value = serde_json::from_str(&desk.settings()).expect("JSON");
    assert!(!desk.settings().contains("bloodbank-publisher.sh"), "{}", desk.settings());
    assert_eq!(settings["hooks"]["PostToolUse"][0]["hooks"][0]["command"], "true", "another one's hook stays");
    assert_eq!((&settings["permissions"]["allow"][0], &settings["env"]["BLOODBANK_URL"]), (&json!("Bash(ls:*)"), &json!("http://localhost:8682")));
    for script in ["bloodbank-publisher.sh", "test-integration.sh"] {
        let metadata = fs::metadata(desk.project().join(".claude/hooks").join(script)).expect("it is there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o755, "{script}");
    }
    assert!(desk.home.read("shop/.claude/hooks/bloodbank-publisher.sh.before-event-router").contains("the original"));
    // The documented call of the script tells an event.
    let service = desk.serve();
    let mut script = desk.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo '{\"tool_name\": \"Test\"}' | .claude/hooks/bloodbank-publisher.sh tool-action"]);
    shell
        .current_dir(desk.project())
        .envs(script.env("BLOODBANK_URL", format!("http://{}", service.address())).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = Ran::of(shell.output().expect("the script runs"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    eventually("the event is there", || {
        let events = desk.run(&["events", "--key", "session.thread.agent.action", "--json"]).code(0).json();
        (events["events"][0]["event"]["payload"]["tool_metadata"]["tool_name"] == "Test").then_some(())
    });
    service.stop();
    // Both at once are an error of the doctor's.
    desk.home.write("shop/.claude/settings.local.json", ORIGINAL);
    let doctor = desk.run(&["claude", "doctor", "--wait", "1"]).code(1).stdout;
    assert!(doctor.contains("❌ Only one publisher is wired") && doctor.contains("settings.local.json"), "{doctor}");
}

#[test]
fn a_file_that_cannot_be_read_is_left_alone_and_its_place_is_told() {
    let desk = Desk::new();
    for (text, place) in [
        ("{\n  \"model\": \"opus\",\n}\n", "settings.json:3:1: a comma"),
        ("{\n  // mine\n  \"a\": 1\n}\n", "settings.json:2:3: a comment"),
        ("{\n  \"hooks\": { \"Stop\": 7 }\n}\n", "settings.json:2:22: `hooks.Stop` is no list"),
    ] {
        desk.home.write("shop/.claude/settings.json", text);
        for verb in ["install", "uninstall"] {
            let refused = desk.run(&["claude", verb, "--yes"]);
            let refused = if verb == "install" { desk.install(&[]) } else { refused }.code(1);
            assert!(refused.stderr.contains(place) && refused.stderr.contains("left as it is"), "{verb}: {}", refused.stderr);
        }
        assert_eq!(desk.settings(), text);
        assert!(!desk.has(".claude/settings.json.before-event-router"));
    }
}

#[test]
fn users_and_plugins_are_served_too() {
    let desk = Desk::new();
    let _ = desk.install(&["--user"]).code(0);
    assert!(desk.home.read("user/.claude/settings.json").contains("SessionEnd") && !desk.has(".claude"));
    let _ = desk.install(&["--plugin", "../plugin"]).code(0);
    let hooks: Value = serde_json::from_str(&desk.home.read("plugin/plugins/event-router-hooks/hooks/hooks.json")).expect("JSON");
    assert_eq!(hooks["hooks"]["Stop"][0]["hooks"][0]["command"], "${CLAUDE_PLUGIN_ROOT}/bin/event-router-hook");
    let market: Value = serde_json::from_str(&desk.home.read("plugin/.claude-plugin/marketplace.json")).expect("JSON");
    assert_eq!(market["plugins"][0]["source"], "./plugins/event-router-hooks");
    let launcher = Command::new(desk.home.path().join("plugin/plugins/event-router-hooks/bin/event-router-hook"))
        .stdin(Stdio::null())
        .env("BLOODBANK_ENABLED", "false")
        .status();
    assert!(launcher.expect("it runs").success());
}

#[test]
fn a_session_by_the_settings_as_installed_comes_to_the_bus() {
    let desk = Desk::new();
    let service = desk.serve();
    let _ = desk.install(&["--url", &format!("http://{}", service.address())]).code(0);
    let session = "6b1f0f7a-30a1-4f0e-8f0e-0d6f4f6f0001";
    let player = Player { desk: &desk, session };
    let mut said = player.tell("SessionStart", None, &json!({ "source": "startup", "model": "claude-sonnet-5" }));
    said.extend(player.tell("UserPromptSubmit", None, &json!({ "prompt": "write it", "prompt_id": "p-1" })));
    for number in 1..=3 {
        let more = json!({ "tool_input": { "file_path": format!("/shop/{number}.py"), "content": "x" }, "tool_response": { "filePath": format!("/shop/{number}.py") },
                           "tool_use_id": format!("toolu_{number}"), "duration_ms": 5 });
        said.extend(player.tell("PostToolUse", Some("Write"), &more));
    }
    said.extend(player.tell("Stop", None, &json!({ "stop_hook_active": false })));
    said.extend(player.tell("SessionEnd", None, &json!({ "reason": "prompt_input_exit" })));
    assert_eq!(said, vec![""; 7], "an observer prints nothing");
    let events = eventually("all of it is there", || {
        let answer = desk.run(&["replay", "--session", session, "--json"]).code(0).stdout;
        let lines = answer.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        let events: Vec<Value> = lines.filter(|line| line["key"].is_string()).collect();
        events.iter().any(|event| event["key"] == "session.thread.end").then_some(events)
    });
    // Where the door answers too late for a hook, the next one hands over again, under the same id.
    let mut known = BTreeSet::new();
    let events = events.iter().filter(|event| known.insert(event["id"].to_string()));
    let keys: Vec<String> = events.filter_map(|event| event["key"].as_str().map(str::to_owned)).collect();
    assert_eq!(keys.first().map(String::as_str), Some("session.thread.start"), "{keys:?}");
    assert_eq!(keys.iter().filter(|key| *key == "session.thread.agent.action").count(), 3, "{keys:?}");
    assert_eq!(keys.iter().filter(|key| *key == "session.thread.end").count(), 1, "{keys:?}");
    service.stop();
}

/// Claude Code runs the hooks of tools that run side by side at the same time, and kills those whose time is over.
#[test]
fn tools_side_by_side_by_the_settings_as_installed_lose_nothing_but_the_calls_that_are_killed() {
    const AT_ONCE: usize = 8;
    const ROUNDS: usize = 5;
    let desk = Desk::new();
    let service = desk.serve();
    let _ = desk.install(&["--url", &format!("http://{}", service.address())]).code(0);
    let session = "6b1f0f7a-30a1-4f0e-8f0e-0d6f4f6f0002";
    let player = Player { desk: &desk, session };
    let _ = player.tell("SessionStart", None, &json!({ "source": "startup", "model": "claude-sonnet-5" }));
    let _ = player.tell("UserPromptSubmit", None, &json!({ "prompt": "write them", "prompt_id": "p-1" }));
    let (mut ended, mut killed) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let calls: Vec<(String, Vec<Child>)> = (0..AT_ONCE)
            .map(|number| {
                let id = format!("toolu_{round}_{number}");
                let more = json!({ "tool_input": { "file_path": format!("/shop/{round}-{number}.py"), "content": "x" }, "tool_use_id": id, "duration_ms": 5 });
                let begun = player.begin("PostToolUse", Some("Write"), &more);
                assert_eq!(begun.len(), 1, "one hook is installed");
                (id, begun)
            })
            .collect();
        for (number, (id, begun)) in calls.into_iter().enumerate() {
            for mut hook in begun {
                // As if its time were over: at whatever it is doing now, or it is done already.
                if number % 4 == round % 4 {
                    let _ = hook.kill();
                    let _ = hook.wait();
                    killed.insert(id.clone());
                } else {
                    assert_eq!(Player::end(hook), "");
                    ended.insert(id.clone());
                }
            }
        }
    }
    let _ = player.tell("Stop", None, &json!({ "stop_hook_active": false }));
    let _ = player.tell("SessionEnd", None, &json!({ "reason": "prompt_input_exit" }));
    let events = eventually("all of it is there", || {
        let answer = desk.run(&["replay", "--session", session, "--json"]).code(0).stdout;
        let lines = answer.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        // The last line sums up.
        let events: Vec<Value> = lines.filter(|line| line["key"].is_string()).collect();
        events.iter().any(|event| event["key"] == "session.thread.end").then_some(events)
    });
    // Who is killed while he hands over leaves it to the next one, who does it again under the same id, which the routes know.
    let mut known = BTreeSet::new();
    let events: Vec<Value> = events.into_iter().filter(|event| known.insert(event["id"].to_string())).collect();
    let count = |key: &str| events.iter().filter(|event| event["key"] == key).count();
    assert_eq!((count("session.thread.start"), count("session.thread.turn.completed"), count("session.thread.end")), (1, 1, 1), "{events:?}");
    assert_eq!((&events[0]["key"], &events[events.len() - 1]["key"]), (&json!("session.thread.start"), &json!("session.thread.end")));
    let text = serde_json::to_string(&events).expect("it was JSON");
    for id in &ended {
        assert!(text.contains(&format!("\"{id}\"")), "the call of `{id}` ended well, and its event is not there");
    }
    let actions = count("session.thread.agent.action");
    assert!(
        (ended.len()..=ended.len() + killed.len()).contains(&actions),
        "{actions} actions of {} calls, {} of them killed",
        ended.len() + killed.len(),
        killed.len()
    );
    service.stop();
}

#[test]
fn the_doctor_tries_the_whole_chain_and_names_what_is_broken() {
    let desk = Desk::new();
    let sick = desk.run(&["claude", "doctor", "--hook", "/nonexistent/event-router-hook", "--url", "http://127.0.0.1:1"]).code(1).stdout;
    for part in ["❌ Bloodbank is running", "event-router run", "❌ Hook script is executable", "❌ Settings call the hook", "event-router claude install"] {
        assert!(sick.contains(part), "no `{part}` in\n{sick}");
    }
    let service = desk.serve();
    let _ = desk.install(&["--url", &format!("http://{}", service.address()), "--shims"]).code(0);
    let well = desk.run(&["claude", "doctor", "--wait", "120"]).code(0).stdout;
    let lines: Vec<&str> = well.lines().collect();
    // As the page shows it.
    let page = fs::read_to_string(workspace().join("docs/claude-code.md")).expect("the page is there");
    let shown = page.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the page shows it");
    let expected: Vec<&str> = shown.lines().collect();
    assert!(expected.len() >= 6, "{shown}");
    assert_eq!(lines, expected, "{well}");
    // The document's script is the same.
    let mut script = Command::new(desk.project().join(".claude/hooks/test-integration.sh"));
    let known = desk.command(&[]);
    script.arg("--wait").arg("120").current_dir(desk.project()).env_clear().envs(known.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = Ran::of(script.output().expect("the script runs")).code(0);
    assert_eq!(ran.stdout.lines().next(), Some("✅ Bloodbank is running"));
    let json = desk.run(&["claude", "doctor", "--wait", "120", "--json"]).code(0).json();
    golden(&desk.home, "claude-doctor", &json);
    service.stop();
}

#[test]
fn the_last_red_run_of_a_directory_is_what_the_agent_would_be_told() {
    let desk = Desk::new();
    let service = desk.serve();
    let _ = desk.install(&["--feedback"]).code(0);
    let settings: Value = serde_json::from_str(&desk.settings()).expect("JSON");
    assert_eq!(settings["env"]["EVENT_ROUTER_FEEDBACK"], "1");
    assert!(settings["env"]["EVENT_ROUTER_SOCKET"].as_str().is_some_and(|socket| socket.ends_with("state/router.db.sock")), "{settings:#}");
    let run = |id: &str, status: &str, directory: &Path| json!({ "event_id": id, "event_type": "ci.run.finished", "payload": { "status": status, "exit_code": 1, "command": "pytest -q", "working_directory": directory, "output_tail": "1 failed: test_cart\n" } });
    service.send("ci.run.finished", &run("r-1", "failed", &desk.project()));
    service.send("ci.run.finished", &run("r-2", "passed", Path::new("/elsewhere")));
    // The switch is in the project's settings; the directory is the one that the command stands in.
    let shown = eventually("the router answers in time", || {
        let shown = desk.run(&["claude", "feedback", "--json"]).code(0).json();
        shown["error"].is_null().then_some(shown)
    });
    assert_eq!((&shown["on"], &shown["last_run"]["event_id"]), (&json!(true), &json!("r-1")), "{shown:#}");
    assert!(shown["text"].as_str().is_some_and(|text| text.contains("1 failed: test_cart")), "{shown:#}");
    assert!(desk.run(&["claude", "feedback", "off", "--yes"]).code(0).stdout.contains("told of no CI runs"));
    assert!(!desk.settings().contains("EVENT_ROUTER_"), "{}", desk.settings());
    assert!(desk.run(&["claude", "feedback"]).code(0).stdout.contains("feedback is off"));
    service.stop();
}

/// What a hook hands to the agent.
fn handed(said: &[String]) -> Option<String> {
    let said: Vec<&String> = said.iter().filter(|text| !text.is_empty()).collect();
    assert!(said.len() <= 1, "one hook says something: {said:?}");
    let output: Value = serde_json::from_str(said.first()?).expect("Claude Code reads JSON");
    assert_eq!(output.as_object().map(serde_json::Map::len), Some(1), "{output}");
    assert_eq!(output["hookSpecificOutput"]["hookEventName"], "Stop");
    Some(output["hookSpecificOutput"]["additionalContext"].as_str().expect("a text").to_owned())
}

#[test]
fn an_agent_that_stops_is_told_of_a_red_run_once_and_of_nothing_else() {
    let desk = Desk::new();
    let service = desk.serve();
    let _ = desk.install(&["--feedback", "--url", &format!("http://{}", service.address())]).code(0);
    let run = |id: &str, status: &str, output: &str| {
        let payload = json!({ "status": status, "exit_code": 1, "command": "pytest -q", "working_directory": desk.project(), "output_tail": output });
        service.send("ci.run.finished", &json!({ "event_id": id, "event_type": "ci.run.finished", "payload": payload }));
    };
    let stop = |session: &'static str, is_active: bool| handed(&Player { desk: &desk, session }.tell("Stop", None, &json!({ "stop_hook_active": is_active })));
    assert_eq!(stop("s-1", false), None, "there was no run");
    run("r-1", "failed", &format!("{}the very end\n", "a line of output\n".repeat(5_000)));
    // A machine that is busy may not answer within the quarter of a second that the hook waits; the next stop asks again.
    let told = eventually("the agent is told", || stop("s-1", false));
    assert!(told.contains("has failed: exit code 1") && told.trim_end().ends_with("the very end"), "{told}");
    assert!(told.chars().count() <= 8_000, "{}", told.len());
    assert_eq!((stop("s-1", false), stop("s-1", false)), (None, None), "once");
    assert_eq!(stop("s-2", true), None, "it goes on because of a hook");
    for event in ["SubagentStop", "SessionEnd", "SessionStart", "UserPromptSubmit"] {
        assert_eq!(handed(&Player { desk: &desk, session: "s-3" }.tell(event, None, &json!({ "agent_id": "a" }))), None, "{event}");
    }
    eventually("another agent is told too", || stop("s-2", false));
    service.stop();
    assert_eq!(stop("s-4", false), None, "the router is away");
}

#[test]
fn a_router_that_takes_its_time_holds_up_no_agent() {
    let desk = Desk::new();
    let _ = desk.install(&["--feedback"]).code(0);
    let settings: Value = serde_json::from_str(&desk.settings()).expect("JSON");
    let socket = PathBuf::from(settings["env"]["EVENT_ROUTER_SOCKET"].as_str().expect("the settings name it"));
    fs::create_dir_all(socket.parent().expect("a file lies in a directory")).expect("a directory can be made");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("the socket can be made");
    // One that never answers, and one that has a byte to say now and then, for ever.
    let serving = std::thread::spawn(move || {
        let silent = listener.accept();
        let (mut talker, _) = listener.accept().expect("somebody asks");
        while talker.write_all(b" ").is_ok() {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        drop(silent);
    });
    for session in ["s-1", "s-2"] {
        assert_eq!(handed(&Player { desk: &desk, session }.tell("Stop", None, &json!({ "stop_hook_active": false }))), None, "{session}");
    }
    serving.join().expect("the hooks have hung up");
}

#[expect(clippy::print_stderr, reason = "a test that is left out is said aloud")]
fn skipped(what: &str) {
    eprintln!("\n!!! NOT TESTED: {what} !!!\n");
}

#[test]
fn a_person_at_a_terminal_is_asked_and_only_a_yes_changes_anything() {
    if Command::new("script").arg("--version").output().is_err() {
        return skipped("`script` is not installed, so nobody can sit at a terminal here");
    }
    let desk = Desk::new();
    let ask = |verb: &str, answer: &str| {
        let hook = hook_binary().display().to_string();
        let more = if verb == "install" { format!(" --hook '{hook}'") } else { String::new() };
        let router = desk.command(&[]).get_program().to_string_lossy().into_owned();
        let mut terminal = Command::new("script");
        terminal.args(["--quiet", "--return", "--command", &format!("'{router}' claude {verb}{more}"), "/dev/null"]).current_dir(desk.project());
        let known = desk.command(&[]);
        terminal.env_clear().envs(known.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "dumb");
        let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("`script` runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let _ = stdin.write_all(answer.as_bytes());
        // Kept open: a terminal that hangs up is another story.
        let mut said = String::new();
        let _ = std::io::Read::read_to_string(&mut child.stdout.take().expect("a pipe"), &mut said);
        let code = child.wait().expect("it ends").code();
        drop(stdin);
        (code, said)
    };
    for answer in ["n\n", "\n", "of course\n"] {
        let (code, said) = ask("install", answer);
        assert!(code == Some(1) && said.contains("Change this? [y/N]") && said.contains("nothing was changed"), "{answer:?}: {code:?} {said}");
        assert!(!desk.has(".claude/settings.json"), "{answer:?}");
    }
    let (code, said) = ask("install", "Y\n");
    assert!(code == Some(0) && said.contains("installed"), "{code:?} {said}");
    assert!(desk.settings().contains("SessionEnd"));
    let (code, _) = ask("uninstall", "\n");
    assert!(code == Some(1) && desk.settings().contains("SessionEnd"));
    let (code, said) = ask("uninstall", "yes\n");
    assert!(code == Some(0) && said.contains("uninstalled"), "{code:?} {said}");
}

/// What the original integration's document has a user type, set or look at, line by line, and what of it stands in our page's table.
const DOCUMENT: &[&str] = &[
    // Quick start
    "mise run start",
    "python -m event_producers.http",
    ".claude/hooks/test-integration.sh",
    "✅ Bloodbank is running",
    "✅ Hook script is executable",
    "✅ Session start event processed",
    "✅ Tool action event processed",
    "python watch_events.py --pattern \"session.thread.#\"",
    "management",
    // Schemas
    "session.thread.agent.action",
    "session.thread.start",
    "session.thread.end",
    // Configuration
    "BLOODBANK_ENABLED",
    "BLOODBANK_DEBUG",
    "BLOODBANK_URL",
    "export BLOODBANK_ENABLED=false",
    "export BLOODBANK_DEBUG=true",
    "BLOODBANK_DEBUG=true claude 2>&1 \\| grep bloodbank-publisher",
    // Architecture
    "bloodbank-publisher.sh",
    "bloodbank.events.v1",
    ".claude/session-tracking.json",
    ".claude/sessions/{session-id}.json",
    // Use cases
    "@consumer.subscribe",
    "track_tool_usage",
    "track_costs",
    "auto_test",
    "cat .claude/sessions/{session-id}.json \\| jq",
    "bb replay-session {session-id}",
    "productivity_metrics",
    // 33GOD
    "sync_worktree",
    "sync_session",
    "trigger_pipeline",
    // Troubleshooting
    "curl http://localhost:8682/healthz",
    "RABBIT_URL",
    "bloodbank/.env",
    "echo '{\"tool_name\": \"Test\"}' \\| .claude/hooks/bloodbank-publisher.sh tool-action",
    "ls -l .claude/hooks/bloodbank-publisher.sh",
    "chmod +x .claude/hooks/",
    "jq '.hooks.PostToolUse' .claude/settings.json",
    "jq '.env.BLOODBANK_ENABLED' .claude/settings.json",
    "rm -f .claude/session-tracking.json",
    "cat .claude/session-tracking.json \\| jq",
    "echo '{}' \\| .claude/hooks/bloodbank-publisher.sh session-end manual",
    // Files and endpoints
    ".claude/settings.json",
    ".claude/hooks/README.md",
    ".claude/hooks/setup.md",
    "claude_code.py",
    "/events/claude-code/tool-action",
    "/events/claude-code/session-start",
    "/events/claude-code/session-end",
    "/events/claude-code/message",
    "/events/claude-code/error",
    "/events/claude-code/thinking",
    // Future enhancements
    "Message Events",
    "Thinking Events",
    "Error Events",
    "Context Snapshots",
    "Correlation Tracking",
    "Cost Attribution",
];

#[test]
fn every_line_of_the_original_document_has_its_place_in_the_table() {
    let page = fs::read_to_string(workspace().join("docs/claude-code.md")).expect("the page is there");
    let section = page.split("\n## From the integration document\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the page has the table");
    let rows: Vec<Vec<&str>> = section.lines().filter_map(|line| line.strip_prefix("| ")).map(|row| row.split(" | ").collect()).collect();
    for wanted in DOCUMENT {
        assert!(rows.iter().any(|row| row[0].contains(wanted)), "`{wanted}` has no row");
    }
    assert!(rows.iter().all(|row| row.len() == 2 && !row[1].trim_end_matches('|').trim().is_empty()), "each has an answer");
    let readme = fs::read_to_string(workspace().join("README.md")).expect("the README is there");
    assert!(readme.contains("[`docs/claude-code.md`](docs/claude-code.md)"), "the README leads there");
    // What the answers tell people to type is understood, and what they point to is there.
    let desk = Desk::new();
    let mut commands = 0;
    for command in section.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("event-router ")) {
        let words: Vec<&str> =
            command.split(' ').take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-')).collect();
        let _ = desk.run(&[&words[..], &["--help"]].concat()).code(0);
        commands += 1;
    }
    assert!(commands >= 10, "{commands}");
    for link in section.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
        assert!(workspace().join("docs").join(link).exists(), "`{link}` is not there");
    }
}

#[test]
fn the_documented_lines_of_jq_find_what_they_show() {
    let desk = Desk::new();
    let _ = desk.install(&["--shims"]).code(0);
    let settings: Value = serde_json::from_str(&desk.settings()).expect("JSON");
    assert_eq!(settings["env"]["BLOODBANK_ENABLED"], "true", "a text, as the document shows it");
    assert!(settings["hooks"]["PostToolUse"].as_array().is_some_and(|groups| !groups.is_empty()));
    let _ = Player { desk: &desk, session: "s-1" }.tell("PostToolUse", Some("Bash"), &json!({ "tool_use_id": "t-1" }));
    for file in ["session-tracking.json", "sessions/s-1.json"] {
        let state: Value = serde_json::from_str(&desk.home.read(&format!("shop/.claude/{file}"))).expect("JSON");
        assert_eq!((&state["session_id"], &state["tools_used"]), (&json!("s-1"), &json!({ "Bash": 1 })));
        for member in ["started_at", "working_directory", "git_branch", "turn_number"] {
            assert!(state.get(member).is_some(), "`{member}` is not in `{file}`");
        }
    }
    for script in ["bloodbank-publisher.sh", "test-integration.sh"] {
        assert!(fs::metadata(desk.project().join(".claude/hooks").join(script)).expect("it is there").permissions().mode() & 0o111 != 0, "{script}");
    }
}
