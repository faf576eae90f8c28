//! HTTP calls: one client, no redirects, no decompression, a limit for every part.
//!
//! What an event can reach is decided before: a [`router_api::TargetUrl`] has the configuration's host. Here the rest is kept out:
//! headers that split a request, answers without end, names that stand for addresses of credentials.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use router_api::{EffectClass, EffectContext, EffectError, HttpReply, HttpRequest, Method};
use tokio::time::{Instant, timeout_at};

use crate::{
    PerformerOptions,
    resolver::{Filtered, ForbiddenAddress},
};

/// Of one request.
const HEADERS_MAX: usize = 100;
/// Of one header's value.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// How long a connection waits for its next call. Short, since a server that closes it first costs a try.
const IDLE_MAX: Duration = Duration::from_secs(20);
const IDLE_PER_HOST_MAX: usize = 8;

/// Headers that the client writes itself, or that would lead the request elsewhere than its address says.
const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why the HTTP client cannot be built.
pub(crate) type BuildFailure = reqwest::Error;

/// The client of all routes.
pub(crate) struct HttpClient {
    client: reqwest::Client,
    /// Why `https` cannot work on this machine, if it cannot.
    https_fault: Option<String>,
    connect_timeout: Duration,
    reply_bytes_max: usize,
    request_bytes_max: usize,
}

impl HttpClient {
    pub(crate) fn new(options: &PerformerOptions) -> Result<Self, BuildFailure> {
        // Another part of the program may have been first; then it is there, which is all that counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (client, https_fault) = match builder(options)?.build() {
            Ok(client) => (client, None),
            Err(error) => {
                // A machine without certificates can still call plain `http`; an empty store lets no `https` through.
                let client = builder(options)?.tls_certs_only([]).build()?;
                let fault = deepest(&error);
                tracing::warn!(%fault, "https calls will fail: install the CA certificates of your system");
                (client, Some(fault))
            }
        };
        Ok(Self {
            client,
            https_fault,
            connect_timeout: options.connect_timeout,
            reply_bytes_max: options.reply_bytes_max,
            request_bytes_max: options.request_bytes_max,
        })
    }

    /// Would the call be refused for what it says?
    pub(crate) fn check(&self, request: &HttpRequest) -> Result<HeaderMap, EffectError> {
        if request.body.len() > self.request_bytes_max {
            let message = format!("the request's body is {} bytes long, {} are the limit", request.body.len(), self.request_bytes_max);
            return Err(EffectError::new(EffectClass::Refused, message));
        }
        headers_of(request)
    }

    pub(crate) async fn call(&self, request: HttpRequest, cx: &EffectContext) -> Result<HttpReply, EffectError> {
        let headers = self.check(&request)?;
        let origin = request.url.as_url().origin().ascii_serialization();
        if let Some(fault) = self.https_fault.as_ref().filter(|_| request.url.as_url().scheme() == "https") {
            return Err(EffectError::new(EffectClass::Unreachable, format!("`{origin}` cannot be called from this machine: {fault}")));
        }
        // A little less than what is left, so that the answer is ours and not the end of the handling.
        let available = cx.remaining.saturating_sub((cx.remaining / 20).min(Duration::from_millis(100)));
        let limit = request.timeout.map_or(available, |timeout| timeout.min(available));
        let deadline = Instant::now() + limit;
        tokio::select! {
            biased;
            () = cx.cancellation.cancelled() => Err(EffectError::new(EffectClass::Cancelled, format!("the call to `{origin}` was cancelled"))),
            result = timeout_at(deadline, self.exchange(request, headers, &origin)) => result.unwrap_or_else(|_| {
                Err(EffectError::new(EffectClass::Timeout, format!("`{origin}` gave no whole answer within {limit:?}")))
            }),
        }
    }

    async fn exchange(&self, request: HttpRequest, headers: HeaderMap, origin: &str) -> Result<HttpReply, EffectError> {
        let fail = |error: reqwest::Error| classified(error, origin, self.connect_timeout);
        let mut response =
            self.client.request(method(request.method), request.url.as_url().clone()).headers(headers).body(request.body).send().await.map_err(fail)?;
        let status = response.status().as_u16();
        let headers =
            response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
        let mut body = BytesMut::new();
        while body.len() < self.reply_bytes_max {
            let Some(chunk) = response.chunk().await.map_err(fail)? else { break };
            body.extend_from_slice(&chunk[..chunk.len().min(self.reply_bytes_max - body.len())]);
        }
        // Dropping an unfinished answer closes its connection.
        Ok(HttpReply { status, headers, body: Bytes::from(body) })
    }
}

