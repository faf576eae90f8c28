//! What tests can see of a [`crate::MemoryTransport`] and break in it.

use std::{collections::VecDeque, time::Duration};

use router_api::{AttemptRecord, DeadLetter, Fate, RouteName, RoutingKey};

/// Records of settlements kept at most; the oldest go.
const SETTLED_MAX: usize = 100_000;

/// How often each method of the port was called, over all transports of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// [`router_api::Transport::bind`].
    pub bind: u64,
    /// [`router_api::Transport::consume`].
    pub consume: u64,
    /// [`router_api::Transport::publish`].
    pub publish: u64,
    /// Deliveries handed out.
    pub handed_out: u64,
    /// [`router_api::Consumer::settle`], the failed calls included.
    pub settle: u64,
    /// [`router_api::Consumer::close`].
    pub close: u64,
}

/// One successful call of [`router_api::Consumer::settle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The route.
    pub route: RouteName,
    /// The keys of the deliveries, in the order of the call.
    pub keys: Vec<RoutingKey>,
    /// Their identities.
    pub identities: Vec<String>,
    /// How.
    pub how: SettledHow,
}

/// What [`router_api::Settlement`] was, without what only the transport needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettledHow {
    /// Finished.
    Done(Vec<Fate>),
    /// Back after a delay.
    RetryIn {
        /// After this.
        delay: Duration,
        /// The attempt that failed.
        failure: AttemptRecord,
    },
    /// Given up on.
    Buried(Box<DeadLetter>),
}

/// The faults that are planned and the records of what happened.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub settles: u32,
    pub publishes: u32,
    pub binds: u32,
    pub consumes: u32,
    pub nexts: u32,
    pub calls: Calls,
    pub settled: VecDeque<Settled>,
    pub misuses: Vec<String>,
}

impl Faults {
    /// True, once for each planned fault.
    pub(super) fn strikes(planned: &mut u32) -> bool {
        let strikes = *planned > 0;
        *planned = planned.saturating_sub(1);
        strikes
    }

    pub(super) fn record(&mut self, settled: Settled) {
        if self.settled.len() == SETTLED_MAX {
            self.settled.pop_front();
        }
        self.settled.push_back(settled);
    }

    /// A call that no correct router makes. Kept for the test to look at, the first hundred of them.
    pub(super) fn misuse(&mut self, sentence: String) {
        if self.misuses.len() < 100 {
            self.misuses.push(sentence);
        }
    }
}
