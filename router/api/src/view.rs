//! The normalised view: one set of field names for every dialect. Filters, templates, `order_by` and `dedup` address it.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::suggest;

/// A field of the normalised view: `tool_name`, `payload.tool_metadata.success`, `raw.agent_context.type`.
///
/// `payload` and `raw` take further words, `source` takes `host`, `type` or `app`. A word is the key of an object or, of digits
/// alone, the place in an array, counted from 0. A key that has a dot or a quotation mark in it stands in quotation marks, with
/// `\` before a `"` or `\` within: `payload."a.b"`. Two spellings of one path are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldPath {
    /// As written shortest.
    text: Arc<str>,
    name: FieldName,
    words: Arc<[Word]>,
}

/// What a path begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FieldName {
    Key,
    Id,
    Type,
    Source,
    SourceHost,
    SourceType,
    SourceApp,
    Time,
    Dialect,
    SessionId,
    ToolName,
    FilePath,
    WorkingDirectory,
    GitBranch,
    Payload,
    Raw,
}

/// A word behind `payload` or `raw`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Word {
    text: Box<str>,
    index: Option<usize>,
}

impl Word {
    fn new(text: &str) -> Self {
        // `007` is a key, no place.
        let index = (text == "0" || !text.starts_with('0')) && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        Self { text: text.into(), index: index.then(|| text.parse().ok()).flatten() }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The place in an array.
    pub(crate) fn index(&self) -> Option<usize> {
        self.index
    }
}

/// Why a text is no field of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPathError {
    /// A lowercase sentence fragment.
    pub message: String,
    /// The nearest field that there is.
    pub suggestion: Option<String>,
}

impl fmt::Display for FieldPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FieldPathError {}

impl FieldPath {
    /// The fields of the view that are no trees; `payload` and `raw` take further words.
    pub const NAMES: &'static [&'static str] =
        &["key", "id", "type", "source", "time", "dialect", "session_id", "tool_name", "file_path", "working_directory", "git_branch"];

    /// In bytes, as written.
    pub const BYTES_MAX: usize = 1024;

    /// Behind `payload` or `raw`; a body is not deeper.
    pub const WORDS_MAX: usize = 128;

    /// The text, in its shortest spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True for `payload…`, `raw…` and `source`: the value may be anything. The other fields are texts or absent.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        matches!(self.name, FieldName::Payload | FieldName::Raw | FieldName::Source)
    }

    /// The path one word further: `payload` and `a.b` make `payload."a.b"`.
    ///
    /// # Errors
    ///
    /// When this field has no such part, or the path becomes too long.
    pub fn join(&self, word: &str) -> Result<Self, FieldPathError> {
        format!("{}.{}", self.text, spelled(word)).parse()
    }

    pub(crate) fn name(&self) -> FieldName {
        self.name
    }

    pub(crate) fn words(&self) -> &[Word] {
        &self.words
    }
}

/// Names that other systems, or the raw events, have for fields of the view.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("event_type", "type"),
    ("event_id", "id"),
    ("timestamp", "time"),
    ("ts", "time"),
    ("routing_key", "key"),
    ("session", "session_id"),
    ("tool", "tool_name"),
    ("file", "file_path"),
    ("path", "file_path"),
    ("notebook_path", "file_path"),
    ("cwd", "working_directory"),
    ("directory", "working_directory"),
    ("branch", "git_branch"),
    ("host", "source.host"),
    ("app", "source.app"),
    ("data", "payload"),
    ("body", "raw"),
    ("event", "raw"),
];

