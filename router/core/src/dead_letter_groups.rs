//! Dead letters by route and failure: ten thousand letters of three causes are three lines.

use std::collections::HashMap;

use router_api::{DeadLetterGroup, DeadLetterGroups, DeadLetterReason, FailureClass, RouteName, StoredDeadLetter};

/// Stands for what differs from letter to letter.
const VARYING: char = '…';

/// Characters of a pattern; what is longer differs in nothing that tells failures apart.
const PATTERN_CHARS_MAX: usize = 300;

/// A number behind one of these words says which failure it is; any other one says which event.
const TELLING: &[&str] = &["code", "status", "signal", "answered", "answers", "http"];

/// Groups letters, which come newest first; so do the groups.
pub(crate) fn group(letters: &[StoredDeadLetter]) -> DeadLetterGroups {
    let mut places: HashMap<(RouteName, DeadLetterReason, Option<FailureClass>, String), usize> = HashMap::new();
    let mut groups: Vec<DeadLetterGroup> = Vec::new();
    for StoredDeadLetter { id, letter, .. } in letters {
        let (class, pattern) = (letter.last_class(), pattern(&letter.error));
        let place = *places.entry((letter.route.clone(), letter.reason, class, pattern.clone())).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => {
                group.count += 1;
                group.oldest = group.oldest.min(letter.buried_at);
                // A wall clock that was set back makes the order of the list another than that of the times.
                group.newest = group.newest.max(letter.buried_at);
            }
            None => groups.push(DeadLetterGroup {
                route: letter.route.clone(),
                reason: letter.reason,
                class,
                pattern,
                count: 1,
                oldest: letter.buried_at,
                newest: letter.buried_at,
                sample: id.clone(),
                error: letter.error.clone(),
            }),
        }
    }
    groups.truncate(DeadLetterGroups::GROUPS_MAX);
    DeadLetterGroups { letters: letters.len() as u64, groups }
}

/// What an error has in common with others of its kind: words that carry a digit and paths are left out.
fn pattern(error: &str) -> String {
    let mut out = String::new();
    let mut before = String::new();
    let mut rest = error;
    let mut taken = 0;
    while let Some(first) = rest.chars().next() {
        if taken >= PATTERN_CHARS_MAX {
            break;
        }
        let length = if first.is_alphanumeric() || is_path(rest) { word(rest) } else { first.len_utf8() };
        let (text, after) = rest.split_at(length);
        rest = after;
        if !first.is_alphanumeric() && !is_path(text) {
            out.push(if first.is_whitespace() { ' ' } else { first });
            taken += 1;
            continue;
        }
        let tells = text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit()) && TELLING.contains(&before.as_str());
        let varies = !tells && (is_path(text) || text.chars().any(|c| c.is_ascii_digit()));
        if varies {
            // Two of them beside each other, such as the parts of an unusual id, are as good as one.
            if !out.ends_with(VARYING) {
                out.push(VARYING);
            }
        } else {
            out.push_str(text);
        }
        taken += text.chars().count().min(PATTERN_CHARS_MAX);
        before = text.to_ascii_lowercase();
    }
    out
}

/// Does a path begin here? One of a single part, such as `/`, is none.
fn is_path(text: &str) -> bool {
    ["/", "./", "../", "~/"]
        .iter()
        .any(|start| text.strip_prefix(start).is_some_and(|rest| rest.starts_with(|c: char| c.is_alphanumeric() || "._-".contains(c))))
        || text.split(|c: char| !in_word(c)).next().is_some_and(|word| word.contains('/') && !word.contains("//"))
}

