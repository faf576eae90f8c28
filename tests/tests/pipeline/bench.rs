//! A whole router on the transport in memory, with a scripted handler, a clock that stands still and seeded chance.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Clock, Context, EffectClass, EffectError, Endpoint, Envelope, Handler, HandlerError, HttpReply, HttpRequest, Method, Outcome,
    Plugin, Registration, Registry, RouteMode, RouteName, RoutingKey,
};
use router_core::{
    Applied, Router, RouterBuilder,
    config::{
        Breaker, Coalesce, Config, Dedup, HttpConfig, Limits, LogConfig, LogFormat, OnExhausted, RedactConfig, Retention, RetryPolicy, RouteConfig,
        StoreConfig, TransportConfig, WhenBusy,
    },
    filter::EventFilter,
    observe::Observer,
};
use router_testkit::{
    EventBuilder, FakeEffects, MemoryState, MemoryStore, MemoryTransport, Pauses, RecordingObserver, SeededChance, SettledHow, VirtualClock, YieldingStore,
    YieldingTransport, event,
};

/// What the handler was called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub route: String,
    /// Ids of the events, oldest first.
    pub ids: Vec<String>,
    pub attempt: u32,
    pub idempotency_key: String,
}

/// What the handler answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Done,
    Skip,
    Retry,
    RetryAfter(Duration),
    Reject,
    Pause,
    /// … and asks for so long a pause.
    PauseFor(Duration),
    /// Pauses after so long on the clock.
    PauseAfter(Duration),
    /// Says that its effect was cancelled.
    Cancelled,
    Panic,
    /// Never ends by itself.
    Hang,
    /// Done after so long on the clock.
    Take(Duration),
    /// Answers so after so long on the clock.
    Then(Duration, Box<Answer>),
    /// Emits an event of this key, then answers.
    Emit(&'static str, Box<Answer>),
    /// Emits an event with this text in it.
    EmitText(&'static str, &'static str),
    /// Done, with this note.
    DoneNoting(&'static str),
    /// Rejects with this text.
    RejectBecause(&'static str),
    /// Emits one that comes back to the route after a second.
    EmitAfter(&'static str),
    /// … after so long, then answers.
    EmitIn(Duration, &'static str, Box<Answer>),
    /// Calls this, fails as the call does, then answers.
    Call(Ask, Box<Answer>),
}

/// A writing call to `http://target/PATH`, under the name of its path.
#[derive(Debug, Clone)]
pub struct Ask {
    pub path: String,
    /// What the plugin says of an earlier try, when it is asked.
    pub looks: Option<Found>,
    /// The statuses that it calls final.
    pub final_when: Option<u16>,
}

/// What a look finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Done,
    NotDone,
    Trouble,
}

impl Ask {
    pub fn new(path: &str) -> Self {
        Self { path: path.to_owned(), looks: None, final_when: None }
    }

    pub fn then(self, answer: Answer) -> Answer {
        Answer::Call(self, Box::new(answer))
    }
}

type Behaviour = Box<dyn Fn(&Call) -> Answer + Send + Sync>;

struct Script {
    calls: Mutex<Vec<Call>>,
    /// What came of the handler's calls, and how often it looked.
    heard: Mutex<Vec<String>>,
    behaviour: Mutex<Behaviour>,
    clock: VirtualClock,
}

static SCRIPTS: Mutex<BTreeMap<u64, Arc<Script>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Does what the test's script says.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Scripted {
    script: u64,
    #[serde(default)]
    refuse_to_build: bool,
}

#[async_trait]
impl Plugin for Scripted {
    const NAME: &'static str = "scripted";

    async fn build(self, _cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        if self.refuse_to_build {
            return Err(BuildError::at("refuse_to_build", "was asked to refuse"));
        }
        Ok(Box::new(ScriptedHandler { script: Arc::clone(&SCRIPTS.lock().unwrap()[&self.script]) }))
    }
}

struct ScriptedHandler {
    script: Arc<Script>,
}

#[async_trait]
impl Handler for ScriptedHandler {
    async fn handle(&self, _event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let call = Call {
            route: cx.route().to_string(),
            ids: cx.burst().iter().map(|event| event.id().map_or_else(|| "-".to_owned(), ToString::to_string)).collect(),
            attempt: cx.attempt().number,
            idempotency_key: cx.idempotency_key(),
        };
        self.script.calls.lock().unwrap().push(call.clone());
        let mut answer = (self.script.behaviour.lock().unwrap())(&call);
        loop {
            answer = match answer {
                Answer::Done => return Ok(Outcome::Done),
                Answer::Skip => return Ok(Outcome::skipped("nothing to do")),
                Answer::Retry => return Err(HandlerError::retry("not yet")),
                Answer::RetryAfter(delay) => return Err(HandlerError::retry_after(delay, "asked to wait")),
                Answer::Reject => return Err(HandlerError::reject("never")),
                Answer::Pause => return Err(HandlerError::pause("connection refused")),
                Answer::PauseFor(delay) => return Err(HandlerError::Pause { delay: Some(delay), error: "unavailable".into() }),
                Answer::PauseAfter(duration) => {
                    self.script.clock.sleep(duration).await;
                    Answer::Pause
                }
                Answer::Cancelled => return Err(EffectError::new(EffectClass::Cancelled, "somebody cancelled it").into()),
                Answer::Panic => panic!("the script says so"),
                Answer::Hang => std::future::pending().await,
                Answer::Take(duration) => {
                    self.script.clock.sleep(duration).await;
                    Answer::Done
                }
                Answer::Then(duration, then) => {
                    self.script.clock.sleep(duration).await;
                    *then
                }
                Answer::Emit(key, then) => {
                    cx.emit(&RoutingKey::new(key).unwrap(), serde_json::json!({ "made": "here" }));
                    *then
                }
                Answer::EmitText(key, text) => {
                    cx.emit(&RoutingKey::new(key).unwrap(), serde_json::json!({ "text": text }));
                    Answer::Done
                }
                Answer::DoneNoting(text) => {
                    cx.note(text);
                    Answer::Done
                }
                Answer::RejectBecause(text) => return Err(HandlerError::reject(text)),
                Answer::Call(ask, then) => {
                    self.call(cx, ask).await?;
                    *then
                }
                Answer::EmitIn(delay, key, then) => {
                    cx.emit_after(delay, &RoutingKey::new(key).unwrap(), serde_json::json!({}));
                    *then
                }
                Answer::EmitAfter(key) => {
                    cx.emit_after(Duration::from_secs(1), &RoutingKey::new(key).unwrap(), serde_json::json!({}));
                    Answer::Done
                }
            }
        }
    }
}

impl ScriptedHandler {
    async fn call(&self, cx: &Context, ask: Ask) -> Result<(), EffectError> {
        let Ask { path, looks, final_when } = ask;
        let url = Endpoint::parse(&format!("http://target/{path}")).unwrap().url();
        let mut call = cx.http(HttpRequest::new(Method::Post, url)).named(path.as_str());
        if let Some(found) = looks {
            call = call.look_first(move || {
                self.script.heard.lock().unwrap().push(format!("{path}: looked"));
                Box::pin(async move {
                    match found {
                        Found::Done => Ok(Some(HttpReply::new(299, "found"))),
                        Found::NotDone => Ok(None),
                        Found::Trouble => Err(EffectError::new(EffectClass::Failed, "cannot look")),
                    }
                })
            });
        }
        if let Some(status) = final_when {
            call = call.final_when(move |reply| reply.status == status);
        }
        let reply = call.await?;
        self.script.heard.lock().unwrap().push(format!("{}", reply.status));
        reply.ok().map(|_| ())
    }
}

pub struct Bench {
    pub state: MemoryState,
    pub transport: Arc<MemoryTransport>,
    pub store: Arc<MemoryStore>,
    pub clock: VirtualClock,
    pub observer: Arc<RecordingObserver>,
    pub effects: FakeEffects,
    pub router: Router,
    script: Arc<Script>,
    script_id: u64,
}

impl Bench {
    pub fn new() -> Self {
        Self::over(MemoryState::new(), VirtualClock::default())
    }

    /// A router of a new process over what an earlier one left.
    pub fn over(state: MemoryState, clock: VirtualClock) -> Self {
        Self::watched(state, clock, Arc::new(RecordingObserver::new()))
    }

    /// … with one more observer.
    pub fn watched(state: MemoryState, clock: VirtualClock, watcher: Arc<dyn Observer>) -> Self {
        Self::assembled(state, clock, |transport| transport, |router| router.observer(watcher))
    }

    /// A router over parts that the test changes.
    pub fn assembled(
        state: MemoryState,
        clock: VirtualClock,
        wrap: impl FnOnce(Arc<dyn router_api::Transport>) -> Arc<dyn router_api::Transport>,
        more: impl FnOnce(RouterBuilder) -> RouterBuilder,
    ) -> Self {
        Self::made(state, clock, wrap, |store| store, more)
    }

    /// On a bus and a store that take a few turns for each call, so that what is done is remembered behind its handling.
    pub fn slow(seed: u64, more: impl FnOnce(RouterBuilder) -> RouterBuilder) -> Self {
        let pauses = Pauses::new(seed, 3);
        let slow = Arc::clone(&pauses);
        Self::made(
            MemoryState::new(),
            VirtualClock::default(),
            |transport| Arc::new(YieldingTransport::like_a_bus(transport, slow)),
            |store| Arc::new(YieldingStore::new(store, pauses)),
            more,
        )
    }

    fn made(
        state: MemoryState,
        clock: VirtualClock,
        wrap: impl FnOnce(Arc<dyn router_api::Transport>) -> Arc<dyn router_api::Transport>,
        wrap_store: impl FnOnce(Arc<dyn router_api::Store>) -> Arc<dyn router_api::Store>,
        more: impl FnOnce(RouterBuilder) -> RouterBuilder,
    ) -> Self {
        let script =
            Arc::new(Script { calls: Mutex::default(), heard: Mutex::default(), behaviour: Mutex::new(Box::new(|_| Answer::Done)), clock: clock.clone() });
        let script_id = NEXT.fetch_add(1, Ordering::Relaxed);
        SCRIPTS.lock().unwrap().insert(script_id, Arc::clone(&script));
        let transport = Arc::new(MemoryTransport::new(&state, Arc::new(clock.clone())));
        let store = Arc::new(MemoryStore::new(&state));
        let observer = Arc::new(RecordingObserver::new());
        let effects = FakeEffects::new();
        let registry = Registry::of([Registration::of::<Scripted>()]).unwrap();
        let router = Router::builder(
            registry,
            wrap(Arc::clone(&transport) as _),
            wrap_store(Arc::clone(&store) as _),
            Arc::new(effects.clone()),
            Arc::new(clock.clone()),
            Arc::new(SeededChance::new(7)),
        )
        .observer(Arc::clone(&observer) as _);
        let router = more(router).build();
        Self { state, transport, store, clock, observer, effects, router, script, script_id }
    }

    /// The process dies, and a new one begins with the same routes.
    pub async fn crash(self, routes: &[RouteConfig], behaviour: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        self.state.crash();
        let next = Self::over(self.state.clone(), self.clock.clone());
        next.behave(behaviour);
        next.apply(routes).await;
        next
    }

    pub fn behave(&self, behaviour: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        *self.script.behaviour.lock().unwrap() = Box::new(behaviour);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.script.calls.lock().unwrap().clone()
    }

    /// What came of the handler's own calls, and where it looked.
    pub fn heard(&self) -> Vec<String> {
        self.script.heard.lock().unwrap().clone()
    }

    /// The ids that each call was made with.
    pub fn called(&self) -> Vec<Vec<String>> {
        self.calls().into_iter().map(|call| call.ids).collect()
    }

    pub fn config(&self, routes: &[RouteConfig]) -> Config {
        let mut routes = routes.to_vec();
        for route in &mut routes {
            if let Some(options) = route.with.as_object_mut() {
                options.insert("script".to_owned(), self.script_id.into());
            }
        }
        config_of(routes)
    }

    pub async fn apply(&self, routes: &[RouteConfig]) -> Applied {
        let applied = self.clock.run_until(self.router.apply(self.config(routes))).await.expect("the configuration is fine");
        self.settle_down().await;
        applied
    }

    /// Publishes an event with this id.
    pub async fn send(&self, key: &str, id: &str) {
        self.send_event(event(key).id(id)).await;
    }

    /// … and of this session.
    pub async fn send_in(&self, session: &str, id: &str) {
        self.send_event(event("session.thread.agent.action").id(id).session(session)).await;
    }

    pub async fn send_event(&self, event: EventBuilder) {
        self.router.admin().publish(event.publication()).await.expect("the transport takes it");
    }

    /// Lets everything happen that needs no time.
    pub async fn settle_down(&self) {
        self.clock.pass(Duration::ZERO).await;
    }

    pub async fn pass(&self, duration: Duration) {
        self.clock.pass(duration).await;
    }

    pub async fn drain(&self) -> u32 {
        self.clock.run_until(self.router.drain()).await.cancelled
    }

    /// What became of deliveries, as short words, in the order of the settlements.
    pub fn settled(&self) -> Vec<String> {
        let word = |settled: router_testkit::Settled| match settled.how {
            SettledHow::Done(fates) => fates
                .iter()
                .map(|fate| match fate {
                    router_api::Fate::Handled { .. } => "handled",
                    router_api::Fate::Skipped { .. } => "skipped",
                    router_api::Fate::Filtered => "filtered",
                    router_api::Fate::Duplicate { .. } => "duplicate",
                    router_api::Fate::Shadowed { .. } => "shadowed",
                })
                .collect::<Vec<_>>()
                .join("+"),
            SettledHow::RetryIn { .. } => "retry".to_owned(),
            SettledHow::Buried(letter) => format!("buried: {}", letter.reason),
        };
        self.transport.settled().into_iter().map(word).collect()
    }

    pub async fn dead_letters(&self) -> Vec<router_api::StoredDeadLetter> {
        use router_api::Transport;
        self.transport.admin().dead_letters(&router_api::DeadLetterQuery::default()).await.unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        SCRIPTS.lock().unwrap().remove(&self.script_id);
        if !std::thread::panicking() {
            assert_eq!(self.transport.misuses(), Vec::<String>::new(), "the router used the transport wrongly");
        }
    }
}

/// A configuration of these routes.
pub fn config_of(mut routes: Vec<RouteConfig>) -> Config {
    for route in &mut routes {
        route.hash = format!("{:?}", RouteConfig { hash: String::new(), ..route.clone() });
    }
    Config {
        hash: format!("{routes:?}").len().to_string(),
        text: String::new(),
        transport: TransportConfig::Embedded,
        store: StoreConfig {
            path: "router.db".into(),
            sync: true,
            retention: Retention { age: Duration::from_secs(1), bytes_max: 1 },
            ledger_bytes_max: 64 << 20,
        },
        http: HttpConfig { listen: None, tokens: Vec::new(), admin_tokens: Vec::new(), allowed_hosts: Vec::new() },
        limits: Limits { decode: router_api::DecodeLimits::default() },
        redact: RedactConfig { paths: Vec::new(), patterns: Vec::new(), builtin: true },
        sessions: router_core::config::SessionsConfig::default(),
        log: LogConfig { level: "info".to_owned(), format: LogFormat::Text },
        routes,
    }
}

/// A route for everything, with the defaults of the configuration.
pub fn route(name: &str) -> RouteConfig {
    RouteConfig {
        name: name.parse::<RouteName>().unwrap(),
        place: "test:1".to_owned(),
        base_dir: "/".into(),
        hash: String::new(),
        enabled: true,
        mode: RouteMode::Live,
        on: vec!["#".parse().unwrap()],
        when: EventFilter::default(),
        order_by: None,
        coalesce: None,
        concurrency: 8,
        prefetch: 500,
        queue: router_api::QueueWish::default(),
        timeout: Duration::from_secs(60),
        retry: RetryPolicy { attempts_max: 8, first_delay: Duration::from_secs(1), max_delay: Duration::from_secs(600), on: BTreeMap::new() },
        on_exhausted: OnExhausted::DeadLetter,
        when_busy: WhenBusy::Queue,
        ledger: true,
        breaker: Breaker { first_delay: Duration::from_secs(5), max_delay: Duration::from_secs(300) },
        rate: None,
        drain: Duration::from_secs(30),
        dedup: Some(Dedup { by: Vec::new(), window: Duration::from_secs(86_400) }),
        max_age: None,
        hops_max: 8,
        crashes_max: 5,
        handler: "scripted".to_owned(),
        with: serde_json::json!({}),
    }
}

/// … whose events keep their order within a session.
pub fn ordered(name: &str) -> RouteConfig {
    RouteConfig { order_by: Some("session_id".parse().unwrap()), ..route(name) }
}

/// … that handles the events of a session together.
pub fn coalescing(name: &str) -> RouteConfig {
    let coalesce = Coalesce { by: "session_id".parse().unwrap(), quiet: Duration::from_secs(2), max_wait: Duration::from_secs(30), events_max: 100 };
    RouteConfig { coalesce: Some(coalesce), ..route(name) }
}

pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3_600);

/// Ids as the calls show them.
pub fn ids(groups: &[&[&str]]) -> Vec<Vec<String>> {
    groups.iter().map(|group| group.iter().map(|id| (*id).to_owned()).collect()).collect()
}
