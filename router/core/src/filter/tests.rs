//! The filter as its users meet it: from a tree, against events.

use router_api::{DecodeLimits, RoutingKey};
use serde_json::json;

use super::*;

fn event(body: Value) -> Envelope {
    Envelope::decode(RoutingKey::new("session.thread.agent.action").unwrap(), body.to_string(), DecodeLimits::default()).unwrap()
}

fn write_of(file: &str) -> Envelope {
    event(json!({
        "event_id": "e1", "event_type": "session.thread.agent.action", "timestamp": "2026-01-30T12:00:00Z",
        "source": { "host": "10.1.2.3", "type": "agent", "app": "claude-code" },
        "payload": {
            "session_id": "s1",
            "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": file }, "success": true, "execution_time_ms": 125, "error_message": null },
            "working_directory": "/home/ada/shop", "git_branch": "main", "tags": ["ci", "Fast"], "empty": [], "cost": 0.5,
            "a.b": { "c": [{ "d": 1 }, { "d": 2 }] },
        },
    }))
}

fn filter(tree: Value) -> EventFilter {
    EventFilter::compile(&tree).unwrap_or_else(|problems| panic!("{tree}: {problems:?}"))
}

#[track_caller]
fn takes(tree: Value) {
    assert!(filter(tree.clone()).matches(&write_of("/home/ada/shop/api/cart.py")), "{tree}");
    assert_eq!(filter(tree.clone()).first_failure(&write_of("/home/ada/shop/api/cart.py")), None, "{tree}");
}

#[track_caller]
fn leaves(tree: Value) {
    assert!(!filter(tree.clone()).matches(&write_of("/home/ada/shop/api/cart.py")), "{tree}");
    assert!(filter(tree.clone()).first_failure(&write_of("/home/ada/shop/api/cart.py")).is_some(), "{tree}");
}

fn problems(tree: Value) -> Vec<(String, String, String)> {
    let problems = EventFilter::compile(&tree).expect_err(&tree.to_string());
    problems.into_iter().map(|problem| (problem.path.join("/"), problem.message, problem.help.unwrap_or_default())).collect()
}

#[track_caller]
fn refused(tree: Value, path: &str, message: &str, help: &str) {
    let problems = problems(tree.clone());
    let fits = |(at, says, helps): &(String, String, String)| at == path && says.contains(message) && helps.contains(help);
    assert!(problems.len() == 1 && problems.iter().all(fits), "{tree}: {problems:#?}");
}

#[test]
fn no_condition_takes_every_event() {
    takes(json!({}));
    assert_eq!(filter(json!({})), EventFilter::default());
}

#[test]
fn fields_and_values_or() {
    takes(json!({ "tool_name": "Write" }));
    takes(json!({ "tool_name": ["Edit", "Write"], "file_path": [{ "suffix": ".rs" }, { "suffix": ".py" }] }));
    leaves(json!({ "tool_name": ["Edit", "Write"], "file_path": { "suffix": ".rs" } }));
    leaves(json!({ "tool_name": "write" }));
}

#[test]
fn any_takes_what_one_of_its_filters_takes_and_nests() {
    takes(json!({ "any": [{ "tool_name": "Edit" }, { "git_branch": "main" }] }));
    leaves(json!({ "any": [{ "tool_name": "Edit" }, { "git_branch": "dev" }] }));
    leaves(json!({ "session_id": "s2", "any": [{ "tool_name": "Write" }] }));
    takes(json!({ "any": [{ "tool_name": "Edit" }, { "any": [{ "tool_name": "Read" }, { "tool_name": "Write", "git_branch": "main" }] }] }));
}

#[test]
fn nested_tables_quoted_keys_and_literal_keys_reach_the_payload() {
    takes(json!({ "payload": { "tool_metadata": { "success": true } } }));
    takes(json!({ "payload.tool_metadata.success": true }));
    takes(json!({ "payload": { "tool_metadata": { "success": true, "execution_time_ms": { "numeric": [">", 100] } }, "git_branch": "main" } }));
    takes(json!({ "payload": { "a.b": { "c": { "1": { "d": 2 } } } } }));
    takes(json!({ "payload.\"a.b\".c.0.d": 1 }));
    leaves(json!({ "payload.a.b.c.0.d": 1 }));
    takes(json!({ "raw": { "source": { "app": "claude-code" } } }));
    takes(json!({ "source": { "app": "claude-code", "host": { "cidr": "10.0.0.0/8" } } }));
    takes(json!({ "source.type": "agent" }));
}

