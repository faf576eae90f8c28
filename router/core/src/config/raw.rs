//! The configuration as it is written: every table and key, with the doc comment that is its reference, its limits in its schema
//! and its default in the comment.
//!
//! The schema of these structs is what `check` walks, what editors complete from and what `config/REFERENCE.md` is made of. All
//! fields are options, since route keys merge over `[defaults]` key by key; [`super::build`] fills in the defaults.

use std::{borrow::Cow, collections::BTreeMap};

use router_api::{FailureClass, QueueKind, RouteMode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::model::{LogFormat, OnExhausted, RetryAction, Topology, WhenBusy};

/// The configuration of the event router.
///
/// It may be spread over several files (`-c` more than once, or `routes.d/*.toml` beside `router.toml`): routes add up, and of
/// a key outside the routes that several files set the last one counts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Where events come from.
    pub transport: Option<RawTransport>,
    /// The file that keeps queues, archive and everything else that must survive a restart.
    pub store: Option<RawStore>,
    /// The HTTP door: `POST /events?key=…` and `GET /healthz`.
    pub http: Option<RawHttp>,
    /// What an event may be at most. A larger one is refused at the door, or goes to the dead letters byte for byte.
    pub limits: Option<RawLimits>,
    /// What is taken out of events before they are stored, shown or handled.
    pub redact: Option<RawRedact>,
    /// Coding sessions, and what they cost.
    pub sessions: Option<RawSessions>,
    /// How the program writes its log.
    pub log: Option<RawLog>,
    /// What routes use for keys that they do not set themselves.
    pub defaults: Option<RawDefaults>,
    /// The routes. Each one has its own durable queue, so a slow one never delays another.
    #[allow(dead_code, reason = "routes are built one by one")]
    pub route: Option<Vec<RawRoute>>,
}

/// Where events come from. All keys but `kind` are about RabbitMQ.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTransport {
    /// The kind of transport. Default `embedded`.
    pub kind: Option<RawTransportKind>,
    /// The broker: `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS; best as `${RABBIT_URL}` or `${file:…}`. A path of
    /// `/` alone is the virtual host `/`. Default: the first of the variables `RABBIT_URL`, `RABBITMQ_URL` and `HOOKD_AMQP_URL` that is
    /// set; without one there is no default.
    #[schemars(length(min = 1))]
    pub url: Option<String>,
    /// The topic exchange that events come from and go to. Default `bloodbank.events.v1`.
    #[schemars(length(min = 1, max = 255))]
    pub exchange: Option<String>,
    /// Who makes exchanges, queues and bindings. Default `declare`.
    pub topology: Option<Topology>,
    /// The type of the routes' queues. Those of waits and dead letters are `quorum` whatever this says. Default `quorum`.
    pub queue_type: Option<QueueKind>,
    /// Seconds between two signs of life; a broker that is silent for twice as long is given up and reached anew. Default 10.
    #[schemars(range(min = 1, max = 600))]
    pub heartbeat_s: Option<u64>,
    /// The broker's acknowledgement time-out (`consumer_timeout`), in seconds: what is in hand for longer is taken back by force. What has
    /// been in hand for half of it is given back in good order. Default 1800, which is the broker's own default.
    #[schemars(range(min = 10, max = 2_592_000))]
    pub ack_timeout_s: Option<u64>,
    /// The broker's management API, `http://USER:PASSWORD@HOST:PORT`, to read bindings, which AMQP cannot list; best as a reference.
    /// Default none: bindings that this router did not make itself are then unknown.
    #[schemars(length(min = 1))]
    pub management_url: Option<String>,
    /// The stream on the broker that keeps every event, followed into the store for `events`, `explain` and `replay`.
    pub archive: Option<RawBusArchive>,
    /// Files for `amqps://`.
    pub tls: Option<RawTls>,
}

/// The kind of transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawTransportKind {
    /// A durable queue in the store's own file: nothing else to install.
    #[default]
    Embedded,
    /// RabbitMQ.
    Amqp,
}

/// The stream on the broker that keeps every event, followed into the store for `events`, `explain` and `replay`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBusArchive {
    /// Make it and follow it. Default true.
    pub enabled: Option<bool>,
    /// Days that the broker keeps events there. Default 7.
    #[schemars(range(min = 1, max = 3650))]
    pub retention_days: Option<u32>,
    /// Bytes above which the broker drops the oldest ones. Default 1073741824 (1 GiB).
    #[schemars(range(min = 1_048_576, max = 1_125_899_906_842_624_u64))]
    pub retention_bytes_max: Option<u64>,
}

