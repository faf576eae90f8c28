//! Which keys no inbox has, known without asking the file: most events come for the first time, and a question to the file costs more than
//! most handlers do.
//!
//! A Bloom filter over all keys in the file. It errs to one side only: a key that it does not know is not in the file, and of one that it
//! knows the file is asked. It is filled when the first question comes, by reading the inbox once, and from then on by whoever remembers a
//! key, before the commit. It forgets nothing: once it has had more keys than it was made for, it is made anew from those that are left.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use router_api::RouteName;
use rusqlite::Connection;

/// Keys that it is made for at first: half a mebibyte.
const CAPACITY_FIRST: usize = 1 << 18;
/// Keys that it is made for at most: 8 MiB. Of more the file is asked.
const CAPACITY_MAX: usize = 1 << 22;
/// Of a key, where it has as many as it is made for; a power of two. With them one in some five hundred is asked for in vain.
const BITS: usize = 16;
/// Bits that a key sets.
const PROBES: u64 = 5;
/// Keys that are read between two looks whether they are still wanted.
const LOOK_EVERY: usize = 4_096;

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The file does not have it.
    Lacking,
    /// The file has to be asked.
    Perhaps,
    /// As above; and whoever is told so is to have the keys read. Nobody else is told until that has failed.
    Unread,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct InboxKeys {
    stage: RwLock<Stage>,
    capacity: AtomicUsize,
}

#[derive(Debug, Clone)]
enum Stage {
    Unread,
    /// Somebody was told to have them read.
    Asked,
    /// Has what was remembered since, and not yet all that was there before.
    Filling(Arc<Filter>),
    Whole(Arc<Filter>),
    TooMany,
}

impl Default for InboxKeys {
    fn default() -> Self {
        Self::of_capacity(CAPACITY_FIRST)
    }
}

impl InboxKeys {
    fn of_capacity(capacity: usize) -> Self {
        Self { stage: RwLock::new(Stage::Unread), capacity: AtomicUsize::new(capacity) }
    }

    fn stage(&self) -> RwLockReadGuard<'_, Stage> {
        self.stage.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage_mut(&self) -> RwLockWriteGuard<'_, Stage> {
        self.stage.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// May the inbox of `route` have `key`?
    pub(crate) fn look(&self, route: &RouteName, key: &str) -> Known {
        match &*self.stage() {
            Stage::Whole(filter) if !filter.knows(hash(route.as_str(), key)) => return Known::Lacking,
            Stage::Unread => {}
            _ => return Known::Perhaps,
        }
        let mut stage = self.stage_mut();
        if matches!(*stage, Stage::Unread) {
            *stage = Stage::Asked;
            return Known::Unread;
        }
        Known::Perhaps
    }

    /// A key is about to be remembered. Called by the writer alone, before its commit.
    pub(crate) fn add(&self, route: &RouteName, key: &str) {
        let is_full = match &*self.stage() {
            Stage::Filling(filter) => {
                filter.add(hash(route.as_str(), key));
                false
            }
            Stage::Whole(filter) => {
                filter.add(hash(route.as_str(), key));
                filter.is_full()
            }
            _ => false,
        };
        if is_full {
            *self.stage_mut() = Stage::Unread;
        }
    }

    /// From now on [`InboxKeys::add`] has what comes. Called by the writer, in a transaction: what was written before it is in the file once that
    /// is committed, and has to be read then.
    pub(crate) fn begin(&self) {
        *self.stage_mut() = Stage::Filling(Arc::new(Filter::new(self.capacity.load(Ordering::Relaxed))));
    }

    /// They could not be read: the next one who looks is told to try again.
    pub(crate) fn give_up(&self) {
        *self.stage_mut() = Stage::Unread;
    }

    /// Reads what the file has, after the commit of the transaction in which it was begun. Ends early once `is_wanted` says no.
    pub(crate) fn fill(&self, conn: &Connection, is_wanted: impl Fn() -> bool) -> rusqlite::Result<()> {
        let Stage::Filling(filter) = self.stage().clone() else { return Ok(()) };
        let (mut read, mut is_whole) = (0_usize, true);
        {
            let mut statement = conn.prepare("SELECT route, key FROM inbox")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if read.is_multiple_of(LOOK_EVERY) && !is_wanted() {
                    self.give_up();
                    return Ok(());
                }
                // Of what was remembered meanwhile too, so that few may have been read.
                if filter.is_full() {
                    is_whole = false;
                    break;
                }
                read += 1;
                // Text, unless the file is damaged; then no key is like it.
                if let (Ok(route), Ok(key)) = (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str()) {
                    filter.add(hash(route, key));
                }
            }
        }
        // Nearly full is soon full, and then all of it would be read again.
        let wants_more = !is_whole || read > filter.capacity / 2;
        let mut stage = self.stage_mut();
        if !wants_more {
            *stage = Stage::Whole(filter);
        } else if filter.capacity < CAPACITY_MAX {
            self.capacity.store(filter.capacity * 2, Ordering::Relaxed);
            *stage = Stage::Unread;
        } else {
            tracing::info!(keys = read, "the inbox has so many keys that the file is asked of each event");
            *stage = Stage::TooMany;
        }
        Ok(())
    }
}

