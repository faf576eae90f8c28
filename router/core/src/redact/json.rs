//! Finds the values of a JSON body with their places and paths, without building a tree and without recursion.
//!
//! It is no validator: a body that a JSON parser accepts is walked wholly, and of any other body as much as can be understood. It
//! decides nothing about secrets; it tells a [`Visit`] where values stand.

use std::{borrow::Cow, ops::Range};

use super::{RedactProblem, Redactor};

/// Told about values, in the order of the body.
pub(super) trait Visit {
    /// A string value: its bytes between the quotes, whether there are escapes among them, whether a rule names it, and the key
    /// that it directly stands under.
    fn string(&mut self, content: Range<usize>, escaped: bool, at_path: bool, key: Option<&str>);

    /// Another value than a string or `null`, quotes and brackets included, that a rule names. Nothing inside it is told.
    fn whole(&mut self, value: Range<usize>);
}

/// Rules that name values by the words of their path.
#[derive(Debug, Default)]
pub(super) struct PathRules {
    rules: Vec<Vec<Word>>,
}

#[derive(Debug)]
enum Word {
    /// Any key and any index.
    Any,
    /// This key, or the index that it writes.
    Exact { key: String, index: Option<usize> },
}

/// Rules by number that fit the path so far.
type Reached = Vec<u16>;

impl PathRules {
    const WORDS_MAX: usize = 64;

    pub(super) fn new(paths: &[String], problems: &mut Vec<RedactProblem>) -> Self {
        if paths.len() > Redactor::RULES_MAX {
            problems.push(RedactProblem::new("paths", format!("has {} paths, {} are the limit", paths.len(), Redactor::RULES_MAX)));
        }
        let mut rules = Vec::new();
        for (number, path) in paths.iter().take(Redactor::RULES_MAX).enumerate() {
            match Self::rule(path) {
                Ok(words) => rules.push(words),
                Err(mut problem) => {
                    problem.field = format!("paths.{number}");
                    problems.push(problem);
                }
            }
        }
        Self { rules }
    }

    fn rule(path: &str) -> Result<Vec<Word>, RedactProblem> {
        let words: Vec<&str> = path.split('.').collect();
        if words.len() > Self::WORDS_MAX {
            return Err(RedactProblem::new("", format!("has {} words, {} are the limit", words.len(), Self::WORDS_MAX)));
        }
        let word =
            |word: &&str| match *word {
                "" => Err(RedactProblem::new("", format!("`{path}` has an empty word"))
                    .help("write keys and indexes with single dots between: `payload.user_prompt`")),
                "*" => Ok(Word::Any),
                part if part.contains('*') => Err(RedactProblem::new("", format!("`*` in `{part}` is only a part of a word"))
                    .help("`*` stands for exactly one whole key or index: `payload.*.prompt`")),
                key => Ok(Word::Exact { key: key.to_owned(), index: key.parse().ok() }),
            };
        words.iter().map(word).collect()
    }

    /// All rules: where the root stands.
    fn at_root(&self) -> Reached {
        (0..self.rules.len()).map(|rule| u16::try_from(rule).expect("fewer rules than `RULES_MAX`")).collect()
    }

    /// The rules of `reached` (a value at `depth`) that its child at `step` fits too.
    fn below(&self, reached: &[u16], depth: usize, step: &Step<'_>) -> Reached {
        let fits = |rule: &&u16| match (self.rules[usize::from(**rule)].get(depth), step) {
            (None, _) => false,
            (Some(Word::Any), _) => true,
            (Some(Word::Exact { key, .. }), Step::Key(step)) => key == step,
            (Some(Word::Exact { index, .. }), Step::Index(step)) => *index == Some(*step),
        };
        reached.iter().filter(fits).copied().collect()
    }

    /// Does a rule of `reached` end at `depth`?
    fn ends(&self, reached: &[u16], depth: usize) -> bool {
        reached.iter().any(|rule| self.rules[usize::from(*rule)].len() == depth)
    }
}

enum Step<'b> {
    Key(&'b str),
    Index(usize),
}

