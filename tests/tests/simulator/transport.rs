//! The near side: the port that the router sees, with everything that goes wrong between it and the far side.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::SignedDuration;
use router_api::{
    AttemptRecord, Clock, Consumer, DeadLetter, DeadLetterQuery, DecodeLimits, Delivery, Destination, Envelope, Features, InboxKey, Publication, Published,
    QueueStats, RouteName, SettleError, Settlement, Store, StoredDeadLetter, Subscription, Transport, TransportAdmin, TransportError,
};

use crate::{
    broker::{Hand, Item, Letter, Told, ack_batch},
    oracle::Track,
    plan::{EMITTED, Kind},
    window::{Rules, Window},
    world::{Inner, Port, World},
};

/// What is finished above something unfinished is acknowledged after this.
const GAP_DELAY: Duration = Duration::from_millis(50);
const ACK_DELAY: Duration = Duration::from_millis(5);

#[derive(Debug, Clone)]
pub struct SimTransport {
    pub port: Port,
}

impl SimTransport {
    fn kind(&self) -> Kind {
        self.port.world.plan.kind
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn features(&self) -> Features {
        let is_file = self.kind() == Kind::File;
        Features {
            persistent: true,
            filters_at_intake: is_file,
            inbox_in_settlement: is_file,
            holds_lanes: is_file,
            archives: true,
            competing_consumers: !is_file,
            exact_times: is_file,
        }
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.port.pass("bind").await;
        let mut inner = self.port.world.lock();
        for subscription in subscriptions {
            inner.queues.entry(subscription.route.clone()).or_default();
        }
        inner.bound = subscriptions.iter().map(|subscription| (subscription.route.clone(), subscription.clone())).collect();
        Ok(())
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        self.port.pass("consume").await;
        let world = &self.port.world;
        if self.port.trouble("consume").is_some_and(|mut dice| dice.hits(world.plan.rates.consumes)) {
            world.trace(|| format!("the queue of {route} cannot be taken up"));
            return Err(TransportError::Unavailable("the simulation says so".to_owned()));
        }
        let mut inner = world.lock();
        let number = inner.next_number();
        let prefetch = usize::try_from(prefetch.max(1)).expect("small");
        let rules = Rules { batch: ack_batch(prefetch), delay: ACK_DELAY, gap_delay: GAP_DELAY };
        let hand = Hand {
            route: route.clone(),
            prefetch,
            is_over: false,
            window: Window::new(rules, world.now()),
            next_tag: 1,
            tags: std::collections::BTreeMap::new(),
            wire: VecDeque::new(),
        };
        inner.hands.insert(number, hand);
        world.tell(&mut inner, || format!("{route} takes up its queue"));
        drop(inner);
        let consumer = SimConsumer { port: self.port.clone(), route: route.clone(), number, work: Arc::default() };
        if self.kind() == Kind::Broker {
            tokio::spawn(consumer.clone().tend());
        }
        Ok(Arc::new(consumer))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        self.port.pass("publish").await;
        let world = &self.port.world;
        let mut stored_and_lost = false;
        if let Some(mut dice) = self.port.trouble("publish") {
            if dice.hits(world.plan.rates.late) {
                self.port.sleep(Duration::from_millis(dice.between(1, 300)), "publishing").await;
            }
            if dice.hits(world.plan.rates.refused) || world.now() < world.lock().refuses_until {
                world.trace(|| format!("the publication of {} is refused", publication.key));
                return Err(TransportError::Unavailable("the simulation says so".to_owned()));
            }
            stored_and_lost = dice.hits(world.plan.rates.lost_confirms);
        }
        let body: serde_json::Value = serde_json::from_slice(&publication.body).map_err(|error| TransportError::Refused(error.to_string()))?;
        let number = body["payload"]["n"].as_u64().unwrap_or(0);
        assert!(number >= EMITTED, "handlers emit events with a number of their own");
        let lane = body["payload"]["lane"].as_u64().unwrap_or(0);
        let key = publication.key.to_string();
        if let Some(id) = body["event_id"].as_str() {
            world.lock().emitted.insert(id.to_owned(), number);
        }
        let track = || Track { lane, id: number, wanted: true, key: key.clone(), ..Track::default() };
        let routed = match &publication.to {
            Destination::Subscribers => world.lock().publish(world, &publication, number, &track, self.kind() == Kind::File),
            Destination::Route { route, delay } => {
                let known = Track { comes_back: true, ..track() };
                world.lock().enqueue(world, &publication, route, number, known, Some(*delay));
                true
            }
        };
        if stored_and_lost {
            world.trace(|| format!("the confirm of {number} is lost"));
            return Err(TransportError::Unavailable("the confirm was lost".to_owned()));
        }
        self.port.pass("published").await;
        Ok(Published { routed, seq: None })
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self
    }

    async fn close(&self) {}
}

#[async_trait]
impl TransportAdmin for SimTransport {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        self.port.pass("queues").await;
        let inner = self.port.world.lock();
        let now = self.port.world.now();
        let stats = inner.queues.iter().map(|(route, queue)| {
            let count = |wanted: &dyn Fn(&&Item) -> bool| queue.items.values().filter(wanted).count() as u64;
            QueueStats {
                route: route.clone(),
                ready: count(&|item| item.holder.is_none() && item.due <= now),
                waiting: count(&|item| item.holder.is_none() && item.due > now),
                in_flight: count(&|item| item.holder.is_some()),
                dead: inner.letters.iter().filter(|letter| letter.stored.letter.route == *route).count() as u64,
                oldest: queue.items.values().map(|item| item.stored_at).min(),
            }
        });
        Ok(stats.collect())
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        self.port.pass("dead_letters").await;
        let letters: Vec<_> = self.port.world.lock().letters.iter().rev().map(|letter| letter.stored.clone()).collect();
        // As with one that lies on a broker, what is true now may not be so when the answer comes.
        if let Some(mut dice) = self.port.trouble("dead_letters")
            && dice.hits(self.port.world.plan.rates.late)
        {
            self.port.sleep(Duration::from_millis(dice.between(1, 200)), "dead_letters").await;
        }
        Ok(letters.into_iter().filter(|letter| query.route.as_ref().is_none_or(|route| *route == letter.letter.route)).collect())
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        Ok(self.port.world.lock().letters.iter().map(|letter| &letter.stored).find(|letter| letter.id == id).cloned())
    }

    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.port.pass("redrive").await;
        let world = &self.port.world;
        let rates = &world.plan.rates;
        let mut count = 0;
        for id in ids {
            let mut dice = self.port.trouble("redrive");
            if dice.as_mut().is_some_and(|dice| dice.hits(rates.refused)) {
                return Err(TransportError::Unavailable("the simulation says so".to_owned()));
            }
            let is_lost = dice.as_mut().is_some_and(|dice| dice.hits(rates.lost_confirms));
            match self.kind() {
                // One commit, which forgets what was noted of it as well.
                Kind::File => {
                    world.lock().put_back(world, id);
                    let taken = world.lock().take_letter(world, id);
                    if let Some((route, item)) = taken {
                        start_anew(world, &route, &item.identity);
                        count += 1;
                    }
                }
                // First it is in the queue, then the letter goes; who dies in between leaves both.
                Kind::Broker => {
                    world.lock().put_back(world, id);
                    self.port.pass("redriven").await;
                    if is_lost {
                        world.lock().has_two_of(world, id);
                        return Err(TransportError::Unavailable("the confirm was lost".to_owned()));
                    }
                    let taken = world.lock().take_letter(world, id);
                    self.port.pass("letter taken").await;
                    if let Some((route, item)) = taken {
                        start_anew(world, &route, &item.identity);
                        count += 1;
                    }
                }
            }
        }
        self.port.pass("redrive done").await;
        Ok(count)
    }

    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.port.pass("discard").await;
        let world = &self.port.world;
        let mut count = 0;
        for id in ids {
            let taken = world.lock().take_letter(world, id);
            if let Some((route, item)) = taken {
                world.trace(|| format!("the letter of event {} of {route} is thrown away", item.number));
                count += 1;
            }
        }
        self.port.pass("discarded").await;
        Ok(count)
    }

    async fn remove_queue(&self, _route: &RouteName) -> Result<u64, TransportError> {
        Err(TransportError::Unsupported("the simulation has none of that"))
    }
}

