//! From checked tables to the model: defaults, cross-references between keys, names, patterns, fields, filters, and each
//! plugin's own opinion of its options.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use router_api::{BuildContext, EffectPort, FieldPath, KeyError, Registration, Registry, RouteMode, RouteName, RoutingKey, RoutingPattern, suggest};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    broker,
    diagnostic::Draft,
    lint,
    load::prune,
    model::{Breaker, Coalesce, Dedup, OnExhausted, Rate, RetryPolicy, RouteConfig},
    raw::{RawDedup, RawDefaults, RawRoute},
    repair, schema,
    schema_walk::{Finding, Outer, Owner, Patterns, Walk, ticked},
    scrub::Scrubber,
    show::{self, Form, RouteNodes},
    source::{Sources, Span},
    tree::{Filled, Node, NodeValue, Step, Table},
};
use crate::filter::EventFilter;

/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// A route that is right.
pub(super) struct Built {
    pub route: RouteConfig,
    /// The place of its name.
    pub span: Span,
    /// Places of keys that are held against the transport.
    pub places: Places,
    /// As effective TOML, secrets redacted.
    pub shown: String,
}

/// Where keys of a route stand: in the route, else in `[defaults]`, else the route's name.
pub(super) struct Places {
    pub queue: Span,
    pub parallel: Span,
    pub queue_type: Span,
    pub timeout: Span,
    pub max_delay: Span,
    pub max_wait: Span,
}

impl Places {
    fn of(route: &Node, defaults: Option<&Node>) -> Self {
        let name = route.span_at(&[key("name")]);
        let place = |dotted: &str| {
            let found = |node: &Node| {
                let steps = node.steps(dotted);
                node.at(&steps).is_some().then(|| node.span_at(&steps))
            };
            found(route).or_else(|| defaults.and_then(found)).unwrap_or(name)
        };
        // A burst that says no `max_wait_ms` has one by its `quiet_ms`.
        let max_wait = if route.at(&route.steps("coalesce.max_wait_ms")).is_some() { "coalesce.max_wait_ms" } else { "coalesce.quiet_ms" };
        Self {
            queue: place("queue"),
            parallel: place("parallel"),
            queue_type: place("queue_type"),
            timeout: place("timeout_ms"),
            max_delay: place("retry.max_delay_ms"),
            max_wait: place(max_wait),
        }
    }
}

/// Takes what a table says. What did not fit was reported and taken out before, so that this does not fail; if it does, schema and
/// struct disagree, and that is said.
pub(super) fn deserialize<T: DeserializeOwned + Default>(node: &Node, drafts: &mut Vec<Draft>) -> T {
    serde_json::from_value(node.to_json()).unwrap_or_else(|error| {
        drafts.push(Draft::error("bad-table", Scrubber::below(node).scrub(&error.to_string())).at(node.span));
        T::default()
    })
}

/// What a plugin is asked about: options that fit its schema, or are taken for what was meant.
struct Question {
    plugin: Registration,
    with: Node,
    /// Do they fit as they are written?
    as_written: bool,
}

