//! The shapes, by hand. A test holds each against a pattern that says the same.

use std::ops::Range;

use crate::{
    Finding,
    hints::Hints,
    judging::{is_no_placeholder, is_user_and_password, looks_random},
};

pub(crate) const AWS: u32 = 1;
pub(crate) const GITHUB: u32 = 1 << 1;
pub(crate) const SLACK: u32 = 1 << 2;
pub(crate) const SLACK_HOOK: u32 = 1 << 3;
/// Anthropic's and OpenAI's.
pub(crate) const SK: u32 = 1 << 4;
pub(crate) const GOOGLE: u32 = 1 << 5;
pub(crate) const GITLAB: u32 = 1 << 6;
pub(crate) const NPM: u32 = 1 << 7;
pub(crate) const STRIPE: u32 = 1 << 8;
pub(crate) const JWT: u32 = 1 << 9;
pub(crate) const BEARER: u32 = 1 << 10;
pub(crate) const BASIC: u32 = 1 << 11;
pub(crate) const URL: u32 = 1 << 12;
pub(crate) const ASSIGNMENT: u32 = 1 << 13;
pub(crate) const PEM: u32 = 1 << 14;

/// Names whose value is a secret, each with where a `_` or `-` may stand.
const SECRET_NAMES: [(&str, &str); 8] =
    [("password", ""), ("passwd", ""), ("passphrase", ""), ("secret", ""), ("token", ""), ("api", "key"), ("access", "key"), ("private", "key")];

/// What stands at a place of a text that fits a shape: how long it is, and which part of it is the secret.
struct Fit {
    len: usize,
    secret: Range<usize>,
}

impl Fit {
    fn whole(len: usize) -> Option<Self> {
        Some(Self { len, secret: 0..len })
    }
}

/// Looks for the shapes that are hinted at.
pub(crate) fn look_for(hints: Hints, text: &str, found: &mut Vec<Finding>) {
    if hints == Hints::default() {
        return;
    }
    if hints.has(PEM) {
        find_private_keys(text, found);
    }
    for Token { hint, kind, starts, fit } in TOKENS {
        if hints.has(hint) {
            scan(text, kind, &|at| starts_one(at, starts), fit, found);
        }
    }
    if hints.has(JWT) {
        find_jwts(text, found);
    }
    if hints.has(BEARER) {
        find_bearers(text, found);
    }
    if hints.has(BASIC) {
        find_basics(text, found);
    }
    if hints.has(URL) {
        find_url_passwords(text, found);
    }
    if hints.has(ASSIGNMENT) {
        find_assignments(text, found);
    }
}

/// A token that stands by itself.
struct Token {
    hint: u32,
    kind: &'static str,
    /// It begins with one of these …
    starts: &'static [&'static str],
    /// … and goes on so, given the text before it too.
    fit: fn(&str, &str) -> Option<Fit>,
}

const TOKENS: [Token; 10] = [
    Token {
        hint: AWS,
        kind: "aws-key",
        starts: &["AKIA", "ASIA", "ABIA", "ACCA"],
        fit: |_, rest| Fit::whole(exactly(rest, 4, 16, |c| c.is_ascii_uppercase() || c.is_ascii_digit())?),
    },
    Token { hint: GITHUB, kind: "github-token", starts: &["gh", "github_pat_"], fit: |_, rest| github(rest) },
    Token { hint: SLACK, kind: "slack-token", starts: &["xox", "xapp-"], fit: |_, rest| slack(rest) },
    Token {
        hint: SLACK_HOOK,
        kind: "slack-webhook",
        starts: &[SLACK_HOOK_START],
        fit: |_, rest| {
            let len = at_least(rest, SLACK_HOOK_START.len(), 20, |c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-'))?;
            Some(Fit { len, secret: SLACK_HOOK_START.len()..len })
        },
    },
    Token { hint: SK, kind: "anthropic-key", starts: &["sk-ant-"], fit: |_, rest| Fit::whole(at_least(rest, 7, 16, worded)?) },
    Token { hint: SK, kind: "openai-key", starts: &["sk-"], fit: openai },
    Token {
        hint: GOOGLE,
        kind: "google-key",
        starts: &["AIza", "ya29."],
        fit: |_, rest| Fit::whole(if rest.starts_with("AIza") { exactly(rest, 4, 35, worded)? } else { at_least(rest, 5, 20, worded)? }),
    },
    Token { hint: GITLAB, kind: "gitlab-token", starts: &["glpat-"], fit: |_, rest| Fit::whole(at_least(rest, 6, 20, worded)?) },
    Token { hint: NPM, kind: "npm-token", starts: &["npm_"], fit: |_, rest| Fit::whole(exactly(rest, 4, 36, |c| c.is_ascii_alphanumeric())?) },
    Token {
        hint: STRIPE,
        kind: "stripe-key",
        starts: &["sk_live_", "sk_test_", "rk_live_", "rk_test_"],
        fit: |_, rest| Fit::whole(at_least(rest, 8, 16, |c| c.is_ascii_alphanumeric())?),
    },
];

fn github(rest: &str) -> Option<Fit> {
    let is_short = rest.as_bytes().get(2).is_some_and(|byte| b"pousr".contains(byte)) && rest.as_bytes().get(3) == Some(&b'_');
    let short = is_short.then(|| at_least(rest, 4, 20, |c| c.is_ascii_alphanumeric())).flatten();
    let long = || rest.starts_with("github_pat_").then(|| at_least(rest, 11, 22, |c| c.is_ascii_alphanumeric() || c == '_')).flatten();
    Fit::whole(short.or_else(long)?)
}

fn slack(rest: &str) -> Option<Fit> {
    let dashed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let bytes = rest.as_bytes();
    if rest.starts_with("xox") {
        let head = bytes.get(3).is_some_and(u8::is_ascii_lowercase) && bytes.get(4) == Some(&b'-');
        return Fit::whole(head.then(|| at_least(rest, 5, 10, dashed)).flatten()?);
    }
    let head = bytes.get(5).is_some_and(u8::is_ascii_digit) && bytes.get(6) == Some(&b'-');
    Fit::whole(head.then(|| at_least(rest, 7, 10, dashed)).flatten()?)
}

fn openai(before: &str, rest: &str) -> Option<Fit> {
    // Not in the middle of a word.
    if before.as_bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        return None;
    }
    for kind in ["proj-", "svcacct-", "admin-", "or-v1-"] {
        if rest[3..].starts_with(kind)
            && let Some(len) = at_least(rest, 3 + kind.len(), 20, worded)
        {
            return Fit::whole(len);
        }
    }
    Fit::whole(at_least(rest, 3, 32, |c| c.is_ascii_alphanumeric())?)
}

