//! A transport and a store that take their time with every call, so that whatever two tasks or threads do at once happens in many orders.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    ActiveSessions, ArchiveEntry, ArchivedEvent, Chance, Consumer, Delivery, EventQuery, FateRecord, Features, FrozenBurst, InboxKey, KeptSession, LedgerEntry,
    LedgerKey, LedgerResult, NotedAttempts, Page, PageQuery, Publication, Published, RouteName, RunningSlot, Session, SessionQuery, SettleError, Settlement,
    StatsRow, Store, StoreError, StoredSession, Subscription, SumsQuery, Suspect, Transport, TransportAdmin, TransportError,
};
use serde_json::Value;

use crate::SeededChance;

/// How long a call is held up before it does anything, and again after it has: a few turns of other tasks, drawn from a seed.
#[derive(Debug)]
pub struct Pauses {
    chance: SeededChance,
    turns_max: u64,
    blocks_max: Duration,
}

/// Of the calls that could block their thread, so many go on at once.
const AT_ONCE_OF_8: u64 = 7;

impl Pauses {
    /// Up to `turns_max` turns. On one thread, the same seed gives the same run.
    #[must_use]
    pub fn new(seed: u64, turns_max: u32) -> Arc<Self> {
        Self::blocking(seed, turns_max, Duration::ZERO)
    }

    /// The same, and every eighth call blocks its thread for up to `blocks_max` of real time: for tests with several threads, one of which
    /// is to stand still between any two lines.
    #[must_use]
    pub fn blocking(seed: u64, turns_max: u32, blocks_max: Duration) -> Arc<Self> {
        Arc::new(Self { chance: SeededChance::new(seed), turns_max: turns_max.into(), blocks_max })
    }

    /// Of a task.
    pub async fn pause(&self) {
        for _ in 0..self.chance.next_u64() % (self.turns_max + 1) {
            tokio::task::yield_now().await;
        }
        self.block();
    }

    /// Of a thread.
    pub fn block(&self) {
        if !self.blocks_max.is_zero() && self.chance.next_u64() % 8 >= AT_ONCE_OF_8 {
            std::thread::sleep(self.blocks_max.mul_f64(self.chance.fraction()));
        }
    }

    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        self.pause().await;
        let answer = call.await;
        self.pause().await;
        answer
    }
}

/// See the module. What it cannot do is what the transport within cannot do.
pub struct YieldingTransport {
    transport: Arc<dyn Transport>,
    pauses: Arc<Pauses>,
    features: Features,
}

impl YieldingTransport {
    /// Over `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, pauses: Arc<Pauses>) -> Self {
        Self { features: transport.features(), transport, pauses }
    }

    /// … that leaves the inbox to the store, holds no lanes and knows no exact times, as a bus does.
    #[must_use]
    pub fn like_a_bus(transport: Arc<dyn Transport>, pauses: Arc<Pauses>) -> Self {
        let features = Features { inbox_in_settlement: false, holds_lanes: false, exact_times: false, ..transport.features() };
        Self { features, transport, pauses }
    }
}

#[async_trait]
impl Transport for YieldingTransport {
    fn name(&self) -> &'static str {
        self.transport.name()
    }

    fn features(&self) -> Features {
        self.features
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.pauses.around(self.transport.bind(subscriptions)).await
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        let consumer = self.pauses.around(self.transport.consume(route, prefetch)).await?;
        let holds_lanes = self.features.holds_lanes;
        Ok(Arc::new(YieldingConsumer { consumer, pauses: Arc::clone(&self.pauses), holds_lanes, found: Mutex::default() }))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        self.pauses.around(self.transport.publish(publication)).await
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Result<Vec<Published>, (Vec<Published>, TransportError)> {
        self.pauses.around(self.transport.publish_all(publications)).await
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self.transport.admin()
    }

    async fn close(&self) {
        self.pauses.around(self.transport.close()).await;
    }
}

struct YieldingConsumer {
    consumer: Arc<dyn Consumer>,
    pauses: Arc<Pauses>,
    holds_lanes: bool,
    /// Found by a look that was dropped before it could tell.
    found: Mutex<Option<Result<Delivery, TransportError>>>,
}

impl YieldingConsumer {
    fn found(&self) -> MutexGuard<'_, Option<Result<Delivery, TransportError>>> {
        self.found.lock().expect("no code panics while it holds what was found")
    }
}

#[async_trait]
impl Consumer for YieldingConsumer {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        self.pauses.pause().await;
        if self.found().is_none() {
            let next = self.consumer.next().await?;
            *self.found() = Some(next);
            self.pauses.pause().await;
        }
        self.found().take()
    }

    fn take(&self) -> Option<Delivery> {
        // A failure is told by `next`.
        let found = self.found().take_if(|found| found.is_ok()).and_then(Result::ok);
        found.or_else(|| if self.found().is_some() { None } else { self.consumer.take() })
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        self.pauses.around(self.consumer.settle(deliveries, settlement)).await
    }

    fn records(&self) -> Result<(), String> {
        self.consumer.records()
    }

    fn hold_lane(&self, lane: &str) {
        if self.holds_lanes {
            self.consumer.hold_lane(lane);
        }
    }

    fn free_lane(&self, lane: &str) {
        if self.holds_lanes {
            self.consumer.free_lane(lane);
        }
    }

    async fn renewal_due(&self) {
        self.pauses.around(self.consumer.renewal_due()).await;
    }

    async fn close(&self) {
        self.pauses.pause().await;
        // It goes back with everything else that is in hand.
        self.found().take();
        self.consumer.close().await;
        self.pauses.pause().await;
    }
}

