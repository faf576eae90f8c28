//! What each path takes and answers.

use http::Method;
use router_api::{DeadLetterGroups, DeadLetterSelection, EnableRequest, Enabled, Followed, RedriveRequest, Redriven, Reloaded, RouteCommand, RouteCommanded};
use serde_json::{Map, Value, json};

use super::shapes::{self, Shapes};
use crate::{
    api::{EventsQuery, LettersQuery},
    batch::EVENTS_MAX,
    claude_hooks::HookQuery,
    following::{LastRun, LastRunQuery, WatchQuery},
    ingest::IngestQuery,
    operate::{GroupsQuery, schema},
    ready::ReadyAnswer,
    wire::{BatchAnswer, DeadLetterAnswer, DeadLettersAnswer, ErrorAnswer, EventsAnswer, PublishedAnswer, StatusAnswer},
};

/// One method of one path.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) described: Value,
}

/// All of them.
pub(super) fn all(shapes: &mut Shapes) -> Vec<Operation> {
    let mut all = Vec::new();
    events(shapes, &mut all);
    bloodbank(shapes, &mut all);
    health(shapes, &mut all);
    reads(shapes, &mut all);
    verbs(shapes, &mut all);
    super::session_operations::add(shapes, &mut all);
    all
}

/// What a refusal of a status means.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong",
        401 => "No token that the router knows",
        403 => "A foreign `Host` or `Origin`; for the admin API also: a token for sending, or a door without admin tokens",
        404 => "No such thing",
        408 => "The body did not come in time",
        413 => "The body is above the limit",
        415 => "The body is not declared to be JSON",
        422 => "The fields are wrong",
        500 => "The transport or the store needs a person",
        501 => "The transport cannot do that",
        503 => "May heal by itself: try again",
        507 => "No room for new events: try again later",
        _ => "An error",
    }
}

const GUARD: &[u16] = &[400, 401, 403];
const INTAKE: &[u16] = &[400, 401, 403, 408, 413, 415, 500, 503, 507];
pub(super) const READ: &[u16] = &[400, 401, 403, 500, 501, 503];
pub(super) const VERB: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 500, 501, 503, 507];

