//! Takes the events of one queue, on a channel of its own.
//!
//! ```text
//!   broker ──► lapin's stream ──► next ──► core ──► settle ──► window ──► acknowledgements
//!                    │                                            ▲
//!                    └── still to wait: held in hand, or on to the next step of the ladder
//! ```
//!
//! A consumer is never cancelled: with a single active consumer the standby would get what comes next before what is in hand here
//! has gone back. Leaving closes the channel, which gives everything back in order, once the broker has what was acknowledged
//! (`fence.rs`). lapin cancels a consumer whose handle is dropped while its channel is open, so the channel is closed first, whatever
//! happens.
//!
//! What is in hand is bounded by the prefetch, which the broker keeps to.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt, Stream,
    future::{join_all, poll_fn},
};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use router_api::{AttemptRecord, Canceller, Clock, Consumer, DeadLetter, Delivery, RouteName, SettleError, Settlement, TransportError};
use tokio::{sync::Notify, time::Instant};

use crate::{
    AmqpOptions,
    connection::Session,
    failure::{Failure, LIMIT, within},
    names,
    publisher::{PublishFailure, Publisher},
    scratch::short,
    waits,
    window::{Rules, Window},
    wire::{self, Incoming},
};

mod held;
mod pace;
mod tending;

use held::{Held, HeldBack};
use pace::{PAUSE, Pace};

/// What is finished above something unfinished is acknowledged after this.
const GAP_DELAY: Duration = Duration::from_millis(50);

/// The lower bits of a tag are the broker's, the upper ones name the consumer, so that a delivery of an earlier one is known as such.
const TAG_BITS: u32 = 44;

static CONSUMERS: AtomicU64 = AtomicU64::new(1);

/// What a consumer needs beside its session.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) options: Arc<AmqpOptions>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    /// See [`crate::bound::Bound::takes_a_second`].
    pub(crate) takes_a_second: bool,
}

