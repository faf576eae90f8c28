//! The admin port: of a running router, and of a store that a command has opened itself.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    Accepted, Admin, AdminError, ArchivedEvent, BreakerState, Clock, DeadLetterGroups, DeadLetterQuery, DeadLetterSelection, EnableFrom, EnableRequest,
    Enabled, EventQuery, FollowRequest, Followed, FrozenBurst, Publication, Published, QueueStats, RedriveRequest, Redriven, RouteCommand, RouteCommanded,
    RouteName, RouteState, RouteStatus, RouterStatus, RoutingKey, SessionEntry, SessionList, SessionQuery, SessionShown, SessionStats, SessionsImported,
    StatsQuery, Store, StoredDeadLetter, Transport, TransportError,
};

use crate::{
    config::{Config, RouteConfig},
    follow,
    memory::{Memory, is_paused, set_paused, set_skips, stuck_bursts},
    observe::{Observers, RouterEvent},
    parts::{Parts, Shown, Status},
    recent::Recent,
    redact::Redactor,
    redrive::Redrive,
    route::{Order, Wish},
    router::{ApplyError, switches_on, waiting_in},
    sessions::{Projection, SessionBook},
    taking_in::{take_in, take_in_all},
    unsettled,
};

/// A router that runs.
pub(crate) struct RouterAdmin {
    pub parts: Arc<Parts>,
    pub shown: Arc<Shown>,
}

/// The store and the transport of a router that does not run.
pub struct StoreAdmin {
    /// Bound to the configuration's subscriptions, so that what is published waits for its routes.
    pub transport: Arc<dyn Transport>,
    /// The archive.
    pub store: Arc<dyn Store>,
    /// The door's redaction.
    pub redactor: Redactor,
    /// Waits between the parts of a redrive.
    pub clock: Arc<dyn Clock>,
    /// Told of redrives, for the audit line.
    pub observers: Observers,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The configuration.
    pub config: Config,
}

/// `recent` of a route that runs.
fn route_status(config: &RouteConfig, status: Status, queues: &[QueueStats], recent: Option<&Recent>) -> RouteStatus {
    RouteStatus {
        name: config.name.clone(),
        handler: config.handler.clone(),
        mode: config.mode,
        state: status.state,
        note: status.note,
        queue: queues.iter().find(|queue| queue.route == config.name).cloned(),
        open_bursts: status.open_bursts,
        failing_bursts: status.failing_bursts,
        rates: recent.map(|recent| recent.of(&config.name)),
        breaker: recent.map(|_| status.breaker),
    }
}

/// What a burst's events are given up on for, or why there is none.
async fn bursts_to_drop(store: &dyn Store, config: &RouteConfig, handles: bool) -> Result<Vec<FrozenBurst>, AdminError> {
    let name = &config.name;
    if config.coalesce.is_none() {
        return Err(AdminError::Invalid(format!("route `{name}` handles its events one by one (no `coalesce`), so it has no burst to drop")));
    }
    let bursts = stuck_bursts(store, name, handles).await?;
    if bursts.is_empty() {
        let why = if handles { "of which an attempt has failed; `routes flush` has those that collect handled now" } else { "that was begun" };
        return Err(AdminError::Invalid(format!("route `{name}` has no burst {why}")));
    }
    Ok(bursts)
}

fn events_of(bursts: &[FrozenBurst]) -> u64 {
    bursts.iter().map(|burst| burst.members.len() as u64).sum()
}

/// The queues; none while the transport is away, which its condition tells.
async fn queues(transport: &dyn Transport) -> Result<Vec<QueueStats>, AdminError> {
    match transport.admin().queues().await {
        Err(TransportError::Unavailable(_)) if !transport.admin().condition().reachable => Ok(Vec::new()),
        queues => Ok(queues?),
    }
}

/// What cannot be told of the events that a route begins behind.
pub(crate) fn untold(transport: &dyn Transport, from: EnableFrom) -> Option<String> {
    transport.admin().cannot_tell().filter(|_| from == EnableFrom::Now).map(str::to_owned)
}

fn router_status(transport: &dyn Transport, started_at: Timestamp, config_hash: String, routes: Vec<RouteStatus>) -> RouterStatus {
    let (version, name, condition) = (env!("CARGO_PKG_VERSION").to_owned(), transport.name().to_owned(), transport.admin().condition());
    let untold = transport.admin().cannot_tell().map(str::to_owned);
    RouterStatus { version, started_at, transport: name, config_hash, condition, untold, routes }
}

