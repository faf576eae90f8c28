//! Addresses whose path and query are templates. Scheme, user, host and port are literal, always.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Scope,
    engine::{Expression, excerpt},
    scan::{self, Piece},
};
use crate::{
    BuildError, EffectClass, EffectError, Endpoint, TargetUrl,
    program::{encoded, is_dot_segment},
};

/// An address such as `https://ci.example/api/{{ session_id }}?branch={{ git_branch }}`.
///
/// Everything up to the first `/` or `?` after host and port is literal. Each `{{ field }}` is percent-encoded whole, so that a
/// `/`, `?` or `&` in a value stays data. A path segment must not become empty, `.` or `..` by what fills it in.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "url-template"))]
pub struct UrlTemplate {
    text: String,
    base: Endpoint,
    pieces: Arc<[Part]>,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Field(Expression),
}

impl UrlTemplate {
    /// Of a filled-in address.
    pub const BYTES_MAX: usize = 8 * 1024;

    /// Reads an address.
    ///
    /// # Errors
    ///
    /// When the literal part is no `http` or `https` address with a host, a template stands in scheme, user, host or port, there are
    /// statements (`{% … %}`), or a template is wrong.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let prefix = scan::literal_prefix(text);
        if prefix.len() < text.len() {
            let authority_ends = prefix.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']));
            if !authority_ends {
                return Err(BuildError::at("", format!("in `{text}` a template stands before the path, so that an event would choose where the request goes"))
                    .help("write scheme, host and port out, then `/`; templates can come after that"));
            }
        }
        let base = Endpoint::parse(prefix)?;
        let mut pieces = Vec::new();
        for piece in scan::pieces(text) {
            match piece {
                Piece::Literal(literal) if literal.contains('#') => {
                    return Err(BuildError::at("", format!("`{text}` has a `#` part, which no server ever sees")));
                }
                Piece::Literal(literal) if literal.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') => {
                    return Err(BuildError::at("", format!("`{}` has a space, backslash or control character outside of its templates", excerpt(text)))
                        .help("percent-encode it: a space is `%20`"));
                }
                Piece::Literal(literal) => pieces.push(Part::Literal(literal.to_owned())),
                Piece::Expression(expression) => pieces.push(Part::Field(Expression::compile(expression)?)),
                Piece::Statement(statement) => {
                    return Err(
                        BuildError::at("", format!("`{{% {statement} %}}` cannot stand in an address")).help("use `{{ field }}` or `{{ a if b else c }}`")
                    );
                }
            }
        }
        Ok(Self { text: text.to_owned(), base, pieces: pieces.into() })
    }

    /// The address as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, for records.
    #[must_use]
    pub fn host(&self) -> &str {
        self.base.host()
    }

    /// Fills it in.
    ///
    /// # Errors
    ///
    /// When a field is missing or the address becomes too long: class `Refused`. When a path segment becomes empty, `.` or `..`, which
    /// servers and proxies resolve in their own ways: class `Forbidden`.
    pub fn render(&self, scope: &Scope) -> Result<TargetUrl, EffectError> {
        let mut whole = String::new();
        // The segment at hand: as it would be read, and whether an event has a part in it.
        let (mut segment, mut filled, mut in_query) = (String::new(), false, false);
        for piece in self.pieces.iter() {
            match piece {
                Part::Field(expression) => {
                    let value = expression.text(scope)?;
                    whole.push_str(&encoded(&value));
                    segment.push_str(&value);
                    filled = true;
                }
                Part::Literal(literal) => {
                    whole.push_str(literal);
                    for c in literal.chars() {
                        if !in_query && (c == '/' || c == '?') {
                            check_segment(&segment, filled)?;
                            (segment, filled, in_query) = (String::new(), false, c == '?');
                        } else {
                            segment.push(c);
                        }
                    }
                }
            }
        }
        if !in_query {
            check_segment(&segment, filled)?;
        }
        if whole.len() > Self::BYTES_MAX {
            return Err(EffectError::new(EffectClass::Refused, format!("the address becomes longer than {} bytes with this event", Self::BYTES_MAX)));
        }
        self.base.with_path_and_query_of(&whole)
    }
}

fn check_segment(segment: &str, filled: bool) -> Result<(), EffectError> {
    if filled && (segment.is_empty() || is_dot_segment(segment)) {
        return Err(EffectError::new(EffectClass::Forbidden, format!("`{}` cannot stand in the path of a URL", excerpt(segment))));
    }
    Ok(())
}

impl PartialEq for UrlTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for UrlTemplate {}

