//! What needs no handling: filtered, undecodable, refused by a rule of the route, or not wanted any more.

use std::{sync::Arc, time::Duration};

use router_api::{AttemptRecord, DeadLetterReason, Delivery, FailureClass, Fate, RouteMode, Settlement};

use super::{Item, Worker, bursts::identity, failures::shadow_fate};
use crate::{lanes::Batch, observe::RouterEvent, policy::Failure};

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

    /// The dedup keys of what could have been handled.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let items = match self {
            Self::Filtered(_) | Self::Bury(..) => &[],
            Self::Unhandled(batch, _) => batch.items.as_slice(),
        };
        items.iter().filter_map(|item| item.dedup.as_deref())
    }
}

impl Worker {
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
                    if self.settled(vec![delivery], || Settlement::Done { fates: vec![fate.clone()], inbox: Vec::new() }).await {
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
            if self.settled(filtered, || Settlement::Done { fates: fates.clone(), inbox: Vec::new() }).await {
                self.forget_deliveries(&identities).await;
            }
        }
    }

    /// Finishes a batch that nobody wants handled any more, as skipped. False when the session is over.
    pub(super) async fn leave_unhandled(&self, mut batch: Batch<Item>, reason: String) -> bool {
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
}
