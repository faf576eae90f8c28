//! The shapes of events that are on the wire: how each is recognised, and where it keeps what the normalised view names.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::Head;

/// The shapes of events that are on the wire. See `docs/dialects.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

impl Dialect {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 8] = [Self::CloudEvents, Self::V2, Self::Command, Self::V1, Self::Hookd, Self::Flume, Self::V2Lenient, Self::Opaque];

    /// As filters, templates and JSON write it: `cloud-events`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CloudEvents => "cloud-events",
            Self::V2 => "v2",
            Self::Command => "command",
            Self::V1 => "v1",
            Self::Hookd => "hookd",
            Self::Flume => "flume",
            Self::V2Lenient => "v2-lenient",
            Self::Opaque => "opaque",
        }
    }

    /// The first shape whose marks are there. A mark that is null counts as missing; `event_id` and the containers may be null,
    /// since Bloodbank writes absent fields so.
    pub(crate) fn of(head: &Head<'_>) -> Self {
        if head.specversion.is_set() {
            Self::CloudEvents
        } else if head.event_id.is_there() && head.payload.is_there() {
            if head.event_type.text().is_some_and(|text| text.starts_with("command.")) { Self::Command } else { Self::V2 }
        } else if head.id.is_set() && head.ts.is_set() && head.data.is_there() {
            Self::V1
        } else if head.raw_payload.is_there() && head.hook_type.is_set() {
            Self::Hookd
        } else if head.routing_key.is_set() && head.data.is_there() {
            Self::Flume
        } else if head.event_type.is_set() {
            Self::V2Lenient
        } else {
            Self::Opaque
        }
    }

    /// The member of the body that is the payload; `None` where the whole body is. `nested` says that the body has a `payload` which is
    /// an object.
    pub(crate) fn payload_member(self, nested: bool) -> Option<&'static str> {
        match self {
            Self::V2 | Self::Command => Some("payload"),
            Self::CloudEvents | Self::V1 | Self::Flume => Some("data"),
            Self::Hookd => None,
            // Flat, unless the producer forgot the rest of the envelope.
            Self::V2Lenient | Self::Opaque => nested.then_some("payload"),
        }
    }

    /// The payload within `body`; `None` where the shape has a place for it and this event leaves it out.
    pub(crate) fn payload(self, body: &Value) -> Option<&Value> {
        match self.payload_member(body.get("payload").is_some_and(Value::is_object)) {
            Some(member) => body.get(member),
            None => Some(body),
        }
    }

    /// The first text in `body` where this shape keeps `what`. An empty one is taken only if there is no other. What the walk kept
    /// (`places.rs`) is held against this.
    #[cfg(test)]
    pub(crate) fn find<'a>(self, what: &What, body: &'a Value) -> Option<&'a str> {
        let payload = self.payload(body);
        let mut empty = None;
        for (root, place) in self.places(what) {
            let root = if root == Root::Payload { payload } else { Some(body) };
            match root.and_then(|root| text_at(root, place)) {
                Some("") => empty = Some(""),
                Some(text) => return Some(text),
                None => {}
            }
        }
        empty
    }

    /// Where this shape keeps `what`, nearest first.
    pub(crate) fn places(self, what: &What) -> impl Iterator<Item = (Root, Place)> {
        let own = match self {
            Self::CloudEvents => what.cloud_events,
            Self::Hookd => what.hookd,
            Self::V1 => what.v1,
            Self::V2 | Self::Command => what.v2,
            Self::Flume | Self::V2Lenient | Self::Opaque => &[],
        };
        let flat = if matches!(self, Self::V2Lenient | Self::Opaque) { what.everywhere } else { &[] };
        let (before, after) = if self == Self::Hookd { (own, &[][..]) } else { (&[][..], own) };
        let (body, payload) = (|place: &Place| (Root::Body, *place), |place: &Place| (Root::Payload, *place));
        before.iter().map(body).chain(what.everywhere.iter().map(payload)).chain(after.iter().map(body)).chain(flat.iter().map(body))
    }

    /// The same as fields of the view: `payload.tool_name`, `raw.repo.branch`.
    pub(crate) fn fields(self, what: &What) -> Vec<String> {
        let named = |(root, place): (Root, Place)| format!("{}.{}", if root == Root::Payload { "payload" } else { "raw" }, place.join("."));
        self.places(what).map(named).collect()
    }
}

/// What a place begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Body,
    Payload,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
fn text_at<'a>(root: &'a Value, place: &[&str]) -> Option<&'a str> {
    place.iter().try_fold(root, |value, word| value.get(word))?.as_str()
}

/// Words that lead to a value.
pub(crate) type Place = &'static [&'static str];

/// Where the shapes keep one thing, nearest first.
pub(crate) struct What {
    /// Within the payload, whatever the shape; in flat shapes within the body, too.
    everywhere: &'static [Place],
    /// Within the body of hookd's events, before `everywhere`: hookd's own `tool_name` is lower case and may name another tool than the one that ran.
    hookd: &'static [Place],
    /// Within the body of these shapes, after `everywhere`.
    cloud_events: &'static [Place],
    v1: &'static [Place],
    v2: &'static [Place],
}

pub(crate) static SESSION_ID: What = What {
    everywhere: &[&["session_id"], &["sessionId"]],
    hookd: &[&["raw_payload", "session_id"]],
    // The agent hooks put the session into `correlationid`; tool events repeat it as `invocation_id`, messages as `thread_id`.
    cloud_events: &[&["correlationid"], &["data", "invocation_id"], &["data", "thread_id"]],
    v1: &[&["session_id"]],
    v2: &[],
};

pub(crate) static TOOL_NAME: What = What {
    everywhere: &[&["tool_metadata", "tool_name"], &["tool_name"], &["toolName"]],
    hookd: &[&["raw_payload", "tool_name"]],
    cloud_events: &[],
    v1: &[],
    v2: &[],
};

pub(crate) static FILE_PATH: What = What {
    everywhere: &[
        &["tool_metadata", "tool_input", "file_path"],
        &["tool_metadata", "tool_input", "notebook_path"],
        &["tool_metadata", "tool_input", "path"],
        &["tool_input", "file_path"],
        &["tool_input", "notebook_path"],
        &["tool_input", "path"],
        &["arguments", "file_path"],
        &["arguments", "notebook_path"],
        &["arguments", "path"],
        &["file_path"],
        &["filePath"],
    ],
    hookd: &[
        &["file_path"],
        &["raw_payload", "tool_input", "file_path"],
        &["raw_payload", "tool_input", "notebook_path"],
        &["raw_payload", "tool_input", "path"],
    ],
    cloud_events: &[],
    v1: &[],
    v2: &[],
};

pub(crate) static WORKING_DIRECTORY: What = What {
    // `cwd` is Claude Code's own word, `working_dir` that of prompts.
    everywhere: &[&["working_directory"], &["workingDirectory"], &["cwd"], &["working_dir"]],
    hookd: &[&["repo", "git_root"], &["raw_payload", "cwd"]],
    cloud_events: &[],
    v1: &[],
    v2: &[],
};

pub(crate) static GIT_BRANCH: What = What {
    everywhere: &[&["git_branch"], &["gitBranch"]],
    hookd: &[&["repo", "branch"]],
    cloud_events: &[],
    v1: &[],
    v2: &[&["agent_context", "code_state", "branch"]],
};
