//! The port to a running router, for the command line, the socket and the HTTP API. Implemented by the core.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ArchivedEvent, DeadLetterQuery, EventQuery, Publication, Published, QueueStats, RouteMode, RouteName, StoreError, StoredDeadLetter, TransportError,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
}

/// The router as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Of the program.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// `embedded` or `amqp`.
    pub transport: String,
    /// Of the configuration in force.
    pub config_hash: String,
    /// Every route of the configuration, in its order.
    pub routes: Vec<RouteStatus>,
}

/// A running router.
#[async_trait]
pub trait Admin: Send + Sync + 'static {
    /// The router as it stands.
    async fn status(&self) -> Result<RouterStatus, AdminError>;

    /// Takes an event in from outside: redacts it, stores it, and returns once it is safe.
    async fn publish(&self, publication: Publication) -> Result<Published, AdminError>;

    /// Events of the archive.
    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError>;

    /// Events of the archive by number or id.
    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError>;

    /// Dead letters.
    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError>;

    /// One dead letter.
    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError>;
}
