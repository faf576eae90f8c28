//! `when_busy`: what becomes of an event that comes for a lane which has not finished with an earlier one, and of the earlier one.
//!
//! Only events from outside count: what an operator put back, or the route sent itself, waits for its turn and overtakes nothing. So does
//! a repetition of what runs or waits, since it is a duplicate as soon as that is done, and one of what is done: if it overtook something,
//! neither of the two would be handled. So the inbox is asked first; until it answers, the event waits for its turn like any other.

use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use router_api::{Canceller, RouteMode};

use super::{
    RouteLoop, Session,
    ending::{Ended, Part},
};
use crate::{
    config::WhenBusy,
    lanes::{Batch, LaneKey},
    worker::{Aside, Item, Overtaking},
};

/// Who wants to overtake what is before it in its lane.
pub(super) struct Newcomer {
    lane: LaneKey,
    /// Of its delivery.
    identity: String,
    /// Why the others are not handled.
    reason: String,
}

/// A handling that runs in a lane, as far as `when_busy` needs to know it.
pub(super) struct InLane {
    canceller: Canceller,
    by: Arc<OnceLock<String>>,
    dedups: Vec<String>,
    /// Of its deliveries: after a lost session what still runs comes again, by itself and without a dedup key to tell it by.
    identities: Vec<String>,
    is_direct: bool,
}

impl RouteLoop<'_> {
    /// Does the route let events of one lane come while another one is handled, so that it must see them at once?
    pub(super) fn looks_at_busy_lanes(&self) -> bool {
        self.route.config.when_busy != WhenBusy::Queue && self.route.is_ordered()
    }

    /// Notes what is about to run.
    pub(super) fn begins(&mut self, lane: &LaneKey, batch: &Batch<Item>) -> Overtaking {
        if !self.looks_at_busy_lanes() {
            return self.never.clone();
        }
        let (canceller, cancellation) = Canceller::new();
        let by = Arc::<OnceLock<String>>::default();
        let dedups = batch.items.iter().filter_map(|item| item.dedup.clone()).collect();
        let identities = batch.items.iter().map(|item| item.delivery.identity.clone()).collect();
        let is_direct = batch.items.iter().any(|item| item.delivery.direct);
        self.in_lanes.insert(Arc::clone(lane), InLane { canceller, by: Arc::clone(&by), dedups, identities, is_direct });
        Overtaking { cancellation, by }
    }

    /// A handling has ended. Returns by what it was overtaken, if it was.
    pub(super) fn ends(&mut self, lane: &LaneKey) -> Option<String> {
        if self.in_lanes.is_empty() {
            return None;
        }
        self.in_lanes.remove(lane).and_then(|in_lane| in_lane.by.get().cloned())
    }

    /// Decides about an event that comes for a lane: it goes on to the lane if it comes back.
    pub(super) fn meets_busy_lane(&mut self, lane: &LaneKey, item: Item, session: &mut Session) -> Option<Item> {
        let is_usual = !self.looks_at_busy_lanes()
            || item.delivery.direct
            || !self.lanes.is_busy(lane)
            || self.lanes.waits_for(lane, &item.delivery.identity)
            || self.is_repetition(lane, &item);
        if is_usual {
            return Some(item);
        }
        if self.route.config.when_busy == WhenBusy::Skip {
            self.puts_aside(Batch::of(item), "busy with an earlier event".to_owned(), session);
            return None;
        }
        let newer = item.event.id().map_or(item.delivery.identity.as_str(), |id| id.as_str());
        let newcomer = Newcomer { lane: Arc::clone(lane), identity: item.delivery.identity.clone(), reason: superseded(newer) };
        if let Some(newcomer) = self.unless_done(&item, newcomer) {
            self.overtakes(&newcomer, false, session);
        }
        Some(item)
    }

    /// Asks whether an event is done already. It comes back if it is not; if that takes longer than a moment, its answer is a part of its own.
    fn unless_done(&mut self, item: &Item, newcomer: Newcomer) -> Option<Newcomer> {
        let route = Arc::clone(&self.route);
        // A shadow route does nothing, so it has done nothing.
        let Some(key) = item.dedup.clone().filter(|_| route.config.mode == RouteMode::Live) else { return Some(newcomer) };
        if route.memory.knows_done(&key) {
            return None;
        }
        let epoch = self.epoch;
        let mut asking = Box::pin(async move {
            let now = route.parts.clock.now();
            // Where nobody can tell, it waits for its turn.
            route.parts.store.inbox_contains(&route.config.name, &key, now).await.unwrap_or(true)
        });
        match asking.as_mut().now_or_never() {
            Some(is_done) => (!is_done).then_some(newcomer),
            None => {
                let asked = async move {
                    let newcomer = (!asking.await).then_some(newcomer);
                    Some(Ended { epoch, deliveries: 0, part: Part::Asked(newcomer) })
                };
                self.running.push(Box::pin(asked));
                None
            }
        }
    }

    /// What is before a newcomer is not wanted any more. One that `waits` in its lane overtakes nothing once its turn has come, or something
    /// newer has overtaken it.
    pub(super) fn overtakes(&mut self, newcomer: &Newcomer, waits: bool, session: &mut Session) {
        let Newcomer { lane, identity, reason } = newcomer;
        if waits && !self.lanes.pending(lane).any(|item| item.delivery.identity == *identity) {
            return;
        }
        for batch in self.lanes.overtake(lane, |item| item.delivery.direct, |item| waits && item.delivery.identity == *identity) {
            self.puts_aside(batch, reason.clone(), session);
        }
        if let Some(in_lane) = self.in_lanes.get(lane).filter(|in_lane| !in_lane.is_direct) {
            // The first that is newer counts; more of them change nothing.
            let _ = in_lane.by.set(reason.clone());
            in_lane.canceller.cancel();
        }
    }

    /// A batch is finished unhandled.
    pub(super) fn puts_aside(&mut self, batch: Batch<Item>, reason: String, session: &mut Session) {
        self.set_aside.extend(batch.items.iter().filter_map(|item| item.dedup.clone()));
        session.asides.push(Aside::Unhandled(Box::new(batch), reason));
    }

    fn is_repetition(&self, lane: &LaneKey, item: &Item) -> bool {
        if self.in_lanes.get(lane).is_some_and(|in_lane| in_lane.identities.contains(&item.delivery.identity)) {
            return true;
        }
        let Some(dedup) = &item.dedup else { return false };
        let runs = self.in_lanes.get(lane).is_some_and(|in_lane| in_lane.dedups.contains(dedup));
        runs || self.set_aside.contains(dedup) || self.lanes.pending(lane).any(|other| other.dedup.as_ref() == Some(dedup))
    }
}

fn superseded(by: &str) -> String {
    format!("superseded by a newer event of its lane, `{by}`")
}
