//! Did an event find somebody who wants it? The stream of the archive takes every event, so that with it the broker's own answer is
//! always yes; then the patterns of the bound routes answer.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use router_api::RoutingKey;
use tokio::time::Instant;

use crate::{AmqpOptions, bound::Bound, connection::Bus, names, scratch::Scratch};

/// Another router may make the stream, or somebody may delete it: it is looked for again after so long.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Remembers whether the stream is there.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    stream: Mutex<Option<(Instant, bool)>>,
}

impl Routed {
    /// What to answer for an event that the broker has put into at least one queue.
    pub(crate) async fn is_wanted(&self, key: &RoutingKey, bound: &Bound, bus: &Bus, options: &AmqpOptions) -> bool {
        // Nothing was ever bound here: nobody knows better than the broker.
        bound.wants(key).unwrap_or(true) || !self.has_stream(bus, options).await
    }

    async fn has_stream(&self, bus: &Bus, options: &AmqpOptions) -> bool {
        let known = *self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, is_there)) = known.filter(|(looked, _)| looked.elapsed() < LOOK_EVERY) {
            return is_there;
        }
        // Who may not look takes what the configuration says.
        let Some(session) = bus.now() else { return options.archive.is_some() };
        let mut scratch = Scratch::new(&session);
        let Ok(found) = scratch.look(names::ARCHIVE).await else { return options.archive.is_some() };
        scratch.end().await;
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found.is_some()));
        found.is_some()
    }
}
