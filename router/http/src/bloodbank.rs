//! Bloodbank's endpoints: what its producers send to this port, they can go on sending. Which of its endpoints are not here stands in
//! `docs/http.md`.
//!
//! The fields are in `bloodbank_fields`, the rules of checking in `request_schema`; what the checked fields become is in `v2`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use router_api::{Accepted, Chance, Clock, DecodeError, Envelope, KeyError, Publication, RoutingKey};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    bloodbank_fields::{AGENT, CLAUDE_CODE, PROMPT, PUBLISH},
    connections::Peer,
    ingest::{Ingest, check_content_type, hops, read_body, refused, traceparent},
    paths::{Paths, post},
    request_schema::{self as schema, Fields},
    v2::{self, Field, Source},
    wire::{ErrorAnswer, ErrorKind},
};

/// What the endpoints need that make envelopes of their own.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) ingest: Ingest,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
}

/// The paths, each below `/`.
pub(crate) fn routes(intake: Intake) -> Paths {
    let mut router = Paths::new();
    for (path, key, fields) in CLAUDE_CODE {
        let take = move |State(intake): State<Intake>, request: Request| async move {
            answered(schema_event(&intake, request, key, fields, Origin { kind: "agent", app: "claude-code" }).await)
        };
        router = router.route(&format!("/events/claude-code/{path}"), post(take));
    }
    let prompt = |State(intake): State<Intake>, request: Request| async move {
        answered(schema_event(&intake, request, "agent.thread.prompt", PROMPT, Origin { kind: "manual", app: "http-client" }).await)
    };
    router
        .route("/events/agent/thread/prompt", post(prompt))
        .route("/events/agent/{name}/{*action}", post(agent))
        .route("/events/custom", post(custom))
        .route("/publish", post(publish))
        .with_state(intake)
}

/// Who Bloodbank says sent it.
struct Origin {
    kind: &'static str,
    app: &'static str,
}

/// An answer in the shape of Bloodbank's framework: everything that is no success has a `detail`.
enum Refusal {
    /// What is wrong with the fields: 422.
    Fields(Vec<Value>),
    /// A sentence.
    Sentence(StatusCode, String),
    /// What goes wrong at any endpoint.
    Other(ErrorAnswer),
}

impl From<ErrorAnswer> for Refusal {
    fn from(answer: ErrorAnswer) -> Self {
        Self::Other(answer)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Fields(problems) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "detail": problems }))).into_response(),
            Self::Sentence(status, sentence) => (status, Json(json!({ "detail": sentence }))).into_response(),
            Self::Other(answer) => {
                let detail = Json(json!({ "detail": answer.error })).into_response().into_body();
                // Status and headers say the same as at every other endpoint.
                answer.into_response().map(|_| detail)
            }
        }
    }
}

fn answered(result: Result<Response, Refusal>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}

/// What came, apart from the body.
struct Came {
    headers: HeaderMap,
    host: String,
}

async fn read(intake: &Intake, request: Request) -> Result<(Came, Bytes), ErrorAnswer> {
    check_content_type(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = read_body(&parts.headers, body, intake.ingest.limits.body_bytes_max, intake.ingest.body_timeout).await?;
    let host = parts.extensions.get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string());
    Ok((Came { headers: parts.headers, host }, body))
}

/// The body as a tree.
fn parse(intake: &Intake, body: Bytes) -> Result<Value, Refusal> {
    let place = [json!("body")];
    if body.is_empty() {
        return Err(Refusal::Fields(vec![schema::problem("missing", &place, "Field required", &Value::Null)]));
    }
    let key = RoutingKey::new("request").expect("a word is a key");
    match Envelope::decode(key, body.clone(), intake.ingest.limits) {
        Ok(envelope) => Ok(envelope.body().clone()),
        Err(DecodeError::NotObject(_)) => {
            let input = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let message = "Input should be a valid dictionary or object to extract fields from";
            Err(Refusal::Fields(vec![schema::problem("model_attributes_type", &place, message, &input)]))
        }
        Err(error @ DecodeError::TooLarge { .. }) => Err(refused(error).into()),
        Err(error) => Err(Refusal::Fields(vec![not_json(&body, &error)])),
    }
}

