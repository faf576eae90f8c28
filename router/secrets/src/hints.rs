//! One look at a text says which shapes may stand in it, so that most texts are done with after it.
//!
//! Every shape begins with, or has in it, one of few words. A table of pairs of bytes passes over the places where none of them begins.

use crate::shapes::{ASSIGNMENT, AWS, BASIC, BEARER, GITHUB, GITLAB, GOOGLE, JWT, NPM, PEM, SK, SLACK, SLACK_HOOK, STRIPE, URL, caseless, secret_name};

/// Shapes that may stand in a text, a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hints(u32);

impl Hints {
    #[cfg(test)]
    pub(crate) const ALL: Self = Self(u32::MAX);

    pub(crate) fn has(self, shape: u32) -> bool {
        self.0 & shape != 0
    }
}

/// What a shape cannot be without, as it is written.
const WORDS: [(&str, u32); 21] = [
    ("AKIA", AWS),
    ("ASIA", AWS),
    ("ABIA", AWS),
    ("ACCA", AWS),
    ("ghp_", GITHUB),
    ("gho_", GITHUB),
    ("ghu_", GITHUB),
    ("ghs_", GITHUB),
    ("ghr_", GITHUB),
    ("github_pat_", GITHUB),
    ("xox", SLACK),
    ("xapp-", SLACK),
    ("hooks.slack.com/services/", SLACK_HOOK),
    ("sk-", SK),
    ("AIza", GOOGLE),
    ("ya29.", GOOGLE),
    ("glpat-", GITLAB),
    ("npm_", NPM),
    ("eyJ", JWT),
    ("-----BEGIN ", PEM),
    ("://", URL),
];
const STRIPES: [&str; 2] = ["sk_", "rk_"];
/// And in any case: the first two letters of each, as bytes. A long s is an s.
const CASELESS: [&str; 8] = ["be", "ba", "pa", "se", "to", "ap", "ac", "pr"];
const LONG_S: [u8; 2] = [0xc5, 0xbf];
/// What those words begin with as far as their first four bytes are letters: most words with the same two letters are told from them by that.
const CASELESS_HEADS: [&[u8]; 8] = [b"bear", b"basi", b"pass", b"secr", b"toke", b"api", b"acce", b"priv"];

/// A bit for each pair of bytes with which a word begins.
static PAIRS: [u64; 1024] = pairs();

const fn pairs() -> [u64; 1024] {
    let mut table = [0; 1024];
    let mut at = 0;
    while at < WORDS.len() {
        let word = WORDS[at].0.as_bytes();
        table = with(table, word[0], word[1]);
        at += 1;
    }
    at = 0;
    while at < STRIPES.len() {
        let word = STRIPES[at].as_bytes();
        table = with(table, word[0], word[1]);
        at += 1;
    }
    at = 0;
    while at < CASELESS.len() {
        let word = CASELESS[at].as_bytes();
        let (first, second) = (word[0], word[1]);
        table = with(table, first, second);
        table = with(table, first.to_ascii_uppercase(), second);
        table = with(table, first, second.to_ascii_uppercase());
        table = with(table, first.to_ascii_uppercase(), second.to_ascii_uppercase());
        at += 1;
    }
    with(table, LONG_S[0], LONG_S[1])
}

const fn with(mut table: [u64; 1024], first: u8, second: u8) -> [u64; 1024] {
    let pair = (first as usize) << 8 | second as usize;
    table[pair / 64] |= 1 << (pair % 64);
    table
}

/// The shapes that may stand in `text`.
pub(crate) fn of(text: &str) -> Hints {
    let mut hints = 0;
    let bytes = text.as_bytes();
    for (at, pair) in bytes.windows(2).enumerate() {
        let number = usize::from(pair[0]) << 8 | usize::from(pair[1]);
        if PAIRS[number / 64] >> (number % 64) & 1 == 1 {
            // A pair begins with a character of one byte, or is the whole of a long s.
            hints |= at_place(&text[at..], pair, hints);
        }
    }
    Hints(hints)
}

/// `pair` is what `rest` begins with.
fn at_place(rest: &str, pair: &[u8], known: u32) -> u32 {
    let mut hints = 0;
    for (word, shape) in WORDS {
        if word.as_bytes()[..2] == *pair && known & shape == 0 && rest.starts_with(word) {
            hints |= shape;
        }
    }
    if !may_be_caseless(rest.as_bytes()) {
        return hints | stripe(rest, known);
    }
    for (word, shape) in [("bearer", BEARER), ("basic", BASIC)] {
        if known & shape == 0 && caseless(rest, word).is_some() {
            hints |= shape;
        }
    }
    if known & ASSIGNMENT == 0 && secret_name(rest).is_some() {
        hints |= ASSIGNMENT;
    }
    hints | stripe(rest, known)
}

fn stripe(rest: &str, known: u32) -> u32 {
    if known & STRIPE == 0 && STRIPES.iter().any(|word| rest.starts_with(word)) { STRIPE } else { 0 }
}

/// False where none of the words begins that are written in any case.
fn may_be_caseless(rest: &[u8]) -> bool {
    let head = &rest[..rest.len().min(4)];
    // Letters beyond ASCII may be letters of a word.
    !head.is_ascii() || CASELESS_HEADS.iter().any(|word| head.len() >= word.len() && head[..word.len()].eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shapes;

    proptest! {
        #[test]
        fn what_is_not_hinted_at_is_not_there(
            parts in prop::collection::vec(prop_oneof![
                prop::sample::select(WORDS.map(|(word, _)| word).to_vec()).prop_map(str::to_owned),
                prop::sample::select(vec!["Bearer ", "BASIC ", "ba\u{17f}ic ", "pa\u{17f}\u{17f}word=", "\u{17f}ecret=", "to\u{212a}en: '", "API-KEY=", "sk_live_", "rk_test_", "PRIVATE KEY-----"]).prop_map(str::to_owned),
                "[A-Za-z0-9_=-]{4,40}",
                "user:[a-z0-9]{6,12}@host",
                "dXNlcjpodW50ZXIy",
                "\\PC{0,4}",
            ], 1..8)
        ) {
            let text = parts.concat();
            let (mut hinted, mut all) = (Vec::new(), Vec::new());
            shapes::look_for(of(&text), &text, &mut hinted);
            shapes::look_for(Hints::ALL, &text, &mut all);
            prop_assert_eq!(hinted, all);
        }
    }
}
