//! The handler: does what the schedule says of an event, and tells the oracle what it saw.

use std::{cell::RefCell, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Context, Effect, EffectClass, EffectContext, EffectError, EffectPort, EffectReply, Envelope, Handler, HandlerError, Outcome,
    OwnWork, Plugin, Program, RoutingKey,
};
use serde_json::{Value, json};

use crate::{
    oracle::RunEnd,
    plan::{Answer, COMES_BACK, EMITTED},
    world::Port,
};

thread_local! {
    /// The process that runs on this thread. A plugin is built from its options alone, so it finds its process here.
    static PORT: RefCell<Option<Port>> = const { RefCell::new(None) };
}

/// From now on handlers that are built on this thread belong to this process.
pub fn enter(port: Option<Port>) {
    PORT.with_borrow_mut(|current| *current = port);
}

/// Does what the schedule says.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scheduled {}

#[async_trait]
impl Plugin for Scheduled {
    const NAME: &'static str = "scheduled";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        // None while a configuration is only read.
        let port = PORT.with_borrow(Clone::clone);
        let route = port.as_ref().map(|port| port.world.route(&cx.route));
        Ok(Box::new(ScheduledHandler { port, route }))
    }
}

struct ScheduledHandler {
    port: Option<Port>,
    route: Option<usize>,
}

/// A handling under way; one that is dropped was cut short.
struct Running<'a> {
    port: &'a Port,
    run: u64,
    deadline: Duration,
    has_ended: bool,
}

impl Running<'_> {
    fn end(&mut self, end: RunEnd) {
        self.has_ended = true;
        if self.port.is_alive() {
            let mut inner = self.port.world.lock();
            inner.oracle.ends(self.run, end);
            self.port.world.tell(&mut inner, || format!("handling {} ends: {end:?}", self.run));
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(if self.port.world.now() >= self.deadline { RunEnd::Late } else { RunEnd::Cut });
        }
    }
}

/// Lane and number of what a handling emits. Of the event's id and of the handling's key, as the emitted event's own id is: a repetition emits
/// the same again, but where nothing recognises one, the same event published twice is handled as two.
fn number_of_emitted(port: &Port, from: u64, route: usize, newest: u64, cx: &Context) -> (u64, u64) {
    let mut inner = port.world.lock();
    let (lane, id) = inner.oracle.track_of(route, newest).map_or((0, 0), |track| (track.lane, track.id));
    let mut number = from + id * 16 + route as u64;
    while *inner.emitters.entry(number).or_insert_with(|| cx.idempotency_key()) != cx.idempotency_key() {
        number += EMITTED / 10;
    }
    (lane, number)
}

fn number(event: &Envelope) -> u64 {
    let body: Value = serde_json::from_slice(event.raw()).unwrap_or(Value::Null);
    body["payload"]["n"].as_u64().unwrap_or(0)
}

#[async_trait]
impl Handler for ScheduledHandler {
    async fn handle(&self, _event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let (Some(port), Some(route)) = (&self.port, self.route) else { return Ok(Outcome::Done) };
        port.pass("a handler").await;
        let world = &port.world;
        let numbers: Vec<u64> = cx.burst().iter().map(|event| number(event)).collect();
        let newest = *numbers.last().expect("a handler is called with events");
        let plan = &world.plan.routes[route];
        let (run, runs) = {
            let ids: Vec<u64> = {
                let inner = world.lock();
                numbers.iter().filter_map(|number| inner.oracle.track_of(route, *number)).map(|track| track.id).collect()
            };
            let has_done = if plan.dedup && !plan.shadow { world.done_keys(cx.route(), ids.into_iter()) } else { Default::default() };
            let mut inner = world.lock();
            let (run, runs) = inner.oracle.begins(route, &numbers, cx.attempt().number, cx.attempt().max, &has_done);
            world.tell(&mut inner, || {
                format!("handling {run} of {numbers:?} on {} begins, attempt {} of {}", cx.route(), cx.attempt().number, cx.attempt().max)
            });
            (run, runs)
        };
        let mut running = Running { port, run, deadline: world.now() + cx.remaining(), has_ended: false };
        let (slow, answer) = world.plan.answer(route, newest, runs);
        if !slow.is_zero() {
            port.sleep(slow, "a slow handler").await;
        }
        let result = self.act(port, route, run, newest, answer, cx).await;
        port.pass("the end of a handler").await;
        running.end(match &result {
            Ok(Outcome::Done) => RunEnd::Done,
            Ok(Outcome::Skipped { .. }) => RunEnd::Skipped,
            Err(HandlerError::Reject { .. }) => RunEnd::Rejected,
            Err(HandlerError::Pause { .. }) => RunEnd::Paused,
            Err(HandlerError::Effect(error)) if error.class == EffectClass::DryRun => RunEnd::Dry,
            // Not begun, since the ledger could not keep it: no attempt is charged.
            Err(HandlerError::Effect(error)) if error.class == EffectClass::Cancelled => RunEnd::Cut,
            Err(_) => RunEnd::Failed,
        });
        if answer == Answer::Panic && result.is_err() {
            // Not `panic!`, whose hook is for bugs.
            std::panic::resume_unwind(Box::new("the schedule says so"));
        }
        result
    }
}

