//! The reference for people, as Markdown, from the same schemas that `check` walks.

use std::fmt::Write as _;

use router_api::Registry;
use serde_json::{Map, Value};

use super::schema;

/// The order in which the tables are read best.
const TABLES: [&str; 18] = [
    "transport",
    "store",
    "http",
    "limits",
    "redact",
    "sessions",
    "log",
    "defaults",
    "route",
    "on",
    "coalesce",
    "retry",
    "retry.on",
    "breaker",
    "rate",
    "dedup",
    "when",
    "with",
];

const GENERATED: &str = "<!-- Generated from the doc comments in the source by `event-router schema --write`; do not edit. -->\n\n";

/// Everything that can stand in a configuration file, the plugins' options aside.
#[must_use]
pub fn config_reference() -> String {
    let root = schema::own();
    let mut out = format!("{GENERATED}# Configuration reference\n\n{}\n", paragraphs(description(root)));
    out.push_str(
        "\nString values may refer to the environment: `${VAR}`, `${VAR:-default}`, `${VAR:?message}`, `${file:PATH}` (relative to the \
         configuration file) and `${credential:NAME}` (systemd's `LoadCredential=`). `$${` stands for a literal `${`. A value that is \
         missing is an error only where a route that is enabled, or the router itself, needs it.\n\nDurations are integers; their unit \
         is the suffix of their key: `_ms`, `_s`, `_days`.\n",
    );
    let Some(properties) = root["properties"].as_object() else { return out };
    for name in TABLES {
        let Some(property) = properties.get(name) else { continue };
        let header = if name == "route" { "`[[route]]`".to_owned() } else { format!("`[{name}]`") };
        let table = resolved(if name == "route" { &property["items"] } else { property }, root);
        let _ = write!(out, "\n## {header}\n\n{}\n", paragraphs(description(property)));
        if name == "defaults" {
            let names: Vec<_> = keys(table).into_iter().map(|key| format!("`{key}`")).collect();
            let _ = write!(out, "\nKeys, as in [`[[route]]`](#route): {}.\n", names.join(", "));
            continue;
        }
        keys_table(&mut out, table, root);
        if matches!(name, "route" | "transport") {
            for key in keys(table) {
                sub_table(&mut out, &format!("{name}.{key}"), &table["properties"][key], root);
            }
        }
    }
    out
}

/// The options of all linked plugins.
#[must_use]
pub fn plugin_reference(registry: &Registry) -> String {
    let mut out = format!("{GENERATED}# Plugin reference\n\nThe options stand in `[route.with]` of a route whose `handler` is the plugin's name.\n");
    for plugin in registry.iter() {
        let root = schema::of_plugin(plugin);
        let _ = write!(out, "\n## `{}`\n\n{}\n", plugin.name, paragraphs(description(&root)));
        if keys(&root).is_empty() {
            out.push_str("\nIt takes no options.\n");
            continue;
        }
        keys_table(&mut out, &root, &root);
        for key in keys(&root) {
            sub_table(&mut out, key, &root["properties"][key], &root);
        }
    }
    out
}

/// The generated files and their contents, with paths relative to the repository: what `event-router schema --write` writes and
/// a test compares.
#[must_use]
pub fn generated_files(registry: &Registry) -> Vec<(&'static str, String)> {
    let schema = serde_json::to_string_pretty(&schema::config_schema(registry)).unwrap_or_default();
    vec![("config/router.schema.json", format!("{schema}\n")), ("config/REFERENCE.md", config_reference()), ("config/PLUGINS.md", plugin_reference(registry))]
}

/// The keys of a table that stands under a key, also within an array or as one of several forms.
fn sub_table(out: &mut String, name: &str, property: &Value, root: &Value) {
    let inner = resolved(property, root);
    let alternatives = inner.get("anyOf").or_else(|| inner.get("oneOf")).and_then(Value::as_array);
    let candidates = [inner, resolved(&inner["items"], root), resolved(&inner["additionalProperties"], root)].into_iter();
    let candidates: Vec<&Value> = candidates.chain(alternatives.into_iter().flatten().map(|alternative| resolved(alternative, root))).collect();
    for table in candidates.into_iter().filter(|table| table["properties"].as_object().is_some_and(|properties| !properties.is_empty())) {
        let _ = write!(out, "\n### `{name}`\n\n{}\n", paragraphs(description(table)));
        keys_table(out, table, root);
        // One level more is enough for what there is: `retry.on`.
        for key in keys(table) {
            let deeper = resolved(&table["properties"][key], root);
            if deeper["properties"].is_object() && !std::ptr::eq(deeper, table) && name.matches('.').count() < 2 {
                sub_table(out, &format!("{name}.{key}"), &table["properties"][key], root);
            }
        }
    }
}

