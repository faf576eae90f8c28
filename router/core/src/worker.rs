//! The pipeline. The order of the steps *is* the guarantee, so it stands here in one piece, and this is the only place in the
//! router that settles a delivery.
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
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use router_api::{
    AttemptRecord, BurstNote, Cancellation, Consumer, DeadLetter, DeadLetterReason, Delivery, Destination, Emit, Envelope, FailureClass, Fate, FrozenBurst,
    InboxKey, LedgerKey, Matcher, NotedAttempts, Outcome, Publication, RecordedEffect, RouteMode, SettleError, Settlement, TransportError,
};
use sha2::{Digest, Sha256};
use tracing::Instrument;

use crate::{
    attempt::{Ended, Run},
    config::OnExhausted,
    hex,
    hops::Hops,
    lanes::{Batch, LaneKey},
    memory::burst_identity,
    observe::RouterEvent,
    parts::RouteParts,
    policy::{Failure, Verdict},
};

/// A delivery that has come as far as its lane.
#[derive(Debug)]
pub(crate) struct Item {
    pub delivery: Delivery,
    pub event: Arc<Envelope>,
    /// What recognises a repetition.
    pub dedup: Option<String>,
}

/// What the first steps say of a delivery.
pub(crate) enum Sorted {
    /// It goes into a lane; `alone` keeps it out of bursts.
    Lane { key: LaneKey, item: Box<Item>, alone: bool },
    /// It needs no handling.
    Aside(Aside),
}

/// A delivery that needs no handling, only its settlement.
pub(crate) enum Aside {
    Filtered(Delivery),
    Bury(Delivery, DeadLetterReason, String),
    /// Nobody wants it handled: the reason why.
    Unhandled(Box<Batch<Item>>, String),
}

impl Aside {
    /// How many deliveries it is.
    pub(crate) fn deliveries(&self) -> usize {
        match self {
            Self::Filtered(_) | Self::Bury(..) => 1,
            Self::Unhandled(batch, _) => batch.items.len(),
        }
    }
}

/// Says of a handling whether something newer is wanted instead, and why it ends then.
pub(crate) struct Overtaking {
    pub cancellation: Cancellation,
    pub by: Arc<OnceLock<String>>,
}

impl Overtaking {
    fn reason(&self) -> Option<String> {
        self.by.get().cloned()
    }
}

/// How a batch left the worker.
pub(crate) enum End {
    /// Settled, or held by the transport. `answered` says that the handler's target was reached.
    Settled { answered: bool },
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
    /// Cuts handlings short when a drain has taken too long.
    pub cancellation: Cancellation,
    /// The session ends: what has not begun goes back.
    pub leaving: AtomicBool,
}

/// Settlements that could not be recorded, and batches that could not be frozen, are tried again after this long, doubling.
const RECORD_AGAIN_FIRST: Duration = Duration::from_millis(100);
/// … up to this.
const RECORD_AGAIN_MAX: Duration = Duration::from_secs(5);

/// An event that says it is older than this is taken to have a wrong clock.
const PLAUSIBLE_AGE_HOURS: i64 = 366 * 24;

