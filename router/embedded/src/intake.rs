//! The door: which routes want an event, and the rows that it becomes.
//!
//! Patterns, decoding and filters run in the publisher's task, so that many publishers use many cores; the writer only inserts.
//! A publication that began before a `bind` returned may still be distributed by the older bindings.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use router_api::{
    DecodeLimits, Destination, Envelope, Matcher, PatternTrie, Publication, Published, RouteName, RoutingKey, RoutingPattern, Subscription, TransportError,
};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    embedded::{Shared, refusal},
    event_row::{EventRow, Extracted},
    queue::{OFFERED_BODY_MAX, QueuedRow},
    schema::state,
    writer::{Work, WriteError, Writing},
};

/// The routes that are bound.
#[derive(Default)]
pub(crate) struct Bindings {
    trie: PatternTrie<u32>,
    routes: Vec<BoundRoute>,
    by_name: HashMap<RouteName, usize>,
}

/// A bound route.
#[derive(Clone)]
pub(crate) struct BoundRoute {
    pub(crate) name: RouteName,
    /// Its row in `routes`.
    pub(crate) id: i64,
    pub(crate) patterns: Vec<RoutingPattern>,
    /// `None` between the opening of the store and the first `bind`: whatever fits the patterns is queued, and filtered when it is
    /// handled.
    pub(crate) matcher: Option<Arc<dyn Matcher>>,
}

impl Bindings {
    pub(crate) fn new(routes: Vec<BoundRoute>) -> Self {
        let mut trie = PatternTrie::new();
        for (index, route) in (0u32..).zip(&routes) {
            for pattern in &route.patterns {
                trie.insert(pattern, index);
            }
        }
        let by_name = routes.iter().enumerate().map(|(index, route)| (route.name.clone(), index)).collect();
        Self { trie, routes, by_name }
    }

    /// As the store has kept them.
    pub(crate) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut statement = conn.prepare("SELECT name, id, patterns FROM routes WHERE patterns IS NOT NULL ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
        let mut routes = Vec::new();
        for row in rows {
            let (name, id, patterns) = row?;
            if let (Ok(name), Ok(patterns)) = (name.parse(), serde_json::from_str(&patterns)) {
                routes.push(BoundRoute { name, id, patterns, matcher: None });
            }
        }
        Ok(Self::new(routes))
    }

    /// The bound routes that `keeps` wants.
    pub(crate) fn kept(&self, keeps: impl Fn(&RouteName) -> bool) -> Vec<BoundRoute> {
        self.routes.iter().filter(|route| keeps(&route.name)).cloned().collect()
    }

    /// Makes `subscriptions` the bound routes of the store, beside the routes `kept`; returns their ids.
    pub(crate) fn write(conn: &Connection, subscriptions: &[Subscription], kept: &[i64]) -> rusqlite::Result<Vec<i64>> {
        let kept = serde_json::to_string(kept).unwrap_or_else(|_| "[]".to_owned());
        conn.execute("UPDATE routes SET patterns = NULL WHERE patterns IS NOT NULL AND id NOT IN (SELECT value FROM json_each(?1))", [kept])?;
        let mut statement = conn.prepare_cached(
            "INSERT INTO routes (name, patterns) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET patterns = excluded.patterns, queue = 1 RETURNING id",
        )?;
        let ids = subscriptions.iter().map(|subscription| {
            let patterns: Vec<&str> = subscription.patterns.iter().map(RoutingPattern::as_str).collect();
            let patterns = serde_json::to_string(&patterns).unwrap_or_else(|_| "[]".to_owned());
            statement.query_row(params![subscription.route.as_str(), patterns], |row| row.get(0))
        });
        ids.collect()
    }

    /// Who wants an event, in the order of the routes.
    fn wanting(&self, key: &RoutingKey, event: Option<&Envelope>) -> Vec<Target> {
        let mut wanting: Vec<(u32, Target)> = Vec::new();
        self.trie.each(key, |index| {
            let route = self.routes.get(index as usize);
            wanting.extend(route.and_then(|route| target(route, event)).map(|target| (index, target)));
        });
        wanting.sort_unstable_by_key(|(index, _)| *index);
        wanting.into_iter().map(|(_, target)| target).collect()
    }

