//! What one event says of its session, in any dialect: [`Fact`]. Small, whatever the size of the event.

use jiff::{SignedDuration, Timestamp};
use router_api::{Dialect, Envelope, ModelUsage, Source};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Bytes of a name: a tool, a branch, a model, a commit.
pub(super) const NAME_BYTES_MAX: usize = 256;
/// Bytes of a path; a longer one is left out.
pub(super) const PATH_BYTES_MAX: usize = 1_024;
/// Bytes of a text for people; longer ones are cut.
const TEXT_BYTES_MAX: usize = 2_000;
/// A time further ahead of the one at which the event was stored is wrong, and would count as the newest for ever.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1);
/// Names that one event may bring.
const NAMES_MAX: usize = 500;
/// Language models that one event may tell of.
pub(super) const MODELS_MAX: usize = 200;
/// Events that one may say it follows.
pub(super) const FOLLOWS_MAX: usize = 4;

/// Tools that write the file that they name, in any case: hookd writes them small.
const WRITERS: [&str; 4] = ["Write", "Edit", "MultiEdit", "NotebookEdit"];

/// What one event says.
#[derive(Debug, Clone, Default)]
pub(super) struct Fact {
    /// The same for every copy of the event.
    pub(super) identity: u128,
    /// When it happened, as it says; else when it was stored.
    pub(super) at: Timestamp,
    pub(super) stored_at: Timestamp,
    pub(super) kind: Kind,
    pub(super) began_at: Option<Timestamp>,
    pub(super) working_directory: Option<String>,
    pub(super) git_branch: Option<String>,
    pub(super) git_remote: Option<String>,
    pub(super) model: Option<String>,
    pub(super) feature: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) host: Option<String>,
    pub(super) app: Option<String>,
    /// The turn that it says it is in, or how many there were.
    pub(super) turn: u64,
    pub(super) files: Vec<String>,
    pub(super) commits: Vec<String>,
    /// Counts of tools that it reports.
    pub(super) tools_used: Vec<(String, u64)>,
    /// Of the session so far.
    pub(super) total_tokens: Option<u64>,
    pub(super) total_cost_usd: Option<f64>,
    /// Of the session so far, by language model.
    pub(super) models: Vec<(String, ModelUsage)>,
    /// Of this event alone.
    pub(super) tokens: u64,
    /// Of a start: the events that it follows.
    pub(super) follows: Vec<String>,
    /// Some of its names were left out.
    pub(super) is_cut: bool,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Kind {
    Start,
    End {
        reason: Option<String>,
        status: Option<String>,
        summary: Option<String>,
        duration_seconds: Option<u64>,
    },
    /// A person asked something, or a turn began.
    TurnBegan,
    TurnEnded,
    Tool {
        name: Option<String>,
        channel: Channel,
    },
    Error {
        kind: Option<String>,
        message: Option<String>,
    },
    /// Something else that the session did.
    Went,
    /// Said of the session by others: it opens none again.
    #[default]
    Other,
}

/// Who tells of tools. One use may be told of by each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Action,
    Mutation,
    Completed,
}

impl Fact {
    /// `None` for events of other sessions, for what routers emit of a session, and for what is told again: it happened once.
    pub(super) fn of(event: &Envelope, session: &str, stored_at: Timestamp) -> Option<Self> {
        if event.session_id() != Some(session) || event.is_replayed() {
            return None;
        }
        let (host, app) = match event.source() {
            Some(Source::Object { app: Some(app), kind: Some(kind), .. }) if app == "event-router" && kind == "service" => return None,
            Some(Source::Object { host, app, .. }) => (host.as_deref(), app.as_deref()),
            Some(Source::Text(text)) => (None, Some(text.as_str())),
            None => (None, None),
        };
        let payload = event.payload();
        let mut fact = Self {
            identity: identity(event),
            at: event.time().filter(|time| time.duration_since(stored_at) <= AHEAD_MAX).unwrap_or(stored_at),
            stored_at,
            kind: kind(event, payload),
            began_at: text(payload, "started_at").and_then(router_api::read_time).filter(|time| time.duration_since(stored_at) <= AHEAD_MAX),
            git_branch: name(event.git_branch().map(|branch| branch.strip_prefix("refs/heads/").unwrap_or(branch)))
                .filter(|branch| !matches!(branch.as_str(), "unknown" | "HEAD")),
            git_remote: name(text(payload, "git_remote")).or_else(|| name(event.body().pointer("/repo/remote_url").and_then(Value::as_str))),
            model: name(text(payload, "model")),
            feature: name(feature(event.body(), payload)),
            parent: name(parent(event.body(), payload)).filter(|parent| parent != session),
            host: name(host),
            app: name(app),
            turn: count(payload, "turn_number").unwrap_or(0).max(count(payload, "total_turns").unwrap_or(0)),
            total_tokens: count(payload, "total_tokens"),
            total_cost_usd: cost(payload, "total_cost_usd"),
            models: models(event.body(), payload),
            tokens: count(payload, "tokens").unwrap_or(0),
            ..Self::default()
        };
        if fact.kind == Kind::Start {
            let ids = event.correlation_ids().iter().filter(|id| !id.is_empty() && id.len() <= NAME_BYTES_MAX);
            fact.follows = ids.take(FOLLOWS_MAX).cloned().collect();
        }
        match event.working_directory().filter(|directory| !directory.is_empty()) {
            // A part of a path is another path.
            Some(directory) if directory.len() > PATH_BYTES_MAX => fact.is_cut = true,
            directory => fact.working_directory = directory.map(str::to_owned),
        }
        match &fact.kind {
            Kind::Tool { .. } => fact.written(event, payload),
            Kind::End { .. } => fact.reported(payload),
            _ => {}
        }
        Some(fact)
    }

