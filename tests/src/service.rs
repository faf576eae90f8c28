//! The service as a child process, observed through its log.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use serde_json::Value;

/// Lines that are kept until a test looks at them; beyond that the newest are dropped, so that a test that looks at none does
/// not stop the service.
const LINES_MAX: usize = 100_000;

/// Longer than anything should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Is it the line of a log that says that all that is wanted is bound?
#[must_use]
pub fn is_ready(line: &str) -> bool {
    line.contains("\"ready\"") || line.ends_with(" ready")
}

/// A running service. Killed when dropped.
pub struct Service {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    address: Option<SocketAddr>,
}

impl Service {
    /// Starts a command that writes its log to its standard error, and waits until it says that it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready.
    #[must_use]
    pub fn start(command: Command) -> Self {
        let mut service = Self::begin(command);
        service.wait_for_door();
        service.wait_for_ready();
        service
    }

    /// Starts a command and waits until its door is open and its log has a line that says that it is ready, or that has `text` in it.
    /// Returns that line too.
    ///
    /// # Panics
    ///
    /// When no such line comes.
    #[must_use]
    pub fn start_until(command: Command, text: &str) -> (Self, String) {
        let mut service = Self::begin(command);
        service.wait_for_door();
        let line = service.wait_for_line(text, |line| line.contains(text) || is_ready(line)).expect("the service says something of the kind");
        (service, line)
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub fn wait_for_ready(&mut self) {
        self.wait_for_line("ready", is_ready).expect("the service becomes ready");
    }

    fn wait_for_door(&mut self) {
        let line = self.wait_for("events come in at").expect("the service says where its door is");
        let after = line.split("http://").nth(1).expect("the line has an address");
        self.address = Some(after.split('/').next().and_then(|address| address.parse().ok()).expect("the address is one"));
    }

    /// Starts a command and waits for nothing.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn begin(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program runs");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.try_send(line);
            }
        });
        Self { child, lines, seen: Vec::new(), address: None }
    }

    /// Where its door is.
    ///
    /// # Panics
    ///
    /// When it was started with [`Service::begin`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("started with `start`")
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a log line that has `text` in it. `None` when the program ended without one.
    ///
    /// # Panics
    ///
    /// When it takes too long, with the lines that came.
    pub fn wait_for(&mut self, text: &str) -> Option<String> {
        self.wait_for_line(text, |line| line.contains(text))
    }

    fn wait_for_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("no line with `{what}` came; there were:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// All lines that came until now.
    pub fn log(&mut self) -> Vec<String> {
        self.seen.extend(self.lines.try_iter());
        self.seen.clone()
    }

    /// Posts an event, and expects that it is taken.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn send(&self, key: &str, event: &Value) {
        let answer = crate::post(self.address(), &format!("/events?key={key}"), &event.to_string()).expect("the door answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When there is no such process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a child has a pid");
        rustix::process::kill_process(pid, signal).expect("the service runs");
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end with exit code 0, with its log.
    pub fn stop(self) -> Vec<String> {
        self.signal(rustix::process::Signal::TERM);
        self.stop_asked()
    }

    /// Waits until it has stopped, after a signal that asked for it.
    ///
    /// # Panics
    ///
    /// When it does not end with exit code 0, with its log.
    #[must_use]
    pub fn stop_asked(mut self) -> Vec<String> {
        let status = self.wait();
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{}", log.join("\n"));
        log
    }

    /// Kills it as a power failure would, as far as a process can tell.
    ///
    /// # Panics
    ///
    /// When it had ended by itself.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("the service runs");
        let status = self.wait();
        let log = self.log();
        assert_eq!(status.signal(), Some(9), "it had ended by itself:\n{}", log.join("\n"));
        log
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    ///
    /// When the process cannot be asked for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When the process cannot be waited for.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("a child can be waited for");
        // The end of the log: the reader ends with the pipe, unless a process that was left behind holds it open.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) {
            self.seen.push(line);
        }
        status
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
