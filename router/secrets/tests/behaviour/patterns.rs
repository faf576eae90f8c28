//! The shapes as patterns: what `router-secrets` does by hand, said a second time and otherwise, so that one may be held against the other.
//! Part of the tests of that crate and of the fuzz target `redaction`; no program contains it.

use std::{ops::Range, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose};
use regex::Regex;

struct Shape {
    kind: &'static str,
    regex: Regex,
    /// Is what was found a secret? Given the secret and what stands behind it.
    is_secret: fn(&str, &str) -> bool,
}

impl Shape {
    fn find(&self, text: &str, found: &mut Vec<(Range<usize>, &'static str)>) {
        for captures in self.regex.captures_iter(text) {
            if let Some(part) = captures.name("secret").or_else(|| captures.get(0)).filter(|part| !part.is_empty())
                && (self.is_secret)(part.as_str(), &text[part.end()..])
            {
                found.push((part.range(), self.kind));
            }
        }
    }
}

const SECRET_NAMES: &str = r"(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)";

static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    fn always(_: &str, _: &str) -> bool {
        true
    }
    let shape = |kind, pattern: &str, is_secret| Shape { kind, regex: Regex::new(pattern).expect("a pattern of this file"), is_secret };
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

/// All that fit a shape, but for private keys, which no pattern finds in linear time: by place and kind, in order.
pub fn found(text: &str) -> Vec<(Range<usize>, &'static str)> {
    let mut found = Vec::new();
    SHAPES.iter().for_each(|shape| shape.find(text, &mut found));
    found.sort_by_key(|(range, kind)| (range.start, range.end, *kind));
    found
}

/// Not a reference, a sample or a word of code that stands where a secret would.
fn is_no_placeholder(value: &str, behind: &str) -> bool {
    const WORDS: &[&str] =
        &["string", "password", "passwd", "secret", "token", "true", "false", "null", "none", "undefined", "required", "optional", "redacted"];
    let mut characters = value.chars();
    let Some(first) = characters.next() else { return false };
    !matches!(first, '$' | '<' | '{' | '%')
        && !value.starts_with("[redacted:")
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
