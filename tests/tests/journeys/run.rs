//! `run`: what it says when it starts, why it does not start, and how it stops.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    time::{Duration, Instant},
};

use router_tests::{Home, Service, eventually, is_ignored, untested};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{ROUTES, ended, finished, lived_in, write};

/// A route whose command notes its own process in `pid`, and then waits until there is a file `go`. Neither the end of its time nor that
/// of the drain may come before the test's own steps, however slow the machine is.
const SLOW: &str = r#"
[[route]]
name = "slow"
on = ["slow.#"]
timeout_ms = 900_000
drain_ms = 900_000
handler = "exec"
with = { command = ["sh", "../slow.sh"] }
"#;

fn slow_home() -> Home {
    let home = Home::new(SLOW);
    // It ends by itself some day, should a test that failed leave it.
    let wait = "n=0; while [ ! -e ../go ] && [ $n -lt 20000 ]; do sleep 0.02; n=$((n + 1)); done";
    home.write("slow.sh", &format!("echo $$ > ../pid.new; mv ../pid.new ../pid; {wait}; echo done > ../done\n"));
    home
}

/// Starts the service with its command in the middle of an event.
fn in_the_middle(home: &Home) -> Service {
    let service = home.serve();
    service.send("slow.one", &json!({ "event_id": "slow-1" }));
    eventually("the command runs", || (!home.read("pid").is_empty()).then_some(()));
    service
}

/// A zombie, which nobody waits for in some containers, does not run any more.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[test]
fn the_first_lines_say_where_the_doors_are_and_which_routes_are_on() {
    let home = Home::new(ROUTES);
    let log = home.serve().stop().join("\n");
    for part in [
        "event-router starts with config/router.toml",
        "events come in at http://127.0.0.1:",
        "commands reach this router through",
        "state/router.db.sock",
        "route `kept` is on (exec, live)",
        "route `poisoned` is on (exec, live)",
        "switched off: off",
        "stopping: what runs is finished",
        "event-router has stopped",
    ] {
        assert!(log.contains(part), "no `{part}` in\n{log}");
    }
    assert!(!home.path().join("state/router.db.sock").exists(), "the socket goes with the service");
}

#[test]
fn files_beside_the_store_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let (home, service) = lived_in();
    let mut names = Vec::new();
    for entry in fs::read_dir(home.path().join("state")).expect("the store's directory") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
        names.push(entry.file_name().into_string().expect("a text"));
    }
    names.sort();
    assert!(names.contains(&"router.db".to_owned()) && names.contains(&"router.db.sock".to_owned()), "{names:?}");
    service.stop();
}

