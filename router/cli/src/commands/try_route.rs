//! `try ROUTE EVENT [--live]`: one event through the handler of one route, with what it would do, or did.
//!
//! No queue, no retry, no store: the handler runs once, here, on the event alone.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::bail;
use async_trait::async_trait;
use router_api::{
    Attempt, BuildError, Canceller, Clock as _, CommandRequest, Context, ContextParts, DeadLetterReason, DryRun, Effect, EffectClass, EffectContext,
    EffectError, EffectPort, EffectReply, EffectRequest, Emit, Envelope, FailureClass, HandlerError, Matcher as _, Outcome, OwnWork, Program, RouteMode,
};
use router_core::{
    RouteMatcher, build_handler,
    config::RouteConfig,
    policy::{Failure, Verdict},
    sessions::Projection,
};
use router_effects::check_directory;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::{
    Ended,
    args::{Global, TryArgs},
    commands::block_on,
    event_input::EventInput,
    memory_store::MemoryStore,
    setup::{self, InvalidConfig},
    system::{SystemClock, host_name},
    terminal::{BAD, BOLD, DIM, GOOD, NAME, Output, WARN, duration, harmless, shortened, styled},
};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
enum Came {
    /// The handler did its work, or in a dry run came to its first write.
    Handled,
    /// It had nothing to do.
    Skipped { reason: String },
    /// It failed; `consequence` is what the running router would do.
    Failed { error: String, detail: Option<String>, consequence: String },
}

/// `event-router.try.v1`.
#[derive(Debug, Serialize)]
struct TryAnswer {
    schema: &'static str,
    route: String,
    handler: String,
    key: String,
    event_id: Option<String>,
    live: bool,
    /// Would the route take the event by itself?
    wanted: bool,
    #[serde(flatten)]
    came: Came,
    /// One sentence each.
    effects: Vec<String>,
    /// What the handler noted of its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    emits: Vec<EmitLine>,
    elapsed_ms: u64,
}

#[derive(Debug, Serialize)]
struct EmitLine {
    key: String,
    after_ms: Option<u64>,
    body: serde_json::Value,
}

pub(crate) fn run(global: &Global, args: &TryArgs, out: &mut Output) -> anyhow::Result<Ended> {
    // A live `log` route writes its line here too.
    let _log = global.begin_log_of_try()?;
    let setup = setup::load(global)?;
    let Some(route) = setup.config.routes.iter().find(|route| route.name == args.route) else {
        let names: Vec<String> = setup.config.routes.iter().map(|route| format!("`{}`", route.name)).collect();
        bail!("there is no route `{}`; there are {}", args.route, names.join(", "));
    };
    // A disabled route may lack what it needs, so as a dry run it is built as a shadow.
    let route = RouteConfig { mode: if args.live { RouteMode::Live } else { RouteMode::Shadow }, ..route.clone() };
    let answer = block_on(async {
        let event = EventInput::find(&setup.config, &args.event).await?.decode(setup.config.limits.decode)?;
        let handler = build_handler(&setup.registry, &route, &setup.effects).await.map_err(InvalidConfig::message)?;
        Ok(handle(&route, handler, Arc::new(event), &setup.effects, args.live).await)
    })?;
    let ended = if matches!(answer.came, Came::Failed { .. }) { Ended::Badly } else { Ended::Well };
    if args.json.json {
        out.json(&answer)?;
    } else {
        show(out, &answer, route.enabled)?;
    }
    Ok(ended)
}

