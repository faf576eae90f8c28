//! Reading, checking and building a configuration: the one function that `check`, `run` and every other command begin with.
//!
//! The steps, each over all files before the next begins: read and parse, fill in variables, hold against the schema, build the
//! routes, ask the plugins, warn. Nothing here talks to the network, and nothing stops at the first problem.

use std::{path::Path, sync::Arc};

use router_api::{EffectPort, Registry};

use super::{
    build::{self, Checker},
    diagnostic::{Diagnostic, Draft, Problems, Report, Severity},
    environment::Environment,
    globals,
    interpolate::Filler,
    lint::{self, SecretLint},
    locate::{BUILT_IN, Located, Origin},
    model::Config,
    raw::RawConfig,
    schema,
    schema_walk::{Finding, Owner, Patterns, Walk},
    source::{FILE_BYTES_MAX, FileId, Sources, Span, read_text},
    store_place::{self, Clues},
    tree::{self, Entry, Node, NodeValue, Step, Table},
};

/// Routes of one configuration at most.
const ROUTES_MAX: usize = 10_000;

/// Syntax errors shown for one file: what follows the first ones is mostly their echo.
const SYNTAX_ERRORS_MAX: usize = 5;

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings and notes; no errors.
    pub report: Report,
}

impl Loaded {
    /// What hardly means what it says.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.report.diagnostics().iter().filter(|diagnostic| diagnostic.severity == Severity::Warning)
    }
}

/// Loads and checks a configuration.
///
/// `effects` resolves the programs of commands; nothing is performed. A disabled route is checked too, but may refer to
/// variables, files and programs that are not there.
///
/// # Errors
///
/// All problems of all files at once.
pub async fn load(located: &Located, registry: &Registry, effects: Arc<dyn EffectPort>, environment: &dyn Environment) -> Result<Loaded, Problems> {
    let mut drafts: Vec<Draft> = located.problems.iter().map(|problem| Draft::error("no-config", problem.clone())).collect();
    let Reading { mut sources, documents, broken, mut unread } = read(located, &mut drafts);
    unread |= !located.problems.is_empty();
    let complete = !unread && broken.is_empty();

    let documents = prepare(documents, &mut sources, environment, &mut drafts);
    let Checked { tables, routes, store_is_clear } = check_tables(documents, &mut drafts);
    let raw: RawConfig = build::deserialize(&tables, &mut drafts);

    let mut checker = Checker::new(registry, effects, &sources, &tables, raw.defaults.clone().unwrap_or_default());
    let (count, mut built) = (routes.len(), Vec::new());
    for node in routes {
        if let Some(route) = checker.route(node, &mut drafts).await {
            built.push(route);
        }
    }
    lint::double_firing(&built, &mut drafts);
    // Where a route is missing for its errors, or a file for its own, there may be more than we see.
    if complete && count == built.len() && !drafts.iter().any(Draft::is_error) {
        drafts.extend(lint::nothing_enabled(&built));
    }
    let config = globals::config(&raw, &tables, &mut sources, &located.state, environment, &built, &mut drafts);
    if let Some(config) = config.filter(|_| !drafts.iter().any(Draft::is_error)) {
        return Ok(Loaded { config, report: Report::new(sources, drafts) });
    }
    let clues = Clues { tables: &tables, broken, all_is_known: !unread && store_is_clear };
    let store = clues.store(&sources, &located.state, environment);
    Err(Problems { report: Report::new(sources, drafts), store })
}

/// The files, as far as they can be read.
struct Reading {
    sources: Sources,
    /// Of the files that are valid TOML.
    documents: Vec<Table>,
    /// What can be made out of the others.
    broken: Vec<(FileId, Table)>,
    /// Is there a file that could not be read at all?
    unread: bool,
}

/// Reads and parses the files.
fn read(located: &Located, drafts: &mut Vec<Draft>) -> Reading {
    let (mut sources, mut documents, mut broken, mut unread) = (Sources::default(), Vec::new(), Vec::new(), false);
    let mut parse = |name: &str, base_dir: &Path, text: String, drafts: &mut Vec<Draft>| {
        let file = sources.add(name, base_dir, text);
        let (table, mut errors) = tree::parse(&sources.file(file).text, file);
        if errors.is_empty() {
            documents.push(table);
            return;
        }
        broken.push((file, table));
        errors.sort_by_key(|error| error.span);
        errors.dedup_by_key(|error| sources.place(error.span).line);
        for error in errors.into_iter().take(SYNTAX_ERRORS_MAX) {
            drafts.push(Draft::error("syntax", format!("not valid TOML: {}", error.message)).at(error.span));
        }
    };
    if located.origin == Origin::BuiltIn {
        parse("built-in/router.toml", &located.cwd.join("config"), BUILT_IN.to_owned(), drafts);
    }
    for path in &located.files {
        let name = located.display(path);
        match read_text(path, FILE_BYTES_MAX) {
            Ok(text) => {
                let base_dir = path.parent().unwrap_or(&located.cwd);
                parse(&name, base_dir, text, drafts);
            }
            Err(error) => {
                unread = true;
                drafts.push(Draft::error("unreadable", format!("the configuration file `{name}` {error}")));
            }
        }
    }
    Reading { sources, documents, broken, unread }
}

