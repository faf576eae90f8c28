//! What a router and its routes are made of while they run, and what they show of themselves.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use jiff::Timestamp;
use router_api::{BreakerState, Chance, Clock, DecodeLimits, EffectPort, Handler, RouteName, RouteState, Sessions, Store, Transport};
use tokio::sync::{mpsc, watch};

use crate::{
    config::RouteConfig,
    fates::FateLog,
    ledger::Tell,
    matcher::RouteMatcher,
    memory::Memory,
    observe::Observers,
    recent::Recent,
    redact::Redactor,
    route::{Order, Wish},
    sessions::SessionBook,
    solitude::Solitude,
};

/// What all routes of a router share.
pub(crate) struct Parts {
    pub transport: Arc<dyn Transport>,
    pub store: Arc<dyn Store>,
    /// Over that store.
    pub sessions: Arc<dyn Sessions>,
    /// What is kept of them.
    pub session_book: Arc<SessionBook>,
    pub effects: Arc<dyn EffectPort>,
    pub clock: Arc<dyn Clock>,
    pub chance: Arc<dyn Chance>,
    pub observers: Observers,
    /// Stands among the observers.
    pub recent: Arc<Recent>,
    pub handlers: tokio::runtime::Handle,
    pub host: Arc<str>,
    /// For the ledgers of all handlings.
    pub store_trouble: Tell,
    /// Of the configuration in force; none before the first one.
    pub redactor: RwLock<Option<Arc<Redactor>>>,
    /// Where the transport keeps no archive of its own and the store keeps one of the bus.
    pub fates: Option<FateLog>,
}

impl Parts {
    pub(crate) fn redactor(&self) -> Option<Arc<Redactor>> {
        self.redactor.read().expect("no code panics while it holds the redactor").clone()
    }
}

/// One route with everything that it needs to run.
pub(crate) struct RouteParts {
    pub config: RouteConfig,
    pub config_hash: String,
    pub decode: DecodeLimits,
    pub matcher: Arc<RouteMatcher>,
    pub handler: Arc<dyn Handler>,
    pub parts: Arc<Parts>,
    pub memory: Memory,
    pub solitude: Solitude,
    pub status: Mutex<Status>,
    /// What the route is to do.
    pub orders: watch::Sender<Order>,
    /// Small wishes; one that finds the channel full is not needed.
    pub wishes: mpsc::Sender<Wish>,
}

/// What a route shows of itself.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub state: RouteState,
    pub note: Option<String>,
    pub open_bursts: u32,
    pub failing_bursts: u32,
    pub breaker: BreakerState,
}

impl RouteParts {
    /// Events of one lane one after the other, the head waiting in hand.
    pub(crate) fn is_ordered(&self) -> bool {
        self.config.order_by.is_some() || self.config.coalesce.is_some()
    }

    /// Handlers that may run at once.
    pub(crate) fn concurrency(&self) -> usize {
        usize::try_from(self.config.concurrency).unwrap_or(usize::MAX).max(1)
    }

    pub(crate) fn status(&self) -> Status {
        self.status.lock().expect("no code panics while it holds the status").clone()
    }

    pub(crate) fn show(&self, state: RouteState, note: Option<String>) {
        let mut status = self.status.lock().expect("no code panics while it holds the status");
        status.state = state;
        status.note = note;
    }

    pub(crate) fn show_breaker(&self, breaker: BreakerState) {
        self.status.lock().expect("no code panics while it holds the status").breaker = breaker;
    }

    pub(crate) fn show_bursts(&self, open: usize, failing: usize) {
        let mut status = self.status.lock().expect("no code panics while it holds the status");
        status.open_bursts = u32::try_from(open).unwrap_or(u32::MAX);
        status.failing_bursts = u32::try_from(failing).unwrap_or(u32::MAX);
    }
}

impl Status {
    /// Of a route that does not run.
    pub(crate) fn idle(route: &RouteConfig) -> Self {
        Self::begun(if route.enabled { RouteState::Stopped } else { RouteState::Disabled })
    }

    /// Of a route that has done nothing yet.
    pub(crate) fn begun(state: RouteState) -> Self {
        Self { state, note: None, open_bursts: 0, failing_bursts: 0, breaker: BreakerState::Closed }
    }
}

/// What the admin port shows, without waiting for an `apply` under way.
pub(crate) struct Shown {
    pub started_at: Timestamp,
    now: Mutex<Now>,
    /// Held from the storing of an operator's pause, or its end, until the route knows of it, and while a route that starts reads whether it
    /// is paused: it would go on with what was read before.
    pub pauses: tokio::sync::Mutex<()>,
}

#[derive(Default, Clone)]
pub(crate) struct Now {
    pub config_hash: String,
    pub decode: DecodeLimits,
    /// Every route of the configuration, in its order.
    pub routes: Vec<(RouteConfig, Option<Arc<RouteParts>>)>,
}

impl Shown {
    /// Of a router without a configuration.
    pub(crate) fn new(started_at: Timestamp) -> Self {
        Self { started_at, now: Mutex::default(), pauses: tokio::sync::Mutex::default() }
    }

    /// The parts of a route as it runs now; `None` within where it does not run.
    pub(crate) fn route(&self, name: &RouteName) -> Option<Option<Arc<RouteParts>>> {
        self.now().routes.iter().find(|(config, _)| config.name == *name).map(|(_, parts)| parts.clone())
    }

    /// A route starts, perhaps in the place of an earlier one. Commands are for this one from now on, also while the rest of a reload goes on.
    pub(crate) fn starts(&self, parts: &Arc<RouteParts>) {
        let shown = (parts.config.clone(), Some(Arc::clone(parts)));
        let routes = &mut self.now().routes;
        match routes.iter_mut().find(|(config, _)| config.name == parts.config.name) {
            Some(route) => *route = shown,
            None => routes.push(shown),
        }
    }

    pub(crate) fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("no code panics while it holds what is shown")
    }
}
