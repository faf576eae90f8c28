//! Planted causes: the explanation names each of them.

use std::collections::BTreeMap;

use router_api::{DecodeLimits, FieldPath};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::{Breaker, Coalesce, Dedup, OnExhausted, Rate, RetryPolicy, WhenBusy},
    filter::EventFilter,
};

fn route(name: &str, on: &[&str], when: Value) -> RouteConfig {
    let second = Duration::from_secs(1);
    RouteConfig {
        name: name.parse().unwrap(),
        place: "router.toml:7".to_owned(),
        base_dir: "/".into(),
        hash: String::new(),
        enabled: true,
        mode: RouteMode::Live,
        on: on.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        when: EventFilter::compile(&when).unwrap(),
        order_by: None,
        coalesce: None,
        concurrency: 8,
        prefetch: 64,
        queue: router_api::QueueWish::default(),
        timeout: 60 * second,
        retry: RetryPolicy { attempts_max: 8, first_delay: second, max_delay: 600 * second, on: BTreeMap::new() },
        on_exhausted: OnExhausted::DeadLetter,
        when_busy: WhenBusy::Queue,
        ledger: true,
        breaker: Breaker { first_delay: second, max_delay: 60 * second },
        rate: None,
        drain: 30 * second,
        dedup: None,
        max_age: None,
        hops_max: 8,
        crashes_max: 5,
        handler: "ci".to_owned(),
        with: Value::Null,
    }
}

const KEY: &str = "session.thread.agent.action";

fn write_of(file: &str) -> Envelope {
    let body = json!({
        "event_id": "e-1", "event_type": KEY, "timestamp": "2026-01-30T12:00:00Z",
        "payload": { "session_id": "s-1", "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": file } }, "working_directory": "/home/ada/shop" },
    });
    Envelope::decode(KEY.parse().unwrap(), body.to_string(), DecodeLimits::default()).unwrap()
}

fn asked(routes: &[RouteConfig], event: &Envelope) -> Explanation {
    explain(routes, Ok(event), event.key())
}

fn field(path: &str) -> FieldPath {
    path.parse().unwrap()
}

fn python() -> Value {
    json!({ "tool_name": ["Write", "Edit"], "file_path": { "suffix": ".py" } })
}

#[test]
fn a_shadow_route_that_is_missed_says_so_too() {
    let ci = || route("ci", &["session.#"], python());
    let mut shadow = ci();
    shadow.mode = RouteMode::Shadow;
    let text = asked(&[shadow], &write_of("a.rs")).to_string();
    assert!(text.contains("rejects the event") && text.contains("- shadow: even when it fires it only records"), "{text}");
    assert!(!asked(&[ci()], &write_of("a.rs")).to_string().contains("- shadow"));
}

#[test]
fn a_filter_that_leaves_the_event_is_named_with_the_field_and_both_values() {
    let text = asked(&[route("ci", &[KEY], python())], &write_of("/home/ada/README.md")).to_string();
    assert!(text.contains("the only route does not take this event"), "{text}");
    assert!(text.contains("1 of 2 conditions fit"), "{text}");
    assert!(text.contains("`file_path` is \"/home/ada/README.md\", wanted is suffix \".py\""), "{text}");
}

