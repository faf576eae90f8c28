//! Looking on at a bus on which no router of ours can be asked: a queue of one's own, exclusive and gone with its connection, beside all
//! others. It takes from nobody's queue.
//!
//! What comes is read at once and kept in a ring of bounded size, so that a reader that is slow (a terminal, a pipe) holds up neither the
//! broker nor itself: the oldest events make room, and are counted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt;
use lapin::{
    Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use router_api::{Canceller, Clock, RoutingPattern, SeenEvent, TransportError};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    AmqpOptions,
    connection::Session,
    dial::dial,
    failure::{Failure, LIMIT, within},
    scratch::{Scratch, short},
    wire,
};

/// Events that wait for the reader.
const RING_EVENTS_MAX: usize = 10_000;
/// … and bytes of their bodies.
const RING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Events on their way to the ring.
const PREFETCH: u16 = 512;
/// What waits on the broker, should the ring not be filled fast enough: a net under the net.
const QUEUE_MAX: i64 = 50_000;
const WHAT: &str = "look on at the bus";

/// A queue of one's own: see the module.
pub struct Tap {
    session: Session,
    over: Canceller,
    ring: Arc<Ring>,
    reading: JoinHandle<()>,
}

/// What a tap has seen.
#[derive(Debug)]
pub enum Tapped {
    /// An event.
    Event(SeenEvent),
    /// So many were passed over, since they were not asked for in time.
    Missed(u64),
}

impl Tap {
    /// Opens a connection and a queue that gets everything published to the exchange under a key that fits `pattern`, from now on.
    ///
    /// # Errors
    ///
    /// When the broker is not reached, has no such exchange, or forbids it.
    pub async fn open(options: &AmqpOptions, pattern: &RoutingPattern, clock: Arc<dyn Clock>) -> Result<Self, TransportError> {
        let connection = Arc::new(dial(options, &format!("{} (watching)", options.name)).await?);
        let (session, over) = Session::new(1, connection);
        match Self::consumer(options, &session, pattern).await {
            Ok(consumer) => {
                let ring = Arc::new(Ring::default());
                let reading = tokio::spawn(read(consumer, Arc::clone(&ring), clock));
                Ok(Self { session, over, ring, reading })
            }
            Err(failure) => {
                over.cancel();
                // Nothing depends on this goodbye.
                let _ = within("goodbye", LIMIT, session.connection().close(200, "not ready".into())).await;
                Err(failure.into())
            }
        }
    }

    async fn consumer(options: &AmqpOptions, session: &Session, pattern: &RoutingPattern) -> Result<Consumer, Failure> {
        let mut scratch = Scratch::new(session);
        if !scratch.has_exchange(&options.exchange).await? {
            return Err(Failure::refused(format!("there is no exchange `{}` on the broker: nobody has published there yet", options.exchange)));
        }
        scratch.end().await;
        let channel = session.channel(WHAT).await?;
        within(WHAT, LIMIT, channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(QUEUE_MAX));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = within(WHAT, LIMIT, channel.queue_declare("".into(), own, arguments)).await?;
        let (exchange, key) = (short("exchange", &options.exchange)?, short("pattern", pattern.as_str())?);
        within(WHAT, LIMIT, channel.queue_bind(queue.name().clone(), exchange, key, QueueBindOptions::default(), FieldTable::default())).await?;
        within(WHAT, LIMIT, channel.basic_consume(queue.name().clone(), "".into(), BasicConsumeOptions::default(), FieldTable::default())).await
    }

    /// The next event, as it is on the bus: nothing of it is redacted. Waits for one.
    ///
    /// # Errors
    ///
    /// When the connection is lost; what was seen before comes first.
    pub async fn next(&self) -> Result<Tapped, TransportError> {
        loop {
            // Asked for before the look, so that what comes in between is not slept through.
            let changed = self.ring.changed.notified();
            if let Some(seen) = self.ring.take()? {
                return Ok(seen);
            }
            changed.await;
        }
    }

    /// Ends the connection; the queue goes with it.
    pub async fn close(self) {
        self.reading.abort();
        self.over.cancel();
        let _ = within("goodbye", LIMIT, self.session.connection().close(200, "looked on".into())).await;
    }
}

#[derive(Default)]
struct Ring {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Default)]
struct Held {
    events: VecDeque<SeenEvent>,
    bytes: usize,
    missed: u64,
    ended: Option<String>,
}

impl Ring {
    fn with<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, event: SeenEvent) {
        self.with(|held| held.put(event, RING_EVENTS_MAX, RING_BYTES_MAX));
        self.changed.notify_one();
    }

    fn take(&self) -> Result<Option<Tapped>, TransportError> {
        self.with(|held| match held.take() {
            None => held.ended.clone().map_or(Ok(None), |why| Err(TransportError::Unavailable(why))),
            seen => Ok(seen),
        })
    }

    fn end(&self, why: String) {
        self.with(|held| held.ended = Some(why));
        self.changed.notify_one();
    }
}

impl Held {
    fn put(&mut self, event: SeenEvent, events_max: usize, bytes_max: usize) {
        self.bytes = self.bytes.saturating_add(event.body.len());
        self.events.push_back(event);
        while self.events.len() > events_max || (self.bytes > bytes_max && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.body.len());
            self.missed += 1;
        }
    }

    fn take(&mut self) -> Option<Tapped> {
        if self.missed > 0 {
            return Some(Tapped::Missed(std::mem::take(&mut self.missed)));
        }
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.body.len());
        Some(Tapped::Event(event))
    }
}

async fn read(mut consumer: Consumer, ring: Arc<Ring>, clock: Arc<dyn Clock>) {
    loop {
        let message = match consumer.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return ring.end(Failure::of(WHAT, &error).sentence().to_owned()),
            None => return ring.end("the connection to the broker is lost".to_owned()),
        };
        let acker = message.acker.clone();
        let offset = message.delivery_tag;
        let delivery = wire::incoming(message, clock.now()).delivery;
        ring.put(SeenEvent {
            offset,
            identity: delivery.identity,
            key: delivery.key,
            body: delivery.body,
            stored_at: delivery.stored_at,
            hops: delivery.hops,
            traceparent: delivery.traceparent,
        });
        if let Err(failure) = within(WHAT, LIMIT, async { acker.ack(BasicAckOptions::default()).await.map(|_| ()) }).await {
            return ring.end(failure.sentence().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn event(offset: u64, bytes: usize) -> SeenEvent {
        SeenEvent {
            offset,
            identity: String::new(),
            key: "a.b".parse().unwrap(),
            body: vec![b' '; bytes].into(),
            stored_at: Timestamp::UNIX_EPOCH,
            hops: 0,
            traceparent: None,
        }
    }

    fn seen(held: &mut Held) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(seen) = held.take() {
            all.push(match seen {
                Tapped::Event(event) => event.offset.to_string(),
                Tapped::Missed(count) => format!("{count} missed"),
            });
        }
        all
    }

    #[test]
    fn a_slow_reader_is_told_how_many_it_has_missed_before_it_goes_on() {
        let mut held = Held::default();
        for offset in 1..=5 {
            held.put(event(offset, 10), 3, 1_000);
        }
        assert_eq!(seen(&mut held), ["2 missed", "3", "4", "5"]);
        assert_eq!((held.bytes, held.missed), (0, 0));
        for offset in 6..=9 {
            held.put(event(offset, 10), 100, 25);
        }
        assert_eq!(seen(&mut held), ["2 missed", "8", "9"]);
        held.put(event(10, 100), 100, 25);
        assert_eq!(seen(&mut held), ["10"], "one that is larger than the whole ring is shown all the same");
    }
}
