//! The shapes of requests and answers, by name.

use router_api::RoutingKey;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    bloodbank_fields::{AGENT, CLAUDE_CODE, PROMPT, PUBLISH},
    request_schema::{self, Fields},
};

/// Collects the shapes that the document refers to.
pub(super) struct Shapes {
    answers: SchemaGenerator,
    requests: SchemaGenerator,
    others: Map<String, Value>,
    responses: Map<String, Value>,
}

const PREFIX: &str = "#/components/schemas/";

pub(super) fn named(name: &str) -> Value {
    json!({ "$ref": format!("{PREFIX}{name}") })
}

impl Shapes {
    pub(super) fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = PREFIX.trim_start_matches('#').to_owned().into();
            settings.meta_schema = None;
            settings
        };
        Self {
            answers: settings().for_serialize().into_generator(),
            requests: settings().for_deserialize().into_generator(),
            others: Map::new(),
            responses: Map::new(),
        }
    }

    /// What is written.
    pub(super) fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().to_value()
    }

    /// What is read.
    pub(super) fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    /// The parameters of a query, those that are in `only` if it is given.
    pub(super) fn query<T: JsonSchema>(&mut self, only: Option<&[&str]>) -> Vec<Value> {
        let schema = self.requests.root_schema_for::<T>().to_value();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let meant = properties.filter(|(name, _)| only.is_none_or(|only| only.contains(&name.as_str())));
        let parameter = |(name, schema): (&String, &Value)| {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            // In a query nothing is null: it is there or it is not.
            if let Some(kinds) = schema["type"].as_array() {
                schema["type"] = kinds.iter().find(|kind| *kind != "null").cloned().unwrap_or(Value::Null);
            }
            if let Some(kinds) = schema["anyOf"].as_array() {
                schema = kinds.iter().find(|kind| kind["type"] != "null").cloned().unwrap_or(Value::Null);
            }
            if let Some(schema) = schema.as_object_mut() {
                schema.retain(|name, value| !value.is_null() && name != "default");
            }
            json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": description })
        };
        meant.map(parameter).collect()
    }

    /// A shape that no single type has.
    pub(super) fn other(&mut self, name: &str, schema: Value) -> Value {
        self.others.insert(name.to_owned(), schema);
        named(name)
    }

    /// An answer that many operations give.
    pub(super) fn response(&mut self, name: String, response: impl FnOnce(&mut Self) -> Value) -> Value {
        let reference = json!({ "$ref": format!("#/components/responses/{name}") });
        if !self.responses.contains_key(&name) {
            let response = response(self);
            self.responses.insert(name, response);
        }
        reference
    }

    /// What a verb answers: the name of the shape, and the result.
    pub(super) fn verb<T: JsonSchema>(&mut self, schema: &str) -> Value {
        let result = self.answer::<T>();
        json!({
            "type": "object",
            "properties": { "schema": { "type": "string", "const": schema }, "result": result },
            "required": ["schema", "result"],
        })
    }

    /// All shapes and all answers that are referred to by name.
    pub(super) fn into_components(mut self) -> (Map<String, Value>, Map<String, Value>) {
        let mut all = self.others;
        for (name, schema) in self.answers.take_definitions(true).into_iter().chain(self.requests.take_definitions(true)) {
            // What is read and written is described once, in the words of who writes it.
            all.entry(name).or_insert(schema);
        }
        (all, self.responses)
    }
}

/// What no routing key has.
const NO_CONTROL_CHARACTERS: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

/// A routing key.
pub(super) fn key() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": RoutingKey::BYTES_MAX, "pattern": NO_CONTROL_CHARACTERS })
}

/// The name of an agent that does this: a key is made of both.
pub(super) fn agent(action: &str) -> Value {
    let rest = "agent..".len() + action.len();
    json!({ "type": "string", "minLength": 1, "maxLength": RoutingKey::BYTES_MAX - rest, "pattern": NO_CONTROL_CHARACTERS })
}