fn keys_table(out: &mut String, table: &Value, root: &Value) {
    out.push_str("\n| key | value | meaning |\n| --- | --- | --- |\n");
    let required = |key: &str| table["required"].as_array().is_some_and(|required| required.iter().any(|name| name == key));
    for key in keys(table) {
        let property = &table["properties"][key];
        let mut meaning = cell(description(property));
        if meaning.is_empty() {
            meaning = cell(description(resolved(property, root)));
        }
        // Comments that say it themselves say it better; nothing at all is no default worth a word.
        let is_nothing = |value: &Value| matches!(value, Value::Null) || value == &serde_json::json!([]) || value == &serde_json::json!({});
        let default = property.get("default").filter(|value| !is_nothing(value) && !meaning.to_ascii_lowercase().contains("default"));
        if required(key) {
            meaning = meaning.replace(" Required.", "");
            meaning.push_str(" **Required.**");
        } else if let Some(default) = default {
            let _ = write!(meaning, " Default `{}`.", toml_literal(default));
        }
        let _ = writeln!(out, "| `{key}` | {} | {} |", kind(property, root, 0), meaning.trim());
    }
}

/// Required ones first, then by name.
fn keys(table: &Value) -> Vec<&str> {
    let required: Vec<&str> = table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut keys: Vec<&str> = table["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
    keys.sort_by_key(|key| (required.iter().position(|name| name == key).unwrap_or(usize::MAX), *key));
    keys
}

fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    schema.get("$ref").and_then(Value::as_str).and_then(|reference| root.pointer(reference.strip_prefix('#')?)).unwrap_or(schema)
}

fn description(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// What a value looks like, in a few words.
fn kind(schema: &Value, root: &Value, depth: usize) -> String {
    let target = resolved(schema, root);
    if let Some(choices) = choices(target, root) {
        return choices.iter().map(|choice| format!("`\"{choice}\"`")).collect::<Vec<_>>().join(" or ");
    }
    if let Some(alternatives) = target.get("anyOf").or_else(|| target.get("oneOf")).and_then(Value::as_array).filter(|_| depth < 4) {
        let mut kinds: Vec<String> = alternatives.iter().map(|alternative| kind(alternative, root, depth + 1)).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    match target["type"].as_str() {
        Some("integer") => {
            let bound = |word: &str| target.get(word).or_else(|| schema.get(word)).and_then(Value::as_f64);
            let number = |bound: f64| format!("{bound:.0}");
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("integer, {} to {}", number(least), number(most)),
                (Some(least), None) if least > 0.0 => format!("integer, at least {}", number(least)),
                _ => "integer".to_owned(),
            }
        }
        Some("array") => match kind(&target["items"], root, depth + 1).as_str() {
            "" | "any" => "array".to_owned(),
            one if one.contains(" or ") => format!("array of ({one})"),
            one => format!("array of {}s", one.split(',').next().unwrap_or(one)),
        },
        Some("object") => "table".to_owned(),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

fn choices<'a>(schema: &'a Value, root: &'a Value) -> Option<Vec<&'a str>> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(Value::as_str).collect();
    }
    if let Some(value) = schema.get("const") {
        return value.as_str().map(|value| vec![value]);
    }
    let alternatives = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
    alternatives.iter().map(|alternative| choices(resolved(alternative, root), root)).collect::<Option<Vec<_>>>().map(|nested| nested.concat())
}

fn toml_literal(value: &Value) -> String {
    match value {
        Value::Object(object) if object.is_empty() => "{}".to_owned(),
        Value::Object(object) => {
            let entries: Vec<_> = object.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| format!("{key} = {}", toml_literal(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(toml_literal).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Doc comments are wrapped; Markdown is not.
fn paragraphs(text: &str) -> String {
    text.split("\n\n")
        .map(|paragraph| if paragraph.contains("```") { paragraph.to_owned() } else { paragraph.replace('\n', " ") })
        .collect::<Vec<_>>()
        .join("\n\n")
}

fn cell(text: &str) -> String {
    paragraphs(text).replace("\n\n", "<br>").replace('\n', " ").replace('|', "\\|")
}
