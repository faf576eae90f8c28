//! What a handler is given beside the event: who it is, how often it was tried, the burst, and the effects.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Cancellation, Clock, EffectContext, EffectPort, Envelope, Ledger, RouteName, RoutingKey, Session, Sessions, Store, StoreError};

/// The namespace of ids that this router derives (UUID version 5), itself the version-5 UUID of `event-router` in the DNS namespace.
pub const ID_NAMESPACE: Uuid = Uuid::from_u128(0x0b6c_9d0e_52f4_5b5e_9a64_0f2a_7c55_1e1d);

/// Which try this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// The last number that will run.
    pub max: u32,
}

/// Everything a [`Context`] is made of; filled by the router and by test kits.
#[allow(missing_docs)]
pub struct ContextParts {
    pub route: RouteName,
    pub lane: Option<Arc<str>>,
    pub attempt: Attempt,
    /// All events, oldest first; never empty.
    pub burst: Vec<Arc<Envelope>>,
    /// Names what is handled: the delivery's dedup identity, or the frozen burst's id.
    pub subject: Arc<str>,
    pub deadline: Duration,
    pub cancellation: Cancellation,
    pub clock: Arc<dyn Clock>,
    pub effects: Arc<dyn EffectPort>,
    pub store: Arc<dyn Store>,
    /// Over the same store.
    pub sessions: Arc<dyn Sessions>,
    /// Where writes are remembered; none in a dry run, and where the route wants none.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// True where writing effects are only recorded.
    pub dry_run: bool,
    /// This machine's name, for the `source` of emitted events.
    pub host: Arc<str>,
}

/// What a handler is given beside the event.
pub struct Context {
    parts: ContextParts,
    emits: Mutex<Vec<Emit>>,
    note: Mutex<Option<String>>,
}

/// An event that a handler wants published when it has succeeded.
#[derive(Debug, Clone)]
pub struct Emit {
    /// Its routing key.
    pub key: RoutingKey,
    /// Its id, the same at every repeat.
    pub id: Uuid,
    /// A whole Bloodbank v2 envelope.
    pub body: Value,
    /// Comes back to the emitting route alone, after this long.
    pub after: Option<Duration>,
}

impl Context {
    /// For the router and for test kits.
    ///
    /// # Panics
    ///
    /// When the burst is empty.
    #[must_use]
    pub fn new(parts: ContextParts) -> Self {
        assert!(!parts.burst.is_empty(), "a handling has at least one event");
        Self { parts, emits: Mutex::new(Vec::new()), note: Mutex::new(None) }
    }

    /// The route.
    #[must_use]
    pub fn route(&self) -> &RouteName {
        &self.parts.route
    }

    /// The routing key of the newest event.
    #[must_use]
    pub fn key(&self) -> &RoutingKey {
        self.newest().key()
    }

    /// The lane, where the route orders or coalesces.
    #[must_use]
    pub fn lane(&self) -> Option<&str> {
        self.parts.lane.as_deref()
    }

