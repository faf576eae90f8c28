//! Commands: an argument vector, a cleared environment, a process group that is ended with its time.
//!
//! The life of a command: checked, started in a group of its own, limited, fed and read at once, waited for. At its limit the group
//! gets SIGTERM, after a grace SIGKILL, and what left the group is searched for. When it ends by itself, what it left in its group is
//! ended too; a process that made a session of its own (`setsid`, a daemon) may stay then. If the handling is cut off, dropping the
//! group ends everything.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use router_api::{BoxFuture, CommandReply, CommandRequest, EffectClass, EffectContext, EffectError, Program, check_variable_name, display_argv, excerpt};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _},
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::{
    Environment, PerformerOptions,
    directory::{Entered, enter},
    output::{Tail, read_all},
    stragglers::{COMMAND, Descendants, Group, HANDLING, Mark, end_marked},
};

/// After the end, for what is still in the pipes; a process outside of the group may hold them open for ever.
const PIPES_DRAIN: Duration = Duration::from_millis(500);
/// After SIGKILL, for the kernel to end a process; one that hangs in the kernel is left to it.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// The system's own limits are near 2 MiB for all and 128 KiB for one.
const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;

/// Tells commands apart, also those of one handling and of several performers in one process.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// What one process of a command may use. `None` leaves what the service itself has.
///
/// Set from outside right after the start, so the first instants of a program run without them; children inherit them. Core dumps
/// are always off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessLimits {
    /// Open files.
    pub files: Option<u64>,
    /// Bytes of one written file.
    pub file_bytes: Option<u64>,
    /// Processes of the router's *user*, all of them together, not of this command alone.
    pub processes: Option<u64>,
    /// Seconds of processor time of one process.
    pub cpu_s: Option<u64>,
}

/// Starts and ends commands.
pub(crate) struct Commands {
    environment: Environment,
    limits: ProcessLimits,
    output_bytes_max: usize,
    stdin_bytes_max: usize,
    grace: Duration,
}

/// Why a command did not come to its own end.
enum Cut {
    Limit,
    Cancelled,
}

