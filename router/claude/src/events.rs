//! Which events a hook means, with all fields of their schemas. What a hook does not know is null; why stands in
//! `docs/claude-code-events.md`, field by field.

use std::collections::BTreeMap;

use jiff::Timestamp;
use router_transcripts::ModelTotals;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    content::{MESSAGE_BYTES_MAX, capped, cut, input, preview},
    event::{Told, derived, end_id, start_id},
    input::{HookInput, words},
    members::{Field, Members, naive},
    session::{Session, Surroundings, call, full_commit, is_main},
};

/// Models that one event tells of, and bytes of the name of one.
const MODELS_MAX: usize = 20;
const MODEL_BYTES_MAX: usize = 200;

/// Tokens and their price, where the transcript tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Of the session so far, all kinds.
    pub total_tokens: Option<u64>,
    /// An estimate; `None` where a model's price is unknown.
    pub total_cost_usd: Option<f64>,
    /// The model that answered last.
    pub model: Option<String>,
    /// What each model took.
    pub models: Vec<ModelTotals>,
    /// Models without a price.
    pub unknown_models: Vec<String>,
    /// The day of which the prices are.
    pub prices_as_of: Option<String>,
}

/// What an event is told with.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// When.
    pub now: Timestamp,
    /// Also what was said.
    pub messages: bool,
    /// Where.
    pub around: &'a Surroundings,
    /// What it cost so far.
    pub usage: &'a Usage,
    /// What the work is for.
    pub feature: Option<&'a str>,
    /// A snapshot is wanted for this reason.
    pub snapshot: Option<&'static str>,
    /// Makes events without an identity of their own differ: the same words may be said twice.
    pub fresh: Uuid,
}

/// All events that a hook means, in their order. `session` is as it is after the hook was noted.
#[must_use]
pub fn events(hook: &HookInput, session: &mut Session, cx: &Circumstances<'_>) -> Vec<Told> {
    let mut told = Vec::new();
    if session.told_start != Some(session.resumes) && hook.event_name() != "SessionEnd" || session.told_start.is_none() {
        told.push(if session.resumes == 0 { start(session, cx) } else { resumed(hook, session, cx) });
        session.told_start = Some(session.resumes);
    }
    let builder = Builder { hook, session, cx };
    builder.of_hook(&mut told);
    if let Some(trigger) = cx.snapshot {
        told.push(builder.snapshot(trigger));
    }
    for event in &mut told {
        event.meta.extend(cx.feature.map(|feature| ("feature", feature.into())));
    }
    told
}

/// `meta` of the source: what the hook was.
#[must_use]
pub fn meta(hook: &HookInput, told: &Told) -> Value {
    let of = |name: &str| hook.value()[name].clone();
    let mut meta = json!({
        "hook_event_name": of("hook_event_name"),
        "prompt_id": of("prompt_id"),
        "tool_use_id": of("tool_use_id"),
        "agent_id": of("agent_id"),
        "agent_type": of("agent_type"),
    });
    for (name, value) in &told.meta {
        meta[*name] = value.clone();
    }
    capped(&meta)
}

fn or_null<T: Into<Value>>(value: Option<T>) -> Field {
    value.map_or(Value::Null, Into::into).into()
}

fn list<'n>(names: impl IntoIterator<Item = &'n String>) -> Field {
    Value::from(names.into_iter().cloned().collect::<Vec<_>>()).into()
}

fn counts(counts: &BTreeMap<String, u64>) -> Field {
    Value::Object(counts.iter().map(|(name, count)| (name.clone(), Value::from(*count))).collect()).into()
}

fn parents(session: &Session) -> Vec<Uuid> {
    if session.resumes > 0 {
        return vec![start_id(&session.session_id, session.resumes - 1)];
    }
    session.parent.iter().map(|parent| start_id(parent, 0)).collect()
}

fn start(session: &Session, cx: &Circumstances<'_>) -> Told {
    let payload = Members(vec![
        ("session_id", session.session_id.as_str().into()),
        ("thread_id", Value::Null.into()),
        ("working_directory", session.working_directory.clone().unwrap_or_default().into()),
        ("git_branch", or_null(session.git_branch.clone())),
        ("git_remote", or_null(session.git_remote.clone())),
        // The one field that the schema does not let be null.
        ("model", session.model.clone().unwrap_or_else(|| "unknown".to_owned()).into()),
        ("user_prompt", Value::Null.into()),
        ("context_files", json!([]).into()),
        ("mcp_servers", list(&session.mcp_servers)),
        ("started_at", naive(session.started_at.unwrap_or(cx.now)).into()),
    ]);
    let meta = session.parent.iter().map(|parent| ("parent_session_id", parent.as_str().into())).collect();
    Told { key: "session.thread.start", id: start_id(&session.session_id, 0), correlation_ids: parents(session), payload, meta }
}

