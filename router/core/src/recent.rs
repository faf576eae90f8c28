//! What each route did in the last minutes, for `routes`: counted in slots of fixed number, whatever the load.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use router_api::{Clock, RouteName, RouteRates};

use crate::observe::{Observer, RouterEvent};

/// Slots are this long …
const SLOT: Duration = Duration::from_secs(10);

/// … and so many are kept: five minutes.
const SLOTS: usize = 30;

/// A younger router is counted as if it had run for so long: three events in its first second are not 180 a minute.
const WINDOW_MIN: Duration = Duration::from_secs(60);

/// Routes that are counted. Reloads can bring ever new names; those beyond are shown without rates.
const ROUTES_MAX: usize = 2_048;

/// Counts what routes do.
pub(crate) struct Recent {
    clock: Arc<dyn Clock>,
    begun: Duration,
    routes: RwLock<BTreeMap<RouteName, Arc<Mutex<Slots>>>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    handled: u64,
    failed: u64,
}

/// The last slots, each with its number since the clock's beginning.
#[derive(Debug, Default)]
struct Slots([(u64, Counts); SLOTS]);

const NO_PANIC: &str = "no code panics while it holds what routes did";

impl Recent {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let begun = clock.monotonic();
        Self { clock, begun, routes: RwLock::default() }
    }

    fn add(&self, route: &RouteName, counts: Counts) {
        let now = self.clock.monotonic();
        if let Some(slots) = self.routes.read().expect(NO_PANIC).get(route) {
            slots.lock().expect(NO_PANIC).add(now, counts);
            return;
        }
        let mut routes = self.routes.write().expect(NO_PANIC);
        if routes.len() < ROUTES_MAX || routes.contains_key(route) {
            routes.entry(route.clone()).or_default().lock().expect(NO_PANIC).add(now, counts);
        }
    }

    /// What the route did; zeros for one that did nothing.
    pub(crate) fn of(&self, route: &RouteName) -> RouteRates {
        let now = self.clock.monotonic();
        // All whole slots that are kept, and what has passed of this one.
        let kept = SLOT * (SLOTS as u32 - 1) + Duration::from_nanos((now.as_nanos() % SLOT.as_nanos()) as u64);
        let window = now.saturating_sub(self.begun).min(kept).max(WINDOW_MIN);
        let counts = self.routes.read().expect(NO_PANIC).get(route).map(|slots| slots.lock().expect(NO_PANIC).sum(now)).unwrap_or_default();
        let per_minute = |count: u64| count as f64 * 60.0 / window.as_secs_f64();
        RouteRates {
            window_s: u32::try_from(window.as_secs()).unwrap_or(u32::MAX),
            handled: counts.handled,
            failed: counts.failed,
            handled_per_minute: per_minute(counts.handled),
            failed_per_minute: per_minute(counts.failed),
        }
    }

    /// Forgets routes that are gone.
    pub(crate) fn keep(&self, known: impl Fn(&RouteName) -> bool) {
        self.routes.write().expect(NO_PANIC).retain(|route, _| known(route));
    }
}

impl Observer for Recent {
    fn observe(&self, event: &RouterEvent) {
        match event {
            RouterEvent::Finished { route, events, .. } => self.add(route, Counts { handled: *events as u64, failed: 0 }),
            RouterEvent::Failed { route, events, .. } | RouterEvent::Buried { route, events, .. } => {
                self.add(route, Counts { handled: 0, failed: *events as u64 });
            }
            _ => {}
        }
    }
}

/// The number of the slot of a time; 0 stands for a slot that was never used.
fn number(now: Duration) -> u64 {
    now.as_secs() / SLOT.as_secs() + 1
}

impl Slots {
    fn add(&mut self, now: Duration, counts: Counts) {
        let number = number(now);
        let slot = &mut self.0[(number % SLOTS as u64) as usize];
        if slot.0 != number {
            *slot = (number, Counts::default());
        }
        slot.1.handled += counts.handled;
        slot.1.failed += counts.failed;
    }

    fn sum(&self, now: Duration) -> Counts {
        let newest = number(now);
        let lasting = self.0.iter().filter(|(number, _)| *number > newest.saturating_sub(SLOTS as u64) && *number <= newest);
        lasting.fold(Counts::default(), |sum, (_, counts)| Counts { handled: sum.handled + counts.handled, failed: sum.failed + counts.failed })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;
    use router_api::BoxFuture;

    use super::*;

    /// Set by hand, in seconds.
    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    fn one() -> Counts {
        Counts { handled: 1, failed: 2 }
    }

    #[test]
    fn a_young_router_is_counted_over_a_minute_and_an_old_one_over_five() {
        let (clock, route) = (Arc::new(Hand::default()), "r".parse().unwrap());
        clock.0.store(1_000, Ordering::Relaxed);
        let recent = Recent::new(Arc::clone(&clock) as _);
        for _ in 0..3 {
            recent.add(&route, one());
        }
        assert_eq!(recent.of(&route), RouteRates { window_s: 60, handled: 3, failed: 6, handled_per_minute: 3.0, failed_per_minute: 6.0 });
        clock.0.store(1_120, Ordering::Relaxed);
        assert_eq!((recent.of(&route).window_s, recent.of(&route).handled_per_minute), (120, 1.5));
        clock.0.store(1_289, Ordering::Relaxed);
        assert_eq!((recent.of(&route).window_s, recent.of(&route).handled), (289, 3));
        clock.0.store(1_300, Ordering::Relaxed);
        assert_eq!((recent.of(&route).window_s, recent.of(&route).handled), (290, 0), "what is older than the window does not count");
        recent.add(&route, one());
        assert_eq!(recent.of(&route).handled, 1, "a slot that is used again begins at zero");
        clock.0.store(900_000, Ordering::Relaxed);
        assert_eq!(recent.of(&route).handled, 0);
    }

    #[test]
    fn ever_new_routes_take_no_ever_growing_room() {
        let recent = Recent::new(Arc::new(Hand::default()));
        for at in 0..ROUTES_MAX + 50 {
            recent.add(&format!("r{at}").parse().unwrap(), one());
        }
        assert_eq!(recent.routes.read().unwrap().len(), ROUTES_MAX);
        recent.keep(|route| route.as_str() == "r1");
        assert_eq!((recent.routes.read().unwrap().len(), recent.of(&"r1".parse().unwrap()).handled), (1, 1));
    }
}
