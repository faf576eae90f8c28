//! The whole router as a library, the way the program joins it: filter, lanes by session, inbox, metrics, coalesced acknowledgements, and
//! a handler that does nothing.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use event_router::{OsChance, SystemClock};
use router_amqp::{AmqpOptions, AmqpTransport, ArchiveOptions};
use router_api::{
    Archivist, BuildContext, BuildError, Chance, Clock, Context, EffectPort, Envelope, Handler, HandlerError, Outcome, Plugin, Registration, Registry, Store,
    Subscription, Transport,
};
use router_core::{
    Archiving, RouteMatcher, Router,
    config::{self, Config, ProcessEnvironment},
    metrics::Metrics,
};
use router_effects::{Performer, PerformerOptions};
use router_embedded::{Embedded, EmbeddedOptions};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Failed, inbox::MemoryInbox, settings::PREFETCH, tally};

/// The queue that everybody drains.
pub const QUEUE: &str = "services.router.drain";

/// For the broker to answer, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is remembered, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Remembers {
    /// The inbox in memory, no archive.
    InMemory,
    /// The inbox in SQLite, synced, as in the program; no archive.
    OnDisk,
    /// The same, and every event into the archive.
    Everything,
}

/// Counts.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[async_trait]
impl Plugin for Nothing {
    const NAME: &'static str = "nothing";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Handler for Nothing {
    async fn handle(&self, event: &Envelope, _: &Context) -> Result<Outcome, HandlerError> {
        tally::handled(event.raw());
        Ok(Outcome::Done)
    }
}

fn toml(url: &str, kind: &str) -> String {
    format!(
        r#"
[transport]
kind = "amqp"
url = "{url}"

[store]
path = "router.db"

[http]
listen = "off"

[[route]]
name = "drain"
on = ["session.thread.#"]
when = {{ tool_name = ["Write", "Edit", "Bash", "Read"], working_directory = [{{ prefix = "/home/" }}] }}
order_by = "session_id"
prefetch = {PREFETCH}
queue_type = "{kind}"
handler = "nothing"
"#
    )
}

async fn configured(directory: &Path, url: &str, kind: &str) -> Result<(Config, Registry, Arc<dyn EffectPort>), Failed> {
    std::fs::write(directory.join("router.toml"), toml(url, kind))?;
    let registry = Registry::of([Registration::of::<Nothing>()])?;
    let effects = Performer::new(PerformerOptions::default())?;
    let located = config::locate(&[directory.join("router.toml")], None, directory);
    let loaded = config::load(&located, &registry, effects.clone(), &ProcessEnvironment).await.map_err(|problems| problems.report.render(false))?;
    Ok((loaded.config, registry, effects))
}

fn options(url: &str, remembers: Remembers) -> AmqpOptions {
    let archive = (remembers == Remembers::Everything).then_some(ArchiveOptions { age: Duration::from_secs(86_400), bytes_max: 1 << 30 });
    AmqpOptions { archive, ..AmqpOptions::new(url) }
}

/// Makes exchange, queue and bindings as the router makes them, for everybody.
pub async fn make_queue(url: &str, kind: &str, remembers: Remembers) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (config, ..) = configured(directory.path(), url, kind).await?;
    let store: Arc<dyn Store> = Arc::new(MemoryInbox::default());
    let transport = AmqpTransport::start(options(url, remembers), store, None, Arc::new(SystemClock), Arc::new(OsChance));
    transport.reached(PATIENCE).await?;
    let subscriptions: Vec<Subscription> = config
        .routes
        .iter()
        .map(|route| Subscription {
            route: route.name.clone(),
            patterns: route.on.clone(),
            matcher: Arc::new(RouteMatcher::of(route)),
            queue: route.queue.clone(),
        })
        .collect();
    transport.bind(&subscriptions).await?;
    transport.close().await;
    Ok(())
}

/// Drains until everything that is expected was handled, and stops in good order.
pub async fn drain(remembers: Remembers, url: &str, kind: &str, handlers: tokio::runtime::Handle) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (config, registry, effects) = configured(directory.path(), url, kind).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let chance: Arc<dyn Chance> = Arc::new(OsChance);
    let embedded = match remembers {
        Remembers::InMemory => None,
        Remembers::OnDisk | Remembers::Everything => Some(Embedded::open(EmbeddedOptions::new(&config.store.path), Arc::clone(&clock))?),
    };
    let store: Arc<dyn Store> = match &embedded {
        Some(embedded) => embedded.clone(),
        None => Arc::new(MemoryInbox::default()),
    };
    let archiving = (remembers == Remembers::Everything).then(|| Archiving::new(Arc::clone(&store), Arc::clone(&clock)));
    let archivist = archiving.clone().map(|archiving| archiving as Arc<dyn Archivist>);
    let transport = AmqpTransport::start(options(url, remembers), Arc::clone(&store), archivist, Arc::clone(&clock), Arc::clone(&chance));
    transport.reached(PATIENCE).await?;
    let metrics = Arc::new(Metrics::new(Arc::clone(&clock)));
    let mut building = Router::builder(registry, transport.clone(), store, effects, clock, chance).observer(metrics.clone()).handlers(handlers);
    if let Some(archiving) = archiving {
        building = building.archiving(archiving);
    }
    let router = building.build();
    router.apply(config).await?;
    tally::done().await;
    router.drain().await;
    transport.close().await;
    if let Some(embedded) = embedded {
        embedded.close().await;
    }
    Ok(())
}
