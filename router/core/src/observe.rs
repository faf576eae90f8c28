//! Everything the router can say about itself: one closed list, told to every [`Observer`]. Logs, metrics, `demo` and tests hang here.

use std::{sync::Arc, time::Duration};

use router_api::{DeadLetterReason, Envelope, FailureClass, Fate, RecordedEffect, RouteCommand, RouteName, RoutingKey};

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RouterEvent {
    /// A route takes events.
    RouteStarted { route: RouteName },
    /// A route takes no more events.
    RouteStopped { route: RouteName },
    /// A route's target is down: it comes back after `delay` with one event as a probe.
    RoutePaused { route: RouteName, delay: Duration, error: String },
    /// The probe succeeded.
    RouteResumed { route: RouteName },
    /// Waiting deliveries fill half the prefetch; the route takes no more until one is settled.
    RouteHeldUp { route: RouteName, lane: String },
    /// The consumer of a route ended or could not start; it is taken up again after `delay`.
    ConsumerLost { route: RouteName, error: String, delay: Duration },
    /// An event came into the transport through this router.
    Accepted { key: RoutingKey, seq: Option<u64>, routed: bool, redactions: u32 },
    /// A delivery was taken from a queue.
    Received { route: RouteName, key: RoutingKey },
    /// A route's patterns or filter do not want the event (any more). `explain` says why.
    Filtered { route: RouteName, key: RoutingKey },
    /// The route has already done an event with this dedup key.
    Duplicate { route: RouteName, key: RoutingKey, dedup_key: String },
    /// An attempt begins.
    Started { route: RouteName, event: Arc<Envelope>, attempt: u32, events: usize, lane: Option<Arc<str>> },
    /// An attempt has ended, whatever came of it: cancelled ones and those of a route that pauses are told too, so that each `Started`
    /// has one.
    AttemptEnded { route: RouteName, events: usize, elapsed: Duration },
    /// An attempt succeeded and its events are settled; so long after the oldest of them was stored.
    Completed { route: RouteName, latency: Duration },
    /// An attempt succeeded and its events are settled.
    Finished { route: RouteName, event: Arc<Envelope>, attempt: u32, events: usize, fate: Fate, effects: Vec<RecordedEffect>, elapsed: Duration },
    /// An attempt failed and will be repeated.
    Failed { route: RouteName, event: Arc<Envelope>, attempt: u32, events: usize, class: FailureClass, error: String, retry_in: Duration },
    /// Events were given up on; `key` is that of the newest one.
    Buried { route: RouteName, key: RoutingKey, event_id: Option<String>, events: usize, reason: DeadLetterReason, error: String, attempts: u32 },
    /// An event was emitted.
    Emitted { route: RouteName, key: RoutingKey, id: String },
    /// An operator put dead letters back into the queue of their route.
    Redriven { route: RouteName, ids: Vec<String> },
    /// An operator deleted dead letters.
    Discarded { route: RouteName, ids: Vec<String> },
    /// An operator commanded a route.
    Commanded { route: RouteName, command: RouteCommand },
    /// A configuration is in force.
    ConfigApplied { hash: String },
    /// A configuration was not taken, and the one before stays in force.
    ConfigRefused { error: String },
    /// The router stops for good: what runs is finished, nothing new starts.
    Draining,
    /// A settlement was not recorded and is tried again.
    SettlementDelayed { route: RouteName, error: String },
    /// What became of so many events is missing in the archive, since the store could not keep up. The events themselves are settled.
    FatesLost { events: u64 },
    /// Something beside the delivery went wrong; nothing is lost.
    StoreTrouble { error: String },
}

/// Is told everything. Must not block: it is called from the pipeline.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn observe(&self, event: &RouterEvent);
}

/// Tells several observers.
#[derive(Clone, Default)]
pub struct Observers {
    all: Vec<Arc<dyn Observer>>,
}

impl Observers {
    /// Adds one.
    pub fn add(&mut self, observer: Arc<dyn Observer>) {
        self.all.push(observer);
    }

    /// Tells all.
    pub fn tell(&self, event: RouterEvent) {
        for observer in &self.all {
            observer.observe(&event);
        }
    }
}
