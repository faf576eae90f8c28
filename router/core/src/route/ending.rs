//! What ends, and what that means for its lane, its session and the breaker.

use std::{sync::Arc, time::Duration};

use router_api::{BreakerState, RouteState};

use super::{
    RouteLoop,
    session::{Session, SessionEnd},
};
use crate::{
    lanes::LaneKey,
    observe::RouterEvent,
    worker::{Aside, End, Worker},
};

/// What one of `running` ends with; nothing where the router itself panicked.
pub(super) struct Ended {
    pub(super) epoch: u64,
    /// Deliveries that it had.
    pub(super) deliveries: usize,
    pub(super) handling: Option<(LaneKey, End)>,
}

impl RouteLoop<'_> {
    /// One of `running` is over.
    pub(super) fn take_back(&mut self, ended: Option<Ended>, worker: &Worker, session: &mut Session) {
        let Some(ended) = ended else {
            session.leave(SessionEnd::broken());
            return;
        };
        let current = ended.epoch == self.epoch;
        let Some((lane, end)) = ended.handling else {
            if current {
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries);
            }
            return;
        };
        self.handlings -= 1;
        let overtaken = self.ends(&lane);
        let answered = match end {
            End::Hold { batch, answered, .. } if current && let Some(reason) = overtaken => {
                // Its next attempt is not wanted any more.
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries.saturating_sub(batch.items.len()));
                session.asides.push(Aside::Unhandled(Box::new(batch), reason));
                self.lanes.finished(&lane);
                answered
            }
            End::Hold { batch, until, answered } if current => {
                // Those that were duplicates left the batch, and our hands.
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries.saturating_sub(batch.items.len()));
                self.lanes.hold(&lane, batch, until);
                if !self.looks_at_busy_lanes() && session.held_lanes.insert(Arc::clone(&lane)) {
                    worker.consumer.hold_lane(&lane);
                }
                answered
            }
            End::Settled { answered } => {
                self.lanes.finished(&lane);
                if current {
                    session.in_hand = session.in_hand.saturating_sub(ended.deliveries);
                    if self.lanes.pending_of(&lane) * 2 <= self.backlog_max() && session.held_lanes.remove(&lane) {
                        worker.consumer.free_lane(&lane);
                    }
                }
                answered
            }
            End::Pause { delay, error } => {
                self.lanes.finished(&lane);
                if current {
                    session.leave(SessionEnd::Paused { delay, error });
                }
                false
            }
            End::Broken => {
                self.lanes.finished(&lane);
                session.leave(SessionEnd::broken());
                false
            }
            End::Hold { .. } | End::Released => {
                // On a session that goes on, nobody would ever settle what was released, and its lane would go on without it.
                if current && session.leaving.is_none() && !worker.is_leaving() {
                    session.leave(SessionEnd::Lost { error: "a handling was released".to_owned() });
                }
                self.cancelled += u32::from(self.force.listener().is_cancelled());
                self.lanes.finished(&lane);
                false
            }
        };
        if answered && self.breaker.close() {
            self.route.show(RouteState::Running, None);
            self.route.show_breaker(BreakerState::Closed);
            self.tell(RouterEvent::RouteResumed { route: self.route.config.name.clone() });
        }
    }

    /// Moves the lanes on; forgets frozen bursts whose members never came back. Returns what has ended meanwhile.
    pub(super) async fn give_up_frozen(&mut self, now: Duration) -> Vec<Option<Ended>> {
        let given_up = self.lanes.advance(now);
        if given_up.is_empty() {
            return Vec::new();
        }
        let route = Arc::clone(&self.route);
        let forgotten = async {
            for burst in given_up {
                if let Err(error) = route.memory.forget_burst(&*route.parts.store, &route.config.name, &burst).await {
                    route.parts.observers.tell(RouterEvent::StoreTrouble { error: error.to_string() });
                }
            }
        };
        self.running.during(forgotten).await.1
    }

    /// A handling of a session that is over has ended; its result counts for nothing.
    pub(super) fn forget_leftover(&mut self, ended: Option<Ended>) {
        if let Some(Ended { handling: Some((lane, _)), .. }) = ended {
            self.handlings -= 1;
            self.ends(&lane);
            self.lanes.finished(&lane);
        }
    }
}