#[derive(Debug, Clone)]
struct SimConsumer {
    port: Port,
    route: RouteName,
    number: u64,
    /// For who acknowledges.
    work: Arc<tokio::sync::Notify>,
}

/// What becomes of one settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Recorded,
    /// Nothing is stored.
    Refused,
    /// Stored, and answered with an error.
    LostConfirm,
    /// The session ends; it was stored or not.
    Cut {
        stored: bool,
    },
}

impl SimConsumer {
    /// Delivers what is acknowledged to the broker, when it is time for it.
    async fn tend(self) {
        let world = &self.port.world;
        loop {
            let sleep = {
                let mut inner = world.lock();
                if inner.life != self.port.life || inner.is_dead {
                    return;
                }
                let now = world.now();
                inner.deliver(world, self.number, now);
                let Some(hand) = inner.hands.get_mut(&self.number) else { return };
                let acks = hand.window.acks(now, false);
                self.send(&mut inner, acks);
                let Some(hand) = inner.hands.get(&self.number) else { return };
                let due = [hand.window.due(), hand.wire.front().map(|(at, _)| *at)].into_iter().flatten().min();
                due.map(|due| world.clock.sleep(due.saturating_sub(now)))
            };
            match sleep {
                Some(sleep) => tokio::select! {
                    biased;
                    () = self.work.notified() => {}
                    () = sleep => {}
                },
                None => self.work.notified().await,
            }
        }
    }

