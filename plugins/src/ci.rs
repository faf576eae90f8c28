//! `ci`: a check that runs where files were written, once for a burst, and whose red result is a finding and no failure; or a run
//! that is started on a CI server. Which events count is in `ci/writes.rs` and `repository.rs`, each provider in a file of its name.

mod buildbot;
mod command;
mod github;
mod glob;
mod repository;
mod writes;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    ArgvTemplate, BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin, Program, RoutingKey, Scope, Template, register,
};
use schemars::JsonSchema;
use serde::Deserialize;

use self::{
    buildbot::{Buildbot, Master},
    command::Local,
    github::{Dispatcher, GitHub},
    glob::Glob,
    writes::distinct,
};
use crate::{
    directory::{Directory, Roots, roots_without_template},
    environment::Environment,
};

/// Runs a check, such as the tests, where a session writes files; or starts a run on a CI server.
///
/// Put `coalesce = { by = "working_directory", quiet_ms = 2_000 }` on the route: then a burst of writes makes one run, which may see all their files as
/// `{{ files }}`, and writes that come while it runs make exactly one more.
///
/// With the provider `command`, after the run the event `ci.run.finished` is emitted, with the payload
/// `{status, exit_code, signal, timed_out, files, events, session_id, session_ids, working_directory, git_branch, command, duration_ms,
/// output_tail, error_tail}`, where `status` is `passed` (exit code 0), `no_tests` (5, as pytest says it), `failed` (another one) or `error` (ended by a signal, or by
/// `timeout_ms`). Its `correlation_ids` are those of the events that led to it. A run that is not green is a finding, so the events
/// are done with it; only a check that could not be started is tried again.
///
/// With the other providers, what the server answers decides: 2xx is done; a server that is down or asks for time stops the route for a while; what it
/// refuses goes to the dead letters.
///
/// After a crash of the router the same run may happen again; checks are safe to repeat.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ci {
    /// Who runs it: `command` (a program on this machine, the default), `github` or `buildbot`. Only a program on this machine can test
    /// what is not committed.
    #[serde(default)]
    provider: Provider,
    /// Which events are a reason to run: `writes` (a file was written: a successful `Write`, `Edit`, `MultiEdit` or `NotebookEdit` of one
    /// of `paths`, not held for review, in the repository of the directory, and not ignored by git), `pushes` (a commit or a push) or `any` (each that the
    /// route lets through). Others are skipped. Default: `writes` for `command`, else `pushes`.
    trigger: Option<Trigger>,
    /// Patterns of the files that count: `*` is any text without `/`, `?` one character, `**/` any directories or none. Without `/`
    /// it is for the name, else for the path below the directory. Default: `["*.py"]`.
    #[serde(default = "paths")]
    paths: Vec<Glob>,
    /// The check: program and arguments, such as `["pytest", "-q"]` or `["ruff", "check", "{{ files }}"]`. The program is found when
    /// the route is loaded; there is no shell. `{{ files }}` alone becomes `--` and one argument for each distinct file of the burst.
    /// Files outside the directory of the run are left out; when that leaves none for a command with `{{ files }}`, nothing runs.
    /// Default: `["pytest", "-q"]`.
    command: Option<ArgvTemplate>,
    /// The directory to run in. Default: the event's `working_directory`; an event without one is skipped, and so is one whose directory
    /// is not on this machine. One without a template may be relative to the configuration's file.
    cwd: Option<Template>,
    /// Directories below which the directory of an event must lie; an event that names another one goes to the dead letters. Set it:
    /// a test run executes what it finds, and without roots whoever can send an event chooses where. No symbolic link leads out of
    /// them.
    #[serde(default)]
    roots: Vec<PathBuf>,
    /// Variables for the check, such as `CI = "true"`. Values may be templates, except where a value would decide what is run.
    #[serde(default)]
    env: BTreeMap<String, Template>,
    /// How long a run may take, in milliseconds. Then it is ended and reported with status `error`. Keep it below the route's
    /// `timeout_ms`, which ends the handling as a failure that is tried again. Default: none of its own.
    timeout_ms: Option<u64>,
    /// How much of the end of the output is reported, in bytes, of each of the standard output and error. 0 to 65536, default 4096.
    #[serde(default = "output_tail_bytes")]
    output_tail_bytes: usize,
    /// Exit codes that are reported as `no_tests` and not as `failed`. Empty it for a check that means something else by 5. Default:
    /// `[5]`.
    #[serde(default = "no_tests_exit_codes")]
    no_tests_exit_codes: Vec<i32>,
    /// For the provider `github`: the repository and what is started there.
    github: Option<GitHub>,
    /// For the provider `buildbot`: the master and how it is told.
    buildbot: Option<Buildbot>,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Debug, Default)]
