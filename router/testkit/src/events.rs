//! Events for tests, in the Bloodbank v2 shape.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use router_api::{DecodeLimits, Envelope, ID_NAMESPACE, Publication, RoutingKey};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Begins an event with `key` as its routing key and type and an id of its own.
///
/// ```
/// use router_testkit::event;
///
/// let write = event("session.thread.agent.action").session("s-1").tool("Write").file("/project/app.py").working_directory("/project");
/// assert_eq!(write.body()["payload"]["tool_metadata"]["tool_input"]["file_path"], "/project/app.py");
/// ```
///
/// # Panics
///
/// When `key` is no routing key.
#[must_use]
pub fn event(key: &str) -> EventBuilder {
    EventBuilder::new(key)
}

/// Builds one event of the Bloodbank v2 dialect. What is not set is absent, or has the value that its producers send.
#[derive(Debug, Clone)]
pub struct EventBuilder {
    key: RoutingKey,
    event_type: String,
    id: String,
    time: String,
    source: Value,
    correlation_ids: Vec<String>,
    payload: Map<String, Value>,
    fields: Map<String, Value>,
}

impl EventBuilder {
    /// As [`event`].
    ///
    /// # Panics
    ///
    /// When `key` is no routing key.
    #[must_use]
    pub fn new(key: &str) -> Self {
        static EVENTS: AtomicU64 = AtomicU64::new(0);
        let number = EVENTS.fetch_add(1, Ordering::Relaxed);
        let id = Uuid::new_v5(&ID_NAMESPACE, format!("test event {number}").as_bytes());
        Self {
            key: RoutingKey::new(key).unwrap_or_else(|error| panic!("`{key}` is no routing key: {error}")),
            event_type: key.to_owned(),
            id: id.to_string(),
            time: "2026-01-02T03:04:05.250000+00:00".to_owned(),
            source: json!({ "host": "127.0.0.1", "type": "agent", "app": "claude-code", "meta": null }),
            correlation_ids: Vec::new(),
            payload: Map::new(),
            fields: Map::new(),
        }
    }

    /// The event's own id; a fresh UUID otherwise.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// A type that differs from the routing key, as commands have it.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = event_type.into();
        self
    }

    /// The time as text, in whatever form.
    #[must_use]
    pub fn time(mut self, time: impl ToString) -> Self {
        self.time = time.to_string();
        self
    }

    /// The source: an object, or a bare string.
    #[must_use]
    pub fn source(mut self, source: Value) -> Self {
        self.source = source;
        self
    }

    /// Adds an id of a cause.
    #[must_use]
    pub fn caused_by(mut self, id: impl Into<String>) -> Self {
        self.correlation_ids.push(id.into());
        self
    }

    /// Puts a field into the payload.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.payload.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the fields of an object to the payload.
    ///
    /// # Panics
    ///
    /// When `payload` is no object.
    #[must_use]
    pub fn payload(mut self, payload: Value) -> Self {
        match payload {
            Value::Object(fields) => self.payload.extend(fields),
            other => panic!("the payload of a test event is an object, not {other}"),
        }
        self
    }

    /// Puts a field beside the payload, or replaces one of the envelope.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// The session.
    #[must_use]
    pub fn session(self, id: &str) -> Self {
        self.with("session_id", id)
    }

    /// The tool of a tool action.
    #[must_use]
    pub fn tool(mut self, name: &str) -> Self {
        self.tool_metadata().insert("tool_name".to_owned(), name.into());
        self
    }

    /// The file that the tool worked on.
    #[must_use]
    pub fn file(mut self, path: &str) -> Self {
        let input = self.tool_metadata().entry("tool_input").or_insert_with(|| json!({}));
        input["file_path"] = path.into();
        self
    }

    /// Where the session works.
    #[must_use]
    pub fn working_directory(self, path: &str) -> Self {
        self.with("working_directory", path)
    }

    /// The branch.
    #[must_use]
    pub fn git_branch(self, name: &str) -> Self {
        self.with("git_branch", name)
    }

    fn tool_metadata(&mut self) -> &mut Map<String, Value> {
        let metadata = self.payload.entry("tool_metadata").or_insert_with(|| json!({ "tool_input": {}, "success": true }));
        if !metadata.is_object() {
            *metadata = json!({});
        }
        metadata.as_object_mut().expect("it was made an object")
    }

    /// The routing key.
    #[must_use]
    pub fn key(&self) -> &RoutingKey {
        &self.key
    }

    /// The event's own id, as it stands now.
    #[must_use]
    pub fn event_id(&self) -> &str {
        &self.id
    }

    /// The whole envelope.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({
            "event_id": self.id,
            "event_type": self.event_type,
            "timestamp": self.time,
            "version": "1.0.0",
            "source": self.source,
            "correlation_ids": self.correlation_ids,
            "agent_context": null,
            "payload": self.payload,
        });
        for (name, value) in &self.fields {
            body[name] = value.clone();
        }
        body
    }

    /// The envelope as bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from(self.body().to_string())
    }

    /// The envelope decoded.
    ///
    /// # Panics
    ///
    /// When the built body is larger or deeper than the default limits.
    #[must_use]
    pub fn envelope(&self) -> Arc<Envelope> {
        let envelope = Envelope::decode(self.key.clone(), self.bytes(), DecodeLimits::default());
        Arc::new(envelope.unwrap_or_else(|error| panic!("the event `{}` of a test cannot be decoded: {error}", self.key)))
    }

    /// The event on its way into a transport, for whoever wants it.
    #[must_use]
    pub fn publication(&self) -> Publication {
        Publication::new(self.key.clone(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use router_api::Dialect;

    use super::*;

    #[test]
    fn a_built_event_is_a_v2_envelope_with_its_accessors() {
        let built = event("session.thread.agent.action").session("s").tool("Write").file("/p/a.py").working_directory("/p").git_branch("main");
        let event = built.envelope();
        assert_eq!(event.dialect(), Dialect::V2);
        assert_eq!(event.id().map(|id| id.as_str()), Some(built.event_id()));
        assert_eq!(
            [event.session_id(), event.tool_name(), event.file_path(), event.working_directory(), event.git_branch()],
            [Some("s"), Some("Write"), Some("/p/a.py"), Some("/p"), Some("main")]
        );
    }

    #[test]
    fn every_event_has_an_id_of_its_own() {
        assert_ne!(event("a").event_id(), event("a").event_id());
    }

    #[test]
    fn fields_of_the_envelope_can_be_replaced() {
        let body = event("a").field("source", "a bare string").field("extra", 1).body();
        assert_eq!((&body["source"], &body["extra"]), (&json!("a bare string"), &json!(1)));
    }
}