#[test]
fn a_payload_key_called_like_an_operator_is_reached_by_the_quoted_key() {
    let event = event(json!({ "event_id": "1", "payload": { "rule": { "prefix": "x" }, "pull_request": { "number": 5 } } }));
    assert!(filter(json!({ "payload.rule.prefix": "x" })).matches(&event));
    assert!(!filter(json!({ "payload": { "rule": { "prefix": "x" } } })).matches(&event));
    assert!(filter(json!({ "payload": { "pull_request": { "number": 5 } } })).matches(&event));
}

#[test]
fn each_operator_takes_what_it_says() {
    takes(json!({ "file_path": { "prefix": "/home/" } }));
    leaves(json!({ "file_path": { "prefix": "home/" } }));
    takes(json!({ "file_path": { "wildcard": "*/api/*.py" } }));
    leaves(json!({ "file_path": { "wildcard": "*/tests/*.py" } }));
    takes(json!({ "tool_name": { "equals-ignore-case": "WRITE" } }));
    leaves(json!({ "tool_name": { "equals-ignore-case": "WRIT" } }));
    takes(json!({ "git_branch": { "anything-but": ["dev", "wip"] } }));
    leaves(json!({ "git_branch": { "anything-but": "main" } }));
    takes(json!({ "file_path": { "anything-but": { "suffix": ".md" } } }));
    leaves(json!({ "file_path": { "anything-but": { "suffix": [".md", ".py"] } } }));
    takes(json!({ "payload.tool_metadata.execution_time_ms": { "numeric": [">", 100, "<=", 125.0] } }));
    leaves(json!({ "payload.tool_metadata.execution_time_ms": { "numeric": [">", 125] } }));
    takes(json!({ "payload.tool_metadata.execution_time_ms": 125.0 }));
    takes(json!({ "payload.cost": { "numeric": ["=", 0.5] } }));
    leaves(json!({ "payload.git_branch": { "numeric": [">", 0] } }));
    takes(json!({ "source.host": { "cidr": "10.1.0.0/16" } }));
    leaves(json!({ "source.host": { "cidr": "192.168.0.0/16" } }));
}

#[test]
fn a_missing_field_fits_nothing_but_its_absence() {
    for clause in [
        json!("x"),
        json!({ "prefix": "" }),
        json!({ "anything-but": "x" }),
        json!({ "exists": true }),
        json!({ "nonempty": true }),
        json!({ "wildcard": "*" }),
    ] {
        leaves(json!({ "payload.missing": clause }));
    }
    takes(json!({ "payload.missing": { "exists": false } }));
    takes(json!({ "payload.missing": { "nonempty": false } }));
    takes(json!({ "payload.missing": ["x", { "exists": false }] }));
    let failure = filter(json!({ "payload.missing": { "anything-but": "x" } })).first_failure(&write_of("a")).unwrap();
    assert_eq!((failure.to_string(), failure.actual), ("`payload.missing` is not in the event, wanted is anything but \"x\"".to_owned(), None));
}

#[test]
fn null_and_empty_values_exist_and_are_empty() {
    for (field, empty) in [("payload.tool_metadata.error_message", true), ("payload.empty", true), ("payload.cost", false), ("payload.tags", false)] {
        takes(json!({ field: { "exists": true } }));
        takes(json!({ field: { "nonempty": !empty } }));
        leaves(json!({ field: { "nonempty": empty } }));
    }
    // The normalised field has a text or is missing.
    let event = event(json!({ "event_id": "1", "payload": { "git_branch": null, "session_id": "" } }));
    assert!(filter(json!({ "git_branch": { "exists": false }, "session_id": { "exists": false }, "payload.session_id": "" })).matches(&event));
}

#[test]
fn one_item_of_an_array_is_enough() {
    takes(json!({ "payload.tags": "ci" }));
    takes(json!({ "payload.tags": { "equals-ignore-case": "fast" } }));
    takes(json!({ "payload.tags": { "anything-but": "ci" } }));
    leaves(json!({ "payload.tags": { "anything-but": ["ci", "Fast"] } }));
    leaves(json!({ "payload.empty": { "anything-but": "ci" } }));
    leaves(json!({ "payload.tags": "slow" }));
    leaves(json!({ "payload.tool_metadata": { "anything-but": "ci" } }));
}

