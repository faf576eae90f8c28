//! `replay`: a session told again, or handed to one route once more.

use router_tests::{Home, Service, eventually};
use serde_json::{Value, json};

use crate::{
    golden::golden,
    world::{finished, read, write},
};

const KEY: &str = "session.thread.agent.action";
const SESSION: &str = "5f0c2f0e-7d0b-4b52-9a63-2f1f6f3a9c11";

const ROUTES: &str = r##"
[[route]]
name = "kept"
on = ["session.#"]
when = { tool_name = ["Write"] }
handler = "exec"
with = { command = ["tee", "-a", "../seen"] }

[[route]]
name = "shown"
mode = "shadow"
on = ["session.#"]
when = { tool_name = ["Write"] }
handler = "log"

[[route]]
name = "off"
enabled = false
on = ["session.#"]
handler = "log"
"##;

fn at(mut event: Value, time: &str) -> Value {
    event["timestamp"] = time.into();
    event
}

/// A session with two writes and a read in between, and an event of another one.
fn lived_in() -> (Home, Service) {
    let home = Home::new(ROUTES);
    let service = home.serve();
    service.send(KEY, &at(write(1, "/shop/one.py"), "2026-03-02T09:00:00Z"));
    service.send(KEY, &at(read(2, "/shop/two.py"), "2026-03-02T09:00:10Z"));
    let mut other = write(3, "/shop/other.py");
    other["payload"]["session_id"] = "another".into();
    service.send(KEY, &other);
    service.send(KEY, &at(write(4, "/shop/three.py"), "2026-03-02T09:10:00Z"));
    finished(&home);
    (home, service)
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn numbers(home: &Home, args: &[&str]) -> Vec<u64> {
    let ran = home.run(&[&["replay", "--session", SESSION, "--json"], args].concat()).code(0);
    lines(&ran.stdout).iter().filter(|line| line["kind"] == "event").map(|line| line["seq"].as_u64().expect("a number")).collect()
}

#[test]
fn a_session_is_told_in_its_order_and_within_its_times() {
    let (home, service) = lived_in();
    let text = home.run(&["replay", "--session", SESSION]).code(0).stdout;
    let places: Vec<_> = ["one.py", "two.py", "three.py", "3 events"].map(|part| text.find(part).unwrap_or_else(|| panic!("no `{part}` in\n{text}"))).into();
    assert!(places.is_sorted() && !text.contains("other.py"), "{text}");
    for (args, expected) in [
        (&[][..], &[1, 2, 4][..]),
        (&["--from", "2026-03-02T09:00:10Z"], &[2, 4]),
        (&["--to-time", "2026-03-02T09:05:00Z"], &[1, 2]),
        (&["--from", "2026-03-02T09:00:05Z", "--to-time", "2026-03-02T09:05:00Z"], &[2]),
        (&["--after", "2"], &[4]),
        (&["--speed", "10000"], &[1, 2, 4]),
    ] {
        assert_eq!(numbers(&home, args), expected, "{args:?}");
    }
    let json = home.run(&["replay", "--session", SESSION, "--to", "kept", "--json"]).code(0);
    golden(&home, "replay", &Value::Array(lines(&json.stdout)));
    assert!(home.run(&["replay", "--session", "nobody"]).code(0).stdout.contains("no event of session `nobody`"));
    service.stop();
    // The archive needs no router.
    assert_eq!(numbers(&home, &[]), [1, 2, 4]);
}

#[test]
fn nothing_is_delivered_unless_it_is_asked_for_and_to_a_live_route_only_by_its_own_switch() {
    let (home, service) = lived_in();
    let seen = home.read("seen");
    let dry = home.run(&["replay", "--session", SESSION, "--to", "kept"]).code(0).stdout;
    assert!(dry.contains("2 events would be delivered to kept; it does not want the other 1") && dry.contains("`--deliver --live` does it"), "{dry}");
    let refused = home.run(&["replay", "--session", SESSION, "--to", "kept", "--deliver"]).code(2);
    assert!(refused.stderr.contains("route `kept` is live") && refused.stderr.contains("`--live`"), "{}", refused.stderr);
    assert!(home.run(&["replay", "--session", SESSION, "--to", "off", "--deliver", "--live"]).code(1).stderr.contains("is off"));
    assert!(home.run(&["replay", "--session", SESSION, "--to", "kpt"]).code(1).stderr.contains("there are `kept`"));
    assert_eq!(home.run(&["replay", "--session", SESSION, "--deliver"]).code, Some(2), "to whom?");
    assert_eq!(finished(&home)["events"].as_array().map(Vec::len), Some(4), "nothing new was stored");
    assert_eq!(home.read("seen"), seen);
    service.stop();
}

#[test]
fn what_is_delivered_again_is_handled_again_in_order_and_marked() {
    let (home, service) = lived_in();
    let told = home.run(&["replay", "--session", SESSION, "--to", "kept", "--deliver", "--live"]).code(0).stdout;
    assert!(told.contains("2 events delivered to kept, marked as replayed; it does not want the other 1"), "{told}");
    // To a shadow route no further switch is needed.
    let shadow = home.run(&["replay", "--session", SESSION, "--to", "shown", "--deliver", "--json"]).code(0);
    assert_eq!(lines(&shadow.stdout).last().map(|line| line["delivered"].clone()), Some(json!(2)));
    let answer = finished(&home);
    let mut events = answer["events"].as_array().expect("a list").clone();
    events.reverse();
    assert_eq!(events.len(), 8, "{answer:#}");
    let again: Vec<_> = events[4..6].iter().map(|event| (event["event"]["replayed"]["number"].clone(), event["event"]["replayed"]["of"].clone())).collect();
    assert_eq!(again, [(json!(1), events[0]["id"].clone()), (json!(4), events[3]["id"].clone())]);
    assert_ne!(events[4]["id"], events[0]["id"], "with the old id it would be a duplicate");
    assert_eq!(events[4]["deliveries"].as_array().map(Vec::len), Some(1), "it is for that route alone");
    assert_eq!(events[4]["deliveries"][0]["route"], "kept");
    assert_eq!(events[6]["deliveries"][0]["route"], "shown");
    let seen = home.read("seen");
    let writes: Vec<_> = ["one.py", "other.py", "three.py"].map(|file| seen.matches(file).count()).into();
    assert_eq!(writes, [2, 1, 2], "{seen}");
    assert_eq!(numbers(&home, &[]), [1, 2, 4], "what was replayed is no part of the session");
    service.stop();
}

#[test]
fn without_a_router_what_is_delivered_waits_for_one() {
    let (home, service) = lived_in();
    service.stop();
    let told = home.run(&["replay", "--session", SESSION, "--to", "kept", "--deliver", "--live"]).code(0).stdout;
    assert!(told.contains("2 events delivered to kept") && told.contains("no router is running"), "{told}");
    assert_eq!(home.read("seen").matches("one.py").count(), 1);
    let service = home.serve();
    eventually("both are handled again", || (home.read("seen").matches(".py").count() >= 5).then_some(()));
    service.stop();
}

#[test]
fn an_interrupted_replay_says_where_it_stands() {
    let (home, service) = lived_in();
    // Ten seconds lie between the first two events, and at this speed twenty times as many.
    let mut command = home.command(&["replay", "--session", SESSION, "--speed", "0.05", "--json"]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    let mut first = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut first).expect("a line comes");
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a child has a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let mut last = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut last).expect("a line comes");
    assert!(child.wait().expect("it ends").success());
    let last: Value = serde_json::from_str(&last).expect("a line is JSON");
    assert_eq!((&last["kind"], &last["interrupted"], &last["last"], &last["events"]), (&json!("summary"), &json!(true), &json!(1), &json!(1)));
    service.stop();
}
