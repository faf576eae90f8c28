//! Many patterns asked at once.

use crate::{RoutingKey, RoutingPattern};

/// Patterns and what they lead to. Matching costs by the key's length, not by the number of patterns.
#[derive(Debug, Clone, Default)]
pub struct PatternTrie<T> {
    entries: Vec<(RoutingPattern, T)>,
}

impl<T: Copy + Ord> PatternTrie<T> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds a pattern; the same value may stand behind several patterns.
    pub fn insert(&mut self, pattern: &RoutingPattern, value: T) {
        self.entries.push((pattern.clone(), value));
    }

    /// The values of all patterns that `key` fits, sorted, each once.
    #[must_use]
    pub fn matches(&self, key: &RoutingKey) -> Vec<T> {
        let _ = key;
        todo!()
    }
}
