//! The archive: a stream of everything that is published, which every router follows into its own store.
//!
//! Following a stream takes nothing away from it. What was kept is remembered by its place: the offset in the stream, and above it the
//! number of the stream, which grows when the stream is found to have been made anew. A position is trusted only after the event there
//! was seen again, so that a new stream is noticed, and a gap that the stream's own retention made is said.
//!
//! Nothing here is what an acknowledgement of a route depends on. A store that fails is tried again, with the events in hand; a broker
//! without streams has no archive, which is said once and shown among the transport's troubles.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Consumer, ExchangeKind,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use router_api::{Archivist, Clock, SeenEvent};
use tokio::time::{Instant, timeout};

use crate::{
    AmqpOptions, ArchiveOptions, Topology,
    arguments::{self, Form},
    connection::{Bus, Session},
    failure::{Failure, LIMIT, within},
    names,
    scratch::Scratch,
    wire,
};

/// Where the follower's troubles are noted.
pub(crate) const TOPIC: &str = "archive";
/// Events in hand.
const PREFETCH: u16 = 512;
/// Events of one commit.
const BATCH_MAX: usize = 256;
/// In bytes of bodies; a batch ends when it has more.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So long a batch waits for another event.
const COLLECT: Duration = Duration::from_millis(25);
/// For the event that was kept last to come again.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// When the last part of a stream is looked at: nothing more comes of it after this.
const PROBE_QUIET: Duration = Duration::from_secs(2);
/// After a failure of the store or of the stream, doubling up to …
const AGAIN_FIRST: Duration = Duration::from_millis(250);
/// … this.
const AGAIN_MAX: Duration = Duration::from_secs(15);
/// What was refused is asked for again after this long, doubling: a broker that has just started refuses what it does later.
const REFUSED_FIRST: Duration = Duration::from_secs(5);
/// … up to this.
const REFUSED_MAX: Duration = Duration::from_secs(600);
/// So long publishing waits at most for the stream of a new session: longer than a slow broker takes to bring it up again, and short
/// enough for who would rather have his events taken than archived.
const HOLD_LIMIT: Duration = Duration::from_secs(30);
/// Sessions that may end while the stream is declared, before it is taken for the reason.
const STRIKES_MAX: u32 = 2;
/// Bits of a place that hold the offset: a thousand thousand million events.
const OFFSET_BITS: u32 = 40;

/// What the stream is made with.
pub(crate) fn stream(options: &ArchiveOptions) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.as_bytes().into());
    let number = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("stream"));
    arguments.insert("x-max-age".into(), text(&format!("{}s", options.age.as_secs().max(1))));
    arguments.insert("x-max-length-bytes".into(), number(options.bytes_max));
    // Retention drops whole segments, so that a small archive needs small ones.
    let segment = (options.bytes_max / 10).clamp(SEGMENT_MIN, SEGMENT_MAX);
    arguments.insert("x-stream-max-segment-size-bytes".into(), number(segment));
    arguments
}

const SEGMENT_MIN: u64 = 1024 * 1024;
/// What RabbitMQ takes if nothing is said.
const SEGMENT_MAX: u64 = 500 * 1000 * 1000;

/// Where an event stands: see the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    stream: u64,
    offset: u64,
}

impl Place {
    fn of(position: u64) -> Self {
        Self { stream: position >> OFFSET_BITS, offset: position & ((1 << OFFSET_BITS) - 1) }
    }

    fn position(self) -> u64 {
        (self.stream << OFFSET_BITS) | (self.offset & ((1 << OFFSET_BITS) - 1))
    }
}

/// Follows the stream into a store.
pub(crate) struct Follower {
    options: Arc<AmqpOptions>,
    bus: Arc<Bus>,
    archivist: Arc<dyn Archivist>,
    clock: Arc<dyn Clock>,
}

/// Why following has ended for now.
enum Stop {
    /// With the session.
    SessionOver,
    /// Tried again after a moment.
    Trouble(String),
    /// The broker will not have it.
    Refused(String),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        if failure.is_refused() { Self::Refused(failure.sentence().to_owned()) } else { Self::Trouble(failure.sentence().to_owned()) }
    }
}

impl Follower {
    pub(crate) fn new(options: Arc<AmqpOptions>, bus: Arc<Bus>, archivist: Arc<dyn Archivist>, clock: Arc<dyn Clock>) -> Self {
        Self { options, bus, archivist, clock }
    }

    /// Runs until the bus is closed. Waits on a network, and so in real time.
    pub(crate) async fn run(self) {
        let Some(archive) = self.options.archive.clone() else { return };
        tokio::select! {
            () = self.follow_all(&archive) => {}
            () = self.bus.closing() => {}
        }
    }

