//! TOML as a tree in which every key and value knows where it stands.
//!
//! serde's own spans get lost in tagged enums and point at whole tables, so the tree comes from `toml`'s parser and all checks
//! walk it. Read [`Node`] first.

use std::ops::Range;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::source::{FileId, Span};

/// A value and where it stands. The span of a `[table]` is its header.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub span: Span,
    pub value: NodeValue,
}

#[derive(Debug, Clone)]
pub(super) enum NodeValue {
    Text(Text),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// A string value, before and after variables were filled in.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// As it stands in the file.
    pub written: String,
    /// What it means.
    pub value: String,
    pub filled: Filled,
    /// What was filled in from outside.
    pub pieces: Vec<Piece>,
    /// A literal that looks like a secret.
    pub sensitive: bool,
}

/// A value from outside.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// As it stands in the file: `${TOKEN}`.
    pub reference: String,
    pub value: String,
}

/// Where the value of a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// All of it from the configuration.
    Inside,
    /// Some of it from a variable or a file: never shown.
    Outside,
    /// Some of it is missing, and nobody needs it.
    Missing,
}

impl Text {
    /// What may be shown to people: never a value from outside.
    pub(super) fn shown(&self) -> &str {
        match self.filled {
            _ if self.sensitive => "[redacted]",
            Filled::Inside => &self.value,
            Filled::Outside | Filled::Missing => &self.written,
        }
    }
}

/// A table, its entries in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub node: Node,
}

/// One step into the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Table {
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The value of a key, if it is text.
    pub(super) fn text(&self, key: &str) -> Option<&Text> {
        self.get(key).and_then(Node::as_text)
    }

    pub(super) fn to_json(&self) -> Value {
        Value::Object(self.entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect())
    }
}

impl Node {
    pub(super) fn as_text(&self) -> Option<&Text> {
        match &self.value {
            NodeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            NodeValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// With article, as sentences need it: `a string`.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Text(_) => "a string",
            NodeValue::Integer(_) => "an integer",
            NodeValue::Float(_) => "a float",
            NodeValue::Boolean(_) => "a boolean",
            NodeValue::Datetime(_) => "a date or time",
            NodeValue::Array(_) => "an array",
            NodeValue::Table(_) => "a table",
        }
    }

