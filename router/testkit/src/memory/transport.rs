//! The transport in memory.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use router_api::{
    Clock, Consumer, DecodeLimits, DeliveryState, Destination, Envelope, Features, Publication, Published, QueueStats, RouteName, Subscription, Transport,
    TransportAdmin, TransportError,
};

use super::{
    MemoryState,
    consumer::MemoryConsumer,
    faults::{Calls, Faults, Settled},
    queue::Item,
    state::{Data, QUEUED_MAX, Shared},
};

/// A [`Transport`] in memory that keeps the whole contract, with faults on demand.
///
/// Opening one over a [`MemoryState`] ends the session of the one before, as a restart does. Clones are the same transport.
#[derive(Clone)]
pub struct MemoryTransport {
    pub(super) open: Arc<Open>,
}

pub(super) struct Open {
    pub shared: Arc<Shared>,
    pub clock: Arc<dyn Clock>,
    pub session: u64,
    pub bound: Mutex<BTreeMap<RouteName, Subscription>>,
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("session", &self.open.session).finish_non_exhaustive()
    }
}

/// The wall time `duration` after `now`, or the end of all times.
pub(super) fn later(now: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|duration| now.checked_add(duration).ok()).unwrap_or(Timestamp::MAX)
}

impl MemoryTransport {
    /// Opens `state`. Due times go on by the wall side of `clock`.
    #[must_use]
    pub fn new(state: &MemoryState, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::clone(&state.shared);
        let session = {
            let mut data = shared.lock();
            data.end_session();
            let (now, monotonic) = (clock.now(), clock.monotonic());
            for item in data.queues.values_mut().flat_map(|queue| queue.items.values_mut()) {
                let left = Duration::try_from(item.due_at.duration_since(now)).unwrap_or_default();
                item.due = monotonic.saturating_add(left);
            }
            data.session
        };
        shared.changed.notify_waiters();
        Self { open: Arc::new(Open { shared, clock, session, bound: Mutex::new(BTreeMap::new()) }) }
    }

    /// The next `count` settlements are answered with `NotRecorded`.
    pub fn fail_settles(&self, count: u32) {
        self.open.shared.lock().faults.settles = count;
    }

    /// The next `count` publications are answered with `Unavailable` and store nothing.
    pub fn fail_publishes(&self, count: u32) {
        self.open.shared.lock().faults.publishes = count;
    }

    /// The next `count` bindings are answered with `Unavailable` and change nothing.
    pub fn fail_binds(&self, count: u32) {
        self.open.shared.lock().faults.binds = count;
    }

    /// The next `count` calls of `consume` are answered with `Unavailable`.
    pub fn fail_consumes(&self, count: u32) {
        self.open.shared.lock().faults.consumes = count;
    }

    /// The next `count` deliveries are replaced by an `Unavailable` of `next`; nothing is lost.
    pub fn fail_nexts(&self, count: u32) {
        self.open.shared.lock().faults.nexts = count;
        self.open.shared.changed.notify_waiters();
    }

    /// The session of every consumer of `route` ends, as when a broker's connection breaks: what is in hand goes back, marked as
    /// redelivered.
    pub fn lose_session(&self, route: &RouteName) {
        let mut data = self.open.shared.lock();
        let consumers: Vec<u64> = data.consumers.iter().filter(|(_, taken)| *taken == route).map(|(consumer, _)| *consumer).collect();
        for consumer in consumers {
            data.end_consumer(consumer);
        }
        drop(data);
        self.open.shared.changed.notify_waiters();
    }

    /// How often each method was called.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.open.shared.lock().faults.calls
    }

    /// Every successful settlement, oldest first; the last 100,000.
    #[must_use]
    pub fn settled(&self) -> Vec<Settled> {
        self.open.shared.lock().faults.settled.iter().cloned().collect()
    }

    /// Calls that no correct router makes (settling what is not in hand, a wrong number of fates), as sentences. A test of a
    /// router ends by asserting that there are none.
    #[must_use]
    pub fn misuses(&self) -> Vec<String> {
        self.open.shared.lock().faults.misuses.clone()
    }

    /// The queue of `route`, if there is one.
    #[must_use]
    pub fn queue(&self, route: &RouteName) -> Option<QueueStats> {
        self.open.stats(&self.open.shared.lock(), route)
    }

    /// Resolves with the state of the queue of `route` once it fulfils `wanted`. Due times are looked at only when something else
    /// changes.
    pub async fn wait_for_queue(&self, route: &RouteName, mut wanted: impl FnMut(&QueueStats) -> bool) -> QueueStats {
        loop {
            let changed = self.open.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(stats) = self.queue(route).filter(|stats| wanted(stats)) {
                return stats;
            }
            changed.await;
        }
    }

    /// Resolves with all settlements once there are at least `count`.
    pub async fn wait_for_settled(&self, count: usize) -> Vec<Settled> {
        loop {
            let changed = self.open.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let settled = self.settled();
            if settled.len() >= count {
                return settled;
            }
            changed.await;
        }
    }
}

