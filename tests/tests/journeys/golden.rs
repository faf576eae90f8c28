//! Answers for programs are promises: they are compared with the files of `tests/golden`, with everything taken out that differs
//! from run to run.
//!
//! `EVENT_ROUTER_UPDATE_GOLDEN=1` writes the files anew. A field that is new is fine; one that is gone or renamed breaks somebody.

use std::{collections::HashMap, fs};

use router_tests::{Home, workspace};
use serde_json::Value;

/// Compares an answer with `tests/golden/NAME.json`.
///
/// # Panics
///
/// When they differ.
pub fn golden(home: &Home, name: &str, answer: &Value) {
    let mut answer = answer.clone();
    Steady { home: home.path().display().to_string(), seen: HashMap::new() }.value("", &mut answer);
    let text = serde_json::to_string_pretty(&answer).expect("JSON can be written") + "\n";
    let path = workspace().join("tests/golden").join(format!("{name}.json"));
    if std::env::var_os("EVENT_ROUTER_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).expect("the golden file can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected != text {
        let line = expected.lines().zip(text.lines()).position(|(expected, actual)| expected != actual);
        let line = line.unwrap_or_else(|| expected.lines().count().min(text.lines().count())) + 1;
        panic!("`tests/golden/{name}.json` differs from line {line} on; if that is meant, run with EVENT_ROUTER_UPDATE_GOLDEN=1\nthe answer is now:\n{text}");
    }
}

/// Replaces what differs from run to run; the same value by the same name within one answer.
struct Steady {
    home: String,
    seen: HashMap<String, String>,
}

/// Durations, which depend on the machine.
const MEASURED: &[&str] = &["elapsed_ms", "duration_ms", "window_s", "handled_per_minute", "failed_per_minute"];

impl Steady {
    fn value(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(key, item)),
            Value::Object(fields) => fields.iter_mut().for_each(|(key, item)| self.value(key, item)),
            Value::Number(_) if MEASURED.contains(&key) => *value = "<measured>".into(),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        let text = text.replace(&self.home, "<home>").replace(&workspace().display().to_string(), "<workspace>");
        let mut steady = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let before = steady.chars().next_back();
            let whole = !before.is_some_and(|before| before.is_ascii_alphanumeric());
            let found = if whole { KINDS.iter().find_map(|(kind, length)| Some((*kind, length(rest)?))) } else { None };
            if let Some((kind, length)) = found {
                let count = self.seen.values().filter(|name| name.starts_with(&format!("<{kind}"))).count() + 1;
                // Times are not numbered: two of them may or may not be the same.
                let name = if kind == "time" {
                    "<time>".to_owned()
                } else {
                    self.seen.entry(rest[..length].to_owned()).or_insert(format!("<{kind}-{count}>")).clone()
                };
                steady.push_str(&name);
                rest = &rest[length..];
            } else {
                steady.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        steady
    }
}

/// Tells how long the value at the beginning of a text is, if it is one of its kind.
type Kind = (&'static str, fn(&str) -> Option<usize>);

const KINDS: &[Kind] = &[("uuid", uuid), ("time", time), ("hash", hash)];

/// Ids of events that tests give themselves have a fixed beginning and stay.
fn uuid(text: &str) -> Option<usize> {
    let fits = |(at, byte): (usize, u8)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    let is = text.len() >= 36 && text.bytes().take(36).enumerate().all(fits);
    (is && !text.starts_with("0b8f1c52-") && !text.starts_with("5f0c2f0e-")).then_some(36)
}

/// `2026-03-02T09:14:06.900Z`, but not the times of recorded events.
fn time(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let fits = |(at, byte): (usize, &u8)| match at {
        4 | 7 => *byte == b'-',
        10 => *byte == b'T',
        13 | 16 => *byte == b':',
        _ => byte.is_ascii_digit(),
    };
    if bytes.len() < 20 || !bytes[..19].iter().enumerate().all(fits) || text.starts_with("2026-03-02T") {
        return None;
    }
    let fraction = bytes[19..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    (bytes.get(19 + fraction) == Some(&b'Z')).then_some(20 + fraction)
}

fn hash(text: &str) -> Option<usize> {
    let length = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    (length == 64).then_some(length)
}

#[test]
fn what_differs_from_run_to_run_is_replaced_and_the_rest_stays() {
    let mut steady = Steady { home: "/tmp/x".to_owned(), seen: HashMap::new() };
    let text = "at 2027-01-02T03:04:05.123456Z in /tmp/x/state, 11111111-2222-3333-4444-555555555555 and again 11111111-2222-3333-4444-555555555555";
    assert_eq!(steady.text(text), "at <time> in <home>/state, <uuid-1> and again <uuid-1>");
    let mut answer = serde_json::json!({ "elapsed_ms": 3, "attempts": 3, "id": "0b8f1c52-5c1e-4a55-9e0a-000000000001" });
    steady.value("", &mut answer);
    assert_eq!(answer, serde_json::json!({ "elapsed_ms": "<measured>", "attempts": 3, "id": "0b8f1c52-5c1e-4a55-9e0a-000000000001" }));
}
