//! `dead-letters`: what routes gave up on, with the whole history and the exact bytes.

use router_tests::Home;
use serde_json::json;

use crate::{
    golden::golden,
    world::{finished, lived_in},
};

#[test]
fn a_poisoned_event_is_listed_and_shown_with_what_its_target_said() {
    let (home, service) = lived_in();
    let list = home.run(&["dead-letters", "list"]).code(0).stdout;
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
    let wrong = home.run(&["dead-letters", "list", "--reason", "exausted"]).code(1);
    assert!(wrong.stderr.contains("`exausted` is no reason"), "{}", wrong.stderr);
    let nobody = home.run(&["dead-letters", "list", "--route", "kpt"]).code(1);
    assert!(nobody.stderr.contains("there is no route `kpt`") && nobody.stderr.contains("`kept`, `poisoned`, `off`"), "{}", nobody.stderr);
    let missing = home.run(&["dead-letters", "show", "nope"]).code(1);
    assert!(missing.stderr.contains("there is no dead letter `nope`"), "{}", missing.stderr);
    service.stop();
}