/// Files for `amqps://`, relative to the directory of this configuration file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    /// Certificates, as PEM, of those who may vouch for the broker, beside those that the machine trusts. Default none.
    #[schemars(length(min = 1))]
    pub ca: Option<String>,
    /// The client's certificate chain, as PEM, for a broker that asks for one. Default none.
    #[schemars(length(min = 1))]
    pub certificate: Option<String>,
    /// The private key of `certificate`, as PEM. Default none.
    #[schemars(length(min = 1))]
    pub key: Option<String>,
}

/// The file that keeps queues, archive and everything else that must survive a restart.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    /// The file, made if it is not there; relative to the directory of this configuration file. A lock, a socket and the
    /// database's own files appear beside it. Default: `router.db` in `$STATE_DIRECTORY` if that is set (systemd sets it); else in
    /// `state` beside a `config` directory, `/var/lib/event-router` for `/etc/event-router`, `~/.local/state/event-router` for
    /// `~/.config/event-router`, and `state` in the directory of the first file, or in the first directory, that `-c` or
    /// `$EVENT_ROUTER_CONFIG` names.
    #[schemars(length(min = 1))]
    pub path: Option<String>,
    /// How safe a commit is when the power fails. Default `full`.
    pub synchronous: Option<RawSynchronous>,
    /// Days that the archive keeps events. What a queue still owns is never removed. Default 30.
    #[schemars(range(min = 1, max = 3650))]
    pub retention_days: Option<u32>,
    /// Bytes of the store above which the oldest events of the archive go. Default 1073741824 (1 GiB).
    #[schemars(range(min = 1_048_576, max = 1_125_899_906_842_624_u64))]
    pub retention_bytes_max: Option<u64>,
    /// Bytes of the ledger, replies included, above which its oldest writes go. What has gone is done again when its event is redriven
    /// or comes again after a crash. Default 67108864 (64 MiB).
    #[schemars(range(min = 1_048_576, max = 1_125_899_906_842_624_u64))]
    pub ledger_bytes_max: Option<u64>,
}

/// Coding sessions, and what they cost.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSessions {
    /// A file with prices of language models, which replace and add to the built-in ones; relative to the directory of this configuration
    /// file. It counts for `sessions import`, and for the hooks of this machine, to which a router that runs hands it on. Default none:
    /// the built-in prices, which say of what day they are.
    #[schemars(length(min = 1))]
    pub prices: Option<String>,
}

/// How safe a commit is when the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawSynchronous {
    /// What was accepted survives a power failure.
    Full,
    /// Faster; a power failure may cost the last commits, a crash of the program costs nothing.
    Normal,
}

/// The HTTP door.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    /// Address and port, or `off`. Addresses beyond this machine need `tokens` or `admin_tokens`. Default `127.0.0.1:8682`.
    pub listen: Option<String>,
    /// A token for each client that sends events, by its name, best as `${file:…}` or `${VAR}`; at least 16 bytes. With any, and always
    /// beyond this machine, every client needs one, sent as `Authorization: Bearer …`.
    pub tokens: Option<BTreeMap<String, String>>,
    /// A token, as in `tokens`, for each client that may do what the commands do, by the admin API `/api/v1`; it may send events too.
    /// Without any the admin API is closed over TCP, whatever stands in `tokens`.
    pub admin_tokens: Option<BTreeMap<String, String>>,
    /// Names under which clients may ask besides `localhost` and addresses, such as `router.lan` or `router.lan:9000`.
    pub allowed_hosts: Option<Vec<String>>,
}

/// What an event may be at most.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    /// Bytes of a body. Default 4194304 (4 MiB).
    #[schemars(range(min = 1024, max = 134_217_728))]
    pub body_bytes_max: Option<u64>,
    /// Objects and arrays within each other. Default 64.
    #[schemars(range(min = 1, max = 128))]
    pub depth_max: Option<u32>,
}

/// What is taken out of events before they are stored, shown or handled.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRedact {
    /// Paths of the body whose values are replaced: `payload.user_prompt`; a `*` stands for any key or index. Default none.
    #[schemars(length(max = 256), inner(length(min = 1)))]
    pub paths: Option<Vec<String>>,
    /// Regular expressions: texts that fit are replaced, wherever they are. Default none.
    #[schemars(length(max = 256), inner(length(min = 1)))]
    pub patterns: Option<Vec<String>>,
    /// Also replace what looks like a token of a well-known service, a private key or a password in a URL. Default true.
    pub builtin: Option<bool>,
}

/// How the program writes its log.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, for single parts too: `info,router_core=debug`. Default `info`.
    pub level: Option<String>,
    /// Text for people or JSON for machines. Default `text`.
    pub format: Option<LogFormat>,
}

