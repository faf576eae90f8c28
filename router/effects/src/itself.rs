//! This program once more, as a child that may be killed: for showing what a kill costs.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running copy of this program. Killed when dropped.
#[derive(Debug)]
pub struct Itself {
    child: Child,
}

impl Itself {
    /// Starts the program that runs with other arguments, in `directory`, with these variables and no others. What it says goes to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(arguments: &[&OsStr], directory: &Path, variables: &[(&str, &OsStr)], log: File) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).current_dir(directory).env_clear().envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { child })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it had ended before.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub fn ask_to_end(&self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("the child has no process"))?;
        Ok(kill_process(pid, Signal::TERM)?)
    }
}

impl Drop for Itself {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
