//! The recorded session that is built into the program: `demo` plays it, `publish --sample` takes single events from it.

use std::sync::LazyLock;

use anyhow::bail;
use bytes::Bytes;
use jiff::Timestamp;
use router_api::RoutingKey;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

static RECORDING: &str = include_str!("../demo/session.jsonl");

/// One event of the recording.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// For `--sample`.
    pub(crate) name: Option<String>,
    /// Since the event before it.
    pub(crate) after_ms: u64,
    /// Its routing key.
    pub(crate) key: RoutingKey,
    /// What happened, for people.
    pub(crate) note: String,
    /// The exact bytes.
    pub(crate) body: Bytes,
}

#[derive(Deserialize)]
struct Line<'a> {
    name: Option<String>,
    after_ms: u64,
    key: RoutingKey,
    note: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The whole session, in order.
pub(crate) fn recording() -> &'static [Recorded] {
    static PARSED: LazyLock<Vec<Recorded>> = LazyLock::new(|| {
        let parse = |line| {
            let Line { name, after_ms, key, note, body } = serde_json::from_str(line).expect("the recording is part of the program and read by a test");
            Recorded { name, after_ms, key, note, body: Bytes::from_static(body.get().as_bytes()) }
        };
        RECORDING.lines().map(parse).collect()
    });
    &PARSED
}

/// The built-in event `name`, as if it happened now: its id and time are fresh, so that it is no duplicate of itself.
///
/// # Errors
///
/// When there is none; the message lists the names.
pub(crate) fn sample(name: &str, id: Uuid, now: Timestamp) -> anyhow::Result<(RoutingKey, Bytes)> {
    let Some(recorded) = recording().iter().find(|recorded| recorded.name.as_deref() == Some(name)) else {
        let names: Vec<String> = recording().iter().filter_map(|recorded| recorded.name.as_ref()).map(|name| format!("`{name}`")).collect();
        bail!("there is no built-in event `{name}`; there are {}", names.join(", "));
    };
    let mut body: Value = serde_json::from_slice(&recorded.body)?;
    let fields = [("event_id", id.to_string()), ("id", id.to_string()), ("timestamp", format!("{now:.3}")), ("time", format!("{now:.3}"))];
    for (field, value) in fields {
        if let Some(slot) = body.get_mut(field) {
            *slot = Value::String(value);
        }
    }
    Ok((recorded.key.clone(), Bytes::from(body.to_string())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use router_api::{DecodeLimits, Envelope};

    use super::*;

    #[test]
    fn the_recording_has_seven_python_writes_of_one_project_within_the_quiet_time_and_in_three_dialects() {
        let (mut dialects, mut directories, mut writes) = (BTreeSet::new(), BTreeSet::new(), 0);
        for recorded in recording() {
            let event = Envelope::decode(recorded.key.clone(), recorded.body.clone(), DecodeLimits::default()).unwrap();
            let python = event.file_path().is_some_and(|path| path.ends_with(".py"));
            if python && event.tool_name() == Some("Write") {
                assert!(writes == 0 || recorded.after_ms < 2_000, "the burst has no gap");
                writes += 1;
                dialects.insert(event.dialect());
                directories.insert(event.working_directory().unwrap().to_owned());
            }
        }
        assert_eq!((writes, dialects.len(), directories.len()), (7, 3, 1));
    }

    #[test]
    fn a_sample_is_fresh_and_a_wrong_name_lists_the_right_ones() {
        let id = Uuid::from_u128(7);
        let (key, body) = sample("write", id, Timestamp::UNIX_EPOCH).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (key.as_str(), &body["event_id"], &body["timestamp"]),
            ("session.thread.agent.action", &Value::from(id.to_string()), &Value::from("1970-01-01T00:00:00.000Z"))
        );
        assert!(sample("wirte", id, Timestamp::UNIX_EPOCH).unwrap_err().to_string().contains("`write`"));
    }
}
