//! One running route: takes up its queue, hands batches to the [`Worker`], and decides what runs when.
//!
//! A route lives through sessions. A session ends when the route is stopped, when its target is down (the breaker), or when its
//! consumer is lost; unfinished deliveries then go back to their queue, in order and uncounted.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use router_api::{BoxFuture, BreakerState, Canceller, Consumer, Delivery, RouteState, TransportError};
use tokio::sync::{mpsc, watch};

use self::busy::InLane;
use crate::{
    attempt::panic_text,
    breaker::Breaker,
    crew::Crew,
    handlings::Handlings,
    lanes::{BurstLimits, LaneKey, Lanes},
    observe::RouterEvent,
    parts::RouteParts,
    rate::TokenBucket,
    worker::{Aside, End, Item, Sorted, Worker},
};

mod busy;

/// What a route is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Handle what comes.
    Run,
    /// Finish what runs and wait for another order.
    Pause,
    /// Finish what runs and end.
    Drain,
}

/// A small wish that changes no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Close the bursts that collect.
    Flush,
    /// Do not wait any longer for a target that was down.
    Probe,
    /// Bury the bursts that were dropped: see [`crate::memory::Memory::is_dropped`].
    Drop,
}

/// A consumer that was lost, or could not be had, is taken up again within this bound at first, doubling, with full jitter.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
/// … up to this.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// A session that lived so long was healthy: the bound starts over.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// A pause is not shorter than this, nor than the breaker's first delay where that is shorter still.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Failures of the intake in a row after which the session is given up.
const INTAKE_FAILURES_MAX: u32 = 10;

/// Deliveries that are taken in one turn of the loop; then it looks at everything else again.
const AT_ONCE_MAX: usize = 64;

/// A burst that was frozen before a restart waits for its members at least so long.
const REASSEMBLE_MIN: Duration = Duration::from_secs(5);

/// Runs a route until it is told to drain. Returns how many handlings had to be cancelled.
pub(crate) async fn run(route: Arc<RouteParts>, mut wishes: mpsc::Receiver<Wish>, force: Canceller) -> u32 {
    let orders = route.orders.subscribe();
    let limits = route.config.coalesce.as_ref().map(|coalesce| BurstLimits {
        quiet: coalesce.quiet,
        max_wait: coalesce.max_wait,
        events_max: usize::try_from(coalesce.events_max).unwrap_or(usize::MAX).max(1),
    });
    let mut cancelled = 0;
    let mut delay = RECONNECT_FIRST;
    loop {
        route.show_breaker(BreakerState::Closed);
        let route_loop = RouteLoop {
            wishes: &mut wishes,
            breaker: Breaker::new(route.config.breaker.clone()),
            bucket: route.config.rate.as_ref().map(TokenBucket::new),
            lanes: Lanes::new(limits),
            running: Handlings::new(Arc::new(Crew::new(route.parts.handlers.clone(), Arc::clone(&route.parts.clock))), Arc::clone(&route.parts.clock)),
            handlings: 0,
            in_lanes: HashMap::new(),
            epoch: 0,
            cancelled: 0,
            orders: orders.clone(),
            force: force.clone(),
            route: Arc::clone(&route),
        };
        // A bug of ours, or an observer that panics. Without this the route would be dead and show itself as running.
        let Err(panic) = AssertUnwindSafe(route_loop.run()).catch_unwind().await.map(|count| cancelled += count) else { break };
        let error = format!("the route's loop panicked and begins anew: {}", panic_text(panic.as_ref()));
        tracing::error!(route = %route.config.name, "{error}");
        route.show(RouteState::Reconnecting, Some(error));
        let mut orders = orders.clone();
        tokio::select! {
            () = route.parts.clock.sleep(delay) => {}
            () = leave_ordered(&mut orders) => {}
        }
        if *orders.borrow() == Order::Drain {
            break;
        }
        delay = (delay * 2).min(RECONNECT_MAX);
    }
    route.show(RouteState::Stopped, None);
    route.parts.observers.tell(RouterEvent::RouteStopped { route: route.config.name.clone() });
    cancelled
}

