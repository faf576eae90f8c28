//! Who a client is: a token for each, compared in a time that tells nothing about it.
//!
//! Only digests are kept, and every one of them is compared to its end, whichever fits. So the time depends on how many tokens there
//! are and on the length of what was sent, never on how much of it was right.

use std::{fmt, hint::black_box};

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// A token that is longer is none; it is not even digested.
const TOKEN_BYTES_MAX: usize = 4096;

/// The tokens of the clients. Shows names alone.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    clients: Vec<(String, [u8; 32])>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clients.iter().map(|(name, _)| name)).finish()
    }
}

impl Tokens {
    /// Of pairs of a client's name and its token.
    pub(crate) fn new(tokens: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { clients: tokens.into_iter().map(|(name, token)| (name, digest(token.as_bytes()))).collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The name of the client that `Authorization: Bearer …` belongs to. Two such headers belong to nobody.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<&str> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") || token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let sent = digest(token.trim_ascii());
        let mut found = None;
        for (name, digest) in &self.clients {
            if equal(digest, &sent) {
                found = Some(name.as_str());
            }
        }
        found
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Looks at all bytes, whether or not an early one differs.
fn equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let different = one.iter().zip(other).fold(0, |seen, (a, b)| black_box(seen | (a ^ b)));
    black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(lines: &[&str]) -> Option<String> {
        let tokens = Tokens::new([("ci".to_owned(), "sesame".to_owned()), ("laptop".to_owned(), "open wide".to_owned())]);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::AUTHORIZATION, HeaderValue::try_from(*line).unwrap());
        }
        tokens.client(&headers).map(str::to_owned)
    }

    #[test]
    fn a_token_names_its_client_and_nothing_else_does() {
        assert_eq!(client(&["Bearer sesame"]).as_deref(), Some("ci"));
        assert_eq!(client(&["bearer  open wide "]).as_deref(), Some("laptop"));
        for lines in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer sesam"],
            &["Bearer sesame2"],
            &["Bearer Sesame"],
            &["Basic sesame"],
            &["sesame"],
            &["Bearer ci"],
            &["Bearer sesame", "Bearer sesame"],
        ] {
            assert_eq!(client(lines), None, "{lines:?}");
        }
        assert_eq!(client(&[&format!("Bearer {}", "x".repeat(5_000))]), None);
    }

    #[test]
    fn no_token_is_ever_shown() {
        let tokens = Tokens::new([("ci".to_owned(), "sesame".to_owned())]);
        assert_eq!(format!("{tokens:?}"), "[\"ci\"]");
    }
}
