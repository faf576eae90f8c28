//! A new configuration for a running router: on SIGHUP, and when a command asks for it. A bad one changes nothing.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use router_api::{
    Accepted, Admin, AdminError, ArchivedEvent, Clock as _, DeadLetterQuery, DeadLetterSelection, EventQuery, Publication, Published, RedriveRequest, Redriven, Reloaded,
    RouteCommand, RouteCommanded, RouteName, RouterStatus, StoredDeadLetter,
};
use router_core::{Router, config::Config};
use tracing::{error, info, warn};

use crate::{args::Global, setup, system::SystemClock};

/// Loads and applies.
pub(crate) struct Reloader {
    router: Arc<Router>,
    global: Global,
    /// What the doors, the store and the log were opened with.
    started_with: Config,
    in_force: Mutex<String>,
}

impl Reloader {
    pub(crate) fn new(router: Arc<Router>, global: Global, started_with: Config) -> Self {
        let in_force = Mutex::new(started_with.hash.clone());
        Self { router, global, started_with, in_force }
    }

    /// Loads the configuration anew and applies it, and writes into the log what came of it.
    ///
    /// # Errors
    ///
    /// All that is wrong with the configuration; the old one stays in force then.
    pub(crate) async fn reload(&self) -> Result<Reloaded, String> {
        let result = self.load_and_apply().await;
        match &result {
            Ok(reloaded) => {
                let names = |names: &[RouteName]| names.iter().map(RouteName::as_str).collect::<Vec<_>>().join(", ");
                let (started, restarted, stopped) = (names(&reloaded.started), names(&reloaded.restarted), names(&reloaded.stopped));
                let hash = reloaded.config_hash.get(..12).unwrap_or(&reloaded.config_hash);
                info!(hash, started, restarted, stopped, "the configuration was loaded anew");
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

    async fn load_and_apply(&self) -> Result<Reloaded, String> {
        let global = self.global.clone();
        // It reads files, and runs its own small runtime.
        let loaded = tokio::task::spawn_blocking(move || setup::load(&global)).await.map_err(|error| error.to_string())?;
        let refused = |error| {
            let error = format!("{error:#}");
            self.router.refused(&error);
            error
        };
        let config = loaded.map_err(refused)?.config;
        let needs_restart = self.needs_restart(&config);
        let hash = config.hash.clone();
        let applied = self.router.apply(config).await.map_err(|error| error.to_string())?;
        if let Ok(mut in_force) = self.in_force.lock() {
            in_force.clone_from(&hash);
        }
        Ok(Reloaded {
            config_hash: hash,
            at: SystemClock.now(),
            started: applied.started,
            restarted: applied.restarted,
            stopped: applied.stopped,
            waiting: applied.waiting,
            needs_restart,
        })
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

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        self.admin.events(query).await
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

    async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        self.admin.redrive(request).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        self.admin.discard(selection).await
    }

    async fn command(&self, route: &RouteName, command: RouteCommand) -> Result<RouteCommanded, AdminError> {
        self.admin.command(route, command).await
    }

    async fn reload(&self) -> Result<Reloaded, AdminError> {
        self.reloader.reload().await.map_err(AdminError::Invalid)
    }
}
