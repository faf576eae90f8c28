//! The body of an event for people: indented, escaped, and not without end.

use serde_json::Value;

use crate::terminal::shortened;

/// Lines that are shown.
const LINES_MAX: usize = 200;

/// Indented lines of a body, and how many more there are.
pub(crate) fn lines(body: &[u8]) -> (Vec<String>, usize) {
    let text = match serde_json::from_slice::<Value>(body).and_then(|value| serde_json::to_string_pretty(&value)) {
        Ok(pretty) => pretty,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let shown: Vec<String> = text.lines().take(LINES_MAX).map(|line| format!("  {}", shortened(line, 400)).trim_end().to_owned()).collect();
    let more = text.lines().count() - shown.len();
    (shown, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_indented_escaped_and_cut() {
        assert_eq!(lines(br#"{"a":"\u001b[2J"}"#), (vec!["  {".to_owned(), "    \"a\": \"\\u001b[2J\"".to_owned(), "  }".to_owned()], 0));
        assert_eq!(lines(b"no \x1b json").0, ["  no \\u{1b} json"]);
        let long = serde_json::to_vec(&(0..1_000).collect::<Vec<_>>()).unwrap();
        let (shown, more) = lines(&long);
        assert_eq!((shown.len(), more), (200, 802));
    }
}
