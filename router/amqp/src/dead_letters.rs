//! Dead letters on the broker, looked at without being taken.
//!
//! AMQP has no looking: a message is taken and given back. All letters of a queue are taken on a channel of their own, which then closes,
//! so that they return in their order, however many there are; of a part of them, some brokers bring what returns behind the rest
//! (tried on 3.10.8). Each look counts as a delivery, of which the dead queues allow a million.
//!
//! Two that look at once would each see a part. So a look holds a lock: an exclusive queue of that name, which the broker gives to one
//! connection only, and which goes with its channel; within the process there is one desk. The lock is held until the letters are seen to
//! have returned, which takes the broker a moment longer than to close their channel.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use router_api::{RouteName, TransportError};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    connection::Session,
    failure::{Failure, LIMIT, within},
    fence, names,
    scratch::{QueueCount, Scratch},
    topology, wire,
};

/// Letters of one queue that can be looked at: what one consumer may have in hand.
const LETTERS_MAX: u32 = u16::MAX as u32;
/// In bytes of bodies that are kept of one look.
const BODIES_MAX: usize = 256 * 1024 * 1024;
/// For one look.
const LOOK_LIMIT: Duration = Duration::from_secs(120);
/// When nothing comes for so long, the queue is asked whether there is more.
const QUIET: Duration = Duration::from_secs(1);
/// For letters that were looked at to be back in their queue.
const RETURN_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks whether they are.
const RETURN_LOOK: Duration = Duration::from_millis(20);
/// For another one who looks.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries for the lock.
const LOCK_AGAIN: Duration = Duration::from_millis(150);

/// A letter in hand.
pub(crate) struct Held {
    /// Means something within its look.
    pub(crate) tag: u64,
    /// As `dead-letters` names it: `<route>.<hash>`, with a number behind it where one of the same content lies before.
    pub(crate) dead: wire::Dead,
}

/// All letters of one queue in hand, until [`Look::end`].
pub(crate) struct Look {
    hold: Option<Hold>,
    /// Those that were asked for, in the order of the queue.
    pub(crate) letters: Vec<Held>,
}

/// What gives the letters back when it ends.
struct Hold {
    session: Session,
    queue: String,
    /// Its closing gives the letters back.
    channel: Channel,
    /// Holds the lock; none where we may not have one.
    lock: Option<Lock>,
    /// Letters that will return.
    taken: u32,
    /// Some were taken out for good.
    removes: bool,
    /// A queue that is known to be there.
    asked: Option<String>,
}

/// Kept out while it lasts: everybody else who looks.
struct Lock {
    queue: String,
    channel: Channel,
}

/// What a look is for.
pub(crate) struct Wanted<'a> {
    /// Which letters are kept; the others are passed over.
    pub(crate) keep: &'a (dyn Fn(&wire::Dead) -> bool + Sync),
    /// Of those, at most the last so many of the queue.
    pub(crate) last: usize,
}

impl Look {
    /// Takes all letters of `route` in hand and keeps those that are `wanted`. Told how many lie there before it begins; `None` when
    /// there is no such queue.
    pub(crate) async fn take(
        session: &Session,
        route: &RouteName,
        wanted: Wanted<'_>,
        now: Timestamp,
        told: impl FnOnce(u64),
    ) -> Result<Option<Self>, TransportError> {
        let queue = names::dead_queue(route);
        if count(session, &queue).await?.is_none() {
            return Ok(None);
        }
        let lock = locked(session, route).await?;
        // Only now: while another one looks, some of them are in its hands.
        let channel = session.channel("look at dead letters").await?;
        let hold = Hold { session: session.clone(), queue: queue.clone(), channel: channel.clone(), lock, taken: 0, removes: false, asked: None };
        let mut look = Self { hold: Some(hold), letters: Vec::new() };
        let filled = async {
            let ready = count(session, &queue).await?.map_or(0, |count| count.ready);
            if ready > LETTERS_MAX {
                return Err(TransportError::Refused(format!(
                    "{ready} dead letters lie in queue `{queue}`, and {LETTERS_MAX} are all that can be looked at: move or purge some of them on the broker"
                )));
            }
            told(ready.into());
            if ready == 0 {
                return Ok(());
            }
            look.fill(&channel, ready, wanted, route, now).await
        };
        match filled.await {
            Ok(()) => Ok(Some(look)),
            Err(error) => {
                // What was taken goes back.
                look.end().await;
                Err(error)
            }
        }
    }

