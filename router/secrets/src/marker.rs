//! What stands in a secret's place: `[redacted:<kind>:<fingerprint>]`.

use std::ops::Range;

const START: &str = "[redacted:";
/// In hexadecimal digits.
const FINGERPRINT_LEN: usize = 12;
const BYTES_MAX: usize = 64;

/// The marker of a secret of this kind, whose digest under the owner's key begins its fingerprint.
#[must_use]
pub fn marker(kind: &str, digest: &[u8]) -> String {
    let fingerprint: String = digest.iter().take(FINGERPRINT_LEN / 2).map(|byte| format!("{byte:02x}")).collect();
    format!("{START}{kind}:{fingerprint}]")
}

/// Is `text` a marker and nothing else?
#[must_use]
pub fn is_marker(text: &str) -> bool {
    let inside = text.strip_prefix(START).and_then(|rest| rest.strip_suffix(']'));
    inside.and_then(|inside| inside.split_once(':')).is_some_and(|(kind, fingerprint)| {
        !kind.is_empty()
            && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && fingerprint.len() == FINGERPRINT_LEN
            && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

pub(crate) fn begins_one(text: &str) -> bool {
    text.starts_with(START)
}

/// Where markers stand, in order.
pub(crate) fn ranges(text: &str) -> Vec<Range<usize>> {
    let of = |start: usize| {
        let window = &text.as_bytes()[start..text.len().min(start + BYTES_MAX)];
        let end = start + window.iter().position(|byte| *byte == b']')? + 1;
        is_marker(&text[start..end]).then_some(start..end)
    };
    text.match_indices(START).filter_map(|(start, _)| of(start)).collect()
}
