//! Is what fits a shape a secret, or a sample, a word, or a reference to one?

use base64::{Engine as _, engine::general_purpose};

use crate::marker;

/// Does the key that a string value stands under say that the value is a secret?
#[must_use]
pub fn key_names_secret(key: &str, value: &str) -> bool {
    const SURELY: &[&str] = &["password", "passwd", "passphrase", "secret", "apikey", "secretkey", "accesskey", "privatekey", "authorization", "setcookie"];
    const KEY_BYTES_MAX: usize = 128;
    if key.len() > KEY_BYTES_MAX {
        return false;
    }
    let is_long = || value.len() >= 16 && !value.contains(char::is_whitespace);
    (SURELY.iter().any(|name| ends_with(key, name)) || (ends_with(key, "token") && is_long())) && is_no_placeholder(value, "")
}

/// In any case, and whatever `_` and `-` stand between.
fn ends_with(key: &str, name: &str) -> bool {
    let mut backwards = key.bytes().rev().filter(|byte| !matches!(byte, b'_' | b'-'));
    name.bytes().rev().all(|wanted| backwards.next().is_some_and(|byte| byte.to_ascii_lowercase() == wanted))
}

/// Not a reference, a sample or a word of code that stands where a secret would.
pub(crate) fn is_no_placeholder(value: &str, behind: &str) -> bool {
    const WORDS: &[&str] =
        &["string", "password", "passwd", "secret", "token", "true", "false", "null", "none", "undefined", "required", "optional", "redacted"];
    let mut characters = value.chars();
    let Some(first) = characters.next() else { return false };
    !matches!(first, '$' | '<' | '{' | '%')
        && !marker::begins_one(value)
        && !characters.all(|c| c == first)
        && !behind.starts_with('(')
        && !WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// `bearer authentication` is prose; tokens have a digit, or are very long.
pub(crate) fn looks_random(value: &str) -> bool {
    value.len() >= 40 || value.bytes().any(|byte| byte.is_ascii_digit())
}

/// `basic authentication` is prose; a credential decodes to `user:password`.
pub(crate) fn is_user_and_password(value: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_ends_with_a_name_as_its_letters_do(
            key in "([a-zA-Zé_-]{0,4}|[Aa][Pp][Ii]|key|Token|\u{212a}ey|\u{17f}ecret|_|-){0,4}",
            name in prop::sample::select(vec!["apikey", "token", "secret", "key"]),
        ) {
            let plain: String = key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
            prop_assert_eq!(ends_with(&key, name), plain.ends_with(name));
        }
    }
}
