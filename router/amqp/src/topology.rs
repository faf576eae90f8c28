//! Makes what the routes need on the broker: exchanges, queues, bindings.
//!
//! ```text
//!                      patterns                                     key = queue
//!   exchange ─────────────────────────► route's queue ◄──────────────────── return exchange ──► lost (what no queue wants)
//!                                          │     ▲                               ▲
//!                       given up on        │     └── consumer                    │ after their time
//!   default exchange ──► ….dead  ◄─────────┘                 waits 1 s … 1024 s ─┘
//! ```
//!
//! Everything is looked at before it is made, since looking needs no permission to make, and is held against what it should be
//! before it is used. Old bindings go when the new ones stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lapin::{ExchangeKind, types::FieldTable};
use router_api::{RouteName, RoutingPattern, Subscription};
use tokio::task::{JoinError, JoinSet};

use crate::{
    AmqpOptions, Topology,
    arguments::{self, Difference, Form},
    bindings::{Bindings, Stale},
    connection::Session,
    failure::Failure,
    names,
    scratch::Scratch,
};

/// Refusals of a broker that are followed to find out how an adopted queue was made.
const PROBES_MAX: usize = 16;

/// Routes that are declared at once: one that is slow holds up no other.
const ASIDE_MAX: usize = 64;

/// A route whose declaration takes longer does not hold up the next one.
const ASIDE_AFTER: Duration = Duration::from_millis(250);

/// So long those that are slow are waited for, where nobody may wait for a queue that is out of reach.
const GRACE: Duration = Duration::from_secs(1);

/// What [`declare`] did.
#[derive(Default)]
pub(crate) struct Declared {
    /// What was made, one sentence each.
    pub(crate) made: Vec<String>,
    /// What an adopted queue costs, one sentence each.
    pub(crate) notes: Vec<String>,
    /// Routes that cannot work until somebody acts. The others stand.
    pub(crate) refused: Vec<(RouteName, Failure)>,
    /// Routes whose queue the broker does not reach, or does not answer for. The others stand.
    pub(crate) out_of_reach: Vec<(Subscription, Failure)>,
    /// Routes that nobody waited for; or that were asked for when the connection ended.
    pub(crate) unsettled: Vec<Subscription>,
    /// Bindings that are to go, and stay until everything else stands.
    pub(crate) left_over: bool,
}

/// What came of one route.
#[derive(Debug)]
pub(crate) struct One {
    pub(crate) made: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) result: Result<(), Failure>,
}

impl Default for One {
    fn default() -> Self {
        Self { made: Vec::new(), notes: Vec::new(), result: Ok(()) }
    }
}

/// What is to be declared.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// The complete set.
    pub(crate) wanted: &'a [Subscription],
    /// Those that somebody else asks for.
    pub(crate) left_out: &'a BTreeSet<RouteName>,
    /// Are those that are slow waited for, for as long as their questions may take?
    pub(crate) waits: bool,
}

/// Makes everything that is wished for, and takes away the bindings in `record` that are not wanted any more: after the new ones stand,
/// and only if all of them do. No route waits long for another one.
///
/// # Errors
///
/// When the session is of no use, or the broker refuses something that all routes need. Then too `declared` says which routes have cost
/// the connection.
pub(crate) async fn declare(session: &Session, options: &Arc<AmqpOptions>, wish: Wish<'_>, record: &Bindings, declared: &mut Declared) -> Result<(), Failure> {
    if options.topology == Topology::Off {
        return Ok(());
    }
    let mut maker = Maker { scratch: Scratch::new(session), options, made: &mut declared.made, notes: &mut declared.notes };
    maker.shared().await?;
    let makes = options.topology == Topology::Declare;
    let stale = if makes { maker.stale(wish.wanted, record).await } else { Vec::new() };
    let Maker { scratch, .. } = maker;
    let scratch = routes(session, options, wish, scratch, declared).await?;
    let is_all = declared.refused.is_empty() && declared.out_of_reach.is_empty() && declared.unsettled.is_empty() && wish.left_out.is_empty();
    let mut maker = Maker { scratch, options, made: &mut declared.made, notes: &mut declared.notes };
    if makes && is_all {
        maker.unbind(&stale, record).await?;
    }
    maker.scratch.end().await;
    declared.left_over = !is_all && !stale.is_empty();
    Ok(())
}

