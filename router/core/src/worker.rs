//! The pipeline. The order of the steps *is* the guarantee, so it stands here in one piece; what each step does is in a file of its own
//! below `worker/`. `settling.rs` is the only place in the router that settles a delivery.
//!
//! ```text
//! decode → filter → lane ─ burst (head run of the lane) ─ inbox ─ limits/breaker → attempt ─ ok ─→ publish emits → settle Done
//!    │no      │no                                          └ done before → settle Done   │ error
//!    └→ Bury  └→ Done, counted                                                           └→ policy: RetryIn | hold in hand | Bury | Pause
//! ```
//!
//! [`Worker::sort`] takes a delivery as far as its lane, [`Worker::process`] takes a batch from the head of its lane to the end.
//! Between them the route's loop (`route.rs`) decides what runs when.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use router_api::{Cancellation, Consumer, DeadLetterReason, Emit, EventId, FailureClass, Fate, LedgerKey, Outcome, RecordedEffect, RouteMode};
use tracing::Instrument;

pub(crate) use self::{
    aside::Aside,
    beginning::Beginning,
    behind::Behind,
    sorting::{Item, Sorted},
};
use self::{
    beginning::{Awaited, Stage},
    behind::Done,
    bursts::{dropped, identity},
};
use crate::{
    attempt::{Ended, Run},
    crew::Crew,
    lanes::{Batch, LaneKey},
    observe::RouterEvent,
    parts::RouteParts,
    policy::Failure,
};

mod aside;
mod beginning;
mod behind;
mod bursts;
mod emits;
mod failures;
mod inbox;
mod settling;
mod sorting;

/// Says of a handling whether something newer is wanted instead, and why it ends then.
#[derive(Clone)]
pub(crate) struct Overtaking {
    pub cancellation: Cancellation,
    pub by: Arc<OnceLock<String>>,
}

impl Overtaking {
    /// Of what nothing overtakes.
    pub(crate) fn never() -> Self {
        Self { cancellation: Cancellation::never(), by: Arc::default() }
    }

    fn reason(&self) -> Option<String> {
        self.by.get().cloned()
    }
}

/// How a batch left the worker.
pub(crate) enum End {
    /// Settled, or held by the transport. `answered` says that the handler's target was reached.
    Settled { answered: bool },
    /// It ended well and is on its way to its settlement: see [`Worker::end_behind`].
    Behind(Box<Behind>),
    /// Its handler's turn has not come: it is at the head of its lane again, as if nothing had been.
    NotBegun { batch: Batch<Item> },
    /// Waits in hand, at the head of its lane. `answered` as above.
    Hold { batch: Batch<Item>, until: Duration, answered: bool },
    /// The target is down: the route is to stop for a while. The deliveries are back in their queue when the consumer closes.
    Pause { delay: Option<Duration>, error: String },
    /// Cancelled, or the session is over: the deliveries come back by themselves.
    Released,
    /// The worker itself panicked.
    Broken,
}

/// Takes deliveries of one session through the pipeline.
pub(crate) struct Worker {
    pub route: Arc<RouteParts>,
    pub consumer: Arc<dyn Consumer>,
    /// Runs the handler.
    pub crew: Arc<Crew>,
    /// Cuts handlings short when a drain has taken too long.
    pub cancellation: Cancellation,
    /// The session ends: what has not begun goes back.
    pub leaving: AtomicBool,
}

