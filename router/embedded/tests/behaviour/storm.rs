//! Publishers, takers, operators and another program that holds the file, all at once on several threads: what a route is handed is held
//! against what was accepted, what was settled and what is held.
//!
//! What is watched here are the places where two threads meet: a read of the queue and a commit, the offer of what was just committed, a
//! settlement under way while its session ends and the next begins, commits that fail. Drawn from a seed that is printed when it fails, though
//! threads do not meet twice in the same way.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use router_api::{Consumer, DeadLetterQuery, DeadLetterReason, Delivery, Destination, Publication, Settlement, Store, Transport, TransportAdmin};
use serde_json::json;

use crate::bench::*;

/// Lanes, each with its own publisher, so that what is accepted later has the greater number.
const LANES: usize = 4;
/// Events of each.
const EVENTS: u64 = 60;
/// One in so many has a body that is not handed on from memory.
const LARGE_EVERY: u64 = 17;

/// A splitmix64, so that a failure says how it was drawn.
struct Draw(u64);

impl Draw {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % count
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Where an event of a route is, as far as its taker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In its queue.
    Queued,
    /// In the hand of this session.
    InHand(u64),
    /// That session has begun to settle it as done.
    Settling(u64),
    /// It waits, or has waited, or was given up on, or is about to: its order is over.
    Loose,
    /// In the hand of this session, out of order.
    LooseInHand(u64),
    /// Done.
    Ended,
}

/// What one route was handed so far.
#[derive(Default)]
struct Oracle {
    /// By lane and number.
    events: BTreeMap<(usize, u64), Where>,
    wrong: Vec<String>,
    handed: u64,
}

impl Oracle {
    fn is_of(&mut self, at: (usize, u64)) -> &mut Where {
        self.events.entry(at).or_insert(Where::Queued)
    }

    fn handed(&mut self, session: u64, at: (usize, u64), is_direct: bool) {
        self.handed += 1;
        let was = *self.is_of(at);
        let is_loose = is_direct || matches!(was, Where::Loose | Where::LooseInHand(_));
        match was {
            Where::Ended => self.wrong.push(format!("session {session}: {at:?} was done, and comes again")),
            Where::InHand(other) | Where::LooseInHand(other) | Where::Settling(other) if other == session => {
                self.wrong.push(format!("session {session}: {at:?} is in hand already ({was:?})"));
            }
            _ => {}
        }
        if !is_loose {
            // What stands before it in its lane is in this hand too, or on its way to be settled by an earlier one, or has ended.
            let before = (0..at.1).map(|number| ((at.0, number), self.events.get(&(at.0, number)).copied().unwrap_or(Where::Queued)));
            let left: Vec<_> =
                before.filter(|(_, state)| matches!(state, Where::Queued) || matches!(state, Where::InHand(other) if *other != session)).collect();
            if !left.is_empty() {
                self.wrong.push(format!("session {session}: {at:?} comes before {left:?}"));
            }
        }
        *self.is_of(at) = if is_loose { Where::LooseInHand(session) } else { Where::InHand(session) };
    }

    /// Its settlement begins. A session that is over settles nothing.
    fn settling(&mut self, session: u64, at: (usize, u64), to: Where) {
        let is = self.is_of(at);
        if matches!(*is, Where::InHand(of) | Where::LooseInHand(of) if of == session) {
            *is = if to == Where::Ended { Where::Settling(session) } else { Where::Loose };
        }
    }

    /// It is recorded.
    fn settled(&mut self, session: u64, at: (usize, u64), to: Where) {
        let is = self.is_of(at);
        let was = *is;
        if to == Where::Ended {
            *is = Where::Ended;
            if was != Where::Settling(session) {
                self.wrong.push(format!("session {session}: {at:?} is done, and was {was:?}"));
            }
        }
    }