fn resumed(hook: &HookInput, session: &Session, cx: &Circumstances<'_>) -> Told {
    let payload = Members(vec![
        ("session_id", session.session_id.as_str().into()),
        ("thread_id", Value::Null.into()),
        ("resumes", session.resumes.into()),
        ("working_directory", words(hook, "cwd").or_else(|| session.working_directory.clone()).unwrap_or_default().into()),
        ("git_branch", or_null(session.git_branch.clone())),
        ("git_remote", or_null(session.git_remote.clone())),
        ("model", session.model.clone().unwrap_or_else(|| "unknown".to_owned()).into()),
        ("started_at", naive(session.started_at.unwrap_or(cx.now)).into()),
        ("resumed_at", naive(cx.now).into()),
    ]);
    let id = start_id(&session.session_id, session.resumes);
    Told { key: "session.thread.resumed", id, correlation_ids: parents(session), payload, meta: Vec::new() }
}

/// The end of a session, by its last hook or after a silence that was too long.
#[must_use]
pub fn end(session: &Session, reason: &str, working_directory: Option<String>, usage: &Usage, now: Timestamp) -> Told {
    let seconds = session.started_at.map(|first| now.duration_since(first).as_secs().max(0));
    let status = if reason == "abandoned" { "abandoned" } else { session.last_status.as_deref().unwrap_or("abandoned") };
    let payload = Members(vec![
        ("session_id", session.session_id.as_str().into()),
        ("thread_id", Value::Null.into()),
        ("end_reason", reason.into()),
        ("duration_seconds", or_null(seconds)),
        ("total_turns", session.turn_number.into()),
        ("total_tokens", or_null(usage.total_tokens)),
        ("total_cost_usd", or_null(usage.total_cost_usd)),
        ("tools_used", counts(&session.tools_used)),
        ("files_modified", list(&session.files_modified)),
        ("git_commits", list(&session.git_commits)),
        ("final_status", status.into()),
        ("summary", or_null(session.summary.clone())),
        ("working_directory", or_null(working_directory.or_else(|| session.working_directory.clone()))),
        ("git_branch", or_null(session.git_branch.clone())),
    ]);
    let mut meta = usage_meta(usage);
    if !session.subagent_tools_used.is_empty() {
        let used: serde_json::Map<_, _> = session.subagent_tools_used.iter().map(|(name, count)| (name.clone(), Value::from(*count))).collect();
        meta.push(("subagent_tools_used", used.into()));
    }
    let id = end_id(&session.session_id, session.resumes);
    Told { key: "session.thread.end", id, correlation_ids: vec![start_id(&session.session_id, session.resumes)], payload, meta }
}

/// Costs are estimates, and say so.
pub(crate) fn usage_meta(usage: &Usage) -> Vec<(&'static str, Value)> {
    let mut meta = Vec::new();
    if usage.total_tokens.is_some() {
        meta.push(("cost_estimated", true.into()));
        meta.extend(usage.prices_as_of.clone().map(|day| ("prices_as_of", day.into())));
    }
    if !usage.models.is_empty() {
        let of = |model: &ModelTotals| {
            let tokens = model.tokens;
            json!({
                "input": tokens.input, "output": tokens.output, "cache_write_5m": tokens.cache_write_5m,
                "cache_write_1h": tokens.cache_write_1h, "cache_read": tokens.cache_read, "cost_usd": model.cost_usd,
            })
        };
        let models: serde_json::Map<_, _> = usage.models.iter().take(MODELS_MAX).map(|model| (cut(&model.model, MODEL_BYTES_MAX), of(model))).collect();
        meta.push(("usage_by_model", models.into()));
    }
    if !usage.unknown_models.is_empty() {
        meta.push(("models_without_price", usage.unknown_models.clone().into()));
    }
    meta
}

struct Builder<'a> {
    hook: &'a HookInput,
    session: &'a Session,
    cx: &'a Circumstances<'a>,
}