#[test]
fn a_taken_port_is_said_with_both_ways_out_and_leaves_the_queues_alone() {
    let home = Home::new(ROUTES);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    home.write("config/router.toml", &home.read("config/router.toml").replace("127.0.0.1:0", &address));
    let ran = ended(&home, &["run"]).code(1);
    for part in [address.as_str(), "taken by another program", "`[http] listen`", "`listen = \"off\"`"] {
        assert!(ran.stderr.contains(part), "no `{part}` in\n{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("ready"), "{}", ran.stderr);

    // The second way out works.
    home.write("config/router.toml", &home.read("config/router.toml").replace(&address, "off"));
    let mut service = Service::begin(home.command(&["run"]));
    service.wait_for("the HTTP door is off").expect("the service says so");
    service.wait_for(" ready").expect("the service becomes ready");
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    assert_eq!(home.run(&["publish", "event.json", "--json"]).code(0).json()["routed"], true);
    service.stop();
}

#[test]
fn a_second_router_on_the_same_store_says_who_is_there() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let ran = ended(&home, &["run"]).code(1);
    let sentence = format!("another event-router (process {}) already runs on the store", service.pid());
    assert!(ran.stderr.contains(&sentence) && ran.stderr.contains("give this one another `store.path`"), "{}", ran.stderr);
    // The first one does not mind.
    service.send("session.thread.agent.action", &write(1, "/home/ada/shop/cart.py"));
    finished(&home);
    service.stop();
}

#[test]
fn an_invalid_configuration_ends_with_78_and_all_problems() {
    let home = Home::new(
        "[[route]]\nname = \"one\"\non = [\"a\"]\nhandler = \"loog\"\n\n[[route]]\nname = \"two\"\non = [\"b\"]\nhandler = \"log\"\nordr_by = \"session_id\"\n",
    );
    let ran = ended(&home, &["run"]).code(78);
    for part in ["loog", "did you mean `log`?", "ordr_by", "did you mean `order_by`?", "2 errors", "config/router.toml:10:11", "config/router.toml:16:1"] {
        assert!(ran.stderr.contains(part), "no `{part}` in\n{}", ran.stderr);
    }
    assert!(!home.path().join("state").exists(), "no store is made for a configuration that cannot be used");
}

#[test]
fn a_program_that_is_not_there_is_a_problem_of_the_configuration() {
    let home = Home::new("[[route]]\nname = \"one\"\non = [\"a\"]\nhandler = \"exec\"\nwith = { command = [\"no-such-program-anywhere\"] }\n");
    let ran = ended(&home, &["run"]).code(78);
    assert!(ran.stderr.contains("no-such-program-anywhere"), "{}", ran.stderr);
}

#[test]
fn sigterm_lets_what_runs_finish_and_ends_with_0() {
    let home = slow_home();
    let mut service = in_the_middle(&home);
    let address = service.address();
    service.signal(Signal::TERM);
    service.wait_for("stopping").expect("it says so");
    // The door may still be open for a moment, and what it takes then is safe too.
    let late = router_tests::post(address, "/events?key=other.late", "{}").map(|answer| answer.status);
    assert!(!home.path().join("done").exists());
    home.write("go", "");
    let log = service.stop_asked();
    assert_eq!(home.read("done"), "done\n", "the command was let finish");
    assert!(!log.iter().any(|line| line.contains("cancelled")), "{}", log.join("\n"));
    let events = home.run(&["events", "--json"]).code(0).json();
    let events = events["events"].as_array().expect("a list");
    // Without an answer nobody knows.
    let fits = if late.is_none() { (1..=2).contains(&events.len()) } else { events.len() == 1 + usize::from(late == Some(200)) };
    assert!(fits, "{late:?}, {events:?}");
    assert_eq!(events[events.len() - 1]["deliveries"][0]["state"]["fate"], "handled", "{events:?}");
}

#[test]
fn a_second_signal_cuts_it_short_and_the_event_stays_with_no_attempt_counted() {
    let home = slow_home();
    let mut service = in_the_middle(&home);
    service.signal(Signal::INT);
    // A second one at once is the same wish: a terminal signals its whole group.
    service.signal(Signal::INT);
    if service.wait_for("a signal from now on").is_none() {
        panic!("it ended before it said so:\n{}", service.log().join("\n"));
    }
    service.signal(Signal::TERM);
    service.wait_for("a second signal").expect("it says so");
    let log = service.stop_asked().join("\n");
    assert!(log.contains("cancelled"), "{log}");
    let pid = home.read("pid");
    eventually("the command's processes are ended", || (!runs(&pid)).then_some(()));
    assert!(!home.path().join("done").exists());
    let events = home.run(&["events", "--json"]).code(0).json();
    let delivery = &events["events"][0]["deliveries"][0];
    assert_eq!((&delivery["state"]["state"], &delivery["attempts"]), (&"queued".into(), &0.into()), "{events}");

    // And it is handled when the router is back, as a first attempt.
    home.write("go", "");
    let service = home.serve();
    let events = finished(&home);
    assert_eq!(events["events"][0]["deliveries"][0]["attempts"], 0, "{events}");
    service.stop();
}

/// Routes whose command fails, and is not tried again before any of these tests has ended.
const FAILING: &str = r#"
[[route]]
name = "in-hand"
on = ["work.#"]
order_by = "session_id"
drain_ms = 900_000
handler = "exec"
retry = { first_delay_ms = 3_600_000, max_delay_ms = 3_600_000 }
with = { command = ["sh", "../fail.sh", "in-hand"] }

[[route]]
name = "in-its-queue"
on = ["work.#"]
drain_ms = 900_000
handler = "exec"
retry = { first_delay_ms = 3_600_000, max_delay_ms = 3_600_000 }
with = { command = ["sh", "../fail.sh", "in-its-queue"] }
"#;

#[test]
fn sigterm_waits_for_no_event_that_waits_for_another_try() {
    let home = Home::new(FAILING);
    home.write("fail.sh", "echo \"$1\" >> ../failed; exit 1\n");
    let mut service = home.serve();
    service.send("work.one", &json!({ "event_id": "one", "payload": { "session_id": "s" } }));
    let failed = || {
        let mut failed: Vec<String> = home.read("failed").lines().map(str::to_owned).collect();
        failed.sort();
        failed
    };
    eventually("both have failed", || (failed().len() == 2).then_some(()));
    service.signal(Signal::TERM);
    // Neither for its hour nor for that of the drain.
    let status = eventually("it ends", || service.ended());
    assert_eq!(status.code(), Some(0), "{}", service.log().join("\n"));
    assert_eq!(failed(), ["in-hand", "in-its-queue"], "nothing was tried again for the end");
    let events = home.run(&["events", "--json"]).code(0).json();
    let deliveries = events["events"][0]["deliveries"].as_array().expect("a list");
    assert_eq!(deliveries.len(), 2, "{events}");
    for delivery in deliveries {
        assert!(["queued", "waiting"].iter().any(|state| delivery["state"]["state"] == *state), "{events}");
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it_and_harms_nothing() {
    let (home, service) = lived_in();
    finished(&home);
    service.stop();
    let known = || home.run(&["events", "--json"]).code(0).json()["events"].clone();
    let (before, began) = (known(), Instant::now());
    home.serve().stop();
    let whole = began.elapsed();
    // A shell starts what runs in its background with SIGINT ignored, and everybody hands that on: before the program listens, the system ends
    // nothing for it then.
    let is_heard = !is_ignored(Signal::INT);
    if !is_heard {
        untested("SIGINT in the first moments of the start, since these tests were started with SIGINT ignored");
    }
    for moment in 0..8_u32 {
        let mut service = Service::begin(home.command(&["run", "--log-format", "json"]));
        let (until, began) = (whole * moment / 8, Instant::now());
        while let Some(left) = until.checked_sub(began.elapsed()).filter(|left| *left > Duration::ZERO) {
            std::thread::park_timeout(left);
        }
        let signal = if moment % 2 == 0 || !is_heard { Signal::TERM } else { Signal::INT };
        service.signal(signal);
        let status = eventually("it ends", || service.ended());
        // Before it listens for them, the system ends it.
        let is_ended = status.code() == Some(0) || status.signal() == Some(signal.as_raw());
        assert!(is_ended, "{signal:?} after {until:?} of {whole:?}: {status}\n{}", service.log().join("\n"));
        assert_eq!(known(), before, "{signal:?} after {until:?} of {whole:?}");
    }
    let _ = home.run(&["store", "check"]).code(0);
}

#[test]
fn sighup_is_answered_with_a_line_and_does_not_end_the_service() {
    let home = Home::new(ROUTES);
    let mut service = home.serve();
    service.signal(Signal::HUP);
    service.wait_for("loaded anew").expect("it says so");
    service.send("session.thread.agent.action", &write(1, "/home/ada/shop/cart.py"));
    service.stop();
}

#[test]
fn the_json_log_is_one_object_a_line_without_anything_of_a_payload() {
    let (home, service) = lived_in();
    service.send("session.thread.agent.action", &write(2, "/home/ada/shop/MARKER-OF-THE-PAYLOAD.py"));
    finished(&home);
    let log = service.stop();
    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        assert!(line["ts"].is_string() && line["msg"].is_string(), "{line}");
        assert!(["info", "warn", "error"].contains(&line["level"].as_str().expect("a text")), "{line}");
    }
    assert!(lines.iter().any(|line| line["route"] == "kept" && line["event_id"] == "0b8f1c52-5c1e-4a55-9e0a-000000000001"), "{log:?}");
    assert!(lines.iter().any(|line| line["level"] == "error" && line["route"] == "poisoned" && line["reason"] == "rejected"), "{log:?}");
    let all = log.join("\n");
    assert!(!all.contains("MARKER-OF-THE-PAYLOAD"), "{all}");
}

#[test]
fn a_killed_router_leaves_what_the_next_one_takes_over() {
    let home = slow_home();
    let service = in_the_middle(&home);
    service.kill();
    assert!(home.path().join("state/router.db.sock").exists(), "a killed process cannot tidy up");
    // A command alone opens the store although the socket is still there.
    assert_eq!(home.run(&["events", "--json"]).code(0).json()["events"][0]["id"], "slow-1");
    home.write("go", "");
    let mut service = home.serve();
    let line = service.wait_for("is handled by route `slow`").expect("it is handled");
    let line: Value = serde_json::from_str(&line).expect("a line is JSON");
    assert_eq!((&line["event_id"], &line["attempt"]), (&"slow-1".into(), &2.into()), "what ran while it died is charged: {line}");
    service.stop();
}
