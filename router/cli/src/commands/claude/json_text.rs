//! JSON as text that somebody wrote: one value is changed, and every other byte stays where it was. The order of keys, the indentation and
//! the line ends are the owner's.

use std::{fmt, ops::Range};

use serde_json::Value;

/// Nested deeper, no settings are.
const DEPTH_MAX: usize = 64;

/// Where the text is no JSON, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// A step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A text that is known to be JSON, with an object at its top.
#[derive(Debug, Clone)]
pub(super) struct JsonText {
    text: String,
    root: Node,
}

#[derive(Debug, Clone)]
struct Node {
    span: Range<usize>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Object(Vec<Member>),
    Array(Vec<Node>),
    Other,
}

#[derive(Debug, Clone)]
struct Member {
    key: String,
    /// From the key's first quote on.
    start: usize,
    value: Node,
}

impl JsonText {
    /// Reads `text`.
    ///
    /// # Errors
    ///
    /// Where it is no JSON object.
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let mut reader = Reader { text, at: 0 };
        let read = reader.document().and_then(|root| match root.content {
            Content::Object(_) => Ok(root),
            _ => Err((root.span.start, "settings are an object: `{ … }`".to_owned())),
        });
        read.map(|root| Self { text: text.to_owned(), root }).map_err(|(at, message)| wrong(text, at, message))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What it says.
    pub(super) fn value(&self) -> Value {
        self.value_of(&self.root)
    }

    /// The value at a path.
    pub(super) fn get(&self, path: &[Step]) -> Option<Value> {
        self.node(path).map(|node| self.value_of(node))
    }

    /// Line and column of the value at a path, or of the nearest above it.
    pub(super) fn place(&self, path: &[Step], message: &str) -> Wrong {
        let at = (0..=path.len()).rev().find_map(|length| self.node(&path[..length])).map_or(0, |node| node.span.start);
        wrong(&self.text, at, message.to_owned())
    }

    /// The same text with `value` at `path`, whose last step is a key. What is missing on the way is made; what is in the way and no object
    /// is left alone, and nothing is changed.
    #[must_use]
    pub(super) fn set(&self, path: &[&str], value: &Value) -> Self {
        let mut node = &self.root;
        for (depth, name) in path.iter().enumerate() {
            let Content::Object(members) = &node.content else { return self.clone() };
            match members.iter().rev().find(|member| member.key == **name) {
                Some(member) => node = &member.value,
                None => {
                    let rest =
                        path[depth + 1..].iter().rev().fold(value.clone(), |inner, name| Value::Object([((*name).to_owned(), inner)].into_iter().collect()));
                    return self.insert(node, Some(name), &rest);
                }
            }
        }
        let rendered = self.rendered(value, &self.indent_at(node.span.start), self.is_spread(&self.root));
        self.replaced(node.span.clone(), &rendered)
    }

    /// The same text with `value` at the end of the list at `path`, which is made if it is not there.
    #[must_use]
    pub(super) fn push(&self, path: &[&str], value: &Value) -> Self {
        let steps: Vec<Step> = path.iter().map(|name| Step::Key((*name).to_owned())).collect();
        match self.node(&steps) {
            Some(list) if matches!(list.content, Content::Array(_)) => self.insert(list, None, value),
            Some(_) => self.clone(),
            None => self.set(path, &Value::Array(vec![value.clone()])),
        }
    }

    /// The same text with another value at a path that is there.
    #[must_use]
    pub(super) fn replace(&self, path: &[Step], value: &Value) -> Self {
        let Some(node) = self.node(path) else { return self.clone() };
        let rendered = self.rendered(value, &self.indent_at(node.span.start), self.is_spread(node) || self.is_spread(&self.root));
        self.replaced(node.span.clone(), &rendered)
    }

