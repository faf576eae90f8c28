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
pub(super) const REASONS: [DeadLetterReason; 8] = [
    DeadLetterReason::Undecodable,
    DeadLetterReason::Rejected,
    DeadLetterReason::Exhausted,
    DeadLetterReason::TooOld,
    DeadLetterReason::Crashed,
    DeadLetterReason::Loop,
    DeadLetterReason::Parked,
    DeadLetterReason::Dropped,
];

/// What is counted of a route as one number: what [`COUNTS`] says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Received,
    Filtered,
    Matched,
    Attempts,
    Redriven,
    Discarded,
    Emitted,
    Reconnects,
    Pauses,
    HeldUp,
    SettlementDelays,
}

/// Each of them with its family's name and meaning.
pub(super) const COUNTS: [(Count, &str, &str); 11] = [
    (Count::Received, "event_router_received_events_total", "Deliveries taken from the route's queue, repeated ones included."),
    (Count::Filtered, "event_router_filtered_events_total", "Deliveries that the route's patterns or filter did not want any more."),
    (Count::Matched, "event_router_matched_events_total", "Events that came to the handler for their first attempt."),
    (Count::Attempts, "event_router_attempts_total", "Handlings begun; a burst is one."),
    (Count::Redriven, "event_router_redriven_events_total", "Dead letters that an operator put back into the queue."),
    (Count::Discarded, "event_router_discarded_events_total", "Dead letters that an operator deleted."),
    (Count::Emitted, "event_router_emitted_events_total", "Events that the route's handler emitted."),
    (Count::Reconnects, "event_router_reconnects_total", "Times that the route lost its queue, or could not open it, and took it up again."),
    (Count::Pauses, "event_router_pauses_total", "Times that the route paused because its target was down."),
    (Count::HeldUp, "event_router_held_up_total", "Times that waiting events filled half the route's window."),
    (Count::SettlementDelays, "event_router_settlement_delays_total", "Settlements and emits that could not be recorded at once."),
];

/// What is counted of one route. All numbers are of this process.
#[derive(Debug)]
pub(super) struct RouteNumbers {
    counts: [Counter; COUNTS.len()],
    done: [Counter; Done::ALL.len()],
    retries: [Counter; CLASSES.len()],
    /// Events, where `retries` counts handlings.
    pub failed_events: Counter,
    buried: [Counter; REASONS.len()],
    running: AtomicI64,
    pub burst_size: Histogram,
    pub handling: Histogram,
    pub latency: Histogram,
}

impl Default for RouteNumbers {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            done: Default::default(),
            retries: Default::default(),
            failed_events: Counter::default(),
            buried: Default::default(),
            running: AtomicI64::new(0),
            burst_size: Histogram::new(Unit::Count, BURST_BOUNDS),
            handling: Histogram::new(Unit::Seconds, HANDLING_BOUNDS),
            latency: Histogram::new(Unit::Seconds, LATENCY_BOUNDS),
        }
    }
}

impl RouteNumbers {
    pub(super) fn count(&self, count: Count) -> &Counter {
        &self.counts[count as usize]
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_stands_at_its_place_in_the_table() {
        assert!(COUNTS.iter().enumerate().all(|(at, (count, ..))| *count as usize == at));
    }
}
