//! One event, decoded from any dialect that is on the wire. The bytes are kept as they came.
//!
//! Decoding walks the body once, keeps its head and the texts that have names in the view, and refuses what could not be parsed in
//! full later: the tree is built only for those who look further inside. Which shapes there are and where they keep things:
//! `dialect.rs`; the walk itself: `body.rs`; what it keeps of the names: `places.rs`.

use std::{borrow::Cow, fmt, sync::OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    Dialect, EventId, Field, FieldPath, RoutingKey,
    body::{self, Found, Head, IDS_MAX, Seen},
    dialect::{FILE_PATH, GIT_BRANCH, SESSION_ID, TOOL_NAME, WORKING_DIRECTORY},
    places::{Name, Named},
    text::Text,
    time,
    view::{FieldName, Word},
};

/// What a payload is that is not there.
static NULL: Value = Value::Null;

/// What a body may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// In bytes.
    pub body_bytes_max: usize,
    /// Objects and arrays within each other, the body itself included; at most 126, whatever stands here: the JSON parser has a limit of its own.
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
pub struct Envelope {
    key: RoutingKey,
    raw: Bytes,
    dialect: Dialect,
    id: Option<EventId>,
    /// The id is a CloudEvent's own `id`, unique for its source only; not an `event_id` that it carries beside it.
    id_is_of_source: bool,
    event_type: Option<Text>,
    time: Option<Timestamp>,
    named: Named,
    /// Few ask for these, so they are read where they stand when somebody does.
    source_at: Option<SourceAt>,
    source: OnceLock<Source>,
    correlation_ids_at: Vec<Text>,
    correlation_ids: OnceLock<Vec<String>>,
    body: OnceLock<Value>,
}

/// Names the event and shows nothing of its content: it may land in a log.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("key", &self.key.as_str())
            .field("dialect", &self.dialect)
            .field("id", &self.id.as_ref().map(EventId::as_str))
            .field("bytes", &self.raw.len())
            .finish_non_exhaustive()
    }
}

impl Envelope {
    /// Longer ids are told apart by their digest alone: see [`Envelope::dedup_id`]. In bytes.
    pub const DEDUP_ID_BYTES_MAX: usize = 256;

    /// Decodes a body that came with `key`.
    ///
    /// Any JSON object is an event. A field of the head that has another type than its dialect says counts as absent.
    ///
    /// # Errors
    ///
    /// When the bytes are no JSON object within the limits, or hold what no JSON parser can represent (`1e400`, half a
    /// surrogate pair): whatever [`Envelope::body`] could stumble over later.
    pub fn decode(key: RoutingKey, raw: impl Into<Bytes>, limits: DecodeLimits) -> Result<Self, DecodeError> {
        let raw = raw.into();
        let found = Found::default();
        body::walk(&raw, limits, &found)?;
        let (head, kept) = (found.head.borrow(), found.kept.borrow());
        let dialect = Dialect::of(&head);
        let (event_type, time) = match dialect {
            Dialect::CloudEvents => (&head.cloud_type, &head.time),
            Dialect::V1 => (&head.event_type, &head.ts),
            Dialect::Flume => (&head.flume_type, &head.timestamp),
            Dialect::V2 | Dialect::Command | Dialect::Hookd | Dialect::V2Lenient | Dialect::Opaque => (&head.event_type, &head.timestamp),
        };
        let decoded = Self {
            id: id_of(&head, dialect).map(EventId::new),
            id_is_of_source: dialect == Dialect::CloudEvents && head.event_id.text().is_none_or(str::is_empty),
            event_type: event_type.cow().map(|text| Text::of(text, &raw)),
            time: time.text().and_then(time::read),
            source_at: SourceAt::of(&head, &raw),
            source: OnceLock::new(),
            correlation_ids_at: correlation_ids_of(&head, &raw),
            correlation_ids: OnceLock::new(),
            named: Named::of(&kept, dialect, head.payload == Seen::Object, &raw),
            key,
            dialect,
            body: OnceLock::new(),
            // Shared, not copied: what was found still points into it.
            raw: raw.clone(),
        };
        Ok(decoded)
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
        self.event_type.as_ref()?.get(&self.raw)
    }

    /// When it happened, as it says. A time without offset is taken as UTC.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// Where it says it comes from.
    #[must_use]
    pub fn source(&self) -> Option<&Source> {
        let at = self.source_at.as_ref()?;
        Some(self.source.get_or_init(|| at.read(&self.raw)))
    }

    /// Ids of events or requests that led to it.
    #[must_use]
    pub fn correlation_ids(&self) -> &[String] {
        self.correlation_ids.get_or_init(|| self.correlation_ids_at.iter().filter_map(|id| id.get(&self.raw)).map(str::to_owned).collect())
    }

