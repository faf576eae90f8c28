//! What secrets look like: tokens of well-known services, private keys, credentials in headers, URLs and assignments; recognised by hand,
//! without regular expressions, so that the hook and the router find the same by the same code.
//!
//! A shape must be recognisable by itself; guessing by randomness is left out on purpose, since commit hashes and ids would fall to it.
//! [`found`] is where to start reading: one look at the text says which shapes may stand in it (`hints.rs`), and only those are looked for
//! (`shapes.rs`), each in a search that is linear in the text. Whoever has rules of his own adds what they find and calls [`settled`].
//!
//! The shapes stand once more as patterns, in the tests, where both are held against each other on planted and on arbitrary texts.

mod hints;
mod judging;
mod marker;
mod shapes;

use std::ops::Range;

pub use judging::key_names_secret;
pub use marker::{is_marker, marker};

/// A secret in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its bytes; what stands around it (the name in an assignment) is left.
    pub range: Range<usize>,
    /// What it is, for the marker.
    pub kind: &'static str,
}

/// Whatever fits a shape: neither in order, nor without overlaps, nor without what an earlier redaction left. See [`settled`].
#[must_use]
pub fn found(text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    shapes::look_for(hints::of(text), text, &mut found);
    found
}

/// Findings in order, without overlaps (an operator's pattern may take in more than a shape did), and without those within a marker.
#[must_use]
pub fn settled(text: &str, mut found: Vec<Finding>) -> Vec<Finding> {
    if found.is_empty() {
        return found;
    }
    let markers = marker::ranges(text);
    if !markers.is_empty() {
        // Both are few; a finding within a marker is what an earlier redaction left.
        found.retain(|finding| {
            let before = markers.partition_point(|marker| marker.start <= finding.range.start);
            before == 0 || markers[before - 1].end < finding.range.end
        });
    }
    found.sort_by_key(|finding| (finding.range.start, finding.range.end));
    let mut united: Vec<Finding> = Vec::with_capacity(found.len());
    for finding in found {
        match united.last_mut() {
            Some(last) if finding.range.start < last.range.end => last.range.end = last.range.end.max(finding.range.end),
            _ => united.push(finding),
        }
    }
    united
}
