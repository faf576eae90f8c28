//! Values of events as people are shown them: as JSON, shortened, and with nothing in them that a terminal would obey.

use std::{fmt::Write as _, io};

use serde_json::Value;

/// So many characters are shown.
const CHARS_MAX: usize = 120;

/// A text in quotation marks.
pub(crate) fn text(text: &str) -> String {
    let mut shown = String::from("\"");
    let mut letters = text.chars();
    for letter in letters.by_ref().take(CHARS_MAX) {
        match letter {
            '"' | '\\' => shown.extend(['\\', letter]),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            letter => push(&mut shown, letter),
        }
    }
    shown.push('"');
    let rest = letters.as_str();
    if !rest.is_empty() {
        // Bytes, since counting the letters of a long text would cost its length.
        let _ = write!(shown, "… ({} bytes more)", rest.len());
    }
    shown
}

/// Any JSON value.
pub(crate) fn value(value: &Value) -> String {
    if let Value::String(string) = value {
        return text(string);
    }
    let mut start = Start(Vec::new());
    let whole = serde_json::to_writer(&mut start, value).is_ok();
    // The cut may have gone through a letter.
    let written = String::from_utf8_lossy(&start.0);
    let cut = !whole || written.chars().nth(CHARS_MAX).is_some();
    let mut shown = String::new();
    for letter in written.chars().take(CHARS_MAX).filter(|letter| *letter != char::REPLACEMENT_CHARACTER) {
        push(&mut shown, letter);
    }
    if cut {
        shown.push('…');
    }
    shown
}

/// A text without quotation marks, such as a routing key.
pub(crate) fn plain(text: &str) -> String {
    let mut shown = String::new();
    let mut letters = text.chars();
    for letter in letters.by_ref().take(2 * CHARS_MAX) {
        push(&mut shown, letter);
    }
    if !letters.as_str().is_empty() {
        shown.push('…');
    }
    shown
}

fn push(shown: &mut String, letter: char) {
    // Beside the control characters those that turn the direction of writing or hide: what is shown must be what is there.
    let hidden = matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    if letter.is_control() || hidden {
        let _ = write!(shown, "\\u{{{:x}}}", u32::from(letter));
    } else {
        shown.push(letter);
    }
}

/// Takes the first bytes and then refuses, so that a large value is not written out whole.
struct Start(Vec<u8>);

impl io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (4 * CHARS_MAX + 4).saturating_sub(self.0.len());
        if room == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let taken = bytes.len().min(room);
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn short_values_are_shown_as_json() {
        assert_eq!(value(&json!({"a": [1, true, null, "x\"y"]})), r#"{"a":[1,true,null,"x\"y"]}"#);
        assert_eq!(value(&json!("say \"hi\"\\\n")), r#""say \"hi\"\\\n""#);
        assert_eq!(value(&json!(5.5)), "5.5");
    }

    #[test]
    fn long_values_are_cut_and_say_so() {
        assert_eq!(text(&"ä".repeat(121)), format!("\"{}\"… (2 bytes more)", "ä".repeat(120)));
        assert_eq!(text(&"a".repeat(120)), format!("\"{}\"", "a".repeat(120)));
        let shown = value(&json!(vec!["🦀"; 100_000]));
        assert!(shown.chars().count() <= 121 && shown.ends_with('…'), "{shown}");
    }

    #[test]
    fn nothing_shown_moves_a_terminal() {
        for hostile in ["\u{1b}[2J", "\u{9b}31m", "a\rb", "\u{202e}gpj.exe", "\u{7f}", "\u{0}", "\u{2028}", "\u{feff}"] {
            for shown in [text(hostile), value(&json!({ hostile: hostile })), plain(hostile)] {
                assert!(shown.chars().all(|letter| !letter.is_control() && letter != '\u{202e}' && letter != '\u{2028}' && letter != '\u{feff}'), "{shown}");
            }
        }
        assert_eq!(text("\u{1b}[2J"), r#""\u{1b}[2J""#);
    }
}
