//! Routes whose queue is out of reach: on a machine that is down, or one that the broker does not answer for.
//!
//! Brokers tell it in many ways. Some refuse the question at once, some let it run for a minute into a time limit of their own, some
//! never answer, and some end the channel or even the connection. Whatever it is must cost that route alone. So such a route is left out
//! when all others are declared, and is asked for here, beside them: on a channel of its own, or on a connection of its own once
//! it has cost one that others use. Until it is found, nobody takes its queue up, and no event is taken in that it wants.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use router_api::{RouteName, RoutingKey, Subscription};
use tokio::{
    sync::Notify,
    task::{Id, JoinSet},
    time::Instant,
};

use crate::{
    AmqpOptions, Topology,
    bound::Bound,
    connection::{Bus, Session},
    dial::dial,
    failure::{Failure, LIMIT, within},
    names,
    notes::Notes,
    scratch::Scratch,
    standing::Standing,
    topology::{self, One},
};

/// A queue that is out of reach is looked for again after so long.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The longest that is waited before one is found that costs a connection each time that it is taken up.
const COSTLY_EVERY: Duration = Duration::from_secs(300);

/// Routes that are asked for at once: each holds a channel, for as long as the broker thinks about it.
const ASKED_MAX: usize = 32;

/// So often a connection may end while a route is asked for, before that is taken for the reason.
const STRIKES_MAX: u32 = 2;

/// Such routes are shown under it.
const TOPIC: &str = "routes out of reach";

/// See the head of this file.
pub(crate) struct Reach {
    options: Arc<AmqpOptions>,
    notes: Arc<Notes>,
    standing: Arc<Standing>,
    hidden: Mutex<BTreeMap<RouteName, Hidden>>,
    /// Connections that ended, one after the other, while a route was asked for.
    strikes: Mutex<BTreeMap<RouteName, u32>>,
    /// Connections that a route has cost since it was last taken up.
    costs: Mutex<BTreeMap<RouteName, u32>>,
    /// Connections that ended while a route was about to be taken up, since it last was.
    taking: Mutex<BTreeMap<RouteName, u32>>,
    changed: Notify,
}

/// A route of which nobody knows that its queue is there.
#[derive(Debug, Clone)]
struct Hidden {
    queue: String,
    why: Why,
    /// Its question has cost a connection.
    alone: bool,
    /// Connections that ended while it was asked for here.
    strikes: u32,
    /// When it is asked for again.
    at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// The answer takes longer than others may wait for it.
    Slow,
    /// The broker says so.
    Down(String),
    /// The broker says nothing, or something that helps nobody.
    Mute(String),
}

impl Why {
    fn of(failure: &Failure) -> Self {
        if failure.is_out_of_reach() { Self::Down(failure.to_string()) } else { Self::Mute(failure.to_string()) }
    }
}

impl Hidden {
    /// What is said of it, once there is something to say.
    fn sentence(&self, route: &RouteName) -> Option<String> {
        let (until, why) = match &self.why {
            Why::Slow => return None,
            Why::Down(why) => ("the machine of its queue is back", why),
            Why::Mute(why) => ("the broker answers for its queue again", why),
        };
        Some(format!("route `{route}` gets nothing until {until}, and events that it wants are not taken meanwhile: {why}"))
    }
}

