//! The memory transport as a subject: the suite's own first customer, and the example for others.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::{Clock, RouteName, Store, Transport};

use super::{Abilities, Factory, Stop, Subject};
use crate::{MemoryState, MemoryStore, MemoryTransport, VirtualClock};

/// Opens memory transports on virtual clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryFactory;

struct MemorySubject {
    state: MemoryState,
    transport: MemoryTransport,
    clock: VirtualClock,
}

#[async_trait]
impl Factory for MemoryFactory {
    fn abilities(&self) -> Abilities {
        Abilities { restart: true, kill: true, fail_settles: true, lose_session: true }
    }

    async fn open(&self) -> Box<dyn Subject> {
        let (state, clock) = (MemoryState::new(), VirtualClock::default());
        let transport = MemoryTransport::new(&state, Arc::new(clock.clone()));
        Box::new(MemorySubject { state, transport, clock })
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.transport.clone())
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(MemoryStore::new(&self.state)))
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
        // All of it runs on one executor, so what would come comes within a few polls.
        Duration::from_millis(20)
    }

    async fn restart(&mut self, stop: Stop) {
        match stop {
            Stop::Clean => self.transport.close().await,
            Stop::Kill => self.state.crash(),
        }
        self.transport = MemoryTransport::new(&self.state, Arc::new(self.clock.clone()));
    }

    async fn fail_settles(&self, failing: bool) {
        self.transport.fail_settles(if failing { u32::MAX } else { 0 });
    }

    async fn lose_session(&self, route: &RouteName) {
        self.transport.lose_session(route);
    }

    async fn end(self: Box<Self>) {
        self.transport.close().await;
        let misuses = self.transport.misuses();
        assert!(misuses.is_empty(), "the suite itself misuses the port: {misuses:?}");
    }
}
