//! The paths of `/api/v1/sessions`: lists, single ones and sums, and the import of what transcripts say.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
};
use jiff::Timestamp;
use router_api::{Admin, SessionEntry, SessionList, SessionQuery, SessionShown, SessionState, SessionStats, SessionsImported, StatsBy, StatsQuery};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    operate::{Named, body, finished, schema},
    paths::{Paths, get, post},
    wire::{ErrorAnswer, ErrorKind},
};

type Answer<T> = Result<Json<Named<T>>, ErrorAnswer>;
type Asked = State<Arc<dyn Admin>>;

/// What only reads.
pub(crate) fn reads() -> Paths<Arc<dyn Admin>> {
    Paths::new().route("/api/v1/sessions", get(list)).route("/api/v1/sessions/stats", get(stats)).route("/api/v1/sessions/{id}", get(show))
}

/// What changes something.
pub(crate) fn verbs() -> Paths<Arc<dyn Admin>> {
    Paths::new().route("/api/v1/sessions/import", post(import))
}

/// Which sessions.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionsQuery {
    /// So many at most; 20 if absent
    #[schemars(range(max = SessionQuery::LAST_MAX))]
    pub(crate) last: Option<u32>,
    /// That did something since then
    #[schemars(with = "Option<String>")]
    pub(crate) since: Option<Timestamp>,
    /// In this state
    pub(crate) state: Option<SessionState>,
    /// Of this project
    pub(crate) project: Option<String>,
    /// On this branch
    pub(crate) branch: Option<String>,
    /// For this feature
    pub(crate) feature: Option<String>,
    /// That name this ticket
    pub(crate) ticket: Option<String>,
    /// With this model
    pub(crate) model: Option<String>,
}

async fn list(State(admin): Asked, query: Result<Query<SessionsQuery>, QueryRejection>) -> Answer<SessionList> {
    let Query(SessionsQuery { last, since, state, project, branch, feature, ticket, model }) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    if let Some(last) = last.filter(|last| *last > SessionQuery::LAST_MAX) {
        let max = SessionQuery::LAST_MAX;
        return Err(ErrorAnswer::new(ErrorKind::BadRequest, format!("{last} at once are too many: ask for at most {max}")));
    }
    let query = SessionQuery { last, since, state, project, branch, feature, ticket, model, ..SessionQuery::default() };
    Ok(Json(Named::new(schema::SESSIONS, admin.sessions(&query).await?)))
}

async fn show(State(admin): Asked, Path(id): Path<String>) -> Answer<SessionShown> {
    Ok(Json(Named::new(schema::SESSION, admin.session(&id).await?)))
}

/// Which sums.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SumsQuery {
    /// By what; by day if absent
    pub(crate) by: Option<StatsBy>,
    /// From the beginning of this quarter of an hour; 30 days before `until` if absent
    #[schemars(with = "Option<String>")]
    pub(crate) since: Option<Timestamp>,
    /// Before this quarter of an hour; now if absent
    #[schemars(with = "Option<String>")]
    pub(crate) until: Option<Timestamp>,
    /// The time zone of days, such as `Europe/Berlin`; UTC if absent
    pub(crate) zone: Option<String>,
}

async fn stats(State(admin): Asked, query: Result<Query<SumsQuery>, QueryRejection>) -> Answer<SessionStats> {
    let Query(SumsQuery { by, since, until, zone }) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    let query = StatsQuery { by: by.unwrap_or_default(), since, until, zone };
    Ok(Json(Named::new(schema::SESSION_STATS, admin.session_stats(&query).await?)))
}

/// Sessions by their transcripts.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportRequest {
    /// The sessions; within a megabyte.
    pub(crate) sessions: Vec<SessionEntry>,
}

async fn import(State(admin): Asked, request: Result<Json<ImportRequest>, JsonRejection>) -> Answer<SessionsImported> {
    let ImportRequest { sessions } = body(request)?;
    finished(async move { admin.import_sessions(sessions).await }).await.map(|done| Json(Named::new(schema::SESSIONS_IMPORTED, done)))
}
