//! What nodes share: a directory, a cookie, an `epmd` that tells them of each other, and the guardian.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use super::{guardian::Guardian, installation::Installation, port::Port};
use crate::eventually;

/// A question that finds no connection is asked so often.
const CONNECT_TRIES: u32 = 30;

/// Between two of them.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);

/// How long a node may think about a question, in seconds.
const ANSWER_LIMIT_S: u32 = 120;

/// What the nodes of a broker share. Dropped after the last of them.
pub(super) struct House {
    pub(super) installation: Installation,
    pub(super) guardian: Guardian,
    epmd: Child,
    epmd_port: Port,
    cookie: String,
    /// Names under which a question can be asked: two at once under one name would be refused, and a node never forgets one.
    callers: Mutex<Vec<u32>>,
    callers_made: AtomicU32,
}

impl House {
    /// Builds one.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, with a sentence that says how to get one, and when Erlang's name server does not start.
    pub(super) fn new() -> Self {
        let installation = Installation::find().unwrap_or_else(|why| panic!("{why}"));
        let directory = tempfile::Builder::new().prefix("event-router-broker-").tempdir_in(installation.temporary());
        // Kept: the guardian removes it.
        let guardian = Guardian::new(directory.expect("a temporary directory can be made").keep());
        let cookie = format!("cookie{}", uuid::Uuid::new_v4().simple());
        let path = guardian.directory().join(".erlang.cookie");
        fs::write(&path, &cookie).expect("the cookie can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("the cookie can be made private");

        let epmd_port = Port::reserve();
        let mut command = installation.epmd();
        command.args(["-port", &epmd_port.number().to_string(), "-address", "127.0.0.1", "-relaxed_command_check"]);
        let epmd = start(command, &guardian, "epmd");
        let mut house = Self { installation, guardian, epmd, epmd_port, cookie, callers: Mutex::default(), callers_made: AtomicU32::new(0) };
        let address = house.epmd_port.address();
        eventually("epmd listens", || {
            let ended = house.epmd.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "epmd ended at its start: {}", fs::read_to_string(house.directory().join("epmd.out")).unwrap_or_default());
            std::net::TcpStream::connect(address).ok()
        });
        house
    }

    pub(super) fn directory(&self) -> &Path {
        self.guardian.directory()
    }

    /// What every program of Erlang's needs to know.
    pub(super) fn acquaint(&self, command: &mut Command) {
        command.env("HOME", self.installation.inside(self.directory()));
        command.env("ERL_EPMD_PORT", self.epmd_port.number().to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    }

    /// Starts a program in a process group of its own, its output in `<name>.out` of the directory.
    pub(super) fn start(&self, command: Command, name: &str) -> Child {
        start(command, &self.guardian, name)
    }

    /// Asks the node at a distribution port for the value of an expression.
    pub(super) fn ask(&self, distribution: &Port, definitions: &str, expression: &str) -> Result<Value, String> {
        // The answer goes through a file: `erl_call` prints terms, and not too long ones.
        let answer = self.directory().join(format!("answer-{}", uuid::Uuid::new_v4().simple()));
        let inside = super::erlang::string(&self.installation.inside(&answer).to_string_lossy());
        let question = format!("{definitions} ok = file:write_file({inside}, rabbit_json:encode({expression})), ok.\n");
        let fresh = || self.callers_made.fetch_add(1, Ordering::Relaxed);
        let mut caller = self.free_callers().pop().unwrap_or_else(fresh);
        let mut tries = 0;
        let evaluated = loop {
            let evaluated = self.evaluate(distribution, &format!("ask{}-{caller}", std::process::id()), &question);
            tries += 1;
            // A node under load still holds the last one of the same name for a moment, and lets nobody else of that name in. Nothing
            // was asked yet, so it can be asked again, under another name.
            match &evaluated {
                Err(why) if why.contains("failed to connect") && tries < CONNECT_TRIES => caller = fresh(),
                _ => break evaluated,
            }
            std::thread::sleep(CONNECT_AGAIN);
        };
        self.free_callers().push(caller);
        evaluated?;
        let text = fs::read(&answer).map_err(|error| format!("the node's answer cannot be read: {error}"))?;
        let _ = fs::remove_file(&answer);
        serde_json::from_slice(&text).map_err(|error| format!("the node's answer is no JSON: {error}"))
    }

    fn free_callers(&self) -> MutexGuard<'_, Vec<u32>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evaluate(&self, distribution: &Port, caller: &str, question: &str) -> Result<(), String> {
        use std::io::Write;

        let mut command = self.installation.erl_call(ANSWER_LIMIT_S);
        self.acquaint(&mut command);
        command.args(["-address", &distribution.address().to_string(), "-c", &self.cookie, "-h", caller, "-e"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("`erl_call` cannot be started: {error}"))?;
        // A program that ended early shows by what it printed why it did.
        let _ = child.stdin.take().expect("stdin is a pipe").write_all(question.as_bytes());
        let output = child.wait_with_output().map_err(|error| format!("`erl_call` cannot be waited for: {error}"))?;
        if output.stdout.trim_ascii() == b"{ok, ok}" {
            return Ok(());
        }
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Err(format!("the node did not answer ({}): {stdout}{stderr}\nit was asked: {question}", output.status))
    }
}

fn start(mut command: Command, guardian: &Guardian, name: &str) -> Child {
    let output = fs::OpenOptions::new().create(true).append(true).open(guardian.directory().join(format!("{name}.out"))).expect("the output can be opened");
    let errors = output.try_clone().expect("a file can be had twice");
    // Nothing of ours: a pipe of the tests that lived on in a node would keep whoever reads it waiting.
    command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
    let child = command.spawn().unwrap_or_else(|error| panic!("`{}` cannot be started: {error}", command.get_program().to_string_lossy()));
    guardian.started(child.id());
    child
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
        self.guardian.ended(self.epmd.id());
    }
}
