//! What a repository says of itself in its files: branch, remote, head. No program is started, so that a hook takes no time.

use std::path::{Path, PathBuf};

use crate::whole_file;

/// Bytes of a file of the repository that are read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Directories above a working directory that are looked at.
const LEVELS_MAX: usize = 64;

/// A working tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Where its files are.
    pub root: PathBuf,
    /// Its own `.git`.
    git: PathBuf,
    /// Where what all its working trees share lies.
    common: PathBuf,
}

impl Repository {
    /// The working tree that a directory lies in.
    #[must_use]
    pub fn around(directory: &Path) -> Option<Self> {
        let root = directory.ancestors().take(LEVELS_MAX).find(|level| level.join(".git").exists())?;
        let dot = root.join(".git");
        let git = if dot.is_dir() {
            dot
        } else {
            let text = text_of(&dot)?;
            root.join(text.strip_prefix("gitdir:")?.trim())
        };
        let common = text_of(&git.join("commondir")).map_or_else(|| git.clone(), |text| git.join(text.trim()));
        Some(Self { root: root.to_owned(), git, common })
    }

    /// The branch; `None` while none is checked out.
    #[must_use]
    pub fn branch(&self) -> Option<String> {
        let head = text_of(&self.git.join("HEAD"))?;
        let reference = head.trim().strip_prefix("ref:")?.trim();
        Some(reference.strip_prefix("refs/heads/").unwrap_or(reference).to_owned()).filter(|branch| !branch.is_empty())
    }

    /// The commit that is checked out, in full.
    #[must_use]
    pub fn head(&self) -> Option<String> {
        let head = text_of(&self.git.join("HEAD"))?;
        let Some(reference) = head.trim().strip_prefix("ref:").map(str::trim) else { return commit(head.trim()) };
        // A reference is a path below `.git`, and nothing above it.
        if reference.split('/').any(|part| part == "..") || reference.starts_with('/') {
            return None;
        }
        let loose = [&self.git, &self.common].into_iter().find_map(|place| text_of(&place.join(reference)));
        if let Some(found) = loose.as_deref().and_then(|text| commit(text.trim())) {
            return Some(found);
        }
        let packed = text_of(&self.common.join("packed-refs"))?;
        packed.lines().find_map(|line| line.split_once(' ').filter(|(_, name)| *name == reference).and_then(|(hash, _)| commit(hash)))
    }

    /// The address of `origin`, else of the first remote there is.
    #[must_use]
    pub fn remote(&self) -> Option<String> {
        let text = text_of(&self.common.join("config"))?;
        let mut section: Option<String> = None;
        let mut first = None;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.strip_prefix("remote \"").and_then(|rest| rest.split('"').next()).map(str::to_owned);
            } else if let (Some(name), Some((key, url))) = (&section, line.split_once('='))
                && key.trim().eq_ignore_ascii_case("url")
            {
                let url = url.trim().trim_matches('"').to_owned();
                if name == "origin" {
                    return Some(url);
                }
                first.get_or_insert(url);
            }
        }
        first
    }
}

fn text_of(path: &Path) -> Option<String> {
    String::from_utf8(whole_file::read(path, FILE_BYTES_MAX).ok()??).ok()
}

fn commit(text: &str) -> Option<String> {
    (matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b";

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn branch_head_and_remote_are_read_from_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, ".git/HEAD", "ref: refs/heads/feature/auth\n");
        write(root, ".git/packed-refs", &format!("# pack-refs\n{HASH} refs/heads/feature/auth\n"));
        write(root, ".git/config", "[core]\n\tbare = false\n[remote \"up\"]\n\turl = up\n[remote \"origin\"]\n\turl = git@h:u/r.git\n");
        fs::create_dir_all(root.join("src/deep")).unwrap();
        let repository = Repository::around(&root.join("src/deep")).unwrap();
        assert_eq!(repository.root, root);
        assert_eq!(repository.branch().as_deref(), Some("feature/auth"));
        assert_eq!(repository.head().as_deref(), Some(HASH));
        assert_eq!(repository.remote().as_deref(), Some("git@h:u/r.git"));
    }

    #[test]
    fn a_worktree_has_its_own_branch_and_shares_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "main/.git/config", "[remote \"origin\"]\nurl = https://h/r\n");
        write(root, "main/.git/refs/heads/topic", &format!("{HASH}\n"));
        write(root, "main/.git/worktrees/tree/HEAD", "ref: refs/heads/topic\n");
        write(root, "main/.git/worktrees/tree/commondir", "../..\n");
        write(root, "tree/.git", "gitdir: ../main/.git/worktrees/tree\n");
        let repository = Repository::around(&root.join("tree")).unwrap();
        assert_eq!(repository.branch().as_deref(), Some("topic"));
        assert_eq!(repository.head().as_deref(), Some(HASH));
        assert_eq!(repository.remote().as_deref(), Some("https://h/r"));
    }

    #[test]
    fn a_detached_head_has_a_commit_and_no_branch_and_an_odd_file_has_neither() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), ".git/HEAD", &format!("{HASH}\n"));
        let repository = Repository::around(directory.path()).unwrap();
        assert_eq!((repository.branch(), repository.head().as_deref()), (None, Some(HASH)));
        for odd in ["", "ref:", "ref: ../../../etc/passwd", "nonsense"] {
            write(directory.path(), ".git/HEAD", odd);
            assert_eq!(repository.head(), None, "{odd}");
        }
    }
}