/// Declares the policies once, for `[defaults]` and for each route.
macro_rules! policies {
    ($($(#[$attribute:meta])* $name:ident: $type:ty,)*) => {
        /// What routes use for keys that they do not set themselves.
        #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct RawDefaults {
            $($(#[$attribute])* pub $name: Option<$type>,)*
        }

        /// A route: which events, what happens to them, and how carefully.
        #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct RawRoute {
            /// The route's name, unique among all files: 1 to 63 of `a` to `z`, `0` to `9` and `-`, beginning with a letter. Its
            /// queue, its statistics and its dead letters go by this name.
            #[schemars(required)]
            pub name: Option<String>,
            /// Does the route take events? A disabled one keeps what waits in its queue. Default true.
            pub enabled: Option<bool>,
            /// What the route is for, in a sentence.
            #[allow(dead_code, reason = "for readers of the file")]
            pub description: Option<String>,
            /// Patterns of routing keys. `*` stands for one word, `#` for any number of words, none included.
            #[schemars(required, length(min = 1, max = 256))]
            pub on: Option<Vec<String>>,
            /// Conditions on the event. All fields must fit (AND); a field fits if one of its values does (OR):
            /// `{ tool_name = ["Write", "Edit"], file_path = [{ suffix = ".py" }] }`. Default none.
            #[allow(dead_code, reason = "read from the tree, with its place")]
            pub when: Option<Map<String, Value>>,
            /// The field that makes a lane: events with the same value are handled one at a time and in order. Default none:
            /// every event for itself.
            #[schemars(length(min = 1))]
            pub order_by: Option<String>,
            /// Handle events that come close together as one. Default none.
            pub coalesce: Option<RawCoalesce>,
            /// On RabbitMQ: take events from this queue, which is there, instead of making `services.router.NAME`. Its arguments
            /// stay as they are; `check --broker` says which promise each missing one costs. Default none.
            #[schemars(length(min = 1, max = 255))]
            pub queue: Option<String>,
            /// On RabbitMQ: several routers share the route's events, in no order; else one router has them all and another stands by.
            /// Not with `order_by` or `coalesce`. Default false.
            pub parallel: Option<bool>,
            /// On RabbitMQ: the type of the route's queue. Default that of `[transport]`.
            pub queue_type: Option<QueueKind>,
            /// The plugin that does the work: `event-router plugins` lists them.
            #[schemars(required, length(min = 1))]
            pub handler: Option<String>,
            /// The plugin's own options.
            #[allow(dead_code, reason = "read from the tree, with its place")]
            pub with: Option<Map<String, Value>>,
            $($(#[$attribute])* pub $name: Option<$type>,)*
        }

        impl RawRoute {
            /// The route's policies, with those of `defaults` where it has none.
            pub(super) fn policies(&self, defaults: &RawDefaults) -> RawDefaults {
                RawDefaults { $($name: Merge::merged(&self.$name, &defaults.$name),)* }
            }
        }
    };
}

policies! {
    /// `live` acts; `shadow` runs filter and handler on live traffic, but records what would be done instead of doing it.
    /// Default `live`.
    mode: RouteMode,
    /// Lanes at once. Default 8.
    #[schemars(range(min = 1, max = 1024))]
    concurrency: u32,
    /// Events taken from the queue at once, waiting ones included. Default 500.
    #[schemars(range(min = 1, max = 10_000))]
    prefetch: u32,
    /// Milliseconds that one handling may take; then it is cancelled and counts as failed. Default 60000.
    #[schemars(range(min = 1, max = 86_400_000))]
    timeout_ms: u64,
    /// When and how often a failed event is tried again.
    retry: RawRetry,
    /// What happens to the rest of a lane whose first event is given up on. Default `dead-letter`.
    on_exhausted: OnExhausted,
    /// What happens when an event comes for a lane that has not finished with an earlier one: `queue` lets it wait; `skip` finishes it
    /// without handling; `cancel` ends the handling of the earlier one, which counts as skipped, for the newest. For routes with
    /// `order_by` or `coalesce`. Default `queue`.
    when_busy: WhenBusy,
    /// Is it remembered which writes (calls, commands) a handling has begun and finished, so that they are not done again after a crash?
    /// Costs two commits for each write. Default true.
    ledger: bool,
    /// How long the route stays away from a target that is down.
    breaker: RawBreaker,
    /// At most so many handlings in a time. Default none.
    rate: RawRate,
    /// Milliseconds that what runs may take to finish when the route stops. Default 30000.
    #[schemars(range(min = 0, max = 3_600_000))]
    drain_ms: u64,
    /// How repeated events are recognised, so that they are handled once; `false` handles every one. Default on, by the event's
    /// id, for 24 hours.
    dedup: RawDedup,
    /// Seconds after which a waiting event is too old to be handled and goes to the dead letters. Default none.
    #[schemars(range(min = 1, max = 315_360_000))]
    max_age_s: u64,
    /// Handlers may emit events, whose handlers may emit events: a longer chain than this is taken for a loop and goes to the
    /// dead letters. A route that only waits and looks again counts once, and again for each week of it. Default 8.
    #[schemars(range(min = 1, max = 64))]
    hops_max: u8,
    /// An event that was being handled whenever the router died, so many times, goes to the dead letters. Default 5.
    #[schemars(range(min = 1, max = 1000))]
    crashes_max: u32,
}

/// Handle events that come close together as one.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCoalesce {
    /// The field that makes a lane: events with the same value are gathered, and handled in order. With `order_by` it must be the
    /// same field.
    #[schemars(required, length(min = 1))]
    pub by: Option<String>,
    /// Milliseconds: the burst is handled when nothing came for so long.
    #[schemars(required, range(min = 1, max = 86_400_000))]
    pub quiet_ms: Option<u64>,
    /// Milliseconds: the burst is handled so long after its first event at the latest. Default ten times `quiet_ms`, at most a
    /// day.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub max_wait_ms: Option<u64>,
    /// The burst is handled when it has so many events. At most, and by default, a quarter of `prefetch`.
    #[schemars(range(min = 1, max = 2500))]
    pub events_max: Option<u32>,
}

/// When and how often a failed event is tried again.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetry {
    /// All attempts, the first one included; then the event goes to the dead letters. Default 8.
    #[schemars(range(min = 1, max = 1000))]
    pub attempts_max: Option<u32>,
    /// Milliseconds: the upper bound of the first delay. It doubles with each attempt, and the delay is drawn between 0 and the
    /// bound. Default 1000.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub first_delay_ms: Option<u64>,
    /// Milliseconds: the upper bound of all delays. Default 600000.
    #[schemars(range(min = 1, max = 604_800_000))]
    pub max_delay_ms: Option<u64>,
    /// What a class of failure leads to, where that is not its default: `{ timeout = "dead-letter" }`.
    pub on: Option<RawRetryOn>,
}

/// What each class of failure leads to. A crash of the router's own process is always tried again, up to `crashes_max`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetryOn {
    /// The handler returned an error. Default `retry`.
    pub error: Option<RetryAction>,
    /// The handler did not end in time, or its target did not answer. Default `retry`.
    pub timeout: Option<RetryAction>,
    /// The handler panicked. Default `retry`.
    pub panic: Option<RetryAction>,
    /// The target is down for every event. Default `pause`.
    pub unreachable: Option<RetryAction>,
    /// The target asked to slow down. Default `retry`.
    pub busy: Option<RetryAction>,
    /// The handler or the target refused the event for good. Default `dead-letter`.
    pub rejected: Option<RetryAction>,
}

impl RawRetryOn {
    pub(super) fn actions(&self) -> BTreeMap<FailureClass, RetryAction> {
        [
            (FailureClass::Error, self.error),
            (FailureClass::Timeout, self.timeout),
            (FailureClass::Panic, self.panic),
            (FailureClass::Unreachable, self.unreachable),
            (FailureClass::Busy, self.busy),
            (FailureClass::Rejected, self.rejected),
        ]
        .into_iter()
        .filter_map(|(class, action)| action.map(|action| (class, action)))
        .collect()
    }
}

/// How long the route stays away from a target that is down.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBreaker {
    /// Milliseconds until one event is tried as a probe; doubles while the probe fails. Default 5000.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub first_delay_ms: Option<u64>,
    /// Milliseconds between two probes at most. Default 300000.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub max_delay_ms: Option<u64>,
}

