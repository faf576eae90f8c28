//! What operators do: look at routes, pause them, take up dead letters, load a new configuration.

use router_tests::{Home, Service, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{golden::golden, world::lived_in};

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

    let refused = home.run(&["dead-letters", "redrive"]).code(2);
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
    // What comes between the command and its effect may still be handled.
    eventually("the route is paused", || (route(&home)["state"] == "paused").then_some(()));
    work(&service, 1);
    service.stop();
    let service = home.serve();
    let shown = home.run(&["routes", "list"]).code(0).stdout;
    assert!(shown.contains("paused by an operator"), "{shown}");
    assert_eq!(route(&home)["queue"]["ready"], 1);
    assert_eq!(home.read("done"), "");
    let _ = home.run(&["routes", "resume", "poisoned"]).code(0);
    eventually("it is handled", || (home.read("done") == "1\n").then_some(()));
    let running = home.run(&["routes", "resume", "poisoned"]).code(0).stdout;
    assert!(running.starts_with("· route `poisoned` is running already; ") && !running.contains('✓'), "{running}");
    let one_by_one = home.run(&["routes", "flush", "poisoned"]).code(0).stdout;
    assert!(one_by_one.contains("one by one (no `coalesce`), so nothing was waiting in a burst"), "{one_by_one}");
    let unknown = home.run(&["routes", "pause", "nobody"]).code(1);
    assert!(unknown.stderr.contains("there is no route `nobody`; there are `poisoned`"), "{}", unknown.stderr);
    service.stop();
}

#[test]
fn routes_are_shown_to_people_and_programs_with_what_they_did_lately() {
    let (home, service) = lived_in();
    // An event is counted, and out of hand, a moment after its end is in the store.
    let answer = eventually("the routes are at rest and have counted", || {
        let answer = home.run(&["routes", "--json"]).code(0).json();
        let routes = answer["status"]["routes"].as_array().expect("a list").clone();
        let at_rest = routes.iter().all(|route| route["state"] != "stopped" && route["queue"]["in_flight"].as_u64().unwrap_or(0) == 0);
        let counted = (&routes[0]["rates"]["handled"], &routes[1]["rates"]["failed"]) == (&1.into(), &1.into());
        (at_rest && counted).then_some(answer)
    });
    golden(&home, "routes", &answer);
    let shown = home.run(&["routes"]).code(0).stdout;
    let heading: Vec<&str> = shown.lines().next().expect("a heading").split_whitespace().collect();
    assert_eq!(heading.join(" "), "ROUTE MODE STATE LAG OLDEST IN HAND DEAD DONE/MIN FAIL/MIN BREAKER BURSTS");
    assert!(shown.lines().all(|line| line.chars().count() <= 120), "{shown}");
    let poisoned = shown.lines().find(|line| line.starts_with("poisoned")).expect("a line for the route");
    assert!(poisoned.contains("running") && poisoned.contains("closed"), "{shown}");
    assert_eq!(home.run(&["routes", "list"]).code(0).stdout.lines().next(), shown.lines().next());
    service.stop();
    let stopped = home.run(&["routes"]).code(0).stdout;
    assert!(stopped.contains("no router runs") && stopped.contains("stopped"), "{stopped}");
    let _ = home.run(&["routes", "--json", "--format", "registry"]).code(2);
    let _ = home.run(&["routes", "--json", "pause", "kept"]).code(2);
}

/// A burst whose command fails until there is a file `mended`.
const BURSTING: &str = r#"
[[route]]
name = "bursting"
on = ["work.#"]
coalesce = { by = "session_id", quiet_ms = 1, max_wait_ms = 1000, events_max = 10 }
retry = { attempts_max = 1000, first_delay_ms = 600000, max_delay_ms = 600000 }
handler = "exec"
with = { command = ["sh", "-c", "[ -e ../mended ] && echo $1 >> ../done || exit 7", "sh", "{{ payload.n }}"] }
"#;

