//! What a route remembers from before: failed attempts of what waits in hand, suspects of a crash, parked lanes, bursts that an operator
//! dropped, the time before which it takes nothing. Read from the store when the route starts, kept up to date by the worker.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
};

use jiff::Timestamp;
use router_api::{
    FrozenBurst, NotedAttempts, RouteName, Store, StoreError,
    failpoint::{self, Failpoint},
};
use serde_json::json;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: Mutex<Known>,
    /// Held from the look at a list to its storing: two lanes that are parked at once would each store a list without the other.
    lists: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    noted: HashMap<String, NotedAttempts>,
    suspects: HashMap<String, u32>,
    parked: BTreeSet<String>,
    /// Which park of this process was the last one of a lane.
    parks: HashMap<String, u64>,
    parks_ever: u64,
    /// How many events of a lane are on their way to the dead letters, and may not be there yet: after a lost session one of the session
    /// before may be among them.
    burying: HashMap<String, u32>,
    /// Ids of bursts.
    dropped: BTreeSet<String>,
    skips_before: Option<Timestamp>,
    /// Dedup keys of what is done and on its way into the inbox.
    done: HashSet<String>,
}

/// The route's own state under this key holds the names of its parked lanes. A plugin cannot reach it: its keys do not begin
/// with a dot.
const PARKED: &str = ".parked";

/// The route's own state under this key is there while an operator has paused it.
const PAUSED: &str = ".paused";

/// The route's own state under this key holds the ids of the bursts that an operator dropped and that are not buried yet.
const DROPPED: &str = ".dropped";

/// The route's own state under this key is there while events may wait that the route was told to skip when it was switched on.
const SKIPS: &str = ".skips";

/// Has an operator paused this route?
pub(crate) async fn is_paused(store: &dyn Store, route: &RouteName) -> Result<bool, StoreError> {
    Ok(store.state(route, PAUSED).await?.is_some())
}

/// Remembers an operator's pause, or its end, over restarts.
pub(crate) async fn set_paused(store: &dyn Store, route: &RouteName, since: Option<Timestamp>) -> Result<(), StoreError> {
    store.set_state(route, PAUSED, since.map(|since| json!({ "since": since }))).await
}

/// From now on the route gives up on what was stored before `before` instead of handling it; `None` ends that.
pub(crate) async fn set_skips(store: &dyn Store, route: &RouteName, before: Option<Timestamp>) -> Result<(), StoreError> {
    store.set_state(route, SKIPS, before.map(|before| json!({ "before": before }))).await
}

/// Bursts that were begun and have come to no end. While the route `handles`, only those of which an attempt has failed: another one may
/// be in its first.
pub(crate) async fn stuck_bursts(store: &dyn Store, route: &RouteName, handles: bool) -> Result<Vec<FrozenBurst>, StoreError> {
    let mut bursts = store.frozen(route).await?;
    if handles {
        let mut failed: BTreeSet<String> = store.noted_attempts(route).await?.into_iter().map(|noted| noted.identity).collect();
        failed.extend(store.suspects(route).await?.into_iter().map(|suspect| suspect.identity));
        bursts.retain(|burst| failed.contains(&burst_identity(&burst.id)));
    }
    Ok(bursts)
}

/// The name under which attempts, crashes and notes of a burst are kept.
pub(crate) fn burst_identity(burst: &str) -> String {
    format!("burst:{burst}")
}

