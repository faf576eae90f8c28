//! Names and small shapes that several modules share: route names, event ids, bytes in JSON.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A route's name: `[a-z][a-z0-9-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// In bytes.
    pub const BYTES_MAX: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no route name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no route name: use 1 to 63 of `a` to `z`, `0` to `9` and `-`, beginning with a letter")]
pub struct RouteNameError(String);

impl FromStr for RouteName {
    type Err = RouteNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = text.bytes();
        let begins_well = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
        let goes_on_well = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if begins_well && goes_on_well && text.len() <= Self::BYTES_MAX { Ok(Self(text.into())) } else { Err(RouteNameError(text.to_owned())) }
    }
}

impl TryFrom<String> for RouteName {
    type Error = RouteNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RouteName> for String {
    fn from(name: RouteName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event's own id, as its producer wrote it: mostly a UUID, for a CloudEvent any text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    /// Takes the text as it is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How `serde` writes a body: as a string where it is UTF-8, else as `{"hex": "…"}`. No byte is lost.
pub mod bytes_as_text {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap};

    /// For `#[serde(with)]`.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.serialize(serializer),
            Err(_) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("hex", &hex)?;
                map.end()
            }
        }
    }

    /// For `#[serde(with)]`.
    ///
    /// # Errors
    ///
    /// When the value is neither a string nor `{"hex": "…"}`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Bytes::from(text)),
            serde_json::Value::Object(map) => {
                let hex = map.get("hex").and_then(|value| value.as_str()).ok_or_else(|| D::Error::custom("expected `hex`"))?;
                let digits = hex.as_bytes();
                if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(D::Error::custom("expected an even number of hexadecimal digits"));
                }
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or_default(), 16).unwrap_or_default();
                Ok(digits.chunks_exact(2).map(byte).collect::<Vec<_>>().into())
            }
            _ => Err(D::Error::custom("expected a string or an object with `hex`")),
        }
    }
}
