//! The program around its commands: version, help, completions, and wrong usage.

use router_tests::Home;

#[test]
fn the_version_is_one_line() {
    let ran = Home::new("").run(&["--version"]).code(0);
    let mut words = ran.stdout.split_whitespace();
    assert_eq!((words.next(), words.next().map(|version| version.split('.').count()), words.next()), (Some("event-router"), Some(3), None));
}

#[test]
fn the_help_lists_every_command_and_the_exit_codes() {
    let home = Home::new("");
    let help = home.run(&["--help"]).code(0).stdout;
    for command in ["run", "demo", "check", "plugins", "schema", "publish", "events", "explain", "dead-letters", "try", "config", "completions"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "no `{command}` in\n{help}");
        let own = home.run(&[command, "--help"]).code(0).stdout;
        assert!(own.contains("Usage:"), "{own}");
    }
    assert!(help.contains("0 done, 1 failed, 2 wrong usage, 78 invalid configuration"), "{help}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_meant() {
    let home = Home::new("");
    let near = home.run(&["evnts"]).code(2);
    assert!(near.stderr.contains("evnts") && near.stderr.contains("events"), "{}", near.stderr);
    let other = home.run(&["init"]).code(2);
    assert!(other.stderr.contains("unrecognized subcommand 'init'") && other.stderr.contains("`event-router new route NAME`"), "{}", other.stderr);
    let plugin = home.run(&["new", "plugin", "My_Plugin"]).code(2);
    assert!(plugin.stderr.contains("no name of a plugin") && plugin.stderr.contains("`a` to `z`"), "{}", plugin.stderr);
    for args in [
        &["nosuchcommand"][..],
        &[],
        &["publish"],
        &["publish", "-", "--sample", "write"],
        &["explain"],
        &["try", "kept"],
        &["try", "Not A Name", "1"],
        &["events", "--last", "0"],
        &["events", "--last", "many"],
        &["dead-letters"],
        &["dead-letters", "show"],
        &["config"],
        &["completions", "teletype"],
        &["check", "--no-such-option"],
        &["-v", "-q", "check"],
        &["--color", "sometimes", "check"],
    ] {
        let ran = home.run(args).code(2);
        assert!(!ran.stderr.is_empty(), "{args:?} says nothing");
    }
    assert!(!home.path().join("state").exists());
}

#[test]
fn a_command_that_was_asked_for_json_fails_in_json_too() {
    let home = Home::new("");
    let ran = home.run(&["events", "--json"]).code(1);
    let answer = ran.json();
    assert_eq!(answer["schema"], "event-router.error.v1");
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("there is no store")), "{answer}");
    let invalid = Home::new("wrong = true");
    let answer = invalid.run(&["config", "show", "--json"]).code(78).json();
    assert_eq!(answer["schema"], "event-router.error.v1", "{answer}");
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("wrong") && !error.contains('\u{1b}')), "{answer}");
}

#[test]
fn options_of_every_command_stand_behind_its_own_and_seldom_ones_in_the_long_help_only() {
    let home = Home::new("");
    let (short, long) = (home.run(&["events", "-h"]).code(0).stdout, home.run(&["events", "--help"]).code(0).stdout);
    assert!(short.find("--last") < short.find("Options of every command:") && short.find("Options of every command:") < short.find("--config"), "{short}");
    assert!(!short.contains("--log-format") && long.contains("--log-format"), "{short}");
    assert!(home.run(&["run", "--help"]).code(0).stdout.contains("exit code is 0"));
}

#[test]
fn completions_are_printed_for_the_usual_shells() {
    let home = Home::new("");
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef event-router"), ("fish", "complete -c event-router")] {
        let script = home.run(&["completions", shell]).code(0).stdout;
        assert!(script.contains(mark) && script.contains("dead-letters") && script.contains("unmatched"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::{Command, Stdio};

    let home = Home::new("");
    let mut child = home.command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut head = Command::new("true").stdin(child.stdout.take().expect("a pipe")).spawn().expect("`true` runs");
    let _ = head.wait();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
