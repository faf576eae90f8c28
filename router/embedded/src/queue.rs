//! What one route's queue remembers in memory: what is in hand, what was read ahead, which lanes are held, and how far the queue
//! was read. No I/O happens here; `fetch.rs` reads what a [`Plan`] asks for, `consumer.rs` puts the two together.
//!
//! The queue is read with two cursors. *Ready* rows are read in the order of their id, and ids only grow, so what lies behind that
//! cursor is in hand, settled, or was passed over because its lane is held. *Waiting* rows are read in the order of their due
//! times; since new ones may fall due before those that were read, [`RouteQueue::note_waiting`] moves that cursor back.
//!
//! Where the queue was read to its end, a row that is committed then is the next one: it is *offered* from memory ([`RouteQueue::offer`])
//! and never read, and the cursor moves past it. Whatever makes that doubtful (a read under way, a lane that catches up, too much that
//! waits already) leaves it to be read as any other.
//!
//! A held lane is passed over once. The queue keeps the id of its first row that was passed over; when the lane is freed it
//! *catches up*: its rows are read from there through an index by lane, up to the cursor, before it is part of the whole again.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use router_api::{AttemptRecord, Delivery};
use tokio::sync::Notify;

use crate::event_row::StoredEvent;

/// Rows that are read ahead of the handing out at most.
const READ_AHEAD_MAX: usize = 128;
/// Rows that wait to be handed out at most while more are offered …
const OFFERED_MAX: usize = 512;
/// … and bytes of their bodies.
const OFFERED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A larger body is not worth a copy that waits: whoever offers reads it again.
pub(crate) const OFFERED_BODY_MAX: usize = 64 * 1024;

/// A lock that a panic elsewhere does not take away: no state here is left half changed by one.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A row of the queue with its event, ready to be handed out.
#[derive(Debug)]
pub(crate) struct QueuedRow {
    pub(crate) id: i64,
    pub(crate) lane: Option<String>,
    /// Of a row that waited.
    pub(crate) due_at: Option<i64>,
    pub(crate) attempts: u32,
    pub(crate) history: Vec<AttemptRecord>,
    pub(crate) direct: bool,
    pub(crate) handed: bool,
    pub(crate) event: StoredEvent,
}

/// What is to be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) session: u64,
    pub(crate) route: i64,
    pub(crate) want: usize,
    /// The store's time.
    pub(crate) now: i64,
    pub(crate) cursor: i64,
    pub(crate) due_cursor: (i64, i64),
    pub(crate) held: HashSet<String>,
    /// Lanes that catch up, each from an id.
    pub(crate) catch_up: BTreeMap<String, i64>,
    /// In hand or on its way to be settled.
    pub(crate) exclude: HashSet<i64>,
    noted: u64,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) rows: Vec<QueuedRow>,
    pub(crate) cursor: i64,
    pub(crate) due_cursor: (i64, i64),
    /// The first row of each lane that was passed over.
    pub(crate) skipped: HashMap<String, i64>,
    /// The due time of the first waiting row of each lane that was passed over.
    pub(crate) skipped_due: HashMap<String, i64>,
    /// Where lanes that catch up stand now; `None` when they have caught up.
    pub(crate) caught_up: Vec<(String, Option<i64>)>,
    /// Nothing more was there.
    pub(crate) is_exhausted: bool,
    /// When the next waiting row falls due.
    pub(crate) next_due: Option<i64>,
    /// Rows whose event is damaged: the delivery and the event's number.
    pub(crate) damaged: Vec<(i64, i64)>,
    /// Rows that were looked at.
    pub(crate) visited: u64,
}

/// What a taker does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Hand this out.
    Delivery(Box<Delivery>),
    /// Read this, then give it to [`RouteQueue::apply`].
    Fetch(Box<Plan>),
    /// Wait to be woken, or until this due time.
    Wait(Option<i64>),
    /// The session is over.
    Over,
}

/// One route's queue.
#[derive(Debug)]
pub(crate) struct RouteQueue {
    route: i64,
    /// Rows up to this id may have been handed out by a process that died.
    handed_before: i64,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    sessions: u64,
    hand: Option<Hand>,
    /// On their way to the writer, whatever became of the session since.
    settling: HashSet<i64>,
    /// Were in hand when a session of this process ended.
    returned: HashSet<i64>,
    /// Counts what was added, so that a read that began before an addition does not count as having seen it.
    noted: u64,
}

