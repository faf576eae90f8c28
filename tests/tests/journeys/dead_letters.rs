//! `dead-letters`: what routes gave up on, with the whole history and the exact bytes.

use router_tests::{Home, Service, eventually};
use serde_json::json;

use crate::{
    golden::golden,
    world::{finished, lived_in},
};

#[test]
fn a_poisoned_event_is_listed_and_shown_with_what_its_target_said() {
    let (home, service) = lived_in();
    let list = home.run(&["dead-letters", "list", "--flat"]).code(0).stdout;
    let line = list.lines().nth(1).expect("one dead letter");
    for part in ["poisoned", "rejected", "poison.pill", "exit code 65"] {
        assert!(line.contains(part), "no `{part}` in\n{list}");
    }
    let shown = home.run(&["dead-letters", "show", "1"]).code(0).stdout;
    assert_eq!(list.lines().next().map(|heading| heading.split_whitespace().any(|word| word == "EVENT")), Some(true), "{list}");
    assert!(shown.contains("event      number 2, id poison-1 (event-router explain 2)"), "{shown}");
    for part in ["route      poisoned (plugin `exec`)", "rejected after 1 failed attempt", "this is bad data", "Attempts", "MARKER-OF-THE-PAYLOAD"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    golden(&home, "dead-letters", &home.run(&["dead-letters", "list", "--json"]).code(0).json());
    golden(&home, "dead-letter", &home.run(&["dead-letters", "show", "1", "--json"]).code(0).json());
    service.stop();
}

/// A route that refuses what says so, and fails at everything else.
const UNWELL: &str = r#"
[[route]]
name = "unwell"
on = ["work.#"]
retry = { attempts_max = 1 }
handler = "exec"
with = { command = ["sh", "-c", "[ -e ../mended ] && exit 0; echo line $1: $2 is bad >&2; exit $3", "sh", "{{ payload.n }}", "{{ payload.file }}", "{{ payload.code }}"] }
"#;

fn unwell() -> (Home, Service) {
    let home = Home::new(UNWELL);
    let service = home.serve();
    for (n, code) in [(1, 65), (2, 65), (3, 7), (4, 65)] {
        let payload = json!({ "n": n, "file": format!("/srv/{n}/cart.py"), "code": code });
        service.send("work.item", &json!({ "event_id": format!("w{n}"), "event_type": "work.item", "payload": payload }));
    }
    finished(&home);
    (home, service)
}

#[test]
fn letters_are_grouped_by_route_and_failure_whatever_numbers_and_paths_their_errors_name() {
    let (home, service) = unwell();
    let list = home.run(&["dead-letters", "list"]).code(0).stdout;
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines.len(), lines[0].join(" ").as_str()), (4, "COUNT NEWEST ROUTE REASON CLASS SAMPLE ERROR OF THE SAMPLE"), "{list}");
    assert!(list.lines().nth(3).expect("a last line").starts_with("4 letters; "), "{list}");
    let answer = home.run(&["dead-letters", "list", "--json"]).code(0).json();
    let mut groups: Vec<_> = answer["groups"].as_array().expect("a list").iter().map(|group| (group["count"].as_u64(), group["class"].as_str())).collect();
    groups.sort();
    assert_eq!(groups, [(Some(1), Some("error")), (Some(3), Some("rejected"))], "{answer}");
    assert_eq!((&answer["letters"], answer["dead_letters"].as_array().map(Vec::len)), (&4.into(), Some(4)));

    let count = |args: &[&str]| home.run(&[&["dead-letters", "list", "--json"], args].concat()).code(0).json()["dead_letters"].as_array().map(Vec::len);
    assert_eq!((count(&["--class", "error"]), count(&["--class", "rejected"]), count(&["--class", "timeout"])), (Some(1), Some(3), Some(0)));
    assert_eq!(home.run(&["dead-letters", "list", "--flat", "--class", "rejected"]).code(0).stdout.lines().count(), 4, "a heading and three letters");
    let wrong = home.run(&["dead-letters", "list", "--class", "slow"]).code(2);
    assert!(wrong.stderr.contains("`slow` is no class of failures"), "{}", wrong.stderr);
    golden(&home, "dead-letters-grouped", &{
        // Which of the letters is the newest depends on which handling ended last.
        let mut answer = home.run(&["dead-letters", "list", "--class", "error", "--json"]).code(0).json();
        answer["dead_letters"] = json!("<letters>");
        answer["groups"][0]["sample"] = json!("<id>");
        answer
    });
    service.stop();
}

