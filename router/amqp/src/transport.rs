//! The transport: what the core sees of RabbitMQ.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    Archivist, Chance, Clock, Condition, Consumer, Destination, Features, Publication, Published, RouteName, Store, Subscription, Transport, TransportAdmin,
    TransportError,
};

use crate::{
    AmqpOptions, Topology,
    admin::Desk,
    archive::Follower,
    bindings::Bindings,
    bound::Bound,
    connection::Bus,
    consumer,
    consumers::Consumers,
    failure::{Failure, shown_url},
    hold::Hold,
    lost, names,
    notes::Notes,
    publisher::{PublishFailure, Publisher},
    reach, rebinding,
    routed::Routed,
    scratch::Scratch,
    standing::Standing,
    waits, wire,
};

/// A route that waits for a session asks anew after so long, so that it can tell why.
const SESSION_LIMIT: Duration = Duration::from_secs(60);
/// For the consumers that are left at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The transport over RabbitMQ.
pub struct AmqpTransport {
    options: Arc<AmqpOptions>,
    bus: Arc<Bus>,
    publisher: Arc<Publisher>,
    bound: Arc<Bound>,
    routed: Routed,
    desk: Desk,
    clock: Arc<dyn Clock>,
    consumers: Arc<Consumers>,
    /// The largest window that each queue was taken up with.
    windows: Mutex<BTreeMap<String, u32>>,
}

impl AmqpTransport {
    /// Returns at once and connects in the background. With an `archivist` and [`AmqpOptions::archive`] it follows the stream of
    /// all events.
    #[must_use]
    pub fn start(
        options: AmqpOptions,
        store: Arc<dyn Store>,
        archivist: Option<Arc<dyn Archivist>>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Arc<Self> {
        let options = Arc::new(options);
        let bindings = Arc::new(Bindings::new(Arc::clone(&store), &options));
        let notes = Arc::new(Notes::default());
        let standing = Arc::new(Standing::default());
        let bound = Arc::new(Bound::new(Arc::clone(&options), Arc::clone(&bindings), Arc::clone(&notes), Arc::clone(&standing)));
        let archivist = archivist.filter(|_| options.archive.is_some());
        let hold = if archivist.is_some() { Hold::each() } else { Hold::never() };
        let bus = Bus::start(Arc::clone(&options), chance, Arc::clone(&bound) as _, hold, standing, notes);
        let publisher = Publisher::new(Arc::clone(&bus));
        let consumers = Arc::new(Consumers::default());
        let desk = Desk::new(Arc::clone(&options), Arc::clone(&bus), Arc::clone(&publisher), Arc::clone(&bound), bindings, store, Arc::clone(&clock))
            .counting(Arc::clone(&consumers));
        let is_archived = archivist.is_some();
        if let Some(archivist) = archivist {
            tokio::spawn(Follower::new(Arc::clone(&options), Arc::clone(&bus), archivist, Arc::clone(&clock)).run());
        }
        let this = Arc::new(Self { options, bus, publisher, bound, routed: Routed::default(), desk, clock, consumers, windows: Mutex::default() });
        tokio::spawn(lost::watch(Arc::clone(&this.options), Arc::clone(&this.bus), Arc::clone(&this.bound), Arc::clone(&this.publisher)));
        tokio::spawn(Arc::clone(&this.bound).mend(Arc::clone(&this.bus), Arc::clone(&this.publisher)));
        tokio::spawn(reach::watch(Arc::clone(&this.bound), Arc::clone(&this.bus)));
        tokio::spawn(rebinding::run(Arc::clone(&this.options), Arc::clone(&this.bound), Arc::clone(&this.bus), is_archived));
        this
    }

    /// Waits until the broker is reached and everything is bound that is wanted, or is said to be refused or out of reach; for start-up
    /// and for commands.
    ///
    /// # Errors
    ///
    /// [`TransportError::Refused`] as soon as the broker says no in a way that no waiting heals; [`TransportError::Unavailable`]
    /// after `limit`.
    pub async fn reached(&self, limit: Duration) -> Result<(), TransportError> {
        match tokio::time::timeout(limit, self.bus.reached()).await {
            Ok(reached) => reached,
            Err(_) => Err(TransportError::Unavailable(match (self.bus.trouble(), self.bus.awaited()) {
                (Some(trouble), _) => trouble.sentence().to_owned(),
                (None, Some(awaited)) => awaited,
                (None, None) => format!("the broker `{}` did not answer within {} s", shown_url(&self.options.url), limit.as_secs()),
            })),
        }
    }
}

impl AmqpTransport {
    /// What every transport over RabbitMQ can do.
    pub const FEATURES: Features = Features {
        persistent: true,
        filters_at_intake: false,
        inbox_in_settlement: false,
        holds_lanes: false,
        archives: false,
        competing_consumers: true,
        exact_times: false,
    };

    /// See [`TransportAdmin::cannot_tell`].
    pub const CANNOT_TELL: &str = "AMQP cannot tell how old what waits in a queue is, what other consumers hold of it, nor what is in a wait, \
                                   which is not counted, and is skipped only when it comes out";

    /// Has a first try to reach the broker ended, one way or the other? None takes longer than the limits of this crate.
    #[must_use]
    pub fn has_been_tried(&self) -> bool {
        self.bus.now().is_some() || self.bus.trouble().is_some()
    }

    /// Is what [`AmqpTransport::reached`] waits for so now?
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.bus.is_reached()
    }

    /// How the broker is, from what is known without asking it.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.bus.condition()
    }
}

