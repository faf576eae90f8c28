//! What monitors are told of a running router: joins the core's numbers with what only the program knows (the store's size, lost log
//! lines), and keeps what `/readyz` says in step with the router.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use router_api::{Clock, RouterStatus};
use router_core::{
    metrics::{Metrics, ProcessFigures},
    observe::{Observer, RouterEvent},
    sessions::SessionBook,
};
use router_http::{Readiness, Scrape, Telemetry};

use crate::{log_pipe, spool::SpoolFigures};

/// An observer of the router, and the source of its doors' `/metrics` and `/readyz`.
pub(crate) struct RouterTelemetry {
    metrics: Metrics,
    readiness: Readiness,
    clock: Arc<dyn Clock>,
    store: PathBuf,
    spool: Arc<SpoolFigures>,
    sessions: OnceLock<Arc<SessionBook>>,
}

impl RouterTelemetry {
    /// Of a router that keeps its events in `store`, and takes others from a spool.
    pub(crate) fn new(clock: Arc<dyn Clock>, store: &Path, spool: Arc<SpoolFigures>) -> Arc<Self> {
        let (metrics, readiness) = (Metrics::new(Arc::clone(&clock)), Readiness::default());
        Arc::new(Self { metrics, readiness, clock, store: store.to_owned(), spool, sessions: OnceLock::new() })
    }

    /// What `/readyz` says.
    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Tells of these sessions, too.
    pub(crate) fn of_sessions(&self, sessions: Arc<SessionBook>) {
        // A second call would be of the same router.
        let _ = self.sessions.set(sessions);
    }

    /// For a door.
    pub(crate) fn of_door(self: &Arc<Self>) -> Telemetry {
        Telemetry { scrape: Arc::clone(self) as Arc<dyn Scrape>, readiness: self.readiness.clone() }
    }
}

impl Observer for RouterTelemetry {
    fn observe(&self, event: &RouterEvent) {
        match event {
            RouterEvent::ConfigApplied { hash } => self.readiness.applied(hash.as_str(), self.clock.now()),
            RouterEvent::ConfigRefused { error } => self.readiness.refused(error.as_str(), self.clock.now()),
            RouterEvent::Draining => self.readiness.draining(),
            _ => {}
        }
        self.metrics.observe(event);
    }
}

impl Scrape for RouterTelemetry {
    fn scrape(&self, status: Option<&RouterStatus>) -> String {
        let sessions = self.sessions.get().map(|sessions| sessions.figures()).unwrap_or_default();
        let process = ProcessFigures { store_bytes: bytes_of(&self.store), log_lines_dropped: log_pipe::lines_dropped(), sessions };
        let mut text = self.metrics.render(status, process);
        self.spool.render(&mut text);
        text
    }
}

/// The file and its write-ahead log; `None` when there is no file.
fn bytes_of(store: &Path) -> Option<u64> {
    let bytes = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.len());
    let mut log = OsString::from(store);
    log.push("-wal");
    Some(bytes(store)? + bytes(Path::new(&log)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_store_has_its_log_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("router.db");
        assert_eq!(bytes_of(&store), None);
        fs::write(&store, [0; 100]).unwrap();
        assert_eq!(bytes_of(&store), Some(100));
        fs::write(directory.path().join("router.db-wal"), [0; 11]).unwrap();
        assert_eq!(bytes_of(&store), Some(111));
    }
}
