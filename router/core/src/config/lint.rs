//! What a configuration says without meaning it: warnings, for configurations that can be used.

use std::collections::HashMap;

use regex::Regex;
use router_api::{RouteMode, RoutingPattern};

use super::{
    build::Built,
    diagnostic::Draft,
    interpolate::without_demands,
    model::{OnExhausted, RedactConfig, RouteConfig, WhenBusy},
    schema_walk::ticked,
    source::Span,
    tree::{Filled, Node, NodeValue, Text},
};
use crate::redact::Redactor;

/// Recent RabbitMQ refuses bindings with more `#` words than these.
const HASHES_MAX: usize = 2;

/// What is odd about one route that is otherwise right.
pub(super) fn route(route: &RouteConfig, node: &Node, drafts: &mut Vec<Draft>) {
    let at = |dotted: &str| node.span_at(&node.steps(dotted));
    for (index, pattern) in route.on.iter().enumerate() {
        let place = node.at(&node.steps(&format!("on.{index}")));
        let span = place.map_or(node.span, |node| node.span);
        lint_pattern(pattern, place.and_then(Node::as_text), span, drafts);
        if route.on[..index].contains(pattern) {
            let shown = place.and_then(Node::as_text).map_or(pattern.as_str(), Text::shown);
            drafts.push(Draft::warning("duplicate-pattern", format!("the pattern {} stands here twice", ticked(shown))).at(span));
        }
    }
    if let Some(when) = node.as_table().and_then(|table| table.get("when")) {
        literal_wildcards(when, drafts);
    }
    if let Some(coalesce) = &route.coalesce {
        if coalesce.max_wait < coalesce.quiet {
            let message = format!(
                "`max_wait_ms` ({}) is shorter than `quiet_ms` ({}), which then never counts",
                coalesce.max_wait.as_millis(),
                coalesce.quiet.as_millis()
            );
            drafts.push(Draft::warning("coalesce-wait", message).at(at("coalesce.max_wait_ms")));
        }
        if route.max_age.is_some_and(|max_age| max_age <= coalesce.quiet.min(coalesce.max_wait)) {
            let message = "events are older than `max_age_s` before their burst is handled";
            drafts.push(Draft::warning("max-age", message).at(at("max_age_s")));
        }
    }
    if route.retry.first_delay > route.retry.max_delay {
        let message = "the first delay is longer than `max_delay_ms`, which then is the delay of every attempt";
        drafts.push(Draft::warning("retry-delays", message).at(at("retry.first_delay_ms")));
    }
    if route.breaker.first_delay > route.breaker.max_delay {
        let message = "the first delay is longer than `max_delay_ms`, which then is every delay";
        drafts.push(Draft::warning("breaker-delays", message).at(at("breaker.first_delay_ms")));
    }
    if route.on_exhausted == OnExhausted::Park && route.order_by.is_none() && route.coalesce.is_none() {
        let message = "`on_exhausted = \"park\"` parks the rest of a lane, and this route has no lanes";
        drafts.push(Draft::warning("park-unordered", message).at(at("on_exhausted")).help("give it `order_by` or `coalesce`"));
    }
    if route.when_busy != WhenBusy::Queue && route.order_by.is_none() && route.coalesce.is_none() {
        let message = "`when_busy` is about events of one lane, and this route has no lanes";
        drafts.push(Draft::warning("busy-unordered", message).at(at("when_busy")).help("give it `order_by` or `coalesce`"));
    }
    if route.concurrency > route.prefetch {
        let message = format!("{} lanes at once need more than the {} events that `prefetch` takes", route.concurrency, route.prefetch);
        drafts.push(Draft::warning("concurrency-unreachable", message).at(at("concurrency")));
    }
}

