//! One suite of behaviours that every transport must have, so that a route never notices which one it runs on.
//!
//! An author of a transport implements [`Factory`] and [`Subject`] (how to open one, how time passes, which faults can be made)
//! and calls [`run`] from a test. The cases are in `cases`, each a function named by the behaviour it shows.
//!
//! A case that needs something that the transport does not have (a [`Features`] flag) or that the subject cannot do (an
//! [`Abilities`] flag) is printed as skipped and reported, never silently passed; [`Report::expect`] pins which ones are.

mod bench;
mod cases;
mod memory;
mod runner;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::{Clock, Features, RouteName, Store, Transport};

use bench::Failure;
pub use memory::MemoryFactory;
pub use runner::{Report, run, run_matching};

/// What a subject can do to its transport, beyond what the port offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// [`Subject::restart`] works with [`Stop::Clean`].
    pub restart: bool,
    /// [`Subject::restart`] works with [`Stop::Kill`].
    pub kill: bool,
    /// [`Subject::fail_settles`] works.
    pub fail_settles: bool,
    /// [`Subject::lose_session`] works.
    pub lose_session: bool,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Closed, as at a drained stop.
    Clean,
    /// Gone without a word, as after a SIGKILL.
    Kill,
}

/// Makes subjects. Every case gets a fresh one, with no queue and nothing stored.
#[async_trait]
pub trait Factory: Send + Sync {
    /// What its subjects can do.
    fn abilities(&self) -> Abilities;

    /// Opens a transport with nothing in it.
    async fn open(&self) -> Box<dyn Subject>;
}

/// One transport under test, with its clock and its disk or broker.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The transport that is open now.
    fn transport(&self) -> Arc<dyn Transport>;

    /// The store beside it, where it has one of its own: for what a settlement leaves there.
    fn store(&self) -> Option<Arc<dyn Store>>;

    /// The clock that the transport goes by.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Lets at least `duration` of that clock pass.
    async fn pass(&self, duration: Duration);

    /// A delay for the cases about waiting: as short as the transport keeps exactly. A virtual clock can afford an hour.
    fn delay(&self) -> Duration;

    /// How long in real time nothing must come before a case concludes that nothing will. A case does this a few times only.
    fn silence(&self) -> Duration;

    /// Ends the process and starts it again: a new [`Subject::transport`] over the same disk or broker.
    async fn restart(&mut self, stop: Stop);

    /// While `failing`, settlements answer [`router_api::SettleError::NotRecorded`]. At least the next one does: a transport may mend
    /// what was broken.
    async fn fail_settles(&self, failing: bool) {
        let _ = failing;
    }

    /// Does [`Subject::fail_settles`] concern [`router_api::Settlement::Done`] as well? Not where acknowledgements are accepted at
    /// once.
    fn fails_done(&self) -> bool {
        true
    }

    /// Does [`router_api::TransportAdmin::queues`] know what waits, what is in hand, and how old the oldest event is? A broker tells
    /// its clients only what is ready.
    fn counts_exactly(&self) -> bool {
        true
    }

    /// Waits until what was settled on `route` has reached disk or broker, where exactly `in_hand` deliveries stay in hand. Nothing to
    /// wait for where [`router_api::Consumer::settle`] returns no earlier.
    async fn acknowledged(&self, route: &RouteName, in_hand: u64) {
        let _ = (route, in_hand);
    }

    /// The sessions of the consumers of `route` break.
    async fn lose_session(&self, route: &RouteName) {
        let _ = route;
    }

    /// The case is over: removes what it has left behind.
    async fn end(self: Box<Self>);
}

/// Something that a case cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// [`Features::persistent`].
    Persistent,
    /// [`Features::filters_at_intake`].
    FiltersAtIntake,
    /// [`Features::inbox_in_settlement`], and a store to look at.
    InboxInSettlement,
    /// [`Features::holds_lanes`].
    HoldsLanes,
    /// [`Features::archives`], and a store to look at.
    Archives,
    /// [`Features::competing_consumers`].
    CompetingConsumers,
    /// [`Abilities::restart`].
    Restart,
    /// [`Abilities::kill`].
    Kill,
    /// [`Abilities::fail_settles`].
    FailSettles,
    /// [`Abilities::lose_session`].
    LoseSession,
}

impl Need {
    fn is_met(self, features: Features, abilities: Abilities) -> bool {
        match self {
            Self::Persistent => features.persistent,
            Self::FiltersAtIntake => features.filters_at_intake,
            Self::InboxInSettlement => features.inbox_in_settlement,
            Self::HoldsLanes => features.holds_lanes,
            Self::Archives => features.archives,
            Self::CompetingConsumers => features.competing_consumers,
            Self::Restart => abilities.restart,
            Self::Kill => abilities.kill,
            Self::FailSettles => abilities.fail_settles,
            Self::LoseSession => abilities.lose_session,
        }
    }

    /// What is missing, as it is printed.
    fn sentence(self) -> &'static str {
        match self {
            Self::Persistent => "the transport is not persistent",
            Self::FiltersAtIntake => "the transport does not filter at intake",
            Self::InboxInSettlement => "the transport keeps no inbox",
            Self::HoldsLanes => "the transport holds no lanes",
            Self::Archives => "the transport has no archive",
            Self::CompetingConsumers => "the transport lets only one consumer take a queue",
            Self::Restart => "the subject cannot be restarted",
            Self::Kill => "the subject cannot be killed",
            Self::FailSettles => "the subject cannot make settlements fail",
            Self::LoseSession => "the subject cannot break a session",
        }
    }
}
