//! The admin API `/api/v1`: what the command line asks a running router on its Unix socket, and what clients with an admin token ask it
//! over TCP. The same paths, the same answers.
//!
//! The socket's mode is its authentication; [`crate::door`] says who may ask over TCP. Paths and parameters are read here and in
//! `operate`, everything else is [`Admin`]'s business.

use std::{future::Future, path::Path, sync::Arc};

use axum::{
    Json,
    extract::{Path as UrlPath, Query, State, rejection::QueryRejection},
    middleware,
};
use router_api::{Admin, DeadLetterQuery, DecodeLimits, EventQuery, RouteName, RoutingPattern};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    audit,
    connections::{self, ServeLimits},
    following, guard,
    ingest::{Ingest, post_event},
    metrics::{self, Telemetry},
    openapi, operate,
    paths::{Paths, get, post},
    sessions,
    socket::{SocketError, SocketFile, listen_at, socket_path},
    wire::{DeadLetterAnswer, DeadLettersAnswer, ErrorAnswer, ErrorKind, EventsAnswer, StatusAnswer},
};

/// Events or dead letters in one answer.
pub(crate) const ANSWER_ITEMS_MAX: u32 = 1_000;

/// A listening admin socket. Its file goes when it is dropped or served out.
pub struct AdminSocket {
    listener: tokio::net::UnixListener,
    file: SocketFile,
    admin: Arc<dyn Admin>,
    decode: DecodeLimits,
    limits: ServeLimits,
    telemetry: Option<Telemetry>,
}

impl AdminSocket {
    /// Makes the socket of the router that holds `store`, replacing one that a dead process left.
    ///
    /// Call it only while holding the store's lock, and within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When something else lies at its path, or the system refuses.
    pub fn bind(store: &Path, admin: Arc<dyn Admin>, decode: DecodeLimits) -> Result<Self, SocketError> {
        let (listener, file) = listen_at(&socket_path(store))?;
        Ok(Self { listener, file, admin, decode, limits: ServeLimits::default(), telemetry: None })
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: ServeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves `/metrics` and `/readyz` too.
    #[must_use]
    pub fn telemetry(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// Answers until `shutdown`, then lets requests that run finish, within the limits.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, file, admin, decode, limits, telemetry } = self;
        let router = paths(&admin, decode, limits).merge(openapi::routes()).merge(metrics::routes(telemetry.as_ref(), &admin)).into_router();
        let router = router
            .fallback(|| async { ErrorAnswer::new(ErrorKind::NotFound, "no such path: this router's program may be older than the one that asks") })
            .method_not_allowed_fallback(|| async { ErrorAnswer::new(ErrorKind::MethodNotAllowed, "this path has another method") })
            .layer(middleware::from_fn(guard::only_text));
        connections::serve(listener, router, limits, shutdown).await;
        drop(file);
    }
}

/// Every path of the admin API.
pub(crate) fn paths(admin: &Arc<dyn Admin>, decode: DecodeLimits, limits: ServeLimits) -> Paths {
    let ServeLimits { body_timeout, publish_timeout, .. } = limits;
    let ingest = Ingest { admin: Arc::clone(admin), limits: decode, body_timeout, publish_timeout, addressing: true };
    let reads = Paths::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/{reference}", get(event))
        .route("/api/v1/dead-letters", get(dead_letters))
        .route("/api/v1/dead-letters/{id}", get(dead_letter))
        .merge(sessions::reads());
    let verbs = operate::routes().merge(sessions::verbs()).behind(|router| router.layer(middleware::from_fn_with_state(body_timeout, audit::carry_out)));
    let writes = Paths::new().route("/api/v1/events", post(post_event)).with_state(ingest);
    reads.merge(following::routes()).merge(verbs).with_state(Arc::clone(admin)).merge(writes)
}

type Answer<T> = Result<Json<T>, ErrorAnswer>;
type Asked = State<Arc<dyn Admin>>;

async fn status(State(admin): Asked) -> Answer<StatusAnswer> {
    Ok(Json(StatusAnswer { schema: StatusAnswer::SCHEMA.into(), status: admin.status().await? }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    /// So many at most; 20 if absent
    #[schemars(range(max = ANSWER_ITEMS_MAX))]
    last: Option<u32>,
    /// With a key that fits this pattern
    key: Option<RoutingPattern>,
    /// That no route wanted
    #[serde(default)]
    unmatched: bool,
    /// Of this session
    session: Option<String>,
}

async fn events(State(admin): Asked, query: Result<Query<EventsQuery>, QueryRejection>) -> Answer<EventsAnswer> {
    let EventsQuery { last, key, unmatched, session } = parameters(query)?;
    let query = EventQuery { last: within_limit(last)?, pattern: key, unmatched, session, before: None };
    Ok(Json(EventsAnswer { schema: EventsAnswer::SCHEMA.into(), events: admin.events(&query).await? }))
}

async fn event(State(admin): Asked, UrlPath(reference): UrlPath<String>) -> Answer<EventsAnswer> {
    Ok(Json(EventsAnswer { schema: EventsAnswer::SCHEMA.into(), events: admin.event(&reference).await? }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LettersQuery {
    /// Of this route
    route: Option<RouteName>,
    /// Of this reason
    reason: Option<String>,
    /// Whose last failure is of this class
    class: Option<String>,
    /// So many at most; 100 if absent
    #[schemars(range(max = ANSWER_ITEMS_MAX))]
    limit: Option<u32>,
}

async fn dead_letters(State(admin): Asked, query: Result<Query<LettersQuery>, QueryRejection>) -> Answer<DeadLettersAnswer> {
    let LettersQuery { route, reason, class, limit } = parameters(query)?;
    let query = DeadLetterQuery { route, reason, class, limit: within_limit(limit)? };
    Ok(Json(DeadLettersAnswer { schema: DeadLettersAnswer::SCHEMA.into(), dead_letters: admin.dead_letters(&query).await? }))
}

async fn dead_letter(State(admin): Asked, UrlPath(id): UrlPath<String>) -> Answer<DeadLetterAnswer> {
    Ok(Json(DeadLetterAnswer { schema: DeadLetterAnswer::SCHEMA.into(), dead_letter: admin.dead_letter(&id).await? }))
}

fn parameters<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ErrorAnswer> {
    query.map(|Query(parameters)| parameters).map_err(|rejection| ErrorAnswer::of_query(&rejection))
}

fn within_limit(wanted: Option<u32>) -> Result<Option<u32>, ErrorAnswer> {
    match wanted {
        Some(items) if items > ANSWER_ITEMS_MAX => {
            Err(ErrorAnswer::new(ErrorKind::BadRequest, format!("{items} at once are too many: ask for at most {ANSWER_ITEMS_MAX}")))
        }
        within => Ok(within),
    }
}
