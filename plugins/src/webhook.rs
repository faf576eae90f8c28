//! `webhook`: the event, or a body made of it, to a URL of the operator's, signed if wanted. The signatures are in `webhook/signature.rs`.

pub mod signature;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use router_api::{
    BuildContext, BuildError, Context, EffectError, Envelope, Handler, HandlerError, HttpReply, HttpRequest, JsonTemplate, Method, Outcome, Plugin, Scope,
    Template, UrlTemplate, register,
};
use schemars::JsonSchema;
use serde::Deserialize;

use self::signature::{Signer, Signing};

/// Sends each event, or each burst, to a URL.
///
/// An answer of 2xx means done. 408, 425, 429 and 5xx are tried again, not before the time that `Retry-After` asks for; 502, 503
/// and 504 stop the route for a while, since the target is down for every event. Everything else, redirects and 410 included, sends the
/// event to the dead letters. The header `Idempotency-Key` is the same for every repeat of one event on this route, so that the
/// receiver can tell a repeat: after a crash or a lost answer there may be one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to, such as `https://ci.example/hooks/{{ session_id }}?branch={{ git_branch }}`. Scheme, host and port are literal;
    /// templates may stand in the path and the query, and are percent-encoded whole.
    url: UrlTemplate,
    /// `POST` (the default), `PUT`, `PATCH`, `DELETE` or `GET`.
    #[serde(default = "method")]
    method: Method,
    /// Headers, such as `x-session = "{{ session_id }}"`. Names are literal, values may be templates.
    #[serde(default)]
    headers: BTreeMap<String, Template>,
    /// Headers whose values are never shown, such as `authorization = "Bearer ${CI_TOKEN}"`. No templates.
    #[serde(default)]
    secret_headers: BTreeMap<String, String>,
    /// The body, as a tree whose texts are templates; this is how an event is transformed for its receiver: `body = { text = "{{ tool_name }}", n = "{{ events }}" }`. A text that is one
    /// template and nothing else keeps the field's type. Default: what `send` says.
    body: Option<JsonTemplate>,
    /// What is sent without `body`: `event` (the newest event, byte for byte as it came, the default) or `burst` (a JSON array of all
    /// events of the burst, oldest first).
    send: Option<Send>,
    /// Signs the body, so that the receiver can tell that it comes from here.
    hmac: Option<Signing>,
    /// How long one request may take, in milliseconds. Default: 15000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Send {
    Event,
    Burst,
}

fn method() -> Method {
    Method::Post
}

fn timeout_ms() -> u64 {
    15_000
}

/// Headers that the plugin or the connection sets itself.
const OWN_HEADERS: &[&str] = &["idempotency-key", "content-length", "host", "transfer-encoding", "connection"];

#[async_trait]
impl Plugin for Webhook {
    const NAME: &'static str = "webhook";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        let signer = self.hmac.map(|signing| error.collect(Signer::new(signing).map_err(|error| error.under("hmac"))));
        let mut told = |field: String, message: String, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        let signed_by = signer.as_ref().and_then(Option::as_ref).map_or(&[][..], Signer::header_names);
        let named = self.headers.keys().map(|name| ("headers", name)).chain(self.secret_headers.keys().map(|name| ("secret_headers", name)));
        let mut seen = std::collections::BTreeSet::new();
        for (table, name) in named {
            let lower = name.to_ascii_lowercase();
            let field = format!("{table}.{name}");
            if !is_header_name(name) {
                told(field, format!("`{name}` is no name of a header"), "use letters, digits and `-`");
            } else if OWN_HEADERS.contains(&lower.as_str()) || signed_by.contains(&lower.as_str()) {
                told(field, format!("`{name}` is set by the plugin itself"), "remove it");
            } else if !seen.insert(lower) {
                told(field, format!("`{name}` is given twice"), "names of headers do not distinguish upper and lower case; keep one of them");
            }
        }
        for (name, value) in &self.secret_headers {
            if value.contains("{{") {
                told(format!("secret_headers.{name}"), "is not filled in from events".into(), "put what varies into `headers`, or write `${VAR}` for a secret");
            } else if !value.chars().all(|c| (' '..='~').contains(&c)) {
                told(
                    format!("secret_headers.{name}"),
                    "has a character that a header cannot carry".into(),
                    "a line break at the end of a secret's file is the usual cause",
                );
            }
        }
        if self.body.is_some() && self.send.is_some() {
            told("send".into(), "has no effect beside `body`".into(), "remove one of them; a body can use `{{ burst }}`");
        }
        if matches!(self.method, Method::Get | Method::Head) && (self.body.is_some() || self.send.is_some() || signer.is_some()) {
            told("method".into(), format!("`{}` sends no body", self.method), "use `POST`, or remove `body`, `send` and `hmac`");
        }
        if self.timeout_ms == 0 {
            told("timeout_ms".into(), "0 leaves no time to answer".into(), "leave it out for 15000");
        }
        error.into_result()?;
        Ok(Box::new(Hook {
            url: self.url,
            method: self.method,
            headers: self.headers,
            secret_headers: self.secret_headers,
            body: match (self.body, self.send) {
                _ if matches!(self.method, Method::Get | Method::Head) => Body::Empty,
                (Some(template), _) => Body::Template(template),
                (None, Some(Send::Burst)) => Body::Burst,
                (None, _) => Body::Event,
            },
            signer: signer.flatten(),
            timeout: Duration::from_millis(self.timeout_ms),
        }))
    }
}

