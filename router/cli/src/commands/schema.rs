//! `schema`: the JSON Schema of the configuration, those of the events, the OpenAPI document of the doors, and the files that are
//! generated from the source.

use std::fs;

use anyhow::{Context as _, bail};
use router_api::Registry;
use router_core::config;
use serde_json::Value;

use crate::{
    Ended,
    args::{SchemaArgs, SchemaOf},
    terminal::{DIM, GOOD, Output, styled},
};

/// The shapes of events that are on the wire, one definition for each dialect.
static EVENTS: &str = include_str!("../../schemas/events.schema.json");

/// Where the description of the doors lies.
const OPENAPI_FILE: &str = "docs/openapi.json";

pub(crate) fn run(args: &SchemaArgs, out: &mut Output) -> anyhow::Result<Ended> {
    match args.of {
        Some(SchemaOf::Events) => {
            let schema: Value = serde_json::from_str(EVENTS).context("the schema of the events is part of the program")?;
            out.json(&schema)?;
        }
        Some(SchemaOf::Openapi) => out.json(&router_http::openapi())?,
        None if args.write => write(args, out)?,
        None => out.json(&config::config_schema(&Registry::linked()?))?,
    }
    Ok(Ended::Well)
}

fn write(args: &SchemaArgs, out: &mut Output) -> anyhow::Result<()> {
    let registry = Registry::linked()?;
    if !args.dir.join("config").is_dir() {
        bail!("`{}` has no `config` directory: run it in the repository, or name it with `--dir`", args.dir.display());
    }
    let openapi = serde_json::to_string_pretty(&router_http::openapi()).context("JSON can be written")? + "\n";
    for (name, content) in config::generated_files(&registry).into_iter().chain([(OPENAPI_FILE, openapi)]) {
        let path = args.dir.join(name);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
        }
        let unchanged = fs::read_to_string(&path).is_ok_and(|present| present == content);
        if !unchanged {
            fs::write(&path, content).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        let (sign, what) = if unchanged { (styled(DIM, "·"), "is up to date") } else { (styled(GOOD, "✓"), "written") };
        out.line(format_args!("{sign} {} {what}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use router_api::{DecodeLimits, Dialect, Envelope};

    use super::*;
    use crate::session;

    fn definition(dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::CloudEvents => "cloudevent",
            Dialect::V2 => "bloodbank-v2",
            Dialect::Command => "bloodbank-command",
            Dialect::V1 => "bloodbank-v1",
            Dialect::Hookd => "hookd",
            Dialect::Flume => "flume",
            Dialect::V2Lenient => "bloodbank-v2-lenient",
            Dialect::Opaque => "opaque",
        }
    }

    #[test]
    fn every_recorded_event_has_what_the_schema_of_its_dialect_requires_and_nothing_of_another_type() {
        let schemas: Value = serde_json::from_str(EVENTS).unwrap();
        for recorded in session::recording() {
            let event = Envelope::decode(recorded.key.clone(), recorded.body.clone(), DecodeLimits::default()).unwrap();
            let name = definition(event.dialect());
            let schema = &schemas["$defs"][name];
            assert!(schema.is_object(), "`{name}` is described");
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(event.body().get(required.as_str().unwrap()).is_some(), "{} lacks {required}", recorded.note);
            }
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                let (Some(value), Some(expected)) = (event.body().get(field), property.get("type")) else { continue };
                let actual = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "number",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                let fits = expected == actual || expected.as_array().is_some_and(|types| types.iter().any(|kind| kind == actual));
                assert!(fits, "`{field}` of `{}` is {actual}, the schema says {expected}", recorded.note);
            }
        }
    }

    #[test]
    fn every_reference_of_the_event_schemas_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let schemas: Value = serde_json::from_str(EVENTS).unwrap();
        let mut found = Vec::new();
        references(&schemas, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let name = reference.strip_prefix("#/$defs/").unwrap();
            assert!(schemas["$defs"][name].is_object(), "{reference}");
        }
    }
}
