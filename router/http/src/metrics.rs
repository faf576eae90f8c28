//! `GET /metrics`: the router's numbers in Prometheus's text format, and what both doors need to serve it and `/readyz`.
//!
//! What is counted, and how it reads, is decided behind [`Scrape`].

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use router_api::{Admin, RouterStatus};

use crate::{
    paths::{Paths, get},
    ready::{self, Readiness},
};

/// Prometheus's text format.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A store that has not answered after so long counts as one that does not; scrapers mostly wait 10 seconds.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes the text of a scrape. Must not block.
pub trait Scrape: Send + Sync + 'static {
    /// All numbers as text. `status` is the router as it stands, `None` when its store does not answer.
    fn scrape(&self, status: Option<&RouterStatus>) -> String;
}

/// What a door tells monitors.
#[derive(Clone)]
pub struct Telemetry {
    /// Behind `/metrics`.
    pub scrape: Arc<dyn Scrape>,
    /// Behind `/readyz`.
    pub readiness: Readiness,
}

#[derive(Clone)]
pub(crate) struct Watched {
    pub telemetry: Telemetry,
    pub admin: Arc<dyn Admin>,
}

impl Watched {
    /// The router as it stands, or why it cannot say so.
    pub(crate) async fn status(&self) -> Result<RouterStatus, String> {
        match tokio::time::timeout(STATUS_TIMEOUT, self.admin.status()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", STATUS_TIMEOUT.as_secs())),
        }
    }
}

/// `/metrics` and `/readyz`; nothing where there is no telemetry.
pub(crate) fn routes(telemetry: Option<&Telemetry>, admin: &Arc<dyn Admin>) -> Paths {
    let Some(telemetry) = telemetry else { return Paths::new() };
    let watched = Watched { telemetry: telemetry.clone(), admin: Arc::clone(admin) };
    Paths::new().route("/metrics", get(metrics)).route("/readyz", get(ready::readyz)).with_state(watched)
}

async fn metrics(State(watched): State<Watched>) -> Response {
    let status = watched.status().await.ok();
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], watched.telemetry.scrape.scrape(status.as_ref())).into_response()
}
