//! Sessions, made of the archive's events: [`Projection`]. What one event says is in `sessions/fact.rs`, how facts add up in
//! `sessions/record.rs`; [`SessionBook`] keeps what came of it, so that lists and sums read no events.
//!
//! A session that was asked for stays in memory, with the number of the last archived event that it holds, so that the next question
//! reads what is new only. Everything is bounded: sessions that stay, events read for one question, bodies in memory at once.

mod belonging;
mod book;
mod fact;
mod merge;
mod record;
mod slots;
mod stats;
mod usage;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{Clock, DecodeLimits, Envelope, EventQuery, Session, SessionEntry, Sessions, Store, StoreError};

pub use self::book::SessionBook;
use self::{fact::Fact, record::Record};

/// Sessions that stay in memory; the one not asked for longest goes first.
const SESSIONS_MAX: usize = 256;
/// Events read for one question; the oldest of a longer session are left out, and its record says that it is not complete.
const EVENTS_MAX: usize = 5_000;
/// Events whose bodies are in memory at once. The first page is small, since most questions come with one new event.
const FIRST_PAGE: u32 = 8;
const PAGE: u32 = 64;
/// An id beyond that is no session's.
const ID_BYTES_MAX: usize = 512;
/// Between two looks into an archive that is behind: the first, and the longest.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// An archive that did not catch up is not waited for again for so long.
const PATIENCE_AGAIN: Duration = Duration::from_secs(60);
/// What the archive holds was within the limits when it came, whatever they are now.
const ARCHIVED: DecodeLimits = DecodeLimits { body_bytes_max: usize::MAX, depth_max: 126 };

/// The one projection of sessions over a store; all routes share it.
pub struct Projection {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    /// How long the archive may be behind.
    behind: Option<Duration>,
}

#[derive(Default)]
struct Known {
    /// Nobody waits for the archive before.
    impatient_until: Duration,
    sessions: HashMap<String, Remembered>,
    /// Counts questions.
    now: u64,
}

struct Remembered {
    record: Record,
    /// All archived events up to this number are in the record, as far as limits allow.
    archived_to: u64,
    asked_at: u64,
    /// Somebody has asked with events in hand, so that the archive was waited for. Who only looks on waits for nothing, and what he finds may lack
    /// what an earlier process handled.
    is_whole: bool,
}

/// What was read of a session.
#[derive(Default)]
struct Read {
    facts: Vec<Fact>,
    archived_to: u64,
    /// More was there than may be read.
    is_cut: bool,
}

/// See [`Projection::add`].
#[derive(Debug)]
struct Forgotten;

