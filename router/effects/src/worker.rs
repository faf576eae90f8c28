//! One program that is kept running: lines in, answers out, and how it ends.
//!
//! A task of its own supervises each process: it feeds and reads it, and is the only one that ends it. Whoever asks hands a line to
//! [`Worker::submit`] and waits for the line that has the same `id`. One who stops waiting, for whatever reason, ends the process: what
//! it does for an event must not go on when the event is handled again. Which process is asked, and when one is started, is the
//! matter of `worker_pool`.

use std::{
    collections::HashMap,
    io,
    process::ExitStatus,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use router_api::{KeepAlive, excerpt, last_line};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin},
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    command::{Pipes, Started, end, shortened},
    output::Tail,
    stragglers::Group,
};

/// Of one line that a program prints.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Lines in a row that answer nothing; after so many the program is started anew.
const GARBAGE_MAX: u32 = 10;
/// Lines that one process is given before it has answered the first.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// For what is still in the pipes once the program has ended or closed one.
const PIPES_DRAIN: Duration = Duration::from_millis(500);

/// Why a process answered no more.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Follows the program's name: `ended with exit code 1 before it answered`.
    pub(crate) how: String,
    /// The end of what it said on its standard error.
    pub(crate) detail: Option<String>,
    /// It ended by its own will, between two events: the line may be given to the next process.
    pub(crate) had_enough: bool,
}

type Answer = Result<Bytes, Ended>;

/// One process.
pub(crate) struct Worker {
    state: Mutex<State>,
    end_now: Notify,
    stderr: Mutex<Tail>,
    answered: AtomicU64,
    /// It was told to end; its end is no failure.
    wanted: AtomicBool,
    over: watch::Sender<bool>,
}

struct State {
    /// None: it takes no more lines.
    lines: Option<mpsc::Sender<Bytes>>,
    waiting: HashMap<String, oneshot::Sender<Answer>>,
    quiet_since: Instant,
}

/// How a supervised process came to its end.
enum End {
    Exited(io::Result<ExitStatus>),
    /// It closed its standard output or input.
    Closed(&'static str),
    Garbage(String),
    /// Somebody stopped waiting for an answer.
    Abandoned,
    /// It was told to end by the end of its input, and did not.
    Late,
}

impl Worker {
    /// Supervises a program that was just started, until its end; then `ended` is called. It is given its first line before anybody
    /// looks at it: one that ends at once must fail this line and not be started again for it.
    pub(crate) fn supervise(
        started: Started,
        route: String,
        (id, line): (&str, Bytes),
        stderr_bytes_max: usize,
        idle: Duration,
        grace: Duration,
        ended: impl FnOnce(&Self) + Send + 'static,
    ) -> (Arc<Self>, Asked) {
        let (lines, receiver) = mpsc::channel(IN_FLIGHT_MAX);
        let worker = Arc::new(Self {
            state: Mutex::new(State { lines: Some(lines), waiting: HashMap::new(), quiet_since: Instant::now() }),
            end_now: Notify::new(),
            stderr: Mutex::new(Tail::new(stderr_bytes_max)),
            answered: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            over: watch::Sender::new(false),
        });
        let asked = worker.submit(id, line).expect("a worker that has no line yet takes one");
        let supervised = Arc::clone(&worker);
        tokio::spawn(async move {
            // Also when the runtime drops this task: nobody may wait for ever.
            let on_end = OnEnd { worker: Arc::clone(&supervised), ended: Some(ended) };
            supervised.run(started, &route, receiver, idle, grace).await;
            drop(on_end);
        });
        (worker, asked)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a worker")
    }

    /// How many lines wait for their answer; none if it takes no more.
    pub(crate) fn load(&self) -> Option<usize> {
        let state = self.lock();
        state.lines.as_ref().map(|_| state.waiting.len())
    }

    /// Since when it has had nothing to do.
    pub(crate) fn quiet_since(&self) -> Instant {
        self.lock().quiet_since
    }

