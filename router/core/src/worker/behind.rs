//! What follows a handling that ended well: it is remembered, settled, and told.
//!
//! Where a store has to sync a disk before it remembers, that takes longer than most handlers do. So the handling is over then for its lane
//! and for `concurrency`, and this goes on behind it: one commit remembers what many handlings have done. Meanwhile the route's memory knows
//! what is under way, so that a repetition is recognised, and the route's loop bounds how much of it there is: a kill repeats no more.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use router_api::{BoxFuture, Envelope, Fate, RecordedEffect};

use super::{Item, Worker, settling::Handled};
use crate::{lanes::Batch, observe::RouterEvent, parts::RouteParts};

/// A handling that ended well.
pub(super) struct Done {
    pub identity: String,
    pub newest: Arc<Envelope>,
    pub attempt: u32,
    pub fate: Fate,
    pub effects: Vec<RecordedEffect>,
    pub elapsed: Duration,
}

/// See the module.
pub(crate) struct Behind {
    /// Without its items.
    batch: Batch<Item>,
    handled: Handled,
    oldest: Option<jiff::Timestamp>,
    done: Done,
    remembering: Option<(BoxFuture<'static, ()>, UnderWay)>,
}

impl Behind {
    /// How many deliveries it is.
    pub(crate) fn deliveries(&self) -> usize {
        self.handled.deliveries.len()
    }

    /// Waits for a disk.
    pub(super) fn is_slow(&self) -> bool {
        self.remembering.is_some()
    }
}

impl Worker {
    /// Begins to remember a batch that is done.
    pub(super) fn begin_behind(&self, mut batch: Batch<Item>, done: Done) -> Behind {
        let items = std::mem::take(&mut batch.items);
        let oldest = items.iter().map(|item| item.delivery.stored_at).min();
        let (handled, remembering) = self.remember(items);
        let remembering = remembering.and_then(|mut remembering| match (&mut remembering.future).now_or_never() {
            Some(()) => None,
            None => Some((remembering.future, UnderWay::new(&self.route, remembering.keys))),
        });
        Behind { batch, handled, oldest, done, remembering }
    }

    /// Takes it to its end. False when the session is over.
    pub(crate) async fn end_behind(&self, behind: Behind) -> bool {
        let Behind { batch, handled, oldest, done, remembering } = behind;
        if let Some((remembering, under_way)) = remembering {
            remembering.await;
            drop(under_way);
        }
        let events = handled.deliveries.len();
        if !self.settle_handled(handled, &done.fate).await {
            return false;
        }
        self.forget(&batch, &done.identity).await;
        if let Some(oldest) = oldest {
            // A wall clock that was set back makes nothing younger than now.
            let latency = Duration::try_from(self.route.parts.clock.now().duration_since(oldest)).unwrap_or_default();
            self.tell(RouterEvent::Completed { route: self.name(), latency });
        }
        let Done { newest, attempt, fate, effects, elapsed, .. } = done;
        self.tell(RouterEvent::Finished { route: self.name(), event: newest, attempt, events, fate, effects, elapsed });
        true
    }
}

/// Keys of which the route's memory knows that they are done, until the store does, or nobody cares any more.
struct UnderWay {
    route: Arc<RouteParts>,
    keys: Vec<String>,
}

impl UnderWay {
    fn new(route: &Arc<RouteParts>, keys: Vec<String>) -> Self {
        route.memory.is_done(&keys);
        Self { route: Arc::clone(route), keys }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.route.memory.is_stored(&self.keys);
    }
}
