//! The store in memory.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    ArchiveEntry, ArchivedEvent, DecodeLimits, DeliveryState, Envelope, EventQuery, Fate, FateRecord, FrozenBurst, InboxKey, LedgerEntry, LedgerKey,
    LedgerResult, NotedAttempts, RouteName, RunningSlot, Store, StoreError, Suspect,
};
use serde_json::Value;

use super::{
    MemoryState,
    state::{Data, FATES_MAX, LEDGER_MAX, Shared},
};

/// Handlings that can be marked as running at once.
const SLOTS_MAX: usize = 4_096;

/// Events that a query without a limit gets.
const LAST: u32 = 20;

/// The shortest beginning of an id that finds an event.
const PREFIX_CHARS_MIN: usize = 4;

/// A [`Store`] in memory, over the same state as a [`crate::MemoryTransport`].
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// Opens `state`.
    #[must_use]
    pub fn new(state: &MemoryState) -> Self {
        Self { shared: Arc::clone(&state.shared) }
    }

    /// The next `count` calls fail and do nothing; `begin_running` has no slot then.
    pub fn fail(&self, count: u32) {
        self.fail_after(0, count);
    }

    /// The same, but the next `passes` calls still go well.
    pub fn fail_after(&self, passes: u32, count: u32) {
        let mut data = self.shared.lock();
        (data.store_passes, data.store_fails) = (passes, count);
    }

    /// What is marked as running now, in the order of the marks.
    #[must_use]
    pub fn running(&self) -> Vec<(RouteName, String)> {
        self.shared.lock().running.values().cloned().collect()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Data) -> T) -> Result<T, StoreError> {
        let mut data = self.shared.lock();
        if data.store_passes > 0 {
            data.store_passes -= 1;
        } else if data.store_fails > 0 {
            data.store_fails -= 1;
            return Err(StoreError { message: "a test made this call of the store fail".to_owned(), full: false });
        }
        let value = work(&mut data);
        drop(data);
        self.shared.changed.notify_waiters();
        Ok(value)
    }
}

/// The event with what became of it, where it was seen on a bus.
fn with_fates(data: &Data, event: &ArchivedEvent) -> ArchivedEvent {
    let mut event = event.clone();
    if let Some(identity) = data.seen.get(&event.seq) {
        let fates = data.fates.iter().filter(|((of, _), _)| of == identity);
        event.deliveries.extend(fates.map(|(_, record)| record.clone()));
    }
    event
}

fn is_of_session(event: &ArchivedEvent, session: &str) -> bool {
    Envelope::decode(event.key.clone(), event.body.clone(), DecodeLimits::default()).is_ok_and(|event| event.session_id() == Some(session))
}

#[async_trait]
impl Store for MemoryStore {
    async fn inbox_contains(&self, route: &RouteName, key: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.with(|data| data.inbox.get(&(route.clone(), key.to_owned())).is_some_and(|expires_at| *expires_at > now))
    }

    async fn inbox_insert(&self, route: &RouteName, keys: &[InboxKey]) -> Result<(), StoreError> {
        self.with(|data| keys.iter().for_each(|key| data.remember(route, key.clone())))
    }

    async fn freeze(&self, route: &RouteName, burst: &FrozenBurst) -> Result<(), StoreError> {
        self.with(|data| {
            let bursts = data.frozen.entry(route.clone()).or_default();
            match bursts.iter_mut().find(|known| known.id == burst.id) {
                Some(known) => *known = burst.clone(),
                None => bursts.push(burst.clone()),
            }
        })
    }

    async fn thaw(&self, route: &RouteName, burst: &str) -> Result<(), StoreError> {
        self.with(|data| {
            if let Some(bursts) = data.frozen.get_mut(route) {
                bursts.retain(|known| known.id != burst);
            }
        })
    }

    async fn frozen(&self, route: &RouteName) -> Result<Vec<FrozenBurst>, StoreError> {
        self.with(|data| data.frozen.get(route).cloned().unwrap_or_default())
    }

    async fn note_attempts(&self, route: &RouteName, noted: NotedAttempts) -> Result<(), StoreError> {
        self.with(|data| {
            data.noted.entry(route.clone()).or_default().insert(noted.identity.clone(), noted);
        })
    }

    async fn forget_attempts(&self, route: &RouteName, identities: &[String]) -> Result<(), StoreError> {
        self.with(|data| {
            if let Some(noted) = data.noted.get_mut(route) {
                noted.retain(|identity, _| !identities.contains(identity));
            }
        })
    }

    async fn noted_attempts(&self, route: &RouteName) -> Result<Vec<NotedAttempts>, StoreError> {
        self.with(|data| data.noted.get(route).map(|noted| noted.values().cloned().collect()).unwrap_or_default())
    }

    fn begin_running(&self, route: &RouteName, identity: &str) -> Option<RunningSlot> {
        self.with(|data| {
            if data.running.len() >= SLOTS_MAX {
                return None;
            }
            // Never the same twice, so that a router of before a crash cannot end the mark of its successor.
            let slot = u32::try_from(data.next_number()).ok()?;
            data.running.insert(slot, (route.clone(), identity.to_owned()));
            Some(RunningSlot(slot))
        })
        .ok()
        .flatten()
    }

    fn end_running(&self, slot: RunningSlot) {
        // Never fails: a mark that stays would accuse the innocent.
        self.shared.lock().running.remove(&slot.0);
        self.shared.changed.notify_waiters();
    }

