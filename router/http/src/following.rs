//! Looking on over the admin API: `GET /api/v1/watch` follows the archive, `GET /api/v1/last-run` tells a working directory how its last CI
//! run ended.
//!
//! Both are questions that end: a router that stops has nobody to hang up on.

use std::{path::Path, sync::Arc};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use jiff::Timestamp;
use router_api::{Admin, ArchivedEvent, DecodeLimits, Envelope, EventQuery, FollowRequest, Followed, RouteName, RoutingPattern};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    operate::{Named, schema},
    paths::{Paths, get},
    wire::{ErrorAnswer, ErrorKind},
};

pub(crate) fn routes() -> Paths<Arc<dyn Admin>> {
    Paths::new().route("/api/v1/watch", get(watch)).route("/api/v1/last-run", get(last_run))
}

type Answer<T> = Result<Json<Named<T>>, ErrorAnswer>;

/// [`FollowRequest`] as parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WatchQuery {
    /// With a greater number than this: `next` of the answer before. Without it the answer has no event, only the number to begin at
    after: Option<u64>,
    /// With a key that fits this pattern
    key: Option<RoutingPattern>,
    /// Of this session
    session: Option<String>,
    /// That this route would take now
    route: Option<RouteName>,
    /// That fits this filter, a JSON object of the shape of a route's `when`
    when: Option<String>,
    /// Stored at this time or later
    #[schemars(extend("format" = "date-time"), with = "Option<String>")]
    from: Option<Timestamp>,
    /// Stored before this time
    #[schemars(extend("format" = "date-time"), with = "Option<String>")]
    to: Option<Timestamp>,
    /// So many at most; 100 if absent
    #[schemars(range(min = 1, max = FollowRequest::LIMIT_MAX))]
    limit: Option<u32>,
    /// Where there is none yet, waits so long for one, and a second at most
    wait_ms: Option<u64>,
    /// Where more than so many were stored behind `after`, older ones are passed over and counted in `missed`
    behind_max: Option<u64>,
}

impl WatchQuery {
    pub(crate) fn into_request(self) -> Result<FollowRequest, ErrorAnswer> {
        let wrong = |error: serde_json::Error| ErrorAnswer::new(ErrorKind::BadRequest, format!("`when` is no JSON: {error}"));
        Ok(FollowRequest {
            after: self.after,
            key: self.key,
            session: self.session,
            route: self.route,
            when: self.when.as_deref().map(serde_json::from_str).transpose().map_err(wrong)?,
            from: self.from,
            to: self.to,
            limit: self.limit,
            wait_ms: self.wait_ms.unwrap_or(0),
            behind_max: self.behind_max,
        })
    }
}

async fn watch(State(admin): State<Arc<dyn Admin>>, query: Result<Query<WatchQuery>, QueryRejection>) -> Answer<Followed> {
    let Query(query) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    if let Some(limit) = query.limit.filter(|limit| *limit > FollowRequest::LIMIT_MAX) {
        return Err(ErrorAnswer::new(ErrorKind::BadRequest, format!("{limit} at once are too many: ask for at most {}", FollowRequest::LIMIT_MAX)));
    }
    let followed = admin.follow(&query.into_request()?).await?;
    Ok(Json(Named::new(schema::FOLLOWED, followed)))
}

/// What the plugin `ci` tells of a finished run.
const FINISHED: &str = "ci.run.finished";
/// Runs that are looked through; one that is older than so many others tells a directory nothing any more.
const RUNS_MAX: u32 = 200;
/// … in parts, since most often the newest is the one.
const RUNS_AT_ONCE: u32 = 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LastRunQuery {
    /// An absolute path; a run counts that was made there, or in a directory above
    working_directory: String,
}

/// How the last CI run of a directory ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastRun {
    /// The number of its event in the archive.
    pub seq: u64,
    /// The id of its event.
    pub event_id: Option<String>,
    /// When it was stored.
    #[schemars(extend("format" = "date-time"), with = "String")]
    pub at: Timestamp,
    /// What the plugin told: `status`, `exit_code`, `command`, `output_tail` and so on.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub run: Value,
}

async fn last_run(State(admin): State<Arc<dyn Admin>>, query: Result<Query<LastRunQuery>, QueryRejection>) -> Answer<Option<LastRun>> {
    let Query(LastRunQuery { working_directory }) = query.map_err(|rejection| ErrorAnswer::of_query(&rejection))?;
    let directory = Path::new(&working_directory);
    if !directory.is_absolute() {
        return Err(ErrorAnswer::new(ErrorKind::BadRequest, "`working_directory` is no absolute path"));
    }
    let pattern = FINISHED.parse::<RoutingPattern>().expect("a literal key is a pattern");
    let mut query = EventQuery { last: Some(RUNS_AT_ONCE), pattern: Some(pattern), ..EventQuery::default() };
    let mut looked = 0;
    while looked < RUNS_MAX {
        let events = admin.events(&query).await?;
        if let Some(found) = events.iter().find_map(|event| run_in(event, directory)) {
            return Ok(Json(Named::new(schema::LAST_RUN, Some(found))));
        }
        let Some(oldest) = events.last().filter(|_| events.len() >= RUNS_AT_ONCE as usize) else { break };
        (query.before, looked) = (Some(oldest.seq), looked + RUNS_AT_ONCE);
    }
    Ok(Json(Named::new(schema::LAST_RUN, None)))
}

fn run_in(event: &ArchivedEvent, directory: &Path) -> Option<LastRun> {
    // It is stored already, so its length is in order.
    let limits = DecodeLimits { body_bytes_max: event.body.len(), ..DecodeLimits::default() };
    let envelope = Envelope::decode(event.key.clone(), event.body.clone(), limits).ok()?;
    let run = envelope.payload();
    let made_in = run.get("working_directory")?.as_str().filter(|made_in| made_in.starts_with('/'))?;
    directory.starts_with(made_in).then(|| LastRun { seq: event.seq, event_id: event.id.clone(), at: event.stored_at, run: run.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(directory: &Value) -> ArchivedEvent {
        let body = json!({ "event_id": "r-1", "event_type": FINISHED, "payload": { "status": "failed", "working_directory": directory } }).to_string();
        ArchivedEvent {
            seq: 7,
            id: Some("r-1".to_owned()),
            key: FINISHED.parse().unwrap(),
            body: body.into(),
            stored_at: Timestamp::UNIX_EPOCH,
            hops: 1,
            redactions: 0,
            deliveries: Vec::new(),
        }
    }

    #[test]
    fn a_run_is_that_of_its_directory_and_of_what_lies_below() {
        for (made_in, asked, is_it) in [
            (json!("/home/ada/shop"), "/home/ada/shop", true),
            (json!("/home/ada/shop/"), "/home/ada/shop", true),
            (json!("/home/ada/shop"), "/home/ada/shop/src", true),
            (json!("/home/ada/shop"), "/home/ada/shop-2", false),
            (json!("/home/ada/shop/src"), "/home/ada/shop", false),
            (json!(""), "/home", false),
            (json!(null), "/home", false),
        ] {
            assert_eq!(run_in(&event(&made_in), Path::new(asked)).is_some(), is_it, "{made_in} {asked}");
        }
        assert_eq!(run_in(&event(&json!("/a")), Path::new("/a")).unwrap().run["status"], "failed");
    }
}
