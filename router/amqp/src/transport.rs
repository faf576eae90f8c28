//! The transport: what the core sees of RabbitMQ.

use std::{sync::Arc, time::Duration};

use router_api::{Archivist, Chance, Clock, Store, TransportError};

use crate::AmqpOptions;

/// The transport over RabbitMQ.
pub struct AmqpTransport {}

impl AmqpTransport {
    /// Returns at once and connects in the background. With an `archivist` and [`AmqpOptions::archive`] it follows the stream of
    /// all events.
    #[must_use]
    pub fn start(
        options: AmqpOptions,
        store: Arc<dyn Store>,
        archivist: Option<Arc<dyn Archivist>>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Arc<Self> {
        let _ = (options, store, archivist, clock, chance);
        todo!("stub")
    }

    /// Waits until the broker is reached, for start-up and for commands.
    ///
    /// # Errors
    ///
    /// [`TransportError::Refused`] as soon as the broker says no in a way that no waiting heals; [`TransportError::Unavailable`]
    /// after `limit`.
    pub async fn reached(&self, limit: Duration) -> Result<(), TransportError> {
        let _ = limit;
        todo!("stub")
    }
}
