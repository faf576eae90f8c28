//! One session of a route: from the moment its queue is taken up until its consumer is closed. One loop in which everything that happens
//! to the route comes by.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::FutureExt;
use router_api::{BoxFuture, BreakerState, Consumer, RouteState};

use super::{RouteLoop, Wish, drain_ordered, leave_ordered};
use crate::{
    lanes::LaneKey,
    observe::RouterEvent,
    worker::{Aside, Worker},
};

/// Deliveries that are taken in one turn of the loop; then it looks at everything else again.
const AT_ONCE_MAX: usize = 64;

/// So many deliveries are taken, or taken back, before the other tasks of the runtime have their turn: where there is always one more, the
/// loop would never wait, and nobody else on its thread would go on.
const BEFORE_OTHERS_MAX: usize = 256;

/// Why a session ended.
pub(super) enum SessionEnd {
    Stopped,
    Paused {
        delay: Option<Duration>,
        error: String,
    },
    Lost {
        error: String,
    },
    /// Something was in hand for so long that the transport would have taken it back by force.
    Renewed,
}

impl SessionEnd {
    /// The session is given up so that its deliveries come back.
    pub(super) fn broken() -> Self {
        Self::Lost { error: "the worker panicked, which is a bug of the router; please report it".to_owned() }
    }
}

/// The state of one session.
pub(super) struct Session {
    /// Deliveries between `next` and their settlement.
    pub(super) in_hand: usize,
    /// To be settled without handling.
    pub(super) asides: Vec<Aside>,
    /// Lanes of which the transport is asked to hand out nothing more.
    pub(super) held_lanes: HashSet<LaneKey>,
    /// Looks for a delivery that failed, one after the other.
    pub(super) intake_failures: u32,
    /// The next look is not before this.
    pub(super) takes_at: Option<Duration>,
    /// Said so already.
    pub(super) held_up: bool,
    /// Nothing new starts.
    pub(super) leaving: Option<SessionEnd>,
    /// What runs longer is cancelled.
    pub(super) drain_by: Option<Duration>,
    /// Deliveries that came or went since the other tasks of the runtime had their turn.
    pub(super) since_others: usize,
}

impl Session {
    /// The first reason counts, except that a lost session overrides a pause.
    pub(super) fn leave(&mut self, end: SessionEnd) {
        if self.leaving.is_none() || matches!(end, SessionEnd::Lost { .. }) {
            self.leaving = Some(end);
        }
    }

    /// On a session that goes on, nobody would ever settle what was released, and its lane would go on without it.
    pub(super) fn lose_what_was_released(&mut self, worker: &Worker) {
        if self.leaving.is_none() && !worker.is_leaving() {
            self.leave(SessionEnd::Lost { error: "a handling was released".to_owned() });
        }
    }
}

