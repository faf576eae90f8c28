//! What the cases are written with: short calls with generous time limits, and failures that say where.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use router_api::{
    AttemptRecord, Consumer, DeadLetter, DeadLetterReason, Delivery, Destination, Envelope, FailureClass, Fate, Matcher, Publication, Published, RouteName,
    RoutingKey, SettleError, Settlement, Subscription, Transport, TransportError,
};
use serde_json::{Value, json};

use super::{Stop, Subject};

/// How long something that must come is waited for, in real time.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The key of the last event of [`Bench::drain`].
const SENTINEL: &str = "conformance.sentinel";

/// What a case expected and did not find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<TransportError> for Failure {
    #[track_caller]
    fn from(error: TransportError) -> Self {
        Self(format!("{}: {error} ({error:?})", std::panic::Location::caller()))
    }
}

impl From<(SettleError, Vec<Delivery>)> for Failure {
    #[track_caller]
    fn from((error, deliveries): (SettleError, Vec<Delivery>)) -> Self {
        Self(format!("{}: {} deliveries not settled: {error}", std::panic::Location::caller(), deliveries.len()))
    }
}

impl From<router_api::StoreError> for Failure {
    #[track_caller]
    fn from(error: router_api::StoreError) -> Self {
        Self(format!("{}: {error}", std::panic::Location::caller()))
    }
}

/// What a case comes to.
pub type CaseResult = Result<(), Failure>;

/// Fails the case with a sentence unless `$holds`.
macro_rules! check {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err($crate::conformance::Failure(format!("{}:{}: {}", file!(), line!(), format_args!($($sentence)+))));
        }
    };
}

/// Fails the case unless both are equal.
macro_rules! same {
    ($found:expr, $expected:expr, $what:expr) => {{
        let (found, expected) = (&$found, &$expected);
        check!(*found == *expected, "{}: found {found:?}, expected {expected:?}", $what);
    }};
}

pub(super) use {check, same};

type Predicate = Box<dyn Fn(&Envelope) -> bool + Send + Sync>;

/// A [`Matcher`] made of closures and field names.
#[derive(Default)]
pub struct Wants {
    filter: Option<Predicate>,
    lane: Option<&'static str>,
}

impl Wants {
    /// Wants every event and orders none.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Wants events that fulfil `filter`.
    #[must_use]
    pub fn only(filter: impl Fn(&Envelope) -> bool + Send + Sync + 'static) -> Self {
        Self { filter: Some(Box::new(filter)), lane: None }
    }

    /// Takes the lane from a text field of the body.
    #[must_use]
    pub fn lane(mut self, field: &'static str) -> Self {
        self.lane = Some(field);
        self
    }
}

impl Matcher for Wants {
    fn matches(&self, event: &Envelope) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter(event))
    }

    fn lane(&self, event: &Envelope) -> Option<String> {
        event.body().get(self.lane?).and_then(Value::as_str).map(str::to_owned)
    }
}

/// One subject and the short calls on it.
pub struct Bench {
    subject: Box<dyn Subject>,
}

/// A route name that a case writes as a literal.
pub(super) fn route(name: &str) -> RouteName {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// A routing key that a case writes as a literal.
pub(super) fn key(text: &str) -> RoutingKey {
    RoutingKey::new(text).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

/// A subscription of `name` to `patterns`.
pub(super) fn subscription(name: &str, patterns: &[&str], wants: Wants) -> Subscription {
    let patterns = patterns.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))).collect();
    Subscription { route: route(name), patterns, matcher: Arc::new(wants), queue: router_api::QueueWish::default() }
}

/// The body of the `n`th event of a case.
pub(super) fn body(n: u64) -> Bytes {
    Bytes::from(json!({ "n": n }).to_string())
}

/// Which event of a case a delivery is, by its body.
pub(super) fn number(delivery: &Delivery) -> Option<u64> {
    serde_json::from_slice::<Value>(&delivery.body).ok()?.get("n")?.as_u64()
}

pub(super) fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| number(delivery).unwrap_or(u64::MAX)).collect()
}

/// The settlement of `count` handled deliveries.
pub(super) fn handled(count: usize) -> Settlement {
    Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }; count], inbox: Vec::new() }
}

