//! The end of every delivery: the only place of the router that settles one.

use std::{sync::Arc, time::Duration};

use router_api::{
    AttemptRecord, BoxFuture, DeadLetter, DeadLetterReason, Delivery, Envelope, Fate, InboxKey, LedgerKey, RouteMode, SettleError, Settlement,
    failpoint::{self, Failpoint},
};

use super::{Item, Worker, behind::remember_beside};
use crate::{lanes::Batch, observe::RouterEvent, policy::Failure};

/// Settlements that could not be recorded, and batches that could not be frozen, are tried again after this long, doubling.
pub(super) const RECORD_AGAIN_FIRST: Duration = Duration::from_millis(100);
/// … up to this.
pub(super) const RECORD_AGAIN_MAX: Duration = Duration::from_secs(5);

/// Handled items, as they are settled.
pub(super) struct Handled {
    pub deliveries: Vec<Delivery>,
    /// For a transport that keeps the inbox itself.
    pub(super) inbox: Vec<Option<InboxKey>>,
}

impl Worker {
    /// Settles as done what was not handled. False when the session is over. Remembered only then: nothing has been done that must not be
    /// done twice, and what comes back unsettled is no repetition of itself.
    pub(super) async fn finish(&self, items: Vec<Item>, fate: &Fate) -> bool {
        let (unhandled, remembering) = self.remember(items);
        if !self.settle_handled(unhandled, fate).await {
            return false;
        }
        if let Some(remembering) = remembering {
            remembering.await;
        }
        true
    }

    /// Takes handled items apart: what is to be settled, and, where the transport does not remember what is done, how it is remembered. That
    /// comes before the settlement and is never a condition of it: a failure is told, and at worst an event is handled twice.
    pub(super) fn remember(&self, items: Vec<Item>) -> (Handled, Option<BoxFuture<'static, ()>>) {
        let config = &self.route.config;
        // A shadow route has done nothing, so it remembers nothing: promoted to live, it must not skip.
        let expires_at = config.dedup.as_ref().filter(|_| config.mode == RouteMode::Live).map(|dedup| {
            let window = jiff::SignedDuration::try_from(dedup.window).unwrap_or(jiff::SignedDuration::MAX);
            self.route.parts.clock.now().checked_add(window).unwrap_or(jiff::Timestamp::MAX)
        });
        let in_settlement = self.route.parts.transport.features().inbox_in_settlement;
        let mut handled = Handled { deliveries: Vec::with_capacity(items.len()), inbox: Vec::new() };
        let mut beside = Vec::with_capacity(if in_settlement { 0 } else { items.len() });
        for item in items {
            let inbox = item.dedup.zip(expires_at).map(|(key, expires_at)| InboxKey { key, expires_at });
            if in_settlement {
                handled.inbox.push(inbox);
            } else {
                beside.extend(inbox);
            }
            handled.deliveries.push(item.delivery);
        }
        let remembering = (!beside.is_empty()).then(|| Box::pin(remember_beside(Arc::clone(&self.route), beside)) as BoxFuture<'static, ()>);
        (handled, remembering)
    }

    /// False when the session is over.
    pub(super) async fn settle_handled(&self, handled: Handled, fate: &Fate) -> bool {
        let Handled { deliveries, inbox } = handled;
        let events = deliveries.len();
        self.settled(deliveries, || Settlement::Done { fates: vec![fate.clone(); events], inbox: inbox.clone() }).await
    }

    /// Buries deliveries, each with the same reason. False when the session is over.
    pub(super) async fn bury(
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
        if !self.settled(deliveries, || Settlement::Bury(Box::new(letter.clone()))).await {
            return false;
        }
        self.tell(RouterEvent::Buried { route: self.name(), key, event_id, events, reason, error: failure.error.clone(), attempts });
        true
    }

    /// Settles, and goes on trying while the session lives: what was done must be recorded. False when the session is over.
    pub(super) async fn settled(&self, mut deliveries: Vec<Delivery>, settlement: impl Fn() -> Settlement) -> bool {
        let mut wait = RECORD_AGAIN_FIRST;
        let fates = self.route.parts.fates.as_ref().map(|log| (log, log.of(&self.route.config.name, &deliveries, &settlement())));
        loop {
            let settling = settlement();
            let (before, after) = moments(&settling);
            failpoint::pass(before);
            match self.consumer.settle(deliveries, settling).await {
                Ok(()) => {
                    failpoint::pass(after);
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

    pub(super) async fn cancelled_within(&self, wait: Duration) -> bool {
        tokio::select! {
            // Who is to stop tries no more.
            biased;
            () = self.cancellation.cancelled() => true,
            () = self.route.parts.clock.sleep(wait) => false,
        }
    }

    /// What no inbox recognises leaves the ledger before it is settled: a broker may hand out another event just like it, which is to be
    /// handled, and to do a thing twice is better than not at all.
    pub(super) async fn forget_unrecognised(&self, batch: &Batch<Item>) {
        if let (None, [Item { dedup: None, delivery, .. }]) = (&batch.frozen, batch.items.as_slice()) {
            failpoint::pass(Failpoint::ClearBefore);
            if let Err(error) = self.route.parts.store.ledger_clear(&self.route.config.name, &LedgerKey::of_delivery(&delivery.identity)).await {
                self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
            failpoint::pass(Failpoint::ClearAfter);
        }
    }

    /// Forgets what was kept for a batch that is settled.
    pub(super) async fn forget(&self, batch: &Batch<Item>, identity: &str) {
        let (store, name, memory) = (&*self.route.parts.store, &self.route.config.name, &self.route.memory);
        failpoint::pass(Failpoint::ForgetBefore);
        let forgotten = match &batch.frozen {
            Some(burst) => {
                // Single events leave the ledger with the commit that remembers them as done.
                if batch.wrote
                    && let Err(error) = store.ledger_clear(name, &LedgerKey::of_burst(burst)).await
                {
                    self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
                }
                failpoint::pass(Failpoint::ForgetHalf);
                memory.forget_burst(store, name, burst).await
            }
            None => memory.forget(store, name, identity).await,
        };
        failpoint::pass(Failpoint::ForgetAfter);
        if let Err(error) = forgotten {
            self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
        }
    }

    /// Forgets what was kept for deliveries that are settled, each by itself.
    pub(super) async fn forget_deliveries(&self, identities: &[String]) {
        for identity in identities {
            failpoint::pass(Failpoint::ForgetEachBefore);
            if let Err(error) = self.route.memory.forget(&*self.route.parts.store, &self.route.config.name, identity).await {
                self.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
            failpoint::pass(Failpoint::ForgetEachAfter);
        }
    }
}

/// Where a test may end the process: before this settlement, and after it.
fn moments(settlement: &Settlement) -> (Failpoint, Failpoint) {
    match settlement {
        Settlement::Done { .. } => (Failpoint::DoneBefore, Failpoint::DoneAfter),
        Settlement::RetryIn { .. } => (Failpoint::RetryBefore, Failpoint::RetryAfter),
        Settlement::Bury(_) => (Failpoint::BuryBefore, Failpoint::BuryAfter),
    }
}
