//! Calling a handler directly, without a router around it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use router_api::{
    Attempt, BuildContext, BuildError, Cancellation, Clock, Context, ContextParts, DryRun, EffectClass, EffectPort, Emit, Envelope, Handler, HandlerError,
    Ledger, Outcome, Plugin, Registration, RouteMode, RouteName, Store,
};
use router_core::{ledger::HandlingLedger, sessions::Projection};
use serde_json::Value;

use crate::{EventBuilder, FakeEffects, MemoryState, MemoryStore, VirtualClock};

/// What a handler is given in a test.
///
/// ```
/// use async_trait::async_trait;
/// use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin};
/// use router_testkit::{TestContext, event};
/// use serde_json::json;
///
/// /// Counts nothing, emits an answer.
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Answer { text: String }
/// struct Answering(String);
///
/// #[async_trait]
/// impl Plugin for Answer {
///     const NAME: &'static str = "answer";
///     async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> { Ok(Box::new(Answering(self.text))) }
/// }
///
/// #[async_trait]
/// impl Handler for Answering {
///     async fn handle(&self, _: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
///         cx.emit(&"answer.given".parse()?, json!({ "text": self.0 }));
///         Ok(Outcome::Done)
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let test = TestContext::new();
/// let handler = test.build::<Answer>(json!({ "text": "42" })).await.unwrap();
/// let handled = test.handle(handler.as_ref(), [event("question.asked")]).await;
/// assert!(matches!(handled.result, Ok(Outcome::Done)));
/// assert_eq!(handled.emits[0].body["payload"]["text"], "42");
/// # });
/// ```
#[derive(Clone)]
pub struct TestContext {
    /// Under the test's control.
    pub clock: VirtualClock,
    /// Records what is asked for and answers.
    pub effects: FakeEffects,
    /// The plugin's state.
    pub store: MemoryStore,
    route: RouteName,
    lane: Option<String>,
    attempt: Attempt,
    timeout: Duration,
    mode: RouteMode,
    base_dir: PathBuf,
    cancellation: Cancellation,
    subject: Option<String>,
    remembers: bool,
}

/// What came of one handling.
#[derive(Debug)]
pub struct Handled {
    /// What the handler returned; on a shadow route a write that ended the dry run counts as done, as in the router.
    pub result: Result<Outcome, HandlerError>,
    /// What it emitted; a router publishes them only where the result is a success.
    pub emits: Vec<Emit>,
    /// In a dry run, what it would have done, one line each.
    pub would: Vec<String>,
    /// What it noted of its result.
    pub note: Option<String>,
}

impl Default for TestContext {
    fn default() -> Self {
        Self::new()
    }
}

