//! The transport: what the core sees of RabbitMQ.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    Archivist, Chance, Clock, Consumer, Destination, Features, Publication, Published, RouteName, Store, Subscription, Transport, TransportAdmin,
    TransportError,
};

use crate::{
    AmqpOptions,
    connection::{Bus, OnSession, Session},
    failure::{Failure, shown_url},
    publisher::{PublishFailure, Publisher},
};

/// The transport over RabbitMQ.
pub struct AmqpTransport {
    options: Arc<AmqpOptions>,
    bus: Arc<Bus>,
    publisher: Arc<Publisher>,
    bound: Arc<Bound>,
}

/// What is bound, and made ready on the broker with each session.
struct Bound {
    options: Arc<AmqpOptions>,
    wanted: Mutex<Vec<Subscription>>,
    /// Two declarations at once would get into each other's way.
    declaring: tokio::sync::Mutex<()>,
    /// Routes that the broker refuses, and why.
    troubles: Mutex<Vec<String>>,
}

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
        let options = Arc::new(options);
        let bound =
            Arc::new(Bound { options: Arc::clone(&options), wanted: Mutex::default(), declaring: tokio::sync::Mutex::default(), troubles: Mutex::default() });
        let bus = Bus::start(Arc::clone(&options), chance, Arc::clone(&bound) as Arc<dyn OnSession>);
        let publisher = Publisher::new(Arc::clone(&bus));
        let _ = (store, archivist, clock);
        Arc::new(Self { options, bus, publisher, bound })
    }

    /// Waits until the broker is reached, for start-up and for commands.
    ///
    /// # Errors
    ///
    /// [`TransportError::Refused`] as soon as the broker says no in a way that no waiting heals; [`TransportError::Unavailable`]
    /// after `limit`.
    pub async fn reached(&self, limit: Duration) -> Result<(), TransportError> {
        match tokio::time::timeout(limit, self.bus.session()).await {
            Ok(session) => session.map(drop),
            Err(_) => Err(TransportError::Unavailable(match self.bus.trouble() {
                Some(trouble) => trouble.sentence().to_owned(),
                None => format!("the broker `{}` did not answer within {} s", shown_url(&self.options.url), limit.as_secs()),
            })),
        }
    }
}

#[async_trait]
impl OnSession for Bound {
    async fn ready(&self, session: &Session) -> Result<(), Failure> {
        let _ = (session, &self.options, &self.wanted, &self.declaring, &self.troubles);
        Ok(())
    }
}

/// What the core is told about a publication that failed.
fn unpublished(failure: PublishFailure) -> TransportError {
    match failure {
        PublishFailure::Unavailable(why) => TransportError::Unavailable(why),
        PublishFailure::Blocked(why) | PublishFailure::Nacked(why) => TransportError::Full(why),
        PublishFailure::Refused(why) => TransportError::Refused(why),
    }
}