    async fn fill(&mut self, channel: &Channel, ready: u32, wanted: Wanted<'_>, route: &RouteName, now: Timestamp) -> Result<(), TransportError> {
        let Some(hold) = &mut self.hold else { return Ok(()) };
        let queue = hold.queue.clone();
        let queue = queue.as_str();
        let what = format!("look at queue `{queue}`");
        within(&what, LIMIT, channel.basic_qos(u16::MAX, BasicQosOptions::default())).await?;
        let consuming = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = within(&what, LIMIT, consuming).await?;
        let until = Instant::now() + LOOK_LIMIT;
        let (mut seen, mut bytes) = (0u32, 0usize);
        let mut copies: HashMap<String, u32> = HashMap::new();
        // All that was handed to us has come.
        let mut has_come = false;
        while seen < ready {
            let message = match timeout(QUIET, consumer.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(Failure::of(&what, &error).into()),
                Ok(None) => return Err(TransportError::Unavailable(format!("{what}: the queue was deleted meanwhile"))),
                Err(_) if has_come => break,
                // None is left to be handed out: others have taken or deleted some, or they are on their way to us. The channel answers
                // behind all that was handed out on it before it was asked.
                Err(_) if count(&hold.session, queue).await?.is_none_or(|count| count.ready == 0) => {
                    within(&what, LIMIT, channel.basic_qos(u16::MAX, BasicQosOptions::default())).await?;
                    has_come = true;
                    continue;
                }
                Err(_) if Instant::now() < until => continue,
                Err(_) => return Err(too_slow(&what)),
            };
            has_come = false;
            if Instant::now() > until {
                return Err(too_slow(&what));
            }
            seen += 1;
            hold.taken = seen;
            let mut dead = wire::dead(route, &message, now);
            // The same letter twice: its confirm was lost, and it was buried again.
            let copy = copies.entry(dead.stored.id.clone()).or_default();
            *copy += 1;
            if *copy > 1 {
                dead.stored.id = format!("{}-{copy}", dead.stored.id);
            }
            if !(wanted.keep)(&dead) {
                continue;
            }
            bytes = bytes.saturating_add(dead.stored.body.len());
            self.letters.push(Held { tag: message.delivery_tag, dead });
            // In larger steps than one letter, since what follows moves up.
            if self.letters.len() > wanted.last.saturating_mul(2).max(64) {
                bytes -= shed(&mut self.letters, wanted.last);
            }
            if bytes > BODIES_MAX {
                let megabytes = BODIES_MAX / 1024 / 1024;
                return Err(TransportError::Refused(format!(
                    "the dead letters in queue `{queue}` are larger than {megabytes} MiB together: ask for fewer (`--limit`), or for one by its id"
                )));
            }
        }
        shed(&mut self.letters, wanted.last);
        Ok(())
    }

    /// Is there such a queue? Asked once for each.
    pub(crate) async fn has_queue(&mut self, queue: &str) -> Result<bool, Failure> {
        let Some(hold) = &mut self.hold else { return Err(Failure::lost("the look has ended")) };
        if hold.asked.as_deref() == Some(queue) {
            return Ok(true);
        }
        let is_there = count(&hold.session, queue).await?.is_some();
        hold.asked = is_there.then(|| queue.to_owned());
        Ok(is_there)
    }

    /// Takes a letter out of its queue. Certain only when [`Look::end`] has said so.
    pub(crate) async fn remove(&mut self, tag: u64) -> Result<(), Failure> {
        let Some(hold) = &mut self.hold else { return Err(Failure::lost("the look has ended")) };
        within("take a dead letter away", LIMIT, hold.channel.basic_ack(tag, BasicAckOptions::default())).await?;
        hold.taken = hold.taken.saturating_sub(1);
        hold.removes = true;
        Ok(())
    }

    /// Gives back what was not removed. True when the broker has said that it is done, and that the others are gone.
    pub(crate) async fn end(mut self) -> bool {
        match self.hold.take() {
            Some(hold) => hold.end().await,
            None => true,
        }
    }
}

