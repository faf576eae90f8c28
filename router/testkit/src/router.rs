//! A whole router in a test: memory transport, virtual clock, fake effects, the real pipeline between them.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use router_api::{
    AttemptRecord, Clock, DeadLetterQuery, DeadLetterReason, Fate, Plugin, Publication, Published, Registration, Registry, RouteName, RoutingKey,
    StoredDeadLetter, Transport,
};
use router_core::{
    ApplyError, Drained, Router,
    config::{self, Config, FixedEnvironment, Problems},
    observe::RouterEvent,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{EventBuilder, FakeEffects, MemoryState, MemoryStore, MemoryTransport, RecordingObserver, SeededChance, VirtualClock, event};

/// How one event, or one burst, ended on one route.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Ending {
    /// Settled as done.
    Finished {
        /// The route.
        route: RouteName,
        /// The routing key of the newest event.
        key: RoutingKey,
        /// How.
        fate: Fate,
        /// The attempt that succeeded, from 1.
        attempt: u32,
        /// How many events there were; more than one for a burst.
        events: usize,
    },
    /// Given up on.
    Buried {
        /// The route.
        route: RouteName,
        /// The routing key of the newest event.
        key: RoutingKey,
        /// Why.
        reason: DeadLetterReason,
        /// The last error.
        error: String,
        /// Failed attempts.
        attempts: u32,
        /// How many events there were.
        events: usize,
    },
    /// Patterns or filter of the route do not want it any more.
    Filtered {
        /// The route.
        route: RouteName,
        /// Its routing key.
        key: RoutingKey,
    },
    /// The route has done it before.
    Duplicate {
        /// The route.
        route: RouteName,
        /// Its routing key.
        key: RoutingKey,
        /// What recognised it.
        dedup_key: String,
    },
}

impl Ending {
    /// True for an event that was handled.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        matches!(self, Self::Finished { fate: Fate::Handled { .. }, .. })
    }

    fn of(event: &RouterEvent) -> Option<Self> {
        Some(match event.clone() {
            RouterEvent::Finished { route, event, fate, attempt, events, .. } => Self::Finished { route, key: event.key().clone(), fate, attempt, events },
            RouterEvent::Buried { route, key, reason, error, attempts, events, .. } => Self::Buried { route, key, reason, error, attempts, events },
            RouterEvent::Filtered { route, key } => Self::Filtered { route, key },
            RouterEvent::Duplicate { route, key, dedup_key } => Self::Duplicate { route, key, dedup_key },
            _ => return None,
        })
    }
}

/// What a [`TestRouter`] is made from.
pub struct TestRouterBuilder {
    toml: String,
    plugins: Vec<Registration>,
    environment: FixedEnvironment,
    state: MemoryState,
    clock: VirtualClock,
    effects: FakeEffects,
}

