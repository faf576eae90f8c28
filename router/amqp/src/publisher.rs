//! Gives events to the broker safely: mandatory, persistent, confirmed.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;

use crate::connection::Bus;

/// Publishes over the bus's giving connection. Calls from many tasks are pipelined; calls of one task keep their order.
pub(crate) struct Publisher {
    bus: Arc<Bus>,
}

/// The broker has it safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// At least one queue took it; else the broker gave it back.
    pub(crate) routed: bool,
}

/// Why something could not be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishFailure {
    /// No session, or the confirm is lost or late. Whether the broker has it is unknown: publish again with the same id.
    #[error("{0}")]
    Unavailable(String),
    /// The broker is short of memory or disk and takes nothing for now.
    #[error("{0}")]
    Blocked(String),
    /// The broker did not take it, for instance since a queue is full. It may later.
    #[error("{0}")]
    Nacked(String),
    /// A person must act: no such exchange, no permission, too large.
    #[error("{0}")]
    Refused(String),
}

impl Publisher {
    /// Publishes over `bus`.
    pub(crate) fn new(bus: Arc<Bus>) -> Arc<Self> {
        Arc::new(Self { bus })
    }

    /// Publishes one event; returns when the broker has confirmed it. Mandatory always; persistent is set here.
    ///
    /// Answers at once when there is no session or the broker is blocked, and within a limit in any case.
    ///
    /// # Errors
    ///
    /// See [`PublishFailure`].
    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: Bytes, properties: BasicProperties) -> Result<Confirmed, PublishFailure> {
        let _ = (&self.bus, exchange, key, body, properties);
        todo!("stub")
    }
}
