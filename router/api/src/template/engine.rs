//! The template library, behind two compiled shapes: a [`Text`] and a single [`Expression`]. Nothing else here knows the library.
//!
//! Strict: a missing or null field is an error. Bounded: by fuel, which counts steps and bytes, and by the length of the result.

use std::{
    borrow::Cow,
    fmt, io,
    sync::{Arc, LazyLock},
};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig};

use super::{
    Scope,
    filters::{self, FILTERS, TESTS},
    scan::{self, Named, Piece},
    scope::{TEXT_NAMES, TREE_NAMES},
};
use crate::{BuildError, EffectClass, EffectError, suggest};

/// Of a rendered text.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Of a template as configured.
const SOURCE_BYTES_MAX: usize = 64 * 1024;

/// One unit is one step, or 64 bytes copied, or 4 bytes of JSON written. Enough to write a text of [`TEXT_BYTES_MAX`] as JSON, and
/// over after a few milliseconds.
const FUEL: u64 = 40_000;

/// Under this name each environment holds its one template.
const ONLY: &str = "template";

const STATEMENTS: &[&str] = &["if", "elif", "else", "endif", "for", "endfor", "set", "endset", "with", "endwith", "filter", "endfilter", "raw", "endraw"];

/// The one environment. A [`Text`] owns a copy, which shares the filters and tests.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = Environment::empty();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    // Errors carry the place of the failing expression only so.
    engine.set_debug(true);
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true);
    engine.set_syntax(syntax.build().expect("the default delimiters are valid"));
    engine.set_formatter(|out, _, value| {
        let text = written(value)?;
        fmt::Write::write_str(out, &text).map_err(minijinja::Error::from)
    });
    filters::add_to(&mut engine);
    engine
});

/// How a value stands in a text: texts as they are, lists and objects as JSON. Nothing and null have no form.
fn written(value: &Value) -> Result<Cow<'_, str>, minijinja::Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    if value.is_none() {
        return Err(minijinja::Error::new(ErrorKind::UndefinedError, "null"));
    }
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    if value.as_object().is_some() {
        let json = serde_json::to_string(value).map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
        return Ok(Cow::Owned(json));
    }
    // The library would write `True`, as Python does.
    Ok(bool::try_from(value.clone()).map_or_else(|_| Cow::Owned(value.to_string()), |flag| Cow::Borrowed(if flag { "true" } else { "false" })))
}

/// A compiled text with code in it, or a literal one.
#[derive(Clone)]
pub(super) struct Text {
    source: Arc<str>,
    /// None for a literal text.
    code: Option<Arc<Environment<'static>>>,
}

