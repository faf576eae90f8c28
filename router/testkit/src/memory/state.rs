//! What survives a restart: queues, archive, dead letters, inbox and everything else that a store keeps.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use jiff::Timestamp;
use router_api::{
    ArchivedEvent, DeliveryRecord, DeliveryState, FrozenBurst, InboxKey, LedgerEntry, LedgerKey, NotedAttempts, RouteName, RoutingKey, StoredDeadLetter,
    Suspect,
};
use serde_json::Value;
use tokio::sync::Notify;

use super::{faults::Faults, queue::Queue};

/// Events that wait in all queues at most; more are refused as full.
pub(super) const QUEUED_MAX: usize = 200_000;

/// Events that the archive keeps at most; the oldest go.
const ARCHIVE_MAX: usize = 200_000;

/// Writes that the ledger keeps at most; the oldest go.
pub(super) const LEDGER_MAX: usize = 20_000;

/// Fates that are kept beside the archive at most; more are left out.
pub(super) const FATES_MAX: usize = 200_000;

/// The "disk" of the memory transport and store. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryState {
    pub(super) shared: Arc<Shared>,
}

#[derive(Default)]
pub(super) struct Shared {
    data: Mutex<Data>,
    /// Told after every change.
    pub changed: Notify,
}

#[derive(Default)]
pub(super) struct Data {
    pub queues: BTreeMap<RouteName, Queue>,
    /// Numbers of queue items and consumers.
    pub last_number: u64,
    /// The transport that is open; those of earlier numbers are over.
    pub session: u64,
    /// Consumers whose session lives, and what they take.
    pub consumers: HashMap<u64, RouteName>,
    pub dead: Vec<StoredDeadLetter>,
    pub last_letter: u64,
    /// What a dead letter does not say about its event, by the letter's id.
    pub dead_origins: HashMap<String, Origin>,
    pub archive: VecDeque<ArchivedEvent>,
    pub last_seq: u64,
    /// Identities of archived events that were seen on a bus, by number.
    pub seen: BTreeMap<u64, String>,
    /// The offset of the last one.
    pub position: Option<u64>,
    /// What became of them, by identity and route.
    pub fates: BTreeMap<(String, RouteName), DeliveryRecord>,
    pub inbox: HashMap<(RouteName, String), Timestamp>,
    pub frozen: BTreeMap<RouteName, Vec<FrozenBurst>>,
    pub noted: BTreeMap<RouteName, BTreeMap<String, NotedAttempts>>,
    pub running: BTreeMap<u32, (RouteName, String)>,
    pub suspects: BTreeMap<RouteName, Vec<Suspect>>,
    /// Writes, in the order of their beginnings.
    pub ledger: Vec<(RouteName, LedgerEntry)>,
    pub plugin_state: BTreeMap<(RouteName, String), Value>,
    pub configs: Vec<(String, String, Timestamp)>,
    pub faults: Faults,
    /// Calls of the store that go well before the next `store_fails` ones fail.
    pub store_passes: u32,
    pub store_fails: u32,
}

/// What a redriven event needs beside its dead letter.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub seq: Option<u64>,
    pub hops: u8,
}

impl MemoryState {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The process dies: what is in hand goes back to the queues, and what was running becomes a suspect.
    ///
    /// Open a new [`crate::MemoryTransport`] afterwards; the one of before answers that its session is over.
    pub fn crash(&self) {
        let mut data = self.shared.lock();
        data.end_session();
        for (_, (route, identity)) in std::mem::take(&mut data.running) {
            let suspects = data.suspects.entry(route).or_default();
            match suspects.iter_mut().find(|suspect| suspect.identity == identity) {
                Some(suspect) => suspect.crashes += 1,
                None => suspects.push(Suspect { identity, crashes: 1 }),
            }
        }
        drop(data);
        self.shared.changed.notify_waiters();
    }

    /// How many writes the ledger knows.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.shared.lock().ledger.len()
    }

    /// The configurations that were recorded: hash, text, since when. Oldest first.
    #[must_use]
    pub fn configs(&self) -> Vec<(String, String, Timestamp)> {
        self.shared.lock().configs.clone()
    }
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.shared.lock();
        f.debug_struct("MemoryState").field("queues", &data.queues.keys().collect::<Vec<_>>()).field("archived", &data.archive.len()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().expect("no code panics while it holds the state")
    }
}

impl Data {
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Remembers an event as done; what its writes came to is not needed any more.
    pub(super) fn remember(&mut self, route: &RouteName, key: InboxKey) {
        let subject = LedgerKey::of_event(&key.key);
        self.ledger.retain(|(of, entry)| of != route || entry.key.subject != subject);
        self.inbox.insert((route.clone(), key.key), key.expires_at);
    }

    pub(super) fn queued(&self) -> usize {
        self.queues.values().map(|queue| queue.items.len()).sum()
    }

    pub(super) fn dead_of(&self, route: &RouteName) -> u64 {
        self.dead.iter().filter(|letter| letter.letter.route == *route).count() as u64
    }

    /// Ends every consumer; what they had in hand goes back.
    pub(super) fn end_session(&mut self) {
        self.session += 1;
        for consumer in std::mem::take(&mut self.consumers).into_keys() {
            self.end_consumer(consumer);
        }
    }

    pub(super) fn end_consumer(&mut self, consumer: u64) {
        self.consumers.remove(&consumer);
        for queue in self.queues.values_mut() {
            queue.give_back(consumer);
        }
    }

    pub(super) fn archive(&mut self, key: RoutingKey, body: Bytes, id: Option<String>, stored_at: Timestamp, hops: u8, redactions: u32) -> u64 {
        self.last_seq += 1;
        if self.archive.len() == ARCHIVE_MAX
            && let Some(oldest) = self.archive.pop_front()
        {
            self.seen.remove(&oldest.seq);
        }
        self.archive.push_back(ArchivedEvent { seq: self.last_seq, id, key, body, stored_at, hops, redactions, deliveries: Vec::new() });
        self.last_seq
    }

    /// Notes in the archive what became of an event on a route.
    pub(super) fn note(&mut self, seq: Option<u64>, route: &RouteName, state: DeliveryState, attempts: u32, at: Timestamp) {
        let found = seq.and_then(|seq| self.archive.binary_search_by_key(&seq, |event| event.seq).ok());
        let Some(event) = found.and_then(|index| self.archive.get_mut(index)) else { return };
        let record = DeliveryRecord { route: route.clone(), state, attempts, at };
        match event.deliveries.iter_mut().find(|known| known.route == *route) {
            Some(known) => *known = record,
            None => {
                event.deliveries.push(record);
                event.deliveries.sort_by(|a, b| a.route.cmp(&b.route));
            }
        }
    }
}
