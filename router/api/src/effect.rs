//! Outside work that a handler asks for, as data: HTTP calls, commands, and named pieces of a plugin's own I/O.
//!
//! A handler describes the work; the [`EffectPort`] of the handling performs it, or in a dry run records it. What may never
//! happen is kept out by the types: a [`crate::Program`] and an [`crate::Endpoint`] come from the configuration only, so event
//! data chooses neither the program nor the host.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BoxError, BoxFuture, BuildError, Cancellation, Program};

/// Does an effect change anything outside?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKind {
    /// Changes nothing, so it is performed in a dry run too and never stored.
    Read,
    /// Changes something: recorded instead of performed in a dry run.
    Write,
}

/// One piece of outside work.
#[derive(Debug, Clone)]
pub struct Effect {
    /// Names it within the handling, for records: `launch`, `run`. Defaults to `http` or `command`.
    pub name: String,
    /// Read or write.
    pub kind: EffectKind,
    /// What to do.
    pub request: EffectRequest,
    /// The answer with which a dry run goes on; without one a write ends the dry run as a success.
    pub dry_run_reply: Option<EffectReply>,
}

/// What to do.
#[derive(Debug, Clone)]
pub enum EffectRequest {
    /// Call a URL.
    Http(HttpRequest),
    /// Run a program.
    Command(CommandRequest),
    /// A plugin's own I/O; `input` is what it depends on, for records.
    Own {
        /// Anything that serializes.
        input: Value,
    },
}

impl fmt::Display for EffectRequest {
    /// One line for people: `would run: {…}` reads well with it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(request) => write!(f, "{} {}", request.method, request.url),
            Self::Command(request) => f.write_str(&crate::display_argv(&request.display_argv())),
            Self::Own { input } => write!(f, "{input}"),
        }
    }
}

/// What came of an effect.
#[derive(Debug, Clone, PartialEq)]
pub enum EffectReply {
    /// To [`EffectRequest::Http`].
    Http(HttpReply),
    /// To [`EffectRequest::Command`].
    Command(CommandReply),
    /// To [`EffectRequest::Own`].
    Own(Value),
}

/// An HTTP method that effects may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        })
    }
}

/// An HTTP call. Redirects are never followed.
#[derive(Clone)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// The whole address. Only [`crate::Endpoint`] makes one, so its scheme, host and port are those of the configuration.
    pub url: crate::TargetUrl,
    /// Header names and values; values that are secrets are marked so.
    pub headers: Vec<HttpHeader>,
    /// The body.
    pub body: Bytes,
    /// For the whole call; the handling's deadline is a limit anyway.
    pub timeout: Option<Duration>,
}

/// One header of a request.
#[derive(Clone)]
pub struct HttpHeader {
    /// Its name.
    pub name: String,
    /// Its value: visible ASCII and spaces.
    pub value: String,
    /// Never shown in records or logs.
    pub secret: bool,
}

impl HttpRequest {
    /// A request without body.
    #[must_use]
    pub fn new(method: Method, url: crate::TargetUrl) -> Self {
        Self { method, url, headers: Vec::new(), body: Bytes::new(), timeout: None }
    }

    /// Adds a header. A value that could split the request is refused when the effect is performed.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(HttpHeader { name: name.into(), value: value.into(), secret: false });
        self
    }

    /// Adds a header whose value is never shown.
    #[must_use]
    pub fn secret_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(HttpHeader { name: name.into(), value: value.into(), secret: true });
        self
    }

    /// Sends `body` as JSON.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        let mut with_body = self.header("content-type", "application/json");
        with_body.body = Bytes::from(body.to_string());
        with_body
    }

    /// Limits the whole call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |header: &HttpHeader| (header.name.clone(), if header.secret { "[redacted]".to_owned() } else { header.value.clone() });
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("headers", &self.headers.iter().map(shown).collect::<Vec<_>>())
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status code.
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body, cut at the performer's limit (1 MiB unless configured).
    pub body: Bytes,
}

