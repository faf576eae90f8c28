//! How a body is signed, so that its receiver can tell where it comes from: two styles that receivers know.
//!
//! Public for handlers in other crates, which sign what they send as `webhook` does.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use router_api::BuildError;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;

/// A signature with a shared secret.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signing {
    /// `standard-webhooks` (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`; the id stays the same at a repeat, the
    /// timestamp does not) or `github` (`x-hub-signature-256` over the body alone, `x-github-event` with the routing key,
    /// `x-github-delivery` with the id).
    pub style: Style,
    /// The shared secret; write `${VAR}`. For `standard-webhooks` it is `whsec_` and the base64 of 24 to 64 random bytes, for `github`
    /// any text.
    pub secret: String,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are described where the style is chosen")]
pub enum Style {
    StandardWebhooks,
    Github,
}

/// Ready to sign; the key never leaves it.
pub struct Signer {
    style: Style,
    mac: Hmac<Sha256>,
}

impl Signer {
    /// From the style and the secret.
    ///
    /// # Errors
    ///
    /// When the secret does not fit the style.
    ///
    /// # Panics
    ///
    /// Never: a key may have any length.
    pub fn new(signing: Signing) -> Result<Self, BuildError> {
        let key = match signing.style {
            Style::Github if signing.secret.is_empty() => return Err(BuildError::at("secret", "is empty")),
            Style::Github => signing.secret.into_bytes(),
            Style::StandardWebhooks => {
                const HELP: &str = "make one with `printf 'whsec_%s\\n' \"$(head -c 32 /dev/urandom | base64)\"`";
                let encoded = signing.secret.strip_prefix("whsec_").ok_or_else(|| BuildError::at("secret", "does not begin with `whsec_`").help(HELP))?;
                let key = STANDARD.decode(encoded).map_err(|error| BuildError::at("secret", format!("is no base64 after `whsec_`: {error}")).help(HELP))?;
                if !(24..=64).contains(&key.len()) {
                    return Err(BuildError::at("secret", format!("holds {} bytes, 24 to 64 are needed", key.len())).help(HELP));
                }
                key
            }
        };
        Ok(Self { style: signing.style, mac: Hmac::new_from_slice(&key).expect("HMAC takes a key of any length") })
    }

    /// What [`Signer::headers`] makes, in lower case.
    #[must_use]
    pub fn header_names(&self) -> &'static [&'static str] {
        match self.style {
            Style::StandardWebhooks => &["webhook-id", "webhook-timestamp", "webhook-signature"],
            Style::Github => &["x-hub-signature-256", "x-github-event", "x-github-delivery"],
        }
    }

    /// The headers for `body`, sent at this time under an id that is the same at every repeat. `key` is the routing key.
    #[must_use]
    pub fn headers(&self, id: String, at: Timestamp, key: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        let values = match self.style {
            Style::StandardWebhooks => {
                let timestamp = at.as_second().to_string();
                let signature = format!("v1,{}", STANDARD.encode(self.sign(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body])));
                [id, timestamp, signature]
            }
            Style::Github => {
                let signature: String = self.sign(&[body]).iter().map(|byte| format!("{byte:02x}")).collect();
                [format!("sha256={signature}"), key.to_owned(), id]
            }
        };
        self.header_names().iter().copied().zip(values).collect()
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(style: Style, secret: &str) -> Signer {
        Signer::new(Signing { style, secret: secret.to_owned() }).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_published_example_of_standard_webhooks_comes_out() {
        let signer = signer(Style::StandardWebhooks, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signature = signer.sign(&[b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.", br#"{"test": 2432232314}"#]);
        assert_eq!(STANDARD.encode(signature), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_published_example_of_github_comes_out() {
        let signature = signer(Style::Github, "It's a Secret to Everybody").sign(&[b"Hello, World!"]);
        let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
    }

    #[test]
    fn a_secret_that_does_not_fit_its_style_is_refused_without_showing_it() {
        for (style, secret) in [
            (Style::Github, ""),
            (Style::StandardWebhooks, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            (Style::StandardWebhooks, "whsec_short"),
            (Style::StandardWebhooks, "whsec_c2hvcnQ="),
            (Style::StandardWebhooks, "whsec_not!base64!not!base64!not!base64!"),
        ] {
            let error = Signer::new(Signing { style, secret: secret.to_owned() }).err().unwrap();
            assert_eq!(error.problems[0].field, "secret");
            let told = format!("{error} {:?}", error.problems[0].help);
            assert!(secret.len() < 8 || !told.contains(secret), "{told}");
        }
    }
}
