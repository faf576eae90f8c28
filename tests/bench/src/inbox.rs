//! A store in memory that has an inbox and nothing else.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{ArchivedEvent, EventQuery, FrozenBurst, InboxKey, NotedAttempts, RouteName, RunningSlot, Store, StoreError, Suspect};
use serde_json::Value;

/// Keys that are remembered; above this all are forgotten. They have their room from the beginning: a map that grows while the router is
/// measured would be a cost of this double, and of nothing that the program has.
const KEYS_MAX: usize = 100_000;

/// See the module. There is one route, so it does not ask which.
pub struct MemoryInbox {
    done: Mutex<HashMap<Box<str>, Timestamp>>,
}

impl Default for MemoryInbox {
    fn default() -> Self {
        Self { done: Mutex::new(HashMap::with_capacity(KEYS_MAX)) }
    }
}

impl MemoryInbox {
    fn done(&self) -> MutexGuard<'_, HashMap<Box<str>, Timestamp>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryInbox {
    async fn inbox_contains(&self, _: &RouteName, key: &str, now: Timestamp) -> Result<bool, StoreError> {
        Ok(self.done().get(key).is_some_and(|expires_at| *expires_at > now))
    }

    async fn inbox_insert(&self, _: &RouteName, keys: &[InboxKey]) -> Result<(), StoreError> {
        let mut done = self.done();
        if done.len() + keys.len() > KEYS_MAX {
            done.clear();
        }
        done.extend(keys.iter().map(|key| (key.key.as_str().into(), key.expires_at)));
        Ok(())
    }

    async fn freeze(&self, _: &RouteName, _: &FrozenBurst) -> Result<(), StoreError> {
        Ok(())
    }

    async fn thaw(&self, _: &RouteName, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn frozen(&self, _: &RouteName) -> Result<Vec<FrozenBurst>, StoreError> {
        Ok(Vec::new())
    }

    async fn note_attempts(&self, _: &RouteName, _: NotedAttempts) -> Result<(), StoreError> {
        Ok(())
    }

    async fn forget_attempts(&self, _: &RouteName, _: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn noted_attempts(&self, _: &RouteName) -> Result<Vec<NotedAttempts>, StoreError> {
        Ok(Vec::new())
    }

    fn begin_running(&self, _: &RouteName, _: &str) -> Option<RunningSlot> {
        None
    }

    fn end_running(&self, _: RunningSlot) {}

    async fn suspects(&self, _: &RouteName) -> Result<Vec<Suspect>, StoreError> {
        Ok(Vec::new())
    }

    async fn clear_suspect(&self, _: &RouteName, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn state(&self, _: &RouteName, _: &str) -> Result<Option<Value>, StoreError> {
        Ok(None)
    }

    async fn set_state(&self, _: &RouteName, _: &str, _: Option<Value>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn record_config(&self, _: &str, _: &str, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn events(&self, _: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError> {
        Ok(Vec::new())
    }

    async fn event(&self, _: &str) -> Result<Vec<ArchivedEvent>, StoreError> {
        Ok(Vec::new())
    }
}
