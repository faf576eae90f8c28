//! The archive of a bus: what a transport sees passing is redacted by the rules in force and kept in the store.
//!
//! It is made before the router, since the transport needs it, and gets its rules from the router with every configuration. Until the
//! first one nothing is kept, for nothing may be stored that was not redacted.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use router_api::{ArchiveEntry, Archivist, Clock, DecodeLimits, Envelope, Matcher, SeenEvent, Store, StoreError};
use serde_json::json;
use tokio::sync::watch;

use crate::{matcher::RouteMatcher, redact::Redactor};

/// For the first configuration. Whoever brings events tries again.
const RULES_WAIT: Duration = Duration::from_secs(10);

/// Keeps in a store what a transport sees passing: see the module.
pub struct Archiving {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rules: watch::Sender<Option<Arc<Rules>>>,
}

/// What a configuration says about events that pass.
pub(crate) struct Rules {
    pub redactor: Arc<Redactor>,
    pub decode: DecodeLimits,
    /// Of every route that is on.
    pub routes: Vec<RouteMatcher>,
}

impl Archiving {
    /// Into `store`. Give it to the transport, and to [`crate::RouterBuilder::archiving`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { store, clock, rules: watch::Sender::new(None) })
    }

    /// From now on these are in force.
    pub(crate) fn follow(&self, rules: Rules) {
        self.rules.send_replace(Some(Arc::new(rules)));
    }

    async fn rules(&self) -> Result<Arc<Rules>, StoreError> {
        let mut changes = self.rules.subscribe();
        let known = async {
            // The sender lives as long as `self`.
            changes.wait_for(Option::is_some).await.ok().and_then(|rules| rules.clone())
        };
        let rules = tokio::select! {
            // Rules that are there count, even at the last moment.
            biased;
            rules = known => rules,
            () = self.clock.sleep(RULES_WAIT) => None,
        };
        let message = || "no configuration is in force yet, so nobody knows what to redact".to_owned();
        rules.ok_or_else(|| StoreError { message: message(), full: false })
    }
}

#[async_trait]
impl Archivist for Archiving {
    async fn position(&self) -> Result<Option<u64>, StoreError> {
        self.store.archive_position().await
    }

    async fn keep(&self, events: Vec<SeenEvent>) -> Result<(), StoreError> {
        let mut entries = Vec::with_capacity(events.len());
        for event in events {
            // Asked for each event: rules that are sharpened meanwhile hold from the next one on.
            let rules = self.rules().await?;
            entries.push(rules.entry(event));
            // A large body takes a while; nothing else of this runtime waits for a whole batch of them.
            tokio::task::yield_now().await;
        }
        self.store.archive(entries).await
    }
}

impl Rules {
    fn entry(&self, mut event: SeenEvent) -> ArchiveEntry {
        let bytes = event.body.len();
        if bytes > self.decode.body_bytes_max {
            // Every route gives it up unread. The store has no room for what nobody bounded.
            let note = json!({ "event_router": { "left_out": "the body is larger than `limits.body_bytes_max`", "bytes": bytes } });
            event.body = Bytes::from(note.to_string());
            let wanted = self.routes.iter().filter(|route| route.takes(&event.key)).count();
            return ArchiveEntry { event, redactions: 0, wanted: u32::try_from(wanted).ok() };
        }
        let redacted = self.redactor.redact(&event.body);
        event.body = redacted.body;
        // As an intake that filters sees it: what does not decode goes wherever its key leads, to be given up there.
        let envelope = Envelope::decode(event.key.clone(), event.body.clone(), self.decode).ok();
        let wants = |route: &&RouteMatcher| route.takes(&event.key) && envelope.as_ref().is_none_or(|envelope| route.matches(envelope));
        let wanted = self.routes.iter().filter(wants).count();
        ArchiveEntry { redactions: redacted.count, wanted: u32::try_from(wanted).ok(), event }
    }
}
