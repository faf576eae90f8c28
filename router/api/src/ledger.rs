//! What a handling's writes were meant to be and what came of them, so that a repetition need not do them again.
//!
//! [`Ledger`] is what a [`crate::Context`] asks, for one handling. The records below are what a [`crate::Store`] keeps of it.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Effect, EffectError, EffectReply};

/// Remembers the writes of one handling. A dry run has none.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Notes that a write is about to be performed; on disk when it returns. Or knows its result already.
    ///
    /// # Errors
    ///
    /// When the intent cannot be stored: then the write must not be performed.
    async fn begin(&self, effect: &Effect) -> Result<Begun, EffectError>;

    /// Notes what came of it. `judged` is what the plugin says of the reply: see [`crate::HttpCall::final_when`].
    async fn end(&self, intent: Intent, result: &Result<EffectReply, EffectError>, judged: Option<bool>);
}

/// What is known of a write that is about to be performed.
#[derive(Debug)]
pub enum Begun {
    /// It was never begun: perform it.
    First(Intent),
    /// It was begun before, and nobody knows what came of it.
    Again(Intent),
    /// It is done, and this is its reply.
    Done(EffectReply),
}

/// Names a write within its handling; give it back to [`Ledger::end`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Intent(pub usize);

/// Names a write of a route for good: the same at each repetition of it, and for no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerKey {
    /// The event (its dedup identity), or the frozen burst.
    pub subject: String,
    /// The effect's name.
    pub effect: String,
    /// Which one it is of equal ones of the handling, from 0.
    pub ordinal: u32,
    /// Of the request, in hexadecimal digits.
    pub digest: String,
}

impl LedgerKey {
    /// The subject of an event that its dedup key recognises.
    #[must_use]
    pub fn of_event(dedup_key: &str) -> String {
        ["event:", dedup_key].concat()
    }

    /// The subject of a frozen burst.
    #[must_use]
    pub fn of_burst(burst: &str) -> String {
        ["burst:", burst].concat()
    }

    /// The subject of an event that nothing recognises but its delivery.
    #[must_use]
    pub fn of_delivery(identity: &str) -> String {
        ["delivery:", identity].concat()
    }
}

/// What is known of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Which one.
    pub key: LedgerKey,
    /// When it was first begun.
    pub begun_at: Timestamp,
    /// What came of it; `None` while that is unknown.
    pub result: Option<LedgerResult>,
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerResult {
    /// When.
    pub at: Timestamp,
    /// For people: `HTTP 201`, `exit code 0`.
    pub summary: String,
    /// The whole reply as the router encodes it; `None` where it was too long or had secrets in it.
    pub reply: Option<Bytes>,
    /// It stays even where the handling fails.
    pub is_final: bool,
}

/// A write that need not be done again, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DoneBefore {
    /// The dead letter whose event it was done for.
    pub letter: String,
    /// The route.
    pub route: crate::RouteName,
    /// The effect's name.
    pub effect: String,
    /// When it was done.
    #[schemars(with = "crate::described::Moment")]
    pub at: Timestamp,
    /// What came of it: `HTTP 201`, `exit code 0`.
    pub result: String,
    /// True where it will not be done again: its reply is known. False where it was done for a burst, whose events come back one by one,
    /// or where its reply was too long or too secret to be kept.
    pub is_kept: bool,
}