async fn event(store: &dyn Store, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
    let found = store.event(reference).await?;
    if found.is_empty() { Err(AdminError::NotFound(format!("there is no stored event `{reference}`"))) } else { Ok(found) }
}

async fn dead_letter(transport: &dyn Transport, id: &str) -> Result<StoredDeadLetter, AdminError> {
    transport.admin().dead_letter(id).await?.ok_or_else(|| AdminError::NotFound(format!("there is no dead letter `{id}`")))
}

impl RouterAdmin {
    fn tell_accepted(&self, key: RoutingKey, Published { seq, routed }: Published, redactions: u32) {
        self.parts.observers.tell(RouterEvent::Accepted { key, seq, routed, redactions });
    }

    fn add_unsettled(&self, events: &mut [ArchivedEvent]) {
        if self.parts.fates.is_some() {
            let now = self.shown.now().clone();
            unsettled::add(events, now.routes.iter().map(|(config, _)| config), now.decode);
        }
    }
}

#[async_trait]
impl Admin for RouterAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let now = self.shown.now().clone();
        let transport = &*self.parts.transport;
        let queues = queues(transport).await?;
        let routes = now.routes.iter().map(|(config, parts)| {
            let status = parts.as_ref().map_or_else(|| Status::idle(config), |parts| parts.status());
            route_status(config, status, &queues, parts.as_ref().map(|_| &*self.parts.recent))
        });
        Ok(router_status(transport, self.shown.started_at, now.config_hash, routes.collect()))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        Ok(self.accept(publication).await?.published)
    }

    async fn accept(&self, publication: Publication) -> Result<Accepted, AdminError> {
        let (redactor, limits) = (self.parts.redactor(), self.shown.now().decode);
        let key = publication.key.clone();
        let (accepted, redactions) = take_in(&*self.parts.transport, redactor.as_deref(), limits, publication).await?;
        self.tell_accepted(key, accepted.published, redactions);
        Ok(accepted)
    }

    async fn accept_all(&self, publications: Vec<Publication>) -> Result<Vec<Accepted>, (Vec<Accepted>, AdminError)> {
        let (redactor, limits) = (self.parts.redactor(), self.shown.now().decode);
        let keys: Vec<RoutingKey> = publications.iter().map(|publication| publication.key.clone()).collect();
        let taken = take_in_all(&*self.parts.transport, redactor.as_deref(), limits, publications).await;
        let told = |taken: Vec<(Accepted, u32)>| {
            let told = keys.into_iter().zip(taken).map(|(key, (accepted, redactions))| {
                self.tell_accepted(key, accepted.published, redactions);
                accepted
            });
            told.collect()
        };
        match taken {
            Ok(taken) => Ok(told(taken)),
            Err((taken, error)) => Err((told(taken), error)),
        }
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        let mut events = self.parts.store.events(query).await?;
        if !query.unmatched {
            self.add_unsettled(&mut events);
        }
        Ok(events)
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        let mut events = event(&*self.parts.store, reference).await?;
        self.add_unsettled(&mut events);
        Ok(events)
    }

    async fn follow(&self, request: &FollowRequest) -> Result<Followed, AdminError> {
        let now = self.shown.now().clone();
        let routes = now.routes.iter().map(|(config, _)| config);
        let mut followed = follow::follow(&*self.parts.store, &self.parts.clock, now.decode, routes, request, true).await?;
        self.add_unsettled(&mut followed.events);
        Ok(followed)
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<SessionList, AdminError> {
        self.parts.session_book.list(query).await
    }

    async fn session(&self, id: &str) -> Result<SessionShown, AdminError> {
        self.parts.session_book.show(id).await
    }

    async fn session_stats(&self, query: &StatsQuery) -> Result<SessionStats, AdminError> {
        self.parts.session_book.stats(query).await
    }

    async fn import_sessions(&self, sessions: Vec<SessionEntry>) -> Result<SessionsImported, AdminError> {
        self.parts.session_book.import(sessions).await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        Ok(self.parts.transport.admin().dead_letters(query).await?)
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        dead_letter(&*self.parts.transport, id).await
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<DeadLetterGroups, AdminError> {
        self.redriving().groups(query).await
    }

    async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        self.redriving().redrive(request).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        self.redriving().discard(selection).await
    }

    async fn command(&self, route: &RouteName, command: RouteCommand) -> Result<RouteCommanded, AdminError> {
        let queue = self.parts.transport.admin().queues().await?.into_iter().find(|queue| queue.route == *route);
        // For the route as it runs while it is commanded: a reload under way may put another one in its place.
        let _pausing = match command {
            RouteCommand::Pause | RouteCommand::Resume => Some(self.shown.pauses.lock().await),
            RouteCommand::Flush | RouteCommand::DropBurst | RouteCommand::Remove => None,
        };
        let Some(parts) = self.shown.route(route).or_else(|| queue.is_some().then_some(None)) else {
            let names: Vec<String> = self.shown.now().routes.iter().map(|(config, _)| format!("`{}`", config.name)).collect();
            return Err(AdminError::NotFound(format!("there is no route `{route}`; there are {}", names.join(", "))));
        };
        let mut events = queue.map_or(0, |queue| queue.ready + queue.waiting + queue.in_flight);
        let mut idle = None;
        match (command, &parts) {
            (RouteCommand::Remove, Some(_)) => {
                return Err(AdminError::Invalid(format!("route `{route}` is on: switch it off (`enabled = false`) before its queue is removed")));
            }
            (RouteCommand::Remove, None) => events = self.parts.transport.admin().remove_queue(route).await?,
            (_, None) => return Err(AdminError::Invalid(format!("route `{route}` is off, or gone from the configuration"))),
            (RouteCommand::Pause, Some(parts)) => {
                // Remembered first: a pause that a restart forgets would surprise at the worst time.
                set_paused(&*self.parts.store, route, Some(self.parts.clock.now())).await?;
                parts.orders.send_if_modified(|order| std::mem::replace(order, if *order == Order::Drain { Order::Drain } else { Order::Pause }) == Order::Run);
            }
            (RouteCommand::Resume, Some(parts)) => {
                let was_paused = is_paused(&*self.parts.store, route).await?;
                set_paused(&*self.parts.store, route, None).await?;
                // A route whose target is down is paused by its breaker, and tries it now.
                if !was_paused && parts.status().breaker == BreakerState::Closed {
                    idle = Some(format!("route `{route}` is running already"));
                }
                parts.orders.send_if_modified(|order| std::mem::replace(order, if *order == Order::Drain { Order::Drain } else { Order::Run }) == Order::Pause);
                let _ = parts.wishes.try_send(Wish::Probe);
            }
            (RouteCommand::Flush, Some(parts)) => {
                if parts.config.coalesce.is_none() {
                    idle = Some(format!("route `{route}` handles its events one by one (no `coalesce`), so nothing was waiting in a burst"));
                } else if parts.status().open_bursts == 0 {
                    idle = Some(format!("nothing was waiting in a burst of route `{route}`"));
                }
                let _ = parts.wishes.try_send(Wish::Flush);
            }
            (RouteCommand::DropBurst, Some(parts)) => {
                let store = &*self.parts.store;
                // A route that handles nothing now has none in its first attempt.
                let handles = matches!(parts.status().state, RouteState::Running | RouteState::Draining);
                let bursts = bursts_to_drop(store, &parts.config, handles).await?;
                parts.memory.drop_bursts(store, route, &bursts).await?;
                let _ = parts.wishes.try_send(Wish::Drop);
                events = events_of(&bursts);
            }
        }
        self.parts.observers.tell(RouterEvent::Commanded { route: route.clone(), command });
        Ok(RouteCommanded { route: route.clone(), command, events, idle })
    }
}