impl Text {
    /// Compiles and checks; `names` are allowed beside those of every scope.
    pub(super) fn compile(source: &str, names: &[&str]) -> Result<Self, BuildError> {
        check_length(source)?;
        if !scan::has_code(source) {
            return Ok(Self { source: source.into(), code: None });
        }
        for piece in scan::pieces(source) {
            if let Piece::Statement(statement) = piece {
                let word = statement.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
                if matches!(word, "include" | "import" | "from" | "extends" | "block" | "macro" | "call" | "do" | "autoescape") {
                    return Err(BuildError::at("", format!("`{{% {word} %}}` is not to be had here")).help(format!("statements are {}", listed(STATEMENTS))));
                }
            }
        }
        let mut engine = ENGINE.clone();
        engine.add_template_owned(ONLY, source.to_owned()).map_err(|error| syntax_problem(source, &error))?;
        let used = engine.get_template(ONLY).map_err(|error| syntax_problem(source, &error))?.undeclared_variables(true);
        check_names(source, used, names)?;
        Ok(Self { source: source.into(), code: Some(Arc::new(engine)) })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn is_literal(&self) -> bool {
        self.code.is_none()
    }

    pub(super) fn render(&self, scope: &Scope) -> Result<String, EffectError> {
        let Some(engine) = &self.code else { return Ok(self.source.as_ref().to_owned()) };
        let mut out = Limited { bytes: Vec::new(), over: false };
        let result = engine.get_template(ONLY).and_then(|template| template.render_captured_to(scope.value(), &mut out).map(drop));
        match result {
            Ok(()) => Ok(String::from_utf8(out.bytes).expect("the engine writes whole texts")),
            Err(_) if out.over => Err(too_long(&self.source)),
            Err(error) => Err(render_error(&self.source, &error)),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

/// A compiled expression: what stands between `{{` and `}}`.
#[derive(Clone)]
pub(super) struct Expression {
    source: Arc<str>,
    code: Arc<minijinja::Expression<'static, 'static>>,
}

impl Expression {
    /// Compiles and checks.
    pub(super) fn compile(source: &str) -> Result<Self, BuildError> {
        check_length(source)?;
        let code = ENGINE.compile_expression_owned(source.to_owned()).map_err(|error| syntax_problem(source, &error))?;
        check_names(&format!("{{{{ {source} }}}}"), code.undeclared_variables(true), &[])?;
        Ok(Self { source: source.into(), code: Arc::new(code) })
    }

    /// The value with its own type; null where the field is null.
    pub(super) fn value(&self, scope: &Scope) -> Result<serde_json::Value, EffectError> {
        let value = self.eval(scope)?;
        serde_json::to_value(&value)
            .map_err(|error| EffectError::new(EffectClass::Refused, format!("`{{{{ {} }}}}` gives no JSON", excerpt(&self.source))).caused_by(error))
    }

    /// The value as it would stand in a text.
    pub(super) fn text(&self, scope: &Scope) -> Result<String, EffectError> {
        let value = self.eval(scope)?;
        let text = written(&value).map_err(|error| self.refused(&error))?;
        if text.len() > TEXT_BYTES_MAX { Err(too_long(&self.source)) } else { Ok(text.into_owned()) }
    }

    fn eval(&self, scope: &Scope) -> Result<Value, EffectError> {
        let value = self.code.eval(scope.value()).map_err(|error| self.refused(&error))?;
        if value.is_undefined() { Err(self.refused(&ErrorKind::UndefinedError.into())) } else { Ok(value) }
    }

    fn refused(&self, error: &minijinja::Error) -> EffectError {
        render_error(&format!("{{{{ {} }}}}", self.source), error)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

/// A sink that takes [`TEXT_BYTES_MAX`] and then fails.
struct Limited {
    bytes: Vec<u8>,
    over: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > TEXT_BYTES_MAX {
            self.over = true;
            return Err(io::Error::other("the text is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_length(source: &str) -> Result<(), BuildError> {
    if source.len() <= SOURCE_BYTES_MAX {
        return Ok(());
    }
    Err(BuildError::at("", format!("the template is {} bytes long, {SOURCE_BYTES_MAX} are the limit", source.len())))
}

fn check_names(source: &str, used: impl IntoIterator<Item = String>, names: &[&str]) -> Result<(), BuildError> {
    let mut problems = BuildError::default();
    let mut used: Vec<String> = used.into_iter().collect();
    // A set comes in any order; problems should not.
    used.sort_by_key(|name| (source.find(name.as_str()), name.clone()));
    for path in used {
        let (root, below) = path.split_once('.').map_or((path.as_str(), None), |(root, below)| (root, Some(below)));
        if names.contains(&root) || TREE_NAMES.contains(&root) || (below.is_none() && TEXT_NAMES.contains(&root)) {
            continue;
        }
        problems.collect::<()>(Err(if TEXT_NAMES.contains(&root) {
            BuildError::at("", format!("`{path}`: `{root}` is a single value, it has no fields"))
                .help(format!("write `{root}`, or `payload.…` for the body's own fields"))
        } else {
            let help = suggest(root, TEXT_NAMES.iter().chain(TREE_NAMES).chain(names)).map_or_else(
                || format!("names are {}", listed(&[TEXT_NAMES, TREE_NAMES, names].concat())),
                |name| format!("did you mean `{name}`? The body's own fields are below `payload` and `raw`"),
            );
            BuildError::at("", format!("`{path}` is no field of an event")).help(help)
        }));
    }
    for piece in scan::pieces(source) {
        let (Piece::Expression(code) | Piece::Statement(code)) = piece else { continue };
        for named in scan::named(code) {
            let (kind, name, known) = match named {
                Named::Filter(name) => ("filter", name, FILTERS),
                Named::Test(name) => ("test", name, TESTS),
            };
            if !known.contains(&name) {
                let help = suggest(name, known).map_or_else(|| format!("{kind}s are {}", listed(known)), |near| format!("did you mean `{near}`?"));
                problems.collect::<()>(Err(BuildError::at("", format!("`{name}` is no {kind}")).help(help)));
            }
        }
    }
    problems.into_result()
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn syntax_problem(source: &str, error: &minijinja::Error) -> BuildError {
    let what = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    BuildError::at("", format!("{what}{}", position(source, error.range().map(|range| range.start))))
}

/// ` at column 7`, or ` at line 2, column 7` in a text of several lines; nothing where the place is not known.
fn position(source: &str, offset: Option<usize>) -> String {
    let Some(before) = offset.and_then(|offset| source.get(..offset)) else { return String::new() };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    if source.contains('\n') { format!(" at line {line}, column {column}") } else { format!(" at column {column}") }
}

/// What a filter is applied to, if `at` is where the filter's name begins: the engine points at the name, but not that is missing.
fn filtered(source: &str, at: usize) -> Option<&str> {
    let before = source.get(..at)?.trim_end().strip_suffix('|')?;
    let start = before.rfind("{{").map_or(0, |start| start + 2);
    before.get(start..).map(|expression| expression.trim_start_matches('-').trim())
}

fn render_error(source: &str, error: &minijinja::Error) -> EffectError {
    let place = error.range().and_then(|range| filtered(source, range.start).or_else(|| source.get(range))).filter(|place| !place.trim().is_empty());
    let place = excerpt(place.unwrap_or(source));
    let message = match error.kind() {
        ErrorKind::UndefinedError if error.detail() == Some("null") => format!("`{place}` is null in this event"),
        ErrorKind::UndefinedError => format!("`{place}` is missing in this event"),
        ErrorKind::OutOfFuel => format!("`{}` takes too much work for this event", excerpt(source)),
        kind => format!("`{place}` cannot be filled in: {}", error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {}", excerpt(detail)))),
    };
    EffectError::new(EffectClass::Refused, message)
}

fn too_long(source: &str) -> EffectError {
    EffectError::new(EffectClass::Refused, format!("`{}` becomes longer than {TEXT_BYTES_MAX} bytes with this event", excerpt(source)))
}

/// A text for a message: control characters escaped, cut after a line's length.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let mut shown: String = text.chars().take(CHARS_MAX).flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
