//! Many patterns asked at once: a trie over words. One pattern alone: [`RoutingPattern::matches`].

use std::collections::HashMap;

use crate::{RoutingKey, RoutingPattern};

/// Patterns and what they lead to. Matching costs by the key's length and the wildcards that its words meet, not by the number of
/// patterns; several `#` in a pattern cost their number, no more.
#[derive(Debug, Clone)]
pub struct PatternTrie<T> {
    /// The first one is the root.
    nodes: Vec<Node<T>>,
}

#[derive(Debug, Clone)]
struct Node<T> {
    words: HashMap<Box<str>, usize>,
    /// After one word, whichever.
    star: Option<usize>,
    /// After any number of words. A node behind `#` has no such child: `#.#` is stored as `#`, which means the same.
    hash: Option<usize>,
    values: Vec<T>,
}

impl<T> Node<T> {
    fn new() -> Self {
        Self { words: HashMap::new(), star: None, hash: None, values: Vec::new() }
    }
}

const ROOT: usize = 0;

impl<T> Default for PatternTrie<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::new()] }
    }
}

impl<T: Copy + Ord> PatternTrie<T> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pattern; the same value may stand behind several patterns.
    pub fn insert(&mut self, pattern: &RoutingPattern, value: T) {
        let mut at = ROOT;
        let mut after_hash = false;
        for word in pattern.words() {
            if word == "#" && after_hash {
                continue;
            }
            after_hash = word == "#";
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match word {
                "#" => *node.hash.get_or_insert(fresh),
                "*" => *node.star.get_or_insert(fresh),
                word => *node.words.entry(word.into()).or_insert(fresh),
            };
            if at == fresh {
                self.nodes.push(Node::new());
            }
        }
        let values = &mut self.nodes[at].values;
        if let Err(place) = values.binary_search(&value) {
            values.insert(place, value);
        }
    }

    /// The values of all patterns that `key` fits, sorted, each once.
    #[must_use]
    pub fn matches(&self, key: &RoutingKey) -> Vec<T> {
        let mut found = Vec::new();
        self.each(key, |value| found.push(value));
        found.sort_unstable();
        found
    }

    /// Calls `found` with the value of each pattern that `key` fits, each once and in no order. Allocates nothing but on a thread's first search.
    pub fn each(&self, key: &RoutingKey, found: impl FnMut(T)) {
        // Not borrowed: whoever searches again while he is told does it with places of his own.
        let mut places = PLACES.take();
        self.search(key, &mut places);
        self.values(&places, found);
        PLACES.set(places);
    }

    /// Finds the nodes that the whole key leads to; returns how many were looked at on the way.
    ///
    /// Walks all branches together, word by word. `current` are the nodes reached with exactly the words so far: each has one
    /// parent, so none comes up twice. A node behind `#` stays reached whatever follows, so `hashes` only grows.
    fn search(&self, key: &RoutingKey, places: &mut Places) -> usize {
        let Places { current, next, hashes } = places;
        let mut visited = 1;
        current.clear();
        current.push(ROOT);
        next.clear();
        hashes.clear();
        hashes.extend(self.nodes[ROOT].hash);
        for word in key.words() {
            for &at in current.iter().chain(&*hashes) {
                visited += 1;
                let node = &self.nodes[at];
                if !node.words.is_empty() {
                    next.extend(node.words.get(word));
                }
                next.extend(node.star);
            }
            // Only now, since a `#` behind what this word reached begins with the word that follows.
            for &at in &*next {
                if let Some(hash) = self.nodes[at].hash
                    && let Err(place) = hashes.binary_search(&hash)
                {
                    hashes.insert(place, hash);
                }
            }
            std::mem::swap(current, next);
            next.clear();
        }
        visited
    }

    /// A value that stands at several of the nodes is told at the first one.
    fn values(&self, places: &Places, mut found: impl FnMut(T)) {
        let nodes = || places.current.iter().chain(&places.hashes).map(|&at| &self.nodes[at].values).filter(|values| !values.is_empty());
        for (number, values) in nodes().enumerate() {
            for value in values {
                if !nodes().take(number).any(|earlier| earlier.binary_search(value).is_ok()) {
                    found(*value);
                }
            }
        }
    }
}

