//! `system.dlq.alert`: the event that says that dead letters grow, for whoever wants to route it to a person.
//!
//! An observer counts, a task publishes: see [`dead_letter_alerts`]. How often is decided in [`Growth`]: at the first dead letter of a
//! route, then at the tenth, the hundredth and so on; after ten minutes without an alert the next one is a first one again. The alert's
//! own dead letters raise none, and neither does anything while no enabled route subscribes to the key: nobody would get the alert, and
//! it would stand among the events that nobody wanted. So a route switches the alerts on.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use router_api::{Admin, Chance, Clock, DeadLetterReason, Publication, RouteName, RoutingKey};
use serde_json::json;
use tokio::sync::mpsc;

use crate::observe::{Observer, RouterEvent};

/// The alert's key.
pub const DEAD_LETTER_ALERT: &str = "system.dlq.alert";

/// After so long without an alert, the route's next dead letter is news again.
const QUIET: Duration = Duration::from_secs(600);

/// Told and not yet looked at. What does not fit is missing in the count of new ones, the total is asked of the store.
const UNREAD_MAX: usize = 1_024;

/// Routes that are remembered. Beyond it, those that were quiet are forgotten.
const ROUTES_MAX: usize = 2_048;

/// One burial.
#[derive(Debug)]
struct Grown {
    route: RouteName,
    events: u64,
    reason: DeadLetterReason,
}

/// Tells the task of [`dead_letter_alerts`] what was buried. Never waits.
pub struct DeadLetterWatch {
    grown: mpsc::Sender<Grown>,
}

impl Observer for DeadLetterWatch {
    fn observe(&self, event: &RouterEvent) {
        let RouterEvent::Buried { route, key, events, reason, .. } = event else { return };
        // No loop: who cannot handle alerts is not told so by alerts.
        if key.as_str() != DEAD_LETTER_ALERT {
            let _ = self.grown.try_send(Grown { route: route.clone(), events: *events as u64, reason: *reason });
        }
    }
}

/// What publishes the alerts: see [`crate::Router::raise_alerts`].
pub struct DeadLetterAlerts {
    grown: mpsc::Receiver<Grown>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    host: String,
}

/// The two halves: the watch goes to the router as an observer, the other one runs beside it. `host` stands in the alerts' `source`.
#[must_use]
pub fn dead_letter_alerts(clock: Arc<dyn Clock>, chance: Arc<dyn Chance>, host: impl Into<String>) -> (DeadLetterWatch, DeadLetterAlerts) {
    let (sender, grown) = mpsc::channel(UNREAD_MAX);
    (DeadLetterWatch { grown: sender }, DeadLetterAlerts { grown, clock, chance, host: host.into() })
}

impl DeadLetterAlerts {
    /// Publishes alerts until `stop`, while `wanted` says that a route subscribes to them. One that cannot be published is logged and
    /// not repeated: the next dead letter raises another.
    pub(crate) async fn run(self, admin: Arc<dyn Admin>, wanted: impl Fn(&RoutingKey) -> bool + Send + Sync, stop: impl Future<Output = ()> + Send) {
        tokio::select! {
            // What is to stop publishes no more.
            biased;
            () = stop => {}
            () = self.publish_all(admin, wanted) => {}
        }
    }

    async fn publish_all(mut self, admin: Arc<dyn Admin>, wanted: impl Fn(&RoutingKey) -> bool + Send + Sync) {
        let key = RoutingKey::new(DEAD_LETTER_ALERT).expect("the constant is a routing key, as a test shows");
        let mut routes: BTreeMap<RouteName, Growth> = BTreeMap::new();
        while let Some(Grown { route, events, reason }) = self.grown.recv().await {
            if !wanted(&key) {
                continue;
            }
            let now = self.clock.monotonic();
            if routes.len() >= ROUTES_MAX && !routes.contains_key(&route) {
                routes.retain(|_, growth| !growth.is_quiet(now));
                if routes.len() >= ROUTES_MAX {
                    continue;
                }
            }
            let growth = routes.entry(route.clone()).or_default();
            if !growth.grew(events, now, self.clock.now()) {
                continue;
            }
            let Some(since) = growth.since else { continue };
            let dead = kept(&*admin, &route).await.unwrap_or(growth.new);
            let body = self.body(&route, dead, growth.new, reason, since);
            if let Err(error) = admin.publish(Publication::new(key.clone(), body)).await {
                growth.not_told();
                tracing::warn!(route = route.as_str(), %error, "`{DEAD_LETTER_ALERT}` could not be published");
            }
        }
    }

