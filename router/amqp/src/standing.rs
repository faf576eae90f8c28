//! Does what is wanted stand on the broker? Who says that the router is ready, and who gives events to whoever wants them, asks here.
//!
//! A set of subscriptions has a number, and a session an epoch. A set stands when all of it was declared with the session that is there
//! now: what was refused of it, or is out of reach, is said elsewhere and counts as declared. A set that was asked for while there was no
//! session, or whose declaration broke off, does not stand, and whoever mends declares it as soon as there is a session.

use std::collections::BTreeSet;

use router_api::RouteName;
use tokio::sync::watch;

/// Routes that are named in a sentence.
const NAMED_MAX: usize = 5;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    /// The number of the set that is wanted; 0 before the first.
    wanted: u64,
    /// So many calls are about to declare it.
    declaring: u32,
    /// With which session which set was declared last.
    declared: Option<Declared>,
    /// It is to be declared once more, though it stands as far as anybody knows.
    again: bool,
    /// Routes of which nobody knows yet whether their queue is within reach.
    unsettled: BTreeSet<RouteName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Declared {
    epoch: u64,
    set: u64,
}

impl Standing {
    /// From now on this set is wanted.
    pub(crate) fn want(&self, set: u64) {
        self.state.send_modify(|state| state.wanted = set);
    }

    /// Somebody declares the set, until what is returned is dropped: nobody else needs to.
    pub(crate) fn declaring(&self) -> Declaring<'_> {
        self.state.send_modify(|state| state.declaring += 1);
        Declaring { standing: self }
    }

    /// This set was declared with this session.
    pub(crate) fn declared(&self, epoch: u64, set: u64) {
        self.state.send_modify(|state| {
            // What an earlier session brings to an end counts for nothing any more.
            if state.declared.is_none_or(|declared| declared.epoch <= epoch) {
                state.declared = Some(Declared { epoch, set });
                state.again = false;
            }
        });
    }

    /// A declaration broke off, or has left something to do.
    pub(crate) fn declare_again(&self) {
        self.state.send_modify(|state| state.again = true);
    }

    /// Of these routes nobody knows yet.
    pub(crate) fn set_unsettled(&self, routes: BTreeSet<RouteName>) {
        self.state.send_if_modified(|state| {
            let is_news = state.unsettled != routes;
            state.unsettled = routes;
            is_news
        });
    }

    /// Is the set to be declared with this session, and nobody about to do it?
    pub(crate) fn is_to_be_declared(&self, epoch: u64) -> bool {
        let state = self.state.borrow();
        state.wanted > 0 && state.declaring == 0 && (state.again || state.declared != Some(Declared { epoch, set: state.wanted }))
    }

    /// Was this set declared last, with this session, and is it wanted still?
    pub(crate) fn stands(&self, epoch: u64, set: u64) -> bool {
        let state = self.state.borrow();
        state.wanted == set && state.declared == Some(Declared { epoch, set })
    }

    /// Why nothing may be given to whoever wants it with this session. While a set takes the place of one that stands, that one goes on.
    pub(crate) fn held(&self, epoch: u64) -> Option<String> {
        let state = self.state.borrow();
        let stands = state.wanted == 0
            || state.declared.is_some_and(|declared| declared.epoch == epoch && (declared.set == state.wanted || (state.declaring > 0 && declared.set > 0)));
        (!stands).then(|| "what the routes want is not bound on the broker yet".to_owned())
    }

    /// Which routes are waited for, of which nobody knows yet whether they get their events.
    pub(crate) fn unsettled(&self) -> Option<String> {
        let state = self.state.borrow();
        let named: Vec<String> = state.unsettled.iter().take(NAMED_MAX).map(|route| format!("`{route}`")).collect();
        let more = state.unsettled.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!named.is_empty()).then(|| format!("the broker has not answered yet whether the queue is there of {}{more}", named.join(", ")))
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes { state: self.state.subscribe() }
    }
}

/// See [`Standing::changes`].
pub(crate) struct Changes {
    state: watch::Receiver<State>,
}

impl Changes {
    /// Resolves when something has changed since the last call.
    pub(crate) async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// See [`Standing::declaring`].
pub(crate) struct Declaring<'a> {
    standing: &'a Standing,
}

impl Drop for Declaring<'_> {
    fn drop(&mut self) {
        self.standing.state.send_modify(|state| state.declaring = state.declaring.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_before_anything_is_wanted() {
        let standing = Standing::default();
        assert_eq!(standing.held(1), None);
        assert!(!standing.is_to_be_declared(1));
    }

    #[test]
    fn a_set_that_was_asked_for_without_a_session_is_declared_with_the_next_one() {
        let standing = Standing::default();
        {
            let _declaring = standing.declaring();
            standing.want(1);
        }
        // The session had asked what is wanted before it was, and came to be shown afterwards.
        assert!(standing.is_to_be_declared(1) && standing.held(1).is_some());
        standing.declared(1, 1);
        assert!(!standing.is_to_be_declared(1) && standing.held(1).is_none());
        assert!(standing.stands(1, 1) && !standing.stands(2, 1) && !standing.stands(1, 2));
        assert!(standing.is_to_be_declared(2) && standing.held(2).is_some(), "with each session anew");
    }

    #[test]
    fn a_set_goes_on_while_another_takes_its_place_and_not_when_that_broke_off() {
        let standing = Standing::default();
        standing.want(1);
        standing.declared(1, 1);
        let declaring = standing.declaring();
        standing.want(2);
        assert!(standing.held(1).is_none() && !standing.is_to_be_declared(1), "it is being declared");
        drop(declaring);
        assert!(standing.held(1).is_some() && standing.is_to_be_declared(1), "it broke off");
        // Refused, so that the one before is wanted again.
        standing.want(1);
        assert!(standing.held(1).is_none() && !standing.is_to_be_declared(1));
    }

    #[test]
    fn what_an_earlier_session_brings_to_an_end_counts_for_nothing() {
        let standing = Standing::default();
        standing.want(1);
        standing.declared(2, 1);
        standing.declared(1, 1);
        assert!(standing.held(2).is_none() && !standing.is_to_be_declared(2));
        standing.declare_again();
        assert!(standing.held(2).is_none() && standing.is_to_be_declared(2), "it stands, and is looked after");
    }

    #[test]
    fn a_long_list_of_routes_ends() {
        let standing = Standing::default();
        assert_eq!(standing.unsettled(), None);
        standing.set_unsettled((0..7).map(|at| format!("r{at}").parse().expect("a route name")).collect());
        let sentence = standing.unsettled().expect("there are some");
        assert!(sentence.ends_with("`r0`, `r1`, `r2`, `r3`, `r4` and 2 more"), "{sentence}");
    }
}