/// A running router on a memory transport, a virtual clock and fake effects.
///
/// Waiting costs no time: [`TestRouter::outcome`] moves the clock through retries, quiet times and pauses. It needs a
/// current-thread runtime, which `#[tokio::test]` is; see [`VirtualClock::run_until`].
///
/// ```
/// use async_trait::async_trait;
/// use router_api::{BuildContext, BuildError, CommandReply, CommandRequest, Context, EffectReply, Envelope, Handler, HandlerError, Outcome, Plugin, Program};
/// use router_testkit::{Ending, TestRouter, event};
/// use serde_json::json;
///
/// /// Runs the tests of a project.
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Check {
///     /// The program to run.
///     program: String,
/// }
///
/// struct Checking(Program);
///
/// #[async_trait]
/// impl Plugin for Check {
///     const NAME: &'static str = "check";
///
///     async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
///         Ok(Box::new(Checking(cx.program("program", &self.program)?)))
///     }
/// }
///
/// #[async_trait]
/// impl Handler for Checking {
///     async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
///         let file = event.file_path().unwrap_or(".").to_owned();
///         cx.command(CommandRequest::new(self.0.clone()).args([file])).await?.ok()?;
///         Ok(Outcome::Done)
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let mut test = TestRouter::with_route(
///     r#"
///     name = "checks"
///     on = ["session.thread.agent.action"]
///     when = { tool_name = ["Write"] }
///     handler = "check"
///     with = { program = "pytest" }
///     "#,
/// )
/// .plugin::<Check>()
/// .build()
/// .await;
///
/// // The program fails once; the second attempt comes by itself.
/// test.effects().once("command", |_| Ok(EffectReply::Command(CommandReply::exit(1))));
/// test.publish(event("session.thread.agent.action").tool("Write").file("app.py")).await;
/// assert!(matches!(test.outcome().await, Ending::Finished { attempt: 2, .. }));
/// assert_eq!(test.effects().sentences(), ["pytest app.py", "pytest app.py"]);
///
/// // What the filter does not want is not even queued.
/// assert!(!test.publish(event("session.thread.agent.action").tool("Read")).await.routed);
/// # test.end().await;
/// # });
/// ```
pub struct TestRouter {
    registry: Registry,
    environment: FixedEnvironment,
    directory: TempDir,
    state: MemoryState,
    clock: VirtualClock,
    effects: FakeEffects,
    observer: RecordingObserver,
    /// Endings that [`TestRouter::outcome`] has given out.
    told: usize,
    running: Running,
}

/// What a process has, and a restart makes anew.
struct Running {
    router: Router,
    transport: MemoryTransport,
    store: MemoryStore,
}

impl TestRouterBuilder {
    /// Links a plugin.
    #[must_use]
    pub fn plugin<P: Plugin>(self) -> Self {
        self.registration(Registration::of::<P>())
    }

    /// Links a plugin by its registration.
    #[must_use]
    pub fn registration(mut self, plugin: Registration) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// Links all plugins that this test program links.
    ///
    /// # Panics
    ///
    /// When there is none: the test needs a `use my_plugins as _;`.
    #[must_use]
    pub fn linked_plugins(mut self) -> Self {
        let registry = Registry::linked().unwrap_or_else(|error| panic!("{error}"));
        self.plugins.extend(registry.iter().copied());
        self
    }

    /// Sets a variable that the configuration can refer to as `${NAME}`.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment = self.environment.with(name, value);
        self
    }

    /// Goes by this clock.
    #[must_use]
    pub fn clock(mut self, clock: VirtualClock) -> Self {
        self.clock = clock;
        self
    }

    /// Asks these effects, for instance ones that answer while the router is being built.
    #[must_use]
    pub fn effects(mut self, effects: FakeEffects) -> Self {
        self.effects = effects;
        self
    }

    /// Starts over what an earlier router has left.
    #[must_use]
    pub fn state(mut self, state: MemoryState) -> Self {
        self.state = state;
        self
    }

    /// Starts the router.
    ///
    /// # Panics
    ///
    /// When the configuration has a problem, with all of them as `check` shows them.
    pub async fn build(self) -> TestRouter {
        self.try_build().await.unwrap_or_else(|problems| panic!("the configuration of the test cannot be used:\n{}", problems.report.render(false)))
    }

    /// Starts the router, or says what is wrong with its configuration.
    ///
    /// # Errors
    ///
    /// All problems of the configuration.
    ///
    /// # Panics
    ///
    /// When no plugin was given, or the router does not start for another reason than its configuration.
    pub async fn try_build(self) -> Result<TestRouter, Problems> {
        let registry = Registry::of(self.plugins).unwrap_or_else(|error| panic!("{error}"));
        let directory = TempDir::new().unwrap_or_else(|error| panic!("a test needs a directory for its configuration: {error}"));
        let config = load(&self.toml, &registry, &self.effects, &self.environment, directory.path()).await?;
        let observer = RecordingObserver::new();
        let running = Running::start(&registry, &self.state, &self.clock, &self.effects, &observer);
        let test = TestRouter {
            registry,
            environment: self.environment,
            directory,
            state: self.state,
            clock: self.clock,
            effects: self.effects,
            observer,
            told: 0,
            running,
        };
        let applied = test.clock.run_until(test.running.router.apply(config)).await;
        applied.unwrap_or_else(|error| panic!("the router does not start: {error}"));
        Ok(test)
    }
}

/// Reads a configuration as it would be read from a file.
async fn load(toml: &str, registry: &Registry, effects: &FakeEffects, environment: &FixedEnvironment, directory: &Path) -> Result<Config, Problems> {
    let file = directory.join("router.toml");
    std::fs::write(&file, toml).unwrap_or_else(|error| panic!("the configuration of the test cannot be written: {error}"));
    let located = config::locate(&[file], None, directory);
    Ok(config::load(&located, registry, Arc::new(effects.clone()), environment).await?.config)
}

impl Running {
    fn start(registry: &Registry, state: &MemoryState, clock: &VirtualClock, effects: &FakeEffects, observer: &RecordingObserver) -> Self {
        let transport = MemoryTransport::new(state, Arc::new(clock.clone()));
        let store = MemoryStore::new(state);
        let router = Router::builder(
            registry.clone(),
            Arc::new(transport.clone()),
            Arc::new(store.clone()),
            Arc::new(effects.clone()),
            Arc::new(clock.clone()),
            Arc::new(SeededChance::new(1)),
        )
        .observer(Arc::new(observer.clone()))
        .host("testhost")
        .build();
        Self { router, transport, store }
    }
}

impl TestRouter {
    /// Begins a router with one route: the keys of a `[[route]]` table.
    #[must_use]
    pub fn with_route(toml: &str) -> TestRouterBuilder {
        Self::with_config(&format!("[[route]]\n{toml}"))
    }

    /// Begins a router with a whole configuration.
    #[must_use]
    pub fn with_config(toml: &str) -> TestRouterBuilder {
        TestRouterBuilder {
            toml: toml.to_owned(),
            plugins: Vec::new(),
            environment: FixedEnvironment::default(),
            state: MemoryState::new(),
            clock: VirtualClock::default(),
            effects: FakeEffects::new(),
        }
    }

    /// Sends an event of the v2 dialect with `payload`, as an HTTP client would: through redaction, and safe when it returns.
    ///
    /// # Panics
    ///
    /// When the router does not take it.
    pub async fn send(&self, key: &str, payload: Value) -> Published {
        self.publish(event(key).payload(payload)).await
    }

    /// Sends an event.
    ///
    /// # Panics
    ///
    /// When the router does not take it.
    pub async fn publish(&self, event: EventBuilder) -> Published {
        self.publish_raw(event.publication()).await
    }

    /// Sends arbitrary bytes.
    ///
    /// # Panics
    ///
    /// When the router does not take them.
    pub async fn publish_raw(&self, publication: Publication) -> Published {
        let admin = self.running.router.admin();
        admin.publish(publication).await.unwrap_or_else(|error| panic!("the event was not taken: {error}"))
    }

    /// The next ending, in the order in which they come, each given out once. Lets as much time pass as it takes.
    ///
    /// # Panics
    ///
    /// When nothing ends: nobody sleeps any more and a minute of real time is over, or the clock was moved a million times.
    pub async fn outcome(&mut self) -> Ending {
        self.told += 1;
        let nth = self.told;
        let event = self.clock.run_until(self.observer.wait_for_nth(nth, |event| Ending::of(event).is_some())).await;
        Ending::of(&event).expect("the wait was for an ending")
    }

    /// The next `count` endings.
    ///
    /// # Panics
    ///
    /// As [`TestRouter::outcome`].
    pub async fn outcomes(&mut self, count: usize) -> Vec<Ending> {
        let mut endings = Vec::with_capacity(count);
        for _ in 0..count {
            endings.push(self.outcome().await);
        }
        endings
    }

    /// Endings that have come and were not given out yet, without letting time pass. Call [`TestRouter::idle`] before.
    #[must_use]
    pub fn untold(&self) -> Vec<Ending> {
        self.observer.events().iter().filter_map(Ending::of).skip(self.told).collect()
    }

    /// Lets `duration` pass; what becomes due on the way runs at its time.
    pub async fn advance(&self, duration: Duration) {
        self.clock.pass(duration).await;
    }

    /// Lets everything run that can run now, without letting time pass.
    pub async fn idle(&self) {
        self.clock.pass(Duration::ZERO).await;
    }

    /// Runs a future and lets as much time pass as it takes.
    pub async fn run_until<F: Future>(&self, future: F) -> F::Output {
        self.clock.run_until(future).await
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    /// The effects: what was asked for, and what is answered.
    #[must_use]
    pub fn effects(&self) -> &FakeEffects {
        &self.effects
    }

    /// Everything that the router said.
    #[must_use]
    pub fn observer(&self) -> &RecordingObserver {
        &self.observer
    }

    /// The transport, to look at and to break.
    #[must_use]
    pub fn transport(&self) -> &MemoryTransport {
        &self.running.transport
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &MemoryStore {
        &self.running.store
    }

    /// What survives a restart.
    #[must_use]
    pub fn state(&self) -> &MemoryState {
        &self.state
    }

    /// The router itself.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.running.router
    }

    /// The directory of the configuration; relative paths in it start here.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All dead letters, newest first.
    ///
    /// # Panics
    ///
    /// When the transport is closed.
    pub async fn dead_letters(&self) -> Vec<StoredDeadLetter> {
        let query = DeadLetterQuery { limit: Some(u32::MAX), ..DeadLetterQuery::default() };
        let letters = self.running.transport.admin().dead_letters(&query).await;
        letters.unwrap_or_else(|error| panic!("the dead letters cannot be read: {error}"))
    }

    /// The failed attempts that the dead letters of `route` tell of, oldest letter first.
    ///
    /// # Panics
    ///
    /// When the transport is closed.
    pub async fn failed_attempts(&self, route: &str) -> Vec<AttemptRecord> {
        let letters = self.dead_letters().await;
        letters.into_iter().rev().filter(|stored| stored.letter.route.as_str() == route).flat_map(|stored| stored.letter.history).collect()
    }

    /// Applies another configuration, as a reload does.
    ///
    /// # Errors
    ///
    /// When the router does not take it.
    ///
    /// # Panics
    ///
    /// When the configuration has a problem of its own.
    pub async fn apply(&self, toml: &str) -> Result<router_core::Applied, ApplyError> {
        let config = self.load(toml).await;
        self.clock.run_until(self.running.router.apply(config)).await
    }

    async fn load(&self, toml: &str) -> Config {
        let config = load(toml, &self.registry, &self.effects, &self.environment, self.directory.path()).await;
        config.unwrap_or_else(|problems| panic!("the configuration of the test cannot be used:\n{}", problems.report.render(false)))
    }

    /// Stops the router as a service manager does, lets what runs finish, and starts it again on the same queues with the
    /// configuration that was applied last.
    ///
    /// # Panics
    ///
    /// When the router does not start again.
    pub async fn restart(&mut self) -> Drained {
        let drained = self.clock.run_until(self.running.router.drain()).await;
        self.running.transport.close().await;
        self.start_again().await;
        drained
    }

    /// Kills the router in the middle of whatever it does and starts it again: what was in hand comes back, and what was running
    /// is suspected of having killed it.
    ///
    /// Handlers that run cannot be stopped within one process; they are cancelled, and whatever they still do has no
    /// consequences for the queues.
    ///
    /// # Panics
    ///
    /// When the router does not start again.
    pub async fn crash(&mut self) {
        self.state.crash();
        self.running.router.force();
        self.clock.run_until(self.running.router.drain()).await;
        self.start_again().await;
    }

    async fn start_again(&mut self) {
        let toml = std::fs::read_to_string(self.directory.path().join("router.toml")).unwrap_or_else(|error| panic!("the configuration is gone: {error}"));
        let config = self.load(&toml).await;
        self.running = Running::start(&self.registry, &self.state, &self.clock, &self.effects, &self.observer);
        let applied = self.clock.run_until(self.running.router.apply(config)).await;
        applied.unwrap_or_else(|error| panic!("the router does not start again: {error}"));
    }

    /// Stops the router.
    ///
    /// # Panics
    ///
    /// When the router has misused its transport, for instance by settling a delivery twice.
    pub async fn end(self) -> Drained {
        let drained = self.clock.run_until(self.running.router.drain()).await;
        let misuses = self.running.transport.misuses();
        assert!(misuses.is_empty(), "the router misused its transport: {misuses:?}");
        drained
    }
}

impl std::fmt::Debug for TestRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRouter").field("clock", &self.clock.monotonic()).field("events", &self.observer).finish_non_exhaustive()
    }
}
