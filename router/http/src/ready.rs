//! `GET /readyz`: whether the router takes events in and handles them, and what is in the way.
//!
//! A route that pauses because its target is down does not make the router unready: its events wait in its queue, and a restart would
//! not help. A live route that has no queue does, and so does a store that does not answer.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use router_api::{Condition, RouteMode, RouteName, RouteState, RouterStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Watched;

/// What the program says of itself: which configuration is in force, and that it stops. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    said: Arc<Mutex<Said>>,
}

#[derive(Debug, Clone, Default)]
struct Said {
    draining: bool,
    config: ReadyConfig,
    note: Option<String>,
}

/// The configuration, as `/readyz` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyConfig {
    /// Of the one in force.
    pub hash: Option<String>,
    /// When it was applied.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub applied_at: Option<Timestamp>,
    /// What came of the last one that was to be applied.
    pub last_outcome: Option<ConfigOutcome>,
}

/// What came of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum ConfigOutcome {
    /// It is in force.
    Applied {
        /// Since then.
        #[schemars(with = "String", extend("format" = "date-time"))]
        at: Timestamp,
    },
    /// The one before stayed in force.
    Refused {
        /// When.
        #[schemars(with = "String", extend("format" = "date-time"))]
        at: Timestamp,
        /// What is wrong with it.
        error: String,
    },
}

impl Readiness {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().expect("no code panics while it holds what was said")
    }

    /// A configuration is in force. Before the first one nothing is ready.
    pub fn applied(&self, hash: impl Into<String>, at: Timestamp) {
        self.said().config = ReadyConfig { hash: Some(hash.into()), applied_at: Some(at), last_outcome: Some(ConfigOutcome::Applied { at }) };
    }

    /// A configuration was not taken; the one before stays in force, and the router stays as ready as it was.
    pub fn refused(&self, error: impl Into<String>, at: Timestamp) {
        self.said().config.last_outcome = Some(ConfigOutcome::Refused { at, error: error.into() });
    }

    /// What is worth knowing of the intake beside the doors, and makes nothing unready; replaces what was said before.
    pub fn note(&self, note: Option<String>) {
        self.said().note = note;
    }

    /// The router stops, and is never ready again.
    pub fn draining(&self) {
        self.said().draining = true;
    }
}

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyAnswer {
    /// [`ReadyAnswer::SCHEMA`].
    #[schemars(description = "Names the shape", extend("const" = ReadyAnswer::SCHEMA))]
    pub schema: Cow<'static, str>,
    /// True with status 200, false with 503.
    pub ready: bool,
    /// Why not, a sentence fragment each.
    pub reasons: Vec<String>,
    /// What is worth knowing and makes nothing unready, such as a spool that another router drains.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Where events come from.
    pub transport: ReadyPart,
    /// Where they are kept.
    pub store: ReadyPart,
    /// Every route of the configuration that is on.
    pub routes: Vec<ReadyRoute>,
    /// The configuration.
    pub config: ReadyConfig,
}

/// One part of the router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyPart {
    /// `embedded` or `amqp`, where it is known.
    pub name: Option<String>,
    /// It works.
    pub ready: bool,
    /// Why not.
    pub error: Option<String>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyRoute {
    /// Its name.
    pub name: RouteName,
    /// What it is doing.
    pub state: RouteState,
    /// False for a live route without a queue.
    pub ready: bool,
    /// What there is to say, such as the error that made it pause.
    pub note: Option<String>,
}

impl ReadyAnswer {
    /// Names the shape.
    pub const SCHEMA: &'static str = "event-router.ready.v1";

    fn of(said: Said, status: Result<RouterStatus, String>) -> Self {
        let Said { draining, config, note } = said;
        let mut reasons = Vec::new();
        if config.applied_at.is_none() {
            reasons.push("the configuration is not applied yet".to_owned());
        }
        if draining {
            reasons.push("the router is stopping".to_owned());
        }
        let (transport, error, condition, statuses) = match status {
            Ok(status) => (Some(status.transport), None, status.condition, status.routes),
            Err(error) => {
                reasons.push(format!("the store does not answer: {error}"));
                (None, Some(error), Condition::well(), Vec::new())
            }
        };
        let away = (!condition.reachable || !condition.accepts).then(|| {
            let what = if condition.reachable { "takes no events" } else { "is away" };
            match condition.troubles.is_empty() {
                true => format!("the transport {what}"),
                false => format!("the transport {what}: {}", condition.troubles.join("; ")),
            }
        });
        reasons.extend(away.clone());
        // Those of a transport that works all the same: an archive that is off, a queue whose machine is down, what lies among the lost.
        let aside = if away.is_none() { condition.troubles } else { Vec::new() };
        let routes: Vec<ReadyRoute> = statuses
            .into_iter()
            .filter(|route| route.state != RouteState::Disabled)
            .map(|route| {
                let ready = !(route.mode == RouteMode::Live && route.state == RouteState::Reconnecting);
                ReadyRoute { name: route.name, state: route.state, ready, note: route.note }
            })
            .collect();
        reasons.extend(routes.iter().filter(|route| !route.ready).map(|route| format!("route `{}` has lost its queue and takes it up again", route.name)));
        let lost = routes.iter().find(|route| !route.ready).map(|route| route.note.clone().unwrap_or_else(|| format!("route `{}` has no queue", route.name)));
        Self {
            schema: Self::SCHEMA.into(),
            ready: reasons.is_empty(),
            reasons,
            notes: note.into_iter().chain(aside).collect(),
            transport: ReadyPart { name: transport, ready: error.is_none() && lost.is_none() && away.is_none(), error: error.clone().or(away).or(lost) },
            store: ReadyPart { name: None, ready: error.is_none(), error },
            routes,
            config,
        }
    }
}

