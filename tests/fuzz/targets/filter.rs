//! A filter as JSON, [`BETWEEN`](super::BETWEEN), and a body: a filter or reasons; and its answers agree with one another.

use router_api::{DecodeLimits, Envelope, RoutingKey};
use router_core::filter::EventFilter;
use serde_json::Value;

use super::two_parts;

pub(super) const WORDS: &[&str] = &[
    "{\"prefix\":\"a\"}",
    "{\"wildcard\":\"*a*b*\"}",
    "{\"anything-but\":",
    "{\"numeric\":[\">\",1]}",
    "{\"exists\":false}",
    "{\"cidr\":\"10.0.0.0/8\"}",
    "{\"nonempty\":true}",
    "\"any\":[",
    "\"payload.a\":",
    "\"tool_name\":",
    "\"raw.",
    "1e400",
    "-0.0",
    "18446744073709551616",
    "null",
    "\n---\n",
];

pub(super) fn run(data: &[u8]) {
    let (tree, body) = two_parts(data);
    let Ok(tree) = serde_json::from_slice::<Value>(tree) else { return };
    let filter = match EventFilter::compile(&tree) {
        Ok(filter) => filter,
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()));
            return;
        }
    };
    let printed = filter.to_string();
    let again: Value = serde_json::from_str(&printed).expect("a filter prints as JSON");
    assert_eq!(EventFilter::compile(&again).as_ref(), Ok(&filter), "`{printed}` reads as it was made");
    let key = RoutingKey::new("a.b").expect("a key");
    let Ok(event) = Envelope::decode(key, body.to_vec(), DecodeLimits::default()) else { return };
    let (matches, first, all) = (filter.matches(&event), filter.first_failure(&event), filter.failures(&event));
    assert_eq!(matches, first.is_none());
    assert_eq!(matches, all.is_empty());
    if let Some(failure) = first {
        assert!(failure.passed < failure.clauses);
        assert!(failure.actual.is_none_or(|actual| actual.chars().all(|letter| !letter.is_control())), "nothing of an event disturbs a terminal");
    }
}
