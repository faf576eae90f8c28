//! What ends, and what that means for its lane, its session and the breaker.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use router_api::{BreakerState, RouteState};

use super::{
    RouteLoop,
    busy::Newcomer,
    session::{Session, SessionEnd},
};
use crate::{
    lanes::LaneKey,
    observe::RouterEvent,
    worker::{Behind, End, Worker},
};

/// What one of `running` ends with; nothing where the router itself panicked.
pub(super) struct Ended {
    pub(super) epoch: u64,
    /// Deliveries that it had.
    pub(super) deliveries: usize,
    pub(super) part: Part,
}

/// Which part of a delivery's way it was.
pub(super) enum Part {
    /// In a lane, for a worker of its session.
    Handling(LaneKey, Arc<Worker>, End),
    /// Behind a handling. Not settled when its session is over; `None` when the router itself panicked.
    Behind { settled: Option<bool> },
    /// What needed no handling, with the keys of what could have been handled.
    Aside(Vec<String>),
    /// The inbox was asked about a newcomer of a busy lane, which is there if it may overtake.
    Asked(Option<Newcomer>),
}

impl RouteLoop<'_> {
    /// One of `running` is over.
    pub(super) fn take_back(&mut self, ended: Option<Ended>, worker: &Worker, session: &mut Session) {
        let Some(ended) = ended else {
            session.leave(SessionEnd::broken());
            return;
        };
        session.since_others += 1;
        let current = ended.epoch == self.epoch;
        let (lane, of, end) = match ended.part {
            Part::Handling(lane, of, end) => (lane, of, end),
            Part::Behind { settled } => {
                self.behind = self.behind.saturating_sub(ended.deliveries);
                if current {
                    session.in_hand = session.in_hand.saturating_sub(ended.deliveries);
                    match settled {
                        Some(true) => {}
                        Some(false) => session.lose_what_was_released(worker),
                        None => session.leave(SessionEnd::broken()),
                    }
                }
                return;
            }
            Part::Aside(keys) => {
                if current {
                    session.in_hand = session.in_hand.saturating_sub(ended.deliveries);
                    self.is_set_aside(&keys);
                }
                return;
            }
            Part::Asked(newcomer) => {
                if let Some(newcomer) = newcomer.filter(|_| current) {
                    self.overtakes(&newcomer, true, session);
                }
                return;
            }
        };
        self.handlings -= 1;
        let overtaken = self.ends(&lane);
        let answered = match end {
            End::Hold { batch, answered, .. } if current && let Some(reason) = overtaken => {
                // Its next attempt is not wanted any more.
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries.saturating_sub(batch.items.len()));
                self.puts_aside(batch, reason, session);
                self.lanes.finished(&lane);
                answered
            }
            End::Hold { batch, until, answered } if current => {
                // Those that were duplicates left the batch, and our hands.
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries.saturating_sub(batch.items.len()));
                // Dropped by an operator while its failure was noted, when it did not wait yet.
                let is_dropped = answered && batch.frozen.as_deref().is_some_and(|burst| self.route.memory.is_dropped(burst));
                self.lanes.hold(&lane, batch, if is_dropped { Duration::ZERO } else { until });
                if !self.looks_at_busy_lanes() && session.held_lanes.insert(Arc::clone(&lane)) {
                    worker.consumer.hold_lane(&lane);
                }
                answered
            }
            End::Settled { answered } => {
                self.leaves_its_lane(&lane, ended.deliveries, worker, current.then_some(session));
                answered
            }
            End::Behind(behind) => {
                // Those that were duplicates left the batch, and our hands; the rest does so when it is settled.
                let gone = ended.deliveries.saturating_sub(behind.deliveries());
                self.go_on_behind(ended.epoch, of, *behind);
                self.leaves_its_lane(&lane, gone, worker, current.then_some(session));
                true
            }
            End::NotBegun { batch } if current && let Some(reason) = overtaken => {
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries.saturating_sub(batch.items.len()));
                self.puts_aside(batch, reason, session);
                self.lanes.finished(&lane);
                false
            }
            End::NotBegun { batch } if current => {
                session.in_hand = session.in_hand.saturating_sub(ended.deliveries.saturating_sub(batch.items.len()));
                self.lanes.put_back(&lane, batch);
                false
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
            End::NotBegun { .. } => {
                self.lanes.finished(&lane);
                false
            }
            End::Hold { .. } | End::Released => {
                if current {
                    session.lose_what_was_released(worker);
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

    /// What ran in it needs it no more; so many deliveries left our hands.
    fn leaves_its_lane(&mut self, lane: &LaneKey, deliveries: usize, worker: &Worker, session: Option<&mut Session>) {
        self.lanes.finished(lane);
        let Some(session) = session else { return };
        session.in_hand = session.in_hand.saturating_sub(deliveries);
        if !session.held_lanes.is_empty() && self.lanes.pending_of(lane) * 2 <= self.backlog_max() && session.held_lanes.remove(lane) {
            worker.consumer.free_lane(lane);
        }
    }

    /// Also for a session that is over: what is done is worth remembering.
    fn go_on_behind(&mut self, epoch: u64, worker: Arc<Worker>, behind: Behind) {
        let deliveries = behind.deliveries();
        self.behind += deliveries;
        self.running.push(Box::pin(async move {
            // Its end is told even of one that panicked: counted as behind for ever, a few of them would stop the route.
            let settled = AssertUnwindSafe(worker.end_behind(behind)).catch_unwind().await.ok();
            Some(Ended { epoch, deliveries, part: Part::Behind { settled } })
        }));
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

    /// Something of a session that is over has ended; its result counts for nothing.
    pub(super) fn forget_leftover(&mut self, ended: Option<Ended>) {
        match ended {
            Some(Ended { epoch, part: Part::Handling(lane, of, end), .. }) => {
                self.handlings -= 1;
                self.ends(&lane);
                self.lanes.finished(&lane);
                if let End::Behind(behind) = end {
                    self.go_on_behind(epoch, of, *behind);
                }
            }
            Some(Ended { deliveries, part: Part::Behind { .. }, .. }) => self.behind = self.behind.saturating_sub(deliveries),
            Some(Ended { part: Part::Aside(_) | Part::Asked(_), .. }) | None => {}
        }
    }
}