/// Walks `body` and returns up to which byte it was JSON: its length, unless the rest has to be taken as text.
///
/// Several values after each other (JSON lines) are each walked as a root.
pub(super) fn walk(body: &[u8], rules: &PathRules, visit: &mut impl Visit) -> usize {
    let mut walk = Walk { body, rules, at: 0, kinds: Vec::new(), levels: Vec::new(), hidden: None };
    if body.starts_with(b"\xef\xbb\xbf") {
        walk.at = 3;
    }
    match (walk.run(visit), walk.hidden) {
        (Ok(()), _) => body.len(),
        (Err(_), Some(hidden)) => {
            // The body breaks off inside a value that a rule names: all of the rest may belong to it.
            visit.whole(hidden.start..body.len());
            body.len()
        }
        (Err(NotJson { from }), None) => from,
    }
}

/// From this byte on the body is no JSON.
struct NotJson {
    from: usize,
}

/// What has to stand next.
enum Next<'b> {
    Value { reached: Reached, key: Option<Cow<'b, str>> },
    FirstKey,
    Key,
    FirstItem,
    Item,
    AfterValue,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Object,
    Array,
}

/// An open object or array near enough to the root that a rule may name something in it.
struct Level {
    reached: Reached,
    index: usize,
}

#[derive(Clone, Copy)]
struct Hidden {
    start: usize,
    depth: usize,
}

struct Walk<'b> {
    body: &'b [u8],
    rules: &'b PathRules,
    at: usize,
    /// Of all open objects and arrays; one byte for each, so that the deepest body costs no more than its own length.
    kinds: Vec<Kind>,
    /// Of the first `WORDS_MAX` of them.
    levels: Vec<Level>,
    /// The open value that will be replaced as a whole.
    hidden: Option<Hidden>,
}

impl<'b> Walk<'b> {
    fn run(&mut self, visit: &mut impl Visit) -> Result<(), NotJson> {
        let mut next = Next::Value { reached: self.rules.at_root(), key: None };
        loop {
            self.skip_space();
            next = match next {
                Next::Value { reached, key } => self.value(reached, key.as_deref(), visit)?,
                Next::FirstKey if self.peek() == Some(b'}') => self.close(visit),
                Next::FirstItem if self.peek() == Some(b']') => self.close(visit),
                Next::FirstKey | Next::Key => self.key()?,
                Next::FirstItem | Next::Item => self.item(),
                Next::AfterValue => match (self.kinds.last(), self.peek()) {
                    (None, None) => return Ok(()),
                    (None, Some(_)) => Next::Value { reached: self.rules.at_root(), key: None },
                    (Some(Kind::Object), Some(b',')) => self.step_over(Next::Key),
                    (Some(Kind::Array), Some(b',')) => {
                        if let Some(level) = self.levels.get_mut(self.kinds.len() - 1) {
                            level.index += 1;
                        }
                        self.step_over(Next::Item)
                    }
                    (Some(Kind::Object), Some(b'}')) | (Some(Kind::Array), Some(b']')) => self.close(visit),
                    (Some(_), _) => return Err(NotJson { from: self.at }),
                },
            };
        }
    }

