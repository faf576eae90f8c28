//! Fills `${VAR}`, `${VAR:-default}`, `${VAR:?message}`, `${file:PATH}` and `${credential:NAME}` into string values, after
//! parsing, so that no value can change what the file means. `$${` stands for `${`.
//!
//! What came from outside is remembered on the [`Text`], so that it is never shown.

use std::{borrow::Cow, collections::HashMap, path::PathBuf};

use super::{
    diagnostic::Draft,
    environment::Environment,
    source::Sources,
    tree::{Filled, Node, Piece, Text},
};

enum Part<'a> {
    Literal(&'a str),
    Reference { written: &'a str, target: Target<'a> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target<'a> {
    Variable { name: &'a str, fallback: Fallback<'a> },
    File(&'a str),
    Credential(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fallback<'a> {
    None,
    Default(&'a str),
    Demand(&'a str),
}

/// Why a value is not there.
struct Missing {
    message: String,
    help: Option<String>,
}

/// Fills in texts; asks each file once.
pub(super) struct Filler<'a> {
    environment: &'a dyn Environment,
    sources: &'a Sources,
    files: HashMap<PathBuf, Result<String, String>>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(environment: &'a dyn Environment, sources: &'a Sources) -> Self {
        Self { environment, sources, files: HashMap::new() }
    }

    /// Fills in all texts below `node`. Where nobody needs the values (`needed` is false) missing ones are no problem.
    pub(super) fn fill(&mut self, node: &mut Node, needed: bool, problems: &mut Vec<Draft>) {
        node.each_text_mut("", &mut |_, span, text| {
            if !text.written.contains("${") {
                return;
            }
            let parts = match parts(&text.written) {
                Ok(parts) => parts,
                Err(message) => {
                    problems.push(
                        Draft::error("bad-reference", message)
                            .at(span)
                            .help("references are `${VAR}`, `${VAR:-default}`, `${VAR:?message}`, `${file:PATH}` and `${credential:NAME}`; write `$${` for a literal `${`"),
                    );
                    text.filled = Filled::Missing;
                    return;
                }
            };
            let (mut value, mut pieces, mut filled) = (String::new(), Vec::new(), Filled::Inside);
            for part in parts {
                let (written, target) = match part {
                    Part::Literal(literal) => {
                        value.push_str(literal);
                        continue;
                    }
                    Part::Reference { written, target } => (written, target),
                };
                match self.resolve(target, span.file) {
                    Ok(Resolved::Default(default)) => value.push_str(default),
                    Ok(Resolved::Outside(found)) => {
                        value.push_str(&found);
                        pieces.push(Piece { reference: written.to_owned(), value: found });
                        if filled == Filled::Inside {
                            filled = Filled::Outside;
                        }
                    }
                    Err(missing) => {
                        filled = Filled::Missing;
                        if needed {
                            problems.push(Draft::error("missing-value", missing.message).at(span).maybe_help(missing.help));
                        }
                    }
                }
            }
            *text = Text { value: if filled == Filled::Missing { text.written.clone() } else { value }, pieces, filled, ..text.clone() };
        });
    }

    fn resolve<'t>(&mut self, target: Target<'t>, file: super::source::FileId) -> Result<Resolved<'t>, Missing> {
        let outside = |message: String| Missing { message, help: None };
        match target {
            Target::Variable { name, fallback } => {
                let value = self.environment.variable(name).map_err(|error| outside(format!("the variable `{name}` {error}")))?;
                match (value, fallback) {
                    (Some(value), Fallback::None) => Ok(Resolved::Outside(value)),
                    // As in a shell, `:-` and `:?` take an empty value for none.
                    (Some(value), _) if !value.is_empty() => Ok(Resolved::Outside(value)),
                    (_, Fallback::Default(default)) => Ok(Resolved::Default(default)),
                    (_, Fallback::Demand(why)) => Err(Missing {
                        message: format!("the variable `{name}` is not set: {why}"),
                        help: Some("set it, in the environment or in a file for `--env-file`".to_owned()),
                    }),
                    (None, Fallback::None) => Err(Missing {
                        message: format!("the variable `{name}` is not set"),
                        help: Some(format!("set it, in the environment or in a file for `--env-file`, or give a default: `${{{name}:-default}}`")),
                    }),
                }
            }
            Target::File(path) => {
                let path = self.sources.file(file).base_dir.join(path);
                let environment = self.environment;
                let content = self.files.entry(path).or_insert_with_key(|path| environment.file(path)).clone();
                let name = match target {
                    Target::File(written) => written,
                    _ => "",
                };
                content.map(|content| Resolved::Outside(without_newline(content))).map_err(|error| outside(format!("the file `{name}` {error}")))
            }
            Target::Credential(name) => self
                .environment
                .credential(name)
                .map(|content| Resolved::Outside(without_newline(content)))
                .map_err(|error| outside(format!("the credential `{name}` {error}"))),
        }
    }
}

enum Resolved<'a> {
    Default(&'a str),
    Outside(String),
}

fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// A text without what its references say to whoever has not set them, which is never a value: `${VAR:?why}` becomes `${VAR}`.
pub(super) fn without_demands(written: &str) -> Cow<'_, str> {
    let Ok(parts) = parts(written) else { return Cow::Borrowed(written) };
    let shown = parts.iter().map(|part| match part {
        Part::Reference { target: Target::Variable { name, fallback: Fallback::Demand(_) }, .. } => Cow::Owned(format!("${{{name}}}")),
        Part::Reference { written, .. } => Cow::Borrowed(*written),
        Part::Literal(literal) => Cow::Borrowed(*literal),
    });
    Cow::Owned(shown.collect())
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            parts.push(Part::Literal(&rest[..at - 1]));
            parts.push(Part::Literal("${"));
            rest = &rest[at + 2..];
            continue;
        }
        parts.push(Part::Literal(&rest[..at]));
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or_else(|| "a `${` without its `}`".to_owned())?;
        let (written, inner) = (&rest[at..at + 2 + end + 1], &inner[..end]);
        parts.push(Part::Reference { written, target: target(inner).map_err(|error| format!("`{written}` {error}"))? });
        rest = &rest[at + 2 + end + 1..];
    }
    parts.push(Part::Literal(rest));
    Ok(parts)
}