impl Bench {
    pub(super) fn new(subject: Box<dyn Subject>) -> Self {
        Self { subject }
    }

    pub(super) async fn end(self) {
        self.subject.end().await;
    }

    pub(super) fn subject(&self) -> &dyn Subject {
        self.subject.as_ref()
    }

    pub(super) async fn restart(&mut self, stop: Stop) {
        self.subject.restart(stop).await;
    }

    pub(super) fn transport(&self) -> Arc<dyn Transport> {
        self.subject.transport()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.subject.clock().now()
    }

    /// Binds routes that want everything that their patterns fit.
    pub(super) async fn bind(&self, routes: &[(&str, &[&str])]) -> CaseResult {
        let subscriptions: Vec<_> = routes.iter().map(|(name, patterns)| subscription(name, patterns, Wants::all())).collect();
        Ok(self.transport().bind(&subscriptions).await?)
    }

    pub(super) async fn publish(&self, to: &str, n: u64) -> Result<Published, Failure> {
        Ok(self.transport().publish(Publication::new(key(to), body(n))).await?)
    }

    /// Publishes the events of `range`, one after the other.
    pub(super) async fn publish_all(&self, to: &str, range: std::ops::Range<u64>) -> CaseResult {
        for n in range {
            check!(self.publish(to, n).await?.routed, "event {n} was routed to nobody");
        }
        Ok(())
    }

    /// Sends an event to one route alone.
    pub(super) async fn send(&self, to: &str, n: u64, delay: Duration) -> Result<Published, Failure> {
        let mut publication = Publication::new(key("conformance.direct"), body(n));
        publication.to = Destination::Route { route: route(to), delay };
        Ok(self.transport().publish(publication).await?)
    }

    pub(super) async fn consume(&self, name: &str, prefetch: u32) -> Result<Arc<dyn Consumer>, Failure> {
        Ok(self.transport().consume(&route(name), prefetch).await?)
    }

