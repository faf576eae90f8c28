//! `POST /hooks/claude-code`: the hooks of Claude Code, of type `http`, become events of the `session.thread.` family.
//!
//! A hook must never be in Claude Code's way: whatever is JSON is answered with 200 and nothing, unless an event that it means could
//! not be stored. Ids are derived from what came, so that a hook that comes twice tells of one event. What a hook does not know
//! (branch, tokens, cost: they need the repository or the transcript) is null. What became of a session so far is in
//! `claude_sessions`, what is left of tools' inputs and outputs in `claude_content`.

use std::sync::Arc;

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use router_api::{DecodeError, DecodeLimits, Envelope, Publication, RoutingKey};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    bloodbank::Intake,
    claude_content,
    claude_sessions::{SESSIONS_MAX, Session, Sessions},
    connections::Peer,
    ingest::{check_content_type, read_body, refused, traceparent},
    paths::{Paths, post},
    v2::{self, Field, Members, Source},
    wire::ErrorAnswer,
};

/// Bytes of a hook: those of `Write` and `Edit` repeat the whole file several times, most of which is left out of the event.
const HOOK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a session's id; a longer one is none.
const SESSION_ID_BYTES_MAX: usize = 256;

/// Of the ids that are derived here.
const NAMESPACE: Uuid = Uuid::from_u128(0x8e0c_41d6_2c5b_4b0e_9f0f_6b1b_7d0a_5c33);

#[derive(Clone)]
struct Hooks {
    intake: Intake,
    sessions: Arc<Sessions>,
}

/// The path.
pub(crate) fn routes(intake: Intake) -> Paths {
    Paths::new().route("/hooks/claude-code", post(hook)).with_state(Hooks { intake, sessions: Arc::new(Sessions::new(SESSIONS_MAX)) })
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
    let limits = DecodeLimits { body_bytes_max: body.len(), ..ingest.limits };
    let key = RoutingKey::new("hook").expect("a word is a key");
    let hook = match Envelope::decode(key, body.clone(), limits) {
        Ok(envelope) => envelope,
        // Hooks to come may look otherwise.
        Err(DecodeError::NotObject(_)) => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    let hook = Hook(hook.body());
    let Some(id) = hook.text("session_id").filter(|id| !id.is_empty() && id.len() <= SESSION_ID_BYTES_MAX) else { return Ok(()) };
    let teller = Teller {
        intake: &hooks.intake,
        host: parts.extensions.get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string()),
        traceparent: traceparent(&parts.headers),
        now: hooks.intake.clock.now(),
        hook: &hook,
        id,
    };
    let remembered = hooks.sessions.of(id);
    let name = hook.text("hook_event_name").unwrap_or_default();
    let session = {
        let mut session = remembered.session.lock().expect(NO_PANIC);
        if session.ended && name != "SessionEnd" {
            session.goes_on();
        }
        hook.note(&mut session, name, teller.now);
        session.clone()
    };
    {
        let mut started = remembered.started.lock().await;
        if *started != Some(session.generation) {
            teller.tell("session.thread.start", &session.generation.to_string(), hook.start(&session, id, teller.now)).await?;
            *started = Some(session.generation);
        }
    }
    for told in hook.events(&session, id, name, query.messages, teller.now) {
        teller.tell(told.key, &told.what, told.payload).await?;
    }
    Ok(())
}

const NO_PANIC: &str = "no code panics while it holds a session";

/// An event that a hook means.
struct Told {
    key: &'static str,
    /// What makes it this event among those of its key and session.
    what: String,
    payload: Members,
}

/// Stores the events of one hook.
struct Teller<'a> {
    intake: &'a Intake,
    host: String,
    traceparent: Option<String>,
    now: Timestamp,
    hook: &'a Hook<'a>,
    id: &'a str,
}

impl Teller<'_> {
    async fn tell(&self, key: &'static str, what: &str, payload: Members) -> Result<(), ErrorAnswer> {
        let key = RoutingKey::new(key).expect("the keys of this file are keys");
        let event_id = derived(&[key.as_str(), self.id, what]);
        let meta = json!({
            "hook_event_name": self.hook.0["hook_event_name"],
            "prompt_id": self.hook.0["prompt_id"],
            "tool_use_id": self.hook.0["tool_use_id"],
            "agent_id": self.hook.0["agent_id"],
            "agent_type": self.hook.0["agent_type"],
        });
        let source = Source { host: self.host.clone(), kind: "hook", app: "claude-code", meta: Some(claude_content::capped(&meta)) };
        let payload = Field::Nested(payload);
        let envelope = v2::envelope(event_id, &key, self.now, &source, &payload);
        let publication = Publication { traceparent: self.traceparent.clone(), ..Publication::new(key, envelope) };
        self.intake.ingest.store(publication).await.map(|_| ())
    }
}

fn derived(parts: &[&str]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, parts.join("\u{0}").as_bytes())
}

