//! What is known of one session, as a record made of its events: [`Session`], and the port that makes it, [`Sessions`].
//!
//! The record does not depend on the order in which events came, nor on how often: late, doubled and reordered events lead to the same
//! one. See [`Session`] for what that means where producers disagree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Envelope, StoreError, described::Moment};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// It goes on, and no end was seen.
    Active,
    /// The newest thing that was seen of it is an end.
    Ended,
    /// It went on after an end. Producers that report an end after every turn open it again with every turn.
    Reopened,
}

impl SessionState {
    /// As JSON and people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ended => "ended",
            Self::Reopened => "reopened",
        }
    }
}

/// Where a session is known from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionOrigin {
    /// Its events.
    #[default]
    Events,
    /// Its transcript, which was imported. No route was asked about it.
    Import,
    /// Both. Of what both count, the larger number is told; tokens and cost come from the one that has more tokens.
    Both,
}

impl SessionOrigin {
    /// As JSON and people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Import => "import",
            Self::Both => "both",
        }
    }
}

/// What is known of a session.
///
/// Where events say a total and the events themselves can be counted, the larger one is told: totals are often missing or zero, and
/// events can be. Of what changes, such as the branch, the newest event counts; what came from an emitting route of a router is not of
/// the session and counts nowhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Its id.
    pub session_id: String,
    /// Grows with what is known and never shrinks: microseconds since 1970 at which the newest of its events was stored. Of two records
    /// the one with the smaller version is older.
    pub version: u64,
    /// Where it stands.
    pub state: SessionState,
    /// When it began: the earliest time that an event of it says.
    #[schemars(with = "Moment")]
    pub started_at: Timestamp,
    /// The time of its newest event.
    #[schemars(with = "Moment")]
    pub last_event_at: Timestamp,
    /// When it ended; null unless it is ended.
    #[schemars(with = "Option<Moment>")]
    pub ended_at: Option<Timestamp>,
    /// What its last end says, also of a session that was opened again.
    pub end: Option<SessionEnd>,
    /// Where it works.
    pub working_directory: Option<String>,
    /// The branch; never `unknown`, `HEAD` or empty.
    pub git_branch: Option<String>,
    /// The repository's remote.
    pub git_remote: Option<String>,
    /// What it works on: the name of its repository; without a remote, the last part of its directory.
    #[serde(default)]
    pub project: Option<String>,
    /// What it works for, as its producer was told (`CLAUDE_FEATURE`).
    #[serde(default)]
    pub feature: Option<String>,
    /// The ticket that its feature or branch names, such as `GOD-25` or `#12`.
    #[serde(default)]
    pub ticket: Option<String>,
    /// The session that it was forked from, where that is known.
    #[serde(default)]
    pub parent: Option<String>,
    /// Where this is known from.
    #[serde(default)]
    pub origin: SessionOrigin,
    /// The language model that it used last.
    pub model: Option<String>,
    /// What each language model took, where its producer tells them apart; at most 200.
    #[serde(default)]
    pub models: BTreeMap<String, ModelUsage>,
    /// The machine that its events say they come from.
    pub host: Option<String>,
    /// The program that its events say they come from.
    pub app: Option<String>,
    /// How many turns it had.
    pub turns: u64,
    /// How often each tool was used.
    pub tools: BTreeMap<String, u64>,
    /// Files that were written, relative to the working directory where they lie in it.
    pub files: BTreeSet<String>,
    /// Commits that were made.
    pub commits: BTreeSet<String>,
    /// Tokens used, where any event says so.
    pub tokens: Option<u64>,
    /// What it cost in US dollars, as an estimate of its producer; `None` where nobody said, or where the one who counted the most tokens
    /// did not know.
    pub cost_usd: Option<f64>,
    /// How many errors there were.
    pub errors: u64,
    /// The newest of them.
    pub last_error: Option<SessionError>,
    /// How many different events this record is made of.
    pub events: u64,
    /// False when a limit was met, so that counts and lists are smaller than the truth: too many events to read at once, or too many
    /// tools, files or commits to list.
    pub is_complete: bool,
}

/// What one language model took of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUsage {
    /// Tokens that it read, and that came from no cache.
    #[serde(default)]
    pub input: u64,
    /// Tokens that it wrote.
    #[serde(default)]
    pub output: u64,
    /// Tokens that were put into the cache for five minutes.
    #[serde(default)]
    pub cache_write_5m: u64,
    /// Tokens that were put into the cache for an hour.
    #[serde(default)]
    pub cache_write_1h: u64,
    /// Tokens that were taken from the cache.
    #[serde(default)]
    pub cache_read: u64,
    /// What they cost in US dollars, as an estimate; `None` where no price is known.
    #[serde(default)]
    pub cost_usd: Option<f64>,
}

impl ModelUsage {
    /// All tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        [self.input, self.output, self.cache_write_5m, self.cache_write_1h, self.cache_read].into_iter().fold(0, u64::saturating_add)
    }

    /// They by kind.
    #[must_use]
    pub fn kinds(&self) -> crate::TokenKinds {
        crate::TokenKinds {
            input: self.input,
            output: self.output,
            cache_write_5m: self.cache_write_5m,
            cache_write_1h: self.cache_write_1h,
            cache_read: self.cache_read,
        }
    }
}

/// What the end of a session says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionEnd {
    /// When.
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    /// Why: `user_stop`, `completion`, … an open list.
    pub reason: Option<String>,
    /// How: `success`, `error`, `partial`, `abandoned`.
    pub status: Option<String>,
    /// What was done.
    pub summary: Option<String>,
    /// How long the session took by its producer's count.
    pub duration_seconds: Option<u64>,
}

/// An error within a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionError {
    /// When.
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    /// Its type, as the event names it.
    pub kind: Option<String>,
    /// Its message.
    pub message: Option<String>,
}

/// Makes [`Session`]s. Implemented by the core, over the archive.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// What the archive and the events in hand say of session `id`; `None` when there is no event of it. On a bus the archive follows a
    /// moment later, so what is handled right now must be handed in.
    ///
    /// # Errors
    ///
    /// When the archive cannot be read.
    async fn session(&self, id: &str, in_hand: &[Arc<Envelope>]) -> Result<Option<Session>, StoreError>;
}
