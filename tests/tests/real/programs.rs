//! Real programs as child processes, each in a process group of its own that ends with the test.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use router_tests::{Answer, Service, request, workspace};
use rustix::process::{Pid, Signal, kill_process_group};

/// Longer than a real program needs on a loaded machine of two cores; a run that is followed is told of after twice its time.
const PATIENCE: Duration = Duration::from_secs(900);

/// A program of the environment that `tests/prepare-real` made.
///
/// # Panics
///
/// When it is not there, with what to do.
pub fn installed(name: &str) -> PathBuf {
    let told = Command::new(workspace().join("tests/prepare-real")).arg("--where").output().expect("tests/prepare-real runs");
    let tree = PathBuf::from(String::from_utf8_lossy(&told.stdout).trim());
    let path = tree.join("bin").join(name);
    assert!(path.exists(), "{} is not there: run `tests/run --real`, which installs it", path.display());
    path
}

/// A program that runs. It and what it started are killed when it is dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it, its output going to `log`.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log can be written");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be cloned"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    /// Waits until `look` finds something.
    ///
    /// # Panics
    ///
    /// When the program ends, or it takes too long, with its log.
    pub fn until<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = self.child.try_wait().expect("a child can be asked for");
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none(), "it ended ({ended:?}), and still not: {what}\n{}", log());
            assert!(begun.elapsed() < PATIENCE, "still not: {what}\n{}", log());
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// Kills it and what it started, as a power failure would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// A port of the loopback interface that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface is there");
    listener.local_addr().expect("it is bound").port()
}

/// `None` when no answer came, or not all of one.
pub fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    request(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).filter(Answer::is_whole)
}

/// Looks until `look` finds something, with more patience than `eventually` has: real programs are slow.
pub fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// How often the router has said `text`.
pub fn times_said(service: &mut Service, text: &str) -> usize {
    service.log().iter().filter(|line| line.contains(text)).count()
}

/// Waits until the router has said `text` more often than so many times.
pub fn said(service: &mut Service, text: &str, before: usize) {
    patiently(text, || {
        assert!(service.ended().is_none(), "the router ended, and has not said `{text}`:\n{}", service.log().join("\n"));
        (times_said(service, text) > before).then_some(())
    });
}
