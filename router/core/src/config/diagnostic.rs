//! What `check` has to say: one [`Diagnostic`] for each problem, gathered in a [`Report`] that prints itself for people (with the
//! line and a caret) and serializes for machines.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::source::{Place, Sources, Span};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but hardly means what it says.
    Warning,
    /// Worth knowing.
    Note,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Names the kind of problem for machines: `unknown-key`. Never changes its meaning.
    pub code: &'static str,
    /// A lowercase sentence fragment. Never contains a value that came from a variable or a file.
    pub message: String,
    /// Where it is; none if it concerns no place, such as a file that does not exist.
    pub place: Option<Place>,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that belong to it.
    pub related: Vec<Related>,
}

/// Another place that belongs to a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Where.
    pub place: Place,
}

/// All that was found in one configuration, in the order of its files and lines.
#[derive(Debug, Clone)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
    left_out: usize,
    sources: Arc<Sources>,
}

/// Why a configuration cannot be used: a report with at least one error.
#[derive(Debug, Clone)]
pub struct Problems {
    /// Errors, and the warnings that were found beside them.
    pub report: Report,
    /// Where its store is, if that can be told all the same: a router may run on it, with an earlier configuration.
    pub store: Option<PathBuf>,
}

/// A problem whose place is still a byte range.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    severity: Severity,
    code: &'static str,
    message: String,
    span: Option<Span>,
    help: Option<String>,
    related: Vec<(String, Span)>,
}

impl Draft {
    fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity, code, message: message.into(), span: None, help: None, related: Vec::new() }
    }

    pub(super) fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    pub(super) fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    pub(super) fn note(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, message)
    }

    pub(super) fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    pub(super) fn related(mut self, message: impl Into<String>, span: Span) -> Self {
        self.related.push((message.into(), span));
        self
    }

    pub(super) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// What comes from a file must neither steer a terminal nor look like what it is not: such characters appear as `\u{…}`.