/// Fills in variables, and finds secrets that need not have been written down.
fn prepare(documents: Vec<Table>, sources: &mut Sources, environment: &dyn Environment, drafts: &mut Vec<Draft>) -> Vec<Table> {
    let lint = SecretLint::new();
    let (mut secrets, mut urls) = (Vec::new(), Vec::new());
    let mut filler = Filler::new(environment, sources);
    let mut fill = |node: &mut Node, needed: bool, marked: bool| {
        filler.fill(node, needed, drafts);
        if marked {
            secrets.extend(lint.mark(node));
        }
    };
    let mut documents = documents;
    for entry in documents.iter_mut().flat_map(|document| &mut document.entries) {
        match (entry.key.as_str(), &mut entry.node.value) {
            ("route", NodeValue::Array(routes)) => {
                for route in routes {
                    let enabled = route.as_table().and_then(|table| table.get("enabled")).is_none_or(|node| !matches!(node.value, NodeValue::Boolean(false)));
                    fill(route, enabled, true);
                }
            }
            // The rules of redaction look like what they look for.
            ("redact", _) => fill(&mut entry.node, true, false),
            ("transport", _) => fill(&mut entry.node, environment.asks_broker(), true),
            _ => fill(&mut entry.node, true, true),
        }
        if entry.key == "transport" {
            urls.extend(lint::mark_broker_urls(&mut entry.node));
        }
    }
    secrets.append(&mut urls);
    secrets.sort_unstable();
    for span in secrets {
        sources.blot(span);
        drafts.push(lint::secret_literal(span));
    }
    documents
}

/// The files together, without what does not fit.
struct Checked {
    /// Everything but the routes.
    tables: Node,
    routes: Vec<Node>,
    /// False where something that does not fit may have said where the store is.
    store_is_clear: bool,
}

/// Holds everything but the routes against the schema, and merges the files. What does not fit is reported and left out.
fn check_tables(documents: Vec<Table>, drafts: &mut Vec<Draft>) -> Checked {
    let (mut merged, mut routes, mut store_is_clear) = (Table::default(), Vec::new(), true);
    let patterns = Patterns::default();
    let walk = Walk::new(schema::own(), Owner::Router, "", None, &patterns);
    for document in documents {
        let (mut globals, mut own_routes) = (Table::default(), Vec::new());
        for entry in document.entries {
            match (entry.key.as_str(), entry.node.value) {
                ("route", NodeValue::Array(items)) => own_routes.extend(items),
                (_, value) => globals.entries.push(Entry { node: Node { span: entry.node.span, value }, ..entry }),
            }
        }
        let mut globals = Node { span: Span::default(), value: NodeValue::Table(globals) };
        let findings = walk.walk(schema::own(), &globals);
        store_is_clear &= !findings.iter().any(|finding| store_place::concerns(&finding.path));
        prune(&mut globals, findings.iter().map(|finding| finding.path.clone()).collect());
        drafts.extend(findings.into_iter().filter_map(Finding::draft));
        if let NodeValue::Table(globals) = globals.value {
            merge(&mut merged, globals, drafts);
        }
        routes.extend(own_routes);
    }
    if routes.len() > ROUTES_MAX {
        drafts.push(Draft::error("too-many-routes", format!("{} routes, {ROUTES_MAX} are the limit", routes.len())));
        routes.truncate(ROUTES_MAX);
    }
    Checked { tables: Node { span: Span::default(), value: NodeValue::Table(merged) }, routes, store_is_clear }
}

/// Takes out what does not fit, so that the rest can be looked at.
pub(super) fn prune(node: &mut Node, mut paths: Vec<Vec<Step>>) {
    // The later elements of an array first, so that the others keep their numbers.
    paths.sort_unstable();
    paths.dedup();
    for path in paths.iter().rev() {
        node.remove(path);
    }
}

/// Puts a later file's tables over those of the earlier ones.
fn merge(into: &mut Table, from: Table, drafts: &mut Vec<Draft>) {
    for entry in from.entries {
        let Some(existing) = into.entries.iter_mut().find(|existing| existing.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        match (&mut existing.node.value, entry.node.value) {
            (NodeValue::Table(existing), NodeValue::Table(table)) => merge(existing, table, drafts),
            (_, value) => {
                drafts.push(
                    Draft::note("overridden", format!("`{}` is set again here, which is what counts", entry.key))
                        .at(entry.key_span)
                        .related("set before", existing.key_span),
                );
                *existing = Entry { key: entry.key, key_span: entry.key_span, node: Node { span: entry.node.span, value } };
            }
        }
    }
}