    /// Puts acknowledgements on their way.
    fn send(&self, inner: &mut Inner, acks: crate::window::Acks) {
        if acks.up_to.is_none() && acks.singly.is_empty() {
            return;
        }
        let world = &self.port.world;
        let mut dice = world.ask(inner, "acknowledging");
        let late = if !world.is_calm() && dice.hits(world.plan.rates.late) { dice.between(1, 100) } else { 0 };
        world.tell(inner, || format!("{} acknowledges {acks:?}{}", self.route, if late > 0 { ", which takes a while" } else { "" }));
        let Some(hand) = inner.hands.get_mut(&self.number) else { return };
        // What is sent later comes later.
        let at = hand.wire.back().map_or(Duration::ZERO, |(at, _)| *at).max(world.now() + Duration::from_millis(late));
        hand.wire.push_back((at, acks));
        inner.deliver(world, self.number, world.now());
    }

    /// Marks deliveries as finished.
    fn finish(&self, inner: &mut Inner, tags: &[u64]) {
        let now = self.port.world.now();
        for tag in tags {
            let Some(hand) = inner.hands.get_mut(&self.number) else { return };
            if !hand.window.finish(*tag, now) {
                inner.oracle.find(format!("{}: {tag} is finished, and was not in hand", self.route));
                continue;
            }
            // What is finished and not acknowledged never exceeds a batch.
            if hand.window.is_full() {
                let acks = hand.window.acks(now, false);
                self.send(inner, acks);
            }
        }
        self.work.notify_one();
    }

    fn luck(&self, what: &'static str) -> (Luck, Duration) {
        let world = &self.port.world;
        let rates = &world.plan.rates;
        let Some(mut dice) = self.port.trouble(what) else { return (Luck::Recorded, Duration::ZERO) };
        let late = if dice.hits(rates.late) { Duration::from_millis(dice.between(1, 400)) } else { Duration::ZERO };
        let luck = if dice.hits(rates.refused) {
            Luck::Refused
        } else if dice.hits(rates.cut) {
            Luck::Cut { stored: dice.hits(500) }
        } else if dice.hits(rates.lost_confirms) && world.plan.kind == Kind::Broker {
            Luck::LostConfirm
        } else {
            Luck::Recorded
        };
        (luck, late)
    }

    /// Can these be settled?
    fn may_settle(&self, inner: &mut Inner, deliveries: &[Delivery]) -> bool {
        let Some(hand) = inner.hands.get(&self.number) else { return false };
        if hand.is_over {
            return false;
        }
        for delivery in deliveries {
            let told = inner.item(self.number, delivery.tag).map(|item| item.told.is_some());
            match told {
                Some(false) => {}
                Some(true) => inner.oracle.find(format!("{} of {} is settled twice", delivery.identity, self.route)),
                None => {
                    inner.oracle.find(format!("{} of {} is settled, and not in hand", delivery.identity, self.route));
                    return false;
                }
            }
        }
        true
    }

