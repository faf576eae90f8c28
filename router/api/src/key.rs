//! Routing keys and patterns, with RabbitMQ's topic semantics: words between dots, compared byte by byte.
//!
//! The empty text has no word at all, so `#` takes it and `*` does not; `a.` has two words, the second one empty, which `*`
//! takes. Only a whole word `*` or `#` is a wildcard: `a*b` is an ordinary word. [`crate::PatternTrie`] asks many patterns at once.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A dotted routing key: at most 255 bytes, no control characters. Words may be empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutingKey(Arc<str>);

/// Why a text is no routing key or pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Longer than AMQP can carry.
    #[error("{0} bytes long, 255 are the limit")]
    TooLong(usize),
    /// A control character.
    #[error("has the control character {0:?}")]
    Control(char),
}

impl RoutingKey {
    /// In bytes; AMQP's limit.
    pub const BYTES_MAX: usize = 255;

    /// Checks a text.
    ///
    /// # Errors
    ///
    /// When it is too long or has control characters.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The words between the dots. The empty key has none; words may be empty.
    pub fn words(&self) -> impl Iterator<Item = &str> + Clone {
        words(&self.0)
    }
}

/// As RabbitMQ splits: nothing from an empty text, else one word more than there are dots.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> + Clone {
    (!text.is_empty()).then(|| text.split('.')).into_iter().flatten()
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.len() > RoutingKey::BYTES_MAX {
        return Err(KeyError::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(KeyError::Control(control)),
        None => Ok(()),
    }
}

impl FromStr for RoutingKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for RoutingKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<RoutingKey> for String {
    fn from(key: RoutingKey) -> Self {
        key.0.as_ref().to_owned()
    }
}

impl fmt::Display for RoutingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Dotted words, of which `*` stands for one word and `#` for any number of them, none included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutingPattern(Arc<str>);

impl RoutingPattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The words between the dots, wildcards included.
    pub fn words(&self) -> impl Iterator<Item = &str> + Clone {
        words(&self.0)
    }

    /// Does `key` fit? For one pattern; [`crate::PatternTrie`] asks many at once.
    ///
    /// Costs at most the product of the two word counts, however many `#` there are, and allocates nothing.
    #[must_use]
    pub fn matches(&self, key: &RoutingKey) -> bool {
        let mut pattern = self.words();
        let mut key = key.words();
        // Where to go on when the words after the last `#` do not fit: that `#` takes one word more. An earlier `#` never
        // needs another try, since whatever it could take the last one can take as well.
        let mut last_hash = None;
        loop {
            match pattern.next() {
                Some("#") => {
                    last_hash = Some((pattern.clone(), key.clone()));
                    continue;
                }
                Some(wanted) => {
                    if key.next().is_some_and(|word| wanted == "*" || wanted == word) {
                        continue;
                    }
                }
                None => {
                    if key.next().is_none() {
                        return true;
                    }
                }
            }
            let Some((after_hash, mut rest)) = last_hash else { return false };
            if rest.next().is_none() {
                return false;
            }
            pattern = after_hash.clone();
            key = rest.clone();
            last_hash = Some((after_hash, rest));
        }
    }
}

impl FromStr for RoutingPattern {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for RoutingPattern {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RoutingPattern> for String {
    fn from(pattern: RoutingPattern) -> Self {
        pattern.0.as_ref().to_owned()
    }
}

impl fmt::Display for RoutingPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, key: &str) -> bool {
        pattern.parse::<RoutingPattern>().unwrap().matches(&key.parse().unwrap())
    }

    #[test]
    fn patterns_fit_keys_as_rabbitmq_has_it() {
        // Among them the pairs that another in-memory matcher is known to get wrong: `a.#.b` with `a.b`, `#.b` with `a.b.b`,
        // `x.#` with `x`.
        let table = [
            ("a.#.b", &["a.b", "a.x.b", "a.x.y.b", "a..b", "a.b.b"][..], &["a", "b", "ab", "a.bb", "a.b.c", "xa.b"][..]),
            ("#.b", &["b", "a.b", "a.b.b", ".b"], &["", "a", "b.a", "a.b."]),
            ("x.#", &["x", "x.", "x.y", "x.y.z"], &["", "y", "y.x", "xx", ".x"]),
            ("a.#", &["a", "a.b", "a..", "a.b.c"], &["", "ab", "A", "b.a"]),
            ("#", &["", "a", ".", "a.b.c", "..."], &[]),
            ("#.#", &["", "a", "a.b", "."], &[]),
            ("*", &["a", "*", "#", "ab"], &["", "a.b", "."]),
            ("*.*", &[".", "a.b", "a."], &["", "a", "a.b.c"]),
            ("", &[""], &["a", "."]),
            (".", &["."], &["", "a", "..", "a."]),
            ("a.", &["a."], &["a", "a.b", "a.."]),
            ("a.*", &["a.", "a.b", "a.#"], &["a", "a.b.c", "b.a"]),
            ("*.a", &[".a", "x.a"], &["a", "x.y.a"]),
            ("a..b", &["a..b"], &["a.b", "a.x.b"]),
            ("a.*.b", &["a..b", "a.x.b"], &["a.b", "a.x.y.b"]),
            ("#.a.#", &["a", "a.b", "b.a", "b.a.c", "a.a"], &["", "b", "ab"]),
            ("#.a.#.b.#", &["a.b", "x.a.y.b.z", "b.a.b", "a.a.b.b"], &["b.a", "a", "b"]),
            ("*.#", &["a", "a.b"], &[""]),
            ("#.*", &["a", "a.b"], &[""]),
            ("*.#.*", &["a.b", "a.b.c", "."], &["", "a"]),
            ("a*b.c", &["a*b.c"], &["axb.c", "ab.c"]),
            ("a.#b", &["a.#b"], &["a.b", "a.x.b"]),
            ("Session.*", &["Session.a"], &["session.a"]),
            ("session.thread.agent.action", &["session.thread.agent.action"], &["session.thread.agent", "session.thread.agent.action.x"]),
            ("a.b.#.b.c", &["a.b.b.c", "a.b.b.b.c", "a.b.x.b.c"], &["a.b.c"]),
        ];
        for (pattern, fitting, others) in table {
            for key in fitting {
                assert!(fits(pattern, key), "`{pattern}` takes `{key}`");
            }
            for key in others {
                assert!(!fits(pattern, key), "`{pattern}` does not take `{key}`");
            }
        }
    }

    #[test]
    fn keys_and_patterns_have_255_bytes_and_no_control_characters() {
        let long = "ä".repeat(127) + "x";
        assert_eq!(long.len(), 255);
        assert!(RoutingKey::new(&long).is_ok());
        assert_eq!(RoutingKey::new(&(long.clone() + "y")), Err(KeyError::TooLong(256)));
        assert_eq!((long + "y").parse::<RoutingPattern>(), Err(KeyError::TooLong(256)));
        assert_eq!(RoutingKey::new("a\nb"), Err(KeyError::Control('\n')));
        assert_eq!("a\u{0}".parse::<RoutingPattern>(), Err(KeyError::Control('\0')));
    }

    #[test]
    fn many_hashes_against_the_longest_key_end() {
        // Exponential matchers do not come back from this one.
        let pattern = "#.a.".repeat(63) + "x";
        let key = "a.".repeat(127) + "a";
        assert_eq!(key.len(), 255);
        assert!(!fits(&pattern, &key));
        assert!(fits(&("#.".repeat(127) + "#"), &key));
    }
}
