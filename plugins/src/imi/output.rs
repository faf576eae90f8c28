//! Reads what `git worktree list --porcelain` and `imi … --json` print.

use router_api::{EffectClass, EffectError, excerpt};
use serde_json::Value;

/// The worktrees of a repository, the main one first.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Worktrees(Vec<Worktree>);

#[derive(Debug, Default, PartialEq)]
struct Worktree {
    path: String,
    branch: Option<String>,
    is_bare: bool,
    /// Its directory is gone.
    is_gone: bool,
    /// Git has not finished making it.
    is_begun: bool,
}

impl Worktrees {
    /// From git's porcelain: a paragraph for each worktree, a line for each fact. Facts that later gits add are passed over.
    pub(super) fn read(output: &[u8]) -> Self {
        let mut worktrees: Vec<Worktree> = Vec::new();
        for line in String::from_utf8_lossy(output).lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            match (name, worktrees.last_mut()) {
                ("worktree", _) => worktrees.push(Worktree { path: value.to_owned(), ..Worktree::default() }),
                ("branch", Some(worktree)) => worktree.branch = Some(value.strip_prefix("refs/heads/").unwrap_or(value).to_owned()),
                ("bare", Some(worktree)) => worktree.is_bare = true,
                ("prunable", Some(worktree)) => worktree.is_gone = true,
                ("locked", Some(worktree)) => worktree.is_begun = value == "initializing",
                _ => {}
            }
        }
        Self(worktrees)
    }

    /// Git names the main one first.
    pub(super) fn main(&self) -> Option<&str> {
        self.0.first().map(|worktree| worktree.path.as_str())
    }

    /// Where `branch` is checked out.
    pub(super) fn of(&self, branch: &str) -> Option<&str> {
        self.all_of(branch).find(|worktree| !worktree.is_gone && !worktree.is_begun).map(|worktree| worktree.path.as_str())
    }

    /// A worktree of `branch` is known whose directory is gone, which hinders git from making another one.
    pub(super) fn has_gone(&self, branch: &str) -> bool {
        self.all_of(branch).any(|worktree| worktree.is_gone)
    }

    /// Where a worktree for `branch` was begun and not finished.
    pub(super) fn begun(&self, branch: &str) -> Option<&str> {
        self.all_of(branch).find(|worktree| worktree.is_begun).map(|worktree| worktree.path.as_str())
    }

    fn all_of(&self, branch: &str) -> impl Iterator<Item = &Worktree> {
        self.0.iter().filter(move |worktree| !worktree.is_bare && worktree.branch.as_deref() == Some(branch))
    }
}

/// The directory that iMi answers with: in the last JSON object of its output, after lines for people.
///
/// # Errors
///
/// When there is none, or it tells of a failure: class `Failed`.
pub(super) fn target_of(output: &[u8]) -> Result<String, EffectError> {
    let failed = |message: &str| {
        let mut error = EffectError::new(EffectClass::Failed, message);
        error.detail = Some(excerpt(output));
        error
    };
    let answer = last_object(output).ok_or_else(|| failed("iMi prints no JSON object"))?;
    if answer["success"] != true {
        return Err(failed("iMi tells of a failure in its JSON"));
    }
    let target = ["target_path", "worktree_path"].iter().find_map(|name| answer["data"][*name].as_str());
    target.map(str::to_owned).ok_or_else(|| failed("iMi's JSON names no directory"))
}

fn last_object(output: &[u8]) -> Option<Value> {
    let mut last = None;
    let mut at = 0;
    while at < output.len() {
        let line_end = output[at..].iter().position(|byte| *byte == b'\n').map_or(output.len(), |offset| at + offset + 1);
        let mut next = line_end;
        if output[at] == b'{' {
            let mut objects = serde_json::Deserializer::from_slice(&output[at..]).into_iter::<Value>();
            if let Some(Ok(object)) = objects.next() {
                next = next.max(at + objects.byte_offset());
                last = Some(object);
            }
        }
        at = next;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worktrees_are_found_by_branch_and_gone_ones_are_not() {
        let worktrees = Worktrees::read(
            b"worktree /code/demo/trunk main\nHEAD 1111\nbranch refs/heads/main\n\nworktree /code/demo/feat-auth\nHEAD 2222\nbranch refs/heads/feat/auth\nlocked\n\n\
              worktree /code/demo/detached\nHEAD 3333\ndetached\n\nworktree /code/demo/gone\nHEAD 4444\nbranch refs/heads/gone\nprunable gitdir file points to non-existent location\n\n",
        );
        assert_eq!(worktrees.main(), Some("/code/demo/trunk main"));
        assert_eq!(worktrees.of("feat/auth"), Some("/code/demo/feat-auth"));
        assert_eq!((worktrees.of("gone"), worktrees.of("feat"), worktrees.of("")), (None, None, None));
        assert_eq!((worktrees.has_gone("gone"), worktrees.has_gone("feat/auth"), worktrees.begun("feat/auth")), (true, false, None));
        let begun = Worktrees::read(b"worktree /m\nHEAD 1\nbranch refs/heads/main\n\nworktree /x\nHEAD 1\nbranch refs/heads/x\nlocked initializing\n");
        assert_eq!((begun.of("x"), begun.begun("x")), (None, Some("/x")));
    }

    #[test]
    fn a_bare_repository_comes_first_but_has_no_branch_to_go_to() {
        let worktrees = Worktrees::read(b"worktree /code/demo.git\nbare\n\nworktree /code/demo/main\nHEAD 1\nbranch refs/heads/main\n");
        assert_eq!((worktrees.main(), worktrees.of("main")), (Some("/code/demo.git"), Some("/code/demo/main")));
    }

    #[test]
    fn no_output_is_no_worktree() {
        assert_eq!(Worktrees::read(b""), Worktrees::default());
        assert_eq!(Worktrees::read(b"branch refs/heads/x\n\xff\n").main(), None);
    }

    #[test]
    fn the_last_object_counts_and_lines_for_people_do_not() {
        let output =
            "🚀 Creating\n{ not json\n{\"success\":false}\nℹ️ {inline}\n{\n  \"success\": true,\n  \"data\": {\n    \"worktree_path\": \"/w\"\n  }\n}\n";
        assert_eq!(target_of(output.as_bytes()).unwrap(), "/w");
        assert_eq!(target_of(b"{\"success\":true,\"data\":{\"target_path\":\"/t\"}}").unwrap(), "/t");
    }

    #[test]
    fn an_answer_without_directory_is_a_failure_that_shows_what_was_printed() {
        for output in ["", "done\n", "{\"success\":false,\"error\":\"outside\"}", "{\"success\":true,\"data\":{}}", "{"] {
            let error = target_of(output.as_bytes()).unwrap_err();
            assert_eq!((error.class, error.detail.as_deref()), (EffectClass::Failed, Some(output)), "{output}");
        }
    }
}
