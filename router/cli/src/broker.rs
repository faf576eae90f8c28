//! RabbitMQ as the program uses it: from its configuration to a transport that runs, or to one that a command reaches when it first needs it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use anyhow::bail;
use async_trait::async_trait;
use router_amqp::{AmqpOptions, AmqpTransport, ArchiveOptions, ClientTls, Management, Topology};
use router_api::{
    Admin as _, Archivist, Chance, Clock, Consumer, DeadLetterQuery, EffectPort, Features, PlanChange, PlanLine, Publication, Published, QueueStats, RouteName,
    Store, StoredDeadLetter, Subscription, Transport, TransportAdmin, TransportError,
};
use router_core::{
    Archiving,
    config::{self, AmqpConfig, Config, RouteConfig},
    observe::{Observer, RouterEvent},
};
use router_embedded::{Embedded, OpenError};
use router_http::AdminClient;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::{
    access::store_options,
    management::ManagementApi,
    memory_store::MemoryStore,
    store_file,
    system::{OsChance, SystemClock, host_name},
};

/// Routes whose first event is told.
const ROUTES_MAX: usize = 10_000;

/// For a command: longer than a broker on the same network takes, shorter than a person waits.
const REACH: Duration = Duration::from_secs(5);

/// As long as the first try goes on: a broker that is busy, or on a slow machine, is there all the same.
const REACH_MAX: Duration = Duration::from_secs(20);

/// How the configuration wants the broker used.
pub(crate) fn options(config: &Config, amqp: &AmqpConfig, management: Option<Arc<ManagementApi>>) -> AmqpOptions {
    AmqpOptions {
        name: format!("event-router on {}", host_name()),
        exchange: amqp.exchange.clone(),
        topology: match amqp.topology {
            config::Topology::Declare => Topology::Declare,
            config::Topology::Verify => Topology::Verify,
            config::Topology::Off => Topology::Off,
        },
        queue_kind: amqp.queue_kind,
        heartbeat: amqp.heartbeat,
        ack_timeout: amqp.ack_timeout,
        body_bytes_max: config.limits.decode.body_bytes_max,
        archive: amqp.archive.as_ref().map(|archive| ArchiveOptions { age: archive.age, bytes_max: archive.bytes_max }),
        tls: ClientTls { ca: amqp.tls.ca.clone(), certificate: amqp.tls.certificate.clone(), key: amqp.tls.key.clone() },
        management: management.map(|api| api as Arc<dyn Management>),
        ..AmqpOptions::new(amqp.url.reveal())
    }
}

/// The management API, where the configuration names one.
pub(crate) fn management(amqp: &AmqpConfig, effects: &Arc<dyn EffectPort>) -> anyhow::Result<Option<ManagementApi>> {
    amqp.management_url.as_ref().map(|url| ManagementApi::new(url.reveal(), Arc::clone(effects))).transpose()
}

/// At the start of the service: whoever is there answers by then, and who is not is waited for with open doors.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// As long as the first try goes on: a slow machine may be about to hear a no, which should end the start and not be found in the log.
const START_PATIENCE_MAX: Duration = Duration::from_secs(15);

/// Between two looks at a broker that says no.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Between two at one that says nothing.
const LOOK_SOON: Duration = Duration::from_millis(100);

/// The broker of the service.
pub(crate) struct Serving {
    transport: Arc<AmqpTransport>,
    archiving: Option<Arc<Archiving>>,
    management: Option<Arc<ManagementApi>>,
    shown: String,
}