    /// A bound route by its name.
    pub(crate) fn route(&self, name: &RouteName) -> Option<&BoundRoute> {
        self.by_name.get(name).map(|index| &self.routes[*index])
    }
}

/// Where a row of the queue goes.
#[derive(Debug)]
struct Target {
    route: i64,
    lane: Option<String>,
    /// The row's, once it is written.
    delivery: i64,
}

#[derive(Debug)]
enum Targets {
    /// Those who want it.
    Subscribers(Vec<Target>),
    /// One route, when it is due.
    Direct { route: RouteName, lane: Option<String>, due_at: Option<i64> },
}

/// A publication as it will be written.
struct Arrival {
    event: EventRow,
    targets: Targets,
}

impl Arrival {
    /// Asks the bindings who wants it. This is where an event is decoded, if it is not yet.
    fn new(shared: &Shared, bindings: &Bindings, mut publication: Publication) -> Self {
        let decoded = publication.envelope(shared.decode).ok();
        let Publication { to, key, body, hops, traceparent, redactions, decoded: _ } = publication;
        let targets = match to {
            Destination::Subscribers => Targets::Subscribers(bindings.wanting(&key, decoded.as_deref())),
            Destination::Route { route, delay } => {
                let lane = bindings.route(&route).and_then(|bound| lane(bound, decoded.as_deref()));
                let due_at = (!delay.is_zero()).then(|| shared.time.due_after(delay));
                Targets::Direct { route, lane, due_at }
            }
        };
        let stored_at = shared.time.clock().now().as_microsecond();
        // What is handed on from memory may wait there: not with the whole request that it was a part of.
        let body = if body.len() <= OFFERED_BODY_MAX { Bytes::copy_from_slice(&body) } else { body };
        let extracted = decoded.as_deref().map(Extracted::of).unwrap_or_default();
        Self { event: EventRow::new(key, body, stored_at, hops, redactions, traceparent, extracted), targets }
    }

    fn insert(&mut self, writing: &Writing<'_>) -> rusqlite::Result<Stored> {
        let conn = writing.conn;
        match &mut self.targets {
            Targets::Subscribers(targets) => {
                let seq = self.event.insert(conn, i64::try_from(targets.len()).unwrap_or(i64::MAX))?;
                let mut statement = conn.prepare_cached("INSERT INTO deliveries (route, seq, state, lane, at) VALUES (?1, ?2, 0, ?3, ?4)")?;
                for target in targets.iter_mut() {
                    target.delivery = statement.insert(params![target.route, seq, target.lane, writing.now])?;
                }
                Ok(Stored { published: Ok(published(!targets.is_empty(), seq)), seq, direct: None })
            }
            Targets::Direct { route, lane, due_at } => {
                let id: Option<i64> =
                    conn.prepare_cached("SELECT id FROM routes WHERE name = ?1 AND queue = 1")?.query_row([route.as_str()], |row| row.get(0)).optional()?;
                let Some(id) = id else {
                    let sentence = format!("route `{route}` has no queue: it was never bound, or its queue was removed");
                    return Ok(Stored { published: Err(TransportError::Refused(sentence)), seq: 0, direct: None });
                };
                let seq = self.event.insert(conn, 1)?;
                let state = if due_at.is_some() { state::WAITING } else { state::READY };
                conn.prepare_cached("INSERT INTO deliveries (route, seq, state, lane, due_at, at, direct) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)")?
                    .execute(params![id, seq, state, &*lane, &*due_at, writing.now])?;
                Ok(Stored { published: Ok(published(true, seq)), seq, direct: Some(id) })
            }
        }
    }

    /// Tells the queues that have it now, and gives it to those that wait for it.
    fn tell(&self, shared: &Shared, stored: &Stored) {
        match &self.targets {
            Targets::Subscribers(targets) => {
                for target in targets {
                    let Some(queue) = shared.queue_if_known(target.route) else { continue };
                    if self.event.body.len() > OFFERED_BODY_MAX {
                        queue.note_ready();
                        continue;
                    }
                    queue.offer(shared.time.now(), target.delivery, || QueuedRow {
                        id: target.delivery,
                        lane: target.lane.clone(),
                        due_at: None,
                        attempts: 0,
                        history: Vec::new(),
                        direct: false,
                        handed: false,
                        event: self.event.stored(stored.seq),
                    });
                }
            }
            Targets::Direct { due_at, .. } => {
                let Some(queue) = stored.direct.and_then(|route| shared.queue_if_known(route)) else { return };
                match due_at {
                    Some(due_at) => queue.note_waiting(*due_at),
                    None => queue.note_ready(),
                }
            }
        }
    }
}