    /// Its process is gone.
    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Resolves when its process is gone.
    pub(crate) async fn over(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// How many answers it has given.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// It was told to end, so that its end is no failure.
    pub(crate) fn was_told_to_end(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Tells it to end: it gets no more lines, and its input is closed once it has read those that it has.
    pub(crate) fn close(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        self.lock().lines = None;
    }

    /// Gives it a line. None if it takes no more, or has `id` under way already.
    pub(crate) fn submit(self: &Arc<Self>, id: &str, line: Bytes) -> Option<Asked> {
        let mut state = self.lock();
        if state.waiting.contains_key(id) {
            return None;
        }
        state.lines.as_ref()?.try_send(line).ok()?;
        let (sender, answer) = oneshot::channel();
        state.waiting.insert(id.to_owned(), sender);
        Some(Asked { worker: Arc::clone(self), id: id.to_owned(), answer })
    }

    async fn run(&self, started: Started, route: &str, lines: mpsc::Receiver<Bytes>, idle: Duration, grace: Duration) {
        let Started { mut child, group, name } = started;
        tracing::debug!(route, program = %name, pid = group.leader().as_raw_pid(), "a program is kept running");
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ended = {
            let feeding = write_lines(stdin, lines, grace);
            let answers = self.read_answers(stdout, route, &name);
            let errors = self.read_errors(stderr);
            let idling = self.close_when_idle(idle);
            tokio::pin!(feeding, answers, errors, idling);
            let (mut errors_over, mut answers_over, mut idling_over) = (false, false, false);
            let ended = loop {
                tokio::select! {
                    end = &mut answers => { answers_over = true; break end; }
                    end = &mut feeding => break end,
                    status = child.wait() => break End::Exited(status),
                    () = self.end_now.notified() => break End::Abandoned,
                    () = &mut errors, if !errors_over => errors_over = true,
                    () = &mut idling, if !idling_over => idling_over = true,
                }
            };
            self.lock().lines = None;
            // What it printed before it ended still counts, and why it ended is often in its last words.
            let still_open = async {
                tokio::join!(
                    async {
                        if !answers_over {
                            answers.await;
                        }
                    },
                    async {
                        if !errors_over {
                            errors.await;
                        }
                    }
                );
            };
            match ended {
                End::Exited(_) => {
                    group.signal(Signal::KILL);
                    let _ = timeout(PIPES_DRAIN, still_open).await;
                    ended
                }
                End::Closed(_) => match timeout(PIPES_DRAIN, async { tokio::join!(child.wait(), still_open).0 }).await {
                    Ok(status) => End::Exited(status),
                    Err(_) => ended,
                },
                End::Garbage(_) | End::Abandoned | End::Late => ended,
            }
        };
        // One that has answered may take its leave with exit code 0, say after so many events.
        let had_enough = matches!(&ended, End::Exited(Ok(status)) if status.success()) && self.answered() > 0;
        if had_enough {
            self.wanted.store(true, Ordering::Relaxed);
        }
        let told = self.was_told_to_end();
        let how = ended.how();
        match ended {
            End::Exited(_) => group.release(),
            _ => self.end_group(&mut child, group, grace).await,
        }
        if told {
            tracing::debug!(route, program = %name, "a program that was kept running has ended");
        } else {
            let said = last_line(&self.stderr_so_far()).unwrap_or_default();
            tracing::warn!(route, program = %name, said, "`{name}` {how}; the next event starts it again");
        }
        self.fail_all(&how, had_enough);
    }

    async fn end_group(&self, child: &mut Child, group: Group, grace: Duration) {
        end(child, group, grace, &mut Pipes::none()).await;
    }

    fn stderr_so_far(&self) -> Bytes {
        self.stderr.lock().expect("no code panics while it holds an output").so_far()
    }

    /// Whoever still waits is told.
    fn fail_all(&self, how: &str, had_enough: bool) {
        let waiting = {
            let mut state = self.lock();
            state.lines = None;
            std::mem::take(&mut state.waiting)
        };
        if waiting.is_empty() {
            return;
        }
        let stderr = self.stderr_so_far();
        let how = match last_line(&stderr) {
            Some(said) => format!("{how}: {said}"),
            None => how.to_owned(),
        };
        let detail = (!stderr.is_empty()).then(|| excerpt(&stderr[stderr.len().saturating_sub(1_200)..]));
        let ended = Ended { how, detail, had_enough };
        for sender in waiting.into_values() {
            let _ = sender.send(Err(ended.clone()));
        }
    }

    async fn read_answers(&self, stdout: Option<impl AsyncRead + Unpin>, route: &str, name: &str) -> End {
        let Some(mut stdout) = stdout else { return End::Closed("output") };
        let (mut line, mut buffer, mut garbage) = (Vec::new(), vec![0; 16 * 1024], 0);
        while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
            let mut rest = &buffer[..length];
            while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&rest[..at]);
                rest = &rest[at + 1..];
                let whole = std::mem::take(&mut line);
                if whole.len() > LINE_BYTES_MAX {
                    return too_long();
                }
                if whole.trim_ascii().is_empty() {
                    continue;
                }
                if self.answer(&whole) {
                    garbage = 0;
                    continue;
                }
                garbage += 1;
                let shown = shortened(&String::from_utf8_lossy(&whole[..whole.len().min(512)]));
                tracing::warn!(route, program = %name, line = shown, "`{name}` printed a line that answers no event; what is for people belongs on its standard error");
                if garbage >= GARBAGE_MAX {
                    return End::Garbage(format!("printed {GARBAGE_MAX} lines in a row that answer no event, the last one `{shown}`"));
                }
            }
            line.extend_from_slice(rest);
            if line.len() > LINE_BYTES_MAX {
                return too_long();
            }
        }
        End::Closed("output")
    }