impl Drop for Look {
    /// A look that is dropped on its way holds its letters back from everybody else until its channel closes.
    fn drop(&mut self) {
        if let (Some(hold), Ok(runtime)) = (self.hold.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(hold.end());
        }
    }
}

/// Passes over all but the last ones; returns the bytes of the others.
fn shed(letters: &mut Vec<Held>, last: usize) -> usize {
    let over = letters.len().saturating_sub(last);
    letters.drain(..over).map(|held| held.dead.stored.body.len()).sum()
}

impl Hold {
    async fn end(self) -> bool {
        let Self { session, queue, channel, lock, taken, removes, .. } = self;
        let mut is_certain = true;
        if removes && let Err(failure) = fence::acknowledged(&session, &channel, &queue).await {
            tracing::debug!(%failure, "some of the letters that were taken out may still lie there");
            is_certain = false;
        }
        let closed = close(channel).await;
        let until = Instant::now() + RETURN_LIMIT;
        while closed && Instant::now() < until {
            match count(&session, &queue).await {
                Ok(Some(count)) if count.ready < taken => tokio::time::sleep(RETURN_LOOK).await,
                // A queue that does not tell how many it has has not all of them back.
                Err(failure) if !failure.is_refused() && !session.is_over() => tokio::time::sleep(RETURN_LOOK).await,
                // There, or gone for good, or nobody can tell.
                _ => break,
            }
        }
        if let Some(lock) = lock {
            // Deleted by name: when it goes with its channel it is still there for a moment, and who takes it up then has nothing.
            let deleted = lock.channel.queue_delete(lock.queue.as_str().into(), QueueDeleteOptions::default());
            if let Err(failure) = within("unlock the dead letters", LIMIT, deleted).await {
                tracing::debug!(%failure, "the lock goes with its channel");
            }
            close(lock.channel).await;
        }
        closed && is_certain
    }
}

async fn close(channel: Channel) -> bool {
    match within("end a look at dead letters", LIMIT, channel.close(200, "looked".into())).await {
        Ok(()) => true,
        Err(failure) => {
            tracing::debug!(%failure, "what was looked at goes back with the connection");
            false
        }
    }
}

fn too_slow(what: &str) -> TransportError {
    TransportError::Unavailable(format!("{what}: the broker did not hand out all of it within {} s", LOOK_LIMIT.as_secs()))
}

/// The lock of a route's dead letters; none where the broker allows us no lock.
async fn locked(session: &Session, route: &RouteName) -> Result<Option<Lock>, TransportError> {
    let lock = names::look_lock(route);
    let until = Instant::now() + LOCK_LIMIT;
    loop {
        let channel = session.channel("look at dead letters").await?;
        let taken = async {
            // Deleted with its consumer, and so with the channel, however that ends.
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            within("lock the dead letters", LIMIT, channel.queue_declare(lock.as_str().into(), options, FieldTable::default())).await?;
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let held = channel.basic_consume(lock.as_str().into(), "".into(), options, FieldTable::default());
            within("lock the dead letters", LIMIT, held).await
        };
        match taken.await {
            Ok(_) => return Ok(Some(Lock { queue: lock, channel })),
            // Another one's; or our own of before, which went while we took it up.
            Err(failure) if failure.is_locked() || (failure.is_refused() && !topology::may_not_make(&failure)) => {
                if timeout_at(until, tokio::time::sleep(LOCK_AGAIN)).await.is_err() {
                    let wait = LOCK_LIMIT.as_secs();
                    return Err(TransportError::Unavailable(format!("another router has been looking at the dead letters of route `{route}` for {wait} s")));
                }
            }
            // A user who may not make queues may still look; then two that look at once are the operator's care.
            Err(failure) if failure.is_refused() => {
                tracing::debug!(%failure, "the dead letters are looked at without a lock");
                return Ok(None);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Asks for a queue without touching it; `None` when there is none.
async fn count(session: &Session, queue: &str) -> Result<Option<QueueCount>, Failure> {
    let mut scratch = Scratch::new(session);
    let count = scratch.look_surely(queue).await;
    scratch.end().await;
    count
}
