//! `POST /events`: one event or several, in whatever form, each with a routing key, and the answer that means "it is safe".
//!
//! Shared by the TCP door and the socket. Several events are looked over together before the first one is stored: they are refused
//! together, or stored one after the other in their order. The forms are in `batch` and `cloudevents`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Query, Request, State},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use router_api::{Accepted, Admin, DecodeError, DecodeLimits, Destination, Publication, Published, RouteName, RoutingKey};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    batch, cloudevents,
    wire::{BatchAnswer, ErrorAnswer, ErrorKind, PublishedAnswer, key_of},
};

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

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IngestQuery {
    /// The routing key; `event_type` or `type` of the event if absent
    #[schemars(length(min = 1, max = RoutingKey::BYTES_MAX))]
    key: Option<String>,
    /// For this route alone, past its patterns, filter and coalescing
    #[schemars(with = "Option<RouteName>")]
    route: Option<String>,
    /// With `route`: not before so many milliseconds from now
    delay_ms: Option<u64>,
}

/// `POST /events`.
pub(crate) async fn post_event(
    State(ingest): State<Ingest>,
    query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Response {
    match take_in(&ingest, query, request).await {
        Ok(response) => response,
        Err(answer) => answer.into_response(),
    }
}

fn bad(message: impl Into<String>) -> ErrorAnswer {
    ErrorAnswer::new(ErrorKind::BadRequest, message)
}

async fn take_in(
    ingest: &Ingest,
    query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let Query(query) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    let form = Form::of(request.headers())?;
    let to = destination(ingest, &query)?;
    let (parts, body) = request.into_parts();
    let body = read_body(&parts.headers, body, ingest.limits.body_bytes_max, ingest.body_timeout).await?;
    let first = body.trim_ascii_start().first();
    let several = match form {
        // The socket takes events one by one: its client has one answer for each.
        Form::Event if first == Some(&b'[') && !ingest.addressing => Some(batch::of_array(&body).map_err(bad)?),
        Form::CloudBatch => Some(batch::of_array(&body).map_err(bad)?),
        Form::Lines => Some(batch::of_lines(&body).map_err(bad)?),
        Form::Event | Form::CloudEvent | Form::Binary => None,
    };
    let prepared = |body: Bytes| {
        let body = match form {
            Form::Binary => cloudevents::from_binary(&parts.headers, &body).map_err(bad)?,
            Form::CloudEvent | Form::CloudBatch => cloudevents::check_structured(&body).map(|()| body).map_err(bad)?,
            Form::Event | Form::Lines => body,
        };
        let mut publication = prepare(ingest.limits, query.key.as_deref(), body)?;
        publication.to = to.clone();
        publication.hops = hops(&parts.headers);
        publication.traceparent = traceparent(&parts.headers);
        Ok(publication)
    };
    let Some(bodies) = several else {
        return Ok(Json(ingest.publish(prepared(body)?).await?).into_response());
    };
    let count = bodies.len();
    let placed = |at: usize, error: ErrorAnswer, rest: &str| ErrorAnswer { error: format!("event {} of {count}: {}{rest}", at + 1, error.error), ..error };
    let mut publications = Vec::with_capacity(count);
    for (at, body) in bodies.into_iter().enumerate() {
        publications.push(prepared(body).map_err(|error| placed(at, error, "; none of them is stored"))?);
    }
    let events = ingest.publish_all(publications).await.map_err(|(stored, error)| match stored {
        None => error,
        Some(0) => placed(0, error, ""),
        Some(at) => placed(at, error, &format!("; the {at} before it are stored")),
    })?;
    Ok(Json(BatchAnswer { schema: BatchAnswer::SCHEMA.into(), events }).into_response())
}

/// Finds the key and checks the body.
fn prepare(limits: DecodeLimits, key: Option<&str>, body: Bytes) -> Result<Publication, ErrorAnswer> {
    let key = key_of(key, &body).map_err(bad)?;
    let mut publication = Publication::new(key, body);
    publication.envelope(limits).map_err(refused)?;
    Ok(publication)
}

fn answer(key: RoutingKey, Accepted { published: Published { seq, routed }, event_id, .. }: Accepted) -> PublishedAnswer {
    PublishedAnswer { schema: PublishedAnswer::SCHEMA.into(), key, event_id, seq, routed }
}

/// The answer to a body that is no event.
pub(crate) fn refused(error: DecodeError) -> ErrorAnswer {
    let kind = if matches!(error, DecodeError::TooLarge { .. }) { ErrorKind::TooLarge } else { ErrorKind::BadRequest };
    ErrorAnswer::new(kind, error.to_string())
}

impl Ingest {
    /// Publishes, and returns once the event is safe.
    async fn publish(&self, publication: Publication) -> Result<PublishedAnswer, ErrorAnswer> {
        let key = publication.key.clone();
        Ok(answer(key, self.store(publication).await?))
    }

    /// Publishes several in their order, and returns once all of them are safe. On an error also how many are, if that is known.
    async fn publish_all(&self, publications: Vec<Publication>) -> Result<Vec<PublishedAnswer>, (Option<usize>, ErrorAnswer)> {
        let keys: Vec<RoutingKey> = publications.iter().map(|publication| publication.key.clone()).collect();
        let route = publications.first().and_then(|publication| match &publication.to {
            Destination::Route { route, .. } => Some(route.clone()),
            Destination::Subscribers => None,
        });
        // As long as one after the other might take.
        let patience = self.publish_timeout.saturating_mul(u32::try_from(publications.len()).unwrap_or(u32::MAX));
        let admin = Arc::clone(&self.admin);
        // In a task of its own, as for one.
        let publishing = tokio::spawn(async move { admin.accept_all(publications).await });
        let unknown = |what: &str| (None, ErrorAnswer::new(ErrorKind::Unavailable, format!("{what}: send them again")));
        match tokio::time::timeout(patience, publishing).await {
            Ok(Ok(Ok(accepted))) => Ok(keys.into_iter().zip(accepted).map(|(key, accepted)| answer(key, accepted)).collect()),
            Ok(Ok(Err((stored, error)))) => Err((Some(stored.len()), self.explained(error.into(), route).await)),
            Ok(Err(_)) => Err(unknown("taking the events in was broken off; each may or may not be stored")),
            Err(_) => Err(unknown("the events are not known to be stored in time")),
        }
    }

    /// Stores an event, and returns how it is stored once it is safe.
    pub(crate) async fn store(&self, publication: Publication) -> Result<Accepted, ErrorAnswer> {
        let route = match &publication.to {
            Destination::Route { route, .. } => Some(route.clone()),
            Destination::Subscribers => None,
        };
        match self.hand_over(publication).await {
            Ok(accepted) => Ok(accepted),
            Err(answer) => Err(self.explained(answer, route).await),
        }
    }

    /// A refusal is the sender's mistake if he named a route that nobody knows.
    async fn explained(&self, answer: ErrorAnswer, route: Option<RouteName>) -> ErrorAnswer {
        match route {
            Some(route) if answer.kind == ErrorKind::Refused && self.lacks(&route).await => {
                ErrorAnswer::new(ErrorKind::NotFound, format!("there is no route `{route}`: {}", answer.error))
            }
            _ => answer,
        }
    }

    async fn lacks(&self, route: &RouteName) -> bool {
        let status = tokio::time::timeout(self.publish_timeout, self.admin.status()).await;
        status.is_ok_and(|status| status.is_ok_and(|status| status.routes.iter().all(|known| known.name != *route)))
    }

    async fn hand_over(&self, publication: Publication) -> Result<Accepted, ErrorAnswer> {
        // In a task of its own: a sender that hangs up does not undo half of what was begun.
        let admin = Arc::clone(&self.admin);
        let publishing = tokio::spawn(async move { admin.accept(publication).await });
        match tokio::time::timeout(self.publish_timeout, publishing).await {
            Ok(Ok(Ok(accepted))) => Ok(accepted),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(_)) => Err(ErrorAnswer::new(ErrorKind::Unavailable, "taking the event in was broken off; it may or may not be stored: send it again")),
            Err(_) => Err(ErrorAnswer::new(ErrorKind::Unavailable, "the event is not known to be stored in time: send it again")),
        }
    }
}