    async fn suspects(&self, route: &RouteName) -> Result<Vec<Suspect>, StoreError> {
        self.with(|data| data.suspects.get(route).cloned().unwrap_or_default())
    }

    async fn clear_suspect(&self, route: &RouteName, identity: &str) -> Result<(), StoreError> {
        self.with(|data| {
            if let Some(suspects) = data.suspects.get_mut(route) {
                suspects.retain(|suspect| suspect.identity != identity);
            }
        })
    }

    async fn ledger_begin(&self, route: &RouteName, key: &LedgerKey, now: Timestamp) -> Result<Option<LedgerEntry>, StoreError> {
        self.with(|data| {
            let known = data.ledger.iter().find(|(of, entry)| of == route && entry.key == *key).map(|(_, entry)| entry.clone());
            if known.is_none() {
                if data.ledger.len() == LEDGER_MAX {
                    data.ledger.remove(0);
                }
                data.ledger.push((route.clone(), LedgerEntry { key: key.clone(), begun_at: now, result: None }));
            }
            known
        })
    }

    async fn ledger_end(&self, route: &RouteName, key: &LedgerKey, result: LedgerResult) -> Result<(), StoreError> {
        self.with(|data| {
            if let Some((_, entry)) = data.ledger.iter_mut().find(|(of, entry)| of == route && entry.key == *key) {
                entry.result = Some(result);
            }
        })
    }

    async fn ledger_forget(&self, route: &RouteName, keys: &[LedgerKey]) -> Result<(), StoreError> {
        self.with(|data| data.ledger.retain(|(of, entry)| of != route || !keys.contains(&entry.key)))
    }

    async fn ledger_clear(&self, route: &RouteName, subject: &str) -> Result<u64, StoreError> {
        self.with(|data| {
            let before = data.ledger.len();
            data.ledger.retain(|(of, entry)| of != route || entry.key.subject != subject);
            (before - data.ledger.len()) as u64
        })
    }

    async fn ledger(&self, route: &RouteName, subject: &str) -> Result<Vec<LedgerEntry>, StoreError> {
        self.with(|data| data.ledger.iter().filter(|(of, entry)| of == route && entry.key.subject == subject).map(|(_, entry)| entry.clone()).collect())
    }

    async fn state(&self, route: &RouteName, key: &str) -> Result<Option<Value>, StoreError> {
        self.with(|data| data.plugin_state.get(&(route.clone(), key.to_owned())).cloned())
    }

    async fn set_state(&self, route: &RouteName, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        self.with(|data| {
            let key = (route.clone(), key.to_owned());
            match value {
                Some(value) => data.plugin_state.insert(key, value),
                None => data.plugin_state.remove(&key),
            };
        })
    }

    async fn record_config(&self, hash: &str, text: &str, since: Timestamp) -> Result<(), StoreError> {
        self.with(|data| data.configs.push((hash.to_owned(), text.to_owned(), since)))
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError> {
        let wanted = |event: &&ArchivedEvent| {
            query.pattern.as_ref().is_none_or(|pattern| pattern.matches(&event.key))
                && (!query.unmatched || event.deliveries.is_empty())
                && query.session.as_deref().is_none_or(|session| is_of_session(event, session))
                && query.before.is_none_or(|before| event.seq < before)
        };
        let last = usize::try_from(query.last.unwrap_or(LAST)).unwrap_or(usize::MAX);
        self.with(|data| data.archive.iter().rev().filter(wanted).take(last).map(|event| with_fates(data, event)).collect())
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, StoreError> {
        let number = reference.parse::<u64>().ok();
        let by_id = |event: &ArchivedEvent| {
            let long_enough = reference.chars().count() >= PREFIX_CHARS_MIN;
            event.id.as_deref().is_some_and(|id| id == reference || (long_enough && id.starts_with(reference)))
        };
        self.with(|data| data.archive.iter().rev().filter(|event| Some(event.seq) == number || by_id(event)).map(|event| with_fates(data, event)).collect())
    }

    async fn archive_position(&self) -> Result<Option<u64>, StoreError> {
        self.with(|data| data.position)
    }

    async fn archive(&self, events: Vec<ArchiveEntry>) -> Result<(), StoreError> {
        self.with(|data| {
            for ArchiveEntry { event, redactions, .. } in events {
                if data.position.is_some_and(|position| event.offset <= position) {
                    continue;
                }
                data.position = Some(event.offset);
                let id = Envelope::decode(event.key.clone(), event.body.clone(), DecodeLimits::default()).ok();
                let id = id.and_then(|event| event.id().map(ToString::to_string));
                let seq = data.archive(event.key, event.body, id, event.stored_at, event.hops, redactions);
                data.seen.insert(seq, event.identity);
            }
        })
    }

    async fn record_fates(&self, fates: Vec<FateRecord>) -> Result<(), StoreError> {
        self.with(|data| {
            for FateRecord { identity, record } in fates {
                let key = (identity, record.route.clone());
                let known = data.fates.get(&key).map(|record| &record.state);
                let is_duplicate = |state: &DeliveryState| matches!(state, DeliveryState::Finished(Fate::Duplicate { .. }));
                let says_less = is_duplicate(&record.state) && known.is_some_and(|known| matches!(known, DeliveryState::Finished(_)) && !is_duplicate(known));
                if !says_less && (known.is_some() || data.fates.len() < FATES_MAX) {
                    data.fates.insert(key, record);
                }
            }
        })
    }
}
