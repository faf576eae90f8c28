//! The JSON that the doors speak: answers with their `schema`, and errors with a kind that the client turns back into
//! [`AdminError`].
//!
//! Answers grow by new fields only. The server builds these shapes, the client and the command line read them.

use std::borrow::Cow;

use axum::{
    Json,
    extract::rejection::QueryRejection,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use router_api::{AdminError, ArchivedEvent, KeyError, RouterStatus, RoutingKey, StoreError, StoredDeadLetter, TransportError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An event was taken in and is safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedAnswer {
    /// [`PublishedAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = PublishedAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// The key it was routed by.
    pub key: RoutingKey,
    /// Its own id, where its dialect has one.
    pub event_id: Option<String>,
    /// Its number in the archive, where the transport has one.
    pub seq: Option<u64>,
    /// True if at least one route wants it.
    pub routed: bool,
}

/// Several events were taken in, and all of them are safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchAnswer {
    /// [`BatchAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = BatchAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// One for each event, in the order in which they came.
    pub events: Vec<PublishedAnswer>,
}

/// The router as it stands.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StatusAnswer {
    /// [`StatusAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = StatusAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// Program, transport and routes.
    pub status: RouterStatus,
}

/// Events of the archive, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EventsAnswer {
    /// [`EventsAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = EventsAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// The events.
    pub events: Vec<ArchivedEvent>,
}

/// Dead letters, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DeadLettersAnswer {
    /// [`DeadLettersAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = DeadLettersAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// The dead letters.
    pub dead_letters: Vec<StoredDeadLetter>,
}

/// One dead letter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterAnswer {
    /// [`DeadLetterAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = DeadLetterAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// The dead letter.
    pub dead_letter: StoredDeadLetter,
}

impl PublishedAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.published.v1";
}

impl BatchAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.published-batch.v1";
}

impl StatusAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.status.v1";
}

impl EventsAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.events.v1";
}

impl DeadLettersAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.dead-letters.v1";
}

impl DeadLetterAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.dead-letter.v1";
}

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request is wrong: no JSON object, no key, an unknown parameter.
    BadRequest,
    /// No token, or none that the router knows.
    Unauthorized,
    /// Somebody asks who may not: a foreign `Host` or `Origin`.
    Forbidden,
    /// No such thing.
    NotFound,
    /// A method that the path does not have.
    MethodNotAllowed,
    /// The request did not come in time.
    Timeout,
    /// The body is above the limit.
    TooLarge,
    /// The body is not declared to be JSON.
    UnsupportedMediaType,
    /// The transport may heal by itself: try again.
    Unavailable,
    /// No room for new events.
    Full,
    /// The transport needs a person.
    Refused,
    /// The transport cannot do that.
    Unsupported,
    /// The store failed.
    Store,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorAnswer {
    /// [`ErrorAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = ErrorAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// For programs.
    pub kind: ErrorKind,
    /// For people.
    pub error: String,
}

impl ErrorAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.error.v1";

    /// An error of `kind`.
    #[must_use]
    pub fn new(kind: ErrorKind, error: impl Into<String>) -> Self {
        Self { schema: Self::SCHEMA.into(), kind, error: error.into() }
    }

    fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Refused | ErrorKind::Store => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// True where the rest of the request may still lie unread on the connection.
    fn leaves_body_unread(&self) -> bool {
        matches!(self.kind, ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::Timeout | ErrorKind::TooLarge | ErrorKind::UnsupportedMediaType)
    }

    /// A query that is not what the path takes.
    pub(crate) fn of_query(rejection: &QueryRejection) -> Self {
        let text = rejection.body_text();
        let why = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        Self::new(ErrorKind::BadRequest, format!("the query is not understood: {why}"))
    }

    /// The error that the other side had.
    #[must_use]
    pub fn into_admin_error(self) -> AdminError {
        match self.kind {
            ErrorKind::NotFound => AdminError::NotFound(self.error),
            ErrorKind::BadRequest | ErrorKind::TooLarge => AdminError::Invalid(self.error),
            ErrorKind::Unavailable | ErrorKind::Timeout => TransportError::Unavailable(self.error).into(),
            ErrorKind::Full => TransportError::Full(self.error).into(),
            ErrorKind::Store => StoreError { message: self.error, full: false }.into(),
            // `Unsupported` carries a sentence of the program itself, which cannot come over a wire; its text is the same.
            _ => TransportError::Refused(self.error).into(),
        }
    }
}

impl From<AdminError> for ErrorAnswer {
    fn from(error: AdminError) -> Self {
        let kind = match &error {
            AdminError::NotFound(_) => ErrorKind::NotFound,
            AdminError::Invalid(_) => ErrorKind::BadRequest,
            AdminError::Transport(TransportError::Unavailable(_)) => ErrorKind::Unavailable,
            AdminError::Transport(TransportError::Full(_)) => ErrorKind::Full,
            AdminError::Transport(TransportError::Refused(_)) => ErrorKind::Refused,
            AdminError::Transport(TransportError::Unsupported(_)) => ErrorKind::Unsupported,
            AdminError::Store(store) if store.full => ErrorKind::Full,
            AdminError::Store(_) => ErrorKind::Store,
        };
        Self::new(kind, error.to_string())
    }
}

