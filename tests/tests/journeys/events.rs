//! `events`: the last events and what became of them.

use router_tests::Home;
use serde_json::Value;

use crate::{
    golden::golden,
    world::{ROUTES, lived_in},
};

fn numbers(answer: &Value) -> Vec<u64> {
    answer["events"].as_array().expect("a list").iter().map(|event| event["seq"].as_u64().expect("a number")).collect()
}

#[test]
fn each_event_is_shown_with_its_fate_on_every_route() {
    let (home, service) = lived_in();
    let text = home.run(&["events"]).code(0).stdout;
    for part in ["✓ kept  handled", "✗ poisoned  given up on (rejected)", "`event-router dead-letters show 1`", "no route wanted it", "/home/ada/shop/cart.py"]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(text.find("cart.py") < text.find("heartbeat"), "the newest stands last, beside the prompt:\n{text}");
    golden(&home, "events", &home.run(&["events", "--json"]).code(0).json());
    service.stop();
}

#[test]
fn events_can_be_chosen_by_number_key_session_and_fate() {
    let (home, service) = lived_in();
    for (args, expected) in [
        (&["--last", "2"][..], &[3, 2][..]),
        (&["--last", "1"], &[3]),
        (&["--key", "poison.*"], &[2]),
        (&["--key", "#.action"], &[1]),
        (&["--key", "nothing.of.this"], &[]),
        (&["--unmatched"], &[3]),
        (&["--session", "5f0c2f0e-7d0b-4b52-9a63-2f1f6f3a9c11"], &[1]),
        (&["--session", "another"], &[]),
        (&["--unmatched", "--key", "session.#"], &[]),
    ] {
        let answer = home.run(&[&["events", "--json"], args].concat()).code(0).json();
        assert_eq!(numbers(&answer), expected, "{args:?}");
    }
    assert_eq!(home.run(&["events", "--key", "nothing.of.this"]).code(0).stdout, "no such events\n");
    service.stop();
}

#[test]
fn without_a_store_there_is_a_sentence_and_no_store_is_made() {
    let home = Home::new(ROUTES);
    for args in [&["events"][..], &["explain", "1"], &["dead-letters", "list"], &["dead-letters", "show", "1"], &["try", "kept", "1"]] {
        let ran = home.run(args).code(1);
        assert!(ran.stderr.contains("there is no store") && ran.stderr.contains("router.db"), "{args:?}: {}", ran.stderr);
        assert!(!home.path().join("state").exists(), "{args:?} made a store");
    }
}

#[test]
fn a_file_that_is_no_store_is_said_to_be_none_and_left_as_it_is() {
    let home = Home::new(ROUTES);
    let text = "this is somebody's shopping list, and by no means a database\n".repeat(200);
    home.write("state/router.db", &text);
    let ran = home.run(&["events"]).code(1);
    assert!(ran.stderr.contains("router.db"), "{}", ran.stderr);
    assert_eq!(home.read("state/router.db"), text);
}
