//! What `[transport]` says about RabbitMQ, what routes ask of their queues there, and whether the two can work together.
//!
//! Nothing here talks to the broker, and no sentence holds a URL: it has a password in it.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::IpAddr, path::PathBuf, time::Duration};

use router_api::QueueWish;
use url::Url;

use super::{
    build::Built,
    diagnostic::Draft,
    environment::Environment,
    locate::clean,
    model::{AmqpConfig, Retention, Secret, TlsFiles, TransportConfig},
    raw::{RawRoute, RawTransport, RawTransportKind},
    schema_walk::ticked,
    source::{Sources, Span},
    tree::{Filled, Node, Text},
};

/// Where the broker is looked for when `url` is not set, in this order.
const URL_VARIABLES: [&str; 3] = ["RABBIT_URL", "RABBITMQ_URL", "HOOKD_AMQP_URL"];

/// Names of ours on the broker begin like this.
const OWN_PREFIX: &str = "services.router.";

/// Names of the broker's own begin like this.
const BROKER_PREFIX: &str = "amq.";

/// In bytes, on the broker.
const NAME_BYTES_MAX: usize = 255;

/// A shorter heartbeat takes a busy broker for a dead one.
const HEARTBEAT_WARNED: Duration = Duration::from_secs(5);

/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// The transport. `None` when it cannot be used, which was reported.
pub(super) fn transport(
    raw: &RawTransport,
    globals: &Node,
    sources: &Sources,
    environment: &dyn Environment,
    drafts: &mut Vec<Draft>,
) -> Option<TransportConfig> {
    let written = Written { globals, sources, environment };
    if raw.kind.unwrap_or_default() == RawTransportKind::Embedded {
        written.unused(raw, drafts);
        return Some(TransportConfig::Embedded);
    }
    let tls = raw.tls.clone().unwrap_or_default();
    let files = TlsFiles {
        ca: written.file("ca", tls.ca.as_deref(), drafts),
        certificate: written.file("certificate", tls.certificate.as_deref(), drafts),
        key: written.file("key", tls.key.as_deref(), drafts),
    };
    for (has, other, lacks) in
        [("certificate", "key", tls.certificate.is_some() && tls.key.is_none()), ("key", "certificate", tls.key.is_some() && tls.certificate.is_none())]
    {
        if lacks {
            let message = format!("`tls.{has}` is of no use without `tls.{other}`");
            drafts
                .push(Draft::error("tls-files", message).at(written.at(&format!("tls.{has}"))).help(format!("add the file of the {other}, or leave both out")));
        }
    }
    let (url, url_variable) = written.url(raw, raw.tls.is_some(), drafts).unzip();
    let management_url = raw.management_url.as_ref().and_then(|_| written.management_url(drafts));
    let exchange = raw.exchange.clone().unwrap_or_else(|| "bloodbank.events.v1".to_owned());
    if let Some(text) = written.text("exchange") {
        let problem =
            name_problem(&text.value).or_else(|| text.value.starts_with(OWN_PREFIX).then(|| format!("begins with `{OWN_PREFIX}`, like what the router makes")));
        if let Some(problem) = problem.filter(|_| text.filled != Filled::Missing) {
            drafts.push(Draft::error("bad-broker-name", format!("the exchange {} {problem}", ticked(text.shown()))).at(written.at("exchange")));
        }
    }
    let heartbeat = Duration::from_secs(raw.heartbeat_s.unwrap_or(10));
    if heartbeat < HEARTBEAT_WARNED {
        let message = format!("with a heartbeat of {} s a broker that is only busy may be taken for one that is gone", heartbeat.as_secs());
        drafts.push(Draft::warning("short-heartbeat", message).at(written.at("heartbeat_s")).help("5 to 20 s notice a dead connection soon enough"));
    }
    let archive = raw.archive.clone().unwrap_or_default();
    Some(TransportConfig::Amqp(Box::new(AmqpConfig {
        url: url?,
        url_variable: url_variable.flatten(),
        exchange,
        topology: raw.topology.unwrap_or_default(),
        queue_kind: raw.queue_type.unwrap_or_default(),
        heartbeat,
        ack_timeout: Duration::from_secs(raw.ack_timeout_s.unwrap_or(1_800)),
        management_url,
        archive: archive
            .enabled
            .unwrap_or(true)
            .then(|| Retention { age: DAY * archive.retention_days.unwrap_or(7), bytes_max: archive.retention_bytes_max.unwrap_or(1 << 30) }),
        tls: files,
    })))
}

