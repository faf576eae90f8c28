//! A directory of its own for a test: configuration, store, and the commands that run in it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Service, binary};

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
        let mut command = Command::new(binary());
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