    /// The effective value. A date becomes text, a float that JSON cannot carry becomes null.
    pub(super) fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Text(text) => Value::String(text.value.clone()),
            NodeValue::Integer(number) => (*number).into(),
            NodeValue::Float(number) => serde_json::Number::from_f64(*number).map_or(Value::Null, Value::Number),
            NodeValue::Boolean(flag) => (*flag).into(),
            NodeValue::Datetime(text) => text.clone().into(),
            NodeValue::Array(items) => items.iter().map(Self::to_json).collect(),
            NodeValue::Table(table) => table.to_json(),
        }
    }

    /// Is the value of a text below this node missing?
    pub(super) fn any_missing(&self) -> bool {
        let mut missing = false;
        self.each_text("", &mut |_, _, text| missing |= text.filled == Filled::Missing);
        missing
    }

    /// Calls `see` with every text below this node and the key that it stands under (that of the array, for an element).
    pub(super) fn each_text<'a>(&'a self, key: &'a str, see: &mut impl FnMut(&'a str, Span, &'a Text)) {
        match &self.value {
            NodeValue::Text(text) => see(key, self.span, text),
            NodeValue::Array(items) => items.iter().for_each(|item| item.each_text(key, see)),
            NodeValue::Table(table) => table.entries.iter().for_each(|entry| entry.node.each_text(&entry.key, see)),
            _ => {}
        }
    }

    /// Like [`Node::each_text`], to change the texts.
    pub(super) fn each_text_mut(&mut self, key: &str, change: &mut impl FnMut(&str, Span, &mut Text)) {
        match &mut self.value {
            NodeValue::Text(text) => change(key, self.span, text),
            NodeValue::Array(items) => items.iter_mut().for_each(|item| item.each_text_mut(key, change)),
            NodeValue::Table(table) => table.entries.iter_mut().for_each(|entry| entry.node.each_text_mut(&entry.key, change)),
            _ => {}
        }
    }

    /// What stands at `path`.
    pub(super) fn at(&self, path: &[Step]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match (step, &node.value) {
            (Step::Key(key), NodeValue::Table(table)) => table.get(key),
            (Step::Index(index), NodeValue::Array(items)) => items.get(*index),
            _ => None,
        })
    }

    /// Where `path` leads, as far as it leads: the span of the value, or of the deepest key on the way that there is.
    pub(super) fn span_at(&self, path: &[Step]) -> Span {
        let (mut node, mut span) = (self, self.span);
        for step in path {
            let next = match (step, &node.value) {
                (Step::Key(key), NodeValue::Table(table)) => table.entry(key).map(|entry| (&entry.node, entry.key_span)),
                (Step::Index(index), NodeValue::Array(items)) => items.get(*index).map(|item| (item, item.span)),
                _ => None,
            };
            let Some((found, at)) = next else { return span };
            node = found;
            span = if matches!(node.value, NodeValue::Table(_)) { at } else { node.span };
        }
        span
    }

    /// The key at the end of `path`, where it ends with one that is there; else like [`Node::span_at`].
    pub(super) fn key_span_at(&self, path: &[Step]) -> Span {
        let key = match path.split_last() {
            Some((Step::Key(key), way)) => self.at(way).and_then(Self::as_table).and_then(|table| table.entry(key)),
            _ => None,
        };
        key.map_or_else(|| self.span_at(path), |entry| entry.key_span)
    }

    /// Reads a dotted path against the tree, so that a key with dots in it is found too: `headers.x.y` finds `"x.y"` in `headers`.
    pub(super) fn steps(&self, dotted: &str) -> Vec<Step> {
        let mut words: &[&str] = &dotted.split(['.', '[', ']']).filter(|word| !word.is_empty()).collect::<Vec<_>>();
        let (mut node, mut steps) = (Some(self), Vec::new());
        while !words.is_empty() {
            let (step, used) = match node.map(|node| &node.value) {
                Some(NodeValue::Table(table)) => {
                    let long = (1..=words.len()).rev().map(|count| (words[..count].join("."), count)).find(|(key, _)| table.entry(key).is_some());
                    let (key, count) = long.unwrap_or_else(|| (words[0].to_owned(), 1));
                    node = table.get(&key);
                    (Step::Key(key), count)
                }
                Some(NodeValue::Array(items)) => match words[0].parse::<usize>() {
                    Ok(index) => {
                        node = items.get(index);
                        (Step::Index(index), 1)
                    }
                    Err(_) => return steps,
                },
                _ => return steps,
            };
            steps.push(step);
            words = &words[used..];
        }
        steps
    }

    /// Reads a path of words against the tree: a word is an index where an array is.
    pub(super) fn steps_of(&self, words: &[String]) -> Vec<Step> {
        let mut node = Some(self);
        let step = |word: &String| {
            let step = match (node.map(|node| &node.value), word.parse::<usize>()) {
                (Some(NodeValue::Array(_)), Ok(index)) => Step::Index(index),
                _ => Step::Key(word.clone()),
            };
            node = node.and_then(|node| node.at(std::slice::from_ref(&step)));
            step
        };
        words.iter().map(step).collect()
    }

    /// What stands at `path`, to change it.
    pub(super) fn at_mut(&mut self, path: &[Step]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, step| match (step, &mut node.value) {
            (Step::Key(key), NodeValue::Table(table)) => table.entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node),
            (Step::Index(index), NodeValue::Array(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Takes out what stands at `path`. Elements of an array shift: remove the later ones first.
    pub(super) fn remove(&mut self, path: &[Step]) {
        let Some((last, way)) = path.split_last() else { return };
        let Some(node) = self.at_mut(way) else { return };
        match (last, &mut node.value) {
            (Step::Key(key), NodeValue::Table(table)) => table.entries.retain(|entry| entry.key != *key),
            (Step::Index(index), NodeValue::Array(items)) if *index < items.len() => drop(items.remove(*index)),
            _ => {}
        }
    }
}

/// Something that is no TOML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub span: Span,
    pub message: String,
}

/// Reads a file. With syntax errors the tree is what could be made out, good for names only.
pub(super) fn parse(text: &str, file: FileId) -> (Table, Vec<SyntaxError>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let whole = 0..text.len();
    let mut problems: Vec<_> = errors
        .into_iter()
        .map(|error| SyntaxError { span: Span::new(file, &error.span().unwrap_or_else(|| whole.clone())), message: lowercase_first(error.message()) })
        .collect();
    let table = convert_table(root.into_inner(), file, &mut problems);
    (table, problems)
}

fn convert_table(table: DeTable<'_>, file: FileId, problems: &mut Vec<SyntaxError>) -> Table {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| {
            let key_span = Span::new(file, &key.span());
            Entry { key: key.into_inner().into_owned(), key_span, node: convert(value.span(), value.into_inner(), file, problems) }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span);
    Table { entries }
}

