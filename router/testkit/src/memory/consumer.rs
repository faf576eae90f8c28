//! The taker of one queue in memory.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::{AttemptRecord, Consumer, Delivery, DeliveryState, RouteName, SettleError, Settlement, StoredDeadLetter, TransportError};

use super::{
    faults::{Faults, Settled, SettledHow},
    state::{Data, Origin},
    transport::{Open, later},
};

pub(super) struct MemoryConsumer {
    open: Arc<Open>,
    route: RouteName,
    number: u64,
    prefetch: usize,
}

/// When the next item is due, at a clock that somebody else may move at any time.
struct Due {
    at: Duration,
    /// What the clock showed when that was found.
    now: Duration,
}

/// What `next` found.
enum Found {
    Over,
    Delivery(Box<Delivery>),
    Failure,
    Nothing { due: Option<Due> },
}

impl MemoryConsumer {
    pub(super) fn new(open: Arc<Open>, route: RouteName, number: u64, prefetch: u32) -> Self {
        Self { open, route, number, prefetch: usize::try_from(prefetch.max(1)).unwrap_or(usize::MAX) }
    }

    fn look(&self) -> Found {
        let matcher = self.open.lock_bound().get(&self.route).map(|subscription| Arc::clone(&subscription.matcher));
        let mut data = self.open.shared.lock();
        if !data.consumers.contains_key(&self.number) {
            return Found::Over;
        }
        let now = self.open.clock.monotonic();
        let Data { queues, faults, .. } = &mut *data;
        let Some(queue) = queues.get_mut(&self.route) else { return Found::Over };
        if queue.in_hand(self.number) >= self.prefetch {
            return Found::Nothing { due: None };
        }
        let Some(number) = queue.take(self.number, now, matcher.as_ref()) else {
            return Found::Nothing { due: queue.next_due(now).map(|at| Due { at, now }) };
        };
        if Faults::strikes(&mut faults.nexts) {
            if let Some(item) = queue.remove(number) {
                queue.put_back(number, item);
            }
            return Found::Failure;
        }
        let Some(item) = queue.items.get(&number) else { return Found::Nothing { due: None } };
        let delivery = item.delivery(&self.route, number);
        faults.calls.handed_out += 1;
        Found::Delivery(Box::new(delivery))
    }

    /// Applies a settlement. The whole call is one step under the lock: all deliveries or none.
    fn apply(&self, data: &mut Data, deliveries: &[Delivery], settlement: Settlement) -> SettledHow {
        let now = self.open.clock.now();
        let items: Vec<_> = deliveries.iter().filter_map(|delivery| Some((delivery.tag, data.queues.get_mut(&self.route)?.remove(delivery.tag)?))).collect();
        match settlement {
            Settlement::Done { fates, inbox } => {
                for ((tag, item), fate) in items.iter().zip(&fates) {
                    let attempts = deliveries.iter().find(|delivery| delivery.tag == *tag).map_or(item.attempts, |delivery| delivery.attempts);
                    data.note(item.seq, &self.route, DeliveryState::Finished(fate.clone()), attempts, now);
                }
                for key in inbox.into_iter().flatten() {
                    data.remember(&self.route, key);
                }
                SettledHow::Done(fates)
            }
            Settlement::RetryIn { delay, failure } => {
                for (number, mut item) in items {
                    item.attempts = item.attempts.saturating_add(1);
                    AttemptRecord::push(&mut item.history, failure.clone());
                    item.redelivered = true;
                    item.due_at = later(now, delay);
                    item.due = self.open.clock.monotonic().saturating_add(delay);
                    data.note(item.seq, &self.route, DeliveryState::Waiting { error: Some(failure.error.clone()) }, item.attempts, item.due_at);
                    if let Some(queue) = data.queues.get_mut(&self.route) {
                        queue.put_back(number, item);
                    }
                }
                SettledHow::RetryIn { delay, failure }
            }
            Settlement::Bury(letter) => {
                for (_, item) in items {
                    data.last_letter += 1;
                    let id = format!("dead-{}", data.last_letter);
                    data.note(item.seq, &self.route, DeliveryState::Dead { id: id.clone(), reason: letter.reason }, letter.attempts, now);
                    data.dead_origins.insert(id.clone(), Origin { seq: item.seq, hops: item.hops });
                    data.dead.push(StoredDeadLetter {
                        id,
                        key: item.key,
                        body: item.body,
                        stored_at: item.stored_at,
                        seq: item.seq,
                        identity: None,
                        letter: (*letter).clone(),
                    });
                }
                SettledHow::Buried(letter)
            }
        }
    }