impl Worker {
    /// Nothing that has not begun begins any more.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// See [`Worker::leave`].
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    // ── decode → filter → lane ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Decodes, filters, and finds the lane.
    pub(crate) fn sort(&self, delivery: Delivery) -> Sorted {
        let config = &self.route.config;
        let event = match Envelope::decode(delivery.key.clone(), delivery.body.clone(), self.route.decode) {
            Ok(event) => event,
            Err(error) => return Sorted::Aside(Aside::Bury(delivery, DeadLetterReason::Undecodable, error.to_string())),
        };
        let wanted = delivery.direct || (self.route.matcher.takes(&delivery.key) && self.route.matcher.matches(&event));
        if !wanted {
            return Sorted::Aside(Aside::Filtered(delivery));
        }
        // What an operator put back, or the route itself sent later, is wanted whenever it was stored.
        if !delivery.direct
            && let Some(before) = self.route.memory.skips_before().filter(|before| self.stored_at(&delivery, &event) < *before)
        {
            let error = format!("it waited when an operator switched the route on from then on (`routes enable --from now`, {before})");
            return Sorted::Aside(Aside::Bury(delivery, DeadLetterReason::Dropped, error));
        }
        if delivery.hops > config.hops_max {
            let error = format!("{} emits led to this event, `hops_max` is {}: a route answers itself", delivery.hops, config.hops_max);
            return Sorted::Aside(Aside::Bury(delivery, DeadLetterReason::Loop, error));
        }
        let dedup = self.route.matcher.dedup_key(&event);
        let lane = self.route.matcher.lane(&event);
        // An unordered event's lane is its own identity, so that a repetition waits for the first one and then finds it done.
        let key: LaneKey = match (&lane, &dedup) {
            (Some(lane), _) => lane.as_str().into(),
            (None, Some(dedup)) => format!("={dedup}").into(),
            (None, None) => format!("#{}", delivery.identity).into(),
        };
        let alone = delivery.direct || lane.is_none();
        Sorted::Lane { key, item: Box::new(Item { delivery, event: Arc::new(event), dedup }), alone }
    }

    /// Settles what needs no handling. Returns how many deliveries left our hands.
    pub(crate) async fn settle_aside(&self, asides: Vec<Aside>) {
        let mut filtered = Vec::new();
        for aside in asides {
            match aside {
                Aside::Filtered(delivery) => {
                    self.tell(RouterEvent::Filtered { route: self.name(), key: delivery.key.clone() });
                    filtered.push(delivery);
                }
                Aside::Unhandled(batch, reason) => {
                    self.leave_unhandled(*batch, reason).await;
                }
                Aside::Bury(delivery, reason, error) if self.route.config.mode == RouteMode::Shadow => {
                    let (fate, identity) = (shadow_fate(reason, &error), delivery.identity.clone());
                    if self.settle(vec![delivery], || Settlement::Done { fates: vec![fate.clone()], inbox: Vec::new() }).await {
                        self.forget_deliveries(&[identity]).await;
                    }
                }
                Aside::Bury(delivery, reason, error) => {
                    let identity = delivery.identity.clone();
                    let noted = self.route.memory.noted(&identity);
                    let in_hand = noted.as_ref().map_or(0, |noted| noted.attempts).saturating_add(self.route.memory.crashes(&identity));
                    let attempts = delivery.attempts.saturating_add(in_hand);
                    let mut history = delivery.history.clone();
                    for record in noted.into_iter().flat_map(|noted| noted.history) {
                        AttemptRecord::push(&mut history, record);
                    }
                    if self.bury(vec![(delivery, None)], reason, &Failure::new(FailureClass::Rejected, error), history, attempts, None).await {
                        self.forget_deliveries(&[identity]).await;
                    }
                }
            }
        }
        if !filtered.is_empty() {
            let fates = vec![Fate::Filtered; filtered.len()];
            let identities: Vec<String> = filtered.iter().map(|delivery| delivery.identity.clone()).collect();
            if self.settle(filtered, || Settlement::Done { fates: fates.clone(), inbox: Vec::new() }).await {
                self.forget_deliveries(&identities).await;
            }
        }
    }