    fn body(&self, route: &RouteName, dead: u64, new: u64, reason: DeadLetterReason, since: Timestamp) -> String {
        let mut random = [0; 16];
        for part in random.chunks_exact_mut(8) {
            part.copy_from_slice(&self.chance.next_u64().to_be_bytes());
        }
        json!({
            "event_id": uuid::Builder::from_random_bytes(random).into_uuid(),
            "event_type": DEAD_LETTER_ALERT,
            "timestamp": self.clock.now().to_string(),
            "version": "1.0.0",
            "source": { "host": self.host, "type": "service", "app": "event-router", "meta": { "route": route.as_str() } },
            "correlation_ids": [],
            "agent_context": null,
            "payload": { "route": route.as_str(), "dead": dead, "new": new, "reason": reason.name(), "since": since.to_string() },
        })
        .to_string()
    }
}

/// Dead letters of the route that are kept; `None` when the store does not say.
async fn kept(admin: &dyn Admin, route: &RouteName) -> Option<u64> {
    let status = admin.status().await.ok()?;
    status.routes.into_iter().find(|other| other.name == *route)?.queue.map(|queue| queue.dead)
}

/// How the dead letters of one route grow, and when that is worth an alert.
#[derive(Debug, Default)]
struct Growth {
    /// Dead letters since `since`.
    new: u64,
    /// When the growth began.
    since: Option<Timestamp>,
    /// The last alert, on the monotonic clock.
    told: Option<Duration>,
    /// The next alert comes at so many new ones.
    next: u64,
}

impl Growth {
    fn is_quiet(&self, now: Duration) -> bool {
        self.told.is_none_or(|told| now.saturating_sub(told) >= QUIET)
    }

    /// Counts `events` more; true if that is worth an alert.
    fn grew(&mut self, events: u64, now: Duration, at: Timestamp) -> bool {
        if self.is_quiet(now) {
            *self = Self { new: 0, since: Some(at), told: None, next: 1 };
        }
        self.new = self.new.saturating_add(events);
        if self.new < self.next {
            return false;
        }
        while self.next <= self.new && self.next < u64::MAX {
            self.next = self.next.saturating_mul(10);
        }
        self.told = Some(now);
        true
    }

    /// The alert did not come out: the next dead letter raises it again.
    fn not_told(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// The totals at which `counts`, one after the other, raise an alert.
    fn told(growth: &mut Growth, now: Duration, counts: impl IntoIterator<Item = u64>) -> Vec<u64> {
        counts.into_iter().filter_map(|count| growth.grew(count, now, Timestamp::UNIX_EPOCH).then_some(growth.new)).collect()
    }

    #[test]
    fn the_key_of_the_alert_is_one() {
        assert_eq!(RoutingKey::new(DEAD_LETTER_ALERT).unwrap().as_str(), DEAD_LETTER_ALERT);
    }

    #[test]
    fn a_flood_of_dead_letters_raises_an_alert_for_each_power_of_ten() {
        assert_eq!(told(&mut Growth::default(), MINUTE, std::iter::repeat_n(1, 2_500)), [1, 10, 100, 1_000]);
        assert_eq!(told(&mut Growth::default(), MINUTE, [250, 1, 748, 1]), [250, 1_000], "a burst that leaps over steps raises one");
    }

    #[test]
    fn after_a_quiet_time_the_next_dead_letter_is_news_again() {
        let mut growth = Growth::default();
        assert_eq!(told(&mut growth, MINUTE, [1, 1]), [1]);
        assert_eq!(told(&mut growth, MINUTE + QUIET - Duration::from_nanos(1), [1]), [] as [u64; 0]);
        assert_eq!(told(&mut growth, MINUTE + QUIET, [1, 1]), [1]);
    }

    #[test]
    fn an_alert_that_did_not_come_out_is_raised_by_the_next_dead_letter() {
        let mut growth = Growth::default();
        assert_eq!(told(&mut growth, MINUTE, [1]), [1]);
        growth.not_told();
        assert_eq!(told(&mut growth, MINUTE, [1]), [1]);
    }

    fn buried(key: &str) -> RouterEvent {
        RouterEvent::Buried {
            route: "r".parse().unwrap(),
            key: RoutingKey::new(key).unwrap(),
            event_id: None,
            events: 3,
            reason: DeadLetterReason::Rejected,
            error: String::new(),
            attempts: 1,
        }
    }

    #[test]
    fn dead_letters_of_alerts_are_not_counted() {
        let (grown, mut heard) = mpsc::channel(UNREAD_MAX);
        let watch = DeadLetterWatch { grown };
        watch.observe(&buried(DEAD_LETTER_ALERT));
        assert!(heard.try_recv().is_err());
        watch.observe(&buried("a.b"));
        let grown = heard.try_recv().unwrap();
        assert_eq!((grown.route.as_str(), grown.events), ("r", 3));
    }
}
