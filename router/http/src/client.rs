//! The counterpart of the admin socket: a running router, asked from another process.
//!
//! [`AdminClient`] is an [`Admin`] like the router's own, with the same answers and errors, so a command does not care which
//! one it holds. One connection a call: commands make one or two.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use router_api::{
    Accepted, Admin, AdminError, ArchivedEvent, DeadLetterGroups, DeadLetterQuery, DeadLetterSelection, Destination, EnableRequest, Enabled, EventQuery,
    FollowRequest, Followed, Publication, Published, RedriveRequest, Redriven, Reloaded, RouteCommand, RouteCommanded, RouteName, RouterStatus, SessionEntry,
    SessionList, SessionQuery, SessionShown, SessionStats, SessionsImported, StatsQuery, StoredDeadLetter, TransportError,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    operate::Named,
    ready::ReadyAnswer,
    sessions::ImportRequest,
    socket::{connect_to, socket_path},
    wire::{DeadLetterAnswer, DeadLettersAnswer, ErrorAnswer, EventsAnswer, PublishedAnswer, StatusAnswer},
};

/// For a whole call; longer than the router gives itself for making an event safe.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// For a verb, which may wait for handlings (a canary) or for routes that drain (a reload).
const VERB_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Why there is no running router to ask.
#[derive(Debug, thiserror::Error)]
#[error("no router answers at `{path}`: {source}")]
pub struct ConnectError {
    /// The socket.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A running router, reached through the socket beside its store.
#[derive(Debug, Clone)]
pub struct AdminClient {
    path: PathBuf,
}

impl AdminClient {
    /// Finds out whether a router listens beside `store`.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub async fn connect(store: &Path) -> Result<Self, ConnectError> {
        let path = socket_path(store);
        match connect_to(&path) {
            Ok(_) => Ok(Self { path }),
            Err(source) => Err(ConnectError { path, source }),
        }
    }