    async fn follow_all(&self, archive: &ArchiveOptions) {
        let (mut wait, mut refused) = (AGAIN_FIRST, REFUSED_FIRST);
        let mut strikes = 0;
        // How long the stream may keep a session from publishing.
        let mut held: Option<(u64, Instant)> = None;
        loop {
            let session = match self.bus.session().await {
                Ok(session) => session,
                Err(_) => {
                    // Closed, or refused: the bus itself says so, and tries on.
                    tokio::time::sleep(AGAIN_MAX).await;
                    continue;
                }
            };
            if held.as_ref().is_none_or(|(epoch, _)| *epoch != session.epoch()) {
                held = Some((session.epoch(), Instant::now() + HOLD_LIMIT));
            }
            let held_until = held.map_or_else(Instant::now, |(_, until)| until);
            let stop = match self.begin_within(&session, archive, &mut strikes, held_until).await {
                Ok(()) => {
                    self.bus.release(&session);
                    self.follow(&session, &mut wait).await
                }
                Err(stop) => stop,
            };
            if matches!(stop, Stop::Refused(_)) {
                self.bus.release(&session);
            } else if Instant::now() >= held_until {
                self.release_late(&session);
            }
            match stop {
                _ if session.is_over() => wait = AGAIN_FIRST,
                Stop::SessionOver => wait = AGAIN_FIRST,
                Stop::Trouble(why) => {
                    self.say(format!("the archive stands still: {why}"));
                    pause(&session, wait).await;
                    wait = (wait * 2).min(AGAIN_MAX);
                }
                Stop::Refused(why) => {
                    self.say(format!("the archive is off, so that `events` and `explain` know nothing new: {why}"));
                    // What costs everybody the connection is not tried often.
                    let is_struck = strikes >= STRIKES_MAX;
                    pause(&session, if is_struck { REFUSED_MAX } else { refused }).await;
                    refused = (refused * 2).min(REFUSED_MAX);
                    strikes = if is_struck { 0 } else { strikes };
                }
            }
        }
    }

    fn say(&self, sentence: String) {
        tracing::warn!("{sentence}");
        self.bus.note(TOPIC, vec![sentence]);
    }

    fn well(&self) {
        self.bus.note(TOPIC, Vec::new());
    }

    /// Lets a session publish although the stream does not stand.
    fn release_late(&self, session: &Session) {
        if self.bus.is_held_by_the_archive() && !session.is_over() {
            let sentence = "events are taken in although the archive's stream is not up on the broker: `events` and `explain` will not know them";
            tracing::warn!("{sentence} (after {} s)", HOLD_LIMIT.as_secs());
        }
        self.bus.release(session);
    }

    /// As [`Follower::begin`]; publishing waits for it until `held_until` and no longer.
    async fn begin_within(&self, session: &Session, archive: &ArchiveOptions, strikes: &mut u32, held_until: Instant) -> Result<(), Stop> {
        let beginning = self.begin(session, archive, strikes);
        tokio::pin!(beginning);
        tokio::select! {
            begun = &mut beginning => return begun,
            () = tokio::time::sleep_until(held_until) => self.release_late(session),
        }
        beginning.await
    }

    /// Makes the stream, unless it is there.
    async fn begin(&self, session: &Session, archive: &ArchiveOptions, strikes: &mut u32) -> Result<(), Stop> {
        if *strikes >= STRIKES_MAX {
            return Err(Stop::Refused("the broker ended the connection each time a stream was declared: has it streams at all?".to_owned()));
        }
        let mut scratch = Scratch::new(session);
        let is_there = scratch.look(names::ARCHIVE).await?.is_some();
        if !is_there && self.options.topology != Topology::Declare {
            return Err(Stop::Refused(format!("the stream `{}` is not there, and this router makes nothing (`topology`)", names::ARCHIVE)));
        }
        if !is_there {
            let form = Form::of(stream(archive));
            match scratch.queue(names::ARCHIVE, &form).await {
                Ok(()) => tracing::info!("made stream `{}` ({})", names::ARCHIVE, arguments::shown(&form.arguments)),
                Err(failure) => {
                    if session.is_over() {
                        *strikes += 1;
                    }
                    return Err(failure.into());
                }
            }
        }
        if self.options.topology == Topology::Declare {
            // Nothing may be bound yet, and a refusal is asked again only after seconds.
            if !scratch.has_exchange(&self.options.exchange).await? {
                scratch.exchange(&self.options.exchange, ExchangeKind::Topic, FieldTable::default()).await?;
                tracing::info!("made exchange `{}`", self.options.exchange);
            }
            scratch.bind(names::ARCHIVE, &self.options.exchange, &["#"]).await?;
        }
        *strikes = 0;
        scratch.end().await;
        Ok(())
    }

