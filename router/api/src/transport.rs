//! The port to where events come from and go to: durable queues, one for each route.
//!
//! Read [`Transport`] first, then [`Consumer`] and [`Settlement`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{AttemptRecord, DeadLetter, DecodeError, DecodeLimits, Envelope, RouteName, RoutingKey, RoutingPattern};

/// Says which events a route wants, beyond its patterns, and which lane an event belongs to.
///
/// A transport that filters at intake (the embedded one) asks it before it queues an event. The answer may be out of date
/// after a reload; the router asks again before it handles anything.
pub trait Matcher: Send + Sync {
    /// Is this event wanted?
    fn matches(&self, event: &Envelope) -> bool;

    /// The lane of the event, where the route orders its events.
    fn lane(&self, event: &Envelope) -> Option<String>;
}

/// What one route wants to receive.
#[derive(Clone)]
pub struct Subscription {
    /// Owns the queue.
    pub route: RouteName,
    /// An event that fits any of them is delivered once.
    pub patterns: Vec<RoutingPattern>,
    /// The content filter and the lane key.
    pub matcher: Arc<dyn Matcher>,
    /// What the route asks of its queue on a broker; a transport without queues of several kinds ignores it.
    pub queue: QueueWish,
}

/// What a route asks of its queue on a broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueWish {
    /// Adopt this queue, whatever its arguments, instead of the route's own.
    pub name: Option<String>,
    /// Several routers share the queue's events, so nothing keeps them in order; else one has them all and another stands by.
    pub parallel: bool,
    /// The queue's type; the transport's own default if absent.
    pub kind: Option<QueueKind>,
}

/// A type of queue on a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QueueKind {
    /// Replicated, and safe to lose a machine.
    #[default]
    Quorum,
    /// On one machine of the broker.
    Classic,
}

/// One event in hand. Settled exactly once, by value: see [`Consumer::settle`].
#[derive(Debug)]
pub struct Delivery {
    /// The transport's handle; means nothing outside its consumer.
    pub tag: u64,
    /// The same for each redelivery of this event to this route, and for no other.
    pub identity: String,
    /// The key the event was first published with, whatever detours it took.
    pub key: RoutingKey,
    /// The exact bytes.
    pub body: Bytes,
    /// When the transport stored it.
    pub stored_at: Timestamp,
    /// Failed attempts so far. One that is settled as [`Settlement::Done`] is recorded with what stands here then.
    pub attempts: u32,
    /// The failed attempts, oldest first; the middle of a long history is dropped, the count is not.
    pub history: Vec<AttemptRecord>,
    /// How many emits led to this event; 0 for one from outside.
    pub hops: u8,
    /// Addressed to this route alone (redriven, replayed, `emit_after`): skips patterns, filter and coalescing.
    pub direct: bool,
    /// Handed out before.
    pub redelivered: bool,
    /// Its number in the archive, where the transport has one.
    pub seq: Option<u64>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// How an event was finished without a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// The handler did its work.
    Handled {
        /// Shows that this event was one of a burst: its id and size.
        burst: Option<BurstNote>,
        /// What the handler has to say about its result, in one line: see [`crate::Context::note`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The handler had nothing to do.
    Skipped {
        /// Its reason.
        reason: String,
    },
    /// The route's filter does not want it (any more).
    Filtered,
    /// The route has already done an event with this dedup key.
    Duplicate {
        /// The key.
        key: String,
    },
    /// A shadow route recorded what it would have done.
    Shadowed {
        /// The effects, one line each.
        effects: Vec<String>,
    },
}

/// Membership in a burst.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BurstNote {
    /// The burst's id.
    pub id: String,
    /// How many events it had.
    pub events: u32,
}

/// Marks an event as done for its route, so that a duplicate is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxKey {
    /// The dedup key.
    pub key: String,
    /// When it may be forgotten.
    pub expires_at: Timestamp,
}

