//! The operator's desk: queues, dead letters, what would change, and the removal of what no route has any more.
//!
//! What AMQP cannot tell stays untold: of a queue it knows how many events wait in it, not how old they are nor how many are in
//! somebody's hands, and the steps of the ladder of waits belong to all routes together. So [`QueueStats::oldest`] is `None`,
//! [`QueueStats::waiting`] is 0, and [`QueueStats::in_flight`] is what the routes of this process have in hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lapin::options::QueueDeleteOptions;
use router_api::{
    Clock, Condition, DeadLetterQuery, DeliveryRecord, DeliveryState, FateRecord, PlanLine, QueueStats, RouteName, Store, StoredDeadLetter, Subscription,
    TransportAdmin, TransportError,
};

use crate::{
    AmqpOptions, AmqpTransport,
    bindings::Bindings,
    bound::Bound,
    connection::{Bus, Session},
    consumers::Consumers,
    dead_letters::{Held, Look, Wanted},
    names,
    plan::Plan,
    publisher::{PublishFailure, Publisher},
    scratch::{Scratch, short},
    waits, wire,
};

/// Dead letters listed if the query does not say.
const LISTED: u32 = 100;
/// For a session, where an operator waits for one.
const SESSION_LIMIT: Duration = Duration::from_secs(10);

/// What operators need of RabbitMQ.
pub(crate) struct Desk {
    options: Arc<AmqpOptions>,
    bus: Arc<Bus>,
    publisher: Arc<Publisher>,
    bound: Arc<Bound>,
    consumers: Arc<Consumers>,
    bindings: Arc<Bindings>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// One look at a time: the broker's lock keeps out other connections only.
    looking: tokio::sync::Mutex<()>,
    /// Letters that we have in hand while we look, which their queue does not count.
    in_hand: Mutex<BTreeMap<RouteName, u64>>,
}

impl Desk {
    pub(crate) fn new(
        options: Arc<AmqpOptions>,
        bus: Arc<Bus>,
        publisher: Arc<Publisher>,
        bound: Arc<Bound>,
        bindings: Arc<Bindings>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (consumers, looking, in_hand) = Default::default();
        Self { options, bus, publisher, bound, consumers, bindings, store, clock, looking, in_hand }
    }

    /// Counts what these have in hand.
    pub(crate) fn counting(self, consumers: Arc<Consumers>) -> Self {
        Self { consumers, ..self }
    }

    async fn session(&self) -> Result<Session, TransportError> {
        match tokio::time::timeout(SESSION_LIMIT, self.bus.session()).await {
            Ok(session) => session,
            Err(_) => Err(TransportError::Unavailable(self.bus.why_away())),
        }
    }

    /// Who asks often must not wait while the broker is away.
    fn session_now(&self) -> Result<Session, TransportError> {
        self.bus.now().ok_or_else(|| TransportError::Unavailable(self.bus.why_away()))
    }

    /// Every queue of every route that is bound, or was and is recorded.
    async fn queues_by_route(&self) -> BTreeMap<RouteName, BTreeSet<String>> {
        let mut queues: BTreeMap<RouteName, BTreeSet<String>> = BTreeMap::new();
        for wanted in self.bound.wanted() {
            queues.entry(wanted.route.clone()).or_default().insert(names::queue_of(&wanted));
        }
        match self.bindings.all().await {
            Ok(recorded) => {
                for (queue, recorded) in recorded {
                    // What a bound route had before is not what it takes from: `plan` tells of it.
                    if !queues.contains_key(&recorded.route) || self.bound.queue_of(&recorded.route).is_none() {
                        queues.entry(recorded.route).or_default().insert(queue);
                    }
                }
            }
            // The broker itself is well, and the bound routes are the most important ones.
            Err(error) => tracing::warn!(%error, "queues of routes that are off or gone are not shown"),
        }
        queues
    }

