//! One event, decoded from any dialect that is on the wire. The bytes are kept as they came.

use std::sync::OnceLock;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{EventId, FieldPath, RoutingKey};

/// The shapes of events that are on the wire. See `docs/dialects.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// `specversion` is there.
    CloudEvents,
    /// Bloodbank v2: `event_id` and `payload`.
    V2,
    /// Bloodbank v2 whose `event_type` begins with `command.`.
    Command,
    /// Bloodbank v1: `id`, `ts` and `data`.
    V1,
    /// hookd's flat event: `raw_payload` and `hook_type`.
    Hookd,
    /// Flume's camel-case event: `routingKey` and `data`.
    Flume,
    /// `event_type` alone.
    V2Lenient,
    /// Any other JSON object.
    Opaque,
}

/// What a body may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// In bytes.
    pub body_bytes_max: usize,
    /// Objects and arrays within each other; at most 128, the JSON parser's own limit.
    pub depth_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { body_bytes_max: 4 * 1024 * 1024, depth_max: 64 }
    }
}

/// Why bytes are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Larger than the limit.
    #[error("{bytes} bytes long, {max} are the limit")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Nested deeper than the limit.
    #[error("nested deeper than {max} levels")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// Not JSON at all.
    #[error("no JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("{0}, where a JSON object is needed")]
    NotObject(&'static str),
}

/// Where an event says it comes from: Bloodbank's object, or a bare string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Source {
    /// As Bloodbank v2 has it. Unknown fields stay in the raw bytes.
    Object {
        /// The host.
        host: Option<String>,
        /// `agent`, `hook`, `manual`, … an open list.
        #[serde(rename = "type")]
        kind: Option<String>,
        /// The program.
        app: Option<String>,
    },
    /// A bare string: v1, CloudEvents, Flume, and the producer of the BB-4 incident.
    Text(String),
}

/// One event.
#[derive(Debug)]
pub struct Envelope {
    key: RoutingKey,
    raw: Bytes,
    dialect: Dialect,
    id: Option<EventId>,
    event_type: Option<String>,
    time: Option<Timestamp>,
    source: Option<Source>,
    correlation_ids: Vec<String>,
    body: OnceLock<Value>,
}

impl Envelope {
    /// Decodes a body that came with `key`.
    ///
    /// # Errors
    ///
    /// When the bytes are no JSON object within the limits.
    pub fn decode(key: RoutingKey, raw: impl Into<Bytes>, limits: DecodeLimits) -> Result<Self, DecodeError> {
        let _ = (key, raw.into(), limits);
        todo!()
    }

    /// The routing key. It decides where the event goes, not `event_type`.
    #[must_use]
    pub fn key(&self) -> &RoutingKey {
        &self.key
    }

    /// The bytes as they came.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Which shape it has.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Its own id; `event_id`, or `id` for CloudEvents and v1.
    #[must_use]
    pub fn id(&self) -> Option<&EventId> {
        self.id.as_ref()
    }

    /// Its type; often, not always, the routing key.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.event_type.as_deref()
    }

    /// When it happened, as it says. A time without offset is taken as UTC.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// Where it says it comes from.
    #[must_use]
    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Ids of events or requests that led to it.
    #[must_use]
    pub fn correlation_ids(&self) -> &[String] {
        &self.correlation_ids
    }

    /// What identifies it for dedup: its id; for a CloudEvent `source` and `id` together.
    #[must_use]
    pub fn dedup_id(&self) -> Option<String> {
        todo!()
    }

    /// The whole body, parsed once.
    #[must_use]
    pub fn body(&self) -> &Value {
        todo!()
    }

    /// The payload: `payload`, or `data` for CloudEvents, v1 and Flume; the whole body in flat dialects.
    #[must_use]
    pub fn payload(&self) -> &Value {
        todo!()
    }

    /// The payload as a type.
    ///
    /// # Errors
    ///
    /// When it does not fit.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(self.payload())
    }

    /// The session.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        todo!()
    }

    /// The tool that was used.
    #[must_use]
    pub fn tool_name(&self) -> Option<&str> {
        todo!()
    }

    /// The file that the tool worked on.
    #[must_use]
    pub fn file_path(&self) -> Option<&str> {
        todo!()
    }

    /// Where the session works.
    #[must_use]
    pub fn working_directory(&self) -> Option<&str> {
        todo!()
    }

    /// The branch, as the event says it; `unknown` and `HEAD` occur.
    #[must_use]
    pub fn git_branch(&self) -> Option<&str> {
        todo!()
    }

    /// A field of the normalised view.
    #[must_use]
    pub fn field(&self, path: &FieldPath) -> Option<crate::Field<'_>> {
        let _ = path;
        todo!()
    }

    /// The normalised view as one JSON object, for templates and display: `key, id, type, source, time, payload, session_id,
    /// tool_name, file_path, working_directory, git_branch, dialect, correlation_ids`; absent ones are left out.
    #[must_use]
    pub fn view(&self) -> Value {
        todo!()
    }
}