/// What becomes of deliveries in hand. What is one commit is the transport's decision.
///
/// There is no "release": a delivery goes back unfinished only when its consumer leaves ([`Consumer::close`]).
#[derive(Debug)]
pub enum Settlement {
    /// Finished.
    Done {
        /// How, once for each delivery in the order of the call.
        fates: Vec<Fate>,
        /// Kept by a transport that owns a store, in the same commit. One for each delivery, or none.
        inbox: Vec<Option<InboxKey>>,
    },
    /// Comes back after `delay` with one more attempt in its history.
    RetryIn {
        /// Held by the transport, blocking nobody.
        delay: Duration,
        /// The attempt that failed.
        failure: AttemptRecord,
    },
    /// Given up on: to the dead letters of the route, once for each delivery, then finished.
    Bury(Box<DeadLetter>),
}

/// Why deliveries could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The consumer or its session is gone. What was in hand comes back by itself; drop it.
    #[error("the consumer's session is over")]
    SessionOver,
    /// Not recorded, but the session lives: try again later.
    #[error("not recorded: {0}")]
    NotRecorded(String),
}

/// Why a transport could not do something.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// May heal by itself: try again.
    #[error("{0}")]
    Unavailable(String),
    /// No room for new events; handling goes on.
    #[error("{0}")]
    Full(String),
    /// Will not heal without a person.
    #[error("{0}")]
    Refused(String),
    /// This transport cannot do that; the sentence says what to use instead.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// An event on its way into the transport.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Where it goes.
    pub to: Destination,
    /// Its routing key.
    pub key: RoutingKey,
    /// The exact bytes.
    pub body: Bytes,
    /// How many emits led to it.
    pub hops: u8,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// How many values redaction replaced in `body` before it came here.
    pub redactions: u32,
    /// What `body` was decoded to on its way: see [`Publication::envelope`].
    pub decoded: Decoded,
}

/// What a body was decoded to, so that nobody decodes it again.
#[derive(Debug, Clone, Default)]
pub struct Decoded(Option<(Arc<Envelope>, DecodeLimits)>);

impl Publication {
    /// An event from outside, for whoever wants it.
    #[must_use]
    pub fn new(key: RoutingKey, body: impl Into<Bytes>) -> Self {
        Self { to: Destination::Subscribers, key, body: body.into(), hops: 0, traceparent: None, redactions: 0, decoded: Decoded::default() }
    }

    /// The body, decoded by the first who asks. A body or key that was changed meanwhile, or other limits, make it another event.
    ///
    /// # Errors
    ///
    /// As [`Envelope::decode`].
    pub fn envelope(&mut self, limits: DecodeLimits) -> Result<Arc<Envelope>, DecodeError> {
        if let Some((envelope, under)) = &self.decoded.0
            && *under == limits
            && *envelope.key() == self.key
            && std::ptr::eq(envelope.raw().as_ref(), self.body.as_ref())
        {
            return Ok(Arc::clone(envelope));
        }
        let envelope = Arc::new(Envelope::decode(self.key.clone(), self.body.clone(), limits)?);
        self.decoded = Decoded(Some((Arc::clone(&envelope), limits)));
        Ok(envelope)
    }
}

/// Where a published event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To every route that wants it.
    Subscribers,
    /// To one route alone, past its patterns, filter and coalescing.
    Route {
        /// The route.
        route: RouteName,
        /// Not before this long from now.
        delay: Duration,
    },
}

/// What became of a published event. It is safe: on disk, or confirmed by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// True if at least one queue took it.
    pub routed: bool,
    /// Its number in the archive, where the transport has one.
    pub seq: Option<u64>,
}

/// What a transport can do beyond the port's core, for the conformance suite and for honest messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Features {
    /// Queued events survive a restart of the process.
    pub persistent: bool,
    /// Filters at intake with the subscription's matcher.
    pub filters_at_intake: bool,
    /// Keeps the inbox in the same commit as the settlement.
    pub inbox_in_settlement: bool,
    /// Hands out nothing of a lane that is held.
    pub holds_lanes: bool,
    /// Keeps every event in an archive of its own.
    pub archives: bool,
    /// Several consumers may share one route's queue.
    pub competing_consumers: bool,
    /// Knows when it stored an event. Without, [`Delivery::stored_at`] may be as late as the delivery, and the age of an event is
    /// reckoned from the event's own time where that is earlier and plausible.
    pub exact_times: bool,
}