/// Takes up `queue`, which is that of `route`, with at most `prefetch` deliveries in hand.
///
/// # Errors
///
/// [`Failure::is_missing`] where there is no such queue.
pub(crate) async fn take(session: Session, route: RouteName, queue: String, prefetch: u32, parts: Parts) -> Result<Arc<AmqpConsumer>, Failure> {
    let what = format!("taking up queue `{queue}`");
    let name = short("queue", &queue)?;
    let prefetch = u16::try_from(prefetch.max(1)).unwrap_or(u16::MAX);
    let channel = session.channel(&what).await?;
    within(&what, LIMIT, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let tag = short("route", &format!("event-router.{route}"))?;
    let stream = within(&what, LIMIT, channel.basic_consume(name, tag, BasicConsumeOptions::default(), FieldTable::default())).await?;
    let started = Instant::now();
    let ack_batch = usize::try_from(parts.options.ack_batch).unwrap_or(usize::MAX).min(usize::from(prefetch).div_ceil(5));
    let rules = Rules { batch: ack_batch, delay: parts.options.ack_delay, gap_delay: GAP_DELAY.max(parts.options.ack_delay) };
    let shared = Arc::new(Shared {
        serial: CONSUMERS.fetch_add(1, Ordering::Relaxed) << TAG_BITS,
        dead_queue: names::dead_queue(&route),
        route,
        queue,
        parts,
        session,
        channel,
        started,
        hand: Mutex::new(Hand {
            phase: Phase::Open,
            window: Window::new(rules, Duration::ZERO),
            stream,
            stash: VecDeque::new(),
            held: HeldBack::new(usize::from(prefetch).div_ceil(4)),
            pace: Pace::new(prefetch),
            heard_at: Duration::ZERO,
            has_acknowledged: false,
        }),
        changed: Notify::new(),
        work: Notify::new(),
        gone: Canceller::new().0,
    });
    tokio::spawn(Arc::clone(&shared).tend());
    Ok(Arc::new(AmqpConsumer { shared }))
}

/// The core's handle. Forgetting it is leaving.
pub(crate) struct AmqpConsumer {
    shared: Arc<Shared>,
}

impl AmqpConsumer {
    /// Whose queue it takes from.
    pub(crate) fn route(&self) -> &RouteName {
        &self.shared.route
    }

    /// Deliveries that the route has and has not finished.
    pub(crate) fn in_hand(&self) -> u64 {
        let hand = self.shared.hand();
        if hand.phase == Phase::Over { 0 } else { hand.window.in_hand() as u64 }
    }
}

struct Shared {
    /// The upper bits of the tags.
    serial: u64,
    route: RouteName,
    queue: String,
    dead_queue: String,
    parts: Parts,
    session: Session,
    channel: Channel,
    started: Instant,
    /// Never held across an await.
    hand: Mutex<Hand>,
    /// For who waits in [`Consumer::next`].
    changed: Notify,
    /// For [`Shared::tend`].
    work: Notify,
    /// The channel is closed.
    gone: Canceller,
}

struct Hand {
    phase: Phase,
    window: Window,
    stream: lapin::Consumer,
    /// Taken from the stream, in order, while the core wanted nothing.
    stash: VecDeque<Delivery>,
    /// Still to wait, in hand.
    held: HeldBack,
    pace: Pace,
    /// When something last came, or the queue was last looked at.
    heard_at: Duration,
    has_acknowledged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is handed out or settled; what is finished is acknowledged.
    Leaving,
    /// The broker has taken everything back.
    Over,
}

enum Looked {
    Delivery(Delivery),
    Nothing,
    Over,
}

impl Shared {
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().expect("no code panics while it holds the hand")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn broker_tag(&self, tag: u64) -> u64 {
        tag & ((1 << TAG_BITS) - 1)
    }

    // ── taking ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The next delivery, if there is one. With a waker that is then woken when lapin has more.
    fn look(self: &Arc<Self>, cx: &mut Context<'_>) -> Looked {
        let mut hand = self.hand();
        loop {
            if hand.phase != Phase::Open {
                return Looked::Over;
            }
            if hand.held.next_at().is_some()
                && let Some(held) = hand.held.pop(self.now())
            {
                match self.wait_on(&mut hand, held) {
                    Some(delivery) => return Looked::Delivery(delivery),
                    None => continue,
                }
            }
            if let Some(delivery) = hand.stash.pop_front() {
                return Looked::Delivery(delivery);
            }
            match Pin::new(&mut hand.stream).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(delivery) = self.admit(&mut hand, message) {
                        return Looked::Delivery(delivery);
                    }
                }
                Poll::Ready(Some(Err(error))) => self.end(&mut hand, &Failure::of("its channel", &error).to_string()),
                Poll::Ready(None) => self.end(&mut hand, "the broker cancelled it, as it does when the queue is deleted"),
                Poll::Pending => {
                    let now = self.now();
                    hand.window.seen_empty(now);
                    return Looked::Nothing;
                }
            }
        }
    }

    /// A message comes into hand. What is still to wait stays with us.
    fn admit(self: &Arc<Self>, hand: &mut Hand, message: lapin::message::Delivery) -> Option<Delivery> {
        let now = self.now();
        hand.heard_at = now;
        hand.pace.came();
        let tag = message.delivery_tag;
        if tag >> TAG_BITS != 0 || !hand.window.take(tag) {
            self.end(hand, "the broker counts its deliveries in another way than it should");
            return None;
        }
        let Incoming { mut delivery, delay_left } = wire::incoming(message, self.parts.clock.now());
        delivery.tag |= self.serial;
        if delay_left.is_zero() {
            return Some(delivery);
        }
        self.wait_on(hand, Held::new(now, now.saturating_add(delay_left), delivery))
    }

    // ── settling ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Are all these in hand, and can they be settled?
    fn may_settle(&self, hand: &Hand, deliveries: &[Delivery]) -> bool {
        let in_hand = |delivery: &Delivery| delivery.tag ^ self.serial == self.broker_tag(delivery.tag) && hand.window.holds(self.broker_tag(delivery.tag));
        hand.phase == Phase::Open && deliveries.iter().all(in_hand)
    }

    /// Marks deliveries as finished, and acknowledges what must not wait.
    fn finish(&self, hand: &mut Hand, deliveries: &[Delivery]) {
        let now = self.now();
        let had_work = hand.window.due().is_some();
        for delivery in deliveries {
            hand.window.finish(self.broker_tag(delivery.tag), now);
            // Within the call as well: what is finished and not acknowledged never exceeds a batch.
            if hand.window.is_full() {
                self.acknowledge(hand, now, false);
            }
        }
        if !had_work && hand.window.due().is_some() {
            self.work.notify_one();
        }
    }

    /// Sends what the window wants sent. Under the lock, since the broker takes a frame that is overtaken by a later one for a
    /// mistake. One poll puts the frame into lapin's queue; nobody waits for it to be written.
    fn acknowledge(&self, hand: &mut Hand, now: Duration, all: bool) {
        if hand.phase == Phase::Over {
            return;
        }
        let acks = hand.window.acks(now, all);
        let up_to = acks.up_to.map(|tag| (tag, BasicAckOptions { multiple: true }));
        let singly = acks.singly.iter().map(|tag| (*tag, BasicAckOptions { multiple: false }));
        for (tag, options) in up_to.into_iter().chain(singly) {
            hand.has_acknowledged = true;
            if let Some(Err(error)) = self.channel.basic_ack(tag, options).now_or_never() {
                self.end(hand, &Failure::of("acknowledging", &error).to_string());
                return;
            }
        }
    }

    /// Brings a delivery to where it waits or lies, safely.
    async fn record(&self, delivery: &Delivery, how: &How) -> Result<(), PublishFailure> {
        let (publisher, body) = (&self.parts.publisher, delivery.body.clone());
        match how {
            How::RetryIn { delay, failure } => waits::send(publisher, &self.queue, body, wire::waiting(delivery, failure), *delay).await,
            How::Bury(letter) => {
                if publisher.publish("", &self.dead_queue, body, wire::buried(delivery, letter)).await?.routed {
                    return Ok(());
                }
                publisher.suspect();
                Err(PublishFailure::Refused(format!("queue `{}`, which holds the dead letters of route `{}`, is not there", self.dead_queue, self.route)))
            }
        }
    }

    // ── leaving ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Nothing more comes, and nothing more can be settled.
    fn end(&self, hand: &mut Hand, why: &str) {
        if hand.phase == Phase::Over {
            return;
        }
        if hand.phase == Phase::Open && !self.session.is_over() {
            tracing::warn!(route = %self.route, queue = %self.queue, "the consumer ended: {why}");
        }
        self.set_phase(hand, Phase::Over);
    }

    fn set_phase(&self, hand: &mut Hand, phase: Phase) {
        hand.phase = phase;
        hand.stash.clear();
        hand.held.clear();
        self.changed.notify_one();
        self.work.notify_one();
    }

    fn leave(&self) {
        let mut hand = self.hand();
        if hand.phase == Phase::Open {
            self.set_phase(&mut hand, Phase::Leaving);
        }
    }
}

