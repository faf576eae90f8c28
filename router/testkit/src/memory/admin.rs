//! What operators need, in memory.

use async_trait::async_trait;
use router_api::{DeadLetterQuery, QueueStats, RouteName, StoredDeadLetter, TransportAdmin, TransportError};

use super::{MemoryTransport, queue::Item};

/// Dead letters that a query without a limit gets.
const LIMIT: u32 = 100;

#[async_trait]
impl TransportAdmin for MemoryTransport {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        let data = self.open.shared.lock();
        self.open.check(&data)?;
        Ok(data.queues.keys().filter_map(|route| self.open.stats(&data, route)).collect())
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        let data = self.open.shared.lock();
        self.open.check(&data)?;
        let wanted = |stored: &&StoredDeadLetter| {
            query.route.as_ref().is_none_or(|route| *route == stored.letter.route)
                && query.reason.as_deref().is_none_or(|reason| reason == stored.letter.reason.name())
                && query.class.as_deref().is_none_or(|class| stored.letter.last_class().is_some_and(|last| last.name() == class))
        };
        let limit = usize::try_from(query.limit.unwrap_or(LIMIT)).unwrap_or(usize::MAX);
        Ok(data.dead.iter().rev().filter(wanted).take(limit).cloned().collect())
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        let data = self.open.shared.lock();
        self.open.check(&data)?;
        Ok(data.dead.iter().find(|stored| stored.id == id).cloned())
    }

    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError> {
        let mut data = self.open.shared.lock();
        self.open.check(&data)?;
        // All or nothing: a letter without a queue would otherwise leave half the work done.
        if let Some(stored) = data.dead.iter().find(|stored| ids.contains(&stored.id) && !data.queues.contains_key(&stored.letter.route)) {
            return Err(TransportError::Refused(format!("route `{}` of dead letter `{}` has no queue: bind it first", stored.letter.route, stored.id)));
        }
        let now = self.open.clock.monotonic();
        let letters: Vec<StoredDeadLetter> = data.dead.iter().filter(|stored| ids.contains(&stored.id)).cloned().collect();
        for stored in &letters {
            let origin = data.dead_origins.remove(&stored.id).unwrap_or_default();
            let item = Item {
                key: stored.key.clone(),
                body: stored.body.clone(),
                stored_at: stored.stored_at,
                attempts: 0,
                history: stored.letter.history.clone(),
                hops: origin.hops,
                direct: true,
                redelivered: false,
                seq: origin.seq,
                traceparent: stored.letter.traceparent.clone(),
                due_at: self.open.clock.now(),
                due: now,
                holder: None,
            };
            self.open.enqueue(&mut data, &stored.letter.route, item);
        }
        data.dead.retain(|stored| !ids.contains(&stored.id));
        drop(data);
        self.open.shared.changed.notify_waiters();
        Ok(letters.len() as u64)
    }

    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError> {
        let mut data = self.open.shared.lock();
        self.open.check(&data)?;
        let before = data.dead.len();
        data.dead.retain(|stored| !ids.contains(&stored.id));
        for id in ids {
            data.dead_origins.remove(id);
        }
        let gone = before - data.dead.len();
        drop(data);
        self.open.shared.changed.notify_waiters();
        Ok(gone as u64)
    }

    async fn remove_queue(&self, route: &RouteName) -> Result<u64, TransportError> {
        let mut data = self.open.shared.lock();
        self.open.check(&data)?;
        if self.open.lock_bound().contains_key(route) {
            return Err(TransportError::Refused(format!("route `{route}` is bound: take it out of the configuration first")));
        }
        let Some(queue) = data.queues.remove(route) else { return Err(TransportError::Refused(format!("route `{route}` has no queue"))) };
        drop(data);
        self.open.shared.changed.notify_waiters();
        Ok(queue.items.len() as u64)
    }
}
