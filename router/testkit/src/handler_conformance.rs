//! What every plugin promises, checked in one line of its author's tests: see [`handler_conformance`].

use std::{
    marker::PhantomData,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    BuildError, Canceller, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply, EffectRequest, OwnWork, Plugin, Program,
    Registration,
};
use router_core::config::Severity;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::{EventBuilder, FakeEffects, TestContext, TestRouter, event};

/// For a handler to end after it was cancelled, in real time: far more than any needs, on a loaded machine too.
const END: Duration = Duration::from_secs(5);

/// Between the first handling and its repeat: what depends on the time shows.
const LATER: Duration = Duration::from_secs(3_600);

/// The line of the first option in the configuration that [`loaded`] writes.
const FIRST_OPTION: usize = 7;

/// An option that no plugin has.
const UNKNOWN: &str = "no-plugin-has-this-option";

/// Headers by which a target recognises a repeat.
const IDEMPOTENCY_HEADERS: &[&str] = &["idempotency-key", "webhook-id"];

/// Checks what every plugin promises.
///
/// `good` is a `with` table that the plugin takes; each entry of the table `bad` is put into it, alone, and must be refused.
///
/// 1. The good options fit the schema and build a handler, in live and in shadow mode. An unknown option is refused.
/// 2. Each bad value is refused with the name of its option, and `check` shows it at its line.
/// 3. A dry run performs no write.
/// 4. A handling whose effects hang ends when it is cancelled.
/// 5. A repeat, one hour and one attempt later, has the same idempotency keys and emits the same events.
///
/// An event of a tool that wrote a file is handled; [`HandlerConformance`] takes others, and answers of the outside.
///
/// ```
/// # use async_trait::async_trait;
/// # use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin};
/// # /// Answers.
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # #[serde(deny_unknown_fields)]
/// # struct Greet {
/// #     /// What to say.
/// #     greeting: String,
/// # }
/// # #[async_trait]
/// # impl Plugin for Greet {
/// #     const NAME: &'static str = "greet";
/// #     async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> { Ok(Box::new(self)) }
/// # }
/// # #[async_trait]
/// # impl Handler for Greet {
/// #     async fn handle(&self, _: &Envelope, _: &Context) -> Result<Outcome, HandlerError> { Ok(Outcome::Done) }
/// # }
/// use router_testkit::handler_conformance;
/// use serde_json::json;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// handler_conformance::<Greet>(json!({ "greeting": "hello" }), json!({ "greeting": 7 })).await;
/// # });
/// ```
///
/// # Panics
///
/// With all promises that the plugin breaks. It needs a runtime with time, which `#[tokio::test]` is.
pub async fn handler_conformance<P: Plugin>(good: Value, bad: Value) -> Conformed {
    HandlerConformance::<P>::new(good, bad).run().await
}

/// What a check has seen, for tests that want to know that it looked at something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conformed {
    /// Writes that the dry run recorded.
    pub recorded: usize,
    /// Effects that the live handling asked for.
    pub asked: usize,
    /// Events that it emitted.
    pub emitted: usize,
}

/// [`handler_conformance`] with other events, and with answers of the outside.
pub struct HandlerConformance<P> {
    good: Value,
    bad: Value,
    events: Vec<EventBuilder>,
    answers: Box<dyn Fn(&FakeEffects) + Send + Sync>,
    plugin: PhantomData<fn() -> P>,
}

impl<P: Plugin> HandlerConformance<P> {
    /// Options as for [`handler_conformance`].
    #[must_use]
    pub fn new(good: Value, bad: Value) -> Self {
        let written = event("session.thread.agent.action")
            .id("7d9d3a4e-53a5-4f0e-9c64-0a4c1a0d7a10")
            .session("s-1")
            .tool("Write")
            .file("/project/app.py")
            .working_directory("/project")
            .git_branch("main");
        Self { good, bad, events: vec![written], answers: Box::new(|_| ()), plugin: PhantomData }
    }

    /// Handles this event instead.
    #[must_use]
    pub fn event(self, event: EventBuilder) -> Self {
        self.burst([event])
    }

    /// Handles a burst instead, oldest event first.
    #[must_use]
    pub fn burst(mut self, events: impl IntoIterator<Item = EventBuilder>) -> Self {
        self.events = events.into_iter().collect();
        self
    }

