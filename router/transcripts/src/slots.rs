//! Quarters of an hour, in which usage is added up: every time zone in use begins its days at one, so that sums by day are right in each.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Reach, Tokens};

/// How long a slot is.
pub const SLOT_SECONDS: i64 = 900;

/// A quarter of an hour, by its number since 1970.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub i64);

impl Slot {
    /// In which `at` lies.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_second().div_euclid(SLOT_SECONDS))
    }
}

/// What was used in one slot of one model in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotUsage {
    /// When; `None` where only the sum counts.
    pub slot: Option<Slot>,
    /// The model as the transcript names it.
    pub model: String,
    /// In the fast mode, which costs more.
    pub is_fast: bool,
    /// How much each request sent.
    pub reach: Reach,
    /// How many answers of the model.
    pub messages: u64,
    /// What they took.
    pub tokens: Tokens,
    /// Tokens of answers whose cost the transcript itself says; not in `tokens`.
    pub tokens_said: Tokens,
    /// That cost.
    pub cost_said: f64,
}
