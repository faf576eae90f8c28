//! The store that outlives processes, reached through a port that fails, is late, and dies with its process.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    ArchivedEvent, EventQuery, FrozenBurst, InboxKey, LedgerEntry, LedgerKey, LedgerResult, NotedAttempts, RouteName, RunningSlot, Store, StoreError, Suspect,
};
use router_testkit::MemoryStore;
use serde_json::Value;

use crate::world::Port;

#[derive(Debug)]
pub struct SimStore {
    pub port: Port,
    pub store: MemoryStore,
}

impl SimStore {
    /// A call is made, and comes to nothing or goes on.
    async fn call(&self, what: &'static str) -> Result<(), StoreError> {
        self.port.pass(what).await;
        let rates = &self.port.world.plan.rates;
        if let Some(mut dice) = self.port.trouble(what) {
            if dice.hits(rates.late) {
                self.port.sleep(Duration::from_millis(dice.between(1, 200)), what).await;
            }
            if dice.hits(rates.store) {
                self.port.world.trace(|| format!("the store fails at {what}"));
                return Err(StoreError { message: "the simulation says so".to_owned(), full: false });
            }
        }
        Ok(())
    }

    async fn answer<T>(&self, what: &'static str, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = answer.await;
        self.port.pass(what).await;
        answer
    }
}

#[async_trait]
impl Store for SimStore {
    async fn inbox_contains(&self, route: &RouteName, key: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.call("inbox_contains").await?;
        self.store.inbox_contains(route, key, now).await
    }

    async fn inbox_insert(&self, route: &RouteName, keys: &[InboxKey]) -> Result<(), StoreError> {
        self.call("inbox_insert").await?;
        {
            let world = &self.port.world;
            let mut inner = world.lock();
            let numbers: Vec<u64> = keys.iter().filter_map(|key| inner.number_of_id(&key.key)).collect();
            for number in numbers {
                inner.oracle.remembered(world.route(route), number);
            }
        }
        self.answer("inbox_inserted", self.store.inbox_insert(route, keys)).await
    }

    async fn freeze(&self, route: &RouteName, burst: &FrozenBurst) -> Result<(), StoreError> {
        self.call("freeze").await?;
        self.port.world.lock().bursts.insert((route.clone(), burst.id.clone()), burst.members.clone());
        self.port.world.trace(|| format!("{route} freezes burst {} of {:?}", burst.id, burst.members));
        self.answer("frozen", self.store.freeze(route, burst)).await
    }

    async fn thaw(&self, route: &RouteName, burst: &str) -> Result<(), StoreError> {
        self.call("thaw").await?;
        self.store.thaw(route, burst).await
    }

    async fn frozen(&self, route: &RouteName) -> Result<Vec<FrozenBurst>, StoreError> {
        self.call("frozen_bursts").await?;
        self.store.frozen(route).await
    }

    async fn note_attempts(&self, route: &RouteName, noted: NotedAttempts) -> Result<(), StoreError> {
        self.call("note_attempts").await?;
        self.answer("noted", self.store.note_attempts(route, noted)).await
    }

    async fn forget_attempts(&self, route: &RouteName, identities: &[String]) -> Result<(), StoreError> {
        self.call("forget_attempts").await?;
        self.store.forget_attempts(route, identities).await
    }

    async fn noted_attempts(&self, route: &RouteName) -> Result<Vec<NotedAttempts>, StoreError> {
        self.call("noted_attempts").await?;
        self.store.noted_attempts(route).await
    }

    fn begin_running(&self, route: &RouteName, identity: &str) -> Option<RunningSlot> {
        if self.port.is_alive() { self.store.begin_running(route, identity) } else { None }
    }

    fn end_running(&self, slot: RunningSlot) {
        if self.port.is_alive() {
            self.store.end_running(slot);
        }
    }

    async fn suspects(&self, route: &RouteName) -> Result<Vec<Suspect>, StoreError> {
        self.call("suspects").await?;
        self.store.suspects(route).await
    }

    async fn clear_suspect(&self, route: &RouteName, identity: &str) -> Result<(), StoreError> {
        self.call("clear_suspect").await?;
        self.store.clear_suspect(route, identity).await
    }

    async fn ledger_begin(&self, route: &RouteName, key: &LedgerKey, now: Timestamp) -> Result<Option<LedgerEntry>, StoreError> {
        self.call("ledger_begin").await?;
        self.answer("ledger_begun", self.store.ledger_begin(route, key, now)).await
    }

    async fn ledger_end(&self, route: &RouteName, key: &LedgerKey, result: LedgerResult) -> Result<(), StoreError> {
        self.call("ledger_end").await?;
        self.answer("ledger_ended", self.store.ledger_end(route, key, result)).await
    }

    async fn ledger_forget(&self, route: &RouteName, keys: &[LedgerKey]) -> Result<(), StoreError> {
        self.call("ledger_forget").await?;
        self.store.ledger_forget(route, keys).await
    }

    async fn ledger_clear(&self, route: &RouteName, subject: &str) -> Result<u64, StoreError> {
        self.call("ledger_clear").await?;
        self.store.ledger_clear(route, subject).await
    }

    async fn ledger(&self, route: &RouteName, subject: &str) -> Result<Vec<LedgerEntry>, StoreError> {
        self.call("ledger").await?;
        self.store.ledger(route, subject).await
    }

    async fn state(&self, route: &RouteName, key: &str) -> Result<Option<Value>, StoreError> {
        self.call("state").await?;
        self.store.state(route, key).await
    }

    async fn set_state(&self, route: &RouteName, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        self.call("set_state").await?;
        self.answer("state_set", self.store.set_state(route, key, value)).await
    }

    async fn record_config(&self, hash: &str, text: &str, since: Timestamp) -> Result<(), StoreError> {
        self.call("record_config").await?;
        self.store.record_config(hash, text, since).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError> {
        self.store.events(query).await
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, StoreError> {
        self.store.event(reference).await
    }
}
