//! `publish`: an event goes in, through a running router or straight into its store.

use router_tests::Home;
use serde_json::json;

use crate::{
    golden::golden,
    world::{ROUTES, finished, write},
};

#[test]
fn an_event_from_a_file_waits_for_the_router_and_is_handled_by_it() {
    let home = Home::new(ROUTES);
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    let ran = home.run(&["publish", "event.json"]).code(0);
    assert!(ran.stdout.contains("session.thread.agent.action is stored as number 1"), "{}", ran.stdout);
    assert!(ran.stdout.contains("no router runs on `") && ran.stdout.contains("the event waits there"), "{}", ran.stdout);
    assert!(!home.path().join("seen").exists());

    let service = home.serve();
    finished(&home);
    home.write("second.json", &write(2, "/home/ada/shop/price.py").to_string());
    let ran = home.run(&["publish", "second.json"]).code(0);
    assert!(ran.stdout.contains("stored as number 2") && !ran.stdout.contains("no router runs"), "{}", ran.stdout);
    finished(&home);
    let seen = home.read("seen");
    assert_eq!((seen.matches("cart.py").count(), seen.matches("price.py").count()), (1, 1), "{seen}");
    service.stop();
}

#[test]
fn an_event_from_the_standard_input_needs_a_key_that_it_names_or_is_given() {
    let home = Home::new(ROUTES);
    let _ = home.run_with_input(&["publish", "-"], write(1, "/home/ada/shop/cart.py").to_string().as_bytes()).code(0);
    let given = home.run_with_input(&["publish", "-", "--key", "poison.other", "--json"], br#"{"event_type":"kept.x"}"#).code(0).json();
    assert_eq!((&given["key"], &given["routed"]), (&"poison.other".into(), &true.into()), "the given key is the one that counts");
    let none = home.run_with_input(&["publish", "-"], br#"{"a":1}"#).code(1);
    assert!(none.stderr.contains("no routing key") && none.stderr.contains("`--key`"), "{}", none.stderr);
    let events = home.run(&["events", "--json"]).code(0).json();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(2));
}

#[test]
fn the_answer_for_programs_is_the_same_with_and_without_a_router() {
    let home = Home::new(ROUTES);
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    let answer = home.run(&["publish", "event.json", "--json"]).code(0).json();
    golden(&home, "published", &answer);
    let service = home.serve();
    home.write("event.json", &write(2, "/home/ada/shop/cart.py").to_string());
    let mut asked = home.run(&["publish", "event.json", "--json"]).code(0).json();
    assert_eq!((&asked["seq"], &asked["event_id"]), (&2.into(), &"0b8f1c52-5c1e-4a55-9e0a-000000000002".into()));
    asked["seq"] = answer["seq"].clone();
    asked["event_id"] = answer["event_id"].clone();
    assert_eq!(asked, answer);
    service.stop();
}

#[test]
fn every_sample_can_be_published_and_a_wrong_name_lists_them() {
    let home = Home::new("[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n");
    let wrong = home.run(&["publish", "--sample", "writ"]).code(1);
    let names: Vec<&str> = wrong.stderr.split("there are ").nth(1).expect("the list").split('`').skip(1).step_by(2).collect();
    assert!(names.len() >= 10 && names.contains(&"write") && names.contains(&"hookd-write"), "{names:?}");
    let service = home.serve();
    for name in &names {
        let answer = home.run(&["publish", "--sample", name, "--json"]).code(0).json();
        assert_eq!(answer["routed"], true, "{name}");
    }
    // A sample is fresh each time, so it is no duplicate of itself.
    let _ = home.run(&["publish", "--sample", "write"]).code(0);
    let events = finished(&home);
    let events = events["events"].as_array().expect("a list");
    assert_eq!(events.len(), names.len() + 1);
    for event in events {
        assert_eq!(event["deliveries"][0]["state"]["fate"], "handled", "{event}");
    }
    service.stop();
}

#[test]
fn what_is_no_event_is_refused_before_a_store_is_made() {
    let home = Home::new("[limits]\nbody_bytes_max = 1_024\ndepth_max = 8\n");
    let deep = format!("{{\"event_type\":\"a\",\"x\":{}1{}}}", "[".repeat(9), "]".repeat(9));
    let large = json!({ "event_type": "a", "text": "x".repeat(1_024) }).to_string();
    for (input, part) in [
        (&b"{\"event_type\":\"a\","[..], "no JSON"),
        (b"[1]", "object"),
        (b"", "no JSON"),
        (b"\"text\"", "object"),
        (b"{\"event_type\":\"a\",\"x\":\"\xff\"}", "no"),
        (large.as_bytes(), "1024 bytes"),
        (deep.as_bytes(), "8"),
    ] {
        let ran = home.run_with_input(&["publish", "-", "--key", "a"], input).code(1);
        assert!(ran.stderr.contains(part), "no `{part}` in {}", ran.stderr);
        assert_eq!(ran.stderr.trim_end().lines().count(), 1, "one sentence: {}", ran.stderr);
    }
    let missing = home.run(&["publish", "nowhere.json"]).code(1);
    assert!(missing.stderr.contains("`nowhere.json`"), "{}", missing.stderr);
    assert!(!home.path().join("state").exists(), "no store is made for what is refused");
}

#[test]
fn a_key_that_is_none_is_wrong_usage() {
    let home = Home::new(ROUTES);
    for key in [&"a.".repeat(200)[..], "a\u{1b}b", "a\nb"] {
        let ran = home.run_with_input(&["publish", "-", "--key", key], b"{}").code(2);
        assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr.escape_debug());
    }
    assert!(!home.path().join("state").exists());
}

#[test]
fn an_event_that_nobody_wants_is_stored_and_said_to_be_unwanted() {
    let home = Home::new(ROUTES);
    let ran = home.run_with_input(&["publish", "-", "--key", "nobody.listens"], b"{}").code(0);
    assert!(ran.stdout.contains("no route wants it") && ran.stdout.contains("`event-router explain 1`"), "{}", ran.stdout);
}
