//! How a command reaches the store: it opens the store itself if nobody holds it, else asks the router that does, else says one
//! sentence. What lies on a broker it reaches there, where no router on this store can be asked.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use router_api::{Admin, Clock, EffectPort, Store, Subscription, Transport};
use router_core::{
    RouteMatcher, StoreAdmin,
    config::{Config, Located, Origin, RouteConfig, TransportConfig},
    observe::Observers,
    redact::Redactor,
};
use router_effects::{Performer, PerformerOptions};
use router_embedded::{Embedded, EmbeddedOptions, OpenError};
use router_http::AdminClient;

use crate::{
    broker::{self, OnDemand},
    memory_store::MemoryStore,
    store_file, store_key,
    system::{OsChance, SystemClock},
};

/// What the command is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Looks only: a store that is not there is not made.
    Read,
    /// Looks at dead letters, or does something with them. On a broker they lie there, and no store is needed.
    Letters,
    /// Puts events in: they must find the queues of the routes.
    Publish,
    /// Keeps what is known from elsewhere, in this store; no route and no broker is asked. Makes the store.
    Keep,
}

/// The store, one way or the other.
pub(crate) struct Access {
    admin: Arc<dyn Admin>,
    running: bool,
    opened: Option<Arc<Embedded>>,
    /// A broker that this command may have reached.
    broker: Option<Arc<OnDemand>>,
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
    if located.origin != Origin::BuiltIn || path.exists() || matches!(config.transport, TransportConfig::Amqp(_)) {
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
        let path = &config.store.path;
        let on_broker = matches!(config.transport, TransportConfig::Amqp(_));
        if on_broker && !matches!(purpose, Purpose::Read | Purpose::Keep) {
            return Self::open_beside(config, purpose).await;
        }
        if !store_file::is_there(path)? && !matches!(purpose, Purpose::Publish | Purpose::Keep) {
            let makers = if on_broker { "`event-router run`" } else { "`event-router run`, `event-router publish`" };
            bail!("there is no store `{}` yet: nothing was taken in with this configuration ({makers})", path.display());
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let begun = clock.monotonic();
        loop {
            let options = store_options(config);
            let opened = match purpose {
                // What is only looked at is read as a whole once a day; the first write reads it in any case.
                Purpose::Read | Purpose::Letters => Embedded::open_to_look(options, Arc::clone(&clock)),
                Purpose::Publish | Purpose::Keep => Embedded::open(options, Arc::clone(&clock)),
            };
            let held = match opened {
                Ok(embedded) => return Self::own(config, purpose, Some(embedded), &*clock).await,
                Err(error @ OpenError::HeldByAnother { .. }) => error,
                Err(error) => return Err(error.into()),
            };
            if let Ok(client) = AdminClient::connect(path).await {
                return Ok(Self::asking(client));
            }
            if clock.monotonic() - begun > PATIENCE {
                let OpenError::HeldByAnother { pid, .. } = held else { return Err(held.into()) };
                let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                bail!("the store `{}` is held by {holder}, which does not answer on its socket: try again, or stop it", path.display());
            }
            clock.sleep(PAUSE).await;
        }
    }

    /// For what lies on the broker: the router that runs on this store is asked, so that its log tells of it; else the broker itself. The
    /// store is opened where it is there and nobody holds it, for the parked lanes and the routes of earlier configurations.
    async fn open_beside(config: &Config, purpose: Purpose) -> anyhow::Result<Self> {
        let path = &config.store.path;
        if let Ok(client) = AdminClient::connect(path).await {
            return Ok(Self::asking(client));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let embedded = if purpose == Purpose::Letters && store_file::is_there(path)? {
            match Embedded::open_to_look(store_options(config), Arc::clone(&clock)) {
                Ok(embedded) => Some(embedded),
                Err(OpenError::HeldByAnother { .. }) => None,
                Err(error) => return Err(error.into()),
            }
        } else {
            None
        };
        Self::own(config, purpose, embedded, &*clock).await
    }

    /// A running router that is found already.
    pub(crate) fn asking(client: AdminClient) -> Self {
        Self { admin: Arc::new(client), running: true, opened: None, broker: None }
    }

    async fn own(config: &Config, purpose: Purpose, embedded: Option<Arc<Embedded>>, clock: &dyn Clock) -> anyhow::Result<Self> {
        let store: Arc<dyn Store> = match &embedded {
            Some(embedded) => embedded.clone(),
            None => Arc::new(MemoryStore::default()),
        };
        let broker = match &config.transport {
            TransportConfig::Embedded => None,
            TransportConfig::Amqp(amqp) => {
                // Nothing that a route would run: a performer for the management API, if there is one.
                let management = match &amqp.management_url {
                    Some(_) => broker::management(amqp, &(Performer::new(PerformerOptions::default())? as Arc<dyn EffectPort>))?,
                    None => None,
                };
                // Of routes that are off, too: what waits for them, or was given up on, is there.
                let subscriptions = all_subscriptions(config);
                Some(Arc::new(OnDemand::new(broker::options(config, amqp, management.map(Arc::new)), Arc::clone(&store), subscriptions)))
            }
        };
        // Only who takes events in redacts them: looking on must not make a key, and neither must who leaves no store behind.
        let key = match purpose {
            Purpose::Publish if broker.is_none() || store_key::is_there(&config.store.path) => store_key::of_store(&config.store.path, &OsChance)?,
            _ => store_key::drawn(&OsChance),
        };
        let transport: Arc<dyn Transport> = match (&broker, &embedded) {
            (Some(broker), _) => broker.clone(),
            (None, Some(embedded)) => {
                if purpose == Purpose::Publish {
                    // The routes of another configuration on the same store are none of ours: they keep what they are bound to.
                    let named: BTreeSet<_> = config.routes.iter().map(|route| route.name.clone()).collect();
                    embedded.bind_beside(&subscriptions(config), &named).await.context("the queues of the routes cannot be made")?;
                }
                embedded.clone()
            }
            (None, None) => bail!("the embedded transport is its store, and there is none"),
        };
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
        Ok(Self { admin: Arc::new(admin), running: false, opened: embedded, broker })
    }

    /// The store as a running router would show it.
    pub(crate) fn admin(&self) -> &dyn Admin {
        &*self.admin
    }

    /// True if a running router was asked.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// Lets go of the store and the broker.
    pub(crate) async fn close(self) {
        if let Some(broker) = self.broker {
            broker.close().await;
        }
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
        ledger_bytes_max: config.store.ledger_bytes_max,
        decode: config.limits.decode,
        ..EmbeddedOptions::new(&config.store.path)
    }
}

/// What the enabled routes of a configuration want to receive.
pub(crate) fn subscriptions(config: &Config) -> Vec<Subscription> {
    of_routes(config.routes.iter().filter(|route| route.enabled))
}

/// The same of all routes, those that are off included.
fn all_subscriptions(config: &Config) -> Vec<Subscription> {
    of_routes(config.routes.iter())
}

fn of_routes<'a>(routes: impl Iterator<Item = &'a RouteConfig>) -> Vec<Subscription> {
    routes
        .map(|route| Subscription {
            route: route.name.clone(),
            // A route that is off has a queue, and wants nothing.
            patterns: if route.enabled { route.on.clone() } else { Vec::new() },
            matcher: Arc::new(RouteMatcher::of(route)),
            queue: route.queue.clone(),
        })
        .collect()
}
