//! How far a pattern is from fitting a key, and why, in one sentence.

use router_api::{RoutingKey, RoutingPattern, suggest::slips};

use crate::filter::show;

/// Why a pattern does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    /// 0 fits.
    pub(super) distance: u32,
    pub(super) reason: String,
}

/// A word that is missing, too many, or another one altogether.
pub(super) const OTHER: u32 = 6;
/// A word that may be a slip of the pen.
const SLIP: u32 = 2;
/// A word in another case.
const CASE: u32 = 1;

/// One step of the best way to lay the words of pattern and key beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fits,
    /// The key's word is another one than the pattern's.
    Differs,
    /// The pattern's word has none in the key.
    Missing,
    /// The key's word has none in the pattern.
    Extra,
    /// `#` takes no more words.
    HashEnds,
    /// `#` takes the key's word.
    HashTakes,
}

pub(super) fn misfit(pattern: &RoutingPattern, key: &RoutingKey) -> Misfit {
    let wanted: Vec<&str> = pattern.words().collect();
    let words: Vec<&str> = key.words().collect();
    let (distance, steps) = align(&wanted, &words);
    Misfit { distance, reason: reason(pattern, key, &wanted, &words, &steps) }
}

/// Costs at most the product of both lengths, 256 each.
fn align(wanted: &[&str], words: &[&str]) -> (u32, Vec<(Step, usize, usize)>) {
    let width = words.len() + 1;
    // Of the rest of the pattern from `i` and the rest of the key from `j`: what laying them side by side costs, and its first step.
    let mut table = vec![(0_u32, Step::Fits); (wanted.len() + 1) * width];
    for i in (0..=wanted.len()).rev() {
        for j in (0..=words.len()).rev() {
            let cost = |i: usize, j: usize| table[i * width + j].0;
            let mut ways: [Option<(u32, Step)>; 3] = [None; 3];
            match (wanted.get(i), words.get(j)) {
                (None, None) => continue,
                (Some(&"#"), word) => {
                    ways[0] = Some((cost(i + 1, j), Step::HashEnds));
                    ways[1] = word.map(|_| (cost(i, j + 1), Step::HashTakes));
                }
                (wanted, word) => {
                    if let (Some(wanted), Some(word)) = (wanted, word) {
                        let own = difference(wanted, word);
                        ways[0] = Some((cost(i + 1, j + 1) + own, if own == 0 { Step::Fits } else { Step::Differs }));
                    }
                    ways[1] = wanted.map(|_| (cost(i + 1, j) + OTHER, Step::Missing));
                    ways[2] = word.map(|_| (cost(i, j + 1) + OTHER, Step::Extra));
                }
            }
            if let Some(best) = ways.into_iter().flatten().min_by_key(|(cost, _)| *cost) {
                table[i * width + j] = best;
            }
        }
    }
    let mut steps = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < wanted.len() || j < words.len() {
        let step = table[i * width + j].1;
        steps.push((step, i, j));
        let (down, right) = match step {
            Step::Fits | Step::Differs => (1, 1),
            Step::Missing | Step::HashEnds => (1, 0),
            Step::Extra | Step::HashTakes => (0, 1),
        };
        (i, j) = (i + down, j + right);
    }
    (table[0].0, steps)
}

fn difference(wanted: &str, word: &str) -> u32 {
    if wanted == "*" || wanted == word {
        0
    } else if wanted.to_lowercase() == word.to_lowercase() {
        CASE
    } else if is_slip(wanted, word) {
        SLIP
    } else {
        OTHER
    }
}

fn is_slip(wanted: &str, word: &str) -> bool {
    slips(wanted, word) <= wanted.len().min(word.len()) / 4
}

fn reason(pattern: &RoutingPattern, key: &RoutingKey, wanted: &[&str], words: &[&str], steps: &[(Step, usize, usize)]) -> String {
    let quoted = |word: &str| if word.is_empty() { "empty".to_owned() } else { format!("`{}`", show::plain(word)) };
    let hashes = wanted.iter().filter(|word| **word == "#").count();
    let least = wanted.len() - hashes;
    let count = if hashes == 0 && words.len() != least {
        Some(format!("the key has {}, the pattern wants {least}", counted(words.len())))
    } else if words.len() < least {
        Some(format!("the key has {}, the pattern wants at least {least}", counted(words.len())))
    } else {
        None
    };
    let differs = steps.iter().find(|(step, ..)| *step == Step::Differs).map(|&(_, i, j)| {
        let (want, word) = (wanted[i], words[j]);
        let hint = match difference(want, word) {
            CASE => " (keys are case-sensitive)",
            SLIP => " (a slip of the pen?)",
            _ => "",
        };
        format!("word {} is {}, the pattern wants {}{hint}", j + 1, quoted(word), quoted(want))
    });
    let odd = || {
        steps.iter().find_map(|&(step, i, j)| match step {
            Step::Missing if j == 0 => Some(format!("it wants {} first", quoted(wanted[i]))),
            Step::Missing if wanted[i] == "*" => Some(format!("nothing is behind word {j} for `*`")),
            Step::Missing => Some(format!("it wants {} behind word {j}", quoted(wanted[i]))),
            Step::Extra => Some(format!("word {}, {}, has no place in it", j + 1, quoted(words[j]))),
            _ => None,
        })
    };
    let mut reason = match (differs, count) {
        (Some(differs), Some(count)) => format!("{differs}; and {count}"),
        (Some(differs), None) => differs,
        (None, Some(count)) => match odd() {
            Some(odd) => format!("{count}: {odd}"),
            None => count,
        },
        (None, None) => odd().unwrap_or_else(|| "its words do not follow each other so".to_owned()),
    };
    if let Some(wider) = wider(pattern, key) {
        reason.push_str(&format!(" (`*` is one word, `#` any number: `{wider}` would fit)"));
    }
    reason
}

