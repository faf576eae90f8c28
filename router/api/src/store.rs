//! The port to what the router remembers beside its transport: done keys, frozen bursts, noted attempts, what runs now, what writes
//! came to, plugin state, configurations, and the archive.
//!
//! On the embedded transport the same file holds the queues. On AMQP an ack never depends on it.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ActiveSessions, AttemptRecord, DeadLetterReason, Fate, InboxKey, KeptSession, LedgerEntry, LedgerKey, LedgerResult, Page, PageQuery, RouteName, RoutingKey,
    RoutingPattern, Session, SessionQuery, StatsRow, StoredSession, SumsQuery,
};

/// The store could not do it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// For people, with the path of the store.
    pub message: String,
    /// The disk is full, or the reserve is used up.
    pub full: bool,
}

/// The fixed composition of a burst that has been begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenBurst {
    /// Derived from the members; names the burst in keys and records.
    pub id: String,
    /// The lane.
    pub lane: String,
    /// Identities of the deliveries, in order.
    pub members: Vec<String>,
}

/// Failed attempts of a delivery that waits in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedAttempts {
    /// The delivery, or the frozen burst.
    pub identity: String,
    /// How many.
    pub attempts: u32,
    /// Oldest first.
    pub history: Vec<AttemptRecord>,
    /// The next attempt is not before this.
    pub due_at: Timestamp,
}

/// A handling that ran when the process died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The delivery, or the frozen burst.
    pub identity: String,
    /// How often the process has died while it ran.
    pub crashes: u32,
}

/// Names a running handling; give it back to [`Store::end_running`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct RunningSlot(pub u32);

/// Which events of the archive.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EventQuery {
    /// At most so many, newest first; 20 if absent.
    pub last: Option<u32>,
    /// With a key that fits.
    pub pattern: Option<RoutingPattern>,
    /// That no route wanted.
    pub unmatched: bool,
    /// Of this session.
    pub session: Option<String>,
    /// With a smaller number than this: what comes after the last one of an earlier answer.
    #[serde(default)]
    pub before: Option<u64>,
}

/// One event of the archive, with what became of it.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ArchivedEvent {
    /// Its number, from 1.
    pub seq: u64,
    /// Its own id, where its dialect has one.
    pub id: Option<String>,
    /// Its routing key.
    pub key: RoutingKey,
    /// The exact bytes, after redaction.
    #[serde(with = "crate::bytes_as_text")]
    #[schemars(with = "crate::described::BytesAsText")]
    pub body: Bytes,
    /// When it was stored.
    #[schemars(with = "crate::described::Moment")]
    pub stored_at: Timestamp,
    /// How many emits led to it.
    pub hops: u8,
    /// How many values redaction replaced in `body`.
    pub redactions: u32,
    /// What became of it, one for each route that wanted it.
    pub deliveries: Vec<DeliveryRecord>,
}

/// What became of an event on one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeliveryRecord {
    /// The route.
    pub route: RouteName,
    /// Where it stands.
    pub state: DeliveryState,
    /// Failed attempts.
    pub attempts: u32,
    /// When the state was reached; for one that waits, when it is due.
    #[schemars(with = "crate::described::Moment")]
    pub at: Timestamp,
}

/// Where an event stands on one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum DeliveryState {
    /// Still owned by its queue.
    Queued,
    /// Wanted, and not settled by this router: it waits on the broker, another router has it, or the route did not listen yet.
    Unsettled,
    /// Handed out to its route: it runs, or waits in a lane or a burst. Told by a router that runs.
    InHand {
        /// When its handling began; `None` while it waits for its turn.
        #[schemars(with = "Option<crate::described::Moment>")]
        running_since: Option<Timestamp>,
        /// The number of the attempt that runs or comes next, from 1.
        attempt: u32,
    },
    /// Waiting for its next attempt.
    Waiting {
        /// The last error.
        error: Option<String>,
    },
    /// Finished.
    Finished(Fate),
    /// Given up on.
    Dead {
        /// Names the dead letter.
        id: String,
        /// Why.
        reason: DeadLetterReason,
    },
}