    /// It could not be settled, and is in hand again, or in its queue.
    fn came_back(&mut self, session: u64, at: (usize, u64), is_loose: bool, lives: bool) {
        let is = self.is_of(at);
        match (*is, lives) {
            (Where::Loose, true) => *is = Where::LooseInHand(session),
            (Where::Settling(of), _) if of == session => {
                *is = match (lives, is_loose) {
                    (true, true) => Where::LooseInHand(session),
                    (true, false) => Where::InHand(session),
                    (false, true) => Where::Loose,
                    (false, false) => Where::Queued,
                };
                let mut later = self.events.range((at.0, at.1 + 1)..(at.0 + 1, 0));
                let overtaken = later.find(|(_, state)| matches!(state, Where::InHand(other) if *other > session));
                if let (Some((later, _)), false) = (overtaken, is_loose) {
                    self.wrong.push(format!("session {session}: {at:?} came back, and {later:?} was handed to a later session before it"));
                }
            }
            _ => {}
        }
    }

    fn left(&mut self, session: u64) {
        for state in self.events.values_mut() {
            *state = match *state {
                Where::InHand(of) if of == session => Where::Queued,
                Where::LooseInHand(of) if of == session => Where::Loose,
                other => other,
            };
        }
    }
}

type Watched = Arc<Mutex<Oracle>>;

fn place(delivery: &Delivery) -> (usize, u64) {
    let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
    (body["lane"].as_str().unwrap().trim_start_matches('l').parse().unwrap(), body["n"].as_u64().unwrap())
}

async fn publish(bench: &Bench, lane: usize, draw: &mut Draw) {
    let body = |n: u64| {
        let fill = if n % LARGE_EVERY == LARGE_EVERY - 1 { "x".repeat(70_000) } else { String::new() };
        json!({ "lane": format!("l{lane}"), "n": n, "fill": fill }).to_string()
    };
    let mut n = 0;
    while n < EVENTS {
        let count = 1 + draw.below(6).min(EVENTS - n - 1);
        let mut events: Vec<Publication> = (n..n + count).map(|n| Publication::new(key("k"), body(n))).collect();
        // As long as another program holds the file, nothing is accepted: what was not is brought again.
        while !events.is_empty() {
            match bench.store.publish_all(events.clone()).await {
                Ok(_) => break,
                Err((accepted, _)) => drop(events.drain(..accepted.len())),
            }
        }
        n += count;
        if draw.one_in(8) {
            // Of a lane of its own: direct ones come when they are due.
            let n = 1_000_000 + n;
            let delay = Duration::from_millis(draw.below(3));
            let to = Destination::Route { route: route("a"), delay };
            let event = Publication { to, ..Publication::new(key("direct"), json!({ "lane": format!("l{lane}"), "n": n }).to_string()) };
            while bench.store.publish(event.clone()).await.is_err() {}
        }
        tokio::time::sleep(Duration::from_micros(draw.below(1_500))).await;
    }
}