impl Commands {
    pub(crate) fn new(options: &PerformerOptions, environment: Environment) -> Self {
        Self {
            environment,
            limits: options.limits,
            output_bytes_max: options.output_bytes_max,
            stdin_bytes_max: options.request_bytes_max,
            grace: options.grace,
        }
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Would the command be refused for what it says?
    pub(crate) fn check(&self, request: &CommandRequest) -> Result<(), EffectError> {
        let forbidden = |message: String| Err(EffectError::new(EffectClass::Forbidden, message));
        for argument in &request.args {
            if argument.contains('\0') {
                return forbidden(format!("the argument `{}` has a NUL byte", shortened(argument)));
            }
            if argument.len() > ARGUMENT_BYTES_MAX {
                let message = format!("the argument `{}` is {} bytes long, {ARGUMENT_BYTES_MAX} are the limit", shortened(argument), argument.len());
                return Err(EffectError::new(EffectClass::Refused, message));
            }
        }
        for (name, value) in &request.env {
            if let Err(error) = check_variable_name(name) {
                return forbidden(error.to_string());
            }
            if value.contains('\0') {
                return forbidden(format!("the value of `{name}` has a NUL byte"));
            }
            if value.len() > ARGUMENT_BYTES_MAX {
                let message = format!("the value of `{name}` is {} bytes long, {ARGUMENT_BYTES_MAX} are the limit", value.len());
                return Err(EffectError::new(EffectClass::Refused, message));
            }
        }
        if request.cwd.as_ref().is_some_and(|cwd| cwd.as_os_str().as_encoded_bytes().contains(&0)) {
            return forbidden("the working directory has a NUL byte".to_owned());
        }
        match request.stdin.as_ref().map(Bytes::len).filter(|&length| length > self.stdin_bytes_max) {
            Some(length) => {
                let message = format!("the standard input is {length} bytes long, {} are the limit", self.stdin_bytes_max);
                Err(EffectError::new(EffectClass::Refused, message))
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn run(&self, request: CommandRequest, cx: &EffectContext) -> Result<CommandReply, EffectError> {
        self.check(&request)?;
        let name = shown_program(&request);
        if cx.cancellation.is_cancelled() {
            return Err(EffectError::new(EffectClass::Cancelled, format!("`{name}` was cancelled before it began")));
        }
        let times = Times::of(request.timeout, cx.remaining, self.grace);
        if times.limit.is_zero() {
            return Err(EffectError::new(EffectClass::Timeout, format!("no time was left to run `{name}`")));
        }
        let begun = Instant::now();
        // From here on, leaving this function by any way ends the group.
        let Started { mut child, group, name } = self.start(&request, &cx.handling)?;

        let (mut stdout, mut stderr) = (Tail::new(self.output_bytes_max), Tail::new(self.output_bytes_max));
        let mut pipes = Pipes::of(&mut child, request.stdin, &mut stdout, &mut stderr);
        let ended = tokio::select! {
            status = pipes.beside(child.wait()) => Ok(status),
            () = sleep_until(begun + times.limit) => Err(Cut::Limit),
            () = cx.cancellation.cancelled() => Err(Cut::Cancelled),
        };
        match &ended {
            Ok(_) => {
                // The leader's number stays taken while anybody is in its group, and is not given out again so soon when nobody is.
                group.signal(Signal::KILL);
                let _ = timeout(PIPES_DRAIN, pipes.closed()).await;
                group.release();
            }
            Err(_) => {
                end(&mut child, group, times.grace, &mut pipes).await;
                let _ = timeout(PIPES_DRAIN / 5, pipes.closed()).await;
            }
        }
        drop(pipes);

        let ((stdout, stdout_cut), (stderr, stderr_cut)) = (stdout.finish(), stderr.finish());
        let elapsed = begun.elapsed();
        match ended {
            Ok(Ok(status)) => {
                tracing::debug!(route = %cx.route, program = %name, code = status.code(), elapsed_ms = elapsed.as_millis(), "a command ended");
                Ok(reply(status, stdout, stderr, stdout_cut + stderr_cut, elapsed))
            }
            Ok(Err(error)) => Err(EffectError::new(EffectClass::Failed, format!("the end of `{name}` was lost")).caused_by(error)),
            Err(cut) => {
                let (class, message) = match cut {
                    Cut::Limit => {
                        let whose = if times.is_own { "its own time limit" } else { "the time that was left for the handling" };
                        (EffectClass::Timeout, format!("`{name}` was ended after {}, {whose}", rounded(times.limit)))
                    }
                    Cut::Cancelled => (EffectClass::Cancelled, format!("`{name}` was ended because the handling was cancelled")),
                };
                tracing::debug!(route = %cx.route, program = %name, elapsed_ms = elapsed.as_millis(), "{message}");
                let mut error = EffectError::new(class, message);
                let output = if stderr.is_empty() { &stdout } else { &stderr };
                error.detail = (!output.is_empty()).then(|| excerpt(&output[output.len().saturating_sub(1_200)..]));
                Err(error)
            }
        }
    }

    /// Starts a program that [`Commands::check`] has passed, in a group of its own and limited. `mark` is what its processes carry.
    pub(crate) fn start(&self, request: &CommandRequest, mark: &str) -> Result<Started, EffectError> {
        let name = shown_program(request);
        let Some(program) = request.program.path() else {
            let message = format!("the program `{name}` was not found when the route was built");
            return Err(EffectError::new(EffectClass::Refused, message));
        };
        // Held until the program has started: it enters what was checked, whatever happens to the path meanwhile.
        let directory = match &request.cwd {
            Some(cwd) => Some(enter(cwd, &request.below)?),
            None => None,
        };
        let number = format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let mark = mark.replace('\0', "");
        // What Rust opens never reaches a child. What the service itself was started with, or a library in C opens, would.
        close_fds::set_fds_cloexec(3, &[]);
        let child = self.command(program, request, directory.as_ref(), &mark, &number).spawn().map_err(|error| spawn_error(&name, &request.program, error))?;
        let Some(leader) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
            return Err(EffectError::new(EffectClass::Failed, format!("`{name}` was gone before it could be watched")));
        };
        let group = Group::new(leader, Mark::new(&mark, &number));
        self.limit(leader);
        Ok(Started { child, group, name })
    }

    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    pub(crate) fn output_bytes_max(&self) -> usize {
        self.output_bytes_max
    }

    fn command(&self, program: &Path, request: &CommandRequest, directory: Option<&Entered>, handling: &str, number: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(&request.args)
            .env_clear()
            .envs(self.environment.variables())
            .envs(request.env.iter().map(|(name, value)| (name, value)))
            .env(HANDLING, handling)
            .env(COMMAND, number)
            .stdin(if request.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // Also reaps it when this future is dropped.
            .kill_on_drop(true);
        if let Some(directory) = directory {
            command.current_dir(directory.path());
        }
        command
    }

    fn limit(&self, leader: Pid) {
        let ProcessLimits { files, file_bytes, processes, cpu_s } = self.limits;
        let limits =
            [(Resource::Core, Some(0)), (Resource::Nofile, files), (Resource::Fsize, file_bytes), (Resource::Nproc, processes), (Resource::Cpu, cpu_s)];
        for (resource, limit) in limits {
            let Some(limit) = limit else { continue };
            match prlimit(Some(leader), resource, Rlimit { current: Some(limit), maximum: Some(limit) }) {
                // A quick program is gone already.
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => tracing::warn!(?resource, %error, "a command runs without one of its limits"),
            }
        }
    }
}

/// A program that runs. Dropping the group ends all of it.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) group: Group,
    /// The program, for a sentence.
    pub(crate) name: String,
}

/// The program, for a sentence.
pub(crate) fn shown_program(request: &CommandRequest) -> String {
    shortened(&display_argv(&request.display_argv()[..1]))
}

/// When a command is asked to end, and how long it may take over it.
pub(crate) struct Times {
    pub(crate) limit: Duration,
    /// The limit is the command's own, not the handling's.
    pub(crate) is_own: bool,
    pub(crate) grace: Duration,
}

impl Times {
    /// The handling ends at `remaining` with all that runs in it; the command is ended before, so that it can be told apart.
    pub(crate) fn of(timeout: Option<Duration>, remaining: Duration, grace_max: Duration) -> Self {
        let available = remaining.saturating_sub((remaining / 10).min(Duration::from_millis(200)));
        let grace = grace_max.min(available / 5);
        let limit = (available - grace).min(timeout.unwrap_or(Duration::MAX));
        Self { limit, is_own: timeout == Some(limit), grace }
    }
}

/// The pipes of a command: feeds and reads it whenever somebody waits for something.
pub(crate) struct Pipes<'a> {
    work: BoxFuture<'a, ()>,
    closed: bool,
}

impl<'a> Pipes<'a> {
    fn of(child: &mut Child, input: Option<Bytes>, stdout: &'a mut Tail, stderr: &'a mut Tail) -> Self {
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let work = async move {
            tokio::join!(feed(stdin, input.unwrap_or_default()), read(out, stdout), read(err, stderr));
        };
        Self { work: Box::pin(work), closed: false }
    }

    /// For a command whose pipes nobody reads any more.
    pub(crate) fn none() -> Self {
        Self { work: Box::pin(std::future::ready(())), closed: true }
    }

    /// Resolves when all of them are closed.
    async fn closed(&mut self) {
        if !self.closed {
            self.work.as_mut().await;
            self.closed = true;
        }
    }

    /// Resolves with `wanted`, and moves the pipes meanwhile.
    async fn beside<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        tokio::pin!(wanted);
        tokio::select! {
            result = &mut wanted => result,
            () = self.closed() => wanted.await,
        }
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>, tail: &mut Tail) {
    if let Some(stream) = stream {
        read_all(stream, tail).await;
    }
}

/// Writes the input and closes it. A program need not read it.
async fn feed(stdin: Option<ChildStdin>, input: Bytes) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(&input).await;
        let _ = stdin.shutdown().await;
    }
}