    /// Which try this is.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.parts.attempt
    }

    /// All events of this handling, oldest first. One, unless the route coalesces.
    #[must_use]
    pub fn burst(&self) -> &[Arc<Envelope>] {
        &self.parts.burst
    }

    fn newest(&self) -> &Envelope {
        self.parts.burst.last().expect("a handling has at least one event")
    }

    /// How much time is left until the handling is ended.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.parts.deadline.saturating_sub(self.parts.clock.monotonic())
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// Resolves or turns true when the work is no longer wanted.
    #[must_use]
    pub fn cancellation(&self) -> &Cancellation {
        &self.parts.cancellation
    }

    /// True where writing effects are only recorded: shadow routes, `demo`, `try`. Rarely needed: effects know it themselves.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.parts.dry_run
    }

    /// The same for every repeat of this handling on this route, and for no other: for a target's `Idempotency-Key`.
    ///
    /// A version-5 UUID of the route and the event (its dedup key), or the burst.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        self.derived_id("handling").to_string()
    }

    fn derived_id(&self, name: &str) -> Uuid {
        let mut hash = Sha256::new();
        for part in [self.parts.route.as_str(), &self.parts.subject, name] {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Uuid::new_v5(&ID_NAMESPACE, &hash.finalize())
    }

    pub(crate) fn ports(&self) -> (&dyn EffectPort, Option<&dyn Ledger>) {
        (&*self.parts.effects, self.parts.ledger.as_deref())
    }

    pub(crate) fn effect_context(&self) -> EffectContext {
        EffectContext {
            route: self.parts.route.as_str().to_owned(),
            handling: self.idempotency_key(),
            remaining: self.remaining(),
            cancellation: self.parts.cancellation.clone(),
        }
    }

    /// Publishes an event after the handling has succeeded and before the handled one is settled; drops it on an error.
    ///
    /// The event is a Bloodbank v2 envelope around `payload`, its `correlation_ids` the ids of the burst. Its id derives from
    /// the route, the handled event and the name `key#n` (the n-th emit of this key), so that a repeat is the same event.
    pub fn emit(&self, key: &RoutingKey, payload: Value) {
        self.collect(key, payload, None);
    }

    /// Like [`Context::emit`], but the event comes back to this route only, after `delay`, past its patterns, filter and
    /// coalescing.
    pub fn emit_after(&self, delay: Duration, key: &RoutingKey, payload: Value) {
        self.collect(key, payload, Some(delay));
    }

    fn collect(&self, key: &RoutingKey, payload: Value, after: Option<Duration>) {
        let mut emits = self.emits.lock().expect("no code panics while it holds the emits");
        let nth = emits.iter().filter(|emit| emit.key == *key).count();
        let id = self.derived_id(&format!("{key}#{nth}"));
        let causes: Vec<&str> = self.parts.burst.iter().filter_map(|event| event.id()).map(crate::EventId::as_str).collect();
        let body = json!({
            "event_id": id,
            "event_type": key.as_str(),
            "timestamp": self.now().to_string(),
            "version": "1.0.0",
            "source": { "host": &*self.parts.host, "type": "service", "app": "event-router", "meta": { "route": self.parts.route.as_str() } },
            "correlation_ids": causes,
            "agent_context": null,
            "payload": payload,
        });
        emits.push(Emit { key: key.clone(), id, body, after });
    }

    /// Says in one line what came of the handling, for `events`, `explain` and the log: `failed: exit code 1, 7 files`. The last one
    /// counts; it is kept where the handling succeeds, in a dry run too. At most [`Context::NOTE_BYTES_MAX`] bytes, control characters
    /// become spaces.
    pub fn note(&self, text: impl Into<String>) {
        let mut text: String = text.into().replace(char::is_control, " ");
        if text.len() > Self::NOTE_BYTES_MAX {
            text.truncate(text.floor_char_boundary(Self::NOTE_BYTES_MAX));
        }
        *self.note.lock().expect("no code panics while it holds the note") = Some(text);
    }

    /// In bytes; what is longer is cut.
    pub const NOTE_BYTES_MAX: usize = 500;

    /// The note, and forgets it; for the router and for test kits.
    pub fn take_note(&self) -> Option<String> {
        self.note.lock().expect("no code panics while it holds the note").take()
    }

    /// What was emitted so far; for the router and for test kits.
    pub fn take_emits(&self) -> Vec<Emit> {
        std::mem::take(&mut *self.emits.lock().expect("no code panics while it holds the emits"))
    }

    /// What is known of a session, from the archive and the events of this handling, whatever their order; `None` when there is no event
    /// of it. [`Session::version`] tells an older record from a newer one. Reads only: the same in a dry run.
    ///
    /// # Errors
    ///
    /// When the archive cannot be read.
    pub async fn session(&self, id: &str) -> Result<Option<Session>, StoreError> {
        self.parts.sessions.session(id, &self.parts.burst).await
    }

    /// This route's own small state under `key`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn state(&self, key: &str) -> Result<Option<Value>, StoreError> {
        self.parts.store.state(&self.parts.route, key).await
    }

    /// Replaces it; `None` removes it. Ignored in a dry run.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn set_state(&self, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        if self.parts.dry_run { Ok(()) } else { self.parts.store.set_state(&self.parts.route, key, value).await }
    }
}