impl RouteLoop<'_> {
    pub(super) async fn session(&mut self, consumer: Arc<dyn Consumer>) -> SessionEnd {
        let route = Arc::clone(&self.route);
        let clock = Arc::clone(&route.parts.clock);
        let worker = Arc::new(Worker {
            route: Arc::clone(&route),
            consumer: Arc::clone(&consumer),
            crew: Arc::clone(self.running.crew()),
            cancellation: self.force.listener(),
            leaving: false.into(),
        });
        route.show(RouteState::Running, None);
        route.show_breaker(if self.breaker.is_probing() { BreakerState::Probing } else { BreakerState::Closed });
        self.tell(RouterEvent::RouteStarted { route: route.config.name.clone() });

        let mut session = Session {
            in_hand: 0,
            asides: Vec::new(),
            held_lanes: HashSet::new(),
            held_up: false,
            intake_failures: 0,
            takes_at: None,
            leaving: None,
            drain_by: None,
            since_others: 0,
        };
        let (mut orders, mut drains) = (self.orders.clone(), self.orders.clone());
        // Kept over the turns of the loop: a look at the queue under way is not begun anew whenever a handling ends.
        let mut look: Option<BoxFuture<'_, _>> = None;
        let mut renewal = consumer.renewal_due();
        loop {
            // After a lost session nothing that runs can be settled: the next session need not wait for it.
            if matches!(session.leaving, Some(SessionEnd::Lost { .. })) {
                break;
            }
            if session.since_others >= BEFORE_OTHERS_MAX {
                session.since_others = 0;
                tokio::task::yield_now().await;
            }
            // Also out of a pause: what still runs then has no more time than in any other drain.
            if self.must_leave() && session.leaving.is_none() {
                session.leaving = Some(SessionEnd::Stopped);
                route.show(RouteState::Draining, None);
            }
            if self.is_draining() && session.drain_by.is_none() {
                session.leaving = Some(SessionEnd::Stopped);
                session.drain_by = Some(clock.monotonic() + route.config.drain);
                route.show(RouteState::Draining, None);
            }
            if session.leaving.is_some() {
                worker.leave();
            }
            // Not where its timer is heard of: while there is always one more delivery, that is never asked.
            let now = clock.monotonic();
            if session.drain_by.is_some_and(|by| by <= now) {
                session.drain_by = Some(Duration::MAX);
                self.force.cancel();
            }
            if session.leaving.is_none() && self.lanes.next_due().is_some_and(|due| due <= now) {
                for ended in self.give_up_frozen(now).await {
                    self.take_back(ended, &worker, &mut session);
                }
                continue;
            }
            self.close_a_burst_if_full(&session);
            let rate_wait = if session.leaving.is_none() && !worker.is_leaving() { self.start_what_may(&worker) } else { None };
            self.settle_asides(&worker, &mut session);
            if session.leaving.is_some() && !self.runs_of_this_epoch() {
                break;
            }
            session.takes_at = session.takes_at.filter(|at| *at > now);
            let may_take = session.leaving.is_none() && self.has_room(&mut session) && session.takes_at.is_none();
            self.show_bursts();
            let lanes_due = self.lanes.next_due().filter(|_| session.leaving.is_none());
            let wake_at = [lanes_due, rate_wait.map(|wait| now + wait), session.drain_by, session.takes_at];
            let wake: BoxFuture<'_, ()> = match wake_at.into_iter().flatten().min() {
                Some(at) => clock.sleep(at.saturating_sub(now)),
                None => Box::pin(std::future::pending()),
            };
            tokio::select! {
                biased;
                () = leave_ordered(&mut orders), if !self.must_leave() => {}
                // Out of a pause, the order to end.
                () = drain_ordered(&mut drains), if session.drain_by.is_none() => {}
                Some(wish) = self.wishes.recv() => match wish {
                    Wish::Flush => while self.lanes.close_oldest_open() {},
                    Wish::Drop => self.lanes.hurry(|burst| route.memory.is_dropped(burst)),
                    Wish::Probe => {}
                },
                Some(ended) = self.running.next(), if !self.running.is_empty() => {
                    self.take_back(ended, &worker, &mut session);
                    // What else has ended meanwhile costs no turn of its own.
                    while session.leaving.is_none() && let Some(ended) = self.running.try_next() {
                        self.take_back(ended, &worker, &mut session);
                    }
                }
                // Before the next look, which may find something each time.
                () = &mut renewal, if session.leaving.is_none() => session.leave(SessionEnd::Renewed),
                next = look.get_or_insert_with(|| consumer.next()), if may_take => {
                    look = None;
                    self.take_in(next, &worker, &mut session);
                    // What is there already costs no turn of its own. A look that finds nothing stays, and is waited for in the next turn.
                    for _ in 1..AT_ONCE_MAX {
                        if session.leaving.is_some() || session.takes_at.is_some() || !self.has_room(&mut session) {
                            break;
                        }
                        if let Some(delivery) = consumer.take() {
                            self.accept(&worker, delivery, &mut session);
                            continue;
                        }
                        let Some(next) = look.get_or_insert_with(|| consumer.next()).now_or_never() else { break };
                        look = None;
                        self.take_in(next, &worker, &mut session);
                    }
                }
                // What is due is seen to in the next turn.
                () = wake => {}
            }
        }
        drop(look);
        drop(renewal);
        let ((), leftovers) = self.running.during(consumer.close()).await;
        leftovers.into_iter().for_each(|ended| self.forget_leftover(ended));
        session.leaving.unwrap_or(SessionEnd::Stopped)
    }

    pub(super) fn runs_of_this_epoch(&self) -> bool {
        // Leftovers of an earlier session count too: a drain waits for everything that runs.
        !self.running.is_empty()
    }
}
