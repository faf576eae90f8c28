//! "Did you mean": the nearest of some known names, for messages about configuration.

/// The candidate that `name` was probably meant to be, if one is near enough.
///
/// Case, and `-` against `_`, count as nothing; a transposition counts as one slip. A third of the letters may be wrong, so a
/// name of two letters has no near ones. Of equally near candidates the first wins.
///
/// ```
/// let fields = ["tool_name", "file_path"];
/// assert_eq!(router_api::suggest("tool_nam", &fields), Some("tool_name"));
/// assert_eq!(router_api::suggest("branch", &fields), None);
/// ```
pub fn suggest<'a, T>(name: &str, candidates: impl IntoIterator<Item = &'a T>) -> Option<&'a str>
where
    T: AsRef<str> + ?Sized + 'a,
{
    let name = folded(name)?;
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in candidates {
        let candidate = candidate.as_ref();
        let Some(letters) = folded(candidate) else { continue };
        let allowed = name.len().max(letters.len()) / 3;
        let distance = distance(&name, &letters);
        if distance <= allowed && best.is_none_or(|(nearest, _)| distance < nearest) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// How many letters are wrong, counted as [`suggest`] does. `usize::MAX` for names that are too long to be compared.
#[must_use]
pub fn slips(left: &str, right: &str) -> usize {
    match (folded(left), folded(right)) {
        (Some(left), Some(right)) => distance(&left, &right),
        _ => usize::MAX,
    }
}

/// What is longer was no slip of the finger, and the table of distances stays small.
const CHARS_MAX: usize = 128;

fn folded(text: &str) -> Option<Vec<char>> {
    let letters: Vec<char> = text.chars().take(CHARS_MAX + 1).flat_map(char::to_lowercase).map(|letter| if letter == '-' { '_' } else { letter }).collect();
    (!letters.is_empty() && letters.len() <= CHARS_MAX).then_some(letters)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(left: &[char], right: &[char]) -> usize {
    let width = right.len() + 1;
    let mut rows = [vec![0; width], vec![0; width], (0..width).collect::<Vec<usize>>()];
    for (i, a) in left.iter().enumerate() {
        rows.rotate_left(1);
        rows[2][0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = rows[1][j] + usize::from(a != b);
            let mut least = replaced.min(rows[1][j + 1] + 1).min(rows[2][j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                least = least.min(rows[0][j - 1] + 1);
            }
            rows[2][j + 1] = least;
        }
    }
    rows[2][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apart(left: &str, right: &str) -> usize {
        distance(&left.chars().collect::<Vec<_>>(), &right.chars().collect::<Vec<_>>())
    }

    #[test]
    fn slips_are_counted_and_a_swap_is_one() {
        assert_eq!(apart("", "abc"), 3);
        assert_eq!(apart("abc", ""), 3);
        assert_eq!(apart("suffix", "suffix"), 0);
        assert_eq!(apart("sufix", "suffix"), 1);
        assert_eq!(apart("prefxi", "prefix"), 1);
        assert_eq!(apart("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_candidate_wins_and_far_ones_are_not_offered() {
        let names = ["timeout_ms", "drain_ms", "name"];
        assert_eq!(suggest("timeout-ms", &names), Some("timeout_ms"));
        assert_eq!(suggest("TimeoutMs", &names), Some("timeout_ms"));
        assert_eq!(suggest("nmae", &names), Some("name"));
        assert_eq!(suggest("prefetch", &names), None);
        assert_eq!(suggest("", &names), None);
    }

    #[test]
    fn every_usual_kind_of_candidate_list_is_taken() {
        let owned = vec!["alpha".to_owned()];
        let map = std::collections::BTreeMap::from([("alpha".to_owned(), 1)]);
        assert_eq!(suggest("alpah", &owned), Some("alpha"));
        assert_eq!(suggest("alpah", map.keys()), Some("alpha"));
        assert_eq!(suggest("alpah", ["alpha"]), Some("alpha"));
    }

    #[test]
    fn slips_of_names_fold_case_and_dashes() {
        assert_eq!((slips("Anything_But", "anything-but"), slips("sufix", "suffix"), slips("", "a")), (0, 1, usize::MAX));
    }

    #[test]
    fn a_megabyte_of_name_has_no_suggestion() {
        assert_eq!(suggest(&"a".repeat(1 << 20), &["a"]), None);
    }
}
