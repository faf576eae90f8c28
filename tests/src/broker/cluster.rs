//! Several nodes that belong together.

use std::sync::Arc;

use super::{Broker, Options, QueueFacts, Vhost, house::House};
use crate::eventually;

/// A cluster on the loopback interface. Its nodes are [`Broker`]s, to be stopped, killed and begun one by one.
pub struct Cluster {
    nodes: Vec<Broker>,
}

impl Cluster {
    /// Starts so many nodes and waits until they have come together.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or they do not come together.
    #[must_use]
    pub fn start(nodes: usize) -> Self {
        Self::with(nodes, &Options::default())
    }

    pub(super) fn with(nodes: usize, options: &Options) -> Self {
        let house = Arc::new(House::new());
        let names: Vec<String> = (1..=nodes).map(|number| format!("rabbit{number}")).collect();
        let peers: Vec<String> = names.iter().map(|name| format!("{name}@localhost")).collect();
        let nodes: Vec<Broker> = names.iter().map(|name| Broker::prepare(&house, name, options, &peers)).collect();
        let cluster = Self { nodes };
        // All at once: each looks for the others, and they agree by a lock on who is first.
        cluster.nodes.iter().for_each(Broker::launch);
        cluster.nodes.iter().for_each(Broker::await_start);
        cluster.await_members(cluster.nodes.len());
        cluster
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Broker] {
        &self.nodes
    }

    /// The node of this name.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Broker {
        self.nodes.iter().find(|node| node.name() == name).unwrap_or_else(|| panic!("no node of the cluster is called `{name}`"))
    }

    /// Nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Broker> {
        self.nodes.iter().filter(|node| node.pid().is_some())
    }

    /// Any node that runs.
    ///
    /// # Panics
    ///
    /// When none does.
    #[must_use]
    pub fn any(&self) -> &Broker {
        self.running().next().expect("a node of the cluster runs")
    }

    /// Waits until every node that runs sees so many that do.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub fn await_members(&self, expected: usize) {
        let seen = |node: &Broker| node.try_ask("", "length([N || N <- [node() | nodes()], rabbit:is_running(N)])").ok().and_then(|count| count.as_u64());
        eventually("the nodes see each other", || self.running().all(|node| seen(node) == u64::try_from(expected).ok()).then_some(()));
    }

    /// A virtual host of a test's own, on all nodes.
    ///
    /// # Panics
    ///
    /// When no node answers.
    #[must_use]
    pub fn vhost(&self) -> Vhost {
        self.any().vhost()
    }

    /// What a running node says of a queue.
    ///
    /// # Panics
    ///
    /// When no node answers, or there is no such queue.
    #[must_use]
    pub fn queue(&self, vhost: &Vhost, name: &str) -> QueueFacts {
        self.any().queue(vhost.name(), name).unwrap_or_else(|| panic!("there is no queue `{name}`"))
    }

    /// The node that leads a queue now.
    ///
    /// # Panics
    ///
    /// When no node answers, or there is no such queue.
    #[must_use]
    pub fn leader(&self, vhost: &Vhost, queue: &str) -> &Broker {
        self.node(&self.queue(vhost, queue).leader)
    }

    /// Waits until a node that runs leads a queue.
    ///
    /// # Panics
    ///
    /// When none does after a while.
    #[must_use]
    pub fn await_leader(&self, vhost: &Vhost, queue: &str) -> &Broker {
        eventually("a node that runs leads the queue", || {
            let leader = self.leader(vhost, queue);
            leader.pid().is_some().then_some(leader)
        })
    }
}