    /// Looks at the dead letters of one route and keeps those that are wanted.
    async fn look(&self, session: &Session, route: &RouteName, wanted: Wanted<'_>) -> Result<Option<Look>, TransportError> {
        let told = |count: u64| {
            self.in_hand().insert(route.clone(), count);
        };
        Look::take(session, route, wanted, self.clock.now(), told).await
    }

    async fn end(&self, route: &RouteName, look: Option<Look>) -> bool {
        let ended = match look {
            Some(look) => look.end().await,
            None => true,
        };
        self.in_hand().remove(route);
        ended
    }

    fn in_hand(&self) -> MutexGuard<'_, BTreeMap<RouteName, u64>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads letters of one route.
    async fn read(&self, session: &Session, route: &RouteName, wanted: Wanted<'_>) -> Result<Vec<StoredDeadLetter>, TransportError> {
        let _one = self.looking.lock().await;
        let look = self.look(session, route, wanted).await;
        match look {
            Ok(mut look) => {
                let letters = look.as_mut().map(|look| std::mem::take(&mut look.letters)).unwrap_or_default();
                self.end(route, look).await;
                Ok(letters.into_iter().map(|held| held.dead.stored).collect())
            }
            Err(error) => {
                self.in_hand().remove(route);
                Err(error)
            }
        }
    }

    /// Takes letters out of their queues, in the order of `ids`, after `first` was done with each; returns how many.
    async fn take_out(&self, ids: &[String], task: Task) -> Result<u64, TransportError> {
        let mut by_route: BTreeMap<RouteName, Vec<&String>> = BTreeMap::new();
        for id in ids {
            if let Some(route) = route_of(id) {
                by_route.entry(route).or_default().push(id);
            }
        }
        let session = self.session().await?;
        let mut total = 0;
        for (route, ids) in by_route {
            let _one = self.looking.lock().await;
            let wanted: BTreeSet<&str> = ids.iter().map(|id| id.as_str()).collect();
            let keep = |dead: &wire::Dead| wanted.contains(dead.stored.id.as_str());
            let look = match self.look(&session, &route, Wanted { keep: &keep, last: usize::MAX }).await {
                Ok(look) => look,
                Err(error) => {
                    self.in_hand().remove(&route);
                    return Err(so_far(total, task, error));
                }
            };
            let Some(mut look) = look else { continue };
            let mut found: BTreeMap<String, Held> = std::mem::take(&mut look.letters).into_iter().map(|held| (held.dead.stored.id.clone(), held)).collect();
            let mut done = Vec::new();
            let mut trouble = None;
            for id in ids {
                // An id that is named twice is one letter.
                let Some(held) = found.remove(id) else { continue };
                if let Err(error) = self.out(&route, &mut look, &held, task).await {
                    trouble = Some(error);
                    break;
                }
                done.push(held);
            }
            let is_certain = self.end(&route, Some(look)).await;
            total += done.len() as u64;
            if task == Task::Redrive {
                self.note_redriven(&route, &done).await;
            }
            if let Some(error) = trouble {
                return Err(so_far(total, task, error));
            }
            if !is_certain {
                let error = TransportError::Unavailable("the broker has not said that they are gone: some may still lie there".to_owned());
                return Err(so_far(total, task, error));
            }
        }
        Ok(total)
    }

    async fn out(&self, route: &RouteName, look: &mut Look, held: &Held, task: Task) -> Result<(), TransportError> {
        if task == Task::Redrive {
            let queue = self.bound.queue_of(route).unwrap_or_else(|| names::own_queue(route));
            // The return exchange takes what no queue wants to the lost ones, so that is asked first.
            if !look.has_queue(&queue).await? {
                return Err(TransportError::Refused(format!(
                    "route `{route}` has no queue `{queue}` on the broker: switch the route on first, or discard its dead letters"
                )));
            }
            let sent = waits::send(&self.publisher, &queue, held.dead.stored.body.clone(), wire::redriven(&held.dead), Duration::ZERO).await;
            sent.map_err(|failure| match failure {
                PublishFailure::Refused(why) => TransportError::Refused(why),
                PublishFailure::Nacked(why) => TransportError::Full(why),
                PublishFailure::Unavailable(why) | PublishFailure::Blocked(why) => TransportError::Unavailable(why),
            })?;
        }
        Ok(look.remove(held.tag).await?)
    }

