//! One running route: takes up its queue, hands batches to the [`Worker`], and decides what runs when.
//!
//! A route lives through sessions. A session ends when the route is stopped, when its target is down (the breaker), or when its
//! consumer is lost; unfinished deliveries then go back to their queue, in order and uncounted.
//!
//! Here is what happens between sessions. `session.rs` is the loop of one; what comes is in `intake.rs`, what begins in `starting.rs`,
//! what ends in `ending.rs`.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use router_api::{BreakerState, Canceller, Consumer, RouteState};
use tokio::sync::{mpsc, watch};

use self::{
    busy::InLane,
    ending::Ended,
    session::{Session, SessionEnd},
};
use crate::{
    attempt::panic_text,
    breaker::Breaker,
    crew::Crew,
    handlings::Handlings,
    lanes::{BurstLimits, LaneKey, Lanes},
    observe::RouterEvent,
    parts::RouteParts,
    rate::TokenBucket,
    worker::{Item, Overtaking},
};

mod busy;
mod ending;
mod intake;
mod session;
mod starting;

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
            running: Handlings::new(
                Arc::new(Crew::new(route.parts.handlers.clone(), Arc::clone(&route.parts.clock), route.concurrency())),
                Arc::clone(&route.parts.clock),
            ),
            handlings: 0,
            behind: 0,
            in_lanes: HashMap::new(),
            set_aside: HashSet::new(),
            never: Overtaking::never(),
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
            // Who is to leave begins nothing.
            biased;
            () = leave_ordered(&mut orders) => {}
            () = route.parts.clock.sleep(delay) => {}
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
    /// Deliveries that are done and on their way to their settlement.
    behind: usize,
    /// What runs in which lane, where the route must know.
    in_lanes: HashMap<LaneKey, InLane>,
    /// Dedup keys of what is being finished unhandled, where events can be overtaken: a repetition of it overtakes nothing.
    set_aside: HashSet<String>,
    /// For all of a route that lets nothing be overtaken.
    never: Overtaking,
    breaker: Breaker,
    bucket: Option<TokenBucket>,
    /// Counts sessions: results of an earlier one must not touch this one's deliveries.
    epoch: u64,
    cancelled: u32,
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
            self.set_aside.clear();
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
        while let Some(ended) = self.running.next().await {
            self.forget_leftover(ended);
        }
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
                // Who is to leave begins nothing.
                biased;
                () = leave_ordered(&mut orders) => None,
                opened = open => Some(opened),
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

    /// Waits between sessions, unless the route is told to do something else; what is left of the last session goes on meanwhile.
    async fn wait(&mut self, delay: Duration) {
        let mut orders = self.orders.clone();
        let mut wake = self.route.parts.clock.sleep(delay);
        loop {
            tokio::select! {
                // An order comes before everything, and what is over before what is wished.
                biased;
                () = leave_ordered(&mut orders) => return,
                () = &mut wake => return,
                Some(ended) = self.running.next(), if !self.running.is_empty() => self.forget_leftover(ended),
                Some(wish) = self.wishes.recv() => {
                    if matches!(wish, Wish::Probe | Wish::Drop) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits while an operator has paused the route.
    async fn stay_paused(&mut self) {
        let mut orders = self.orders.clone();
        self.route.show(RouteState::Paused, Some("paused by an operator".to_owned()));
        loop {
            tokio::select! {
                // An order comes before everything, and what is over before what is wished.
                biased;
                _ = orders.wait_for(|order| *order != Order::Pause) => return,
                Some(ended) = self.running.next(), if !self.running.is_empty() => self.forget_leftover(ended),
                Some(_) = self.wishes.recv() => {}
            }
        }
    }

    fn show_bursts(&self) {
        if self.route.config.coalesce.is_some() {
            self.route.show_bursts(self.lanes.open_bursts(), self.lanes.failing_bursts());
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
