//! A directory of its own for a test: configuration, store, and the commands that run in it.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Service, binary, untested};

/// A user that nothing on the machine belongs to.
const NOBODY: u32 = 64_117;

/// A program as a user that nothing belongs to; only the superuser can start one so.
#[must_use]
pub fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let (id, mut command) = (NOBODY.to_string(), Command::new("setpriv"));
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
    command
}

fn give(path: &Path, user: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user), Some(user))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// The directory.
pub struct Home {
    dir: TempDir,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code.
    pub code: Option<i32>,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl Ran {
    /// From what a command left.
    #[must_use]
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, if the exit code is this one.
    ///
    /// # Panics
    ///
    /// With all that was printed if it is not.
    #[must_use]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The standard output as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr))
    }
}

impl Home {
    /// A directory whose `config/router.toml` begins with a store beside it and a door on a free port, followed by `routes`.
    #[must_use]
    pub fn new(routes: &str) -> Self {
        let home = Self { dir: TempDir::new().expect("a temporary directory can be made") };
        home.configure(routes);
        home
    }

    /// Writes the configuration anew.
    pub fn configure(&self, routes: &str) {
        let text = format!("[store]\npath = \"../state/router.db\"\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n{routes}");
        self.write("config/router.toml", &text);
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the store is.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path().join("state/router.db")
    }

    /// Writes a file below the directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("the directory can be made");
        fs::write(&path, text).expect("the file can be written");
        path
    }

    /// Reads a file below the directory; empty if it is not there.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// The program, in this directory and with an environment that no developer's machine can disturb.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(binary(), args)
    }

    /// The same of another program that has the router in it.
    #[must_use]
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path()).env_clear().stdin(Stdio::null());
        // Not the spool of whoever runs the tests.
        command.env("EVENT_ROUTER_SPOOL", self.path().join("spool"));
        for name in ["PATH", "HOME", "TMPDIR", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// The program as a user without rights, to whom the directory belongs from then on. `None`, said aloud, where that cannot be done: only
    /// the superuser can be somebody else. Who is no superuser has no rights as it is.
    ///
    /// # Panics
    ///
    /// When the directory cannot be given away.
    #[must_use]
    pub fn unprivileged(&self, args: &[&str]) -> Option<Command> {
        let program = self.command(args);
        if !rustix::process::geteuid().is_root() {
            return Some(program);
        }
        give(self.path(), NOBODY).expect("the superuser can give a directory away");
        let mut command = as_nobody(program.get_program());
        command.current_dir(self.path()).env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        // The program, and the directory it lies in, are for everybody on most machines.
        let can_run = as_nobody(program.get_program()).arg("--version").current_dir(self.path()).output();
        if !can_run.as_ref().is_ok_and(|ran| ran.status.success()) {
            let told = can_run.map_or_else(|error| error.to_string(), |ran| String::from_utf8_lossy(&ran.stderr).into_owned());
            untested(&format!("the program as a user without rights, since `setpriv` cannot start it as one: {told}"));
            return None;
        }
        command.args(args);
        Some(command)
    }

    /// Runs a command with further variables to its end.
    #[must_use]
    pub fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Ran {
        Ran::of(self.command(args).envs(variables.iter().copied()).output().expect("the program runs"))
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program runs"))
    }

    /// Runs a command that reads `input`.
    #[must_use]
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        // A command that refuses before it reads closes the pipe; that is for the test to judge.
        let _ = child.stdin.take().expect("stdin is a pipe").write_all(input);
        Ran::of(child.wait_with_output().expect("the program ends"))
    }

    /// Starts the service and waits until it is ready.
    #[must_use]
    pub fn serve(&self) -> Service {
        Service::start(self.command(&["run", "--log-format", "json"]))
    }
}