/// Where and why the body is no JSON. The words for a missing name are those that Bloodbank's clients know.
fn not_json(body: &[u8], error: &DecodeError) -> Value {
    let (at, reason) = match (std::str::from_utf8(body), serde_json::from_slice::<serde::de::IgnoredAny>(body)) {
        (Ok(text), Err(error)) => {
            let line = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(|line| line.chars().count()).sum::<usize>();
            let whole = error.to_string();
            let reason = whole.split(" at line ").next().unwrap_or_default();
            let reason = if reason == "key must be a string" { "Expecting property name enclosed in double quotes" } else { reason };
            (line + error.column().saturating_sub(1), reason.to_owned())
        }
        _ => (0, error.to_string()),
    };
    json!({ "type": "json_invalid", "loc": ["body", at], "msg": "JSON decode error", "input": {}, "ctx": { "error": reason } })
}

/// Stores an event, and returns it as it is stored.
async fn store(intake: &Intake, came: &Came, key: RoutingKey, body: Bytes) -> Result<Accepted, Refusal> {
    let publication = Publication { hops: hops(&came.headers), traceparent: traceparent(&came.headers), ..Publication::new(key, body) };
    Ok(intake.ingest.store(publication).await?)
}

fn key(text: &str, name: &str) -> Result<RoutingKey, Refusal> {
    let sentence = |why: String| Refusal::Sentence(StatusCode::BAD_REQUEST, format!("{name} is no routing key: {why}"));
    if text.is_empty() {
        return Err(sentence("it is empty".to_owned()));
    }
    RoutingKey::new(text).map_err(|error| match error {
        KeyError::TooLong(_) => sentence(format!("it is {error}")),
        KeyError::Control(_) => sentence(format!("it {error}")),
    })
}

async fn schema_event(intake: &Intake, request: Request, event_type: &str, fields: Fields, origin: Origin) -> Result<Response, Refusal> {
    let (came, body) = read(intake, request).await?;
    let body = parse(intake, body)?;
    let now = intake.clock.now();
    let payload = Field::Nested(schema::check(fields, &body, now).map_err(Refusal::Fields)?);
    let key = key(event_type, "`event_type`")?;
    let event_id = v2::fresh_id(&*intake.chance);
    let source = Source { host: came.host.clone(), kind: origin.kind, app: origin.app, meta: None };
    let envelope = v2::envelope(event_id, &key, now, &source, &payload);
    let stored = store(intake, &came, key, envelope.clone()).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], stored.body.unwrap_or(envelope)).into_response())
}

/// `POST /events/custom`: any envelope, published as it came.
async fn custom(State(intake): State<Intake>, request: Request) -> Response {
    answered(take_custom(&intake, request).await)
}

async fn take_custom(intake: &Intake, request: Request) -> Result<Response, Refusal> {
    let wrong = |sentence: &str| Refusal::Sentence(StatusCode::BAD_REQUEST, sentence.to_owned());
    let (came, body) = read(intake, request).await?;
    let event = parse(intake, body.clone())?;
    let event_type = match &event["event_type"] {
        Value::String(text) if !text.is_empty() => key(text, "`event_type`")?,
        Value::Null | Value::String(_) => return Err(wrong("Missing event_type")),
        _ => return Err(wrong("`event_type` is no text")),
    };
    let event_id = event["event_id"].clone();
    match &event_id {
        Value::Null => {}
        Value::String(text) if text.is_empty() || Uuid::parse_str(text).is_ok() => {}
        _ => return Err(wrong("badly formed hexadecimal UUID string")),
    }
    let stored = store(intake, &came, event_type, body).await?;
    // What was sent stands in the answer, null and the empty text too, unless redaction changed it.
    let event_id = if event_id.as_str().is_some_and(|sent| !sent.is_empty()) { stored.event_id.map_or(event_id, Value::from) } else { event_id };
    Ok(Json(json!({ "status": "published", "event_id": event_id })).into_response())
}

