//! What git is asked and told. Every command runs in the directory that it is about, entered below the roots, so that no symbolic link
//! leads out of them; what an event names is never an option.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use router_api::{CommandReply, CommandRequest, Context, EffectClass, EffectError, Program, last_line};

use super::output::Worktrees;
use crate::directory::{Roots, is_not_here};

/// Git with the limits that hold for all its commands here.
pub(super) struct Git {
    pub(super) program: Program,
    pub(super) timeout: Duration,
}

/// What came of asking for worktrees.
pub(super) enum Listed {
    Worktrees(Worktrees),
    /// Nothing to be done here, and why.
    NotHere(String),
}

/// What came of making one.
pub(super) enum Made {
    Worktree,
    /// There is no such branch.
    NoBranch,
    /// Something is at the path already.
    NoPlace,
}

impl Git {
    fn command(&self, directory: &Path, roots: &Roots, args: &[&str]) -> CommandRequest {
        // Nothing of a repository's own configuration is run that is not needed: no monitor of its files, no hooks, no questions.
        let quiet = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
        // Messages are read below, so they must be in no other language.
        CommandRequest::new(self.program.clone())
            .args(quiet)
            .args(args.iter().copied())
            .cwd(directory)
            .below(roots.paths())
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .timeout(self.timeout)
    }

    /// All worktrees of the repository of `directory`.
    pub(super) async fn worktrees(&self, cx: &Context, roots: &Roots, directory: &Path) -> Result<Listed, EffectError> {
        let reply = match cx.command(self.command(directory, roots, &["worktree", "list", "--porcelain"])).named("list").read().await {
            Err(error) if is_not_here(&error) => {
                return Ok(Listed::NotHere(format!("not on this machine: there is no directory `{}`", directory.display())));
            }
            reply => reply?,
        };
        if reply.success() {
            return Ok(Listed::Worktrees(Worktrees::read(&reply.stdout)));
        }
        if String::from_utf8_lossy(&reply.stderr).contains("not a git repository") {
            return Ok(Listed::NotHere(format!("`{}` is in no git repository", directory.display())));
        }
        Err(failure(reply))
    }

    /// The branch that `directory` is on; `None` where it is on none, is no worktree, or is not there.
    pub(super) async fn branch_of(&self, cx: &Context, roots: &Roots, directory: &Path) -> Result<Option<String>, EffectError> {
        let reply = match cx.command(self.command(directory, roots, &["symbolic-ref", "--quiet", "HEAD"])).named("check").read().await {
            Err(error) if is_not_here(&error) => return Ok(None),
            reply => reply?,
        };
        // The full name: a short one grows where a tag has the same.
        let name = String::from_utf8_lossy(&reply.stdout).trim_end_matches('\n').strip_prefix("refs/heads/").map(str::to_owned);
        Ok(name.filter(|_| reply.success()))
    }

    /// Makes a worktree for `branch` at `path`, which must not be there.
    ///
    /// # Errors
    ///
    /// Class `Forbidden` where a symbolic link at `path` leads out of the roots.
    pub(super) async fn add(&self, cx: &Context, roots: &Roots, repository: &Path, path: &Path, branch: &str) -> Result<Made, EffectError> {
        // Git itself would follow a symbolic link. What is at the path is asked by entering it.
        let look = self.command(path, roots, &["rev-parse", "--git-dir"]);
        match cx.command(look).named("look").read().await {
            Err(error) if is_not_here(&error) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(Made::NoPlace),
        }
        let text = path.to_string_lossy();
        let reply = cx.command(self.command(repository, roots, &["worktree", "add", "--", &text, branch])).named("add").await?;
        if String::from_utf8_lossy(&reply.stderr).contains("invalid reference") {
            return Ok(Made::NoBranch);
        }
        if reply.success() { Ok(Made::Worktree) } else { Err(failure(reply)) }
    }

    /// Makes git forget worktrees whose directories are gone: it would not make another one for their branches.
    pub(super) async fn prune(&self, cx: &Context, roots: &Roots, repository: &Path) -> Result<(), EffectError> {
        let reply = cx.command(self.command(repository, roots, &["worktree", "prune"])).named("prune").dry_run_reply(CommandReply::exit(0)).await?;
        if reply.success() { Ok(()) } else { Err(failure(reply)) }
    }
}

/// Where a worktree for `branch` belongs: beside the main one, as iMi does it.
pub(super) fn place_for(branch: &str, repository: &Path) -> Option<PathBuf> {
    Some(repository.parent()?.join(branch.replace('/', "-")))
}

/// Git's own words. What only a person can mend is not tried again.
fn failure(reply: CommandReply) -> EffectError {
    let told = String::from_utf8_lossy(&reply.stderr).into_owned();
    let words = told.lines().find(|line| line.starts_with("fatal: ")).map(str::to_owned).or_else(|| last_line(&reply.stderr));
    match reply.ok() {
        Err(mut error) => {
            if told.contains("dubious ownership") {
                error.class = EffectClass::Refused;
                error.message = "git does not trust a repository of another user: run the router as its owner, or add it to git's `safe.directory`".to_owned();
            } else if let Some(words) = words {
                error.message = format!("git: {}", super::branch::shown(words.trim_start_matches("fatal: ")));
            }
            error
        }
        Ok(_) => EffectError::new(EffectClass::Failed, "git failed without saying so"),
    }
}
