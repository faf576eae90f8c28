//! Holds a tree against a JSON Schema and reports everything that does not fit, each with its place.
//!
//! A deserializer stops at the first mistake; this does not. It knows the part of JSON Schema that `schemars` writes for Rust
//! types, and takes what it does not know for fulfilled: the deserializer has the last word.
//!
//! What was probably meant instead, and the help that says so, is in `schema_walk/meant.rs`.

mod meant;
mod wording;

use std::{cell::RefCell, collections::HashMap};

use regex::Regex;
use router_api::suggest;
use serde_json::{Map, Value};

use self::wording::{counted, join, one_of};
pub(super) use self::{meant::Meant, wording::ticked};
use super::{
    diagnostic::Draft,
    formats,
    schema_words::{Layers, format_range, has_type, layers_of, text_choices, type_names, whole},
    scrub::Scrubber,
    source::Span,
    tree::{Filled, Node, NodeValue, Step, Table, Text},
};

/// Whose keys these are, for sentences.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner<'a> {
    /// The router's own.
    Router,
    /// Those of a plugin.
    Plugin(&'a str),
}

/// The table around the walked one: a key of it that stands in here was written below the wrong header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer<'a> {
    /// The schema whose properties are its keys, and the document that its references point into.
    pub schema: &'a Value,
    pub root: &'a Value,
    /// What it is: `the route`.
    pub name: &'a str,
}

/// One thing that does not fit.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    /// From where the walk began.
    pub path: Vec<Step>,
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
    pub span: Span,
    /// What was probably meant, where that is clear.
    pub meant: Option<Meant>,
}

/// The code of a finding that only says that there is no value.
const MISSING: &str = "missing-value";

impl Finding {
    /// `None` for what was told before.
    pub(super) fn draft(self) -> Option<Draft> {
        (self.code != MISSING).then(|| Draft::error(self.code, self.message).at(self.span).maybe_help(self.help))
    }
}

/// Walks trees against one schema document.
pub(super) struct Walk<'a> {
    root: &'a Value,
    owner: Owner<'a>,
    /// What the walked table is called in TOML: `route.with`. Empty for the file itself.
    table: &'a str,
    outer: Option<Outer<'a>>,
    patterns: &'a Patterns,
}

/// Compiled regular expressions of schemas.
#[derive(Default)]
pub(super) struct Patterns {
    compiled: RefCell<HashMap<String, Option<Regex>>>,
}

