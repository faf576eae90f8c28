//! `run`: the service. Opens the store, starts the routes, opens the doors, and stops in good order.
//!
//! Two runtimes: one for intake, store and sockets, one for handlers (`handler_threads.rs`). A handler that blocks its thread delays
//! neither a health check nor an event that comes in; other handlers only until there is another thread for them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use router_api::{Admin, Chance, Clock, Store, Transport};
use router_core::{
    Applied, ApplyError, Router,
    alerts::dead_letter_alerts,
    config::{Config, Secret, Severity, TransportConfig},
    sessions::SessionBook,
};
use router_embedded::{Embedded, OpenError};
use router_http::{Access, AdminSocket, Door, DoorParts, socket_path};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    Ended,
    access::store_options,
    args::Global,
    broker::{self, FirstEvents, Serving},
    handler_threads::HandlerThreads,
    log::{self, LogGuard},
    log_observer::LogObserver,
    reload::{Reloader, ReloadingAdmin, log_taken_up, status_line},
    setup::{self, InvalidConfig, Setup},
    spool::{self, Draining, SpoolFigures},
    store_key,
    system::{OsChance, SystemClock, host_name},
    systemd,
    telemetry::RouterTelemetry,
    terminal::counted,
    threads::io_threads,
};

/// A command may hold the store for a moment.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// For the store to write what is left, once everything else has stopped.
const CLOSE: Duration = Duration::from_secs(10);

/// For handlers that do not give their thread back.
const HANDLERS_END: Duration = Duration::from_secs(2);

/// One wish often comes twice: a terminal signals its whole group, and so do some supervisors. A signal that comes so soon after the
/// first one is no second one.
const SAME_WISH: Duration = Duration::from_millis(300);

/// Between two looks at what is new of sessions.
const FOLLOW_EVERY: Duration = Duration::from_secs(30);

pub(crate) fn run(global: &Global) -> anyhow::Result<Ended> {
    let setup = setup::load(global)?;
    let config = &setup.config;
    let format = global.log_format.map_or(config.log.format, Into::into);
    let log = log::begin(&log::level(&config.log.level, global.verbose, global.quiet), format)?;
    #[cfg(debug_assertions)]
    crate::failpoints::install(crate::failpoints::asked(&setup::environment(global)?)?.as_deref())?;
    let io = Builder::new_multi_thread().worker_threads(io_threads()).thread_name("io").enable_all().build()?;
    let handlers = HandlerThreads::start()?;
    io.spawn(handlers.watch(Arc::new(SystemClock)));
    let result = io.block_on(serve(setup, global.clone(), handlers.handle()));
    end(handlers, io, log);
    result.map(|()| Ended::Well)
}

fn end(handlers: HandlerThreads, io: Runtime, log: LogGuard) {
    handlers.end(HANDLERS_END);
    io.shutdown_timeout(HANDLERS_END);
    drop(log);
}

