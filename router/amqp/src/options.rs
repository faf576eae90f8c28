//! What a transport over RabbitMQ is told. Nothing here is read from the environment.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::QueueKind;

/// How RabbitMQ is reached and used.
#[derive(Clone)]
pub struct AmqpOptions {
    /// `amqp://` or `amqps://`, with user, password and virtual host. A path of `/` alone means the virtual host `/`.
    pub url: String,
    /// Shown by the broker's tools as the name of the connections: `event-router on <host>`.
    pub name: String,
    /// The topic exchange that events come from and go to.
    pub exchange: String,
    /// Who makes exchanges, queues and bindings.
    pub topology: Topology,
    /// The type of route queues that do not say their own.
    pub queue_kind: QueueKind,
    /// Between two signs of life; a silent broker is given up after two.
    pub heartbeat: Duration,
    /// The broker's acknowledgement time-out. What has been in hand for half of it is given back in good order.
    pub ack_timeout: Duration,
    /// Bytes of a body; what is larger is still handed out, for the router to bury.
    pub body_bytes_max: usize,
    /// Acknowledgements are sent after so many finished deliveries, or after [`AmqpOptions::ack_delay`]. Also the bound of
    /// repeated handlings after a kill. At most a fifth of the route's prefetch is used.
    pub ack_batch: u32,
    /// See [`AmqpOptions::ack_batch`].
    pub ack_delay: Duration,
    /// What is bound is bound once more after so long, should somebody have taken it away. With [`Topology::Declare`] only.
    pub rebind_every: Duration,
    /// The stream of all events; `None` when it is off.
    pub archive: Option<ArchiveOptions>,
    /// For `amqps`.
    pub tls: ClientTls,
    /// Reads bindings that AMQP cannot list.
    pub management: Option<Arc<dyn Management>>,
}

/// The stream of all events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// The broker drops what is older.
    pub age: Duration,
    /// The broker drops the oldest above this.
    pub bytes_max: u64,
}

/// Files for a connection with TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificates, as PEM, of those who may vouch for the broker, beside those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain, as PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM.
    pub key: Option<PathBuf>,
}

/// Who makes exchanges, queues and bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Topology {
    /// This transport makes what is missing.
    #[default]
    Declare,
    /// This transport checks that everything is there, and makes nothing.
    Verify,
    /// It is taken for granted.
    Off,
}

/// The broker's management API. This crate speaks no HTTP; whoever can gives this.
#[async_trait]
pub trait Management: Send + Sync + 'static {
    /// `GET` of a path below the API's root, percent-encoded, as in `/api/queues/%2F/name`: the body of a 200.
    ///
    /// # Errors
    ///
    /// A sentence without secrets.
    async fn get(&self, path: &str) -> Result<serde_json::Value, String>;
}

impl AmqpOptions {
    /// With every default, for the broker at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            name: "event-router".to_owned(),
            exchange: "bloodbank.events.v1".to_owned(),
            topology: Topology::Declare,
            queue_kind: QueueKind::Quorum,
            heartbeat: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(30 * 60),
            body_bytes_max: 4 * 1024 * 1024,
            ack_batch: 100,
            ack_delay: Duration::from_millis(5),
            rebind_every: Duration::from_secs(60),
            archive: Some(ArchiveOptions { age: Duration::from_secs(7 * 86_400), bytes_max: 1 << 30 }),
            tls: ClientTls::default(),
            management: None,
        }
    }

    /// The URL for people: without the password, and without the query.
    #[must_use]
    pub fn shown_url(&self) -> String {
        crate::failure::shown_url(&self.url)
    }
}

impl fmt::Debug for AmqpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpOptions").field("exchange", &self.exchange).field("topology", &self.topology).finish_non_exhaustive()
    }
}
