//! Commands that tell from the local archive and ask no broker: whoever looks need not know where it is, or its password.

use std::path::Path;

use router_core::config::{Config, Environment, TransportConfig};

use crate::env_file::FileEnvironment;

/// The surroundings of such a command.
#[derive(Debug)]
pub(crate) struct Unasked(pub(crate) FileEnvironment);

impl Environment for Unasked {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        self.0.variable(name)
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        self.0.file(path)
    }

    fn readable(&self, path: &Path) -> Result<(), String> {
        self.0.readable(path)
    }

    fn credential(&self, name: &str) -> Result<String, String> {
        self.0.credential(name)
    }

    fn asks_broker(&self) -> bool {
        false
    }
}

/// What is said where nothing tells where the broker is.
pub(crate) fn sentence(config: &Config) -> Option<&'static str> {
    match &config.transport {
        TransportConfig::Amqp(amqp) if amqp.url.reveal().is_empty() => {
            Some("the broker was not asked: nothing here says where it is (`transport.url`); this is what the store beside the router knows")
        }
        _ => None,
    }
}
