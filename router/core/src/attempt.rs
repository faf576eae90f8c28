//! One run of a handler: on the handlers' runtime, under a deadline, its panics caught, its effects real or recorded.

use std::{sync::Arc, time::Duration};

use router_api::{
    Attempt, Cancellation, Canceller, Context, ContextParts, DryRun, EffectPort, Emit, Envelope, FailureClass, Handler, HandlerError, Ledger, Outcome,
    RecordedEffect, RouteMode,
};
use tracing::Instrument;

use crate::{
    crew::{self, Came, Crew},
    lanes::LaneKey,
    ledger::HandlingLedger,
    parts::RouteParts,
    policy::Failure,
    worker::Beginning,
};

/// What is run.
pub(crate) struct Run<'a> {
    pub route: &'a RouteParts,
    pub crew: &'a Crew,
    /// All events, oldest first.
    pub events: Vec<Arc<Envelope>>,
    pub lane: Option<LaneKey>,
    /// Names the event or burst, the same at every repeat.
    pub subject: Arc<str>,
    /// From 1.
    pub attempt: u32,
    /// The process died while this ran before; something of it may still run.
    pub suspect: bool,
    pub cancellation: &'a Cancellation,
    /// Something newer is wanted instead.
    pub overtaken: &'a Cancellation,
    /// Told when the handler begins.
    pub beginning: &'a Arc<Beginning>,
}

/// How it ended.
pub(crate) enum Ended {
    /// The handler is content.
    Done {
        outcome: Outcome,
        emits: Vec<Emit>,
        effects: Vec<RecordedEffect>,
        note: Option<String>,
        /// The ledger has something of it.
        wrote: bool,
    },
    /// A dry run came to its first write, or failed on the way; what would have been done is recorded.
    Shadowed { effects: Vec<RecordedEffect>, emits: Vec<Emit>, failure: Option<Failure>, note: Option<String> },
    /// It failed.
    Failed(Failure),
    /// A write was not begun, since the ledger could not keep its intent: no attempt is counted.
    Unrecorded(String),
    /// Nobody wants it any more: no attempt is counted.
    Cancelled,
    /// The same, since something newer is wanted.
    Superseded,
    /// Its turn has not come; it is to be asked for again.
    NotBegun,
}

/// After a deadline or a cancellation the handler's future is dropped; one that blocks its thread is left behind after this
/// long, so that it cannot hold its lane for ever.
const ABANDON_AFTER: Duration = Duration::from_secs(1);

