//! What the hooks of Claude Code leave behind of each session. In memory, within limits: the session that has been silent longest is
//! forgotten first, and one that comes back after that begins anew.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use router_claude::Session;

/// Sessions that are remembered.
pub(crate) const SESSIONS_MAX: usize = 10_000;

/// Bytes of names in all sessions together.
const NAMES_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A remembered session. Whoever handles one of its hooks holds it until the events are stored, so that they are stored in their order, and
/// a start that was not stored is told again.
pub(crate) type Remembered = tokio::sync::Mutex<Session>;

/// All sessions.
pub(crate) struct Sessions {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    turn: u64,
    weight: usize,
    by_id: HashMap<String, Entry>,
    by_turn: BTreeMap<u64, String>,
}

struct Entry {
    turn: u64,
    weight: usize,
    session: Arc<Remembered>,
}

const NO_PANIC: &str = "no code panics while it holds the sessions";

impl Sessions {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, inner: Mutex::default() }
    }

    /// The session of this id, new if it is not remembered. Room is made by those that have been silent longest.
    pub(crate) fn of(&self, id: &str) -> Arc<Remembered> {
        let mut inner = self.inner.lock().expect(NO_PANIC);
        let inner = &mut *inner;
        inner.turn += 1;
        let turn = inner.turn;
        if let Some(entry) = inner.by_id.get_mut(id) {
            inner.by_turn.remove(&entry.turn);
            inner.by_turn.insert(turn, id.to_owned());
            entry.turn = turn;
            // Who handles one of its hooks now weighs it with the next one.
            let weight = entry.session.try_lock().map_or(entry.weight, |session| session.weight());
            inner.weight = inner.weight + weight - entry.weight;
            entry.weight = weight;
            return Arc::clone(&entry.session);
        }
        while inner.by_id.len() >= self.max || inner.weight > NAMES_BYTES_MAX {
            let Some((_, oldest)) = inner.by_turn.pop_first() else { break };
            if let Some(entry) = inner.by_id.remove(&oldest) {
                inner.weight -= entry.weight;
            }
        }
        let session = Arc::new(Remembered::new(Session::new(id)));
        inner.by_turn.insert(turn, id.to_owned());
        inner.by_id.insert(id.to_owned(), Entry { turn, weight: 0, session: Arc::clone(&session) });
        session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_that_was_silent_longest_is_forgotten_first() {
        let sessions = Sessions::new(2);
        for id in ["a", "b", "a", "c"] {
            sessions.of(id).try_lock().unwrap().turn_number += 1;
        }
        assert_eq!(sessions.of("a").try_lock().unwrap().turn_number, 2);
        assert_eq!(sessions.of("b").try_lock().unwrap().turn_number, 0, "`b` made room");
        assert_eq!(sessions.inner.lock().unwrap().by_turn.len(), 2);
    }
}
