//! The event filter: `when`, compiled and statically checked at load, explaining itself.
//!
//! A filter is data in the shape that EventBridge made known: a table of fields, of which all must fit; behind each a clause or
//! a list of clauses, of which one must fit; and `any = [ … ]` with filters, of which one must fit.
//!
//! ```toml
//! when = { tool_name = ["Write", "Edit"], file_path = [{ suffix = ".py" }], payload.tool_metadata.success = true }
//! ```
//!
//! From a tree to a filter, with all that can be wrong on the way: `filter/compile.rs`. One clause against one value:
//! `filter/clause.rs`. What may have been meant where it fails: `filter/hint.rs`. How values are shown: `filter/show.rs`.

mod clause;
mod compile;
mod hint;
mod number;
pub(crate) mod show;

use std::fmt;

use router_api::{Envelope, Field, FieldPath};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

use clause::Clause;

/// A compiled `when`. The default one wants every event.
///
/// Prints and serialises as the tree that it came from, with paths in one piece and fields in a fixed order: two filters that mean
/// the same by the same clauses print alike.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EventFilter {
    /// Sorted by field; all must fit.
    fields: Vec<FieldClauses>,
    /// Filters of which one must fit; no filters, no condition.
    any: Vec<EventFilter>,
}

/// What one field must be.
#[derive(Debug, Clone, PartialEq)]
struct FieldClauses {
    field: FieldPath,
    /// One must fit; never empty.
    clauses: Vec<Clause>,
}

/// Something wrong in a filter, or worth stopping for: a clause that no event can satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterProblem {
    /// Where in the tree that was compiled: keys, and for lists the places counted from 0. Empty for the whole tree.
    pub path: Vec<String>,
    /// What is wrong: a lowercase fragment.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
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
    /// Where a missing field was looked for, if it has several places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub looked_in: Vec<String>,
    /// What may have been meant: a place of the event that has what is wanted, or a value that differs only in letter case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for ClauseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.actual {
            Some(actual) => write!(f, "`{}` is {actual}, wanted is {}", self.field, self.expected),
            None => write!(f, "`{}` is not in the event, wanted is {}", self.field, self.expected),
        }
    }
}

impl EventFilter {
    /// Compiles a parsed `when` table and checks all that can be checked without an event.
    ///
    /// # Errors
    ///
    /// All problems at once, in the order of the tree.
    pub fn compile(tree: &Value) -> Result<Self, Vec<FilterProblem>> {
        compile::compile(tree)
    }

    /// True if every event is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.any.is_empty()
    }

    /// Is the event wanted?
    #[must_use]
    pub fn matches(&self, event: &Envelope) -> bool {
        self.fields.iter().all(|field| field.fits(event)) && (self.any.is_empty() || self.any.iter().any(|filter| filter.matches(event)))
    }

    /// The first clause that fails, or `None` when the event is wanted.
    #[must_use]
    pub fn first_failure(&self, event: &Envelope) -> Option<ClauseFailure> {
        self.failures(event).into_iter().next()
    }

    /// All fields that fail, and the group `any` if it does: `None` of them when the event is wanted.
    ///
    /// Of a group the failure of its nearest filter is told.
    #[must_use]
    pub fn failures(&self, event: &Envelope) -> Vec<ClauseFailure> {
        let mut failures: Vec<ClauseFailure> = self.fields.iter().filter(|field| !field.fits(event)).map(|field| field.failure(event)).collect();
        failures.extend(self.nearest_of_any(event));
        let clauses = self.fields.len() + usize::from(!self.any.is_empty());
        let passed = clauses - failures.len();
        for failure in &mut failures {
            (failure.passed, failure.clauses) = (passed, clauses);
        }
        failures
    }

    fn nearest_of_any(&self, event: &Envelope) -> Option<ClauseFailure> {
        let mut nearest: Option<Vec<ClauseFailure>> = None;
        for filter in &self.any {
            let failures = filter.failures(event);
            if failures.is_empty() {
                return None;
            }
            if nearest.as_ref().is_none_or(|nearest| failures.len() < nearest.len()) {
                nearest = Some(failures);
            }
        }
        let mut failure = nearest?.into_iter().next()?;
        if self.any.len() > 1 {
            failure.expected.push_str(&format!(" (in the nearest of {} `any` alternatives, none of which fits)", self.any.len()));
        }
        Some(failure)
    }
}

impl FieldClauses {
    fn fits(&self, event: &Envelope) -> bool {
        let value = event.field(&self.field);
        self.clauses.iter().any(|clause| clause.fits(value.as_ref()))
    }

    fn failure(&self, event: &Envelope) -> ClauseFailure {
        let value = event.field(&self.field);
        let hint = hint::of(&self.field, &self.clauses, value.as_ref(), event);
        let actual = value.map(|value| match value {
            Field::Text(text) => show::text(&text),
            Field::Value(value) => show::value(value),
        });
        let looked_in = if actual.is_none() { event.places_of(&self.field) } else { Vec::new() };
        ClauseFailure { field: show::plain(self.field.as_str()), expected: clause::expected(&self.clauses), actual, passed: 0, clauses: 0, looked_in, hint }
    }
}

impl Serialize for EventFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in &self.fields {
            match field.clauses.as_slice() {
                [clause] => map.serialize_entry(field.field.as_str(), &clause.to_value())?,
                clauses => map.serialize_entry(field.field.as_str(), &clauses.iter().map(Clause::to_value).collect::<Vec<_>>())?,
            }
        }
        if !self.any.is_empty() {
            map.serialize_entry("any", &self.any)?;
        }
        map.end()
    }
}

/// As JSON; compiling that gives the same filter.
impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
