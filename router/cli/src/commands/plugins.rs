//! `plugins [NAME]`: the linked plugins, and the reference of one.

use anyhow::bail;
use router_api::{Registration, Registry, suggest};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Ended,
    args::PluginsArgs,
    terminal::{BOLD, DIM, NAME, Output, Table, harmless, styled},
};

#[derive(Serialize)]
struct PluginsAnswer {
    schema: &'static str,
    plugins: Vec<PluginLine>,
}

#[derive(Serialize)]
struct PluginLine {
    name: &'static str,
    summary: String,
}

#[derive(Serialize)]
struct PluginAnswer {
    schema: &'static str,
    name: &'static str,
    summary: String,
    /// JSON Schema of its `with` table.
    with: Value,
}

pub(crate) fn run(args: &PluginsArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let registry = Registry::linked()?;
    match &args.name {
        None => list(&registry, args.json.json, out)?,
        Some(name) => {
            let Some(plugin) = registry.get(name) else {
                let linked: Vec<String> = registry.iter().map(|plugin| format!("`{}`", plugin.name)).collect();
                let near = suggest(name, registry.iter().map(|plugin| plugin.name)).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                bail!("no plugin `{}` is linked into this program: {near}there are {}", harmless(name), linked.join(", "));
            };
            show(plugin, args.json.json, out)?;
        }
    }
    Ok(Ended::Well)
}

fn list(registry: &Registry, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let lines = registry.iter().map(|plugin| PluginLine { name: plugin.name, summary: summary(&plugin.schema().to_value()) });
    if json {
        out.json(&PluginsAnswer { schema: "event-router.plugins.v1", plugins: lines.collect() })?;
        return Ok(());
    }
    let mut table = Table::new(&["PLUGIN", "DOES"]);
    for line in lines {
        table.row(vec![(NAME, line.name.to_owned()), (anstyle::Style::new(), line.summary)]);
    }
    out.line(table)?;
    out.line(styled(DIM, "`event-router plugins NAME` shows the options of one"))?;
    Ok(())
}

fn show(plugin: &Registration, json: bool, out: &mut Output) -> anyhow::Result<()> {
    let schema = plugin.schema().to_value();
    if json {
        out.json(&PluginAnswer { schema: "event-router.plugin.v1", name: plugin.name, summary: summary(&schema), with: schema })?;
        return Ok(());
    }
    out.line(styled(BOLD, plugin.name))?;
    for line in description(&schema).lines() {
        out.line(format_args!("  {line}").to_string().trim_end())?;
    }
    let options = options(&schema, &schema, String::new());
    if !options.is_empty() {
        out.gap()?;
        out.line(styled(DIM, "[route.with]"))?;
    }
    for option in options {
        let note = [Some(option.kind), option.required.then(|| "required".to_owned()), option.default.map(|default| format!("default {default}"))];
        let note: Vec<String> = note.into_iter().flatten().collect();
        out.gap()?;
        out.line(format_args!("  {}  {}", styled(NAME, &option.name), styled(DIM, note.join(", "))))?;
        for line in option.description.lines() {
            out.line(format_args!("      {line}").to_string().trim_end())?;
        }
    }
    Ok(())
}

/// One option of a plugin, ready to be shown.
struct PluginOption {
    name: String,
    kind: String,
    required: bool,
    default: Option<String>,
    description: String,
}

/// Tables within tables that are followed; a type that contains itself ends here.
const DEPTH_MAX: usize = 6;

/// The options of an object schema, those of inner tables below their own name.
fn options(root: &Value, schema: &Value, prefix: String) -> Vec<PluginOption> {
    let mut found = Vec::new();
    if prefix.matches('.').count() >= DEPTH_MAX {
        return found;
    }
    let schema = resolved(root, schema);
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let inner = resolved(root, property);
        let described = if property["description"].is_string() { property } else { inner };
        let path = format!("{prefix}{name}");
        found.push(PluginOption {
            name: path.clone(),
            kind: kind(root, property),
            required: required.contains(&name.as_str()),
            default: property.get("default").filter(|default| !default.is_null()).map(ToString::to_string),
            description: description(described),
        });
        if inner["properties"].is_object() {
            found.extend(options(root, inner, format!("{path}.")));
        }
    }
    found
}

/// Follows a reference, and leaves the `null` of an optional value aside.
pub(crate) fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..DEPTH_MAX {
        if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
            schema = &root["$defs"][name];
        } else if let Some(only) = schema["anyOf"].as_array().and_then(|all| only_one(all)) {
            schema = only;
        } else {
            break;
        }
    }
    schema
}

fn only_one(all: &[Value]) -> Option<&Value> {
    let mut others = all.iter().filter(|schema| schema["type"] != "null");
    others.next().filter(|_| others.next().is_none())
}

/// What may stand there, in a few words.
pub(crate) fn kind(root: &Value, schema: &Value) -> String {
    let schema = resolved(root, schema);
    let allowed = |values: &Vec<Value>| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    if let Some(values) = schema["enum"].as_array() {
        return allowed(values);
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(variants) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        return variants.iter().map(|variant| kind(root, variant)).collect::<Vec<_>>().join(" | ");
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ => Vec::new(),
    };
    match names.as_slice() {
        [] => "any value".to_owned(),
        ["array"] => format!("list of {}", kind(root, &schema["items"])),
        ["object"] if schema["properties"].is_object() => "table".to_owned(),
        ["object"] => format!("table of {}", kind(root, &schema["additionalProperties"])),
        ["string"] => "text".to_owned(),
        names => names.join(" | "),
    }
}

pub(crate) fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().trim().to_owned()
}

/// The first sentence of a description.
pub(crate) fn summary(schema: &Value) -> String {
    let text = description(schema);
    let paragraph = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match paragraph.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => paragraph,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_found_through_references_and_optional_values_and_in_inner_tables() {
        let schema = json!({
            "description": "Runs a check. And more.\n\nMuch more.",
            "required": ["command"],
            "properties": {
                "command": { "type": "array", "items": { "type": "string" }, "description": "What to run." },
                "level": { "anyOf": [{ "$ref": "#/$defs/Level" }, { "type": "null" }], "default": null },
                "retry": { "$ref": "#/$defs/Retry" },
                "count": { "type": ["integer", "null"], "default": 3 },
            },
            "$defs": {
                "Level": { "enum": ["low", "high"], "description": "How loud." },
                "Retry": { "type": "object", "properties": { "max": { "type": "integer" } } },
            },
        });
        assert_eq!(summary(&schema), "Runs a check.");
        let shown: Vec<String> = options(&schema, &schema, String::new())
            .into_iter()
            .map(|option| format!("{} {} {} {:?} {}", option.name, option.kind, option.required, option.default, option.description))
            .collect();
        let mut expected = vec![
            "command list of text true None What to run.",
            "level \"low\" | \"high\" false None How loud.",
            "retry table false None ",
            "retry.max integer false None ",
            "count integer false Some(\"3\") ",
        ];
        let mut shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        shown.sort_unstable();
        expected.sort_unstable();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let schema = json!({ "$ref": "#/$defs/A", "$defs": { "A": { "type": "object", "properties": { "a": { "$ref": "#/$defs/A" } } } } });
        assert!(options(&schema, &schema, String::new()).len() <= DEPTH_MAX + 1);
    }
}