impl Patterns {
    /// A pattern that this program cannot read is taken for fulfilled.
    fn fits(&self, pattern: &str, text: &str) -> bool {
        let mut compiled = self.compiled.borrow_mut();
        let regex = compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
        regex.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(root: &'a Value, owner: Owner<'a>, table: &'a str, outer: Option<Outer<'a>>, patterns: &'a Patterns) -> Self {
        Self { root, owner, table, outer, patterns }
    }

    /// Everything in `node` that does not fit `schema`.
    pub(super) fn walk(&self, schema: &'a Value, node: &Node) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.node(schema, node, node.span, &mut Vec::new(), &mut findings);
        findings
    }

    fn node(&self, schema: &'a Value, node: &Node, key_span: Span, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
        match schema {
            Value::Bool(false) => self.push(findings, path, node.span, "unknown-key", format!("{} has no place here", self.label(path)), None),
            Value::Object(_) => {
                let mut layers = Vec::new();
                layers_of(schema, self.root, 0, &mut layers);
                self.layers(&layers, node, key_span, path, findings);
            }
            _ => {}
        }
    }

    fn layers(&self, layers: &Layers<'a>, node: &Node, key_span: Span, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
        if !layers.iter().all(|layer| has_type(layer, node)) {
            let wanted = layers.iter().find(|layer| !has_type(layer, node)).map(|layer| type_names(layer)).unwrap_or_default();
            return self.wrong_type(&wanted, node, path, findings);
        }
        // A choice among fixed texts reads better as one list than as so many alternatives.
        if let Some(choices) = layers.iter().find_map(|layer| text_choices(layer, self.root)) {
            return self.choice(&choices, node, path, findings);
        }
        for layer in layers {
            self.fixed_values(layer, node, path, findings);
            for word in ["anyOf", "oneOf"] {
                if let Some(alternatives) = layer.get(word).and_then(Value::as_array) {
                    self.alternatives(alternatives, node, key_span, path, findings);
                }
            }
        }
        let before = findings.len();
        match &node.value {
            NodeValue::Text(text) => layers.iter().for_each(|layer| self.text(layer, text, node, path, findings)),
            NodeValue::Integer(number) => self.integer(layers, *number, node, path, findings),
            NodeValue::Float(number) => layers.iter().for_each(|layer| self.float(layer, *number, node, path, findings)),
            NodeValue::Array(items) => self.array(layers, items, node, path, findings),
            NodeValue::Table(table) => self.table(layers, table, key_span, path, findings),
            NodeValue::Boolean(_) | NodeValue::Datetime(_) => {}
        }
        if let Some(format) = layers.iter().find_map(|layer| layer.get("format")?.as_str())
            && findings.len() == before
            && !node.any_missing()
        {
            self.format(format, node, path, findings);
        }
    }

    /// Asks the parser of a text that has a type of its own, once everything else about it is right.
    fn format(&self, format: &str, node: &Node, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
        let scrubber = Scrubber::below(node);
        for problem in formats::problems(format, node) {
            let below = node.steps(&problem.field);
            let span = node.span_at(&below);
            let before = path.len();
            path.extend(below);
            let message = format!("{}: {}", self.label(path), scrubber.scrub(&problem.message));
            self.push(findings, path, span, "bad-option", message, problem.help.map(|help| scrubber.scrub(&help)));
            path.truncate(before);
        }
    }

    fn choice(&self, choices: &[&str], node: &Node, path: &[Step], findings: &mut Vec<Finding>) {
        match &node.value {
            // Whether that is a problem was decided when it was looked for; there is no value to go on with.
            NodeValue::Text(text) if text.filled == Filled::Missing => self.push(findings, path, node.span, MISSING, String::new(), None),
            NodeValue::Text(text) if choices.contains(&text.value.as_str()) => {}
            NodeValue::Text(text) => {
                let message = format!("{} is {}, but must be {}", self.label(path), ticked(text.shown()), one_of(choices));
                let near = if text.filled == Filled::Inside { suggest(&text.value, choices) } else { None };
                self.push(findings, path, node.span, "unknown-value", message, near.map(|near| format!("did you mean `{near}`?")));
            }
            _ => self.wrong_type(&["string"], node, path, findings),
        }
    }

    fn fixed_values(&self, layer: &Map<String, Value>, node: &Node, path: &[Step], findings: &mut Vec<Finding>) {
        let allowed: Vec<&Value> = layer.get("const").into_iter().chain(layer.get("enum").and_then(Value::as_array).into_iter().flatten()).collect();
        if !allowed.is_empty() && !allowed.contains(&&node.to_json()) {
            let allowed: Vec<String> = allowed.iter().map(|value| format!("`{value}`")).collect();
            self.push(findings, path, node.span, "unknown-value", format!("{} must be {}", self.label(path), join(&allowed, " or ")), None);
        }
    }

    /// The alternative that fits, or else the one that is nearest to what was meant, and its findings.
    fn alternatives(&self, alternatives: &'a [Value], node: &Node, key_span: Span, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
        let alternatives: Vec<(&Value, Layers<'a>)> = alternatives
            .iter()
            .map(|schema| {
                let mut layers = Vec::new();
                layers_of(schema, self.root, 0, &mut layers);
                (schema, layers)
            })
            .filter(|(_, layers)| !layers.iter().any(|layer| layer.get("type").and_then(Value::as_str) == Some("null")))
            .collect();
        let of_type: Vec<_> = alternatives.iter().filter(|(_, layers)| layers.iter().all(|layer| has_type(layer, node))).collect();
        if of_type.is_empty() {
            let mut wanted: Vec<&str> = alternatives.iter().flat_map(|(_, layers)| layers.iter().flat_map(|layer| type_names(layer))).collect();
            wanted.sort_unstable();
            wanted.dedup();
            if !wanted.is_empty() {
                self.wrong_type(&wanted, node, path, findings);
            }
            return;
        }
        if let Some((tag, values)) = node.as_table().and_then(|table| self.misfit_tag(table, &of_type)) {
            let (at, message, help) = match node.as_table().and_then(|table| table.get(tag)) {
                Some(found) => {
                    let shown = found.as_text().map_or_else(|| found.kind().to_owned(), |text| ticked(text.shown()));
                    let near = found.as_text().filter(|text| text.filled == Filled::Inside).and_then(|text| suggest(&text.value, &values));
                    path.push(Step::Key(tag.to_owned()));
                    (found.span, format!("`{tag}` is {shown}, but must be {}", one_of(&values)), near.map(|near| format!("did you mean `{near}`?")))
                }
                None => {
                    path.push(Step::Key(tag.to_owned()));
                    (key_span, format!("{} needs `{tag}`: {}", self.label(&path[..path.len() - 1]), one_of(&values)), None)
                }
            };
            self.push(findings, path, at, "unknown-value", message, help);
            path.pop();
            return;
        }
        let mut best: Option<Vec<Finding>> = None;
        for (_, layers) in of_type {
            let mut found = Vec::new();
            self.layers(layers, node, key_span, path, &mut found);
            if found.is_empty() {
                return;
            }
            // A wrong tag means that another alternative was meant.
            let weight = |found: &[Finding]| found.iter().map(|finding| if finding.code == "unknown-value" { 3 } else { 1 }).sum::<usize>();
            if best.as_ref().is_none_or(|best| weight(&found) < weight(best)) {
                best = Some(found);
            }
        }
        findings.extend(best.into_iter().flatten());
    }

    /// For tables that a fixed text under one key tells apart: the key and its values, if the table has none of them.
    fn misfit_tag(&self, table: &Table, alternatives: &[&(&Value, Layers<'a>)]) -> Option<(&'a str, Vec<&'a str>)> {
        let tags = |layers: &Layers<'a>| -> Vec<(&'a str, &'a str)> {
            let properties = layers.iter().filter_map(|layer| layer.get("properties").and_then(Value::as_object));
            properties.flatten().filter_map(|(key, schema)| Some((key.as_str(), schema.get("const")?.as_str()?))).collect()
        };
        let first = alternatives.first()?;
        let (tag, _) = tags(&first.1).into_iter().find(|(tag, _)| alternatives.iter().all(|(_, layers)| tags(layers).iter().any(|(key, _)| key == tag)))?;
        let values: Vec<&str> = alternatives.iter().flat_map(|(_, layers)| tags(layers)).filter(|(key, _)| *key == tag).map(|(_, value)| value).collect();
        let fits = table.text(tag).is_some_and(|text| text.filled == Filled::Missing || values.contains(&text.value.as_str()));
        (!fits).then_some((tag, values))
    }

    fn text(&self, layer: &Map<String, Value>, text: &Text, node: &Node, path: &[Step], findings: &mut Vec<Finding>) {
        if text.filled == Filled::Missing {
            return;
        }
        let length = text.value.chars().count() as u64;
        let limit = |word: &str| layer.get(word).and_then(Value::as_u64);
        if limit("minLength").is_some_and(|min| length < min) {
            let message = if length == 0 { format!("{} is empty", self.label(path)) } else { format!("{} is too short", self.label(path)) };
            self.push(findings, path, node.span, "out-of-range", message, limit("minLength").map(|min| format!("at least {}", counted(min, "character"))));
        }
        if let Some(max) = limit("maxLength").filter(|max| length > *max) {
            let message = format!("{} is {} long, {max} are the limit", self.label(path), counted(length, "character"));
            self.push(findings, path, node.span, "out-of-range", message, None);
        }
        if let Some(pattern) = layer.get("pattern").and_then(Value::as_str)
            && !self.patterns.fits(pattern, &text.value)
        {
            let message = format!("{} is {}, which does not have the form `{pattern}`", self.label(path), ticked(text.shown()));
            self.push(findings, path, node.span, "bad-form", message, None);
        }
    }

    fn integer(&self, layers: &Layers<'a>, number: i64, node: &Node, path: &[Step], findings: &mut Vec<Finding>) {
        let number = i128::from(number);
        let (mut least, mut most) = (None::<i128>, None::<i128>);
        let narrow = |least: &mut Option<i128>, most: &mut Option<i128>, min: Option<i128>, max: Option<i128>| {
            *least = min.into_iter().chain(*least).max();
            *most = max.into_iter().chain(*most).min();
        };
        for layer in layers {
            let bound = |word: &str| layer.get(word).and_then(Value::as_number).and_then(whole);
            narrow(&mut least, &mut most, bound("minimum"), bound("maximum"));
            narrow(&mut least, &mut most, bound("exclusiveMinimum").map(|min| min + 1), bound("exclusiveMaximum").map(|max| max - 1));
            if let Some((min, max)) = layer.get("format").and_then(Value::as_str).and_then(format_range) {
                narrow(&mut least, &mut most, Some(min), Some(max));
            }
        }
        // The limits of 32 and more bits say nothing to a person.
        let sayable = |bound: Option<i128>| bound.filter(|bound| bound.abs() < i128::from(i32::MAX));
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let range = match (sayable(least), sayable(most)) {
                (Some(least), Some(most)) => format!("from {least} to {most}"),
                (Some(least), None) if least <= number => format!("at most {}", most.unwrap_or_default()),
                (Some(least), None) => format!("at least {least}"),
                (None, _) if least.is_some_and(|least| number < least) => format!("at least {}", least.unwrap_or_default()),
                (None, _) => format!("at most {}", most.unwrap_or_default()),
            };
            self.push(findings, path, node.span, "out-of-range", format!("{} is {number}, but must be {range}", self.label(path)), None);
        }
        for layer in layers {
            if let Some(step) = layer.get("multipleOf").and_then(Value::as_number).and_then(whole).filter(|step| *step > 0 && number % step != 0) {
                self.push(findings, path, node.span, "out-of-range", format!("{} is {number}, but must be a multiple of {step}", self.label(path)), None);
            }
        }
    }

    fn float(&self, layer: &Map<String, Value>, number: f64, node: &Node, path: &[Step], findings: &mut Vec<Finding>) {
        if !number.is_finite() {
            return self.push(findings, path, node.span, "out-of-range", format!("{} must be a finite number", self.label(path)), None);
        }
        let bound = |word: &str| layer.get(word).and_then(Value::as_f64);
        let below = bound("minimum").filter(|min| number < *min).or(bound("exclusiveMinimum").filter(|min| number <= *min));
        let above = bound("maximum").filter(|max| number > *max).or(bound("exclusiveMaximum").filter(|max| number >= *max));
        let limit = below.map(|min| format!("above {min}")).or(above.map(|max| format!("below {max}")));
        if let Some(limit) = limit {
            self.push(findings, path, node.span, "out-of-range", format!("{} is {number}, but must be {limit}", self.label(path)), None);
        }
    }

    fn array(&self, layers: &Layers<'a>, items: &[Node], node: &Node, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
        for layer in layers {
            let limit = |word: &str| layer.get(word).and_then(Value::as_u64);
            let length = items.len() as u64;
            if let Some(min) = limit("minItems").filter(|min| length < *min) {
                let message = match length {
                    0 => format!("{} is empty", self.label(path)),
                    _ => format!("{} has {}, at least {min} are needed", self.label(path), counted(length, "element")),
                };
                self.push(findings, path, node.span, "out-of-range", message, (length == 0).then(|| format!("at least {}", counted(min, "element"))));
            }
            if let Some(max) = limit("maxItems").filter(|max| length > *max) {
                let message = format!("{} has {}, {max} are the limit", self.label(path), counted(length, "element"));
                self.push(findings, path, node.span, "out-of-range", message, None);
            }
            let prefix = layer.get("prefixItems").and_then(Value::as_array);
            for (index, item) in items.iter().enumerate() {
                let schema = prefix.and_then(|prefix| prefix.get(index)).or_else(|| layer.get("items"));
                if let Some(schema) = schema {
                    path.push(Step::Index(index));
                    self.node(schema, item, item.span, path, findings);
                    path.pop();
                }
            }
            if layer.get("uniqueItems").and_then(Value::as_bool) == Some(true) {
                let mut seen = std::collections::HashSet::new();
                for (index, item) in items.iter().enumerate() {
                    if !seen.insert(item.to_json().to_string()) {
                        path.push(Step::Index(index));
                        self.push(findings, path, item.span, "duplicate-value", format!("{} repeats an earlier element", self.label(path)), None);
                        path.pop();
                    }
                }
            }
        }
    }

    fn table(&self, layers: &Layers<'a>, table: &Table, key_span: Span, path: &mut Vec<Step>, findings: &mut Vec<Finding>) {
        let mut properties: HashMap<&str, Vec<&'a Value>> = HashMap::new();
        for (key, schema) in layers.iter().filter_map(|layer| layer.get("properties")?.as_object()).flatten() {
            properties.entry(key).or_default().push(schema);
        }
        let closed =
            layers.iter().any(|layer| ["additionalProperties", "unevaluatedProperties"].iter().any(|word| layer.get(*word) == Some(&Value::Bool(false))));
        let free = layers.iter().find_map(|layer| layer.get("additionalProperties").filter(|schema| schema.is_object()));
        let by_pattern: Vec<(&str, &'a Value)> = layers
            .iter()
            .filter_map(|layer| layer.get("patternProperties")?.as_object())
            .flatten()
            .map(|(pattern, schema)| (pattern.as_str(), schema))
            .collect();
        // What an unknown key was probably meant to be is not also missing.
        let mut meant = Vec::new();
        for entry in &table.entries {
            let key = entry.key.as_str();
            let patterned: Vec<&'a Value> = by_pattern.iter().filter(|(pattern, _)| self.patterns.fits(pattern, key)).map(|(_, schema)| *schema).collect();
            path.push(Step::Key(key.to_owned()));
            match properties.get(key) {
                Some(schemas) => schemas.iter().for_each(|schema| self.node(schema, &entry.node, entry.key_span, path, findings)),
                None if !patterned.is_empty() => patterned.iter().for_each(|schema| self.node(schema, &entry.node, entry.key_span, path, findings)),
                None => match free {
                    Some(schema) => self.node(schema, &entry.node, entry.key_span, path, findings),
                    None if closed => {
                        let mut known: Vec<&str> = properties.keys().copied().collect();
                        known.sort_unstable();
                        meant.extend(self.unknown_key(&known, table, key, &entry.node, entry.key_span, path, findings));
                    }
                    None => {}
                },
            }
            path.pop();
        }
        let required = layers.iter().filter_map(|layer| layer.get("required")?.as_array()).flatten().filter_map(Value::as_str);
        for key in required.filter(|key| table.get(key).is_none() && !meant.contains(key)) {
            path.push(Step::Key(key.to_owned()));
            let message = match (self.owner, &path[..path.len() - 1]) {
                (Owner::Plugin(plugin), []) => format!("`{plugin}` needs the option `{key}`"),
                (_, []) if self.table == "route" => format!("the route needs `{key}`"),
                (_, before) => format!("{} needs `{key}`", self.label(before)),
            };
            self.push(findings, path, key_span, "missing-key", message, None);
            path.pop();
        }
    }

    /// Is the walked table itself the outer one?
    fn is_outer(&self) -> bool {
        matches!(self.owner, Owner::Router) && self.table == "route"
    }

    /// The table as a header: `[route.with]`, `[[route]]`.
    fn header(&self, path: &[Step]) -> String {
        let mut words: Vec<&str> = if self.table.is_empty() { Vec::new() } else { vec![self.table] };
        words.extend(path.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        }));
        match words.as_slice() {
            [] => String::new(),
            ["route"] => "[[route]]".to_owned(),
            words => format!("[{}]", words.join(".")),
        }
    }

    /// What stands at `path`, for the beginning of a sentence: `` `on[1]` ``.
    fn label(&self, path: &[Step]) -> String {
        let from = path.iter().rposition(|step| matches!(step, Step::Key(_))).unwrap_or(0);
        let mut text = String::new();
        for step in &path[from..] {
            match step {
                Step::Key(key) => text.push_str(key),
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        if text.is_empty() {
            text = self.table.to_owned();
        }
        format!("`{text}`")
    }

    fn push(&self, findings: &mut Vec<Finding>, path: &[Step], span: Span, code: &'static str, message: String, help: Option<String>) {
        findings.push(Finding { path: path.to_vec(), code, message, help, span, meant: None });
    }
}

impl Outer<'_> {
    /// Is it one of the keys?
    pub(super) fn has(&self, key: &str) -> bool {
        let mut layers = Vec::new();
        layers_of(self.schema, self.root, 0, &mut layers);
        layers.iter().any(|layer| layer.get("properties").and_then(Value::as_object).is_some_and(|properties| properties.contains_key(key)))
    }
}

fn last_key(path: &[Step]) -> &str {
    path.iter().rev().find_map(|step| if let Step::Key(key) = step { Some(key.as_str()) } else { None }).unwrap_or_default()
}
