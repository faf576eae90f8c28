//! The work: what a plugin author writes, and how it says what came of it.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{Context, EffectError, Envelope};

/// Does something with an event.
///
/// # Delivery
///
/// At least once: after a crash you may be handed an event that you have finished. Make the work safe to repeat, for
/// example by sending [`Context::idempotency_key`] along.
///
/// One handler value serves all events of its route, several at a time (`concurrency` lanes); events of one lane come one
/// after the other, in order.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one event, or one burst of them.
    ///
    /// `event` is the newest one; [`Context::burst`] has all of them in order, `event` included (one without
    /// `coalesce`). The future is dropped when the route's `timeout_ms` is over.
    ///
    /// # Errors
    ///
    /// The error decides what happens next: see [`HandlerError`]. The operator `?` makes [`HandlerError::Retry`] of any
    /// error, except that an [`EffectError`] keeps its own class.
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError>;
}

/// What came of an event that needs no further attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Done,
    /// There was nothing to do; the reason is shown to whoever asks why.
    Skipped {
        /// A sentence fragment, such as ``not on this machine``.
        reason: String,
    },
}

impl Outcome {
    /// There was nothing to do, because of `reason`.
    #[must_use]
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped { reason: reason.into() }
    }
}

/// Why an event was not handled, and so what happens to it next.
///
/// It is not a [`std::error::Error`] itself, so that `?` can turn every error into one.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandlerError {
    /// Try again later, by the route's retry policy.
    Retry {
        /// What went wrong.
        error: BoxError,
    },
    /// Try again after `delay` (the target said so), counting an attempt.
    RetryAfter {
        /// At least this long; capped by the route's `max_delay_ms`.
        delay: Duration,
        /// What went wrong.
        error: BoxError,
    },
    /// Never try again: to the dead letters.
    Reject {
        /// For the person who reads the dead letter.
        reason: String,
        /// What went wrong, where there is an error behind the reason.
        error: Option<BoxError>,
    },
    /// The target is down for every event: stop the route for a while, count no attempt.
    Pause {
        /// How long; the breaker's own delay if absent.
        delay: Option<Duration>,
        /// What went wrong.
        error: BoxError,
    },
    /// An effect failed; its own class decides.
    Effect(EffectError),
}

/// An error of any kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

impl HandlerError {
    /// Try again later.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::Retry { error: error.into() }
    }

    /// Try again after `delay`.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self::RetryAfter { delay, error: error.into() }
    }

    /// Never try again.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into(), error: None }
    }

    /// The target is down: stop the route for a while.
    pub fn pause(error: impl Into<BoxError>) -> Self {
        Self::Pause { delay: None, error: error.into() }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { error } | Self::RetryAfter { error, .. } | Self::Pause { error, .. } => write_chain(f, error.as_ref()),
            Self::Reject { reason, error: None } => f.write_str(reason),
            Self::Reject { reason, error: Some(error) } => {
                write!(f, "{reason}: ")?;
                write_chain(f, error.as_ref())
            }
            Self::Effect(error) => write_chain(f, error),
        }
    }
}

fn write_chain(f: &mut fmt::Formatter<'_>, error: &(dyn std::error::Error + 'static)) -> fmt::Result {
    write!(f, "{error}")?;
    let mut next = error.source();
    while let Some(cause) = next {
        write!(f, ": {cause}")?;
        next = cause.source();
    }
    Ok(())
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let boxed: BoxError = Box::new(error);
        match boxed.downcast::<EffectError>() {
            Ok(effect) => Self::Effect(*effect),
            Err(error) => Self::Retry { error },
        }
    }
}

/// Says at the place of the error that trying again is of no use.
pub trait Permanent<T> {
    /// Turns the error into [`HandlerError::Reject`] with `reason`.
    ///
    /// # Errors
    ///
    /// Exactly when `self` is one.
    fn permanent(self, reason: impl Into<String>) -> Result<T, HandlerError>;
}

impl<T, E: Into<BoxError>> Permanent<T> for Result<T, E> {
    fn permanent(self, reason: impl Into<String>) -> Result<T, HandlerError> {
        self.map_err(|error| HandlerError::Reject { reason: reason.into(), error: Some(error.into()) })
    }
}
