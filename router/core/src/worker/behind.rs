//! What follows a handling that ended well: it is remembered, settled, and told.
//!
//! Where a store has to sync a disk before it remembers, that takes longer than most handlers do. So the handling is over then for its lane
//! and for `concurrency`, and this goes on behind it: one commit remembers what many handlings have done. Meanwhile the route's memory knows
//! what is under way, so that a repetition is recognised, and the route's loop bounds how much of it there is: a kill repeats no more.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use router_api::{
    BoxFuture, Fate, InboxKey, RecordedEffect,
    failpoint::{self, Failpoint},
};

use super::{Beginning, Item, Worker, settling::Handled};
use crate::{lanes::Batch, observe::RouterEvent, parts::RouteParts};

/// A handling that ended well.
pub(super) struct Done {
    pub beginning: Arc<Beginning>,
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
    remembering: Option<BoxFuture<'static, ()>>,
    /// Where the settlement remembers it.
    under_way: Option<UnderWay>,
}

impl Behind {
    /// How many deliveries it is.
    pub(crate) fn deliveries(&self) -> usize {
        self.handled.deliveries.len()
    }

    /// Waits for a disk.
    pub(super) fn is_slow(&self) -> bool {
        self.remembering.is_some() || self.under_way.is_some()
    }
}

impl Worker {
    /// Begins to remember a batch that is done.
    pub(super) fn begin_behind(&self, mut batch: Batch<Item>, done: Done) -> Behind {
        let items = std::mem::take(&mut batch.items);
        let oldest = items.iter().map(|item| item.delivery.stored_at).min();
        let (handled, remembering) = self.remember(items);
        let remembering = remembering.and_then(|mut remembering| match (&mut remembering).now_or_never() {
            Some(()) => None,
            None => Some(remembering),
        });
        let under_way = self
            .route
            .parts
            .transport
            .features()
            .inbox_in_settlement
            .then(|| UnderWay::new(Arc::clone(&self.route), handled.inbox.iter().flatten().map(|inbox| inbox.key.clone()).collect()));
        Behind { batch, handled, oldest, done, remembering, under_way }
    }

    /// Takes it to its end. False when the session is over.
    pub(crate) async fn end_behind(&self, behind: Behind) -> bool {
        let Behind { batch, handled, oldest, done, remembering, under_way } = behind;
        if let Some(remembering) = remembering {
            remembering.await;
        }
        let events = handled.deliveries.len();
        if !self.settle_handled(handled, &done.fate).await {
            return false;
        }
        drop(under_way);
        self.forget(&batch, &done.beginning.identity).await;
        if let Some(oldest) = oldest {
            // A wall clock that was set back makes nothing younger than now.
            let latency = Duration::try_from(self.route.parts.clock.now().duration_since(oldest)).unwrap_or_default();
            self.tell(RouterEvent::Completed { route: self.name(), latency });
        }
        let Done { beginning, fate, effects, elapsed } = done;
        self.tell(RouterEvent::Finished {
            route: self.name(),
            event: Arc::clone(&beginning.event),
            attempt: beginning.attempt,
            events,
            fate,
            effects,
            elapsed,
        });
        true
    }
}

/// Remembers what is done in an inbox that the transport does not keep. What takes longer than a moment is known to the route's memory
/// from then on, until the inbox has it, or nobody cares any more.
pub(super) async fn remember_beside(route: Arc<RouteParts>, keys: Vec<InboxKey>) {
    failpoint::pass(Failpoint::InboxBefore);
    let remembered = {
        let mut inserting = route.parts.store.inbox_insert(&route.config.name, &keys);
        match (&mut inserting).now_or_never() {
            Some(remembered) => remembered,
            None => {
                let _under_way = UnderWay::new(Arc::clone(&route), keys.iter().map(|inbox| inbox.key.clone()).collect());
                inserting.await
            }
        }
    };
    if let Err(error) = remembered {
        route.parts.observers.tell(RouterEvent::StoreTrouble { error: error.to_string() });
    }
    failpoint::pass(Failpoint::InboxAfter);
}

/// Keys of which the route's memory knows that they are done.
struct UnderWay {
    route: Arc<RouteParts>,
    keys: Vec<String>,
}

impl UnderWay {
    fn new(route: Arc<RouteParts>, keys: Vec<String>) -> Self {
        route.memory.is_done(keys.iter().cloned());
        Self { route, keys }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.route.memory.is_stored(self.keys.iter().map(String::as_str));
    }
}
