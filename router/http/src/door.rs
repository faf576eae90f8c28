//! The TCP door: `POST /events` takes an event in, `GET /healthz` says that the process is alive.
//!
//! It listens on loopback addresses only, and [`crate::guard`] keeps web pages of elsewhere out.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use router_api::{Admin, DecodeLimits};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    connections::{self, ServeLimits},
    guard,
    ingest::{Ingest, post_event},
    metrics::{self, Telemetry},
    wire::{ErrorAnswer, ErrorKind},
};

/// Why the door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address can be reached from other machines, and the door has no lock.
    #[error("`{0}` can be reached from other machines, and the HTTP door has no authentication: listen on `127.0.0.1` or `[::1]`")]
    NotLoopback(SocketAddr),
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
    admin: Arc<dyn Admin>,
    decode: DecodeLimits,
    limits: ServeLimits,
    telemetry: Option<Telemetry>,
}

impl Door {
    /// Begins to listen. Port 0 takes a free one: see [`Door::address`].
    ///
    /// # Errors
    ///
    /// When the address is beyond loopback, taken, or refused by the system.
    pub async fn bind(address: SocketAddr, admin: Arc<dyn Admin>, decode: DecodeLimits) -> Result<Self, DoorError> {
        if !guard::is_loopback(address.ip()) {
            return Err(DoorError::NotLoopback(address));
        }
        let io = |source: io::Error| if source.kind() == io::ErrorKind::AddrInUse { DoorError::Taken(address) } else { DoorError::Io { address, source } };
        let listener = TcpListener::bind(address).await.map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        Ok(Self { listener, address, admin, decode, limits: ServeLimits::default(), telemetry: None })
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

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`, then lets requests that run finish, within the limits.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let router = self.router();
        connections::serve(self.listener, router, self.limits, shutdown).await;
    }

    fn router(&self) -> Router {
        let ingest = Ingest {
            admin: Arc::clone(&self.admin),
            limits: self.decode,
            body_timeout: self.limits.body_timeout,
            publish_timeout: self.limits.publish_timeout,
            addressing: false,
        };
        Router::new()
            .route("/healthz", get(healthz))
            .merge(metrics::routes(self.telemetry.as_ref(), &self.admin))
            .route("/events", post(post_event))
            .fallback(|| async { ErrorAnswer::new(ErrorKind::NotFound, "no such path: there are `POST /events` and `GET /healthz`") })
            .method_not_allowed_fallback(|| async { ErrorAnswer::new(ErrorKind::MethodNotAllowed, "this path has another method") })
            .layer(middleware::from_fn_with_state(self.address.port(), admit))
            .with_state(ingest)
    }
}

/// Alive, whatever the store or the routes do: nothing but this process is asked.
async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "ok": true, "service": "event-router" }))
}

async fn admit(State(port): State<u16>, request: Request, next: Next) -> Response {
    match guard::check(request.uri(), request.headers(), port) {
        Ok(()) => next.run(request).await,
        Err(answer) => answer.into_response(),
    }
}
