//! Which texts can be the name of a branch.

/// In bytes: git keeps a branch in a file of its name.
const BYTES_MAX: usize = 200;

/// The branch that an event names; `None` for what producers send where there is none.
pub(super) fn of_event(text: Option<&str>) -> Option<&str> {
    let branch = text.map(|text| text.strip_prefix("refs/heads/").unwrap_or(text))?;
    (!matches!(branch, "" | "unknown" | "HEAD")).then_some(branch)
}

/// By git's own rules (`git check-ref-format --branch`), and stricter where a name could be taken for something else: by a program for
/// an option, by a person for another name.
///
/// # Errors
///
/// Why it can be none.
pub(super) fn check(branch: &str) -> Result<(), String> {
    let refused = |why: &str| Err(format!("`{}` can be no branch: {why}", shown(branch)));
    if branch.len() > BYTES_MAX {
        return refused(&format!("it is {} bytes long, {BYTES_MAX} are the limit", branch.len()));
    }
    if branch.starts_with('-') {
        return refused("it would be taken for an option");
    }
    if branch.chars().any(|c| c.is_control() || c.is_whitespace() || is_hidden(c)) {
        return refused("it has white space, control or hidden characters");
    }
    if branch.contains(['~', '^', ':', '?', '*', '[', '\\']) || branch.contains("..") || branch.contains("@{") || branch == "@" {
        return refused("it has characters that mean something else to git");
    }
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.ends_with(".lock");
    if !branch.split('/').all(is_part) {
        return refused("between its slashes is an empty part, or one that begins or ends with a dot or `.lock`");
    }
    Ok(())
}

/// Changes what a person reads without being seen: no width, or another direction.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// For a sentence: short, and with nothing in it that a terminal obeys.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut shown: String =
        text.chars().take(CHARS_MAX).flat_map(|c| if is_hidden(c) { c.escape_unicode().collect::<Vec<_>>() } else { c.escape_debug().collect() }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_producers_send_without_a_branch_is_none() {
        for none in [None, Some(""), Some("unknown"), Some("HEAD"), Some("refs/heads/HEAD")] {
            assert_eq!(of_event(none), None, "{none:?}");
        }
        assert_eq!((of_event(Some("refs/heads/feat/x")), of_event(Some("main"))), (Some("feat/x"), Some("main")));
    }

    #[test]
    fn branches_are_taken_and_what_git_or_a_person_would_misread_is_not() {
        for good in ["main", "feat/auth", "fix-1.2_3", "a/b/c", "größe/ü", "ветка", "user@host", "$(id)", "a;b", "it's", "a`b`", "a\"b", "x{y}", "%2e"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "-x",
            "--upload-pack=x",
            "a b",
            "a\nb",
            "a\tb",
            "a\0b",
            "a\u{7f}b",
            "a..b",
            "../x",
            "/abs",
            "x/",
            "a//b",
            ".hidden",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "@",
            "a@{1}",
            "a~1",
            "a^",
            "a:b",
            "a?b",
            "a*b",
            "a[b",
            "a\\b",
            "feat/\u{202e}htua",
            "ma\u{200b}in",
            "a\u{3000}b",
            "\u{feff}main",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&"x".repeat(BYTES_MAX)).is_ok());
        let error = check(&"x".repeat(1 << 20)).unwrap_err();
        assert!(error.len() < 300, "{}", error.len());
        assert!(check("a\u{202e}\u{1b}[31m").unwrap_err().contains("a\\u{202e}\\u{1b}[31m"));
    }
}