impl Run<'_> {
    pub(crate) async fn run(self) -> Ended {
        let parts = &self.route.parts;
        let config = &self.route.config;
        let dry_run = (config.mode == RouteMode::Shadow).then(|| Arc::new(DryRun::over(Arc::clone(&parts.effects))));
        let effects: Arc<dyn EffectPort> = match &dry_run {
            Some(dry_run) => Arc::clone(dry_run) as Arc<dyn EffectPort>,
            None => Arc::clone(&parts.effects),
        };
        let event = Arc::clone(self.events.last().expect("a handling has at least one event"));
        let ledger = (dry_run.is_none() && config.ledger).then(|| Arc::new(self.ledger()));
        // Ends the effects of this attempt, whichever way it ends.
        let (canceller, cancellation) = Canceller::new();
        let deadline = parts.clock.monotonic() + config.timeout;
        let cx = Arc::new(Context::new(ContextParts {
            route: config.name.clone(),
            lane: self.lane,
            attempt: Attempt { number: self.attempt, max: config.retry.attempts_max },
            burst: self.events,
            subject: self.subject,
            deadline,
            cancellation,
            clock: Arc::clone(&parts.clock),
            effects,
            store: Arc::clone(&parts.store),
            sessions: Arc::clone(&parts.sessions),
            ledger: ledger.clone().map(|ledger| ledger as Arc<dyn Ledger>),
            dry_run: dry_run.is_some(),
            host: Arc::clone(&parts.host),
        }));

        if self.suspect {
            parts.effects.end_leftovers(&cx.idempotency_key()).await;
        }
        let handler: Arc<dyn Handler> = Arc::clone(&self.route.handler);
        let handling = {
            let (cx, beginning) = (Arc::clone(&cx), Arc::clone(self.beginning));
            // The crew runs it in another task, which is in no span by itself.
            let span = tracing::Span::current();
            let handling = async move {
                if !beginning.begin() {
                    // Nobody waits for it: it is dropped before long.
                    std::future::pending::<()>().await;
                }
                let outcome = handler.handle(&event, &cx).await;
                // Here, not where its end is heard of: what is done is not charged for the death of the process.
                beginning.unmark();
                outcome
            };
            crew::work(handling.instrument(span))
        };
        // What was left of an earlier run took none of this one's time.
        let late_at = if self.suspect { parts.clock.monotonic() + config.timeout } else { deadline };
        let mut running = self.crew.run(handling, late_at);
        let came = tokio::select! {
            biased;
            came = running.came() => came,
            () = self.cancellation.cancelled() => Came::Late,
            () = self.overtaken.cancelled() => Came::Late,
        };
        let result = match came {
            Came::Back(returned) => Some(*returned),
            Came::Late => None,
            // The handlers' runtime is shutting down, which is no fault of the event.
            Came::Gone => return Ended::Cancelled,
            Came::NotBegun => return Ended::NotBegun,
        };
        let Some(result) = result else {
            canceller.cancel();
            running.abandon();
            tokio::select! {
                // Gone at the last moment is gone.
                biased;
                () = running.gone() => {}
                () = parts.clock.sleep(ABANDON_AFTER) => {}
            }
            if self.cancellation.is_cancelled() {
                return Ended::Cancelled;
            }
            if self.overtaken.is_cancelled() {
                return Ended::Superseded;
            }
            // Its thread has not come to it: its time is over, but nothing has been tried.
            if self.beginning.call_off() {
                return Ended::NotBegun;
            }
            let failure = Failure::new(FailureClass::Timeout, format!("no result within {} ms", config.timeout.as_millis()));
            return match dry_run {
                Some(dry_run) => Ended::Shadowed { effects: dry_run.take(), emits: Vec::new(), failure: Some(failure), note: None },
                None => Ended::Failed(failure),
            };
        };
        let result = match result {
            Ok(result) => result.map_err(Unhandled::Error),
            Err(panic) => Err(Unhandled::Panic(panic_text(panic.as_ref()))),
        };
        let emits = cx.take_emits();
        let note = cx.take_note();
        let mut said = String::new();
        let failure = match result {
            Ok(outcome) => {
                return match dry_run {
                    Some(dry_run) => {
                        let effects = dry_run.take();
                        match outcome {
                            Outcome::Skipped { .. } if effects.is_empty() => Ended::Done { outcome, emits: Vec::new(), effects, note, wrote: false },
                            _ => Ended::Shadowed { effects, emits, failure: None, note },
                        }
                    }
                    None => Ended::Done { outcome, emits, effects: Vec::new(), note, wrote: ledger.is_some_and(|ledger| ledger.is_used()) },
                };
            }
            Err(Unhandled::Panic(text)) => Some(Failure::new(FailureClass::Panic, format!("the handler panicked: {text}"))),
            Err(Unhandled::Error(error)) => {
                said = error.to_string();
                let failure = Failure::of(&error);
                if let Some(ledger) = &ledger {
                    if let Some(error) = ledger.unstored() {
                        return Ended::Unrecorded(error);
                    }
                    // One that was cancelled has said nothing about what its writes came to.
                    if failure.is_some() {
                        ledger.end_with_an_error().await;
                    }
                }
                failure
            }
        };
        match (dry_run, failure) {
            (Some(dry_run), failure) => Ended::Shadowed { effects: dry_run.take(), emits, failure, note },
            (None, Some(failure)) => Ended::Failed(failure),
            (None, None) if self.cancellation.is_cancelled() => Ended::Cancelled,
            // Taken at its word, the event would stay in hand with nobody to settle it, and its lane would go on without it.
            (None, None) => Ended::Failed(Failure::new(FailureClass::Error, format!("the handler gave up, but nobody asked it to: {said}"))),
        }
    }
}

impl Run<'_> {
    fn ledger(&self) -> HandlingLedger {
        let parts = &self.route.parts;
        let (store, clock) = (Arc::clone(&parts.store), Arc::clone(&parts.clock));
        HandlingLedger::new(self.route.config.name.clone(), Arc::clone(&self.subject), store, clock, parts.redactor(), Arc::clone(&parts.store_trouble))
    }
}

enum Unhandled {
    Error(HandlerError),
    Panic(String),
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no text".to_owned(),
    }
}
