//! Following a run to its end: the route sends itself an event that comes back later, asks Dagster then, and sends the next one.
//!
//! Each look is one emit further from the event that launched the run, and `hops_max` (8) ends what goes on for ever. So there are
//! few looks, each after twice the time of the one before: a run is known to have ended at the latest when it has been over for as
//! long as it took.

use std::time::Duration;

use router_api::{Context, Envelope, HandlerError, RoutingKey};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// With the launch before them and the event of the end behind them, they stay within the default of `hops_max`.
const LOOKS: u32 = 6;

/// A run that is followed; the payload of the event that comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Followed {
    pub(super) run: String,
    /// Which look this is, from 1.
    look: u32,
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
        self.send(cx, Followed { run: run.to_owned(), look: 1, route: cx.route().to_string(), session_id: owned(session_id), event_id: owned(event_id) });
    }

    /// The run that `event` is about.
    ///
    /// # Errors
    ///
    /// When it is no event of this route's own.
    pub(super) fn read(&self, event: &Envelope, cx: &Context) -> Result<Followed, HandlerError> {
        let foreign = || HandlerError::reject(format!("`{}` is what the plugin sends itself, and this one it has not sent", self.key));
        let followed: Followed = event.payload_as().map_err(|_| foreign())?;
        let is_run = (1..=64).contains(&followed.run.len()) && followed.run.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_run && (1..=LOOKS).contains(&followed.look) && followed.route == cx.route().as_str() { Ok(followed) } else { Err(foreign()) }
    }

    /// Comes back to a run that has not ended; false when it has been followed for as long as was wanted.
    pub(super) fn go_on(&self, cx: &Context, followed: Followed) -> bool {
        let goes_on = followed.look < LOOKS && !self.within.is_zero();
        if goes_on {
            self.send(cx, Followed { look: followed.look + 1, ..followed });
        }
        goes_on
    }

    fn send(&self, cx: &Context, followed: Followed) {
        cx.emit_after(self.delay(followed.look), &self.key, json!(followed));
    }

    /// 1, 2, 4, … parts, all of them together `within`.
    fn delay(&self, look: u32) -> Duration {
        self.within * (1 << (look - 1)) / ((1 << LOOKS) - 1)
    }
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
    fn the_looks_double_their_distance_and_end_where_they_should() {
        let follow = Follow::new(63_000);
        let delays: Vec<_> = (1..=LOOKS).map(|look| follow.delay(look).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32]);
        const { assert!(LOOKS + 2 <= 8, "the launch, the looks and the end stay within `hops_max`") };
    }
}