#[async_trait]
impl Transport for AmqpTransport {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn features(&self) -> Features {
        Self::FEATURES
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        let away = || self.bus.trouble().unwrap_or_else(|| Failure::lost(format!("the broker `{}` is not reached yet", shown_url(&self.options.url))));
        self.bound.bind(subscriptions, &self.bus, away).await.map_err(TransportError::from)
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        let Some(queue) = self.bound.queue_of(route) else {
            return Err(TransportError::Refused(format!("route `{route}` is not bound, so it has no queue to take from")));
        };
        let session = match tokio::time::timeout(SESSION_LIMIT, self.bus.session()).await {
            Ok(session) => session?,
            Err(_) => return Err(TransportError::Unavailable(self.bus.why_away())),
        };
        // Whoever looks for it asks on a channel, or a connection, that nobody else needs.
        if let Some(why) = self.bound.reach().of_route(route) {
            return Err(TransportError::Unavailable(why));
        }
        let prefetch = self.window(route, &queue, prefetch);
        let parts = consumer::Parts {
            options: Arc::clone(&self.options),
            publisher: Arc::clone(&self.publisher),
            clock: Arc::clone(&self.clock),
            takes_a_second: self.bound.takes_a_second(route),
        };
        let asked = session.clone();
        let is_over = || asked.is_over();
        let taken = match consumer::take(session.clone(), route.clone(), queue.clone(), prefetch, parts.clone()).await {
            // Somebody has deleted it: made again, it collects again.
            Err(failure) if failure.is_missing() => {
                match self.bound.declare(&session).await {
                    // What is refused may be another route's; if not, it is missing still.
                    Err(failure) if !failure.is_refused() => return Err(failure.into()),
                    _ => {}
                }
                consumer::take(session, route.clone(), queue, prefetch, parts).await?
            }
            Err(failure) if failure.is_out_of_reach() || failure.ends_connection() || (failure.is_unanswered() && !is_over()) => {
                self.bound.lose_sight_of(route, &failure);
                return Err(failure.into());
            }
            Err(failure) if is_over() => {
                self.bound.cut_off(route, &failure);
                return Err(failure.into());
            }
            taken => taken?,
        };
        self.bound.reach().is_taken_up(route);
        self.consumers.add(&taken);
        Ok(taken)
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        let now = self.clock.now();
        let body = publication.body.clone();
        let routed = match &publication.to {
            Destination::Subscribers => {
                if let Some(why) = self.bus.held().or_else(|| self.bound.out_of_reach(&publication.key)) {
                    return Err(TransportError::Unavailable(why));
                }
                let properties = wire::published(&publication, now);
                let confirmed = self.publisher.publish(&self.options.exchange, publication.key.as_str(), body, properties).await.map_err(unpublished)?;
                // A queue of ours that was up would have taken it.
                if !confirmed.routed && self.options.topology == Topology::Declare && self.bound.wants(&publication.key) == Some(true) {
                    self.publisher.suspect();
                    let key = publication.key.as_str();
                    return Err(TransportError::Unavailable(format!("the queue of a route that wants `{key}` is not up on the broker, or not bound")));
                }
                confirmed.routed && self.routed.is_wanted(&publication.key, &self.bound, &self.bus, &self.options).await
            }
            Destination::Route { route, delay } => {
                let queue = match self.bound.queue_of(route) {
                    Some(queue) => queue,
                    None => self.queue_of_stranger(route).await?,
                };
                waits::send(&self.publisher, &queue, body, wire::addressed(&publication, now), *delay).await.map_err(unpublished)?;
                true
            }
        };
        Ok(Published { routed, seq: None })
    }

    fn admin(&self) -> &dyn TransportAdmin {
        &self.desk
    }

    async fn close(&self) {
        let closing = futures_util::future::join_all(self.consumers.take().into_iter().map(|consumer| async move {
            consumer.close().await;
        }));
        if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::warn!("some consumers did not close within {} s; what they hold goes back with the connection", CLOSE_LIMIT.as_secs());
        }
        self.bus.close().await;
    }
}

impl AmqpTransport {
    /// How much of a queue is taken at once. Of a route in order it never becomes less: a quorum queue puts what comes back behind what
    /// came back before and was not handed out again (seen on 3.10.8), so that a window smaller than the one before it would have later
    /// events overtake earlier ones the next time that it comes back. The core asks for no more than it wants; the rest waits here.
    fn window(&self, route: &RouteName, queue: &str, prefetch: u32) -> u32 {
        if self.bound.is_shared(route) {
            return prefetch;
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.entry(queue.to_owned()).or_default();
        *window = prefetch.max(*window);
        *window
    }

    /// The queue of a route that is not bound here. The return exchange takes what no queue wants as well, so it is asked for first.
    async fn queue_of_stranger(&self, route: &RouteName) -> Result<String, TransportError> {
        let session = self.bus.now().ok_or_else(|| TransportError::Unavailable(self.bus.why_away()))?;
        let queue = names::own_queue(route);
        let mut scratch = Scratch::new(&session);
        let found = scratch.look(&queue).await?;
        scratch.end().await;
        match found {
            Some(_) => Ok(queue),
            None => Err(TransportError::Refused(format!("route `{route}` is not bound here, and there is no queue `{queue}` on the broker"))),
        }
    }
}

/// What the core is told about a publication that failed.
fn unpublished(failure: PublishFailure) -> TransportError {
    match failure {
        PublishFailure::Unavailable(why) | PublishFailure::Blocked(why) => TransportError::Unavailable(why),
        PublishFailure::Nacked(why) => TransportError::Full(why),
        PublishFailure::Refused(why) => TransportError::Refused(why),
    }
}