async fn handle(route: &RouteConfig, handler: Arc<dyn router_api::Handler>, event: Arc<Envelope>, effects: &Arc<dyn EffectPort>, live: bool) -> TryAnswer {
    let matcher = RouteMatcher::of(route);
    let wanted = matcher.takes(event.key()) && matcher.matches(&event);
    let clock = Arc::new(SystemClock);
    let dry = Arc::new(DryRun::over(Arc::new(AsLive(Arc::clone(effects)))));
    let performed = Arc::new(Told { port: Arc::clone(effects), lines: Mutex::default() });
    let (canceller, cancellation) = Canceller::new();
    let store = Arc::new(MemoryStore::default());
    let cx = Context::new(ContextParts {
        route: route.name.clone(),
        lane: matcher.lane(&event).map(Into::into),
        attempt: Attempt { number: 1, max: 1 },
        burst: vec![Arc::clone(&event)],
        subject: event.dedup_id().as_deref().unwrap_or("try").into(),
        deadline: clock.monotonic() + route.timeout,
        cancellation,
        clock: clock.clone(),
        effects: if live { performed.clone() } else { dry.clone() },
        sessions: Arc::new(Projection::new(store.clone(), clock.clone())),
        store,
        ledger: None,
        dry_run: !live,
        host: host_name().into(),
    });
    let begun = clock.monotonic();
    let handling = futures_util::FutureExt::catch_unwind(AssertUnwindSafe(handler.handle(&event, &cx)));
    let came = match tokio::time::timeout(route.timeout, handling).await {
        Ok(Ok(Ok(Outcome::Done))) => Came::Handled,
        Ok(Ok(Ok(Outcome::Skipped { reason }))) => Came::Skipped { reason },
        Ok(Ok(Err(HandlerError::Effect(error)))) if error.class == EffectClass::DryRun => Came::Handled,
        Ok(Ok(Err(error))) => failed(route, &error),
        Ok(Err(_)) => came_to(route, &Failure::new(FailureClass::Panic, "the handler panicked")),
        Err(_) => came_to(route, &Failure::new(FailureClass::Timeout, format!("not done within {}, the route's `timeout_ms`", duration(route.timeout)))),
    };
    // Commands that a time-out left behind are ended.
    canceller.cancel();
    let recorded = if live { performed.lines.lock().await.clone() } else { dry.take().iter().map(router_api::RecordedEffect::sentence).collect() };
    let emits = if matches!(came, Came::Handled) { cx.take_emits() } else { Vec::new() };
    TryAnswer {
        schema: "event-router.try.v1",
        route: route.name.to_string(),
        handler: route.handler.clone(),
        key: event.key().to_string(),
        event_id: event.id().map(ToString::to_string),
        live,
        wanted,
        came,
        effects: recorded,
        note: cx.take_note(),
        emits: emits.into_iter().map(|Emit { key, body, after, .. }| EmitLine { key: key.to_string(), after_ms: after.map(ms), body }).collect(),
        elapsed_ms: ms(clock.monotonic() - begun),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn failed(route: &RouteConfig, error: &HandlerError) -> Came {
    match Failure::of(error) {
        Some(failure) => came_to(route, &failure),
        None => came_to(route, &Failure::new(FailureClass::Error, error.to_string())),
    }
}

/// What the running router would do after this failure of a first attempt.
fn came_to(route: &RouteConfig, failure: &Failure) -> Came {
    let consequence = match route.retry.decide(failure, 1, 0.0) {
        Verdict::RetryIn(_) => format!("tried again later, {} attempts at most", route.retry.attempts_max),
        Verdict::Pause(_) => "the route would pause until its target is back".to_owned(),
        Verdict::Bury(DeadLetterReason::Exhausted) if route.retry.attempts_max == 1 => "given up on at once (`attempts_max` is 1): a dead letter".to_owned(),
        Verdict::Bury(_) => "given up on at once: a dead letter".to_owned(),
    };
    Came::Failed { error: failure.error.clone(), detail: failure.detail.clone(), consequence }
}

/// Lets a dry run refuse what a live handling would come to on this machine. Routes in shadow mode and the demo look at less: their
/// events may come from machines whose directories are not here.
struct AsLive(Arc<dyn EffectPort>);

#[async_trait]
impl EffectPort for AsLive {
    async fn perform(&self, effect: Effect, work: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
        self.0.perform(effect, work, cx).await
    }

    fn check(&self, effect: &Effect) -> Result<(), EffectError> {
        self.0.check(effect)?;
        match &effect.request {
            EffectRequest::Command(CommandRequest { cwd: Some(cwd), below, .. }) => check_directory(cwd, below),
            _ => Ok(()),
        }
    }

    fn resolve_program(&self, name: &str, base_dir: &std::path::Path) -> Result<Program, BuildError> {
        self.0.resolve_program(name, base_dir)
    }
}

/// Performs effects for real and notes what was done.
struct Told {
    port: Arc<dyn EffectPort>,
    lines: Mutex<Vec<String>>,
}

#[async_trait]
impl EffectPort for Told {
    async fn perform(&self, effect: Effect, work: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
        let what = effect.request.to_string();
        let result = self.port.perform(effect, work, cx).await;
        let line = match &result {
            Ok(EffectReply::Http(reply)) => format!("sent: {what} → {}", reply.status),
            Ok(EffectReply::Command(reply)) => match (reply.code, reply.signal) {
                (Some(code), _) => format!("ran: {what} → exit code {code}"),
                (None, Some(signal)) => format!("ran: {what} → signal {signal}"),
                (None, None) => format!("ran: {what}"),
            },
            Ok(EffectReply::Own(_)) => format!("did: {what}"),
            Err(error) => format!("failed: {what}: {error}"),
        };
        self.lines.lock().await.push(line);
        result
    }

    fn check(&self, effect: &Effect) -> Result<(), EffectError> {
        self.port.check(effect)
    }

    fn resolve_program(&self, name: &str, base_dir: &std::path::Path) -> Result<Program, BuildError> {
        self.port.resolve_program(name, base_dir)
    }
}

fn show(out: &mut Output, answer: &TryAnswer, enabled: bool) -> anyhow::Result<()> {
    let mode = if answer.live { styled(WARN, "live") } else { styled(DIM, "dry run") };
    out.line(format_args!(
        "{} on route {} (plugin `{}`, {mode})",
        styled(BOLD, harmless(&answer.key)),
        styled(NAME, &answer.route),
        harmless(&answer.handler)
    ))?;
    if !answer.wanted {
        out.line(format_args!("  {} `event-router explain` says why", styled(WARN, "the route would not take this event by itself:")))?;
    } else if !enabled {
        out.line(format_args!("  {}", styled(WARN, "the route is switched off")))?;
    }
    for effect in &answer.effects {
        out.line(format_args!("  {}", shortened(effect, 400)))?;
    }
    for emit in &answer.emits {
        let after = emit.after_ms.map(|after| format!(" to this route after {}", duration(Duration::from_millis(after)))).unwrap_or_default();
        // `--live` performs the effects; events belong to a handling that the router has recorded.
        let would = if answer.live { "not published by `try`" } else { "would emit" };
        out.line(format_args!("  {would}: {}{after} {}", harmless(&emit.key), styled(DIM, shortened(&emit.body["payload"].to_string(), 200))))?;
    }
    if let Some(note) = &answer.note {
        out.line(format_args!("  {}", shortened(note, 400)))?;
    }
    let elapsed = styled(DIM, format_args!("({})", duration(Duration::from_millis(answer.elapsed_ms))));
    match &answer.came {
        Came::Handled if answer.live => out.line(format_args!("{} handled {elapsed}", styled(GOOD, "✓")))?,
        Came::Handled => {
            let runs = answer.effects.iter().any(|effect| effect.starts_with("would run: "));
            let nothing = match answer.handler.as_str() {
                "exec" if runs => ", if its exit code says so",
                _ if answer.effects.is_empty() && answer.emits.is_empty() && answer.note.is_none() => ", with nothing to do outside",
                _ => "",
            };
            out.line(format_args!("{} would be handled{nothing} {elapsed}", styled(GOOD, "✓")))?;
        }
        Came::Skipped { reason } => out.line(format_args!("{} nothing to do: {} {elapsed}", styled(DIM, "·"), shortened(reason, 400)))?,
        Came::Failed { error, detail, consequence } => {
            out.line(format_args!("{} {} {elapsed}", styled(BAD, "✗"), shortened(error, 600)))?;
            for line in detail.iter().flat_map(|detail| detail.lines()).take(20) {
                out.line(format_args!("    {}", styled(DIM, shortened(line, 200))))?;
            }
            out.line(format_args!("  in the running router: {consequence}"))?;
        }
    }
    Ok(())
}