async fn serve(setup: Setup, global: Global, handlers: Handle) -> anyhow::Result<()> {
    // First of all: a signal that comes while the program starts must not be lost.
    let mut signals = Signals::listen()?;
    systemd::keep_watchdog();
    for diagnostic in setup.report.diagnostics() {
        let place = diagnostic.place.as_ref().map(ToString::to_string).unwrap_or_default();
        match diagnostic.severity {
            Severity::Error => error!(place, code = diagnostic.code, "{}", diagnostic.message),
            Severity::Warning => warn!(place, code = diagnostic.code, "{}", diagnostic.message),
            Severity::Note => info!(place, code = diagnostic.code, "{}", diagnostic.message),
        }
    }
    let Setup { config, located, registry, effects, .. } = setup;
    let hash = config.hash.get(..12).unwrap_or(&config.hash);
    info!(version = env!("CARGO_PKG_VERSION"), hash, "event-router starts with {}", located.describe());

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let chance: Arc<dyn Chance> = Arc::new(OsChance);
    let embedded = open_store(&config, &clock).await?;
    let key = store_key::of_store(&config.store.path, &*chance)?;
    let observer = Arc::new(LogObserver::new(Arc::clone(&clock)));
    let environment = setup::environment(&global)?;
    let spool = spool::of_environment(&environment);
    let reaper = spool.as_ref().map(|spool| spool::reaper(&environment, spool, host_name()));
    let figures = SpoolFigures::of(spool.clone());
    let telemetry = RouterTelemetry::new(Arc::clone(&clock), &config.store.path, Arc::clone(&figures));
    let (watch, alerts) = dead_letter_alerts(Arc::clone(&clock), Arc::clone(&chance), host_name());
    let store: Arc<dyn Store> = embedded.clone();
    let broker = match &config.transport {
        TransportConfig::Embedded => None,
        TransportConfig::Amqp(amqp) => Some(Arc::new(Serving::start(&config, amqp, &effects, &store, &clock, &chance)?)),
    };
    let transport: Arc<dyn Transport> = broker.as_ref().map_or_else(|| embedded.clone() as Arc<dyn Transport>, |broker| broker.transport());
    let mut building = Router::builder(registry, transport, store, Arc::clone(&effects), Arc::clone(&clock), chance)
        .observer(observer.clone())
        .observer(telemetry.clone())
        .observer(Arc::new(watch))
        .handlers(handlers)
        .host(host_name())
        .fingerprint_key(key);
    if let Some(broker) = &broker {
        building = building.observer(Arc::new(FirstEvents::default()));
        if let Some(archiving) = broker.archiving() {
            building = building.archiving(archiving);
        }
    }
    let router = Arc::new(building.build());
    telemetry.of_sessions(router.sessions());
    let reloader = Arc::new(Reloader::new(Arc::clone(&router), global, config.clone(), located, spool.clone()));
    let admin: Arc<dyn Admin> = Arc::new(ReloadingAdmin { admin: router.admin(), reloader: Arc::clone(&reloader) });

    // Asked before the routes take them up.
    let interrupted = interrupted(&config, &*embedded).await;
    // The doors are bound before a route starts, so that a taken port costs nothing; they answer when the routes are there.
    let stopping = CancellationToken::new();
    let draining =
        spool.zip(reaper).map(|(spool, reaper)| Draining { spool, reaper, admin: Arc::clone(&admin), clock, figures, readiness: telemetry.readiness() });
    let abandoned_after = Duration::from_secs(spool::abandoned_hours(&environment).saturating_mul(3_600));
    let served = match doors(&config, admin, abandoned_after).await {
        Ok(doors) => {
            let begun = tokio::select! {
                begun = begin(&router, &config, broker.as_deref()) => Some(begun),
                () = signals.until_ended() => None,
            };
            match begun {
                Some(Ok((applied, reached))) => {
                    interrupted.iter().for_each(|line| info!("{line}"));
                    announce(&config, &applied);
                    log_taken_up(&applied.taken_up, &applied.paused);
                    let mut tasks = doors.serve(&stopping, &telemetry);
                    tasks.push(tokio::spawn(router.raise_alerts(alerts, stopping.clone().cancelled_owned())));
                    tasks.extend(draining.map(|draining| tokio::spawn(draining.run(stopping.clone()))));
                    tasks.push(tokio::spawn(follow_sessions(router.sessions(), stopping.clone())));
                    // Whoever reads "ready" may publish on the broker, past this router, and find that the routes get it.
                    match broker.clone().filter(|broker| !reached || is_awaited(broker)) {
                        Some(broker) => tasks.push(tokio::spawn(await_return(broker, stopping.clone()))),
                        None => info!("ready"),
                    }
                    // Also without its broker: who waits for it does not become better by being started again.
                    systemd::ready(status_line(&config)).await;
                    signals.until_stop(Some(&reloader)).await;
                    stop(&router, &mut signals, stopping, tasks).await;
                    Ok(())
                }
                Some(Err(error)) => Err(error),
                None => {
                    info!("stopping: the router had not started yet");
                    router.drain().await;
                    Ok(())
                }
            }
        }
        Err(error) => Err(error),
    };
    // Programs that stay read what they were given to its end.
    effects.close().await;
    observer.finish();
    if let Some(broker) = &broker {
        broker.close().await;
    }
    if tokio::time::timeout(CLOSE, embedded.close()).await.is_err() {
        bail!("the store did not close within {} s; nothing that was accepted is lost", CLOSE.as_secs());
    }
    if served.is_ok() {
        info!("event-router has stopped");
    }
    served
}

