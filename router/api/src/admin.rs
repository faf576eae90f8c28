//! The port to a running router, for the command line, the socket and the HTTP API. Implemented by the core.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ArchivedEvent, Condition, DeadLetterQuery, DeadLetterReason, DecodeLimits, Envelope, EventQuery, FailureClass, FollowRequest, Followed, Publication,
    Published, QueueStats, RouteMode, RouteName, SessionEntry, SessionList, SessionQuery, SessionShown, SessionStats, SessionsImported, StatsQuery, StoreError,
    StoredDeadLetter, TransportError,
};

/// Why the router could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// What was given cannot be taken: an event that is no JSON object within the limits, a wrong query.
    #[error("{0}")]
    Invalid(String),
    /// The transport could not.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The store could not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a route is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteState {
    /// Switched off by the configuration.
    Disabled,
    /// Taking events.
    Running,
    /// Its target is down: waits, then probes with one event.
    Paused,
    /// Its transport is away: tries again.
    Reconnecting,
    /// Finishing what runs.
    Draining,
    /// Not running.
    Stopped,
}

/// One route as it stands.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RouteStatus {
    /// Its name.
    pub name: RouteName,
    /// Its plugin.
    pub handler: String,
    /// Live or shadow.
    pub mode: RouteMode,
    /// What it is doing.
    pub state: RouteState,
    /// Why, where there is something to say: `held up by lane …`, the error that opened the breaker.
    pub note: Option<String>,
    /// Its queue.
    pub queue: Option<QueueStats>,
    /// Bursts that are collecting.
    pub open_bursts: u32,
    /// Bursts that have failed and wait for their next attempt: what [`RouteCommand::DropBurst`] gives up on.
    #[serde(default)]
    pub failing_bursts: u32,
    /// What it did lately; `None` where no router runs.
    #[serde(default)]
    pub rates: Option<RouteRates>,
    /// Whether its target answers; `None` where no router runs, and for a route that is off.
    #[serde(default)]
    pub breaker: Option<BreakerState>,
}

/// What a route did lately.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RouteRates {
    /// The window that was counted over, in seconds; shorter while the router is younger than its usual window.
    pub window_s: u32,
    /// Events that need nothing more: handled, skipped, or recorded by a shadow route.
    pub handled: u64,
    /// Events whose attempt failed, each time that it did, and events given up on.
    pub failed: u64,
    /// `handled` for one minute.
    pub handled_per_minute: f64,
    /// `failed` for one minute.
    pub failed_per_minute: f64,
}

/// Whether a route's target answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum BreakerState {
    /// It does, as far as is known.
    Closed,
    /// It does not: nothing is handled.
    Open {
        /// Then one handling is tried.
        #[schemars(with = "crate::described::Moment")]
        until: Timestamp,
    },
    /// One handling at a time is tried, until one gets an answer.
    Probing,
}

/// The router as it stands.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RouterStatus {
    /// Of the program.
    pub version: String,
    /// When it started.
    #[schemars(with = "crate::described::Moment")]
    pub started_at: Timestamp,
    /// `embedded` or `amqp`.
    pub transport: String,
    /// Of the configuration in force.
    pub config_hash: String,
    /// How the transport is.
    #[serde(default)]
    pub condition: Condition,
    /// What the transport cannot tell of the queues, if there is such a thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
    /// Every route of the configuration, in its order.
    pub routes: Vec<RouteStatus>,
}

/// Which dead letters an operator means. What is not set does not narrow the choice.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterSelection {
    /// These.
    pub ids: Vec<String>,
    /// Of this route.
    pub route: Option<RouteName>,
    /// Of this reason, as [`crate::DeadLetterReason::name`] prints it.
    pub reason: Option<String>,
    /// Whose last failure is of this class, as [`crate::FailureClass::name`] prints it.
    pub class: Option<String>,
    /// Whose event fits this filter, of the shape of a route's `when`.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub when: Option<serde_json::Value>,
    /// At most so many, the oldest first.
    pub limit: Option<u32>,
}

/// Puts dead letters back into the queues of their routes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedriveRequest {
    /// Which.
    pub selection: DeadLetterSelection,
    /// Only say which they are.
    pub dry_run: bool,
    /// At most so many a second; as fast as it goes if absent.
    pub rate: Option<u32>,
    /// So many first; the rest only when none of these has failed again.
    pub canary: u32,
    /// Do all their writes again, those too that the ledger knows to be done.
    pub again: bool,
}

