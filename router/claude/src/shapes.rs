//! What secrets look like, recognised by hand: the hook has no regular expressions, and finds what the router's own redaction finds.
//!
//! Each shape here stands for a pattern of `router/core/src/redact/shapes.rs`, in the same order and with the same bounds; a test holds
//! both against each other on planted and on arbitrary texts. Every search is linear in the text.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose};

/// A secret in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) range: Range<usize>,
    pub(crate) kind: &'static str,
}

pub(crate) const MARKER_START: &str = "[redacted:";
pub(crate) const FINGERPRINT_LEN: usize = 12;

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

/// All secrets of a text, in order, without overlaps.
pub(crate) fn find(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    find_private_keys(text, &mut found);
    let mut each = |kind, starts: &[&str], fit: fn(&str) -> Option<Fit>| scan(text, kind, &|at| starts_one(at, starts), fit, |_, _| true, &mut found);
    each("aws-key", &["AKIA", "ASIA", "ABIA", "ACCA"], |rest| Fit::whole(exactly(rest, 4, 16, |c| c.is_ascii_uppercase() || c.is_ascii_digit())?));
    each("github-token", &["gh", "github_pat_"], |rest| {
        let is_short = rest.as_bytes().get(2).is_some_and(|byte| b"pousr".contains(byte)) && rest.as_bytes().get(3) == Some(&b'_');
        let short = is_short.then(|| at_least(rest, 4, 20, |c| c.is_ascii_alphanumeric())).flatten();
        let long = || rest.starts_with("github_pat_").then(|| at_least(rest, 11, 22, |c| c.is_ascii_alphanumeric() || c == '_')).flatten();
        Fit::whole(short.or_else(long)?)
    });
    each("slack-token", &["xox", "xapp-"], |rest| {
        let dashed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let bytes = rest.as_bytes();
        if rest.starts_with("xox") {
            let head = bytes.get(3).is_some_and(u8::is_ascii_lowercase) && bytes.get(4) == Some(&b'-');
            return Fit::whole(head.then(|| at_least(rest, 5, 10, dashed)).flatten()?);
        }
        let head = bytes.get(5).is_some_and(u8::is_ascii_digit) && bytes.get(6) == Some(&b'-');
        Fit::whole(head.then(|| at_least(rest, 7, 10, dashed)).flatten()?)
    });
    each("slack-webhook", &[SLACK_HOOK], |rest| {
        let len = at_least(rest, SLACK_HOOK.len(), 20, |c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-'))?;
        Some(Fit { len, secret: SLACK_HOOK.len()..len })
    });
    each("anthropic-key", &["sk-ant-"], |rest| Fit::whole(at_least(rest, 7, 16, worded)?));
    scan(
        text,
        "openai-key",
        &|at| starts_one(at, &["sk-"]),
        |rest| {
            for kind in ["proj-", "svcacct-", "admin-", "or-v1-"] {
                if rest[3..].starts_with(kind)
                    && let Some(len) = at_least(rest, 3 + kind.len(), 20, worded)
                {
                    return Fit::whole(len);
                }
            }
            Fit::whole(at_least(rest, 3, 32, |c| c.is_ascii_alphanumeric())?)
        },
        // Not in the middle of a word.
        |text, at| !text.as_bytes()[..at].last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_'),
        &mut found,
    );
    let mut each = |kind, starts: &[&str], fit: fn(&str) -> Option<Fit>| scan(text, kind, &|at| starts_one(at, starts), fit, |_, _| true, &mut found);
    each("google-key", &["AIza", "ya29."], |rest| {
        Fit::whole(if rest.starts_with("AIza") { exactly(rest, 4, 35, worded)? } else { at_least(rest, 5, 20, worded)? })
    });
    each("gitlab-token", &["glpat-"], |rest| Fit::whole(at_least(rest, 6, 20, worded)?));
    each("npm-token", &["npm_"], |rest| Fit::whole(exactly(rest, 4, 36, |c| c.is_ascii_alphanumeric())?));
    each("stripe-key", &["sk_live_", "sk_test_", "rk_live_", "rk_test_"], |rest| Fit::whole(at_least(rest, 8, 16, |c| c.is_ascii_alphanumeric())?));
    each("jwt", &["eyJ"], |rest| {
        let head = at_least(rest, 3, 8, worded)?;
        let mut len = at_least(rest, rest[head..].starts_with('.').then_some(head + 1)?, 8, worded)?;
        for _ in 0..3 {
            if !rest[len..].starts_with('.') {
                break;
            }
            len = run(rest, len + 1, worded);
        }
        Fit::whole(len)
    });
    behind_a_word(
        text,
        "bearer",
        "bearer-token",
        |rest, from| {
            let end = run(rest, from, |c| caseless_alphanumeric(c) || "._~+/=-".contains(c));
            let secret = &rest[from..end];
            let fits = secret.chars().count() >= 16;
            (fits.then_some(end), fits && looks_random(secret))
        },
        &mut found,
    );
    behind_a_word(
        text,
        "basic",
        "basic-auth",
        |rest, from| {
            let mut end = run(rest, from, |c| caseless_alphanumeric(c) || "+/_-".contains(c));
            let fits = rest[from..end].chars().count() >= 8;
            end += rest[end..].bytes().take(2).take_while(|byte| *byte == b'=').count();
            (fits.then_some(end), fits && is_user_and_password(&rest[from..end]))
        },
        &mut found,
    );
    find_url_passwords(text, &mut found);
    find_assignments(text, &mut found);
    if found.is_empty() {
        return found;
    }
    if text.contains(MARKER_START) {
        let markers = marker_ranges(text);
        // A finding within a marker is what an earlier redaction left.
        found.retain(|finding| {
            let before = markers.partition_point(|marker| marker.start <= finding.range.start);
            before == 0 || markers[before - 1].end < finding.range.end
        });
    }
    united(found)
}

const SLACK_HOOK: &str = "hooks.slack.com/services/";

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
fn scan(
    text: &str,
    kind: &'static str,
    begins: &dyn Fn(&str) -> bool,
    fit: impl Fn(&str) -> Option<Fit>,
    may_stand: impl Fn(&str, usize) -> bool,
    found: &mut Vec<Finding>,
) {
    let mut at = 0;
    while at < text.len() {
        if !text.is_char_boundary(at) {
            at += 1;
            continue;
        }
        let rest = &text[at..];
        match begins(rest).then(|| fit(rest)).flatten().filter(|_| may_stand(text, at)) {
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
fn caseless(rest: &str, word: &str) -> Option<usize> {
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
fn secret_name(rest: &str) -> Option<usize> {
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

/// Does the key that a string value stands under say that the value is a secret?
pub(crate) fn key_names_secret(key: &str, value: &str) -> bool {
    const SURELY: &[&str] = &["password", "passwd", "passphrase", "secret", "apikey", "secretkey", "accesskey", "privatekey", "authorization", "setcookie"];
    const KEY_BYTES_MAX: usize = 128;
    if key.len() > KEY_BYTES_MAX {
        return false;
    }
    let plain: String = key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
    let is_long = value.len() >= 16 && !value.contains(char::is_whitespace);
    (SURELY.iter().any(|name| plain.ends_with(name)) || (plain.ends_with("token") && is_long)) && is_no_placeholder(value, "")
}

/// Is `text` a marker and nothing else?
pub(crate) fn is_marker(text: &str) -> bool {
    let inside = text.strip_prefix(MARKER_START).and_then(|rest| rest.strip_suffix(']'));
    inside.and_then(|inside| inside.split_once(':')).is_some_and(|(kind, fingerprint)| {
        !kind.is_empty()
            && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && fingerprint.len() == FINGERPRINT_LEN
            && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
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

/// Joins what overlaps.
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
fn looks_random(value: &str) -> bool {
    value.len() >= 40 || value.bytes().any(|byte| byte.is_ascii_digit())
}

/// `basic authentication` is prose; a credential decodes to `user:password`.
fn is_user_and_password(value: &str) -> bool {
    let value = value.trim_end_matches('=');
    if !value.is_ascii() {
        return false;
    }
    // A cut credential may end within a group of four.
    let whole = &value[..value.len() - usize::from(value.len() % 4 == 1)];
    let decoded = general_purpose::STANDARD_NO_PAD.decode(whole).or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(whole));
    decoded.is_ok_and(|bytes| bytes.contains(&b':') && bytes.iter().all(|byte| !byte.is_ascii_control()))
}