#[test]
fn a_burst_that_collects_is_handled_at_once_when_it_is_flushed() {
    let home = Home::new(&BURSTING.replace("quiet_ms = 1, max_wait_ms = 1000", "quiet_ms = 3600000, max_wait_ms = 3600000"));
    home.write("mended", "");
    let service = home.serve();
    work(&service, 1);
    eventually("the burst collects", || (route(&home)["open_bursts"] == 1).then_some(()));
    let flushed = home.run(&["routes", "flush", "bursting"]).code(0).stdout;
    assert_eq!(flushed, "✓ the open bursts of route `bursting` are closed\n");
    eventually("it is handled", || (home.read("done") == "1\n").then_some(()));
    service.stop();
    let stopped = home.run(&["routes", "resume", "bursting"]).code(0).stdout;
    assert!(stopped.starts_with("· route `bursting` is not paused"), "{stopped}");
}

#[test]
fn a_burst_that_fails_is_dropped_into_the_dead_letters_and_its_lane_goes_on() {
    let home = Home::new(BURSTING);
    let mut service = Service::start(home.command(&["run", "--log-format", "json"]));
    let empty = home.run(&["routes", "flush", "bursting"]).code(0).stdout;
    assert!(empty.starts_with("· nothing was waiting in a burst of route `bursting`"), "{empty}");
    let nothing = home.run(&["routes", "drop-burst", "bursting"]).code(1);
    assert!(nothing.stderr.contains("route `bursting` has no burst"), "{}", nothing.stderr);
    work(&service, 1);
    eventually("the burst has failed", || (route(&home)["failing_bursts"] == 1).then_some(()));
    let dropped = home.run(&["routes", "drop-burst", "bursting", "--json"]).code(0).json();
    assert_eq!((&dropped["schema"], &dropped["result"]["command"]), (&"event-router.route-command.v1".into(), &"drop-burst".into()));
    let answer = eventually("it is a dead letter", || {
        let answer = home.run(&["dead-letters", "list", "--reason", "dropped", "--json"]).code(0).json();
        (answer["letters"] == 1).then_some(answer)
    });
    let letter = &answer["dead_letters"][0]["letter"];
    assert!(letter["error"].as_str().expect("a text").starts_with("an operator dropped its burst (`routes drop-burst`)"), "{answer}");
    // One, unless the draw of the delay brought the next one into the test.
    let attempts = letter["attempts"].as_u64().expect("a number");
    assert!(attempts > 0 && letter["history"].as_array().map(Vec::len) == usize::try_from(attempts).ok(), "{answer}");
    home.write("mended", "");
    work(&service, 2);
    eventually("the lane goes on", || home.read("done").lines().any(|line| line == "2").then_some(()));
    service.wait_for("DropBurst").expect("the command has a line in the log");
    let _ = home.run(&["dead-letters", "redrive", "--all"]).code(0);
    eventually("it is handled after all", || home.read("done").lines().any(|line| line == "1").then_some(()));
    service.stop();
}

#[test]
fn a_route_that_is_switched_on_begins_now_or_with_what_waits_and_the_file_decides_whether_it_is_on() {
    for from in ["beginning", "now"] {
        let home = poisoned();
        home.write("mended", "");
        let mut service = Service::start(home.command(&["run", "--log-format", "json"]));
        let _ = home.run(&["routes", "pause", "poisoned"]).code(0);
        eventually("the route is paused", || (route(&home)["state"] == "paused").then_some(()));
        work(&service, 1);
        let _ = home.run(&["routes", "resume", "poisoned"]);
        eventually("it is handled", || (home.read("done") == "1\n").then_some(()));
        let _ = home.run(&["routes", "pause", "poisoned"]).code(0);
        eventually("the route is paused", || (route(&home)["state"] == "paused").then_some(()));
        for n in [2, 3] {
            work(&service, n);
        }
        home.configure(&POISONED.replace("[[route]]\n", "[[route]]\nenabled = false\n"));
        let off = home.run(&["config", "reload"]).code(0).stdout;
        assert!(off.contains("route `poisoned` is off or gone, and 2 events wait in its queue"), "{off}");

        let refused = home.run(&["routes", "enable", "poisoned", "--from", from]).code(1);
        assert!(refused.stderr.contains("is off in the configuration") && refused.stderr.contains("`enabled = true`"), "{}", refused.stderr);
        assert_eq!(route(&home)["queue"]["ready"], 2, "a refused command changes nothing");
        home.configure(POISONED);
        let on = home.run(&["routes", "enable", "poisoned", "--from", from]).code(0).stdout;
        assert!(on.contains("2 events since ") && on.contains("started: poisoned"), "{on}");
        assert!(on.contains("it stays paused, and does nothing before `event-router routes resume poisoned`"), "{on}");
        assert_eq!((on.matches("2 events").count(), on.matches("paused").count()), (1, 1), "each thing once: {on}");
        let log = if from == "now" { "what waited for it becomes dead letters: 2 events" } else { "is paused, and keeps what waits for it: 2 events since " };
        service.wait_for(log).expect("the log says what waited");
        let explained = home.run(&["explain", "2"]).code(0).stdout;
        assert!(explained.contains("waits in its queue; the route is paused: paused by an operator"), "{explained}");
        let _ = home.run(&["routes", "resume", "poisoned"]).code(0);
        work(&service, 4);
        let expected = if from == "now" { "1\n4\n" } else { "1\n2\n3\n4\n" };
        eventually("what is wanted is handled", || (home.read("done") == expected).then_some(()));
        let dropped = home.run(&["dead-letters", "list", "--reason", "dropped", "--json"]).code(0).json();
        assert_eq!(dropped["letters"], if from == "now" { 2 } else { 0 });
        let again = home.run(&["routes", "enable", "poisoned"]).code(1);
        assert!(again.stderr.contains("is on already"), "{}", again.stderr);
        service.stop();
    }
}