/// What came of a redrive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Redriven {
    /// How many were meant.
    pub selected: u64,
    /// How many are back in their queues.
    pub redriven: u64,
    /// Their ids, oldest first, at most 1,000.
    pub ids: Vec<String>,
    /// Why it stopped before the end.
    pub stopped: Option<String>,
    /// What was already done for the first 1,000 of them, at most 1,000 writes. With `again` it is forgotten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub already_done: Vec<crate::DoneBefore>,
}

/// Dead letters of one route that failed in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterGroup {
    /// The route.
    pub route: RouteName,
    /// Why they were given up on.
    pub reason: DeadLetterReason,
    /// The class of the last failure; `None` where nothing was tried.
    pub class: Option<FailureClass>,
    /// What their errors have in common: numbers, ids and paths, which differ from letter to letter, are `…` here.
    pub pattern: String,
    /// How many.
    pub count: u64,
    /// When the first of them was given up on.
    #[schemars(with = "crate::described::Moment")]
    pub oldest: Timestamp,
    /// … and the last.
    #[schemars(with = "crate::described::Moment")]
    pub newest: Timestamp,
    /// The id of the newest one.
    pub sample: String,
    /// The error of the newest one.
    pub error: String,
}

/// Dead letters by route and failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterGroups {
    /// How many letters there are in all groups.
    pub letters: u64,
    /// The group with the newest letter first; at most [`DeadLetterGroups::GROUPS_MAX`].
    pub groups: Vec<DeadLetterGroup>,
}

impl DeadLetterGroups {
    /// Groups in one answer; those with the oldest letters are left out.
    pub const GROUPS_MAX: usize = 1_000;
}

/// What an operator wants of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteCommand {
    /// Finish what runs and start nothing more, until `Resume`; events go on collecting. Survives restarts.
    Pause,
    /// End a pause, the operator's or the breaker's.
    Resume,
    /// Close all bursts that collect, now.
    Flush,
    /// Give up on the bursts that have failed, or that a route which handles nothing now has begun: their events become dead letters.
    DropBurst,
    /// Delete the queue of a route that is off or gone, with what waits in it.
    Remove,
}

/// What came of a [`RouteCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RouteCommanded {
    /// The route.
    pub route: RouteName,
    /// The command.
    pub command: RouteCommand,
    /// Events that it concerned: deleted ones for `Remove`, those of the bursts for `DropBurst`, waiting ones for the others.
    pub events: u64,
    /// Why there was nothing to do, if so: a route that runs is resumed, or has no burst to flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
}

/// Where a route begins that is switched on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EnableFrom {
    /// With what waits in its queue.
    #[default]
    Beginning,
    /// With what comes from now on; what waits becomes dead letters.
    Now,
}

/// Switches a route on that the configuration file says is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnableRequest {
    /// Where it begins.
    pub from: EnableFrom,
}

/// What came of an [`EnableRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Enabled {
    /// The route.
    pub route: RouteName,
    /// Where it begins.
    pub from: EnableFrom,
    /// Events that waited in its queue: it handles them first, or they become dead letters.
    pub waiting: u64,
    /// When the oldest of them was stored.
    #[schemars(with = "Option<crate::described::Moment>")]
    pub since: Option<Timestamp>,
    /// It was paused by an operator, and stays so: all this happens when it is let go on.
    #[serde(default)]
    pub paused: bool,
    /// What the transport cannot tell of the queue, where that matters: events that are skipped, and not counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
    /// What loading the configuration did; `None` where no router runs.
    pub reloaded: Option<Reloaded>,
}

/// Events that waited in the queue of a route when it was switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TakenUp {
    /// The route.
    pub route: RouteName,
    /// How many.
    pub events: u64,
    /// When the oldest of them was stored.
    #[schemars(with = "Option<crate::described::Moment>")]
    pub since: Option<Timestamp>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Reloaded {
    /// Of the configuration that is now in force.
    pub config_hash: String,
    /// When.
    #[schemars(with = "crate::described::Moment")]
    pub at: Timestamp,
    /// Routes that are new or were switched on.
    pub started: Vec<RouteName>,
    /// Routes that changed.
    pub restarted: Vec<RouteName>,
    /// Routes that are gone or were switched off.
    pub stopped: Vec<RouteName>,
    /// Events that wait in the queues of routes that are off or gone.
    pub waiting: Vec<(RouteName, u64)>,
    /// Events that waited for the routes in `started`: these are handled first.
    #[serde(default)]
    pub taken_up: Vec<TakenUp>,
    /// Routes in `started` and `restarted` that an operator has paused: they stay so.
    #[serde(default)]
    pub paused: Vec<RouteName>,
    /// What a reload cannot change: it needs a restart.
    pub needs_restart: Vec<String>,
}