    /// The file of a tool that writes, unless it failed.
    fn written(&mut self, event: &Envelope, payload: &Value) {
        let writes = event.tool_name().is_some_and(|tool| WRITERS.iter().any(|writer| writer.eq_ignore_ascii_case(tool)));
        let failed = payload.pointer("/tool_metadata/success") == Some(&Value::Bool(false))
            || payload.get("success") == Some(&Value::Bool(false))
            || text(payload, "outcome").is_some_and(|outcome| outcome != "success");
        if let Some(file) = event.file_path().filter(|file| writes && !failed && !file.is_empty()) {
            self.file(file);
        }
    }

    /// What an end lists.
    fn reported(&mut self, payload: &Value) {
        let texts = |name: &str| payload.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).filter(|text| !text.is_empty());
        for file in texts("files_modified").take(NAMES_MAX) {
            self.file(file);
        }
        for commit in texts("git_commits").take(NAMES_MAX) {
            if commit.len() <= NAME_BYTES_MAX {
                self.commits.push(commit.to_owned());
            } else {
                self.is_cut = true;
            }
        }
        for (tool, count) in payload.get("tools_used").and_then(Value::as_object).into_iter().flatten().take(NAMES_MAX) {
            if let (Some(tool), Some(count)) = (name(Some(tool)), whole(count)) {
                self.tools_used.push((tool, count));
            }
        }
        self.is_cut |= texts("files_modified").nth(NAMES_MAX).is_some() || texts("git_commits").nth(NAMES_MAX).is_some();
    }

    /// Some producers say where a file is from the working directory, others from the root: one file is to be one.
    fn file(&mut self, path: &str) {
        if path.len() > PATH_BYTES_MAX {
            self.is_cut = true;
            return;
        }
        let within = self.working_directory.as_deref().map(|directory| directory.trim_end_matches('/')).filter(|directory| !directory.is_empty());
        let relative = within.and_then(|directory| path.strip_prefix(directory)?.strip_prefix('/'));
        self.files.push(relative.unwrap_or(path).trim_start_matches("./").to_owned());
    }
}

/// Of the id, where there is one. Else of what makes one event differ from another and no redaction touches; where there is no time in
/// it, of the whole body.
fn identity(event: &Envelope) -> u128 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    match (event.dedup_id(), event.time()) {
        (Some(id), _) => part(id.as_bytes()),
        (None, Some(time)) => {
            for text in [event.key().as_str(), &time.to_string(), event.tool_name().unwrap_or_default(), event.file_path().unwrap_or_default()] {
                part(text.as_bytes());
            }
        }
        (None, None) => {
            part(event.key().as_str().as_bytes());
            part(event.raw());
        }
    }
    let digest = hash.finalize();
    u128::from_be_bytes(digest[..16].try_into().expect("a SHA-256 has 32 bytes"))
}

/// By the routing key; by the type where a key says nothing, as with CloudEvents that came under a subject of their own.
fn kind(event: &Envelope, payload: &Value) -> Kind {
    let by_key = kind_of(event.key().as_str(), event, payload);
    match (by_key, event.event_type()) {
        (Kind::Other, Some(event_type)) => kind_of(event_type, event, payload),
        (kind, _) => kind,
    }
}