#[derive(Debug, Default)]
struct Hand {
    session: u64,
    prefetch: usize,
    /// Of earlier sessions, and still on their way to the writer: whatever is behind them in their lanes may not overtake them, and whether
    /// they come back is not known yet.
    awaited: HashSet<i64>,
    in_hand: HashSet<i64>,
    buffer: VecDeque<QueuedRow>,
    /// Bytes of the bodies in `buffer`.
    buffered: usize,
    /// A read was planned, and its result has not come.
    reading: bool,
    cursor: i64,
    due_cursor: (i64, i64),
    rewind_due: Option<i64>,
    restart: bool,
    held: HashSet<String>,
    skipped: HashMap<String, i64>,
    skipped_due: HashMap<String, i64>,
    catch_up: BTreeMap<String, i64>,
    /// `State::noted` at the beginning of the read that found nothing more.
    exhausted_at: Option<u64>,
    next_due: Option<i64>,
}

impl RouteQueue {
    pub(crate) fn new(route: i64, handed_before: i64) -> Self {
        Self { route, handed_before, state: Mutex::default(), wake: Notify::new() }
    }

    /// Begins a session; `None` while another one lives.
    pub(crate) fn begin(&self, prefetch: u32) -> Option<u64> {
        let mut state = locked(&self.state);
        if state.hand.is_some() {
            return None;
        }
        state.sessions += 1;
        let session = state.sessions;
        let prefetch = usize::try_from(prefetch.max(1)).unwrap_or(usize::MAX);
        let awaited = state.settling.clone();
        state.hand = Some(Hand { session, prefetch, awaited, due_cursor: (i64::MIN, i64::MIN), ..Hand::default() });
        Some(session)
    }

    /// Ends a session; returns what was in hand and is not being settled.
    pub(crate) fn end(&self, session: u64) -> Vec<i64> {
        let mut state = locked(&self.state);
        if state.hand.as_ref().is_none_or(|hand| hand.session != session) {
            return Vec::new();
        }
        let hand = state.hand.take().unwrap_or_default();
        let mut unfinished: Vec<i64> = hand.in_hand.into_iter().filter(|id| !state.settling.contains(id)).collect();
        unfinished.sort_unstable();
        state.returned.extend(&unfinished);
        drop(state);
        self.wake.notify_one();
        unfinished
    }

    /// Ends whatever session there is.
    pub(crate) fn end_any(&self) -> Vec<i64> {
        let session = locked(&self.state).hand.as_ref().map(|hand| hand.session);
        session.map(|session| self.end(session)).unwrap_or_default()
    }

    /// True while a session lives.
    pub(crate) fn is_consumed(&self) -> bool {
        locked(&self.state).hand.is_some()
    }

    /// True while this session lives.
    pub(crate) fn is_live(&self, session: u64) -> bool {
        locked(&self.state).hand.as_ref().is_some_and(|hand| hand.session == session)
    }

    /// Deliveries in hand.
    pub(crate) fn in_hand(&self) -> u64 {
        locked(&self.state).hand.as_ref().map_or(0, |hand| hand.in_hand.len() as u64)
    }

    /// Which deliveries they are.
    pub(crate) fn all_in_hand(&self) -> Vec<i64> {
        locked(&self.state).hand.as_ref().map_or_else(Vec::new, |hand| hand.in_hand.iter().copied().collect())
    }

