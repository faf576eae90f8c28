//! `flume`: the record of a session, told to an HTTP service that keeps session records. What is in the record is made by the router:
//! `Context::session`.

use std::time::Duration;

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Context, Endpoint, Envelope, Handler, HandlerError, HttpReply, HttpRequest, Method, Outcome, Plugin, Session, register,
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{page::not_a_page, token};

/// Keeps a session's record up to date: `PUT {base}/sessions/{session_id}` with all that is known of the session.
///
/// **Flume itself has no such endpoint**: it is a library, and its own `sessions` table wants a task and an employee. This plugin
/// defines the request, and whoever keeps the records has to serve it. Sending the same request again changes nothing, which a `PUT` of
/// the whole record gives by itself. `docs/integrations/flume.md` shows the request, `flume.schema.json` beside it is the JSON Schema
/// of its body.
///
/// The record is made of the session's events in the archive and of those in hand, in whatever order they came: state (`active`,
/// `ended`, or `reopened` by what came after an end), turns, tools, files, commits, tokens, cost, errors. It has a `version`, also sent
/// as the header `Session-Version`, so that a server can refuse one that is older than its own: an answer of 409 or 412 means that a
/// newer one is there, and the event is done. The header `Idempotency-Key` is the same for every repeat.
///
/// Put `order_by = "session_id"` on the route. An event without session is skipped. An answer of 2xx means done, if it is no page of HTML; 408, 425, 429 and 5xx are
/// tried again, with 502 to 504 stopping the route for a while; any other answer sends the event to the dead letters.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flume {
    /// Where the records are kept, such as `http://127.0.0.1:8690/api`: `/sessions/{session_id}` is added. Required.
    #[schemars(required)]
    base: Option<Endpoint>,
    /// Sent as `Authorization: Bearer …` and never shown. Write `${VAR}`. Default: none.
    token: Option<String>,
    /// How long one request may take, in milliseconds. Default: 10000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn timeout_ms() -> u64 {
    10_000
}

/// What the body says it is.
const SCHEMA: &str = "event-router.session.v1";

/// Sessions of one burst that records are sent for; a burst of more is gathered by something else than sessions.
const SESSIONS_MAX: usize = 100;

#[async_trait]
impl Plugin for Flume {
    const NAME: &'static str = "flume";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        if self.base.is_none() {
            let missing = BuildError::at("base", "is missing, and there is no address to guess").help(
                "Flume has no session endpoint of its own: write the address of the service that keeps your session records, such as `base = \"http://127.0.0.1:8690\"`",
            );
            error.problems.extend(missing.problems);
        }
        if let Some(token) = &self.token {
            let _ = error.collect(token::check("token", token));
        }
        if self.timeout_ms == 0 {
            error.problems.extend(BuildError::at("timeout_ms", "0 leaves no time to answer").problems);
        }
        let (Some(base), true) = (self.base, error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Records { base, token: self.token, timeout: Duration::from_millis(self.timeout_ms) }))
    }
}

struct Records {
    base: Endpoint,
    token: Option<String>,
    timeout: Duration,
}

/// What came of one record.
enum Told {
    /// With this answer.
    Kept(u16),
    /// The server has a newer one.
    Newer(u16),
}

#[async_trait]
impl Handler for Records {
    async fn handle(&self, _: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let mut ids: Vec<&str> = Vec::new();
        for id in cx.burst().iter().filter_map(|event| event.session_id()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            return Ok(Outcome::skipped("the event names no session"));
        }
        if ids.len() > SESSIONS_MAX {
            return Err(HandlerError::reject(format!("the burst has {} sessions, {SESSIONS_MAX} are the limit: coalesce by `session_id`", ids.len())));
        }
        let mut told = Vec::new();
        for id in ids {
            let Some(session) = cx.session(id).await? else { continue };
            told.push((self.tell(cx, &session).await?, session));
        }
        match told.as_slice() {
            [] => Ok(Outcome::skipped("nothing is known of the session: its id is too long, or only routers told of it")),
            told if told.iter().all(|(told, _)| matches!(told, Told::Newer(_))) => Ok(Outcome::skipped("the server has a newer record")),
            told => {
                cx.note(told.iter().map(|(told, session)| said(told, session, cx.is_dry_run())).collect::<Vec<_>>().join("; "));
                Ok(Outcome::Done)
            }
        }
    }
}

fn said(told: &Told, session: &Session, is_dry_run: bool) -> String {
    match told {
        // Nobody was asked.
        _ if is_dry_run => format!("{} session, version {}", session.state.name(), session.version),
        Told::Kept(status) => format!("{} session, version {}: answered {status}", session.state.name(), session.version),
        Told::Newer(status) => format!("version {} is old: answered {status}", session.version),
    }
}

impl Records {
    async fn tell(&self, cx: &Context, session: &Session) -> Result<Told, HandlerError> {
        let mut request = HttpRequest::new(Method::Put, self.base.join(["sessions", &session.session_id])?)
            .header("idempotency-key", cx.idempotency_key())
            .header("session-version", session.version.to_string())
            .json(&body(session))
            .timeout(self.timeout);
        if let Some(token) = &self.token {
            request = request.secret_header("authorization", format!("Bearer {token}"));
        }
        let reply = cx.http(request).named("session").dry_run_reply(HttpReply::new(204, "")).final_when(is_final).await?;
        let status = reply.status;
        if matches!(status, 409 | 412) {
            return Ok(Told::Newer(status));
        }
        match reply.ok().and_then(|reply| not_a_page(reply, "base")) {
            Ok(_) => Ok(Told::Kept(status)),
            Err(mut error) => {
                match status {
                    404 | 405 | 501 => error.message.push_str(": it takes no session records at this address, see `docs/integrations/flume.md`"),
                    401 | 403 => error.message.push_str(": it does not take this `token`"),
                    413 => error.message.push_str(": the record is too large for it"),
                    _ => {}
                }
                Err(error.into())
            }
        }
    }
}

/// A record that was taken, or is older than the server's, need not be sent again.
fn is_final(reply: &HttpReply) -> bool {
    matches!(reply.status, 200..=299 | 409 | 412) && not_a_page(reply.clone(), "base").is_ok()
}

fn body(session: &Session) -> Value {
    let mut body = json!(session);
    body["schema"] = SCHEMA.into();
    body
}

/// The JSON Schema of the body, as `docs/integrations/flume.schema.json` has it.
#[must_use]
pub fn body_schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Session>().to_value();
    schema["title"] = "Body of PUT {base}/sessions/{session_id}".into();
    schema["properties"]["schema"] = json!({ "description": "Names this shape.", "const": SCHEMA });
    if let Some(required) = schema["required"].as_array_mut() {
        required.insert(0, "schema".into());
    }
    schema
}

register!(Flume);
