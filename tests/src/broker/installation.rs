//! Which RabbitMQ the nodes are made of: the one of this machine, or RabbitMQ 4 in a directory tree of its own.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which RabbitMQ is used: unset for the one of this machine, `4` for RabbitMQ 4 in its tree.
const CHOICE: &str = "EVENT_ROUTER_TEST_BROKER";
/// Where the tree of RabbitMQ 4 lies, if not in the user's cache.
const TREE: &str = "EVENT_ROUTER_TEST_RABBITMQ4";

/// Below the user's cache, where `tests/run --rabbitmq4` puts the tree.
const TREE_IN_CACHE: &str = "event-router/rabbitmq-4";

/// Where Debian's package and the others put the server itself. What they put on the path of commands may be a wrapper that insists
/// on being a certain user.
const SERVERS: &[&str] = &["/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server"];

/// Where Erlang's programs are, beside the path of commands.
const ERLANG: &[&str] = &["/usr/lib/erlang", "/usr/local/lib/erlang", "/opt/erlang/lib/erlang"];

/// A RabbitMQ that can be started.
pub(super) struct Installation {
    /// The tree that its programs live in, if that is not the machine's own.
    root: Option<PathBuf>,
    server: PathBuf,
    epmd: PathBuf,
    erl_call: PathBuf,
}

impl Installation {
    /// Finds the one that the environment asks for.
    pub(super) fn find() -> Result<Self, String> {
        match env::var(CHOICE).as_deref() {
            Err(_) | Ok("") => Self::of_this_machine(),
            Ok("4") => Self::in_tree(),
            Ok(other) => Err(format!("`{CHOICE}` is `{other}`; it can be `4`, or unset for the RabbitMQ of this machine")),
        }
    }

    fn of_this_machine() -> Result<Self, String> {
        let server = SERVERS.iter().map(PathBuf::from).find(|path| path.exists()).or_else(server_on_path);
        let server = server.ok_or("this test needs a RabbitMQ, and none is installed: `tests/run` installs one, or says what to install")?;
        Ok(Self { root: None, server, epmd: erlang_program("epmd")?, erl_call: erlang_program("erl_call")? })
    }

    fn in_tree() -> Result<Self, String> {
        let root = env::var_os(TREE).map(PathBuf::from).or_else(|| Some(cache()?.join(TREE_IN_CACHE))).ok_or("neither `XDG_CACHE_HOME` nor `HOME` is set")?;
        let server = PathBuf::from(SERVERS[0]);
        if !root.join("usr/lib/rabbitmq/bin").is_dir() {
            return Err(format!("this test needs RabbitMQ 4, and there is none at `{}`: `tests/run --rabbitmq4` puts it there", root.display()));
        }
        if !rustix::process::geteuid().is_root() {
            return Err("RabbitMQ 4 is started with `chroot`, which only root may; run these tests as root".to_owned());
        }
        Ok(Self { root: Some(root), server, epmd: "/usr/bin/epmd".into(), erl_call: "/usr/bin/erl_call".into() })
    }

    /// Where a directory for nodes can be made.
    pub(super) fn temporary(&self) -> PathBuf {
        self.root.as_ref().map_or_else(env::temp_dir, |root| root.join("tmp"))
    }

    /// A path as the programs see it.
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        match self.root.as_ref().and_then(|root| path.strip_prefix(root).ok()) {
            Some(below) => Path::new("/").join(below),
            None => path.to_owned(),
        }
    }

    pub(super) fn server(&self) -> Command {
        self.command(&self.server)
    }

    pub(super) fn epmd(&self) -> Command {
        self.command(&self.epmd)
    }

    /// Erlang's program that asks a node something, ended after so many seconds.
    pub(super) fn erl_call(&self, limit_s: u32) -> Command {
        let inner = self.command(&self.erl_call);
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", &limit_s.to_string()]).arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// With an environment that no developer's machine can disturb.
    fn command(&self, program: &Path) -> Command {
        let (mut command, path) = match &self.root {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(program);
                (command, "/usr/sbin:/usr/bin:/sbin:/bin".into())
            }
            None => (Command::new(program), env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into())),
        };
        command.env_clear().env("PATH", path).env("LANG", "C.UTF-8");
        command
    }
}

fn cache() -> Option<PathBuf> {
    let given = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    given.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// A server on the path of commands, unless it is a wrapper for a service's user.
fn server_on_path() -> Option<PathBuf> {
    let found = on_path("rabbitmq-server")?;
    let real = fs::canonicalize(&found).ok()?;
    (real.file_name() == Some(OsStr::new("rabbitmq-server"))).then_some(real)
}

fn erlang_program(name: &str) -> Result<PathBuf, String> {
    if let Some(found) = on_path(name) {
        return Ok(found);
    }
    for directory in ERLANG {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let versions = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("erts-"));
        if let Some(found) = versions.map(|entry| entry.path().join("bin").join(name)).find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    Err(format!("RabbitMQ is installed, but Erlang's program `{name}` is not found; Debian has it in `erlang-base`"))
}
