//! `imi`: the worktree of a session's branch is there, is known, and is told of. A reconciler: it reads how things are and repairs what
//! differs, so that late, doubled and reordered events do no harm.
//!
//! What git is asked stands in `imi/git.rs`, what iMi is asked in `imi/cli.rs`; what both print is read in `imi/output.rs`, and what can
//! be a branch is decided in `imi/branch.rs`.

mod branch;
mod cli;
mod git;
mod output;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    ArgvTemplate, BuildContext, BuildError, CommandReply, CommandRequest, Context, EffectClass, EffectError, Envelope, Handler, HandlerError, Outcome, Plugin,
    Program, RoutingKey, Scope, register,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::{
    git::{Git, Listed, Made},
    output::Worktrees,
};
use crate::directory::Roots;

/// Finds the worktree of a session's branch, makes it where it is missing and that is allowed, and tells where it is.
///
/// A router cannot change the directory of another process, so "synced" means *found and told*: the event `worktree.synced` is emitted
/// with `{branch, path, repository, session_id, changed}`, and `callback` is run where something changed. `repository` is the
/// repository's main worktree; `changed` says whether the repository's last synced branch or path was another one. An event that is
/// older than the last synced one changes nothing. Who wants to act on it has a route on `worktree.synced`.
///
/// Skipped are events without a branch (null, empty, `unknown`, `HEAD`) or working directory, directories that are not on this
/// machine or in no repository, and branches without a worktree. What can be no branch, or leads out of `roots`, goes to the dead
/// letters. `docs/integrations/imi.md` shows all of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Imi {
    /// Who is asked: `git` (`git worktree list`, the default) or `imi` (`imi go <branch> --json`, whose fuzzy answer is checked with git;
    /// what it does not know is looked up with git, and made known to it by `imi sync`).
    #[serde(default)]
    backend: Backend,
    /// Make the worktree when there is none: `git worktree add`, beside the main worktree and named like the branch with `-` for `/`,
    /// without running the repository's hooks; with `backend = "imi"`, `imi add` for branches that begin with `feat/`, `fix/`, `aiops/`
    /// or `devops/`, which fetches from the remote. Needs `roots`. Default: false.
    #[serde(default)]
    create: bool,
    /// Git, as a name or a path. Default: `git`.
    #[serde(default = "git")]
    git: String,
    /// iMi with arguments that go first, such as `["/opt/imi/bin/imi"]`. Default: `["imi"]`.
    #[serde(default = "imi")]
    imi: Vec<String>,
    /// The repository's name, for `imi go … --repo NAME` where branches of several repositories have one name. Without it, a worktree
    /// of another repository than the event's is not taken. Default: none.
    repo: Option<String>,
    /// Directories below which the event's working directory and the worktree must lie; an event that names another one goes to the dead
    /// letters. No symbolic link leads out of them: write the directories themselves. Default: any.
    #[serde(default)]
    roots: Vec<PathBuf>,
    /// A command to run when another branch or path is synced than before, such as `["tmux-to-worktree"]`. It runs in the worktree, with
    /// the emitted payload as JSON on its standard input and in the variables `WORKTREE_BRANCH`, `WORKTREE_PATH` and
    /// `WORKTREE_REPOSITORY`. An exit code other than 0 is tried again. Default: none.
    callback: Option<ArgvTemplate>,
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

/// In bytes; the kernel takes no longer ones.
const PATH_BYTES_MAX: usize = 4_096;

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
        let callback = match self.callback {
            Some(command) => error.collect(cx.program("callback.0", command.program())).map(|program| Callback { program, command }),
            None => None,
        };
        for (field, text) in self.imi.iter().map(|text| ("imi", text)).chain([("git", &self.git)]).chain(self.repo.iter().map(|text| ("repo", text))) {
            if text.contains("{{") {
                error.problems.extend(BuildError::at(field, format!("`{text}` has a template, and events choose no programs and options here")).problems);
            }
        }
        if self.repo.as_ref().is_some_and(|repo| repo.is_empty() || repo.starts_with('-')) {
            error.problems.extend(BuildError::at("repo", "is no name of a repository").problems);
        }
        if self.create && self.roots.is_empty() {
            let missing = BuildError::at("create", "without `roots`, events would choose any place of this machine to make directories in");
            error.problems.extend(missing.help("add the directories that your repositories lie in, such as `roots = [\"/home/ada/code\"]`").problems);
        }
        if self.timeout_ms == 0 {
            error.problems.extend(BuildError::at("timeout_ms", "0 leaves no time to run").problems);
        }
        let (Some(program), true) = (git, error.problems.is_empty()) else { return Err(error) };
        let timeout = Duration::from_millis(self.timeout_ms);
        Ok(Box::new(Sync {
            git: Git { program, timeout },
            imi: imi.map(|command| cli::Imi { command, repo: self.repo, timeout }),
            create: self.create,
            roots: Roots::new(&self.roots, cx),
            callback,
            timeout,
            synced: RoutingKey::new("worktree.synced").expect("the literal is a key"),
        }))
    }
}