/// What a search remembers. Each thread keeps its own from one search to the next, so that none allocates.
#[derive(Debug, Default)]
struct Places {
    current: Vec<usize>,
    next: Vec<usize>,
    hashes: Vec<usize>,
}

thread_local! {
    static PLACES: std::cell::RefCell<Places> = const { std::cell::RefCell::new(Places { current: Vec::new(), next: Vec::new(), hashes: Vec::new() }) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RoutingKey {
        text.parse().unwrap()
    }

    fn trie(patterns: &[&str]) -> PatternTrie<usize> {
        let mut trie = PatternTrie::new();
        for (number, pattern) in patterns.iter().enumerate() {
            trie.insert(&pattern.parse().unwrap(), number);
        }
        trie
    }

    /// Also how many nodes were looked at.
    fn searched(trie: &PatternTrie<usize>, key: &RoutingKey) -> (Vec<usize>, usize) {
        (trie.matches(key), trie.search(key, &mut Places::default()))
    }

    #[test]
    fn values_come_sorted_and_each_once() {
        let mut trie = PatternTrie::new();
        for (pattern, value) in [("#", 7), ("a.*", 3), ("a.#", 7), ("*.b", 1), ("a.b", 3), ("x", 9), ("a.b", 3)] {
            trie.insert(&pattern.parse().unwrap(), value);
        }
        assert_eq!(trie.matches(&key("a.b")), [1, 3, 7]);
        assert_eq!(trie.matches(&key("")), [7]);
        assert_eq!(trie.matches(&key("x")), [7, 9]);
        assert!(PatternTrie::<u8>::new().matches(&key("a")).is_empty());
    }

    #[test]
    fn each_value_is_told_once_and_who_is_told_may_search_again() {
        let trie = trie(&["a.#", "#.b", "*.b", "a.b"]);
        let mut told = Vec::new();
        trie.each(&key("a.b"), |value| told.push((value, trie.matches(&key("a.c")))));
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3].map(|value| (value, vec![0])));
    }

    #[test]
    fn it_agrees_with_each_pattern_alone() {
        let patterns = [
            "",
            ".",
            "#",
            "*",
            "#.#",
            "a",
            "a.#",
            "#.a",
            "a.#.b",
            "#.a.#",
            "*.#",
            "#.*",
            "*.#.*",
            "a.*.b",
            "a..b",
            "a*b",
            "#.a.#.b.#",
            "#.#.#.#.x",
            "a.",
            "*.",
        ];
        let keys =
            ["", ".", "..", "a", "b", "a.", ".a", "a.b", "a.b.b", "a..b", "a.x.b", "x", "a.x", "a*b", "axb", "b.a.c", "x.a.y.b.z", "*", "#", "a.#", "*.b"];
        let trie = trie(&patterns);
        for text in keys {
            let alone: Vec<usize> = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| pattern.parse::<RoutingPattern>().unwrap().matches(&key(text)))
                .map(|(number, _)| number)
                .collect();
            assert_eq!(trie.matches(&key(text)), alone, "key `{text}`");
        }
    }

    #[test]
    fn the_work_is_the_same_for_ten_and_for_ten_thousand_patterns() {
        let families: [fn(usize) -> String; 3] = [|n| format!("a.b.k{n}.end"), |n| format!("*.b.k{n}.*"), |n| format!("#.k{n}.#")];
        for family in families {
            let visits = |count: usize| {
                let patterns: Vec<String> = (0..count).map(family).collect();
                let trie = trie(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
                let (found, visited) = searched(&trie, &key("a.b.k7.end"));
                assert_eq!(found, [7]);
                visited
            };
            assert_eq!(visits(10), visits(10_000));
        }
    }

    #[test]
    fn many_hashes_on_the_longest_key_cost_their_number_and_no_more() {
        let longest = key(&("a.".repeat(127) + "a"));
        let (found, visited) = searched(&trie(&["#.#.#.#.x"]), &longest);
        assert!(found.is_empty());
        assert!(visited <= 128 * 3, "{visited} nodes for one `#`");

        let (found, visited) = searched(&trie(&[&("#.a.".repeat(63) + "x"), &("#.a.".repeat(62) + "a")]), &longest);
        assert_eq!(found, [1]);
        assert!(visited <= 128 * 2 * 64, "{visited} nodes for 63 `#`");
    }
}
