//! Catches what the router says about finished handlings, so that the demo can tell it in its place.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use router_api::{Envelope, Fate};
use router_core::observe::{Observer, RouterEvent};
use tokio::sync::Notify;

use crate::{
    fates::{fate_text, would_fail},
    terminal::shortened,
};

/// Outcomes that wait to be told; the recording has far fewer.
const OUTCOMES_MAX: usize = 10_000;

/// What came of one handling.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) route: String,
    /// The newest event.
    pub(crate) event: Option<Arc<Envelope>>,
    /// How many were handled as one.
    pub(crate) events: usize,
    pub(crate) ended: EndedAs,
}

#[derive(Debug, Clone)]
pub(crate) enum EndedAs {
    /// The effects, one sentence each.
    WouldDo(Vec<String>),
    /// Nothing outside.
    Otherwise(String),
    /// There was nothing to do.
    Nothing(String),
    /// It failed.
    Failed(String),
}

impl Outcome {
    /// Does it come from this event? Redaction changes bodies, never ids.
    pub(crate) fn is_of(&self, event: &Envelope) -> bool {
        self.event.as_ref().is_some_and(|own| if event.id().is_some() { own.id() == event.id() } else { own.raw() == event.raw() })
    }
}

#[derive(Default)]
pub(crate) struct Watching {
    outcomes: Mutex<VecDeque<Outcome>>,
    /// Deliveries that routes have taken up, by route.
    received: Mutex<HashMap<String, u64>>,
    changed: Notify,
    redactions: AtomicU64,
}

const NO_PANIC: &str = "no code panics while it holds the outcomes";

impl Watching {
    /// Takes out the first outcome that fits.
    pub(crate) fn take(&self, fits: impl Fn(&Outcome) -> bool) -> Option<Outcome> {
        let mut outcomes = self.outcomes.lock().expect(NO_PANIC);
        let at = outcomes.iter().position(fits)?;
        outcomes.remove(at)
    }

    /// Deliveries that `route` has taken up.
    pub(crate) fn received(&self, route: &str) -> u64 {
        self.received.lock().expect(NO_PANIC).get(route).copied().unwrap_or(0)
    }

    /// Resolves when something more was observed; what came since the last call counts.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Values that were replaced at the door.
    pub(crate) fn redactions(&self) -> u64 {
        self.redactions.load(Ordering::Relaxed)
    }

    fn push(&self, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().expect(NO_PANIC);
        if outcomes.len() < OUTCOMES_MAX {
            outcomes.push_back(outcome);
        }
        drop(outcomes);
        self.changed.notify_one();
    }
}

impl Observer for Watching {
    fn observe(&self, event: &RouterEvent) {
        match event {
            RouterEvent::Received { route, .. } => {
                *self.received.lock().expect(NO_PANIC).entry(route.to_string()).or_default() += 1;
                self.changed.notify_one();
            }
            RouterEvent::Accepted { redactions, .. } => {
                self.redactions.fetch_add(u64::from(*redactions), Ordering::Relaxed);
            }
            RouterEvent::Finished { route, event, events, fate, effects, .. } => {
                let ended = match fate {
                    _ if let Some(error) = would_fail(fate) => EndedAs::Failed(format!("would fail: {}", shortened(error, 200))),
                    _ if !effects.is_empty() => EndedAs::WouldDo(effects.iter().map(|effect| shortened(&effect.sentence(), 200)).collect()),
                    // What a handler noted of a dry run stands among the lines.
                    Fate::Shadowed { effects } if !effects.is_empty() => EndedAs::WouldDo(effects.iter().map(|line| shortened(line, 200)).collect()),
                    Fate::Shadowed { .. } => EndedAs::Otherwise("would be handled, with nothing to do outside".to_owned()),
                    Fate::Skipped { .. } => EndedAs::Nothing(fate_text(fate)),
                    _ => EndedAs::Otherwise(fate_text(fate)),
                };
                self.push(Outcome { route: route.to_string(), event: Some(Arc::clone(event)), events: *events, ended });
            }
            RouterEvent::Failed { route, event, events, error, .. } => {
                self.push(Outcome { route: route.to_string(), event: Some(Arc::clone(event)), events: *events, ended: EndedAs::Failed(shortened(error, 200)) });
            }
            RouterEvent::Buried { route, events, reason, error, .. } => {
                let ended = EndedAs::Failed(format!("given up on ({reason}): {}", shortened(error, 200)));
                self.push(Outcome { route: route.to_string(), event: None, events: *events, ended });
            }
            _ => {}
        }
    }
}
