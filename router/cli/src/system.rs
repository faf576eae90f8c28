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

/// A clock that runs faster than the machine's and can be moved forward: what waits ten seconds on it waits one for the people
/// who watch. Clones are the same clock.
#[derive(Debug, Clone)]
pub(crate) struct FastClock {
    begun: Instant,
    began_at: Timestamp,
    speed: u32,
    /// Time that was skipped; sleepers look again when it grows.
    skipped: Arc<watch::Sender<Duration>>,
}

impl FastClock {
    /// Begins at the present time and runs `speed` times as fast.
    #[must_use]
    pub(crate) fn new(speed: u32) -> Self {
        Self { begun: Instant::now(), began_at: Timestamp::now(), speed: speed.max(1), skipped: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }

    /// Moves the clock forward.
    pub(crate) fn skip(&self, duration: Duration) {
        self.skipped.send_modify(|skipped| *skipped += duration);
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        self.began_at.checked_add(self.monotonic()).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed() * self.speed + *self.skipped.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (clock, until) = (self.clone(), self.monotonic().saturating_add(duration));
        Box::pin(async move {
            let mut skips = clock.skipped.subscribe();
            loop {
                let left = until.saturating_sub(clock.monotonic());
                if left.is_zero() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(left / clock.speed) => {}
                    _ = skips.changed() => {}
                }
            }
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

    #[test]
    fn a_fast_clock_runs_ahead_of_the_machine() {
        let (clock, begun) = (FastClock::new(1_000_000), Instant::now());
        while begun.elapsed() < Duration::from_micros(50) {
            std::hint::spin_loop();
        }
        assert!(clock.monotonic() >= Duration::from_secs(50));
        assert!(clock.now() > Timestamp::now());
    }

    #[tokio::test]
    async fn a_sleep_ends_when_its_time_is_skipped() {
        let clock = FastClock::new(1);
        let sleeping = tokio::spawn(clock.sleep(Duration::from_secs(3_600)));
        clock.skip(Duration::from_secs(3_601));
        tokio::time::timeout(Duration::from_secs(20), sleeping).await.expect("the hour is over").unwrap();
    }
}