/// Bytes of the word that begins here: letters and digits, and what joins them in ids, times, addresses and paths.
fn word(text: &str) -> usize {
    let end = text.find(|c: char| !in_word(c)).unwrap_or(text.len());
    // What stands at the end of a sentence is not part of its last word.
    let trimmed = text[..end].trim_end_matches(|c: char| !c.is_alphanumeric() && c != '/').len();
    if trimmed == 0 { text.chars().next().map_or(0, char::len_utf8) } else { trimmed }
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || "-_.:/~@+%".contains(c)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use router_api::{AttemptRecord, DeadLetter, RoutingKey};

    use super::*;

    fn letter(id: &str, route: &str, class: Option<FailureClass>, error: &str, at: i64) -> StoredDeadLetter {
        let at = Timestamp::from_second(at).unwrap();
        let history = class.map(|class| AttemptRecord { number: 1, at, class, error: error.to_owned() }).into_iter().collect();
        StoredDeadLetter {
            id: id.to_owned(),
            key: RoutingKey::new("a.b").unwrap(),
            body: "{}".into(),
            stored_at: at,
            seq: None,
            identity: None,
            letter: DeadLetter {
                route: route.parse().unwrap(),
                plugin: "exec".to_owned(),
                reason: DeadLetterReason::Exhausted,
                error: error.to_owned(),
                detail: None,
                attempts: 1,
                history,
                buried_at: at,
                config_hash: String::new(),
                burst: None,
                traceparent: None,
            },
        }
    }

    #[test]
    fn errors_that_differ_in_numbers_ids_and_paths_are_the_same_failure() {
        let same = [
            ["no file `/home/ada/shop/cart.py` at line 17", "no file `/srv/other.py` at line 4"],
            ["event e-17 of session 5f0c2f0e-7d0b-4b52-9a63-2f1f6f3a9c11 is refused", "event e-18 of session aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeee1 is refused"],
            ["no answer since 2026-03-02T09:14:06.900Z", "no answer since 2027-01-01T00:00:00Z"],
            ["connect to 10.0.0.7:8080: refused", "connect to 10.0.0.9:81: refused"],
            ["src/cart.py: bad", "./src/lib/other.py: bad"],
        ];
        for [one, other] in same {
            assert_eq!(pattern(one), pattern(other));
            assert!(pattern(one).contains(VARYING), "{}", pattern(one));
        }
        assert_eq!(pattern("no file `/home/ada/shop/cart.py` at line 17."), "no file `…` at line ….");
    }

    #[test]
    fn what_names_the_failure_stays() {
        for error in ["exit code 65", "the target answered 404", "the input is no JSON object", "and/or", "grün — ✓", "https://example.com/hook answers 502"]
        {
            let expected = if error == "and/or" { "…".to_owned() } else { error.to_owned() };
            assert_eq!(pattern(error), expected);
        }
        assert_ne!(pattern("exit code 1"), pattern("exit code 2"));
        assert_ne!(pattern("the target answered 404"), pattern("the target answered 500"));
    }

    #[test]
    fn any_text_has_a_pattern_of_bounded_length() {
        for error in ["", "/", "//", "...", "~", "\u{0}\u{301}", "…", &"x/".repeat(5_000), &"1 ".repeat(5_000), &"-".repeat(5_000), &"word ".repeat(5_000)] {
            assert!(pattern(error).chars().count() <= 2 * PATTERN_CHARS_MAX, "{error:.20}");
        }
    }

    #[test]
    fn letters_come_together_by_route_reason_class_and_pattern_with_the_newest_as_the_sample() {
        let letters = [
            letter("9", "ci", Some(FailureClass::Error), "item 9 is bad", 90),
            letter("8", "flume", Some(FailureClass::Error), "item 8 is bad", 80),
            letter("7", "ci", Some(FailureClass::Timeout), "item 7 is bad", 70),
            letter("6", "ci", Some(FailureClass::Error), "item 6 is bad", 60),
            letter("5", "ci", None, "item 5 is bad", 50),
        ];
        let grouped = group(&letters);
        assert_eq!(grouped.letters, 5);
        let short: Vec<_> = grouped.groups.iter().map(|group| (group.sample.as_str(), group.count, group.class)).collect();
        assert_eq!(short, [("9", 2, Some(FailureClass::Error)), ("8", 1, Some(FailureClass::Error)), ("7", 1, Some(FailureClass::Timeout)), ("5", 1, None)]);
        assert_eq!((grouped.groups[0].oldest.as_second(), grouped.groups[0].newest.as_second()), (60, 90));
        assert_eq!((grouped.groups[0].error.as_str(), grouped.groups[0].pattern.as_str()), ("item 9 is bad", "item … is bad"));
    }
}