/// For a look that is not waited for.
fn unwoken() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// How a delivery is recorded on the broker before it is acknowledged.
enum How {
    RetryIn { delay: Duration, failure: AttemptRecord },
    Bury(Box<DeadLetter>),
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        let shared = &self.shared;
        // The common case, without a timer or a notification.
        let mut looked = shared.look(&mut unwoken());
        loop {
            match looked {
                Looked::Delivery(delivery) => return Some(Ok(delivery)),
                Looked::Over => return None,
                Looked::Nothing => {}
            }
            let (at, pauses) = {
                let mut hand = shared.hand();
                (hand.held.next_at(), hand.pace.pauses(shared.now()))
            };
            if pauses {
                tokio::select! {
                    biased;
                    () = shared.changed.notified() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
                looked = shared.look(&mut unwoken());
                continue;
            }
            let held = async {
                match at {
                    Some(at) => tokio::time::sleep(at.saturating_sub(shared.now())).await,
                    None => std::future::pending().await,
                }
            };
            looked = tokio::select! {
                biased;
                looked = poll_fn(|cx| match shared.look(cx) {
                    // Unless something has come that is held in hand: its time is what is waited for then.
                    Looked::Nothing if shared.hand().held.next_at() == at => Poll::Pending,
                    looked => Poll::Ready(looked),
                }) => looked,
                () = shared.changed.notified() => Looked::Nothing,
                () = held => Looked::Nothing,
            };
        }
    }

    fn take(&self) -> Option<Delivery> {
        match self.shared.look(&mut unwoken()) {
            Looked::Delivery(delivery) => Some(delivery),
            Looked::Nothing | Looked::Over => None,
        }
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        let shared = &self.shared;
        let how = {
            let mut hand = shared.hand();
            if !shared.may_settle(&hand, &deliveries) {
                return Err((SettleError::SessionOver, deliveries));
            }
            match settlement {
                Settlement::Done { .. } => {
                    shared.finish(&mut hand, &deliveries);
                    return Ok(());
                }
                Settlement::RetryIn { delay, failure } => How::RetryIn { delay, failure },
                Settlement::Bury(letter) => How::Bury(letter),
            }
        };
        // All at once, and in order: the publisher puts them on the wire in the order in which they are asked for.
        let recorded = join_all(deliveries.iter().map(|delivery| shared.record(delivery, &how))).await;
        let (mut done, mut left, mut why) = (Vec::new(), Vec::new(), None);
        for (delivery, recorded) in deliveries.into_iter().zip(recorded) {
            match recorded {
                Ok(()) => done.push(delivery),
                Err(failure) => {
                    why.get_or_insert(failure.to_string());
                    left.push(delivery);
                }
            }
        }
        let mut hand = shared.hand();
        if hand.phase == Phase::Over {
            // Recorded and not acknowledged: it comes back all the same.
            done.append(&mut left);
            return Err((SettleError::SessionOver, done));
        }
        shared.finish(&mut hand, &done);
        match why {
            Some(_) if hand.phase == Phase::Leaving => Err((SettleError::SessionOver, left)),
            Some(why) => Err((SettleError::NotRecorded(why), left)),
            None => Ok(()),
        }
    }

    async fn renewal_due(&self) {
        let shared = &self.shared;
        let half = shared.parts.options.ack_timeout / 2;
        loop {
            let age = shared.hand().window.oldest().map(|since| shared.now().saturating_sub(since));
            match age {
                Some(age) if age >= half => return,
                // What comes into hand meanwhile is younger than what was there, or than now.
                Some(age) => tokio::time::sleep(half - age).await,
                None => tokio::time::sleep(half).await,
            }
        }
    }

    async fn close(&self) {
        self.shared.leave();
        let gone = self.shared.gone.listener();
        // Its parts have limits of their own; this is for a runtime that is going down.
        drop(tokio::time::timeout(LIMIT * 4, gone.cancelled()).await);
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        self.shared.leave();
    }
}
