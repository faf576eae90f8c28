//! One node: its directory, its configuration, its process.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Child,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::{certificates::Certificates, house::House, options::Options, port::Port};
use crate::eventually;

/// The user that the nodes know; `guest` is none of them.
pub(super) const USER: &str = "router";
/// Its password, with what a URL must escape.
pub(super) const PASSWORD: &str = "p@ss/w?rd";

/// Few threads, and none that waits by spinning: the tests share the machine with what they test.
const EMULATOR: &str = "-noinput -start_epmd false +S 2:2 +SDio 4 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";

pub(super) struct Node {
    name: String,
    directory: PathBuf,
    amqp: Port,
    distribution: Port,
    tls: Option<Port>,
    management: Option<Port>,
    features: Option<String>,
    process: Mutex<Option<Child>>,
}

impl Node {
    /// Writes the configuration of a node that was not started yet. `peers` are the names of all nodes of its cluster.
    pub(super) fn new(house: &House, name: &str, options: &Options, peers: &[String], certificates: Option<&Certificates>) -> Self {
        let directory = house.directory().join(name);
        fs::create_dir_all(&directory).expect("the node's directory can be made");
        let node = Self {
            name: format!("{name}@localhost"),
            directory,
            amqp: Port::reserve(),
            distribution: Port::reserve(),
            tls: options.tls.is_some().then(Port::reserve),
            management: options.management.then(Port::reserve),
            features: options.features.clone(),
            process: Mutex::new(None),
        };
        let configuration = node.configuration(house, options, peers, certificates);
        fs::write(node.directory.join("rabbitmq.conf"), configuration).expect("the node's configuration can be written");
        let plugins = if options.management { "[rabbitmq_management].\n" } else { "[].\n" };
        fs::write(node.directory.join("enabled_plugins"), plugins).expect("the list of plugins can be written");
        node
    }

