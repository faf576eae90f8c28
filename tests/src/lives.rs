//! What a program did in each of its lives, as a log says that all of them wrote, and what a death made the next ones do again.
//!
//! What a handler's own process writes may come after the death of the program that began it. So a line says itself of which life it is.

use std::collections::{BTreeMap, BTreeSet};

/// The variable that says which life of the program it is.
pub const LIFE: &str = "LIFE";

/// One handling that wrote its line: `1,2,3 LANE LIFE`, with the numbers of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// In the order of a burst.
    pub events: Vec<u64>,
    /// Which may be nobody's, as `-`.
    pub lane: String,
    /// Of the program, by [`LIFE`].
    pub life: usize,
}

/// The lines of a log, in its order.
///
/// # Panics
///
/// When a line is not whole.
#[must_use]
pub fn runs(log: &str) -> Vec<Run> {
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [events, lane, life] = words[..] else { return None };
        let events = events.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        Some(Run { events, lane: lane.to_owned(), life: life.parse().ok()? })
    };
    log.lines().map(|line| run(line).unwrap_or_else(|| panic!("a torn line: {line}"))).collect()
}

/// The handlings that were done again, by the life that they were done in first: of each life those of which an event was in a later
/// handling. What no death has repeated is among them too, if it was done twice in one life.
#[must_use]
pub fn repeated(runs: &[Run]) -> BTreeMap<usize, Vec<&Run>> {
    let mut in_order: Vec<&Run> = runs.iter().collect();
    in_order.sort_by_key(|run| run.life);
    let mut later = BTreeSet::new();
    let mut found: BTreeMap<usize, Vec<&Run>> = BTreeMap::new();
    for run in in_order.into_iter().rev() {
        if run.events.iter().any(|number| later.contains(number)) {
            found.entry(run.life).or_default().push(run);
        }
        later.extend(run.events.iter().copied());
    }
    found
}

/// Events that came to a handler more than once in one life, which no death excuses.
#[must_use]
pub fn repeated_without_a_death(runs: &[Run]) -> Vec<(usize, u64)> {
    let mut seen = BTreeSet::new();
    runs.iter().flat_map(|run| run.events.iter().map(|number| (run.life, *number))).filter(|once| !seen.insert(*once)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_again_is_counted_for_the_life_that_did_it_first_however_late_its_line_comes() {
        // The last line of the first life comes after its death.
        let log = runs("1 a 1\n2,3 b 1\n1 a 2\n4 a 1\n4 a 2\n2,3 b 3\n5 a 3\n");
        let of = |life: usize| repeated(&log).get(&life).map_or(0, Vec::len);
        assert_eq!([of(1), of(2), of(3)], [3, 0, 0]);
        assert!(repeated_without_a_death(&log).is_empty());
    }

    #[test]
    fn what_is_done_twice_in_one_life_is_found() {
        let log = runs("1 a 1\n2 a 1\n1 a 1\n");
        assert_eq!(repeated_without_a_death(&log), [(1, 1)]);
        assert_eq!(repeated(&log)[&1].len(), 1);
    }

    #[test]
    #[should_panic(expected = "a torn line: 1,2 a")]
    fn a_torn_line_is_no_handling() {
        let _ = runs("1,2 a\n");
    }
}