    /// What is wrong with a call of `settle`, if anything.
    fn misuse(&self, data: &Data, deliveries: &[Delivery], settlement: &Settlement) -> Option<String> {
        let route = &self.route;
        if deliveries.is_empty() {
            return Some(format!("route `{route}`: no delivery was settled"));
        }
        for (index, delivery) in deliveries.iter().enumerate() {
            let in_hand = data.queues.get(route).and_then(|queue| queue.items.get(&delivery.tag)).is_some_and(|item| item.holder == Some(self.number));
            if !in_hand || deliveries[..index].iter().any(|other| other.tag == delivery.tag) {
                return Some(format!("route `{route}`: delivery {} is settled, but not in hand", delivery.tag));
            }
        }
        if let Settlement::Done { fates, inbox } = settlement {
            if fates.len() != deliveries.len() {
                return Some(format!("route `{route}`: {} fates for {} deliveries", fates.len(), deliveries.len()));
            }
            if !inbox.is_empty() && inbox.len() != deliveries.len() {
                return Some(format!("route `{route}`: {} inbox keys for {} deliveries", inbox.len(), deliveries.len()));
            }
        }
        None
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        loop {
            let changed = self.open.shared.changed.notified();
            tokio::pin!(changed);
            // Listens before it looks, so that no change in between is missed.
            changed.as_mut().enable();
            match self.look() {
                Found::Over => return None,
                Found::Delivery(delivery) => return Some(Ok(*delivery)),
                Found::Failure => return Some(Err(TransportError::Unavailable("a test made this `next` fail".to_owned()))),
                Found::Nothing { due: None } => changed.await,
                Found::Nothing { due: Some(due) } => {
                    let asleep = self.open.clock.sleep(due.at.saturating_sub(due.now));
                    // Moved on since then: that sleep began too late, and would end too late.
                    if self.open.clock.monotonic().saturating_sub(due.now) >= Duration::from_millis(1) {
                        continue;
                    }
                    tokio::select! {
                        () = changed => {}
                        () = asleep => {}
                    }
                }
            }
        }
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        let mut data = self.open.shared.lock();
        data.faults.calls.settle += 1;
        if !data.consumers.contains_key(&self.number) {
            return Err((SettleError::SessionOver, deliveries));
        }
        if Faults::strikes(&mut data.faults.settles) {
            return Err((SettleError::NotRecorded("a test made this settlement fail".to_owned()), deliveries));
        }
        if let Some(sentence) = self.misuse(&data, &deliveries, &settlement) {
            data.faults.misuse(sentence);
            // Not `NotRecorded`, which a router would repeat for ever.
            return Err((SettleError::SessionOver, deliveries));
        }
        let how = self.apply(&mut data, &deliveries, settlement);
        let (keys, identities) = deliveries.into_iter().map(|delivery| (delivery.key, delivery.identity)).unzip();
        data.faults.record(Settled { route: self.route.clone(), keys, identities, how });
        drop(data);
        self.open.shared.changed.notify_waiters();
        Ok(())
    }

    fn hold_lane(&self, lane: &str) {
        let mut data = self.open.shared.lock();
        // A hold of a consumer that is gone would never end.
        if data.consumers.contains_key(&self.number)
            && let Some(queue) = data.queues.get_mut(&self.route)
        {
            queue.held.insert((self.number, lane.to_owned()));
        }
    }

    fn free_lane(&self, lane: &str) {
        if let Some(queue) = self.open.shared.lock().queues.get_mut(&self.route) {
            queue.held.remove(&(self.number, lane.to_owned()));
        }
        self.open.shared.changed.notify_waiters();
    }

    async fn close(&self) {
        let mut data = self.open.shared.lock();
        data.faults.calls.close += 1;
        data.end_consumer(self.number);
        drop(data);
        self.open.shared.changed.notify_waiters();
    }
}

impl Drop for MemoryConsumer {
    /// Forgetting to close is safe: what was in hand goes back.
    fn drop(&mut self) {
        let mut data = self.open.shared.lock();
        if data.consumers.contains_key(&self.number) {
            data.end_consumer(self.number);
        }
        drop(data);
        self.open.shared.changed.notify_waiters();
    }
}