/// Ends all of a command: asks its group, and after the grace does not ask.
pub(crate) async fn end(child: &mut Child, group: Group, grace: Duration, pipes: &mut Pipes<'_>) {
    let grace_ends = Instant::now() + grace;
    let leader = group.leader();
    // Held before anything ends, since an orphan's parents cannot be followed any more.
    let descendants = tokio::task::spawn_blocking(move || Descendants::of(leader)).await.unwrap_or_default();
    group.signal(Signal::TERM);
    let _ = pipes.beside(timeout_at(grace_ends, child.wait())).await;
    let late = tokio::task::spawn_blocking(move || Descendants::of(leader)).await.unwrap_or_default();
    group.signal(Signal::KILL);
    descendants.end();
    late.end();
    if timeout(KILL_WAIT, child.wait()).await.is_err() {
        tracing::warn!(pid = leader.as_raw_pid(), "a command did not end by SIGKILL within a second; the system will end it when it can");
    }
    let mark = group.mark().clone();
    if tokio::task::spawn_blocking(move || end_marked(&mark)).await.is_ok() {
        group.release();
    }
}

fn reply(status: ExitStatus, stdout: Bytes, stderr: Bytes, bytes_cut: u64, elapsed: Duration) -> CommandReply {
    CommandReply { code: status.code(), signal: status.signal(), stdout, stderr, bytes_cut, elapsed }
}

