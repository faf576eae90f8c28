//! How findings are put into words.

use serde_json::Value;

pub(super) fn with_article(name: &str) -> String {
    match name {
        "integer" => "an integer".to_owned(),
        "array" => "an array".to_owned(),
        "object" => "a table".to_owned(),
        other => format!("a {other}"),
    }
}

pub(super) fn one_of(choices: &[&str]) -> String {
    match choices {
        [one] => ticked(one),
        many => format!("one of {}", join(&many.iter().map(|choice| ticked(choice)).collect::<Vec<_>>(), ", ")),
    }
}

pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

pub(super) fn join(parts: &[String], between: &str) -> String {
    parts.join(between)
}

/// In backticks, shortened: a value may be long.
pub(in crate::config) fn ticked(text: &str) -> String {
    format!("`{}`", shortened(text))
}

pub(super) fn quoted(text: &str) -> String {
    // As JSON writes it, which TOML reads.
    Value::String(shortened(text)).to_string()
}

pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    if text.chars().count() <= CHARS_MAX { text.to_owned() } else { text.chars().take(CHARS_MAX).chain(['…']).collect() }
}
