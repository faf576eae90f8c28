//! `try`: one event through one route; nothing is done unless it is asked for.

use router_tests::Home;

use crate::{
    golden::golden,
    world::{ROUTES, lived_in, poison, read, write},
};

fn home() -> Home {
    let home = Home::new(ROUTES);
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    home
}

#[test]
fn a_dry_run_shows_the_effects_and_does_nothing() {
    let home = home();
    let ran = home.run(&["try", "kept", "event.json"]).code(0);
    assert!(ran.stdout.contains("would run: tee -a ../seen") && ran.stdout.contains("would be handled"), "{}", ran.stdout);
    golden(&home, "try", &home.run(&["try", "kept", "event.json", "--json"]).code(0).json());
    assert!(!home.path().join("seen").exists(), "a dry run did something");
    assert!(!home.path().join("state").exists(), "a dry run made a store");
}

#[test]
fn with_live_it_is_really_done() {
    let home = home();
    let ran = home.run(&["try", "kept", "event.json", "--live"]).code(0);
    assert!(ran.stdout.contains("ran: tee -a ../seen → exit code 0") && ran.stdout.contains("handled"), "{}", ran.stdout);
    assert_eq!(home.read("seen"), write(1, "/home/ada/shop/cart.py").to_string(), "the command got the event's bytes");
    golden(&home, "try-live", &home.run(&["try", "kept", "event.json", "--live", "--json"]).code(0).json());
}

#[test]
fn a_failure_says_what_the_router_would_do_and_ends_with_1() {
    let home = home();
    home.write("poison.json", &poison(1).to_string());
    // A dry run does not run the command, so it cannot fail.
    let _ = home.run(&["try", "poisoned", "poison.json"]).code(0);
    let ran = home.run(&["try", "poisoned", "poison.json", "--live"]).code(1);
    for part in ["exit code 65", "this is bad data", "given up on at once"] {
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
    golden(&home, "try-failed", &home.run(&["try", "poisoned", "poison.json", "--live", "--json"]).code(1).json());
}

#[test]
fn an_event_that_the_route_does_not_want_is_tried_all_the_same_and_said_to_be_unwanted() {
    let home = home();
    home.write("read.json", &read(1, "/home/ada/shop/cart.py").to_string());
    let ran = home.run(&["try", "kept", "read.json"]).code(0);
    assert!(ran.stdout.contains("the route would not take this event by itself"), "{}", ran.stdout);
    assert_eq!(home.run(&["try", "kept", "read.json", "--json"]).code(0).json()["wanted"], false);
    let off = home.run(&["try", "off", "event.json"]).code(0);
    assert!(off.stdout.contains("the route is switched off"), "{}", off.stdout);
}

#[test]
fn stored_events_can_be_tried_beside_a_running_router() {
    let (home, service) = lived_in();
    let ran = home.run(&["try", "kept", "1"]).code(0);
    assert!(ran.stdout.contains("would run: tee -a ../seen"), "{}", ran.stdout);
    assert_eq!(home.read("seen").matches("event_id").count(), 1, "only the running router has handled it");
    service.stop();
    assert_eq!(home.run(&["try", "kept", "1"]).code(0).stdout.lines().next(), ran.stdout.lines().next());
}

#[test]
fn what_a_route_would_log_emit_or_give_up_on_is_said() {
    let home = Home::new(
        r##"
[[route]]
name = "logs"
on = ["#"]
handler = "log"
with = { template = "{{ tool_name }} wrote {{ file_path }}" }

[[route]]
name = "once"
on = ["#"]
handler = "exec"
retry = { attempts_max = 1 }
with = { command = ["sh", "-c", "echo cannot frobnicate >&2; exit 1"] }

[[route]]
name = "checks"
on = ["#"]
coalesce = { by = "working_directory", quiet_ms = 100, max_wait_ms = 1_000 }
handler = "ci"
with = { command = ["true"], cwd = "." }
"##,
    );
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    let tried = |route: &str, args: &[&str]| home.run(&[&["try", route, "event.json"], args].concat());
    assert!(tried("logs", &[]).code(0).stdout.contains("would log: Write wrote /home/ada/shop/cart.py"));
    assert!(tried("logs", &["--live"]).code(0).stderr.contains("Write wrote /home/ada/shop/cart.py"));
    assert!(tried("once", &[]).code(0).stdout.contains("would be handled, if its exit code says so"));
    let failed = tried("once", &["--live"]).code(1).stdout;
    assert!(failed.contains("exit code 1: cannot frobnicate") && failed.contains("(`attempts_max` is 1): a dead letter"), "{failed}");
    // Only what was written below its directory is a reason to check it.
    let here = home.path().join("config/cart.py");
    home.write("event.json", &write(1, here.to_str().expect("a text")).to_string());
    let live = tried("checks", &["--live"]).code(0).stdout;
    assert!(live.contains("not published by `try`: ci.run.finished") && live.contains("passed: exit code 0"), "{live}");
}

#[test]
fn a_dry_run_refuses_the_working_directories_that_a_live_one_refuses_with_roots_and_without() {
    let home = Home::new(
        r##"
[[route]]
name = "anywhere"
on = ["#"]
handler = "exec"
with = { command = ["true"], cwd = "{{ working_directory }}" }

[[route]]
name = "below"
on = ["#"]
handler = "exec"
with = { command = ["true"], cwd = "{{ working_directory }}", roots = ["../code"] }

[[route]]
name = "ci-below"
on = ["#"]
coalesce = { by = "working_directory", quiet_ms = 100 }
handler = "ci"
with = { command = ["true"], roots = ["../code"] }
"##,
    );
    home.write("code/app/file", "");
    home.write("outside/file", "");
    std::os::unix::fs::symlink(home.path().join("outside"), home.path().join("code/link")).expect("a link can be made");
    // What is not there may be on another machine of the bus: `ci` has nothing to do for it, and says so.
    for (directory, anywhere, below, ci) in
        [("code/app", 0, 0, 0), ("outside", 0, 1, 1), ("code/link", 0, 1, 1), ("code/none", 1, 1, 0), ("code/app/file", 1, 1, 0)]
    {
        let mut event = write(1, "cart.py");
        event["payload"]["working_directory"] = home.path().join(directory).display().to_string().into();
        home.write("event.json", &event.to_string());
        for (route, expected) in [("anywhere", anywhere), ("below", below), ("ci-below", ci)] {
            let dry = home.run(&["try", route, "event.json"]).code(expected).stdout;
            let live = home.run(&["try", route, "event.json", "--live"]).code(expected).stdout;
            if expected == 1 {
                let why = |said: &str| said.lines().find(|line| line.starts_with('✗')).and_then(|line| line.rsplit_once(" (")).map(|(why, _)| why.to_owned());
                assert_eq!(why(&dry), why(&live), "{directory} on {route}");
            }
        }
    }
}

#[test]
fn a_route_that_does_not_exist_is_an_error_with_the_list() {
    let ran = home().run(&["try", "keep", "event.json"]).code(1);
    assert!(ran.stderr.contains("there is no route `keep`") && ran.stderr.contains("`kept`, `poisoned`, `off`"), "{}", ran.stderr);
}