fn target(inner: &str) -> Result<Target<'_>, String> {
    if inner.contains("${") {
        return Err("has a reference within a reference".to_owned());
    }
    if let Some(path) = inner.strip_prefix("file:") {
        return if path.is_empty() { Err("names no file".to_owned()) } else { Ok(Target::File(path)) };
    }
    if let Some(name) = inner.strip_prefix("credential:") {
        return if name.is_empty() { Err("names no credential".to_owned()) } else { Ok(Target::Credential(name)) };
    }
    let (name, rest) = inner.split_at(inner.find(':').unwrap_or(inner.len()));
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !begins_well || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("names no variable: use letters, digits and `_`".to_owned());
    }
    let fallback = match rest {
        "" => Fallback::None,
        _ => match (rest.strip_prefix(":-"), rest.strip_prefix(":?")) {
            (Some(default), _) => Fallback::Default(default),
            (None, Some(why)) => Fallback::Demand(if why.is_empty() { "it is needed here" } else { why }),
            (None, None) => return Err(format!("has `{rest}` behind the name, where only `:-default` or `:?message` can stand")),
        },
    };
    Ok(Target::Variable { name, fallback })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{environment::FixedEnvironment, tree};

    fn filled(written: &str, needed: bool) -> (Text, Vec<String>) {
        let environment = FixedEnvironment::default()
            .with("HOME", "/home/u")
            .with("EMPTY", "")
            .with("CREDENTIALS_DIRECTORY", "/cred")
            .with_file("/etc/r/token", "s3cret\r\n")
            .with_file("/cred/key", "k\n\n");
        let mut sources = Sources::default();
        let source = format!("x = '''{written}'''\n");
        let file = sources.add("r.toml", Path::new("/etc/r"), source.clone());
        let (mut table, errors) = tree::parse(&source, file);
        assert!(errors.is_empty(), "{errors:?}");
        let mut problems = Vec::new();
        let node = &mut table.entries[0].node;
        Filler::new(&environment, &sources).fill(node, needed, &mut problems);
        let report = crate::config::Report::new(sources, problems);
        (node.as_text().expect("a text").clone(), report.diagnostics().iter().map(|found| format!("{}: {}", found.code, found.message)).collect())
    }

    fn value(written: &str) -> (String, Filled) {
        let (text, problems) = filled(written, true);
        assert!(problems.is_empty(), "{written}: {problems:?}");
        (text.value, text.filled)
    }

    #[test]
    fn variables_files_and_credentials_are_filled_in() {
        for (written, expected, from) in [
            ("a ${HOME}/x ${HOME}", "a /home/u/x /home/u", Filled::Outside),
            ("${NONE:-def:ault}", "def:ault", Filled::Inside),
            ("${EMPTY:-d}", "d", Filled::Inside),
            ("${EMPTY}", "", Filled::Outside),
            ("${HOME:?why}", "/home/u", Filled::Outside),
            ("${file:token}", "s3cret", Filled::Outside),
            ("${file:/etc/r/token}!", "s3cret!", Filled::Outside),
            ("${credential:key}", "k\n", Filled::Outside),
            ("$${HOME} $5 $ {x}", "${HOME} $5 $ {x}", Filled::Inside),
        ] {
            assert_eq!(value(written), (expected.to_owned(), from), "{written}");
        }
    }

    #[test]
    fn a_filled_in_value_is_not_read_again() {
        let environment = FixedEnvironment::default().with("A", "${B}").with("B", "no");
        let mut sources = Sources::default();
        let file = sources.add("r.toml", Path::new("/"), String::new());
        let (mut table, _) = tree::parse("x = '${A}'", file);
        Filler::new(&environment, &sources).fill(&mut table.entries[0].node, true, &mut Vec::new());
        assert_eq!(table.text("x").expect("text").value, "${B}");
    }

    #[test]
    fn what_is_missing_is_a_problem_only_where_it_is_needed() {
        for (written, message) in [
            ("${NONE}", "missing-value: the variable `NONE` is not set"),
            ("${EMPTY:?give one}", "missing-value: the variable `EMPTY` is not set: give one"),
            ("${file:none}", "missing-value: the file `none` does not exist"),
            ("${credential:none}", "missing-value: the credential `none` does not exist"),
            ("${credential:../x}", "missing-value: the credential `../x` is no name of a credential: it must be a single file name"),
        ] {
            assert_eq!(filled(written, true).1, [message], "{written}");
            let (text, problems) = filled(written, false);
            assert_eq!((text.filled, text.value.as_str(), problems.len()), (Filled::Missing, written, 0), "{written}");
        }
    }

    #[test]
    fn a_malformed_reference_is_always_a_problem() {
        for written in ["${", "${}", "${1A}", "${A B}", "${A:x}", "${A:-${B}}", "${file:}", "${credential:}", "${ä}"] {
            let (_, problems) = filled(written, false);
            assert_eq!(problems.len(), 1, "{written}: {problems:?}");
            assert!(problems[0].starts_with("bad-reference: "), "{problems:?}");
        }
    }

    #[test]
    fn what_came_from_outside_is_shown_as_its_reference() {
        assert_eq!(filled("Bearer ${file:token}", true).0.shown(), "Bearer ${file:token}");
        assert_eq!(filled("${NONE:-../state}/x", true).0.shown(), "../state/x");
    }
}