impl TryFrom<String> for UrlTemplate {
    type Error = BuildError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<UrlTemplate> for String {
    fn from(template: UrlTemplate) -> Self {
        template.text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(text: &str, value: &str) -> Result<String, EffectError> {
        UrlTemplate::parse(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .render(&Scope::from_value(json!({"git_branch": value})))
            .map(|url| url.to_string())
    }

    #[test]
    fn values_are_encoded_whole() {
        let text = "https://ci.example:8443/api/{{ git_branch }}/runs?branch={{ git_branch }}&x=1";
        assert_eq!(render(text, "main").unwrap(), "https://ci.example:8443/api/main/runs?branch=main&x=1");
        assert_eq!(render(text, "a/b?c&d=e#f%2e g+é").unwrap(), {
            let value = "a%2Fb%3Fc%26d%3De%23f%252e%20g%2B%C3%A9";
            format!("https://ci.example:8443/api/{value}/runs?branch={value}&x=1")
        });
        assert_eq!(render("http://h/{{ git_branch | upper }}-{{ git_branch }}.json", "a").unwrap(), "http://h/A-a.json");
        assert_eq!(render("http://h?b={{ git_branch }}", "..").unwrap(), "http://h/?b=..");
        assert_eq!(render("http://h/plain", "x").unwrap(), "http://h/plain");
    }

    #[test]
    fn no_value_moves_the_request_elsewhere() {
        let texts = [
            "http://h.example/{{ git_branch }}",
            "http://h.example/a/{{ git_branch }}/b",
            "http://h.example/?q={{ git_branch }}",
            "http://h.example:81/x{{ git_branch }}",
        ];
        let values = [
            "@evil",
            "//evil",
            "/\\evil",
            ":80@evil/",
            "..",
            "../..",
            "%2e%2e",
            ".\t.",
            ".\n.",
            "\r\nHost: evil",
            "?",
            "#",
            "\\\\evil\\",
            "http://evil/",
            "@169.254.169.254",
            "\0",
            "．．",
            "a/../../b",
            "./.",
            ";@evil",
            "%00",
        ];
        for text in texts {
            for value in values {
                match render(text, value) {
                    Ok(url) => {
                        let url = url::Url::parse(&url).unwrap();
                        assert_eq!(url.host_str(), Some("h.example"), "{text} {value:?}");
                        assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
                        let fixed = text.split("{{").next().unwrap();
                        assert!(url.as_str().starts_with(fixed), "{url} of {text} with {value:?}");
                        assert!(!url.as_str().contains(['\r', '\n', '\t', '\0', ' ']));
                    }
                    Err(error) => assert_eq!(error.class, EffectClass::Forbidden),
                }
            }
        }
    }

    #[test]
    fn a_segment_never_becomes_empty_or_a_step() {
        for value in ["", ".", ".."] {
            for text in ["http://h/a/{{ git_branch }}", "http://h/a/{{ git_branch }}/b", "http://h/{{ git_branch }}?x"] {
                assert_eq!(render(text, value).unwrap_err().class, EffectClass::Forbidden, "{text} {value:?}");
            }
        }
        assert_eq!(render("http://h/.{{ git_branch }}", ".").unwrap_err().class, EffectClass::Forbidden, "half a step is none");
        assert_eq!(render("http://h/%2e{{ git_branch }}", ".").unwrap_err().class, EffectClass::Forbidden, "nor is an encoded one");
        assert_eq!(render("http://h/a/", "x").unwrap(), "http://h/a/");
    }

    #[test]
    fn a_template_before_the_path_is_refused() {
        for text in [
            "{{ key }}",
            "{{ key }}://h/",
            "https://{{ key }}/",
            "https://h{{ key }}/",
            "https://h.{{ key }}/",
            "https://h:{{ key }}/",
            "https://h:80{{ key }}",
            "https://{{ key }}@h/",
            "https:{{ key }}//h/",
            "/{{ key }}",
            "https:///{{ key }}",
            "https://user@h/{{ key }}",
            "ftp://h/{{ key }}",
            "https://h/{% if key %}x{% endif %}",
            "https://h/{{ nope }}",
            "https://h/{{ key }}#f",
            "https://h/a b{{ key }}",
            "https://h/\\{{ key }}",
        ] {
            assert!(UrlTemplate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_field_is_refused() {
        let error = UrlTemplate::parse("http://h/{{ session_id }}").unwrap().render(&Scope::from_value(json!({}))).unwrap_err();
        assert_eq!(error.class, EffectClass::Refused);
        assert!(error.message.contains("session_id"), "{}", error.message);
    }
}