/// How events stand in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// JSON: an object, or an array of them.
    Event,
    /// JSON lines.
    Lines,
    /// A CloudEvent in the structured form.
    CloudEvent,
    /// An array of them.
    CloudBatch,
    /// A CloudEvent whose attributes are headers.
    Binary,
}

impl Form {
    /// Only what says that it is JSON. A web page can send the other types anywhere without being asked.
    fn of(headers: &HeaderMap) -> Result<Self, ErrorAnswer> {
        let kind = media_type(headers);
        // The batch before the structured form, whose name it begins with.
        match kind.as_deref() {
            Some("application/cloudevents-batch+json") => return Ok(Self::CloudBatch),
            Some("application/cloudevents+json") => return Ok(Self::CloudEvent),
            // A page cannot send this header to another origin unasked.
            None if cloudevents::is_binary(headers) => return Ok(Self::Binary),
            Some("application/x-ndjson" | "application/jsonl" | "application/ndjson" | "application/jsonlines") => return Ok(Self::Lines),
            _ => {}
        }
        check_content_type(headers)?;
        Ok(if cloudevents::is_binary(headers) { Self::Binary } else { Self::Event })
    }
}

/// The `Content-Type` without its parameters, in lowercase.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    Some(value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Only JSON that says so.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<(), ErrorAnswer> {
    let refused = |found: &str| ErrorAnswer::new(ErrorKind::UnsupportedMediaType, format!("{found}, where `Content-Type: application/json` is needed"));
    let Some(kind) = media_type(headers) else { return Err(refused("no `Content-Type`")) };
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
pub(crate) async fn read_body(headers: &HeaderMap, body: Body, bytes_max: usize, timeout: Duration) -> Result<Bytes, ErrorAnswer> {
    let too_large = || ErrorAnswer::new(ErrorKind::TooLarge, format!("the body is longer than {bytes_max} bytes, the limit"));
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
pub(crate) fn hops(headers: &HeaderMap) -> u8 {
    headers.get("x-router-hops").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The trace context, if it has the form of one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let shape = text.len() == 55 && text.bytes().enumerate().all(|(at, byte)| if matches!(at, 2 | 35 | 52) { byte == b'-' } else { byte.is_ascii_hexdigit() });
    shape.then(|| text.to_owned())
}