/// What an arrival was inserted as.
struct Stored {
    published: Result<Published, TransportError>,
    /// The event's number.
    seq: i64,
    /// The row of the route that it is addressed to.
    direct: Option<i64>,
}

/// What a publisher is told: of each event, if all of them were written in one commit; else why none was.
pub(crate) type Answers = Result<Vec<Result<Published, TransportError>>, TransportError>;

/// What one publisher brings at once, on its way to the writer. All of it is one commit.
pub(crate) struct Arrivals {
    arrivals: Vec<Arrival>,
    /// One for each, once they are applied.
    stored: Vec<Stored>,
    reply: oneshot::Sender<Answers>,
    shared: Weak<Shared>,
    /// Its share of the bytes that may wait for the writer.
    _room: OwnedSemaphorePermit,
}

impl Arrivals {
    /// Everything but the writing happens here, in the publisher's task.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        publications: impl IntoIterator<Item = Publication>,
        room: OwnedSemaphorePermit,
        reply: oneshot::Sender<Answers>,
    ) -> Self {
        let bindings = shared.bindings();
        let arrivals = publications.into_iter().map(|publication| Arrival::new(shared, &bindings, publication)).collect();
        Self { arrivals, stored: Vec::new(), reply, shared: Arc::downgrade(shared), _room: room }
    }
}

fn published(routed: bool, seq: i64) -> Published {
    Published { routed, seq: u64::try_from(seq).ok() }
}

impl Work for Arrivals {
    fn apply(&mut self, writing: &Writing<'_>) -> rusqlite::Result<()> {
        self.stored.clear();
        for (index, arrival) in self.arrivals.iter_mut().enumerate() {
            if index > 0 {
                writing.half();
            }
            self.stored.push(arrival.insert(writing)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), WriteError>) {
        let answers = match outcome {
            Ok(()) => {
                if let Some(shared) = self.shared.upgrade() {
                    for (arrival, stored) in self.arrivals.iter().zip(&self.stored) {
                        arrival.tell(&shared, stored);
                    }
                }
                Ok(self.stored.into_iter().map(|stored| stored.published).collect())
            }
            Err(error) => Err(refusal(error)),
        };
        // A publisher that has gone does not undo its events.
        let _ = self.reply.send(answers);
    }

    fn adds_events(&self) -> bool {
        true
    }

    fn weight(&self) -> usize {
        self.arrivals.len()
    }
}

pub(crate) fn decode(key: &router_api::RoutingKey, body: &bytes::Bytes, limits: DecodeLimits) -> Option<Envelope> {
    Envelope::decode(key.clone(), body.clone(), limits).ok()
}

/// A body that does not decode goes to every route whose patterns fit, which will bury it.
fn target(route: &BoundRoute, event: Option<&Envelope>) -> Option<Target> {
    let is_wanted = match (&route.matcher, event) {
        (Some(matcher), Some(event)) => guarded(&route.name, "filter", || matcher.matches(event)).unwrap_or(true),
        _ => true,
    };
    is_wanted.then(|| Target { route: route.id, lane: lane(route, event), delivery: 0 })
}

fn lane(route: &BoundRoute, event: Option<&Envelope>) -> Option<String> {
    let (matcher, event) = (route.matcher.as_ref()?, event?);
    guarded(&route.name, "lane", || matcher.lane(event)).flatten()
}

/// A matcher that panics must not take the publisher down; the router asks again before it handles the event.
fn guarded<T>(route: &RouteName, what: &'static str, ask: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answer) => Some(answer),
        Err(_) => {
            tracing::error!(route = %route, what, "a route's matcher panicked; the event is queued as wanted");
            None
        }
    }
}