/// Reaches the broker, if there is one and it is there, and starts the routes. False for a broker that has to be waited for.
async fn begin(router: &Router, config: &Config, broker: Option<&Serving>) -> anyhow::Result<(Applied, bool)> {
    let reached = match broker {
        Some(broker) => broker.reach().await?,
        None => true,
    };
    match router.apply(config.clone()).await {
        Ok(applied) => Ok((applied, reached)),
        Err(error @ (ApplyError::Build { .. } | ApplyError::NoPlugin { .. } | ApplyError::Redact(_))) => Err(InvalidConfig::message(error).into()),
        Err(error) => Err(error.into()),
    }
}

/// Is something of what the routes want not bound yet, on a broker that was reached? Says so.
fn is_awaited(broker: &Serving) -> bool {
    let Err(why) = broker.stands() else { return false };
    warn!("not all that the routes want is bound on the broker, which is waited for: {why}");
    true
}

/// Keeps the numbers of sessions in step with the archive, so that a question about them finds little left to do.
async fn follow_sessions(sessions: Arc<SessionBook>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = SystemClock.sleep(FOLLOW_EVERY) => {}
            () = stopping.cancelled() => return,
        }
        let followed = tokio::select! {
            followed = sessions.follow() => followed,
            // What is half done is done again by whoever comes next.
            () = stopping.cancelled() => return,
        };
        if let Err(error) = followed {
            debug!("the numbers of sessions are behind: {error}");
        }
    }
}

async fn await_return(broker: Arc<Serving>, stopping: CancellationToken) {
    tokio::select! {
        () = broker.await_return() => info!("ready"),
        () = stopping.cancelled() => {}
    }
}

