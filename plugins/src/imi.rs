//! `imi`: where the worktree of a session's branch is. What the programs print is read in `imi/output.rs`.

mod output;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, CommandReply, CommandRequest, Context, EffectClass, EffectError, Envelope, Handler, HandlerError, Outcome, Plugin, Program,
    RoutingKey, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::output::{Worktrees, target_of};
use crate::directory::Roots;

/// Finds the worktree of a session's branch, and tells where it is.
///
/// A router cannot change the directory of another process, so "synced" means *found and told*: the event `worktree.synced` is emitted
/// with `{branch, path, repository, session_id, changed}`. `repository` is the repository's main worktree; `changed` says whether the
/// repository's last synced branch or path was another one. Who wants to act on it has a route on `worktree.synced`.
///
/// Skipped are events without a branch (null, empty, `unknown`, `HEAD`) or working directory, directories that are not on this
/// machine or in no repository, and branches without a worktree. All of it only reads, unless `create` is set or `backend` is `imi`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Imi {
    /// Who is asked: `git` (`git worktree list`, the default) or `imi` (`imi go <branch> --json`, whose fuzzy answer is checked with git;
    /// what it does not know is looked up with git).
    #[serde(default)]
    backend: Backend,
    /// Make the worktree when there is none: `git worktree add`, beside the main worktree and named like the branch with `-` for `/`;
    /// with `backend = "imi"`, `imi add` for branches that begin with `feat/`, `fix/`, `aiops/` or `devops/`, which fetches from the
    /// remote. Default: false.
    #[serde(default)]
    create: bool,
    /// Git, as a name or a path. Default: `git`.
    #[serde(default = "git")]
    git: String,
    /// iMi with arguments that go first, such as `["/opt/imi/bin/imi"]`. Default: `["imi"]`.
    #[serde(default = "imi")]
    imi: Vec<String>,
    /// The repository's name, for `imi go … --repo NAME` where branches of several repositories have one name. Default: none.
    repo: Option<String>,
    /// Directories below which the event's working directory and the worktree must lie; an event that names another one goes to the dead
    /// letters. Default: any.
    #[serde(default)]
    roots: Vec<PathBuf>,
    /// How long one command may take, in milliseconds. iMi waits 30 seconds for a database that is away. Default: 20000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

#[derive(Deserialize, JsonSchema, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Backend {
    #[default]
    Git,
    Imi,
}

fn git() -> String {
    "git".to_owned()
}

fn imi() -> Vec<String> {
    vec!["imi".to_owned()]
}

fn timeout_ms() -> u64 {
    20_000
}

#[async_trait]
impl Plugin for Imi {
    const NAME: &'static str = "imi";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        let git = error.collect(cx.program("git", &self.git));
        let imi = match (self.backend, self.imi.split_first()) {
            (Backend::Git, _) => None,
            (Backend::Imi, Some((name, args))) => error.collect(cx.program("imi.0", name)).map(|program| CommandRequest::new(program).args(args)),
            (Backend::Imi, None) => error.collect(Err(BuildError::at("imi", "is empty").help("leave it out for `[\"imi\"]`"))),
        };
        for (field, text) in self.imi.iter().map(|text| ("imi", text)).chain([("git", &self.git)]).chain(self.repo.iter().map(|text| ("repo", text))) {
            if text.contains("{{") {
                error.problems.extend(BuildError::at(field, format!("`{text}` has a template, and events choose no programs and options here")).problems);
            }
        }
        if self.repo.as_ref().is_some_and(|repo| repo.is_empty() || repo.starts_with('-')) {
            error.problems.extend(BuildError::at("repo", "is no name of a repository").problems);
        }
        if self.timeout_ms == 0 {
            error.problems.extend(BuildError::at("timeout_ms", "0 leaves no time to run").problems);
        }
        let (Some(git), true) = (git, error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Sync {
            git,
            imi,
            create: self.create,
            repo: self.repo,
            roots: Roots::new(&self.roots, cx),
            timeout: Duration::from_millis(self.timeout_ms),
            synced: RoutingKey::new("worktree.synced").expect("the literal is a key"),
        }))
    }
}

