//! What holds for every pattern, body, field path and filter, tried with random ones. Config files have theirs beside their reader.

use proptest::{collection::vec, prelude::*, sample::select, string::string_regex};
use router_api::{DecodeLimits, Dialect, Envelope, FieldPath, PatternTrie, RoutingKey, RoutingPattern};
use router_core::filter::EventFilter;
use router_tests::fuzz::{
    envelope::ask_everything,
    pattern::{naive, words},
};
use serde_json::{Map, Value, json};

// ── patterns ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Few and short words, so that patterns often nearly fit.
fn pattern_text() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "", "*", "#", "#", "a*", "##"]), 0..7).prop_map(|words| words.join("."))
}

fn key_text() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "", "c", "A", "*", "#", "a*"]), 0..8).prop_map(|words| words.join("."))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_takes_what_the_naive_matcher_takes(pattern in pattern_text(), key in key_text()) {
        let expected = naive(&words(&pattern), &words(&key));
        prop_assert_eq!(pattern.parse::<RoutingPattern>().unwrap().matches(&key.parse().unwrap()), expected, "`{}` and `{}`", pattern, key);
    }
}

proptest! {
    #[test]
    fn a_trie_takes_what_its_patterns_take(patterns in vec(pattern_text(), 0..40), keys in vec(key_text(), 1..10)) {
        let mut trie = PatternTrie::new();
        for (number, pattern) in patterns.iter().enumerate() {
            // A value may stand behind several patterns.
            trie.insert(&pattern.parse().unwrap(), number / 2);
        }
        for key in &keys {
            let mut expected: Vec<usize> =
                patterns.iter().enumerate().filter(|(_, pattern)| naive(&words(pattern), &words(key))).map(|(number, _)| number / 2).collect();
            expected.dedup();
            prop_assert_eq!(trie.matches(&key.parse().unwrap()), expected, "key `{}`", key);
        }
    }

    #[test]
    fn any_text_is_a_key_or_refused(text in any::<String>()) {
        if let Ok(key) = RoutingKey::new(&text) {
            prop_assert_eq!(key.as_str(), text.as_str());
            prop_assert!(text.len() <= RoutingKey::BYTES_MAX);
            prop_assert!("#".parse::<RoutingPattern>().unwrap().matches(&key));
        }
    }
}

// ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn decode(body: impl Into<Vec<u8>>) -> Option<Envelope> {
    Envelope::decode(RoutingKey::new("a.b").unwrap(), body.into(), DecodeLimits::default()).ok()
}

fn head_name() -> impl Strategy<Value = String> {
    let names = vec![
        "specversion",
        "event_id",
        "id",
        "event_type",
        "type",
        "event",
        "timestamp",
        "time",
        "ts",
        "source",
        "payload",
        "data",
        "raw_payload",
        "hook_type",
        "routingKey",
        "correlation_ids",
        "correlationid",
        "session_id",
        "tool_name",
        "tool_metadata",
        "tool_input",
        "arguments",
        "file_path",
        "repo",
        "host",
        "agent_context",
        "$serde_json::private::RawValue",
        "$serde_json::private::Number",
        "",
    ];
    prop_oneof![4 => select(names).prop_map(str::to_owned), 1 => any::<String>()]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(vec!["command.a", "s-1", "2026-01-30T12:00:00", "2026-01-30T12:00:00Z", "/a/b.py", "1e400"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| prop_oneof![vec(inner.clone(), 0..5).prop_map(Value::from), json_object(inner)])
}

fn json_object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    vec((head_name(), values), 0..8).prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
}

