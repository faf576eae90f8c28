//! Following the archive: the events behind a number, oldest first, and waiting for more. It takes from nobody's queue.
//!
//! Whoever follows holds nothing open between two questions: each answer says the number to go on from. So a router keeps no buffer for
//! those that look on, and one that fell too far behind is told how many events it has passed over.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ArchivedEvent, RouteName, RoutingPattern};

/// Which events, and from where on. What is not set does not narrow the choice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FollowRequest {
    /// With a greater number than this. Without it there is no event in the answer, only the number of the newest one to go on from.
    pub after: Option<u64>,
    /// With a key that fits.
    pub key: Option<RoutingPattern>,
    /// Of this session.
    pub session: Option<String>,
    /// That this route would take now, by its patterns and its filter.
    pub route: Option<RouteName>,
    /// That this filter fits, of the shape of a route's `when`.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub when: Option<serde_json::Value>,
    /// Stored at this time or later.
    #[schemars(with = "Option<crate::described::Moment>")]
    pub from: Option<Timestamp>,
    /// Stored before this time.
    #[schemars(with = "Option<crate::described::Moment>")]
    pub to: Option<Timestamp>,
    /// So many at most; 100 if absent, and never more than [`FollowRequest::LIMIT_MAX`].
    pub limit: Option<u32>,
    /// Where there is none yet, waits so long for one; never longer than [`FollowRequest::WAIT_MAX`].
    pub wait_ms: u64,
    /// Where more events than this were stored behind `after`, the older ones are passed over and counted as missed.
    pub behind_max: Option<u64>,
}

impl FollowRequest {
    /// Events of one answer.
    pub const LIMIT_MAX: u32 = 1_000;
    /// Events of an answer whose request does not say.
    pub const LIMIT: u32 = 100;
    /// One request waits no longer: a router that stops waits for what it is answering.
    pub const WAIT_MAX: Duration = Duration::from_secs(1);
    /// Bytes of bodies in one answer; the event that goes beyond them is its last.
    pub const BYTES_MAX: usize = 8 * 1024 * 1024;

    /// How many events at most.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT).clamp(1, Self::LIMIT_MAX)
    }

    /// How long to wait for one.
    #[must_use]
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms).min(Self::WAIT_MAX)
    }
}

/// What came of a [`FollowRequest`].
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Followed {
    /// The events, oldest first.
    pub events: Vec<ArchivedEvent>,
    /// The next request's `after`: everything up to this number was looked at or passed over.
    pub next: u64,
    /// So many numbers were passed over because the follower was too far behind.
    pub missed: u64,
    /// Nothing newer was stored when this was answered.
    pub at_end: bool,
}

/// A part of the archive, of one look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct PageQuery {
    /// With a greater number than this.
    pub after: u64,
    /// Of this session.
    pub session: Option<String>,
    /// With a key that fits.
    pub key: Option<RoutingPattern>,
    /// Stored at this time or later.
    pub from: Option<Timestamp>,
    /// Stored before this time.
    pub to: Option<Timestamp>,
    /// So many events at most.
    pub limit: u32,
    /// The event whose body goes beyond so many bytes is the last one.
    pub bytes_max: usize,
}

/// What [`crate::Store::page`] found.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Oldest first.
    pub events: Vec<ArchivedEvent>,
    /// Everything up to this number was looked at.
    pub looked_to: u64,
    /// The number of the newest event that was ever stored.
    pub newest: u64,
}
