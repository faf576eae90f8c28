//! Binds what is bound once more, now and then.
//!
//! AMQP tells nobody that a binding was taken away. Who publishes through a router hears of it, since the event comes back; what others
//! publish passes the queue by in silence. To bind what is bound already changes nothing and costs the broker a tenth of a millisecond
//! (seen on 3.10.8), so it is done over and over: a few patterns at a time with a rest after them, so that thousands of them are felt by
//! nobody, on a channel that nobody else needs. Routes that were refused or are out of reach are left alone.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use router_api::RoutingPattern;

use crate::{
    AmqpOptions, Topology,
    bound::Bound,
    connection::{Bus, Session},
    failure::Failure,
    names,
    scratch::Scratch,
};

/// Patterns that are bound without a rest.
const AT_ONCE: usize = 25;

/// After so many. A round over ten thousand takes a minute and a half.
const REST: Duration = Duration::from_millis(200);

/// For one answer: whoever declares something meanwhile waits for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Runs beside until the bus is closed. `is_archived` says whether somebody follows the stream of all events.
pub(crate) async fn run(options: Arc<AmqpOptions>, bound: Arc<Bound>, bus: Arc<Bus>, is_archived: bool) {
    if options.topology != Topology::Declare {
        return;
    }
    let again = async {
        let mut refused = Refused::default();
        loop {
            tokio::time::sleep(options.rebind_every).await;
            let Some(session) = bus.now() else { continue };
            let round = Round { options: &options, bound: &bound, is_archived: is_archived && bus.is_archive_well(), session: &session };
            tokio::select! {
                () = round.all(&mut refused) => {}
                () = session.over() => {}
            }
        }
    };
    tokio::select! {
        () = again => {}
        () = bus.closing() => {}
    }
}

/// Queues that the broker has refused to bind: each refusal costs a channel, so they are left alone until there is another set or session.
#[derive(Default)]
struct Refused {
    epoch: u64,
    set: u64,
    queues: BTreeSet<String>,
}

/// All bindings, once.
struct Round<'a> {
    options: &'a AmqpOptions,
    bound: &'a Bound,
    is_archived: bool,
    session: &'a Session,
}

impl Round<'_> {
    async fn all(&self, refused: &mut Refused) {
        let (set, wanted) = self.bound.set();
        let epoch = self.session.epoch();
        if (refused.epoch, refused.set) != (epoch, set) {
            *refused = Refused { epoch, set, queues: BTreeSet::new() };
        }
        let mut scratch = Scratch::new(self.session);
        if !wanted.is_empty() {
            self.shared(&mut scratch, set, refused).await;
        }
        let mut since_rest = 0;
        for subscription in wanted.iter() {
            let queue = names::queue_of(subscription);
            let own = [queue.as_str()];
            let patterns: Vec<&str> = subscription.patterns.iter().map(RoutingPattern::as_str).collect();
            let parts = std::iter::once((names::RETURN, &own[..])).chain(patterns.chunks(AT_ONCE).map(|keys| (self.options.exchange.as_str(), keys)));
            for (exchange, keys) in parts {
                if since_rest >= AT_ONCE {
                    tokio::time::sleep(REST).await;
                    since_rest = 0;
                }
                if refused.queues.contains(&queue) {
                    break;
                }
                since_rest += keys.len();
                // Nobody takes a binding away meanwhile that is not wanted any more, or it would come again for good.
                let _one = self.bound.undisturbed().await;
                if !self.bound.stands(epoch, set) {
                    return;
                }
                if !self.bound.is_made(subscription) {
                    break;
                }
                self.bind(&mut scratch, &queue, exchange, keys, refused).await;
            }
        }
        scratch.end().await;
    }

    /// What is no route's own, and whose loss nobody else would notice.
    async fn shared(&self, scratch: &mut Scratch, set: u64, refused: &mut Refused) {
        let archive = self.is_archived.then_some((names::ARCHIVE, self.options.exchange.as_str(), "#"));
        for (queue, exchange, key) in [(names::LOST, names::LOST, "")].into_iter().chain(archive) {
            if self.bound.stands(self.session.epoch(), set) && !refused.queues.contains(queue) {
                self.bind(scratch, queue, exchange, &[key], refused).await;
            }
        }
    }

    async fn bind(&self, scratch: &mut Scratch, queue: &str, exchange: &str, keys: &[&str], refused: &mut Refused) {
        let answer = tokio::time::timeout(ANSWER_LIMIT, scratch.bind(queue, exchange, keys)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::unanswered(format!("queue `{queue}` is not bound within {} s", ANSWER_LIMIT.as_secs()))));
        let Err(failure) = answer else { return };
        if failure.is_missing() {
            // Whoever declares finds out what is gone, makes it, or says why it cannot.
            tracing::warn!("something on the broker is gone, and what is bound is declared again: {failure}");
            self.bound.declare_again();
        } else if failure.is_refused() {
            tracing::warn!("what somebody takes away of the bindings of queue `{queue}` is not bound again: {failure}");
        } else {
            // That it is out of reach is found out by others.
            tracing::debug!("{failure}");
            return;
        }
        refused.queues.insert(queue.to_owned());
    }
}
