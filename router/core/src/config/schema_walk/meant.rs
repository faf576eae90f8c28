//! What somebody probably meant who wrote something that does not fit: for the help of a finding, and for reading on.

use router_api::suggest;

use super::{
    Finding, Owner, Walk, last_key,
    wording::{join, quoted, ticked, with_article},
};
use crate::config::{
    duration,
    source::Span,
    tree::{Filled, Node, NodeValue, Step, Table, Text},
};

/// Known keys are listed in a help text up to this many.
const LISTED_MAX: usize = 16;

/// Words of a command that a help text writes out.
const WORDS_MAX: usize = 12;

/// What somebody probably meant who wrote something that does not fit.
#[derive(Debug, Clone)]
pub(in crate::config) enum Meant {
    /// Nothing of this table: the key belongs elsewhere, or nowhere.
    Nothing,
    /// This key.
    Key(String),
    /// This value.
    Value(NodeValue),
}

impl Walk<'_> {
    pub(super) fn wrong_type(&self, wanted: &[&str], node: &Node, path: &[Step], findings: &mut Vec<Finding>) {
        let key = last_key(path);
        let meant = meant_value(key, node, wanted).map(Meant::Value);
        let help = match (&node.value, wanted) {
            (NodeValue::Text(text), wanted) if wanted.contains(&"integer") || wanted.contains(&"number") => {
                if text.written.contains("${") && text.filled != Filled::Inside {
                    Some("variables can only fill in strings; write the number itself".to_owned())
                } else if let Some(milliseconds) = duration::unit_of(key).and_then(|unit| Some((unit, duration::milliseconds(text.shown())?))) {
                    Some(format!("durations are integers with a unit suffix: `{key} = {}`", milliseconds.0.count(milliseconds.1)))
                } else {
                    text.value.replace('_', "").parse::<i64>().ok().map(|number| format!("without quotes: `{key} = {number}`"))
                }
            }
            (NodeValue::Text(text), ["boolean"]) if matches!(text.value.as_str(), "true" | "false") => {
                Some(format!("without quotes: `{key} = {}`", text.value))
            }
            (NodeValue::Text(text), ["array"]) => Some(in_brackets(key, text)),
            (NodeValue::Integer(number), ["string"]) => Some(format!("in quotes: `{key} = \"{number}\"`")),
            (NodeValue::Boolean(flag), ["string"]) => Some(format!("in quotes: `{key} = \"{flag}\"`")),
            (NodeValue::Datetime(_), ["string"]) => Some("in quotes".to_owned()),
            (NodeValue::Float(_), wanted) if wanted.contains(&"integer") => Some("without a fraction".to_owned()),
            (NodeValue::Table(_), ["array"]) if path.len() == 1 && self.table.is_empty() => Some(format!("with two brackets: `[[{key}]]`")),
            (NodeValue::Array(_), ["object"]) if path.len() == 1 && self.table.is_empty() => Some(format!("with one bracket: `[{key}]`")),
            (NodeValue::Array(_), ["object"]) if path.len() == 1 && self.is_outer() => Some(format!("with one bracket: `[route.{key}]`")),
            _ => None,
        };
        let wanted = join(&wanted.iter().map(|name| with_article(name)).collect::<Vec<_>>(), " or ");
        self.push(findings, path, node.span, "wrong-type", format!("{} must be {wanted}, but is {}", self.label(path), node.kind()), help);
        mean(findings, meant);
    }

    #[allow(clippy::too_many_arguments, reason = "the place of a key is its table, its name, its value, its span and its path")]
    pub(super) fn unknown_key<'k>(
        &self,
        known: &[&'k str],
        table: &Table,
        key: &str,
        node: &Node,
        span: Span,
        path: &[Step],
        findings: &mut Vec<Finding>,
    ) -> Option<&'k str> {
        let before = &path[..path.len() - 1];
        if let Some((right, value)) = duration::meant(key, node, known) {
            let message = format!("unknown key `{key}`: durations are integers with a unit suffix");
            let help = value.map_or_else(|| format!("write `{right}`"), |value| format!("write `{right} = {value}`"));
            self.push(findings, path, span, "duration-unit", message, Some(help));
            mean(findings, Some(Meant::Nothing));
            return Some(right);
        }
        let near = suggest(key, known.iter().copied().filter(|known| table.get(known).is_none()));
        let header = self.header(before);
        if let Some(outer) = self.outer
            && near.is_none_or(|near| near.len() < 4)
            && !(before.is_empty() && self.is_outer())
            && outer.has(key)
        {
            let not = match self.owner {
                Owner::Plugin(plugin) if before.is_empty() => format!("no option of `{plugin}`"),
                _ => format!("none of `{header}`"),
            };
            let message = format!("`{key}` is a key of {}, {not}", outer.name);
            self.push(findings, path, span, "misplaced-key", message, Some(format!("move it above `{header}`")));
            mean(findings, Some(Meant::Nothing));
            return None;
        }
        let message = match self.owner {
            Owner::Plugin(plugin) if before.is_empty() => format!("`{plugin}` has no option `{key}`"),
            _ if header.is_empty() => format!("unknown key `{key}`"),
            _ => format!("unknown key `{key}` in `{header}`"),
        };
        let help = match near {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if self.means_options(key, node, before) => {
                Some("the options of a plugin stand in `[route.with]`, below the `[[route]]` that they belong to".to_owned())
            }
            None if known.is_empty() => Some("it takes no keys".to_owned()),
            None if known.len() <= LISTED_MAX => Some(format!("known keys: {}", join(&known.iter().map(|key| ticked(key)).collect::<Vec<_>>(), ", "))),
            None => None,
        };
        self.push(findings, path, span, "unknown-key", message, help);
        mean(findings, Some(near.map_or(Meant::Nothing, |near| Meant::Key(near.to_owned()))));
        near
    }

    /// Is this what a newcomer takes for the table of a plugin's options?
    fn means_options(&self, key: &str, node: &Node, before: &[Step]) -> bool {
        let is_file = matches!(self.owner, Owner::Router) && self.table.is_empty();
        let is_with = key == "with" || suggest(key, &["with"]).is_some();
        let is_other_name = matches!(key, "options" | "config" | "configuration" | "settings" | "params" | "parameters" | "args" | "arguments");
        before.is_empty() && node.as_table().is_some() && ((is_file && is_with) || (self.is_outer() && is_other_name))
    }
}

