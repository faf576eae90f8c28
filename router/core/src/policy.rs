//! What a failure leads to. Decides and does nothing: the worker does and decides nothing.

use std::time::Duration;

use router_api::{DeadLetterReason, EffectClass, FailureClass, HandlerError};

use crate::config::{RetryAction, RetryPolicy};

/// A failed attempt, classified.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Its class.
    pub class: FailureClass,
    /// For people, with the causes.
    pub error: String,
    /// What the target said.
    pub detail: Option<String>,
    /// How long the target or the handler wants to wait.
    pub delay: Option<Duration>,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after a delay, counting this attempt.
    RetryIn(Duration),
    /// Stop the route, counting nothing; the breaker's own delay if none is given.
    Pause(Option<Duration>),
    /// Give up.
    Bury(DeadLetterReason),
}

impl Failure {
    /// A failure without detail or delay.
    #[must_use]
    pub fn new(class: FailureClass, error: impl Into<String>) -> Self {
        Self { class, error: error.into(), detail: None, delay: None }
    }

    /// Classifies what a handler returned. `None` means that it is no failure: a dry run came to its first write, or the
    /// handling was cancelled.
    #[must_use]
    pub fn of(error: &HandlerError) -> Option<Self> {
        let text = error.to_string();
        let failure = match error {
            HandlerError::Retry { .. } => Self::new(FailureClass::Error, text),
            HandlerError::RetryAfter { delay, .. } => Self { delay: Some(*delay), ..Self::new(FailureClass::Error, text) },
            HandlerError::Reject { .. } => Self::new(FailureClass::Rejected, text),
            HandlerError::Pause { delay, .. } => Self { delay: *delay, ..Self::new(FailureClass::Unreachable, text) },
            HandlerError::Effect(effect) => {
                let class = match effect.class {
                    EffectClass::DryRun | EffectClass::Cancelled => return None,
                    EffectClass::Unreachable => FailureClass::Unreachable,
                    EffectClass::Timeout => FailureClass::Timeout,
                    EffectClass::Busy => FailureClass::Busy,
                    EffectClass::Failed => FailureClass::Error,
                    EffectClass::Refused | EffectClass::Forbidden => FailureClass::Rejected,
                };
                Self { class, error: text, detail: effect.detail.clone(), delay: effect.retry_after }
            }
            // The enum is open for plugins' sake; what is added later is retried until it is named here.
            _ => Self::new(FailureClass::Error, text),
        };
        Some(failure)
    }
}

/// What a class leads to unless the route says otherwise.
#[must_use]
pub fn default_action(class: FailureClass) -> RetryAction {
    match class {
        FailureClass::Error | FailureClass::Timeout | FailureClass::Panic | FailureClass::Busy | FailureClass::Crash => RetryAction::Retry,
        FailureClass::Unreachable => RetryAction::Pause,
        FailureClass::Rejected => RetryAction::DeadLetter,
    }
}

impl RetryPolicy {
    /// Decides about a failure. `failed` counts the failed attempts, this one included; `fraction` is drawn from `0.0..1.0`.
    #[must_use]
    pub fn decide(&self, failure: &Failure, failed: u32, fraction: f64) -> Verdict {
        let action = self.on.get(&failure.class).copied().unwrap_or_else(|| default_action(failure.class));
        match action {
            RetryAction::Pause => Verdict::Pause(failure.delay),
            RetryAction::DeadLetter if failure.class == FailureClass::Rejected => Verdict::Bury(DeadLetterReason::Rejected),
            RetryAction::DeadLetter => Verdict::Bury(DeadLetterReason::Exhausted),
            RetryAction::Retry if failed >= self.attempts_max => Verdict::Bury(DeadLetterReason::Exhausted),
            RetryAction::Retry => {
                let asked = failure.delay.unwrap_or_default();
                Verdict::RetryIn(self.delay(failed, fraction).max(asked).min(self.max_delay))
            }
        }
    }

