//! What secrets look like: tokens of well-known services, private keys, credentials in headers, URLs and assignments, and the
//! operator's own patterns.
//!
//! A shape must be recognisable by itself; guessing by randomness is left out on purpose, since commit hashes and ids would fall to
//! it. Each built-in pattern is searched on its own, begins with a literal and has no part that can run past its own end: so a search
//! that goes on after each finding stays linear.

use std::{fmt, ops::Range, sync::LazyLock};

use base64::{Engine, engine::general_purpose};
use regex::{Regex, RegexBuilder};

use super::{MARKER_START, RedactProblem, Redactor, is_marker};

/// A secret in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) range: Range<usize>,
    pub(super) kind: &'static str,
}

pub(super) struct Shapes {
    builtin: bool,
    own: Vec<Shape>,
}

struct Shape {
    kind: &'static str,
    regex: Regex,
    /// Is what was found a secret? Given the secret and what stands behind it.
    is_secret: fn(&str, &str) -> bool,
}

impl Shape {
    /// The part that is replaced: the group `secret` where there is one, else all of it.
    fn find(&self, text: &str, found: &mut Vec<Finding>) {
        let mut keep = |range: Range<usize>| {
            if (self.is_secret)(&text[range.clone()], &text[range.end..]) {
                found.push(Finding { range, kind: self.kind });
            }
        };
        if self.regex.captures_len() == 1 {
            self.regex.find_iter(text).for_each(|whole| keep(whole.range()));
        } else {
            for captures in self.regex.captures_iter(text) {
                if let Some(part) = captures.name("secret").or_else(|| captures.get(0)).filter(|part| !part.is_empty()) {
                    keep(part.range());
                }
            }
        }
    }
}

const SECRET_NAMES: &str = r"(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)";

/// One of these stands in every text that a built-in shape fits, so that most texts are done after one search.
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    builtin(&format!(
        r"(?:AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|xox|xapp-|hooks\.slack|sk-|AIza|ya29\.|glpat-|npm_|[sr]k_|eyJ|-----BEGIN|://|(?i:bearer|basic|{SECRET_NAMES}))"
    ))
});