impl Worker {
    /// Nothing that has not begun begins any more.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        self.crew.begin_no_more();
    }

    /// See [`Worker::leave`].
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Takes a batch from the head of its lane to its end.
    pub(crate) async fn process(&self, lane: &LaneKey, mut batch: Batch<Item>, overtaking: &Overtaking) -> End {
        let route = &*self.route;
        let config = &route.config;

        // The inbox is asked inside the lane: a repetition that came while the first one ran has waited for it. It is asked first of all,
        // since what is done already is neither too old nor parked.
        match self.settle_duplicates(&mut batch).await {
            Ok(true) if batch.items.is_empty() => {
                self.forget(&batch, "").await;
                return End::Settled { answered: false };
            }
            Ok(true) => {}
            Ok(false) => return End::Released,
            Err(error) => return self.hold_for_the_store(batch, error),
        }

        if let Some(error) = self.too_old(&batch) {
            return Box::pin(self.give_up(lane, batch, DeadLetterReason::TooOld, Failure::new(FailureClass::Rejected, error), false)).await;
        }
        // A route in shadow has parked nothing; it may have done so before it came there.
        if config.mode == RouteMode::Live
            && !batch.items.iter().all(|item| item.delivery.direct)
            && let Some(_burying) = route.memory.behind_a_parked_head(lane)
        {
            let failure = Failure::new(FailureClass::Rejected, format!("lane `{lane}` is parked behind an event that was given up on"));
            return Box::pin(self.give_up(lane, batch, DeadLetterReason::Parked, failure, false)).await;
        }

        // The composition of a burst is fixed, on disk, before its first attempt.
        if self.is_burst(&batch)
            && let Err(error) = Box::pin(self.freeze(lane, &mut batch)).await
        {
            return self.hold_for_the_store(batch, error);
        }

        let identity = identity(&batch);
        let due = self.recall(&identity, &mut batch);
        if self.is_dropped(&batch) {
            let last = batch.history.last().map(|record| record.error.clone());
            return Box::pin(self.give_up(lane, batch, DeadLetterReason::Dropped, Failure::new(FailureClass::Rejected, dropped(last.as_deref())), false)).await;
        }
        if let Some(until) = due {
            return End::Hold { batch, until, answered: false };
        }
        let crashes = route.memory.crashes(&identity);
        let counted = batch.items.iter().map(|item| item.delivery.attempts).max().unwrap_or(0);
        let failed_before = counted.saturating_add(batch.failed).saturating_add(crashes);
        if crashes > 0 && (crashes >= config.crashes_max || failed_before >= config.retry.attempts_max) {
            let error = format!("the router's process died {crashes} times while this event was handled");
            let reason = if crashes >= config.crashes_max { DeadLetterReason::Crashed } else { DeadLetterReason::Exhausted };
            return Box::pin(self.give_up(lane, batch, reason, Failure::new(FailureClass::Crash, error), false)).await;
        }

        // What it came to could not be recorded, so it does not begin.
        if let Err(error) = self.consumer.records() {
            return self.hold_for_the_store(batch, error);
        }
        let attempt = failed_before.saturating_add(1);
        let events = batch.items.len();
        let beginning = Arc::new(Beginning {
            route: Arc::clone(&self.route),
            identity,
            event: Arc::clone(&batch.items.last().expect("not empty, see above").event),
            lane: Arc::clone(lane),
            attempt,
            events,
            stage: Mutex::new(Stage::Waits),
        });
        let awaited = Awaited(Arc::clone(&beginning));
        let ended = self.attempt(&batch, crashes, overtaking, &beginning).await;
        let elapsed = beginning.end();
        drop(awaited);

        let (fate, emits, effects) = match ended {
            // What did not end well is not wanted any more where something newer has come.
            Ended::Superseded | Ended::NotBegun | Ended::Failed(_) | Ended::Unrecorded(_) if let Some(reason) = overtaking.reason() => {
                return if Box::pin(self.leave_unhandled(batch, reason)).await { End::Settled { answered: false } } else { End::Released };
            }
            Ended::Cancelled | Ended::Superseded => return End::Released,
            Ended::NotBegun => return End::NotBegun { batch },
            Ended::Unrecorded(error) => return self.hold_for_the_store(batch, error),
            Ended::Failed(failure) => return Box::pin(self.failed(lane, batch, attempt, failure)).await,
            Ended::Done { outcome: Outcome::Done, emits, effects, note, wrote } => {
                batch.wrote = wrote;
                let note = note.map(|note| self.redacted(note));
                (Fate::Handled { burst: self.burst_note(&batch), note }, emits, effects)
            }
            Ended::Done { outcome: Outcome::Skipped { reason }, emits, effects, wrote, .. } => {
                batch.wrote = wrote;
                (Fate::Skipped { reason: self.redacted(reason) }, emits, effects)
            }
            Ended::Shadowed { effects, emits, failure, note } => {
                let lines = shadow_lines(&effects, &emits, failure.as_ref()).into_iter().chain(note).map(|line| self.redacted(line)).collect();
                (Fate::Shadowed { effects: lines }, Vec::new(), effects)
            }
        };

        // Published after the work succeeded and before its event is settled: a crash in between repeats both, under the same id.
        let published = if emits.is_empty() { Ok(true) } else { Box::pin(self.publish_emits(&batch, emits)).await };
        match published {
            Ok(true) => {}
            Ok(false) => return End::Released,
            Err(error) => return Box::pin(self.failed(lane, batch, attempt, Failure::new(FailureClass::Rejected, error))).await,
        }
        if batch.wrote {
            Box::pin(self.forget_unrecognised(&batch)).await;
        }
        // What failed in hand, or with the process, is part of what the event has been through.
        batch.items.iter_mut().for_each(|item| item.delivery.attempts = failed_before);
        let behind = self.begin_behind(batch, Done { beginning, fate, effects, elapsed });
        if behind.is_slow() {
            return End::Behind(Box::new(behind));
        }
        if self.end_behind(behind).await { End::Settled { answered: true } } else { End::Released }
    }

    /// Runs the handler, alone if it is suspected of the death of the process.
    async fn attempt(&self, batch: &Batch<Item>, crashes: u32, overtaking: &Overtaking, beginning: &Arc<Beginning>) -> Ended {
        let route = &*self.route;
        let attempt = beginning.attempt;
        // A repetition within a burst is settled with it, but the handler sees the event once.
        let first = |item: &Item, before: &[Item]| item.dedup.is_none() || before.iter().all(|other| other.dedup != item.dedup);
        let events: Vec<_> =
            batch.items.iter().enumerate().filter(|(at, item)| first(item, &batch.items[..*at])).map(|(_, item)| Arc::clone(&item.event)).collect();
        let subject = match (&batch.frozen, batch.items.as_slice()) {
            (Some(burst), _) => LedgerKey::of_burst(burst),
            (None, [Item { dedup: Some(dedup), .. }, ..]) => LedgerKey::of_event(dedup),
            (None, items) => LedgerKey::of_delivery(&items[0].delivery.identity),
        };
        let key = batch.items.last().map(|item| item.delivery.key.clone());
        // The newest event of a burst stands for all of it, as it does for the handler.
        let id = events.last().and_then(|event| event.id()).map(EventId::as_str);
        let key = key.as_ref().map(|key| key.as_str());
        let span = tracing::info_span!("handle", route = %route.config.name, key, id, attempt, events = events.len());
        let _alone = route.solitude.enter(crashes).await;
        // That wait can be long: what drains or pauses begins nothing new.
        if self.cancellation.is_cancelled() || self.is_leaving() {
            return Ended::Cancelled;
        }
        if overtaking.cancellation.is_cancelled() {
            return Ended::Superseded;
        }
        let run = Run {
            route,
            crew: &self.crew,
            events,
            lane: route.is_ordered().then(|| Arc::clone(&beginning.lane)),
            subject: subject.into(),
            attempt,
            suspect: crashes > 0,
            cancellation: &self.cancellation,
            overtaken: &overtaking.cancellation,
            beginning,
        };
        let ended = run.run().instrument(span).await;
        beginning.unmark();
        ended
    }

    fn name(&self) -> router_api::RouteName {
        self.route.config.name.clone()
    }

    /// What a handler says may quote its target, and is stored and logged: it is redacted like what comes in.
    fn redacted(&self, text: String) -> String {
        match self.route.parts.redactor() {
            Some(redactor) => redactor.redact_text(&text).into_owned(),
            None => text,
        }
    }

    fn tell(&self, event: RouterEvent) {
        self.route.parts.observers.tell(event);
    }
}

fn shadow_lines(effects: &[RecordedEffect], emits: &[Emit], failure: Option<&Failure>) -> Vec<String> {
    let effects = effects.iter().map(RecordedEffect::sentence);
    let emits = emits.iter().map(|emit| format!("would emit: {}", emit.key));
    let failure = failure.map(|failure| format!("would fail: {}", failure.error));
    effects.chain(emits).chain(failure).collect()
}

/// Only for its bound: handlings are futures that move between threads.
fn _assert_send(worker: &Worker, lane: &LaneKey, batch: Batch<Item>, overtaking: &Overtaking) -> impl Future<Output = End> + Send {
    worker.process(lane, batch, overtaking)
}
