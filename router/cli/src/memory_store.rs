//! What `try` gives a handler as its store: plugin state in memory, nothing kept.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{ArchivedEvent, EventQuery, FrozenBurst, InboxKey, NotedAttempts, RouteName, RunningSlot, Store, StoreError, Suspect};
use serde_json::Value;

/// Forgets everything at its end.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    state: Mutex<HashMap<(RouteName, String), Value>>,
}

const NO_PANIC: &str = "no code panics while it holds the state";

#[async_trait]
impl Store for MemoryStore {
    async fn inbox_contains(&self, _route: &RouteName, _key: &str, _now: Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn inbox_insert(&self, _route: &RouteName, _keys: &[InboxKey]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn freeze(&self, _route: &RouteName, _burst: &FrozenBurst) -> Result<(), StoreError> {
        Ok(())
    }

    async fn thaw(&self, _route: &RouteName, _burst: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn frozen(&self, _route: &RouteName) -> Result<Vec<FrozenBurst>, StoreError> {
        Ok(Vec::new())
    }

    async fn note_attempts(&self, _route: &RouteName, _noted: NotedAttempts) -> Result<(), StoreError> {
        Ok(())
    }

    async fn forget_attempts(&self, _route: &RouteName, _identities: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn noted_attempts(&self, _route: &RouteName) -> Result<Vec<NotedAttempts>, StoreError> {
        Ok(Vec::new())
    }

    fn begin_running(&self, _route: &RouteName, _identity: &str) -> Option<RunningSlot> {
        None
    }

    fn end_running(&self, _slot: RunningSlot) {}

    async fn suspects(&self, _route: &RouteName) -> Result<Vec<Suspect>, StoreError> {
        Ok(Vec::new())
    }

    async fn clear_suspect(&self, _route: &RouteName, _identity: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn state(&self, route: &RouteName, key: &str) -> Result<Option<Value>, StoreError> {
        Ok(self.state.lock().expect(NO_PANIC).get(&(route.clone(), key.to_owned())).cloned())
    }

    async fn set_state(&self, route: &RouteName, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        let mut state = self.state.lock().expect(NO_PANIC);
        match value {
            Some(value) => state.insert((route.clone(), key.to_owned()), value),
            None => state.remove(&(route.clone(), key.to_owned())),
        };
        Ok(())
    }

    async fn record_config(&self, _hash: &str, _text: &str, _since: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn events(&self, _query: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError> {
        Ok(Vec::new())
    }

    async fn event(&self, _reference: &str) -> Result<Vec<ArchivedEvent>, StoreError> {
        Ok(Vec::new())
    }
}