/// An event that was seen passing on a bus, for the archive of a store that does not own the queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenEvent {
    /// Its place in what is followed; grows.
    pub offset: u64,
    /// As [`crate::Delivery::identity`] of the same event.
    pub identity: String,
    /// Its routing key.
    pub key: RoutingKey,
    /// The exact bytes.
    pub body: Bytes,
    /// When the bus took it.
    pub stored_at: Timestamp,
    /// How many emits led to it.
    pub hops: u8,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// An event on its way into the archive of a store that does not own the queues, after redaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// The event, as it is to be kept.
    pub event: SeenEvent,
    /// How many values redaction replaced in its body.
    pub redactions: u32,
    /// How many routes wanted it by the configuration in force; `None` where nobody can tell.
    pub wanted: Option<u32>,
}

/// Where a transport that follows a bus hands the events that it sees, so that they are redacted and kept.
#[async_trait]
pub trait Archivist: Send + Sync + 'static {
    /// The offset of the last event that was kept; `None` when none was.
    async fn position(&self) -> Result<Option<u64>, StoreError>;

    /// Keeps events, oldest first, and the position of the last one, in one commit.
    async fn keep(&self, events: Vec<SeenEvent>) -> Result<(), StoreError>;
}

/// What became of an event on one route, for the archive of a store that does not own the queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FateRecord {
    /// As [`crate::Delivery::identity`].
    pub identity: String,
    /// What became of it.
    pub record: DeliveryRecord,
}

