//! JSON trees whose texts are templates.

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Scope,
    engine::{Expression, Text},
    scan,
};
use crate::{BuildError, EffectClass, EffectError};

/// A JSON tree whose texts are templates. A text that is one `{{ field }}` and nothing else takes the field's own type: a number
/// stays a number, a list a list, null null. Names of members are literal.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "Value", into = "Value")]
#[schemars(with = "Value", extend("format" = "json-template"))]
pub struct JsonTemplate {
    tree: Value,
    code: Arc<Node>,
}

#[derive(Debug)]
enum Node {
    Literal(Value),
    Text(Text),
    Typed(Expression),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl JsonTemplate {
    /// Of a filled-in tree, as JSON, in bytes.
    pub const BYTES_MAX: usize = 8 * 1024 * 1024;

    /// Reads a tree.
    ///
    /// # Errors
    ///
    /// Every text that is no template, with its path.
    pub fn parse(tree: Value) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        let code = compile(&tree, &mut problems);
        problems.into_result()?;
        Ok(Self { tree, code: Arc::new(code) })
    }

    /// Fills it in.
    ///
    /// # Errors
    ///
    /// When a field is missing, with the path of the text, or the tree grows past [`JsonTemplate::BYTES_MAX`]: class `Refused`.
    pub fn render(&self, scope: &Scope) -> Result<Value, EffectError> {
        let tree = fill(&self.code, scope, "")?;
        let mut size = Counted(0);
        if serde_json::to_writer(&mut size, &tree).is_err() {
            return Err(EffectError::new(EffectClass::Refused, format!("the JSON becomes longer than {} bytes with this event", Self::BYTES_MAX)));
        }
        Ok(tree)
    }
}

/// Counts what is written and fails past the limit.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        if self.0 > JsonTemplate::BYTES_MAX { Err(io::Error::other("the tree is too large")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Depth needs no limit of its own: what configurations are read with has one.
fn compile(tree: &Value, problems: &mut BuildError) -> Node {
    let mut below = |name: &str, tree: &Value| {
        let mut found = BuildError::default();
        let node = compile(tree, &mut found);
        problems.problems.extend(found.under(name).problems);
        node
    };
    match tree {
        Value::String(text) => match problems.collect(compile_text(text)) {
            Some(node) => node,
            None => Node::Literal(Value::Null),
        },
        Value::Array(items) => Node::List(items.iter().enumerate().map(|(index, item)| below(&index.to_string(), item)).collect()),
        Value::Object(members) => {
            let nodes = members.iter().map(|(name, member)| (name.clone(), below(name, member))).collect();
            for name in members.keys().filter(|name| scan::has_code(name)) {
                problems.collect::<()>(Err(BuildError::at("", format!("the name `{name}` has a template, but only values are filled in"))));
            }
            Node::Object(nodes)
        }
        other => Node::Literal(other.clone()),
    }
}

fn compile_text(text: &str) -> Result<Node, BuildError> {
    // White space around the braces would be part of the text.
    match scan::sole_expression(text) {
        Some(expression) if text.ends_with("}}") => Ok(Node::Typed(Expression::compile(expression)?)),
        _ => {
            let text = Text::compile(text, &[])?;
            Ok(if text.is_literal() { Node::Literal(Value::String(text.source().to_owned())) } else { Node::Text(text) })
        }
    }
}

fn fill(node: &Node, scope: &Scope, path: &str) -> Result<Value, EffectError> {
    let at = |mut error: EffectError| {
        if !path.is_empty() {
            error.message = format!("`{path}`: {}", error.message);
        }
        error
    };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match node {
        Node::Literal(value) => Ok(value.clone()),
        Node::Text(text) => text.render(scope).map(Value::String).map_err(at),
        Node::Typed(expression) => expression.value(scope).map_err(at),
        Node::List(nodes) => nodes.iter().enumerate().map(|(index, node)| fill(node, scope, &below(&index.to_string()))).collect(),
        Node::Object(nodes) => {
            let members = nodes.iter().map(|(name, node)| Ok((name.clone(), fill(node, scope, &below(name))?)));
            Ok(Value::Object(members.collect::<Result<Map<_, _>, EffectError>>()?))
        }
    }
}

impl PartialEq for JsonTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.tree == other.tree
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lone_field_keeps_its_type_and_a_text_becomes_text() {
        let scope = Scope::from_value(json!({"payload": {"n": 3, "big": u64::MAX, "f": 0.5, "null": null, "list": [1, {"a": true}], "text": "3"}, "key": "k"}));
        let tree = json!({
            "n": "{{ payload.n }}", "big": "{{payload.big}}", "f": "{{- payload.f -}}", "null": "{{ payload.null }}", "list": "{{ payload.list }}",
            "text": "{{ payload.text }}", "mixed": "n={{ payload.n }}", "literal": [1, "x", {"deep": "{{ key }}"}], "sum": "{{ payload.n + 1 }}",
            "brace": "{{ {'a': {'b': payload.n}} }}", "two": "{{ key }}{{ key }}",
        });
        assert_eq!(
            JsonTemplate::parse(tree).unwrap().render(&scope).unwrap(),
            json!({
                "n": 3, "big": u64::MAX, "f": 0.5, "null": null, "list": [1, {"a": true}],
                "text": "3", "mixed": "n=3", "literal": [1, "x", {"deep": "k"}], "sum": 4, "brace": {"a": {"b": 3}}, "two": "kk",
            })
        );
    }

    #[test]
    fn every_bad_text_is_reported_with_its_path() {
        let error = JsonTemplate::parse(json!({"a": ["{{ nope }}", "{{"], "b": {"c": "{{ key | nosuch }}"}, "{{ key }}": 1, "fine": "{{ key }}"})).unwrap_err();
        let fields: Vec<&str> = error.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields.len(), 4, "{error}");
        for field in ["a.0", "a.1", "b.c"] {
            assert!(fields.contains(&field), "{field} in {fields:?}");
        }
    }

    #[test]
    fn a_missing_field_is_refused_with_its_path() {
        let template = JsonTemplate::parse(json!({"a": {"b": "{{ git_branch }}"}})).unwrap();
        let error = template.render(&Scope::from_value(json!({}))).unwrap_err();
        assert_eq!(error.class, EffectClass::Refused);
        assert!(error.message.contains("`a.b`") && error.message.contains("git_branch"), "{}", error.message);
    }

    #[test]
    fn a_tree_past_the_limit_is_refused() {
        let scope = Scope::from_value(json!({"payload": "x".repeat(JsonTemplate::BYTES_MAX / 2)}));
        assert!(JsonTemplate::parse(json!(["{{ payload }}"])).unwrap().render(&scope).is_ok());
        assert!(JsonTemplate::parse(json!(["{{ payload }}", "{{ payload }}"])).unwrap().render(&scope).is_err());
    }
}