/// A hook as it came.
struct Hook<'a>(&'a Value);

impl Hook<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0[name].as_str()
    }

    /// Hooks within a subagent count neither turns nor ends of them.
    fn is_main(&self) -> bool {
        self.text("agent_id").is_none()
    }

    fn call(&self) -> Uuid {
        match self.text("tool_use_id") {
            Some(call) => derived(&["call", call]),
            None => derived(&["call", &self.0.to_string()]),
        }
    }

    /// What the session is from now on.
    fn note(&self, session: &mut Session, name: &str, now: Timestamp) {
        session.first_seen.get_or_insert(now);
        if session.directory.is_none() {
            session.directory = self.words("cwd");
        }
        if self.is_main() && name != "SessionEnd" {
            session.prompt(self.text("prompt_id"), name == "UserPromptSubmit");
        }
        let model = match name {
            "SessionStart" => self.text("model"),
            "PostModelSwitch" => self.text("to_model"),
            _ => None,
        };
        if let Some(model) = model {
            session.model = Some(claude_content::cut(model, 200));
        }
        match name {
            "PostToolUse" | "PostToolUseFailure" => {
                let tool = self.text("tool_name").unwrap_or("unknown");
                session.called(self.call(), tool);
                if name == "PostToolUse" {
                    let response = &self.0["tool_response"];
                    let written = matches!(tool, "Write" | "Edit" | "MultiEdit" | "NotebookEdit") && response["staged"] != true;
                    let file = [&response["filePath"], &response["notebook_path"], &self.0["tool_input"]["file_path"], &self.0["tool_input"]["notebook_path"]];
                    if let Some(file) = file.iter().find_map(|file| file.as_str()).filter(|_| written) {
                        session.wrote(relative(file, session.directory.clone().as_deref()));
                    }
                    if let Some(commit) = response["gitOperation"]["commit"]["sha"].as_str() {
                        session.committed(commit);
                    }
                }
            }
            "Stop" if self.is_main() => session.last = Some("success"),
            "StopFailure" if self.is_main() => session.last = Some("error"),
            "SessionEnd" => session.ended = true,
            _ => {}
        }
    }

    fn start(&self, session: &Session, id: &str, now: Timestamp) -> Members {
        Members(vec![
            ("session_id", id.into()),
            ("thread_id", Value::Null.into()),
            ("working_directory", session.directory.clone().unwrap_or_default().into()),
            ("git_branch", Value::Null.into()),
            ("git_remote", Value::Null.into()),
            // The one field that the schema does not let be null.
            ("model", session.model.clone().unwrap_or_else(|| "unknown".to_owned()).into()),
            ("user_prompt", Value::Null.into()),
            ("context_files", json!([]).into()),
            ("mcp_servers", json!([]).into()),
            ("started_at", v2::naive(session.first_seen.unwrap_or(now)).into()),
        ])
    }

    /// What it means, besides the start of its session.
    fn events(&self, session: &Session, id: &str, name: &str, messages: bool, now: Timestamp) -> Vec<Told> {
        let call = self.call().to_string();
        // The same words may be said in another turn.
        let said = || format!("{}\u{0}{}", session.turns, self.0);
        let told = |key, what, payload| Told { key, what, payload };
        match name {
            "PostToolUse" => vec![told("session.thread.agent.action", call, self.action(session, id, None))],
            "PostToolUseFailure" => {
                let error = self.words("error").unwrap_or_else(|| "the tool failed".to_owned());
                let kind = if self.0["is_interrupt"] == true { "interrupted" } else { "tool_failed" };
                let tool = self.text("tool_name");
                vec![
                    told("session.thread.agent.action", call.clone(), self.action(session, id, Some(&error))),
                    told("session.thread.error", call, error_payload(session, id, kind, &error, tool, true)),
                ]
            }
            "StopFailure" => {
                let kind = self.words("error").unwrap_or_else(|| "unknown".to_owned());
                let message = self.words("error_details").unwrap_or_else(|| kind.clone());
                let recoverable = matches!(kind.as_str(), "rate_limit" | "overloaded" | "server_error");
                vec![told("session.thread.error", said(), error_payload(session, id, &kind, &message, None, recoverable))]
            }
            "UserPromptSubmit" if messages => self.message(session, id, "user", "prompt", said()).into_iter().collect(),
            "Stop" if self.is_main() => {
                let mut all: Vec<Told> = self.message(session, id, "assistant", "last_assistant_message", said()).filter(|_| messages).into_iter().collect();
                all.push(told("session.thread.turn.completed", said(), self.turn(session, id)));
                all
            }
            "SessionEnd" => vec![told("session.thread.end", session.generation.to_string(), self.end(session, id, now))],
            _ => Vec::new(),
        }
    }

    fn words(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| claude_content::cut(text, claude_content::TEXT_BYTES_MAX))
    }

    fn action(&self, session: &Session, id: &str, error: Option<&str>) -> Members {
        let tool = Members(vec![
            ("tool_name", self.words("tool_name").unwrap_or_else(|| "unknown".to_owned()).into()),
            ("tool_input", claude_content::input(&self.0["tool_input"]).into()),
            ("execution_time_ms", self.0["duration_ms"].as_u64().map_or(Value::Null, Value::from).into()),
            ("success", error.is_none().into()),
            ("error_message", error.map_or(Value::Null, Value::from).into()),
            ("output_preview", claude_content::preview(&self.0["tool_response"]).map_or(Value::Null, Value::from).into()),
        ]);
        Members(vec![
            ("session_id", id.into()),
            ("thread_id", Value::Null.into()),
            ("conversation_id", Value::Null.into()),
            ("tool_metadata", Field::Nested(tool)),
            ("working_directory", self.words("cwd").map_or(Value::Null, Value::from).into()),
            ("git_branch", Value::Null.into()),
            ("git_status", Value::Null.into()),
            ("files_in_context", json!([]).into()),
            ("turn_number", session.turn().map_or(Value::Null, Value::from).into()),
            ("model", session.model.clone().map_or(Value::Null, Value::from).into()),
            ("tags", json!([]).into()),
        ])
    }

    fn message(&self, session: &Session, id: &str, role: &str, name: &str, what: String) -> Option<Told> {
        let payload = Members(vec![
            ("session_id", id.into()),
            ("thread_id", Value::Null.into()),
            ("role", role.into()),
            ("content", self.text(name).map(|text| claude_content::cut(text, claude_content::MESSAGE_BYTES_MAX))?.into()),
            ("turn_number", session.turns.into()),
            ("tokens", Value::Null.into()),
            ("model", session.model.clone().map_or(Value::Null, Value::from).into()),
            ("thinking_included", false.into()),
            ("tool_calls", json!([]).into()),
        ]);
        Some(Told { key: "session.thread.message", what, payload })
    }

    fn turn(&self, session: &Session, id: &str) -> Members {
        Members(vec![
            ("session_id", id.into()),
            ("thread_id", Value::Null.into()),
            ("turn_number", session.turn().map_or(Value::Null, Value::from).into()),
            ("working_directory", self.words("cwd").map_or(Value::Null, Value::from).into()),
            ("git_branch", Value::Null.into()),
            ("model", session.model.clone().map_or(Value::Null, Value::from).into()),
            ("stop_hook_active", (self.0["stop_hook_active"] == true).into()),
            ("background_tasks", self.0["background_tasks"].as_array().map_or(0, Vec::len).into()),
            ("total_tokens", Value::Null.into()),
            ("total_cost_usd", Value::Null.into()),
        ])
    }

    fn end(&self, session: &Session, id: &str, now: Timestamp) -> Members {
        let seconds = session.first_seen.map(|first| now.duration_since(first).as_secs().max(0));
        let list = |names: &std::collections::BTreeSet<String>| Field::Plain(names.iter().cloned().collect::<Vec<_>>().into());
        Members(vec![
            ("session_id", id.into()),
            ("thread_id", Value::Null.into()),
            ("end_reason", self.words("reason").unwrap_or_else(|| "other".to_owned()).into()),
            ("duration_seconds", seconds.map_or(Value::Null, Value::from).into()),
            ("total_turns", session.turns.into()),
            ("total_tokens", Value::Null.into()),
            ("total_cost_usd", Value::Null.into()),
            ("tools_used", Value::Object(session.tools.iter().map(|(tool, count)| (tool.clone(), Value::from(*count))).collect()).into()),
            ("files_modified", list(&session.files)),
            ("git_commits", list(&session.commits)),
            ("final_status", session.last.unwrap_or("abandoned").into()),
            ("summary", Value::Null.into()),
            ("working_directory", self.words("cwd").or_else(|| session.directory.clone()).map_or(Value::Null, Value::from).into()),
            ("git_branch", Value::Null.into()),
        ])
    }
}

fn error_payload(session: &Session, id: &str, kind: &str, message: &str, tool: Option<&str>, recoverable: bool) -> Members {
    Members(vec![
        ("session_id", id.into()),
        ("thread_id", Value::Null.into()),
        ("error_type", kind.into()),
        ("error_message", message.into()),
        ("stack_trace", Value::Null.into()),
        ("tool_name", tool.map_or(Value::Null, Value::from).into()),
        ("recoverable", recoverable.into()),
        ("turn_number", session.turn().map_or(Value::Null, Value::from).into()),
    ])
}

/// A file below the session's directory is named from there.
fn relative<'a>(file: &'a str, directory: Option<&str>) -> &'a str {
    let below = directory.and_then(|directory| file.strip_prefix(directory)).and_then(|rest| rest.strip_prefix('/'));
    below.filter(|rest| !rest.is_empty()).unwrap_or(file)
}
