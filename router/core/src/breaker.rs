//! How long a route stays away from a target that is down. Decides and does nothing.

use std::time::Duration;

use crate::config;

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The target answers.
    Closed,
    /// The next handling is a probe; `failures` pauses came before it.
    HalfOpen { failures: u32 },
}

/// A route's breaker.
#[derive(Debug)]
pub struct Breaker {
    policy: config::Breaker,
    state: State,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(policy: config::Breaker) -> Self {
        Self { policy, state: State::Closed }
    }

    /// The target is down: how long to stay away before the next probe. A delay that the handler asked for is used as it is,
    /// within the maximum.
    pub fn open(&mut self, asked: Option<Duration>) -> Duration {
        let failures = match self.state {
            State::Closed => 0,
            State::HalfOpen { failures } => failures,
        };
        self.state = State::HalfOpen { failures: failures.saturating_add(1) };
        let doubled = self.policy.first_delay.saturating_mul(1 << failures.min(31));
        asked.unwrap_or(doubled).min(self.policy.max_delay)
    }

    /// The target answered. True if that ended a pause.
    pub fn close(&mut self) -> bool {
        let was_open = self.state != State::Closed;
        self.state = State::Closed;
        was_open
    }

    /// True while only one handling may run, as a probe.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.state != State::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_probes_double_the_pause_up_to_its_maximum_and_a_success_starts_over() {
        let mut breaker = Breaker::new(config::Breaker { first_delay: Duration::from_secs(5), max_delay: Duration::from_secs(15) });
        assert!(!breaker.is_probing());
        assert_eq!(breaker.open(None), Duration::from_secs(5));
        assert!(breaker.is_probing());
        assert_eq!(breaker.open(None), Duration::from_secs(10));
        assert_eq!(breaker.open(None), Duration::from_secs(15));
        assert!(breaker.close());
        assert!(!breaker.close());
        assert_eq!(breaker.open(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(breaker.open(Some(Duration::from_secs(700))), Duration::from_secs(15));
    }
}