    /// What the settlement says is true of these deliveries from now on.
    fn record(&self, inner: &mut Inner, tags: &[u64], settlement: &What) {
        let world = &self.port.world;
        let index = world.route(&self.route);
        for (at, tag) in tags.iter().enumerate() {
            let Some(item) = inner.item(self.number, *tag).cloned() else { continue };
            match settlement {
                What::Done { fates, inbox } => {
                    if world.plan.kind == Kind::File
                        && let Some(Some(key)) = inbox.get(at)
                    {
                        remember(world, &self.route, key.clone());
                    }
                    let Some(fate) = fates.get(at) else {
                        inner.oracle.find(format!("{} deliveries of {} are settled with {} fates", tags.len(), self.route, fates.len()));
                        continue;
                    };
                    self.mark(inner, *tag, Told::Done(fate.clone()));
                }
                What::RetryIn { delay, failure } => {
                    let mut waiting = item.clone();
                    waiting.attempts += 1;
                    AttemptRecord::push(&mut waiting.history, failure.clone());
                    waiting.redelivered = false;
                    waiting.due = world.now() + *delay;
                    waiting.holder = None;
                    waiting.told = None;
                    world.tell(inner, || format!("event {} of {} waits for {delay:?}, with {} attempts", item.number, self.route, waiting.attempts));
                    let place = inner.next_number();
                    if let Some(queue) = inner.queues.get_mut(&self.route) {
                        queue.items.insert(place, waiting);
                    }
                    world.changed.notify_waiters();
                }
                What::Bury(letter) => {
                    world.tell(inner, || format!("event {} of {} is buried: {}: {}", item.number, self.route, letter.reason, letter.error));
                    inner.oracle.buried(index, item.number, letter, age(world, &item, letter));
                    inner.letters_ever += 1;
                    let id = inner.letters_ever.to_string();
                    let stored = StoredDeadLetter {
                        id,
                        key: item.key.clone(),
                        body: item.body.clone(),
                        stored_at: item.stored_at,
                        seq: None,
                        identity: Some(item.identity.clone()),
                        letter: letter.as_ref().clone(),
                    };
                    inner.letters.push(Letter { stored, item });
                }
            }
        }
    }

    fn mark(&self, inner: &mut Inner, tag: u64, told: Told) {
        let index = self.port.world.route(&self.route);
        let Some(item) = inner.item(self.number, tag) else { return };
        (item.told, item.unconfirmed) = (Some(told.clone()), false);
        let number = item.number;
        if let Told::Done(fate) = &told {
            inner.oracle.told(index, number, fate);
        }
    }

    /// The session ends in the middle of a call.
    fn cut(&self) {
        let world = &self.port.world;
        let mut inner = world.lock();
        if inner.life == self.port.life && !inner.is_dead {
            world.tell(&mut inner, || format!("the session of {} is cut", self.route));
            inner.lose(world, self.number);
        }
    }

    async fn settle_in_file(&self, tags: Vec<u64>, what: What) -> Result<(), SettleError> {
        let (luck, late) = self.luck("settling");
        let world = &self.port.world;
        self.port.sleep(late / 2, "settling").await;
        let stored = matches!(luck, Luck::Recorded | Luck::Cut { stored: true });
        {
            let mut inner = world.lock();
            if !inner.hands.contains_key(&self.number) {
                return Err(SettleError::SessionOver);
            }
            if stored {
                self.record(&mut inner, &tags, &what);
                for tag in &tags {
                    if !matches!(what, What::Done { .. }) {
                        self.mark(&mut inner, *tag, Told::Elsewhere);
                    }
                    inner.remove(world, self.number, *tag);
                }
                world.changed.notify_waiters();
            } else {
                world.tell(&mut inner, || format!("{} cannot settle {tags:?}: {luck:?}", self.route));
            }
        }
        if let Luck::Cut { .. } = luck {
            self.cut();
            return Err(SettleError::SessionOver);
        }
        self.port.sleep(late / 2, "settled").await;
        if stored { Ok(()) } else { Err(SettleError::NotRecorded("the simulation says so".to_owned())) }
    }

