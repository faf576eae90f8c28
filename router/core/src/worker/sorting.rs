//! decode → filter → lane: the first steps of every delivery.

use std::sync::Arc;

use router_api::{DeadLetterReason, Delivery, Envelope, Matcher};

use super::{Aside, Worker};
use crate::lanes::{Batch, LaneKey};

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
    Lane { key: LaneKey, item: Item, alone: bool },
    /// It needs no handling.
    Aside(Aside),
}

/// An event that says it is older than this is taken to have a wrong clock.
const PLAUSIBLE_AGE_HOURS: i64 = 366 * 24;

impl Worker {
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
        let lane = self.route.matcher.lane_of(&event);
        // An unordered event's lane is its own identity, so that a repetition waits for the first one and then finds it done.
        let key: LaneKey = match (&lane, &dedup) {
            (Some(lane), _) => lane.as_ref().into(),
            (None, Some(dedup)) => format!("={dedup}").into(),
            (None, None) => format!("#{}", delivery.identity).into(),
        };
        let alone = delivery.direct || lane.is_none();
        Sorted::Lane { key, item: Item { delivery, event: Arc::new(event), dedup }, alone }
    }

    /// When the event was stored, as far as that can be known. A transport that cannot tell says when it first handed the event out;
    /// the event's own time is believed where that makes it older, and only so far as an event may lie in a queue: a producer whose
    /// clock stands at the epoch must not have all its events thrown away.
    pub(super) fn stored_at(&self, delivery: &Delivery, event: &Envelope) -> jiff::Timestamp {
        let told = delivery.stored_at;
        if self.route.parts.transport.features().exact_times {
            return told;
        }
        let plausible = |time: &jiff::Timestamp| told.duration_since(*time).as_hours() < PLAUSIBLE_AGE_HOURS;
        event.time().filter(plausible).map_or(told, |time| time.min(told))
    }

    pub(super) fn too_old(&self, batch: &Batch<Item>) -> Option<String> {
        let limit = self.route.config.max_age?;
        let youngest = batch.items.iter().map(|item| self.stored_at(&item.delivery, &item.event)).max()?;
        let age = self.route.parts.clock.now().duration_since(youngest).unsigned_abs();
        (age > limit && self.route.parts.clock.now() > youngest).then(|| format!("stored {} s ago, `max_age_s` is {}", age.as_secs(), limit.as_secs()))
    }
}