impl Open {
    pub(super) fn lock_bound(&self) -> std::sync::MutexGuard<'_, BTreeMap<RouteName, Subscription>> {
        self.bound.lock().expect("no code panics while it holds the subscriptions")
    }

    pub(super) fn check(&self, data: &Data) -> Result<(), TransportError> {
        if data.session == self.session { Ok(()) } else { Err(TransportError::Unavailable("the memory transport is closed".to_owned())) }
    }

    pub(super) fn stats(&self, data: &Data, route: &RouteName) -> Option<QueueStats> {
        data.queues.get(route).map(|queue| queue.stats(route, self.clock.monotonic(), data.dead_of(route)))
    }

    /// Puts an event into one queue.
    pub(super) fn enqueue(&self, data: &mut Data, route: &RouteName, item: Item) {
        let (seq, attempts, due_at) = (item.seq, item.attempts, item.due_at);
        let state = if item.due > self.clock.monotonic() { DeliveryState::Waiting { error: None } } else { DeliveryState::Queued };
        let number = data.next_number();
        data.queues.entry(route.clone()).or_default().items.insert(number, item);
        data.note(seq, route, state, attempts, due_at);
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn features(&self) -> Features {
        Features {
            persistent: true,
            filters_at_intake: true,
            inbox_in_settlement: true,
            holds_lanes: true,
            archives: true,
            competing_consumers: true,
            exact_times: true,
        }
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        let mut data = self.open.shared.lock();
        data.faults.calls.bind += 1;
        self.open.check(&data)?;
        if Faults::strikes(&mut data.faults.binds) {
            return Err(TransportError::Unavailable("a test made this binding fail".to_owned()));
        }
        for subscription in subscriptions {
            data.queues.entry(subscription.route.clone()).or_default();
        }
        *self.open.lock_bound() = subscriptions.iter().map(|subscription| (subscription.route.clone(), subscription.clone())).collect();
        drop(data);
        self.open.shared.changed.notify_waiters();
        Ok(())
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        let mut data = self.open.shared.lock();
        data.faults.calls.consume += 1;
        self.open.check(&data)?;
        if Faults::strikes(&mut data.faults.consumes) {
            return Err(TransportError::Unavailable("a test made this `consume` fail".to_owned()));
        }
        if !data.queues.contains_key(route) {
            return Err(TransportError::Refused(format!("route `{route}` has no queue: bind it before it is consumed")));
        }
        let number = data.next_number();
        data.consumers.insert(number, route.clone());
        Ok(Arc::new(MemoryConsumer::new(Arc::clone(&self.open), route.clone(), number, prefetch)))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        // Decoded outside the lock. What is no event goes to every route that its key fits, which buries it.
        let event = Envelope::decode(publication.key.clone(), publication.body.clone(), DecodeLimits::default()).ok();
        let mut data = self.open.shared.lock();
        data.faults.calls.publish += 1;
        self.open.check(&data)?;
        if Faults::strikes(&mut data.faults.publishes) {
            return Err(TransportError::Unavailable("a test made this publication fail".to_owned()));
        }
        if data.queued() >= QUEUED_MAX {
            return Err(TransportError::Full(format!("{QUEUED_MAX} events wait in memory")));
        }
        let (routes, direct, delay) = match &publication.to {
            Destination::Route { route, delay } => {
                if !data.queues.contains_key(route) {
                    return Err(TransportError::Refused(format!("route `{route}` has no queue: bind it before something is sent to it")));
                }
                (vec![route.clone()], true, *delay)
            }
            Destination::Subscribers => {
                let bound = self.open.lock_bound();
                let wants = |subscription: &&Subscription| {
                    subscription.patterns.iter().any(|pattern| pattern.matches(&publication.key))
                        && event.as_ref().is_none_or(|event| subscription.matcher.matches(event))
                };
                (bound.values().filter(wants).map(|subscription| subscription.route.clone()).collect(), false, Duration::ZERO)
            }
        };
        let now = self.open.clock.now();
        let id = event.as_ref().and_then(|event| event.id()).map(|id| id.as_str().to_owned());
        let seq = data.archive(publication.key.clone(), publication.body.clone(), id, now, publication.hops, publication.redactions);
        for route in &routes {
            let item = Item {
                key: publication.key.clone(),
                body: publication.body.clone(),
                stored_at: now,
                attempts: 0,
                history: Vec::new(),
                hops: publication.hops,
                direct,
                redelivered: false,
                seq: Some(seq),
                traceparent: publication.traceparent.clone(),
                due_at: later(now, delay),
                due: self.open.clock.monotonic().saturating_add(delay),
                holder: None,
            };
            self.open.enqueue(&mut data, route, item);
        }
        drop(data);
        self.open.shared.changed.notify_waiters();
        Ok(Published { routed: !routes.is_empty(), seq: Some(seq) })
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self
    }

    async fn close(&self) {
        let mut data = self.open.shared.lock();
        if data.session == self.open.session {
            data.end_session();
        }
        drop(data);
        self.open.shared.changed.notify_waiters();
    }
}