fn names(list: Option<&serde_json::Value>) -> BTreeSet<String> {
    let names = list.and_then(|value| value.as_array()).into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

impl Memory {
    /// Reads what the store knows of a route.
    pub(crate) async fn load(&self, store: &dyn Store, route: &RouteName) -> Result<(), StoreError> {
        let _alone = self.lists.lock().await;
        let noted = store.noted_attempts(route).await?;
        let suspects = store.suspects(route).await?;
        let parked = store.state(route, PARKED).await?;
        let dropped = store.state(route, DROPPED).await?;
        let skips = store.state(route, SKIPS).await?;
        let mut known = self.known();
        // What is left of an earlier session may note something while this reads: what is known here is never older than what was read.
        for noted in noted {
            known.noted.entry(noted.identity.clone()).or_insert(noted);
        }
        known.suspects = suspects.into_iter().map(|suspect| (suspect.identity, suspect.crashes)).collect();
        known.parked = names(parked.as_ref());
        known.dropped = names(dropped.as_ref());
        known.skips_before = skips.and_then(|skips| skips["before"].as_str()?.parse().ok());
        Ok(())
    }

    pub(crate) fn noted(&self, identity: &str) -> Option<NotedAttempts> {
        self.known().noted.get(identity).cloned()
    }

    pub(crate) fn note(&self, noted: NotedAttempts) {
        self.known().noted.insert(noted.identity.clone(), noted);
    }

    pub(crate) fn crashes(&self, identity: &str) -> u32 {
        self.known().suspects.get(identity).copied().unwrap_or(0)
    }

    /// For who is about to give up on an event because its lane is parked; `None` if it is not. The lane stays parked while what is returned
    /// is there, and for whoever has begun to look for its dead letters.
    pub(crate) fn behind_a_parked_head(&self, lane: &str) -> Option<Burying<'_>> {
        let known = self.known();
        known.parked.contains(lane).then(|| Burying::of(self, known, lane))
    }

    /// An operator puts an event back: what was noted of it counts no more. It may have stayed when its burial was the last that was heard of
    /// a session.
    pub(crate) fn starts_anew(&self, identity: &str) {
        let mut known = self.known();
        known.noted.remove(identity);
        known.suspects.remove(identity);
    }

    /// Parks a lane, on disk when it returns. Until what is returned is dropped, which is when its head lies in the dead letters, it stays so.
    pub(crate) async fn park(&self, store: &dyn Store, route: &RouteName, lane: &str) -> Result<Burying<'_>, StoreError> {
        let burying = Burying::of(self, self.known(), lane);
        let _alone = self.lists.lock().await;
        let mut parked = self.known().parked.clone();
        parked.insert(lane.to_owned());
        failpoint::pass(Failpoint::ParkBefore);
        store.set_state(route, PARKED, Some(json!(parked))).await?;
        failpoint::pass(Failpoint::ParkAfter);
        self.known().parked = parked;
        Ok(burying)
    }

    pub(crate) fn has_parked(&self) -> bool {
        !self.known().parked.is_empty()
    }

    /// The lanes that are parked, for who is about to look which of them have dead letters.
    pub(crate) fn parked(&self) -> Parked {
        let known = self.known();
        let down = known.parked.iter().filter(|lane| !known.burying.contains_key(*lane));
        Parked(down.map(|lane| (lane.clone(), known.parks.get(lane).copied().unwrap_or(0))).collect())
    }

    /// Lets the lanes go on that were parked `then` and are not in `held`, on disk when it returns. One that was parked again meanwhile stays:
    /// its head may not have been among the dead letters yet when they were looked at.
    pub(crate) async fn unpark_all_but(&self, store: &dyn Store, route: &RouteName, then: &Parked, held: &BTreeSet<String>) -> Result<(), StoreError> {
        let _alone = self.lists.lock().await;
        let (before, parked) = {
            let mut known = self.known();
            let goes_on = |lane: &String| then.0.get(lane).is_some_and(|park| known.parks.get(lane).copied().unwrap_or(0) == *park) && !held.contains(lane);
            let parked: BTreeSet<String> = known.parked.iter().filter(|lane| !goes_on(lane)).cloned().collect();
            if parked == known.parked {
                return Ok(());
            }
            let Known { parks, burying, .. } = &mut *known;
            parks.retain(|lane, _| parked.contains(lane) || burying.contains_key(lane));
            // In the same breath, so that nothing is given up on behind a lane that goes on.
            (std::mem::replace(&mut known.parked, parked.clone()), parked)
        };
        let stored = store.set_state(route, PARKED, Some(json!(parked))).await;
        if stored.is_err() {
            self.known().parked.extend(before);
        }
        stored
    }

    /// Has an operator dropped this burst?
    pub(crate) fn is_dropped(&self, burst: &str) -> bool {
        self.known().dropped.contains(burst)
    }

    /// Drops bursts, on disk when it returns.
    pub(crate) async fn drop_bursts(&self, store: &dyn Store, route: &RouteName, bursts: &[FrozenBurst]) -> Result<(), StoreError> {
        let _alone = self.lists.lock().await;
        let mut dropped = names(store.state(route, DROPPED).await?.as_ref());
        // Those that were buried meanwhile are not frozen any more.
        let frozen: BTreeSet<String> = store.frozen(route).await?.into_iter().map(|burst| burst.id).collect();
        dropped.retain(|burst| frozen.contains(burst));
        dropped.extend(bursts.iter().map(|burst| burst.id.clone()));
        store.set_state(route, DROPPED, Some(json!(dropped))).await?;
        self.known().dropped = dropped;
        Ok(())
    }

    /// A delivery or a burst has come to its end: nothing of what was noted of it is kept.
    pub(crate) async fn forget(&self, store: &dyn Store, route: &RouteName, identity: &str) -> Result<(), StoreError> {
        let (noted, suspect) = {
            let mut known = self.known();
            // Most know of nothing, and need not look for it.
            let noted = !known.noted.is_empty() && known.noted.remove(identity).is_some();
            (noted, !known.suspects.is_empty() && known.suspects.remove(identity).is_some())
        };
        if noted {
            store.forget_attempts(route, &[identity.to_owned()]).await?;
        }
        if suspect {
            store.clear_suspect(route, identity).await?;
        }
        Ok(())
    }

    /// A frozen burst has come to its end, or its members have.
    pub(crate) async fn forget_burst(&self, store: &dyn Store, route: &RouteName, burst: &str) -> Result<(), StoreError> {
        store.thaw(route, burst).await?;
        self.forget(store, route, &burst_identity(burst)).await?;
        let _alone = self.lists.lock().await;
        let left = {
            let mut known = self.known();
            known.dropped.remove(burst).then(|| known.dropped.clone())
        };
        if let Some(left) = left {
            store.set_state(route, DROPPED, (!left.is_empty()).then(|| json!(left))).await?;
        }
        Ok(())
    }

    /// What has these dedup keys is done, and not in the inbox yet.
    pub(crate) fn is_done(&self, keys: impl Iterator<Item = String>) {
        self.known().done.extend(keys);
    }

    /// The inbox has them, or nobody waits for it any more.
    pub(crate) fn is_stored<'k>(&self, keys: impl Iterator<Item = &'k str>) {
        let mut known = self.known();
        for key in keys {
            known.done.remove(key);
        }
    }

    /// Is it done, and not in the inbox yet?
    pub(crate) fn knows_done(&self, key: &str) -> bool {
        self.known().done.contains(key)
    }

    /// The route takes nothing that was stored before this.
    pub(crate) fn skips_before(&self) -> Option<Timestamp> {
        self.known().skips_before
    }

    /// Nothing that was to be skipped is left.
    pub(crate) async fn end_skips(&self, store: &dyn Store, route: &RouteName) -> Result<(), StoreError> {
        set_skips(store, route, None).await?;
        self.known().skips_before = None;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds the memory")
    }
}

/// Lanes that were parked at one time, each with the number of its park.
pub(crate) struct Parked(BTreeMap<String, u64>);

/// An event of a lane that is parked is on its way to the dead letters.
pub(crate) struct Burying<'m> {
    memory: &'m Memory,
    lane: String,
}

impl<'m> Burying<'m> {
    fn of(memory: &'m Memory, mut known: MutexGuard<'m, Known>, lane: &str) -> Self {
        known.parks_ever += 1;
        let park = known.parks_ever;
        known.parks.insert(lane.to_owned(), park);
        *known.burying.entry(lane.to_owned()).or_default() += 1;
        drop(known);
        Self { memory, lane: lane.to_owned() }
    }
}

impl Drop for Burying<'_> {
    fn drop(&mut self) {
        let mut known = self.memory.known();
        let left = known.burying.remove(&self.lane).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            known.burying.insert(std::mem::take(&mut self.lane), left);
        } else if !known.parked.contains(&self.lane) {
            // It was never parked, or goes on by now.
            known.parks.remove(&self.lane);
        }
    }
}
