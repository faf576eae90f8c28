//! A routing key, a line's end, and a body: an event or a refusal, whatever the bytes are.

use router_api::{DecodeLimits, Dialect, Envelope, FieldPath, RoutingKey};
use serde_json::Value;

pub(super) const WORDS: &[&str] = &[
    "\"specversion\":\"1.0\",",
    "\"event_id\":\"i\",",
    "\"event_type\":",
    "\"source\":{\"host\":\"h\",\"app\":\"a\"},",
    "\"payload\":{",
    "\"data\":",
    "\"raw_payload\":{\"tool_input\":{\"file_path\":\"/a.py\"}},",
    "\"session_id\":",
    "\"correlation_ids\":[",
    "\"timestamp\":\"2026-01-30T12:00:00\"",
    "\\ud800",
    "\\u0000",
    "1e400",
    "null",
    "[[[[[[[[",
    "\u{feff}",
    "$serde_json::private::RawValue",
];

/// Asks an event everything; whoever panics or disagrees with himself is found out.
pub fn ask_everything(event: &Envelope) {
    assert!(event.body().is_object());
    let view = event.view();
    assert!(view.is_object());
    for name in FieldPath::NAMES.iter().chain(&["payload", "raw", "payload.a.0", "raw.payload.session_id", "source.host", "source.app"]) {
        let path: FieldPath = name.parse().expect("a name of the view is a path");
        let found = event.field(&path).map(|field| field.to_value().into_owned());
        // One place answers for filters and templates, another shows people the whole view: both say the same.
        if !name.contains('.') && *name != "raw" {
            assert_eq!(found.unwrap_or(Value::Null), view.get(name).cloned().unwrap_or(Value::Null), "`{name}`");
        }
        let _ = event.places_of(&path);
    }
    let payload = event.payload();
    assert!(payload.is_null() || event.field(&"payload".parse().expect("a path")).is_some_and(|field| *field.to_value() == *payload));
    assert_eq!(event.id().is_some(), event.dedup_id().is_some());
    assert!(event.session_id().is_none_or(|session| !session.is_empty()));
    assert!(Dialect::ALL.contains(&event.dialect()));
}

pub(super) fn run(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (key, body) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let key = std::str::from_utf8(key).ok().and_then(|key| RoutingKey::new(key).ok()).unwrap_or_else(|| RoutingKey::new("a.b").expect("a key"));
    let small = DecodeLimits { body_bytes_max: 200, depth_max: 8 };
    let decoded = Envelope::decode(key.clone(), body.to_vec(), DecodeLimits::default());
    if let Ok(event) = &decoded {
        assert_eq!(event.raw().as_ref(), body, "the bytes are kept");
        ask_everything(event);
    }
    match Envelope::decode(key, body.to_vec(), small) {
        Ok(event) => {
            assert!(body.len() <= 200 && decoded.is_ok(), "tighter limits take nothing more");
            ask_everything(&event);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