impl Serving {
    /// Begins to connect. `store` remembers what was bound and gets the archive.
    pub(crate) fn start(
        config: &Config,
        amqp: &AmqpConfig,
        effects: &Arc<dyn EffectPort>,
        store: &Arc<dyn Store>,
        clock: &Arc<dyn Clock>,
        chance: &Arc<dyn Chance>,
    ) -> anyhow::Result<Self> {
        let management = management(amqp, effects)?.map(Arc::new);
        let options = options(config, amqp, management.clone());
        let shown = options.shown_url();
        let archiving = options.archive.is_some().then(|| Archiving::new(Arc::clone(store), Arc::clone(clock)));
        let archivist = archiving.clone().map(|archiving| archiving as Arc<dyn Archivist>);
        let transport = AmqpTransport::start(options, Arc::clone(store), archivist, Arc::clone(clock), Arc::clone(chance));
        Ok(Self { transport, archiving, management, shown })
    }

    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        self.transport.clone()
    }

    /// What keeps the archive, for the router.
    pub(crate) fn archiving(&self) -> Option<Arc<Archiving>> {
        self.archiving.clone()
    }

    /// Waits a moment for the broker. False when it is away and has to be waited for, which is said.
    ///
    /// # Errors
    ///
    /// When it says no in a way that no waiting heals.
    pub(crate) async fn reach(&self) -> anyhow::Result<bool> {
        match reached(&self.transport, START_PATIENCE, START_PATIENCE_MAX).await {
            Ok(()) => {
                info!("the broker is {}", self.named().await);
                Ok(true)
            }
            Err(TransportError::Unavailable(error)) => {
                warn!("the broker is away and is waited for: {error}. The doors are open, but no event is taken in meanwhile (503)");
                Ok(false)
            }
            Err(error) => bail!("{error}"),
        }
    }

    /// Is it there, and everything bound that the routes want, or said to be refused or out of reach? If not, why.
    ///
    /// # Errors
    ///
    /// What it is that is waited for.
    pub(crate) fn stands(&self) -> Result<(), String> {
        if self.transport.is_reached() {
            return Ok(());
        }
        let troubles = self.transport.condition().troubles;
        Err(if troubles.is_empty() { "the broker has not answered yet".to_owned() } else { troubles.join("; ") })
    }

    /// Waits until a broker that was away is reached and everything is bound there that the routes want, and says so.
    pub(crate) async fn await_return(&self) {
        loop {
            match self.transport.reached(LOOK_AGAIN).await {
                Ok(()) => break,
                // Why, the transport itself says. This came after a while, but for a transport that is being closed.
                Err(TransportError::Unavailable(_)) => tokio::time::sleep(LOOK_SOON).await,
                // Comes at once.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
        info!("the broker is {}; events are taken in and handled from now on", self.named().await);
    }

    async fn named(&self) -> String {
        let version = match &self.management {
            Some(api) => api.version().await.inspect_err(|error| warn!("the version of the broker is not known: {error}")).ok(),
            None => None,
        };
        version.map_or_else(|| format!("`{}`", self.shown), |version| format!("`{}`, {version}", self.shown))
    }

    pub(crate) async fn close(&self) {
        self.transport.close().await;
    }
}

/// Waits until the broker is reached: for `patience`, and again while the first try has come to no end yet, for about `most` in all.
async fn reached(transport: &AmqpTransport, patience: Duration, most: Duration) -> Result<(), TransportError> {
    let begun = SystemClock.monotonic();
    loop {
        let reached = transport.reached(patience).await;
        if reached.is_ok() || transport.has_been_tried() || SystemClock.monotonic() - begun >= most {
            // It may have come in the very last moment.
            return if transport.is_reached() { Ok(()) } else { reached };
        }
    }
}

/// The queue that a route takes its events from.
pub(crate) fn queue_of(route: &RouteConfig) -> String {
    route.queue.name.clone().unwrap_or_else(|| format!("services.router.{}", route.name))
}

/// Says for each route once that events arrive: whoever has just pointed a router at a bus wants to see that.
#[derive(Debug, Default)]
pub(crate) struct FirstEvents {
    seen: RwLock<HashSet<RouteName>>,
}

impl Observer for FirstEvents {
    fn observe(&self, event: &RouterEvent) {
        let RouterEvent::Received { route, key } = event else { return };
        if self.seen.read().is_ok_and(|seen| seen.contains(route)) {
            return;
        }
        if self.seen.write().is_ok_and(|mut seen| seen.len() < ROUTES_MAX && seen.insert(route.clone())) {
            info!(route = route.as_str(), "the first event for route `{route}` has arrived: {}", key.as_str().escape_debug());
        }
    }
}

/// What to look at when a broker does not answer.
pub(crate) fn with_hint(error: TransportError) -> TransportError {
    match error {
        TransportError::Unavailable(error) => TransportError::Unavailable(format!(
            "{error}; is RabbitMQ running there, and is the port that of AMQP (5672, or 5671 with TLS) and not that of its web pages (15672)?"
        )),
        error => error,
    }
}

/// The broker for one command: reached when the command first needs it, so that one that reads the local archive only works without. It
/// declares nothing and follows no archive; what a router has declared is there, or the answer says that it is not.
pub(crate) struct OnDemand {
    options: AmqpOptions,
    store: Arc<dyn Store>,
    subscriptions: Vec<Subscription>,
    reached: OnceCell<Arc<AmqpTransport>>,
}

impl OnDemand {
    /// `subscriptions` are those of all routes whose queues and dead letters the command may ask for.
    pub(crate) fn new(options: AmqpOptions, store: Arc<dyn Store>, subscriptions: Vec<Subscription>) -> Self {
        let options = AmqpOptions { topology: Topology::Off, archive: None, ..options };
        Self { options, store, subscriptions, reached: OnceCell::new() }
    }

    async fn broker(&self) -> Result<&Arc<AmqpTransport>, TransportError> {
        let reach = || async {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let transport = AmqpTransport::start(self.options.clone(), Arc::clone(&self.store), None, clock, Arc::new(OsChance));
            let reached = async {
                match transport.bind(&self.subscriptions).await {
                    // Not reached yet: it is remembered.
                    Ok(()) | Err(TransportError::Unavailable(_)) => {}
                    Err(error) => return Err(error),
                }
                reached(&transport, REACH, REACH_MAX).await
            };
            match reached.await {
                Ok(()) => Ok(transport),
                Err(error) => {
                    transport.close().await;
                    Err(with_hint(error))
                }
            }
        };
        self.reached.get_or_try_init(reach).await
    }
}

#[async_trait]
impl Transport for OnDemand {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn features(&self) -> Features {
        AmqpTransport::FEATURES
    }

    async fn bind(&self, _: &[Subscription]) -> Result<(), TransportError> {
        Err(TransportError::Unsupported("a command binds nothing on the broker; `event-router run` does"))
    }

    async fn consume(&self, _: &RouteName, _: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        Err(TransportError::Unsupported("a command handles nothing; `event-router run` does"))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        self.broker().await?.publish(publication).await
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self
    }

    async fn close(&self) {
        if let Some(transport) = self.reached.get() {
            transport.close().await;
        }
    }
}

#[async_trait]
impl TransportAdmin for OnDemand {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        self.broker().await?.admin().queues().await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        self.broker().await?.admin().dead_letters(query).await
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        self.broker().await?.admin().dead_letter(id).await
    }

    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.broker().await?.admin().redrive(ids).await
    }

    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.broker().await?.admin().discard(ids).await
    }

    async fn remove_queue(&self, route: &RouteName) -> Result<u64, TransportError> {
        self.broker().await?.admin().remove_queue(route).await
    }

    fn cannot_tell(&self) -> Option<&'static str> {
        Some(AmqpTransport::CANNOT_TELL)
    }

    async fn plan(&self, subscriptions: &[Subscription]) -> Result<Vec<PlanLine>, TransportError> {
        self.broker().await?.admin().plan(subscriptions).await
    }
}

