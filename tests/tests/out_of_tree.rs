//! A plugin that lives outside the repository is built into a program of its own and does its work there.

use std::{fs, path::PathBuf, process::Command};

use router_tests::{Home, Service, target_dir, workspace};
use serde_json::json;

/// Builds `tests/out-of-tree-plugin` as a stranger would, but with the workspace's versions and its compiled dependencies.
fn greeting_router() -> PathBuf {
    let here = workspace().join("tests/out-of-tree-plugin");
    fs::copy(workspace().join("Cargo.lock"), here.join("Cargo.lock")).expect("the lock file can be copied");
    let target = target_dir().parent().expect("target/<profile>").to_owned();
    let built =
        Command::new(env!("CARGO")).args(["build", "--quiet", "--offline"]).current_dir(&here).env("CARGO_TARGET_DIR", &target).status().expect("cargo runs");
    assert!(built.success(), "the plugin cannot be built");
    target_dir().join("greeting-router")
}

#[test]
fn a_plugin_in_a_crate_of_its_own_is_linked_listed_checked_and_run() {
    let program = greeting_router();
    let home = Home::new(
        r#"
[[route]]
name = "greet-sessions"
on = ["session.thread.start"]
handler = "greet"
with = { greeting = "hello" }
"#,
    );
    let command = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(home.path());
        command
    };

    let listed = command(&["plugins"]).output().expect("the program runs");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("greet"), "{listed:?}");

    let mut service = Service::start(command(&["run", "--log-format", "json", "-v"]));
    service.send(
        "session.thread.start",
        &json!({ "event_id": "2f0b9f0e-55b1-4f6e-9f6d-0d8f0c1f5a11", "event_type": "session.thread.start", "payload": { "session_id": "s-1" } }),
    );
    service.wait_for("greeting.said").expect("the plugin emits its event");
    service.stop();

    let events = command(&["events", "--json"]).output().expect("the program runs");
    let events: serde_json::Value = serde_json::from_slice(&events.stdout).expect("JSON");
    let texts = events.to_string();
    assert!(texts.contains("greeting.said") && texts.contains("hello"), "{texts}");

    home.configure("[[route]]\nname = \"greet-sessions\"\non = [\"session.thread.start\"]\nhandler = \"greet\"\nwith = { greting = \"hello\" }\n");
    let checked = command(&["check"]).output().expect("the program runs");
    let text = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(78), "{text}");
    assert!(text.contains("greting") && text.contains("did you mean `greeting`"), "{text}");
}