struct Sync {
    git: Program,
    /// Asked first where it is there.
    imi: Option<CommandRequest>,
    create: bool,
    repo: Option<String>,
    roots: Roots,
    timeout: Duration,
    synced: RoutingKey,
}

/// What was last synced in a repository.
#[derive(Serialize, Deserialize)]
struct Last {
    branch: String,
    path: String,
    changed: bool,
    /// The handling: a repeat of it must say the same again.
    by: String,
}

#[async_trait]
impl Handler for Sync {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let Some(branch) = event.git_branch().map(|branch| branch.strip_prefix("refs/heads/").unwrap_or(branch)).filter(|branch| is_branch(branch)) else {
            return Ok(Outcome::skipped("the event names no branch"));
        };
        if branch.starts_with('-') || branch.chars().any(|c| c.is_control() || c == ' ') {
            return Err(HandlerError::reject(format!("`{}` can be no branch", branch.escape_debug())));
        }
        let Some(directory) = event.working_directory().filter(|text| !text.is_empty()) else {
            return Ok(Outcome::skipped("the event names no working directory"));
        };
        let directory = self.roots.directory(directory)?;
        let worktrees = match self.worktrees(cx, &directory).await? {
            Ok(worktrees) => worktrees,
            Err(reason) => return Ok(Outcome::skipped(reason)),
        };
        let Some(repository) = worktrees.main() else {
            return Ok(Outcome::skipped(format!("git knows no worktree of `{}`", directory.display())));
        };
        let mut path = match &self.imi {
            Some(imi) => self.go(cx, imi, &directory, branch).await?,
            None => None,
        };
        path = path.or_else(|| worktrees.of(branch).map(str::to_owned));
        if path.is_none() && self.create {
            path = match &self.imi {
                Some(imi) => self.add_with_imi(cx, imi, &directory, branch).await?,
                None => Some(self.add_with_git(cx, repository, branch).await?),
            };
        }
        let Some(path) = path else {
            return Ok(Outcome::skipped(format!("branch `{branch}` has no worktree in `{repository}`")));
        };
        self.roots.directory(&path)?;
        let changed = remember(cx, repository, branch, &path).await?;
        cx.note(if changed { format!("`{branch}` is at {path}") } else { format!("`{branch}` is at {path}, as before") });
        cx.emit(&self.synced, json!({ "branch": branch, "path": path, "repository": repository, "session_id": event.session_id(), "changed": changed }));
        Ok(Outcome::Done)
    }
}

impl Sync {
    fn git(&self, directory: &Path, args: &[&str]) -> CommandRequest {
        let directory = directory.to_string_lossy().into_owned();
        // The messages are read below, so they must be in no other language.
        CommandRequest::new(self.git.clone()).args(["-C".to_owned(), directory]).args(args.iter().copied()).env("LC_ALL", "C").timeout(self.timeout)
    }

    /// All worktrees of the repository of `directory`, or why there are none.
    async fn worktrees(&self, cx: &Context, directory: &Path) -> Result<Result<Worktrees, String>, EffectError> {
        let reply = cx.command(self.git(directory, &["worktree", "list", "--porcelain"])).named("list").read().await?;
        if reply.success() {
            return Ok(Ok(Worktrees::read(&reply.stdout)));
        }
        let told = String::from_utf8_lossy(&reply.stderr).into_owned();
        if told.contains("cannot change to") {
            return Ok(Err(format!("not on this machine: there is no directory `{}`", directory.display())));
        }
        if told.contains("not a git repository") {
            return Ok(Err(format!("`{}` is in no git repository", directory.display())));
        }
        reply.ok().map(|_| Err("git lists no worktrees".to_owned()))
    }