    /// A wait or a dead letter is stored and confirmed before its event is acknowledged, each for itself.
    async fn settle_elsewhere(&self, deliveries: Vec<Delivery>, what: What) -> Result<(), (SettleError, Vec<Delivery>)> {
        let world = &self.port.world;
        let index = world.route(&self.route);
        let mut left = Vec::new();
        for delivery in deliveries {
            let (luck, late) = self.luck("recording");
            self.port.sleep(late / 2, "recording").await;
            let refused = luck == Luck::Refused || (world.now() < world.lock().refuses_until && !world.is_calm());
            if !refused && luck != (Luck::Cut { stored: false }) {
                let mut inner = world.lock();
                if !inner.hands.contains_key(&self.number) {
                    // The session is gone, and the publication came through all the same, or not.
                    return Err((SettleError::SessionOver, Vec::new()));
                }
                self.record(&mut inner, &[delivery.tag], &what);
                let Some(item) = inner.item(self.number, delivery.tag) else { continue };
                let number = item.number;
                if luck == Luck::Recorded {
                    // Until its confirm is there: its session may end before that, or its process.
                    item.unconfirmed = true;
                } else {
                    inner.oracle.copied(index, number);
                    world.tell(&mut inner, || format!("the confirm of event {number} of {} is lost", self.route));
                }
            }
            if let Luck::Cut { .. } = luck {
                self.cut();
                return Err((SettleError::SessionOver, Vec::new()));
            }
            self.port.sleep(late / 2, "recorded").await;
            let mut inner = world.lock();
            if !inner.hands.contains_key(&self.number) {
                return Err((SettleError::SessionOver, Vec::new()));
            }
            if refused || luck == Luck::LostConfirm {
                left.push(delivery);
                continue;
            }
            self.mark(&mut inner, delivery.tag, Told::Elsewhere);
            self.finish(&mut inner, &[delivery.tag]);
        }
        if left.is_empty() { Ok(()) } else { Err((SettleError::NotRecorded("the simulation says so".to_owned()), left)) }
    }
}

impl Inner {
    /// What is on its way arrives, as far as it is time.
    fn deliver(&mut self, world: &World, consumer: u64, now: Duration) {
        loop {
            let Some(hand) = self.hands.get_mut(&consumer) else { return };
            if hand.wire.front().is_none_or(|(at, _)| *at > now) {
                return;
            }
            if let Some((_, acks)) = hand.wire.pop_front() {
                self.acknowledge(world, consumer, &acks);
            }
        }
    }
}

/// A settlement that can be looked at more than once.
#[derive(Debug)]
enum What {
    Done { fates: Vec<router_api::Fate>, inbox: Vec<Option<InboxKey>> },
    RetryIn { delay: Duration, failure: AttemptRecord },
    Bury(Box<DeadLetter>),
}

impl From<Settlement> for What {
    fn from(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Done { fates, inbox } => Self::Done { fates, inbox },
            Settlement::RetryIn { delay, failure } => Self::RetryIn { delay, failure },
            Settlement::Bury(letter) => Self::Bury(letter),
        }
    }
}

/// What was noted of earlier tries counts no more against what an operator has put back.
fn start_anew(world: &World, route: &RouteName, identity: &str) {
    use futures_util::FutureExt;
    let store = world.store();
    let forgotten = store.forget_attempts(route, &[identity.to_owned()]).now_or_never();
    let cleared = store.clear_suspect(route, identity).now_or_never();
    assert!(matches!((forgotten, cleared), (Some(Ok(())), Some(Ok(())))), "the store in memory takes it at once");
}

/// How old an event is that is buried: by the wall clock now and when that was decided, and by the time that has passed, since the wall clock
/// may have been set in between.
fn age(world: &World, item: &Item, letter: &DeadLetter) -> Duration {
    let stored = told_time(world.plan.kind, item);
    let by_wall = world.clock.now().max(letter.buried_at).duration_since(stored).max(SignedDuration::ZERO).unsigned_abs();
    by_wall.max(world.now().saturating_sub(item.arrived))
}

/// When an event was stored, as far as the router can know. A broker tells it only when it first hands the event out, so the event's own time
/// is believed where that is earlier: that of what a handler emitted is the end of its handling, which a late publication comes after.
fn told_time(kind: Kind, item: &Item) -> jiff::Timestamp {
    if kind == Kind::File {
        return item.stored_at;
    }
    let event = Envelope::decode(item.key.clone(), item.body.clone(), DecodeLimits::default()).ok();
    event.and_then(|event| event.time()).map_or(item.stored_at, |time| time.min(item.stored_at))
}

