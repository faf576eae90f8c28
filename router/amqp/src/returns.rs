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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Name(usize);

    impl Returned for Name {
        fn is(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn ended(number: usize, brought: Option<usize>) -> Ended<Name, usize> {
        Ended { mark: Name(number), brought: brought.map(Name), what: number }
    }

    #[test]
    fn a_return_that_came_with_anothers_confirmation_finds_its_own() {
        let mut returns = Returns::default();
        // 2 came back, and 1 was confirmed first: as several in one go, in no order.
        assert_eq!(returns.settle(vec![ended(1, Some(2)), ended(2, None)], false), [(2, false)]);
        // 1 is not certain: another return, its own, may still lie in lapin's queue. One without shows that none does.
        assert_eq!(returns.settle(vec![ended(3, None)], false), [(1, true), (3, true)]);
    }

    #[test]
    fn a_return_that_comes_after_its_own_confirmation_is_waited_for() {
        let mut returns = Returns::default();
        // 1 and 2 came back, and 2, 3, 1 were confirmed in one go.
        assert_eq!(returns.settle(vec![ended(2, Some(1))], false), []);
        assert_eq!(returns.settle(vec![ended(3, Some(2))], false), [(2, false)]);
        assert_eq!(returns.settle(vec![ended(1, None)], true), [(3, true), (1, false)]);
    }

    #[test]
    fn what_is_not_certain_is_given_back_when_the_channel_goes() {
        let mut returns = Returns::default();
        assert_eq!(returns.settle(vec![ended(1, Some(7))], false), []);
        assert_eq!(returns.give_up(), [1]);
        // And what it knew of the others is not taken for true on the next channel.
        assert_eq!(returns.settle(vec![ended(7, None)], true), [(7, true)]);
    }

    proptest! {
        /// A broker that gives back in order and before it confirms, confirms in any order, and lapin between, which gives each
        /// confirmation the return that it has had longest.
        #[test]
        fn everyone_learns_the_truth_about_their_own(
            of_third in proptest::collection::vec(0usize..6, 1..120),
            shuffle in proptest::collection::vec(any::<u16>(), 120),
            early in proptest::collection::vec(0usize..3, 120),
            ends_of_passes in proptest::collection::vec(any::<bool>(), 120),
            window in 1usize..20,
        ) {
            let comes_back = |at: usize| of_third[at] % 3 == 0;
            // The same name again and again has the same fate.
            let name = |at: usize| of_third[at];
            let number = of_third.len();
            let mut order: Vec<usize> = (0..number).collect();
            for chunk in order.chunks_mut(window) {
                chunk.sort_by_key(|at| shuffle[*at]);
            }
            let mut lapin: VecDeque<usize> = VecDeque::new();
            let mut to_return: VecDeque<usize> = (0..number).filter(|at| comes_back(*at)).collect();
            let (mut returns, mut pass, mut answers) = (Returns::default(), Vec::new(), vec![None; number]);
            for (place, at) in order.iter().enumerate() {
                // Whatever was sent before it and comes back has come back, and some that was sent later.
                while to_return.front().is_some_and(|next| next <= at) {
                    lapin.extend(to_return.pop_front().map(name));
                }
                let sent = (place / window + 1) * window;
                for _ in 0..early[place] {
                    if to_return.front().is_some_and(|next| *next < sent) {
                        lapin.extend(to_return.pop_front().map(name));
                    }
                }
                pass.push(Ended { mark: Name(name(*at)), brought: lapin.pop_front().map(Name), what: *at });
                if ends_of_passes[place] || place + 1 == number {
                    let all_back = (place + 1).is_multiple_of(window) || place + 1 == number;
                    for (what, routed) in returns.settle(std::mem::take(&mut pass), all_back) {
                        prop_assert!(answers[what].replace(routed).is_none(), "{what} is answered once");
                    }
                }
            }
            for (at, answer) in answers.into_iter().enumerate() {
                prop_assert_eq!(answer, Some(!comes_back(at)), "publication {}", at);
            }
        }
    }
}