/// The table as it is written, with what it can refer to.
struct Written<'a> {
    globals: &'a Node,
    sources: &'a Sources,
    environment: &'a dyn Environment,
}

impl Written<'_> {
    fn at(&self, dotted: &str) -> Span {
        self.globals.span_at(&self.globals.steps(&format!("transport.{dotted}")))
    }

    fn text(&self, dotted: &str) -> Option<&Text> {
        self.globals.at(&self.globals.steps(&format!("transport.{dotted}"))).and_then(Node::as_text)
    }

    /// Keys that count for RabbitMQ only. Who says `kind = "embedded"` beside them may want to switch back one day; who says no kind has
    /// forgotten it, and his events would go nowhere.
    fn unused(&self, raw: &RawTransport, drafts: &mut Vec<Draft>) {
        let Some(table) = self.globals.at(&self.globals.steps("transport")).and_then(Node::as_table) else { return };
        for entry in table.entries.iter().filter(|entry| entry.key != "kind") {
            let message = format!("`{}` counts with `kind = \"amqp\"` only", entry.key);
            drafts.push(match raw.kind {
                Some(_) => Draft::warning("unused-transport-key", message).at(entry.key_span).help("as it stands, events come from the store's own queue"),
                None => Draft::error("unused-transport-key", message).at(entry.key_span).help("add `kind = \"amqp\"`, or take it out"),
            });
        }
    }

    fn file(&self, key: &str, name: Option<&str>, drafts: &mut Vec<Draft>) -> Option<PathBuf> {
        let (name, at) = (name?, self.at(&format!("tls.{key}")));
        let text = self.text(&format!("tls.{key}")).filter(|text| text.filled != Filled::Missing)?;
        let path = clean(&self.sources.file(at.file).base_dir.join(name));
        if let Err(reason) = self.environment.readable(&path) {
            let shown = if text.filled == Filled::Inside { path.display().to_string() } else { text.shown().to_owned() };
            drafts.push(Draft::error("missing-file", format!("the file {} {reason}", ticked(&shown))).at(at));
        }
        Some(path)
    }

    /// The broker's URL, from the file or from a variable that is known for it.
    fn url(&self, raw: &RawTransport, has_tls: bool, drafts: &mut Vec<Draft>) -> Option<(Secret, Option<&'static str>)> {
        let unknown = || (!self.environment.asks_broker()).then(|| (Secret::new(""), None));
        if raw.url.is_some() {
            let Some(text) = self.text("url").filter(|text| text.filled != Filled::Missing) else { return unknown() };
            return Some((self.check_url(&text.value, "`url`", has_tls, drafts)?, None));
        }
        match set_variable(self.environment) {
            Ok(Some((name, value))) => return Some((self.check_url(&value, &format!("the variable `{name}`"), has_tls, drafts)?, Some(name))),
            Ok(None) if !self.environment.asks_broker() => return unknown(),
            Ok(None) => {}
            Err(problem) => {
                drafts.push(Draft::error("no-broker-url", problem).at(self.at("kind")));
                return None;
            }
        }
        let [first, others @ ..] = URL_VARIABLES.map(|name| format!("`{name}`"));
        let message = format!("nothing says where the broker is: `url` is not set, nor is {first} or {}", others.join(" or "));
        drafts.push(
            Draft::error("no-broker-url", message)
                .at(self.at("kind"))
                .help("set `url = \"${RABBIT_URL}\"` and the variable to `amqp://USER:PASSWORD@HOST:5672/`, or put the variable into a file for `--env-file`"),
        );
        None
    }

    /// `what` names where the URL comes from.
    fn check_url(&self, value: &str, what: &str, has_tls: bool, drafts: &mut Vec<Draft>) -> Option<Secret> {
        let at = if what == "`url`" { self.at("url") } else { self.at("kind") };
        let mut wrong = |problem: &str, help: &str| drafts.push(Draft::error("bad-broker-url", format!("{what} {problem}")).at(at).help(help.to_owned()));
        let shape =
            "it looks like `amqp://USER:PASSWORD@HOST:5672/VHOST`; a `/`, `?`, `#` or `@` within user or password is written as `%2F`, `%3F`, `%23`, `%40`";
        let Ok(url) = Url::parse(value.trim()) else {
            wrong("is no URL", shape);
            return None;
        };
        if !matches!(url.scheme(), "amqp" | "amqps") {
            wrong("is no URL of a broker: its scheme is neither `amqp` nor `amqps`", shape);
            return None;
        }
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            wrong("names no host", shape);
            return None;
        };
        if url.path().trim_start_matches('/').contains('/') {
            wrong("has more than one `/` behind the host", "a virtual host with a `/` in its name is written with `%2F`");
            return None;
        }
        if url.fragment().is_some() {
            wrong("has a `#` in it, and what follows is not read", "a `#` within the password is written as `%23`");
            return None;
        }
        // A certificate may say who we are instead.
        let by_other_means = |value: &str| ["external", "anonymous"].iter().any(|known| value.eq_ignore_ascii_case(known));
        let needs_user = !url.query_pairs().any(|(key, value)| key == "auth_mechanism" && by_other_means(&value));
        if url.username().is_empty() && needs_user {
            wrong("names no user, and none is guessed", shape);
            return None;
        }
        if url.query_pairs().any(|(key, _)| key == "heartbeat") {
            drafts.push(Draft::warning("url-heartbeat", format!("{what} says a heartbeat, and `heartbeat_s` is what counts")).at(at));
        }
        let loopback = is_loopback(host);
        if url.scheme() == "amqp" {
            if has_tls {
                let message = format!("`tls` is of no use, since {what} begins with `amqp://`");
                drafts.push(Draft::error("tls-files", message).at(self.at("tls")).help("write `amqps://`, whose port is 5671"));
            }
            if !loopback {
                let message = format!("{what} leads to another machine without TLS: whoever is on the way reads the password and every event");
                drafts.push(Draft::warning("plaintext-broker", message).at(at).help("use `amqps://`, whose port is 5671"));
            }
        }
        if !loopback && url.username() == "guest" {
            let message = format!("{what} uses the user `guest`, whom a broker lets in from its own machine only");
            drafts.push(Draft::warning("guest-broker", message).at(at).help("make a user: `rabbitmqctl add_user`, `rabbitmqctl set_permissions`"));
        }
        Some(Secret::new(value.trim()))
    }

    fn management_url(&self, drafts: &mut Vec<Draft>) -> Option<Secret> {
        let text = self.text("management_url").filter(|text| text.filled != Filled::Missing)?;
        let at = self.at("management_url");
        let url = Url::parse(text.value.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url else {
            let help = "it looks like `http://USER:PASSWORD@HOST:15672`";
            drafts.push(Draft::error("bad-broker-url", "`management_url` is no URL with `http` or `https`").at(at).help(help));
            return None;
        };
        if url.scheme() == "http" && !url.host_str().is_some_and(is_loopback) {
            let message = "`management_url` leads to another machine without TLS: whoever is on the way reads the password";
            drafts.push(Draft::warning("plaintext-broker", message).at(at).help("use `https://`"));
        }
        Some(Secret::new(text.value.trim()))
    }
}

