//! Nodes of RabbitMQ that belong to a test: private in name, ports, data and cookie, on the loopback interface only, gone afterwards.
//!
//! [`Broker::shared`] is one node for all tests of a binary, each of which works in a virtual host of its own ([`Broker::vhost`]). A
//! test that stops, kills or starves its node starts one for itself: [`Broker::start`], or [`Broker::options`] for a node with more.
//! [`Cluster`] is several nodes that belong together. Which RabbitMQ it is says the environment: the one of this machine, or with
//! `EVENT_ROUTER_TEST_BROKER=4` the one that `tests/run --rabbitmq4` unpacked.
//!
//! Everything here panics where a test should fail, with what the node said.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::Signal;
use serde_json::Value;

use crate::FaultProxy;

mod certificates;
mod cluster;
mod erlang;
mod facts;
mod guardian;
mod house;
mod installation;
mod node;
mod options;
mod orders;
pub(crate) mod port;
mod vhost;

pub use certificates::Certificates;
pub use cluster::Cluster;
pub use facts::{BindingFacts, ConnectionFacts, ConsumerFacts, ExchangeFacts, QueueFacts};
pub use options::Options;
pub use vhost::Vhost;

use house::House;
use node::Node;

/// A node. Cheap to clone; the process ends when the last clone is dropped, or with the tests.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    // Before the house: the last node ends before what nodes share.
    node: Node,
    house: Arc<House>,
    certificates: Option<Certificates>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.node.abandon(&self.house);
    }
}

impl Broker {
    /// The node that all tests of a binary share. Work in a [`Broker::vhost`], and leave the node itself alone.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or it does not start.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A node of a test's own.
    ///
    /// # Panics
    ///
    /// When there is no RabbitMQ, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&Options::default())
    }

    /// A node of a test's own that is not like the others.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    fn with(options: &Options) -> Self {
        let broker = Self::prepare(&Arc::new(House::new()), "rabbit", options, &[]);
        broker.begin();
        broker
    }

    /// A node that was not started yet.
    fn prepare(house: &Arc<House>, name: &str, options: &Options, peers: &[String]) -> Self {
        let certificates = options.tls.is_some().then(|| Certificates::make(&house.directory().join("certificates")));
        let node = Node::new(house, name, options, peers, certificates.as_ref());
        Self { inner: Arc::new(Inner { node, house: house.clone(), certificates }) }
    }

    /// Starts the node again, on the same ports and data, and waits until it takes clients.
    ///
    /// # Panics
    ///
    /// When it runs already, or does not start.
    pub fn begin(&self) {
        self.launch();
        self.await_start();
    }

    /// Starts the node again and waits for nothing.
    ///
    /// # Panics
    ///
    /// When it runs already.
    pub fn launch(&self) {
        self.inner.node.launch(&self.inner.house);
    }

    /// Waits until a launched node takes clients.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub fn await_start(&self) {
        self.inner.node.await_start(&self.inner.house);
    }

    /// Stops the node as an operator does: clients are told, and what is in memory is written.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn stop(&self) {
        self.inner.node.stop(&self.inner.house);
    }

    /// Kills the node as a power failure would, as far as a process can tell.
    ///
    /// One thing is spared: RabbitMQ writes the register of its quorum queues half a second late, and a queue that was declared just
    /// before a kill comes back empty and never finds a leader (seen on 3.10.8). That is the broker's fault to mend, so the register
    /// is written first. [`Broker::kill_at_once`] spares nothing.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill(&self) {
        let _ = self.try_ask("", "length([dets:sync(Table) || Table <- dets:all()])");
        self.kill_at_once();
    }

    /// Kills the node and asks it nothing before, for one that cannot answer or for tests of what that costs.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn kill_at_once(&self) {
        self.inner.node.kill(&self.inner.house);
    }

    /// Lets the node stand still: connections stay, and nothing answers. To be killed, it is killed at once.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn freeze(&self) {
        self.inner.node.signal(Signal::STOP);
    }

    /// Lets it go on.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn thaw(&self) {
        self.inner.node.signal(Signal::CONT);
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.inner.node.pid()
    }

    /// Its name among Erlang's nodes.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.node.name()
    }

    /// Its version, as `3.10.8`.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn version(&self) -> String {
        self.ask("", "list_to_binary(rabbit_misc:version())").as_str().unwrap_or_default().to_owned()
    }

    /// The first number of its version.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version().split('.').next().and_then(|number| number.parse().ok()).expect("a version begins with a number")
    }

    /// Where it speaks AMQP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.node.amqp()
    }

    /// Where it speaks AMQP over TLS.
    ///
    /// # Panics
    ///
    /// When it was not started with TLS.
    #[must_use]
    pub fn tls_address(&self) -> SocketAddr {
        self.inner.node.tls().expect("the node was started with `Options::tls`")
    }

    /// What clients and node show each other over TLS.
    ///
    /// # Panics
    ///
    /// When it was not started with TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.inner.certificates.as_ref().expect("the node was started with `Options::tls`")
    }

    /// The address of its management API, with user and password.
    ///
    /// # Panics
    ///
    /// When it was not started with the management plugin.
    #[must_use]
    pub fn management_url(&self) -> String {
        let address = self.inner.node.management().expect("the node was started with `Options::management`");
        format!("http://{}@{address}", vhost::credentials())
    }

    /// The URL of a virtual host, whether it is there or not.
    #[must_use]
    pub fn url(&self, vhost: &str) -> String {
        vhost::url("amqp", &vhost::credentials(), self.address(), vhost)
    }

    /// A virtual host of a test's own, with nothing in it. Removed when dropped.
    ///
    /// # Panics
    ///
    /// When the node does not answer.
    #[must_use]
    pub fn vhost(&self) -> Vhost {
        // Of the process, not of the node: the nodes of a cluster have their virtual hosts in common.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Vhost::make(self, &format!("test-{number}"))
    }

    /// A proxy in front of it, which can disturb.
    ///
    /// # Panics
    ///
    /// When no port is free.
    #[must_use]
    pub fn proxy(&self) -> FaultProxy {
        FaultProxy::before(self.address())
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.inner.node.log()
    }

    /// The value of an Erlang expression on the node, after definitions that end with a comma.
    ///
    /// # Panics
    ///
    /// When the node does not answer, or the expression fails.
    pub fn ask(&self, definitions: &str, expression: &str) -> Value {
        self.try_ask(definitions, expression).unwrap_or_else(|why| panic!("{why}\nthe node said:\n{}", self.inner.node.said()))
    }

    /// The value of an Erlang expression on the node, for what may fail while a node comes or goes.
    ///
    /// # Errors
    ///
    /// When the node does not answer, or the expression fails.
    pub fn try_ask(&self, definitions: &str, expression: &str) -> Result<Value, String> {
        self.inner.node.ask(&self.inner.house, definitions, expression)
    }
}
