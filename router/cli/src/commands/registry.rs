//! `routes --format registry`: the routes as the ecosystem's `services/registry.yaml` lists services that take events.
//!
//! One service for each route, since each has its own queue and keys. What a handler emits is not known from the configuration, so
//! `produces` is left to who adds the entries.

use std::fmt::Write as _;

use router_api::{RouteMode, RoutingPattern};
use router_core::config::{Config, RouteConfig, TransportConfig};

/// The entries as YAML: a whole file that can be read by itself, or from which `services` and `event_subscriptions` are taken over.
pub(crate) fn entries(config: &Config) -> String {
    let mut out = String::from("# Routes of the event router, for `services/registry.yaml`.\nversion: \"1.0\"\n");
    // Writing to a String cannot fail.
    if let TransportConfig::Amqp(amqp) = &config.transport {
        let _ = write!(out, "\nexchange:\n  name: {}\n  type: \"topic\"\n  durable: true\n", quoted(&amqp.exchange));
    }
    out.push_str(if config.routes.is_empty() { "\nservices: {}\n" } else { "\nservices:\n" });
    for route in &config.routes {
        service(&mut out, config, route);
    }
    let mut exact: Vec<(&RoutingPattern, Vec<&RouteConfig>)> = Vec::new();
    for route in config.routes.iter().filter(|route| is_active(route)) {
        // The map is by event type, so patterns have no place in it.
        for pattern in route.on.iter().filter(|pattern| !is_wild(pattern)) {
            match exact.iter_mut().find(|(known, _)| *known == pattern) {
                Some((_, routes)) => routes.push(route),
                None => exact.push((pattern, vec![route])),
            }
        }
    }
    out.push_str(if exact.is_empty() { "\nevent_subscriptions: {}\n" } else { "\nevent_subscriptions:\n" });
    for (pattern, routes) in exact {
        let _ = writeln!(out, "  {}:", quoted(pattern.as_str()));
        for route in routes {
            let _ = writeln!(out, "    - {}", quoted(&name(route)));
        }
    }
    out
}

fn service(out: &mut String, config: &Config, route: &RouteConfig) {
    let name = quoted(&name(route));
    let _ = writeln!(out, "  {name}:\n    name: {name}");
    let what = format!("Route `{}` of the event router, handled by its plugin `{}`", route.name, route.handler);
    let _ = writeln!(out, "    description: {}\n    type: \"event-consumer\"", quoted(&what));
    match &config.transport {
        TransportConfig::Amqp(_) => {
            let queue = route.queue.name.clone().unwrap_or_else(|| format!("services.router.{}", route.name));
            let _ = writeln!(out, "    queue_name: {}", quoted(&queue));
        }
        TransportConfig::Embedded => out.push_str("    # No `queue_name`: the queue lies in the router's own store, not on a broker.\n"),
    }
    list(out, "routing_keys", route.on.iter().map(|pattern| pattern.as_str().to_owned()));
    let _ = writeln!(out, "    status: \"{}\"\n    owner: \"event-router\"", if is_active(route) { "active" } else { "planned" });
    let shadow = (route.mode == RouteMode::Shadow).then(|| "shadow".to_owned());
    list(out, "tags", ["event-router".to_owned(), route.handler.clone()].into_iter().chain(shadow));
    if let Some(address) = config.http.listen {
        let _ = writeln!(out, "    endpoints:\n      health: {}", quoted(&format!("http://{address}/healthz")));
    }
}

fn name(route: &RouteConfig) -> String {
    format!("event-router-{}", route.name)
}

/// A route in shadow does nothing yet.
fn is_active(route: &RouteConfig) -> bool {
    route.enabled && route.mode == RouteMode::Live
}

fn is_wild(pattern: &RoutingPattern) -> bool {
    pattern.as_str().split('.').any(|word| word == "*" || word == "#")
}

fn list(out: &mut String, key: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.map(|item| quoted(&item)).collect();
    if items.is_empty() {
        let _ = writeln!(out, "    {key}: []");
        return;
    }
    let _ = writeln!(out, "    {key}:");
    for item in items {
        let _ = writeln!(out, "      - {item}");
    }
}

/// A double-quoted scalar. It is always quoted: `#`, `*`, `on` and `1.0` mean something else in YAML.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // What YAML does not print, or takes for the end of a line.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_yaml_is_quoted_and_escaped() {
        assert_eq!(quoted("#"), r##""#""##);
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(quoted("a\n\u{85}\u{2028}ü"), r#""a\U0000000a\U00000085\U00002028ü""#);
    }
}
