//! Which publication the broker gave back.
//!
//! The broker gives back what no queue wants just before it confirms it. lapin hands what came back to whichever confirmation it
//! handles next: with many publications on the way that may be another's, and when the broker confirms several in one go, they are
//! handled in no order. So the one who publishes must find out whose it is, and may not believe that something was routed as long
//! as lapin may still keep a return in its queue.
//!
//! lapin's queue gives one return with each confirmation, as long as it holds any. So a confirmation *without* a return shows that
//! everything that had come back before it is known. And all is known once nothing is on the way.

use std::collections::VecDeque;

/// What tells publications apart, as far as a broker can treat them differently.
pub(crate) trait Returned {
    /// Is `self` what came back of the publication that `other` describes?
    fn is(&self, other: &Self) -> bool;
}

/// A publication that was confirmed.
pub(crate) struct Ended<M, T> {
    /// Describes it.
    pub(crate) mark: M,
    /// What came along with its confirmation: of any publication.
    pub(crate) brought: Option<M>,
    /// Whatever the caller wants back.
    pub(crate) what: T,
}

/// Keeps what is not yet clear.
pub(crate) struct Returns<M, T> {
    /// Came back, of publications that are not confirmed yet.
    unclaimed: VecDeque<M>,
    /// Confirmed, while a return of theirs may still be on the way.
    undecided: Vec<(M, T)>,
}

impl<M, T> Default for Returns<M, T> {
    fn default() -> Self {
        Self { unclaimed: VecDeque::new(), undecided: Vec::new() }
    }
}

impl<M: Returned, T> Returns<M, T> {
    /// Takes all that was confirmed since the last call; says of which publications it is now certain whether a queue took them.
    /// `none_on_the_way`: nothing else that was sent waits for its confirmation.
    pub(crate) fn settle(&mut self, ended: Vec<Ended<M, T>>, none_on_the_way: bool) -> Vec<(T, bool)> {
        let mut known = Vec::with_capacity(ended.len());
        let queue_was_empty = ended.iter().any(|ended| ended.brought.is_none());
        let mut fresh = Vec::with_capacity(ended.len());
        for Ended { mark, brought, what } in ended {
            let certain = brought.is_none();
            self.unclaimed.extend(brought);
            fresh.push((mark, what, certain));
        }
        // Those from before first: they are older.
        for (mark, what) in std::mem::take(&mut self.undecided) {
            if self.claim(&mark) {
                known.push((what, false));
            } else if queue_was_empty || none_on_the_way {
                known.push((what, true));
            } else {
                self.undecided.push((mark, what));
            }
        }
        for (mark, what, certain) in fresh {
            if self.claim(&mark) {
                known.push((what, false));
            } else if certain || none_on_the_way {
                known.push((what, true));
            } else {
                self.undecided.push((mark, what));
            }
        }
        if none_on_the_way {
            self.unclaimed.clear();
        }
        known
    }

    /// The channel is gone, and with it what would have been learnt: all that is not certain.
    pub(crate) fn give_up(&mut self) -> Vec<T> {
        self.unclaimed.clear();
        std::mem::take(&mut self.undecided).into_iter().map(|(_, what)| what).collect()
    }

    fn claim(&mut self, mark: &M) -> bool {
        match self.unclaimed.iter().position(|returned| returned.is(mark)) {
            Some(at) => {
                self.unclaimed.remove(at);
                true
            }
            None => false,
        }
    }
}