impl Reach {
    pub(crate) fn new(options: Arc<AmqpOptions>, notes: Arc<Notes>, standing: Arc<Standing>) -> Self {
        Self {
            options,
            notes,
            standing,
            hidden: Mutex::default(),
            strikes: Mutex::default(),
            costs: Mutex::default(),
            taking: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn hidden(&self) -> MutexGuard<'_, BTreeMap<RouteName, Hidden>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_all_in_reach(&self) -> bool {
        self.hidden().is_empty()
    }

    /// Why an event with this key would not come to all of `wanted` who want it, although the broker takes it: the broker passes over a
    /// queue on a machine that is down in silence where another queue takes the event.
    pub(crate) fn hides(&self, key: &RoutingKey, wanted: &[Subscription]) -> Option<String> {
        let hidden = self.hidden();
        if hidden.is_empty() {
            return None;
        }
        let mut wanting = wanted.iter().filter(|wanted| wanted.patterns.iter().any(|pattern| pattern.matches(key)));
        wanting.find_map(|wanted| hidden.get(&wanted.route).map(|hidden| Self::told(&wanted.route, hidden)))
    }

    /// Why the queue of a route is not to be asked for anything.
    pub(crate) fn of_route(&self, route: &RouteName) -> Option<String> {
        self.hidden().get(route).map(|hidden| Self::told(route, hidden))
    }

    fn told(route: &RouteName, hidden: &Hidden) -> String {
        hidden.sentence(route).unwrap_or_else(|| format!("route `{route}`: the broker has not answered yet whether its queue is there"))
    }

    /// Those of `wanted` that are asked for here and nowhere else.
    pub(crate) fn left_out(&self, wanted: &[Subscription]) -> BTreeSet<RouteName> {
        let hidden = self.hidden();
        let is_left_out = |wanted: &&Subscription| hidden.get(&wanted.route).is_some_and(|hidden| hidden.queue == names::queue_of(wanted));
        wanted.iter().filter(is_left_out).map(|wanted| wanted.route.clone()).collect()
    }

    /// Another set is wanted: what a route of before is about is nobody's business any more.
    pub(crate) fn keep(&self, wanted: &[Subscription]) {
        self.change(|hidden| {
            hidden.retain(|route, hidden| wanted.iter().any(|wanted| wanted.route == *route && names::queue_of(wanted) == hidden.queue));
        });
    }

    /// A queue cannot be asked for anything now.
    pub(crate) fn lose(&self, subscription: &Subscription, failure: &Failure) {
        self.hide(subscription, Why::of(failure), failure.ends_connection());
    }

    /// It still cannot, as a connection has found that nobody else uses.
    fn lose_again(&self, subscription: &Subscription, failure: &Failure) {
        self.hide(subscription, Why::of(failure), false);
    }

    /// The answer takes long.
    pub(crate) fn doubt(&self, subscription: &Subscription) {
        self.hide(subscription, Why::Slow, false);
    }

    fn hide(&self, subscription: &Subscription, why: Why, alone: bool) {
        let queue = names::queue_of(subscription);
        let wait = match why {
            Why::Slow => Duration::ZERO,
            _ if alone => {
                let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
                let cost = costs.entry(subscription.route.clone()).or_default();
                *cost += 1;
                LOOK_EVERY.saturating_mul(1 << (*cost - 1).min(10)).min(COSTLY_EVERY)
            }
            _ => LOOK_EVERY,
        };
        let at = Instant::now() + wait;
        self.change(|hidden| {
            // Whoever has cost a connection once is not tried on another one until it is found.
            let before = hidden.get(&subscription.route).filter(|before| before.queue == queue);
            let (alone, strikes) = (alone || before.is_some_and(|before| before.alone), before.map_or(0, |before| before.strikes));
            hidden.insert(subscription.route.clone(), Hidden { queue, why, alone, strikes, at });
        });
        self.changed.notify_one();
    }

    /// A connection ended while these were asked for. Mostly that is no fault of theirs; the one that always has been among them is taken
    /// for the reason.
    pub(crate) fn strike(&self, open: &[Subscription], failure: &Failure) {
        let struck: Vec<&Subscription> = {
            let mut strikes = self.strikes.lock().unwrap_or_else(PoisonError::into_inner);
            strikes.retain(|route, _| open.iter().any(|open| open.route == *route));
            let mut is_struck = |open: &&Subscription| {
                let count = strikes.entry(open.route.clone()).or_default();
                *count += 1;
                *count >= STRIKES_MAX
            };
            open.iter().filter(|open| is_struck(open)).collect()
        };
        struck.into_iter().for_each(|subscription| self.hide(subscription, Why::of(failure), true));
    }

    /// A connection ended while a route was about to be taken up, after it was declared. It is the same with it as with [`Reach::strike`];
    /// that its queue can be asked for says nothing here.
    pub(crate) fn strike_taking(&self, subscription: &Subscription, failure: &Failure) {
        let count = {
            let mut taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
            let count = taking.entry(subscription.route.clone()).or_default();
            *count += 1;
            *count
        };
        if count >= STRIKES_MAX {
            self.hide(subscription, Why::of(failure), true);
        }
    }

    /// A route was taken up, and the connection lives.
    pub(crate) fn is_taken_up(&self, route: &RouteName) {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner).remove(route);
        self.costs.lock().unwrap_or_else(PoisonError::into_inner).remove(route);
    }

    /// A connection has lived through all questions.
    pub(crate) fn absolve(&self) {
        self.strikes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A queue is there.
    pub(crate) fn find(&self, route: &RouteName) {
        self.change(|hidden| drop(hidden.remove(route)));
    }

    /// Changes it in one step, since routes find out side by side, and tells what is new of it.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<RouteName, Hidden>)) {
        let mut now = self.hidden();
        let sentences = |hidden: &BTreeMap<RouteName, Hidden>| -> BTreeMap<RouteName, String> {
            hidden.iter().filter_map(|(route, hidden)| Some((route.clone(), hidden.sentence(route)?))).collect()
        };
        let before = sentences(&now);
        change(&mut now);
        let after = sentences(&now);
        if before != after {
            for (route, sentence) in after.iter().filter(|(route, _)| !before.contains_key(*route)) {
                tracing::warn!(route = route.as_str(), "{sentence}");
            }
            for route in before.keys().filter(|route| !after.contains_key(*route)) {
                tracing::info!(route = route.as_str(), "route `{route}`: the machine of its queue is back, or its queue is another one");
            }
            self.notes.set(TOPIC, after.into_values().collect());
        }
        self.standing.set_unsettled(now.iter().filter(|(_, hidden)| hidden.why == Why::Slow).map(|(route, _)| route.clone()).collect());
    }