/// All routes, one after the other as long as they are quick. One that is slow goes on beside the next ones, on a channel of its own.
async fn routes(session: &Session, options: &Arc<AmqpOptions>, wish: Wish<'_>, first: Scratch, declared: &mut Declared) -> Result<Scratch, Failure> {
    let mut asked: JoinSet<(Subscription, Scratch, One)> = JoinSet::new();
    let mut open: BTreeMap<RouteName, Subscription> = BTreeMap::new();
    let mut spare = Some(first);
    let mut culprit = None;
    let mut cut_off = Vec::new();
    let mut end = |ended: Result<(Subscription, Scratch, One), JoinError>, open: &mut BTreeMap<RouteName, Subscription>| -> Option<Scratch> {
        // One that broke off is still among the open ones.
        let (subscription, scratch, One { made, notes, result }) = ended.ok()?;
        open.remove(&subscription.route);
        declared.made.extend(made);
        declared.notes.extend(notes);
        match result {
            Ok(()) => {}
            Err(failure) if failure.is_refused() && !failure.ends_connection() => declared.refused.push((subscription.route, failure)),
            Err(failure) if failure.ends_connection() => {
                culprit.get_or_insert_with(|| failure.clone());
                declared.out_of_reach.push((subscription, failure));
            }
            // Of what an ended connection leaves unanswered nothing is known.
            Err(failure) if session.is_over() => {
                culprit.get_or_insert(failure);
                cut_off.push(subscription);
            }
            Err(failure) => declared.out_of_reach.push((subscription, failure)),
        }
        Some(scratch)
    };
    for subscription in wish.wanted.iter().filter(|wanted| !wish.left_out.contains(&wanted.route)) {
        // Those that were never asked for are no reason for anything.
        if session.is_over() {
            break;
        }
        let scratch = spare.take().unwrap_or_else(|| Scratch::new(session));
        let (wanted, options) = (subscription.clone(), Arc::clone(options));
        open.insert(subscription.route.clone(), subscription.clone());
        asked.spawn(async move {
            let (scratch, answer) = one(scratch, options, wanted.clone()).await;
            (wanted, scratch, answer)
        });
        let patience = tokio::time::sleep(ASIDE_AFTER);
        tokio::pin!(patience);
        while open.contains_key(&subscription.route) && !session.is_over() {
            let is_full = asked.len() >= ASIDE_MAX;
            tokio::select! {
                ended = asked.join_next() => match ended {
                    Some(ended) => spare = end(ended, &mut open).or(spare),
                    None => break,
                },
                () = &mut patience, if !is_full => break,
                () = session.over() => break,
            }
        }
    }
    let grace = tokio::time::sleep(GRACE);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            ended = asked.join_next() => match ended {
                Some(ended) => spare = end(ended, &mut open).or(spare),
                None => break,
            },
            () = &mut grace, if !wish.waits => break,
        }
    }
    declared.unsettled.extend(cut_off);
    declared.unsettled.extend(open.into_values());
    if let Some(failure) = culprit {
        return Err(failure);
    }
    if session.is_over() {
        return Err(Failure::lost("the connection to the broker was lost while the routes were declared"));
    }
    Ok(spare.unwrap_or_else(|| Scratch::new(session)))
}

/// Declares one route, and gives the channel back.
pub(crate) async fn one(scratch: Scratch, options: Arc<AmqpOptions>, subscription: Subscription) -> (Scratch, One) {
    let mut one = One::default();
    let mut maker = Maker { scratch, options: &options, made: &mut one.made, notes: &mut one.notes };
    let result = maker.route(&subscription).await;
    let Maker { scratch, .. } = maker;
    one.result = result;
    (scratch, one)
}

struct Maker<'a> {
    scratch: Scratch,
    options: &'a AmqpOptions,
    made: &'a mut Vec<String>,
    notes: &'a mut Vec<String>,
}