fn kind_of(words: &str, event: &Envelope, payload: &Value) -> Kind {
    let ends = |suffix: &str| words.strip_suffix(suffix).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    let said = |name: &str| text(payload, name).map(shortened);
    if ends("session.thread.start") || ends("session.started") {
        Kind::Start
    } else if ends("session.thread.end") || ends("session.ended") {
        Kind::End { reason: said("end_reason"), status: said("final_status"), summary: said("summary"), duration_seconds: count(payload, "duration_seconds") }
    } else if ends("session.thread.agent.action") || ends("tool.completed") || words.starts_with("tool.mutation.") {
        let channel = match event.dialect() {
            Dialect::Hookd => Channel::Mutation,
            Dialect::CloudEvents => Channel::Completed,
            _ => Channel::Action,
        };
        Kind::Tool { name: name(event.tool_name()), channel }
    } else if ends("session.thread.message") || ends("message.appended") {
        if matches!(text(payload, "role"), Some("user" | "human")) { Kind::TurnBegan } else { Kind::Went }
    } else if ends("turn.started") || ends("agent.thread.prompt") {
        Kind::TurnBegan
    } else if ends("turn.completed") {
        Kind::TurnEnded
    } else if ends("session.thread.error") || ends("invocation.failed") || ends("agent.thread.error") {
        Kind::Error { kind: said("error_type"), message: said("error_message").or_else(|| said("message")) }
    } else if words.starts_with("session.thread.") || ends("tool.requested") || ends("tool.invoked") || ends("agent.thread.response") {
        Kind::Went
    } else {
        Kind::Other
    }
}

/// Producers say it in the source's `meta`, in the payload, or as a tag.
fn feature<'v>(body: &'v Value, payload: &'v Value) -> Option<&'v str> {
    let said = body.pointer("/source/meta").and_then(|meta| text(meta, "feature")).or_else(|| text(payload, "feature"));
    said.or_else(|| {
        let tags = payload.get("tags")?.as_array()?;
        tags.iter().filter_map(Value::as_str).find_map(|tag| tag.strip_prefix("feature:")).filter(|feature| !feature.is_empty())
    })
}

/// Producers say it in the payload, or in the source's `meta`.
fn parent<'v>(body: &'v Value, payload: &'v Value) -> Option<&'v str> {
    text(payload, "parent_session_id").or_else(|| body.pointer("/source/meta").and_then(|meta| text(meta, "parent_session_id")))
}

/// What each model took so far: `usage_by_model` of the payload or of the source's `meta`.
fn models(body: &Value, payload: &Value) -> Vec<(String, ModelUsage)> {
    let said = payload.get("usage_by_model").or_else(|| body.pointer("/source/meta/usage_by_model"));
    let models = said.and_then(Value::as_object).into_iter().flatten().take(MODELS_MAX);
    let usage = |said: &Value| ModelUsage {
        input: count(said, "input").unwrap_or(0),
        output: count(said, "output").unwrap_or(0),
        cache_write_5m: count(said, "cache_write_5m").unwrap_or(0),
        cache_write_1h: count(said, "cache_write_1h").unwrap_or(0),
        cache_read: count(said, "cache_read").unwrap_or(0),
        cost_usd: cost(said, "cost_usd"),
    };
    models.filter_map(|(model, said)| Some((name(Some(model))?, usage(said)))).collect()
}

fn cost(payload: &Value, name: &str) -> Option<f64> {
    payload.get(name).and_then(Value::as_f64).filter(|cost| cost.is_finite() && *cost >= 0.0)
}

fn text<'v>(payload: &'v Value, name: &str) -> Option<&'v str> {
    payload.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn count(payload: &Value, name: &str) -> Option<u64> {
    payload.get(name).and_then(whole)
}

/// Producers write whole numbers as `3.0`, too. What is no count is none.
fn whole(value: &Value) -> Option<u64> {
    /// Beyond it a number is no count of anything, and sums of two would not fit into JSON.
    const COUNT_MAX: u64 = 1 << 50;
    let number = value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| *number >= 0.0 && *number <= COUNT_MAX as f64)?;
        Some(number as u64)
    })?;
    (number <= COUNT_MAX).then_some(number)
}

/// What is too long for a name is cut: a tool or a branch of that length is nobody's, but it is not nothing.
fn name(text: Option<&str>) -> Option<String> {
    let text = text.filter(|text| !text.is_empty())?;
    Some(text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned())
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}
