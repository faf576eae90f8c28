//! The mark of a replayed event, and its new id: with the old one, every route would recognise it as done.
//!
//! A CloudEvent is marked by the attributes `replayof` and `replayedat`, since those may be texts only; every other event by an object
//! `replayed` at its top. Nothing else of it changes.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The event once more, under an id that `run` and `seq` decide. An event that has no id gets none.
///
/// # Errors
///
/// When it is no JSON object: nothing could be marked.
pub(super) fn mark(body: &[u8], seq: u64, run: Uuid, now: Timestamp) -> Result<(Bytes, Option<String>), String> {
    let mut event: Map<String, Value> = serde_json::from_slice(body).map_err(|error| format!("event {seq} is no JSON object and cannot be marked: {error}"))?;
    let is_set = |event: &Map<String, Value>, name: &str| event.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    // Where the router looks for an id, in the same order.
    let name = ["event_id", "id"].into_iter().find(|name| is_set(&event, name));
    let id = Uuid::new_v5(&run, seq.to_string().as_bytes()).to_string();
    let of = name.and_then(|name| event.insert(name.to_owned(), id.clone().into()));
    if event.get("specversion").is_some_and(|version| !version.is_null()) {
        event.insert("replayof".to_owned(), of.unwrap_or_else(|| seq.to_string().into()));
        event.insert("replayedat".to_owned(), now.to_string().into());
    } else {
        event.insert("replayed".to_owned(), json!({ "of": of, "number": seq, "at": now }));
    }
    Ok((Value::Object(event).to_string().into(), name.map(|_| id)))
}

/// Is it one that was marked so?
pub(super) fn is_marked(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Marks {
        replayof: Option<serde::de::IgnoredAny>,
        replayed: Option<Map<String, Value>>,
    }
    serde_json::from_slice::<Marks>(body).is_ok_and(|marks| marks.replayof.is_some() || marks.replayed.is_some_and(|replayed| replayed.contains_key("number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(event: &Value) -> (Value, Option<String>) {
        let (body, id) = mark(event.to_string().as_bytes(), 7, Uuid::nil(), Timestamp::UNIX_EPOCH).unwrap();
        assert!(is_marked(&body) && !is_marked(event.to_string().as_bytes()));
        (serde_json::from_slice(&body).unwrap(), id)
    }

    #[test]
    fn an_event_is_marked_in_its_own_dialect_and_has_a_new_id() {
        let (event, id) = marked(&json!({ "event_id": "e-1", "event_type": "a.b", "payload": { "x": 1 } }));
        assert_eq!(event["event_id"].as_str(), id.as_deref());
        assert_eq!((&event["replayed"]["of"], &event["replayed"]["number"], &event["payload"]["x"]), (&json!("e-1"), &json!(7), &json!(1)));
        let (event, id) = marked(&json!({ "specversion": "1.0", "id": "c-1", "source": "s", "type": "a.b" }));
        assert_eq!((event["id"].as_str(), &event["replayof"]), (id.as_deref(), &json!("c-1")));
        assert!(event.get("replayed").is_none());
        let (event, id) = marked(&json!({ "event_type": "a.b" }));
        assert_eq!((id, event.get("event_id"), &event["replayed"]["of"]), (None, None, &Value::Null));
    }

    #[test]
    fn the_same_replay_gives_the_same_id_and_another_one_another() {
        let body = br#"{"event_id":"e-1"}"#;
        let id = |seq, run| mark(body, seq, run, Timestamp::UNIX_EPOCH).unwrap().1;
        assert_eq!(id(1, Uuid::nil()), id(1, Uuid::nil()));
        assert_ne!(id(1, Uuid::nil()), id(2, Uuid::nil()));
        assert_ne!(id(1, Uuid::nil()), id(1, Uuid::max()));
        assert!(mark(b"[1]", 3, Uuid::nil(), Timestamp::UNIX_EPOCH).unwrap_err().contains("event 3"));
    }
}