/// `POST /publish`: a type and a payload, put into an envelope.
async fn publish(State(intake): State<Intake>, request: Request) -> Response {
    answered(take_publish(&intake, request).await)
}

async fn take_publish(intake: &Intake, request: Request) -> Result<Response, Refusal> {
    let (came, body) = read(intake, request).await?;
    let body = parse(intake, body)?;
    let now = intake.clock.now();
    schema::check(PUBLISH, &body, now).map_err(Refusal::Fields)?;
    let event_type = key(body["event_type"].as_str().unwrap_or_default(), "`event_type`")?;
    let event_id = v2::fresh_id(&*intake.chance);
    let source = Source { host: came.host.clone(), kind: "manual", app: "http-client", meta: None };
    let envelope = v2::envelope(event_id, &event_type, now, &source, &Field::Plain(body["payload"].clone()));
    let event_id = store(intake, &came, event_type.clone(), envelope).await?.event_id.unwrap_or_else(|| event_id.to_string());
    Ok(Json(json!({ "status": "published", "event_id": event_id, "event_type": event_type })).into_response())
}

/// `POST /events/agent/{name}/{action}`: what an agent does.
async fn agent(State(intake): State<Intake>, path: Result<Path<(String, String)>, PathRejection>, request: Request) -> Response {
    answered(take_agent(&intake, path, request).await)
}

async fn take_agent(intake: &Intake, path: Result<Path<(String, String)>, PathRejection>, request: Request) -> Result<Response, Refusal> {
    let Path((name, action)) = path.map_err(|rejection| ErrorAnswer::new(ErrorKind::BadRequest, rejection.body_text()))?;
    let Some((_, fields)) = AGENT.iter().find(|(known, _)| *known == action) else {
        let known = AGENT.map(|(known, _)| format!("'{known}'")).join(", ");
        let shown: String = action.escape_debug().take(100).collect();
        return Err(Refusal::Sentence(StatusCode::BAD_REQUEST, format!("Unknown agent action: {shown}. Valid actions: [{known}]")));
    };
    let routing_key = key(&format!("agent.{name}.{action}"), "the path")?;
    let (came, body) = read(intake, request).await?;
    let body = match parse(intake, body) {
        Ok(body) => body,
        Err(Refusal::Fields(_)) => return Err(Refusal::Sentence(StatusCode::BAD_REQUEST, "Invalid JSON body".to_owned())),
        Err(other) => return Err(other),
    };
    let now = intake.clock.now();
    let payload = schema::check(fields, &body, now).map_err(|problems| {
        let told: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", places(&problem["loc"]), problem["msg"].as_str().unwrap_or_default())).collect();
        Refusal::Sentence(StatusCode::UNPROCESSABLE_ENTITY, format!("Payload validation failed: {}", told.join("; ")))
    })?;
    let event_id = v2::fresh_id(&*intake.chance);
    let source = Source { host: came.host.clone(), kind: "agent", app: "openclaw", meta: None };
    let envelope = v2::envelope(event_id, &routing_key, now, &source, &Field::Nested(payload));
    let event_id = store(intake, &came, routing_key.clone(), envelope).await?.event_id.unwrap_or_else(|| event_id.to_string());
    Ok(Json(json!({ "ok": true, "routing_key": routing_key, "event_id": event_id })).into_response())
}

/// The place of a problem without `body`, as `tool_metadata.tool_name`.
fn places(place: &Value) -> String {
    let steps = place.as_array().map(Vec::as_slice).unwrap_or_default().iter().skip(1);
    steps.map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned)).collect::<Vec<_>>().join(".")
}