/// The first variable that says where the broker is.
fn set_variable(environment: &dyn Environment) -> Result<Option<(&'static str, String)>, String> {
    for name in URL_VARIABLES {
        match environment.variable(name) {
            Ok(value) => {
                if let Some(value) = value.filter(|value| !value.trim().is_empty()) {
                    return Ok(Some((name, value)));
                }
            }
            Err(reason) => return Err(format!("the variable `{name}` {reason}")),
        }
    }
    Ok(None)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Why a name cannot be one on the broker; a fragment that fits behind it.
fn name_problem(name: &str) -> Option<String> {
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("is {} bytes long, and a broker's names have {NAME_BYTES_MAX} at most", name.len()));
    }
    name.chars().any(char::is_control).then(|| "has a control character in it".to_owned())
}

/// What a route asks of its queue.
pub(super) fn wish(raw: &RawRoute, node: &Node, drafts: &mut Vec<Draft>) -> QueueWish {
    let at = |dotted: &str| node.span_at(&node.steps(dotted));
    let text = node.at(&node.steps("queue")).and_then(Node::as_text);
    if let Some(text) = text.filter(|text| text.filled != Filled::Missing) {
        let mut wrong = |problem: String, help: Option<&str>| {
            let draft = Draft::error("bad-broker-name", format!("the queue {} {problem}", ticked(text.shown()))).at(at("queue"));
            drafts.push(draft.maybe_help(help.map(str::to_owned)));
        };
        if let Some(problem) = name_problem(&text.value) {
            wrong(problem, None);
        } else if text.value.strip_prefix(OWN_PREFIX).is_some_and(|name| Some(name) != raw.name.as_deref()) {
            // Its own is adopted as it is, whatever its arguments.
            let help = "leave `queue` out: the route has `services.router.NAME` by itself, and those of others belong to them";
            wrong(format!("begins with `{OWN_PREFIX}`, like those that the router makes"), Some(help));
        } else if text.value.starts_with(BROKER_PREFIX) {
            wrong(format!("begins with `{BROKER_PREFIX}`, like those that the broker keeps for itself"), None);
        }
    }
    let parallel = raw.parallel.unwrap_or(false);
    if parallel && let Some(lane) = raw.order_by.as_ref().map(|_| "order_by").or_else(|| raw.coalesce.as_ref().map(|_| "coalesce")) {
        let message = format!("`parallel` lets several routers share the events in no order, and `{lane}` needs one router to have them all");
        drafts.push(
            Draft::error("parallel-lanes", message)
                .at(at("parallel"))
                .related("the lanes", at(lane))
                .help("leave `parallel` out: another router stands by and takes over when the first one is gone"),
        );
    }
    QueueWish { name: raw.queue.clone(), parallel, kind: raw.queue_type }
}