/// Any event: an object that has a key, or is given one beside it.
pub(super) fn event(shapes: &mut Shapes) -> Value {
    let schema = json!({
        "description": "Any JSON object. Without `?key=` it needs `event_type` or `type`. Its id is `event_id` or `id`, as its dialect has it.",
        "type": "object",
        "properties": { "event_type": key(), "type": key() },
        "examples": [{ "event_type": "artifact.created", "payload": { "path": "src/app.py" } }],
    });
    shapes.other("Event", schema)
}

/// A CloudEvent 1.0 in its structured form.
pub(super) fn cloud_event(shapes: &mut Shapes) -> Value {
    let text = || json!({ "type": "string", "minLength": 1 });
    let schema = json!({
        "type": "object",
        "properties": { "specversion": { "const": "1.0" }, "id": text(), "source": text(), "type": key(), "data": {} },
        "required": ["specversion", "id", "source", "type"],
    });
    shapes.other("CloudEvent", schema)
}

/// Bloodbank's envelope, as it is on the bus.
pub(super) fn envelope(shapes: &mut Shapes) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "event_id": { "type": "string", "format": "uuid" },
            "event_type": { "type": "string" },
            "timestamp": { "type": "string", "format": "date-time" },
            "version": { "type": "string", "const": "1.0.0" },
            "source": {
                "type": "object",
                "properties": {
                    "host": { "type": "string", "description": "The sender's address" },
                    "type": { "type": "string" },
                    "app": { "type": "string" },
                    "meta": { "type": ["object", "null"] },
                },
                "required": ["host", "type", "app", "meta"],
            },
            "correlation_ids": { "type": "array", "items": { "type": "string" } },
            "agent_context": { "type": ["object", "null"] },
            "payload": { "type": "object", "description": "What was sent, checked and with its defaults" },
        },
        "required": ["event_id", "event_type", "timestamp", "version", "source", "correlation_ids", "agent_context", "payload"],
    });
    shapes.other("BloodbankEnvelope", schema)
}

/// Bloodbank's refusals.
pub(super) fn detail(shapes: &mut Shapes) -> Value {
    let schema = json!({
        "type": "object",
        "properties": { "detail": { "oneOf": [
            { "type": "string" },
            { "type": "array", "items": {
                "type": "object",
                "properties": {
                    "type": { "type": "string" },
                    "loc": { "type": "array", "items": { "type": ["string", "integer"] } },
                    "msg": { "type": "string" },
                    "input": { "description": "What was sent there; null where it is long" },
                    "ctx": { "type": "object", "additionalProperties": true },
                },
                "required": ["type", "loc", "msg", "input"],
            } },
        ] } },
        "required": ["detail"],
    });
    shapes.other("Detail", schema)
}

/// A body of Bloodbank's, by its name.
pub(super) fn fields(shapes: &mut Shapes, name: &str, fields: Fields) -> Value {
    shapes.other(name, request_schema::described(fields))
}

/// The endpoints whose bodies are described by their fields: path, what it is for, the shape.
pub(super) fn described_bodies(shapes: &mut Shapes) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, key, body) in CLAUDE_CODE {
        let shape = fields(shapes, &camel(&["claude", path]), body);
        all.push((format!("/events/claude-code/{path}"), format!("`{key}`"), shape));
    }
    all.push(("/events/agent/thread/prompt".to_owned(), "`agent.thread.prompt`".to_owned(), fields(shapes, "AgentPrompt", PROMPT)));
    all
}

/// What an agent may say: action and shape.
pub(super) fn actions(shapes: &mut Shapes) -> Vec<(&'static str, Value)> {
    AGENT.iter().map(|(action, body)| (*action, fields(shapes, &camel(&["agent", action]), body))).collect()
}

/// The body of `/publish`.
pub(super) fn publish(shapes: &mut Shapes) -> Value {
    let mut schema = request_schema::described(PUBLISH);
    schema["properties"]["event_type"] = key();
    shapes.other("TypeAndPayload", schema)
}

/// `claude`, `session-start` is `ClaudeSessionStart`.
pub(super) fn camel(words: &[&str]) -> String {
    let mut name = String::new();
    for word in words.iter().flat_map(|word| word.split(['-', '.', '/'])) {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}
