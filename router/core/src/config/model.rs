//! The configuration as the router uses it: checked, interpolated, with all defaults filled in.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use router_api::{DecodeLimits, FailureClass, FieldPath, QueueKind, QueueWish, RouteMode, RouteName, RoutingPattern};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::filter::EventFilter;

/// Everything a router needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// SHA-256 of `text`, as 64 hexadecimal digits. Values from variables and files are not in it, so it may stand in logs; a route
    /// that uses one restarts on its change all the same, by its own hash.
    pub hash: String,
    /// The effective configuration as TOML, secrets redacted: what `config show` prints and the archive keeps.
    pub text: String,
    /// Where events come from.
    pub transport: TransportConfig,
    /// The store.
    pub store: StoreConfig,
    /// The HTTP door.
    pub http: HttpConfig,
    /// What an event may be at most.
    pub limits: Limits,
    /// What is taken out of events at the door.
    pub redact: RedactConfig,
    /// Coding sessions.
    pub sessions: SessionsConfig,
    /// Logging.
    pub log: LogConfig,
    /// In the order of the files.
    pub routes: Vec<RouteConfig>,
}

/// Where events come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportConfig {
    /// The durable queue in the store's own file.
    Embedded,
    /// RabbitMQ.
    Amqp(Box<AmqpConfig>),
}

/// How RabbitMQ is reached and used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpConfig {
    /// `amqp://` or `amqps://`, with user, password and virtual host. Empty where nothing says it and nobody asks the broker.
    pub url: Secret,
    /// The variable that `url` comes from where the configuration does not say it.
    pub url_variable: Option<&'static str>,
    /// The topic exchange that events come from and go to.
    pub exchange: String,
    /// Who makes exchanges, queues and bindings.
    pub topology: Topology,
    /// The type of route queues that do not say their own.
    pub queue_kind: QueueKind,
    /// Between two signs of life; a silent broker is given up after two.
    pub heartbeat: Duration,
    /// The broker's acknowledgement time-out (`consumer_timeout`): what is in hand longer is taken back by force.
    pub ack_timeout: Duration,
    /// The broker's management API, to read bindings that AMQP cannot list.
    pub management_url: Option<Secret>,
    /// The stream that keeps all events; `None` when it is off.
    pub archive: Option<Retention>,
    /// For `amqps`.
    pub tls: TlsFiles,
}

/// Files for a connection with TLS. Absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates, as PEM, of those who may vouch for the broker, beside those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain, as PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM.
    pub key: Option<PathBuf>,
}

/// Who makes exchanges, queues and bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// The router makes what is missing.
    #[default]
    Declare,
    /// The router checks that everything is there, and makes nothing.
    Verify,
    /// The router takes it for granted.
    Off,
}

/// The store's file and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Absolute.
    pub path: PathBuf,
    /// False trades the last commits before a power failure for speed (`synchronous = "normal"`).
    pub sync: bool,
    /// How long the archive keeps events.
    pub retention: Retention,
    /// Of the ledger, in bytes; above this its oldest writes go.
    pub ledger_bytes_max: u64,
}

/// What the archive keeps at most. Events that a queue still owns are never removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Older ones go.
    pub age: Duration,
    /// Above this, in bytes of the store, the oldest go.
    pub bytes_max: u64,
}

/// Coding sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionsConfig {
    /// A file with prices, which was read without an error; absolute.
    pub prices: Option<PathBuf>,
}

/// The HTTP door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// `None` for `listen = "off"`.
    pub listen: Option<SocketAddr>,
    /// The name and the token of each client that may send events. With any, every client needs one.
    pub tokens: Vec<(String, Secret)>,
    /// Those of the clients that may use the admin API too. Beyond loopback there is one at least, here or in `tokens`.
    pub admin_tokens: Vec<(String, Secret)>,
    /// Names under which the door may be asked besides those of loopback, each with a port or for every port.
    pub allowed_hosts: Vec<String>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever uses it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What an event may be at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Size and nesting.
    pub decode: DecodeLimits,
}