    /// Resolves when something may have changed.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.wake.notified()
    }

    /// New ready rows were committed.
    pub(crate) fn note_ready(&self) {
        locked(&self.state).noted += 1;
        self.wake.notify_one();
    }

    /// The new ready row `id` was committed. It is handed on from here if it is the next one that would be read; else it is noted. Call it
    /// for all of a route in the order of their ids, before anything later is told of. `now` is the store's time.
    pub(crate) fn offer(&self, now: i64, id: i64, row: impl FnOnce() -> QueuedRow) {
        let mut state = locked(&self.state);
        let State { hand, noted, .. } = &mut *state;
        match hand.as_mut().filter(|hand| hand.has_read_all(*noted, now) && hand.has_room()) {
            // A read between the commit and this call has found it: it would be handed out twice.
            Some(hand) if id <= hand.cursor => {}
            Some(hand) => {
                let row = row();
                hand.cursor = row.id;
                hand.put(row);
            }
            None => *noted += 1,
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Rows were committed that wait until `due_at` or later.
    pub(crate) fn note_waiting(&self, due_at: i64) {
        let mut state = locked(&self.state);
        state.noted += 1;
        if let Some(hand) = &mut state.hand {
            hand.rewind_due = Some(hand.rewind_due.map_or(due_at, |earlier| earlier.min(due_at)));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// What to do now. `now` is the store's time.
    pub(crate) fn next(&self, session: u64, now: i64) -> Next {
        let mut guard = locked(&self.state);
        let State { hand, settling, returned, noted, .. } = &mut *guard;
        let Some(hand) = hand.as_mut().filter(|hand| hand.session == session) else { return Next::Over };
        // One task asks at a time: a read whose result it never gave back was broken off.
        hand.reading = false;
        if hand.in_hand.len() >= hand.prefetch || !hand.awaited.is_empty() {
            return Next::Wait(None);
        }
        if let Some(delivery) = hand.hand_out(returned, self.handed_before) {
            return Next::Delivery(Box::new(delivery));
        }
        let is_due = hand.next_due.is_some_and(|due| due <= now);
        if !hand.restart && hand.rewind_due.is_none() && hand.catch_up.is_empty() && !is_due && hand.exhausted_at == Some(*noted) {
            return Next::Wait(hand.next_due);
        }
        if std::mem::take(&mut hand.restart) {
            hand.cursor = 0;
            hand.due_cursor = (i64::MIN, i64::MIN);
            hand.skipped.clear();
            hand.skipped_due.clear();
            hand.catch_up.clear();
            hand.exhausted_at = None;
        }
        if let Some(due) = hand.rewind_due.take() {
            hand.due_cursor = hand.due_cursor.min((due, i64::MIN));
            hand.exhausted_at = None;
        }
        hand.reading = true;
        Next::Fetch(Box::new(Plan {
            session,
            route: self.route,
            want: hand.prefetch.min(READ_AHEAD_MAX),
            now,
            cursor: hand.cursor,
            due_cursor: hand.due_cursor,
            held: hand.held.clone(),
            catch_up: hand.catch_up.clone(),
            exclude: hand.in_hand.iter().chain(settling.iter()).copied().collect(),
            noted: *noted,
        }))
    }

    /// The next row that is there already, without a look at anything else.
    pub(crate) fn take(&self, session: u64) -> Option<Delivery> {
        let mut guard = locked(&self.state);
        let State { hand, returned, .. } = &mut *guard;
        let hand = hand.as_mut().filter(|hand| hand.session == session && hand.in_hand.len() < hand.prefetch)?;
        hand.hand_out(returned, self.handed_before)
    }

    /// Takes in what was read. A read whose result is never given here has changed nothing.
    pub(crate) fn apply(&self, plan: &Plan, fetched: Fetched) {
        let mut guard = locked(&self.state);
        let Some(hand) = guard.hand.as_mut().filter(|hand| hand.session == plan.session) else { return };
        hand.reading = false;
        hand.cursor = fetched.cursor;
        hand.due_cursor = fetched.due_cursor;
        hand.next_due = fetched.next_due;
        hand.exhausted_at = fetched.is_exhausted.then_some(plan.noted);
        for (lane, stands_at) in fetched.caught_up {
            // A lane that was held meanwhile has left `catch_up`, and keeps the place where it began.
            if hand.catch_up.get(&lane) == plan.catch_up.get(&lane) {
                match stands_at {
                    Some(id) => hand.catch_up.insert(lane, id),
                    None => hand.catch_up.remove(&lane),
                };
            }
        }
        for (lane, id) in fetched.skipped {
            hand.pass_over(lane, id);
        }
        for (lane, due_at) in fetched.skipped_due {
            hand.pass_over_due(lane, due_at);
        }
        for row in fetched.rows {
            hand.put(row);
        }
    }

    /// Nothing more of `lane` is handed out.
    pub(crate) fn hold(&self, session: u64, lane: &str) {
        let mut guard = locked(&self.state);
        let Some(hand) = guard.hand.as_mut().filter(|hand| hand.session == session) else { return };
        if !hand.held.insert(lane.to_owned()) {
            return;
        }
        if let Some(from) = hand.catch_up.remove(lane) {
            hand.pass_over(lane.to_owned(), from);
        }
        let (aside, kept) = std::mem::take(&mut hand.buffer).into_iter().partition::<VecDeque<_>, _>(|row| row.lane.as_deref() == Some(lane));
        hand.buffer = kept;
        hand.buffered = hand.buffer.iter().map(|row| row.event.body.len()).sum();
        for row in aside {
            hand.put_aside(lane.to_owned(), &row);
        }
    }

    /// The lane takes part again.
    pub(crate) fn free(&self, session: u64, lane: &str) {
        let mut guard = locked(&self.state);
        let Some(hand) = guard.hand.as_mut().filter(|hand| hand.session == session) else { return };
        if !hand.held.remove(lane) {
            return;
        }
        if let Some(from) = hand.skipped.remove(lane) {
            hand.catch_up.insert(lane.to_owned(), from);
        }
        if let Some(due_at) = hand.skipped_due.remove(lane) {
            hand.rewind_due = Some(hand.rewind_due.map_or(due_at, |earlier| earlier.min(due_at)));
        }
        drop(guard);
        self.wake.notify_one();
    }

    /// Marks deliveries as on their way to the writer.
    pub(crate) fn begin_settling(&self, session: u64, ids: &[i64]) -> Result<(), NotInHand> {
        let mut guard = locked(&self.state);
        let State { hand, settling, .. } = &mut *guard;
        let Some(hand) = hand.as_ref().filter(|hand| hand.session == session) else { return Err(NotInHand::SessionOver) };
        if let Some(stranger) = ids.iter().find(|id| !hand.in_hand.contains(id) || settling.contains(id)) {
            return Err(NotInHand::Stranger(*stranger));
        }
        settling.extend(ids);
        Ok(())
    }

    /// They were settled.
    pub(crate) fn settled(&self, ids: &[i64]) {
        let mut guard = locked(&self.state);
        for id in ids {
            guard.settling.remove(id);
            guard.returned.remove(id);
        }
        if let Some(hand) = &mut guard.hand {
            for id in ids {
                hand.in_hand.remove(id);
                hand.awaited.remove(id);
            }
        }
        drop(guard);
        self.wake.notify_one();
    }

    /// They were not settled. `is_back` says that their taker has them in hand again; else they are handed out anew.
    pub(crate) fn not_settled(&self, session: u64, ids: &[i64], is_back: bool) {
        let mut guard = locked(&self.state);
        let State { hand, settling, returned, .. } = &mut *guard;
        for id in ids {
            settling.remove(id);
        }
        let lives_on = hand.as_ref().is_some_and(|hand| hand.session == session);
        if !(lives_on && is_back) {
            returned.extend(ids);
            if let Some(hand) = hand {
                for id in ids {
                    hand.awaited.remove(id);
                    if lives_on {
                        hand.in_hand.remove(id);
                    }
                }
                // Whoever takes now may have read past them.
                hand.restart = true;
            }
        }
        drop(guard);
        self.wake.notify_one();
    }
}

/// Why deliveries cannot be settled by this session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotInHand {
    /// It has ended.
    SessionOver,
    /// It does not have this one.
    Stranger(i64),
}

impl Hand {
    /// Is the next row that is committed the next one to be handed out? `noted` is how much was added so far.
    fn has_read_all(&self, noted: u64, now: i64) -> bool {
        let is_due = self.rewind_due.is_some() || self.next_due.is_some_and(|due| due <= now);
        self.exhausted_at == Some(noted) && !self.reading && !self.restart && !is_due && self.catch_up.is_empty()
    }

    fn has_room(&self) -> bool {
        self.buffer.len() < OFFERED_MAX && self.buffered < OFFERED_BYTES_MAX
    }

    /// A row that may be handed out, unless its lane is held (since the read began).
    fn put(&mut self, row: QueuedRow) {
        match row.lane.as_ref().filter(|lane| self.held.contains(*lane)).cloned() {
            Some(lane) => self.put_aside(lane, &row),
            None => {
                self.buffered += row.event.body.len();
                self.buffer.push_back(row);
            }
        }
    }

    fn hand_out(&mut self, returned: &mut HashSet<i64>, handed_before: i64) -> Option<Delivery> {
        let row = self.buffer.pop_front()?;
        self.buffered = self.buffered.saturating_sub(row.event.body.len());
        self.in_hand.insert(row.id);
        let was_handed = row.handed || row.attempts > 0 || row.id <= handed_before;
        let redelivered = returned.remove(&row.id) || was_handed;
        Some(delivery(row, redelivered))
    }

    /// Rows of `lane` from `id` on were not taken.
    fn pass_over(&mut self, lane: String, id: i64) {
        let place = if self.held.contains(&lane) { self.skipped.entry(lane).or_insert(id) } else { self.catch_up.entry(lane).or_insert(id) };
        *place = (*place).min(id);
    }

    /// Waiting rows of `lane` that fell due from `due_at` on were not taken.
    fn pass_over_due(&mut self, lane: String, due_at: i64) {
        if self.held.contains(&lane) {
            self.skipped_due.entry(lane).and_modify(|earlier| *earlier = (*earlier).min(due_at)).or_insert(due_at);
        } else {
            self.rewind_due = Some(self.rewind_due.map_or(due_at, |earlier| earlier.min(due_at)));
        }
    }

    /// A row that was read and is not handed out after all.
    fn put_aside(&mut self, lane: String, row: &QueuedRow) {
        match row.due_at {
            Some(due_at) => self.pass_over_due(lane, due_at),
            None => self.pass_over(lane, row.id),
        }
    }
}

fn delivery(row: QueuedRow, redelivered: bool) -> Delivery {
    Delivery {
        tag: u64::try_from(row.id).unwrap_or(0),
        identity: row.id.to_string(),
        key: row.event.key,
        body: row.event.body,
        stored_at: crate::store_time::timestamp(row.event.stored_at),
        attempts: row.attempts,
        history: row.history,
        hops: row.event.hops,
        direct: row.direct,
        redelivered,
        seq: u64::try_from(row.event.seq).ok(),
        traceparent: row.event.traceparent,
    }
}

#[cfg(test)]
mod tests;
