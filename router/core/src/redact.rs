//! Takes secrets out of event bodies at the door, before anything is stored, logged or shown.
//!
//! Two kinds of rules: *paths* (`payload.user_prompt`) name values of the body, *shapes* recognise secrets wherever they stand (tokens
//! of well-known services, private keys, passwords in URLs, values under keys such as `password`). What is found is replaced in place by
//! `[redacted:<kind>:<fingerprint>]`; every other byte stays as it came, so that JSON stays JSON and a signature over an untouched body
//! still holds.
//!
//! What does not happen here: keys of objects are never changed (a secret in a key is not seen), and nothing is recognised by its
//! randomness alone. Read [`Redactor`] first; `redact/json.rs` finds values and paths, `router-secrets` knows what secrets look
//! like.

mod json;
mod shapes;

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use router_secrets::is_marker;
use sha2::Sha256;

use self::{
    json::{PathRules, Visit},
    shapes::Shapes,
};
use crate::config::RedactConfig;

/// Replaces secrets in bodies.
///
/// # Fingerprints
///
/// The fingerprint is the first 12 hexadecimal digits of HMAC-SHA256 of the secret under the router's own key: the same secret
/// has the same fingerprint in every event, so that events can still be joined by it, and nobody without the key can test a
/// guess against it.
///
/// # Cost
///
/// Linear in the body (times the number of rules), whatever the body holds. A body without findings is handed back as it is, not
/// copied. An own pattern is as fast as its author makes it: one whose findings are short but decided far behind them
/// (`.*[0-9]|[a-z]`) searches the rest of a text once for each.
///
/// # Repeats
///
/// Markers are left alone, so that redacting twice changes nothing more: the hook and the router may both do it.
pub struct Redactor {
    paths: PathRules,
    shapes: Shapes,
    mac: Hmac<Sha256>,
}

/// A body after redaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The body; the very same bytes when nothing was found.
    pub body: Bytes,
    /// How many values, or parts of values, were replaced.
    pub count: u32,
}

/// One thing that is wrong with the redaction rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactProblem {
    /// The rule, as a dotted path below `redact`: `paths.2`, `patterns.0`.
    pub field: String,
    /// A lowercase sentence fragment.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl RedactProblem {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for RedactProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`redact.{}`: {}", self.field, self.message)
    }
}

impl std::error::Error for RedactProblem {}

/// The kind in the marker of a value that a path rule names.
const KIND_PATH: &str = "path";
/// The kind in the marker of a value whose key says that it is a secret.
const KIND_KEY: &str = "key";

impl Redactor {
    /// Rules of one kind that a configuration may have at most.
    pub const RULES_MAX: usize = 256;

    /// Makes ready the rules of `config`. `key` makes the fingerprints; keep it as secret and as long as the store.
    ///
    /// # Errors
    ///
    /// Every rule that is wrong: a path with an empty word or with `*` as a part of a word, a pattern that is no regular expression or
    /// fits the empty text, more rules than [`Redactor::RULES_MAX`].
    pub fn new(config: &RedactConfig, key: [u8; 32]) -> Result<Self, Vec<RedactProblem>> {
        let mut problems = Vec::new();
        let paths = PathRules::new(&config.paths, &mut problems);
        let shapes = Shapes::new(config.builtin, &config.patterns, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mac = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        Ok(Self { paths, shapes, mac })
    }

    /// Replaces what the rules find in `body`.
    ///
    /// What is no JSON, or from some byte on is none, is searched for shapes as text; path rules need JSON. A string that had escapes
    /// and is changed is written anew as a whole; `null` and empty texts at a path are left, since they tell nothing.
    #[must_use]
    pub fn redact(&self, body: &Bytes) -> Redacted {
        let mut edits = Edits { redactor: self, body, replaced: Vec::new(), count: 0 };
        let json_until = json::walk(body, &self.paths, &mut edits);
        edits.text(json_until..body.len());
        edits.apply()
    }

    /// Replaces secrets of known shapes in a text that is no event: the message of an error, the end of a command's output.
    #[must_use]
    pub fn redact_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.rewritten(text) {
            Some((text, _)) => Cow::Owned(text),
            None => Cow::Borrowed(text),
        }
    }

