//! The event filter: `when`, compiled and statically checked at load, explaining itself.

use router_api::Envelope;
use serde::Serialize;

/// A compiled `when`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventFilter {}

impl EventFilter {
    /// Is the event wanted?
    #[must_use]
    pub fn matches(&self, event: &Envelope) -> bool {
        let _ = event;
        todo!()
    }

    /// The first clause that fails, or `None` when the event is wanted.
    #[must_use]
    pub fn first_failure(&self, event: &Envelope) -> Option<ClauseFailure> {
        let _ = event;
        todo!()
    }
}

/// A clause that an event does not satisfy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClauseFailure {
    /// The field: `file_path`.
    pub field: String,
    /// What the clause wants, as in the configuration: `suffix ".py"`, `one of "Write", "Edit"`.
    pub expected: String,
    /// What the event has, as JSON (shortened), or `None` when the field is missing.
    pub actual: Option<String>,
    /// How many of the filter's clauses passed, and how many there are: for "nearest miss first".
    pub passed: usize,
    /// See `passed`.
    pub clauses: usize,
}