#[test]
fn a_missing_field_is_told_with_the_places_that_were_looked_at_and_one_that_would_fit() {
    let body = json!({ "event_id": "e-1", "event_type": KEY, "payload": { "tool_metadata": { "tool_name": "write" }, "files_modified": ["/x/a.py"] } });
    let event = Envelope::decode(KEY.parse().unwrap(), body.to_string(), DecodeLimits::default()).unwrap();
    let text = asked(&[route("ci", &[KEY], python())], &event).to_string();
    for part in [
        "looked in payload.tool_metadata.tool_input.file_path, payload.tool_metadata.tool_input.notebook_path",
        "and 7 more places",
        "but `payload.files_modified.0` is \"/x/a.py\"",
        "`tool_name` is \"write\", wanted is one of \"Write\", \"Edit\"",
        "but it differs only in upper and lower case",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn routes_that_listen_to_other_keys_are_told_from_near_misses() {
    let routes = [
        route("slip", &["session.thread.agent.acton"], json!({})),
        route("one-word", &["session.thread.*.started"], json!({})),
        route("other", &["poison.#"], json!({})),
        RouteConfig { enabled: false, ..route("off", &["tool.mutation.*"], json!({})) },
        route("fits", &["#"], json!({})),
    ];
    let explanation = asked(&routes, &write_of("a.py"));
    let elsewhere: Vec<&str> = explanation.routes.iter().filter(|route| explanation.is_elsewhere(route)).map(|route| route.route.as_str()).collect();
    assert_eq!(elsewhere, ["other", "off"]);
    assert!(!explanation.to_string().contains("nearest miss comes first"), "something fires");
}

#[test]
fn a_pattern_that_does_not_fit_is_named_with_the_word() {
    let text = asked(&[route("ci", &["tool.mutation.*", "session.thread.agent.*.done"], python())], &write_of("a.py")).to_string();
    assert!(text.contains("nearest is `session.thread.agent.*.done`: the key has 4 words, the pattern wants 5"), "{text}");
}

#[test]
fn a_disabled_route_says_so_and_what_it_would_do_otherwise() {
    let routes = [RouteConfig { enabled: false, ..route("ci", &[KEY], python()) }];
    let fires = asked(&routes, &write_of("a.py"));
    assert_eq!(fires.fires(), 0);
    assert!(fires.to_string().contains("`enabled = false`; if it were enabled, it would take this event"), "{fires}");
    let neither = asked(&routes, &write_of("a.md")).to_string();
    assert!(neither.contains("would not take this event either") && neither.contains("suffix \".py\""), "{neither}");
}

#[test]
fn what_holds_an_event_behind_the_filter_is_noted() {
    let second = Duration::from_secs(1);
    let held = RouteConfig {
        mode: RouteMode::Shadow,
        coalesce: Some(Coalesce { by: field("working_directory"), quiet: 2 * second, max_wait: 30 * second, events_max: 16 }),
        dedup: Some(Dedup { by: Vec::new(), window: 86_400 * second }),
        rate: Some(Rate { count: 5, per: 60 * second }),
        max_age: Some(Duration::from_millis(1500)),
        ..route("ci", &["#"], json!({}))
    };
    let live = RouteConfig { mode: RouteMode::Live, ..held.clone() };
    let explanation = asked(&[held, live], &write_of("a.py"));
    let notes = explanation.routes[0].notes.join("\n");
    for part in [
        "waited 1500 ms",
        "2026-01-30T12:00:00Z",
        "for 2 s with `working_directory` \"/home/ada/shop\", at most 30 s and 16 events",
        "5 handlings in 1 min",
        "shadow: the handler runs",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert!(notes.contains("a shadow route remembers nothing"), "{notes}");
    assert!(explanation.routes[1].notes.join("\n").contains("same id (e-1) within 24 h"));
}

#[test]
fn missing_lane_and_dedup_fields_are_noted() {
    let second = Duration::from_secs(1);
    let ordered = RouteConfig {
        order_by: Some(field("session_id")),
        dedup: Some(Dedup { by: vec![field("payload.commit")], window: second }),
        ..route("a", &["#"], json!({}))
    };
    let notes = asked(std::slice::from_ref(&ordered), &write_of("a.py")).routes[0].notes.join("\n");
    assert!(notes.contains("earlier events with `session_id` \"s-1\"") && notes.contains("the event has no `payload.commit`"), "{notes}");
    let bare = Envelope::decode(KEY.parse().unwrap(), "{}", DecodeLimits::default()).unwrap();
    let unordered =
        RouteConfig { coalesce: Some(Coalesce { by: field("git_branch"), quiet: second, max_wait: second, events_max: 4 }), ..route("b", &["#"], json!({})) };
    let explanation = asked(&[ordered, unordered], &bare);
    assert!(explanation.routes[0].notes[0].contains("has no `session_id`"));
    assert!(explanation.routes[1].notes[0].contains("has no `git_branch`, so it is handled alone"));
}

#[test]
fn what_fires_comes_first_and_then_the_nearest_miss() {
    let routes = [
        route("far-key", &["x"], json!({})),
        route("near-key", &["session.thread.agent.acton"], json!({})),
        route("two-wrong", &["#"], json!({ "tool_name": "Read", "session_id": "s-2", "id": "e-1" })),
        RouteConfig { enabled: false, ..route("off-one-wrong", &["#"], json!({ "tool_name": "Read", "id": "e-1" })) },
        route("one-wrong", &["#"], json!({ "tool_name": "Read", "id": "e-1" })),
        RouteConfig { enabled: false, ..route("off", &["#"], json!({})) },
        route("fires", &["#"], json!({})),
        RouteConfig { on: Vec::new(), ..route("nothing", &[], json!({})) },
    ];
    let explanation = asked(&routes, &write_of("a.py"));
    let order: Vec<&str> = explanation.routes.iter().map(|route| route.route.as_str()).collect();
    assert_eq!(order, ["fires", "off", "one-wrong", "off-one-wrong", "two-wrong", "near-key", "far-key", "nothing"]);
    assert_eq!(explanation.count(), "1 of 8 routes takes this event");
    let Verdict::FilterMismatch { failure, also, .. } = &explanation.routes[4].verdict else { panic!("{explanation}") };
    assert_eq!((failure.field.as_str(), also.len()), ("session_id", 1));
}

#[test]
fn what_is_no_event_goes_to_the_dead_letters_of_the_routes_whose_key_fits() {
    let key: RoutingKey = KEY.parse().unwrap();
    let error = Envelope::decode(key.clone(), "{\"a\":1e400}", DecodeLimits::default()).unwrap_err();
    let explanation = explain(&[route("other", &["x"], json!({})), route("ci", &["#"], python())], Err(&error), &key);
    assert_eq!(explanation.routes[0].label(), "no event");
    let text = explanation.to_string();
    assert!(text.contains("out of range") && text.contains("dead letters"), "{text}");
}

#[test]
fn the_json_form_has_its_schema_and_every_verdict_its_kind() {
    let routes = [route("a", &["#"], json!({})), RouteConfig { enabled: false, ..route("b", &["x"], json!({})) }, route("c", &["#"], python())];
    let value = serde_json::to_value(asked(&routes, &write_of("a.md"))).unwrap();
    assert_eq!(value["schema"], "event-router.explain.v1");
    assert_eq!(value["event"]["tool_name"], "Write");
    assert_eq!(value["event"].get("git_branch"), None);
    assert_eq!(value["routes"][0]["verdict"], json!({ "kind": "fires", "pattern": "#" }));
    assert_eq!(value["routes"][1]["verdict"]["failure"]["field"], "file_path");
    assert_eq!(value["routes"][2]["verdict"]["kind"], "disabled");
    assert_eq!(value["routes"][2]["verdict"]["otherwise"]["kind"], "key-mismatch");
}

#[test]
fn nothing_of_an_event_moves_the_terminal() {
    let event = write_of("\u{1b}[2J\u{202e}x.md");
    let text = asked(&[route("ci", &["#"], python())], &event).to_string();
    assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()) && !text.contains('\u{202e}'), "{text}");
}

#[test]
fn spans_are_told_in_the_largest_whole_unit() {
    let told = |millis| span(Duration::from_millis(millis));
    assert_eq!(
        [told(0), told(1500), told(2000), told(90_000), told(120_000), told(86_400_000), told(172_800_000)],
        ["0 ms", "1500 ms", "2 s", "90 s", "2 min", "24 h", "2 d"]
    );
}