impl ScheduledHandler {
    async fn act(&self, port: &Port, route: usize, run: u64, newest: u64, answer: Answer, cx: &Context) -> Result<Outcome, HandlerError> {
        match answer {
            Answer::Done => Ok(Outcome::Done),
            Answer::Skip => Ok(Outcome::skipped("the schedule says so")),
            Answer::Retry | Answer::Panic => Err(HandlerError::retry("the schedule says so")),
            Answer::RetryAfter(delay) => Err(HandlerError::retry_after(delay, "the schedule says so")),
            Answer::Reject => Err(HandlerError::reject("the schedule says so")),
            Answer::Pause => Err(HandlerError::pause("the schedule says so")),
            Answer::Hang => std::future::pending().await,
            Answer::Emit => {
                let (lane, emitted) = number_of_emitted(port, EMITTED, route, newest, cx);
                let key = RoutingKey::new("echo.a").expect("the literal is a key");
                cx.emit(&key, json!({ "n": emitted, "lane": lane, "session_id": format!("s{lane}"), "kind": "wanted" }));
                Ok(Outcome::Done)
            }
            Answer::EmitAfter(delay) => {
                let (lane, emitted) = number_of_emitted(port, COMES_BACK, route, newest, cx);
                let key = RoutingKey::new("later.a").expect("the literal is a key");
                cx.emit_after(delay, &key, json!({ "n": emitted, "lane": lane, "session_id": format!("s{lane}"), "kind": "wanted" }));
                Ok(Outcome::Done)
            }
            Answer::Write => {
                self.write(port, route, run, newest, cx).await?;
                Ok(Outcome::Done)
            }
            Answer::WriteThenRetry => {
                self.write(port, route, run, newest, cx).await?;
                Err(HandlerError::retry("the schedule says so, after a write"))
            }
            Answer::WriteThenHang => {
                self.write(port, route, run, newest, cx).await?;
                std::future::pending().await
            }
        }
    }

    /// Does something outside that must not be done twice.
    async fn write(&self, port: &Port, route: usize, run: u64, newest: u64, cx: &Context) -> Result<(), EffectError> {
        port.world.lock().oracle.wants_to_write(run);
        let work = move || async move {
            port.pass("a write").await;
            {
                let mut inner = port.world.lock();
                inner.oracle.wrote(route, newest);
                port.world.tell(&mut inner, || format!("the write of event {newest} is done"));
            }
            port.pass("a write that is done").await;
            Ok(json!(newest))
        };
        let look = move || -> router_api::BoxFuture<'_, Result<Option<Value>, EffectError>> {
            Box::pin(async move {
                port.pass("a look").await;
                Ok(port.world.lock().oracle.has_written(route, newest).then(|| json!(newest)))
            })
        };
        cx.effect("write", json!({ "n": newest }), work).look_first(look).await.map(|_| ())
    }
}

/// Performs a plugin's own work, and nothing else.
#[derive(Debug)]
pub struct OwnEffects;

#[async_trait]
impl EffectPort for OwnEffects {
    async fn perform(&self, effect: Effect, work: Option<OwnWork<'_>>, _cx: &EffectContext) -> Result<EffectReply, EffectError> {
        let Some(work) = work else { return Err(EffectError::new(EffectClass::Forbidden, format!("`{}` is not simulated", effect.name))) };
        work().await.map(EffectReply::Own).map_err(|error| EffectError::new(EffectClass::Failed, error.to_string()))
    }

    fn resolve_program(&self, name: &str, _base_dir: &Path) -> Result<Program, BuildError> {
        Err(BuildError::at("", format!("`{name}` is not simulated")))
    }
}

/// For who needs the port of a whole router.
pub fn effects() -> Arc<dyn EffectPort> {
    Arc::new(OwnEffects)
}