struct Sync {
    git: Git,
    /// Asked first where it is there.
    imi: Option<cli::Imi>,
    create: bool,
    roots: Roots,
    callback: Option<Callback>,
    timeout: Duration,
    synced: RoutingKey,
}

struct Callback {
    program: Program,
    command: ArgvTemplate,
}

/// Where the session of an event works.
struct Place<'e> {
    branch: &'e str,
    directory: PathBuf,
    /// The main worktree.
    repository: PathBuf,
    worktrees: Worktrees,
}

/// What came of looking for a worktree, and of making one.
enum Found {
    At(PathBuf),
    Nowhere(String),
}

/// What was last synced in a repository.
#[derive(Serialize, Deserialize, Clone)]
struct Last {
    branch: String,
    path: String,
    changed: bool,
    /// The handling: a repeat of it must say the same again.
    by: String,
    /// When the event of it happened, by its own time.
    at: Option<Timestamp>,
}

#[async_trait]
impl Handler for Sync {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let Some(branch) = branch::of_event(event.git_branch()) else { return Ok(Outcome::skipped("the event names no branch")) };
        branch::check(branch).map_err(HandlerError::reject)?;
        let Some(directory) = event.working_directory().filter(|text| !text.is_empty()) else {
            return Ok(Outcome::skipped("the event names no working directory"));
        };
        if directory.len() > PATH_BYTES_MAX {
            return Err(HandlerError::reject(format!("the working directory is {} bytes long, {PATH_BYTES_MAX} are the limit", directory.len())));
        }
        let directory = self.roots.directory(directory)?;
        let worktrees = match self.git.worktrees(cx, &self.roots, &directory).await? {
            Listed::Worktrees(worktrees) => worktrees,
            Listed::NotHere(reason) => return Ok(Outcome::skipped(reason)),
        };
        let Some(repository) = worktrees.main().map(PathBuf::from) else {
            return Ok(Outcome::skipped(format!("git knows no worktree of `{}`", directory.display())));
        };
        // A file `.git` may lead anywhere.
        self.roots.directory(&repository.to_string_lossy())?;
        let place = Place { branch, directory, repository, worktrees };

        let (mut found, trouble) = self.find(cx, &place).await?;
        if found.is_none() && self.create {
            match self.make(cx, &place).await? {
                Found::At(path) => found = Some(path),
                Found::Nowhere(reason) => return Ok(Outcome::skipped(reason)),
            }
        }
        let Some(path) = found else {
            return Ok(Outcome::skipped(format!("branch `{branch}` has no worktree in `{}`", place.repository.display())));
        };
        self.tell(event, cx, &place, &path, trouble).await
    }
}

impl Sync {
    /// The worktree that there is, and what hindered iMi from knowing it.
    async fn find(&self, cx: &Context, place: &Place<'_>) -> Result<(Option<PathBuf>, Option<String>), EffectError> {
        if let Some(imi) = &self.imi
            && let Some(target) = imi.go(cx, &self.roots, &place.directory, place.branch).await?
            && let Some(path) = self.confirmed(cx, place, &target, imi.repo.is_none()).await?
        {
            return Ok((Some(path), None));
        }
        let Some(known) = place.worktrees.of(place.branch) else { return Ok((None, None)) };
        self.roots.directory(known)?;
        let Some(path) = self.confirmed(cx, place, known, false).await? else { return Ok((None, None)) };
        let trouble = match &self.imi {
            Some(imi) => imi.sync(cx, &self.roots, &place.directory).await?,
            None => None,
        };
        Ok((Some(path), trouble))
    }

    async fn make(&self, cx: &Context, place: &Place<'_>) -> Result<Found, EffectError> {
        let Place { branch, directory, repository, worktrees } = place;
        if let Some(begun) = worktrees.begun(branch) {
            let told = format!("a worktree for `{branch}` is being made at `{begun}`; if nobody makes it any more: `git worktree remove -f -f {begun}`");
            return Err(EffectError::new(EffectClass::Failed, told));
        }
        let made = match &self.imi {
            Some(imi) => imi.add(cx, &self.roots, directory, branch).await?,
            None => {
                let path = git::place_for(branch, repository).map(|path| self.roots.directory(&path.to_string_lossy())).transpose()?;
                let path =
                    path.ok_or_else(|| EffectError::new(EffectClass::Refused, format!("there is no place for a worktree beside `{}`", repository.display())))?;
                if worktrees.has_gone(branch) {
                    self.git.prune(cx, &self.roots, repository).await?;
                }
                match self.git.add(cx, &self.roots, repository, &path, branch).await? {
                    Made::Worktree => Some(path.to_string_lossy().into_owned()),
                    Made::NoPlace => Some(self.made_by_another(cx, place, &path).await?),
                    Made::NoBranch => return Ok(Found::Nowhere(format!("there is no branch `{branch}` in `{}`", repository.display()))),
                }
            }
        };
        let Some(made) = made else {
            return Ok(Found::Nowhere(format!("branch `{branch}` has no worktree in `{}`, and iMi makes none of that name", repository.display())));
        };
        match self.confirmed(cx, place, &made, false).await? {
            Some(path) => Ok(Found::At(path)),
            None => Err(EffectError::new(EffectClass::Failed, format!("a worktree was made at `{made}`, but `{branch}` is not what is there"))),
        }
    }