/// Says of the last finding what was meant.
pub(super) fn mean(findings: &mut [Finding], meant: Option<Meant>) {
    if let Some(finding) = findings.last_mut() {
        finding.meant = meant;
    }
}

/// A value of the wrong type that is easily read as one of the right type. What came from outside is not looked at.
fn meant_value(key: &str, node: &Node, wanted: &[&str]) -> Option<NodeValue> {
    let text =
        |text: &str| NodeValue::Text(Text { written: text.to_owned(), value: text.to_owned(), filled: Filled::Inside, pieces: Vec::new(), sensitive: false });
    match (&node.value, wanted) {
        (NodeValue::Text(written), _) if written.filled != Filled::Inside || written.sensitive => None,
        (NodeValue::Text(written), wanted) if wanted.contains(&"integer") => written.value.replace('_', "").parse().ok().map(NodeValue::Integer),
        (NodeValue::Text(written), ["boolean"]) => written.value.parse().ok().map(NodeValue::Boolean),
        (NodeValue::Text(written), ["array"]) => {
            let words = if key == "command" { words_of(&written.value) } else { vec![written.value.clone()] };
            Some(NodeValue::Array(words.into_iter().map(|word| Node { span: node.span, value: text(&word) }).collect()))
        }
        (NodeValue::Integer(number), ["string"]) => Some(text(&number.to_string())),
        (NodeValue::Boolean(flag), ["string"]) => Some(text(&flag.to_string())),
        _ => None,
    }
}

/// How a text would be written as an array. That of a command is the line that a shell would take apart.
fn in_brackets(key: &str, text: &Text) -> String {
    let shown = text.shown();
    // A reference may hold blanks of its own, and what comes from outside is not looked at.
    if key != "command" || text.filled != Filled::Inside || text.sensitive || !shown.trim().contains(char::is_whitespace) {
        return format!("in brackets: `{key} = [{}]`", quoted(shown));
    }
    let words = words_of(shown);
    let mut array = words.iter().take(WORDS_MAX).map(|word| quoted(word)).collect::<Vec<_>>();
    if words.len() > WORDS_MAX {
        array.push("…".to_owned());
    }
    let quoting = if shown.contains(['"', '\'']) { "; no shell reads it, so each argument is one element, without the quotes of a shell" } else { "" };
    format!("in brackets: `{key} = [{}]`{quoting}", array.join(", "))
}

/// Splits at blanks, but not between quotes, which go. A quote without its other half is a letter.
fn words_of(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '"' | '\'' if rest.as_str().contains(letter) => word.get_or_insert_default().extend(rest.by_ref().take_while(|inner| *inner != letter)),
            blank if blank.is_whitespace() => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
