//! One route's queue in memory: what waits, what is in whose hands, and in which order it goes out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use router_api::{AttemptRecord, DecodeLimits, Delivery, Envelope, Matcher, QueueStats, RouteName, RoutingKey};

/// One event in a queue.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub key: RoutingKey,
    pub body: Bytes,
    pub stored_at: Timestamp,
    pub attempts: u32,
    pub history: Vec<AttemptRecord>,
    pub hops: u8,
    pub direct: bool,
    pub redelivered: bool,
    pub seq: Option<u64>,
    pub traceparent: Option<String>,
    /// Not before this, on the wall side: what a restart goes by.
    pub due_at: Timestamp,
    /// The same on the monotonic side of the clock that is in use now.
    pub due: Duration,
    /// The consumer that has it in hand.
    pub holder: Option<u64>,
}

/// A queue. Items go out by number, which is their order of arrival; a returned item keeps its number and so its place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub items: BTreeMap<u64, Item>,
    /// Consumer and item, for what is in hand; the same as the items' holders.
    hands: BTreeSet<(u64, u64)>,
    /// Lanes that a consumer has asked not to be given.
    pub held: BTreeSet<(u64, String)>,
}

impl Queue {
    /// Hands out the next item that is due and whose lane nobody holds.
    pub(super) fn take(&mut self, consumer: u64, now: Duration, matcher: Option<&Arc<dyn Matcher>>) -> Option<u64> {
        let held: HashSet<&str> = self.held.iter().map(|(_, lane)| lane.as_str()).collect();
        let free = |item: &Item| {
            if held.is_empty() {
                return true;
            }
            let lane = matcher.and_then(|matcher| {
                // What is no event has no lane.
                let event = Envelope::decode(item.key.clone(), item.body.clone(), DecodeLimits::default()).ok()?;
                matcher.lane(&event)
            });
            lane.is_none_or(|lane| !held.contains(lane.as_str()))
        };
        let number = self.items.iter().find(|(_, item)| item.holder.is_none() && item.due <= now && free(item)).map(|(number, _)| *number)?;
        if let Some(item) = self.items.get_mut(&number) {
            item.holder = Some(consumer);
            self.hands.insert((consumer, number));
        }
        Some(number)
    }

    /// When the next item that nobody has becomes due.
    pub(super) fn next_due(&self, now: Duration) -> Option<Duration> {
        self.items.values().filter(|item| item.holder.is_none() && item.due > now).map(|item| item.due).min()
    }

    /// How many `consumer` has in hand.
    pub(super) fn in_hand(&self, consumer: u64) -> usize {
        self.hands.range((consumer, 0)..=(consumer, u64::MAX)).count()
    }

    /// Takes an item out for good.
    pub(super) fn remove(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        if let Some(holder) = item.holder {
            self.hands.remove(&(holder, number));
        }
        Some(item)
    }

    /// Puts an item back to its place, in nobody's hand.
    pub(super) fn put_back(&mut self, number: u64, mut item: Item) {
        item.holder = None;
        self.items.insert(number, item);
    }

    /// `consumer` is gone: what it had goes back to its place.
    pub(super) fn give_back(&mut self, consumer: u64) {
        let numbers: Vec<u64> = self.hands.range((consumer, 0)..=(consumer, u64::MAX)).map(|(_, number)| *number).collect();
        for number in numbers {
            if let Some(mut item) = self.remove(number) {
                item.redelivered = true;
                self.put_back(number, item);
            }
        }
        self.held.retain(|(holder, _)| *holder != consumer);
    }

    pub(super) fn stats(&self, route: &RouteName, now: Duration, dead: u64) -> QueueStats {
        let count = |wanted: &dyn Fn(&Item) -> bool| self.items.values().filter(|item| wanted(item)).count() as u64;
        QueueStats {
            route: route.clone(),
            ready: count(&|item| item.holder.is_none() && item.due <= now),
            waiting: count(&|item| item.holder.is_none() && item.due > now),
            in_flight: count(&|item| item.holder.is_some()),
            dead,
            oldest: self.items.values().map(|item| item.stored_at).min(),
        }
    }
}

impl Item {
    pub(super) fn delivery(&self, route: &RouteName, number: u64) -> Delivery {
        Delivery {
            tag: number,
            identity: format!("{route}/{number}"),
            key: self.key.clone(),
            body: self.body.clone(),
            stored_at: self.stored_at,
            attempts: self.attempts,
            history: self.history.clone(),
            hops: self.hops,
            direct: self.direct,
            redelivered: self.redelivered,
            seq: self.seq,
            traceparent: self.traceparent.clone(),
        }
    }
}
