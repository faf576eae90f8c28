//! Gives events to the broker safely: mandatory, persistent, confirmed.
//!
//! [`Publisher::publish`] is what everybody calls; behind it, one task ([`crate::pump`]) owns the channel, so that the order on the
//! wire is the order of the calls, and so that a channel that was closed under many is opened again once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};

use crate::{
    connection::{Bus, Giving},
    failure::LIMIT,
    properties,
    pump::{Pump, Request},
};

/// Requests that wait for their turn; who comes later is told to come again. Nobody waits for a place: who is given one first would
/// not always take it first, and the order would be lost.
const QUEUE: usize = 16_384;
/// Beyond the request's own limit, should the pump not answer.
const GRACE: Duration = Duration::from_secs(1);
/// What a broker takes at most in any version, as it is shipped. A lower limit is learnt from its first refusal.
const BODY_BYTES_MAX: usize = 128 * 1024 * 1024;
/// An AMQP short string.
const NAME_BYTES_MAX: usize = 255;
/// Properties must fit into one frame, and the smallest that a broker is shipped with is 128 KiB.
const PROPERTIES_BYTES_MAX: usize = 120 * 1024;

/// Publishes over the bus's giving connection. Calls from many tasks are pipelined; calls of one task keep their order.
pub(crate) struct Publisher {
    bus: Arc<Bus>,
    requests: mpsc::Sender<Request>,
    body_bytes_max: Arc<AtomicUsize>,
    suspect: Arc<Notify>,
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
    /// The broker is short of memory or disk and takes nothing for now. Whether it has it is unknown, too.
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
        let (requests, incoming) = mpsc::channel(QUEUE);
        let body_bytes_max = Arc::new(AtomicUsize::new(BODY_BYTES_MAX));
        let suspect = Arc::new(Notify::new());
        tokio::spawn(Pump::new(Arc::clone(&bus), incoming, Arc::clone(&body_bytes_max), Arc::clone(&suspect)).run());
        Arc::new(Self { bus, requests, body_bytes_max, suspect })
    }

    /// Resolves when something that we declare seems to be gone from the broker; once for all that happened since the last call.
    pub(crate) async fn suspects(&self) {
        self.suspect.notified().await;
    }

    /// Says so, of what [`Publisher::publish`] cannot know by itself: that something was not routed which had to be.
    pub(crate) fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// Publishes one event; returns when the broker has confirmed it. Mandatory always; persistent is set here.
    ///
    /// Answers at once when there is no session or the broker is blocked, and within a limit in any case.
    ///
    /// # Errors
    ///
    /// See [`PublishFailure`].
    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: Bytes, properties: BasicProperties) -> Result<Confirmed, PublishFailure> {
        let exchange = short("the exchange", exchange)?;
        let key = short("the routing key", key)?;
        let body_bytes_max = self.body_bytes_max.load(Ordering::Relaxed);
        if body.len() > body_bytes_max {
            return Err(PublishFailure::Refused(too_large(body.len(), body_bytes_max)));
        }
        let properties_bytes = properties::bytes_of(&properties);
        if properties_bytes > PROPERTIES_BYTES_MAX {
            return Err(PublishFailure::Refused(format!(
                "the event's headers have about {properties_bytes} bytes, and the broker takes at most {PROPERTIES_BYTES_MAX}"
            )));
        }
        match self.bus.giving() {
            Giving::Open(_) => {}
            Giving::Away(why) => return Err(PublishFailure::Unavailable(why)),
            Giving::Blocked(why) => return Err(PublishFailure::Blocked(why)),
            Giving::Closed => return Err(closed()),
        }
        let (answer, answered) = oneshot::channel();
        let properties = properties.with_delivery_mode(2);
        let request = Request { exchange, key, body, properties, answer, deadline: Instant::now() + LIMIT };
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => PublishFailure::Unavailable(format!("{QUEUE} publications wait already")),
            TrySendError::Closed(_) => closed(),
        })?;
        match tokio::time::timeout(LIMIT + GRACE, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(closed())),
            Err(_) => Err(late()),
        }
    }
}

/// The sentence for a confirm that did not come.
pub(crate) fn late() -> PublishFailure {
    PublishFailure::Unavailable(format!("the broker confirmed nothing within {} s; it may have the event all the same", LIMIT.as_secs()))
}

pub(crate) fn too_large(bytes: usize, most: usize) -> String {
    format!("the event has {bytes} bytes, and the broker takes at most {most}; raise its `max_message_size`, or publish less")
}

fn closed() -> PublishFailure {
    PublishFailure::Unavailable("the connection to the broker is closed".to_owned())
}

fn short(what: &str, name: &str) -> Result<ShortString, PublishFailure> {
    if name.len() > NAME_BYTES_MAX {
        return Err(PublishFailure::Refused(format!("{what} has {} bytes, and AMQP knows at most {NAME_BYTES_MAX}", name.len())));
    }
    Ok(name.into())
}
