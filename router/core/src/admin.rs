//! The running router as the doors and commands see it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use router_api::{
    Admin, AdminError, ArchivedEvent, DeadLetterQuery, DecodeLimits, Envelope, EventQuery, Publication, Published, RouteStatus, RouterStatus, Store,
    StoredDeadLetter, Transport,
};

use crate::{
    observe::RouterEvent,
    redact::Redactor,
    route::Parts,
    router::{Shown, idle_status},
};

pub(crate) struct RouterAdmin {
    pub parts: Arc<Parts>,
    pub shown: Arc<Shown>,
}

/// The way in, the same for a running router and for a command that opened the store itself: redacts, checks the limits, stores.
///
/// # Errors
///
/// When the body is no JSON object within the limits, or the transport does not take it.
pub async fn take_in(
    transport: &dyn Transport,
    redactor: Option<&Redactor>,
    limits: DecodeLimits,
    mut publication: Publication,
) -> Result<(Published, u32), AdminError> {
    // Checked before redaction, which reads the whole body.
    if publication.body.len() > limits.body_bytes_max {
        return Err(AdminError::Invalid(format!("the event is {} bytes long, `limits.body_bytes_max` is {}", publication.body.len(), limits.body_bytes_max)));
    }
    if let Some(redactor) = redactor {
        let redacted = redactor.redact(&publication.body);
        publication.body = redacted.body;
        publication.redactions += redacted.count;
    }
    Envelope::decode(publication.key.clone(), Bytes::clone(&publication.body), limits).map_err(|error| AdminError::Invalid(format!("no event: {error}")))?;
    let redactions = publication.redactions;
    Ok((transport.publish(publication).await?, redactions))
}

#[async_trait]
impl Admin for RouterAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let now = self.shown.now().clone();
        let queues = self.parts.transport.admin().queues().await?;
        let route = |(config, parts): &(crate::config::RouteConfig, Option<Arc<crate::route::RouteParts>>)| {
            let status = match parts {
                Some(parts) => parts.status.lock().expect("no code panics while it holds the status").clone(),
                None => idle_status(config),
            };
            RouteStatus {
                name: config.name.clone(),
                handler: config.handler.clone(),
                mode: config.mode,
                state: status.state,
                note: status.note,
                queue: queues.iter().find(|queue| queue.route == config.name).cloned(),
                open_bursts: status.open_bursts,
            }
        };
        Ok(RouterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.shown.started_at,
            transport: self.parts.transport.name().to_owned(),
            config_hash: now.config_hash.clone(),
            routes: now.routes.iter().map(route).collect(),
        })
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        let (redactor, limits) = {
            let now = self.shown.now();
            (now.redactor.clone(), now.decode)
        };
        let key = publication.key.clone();
        let (published, redactions) = take_in(&*self.parts.transport, redactor.as_deref(), limits, publication).await?;
        self.parts.observers.tell(RouterEvent::Accepted { key, seq: published.seq, routed: published.routed, redactions });
        Ok(published)
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(self.parts.store.events(query).await?)
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(self.parts.store.event(reference).await?)
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        Ok(self.parts.transport.admin().dead_letters(query).await?)
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        self.parts.transport.admin().dead_letter(id).await?.ok_or_else(|| AdminError::NotFound(format!("there is no dead letter `{id}`")))
    }
}

/// The store and the transport of a router that does not run, for commands that opened the store themselves.
pub struct StoreAdmin {
    /// Bound to the configuration's subscriptions, so that what is published waits for its routes.
    pub transport: Arc<dyn Transport>,
    /// The archive.
    pub store: Arc<dyn Store>,
    /// The door's redaction.
    pub redactor: Redactor,
    /// The door's limits.
    pub limits: DecodeLimits,
    /// When it was opened.
    pub opened_at: jiff::Timestamp,
    /// The configuration.
    pub config: crate::config::Config,
}

#[async_trait]
impl Admin for StoreAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let queues = self.transport.admin().queues().await?;
        let route = |config: &crate::config::RouteConfig| {
            let status = idle_status(config);
            RouteStatus {
                name: config.name.clone(),
                handler: config.handler.clone(),
                mode: config.mode,
                state: status.state,
                note: None,
                queue: queues.iter().find(|queue| queue.route == config.name).cloned(),
                open_bursts: 0,
            }
        };
        Ok(RouterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.opened_at,
            transport: self.transport.name().to_owned(),
            config_hash: self.config.hash.clone(),
            routes: self.config.routes.iter().map(route).collect(),
        })
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        Ok(take_in(&*self.transport, Some(&self.redactor), self.limits, publication).await?.0)
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(self.store.events(query).await?)
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(self.store.event(reference).await?)
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        Ok(self.transport.admin().dead_letters(query).await?)
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        self.transport.admin().dead_letter(id).await?.ok_or_else(|| AdminError::NotFound(format!("there is no dead letter `{id}`")))
    }
}
