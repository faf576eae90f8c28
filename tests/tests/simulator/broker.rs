//! The far side: queues, what is in whose hands, and what an acknowledgement does. It checks what it is told as a broker does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use router_api::{AttemptRecord, Clock, Delivery, Fate, Publication, RouteName, RoutingKey, StoredDeadLetter};

use crate::{
    oracle::Track,
    plan::Kind,
    window::{Acks, Window},
    world::{Inner, World},
};

/// One event in a queue.
#[derive(Debug, Clone)]
pub struct Item {
    /// Of the plan.
    pub number: u64,
    pub identity: String,
    pub lane: u64,
    pub key: RoutingKey,
    pub body: Bytes,
    pub stored_at: Timestamp,
    /// When that was, by a clock that nobody sets.
    pub arrived: Duration,
    pub attempts: u32,
    pub history: Vec<AttemptRecord>,
    pub hops: u8,
    pub direct: bool,
    pub redelivered: bool,
    /// Not before this.
    pub due: Duration,
    /// In hand of.
    pub holder: Option<u64>,
    /// What its fate is when it is acknowledged.
    pub told: Option<Told>,
    /// It lies elsewhere too, and the router has not heard of that.
    pub unconfirmed: bool,
}

/// A dead letter, and the event that it is of.
#[derive(Debug, Clone)]
pub struct Letter {
    pub stored: StoredDeadLetter,
    pub item: Item,
}

/// What the router has said of a delivery in hand.
#[derive(Debug, Clone)]
pub enum Told {
    Done(Fate),
    /// It lies elsewhere: with the dead letters, or waiting.
    Elsewhere,
}

#[derive(Debug, Default)]
pub struct Queue {
    /// In the order of their arrival; what comes back keeps its place.
    pub items: BTreeMap<u64, Item>,
    pub held_lanes: BTreeSet<String>,
}

/// What a consumer has in hand.
#[derive(Debug)]
pub struct Hand {
    pub route: RouteName,
    pub prefetch: usize,
    /// Nothing more can be settled.
    pub is_over: bool,
    /// Of a broker: what is to be acknowledged when.
    pub window: Window,
    pub next_tag: u64,
    /// Tags and the items that they stand for.
    pub tags: BTreeMap<u64, u64>,
    /// Acknowledgements on their way.
    pub wire: VecDeque<(Duration, Acks)>,
}

impl Inner {
    pub fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Puts an event into the queues of those who want it.
    pub fn publish(&mut self, world: &World, publication: &Publication, number: u64, track: &dyn Fn() -> Track, filters: bool) -> bool {
        use router_api::{DecodeLimits, Envelope};
        let event = Envelope::decode(publication.key.clone(), publication.body.clone(), DecodeLimits::default()).ok();
        let wants = |subscription: &&router_api::Subscription| {
            subscription.patterns.iter().any(|pattern| pattern.matches(&publication.key))
                && (!filters || event.as_ref().is_none_or(|event| subscription.matcher.matches(event)))
        };
        let routes: Vec<RouteName> = self.bound.values().filter(wants).map(|subscription| subscription.route.clone()).collect();
        for route in &routes {
            self.enqueue(world, publication, route, number, track(), None);
        }
        !routes.is_empty()
    }

    /// Puts an event into one queue; with a delay it is addressed to this route alone.
    pub fn enqueue(&mut self, world: &World, publication: &Publication, route: &RouteName, number: u64, known: Track, delay: Option<Duration>) {
        let place = self.next_number();
        let item = Item {
            number,
            identity: format!("n{number}p{place}"),
            lane: known.lane,
            key: publication.key.clone(),
            body: publication.body.clone(),
            stored_at: world.clock.now(),
            arrived: world.now(),
            attempts: 0,
            history: Vec::new(),
            hops: publication.hops,
            direct: delay.is_some(),
            redelivered: false,
            due: delay.map_or(Duration::ZERO, |delay| world.now() + delay),
            holder: None,
            told: None,
            unconfirmed: false,
        };
        self.queues.entry(route.clone()).or_default().items.insert(place, item);
        self.oracle.arrived(world.route(route), number, known);
        world.tell(self, || format!("event {number} comes into the queue of {route}"));
        world.changed.notify_waiters();
    }

