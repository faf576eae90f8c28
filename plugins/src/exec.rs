//! `exec`: a command of the operator's own, with the event on its standard input and its exit code as the answer. With `keep_alive` the
//! command stays: what goes in and out then is in `exec/kept_alive.rs`, who holds the process is the performer of effects.

mod kept_alive;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use router_api::{
    ArgvTemplate, BuildContext, BuildError, CommandReply, CommandRequest, Context, EffectClass, EffectError, Envelope, Handler, HandlerError, KeepAlive, Lease,
    Outcome, Plugin, Program, Scope, Template, excerpt, register,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    directory::{Directory, Roots, roots_without_template},
    environment::Environment,
};

/// Runs a command for each event, or for each burst, with the event as JSON on its standard input. Its exit code says what came of it.
///
/// There is no shell: each element of `command` becomes exactly one argument, whatever the event holds. The command sees a small fixed
/// environment and what `env` adds; it runs in a process group of its own, which is ended when the time is over. It may be run again
/// for the same event (after a crash, or when it asked for that), so make it safe to repeat.
///
/// With `keep_alive = true` the command is started once and stays: each event is a line of JSON on its standard input, and a line of
/// JSON on its standard output is the verdict. `docs/without-rust.md` describes both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments, such as `["notify", "--title", "{{ tool_name }}"]`. The program is found when the route is
    /// loaded. Elements after it may be templates; `{{ files }}` alone becomes `--` and one argument for each file of the burst.
    command: ArgvTemplate,
    /// What the standard input holds: `event` (the newest event's bytes as they came, the default), `burst-lines` (all events of the
    /// burst, oldest first, one line of JSON each) or `none`.
    #[serde(default)]
    input: Input,
    /// The directory to run in, such as `{{ working_directory }}`. It must be absolute; one without a template may be relative to the
    /// configuration's file. Default: the directory of that file.
    cwd: Option<Template>,
    /// Directories below which a `cwd` from an event must lie; an event that names another one goes to the dead letters. Without
    /// roots any directory is taken. No symbolic link leads out of them.
    #[serde(default)]
    roots: Vec<PathBuf>,
    /// Variables for the command, such as `SESSION = "{{ session_id }}"`. Values may be templates, except where a value would decide
    /// what is run (`PATH`, `LD_PRELOAD`, `PYTHONPATH`, …).
    #[serde(default)]
    env: BTreeMap<String, Template>,
    /// How long one run may take, in milliseconds. Then it is ended and tried again later. Default: as long as the route's
    /// `timeout_ms` lets it.
    timeout_ms: Option<u64>,
    /// What exit codes mean. A code that is in no list, and an end by a signal, means: try again.
    exit_codes: Option<ExitCodes>,
    /// Start the command once and keep it: one line of JSON in for each event (with `input = "burst-lines"` for each burst), one line
    /// with the verdict out. It is started again when it ends, prints nonsense, or exceeds the time for an event. Default: false.
    #[serde(default)]
    keep_alive: bool,
    /// With `keep_alive`: how many processes there may be at most, 1 to 64. When all of them are busy, one is given a further event
    /// before it has answered the last. Default: one for each event under way, so as many as the route's `concurrency`.
    processes: Option<NonZeroU16>,
    /// With `keep_alive`: after so many seconds without work the process is ended, and started again by the next event. Default: 900.
    idle_s: Option<u64>,
}

/// The most that `processes` may say.
const PROCESSES_MAX: u16 = 64;
const IDLE_S: u64 = 900;

#[derive(Deserialize, JsonSchema, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Input {
    #[default]
    Event,
    BurstLines,
    None,
}

/// Exit codes by what they mean. The defaults are those of `sysexits.h`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ExitCodes {
    /// The work is done. Default: 0, which is always in it unless `skip` has it.
    done: BTreeSet<u8>,
    /// There was nothing to do; the end of the output is the reason. Default: none.
    skip: BTreeSet<u8>,
    /// Try again later, counting an attempt. Default: 75 (temporary failure).
    retry: BTreeSet<u8>,
    /// Never try again, to the dead letters. Default: 64 (usage), 65 (bad data), 78 (bad configuration).
    reject: BTreeSet<u8>,
    /// What the command needs is down for every event: stop the route for a while, counting no attempt. Default: 69 (unavailable).
    pause: BTreeSet<u8>,
}

impl Default for ExitCodes {
    fn default() -> Self {
        Self { done: [0].into(), skip: [].into(), retry: [75].into(), reject: [64, 65, 78].into(), pause: [69].into() }
    }
}

impl ExitCodes {
    fn check(&self) -> Result<(), BuildError> {
        let lists = [("done", &self.done), ("skip", &self.skip), ("retry", &self.retry), ("reject", &self.reject), ("pause", &self.pause)];
        let mut error = BuildError::default();
        let mut told = |list: &str, message: String| error.problems.extend(BuildError::at(format!("exit_codes.{list}"), message).problems);
        for (index, (list, codes)) in lists.iter().enumerate() {
            for (earlier, other) in &lists[..index] {
                for code in codes.intersection(other) {
                    told(list, format!("{code} is in `{earlier}` too"));
                }
            }
            if codes.contains(&0) && !matches!(*list, "done" | "skip") {
                told(list, "0 always means success".to_owned());
            }
        }
        error.into_result()
    }