static BUILTIN: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    fn always(_: &str, _: &str) -> bool {
        true
    }
    let shape = |kind, pattern: &str, is_secret| Shape { kind, regex: builtin(pattern), is_secret };
    vec![
        shape("aws-key", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}", always),
        shape("github-token", r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{22,}", always),
        shape("slack-token", r"xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}", always),
        shape("slack-webhook", r"hooks\.slack\.com/services/(?<secret>[A-Za-z0-9/_-]{20,})", always),
        shape("anthropic-key", r"sk-ant-[A-Za-z0-9_-]{16,}", always),
        shape("openai-key", r"(?-u:\b)sk-(?:(?:proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})", always),
        shape("google-key", r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}", always),
        shape("gitlab-token", r"glpat-[0-9A-Za-z_-]{20,}", always),
        shape("npm-token", r"npm_[A-Za-z0-9]{36}", always),
        shape("stripe-key", r"[sr]k_(?:live|test)_[0-9A-Za-z]{16,}", always),
        shape("jwt", r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,3}", always),
        shape("bearer-token", r"(?i)bearer\s{1,8}(?<secret>[A-Za-z0-9._~+/=-]{16,})", looks_random),
        shape("basic-auth", r"(?i)basic\s{1,8}(?<secret>[A-Za-z0-9+/_-]{8,}={0,2})", is_user_and_password),
        shape("url-password", r#"://[^\s/?#:@"'`<>]*:(?<secret>[^\s/?#"'`<>]+)@"#, is_no_placeholder),
        shape("assignment", &format!(r#"(?i){SECRET_NAMES}=(?<secret>[^\s"'`&;,<>()\[\]{{}}|\\]{{6,}})"#), is_no_placeholder),
        shape(
            "assignment",
            &format!(r#"(?i){SECRET_NAMES}(?:\\{{0,7}}["'])?\s{{0,8}}[:=]\s{{0,8}}\\{{0,7}}["'](?<secret>[^"'\r\n\\]{{4,}})"#),
            is_no_placeholder,
        ),
    ]
});

fn builtin(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the built-in patterns are compiled by a test")
}

impl Shapes {
    const PATTERN_BYTES_MAX: usize = 1_024;
    const PROGRAM_BYTES_MAX: usize = 1024 * 1024;

    pub(super) fn new(builtin: bool, patterns: &[String], problems: &mut Vec<RedactProblem>) -> Self {
        if patterns.len() > Redactor::RULES_MAX {
            problems.push(RedactProblem::new("patterns", format!("has {} patterns, {} are the limit", patterns.len(), Redactor::RULES_MAX)));
        }
        let mut own = Vec::new();
        for (number, pattern) in patterns.iter().take(Redactor::RULES_MAX).enumerate() {
            match Self::pattern(pattern) {
                Ok(regex) => own.push(Shape { kind: "pattern", regex, is_secret: |_, _| true }),
                Err(mut problem) => {
                    problem.field = format!("patterns.{number}");
                    problems.push(problem);
                }
            }
        }
        Self { builtin, own }
    }

    fn pattern(pattern: &str) -> Result<Regex, RedactProblem> {
        if pattern.len() > Self::PATTERN_BYTES_MAX {
            return Err(RedactProblem::new("", format!("is {} bytes long, {} are the limit", pattern.len(), Self::PATTERN_BYTES_MAX)));
        }
        let regex = RegexBuilder::new(pattern).size_limit(Self::PROGRAM_BYTES_MAX).build().map_err(|error| {
            let text = error.to_string();
            // The error draws the pattern over several lines; its last line is the sentence.
            let sentence = text.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.').to_owned();
            RedactProblem::new("", format!("`{pattern}` is no regular expression: {sentence}"))
                .help("look-around and back-references are left out on purpose: every search takes linear time")
        })?;
        if regex.is_match("") {
            return Err(
                RedactProblem::new("", format!("`{pattern}` fits the empty text, so it would fit everywhere")).help("use `+` or a minimum instead of `*`")
            );
        }
        Ok(regex)
    }

    /// All secrets of a text, in order, without overlaps.
    pub(super) fn find(&self, text: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.builtin && HINT.is_match(text) {
            find_private_keys(text, &mut found);
            BUILTIN.iter().for_each(|shape| shape.find(text, &mut found));
        }
        self.own.iter().for_each(|shape| shape.find(text, &mut found));
        if found.is_empty() {
            return found;
        }
        if text.contains(MARKER_START) {
            let markers = marker_ranges(text);
            // Both are few; a finding within a marker is what an earlier redaction left.
            found.retain(|finding| {
                let before = markers.partition_point(|marker| marker.start <= finding.range.start);
                before == 0 || markers[before - 1].end < finding.range.end
            });
        }
        united(found)
    }

    /// Does the key that a string value stands under say that the value is a secret?
    pub(super) fn key_names_secret(&self, key: &str, value: &str) -> bool {
        const SURELY: &[&str] = &["password", "passwd", "passphrase", "secret", "apikey", "secretkey", "accesskey", "privatekey", "authorization", "setcookie"];
        const KEY_BYTES_MAX: usize = 128;
        if !self.builtin || key.len() > KEY_BYTES_MAX {
            return false;
        }
        let plain: String = key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
        let is_long = value.len() >= 16 && !value.contains(char::is_whitespace);
        (SURELY.iter().any(|name| plain.ends_with(name)) || (plain.ends_with("token") && is_long)) && is_no_placeholder(value, "")
    }
}

impl fmt::Debug for Shapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shapes").field("builtin", &self.builtin).field("own", &self.own.iter().map(|shape| shape.regex.as_str()).collect::<Vec<_>>()).finish()
    }
}

/// Joins what overlaps: an operator's pattern may take in more than the built-in one did.
fn united(mut found: Vec<Finding>) -> Vec<Finding> {
    found.sort_by_key(|finding| (finding.range.start, finding.range.end));
    let mut united: Vec<Finding> = Vec::with_capacity(found.len());
    for finding in found {
        match united.last_mut() {
            Some(last) if finding.range.start < last.range.end => last.range.end = last.range.end.max(finding.range.end),
            _ => united.push(finding),
        }
    }
    united
}

fn marker_ranges(text: &str) -> Vec<Range<usize>> {
    const MARKER_BYTES_MAX: usize = 64;
    let of = |start: usize| {
        let window = &text.as_bytes()[start..text.len().min(start + MARKER_BYTES_MAX)];
        let end = start + window.iter().position(|byte| *byte == b']')? + 1;
        is_marker(&text[start..end]).then_some(start..end)
    };
    text.match_indices(MARKER_START).filter_map(|(start, _)| of(start)).collect()
}

/// PEM blocks of private keys, by hand: a pattern would look for the end of each beginning through the whole text. A block that does
/// not end is a cut one, and taken to the end of the text.
fn find_private_keys(text: &str, found: &mut Vec<Finding>) {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    const LABEL_BYTES_MAX: usize = 64;
    let mut at = 0;
    while let Some(begin) = text[at..].find(BEGIN).map(|offset| at + offset) {
        let label_at = begin + BEGIN.len();
        at = label_at;
        let window = &text.as_bytes()[label_at..text.len().min(label_at + LABEL_BYTES_MAX)];
        let Some(label_len) = window.windows(5).position(|dashes| dashes == b"-----") else { continue };
        if !text[label_at..label_at + label_len].contains("PRIVATE KEY") {
            continue;
        }
        let inside_at = label_at + label_len + 5;
        let end = match text[inside_at..].find(END).map(|offset| inside_at + offset + END.len()) {
            Some(end_label) => text[end_label..].find("-----").map_or(end_label, |offset| end_label + offset + 5),
            None => text.len(),
        };
        found.push(Finding { range: begin..end, kind: "private-key" });
        at = end;
    }
}

/// Not a reference, a sample or a word of code that stands where a secret would.
fn is_no_placeholder(value: &str, behind: &str) -> bool {
    const WORDS: &[&str] =
        &["string", "password", "passwd", "secret", "token", "true", "false", "null", "none", "undefined", "required", "optional", "redacted"];
    let mut characters = value.chars();
    let Some(first) = characters.next() else { return false };
    !matches!(first, '$' | '<' | '{' | '%')
        && !value.starts_with(MARKER_START)
        && !characters.all(|c| c == first)
        && !behind.starts_with('(')
        && !WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// `bearer authentication` is prose; tokens have a digit, or are very long.
fn looks_random(value: &str, _: &str) -> bool {
    value.len() >= 40 || value.bytes().any(|byte| byte.is_ascii_digit())
}

/// `basic authentication` is prose; a credential decodes to `user:password`.
fn is_user_and_password(value: &str, _: &str) -> bool {
    let value = value.trim_end_matches('=');
    // Without regard to case, two letters beyond ASCII are letters too.
    if !value.is_ascii() {
        return false;
    }
    // A cut credential may end within a group of four.
    let whole = &value[..value.len() - usize::from(value.len() % 4 == 1)];
    let decoded = general_purpose::STANDARD_NO_PAD.decode(whole).or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(whole));
    decoded.is_ok_and(|bytes| bytes.contains(&b':') && bytes.iter().all(|byte| !byte.is_ascii_control()))
}
