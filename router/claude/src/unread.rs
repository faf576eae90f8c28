//! The end of a session whose transcript was not read to its end in time: its event says where to read on, and whoever takes it from the
//! spool does so and fills in what the session came to. So nobody waits for a long transcript, and the numbers are right in the end.
//!
//! What is filled in changes neither the event's id nor anything else of it, and the note goes.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    events::{Usage, usage_meta},
    transcript::{PART_BYTES, Reading, read},
};

/// Of an event that may have the note.
pub const KEY: &str = "session.thread.end";

/// The member of the source's `meta`.
const NOTE: &str = "transcript_unread";

/// What of an event is filled in.
pub(crate) const FIELDS: [&str; 2] = ["total_tokens", "total_cost_usd"];

/// Where to read on.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    transcript: PathBuf,
    /// What is known of it.
    known: PathBuf,
    prices: Option<PathBuf>,
    /// What is wanted of [`FIELDS`].
    fields: Vec<String>,
}

/// The note for an event's `meta`.
pub(crate) fn note(transcript: &Path, known: &Path, prices: Option<&Path>, fields: &[&str]) -> (&'static str, Value) {
    let note = json!({ "transcript": transcript.to_string_lossy(), "known": known.to_string_lossy(),
        "prices": prices.map(Path::to_string_lossy), "fields": fields });
    (NOTE, note)
}

/// What became of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Finished {
    /// It has no note.
    AsItWas,
    /// It is as it should be sent.
    Whole(Vec<u8>),
    /// The transcript goes on; how far it was read is kept for the next time.
    NotYet,
}

/// Reads on, about so many bytes, and completes the event if that was the end. A transcript that cannot be read leaves nulls.
#[must_use]
pub fn finish(body: &[u8], bytes_max: u64) -> Finished {
    let Some((mut event, note)) = event_of(body) else { return Finished::AsItWas };
    let mut parts = bytes_max.div_ceil(PART_BYTES);
    let mut go_on = || {
        parts = parts.saturating_sub(1);
        parts > 0
    };
    let usage = match read(&note.known, &note.transcript, note.prices.as_deref(), &mut go_on) {
        Reading::Known(usage) => *usage,
        Reading::Unfinished { is_kept: true } => return Finished::NotYet,
        Reading::Unfinished { is_kept: false } | Reading::Missing => Usage::default(),
    };
    event.fill(&note, &usage);
    event.bytes().map_or(Finished::AsItWas, Finished::Whole)
}

/// The event as it is, for those who do not read on.
#[must_use]
pub fn without_note(body: &[u8]) -> Finished {
    event_of(body).and_then(|(event, _)| event.bytes()).map_or(Finished::AsItWas, Finished::Whole)
}

/// An event with a note, taken apart. The note is taken out.
struct Event {
    envelope: Ordered,
    source: Ordered,
    meta: Map<String, Value>,
    payload: Ordered,
}

fn event_of(body: &[u8]) -> Option<(Event, Note)> {
    // Most have none.
    body.windows(NOTE.len()).any(|window| window == NOTE.as_bytes()).then_some(())?;
    let envelope: Ordered = serde_json::from_slice(body).ok()?;
    let source: Ordered = envelope.get("source")?;
    let mut meta: Map<String, Value> = source.get("meta")?;
    let note = serde_json::from_value(meta.remove(NOTE)?).ok()?;
    let payload = envelope.get("payload")?;
    Some((Event { envelope, source, meta, payload }, note))
}

impl Event {
    fn fill(&mut self, note: &Note, usage: &Usage) {
        let values = [usage.total_tokens.map_or(Value::Null, Value::from), usage.total_cost_usd.map_or(Value::Null, Value::from)];
        for (name, value) in FIELDS.into_iter().zip(values) {
            if note.fields.iter().any(|wanted| wanted == name) {
                self.payload.set(name, &value);
            }
        }
        self.meta.extend(usage_meta(usage).into_iter().map(|(name, value)| (name.to_owned(), value)));
    }

    fn bytes(mut self) -> Option<Vec<u8>> {
        self.source.set("meta", &self.meta);
        self.envelope.set("source", &self.source);
        self.envelope.set("payload", &self.payload);
        serde_json::to_vec(&self.envelope).ok()
    }
}

