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
    source::{FILE_BYTES_MAX, Sources, Span, read_text},
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
    let (mut sources, documents, complete) = read(located, &mut drafts);
    let complete = complete && located.problems.is_empty();

    let documents = prepare(documents, &mut sources, environment, &mut drafts);
    let (tables, routes) = check_tables(documents, &mut drafts);
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
    let config = globals::config(&raw, &tables, &sources, &located.state, environment, &built, &mut drafts);
    let unusable = drafts.iter().any(Draft::is_error);
    let report = Report::new(sources, drafts);
    match config {
        Some(config) if !unusable => Ok(Loaded { config, report }),
        _ => Err(Problems { report }),
    }
}

/// Reads and parses the files. False if one of them could not be.
fn read(located: &Located, drafts: &mut Vec<Draft>) -> (Sources, Vec<Table>, bool) {
    let (mut sources, mut documents, mut complete) = (Sources::default(), Vec::new(), true);
    let mut parse = |name: &str, base_dir: &Path, text: String, drafts: &mut Vec<Draft>| {
        let file = sources.add(name, base_dir, text);
        let (table, mut errors) = tree::parse(&sources.file(file).text, file);
        if errors.is_empty() {
            documents.push(table);
            return true;
        }
        errors.sort_by_key(|error| error.span);
        errors.dedup_by_key(|error| sources.place(error.span).line);
        for error in errors.into_iter().take(SYNTAX_ERRORS_MAX) {
            drafts.push(Draft::error("syntax", format!("not valid TOML: {}", error.message)).at(error.span));
        }
        false
    };
    if located.origin == Origin::BuiltIn {
        complete &= parse("built-in/router.toml", &located.cwd.join("config"), BUILT_IN.to_owned(), drafts);
    }
    for path in &located.files {
        let name = located.display(path);
        match read_text(path, FILE_BYTES_MAX) {
            Ok(text) => {
                let base_dir = path.parent().unwrap_or(&located.cwd);
                complete &= parse(&name, base_dir, text, drafts);
            }
            Err(error) => {
                complete = false;
                drafts.push(Draft::error("unreadable", format!("the configuration file `{name}` {error}")));
            }
        }
    }
    (sources, documents, complete)
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

/// Holds everything but the routes against the schema, and merges the files. What does not fit is reported and left out.
fn check_tables(documents: Vec<Table>, drafts: &mut Vec<Draft>) -> (Node, Vec<Node>) {
    let (mut merged, mut routes) = (Table::default(), Vec::new());
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
    (Node { span: Span::default(), value: NodeValue::Table(merged) }, routes)
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