impl RouterAdmin {
    fn redriving(&self) -> Redrive<'_> {
        let now = self.shown.now().clone();
        Redrive {
            transport: &*self.parts.transport,
            store: &*self.parts.store,
            clock: &self.parts.clock,
            observers: &self.parts.observers,
            decode: now.decode,
            routes: now.routes,
            running: true,
        }
    }
}

impl StoreAdmin {
    fn session_book(&self) -> SessionBook {
        let projection = Arc::new(Projection::new(Arc::clone(&self.store), Arc::clone(&self.clock)));
        SessionBook::new(Arc::clone(&self.store), projection, Arc::clone(&self.clock))
    }

    fn add_unsettled(&self, events: &mut [ArchivedEvent]) {
        if !self.transport.features().archives {
            unsettled::add(events, self.config.routes.iter(), self.config.limits.decode);
        }
    }
}

#[async_trait]
impl Admin for StoreAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let queues = queues(&*self.transport).await?;
        let routes = self.config.routes.iter().map(|config| route_status(config, Status::idle(config), &queues, None)).collect();
        Ok(router_status(&*self.transport, self.opened_at, self.config.hash.clone(), routes))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        Ok(self.accept(publication).await?.published)
    }

    async fn accept(&self, publication: Publication) -> Result<Accepted, AdminError> {
        Ok(take_in(&*self.transport, Some(&self.redactor), self.config.limits.decode, publication).await?.0)
    }

    async fn accept_all(&self, publications: Vec<Publication>) -> Result<Vec<Accepted>, (Vec<Accepted>, AdminError)> {
        let alone = |taken: Vec<(Accepted, u32)>| taken.into_iter().map(|(accepted, _)| accepted).collect();
        let taken = take_in_all(&*self.transport, Some(&self.redactor), self.config.limits.decode, publications).await;
        taken.map(alone).map_err(|(taken, error)| (alone(taken), error))
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        let mut events = self.store.events(query).await?;
        if !query.unmatched {
            self.add_unsettled(&mut events);
        }
        Ok(events)
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        let mut events = event(&*self.store, reference).await?;
        self.add_unsettled(&mut events);
        Ok(events)
    }

    async fn follow(&self, request: &FollowRequest) -> Result<Followed, AdminError> {
        let mut followed = follow::follow(&*self.store, &self.clock, self.config.limits.decode, &self.config.routes, request, false).await?;
        self.add_unsettled(&mut followed.events);
        Ok(followed)
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<SessionList, AdminError> {
        self.session_book().list(query).await
    }

    async fn session(&self, id: &str) -> Result<SessionShown, AdminError> {
        self.session_book().show(id).await
    }

    async fn session_stats(&self, query: &StatsQuery) -> Result<SessionStats, AdminError> {
        self.session_book().stats(query).await
    }

    async fn import_sessions(&self, sessions: Vec<SessionEntry>) -> Result<SessionsImported, AdminError> {
        self.session_book().import(sessions).await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        Ok(self.transport.admin().dead_letters(query).await?)
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        dead_letter(&*self.transport, id).await
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<DeadLetterGroups, AdminError> {
        self.redriving().groups(query).await
    }

    async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        self.redriving().redrive(request).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        self.redriving().discard(selection).await
    }

    async fn command(&self, route: &RouteName, command: RouteCommand) -> Result<RouteCommanded, AdminError> {
        let config = self.config.routes.iter().find(|config| config.name == *route);
        let queue = self.transport.admin().queues().await?.into_iter().find(|queue| queue.route == *route);
        if config.is_none() && queue.is_none() {
            return Err(AdminError::NotFound(format!("there is no route `{route}`")));
        }
        let mut events = queue.map_or(0, |queue| queue.ready + queue.waiting);
        let mut idle = None;
        match command {
            RouteCommand::Pause => set_paused(&*self.store, route, Some(self.clock.now())).await?,
            RouteCommand::Resume => {
                if !is_paused(&*self.store, route).await? {
                    idle = Some(format!("route `{route}` is not paused"));
                }
                set_paused(&*self.store, route, None).await?;
            }
            RouteCommand::DropBurst => {
                let Some(config) = config else { return Err(AdminError::Invalid(format!("route `{route}` is gone from the configuration"))) };
                let bursts = bursts_to_drop(&*self.store, config, false).await?;
                Memory::default().drop_bursts(&*self.store, route, &bursts).await?;
                events = events_of(&bursts);
            }
            RouteCommand::Flush => return Err(AdminError::Invalid("no burst is open while no router runs".to_owned())),
            RouteCommand::Remove if config.is_some_and(|config| config.enabled) => {
                return Err(AdminError::Invalid(format!("route `{route}` is on: switch it off (`enabled = false`) before its queue is removed")));
            }
            RouteCommand::Remove => events = self.transport.admin().remove_queue(route).await?,
        }
        self.observers.tell(RouterEvent::Commanded { route: route.clone(), command });
        Ok(RouteCommanded { route: route.clone(), command, events, idle })
    }

    async fn enable(&self, route: &RouteName, request: EnableRequest) -> Result<Enabled, AdminError> {
        switches_on(&self.config, route).map_err(ApplyError::into_admin_error)?;
        let (waiting, since) = waiting_in(&self.transport.admin().queues().await?, route);
        set_skips(&*self.store, route, (request.from == EnableFrom::Now).then(|| self.clock.now())).await?;
        let paused = is_paused(&*self.store, route).await?;
        Ok(Enabled { route: route.clone(), from: request.from, waiting, since, paused, untold: untold(&*self.transport, request.from), reloaded: None })
    }
}

impl StoreAdmin {
    fn redriving(&self) -> Redrive<'_> {
        Redrive {
            transport: &*self.transport,
            store: &*self.store,
            clock: &self.clock,
            observers: &self.observers,
            decode: self.config.limits.decode,
            routes: self.config.routes.iter().map(|route| (route.clone(), None)).collect(),
            running: false,
        }
    }
}