    /// What identifies it for dedup: `event_id`; else `source` and `id` of a CloudEvent, whose ids are unique for their source
    /// only; else `id` of a v1 event. At most [`Envelope::DEDUP_ID_BYTES_MAX`] bytes: of a longer one its SHA-256.
    #[must_use]
    pub fn dedup_id(&self) -> Option<String> {
        let id = self.id.as_ref()?.as_str();
        let text = match self.source_at.as_ref().filter(|_| self.id_is_of_source).and_then(|_| self.source()) {
            // An array, so that no other pair reads the same.
            Some(Source::Text(source)) => Value::from(vec![source.as_str(), id]).to_string(),
            _ => id.to_owned(),
        };
        if text.len() <= Self::DEDUP_ID_BYTES_MAX {
            return Some(text);
        }
        let digest = Sha256::digest(text.as_bytes());
        Some(digest.iter().fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}")))
    }

    /// The whole body, parsed once.
    #[must_use]
    pub fn body(&self) -> &Value {
        self.body.get_or_init(|| body::tree(&self.raw).expect("decoding walked the same bytes with the same parser"))
    }

    /// The payload: `payload`, or `data` for CloudEvents, v1 and Flume; the whole body in flat dialects. Null if it is left out.
    ///
    /// A lenient or opaque event that does have an object `payload` is not flat: then it is that one.
    #[must_use]
    pub fn payload(&self) -> &Value {
        self.dialect.payload(self.body()).unwrap_or(&NULL)
    }

    /// The payload as a type.
    ///
    /// # Errors
    ///
    /// When it does not fit.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(self.payload())
    }

    /// Is it an earlier event that `event-router replay` has put in again? Its marks are `replayof` on a CloudEvent, and an object `replayed`
    /// with the number of the earlier one on all others.
    #[must_use]
    pub fn is_replayed(&self) -> bool {
        let body = self.body();
        body.get("replayof").is_some() || body.pointer("/replayed/number").is_some()
    }

    /// The session. An empty one counts as absent.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.named.get(Name::SessionId, &self.raw).filter(|session| !session.is_empty())
    }

    /// The tool that was used, as Claude Code names it: `Write`, `Edit`, `Bash`.
    #[must_use]
    pub fn tool_name(&self) -> Option<&str> {
        self.named.get(Name::Tool, &self.raw)
    }

    /// The file that the tool worked on: its `file_path`, else its `notebook_path`, else its `path`.
    #[must_use]
    pub fn file_path(&self) -> Option<&str> {
        self.named.get(Name::FilePath, &self.raw)
    }

    /// Where the session works.
    #[must_use]
    pub fn working_directory(&self) -> Option<&str> {
        self.named.get(Name::WorkingDirectory, &self.raw)
    }

    /// The branch, as the event says it; `unknown` and `HEAD` occur.
    #[must_use]
    pub fn git_branch(&self) -> Option<&str> {
        self.named.get(Name::GitBranch, &self.raw)
    }

    /// A field of the normalised view. Only `payload`, `raw` and a `source` that is an object make it build the tree of the body.
    #[must_use]
    pub fn field(&self, path: &FieldPath) -> Option<Field<'_>> {
        let text = |text| Some(Field::Text(Cow::Borrowed(text)));
        match path.name() {
            FieldName::Key => text(self.key.as_str()),
            FieldName::Id => text(self.id.as_ref()?.as_str()),
            FieldName::Type => text(self.event_type()?),
            FieldName::Time => Some(Field::Text(Cow::Owned(self.time?.to_string()))),
            FieldName::Dialect => text(self.dialect.name()),
            FieldName::SessionId => text(self.session_id()?),
            FieldName::ToolName => text(self.tool_name()?),
            FieldName::FilePath => text(self.file_path()?),
            FieldName::WorkingDirectory => text(self.working_directory()?),
            FieldName::GitBranch => text(self.git_branch()?),
            FieldName::Source => match self.source()? {
                Source::Text(source) => text(source),
                Source::Object { .. } => self.body().get("source").map(Field::Value),
            },
            FieldName::SourceHost | FieldName::SourceType | FieldName::SourceApp => {
                let Some(Source::Object { host, kind, app }) = self.source() else { return None };
                let part = match path.name() {
                    FieldName::SourceHost => host,
                    FieldName::SourceType => kind,
                    _ => app,
                };
                text(part.as_deref()?)
            }
            FieldName::Payload => walk(self.dialect.payload(self.body())?, path.words()).map(Field::Value),
            FieldName::Raw => walk(self.body(), path.words()).map(Field::Value),
        }
    }

    /// Where [`Envelope::field`] looks for a field that has several places in an event of this dialect, nearest first; empty for
    /// the other fields.
    #[must_use]
    pub fn places_of(&self, path: &FieldPath) -> Vec<String> {
        let what = match path.name() {
            FieldName::SessionId => &SESSION_ID,
            FieldName::ToolName => &TOOL_NAME,
            FieldName::FilePath => &FILE_PATH,
            FieldName::WorkingDirectory => &WORKING_DIRECTORY,
            FieldName::GitBranch => &GIT_BRANCH,
            _ => return Vec::new(),
        };
        self.dialect.fields(what)
    }

    /// The normalised view as one JSON object, for templates and display: `key, id, type, source, time, payload, session_id,
    /// tool_name, file_path, working_directory, git_branch, dialect, correlation_ids`; absent ones are left out.
    #[must_use]
    pub fn view(&self) -> Value {
        let mut view = Map::new();
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                view.insert(name.to_owned(), Value::from(value));
            }
        };
        put("key", Some(self.key.as_str()));
        put("id", self.id.as_ref().map(EventId::as_str));
        put("type", self.event_type());
        put("time", self.time.map(|time| time.to_string()).as_deref());
        put("dialect", Some(self.dialect.name()));
        put("session_id", self.session_id());
        put("tool_name", self.tool_name());
        put("file_path", self.file_path());
        put("working_directory", self.working_directory());
        put("git_branch", self.git_branch());
        match self.source() {
            Some(Source::Text(text)) => drop(view.insert("source".to_owned(), Value::from(text.as_str()))),
            Some(Source::Object { .. }) => drop(self.body().get("source").map(|source| view.insert("source".to_owned(), source.clone()))),
            None => {}
        }
        if let Some(payload) = self.dialect.payload(self.body()) {
            view.insert("payload".to_owned(), payload.clone());
        }
        if !self.correlation_ids_at.is_empty() {
            view.insert("correlation_ids".to_owned(), Value::from(self.correlation_ids()));
        }
        Value::Object(view)
    }
}

