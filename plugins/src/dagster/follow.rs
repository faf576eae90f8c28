//! Following a run to its end: the route sends itself an event that comes back later, asks Dagster then, and sends the next one.
//!
//! The router takes such a chain of waits for no loop as long as each look sends nothing but the next wait, and none is shorter than a
//! second. So a run is followed for as long as is wanted, with a look every five minutes in the end.

use std::time::Duration;

use jiff::Timestamp;
use router_api::{Context, Envelope, HandlerError, RoutingKey};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::is_run_id;

/// Until the first look; each further one takes twice as long as the one before.
const LOOK_FIRST: Duration = Duration::from_secs(2);
/// Between two looks, at most.
const LOOK_MAX: Duration = Duration::from_secs(5 * 60);
/// Between two looks, at least: a shorter wait would count as an emit of a loop.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// Of one run, in milliseconds: a week.
pub(super) const FOLLOW_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// A run that is followed; the payload of the event that comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Followed {
    pub(super) run: String,
    /// Which look this is, from 1.
    look: u32,
    /// When it is looked at for the last time.
    until: Timestamp,
    /// Only what a route sent itself is its own.
    route: String,
    pub(super) session_id: Option<String>,
    pub(super) event_id: Option<String>,
}

pub(super) struct Follow {
    within: Duration,
    key: RoutingKey,
    pub(super) finished: RoutingKey,
}

impl Follow {
    pub(super) fn new(within_ms: u64) -> Self {
        Self { within: Duration::from_millis(within_ms), ..Self::default() }
    }

    /// Is `event` one that this plugin sent itself?
    pub(super) fn takes(&self, event: &Envelope) -> bool {
        *event.key() == self.key
    }

    pub(super) fn begin(&self, cx: &Context, run: &str, session_id: Option<&str>, event_id: Option<&str>) {
        if self.within.is_zero() {
            return;
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let until = cx.now().saturating_add(self.within).unwrap_or(Timestamp::MAX);
        let (session_id, event_id) = (owned(session_id), owned(event_id));
        self.send(cx, Followed { run: run.to_owned(), look: 1, until, route: cx.route().to_string(), session_id, event_id });
    }

    /// The run that `event` is about.
    ///
    /// # Errors
    ///
    /// When it is no event of this route's own.
    pub(super) fn read(&self, event: &Envelope, cx: &Context) -> Result<Followed, HandlerError> {
        let foreign = || HandlerError::reject(format!("`{}` is what the plugin sends itself, and this one it has not sent", self.key));
        let followed: Followed = event.payload_as().map_err(|_| foreign())?;
        let is_own = is_run_id(&followed.run) && followed.look > 0 && followed.route == cx.route().as_str();
        // A clock that was put back a little is no reason to give up a run.
        let is_in_time = left(followed.until, cx) <= 2 * Duration::from_millis(FOLLOW_MS_MAX);
        if is_own && is_in_time { Ok(followed) } else { Err(foreign()) }
    }

    /// Comes back to a run that has not ended; false when it has been followed for as long as was wanted.
    pub(super) fn go_on(&self, cx: &Context, followed: Followed) -> bool {
        let goes_on = !left(followed.until, cx).is_zero() && !self.within.is_zero();
        if goes_on {
            self.send(cx, Followed { look: followed.look.saturating_add(1), ..followed });
        }
        goes_on
    }

    fn send(&self, cx: &Context, followed: Followed) {
        let delay = delay(followed.look).min(left(followed.until, cx)).max(LOOK_MIN);
        cx.emit_after(delay, &self.key, json!(followed));
    }
}

/// Before the look of this number.
fn delay(look: u32) -> Duration {
    LOOK_FIRST.saturating_mul(2_u32.saturating_pow(look.saturating_sub(1))).min(LOOK_MAX)
}

fn left(until: Timestamp, cx: &Context) -> Duration {
    Duration::try_from(until.duration_since(cx.now())).unwrap_or(Duration::ZERO)
}

impl Default for Follow {
    fn default() -> Self {
        let key = |text| RoutingKey::new(text).expect("the literal is a key");
        Self { within: Duration::ZERO, key: key("dagster.run.follow"), finished: key("dagster.run.finished") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_looks_double_their_distance_up_to_five_minutes() {
        let delays: Vec<_> = [1, 2, 3, 7, 8, 9, 10, 2_000, u32::MAX].into_iter().map(|look| delay(look).as_secs()).collect();
        assert_eq!(delays, [2, 4, 8, 128, 256, 300, 300, 300, 300]);
    }
}
