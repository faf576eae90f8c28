//! What a hook is given: JSON of any shape and size, read into a small tree. Contents of files are left out while reading, long texts
//! are cut, and secrets are replaced, so that nothing that should not travel is ever held as a whole.

use std::{fmt, io::Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{
    content::{CONTENTS, cut},
    redact::Redaction,
    shortened::{Shortened, kept_of},
};

/// Bytes of a hook's input; what comes after them is not read, and the input is then no JSON.
pub const INPUT_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Bytes of input, with long texts cut already, that are read into memory; a longer one is parsed while it is read.
const BUFFER_BYTES: u64 = 1024 * 1024;

/// Bytes of one text that are kept.
const TEXT_BYTES_MAX: usize = 32_000;

/// Bytes behind them in which a secret is looked for that the cut would go through.
const BEYOND_BYTES: usize = 4_096;

/// Values that are kept, and bytes of texts and names.
const VALUES_MAX: usize = 20_000;
const BYTES_MAX: usize = 512 * 1024;

/// Bytes of a member's name; a member with a longer one is left out.
const NAME_BYTES_MAX: usize = 256;

/// Members that are patches of files, and never read.
const PATCHES: [&str; 3] = ["structuredPatch", "gitDiff", "patch"];

/// A hook as it came: whatever is an object. Anything else counts as an empty one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HookInput(Value);

/// What came is no JSON.
#[derive(Debug)]
pub struct NotJson(pub String);

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the input is no JSON: {}", self.0)
    }
}

impl std::error::Error for NotJson {}

impl HookInput {
    /// Reads all of `reader`. With a redaction, secrets of known shapes are replaced before anything is kept.
    ///
    /// # Errors
    ///
    /// [`NotJson`], also when reading fails.
    pub fn read(reader: impl Read, redaction: Option<&Redaction>) -> Result<Self, NotJson> {
        let mut shortened = Shortened::new(reader.take(INPUT_BYTES_MAX));
        let mut first = Vec::new();
        shortened.by_ref().take(BUFFER_BYTES).read_to_end(&mut first).map_err(|error| NotJson(error.to_string()))?;
        if (first.len() as u64) < BUFFER_BYTES {
            // A byte that is no text is no reason to lose the hook.
            let text = String::from_utf8_lossy(&first);
            return finish(&mut serde_json::Deserializer::from_str(&text), redaction);
        }
        finish(&mut serde_json::Deserializer::from_reader(first.as_slice().chain(std::io::BufReader::new(shortened))), redaction)
    }

    /// As [`HookInput::read`], of what is in memory.
    ///
    /// # Errors
    ///
    /// [`NotJson`].
    pub fn parse(bytes: &[u8], redaction: Option<&Redaction>) -> Result<Self, NotJson> {
        Self::read(bytes, redaction)
    }

    /// The tree.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// A member that is a text and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0[name].as_str().filter(|text| !text.is_empty())
    }

    /// `hook_event_name`.
    #[must_use]
    pub fn event_name(&self) -> &str {
        self.text("hook_event_name").unwrap_or_default()
    }

    /// Names the event, for an input that does not.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        if self.text("hook_event_name").is_none() {
            self.set("hook_event_name", name.into());
        }
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        if let Value::Object(object) = &mut self.0 {
            object.insert(name.to_owned(), value);
        }
    }

    /// An object without members.
    #[must_use]
    pub fn empty() -> Self {
        Self(Value::Object(Map::new()))
    }
}

fn finish<'de, R: serde_json::de::Read<'de>>(deserializer: &mut serde_json::Deserializer<R>, redaction: Option<&Redaction>) -> Result<HookInput, NotJson> {
    let mut budget = Budget { values: VALUES_MAX, bytes: BYTES_MAX, redaction };
    let read = Keep { budget: &mut budget, key: None, depth: 0 }.deserialize(&mut *deserializer);
    let value = read.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| NotJson(error.to_string()))?;
    Ok(if value.is_object() { HookInput(value) } else { HookInput::empty() })
}

struct Budget<'r> {
    values: usize,
    bytes: usize,
    redaction: Option<&'r Redaction>,
}