    /// Another session of the branch may have made its worktree meanwhile; else what is at `path` is none of it.
    async fn made_by_another(&self, cx: &Context, place: &Place<'_>, path: &Path) -> Result<String, EffectError> {
        let branch = place.branch;
        if let Listed::Worktrees(now) = self.git.worktrees(cx, &self.roots, &place.repository).await? {
            if let Some(made) = now.of(branch) {
                return Ok(made.to_owned());
            }
            if now.begun(branch).is_some() {
                return Err(EffectError::new(EffectClass::Failed, format!("a worktree for `{branch}` is being made at `{}`", path.display())));
            }
        }
        let told = format!("`{}` is there already, and is no worktree for `{branch}`: move it away, or make the worktree yourself", path.display());
        Err(EffectError::new(EffectClass::Refused, told))
    }

    /// `target`, if git says that it is on the branch: iMi takes a lone near match for the answer, and its database may be behind. What
    /// lies outside of the roots is not taken.
    async fn confirmed(&self, cx: &Context, place: &Place<'_>, target: &str, same_repository: bool) -> Result<Option<PathBuf>, EffectError> {
        let Ok(path) = self.roots.directory(target) else { return Ok(None) };
        match self.git.branch_of(cx, &self.roots, &path).await {
            Ok(Some(found)) if found == place.branch => {}
            Ok(_) => return Ok(None),
            Err(error) => return Err(error),
        }
        if same_repository && place.worktrees.of(place.branch).map(Path::new) != Some(&path) {
            let Listed::Worktrees(others) = self.git.worktrees(cx, &self.roots, &path).await? else { return Ok(None) };
            if others.main().map(Path::new) != Some(&place.repository) {
                return Ok(None);
            }
        }
        Ok(Some(path))
    }

    async fn tell(&self, event: &Envelope, cx: &Context, place: &Place<'_>, path: &Path, trouble: Option<String>) -> Result<Outcome, HandlerError> {
        let (branch, repository, path) = (place.branch, place.repository.to_string_lossy(), path.to_string_lossy());
        let key = format!("worktree:{repository}");
        let last: Option<Last> = cx.state(&key).await?.and_then(|value| serde_json::from_value(value).ok());
        let by = cx.idempotency_key();
        let is_late = last.as_ref().is_some_and(|last| last.by != by && event.time().zip(last.at).is_some_and(|(time, last)| time < last));
        let changed = match &last {
            Some(last) if last.by == by => last.changed,
            Some(_) if is_late => false,
            Some(last) => last.branch != branch || last.path != path,
            None => true,
        };
        let payload = json!({ "branch": branch, "path": path, "repository": repository, "session_id": event.session_id(), "changed": changed });
        if changed && let Some(callback) = &self.callback {
            self.call(event, cx, callback, &payload).await?;
        }
        // Another session of the repository may have been synced while the callback ran.
        let last: Option<Last> = cx.state(&key).await?.and_then(|value| serde_json::from_value(value).ok());
        let is_late = is_late || last.is_some_and(|last| last.by != by && event.time().zip(last.at).is_some_and(|(time, last)| time < last));
        if !is_late {
            let last = Last { branch: branch.to_owned(), path: path.clone().into_owned(), changed, by, at: event.time() };
            cx.set_state(&key, Some(json!(last))).await?;
        }
        cx.note(match (trouble, changed, is_late) {
            (Some(trouble), ..) => format!("`{branch}` is at {path}, but iMi cannot be told: {trouble}"),
            (None, true, _) => format!("`{branch}` is at {path}"),
            (None, false, true) => format!("`{branch}` is at {path}; a newer session was synced before"),
            (None, false, false) => format!("`{branch}` is at {path}, as before"),
        });
        cx.emit(&self.synced, payload);
        Ok(Outcome::Done)
    }

    async fn call(&self, event: &Envelope, cx: &Context, callback: &Callback, payload: &Value) -> Result<(), HandlerError> {
        let text = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
        let request = CommandRequest::new(callback.program.clone())
            .args(callback.command.render(&Scope::of(event, cx))?)
            .cwd(text("path"))
            .below(self.roots.paths())
            .env("WORKTREE_BRANCH", text("branch"))
            .env("WORKTREE_PATH", text("path"))
            .env("WORKTREE_REPOSITORY", text("repository"))
            .stdin(payload.to_string())
            .timeout(self.timeout);
        cx.command(request).named("callback").dry_run_reply(CommandReply::exit(0)).final_when(CommandReply::success).await?.ok()?;
        Ok(())
    }
}

register!(Imi);