/// The pattern with `#` at its end, if that is all it lacks.
fn wider(pattern: &RoutingPattern, key: &RoutingKey) -> Option<RoutingPattern> {
    let text = pattern.as_str();
    let stem = text.strip_suffix(".*").unwrap_or(text);
    let wider: RoutingPattern = format!("{stem}.#").parse().ok()?;
    (!stem.is_empty() && wider.matches(key)).then_some(wider)
}

fn counted(words: usize) -> String {
    if words == 1 { "1 word".to_owned() } else { format!("{words} words") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pattern: &str, key: &str) -> Misfit {
        misfit(&pattern.parse().unwrap(), &key.parse().unwrap())
    }

    #[test]
    fn a_pattern_that_fits_is_at_no_distance_and_no_other_one_is() {
        let words = ["", "a", "a.b", "a.b.c", "b.a", ".", "a..b", "x.a.b"];
        let patterns = ["", "#", "*", "a", "a.#", "#.b", "a.*.c", "#.a.#", "*.#.*", "a..b", "#.#.x", "."];
        for pattern in patterns {
            for key in words {
                let fits = pattern.parse::<RoutingPattern>().unwrap().matches(&key.parse().unwrap());
                assert_eq!(of(pattern, key).distance == 0, fits, "`{pattern}` and `{key}`");
            }
        }
    }

    #[test]
    fn the_reason_names_the_word_or_the_count() {
        for (pattern, key, reason) in [
            ("session.thread.end", "session.thread.start", "word 3 is `start`, the pattern wants `end`"),
            (
                "session.thread.agent.*",
                "session.thread.agent.action.x",
                "the key has 5 words, the pattern wants 4: word 5, `x`, has no place in it (`*` is one word, `#` any number: `session.thread.agent.#` would fit)",
            ),
            (
                "tool.mutation.*",
                "tool.mutation",
                "the key has 2 words, the pattern wants 3: nothing is behind word 2 for `*` (`*` is one word, `#` any number: `tool.mutation.#` would fit)",
            ),
            ("session.thread.agent.*", "session.thread.end", "the key has 3 words, the pattern wants 4: it wants `agent` behind word 2"),
            (
                "session.thread.agent.action",
                "session.message.start",
                "word 2 is `message`, the pattern wants `thread`; and the key has 3 words, the pattern wants 4",
            ),
            ("Session.thread.end", "session.thread.end", "word 1 is `session`, the pattern wants `Session` (keys are case-sensitive)"),
            ("sesion.thread.end", "session.thread.end", "word 1 is `session`, the pattern wants `sesion` (a slip of the pen?)"),
            ("#.end", "session.thread.start", "word 3 is `start`, the pattern wants `end`"),
            ("a.#.b.c", "a", "the key has 1 word, the pattern wants at least 3: it wants `b` behind word 1"),
            ("a.b", "a.", "word 2 is empty, the pattern wants `b`"),
            ("a.b", "", "the key has 0 words, the pattern wants 2: it wants `a` first"),
        ] {
            assert_eq!(of(pattern, key).reason, reason, "`{pattern}` and `{key}`");
        }
    }

    #[test]
    fn nearer_patterns_are_nearer() {
        let key = "session.thread.agent.action";
        let order = ["session.thread.Agent.action", "session.thread.agnet.action", "session.thread.agent", "session.thread", "tool.mutation.write.x.y"];
        let distances: Vec<u32> = order.iter().map(|pattern| of(pattern, key).distance).collect();
        assert!(distances.is_sorted_by(|left, right| left < right), "{distances:?}");
    }

    #[test]
    fn the_longest_key_and_pattern_are_told_apart_in_time() {
        let misfit = of(&("#.a.".repeat(63) + "x"), &("a.".repeat(127) + "a"));
        assert_eq!(misfit.distance, OTHER);
    }
}