    /// Nothing that was noted of earlier tries counts against them, and the archive shows that they wait. At worst it does not.
    async fn note_redriven(&self, route: &RouteName, done: &[Held]) {
        let identities: Vec<String> = done.iter().map(|held| held.dead.identity().to_owned()).collect();
        if identities.is_empty() {
            return;
        }
        let at = self.clock.now();
        let fate = |identity: &String| {
            let record = DeliveryRecord { route: route.clone(), state: DeliveryState::Queued, attempts: 0, at };
            FateRecord { identity: identity.clone(), record }
        };
        let noted = async {
            self.store.forget_attempts(route, &identities).await?;
            for identity in &identities {
                self.store.clear_suspect(route, identity).await?;
            }
            // An archive that is off has no events to tell it of.
            match self.options.archive {
                Some(_) => self.store.record_fates(identities.iter().map(fate).collect()).await,
                None => Ok(()),
            }
        };
        if let Err(error) = noted.await {
            tracing::warn!(route = route.as_str(), %error, "the store does not know that dead letters of route `{route}` were put back");
        }
    }
}

/// Why letters are taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Redrive,
    Discard,
}

/// Says how far it came before it failed.
fn so_far(done: u64, task: Task, error: TransportError) -> TransportError {
    if done == 0 {
        return error;
    }
    let was = match task {
        Task::Redrive => "put back",
        Task::Discard => "discarded",
    };
    let sentence = format!("{done} dead letters were {was}, then: {error}");
    match error {
        TransportError::Refused(_) => TransportError::Refused(sentence),
        TransportError::Full(_) => TransportError::Full(sentence),
        TransportError::Unavailable(_) | TransportError::Unsupported(_) => TransportError::Unavailable(sentence),
    }
}

/// The route that an id names.
fn route_of(id: &str) -> Option<RouteName> {
    id.split_once('.')?.0.parse().ok()
}

