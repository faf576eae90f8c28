//! The router: built once, configured any number of times. [`Router::apply`] is the only way a route starts or stops.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, RwLock},
    task::Poll,
    time::Duration,
};

use router_api::{
    Admin, AdminError, BuildContext, BuildError, Canceller, Chance, Clock, EffectPort, EnableFrom, Enabled, Handler, QueueStats, Registry, RouteMode,
    RouteName, RouteState, RoutingKey, Store, StoreError, Subscription, TakenUp, Transport, TransportError,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    admin::{RouterAdmin, untold},
    alerts::DeadLetterAlerts,
    archiving::{Archiving, Rules},
    config::{Config, RouteConfig},
    fates::FateLog,
    ledger::Tell,
    matcher::{self, RouteMatcher},
    memory::{Memory, is_paused, set_skips},
    observe::{Observer, Observers, RouterEvent},
    parts::{Now, Parts, RouteParts, Shown, Status},
    recent::Recent,
    redact::Redactor,
    route::{self, Order, Wish},
    sessions::{Projection, SessionBook},
    solitude::Solitude,
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
    fingerprint_key: Option<[u8; 32]>,
    archiving: Option<Arc<Archiving>>,
}

/// What [`Router::apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Routes that were not there or not enabled before.
    pub started: Vec<RouteName>,
    /// Routes whose configuration changed.
    pub restarted: Vec<RouteName>,
    /// Routes that are gone or disabled.
    pub stopped: Vec<RouteName>,
    /// Events that wait in queues of stopped or disabled routes.
    pub waiting: Vec<(RouteName, u64)>,
    /// Events that waited for the started routes.
    pub taken_up: Vec<TakenUp>,
    /// Started and restarted routes that an operator has paused.
    pub paused: Vec<RouteName>,
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
        error: BuildError,
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
    /// A redaction rule is wrong.
    #[error("redact: {0}")]
    Redact(String),
    /// The transport refused the subscriptions.
    #[error("transport: {0}")]
    Transport(TransportError),
    /// The router is stopping.
    #[error("the router is stopping")]
    Stopping,
    /// [`Router::enable`] cannot do that.
    #[error("{0}")]
    Enable(String),
    /// [`Router::enable`] does not know the route.
    #[error("{0}")]
    NoRoute(String),
    /// [`Router::enable`] cannot remember what the route is to skip.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApplyError {
    /// The same for whoever asked for it through the admin port.
    #[must_use]
    pub fn into_admin_error(self) -> AdminError {
        match self {
            Self::NoRoute(error) => AdminError::NotFound(error),
            other => AdminError::Invalid(other.to_string()),
        }
    }
}

/// How a stop went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Handlings that did not end within their route's `drain_ms` and were cancelled; their events are back in their queues.
    pub cancelled: u32,
}

/// A running router.
///
/// Dropping it drains its routes in the background; [`Router::drain`] waits for them.
pub struct Router {
    registry: Registry,
    parts: Arc<Parts>,
    solitude: Solitude,
    fingerprint_key: [u8; 32],
    archiving: Option<Arc<Archiving>>,
    shown: Arc<Shown>,
    state: tokio::sync::Mutex<State>,
    /// Of running routes; apart from `state`, so that a drain under way can be cut short.
    cancellers: Mutex<BTreeMap<RouteName, Canceller>>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<RouteName, Running>,
    stopping: bool,
}

struct Running {
    parts: Arc<RouteParts>,
    task: JoinHandle<u32>,
}

/// A route that can be started.
struct Built {
    parts: Arc<RouteParts>,
    wishes: mpsc::Receiver<Wish>,
}

