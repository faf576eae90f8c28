//! Names of exchanges, queues and headers on the broker.

use std::time::Duration;

use router_api::{RouteName, Subscription};

/// Every name of ours begins like this.
pub(crate) const PREFIX: &str = "services.router.";

/// Through this direct exchange events come back to their route's queue: from a wait, redriven, or addressed to one route.
pub(crate) const RETURN: &str = "services.router.sys.return";
/// Where the return exchange sends what no queue wants any more: a fanout exchange and the queue behind it.
pub(crate) const LOST: &str = "services.router.sys.lost";
/// The stream of all events.
pub(crate) const ARCHIVE: &str = "services.router.sys.archive";

/// The steps of the ladder of waits, in seconds, longest first.
pub(crate) const WAIT_STEPS: [u64; 11] = [1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// The version of our headers.
pub(crate) const HEADER_VERSION: &str = "x-router-v";
/// The key that an event was first published with.
pub(crate) const HEADER_KEY: &str = "x-router-key";
/// Failed attempts so far.
pub(crate) const HEADER_ATTEMPTS: &str = "x-router-attempts";
/// Milliseconds that the event is still to wait.
pub(crate) const HEADER_DELAY_LEFT: &str = "x-router-delay-left";
/// When the first attempt failed.
pub(crate) const HEADER_FIRST_FAILED: &str = "x-router-first-failed";
/// The last error.
pub(crate) const HEADER_ERROR: &str = "x-router-error";
/// The failed attempts, as JSON.
pub(crate) const HEADER_HISTORY: &str = "x-router-history";
/// When an event was first received, in milliseconds since 1970.
pub(crate) const HEADER_RECEIVED: &str = "x-router-received";
/// The event is for this route alone, past its patterns and filter.
pub(crate) const HEADER_DIRECT: &str = "x-router-direct";
/// The delivery's identity, where it cannot be made from the event any more.
pub(crate) const HEADER_IDENTITY: &str = "x-router-identity";
/// A dead letter without its history, as JSON.
pub(crate) const HEADER_LETTER: &str = "x-router-letter";
/// How many emits led to an event. Believed from anywhere.
pub(crate) const HEADER_HOPS: &str = "x-router-hops";
/// W3C trace context. Believed from anywhere.
pub(crate) const HEADER_TRACEPARENT: &str = "traceparent";

/// The queue that a route takes its events from.
pub(crate) fn queue_of(subscription: &Subscription) -> String {
    subscription.queue.name.clone().unwrap_or_else(|| own_queue(&subscription.route))
}

/// The queue that a route has if it adopts none.
pub(crate) fn own_queue(route: &RouteName) -> String {
    format!("{PREFIX}{route}")
}

/// Where a route's dead letters lie, whichever queue it takes its events from.
pub(crate) fn dead_queue(route: &RouteName) -> String {
    format!("{PREFIX}{route}.dead")
}

/// Whoever has this exclusive queue looks at the dead letters of `route`.
pub(crate) fn look_lock(route: &RouteName) -> String {
    format!("{PREFIX}sys.look.{route}")
}

/// The exchange, and the queue, of one step of the ladder of waits.
pub(crate) fn wait_of(step_s: u64) -> String {
    format!("{PREFIX}sys.wait.{step_s}")
}

/// The longest step that fits into `left`; none below the shortest one.
pub(crate) fn wait_step(left: Duration) -> Option<u64> {
    WAIT_STEPS.into_iter().find(|step| Duration::from_secs(*step) <= left)
}