    // ── burst → inbox → attempt → settle ────────────────────────────────────────────────────────────────────────────────────

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
            return self.give_up(lane, batch, DeadLetterReason::TooOld, Failure::new(FailureClass::Rejected, error), false).await;
        }
        // A route in shadow has parked nothing; it may have done so before it came there.
        let parks = config.mode == RouteMode::Live && route.memory.is_parked(lane);
        if parks && !batch.items.iter().all(|item| item.delivery.direct) {
            let failure = Failure::new(FailureClass::Rejected, format!("lane `{lane}` is parked behind an event that was given up on"));
            return self.give_up(lane, batch, DeadLetterReason::Parked, failure, false).await;
        }

        // The composition of a burst is fixed, on disk, before its first attempt.
        if self.is_burst(&batch)
            && let Err(error) = self.freeze(lane, &mut batch).await
        {
            return self.hold_for_the_store(batch, error);
        }

        let identity = identity(&batch);
        let due = self.recall(&identity, &mut batch);
        if self.is_dropped(&batch) {
            let last = batch.history.last().map(|record| record.error.clone());
            return self.give_up(lane, batch, DeadLetterReason::Dropped, Failure::new(FailureClass::Rejected, dropped(last.as_deref())), false).await;
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
            return self.give_up(lane, batch, reason, Failure::new(FailureClass::Crash, error), false).await;
        }

        let attempt = failed_before.saturating_add(1);
        let started = route.parts.clock.monotonic();
        let newest = Arc::clone(&batch.items.last().expect("not empty, see above").event);
        let events = batch.items.len();
        self.tell(RouterEvent::Started { route: self.name(), event: Arc::clone(&newest), attempt, events, lane: Some(lane.to_string()) });
        let running = Running { worker: self, events, started };
        let ended = self.attempt(lane, &batch, &identity, attempt, crashes, overtaking).await;
        let elapsed = running.elapsed();
        drop(running);

        let (fate, emits, effects) = match ended {
            // What did not end well is not wanted any more where something newer has come.
            Ended::Superseded | Ended::Failed(_) | Ended::Unrecorded(_) if let Some(reason) = overtaking.reason() => {
                return if self.leave_unhandled(batch, reason).await { End::Settled { answered: false } } else { End::Released };
            }
            Ended::Cancelled | Ended::Superseded => return End::Released,
            Ended::Unrecorded(error) => return self.hold_for_the_store(batch, error),
            Ended::Failed(failure) => return self.failed(lane, batch, attempt, failure).await,
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
        match self.publish_emits(&batch, emits).await {
            Ok(true) => {}
            Ok(false) => return End::Released,
            Err(error) => return self.failed(lane, batch, attempt, Failure::new(FailureClass::Rejected, error)).await,
        }
        if batch.wrote {
            self.forget_unrecognised(&batch).await;
        }
        let oldest = batch.items.iter().map(|item| item.delivery.stored_at).min();
        // What failed in hand, or with the process, is part of what the event has been through.
        batch.items.iter_mut().for_each(|item| item.delivery.attempts = failed_before);
        if !self.finish(std::mem::take(&mut batch.items), &fate).await {
            return End::Released;
        }
        self.forget(&batch, &identity).await;
        if let Some(oldest) = oldest {
            // A wall clock that was set back makes nothing younger than now.
            let latency = Duration::try_from(route.parts.clock.now().duration_since(oldest)).unwrap_or_default();
            self.tell(RouterEvent::Completed { route: self.name(), latency });
        }
        self.tell(RouterEvent::Finished { route: self.name(), event: newest, attempt, events, fate, effects, elapsed });
        End::Settled { answered: true }
    }

    fn too_old(&self, batch: &Batch<Item>) -> Option<String> {
        let limit = self.route.config.max_age?;
        let youngest = batch.items.iter().map(|item| self.stored_at(&item.delivery, &item.event)).max()?;
        let age = self.route.parts.clock.now().duration_since(youngest).unsigned_abs();
        (age > limit && self.route.parts.clock.now() > youngest).then(|| format!("stored {} s ago, `max_age_s` is {}", age.as_secs(), limit.as_secs()))
    }

    /// When the event was stored, as far as that can be known. A transport that cannot tell says when it first handed the event out;
    /// the event's own time is believed where that makes it older, and only so far as an event may lie in a queue: a producer whose
    /// clock stands at the epoch must not have all its events thrown away.
    fn stored_at(&self, delivery: &Delivery, event: &Envelope) -> jiff::Timestamp {
        let told = delivery.stored_at;
        if self.route.parts.transport.features().exact_times {
            return told;
        }
        let plausible = |time: &jiff::Timestamp| told.duration_since(*time).as_hours() < PLAUSIBLE_AGE_HOURS;
        event.time().filter(plausible).map_or(told, |time| time.min(told))
    }

    /// Takes out of the batch what the route has already done. `Ok(false)` when the session is over.
    async fn settle_duplicates(&self, batch: &mut Batch<Item>) -> Result<bool, String> {
        let parts = &self.route.parts;
        // A batch that failed before was asked then. A shadow route does nothing, so it has done nothing.
        if self.route.config.mode == RouteMode::Shadow || batch.failed > 0 {
            return Ok(true);
        }
        let now = parts.clock.now();
        // Asked of all before one is taken out: if the store fails in between, all stay in the batch.
        let mut known = Vec::with_capacity(batch.items.len());
        for item in &batch.items {
            known.push(match &item.dedup {
                Some(key) => parts.store.inbox_contains(&self.route.config.name, key, now).await.map_err(|error| error.to_string())?,
                None => false,
            });
        }
        if !known.contains(&true) {
            return Ok(true);
        }
        let mut done_before = Vec::new();
        let mut keys = Vec::new();
        for (item, is_known) in std::mem::take(&mut batch.items).into_iter().zip(known) {
            match item.dedup {
                Some(key) if is_known => {
                    keys.push(key);
                    done_before.push(item.delivery);
                }
                dedup => batch.items.push(Item { dedup, ..item }),
            }
        }
        for (delivery, key) in done_before.iter().zip(&keys) {
            self.tell(RouterEvent::Duplicate { route: self.name(), key: delivery.key.clone(), dedup_key: key.clone() });
        }
        let identities: Vec<String> = done_before.iter().map(|delivery| delivery.identity.clone()).collect();
        let fates = || keys.iter().map(|key| Fate::Duplicate { key: key.clone() }).collect();
        if !self.settle(done_before, || Settlement::Done { fates: fates(), inbox: Vec::new() }).await {
            return Ok(false);
        }
        self.forget_deliveries(&identities).await;
        Ok(true)
    }

    /// Does the batch belong to a burst that an operator dropped?
    fn is_dropped(&self, batch: &Batch<Item>) -> bool {
        batch.frozen.as_deref().is_some_and(|burst| self.route.memory.is_dropped(burst))
    }

    fn is_burst(&self, batch: &Batch<Item>) -> bool {
        self.route.config.coalesce.is_some() && !batch.items.iter().all(|item| item.delivery.direct)
    }

    async fn freeze(&self, lane: &LaneKey, batch: &mut Batch<Item>) -> Result<(), String> {
        if batch.frozen.is_some() {
            return Ok(());
        }
        let members: Vec<String> = batch.items.iter().map(|item| item.delivery.identity.clone()).collect();
        let mut hash = Sha256::new();
        for part in std::iter::once(self.route.config.name.as_str()).chain(members.iter().map(String::as_str)) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let id = hex(&hash.finalize()[..16]);
        let burst = FrozenBurst { id: id.clone(), lane: lane.to_string(), members };
        self.route.parts.store.freeze(&self.route.config.name, &burst).await.map_err(|error| error.to_string())?;
        batch.frozen = Some(id);
        Ok(())
    }

    /// Takes up what was noted of a batch that failed in hand before its session or the process ended. Returns when it may run,
    /// if that is later than now.
    fn recall(&self, identity: &str, batch: &mut Batch<Item>) -> Option<Duration> {
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

    /// Runs the handler, marked as running so that the death of the process is noticed, and alone if it is suspected of that.
    async fn attempt(&self, lane: &LaneKey, batch: &Batch<Item>, identity: &str, attempt: u32, crashes: u32, overtaking: &Overtaking) -> Ended {
        let route = &*self.route;
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
        let span = tracing::info_span!("handle", route = %route.config.name, key = key.as_ref().map(|key| key.as_str()), attempt, events = events.len());
        let _alone = route.solitude.enter(crashes).await;
        // That wait can be long: what drains or pauses begins nothing new.
        if self.cancellation.is_cancelled() || self.is_leaving() {
            return Ended::Cancelled;
        }
        if overtaking.cancellation.is_cancelled() {
            return Ended::Superseded;
        }
        let slot = route.parts.store.begin_running(&route.config.name, identity);
        let run = Run {
            route,
            events,
            lane: route.is_ordered().then(|| lane.to_string()),
            subject,
            attempt,
            suspect: crashes > 0,
            cancellation: &self.cancellation,
            overtaken: &overtaking.cancellation,
        };
        let ended = run.run().instrument(span).await;
        if let Some(slot) = slot {
            route.parts.store.end_running(slot);
        }
        ended
    }

    /// An attempt failed: asks the policy and does what it says.
    async fn failed(&self, lane: &LaneKey, mut batch: Batch<Item>, attempt: u32, mut failure: Failure) -> End {
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
            if let Err(error) = route.parts.store.note_attempts(&route.config.name, noted).await {
                self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
            if let (Some(log), Some(last)) = (&route.parts.fates, batch.history.last()) {
                log.held(&route.config.name, batch.items.iter().map(|item| &item.delivery), &last.error, batch.failed, delay);
            }
            self.tell(failed);
            return End::Hold { batch, until: clock.monotonic() + delay, answered: true };
        }

        let deliveries = batch.items.into_iter().map(|item| item.delivery).collect();
        let retry = || Settlement::RetryIn { delay, failure: record.clone() };
        if !self.settle(deliveries, retry).await {
            return End::Released;
        }
        self.tell(failed);
        End::Settled { answered: true }
    }

    /// Buries a whole batch, parks its lane where the route says so.
    async fn give_up(&self, lane: &LaneKey, mut batch: Batch<Item>, reason: DeadLetterReason, failure: Failure, tried: bool) -> End {
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
        if parks && let Err(error) = route.memory.park(&*route.parts.store, &route.config.name, lane).await {
            // Burying the head first would let the lane overtake it.
            return self.hold_for_the_store(batch, error.to_string());
        }
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
    fn hold_for_the_store(&self, batch: Batch<Item>, error: String) -> End {
        self.tell(RouterEvent::StoreTrouble { error });
        End::Hold { batch, until: self.route.parts.clock.monotonic() + RECORD_AGAIN_MAX, answered: false }
    }

    // ── publish and settle ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Publishes what the handler emitted. `Ok(false)` when the session ended meanwhile; an error when the transport refuses
    /// for good.
    async fn publish_emits(&self, batch: &Batch<Item>, emits: Vec<Emit>) -> Result<bool, String> {
        let handled = batch.items.iter().map(|item| (&item.delivery, &*item.event));
        let hops = Hops::of(&self.route.config.name, handled, &emits, self.route.parts.clock.now());
        let traceparent = batch.items.last().and_then(|item| item.delivery.traceparent.clone());
        for mut emit in emits {
            let hops = hops.mark(&mut emit);
            let to = match emit.after {
                Some(delay) => Destination::Route { route: self.name(), delay },
                None => Destination::Subscribers,
            };
            // What is emitted is stored like what comes in at the door, so it is redacted like that.
            let mut body = Bytes::from(emit.body.to_string());
            let mut redactions = 0;
            if let Some(redactor) = self.route.parts.redactor() {
                let redacted = redactor.redact(&body);
                (body, redactions) = (redacted.body, redacted.count);
            }
            let publication = Publication { to, key: emit.key.clone(), body, hops, traceparent: traceparent.clone(), redactions };
            let mut wait = RECORD_AGAIN_FIRST;
            loop {
                match self.route.parts.transport.publish(publication.clone()).await {
                    Ok(_) => break,
                    Err(error @ (TransportError::Refused(_) | TransportError::Unsupported(_))) => return Err(format!("emit of `{}`: {error}", emit.key)),
                    Err(error) => self.tell(RouterEvent::SettlementDelayed { route: self.name(), error: format!("emit of `{}`: {error}", emit.key) }),
                }
                if self.cancelled_within(wait).await {
                    return Ok(false);
                }
                wait = (wait * 2).min(RECORD_AGAIN_MAX);
            }
            self.tell(RouterEvent::Emitted { route: self.name(), key: emit.key, id: emit.id.to_string() });
        }
        Ok(true)
    }

    /// Settles handled items as done. False when the session is over.
    async fn finish(&self, items: Vec<Item>, fate: &Fate) -> bool {
        let config = &self.route.config;
        // A shadow route has done nothing, so it remembers nothing: promoted to live, it must not skip.
        let expires_at = config.dedup.as_ref().filter(|_| config.mode == RouteMode::Live).map(|dedup| {
            let window = jiff::SignedDuration::try_from(dedup.window).unwrap_or(jiff::SignedDuration::MAX);
            self.route.parts.clock.now().checked_add(window).unwrap_or(jiff::Timestamp::MAX)
        });
        let done = |item: &Item| item.dedup.clone().zip(expires_at).map(|(key, expires_at)| InboxKey { key, expires_at });
        let inbox: Vec<Option<InboxKey>> = items.iter().map(done).collect();
        let fates = vec![fate.clone(); items.len()];
        if !self.route.parts.transport.features().inbox_in_settlement {
            let keys: Vec<_> = inbox.iter().flatten().cloned().collect();
            // Written before the ack, never a condition of it: a failure is told, and at worst the event is handled twice.
            if !keys.is_empty()
                && let Err(error) = self.route.parts.store.inbox_insert(&config.name, keys).await
            {
                self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
        }
        let deliveries = items.into_iter().map(|item| item.delivery).collect();
        self.settle(deliveries, || Settlement::Done { fates: fates.clone(), inbox: inbox.clone() }).await
    }

    /// Buries deliveries, each with the same reason. False when the session is over.
    async fn bury(
        &self,
        deliveries: Vec<(Delivery, Option<Arc<Envelope>>)>,
        reason: DeadLetterReason,
        failure: &Failure,
        history: Vec<AttemptRecord>,
        attempts: u32,
        burst: Option<String>,
    ) -> bool {
        let (key, event_id) = match deliveries.last() {
            Some((delivery, event)) => (delivery.key.clone(), event.as_ref().and_then(|event| event.id().map(ToString::to_string))),
            None => return true,
        };
        let events = deliveries.len();
        let letter = DeadLetter {
            route: self.name(),
            plugin: self.route.config.handler.clone(),
            reason,
            error: failure.error.clone(),
            detail: failure.detail.clone(),
            attempts,
            history,
            buried_at: self.route.parts.clock.now(),
            config_hash: self.route.config_hash.clone(),
            burst,
            traceparent: deliveries.last().and_then(|(delivery, _)| delivery.traceparent.clone()),
        };
        let deliveries = deliveries.into_iter().map(|(delivery, _)| delivery).collect();
        if !self.settle(deliveries, || Settlement::Bury(Box::new(letter.clone()))).await {
            return false;
        }
        self.tell(RouterEvent::Buried { route: self.name(), key, event_id, events, reason, error: failure.error.clone(), attempts });
        true
    }

    /// Settles, and goes on trying while the session lives: what was done must be recorded. False when the session is over.
    async fn settle(&self, mut deliveries: Vec<Delivery>, settlement: impl Fn() -> Settlement) -> bool {
        let mut wait = RECORD_AGAIN_FIRST;
        let fates = self.route.parts.fates.as_ref().map(|log| (log, log.of(&self.route.config.name, &deliveries, &settlement())));
        loop {
            match self.consumer.settle(deliveries, settlement()).await {
                Ok(()) => {
                    if let Some((log, records)) = fates {
                        log.note(records);
                    }
                    return true;
                }
                Err((SettleError::SessionOver, _)) => return false,
                Err((error @ SettleError::NotRecorded(_), back)) => {
                    deliveries = back;
                    self.tell(RouterEvent::SettlementDelayed { route: self.name(), error: error.to_string() });
                }
            }
            if self.cancelled_within(wait).await {
                return false;
            }
            wait = (wait * 2).min(RECORD_AGAIN_MAX);
        }
    }

    async fn cancelled_within(&self, wait: Duration) -> bool {
        tokio::select! {
            () = self.route.parts.clock.sleep(wait) => false,
            () = self.cancellation.cancelled() => true,
        }
    }

    /// Finishes a batch that nobody wants handled any more, as skipped. False when the session is over.
    async fn leave_unhandled(&self, mut batch: Batch<Item>, reason: String) -> bool {
        let Some(newest) = batch.items.last().map(|item| Arc::clone(&item.event)) else { return true };
        let (identity, events, fate) = (identity(&batch), batch.items.len(), Fate::Skipped { reason });
        if self.route.config.ledger {
            self.forget_unrecognised(&batch).await;
        }
        if !self.finish(std::mem::take(&mut batch.items), &fate).await {
            return false;
        }
        batch.wrote = batch.frozen.is_some() && self.route.config.ledger;
        self.forget(&batch, &identity).await;
        self.tell(RouterEvent::Finished { route: self.name(), event: newest, attempt: 0, events, fate, effects: Vec::new(), elapsed: Duration::ZERO });
        true
    }

    /// What no inbox recognises leaves the ledger before it is settled: a broker may hand out another event just like it, which is to be
    /// handled, and to do a thing twice is better than not at all.
    async fn forget_unrecognised(&self, batch: &Batch<Item>) {
        if let (None, [Item { dedup: None, delivery, .. }]) = (&batch.frozen, batch.items.as_slice())
            && let Err(error) = self.route.parts.store.ledger_clear(&self.route.config.name, &LedgerKey::of_delivery(&delivery.identity)).await
        {
            self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
        }
    }

    /// Forgets what was kept for a batch that is settled.
    async fn forget(&self, batch: &Batch<Item>, identity: &str) {
        let (store, name, memory) = (&*self.route.parts.store, &self.route.config.name, &self.route.memory);
        let forgotten = match &batch.frozen {
            Some(burst) => {
                // Single events leave the ledger with the commit that remembers them as done.
                if batch.wrote
                    && let Err(error) = store.ledger_clear(name, &LedgerKey::of_burst(burst)).await
                {
                    self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
                }
                memory.forget_burst(store, name, burst).await
            }
            None => memory.forget(store, name, identity).await,
        };
        if let Err(error) = forgotten {
            self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
        }
    }

    /// Forgets what was kept for deliveries that are settled, each by itself.
    async fn forget_deliveries(&self, identities: &[String]) {
        for identity in identities {
            if let Err(error) = self.route.memory.forget(&*self.route.parts.store, &self.route.config.name, identity).await {
                self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
        }
    }

    fn burst_note(&self, batch: &Batch<Item>) -> Option<BurstNote> {
        let id = batch.frozen.clone()?;
        Some(BurstNote { id, events: u32::try_from(batch.items.len()).unwrap_or(u32::MAX) })
    }

    fn record(&self, number: u32, failure: &Failure) -> AttemptRecord {
        let mut error = failure.error.clone();
        if error.len() > AttemptRecord::ERROR_BYTES_MAX {
            let cut = (0..=AttemptRecord::ERROR_BYTES_MAX).rev().find(|at| error.is_char_boundary(*at)).unwrap_or(0);
            error.truncate(cut);
        }
        AttemptRecord { number, at: self.route.parts.clock.now(), class: failure.class, error }
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

/// An attempt under way. Tells its end when it is dropped, so that one that panics or is aborted does not count as running for ever.
struct Running<'a> {
    worker: &'a Worker,
    events: usize,
    started: Duration,
}

impl Running<'_> {
    fn elapsed(&self) -> Duration {
        self.worker.route.parts.clock.monotonic().saturating_sub(self.started)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.worker.tell(RouterEvent::AttemptEnded { route: self.worker.name(), events: self.events, elapsed: self.elapsed() });
    }
}

/// The name under which attempts, crashes and notes of a batch are kept.
fn identity(batch: &Batch<Item>) -> String {
    match (&batch.frozen, batch.items.first()) {
        (Some(burst), _) => burst_identity(burst),
        (None, Some(item)) => item.delivery.identity.clone(),
        (None, None) => String::new(),
    }
}

/// Why the events of a burst are given up on that an operator dropped.
fn dropped(last: Option<&str>) -> String {
    let last = last.map(|error| format!("; its last attempt: {error}")).unwrap_or_default();
    format!("an operator dropped its burst (`routes drop-burst`){last}")
}

/// What becomes of an event in shadow that a live route would give up on.
fn shadow_fate(reason: DeadLetterReason, error: &str) -> Fate {
    Fate::Shadowed { effects: vec![format!("would fail: {reason}: {error}")] }
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
