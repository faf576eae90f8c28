//! The admin port: of a running router, and of a store that a command has opened itself.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    Admin, AdminError, ArchivedEvent, DeadLetterQuery, DecodeLimits, Envelope, EventQuery, Publication, Published, QueueStats, RouteStatus, RouterStatus,
    Store, StoredDeadLetter, Transport,
};

use crate::{
    config::{Config, RouteConfig},
    observe::RouterEvent,
    parts::{Parts, Shown, Status},
    redact::Redactor,
};

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
        let (bytes, max) = (publication.body.len(), limits.body_bytes_max);
        return Err(AdminError::Invalid(format!("the event is {bytes} bytes long, `limits.body_bytes_max` is {max}")));
    }
    if let Some(redactor) = redactor {
        let redacted = redactor.redact(&publication.body);
        publication.body = redacted.body;
        publication.redactions += redacted.count;
    }
    Envelope::decode(publication.key.clone(), publication.body.clone(), limits).map_err(|error| AdminError::Invalid(format!("no event: {error}")))?;
    let redactions = publication.redactions;
    Ok((transport.publish(publication).await?, redactions))
}

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
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The configuration.
    pub config: Config,
}

fn route_status(config: &RouteConfig, status: Status, queues: &[QueueStats]) -> RouteStatus {
    RouteStatus {
        name: config.name.clone(),
        handler: config.handler.clone(),
        mode: config.mode,
        state: status.state,
        note: status.note,
        queue: queues.iter().find(|queue| queue.route == config.name).cloned(),
        open_bursts: status.open_bursts,
    }
}

fn router_status(transport: &dyn Transport, started_at: Timestamp, config_hash: String, routes: Vec<RouteStatus>) -> RouterStatus {
    RouterStatus { version: env!("CARGO_PKG_VERSION").to_owned(), started_at, transport: transport.name().to_owned(), config_hash, routes }
}

async fn dead_letter(transport: &dyn Transport, id: &str) -> Result<StoredDeadLetter, AdminError> {
    transport.admin().dead_letter(id).await?.ok_or_else(|| AdminError::NotFound(format!("there is no dead letter `{id}`")))
}

#[async_trait]
impl Admin for RouterAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let now = self.shown.now().clone();
        let transport = &*self.parts.transport;
        let queues = transport.admin().queues().await?;
        let routes = now.routes.iter().map(|(config, parts)| {
            let status = parts.as_ref().map_or_else(|| Status::idle(config), |parts| parts.status());
            route_status(config, status, &queues)
        });
        Ok(router_status(transport, self.shown.started_at, now.config_hash, routes.collect()))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        let (redactor, limits) = (self.parts.redactor(), self.shown.now().decode);
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
        dead_letter(&*self.parts.transport, id).await
    }
}

#[async_trait]
impl Admin for StoreAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        let queues = self.transport.admin().queues().await?;
        let routes = self.config.routes.iter().map(|config| route_status(config, Status::idle(config), &queues)).collect();
        Ok(router_status(&*self.transport, self.opened_at, self.config.hash.clone(), routes))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        Ok(take_in(&*self.transport, Some(&self.redactor), self.config.limits.decode, publication).await?.0)
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
        dead_letter(&*self.transport, id).await
    }
}