#[test]
fn a_route_is_told_where_to_begin_while_no_router_runs() {
    let home = poisoned();
    home.write("mended", "");
    let service = home.serve();
    let _ = home.run(&["routes", "pause", "poisoned"]).code(0);
    eventually("the route is paused", || (route(&home)["state"] == "paused").then_some(()));
    work(&service, 1);
    service.stop();
    let told = home.run(&["routes", "enable", "poisoned", "--from", "now", "--json"]).code(0).json();
    assert_eq!((&told["schema"], &told["result"]["waiting"], &told["result"]["reloaded"]), (&"event-router.enabled.v1".into(), &1.into(), &Value::Null));
    let service = home.serve();
    let _ = home.run(&["routes", "resume", "poisoned"]).code(0);
    work(&service, 2);
    eventually("what is new is handled", || (home.read("done") == "2\n").then_some(()));
    assert_eq!(letters(&home), 1);
    service.stop();
}

#[test]
fn routes_are_printed_as_entries_of_the_ecosystems_registry() {
    let home = Home::new(
        r##"
[[route]]
name = "every"
on = ["#", "session.thread.*", "session.thread.end", "no", "1.0"]
handler = "log"

[[route]]
name = "planned"
enabled = false
on = ["session.thread.end"]
handler = "log"

[[route]]
name = "looking-on"
mode = "shadow"
on = ["session.thread.end"]
handler = "log"
"##,
    );
    // From the configuration alone: no store is there, and none is made.
    let text = home.run(&["routes", "--format", "registry"]).code(0).stdout;
    assert!(!home.store().exists());
    let registry = yaml(&text);
    let every = &registry["services"]["event-router-every"];
    assert_eq!(every["name"], "event-router-every");
    assert_eq!(every["routing_keys"], json!(["#", "session.thread.*", "session.thread.end", "no", "1.0"]), "texts, all of them:\n{text}");
    assert_eq!((&every["type"], &every["status"]), (&"event-consumer".into(), &"active".into()));
    assert_eq!(registry["services"]["event-router-planned"]["status"], "planned");
    assert_eq!(registry["services"]["event-router-looking-on"]["tags"], json!(["event-router", "log", "shadow"]));
    let subscriptions = json!({ "session.thread.end": ["event-router-every"], "no": ["event-router-every"], "1.0": ["event-router-every"] });
    assert_eq!(registry["event_subscriptions"], subscriptions, "{text}");
    assert_eq!(registry["version"], "1.0");
}

/// YAML as JSON, by a parser of its own: what it takes for another type than a text comes out as that.
fn yaml(text: &str) -> Value {
    fn value(yaml: &Yaml) -> Value {
        match yaml {
            Yaml::String(text) => text.as_str().into(),
            Yaml::Array(items) => items.iter().map(value).collect(),
            Yaml::Hash(fields) => fields.iter().map(|(key, field)| (key.as_str().expect("a key is a text").to_owned(), value(field))).collect(),
            other => panic!("no text, list or map: {other:?}"),
        }
    }
    let documents = YamlLoader::load_from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(documents.len(), 1);
    value(&documents[0])
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
