//! What operators do: look at routes, pause them, take up dead letters, load a new configuration.

use router_tests::{Home, Service, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A route whose script fails while there is no file `mended`.
const POISONED: &str = r#"
[[route]]
name = "poisoned"
on = ["work.#"]
order_by = "session_id"
retry = { attempts_max = 1 }
handler = "exec"
with = { command = ["sh", "work.sh", "{{ payload.n }}"] }
"#;

fn poisoned() -> Home {
    let home = Home::new(POISONED);
    home.write("config/work.sh", "[ -e ../mended ] || exit 65\necho \"$1\" >> ../done\n");
    home
}

fn work(service: &Service, n: u32) {
    service.send("work.item", &json!({ "event_id": format!("w{n}"), "event_type": "work.item", "payload": { "session_id": "s-1", "n": n } }));
}

fn letters(home: &Home) -> usize {
    home.run(&["dead-letters", "list", "--json"]).code(0).json()["dead_letters"].as_array().expect("a list").len()
}

fn route(home: &Home) -> Value {
    home.run(&["routes", "list", "--json"]).code(0).json()["status"]["routes"][0].clone()
}

#[test]
fn letters_go_back_in_order_once_the_cause_is_mended_a_canary_first() {
    let home = poisoned();
    let mut service = Service::start(home.command(&["run", "--log-format", "json"]));
    for n in 1..=3 {
        work(&service, n);
    }
    eventually("all are given up on", || (letters(&home) == 3).then_some(()));

    let refused = home.run(&["dead-letters", "redrive"]).code(1);
    assert!(refused.stderr.contains("which letters?"), "{}", refused.stderr);
    let dry = home.run(&["dead-letters", "redrive", "--all", "--dry-run"]).code(0);
    assert!(dry.stdout.contains("3 letters would go back"), "{}", dry.stdout);
    let stopped = home.run(&["dead-letters", "redrive", "--route", "poisoned", "--canary", "1"]).code(1);
    assert!(stopped.stdout.contains("failed again"), "{}", stopped.stdout);
    assert_eq!(letters(&home), 3);

    home.write("mended", "");
    let done = home.run(&["dead-letters", "redrive", "--where", "session_id=s-1", "--canary", "1"]).code(0);
    assert!(done.stdout.contains("3 letters are back in their queues, of 3"), "{}", done.stdout);
    eventually("all are handled", || (home.read("done").lines().count() == 3).then_some(()));
    assert_eq!(home.read("done"), "1\n2\n3\n");
    service.wait_for("back in").expect("the redrive has a line in the log");
    service.stop();
}

#[test]
fn letters_can_be_taken_up_while_no_router_runs() {
    let home = poisoned();
    let service = home.serve();
    for n in 1..=2 {
        work(&service, n);
    }
    eventually("both are given up on", || (letters(&home) == 2).then_some(()));
    service.stop();
    let id = home.run(&["dead-letters", "list", "--json"]).code(0).json()["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    let one = home.run(&["dead-letters", "discard", &id]).code(0);
    assert!(one.stdout.contains("1 letter is deleted"), "{}", one.stdout);
    let back = home.run(&["dead-letters", "redrive", "--all", "--json"]).code(0).json();
    assert_eq!((&back["schema"], &back["result"]["redriven"]), (&"event-router.redriven.v1".into(), &1.into()));
    home.write("mended", "");
    let service = home.serve();
    eventually("it is handled", || (home.read("done") == "1\n").then_some(()));
    service.stop();
}

#[test]
fn a_pause_lasts_over_a_restart_until_it_is_ended() {
    let home = poisoned();
    home.write("mended", "");
    let service = home.serve();
    let _ = home.run(&["routes", "pause", "poisoned"]).code(0);
    work(&service, 1);
    eventually("the route is paused", || (route(&home)["state"] == "paused").then_some(()));
    service.stop();
    let service = home.serve();
    let shown = home.run(&["routes", "list"]).code(0).stdout;
    assert!(shown.contains("paused by an operator"), "{shown}");
    assert_eq!(route(&home)["queue"]["ready"], 1);
    assert_eq!(home.read("done"), "");
    let _ = home.run(&["routes", "resume", "poisoned"]).code(0);
    eventually("it is handled", || (home.read("done") == "1\n").then_some(()));
    let unknown = home.run(&["routes", "pause", "nobody"]).code(1);
    assert!(unknown.stderr.contains("there is no route `nobody`; there are `poisoned`"), "{}", unknown.stderr);
    service.stop();
}

#[test]
fn a_new_configuration_is_loaded_on_sighup_and_on_command_and_a_bad_one_changes_nothing() {
    let home = poisoned();
    home.write("mended", "");
    let mut service = home.serve();
    home.configure(&format!("{POISONED}\n[[route]]\nname = \"second\"\non = [\"other.#\"]\nhandler = \"log\"\n"));
    service.signal(Signal::HUP);
    let line = service.wait_for("loaded anew").expect("it says so");
    assert!(line.contains("second") && !line.contains("poisoned"), "{line}");

    home.configure("[[route]]\nname = \"second\"\nhandlr = \"log\"\n");
    service.signal(Signal::HUP);
    let line = service.wait_for("the old one stays in force").expect("it says so");
    assert!(line.contains("handlr"), "{line}");
    work(&service, 1);
    eventually("the old routes go on", || (home.read("done") == "1\n").then_some(()));
    let _ = home.run(&["config", "reload"]).code(78);

    home.configure(&POISONED.replace("order_by = \"session_id\"\n", "order_by = \"session_id\"\nconcurrency = 1\n"));
    let told = home.run(&["config", "reload"]).code(0).stdout;
    assert!(told.contains("restarted: poisoned") && told.contains("stopped: second"), "{told}");
    let again = home.run(&["config", "reload"]).code(0).stdout;
    assert!(again.contains("no route has changed"), "{again}");
    service.stop();
    let nobody = home.run(&["config", "reload"]).code(1);
    assert!(nobody.stderr.contains("no router runs"), "{}", nobody.stderr);
}