    /// The same text without the member or item at `path`.
    #[must_use]
    pub(super) fn remove(&self, path: &[Step]) -> Self {
        let Some((last, above)) = path.split_last() else { return self.clone() };
        let Some(parent) = self.node(above) else { return self.clone() };
        let (spans, index): (Vec<Range<usize>>, Option<usize>) = match (&parent.content, last) {
            (Content::Object(members), Step::Key(key)) => {
                let spans = members.iter().map(|member| member.start..member.value.span.end).collect();
                (spans, members.iter().rposition(|member| member.key == *key))
            }
            (Content::Array(items), Step::Index(index)) => (items.iter().map(|item| item.span.clone()).collect(), Some(*index)),
            _ => return self.clone(),
        };
        let Some((index, span)) = index.and_then(|index| Some((index, spans.get(index)?))) else { return self.clone() };
        let cut = match (index.checked_sub(1).and_then(|before| spans.get(before)), spans.get(index + 1)) {
            (Some(before), _) => before.end..span.end,
            (None, Some(after)) => span.start..after.start,
            (None, None) => parent.span.start + 1..parent.span.end - 1,
        };
        self.replaced(cut, "")
    }

    fn node(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(&self.root, |node, step| match (&node.content, step) {
            (Content::Object(members), Step::Key(key)) => members.iter().rev().find(|member| member.key == *key).map(|member| &member.value),
            (Content::Array(items), Step::Index(index)) => items.get(*index),
            _ => None,
        })
    }

    fn value_of(&self, node: &Node) -> Value {
        serde_json::from_str(&self.text[node.span.clone()]).unwrap_or_default()
    }

    fn insert(&self, into: &Node, name: Option<&str>, value: &Value) -> Self {
        let spans: Vec<Range<usize>> = match &into.content {
            Content::Object(members) => members.iter().map(|member| member.start..member.value.span.end).collect(),
            Content::Array(items) => items.iter().map(|item| item.span.clone()).collect(),
            Content::Other => return self.clone(),
        };
        let name = name.map(|name| format!("{}: ", Value::from(name))).unwrap_or_default();
        let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let outer = self.indent_at(into.span.start);
        match (spans.first(), spans.last()) {
            (Some(first), Some(last)) if self.text[into.span.start..first.start].contains('\n') => {
                let indent = self.indent_at(first.start);
                let new = format!(",{newline}{indent}{name}{}", self.rendered(value, &indent, true));
                self.replaced(last.end..last.end, &new)
            }
            (Some(_), Some(last)) => self.replaced(last.end..last.end, &format!(", {name}{}", self.rendered(value, "", false))),
            // An empty one in a file of one line, such as `{}`, is the beginning of a file of many.
            _ => {
                let (open, close) = if matches!(into.content, Content::Array(_)) { ('[', ']') } else { ('{', '}') };
                let indent = format!("{outer}{}", self.unit());
                let new = format!("{open}{newline}{indent}{name}{}{newline}{outer}{close}", self.rendered(value, &indent, true));
                self.replaced(into.span.clone(), &new)
            }
        }
    }

    /// The white space at the beginning of the line of `at`.
    fn indent_at(&self, at: usize) -> String {
        let line = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        self.text[line..at].chars().take_while(|c| matches!(c, ' ' | '\t')).collect()
    }

    /// One level of the owner's indentation.
    fn unit(&self) -> String {
        let first = match &self.root.content {
            Content::Object(members) => members.first().map(|member| member.start),
            _ => None,
        };
        first.map(|start| self.indent_at(start)).filter(|indent| !indent.is_empty()).unwrap_or_else(|| "  ".to_owned())
    }

    /// Does it go over several lines, as far as one can tell?
    fn is_spread(&self, node: &Node) -> bool {
        let is_empty = match &node.content {
            Content::Object(members) => members.is_empty(),
            Content::Array(items) => items.is_empty(),
            Content::Other => false,
        };
        is_empty || self.text[node.span.clone()].contains('\n')
    }

    fn rendered(&self, value: &Value, indent: &str, spread: bool) -> String {
        if !spread {
            return value.to_string();
        }
        let unit = self.unit();
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(unit.as_bytes());
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        if serde::Serialize::serialize(value, &mut serializer).is_err() {
            return value.to_string();
        }
        let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        String::from_utf8_lossy(&bytes).replace('\n', &format!("{newline}{indent}"))
    }

