//! A body, through both redactions: what was JSON stays JSON of the same shape, what is redacted is left alone, the hook
//! redacts a text as the router does, and both find what the shapes say as patterns.

#[path = "../../../router/secrets/tests/behaviour/patterns.rs"]
mod patterns;

use std::sync::LazyLock;

use bytes::Bytes;
use router_claude::redact::Redaction;
use router_core::{config::RedactConfig, redact::Redactor};
use serde_json::Value;

pub(super) const WORDS: &[&str] = &[
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "AKIAIOSFODNN7EXAMPLE",
    "postgres://user:secret@host/db",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----END RSA PRIVATE KEY-----",
    "\"password\":\"",
    "\"api_key\":",
    "[redacted:",
    "\\u0061",
    "\\n",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl",
    "Bearer ",
    "sk-ant-api03-",
];

static ROUTER: LazyLock<Redactor> = LazyLock::new(|| {
    let config = RedactConfig { paths: vec!["payload.secret".to_owned(), "a.*".to_owned()], patterns: Vec::new(), builtin: true };
    Redactor::new(&config, [7; 32]).expect("sound rules")
});
static HOOK: LazyLock<Redaction> = LazyLock::new(|| Redaction::new(&["payload.secret".to_owned(), "a.*".to_owned()], [7; 32]));

/// Names and kinds, without the texts.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(members) => format!("{{{}}}", members.iter().map(|(name, value)| format!("{name:?}:{}", shape(value))).collect::<Vec<_>>().join(",")),
        Value::Array(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(",")),
        _ => "_".to_owned(),
    }
}

pub(super) fn run(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let once = ROUTER.redact(&body);
    let twice = ROUTER.redact(&once.body);
    // A marker may make a shape of what was none around it (a password of a user's name, with its colons): more goes, and then no more.
    let again = ROUTER.redact(&twice.body);
    assert_eq!(twice.body, again.body, "what is redacted stays as it is");
    if let Ok(before) = serde_json::from_slice::<Value>(&body) {
        let after: Value = serde_json::from_slice(&once.body).unwrap_or_else(|error| panic!("no JSON after redaction: {error}: {:?}", once.body));
        // Below a path that is named everything goes, so only what lies elsewhere keeps its shape.
        if before.get("a").is_none() && before.pointer("/payload/secret").is_none() {
            assert_eq!(shape(&before), shape(&after));
        }
        let mut hooked = before;
        HOOK.value(&mut hooked);
        HOOK.value(&mut hooked);
        let settled = hooked.clone();
        HOOK.value(&mut hooked);
        assert_eq!(hooked, settled, "what the hook redacted stays as it is");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(ROUTER.redact_text(text), HOOK.text(text), "the hook and the router redact the same");
        let mut found: Vec<_> = router_secrets::found(text).into_iter().filter(|finding| finding.kind != "private-key").collect();
        found.sort_by_key(|finding| (finding.range.start, finding.range.end, finding.kind));
        let found: Vec<_> = found.into_iter().map(|finding| (finding.range, finding.kind)).collect();
        assert_eq!(found, patterns::found(text), "what is found by hand is what the patterns find");
    }
}
