//! The JSON Schema of the configuration: of the router's own tables, which `check` walks, and with all linked plugins, which
//! editors complete from.

use std::sync::OnceLock;

use router_api::{Registration, Registry};
use serde_json::{Value, json};

use super::raw::RawConfig;

/// The schema of the router's own tables. `with` is any table in it.
pub(super) fn own() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let schema = schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawConfig>();
        let mut schema = schema.to_value();
        without_null(&mut schema);
        rename(&mut schema, &|name| name.strip_prefix("Raw").unwrap_or(name).to_owned());
        if let Some(object) = schema.as_object_mut() {
            object.insert("title".to_owned(), "event-router configuration".into());
        }
        schema
    })
}

/// The schema of one table of it: `Route`.
pub(super) fn own_table(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// The schema of a plugin's options. TOML has no null, so neither has it.
pub(super) fn of_plugin(plugin: &Registration) -> Value {
    let mut schema = plugin.schema().to_value();
    without_null(&mut schema);
    schema
}

/// The JSON Schema (draft 2020-12) of a configuration file, every route's `with` by its handler.
#[must_use]
pub fn config_schema(registry: &Registry) -> Value {
    let mut schema = own().clone();
    let mut conditions = Vec::new();
    let mut definitions = Vec::new();
    for plugin in registry.iter() {
        let mut options = of_plugin(plugin);
        let prefix = format!("plugin.{}", plugin.name);
        rename(&mut options, &|name| format!("{prefix}.{name}"));
        let Some(object) = options.as_object_mut() else { continue };
        object.remove("$schema");
        if let Some(Value::Object(inner)) = object.remove("$defs") {
            definitions.extend(inner);
        }
        let needs_options = object.get("required").and_then(Value::as_array).is_some_and(|required| !required.is_empty());
        let mut then = json!({ "properties": { "with": { "$ref": format!("#/$defs/{prefix}") } } });
        if needs_options {
            then["required"] = json!(["with"]);
        }
        // A plugin that refers to itself refers to its root.
        redirect_root(&mut options, &format!("#/$defs/{prefix}"));
        definitions.push((prefix, options));
        conditions.push(json!({ "if": { "properties": { "handler": { "const": plugin.name } }, "required": ["handler"] }, "then": then }));
    }
    if let Some(all) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        all.extend(definitions);
        if let Some(route) = all.get_mut("Route").and_then(Value::as_object_mut) {
            route.insert("allOf".to_owned(), conditions.into());
            if let Some(handler) = route.get_mut("properties").and_then(|properties| properties.get_mut("handler")).and_then(Value::as_object_mut) {
                handler.insert("enum".to_owned(), registry.iter().map(|plugin| plugin.name).collect());
            }
        }
    }
    schema
}

/// Takes out the null that stands for an option that is not set.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    object.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(values)) = object.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            // The default of an option that is not set is no value at all.
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            for word in ["anyOf", "oneOf"] {
                let Some(Value::Array(alternatives)) = object.get_mut(word) else { continue };
                alternatives.retain(|alternative| alternative.get("type").and_then(Value::as_str) != Some("null"));
                // What is left alone stands for itself; its own description yields to that of the field.
                if let [Value::Object(one)] = alternatives.as_slice() {
                    let one = one.clone();
                    object.remove(word);
                    for (key, value) in one {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Renames the definitions of a schema and all references to them.
fn rename(schema: &mut Value, new_name: &dyn Fn(&str) -> String) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(definitions)) = object.get_mut("$defs") {
                *definitions = std::mem::take(definitions).into_iter().map(|(name, definition)| (new_name(&name), definition)).collect();
            }
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(name) = reference.strip_prefix("#/$defs/")
            {
                *reference = format!("#/$defs/{}", new_name(name));
            }
            object.values_mut().for_each(|value| rename(value, new_name));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, new_name)),
        _ => {}
    }
}

fn redirect_root(schema: &mut Value, to: &str) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && reference == "#"
            {
                to.clone_into(reference);
            }
            object.values_mut().for_each(|value| redirect_root(value, to));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redirect_root(item, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| all_references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| all_references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_nothing_is_null() {
        let schema = own();
        let mut references = Vec::new();
        all_references(schema, &mut references);
        assert!(references.len() > 10);
        for reference in references {
            assert!(schema.pointer(&reference[1..]).is_some(), "{reference}");
        }
        assert!(!schema.to_string().contains("null"), "{schema:#}");
        assert!(!schema.to_string().contains("Raw"), "{schema:#}");
    }

    #[test]
    fn names_and_limits_are_those_of_the_structs() {
        let route = &own()["$defs"]["Route"];
        assert_eq!(route["required"], json!(["name", "on", "handler"]));
        assert_eq!(route["additionalProperties"], false);
        assert_eq!(route["properties"]["prefetch"]["maximum"], 10_000);
        assert_eq!(route["properties"]["on"]["minItems"], 1);
    }
}
