//! What is left of a tool's input and output in an event: names and commands, cut where they are long; never the contents of files.

use serde_json::{Map, Value};

/// Bytes of a text that is passed on.
pub const TEXT_BYTES_MAX: usize = 2_000;

/// Bytes of what was said, where that is asked for.
pub const MESSAGE_BYTES_MAX: usize = 32_000;

/// Bytes of an output's beginning.
const PREVIEW_BYTES_MAX: usize = 500;

/// Values of an input that are passed on, and bytes of them.
const VALUES_MAX: usize = 200;
const INPUT_BYTES_MAX: usize = 32_000;

/// Members that hold the contents of files, in tools' inputs and outputs.
pub const CONTENTS: [&str; 12] = [
    "content",
    "file_text",
    "originalFile",
    "original_file",
    "updated_file",
    "old_string",
    "new_string",
    "oldString",
    "newString",
    "old_str",
    "new_source",
    "old_source",
];

/// The text, or its beginning and how long it was.
pub fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max);
    format!("{}… [{} bytes in all]", &text[..end], length_before_cuts(text))
}

/// How long a text was that may have been cut before.
fn length_before_cuts(text: &str) -> usize {
    let told = text.strip_suffix(" bytes in all]").and_then(|rest| rest.rsplit_once("… [")).and_then(|(_, count)| count.parse().ok());
    told.unwrap_or(text.len())
}

/// A tool's input without contents, an object in any case.
pub fn input(value: &Value) -> Value {
    match capped(value) {
        Value::Object(object) => Value::Object(object),
        _ => Value::Object(Map::new()),
    }
}

/// A value without contents and within the limits.
pub fn capped(value: &Value) -> Value {
    Budget { values: VALUES_MAX, bytes: INPUT_BYTES_MAX }.value(value)
}

/// The beginning of what a tool said; null for what is the content of a file.
pub fn preview(response: &Value) -> Option<String> {
    let text = match response {
        Value::String(text) => Some(text.as_str()),
        Value::Object(_) => {
            let said = ["stdout", "stderr"].iter().find_map(|name| response[*name].as_str().filter(|text| !text.is_empty()));
            said.or_else(|| response["filePath"].as_str()).or_else(|| response["message"].as_str())
        }
        _ => None,
    };
    text.map(|text| cut(text, PREVIEW_BYTES_MAX))
}

fn is_left_out(text: &str) -> bool {
    let count = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(" bytes]"));
    count.is_some_and(|count| !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()))
}

struct Budget {
    values: usize,
    bytes: usize,
}

impl Budget {
    fn value(&mut self, value: &Value) -> Value {
        if self.values == 0 || self.bytes == 0 {
            return Value::Null;
        }
        self.values -= 1;
        match value {
            Value::String(text) => {
                let cut = cut(text, TEXT_BYTES_MAX.min(self.bytes));
                self.bytes = self.bytes.saturating_sub(cut.len());
                Value::String(cut)
            }
            Value::Array(items) => {
                let mut kept = Vec::new();
                for item in items {
                    if self.values == 0 {
                        break;
                    }
                    kept.push(self.value(item));
                }
                Value::Array(kept)
            }
            Value::Object(object) => {
                let mut kept = Map::new();
                for (name, value) in object {
                    if self.values == 0 || name.len() > self.bytes {
                        break;
                    }
                    self.bytes -= name.len();
                    let value = match value {
                        // Reading the hook may have left them out already.
                        Value::String(text) if CONTENTS.contains(&name.as_str()) && !is_left_out(text) => Value::String(format!("[{} bytes]", text.len())),
                        value => self.value(value),
                    };
                    kept.insert(name.clone(), value);
                }
                Value::Object(kept)
            }
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn contents_of_files_are_left_out_and_names_stay() {
        let edit = json!({ "file_path": "/p/a.py", "old_string": "secret", "new_string": "geheim", "edits": [{ "old_string": "x", "new_string": "yy" }] });
        let expected = json!({
            "file_path": "/p/a.py", "old_string": "[6 bytes]", "new_string": "[6 bytes]", "edits": [{ "old_string": "[1 bytes]", "new_string": "[2 bytes]" }]
        });
        assert_eq!(input(&edit), expected);
        assert_eq!(input(&expected), expected, "what is left out is left out once");
        assert_eq!(input(&json!(["no", "object"])), json!({}));
    }

    #[test]
    fn a_text_that_is_cut_twice_tells_how_long_it_was() {
        let once = cut(&"x".repeat(50_000), MESSAGE_BYTES_MAX);
        assert!(cut(&once, TEXT_BYTES_MAX).ends_with("x… [50000 bytes in all]"));
    }

    #[test]
    fn whatever_comes_stays_small() {
        let wide: Vec<Value> = (0..100_000).map(|_| json!("x".repeat(100))).collect();
        let big = json!({ "a": "ä".repeat(100_000), "b": wide });
        assert!(serde_json::to_string(&input(&big)).unwrap().len() < 2 * INPUT_BYTES_MAX);
        assert!(input(&big)["a"].as_str().unwrap().ends_with("… [200000 bytes in all]"));
    }

    #[test]
    fn a_preview_is_what_was_said_and_never_a_file() {
        assert_eq!(preview(&json!({ "stdout": "", "stderr": "no such file" })).as_deref(), Some("no such file"));
        assert_eq!(preview(&json!({ "filePath": "/p/a.py", "content": "secret" })).as_deref(), Some("/p/a.py"));
        assert_eq!(preview(&json!({ "type": "text", "file": { "content": "secret" } })), None);
        assert_eq!(preview(&json!("x".repeat(1_000))).unwrap().len(), PREVIEW_BYTES_MAX + "… [1000 bytes in all]".len());
    }
}