/// At most `count` handlings in `per_ms`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRate {
    /// Handlings; a route that was idle may start so many at once.
    #[schemars(required, range(min = 1, max = 1_000_000))]
    pub count: Option<u32>,
    /// Milliseconds.
    #[schemars(required, range(min = 1, max = 86_400_000))]
    pub per_ms: Option<u64>,
}

/// How repeated events are recognised: a table, or `false` for not at all.
#[derive(Debug, Clone)]
pub(super) enum RawDedup {
    /// `false`, or `true` for the defaults.
    Switch(bool),
    Table(RawDedupTable),
}

/// How repeated events are recognised.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDedupTable {
    /// Fields that make two events the same if all of them are equal. Default the event's id.
    #[schemars(length(min = 1, max = 16))]
    pub by: Option<Vec<String>>,
    /// Seconds that a handled event is remembered. Default 86400.
    #[schemars(range(min = 1, max = 2_678_400))]
    pub window_s: Option<u64>,
}

impl<'de> Deserialize<'de> for RawDedup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawDedup;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table or a boolean")
            }

            fn visit_bool<E>(self, on: bool) -> Result<RawDedup, E> {
                Ok(RawDedup::Switch(on))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawDedup, A::Error> {
                RawDedupTable::deserialize(de::value::MapAccessDeserializer::new(map)).map(RawDedup::Table)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for RawDedup {
    fn schema_name() -> Cow<'static, str> {
        "RawDedup".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, generator.subschema_for::<RawDedupTable>()] })
    }
}

