//! A pattern, a line's end, and a routing key: the matcher, the trie and the meaning of patterns agree.

use router_api::{PatternTrie, RoutingKey, RoutingPattern};

/// Words up to which [`naive`] is asked; it is exponential in `#`.
const NAIVE_WORDS_MAX: usize = 9;

/// The meaning of a pattern in its fewest words; slow.
#[must_use]
pub fn naive(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((&"#", rest)), None) => naive(rest, key),
        (Some((&"#", rest)), Some((_, shorter))) => naive(rest, key) || naive(pattern, shorter),
        (Some(_), None) => false,
        (Some((wanted, rest)), Some((word, shorter))) => (*wanted == "*" || wanted == word) && naive(rest, shorter),
    }
}

/// The words of a pattern or key: none in an empty one.
#[must_use]
pub fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

pub(super) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern_text, key_text) = text.split_once('\n').unwrap_or((text, "a.b"));
    let (Ok(pattern), Ok(key)) = (pattern_text.parse::<RoutingPattern>(), RoutingKey::new(key_text)) else { return };
    assert_eq!(key.as_str(), key_text);
    let matches = pattern.matches(&key);
    let mut trie = PatternTrie::new();
    trie.insert(&"never.*.this".parse().expect("a pattern"), 1);
    trie.insert(&pattern, 2);
    assert_eq!(trie.matches(&key).contains(&2), matches, "the trie and the pattern");
    let (pattern_words, key_words) = (words(pattern_text), words(key_text));
    if pattern_words.len() <= NAIVE_WORDS_MAX && key_words.len() <= NAIVE_WORDS_MAX {
        assert_eq!(matches, naive(&pattern_words, &key_words), "the matcher and the meaning");
    }
}