/// A pattern that is none of the usual kind. A value from outside is never shown, nor any part of it.
fn lint_pattern(pattern: &RoutingPattern, text: Option<&Text>, span: Span, drafts: &mut Vec<Draft>) {
    let shown = text.map_or(pattern.as_str(), Text::shown);
    let is_shown = shown == pattern.as_str();
    let mut warn = |code, message: String, help: &str| drafts.push(Draft::warning(code, message).at(span).help(help));
    let pattern = pattern.as_str();
    if pattern.trim().is_empty() {
        return warn("pattern-empty", "an empty pattern fits the empty routing key only".to_owned(), "`#` fits every key");
    }
    let words = || pattern.split('.');
    let hashes = words().filter(|word| *word == "#").count();
    if hashes > HASHES_MAX {
        let message = format!("the pattern {} has {hashes} `#`, and recent RabbitMQ refuses more than {HASHES_MAX}", ticked(shown));
        warn("pattern-hashes", message, "most patterns with several `#` can be written with `*`, or as several patterns");
    }
    let blank = pattern.contains(char::is_whitespace);
    if blank {
        let message = if pattern.trim() == pattern {
            format!("the pattern {} has a blank in it, which fits only a blank in the key", ticked(shown))
        } else {
            format!("the pattern {} begins or ends with a blank, which fits only a blank in the key", ticked(shown))
        };
        warn("pattern-blank", message, "take it out; several patterns are several elements of `on`");
    }
    if words().any(str::is_empty) {
        let message = format!("the pattern {} has an empty word, which fits only an empty word in the key", ticked(shown));
        warn("pattern-empty-word", message, "one dot stands between two words, and none at the ends");
    }
    if let Some(word) = words().map(str::trim).find(|word| word.len() > 1 && word.contains(['*', '#'])) {
        let what = ticked(if is_shown { word } else { shown });
        let message = format!("{what} is taken literally: `*` and `#` stand for whole words only");
        warn("pattern-literal-wildcard", message, "filter on `key` in `when` instead: `key = [{ wildcard = \"…\" }]`");
    }
    if words().any(|word| word == ">") {
        warn("pattern-literal-wildcard", "`>` is taken literally".to_owned(), "`#` stands for any number of words");
    }
}

/// Stars and question marks behind `prefix` and `suffix`, which stand for themselves there.
fn literal_wildcards(node: &Node, drafts: &mut Vec<Draft>) {
    match &node.value {
        NodeValue::Array(items) => items.iter().for_each(|item| literal_wildcards(item, drafts)),
        NodeValue::Table(table) => {
            for entry in &table.entries {
                match (entry.key.as_str(), &entry.node.value) {
                    (operator @ ("prefix" | "suffix"), NodeValue::Text(text)) => drafts.extend(literal_wildcard(operator, text, entry.node.span)),
                    (operator @ ("prefix" | "suffix"), NodeValue::Array(items)) => {
                        let texts = items.iter().filter_map(|item| Some((item.as_text()?, item.span)));
                        drafts.extend(texts.filter_map(|(text, span)| literal_wildcard(operator, text, span)));
                    }
                    _ => literal_wildcards(&entry.node, drafts),
                }
            }
        }
        _ => {}
    }
}

fn literal_wildcard(operator: &str, text: &Text, span: Span) -> Option<Draft> {
    let sign = ['*', '?'].into_iter().find(|sign| text.value.contains(*sign))?;
    let warning = Draft::warning("filter-literal-wildcard", format!("a `{sign}` is literal in `{operator}`")).at(span);
    if text.filled != Filled::Inside || text.sensitive {
        return Some(warning.help("use `wildcard = \"…\"`"));
    }
    let wildcard = match operator {
        "prefix" => format!("{}*", text.value.trim_end_matches('*')),
        _ => format!("*{}", text.value.trim_start_matches('*')),
    };
    let wildcard = toml::Value::String(wildcard);
    Some(warning.help(match sign {
        '*' => format!("use `wildcard = {wildcard}`"),
        _ => format!("nothing stands for one letter; if a real `{sign}` is meant, `wildcard = {wildcard}` says the same"),
    }))
}

/// Routes that do the same for the same events.
pub(super) fn double_firing(routes: &[Built], drafts: &mut Vec<Draft>) {
    let mut seen: HashMap<String, (&RouteConfig, Span)> = HashMap::new();
    for Built { route, span, .. } in routes.iter().filter(|built| built.route.enabled) {
        let mut on: Vec<_> = route.on.iter().map(|pattern| pattern.as_str()).collect();
        on.sort_unstable();
        on.dedup();
        let same = serde_json::json!([on, route.when, route.handler, route.with, route.mode == RouteMode::Shadow]).to_string();
        if let Some((first, first_span)) = seen.get(&same) {
            drafts.push(
                Draft::warning(
                    "double-firing",
                    format!("`{}` does the same for the same events as `{}`: each of them is handled twice", route.name, first.name),
                )
                .at(*span)
                .related("the other one", *first_span),
            );
        } else {
            seen.insert(same, (route, *span));
        }
    }
}