/// Three parts with dots between; where the first one ends is the same for every beginning within it, so that none is looked at twice.
fn find_jwts(text: &str, found: &mut Vec<Finding>) {
    let mut at = 0;
    while let Some(begin) = text[at..].find("eyJ").map(|offset| at + offset) {
        let head = run(text, begin + 3, worded);
        at = head;
        if head - begin < 3 + 8 || !text[head..].starts_with('.') {
            continue;
        }
        let mut end = run(text, head + 1, worded);
        if end - head < 1 + 8 {
            continue;
        }
        for _ in 0..3 {
            if !text[end..].starts_with('.') {
                break;
            }
            end = run(text, end + 1, worded);
        }
        found.push(Finding { range: begin..end, kind: "jwt" });
        at = end;
    }
}

fn find_bearers(text: &str, found: &mut Vec<Finding>) {
    let credential = |rest: &str, from| {
        let end = run(rest, from, |c| caseless_alphanumeric(c) || "._~+/=-".contains(c));
        let secret = &rest[from..end];
        let fits = secret.chars().count() >= 16;
        (fits.then_some(end), fits && looks_random(secret))
    };
    behind_a_word(text, "bearer", "bearer-token", credential, found);
}

fn find_basics(text: &str, found: &mut Vec<Finding>) {
    let credential = |rest: &str, from| {
        let mut end = run(rest, from, |c| caseless_alphanumeric(c) || "+/_-".contains(c));
        let fits = rest[from..end].chars().count() >= 8;
        end += rest[end..].bytes().take(2).take_while(|byte| *byte == b'=').count();
        (fits.then_some(end), fits && is_user_and_password(&rest[from..end]))
    };
    behind_a_word(text, "basic", "basic-auth", credential, found);
}

const SLACK_HOOK_START: &str = "hooks.slack.com/services/";

/// Letters, digits, `_` and `-`.
fn worded(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn starts_one(rest: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| rest.starts_with(start))
}

/// Where the run of fitting characters that begins at `from` ends.
fn run(rest: &str, from: usize, fits: impl Fn(char) -> bool) -> usize {
    rest[from..].find(|c| !fits(c)).map_or(rest.len(), |len| from + len)
}

fn at_least(rest: &str, from: usize, count: usize, fits: impl Fn(char) -> bool) -> Option<usize> {
    let end = run(rest, from, fits);
    (end - from >= count).then_some(end)
}

fn exactly(rest: &str, from: usize, count: usize, fits: impl Fn(char) -> bool) -> Option<usize> {
    let part = rest.get(from..from + count)?;
    part.chars().all(fits).then_some(from + count)
}

/// Looks for a shape at every place where it may begin, and goes on behind each that fits.
fn scan(text: &str, kind: &'static str, begins: &dyn Fn(&str) -> bool, fit: fn(&str, &str) -> Option<Fit>, found: &mut Vec<Finding>) {
    let mut at = 0;
    while at < text.len() {
        if !text.is_char_boundary(at) {
            at += 1;
            continue;
        }
        let rest = &text[at..];
        match begins(rest).then(|| fit(&text[..at], rest)).flatten() {
            Some(fit) => {
                found.push(Finding { range: at + fit.secret.start..at + fit.secret.end, kind });
                at += fit.len;
            }
            None => at += 1,
        }
    }
}