fn printable(text: &str) -> String {
    if !text.chars().any(is_deceptive) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_deceptive(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Moves the cursor, has no width, turns the text around it, or is a space that TOML does not take for one.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A line of a file, [`printable`] but for its tabs, and where the marked part of it lies then.
fn printable_line(line: &str, marked: Range<usize>) -> (String, Range<usize>) {
    // The end of a line as other systems write it.
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (mut shown, mut start, mut end) = (String::with_capacity(line.len()), None, None);
    for (at, c) in line.char_indices() {
        // Inside of a character is at its beginning, so that the mark stays on it.
        if start.is_none() && marked.start < at + c.len_utf8() {
            start = Some(shown.len());
        }
        if end.is_none() && marked.end <= at {
            end = Some(shown.len());
        }
        if is_deceptive(c) && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    let start = start.unwrap_or(shown.len());
    let end = end.unwrap_or(shown.len()).max(start);
    (shown, start..end)
}

impl Report {
    /// Problems beyond these are counted, not kept.
    pub const DIAGNOSTICS_MAX: usize = 1_000;

    pub(super) fn new(sources: Sources, mut drafts: Vec<Draft>) -> Self {
        // A mistake in `[defaults]` is found again by every route.
        let mut seen = std::collections::HashSet::new();
        drafts.retain(|draft| draft.span.is_none() || seen.insert((draft.span, draft.code, draft.message.clone())));
        // Without a place first: a file that is missing explains what follows.
        drafts.sort_by_key(|draft| (draft.span.map(|span| (span.file, span.start)), draft.severity));
        let left_out = drafts.len().saturating_sub(Self::DIAGNOSTICS_MAX);
        if left_out > 0 {
            // Errors are kept before warnings; the order of the places stays.
            let errors = drafts.iter().filter(|draft| draft.is_error()).count().min(Self::DIAGNOSTICS_MAX);
            let (mut errors_left, mut others_left) = (errors, Self::DIAGNOSTICS_MAX - errors);
            drafts.retain(|draft| {
                let left = if draft.is_error() { &mut errors_left } else { &mut others_left };
                let keep = *left > 0;
                *left = left.saturating_sub(1);
                keep
            });
        }
        let diagnostics = drafts
            .into_iter()
            .map(|draft| Diagnostic {
                severity: draft.severity,
                code: draft.code,
                message: printable(&draft.message),
                place: draft.span.map(|span| sources.place(span)),
                help: draft.help.as_deref().map(printable),
                related: draft.related.iter().map(|(message, span)| Related { message: printable(message), place: sources.place(*span) }).collect(),
            })
            .collect();
        Self { diagnostics, left_out, sources: Arc::new(sources) }
    }

    /// All of them, at most [`Report::DIAGNOSTICS_MAX`].
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many of a severity are in the report.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// True without errors: the configuration can be used.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.count(Severity::Error) == 0
    }

    /// The files that were read, as they are shown.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.sources.names().map(AsRef::as_ref)
    }

    /// For people: each problem with its line and a caret, and a closing line that counts. Empty without problems.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&self.render_one(diagnostic, &renderer));
            out.push_str("\n\n");
        }
        if let Some(summary) = self.summary() {
            out.push_str(&summary);
            out.push('\n');
        }
        out
    }

    /// `2 errors, 1 warning`, or `None` without problems.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let counted =
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")].map(|(severity, name)| match self.count(severity) {
                0 => None,
                1 => Some(format!("1 {name}")),
                count => Some(format!("{count} {name}s")),
            });
        let mut parts: Vec<_> = counted.into_iter().flatten().collect();
        if self.left_out > 0 {
            parts.push(format!("{} more that are not shown", self.left_out));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn render_one(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code);
        let mut group = annotate_snippets::Group::with_title(title);
        if let Some(place) = &diagnostic.place {
            group = group.element(self.snippet(place, AnnotationKind::Primary, None));
        }
        for related in &diagnostic.related {
            group = group.element(self.snippet(&related.place, AnnotationKind::Context, Some(&related.message)));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    /// The line of a place only: a report over a long file stays linear.
    fn snippet<'a>(&'a self, place: &'a Place, kind: AnnotationKind, label: Option<&'a str>) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let source = self.sources.file(place.span.file);
        let line = source.line_range(place.line);
        let text = source.shown.get(line.clone()).unwrap_or_default();
        let start = place.span.start.clamp(line.start, line.end) - line.start;
        let end = place.span.end.clamp(line.start + start, line.end) - line.start;
        let (text, marked) = printable_line(text, start..end);
        Snippet::source(text).line_start(place.line).path(printable(&place.file)).fold(false).annotation(kind.span(marked).label(label))
    }
}

