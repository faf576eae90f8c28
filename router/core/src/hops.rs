//! How many emits led to an event: the count by which a route that answers itself is found (`hops_max`).
//!
//! Each emit counts one, except the links of a *chain of waits*: a handler that looks at something again and again with `emit_after`,
//! such as whether a run has ended, would otherwise be cut off after a few looks. A link is free only where it can neither spin nor
//! branch: it is all that its handling emits, it lasts a second or longer, and the handled event is itself such a wait of the same
//! route. What begins a chain counts, and each week of it counts one more: so a chain that nobody ends is cut off too.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use router_api::{Delivery, Emit, Envelope, RouteName};
use serde_json::{Value, json};

/// A shorter wait counts like any other emit.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// So long, and one more is counted.
const CHAIN_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What the emits of one handling are marked with.
pub(crate) struct Hops {
    /// Of the handled events, the most.
    handled: u8,
    /// When the chain began that the handled event is a link of, where the next link is free.
    chain: Option<Timestamp>,
    now: Timestamp,
}

impl Hops {
    /// For one handling of `batch`, which emits `emits`.
    pub(crate) fn of<'a>(route: &RouteName, batch: impl ExactSizeIterator<Item = (&'a Delivery, &'a Envelope)>, emits: &[Emit], now: Timestamp) -> Self {
        let is_alone = batch.len() == 1;
        let (mut handled, mut chain) = (0, None);
        for (delivery, event) in batch {
            handled = delivery.hops.max(handled);
            // Anybody may write into an event what a chain has in it, but only the router addresses one to a single route.
            chain = if delivery.direct && is_alone { began(route, event) } else { None };
        }
        let chain = chain.filter(|began| emits.len() == 1 && (*began..began.saturating_add(CHAIN_MAX).unwrap_or(Timestamp::MAX)).contains(&now));
        Self { handled, chain, now }
    }

    /// The hops of `emit`; notes in it when its chain began, if it is a wait.
    pub(crate) fn mark(&self, emit: &mut Emit) -> u8 {
        let next = self.handled.saturating_add(1);
        let Some(delay) = emit.after else { return next };
        let chain = self.chain.filter(|_| delay >= WAIT_MIN);
        if let Some(meta) = emit.body.pointer_mut("/source/meta").and_then(Value::as_object_mut) {
            meta.insert("waits_since".to_owned(), json!(chain.unwrap_or(self.now).to_string()));
        }
        if chain.is_some() { self.handled } else { next }
    }
}

/// When the chain began that `event` is a link of.
fn began(route: &RouteName, event: &Envelope) -> Option<Timestamp> {
    let meta = event.body().pointer("/source/meta")?;
    meta["waits_since"].as_str().filter(|_| meta["route"] == route.as_str())?.parse().ok()
}
