//! What a test wants of its own node.

use super::{Broker, Cluster};

/// What a node is to have beside AMQP on a port of its own.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(super) management: bool,
    /// Is there a TLS listener, and does it demand a certificate of its clients?
    pub(super) tls: Option<bool>,
    pub(super) lines: Vec<String>,
    /// The feature flags that it begins with, where they are not all that it knows.
    pub(super) features: Option<String>,
}

impl Options {
    /// With the management plugin, whose API some settings of the router can ask.
    #[must_use]
    pub fn management(mut self) -> Self {
        self.management = true;
        self
    }

    /// With a TLS listener beside the plain one.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = Some(false);
        self
    }

    /// With a TLS listener that takes clients with a certificate only.
    #[must_use]
    pub fn tls_with_client_certificates(mut self) -> Self {
        self.tls = Some(true);
        self
    }

    /// With a line of `rabbitmq.conf` more.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Without streams, as a node that was upgraded and whose flag nobody has enabled. From RabbitMQ 4 on there is no such node.
    #[must_use]
    pub fn without_streams(mut self) -> Self {
        self.features = Some("quorum_queue,virtual_host_metadata,user_limits,maintenance_mode_status".to_owned());
        self
    }

    /// Starts a node with all this and waits until it takes clients.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or it does not start.
    #[must_use]
    pub fn start(self) -> Broker {
        Broker::with(&self)
    }

    /// Starts so many nodes with all this, as one cluster.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or the nodes do not come together.
    #[must_use]
    pub fn start_cluster(self, nodes: usize) -> Cluster {
        Cluster::with(nodes, &self)
    }
}