/// The letter that a search without regard to case takes a character for. Two characters beyond ASCII are such letters.
fn folded(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

fn caseless_alphanumeric(c: char) -> bool {
    folded(c).is_ascii_alphanumeric()
}

/// How many bytes of `rest` are `word`, whatever its case.
pub(crate) fn caseless(rest: &str, word: &str) -> Option<usize> {
    let mut characters = rest.char_indices();
    for wanted in word.chars() {
        let (_, c) = characters.next()?;
        if folded(c) != wanted {
            return None;
        }
    }
    Some(characters.next().map_or(rest.len(), |(at, _)| at))
}

/// Where up to eight spaces end; `None` when there are more, which no shape has.
fn spaces(rest: &str, from: usize, least: usize) -> Option<usize> {
    let end = run(rest, from, char::is_whitespace);
    let count = rest[from..end].chars().count();
    (least..=8).contains(&count).then_some(end)
}

/// A credential behind a word and spaces. `credential` says where one ends that begins at a place, and whether it is a secret.
fn behind_a_word(text: &str, word: &str, kind: &'static str, credential: impl Fn(&str, usize) -> (Option<usize>, bool), found: &mut Vec<Finding>) {
    let first = word.chars().next().unwrap_or_default();
    let mut at = 0;
    while let Some(offset) = text[at..].find(|c| folded(c) == first) {
        at += offset;
        let rest = &text[at..];
        let fit = caseless(rest, word).and_then(|end| spaces(rest, end, 1)).map(|from| (from, credential(rest, from)));
        match fit {
            Some((from, (Some(end), is_secret))) => {
                if is_secret {
                    found.push(Finding { range: at + from..at + end, kind });
                }
                at += end;
            }
            _ => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
}

fn find_url_passwords(text: &str, found: &mut Vec<Finding>) {
    let is_part = |c: char| !c.is_whitespace() && !"/?#\"'`<>".contains(c);
    let mut at = 0;
    while let Some(offset) = text[at..].find("://") {
        let user_at = at + offset + 3;
        at = user_at;
        let user_end = run(text, user_at, |c| is_part(c) && !matches!(c, ':' | '@'));
        if !text[user_end..].starts_with(':') {
            continue;
        }
        let from = user_end + 1;
        let end = run(text, from, is_part);
        // The last `@` is the one before the host.
        let Some(sign) = text[from..end].rfind('@').filter(|sign| *sign > 0) else { continue };
        let secret = from..from + sign;
        if is_no_placeholder(&text[secret.clone()], &text[secret.end..]) {
            found.push(Finding { range: secret.clone(), kind: "url-password" });
        }
        at = secret.end + 1;
    }
}

/// How many bytes of `rest` are one of the names of secrets.
pub(crate) fn secret_name(rest: &str) -> Option<usize> {
    SECRET_NAMES.iter().find_map(|(first, second)| {
        let end = caseless(rest, first)?;
        if second.is_empty() {
            return Some(end);
        }
        let from = end + usize::from(rest[end..].starts_with(['_', '-']));
        caseless(&rest[from..], second).map(|len| from + len)
    })
}

/// `name=value`, and then `name: "value"`, as two searches: what the first one takes does not end the second.
fn find_assignments(text: &str, found: &mut Vec<Finding>) {
    for value_of in [bare_value, quoted_value] {
        let mut at = 0;
        while let Some(offset) = text[at..].find(|c| matches!(folded(c), 'p' | 's' | 't' | 'a')) {
            at += offset;
            let rest = &text[at..];
            match secret_name(rest).and_then(|end| value_of(rest, end)) {
                Some(secret) => {
                    let (from, end) = (at + secret.start, at + secret.end);
                    if is_no_placeholder(&text[from..end], &text[end..]) {
                        found.push(Finding { range: from..end, kind: "assignment" });
                    }
                    at = end;
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
    }
}

fn bare_value(rest: &str, name_end: usize) -> Option<Range<usize>> {
    let from = rest[name_end..].starts_with('=').then_some(name_end + 1)?;
    let end = run(rest, from, |c| !c.is_whitespace() && !"\"'`&;,<>()[]{}|\\".contains(c));
    (rest[from..end].chars().count() >= 6).then_some(from..end)
}

fn quoted_value(rest: &str, name_end: usize) -> Option<Range<usize>> {
    // Up to seven backslashes and a quote, where JSON stands within JSON.
    let quote = |from: usize| {
        let end = run(rest, from, |c| c == '\\');
        (end - from <= 7 && rest[end..].starts_with(['"', '\''])).then_some(end + 1)
    };
    let at = spaces(rest, quote(name_end).unwrap_or(name_end), 0)?;
    let at = rest[at..].starts_with([':', '=']).then_some(at + 1)?;
    let from = quote(spaces(rest, at, 0)?)?;
    let end = run(rest, from, |c| !matches!(c, '"' | '\'' | '\r' | '\n' | '\\'));
    (rest[from..end].chars().count() >= 4).then_some(from..end)
}

/// PEM blocks of private keys. One that does not end is a cut one, and taken to the end of the text.
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
