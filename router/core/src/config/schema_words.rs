//! Words of JSON Schema, as `schemars` uses them: what a schema says about types, choices and numbers. The walk over a tree is in
//! [`super::schema_walk`].

use serde_json::{Map, Value};

use super::tree::{Node, NodeValue};

/// References within references at most; a schema that refers to itself must not hang the check.
const REFERENCES_MAX: usize = 32;

/// A schema object with everything that it refers to: all of them must hold.
pub(super) type Layers<'a> = Vec<&'a Map<String, Value>>;

pub(super) fn layers_of<'a>(schema: &'a Value, root: &'a Value, depth: usize, layers: &mut Layers<'a>) {
    let Some(object) = schema.as_object().filter(|_| depth < REFERENCES_MAX) else { return };
    layers.push(object);
    if let Some(target) = object.get("$ref").and_then(Value::as_str).and_then(|reference| root.pointer(reference.strip_prefix('#')?)) {
        layers_of(target, root, depth + 1, layers);
    }
    for part in object.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        layers_of(part, root, depth + 1, layers);
    }
}

pub(super) fn type_names(layer: &Map<String, Value>) -> Vec<&str> {
    let types = match layer.get("type") {
        Some(Value::String(name)) => vec![name.as_str()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    types.into_iter().filter(|name| *name != "null").collect()
}

pub(super) fn has_type(layer: &Map<String, Value>, node: &Node) -> bool {
    if layer.get("type").is_none() {
        return true;
    }
    type_names(layer).iter().any(|name| {
        matches!(
            (*name, &node.value),
            ("string", NodeValue::Text(_))
                | ("boolean", NodeValue::Boolean(_))
                | ("array", NodeValue::Array(_))
                | ("object", NodeValue::Table(_))
                | ("integer" | "number", NodeValue::Integer(_))
                | ("number", NodeValue::Float(_))
        )
    })
}

/// The fixed texts that a schema chooses from, if it does nothing else.
pub(super) fn text_choices<'a>(layer: &'a Map<String, Value>, root: &'a Value) -> Option<Vec<&'a str>> {
    if let Some(values) = layer.get("enum").and_then(Value::as_array) {
        return values.iter().filter(|value| !value.is_null()).map(Value::as_str).collect();
    }
    if let Some(value) = layer.get("const") {
        return value.as_str().map(|value| vec![value]);
    }
    let alternatives = layer.get("oneOf").or_else(|| layer.get("anyOf"))?.as_array()?;
    let mut choices = Vec::new();
    for alternative in alternatives {
        let mut layers = Vec::new();
        layers_of(alternative, root, 0, &mut layers);
        if layers.iter().any(|layer| layer.get("type").and_then(Value::as_str) == Some("null")) {
            continue;
        }
        choices.extend(layers.into_iter().find_map(|layer| text_choices(layer, root))?);
    }
    (!choices.is_empty()).then_some(choices)
}

pub(super) fn whole(number: &serde_json::Number) -> Option<i128> {
    // `schemars` writes some bounds as floats.
    #[allow(clippy::cast_possible_truncation, reason = "bounds beyond 2^53 are no bounds anybody writes")]
    number.as_i128().or_else(|| number.as_f64().map(|number| number as i128))
}

pub(super) fn format_range(format: &str) -> Option<(i128, i128)> {
    Some(match format {
        "uint8" => (0, u8::MAX.into()),
        "uint16" => (0, u16::MAX.into()),
        "uint32" => (0, u32::MAX.into()),
        "uint64" | "uint" => (0, u64::MAX.into()),
        "int8" => (i8::MIN.into(), i8::MAX.into()),
        "int16" => (i16::MIN.into(), i16::MAX.into()),
        "int32" => (i32::MIN.into(), i32::MAX.into()),
        _ => return None,
    })
}
