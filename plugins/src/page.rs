//! A success that is none: a proxy's or a login's page, sent with a status that says that all is well.

use router_api::{EffectClass, EffectError, HttpReply, excerpt};

/// Refuses a page for people where a program was to answer. `field` is the option that has the address.
///
/// # Errors
///
/// For a page with a status of success; to be tried again, since who sends such a page is often gone later.
pub(crate) fn not_a_page(reply: HttpReply, field: &str) -> Result<HttpReply, EffectError> {
    if !is_page(&reply) || !(200..300).contains(&reply.status) {
        return Ok(reply);
    }
    let message = format!("what answered {} is a page for people: is there a proxy or a login before it, and is `{field}` right?", reply.status);
    let mut error = EffectError::new(EffectClass::Failed, message);
    error.detail = Some(excerpt(&reply.body));
    Err(error)
}

fn is_page(reply: &HttpReply) -> bool {
    let says_so = reply.header("content-type").is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"));
    let body = reply.body.trim_ascii_start();
    let begins = |with: &[u8]| body.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    says_so || begins(b"<!doctype") || begins(b"<html")
}