/// A route's setting over that of `[defaults]`.
trait Merge: Sized {
    fn merged(own: &Option<Self>, default: &Option<Self>) -> Option<Self>;
}

macro_rules! merge_whole {
    ($($type:ty),*) => {$(
        impl Merge for $type {
            fn merged(own: &Option<Self>, default: &Option<Self>) -> Option<Self> {
                own.clone().or_else(|| default.clone())
            }
        }
    )*};
}

macro_rules! merge_keys {
    ($($type:ty { $($field:ident),* })*) => {$(
        impl Merge for $type {
            fn merged(own: &Option<Self>, default: &Option<Self>) -> Option<Self> {
                match (own, default) {
                    (Some(own), Some(default)) => Some(Self { $($field: Merge::merged(&own.$field, &default.$field)),* }),
                    (own, default) => own.clone().or_else(|| default.clone()),
                }
            }
        }
    )*};
}

merge_whole!(bool, u8, u32, u64, RouteMode, OnExhausted, WhenBusy, RetryAction, Vec<String>);
// A rate is one fact in two numbers: half of one and half of the other would be neither.
merge_whole!(RawRate);
merge_keys! {
    RawRetry { attempts_max, first_delay_ms, max_delay_ms, on }
    RawRetryOn { error, timeout, panic, unreachable, busy, rejected }
    RawBreaker { first_delay_ms, max_delay_ms }
    RawDedupTable { by, window_s }
}

impl Merge for RawDedup {
    fn merged(own: &Option<Self>, default: &Option<Self>) -> Option<Self> {
        match (own, default) {
            (Some(Self::Table(own)), Some(Self::Table(default))) => RawDedupTable::merged(&Some(own.clone()), &Some(default.clone())).map(Self::Table),
            // `true` on a route takes up what `[defaults]` says about how.
            (Some(Self::Switch(true)), Some(Self::Table(default))) => Some(Self::Table(default.clone())),
            (own, default) => own.clone().or_else(|| default.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policies(route: Value, defaults: Value) -> RawDefaults {
        let route: RawRoute = serde_json::from_value(route).expect("a route");
        route.policies(&serde_json::from_value(defaults).expect("defaults"))
    }

    #[test]
    fn a_route_overrides_defaults_key_by_key() {
        let merged = policies(
            json!({"timeout_ms": 5, "retry": {"attempts_max": 2, "on": {"busy": "pause"}}, "rate": {"count": 1, "per_ms": 2}}),
            json!({"timeout_ms": 9, "hops_max": 3, "retry": {"attempts_max": 9, "max_delay_ms": 7, "on": {"error": "pause"}}, "rate": {"count": 8, "per_ms": 9}}),
        );
        assert_eq!((merged.timeout_ms, merged.hops_max), (Some(5), Some(3)));
        let retry = merged.retry.expect("merged");
        assert_eq!((retry.attempts_max, retry.max_delay_ms), (Some(2), Some(7)));
        assert_eq!(retry.on.expect("merged").actions().len(), 2);
        assert_eq!(merged.rate.expect("the route's").count, Some(1));
    }

    #[test]
    fn dedup_is_a_switch_or_a_table() {
        let dedup = |own: Value, default: Value| policies(json!({"dedup": own}), json!({"dedup": default})).dedup;
        assert!(matches!(dedup(json!(false), json!({"window_s": 5})), Some(RawDedup::Switch(false))));
        assert!(matches!(dedup(json!(true), json!({"window_s": 5})), Some(RawDedup::Table(table)) if table.window_s == Some(5)));
        let Some(RawDedup::Table(table)) = dedup(json!({"by": ["key"]}), json!({"window_s": 5})) else { panic!("a table") };
        assert_eq!((table.by, table.window_s), (Some(vec!["key".to_owned()]), Some(5)));
        assert!(serde_json::from_value::<RawDedup>(json!("no")).is_err());
    }
}