    /// Those that are to be asked for now, and when the next one is.
    fn due(&self, under_way: &HashMap<Id, (RouteName, bool)>) -> (Vec<(RouteName, bool)>, Option<Instant>) {
        let now = Instant::now();
        let hidden = self.hidden();
        let waiting = || hidden.iter().filter(|(route, _)| !under_way.values().any(|(asked, _)| asked == *route));
        let due = waiting().filter(|(_, hidden)| hidden.at <= now).map(|(route, hidden)| (route.clone(), hidden.alone)).collect();
        let next = waiting().filter(|(_, hidden)| hidden.at > now).map(|(_, hidden)| hidden.at).min();
        (due, next)
    }

    /// It is asked for again after a while, whatever is known of it.
    fn put_off(&self, route: &RouteName) {
        if let Some(hidden) = self.hidden().get_mut(route) {
            hidden.at = Instant::now() + LOOK_EVERY;
        }
    }

    /// The connection ended while it was asked for. Mostly that is no fault of its own; the second time it is taken for one.
    fn cut_off(&self, route: &RouteName) {
        if let Some(hidden) = self.hidden().get_mut(route) {
            hidden.strikes += 1;
            hidden.alone |= hidden.strikes >= STRIKES_MAX;
            hidden.at = Instant::now() + LOOK_EVERY;
        }
    }

    /// Declares one route with `session`.
    async fn ask(&self, session: &Session, subscription: &Subscription) -> One {
        match self.options.topology {
            // Nothing is declared, and what is missing is found by who takes it up.
            Topology::Off => {
                let mut scratch = Scratch::new(session);
                let found = scratch.look(&names::queue_of(subscription)).await.map(drop);
                scratch.end().await;
                One { result: found, ..One::default() }
            }
            Topology::Declare | Topology::Verify => {
                let (scratch, one) = topology::one(Scratch::new(session), Arc::clone(&self.options), subscription.clone()).await;
                scratch.end().await;
                one
            }
        }
    }

    /// The same on a connection that nobody else uses.
    async fn ask_alone(&self, subscription: &Subscription) -> One {
        let connection = match dial(&self.options, &format!("{} (looking)", self.options.name)).await {
            Ok(connection) => Arc::new(connection),
            // That the broker is away is said by those who need it.
            Err(failure) => return One { result: Err(Failure::lost(failure.sentence())), ..One::default() },
        };
        let (session, over) = Session::new(0, Arc::clone(&connection));
        let one = self.ask(&session, subscription).await;
        over.cancel();
        if connection.status().connected() {
            // Nothing depends on this goodbye.
            let _ = within("goodbye", LIMIT, connection.close(200, "looked".into())).await;
        }
        one
    }
}

/// Runs beside until the bus is closed, and looks for what is out of reach.
pub(crate) async fn watch(bound: Arc<Bound>, bus: Arc<Bus>) {
    let reach = Arc::clone(bound.reach());
    let mut changes = bus.changes();
    let mut asking = JoinSet::new();
    // With what is asked for on a connection of its own.
    let mut under_way: HashMap<Id, (RouteName, bool)> = HashMap::new();
    loop {
        let mut next = None;
        if let Some(session) = bus.now() {
            let (due, at) = reach.due(&under_way);
            next = at;
            for (route, alone) in due {
                // One connection of that kind is enough.
                if asking.len() >= ASKED_MAX || (alone && under_way.values().any(|(_, alone)| *alone)) {
                    next = Some(Instant::now() + LOOK_EVERY);
                    continue;
                }
                let id = asking.spawn(one(Arc::clone(&bound), session.clone(), route.clone(), alone)).id();
                under_way.insert(id, (route, alone));
            }
        }
        tokio::select! {
            Some(ended) = asking.join_next_with_id(), if !asking.is_empty() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                if let Some((route, _)) = under_way.remove(&id)
                    && ended.is_err() {
                    reach.put_off(&route);
                }
            }
            () = reach.changed.notified() => {}
            () = changes.changed() => {}
            () = at(next) => {}
            () = bus.closing() => return,
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Asks for one route, and does what follows from the answer.
async fn one(bound: Arc<Bound>, session: Session, route: RouteName, alone: bool) {
    let reach = bound.reach();
    let Some(subscription) = bound.subscription(&route) else {
        reach.find(&route);
        return;
    };
    let One { made, notes, result } = if alone { reach.ask_alone(&subscription).await } else { reach.ask(&session, &subscription).await };
    made.iter().for_each(|made| tracing::info!("{made}"));
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    // Its set may have been another one meanwhile, with another queue for it or other patterns.
    if !bound.is_wanted_as(&subscription) {
        reach.put_off(&route);
        return;
    }
    match result {
        Ok(()) => bound.found(&route),
        // Said with all others that are refused.
        Err(failure) if failure.is_refused() && !failure.ends_connection() => {
            reach.find(&route);
            bound.declare_again();
        }
        Err(failure) if alone => reach.lose_again(&subscription, &failure),
        Err(failure) if !session.is_over() || failure.ends_connection() => reach.lose(&subscription, &failure),
        // What an ended connection says of it is nothing.
        Err(_) => reach.cut_off(&route),
    }
}