/// Members as they stand in the text, so that a name may come twice.
fn object_text() -> impl Strategy<Value = String> {
    vec((head_name(), json_value()), 0..8).prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Some(event) = decode(bytes) {
            ask_everything(&event);
        }
    }

    #[test]
    fn bytes_of_json_are_an_event_or_refused(text in string_regex(r#"[{}\[\]",:\\ueE0-9.+-]{0,40}"#).unwrap()) {
        if let Some(event) = decode(format!("{{\"event_id\":\"i\",\"payload\":{text}}}")) {
            ask_everything(&event);
        }
    }

    #[test]
    fn any_object_is_an_event_whose_body_is_that_object(text in object_text()) {
        let event = decode(text.clone()).expect("an object is an event");
        ask_everything(&event);
        prop_assert_eq!(event.raw().as_ref(), text.as_bytes());
        // The other parser gives these names a meaning of their own.
        if !text.contains("$serde_json") {
            prop_assert_eq!(event.body(), &serde_json::from_str::<Value>(&text).unwrap());
        }
    }

    #[test]
    fn the_head_is_what_the_tree_says(text in object_text()) {
        let event = decode(text).expect("an object is an event");
        let body = event.body();
        let text_of = |name: &str| body.get(name).and_then(Value::as_str);
        let expected = match event.dialect() {
            Dialect::CloudEvents => text_of("type"),
            Dialect::Flume => text_of("event"),
            _ => text_of("event_type"),
        };
        prop_assert_eq!(event.event_type(), expected);
        if let Some(id) = text_of("event_id").filter(|id| !id.is_empty()) {
            prop_assert_eq!(event.id().map(|id| id.as_str()), Some(id));
        }
        let is_set = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
        prop_assert_eq!(event.dialect() == Dialect::CloudEvents, is_set("specversion"));
    }

    #[test]
    fn a_changed_byte_is_an_event_or_refused(text in object_text(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Some(event) = decode(bytes) {
            ask_everything(&event);
        }
    }
}

// ── field paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

proptest! {
    #[test]
    fn any_text_is_a_path_that_reads_the_same_again_or_refused(text in prop_oneof![any::<String>(), string_regex(r#"(payload|raw|source|tool_name)([."\\a0]|\.a){0,8}"#).unwrap()]) {
        match text.parse::<FieldPath>() {
            Ok(path) => prop_assert_eq!(path.as_str().parse::<FieldPath>().unwrap(), path),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn joined_words_lead_to_the_value_whatever_is_in_them(words in vec(any::<String>(), 1..5)) {
        let tree = words.iter().rev().fold(json!("here"), |inner, word| json!({ word: inner }));
        let event = decode(json!({ "event_id": "i", "payload": tree }).to_string()).unwrap();
        let path = words.iter().try_fold("payload".parse::<FieldPath>().unwrap(), |path, word| path.join(word));
        // The longest ones are over the limit of a path.
        if let Ok(path) = path {
            let found = event.field(&path).and_then(|field| field.as_str().map(str::to_owned));
            prop_assert_eq!(found.as_deref(), Some("here"));
        }
    }
}

// ── filters ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The meaning of a wildcard in its fewest words; slow.
fn naive_wildcard(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some(('*', rest)), None) => naive_wildcard(rest, text),
        (Some(('*', rest)), Some((_, shorter))) => naive_wildcard(rest, text) || naive_wildcard(pattern, shorter),
        (Some(_), None) => false,
        (Some((wanted, rest)), Some((letter, shorter))) => wanted == letter && naive_wildcard(rest, shorter),
    }
}

fn operator_name() -> impl Strategy<Value = String> {
    let names = vec!["prefix", "suffix", "wildcard", "equals-ignore-case", "anything-but", "exists", "nonempty", "numeric", "cidr", "sufix", "not"];
    prop_oneof![8 => select(names).prop_map(str::to_owned), 1 => any::<String>()]
}

/// Operands, right and wrong ones.
fn operand() -> impl Strategy<Value = Value> {
    prop_oneof![
        json_value(),
        any::<bool>().prop_map(Value::from),
        select(vec!["a", "*a*", "\\*", "10.0.0.0/8", "::1/200", "s-1"]).prop_map(Value::from),
        (select(vec![">", ">=", "=", "<", "<=", "!="]), -5..5_i64, select(vec!["<", "<="]), -5..5_i64).prop_map(|(low, a, high, b)| json!([low, a, high, b])),
        (select(vec![">", ">=", "=", "<", "<="]), -5..5_i64).prop_map(|(sign, at)| json!([sign, at])),
        (operator_name(), vec(select(vec!["a", "b", ""]), 0..3)).prop_map(|(name, values)| json!({ name: values })),
    ]
}

fn clause() -> impl Strategy<Value = Value> {
    prop_oneof![2 => (operator_name(), operand()).prop_map(|(name, operand)| json!({ name: operand })), 1 => operand()]
}

fn filter_tree() -> impl Strategy<Value = Value> {
    let field = select(vec![
        "key",
        "id",
        "type",
        "session_id",
        "tool_name",
        "file_path",
        "payload",
        "payload.a",
        "raw.payload",
        "source",
        "source.host",
        "dialect",
        "tool_nam",
        "any",
    ]);
    let fields = vec((field, prop_oneof![2 => clause(), 1 => vec(clause(), 0..4).prop_map(Value::from)]), 0..4);
    let flat = fields.prop_map(|fields| Value::Object(fields.into_iter().map(|(name, clause)| (name.to_owned(), clause)).collect()));
    flat.prop_recursive(3, 12, 3, |inner| {
        (inner.clone(), vec(inner, 0..3)).prop_map(|(mut filter, any)| {
            if let Value::Object(fields) = &mut filter {
                fields.insert("any".to_owned(), any.into());
            }
            filter
        })
    })
}

/// Mostly one field with one right clause, so that most of them compile.
fn sound_filter_tree() -> impl Strategy<Value = Value> {
    let text = || select(vec!["a", "b", "s-1", "/a/b.py", "", "ab"]);
    let clause = prop_oneof![
        text().prop_filter("an empty session never matches", |text| !text.is_empty()).prop_map(Value::from),
        (select(vec!["prefix", "suffix", "wildcard", "equals-ignore-case"]), text()).prop_map(|(name, text)| json!({ name: text })),
        vec(text().prop_filter("as above", |text| !text.is_empty()), 1..3).prop_map(|texts| json!({ "anything-but": texts })),
        (select(vec!["prefix", "suffix"]), vec(text(), 1..3)).prop_map(|(name, texts)| json!({ "anything-but": { name: texts } })),
        (select(vec!["exists", "nonempty"]), any::<bool>()).prop_map(|(name, wanted)| json!({ name: wanted })),
    ];
    let field = select(vec!["id", "type", "session_id", "tool_name", "file_path", "payload.a", "payload.session_id", "raw.event_id", "source.host"]);
    let fields = vec((field, vec(clause, 1..3)), 1..4);
    let flat = fields.prop_map(|fields| Value::Object(fields.into_iter().map(|(name, clauses)| (name.to_owned(), clauses.into())).collect()));
    flat.prop_recursive(2, 8, 3, |inner| {
        (inner.clone(), vec(inner, 1..3)).prop_map(|(mut filter, any)| {
            if let Value::Object(fields) = &mut filter {
                fields.insert("any".to_owned(), any.into());
            }
            filter
        })
    })
}

proptest! {
    #[test]
    fn any_tree_is_a_filter_or_refused(tree in prop_oneof![json_value(), filter_tree()], body in object_text()) {
        match EventFilter::compile(&tree) {
            Ok(filter) => {
                let event = decode(body).expect("an object is an event");
                prop_assert_eq!(filter.matches(&event), filter.first_failure(&event).is_none());
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in &problems {
                    prop_assert!(!problem.message.is_empty());
                    let found = problem.path.iter().try_fold(&tree, |tree, step| match tree {
                        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                        tree => tree.get(step),
                    });
                    prop_assert!(found.is_some(), "{:?} is a place in {}", problem.path, tree);
                }
            }
        }
    }

    #[test]
    fn a_filter_explains_itself_and_prints_as_it_was_made(tree in sound_filter_tree(), body in object_text()) {
        let filter = EventFilter::compile(&tree).unwrap_or_else(|problems| panic!("{tree}: {problems:?}"));
        let again = EventFilter::compile(&serde_json::from_str(&filter.to_string()).unwrap()).unwrap();
        prop_assert_eq!(&filter, &again);
        let event = decode(body).expect("an object is an event");
        match filter.first_failure(&event) {
            None => prop_assert!(filter.matches(&event)),
            Some(failure) => {
                prop_assert!(!filter.matches(&event));
                prop_assert!(failure.passed < failure.clauses);
                prop_assert!(failure.actual.is_none_or(|actual| actual.chars().all(|letter| !letter.is_control())));
            }
        }
    }

    #[test]
    fn a_wildcard_takes_what_the_naive_matcher_takes(pattern in string_regex("[ab*]{0,8}").unwrap(), text in string_regex("[ab]{0,10}").unwrap()) {
        let filter = EventFilter::compile(&json!({ "payload.x": { "wildcard": pattern } })).unwrap();
        let event = decode(json!({ "event_id": "i", "payload": { "x": text } }).to_string()).unwrap();
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(filter.matches(&event), naive_wildcard(&letters(&pattern), &letters(&text)));
    }

    #[test]
    fn a_range_takes_the_numbers_that_are_in_it(low in -20..20_i64, width in 1..20_i64, number in -25.0..25.0_f64, whole in any::<bool>()) {
        let high = low + width;
        let number = if whole { number.trunc() } else { number };
        let filter = EventFilter::compile(&json!({ "payload.n": { "numeric": [">=", low, "<", high as f64] } })).unwrap();
        // A whole number is written both ways.
        let written = if whole { json!(number as i64) } else { json!(number) };
        let event = decode(json!({ "event_id": "i", "payload": { "n": written } }).to_string()).unwrap();
        prop_assert_eq!(filter.matches(&event), number >= low as f64 && number < high as f64);
    }
}
