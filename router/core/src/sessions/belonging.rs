//! What sessions have in common: the project, the ticket, and branches that say something.

/// Branches that everybody works on; to be on one of them is nothing that two sessions have in common.
const SHARED: [&str; 7] = ["main", "master", "trunk", "develop", "development", "staging", "production"];

/// The name of the repository; without a remote, the last part of the directory.
pub(super) fn project(git_remote: Option<&str>, working_directory: Option<&str>) -> Option<String> {
    let last = |path: &str, separators: &[char]| path.trim_end_matches('/').rsplit(separators).next().filter(|name| !name.is_empty()).map(str::to_owned);
    let remote = git_remote.and_then(|remote| last(remote.trim_end_matches('/').trim_end_matches(".git"), &['/', ':']));
    remote.or_else(|| working_directory.and_then(|directory| last(directory, &['/', '\\'])))
}

/// The branch, unless everybody works on it.
pub(super) fn own_branch(branch: Option<&str>) -> Option<&str> {
    branch.filter(|branch| !SHARED.contains(branch))
}

/// The ticket that a branch or a feature names: `GOD-25` anywhere in it, or a number that stands where one stands for a ticket (`#12`,
/// `issue-12`, `12-what-it-is`).
pub(super) fn ticket(text: Option<&str>) -> Option<String> {
    let text = text?;
    let words: Vec<&str> = text.split(['/', '_', ' ', ':']).collect();
    words.iter().find_map(|word| keyed(word)).or_else(|| words.iter().find_map(|word| numbered(word)))
}

/// `GOD-25`, with what follows.
fn keyed(word: &str) -> Option<String> {
    let parts: Vec<&str> = word.split('-').collect();
    parts.windows(2).find_map(|pair| {
        let is_key = (2..=10).contains(&pair[0].len())
            && pair[0].starts_with(|c: char| c.is_ascii_uppercase())
            && pair[0].chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        (is_key && is_number(pair[1])).then(|| format!("{}-{}", pair[0], pair[1]))
    })
}

fn numbered(word: &str) -> Option<String> {
    if let Some(number) = word.strip_prefix('#').or_else(|| word.strip_prefix("gh-")) {
        return is_number(number).then(|| format!("#{number}"));
    }
    let mut parts = word.split('-');
    let first = parts.next()?;
    let number = if matches!(first, "issue" | "ticket" | "bug") { parts.next()? } else { parts.next().map(|_| first)? };
    is_number(number).then(|| format!("#{number}"))
}

fn is_number(text: &str) -> bool {
    (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_named_by_its_repository_or_its_directory() {
        for (remote, directory, name) in [
            (Some("git@github.com:user/repo.git"), Some("/home/user/elsewhere"), Some("repo")),
            (Some("https://github.com/user/repo.git/"), None, Some("repo")),
            (Some("host:repo"), None, Some("repo")),
            (None, Some("/home/user/p/"), Some("p")),
            (None, Some("C:\\work\\p"), Some("p")),
            (Some(""), Some("/"), None),
            (None, None, None),
        ] {
            assert_eq!(project(remote, directory).as_deref(), name, "{remote:?} {directory:?}");
        }
    }

    #[test]
    fn a_ticket_is_read_where_people_write_it() {
        for (text, named) in [
            ("GOD-25", Some("GOD-25")),
            ("feature/GOD-25-login", Some("GOD-25")),
            ("fix/login-A1B-7", Some("A1B-7")),
            ("feature/#12", Some("#12")),
            ("issue-12-login", Some("#12")),
            ("12-login", Some("#12")),
            ("feature/auth", None),
            ("release-2026", None),
            ("utf-8-reader", None),
            ("v2-3", None),
            ("2026", None),
            ("", None),
        ] {
            assert_eq!(ticket(Some(text)).as_deref(), named, "{text}");
        }
    }

    #[test]
    fn a_branch_that_everybody_works_on_says_nothing() {
        assert_eq!((own_branch(Some("main")), own_branch(Some("feature/auth"))), (None, Some("feature/auth")));
    }
}
