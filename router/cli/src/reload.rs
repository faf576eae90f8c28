//! A new configuration for a running router: on SIGHUP, and when a command asks for it. A bad one changes nothing.

use std::sync::{Arc, Mutex};

use anyhow::bail;
use async_trait::async_trait;
use router_api::{
    Accepted, Admin, AdminError, ArchivedEvent, Clock as _, DeadLetterGroups, DeadLetterQuery, DeadLetterSelection, EnableFrom, EnableRequest, Enabled,
    EventQuery, FollowRequest, Followed, Publication, Published, RedriveRequest, Redriven, Reloaded, RouteCommand, RouteCommanded, RouteName, RouterStatus,
    SessionEntry, SessionList, SessionQuery, SessionShown, SessionStats, SessionsImported, StatsQuery, StoredDeadLetter, TakenUp,
};
use router_claude::Spool;
use router_core::{
    ApplyError, Router,
    config::{Config, Located, Origin},
};
use tracing::{error, info, warn};

use crate::{args::Global, hook_prices, setup, system::SystemClock, systemd, terminal::counted};

/// Loads and applies.
pub(crate) struct Reloader {
    router: Arc<Router>,
    global: Global,
    /// What the doors, the store and the log were opened with.
    started_with: Config,
    in_force: Mutex<String>,
    /// What a service manager shows of the configuration in force.
    status_line: Mutex<String>,
    /// Where the configuration in force was read. Held from the reading of the next one until it is in force, or refused: of two
    /// reloads at once the one that read the older text must not come last.
    located: tokio::sync::Mutex<Located>,
    /// What hooks look into, too.
    spool: Option<Spool>,
}

impl Reloader {
    pub(crate) fn new(router: Arc<Router>, global: Global, started_with: Config, located: Located, spool: Option<Spool>) -> Self {
        if let Some(spool) = &spool {
            hook_prices::leave(spool, &started_with);
        }
        let in_force = Mutex::new(started_with.hash.clone());
        let status_line = Mutex::new(status_line(&started_with));
        Self { router, global, started_with, in_force, status_line, located: tokio::sync::Mutex::new(located), spool }
    }

    /// Loads the configuration anew and applies it, and writes into the log what came of it.
    ///
    /// # Errors
    ///
    /// All that is wrong with the configuration; the old one stays in force then.
    pub(crate) async fn reload(&self) -> Result<Reloaded, AdminError> {
        self.load_anew(None).await.map(|(reloaded, _)| reloaded)
    }

    /// Loads the configuration anew and switches a route on that it has switched on.
    ///
    /// # Errors
    ///
    /// As [`Reloader::reload`], and where there is nothing to switch on.
    pub(crate) async fn enable(&self, route: &RouteName, request: EnableRequest) -> Result<Enabled, AdminError> {
        let (reloaded, enabled) = self.load_anew(Some((route, request))).await?;
        let enabled = enabled.ok_or_else(|| AdminError::Invalid(format!("route `{route}` was not switched on")))?;
        Ok(Enabled { reloaded: Some(reloaded), ..enabled })
    }

    async fn load_anew(&self, switched_on: Option<(&RouteName, EnableRequest)>) -> Result<(Reloaded, Option<Enabled>), AdminError> {
        let mut located = self.located.lock().await;
        systemd::reloading().await;
        let result = self.load_and_apply(&mut located, switched_on).await;
        let mut status = self.status_line.lock().map(|line| line.clone()).unwrap_or_default();
        if result.is_err() {
            status.push_str("; the last reload was refused");
        }
        systemd::ready(status).await;
        drop(located);
        match &result {
            Ok((reloaded, enabled)) => {
                let names = |names: &[RouteName]| names.iter().map(RouteName::as_str).collect::<Vec<_>>().join(", ");
                let (started, restarted, stopped) = (names(&reloaded.started), names(&reloaded.restarted), names(&reloaded.stopped));
                let hash = reloaded.config_hash.get(..12).unwrap_or(&reloaded.config_hash);
                info!(hash, started, restarted, stopped, "the configuration was loaded anew");
                log_taken_up(&reloaded.taken_up, &reloaded.paused);
                if let Some(Enabled { route, from: EnableFrom::Now, waiting, .. }) = enabled {
                    let skipped = counted(*waiting, "event", "events");
                    info!(route = route.as_str(), events = waiting, "route `{route}` begins now; what waited for it becomes dead letters: {skipped}");
                }
                for (route, events) in &reloaded.waiting {
                    warn!(route = route.as_str(), events, "events wait in the queue of route `{route}`, which is off or gone");
                }
                for key in &reloaded.needs_restart {
                    warn!(key, "`{key}` has changed, which needs a restart");
                }
            }
            Err(problems) => {
                let hash = self.in_force.lock().map(|hash| hash.get(..12).unwrap_or_default().to_owned()).unwrap_or_default();
                error!(hash, "the configuration is not loaded, the old one stays in force: {problems}");
            }
        }
        result
    }

