//! A virtual host: a broker of its own within the node, for one test.

use std::net::SocketAddr;

use serde_json::Value;

use super::{
    BindingFacts, Broker, ConnectionFacts, ConsumerFacts, ExchangeFacts, QueueFacts,
    erlang::binary,
    node::{PASSWORD, USER},
};
use crate::FaultProxy;

/// A virtual host that belongs to a test. Removed when dropped, with its queues and connections.
pub struct Vhost {
    broker: Broker,
    name: String,
}

impl Vhost {
    pub(super) fn make(broker: &Broker, name: &str) -> Self {
        let vhost = Self { broker: broker.clone(), name: name.to_owned() };
        broker.add_vhost(name);
        broker.permit(USER, name, ".*", ".*", ".*");
        vhost
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node that it is on.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.broker.url(&self.name)
    }

    /// Its URL at another node of a cluster.
    #[must_use]
    pub fn url_at(&self, broker: &Broker) -> String {
        broker.url(&self.name)
    }

    /// Its URL through a proxy.
    #[must_use]
    pub fn url_through(&self, proxy: &FaultProxy) -> String {
        url("amqp", &credentials(), proxy.address(), &self.name)
    }

    /// Its URL for another user.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        url("amqp", &format!("{}:{}", escaped(user), escaped(password)), self.broker.address(), &self.name)
    }

    /// Its URL over TLS, by the name that the node's certificate has.
    ///
    /// # Panics
    ///
    /// When the node was not started with TLS.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://{}@localhost:{}/{}", credentials(), self.broker.tls_address().port(), escaped(&self.name))
    }

    /// Its queues, by name. Counts are what a queue itself says, not what was last reported of it.
    ///
    /// # Panics
    ///
    /// When the node does not answer, or a queue finds no leader.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueFacts> {
        self.broker.queues(&self.name)
    }

    /// One of its queues.
    ///
    /// # Panics
    ///
    /// As [`Vhost::queues`].
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueFacts> {
        self.broker.queue(&self.name, name)
    }

    /// Its bindings, without those that every queue has by its name.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn bindings(&self) -> Vec<BindingFacts> {
        self.broker.bindings(&self.name)
    }

    /// Its exchanges, without those that every virtual host has.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn exchanges(&self) -> Vec<ExchangeFacts> {
        self.broker.exchanges(&self.name)
    }

    /// The consumers of its queues.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerFacts> {
        self.broker.consumers(&self.name)
    }

    /// The connections to it.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionFacts> {
        self.broker.connections().into_iter().filter(|connection| connection.vhost == self.name).collect()
    }

    /// Closes all connections to it as an operator does; clients are told the reason. How many there were.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    pub fn close_connections(&self, reason: &str) -> u64 {
        self.broker.close_connections(&self.name, reason)
    }

    /// Sets a policy: `{"max-length": 10}` for the queues whose name matches.
    ///
    /// # Panics
    ///
    /// When the node refuses it.
    pub fn policy(&self, name: &str, pattern: &str, definition: &Value) {
        self.broker.policy(&self.name, name, pattern, definition);
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // In the background, and of no consequence: the node goes soon. A test that failed leaves it to be looked at in the log.
        if self.broker.pid().is_some() && !std::thread::panicking() {
            let delete = format!("begin spawn(fun() -> rabbit_vhost:delete({}, <<\"tests\">>) end), true end", binary(&self.name));
            let _ = self.broker.try_ask("", &delete);
        }
    }
}

/// User and password, as they stand in a URL.
pub(super) fn credentials() -> String {
    format!("{}:{}", escaped(USER), escaped(PASSWORD))
}

pub(super) fn url(scheme: &str, credentials: &str, address: SocketAddr, vhost: &str) -> String {
    format!("{scheme}://{credentials}@{address}/{}", escaped(vhost))
}

/// Everything that is neither a letter nor a digit, for a place in a URL.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_carries_what_it_must_escape() {
        let address = "127.0.0.1:5672".parse().expect("an address");
        assert_eq!(url("amqp", &credentials(), address, "/"), "amqp://router:p%40ss%2Fw%3Frd@127.0.0.1:5672/%2F");
    }
}
