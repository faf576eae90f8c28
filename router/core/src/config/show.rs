//! The effective configuration as TOML: all files merged, all defaults filled in. For people with every value from outside as its
//! reference; for hashing with the values themselves.

use std::{fmt::Write as _, time::Duration};

use sha2::{Digest, Sha256};

use super::{
    model::{AmqpConfig, Config, RouteConfig, TransportConfig},
    tree::{Filled, Node, NodeValue, Table, Text},
};
use crate::hex;

/// For whom it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing from outside, and no literal that looks like a secret.
    Shown,
    /// Everything, for hashing.
    Whole,
}

/// Where the texts of a route stand.
#[derive(Clone, Copy)]
pub(super) struct RouteNodes<'a> {
    pub route: &'a Table,
    pub defaults: Option<&'a Table>,
}

/// The global tables. `globals` are the merged ones of the files.
pub(super) fn globals(config: &Config, globals: &Table) -> String {
    let text = |table: &str, key: &str, effective: &str| match globals.get(table).and_then(Node::as_table).and_then(|table| table.text(key)) {
        // A path from the file is shown as what it came to mean; one from outside by its reference.
        Some(text) if text.filled != Filled::Inside => quote(text.shown()),
        _ => quote(&escaped(effective)),
    };
    let list = |table: &str, key: &str| {
        globals.get(table).and_then(Node::as_table).and_then(|table| table.get(key)).map_or_else(|| "[]".to_owned(), |node| literal(node, Form::Shown))
    };
    let mut out = Lines::default();
    out.header("[transport]");
    out.line(
        "kind",
        match &config.transport {
            TransportConfig::Embedded => quote("embedded"),
            TransportConfig::Amqp(_) => quote("amqp"),
        },
    );
    if let TransportConfig::Amqp(amqp) = &config.transport {
        broker(&mut out, amqp, globals.get("transport").and_then(Node::as_table));
    }
    out.header("[store]");
    out.line("path", text("store", "path", &config.store.path.display().to_string()));
    out.line("synchronous", quote(if config.store.sync { "full" } else { "normal" }));
    out.line("retention_days", config.store.retention.age.as_secs() / 86_400);
    out.line("retention_bytes_max", config.store.retention.bytes_max);
    out.line("ledger_bytes_max", config.store.ledger_bytes_max);
    out.header("[http]");
    out.line("listen", text("http", "listen", &config.http.listen.map_or_else(|| "off".to_owned(), |address| address.to_string())));
    let http = |key: &str| globals.get("http").and_then(Node::as_table).and_then(|table| table.get(key));
    for key in ["tokens", "admin_tokens", "allowed_hosts"] {
        if let Some(node) = http(key) {
            out.line(key, literal(node, Form::Shown));
        }
    }
    out.header("[limits]");
    out.line("body_bytes_max", config.limits.decode.body_bytes_max);
    out.line("depth_max", config.limits.decode.depth_max);
    out.header("[redact]");
    out.line("paths", list("redact", "paths"));
    out.line("patterns", list("redact", "patterns"));
    out.line("builtin", config.redact.builtin);
    if let Some(prices) = &config.sessions.prices {
        out.header("[sessions]");
        out.line("prices", text("sessions", "prices", &prices.display().to_string()));
    }
    out.header("[log]");
    out.line("level", text("log", "level", &config.log.level));
    out.line("format", serde_name(&config.log.format));
    out.text
}

/// What `[transport]` says about RabbitMQ, `kind` apart.
fn broker(out: &mut Lines, amqp: &AmqpConfig, written: Option<&Table>) {
    let text = |table: Option<&Table>, key: &str| table.and_then(|table| table.text(key)).cloned();
    // A URL that stands in the file itself is not shown if it could hold a password; one from outside is its reference.
    let secret = |key: &str| match text(written, key) {
        Some(text) if text.filled == Filled::Inside && !text.value.contains('@') => quote(&escaped(&text.value)),
        Some(text) if text.filled == Filled::Inside => quote("[redacted]"),
        Some(text) => quote(text.shown()),
        None => quote("[redacted]"),
    };
    let shown = |table: Option<&Table>, key: &str, effective: &str| match text(table, key) {
        Some(text) if text.filled != Filled::Inside => quote(text.shown()),
        _ => quote(&escaped(effective)),
    };
    match (text(written, "url"), &amqp.url_variable) {
        (None, Some(variable)) => out.line("url", quote(&format!("${{{variable}}}"))),
        _ => out.line("url", secret("url")),
    }
    out.line("exchange", shown(written, "exchange", &amqp.exchange));
    out.line("topology", serde_name(&amqp.topology));
    out.line("queue_type", serde_name(&amqp.queue_kind));
    out.line("heartbeat_s", amqp.heartbeat.as_secs());
    out.line("ack_timeout_s", amqp.ack_timeout.as_secs());
    if amqp.management_url.is_some() {
        out.line("management_url", secret("management_url"));
    }
    match &amqp.archive {
        Some(archive) => {
            let (days, bytes) = (archive.age.as_secs() / 86_400, archive.bytes_max);
            out.line("archive", format!("{{ enabled = true, retention_days = {days}, retention_bytes_max = {bytes} }}"));
        }
        None => out.line("archive", "{ enabled = false }"),
    }
    let tls = written.and_then(|written| written.get("tls")).and_then(Node::as_table);
    let files = [("ca", &amqp.tls.ca), ("certificate", &amqp.tls.certificate), ("key", &amqp.tls.key)];
    let files: Vec<String> =
        files.into_iter().filter_map(|(key, path)| Some(format!("{key} = {}", shown(tls, key, &path.as_ref()?.display().to_string())))).collect();
    if !files.is_empty() {
        out.line("tls", format!("{{ {} }}", files.join(", ")));
    }
}

