//! `POST /hooks/claude-code`: the hooks of Claude Code, of type `http`, become events of the `session.thread.` family.
//!
//! A hook must never be in Claude Code's way: whatever is JSON is answered with 200 and nothing, unless an event that it means could
//! not be stored. Which events a hook means is decided in `router-claude`, as for the hook that is a program: both tell of one event under
//! one id. What only the sender's machine knows (branch, tokens, cost: they need the repository or the transcript) is null here.

use std::sync::Arc;

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use router_api::{Publication, RoutingKey};
use router_claude::{
    HookInput, Surroundings,
    event::{Source, derived, envelope},
    events::{Circumstances, Usage, events, meta},
    members::Field,
    session::SESSION_ID_BYTES_MAX,
};
use serde::Deserialize;

use crate::{
    bloodbank::Intake,
    claude_endings::VIA,
    claude_sessions::Sessions,
    connections::Peer,
    ingest::{check_content_type, read_body, traceparent},
    paths::{Paths, post},
    wire::{ErrorAnswer, ErrorKind},
};

/// Bytes of a hook: those of `Write` and `Edit` repeat the whole file several times, most of which is left out of the event.
const HOOK_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone)]
struct Hooks {
    intake: Intake,
    sessions: Arc<Sessions>,
}

/// The path.
pub(crate) fn routes(intake: Intake, sessions: Arc<Sessions>) -> Paths {
    Paths::new().route("/hooks/claude-code", post(hook)).with_state(Hooks { intake, sessions })
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HookQuery {
    /// Also what the user and the assistant said
    #[serde(default)]
    messages: bool,
}

async fn hook(State(hooks): State<Hooks>, query: Result<Query<HookQuery>, QueryRejection>, request: Request) -> Response {
    match take(&hooks, query, request).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(answer) => answer.into_response(),
    }
}

async fn take(hooks: &Hooks, query: Result<Query<HookQuery>, QueryRejection>, request: Request) -> Result<(), ErrorAnswer> {
    let Query(query) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    check_content_type(request.headers())?;
    let (parts, body) = request.into_parts();
    let ingest = &hooks.intake.ingest;
    let body = read_body(&parts.headers, body, HOOK_BYTES_MAX.max(ingest.limits.body_bytes_max), ingest.body_timeout).await?;
    // Secrets are taken out where events are stored, under this router's own key.
    let hook = HookInput::parse(&body, None).map_err(|error| ErrorAnswer::new(ErrorKind::BadRequest, error.to_string()))?;
    drop(body);
    let Some(id) = hook.text("session_id").filter(|id| id.len() <= SESSION_ID_BYTES_MAX) else { return Ok(()) };
    let host = parts.extensions.get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string());
    let traceparent = traceparent(&parts.headers);
    let (now, around) = (hooks.intake.clock.now(), Surroundings::default());
    let remembered = hooks.sessions.of(id);
    let mut remembered = remembered.lock().await;
    let mut session = remembered.clone();
    session.note(&hook, &around, query.messages, now);
    // What has no identity of its own and is the same in every byte counts as the same.
    let fresh = derived(&["call", &hook.value().to_string()]);
    let cx = Circumstances { now, messages: query.messages, around: &around, usage: &Usage::default(), feature: None, snapshot: None, fresh };
    for told in events(&hook, &mut session, &cx) {
        let key = RoutingKey::new(told.key).expect("the keys of events are keys");
        let mut meta = meta(&hook, &told);
        // By these a session that nobody ends is recognised, and gets the id of its end.
        (meta["via"], meta["resumes"]) = (VIA.into(), session.resumes.into());
        let source = Source { host: host.clone(), kind: "hook", app: "claude-code", meta: Some(meta) };
        let correlation: Vec<_> = told.correlation_ids.iter().copied().filter(|id| *id != told.id).collect();
        let body = envelope(told.id, told.key, now, &source, &correlation, &Field::Nested(told.payload));
        ingest.store(Publication { traceparent: traceparent.clone(), ..Publication::new(key, body) }).await?;
    }
    *remembered = session;
    Ok(())
}
