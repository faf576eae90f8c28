//! Time and chance as the operating system has them, and the name of this machine. The only file of the program that asks for
//! them; everything else is given a port.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use router_api::{BoxFuture, Chance, Clock};
use tokio::sync::watch;
use uuid::Uuid;

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until it is moved: what waits ten minutes on it waits for whoever tells the story, and a machine
/// under load changes nothing of what happens. Clones are the same clock.
#[derive(Debug, Clone)]
pub(crate) struct StoryClock {
    began_at: Timestamp,
    moved: Arc<watch::Sender<Duration>>,
}

impl StoryClock {
    /// Begins at the present time.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { began_at: Timestamp::now(), moved: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }

    /// Moves the clock forward; everything that is due wakes.
    pub(crate) fn advance(&self, duration: Duration) {
        self.moved.send_modify(|moved| *moved = moved.saturating_add(duration));
    }
}

impl Clock for StoryClock {
    fn now(&self) -> Timestamp {
        self.began_at.checked_add(self.monotonic()).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        *self.moved.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (mut moved, until) = (self.moved.subscribe(), self.monotonic().saturating_add(duration));
        Box::pin(async move {
            // The receiver ends only with the clock, and then nobody waits for the story any more.
            let _ = moved.wait_for(|now| *now >= until).await;
        })
    }
}

/// Randomness of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsChance;

impl Chance for OsChance {
    fn next_u64(&self) -> u64 {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        // A version-4 UUID has six fixed bits. Turned by half, the fixed bits of one half meet random ones of the other.
        high ^ low.rotate_left(32)
    }
}

/// This machine's name, or `localhost` where it has none.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name.len() > 253 || name.chars().any(char::is_control) { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_chance_takes_both_values() {
        let draws: Vec<u64> = (0..256).map(|_| OsChance.next_u64()).collect();
        assert_eq!(draws.iter().fold(0, |seen, draw| seen | draw), u64::MAX, "each bit was one at least once");
        assert_eq!(draws.iter().fold(u64::MAX, |seen, draw| seen & draw), 0, "each bit was zero at least once");
    }

    #[tokio::test]
    async fn a_story_stands_still_until_it_is_told_on() {
        let clock = StoryClock::new();
        let (short, long) = (clock.sleep(Duration::from_secs(60)), clock.sleep(Duration::from_secs(3_600)));
        clock.advance(Duration::from_secs(61));
        tokio::time::timeout(Duration::from_secs(20), short).await.expect("a minute is over");
        assert_eq!(clock.monotonic(), Duration::from_secs(61));
        let mut long = std::pin::pin!(long);
        assert!(futures_util::poll!(&mut long).is_pending(), "an hour is not");
        clock.advance(Duration::from_secs(3_600));
        tokio::time::timeout(Duration::from_secs(20), long).await.expect("an hour is over");
    }
}