    /// Asks iMi for the worktree. It may ask a database and note the visit, so it is no read.
    async fn go(&self, cx: &Context, imi: &CommandRequest, directory: &Path, branch: &str) -> Result<Option<String>, EffectError> {
        let mut request = imi.clone().args(["go", branch, "--json"]).cwd(directory).timeout(self.timeout);
        if let Some(repo) = &self.repo {
            request = request.args(["--repo", repo]);
        }
        let reply = cx.command(request).named("go").await?;
        if reply.success() {
            return self.checked(cx, target_of(&reply.stdout)?, branch).await;
        }
        let told = String::from_utf8_lossy(&reply.stderr);
        // No match, or several that iMi would ask a person about.
        if told.contains("No worktrees or repositories found") || told.contains("not a terminal") {
            return Ok(None);
        }
        Err(imi_error(reply))
    }

    async fn add_with_imi(&self, cx: &Context, imi: &CommandRequest, directory: &Path, branch: &str) -> Result<Option<String>, EffectError> {
        let Some((kind, name)) = branch.split_once('/').filter(|(kind, _)| ["feat", "fix", "aiops", "devops"].contains(kind)) else { return Ok(None) };
        if name.is_empty() || name.starts_with('-') {
            return Ok(None);
        }
        let reply = cx.command(imi.clone().args(["add", kind, name, "--json"]).cwd(directory).timeout(self.timeout)).named("add").await?;
        if !reply.success() {
            return Err(imi_error(reply));
        }
        self.checked(cx, target_of(&reply.stdout)?, branch).await
    }

    /// `target`, if it really is on `branch`: iMi takes a lone near match for the answer.
    async fn checked(&self, cx: &Context, target: String, branch: &str) -> Result<Option<String>, EffectError> {
        let directory = self.roots.directory(&target)?;
        let reply = cx.command(self.git(&directory, &["symbolic-ref", "--short", "HEAD"])).named("check").read().await?;
        let is_there = reply.success() && String::from_utf8_lossy(&reply.stdout).trim() == branch;
        Ok(is_there.then_some(target))
    }

    async fn add_with_git(&self, cx: &Context, repository: &str, branch: &str) -> Result<String, EffectError> {
        let name = branch.replace('/', "-");
        let path = Path::new(repository).parent().map(|beside| beside.join(&name)).filter(|_| name != "." && name != "..");
        let path = path.ok_or_else(|| EffectError::new(EffectClass::Refused, format!("there is no place for a worktree beside `{repository}`")))?;
        let path = self.roots.directory(&path.to_string_lossy())?.to_string_lossy().into_owned();
        let mut request = self.git(Path::new(repository), &["worktree", "add", "--", &path, branch]);
        request.timeout = Some(self.timeout);
        cx.command(request).named("add").await?.ok()?;
        Ok(path)
    }
}

fn imi_error(reply: CommandReply) -> EffectError {
    let told = String::from_utf8_lossy(&reply.stderr).into_owned();
    let is_down = told.contains("pool timed out") || told.contains("Failed to initialize database");
    match reply.ok() {
        Err(mut error) => {
            if is_down {
                error.class = EffectClass::Unreachable;
                error.message = format!("iMi does not reach its database ({})", error.message);
            }
            error
        }
        Ok(_) => EffectError::new(EffectClass::Failed, "iMi failed without saying so"),
    }
}

/// What producers send where there is no branch.
fn is_branch(text: &str) -> bool {
    !matches!(text, "" | "unknown" | "HEAD")
}

/// Notes what is synced in `repository`, and says whether that is news.
async fn remember(cx: &Context, repository: &str, branch: &str, path: &str) -> Result<bool, HandlerError> {
    let key = format!("worktree:{repository}");
    let last: Option<Last> = cx.state(&key).await?.and_then(|value| serde_json::from_value(value).ok());
    let by = cx.idempotency_key();
    let changed = match last {
        Some(last) if last.by == by => last.changed,
        Some(last) => last.branch != branch || last.path != path,
        None => true,
    };
    cx.set_state(&key, Some(json!(Last { branch: branch.to_owned(), path: path.to_owned(), changed, by }))).await?;
    Ok(changed)
}

register!(Imi);
