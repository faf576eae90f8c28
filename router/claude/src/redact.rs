//! Takes secrets out of what a hook was given, before it is written anywhere: by shape, by the name that a value stands under, and by
//! the paths that the user names. What is found is replaced by `[redacted:<kind>:<fingerprint>]`, as the router's own door does it.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit as _, Mac as _};
use router_secrets::{found, is_marker, key_names_secret, settled};
use serde_json::Value;
use sha2::Sha256;

use crate::members::{Field, Members};

/// Words of one path.
const WORDS_MAX: usize = 64;

/// Rules, and the key of the fingerprints.
#[derive(Clone)]
pub struct Redaction {
    paths: Vec<Vec<String>>,
    mac: Hmac<Sha256>,
}

impl Redaction {
    /// With the paths that are named; one with an empty word names nothing and is left out. `*` stands for any one word.
    #[must_use]
    pub fn new(paths: &[String], key: [u8; 32]) -> Self {
        let words = |path: &String| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        let paths = paths.iter().map(words).filter(|words| words.len() <= WORDS_MAX && words.iter().all(|word| !word.is_empty())).collect();
        Self { paths, mac: Hmac::new_from_slice(&key).expect("HMAC takes a key of any length") }
    }

    /// A text without secrets of known shapes.
    #[must_use]
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let found = settled(text, found(text));
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut rewritten = String::with_capacity(text.len() + 48 * found.len());
        let mut kept_until = 0;
        for finding in &found {
            rewritten.push_str(&text[kept_until..finding.range.start]);
            rewritten.push_str(&self.marker(finding.kind, &text[finding.range.clone()]));
            kept_until = finding.range.end;
        }
        rewritten.push_str(&text[kept_until..]);
        Cow::Owned(rewritten)
    }

    /// The value of a member: gone as a whole if its name says that it is a secret.
    #[must_use]
    pub fn member<'t>(&self, key: Option<&str>, value: &'t str) -> Cow<'t, str> {
        match key {
            Some(key) if !value.is_empty() && key_names_secret(key, value) => {
                if is_marker(value) {
                    Cow::Borrowed(value)
                } else {
                    Cow::Owned(self.marker("key", value))
                }
            }
            _ => self.text(value),
        }
    }

    /// Whatever JSON, in place, by shapes, names and paths.
    pub fn value(&self, value: &mut Value) {
        self.walk(value, None, &self.at_root(), 0);
    }

    /// An event, in place.
    pub fn members(&self, members: &mut Members) {
        self.walk_members(members, &self.at_root(), 0);
    }

    fn at_root(&self) -> Vec<usize> {
        (0..self.paths.len()).collect()
    }

    /// The rules of `reached` that a child of a value at `depth` fits too.
    fn below(&self, reached: &[usize], depth: usize, word: &str) -> Vec<usize> {
        let fits = |rule: &&usize| self.paths[**rule].get(depth).is_some_and(|wanted| wanted == "*" || wanted == word);
        reached.iter().filter(fits).copied().collect()
    }

    fn ends(&self, reached: &[usize], depth: usize) -> bool {
        reached.iter().any(|rule| self.paths[*rule].len() == depth)
    }

    // As deep as the parser lets a value be, which is not very.
    fn walk(&self, value: &mut Value, key: Option<&str>, reached: &[usize], depth: usize) {
        if self.ends(reached, depth) {
            self.hide(value);
            return;
        }
        match value {
            Value::String(text) => {
                if let Cow::Owned(rewritten) = self.member(key, text) {
                    *text = rewritten;
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let reached = if reached.is_empty() { Vec::new() } else { self.below(reached, depth, &index.to_string()) };
                    self.walk(item, None, &reached, depth + 1);
                }
            }
            Value::Object(object) => {
                for (key, item) in object.iter_mut() {
                    self.walk(item, Some(key), &self.below(reached, depth, key), depth + 1);
                }
            }
            _ => {}
        }
    }

    fn walk_members(&self, members: &mut Members, reached: &[usize], depth: usize) {
        for (name, field) in &mut members.0 {
            let reached = self.below(reached, depth, name);
            match field {
                Field::Plain(value) => self.walk(value, Some(name), &reached, depth + 1),
                Field::Nested(nested) if self.ends(&reached, depth + 1) => {
                    let mut value = serde_json::to_value(&*nested).unwrap_or_default();
                    self.hide(&mut value);
                    *field = Field::Plain(value);
                }
                Field::Nested(nested) => self.walk_members(nested, &reached, depth + 1),
            }
        }
    }

    /// `null` and empty texts tell nothing and stay.
    fn hide(&self, value: &mut Value) {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() || is_marker(text) => {}
            Value::String(text) => *value = Value::String(self.marker("path", text)),
            _ => *value = Value::String(self.marker("path", &value.to_string())),
        }
    }

    fn marker(&self, kind: &str, secret: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(secret.as_bytes());
        let digest = mac.finalize().into_bytes();
        router_secrets::marker(kind, &digest)
    }
}

impl std::fmt::Debug for Redaction {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redaction").field("paths", &self.paths).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redaction(paths: &[&str]) -> Redaction {
        Redaction::new(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>(), [7; 32])
    }

    #[test]
    fn secrets_go_by_shape_by_name_and_by_path_and_going_twice_changes_nothing() {
        let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0");
        let mut value =
            json!({ "payload": { "command": format!("curl -H {token}"), "env": { "DB_PASSWORD": "hunter2" }, "user_prompt": "mine", "n": [1, null] } });
        let rules = redaction(&["payload.user_prompt", "payload.n.0", "a..b"]);
        rules.value(&mut value);
        let once = value.clone();
        rules.value(&mut value);
        assert_eq!(value, once);
        let text = value.to_string();
        assert!(!text.contains(&token) && !text.contains("hunter2") && !text.contains("mine"), "{text}");
        assert_eq!(text.matches("[redacted:").count(), 4, "{text}");
    }

    #[test]
    fn members_with_an_order_are_redacted_like_any_json() {
        let mut members = Members(vec![("payload", Field::Nested(Members(vec![("tool_input", json!({ "token": "0123456789abcdef" }).into())])))]);
        redaction(&[]).members(&mut members);
        assert!(serde_json::to_string(&members).unwrap().contains("[redacted:key:"));
        redaction(&["payload"]).members(&mut members);
        assert!(serde_json::to_string(&members).unwrap().starts_with(r#"{"payload":"[redacted:path:"#));
    }
}