impl FromStr for FieldPath {
    type Err = FieldPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |message: String| FieldPathError { message, suggestion: None };
        if text.len() > Self::BYTES_MAX {
            return Err(refuse(format!("a field of {} bytes, {} are the limit", text.len(), Self::BYTES_MAX)));
        }
        let words = split(text).map_err(refuse)?;
        let rest = &words[1..];
        if rest.len() > Self::WORDS_MAX {
            return Err(refuse(format!("a field of {} words, {} are the limit", words.len(), Self::WORDS_MAX)));
        }
        let name = match words[0].as_ref() {
            "key" => FieldName::Key,
            "id" => FieldName::Id,
            "type" => FieldName::Type,
            "time" => FieldName::Time,
            "dialect" => FieldName::Dialect,
            "session_id" => FieldName::SessionId,
            "tool_name" => FieldName::ToolName,
            "file_path" => FieldName::FilePath,
            "working_directory" => FieldName::WorkingDirectory,
            "git_branch" => FieldName::GitBranch,
            "payload" => FieldName::Payload,
            "raw" => FieldName::Raw,
            "source" => match rest {
                [] => FieldName::Source,
                [part] => match part.as_ref() {
                    "host" => FieldName::SourceHost,
                    "type" => FieldName::SourceType,
                    "app" => FieldName::SourceApp,
                    other => {
                        let parts = ["host", "type", "app"];
                        return Err(FieldPathError {
                            message: format!("`source` has no `{other}`: it has `host`, `type` and `app`; what else is there is under `raw.source`"),
                            suggestion: suggest(other, &parts).map(|part| format!("source.{part}")),
                        });
                    }
                },
                _ => return Err(refuse(format!("`{text}` goes too deep: `source` has `host`, `type` and `app`, what else is there is under `raw.source`"))),
            },
            other => {
                let known = OTHER_NAMES.iter().find(|(name, _)| *name == other).map(|(_, field)| *field);
                let near = known.or_else(|| suggest(other, Self::NAMES.iter().chain(&["payload", "raw"])));
                let tail: String =
                    if matches!(near, Some("payload" | "raw")) { rest.iter().map(|word| format!(".{}", spelled(word))).collect() } else { String::new() };
                return Err(FieldPathError {
                    message: format!("`{other}` is no field: there are `{}`, and `payload.…` and `raw.…` for the rest", Self::NAMES.join("`, `")),
                    suggestion: near.map(|near| format!("{near}{tail}")),
                });
            }
        };
        let further = if matches!(name, FieldName::Payload | FieldName::Raw) { rest } else { &[] };
        if further.is_empty() && !rest.is_empty() && !matches!(name, FieldName::SourceHost | FieldName::SourceType | FieldName::SourceApp) {
            return Err(refuse(format!("`{text}` goes too deep: `{}` is a text", words[0])));
        }
        let spelling = words.iter().map(|word| spelled(word)).collect::<Vec<_>>().join(".");
        Ok(Self { text: spelling.into(), name, words: further.iter().map(|word| Word::new(word)).collect() })
    }
}

/// The words of a path; at least one.
fn split(text: &str) -> Result<Vec<Cow<'_, str>>, String> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        let word;
        (word, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted).ok_or_else(|| format!("`{text}` has a quotation mark that is not closed"))?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        let quoted = matches!(word, Cow::Owned(_));
        if word.is_empty() && !quoted {
            return Err(if text.is_empty() { "an empty text is no field".to_owned() } else { format!("`{text}` has an empty word") });
        }
        if !quoted && word.contains('"') {
            return Err(format!("`{text}` has a quotation mark within a word: put the whole word in quotation marks"));
        }
        words.push(word);
        match rest.strip_prefix('.') {
            Some(further) => rest = further,
            None if rest.is_empty() => return Ok(words),
            None => return Err(format!("`{text}` lacks a dot behind a quotation mark")),
        }
    }
}

/// The word up to the closing mark, and what is behind it.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut word = String::new();
    let mut letters = text.char_indices();
    loop {
        match letters.next()? {
            (at, '"') => return Some((Cow::Owned(word), &text[at + 1..])),
            (_, '\\') => word.push(letters.next()?.1),
            (_, letter) => word.push(letter),
        }
    }
}

/// A word as a path shows it: in quotation marks only where it needs them.
fn spelled(word: &str) -> Cow<'_, str> {
    if word.is_empty() || word.contains(['.', '"', '\\']) {
        Cow::Owned(format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")))
    } else {
        Cow::Borrowed(word)
    }
}

