//! `flume`: the state of a session, told to an HTTP service that keeps session records.

use std::time::Duration;

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Context, Endpoint, Envelope, Handler, HandlerError, HttpRequest, Method, Outcome, Plugin, RoutingPattern, Source, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Keeps a session's record up to date: `PUT {base}/sessions/{session_id}` with what the newest event says.
///
/// **Flume itself has no such endpoint**: it is a library, and its own `sessions` table wants a task and an employee. This plugin
/// defines the request, and whoever keeps the records has to serve it. Sending the same request again must change nothing, which a
/// `PUT` of the whole record gives by itself.
///
/// The body: `{session_id, state, git_branch, working_directory, source, last_event: {id, key, type, time}, events, end}`.
/// `state` is `ended` for the keys of `ended_keys`, else `active`, so that an event after the end opens the session again. What the
/// event does not say is null. `events` is how many events this request stands for. `end` is there when the session ended:
/// `{end_reason, final_status, duration_seconds, total_turns, total_tokens, total_cost_usd, summary}`. The header `Idempotency-Key`
/// is the same for every repeat.
///
/// Put `order_by = "session_id"` on the route, or an older event may be sent after a newer one. An event without session is skipped.
/// An answer of 2xx means done; 429 and 5xx are tried again, with 502 to 504 stopping the route for a while; any other answer sends the event to the dead letters.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flume {
    /// Where the records are kept, such as `http://127.0.0.1:8690/api`: `/sessions/{session_id}` is added. Required.
    #[schemars(required)]
    base: Option<Endpoint>,
    /// Sent as `Authorization: Bearer …` and never shown. Write `${VAR}`. Default: none.
    token: Option<String>,
    /// Keys of the events that end a session, as patterns. Default: `session.thread.end` and those ending in `session.ended`.
    #[serde(default = "ended_keys")]
    #[schemars(with = "Vec<String>")]
    ended_keys: Vec<RoutingPattern>,
    /// How long one request may take, in milliseconds. Default: 10000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn ended_keys() -> Vec<RoutingPattern> {
    ["session.thread.end", "#.session.ended"].iter().map(|text| text.parse().expect("the literals are patterns")).collect()
}

fn timeout_ms() -> u64 {
    10_000
}

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
        if self.timeout_ms == 0 {
            error.problems.extend(BuildError::at("timeout_ms", "0 leaves no time to answer").problems);
        }
        let (Some(base), true) = (self.base, error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Records { base, token: self.token, ended_keys: self.ended_keys, timeout: Duration::from_millis(self.timeout_ms) }))
    }
}

struct Records {
    base: Endpoint,
    token: Option<String>,
    ended_keys: Vec<RoutingPattern>,
    timeout: Duration,
}

#[async_trait]
impl Handler for Records {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let Some(session) = event.session_id().filter(|id| !id.is_empty()) else {
            return Ok(Outcome::skipped("the event names no session"));
        };
        let has_ended = self.ended_keys.iter().any(|pattern| pattern.matches(cx.key()));
        let mut request = HttpRequest::new(Method::Put, self.base.join(["sessions", session])?)
            .header("idempotency-key", cx.idempotency_key())
            .json(&record(session, has_ended, event, cx))
            .timeout(self.timeout);
        if let Some(token) = &self.token {
            request = request.secret_header("authorization", format!("Bearer {token}"));
        }
        let reply = cx.http(request).named("session").await?.ok()?;
        cx.note(format!("answered {}", reply.status));
        Ok(Outcome::Done)
    }
}

fn record(session: &str, has_ended: bool, event: &Envelope, cx: &Context) -> Value {
    const END_FIELDS: [&str; 7] = ["end_reason", "final_status", "duration_seconds", "total_turns", "total_tokens", "total_cost_usd", "summary"];
    let end = has_ended.then(|| {
        let field = |name: &str| (name.to_owned(), event.payload().get(name).cloned().unwrap_or(Value::Null));
        Value::Object(END_FIELDS.into_iter().map(field).collect::<Map<_, _>>())
    });
    let source = event.source().map(|source| match source {
        Source::Text(text) => json!({ "app": text }),
        Source::Object { host, kind, app } => json!({ "host": host, "type": kind, "app": app }),
    });
    json!({
        "session_id": session,
        "state": if has_ended { "ended" } else { "active" },
        "git_branch": event.git_branch(),
        "working_directory": event.working_directory(),
        "source": source,
        "last_event": {
            "id": event.id().map(|id| id.as_str()),
            "key": cx.key().as_str(),
            "type": event.event_type(),
            "time": event.time().map(|time| time.to_string()),
        },
        "events": cx.burst().len(),
        "end": end,
    })
}

register!(Flume);
