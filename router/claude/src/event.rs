//! One event, ready to be sent: its envelope is Bloodbank's, version 2, and its id is derived from what it tells, so that a hook that
//! comes twice tells of one event.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::members::{Field, Members, zoned};

/// Of the ids that are derived here.
const NAMESPACE: Uuid = Uuid::from_u128(0x8e0c_41d6_2c5b_4b0e_9f0f_6b1b_7d0a_5c33);

/// An id that is the same wherever it is derived from the same parts.
#[must_use]
pub fn derived(parts: &[&str]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, parts.join("\u{0}").as_bytes())
}

/// The id of a session's start, or of its going on after so many ends.
#[must_use]
pub fn start_id(session: &str, resumes: u32) -> Uuid {
    derived(&[if resumes == 0 { "session.thread.start" } else { "session.thread.resumed" }, session, &resumes.to_string()])
}

/// The id of a session's end, after so many others.
#[must_use]
pub fn end_id(session: &str, resumes: u32) -> Uuid {
    derived(&["session.thread.end", session, &resumes.to_string()])
}

/// What a hook tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The routing key, and the type.
    pub key: &'static str,
    /// The same for each copy.
    pub id: Uuid,
    /// Events that it belongs to.
    pub correlation_ids: Vec<Uuid>,
    /// What happened.
    pub payload: Members,
    /// Further members of the source's `meta`.
    pub meta: Vec<(&'static str, Value)>,
}

/// Where events come from.
#[derive(Debug, Clone, Serialize)]
pub struct Source {
    /// The machine.
    pub host: String,
    /// `hook`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `claude-code`.
    pub app: &'static str,
    /// Of the hook.
    pub meta: Option<Value>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    event_id: Uuid,
    event_type: &'a str,
    timestamp: String,
    version: &'static str,
    source: &'a Source,
    correlation_ids: &'a [Uuid],
    agent_context: Option<()>,
    payload: &'a Field,
}

/// The bytes of an envelope.
#[must_use]
pub fn envelope(event_id: Uuid, key: &str, now: Timestamp, source: &Source, correlation_ids: &[Uuid], payload: &Field) -> Vec<u8> {
    let envelope = Envelope { event_id, event_type: key, timestamp: zoned(now), version: "1.0.0", source, correlation_ids, agent_context: None, payload };
    serde_json::to_vec(&envelope).expect("texts and JSON values can be written")
}