/// An event that was taken in, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What became of it.
    pub published: Published,
    /// Its own id, where its dialect has one. Redaction may have changed it.
    pub event_id: Option<String>,
    /// Its bytes after redaction, where the router is in this process.
    pub body: Option<Bytes>,
}

fn not_running<T>(what: &str) -> Result<T, AdminError> {
    Err(AdminError::Invalid(format!("{what} needs a running router")))
}

/// A running router.
#[async_trait]
pub trait Admin: Send + Sync + 'static {
    /// The router as it stands.
    async fn status(&self) -> Result<RouterStatus, AdminError>;

    /// Takes an event in from outside: redacts it, stores it, and returns once it is safe.
    async fn publish(&self, publication: Publication) -> Result<Published, AdminError>;

    /// Like [`Admin::publish`], and says how the event is stored. Whoever redacts has to say it himself; this reads the id of what is given.
    async fn accept(&self, publication: Publication) -> Result<Accepted, AdminError> {
        let (key, body) = (publication.key.clone(), publication.body.clone());
        let published = self.publish(publication).await?;
        let limits = DecodeLimits { body_bytes_max: body.len(), ..DecodeLimits::default() };
        let event_id = Envelope::decode(key, body.clone(), limits).ok().and_then(|envelope| envelope.id().map(|id| id.as_str().to_owned()));
        Ok(Accepted { published, event_id, body: Some(body) })
    }

    /// Takes in several, in their order; returns once all of them are safe.
    ///
    /// # Errors
    ///
    /// The first one that is not, behind those before it, which are.
    async fn accept_all(&self, publications: Vec<Publication>) -> Result<Vec<Accepted>, (Vec<Accepted>, AdminError)> {
        let mut all = Vec::with_capacity(publications.len());
        for publication in publications {
            match self.accept(publication).await {
                Ok(accepted) => all.push(accepted),
                Err(error) => return Err((all, error)),
            }
        }
        Ok(all)
    }

    /// Events of the archive.
    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError>;

    /// Events of the archive by number or id, one at least: where none fits, [`AdminError::NotFound`].
    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError>;

    /// Events of the archive behind a number, oldest first; waits a moment for one if there is none.
    async fn follow(&self, request: &FollowRequest) -> Result<Followed, AdminError> {
        let _ = request;
        not_running("watching")
    }

    /// Dead letters.
    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError>;

    /// One dead letter.
    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError>;

    /// Dead letters by route and failure; the query's limit does not count, all of them are looked at.
    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<DeadLetterGroups, AdminError> {
        let _ = query;
        not_running("grouping dead letters")
    }

    /// Puts dead letters back, each lane in order, with an audit line.
    async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        let _ = request;
        not_running("a redrive")
    }

    /// Deletes dead letters for good, with an audit line; returns how many.
    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        let _ = selection;
        not_running("a discard")
    }

    /// Commands a route.
    async fn command(&self, route: &RouteName, command: RouteCommand) -> Result<RouteCommanded, AdminError> {
        let _ = (route, command);
        not_running("a command to a route")
    }

    /// Loads the configuration anew and switches on a route that is off, with what waits in its queue or without. A route that is not
    /// in it is [`AdminError::NotFound`].
    async fn enable(&self, route: &RouteName, request: EnableRequest) -> Result<Enabled, AdminError> {
        let _ = (route, request);
        not_running("switching a route on")
    }

    /// Sessions, the one with the newest event first.
    async fn sessions(&self, query: &SessionQuery) -> Result<SessionList, AdminError> {
        let _ = query;
        not_running("listing sessions")
    }

    /// One session by its id, or by the beginning of it where no other begins so, and those that belong to it.
    async fn session(&self, id: &str) -> Result<SessionShown, AdminError> {
        let _ = id;
        not_running("showing a session")
    }

    /// Sums over sessions.
    async fn session_stats(&self, query: &StatsQuery) -> Result<SessionStats, AdminError> {
        let _ = query;
        not_running("adding up sessions")
    }

    /// Keeps what transcripts say of sessions. No event is made of it and no route is asked.
    async fn import_sessions(&self, sessions: Vec<SessionEntry>) -> Result<SessionsImported, AdminError> {
        let _ = sessions;
        not_running("an import of sessions")
    }

    /// Loads the configuration anew and applies it; a bad one changes nothing.
    async fn reload(&self) -> Result<Reloaded, AdminError> {
        not_running("a reload")
    }
}
