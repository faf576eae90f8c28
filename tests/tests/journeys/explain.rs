//! `explain`: why a route fires or not. A reader who knows nothing of the filter finds the planted cause from the answer alone.

use router_tests::{Home, Ran};

use crate::{
    golden::golden,
    world::{ROUTES, lived_in, read, write},
};

/// The lines of one route's part of an explanation.
fn part_of<'t>(ran: &'t Ran, route: &str) -> &'t str {
    let start = ran.stdout.find(&format!("  {route}  (")).unwrap_or_else(|| panic!("no `{route}` in\n{}", ran.stdout));
    ran.stdout[start..].split("\n\n").next().unwrap_or_default()
}

fn explained(home: &Home, event: &serde_json::Value) -> Ran {
    home.run_with_input(&["explain", "-"], event.to_string().as_bytes()).code(0)
}

#[test]
fn why_did_ci_not_run_because_of_the_file() {
    let home = Home::new(ROUTES);
    let ran = explained(&home, &write(1, "/home/ada/shop/src/main.rs"));
    let told = part_of(&ran, "kept");
    for part in ["file_path", "/home/ada/shop/src/main.rs", "suffix \".py\"", "1 of 2 conditions fit"] {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
    assert!(!told.contains("`tool_name` is"), "the tool is not to blame:\n{told}");
    assert!(ran.stdout.find("kept") < ran.stdout.find("poisoned"), "the nearest miss comes first:\n{}", ran.stdout);
}

#[test]
fn why_did_ci_not_run_because_of_the_tool() {
    let home = Home::new(ROUTES);
    let ran = explained(&home, &read(1, "/home/ada/shop/cart.py"));
    let told = part_of(&ran, "kept");
    for part in ["tool_name", "\"Read\"", "\"Write\"", "\"Edit\""] {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
}

#[test]
fn why_did_ci_not_run_because_of_the_key() {
    let home = Home::new(ROUTES);
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    let ran = home.run(&["explain", "event.json", "--key", "session.thread.agent.actions"]).code(0);
    let told = part_of(&ran, "kept");
    for part in ["nearest is `session.thread.agent.action`", "`actions`", "`action`"] {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
}

#[test]
fn why_did_ci_not_run_because_a_field_is_missing_or_the_route_is_off() {
    let home = Home::new(ROUTES);
    let mut event = write(1, "/home/ada/shop/cart.py");
    event["payload"]["tool_metadata"]["tool_input"] = serde_json::json!({ "command": "ls" });
    let ran = explained(&home, &event);
    assert!(part_of(&ran, "kept").contains("`file_path` is not in the event"), "{}", ran.stdout);
    assert!(part_of(&ran, "off").contains("`enabled = false`; if it were enabled, it would take this event"), "{}", ran.stdout);
}

#[test]
fn a_stored_event_is_found_by_number_id_and_the_beginning_of_its_id_and_told_with_its_fate() {
    let (home, service) = lived_in();
    let by_number = home.run(&["explain", "1"]).code(0);
    for reference in ["0b8f1c52-5c1e-4a55-9e0a-000000000001", "0b8f1c52"] {
        assert_eq!(home.run(&["explain", reference]).code(0).stdout, by_number.stdout, "{reference}");
    }
    assert!(part_of(&by_number, "kept").contains("then: handled"), "{}", by_number.stdout);
    assert!(part_of(&home.run(&["explain", "poison-1"]).code(0), "poisoned").contains("given up on (rejected)"));
    assert!(home.run(&["explain", "3"]).code(0).stdout.contains("none of the 3 routes takes this event"));
    golden(&home, "explain", &home.run(&["explain", "1", "--json"]).code(0).json());
    golden(&home, "explain-missed", &home.run_with_input(&["explain", "-", "--json"], read(9, "/home/ada/shop/a.rs").to_string().as_bytes()).code(0).json());
    service.stop();
}

#[test]
fn now_and_then_are_told_apart_and_other_keys_fold_into_one_line() {
    let (home, service) = lived_in();
    service.stop();
    let told = home.run(&["explain", "1"]).code(0).stdout;
    assert!(told.contains("✓ would fire now  kept") && told.contains("now: 1 of 3 routes takes this event"), "{told}");
    assert!(told.contains("· 1 route listens to other keys: poisoned  (`-v` says why)"), "{told}");
    assert!(!told.contains("MARKER-OF-THE-PAYLOAD"), "{told}");
    let all = home.run(&["explain", "1", "-v"]).code(0).stdout;
    assert!(all.contains("nearest is `poison.#`") && all.contains("MARKER-OF-THE-PAYLOAD"), "{all}");

    // Another configuration on the same store: one route wants something else, the other one is gone.
    home.write("config/router.toml", &ROUTES.replace(".py", ".rs").replace("poisoned", "renamed"));
    let told = home.run(&["explain", "1"]).code(0);
    assert!(part_of(&told, "kept").contains("then: handled; the configuration may have changed since"), "{}", told.stdout);
    let gone = home.run(&["explain", "2"]).code(0).stdout;
    assert!(gone.contains("(no longer in the configuration)") && gone.contains("then: not queued for it"), "{gone}");
}

#[test]
fn an_event_whose_route_is_gone_is_told_to_be_stuck() {
    let home = Home::new(ROUTES);
    home.write("event.json", &write(1, "/home/ada/shop/cart.py").to_string());
    let _ = home.run(&["publish", "event.json"]).code(0);
    home.write("config/router.toml", &ROUTES.replace("\"kept\"", "\"other\""));
    for args in [&["events"][..], &["explain", "1"]] {
        let told = home.run(args).code(0).stdout;
        assert!(told.contains("stuck: route `kept` is gone from the configuration; bring the name back"), "{args:?}: {told}");
    }
}

#[test]
fn an_id_that_fits_several_events_names_them() {
    let (home, service) = lived_in();
    service.send("session.thread.agent.action", &write(2, "/home/ada/shop/price.py"));
    let ran = home.run(&["explain", "0b8f1c52"]).code(1);
    assert!(ran.stderr.contains("fits several events") && ran.stderr.contains("000000000001") && ran.stderr.contains("000000000002"), "{}", ran.stderr);
    service.stop();
}

#[test]
fn what_is_no_event_is_explained_too() {
    let home = Home::new("[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n");
    let ran = home.run_with_input(&["explain", "-", "--key", "a.b"], b"[1, 2]").code(0);
    assert!(ran.stdout.contains("no event") && ran.stdout.contains("an array, where a JSON object is needed"), "{}", ran.stdout);
    golden(&home, "explain-undecodable", &home.run_with_input(&["explain", "-", "--key", "a.b", "--json"], b"[1, 2]").code(0).json());
}

#[test]
fn references_that_lead_nowhere_say_so() {
    let (home, service) = lived_in();
    for (args, part) in [
        (&["explain", "999"][..], "no stored event `999`"),
        (&["explain", "nowhere.json"], "no file `nowhere.json`"),
        (&["explain", "1", "--key", "a.b"], "`--key` is only for events from a file"),
    ] {
        let ran = home.run(args).code(1);
        assert!(ran.stderr.contains(part), "no `{part}` in {}", ran.stderr);
    }
    service.stop();
}
