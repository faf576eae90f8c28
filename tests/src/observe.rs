//! Waiting for what other processes do, and saying what could not be looked at.

use std::time::{Duration, Instant};

/// Longer than anything should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Looks until `look` finds something, and returns it. For what no event tells: files that other processes write.
///
/// # Panics
///
/// When it has found nothing after five minutes.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Says aloud that something was left out, and why: `a full disk, since no file system may be mounted here`.
#[expect(clippy::print_stderr, reason = "a test that is left out is said aloud")]
pub fn untested(what: &str) {
    eprintln!("\n!!! NOT TESTED: {what} !!!\n");
}

/// Was this process started with `signal` ignored? What it starts is, too.
///
/// # Panics
///
/// When the system does not say.
#[must_use]
pub fn is_ignored(signal: rustix::process::Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process may look at itself");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("it says so");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("it is a number");
    ignored >> (signal.as_raw() - 1) & 1 == 1
}
