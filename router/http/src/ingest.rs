//! Taking an event in: content type, size, routing key, and the answer that means "it is safe".
//!
//! Shared by the TCP door and the socket.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Query, Request, State},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use router_api::{Admin, DecodeError, DecodeLimits, Destination, Envelope, Publication};
use serde::Deserialize;

use crate::wire::{ErrorAnswer, ErrorKind, PublishedAnswer, key_of};

/// What taking in needs.
#[derive(Clone)]
pub(crate) struct Ingest {
    pub(crate) admin: Arc<dyn Admin>,
    pub(crate) limits: DecodeLimits,
    /// For the whole body.
    pub(crate) body_timeout: Duration,
    /// For the transport to make the event safe.
    pub(crate) publish_timeout: Duration,
    /// May the sender address one route alone?
    pub(crate) addressing: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IngestQuery {
    key: Option<String>,
    route: Option<String>,
    delay_ms: Option<u64>,
}

/// `POST /events`.
pub(crate) async fn post_event(
    State(ingest): State<Ingest>,
    query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Response {
    // The parser goes by the encoding and drops a length that stands beside it. Both together are how requests are smuggled, so
    // nothing more is read from such a connection.
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = match take_in(&ingest, query, request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(answer) => answer.into_response(),
    };
    if chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn take_in(
    ingest: &Ingest,
    query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Result<PublishedAnswer, ErrorAnswer> {
    let bad = |message: String| ErrorAnswer::new(ErrorKind::BadRequest, message);
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    check_content_type(request.headers())?;
    let to = destination(ingest, &query)?;
    let (parts, body) = request.into_parts();
    let body = read_body(&parts.headers, body, ingest.limits.body_bytes_max, ingest.body_timeout).await?;
    let key = key_of(query.key.as_deref(), &body).map_err(bad)?;
    let envelope = Envelope::decode(key.clone(), body.clone(), ingest.limits).map_err(|error| match error {
        DecodeError::TooLarge { .. } => ErrorAnswer::new(ErrorKind::TooLarge, error.to_string()),
        _ => bad(error.to_string()),
    })?;
    let event_id = envelope.id().map(|id| id.as_str().to_owned());
    drop(envelope);
    let publication = Publication { to, hops: hops(&parts.headers), traceparent: traceparent(&parts.headers), ..Publication::new(key.clone(), body) };
    // In a task of its own: a sender that hangs up does not undo half of what was begun.
    let admin = Arc::clone(&ingest.admin);
    let publishing = tokio::spawn(async move { admin.publish(publication).await });
    match tokio::time::timeout(ingest.publish_timeout, publishing).await {
        Ok(Ok(Ok(published))) => Ok(PublishedAnswer { schema: PublishedAnswer::SCHEMA.into(), key, event_id, seq: published.seq, routed: published.routed }),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(_)) => Err(ErrorAnswer::new(ErrorKind::Unavailable, "taking the event in was broken off; it may or may not be stored: send it again")),
        Err(_) => Err(ErrorAnswer::new(ErrorKind::Unavailable, "the event is not known to be stored in time: send it again")),
    }
}

/// Only JSON that says so. A web page can send the other types anywhere without being asked.
fn check_content_type(headers: &HeaderMap) -> Result<(), ErrorAnswer> {
    let refused = |found: &str| ErrorAnswer::new(ErrorKind::UnsupportedMediaType, format!("{found}, where `Content-Type: application/json` is needed"));
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Err(refused("no `Content-Type`")) };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    if json { Ok(()) } else { Err(refused(&format!("`Content-Type: {}`", kind.escape_debug()))) }
}

fn destination(ingest: &Ingest, query: &IngestQuery) -> Result<Destination, ErrorAnswer> {
    match (&query.route, query.delay_ms) {
        (None, None) => Ok(Destination::Subscribers),
        (Some(route), delay_ms) if ingest.addressing => {
            let route = route.parse().map_err(|error: router_api::RouteNameError| ErrorAnswer::new(ErrorKind::BadRequest, error.to_string()))?;
            Ok(Destination::Route { route, delay: Duration::from_millis(delay_ms.unwrap_or(0)) })
        }
        (Some(_), _) => Err(ErrorAnswer::new(ErrorKind::BadRequest, "events for one route alone come through the socket only")),
        (None, Some(_)) => Err(ErrorAnswer::new(ErrorKind::BadRequest, "`delay_ms` needs `route`")),
    }
}

/// Reads the body up to `bytes_max`: what declares more is refused before a byte is read, what turns out longer is read no further.
async fn read_body(headers: &HeaderMap, body: Body, bytes_max: usize, timeout: Duration) -> Result<Bytes, ErrorAnswer> {
    let too_large = || ErrorAnswer::new(ErrorKind::TooLarge, format!("the event is longer than {bytes_max} bytes, the limit"));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large());
    }
    let reading = async move {
        let mut body = body;
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ErrorAnswer::new(ErrorKind::BadRequest, format!("the body broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                if read.len() + data.len() > bytes_max {
                    return Err(too_large());
                }
                read.extend_from_slice(&data);
            }
        }
        Ok(read.freeze())
    };
    match tokio::time::timeout(timeout, reading).await {
        Ok(result) => result,
        Err(_) => Err(ErrorAnswer::new(ErrorKind::Timeout, format!("the body did not come within {} s", timeout.as_secs()))),
    }
}

/// How many emits led to the event: believed from anywhere, since it can only shorten a chain.
fn hops(headers: &HeaderMap) -> u8 {
    headers.get("x-router-hops").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The trace context, if it has the form of one.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let shape = text.len() == 55 && text.bytes().enumerate().all(|(at, byte)| if matches!(at, 2 | 35 | 52) { byte == b'-' } else { byte.is_ascii_hexdigit() });
    shape.then(|| text.to_owned())
}