    /// Changed text is read again: what is known of it are places.
    fn replaced(&self, span: Range<usize>, new: &str) -> Self {
        let text = format!("{}{new}{}", &self.text[..span.start], &self.text[span.end..]);
        Self::parse(&text).unwrap_or_else(|_| self.clone())
    }
}

fn wrong(text: &str, at: usize, message: String) -> Wrong {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Wrong { line, column, message }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

type Read<T> = Result<T, (usize, String)>;

impl Reader<'_> {
    fn document(&mut self) -> Read<Node> {
        let root = self.value(0)?;
        self.space();
        if self.at < self.text.len() { Err((self.at, "there is more behind the end".to_owned())) } else { Ok(root) }
    }

    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn expected<T>(&self, what: &str) -> Read<T> {
        let message = match self.peek() {
            None => format!("the text ends where {what} should be"),
            Some('/') => "a comment: settings are plain JSON, which has none".to_owned(),
            Some(found) => format!("`{}` stands where {what} should be", found.escape_debug()),
        };
        Err((self.at, message))
    }

    fn value(&mut self, depth: usize) -> Read<Node> {
        self.space();
        if depth > DEPTH_MAX {
            return Err((self.at, format!("it is nested deeper than {DEPTH_MAX} levels")));
        }
        let start = self.at;
        let content = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.array(depth)?,
            Some('"') => {
                self.string()?;
                Content::Other
            }
            Some(c) if c == '-' || c.is_ascii_alphanumeric() => {
                let rest = &self.text[start..];
                let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))).unwrap_or(rest.len());
                if serde_json::from_str::<Value>(&rest[..length]).is_err() {
                    return Err((start, format!("`{}` is no value", rest[..length].chars().take(40).collect::<String>())));
                }
                self.at += length;
                Content::Other
            }
            _ => return self.expected("a value"),
        };
        Ok(Node { span: start..self.at, content })
    }

    fn string(&mut self) -> Read<String> {
        let start = self.at;
        let mut escaped = false;
        for (offset, c) in self.text[start..].char_indices().skip(1) {
            match c {
                '"' if !escaped => {
                    self.at = start + offset + 1;
                    return serde_json::from_str(&self.text[start..self.at]).map_err(|error| (start, format!("this text cannot be read: {error}")));
                }
                '\n' => return Err((start, "this text does not end on its line".to_owned())),
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        Err((start, "this text does not end".to_owned()))
    }

    fn object(&mut self, depth: usize) -> Read<Content> {
        let mut members = Vec::new();
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                Some('}') if members.is_empty() => break,
                Some('"') => {}
                Some('}') => return Err((self.at, "a comma stands before this `}`: nothing follows it".to_owned())),
                _ => return self.expected("a key"),
            }
            let start = self.at;
            let key = self.string()?;
            self.space();
            if self.peek() != Some(':') {
                return self.expected("`:`");
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            members.push(Member { key, start, value });
            self.space();
            match self.peek() {
                Some(',') => self.at += 1,
                Some('}') => break,
                _ => return self.expected("`,` or `}`"),
            }
        }
        self.at += 1;
        Ok(Content::Object(members))
    }

    fn array(&mut self, depth: usize) -> Read<Content> {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                Some(']') if items.is_empty() => break,
                Some(']') => return Err((self.at, "a comma stands before this `]`: nothing follows it".to_owned())),
                _ => items.push(self.value(depth + 1)?),
            }
            self.space();
            match self.peek() {
                Some(',') => self.at += 1,
                Some(']') => break,
                _ => return self.expected("`,` or `]`"),
            }
        }
        self.at += 1;
        Ok(Content::Array(items))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &str) -> JsonText {
        JsonText::parse(text).unwrap()
    }

    fn key(name: &str) -> Step {
        Step::Key(name.to_owned())
    }

    #[test]
    fn what_is_added_is_indented_as_the_rest_and_the_rest_stays() {
        let text = "{\n    \"model\": \"opus\",   \"z\": [1,2],\n    \"a\": {\"b\": 1}\n}\n";
        let set = of(text).set(&["env", "X"], &json!("1"));
        assert_eq!(set.as_str(), "{\n    \"model\": \"opus\",   \"z\": [1,2],\n    \"a\": {\"b\": 1},\n    \"env\": {\n        \"X\": \"1\"\n    }\n}\n");
        assert_eq!(set.remove(&[key("env")]).as_str(), text);
        assert_eq!(of(text).set(&["a", "c"], &json!([2])).as_str(), text.replace("\"b\": 1}", "\"b\": 1, \"c\": [2]}"));
        assert_eq!(of(text).push(&["z"], &json!(3)).as_str(), text.replace("[1,2]", "[1,2, 3]"));
        assert_eq!(of(text).set(&["model"], &json!("x")).as_str(), text.replace("opus", "x"));
        assert_eq!(of("{}").set(&["a"], &json!(1)).as_str(), "{\n  \"a\": 1\n}");
        assert_eq!(of("{\r\n\t\"a\": 1\r\n}").set(&["b"], &json!({ "c": 2 })).as_str(), "{\r\n\t\"a\": 1,\r\n\t\"b\": {\r\n\t\t\"c\": 2\r\n\t}\r\n}");
        assert_eq!(of(r#"{"a":1}"#).set(&["b"], &json!({ "c": 2 })).as_str(), r#"{"a":1, "b": {"c":2}}"#);
    }

    #[test]
    fn what_is_removed_takes_its_comma_with_it() {
        let text = "{\n  \"a\": 1,\n  \"b\": [1, 2, 3],\n  \"c\": 3\n}";
        assert_eq!(of(text).remove(&[key("a")]).as_str(), "{\n  \"b\": [1, 2, 3],\n  \"c\": 3\n}");
        assert_eq!(of(text).remove(&[key("c")]).as_str(), "{\n  \"a\": 1,\n  \"b\": [1, 2, 3]\n}");
        assert_eq!(of(text).remove(&[key("b"), Step::Index(1)]).value()["b"], json!([1, 3]));
        assert_eq!(of("{\n  \"a\": 1\n}").remove(&[key("a")]).as_str(), "{}");
        assert_eq!(of(text).remove(&[key("none")]).as_str(), text);
        assert_eq!(of(text).set(&["a", "b"], &json!(1)).as_str(), text, "what is no object is left alone");
    }

    #[test]
    fn what_is_no_json_is_said_with_its_place() {
        for (text, line, column, part) in [
            ("{\n  \"a\": 1,\n}", 3, 1, "comma"),
            ("{\n  // why\n}", 2, 3, "comment"),
            ("{\"a\" 1}", 1, 6, "`:`"),
            ("{\"a\": tru}", 1, 7, "`tru` is no value"),
            ("{\"ä\": \"x", 1, 7, "does not end"),
            ("[1]", 1, 1, "an object"),
            ("", 1, 1, "the text ends"),
            ("{} x", 1, 4, "behind the end"),
            ("{\"a\": [1 2]}", 1, 10, "`,` or `]`"),
            ("\u{feff}{}", 1, 1, "where a value"),
        ] {
            let wrong = JsonText::parse(text).unwrap_err();
            assert_eq!((wrong.line, wrong.column), (line, column), "{text:?}: {wrong}");
            assert!(wrong.message.contains(part), "{text:?}: {wrong}");
        }
        assert!(JsonText::parse(&"[".repeat(100_000)).is_err());
        assert_eq!(of("{\n \"hooks\": 7\n}").place(&[key("hooks"), key("Stop")], "no object").line, 2);
    }

    #[test]
    fn every_json_is_read_as_serde_reads_it() {
        for text in [r#"{"a":[],"b":{},"c":"\"\\","d":-1.5e3,"e":null,"f":"\u00e4\\","g":[[1],{"h":true}]}"#, " { } ", "{\"\\\\\":1}"] {
            assert_eq!(of(text).value(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }
}
