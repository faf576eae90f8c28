//! How a command reaches the store: it opens the store itself if nobody holds it, else asks the router that does, else says one
//! sentence.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use router_api::{Admin, Clock, Store, Subscription, Transport};
use router_core::{
    RouteMatcher, StoreAdmin,
    config::{Config, Located, Origin, TransportConfig},
    observe::Observers,
    redact::Redactor,
};
use router_embedded::{Embedded, EmbeddedOptions, OpenError};
use router_http::AdminClient;

use crate::{
    store_file, store_key,
    system::{OsChance, SystemClock},
};

/// What the command is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Looks only: a store that is not there is not made.
    Read,
    /// Puts events in: they must find the queues of the routes.
    Publish,
}

/// The store, one way or the other.
pub(crate) struct Access {
    admin: Arc<dyn Admin>,
    opened: Option<Arc<Embedded>>,
}

/// Somebody else may hold the store for a moment: another command, or a router that is starting or stopping.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Refuses to make a store that nobody asked for: where no configuration was found, somebody may only stand in the wrong directory,
/// and no router would ever look for his event there.
///
/// # Errors
///
/// The refusal.
pub(crate) fn refuse_stray_store(located: &Located, config: &Config) -> anyhow::Result<()> {
    let path = &config.store.path;
    if located.origin != Origin::BuiltIn || path.exists() {
        return Ok(());
    }
    bail!(
        "no configuration was found in {}, and the built-in one would make a new store `{}`: name the configuration with `-c`, start in its directory, or say `--new-store` to make that store",
        located.searched(),
        path.display()
    )
}

impl Access {
    /// Reaches the store of `config`.
    pub(crate) async fn open(config: &Config, purpose: Purpose) -> anyhow::Result<Self> {
        let TransportConfig::Embedded = config.transport else { bail!("`amqp` is not in this build yet") };
        let path = &config.store.path;
        if !store_file::is_there(path)? && purpose == Purpose::Read {
            bail!("there is no store `{}` yet: nothing was taken in with this configuration (`event-router run`, `event-router publish`)", path.display());
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let begun = clock.monotonic();
        loop {
            let held = match Embedded::open(store_options(config), Arc::clone(&clock)) {
                Ok(embedded) => return Self::own(config, purpose, embedded, &*clock).await,
                Err(error @ OpenError::HeldByAnother { .. }) => error,
                Err(error) => return Err(error.into()),
            };
            if let Ok(client) = AdminClient::connect(path).await {
                return Ok(Self { admin: Arc::new(client), opened: None });
            }
            if clock.monotonic() - begun > PATIENCE {
                let OpenError::HeldByAnother { pid, .. } = held else { return Err(held.into()) };
                let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                bail!("the store `{}` is held by {holder}, which does not answer on its socket: try again, or stop it", path.display());
            }
            clock.sleep(PAUSE).await;
        }
    }

    async fn own(config: &Config, purpose: Purpose, embedded: Arc<Embedded>, clock: &dyn Clock) -> anyhow::Result<Self> {
        let transport: Arc<dyn Transport> = embedded.clone();
        let store: Arc<dyn Store> = embedded.clone();
        // Only who takes events in redacts them: looking on must not make a key.
        let key = if purpose == Purpose::Publish { store_key::of_store(&config.store.path, &OsChance)? } else { store_key::drawn(&OsChance) };
        if purpose == Purpose::Publish {
            // The routes of another configuration on the same store are none of ours: they keep what they are bound to.
            let named: BTreeSet<_> = config.routes.iter().map(|route| route.name.clone()).collect();
            embedded.bind_beside(&subscriptions(config), &named).await.context("the queues of the routes cannot be made")?;
        }
        let redactor = Redactor::new(&config.redact, key).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("redact: {}", problems.join("; "))
        })?;
        let admin = StoreAdmin {
            transport,
            store,
            redactor,
            clock: Arc::new(SystemClock),
            observers: Observers::default(),
            opened_at: clock.now(),
            config: config.clone(),
        };
        Ok(Self { admin: Arc::new(admin), opened: Some(embedded) })
    }

    /// The store as a running router would show it.
    pub(crate) fn admin(&self) -> &dyn Admin {
        &*self.admin
    }

    /// True if a running router was asked.
    pub(crate) fn is_running(&self) -> bool {
        self.opened.is_none()
    }

    /// Lets go of the store.
    pub(crate) async fn close(self) {
        if let Some(embedded) = self.opened {
            embedded.close().await;
        }
    }
}

/// How the configuration wants the store opened.
pub(crate) fn store_options(config: &Config) -> EmbeddedOptions {
    EmbeddedOptions {
        sync: config.store.sync,
        retention_age: config.store.retention.age,
        retention_bytes_max: config.store.retention.bytes_max,
        decode: config.limits.decode,
        ..EmbeddedOptions::new(&config.store.path)
    }
}

/// What the enabled routes of a configuration want to receive.
pub(crate) fn subscriptions(config: &Config) -> Vec<Subscription> {
    let enabled = config.routes.iter().filter(|route| route.enabled);
    enabled
        .map(|route| Subscription {
            route: route.name.clone(),
            patterns: route.on.clone(),
            matcher: Arc::new(RouteMatcher::of(route)),
            queue: route.queue.clone(),
        })
        .collect()
}
