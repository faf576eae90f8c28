//! Routing keys and patterns, with RabbitMQ's topic semantics.

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

    /// Does `key` fit? For one pattern; [`crate::PatternTrie`] asks many at once.
    #[must_use]
    pub fn matches(&self, key: &RoutingKey) -> bool {
        let _ = key;
        todo!()
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