    /// Gives the outside its answers, so that the handler comes further than to its first effect; called for each handling.
    #[must_use]
    pub fn answers(mut self, answers: impl Fn(&FakeEffects) + Send + Sync + 'static) -> Self {
        self.answers = Box::new(answers);
        self
    }

    /// Checks.
    ///
    /// # Panics
    ///
    /// As [`handler_conformance`].
    pub async fn run(self) -> Conformed {
        let mut broken = Vec::new();
        let (Value::Object(good), Value::Object(bad)) = (&self.good, &self.bad) else {
            panic!("good and bad options are tables: `json!({{ \"name\": … }})`");
        };
        self.options(good, bad, &mut broken).await;
        let mut conformed = Conformed { recorded: 0, asked: 0, emitted: 0 };
        // A handler that cannot be built has been told of above.
        if let Some(recorded) = self.dry_run(&mut broken).await {
            conformed.recorded = recorded;
            self.cancellation(&mut broken).await;
            (conformed.asked, conformed.emitted) = self.repeat(&mut broken).await;
        }
        assert!(broken.is_empty(), "plugin `{}` does not keep what every plugin promises:\n  - {}", P::NAME, broken.join("\n  - "));
        conformed
    }

    fn context(&self) -> TestContext {
        let test = TestContext::new();
        (self.answers)(&test.effects);
        test
    }

    async fn options(&self, good: &Map<String, Value>, bad: &Map<String, Value>, broken: &mut Vec<String>) {
        for (mode, line) in [("live", ""), ("shadow", "mode = \"shadow\"\n")] {
            if let Err(problems) = loaded::<P>(line, good).await {
                broken.push(format!("the good options are refused ({mode}): {}", messages(&problems)));
            }
        }
        let unknown = (UNKNOWN.to_owned(), Value::from(1));
        let wrong = bad.iter().map(|(name, value)| (name.clone(), value.clone())).chain([unknown]);
        for (name, value) in wrong {
            let mut options = good.clone();
            options.insert(name.clone(), value);
            let line = FIRST_OPTION + options.iter().filter(|(_, value)| !value.is_null()).take_while(|(key, _)| **key != name).count();
            let Err(problems) = loaded::<P>("", &options).await else {
                let hint = if name == UNKNOWN { ": the options need `#[serde(deny_unknown_fields)]`" } else { "" };
                broken.push(format!("the bad value of option `{name}` is taken{hint}"));
                continue;
            };
            if !problems.iter().any(|(place, _)| *place == Some(line)) {
                let said = messages(&problems);
                broken.push(format!("the bad value of option `{name}` is refused, but not at its place: `BuildError::at(\"{name}\", …)` names it ({said})"));
            }
        }
    }

    /// How many writes it recorded.
    async fn dry_run(&self, broken: &mut Vec<String>) -> Option<usize> {
        let test = self.context().shadow();
        let handler = test.build::<P>(self.good.clone()).await.ok()?;
        let handled = test.handle(handler.as_ref(), self.events.clone()).await;
        for written in test.effects.requests().iter().filter(|requested| requested.kind == EffectKind::Write) {
            broken.push(format!("a dry run performs a write: {written}"));
        }
        Some(handled.would.len())
    }

    async fn cancellation(&self, broken: &mut Vec<String>) {
        let (canceller, cancellation) = Canceller::new();
        let test = self.context().cancellation(cancellation);
        let Ok(handler) = test.build::<P>(self.good.clone()).await else { return };
        let port = Arc::new(Hanging::default());
        let burst: Vec<_> = self.events.iter().map(EventBuilder::envelope).collect();
        let Some(newest) = burst.last().cloned() else { panic!("a handling has at least one event") };
        let cx = test.context_over(Arc::clone(&port) as Arc<dyn EffectPort>, burst);
        let handling = handler.handle(&newest, &cx);
        tokio::pin!(handling);
        // It waits for an effect, for something else, or has nothing to wait for.
        let first = tokio::select! {
            _ = &mut handling => return,
            () = port.begun() => "an effect",
            () = tokio::time::sleep(END) => "something that is no effect",
        };
        canceller.cancel();
        if tokio::time::timeout(END, handling).await.is_err() {
            let asked = port.asked.load(Ordering::SeqCst);
            broken.push(format!(
                "a handling that waits for {first} does not end within {} s after it was cancelled ({asked} effects were asked for)",
                END.as_secs()
            ));
        }
    }