/// Where events come from and go to.
///
/// All methods may be called from any task at any time.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// A short name for messages: `embedded`, `amqp`.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn features(&self) -> Features;

    /// Makes `subscriptions` the complete set: their queues exist and collect before it returns.
    ///
    /// A route that is missing collects no more and keeps what waits. New subscriptions work before old ones end.
    /// A bound route that nobody consumes keeps what comes.
    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError>;

    /// Takes up the queue of `route`, with at most `prefetch` deliveries in hand.
    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError>;

    /// Stores an event; returns once it is safe.
    async fn publish(&self, publication: Publication) -> Result<Published, TransportError>;

    /// Stores events in their order; returns once all of them are safe.
    ///
    /// # Errors
    ///
    /// The first one that is not, behind those before it, which are. Of those after it none can be told.
    async fn publish_all(&self, publications: Vec<Publication>) -> Result<Vec<Published>, (Vec<Published>, TransportError)> {
        let mut all = Vec::with_capacity(publications.len());
        for publication in publications {
            match self.publish(publication).await {
                Ok(published) => all.push(published),
                Err(error) => return Err((all, error)),
            }
        }
        Ok(all)
    }

    /// What operators need.
    fn admin(&self) -> &dyn TransportAdmin;

    /// Ends all work; consumers that are left are closed.
    async fn close(&self);
}

/// The taker of one route's queue.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// The next delivery; waits for one, and for room when `prefetch` deliveries are in hand.
    ///
    /// `None` means that the consumer is closed or its session over: nothing comes any more, and what was in hand goes
    /// back. Dropping the future loses nothing. Called by one task at a time.
    async fn next(&self) -> Option<Result<Delivery, TransportError>>;

    /// A delivery that is there already. `None` says nothing: [`Consumer::next`] finds whatever this one does not, and is asked before
    /// anything is waited for.
    fn take(&self) -> Option<Delivery> {
        None
    }

    /// Settles deliveries of this consumer, all in the same way. Returns when the fate is recorded; an `amqp` transport may
    /// return earlier for [`Settlement::Done`].
    ///
    /// # Errors
    ///
    /// The deliveries come back in hand.
    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)>;

    /// Could a fate be recorded now? Asked before each attempt, so it must be quick: one whose fate could not be recorded is not begun.
    ///
    /// # Errors
    ///
    /// Why not, as a sentence fragment. The event waits in hand, and no attempt is counted.
    fn records(&self) -> Result<(), String> {
        Ok(())
    }

    /// Asks the transport to hand out nothing more of `lane`, whose head waits in hand. A transport without the feature
    /// `holds_lanes` does nothing.
    fn hold_lane(&self, lane: &str) {
        let _ = lane;
    }

    /// Ends [`Consumer::hold_lane`].
    fn free_lane(&self, lane: &str) {
        let _ = lane;
    }

    /// Resolves when something has been in hand for so long that the transport will soon take it back by force. The router then
    /// starts nothing more, settles what runs, closes the consumer and takes the queue up again at once.
    async fn renewal_due(&self) {
        std::future::pending().await
    }

    /// Leaves: what is unfinished goes back in order, and no attempt is counted.
    async fn close(&self);
}

/// State of one route's queue.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, schemars::JsonSchema)]
pub struct QueueStats {
    /// The route.
    pub route: RouteName,
    /// Waiting to be handed out now.
    pub ready: u64,
    /// Waiting for a due time.
    pub waiting: u64,
    /// In hand.
    pub in_flight: u64,
    /// Dead letters.
    pub dead: u64,
    /// When the oldest unfinished one was stored.
    #[schemars(with = "Option<crate::described::Moment>")]
    pub oldest: Option<Timestamp>,
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeadLetterQuery {
    /// Of this route only.
    pub route: Option<RouteName>,
    /// Of this reason only, as [`crate::DeadLetterReason::name`] prints it.
    pub reason: Option<String>,
    /// Whose last failed attempt is of this class only, as [`crate::FailureClass::name`] prints it.
    #[serde(default)]
    pub class: Option<String>,
    /// At most so many, newest first; 100 if absent.
    pub limit: Option<u32>,
}

/// A dead letter as it lies in its queue.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StoredDeadLetter {
    /// Names it for `dead-letters show`.
    pub id: String,
    /// The key the event was first published with.
    pub key: RoutingKey,
    /// The exact bytes of the event.
    #[serde(with = "crate::bytes_as_text")]
    #[schemars(with = "crate::described::BytesAsText")]
    pub body: Bytes,
    /// When the transport stored the event.
    #[schemars(with = "crate::described::Moment")]
    pub stored_at: Timestamp,
    /// The event's number in the archive, where the transport has one.
    #[serde(default)]
    pub seq: Option<u64>,
    /// The identity that its delivery had, and has again when it is put back, where the transport knows it. Nothing for people.
    #[serde(skip)]
    pub identity: Option<String>,
    /// Why, and what was tried.
    pub letter: DeadLetter,
}