    fn configuration(&self, house: &House, options: &Options, peers: &[String], certificates: Option<&Certificates>) -> String {
        let mut text = format!(
            "listeners.tcp.1 = {}\n\
             num_acceptors.tcp = 2\n\
             default_user = {USER}\n\
             default_pass = {PASSWORD}\n\
             default_user_tags.administrator = true\n\
             log.console = false\n\
             log.file.level = info\n\
             disk_free_limit.absolute = 1MB\n\
             # What the machine has must not decide when an alarm goes off, and in a tree of its own a node sees no `/proc`.\n\
             vm_memory_calculation_strategy = allocated\n\
             total_memory_available_override_value = 4GB\n\
             raft.wal_max_size_bytes = 67108864\n\
             cluster_name = tests\n",
            self.amqp.address(),
        );
        let mut line = |key: &str, value: &str| writeln!(text, "{key} = {value}").expect("a string takes what is written");
        if peers.len() > 1 {
            line("cluster_formation.peer_discovery_backend", "classic_config");
            for (number, peer) in peers.iter().enumerate() {
                line(&format!("cluster_formation.classic_config.nodes.{}", number + 1), peer);
            }
        }
        if let (Some(port), Some(demand), Some(certificates)) = (&self.tls, options.tls, certificates) {
            let inside = |path: &Path| house.installation.inside(path).to_string_lossy().into_owned();
            line("listeners.ssl.1", &port.address().to_string());
            line("num_acceptors.ssl", "2");
            line("ssl_options.cacertfile", &inside(&certificates.authority));
            line("ssl_options.certfile", &inside(&certificates.server));
            line("ssl_options.keyfile", &inside(&certificates.server_key));
            line("ssl_options.verify", "verify_peer");
            line("ssl_options.fail_if_no_peer_cert", if demand { "true" } else { "false" });
        }
        if let Some(port) = &self.management {
            line("management.tcp.ip", "127.0.0.1");
            line("management.tcp.port", &port.number().to_string());
        }
        for wish in &options.lines {
            text.push_str(wish);
            text.push('\n');
        }
        text
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn amqp(&self) -> SocketAddr {
        self.amqp.address()
    }

    pub(super) fn tls(&self) -> Option<SocketAddr> {
        self.tls.as_ref().map(Port::address)
    }

    pub(super) fn management(&self) -> Option<SocketAddr> {
        self.management.as_ref().map(Port::address)
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// Starts the process and waits for nothing.
    pub(super) fn launch(&self, house: &House) {
        let mut process = self.process();
        assert!(process.is_none(), "the node `{}` runs already", self.name);
        let mut command = house.installation.server();
        house.acquaint(&mut command);
        let file = |name: &str| house.installation.inside(&self.directory.join(name));
        command
            // Becomes the node itself instead of a shell that waits for one.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.distribution.number().to_string())
            .env("RABBITMQ_CONF_ENV_FILE", file("none"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", file("none"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", file("generated"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", file("data"))
            .env("RABBITMQ_LOG_BASE", file("log"))
            .env("RABBITMQ_PID_FILE", file("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", EMULATOR);
        if let Some(features) = &self.features {
            command.env("RABBITMQ_FEATURE_FLAGS", features);
        }
        let name = self.name.split('@').next().unwrap_or_default();
        *process = Some(house.start(command, name));
    }

    /// Waits until a launched node takes clients.
    ///
    /// # Panics
    ///
    /// When it ends instead, with what it said.
    pub(super) fn await_start(&self, house: &House) {
        eventually("the node answers at its AMQP port", || {
            let ended = self.process().as_mut().map(|child| child.try_wait().expect("a child can be asked"));
            match ended {
                Some(None) => speaks_amqp(self.amqp()).then_some(()),
                Some(Some(status)) => panic!("the node `{}` ended at its start ({status}):\n{}", self.name, self.said()),
                None => panic!("the node `{}` was not launched", self.name),
            }
        });
        eventually("the node says that it runs", || (self.ask(house, "", "rabbit:is_running()").ok()? == Value::Bool(true)).then_some(()));
    }

    /// Asks for the value of an expression.
    pub(super) fn ask(&self, house: &House, definitions: &str, expression: &str) -> Result<Value, String> {
        house.ask(&self.distribution, definitions, expression)
    }

    /// The end of what it logged and printed.
    pub(super) fn said(&self) -> String {
        let printed = self.directory.with_extension("out");
        let logs = fs::read_dir(self.directory.join("log")).into_iter().flatten().flatten().map(|entry| entry.path());
        let texts = std::iter::once(printed).chain(logs).map(|path| fs::read(path).unwrap_or_default());
        let last = |text: Vec<u8>| String::from_utf8_lossy(&text[text.len().saturating_sub(4_000)..]).into_owned();
        texts.map(last).collect::<Vec<_>>().join("\n")
    }

    /// All that it logged.
    pub(super) fn log(&self) -> String {
        let logs = fs::read_dir(self.directory.join("log")).into_iter().flatten().flatten().map(|entry| entry.path());
        logs.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()).collect()
    }

    /// Asks it to stop, as an operator would, and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not run, or does not stop.
    pub(super) fn stop(&self, house: &House) {
        self.signal(Signal::TERM);
        self.await_end(house);
    }

    /// Ends it as a power failure would.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub(super) fn kill(&self, house: &House) {
        self.signal(Signal::KILL);
        self.await_end(house);
    }

    /// Sends a signal to the node and what it started.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub(super) fn signal(&self, signal: Signal) {
        let group = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let group = group.unwrap_or_else(|| panic!("the node `{}` does not run", self.name));
        kill_process_group(group, signal).expect("a child that was not waited for is there");
    }

    fn await_end(&self, house: &House) {
        eventually("the node ends", || {
            let mut process = self.process();
            let child = process.as_mut().expect("it was signalled, so it is there");
            child.try_wait().expect("a child can be asked")?;
            // What it had started may outlive it for a moment, and holds its directory.
            if let Some(group) = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            house.guardian.ended(child.id());
            *process = None;
            Some(())
        });
    }

    /// Ends it if it runs, quietly.
    pub(super) fn abandon(&self, house: &House) {
        if let Some(mut child) = self.process().take() {
            if let Some(group) = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
            house.guardian.ended(child.id());
        }
    }
}

/// Does somebody at this address begin to speak AMQP when greeted?
fn speaks_amqp(address: SocketAddr) -> bool {
    let patience = Duration::from_secs(10);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) else { return false };
    let asked = stream.set_read_timeout(Some(patience)).and_then(|()| stream.write_all(b"AMQP\0\0\x09\x01"));
    let mut first = [0; 11];
    // A method frame (1) on channel 0 with the method 10.10, `connection.start`.
    asked.and_then(|()| stream.read_exact(&mut first)).is_ok() && first[..3] == [1, 0, 0] && first[7..] == [0, 10, 0, 10]
}
