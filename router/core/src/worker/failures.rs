//! What did not end well: the policy says what becomes of it, and here that is done. It waits in hand, comes back, stops the route, or is
//! given up on.

use std::{sync::Arc, time::Duration};

use router_api::{
    AttemptRecord, DeadLetterReason, FailureClass, Fate, NotedAttempts, RouteMode, Settlement,
    failpoint::{self, Failpoint},
};

use super::{
    End, Item, Worker,
    bursts::{dropped, identity},
    settling::RECORD_AGAIN_MAX,
};
use crate::{
    config::OnExhausted,
    lanes::{Batch, LaneKey},
    observe::RouterEvent,
    policy::{Failure, Verdict},
};

impl Worker {
    /// Takes up what was noted of a batch that failed in hand before its session or the process ended. Returns when it may run,
    /// if that is later than now.
    pub(super) fn recall(&self, identity: &str, batch: &mut Batch<Item>) -> Option<Duration> {
        if batch.failed > 0 {
            return None;
        }
        let noted = self.route.memory.noted(identity)?;
        batch.failed = noted.attempts;
        batch.history = noted.history;
        let clock = &self.route.parts.clock;
        let wait = noted.due_at.duration_since(clock.now());
        // A wall clock that was set back must not hold the lane longer than the longest delay there is.
        let wait = wait.is_positive().then(|| wait.unsigned_abs().min(self.route.config.retry.max_delay))?;
        Some(clock.monotonic() + wait)
    }

    /// An attempt failed: asks the policy and does what it says.
    pub(super) async fn failed(&self, lane: &LaneKey, mut batch: Batch<Item>, attempt: u32, mut failure: Failure) -> End {
        let route = &*self.route;
        // What a target or a command said may hold a secret; it goes into logs and dead letters.
        if let Some(redactor) = route.parts.redactor() {
            failure.error = redactor.redact_text(&failure.error).into_owned();
            failure.detail = failure.detail.map(|detail| redactor.redact_text(&detail).into_owned());
        }
        let clock = &route.parts.clock;
        let delay = match route.config.retry.decide(&failure, attempt, route.parts.chance.fraction()) {
            Verdict::Pause(delay) => {
                self.leave();
                return End::Pause { delay, error: failure.error };
            }
            Verdict::Bury(reason) => return self.give_up(lane, batch, reason, failure, true).await,
            Verdict::RetryIn(_) if self.is_dropped(&batch) => {
                failure.error = dropped(Some(&failure.error));
                return self.give_up(lane, batch, DeadLetterReason::Dropped, failure, true).await;
            }
            Verdict::RetryIn(delay) => delay,
        };
        let record = self.record(attempt, &failure);
        let newest = Arc::clone(&batch.items.last().expect("a failed batch has items").event);
        let events = batch.items.len();
        let failed = RouterEvent::Failed { route: self.name(), event: newest, attempt, events, class: failure.class, error: failure.error, retry_in: delay };

        if route.is_ordered() {
            // The head waits in hand and its lane behind it; what it has been through is noted for the next process.
            batch.failed += 1;
            AttemptRecord::push(&mut batch.history, record);
            let identity = identity(&batch);
            let due_at = clock.now().checked_add(jiff::SignedDuration::try_from(delay).unwrap_or(jiff::SignedDuration::MAX)).unwrap_or(jiff::Timestamp::MAX);
            let noted = NotedAttempts { identity, attempts: batch.failed, history: batch.history.clone(), due_at };
            route.memory.note(noted.clone());
            failpoint::pass(Failpoint::NoteBefore);
            if let Err(error) = route.parts.store.note_attempts(&route.config.name, noted).await {
                self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
            failpoint::pass(Failpoint::NoteAfter);
            if let (Some(log), Some(last)) = (&route.parts.fates, batch.history.last()) {
                log.held(&route.config.name, batch.items.iter().map(|item| &item.delivery), &last.error, batch.failed, delay);
            }
            self.tell(failed);
            return End::Hold { batch, until: clock.monotonic() + delay, answered: true };
        }

        let deliveries = batch.items.into_iter().map(|item| item.delivery).collect();
        let retry = || Settlement::RetryIn { delay, failure: record.clone() };
        if !self.settled(deliveries, retry).await {
            return End::Released;
        }
        self.tell(failed);
        End::Settled { answered: true }
    }

    /// Buries a whole batch, parks its lane where the route says so.
    pub(super) async fn give_up(&self, lane: &LaneKey, mut batch: Batch<Item>, reason: DeadLetterReason, failure: Failure, tried: bool) -> End {
        let route = &*self.route;
        let identity = identity(&batch);
        // A route in shadow does nothing but record.
        if route.config.mode == RouteMode::Shadow {
            let fate = shadow_fate(reason, &failure.error);
            if !self.finish(std::mem::take(&mut batch.items), &fate).await {
                return End::Released;
            }
            self.forget(&batch, &identity).await;
            return End::Settled { answered: tried };
        }
        let counted = batch.items.iter().map(|item| item.delivery.attempts).max().unwrap_or(0);
        let attempts = [batch.failed, route.memory.crashes(&identity), u32::from(tried)].into_iter().fold(counted, u32::saturating_add);
        let mut history = batch.items.first().map(|item| item.delivery.history.clone()).unwrap_or_default();
        for record in batch.history.drain(..) {
            AttemptRecord::push(&mut history, record);
        }
        if tried || failure.class == FailureClass::Crash {
            AttemptRecord::push(&mut history, self.record(attempts, &failure));
        }
        let parks =
            route.config.on_exhausted == OnExhausted::Park && route.is_ordered() && !matches!(reason, DeadLetterReason::Parked | DeadLetterReason::Dropped);
        // Held to the end of this: a redrive that lets lanes go on whose letters are gone must not take this one for such.
        let _burying = match parks.then(|| route.memory.park(&*route.parts.store, &route.config.name, lane)) {
            Some(parking) => match parking.await {
                Ok(burying) => Some(burying),
                // Burying the head first would let the lane overtake it.
                Err(error) => return self.hold_for_the_store(batch, error.to_string()),
            },
            None => None,
        };
        let burst = batch.frozen.clone();
        // Nobody would recognise the event when it is redriven, so its writes must not be either.
        if tried && route.config.ledger {
            self.forget_unrecognised(&batch).await;
        }
        let buried = std::mem::take(&mut batch.items).into_iter().map(|item| (item.delivery, Some(item.event))).collect();
        if !self.bury(buried, reason, &failure, history, attempts, burst).await {
            return End::Released;
        }
        self.forget(&batch, &identity).await;
        End::Settled { answered: tried }
    }

    /// The store cannot record what is about to happen, so it does not happen yet. No attempt is counted.
    pub(super) fn hold_for_the_store(&self, batch: Batch<Item>, error: String) -> End {
        self.tell(RouterEvent::StoreTrouble { error });
        End::Hold { batch, until: self.route.parts.clock.monotonic() + RECORD_AGAIN_MAX, answered: false }
    }

    fn record(&self, number: u32, failure: &Failure) -> AttemptRecord {
        let mut error = failure.error.clone();
        if error.len() > AttemptRecord::ERROR_BYTES_MAX {
            let cut = (0..=AttemptRecord::ERROR_BYTES_MAX).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
            error.truncate(cut);
        }
        AttemptRecord { number, at: self.route.parts.clock.now(), class: failure.class, error }
    }
}

/// What becomes of an event in shadow that a live route would give up on.
pub(super) fn shadow_fate(reason: DeadLetterReason, error: &str) -> Fate {
    Fate::Shadowed { effects: vec![format!("would fail: {reason}: {error}")] }
}