    /// Until something ends it.
    async fn follow(&self, session: &Session, wait: &mut Duration) -> Stop {
        let position = match self.archivist.position().await {
            Ok(position) => position.map(Place::of),
            Err(error) => return Stop::Trouble(error.to_string()),
        };
        let opened = match position {
            None => self.open(session, Begin::First).await.map(|taking| (taking, 0, None)),
            Some(last) => self.open_after(session, last).await,
        };
        let (mut taking, stream, mut next) = match opened {
            Ok(opened) => opened,
            Err(stop) => return stop,
        };
        self.well();
        loop {
            let batch = match taking.batch(session, stream, next.take(), self.clock.as_ref()).await {
                Ok(batch) => batch,
                Err(stop) => return stop,
            };
            if let Err(stop) = self.keep(session, batch.events).await {
                return stop;
            }
            *wait = AGAIN_FIRST;
            if let Err(failure) = taking.done(batch.last_tag).await {
                return failure.into();
            }
        }
    }

    /// In the store, or the session is over.
    async fn keep(&self, session: &Session, events: Vec<SeenEvent>) -> Result<(), Stop> {
        let mut wait = AGAIN_FIRST;
        let mut is_troubled = false;
        loop {
            match self.archivist.keep(events.clone()).await {
                Ok(()) => {
                    if is_troubled {
                        self.well();
                    }
                    return Ok(());
                }
                Err(error) => {
                    is_troubled = true;
                    self.say(format!("the archive stands still: {error}"));
                }
            }
            pause(session, wait).await;
            if session.is_over() {
                return Err(Stop::SessionOver);
            }
            wait = (wait * 2).min(AGAIN_MAX);
        }
    }

    async fn open(&self, session: &Session, begin: Begin) -> Result<Taking, Stop> {
        let channel = session.channel("follow the archive").await?;
        within("follow the archive", LIMIT, channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), begin.argument());
        let consuming = channel.basic_consume(names::ARCHIVE.into(), "".into(), BasicConsumeOptions::default(), arguments);
        let consumer = within("follow the archive", LIMIT, consuming).await?;
        Ok(Taking { channel, consumer })
    }

    /// Goes on behind `last`, once it is certain that this is still the stream in which it was seen. Returns the number of the stream, and
    /// an event that came already.
    async fn open_after(&self, session: &Session, last: Place) -> Result<(Taking, u64, Option<lapin::message::Delivery>), Stop> {
        let mut taking = self.open(session, Begin::Offset(last.offset)).await?;
        if let Some(first) = taking.next(PROOF_LIMIT).await? {
            let offset = offset_of(&first)?;
            if offset == last.offset {
                taking.done(first.delivery_tag).await?;
                return Ok((taking, last.stream, None));
            }
            let missing = offset.saturating_sub(last.offset).saturating_sub(1);
            if missing > 0 {
                // Said once: the position moves on.
                tracing::warn!("the stream has dropped up to {missing} events before this router came to keep them: its retention is too short for that");
            }
            return Ok((taking, last.stream, Some(first)));
        }
        // Nothing at all from there on: either a stream that was made anew and is shorter, or a broker that is slow.
        taking.end().await;
        if self.last_offset(session).await?.is_some_and(|offset| offset >= last.offset) {
            return Err(Stop::Trouble("the broker hands out nothing of the stream".to_owned()));
        }
        tracing::warn!("the stream `{}` was made anew: it is kept from its beginning", names::ARCHIVE);
        Ok((self.open(session, Begin::First).await?, last.stream.saturating_add(1), None))
    }

    /// The offset of the last event of the stream, as far as its last part tells.
    async fn last_offset(&self, session: &Session) -> Result<Option<u64>, Stop> {
        let mut taking = self.open(session, Begin::Last).await?;
        let mut last = None;
        let mut has_come = false;
        loop {
            match taking.next(PROBE_QUIET).await? {
                Some(message) => {
                    (last, has_come) = (Some(offset_of(&message)?), false);
                    taking.done(message.delivery_tag).await?;
                }
                None if has_come => break,
                // A silence alone may be that of a slow broker. The channel answers behind what it had handed out before.
                None => {
                    within("follow the archive", LIMIT, taking.channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
                    has_come = true;
                }
            }
        }
        taking.end().await;
        Ok(last)
    }
}

/// Where in the stream to begin.
#[derive(Debug, Clone, Copy)]
enum Begin {
    First,
    /// With the last part that was written.
    Last,
    Offset(u64),
}

impl Begin {
    fn argument(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Last => AMQPValue::LongString("last".into()),
            Self::Offset(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
        }
    }
}

/// A consumer of the stream.
struct Taking {
    channel: Channel,
    consumer: Consumer,
}