    fn outcome(&self, reply: CommandReply) -> Result<Outcome, HandlerError> {
        let code = reply.code.and_then(|code| u8::try_from(code).ok());
        let is_in = |codes: &BTreeSet<u8>| code.is_some_and(|code| codes.contains(&code));
        if is_in(&self.skip) {
            let output = if reply.stdout.is_empty() { &reply.stderr } else { &reply.stdout };
            let text = String::from_utf8_lossy(output);
            let reason = text.trim().lines().last().unwrap_or("the command had nothing to do");
            return Ok(Outcome::skipped(excerpt(reason.as_bytes())));
        }
        if is_in(&self.done) {
            return Ok(Outcome::Done);
        }
        let (reject, pause) = (is_in(&self.reject), is_in(&self.pause));
        match reply.ok() {
            // 0 is in no other list than `done` and `skip`.
            Ok(_) => Ok(Outcome::Done),
            Err(mut error) => {
                if reject {
                    error.class = EffectClass::Refused;
                } else if pause {
                    error.class = EffectClass::Unreachable;
                }
                Err(error.into())
            }
        }
    }
}

#[async_trait]
impl Plugin for Exec {
    const NAME: &'static str = "exec";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        let program = error.collect(cx.program("command.0", self.command.program()));
        let environment = error.collect(Environment::new(self.env));
        let exit_codes_given = self.exit_codes.is_some();
        let exit_codes = self.exit_codes.unwrap_or_default();
        error.collect(exit_codes.check());
        if self.timeout_ms == Some(0) {
            error.problems.extend(BuildError::at("timeout_ms", "0 leaves no time to run").problems);
        }
        let has_template = self.cwd.as_ref().is_some_and(|cwd| !cwd.is_literal());
        if !self.roots.is_empty() && !has_template {
            error.problems.extend(roots_without_template().problems);
        }
        let mut told = |field: &str, message: &str, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        if self.keep_alive {
            if exit_codes_given {
                told("exit_codes", "has no effect with `keep_alive`", "remove it; the line that the command answers says what came of the event");
            }
            if matches!(self.input, Input::None) {
                told("input", "`none` leaves nothing to answer with `keep_alive`", "remove it, or `keep_alive`");
            }
            if self.processes.is_some_and(|processes| processes.get() > PROCESSES_MAX) {
                told("processes", "64 are the limit", "give one process more than one event at a time, or use several routes");
            }
            if self.idle_s == Some(0) {
                told("idle_s", "0 would end the command at once", "leave it out for 900");
            }
        } else {
            for (field, given) in [("processes", self.processes.is_some()), ("idle_s", self.idle_s.is_some())] {
                if given {
                    told(field, "has no effect without `keep_alive`", "add `keep_alive = true`, or remove it");
                }
            }
        }
        let (Some(program), Some(environment), true) = (program, environment, error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Command {
            program,
            command: self.command,
            input: self.input,
            directory: self.cwd.map_or_else(|| Directory::Fixed(cx.base_dir.clone()), |cwd| Directory::new(cwd, cx)),
            roots: Roots::new(&self.roots, cx),
            environment,
            timeout: self.timeout_ms.map(Duration::from_millis),
            exit_codes,
            kept: self.keep_alive.then(|| Kept { lease: Lease::new(), processes: self.processes, idle: Duration::from_secs(self.idle_s.unwrap_or(IDLE_S)) }),
        }))
    }
}

struct Command {
    program: Program,
    command: ArgvTemplate,
    input: Input,
    directory: Directory,
    roots: Roots,
    environment: Environment,
    timeout: Option<Duration>,
    exit_codes: ExitCodes,
    kept: Option<Kept>,
}

/// What `keep_alive` says. Its processes end with it.
struct Kept {
    lease: Lease,
    processes: Option<NonZeroU16>,
    idle: Duration,
}

impl Command {
    fn request(&self, event: &Envelope, cx: &Context) -> Result<CommandRequest, EffectError> {
        let scope = Scope::of(event, cx);
        let mut request = CommandRequest::new(self.program.clone()).args(self.command.render(&scope)?).cwd(self.directory.of(&scope, &self.roots)?);
        request.below = self.roots.paths().collect();
        request.timeout = self.timeout;
        request.stdin = match self.input {
            Input::Event => Some(event.raw().clone()),
            Input::BurstLines => Some(lines(cx.burst().iter().map(|event| event.raw()))),
            Input::None => None,
        };
        if let Some(kept) = &self.kept {
            let (id, line) = kept_alive::line(event, cx, matches!(self.input, Input::BurstLines));
            request.stdin = Some(line);
            request.keep_alive = Some(KeepAlive { id, processes: kept.processes, idle: kept.idle, leased: kept.lease.leased() });
        }
        self.environment.fill(request, &scope)
    }
}

#[async_trait]
impl Handler for Command {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let reply = cx.command(self.request(event, cx)?).named("exec").await?;
        if self.kept.is_some() {
            return kept_alive::outcome(&reply, cx);
        }
        self.exit_codes.outcome(reply)
    }
}

/// One line for each body. Line breaks within JSON stand between values only (in a text they are escaped), so a space does as well.
fn lines<'b>(bodies: impl Iterator<Item = &'b Bytes>) -> Bytes {
    let mut lines = BytesMut::new();
    for body in bodies {
        put_on_one_line(&mut lines, body);
        lines.put_u8(b'\n');
    }
    lines.freeze()
}

fn put_on_one_line(line: &mut BytesMut, body: &[u8]) {
    let at = line.len();
    line.put_slice(body);
    for byte in &mut line[at..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

register!(Exec);