/// Among the extensions of an answer that is an error: which one, for whoever looks on.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) ErrorAnswer);

impl IntoResponse for ErrorAnswer {
    fn into_response(self) -> Response {
        let status = self.status();
        let refused = Refused(self.clone());
        let closes = self.leaves_body_unread();
        let asks = self.kind == ErrorKind::Unauthorized;
        let waits = matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Full);
        let mut response = (status, Json(self)).into_response();
        response.extensions_mut().insert(refused);
        if closes {
            // What follows on the connection would be the unread body, not a request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if asks {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"event-router\""));
        }
        if waits {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// What is wrong with a body, without repeating any of it: the parser quotes a value that it did not want, and that may be a secret.
fn no_object(body: &[u8], error: &serde_json::Error) -> String {
    let kind = match body.trim_ascii_start().first() {
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => return format!("no JSON object: {error}"),
    };
    if error.is_data() { format!("{kind}, where a JSON object is needed") } else { format!("no JSON object: {error}") }
}

/// The routing key of an event that comes in: `given`, else `event_type` or `type` of the body.
///
/// # Errors
///
/// A sentence fragment for the sender, when there is no key or it is none.
pub fn key_of(given: Option<&str>, body: &[u8]) -> Result<RoutingKey, String> {
    #[derive(Deserialize)]
    struct Head {
        event_type: Option<serde_json::Value>,
        #[serde(rename = "type")]
        kind: Option<serde_json::Value>,
    }

    let checked = |text: &str, place: &str| {
        if text.is_empty() {
            return Err(format!("{place} is empty: an event needs a routing key such as `session.thread.start`"));
        }
        RoutingKey::new(text).map_err(|error| match error {
            KeyError::TooLong(_) => format!("{place} is no routing key: it is {error}"),
            KeyError::Control(_) => format!("{place} is no routing key: it {error}"),
        })
    };
    if let Some(given) = given {
        return checked(given, "the key");
    }
    let head: Head = serde_json::from_slice(body).map_err(|error| no_object(body, &error))?;
    for (value, place) in [(head.event_type, "`event_type`"), (head.kind, "`type`")] {
        match value {
            Some(serde_json::Value::String(text)) => return checked(&text, place),
            Some(serde_json::Value::Null) | None => {}
            Some(_) => return Err(format!("{place} of the event is no text, so it cannot be the routing key")),
        }
    }
    Err("no routing key: the event has no `event_type` and no `type`, so the key must be given beside it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_key_wins_over_the_type_in_the_body() {
        assert_eq!(key_of(Some("a.b"), br#"{"event_type":"c.d"}"#).unwrap().as_str(), "a.b");
        assert_eq!(key_of(None, br#"{"event_type":"c.d","type":"e.f"}"#).unwrap().as_str(), "c.d");
        assert_eq!(key_of(None, br#"{"event_type":null,"type":"e.f"}"#).unwrap().as_str(), "e.f");
    }

    #[test]
    fn a_missing_empty_or_bad_key_is_told_apart() {
        assert!(key_of(None, b"{}").unwrap_err().contains("no `event_type`"));
        assert!(key_of(Some(""), b"{}").unwrap_err().contains("empty"));
        assert!(key_of(None, br#"{"event_type":7}"#).unwrap_err().contains("no text"));
        assert!(key_of(Some("a\nb"), b"{}").unwrap_err().contains("control character"));
        assert!(key_of(Some(&"k".repeat(256)), b"{}").unwrap_err().contains("255"));
        assert!(key_of(None, b"[1]").unwrap_err().contains("where a JSON object is needed"));
        assert!(key_of(None, b"{\"a\":").unwrap_err().contains("no JSON object"));
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_what_came() {
        for body in [&b"\"hunter2\""[..], b" [\"hunter2\"]", b"\"hunter2", b"hunter2", b"{\"hunter2\": \"hunter2\"", b"{} hunter2"] {
            assert!(!key_of(None, body).unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn an_error_comes_back_as_what_it_was() {
        let errors = [
            AdminError::NotFound("no event `x`".into()),
            AdminError::Invalid("no JSON".into()),
            TransportError::Unavailable("away".into()).into(),
            TransportError::Full("no room".into()).into(),
            TransportError::Refused("no".into()).into(),
            StoreError { message: "broken".into(), full: false }.into(),
        ];
        for error in errors {
            let (before, kind) = (error.to_string(), std::mem::discriminant(&error));
            let after = ErrorAnswer::from(error).into_admin_error();
            assert_eq!(after.to_string(), before);
            assert_eq!(std::mem::discriminant(&after), kind);
        }
    }
}