async fn open_store(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<Embedded>> {
    let path = config.store.path.display();
    // Looked at before it is there: whoever starts the router in the wrong directory sees that it begins with nothing.
    let is_new = !config.store.path.exists();
    let embedded = match Embedded::open_waiting(store_options(config), Arc::clone(clock), STORE_PATIENCE).await {
        Ok(embedded) => embedded,
        Err(OpenError::HeldByAnother { pid, .. }) => {
            let holder = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            bail!("another event-router{holder} already runs on the store `{path}`: stop it, or give this one another `store.path`");
        }
        Err(error) => return Err(error.into()),
    };
    for finding in embedded.findings() {
        warn!("store `{path}`: {finding}");
    }
    info!("the store is `{path}`{}", if is_new { ", made now" } else { "" });
    Ok(embedded)
}

/// A sentence for each route whose handlings the death of the last process broke off.
async fn interrupted(config: &Config, store: &dyn Store) -> Vec<String> {
    let mut lines = Vec::new();
    for route in config.routes.iter().filter(|route| route.enabled) {
        // A store that cannot be read says so when the route starts.
        let count = store.suspects(&route.name).await.map_or(0, |suspects| suspects.len() as u64);
        let (was, is) = if count == 1 { ("was", "it is") } else { ("were", "they are") };
        if count > 0 {
            let handlings = counted(count, "handling", "handlings");
            lines.push(format!("{handlings} {was} interrupted when the last process died; {is} repeated: route `{}`", route.name));
        }
    }
    lines
}

struct Doors {
    http: Option<Door>,
    socket: AdminSocket,
}

async fn doors(config: &Config, admin: Arc<dyn Admin>, abandoned_after: Duration) -> anyhow::Result<Doors> {
    let decode = config.limits.decode;
    let http = match config.http.listen {
        Some(address) => {
            let parts = DoorParts { admin: Arc::clone(&admin), clock: Arc::new(SystemClock), chance: Arc::new(OsChance), decode };
            let revealed = |tokens: &[(String, Secret)]| tokens.iter().map(|(name, token)| (name.clone(), token.reveal().to_owned())).collect::<Vec<_>>();
            let access = Access::new(revealed(&config.http.tokens), config.http.allowed_hosts.iter().cloned()).admin(revealed(&config.http.admin_tokens));
            Some(Door::bind(address, access, parts).await.context("the HTTP door cannot be opened")?.ends_abandoned(abandoned_after))
        }
        None => None,
    };
    let socket = AdminSocket::bind(&config.store.path, admin, decode)?;
    match &http {
        Some(door) => info!("events come in at http://{}/events", door.address()),
        None => info!("the HTTP door is off: events come in through `event-router publish`"),
    }
    let path: &Path = &socket_path(&config.store.path);
    info!("commands reach this router through `{}`", path.display());
    Ok(Doors { http, socket })
}

impl Doors {
    fn serve(self, stopping: &CancellationToken, telemetry: &Arc<RouterTelemetry>) -> Vec<JoinHandle<()>> {
        let mut tasks = vec![tokio::spawn(self.socket.telemetry(telemetry.of_door()).serve(stopping.clone().cancelled_owned()))];
        if let Some(door) = self.http {
            tasks.push(tokio::spawn(door.telemetry(telemetry.of_door()).serve(stopping.clone().cancelled_owned())));
        }
        tasks
    }
}

fn announce(config: &Config, applied: &Applied) {
    for route in config.routes.iter().filter(|route| route.enabled) {
        let (name, handler) = (route.name.as_str(), route.handler.as_str());
        let mode = match route.mode {
            router_api::RouteMode::Live => "live",
            router_api::RouteMode::Shadow => "shadow: writes nothing outside",
        };
        let on = if applied.paused.contains(&route.name) { "on, but paused" } else { "on" };
        match config.transport {
            TransportConfig::Embedded => info!(route = name, handler, "route `{name}` is {on} ({handler}, {mode})"),
            TransportConfig::Amqp(_) => info!(route = name, handler, "route `{name}` is {on} ({handler}, {mode}), queue `{}`", broker::queue_of(route)),
        }
    }
    let off: Vec<&str> = config.routes.iter().filter(|route| !route.enabled).map(|route| route.name.as_str()).collect();
    if !off.is_empty() {
        info!("switched off: {}", off.join(", "));
    }
    for (route, events) in &applied.waiting {
        let events = counted(*events, "event waits", "events wait");
        warn!(route = route.as_str(), "{events} in the queue of route `{route}`, which is off or gone");
    }
}

/// The routes first, each within its `drain_ms`; the doors stay open meanwhile, so that no producer loses an event and `events` answers
/// while the last handling runs: what comes in is stored and waits for the next start. A second signal cuts it short.
async fn stop(router: &Router, signals: &mut Signals, stopping: CancellationToken, tasks: Vec<JoinHandle<()>>) {
    info!("stopping: what runs is finished, what waits and what still comes in stays queued");
    systemd::stopping().await;
    let drained = {
        let draining = router.drain();
        tokio::pin!(draining);
        let same_wish = tokio::time::sleep(SAME_WISH);
        tokio::pin!(same_wish);
        let mut listens = false;
        loop {
            tokio::select! {
                drained = &mut draining => break drained,
                () = &mut same_wish, if !listens => {
                    listens = true;
                    info!("what runs is still waited for; a signal from now on cuts this short");
                }
                () = signals.until_stop(None) => {
                    if !listens {
                        continue;
                    }
                    warn!("a second signal: what still runs is cancelled and stays queued");
                    router.force();
                }
            }
        }
    };
    if drained.cancelled > 0 {
        let handlings = counted(drained.cancelled.into(), "handling was", "handlings were");
        warn!("{handlings} cancelled, since the time was over; the events stay queued, with no attempt counted");
    }
    stopping.cancel();
    for task in tasks {
        if let Err(error) = task.await {
            error!(error = %error, "a door ended badly");
        }
    }
}

/// The signals that a service is told by.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, hangup: listen(SignalKind::hangup())? })
    }

    /// Resolves at SIGTERM or SIGINT. A SIGHUP that comes meanwhile is kept for later.
    async fn until_ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Resolves at SIGTERM or SIGINT. SIGHUP loads the configuration anew, beside everything else; without a reloader it changes
    /// nothing.
    async fn until_stop(&mut self, reloader: Option<&Arc<Reloader>>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => match reloader.cloned() {
                    Some(reloader) => drop(tokio::spawn(async move { reloader.reload().await })),
                    None => warn!("SIGHUP changes nothing any more: the router is stopping"),
                },
            }
        }
    }
}
