//! An event given up on, with its whole history.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::RouteName;

/// Of a hash, enough that a million letters hardly share one.
const REFERENCE_BYTES: usize = 8;

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AttemptRecord {
    /// From 1.
    pub number: u32,
    /// When it ended.
    #[schemars(with = "crate::described::Moment")]
    pub at: Timestamp,
    /// The class of the failure.
    pub class: FailureClass,
    /// What went wrong, for people; at most [`AttemptRecord::ERROR_BYTES_MAX`] bytes.
    pub error: String,
}

impl AttemptRecord {
    /// In bytes; what is longer is cut.
    pub const ERROR_BYTES_MAX: usize = 2_048;

    /// Histories keep this many records: the first ones and the last ones.
    pub const HISTORY_MAX: usize = 32;

    /// Adds `record` to `history` and drops from the middle what is too much.
    pub fn push(history: &mut Vec<Self>, record: Self) {
        history.push(record);
        while history.len() > Self::HISTORY_MAX {
            history.remove(Self::HISTORY_MAX / 2);
        }
    }
}

/// The kinds of failure that a retry policy tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The handler returned an error.
    Error,
    /// The handler did not end in time, or its target did not answer.
    Timeout,
    /// The handler panicked.
    Panic,
    /// The target is down for every event.
    Unreachable,
    /// The target asked to slow down.
    Busy,
    /// The handler or the target refused the event for good.
    Rejected,
    /// The router's process died while the handler ran.
    Crash,
}

impl FailureClass {
    /// As it stands in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::Rejected => "rejected",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an event was given up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterReason {
    /// No JSON object, too large, or nested too deeply.
    Undecodable,
    /// Refused for good.
    Rejected,
    /// All attempts failed.
    Exhausted,
    /// Older than the route's `max_age_s`.
    TooOld,
    /// The process died too often while this event was being handled.
    Crashed,
    /// It came out of a chain of emits longer than `hops_max`.
    Loop,
    /// It stood in a lane whose head was given up on, on a route with `on_exhausted = "park"`.
    Parked,
    /// An operator gave up on it: `routes drop-burst`, `routes enable --from now`.
    Dropped,
}

impl DeadLetterReason {
    /// As people see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::TooOld => "too-old",
            Self::Crashed => "crashed",
            Self::Loop => "loop",
            Self::Parked => "parked",
            Self::Dropped => "dropped",
        }
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why and after what an event was given up on. The event itself lies beside it, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetter {
    /// The route that gave up.
    pub route: RouteName,
    /// The plugin that the route used.
    pub plugin: String,
    /// Why.
    pub reason: DeadLetterReason,
    /// The last error, or what is wrong with the event, as a sentence fragment.
    pub error: String,
    /// What the target last said, shortened.
    pub detail: Option<String>,
    /// Failed attempts, the dropped ones of a long history included.
    pub attempts: u32,
    /// The failed attempts, oldest first.
    pub history: Vec<AttemptRecord>,
    /// When it was given up on.
    #[schemars(with = "crate::described::Moment")]
    pub buried_at: Timestamp,
    /// Of the configuration in force.
    pub config_hash: String,
    /// The burst that it was a member of: its id.
    pub burst: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl DeadLetter {
    /// Names the letter where its transport numbers none, as `<route>.<hash>`: the same for every copy of it, whoever looks. `identity`
    /// is that of the delivery ([`crate::Delivery::identity`]).
    #[must_use]
    pub fn reference(&self, identity: &str) -> String {
        let mut hash = Sha256::new();
        for part in [self.route.as_str(), identity] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(self.buried_at.as_microsecond().to_be_bytes());
        hash.finalize().iter().take(REFERENCE_BYTES).fold(format!("{}.", self.route), |text, byte| text + &format!("{byte:02x}"))
    }

    /// The class of the last failed attempt; `None` where nothing was tried.
    #[must_use]
    pub fn last_class(&self) -> Option<FailureClass> {
        self.history.last().map(|record| record.class)
    }
}