/// What is taken out of events at the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactConfig {
    /// Values at these paths of the body (`payload.user_prompt`, `*` for any key or index) are replaced.
    pub paths: Vec<String>,
    /// Texts of these shapes are replaced; the built-in shapes (tokens of well-known services, private keys, passwords in URLs)
    /// come first unless `builtin = false`.
    pub patterns: Vec<String>,
    /// Use the built-in shapes.
    pub builtin: bool,
}

/// How the program writes its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// As `tracing` filters: `info`, `info,router_core=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// One route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfig {
    /// Unique.
    pub name: RouteName,
    /// `file:line` of its `name`.
    pub place: String,
    /// Relative paths of the route are relative to this directory.
    pub base_dir: PathBuf,
    /// SHA-256 of all that follows: a route is restarted when it changes.
    pub hash: String,
    /// Takes events.
    pub enabled: bool,
    /// Live or shadow.
    pub mode: RouteMode,
    /// Which routing keys.
    pub on: Vec<RoutingPattern>,
    /// Which content.
    pub when: EventFilter,
    /// The lane key of an ordered route.
    pub order_by: Option<FieldPath>,
    /// The lane key and limits of a coalescing route.
    pub coalesce: Option<Coalesce>,
    /// Lanes at once.
    pub concurrency: u32,
    /// Deliveries in hand.
    pub prefetch: u32,
    /// What it asks of its queue on a broker.
    pub queue: QueueWish,
    /// For one handling.
    pub timeout: Duration,
    /// Retries.
    pub retry: RetryPolicy,
    /// What happens to the rest of a lane whose head is given up on.
    pub on_exhausted: OnExhausted,
    /// What happens when an event comes for a lane that is busy.
    pub when_busy: WhenBusy,
    /// Writes are remembered, so that a repetition need not do them again.
    pub ledger: bool,
    /// The breaker of a target that is down.
    pub breaker: Breaker,
    /// Handlings in a time.
    pub rate: Option<Rate>,
    /// What runs at a stop may take so long.
    pub drain: Duration,
    /// Recognise repeated events; `None` for `dedup = false`.
    pub dedup: Option<Dedup>,
    /// Older events are given up on.
    pub max_age: Option<Duration>,
    /// Longer chains of emits are given up on.
    pub hops_max: u8,
    /// An event that the process died on more often is given up on.
    pub crashes_max: u32,
    /// The plugin.
    pub handler: String,
    /// Its options; string values interpolated.
    pub with: Value,
}

/// Several events of one lane handled and settled as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coalesce {
    /// The lane key.
    pub by: FieldPath,
    /// The burst closes when nothing came for so long.
    pub quiet: Duration,
    /// The burst closes so long after its first event at the latest.
    pub max_wait: Duration,
    /// The burst closes with so many events; at most a quarter of the prefetch.
    pub events_max: u32,
}

/// When and how often a failed event is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// All attempts, the first one included.
    pub attempts_max: u32,
    /// The upper bound of the first delay; doubles with each attempt, and the delay is drawn between 0 and the bound (full jitter).
    pub first_delay: Duration,
    /// The upper bound of all delays.
    pub max_delay: Duration,
    /// What each class of failure leads to, where it is not the default.
    pub on: BTreeMap<FailureClass, RetryAction>,
}

/// What a class of failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetryAction {
    /// Try again, counting.
    Retry,
    /// Stop the route for a while, counting nothing.
    Pause,
    /// Give up at once.
    DeadLetter,
}

/// What happens to the rest of a lane whose head is given up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnExhausted {
    /// The lane goes on with the next event.
    #[default]
    DeadLetter,
    /// The lane's following events are parked in the dead letters too, until its head is redriven or discarded.
    Park,
}

/// What happens when an event comes for a lane that has not finished with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenBusy {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It is finished without handling, as skipped.
    Skip,
    /// What is earlier is cancelled and finished as skipped; the newest is handled.
    Cancel,
}

/// How long a route whose target is down stays away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// The first time; doubles while the probe fails.
    pub first_delay: Duration,
    /// At most.
    pub max_delay: Duration,
}

/// At most `count` handlings in `per`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// Also the burst that an idle route may start at once.
    pub count: u32,
    /// The time.
    pub per: Duration,
}

/// How repeated events are recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    /// The fields that make the key; the event's id if empty.
    pub by: Vec<FieldPath>,
    /// How long a done event is remembered.
    pub window: Duration,
}
