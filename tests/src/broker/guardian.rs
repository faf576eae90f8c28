//! Ends what a test started, however the test ends.
//!
//! A node that all tests of a binary share lives in a `static`, which nobody drops, and a test that is killed drops nothing at all.
//! So a small shell waits beside them: it is told which process groups there are, and when its input ends (because the guardian was
//! dropped, or because the process that held it is gone) it kills them and removes the directory.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::eventually;

const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=
while read -r word group; do
    case "$word" in
        started) groups="$groups $group" ;;
        ended)
            left=
            for other in $groups; do [ "$other" = "$group" ] || left="$left $other"; done
            groups=$left
            ;;
    esac
done
for group in $groups; do kill -KILL "-$group" 2> /dev/null; done
tries=0
while [ "$tries" -lt 150 ]; do
    rm -rf -- "$1" 2> /dev/null && break
    sleep 0.2
    tries=$((tries + 1))
done
"#;

/// The shell, and the directory that it removes at the end.
pub(super) struct Guardian {
    shell: Child,
    input: Mutex<Option<ChildStdin>>,
    directory: PathBuf,
}

impl Guardian {
    /// Begins to watch over `directory`.
    pub(super) fn new(directory: PathBuf) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg("guardian").arg(&directory);
        // A group of its own: what ends the test by its group must not end the guardian first.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut shell = command.spawn().expect("a shell can be started");
        let input = Mutex::new(shell.stdin.take());
        Self { shell, input, directory }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A process group was started.
    pub(super) fn started(&self, group: u32) {
        self.tell("started", group);
    }

    /// A process group has ended, and its number may be somebody else's soon.
    pub(super) fn ended(&self, group: u32) {
        self.tell("ended", group);
    }

    fn tell(&self, word: &str, group: u32) {
        if let Some(input) = self.input.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // A guardian that somebody killed is no reason to fail: the processes are ended by their owners too.
            let _ = writeln!(input, "{word} {group}");
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        if std::thread::panicking() {
            // It ends by itself; a second panic would hide the first.
            return;
        }
        eventually("the guardian has tidied up", || self.shell.try_wait().ok().flatten());
    }
}
