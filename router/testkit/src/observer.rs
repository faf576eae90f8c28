//! Everything the router said, for tests to look at and wait for.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use router_core::observe::{Observer, RouterEvent};
use tokio::sync::Notify;

/// Events kept at most; the oldest go.
const EVENTS_MAX: usize = 100_000;

/// How long a wait takes at most, in real time, before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// An [`Observer`] that keeps what it is told. Clones share it.
#[derive(Clone, Default)]
pub struct RecordingObserver {
    events: Arc<Mutex<VecDeque<RouterEvent>>>,
    changed: Arc<Notify>,
}

impl fmt::Debug for RecordingObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter()).finish()
    }
}

impl RecordingObserver {
    /// Has heard nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RouterEvent>> {
        self.events.lock().expect("no code panics while it holds the events")
    }

    /// All events, oldest first; the last 100,000.
    #[must_use]
    pub fn events(&self) -> Vec<RouterEvent> {
        self.lock().iter().cloned().collect()
    }

    /// How many events fulfil `wanted`.
    pub fn count(&self, mut wanted: impl FnMut(&RouterEvent) -> bool) -> usize {
        self.lock().iter().filter(|event| wanted(event)).count()
    }

    /// Forgets what was told so far.
    pub fn forget(&self) {
        self.lock().clear();
    }

    /// Resolves with the first event, past ones included, that fulfils `wanted`.
    ///
    /// # Panics
    ///
    /// When none has come after a minute of real time, with the events that have.
    pub async fn wait_for(&self, wanted: impl FnMut(&RouterEvent) -> bool) -> RouterEvent {
        self.wait_for_nth(1, wanted).await
    }

    /// Resolves with the `nth` event (from 1) that fulfils `wanted`.
    ///
    /// # Panics
    ///
    /// When it has not come after a minute of real time, with the events that have.
    pub async fn wait_for_nth(&self, nth: usize, mut wanted: impl FnMut(&RouterEvent) -> bool) -> RouterEvent {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(event) = self.lock().iter().filter(|event| wanted(event)).nth(nth.saturating_sub(1)) {
                    return event.clone();
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(event) => event,
            Err(_) => panic!("the event did not come within {PATIENCE:?}; there were {:#?}", self.events()),
        }
    }
}

impl Observer for RecordingObserver {
    fn observe(&self, event: &RouterEvent) {
        let mut events = self.lock();
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event.clone());
        drop(events);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(route: &str) -> RouterEvent {
        RouterEvent::RouteStarted { route: route.parse().unwrap() }
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_event_that_was_wanted() {
        let observer = RecordingObserver::new();
        let waiting = tokio::spawn({
            let observer = observer.clone();
            async move { observer.wait_for_nth(2, |event| matches!(event, RouterEvent::RouteStarted { .. })).await }
        });
        tokio::task::yield_now().await;
        observer.observe(&started("a"));
        observer.observe(&RouterEvent::RouteStopped { route: "a".parse().unwrap() });
        observer.observe(&started("b"));
        let event = waiting.await.unwrap();
        assert!(matches!(event, RouterEvent::RouteStarted { route } if route.as_str() == "b"));
        assert_eq!(observer.count(|event| matches!(event, RouterEvent::RouteStopped { .. })), 1);
    }

    #[tokio::test]
    async fn a_wait_finds_what_is_past() {
        let observer = RecordingObserver::new();
        observer.observe(&started("a"));
        observer.wait_for(|event| matches!(event, RouterEvent::RouteStarted { .. })).await;
    }
}