/// What the router remembers.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Has this route done an event with this key, and not forgotten it yet?
    async fn inbox_contains(&self, route: &RouteName, key: &str, now: Timestamp) -> Result<bool, StoreError>;

    /// Remembers keys as done, for a transport that does not keep the inbox itself. The ledger of an event that is done is forgotten with
    /// it (its subject is [`LedgerKey::of_event`]), so that a later event with the same key is a new one.
    async fn inbox_insert(&self, route: &RouteName, keys: &[InboxKey]) -> Result<(), StoreError>;

    /// Fixes the composition of a burst; on disk when it returns.
    async fn freeze(&self, route: &RouteName, burst: &FrozenBurst) -> Result<(), StoreError>;

    /// Forgets a burst that is settled.
    async fn thaw(&self, route: &RouteName, burst: &str) -> Result<(), StoreError>;

    /// The bursts of a route that were begun and not settled, oldest first.
    async fn frozen(&self, route: &RouteName) -> Result<Vec<FrozenBurst>, StoreError>;

    /// Notes the failed attempts of something that waits in hand, replacing an earlier note.
    async fn note_attempts(&self, route: &RouteName, noted: NotedAttempts) -> Result<(), StoreError>;

    /// Forgets notes of what is settled.
    async fn forget_attempts(&self, route: &RouteName, identities: &[String]) -> Result<(), StoreError>;

    /// All notes of a route.
    async fn noted_attempts(&self, route: &RouteName) -> Result<Vec<NotedAttempts>, StoreError>;

    /// Marks a handling as running, in a way that survives the death of the process and costs no disk sync. `None` when all
    /// slots are taken: the handling runs unmarked.
    fn begin_running(&self, route: &RouteName, identity: &str) -> Option<RunningSlot>;

    /// Ends [`Store::begin_running`].
    fn end_running(&self, slot: RunningSlot);

    /// What ran when the process last died, of one route.
    async fn suspects(&self, route: &RouteName) -> Result<Vec<Suspect>, StoreError>;

    /// Forgets suspects that were settled or buried.
    async fn clear_suspect(&self, route: &RouteName, identity: &str) -> Result<(), StoreError>;

    /// Notes that a write is about to be performed, unless that is known; on disk when it returns. Returns what was known before.
    ///
    /// A store without a ledger knows nothing and keeps nothing.
    async fn ledger_begin(&self, route: &RouteName, key: &LedgerKey, now: Timestamp) -> Result<Option<LedgerEntry>, StoreError> {
        let _ = (route, key, now);
        Ok(None)
    }

    /// Notes what came of a write that was begun. What has left the ledger meanwhile stays away.
    async fn ledger_end(&self, route: &RouteName, key: &LedgerKey, result: LedgerResult) -> Result<(), StoreError> {
        let _ = (route, key, result);
        Ok(())
    }

    /// Forgets single writes.
    async fn ledger_forget(&self, route: &RouteName, keys: &[LedgerKey]) -> Result<(), StoreError> {
        let _ = (route, keys);
        Ok(())
    }

    /// Forgets every write of an event or burst; returns how many there were.
    async fn ledger_clear(&self, route: &RouteName, subject: &str) -> Result<u64, StoreError> {
        let _ = (route, subject);
        Ok(0)
    }

    /// Every write that is known of an event or burst, in the order of their beginnings.
    async fn ledger(&self, route: &RouteName, subject: &str) -> Result<Vec<LedgerEntry>, StoreError> {
        let _ = (route, subject);
        Ok(Vec::new())
    }

    /// A plugin's own small state.
    async fn state(&self, route: &RouteName, key: &str) -> Result<Option<Value>, StoreError>;

    /// Replaces it; `None` removes it.
    async fn set_state(&self, route: &RouteName, key: &str, value: Option<Value>) -> Result<(), StoreError>;

    /// Keeps the text of a configuration that is now in force.
    async fn record_config(&self, hash: &str, text: &str, since: Timestamp) -> Result<(), StoreError>;

    /// Events of the archive, newest first.
    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError>;

    /// Events by number (`17`) or by their own id, newest first; a prefix of at least 4 characters of an id will do.
    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, StoreError>;

    /// A part of the archive in the order in which it grew.
    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        let _ = query;
        Err(StoreError { message: "this store keeps no archive that could be followed".to_owned(), full: false })
    }

    /// The offset of the last event that [`Store::archive`] kept.
    async fn archive_position(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// Keeps events that a transport saw passing, oldest first, with the position of the last one, in one commit. One with an offset
    /// that is not above the position is there already.
    async fn archive(&self, events: Vec<ArchiveEntry>) -> Result<(), StoreError> {
        let _ = events;
        Ok(())
    }

    /// Notes what became of events, for [`Store::events`] to tell, whether they were seen already or not. Replaces an earlier record of
    /// the same event and route, but that an event was done before ([`Fate::Duplicate`]) never replaces how it was done. Written behind:
    /// nothing waits for it and nothing depends on it.
    async fn record_fates(&self, fates: Vec<FateRecord>) -> Result<(), StoreError> {
        let _ = fates;
        Ok(())
    }

    /// Which sessions had events after those that [`Store::keep_sessions`] was told of, in the next `events_max` events.
    ///
    /// A store that keeps no sessions knows of none.
    async fn active_sessions(&self, events_max: u32) -> Result<ActiveSessions, StoreError> {
        let _ = events_max;
        Ok(ActiveSessions::default())
    }

    /// What is kept of these sessions, in their order.
    async fn stored_sessions(&self, ids: &[String]) -> Result<Vec<StoredSession>, StoreError> {
        Ok(vec![StoredSession::default(); ids.len()])
    }

    /// Keeps sessions, replacing what was kept of them, and that all events up to `read_to` are in them; in one commit.
    async fn keep_sessions(&self, sessions: Vec<KeptSession>, read_to: Option<u64>) -> Result<(), StoreError> {
        let _ = (sessions, read_to);
        Ok(())
    }

    /// Sessions, the one with the newest event first.
    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<Session>, StoreError> {
        let _ = query;
        Ok(Vec::new())
    }

    /// Sums over sessions, in no order; at most 10,000.
    async fn session_sums(&self, query: SumsQuery) -> Result<Vec<StatsRow>, StoreError> {
        let _ = query;
        Ok(Vec::new())
    }
}