/// An object whose members keep their order and their text.
struct Ordered(Vec<(String, Box<RawValue>)>);

impl Ordered {
    fn get<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        let (_, raw) = self.0.iter().find(|(known, _)| known == name)?;
        serde_json::from_str(raw.get()).ok()
    }

    fn set(&mut self, name: &str, value: &impl Serialize) {
        let member = self.0.iter_mut().find(|(known, _)| known == name);
        if let (Some((_, raw)), Ok(new)) = (member, to_raw_value(value)) {
            *raw = new;
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Ordered(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str) -> String {
        json!({ "type": "assistant", "requestId": format!("r{id}"), "sessionId": "s", "timestamp": "2026-01-02T03:04:05Z",
            "message": { "id": id, "model": "claude-sonnet-4-5", "role": "assistant", "usage": { "input_tokens": 1_000_000, "output_tokens": 0 } } })
        .to_string()
    }

    fn event(meta: &Value) -> Vec<u8> {
        let meta = meta.to_string();
        format!(r#"{{"event_id":"e","z":1,"source":{{"host":"h","meta":{meta}}},"payload":{{"b":1.50,"total_tokens":null,"total_cost_usd":null,"a":2}}}}"#)
            .into_bytes()
    }

    #[test]
    fn an_event_is_completed_in_as_many_steps_as_it_takes_and_nothing_else_of_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (transcript, known) = (directory.path().join("t.jsonl"), directory.path().join(".s.tally"));
        let filler = format!("{{\"type\":\"user\",\"x\":\"{}\"}}\n", "x".repeat(900_000)).repeat(5);
        std::fs::write(&transcript, format!("{}\n{filler}{}\n", answer("m1"), answer("m2"))).unwrap();
        let (name, value) = note(&transcript, &known, None, &FIELDS);
        let body = event(&json!({ "agent_id": null, name: value }));
        let mut steps = 0;
        let whole = loop {
            match finish(&body, 1) {
                Finished::NotYet => steps += 1,
                Finished::Whole(whole) => break whole,
                Finished::AsItWas => panic!("the note is not seen"),
            }
        };
        assert!(steps >= 2, "{steps}");
        let text = String::from_utf8(whole).unwrap();
        assert!(text.starts_with(r#"{"event_id":"e","z":1,"source":{"host":"h","meta":{"agent_id":null,"cost_estimated":true,"prices_as_of":"#), "{text}");
        assert!(text.ends_with(r#""payload":{"b":1.50,"total_tokens":2000000,"total_cost_usd":6.0,"a":2}}"#), "{text}");
        assert_eq!(finish(text.as_bytes(), 1), Finished::AsItWas);
    }

    #[test]
    fn what_is_not_wanted_or_not_there_stays_null_and_the_note_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (transcript, known) = (directory.path().join("t.jsonl"), directory.path().join(".s.tally"));
        let (name, value) = note(&transcript, &known, None, &["total_tokens"]);
        let body = event(&json!({ name: value }));
        let expected = event(&json!({}));
        assert_eq!(finish(&body, u64::MAX), Finished::Whole(expected.clone()), "there is no transcript");
        assert_eq!(without_note(&body), Finished::Whole(expected));
        std::fs::write(&transcript, answer("m1")).unwrap();
        let Finished::Whole(whole) = finish(&body, u64::MAX) else { panic!("it is read") };
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!((&whole["payload"]["total_tokens"], &whole["payload"]["total_cost_usd"]), (&json!(1_000_000), &Value::Null));
        for odd in [b"".as_slice(), b"no JSON transcript_unread", br#"{"source":{"meta":{"transcript_unread":7}},"payload":{}}"#] {
            assert_eq!(finish(odd, 1), Finished::AsItWas);
        }
    }

    #[test]
    fn where_nothing_can_be_kept_nobody_waits_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let transcript = directory.path().join("t.jsonl");
        std::fs::write(&transcript, format!("{{\"x\":\"{}\"}}\n", "x".repeat(900_000)).repeat(5)).unwrap();
        let (name, value) = note(&transcript, Path::new("/nonexistent/.s.tally"), None, &FIELDS);
        assert_eq!(finish(&event(&json!({ name: value })), 1), Finished::Whole(event(&json!({}))));
    }
}