/// Takes what a route gets, one session after the other, until it is told to stop.
async fn consume(bench: Arc<Bench>, name: &'static str, watched: Watched, seed: u64, ended: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut draw = Draw(seed);
    let mut session = 0;
    let mut under_way = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        session += 1;
        let consumer = bench.consume(name, u32::try_from(1 + draw.below(24)).unwrap()).await;
        let mut hand: Vec<Delivery> = Vec::new();
        let mut held: HashMap<String, u64> = HashMap::new();
        let mut settling = Vec::new();
        let is_last = draw.one_in(3);
        for _ in 0..20 + draw.below(120) {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let next = if draw.one_in(2) { consumer.take() } else { None };
            let next = match next {
                Some(delivery) => Some(delivery),
                None => tokio::time::timeout(Duration::from_micros(300 + draw.below(3_000)), consumer.next()).await.ok().flatten().and_then(Result::ok),
            };
            if let Some(delivery) = next {
                let at = place(&delivery);
                let lane = format!("l{}", at.0);
                let mut watched = watched.lock().unwrap();
                if held.contains_key(&lane) {
                    watched.wrong.push(format!("{name}, session {session}: {at:?} comes though its lane is held"));
                }
                watched.handed(session, at, delivery.direct || delivery.attempts > 0);
                drop(watched);
                hand.push(delivery);
            }
            held.values_mut().for_each(|turns| *turns -= 1);
            let over: Vec<String> = held.iter().filter(|(_, turns)| **turns == 0).map(|(lane, _)| lane.clone()).collect();
            for lane in over {
                held.remove(&lane);
                consumer.free_lane(&lane);
            }
            if draw.one_in(12) {
                let lane = format!("l{}", draw.below(LANES as u64));
                consumer.hold_lane(&lane);
                held.insert(lane, 1 + draw.below(8));
            }
            if hand.len() > 4 || draw.one_in(3) {
                let count = 1 + usize::try_from(draw.below(4)).unwrap();
                let some: Vec<Delivery> = hand.drain(..count.min(hand.len())).collect();
                if !some.is_empty() {
                    settling.push(settle(&consumer, name, session, some, &watched, draw.below(20), &ended));
                }
            }
        }
        if is_last {
            // The session ends while settlements are under way.
            under_way.append(&mut settling);
            consumer.close().await;
            watched.lock().unwrap().left(session);
            drop(consumer);
            tokio::task::yield_now().await;
        } else {
            for task in settling {
                task.await.unwrap();
            }
            watched.lock().unwrap().left(session);
            if draw.one_in(2) {
                consumer.close().await;
            }
            drop(consumer);
        }
    }
    for task in under_way {
        task.await.unwrap();
    }
}

fn settle(
    consumer: &Arc<dyn Consumer>,
    name: &'static str,
    session: u64,
    mut deliveries: Vec<Delivery>,
    watched: &Watched,
    how: u64,
    ended: &Arc<AtomicU64>,
) -> tokio::task::JoinHandle<()> {
    let (consumer, watched, ended) = (Arc::clone(consumer), Arc::clone(watched), Arc::clone(ended));
    tokio::spawn(async move {
        loop {
            let count = deliveries.len();
            let (settlement, to) = match how {
                0 => (Settlement::RetryIn { delay: Duration::from_millis(1), failure: failure(1) }, Where::Loose),
                1 => (Settlement::RetryIn { delay: Duration::ZERO, failure: failure(1) }, Where::Loose),
                2 => (Settlement::Bury(Box::new(letter(name, DeadLetterReason::Rejected))), Where::Loose),
                _ => (handled(count), Where::Ended),
            };
            let places: Vec<_> = deliveries.iter().map(|delivery| (place(delivery), delivery.direct || delivery.attempts > 0)).collect();
            {
                let mut watched = watched.lock().unwrap();
                places.iter().for_each(|(at, _)| watched.settling(session, *at, to));
            }
            let answer = consumer.settle(deliveries, settlement).await;
            let mut watched = watched.lock().unwrap();
            match answer {
                Ok(()) => {
                    places.iter().for_each(|(at, _)| watched.settled(session, *at, to));
                    if to == Where::Ended {
                        ended.fetch_add(count as u64, Ordering::SeqCst);
                    }
                    return;
                }
                Err((router_api::SettleError::SessionOver, _)) => {
                    places.iter().for_each(|(at, is_loose)| watched.came_back(session, *at, *is_loose, false));
                    return;
                }
                Err((router_api::SettleError::NotRecorded(_), back)) => {
                    places.iter().for_each(|(at, is_loose)| watched.came_back(session, *at, *is_loose, true));
                    deliveries = back;
                }
            }
        }
    })
}

/// Another program that takes the write lock now and then, for longer than the writer waits.
fn intrude(path: std::path::PathBuf, seed: u64, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut draw = Draw(seed);
        let conn = rusqlite::Connection::open(path).unwrap();
        while !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(draw.below(30)));
            if conn.execute_batch("BEGIN IMMEDIATE").is_ok() {
                std::thread::sleep(Duration::from_millis(draw.below(12)));
                conn.execute_batch("ROLLBACK").unwrap();
            }
        }
    })
}