pub(crate) async fn readyz(State(watched): State<Watched>) -> Response {
    let status = watched.status().await;
    // Asked last: a drain that began while the store was asked counts.
    let answer = ReadyAnswer::of(watched.telemetry.readiness.said().clone(), status);
    let code = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(answer)).into_response()
}

#[cfg(test)]
mod tests {
    use router_api::RouteStatus;

    use super::*;

    fn route(name: &str, mode: RouteMode, state: RouteState) -> RouteStatus {
        RouteStatus {
            name: name.parse().unwrap(),
            handler: "log".into(),
            mode,
            state,
            note: Some("says the target".into()),
            queue: None,
            open_bursts: 0,
            failing_bursts: 0,
            rates: None,
            breaker: None,
        }
    }

    fn status(routes: Vec<RouteStatus>) -> Result<RouterStatus, String> {
        let (version, transport, config_hash) = ("1".into(), "embedded".into(), "h".into());
        Ok(RouterStatus { version, started_at: Timestamp::UNIX_EPOCH, transport, config_hash, condition: Condition::well(), untold: None, routes })
    }

    fn applied() -> Readiness {
        let readiness = Readiness::default();
        readiness.applied("h", Timestamp::UNIX_EPOCH);
        readiness
    }

    fn answer(readiness: &Readiness, status: Result<RouterStatus, String>) -> ReadyAnswer {
        ReadyAnswer::of(readiness.said().clone(), status)
    }

    #[test]
    fn nothing_is_ready_before_the_first_configuration() {
        let readiness = Readiness::default();
        assert_eq!(answer(&readiness, status(Vec::new())).reasons, ["the configuration is not applied yet"]);
        readiness.refused("line 3", Timestamp::UNIX_EPOCH);
        assert!(!answer(&readiness, status(Vec::new())).ready, "a refused one is none");
        readiness.applied("h", Timestamp::UNIX_EPOCH);
        assert!(answer(&readiness, status(Vec::new())).ready);
    }

    #[test]
    fn a_refused_reload_is_shown_and_leaves_the_router_ready() {
        let readiness = applied();
        readiness.refused("line 3", Timestamp::from_second(9).unwrap());
        let answer = answer(&readiness, status(Vec::new()));
        assert!(answer.ready);
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["schema"], "event-router.ready.v1");
        assert_eq!(json["config"]["hash"], "h");
        assert_eq!(json["config"]["applied_at"], "1970-01-01T00:00:00Z");
        assert_eq!(json["config"]["last_outcome"], serde_json::json!({ "outcome": "refused", "at": "1970-01-01T00:00:09Z", "error": "line 3" }));
    }

    #[test]
    fn a_note_makes_nothing_unready_and_is_replaced_by_the_next() {
        let readiness = applied();
        readiness.note(Some("another router drains the spool".into()));
        let noted = answer(&readiness, status(Vec::new()));
        assert_eq!((noted.ready, noted.notes.len()), (true, 1));
        readiness.note(None);
        assert!(answer(&readiness, status(Vec::new())).notes.is_empty());
    }

    #[test]
    fn a_router_that_stops_is_not_ready() {
        let readiness = applied();
        readiness.draining();
        readiness.applied("other", Timestamp::UNIX_EPOCH);
        assert_eq!(answer(&readiness, status(Vec::new())).reasons, ["the router is stopping"]);
    }

    #[test]
    fn a_store_that_does_not_answer_is_named() {
        let answer = answer(&applied(), Err("disk I/O error".into()));
        assert!(!answer.ready && !answer.store.ready && !answer.transport.ready);
        assert_eq!(answer.store.error.as_deref(), Some("disk I/O error"));
        assert_eq!(answer.reasons, ["the store does not answer: disk I/O error"]);
    }

    #[test]
    fn a_transport_that_is_away_or_takes_nothing_is_named_with_its_troubles() {
        for (reachable, accepts, expected) in
            [(false, false, "the transport is away: no route to host"), (true, false, "the transport takes no events: no route to host")]
        {
            let mut status = status(vec![route("r", RouteMode::Live, RouteState::Running)]).unwrap();
            status.condition = Condition { reachable, accepts, troubles: vec!["no route to host".into()], reconnects: 3 };
            let answer = answer(&applied(), Ok(status.clone()));
            assert!(!answer.ready && !answer.transport.ready && answer.store.ready, "{answer:?}");
            assert_eq!((answer.reasons.as_slice(), answer.transport.error.as_deref()), ([expected.to_owned()].as_slice(), Some(expected)));
        }
        // What is only worth knowing makes nothing unready.
        let mut status = status(Vec::new()).unwrap();
        status.condition = Condition { troubles: vec!["there are no streams, so the archive is off".into()], ..Condition::well() };
        let answer = answer(&applied(), Ok(status));
        assert!(answer.ready && answer.notes == ["there are no streams, so the archive is off"], "{answer:?}");
    }

    #[test]
    fn a_live_route_without_a_queue_is_not_ready_and_all_others_are() {
        use RouteMode::{Live, Shadow};
        let all = [
            (Live, RouteState::Reconnecting, false),
            (Shadow, RouteState::Reconnecting, true),
            (Live, RouteState::Paused, true),
            (Live, RouteState::Running, true),
            (Live, RouteState::Draining, true),
        ];
        for (mode, state, expected) in all {
            let answer = answer(&applied(), status(vec![route("r", mode, state), route("off", Live, RouteState::Disabled)]));
            assert_eq!((answer.ready, answer.routes.len(), answer.transport.ready), (expected, 1, expected), "{mode:?} {state:?}");
            assert_eq!(answer.routes[0].note.as_deref(), Some("says the target"));
            assert!(answer.store.ready);
        }
    }
}
