//! Programs and addresses that only the configuration can choose.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::BuildError;

/// A program that the configuration names, found at load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    path: Option<PathBuf>,
}

impl Program {
    /// A program with its absolute path. For implementers of [`crate::EffectPort::resolve_program`].
    #[must_use]
    pub fn resolved(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), path: Some(path.into()) }
    }

    /// A program that was not found, for dry runs: it can be shown but not run.
    #[must_use]
    pub fn unresolved(name: impl Into<String>) -> Self {
        Self { name: name.into(), path: None }
    }

    /// As the configuration names it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// An argument vector as a person would type it, quoted where a shell would need it. For display only; nothing runs it.
#[must_use]
pub fn display_argv(argv: &[String]) -> String {
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte));
    let quoted = |text: &String| {
        if plain(text) { text.clone() } else { format!("'{}'", text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'\\''")) }
    };
    argv.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// An `http` or `https` address of the configuration. Event data can fill in path and query, never scheme, user, host or port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = "endpoint"))]
pub struct Endpoint {
    text: String,
    base: url::Url,
}

impl Endpoint {
    /// Reads an address from the configuration.
    ///
    /// Other spellings of one host (`http://0x7f.1`, capitals, IDNA) are brought into their one normal form.
    ///
    /// # Errors
    ///
    /// When it is no absolute `http` or `https` URL with a host, is spelled so that readers of URLs disagree about it, or carries a
    /// user, password, `#` part or template.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        if text.contains("{{") || text.contains("{%") || text.contains("{#") {
            return Err(BuildError::at("", format!("`{text}` has a template: a base address is fixed, so that no event can choose where a request goes"))
                .help("put what varies into the path options of the plugin"));
        }
        // The URL standard drops or repairs these silently; other readers of the same text would see another address.
        if let Some(odd) = text.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '\\') {
            return Err(
                BuildError::at("", format!("`{}` has {odd:?} in it, which no URL can have", text.escape_debug())).help("percent-encode it: a space is `%20`")
            );
        }
        let after_scheme = ["http://", "https://"].iter().find_map(|scheme| {
            let (start, rest) = text.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        });
        let Some(after_scheme) = after_scheme.filter(|rest| !rest.starts_with('/')) else {
            return Err(BuildError::at("", format!("`{text}` is no `http` or `https` address")).help("write it whole: `https://host/path`"));
        };
        let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(BuildError::at("", "a user or password does not belong into an address").help("use a header filled from `${VAR}` instead"));
        }
        let base = url::Url::parse(text).map_err(|error| BuildError::at("", format!("`{text}` is no URL: {error}")))?;
        if base.host_str().is_none_or(str::is_empty) {
            return Err(BuildError::at("", format!("`{text}` has no host")));
        }
        if base.fragment().is_some() {
            return Err(BuildError::at("", format!("`{text}` has a `#` part, which no server ever sees")));
        }
        Ok(Self { text: text.to_owned(), base })
    }

    /// The address itself.
    #[must_use]
    pub fn url(&self) -> TargetUrl {
        TargetUrl(self.base.clone())
    }

    /// The address with further path segments, each percent-encoded whole: a `/` or `..` in a segment stays data.
    ///
    /// # Errors
    ///
    /// When a segment is empty, `.` or `..`, which servers and proxies resolve in their own ways: class `Forbidden`.
    pub fn join<S: AsRef<str>>(&self, segments: impl IntoIterator<Item = S>) -> Result<TargetUrl, crate::EffectError> {
        let mut path = self.base.path().trim_end_matches('/').to_owned();
        for segment in segments {
            let segment = segment.as_ref();
            if segment.is_empty() || is_dot_segment(segment) {
                let message = format!("`{}` cannot stand in the path of a URL", segment.escape_debug());
                return Err(crate::EffectError::new(crate::EffectClass::Forbidden, message));
            }
            path.push('/');
            // Encoded here and not by the URL library, which drops tabs and line breaks first and would then see `..` in `.\n.`.
            path.push_str(&encoded(segment));
        }
        let mut url = self.base.clone();
        url.set_path(&path);
        Ok(TargetUrl(url))
    }

    /// `whole` is this address with path and query filled in. Anything that would lead elsewhere is an error of class `Forbidden`.
    pub(crate) fn with_path_and_query_of(&self, whole: &str) -> Result<TargetUrl, crate::EffectError> {
        let forbidden = || crate::EffectError::new(crate::EffectClass::Forbidden, "the filled-in address is not one of the configured host");
        let url = url::Url::parse(whole).map_err(|error| forbidden().caused_by(error))?;
        let same = url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port() == self.base.port()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none();
        if same { Ok(TargetUrl(url)) } else { Err(forbidden()) }
    }

    /// The host, for records.
    #[must_use]
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }
}

/// Everything but letters, digits, `-`, `.`, `_` and `~`: nothing that is left has a meaning anywhere in a URL.
const NOT_UNRESERVED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A value for one path segment or one part of a query.
pub(crate) fn encoded(value: &str) -> String {
    percent_encoding::utf8_percent_encode(value, NOT_UNRESERVED).to_string()
}

/// `.` and `..`, also as `%2e`.
pub(crate) fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    plain == "." || plain == ".."
}

impl TryFrom<String> for Endpoint {
    type Error = BuildError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.text
    }
}

/// A whole address whose scheme, host and port come from an [`Endpoint`].
#[derive(Clone, PartialEq, Eq)]
pub struct TargetUrl(url::Url);

