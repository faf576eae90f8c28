//! Secrets that go into a header.

use router_api::BuildError;

/// Checks that a token can go into a header: an empty one, or one with a line break at its end, would be found out with every event.
///
/// # Errors
///
/// When it cannot. The token itself is not in the message.
pub(crate) fn check(field: &str, token: &str) -> Result<(), BuildError> {
    if !token.is_empty() && token.chars().all(|c| ('!'..='~').contains(&c)) {
        return Ok(());
    }
    Err(BuildError::at(field, "is no token").help("a line break at the end of a secret's file, or an empty variable, is the usual cause"))
}