/// See the module.
pub struct YieldingStore {
    store: Arc<dyn Store>,
    pauses: Arc<Pauses>,
}

impl YieldingStore {
    /// Over `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, pauses: Arc<Pauses>) -> Self {
        Self { store, pauses }
    }
}

#[async_trait]
impl Store for YieldingStore {
    async fn inbox_contains(&self, route: &RouteName, key: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.pauses.around(self.store.inbox_contains(route, key, now)).await
    }

    async fn inbox_insert(&self, route: &RouteName, keys: &[InboxKey]) -> Result<(), StoreError> {
        self.pauses.around(self.store.inbox_insert(route, keys)).await
    }

    async fn freeze(&self, route: &RouteName, burst: &FrozenBurst) -> Result<(), StoreError> {
        self.pauses.around(self.store.freeze(route, burst)).await
    }

    async fn thaw(&self, route: &RouteName, burst: &str) -> Result<(), StoreError> {
        self.pauses.around(self.store.thaw(route, burst)).await
    }

    async fn frozen(&self, route: &RouteName) -> Result<Vec<FrozenBurst>, StoreError> {
        self.pauses.around(self.store.frozen(route)).await
    }

    async fn note_attempts(&self, route: &RouteName, noted: NotedAttempts) -> Result<(), StoreError> {
        self.pauses.around(self.store.note_attempts(route, noted)).await
    }

    async fn forget_attempts(&self, route: &RouteName, identities: &[String]) -> Result<(), StoreError> {
        self.pauses.around(self.store.forget_attempts(route, identities)).await
    }

    async fn noted_attempts(&self, route: &RouteName) -> Result<Vec<NotedAttempts>, StoreError> {
        self.pauses.around(self.store.noted_attempts(route)).await
    }

    fn begin_running(&self, route: &RouteName, identity: &str) -> Option<RunningSlot> {
        self.pauses.block();
        let slot = self.store.begin_running(route, identity);
        self.pauses.block();
        slot
    }

    fn end_running(&self, slot: RunningSlot) {
        self.pauses.block();
        self.store.end_running(slot);
        self.pauses.block();
    }

    async fn suspects(&self, route: &RouteName) -> Result<Vec<Suspect>, StoreError> {
        self.pauses.around(self.store.suspects(route)).await
    }

    async fn clear_suspect(&self, route: &RouteName, identity: &str) -> Result<(), StoreError> {
        self.pauses.around(self.store.clear_suspect(route, identity)).await
    }

    async fn ledger_begin(&self, route: &RouteName, key: &LedgerKey, now: Timestamp) -> Result<Option<LedgerEntry>, StoreError> {
        self.pauses.around(self.store.ledger_begin(route, key, now)).await
    }

    async fn ledger_end(&self, route: &RouteName, key: &LedgerKey, result: LedgerResult) -> Result<(), StoreError> {
        self.pauses.around(self.store.ledger_end(route, key, result)).await
    }

    async fn ledger_forget(&self, route: &RouteName, keys: &[LedgerKey]) -> Result<(), StoreError> {
        self.pauses.around(self.store.ledger_forget(route, keys)).await
    }

    async fn ledger_clear(&self, route: &RouteName, subject: &str) -> Result<u64, StoreError> {
        self.pauses.around(self.store.ledger_clear(route, subject)).await
    }

    async fn ledger(&self, route: &RouteName, subject: &str) -> Result<Vec<LedgerEntry>, StoreError> {
        self.pauses.around(self.store.ledger(route, subject)).await
    }

    async fn state(&self, route: &RouteName, key: &str) -> Result<Option<Value>, StoreError> {
        self.pauses.around(self.store.state(route, key)).await
    }

    async fn set_state(&self, route: &RouteName, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        self.pauses.around(self.store.set_state(route, key, value)).await
    }

    async fn record_config(&self, hash: &str, text: &str, since: Timestamp) -> Result<(), StoreError> {
        self.pauses.around(self.store.record_config(hash, text, since)).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError> {
        self.pauses.around(self.store.events(query)).await
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, StoreError> {
        self.pauses.around(self.store.event(reference)).await
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        self.pauses.around(self.store.page(query)).await
    }

    async fn archive_position(&self) -> Result<Option<u64>, StoreError> {
        self.pauses.around(self.store.archive_position()).await
    }

    async fn archive(&self, events: Vec<ArchiveEntry>) -> Result<(), StoreError> {
        self.pauses.around(self.store.archive(events)).await
    }

    async fn record_fates(&self, fates: Vec<FateRecord>) -> Result<(), StoreError> {
        self.pauses.around(self.store.record_fates(fates)).await
    }

    async fn active_sessions(&self, events_max: u32) -> Result<ActiveSessions, StoreError> {
        self.pauses.around(self.store.active_sessions(events_max)).await
    }

    async fn stored_sessions(&self, ids: &[String]) -> Result<Vec<StoredSession>, StoreError> {
        self.pauses.around(self.store.stored_sessions(ids)).await
    }

    async fn keep_sessions(&self, sessions: Vec<KeptSession>, read_to: Option<u64>) -> Result<(), StoreError> {
        self.pauses.around(self.store.keep_sessions(sessions, read_to)).await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<Session>, StoreError> {
        self.pauses.around(self.store.sessions(query)).await
    }

    async fn session_sums(&self, query: SumsQuery) -> Result<Vec<StatsRow>, StoreError> {
        self.pauses.around(self.store.session_sums(query)).await
    }
}