impl TargetUrl {
    /// Adds `name=value` to the query, encoded.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.0.query_pairs_mut().append_pair(name, value);
        self
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The parsed address.
    #[must_use]
    pub fn as_url(&self) -> &url::Url {
        &self.0
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EffectClass;

    fn host_of(text: &str) -> Option<String> {
        Endpoint::parse(text).ok().map(|endpoint| endpoint.host().to_owned())
    }

    #[test]
    fn thirty_spellings_of_an_address_are_normal_or_refused() {
        let metadata = Some("169.254.169.254".to_owned());
        for (text, expected) in [
            ("http://169.254.169.254/", metadata.clone()),
            ("http://2852039166/", metadata.clone()),
            ("http://0xa9fea9fe/", metadata.clone()),
            ("http://0xA9.0xFE.0xA9.0xFE/", metadata.clone()),
            ("http://0251.0376.0251.0376/", metadata.clone()),
            ("http://169.254.43518/", metadata.clone()),
            ("http://169.16689662/", metadata.clone()),
            ("http://169.254.169.254./", metadata.clone()),
            ("http://\u{ff11}69.254.169.254/", metadata.clone()),
            ("http://169\u{3002}254\u{3002}169\u{3002}254/", metadata.clone()),
            ("http://%31%36%39.254.169.254/", metadata),
            ("http://[::ffff:169.254.169.254]/", Some("[::ffff:a9fe:a9fe]".to_owned())),
            ("http://[::ffff:a9fe:a9fe]/", Some("[::ffff:a9fe:a9fe]".to_owned())),
            ("http://[0:0:0:0:0:ffff:a9fe:a9fe]/", Some("[::ffff:a9fe:a9fe]".to_owned())),
            ("HTTP://EXAMPLE.com/", Some("example.com".to_owned())),
            ("http://b\u{fc}cher.example/", Some("xn--bcher-kva.example".to_owned())),
            ("http://127.1/", Some("127.0.0.1".to_owned())),
            ("http://user@169.254.169.254/", None),
            ("http://good.example@169.254.169.254/", None),
            ("http://good.example:80@169.254.169.254/", None),
            ("http://@169.254.169.254/", None),
            ("http://good.example%40169.254.169.254/", None),
            ("http:\\\\169.254.169.254/", None),
            ("http://good.example\\@169.254.169.254/", None),
            ("http:/169.254.169.254/", None),
            ("http:169.254.169.254/", None),
            ("http:///169.254.169.254/", None),
            ("//169.254.169.254/", None),
            ("http://169.254.169.254 /", None),
            (" http://169.254.169.254/", None),
            ("http://169.254\t.169.254/", None),
            ("ht\ntp://169.254.169.254/", None),
            ("file:///etc/passwd", None),
            ("gopher://169.254.169.254/", None),
            ("http://[fe80::1%25eth0]/", None),
            ("http://256.1.1.1/", None),
            ("http:///", None),
            ("", None),
            ("http://h/#x", None),
        ] {
            assert_eq!(host_of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_template_has_no_place_in_an_endpoint() {
        for text in ["http://{{ key }}/", "http://h/{{ key }}", "http://h/{% if x %}", "{# x #}http://h/"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn joined_segments_are_encoded_whole() {
        let endpoint = Endpoint::parse("http://h:81/api/v1/?k=1").unwrap();
        let joined = |segments: &[&str]| endpoint.join(segments).map(|url| url.to_string());
        assert_eq!(joined(&["runs", "a/b", "c d?e#f%2f"]).unwrap(), "http://h:81/api/v1/runs/a%2Fb/c%20d%3Fe%23f%252f?k=1");
        assert_eq!(joined(&[".\n.", ".\t.", "..\\x", "%2e%2e%2f", "..."]).unwrap(), "http://h:81/api/v1/.%0A./.%09./..%5Cx/%252e%252e%252f/...?k=1");
        assert_eq!(Endpoint::parse("http://h").unwrap().join(["x"]).unwrap().as_str(), "http://h/x");
        assert_eq!(joined(&[]).unwrap(), "http://h:81/api/v1?k=1");
        for bad in ["", ".", "..", "%2e", ".%2E"] {
            assert_eq!(endpoint.join(["a", bad]).unwrap_err().class, EffectClass::Forbidden, "{bad:?}");
        }
    }

    #[test]
    fn a_query_value_adds_no_second_parameter() {
        let url = Endpoint::parse("http://h/x").unwrap().url().query("branch", "a&admin=1#\r\n é").query("n", "1");
        assert_eq!(url.as_str(), "http://h/x?branch=a%26admin%3D1%23%0D%0A+%C3%A9&n=1");
    }

    #[test]
    fn an_endpoint_survives_serde_as_it_was_written() {
        let endpoint: Endpoint = serde_json::from_str("\"http://Example.com/a\"").unwrap();
        assert_eq!(serde_json::to_string(&endpoint).unwrap(), "\"http://Example.com/a\"");
        assert_eq!(endpoint.url().as_str(), "http://example.com/a");
    }

    #[test]
    fn an_argument_vector_is_shown_quoted_where_needed() {
        let argv: Vec<String> = ["pytest", "-q", "", "a b", "it's", "x\ny", "$(id)"].map(str::to_owned).to_vec();
        assert_eq!(display_argv(&argv), r"pytest -q '' 'a b' 'it'\''s' 'x\ny' '$(id)'");
    }
}
