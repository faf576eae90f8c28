//! The normalised view: one set of field names for every dialect. Filters, templates, `order_by` and `dedup` address it.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A field of the normalised view: `tool_name`, `payload.tool_metadata.success`, `raw.agent_context.type`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldPath {
    text: Arc<str>,
}

/// Why a text is no field of the view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FieldPathError {
    /// A lowercase sentence fragment.
    pub message: String,
    /// The nearest field that there is.
    pub suggestion: Option<String>,
}

impl FieldPath {
    /// The fields of the view that are no trees; `payload` and `raw` take further words.
    pub const NAMES: &'static [&'static str] =
        &["key", "id", "type", "source", "time", "dialect", "session_id", "tool_name", "file_path", "working_directory", "git_branch"];

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for FieldPath {
    type Err = FieldPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let _ = text;
        todo!()
    }
}

impl TryFrom<String> for FieldPath {
    type Error = FieldPathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.text.as_ref().to_owned()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The value of a field: a text of the view, or a value of the body.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A value.
    Value(&'a Value),
}

impl Field<'_> {
    /// The text, if it is one. An empty text and null count as absent nowhere but in `nonempty`.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Value(value) => value.as_str(),
        }
    }
}