/// Finds secrets that were written into the file itself.
pub(super) struct SecretLint {
    shapes: Option<Redactor>,
    key: Regex,
}

impl SecretLint {
    pub(super) fn new() -> Self {
        let builtin = RedactConfig { paths: Vec::new(), patterns: Vec::new(), builtin: true };
        // Fingerprints are not used here, so any key will do.
        let shapes = Redactor::new(&builtin, [0; 32]).ok();
        let key =
            Regex::new(r"(?i)(?:^|[_\-.])(?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|authorization)$").expect("a fixed expression");
        Self { shapes, key }
    }

    /// Marks literals below `node` that look like secrets, and returns where they are.
    pub(super) fn mark(&self, node: &mut Node) -> Vec<Span> {
        let mut found = Vec::new();
        node.each_text_mut("", &mut |key, span, text| {
            // A reference or a template is what we want to see; a short word is a name or a switch.
            let literal = text.filled == Filled::Inside && text.value == text.written && !text.value.contains("{{");
            let by_key = || self.key.is_match(key) && text.value.len() >= 6 && !text.value.contains("${");
            let by_shape = || self.shapes.as_ref().is_some_and(|shapes| shapes.redact_text(&text.value) != text.value);
            if literal && (by_key() || by_shape()) {
                text.sensitive = true;
                found.push(span);
            }
        });
        each_text_of_secret_tables(node, &mut |span, text| {
            if text.filled == Filled::Inside && !text.sensitive {
                text.sensitive = true;
                found.push(span);
            }
        });
        found
    }
}

/// Marks URLs of the broker that have a password written into them, whatever it looks like and whatever stands around it.
pub(super) fn mark_broker_urls(node: &mut Node) -> Vec<Span> {
    let mut found = Vec::new();
    node.each_text_mut("", &mut |key, span, text| {
        // What a reference says to whoever has not set it may show how such a URL looks, and is none itself.
        let written = without_demands(&text.written);
        let (_, rest) = written.split_once("://").unwrap_or(("", &written));
        let password = rest.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map_or("", |(_, password)| password);
        let referred = password.starts_with("${") && password.find('}') == Some(password.len().saturating_sub(1));
        if matches!(key, "url" | "management_url") && !password.is_empty() && !referred && !text.sensitive {
            text.sensitive = true;
            found.push(span);
        }
    });
    found
}

/// Texts in tables such as `secret_headers`, `tokens` and `admin_tokens`, which are never shown whatever their keys and values look like.
fn each_text_of_secret_tables(node: &mut Node, change: &mut impl FnMut(Span, &mut Text)) {
    match &mut node.value {
        NodeValue::Array(items) => items.iter_mut().for_each(|item| each_text_of_secret_tables(item, change)),
        NodeValue::Table(table) => {
            for entry in &mut table.entries {
                let is_tokens = matches!(entry.key.as_str(), "tokens" | "admin_tokens") && matches!(entry.node.value, NodeValue::Table(_));
                if entry.key.starts_with("secret_") || is_tokens {
                    entry.node.each_text_mut("", &mut |_, span, text| change(span, text));
                } else {
                    each_text_of_secret_tables(&mut entry.node, change);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn secret_literal(span: Span) -> Draft {
    Draft::warning("secret-literal", "this looks like a secret, and whoever reads the file reads it")
        .at(span)
        .help("put it into an environment variable or a file: `${VAR}`, `${file:PATH}`, `${credential:NAME}`")
}

/// Nothing would ever happen.
pub(super) fn nothing_enabled(routes: &[Built]) -> Option<Draft> {
    if routes.is_empty() {
        return Some(Draft::warning("no-route", "there is no route: events would be stored and nothing would happen").help("add a `[[route]]`"));
    }
    let disabled = routes.iter().all(|built| !built.route.enabled);
    disabled.then(|| Draft::warning("no-route", "no route is enabled: events would be stored and nothing would happen"))
}