#[serde(rename_all = "kebab-case")]
enum Provider {
    #[default]
    Command,
    Github,
    Buildbot,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
enum Trigger {
    Writes,
    Pushes,
    Any,
}

const OUTPUT_TAIL_BYTES_MAX: usize = 64 * 1024;

fn output_tail_bytes() -> usize {
    4_096
}

fn no_tests_exit_codes() -> Vec<i32> {
    vec![5]
}

fn paths() -> Vec<Glob> {
    vec![Glob::try_from("*.py".to_owned()).expect("the literal is a pattern")]
}

#[async_trait]
impl Plugin for Ci {
    const NAME: &'static str = "ci";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        if self.paths.is_empty() {
            error.problems.extend(BuildError::at("paths", "is empty, so that no file would count").help("leave it out for `[\"*.py\"]`").problems);
        }
        let is_local = self.provider == Provider::Command;
        if !is_local && (self.command.is_some() || self.cwd.is_some() || !self.env.is_empty() || self.timeout_ms.is_some()) {
            let message = "`command`, `cwd`, `env` and `timeout_ms` are for the provider `command`";
            error.problems.extend(BuildError::at("command", message).help("remove them, or `provider`").problems);
        }
        for (field, is_there, provider) in [("github", self.github.is_some(), Provider::Github), ("buildbot", self.buildbot.is_some(), Provider::Buildbot)] {
            if is_there != (self.provider == provider) {
                let message = if is_there { "is there, but `provider` names another one" } else { "is missing, and `provider` names it" };
                error.problems.extend(BuildError::at(field, message).help(format!("write `provider = \"{field}\"` and a table `{field}`")).problems);
            }
        }
        let work = match (self.provider, self.github, self.buildbot) {
            (Provider::Command, ..) => {
                let command = self.command.map_or_else(|| ArgvTemplate::parse(vec!["pytest".to_owned(), "-q".to_owned()]), Ok)?;
                let program = error.collect(cx.program("command.0", command.program()));
                let environment = error.collect(Environment::new(self.env));
                if self.timeout_ms == Some(0) {
                    error.problems.extend(BuildError::at("timeout_ms", "0 leaves no time to run").problems);
                }
                if self.output_tail_bytes > OUTPUT_TAIL_BYTES_MAX {
                    let message = format!("is {}, {OUTPUT_TAIL_BYTES_MAX} bytes are the limit", self.output_tail_bytes);
                    error.problems.extend(BuildError::at("output_tail_bytes", message).problems);
                }
                if !self.roots.is_empty() && self.cwd.as_ref().is_some_and(Template::is_literal) {
                    error.problems.extend(roots_without_template().problems);
                }
                program.zip(environment).map(|(program, environment)| {
                    Work::Local(Local {
                        program,
                        command,
                        directory: self.cwd.map(|cwd| Directory::new(cwd, cx)),
                        environment,
                        timeout: self.timeout_ms.map(Duration::from_millis),
                        output_tail_bytes: self.output_tail_bytes,
                        no_tests_codes: self.no_tests_exit_codes,
                        finished: RoutingKey::new("ci.run.finished").expect("the literal is a key"),
                    })
                })
            }
            (Provider::Github, Some(options), _) => {
                error.collect(Dispatcher::new(options).map_err(|error| error.under("github"))).map(|dispatcher| Work::GitHub(Box::new(dispatcher)))
            }
            (Provider::Buildbot, _, Some(options)) => {
                error.collect(Master::new(options).map_err(|error| error.under("buildbot"))).map(|master| Work::Buildbot(Box::new(master)))
            }
            (Provider::Github | Provider::Buildbot, ..) => None,
        };
        let (Some(work), true) = (work, error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Check {
            trigger: self.trigger.unwrap_or(if is_local { Trigger::Writes } else { Trigger::Pushes }),
            paths: self.paths,
            roots: Roots::new(&self.roots, cx),
            // Without git there is no repository to ask about.
            git: cx.program("git", "git").ok(),
            work,
        }))
    }
}

