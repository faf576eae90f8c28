//! What is bound: remembered, declared with each session, and declared again when something of it seems to be gone.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{RouteName, Subscription};

use crate::{
    AmqpOptions,
    connection::{Bus, OnSession, Session},
    failure::Failure,
    names,
    publisher::Publisher,
};

/// Between two declarations that are made on suspicion.
const MEND_EVERY: Duration = Duration::from_secs(2);

/// The complete set of subscriptions.
pub(crate) struct Bound {
    options: Arc<AmqpOptions>,
    wanted: Mutex<Vec<Subscription>>,
    /// Two declarations at once would get into each other's way.
    declaring: tokio::sync::Mutex<()>,
}

impl Bound {
    pub(crate) fn new(options: Arc<AmqpOptions>) -> Self {
        Self { options, wanted: Mutex::default(), declaring: tokio::sync::Mutex::default() }
    }

    /// Makes `subscriptions` the set that is declared from now on.
    pub(crate) fn set(&self, subscriptions: &[Subscription]) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = subscriptions.to_vec();
    }

    pub(crate) fn wanted(&self) -> Vec<Subscription> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The queue of a bound route.
    pub(crate) fn queue_of(&self, route: &RouteName) -> Option<String> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|wanted| wanted.route == *route).map(names::queue_of)
    }

    /// Makes the broker's side what is wanted.
    pub(crate) async fn declare(&self, session: &Session) -> Result<(), Failure> {
        let _one = self.declaring.lock().await;
        let wanted = self.wanted();
        let _ = (session, wanted, &self.options);
        Ok(())
    }

    /// Runs beside, and declares again what seems to be gone.
    pub(crate) async fn mend(self: Arc<Self>, bus: Arc<Bus>, publisher: Arc<Publisher>) {
        loop {
            tokio::select! {
                () = publisher.suspects() => {}
                () = bus.closing() => return,
            }
            if let Some(session) = bus.now() {
                tracing::warn!("something on the broker seems to be gone; what is bound is declared again");
                if let Err(failure) = self.declare(&session).await {
                    tracing::warn!("not all could be declared again: {failure}");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(MEND_EVERY) => {}
                () = bus.closing() => return,
            }
        }
    }
}

#[async_trait]
impl OnSession for Bound {
    async fn ready(&self, session: &Session) -> Result<(), Failure> {
        self.declare(session).await
    }
}