/// Checks and builds routes, one after the other.
pub(super) struct Checker<'a> {
    registry: &'a Registry,
    effects: Arc<dyn EffectPort>,
    sources: &'a Sources,
    defaults: RawDefaults,
    defaults_node: Option<&'a Node>,
    route_schema: Value,
    plugin_schemas: HashMap<&'static str, Value>,
    names: HashMap<String, Span>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(registry: &'a Registry, effects: Arc<dyn EffectPort>, sources: &'a Sources, globals: &'a Node, defaults: RawDefaults) -> Self {
        let defaults_node = globals.as_table().and_then(|table| table.get("defaults"));
        Self {
            registry,
            effects,
            sources,
            defaults,
            defaults_node,
            route_schema: schema::own_table("Route"),
            plugin_schemas: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// One route, if there is no error in it.
    pub(super) async fn route(&mut self, mut node: Node, drafts: &mut Vec<Draft>) -> Option<Built> {
        let mut found = Vec::new();
        let question = self.hold_against_schemas(&mut node, &mut found);
        let raw: RawRoute = deserialize(&node, &mut found);
        let built = self.model(&raw, &node, &mut found);
        if let Some(question) = question {
            self.ask_plugin(question, &raw, &node, &mut found).await;
        }
        let usable = !found.iter().any(Draft::is_error);
        if let (true, Some(route)) = (usable, &built) {
            lint::route(route, &node, &mut found);
        }
        drafts.append(&mut found);
        let mut route = built.filter(|_| usable)?;
        let nodes = RouteNodes { route: node.as_table()?, defaults: self.defaults_node.and_then(Node::as_table) };
        route.hash = show::hash("route", &[&show::route(&route, nodes, Form::Whole), &route.base_dir.to_string_lossy()]);
        let shown = show::route(&route, nodes, Form::Shown);
        Some(Built { route, span: node.span_at(&[key("name")]), places: Places::of(&node, self.defaults_node), shown })
    }

    /// Reports and takes out everything that does not fit. Returns what the plugin can be asked then.
    fn hold_against_schemas(&mut self, node: &mut Node, drafts: &mut Vec<Draft>) -> Option<Question> {
        let patterns = Patterns::default();
        let root = schema::own();
        let outer = Outer { schema: &self.route_schema, root, name: "the route" };
        let mut findings = Walk::new(root, Owner::Router, "route", Some(outer), &patterns).walk(&self.route_schema, node);
        if node.as_table().is_none() {
            drafts.extend(findings.into_iter().filter_map(Finding::draft));
            return None;
        }
        prune(node, findings.iter().map(|finding| finding.path.clone()).collect());

        let plugin = self.plugin(node, drafts);
        let mut question = None;
        if let Some(plugin) = plugin {
            let options_schema = self.plugin_schemas.entry(plugin.name).or_insert_with(|| schema::of_plugin(&plugin));
            let with = options(node);
            let mut found = Walk::new(options_schema, Owner::Plugin(plugin.name), "route.with", Some(outer), &patterns).walk(options_schema, &with);
            let too_high = options_on_the_route(&mut findings, plugin.name, options_schema);
            // An option that stands too high is missing below; one sentence is enough.
            found.retain(|finding| finding.code != "missing-key" || finding.path.len() > 1 || !finding.path.last().is_some_and(|key| too_high.contains(key)));
            // A route key that stands too low is missing above.
            findings.retain(|finding| {
                finding.code != "missing-key" || !found.iter().any(|other| other.code == "misplaced-key" && other.path.last() == finding.path.last())
            });
            if too_high.is_empty() && !with.any_missing() {
                question = repair::repaired(&with, &found).map(|with| Question { plugin, with, as_written: found.is_empty() });
            }
            drafts.extend(found.into_iter().filter_map(Finding::draft));
        }
        let misplaced: Vec<_> = findings.iter().filter(|finding| finding.code == "misplaced-key").filter_map(|finding| finding.path.last().cloned()).collect();
        findings.retain(|finding| finding.code != "missing-key" || finding.path.len() > 1 || !finding.path.last().is_some_and(|key| misplaced.contains(key)));
        drafts.extend(findings.into_iter().filter_map(Finding::draft));
        question
    }

    fn plugin(&self, node: &Node, drafts: &mut Vec<Draft>) -> Option<Registration> {
        let handler = node.as_table()?.get("handler")?;
        let text = handler.as_text().filter(|text| text.filled != Filled::Missing)?;
        if let Some(plugin) = self.registry.get(&text.value) {
            return Some(*plugin);
        }
        let names: Vec<&str> = self.registry.iter().map(|plugin| plugin.name).collect();
        let linked = format!("linked into this program: {}", names.iter().map(|name| ticked(name)).collect::<Vec<_>>().join(", "));
        let near = Some(text).filter(|text| text.filled == Filled::Inside).and_then(|text| suggest(&text.value, &names));
        let help = near.map_or_else(|| linked.clone(), |near| format!("did you mean `{near}`? {linked}"));
        drafts.push(Draft::error("unknown-handler", format!("there is no plugin {}", ticked(text.shown()))).at(handler.span).help(help));
        None
    }

    async fn ask_plugin(&self, question: Question, raw: &RawRoute, node: &Node, drafts: &mut Vec<Draft>) {
        let Question { plugin, with, as_written } = question;
        // What a disabled route needs may not be there yet; in shadow mode a missing program is none of the plugin's problems.
        let mode = if raw.enabled.unwrap_or(true) { raw.policies(&self.defaults).mode.unwrap_or_default() } else { RouteMode::Shadow };
        // A route whose name is wrong has options all the same.
        let route = raw.name.as_deref().and_then(|name| name.parse().ok()).unwrap_or_else(|| "unnamed".parse().expect("the literal is a name"));
        let base_dir = self.sources.file(node.span.file).base_dir.clone();
        let cx = BuildContext { route, base_dir, mode, effects: Arc::clone(&self.effects) };
        let result = AssertUnwindSafe(plugin.build(with.to_json(), &cx)).catch_unwind().await;
        let problems = match result {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.problems,
            // Over what nobody wrote.
            Err(_) if !as_written => return,
            Err(_) => {
                drafts.push(
                    Draft::error("plugin-panic", format!("the plugin `{}` panicked over these options", plugin.name))
                        .at(with.span)
                        .help("this is a mistake in the plugin"),
                );
                return;
            }
        };
        let scrubber = Scrubber::below(&with);
        for problem in problems {
            let field = problem.field.strip_prefix("with.").unwrap_or(&problem.field);
            let message = scrubber.scrub(&problem.message);
            let message = if field.is_empty() { format!("`{}`: {message}", plugin.name) } else { format!("`{field}`: {message}") };
            let span = with.span_at(&with.steps(field));
            drafts.push(Draft::error("bad-option", message).at(span).maybe_help(problem.help.map(|help| scrubber.scrub(&help))));
        }
    }

    /// The route itself. `None` when something that it cannot be without is missing; that was reported.
    fn model(&mut self, raw: &RawRoute, node: &Node, drafts: &mut Vec<Draft>) -> Option<RouteConfig> {
        let table = node.as_table()?;
        let policies = raw.policies(&self.defaults);
        let enabled = raw.enabled.unwrap_or(true);
        let name = self.name(table, enabled, drafts);
        let on = raw.on.as_ref().map(|on| patterns(on, node, drafts)).unwrap_or_default();
        let when = self.filter(table, drafts);
        let order_by = raw.order_by.as_deref().and_then(|_| field(node, &[key("order_by")], drafts));
        let prefetch = policies.prefetch.unwrap_or(500);
        let coalesce = raw.coalesce.as_ref().and_then(|coalesce| {
            let by = coalesce.by.as_deref().and_then(|_| field(node, &[key("coalesce"), key("by")], drafts));
            let at = |name: &str| node.span_at(&[key("coalesce"), key(name)]);
            let events_most = (prefetch / 4).max(1);
            let events_max = coalesce.events_max.unwrap_or(events_most);
            if events_max > events_most {
                let message = format!("`events_max` is {events_max}, but a burst has at most a quarter of `prefetch` ({prefetch}): {events_most}");
                let help = format!("lower it, or set `prefetch = {}`", events_max.saturating_mul(4));
                drafts.push(Draft::error("burst-size", message).at(at("events_max")).help(help));
            }
            let quiet = Duration::from_millis(coalesce.quiet_ms?);
            let max_wait = coalesce.max_wait_ms.map_or_else(|| (quiet * 10).min(DAY), Duration::from_millis);
            Some(Coalesce { by: by?, quiet, max_wait, events_max })
        });
        if let (Some(order_by), Some(coalesce)) = (&order_by, &coalesce)
            && *order_by != coalesce.by
        {
            drafts.push(
                Draft::error("lane-key", "`coalesce.by` and `order_by` name different fields, and a route has one kind of lane")
                    .at(node.span_at(&[key("coalesce"), key("by")]))
                    .related("the other field", node.span_at(&[key("order_by")]))
                    .help("a coalesced lane is ordered anyway: leave out `order_by`"),
            );
        }
        let dedup = self.dedup(policies.dedup, node, drafts);
        let retry = policies.retry.unwrap_or_default();
        let breaker = policies.breaker.unwrap_or_default();
        let rate = policies.rate.and_then(|rate| Some(Rate { count: rate.count?, per: Duration::from_millis(rate.per_ms?) }));
        let ms = |own: Option<u64>, default: u64| Duration::from_millis(own.unwrap_or(default));

        let place = self.sources.place(table.get("name").map_or(node.span, |name| name.span));
        Some(RouteConfig {
            name: name?,
            place: format!("{}:{}", place.file, place.line),
            base_dir: self.sources.file(node.span.file).base_dir.clone(),
            hash: String::new(),
            enabled,
            mode: policies.mode.unwrap_or_default(),
            on,
            when: when?,
            order_by,
            coalesce,
            concurrency: policies.concurrency.unwrap_or(8),
            prefetch,
            queue: broker::wish(raw, node, drafts),
            timeout: ms(policies.timeout_ms, 60_000),
            retry: RetryPolicy {
                attempts_max: retry.attempts_max.unwrap_or(8),
                first_delay: ms(retry.first_delay_ms, 1_000),
                max_delay: ms(retry.max_delay_ms, 600_000),
                on: retry.on.map_or_else(BTreeMap::new, |on| on.actions()),
            },
            on_exhausted: policies.on_exhausted.unwrap_or(OnExhausted::DeadLetter),
            when_busy: policies.when_busy.unwrap_or_default(),
            ledger: policies.ledger.unwrap_or(true),
            breaker: Breaker { first_delay: ms(breaker.first_delay_ms, 5_000), max_delay: ms(breaker.max_delay_ms, 300_000) },
            rate,
            drain: ms(policies.drain_ms, 30_000),
            dedup,
            max_age: policies.max_age_s.map(Duration::from_secs),
            hops_max: policies.hops_max.unwrap_or(8),
            crashes_max: policies.crashes_max.unwrap_or(5),
            handler: raw.handler.clone().unwrap_or_default(),
            with: options(node).to_json(),
        })
    }

    fn name(&mut self, table: &Table, enabled: bool, drafts: &mut Vec<Draft>) -> Option<RouteName> {
        let node = table.get("name")?;
        let text = node.as_text()?;
        if text.filled == Filled::Missing && enabled {
            return None;
        }
        let Ok(name) = text.value.parse::<RouteName>() else {
            let message = format!("{} is no name for a route", ticked(text.shown()));
            let better =
                (text.filled == Filled::Inside).then(|| better_name(&text.value)).flatten().map_or_else(String::new, |name| format!(": `name = \"{name}\"`"));
            let help = format!("use 1 to 63 of `a` to `z`, `0` to `9` and `-`, beginning with a letter{better}");
            drafts.push(Draft::error("bad-name", message).at(node.span).help(help));
            return None;
        };
        if let Some(first) = self.names.get(&text.value) {
            let message = format!("there are two routes called {}", ticked(text.shown()));
            drafts.push(
                Draft::error("duplicate-route", message).at(node.span).related("the first one", *first).help("a route's queue and statistics go by its name"),
            );
        } else {
            self.names.insert(text.value.clone(), node.span);
        }
        Some(name)
    }

    fn filter(&self, table: &Table, drafts: &mut Vec<Draft>) -> Option<EventFilter> {
        let Some(node) = table.get("when") else { return Some(EventFilter::default()) };
        match EventFilter::compile(&node.to_json()) {
            Ok(filter) => Some(filter),
            Err(problems) => {
                let scrubber = Scrubber::below(node);
                for problem in problems {
                    let draft = Draft::error("bad-filter", scrubber.scrub(&problem.message)).at(node.key_span_at(&node.steps_of(&problem.path)));
                    drafts.push(draft.maybe_help(problem.help.map(|help| scrubber.scrub(&help))));
                }
                None
            }
        }
    }

    fn dedup(&self, raw: Option<RawDedup>, node: &Node, drafts: &mut Vec<Draft>) -> Option<Dedup> {
        let table = match raw {
            Some(RawDedup::Switch(false)) => return None,
            Some(RawDedup::Table(table)) => table,
            Some(RawDedup::Switch(true)) | None => super::raw::RawDedupTable::default(),
        };
        let path = |index| [key("dedup"), key("by"), Step::Index(index)];
        let fields = table.by.unwrap_or_default();
        // They stand on the route, or else in the defaults.
        let home = if node.at(&path(0)).is_some() { Some(node) } else { self.defaults_node };
        let by = (0..fields.len()).filter_map(|index| field(home?, &path(index), drafts)).collect();
        Some(Dedup { by, window: table.window_s.map_or(DAY, Duration::from_secs) })
    }
}

/// Makes unknown keys of the route that its plugin knows a sentence of their own. Returns these keys.
fn options_on_the_route(findings: &mut [Finding], plugin: &str, options_schema: &Value) -> Vec<Step> {
    let options = Outer { schema: options_schema, root: options_schema, name: plugin };
    let unknown = findings.iter_mut().filter(|finding| matches!(finding.code, "unknown-key" | "duration-unit"));
    unknown
        .filter_map(|finding| {
            let [step @ Step::Key(key)] = finding.path.as_slice() else { return None };
            if !options.has(key) {
                return None;
            }
            let step = step.clone();
            finding.code = "misplaced-key";
            finding.message = format!("`{key}` is an option of `{plugin}`");
            finding.help = Some("move it below `[route.with]`".to_owned());
            Some(step)
        })
        .collect()
}

/// The options of a route, or an empty table where the handler is named.
fn options(node: &Node) -> Node {
    let table = node.as_table();
    let with = table.and_then(|table| table.get("with")).filter(|with| with.as_table().is_some());
    with.cloned().unwrap_or_else(|| {
        let span = table.and_then(|table| table.get("handler")).map_or(node.span, |handler| handler.span);
        Node { span, value: NodeValue::Table(Table::default()) }
    })
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

fn patterns(on: &[String], node: &Node, drafts: &mut Vec<Draft>) -> Vec<RoutingPattern> {
    let mut parsed = Vec::with_capacity(on.len());
    for (index, text) in on.iter().enumerate() {
        match text.parse::<RoutingPattern>() {
            Ok(pattern) => parsed.push(pattern),
            Err(error) => {
                let why = match &error {
                    KeyError::TooLong(bytes) => format!("the pattern is {bytes} bytes long, {} are the limit", RoutingKey::BYTES_MAX),
                    KeyError::Control(_) => "the pattern has a control character in it".to_owned(),
                };
                drafts.push(Draft::error("bad-pattern", why).at(node.span_at(&[key("on"), Step::Index(index)])));
            }
        }
    }
    parsed
}

/// Reads the field path that stands at `path`.
fn field(node: &Node, path: &[Step], drafts: &mut Vec<Draft>) -> Option<FieldPath> {
    let found = node.at(path)?;
    let text = found.as_text()?;
    match text.value.parse::<FieldPath>() {
        Ok(field) => Some(field),
        Err(_) if text.filled == Filled::Missing => None,
        Err(error) => {
            let scrubber = Scrubber::below(found);
            let help = match &error.suggestion {
                Some(near) if text.filled == Filled::Inside => format!("did you mean `{near}`?"),
                _ => format!("fields are {}, and `payload.…` and `raw.…`", FieldPath::NAMES.iter().map(|name| ticked(name)).collect::<Vec<_>>().join(", ")),
            };
            drafts.push(Draft::error("unknown-field", scrubber.scrub(&error.message)).at(found.span).help(help));
            None
        }
    }
}

/// What a name could be, if it were written by the rules.
fn better_name(text: &str) -> Option<String> {
    let mut name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    let name: String = name.trim_matches('-').chars().take(RouteName::BYTES_MAX).collect();
    name.parse::<RouteName>().is_ok().then_some(name)
}
