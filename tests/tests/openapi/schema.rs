//! Holds a JSON value against a JSON Schema of the document, more strictly than the schema says: a field that is not described is a
//! problem, since nobody reads what is not written down. A word of a schema that this file does not know ends the test.

use serde_json::{Map, Value};

/// The document, for its references.
#[derive(Clone, Copy)]
pub struct Document<'a>(pub &'a Value);

impl<'a> Document<'a> {
    /// What a reference leads to; itself where there is none.
    pub fn resolved(&self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere")),
            None => value,
        }
    }

    /// What is wrong with `value`.
    pub fn problems(&self, schema: &'a Value, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        self.check(schema, value, "", &mut problems);
        self.check_names(schema, value, "", &mut problems);
        problems
    }

    fn check(&self, schema: &'a Value, value: &Value, place: &str, problems: &mut Vec<String>) {
        let Value::Object(words) = schema else { panic!("no schema at `{place}`: {schema}") };
        let mut wrong = |what: String| problems.push(format!("`{place}`: {what}"));
        let length = |value: &Value| value.as_str().map(|text| text.chars().count() as u64);
        for (word, said) in words {
            match word.as_str() {
                "description"
                | "examples"
                | "default"
                | "title"
                | "properties"
                | "required"
                | "items"
                | "additionalProperties"
                | "oneOf"
                | "anyOf"
                | "$ref" => {}
                "type" => {
                    let kinds = said.as_array().map_or_else(|| vec![said], |kinds| kinds.iter().collect());
                    if !kinds.iter().any(|kind| is(kind.as_str().expect("a type is a word"), value)) {
                        wrong(format!("{value} is no {said}"));
                    }
                }
                "const" if value != said => wrong(format!("{value} is not {said}")),
                "enum" if !said.as_array().expect("a list").contains(value) => wrong(format!("{value} is none of {said}")),
                "const" | "enum" => {}
                "uniqueItems" => {
                    let items = value.as_array().map_or(&[][..], Vec::as_slice);
                    if said == true && (1..items.len()).any(|place| items[..place].contains(&items[place])) {
                        wrong("something is in it twice".to_owned());
                    }
                }
                "format" => {
                    if let Some(text) = value.as_str() {
                        let good = match said.as_str().expect("a format is a word") {
                            "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
                            "uuid" => uuid::Uuid::parse_str(text).is_ok(),
                            format => panic!("format `{format}` of a text is not known to this test"),
                        };
                        if !good {
                            wrong(format!("{value} is no {said}"));
                        }
                    }
                }
                "pattern" => {
                    if let Some(text) = value.as_str() {
                        let good = match said.as_str().expect("a pattern is a text") {
                            "^[a-z][a-z0-9-]{0,62}$" => text.parse::<router_api::RouteName>().is_ok(),
                            "^[^\\u0000-\\u001f\\u007f-\\u009f]*$" => !text.contains(char::is_control),
                            "^([0-9a-f]{2})*$" => text.len() % 2 == 0 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
                            pattern => panic!("pattern `{pattern}` is not known to this test"),
                        };
                        if !good {
                            wrong(format!("{value} does not fit {said}"));
                        }
                    }
                }
                "minimum" if value.as_f64() < said.as_f64() && value.is_number() => wrong(format!("{value} is below {said}")),
                "maximum" if value.as_f64() > said.as_f64() => wrong(format!("{value} is above {said}")),
                "minLength" if length(value).is_some_and(|found| Some(found) < said.as_u64()) => wrong(format!("{value} is shorter than {said}")),
                "maxLength" if length(value).is_some_and(|found| Some(found) > said.as_u64()) => wrong(format!("{value} is longer than {said}")),
                "maxItems" if value.as_array().is_some_and(|items| Some(items.len() as u64) > said.as_u64()) => wrong(format!("more than {said}")),
                "minimum" | "maximum" | "minLength" | "maxLength" | "maxItems" => {}
                word => panic!("`{word}` at `{place}` is not known to this test"),
            }
        }
        if words.contains_key("$ref") {
            self.check(self.resolved(schema), value, place, problems);
        }
        if let (Some(required), Value::Object(object)) = (schema["required"].as_array(), value) {
            let missing = required.iter().filter(|name| !object.contains_key(name.as_str().expect("a name")));
            problems.extend(missing.map(|name| format!("`{place}`: {name} is missing")));
        }
        if let (Some(properties), Value::Object(object)) = (schema["properties"].as_object(), value) {
            for (name, schema) in properties {
                if let Some(value) = object.get(name) {
                    self.check(schema, value, &format!("{place}/{name}"), problems);
                }
            }
        }
        if let (Some(items), Value::Array(values)) = (words.get("items"), value) {
            for (at, value) in values.iter().enumerate() {
                self.check(items, value, &format!("{place}/{at}"), problems);
                self.check_names(items, value, &format!("{place}/{at}"), problems);
            }
        }
        for (word, least, most) in [("oneOf", 1, 1), ("anyOf", 1, usize::MAX)] {
            let Some(branches) = schema[word].as_array() else { continue };
            let fitting = branches.iter().filter(|branch| self.fits(branch, value)).count();
            if fitting < least || fitting > most {
                problems.push(format!("`{place}`: {value} fits {fitting} of {word}"));
            }
        }
    }

    fn fits(&self, schema: &'a Value, value: &Value) -> bool {
        let mut problems = Vec::new();
        self.check(schema, value, "", &mut problems);
        problems.is_empty()
    }

    /// Every field is described somewhere: in the schema, in what it refers to, or in the branch that fits.
    fn check_names(&self, schema: &'a Value, value: &Value, place: &str, problems: &mut Vec<String>) {
        let Value::Object(object) = value else { return };
        let mut described = Map::new();
        if !self.collect(schema, value, &mut described) {
            return;
        }
        for (name, value) in object {
            match described.get(name) {
                Some(Value::Object(_)) => {
                    let schema = self.property(schema, object, name).expect("it was collected");
                    self.check_names(schema, value, &format!("{place}/{name}"), problems);
                }
                _ => problems.push(format!("`{place}`: `{name}` is not described")),
            }
        }
    }

    /// False where any field may stand.
    fn collect(&self, schema: &'a Value, value: &Value, described: &mut Map<String, Value>) -> bool {
        if schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false)) {
            return false;
        }
        let mut closed = false;
        if let Some(properties) = schema["properties"].as_object() {
            described.extend(properties.clone());
            closed = true;
        }
        if schema.get("$ref").is_some() {
            closed |= self.collect(self.resolved(schema), value, described);
        }
        for word in ["oneOf", "anyOf"] {
            for branch in schema[word].as_array().into_iter().flatten().filter(|branch| self.fits(branch, value)) {
                closed |= self.collect(branch, value, described);
            }
        }
        closed
    }

    fn property(&self, schema: &'a Value, object: &Map<String, Value>, name: &str) -> Option<&'a Value> {
        let own = schema["properties"].as_object().and_then(|properties| properties.get(name));
        let referred = || schema.get("$ref").and_then(|_| self.property(self.resolved(schema), object, name));
        let branches = || {
            let whole = Value::Object(object.clone());
            let mut branches = ["oneOf", "anyOf"].into_iter().flat_map(|word| schema[word].as_array().into_iter().flatten());
            branches.find_map(|branch| self.fits(branch, &whole).then(|| self.property(branch, object, name)).flatten())
        };
        own.or_else(referred).or_else(branches)
    }

    /// A value that fits: with all that is described, or only with what is required.
    pub fn example(&self, schema: &'a Value, all: bool) -> Value {
        let schema = self.resolved(schema);
        if let Some(value) = schema["enum"].get(0).or_else(|| schema.get("const")) {
            return value.clone();
        }
        if let Some(first) = schema["oneOf"].get(0).or_else(|| schema["anyOf"].get(0)) {
            return self.example(first, all);
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
        match kind {
            Some("object") => {
                let required = |name: &str| schema["required"].as_array().is_some_and(|required| required.iter().any(|known| known == name));
                let properties = schema["properties"].as_object().into_iter().flatten().filter(|(name, _)| all || required(name));
                Value::Object(properties.map(|(name, schema)| (name.clone(), self.example(schema, all))).collect())
            }
            Some("array") => Value::Array(vec![self.example(&schema["items"], all)]),
            Some("integer") => 7.into(),
            Some("number") => 0.5.into(),
            Some("boolean") => true.into(),
            Some("string") => match schema["format"].as_str() {
                Some("date-time") => "2026-01-30T12:00:00Z".into(),
                Some("uuid") => "7d4f8ac1-35a1-4c23-9f4a-3a0cbb2f8f10".into(),
                _ => "some.text".into(),
            },
            _ => "anything".into(),
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        kind => panic!("type `{kind}` is not known"),
    }
}

#[test]
fn a_value_that_differs_from_its_schema_is_noticed() {
    let document = serde_json::json!({ "components": { "schemas": { "Named": {
        "oneOf": [{ "type": "object", "properties": { "kind": { "const": "a" } }, "required": ["kind"] }, { "type": "null" }]
    } } } });
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "at": { "type": ["string", "null"], "format": "date-time" },
            "count": { "type": "integer", "minimum": 1 },
            "named": { "$ref": "#/components/schemas/Named", "properties": { "more": { "type": "string" } } },
            "list": { "type": "array", "items": { "type": "object", "properties": { "x": {} } } },
            "open": { "type": "object", "additionalProperties": true },
            "set": { "type": "array", "uniqueItems": true, "items": { "type": "string" } },
        },
        "required": ["at"],
    });
    let document = Document(&document);
    let good = serde_json::json!({ "at": "2026-01-30T12:00:00Z", "count": 1, "named": { "kind": "a", "more": "x" }, "list": [{ "x": 1 }], "open": { "y": 1 } });
    assert_eq!(document.problems(&schema, &good), Vec::<String>::new());
    assert_eq!(document.problems(&schema, &serde_json::json!({ "at": null, "named": null })), Vec::<String>::new());
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({ "at": "yesterday" }),
        serde_json::json!({ "at": null, "count": 0 }),
        serde_json::json!({ "at": null, "count": 1.5 }),
        serde_json::json!({ "at": null, "named": { "kind": "b" } }),
        serde_json::json!({ "at": null, "named": { "kind": "a", "other": 1 } }),
        serde_json::json!({ "at": null, "list": [{ "z": 1 }] }),
        serde_json::json!({ "at": null, "set": ["a", "b", "a"] }),
        serde_json::json!({ "at": null, "unknown": 1 }),
        serde_json::json!([]),
    ] {
        assert!(!document.problems(&schema, &wrong).is_empty(), "{wrong}");
    }
}