    /// How many effects the live handling asked for, and how many events it emitted.
    async fn repeat(&self, broken: &mut Vec<String>) -> (usize, usize) {
        let mut seen: Vec<(Vec<String>, Vec<String>)> = Vec::new();
        let mut counts = (0, 0);
        for attempt in 1..=2 {
            let test = self.context().attempt(attempt, 8);
            if attempt > 1 {
                test.clock.advance(LATER);
            }
            let Ok(handler) = test.build::<P>(self.good.clone()).await else { return counts };
            let handled = test.clock.run_until(test.handle(handler.as_ref(), self.events.clone())).await;
            let requests = test.effects.requests();
            counts = (requests.len(), handled.emits.len());
            let emits = handled.emits.iter().map(|emit| format!("{} {}", emit.key, emit.id)).collect();
            seen.push((requests.iter().flat_map(|requested| keys_of(&requested.request)).collect(), emits));
        }
        if let [(first_keys, first_emits), (second_keys, second_emits)] = seen.as_slice() {
            if first_keys != second_keys {
                broken.push(format!("a repeat has other idempotency keys ({first_keys:?}, then {second_keys:?}): send `cx.idempotency_key()`"));
            }
            if first_emits != second_emits {
                broken.push(format!("a repeat emits other events ({first_emits:?}, then {second_emits:?})"));
            }
        }
        counts
    }
}

/// Line and message of an error.
type Problem = (Option<usize>, String);

/// Reads the options as a route of a configuration, with one option on each line from [`FIRST_OPTION`] on, and starts the route.
async fn loaded<P: Plugin>(line: &str, options: &Map<String, Value>) -> Result<(), Vec<Problem>> {
    let mode = if line.is_empty() { "\n" } else { line };
    let mut toml = format!("[[route]]\nname = \"conforms\"\non = [\"#\"]\nhandler = \"{}\"\n{mode}[route.with]\n", P::NAME);
    for (name, value) in options {
        if let Some(value) = inline(value) {
            toml.push_str(&format!("{} = {value}\n", Value::from(name.as_str())));
        }
    }
    match TestRouter::with_config(&toml).registration(Registration::of::<P>()).try_build().await {
        Ok(test) => {
            test.end().await;
            Ok(())
        }
        Err(problems) => {
            let errors = problems.report.diagnostics().iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
            Err(errors.map(|error| (error.place.as_ref().map(|place| place.line), error.message.clone())).collect())
        }
    }
}

fn messages(problems: &[Problem]) -> String {
    problems.iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>().join("; ")
}

/// A JSON value as TOML on one line; `None` for null, which TOML says by leaving the key out.
fn inline(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Array(items) => format!("[{}]", items.iter().filter_map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let pairs: Vec<String> = fields.iter().filter_map(|(name, value)| Some(format!("{} = {}", Value::from(name.as_str()), inline(value)?))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // A JSON string is a TOML string, but for DEL.
        scalar => scalar.to_string().replace('\u{7f}', "\\u007f"),
    })
}

/// By what the target recognises a repeat of this request.
fn keys_of(request: &EffectRequest) -> Vec<String> {
    match request {
        EffectRequest::Http(request) => {
            let keys = request.headers.iter().filter(|header| IDEMPOTENCY_HEADERS.contains(&header.name.to_ascii_lowercase().as_str()));
            keys.map(|header| format!("{}: {}", header.name, header.value)).collect()
        }
        EffectRequest::Command(_) | EffectRequest::Own { .. } => Vec::new(),
    }
}

/// Effects that never answer, until they are cancelled.
#[derive(Default)]
struct Hanging {
    asked: AtomicUsize,
    changed: Notify,
}

impl Hanging {
    async fn begun(&self) {
        while self.asked.load(Ordering::SeqCst) == 0 {
            self.changed.notified().await;
        }
    }
}

#[async_trait]
impl EffectPort for Hanging {
    async fn perform(&self, _: Effect, _: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        // A permit is kept for whoever looks next.
        self.changed.notify_one();
        // A handler that asks again and again lets the test see that it does.
        tokio::task::yield_now().await;
        cx.cancellation.cancelled().await;
        Err(EffectError::new(EffectClass::Cancelled, "the handling was cancelled"))
    }

    fn resolve_program(&self, name: &str, _: &Path) -> Result<Program, BuildError> {
        Ok(Program::unresolved(name))
    }
}
