//! Sessions with the broker: two supervised connections, one to take events from, one to give events to.

use std::sync::Arc;

use async_trait::async_trait;
use router_api::{Cancellation, Chance, Clock, Condition, TransportError};

use crate::{AmqpOptions, failure::Failure};

/// Is told of each session before anyone else sees it.
#[async_trait]
pub(crate) trait OnSession: Send + Sync + 'static {
    /// Makes the broker's side ready: declares what is bound.
    async fn ready(&self, session: &Session) -> Result<(), Failure>;
}

/// One connection from its opening to its loss. What came over it is worth nothing afterwards.
#[derive(Clone)]
pub(crate) struct Session {
    epoch: u64,
    connection: Arc<lapin::Connection>,
    over: Cancellation,
}

impl Session {
    /// A new channel, for `what`.
    pub(crate) async fn channel(&self, what: &str) -> Result<lapin::Channel, Failure> {
        let _ = (what, &self.connection);
        todo!("stub")
    }

    /// Is the connection lost?
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves when the connection is lost.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Higher for each later session.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Keeps two connections to the broker, for as long as it is not closed.
pub(crate) struct Bus {}

impl Bus {
    /// Returns at once and connects in the background.
    pub(crate) fn start(options: Arc<AmqpOptions>, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>, on_session: Arc<dyn OnSession>) -> Arc<Self> {
        let _ = (options, clock, chance, on_session);
        todo!("stub")
    }

    /// A live session to take from, whose topology stands; waits until there is one.
    ///
    /// # Errors
    ///
    /// Refused by the broker, so that waiting heals nothing; or closed.
    pub(crate) async fn session(&self) -> Result<Session, TransportError> {
        todo!("stub")
    }

    /// The same without waiting.
    pub(crate) fn now(&self) -> Option<Session> {
        todo!("stub")
    }

    /// How the broker is, from what is known.
    pub(crate) fn condition(&self) -> Condition {
        todo!("stub")
    }

    /// Ends both connections, within a limit.
    pub(crate) async fn close(&self) {
        todo!("stub")
    }
}
