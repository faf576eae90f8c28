//! The door: which routes want an event, and the rows that it becomes.
//!
//! Patterns, decoding and filters run in the publisher's task, so that many publishers use many cores; the writer only inserts.
//! A publication that began before a `bind` returned may still be distributed by the older bindings.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use router_api::{DecodeLimits, Destination, Envelope, Matcher, PatternTrie, Publication, Published, RouteName, RoutingPattern, Subscription, TransportError};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    embedded::{Shared, refusal},
    event_row::{EventRow, Extracted},
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
}

#[derive(Debug)]
enum Targets {
    /// Those who want it.
    Subscribers(Vec<Target>),
    /// One route, when it is due.
    Direct { route: RouteName, lane: Option<String>, due_at: Option<i64> },
}

/// A publication on its way to the writer.
pub(crate) struct Arrival {
    event: EventRow,
    targets: Targets,
    outcome: Option<(Result<Published, TransportError>, Vec<i64>)>,
    reply: oneshot::Sender<Result<Published, TransportError>>,
    shared: Weak<Shared>,
    /// Its share of the bytes that may wait for the writer.
    _room: OwnedSemaphorePermit,
}

impl Arrival {
    /// Asks the bindings who wants it. This is where an event is decoded for the first time.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        publication: Publication,
        room: OwnedSemaphorePermit,
        reply: oneshot::Sender<Result<Published, TransportError>>,
    ) -> Self {
        let Publication { to, key, body, hops, traceparent, redactions } = publication;
        let bindings = shared.bindings();
        let decoded = decode(&key, &body, shared.decode);
        let targets = match to {
            Destination::Subscribers => {
                let wanting = bindings.trie.matches(&key).into_iter().filter_map(|index| bindings.routes.get(index as usize));
                Targets::Subscribers(wanting.filter_map(|route| target(route, decoded.as_ref())).collect())
            }
            Destination::Route { route, delay } => {
                let lane = bindings.route(&route).and_then(|bound| lane(bound, decoded.as_ref()));
                let due_at = (!delay.is_zero()).then(|| shared.time.due_after(delay));
                Targets::Direct { route, lane, due_at }
            }
        };
        let stored_at = shared.time.clock().now().as_microsecond();
        let extracted = decoded.as_ref().map(Extracted::of).unwrap_or_default();
        let event = EventRow { key, body, stored_at, hops, redactions, traceparent, extracted };
        Self { event, targets, outcome: None, reply, shared: Arc::downgrade(shared), _room: room }
    }

    fn insert(&self, writing: &Writing<'_>) -> rusqlite::Result<(Result<Published, TransportError>, Vec<i64>)> {
        let conn = writing.conn;
        match &self.targets {
            Targets::Subscribers(targets) => {
                let seq = self.event.insert(conn, i64::try_from(targets.len()).unwrap_or(i64::MAX))?;
                let mut statement = conn.prepare_cached("INSERT INTO deliveries (route, seq, state, lane, at) VALUES (?1, ?2, 0, ?3, ?4)")?;
                for target in targets {
                    statement.execute(params![target.route, seq, target.lane, writing.now])?;
                }
                let routes = targets.iter().map(|target| target.route).collect();
                Ok((Ok(published(!targets.is_empty(), seq)), routes))
            }
            Targets::Direct { route, lane, due_at } => {
                let id: Option<i64> =
                    conn.prepare_cached("SELECT id FROM routes WHERE name = ?1 AND queue = 1")?.query_row([route.as_str()], |row| row.get(0)).optional()?;
                let Some(id) = id else {
                    return Ok((
                        Err(TransportError::Refused(format!("route `{route}` has no queue: it was never bound, or its queue was removed"))),
                        Vec::new(),
                    ));
                };
                let seq = self.event.insert(conn, 1)?;
                let state = if due_at.is_some() { state::WAITING } else { state::READY };
                conn.prepare_cached("INSERT INTO deliveries (route, seq, state, lane, due_at, at, direct) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)")?
                    .execute(params![id, seq, state, lane, due_at, writing.now])?;
                Ok((Ok(published(true, seq)), vec![id]))
            }
        }
    }
}

fn published(routed: bool, seq: i64) -> Published {
    Published { routed, seq: u64::try_from(seq).ok() }
}

impl Work for Arrival {
    fn apply(&mut self, writing: &Writing<'_>) -> rusqlite::Result<()> {
        self.outcome = Some(self.insert(writing)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), WriteError>) {
        let due_at = match &self.targets {
            Targets::Direct { due_at, .. } => *due_at,
            Targets::Subscribers(_) => None,
        };
        let answer = match (outcome, self.outcome) {
            (Ok(()), Some((answer, routes))) => {
                if let Some(shared) = self.shared.upgrade() {
                    for queue in routes.iter().filter_map(|route| shared.queue_if_known(*route)) {
                        match due_at {
                            Some(due_at) => queue.note_waiting(due_at),
                            None => queue.note_ready(),
                        }
                    }
                }
                answer
            }
            (Ok(()), None) => Err(TransportError::Unavailable("the event was not stored".to_owned())),
            (Err(error), _) => Err(refusal(error)),
        };
        // A publisher that has gone does not undo its event.
        let _ = self.reply.send(answer);
    }

    fn adds_events(&self) -> bool {
        true
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
    is_wanted.then(|| Target { route: route.id, lane: lane(route, event) })
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
