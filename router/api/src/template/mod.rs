//! One small strict template engine for options that event data fills in: texts, JSON trees, argument vectors and addresses.
//!
//! Strict means: a field that is missing or null is an error, never an empty text (`{{ git_branch | default("main") }}` says
//! what to take instead). Everything is compiled and checked at load: syntax, names, filters. Nothing is ever split or read by a
//! shell. A rendered text is at most 64 KiB long and the work is bounded, so that neither a template nor an event can stall a
//! route.
//!
//! What a template can refer to is [`Scope`]. The filters: `default`, `join`, `first`, `last`, `length`, `lower`, `upper`, `trim`,
//! `replace`, `split`, `lines`, `map`, `unique`, `sort`, `list`, `string`, `int`, `tojson`, `basename`, `dirname`,
//! `relative_to(dir)`. There are no includes, imports, macros or functions.
//!
//! Read first `engine`, which is the only file that knows the template library; `argv` and `url` are the ones with rules against
//! hostile event data.

mod argv;
mod engine;
mod filters;
mod interpreters;
mod scan;
mod scope;
mod tree;
mod url;

use serde::{Deserialize, Serialize};

pub use argv::ArgvTemplate;
pub use scope::Scope;
pub use tree::JsonTemplate;
pub use url::UrlTemplate;

use crate::{BuildError, EffectError};

/// A text with `{{ field }}` in it.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "template"))]
pub struct Template {
    text: engine::Text,
}

impl Template {
    /// Of a rendered text, in bytes.
    pub const BYTES_MAX: usize = engine::TEXT_BYTES_MAX;