/// One route.
pub(super) fn route(route: &RouteConfig, nodes: RouteNodes<'_>, form: Form) -> String {
    let text = |node: Option<&Node>, effective: &str| node.map_or_else(|| quote(&escaped(effective)), |node| literal(node, form));
    let own = |key: &str| nodes.route.get(key);
    let mut out = Lines::default();
    out.header("[[route]]");
    out.line("name", text(own("name"), route.name.as_str()));
    out.line("enabled", route.enabled);
    if let Some(description) = own("description") {
        out.line("description", literal(description, form));
    }
    out.line("mode", serde_name(&route.mode));
    out.line("on", own("on").map_or_else(|| "[]".to_owned(), |node| literal(node, form)));
    if let Some(when) = own("when") {
        out.line("when", literal(when, form));
    }
    if let Some(field) = &route.order_by {
        out.line("order_by", text(own("order_by"), field.as_str()));
    }
    if let Some(coalesce) = &route.coalesce {
        let by = text(own("coalesce").and_then(Node::as_table).and_then(|table| table.get("by")), coalesce.by.as_str());
        let (quiet, wait) = (ms(coalesce.quiet), ms(coalesce.max_wait));
        out.line("coalesce", format!("{{ by = {by}, quiet_ms = {quiet}, max_wait_ms = {wait}, events_max = {} }}", coalesce.events_max));
    }
    if let Some(queue) = &route.queue.name {
        out.line("queue", text(own("queue"), queue));
    }
    if route.queue.parallel {
        out.line("parallel", true);
    }
    if let Some(kind) = route.queue.kind {
        out.line("queue_type", serde_name(&kind));
    }
    out.line("concurrency", route.concurrency);
    out.line("prefetch", route.prefetch);
    out.line("timeout_ms", ms(route.timeout));
    let mut retry = format!(
        "{{ attempts_max = {}, first_delay_ms = {}, max_delay_ms = {}",
        route.retry.attempts_max,
        ms(route.retry.first_delay),
        ms(route.retry.max_delay)
    );
    if !route.retry.on.is_empty() {
        let actions: Vec<_> = route.retry.on.iter().map(|(class, action)| format!("{class} = {}", serde_name(action))).collect();
        let _ = write!(retry, ", on = {{ {} }}", actions.join(", "));
    }
    out.line("retry", format!("{retry} }}"));
    out.line("on_exhausted", serde_name(&route.on_exhausted));
    out.line("when_busy", serde_name(&route.when_busy));
    out.line("ledger", route.ledger);
    out.line("breaker", format!("{{ first_delay_ms = {}, max_delay_ms = {} }}", ms(route.breaker.first_delay), ms(route.breaker.max_delay)));
    if let Some(rate) = &route.rate {
        out.line("rate", format!("{{ count = {}, per_ms = {} }}", rate.count, ms(rate.per)));
    }
    out.line("drain_ms", ms(route.drain));
    match &route.dedup {
        Some(dedup) => {
            let of = |table: Option<&'_ Table>| {
                table.and_then(|table| table.get("dedup")).and_then(Node::as_table).and_then(|table| table.get("by")).map(|node| literal(node, form))
            };
            let by = of(Some(nodes.route)).or_else(|| of(nodes.defaults)).map_or_else(String::new, |by| format!("by = {by}, "));
            out.line("dedup", format!("{{ {by}window_s = {} }}", dedup.window.as_secs()));
        }
        None => out.line("dedup", false),
    }
    if let Some(max_age) = route.max_age {
        out.line("max_age_s", max_age.as_secs());
    }
    out.line("hops_max", route.hops_max);
    out.line("crashes_max", route.crashes_max);
    out.line("handler", text(own("handler"), &route.handler));
    if let Some(with) = own("with").and_then(Node::as_table)
        && !with.entries.is_empty()
    {
        out.text.push_str("[route.with]\n");
        for entry in &with.entries {
            out.line(&key(&entry.key), literal(&entry.node, form));
        }
    }
    out.text
}

/// The digest of what is written here, with a name for what it is of.
pub(super) fn hash(of: &str, parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in [of].iter().chain(parts) {
        // With its length, so that no two lists of parts look alike.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    hex(&digest.finalize())
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn header(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(header);
        self.text.push('\n');
    }

    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{key} = {value}");
    }
}

/// A value on one line.
fn literal(node: &Node, form: Form) -> String {
    match &node.value {
        NodeValue::Text(text) => quote(&written(text, form)),
        NodeValue::Integer(number) => number.to_string(),
        NodeValue::Float(number) => toml::Value::Float(*number).to_string(),
        NodeValue::Boolean(flag) => flag.to_string(),
        NodeValue::Datetime(text) => text.clone(),
        NodeValue::Array(items) => format!("[{}]", items.iter().map(|item| literal(item, form)).collect::<Vec<_>>().join(", ")),
        NodeValue::Table(table) if table.entries.is_empty() => "{}".to_owned(),
        NodeValue::Table(table) => {
            let entries: Vec<_> = table.entries.iter().map(|entry| format!("{} = {}", key(&entry.key), literal(&entry.node, form))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

fn written(text: &Text, form: Form) -> String {
    match form {
        Form::Whole => text.value.clone(),
        Form::Shown if text.sensitive || text.filled != Filled::Inside => text.shown().to_owned(),
        Form::Shown => escaped(&text.value),
    }
}

/// So that a literal `${` does not become a reference when the text is read again.
fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    // A basic string on one line, whatever it holds: keys cannot be written otherwise.
    if bare { text.to_owned() } else { serde_json::Value::String(text.to_owned()).to_string() }
}

fn serde_name<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(quote)).unwrap_or_default()
}

fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}
