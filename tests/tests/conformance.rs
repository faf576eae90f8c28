//! Every transport passes one suite of behaviours. What each one can do, and which cases it skips for that, is pinned here.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{Clock, Features, Store, Transport};
use router_embedded::{Embedded, EmbeddedOptions};
use router_testkit::{
    VirtualClock,
    conformance::{self, Abilities, Factory, MemoryFactory, Stop, Subject},
};
use rusqlite::Connection;
use tempfile::TempDir;

const MEMORY: Features = Features {
    persistent: true,
    filters_at_intake: true,
    inbox_in_settlement: true,
    holds_lanes: true,
    archives: true,
    competing_consumers: true,
    exact_times: true,
};

#[tokio::test]
async fn the_memory_transport_conforms() {
    conformance::run("memory", &MemoryFactory, MEMORY).await.expect(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_transport_conforms_on_several_threads() {
    conformance::run("memory, several threads", &MemoryFactory, MEMORY).await.expect(&[]);
}

const EMBEDDED: Features = Features {
    persistent: true,
    filters_at_intake: true,
    inbox_in_settlement: true,
    holds_lanes: true,
    archives: true,
    competing_consumers: false,
    exact_times: true,
};

/// Single active consumer; and nothing but the end of the process can break a session within it.
const EMBEDDED_SKIPS: &[&str] = &["competing_consumers_share_a_queue", "a_broken_session_gives_back_what_was_in_hand"];

#[tokio::test]
async fn the_embedded_transport_conforms() {
    conformance::run("embedded", &EmbeddedFactory, EMBEDDED).await.expect(EMBEDDED_SKIPS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_transport_conforms_on_several_threads() {
    conformance::run("embedded, several threads", &EmbeddedFactory, EMBEDDED).await.expect(EMBEDDED_SKIPS);
}

/// Opens embedded stores in directories of their own, on virtual clocks.
struct EmbeddedFactory;

struct EmbeddedSubject {
    directory: TempDir,
    clock: VirtualClock,
    /// Empty only while it restarts.
    open: Option<Arc<Embedded>>,
    /// Another program that holds the file's write lock, while settlements are to fail.
    intruder: Mutex<Option<Connection>>,
}

impl EmbeddedSubject {
    fn options(&self) -> EmbeddedOptions {
        EmbeddedOptions {
            // The suite is about behaviour; what a disk does in a power failure is not seen by it.
            sync: false,
            reserve_bytes: 0,
            busy_timeout: Duration::from_millis(100),
            ..EmbeddedOptions::new(self.directory.path().join("router.db"))
        }
    }

    fn open(&mut self) {
        let open = Embedded::open(self.options(), Arc::new(self.clock.clone()));
        self.open = Some(open.unwrap_or_else(|error| panic!("the store does not open: {error}")));
    }

    fn embedded(&self) -> Arc<Embedded> {
        Arc::clone(self.open.as_ref().expect("it is open but for the moment of a restart"))
    }
}

#[async_trait]
impl Factory for EmbeddedFactory {
    fn abilities(&self) -> Abilities {
        Abilities { restart: true, kill: true, fail_settles: true, lose_session: false }
    }

    async fn open(&self) -> Box<dyn Subject> {
        let directory = TempDir::new().expect("a directory for temporary files");
        let mut subject = EmbeddedSubject { directory, clock: VirtualClock::default(), open: None, intruder: Mutex::new(None) };
        subject.open();
        Box::new(subject)
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn transport(&self) -> Arc<dyn Transport> {
        self.embedded()
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.embedded())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    async fn pass(&self, duration: Duration) {
        self.clock.pass(duration).await;
    }

    fn delay(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(150)
    }

    async fn restart(&mut self, stop: Stop) {
        let old = self.open.take().expect("it is open");
        if stop == Stop::Clean {
            old.close().await;
        }
        let watch = Arc::downgrade(&old);
        // Dropping without closing leaves the file as a process that died does.
        drop(old);
        assert!(watch.upgrade().is_none(), "a case still holds the store, so that it cannot end");
        self.open();
    }

    async fn fail_settles(&self, failing: bool) {
        let mut intruder = self.intruder.lock().expect("no other code holds it");
        *intruder = failing.then(|| {
            let connection = Connection::open(self.options().path).expect("the file opens");
            connection.execute_batch("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE").expect("the write lock is free for a moment");
            connection
        });
    }

    async fn end(self: Box<Self>) {
        self.embedded().close().await;
        let findings = self.embedded().findings();
        assert!(findings.is_empty(), "the store found damage in itself: {findings:?}");
    }
}