    /// `text` with its secrets replaced, and how many there were; `None` when there are none.
    fn rewritten(&self, text: &str) -> Option<(String, u32)> {
        let found = self.shapes.find(text);
        if found.is_empty() {
            return None;
        }
        let mut rewritten = String::with_capacity(text.len() + 48 * found.len());
        let mut kept_until = 0;
        for finding in &found {
            rewritten.push_str(&text[kept_until..finding.range.start]);
            rewritten.push_str(&self.marker(finding.kind, text[finding.range.clone()].as_bytes()));
            kept_until = finding.range.end;
        }
        rewritten.push_str(&text[kept_until..]);
        Some((rewritten, count_of(found.len())))
    }

    /// Needs no escaping in a JSON string.
    fn marker(&self, kind: &str, secret: &[u8]) -> String {
        let mut mac = self.mac.clone();
        mac.update(secret);
        let digest = mac.finalize().into_bytes();
        router_secrets::marker(kind, &digest)
    }
}

impl fmt::Debug for Redactor {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("paths", &self.paths).field("shapes", &self.shapes).finish_non_exhaustive()
    }
}

fn count_of(findings: usize) -> u32 {
    u32::try_from(findings).unwrap_or(u32::MAX)
}

/// What will be replaced in a body, in the order of the body and without overlaps.
struct Edits<'r> {
    redactor: &'r Redactor,
    body: &'r Bytes,
    replaced: Vec<(Range<usize>, String)>,
    count: u32,
}

impl Edits<'_> {
    fn replace(&mut self, range: Range<usize>, with: String, count: u32) {
        debug_assert!(self.replaced.last().is_none_or(|(last, _)| last.end <= range.start), "edits come in order");
        self.replaced.push((range, with));
        self.count = self.count.saturating_add(count);
    }

    /// Searches a range for shapes as it stands; bytes that are no UTF-8 stay and end a search.
    fn text(&mut self, range: Range<usize>) {
        let body = self.body;
        let mut at = range.start;
        for chunk in body[range].utf8_chunks() {
            self.plain(at, chunk.valid());
            at += chunk.valid().len() + chunk.invalid().len();
        }
    }

    /// Searches a text that stands in the body at `at`, byte for byte.
    fn plain(&mut self, at: usize, text: &str) {
        for finding in self.redactor.shapes.find(text) {
            let marker = self.redactor.marker(finding.kind, text[finding.range.clone()].as_bytes());
            self.replace(at + finding.range.start..at + finding.range.end, marker, 1);
        }
    }

    fn apply(self) -> Redacted {
        if self.replaced.is_empty() {
            return Redacted { body: self.body.clone(), count: 0 };
        }
        let grown: usize = self.replaced.iter().map(|(_, with)| with.len()).sum();
        let mut body = Vec::with_capacity(self.body.len() + grown);
        let mut kept_until = 0;
        for (range, with) in &self.replaced {
            body.extend_from_slice(&self.body[kept_until..range.start]);
            body.extend_from_slice(with.as_bytes());
            kept_until = range.end;
        }
        body.extend_from_slice(&self.body[kept_until..]);
        Redacted { body: body.into(), count: self.count }
    }
}

impl Visit for Edits<'_> {
    fn string(&mut self, content: Range<usize>, escaped: bool, at_path: bool, key: Option<&str>) {
        let body = self.body;
        let Ok(raw) = std::str::from_utf8(&body[content.clone()]) else {
            // No JSON parser takes it, so the event will be buried; the bytes must not carry a secret there either.
            if at_path {
                let marker = self.redactor.marker(KIND_PATH, &body[content.clone()]);
                self.replace(content, marker, 1);
            } else {
                self.text(content);
            }
            return;
        };
        let decoded = if escaped { Cow::Owned(json::unescaped(raw)) } else { Cow::Borrowed(raw) };
        let kind = match key {
            _ if at_path => Some(KIND_PATH),
            Some(key) if self.redactor.shapes.key_names_secret(key, &decoded) => Some(KIND_KEY),
            _ => None,
        };
        match kind {
            Some(_) if decoded.is_empty() || is_marker(&decoded) => {}
            Some(kind) => {
                let marker = self.redactor.marker(kind, decoded.as_bytes());
                self.replace(content, marker, 1);
            }
            None if !escaped => self.plain(content.start, raw),
            None => {
                if let Some((rewritten, count)) = self.redactor.rewritten(&decoded) {
                    let quoted = serde_json::Value::String(rewritten).to_string();
                    self.replace(content, quoted[1..quoted.len() - 1].to_owned(), count);
                }
            }
        }
    }

    fn whole(&mut self, value: Range<usize>) {
        let marker = self.redactor.marker(KIND_PATH, &self.body[value.clone()]);
        self.replace(value, format!("\"{marker}\""), 1);
    }
}

#[cfg(test)]
mod tests;