    /// Exponential backoff with full jitter: somewhere between nothing and `first_delay * 2^(failed - 1)`, at most `max_delay`.
    ///
    /// Full jitter spreads the retries of a shared failure best; see "Exponential Backoff And Jitter" in the AWS Architecture
    /// Blog.
    #[must_use]
    pub fn delay(&self, failed: u32, fraction: f64) -> Duration {
        let doublings = failed.saturating_sub(1).min(31);
        let bound = self.first_delay.saturating_mul(1 << doublings).min(self.max_delay);
        bound.mul_f64(fraction.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use router_api::EffectError;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy { attempts_max: 3, first_delay: Duration::from_secs(1), max_delay: Duration::from_secs(10), on: BTreeMap::new() }
    }

    #[test]
    fn the_bound_doubles_up_to_the_maximum_and_the_delay_is_drawn_below_it() {
        let bounds: Vec<_> = (1..=6).map(|failed| policy().delay(failed, 1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy().delay(3, 0.25), Duration::from_secs(1));
        assert_eq!(policy().delay(u32::MAX, 1.0), Duration::from_secs(10), "a huge count must not overflow");
    }

    #[test]
    fn an_error_is_retried_until_the_attempts_are_used_up() {
        let failure = Failure::new(FailureClass::Error, "no");
        assert_eq!(policy().decide(&failure, 2, 0.5), Verdict::RetryIn(Duration::from_secs(1)));
        assert_eq!(policy().decide(&failure, 3, 0.5), Verdict::Bury(DeadLetterReason::Exhausted));
    }

    #[test]
    fn a_target_that_is_down_pauses_the_route_whatever_was_tried_before() {
        let failure = Failure::new(FailureClass::Unreachable, "connection refused");
        assert_eq!(policy().decide(&failure, 100, 0.5), Verdict::Pause(None));
    }

    #[test]
    fn a_target_that_asks_for_time_gets_it_within_the_maximum() {
        let busy = |seconds| Failure { delay: Some(Duration::from_secs(seconds)), ..Failure::new(FailureClass::Busy, "429") };
        assert_eq!(policy().decide(&busy(5), 1, 0.0), Verdict::RetryIn(Duration::from_secs(5)));
        assert_eq!(policy().decide(&busy(3_600), 1, 0.0), Verdict::RetryIn(Duration::from_secs(10)));
    }

    #[test]
    fn the_route_can_choose_another_action_for_a_class() {
        let mut policy = policy();
        policy.on.insert(FailureClass::Timeout, RetryAction::DeadLetter);
        policy.on.insert(FailureClass::Unreachable, RetryAction::Retry);
        assert_eq!(policy.decide(&Failure::new(FailureClass::Timeout, "60 s"), 1, 0.5), Verdict::Bury(DeadLetterReason::Exhausted));
        assert_eq!(policy.decide(&Failure::new(FailureClass::Unreachable, "refused"), 1, 0.0), Verdict::RetryIn(Duration::ZERO));
    }

    #[test]
    fn the_question_mark_keeps_the_class_of_an_effect_error_and_retries_everything_else() {
        fn effect() -> Result<(), HandlerError> {
            Err(EffectError::new(EffectClass::Refused, "404"))?
        }
        fn other() -> Result<(), HandlerError> {
            Err(std::io::Error::other("disk"))?
        }
        assert_eq!(Failure::of(&effect().unwrap_err()).map(|failure| failure.class), Some(FailureClass::Rejected));
        assert_eq!(Failure::of(&other().unwrap_err()).map(|failure| failure.class), Some(FailureClass::Error));
    }

    #[test]
    fn a_dry_run_that_ends_at_its_first_write_is_no_failure() {
        assert_eq!(Failure::of(&HandlerError::Effect(EffectError::new(EffectClass::DryRun, ""))), None);
    }
}
