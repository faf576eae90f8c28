//! The inbox, asked inside the lane: what the route has done before leaves the batch.

use router_api::{Fate, RouteMode, Settlement};

use super::{Item, Worker};
use crate::{lanes::Batch, observe::RouterEvent};

impl Worker {
    /// Takes out of the batch what the route has already done. `Ok(false)` when the session is over.
    pub(super) async fn settle_duplicates(&self, batch: &mut Batch<Item>) -> Result<bool, String> {
        let parts = &self.route.parts;
        // A batch that failed before was asked then. A shadow route does nothing, so it has done nothing.
        if self.route.config.mode == RouteMode::Shadow || batch.failed > 0 {
            return Ok(true);
        }
        let now = parts.clock.now();
        // Asked of all before one is taken out: if the store fails in between, all stay in the batch.
        let mut known = Vec::new();
        for (at, item) in batch.items.iter().enumerate() {
            let Some(key) = &item.dedup else { continue };
            if self.route.memory.knows_done(key) || parts.store.inbox_contains(&self.route.config.name, key, now).await.map_err(|error| error.to_string())? {
                known.push(at);
            }
        }
        if known.is_empty() {
            return Ok(true);
        }
        let mut known = known.into_iter().peekable();
        let mut done_before = Vec::new();
        let mut keys = Vec::new();
        for (at, item) in std::mem::take(&mut batch.items).into_iter().enumerate() {
            let is_known = known.next_if_eq(&at).is_some();
            match item.dedup {
                Some(key) if is_known => {
                    keys.push(key);
                    done_before.push(item.delivery);
                }
                dedup => batch.items.push(Item { dedup, ..item }),
            }
        }
        for (delivery, key) in done_before.iter().zip(&keys) {
            self.tell(RouterEvent::Duplicate { route: self.name(), key: delivery.key.clone(), dedup_key: key.clone() });
        }
        let identities: Vec<String> = done_before.iter().map(|delivery| delivery.identity.clone()).collect();
        let fates = || keys.iter().map(|key| Fate::Duplicate { key: key.clone() }).collect();
        if !self.settled(done_before, || Settlement::Done { fates: fates(), inbox: Vec::new() }).await {
            return Ok(false);
        }
        self.forget_deliveries(&identities).await;
        Ok(true)
    }
}
