//! The time by which things fall due.
//!
//! Due times are stored as wall time, since they outlive the process. While it lives they are compared with a time that follows
//! the monotonic clock and jumps forward with the wall clock, never back:
//!
//! - wall clock set forward (or the machine slept): what waits is early by at most the jump;
//! - wall clock set back: nothing changes until a restart; then rows that say they began to wait in the future wait their whole
//!   delay again from that moment (see [`crate::schema::heal_due_times`]), so none sticks.
//!
//! Times in the store are microseconds since 1970.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use router_api::Clock;

use crate::queue::locked;

/// Waits are looked at again at least this often, since a wall clock that jumps wakes nobody.
pub(crate) const LOOK_EVERY_MAX: Duration = Duration::from_secs(60);

/// No event waits longer than this, whatever was asked for: ten years.
const DELAY_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// See the module.
pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    anchor: Mutex<(i64, Duration)>,
}

impl StoreTime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let anchor = Mutex::new((clock.now().as_microsecond(), clock.monotonic()));
        Self { clock, anchor }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Wall time or what the monotonic clock makes of an earlier one, whichever is later.
    pub(crate) fn now(&self) -> i64 {
        let mut anchor = locked(&self.anchor);
        let (wall, monotonic) = (self.clock.now().as_microsecond(), self.clock.monotonic());
        let ran = anchor.0.saturating_add(micros(monotonic.saturating_sub(anchor.1)));
        if wall > ran {
            *anchor = (wall, monotonic);
            wall
        } else {
            ran
        }
    }

    /// How long until `due_at`.
    pub(crate) fn until(&self, due_at: i64) -> Duration {
        Duration::from_micros(u64::try_from(due_at.saturating_sub(self.now())).unwrap_or(0))
    }

    /// When something falls due that begins to wait now.
    pub(crate) fn due_after(&self, delay: Duration) -> i64 {
        self.now().saturating_add(micros(delay.min(DELAY_MAX)))
    }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A time from the store; what lies outside the calendar (damage) becomes its nearest end.
pub(crate) fn timestamp(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or(if microseconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
