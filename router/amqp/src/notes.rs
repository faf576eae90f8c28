//! What is wrong beside the connections, for operators.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Sentences of one who found something: a long list says how much more there is.
const SENTENCES_MAX: usize = 20;

/// Sentences by who found them.
#[derive(Default)]
pub(crate) struct Notes {
    sentences: Mutex<BTreeMap<&'static str, Vec<String>>>,
}

impl Notes {
    /// Shows `sentences` until `topic` has others; none ends them.
    pub(crate) fn set(&self, topic: &'static str, mut sentences: Vec<String>) {
        let more = sentences.len().saturating_sub(SENTENCES_MAX);
        sentences.truncate(SENTENCES_MAX);
        if more > 0 {
            sentences.push(format!("and {more} more of this kind"));
        }
        self.sentences.lock().unwrap_or_else(PoisonError::into_inner).insert(topic, sentences);
    }

    /// Has `topic` none?
    pub(crate) fn is_quiet(&self, topic: &'static str) -> bool {
        self.sentences.lock().unwrap_or_else(PoisonError::into_inner).get(topic).is_none_or(Vec::is_empty)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<String> {
        self.sentences.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_its_newest_sentences_and_a_long_list_ends() {
        let notes = Notes::default();
        notes.set("routes", vec!["a".to_owned(), "b".to_owned()]);
        assert!(notes.is_quiet("archive") && !notes.is_quiet("routes"));
        notes.set("archive", vec!["c".to_owned()]);
        assert_eq!(notes.all(), ["c", "a", "b"]);
        notes.set("routes", Vec::new());
        assert_eq!(notes.all(), ["c"]);
        assert!(notes.is_quiet("routes"));
        notes.set("routes", (0..30).map(|at| at.to_string()).collect());
        assert_eq!(notes.all().len(), 1 + SENTENCES_MAX + 1);
        assert_eq!(notes.all().last().map(String::as_str), Some("and 10 more of this kind"));
    }
}