impl Maker<'_> {
    /// What all routes need.
    async fn shared(&mut self) -> Result<(), Failure> {
        let exchange = self.options.exchange.clone();
        self.exchange(&exchange, ExchangeKind::Topic, FieldTable::default()).await?;
        self.exchange(names::LOST, ExchangeKind::Fanout, FieldTable::default()).await?;
        self.queue(names::LOST, arguments::lost_queue()).await?;
        self.bind(names::LOST, names::LOST, &[""]).await?;
        self.exchange(names::RETURN, ExchangeKind::Direct, arguments::return_exchange()).await?;
        for step in names::WAIT_STEPS {
            let name = names::wait_of(step);
            self.exchange(&name, ExchangeKind::Fanout, FieldTable::default()).await?;
            self.queue(&name, arguments::wait_queue(step)).await?;
            self.bind(&name, &name, &[""]).await?;
        }
        Ok(())
    }

    async fn route(&mut self, subscription: &Subscription) -> Result<(), Failure> {
        let queue = names::queue_of(subscription);
        // First, so that nothing can be given up on without a place for it.
        self.queue(&names::dead_queue(&subscription.route), arguments::dead_queue()).await?;
        let wanted = arguments::route_queue(subscription, self.options);
        if subscription.queue.name.is_some() {
            self.adopt(subscription, &queue, wanted).await?;
        } else {
            self.queue(&queue, wanted).await?;
        }
        self.bind(&queue, names::RETURN, &[&queue]).await?;
        let patterns: Vec<&str> = subscription.patterns.iter().map(RoutingPattern::as_str).collect();
        self.bind(&queue, &self.options.exchange, &patterns).await
    }

    async fn exchange(&mut self, name: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<(), Failure> {
        let is_there = self.scratch.has_exchange(name).await?;
        if self.options.topology == Topology::Verify {
            return if is_there { Ok(()) } else { Err(missing(&format!("exchange `{name}`"))) };
        }
        match self.scratch.exchange(name, kind, arguments).await {
            Err(failure) if is_there && may_not_make(&failure) => {}
            Err(failure) if failure.is_inequivalent() => return Err(other_exchange(name, failure)),
            other => other?,
        }
        if !is_there {
            self.made.push(format!("made exchange `{name}`"));
        }
        Ok(())
    }

    /// One of our own queues: exactly as it should be, or refused.
    async fn queue(&mut self, name: &str, arguments: FieldTable) -> Result<(), Failure> {
        let is_there = self.scratch.look(name).await?.is_some();
        if self.options.topology == Topology::Verify {
            return if is_there { Ok(()) } else { Err(missing(&format!("queue `{name}`"))) };
        }
        let form = Form::of(arguments);
        match self.scratch.queue(name, &form).await {
            Err(failure) if is_there && may_not_make(&failure) => {}
            Err(failure) if failure.is_inequivalent() => return Err(other_queue(name, failure)),
            other => other?,
        }
        if !is_there {
            self.made.push(format!("made queue `{name}` ({})", arguments::shown(&form.arguments)));
        }
        Ok(())
    }

    /// Somebody else's queue: as it is, if it is there.
    async fn adopt(&mut self, subscription: &Subscription, name: &str, wanted: FieldTable) -> Result<(), Failure> {
        if self.scratch.look(name).await?.is_none() {
            return self.queue(name, wanted).await;
        }
        let (route, parallel) = (&subscription.route, subscription.queue.parallel);
        match form_of(&mut self.scratch, name, wanted).await? {
            Some(form) => {
                let costs = form.costs(parallel);
                self.notes.extend(costs.into_iter().map(|cost| format!("route `{route}` adopts queue `{name}`: {cost}")));
            }
            None => self.notes.push(format!("route `{route}` adopts queue `{name}`, and the broker does not say how it was made")),
        }
        Ok(())
    }

    async fn bind(&mut self, queue: &str, exchange: &str, keys: &[&str]) -> Result<(), Failure> {
        if self.options.topology == Topology::Verify {
            return Ok(());
        }
        self.scratch.bind(queue, exchange, keys).await
    }

    /// Which bindings of ours are to go. Recorded before anything is bound, so that none of ours is ever unknown.
    async fn stale(&mut self, wanted: &[Subscription], record: &Bindings) -> Vec<Stale> {
        record.begin(wanted).await.unwrap_or_else(|error| {
            self.notes.push(format!("the record of our bindings cannot be kept, so that no binding is taken away: {error}"));
            Vec::new()
        })
    }

    async fn unbind(&mut self, stale: &[Stale], record: &Bindings) -> Result<(), Failure> {
        for Stale { queue, pattern, .. } in stale {
            self.scratch.unbind(queue, &self.options.exchange, pattern.as_str()).await?;
            self.made.push(format!("queue `{queue}` collects no more `{pattern}`, and keeps what waits in it"));
        }
        if let Err(error) = record.finish(stale).await {
            self.notes.push(format!("the record of our bindings cannot be kept: {error}"));
        }
        Ok(())
    }
}

/// How a queue that is there was made, as far as the broker compares it. It tells one difference with each refusal.
///
/// # Errors
///
/// When the session is of no use. A broker that does not let us find out answers `None`.
pub(crate) async fn form_of(scratch: &mut Scratch, queue: &str, guess: FieldTable) -> Result<Option<Form>, Failure> {
    let mut form = Form::of(guess);
    for _ in 0..PROBES_MAX {
        match scratch.queue(queue, &form).await {
            Ok(()) => return Ok(Some(form)),
            Err(failure) if failure.is_inequivalent() => match Difference::of(failure.sentence()) {
                Some(difference) if form.follow(&difference) => {}
                _ => return Ok(None),
            },
            Err(failure) if failure.is_refused() => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

/// Is it only that this user may use it and not make it?
pub(crate) fn may_not_make(failure: &Failure) -> bool {
    failure.code() == Some(lapin::protocol::AMQPSoftError::ACCESSREFUSED.get_id())
}

fn missing(what: &str) -> Failure {
    Failure::refused(format!("{what} is not there, and `topology = \"verify\"` makes nothing: make it, or set `topology = \"declare\"`"))
}

pub(crate) fn other_exchange(name: &str, failure: Failure) -> Failure {
    let sentence = match Difference::of(failure.sentence()) {
        Some(difference) => format!("exchange `{name}` is another one: {}", difference.sentence()),
        None => failure.sentence().to_owned(),
    };
    failure.explained(format!("{sentence}; take another exchange, or delete that one if nobody uses it"))
}

/// What is different, and how to get away from it without losing what waits.
pub(crate) fn other_queue(name: &str, failure: Failure) -> Failure {
    let sentence = match Difference::of(failure.sentence()) {
        Some(difference) => format!("queue `{name}` was made in another way: {}", difference.sentence()),
        None => failure.sentence().to_owned(),
    };
    failure.explained(format!(
        "{sentence}; adopt it as it is with `queue = \"{name}\"` in the route; to leave it later without loss, give the route another `queue`, and let a \
         second router with `topology = \"off\"` and `queue = \"{name}\"` handle what waits in this one"
    ))
}
