//! The router: built once, configured any number of times.

use std::sync::Arc;

use router_api::{Admin, Chance, Clock, EffectPort, Registry, RouteName, Store, Transport};

use crate::{
    config::Config,
    observe::{Observer, Observers},
};

/// The parts of a router.
pub struct RouterBuilder {
    registry: Registry,
    transport: Arc<dyn Transport>,
    store: Arc<dyn Store>,
    effects: Arc<dyn EffectPort>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    observers: Observers,
    handlers: Option<tokio::runtime::Handle>,
    host: String,
}

/// What [`Router::apply`] did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Routes that were not there or not enabled before.
    pub started: Vec<RouteName>,
    /// Routes whose configuration changed.
    pub restarted: Vec<RouteName>,
    /// Routes that are gone or disabled.
    pub stopped: Vec<RouteName>,
    /// Events that wait in queues of stopped or disabled routes.
    pub waiting: Vec<(RouteName, u64)>,
}

/// Why a configuration was not applied. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A handler could not be built.
    #[error("route `{route}` ({place}): {error}")]
    Build {
        /// The route.
        route: RouteName,
        /// `file:line`.
        place: String,
        /// What is wrong.
        error: router_api::BuildError,
    },
    /// A route names a plugin that is not linked.
    #[error("route `{route}` ({place}): no plugin `{handler}` is linked into this program; there are {linked}")]
    NoPlugin {
        /// The route.
        route: RouteName,
        /// `file:line`.
        place: String,
        /// The name.
        handler: String,
        /// The names that there are.
        linked: String,
    },
    /// The transport refused the subscriptions.
    #[error("transport: {0}")]
    Transport(router_api::TransportError),
    /// The router is stopping.
    #[error("the router is stopping")]
    Stopping,
}

/// How a stop went.
#[derive(Debug, Clone, Default)]
pub struct Drained {
    /// Handlings that did not end within their route's `drain_ms` and were cancelled; their events are back in their queues.
    pub cancelled: u32,
}

/// A running router.
pub struct Router {}

impl Router {
    /// Begins a router from the parts that it cannot do without. `effects` performs effects for real; shadow routes use it
    /// for reads only.
    #[must_use]
    pub fn builder(
        registry: Registry,
        transport: Arc<dyn Transport>,
        store: Arc<dyn Store>,
        effects: Arc<dyn EffectPort>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> RouterBuilder {
        RouterBuilder { registry, transport, store, effects, clock, chance, observers: Observers::default(), handlers: None, host: "localhost".to_owned() }
    }

    /// Checks and builds everything that changed, then switches over; any failure changes nothing.
    ///
    /// # Errors
    ///
    /// When a handler cannot be built or the transport refuses.
    pub async fn apply(&self, config: Config) -> Result<Applied, ApplyError> {
        let _ = config;
        todo!()
    }

    /// The running router, for doors and commands.
    #[must_use]
    pub fn admin(&self) -> Arc<dyn Admin> {
        todo!()
    }

    /// Stops: nothing new starts, what runs finishes within each route's `drain_ms`, the rest goes back to its queue.
    pub async fn drain(&self) -> Drained {
        todo!()
    }

    /// Cuts a drain short: cancels what still runs.
    pub fn force(&self) {
        todo!()
    }
}

impl RouterBuilder {
    /// Adds an observer.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.add(observer);
        self
    }

    /// Where handlers run; the current runtime if not given. A runtime of their own keeps a handler that blocks its thread
    /// from stopping the transport.
    #[must_use]
    pub fn handlers(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.handlers = Some(runtime);
        self
    }

    /// This machine's name, for emitted events.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The router, with no route yet: see [`Router::apply`].
    #[must_use]
    pub fn build(self) -> Router {
        todo!()
    }
}
