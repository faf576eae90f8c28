//! What a route takes from its queue, and when it takes no more. It slows down before any of our limits could drop something.

use std::sync::Arc;

use router_api::{Delivery, RouteState, TransportError};

use super::{
    RECONNECT_FIRST, RECONNECT_MAX, RouteLoop,
    session::{Session, SessionEnd},
};
use crate::{
    observe::RouterEvent,
    worker::{Sorted, Worker},
};

/// Failures of the intake in a row after which the session is given up.
const INTAKE_FAILURES_MAX: u32 = 10;

impl RouteLoop<'_> {
    /// May another delivery be taken? Slows down before any of our limits could drop something.
    pub(super) fn has_room(&mut self, session: &mut Session) -> bool {
        let prefetch = usize::try_from(self.route.config.prefetch).unwrap_or(usize::MAX).max(1);
        let (held, by) = self.lanes.held();
        let held_up = held * 2 >= prefetch.max(2);
        if held_up != session.held_up {
            session.held_up = held_up;
            match by.filter(|_| held_up) {
                Some(lane) => {
                    self.route.show(RouteState::Running, Some(format!("held up by lane {lane}")));
                    self.tell(RouterEvent::RouteHeldUp { route: self.route.config.name.clone(), lane: lane.to_string() });
                }
                None => self.route.show(RouteState::Running, None),
            }
        }
        session.in_hand < prefetch && !held_up
    }

    /// What a look at the queue brought.
    pub(super) fn take_in(&mut self, next: Option<Result<Delivery, TransportError>>, worker: &Worker, session: &mut Session) {
        match next {
            Some(Ok(delivery)) => self.accept(worker, delivery, session),
            Some(Err(error)) => self.intake_failed(error.to_string(), session),
            None => session.leave(SessionEnd::Lost { error: TransportError::Unavailable("the consumer ended".to_owned()).to_string() }),
        }
    }

    pub(super) fn accept(&mut self, worker: &Worker, delivery: Delivery, session: &mut Session) {
        session.intake_failures = 0;
        self.tell(RouterEvent::Received { route: self.route.config.name.clone(), key: delivery.key.clone() });
        session.in_hand += 1;
        session.since_others += 1;
        match worker.sort(delivery) {
            Sorted::Aside(aside) => session.asides.push(aside),
            Sorted::Lane { key, item, alone } => {
                let Some(item) = self.meets_busy_lane(&key, item, session) else { return };
                if item.delivery.direct {
                    self.lanes.comes_alone(&key, &item.delivery.identity);
                }
                let now = self.route.parts.clock.monotonic();
                self.lanes.push(&key, item, alone, now, |item, member| item.delivery.identity == member);
                // A lane that floods the window would starve the others, where the transport can look past it. The missing
                // members of a frozen burst have to come, though.
                let floods = || self.lanes.pending_of(&key) >= self.backlog_max() && !self.lanes.is_reassembling(&key);
                if self.route.is_ordered() && !self.looks_at_busy_lanes() && floods() && session.held_lanes.insert(Arc::clone(&key)) {
                    worker.consumer.hold_lane(&key);
                }
            }
        }
    }

    /// The session lives, so what runs can still be settled: it goes on, and only the next look waits.
    pub(super) fn intake_failed(&self, error: String, session: &mut Session) {
        session.intake_failures += 1;
        if session.intake_failures > INTAKE_FAILURES_MAX {
            session.leave(SessionEnd::Lost { error });
            return;
        }
        let delay = RECONNECT_FIRST.saturating_mul(1 << session.intake_failures.min(16)).min(RECONNECT_MAX);
        session.takes_at = Some(self.route.parts.clock.monotonic() + delay);
        self.tell(RouterEvent::StoreTrouble { error: format!("route `{}` takes nothing for {} ms: {error}", self.route.config.name, delay.as_millis()) });
    }

    /// Deliveries of one lane in hand, beyond which nothing more of it is asked for.
    pub(super) fn backlog_max(&self) -> usize {
        let burst = self.route.config.coalesce.as_ref().map_or(0, |coalesce| coalesce.events_max);
        usize::try_from((self.route.config.prefetch / 8).max(burst).max(1)).unwrap_or(usize::MAX)
    }
}
