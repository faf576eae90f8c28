//! What a route remembers from before: failed attempts of what waits in hand, suspects of a crash, parked lanes. Read from the
//! store when the route starts, kept up to date by the worker.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard},
};

use jiff::Timestamp;
use router_api::{NotedAttempts, RouteName, Store, StoreError};
use serde_json::json;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    noted: HashMap<String, NotedAttempts>,
    suspects: HashMap<String, u32>,
    parked: BTreeSet<String>,
}

/// The route's own state under this key holds the names of its parked lanes. A plugin cannot reach it: its keys do not begin
/// with a dot.
const PARKED: &str = ".parked";

/// The route's own state under this key is there while an operator has paused it.
const PAUSED: &str = ".paused";

/// Has an operator paused this route?
pub(crate) async fn is_paused(store: &dyn Store, route: &RouteName) -> Result<bool, StoreError> {
    Ok(store.state(route, PAUSED).await?.is_some())
}

/// Remembers an operator's pause, or its end, over restarts.
pub(crate) async fn set_paused(store: &dyn Store, route: &RouteName, since: Option<Timestamp>) -> Result<(), StoreError> {
    store.set_state(route, PAUSED, since.map(|since| json!({ "since": since }))).await
}

impl Memory {
    /// Reads what the store knows of a route.
    pub(crate) async fn load(&self, store: &dyn Store, route: &RouteName) -> Result<(), StoreError> {
        let noted = store.noted_attempts(route).await?;
        let suspects = store.suspects(route).await?;
        let parked = store.state(route, PARKED).await?;
        let mut known = self.known();
        known.noted = noted.into_iter().map(|noted| (noted.identity.clone(), noted)).collect();
        known.suspects = suspects.into_iter().map(|suspect| (suspect.identity, suspect.crashes)).collect();
        let names = parked.as_ref().and_then(|value| value.as_array()).into_iter().flatten();
        known.parked = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        Ok(())
    }

    pub(crate) fn noted(&self, identity: &str) -> Option<NotedAttempts> {
        self.known().noted.get(identity).cloned()
    }

    pub(crate) fn note(&self, noted: NotedAttempts) {
        self.known().noted.insert(noted.identity.clone(), noted);
    }

    /// True if there was a note.
    pub(crate) fn forget_noted(&self, identity: &str) -> bool {
        self.known().noted.remove(identity).is_some()
    }

    pub(crate) fn crashes(&self, identity: &str) -> u32 {
        self.known().suspects.get(identity).copied().unwrap_or(0)
    }

    /// True if it was a suspect.
    pub(crate) fn forget_suspect(&self, identity: &str) -> bool {
        self.known().suspects.remove(identity).is_some()
    }

    pub(crate) fn is_parked(&self, lane: &str) -> bool {
        self.known().parked.contains(lane)
    }

    /// Parks a lane, on disk when it returns.
    pub(crate) async fn park(&self, store: &dyn Store, route: &RouteName, lane: &str) -> Result<(), StoreError> {
        let mut parked = self.known().parked.clone();
        parked.insert(lane.to_owned());
        store.set_state(route, PARKED, Some(json!(parked))).await?;
        self.known().parked = parked;
        Ok(())
    }

    pub(crate) fn has_parked(&self) -> bool {
        !self.known().parked.is_empty()
    }

    /// Lets all lanes go on but those in `held`, on disk when it returns.
    pub(crate) async fn unpark_all_but(&self, store: &dyn Store, route: &RouteName, held: &BTreeSet<String>) -> Result<(), StoreError> {
        let before = self.known().parked.clone();
        let parked: BTreeSet<String> = before.intersection(held).cloned().collect();
        if parked != before {
            store.set_state(route, PARKED, Some(json!(parked))).await?;
            self.known().parked = parked;
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds the memory")
    }
}