fn convert(range: Range<usize>, value: DeValue<'_>, file: FileId, problems: &mut Vec<SyntaxError>) -> Node {
    let span = Span::new(file, &range);
    let value = match value {
        DeValue::String(text) => {
            let text = text.into_owned();
            NodeValue::Text(Text { written: text.clone(), value: text, filled: Filled::Inside, pieces: Vec::new(), sensitive: false })
        }
        DeValue::Integer(integer) => NodeValue::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or_else(|_| {
            problems.push(SyntaxError { span, message: format!("the number {integer} does not fit into 64 bits") });
            0
        })),
        DeValue::Float(float) => NodeValue::Float(float.as_str().parse().unwrap_or_else(|_| {
            problems.push(SyntaxError { span, message: format!("the number {float} cannot be represented") });
            0.0
        })),
        DeValue::Boolean(flag) => NodeValue::Boolean(flag),
        DeValue::Datetime(datetime) => NodeValue::Datetime(datetime.to_string()),
        DeValue::Array(items) => NodeValue::Array(items.into_iter().map(|item| convert(item.span(), item.into_inner(), file, problems)).collect()),
        DeValue::Table(table) => NodeValue::Table(convert_table(table, file, problems)),
    };
    Node { span, value }
}

fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let (table, errors) = parse(text, FileId::default());
        assert!(errors.is_empty(), "{errors:?}");
        Node { span: Span::default(), value: NodeValue::Table(table) }
    }

    fn at<'a>(text: &'a str, node: &Node, path: &str) -> &'a str {
        let span = node.span_at(&node.steps(path));
        &text[span.start..span.end]
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let text = "a = 1_000\n[[route]]\nname = 'x'\nwith.headers.\"x.y\" = true\n[[route]]\n[route.with]\nb = [1, { c = 2.5 }]\n";
        let node = tree(text);
        assert_eq!(at(text, &node, "a"), "1_000");
        assert_eq!(at(text, &node, "route.0.name"), "'x'");
        assert_eq!(at(text, &node, "route.0.with.headers.x.y"), "true");
        assert_eq!(at(text, &node, "route[1].with.b[1].c"), "2.5");
        // A table is found by its key, a missing key by its table.
        assert_eq!(at(text, &node, "route.1.with"), "with");
        assert_eq!(at(text, &node, "route.1.with.none.more"), "with");
        assert_eq!(at(text, &node, "route.1"), "[[route]]");
    }

    #[test]
    fn entries_stand_in_the_order_of_the_file() {
        let node = tree("z = 1\na = 2\nm = 3\n");
        let keys: Vec<_> = node.as_table().expect("a table").entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["z", "a", "m"]);
    }

    #[test]
    fn all_syntax_errors_come_with_their_places() {
        let text = "a = \nb = 99999999999999999999\nb = 2\n";
        let (_, errors) = parse(text, FileId::default());
        let places: Vec<_> = errors.iter().map(|error| text[..error.span.start].matches('\n').count() + 1).collect();
        assert!(places.contains(&1) && places.contains(&3), "{errors:?}");
        assert!(errors.iter().any(|error| error.message.contains("64 bits")), "{errors:?}");
    }

    #[test]
    fn removing_takes_out_exactly_what_the_path_names() {
        let mut node = tree("a = [1, 2, 3]\n[b]\nc = 1\nd = 2\n");
        node.remove(&node.steps("a.1"));
        node.remove(&node.steps("b.c"));
        node.remove(&[Step::Key("none".to_owned()), Step::Index(4)]);
        assert_eq!(node.to_json(), serde_json::json!({"a": [1, 3], "b": {"d": 2}}));
    }

    #[test]
    fn radix_sign_and_special_floats_are_read() {
        let node = tree("a = 0xff\nb = -0\nc = inf\nd = +7\ne = 1e3\nf = 2024-01-02\n");
        assert_eq!(node.to_json(), serde_json::json!({"a": 255, "b": 0, "c": null, "d": 7, "e": 1000.0, "f": "2024-01-02"}));
    }
}