fn spawn_error(name: &str, program: &Program, error: std::io::Error) -> EffectError {
    use rustix::io::Errno;
    let path = program.path().map(|path| path.display().to_string()).unwrap_or_default();
    let (class, message) = match Errno::from_io_error(&error) {
        Some(Errno::TOOBIG) => (EffectClass::Refused, format!("the arguments of `{name}` are longer than the system takes")),
        // The same for every event: the route waits until somebody has seen to it.
        Some(Errno::NOENT) => (EffectClass::Unreachable, format!("`{path}` is gone, or the interpreter that its first line names")),
        Some(Errno::ACCESS | Errno::PERM) => (EffectClass::Unreachable, format!("`{path}` cannot be executed any more")),
        Some(Errno::NOEXEC) => (EffectClass::Unreachable, format!("`{path}` is no program of this system; a script needs a first line such as `#!/bin/sh`")),
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            (EffectClass::Unreachable, format!("`{name}` could not be started: the system has no room for another process"))
        }
        _ => (EffectClass::Failed, format!("`{name}` could not be started")),
    };
    EffectError::new(class, message).caused_by(error)
}

/// A duration for a sentence: `576 ms`, `2.5 s`, `60 s`.
pub(crate) fn rounded(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 if !ms.is_multiple_of(1_000) => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} s", ms / 1_000),
    }
}

/// For a sentence: escaped, and not longer than a line.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let mut short: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_ended_before_its_handling_is() {
        let second = Duration::from_secs(1);
        for (timeout, remaining) in
            [(None, 60 * second), (Some(60 * second), 60 * second), (Some(59 * second), 60 * second), (None, second), (None, second / 100)]
        {
            let times = Times::of(timeout, remaining, 2 * second);
            assert!(times.limit + times.grace < remaining, "{timeout:?} of {remaining:?}");
            assert!(times.limit * 2 > remaining);
        }
        let times = Times::of(Some(5 * second), 60 * second, 2 * second);
        assert_eq!((times.limit, times.grace), (5 * second, 2 * second));
        assert!(times.is_own && !Times::of(Some(60 * second), 60 * second, 2 * second).is_own);
        assert!(Times::of(None, Duration::ZERO, 2 * second).limit.is_zero());
    }

    #[test]
    fn a_limit_is_told_rounded() {
        let told = [576, 999, 1_000, 2_480, 57_800].map(|ms| rounded(Duration::from_millis(ms) + Duration::from_nanos(123_456)));
        assert_eq!(told, ["576 ms", "999 ms", "1 s", "2.5 s", "57 s"]);
    }
}
