//! The difference of two texts, as people know it: lines with `-` and `+`, and a few of those around them.

use crate::terminal::{BAD, DIM, GOOD, harmless, styled};

/// Unchanged lines that are shown around a change.
const AROUND: usize = 2;

/// Lines of the part that differs; beyond that it is shown as replaced.
const LINES_MAX: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Same,
    Gone,
    New,
}

/// The lines of the difference; none where there is none.
pub(super) fn lines(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let changes = changes(&old, &new);
    let is_near = |at: usize| changes[at.saturating_sub(AROUND)..(at + AROUND + 1).min(changes.len())].iter().any(|(kind, _)| *kind != Kind::Same);
    let mut shown = Vec::new();
    let mut left_out = false;
    for (at, (kind, line)) in changes.iter().enumerate() {
        if !is_near(at) {
            left_out = true;
            continue;
        }
        if std::mem::take(&mut left_out) {
            shown.push(styled(DIM, "  …"));
        }
        let line = harmless(line);
        shown.push(match kind {
            Kind::Same => format!("    {line}"),
            Kind::Gone => styled(BAD, format_args!("  - {line}")),
            Kind::New => styled(GOOD, format_args!("  + {line}")),
        });
    }
    shown
}

fn changes<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Kind, &'t str)> {
    let before = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[before..], &new[before..]);
    let after = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - after], &new_rest[..new_rest.len() - after]);
    let mut all: Vec<_> = old[..before].iter().map(|line| (Kind::Same, *line)).collect();
    if old_middle.len() > LINES_MAX || new_middle.len() > LINES_MAX {
        all.extend(old_middle.iter().map(|line| (Kind::Gone, *line)));
        all.extend(new_middle.iter().map(|line| (Kind::New, *line)));
    } else {
        all.extend(middle(old_middle, new_middle));
    }
    all.extend(old_rest[old_rest.len() - after..].iter().map(|line| (Kind::Same, *line)));
    all
}

/// By the longest common subsequence.
fn middle<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Kind, &'t str)> {
    let width = new.len() + 1;
    let mut longest = vec![0_u32; (old.len() + 1) * width];
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            longest[i * width + j] =
                if left == right { longest[(i + 1) * width + j + 1] + 1 } else { longest[(i + 1) * width + j].max(longest[i * width + j + 1]) };
        }
    }
    let (mut i, mut j, mut all) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            all.push((Kind::Same, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j >= new.len() || (i < old.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            all.push((Kind::Gone, old[i]));
            i += 1;
        } else {
            all.push((Kind::New, new[j]));
            j += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(old: &str, new: &str) -> Vec<String> {
        lines(old, new).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn what_changed_is_shown_with_the_lines_around_it() {
        let old = "a\nb\nc\nd\ne\nf\ng\n";
        assert!(plain(old, old).is_empty());
        assert_eq!(plain(old, &old.replace("e\n", "E\n")), ["  …", "    c", "    d", "  - e", "  + E", "    f", "    g"]);
        assert_eq!(plain("", "a\n"), ["  + a"]);
        assert_eq!(plain("x\na\ny\n", "x\nb\na\nc\ny\n"), ["    x", "  + b", "    a", "  + c", "    y"]);
    }
}