impl Builder<'_> {
    fn of_hook(&self, told: &mut Vec<Told>) {
        let hook = self.hook;
        match hook.event_name() {
            "PostToolUse" => {
                told.push(self.action(None));
                self.git(told);
            }
            "PostToolUseFailure" => {
                let error = words(hook, "error").unwrap_or_else(|| "the tool failed".to_owned());
                let kind = if hook.value()["is_interrupt"] == true { "interrupted" } else { "tool_failed" };
                told.push(self.action(Some(&error)));
                told.push(self.error(kind, &error, words(hook, "tool_name"), true, &self.call()));
            }
            "StopFailure" => {
                let kind = words(hook, "error").unwrap_or_else(|| "unknown".to_owned());
                let message = words(hook, "error_details").unwrap_or_else(|| kind.clone());
                let recoverable = matches!(kind.as_str(), "rate_limit" | "overloaded" | "server_error");
                told.push(self.error(&kind, &message, None, recoverable, &self.said()));
            }
            "UserPromptSubmit" if self.cx.messages => told.extend(self.message("user", "prompt")),
            "Stop" if is_main(hook) => {
                if self.cx.messages {
                    told.extend(self.message("assistant", "last_assistant_message"));
                }
                told.push(self.turn());
            }
            "SessionEnd" => {
                let reason = words(hook, "reason").unwrap_or_else(|| "other".to_owned());
                told.push(end(self.session, &reason, words(hook, "cwd"), self.cx.usage, self.cx.now));
            }
            _ => {}
        }
    }

    fn told(&self, key: &'static str, what: &str, payload: Vec<(&'static str, Field)>) -> Told {
        let id = derived(&[key, &self.session.session_id, what]);
        let correlation_ids = vec![start_id(&self.session.session_id, self.session.resumes)];
        Told { key, id, correlation_ids, payload: Members(payload), meta: Vec::new() }
    }

    /// What makes a call of a tool this one.
    fn call(&self) -> String {
        call(self.hook).unwrap_or(self.cx.fresh).to_string()
    }

    /// The same words may be said in another turn.
    fn said(&self) -> String {
        format!("{}\u{0}{}\u{0}{}", self.session.resumes, self.session.turn_number, self.hook.value())
    }

    fn head(&self) -> Vec<(&'static str, Field)> {
        vec![("session_id", self.session.session_id.as_str().into()), ("thread_id", Value::Null.into())]
    }

    fn working_directory(&self) -> Field {
        or_null(words(self.hook, "cwd").or_else(|| self.session.working_directory.clone()))
    }

    fn branch(&self) -> Field {
        or_null(self.cx.around.branch.clone().or_else(|| self.session.git_branch.clone()))
    }

    fn model(&self) -> Field {
        or_null(self.session.model.clone())
    }

    fn action(&self, error: Option<&str>) -> Told {
        let hook = self.hook;
        let response = &hook.value()["tool_response"];
        let tool = Members(vec![
            ("tool_name", words(hook, "tool_name").unwrap_or_else(|| "unknown".to_owned()).into()),
            ("tool_input", input(&hook.value()["tool_input"]).into()),
            ("execution_time_ms", or_null(hook.value()["duration_ms"].as_u64())),
            ("success", error.is_none().into()),
            ("error_message", or_null(error)),
            ("output_preview", or_null(preview(response))),
        ]);
        let mut tags = Vec::new();
        if !is_main(hook) {
            tags.push("subagent".to_owned());
            tags.extend(hook.text("agent_type").map(|kind| format!("agent:{}", cut(kind, 200))));
        }
        tags.extend(self.cx.feature.map(|feature| format!("feature:{feature}")));
        let mut payload = self.head();
        payload.extend([
            ("conversation_id", Value::Null.into()),
            ("tool_metadata", Field::Nested(tool)),
            ("working_directory", self.working_directory()),
            ("git_branch", self.branch()),
            ("git_status", Value::Null.into()),
            ("files_in_context", list(&self.session.files_in_context)),
            ("turn_number", or_null(self.session.turn())),
            ("model", self.model()),
            ("tags", Value::from(tags).into()),
        ]);
        self.told("session.thread.agent.action", &self.call(), payload)
    }

    /// Commits and pushes that Claude Code recognised in a command.
    fn git(&self, told: &mut Vec<Told>) {
        let operation = &self.hook.value()["tool_response"]["gitOperation"];
        let text = |value: &Value| value.as_str().map(|text| cut(text, 500));
        let branch = |value: &Value| or_null(text(value).or_else(|| self.cx.around.branch.clone()));
        let common = |branch: Field| {
            [
                ("git_branch", branch),
                ("git_remote", or_null(self.session.git_remote.clone())),
                ("working_directory", self.working_directory()),
                ("turn_number", or_null(self.session.turn())),
            ]
        };
        if let Some(short) = operation["commit"]["sha"].as_str() {
            let commit = full_commit(short, self.cx.around);
            let mut payload = self.head();
            payload.extend([("commit", commit.as_str().into()), ("kind", or_null(text(&operation["commit"]["kind"])))]);
            payload.extend(common(branch(&operation["commit"]["branch"])));
            told.push(self.told("session.thread.git.commit", &self.call(), payload));
        }
        if operation["push"].is_object() {
            let mut payload = self.head();
            payload.push(("commit", or_null(self.cx.around.head.clone())));
            payload.extend(common(branch(&operation["push"]["branch"])));
            told.push(self.told("session.thread.git.push", &self.call(), payload));
        }
    }

    fn error(&self, kind: &str, message: &str, tool: Option<String>, recoverable: bool, what: &str) -> Told {
        let mut payload = self.head();
        payload.extend([
            ("error_type", kind.into()),
            ("error_message", message.into()),
            ("stack_trace", Value::Null.into()),
            ("tool_name", or_null(tool)),
            ("recoverable", recoverable.into()),
            ("turn_number", or_null(self.session.turn())),
        ]);
        self.told("session.thread.error", what, payload)
    }

    fn message(&self, role: &str, name: &str) -> Option<Told> {
        let content = cut(self.hook.text(name)?, MESSAGE_BYTES_MAX);
        let mut payload = self.head();
        payload.extend([
            ("role", role.into()),
            ("content", content.into()),
            ("turn_number", self.session.turn_number.into()),
            ("tokens", Value::Null.into()),
            ("model", self.model()),
            ("thinking_included", false.into()),
            ("tool_calls", json!([]).into()),
        ]);
        Some(self.told("session.thread.message", &self.said(), payload))
    }

    fn turn(&self) -> Told {
        let mut payload = self.head();
        payload.extend([
            ("turn_number", or_null(self.session.turn())),
            ("working_directory", self.working_directory()),
            ("git_branch", self.branch()),
            ("model", self.model()),
            ("stop_hook_active", (self.hook.value()["stop_hook_active"] == true).into()),
            ("background_tasks", self.hook.value()["background_tasks"].as_array().map_or(0, Vec::len).into()),
            ("total_tokens", or_null(self.cx.usage.total_tokens)),
            ("total_cost_usd", or_null(self.cx.usage.total_cost_usd)),
        ]);
        let mut told = self.told("session.thread.turn.completed", &self.said(), payload);
        told.meta = usage_meta(self.cx.usage);
        told
    }

    fn snapshot(&self, trigger: &str) -> Told {
        let mut payload = self.head();
        payload.extend([
            ("trigger", trigger.into()),
            ("turn_number", or_null(self.session.turn())),
            ("working_directory", self.working_directory()),
            ("git_branch", self.branch()),
            ("model", self.model()),
            ("files_in_context", list(&self.session.files_in_context)),
            ("files_modified", list(&self.session.files_modified)),
            ("git_commits", list(&self.session.git_commits)),
            ("tools_used", counts(&self.session.tools_used)),
            ("mcp_servers", list(&self.session.mcp_servers)),
            ("total_tokens", or_null(self.cx.usage.total_tokens)),
            ("total_cost_usd", or_null(self.cx.usage.total_cost_usd)),
            ("compact_summary", or_null(words(self.hook, "compact_summary").filter(|_| self.cx.messages))),
        ]);
        let mut told = self.told("session.context.snapshot", &self.said(), payload);
        told.meta = usage_meta(self.cx.usage);
        told
    }
}

/// What the assistant thought, from the transcript.
#[must_use]
pub fn thinking(session: &Session, text: &str, line: &str, redacted: &str) -> Told {
    let payload = Members(vec![
        ("session_id", session.session_id.as_str().into()),
        ("thread_id", Value::Null.into()),
        ("thinking_text", cut(redacted, MESSAGE_BYTES_MAX).into()),
        ("thinking_duration_ms", Value::Null.into()),
        ("turn_number", or_null(session.turn())),
        ("triggered_by_tool", Value::Null.into()),
    ]);
    let key = "session.thread.agent.thinking";
    let id = derived(&[key, &session.session_id, line, text]);
    Told { key, id, correlation_ids: vec![start_id(&session.session_id, session.resumes)], payload, meta: Vec::new() }
}
