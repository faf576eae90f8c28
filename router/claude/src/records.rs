//! What goes into the spool: an event as it is sent, without secrets; and the end of a session that nobody ended.

use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    event::{Source, Told, envelope},
    events::{self, Usage, end},
    input::HookInput,
    members::{Field, Members},
    redact::Redaction,
    session::Session,
    spool::Record,
    state::StateDir,
    transcript, unread,
};

/// Who writes events, and when.
pub(crate) struct Writer<'a> {
    pub(crate) host: &'a str,
    pub(crate) now: Timestamp,
    pub(crate) traceparent: Option<&'a str>,
    pub(crate) redaction: &'a Redaction,
    pub(crate) home: Option<&'a Path>,
    pub(crate) prices: Option<&'a Path>,
}

impl Writer<'_> {
    pub(crate) fn record(&self, hook: &HookInput, told: &Told, session: &str) -> Record {
        let mut payload = Members(vec![("payload", Field::Nested(told.payload.clone()))]);
        self.redaction.members(&mut payload);
        let payload = payload.0.pop().map_or(Field::Plain(Value::Null), |(_, payload)| payload);
        let mut meta = events::meta(hook, told);
        if let Some(traceparent) = self.traceparent {
            meta["traceparent"] = traceparent.into();
        }
        let source = Source { host: self.host.to_owned(), kind: "hook", app: "claude-code", meta: Some(meta) };
        let correlation: Vec<Uuid> = told.correlation_ids.iter().copied().filter(|id| *id != told.id).collect();
        Record { key: told.key.to_owned(), session: session.to_owned(), body: envelope(told.id, told.key, self.now, &source, &correlation, &payload) }
    }

    /// The note of a session's end whose transcript is not read yet.
    pub(crate) fn unread(&self, state: &StateDir, session: &Session) -> Option<(&'static str, Value)> {
        let path = transcript::resolved(session.transcript_path.as_deref()?, self.home);
        // What the user does not want to be seen is not filled in later.
        let numbers = unread::FIELDS.iter().map(|name| (*name, Field::Plain(1.into()))).collect();
        let mut seen = Members(vec![("payload", Field::Nested(Members(numbers)))]);
        self.redaction.members(&mut seen);
        let Some((_, Field::Nested(seen))) = seen.0.pop() else { return None };
        let fields: Vec<&str> = seen.0.iter().filter(|(_, value)| matches!(value, Field::Plain(Value::Number(_)))).map(|(name, _)| *name).collect();
        Some(unread::note(&path, &state.tally(&session.session_id), self.prices, &fields))
    }

    /// The end of a session that has been silent for too long. Whoever tells it, it has the same id.
    pub(crate) fn abandoned(&self, state: &StateDir, session: &Session) -> (Told, Record) {
        let last = session.last_seen.unwrap_or(self.now);
        let mut told = end(session, "abandoned", None, &Usage::default(), last);
        told.meta.extend(self.unread(state, session));
        let record = self.record(&HookInput::empty(), &told, &session.session_id);
        (told, record)
    }
}
