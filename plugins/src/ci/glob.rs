//! Patterns of paths: `*.py`, `src/**/*.py`. Matching takes time in proportion to the pattern and the path, whatever they are.

use serde::{Deserialize, Serialize};

/// A pattern: `*` is any text without `/`, `?` one character but `/`, `**` any text, and `**/` any directories or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `*`
    Name,
    /// `**`
    Any,
    /// `**/`
    Directories,
    /// `?`
    One,
    Letter(char),
}

/// In bytes. A longer path is none that a system has.
const PATH_BYTES_MAX: usize = 4_096;
/// In bytes.
const PATTERN_BYTES_MAX: usize = 256;

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern of {} bytes, 1 to {PATTERN_BYTES_MAX} are possible", text.len()));
        }
        if let Some(odd) = text.chars().find(|c| c.is_control() || matches!(c, '[' | ']' | '{' | '}' | '\\')) {
            return Err(format!("`{}` has {odd:?} in it; a pattern knows `*`, `**` and `?`", text.escape_debug()));
        }
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some(letter) = rest.chars().next() {
            let (part, length) = match letter {
                '*' if rest.starts_with("**/") => (Part::Directories, 3),
                '*' if rest.starts_with("**") => (Part::Any, 2),
                '*' => (Part::Name, 1),
                '?' => (Part::One, 1),
                letter => (Part::Letter(letter), letter.len_utf8()),
            };
            parts.push(part);
            rest = &rest[length..];
        }
        Ok(Self { text, parts })
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.text
    }
}

impl Glob {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// A pattern without `/` is for the file's name, one with it for the path as it is given.
    pub(super) fn matches(&self, path: &str) -> bool {
        if path.len() > PATH_BYTES_MAX {
            return false;
        }
        let path = if self.text.contains('/') { path } else { path.rsplit('/').next().unwrap_or(path) };
        let mut places = vec![false; self.parts.len() + 1];
        self.enter(&mut places, 0);
        for letter in path.chars() {
            let mut next = vec![false; places.len()];
            for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| places[*at]) {
                match part {
                    Part::Name if letter != '/' => self.enter(&mut next, at),
                    Part::Any => self.enter(&mut next, at),
                    Part::Directories => {
                        // It ends behind a `/` only.
                        next[at] = true;
                        if letter == '/' {
                            self.enter(&mut next, at + 1);
                        }
                    }
                    Part::One if letter != '/' => self.enter(&mut next, at + 1),
                    Part::Letter(wanted) if *wanted == letter => self.enter(&mut next, at + 1),
                    _ => {}
                }
            }
            places = next;
        }
        places[self.parts.len()]
    }

    /// At this place, and at those behind it that need nothing.
    fn enter(&self, places: &mut [bool], at: usize) {
        for (at, place) in places.iter_mut().enumerate().skip(at) {
            *place = true;
            if !matches!(self.parts.get(at), Some(Part::Name | Part::Any | Part::Directories)) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_paths() {
        for (pattern, path, expected) in [
            ("*.py", "/srv/app/a.py", true),
            ("*.py", "a.py", true),
            ("*.py", ".py", true),
            ("*.py", "/srv/app/a.pyc", false),
            ("*.py", "/srv/a.py/x", false),
            ("test_?.py", "x/test_a.py", true),
            ("test_?.py", "x/test_ab.py", false),
            ("src/*.py", "src/a.py", true),
            ("src/*.py", "src/b/a.py", false),
            ("src/**/*.py", "src/a.py", true),
            ("src/**/*.py", "src/b/c/a.py", true),
            ("src/**/*.py", "srcs/a.py", false),
            ("**/test/*", "test/x", true),
            ("**/test/*", "latest/x", false),
            ("**/test/*", "a/b/test/x", true),
            ("docs/**", "docs/a/b", true),
            ("*", "", true),
        ] {
            assert_eq!(Glob::try_from(pattern.to_owned()).unwrap().matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_looks_like_another_language_of_patterns_is_refused() {
        for pattern in ["", "[a-z].py", "*.{py,rs}", "a\\b", "a\nb", &"*".repeat(300)] {
            assert!(Glob::try_from(pattern.to_owned()).is_err(), "{pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let glob = Glob::try_from("*a".repeat(100)).unwrap();
        assert!(!glob.matches(&"a".repeat(4_000).replace("aa", "ab")) || glob.matches(&"a".repeat(4_000)));
        assert!(!glob.matches(&"b".repeat(1 << 20)));
    }
}