enum Body {
    Empty,
    Event,
    Burst,
    Template(JsonTemplate),
}

struct Hook {
    url: UrlTemplate,
    method: Method,
    headers: BTreeMap<String, Template>,
    secret_headers: BTreeMap<String, String>,
    body: Body,
    signer: Option<Signer>,
    timeout: Duration,
}

impl Hook {
    fn request(&self, event: &Envelope, cx: &Context) -> Result<HttpRequest, EffectError> {
        let scope = Scope::of(event, cx);
        let mut request = HttpRequest::new(self.method, self.url.render(&scope)?).timeout(self.timeout).header("idempotency-key", cx.idempotency_key());
        request.body = match &self.body {
            Body::Empty => Bytes::new(),
            Body::Event => event.raw().clone(),
            Body::Burst => array(cx.burst().iter().map(|event| event.raw())),
            Body::Template(template) => template.render(&scope)?.to_string().into(),
        };
        let names_content_type = self.headers.keys().chain(self.secret_headers.keys()).any(|name| name.eq_ignore_ascii_case("content-type"));
        if !names_content_type && !matches!(self.body, Body::Empty) {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name.clone(), value.render(&scope)?);
        }
        for (name, value) in &self.secret_headers {
            request = request.secret_header(name.clone(), value.clone());
        }
        if let Some(signer) = &self.signer {
            for (name, value) in signer.headers(cx.idempotency_key(), cx.now(), cx.key().as_str(), &request.body) {
                // Different with each try, so they say nothing of what is asked for: a repetition is recognised without them.
                request = request.secret_header(name, value);
            }
        }
        Ok(request)
    }
}

#[async_trait]
impl Handler for Hook {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let reply = cx.http(self.request(event, cx)?).named("webhook").await?;
        let asked_until = retry_after_date(&reply, cx);
        let reply = reply.ok().map_err(|mut error| {
            error.retry_after = error.retry_after.or(asked_until);
            error
        })?;
        cx.note(format!("answered {}", reply.status));
        Ok(Outcome::Done)
    }
}

/// `Retry-After` as a date, its second form; the number of seconds is understood by [`HttpReply::ok`].
fn retry_after_date(reply: &HttpReply, cx: &Context) -> Option<Duration> {
    let date = jiff::fmt::rfc2822::parse(reply.header("retry-after")?.trim()).ok()?.timestamp();
    let until = date.duration_since(cx.now());
    Duration::try_from(until).ok()
}

fn array<'b>(bodies: impl Iterator<Item = &'b Bytes>) -> Bytes {
    let mut array = BytesMut::new();
    array.put_u8(b'[');
    for (index, body) in bodies.enumerate() {
        if index > 0 {
            array.put_u8(b',');
        }
        array.put_slice(body);
    }
    array.put_u8(b']');
    array.freeze()
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

register!(Webhook);