    /// What the router says of its readiness, and of the configuration in force.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn ready(&self) -> Result<ReadyAnswer, AdminError> {
        let request = Request::builder().method(Method::GET).uri("/readyz").header(header::HOST, "localhost").body(Full::default());
        let asking = self.talk(request.map_err(|error| self.broken(&error))?);
        let Ok(answered) = tokio::time::timeout(CALL_TIMEOUT, asking).await else {
            return Err(self.broken(&format!("no answer within {} s", CALL_TIMEOUT.as_secs())));
        };
        // One that is not ready says so with another status and the same answer.
        let (_, answer) = answered?;
        serde_json::from_slice(&answer).map_err(|error| self.broken(&format!("its answer is not understood: {error}")))
    }

    async fn get<T: DeserializeOwned>(&self, target: String) -> Result<T, AdminError> {
        let request = Request::builder().method(Method::GET).uri(target).header(header::HOST, "localhost").body(Full::default());
        self.call(request.map_err(|error| self.broken(&error))?).await
    }

    async fn post<B: Serialize + Sync, T: DeserializeOwned>(&self, target: String, body: &B) -> Result<T, AdminError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(target)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)));
        let answer: Named<T> = self.call_within(VERB_TIMEOUT, request.map_err(|error| self.broken(&error))?).await?;
        Ok(answer.result)
    }

    async fn call<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, AdminError> {
        self.call_within(CALL_TIMEOUT, request).await
    }

    async fn call_within<T: DeserializeOwned>(&self, limit: Duration, request: Request<Full<Bytes>>) -> Result<T, AdminError> {
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(self.broken(&format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, AdminError> {
        let (status, answer) = self.talk(request).await?;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| self.broken(&format!("its answer is not understood: {error}")));
        }
        match serde_json::from_slice::<ErrorAnswer>(&answer) {
            Ok(error) => Err(error.into_admin_error()),
            Err(_) => Err(self.broken(&format!("it answered {status}"))),
        }
    }

    /// One request on a connection of its own, and the whole answer.
    async fn talk(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), AdminError> {
        let stream = connect_to(&self.path).map_err(|error| self.broken(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let talking = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let (head, mut body) = response.into_parts();
            let mut answer = BytesMut::new();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(|error| self.broken(&error))?.into_data() {
                    if answer.len() + data.len() > ANSWER_BYTES_MAX {
                        return Err(self.broken(&format!("its answer is longer than {ANSWER_BYTES_MAX} bytes: ask for less")));
                    }
                    answer.extend_from_slice(&data);
                }
            }
            Ok((head.status, answer.freeze()))
        };
        tokio::pin!(connection, talking);
        tokio::select! {
            done = &mut talking => done,
            // The connection is driven until the answer is here; its own error comes out of the talk as well.
            _ = &mut connection => talking.await,
        }
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> AdminError {
        TransportError::Unavailable(format!("the router at `{}`: {error}", self.path.display())).into()
    }
}

fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// Adds `name=value` to a target, after `?` or `&`.
fn parameter(target: &mut String, name: &str, value: impl std::fmt::Display) {
    let separator = if target.contains('?') { '&' } else { '?' };
    let _ = write!(target, "{separator}{name}={}", encoded(&value.to_string()));
}

/// Which dead letters, as parameters.
fn which(target: &mut String, query: &DeadLetterQuery) {
    if let Some(route) = &query.route {
        parameter(target, "route", route);
    }
    if let Some(reason) = &query.reason {
        parameter(target, "reason", reason);
    }
    if let Some(class) = &query.class {
        parameter(target, "class", class);
    }
}

#[async_trait]
impl Admin for AdminClient {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        self.get::<StatusAnswer>("/api/v1/status".to_owned()).await.map(|answer| answer.status)
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        Ok(self.accept(publication).await?.published)
    }

    async fn accept(&self, publication: Publication) -> Result<Accepted, AdminError> {
        let mut target = "/api/v1/events".to_owned();
        parameter(&mut target, "key", &publication.key);
        if let Destination::Route { route, delay } = &publication.to {
            parameter(&mut target, "route", route);
            parameter(&mut target, "delay_ms", delay.as_millis());
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(target)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-router-hops", u16::from(publication.hops));
        if let Some(trace) = &publication.traceparent {
            request = request.header("traceparent", trace);
        }
        let request = request.body(Full::new(publication.body)).map_err(|error| self.broken(&error))?;
        let PublishedAnswer { event_id, seq, routed, .. } = self.call(request).await?;
        Ok(Accepted { published: Published { routed, seq }, event_id, body: None })
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        let mut target = "/api/v1/events".to_owned();
        if let Some(last) = query.last {
            parameter(&mut target, "last", last);
        }
        if let Some(pattern) = &query.pattern {
            parameter(&mut target, "key", pattern);
        }
        if query.unmatched {
            parameter(&mut target, "unmatched", true);
        }
        if let Some(session) = &query.session {
            parameter(&mut target, "session", session);
        }
        self.get::<EventsAnswer>(target).await.map(|answer| answer.events)
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        self.get::<EventsAnswer>(format!("/api/v1/events/{}", encoded(reference))).await.map(|answer| answer.events)
    }

    async fn follow(&self, request: &FollowRequest) -> Result<Followed, AdminError> {
        let mut target = "/api/v1/watch".to_owned();
        let FollowRequest { after, key, session, route, when, from, to, limit, wait_ms, behind_max } = request;
        let mut parameter = |name, value: Option<String>| value.into_iter().for_each(|value| parameter(&mut target, name, value));
        parameter("after", after.map(|after| after.to_string()));
        parameter("key", key.as_ref().map(ToString::to_string));
        parameter("session", session.clone());
        parameter("route", route.as_ref().map(ToString::to_string));
        parameter("when", when.as_ref().map(ToString::to_string));
        parameter("from", from.map(|from| from.to_string()));
        parameter("to", to.map(|to| to.to_string()));
        parameter("limit", limit.map(|limit| limit.to_string()));
        parameter("wait_ms", (*wait_ms > 0).then(|| wait_ms.to_string()));
        parameter("behind_max", behind_max.map(|behind| behind.to_string()));
        self.get::<Named<Followed>>(target).await.map(|answer| answer.result)
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        let mut target = "/api/v1/dead-letters".to_owned();
        which(&mut target, query);
        if let Some(limit) = query.limit {
            parameter(&mut target, "limit", limit);
        }
        self.get::<DeadLettersAnswer>(target).await.map(|answer| answer.dead_letters)
    }

    async fn dead_letter(&self, id: &str) -> Result<StoredDeadLetter, AdminError> {
        self.get::<DeadLetterAnswer>(format!("/api/v1/dead-letters/{}", encoded(id))).await.map(|answer| answer.dead_letter)
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<DeadLetterGroups, AdminError> {
        let mut target = "/api/v1/dead-letters/groups".to_owned();
        which(&mut target, query);
        self.get::<Named<DeadLetterGroups>>(target).await.map(|answer| answer.result)
    }

    async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        self.post("/api/v1/dead-letters/redrive".to_owned(), request).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        self.post("/api/v1/dead-letters/discard".to_owned(), selection).await
    }

    async fn command(&self, route: &RouteName, command: RouteCommand) -> Result<RouteCommanded, AdminError> {
        let word = serde_json::to_value(command).map_err(|error| self.broken(&error))?;
        self.post(format!("/api/v1/routes/{route}/{}", word.as_str().unwrap_or_default()), &serde_json::Value::Null).await
    }

    async fn enable(&self, route: &RouteName, request: EnableRequest) -> Result<Enabled, AdminError> {
        self.post(format!("/api/v1/routes/{route}/enable"), &request).await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<SessionList, AdminError> {
        let mut target = "/api/v1/sessions".to_owned();
        if let Some(last) = query.last {
            parameter(&mut target, "last", last);
        }
        if let Some(since) = query.since {
            parameter(&mut target, "since", since);
        }
        if let Some(state) = query.state {
            parameter(&mut target, "state", state.name());
        }
        let texts = [("project", &query.project), ("branch", &query.branch), ("feature", &query.feature), ("ticket", &query.ticket), ("model", &query.model)];
        for (name, value) in texts {
            if let Some(value) = value {
                parameter(&mut target, name, value);
            }
        }
        self.get::<Named<SessionList>>(target).await.map(|answer| answer.result)
    }

    async fn session(&self, id: &str) -> Result<SessionShown, AdminError> {
        self.get::<Named<SessionShown>>(format!("/api/v1/sessions/{}", encoded(id))).await.map(|answer| answer.result)
    }

    async fn session_stats(&self, query: &StatsQuery) -> Result<SessionStats, AdminError> {
        let mut target = "/api/v1/sessions/stats".to_owned();
        parameter(&mut target, "by", query.by.name());
        for (name, moment) in [("since", query.since), ("until", query.until)] {
            if let Some(moment) = moment {
                parameter(&mut target, name, moment);
            }
        }
        if let Some(zone) = &query.zone {
            parameter(&mut target, "zone", zone);
        }
        self.get::<Named<SessionStats>>(target).await.map(|answer| answer.result)
    }

    async fn import_sessions(&self, sessions: Vec<SessionEntry>) -> Result<SessionsImported, AdminError> {
        self.post("/api/v1/sessions/import".to_owned(), &ImportRequest { sessions }).await
    }

    async fn reload(&self) -> Result<Reloaded, AdminError> {
        self.post("/api/v1/reload".to_owned(), &serde_json::Value::Null).await
    }
}