impl Serialize for Report {
    /// As `event-router.check.v1`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 8)?;
        report.serialize_field("schema", "event-router.check.v1")?;
        report.serialize_field("valid", &self.is_usable())?;
        report.serialize_field("errors", &self.count(Severity::Error))?;
        report.serialize_field("warnings", &self.count(Severity::Warning))?;
        report.serialize_field("notes", &self.count(Severity::Note))?;
        report.serialize_field("left_out", &self.left_out)?;
        report.serialize_field("files", &self.files().collect::<Vec<_>>())?;
        report.serialize_field("diagnostics", &self.diagnostics)?;
        report.end()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.render(false))
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_problem_shows_its_line_its_caret_its_code_and_its_help() {
        let mut sources = Sources::default();
        let text = "# first\nprefetsch = 5\n[route]\n";
        let file = sources.add("config/router.toml", Path::new("/x"), text.to_owned());
        let drafts = vec![
            Draft::warning("later", "a second thing").at(Span { file, start: 22, end: 29 }).related("first seen here", Span { file, start: 0, end: 1 }),
            Draft::error("unknown-key", "unknown key `prefetsch`").at(Span { file, start: 8, end: 17 }).help("did you mean `prefetch`?"),
        ];
        let report = Report::new(sources, drafts);
        let shown = report.render(false);
        let expected = "\
error[unknown-key]: unknown key `prefetsch`
 --> config/router.toml:2:1
  |
2 | prefetsch = 5
  | ^^^^^^^^^
  |
  = help: did you mean `prefetch`?

warning[later]: a second thing
 --> config/router.toml:3:1
  |
3 | [route]
  | ^^^^^^^
  |
 ::: config/router.toml:1:1
  |
1 | # first
  | - first seen here

1 error, 1 warning
";
        assert_eq!(shown, expected, "\n{shown}");
        assert!(report.render(true).contains("\u{1b}["));
    }

    #[test]
    fn the_machine_form_names_its_schema_and_every_place() {
        let mut sources = Sources::default();
        let file = sources.add("a.toml", Path::new("/x"), "x = 1\n".to_owned());
        let report = Report::new(sources, vec![Draft::error("unknown-key", "unknown key `x`").at(Span { file, start: 0, end: 1 })]);
        let json = serde_json::to_value(&report).expect("serializes");
        assert_eq!(
            json,
            serde_json::json!({
                "schema": "event-router.check.v1", "valid": false, "errors": 1, "warnings": 0, "notes": 0, "left_out": 0, "files": ["a.toml"],
                "diagnostics": [{
                    "severity": "error", "code": "unknown-key", "message": "unknown key `x`", "help": null, "related": [],
                    "place": { "file": "a.toml", "line": 1, "column": 1, "end_line": 1, "end_column": 2 }
                }]
            })
        );
    }

    #[test]
    fn a_flood_of_problems_is_cut_and_counted_and_keeps_the_errors() {
        let mut sources = Sources::default();
        let file = sources.add("a.toml", Path::new("/x"), "x".repeat(3_000));
        let warnings = (0..2_000).map(|at| Draft::warning("w", "w").at(Span { file, start: at, end: at + 1 }));
        let drafts = warnings.chain([Draft::error("e", "e").at(Span { file, start: 2_999, end: 3_000 })]).collect();
        let report = Report::new(sources, drafts);
        assert_eq!((report.diagnostics().len(), report.count(Severity::Error)), (Report::DIAGNOSTICS_MAX, 1));
        assert_eq!(report.summary().as_deref(), Some("1 error, 999 warnings, 1001 more that are not shown"));
    }

    #[test]
    fn what_cannot_be_seen_is_shown_in_messages_and_in_the_line_with_the_mark_still_on_it() {
        let mut sources = Sources::default();
        let text = "a = 1\n\tb = 'l\u{200b}o\u{202e}g'\u{a0}# é\n";
        let file = sources.add("a.toml", Path::new("/x"), text.to_owned());
        let start = text.find("'l").expect("it is there");
        let end = text.find("g'").expect("it is there") + 2;
        let report = Report::new(sources, vec![Draft::error("e", "no plugin `l\u{200b}o\u{202e}g`").at(Span { file, start, end })]);
        let shown = report.render(false);
        assert!(shown.starts_with("error[e]: no plugin `l\\u{200b}o\\u{202e}g`\n"), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        let line = lines.iter().position(|line| line.contains("b = ")).expect("the line is shown");
        assert!(lines[line].ends_with("b = 'l\\u{200b}o\\u{202e}g'\\u{a0}# é"), "{shown}");
        let (begin, marks) = (lines[line + 1].find('^').expect("it is marked"), lines[line + 1].matches('^').count());
        assert_eq!(lines[line].get(begin..begin + marks), Some("'l\\u{200b}o\\u{202e}g'"), "{shown}");
    }

    #[test]
    fn marks_stay_within_their_line_wherever_they_lie() {
        for (line, marked, expected) in [
            ("", 0..0, ("", 0..0)),
            ("ab", 2..2, ("ab", 2..2)),
            ("ab", 1..2, ("ab", 1..2)),
            ("\u{200b}b", 0..3, ("\\u{200b}b", 0..8)),
            ("\u{200b}b", 1..4, ("\\u{200b}b", 0..9)),
            ("ab\r", 1..3, ("ab", 1..2)),
            ("b\u{200b}", 4..4, ("b\\u{200b}", 9..9)),
        ] {
            assert_eq!(printable_line(line, marked), (expected.0.to_owned(), expected.1), "{line:?}");
        }
    }

    #[test]
    fn control_characters_of_a_file_never_reach_the_terminal() {
        let report = Report::new(Sources::default(), vec![Draft::error("e", "bad \u{1b}[2J name")]);
        assert!(!report.render(false).contains('\u{1b}'));
    }
}