impl HttpReply {
    /// A made-up answer, for dry runs and tests.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// The first header of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn json(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// How long the server wants to be left alone: `Retry-After` in seconds, or as a date less the answer's own `Date`, so that
    /// our clock does not matter. At most a day; what cannot be read counts as absent.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
        let text = self.header("retry-after")?.trim();
        let asked = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            // More digits than a number has are a long time, too.
            Duration::from_secs(text.parse().unwrap_or(u64::MAX))
        } else {
            let date = |text: &str| jiff::fmt::rfc2822::parse(text.trim()).ok().map(|zoned| zoned.timestamp());
            let (until, now) = (date(text)?, date(self.header("date")?)?);
            Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO)
        };
        Some(asked.min(RETRY_AFTER_MAX))
    }

    /// The reply itself when its status is 2xx, else the error class that fits the status.
    ///
    /// Down for everybody (`Unreachable`): 502, 503, 504. Try again (`Failed`, `Busy` with `Retry-After`): 408, 425, 429 and
    /// other 5xx. Never again (`Refused`): everything else, redirects included.
    ///
    /// # Errors
    ///
    /// When the status is not 2xx.
    pub fn ok(self) -> Result<Self, EffectError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let class = match self.status {
            502..=504 => EffectClass::Unreachable,
            429 => EffectClass::Busy,
            408 | 425 | 500..=599 => EffectClass::Failed,
            _ => EffectClass::Refused,
        };
        let retry_after = self.retry_after();
        let mut error = EffectError::new(class, format!("the server answered {}", self.status));
        error.retry_after = retry_after;
        error.detail = Some(excerpt(&self.body));
        Err(error)
    }
}

/// The beginning of a reply for a person, in at most 1,200 bytes.
#[must_use]
pub fn excerpt(body: &[u8]) -> String {
    const EXCERPT_BYTES_MAX: usize = 1_200;
    let cut = &body[..body.len().min(EXCERPT_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if body.len() > cut.len() {
        text.push('…');
    }
    text
}

/// A program to run: an argument vector, never a shell line.
#[derive(Debug, Clone)]
pub struct CommandRequest {
    /// From the configuration.
    pub program: Program,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Where to run; the router's own directory if absent.
    pub cwd: Option<std::path::PathBuf>,
    /// Where `cwd` may lie: in one of these directories or below, symbolic links resolved. Anywhere, if empty. Set it whenever an
    /// event chose `cwd`.
    pub below: Vec<std::path::PathBuf>,
    /// Variables beside the allow-list. Names are from the configuration.
    pub env: Vec<(String, String)>,
    /// Written to the standard input, which is then closed; without it, the input is empty.
    pub stdin: Option<Bytes>,
    /// For the whole run; the handling's deadline is a limit anyway.
    pub timeout: Option<Duration>,
    /// Asks a program that stays, instead of starting one for this request: `stdin` is a line for it, and `timeout` is for its answer.
    pub keep_alive: Option<crate::KeepAlive>,
}

impl CommandRequest {
    /// Runs `program` without arguments.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self { program, args: Vec::new(), cwd: None, below: Vec::new(), env: Vec::new(), stdin: None, timeout: None, keep_alive: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets the directory.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<std::path::PathBuf>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Confines the directory: see [`CommandRequest::below`].
    #[must_use]
    pub fn below(mut self, roots: impl IntoIterator<Item = std::path::PathBuf>) -> Self {
        self.below = roots.into_iter().collect();
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Writes `input` to the standard input.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Bytes>) -> Self {
        self.stdin = Some(input.into());
        self
    }

    /// Asks a program that stays: see [`CommandRequest::keep_alive`].
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: crate::KeepAlive) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// Limits the run.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The vector as a person would type it: the program as configured, then the arguments.
    #[must_use]
    pub fn display_argv(&self) -> Vec<String> {
        std::iter::once(self.program.name().to_owned()).chain(self.args.iter().cloned()).collect()
    }
}

/// How a command ended, whatever its exit code.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandReply {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The end of what it printed, cut at the performer's limit (64 KiB unless configured).
    pub stdout: Bytes,
    /// The end of what it printed to the standard error, cut likewise.
    pub stderr: Bytes,
    /// Bytes that the limit cut off, of both.
    pub bytes_cut: u64,
    /// How long it ran.
    pub elapsed: Duration,
}