impl TryFrom<String> for FieldPath {
    type Error = FieldPathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.text.as_ref().to_owned()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The value of a field: a text of the view, or a value of the body.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A value.
    Value(&'a Value),
}

impl Field<'_> {
    /// The text, if it is one. An empty text and null count as absent nowhere but in `nonempty`.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Value(value) => value.as_str(),
        }
    }

    /// The field as a JSON value.
    #[must_use]
    pub fn to_value(&self) -> Cow<'_, Value> {
        match self {
            Self::Text(text) => Cow::Owned(Value::from(text.as_ref())),
            Self::Value(value) => Cow::Borrowed(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (String, Option<String>) {
        let error = text.parse::<FieldPath>().unwrap_err();
        (error.message, error.suggestion)
    }

    #[test]
    fn every_name_parses_and_prints_as_written() {
        for text in
            FieldPath::NAMES.iter().chain(&["payload", "raw", "payload.a.b", "raw.items.0.name", "source.host", "source.type", "source.app", "payload.my key"])
        {
            assert_eq!(text.parse::<FieldPath>().unwrap().as_str(), *text);
        }
    }

    #[test]
    fn quoted_words_hold_dots_and_marks() {
        let path: FieldPath = r#"payload."a.b".c"#.parse().unwrap();
        assert_eq!(path.words().iter().map(Word::text).collect::<Vec<_>>(), ["a.b", "c"]);
        let path: FieldPath = r#"payload."say \"hi\" \\"."#.trim_end_matches('.').parse().unwrap();
        assert_eq!(path.words()[0].text(), r#"say "hi" \"#);
        assert_eq!(path, path.as_str().parse().unwrap());
        assert_eq!(r#"payload."plain""#.parse::<FieldPath>().unwrap(), "payload.plain".parse().unwrap());
        assert_eq!(r#"payload."""#.parse::<FieldPath>().unwrap().words()[0].text(), "");
    }

    #[test]
    fn joining_quotes_what_needs_it() {
        let payload: FieldPath = "payload".parse().unwrap();
        assert_eq!(payload.join("a.b").unwrap().as_str(), r#"payload."a.b""#);
        assert_eq!(payload.join("a").unwrap().join("0").unwrap().as_str(), "payload.a.0");
        assert!("tool_name".parse::<FieldPath>().unwrap().join("x").is_err());
    }

    #[test]
    fn wrong_names_are_refused_with_the_nearest_right_one() {
        for (wrong, right) in [
            ("tool_nam", "tool_name"),
            ("toolname", "tool_name"),
            ("Session-Id", "session_id"),
            ("event_type", "type"),
            ("routing_key", "key"),
            ("data.success", "payload.success"),
            ("paylod.a.b", "payload.a.b"),
            ("source.hots", "source.host"),
        ] {
            assert_eq!(refused(wrong).1.as_deref(), Some(right), "{wrong}");
        }
        assert_eq!(refused("frobnicate").1, None);
        assert!(refused("frobnicate").0.contains("`payload.…`"));
        assert_eq!("tool_nam".parse::<FieldPath>().unwrap_err().to_string().rsplit("; ").next(), Some("did you mean `tool_name`?"));
    }

    #[test]
    fn broken_paths_are_refused_and_say_how() {
        for (text, part) in [
            ("", "empty text"),
            (".", "empty word"),
            ("payload.", "empty word"),
            ("payload..a", "empty word"),
            ("payload.\"a", "not closed"),
            ("payload.\"a\"b", "lacks a dot"),
            ("payload.a\"b", "within a word"),
            ("tool_name.x", "goes too deep"),
            ("source.host.x", "goes too deep"),
            ("source.meta", "has no `meta`"),
        ] {
            assert!(refused(text).0.contains(part), "{text}: {}", refused(text).0);
        }
        assert!(refused(&format!("payload.{}", "a".repeat(2000))).0.contains("are the limit"));
        assert!(refused(&format!("payload{}", ".a".repeat(200))).0.contains("are the limit"));
    }

    #[test]
    fn digits_are_a_place_in_an_array() {
        let index = |text: &str| Word::new(text).index();
        assert_eq!(
            (index("0"), index("12"), index("007"), index("a1"), index(""), index("99999999999999999999999")),
            (Some(0), Some(12), None, None, None, None)
        );
    }
}
