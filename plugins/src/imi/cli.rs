//! What iMi is asked and told, by its command line.

use std::{path::Path, time::Duration};

use router_api::{CommandReply, CommandRequest, Context, EffectClass, EffectError};

use super::output::target_of;
use crate::directory::Roots;

/// iMi, with its arguments that go first.
pub(super) struct Imi {
    pub(super) command: CommandRequest,
    pub(super) repo: Option<String>,
    pub(super) timeout: Duration,
}

/// Kinds of branches that iMi makes worktrees for.
const KINDS: [&str; 4] = ["feat", "fix", "aiops", "devops"];

impl Imi {
    fn command(&self, directory: &Path, roots: &Roots, args: &[&str]) -> CommandRequest {
        self.command.clone().args(args.iter().copied()).cwd(directory).below(roots.paths()).timeout(self.timeout)
    }

    /// The directory that iMi finds for `branch`, which may be that of another one; `None` where it finds none, or several.
    pub(super) async fn go(&self, cx: &Context, roots: &Roots, directory: &Path, branch: &str) -> Result<Option<String>, EffectError> {
        let mut args = vec!["go", branch, "--json"];
        args.extend(self.repo.iter().flat_map(|repo| ["--repo", repo]));
        let reply = answered(cx.command(self.command(directory, roots, &args)).named("go").read().await)?;
        if reply.success() {
            return target_of(&reply.stdout).map(Some);
        }
        let told = String::from_utf8_lossy(&reply.stderr);
        // It asks a person where there are several, or an empty list.
        if told.contains("No worktrees or repositories found") || told.contains("not a terminal") {
            return Ok(None);
        }
        Err(failure(reply))
    }

    /// Makes a worktree; `None` for branches that iMi makes none for.
    pub(super) async fn add(&self, cx: &Context, roots: &Roots, directory: &Path, branch: &str) -> Result<Option<String>, EffectError> {
        let Some((kind, name)) = branch.split_once('/').filter(|(kind, _)| KINDS.contains(kind)) else { return Ok(None) };
        if name.starts_with('-') {
            return Ok(None);
        }
        let reply = answered(cx.command(self.command(directory, roots, &["add", kind, name, "--json"])).named("add").await)?;
        if reply.success() { target_of(&reply.stdout).map(Some) } else { Err(failure(reply)) }
    }

    /// Makes iMi know worktrees that git knows. It looks at the repository that it runs in. Says what hinders it, where that is not its
    /// database: the worktree itself is found, whether iMi knows it or not.
    pub(super) async fn sync(&self, cx: &Context, roots: &Roots, directory: &Path) -> Result<Option<String>, EffectError> {
        let reply = answered(cx.command(self.command(directory, roots, &["sync", "--json"])).named("sync").dry_run_reply(CommandReply::exit(0)).await)?;
        if reply.success() {
            return Ok(None);
        }
        let error = failure(reply);
        if error.class == EffectClass::Unreachable { Err(error) } else { Ok(Some(error.message)) }
    }
}

/// A database that is away makes iMi wait for 30 seconds, so that its own time limit ends it before it can say so: down for every event,
/// not for this one.
fn answered(reply: Result<CommandReply, EffectError>) -> Result<CommandReply, EffectError> {
    reply.map_err(|mut error| {
        if error.class == EffectClass::Timeout {
            error.class = EffectClass::Unreachable;
            error.message = format!("{}; iMi is slow like that when its database is away", error.message);
        }
        error
    })
}

fn failure(reply: CommandReply) -> EffectError {
    let told = String::from_utf8_lossy(&reply.stderr).into_owned();
    match reply.ok() {
        Err(mut error) => {
            if told.contains("pool timed out") || told.contains("Failed to initialize database") {
                error.class = EffectClass::Unreachable;
                error.message = format!("iMi does not reach its database ({})", error.message);
            } else {
                // Its first line says what, the lines after it what to do.
                let words = told.lines().find_map(|line| line.strip_prefix("Error: "));
                if told.contains("outside the current entity office") {
                    error.class = EffectClass::Refused;
                }
                error.message = words.map_or_else(|| format!("iMi: {}", error.message), |words| format!("iMi: {}", super::branch::shown(words)));
            }
            error
        }
        Ok(_) => EffectError::new(EffectClass::Failed, "iMi failed without saying so"),
    }
}
