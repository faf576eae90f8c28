//! The verbs of the admin API: what operators do to a running router.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
};
use router_api::{
    Admin, DeadLetterGroups, DeadLetterQuery, DeadLetterSelection, EnableRequest, Enabled, RedriveRequest, Redriven, Reloaded, RouteCommand, RouteCommanded,
    RouteName,
};
use serde::{Deserialize, Serialize};

use crate::{
    paths::{Paths, get, post},
    wire::{ErrorAnswer, ErrorKind},
};

/// An answer with the name of its shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named<T> {
    /// `event-router.<name>.v1`.
    pub schema: Cow<'static, str>,
    /// The answer.
    pub result: T,
}

/// The names of the shapes.
pub mod schema {
    /// Of [`router_api::Redriven`].
    pub const REDRIVEN: &str = "event-router.redriven.v1";
    /// Of the number of discarded letters.
    pub const DISCARDED: &str = "event-router.discarded.v1";
    /// Of [`router_api::DeadLetterGroups`].
    pub const DEAD_LETTER_GROUPS: &str = "event-router.dead-letter-groups.v1";
    /// Of [`router_api::Enabled`].
    pub const ENABLED: &str = "event-router.enabled.v1";
    /// Of [`router_api::RouteCommanded`].
    pub const COMMANDED: &str = "event-router.route-command.v1";
    /// Of [`router_api::Followed`].
    pub const FOLLOWED: &str = "event-router.followed.v1";
    /// Of the answer for a working directory that asks for its last CI run.
    pub const LAST_RUN: &str = "event-router.last-run.v1";
    /// Of [`router_api::SessionList`].
    pub const SESSIONS: &str = "event-router.sessions.v1";
    /// Of [`router_api::SessionShown`].
    pub const SESSION: &str = "event-router.session-shown.v1";
    /// Of [`router_api::SessionStats`].
    pub const SESSION_STATS: &str = "event-router.session-stats.v1";
    /// Of [`router_api::SessionsImported`].
    pub const SESSIONS_IMPORTED: &str = "event-router.sessions-imported.v1";
    /// Of [`router_api::Reloaded`].
    pub const RELOADED: &str = "event-router.reloaded.v1";
}

impl<T> Named<T> {
    /// An answer of this shape.
    #[must_use]
    pub fn new(schema: &'static str, result: T) -> Self {
        Self { schema: schema.into(), result }
    }
}

type Answer<T> = Result<Json<Named<T>>, ErrorAnswer>;
type Asked = State<Arc<dyn Admin>>;

/// Each is described in `openapi`, or a test says which is not.
pub(crate) fn routes() -> Paths<Arc<dyn Admin>> {
    Paths::new()
        .route("/api/v1/dead-letters/groups", get(groups))
        .route("/api/v1/dead-letters/redrive", post(redrive))
        .route("/api/v1/dead-letters/discard", post(discard))
        .route("/api/v1/routes/{route}/{command}", post(command))
        .route("/api/v1/routes/{route}/enable", post(enable))
        .route("/api/v1/reload", post(reload))
}

pub(crate) fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, ErrorAnswer> {
    body.map(|Json(body)| body).map_err(|rejection| match rejection {
        JsonRejection::MissingJsonContentType(_) => ErrorAnswer::new(ErrorKind::UnsupportedMediaType, "the body needs `Content-Type: application/json`"),
        other => {
            let text = other.body_text();
            let why = text.split_once(": ").filter(|(opening, _)| opening.starts_with("Failed to")).map_or(text.as_str(), |(_, why)| why);
            ErrorAnswer::new(ErrorKind::BadRequest, format!("the body is not understood: {why}"))
        }
    })
}

async fn redrive(State(admin): Asked, request: Result<Json<RedriveRequest>, JsonRejection>) -> Answer<Redriven> {
    let request = body(request)?;
    finished(async move { admin.redrive(&request).await }).await.map(|done| Json(Named::new(schema::REDRIVEN, done)))
}

async fn discard(State(admin): Asked, selection: Result<Json<DeadLetterSelection>, JsonRejection>) -> Answer<u64> {
    let selection = body(selection)?;
    finished(async move { admin.discard(&selection).await }).await.map(|done| Json(Named::new(schema::DISCARDED, done)))
}

/// Which letters to group.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupsQuery {
    /// Of this route
    route: Option<RouteName>,
    /// Of this reason
    reason: Option<String>,
    /// Whose last failure is of this class
    class: Option<String>,
}

async fn groups(State(admin): Asked, query: Result<Query<GroupsQuery>, QueryRejection>) -> Answer<DeadLetterGroups> {
    let Query(GroupsQuery { route, reason, class }) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    let groups = admin.dead_letter_groups(&DeadLetterQuery { route, reason, class, limit: None }).await?;
    Ok(Json(Named::new(schema::DEAD_LETTER_GROUPS, groups)))
}

fn route_name(text: &str) -> Result<RouteName, ErrorAnswer> {
    text.parse().map_err(|error: router_api::RouteNameError| ErrorAnswer::new(ErrorKind::BadRequest, error.to_string()))
}

async fn enable(State(admin): Asked, Path(route): Path<String>, request: Result<Json<EnableRequest>, JsonRejection>) -> Answer<Enabled> {
    let (route, request) = (route_name(&route)?, body(request)?);
    finished(async move { admin.enable(&route, request).await }).await.map(|done| Json(Named::new(schema::ENABLED, done)))
}

async fn command(State(admin): Asked, Path((route, command)): Path<(String, String)>) -> Answer<RouteCommanded> {
    let route = route_name(&route)?;
    let command: RouteCommand = serde_json::from_value(serde_json::Value::String(command.clone())).map_err(|_| {
        ErrorAnswer::new(ErrorKind::NotFound, format!("a route knows no command `{command}`; there are pause, resume, flush, drop-burst, remove, enable"))
    })?;
    finished(async move { admin.command(&route, command).await }).await.map(|done| Json(Named::new(schema::COMMANDED, done)))
}

async fn reload(State(admin): Asked) -> Answer<Reloaded> {
    finished(async move { admin.reload().await }).await.map(|done| Json(Named::new(schema::RELOADED, done)))
}

/// Does the work in a task of its own: a client that hangs up must not leave a redrive or a reload half done.
pub(crate) async fn finished<T: Send + 'static>(work: impl Future<Output = Result<T, router_api::AdminError>> + Send + 'static) -> Result<T, ErrorAnswer> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(ErrorAnswer::new(ErrorKind::Unavailable, format!("the router failed: {error}"))),
    }
}