pub(super) fn json_of(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// The answers of an operation: `content` with 200, and errors.
pub(super) fn answers(shapes: &mut Shapes, description: &str, content: Option<Value>, errors: &[u16]) -> Map<String, Value> {
    let mut all = Map::new();
    let mut good = json!({ "description": description });
    if let Some(content) = content {
        good["content"] = content;
    }
    all.insert("200".to_owned(), good);
    for status in errors {
        all.insert(status.to_string(), error(shapes, *status));
    }
    all
}

/// An error of these doors.
fn error(shapes: &mut Shapes, status: u16) -> Value {
    shapes.response(format!("Error{status}"), |shapes| refusal(status, shapes.answer::<ErrorAnswer>()))
}

fn refusal(status: u16, shape: Value) -> Value {
    let mut answer = json!({ "description": meaning(status), "content": json_of(shape) });
    if matches!(status, 503 | 507) {
        answer["headers"] = json!({ "Retry-After": { "schema": { "type": "string" }, "description": "In seconds" } });
    }
    answer
}

/// The errors of Bloodbank's endpoints have its shape, except those of the guard in front of all paths.
fn as_bloodbank(shapes: &mut Shapes, answers: &mut Map<String, Value>) {
    for status in INTAKE.iter().copied().filter(|status| !matches!(status, 401 | 403)).chain([422]) {
        let answer = shapes.response(format!("Detail{status}"), |shapes| {
            let detail = shapes::detail(shapes);
            refusal(status, if status == 400 { json!({ "anyOf": [detail, shapes.answer::<ErrorAnswer>()] }) } else { detail })
        });
        answers.insert(status.to_string(), answer);
    }
}

/// Where the door has no tokens, none is needed.
fn token_if_any() -> Value {
    json!([{}, { "token": [] }])
}

pub(super) fn admin_token() -> Value {
    json!([{ "adminToken": [] }])
}

pub(super) fn in_path(name: &str, schema: Value, description: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": schema, "description": description })
}

fn route_schema() -> Value {
    json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$" })
}

pub(super) fn post(path: &str, described: Value) -> Operation {
    Operation { method: Method::POST, path: path.to_owned(), described }
}

pub(super) fn get(path: &str, described: Value) -> Operation {
    Operation { method: Method::GET, path: path.to_owned(), described }
}

fn events(shapes: &mut Shapes, all: &mut Vec<Operation>) {
    let (event, cloud_event) = (shapes::event(shapes), shapes::cloud_event(shapes));
    let (one, several) = (shapes.answer::<PublishedAnswer>(), shapes.answer::<BatchAnswer>());
    let answer = json_of(json!({ "oneOf": [one, several] }));
    let list = |of: &Value| json!({ "type": "array", "items": of, "maxItems": EVENTS_MAX });
    all.push(post(
        "/events",
        json!({
            "operationId": "postEvents",
            "tags": ["events"],
            "summary": "Takes in one event or several",
            "description": "The key is `?key=`, else the event's `event_type`, else its `type`. Several events are looked over together: if one is \
                            no event, none is stored. A CloudEvent in binary form has its attributes as `ce-` headers and its data as the body.",
            "security": token_if_any(),
            "parameters": shapes.query::<IngestQuery>(Some(&["key"])),
            "requestBody": { "required": true, "content": {
                "application/json": { "schema": { "anyOf": [event, list(&event)] } },
                "application/x-ndjson": { "schema": { "type": "string", "description": "One event in each line" } },
                "application/cloudevents+json": { "schema": cloud_event },
                "application/cloudevents-batch+json": { "schema": list(&cloud_event) },
            } },
            "responses": answers(shapes, "The events are on disk", Some(answer), INTAKE),
        }),
    ));
    all.push(post(
        "/hooks/claude-code",
        json!({
            "operationId": "postClaudeCodeHook",
            "tags": ["claude-code"],
            "summary": "Takes in a hook of Claude Code of type `http`",
            "description": "What the hook means becomes events of `session.thread.`; what means nothing is answered with 200 as well.",
            "security": token_if_any(),
            "parameters": shapes.query::<HookQuery>(None),
            "requestBody": { "required": true, "content": json_of(json!({
                "description": "Any JSON; what is no hook is answered as well, and means nothing",
                "properties": { "session_id": { "type": "string" }, "hook_event_name": { "type": "string" }, "cwd": { "type": "string" } },
            })) },
            "responses": answers(shapes, "Nothing, so that the hook changes nothing", None, INTAKE),
        }),
    ));
}

fn bloodbank(shapes: &mut Shapes, all: &mut Vec<Operation>) {
    let envelope = shapes::envelope(shapes);
    for (path, key, body) in shapes::described_bodies(shapes) {
        let mut responses = answers(shapes, "The envelope that is on the bus", Some(json_of(envelope.clone())), INTAKE);
        as_bloodbank(shapes, &mut responses);
        let name = shapes::camel(&["post", path.trim_start_matches("/events/")]);
        let name = name[..1].to_ascii_lowercase() + &name[1..];
        let described = json!({
            "operationId": name,
            "tags": ["bloodbank"],
            "summary": format!("Makes an event {key}"),
            "security": token_if_any(),
            "requestBody": { "required": true, "content": json_of(body) },
            "responses": responses,
        });
        all.push(post(&path, described));
    }
    for (action, body) in shapes::actions(shapes) {
        let answer = json!({
            "type": "object",
            "properties": { "ok": { "const": true }, "routing_key": { "type": "string" }, "event_id": { "type": "string" } },
            "required": ["ok", "routing_key", "event_id"],
        });
        let mut responses = answers(shapes, "The event is on disk", Some(json_of(answer)), INTAKE);
        as_bloodbank(shapes, &mut responses);
        let described = json!({
            "operationId": format!("post{}", shapes::camel(&["agent", action])),
            "tags": ["bloodbank"],
            "summary": format!("Makes an event `agent.{{name}}.{action}`"),
            "security": token_if_any(),
            "parameters": [in_path("name", shapes::agent(action), "The agent")],
            "requestBody": { "required": true, "content": json_of(body) },
            "responses": responses,
        });
        all.push(post(&format!("/events/agent/{{name}}/{action}"), described));
    }
    let custom = json!({
        "type": "object",
        "properties": { "event_type": shapes::key(), "event_id": { "type": ["string", "null"], "format": "uuid" } },
        "required": ["event_type"],
    });
    let answer = json!({
        "type": "object",
        "properties": { "status": { "const": "published" }, "event_id": { "type": ["string", "null"] } },
        "required": ["status", "event_id"],
    });
    let mut responses = answers(shapes, "The event is on disk", Some(json_of(answer)), INTAKE);
    as_bloodbank(shapes, &mut responses);
    all.push(post(
        "/events/custom",
        json!({
            "operationId": "postCustomEvent",
            "tags": ["bloodbank"],
            "summary": "Takes in any envelope as it is",
            "security": token_if_any(),
            "requestBody": { "required": true, "content": json_of(custom) },
            "responses": responses,
        }),
    ));
    let answer = json!({
        "type": "object",
        "properties": { "status": { "const": "published" }, "event_id": { "type": "string" }, "event_type": { "type": "string" } },
        "required": ["status", "event_id", "event_type"],
    });
    let body = shapes::publish(shapes);
    let mut responses = answers(shapes, "The event is on disk", Some(json_of(answer)), INTAKE);
    as_bloodbank(shapes, &mut responses);
    all.push(post(
        "/publish",
        json!({
            "operationId": "publish",
            "tags": ["bloodbank"],
            "summary": "Puts a payload into an envelope of a type",
            "security": token_if_any(),
            "requestBody": { "required": true, "content": json_of(body) },
            "responses": responses,
        }),
    ));
}

fn health(shapes: &mut Shapes, all: &mut Vec<Operation>) {
    let alive = json!({
        "type": "object",
        "properties": { "ok": { "const": true }, "service": { "const": "event-router" } },
        "required": ["ok", "service"],
    });
    all.push(get(
        "/healthz",
        json!({
            "operationId": "healthz",
            "tags": ["health"],
            "summary": "The process is alive",
            "security": [],
            "responses": answers(shapes, "It is", Some(json_of(alive)), &[400, 403]),
        }),
    ));
    let ready = shapes.answer::<ReadyAnswer>();
    let mut responses = answers(shapes, "It is ready", Some(json_of(ready.clone())), GUARD);
    responses.insert("503".to_owned(), json!({ "description": "It is not, and says why", "content": json_of(ready) }));
    all.push(get(
        "/readyz",
        json!({
            "operationId": "readyz",
            "tags": ["health"],
            "summary": "Whether events are taken in and handled, and what is in the way",
            "security": token_if_any(),
            "responses": responses,
        }),
    ));
    let text = json!({ "text/plain": { "schema": { "type": "string" } } });
    all.push(get(
        "/metrics",
        json!({
            "operationId": "metrics",
            "tags": ["health"],
            "summary": "The router's numbers in Prometheus's text format",
            "security": token_if_any(),
            "responses": answers(shapes, "The numbers", Some(text), GUARD),
        }),
    ));
}

fn reads(shapes: &mut Shapes, all: &mut Vec<Operation>) {
    let with_not_found: Vec<u16> = READ.iter().copied().chain([404]).collect();
    let document = json!({ "type": "object", "additionalProperties": true });
    all.push(get(
        super::PATH,
        json!({
            "operationId": "openapi",
            "tags": ["admin"],
            "summary": "This document",
            "security": token_if_any(),
            "responses": answers(shapes, "This document", Some(json_of(document)), GUARD),
        }),
    ));
    let status = shapes.answer::<StatusAnswer>();
    all.push(get(
        "/api/v1/status",
        json!({
            "operationId": "status",
            "tags": ["admin"],
            "summary": "The router and its routes as they stand",
            "security": admin_token(),
            "responses": answers(shapes, "The state", Some(json_of(status)), READ),
        }),
    ));
    let events = shapes.answer::<EventsAnswer>();
    all.push(get(
        "/api/v1/events",
        json!({
            "operationId": "listEvents",
            "tags": ["admin"],
            "summary": "Events of the archive with what became of them, newest first",
            "security": admin_token(),
            "parameters": shapes.query::<EventsQuery>(None),
            "responses": answers(shapes, "The events", Some(json_of(events.clone())), READ),
        }),
    ));
    all.push(get(
        "/api/v1/events/{reference}",
        json!({
            "operationId": "showEvent",
            "tags": ["admin"],
            "summary": "Events of the archive by number or id, one at least",
            "security": admin_token(),
            "parameters": [in_path("reference", json!({ "type": "string", "minLength": 1 }), "A number or an id")],
            "responses": answers(shapes, "The events", Some(json_of(events)), &with_not_found),
        }),
    ));
    let followed = shapes.verb::<Followed>(schema::FOLLOWED);
    all.push(get(
        "/api/v1/watch",
        json!({
            "operationId": "watch",
            "tags": ["admin"],
            "summary": "Events of the archive behind a number, oldest first",
            "description": "Ask again with `after` set to `next` of the answer. It takes from nobody's queue. A route that there is not is a 404.",
            "security": admin_token(),
            "parameters": shapes.query::<WatchQuery>(None),
            "responses": answers(shapes, "The events", Some(json_of(followed)), &with_not_found),
        }),
    ));
    let run = shapes.verb::<Option<LastRun>>(schema::LAST_RUN);
    let mut parameters = shapes.query::<LastRunQuery>(None);
    parameters.iter_mut().for_each(|parameter| parameter["required"] = true.into());
    all.push(get(
        "/api/v1/last-run",
        json!({
            "operationId": "lastRun",
            "tags": ["admin"],
            "summary": "How the last CI run of a working directory ended; null if there is none",
            "security": admin_token(),
            "parameters": parameters,
            "responses": answers(shapes, "The run", Some(json_of(run)), READ),
        }),
    ));
    let letters = shapes.answer::<DeadLettersAnswer>();
    all.push(get(
        "/api/v1/dead-letters",
        json!({
            "operationId": "listDeadLetters",
            "tags": ["admin"],
            "summary": "Dead letters, newest first",
            "security": admin_token(),
            "parameters": shapes.query::<LettersQuery>(None),
            "responses": answers(shapes, "The dead letters", Some(json_of(letters)), READ),
        }),
    ));
    let groups = shapes.verb::<DeadLetterGroups>(schema::DEAD_LETTER_GROUPS);
    all.push(get(
        "/api/v1/dead-letters/groups",
        json!({
            "operationId": "groupDeadLetters",
            "tags": ["admin"],
            "summary": "Dead letters by route and failure, the group with the newest one first",
            "security": admin_token(),
            "parameters": shapes.query::<GroupsQuery>(None),
            "responses": answers(shapes, "The groups", Some(json_of(groups)), READ),
        }),
    ));
    let letter = shapes.answer::<DeadLetterAnswer>();
    all.push(get(
        "/api/v1/dead-letters/{id}",
        json!({
            "operationId": "showDeadLetter",
            "tags": ["admin"],
            "summary": "One dead letter with its whole history",
            "security": admin_token(),
            "parameters": [in_path("id", json!({ "type": "string", "minLength": 1 }), "Its id")],
            "responses": answers(shapes, "The dead letter", Some(json_of(letter)), &with_not_found),
        }),
    ));
}

fn verbs(shapes: &mut Shapes, all: &mut Vec<Operation>) {
    let (event, published) = (shapes::event(shapes), shapes.answer::<PublishedAnswer>());
    let with_not_found: Vec<u16> = INTAKE.iter().copied().chain([404]).collect();
    all.push(post(
        "/api/v1/events",
        json!({
            "operationId": "publishEvent",
            "tags": ["admin"],
            "summary": "Takes in one event, for whoever wants it or for one route alone",
            "security": admin_token(),
            "parameters": shapes.query::<IngestQuery>(None),
            "requestBody": { "required": true, "content": json_of(event) },
            "responses": answers(shapes, "The event is on disk", Some(json_of(published)), &with_not_found),
        }),
    ));
    let verb = |id: &str, summary: &str, body: Option<Value>, parameters: Value, responses: Map<String, Value>| {
        let mut described = json!({
            "operationId": id,
            "tags": ["admin"],
            "summary": summary,
            "description": "Carried out to its end, whoever hangs up, and told in the log with the client's name.",
            "security": admin_token(),
            "parameters": parameters,
            "responses": responses,
        });
        if let Some(body) = body {
            described["requestBody"] = json!({ "required": true, "content": json_of(body) });
        }
        described
    };
    let (body, answer) = (shapes.request::<RedriveRequest>(), shapes.verb::<Redriven>(schema::REDRIVEN));
    let responses = answers(shapes, "What was put back", Some(json_of(answer)), VERB);
    all.push(post("/api/v1/dead-letters/redrive", verb("redrive", "Puts dead letters back into the queues of their routes", Some(body), json!([]), responses)));
    let (body, answer) = (shapes.request::<DeadLetterSelection>(), shapes.verb::<u64>(schema::DISCARDED));
    let responses = answers(shapes, "How many are gone", Some(json_of(answer)), VERB);
    all.push(post("/api/v1/dead-letters/discard", verb("discard", "Deletes dead letters for good", Some(body), json!([]), responses)));
    let (command, answer) = (shapes.request::<RouteCommand>(), shapes.verb::<RouteCommanded>(schema::COMMANDED));
    let parameters = json!([in_path("route", route_schema(), "The route"), in_path("command", command, "The command")]);
    let responses = answers(shapes, "It is done", Some(json_of(answer)), VERB);
    all.push(post("/api/v1/routes/{route}/{command}", verb("commandRoute", "Commands a route", None, parameters, responses)));
    let (body, answer) = (shapes.request::<EnableRequest>(), shapes.verb::<Enabled>(schema::ENABLED));
    let parameters = json!([in_path("route", route_schema(), "The route")]);
    let responses = answers(shapes, "It is on", Some(json_of(answer)), VERB);
    all.push(post(
        "/api/v1/routes/{route}/enable",
        verb("enableRoute", "Switches on a route, from where it stopped or from now", Some(body), parameters, responses),
    ));
    let answer = shapes.verb::<Reloaded>(schema::RELOADED);
    let responses = answers(shapes, "The configuration is in force", Some(json_of(answer)), VERB);
    all.push(post("/api/v1/reload", verb("reload", "Loads the configuration anew; a bad one changes nothing", None, json!([]), responses)));
}