/// Wishes of operators that wait for a route's loop.
const WISHES_MAX: usize = 16;
/// So long the archive of a bus may be behind after a restart, before a session is told of without it.
const ARCHIVE_BEHIND: Duration = Duration::from_secs(15);

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
        RouterBuilder {
            registry,
            transport,
            store,
            effects,
            clock,
            chance,
            observers: Observers::default(),
            handlers: None,
            host: "localhost".to_owned(),
            fingerprint_key: None,
            archiving: None,
        }
    }

    /// Checks and builds everything that changed, then switches over; any failure changes nothing.
    ///
    /// A changed route drains, within its old `drain_ms`, and starts again on the same queue; new subscriptions work before the
    /// old ones end. Returns when all that is done.
    ///
    /// # Errors
    ///
    /// When a handler cannot be built or the transport refuses.
    pub async fn apply(&self, config: Config) -> Result<Applied, ApplyError> {
        let hash = config.hash.clone();
        let applied = self.switch_to(config).await;
        match &applied {
            Ok(_) => self.parts.observers.tell(RouterEvent::ConfigApplied { hash }),
            Err(error) => self.refused(error),
        }
        applied
    }

    /// What is kept of sessions. Who wants it to follow the archive, and not to wait for the next question, calls
    /// [`SessionBook::catch_up`] from time to time.
    #[must_use]
    pub fn sessions(&self) -> Arc<SessionBook> {
        Arc::clone(&self.parts.session_book)
    }

    /// Tells the observers that a new configuration did not even come as far as [`Router::apply`]: its file cannot be read, or says
    /// what makes no sense. The one before stays in force.
    pub fn refused(&self, error: &dyn std::fmt::Display) {
        self.parts.observers.tell(RouterEvent::ConfigRefused { error: error.to_string() });
    }

    /// Applies a configuration that switches `route` on, and says where the route begins: with what waits in its queue, or with what
    /// comes from now on. What it skips becomes dead letters. A route that is on already, or is off in `config`, changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Router::apply`], and where there is nothing to switch on.
    pub async fn enable(&self, config: Config, route: &RouteName, from: EnableFrom) -> Result<(Enabled, Applied), ApplyError> {
        switches_on(&config, route)?;
        if self.state.lock().await.running.contains_key(route) {
            let how = "it goes on with what waits; `routes pause` holds it";
            return Err(ApplyError::Enable(format!("route `{route}` is on already, so there is nothing to switch on: {how}")));
        }
        let (waiting, since) = waiting_in(&self.queues().await, route);
        let store = &*self.parts.store;
        set_skips(store, route, (from == EnableFrom::Now).then(|| self.parts.clock.now())).await?;
        match self.apply(config).await {
            Ok(mut applied) => {
                if from == EnableFrom::Now {
                    // It skips what waited for it.
                    applied.taken_up.retain(|taken_up| taken_up.route != *route);
                }
                let paused = applied.paused.contains(route);
                let untold = untold(&*self.parts.transport, from);
                Ok((Enabled { route: route.clone(), from, waiting, since, paused, untold, reloaded: None }, applied))
            }
            Err(error) => {
                // It was asked for once, and did not come to pass.
                set_skips(store, route, None).await?;
                Err(error)
            }
        }
    }

    /// State of every queue; none where the transport cannot tell, which is told.
    async fn queues(&self) -> Vec<QueueStats> {
        self.parts.transport.admin().queues().await.unwrap_or_else(|error| {
            // A transport that is away says so by its condition.
            if !matches!(error, TransportError::Unavailable(_)) {
                self.parts.observers.tell(RouterEvent::StoreTrouble { error: error.to_string() });
            }
            Vec::new()
        })
    }

    async fn switch_to(&self, config: Config) -> Result<Applied, ApplyError> {
        let mut state = self.state.lock().await;
        if state.stopping {
            return Err(ApplyError::Stopping);
        }
        let redactor = Redactor::new(&config.redact, self.fingerprint_key)
            .map_err(|problems| ApplyError::Redact(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;

        if let Some(fates) = &self.parts.fates {
            fates.begin(&self.parts.store, &self.parts.observers);
        }
        let mut built: Vec<Built> = Vec::new();
        for route in config.routes.iter().filter(|route| route.enabled) {
            // A route that an interrupted call left draining is not the same, whatever its configuration.
            let same = |running: &Running| {
                let parts = &running.parts;
                parts.config.hash == route.hash && parts.decode == config.limits.decode && *parts.orders.borrow() != Order::Drain && !running.task.is_finished()
            };
            if !state.running.get(&route.name).is_some_and(same) {
                built.push(self.build(route, &config).await?);
            }
        }
        let subscriptions: Vec<Subscription> = config
            .routes
            .iter()
            .filter(|route| route.enabled)
            .map(|route| Subscription { route: route.name.clone(), patterns: route.on.clone(), matcher: matcher::shared(route), queue: route.queue.clone() })
            .collect();
        match self.parts.transport.bind(&subscriptions).await {
            // A transport that is away binds when it comes back.
            Ok(()) | Err(TransportError::Unavailable(_)) => {}
            Err(error) => return Err(ApplyError::Transport(error)),
        }
        if let Err(error) = self.parts.store.record_config(&config.hash, &config.text, self.parts.clock.now()).await {
            self.parts.observers.tell(RouterEvent::StoreTrouble { error: error.to_string() });
        }

        let mut applied = Applied::default();
        // Asked before anything starts to take events out.
        let before = self.queues().await;
        let gone: Vec<RouteName> =
            state.running.keys().filter(|name| !config.routes.iter().any(|route| route.enabled && route.name == **name)).cloned().collect();
        let (restart, start): (Vec<_>, Vec<_>) = built.into_iter().partition(|built: &Built| state.running.contains_key(&built.parts.config.name));
        for built in start {
            let name = built.parts.config.name.clone();
            let (events, since) = waiting_in(&before, &name);
            if events > 0 {
                applied.taken_up.push(TakenUp { route: name.clone(), events, since });
            }
            applied.started.push(name.clone());
            if self.start(&mut state, built).await {
                applied.paused.push(name);
            }
        }
        // All drains side by side, and who has drained goes on: a slow route delays no quick one.
        for name in gone.iter().chain(restart.iter().map(|built| &built.parts.config.name)) {
            if let Some(running) = state.running.get(name) {
                running.parts.orders.send_replace(Order::Drain);
            }
        }
        applied.restarted = restart.iter().map(|built| built.parts.config.name.clone()).collect();
        let mut draining: BTreeMap<RouteName, Option<Built>> = gone.iter().map(|name| (name.clone(), None)).collect();
        draining.extend(restart.into_iter().map(|built| (built.parts.config.name.clone(), Some(built))));
        while !draining.is_empty() {
            let (name, _) = self.join_first(&mut state, draining.keys()).await;
            if let Some(Some(built)) = draining.remove(&name)
                && self.start(&mut state, built).await
            {
                applied.paused.push(name);
            }
        }
        applied.stopped = gone;

        let enabled = |name: &RouteName| config.routes.iter().any(|route| route.enabled && route.name == *name);
        let idle = self.queues().await.into_iter().filter(|queue| !enabled(&queue.route));
        applied.waiting = idle.map(|queue| (queue.route, queue.ready + queue.waiting)).filter(|(_, events)| *events > 0).collect();
        self.parts.recent.keep(|name| config.routes.iter().any(|route| route.name == *name));
        let redactor = Arc::new(redactor);
        *self.parts.redactor.write().expect("no code panics while it holds the redactor") = Some(Arc::clone(&redactor));
        if let Some(archiving) = &self.archiving {
            let routes = config.routes.iter().filter(|route| route.enabled).map(RouteMatcher::of).collect();
            archiving.follow(Rules { redactor, decode: config.limits.decode, routes });
        }
        *self.shown.now() = Now {
            config_hash: config.hash,
            decode: config.limits.decode,
            routes: config
                .routes
                .into_iter()
                .map(|route| {
                    let parts = state.running.get(&route.name).map(|running| Arc::clone(&running.parts));
                    (route, parts)
                })
                .collect(),
        };
        Ok(applied)
    }

    async fn build(&self, route: &RouteConfig, config: &Config) -> Result<Built, ApplyError> {
        let (wishes, listener) = mpsc::channel(WISHES_MAX);
        let parts = Arc::new(RouteParts {
            orders: watch::Sender::new(Order::Run),
            wishes,
            handler: build_handler(&self.registry, route, &self.parts.effects).await?,
            config: route.clone(),
            config_hash: config.hash.clone(),
            decode: config.limits.decode,
            matcher: matcher::shared(route),
            parts: Arc::clone(&self.parts),
            memory: Memory::default(),
            solitude: self.solitude.sibling(),
            status: Mutex::new(Status::begun(RouteState::Stopped)),
        });
        Ok(Built { parts, wishes: listener })
    }

    /// True for a route that an operator has paused.
    async fn start(&self, state: &mut State, Built { parts, wishes }: Built) -> bool {
        // Known to operators before it is read what they said.
        self.shown.starts(&parts);
        let reading = self.shown.pauses.lock().await;
        let paused = match is_paused(&*self.parts.store, &parts.config.name).await {
            Ok(paused) => paused,
            Err(error) => {
                self.parts.observers.tell(RouterEvent::StoreTrouble { error: error.to_string() });
                false
            }
        };
        if paused {
            parts.orders.send_replace(Order::Pause);
        }
        drop(reading);
        let canceller = Canceller::default();
        let name = parts.config.name.clone();
        let task = tokio::spawn(route::run(Arc::clone(&parts), wishes, canceller.clone()));
        self.cancellers().insert(name.clone(), canceller);
        state.running.insert(name, Running { parts, task });
        paused
    }

    /// Waits for the first of these routes to end; one that does not run has ended. Returns how many of its handlings were cancelled.
    async fn join_first<'n>(&self, state: &mut State, names: impl Iterator<Item = &'n RouteName> + Clone) -> (RouteName, u32) {
        let (name, cancelled) = poll_fn(|cx| {
            let ended = names.clone().find_map(|name| match state.running.get_mut(name) {
                None => Some((name.clone(), 0)),
                Some(running) => match Pin::new(&mut running.task).poll(cx) {
                    Poll::Ready(cancelled) => Some((name.clone(), cancelled.unwrap_or_default())),
                    Poll::Pending => None,
                },
            });
            ended.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        state.running.remove(&name);
        self.cancellers().remove(&name);
        (name, cancelled)
    }

    fn cancellers(&self) -> MutexGuard<'_, BTreeMap<RouteName, Canceller>> {
        self.cancellers.lock().expect("no code panics while it holds the cancellers")
    }

    /// The running router, for doors and commands.
    #[must_use]
    pub fn admin(&self) -> Arc<dyn Admin> {
        Arc::new(RouterAdmin { parts: Arc::clone(&self.parts), shown: Arc::clone(&self.shown) })
    }

    /// Stops: nothing new starts, what runs finishes within each route's `drain_ms`, the rest goes back to its queue. The
    /// transport stays open. Nothing can be applied afterwards.
    pub async fn drain(&self) -> Drained {
        let mut state = self.state.lock().await;
        state.stopping = true;
        self.parts.observers.tell(RouterEvent::Draining);
        for running in state.running.values() {
            running.parts.orders.send_replace(Order::Drain);
        }
        let mut drained = Drained::default();
        while !state.running.is_empty() {
            let names: Vec<RouteName> = state.running.keys().cloned().collect();
            drained.cancelled += self.join_first(&mut state, names.iter()).await.1;
        }
        if let Some(fates) = &self.parts.fates {
            fates.flush().await;
        }
        drained
    }

    /// Publishes alerts about dead letters until `stop`, while an enabled route subscribes to them. Give the other half of
    /// [`crate::alerts::dead_letter_alerts`] to the builder as an observer, and spawn this.
    pub fn raise_alerts(&self, alerts: DeadLetterAlerts, stop: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
        let (admin, shown) = (self.admin(), Arc::clone(&self.shown));
        let wanted = move |key: &RoutingKey| shown.now().routes.iter().any(|(route, _)| route.enabled && route.on.iter().any(|pattern| pattern.matches(key)));
        alerts.run(admin, wanted, stop)
    }

    /// Cuts a drain short: cancels what still runs.
    pub fn force(&self) {
        for canceller in self.cancellers().values() {
            canceller.cancel();
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for running in self.state.get_mut().running.values() {
            running.parts.orders.send_replace(Order::Drain);
        }
    }
}

/// Builds the handler of one route, for `apply`, `check` and `try`.
///
/// # Errors
///
/// When the plugin is not linked or does not accept its options.
pub async fn build_handler(registry: &Registry, route: &RouteConfig, effects: &Arc<dyn EffectPort>) -> Result<Arc<dyn Handler>, ApplyError> {
    let Some(plugin) = registry.get(&route.handler) else {
        let linked = registry.iter().map(|plugin| format!("`{}`", plugin.name)).collect::<Vec<_>>().join(", ");
        return Err(ApplyError::NoPlugin { route: route.name.clone(), place: route.place.clone(), handler: route.handler.clone(), linked });
    };
    let cx = BuildContext { route: route.name.clone(), base_dir: route.base_dir.clone(), mode: route.mode, effects: Arc::clone(effects) };
    let handler = plugin.build(route.with.clone(), &cx).await;
    handler.map(Arc::from).map_err(|error| ApplyError::Build { route: route.name.clone(), place: route.place.clone(), error })
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

    /// The key of redaction's fingerprints; drawn afresh if not given, so that fingerprints compare within one process only.
    #[must_use]
    pub fn fingerprint_key(mut self, key: [u8; 32]) -> Self {
        self.fingerprint_key = Some(key);
        self
    }

    /// The archive of the bus, which gets its rules from the router's configurations; the same one that the transport hands what it sees
    /// to. With it the store is told what became of events, unless the transport keeps an archive of its own.
    #[must_use]
    pub fn archiving(mut self, archiving: Arc<Archiving>) -> Self {
        self.archiving = Some(archiving);
        self
    }

    /// The router, with no route yet: see [`Router::apply`].
    ///
    /// # Panics
    ///
    /// When no runtime for handlers was given and none is current.
    #[must_use]
    pub fn build(self) -> Router {
        let fingerprint_key = self.fingerprint_key.unwrap_or_else(|| {
            let mut key = [0; 32];
            for part in key.chunks_exact_mut(8) {
                part.copy_from_slice(&self.chance.next_u64().to_be_bytes());
            }
            key
        });
        let recent = Arc::new(Recent::new(Arc::clone(&self.clock)));
        let mut observers = self.observers;
        observers.add(Arc::clone(&recent) as Arc<dyn Observer>);
        let tells = observers.clone();
        let store_trouble: Tell = Arc::new(move |error| tells.tell(RouterEvent::StoreTrouble { error }));
        let archive_follows = self.archiving.is_some() && !self.transport.features().archives;
        let fates = archive_follows.then(|| FateLog::new(Arc::clone(&self.clock)));
        let sessions = Projection::new(Arc::clone(&self.store), Arc::clone(&self.clock));
        let sessions = if archive_follows { sessions.behind(ARCHIVE_BEHIND) } else { sessions };
        // With a memory of its own: what it was asked for by no handler must not count as known to one, who would not wait for the archive then.
        let projection = Arc::new(Projection::new(Arc::clone(&self.store), Arc::clone(&self.clock)));
        let session_book = Arc::new(SessionBook::new(Arc::clone(&self.store), projection, Arc::clone(&self.clock)));
        Router {
            registry: self.registry,
            shown: Arc::new(Shown::new(self.clock.now())),
            parts: Arc::new(Parts {
                sessions: Arc::new(sessions),
                session_book,
                transport: self.transport,
                store: self.store,
                effects: self.effects,
                clock: self.clock,
                chance: self.chance,
                observers,
                recent,
                handlers: self.handlers.unwrap_or_else(tokio::runtime::Handle::current),
                host: self.host.into(),
                store_trouble,
                redactor: RwLock::default(),
                fates,
            }),
            solitude: Solitude::default(),
            fingerprint_key,
            archiving: self.archiving,
            state: tokio::sync::Mutex::default(),
            cancellers: Mutex::default(),
        }
    }
}

/// Is there something to switch on in this configuration?
pub(crate) fn switches_on(config: &Config, route: &RouteName) -> Result<(), ApplyError> {
    match config.routes.iter().find(|other| other.name == *route) {
        Some(found) if found.enabled => Ok(()),
        Some(found) => Err(ApplyError::Enable(format!(
            "route `{route}` is off in the configuration ({}): write `enabled = true` there first, then this command loads it and says where the route begins",
            found.place
        ))),
        None => {
            let names: Vec<String> = config.routes.iter().map(|route| format!("`{}`", route.name)).collect();
            Err(ApplyError::NoRoute(format!("there is no route `{route}` in the configuration; there are {}", names.join(", "))))
        }
    }
}

/// How many events wait in a route's queue, and since when.
pub(crate) fn waiting_in(queues: &[QueueStats], route: &RouteName) -> (u64, Option<jiff::Timestamp>) {
    queues.iter().find(|queue| queue.route == *route).map_or((0, None), |queue| (queue.ready + queue.waiting, queue.oldest))
}

/// Turns a whole configuration into a dry run, for `demo`.
pub fn shadow_all(config: &mut Config) {
    for route in &mut config.routes {
        route.mode = RouteMode::Shadow;
    }
}