    /// Puts the event of a dead letter back into its queue. The letter stays.
    pub fn put_back(&mut self, world: &World, id: &str) {
        let Some(Letter { stored, mut item }) = self.letters.iter().find(|letter| letter.stored.id == id).cloned() else { return };
        let route = stored.letter.route;
        (item.attempts, item.history, item.direct, item.redelivered) = (0, stored.letter.history, true, false);
        (item.due, item.holder, item.told) = (Duration::ZERO, None, None);
        let (place, number) = (self.next_number(), item.number);
        self.queues.entry(route.clone()).or_default().items.insert(place, item);
        self.oracle.put_back(world.route(&route), number);
        world.tell(self, || format!("event {number} is put back into the queue of {route}"));
        world.changed.notify_waiters();
    }

    /// The event of a dead letter is in its queue, and the letter stays: there are two of it.
    pub fn has_two_of(&mut self, world: &World, id: &str) {
        if let Some(letter) = self.letters.iter().find(|letter| letter.stored.id == id) {
            let (route, number) = (world.route(&letter.stored.letter.route), letter.item.number);
            self.oracle.excuse(route, number);
        }
    }

    /// A dead letter is gone. Returns its event, with the route.
    pub fn take_letter(&mut self, world: &World, id: &str) -> Option<(RouteName, Item)> {
        let at = self.letters.iter().position(|letter| letter.stored.id == id)?;
        let Letter { stored, item } = self.letters.remove(at);
        let route = stored.letter.route;
        if !self.letters.iter().any(|letter| letter.stored.letter.route == route && letter.item.lane == item.lane) {
            self.oracle.unparked(world.route(&route), item.lane);
        }
        Some((route, item))
    }

    /// The next delivery for a consumer, if there is one; else when there may be one.
    pub fn take(&mut self, world: &World, consumer: u64) -> Result<Delivery, Option<Duration>> {
        let now = world.now();
        let Some(hand) = self.hands.get_mut(&consumer) else { return Err(None) };
        let Some(queue) = self.queues.get_mut(&hand.route) else { return Err(None) };
        if hand.tags.len() >= hand.prefetch {
            return Err(None);
        }
        let lane = |item: &Item| format!("s{}", item.lane);
        let free = |item: &&mut Item| item.holder.is_none() && (item.due <= now);
        let held = &queue.held_lanes;
        let found = queue.items.iter_mut().find(|(_, item)| free(item) && !held.contains(&lane(item)));
        let Some((place, item)) = found else {
            return Err(queue.items.values().filter(|item| item.holder.is_none() && item.due > now).map(|item| item.due).min());
        };
        item.holder = Some(consumer);
        let tag = hand.next_tag;
        hand.next_tag += 1;
        hand.tags.insert(tag, *place);
        hand.window.take(tag);
        let delivery = Delivery {
            tag,
            identity: item.identity.clone(),
            key: item.key.clone(),
            body: item.body.clone(),
            stored_at: item.stored_at,
            attempts: item.attempts,
            history: item.history.clone(),
            hops: item.hops,
            direct: item.direct,
            redelivered: item.redelivered,
            seq: None,
            traceparent: None,
        };
        let (route, number, redelivered) = (hand.route.clone(), item.number, item.redelivered);
        world.tell(self, || format!("event {number} goes out to {route} as {tag}{}", if redelivered { ", again" } else { "" }));
        Ok(delivery)
    }

    /// The item behind a tag of a consumer.
    pub fn item(&mut self, consumer: u64, tag: u64) -> Option<&mut Item> {
        let hand = self.hands.get(&consumer)?;
        let place = hand.tags.get(&tag)?;
        self.queues.get_mut(&hand.route)?.items.get_mut(place)
    }

