//! `when_busy`: what becomes of an event that comes for a lane which has not finished with an earlier one, and of the earlier one.
//!
//! Only events from outside count: what an operator put back, or the route sent itself, waits for its turn and overtakes nothing. So does
//! a repetition of what runs or waits, since it is a duplicate as soon as that is done.

use std::sync::{Arc, OnceLock};

use router_api::Canceller;

use super::{RouteLoop, Session};
use crate::{
    config::WhenBusy,
    lanes::{Batch, LaneKey},
    worker::{Aside, Item, Overtaking},
};

/// A handling that runs in a lane, as far as `when_busy` needs to know it.
pub(super) struct InLane {
    canceller: Canceller,
    by: Arc<OnceLock<String>>,
    dedups: Vec<String>,
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
        let is_direct = batch.items.iter().any(|item| item.delivery.direct);
        self.in_lanes.insert(Arc::clone(lane), InLane { canceller, by: Arc::clone(&by), dedups, is_direct });
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
            session.asides.push(Aside::Unhandled(Box::new(Batch::of(item)), "busy with an earlier event".to_owned()));
            return None;
        }
        let newer = item.event.id().map_or(item.delivery.identity.as_str(), |id| id.as_str());
        let reason = superseded(newer);
        for batch in self.lanes.overtake(lane, |item| item.delivery.direct) {
            session.asides.push(Aside::Unhandled(Box::new(batch), reason.clone()));
        }
        if let Some(in_lane) = self.in_lanes.get(lane).filter(|in_lane| !in_lane.is_direct) {
            // The first that is newer counts; more of them change nothing.
            let _ = in_lane.by.set(reason);
            in_lane.canceller.cancel();
        }
        Some(item)
    }

    fn is_repetition(&self, lane: &LaneKey, item: &Item) -> bool {
        let Some(dedup) = &item.dedup else { return false };
        let runs = self.in_lanes.get(lane).is_some_and(|in_lane| in_lane.dedups.contains(dedup));
        runs || self.lanes.pending(lane).any(|other| other.dedup.as_ref() == Some(dedup))
    }
}

fn superseded(by: &str) -> String {
    format!("superseded by a newer event of its lane, `{by}`")
}
