//! Who a client is and what it may do: a token for each, compared in a time that tells nothing about it.
//!
//! Only digests are kept, and every one of them is compared to its end, whichever fits. So the time depends on how many tokens there
//! are and on the length of what was sent, never on how much of it was right.

use std::{fmt, hint::black_box};

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// A token that is longer is none; it is not even digested.
const TOKEN_BYTES_MAX: usize = 4096;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Send events, and read what monitors read.
    Send,
    /// That, and everything that the commands do.
    Admin,
}

/// The tokens of the clients. Shows names and grants alone.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    clients: Vec<(String, Grant, [u8; 32])>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clients.iter().map(|(name, grant, _)| (name, grant))).finish()
    }
}

impl Tokens {
    /// Adds pairs of a client's name and its token. Of two that are the same, the one that grants less counts.
    pub(crate) fn add(&mut self, grant: Grant, tokens: impl IntoIterator<Item = (String, String)>) {
        self.clients.extend(tokens.into_iter().map(|(name, token)| (name, grant, digest(token.as_bytes()))));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Is there a token that grants this?
    pub(crate) fn has(&self, wanted: Grant) -> bool {
        self.clients.iter().any(|(_, grant, _)| *grant == wanted)
    }

    /// The name of the client that `Authorization: Bearer …` belongs to, and what it may do. Two such headers belong to nobody.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<(&str, Grant)> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") || token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let sent = digest(token.trim_ascii());
        let mut found: Option<(&str, Grant)> = None;
        for (name, grant, digest) in &self.clients {
            if equal(digest, &sent) && !found.is_some_and(|(_, found)| found == Grant::Send) {
                found = Some((name.as_str(), *grant));
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

    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        tokens.add(Grant::Admin, [("desk".to_owned(), "abracadabra".to_owned()), ("both".to_owned(), "open wide".to_owned())]);
        tokens.add(Grant::Send, [("ci".to_owned(), "sesame".to_owned()), ("laptop".to_owned(), "open wide".to_owned())]);
        tokens
    }

    fn client(lines: &[&str]) -> Option<(String, Grant)> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::AUTHORIZATION, HeaderValue::try_from(*line).unwrap());
        }
        tokens().client(&headers).map(|(name, grant)| (name.to_owned(), grant))
    }

    #[test]
    fn a_token_names_its_client_and_nothing_else_does() {
        assert_eq!(client(&["Bearer sesame"]), Some(("ci".to_owned(), Grant::Send)));
        assert_eq!(client(&["bearer  abracadabra "]), Some(("desk".to_owned(), Grant::Admin)));
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
    fn a_token_of_two_clients_grants_the_less() {
        assert_eq!(client(&["Bearer open wide"]), Some(("laptop".to_owned(), Grant::Send)));
        let mut other_order = Tokens::default();
        other_order.add(Grant::Send, [("laptop".to_owned(), "open".to_owned())]);
        other_order.add(Grant::Admin, [("both".to_owned(), "open".to_owned())]);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer open"))]);
        assert_eq!(other_order.client(&headers), Some(("laptop", Grant::Send)));
    }

    #[test]
    fn no_token_is_ever_shown() {
        let shown = format!("{:?}", tokens());
        assert!(shown.contains("(\"ci\", Send)") && !shown.contains("sesame"), "{shown}");
    }
}
