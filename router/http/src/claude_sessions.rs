//! What the hooks of Claude Code leave behind of each session: turns, tools, files, the model. In memory, within limits: the session
//! that has been silent longest is forgotten first, and one that comes back after that begins anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use uuid::Uuid;

/// Sessions that are remembered.
pub(crate) const SESSIONS_MAX: usize = 10_000;

/// Names of tools, files and commits of one session that are remembered, each.
const NAMES_MAX: usize = 200;

/// Bytes of such a name; longer ones are left out.
const NAME_BYTES_MAX: usize = 512;

/// Calls that are known not to be counted twice, when a hook is installed twice.
const CALLS_MAX: usize = 64;

/// Bytes of names in all sessions together.
const NAMES_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    /// Grows when a session that had ended goes on.
    pub(crate) generation: u32,
    pub(crate) ended: bool,
    pub(crate) first_seen: Option<Timestamp>,
    pub(crate) directory: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) turns: u64,
    pub(crate) tools: BTreeMap<String, u64>,
    pub(crate) files: BTreeSet<String>,
    pub(crate) commits: BTreeSet<String>,
    /// How the last turn ended: `success` or `error`.
    pub(crate) last: Option<&'static str>,
    prompt: Option<String>,
    calls: VecDeque<Uuid>,
    /// Bytes of names.
    weight: usize,
}

impl Session {
    /// Begins anew after its end, as the same session.
    pub(crate) fn goes_on(&mut self) {
        *self = Self { generation: self.generation.wrapping_add(1), model: self.model.take(), ..Self::default() };
    }

    /// The turn that runs, counted from 1.
    pub(crate) fn turn(&self) -> Option<u64> {
        (self.turns > 0).then_some(self.turns)
    }

    /// Notes a prompt: a new one begins a turn. `begins` is true for the hook of a prompt itself, which may lack its id.
    pub(crate) fn prompt(&mut self, id: Option<&str>, begins: bool) {
        match id {
            Some(id) if self.prompt.as_deref() == Some(id) => {}
            Some(id) if id.len() <= NAME_BYTES_MAX => {
                self.prompt = Some(id.to_owned());
                self.turns += 1;
            }
            _ if begins => self.turns += 1,
            _ => {}
        }
    }

    /// Notes a call of a tool, once.
    pub(crate) fn called(&mut self, call: Uuid, tool: &str) {
        if self.calls.contains(&call) {
            return;
        }
        if self.calls.len() == CALLS_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
        if let Some(count) = self.tools.get_mut(tool) {
            *count += 1;
        } else if self.tools.len() < NAMES_MAX && tool.len() <= NAME_BYTES_MAX {
            self.weight += tool.len();
            self.tools.insert(tool.to_owned(), 1);
        }
    }

    /// Notes a file that was written.
    pub(crate) fn wrote(&mut self, file: &str) {
        self.weight += remember(&mut self.files, file);
    }

    /// Notes a commit that was made.
    pub(crate) fn committed(&mut self, commit: &str) {
        self.weight += remember(&mut self.commits, commit);
    }
}

/// The bytes that this costs.
fn remember(names: &mut BTreeSet<String>, name: &str) -> usize {
    let takes = names.len() < NAMES_MAX && name.len() <= NAME_BYTES_MAX && names.insert(name.to_owned());
    if takes { name.len() } else { 0 }
}

/// A remembered session. Whoever handles one of its hooks holds the first lock while it tells of the session's start, so that the start
/// is told once and before everything else.
#[derive(Default)]
pub(crate) struct Remembered {
    /// The generation whose start is stored.
    pub(crate) started: tokio::sync::Mutex<Option<u32>>,
    pub(crate) session: Mutex<Session>,
}

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
            let weight = entry.session.session.lock().expect(NO_PANIC).weight;
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
        let session = Arc::<Remembered>::default();
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
            sessions.of(id).session.lock().unwrap().turns += 1;
        }
        assert_eq!(sessions.of("a").session.lock().unwrap().turns, 2);
        assert_eq!(sessions.of("b").session.lock().unwrap().turns, 0, "`b` made room");
        assert_eq!(sessions.inner.lock().unwrap().by_turn.len(), 2);
    }

    #[test]
    fn names_have_limits_and_a_call_counts_once() {
        let mut session = Session::default();
        let call = Uuid::from_u128(1);
        session.called(call, "Read");
        session.called(call, "Read");
        assert_eq!(session.tools["Read"], 1);
        for number in 0..1_000 {
            session.wrote(&format!("/f/{number}"));
            session.called(Uuid::from_u128(number + 2), &format!("tool-{number}"));
        }
        assert_eq!((session.files.len(), session.tools.len()), (NAMES_MAX, NAMES_MAX));
        session.commits.clear();
        session.committed(&"c".repeat(NAME_BYTES_MAX + 1));
        assert!(session.commits.is_empty());
    }

    #[test]
    fn a_turn_is_a_prompt() {
        let mut session = Session::default();
        session.prompt(None, false);
        assert_eq!(session.turn(), None);
        session.prompt(Some("p1"), true);
        session.prompt(Some("p1"), false);
        assert_eq!(session.turn(), Some(1));
        session.prompt(Some("p2"), false);
        session.prompt(None, true);
        assert_eq!(session.turn(), Some(3));
    }
}
