//! A clock that stands still until a test moves it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use router_api::{BoxFuture, Clock};
use tokio::sync::watch;

#[derive(Clone)]
pub struct ManualClock {
    wall: Arc<Mutex<Timestamp>>,
    monotonic: watch::Sender<Duration>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { wall: Arc::new(Mutex::new("2026-01-02T03:04:05Z".parse().unwrap())), monotonic: watch::Sender::new(Duration::from_secs(1_000)) }
    }
}

impl ManualClock {
    /// Time passes.
    pub fn advance(&self, by: Duration) {
        self.jump_wall(SignedDuration::try_from(by).unwrap());
        self.monotonic.send_modify(|now| *now += by);
    }

    /// Somebody sets the wall clock.
    pub fn jump_wall(&self, by: SignedDuration) {
        let mut wall = self.wall.lock().unwrap();
        *wall = wall.checked_add(by).unwrap();
    }

    /// Resolves when somebody sleeps, so that advancing wakes them.
    pub async fn somebody_sleeps(&self) {
        while self.monotonic.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.wall.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        *self.monotonic.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let until = self.monotonic() + duration;
        let mut changes = self.monotonic.subscribe();
        Box::pin(async move {
            // The clock may be gone before its sleepers.
            let _ = changes.wait_for(|now| *now >= until).await;
        })
    }
}