    fn value(&mut self, reached: Reached, key: Option<&str>, visit: &mut impl Visit) -> Result<Next<'b>, NotJson> {
        let start = self.at;
        let at_path = self.hidden.is_none() && self.rules.ends(&reached, self.kinds.len());
        match self.peek() {
            Some(b'{') => Ok(self.open(Kind::Object, reached, at_path)),
            Some(b'[') => Ok(self.open(Kind::Array, reached, at_path)),
            Some(b'"') => {
                let Some((content, escaped)) = self.string() else {
                    if at_path {
                        self.hidden = Some(Hidden { start, depth: self.kinds.len() });
                    }
                    return Err(NotJson { from: start });
                };
                if self.hidden.is_none() {
                    visit.string(content, escaped, at_path, key);
                }
                Ok(Next::AfterValue)
            }
            _ => {
                let len = scalar_len(&self.body[start..]);
                if len == 0 {
                    return Err(NotJson { from: start });
                }
                self.at += len;
                if at_path && self.body[start] != b'n' {
                    visit.whole(start..self.at);
                }
                Ok(Next::AfterValue)
            }
        }
    }

    fn open(&mut self, kind: Kind, reached: Reached, at_path: bool) -> Next<'b> {
        if at_path {
            self.hidden = Some(Hidden { start: self.at, depth: self.kinds.len() });
        }
        if self.levels.len() == self.kinds.len() && self.levels.len() < PathRules::WORDS_MAX {
            self.levels.push(Level { reached, index: 0 });
        }
        self.kinds.push(kind);
        self.step_over(if kind == Kind::Object { Next::FirstKey } else { Next::FirstItem })
    }

    fn close(&mut self, visit: &mut impl Visit) -> Next<'b> {
        self.kinds.pop();
        self.levels.truncate(self.kinds.len());
        self.at += 1;
        if let Some(hidden) = self.hidden.filter(|hidden| hidden.depth == self.kinds.len()) {
            visit.whole(hidden.start..self.at);
            self.hidden = None;
        }
        Next::AfterValue
    }

    fn key(&mut self) -> Result<Next<'b>, NotJson> {
        let start = self.at;
        let (content, escaped) = self.string().ok_or(NotJson { from: start })?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(NotJson { from: start });
        }
        self.at += 1;
        let body: &'b [u8] = self.body;
        let raw = String::from_utf8_lossy(&body[content]);
        let key = if escaped { Cow::Owned(unescaped(&raw)) } else { raw };
        Ok(Next::Value { reached: self.child(&Step::Key(&key)), key: Some(key) })
    }

    fn item(&self) -> Next<'b> {
        let index = self.levels.get(self.kinds.len() - 1).map_or(0, |level| level.index);
        Next::Value { reached: self.child(&Step::Index(index)), key: None }
    }

    fn child(&self, step: &Step<'_>) -> Reached {
        let depth = self.kinds.len() - 1;
        self.levels.get(depth).map_or_else(Vec::new, |level| self.rules.below(&level.reached, depth, step))
    }

    /// Steps over a string and returns its content and whether it has escapes; `None` when it does not end.
    fn string(&mut self) -> Option<(Range<usize>, bool)> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            at += self.body.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            if self.body[at] == b'"' {
                self.at = at + 1;
                return Some((start..at, escaped));
            }
            escaped = true;
            at += 2;
        }
    }

    fn step_over(&mut self, next: Next<'b>) -> Next<'b> {
        self.at += 1;
        next
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }
}

/// The length of the number, `true`, `false` or `null` that `bytes` begin with; 0 when they do not.
fn scalar_len(bytes: &[u8]) -> usize {
    for word in [&b"true"[..], b"false", b"null"] {
        if bytes.starts_with(word) {
            return word.len();
        }
    }
    if !bytes.first().is_some_and(|byte| *byte == b'-' || byte.is_ascii_digit()) {
        return 0;
    }
    bytes.iter().take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')).count()
}

/// The text that the inside of a JSON string means. What is no escape stands for itself; half a surrogate pair becomes U+FFFD.
pub(super) fn unescaped(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else { break };
        rest = &rest[escape.len_utf8()..];
        match escape {
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'u' => {
                let (character, after) = unicode_escape(rest);
                text.push(character);
                rest = after;
            }
            other => text.push(other),
        }
    }
    text.push_str(rest);
    text
}

/// Reads what follows `\u`.
fn unicode_escape(rest: &str) -> (char, &str) {
    let Some((unit, after)) = code_unit(rest) else { return (char::REPLACEMENT_CHARACTER, rest) };
    if !(0xd800..0xdc00).contains(&unit) {
        return (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), after);
    }
    match after.strip_prefix("\\u").and_then(code_unit) {
        Some((low, after)) if (0xdc00..0xe000).contains(&low) => {
            let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), after)
        }
        _ => (char::REPLACEMENT_CHARACTER, after),
    }
}

fn code_unit(rest: &str) -> Option<(u32, &str)> {
    let digits = rest.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((u32::from_str_radix(digits, 16).ok()?, &rest[4..]))
}