impl Projection {
    /// Over `store`; `clock` gives events that are in no archive yet a time.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, known: Mutex::default(), behind: None }
    }

    /// The archive follows what is handled, and may be behind for so long. What this process was asked for it remembers; but of a session
    /// that it is asked for the first time with events in hand, after a restart, the archive may lack what an earlier process handled. An
    /// archive keeps the order, so with the events in hand it has all that came before them: they are waited for, that long at most.
    #[must_use]
    pub fn behind(mut self, at_most: Duration) -> Self {
        self.behind = Some(at_most);
        self
    }

    /// Archived events of a session that is not in memory, from the beginning, with those in hand among them.
    async fn read_with(&self, id: &str, in_hand: &[Fact]) -> Result<Read, StoreError> {
        let begun = self.clock.monotonic();
        let mut pause = LOOK_FIRST;
        loop {
            let read = self.read(id, 0).await?;
            let holds = |fact: &Fact| read.facts.iter().any(|archived| archived.identity == fact.identity);
            let Some(at_most) = self.behind.filter(|_| !read.is_cut && !in_hand.iter().all(holds)) else { return Ok(read) };
            let now = self.clock.monotonic();
            if now < self.known().impatient_until {
                return Ok(read);
            }
            if now.saturating_sub(begun) >= at_most {
                self.known().impatient_until = now + PATIENCE_AGAIN;
                return Ok(read);
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds the sessions")
    }

    /// Archived events of `id` above `after`.
    async fn read(&self, id: &str, after: u64) -> Result<Read, StoreError> {
        let mut read = Read { archived_to: after, ..Read::default() };
        let mut seen = 0;
        let mut query = EventQuery { last: Some(FIRST_PAGE), session: Some(id.to_owned()), ..EventQuery::default() };
        loop {
            let page = self.store.events(&query).await?;
            let is_full = page.len() >= query.last.unwrap_or(PAGE) as usize;
            for event in page {
                read.archived_to = read.archived_to.max(event.seq);
                if event.seq <= after {
                    return Ok(read);
                }
                if seen == EVENTS_MAX {
                    read.is_cut = true;
                    return Ok(read);
                }
                seen += 1;
                query.before = Some(event.seq);
                let decoded = Envelope::decode(event.key, event.body, ARCHIVED).ok();
                read.facts.extend(decoded.and_then(|envelope| Fact::of(&envelope, id, event.stored_at)));
            }
            if !is_full {
                return Ok(read);
            }
            query.last = Some(PAGE);
        }
    }

    /// Adds what was read above `after` and what is in hand. Facts are counted once, whoever brings them, so that questions may overlap.
    ///
    /// # Errors
    ///
    /// When the session was forgotten since `after` was asked for: what was read is not all of it.
    fn add<T>(&self, id: &str, after: u64, read: Read, in_hand: &[Fact], told: impl Fn(&Record) -> Option<T>) -> Result<Option<T>, Forgotten> {
        let mut known = self.known();
        known.now += 1;
        let now = known.now;
        if !known.sessions.contains_key(id) {
            if after > 0 {
                return Err(Forgotten);
            }
            if read.facts.is_empty() && in_hand.is_empty() {
                return Ok(None);
            }
            if known.sessions.len() >= SESSIONS_MAX {
                let oldest = known.sessions.iter().min_by_key(|(_, remembered)| remembered.asked_at).map(|(id, _)| id.clone());
                oldest.map(|id| known.sessions.remove(&id));
            }
        }
        let new = || Remembered { record: Record::default(), archived_to: 0, asked_at: now, is_whole: false };
        let remembered = known.sessions.entry(id.to_owned()).or_insert_with(new);
        remembered.asked_at = now;
        remembered.is_whole |= !in_hand.is_empty();
        remembered.archived_to = remembered.archived_to.max(read.archived_to);
        if read.is_cut {
            remembered.record.is_cut();
        }
        // The archive's times go before the ones that this process makes up.
        for fact in read.facts.into_iter().chain(in_hand.iter().cloned()) {
            remembered.record.add(fact);
        }
        Ok(told(&remembered.record))
    }
}

impl Projection {
    /// What the archive and the events in hand say, as `told` tells it.
    async fn ask<T>(&self, id: &str, in_hand: &[Fact], told: impl Fn(&Record) -> Option<T> + Send) -> Result<Option<T>, StoreError> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Ok(None);
        }
        let remembered = self.known().sessions.get(id).map(|remembered| (remembered.archived_to, remembered.is_whole));
        let remembered = remembered.filter(|(_, is_whole)| *is_whole || in_hand.is_empty()).map(|(archived_to, _)| archived_to);
        let (after, read) = match remembered {
            Some(after) => (after, self.read(id, after).await?),
            None => (0, self.read_with(id, in_hand).await?),
        };
        match self.add(id, after, read, in_hand, &told) {
            Ok(answer) => Ok(answer),
            // From the beginning there is nothing that can have been forgotten.
            Err(Forgotten) => Ok(self.add(id, 0, self.read(id, 0).await?, in_hand, &told).unwrap_or(None)),
        }
    }

    /// What the archive says of session `id`, with when it did what, and the events that its start says it follows.
    async fn entry(&self, id: &str) -> Result<Option<(SessionEntry, Vec<String>)>, StoreError> {
        self.ask(id, &[], |record| Some((record.entry(id)?, record.follows()))).await
    }
}

#[async_trait]
impl Sessions for Projection {
    async fn session(&self, id: &str, in_hand: &[Arc<Envelope>]) -> Result<Option<Session>, StoreError> {
        let now: Timestamp = self.clock.now();
        let in_hand: Vec<Fact> = in_hand.iter().filter_map(|event| Fact::of(event, id, now)).collect();
        self.ask(id, &in_hand, |record| record.session(id)).await
    }
}

#[cfg(test)]
mod tests;