#[test]
fn the_first_failing_clause_is_told_with_what_was_wanted_and_what_is_there() {
    let filter = filter(json!({ "tool_name": ["Edit", "Write"], "file_path": [{ "suffix": ".py" }, { "suffix": ".pyi" }], "git_branch": "main" }));
    let failure = filter.first_failure(&write_of("/home/ada/README.md")).unwrap();
    assert_eq!(failure.field, "file_path");
    assert_eq!(failure.expected, "one of suffix \".py\", suffix \".pyi\"");
    assert_eq!(failure.actual.as_deref(), Some("\"/home/ada/README.md\""));
    assert_eq!((failure.passed, failure.clauses), (2, 3));
}

#[test]
fn of_any_the_nearest_filter_is_told() {
    let filter = filter(json!({ "any": [{ "tool_name": "Read", "git_branch": "dev" }, { "tool_name": "Write", "session_id": "s2" }] }));
    let failure = filter.first_failure(&write_of("a")).unwrap();
    assert_eq!(failure.field, "session_id");
    assert!(failure.expected.starts_with("\"s2\" (in the nearest of 2 `any`"), "{}", failure.expected);
    assert_eq!((failure.passed, failure.clauses), (0, 1));
}

#[test]
fn what_is_shown_of_an_event_is_short_and_harmless() {
    let failure = filter(json!({ "file_path": "x" })).first_failure(&write_of(&format!("\u{1b}[31m{}", "y".repeat(100_000)))).unwrap();
    let actual = failure.actual.unwrap();
    assert!(actual.len() < 200 && actual.contains("\\u{1b}") && !actual.contains('\u{1b}'), "{actual}");
}

#[test]
fn a_filter_prints_as_a_tree_that_makes_the_same_filter() {
    let tree = json!({
        "tool_name": ["Write", "Edit"],
        "payload": { "a.b": { "x": { "numeric": [">=", 1, "<", 2.5] } }, "n": { "numeric": ["=", 3] }, "ok": true },
        "file_path": { "anything-but": { "prefix": ["/tmp/", "/var/"] } },
        "git_branch": { "anything-but": ["dev"] },
        "source": { "host": { "cidr": "10.0.0.0/8" } },
        "any": [{ "key": { "wildcard": "a*" } }, { "any": [{ "id": { "exists": true } }, { "time": { "nonempty": false } }] }],
    });
    let first = filter(tree);
    let again = filter(serde_json::from_str(&first.to_string()).unwrap());
    assert_eq!(first, again);
    assert_eq!(first.to_string(), again.to_string());
    assert_eq!(filter(json!({ "payload.a": 1, "id": "x" })).to_string(), filter(json!({ "id": "x", "payload": { "a": 1 } })).to_string());
}

#[test]
fn wrong_fields_are_refused_at_their_place_with_the_right_one() {
    refused(json!({ "tool_nam": "x" }), "tool_nam", "no field", "did you mean `tool_name`?");
    refused(json!({ "event_type": "x" }), "event_type", "no field", "did you mean `type`?");
    refused(json!({ "success": true }), "success", "`payload.…`", "");
    refused(json!({ "or": [] }), "or", "no field", "did you mean `any`?");
    refused(json!({ "any": [{ "id": "1" }, { "branch": "x" }] }), "any/1/branch", "no field", "did you mean `git_branch`?");
    refused(json!({ "source": { "hots": "x" } }), "source/hots", "has no `hots`", "did you mean `source.host`?");
    refused(json!({ "payload": { "a": 1 }, "payload.a": 2 }), "payload.a", "given twice", "one list");
}

#[test]
fn wrong_operators_are_refused_with_the_right_one() {
    refused(json!({ "file_path": { "sufix": ".py" } }), "file_path/sufix", "no operator", "did you mean `suffix`?");
    refused(json!({ "file_path": [{ "ends_with": ".py" }] }), "file_path/0/ends_with", "no operator", "did you mean `suffix`?");
    refused(json!({ "payload": { "x": { "prefx": "a" } } }), "payload/x/prefx", "no operator", "did you mean `prefix`?");
    refused(json!({ "payload": { "x": { "anything_but": "a" } } }), "payload/x/anything_but", "no operator", "did you mean `anything-but`?");
    refused(json!({ "payload": { "x": [{ "frobnicate": "a" }] } }), "payload/x/0/frobnicate", "no operator", "there are `prefix`");
    refused(json!({ "file_path": { "prefix": "/a", "suffix": "b" } }), "file_path", "2 operators", "write a list");
    refused(json!({ "payload": { "x": { "prefix": "/a", "suffix": "b" } } }), "payload/x", "2 operators", "write a list");
    refused(json!({ "file_path": { "anything-but": { "numeric": 1 } } }), "file_path/anything-but/numeric", "takes no `numeric`", "it takes");
}