struct Check {
    trigger: Trigger,
    paths: Vec<Glob>,
    roots: Roots,
    git: Option<Program>,
    work: Work,
}

enum Work {
    Local(Local),
    GitHub(Box<Dispatcher>),
    Buildbot(Box<Master>),
}

#[async_trait]
impl Handler for Check {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let named = || event.working_directory().filter(|text| !text.is_empty());
        match &self.work {
            Work::Local(local) => {
                if local.directory.is_none() {
                    let directories = cx.burst().iter().filter_map(|event| event.working_directory()).filter(|text| !text.is_empty());
                    only_one(directories, "working directories", "working_directory")?;
                }
                let directory = match (&local.directory, named()) {
                    (Some(directory), _) => directory.of(&Scope::of(event, cx), &self.roots)?,
                    (None, Some(text)) => self.roots.directory(text)?,
                    (None, None) => return Ok(Outcome::skipped("the event names no working directory")),
                };
                match self.files(cx, Some(&directory)).await? {
                    Ok(files) => local.run(event, cx, &directory, &self.roots, files).await,
                    Err(reason) => Ok(Outcome::skipped(reason)),
                }
            }
            remote => {
                // The directory is asked about here, not run in: one that may not be entered is not asked about.
                let directory = named().and_then(|text| self.roots.directory(text).ok());
                let files = match self.files(cx, directory.as_deref()).await? {
                    Ok(files) => files,
                    Err(reason) => return Ok(Outcome::skipped(reason)),
                };
                match remote {
                    Work::GitHub(dispatcher) => dispatcher.run(event, cx, &files).await,
                    Work::Buildbot(master) => master.run(event, cx, &files).await,
                    Work::Local(_) => unreachable!("the arm above has it"),
                }
            }
        }
    }
}

impl Check {
    /// The files of the events that are a reason to run, or why there is none.
    async fn files(&self, cx: &Context, directory: Option<&Path>) -> Result<Result<Vec<String>, String>, HandlerError> {
        let all = || distinct(cx.burst().iter().filter_map(|event| event.file_path()).filter(|file| !file.is_empty() && !file.contains('\0')));
        match self.trigger {
            Trigger::Any => return Ok(Ok(all())),
            Trigger::Pushes if cx.burst().iter().any(|event| writes::is_commit_or_push(event)) => return Ok(Ok(all())),
            Trigger::Pushes => return Ok(Err("the event tells of no commit and no push".to_owned())),
            Trigger::Writes => {}
        }
        let mut files = Vec::new();
        let (mut is_let_through, mut reason) = (false, None);
        for event in cx.burst() {
            match writes::written(event, &self.paths) {
                Ok(Some(file)) => files.push(file),
                Ok(None) => is_let_through = true,
                Err(why) => reason = Some(why),
            }
        }
        let mut files = distinct(files.into_iter());
        if files.is_empty() && !is_let_through {
            return Ok(Err(reason.unwrap_or_else(|| "no event of the burst is a write".to_owned())));
        }
        if let (Some(git), Some(directory), false) = (&self.git, directory, files.is_empty()) {
            files = repository::counted(cx, git, directory, &self.roots, files).await?;
            if files.is_empty() && !is_let_through {
                return Ok(Err(format!("what was written lies outside of the repository of `{}`, or is ignored by git", directory.display())));
            }
        }
        Ok(Ok(files))
    }
}

/// A run is for one place: the others of a burst that was gathered by something else would go without.
fn only_one<'t>(values: impl Iterator<Item = &'t str>, what: &str, field: &str) -> Result<(), HandlerError> {
    let values = distinct(values);
    if values.len() <= 1 {
        return Ok(());
    }
    Err(HandlerError::reject(format!("the burst has {} {what}, and a run is for one: write `coalesce = {{ by = \"{field}\", … }}`, and redrive", values.len())))
}

register!(Ci);