#[async_trait]
impl TransportAdmin for Desk {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        let session = self.session_now()?;
        let mut scratch = Scratch::new(&session);
        let mut stats = Vec::new();
        for (route, queues) in self.queues_by_route().await {
            let mut ready = 0;
            let mut exists = false;
            let is_hidden = self.bound.reach().of_route(&route).is_some();
            for queue in &queues {
                if is_hidden {
                    // Nobody can count what lies on a machine that is down; that it is, stands among the troubles.
                    exists = true;
                    continue;
                }
                match scratch.look_briefly(queue).await {
                    Ok(Some(count)) => {
                        ready += u64::from(count.ready);
                        exists = true;
                    }
                    Ok(None) => {}
                    // Whoever takes it up finds out and says so.
                    Err(failure) if failure.is_out_of_reach() || (failure.is_unanswered() && !session.is_over()) => exists = true,
                    Err(failure) => return Err(failure.into()),
                }
            }
            let lying = scratch.look(&names::dead_queue(&route)).await?.map(|count| u64::from(count.ready));
            let in_hand = self.in_hand().get(&route).copied().unwrap_or(0);
            let dead = lying.unwrap_or(0).max(in_hand);
            // Bound and not made yet, or recorded and long gone.
            if exists || lying.is_some() || self.bound.queue_of(&route).is_some() {
                let in_flight = self.consumers.in_hand(&route);
                stats.push(QueueStats { route, ready, waiting: 0, in_flight, dead, oldest: None });
            }
        }
        scratch.end().await;
        Ok(stats)
    }

    fn cannot_tell(&self) -> Option<&'static str> {
        Some(AmqpTransport::CANNOT_TELL)
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        let session = self.session().await?;
        let limit = query.limit.unwrap_or(LISTED) as usize;
        let keep = |dead: &wire::Dead| {
            let letter = &dead.stored.letter;
            let is_of_reason = query.reason.as_ref().is_none_or(|reason| letter.reason.name() == reason);
            let is_of_class = query.class.as_ref().is_none_or(|class| letter.last_class().is_some_and(|last| last.name() == class));
            is_of_reason && is_of_class
        };
        let routes = match &query.route {
            Some(route) => vec![route.clone()],
            None => self.queues_by_route().await.into_keys().collect(),
        };
        let mut letters: Vec<StoredDeadLetter> = Vec::new();
        for route in routes {
            let mut found = self.read(&session, &route, Wanted { keep: &keep, last: limit }).await?;
            // The queue has the oldest first.
            found.reverse();
            letters.append(&mut found);
            // Stable: letters of one burst have one time, and their order in the queue.
            letters.sort_by_key(|letter| std::cmp::Reverse(letter.letter.buried_at));
            letters.truncate(limit);
        }
        Ok(letters)
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        let Some(route) = route_of(id) else { return Ok(None) };
        let session = self.session().await?;
        let keep = |dead: &wire::Dead| dead.stored.id == id;
        Ok(self.read(&session, &route, Wanted { keep: &keep, last: 1 }).await?.pop())
    }

    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.take_out(ids, Task::Redrive).await
    }

    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.take_out(ids, Task::Discard).await
    }

    async fn remove_queue(&self, route: &RouteName) -> Result<u64, TransportError> {
        if self.bound.queue_of(route).is_some() {
            return Err(TransportError::Refused(format!("route `{route}` is bound: take it out of the configuration first")));
        }
        let session = self.session().await?;
        let own = names::own_queue(route);
        let store = |error: router_api::StoreError| TransportError::Unavailable(error.to_string());
        let recorded = self.bindings.of_route(route).await.map_err(store)?;
        let queues: BTreeSet<String> = recorded.iter().cloned().chain([own.clone()]).collect();
        let mut scratch = Scratch::new(&session);
        let mut removed = 0;
        for queue in queues {
            // One that was there before the route is its owner's to delete; the route only let it go.
            if queue == own {
                let Some(found) = scratch.look_surely(&queue).await? else {
                    self.bindings.forget(&queue).await.map_err(store)?;
                    continue;
                };
                if found.consumers > 0 {
                    let consumers = found.consumers;
                    return Err(TransportError::Refused(format!("queue `{queue}` still has {consumers} consumers: stop the route in every router first")));
                }
                removed += delete(&mut scratch, &queue).await?;
            }
            self.bindings.forget(&queue).await.map_err(store)?;
        }
        // Its dead letters are still there to be looked at.
        let dead = names::dead_queue(route);
        let _one = self.looking.lock().await;
        if scratch.look_surely(&dead).await?.is_some_and(|count| count.ready == 0 && count.consumers == 0) {
            delete(&mut scratch, &dead).await?;
        }
        scratch.end().await;
        Ok(removed)
    }

    fn condition(&self) -> Condition {
        self.bus.condition()
    }

    async fn plan(&self, subscriptions: &[Subscription]) -> Result<Vec<PlanLine>, TransportError> {
        let session = self.session().await?;
        Plan { options: &self.options, session: &session, bindings: &self.bindings }.of(subscriptions).await
    }
}

/// Deletes a queue; returns what was in it. Without the conditions of AMQP, `if-empty` and `if-unused`: quorum queues answer them by
/// closing the connection.
async fn delete(scratch: &mut Scratch, queue: &str) -> Result<u64, TransportError> {
    let name = short("queue", queue)?;
    let call = |channel: lapin::Channel| async move { channel.queue_delete(name, QueueDeleteOptions::default()).await };
    Ok(scratch.ask(&format!("deleting queue `{queue}`"), call).await?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_the_route_whose_queue_is_looked_at() {
        assert_eq!(route_of("ci-on-writes.00ff").map(|route| route.to_string()).as_deref(), Some("ci-on-writes"));
        for id in ["", "17", ".00ff", "No.00ff", "a b.00ff"] {
            assert_eq!(route_of(id), None, "{id}");
        }
    }
}