/// Asks the broker what a router would change there, and binds nothing itself.
pub(crate) struct Planner {
    transport: Arc<AmqpTransport>,
    shown: String,
    /// Held while it is asked what was bound before; `None` where a router holds it, or where none ever ran.
    store: Option<Arc<Embedded>>,
    /// Where the router that holds the store can be asked, and what this configuration is.
    holder: Option<(PathBuf, String)>,
}

impl Planner {
    /// Begins to connect.
    pub(crate) fn new(config: &Config, amqp: &AmqpConfig, effects: Arc<dyn EffectPort>) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let path = &config.store.path;
        let (store, holder) = match store_file::is_there(path)?.then(|| Embedded::open(store_options(config), Arc::clone(&clock))) {
            Some(Ok(store)) => (Some(store), None),
            Some(Err(OpenError::HeldByAnother { .. })) => (None, Some((path.clone(), config.hash.clone()))),
            Some(Err(_)) | None => (None, None),
        };
        let remembered: Arc<dyn Store> = match &store {
            Some(store) => store.clone(),
            None => Arc::new(MemoryStore::default()),
        };
        let options = options(config, amqp, management(amqp, &effects)?.map(Arc::new));
        let shown = options.shown_url();
        Ok(Self { transport: AmqpTransport::start(options, remembered, None, clock, Arc::new(OsChance)), shown, store, holder })
    }

    /// What `run` would change.
    ///
    /// # Errors
    ///
    /// When the broker is not reached.
    pub(crate) async fn plan(&self, subscriptions: &[Subscription]) -> Result<Vec<PlanLine>, TransportError> {
        reached(&self.transport, REACH, REACH_MAX).await.map_err(with_hint)?;
        let mut plan = self.transport.admin().plan(subscriptions).await?;
        if let Some((path, hash)) = &self.holder {
            let (change, detail) = match Self::is_bound_by(path, hash).await {
                true => (PlanChange::Keep, "the router that runs with this configuration has bound it"),
                false => {
                    (PlanChange::Unknown, "the router that runs holds the record of what it has bound, and runs with another configuration or has troubles")
                }
            };
            for line in plan.iter_mut().filter(|line| line.change == PlanChange::Unknown && line.object.starts_with("binding ")) {
                (line.change, line.detail) = (change, Some(detail.to_owned()));
            }
        }
        Ok(plan)
    }

    /// Does the router on this store run with the same configuration, and has all of it been bound?
    async fn is_bound_by(store: &Path, hash: &str) -> bool {
        let asking = async { AdminClient::connect(store).await.ok()?.status().await.ok() };
        let status = tokio::time::timeout(REACH_MAX, asking).await.ok().flatten();
        status.is_some_and(|status| status.config_hash == hash && status.condition.reachable && status.condition.troubles.is_empty())
    }

    /// Lets go of broker and store; says which broker it was.
    pub(crate) async fn close(self) -> String {
        self.transport.close().await;
        if let Some(store) = self.store {
            store.close().await;
        }
        self.shown
    }
}
