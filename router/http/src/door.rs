//! The TCP door: where events come in, and `GET /healthz`, which says that the process is alive.
//!
//! Beyond loopback it listens only if it has tokens; [`crate::guard`] says who is let in. Its paths are those of `ingest`, `bloodbank`
//! and `claude_hooks`, those of the admin API for clients with a token for it, and those that [`Door::with`] adds.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use router_api::{Admin, Chance, Clock, DecodeLimits};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    api,
    bloodbank::{self, Intake},
    claude_endings::Endings,
    claude_hooks,
    claude_sessions::{SESSIONS_MAX, Sessions},
    connections::{self, ServeLimits},
    guard::{self, Access},
    ingest::{Ingest, post_event},
    metrics::{self, Telemetry},
    openapi,
    paths::{Paths, get, post},
    wire::{ErrorAnswer, ErrorKind},
};

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address can be reached from other machines, and no client has a token.
    #[error("`{0}` can be reached from other machines, so clients need tokens: set `[http] tokens` or `admin_tokens`, or listen on `127.0.0.1` or `[::1]`")]
    NotLoopback(SocketAddr),
    /// A program that is known listens there.
    #[error("`{address}` is taken by {by}: stop it, or run beside it with `listen = \"off\"` or another address in `[http]`")]
    TakenBy {
        /// Where.
        address: SocketAddr,
        /// Which.
        by: &'static str,
    },
    /// Another program listens there.
    #[error("`{0}` is taken by another program: stop it, set another `[http] listen`, or set `listen = \"off\"`")]
    Taken(SocketAddr),
    /// The system refused.
    #[error("cannot listen on `{address}`: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A listening TCP door. It answers from [`Door::serve`] on; until then callers wait.
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
    admin: Arc<dyn Admin>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    decode: DecodeLimits,
    limits: ServeLimits,
    telemetry: Option<Telemetry>,
    more: Router,
    sessions: Arc<Sessions>,
    abandoned_after: Option<Duration>,
}

/// What a door works with.
pub struct DoorParts {
    /// The router behind it.
    pub admin: Arc<dyn Admin>,
    /// For the time of envelopes that are made here.
    pub clock: Arc<dyn Clock>,
    /// For their ids.
    pub chance: Arc<dyn Chance>,
    /// What an event may be at most.
    pub decode: DecodeLimits,
}