/// Routes that cannot work on this transport, or not together.
pub(super) fn routes(transport: &TransportConfig, built: &[Built], drafts: &mut Vec<Draft>) {
    match transport {
        TransportConfig::Embedded => built.iter().for_each(|built| unused(built, drafts)),
        TransportConfig::Amqp(amqp) => {
            built.iter().for_each(|built| held_too_long(amqp, built, drafts));
            same_queue(built, drafts);
        }
    }
}

fn unused(built: &Built, drafts: &mut Vec<Draft>) {
    let (queue, places) = (&built.route.queue, &built.places);
    let keys =
        [("queue", queue.name.is_some(), places.queue), ("parallel", queue.parallel, places.parallel), ("queue_type", queue.kind.is_some(), places.queue_type)];
    for (key, _, at) in keys.into_iter().filter(|(_, set, _)| *set) {
        drafts.push(Draft::note("unused-queue-key", format!("`{key}` counts on RabbitMQ only; here every route has its queue in the store")).at(at));
    }
}

/// The broker takes back what is not acknowledged in time. The router gives its deliveries back in good order at half of that time, so
/// what must happen in one piece has to fit into a half.
fn held_too_long(amqp: &AmqpConfig, Built { route, places, .. }: &Built, drafts: &mut Vec<Draft>) {
    let most = amqp.ack_timeout / 2;
    let mut refuse = |key: &str, what: String, found: Duration, at: Span| {
        if found > most {
            let message =
                format!("{what} {} ms, but the broker takes back what is in hand for `ack_timeout_s` ({} s)", found.as_millis(), amqp.ack_timeout.as_secs());
            let help = format!(
                "{key} is at most half of that, {} ms; or raise `consumer_timeout` on the broker and `ack_timeout_s` with it, to {} s or more",
                most.as_millis(),
                found.as_millis().div_ceil(500)
            );
            drafts.push(Draft::error("ack-timeout", message).at(at).help(help));
        }
    };
    refuse("`timeout_ms`", "one handling may take".to_owned(), route.timeout, places.timeout);
    if let Some(coalesce) = &route.coalesce {
        refuse("`coalesce.max_wait_ms`", "events of a burst are held for up to".to_owned(), coalesce.max_wait, places.max_wait);
    }
    if route.order_by.is_some() || route.coalesce.is_some() {
        let longest = route.retry.max_delay.min(longest_delay(route.retry.first_delay, route.retry.attempts_max));
        refuse("`retry.max_delay_ms`", "the first event of a lane is held between two attempts for up to".to_owned(), longest, places.max_delay);
    }
}

/// The bound of the last delay, without an upper bound.
fn longest_delay(first: Duration, attempts_max: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(attempts_max.saturating_sub(2)).unwrap_or(u32::MAX))
}

fn same_queue(built: &[Built], drafts: &mut Vec<Draft>) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for Built { route, places, .. } in built.iter().filter(|built| built.route.enabled) {
        let Some(queue) = &route.queue.name else { continue };
        if let Some(first) = seen.get(queue.as_str()) {
            drafts.push(
                Draft::error("same-queue", "two routes take events from the same queue, and each event would go to one of them by chance")
                    .at(places.queue)
                    .related("the other one", *first)
                    .help("leave `queue` out of one of them: it gets a queue of its own"),
            );
        } else {
            seen.insert(queue, places.queue);
        }
    }
}
