//! The numbers of one route.

use std::sync::atomic::{AtomicI64, Ordering};

use router_api::{DeadLetterReason, FailureClass, Fate};

use super::exposition::{Counter, Histogram, Unit};

/// Handling times: from a millisecond to five minutes.
const HANDLING_BOUNDS: &[u64] = &[
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
];

/// From storing to settling: waits in bursts, retries and pauses count, so up to a day.
const LATENCY_BOUNDS: &[u64] = &[
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
    1_800_000_000_000,
    3_600_000_000_000,
    21_600_000_000_000,
    86_400_000_000_000,
];

/// Events of one handling.
const BURST_BOUNDS: &[u64] = &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000];

/// How an event left its route with nothing left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Handled,
    Skipped,
    Duplicate,
    Shadowed,
}

impl Done {
    pub(super) const ALL: [Self; 4] = [Self::Handled, Self::Skipped, Self::Duplicate, Self::Shadowed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Skipped => "skipped",
            Self::Duplicate => "duplicate",
            Self::Shadowed => "shadowed",
        }
    }

    /// `None` for what never reached a handler.
    pub(super) fn of(fate: &Fate) -> Option<Self> {
        match fate {
            Fate::Handled { .. } => Some(Self::Handled),
            Fate::Skipped { .. } => Some(Self::Skipped),
            Fate::Duplicate { .. } => Some(Self::Duplicate),
            Fate::Shadowed { .. } => Some(Self::Shadowed),
            Fate::Filtered => None,
        }
    }
}

/// All classes, in the order of their counters.
pub(super) const CLASSES: [FailureClass; 7] = [
    FailureClass::Error,
    FailureClass::Timeout,
    FailureClass::Panic,
    FailureClass::Unreachable,
    FailureClass::Busy,
    FailureClass::Rejected,
    FailureClass::Crash,
];

/// All reasons, in the order of their counters.
pub(super) const REASONS: [DeadLetterReason; 7] = [
    DeadLetterReason::Undecodable,
    DeadLetterReason::Rejected,
    DeadLetterReason::Exhausted,
    DeadLetterReason::TooOld,
    DeadLetterReason::Crashed,
    DeadLetterReason::Loop,
    DeadLetterReason::Parked,
];

/// What is counted of one route. All numbers are of this process.
#[derive(Debug)]
pub(super) struct RouteNumbers {
    pub received: Counter,
    pub filtered: Counter,
    pub matched: Counter,
    done: [Counter; Done::ALL.len()],
    pub attempts: Counter,
    retries: [Counter; CLASSES.len()],
    /// Events, where `retries` counts handlings.
    pub failed_events: Counter,
    buried: [Counter; REASONS.len()],
    pub emitted: Counter,
    pub redriven: Counter,
    pub discarded: Counter,
    pub consumers_lost: Counter,
    pub pauses: Counter,
    pub held_up: Counter,
    pub settlements_delayed: Counter,
    running: AtomicI64,
    pub burst_size: Histogram,
    pub handling: Histogram,
    pub latency: Histogram,
}

impl Default for RouteNumbers {
    fn default() -> Self {
        Self {
            received: Counter::default(),
            filtered: Counter::default(),
            matched: Counter::default(),
            done: Default::default(),
            attempts: Counter::default(),
            retries: Default::default(),
            failed_events: Counter::default(),
            buried: Default::default(),
            emitted: Counter::default(),
            redriven: Counter::default(),
            discarded: Counter::default(),
            consumers_lost: Counter::default(),
            pauses: Counter::default(),
            held_up: Counter::default(),
            settlements_delayed: Counter::default(),
            running: AtomicI64::new(0),
            burst_size: Histogram::new(Unit::Count, BURST_BOUNDS),
            handling: Histogram::new(Unit::Seconds, HANDLING_BOUNDS),
            latency: Histogram::new(Unit::Seconds, LATENCY_BOUNDS),
        }
    }
}

impl RouteNumbers {
    pub(super) fn done(&self, done: Done) -> &Counter {
        &self.done[Done::ALL.iter().position(|other| *other == done).unwrap_or_default()]
    }

    pub(super) fn retries(&self, class: FailureClass) -> &Counter {
        &self.retries[CLASSES.iter().position(|other| *other == class).unwrap_or_default()]
    }

    pub(super) fn buried(&self, reason: DeadLetterReason) -> &Counter {
        &self.buried[REASONS.iter().position(|other| *other == reason).unwrap_or_default()]
    }

    pub(super) fn begin(&self, events: u64) {
        self.running.fetch_add(i64::try_from(events).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    pub(super) fn end(&self, events: u64) {
        self.running.fetch_sub(i64::try_from(events).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Events that a handler works on now.
    pub(super) fn running(&self) -> i64 {
        self.running.load(Ordering::Relaxed).max(0)
    }
}
