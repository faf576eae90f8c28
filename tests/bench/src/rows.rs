//! Who drains: the raw clients, the router in its forms, and the other frameworks.

use std::{path::Path, process::Command};

/// One who drains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// For people, and for `--only`.
    pub name: &'static str,
    /// Slow ones drain this share of the events, in percent, so that a round ends.
    pub share: u32,
    pub how: How,
    /// Also in the runs for latency.
    pub latency: bool,
}

/// How its process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// This program with these words.
    Own(&'static str),
    /// RustStream's program.
    RustStream,
    /// FastStream's.
    FastStream,
    /// amqplib's.
    Amqplib,
}

pub const LIMIT: &str = "LIMIT: lapin, multiple=true per 100";
pub const PARSED: &str = "lapin, multiple=true per 100, serde_json";
pub const SINGLE: &str = "lapin, single awaited acks";
pub const ROUTER: &str = "event-router";
pub const ROUTER_ON_DISK: &str = "event-router, inbox in SQLite";
pub const ROUTER_EVERYTHING: &str = "event-router, inbox in SQLite, archive on";
pub const RUSTSTREAM: &str = "RustStream 0.7.7 on lapin, 64 workers";
pub const FASTSTREAM: &str = "FastStream 0.7.8, manual acks, pydantic";
pub const AMQPLIB: &str = "amqplib 2.3.1, single acks, JSON.parse";

/// All of them; those that the goals need first.
pub const ROWS: [Row; 9] = [
    Row { name: LIMIT, share: 100, how: How::Own("multiple"), latency: false },
    Row { name: ROUTER, share: 100, how: How::Own("router"), latency: true },
    Row { name: PARSED, share: 100, how: How::Own("parsed"), latency: false },
    Row { name: SINGLE, share: 40, how: How::Own("single"), latency: true },
    Row { name: ROUTER_ON_DISK, share: 20, how: How::Own("router-on-disk"), latency: true },
    Row { name: ROUTER_EVERYTHING, share: 20, how: How::Own("router-everything"), latency: false },
    Row { name: RUSTSTREAM, share: 100, how: How::RustStream, latency: true },
    Row { name: AMQPLIB, share: 60, how: How::Amqplib, latency: true },
    Row { name: FASTSTREAM, share: 8, how: How::FastStream, latency: true },
];

impl Row {
    /// Is one of those without which no goal can be judged.
    pub fn is_needed(&self) -> bool {
        [LIMIT, PARSED, SINGLE, ROUTER].contains(&self.name)
    }

    /// Its process, without the words about the broker; `None` if it is not installed.
    pub fn command(&self, peers: Option<&Path>) -> Option<Command> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
        let (program, script) = match self.how {
            How::Own(word) => {
                let mut command = Command::new(std::env::current_exe().ok()?);
                command.args(["client", word]);
                return Some(command);
            }
            How::RustStream => (peers?.join("ruststream/release/peer-ruststream"), None),
            How::FastStream => (peers?.join("faststream/bin/python"), Some(sources.join("faststream_peer.py"))),
            How::Amqplib => ("node".into(), Some(sources.join("amqplib_peer.js"))),
        };
        let there = match self.how {
            How::Amqplib => peers?.join("amqplib/node_modules/amqplib").exists(),
            _ => program.exists(),
        };
        let mut command = Command::new(program);
        match (&self.how, script) {
            (How::RustStream, _) => drop(command.arg("run")),
            (_, Some(script)) => drop(command.arg(script)),
            _ => {}
        }
        if self.how == How::Amqplib {
            command.env("NODE_PATH", peers?.join("amqplib/node_modules"));
        }
        there.then_some(command)
    }
}
