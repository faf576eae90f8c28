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
#[schemars(with = "String")]
pub struct Endpoint {
    text: String,
    base: url::Url,
}

impl Endpoint {
    /// Reads an address from the configuration.
    ///
    /// # Errors
    ///
    /// When it is no absolute `http` or `https` URL with a host, or carries a password or a template.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        if text.contains("{{") || text.contains("{%") {
            return Err(BuildError::at("", format!("`{text}` has a template: a base address is fixed, so that no event can choose where a request goes"))
                .help("put what varies into the path options of the plugin"));
        }
        let base = url::Url::parse(text).map_err(|error| BuildError::at("", format!("`{text}` is no URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(BuildError::at("", format!("`{text}` is no `http` or `https` address")));
        }
        if base.password().is_some() || !base.username().is_empty() {
            return Err(BuildError::at("", "a user or password does not belong into an address").help("use a header filled from `${VAR}` instead"));
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
    /// When a segment is empty, `.` or `..`, which servers and proxies resolve in their own ways.
    pub fn join<S: AsRef<str>>(&self, segments: impl IntoIterator<Item = S>) -> Result<TargetUrl, crate::EffectError> {
        let mut url = self.base.clone();
        {
            let mut path = url.path_segments_mut().expect("an http URL can have a path");
            path.pop_if_empty();
            for segment in segments {
                let segment = segment.as_ref();
                if segment.is_empty() || segment == "." || segment == ".." {
                    return Err(crate::EffectError::new(crate::EffectClass::Forbidden, format!("`{segment}` cannot stand in the path of a URL")));
                }
                path.push(segment);
            }
        }
        Ok(TargetUrl(url))
    }

    /// The host, for records.
    #[must_use]
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }
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
