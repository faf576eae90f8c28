//! A route's rate limit as a token bucket. Decides and does nothing.

use std::time::Duration;

use crate::config;

/// Tokens of one route; one token starts one handling.
#[derive(Debug)]
pub struct TokenBucket {
    capacity: u32,
    /// For one token.
    interval: Duration,
    /// When the bucket would have been empty, had it always been filling: the "theoretical arrival time" of GCRA.
    empty_at: Duration,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: &config::Rate) -> Self {
        Self { capacity: rate.count.max(1), interval: rate.per / rate.count.max(1), empty_at: Duration::ZERO }
    }

    /// Takes a token at the monotonic time `now`.
    ///
    /// # Errors
    ///
    /// When there is none: how long until there is one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let next = self.empty_at.max(now) + self.interval;
        let latest = now + self.interval * self.capacity;
        if next > latest {
            return Err(next - latest);
        }
        self.empty_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_route_may_start_its_count_at_once_and_then_one_each_interval() {
        let mut bucket = TokenBucket::new(&config::Rate { count: 2, per: Duration::from_secs(10) });
        let at = Duration::from_secs(100);
        assert_eq!(bucket.take(at), Ok(()));
        assert_eq!(bucket.take(at), Ok(()));
        assert_eq!(bucket.take(at), Err(Duration::from_secs(5)));
        assert_eq!(bucket.take(at + Duration::from_secs(5)), Ok(()));
        assert_eq!(bucket.take(at + Duration::from_secs(5)), Err(Duration::from_secs(5)));
    }

    #[test]
    fn a_long_idle_time_saves_up_no_more_than_the_count() {
        let mut bucket = TokenBucket::new(&config::Rate { count: 2, per: Duration::from_secs(10) });
        let taken = (0..10).filter(|_| bucket.take(Duration::from_secs(9_999)).is_ok()).count();
        assert_eq!(taken, 2);
    }
}