    /// The next delivery; fails when none comes.
    #[track_caller]
    pub(super) fn take<'a>(&self, consumer: &'a Arc<dyn Consumer>) -> impl Future<Output = Result<Delivery, Failure>> + Send + use<'a> {
        let place = std::panic::Location::caller();
        async move {
            match tokio::time::timeout(PATIENCE, consumer.next()).await {
                Ok(Some(Ok(delivery))) => Ok(delivery),
                Ok(Some(Err(error))) => Err(Failure(format!("{place}: instead of a delivery there came an error: {error}"))),
                Ok(None) => Err(Failure(format!("{place}: instead of a delivery there came the end of the consumer"))),
                Err(_) => Err(Failure(format!("{place}: no delivery came within {PATIENCE:?}"))),
            }
        }
    }

    #[track_caller]
    pub(super) fn take_many<'a>(&'a self, consumer: &'a Arc<dyn Consumer>, count: usize) -> impl Future<Output = Result<Vec<Delivery>, Failure>> + Send + 'a {
        let place = std::panic::Location::caller();
        async move {
            let mut deliveries = Vec::with_capacity(count);
            for taken in 0..count {
                match self.take(consumer).await {
                    Ok(delivery) => deliveries.push(delivery),
                    Err(Failure(failure)) => return Err(Failure(format!("{place}: after {taken} of {count}: {failure}"))),
                }
            }
            Ok(deliveries)
        }
    }

    /// Fails when a delivery comes within the subject's silence.
    #[track_caller]
    pub(super) fn nothing<'a>(&'a self, consumer: &'a Arc<dyn Consumer>) -> impl Future<Output = CaseResult> + Send + 'a {
        let place = std::panic::Location::caller();
        async move {
            match tokio::time::timeout(self.subject.silence(), consumer.next()).await {
                Err(_) => Ok(()),
                Ok(Some(Ok(delivery))) => Err(Failure(format!("{place}: nothing was to come, but there came event {:?}", number(&delivery)))),
                Ok(Some(Err(error))) => Err(Failure(format!("{place}: nothing was to come, but there came an error: {error}"))),
                Ok(None) => Err(Failure(format!("{place}: nothing was to come, but the consumer ended"))),
            }
        }
    }

    /// The consumer says that it is over.
    #[track_caller]
    pub(super) fn is_over<'a>(&self, consumer: &'a Arc<dyn Consumer>) -> impl Future<Output = CaseResult> + Send + use<'a> {
        let place = std::panic::Location::caller();
        async move {
            match tokio::time::timeout(PATIENCE, consumer.next()).await {
                Ok(None) => Ok(()),
                Ok(Some(other)) => Err(Failure(format!("{place}: the consumer was to be over, but there came {other:?}"))),
                Err(_) => Err(Failure(format!("{place}: the consumer did not end within {PATIENCE:?}"))),
            }
        }
    }

    pub(super) async fn done(&self, consumer: &Arc<dyn Consumer>, deliveries: Vec<Delivery>) -> CaseResult {
        let settlement = handled(deliveries.len());
        Ok(consumer.settle(deliveries, settlement).await?)
    }

    pub(super) async fn retry(&self, consumer: &Arc<dyn Consumer>, delivery: Delivery, delay: Duration) -> Result<AttemptRecord, Failure> {
        let failure = AttemptRecord {
            number: delivery.attempts + 1,
            // Whole milliseconds, which every transport can keep.
            at: Timestamp::from_millisecond(self.now().as_millisecond()).unwrap_or(Timestamp::UNIX_EPOCH),
            class: FailureClass::Timeout,
            error: format!("attempt {} took too long: \"quoted\", ünïcode", delivery.attempts + 1),
        };
        consumer.settle(vec![delivery], Settlement::RetryIn { delay, failure: failure.clone() }).await?;
        Ok(failure)
    }

    pub(super) fn letter(&self, name: &str, reason: DeadLetterReason, delivery: &Delivery) -> DeadLetter {
        let at = Timestamp::from_millisecond(self.now().as_millisecond()).unwrap_or(Timestamp::UNIX_EPOCH);
        DeadLetter {
            route: route(name),
            plugin: "conformance".to_owned(),
            reason,
            error: "it did not work: ünïcode".to_owned(),
            detail: Some("HTTP 418 { \"short\": \"stout\" }".to_owned()),
            attempts: delivery.attempts + 1,
            history: vec![AttemptRecord { number: delivery.attempts + 1, at, class: FailureClass::Rejected, error: "no".to_owned() }],
            buried_at: at,
            config_hash: "0123abcd".to_owned(),
            burst: Some("burst-1".to_owned()),
            traceparent: delivery.traceparent.clone(),
        }
    }

    pub(super) async fn bury(&self, consumer: &Arc<dyn Consumer>, name: &str, reason: DeadLetterReason, delivery: Delivery) -> Result<DeadLetter, Failure> {
        let letter = self.letter(name, reason, &delivery);
        consumer.settle(vec![delivery], Settlement::Bury(Box::new(letter.clone()))).await?;
        Ok(letter)
    }

    /// Everything that waits in the queue of `name` now, in order, settled as done. Waits for nothing that is not there: it sends
    /// a last event behind it and takes until that one comes.
    pub(super) async fn drain(&self, name: &str) -> Result<Vec<Delivery>, Failure> {
        let mut publication = Publication::new(key(SENTINEL), Bytes::from_static(b"{}"));
        publication.to = Destination::Route { route: route(name), delay: Duration::ZERO };
        self.transport().publish(publication).await?;
        let consumer = self.consume(name, 1).await?;
        let mut deliveries = Vec::new();
        loop {
            let delivery = self.take(&consumer).await?;
            let copy = copy_of(&delivery);
            self.done(&consumer, vec![delivery]).await?;
            if copy.key.as_str() == SENTINEL {
                consumer.close().await;
                return Ok(deliveries);
            }
            deliveries.push(copy);
        }
    }
}

/// A delivery to look at after the real one is settled.
fn copy_of(delivery: &Delivery) -> Delivery {
    Delivery {
        tag: delivery.tag,
        identity: delivery.identity.clone(),
        key: delivery.key.clone(),
        body: delivery.body.clone(),
        stored_at: delivery.stored_at,
        attempts: delivery.attempts,
        history: delivery.history.clone(),
        hops: delivery.hops,
        direct: delivery.direct,
        redelivered: delivery.redelivered,
        seq: delivery.seq,
        traceparent: delivery.traceparent.clone(),
    }
}
