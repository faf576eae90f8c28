//! `ci`: a check that runs where files were written, once for a burst, and whose red result is a finding and no failure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    ArgvTemplate, BuildContext, BuildError, CommandReply, CommandRequest, Context, EffectClass, EffectError, Envelope, Handler, HandlerError, Outcome, Plugin,
    Program, RoutingKey, Scope, Template, display_argv, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    directory::{Directory, Roots, is_below, roots_without_template},
    environment::Environment,
};

/// Runs a check, such as the tests, in the directory where a session writes files.
///
/// Put `coalesce = { by = "working_directory", quiet_ms = 2_000 }` on the route: then a burst of writes makes one run, which may see all their files as
/// `{{ files }}`, and writes that come while it runs make exactly one more.
///
/// After the run the event `ci.run.finished` is emitted, with the payload
/// `{status, exit_code, signal, timed_out, files, events, session_ids, working_directory, git_branch, command, duration_ms,
/// output_tail, error_tail}`, where `status` is `passed` (exit code 0), `failed` (another one) or `error` (ended by a signal, or by
/// `timeout_ms`). Its `correlation_ids` are those of the events that led to it. A run that is not green is a finding, so the events
/// are done with it; only a check that could not be started is tried again.
///
/// After a crash of the router the same run may happen again; checks are safe to repeat.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ci {
    /// The check: program and arguments, such as `["pytest", "-q"]` or `["ruff", "check", "{{ files }}"]`. The program is found when
    /// the route is loaded; there is no shell. `{{ files }}` alone becomes `--` and one argument for each distinct file of the burst.
    /// Files outside the directory of the run are left out; when that leaves none for a command with `{{ files }}`, nothing runs.
    command: ArgvTemplate,
    /// The directory to run in. Default: the event's `working_directory`; an event without one is skipped. One without a template may
    /// be relative to the configuration's file.
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
}

const OUTPUT_TAIL_BYTES_MAX: usize = 64 * 1024;

fn output_tail_bytes() -> usize {
    4_096
}

#[async_trait]
impl Plugin for Ci {
    const NAME: &'static str = "ci";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        let program = error.collect(cx.program("command.0", self.command.program()));
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
        let (Some(program), Some(environment), true) = (program, environment, error.problems.is_empty()) else { return Err(error) };
        let takes_files = self.command.elements().iter().any(|element| element.split_whitespace().collect::<String>() == "{{files}}");
        Ok(Box::new(Check {
            program,
            takes_files,
            command: self.command,
            directory: self.cwd.map(|cwd| Directory::new(cwd, cx)),
            roots: Roots::new(&self.roots, cx),
            environment,
            timeout: self.timeout_ms.map(Duration::from_millis),
            output_tail_bytes: self.output_tail_bytes,
            finished: RoutingKey::new("ci.run.finished").expect("the literal is a key"),
        }))
    }
}

struct Check {
    program: Program,
    command: ArgvTemplate,
    takes_files: bool,
    directory: Option<Directory>,
    roots: Roots,
    environment: Environment,
    timeout: Option<Duration>,
    output_tail_bytes: usize,
    finished: RoutingKey,
}

#[async_trait]
impl Handler for Check {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let scope = Scope::of(event, cx);
        let directory = match (&self.directory, event.working_directory().filter(|text| !text.is_empty())) {
            (Some(directory), _) => directory.of(&scope, &self.roots)?,
            (None, Some(text)) => self.roots.directory(text)?,
            (None, None) => return Ok(Outcome::skipped("the event names no working directory")),
        };
        let files = files_below(cx, &directory);
        if self.takes_files && files.is_empty() {
            return Ok(Outcome::skipped(format!("no file of the event lies in `{}`", directory.display())));
        }
        let scope = scope.with("files", json!(files));

        let mut request = CommandRequest::new(self.program.clone()).args(self.command.render(&scope)?).cwd(&directory).below(self.roots.paths());
        request.timeout = self.timeout;
        let request = self.environment.fill(request, &scope)?;
        let command = display_argv(&request.display_argv());
        let is_own_limit = self.timeout.is_some_and(|timeout| timeout < cx.remaining());

        let (reply, timed_out) = match cx.command(request).named("run").await {
            Ok(reply) => (reply, false),
            Err(EffectError { class: EffectClass::Timeout, .. }) if is_own_limit => {
                (CommandReply { elapsed: self.timeout.unwrap_or_default(), ..CommandReply::default() }, true)
            }
            Err(error) => return Err(error.into()),
        };
        let status = match reply.code {
            Some(0) => "passed",
            Some(_) => "failed",
            None => "error",
        };
        cx.note(in_short(status, &reply, timed_out, files.len()));
        cx.emit(
            &self.finished,
            json!({
                "status": status,
                "exit_code": reply.code,
                "signal": reply.signal,
                "timed_out": timed_out,
                "files": files,
                "events": cx.burst().len(),
                "session_ids": distinct(cx.burst().iter().filter_map(|event| event.session_id())),
                "working_directory": directory.to_string_lossy(),
                "git_branch": event.git_branch(),
                "command": command,
                "duration_ms": u64::try_from(reply.elapsed.as_millis()).unwrap_or(u64::MAX),
                "output_tail": tail(&reply.stdout, self.output_tail_bytes),
                "error_tail": tail(&reply.stderr, self.output_tail_bytes),
            }),
        );
        Ok(Outcome::Done)
    }
}

/// `failed: exit code 1, 7 files, 2.5 s`.
fn in_short(status: &str, reply: &CommandReply, timed_out: bool, files: usize) -> String {
    let ended = match (reply.code, reply.signal) {
        _ if timed_out => "ended at `timeout_ms`".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    format!("{status}: {ended}, {files}, {:.1} s", reply.elapsed.as_secs_f64())
}

/// The files of the burst that the check may be given.
fn files_below(cx: &Context, directory: &Path) -> Vec<String> {
    distinct(cx.burst().iter().filter_map(|event| event.file_path()).filter(|file| is_below(file, directory)))
}

/// In the order of their first mention.
fn distinct<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts.filter(|text| seen.insert(*text)).map(str::to_owned).collect()
}

/// The end of an output, cut at the beginning of a character.
fn tail(output: &[u8], bytes_max: usize) -> Value {
    let cut = &output[output.len().saturating_sub(bytes_max)..];
    let begins_inside = if cut.len() < output.len() { cut.iter().take(3).take_while(|byte| *byte & 0xc0 == 0x80).count() } else { 0 };
    Value::from(String::from_utf8_lossy(&cut[begins_inside..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_begins_with_a_whole_character() {
        assert_eq!(tail("aéz".as_bytes(), 2), "z");
        assert_eq!(tail("aéz".as_bytes(), 3), "éz");
        assert_eq!(tail(b"short", 100), "short");
        assert_eq!(tail(b"\xffx", 100), "\u{fffd}x");
    }

    #[test]
    fn distinct_texts_keep_their_order() {
        assert_eq!(distinct(["b", "a", "b"].into_iter()), ["b", "a"]);
    }
}

register!(Ci);
