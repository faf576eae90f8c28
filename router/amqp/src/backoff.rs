//! How long to wait before the next try to reach the broker.

use std::time::Duration;

use router_api::Chance;

const FIRST: Duration = Duration::from_millis(100);
/// A broker that is back has its first event handled within two seconds.
const AWAY_MAX: Duration = Duration::from_secs(1);
/// A refusal rarely heals; each try costs the broker a log entry, and some brokers lock out who tries often.
const REFUSED_MAX: Duration = Duration::from_secs(5);
/// No try follows the one before sooner.
const LEAST: Duration = Duration::from_millis(20);

/// Doubles up to a limit, with full jitter, so that many routers do not come back in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure.
    pub(crate) fn next(&mut self, refused: bool, chance: &dyn Chance) -> Duration {
        let most = if refused { REFUSED_MAX } else { AWAY_MAX };
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(10)).min(most);
        self.failures = self.failures.saturating_add(1);
        // The lower half of a long wait is of no use to a refused login.
        let wait = if refused { ceiling.mul_f64(0.5 + chance.fraction() / 2.0) } else { ceiling.mul_f64(chance.fraction()) };
        wait.max(LEAST)
    }

    /// After a time of health.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Chance for Fixed {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_broker_that_is_away_is_tried_at_least_once_a_second() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next(false, &Fixed(u64::MAX))).collect();
        assert!(waits.iter().all(|wait| *wait <= AWAY_MAX), "{waits:?}");
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "they grow: {waits:?}");
        assert!(waits[0] <= FIRST);
    }

    #[test]
    fn no_try_follows_at_once() {
        let mut backoff = Backoff::default();
        assert!((0..40).all(|_| backoff.next(false, &Fixed(0)) >= LEAST));
    }

    #[test]
    fn a_refusal_is_tried_more_rarely_and_health_starts_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next(true, &Fixed(0));
        }
        assert_eq!(backoff.next(true, &Fixed(0)), REFUSED_MAX / 2);
        assert!(backoff.next(true, &Fixed(u64::MAX)) <= REFUSED_MAX);
        backoff.reset();
        assert!(backoff.next(true, &Fixed(u64::MAX)) <= FIRST);
    }
}