    async fn load_and_apply(&self, located: &mut Located, switched_on: Option<(&RouteName, EnableRequest)>) -> Result<(Reloaded, Option<Enabled>), AdminError> {
        let (global, before) = (self.global.clone(), located.clone());
        // It reads files, and runs its own small runtime.
        let loaded = tokio::task::spawn_blocking(move || {
            let found = setup::locate(&global)?;
            still_there(&before, &found)?;
            setup::load_located(&global, found)
        });
        let loaded = loaded.await.map_err(|error| AdminError::Invalid(error.to_string()))?;
        let refused = |error| {
            let error = format!("{error:#}");
            self.router.refused(&error);
            AdminError::Invalid(error)
        };
        let setup::Setup { config, located: found, .. } = loaded.map_err(refused)?;
        let needs_restart = self.needs_restart(&config);
        let (hash, status_line) = (config.hash.clone(), status_line(&config));
        let for_hooks = config.clone();
        let (enabled, applied) = match switched_on {
            None => (None, self.router.apply(config).await.map_err(ApplyError::into_admin_error)?),
            Some((route, request)) => {
                let (enabled, applied) = self.router.enable(config, route, request.from).await.map_err(ApplyError::into_admin_error)?;
                (Some(enabled), applied)
            }
        };
        *located = found;
        if let Some(spool) = &self.spool {
            hook_prices::leave(spool, &for_hooks);
        }
        if let Ok(mut in_force) = self.in_force.lock() {
            in_force.clone_from(&hash);
        }
        if let Ok(mut line) = self.status_line.lock() {
            *line = status_line;
        }
        let reloaded = Reloaded {
            config_hash: hash,
            at: SystemClock.now(),
            started: applied.started,
            restarted: applied.restarted,
            stopped: applied.stopped,
            waiting: applied.waiting,
            taken_up: applied.taken_up,
            paused: applied.paused,
            needs_restart,
        };
        Ok((reloaded, enabled))
    }

    fn needs_restart(&self, config: &Config) -> Vec<String> {
        let old = &self.started_with;
        let changed = [
            ("transport", config.transport != old.transport),
            ("store", config.store != old.store),
            ("http", config.http != old.http),
            ("limits", config.limits != old.limits),
            ("log", config.log != old.log),
        ];
        changed.iter().filter(|(_, changed)| *changed).map(|(key, _)| (*key).to_owned()).collect()
    }
}

/// What a service manager shows of a running router.
pub(crate) fn status_line(config: &Config) -> String {
    let on = config.routes.iter().filter(|route| route.enabled).count() as u64;
    format!("{} on, configuration {}", counted(on, "route", "routes"), config.hash.get(..12).unwrap_or(&config.hash))
}

/// Says of routes that were started what waited for them, and which of them are paused.
pub(crate) fn log_taken_up(taken_up: &[TakenUp], paused: &[RouteName]) {
    for route in paused {
        info!(route = route.as_str(), "route `{route}` stays paused by an operator: `event-router routes resume {route}` lets it go on");
    }
    for TakenUp { route, events, since } in taken_up {
        let (waited, since_text) = (counted(*events, "event", "events"), since.map(|since| format!(" since {since}")).unwrap_or_default());
        if paused.contains(route) {
            info!(route = route.as_str(), events, "route `{route}` is paused, and keeps what waits for it: {waited}{since_text}");
        } else {
            info!(route = route.as_str(), events, "route `{route}` is on, and takes up what waited for it: {waited}{since_text}");
        }
    }
}

/// A configuration that has gone is no wish to run with the next one that is found, or with the built-in one: that would switch off
/// every route because of a careless rename. Files of `routes.d` may go.
fn still_there(before: &Located, found: &Located) -> anyhow::Result<()> {
    let gone = before.files.iter().find(|file| file.file_name().is_some_and(|name| name == "router.toml") && !found.files.contains(file));
    if let Some(file) = gone {
        let file = file.strip_prefix(&before.cwd).unwrap_or(file).display();
        bail!("`{file}`, which the configuration in force came from, is not there any more; put it back, or restart the router without it");
    }
    if before.origin != Origin::BuiltIn && before.origin != found.origin {
        bail!("the configuration in force came from {}, where there is none any more; put it back, or restart the router without it", before.name());
    }
    Ok(())
}

/// The router's admin port with a reload.
pub(crate) struct ReloadingAdmin {
    pub(crate) admin: Arc<dyn Admin>,
    pub(crate) reloader: Arc<Reloader>,
}

#[async_trait]
impl Admin for ReloadingAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        self.admin.status().await
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        self.admin.publish(publication).await
    }

    async fn accept(&self, publication: Publication) -> Result<Accepted, AdminError> {
        self.admin.accept(publication).await
    }

    async fn accept_all(&self, publications: Vec<Publication>) -> Result<Vec<Accepted>, (Vec<Accepted>, AdminError)> {
        self.admin.accept_all(publications).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        self.admin.events(query).await
    }

    async fn follow(&self, request: &FollowRequest) -> Result<Followed, AdminError> {
        self.admin.follow(request).await
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        self.admin.event(reference).await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        self.admin.dead_letters(query).await
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        self.admin.dead_letter(id).await
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<DeadLetterGroups, AdminError> {
        self.admin.dead_letter_groups(query).await
    }

    async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        self.admin.redrive(request).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        self.admin.discard(selection).await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<SessionList, AdminError> {
        self.admin.sessions(query).await
    }

    async fn session(&self, id: &str) -> Result<SessionShown, AdminError> {
        self.admin.session(id).await
    }

    async fn session_stats(&self, query: &StatsQuery) -> Result<SessionStats, AdminError> {
        self.admin.session_stats(query).await
    }

    async fn import_sessions(&self, sessions: Vec<SessionEntry>) -> Result<SessionsImported, AdminError> {
        self.admin.import_sessions(sessions).await
    }

    async fn command(&self, route: &RouteName, command: RouteCommand) -> Result<RouteCommanded, AdminError> {
        self.admin.command(route, command).await
    }

    async fn enable(&self, route: &RouteName, request: EnableRequest) -> Result<Enabled, AdminError> {
        self.reloader.enable(route, request).await
    }

    async fn reload(&self) -> Result<Reloaded, AdminError> {
        self.reloader.reload().await
    }
}