struct RouteLoop<'a> {
    route: Arc<RouteParts>,
    orders: watch::Receiver<Order>,
    wishes: &'a mut mpsc::Receiver<Wish>,
    force: Canceller,
    lanes: Lanes<Item>,
    /// Handlings and small settlements under way, of this session and perhaps of the one before.
    running: Handlings<Option<Ended>>,
    /// Handlings among them.
    handlings: usize,
    /// What runs in which lane, where the route must know.
    in_lanes: HashMap<LaneKey, InLane>,
    breaker: Breaker,
    bucket: Option<TokenBucket>,
    /// Counts sessions: results of an earlier one must not touch this one's deliveries.
    epoch: u64,
    cancelled: u32,
}

/// What one of `running` ends with; nothing where the router itself panicked.
struct Ended {
    epoch: u64,
    /// Deliveries that it had.
    deliveries: usize,
    handling: Option<(LaneKey, End)>,
}

/// Why a session ended.
enum SessionEnd {
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
    fn broken() -> Self {
        Self::Lost { error: "the worker panicked, which is a bug of the router; please report it".to_owned() }
    }
}

impl RouteLoop<'_> {
    async fn run(mut self) -> u32 {
        let clock = Arc::clone(&self.route.parts.clock);
        let mut reconnect = RECONNECT_FIRST;
        while !self.is_draining() {
            if self.must_leave() {
                self.stay_paused().await;
                continue;
            }
            let begun = clock.monotonic();
            let end = match self.take_up().await {
                Ok(Some(consumer)) => self.session(consumer).await,
                Ok(None) => SessionEnd::Stopped,
                Err(error) => SessionEnd::Lost { error },
            };
            self.lanes.forget_pending();
            self.show_bursts();
            match end {
                SessionEnd::Stopped | SessionEnd::Renewed => {}
                SessionEnd::Paused { delay, error } => {
                    // A target that asks for no pause at all gets a short one: it is down, and must not be probed in a hot loop.
                    let delay = self.breaker.open(delay).max(PAUSE_MIN.min(self.route.config.breaker.first_delay));
                    self.route.show(RouteState::Paused, Some(error.clone()));
                    let wait = jiff::SignedDuration::try_from(delay).unwrap_or(jiff::SignedDuration::MAX);
                    let until = clock.now().checked_add(wait).unwrap_or(jiff::Timestamp::MAX);
                    self.route.show_breaker(BreakerState::Open { until });
                    self.tell(RouterEvent::RoutePaused { route: self.route.config.name.clone(), delay, error });
                    self.wait(delay).await;
                }
                SessionEnd::Lost { error } => {
                    if clock.monotonic().saturating_sub(begun) >= HEALTHY_AFTER {
                        reconnect = RECONNECT_FIRST;
                    }
                    let delay = reconnect.mul_f64(self.route.parts.chance.fraction());
                    reconnect = (reconnect * 2).min(RECONNECT_MAX);
                    self.route.show(RouteState::Reconnecting, Some(error.clone()));
                    self.tell(RouterEvent::ConsumerLost { route: self.route.config.name.clone(), error, delay });
                    self.wait(delay).await;
                }
            }
        }
        // Handlings of a lost session may still run; their results count for nothing, but they must not outlive the route.
        self.force.cancel();
        while self.running.next().await.is_some() {}
        self.cancelled
    }

    /// Reads what is remembered and takes up the queue. `None` when the route is stopped meanwhile.
    async fn take_up(&mut self) -> Result<Option<Arc<dyn Consumer>>, String> {
        let route = Arc::clone(&self.route);
        let open = async {
            let name = &route.config.name;
            route.memory.load(&*route.parts.store, name).await.map_err(|error| error.to_string())?;
            if let Some(before) = route.memory.skips_before() {
                let queues = route.parts.transport.admin().queues().await.map_err(|error| error.to_string())?;
                let oldest = queues.into_iter().find(|queue| queue.route == *name).and_then(|queue| queue.oldest);
                if oldest.is_none_or(|oldest| oldest >= before) {
                    route.memory.end_skips(&*route.parts.store, name).await.map_err(|error| error.to_string())?;
                }
            }
            let frozen = route.parts.store.frozen(name).await.map_err(|error| error.to_string())?;
            let consumer = route.parts.transport.consume(name, route.config.prefetch).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((frozen, consumer))
        };
        let mut orders = self.orders.clone();
        let opened = async {
            tokio::select! {
                opened = open => Some(opened),
                () = leave_ordered(&mut orders) => None,
            }
        };
        let (opened, leftovers) = self.running.during(opened).await;
        leftovers.into_iter().for_each(|ended| self.forget_leftover(ended));
        let Some(opened) = opened else { return Ok(None) };
        let (frozen, consumer) = opened?;
        self.epoch += 1;
        let patience = route.config.coalesce.as_ref().map_or(REASSEMBLE_MIN, |coalesce| coalesce.max_wait.max(REASSEMBLE_MIN));
        let gives_up_at = route.parts.clock.monotonic() + patience;
        for burst in &frozen {
            self.lanes.expect(burst, gives_up_at);
        }
        Ok(Some(consumer))
    }

    async fn session(&mut self, consumer: Arc<dyn Consumer>) -> SessionEnd {
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
        };
        let (mut orders, mut drains) = (self.orders.clone(), self.orders.clone());
        // Kept over the turns of the loop: a look at the queue under way is not begun anew whenever a handling ends.
        let mut look: Option<BoxFuture<'_, _>> = None;
        let mut renewal = consumer.renewal_due();
        loop {
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
            self.close_a_burst_if_full(&session);
            let rate_wait = if session.leaving.is_none() && !worker.is_leaving() { self.start_what_may(&worker) } else { None };
            self.settle_asides(&worker, &mut session);
            if session.leaving.is_some() && !self.runs_of_this_epoch() {
                break;
            }
            let now = clock.monotonic();
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
                () = &mut renewal, if session.leaving.is_none() => session.leave(SessionEnd::Renewed),
                () = wake => {
                    let now = clock.monotonic();
                    if session.drain_by.is_some_and(|by| by <= now) {
                        session.drain_by = Some(Duration::MAX);
                        self.force.cancel();
                    }
                    if session.leaving.is_none() && self.lanes.next_due().is_some() {
                        for ended in self.give_up_frozen(now).await {
                            self.take_back(ended, &worker, &mut session);
                        }
                    }
                }
            }
            // After a lost session nothing that runs can be settled: the next session need not wait for it.
            if matches!(session.leaving, Some(SessionEnd::Lost { .. })) {
                break;
            }
        }
        drop(look);
        drop(renewal);
        let ((), leftovers) = self.running.during(consumer.close()).await;
        leftovers.into_iter().for_each(|ended| self.forget_leftover(ended));
        session.leaving.unwrap_or(SessionEnd::Stopped)
    }

    /// Starts handlings as far as concurrency, the breaker and the rate allow. Returns how long the rate wants to wait.
    fn start_what_may(&mut self, worker: &Arc<Worker>) -> Option<Duration> {
        let at_once = if self.breaker.is_probing() { 1 } else { usize::try_from(self.route.config.concurrency).unwrap_or(usize::MAX).max(1) };
        while self.handlings < at_once && self.lanes.has_ready() {
            if let Some(bucket) = &mut self.bucket
                && let Err(wait) = bucket.take(self.route.parts.clock.monotonic())
            {
                return Some(wait);
            }
            let Some((lane, batch)) = self.lanes.take_ready() else { break };
            let (worker, epoch) = (Arc::clone(worker), self.epoch);
            let deliveries = batch.items.len();
            let overtaking = self.begins(&lane, &batch);
            self.handlings += 1;
            self.running.push(Box::pin(async move {
                // The handler's panics are caught inside; this is for a bug of our own, which must not leave the lane busy for ever.
                let end = AssertUnwindSafe(worker.process(&lane, batch, &overtaking)).catch_unwind().await.unwrap_or(End::Broken);
                Some(Ended { epoch, deliveries, handling: Some((lane, end)) })
            }));
        }
        None
    }

    fn settle_asides(&mut self, worker: &Arc<Worker>, session: &mut Session) {
        if session.asides.is_empty() {
            return;
        }
        let asides = std::mem::take(&mut session.asides);
        let (worker, epoch, deliveries) = (Arc::clone(worker), self.epoch, asides.iter().map(Aside::deliveries).sum());
        let mut settling = Box::pin(async move { worker.settle_aside(asides).await });
        // A transport that takes an acknowledgement at once needs no task for it.
        match AssertUnwindSafe(settling.as_mut()).catch_unwind().now_or_never() {
            Some(Ok(())) => session.in_hand = session.in_hand.saturating_sub(deliveries),
            Some(Err(_)) => session.leave(SessionEnd::broken()),
            None => self.running.push(Box::pin(async move {
                let settled = AssertUnwindSafe(settling).catch_unwind().await;
                settled.ok().map(|()| Ended { epoch, deliveries, handling: None })
            })),
        }
    }

    /// May another delivery be taken? Slows down before any of our limits could drop something.
    fn has_room(&mut self, session: &mut Session) -> bool {
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

    /// With a full window nothing more can come, so the burst that has collected longest need not wait for its quiet time.
    fn close_a_burst_if_full(&mut self, session: &Session) {
        let full = session.in_hand >= usize::try_from(self.route.config.prefetch).unwrap_or(usize::MAX).max(1);
        if full && self.handlings == 0 && !self.lanes.has_ready() {
            self.lanes.close_oldest_open();
        }
    }

    /// The session lives, so what runs can still be settled: it goes on, and only the next look waits.
    fn intake_failed(&self, error: String, session: &mut Session) {
        session.intake_failures += 1;
        if session.intake_failures > INTAKE_FAILURES_MAX {
            session.leave(SessionEnd::Lost { error });
            return;
        }
        let delay = RECONNECT_FIRST.saturating_mul(1 << session.intake_failures.min(16)).min(RECONNECT_MAX);
        session.takes_at = Some(self.route.parts.clock.monotonic() + delay);
        self.tell(RouterEvent::StoreTrouble { error: format!("route `{}` takes nothing for {} ms: {error}", self.route.config.name, delay.as_millis()) });
    }

    /// What a look at the queue brought.
    fn take_in(&mut self, next: Option<Result<Delivery, TransportError>>, worker: &Worker, session: &mut Session) {
        match next {
            Some(Ok(delivery)) => self.accept(worker, delivery, session),
            Some(Err(error)) => self.intake_failed(error.to_string(), session),
            None => session.leave(SessionEnd::Lost { error: TransportError::Unavailable("the consumer ended".to_owned()).to_string() }),
        }
    }

    fn accept(&mut self, worker: &Worker, delivery: Delivery, session: &mut Session) {
        session.intake_failures = 0;
        self.tell(RouterEvent::Received { route: self.route.config.name.clone(), key: delivery.key.clone() });
        session.in_hand += 1;
        match worker.sort(delivery) {
            Sorted::Aside(aside) => session.asides.push(aside),
            Sorted::Lane { key, item, alone } => {
                let Some(item) = self.meets_busy_lane(&key, item, session) else { return };
                let identity = item.delivery.identity.clone();
                self.lanes.push(&key, &identity, *item, alone, self.route.parts.clock.monotonic());
                // A lane that floods the window would starve the others, where the transport can look past it. The missing
                // members of a frozen burst have to come, though.
                let floods = self.lanes.pending_of(&key) >= self.backlog_max() && !self.lanes.is_reassembling(&key);
                if self.route.is_ordered() && floods && !self.looks_at_busy_lanes() && session.held_lanes.insert(Arc::clone(&key)) {
                    worker.consumer.hold_lane(&key);
                }
            }
        }
    }

    /// Deliveries of one lane in hand, beyond which nothing more of it is asked for.
    fn backlog_max(&self) -> usize {
        let burst = self.route.config.coalesce.as_ref().map_or(0, |coalesce| coalesce.events_max);
        usize::try_from((self.route.config.prefetch / 8).max(burst).max(1)).unwrap_or(usize::MAX)
    }

    /// One of `running` is over.
    fn take_back(&mut self, ended: Option<Ended>, worker: &Worker, session: &mut Session) {
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
    async fn give_up_frozen(&mut self, now: Duration) -> Vec<Option<Ended>> {
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

    fn runs_of_this_epoch(&self) -> bool {
        // Leftovers of an earlier session count too: a drain waits for everything that runs.
        !self.running.is_empty()
    }

    fn show_bursts(&self) {
        if self.route.config.coalesce.is_some() {
            self.route.show_bursts(self.lanes.open_bursts(), self.lanes.failing_bursts());
        }
    }

    /// Waits between sessions, unless the route is told to do something else; what is left of the last session goes on meanwhile.
    async fn wait(&mut self, delay: Duration) {
        let mut orders = self.orders.clone();
        let mut wake = self.route.parts.clock.sleep(delay);
        loop {
            tokio::select! {
                () = &mut wake => return,
                () = leave_ordered(&mut orders) => return,
                Some(wish) = self.wishes.recv() => {
                    if matches!(wish, Wish::Probe | Wish::Drop) {
                        return;
                    }
                }
                Some(ended) = self.running.next(), if !self.running.is_empty() => self.forget_leftover(ended),
            }
        }
    }

    /// Waits while an operator has paused the route.
    async fn stay_paused(&mut self) {
        let mut orders = self.orders.clone();
        self.route.show(RouteState::Paused, Some("paused by an operator".to_owned()));
        loop {
            tokio::select! {
                _ = orders.wait_for(|order| *order != Order::Pause) => return,
                Some(_) = self.wishes.recv() => {}
                Some(ended) = self.running.next(), if !self.running.is_empty() => self.forget_leftover(ended),
            }
        }
    }

    /// A handling of a session that is over has ended; its result counts for nothing.
    fn forget_leftover(&mut self, ended: Option<Ended>) {
        if let Some(Ended { handling: Some((lane, _)), .. }) = ended {
            self.handlings -= 1;
            self.ends(&lane);
            self.lanes.finished(&lane);
        }
    }

    /// Nothing new may start.
    fn must_leave(&self) -> bool {
        *self.orders.borrow() != Order::Run
    }

    fn is_draining(&self) -> bool {
        *self.orders.borrow() == Order::Drain
    }

    fn tell(&self, event: RouterEvent) {
        self.route.parts.observers.tell(event);
    }
}

/// Resolves when the route is told to do anything but run. The route holds the sender itself, so an error cannot come.
async fn leave_ordered(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(|order| *order != Order::Run).await;
}

/// Resolves when the route is told to end.
async fn drain_ordered(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(|order| *order == Order::Drain).await;
}

/// The state of one session.
struct Session {
    /// Deliveries between `next` and their settlement.
    in_hand: usize,
    /// To be settled without handling.
    asides: Vec<Aside>,
    /// Lanes of which the transport is asked to hand out nothing more.
    held_lanes: HashSet<LaneKey>,
    /// Looks for a delivery that failed, one after the other.
    intake_failures: u32,
    /// The next look is not before this.
    takes_at: Option<Duration>,
    /// Said so already.
    held_up: bool,
    /// Nothing new starts.
    leaving: Option<SessionEnd>,
    /// What runs longer is cancelled.
    drain_by: Option<Duration>,
}

impl Session {
    /// The first reason counts, except that a lost session overrides a pause.
    fn leave(&mut self, end: SessionEnd) {
        if self.leaving.is_none() || matches!(end, SessionEnd::Lost { .. }) {
            self.leaving = Some(end);
        }
    }
}