/// Events that are kept together.
struct Batch {
    events: Vec<SeenEvent>,
    last_tag: u64,
}

impl Taking {
    /// The next message, if one comes within `limit`.
    async fn next(&mut self, limit: Duration) -> Result<Option<lapin::message::Delivery>, Stop> {
        match timeout(limit, self.consumer.next()).await {
            Ok(Some(Ok(message))) => Ok(Some(message)),
            Ok(Some(Err(error))) => Err(Failure::of("follow the archive", &error).into()),
            Ok(None) => Err(Stop::Trouble("the stream is gone, or has another leader".to_owned())),
            Err(_) => Ok(None),
        }
    }

    /// At least one event; more if they come at once.
    async fn batch(&mut self, session: &Session, stream: u64, first: Option<lapin::message::Delivery>, clock: &dyn Clock) -> Result<Batch, Stop> {
        let mut message = match first {
            Some(first) => first,
            None => loop {
                tokio::select! {
                    message = self.next(LOOK_EVERY) => {
                        if let Some(message) = message? {
                            break message;
                        }
                    }
                    () = session.over() => return Err(Stop::SessionOver),
                }
                if session.is_over() || !self.channel.status().connected() {
                    return Err(Stop::SessionOver);
                }
            },
        };
        let mut batch = Batch { events: Vec::new(), last_tag: 0 };
        let mut bytes = 0;
        loop {
            let place = Place { stream, offset: offset_of(&message)? };
            batch.last_tag = message.delivery_tag;
            bytes += message.data.len();
            // As a route sees it, so that both have the same identity.
            let delivery = wire::incoming(message, clock.now()).delivery;
            batch.events.push(SeenEvent {
                offset: place.position(),
                identity: delivery.identity,
                key: delivery.key,
                body: delivery.body,
                stored_at: delivery.stored_at,
                hops: delivery.hops,
                traceparent: delivery.traceparent,
            });
            if batch.events.len() >= BATCH_MAX || bytes >= BATCH_BYTES_MAX {
                return Ok(batch);
            }
            match self.next(COLLECT).await {
                Ok(Some(more)) => message = more,
                // What there is can be kept; the next call meets the end.
                Ok(None) | Err(_) => return Ok(batch),
            }
        }
    }

    /// Makes room for more.
    async fn done(&self, tag: u64) -> Result<(), Failure> {
        within("follow the archive", LIMIT, self.channel.basic_ack(tag, BasicAckOptions { multiple: true })).await
    }

    async fn end(self) {
        // Nothing depends on this goodbye.
        let _ = within("follow the archive no more", LIMIT, self.channel.close(200, "looked".into())).await;
    }
}

/// Between two looks whether the channel still lives.
const LOOK_EVERY: Duration = Duration::from_secs(5);

fn offset_of(message: &lapin::message::Delivery) -> Result<u64, Stop> {
    let header = message.properties.headers().as_ref().and_then(|headers| headers.inner().get("x-stream-offset"));
    let offset = match header {
        Some(AMQPValue::LongLongInt(offset)) => u64::try_from(*offset).ok(),
        Some(AMQPValue::LongInt(offset)) => u64::try_from(*offset).ok(),
        Some(AMQPValue::LongUInt(offset)) => Some((*offset).into()),
        _ => None,
    };
    offset.ok_or_else(|| Stop::Refused(format!("what lies in `{}` has no offset: it is no stream", names::ARCHIVE)))
}

async fn pause(session: &Session, wait: Duration) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = session.over() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_grow_with_the_offset_and_with_each_new_stream() {
        let places = [Place { stream: 0, offset: 0 }, Place { stream: 0, offset: 7 }, Place { stream: 1, offset: 0 }, Place { stream: 2, offset: 3 }];
        let positions = places.map(Place::position);
        assert!(positions.is_sorted(), "{positions:?}");
        assert_eq!(positions.map(Place::of), places);
        assert!(i64::try_from(Place { stream: 1 << 20, offset: 1 }.position()).is_ok(), "a store has signed numbers");
    }

    #[test]
    fn a_small_archive_has_small_segments() {
        let of = |bytes_max: u64| {
            let arguments = stream(&ArchiveOptions { age: Duration::from_secs(3_600), bytes_max });
            arguments::shown(&arguments)
        };
        assert!(of(1 << 30).contains("x-max-age = \"3600s\"") && of(1 << 30).contains("x-stream-max-segment-size-bytes = 107374182"), "{}", of(1 << 30));
        assert!(of(1_000).contains("x-stream-max-segment-size-bytes = 1048576"));
        assert!(of(u64::MAX).contains("x-stream-max-segment-size-bytes = 500000000"));
    }
}