/// Puts back what was given up on, looks around, binds and unbinds a route that nobody takes from, and lets time pass, so that old events leave.
async fn operate(bench: Arc<Bench>, seed: u64, stop: Arc<AtomicBool>) {
    let mut draw = Draw(seed);
    let both: [(&str, &[&str]); 2] = [("a", &["k"]), ("b", &["k"])];
    let subscriptions = |names: &[(&str, &[&str])]| names.iter().map(|(name, patterns)| subscription(name, patterns)).collect::<Vec<_>>();
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_micros(draw.below(4_000))).await;
        bench.clock.advance(Duration::from_millis(1 + draw.below(3)));
        match draw.below(12) {
            0..=2 => {
                let letters = bench.store.dead_letters(&DeadLetterQuery::default()).await.unwrap();
                let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
                let _ = bench.store.redrive(&ids).await;
            }
            3 => drop(bench.store.queues().await.unwrap()),
            4 => drop(bench.store.events(&router_api::EventQuery { last: Some(20), ..router_api::EventQuery::default() }).await.unwrap()),
            5 => drop(bench.store.bind(&subscriptions(&[both[0], both[1], ("c", &["k"])])).await),
            6 => drop(bench.store.bind(&subscriptions(&both)).await),
            7 => drop(bench.store.remove_queue(&route("c")).await),
            // The next step of the retention is due.
            8 => bench.clock.advance(Duration::from_secs(61)),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whatever_meets_each_event_is_handed_out_in_its_order_and_once() {
    let seed = std::env::var("EVENT_ROUTER_STORM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64 % 1_000_000));
    let bench = Arc::new(Bench::with(|options| {
        options.busy_timeout = Duration::from_millis(4);
        options.retention_age = Duration::from_secs(30);
    }));
    bench.bind(&[("a", &["k"]), ("b", &["k"])]).await;
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watched: [Watched; 2] = Default::default();
    let intruder = intrude(bench.directory.path().join("router.db"), seed ^ 1, Arc::clone(&stop));
    let operator = tokio::spawn(operate(Arc::clone(&bench), seed ^ 2, Arc::clone(&stop)));
    let takers: Vec<_> = ["a", "b"]
        .into_iter()
        .zip(&watched)
        .map(|(name, watched)| {
            let seed = seed ^ u64::from(name.as_bytes()[0]) << 32;
            tokio::spawn(consume(Arc::clone(&bench), name, Arc::clone(watched), seed, Arc::clone(&ended), Arc::clone(&stop)))
        })
        .collect();
    let publishers: Vec<_> = (0..LANES)
        .map(|lane| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { publish(&bench, lane, &mut Draw(seed ^ (lane as u64 + 1) << 40)).await })
        })
        .collect();
    let wrong = |watched: &[Watched]| watched.iter().flat_map(|watched| watched.lock().unwrap().wrong.clone()).collect::<Vec<_>>();
    let all_done = within(async {
        for publisher in publishers {
            publisher.await.unwrap();
        }
        let left = "SELECT count(*) FROM deliveries WHERE state <> 2 AND route IN (SELECT id FROM routes WHERE name IN ('a', 'b'))";
        while bench.count(left) > 0 && wrong(&watched).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    all_done.await;
    stop.store(true, Ordering::SeqCst);
    for taker in takers {
        within(taker).await.unwrap();
    }
    operator.await.unwrap();
    intruder.join().unwrap();
    assert_eq!(wrong(&watched), [""; 0], "seed {seed}");
    for watched in &watched {
        let watched = watched.lock().unwrap();
        assert!(watched.events.len() as u64 >= LANES as u64 * EVENTS, "seed {seed}: {} events came", watched.events.len());
        let left: Vec<_> = watched.events.iter().filter(|(_, state)| **state != Where::Ended).collect();
        assert!(left.is_empty(), "seed {seed}: the queue is empty, and {left:?}");
        assert!(watched.handed >= watched.events.len() as u64);
    }
    bench.store.close().await;
}