    /// Reads a template.
    ///
    /// # Errors
    ///
    /// When its syntax is wrong (with the position in the text), or it refers to a name or filter that there is not (with the
    /// nearest one that there is).
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        Self::parse_with(text, &[])
    }

    /// Reads a template that may also refer to `names`, which its user adds with [`Scope::with`].
    ///
    /// # Errors
    ///
    /// Those of [`Template::parse`].
    pub fn parse_with(text: &str, names: &[&str]) -> Result<Self, BuildError> {
        Ok(Self { text: engine::Text::compile(text, names)? })
    }

    /// The text as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.source()
    }

    /// True when there is nothing to fill in.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.text.is_literal()
    }

    /// Fills it in.
    ///
    /// # Errors
    ///
    /// When a field is missing or null, or the text grows past [`Template::BYTES_MAX`]: class `Refused`, since trying again would
    /// not help.
    pub fn render(&self, scope: &Scope) -> Result<String, EffectError> {
        self.text.render(scope)
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Template {}

impl TryFrom<String> for Template {
    type Error = BuildError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::EffectClass;

    fn scope() -> Scope {
        Scope::from_value(json!({
            "key": "tool.mutation.write",
            "tool_name": "Write",
            "file_path": "/srv/app/src/a.py",
            "working_directory": "/srv/app",
            "payload": {"n": 3, "nothing": null, "flag": true, "list": ["a", "b"], "text": "<b>&\"'", "deep": {"x": 1.5}},
            "files": ["/srv/app/src/a.py", "/srv/app/b.py"],
            "attempt": 2,
        }))
    }

    fn render(text: &str) -> Result<String, EffectError> {
        Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).render(&scope())
    }

    fn problem(text: &str) -> String {
        let error = Template::parse(text).expect_err(text);
        let help = error.problems[0].help.clone().unwrap_or_default();
        format!("{error} / {help}")
    }

    #[test]
    fn fields_are_filled_in_and_nothing_is_escaped_or_trimmed() {
        assert_eq!(render(" {{ tool_name }} on {{ payload.text }}\n").unwrap(), " Write on <b>&\"'\n");
        assert_eq!(render("no field at all {").unwrap(), "no field at all {");
        assert_eq!(render("").unwrap(), "");
        assert_eq!(render("{{ payload.n }} {{ payload.flag }} {{ payload.deep.x }} {{ attempt }}").unwrap(), "3 true 1.5 2");
        assert_eq!(render("{% if attempt > 1 %}again{% else %}first{% endif %}").unwrap(), "again");
    }

    #[test]
    fn lists_and_objects_are_written_as_json() {
        assert_eq!(render("{{ payload.list }} {{ payload.deep }}").unwrap(), r#"["a","b"] {"x":1.5}"#);
        assert_eq!(render("{{ payload.text | tojson }}").unwrap(), serde_json::to_string("<b>&\"'").unwrap());
    }

    #[test]
    fn filters_do_what_their_names_say() {
        for (text, expected) in [
            (r#"{{ git_branch | default("main") }}"#, "main"),
            ("{{ payload.list | join(',') }}", "a,b"),
            ("{{ payload.list | first }}{{ payload.list | last }}{{ payload.list | length }}", "ab2"),
            ("{{ tool_name | lower }}{{ tool_name | upper }}", "writeWRITE"),
            ("{{ tool_name | replace('W', 'w') }}", "write"),
            ("{{ file_path | basename }}", "a.py"),
            ("{{ file_path | dirname }}", "/srv/app/src"),
            ("{{ file_path | relative_to(working_directory) }}", "src/a.py"),
            ("{{ files | map('basename') | join(' ') }}", "a.py b.py"),
            ("{{ 'yes' if tool_name is startingwith('Wr') else 'no' }}", "yes"),
        ] {
            assert_eq!(render(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_field_is_refused_and_named() {
        let error = render("go to {{ git_branch }}").unwrap_err();
        assert_eq!(error.class, EffectClass::Refused);
        assert!(error.message.contains("git_branch"), "{}", error.message);
        let error = render("{{ payload.deep.y }}").unwrap_err();
        assert!(error.message.contains("payload.deep.y"), "{}", error.message);
        let error = render("{{ payload.absent.y }}").unwrap_err();
        assert_eq!(error.class, EffectClass::Refused);
        // The engine points at the filter.
        for source in ["go to {{ git_branch | upper }}", "{{- git_branch|upper }}"] {
            assert_eq!(render(source).unwrap_err().message, "`git_branch` is missing in this event");
        }
    }

    #[test]
    fn null_is_as_missing_as_absence() {
        let error = render("{{ payload.nothing }}").unwrap_err();
        assert_eq!(error.class, EffectClass::Refused);
        assert!(error.message.contains("null"), "{}", error.message);
    }

    #[test]
    fn a_wrong_syntax_is_refused_at_load_with_its_position() {
        let text = problem("begin {{ tool_name ");
        assert!(text.contains("column"), "{text}");
        let text = problem("first\nsecond {{ 1 + }}");
        assert!(text.contains("line 2, column"), "{text}");
    }

    #[test]
    fn an_unknown_name_is_refused_at_load_with_the_nearest_one() {
        assert!(problem("{{ tool_nmae }}").contains("`tool_name`"), "{}", problem("{{ tool_nmae }}"));
        assert!(problem("{{ sessionid }}").contains("`session_id`"));
        assert!(problem("{{ session_id.x }}").contains("session_id"), "a text has no fields");
        assert!(problem("{{ range(3) }}").contains("range"), "there are no functions");
        assert!(Template::parse("{{ payload.anything.at.all }} {{ raw.x }} {{ burst[0].key }} {{ source }}").is_ok());
        assert!(Template::parse("{% for file in files %}{{ loop.index }}{{ file }}{% endfor %}").is_ok());
    }

    #[test]
    fn an_unknown_filter_or_test_is_refused_at_load_with_the_nearest_one() {
        assert!(problem("{{ tool_name | bsename }}").contains("`basename`"), "{}", problem("{{ tool_name | bsename }}"));
        assert!(problem("{{ tool_name | safe }}").contains("safe"));
        assert!(problem("{% if tool_name is definde %}x{% endif %}").contains("`defined`"));
        // Inside a string these are no filters.
        assert!(Template::parse("{{ tool_name | default('a | nosuch') }}").is_ok());
    }

    #[test]
    fn all_problems_of_a_text_come_at_once() {
        let error = Template::parse("{{ tool_nmae }} {{ fil_path }} {{ key | nosuch }}").unwrap_err();
        assert_eq!(error.problems.len(), 3, "{error}");
    }

    #[test]
    fn there_are_no_includes_imports_macros_or_blocks() {
        for text in [
            "{% include 'x' %}",
            "{%- import 'x' as y %}",
            "{% from 'x' import y %}",
            "{% extends 'x' %}",
            "{% block a %}{% endblock %}",
            "{% macro a() %}{% endmacro %}",
        ] {
            let _ = problem(text);
        }
    }

    #[test]
    fn names_that_the_user_adds_can_be_allowed() {
        let template = Template::parse_with("{{ run }}", &["run"]).unwrap();
        assert_eq!(template.render(&scope().with("run", json!("r1"))).unwrap(), "r1");
        assert!(Template::parse("{{ run }}").is_err());
    }

    #[test]
    fn a_result_past_the_limit_is_refused_before_it_is_whole() {
        let big = Scope::from_value(json!({"payload": {"text": "x".repeat(Template::BYTES_MAX)}}));
        assert!(Template::parse("{{ payload.text }}").unwrap().render(&big).is_ok());
        let error = Template::parse("{{ payload.text }}!").unwrap().render(&big).unwrap_err();
        assert_eq!(error.class, EffectClass::Refused);
        assert!(error.message.contains("65536"), "{}", error.message);
        assert!(Template::parse("{{ payload.text | tojson | length }}").unwrap().render(&big).is_ok(), "a text of the whole size can still be worked with");
    }

    #[test]
    fn endless_work_runs_out_of_fuel() {
        let scope = Scope::from_value(json!({"payload": {"n": 999_999_999, "list": vec![1; 3_000]}}));
        for text in [
            "{% for a in payload.list %}{% for b in payload.list %}{% endfor %}{% endfor %}",
            "{{ ('ab' * payload.n) | length }}",
            "{% set a = 'x' * 1000 %}{% for i in payload.list %}{% set a = a ~ a %}{% endfor %}{{ ('y' * 30000) | replace('y', 'z' * 30000) | length }}",
        ] {
            let error = Template::parse(text).unwrap().render(&scope).unwrap_err();
            assert_eq!(error.class, EffectClass::Refused, "{text}");
        }
    }

    #[test]
    fn a_template_survives_serde() {
        let template: Template = serde_json::from_value(json!("a {{ key }}")).unwrap();
        assert_eq!(serde_json::to_value(&template).unwrap(), json!("a {{ key }}"));
        let error = serde_json::from_value::<Template>(json!("{{ nope }}")).unwrap_err().to_string();
        assert!(error.contains("nope"), "{error}");
    }

    #[test]
    fn arbitrary_text_never_panics() {
        let alphabet =
            ["{{", "}}", "{%", "%}", "{#", "#}", "'", "\"", "\\", "|", " is ", "key", "raw", "endraw", "-", "+", ".", "é", "\n", "\0", "(", "[", "{", "}"];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..3_000 {
            let mut text = String::new();
            for _ in 0..8 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                text.push_str(alphabet[usize::try_from(seed % alphabet.len() as u64).unwrap()]);
            }
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&scope());
            }
            let _ = UrlTemplate::parse(&format!("http://h/{text}"));
            let _ = JsonTemplate::parse(json!(text));
            let _ = ArgvTemplate::parse(vec!["p".to_owned(), text]);
        }
    }
}
