//! An event on one line: for those who look on, and for a session that is told again.

use jiff::Timestamp;
use router_api::{ArchivedEvent, DecodeLimits, Envelope, RouteName, RoutingKey, SeenEvent};
use serde::Serialize;
use serde_json::Value;

use crate::terminal::{BOLD, DIM, NAME, WARN, harmless, shortened, styled, time};

/// An event of an archive, or of a bus on which somebody looks on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ShownEvent {
    /// Its number; none where no router archives the bus.
    pub(crate) seq: Option<u64>,
    pub(crate) id: Option<String>,
    pub(crate) key: RoutingKey,
    pub(crate) stored_at: Timestamp,
    pub(crate) hops: u8,
    pub(crate) redactions: u32,
    /// The routes that wanted it; none where nobody knows.
    pub(crate) wanted_by: Option<Vec<RouteName>>,
    #[serde(skip)]
    pub(crate) body: bytes::Bytes,
}

impl From<ArchivedEvent> for ShownEvent {
    fn from(event: ArchivedEvent) -> Self {
        Self {
            seq: Some(event.seq),
            id: event.id,
            key: event.key,
            stored_at: event.stored_at,
            hops: event.hops,
            redactions: event.redactions,
            wanted_by: Some(event.deliveries.into_iter().map(|delivery| delivery.route).collect()),
            body: event.body,
        }
    }
}

impl ShownEvent {
    /// What was seen on a bus, after redaction.
    pub(crate) fn seen(event: SeenEvent, redactions: u32, limits: DecodeLimits) -> Self {
        let mut shown =
            Self { seq: None, id: None, key: event.key, stored_at: event.stored_at, hops: event.hops, redactions, wanted_by: None, body: event.body };
        shown.id = shown.envelope(limits).and_then(|envelope| envelope.id().map(|id| id.as_str().to_owned()));
        shown
    }

    pub(crate) fn envelope(&self, limits: DecodeLimits) -> Option<Envelope> {
        Envelope::decode(self.key.clone(), self.body.clone(), limits).ok()
    }

    /// For programs: what is known of it, with the exact bytes as `body` and what they say as `event`.
    pub(crate) fn for_programs(&self) -> Value {
        let mut shown = serde_json::to_value(self).unwrap_or_default();
        shown["body"] = String::from_utf8_lossy(&self.body).into();
        shown["event"] = serde_json::from_slice(&self.body).unwrap_or_default();
        shown
    }

    /// For people: when, which, what of, and who wants it.
    pub(crate) fn line(&self, now: Timestamp, limits: DecodeLimits) -> String {
        let number = self.seq.map_or_else(String::new, |seq| seq.to_string());
        let mut line = format!("{number:>6}  {}  {}", time(self.stored_at, now), styled(BOLD, harmless(self.key.as_str())));
        if let Some(summary) = self.envelope(limits).as_ref().and_then(summary) {
            line.push_str(&format!("  {}", styled(DIM, summary)));
        }
        match self.wanted_by.as_deref() {
            None => {}
            Some([]) => line.push_str(&format!("  {}", styled(WARN, "→ no route"))),
            Some(routes) => {
                let routes: Vec<String> = routes.iter().map(|route| styled(NAME, route)).collect();
                line.push_str(&format!("  → {}", routes.join(", ")));
            }
        }
        line
    }
}

/// What is told apart most easily: tool and file, or the session.
pub(crate) fn summary(envelope: &Envelope) -> Option<String> {
    let parts = [envelope.tool_name(), envelope.file_path(), envelope.session_id()];
    let parts: Vec<String> = parts.into_iter().flatten().map(|part| shortened(part, 60)).collect();
    (!parts.is_empty()).then(|| parts.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_the_event_contains() {
        let event = SeenEvent {
            offset: 1,
            identity: String::new(),
            key: RoutingKey::new("session.thread.agent.action").unwrap(),
            body: br#"{"event_id":"e-1","event_type":"x","payload":{"session_id":"s\n1","tool_metadata":{"tool_name":"Write","tool_input":{"file_path":"/a/\u001b[31mb.py"}}}}"#
                .as_slice()
                .into(),
            stored_at: Timestamp::UNIX_EPOCH,
            hops: 0,
            traceparent: None,
        };
        let shown = ShownEvent { wanted_by: Some(Vec::new()), ..ShownEvent::seen(event, 0, DecodeLimits::default()) };
        let line = anstream::adapter::strip_str(&shown.line(Timestamp::UNIX_EPOCH, DecodeLimits::default())).to_string();
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        assert!(line.contains("Write") && line.contains("b.py") && line.ends_with("→ no route"), "{line}");
        assert_eq!(shown.for_programs()["event"]["payload"]["session_id"], "s\n1");
        assert_eq!(shown.for_programs()["id"], "e-1");
    }
}