    /// Acknowledgements have come to the broker.
    pub fn acknowledge(&mut self, world: &World, consumer: u64, acks: &Acks) {
        let Some(hand) = self.hands.get(&consumer) else { return };
        let route = hand.route.clone();
        let mut tags: Vec<u64> = Vec::new();
        if let Some(up_to) = acks.up_to {
            if !hand.tags.contains_key(&up_to) {
                self.oracle.find(format!("{route}: {up_to} is acknowledged, and not in hand: a broker closes the channel for that"));
            }
            tags.extend(self.hands[&consumer].tags.range(..=up_to).map(|(tag, _)| *tag));
        }
        for tag in &acks.singly {
            if !self.hands[&consumer].tags.contains_key(tag) {
                self.oracle.find(format!("{route}: {tag} is acknowledged, and not in hand: a broker closes the channel for that"));
            }
            tags.push(*tag);
        }
        for tag in tags {
            self.remove(world, consumer, tag);
        }
        world.changed.notify_waiters();
    }

    /// A delivery leaves its queue for good.
    pub fn remove(&mut self, world: &World, consumer: u64, tag: u64) {
        let Some(hand) = self.hands.get_mut(&consumer) else { return };
        let route = hand.route.clone();
        let Some(place) = hand.tags.remove(&tag) else { return };
        let Some(item) = self.queues.get_mut(&route).and_then(|queue| queue.items.remove(&place)) else { return };
        let index = world.route(&route);
        match &item.told {
            Some(Told::Done(fate)) => self.oracle.recorded(index, item.number, fate),
            Some(Told::Elsewhere) => {}
            None => self.oracle.find(format!("event {} on {route} is acknowledged, and nobody has settled it", item.number)),
        }
        world.tell(self, || format!("event {} leaves the queue of {route}: {:?}", item.number, item.told));
    }

    /// The session of a consumer is over, without a word.
    pub fn lose(&mut self, world: &World, consumer: u64) {
        let wire = self.hands.get_mut(&consumer).map(|hand| std::mem::take(&mut hand.wire)).unwrap_or_default();
        let mut dice = world.ask(self, "wire");
        let frames = wire.len() as u64;
        let arrived = dice.below(frames + 1);
        for (_, acks) in wire.into_iter().take(usize::try_from(arrived).unwrap_or(usize::MAX)) {
            self.acknowledge(world, consumer, &acks);
        }
        let all_arrived = arrived == frames;
        self.give_back(world, consumer, true, all_arrived);
    }

    /// What a consumer has in hand goes back to its place.
    pub fn give_back(&mut self, world: &World, consumer: u64, excused: bool, all_arrived: bool) {
        let Some(hand) = self.hands.remove(&consumer) else { return };
        let index = world.route(&hand.route);
        self.oracle.session_over(index);
        let mut finished = 0;
        for place in hand.tags.values() {
            let Some(item) = self.queues.get_mut(&hand.route).and_then(|queue| queue.items.get_mut(place)) else { continue };
            item.holder = None;
            item.redelivered = true;
            let told = item.told.take();
            finished += usize::from(told.is_some());
            let number = item.number;
            if std::mem::take(&mut item.unconfirmed) || matches!(told, Some(Told::Elsewhere)) {
                // It waits elsewhere, with another count of attempts, and comes from here again.
                self.oracle.copied(index, number);
            } else if excused {
                self.oracle.excuse(index, number);
            }
            world.tell(self, || format!("event {number} goes back to the queue of {}", hand.route));
        }
        if let Some(queue) = self.queues.get_mut(&hand.route) {
            queue.held_lanes.clear();
        }
        // What was finished and not yet acknowledged is what a death repeats.
        if world.plan.kind == Kind::Broker && all_arrived && finished > ack_batch(hand.prefetch) {
            self.oracle.find(format!("{}: {finished} finished deliveries were not acknowledged, with a batch of {}", hand.route, ack_batch(hand.prefetch)));
        }
        world.changed.notify_waiters();
    }
}

/// Finished deliveries that may be unacknowledged.
pub fn ack_batch(prefetch: usize) -> usize {
    prefetch.div_ceil(5).clamp(1, 100)
}
