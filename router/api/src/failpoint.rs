//! Places at which a test may end the process, or let a step fail: before and after each step of the pipeline that something outside of
//! the process can see.
//!
//! The death of a process is seen by its ports alone, so these places are where the core calls one, and where the store commits. They
//! exist in builds with debug assertions only, such as those that tests run on: no second build of the program is needed for them, and a
//! release build has neither the places nor the variable that names one. `tests/tests/failpoints.rs` holds this list against the sources,
//! and kills the program at each.
//!
//! [`Failpoint`] is the list, [`pass`] and [`fails`] are what stands in the code, [`install`] is for the program.

use std::sync::OnceLock;

/// When a failpoint is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// While the store is opened.
    Opening,
    /// While events come in and are handled.
    Working,
    /// While old events are removed.
    Retaining,
    /// After the order to end.
    Ending,
    /// While events are handled that come from a broker.
    OnBroker,
}

macro_rules! failpoints {
    ($($variant:ident, $name:literal, $passed:ident;)*) => {
        /// A place. The name says the step, and the moment of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Failpoint {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )*
        }

        impl Failpoint {
            /// All of them, in the order of an event's way.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What a test calls it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the sources call it.
            #[must_use]
            pub fn variant(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// When it is passed.
            #[must_use]
            pub fn passed(self) -> Passed {
                match self { $(Self::$variant => Passed::$passed,)* }
            }
        }
    };
}

failpoints! {
    MigrationBefore, "migration.before", Opening;
    MigrationApplied, "migration.applied", Opening;
    MigrationAfter, "migration.after", Opening;
    TakeOverBefore, "take-over.before", Opening;
    TakeOverAfter, "take-over.after", Opening;
    OpeningAfter, "opening.after", Opening;
    AcceptBefore, "accept.before", Working;
    GroupBegun, "group.begun", Working;
    GroupHalf, "group.half", Working;
    GroupApplied, "group.applied", Working;
    GroupAfter, "group.after", Working;
    GroupNoted, "group.noted", Working;
    AcceptAfter, "accept.after", Working;
    HandOut, "hand-out.after", Working;
    FreezeBefore, "freeze.before", Working;
    FreezeAfter, "freeze.after", Working;
    AttemptBefore, "attempt.before", Working;
    AttemptBegun, "attempt.begun", Working;
    IntentBefore, "intent.before", Working;
    IntentAfter, "intent.after", Working;
    ResultBefore, "result.before", Working;
    ResultAfter, "result.after", Working;
    RepliesBefore, "replies-forgotten.before", Working;
    RepliesAfter, "replies-forgotten.after", Working;
    AttemptDone, "attempt.done", Working;
    AttemptAfter, "attempt.after", Working;
    EmitBefore, "emit.before", Working;
    EmitAfter, "emit.after", Working;
    ClearBefore, "ledger-cleared.before", Working;
    ClearAfter, "ledger-cleared.after", Working;
    InboxBefore, "inbox.before", OnBroker;
    InboxAfter, "inbox.after", OnBroker;
    NoteBefore, "attempt-noted.before", Working;
    NoteAfter, "attempt-noted.after", Working;
    ParkBefore, "park.before", Working;
    ParkAfter, "park.after", Working;
    DoneBefore, "done.before", Working;
    DoneAfter, "done.after", Working;
    RetryBefore, "retry.before", Working;
    RetryAfter, "retry.after", Working;
    BuryBefore, "bury.before", Working;
    BuryAfter, "bury.after", Working;
    ForgetBefore, "forget.before", Working;
    ForgetHalf, "forget.half", Working;
    ForgetAfter, "forget.after", Working;
    ForgetEachBefore, "forget-each.before", Working;
    ForgetEachAfter, "forget-each.after", Working;
    RetentionBefore, "retention.before", Retaining;
    RetentionApplied, "retention.applied", Retaining;
    RetentionAfter, "retention.after", Retaining;
    EndBefore, "end.before", Ending;
    EndNoted, "end.noted", Ending;
    EndMarked, "end.marked", Ending;
    EndCleared, "end.cleared", Ending;
    CheckpointAfter, "checkpoint.after", Ending;
}

/// What the program does at a failpoint; true lets the step fail.
pub type Action = Box<dyn Fn(Failpoint) -> bool + Send + Sync>;

static ACTION: OnceLock<Action> = OnceLock::new();

/// Says what is done at failpoints, once for the process. In a release build nobody asks.
pub fn install(action: Action) {
    // A second one would mean two who test at once; the first keeps its word.
    let _ = ACTION.set(action);
}

/// A place at which the process may be ended.
#[inline]
pub fn pass(point: Failpoint) {
    let _ = fails(point);
}

/// A place at which the process may be ended, or the step that follows may be made to fail: then it is true.
#[inline]
#[must_use]
pub fn fails(point: Failpoint) -> bool {
    cfg!(debug_assertions) && ACTION.get().is_some_and(|action| action(point))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<&str> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Failpoint::ALL.len());
    }
}