impl TestContext {
    /// Attempt 1 of 8 on a live route `test`, with a minute of time.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn new() -> Self {
        Self {
            clock: VirtualClock::default(),
            effects: FakeEffects::new(),
            store: MemoryStore::new(&MemoryState::new()),
            route: "test".parse().expect("the literal is a route name"),
            lane: None,
            attempt: Attempt { number: 1, max: 8 },
            timeout: Duration::from_secs(60),
            mode: RouteMode::Live,
            base_dir: PathBuf::from("."),
            cancellation: Cancellation::never(),
            subject: None,
            remembers: false,
        }
    }

    /// Another route name.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn route(mut self, name: &str) -> Self {
        self.route = name.parse().unwrap_or_else(|error| panic!("{error}"));
        self
    }

    /// The lane of an ordered or coalescing route.
    #[must_use]
    pub fn lane(mut self, lane: impl Into<String>) -> Self {
        self.lane = Some(lane.into());
        self
    }

    /// Which attempt, and which is the last.
    #[must_use]
    pub fn attempt(mut self, number: u32, max: u32) -> Self {
        self.attempt = Attempt { number, max };
        self
    }

    /// The time that the handling has.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A shadow route: writes are recorded, not performed.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.mode = RouteMode::Shadow;
        self
    }

    /// The directory of the configuration.
    #[must_use]
    pub fn base_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.base_dir = dir.into();
        self
    }

    /// What tells the handler that its work is no longer wanted.
    #[must_use]
    pub fn cancellation(mut self, cancellation: Cancellation) -> Self {
        self.cancellation = cancellation;
        self
    }

    /// Names what is handled; repeats of one subject have one idempotency key. The newest event's dedup identity if not given.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Writes are remembered in the store, as on a live route: handling the same events again, on this value or a clone, is a repetition.
    /// One that was cut short is made by dropping the future of [`TestContext::handle`].
    #[must_use]
    pub fn ledger(mut self) -> Self {
        self.remembers = true;
        self
    }

    /// What a plugin is built with.
    #[must_use]
    pub fn build_context(&self) -> BuildContext {
        BuildContext { route: self.route.clone(), base_dir: self.base_dir.clone(), mode: self.mode, effects: Arc::new(self.effects.clone()) }
    }

    /// Builds the handler of plugin `P` from the options of a `with` table.
    ///
    /// # Errors
    ///
    /// When the options do not fit the plugin.
    pub async fn build<P: Plugin>(&self, options: Value) -> Result<Box<dyn Handler>, BuildError> {
        Registration::of::<P>().build(options, &self.build_context()).await
    }

    /// A context for `burst`, oldest event first, over `effects`.
    ///
    /// # Panics
    ///
    /// When the burst is empty.
    #[must_use]
    pub fn context_over(&self, effects: Arc<dyn EffectPort>, burst: Vec<Arc<Envelope>>) -> Context {
        self.context_with(effects, burst, None)
    }

    fn context_with(&self, effects: Arc<dyn EffectPort>, burst: Vec<Arc<Envelope>>, ledger: Option<Arc<dyn Ledger>>) -> Context {
        let subject = self.subject_of(&burst);
        Context::new(ContextParts {
            route: self.route.clone(),
            lane: self.lane.as_deref().map(Into::into),
            attempt: self.attempt,
            subject: subject.into(),
            deadline: self.clock.monotonic() + self.timeout,
            cancellation: self.cancellation.clone(),
            clock: Arc::new(self.clock.clone()),
            effects,
            store: Arc::new(self.store.clone()) as Arc<dyn Store>,
            sessions: Arc::new(Projection::new(Arc::new(self.store.clone()), Arc::new(self.clock.clone()))),
            ledger,
            dry_run: self.mode == RouteMode::Shadow,
            host: "testhost".into(),
            burst,
        })
    }

    fn subject_of(&self, burst: &[Arc<Envelope>]) -> String {
        let newest = burst.last().expect("a handling has at least one event");
        self.subject.clone().or_else(|| newest.dedup_id()).unwrap_or_else(|| newest.key().to_string())
    }

    /// Calls `handler` with `events`, oldest first; a burst where there are several.
    ///
    /// # Panics
    ///
    /// When there is no event.
    pub async fn handle(&self, handler: &dyn Handler, events: impl IntoIterator<Item = EventBuilder>) -> Handled {
        self.handle_envelopes(handler, events.into_iter().map(|event| event.envelope()).collect()).await
    }

    /// Calls `handler` with decoded events, for dialects that [`EventBuilder`] does not build.
    ///
    /// # Panics
    ///
    /// When there is no event.
    pub async fn handle_envelopes(&self, handler: &dyn Handler, burst: Vec<Arc<Envelope>>) -> Handled {
        let newest = Arc::clone(burst.last().expect("a handling has at least one event"));
        let dry_run = Arc::new(DryRun::over(Arc::new(self.effects.clone())));
        let effects: Arc<dyn EffectPort> = match self.mode {
            RouteMode::Live => Arc::new(self.effects.clone()),
            RouteMode::Shadow => Arc::clone(&dry_run) as Arc<dyn EffectPort>,
        };
        let ledger = (self.remembers && self.mode == RouteMode::Live).then(|| {
            let (store, clock) = (Arc::new(self.store.clone()), Arc::new(self.clock.clone()));
            Arc::new(HandlingLedger::new(self.route.clone(), self.subject_of(&burst).into(), store, clock, None, Arc::new(|_| ())))
        });
        let cx = self.context_with(effects, burst, ledger.clone().map(|ledger| ledger as Arc<dyn Ledger>));
        let result = handler.handle(&newest, &cx).await;
        if let (Err(_), Some(ledger)) = (&result, &ledger) {
            ledger.end_with_an_error().await;
        }
        let result = match result {
            Err(HandlerError::Effect(error)) if error.class == EffectClass::DryRun => Ok(Outcome::Done),
            other => other,
        };
        Handled { result, note: cx.take_note(), emits: cx.take_emits(), would: dry_run.take().iter().map(router_api::RecordedEffect::sentence).collect() }
    }
}