impl CommandReply {
    /// A made-up answer with an exit code, for dry runs and tests.
    #[must_use]
    pub fn exit(code: i32) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// True for exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The reply itself for exit code 0, else an error of class `Failed` with the end of the output.
    ///
    /// # Errors
    ///
    /// When the code is not 0.
    pub fn ok(self) -> Result<Self, EffectError> {
        if self.success() {
            return Ok(self);
        }
        let ended = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended without an exit code".to_owned(),
        };
        let output = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        let message = match last_line(output) {
            Some(said) => format!("{ended}: {said}"),
            None => ended,
        };
        let mut error = EffectError::new(EffectClass::Failed, message);
        error.detail = Some(excerpt(&output[output.len().saturating_sub(1_200)..]));
        Err(error)
    }
}

/// The last line of an output that says something, shortened, with what a terminal would obey escaped: the reason of a failure
/// stands there more often than anywhere else.
#[must_use]
pub fn last_line(output: &[u8]) -> Option<String> {
    const CHARS_MAX: usize = 160;
    /// More of the end is not looked at.
    const BYTES_MAX: usize = 16 * 1024;
    let text = String::from_utf8_lossy(&output[output.len().saturating_sub(BYTES_MAX)..]);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let mut said = String::new();
    for letter in line.chars().take(CHARS_MAX) {
        // Beside the control characters those that hide or turn the direction of writing.
        let hidden = matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if letter == '\t' {
            said.push(' ');
        } else if letter.is_control() || hidden {
            said.extend(letter.escape_unicode());
        } else {
            said.push(letter);
        }
    }
    if line.chars().nth(CHARS_MAX).is_some() {
        said.push('…');
    }
    Some(said)
}

/// The kinds of failure that an effect can have; each has its own default consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectClass {
    /// Connection refused, unknown host, 502 to 504: down for every event. The route pauses.
    Unreachable,
    /// No answer in time; the outcome is unknown. Try again.
    Timeout,
    /// Asked to slow down (429). Try again, after `retry_after` if given.
    Busy,
    /// Failed this time. Try again.
    Failed,
    /// Refused for good: to the dead letters.
    Refused,
    /// Not allowed by our own rules (a target off the allow-list, a hostile argument): to the dead letters.
    Forbidden,
    /// The handling was cancelled; no attempt is counted.
    Cancelled,
    /// A dry run came to a write: the handling ends here, as a success.
    DryRun,
}

/// Why an effect did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EffectError {
    /// Decides what happens next.
    pub class: EffectClass,
    /// A lowercase fragment for people.
    pub message: String,
    /// What the target said, shortened, for the dead letter.
    pub detail: Option<String>,
    /// How long the target wants to be left alone.
    pub retry_after: Option<Duration>,
    /// The cause.
    #[source]
    pub source: Option<BoxError>,
}