/// Puts a key into the inbox, in the commit of a settlement.
fn remember(world: &World, route: &RouteName, key: InboxKey) {
    use futures_util::FutureExt;
    let inserted = world.store().inbox_insert(route, &[key]).now_or_never();
    assert!(matches!(inserted, Some(Ok(()))), "the store in memory takes it at once");
}

#[async_trait]
impl Consumer for SimConsumer {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        let world = Arc::clone(&self.port.world);
        loop {
            let changed = world.changed.notified();
            tokio::pin!(changed);
            // Listens before it looks, so that no change in between is missed.
            changed.as_mut().enable();
            if !self.port.is_alive() {
                std::future::pending::<()>().await;
            }
            let looked = {
                let mut inner = world.lock();
                if !inner.hands.contains_key(&self.number) {
                    return None;
                }
                inner.take(&world, self.number)
            };
            match looked {
                Ok(delivery) => {
                    // Asked of each delivery, not of each look, so that chance does not depend on how often somebody looks.
                    return Some(Ok(delivery));
                }
                Err(due) => {
                    let due = async {
                        match due {
                            Some(due) => world.clock.sleep(due.saturating_sub(world.now())).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = due => {}
                    }
                }
            }
        }
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        self.port.pass("settle").await;
        let world = &self.port.world;
        let tags: Vec<u64> = deliveries.iter().map(|delivery| delivery.tag).collect();
        let what = What::from(settlement);
        {
            let mut inner = world.lock();
            if !self.may_settle(&mut inner, &deliveries) {
                return Err((SettleError::SessionOver, deliveries));
            }
            if let (Kind::Broker, What::Done { .. }) = (world.plan.kind, &what) {
                self.record(&mut inner, &tags, &what);
                self.finish(&mut inner, &tags);
                return Ok(());
            }
        }
        match world.plan.kind {
            Kind::File => self.settle_in_file(tags, what).await.map_err(|error| (error, deliveries)),
            Kind::Broker => self.settle_elsewhere(deliveries, what).await,
        }
    }

    fn hold_lane(&self, lane: &str) {
        let mut inner = self.port.world.lock();
        if self.port.world.plan.kind == Kind::File
            && inner.hands.contains_key(&self.number)
            && let Some(queue) = inner.queues.get_mut(&self.route)
        {
            queue.held_lanes.insert(lane.to_owned());
        }
    }

    fn free_lane(&self, lane: &str) {
        let mut inner = self.port.world.lock();
        if inner.hands.contains_key(&self.number)
            && let Some(queue) = inner.queues.get_mut(&self.route)
        {
            queue.held_lanes.remove(lane);
        }
        self.port.world.changed.notify_waiters();
    }

    async fn renewal_due(&self) {
        let rate = self.port.world.plan.rates.renewals;
        if let Some(mut dice) = self.port.trouble("renewal")
            && dice.hits(rate)
        {
            self.port.sleep(Duration::from_millis(dice.between(1, 20_000)), "renewing").await;
            return;
        }
        std::future::pending().await
    }

    async fn close(&self) {
        self.port.pass("close").await;
        let world = &self.port.world;
        let mut inner = world.lock();
        if let Some(hand) = inner.hands.get_mut(&self.number) {
            hand.is_over = true;
            let acks = hand.window.acks(world.now(), true);
            self.send(&mut inner, acks);
            inner.deliver(world, self.number, Duration::MAX);
            let rates = &world.plan.rates;
            let refused = world.plan.acts.iter().any(|(_, act)| matches!(act, crate::plan::Act::RefusePublications(_)));
            // What could not be recorded when the time of a drain was over comes again.
            let excused = refused || rates.late + rates.refused + rates.lost_confirms + rates.cut + rates.store > 0;
            world.tell(&mut inner, || format!("{} leaves its queue", self.route));
            inner.give_back(world, self.number, excused, true);
        }
        self.work.notify_one();
    }
}

impl Drop for SimConsumer {
    fn drop(&mut self) {
        // Whoever tends has a clone; the router's own is dropped last only when it was closed, or with its process.
        self.work.notify_one();
    }
}