impl Door {
    /// Begins to listen. Port 0 takes a free one: see [`Door::address`].
    ///
    /// # Errors
    ///
    /// When the address is beyond loopback and `access` has no tokens, when it is taken, or refused by the system.
    pub async fn bind(address: SocketAddr, access: Access, parts: DoorParts) -> Result<Self, DoorError> {
        if !guard::is_loopback(address.ip()) && !access.has_tokens() {
            return Err(DoorError::NotLoopback(address));
        }
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(who_listens(address).await.map_or(DoorError::Taken(address), |by| DoorError::TakenBy { address, by }));
            }
            Err(source) => return Err(DoorError::Io { address, source }),
        };
        let address = listener.local_addr().map_err(|source| DoorError::Io { address, source })?;
        let DoorParts { admin, clock, chance, decode } = parts;
        Ok(Self {
            listener,
            address,
            access,
            admin,
            clock,
            chance,
            decode,
            limits: ServeLimits::default(),
            telemetry: None,
            more: Router::new(),
            sessions: Arc::new(Sessions::new(SESSIONS_MAX)),
            abandoned_after: None,
        })
    }

    /// Adds paths, behind the same guard: where there are tokens they need one.
    ///
    /// # Panics
    ///
    /// When a path is there already.
    #[must_use]
    pub fn with(mut self, paths: Router) -> Self {
        self.more = self.more.merge(paths);
        self
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

    /// Ends sessions of Claude Code's HTTP hooks that were silent for so long, while it answers.
    #[must_use]
    pub fn ends_abandoned(mut self, after: Duration) -> Self {
        self.abandoned_after = Some(after);
        self
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`, then lets requests that run finish, within the limits.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let router = self.router();
        let endings =
            self.abandoned_after.map(|after| Endings { ingest: self.ingest(), clock: Arc::clone(&self.clock), sessions: Arc::clone(&self.sessions), after });
        let endings = endings.map(|endings| tokio::spawn(endings.run()));
        connections::serve(self.listener, router, self.limits, shutdown).await;
        if let Some(endings) = endings {
            endings.abort();
        }
    }

    fn ingest(&self) -> Ingest {
        Ingest {
            admin: Arc::clone(&self.admin),
            limits: self.decode,
            body_timeout: self.limits.body_timeout,
            publish_timeout: self.limits.publish_timeout,
            addressing: false,
        }
    }

    fn paths(&self) -> Paths {
        let intake = Intake { ingest: self.ingest(), clock: Arc::clone(&self.clock), chance: Arc::clone(&self.chance) };
        let only_admins = middleware::from_fn_with_state(Arc::new(self.access.clone()), guard::only_admins);
        let admin = api::paths(&self.admin, self.decode, self.limits).behind(|router| router.layer(only_admins));
        paths(intake, Arc::clone(&self.sessions)).merge(metrics::routes(self.telemetry.as_ref(), &self.admin)).merge(openapi::routes()).merge(admin)
    }

    fn router(&self) -> Router {
        let guard = Arc::new((self.access.clone(), self.address));
        self.paths()
            .into_router()
            .merge(self.more.clone())
            .fallback(|| async { ErrorAnswer::new(ErrorKind::NotFound, "no such path: events come in at `POST /events`; docs/http.md lists the others") })
            .method_not_allowed_fallback(|| async { ErrorAnswer::new(ErrorKind::MethodNotAllowed, "this path has another method") })
            .layer(middleware::from_fn(guard::only_text))
            .layer(middleware::from_fn_with_state(guard, admit))
    }
}

/// The paths that events come in by, and `/healthz`.
fn paths(intake: Intake, sessions: Arc<Sessions>) -> Paths {
    let events = Paths::new().route("/events", post(post_event)).with_state(intake.ingest.clone());
    Paths::new().route("/healthz", get(healthz)).merge(events).merge(bloodbank::routes(intake.clone())).merge(claude_hooks::routes(intake, sessions))
}

/// Alive, whatever the store or the routes do: nothing but this process is asked.
async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "ok": true, "service": "event-router" }))
}

async fn admit(State(guard): State<Arc<(Access, SocketAddr)>>, mut request: Request, next: Next) -> Response {
    let (access, address) = &*guard;
    match access.check(request.method(), request.uri(), request.headers(), *address) {
        Ok(client) => {
            if let Some(client) = client {
                request.extensions_mut().insert(client);
            }
            next.run(request).await
        }
        Err(answer) => answer.into_response(),
    }
}

/// Bytes of an answer that are looked at to recognise who gave it.
const ANSWER_BYTES_MAX: u64 = 4_096;

/// For whoever holds the port to say who it is: nobody waits for it but a router that cannot start.
const WHO_LIMIT: Duration = Duration::from_secs(5);

/// Asks whoever listens there who it is: a Bloodbank, or a router like this one. `None` if it does not say so within a few seconds.
async fn who_listens(address: SocketAddr) -> Option<&'static str> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| &answer[at + 4..])?;
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        match body["service"].as_str()? {
            "bloodbank" => Some("a running Bloodbank"),
            "event-router" => Some("another event-router"),
            _ => None,
        }
    };
    tokio::time::timeout(WHO_LIMIT, asking).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_trait::async_trait;
    use router_api::{AdminError, ArchivedEvent, BoxFuture, DeadLetterQuery, EventQuery, Publication, Published, RouterStatus, StoredDeadLetter};

    use super::*;
    use crate::{Scrape, openapi::openapi};

    /// Behind a door that nobody asks.
    struct Nobody;

    #[async_trait]
    impl Admin for Nobody {
        async fn status(&self) -> Result<RouterStatus, AdminError> {
            unreachable!()
        }

        async fn publish(&self, _: Publication) -> Result<Published, AdminError> {
            unreachable!()
        }

        async fn events(&self, _: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
            unreachable!()
        }

        async fn event(&self, _: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
            unreachable!()
        }

        async fn dead_letters(&self, _: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
            unreachable!()
        }

        async fn dead_letter(&self, _: &str) -> Result<StoredDeadLetter, AdminError> {
            unreachable!()
        }
    }

    impl Clock for Nobody {
        fn now(&self) -> jiff::Timestamp {
            unreachable!()
        }

        fn monotonic(&self) -> Duration {
            unreachable!()
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            unreachable!()
        }
    }

    impl Chance for Nobody {
        fn next_u64(&self) -> u64 {
            unreachable!()
        }
    }

    impl Scrape for Nobody {
        fn scrape(&self, _: Option<&RouterStatus>) -> String {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn what_is_served_is_described_and_what_is_described_is_served() {
        let nobody = Arc::new(Nobody);
        let parts = DoorParts { admin: nobody.clone(), clock: nobody.clone(), chance: nobody.clone(), decode: DecodeLimits::default() };
        let door = Door::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Access::default(), parts).await.unwrap();
        let door = door.telemetry(Telemetry { scrape: nobody, readiness: crate::Readiness::default() });
        let served: BTreeSet<String> = door.paths().all().iter().map(|(method, path)| format!("{method} {}", path.replace("{*", "{"))).collect();
        let mut described = BTreeSet::new();
        for (path, methods) in openapi()["paths"].as_object().unwrap() {
            // Each of the actions is described on its own, since each has its own body; they are served as one path.
            let path = match path.strip_prefix("/events/agent/{name}/") {
                Some(_) => "/events/agent/{name}/{action}",
                None => path,
            };
            described.extend(methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_ascii_uppercase())));
        }
        assert_eq!(served, described);
    }
}