fn builder(options: &PerformerOptions) -> Result<reqwest::ClientBuilder, BuildFailure> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("event-router/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .no_proxy()
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .dns_resolver(Arc::new(Filtered { inner: Arc::clone(&options.resolver) }));
    match &options.proxy {
        Some(proxy) => Ok(builder.proxy(reqwest::Proxy::all(proxy)?)),
        None => Ok(builder),
    }
}

fn method(method: Method) -> http::Method {
    match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
    }
}

/// The headers, if none of them can split the request or lead it elsewhere.
fn headers_of(request: &HttpRequest) -> Result<HeaderMap, EffectError> {
    let forbidden = |message: String| Err(EffectError::new(EffectClass::Forbidden, message));
    if request.headers.len() > HEADERS_MAX {
        return forbidden(format!("the request has {} headers, {HEADERS_MAX} are the limit", request.headers.len()));
    }
    let mut headers = HeaderMap::new();
    for header in &request.headers {
        let shown_name = header.name.escape_debug();
        let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) else {
            return forbidden(format!("`{shown_name}` is no name of a header"));
        };
        if OWN_HEADERS.contains(&name.as_str()) {
            return forbidden(format!("the header `{name}` is not for a plugin to set"));
        }
        if header.value.len() > HEADER_BYTES_MAX {
            return forbidden(format!("the value of the header `{name}` is {} bytes long, {HEADER_BYTES_MAX} are the limit", header.value.len()));
        }
        // The value itself stays out of the sentence: it may be a secret.
        if let Some(odd) = header.value.chars().find(|c| !matches!(c, ' '..='~')) {
            return forbidden(format!("the value of the header `{name}` has {odd:?} in it; only visible ASCII and spaces can be sent"));
        }
        let Ok(mut value) = HeaderValue::from_str(&header.value) else {
            return forbidden(format!("the value of the header `{name}` cannot be sent"));
        };
        value.set_sensitive(header.secret);
        headers.append(name, value);
    }
    Ok(headers)
}

fn classified(error: reqwest::Error, origin: &str, connect_timeout: Duration) -> EffectError {
    // The address can hold secrets (a webhook's token in its path): only the origin is ever named.
    let error = error.without_url();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<ForbiddenAddress>() {
            return EffectError::new(EffectClass::Forbidden, inner.to_string());
        }
        cause = inner.source();
    }
    let (class, message) = if error.is_connect() && error.is_timeout() {
        // Nothing was sent, so nothing is in doubt: the target is down.
        (EffectClass::Unreachable, format!("`{origin}` could not be reached within {connect_timeout:?}"))
    } else if error.is_connect() || error.is_dns() {
        (EffectClass::Unreachable, format!("`{origin}` could not be reached: {}", deepest(&error)))
    } else if error.is_timeout() {
        (EffectClass::Timeout, format!("`{origin}` gave no answer in time"))
    } else if error.is_builder() {
        (EffectClass::Forbidden, format!("the request to `{origin}` cannot be sent: {}", deepest(&error)))
    } else {
        (EffectClass::Failed, format!("the call to `{origin}` broke off: {}", deepest(&error)))
    };
    EffectError::new(class, message).caused_by(error)
}

/// The innermost cause, which says the most.
fn deepest(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(inner) = deepest.source() {
        deepest = inner;
    }
    deepest.to_string().escape_debug().to_string()
}
