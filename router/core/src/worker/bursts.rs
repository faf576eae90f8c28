//! A burst's composition is fixed, on disk, before its first attempt.

use router_api::{
    BurstNote, FrozenBurst,
    failpoint::{self, Failpoint},
};
use sha2::{Digest, Sha256};

use super::{Item, Worker};
use crate::{
    hex,
    lanes::{Batch, LaneKey},
    memory::burst_identity,
};

impl Worker {
    /// Does the batch belong to a burst that an operator dropped?
    pub(super) fn is_dropped(&self, batch: &Batch<Item>) -> bool {
        batch.frozen.as_deref().is_some_and(|burst| self.route.memory.is_dropped(burst))
    }

    pub(super) fn is_burst(&self, batch: &Batch<Item>) -> bool {
        self.route.config.coalesce.is_some() && !batch.items.iter().all(|item| item.delivery.direct)
    }

    pub(super) async fn freeze(&self, lane: &LaneKey, batch: &mut Batch<Item>) -> Result<(), String> {
        if batch.frozen.is_some() {
            return Ok(());
        }
        let members: Vec<String> = batch.items.iter().map(|item| item.delivery.identity.clone()).collect();
        let mut hash = Sha256::new();
        for part in std::iter::once(self.route.config.name.as_str()).chain(members.iter().map(String::as_str)) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let id = hex(&hash.finalize()[..16]);
        let burst = FrozenBurst { id: id.clone(), lane: lane.to_string(), members };
        failpoint::pass(Failpoint::FreezeBefore);
        self.route.parts.store.freeze(&self.route.config.name, &burst).await.map_err(|error| error.to_string())?;
        failpoint::pass(Failpoint::FreezeAfter);
        batch.frozen = Some(id);
        Ok(())
    }

    pub(super) fn burst_note(&self, batch: &Batch<Item>) -> Option<BurstNote> {
        let id = batch.frozen.clone()?;
        Some(BurstNote { id, events: u32::try_from(batch.items.len()).unwrap_or(u32::MAX) })
    }
}

/// The name under which attempts, crashes and notes of a batch are kept.
pub(super) fn identity(batch: &Batch<Item>) -> String {
    match (&batch.frozen, batch.items.first()) {
        (Some(burst), _) => burst_identity(burst),
        (None, Some(item)) => item.delivery.identity.clone(),
        (None, None) => String::new(),
    }
}

/// Why the events of a burst are given up on that an operator dropped.
pub(super) fn dropped(last: Option<&str>) -> String {
    let last = last.map(|error| format!("; its last attempt: {error}")).unwrap_or_default();
    format!("an operator dropped its burst (`routes drop-burst`){last}")
}