#[test]
fn letters_are_discarded_by_the_same_choice_as_they_are_redriven_and_redriven_ones_keep_their_history() {
    let (home, mut service) = unwell();
    let refused = home.run(&["dead-letters", "discard"]).code(2);
    assert!(refused.stderr.contains("which letters?"), "{}", refused.stderr);
    let gone = home.run(&["dead-letters", "discard", "--class", "rejected", "--where", "payload.n=2"]).code(0);
    assert!(gone.stdout.contains("1 letter is deleted"), "{}", gone.stdout);
    service.wait_for("of route `unwell` deleted").expect("a discard has a line in the log");
    let back = home.run(&["dead-letters", "redrive", "--class", "rejected", "--limit", "1"]).code(0);
    assert!(back.stdout.contains("1 letter is back in its queue, of 1"), "{}", back.stdout);
    service.wait_for("back in the queue of route `unwell`").expect("a redrive has a line in the log");
    // It fails again, and has been through both.
    let letter = eventually("it is given up on again", || {
        let answer = home.run(&["dead-letters", "list", "--class", "rejected", "--json"]).code(0).json();
        answer["dead_letters"].as_array().expect("a list").iter().find(|letter| letter["letter"]["history"].as_array().map(Vec::len) == Some(2)).cloned()
    });
    assert_eq!(letter["letter"]["attempts"], 1, "its attempts began anew: {letter}");
    home.write("mended", "");
    let _ = home.run(&["dead-letters", "redrive", "--reason", "exhausted"]).code(0);
    finished(&home);
    let left = home.run(&["dead-letters", "discard", "--all"]).code(0);
    assert!(left.stdout.contains("2 letters are deleted"), "{}", left.stdout);
    service.stop();
}

#[test]
fn an_exhausted_event_has_every_attempt_in_its_history() {
    let home = Home::new(
        "[[route]]\nname = \"failing\"\non = [\"a\"]\nhandler = \"exec\"\nretry = { attempts_max = 3, first_delay_ms = 1, max_delay_ms = 2 }\nwith = { command = [\"sh\", \"-c\", \"exit 7\"] }\n",
    );
    let service = home.serve();
    service.send("a", &json!({ "event_id": "e-1", "event_type": "a" }));
    finished(&home);
    let answer = home.run(&["dead-letters", "list", "--reason", "exhausted", "--json"]).code(0).json();
    let letter = &answer["dead_letters"][0]["letter"];
    assert_eq!((&letter["reason"], &letter["attempts"]), (&"exhausted".into(), &3.into()), "{answer}");
    let history = letter["history"].as_array().expect("a list");
    assert_eq!(history.iter().map(|attempt| attempt["number"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    assert!(history.iter().all(|attempt| attempt["error"] == "exit code 7"), "{answer}");
    service.stop();
}

#[test]
fn dead_letters_can_be_chosen_by_route_and_reason() {
    let (home, service) = lived_in();
    for (args, expected) in [
        (&["--route", "poisoned"][..], 1),
        (&["--route", "kept"], 0),
        (&["--reason", "rejected"], 1),
        (&["--reason", "too-old"], 0),
        (&["--route", "poisoned", "--reason", "rejected", "--limit", "1"], 1),
    ] {
        let answer = home.run(&[&["dead-letters", "list", "--json"], args].concat()).code(0).json();
        assert_eq!(answer["dead_letters"].as_array().map(Vec::len), Some(expected), "{args:?}");
    }
    assert_eq!(home.run(&["dead-letters", "list", "--route", "kept"]).code(0).stdout, "no dead letters\n");
    let wrong = home.run(&["dead-letters", "list", "--reason", "exausted"]).code(2);
    assert!(wrong.stderr.contains("`exausted` is no reason"), "{}", wrong.stderr);
    let nobody = home.run(&["dead-letters", "list", "--route", "kpt"]).code(1);
    assert!(nobody.stderr.contains("there is no route `kpt`") && nobody.stderr.contains("`kept`, `poisoned`, `off`"), "{}", nobody.stderr);
    for args in [&["redrive", "--route", "kpt"][..], &["redrive", "--dry-run", "--route", "kpt"], &["discard", "--route", "kpt"]] {
        let nobody = home.run(&[&["dead-letters"], args].concat()).code(1);
        assert!(nobody.stderr.contains("there is no route `kpt`") && nobody.stderr.contains("`kept`, `poisoned`, `off`"), "{}", nobody.stderr);
    }
    for args in [&["redrive"][..], &["redrive", "--reason", "exausted"], &["redrive", "--where", "payload.n"]] {
        let _ = home.run(&[&["dead-letters"], args].concat()).code(2);
    }
    let missing = home.run(&["dead-letters", "show", "nope"]).code(1);
    assert!(missing.stderr.contains("there is no dead letter `nope`"), "{}", missing.stderr);
    service.stop();
}
