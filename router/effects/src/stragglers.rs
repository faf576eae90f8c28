//! Ends what a command leaves behind: its process group, its descendants, and whatever carries the command's mark.
//!
//! Every child gets two variables, the handling and a number of its own. A grandchild that left the group (`setsid`) still carries
//! them, and one that dropped its environment is found through its parents while those live. A process that does both and outlives
//! its parents escapes; only a container or control group would hold it.

use std::{collections::HashMap, fs, io::Read as _, os::fd::OwnedFd, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// The handling that a child works for.
pub(crate) const HANDLING: &str = "EVENT_ROUTER_HANDLING";
/// The one command among those of the handling.
pub(crate) const COMMAND: &str = "EVENT_ROUTER_COMMAND";

/// Of one environment; the rest is not looked at.
const ENVIRON_BYTES_MAX: u64 = 1024 * 1024;
/// Processes that make new ones while we look are looked for again, this often.
const ROUNDS_MAX: usize = 20;
/// Descendants that are held open at once.
const DESCENDANTS_MAX: usize = 256;

/// What one command's processes carry.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    entries: Vec<Vec<u8>>,
}

impl Mark {
    pub(crate) fn new(handling: &str, command: &str) -> Self {
        Self { entries: vec![format!("{HANDLING}={handling}").into_bytes(), format!("{COMMAND}={command}").into_bytes()] }
    }

    fn is_in(&self, environ: &[u8]) -> bool {
        self.entries.iter().all(|entry| environ.split(|byte| *byte == 0).any(|variable| variable == entry))
    }
}

/// Ends every process that was started for `handling`, by this router or one before it on this machine, and says how many. For a
/// handling whose router died: its children are found by what they carry. Takes some milliseconds; finds nothing without `/proc`.
pub fn end_stragglers(handling: &str) -> usize {
    end_marked(&Mark { entries: vec![format!("{HANDLING}={handling}").into_bytes()] })
}

/// Ends every process that carries the mark, and says how many.
pub(crate) fn end_marked(mark: &Mark) -> usize {
    let mut ended = std::collections::HashSet::new();
    for round in 0..ROUNDS_MAX {
        if round > 0 {
            // For those that were just ended to go, and for a fork under way to show.
            std::thread::sleep(Duration::from_millis(5));
        }
        let found: Vec<i32> = process_ids().filter(|&pid| end_if_marked(pid, mark)).collect();
        if found.is_empty() {
            break;
        }
        ended.extend(found);
    }
    ended.len()
}

fn end_if_marked(pid: i32, mark: &Mark) -> bool {
    // Cheap first; most processes are somebody else's.
    if !environ(pid).is_some_and(|environ| mark.is_in(&environ)) {
        return false;
    }
    // The number may have gone to another process by now. A descriptor stands for one process only, so after it is open, look again.
    let Some(process) = open(pid) else { return false };
    environ(pid).is_some_and(|environ| mark.is_in(&environ)) && pidfd_send_signal(&process, Signal::KILL).is_ok()
}

fn environ(pid: i32) -> Option<Vec<u8>> {
    let mut environ = Vec::new();
    fs::File::open(format!("/proc/{pid}/environ")).ok()?.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ).ok()?;
    Some(environ)
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// All processes but our own.
fn process_ids() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |&pid| pid != own && pid > 1)
}

/// Holds of the processes below one, so that they can be ended after their parents are gone.
#[derive(Debug, Default)]
pub(crate) struct Descendants {
    processes: Vec<OwnedFd>,
}

impl Descendants {
    /// Those that are there now.
    pub(crate) fn of(root: Pid) -> Self {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for pid in process_ids() {
            if let Some(parent) = parent_of(pid) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut processes = Vec::new();
        let mut open_ends = vec![root.as_raw_pid()];
        while let Some(pid) = open_ends.pop() {
            for child in children.remove(&pid).unwrap_or_default() {
                if processes.len() == DESCENDANTS_MAX {
                    return Self { processes };
                }
                // Opened, then asked again for its parent: the number may have changed hands.
                if let Some(process) = open(child).filter(|_| parent_of(child) == Some(pid)) {
                    processes.push(process);
                }
                open_ends.push(child);
            }
        }
        Self { processes }
    }

    pub(crate) fn end(&self) {
        for process in &self.processes {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it can have spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A command's process group. Dropped while the command runs, it ends all of it: so a handling that is cut off leaves nothing.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    mark: Mark,
    over: bool,
}

impl Group {
    /// The group that `leader` leads.
    pub(crate) fn new(leader: Pid, mark: Mark) -> Self {
        Self { leader, mark, over: false }
    }

    pub(crate) fn leader(&self) -> Pid {
        self.leader
    }

    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Sends a signal to all of its members; none left is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.leader, signal);
    }

    /// Nothing is left to end.
    pub(crate) fn release(mut self) {
        self.over = true;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let descendants = Descendants::of(self.leader);
        self.signal(Signal::KILL);
        descendants.end();
        let mark = self.mark.clone();
        // Looking through all processes can take longer than an async thread may be held.
        let search = std::thread::Builder::new().name("stragglers".to_owned()).spawn(move || end_marked(&mark));
        if let Err(error) = search {
            tracing::warn!(%error, "processes that a command left behind were not searched for");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_whole_variables_and_all_of_them() {
        let mark = Mark::new("h1", "7");
        assert!(mark.is_in(b"A=1\0EVENT_ROUTER_HANDLING=h1\0EVENT_ROUTER_COMMAND=7\0"));
        assert!(!mark.is_in(b"EVENT_ROUTER_HANDLING=h1\0EVENT_ROUTER_COMMAND=77\0"));
        assert!(!mark.is_in(b"EVENT_ROUTER_HANDLING=h1\0"));
        assert!(!mark.is_in(b"X=EVENT_ROUTER_HANDLING=h1\0EVENT_ROUTER_COMMAND=7\0"));
        assert!(!mark.is_in(b""));
    }

    #[test]
    fn a_parent_is_read_past_an_odd_name() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent_of(own), rustix::process::getppid().map(Pid::as_raw_pid));
        assert_eq!(parent_of(i32::MAX), None);
    }
}