/// The same in each process, since nothing depends on who can guess it: keys that fall together cost a question.
fn hash(route: &str, key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (route, key).hash(&mut hasher);
    hasher.finish()
}

#[derive(Debug)]
struct Filter {
    words: Box<[AtomicU64]>,
    capacity: usize,
    added: AtomicUsize,
}

impl Filter {
    /// `capacity` is a power of two, and at least 64.
    fn new(capacity: usize) -> Self {
        let words = (0..capacity * BITS / 64).map(|_| AtomicU64::new(0)).collect();
        Self { words, capacity, added: AtomicUsize::new(0) }
    }

    /// The word and the bit of each probe.
    fn places(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> {
        let bits = (self.words.len() * 64) as u64;
        // Odd, so that the probes of a key differ.
        let step = (hash >> 32) | 1;
        (0..PROBES).map(move |probe| {
            let place = hash.wrapping_add(probe.wrapping_mul(step)) % bits;
            (usize::try_from(place / 64).unwrap_or(0), 1 << (place % 64))
        })
    }

    fn add(&self, hash: u64) {
        for (word, bit) in self.places(hash) {
            self.words[word].fetch_or(bit, Ordering::Relaxed);
        }
        self.added.fetch_add(1, Ordering::Relaxed);
    }

    fn knows(&self, hash: u64) -> bool {
        self.places(hash).all(|(word, bit)| self.words[word].load(Ordering::Relaxed) & bit != 0)
    }

    fn is_full(&self) -> bool {
        self.added.load(Ordering::Relaxed) >= self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> RouteName {
        name.parse().unwrap()
    }

    fn inbox(keys: usize) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&conn).unwrap();
        for key in 0..keys {
            conn.execute("INSERT INTO inbox (route, key, expires_at) VALUES ('a', ?1, 0)", [key.to_string()]).unwrap();
        }
        conn
    }

    #[test]
    fn one_asker_has_them_read_and_then_what_the_file_has_and_what_came_since_is_known() {
        let (keys, conn) = (InboxKeys::of_capacity(64), inbox(3));
        assert_eq!((keys.look(&route("a"), "1"), keys.look(&route("a"), "1")), (Known::Unread, Known::Perhaps));
        keys.begin();
        keys.add(&route("b"), "new");
        assert_eq!(keys.look(&route("b"), "other"), Known::Perhaps, "not all that is there has been read");
        keys.fill(&conn, || true).unwrap();
        for (route_name, key) in [("a", "0"), ("a", "2"), ("b", "new")] {
            assert_eq!(keys.look(&route(route_name), key), Known::Perhaps);
        }
        assert_eq!(keys.look(&route("b"), "0"), Known::Lacking, "another route's");
        keys.add(&route("b"), "0");
        assert_eq!(keys.look(&route("b"), "0"), Known::Perhaps);
    }

    #[test]
    fn what_could_not_be_read_is_read_by_the_next_one_who_looks() {
        let (keys, conn) = (InboxKeys::of_capacity(64), inbox(1));
        assert_eq!(keys.look(&route("a"), "1"), Known::Unread);
        keys.give_up();
        assert_eq!(keys.look(&route("a"), "1"), Known::Unread);
        keys.begin();
        keys.fill(&conn, || false).unwrap();
        assert_eq!(keys.look(&route("a"), "1"), Known::Unread);
    }

    #[test]
    fn one_that_was_filled_by_what_came_while_it_was_read_is_not_taken_for_whole() {
        let (keys, conn) = (InboxKeys::of_capacity(64), inbox(10));
        assert_eq!(keys.look(&route("a"), "1"), Known::Unread);
        keys.begin();
        // The reader stood aside while so many were handled.
        (0..64).for_each(|key| keys.add(&route("b"), &key.to_string()));
        keys.fill(&conn, || true).unwrap();
        assert!((0..10).all(|key| keys.look(&route("a"), &key.to_string()) != Known::Lacking), "they are in the file");
        assert_eq!(keys.capacity.load(Ordering::Relaxed), 128, "the next one has room for both");
    }

    #[test]
    fn it_grows_with_the_inbox_and_is_made_anew_when_it_is_full() {
        let (keys, conn) = (InboxKeys::of_capacity(64), inbox(100));
        let mut readings = 0;
        while keys.look(&route("a"), "none") == Known::Unread {
            keys.begin();
            keys.fill(&conn, || true).unwrap();
            readings += 1;
        }
        assert_eq!((readings, keys.capacity.load(Ordering::Relaxed)), (3, 256));
        assert!((0..100).all(|key| keys.look(&route("a"), &key.to_string()) == Known::Perhaps));
        let lacking = (100..1_100).filter(|key| keys.look(&route("a"), &key.to_string()) == Known::Lacking).count();
        assert!(lacking > 900, "{lacking} of 1000");
        for key in 0..156 {
            keys.add(&route("b"), &key.to_string());
        }
        assert_eq!(keys.look(&route("a"), "none"), Known::Unread);
    }
}