/// Keeps one value, as far as the budget goes.
struct Keep<'b, 'r> {
    budget: &'b mut Budget<'r>,
    key: Option<&'b str>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Keep<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        let (text, length) = kept_of(text);
        // What stands at the top describes the hook; what stands deeper may be a file's.
        if self.depth > 1 && self.key.is_some_and(|key| CONTENTS.contains(&key)) {
            return Ok(format!("[{length} bytes]").into());
        }
        let head = &text[..text.floor_char_boundary(TEXT_BYTES_MAX + BEYOND_BYTES)];
        let kept = match self.budget.redaction {
            Some(redaction) => redaction.member(self.key, head),
            None => head.into(),
        };
        let limit = TEXT_BYTES_MAX.min(self.budget.bytes);
        let kept = if length <= limit && kept.len() <= limit {
            kept.into_owned()
        } else {
            let end = kept.floor_char_boundary(limit);
            format!("{}… [{length} bytes in all]", &kept[..end])
        };
        self.budget.bytes = self.budget.bytes.saturating_sub(kept.len());
        Ok(kept.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while self.budget.values > 0 && self.budget.bytes > 0 {
            self.budget.values -= 1;
            match items.next_element_seed(Keep { budget: &mut *self.budget, key: None, depth: self.depth + 1 })? {
                Some(item) => kept.push(item),
                None => return Ok(kept.into()),
            }
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            // What a hook is, and of which session, is kept whatever came before it.
            let is_spent = self.depth > 0 && (self.budget.values == 0 || self.budget.bytes == 0);
            if is_spent || name.len() > NAME_BYTES_MAX || kept.len() >= VALUES_MAX || PATCHES.contains(&name.as_str()) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            self.budget.values = self.budget.values.saturating_sub(1);
            self.budget.bytes = self.budget.bytes.saturating_sub(name.len());
            if self.depth == 0 && self.budget.bytes < TEXT_BYTES_MAX {
                self.budget.bytes = TEXT_BYTES_MAX;
            }
            let value = members.next_value_seed(Keep { budget: &mut *self.budget, key: Some(&name), depth: self.depth + 1 })?;
            kept.insert(name, value);
        }
        Ok(kept.into())
    }
}

/// A member of the hook, within the limit of texts.
pub(crate) fn words(input: &HookInput, name: &str) -> Option<String> {
    input.text(name).map(|text| cut(text, crate::content::TEXT_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(value: &Value) -> Value {
        HookInput::parse(value.to_string().as_bytes(), None).unwrap().0
    }

    #[test]
    fn a_small_hook_is_kept_as_it_is() {
        let hook = json!({ "session_id": "s", "content": "top", "n": [1, -2, 2.5, null, true], "tool_input": { "command": "ls" } });
        assert_eq!(parsed(&hook), hook);
    }

    #[test]
    fn contents_and_patches_are_never_kept() {
        let hook = json!({ "tool_response": { "content": "secret", "structuredPatch": [{ "lines": ["secret"] }], "gitDiff": { "patch": "secret" }, "x": 1 } });
        assert_eq!(parsed(&hook), json!({ "tool_response": { "content": "[6 bytes]", "x": 1 } }));
    }

    #[test]
    fn a_huge_input_is_small_when_it_is_read_and_keeps_what_names_it() {
        let many: Vec<Value> = (0..100_000).map(|_| json!("x".repeat(50))).collect();
        let hook = json!({ "a": many, "b": "ä".repeat(3_000_000), "tool_input": { "deep": many }, "session_id": "s", "z": "y".repeat(40_000) });
        let text = hook.to_string();
        let read = HookInput::read(text.as_bytes(), None).unwrap();
        assert_eq!(read.text("session_id"), Some("s"));
        assert!(read.0.to_string().len() < 2 * BYTES_MAX, "{}", read.0.to_string().len());
        assert!(read.text("z").unwrap().ends_with("… [40000 bytes in all]"));
    }

    #[test]
    fn a_secret_that_the_cut_would_go_through_is_found() {
        let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0".repeat(2));
        let text = format!("{} {token} tail", "x".repeat(TEXT_BYTES_MAX - 30));
        let redaction = Redaction::new(&[], [7; 32]);
        let hook = HookInput::parse(json!({ "prompt": text }).to_string().as_bytes(), Some(&redaction)).unwrap();
        assert!(!hook.text("prompt").unwrap().contains("ghp_"));
    }

    #[test]
    fn what_is_no_object_is_an_empty_one_and_what_is_no_json_is_told() {
        for text in ["[]", "1", "null", "\"x\""] {
            assert_eq!(HookInput::parse(text.as_bytes(), None).unwrap(), HookInput::empty(), "{text}");
        }
        for text in ["", "{\"TODO\"}", "{} x", "{", "\u{0}"] {
            assert!(HookInput::parse(text.as_bytes(), None).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_odd_within_a_hook_costs_itself_and_not_the_hook() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(HookInput::parse(deep.as_bytes(), None).unwrap(), HookInput::empty());
        for name in ["structuredPatch", "tool_response", "x"] {
            let hook = HookInput::parse(format!("{{\"{name}\":{deep},\"session_id\":\"s\"}}").as_bytes(), None).unwrap();
            assert_eq!(hook.text("session_id"), Some("s"), "{name}");
        }
        let hook = HookInput::parse(b"{\"prompt\":\"a\xff\xfeb\",\"error\":\"cut \\ud83d\"}", None).unwrap();
        assert_eq!((hook.text("prompt"), hook.text("error")), (Some("a\u{fffd}\u{fffd}b"), Some("cut \u{fffd}")));
    }
}
