//! The description of everything that the doors answer: an OpenAPI 3.1 document, served at `GET /api/v1/openapi.json` and printed by
//! `event-router schema openapi`.
//!
//! Shapes come from the types that are written and read (their JSON Schemas), Bloodbank's bodies from the fields that they are checked
//! by. What each path takes and answers is told in [`operations`]; a test holds that list against the paths that are really served.

mod operations;
mod session_operations;
mod shapes;

use std::sync::LazyLock;

use axum::response::IntoResponse;
use http::header;
use serde_json::{Map, Value, json};

use crate::paths::{Paths, get};
use shapes::Shapes;

/// Where the document is.
const PATH: &str = "/api/v1/openapi.json";

/// The document.
#[must_use]
pub fn openapi() -> Value {
    let mut shapes = Shapes::new();
    let mut paths = Map::new();
    for operation in operations::all(&mut shapes) {
        let method = operation.method.as_str().to_ascii_lowercase();
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[method] = operation.described;
    }
    let (schemas, responses) = shapes.into_components();
    let mut document = json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "event-router",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Events come in, and operators see and command what becomes of them",
            "description": "An answer of 2xx to an event means that it is on disk. Answers grow by new fields only. The paths below `/api/v1` are also \
                            served on the Unix socket beside the store, where they need no token.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8682", "description": "Where the door is unless `[http] listen` says otherwise" }],
        "tags": [
            { "name": "events", "description": "Events of any form" },
            { "name": "claude-code", "description": "Hooks of Claude Code" },
            { "name": "bloodbank", "description": "What Bloodbank's producers send, answered as Bloodbank answers" },
            { "name": "health", "description": "For monitors" },
            { "name": "admin", "description": "What the commands do; over TCP with an admin token only, loopback included" },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "One of `[http] tokens` or of `admin_tokens`" },
                "adminToken": { "type": "http", "scheme": "bearer", "description": "One of `[http] admin_tokens`" },
            },
        },
    });
    in_plain_words(&mut document);
    document
}

/// Descriptions are the doc comments of the types; what they say to readers of the source is said to everybody.
fn in_plain_words(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| match value {
            Value::String(text) if name == "description" => *text = without_links(text).replace("`None`", "null"),
            value => in_plain_words(value),
        }),
        Value::Array(items) => items.iter_mut().for_each(in_plain_words),
        _ => {}
    }
}

/// A link to an item of the source becomes its name.
fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        plain.push_str(before);
        let Some((name, after)) = link.split_once("`]") else {
            rest = &rest[before.len()..];
            break;
        };
        plain.push_str(&format!("`{}`", name.rsplit("::").next().unwrap_or(name)));
        rest = after;
    }
    plain + rest
}

/// The path of the document. It tells nothing about this router, so it needs a token only where everything does.
pub(crate) fn routes() -> Paths {
    static TEXT: LazyLock<String> = LazyLock::new(|| openapi().to_string());
    Paths::new().route(PATH, get(|| async { ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response() }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_shape_is_used() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = openapi();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let named = |kind: &str| {
            let all = document["components"][kind].as_object().unwrap().keys();
            all.map(|name| format!("#/components/{kind}/{name}")).collect::<Vec<_>>()
        };
        let there: BTreeSet<String> = named("schemas").into_iter().chain(named("responses")).collect();
        assert_eq!(found, there);
    }

    #[test]
    fn descriptions_are_for_readers_who_do_not_know_the_source() {
        assert_eq!(without_links("see [`crate::Context::note`], and [`A`]: [x]"), "see `note`, and `A`: [x]");
        assert_eq!(without_links("an open [`A"), "an open [`A");
        let text = openapi().to_string();
        for word in ["[`", "`None`", "`Some", "crate::"] {
            assert!(!text.contains(word), "{word}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_what_it_is_for() {
        let document = openapi();
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
                assert!(names.insert(name.to_owned()), "{name} twice");
                assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name}");
                let named = path.split('/').filter(|part| part.starts_with('{')).map(|part| part.trim_matches(['{', '}']));
                let parameters: Vec<&str> = operation["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| parameter["name"].as_str().unwrap())
                    .collect();
                assert_eq!(named.collect::<Vec<_>>(), parameters, "{path}");
            }
        }
    }
}