/// How a transport is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Condition {
    /// Events can be taken from it now.
    pub reachable: bool,
    /// It accepts events now.
    pub accepts: bool,
    /// What is wrong, one sentence each; may be more than what makes it unreachable.
    pub troubles: Vec<String>,
    /// How often it has been reached again after it was lost.
    pub reconnects: u64,
}

impl Condition {
    /// Of a transport that is in the same process.
    #[must_use]
    pub fn well() -> Self {
        Self { reachable: true, accepts: true, troubles: Vec::new(), reconnects: 0 }
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::well()
    }
}

/// What would happen to one thing on the broker, or why nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLine {
    /// The thing: "queue `services.router.ci`", "binding `session.#` of queue `…`".
    pub object: String,
    /// What would happen.
    pub change: PlanChange,
    /// Arguments that it would get, why it is refused and what to do, why nothing is known.
    pub detail: Option<String>,
}

/// What would happen to a thing on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanChange {
    /// It is as it should be.
    Keep,
    /// It would be made.
    Create,
    /// It would be removed.
    Remove,
    /// The broker would refuse it, or `run` would.
    Refused,
    /// AMQP cannot tell.
    Unknown,
}

/// What operators need from a transport. A feature that one does not have answers [`TransportError::Unsupported`] with a
/// sentence.
#[async_trait]
pub trait TransportAdmin: Send + Sync {
    /// State of every queue, sorted by route; queues of routes that are no longer bound included.
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError>;

    /// One dead letter.
    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError>;

    /// Puts dead letters back into the queues of their routes, addressed to them alone; returns how many there were. Their
    /// history stays, their attempts start at 0.
    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError>;

    /// Deletes dead letters for good; returns how many there were.
    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError>;

    /// Deletes the queue of a route that is not bound, with what waits in it; returns how many events that were.
    async fn remove_queue(&self, route: &RouteName) -> Result<u64, TransportError>;

    /// How the transport is, from what is known without asking it.
    fn condition(&self) -> Condition {
        Condition::well()
    }

    /// What it cannot tell of its queues, as a sentence for who asks how they stand.
    fn cannot_tell(&self) -> Option<&'static str> {
        None
    }

    /// What [`Transport::bind`] would change, without changing it.
    async fn plan(&self, subscriptions: &[Subscription]) -> Result<Vec<PlanLine>, TransportError> {
        let _ = subscriptions;
        Err(TransportError::Unsupported("this transport keeps its queues in its own file, so there is nothing to plan"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_decoded_once_until_something_else_stands_there() {
        let limits = DecodeLimits::default();
        let mut publication = Publication::new("a.b".parse().unwrap(), r#"{"event_id":"1","payload":{}}"#);
        let first = publication.envelope(limits).unwrap();
        assert!(Arc::ptr_eq(&first, &publication.envelope(limits).unwrap()));
        assert!(Arc::ptr_eq(&first, &publication.clone().envelope(limits).unwrap()));
        publication.key = "a.c".parse().unwrap();
        let second = publication.envelope(limits).unwrap();
        assert_eq!(second.key().as_str(), "a.c");
        // The same bytes at another place are looked at again, which costs time and nothing else.
        publication.body = Bytes::from_static(br#"{"event_id":"2","payload":{}}"#);
        assert_eq!(publication.envelope(limits).unwrap().id().map(|id| id.as_str()), Some("2"));
        assert!(publication.envelope(DecodeLimits { body_bytes_max: 1, ..limits }).is_err());
        publication.body = publication.body.slice(..5);
        assert!(publication.envelope(limits).is_err(), "a part of the same bytes is another body");
    }
}