impl EffectError {
    /// An error without cause or detail.
    #[must_use]
    pub fn new(class: EffectClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), detail: None, retry_after: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// A plugin's own I/O, not begun yet.
pub type OwnWork<'a> = Box<dyn FnOnce() -> BoxFuture<'a, Result<Value, BoxError>> + Send + 'a>;

/// For whom an effect is performed.
#[derive(Debug, Clone)]
pub struct EffectContext {
    /// The route.
    pub route: String,
    /// Unique to the handling; children carry it, so that all of them can be found and ended.
    pub handling: String,
    /// How much time is left for the handling.
    pub remaining: Duration,
    /// Ends the work early.
    pub cancellation: Cancellation,
}

/// Performs effects. Implemented for real work, for dry runs, and by test kits.
#[async_trait]
pub trait EffectPort: Send + Sync + 'static {
    /// Performs `effect`; `work` is there exactly for [`EffectRequest::Own`].
    ///
    /// # Errors
    ///
    /// An HTTP answer of any status and a command's end with any exit code are replies, not errors.
    async fn perform(&self, effect: Effect, work: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError>;

    /// Would `effect` be refused for what it says: a header that splits the request, a variable that no child may have, a NUL? Asked
    /// before a write is recorded in a dry run, so that the dry run fails where the live run would. Does nothing outside.
    ///
    /// # Errors
    ///
    /// Class `Forbidden` or `Refused`, as [`EffectPort::perform`] would answer.
    fn check(&self, effect: &Effect) -> Result<(), EffectError> {
        let _ = effect;
        Ok(())
    }

    /// Ends what an earlier process of this router left running for a handling before it died, so that the handling does not run
    /// twice at once. Called before such a handling is tried again.
    async fn end_leftovers(&self, handling: &str) {
        let _ = handling;
    }

    /// Ends what is kept alive ([`crate::KeepAlive`]), orderly and within a stated time, and starts no more of it. For the end of the
    /// router, after its last handling.
    async fn close(&self) {}

    /// Finds a program at load, so that a later change of `PATH` or an event cannot choose another.
    ///
    /// # Errors
    ///
    /// When there is none, with the places that were searched. A dry run goes on with an unresolved one.
    fn resolve_program(&self, name: &str, base_dir: &std::path::Path) -> Result<Program, BuildError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)]) -> HttpReply {
        HttpReply { headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(), ..HttpReply::new(status, "why") }
    }

    #[test]
    fn the_status_decides_the_class() {
        for (status, class) in [
            (301, EffectClass::Refused),
            (400, EffectClass::Refused),
            (404, EffectClass::Refused),
            (408, EffectClass::Failed),
            (425, EffectClass::Failed),
            (429, EffectClass::Busy),
            (500, EffectClass::Failed),
            (502, EffectClass::Unreachable),
            (504, EffectClass::Unreachable),
        ] {
            let error = reply(status, &[]).ok().unwrap_err();
            assert_eq!((error.class, error.detail.as_deref()), (class, Some("why")), "{status}");
        }
        assert!(reply(204, &[]).ok().is_ok());
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_has_a_limit() {
        let asked = |headers: &[(&str, &str)]| reply(429, headers).ok().unwrap_err().retry_after.map(|delay| delay.as_secs());
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        assert_eq!(asked(&[("retry-after", " 120 ")]), Some(120));
        assert_eq!(asked(&[("retry-after", "Wed, 21 Oct 2026 07:30:00 GMT"), date]), Some(120));
        assert_eq!(asked(&[("retry-after", "Wed, 21 Oct 2026 07:00:00 GMT"), date]), Some(0), "in the past is now");
        assert_eq!(asked(&[("retry-after", "99999999999999999999999")]), Some(86_400));
        assert_eq!(asked(&[("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT"), date]), Some(86_400));
        for unreadable in ["", "soon", "-1", "1.5", "Wed, 99 Oct"] {
            assert_eq!(asked(&[("retry-after", unreadable), date]), None, "{unreadable:?}");
        }
        assert_eq!(asked(&[("retry-after", "Wed, 21 Oct 2026 07:30:00 GMT")]), None, "without a date of its own");
    }

    #[test]
    fn secret_headers_stay_out_of_debug_output() {
        let url = crate::Endpoint::parse("http://h/").unwrap().url();
        let request = HttpRequest::new(Method::Post, url).header("x-plain", "shown").secret_header("authorization", "Bearer s3cret");
        let shown = format!("{request:?}");
        assert!(shown.contains("shown") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_failed_command_carries_the_end_of_its_output() {
        let output = format!("{}the end", "x".repeat(5_000));
        let error = CommandReply { stderr: output.into(), ..CommandReply::exit(3) }.ok().unwrap_err();
        let last = format!("exit code 3: {}…", "x".repeat(160));
        assert_eq!((error.class, error.message.as_str()), (EffectClass::Failed, last.as_str()));
        assert!(error.detail.is_some_and(|detail| detail.ends_with("the end") && detail.len() < 1_300));
        let error = CommandReply { signal: Some(9), ..CommandReply::default() }.ok().unwrap_err();
        assert_eq!(error.message, "ended by signal 9");
    }

    #[test]
    fn the_error_of_a_command_ends_with_the_last_line_that_it_said() {
        let message = |stdout: &'static str, stderr: &'static str| {
            CommandReply { stdout: stdout.into(), stderr: stderr.into(), ..CommandReply::exit(1) }.ok().unwrap_err().message
        };
        assert_eq!(message("on stdout", "Traceback\n  cannot frobnicate \n\n"), "exit code 1: cannot frobnicate");
        assert_eq!(message("only on stdout\n", " \n"), "exit code 1: only on stdout");
        assert_eq!(message("", ""), "exit code 1");
        assert_eq!(message("", "a\u{1b}[31m red\u{202e}\u{9b}"), "exit code 1: a\\u{1b}[31m red\\u{202e}\\u{9b}");
    }
}