    /// Hands an answer to whoever waits for it. False if nobody does.
    fn answer(&self, line: &[u8]) -> bool {
        let Some(id) = KeepAlive::id_of(line) else { return false };
        let mut state = self.lock();
        let Some(sender) = state.waiting.remove(&id) else { return false };
        state.quiet_since = Instant::now();
        self.answered.fetch_add(1, Ordering::Relaxed);
        let _ = sender.send(Ok(Bytes::copy_from_slice(line)));
        true
    }

    async fn read_errors(&self, stderr: Option<impl AsyncRead + Unpin>) {
        let Some(mut stderr) = stderr else { return };
        let mut buffer = vec![0; 4 * 1024];
        while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
            self.stderr.lock().expect("no code panics while it holds an output").push(&buffer[..length]);
        }
    }

    /// Returns once it takes no more lines, be it that it had nothing to do for so long.
    async fn close_when_idle(&self, idle: Duration) {
        loop {
            let wake = {
                let mut state = self.lock();
                if state.lines.is_none() {
                    return;
                }
                let due = state.quiet_since + idle;
                if state.waiting.is_empty() && due <= Instant::now() {
                    state.lines = None;
                    self.wanted.store(true, Ordering::Relaxed);
                    return;
                }
                // While it works it is looked at again after a whole time of idleness.
                if state.waiting.is_empty() { due } else { Instant::now() + idle.max(Duration::from_millis(100)) }
            };
            sleep_until(wake).await;
        }
    }
}

impl End {
    fn how(&self) -> String {
        match self {
            Self::Exited(Ok(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "ended".to_owned(),
            },
            Self::Exited(Err(error)) => format!("was lost: {error}"),
            Self::Closed(which) => format!("closed its standard {which} and was ended"),
            Self::Garbage(how) => format!("{how}, and was ended"),
            Self::Abandoned => "was ended, since one of its events was cancelled or took too long".to_owned(),
            Self::Late => "was ended, since it went on after the end of its input".to_owned(),
        }
    }
}

fn too_long() -> End {
    End::Garbage(format!("printed a line of more than {LINE_BYTES_MAX} bytes"))
}

/// Writes lines as they come, and closes the input when there will be no more; returns when the program is to be ended.
async fn write_lines(stdin: Option<ChildStdin>, mut lines: mpsc::Receiver<Bytes>, grace: Duration) -> End {
    let Some(mut stdin) = stdin else { return End::Closed("input") };
    while let Some(line) = lines.recv().await {
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return End::Closed("input");
        }
    }
    let _ = stdin.shutdown().await;
    drop(stdin);
    sleep(grace).await;
    End::Late
}

/// A line that waits for its answer. Dropped before, it ends the process.
pub(crate) struct Asked {
    worker: Arc<Worker>,
    id: String,
    answer: oneshot::Receiver<Answer>,
}

impl Asked {
    /// The line with the same `id`, or why there will be none.
    pub(crate) async fn answer(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Ended { how: "was ended together with the router".to_owned(), detail: None, had_enough: false }),
        }
    }

    /// Ends the process and waits until it is gone.
    pub(crate) async fn give_up(self) {
        let worker = Arc::clone(&self.worker);
        drop(self);
        worker.over().await;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.worker.lock();
        if state.waiting.remove(&self.id).is_some() {
            state.lines = None;
            drop(state);
            self.worker.end_now.notify_one();
        }
    }
}

struct OnEnd<F: FnOnce(&Worker)> {
    worker: Arc<Worker>,
    ended: Option<F>,
}

impl<F: FnOnce(&Worker)> Drop for OnEnd<F> {
    fn drop(&mut self) {
        self.worker.fail_all("was ended together with the router", false);
        self.worker.over.send_replace(true);
        if let Some(ended) = self.ended.take() {
            ended(&self.worker);
        }
    }
}