fn walk<'a>(root: &'a Value, words: &[Word]) -> Option<&'a Value> {
    words.iter().try_fold(root, |value, word| match value {
        Value::Object(members) => members.get(word.text()),
        Value::Array(items) => items.get(word.index()?),
        _ => None,
    })
}

/// An empty id is none: it would make one event of all that carry it.
fn id_of<'a>(head: &'a Head<'_>, dialect: Dialect) -> Option<&'a str> {
    let own = matches!(dialect, Dialect::CloudEvents | Dialect::V1).then(|| head.id.text()).flatten();
    head.event_id.text().into_iter().chain(own).find(|id| !id.is_empty())
}

/// Where a [`Source`] stands.
enum SourceAt {
    Object { host: Option<Text>, kind: Option<Text>, app: Option<Text> },
    Text(Text),
}

impl SourceAt {
    fn of(head: &Head<'_>, raw: &[u8]) -> Option<Self> {
        let at = |text: &Option<Cow<'_, str>>| text.as_ref().map(|text| Text::of(text, raw));
        match &head.source {
            Seen::Text(text) => Some(Self::Text(Text::of(text, raw))),
            Seen::Source { host, kind, app } => Some(Self::Object { host: at(host), kind: at(kind), app: at(app) }),
            Seen::Absent | Seen::Null | Seen::Texts(_) | Seen::Object | Seen::Other => None,
        }
    }

    fn read(&self, raw: &[u8]) -> Source {
        let own = |text: &Text| text.get(raw).unwrap_or_default().to_owned();
        match self {
            Self::Text(text) => Source::Text(own(text)),
            Self::Object { host, kind, app } => Source::Object { host: host.as_ref().map(own), kind: kind.as_ref().map(own), app: app.as_ref().map(own) },
        }
    }
}

/// Each once, in the order of the fields, at most [`IDS_MAX`].
fn correlation_ids_of(head: &Head<'_>, raw: &[u8]) -> Vec<Text> {
    let many = match &head.correlation_ids {
        Seen::Texts(texts) => texts.as_slice(),
        _ => &[],
    };
    let single =
        [&head.correlation_id, &head.causation_id, &head.cloud_correlation_id, &head.cloud_causation_id, &head.flume_correlation_id, &head.flume_causation_id];
    let mut ids: Vec<Text> = Vec::new();
    for id in many.iter().chain(single.into_iter().filter_map(Seen::cow)) {
        if ids.len() < IDS_MAX && !id.is_empty() && !ids.iter().any(|known| known.get(raw) == Some(id)) {
            ids.push(Text::of(id, raw));
        }
    }
    ids
}