#[test]
fn wrong_operands_are_refused() {
    refused(json!({ "file_path": { "suffix": [".py", ".rs"] } }), "file_path/suffix", "takes a text", "[{ suffix = \"a\" }");
    refused(json!({ "file_path": { "prefix": 5 } }), "file_path/prefix", "takes a text", "");
    refused(json!({ "file_path": { "exists": "yes" } }), "file_path/exists", "true or false", "");
    refused(json!({ "file_path": { "wildcard": "a\\b" } }), "file_path/wildcard", "backslash", "");
    refused(json!({ "source.host": { "cidr": "10.0.0.0/40" } }), "source.host/cidr", "no block", "10.0.0.0/8");
    refused(json!({ "source.host": { "cidr": "10.0.0.1/8" } }), "source.host/cidr", "bits set", "did you mean `10.0.0.0/8`?");
    refused(json!({ "payload.n": { "numeric": ">5" } }), "payload.n/numeric", "one or two comparisons", "[\">\", 5");
    refused(json!({ "payload.n": { "numeric": ["!=", 5] } }), "payload.n/numeric/0", "no comparison", "anything-but");
    refused(json!({ "payload.n": { "numeric": [">", "5"] } }), "payload.n/numeric/1", "no number", "");
    refused(json!({ "payload.n": { "numeric": [">", 5, ">", 6] } }), "payload.n/numeric/2", "given twice", "");
    refused(json!({ "payload.n": null }), "payload.n", "null", "nonempty = false");
    refused(json!({ "payload.n": [["a"]] }), "payload.n/0", "list within a list", "");
    refused(json!({ "any": { "id": "x" } }), "any", "list of tables", "any = [");
    refused(json!([]), "", "a filter is a table", "");
}

#[test]
fn clauses_that_never_match_are_refused() {
    refused(json!({ "tool_name": [] }), "tool_name", "never matches", "");
    refused(json!({ "any": [] }), "any", "never matches", "");
    refused(json!({ "any": [{}] }), "any/0", "takes every event", "");
    refused(json!({ "tool_name": 5 }), "tool_name", "is a text", "`\"5\"`");
    refused(json!({ "tool_name": { "numeric": [">", 5] } }), "tool_name/numeric", "is a text", "");
    refused(json!({ "payload.n": { "numeric": [">", 10, "<", 5] } }), "payload.n/numeric", "never matches", "below");
    refused(json!({ "payload.n": { "numeric": [">", 5, "<=", 5] } }), "payload.n/numeric", "never matches", "");
    refused(json!({ "key": "session.#" }), "key", "no key is called so", "`on`");
    refused(json!({ "key": { "exists": false } }), "key/exists", "never matches", "");
    refused(json!({ "file_path": "*.py" }), "file_path", "star included", "wildcard = \"*.py\"");
    refused(json!({ "dialect": "v3" }), "dialect", "no dialect", "");
    refused(json!({ "session_id": "" }), "session_id", "never matches", "exists = false");
    refused(json!({ "payload": { "x": {} } }), "payload/x", "empty table", "");
    refused(json!({ "file_path": { "anything-but": [] } }), "file_path/anything-but", "every value", "exists = true");
}

#[test]
fn all_problems_are_told_at_once() {
    let found = problems(json!({
        "any": [{ "tool_nam": "x" }, {}],
        "file_path": [{ "sufix": ".py" }, 5],
        "payload": { "n": { "numeric": ["=>", "x"] } },
        "tool_name": [],
    }));
    let places: Vec<&str> = found.iter().map(|(place, ..)| place.as_str()).collect();
    assert_eq!(places, ["any/0/tool_nam", "any/1", "file_path/0/sufix", "file_path/1", "payload/n/numeric/0", "payload/n/numeric/1", "tool_name"]);
}

#[test]
fn limits_are_stated_and_kept() {
    refused(json!({ "payload.x": vec!["a"; 1001] }), "payload.x", "1000 are the limit", "");
    let nested = (0..9).fold(json!({ "id": "x" }), |inner, _| json!({ "any": [inner] }));
    assert!(problems(nested).iter().any(|(_, message, _)| message.contains("more than 8 times")));
}
