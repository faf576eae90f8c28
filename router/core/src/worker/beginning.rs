//! The moment at which an attempt begins: not when it is asked for, but when its handler's turn has come. What only waited for its turn
//! when the process died is charged nothing, and nobody was told of it.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use router_api::{
    Envelope, RunningSlot,
    failpoint::{self, Failpoint},
};

use crate::{lanes::LaneKey, observe::RouterEvent, parts::RouteParts};

/// One attempt, between the route's loop, which waits for its end, and the task that begins it.
pub(crate) struct Beginning {
    pub(super) route: Arc<RouteParts>,
    /// Under which it is marked as running.
    pub(super) identity: String,
    /// The newest of its events.
    pub(super) event: Arc<Envelope>,
    pub(super) lane: LaneKey,
    pub(super) attempt: u32,
    pub(super) events: usize,
    pub(super) stage: Mutex<Stage>,
}

/// How far it has come.
#[derive(Default)]
pub(super) enum Stage {
    #[default]
    Waits,
    Runs {
        since: Duration,
        slot: Option<RunningSlot>,
    },
    /// Nobody waits for it any more.
    Over,
}

impl Beginning {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no code panics while it holds a stage")
    }

    /// Its handler runs from now on, marked, so that the death of the process is noticed. False when nobody wants that any more.
    pub(crate) fn begin(&self) -> bool {
        let parts = &self.route.parts;
        {
            let mut stage = self.stage();
            if !matches!(*stage, Stage::Waits) {
                return false;
            }
            failpoint::pass(Failpoint::AttemptBefore);
            *stage = Stage::Runs { since: parts.clock.monotonic(), slot: parts.store.begin_running(&self.route.config.name, &self.identity) };
            failpoint::pass(Failpoint::AttemptBegun);
        }
        parts.observers.tell(RouterEvent::Started {
            route: self.route.config.name.clone(),
            event: Arc::clone(&self.event),
            attempt: self.attempt,
            events: self.events,
            lane: Some(Arc::clone(&self.lane)),
        });
        true
    }

    /// It is over, whatever came of it: no death of the process is its fault any more. Once more changes nothing.
    pub(crate) fn unmark(&self) {
        let slot = match &mut *self.stage() {
            Stage::Runs { slot, .. } => slot.take(),
            Stage::Waits | Stage::Over => None,
        };
        if let Some(slot) = slot {
            failpoint::pass(Failpoint::AttemptDone);
            self.route.parts.store.end_running(slot);
            failpoint::pass(Failpoint::AttemptAfter);
        }
    }

    /// Begins no more if it has not begun, which is true then.
    pub(crate) fn call_off(&self) -> bool {
        let mut stage = self.stage();
        let waits = matches!(*stage, Stage::Waits);
        if waits {
            *stage = Stage::Over;
        }
        waits
    }

    /// Begins no more, and tells its end if it had begun. Returns how long it ran.
    pub(super) fn end(&self) -> Duration {
        let was = std::mem::replace(&mut *self.stage(), Stage::Over);
        let Stage::Runs { since, .. } = was else { return Duration::ZERO };
        let elapsed = self.route.parts.clock.monotonic().saturating_sub(since);
        self.route.parts.observers.tell(RouterEvent::AttemptEnded { route: self.route.config.name.clone(), events: self.events, elapsed });
        elapsed
    }
}

/// Whoever waits for an attempt holds one, so that one that panics or is dropped does not count as running for ever. Its mark stays: the
/// process may be dying.
pub(super) struct Awaited(pub(super) Arc<Beginning>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.end();
    }
}
