//! One small strict template engine for options that event data fills in: texts, JSON trees and argument vectors.
//!
//! Strict means: a field that is missing is an error, never an empty text. Nothing is ever split or read by a shell.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BuildError, Context, EffectError, Envelope};

/// A text with `{{ field }}` in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Template {
    text: String,
}

/// What templates can refer to: the normalised view of the newest event, and `route`, `attempt`, `events` (how many), `files`
/// (the distinct `file_path`s of the burst, in order) and `burst` (the views of all events).
#[derive(Debug, Clone)]
pub struct Scope {
    values: Value,
}

impl Scope {
    /// The scope of a handling.
    #[must_use]
    pub fn of(event: &Envelope, cx: &Context) -> Self {
        let _ = (event, cx);
        todo!()
    }

    /// Adds or replaces a name.
    #[must_use]
    pub fn with(self, name: &str, value: Value) -> Self {
        let _ = (name, value);
        todo!()
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// When its syntax is wrong, or it refers to a name that no scope has.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let _ = text;
        todo!()
    }

    /// Fills it in.
    ///
    /// # Errors
    ///
    /// When a field is missing: class `Refused`, since trying again would not help.
    pub fn render(&self, scope: &Scope) -> Result<String, EffectError> {
        let _ = scope;
        todo!()
    }
}

impl TryFrom<String> for Template {
    type Error = BuildError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

/// A JSON tree whose texts are templates. A text that is one `{{ field }}` and nothing else takes the field's own type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "Value", into = "Value")]
#[schemars(with = "Value")]
pub struct JsonTemplate {
    tree: Value,
}

impl JsonTemplate {
    /// Reads a tree.
    ///
    /// # Errors
    ///
    /// Every text that is no template, with its path.
    pub fn parse(tree: Value) -> Result<Self, BuildError> {
        let _ = tree;
        todo!()
    }

    /// Fills it in.
    ///
    /// # Errors
    ///
    /// When a field is missing.
    pub fn render(&self, scope: &Scope) -> Result<Value, EffectError> {
        let _ = scope;
        todo!()
    }
}

impl TryFrom<Value> for JsonTemplate {
    type Error = BuildError;

    fn try_from(tree: Value) -> Result<Self, Self::Error> {
        Self::parse(tree)
    }
}

impl From<JsonTemplate> for Value {
    fn from(template: JsonTemplate) -> Self {
        template.tree
    }
}

/// An argument vector whose elements are templates: the program first, which must be literal.
///
/// Each element becomes exactly one argument, whatever event data it is filled with. The element `{{ files }}` alone becomes
/// one argument for each file, after `--`. An element that begins with a template must not render to something that begins
/// with `-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
#[schemars(with = "Vec<String>")]
pub struct ArgvTemplate {
    elements: Vec<String>,
}

impl ArgvTemplate {
    /// Reads a vector.
    ///
    /// # Errors
    ///
    /// When it is empty, its program is a template, a template is wrong, or a template is handed to a shell
    /// (`sh -c "… {{ field }}"`).
    pub fn parse(elements: Vec<String>) -> Result<Self, BuildError> {
        let _ = elements;
        todo!()
    }

    /// The program, as configured.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.elements[0]
    }

    /// The arguments after the program.
    ///
    /// # Errors
    ///
    /// When a field is missing, or a value would become an option: class `Forbidden`.
    pub fn render(&self, scope: &Scope) -> Result<Vec<String>, EffectError> {
        let _ = scope;
        todo!()
    }
}

impl TryFrom<Vec<String>> for ArgvTemplate {
    type Error = BuildError;

    fn try_from(elements: Vec<String>) -> Result<Self, Self::Error> {
        Self::parse(elements)
    }
}

impl From<ArgvTemplate> for Vec<String> {
    fn from(template: ArgvTemplate) -> Self {
        template.elements
    }
}
