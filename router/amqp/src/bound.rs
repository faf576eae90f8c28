//! What is bound: remembered, declared with each session, and declared again when something of it seems to be gone.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use router_api::{PatternTrie, RouteName, RoutingKey, Subscription};

use crate::{
    AmqpOptions,
    bindings::Bindings,
    connection::{Bus, OnSession, Session},
    failure::Failure,
    names,
    notes::Notes,
    publisher::Publisher,
    reach::Reach,
    standing::Standing,
    topology::{self, Declared, Wish},
};

/// Between two declarations that are made on suspicion, or since the one before broke off.
const MEND_EVERY: Duration = Duration::from_secs(2);

/// The same while one after the other fails.
const MEND_MAX: Duration = Duration::from_secs(30);

/// What is refused of routes is shown under it.
const TOPIC: &str = "routes";

/// The complete set of subscriptions.
pub(crate) struct Bound {
    options: Arc<AmqpOptions>,
    bindings: Arc<Bindings>,
    notes: Arc<Notes>,
    standing: Arc<Standing>,
    reach: Arc<Reach>,
    wanted: Mutex<Wanted>,
    /// Two declarations at once would get into each other's way.
    declaring: tokio::sync::Mutex<()>,
    /// Bindings that nobody wants any more wait until all routes are within reach.
    left_over: AtomicBool,
    /// Routes of which the broker has refused something in the last declaration.
    refused: Mutex<BTreeSet<RouteName>>,
}

/// A set and its number.
#[derive(Clone, Default)]
struct Wanted {
    /// None before the first `bind`: then nobody knows what is not wanted any more, and nothing may be taken away.
    subscriptions: Option<Arc<[Subscription]>>,
    /// The patterns of all of them.
    patterns: Option<Arc<PatternTrie<()>>>,
    number: u64,
    /// The highest number that was given.
    last: u64,
}

impl Wanted {
    fn all(&self) -> &[Subscription] {
        self.subscriptions.as_deref().unwrap_or_default()
    }
}

impl Bound {
    pub(crate) fn new(options: Arc<AmqpOptions>, bindings: Arc<Bindings>, notes: Arc<Notes>, standing: Arc<Standing>) -> Self {
        let reach = Arc::new(Reach::new(Arc::clone(&options), Arc::clone(&notes), Arc::clone(&standing)));
        Self {
            options,
            bindings,
            notes,
            standing,
            reach,
            wanted: Mutex::default(),
            declaring: tokio::sync::Mutex::default(),
            left_over: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }

    /// Makes `subscriptions` the set that is declared from now on, and declares it where there is a session; a set that is refused changes
    /// nothing: the one before stays, and what the refused one has added to it is taken away again. A session that comes in this very
    /// moment has asked before what is wanted; [`Bound::mend`] declares it then.
    ///
    /// # Errors
    ///
    /// What is refused of the set; or why it cannot be declared now, and is as soon as it can.
    pub(crate) async fn bind(&self, subscriptions: &[Subscription], bus: &Bus, away: impl FnOnce() -> Failure) -> Result<(), Failure> {
        let _declaring = self.standing.declaring();
        let before = self.want(subscriptions);
        let session = bus.now();
        let answer = match &session {
            Some(session) => self.declare(session).await,
            None => Err(away()),
        };
        match &answer {
            Err(failure) if failure.is_refused() => {
                let is_set = before.subscriptions.is_some();
                self.want_as_before(before);
                if is_set
                    && let Some(session) = &session
                    && let Err(failure) = self.declare(session).await
                {
                    tracing::warn!("what is bound still could not be declared again: {failure}");
                    self.declare_again();
                }
            }
            Err(failure) if session.is_some() => tracing::warn!("what the routes want could not be bound, and is tried again: {failure}"),
            _ => {}
        }
        answer
    }

    /// Returns what was wanted before.
    fn want(&self, subscriptions: &[Subscription]) -> Wanted {
        let mut patterns = PatternTrie::new();
        for pattern in subscriptions.iter().flat_map(|wanted| &wanted.patterns) {
            patterns.insert(pattern, ());
        }
        let mut wanted = self.lock();
        let number = wanted.last + 1;
        let set = Wanted { subscriptions: Some(subscriptions.into()), patterns: Some(Arc::new(patterns)), number, last: number };
        self.standing.want(number);
        self.reach.keep(subscriptions);
        std::mem::replace(&mut *wanted, set)
    }

    fn want_as_before(&self, before: Wanted) {
        let mut wanted = self.lock();
        let last = wanted.last;
        self.standing.want(before.number);
        self.reach.keep(before.all());
        *wanted = Wanted { last, ..before };
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is out of reach.
    pub(crate) fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    pub(crate) fn wanted(&self) -> Vec<Subscription> {
        self.lock().all().to_vec()
    }

    /// The same with the number of the set.
    pub(crate) fn set(&self) -> (u64, Arc<[Subscription]>) {
        let wanted = self.lock();
        (wanted.number, wanted.subscriptions.clone().unwrap_or_default())
    }

    /// Is this set wanted, and was it declared with this session?
    pub(crate) fn stands(&self, epoch: u64, set: u64) -> bool {
        self.lock().number == set && self.standing.stands(epoch, set)
    }

    /// Was all of a route made that is wanted of it?
    pub(crate) fn is_made(&self, subscription: &Subscription) -> bool {
        let is_refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(&subscription.route);
        !is_refused && self.reach.of_route(&subscription.route).is_none()
    }

    /// Nobody declares anything until what is returned is dropped.
    pub(crate) async fn undisturbed(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.declaring.lock().await
    }

    pub(crate) fn is_any_wanted(&self) -> bool {
        !self.lock().all().is_empty()
    }

    /// What a bound route wants.
    pub(crate) fn subscription(&self, route: &RouteName) -> Option<Subscription> {
        self.lock().all().iter().find(|wanted| wanted.route == *route).cloned()
    }

    /// Does its route want the same of the broker now?
    pub(crate) fn is_wanted_as(&self, subscription: &Subscription) -> bool {
        self.lock().all().iter().any(|now| now.route == subscription.route && now.patterns == subscription.patterns && now.queue == subscription.queue)
    }

    /// Does a bound route listen to this key? `None` before the first `bind`.
    pub(crate) fn wants(&self, key: &RoutingKey) -> Option<bool> {
        let patterns = self.lock().patterns.clone();
        patterns.map(|patterns| !patterns.matches(key).is_empty())
    }

    /// The queue of a bound route.
    pub(crate) fn queue_of(&self, route: &RouteName) -> Option<String> {
        self.lock().all().iter().find(|wanted| wanted.route == *route).map(names::queue_of)
    }

    /// Is it a bound route whose queue several routers share, so that it has no order?
    pub(crate) fn is_shared(&self, route: &RouteName) -> bool {
        self.lock().all().iter().any(|wanted| wanted.route == *route && wanted.queue.parallel)
    }

    /// May a second consumer be at the route's queue for a moment, without bringing anything out of order? Of somebody else's queue nobody
    /// knows whether it has a single active consumer.
    pub(crate) fn takes_a_second(&self, route: &RouteName) -> bool {
        self.lock().all().iter().any(|wanted| wanted.route == *route && (wanted.queue.parallel || wanted.queue.name.is_none()))
    }

    /// Why an event with this key would not come to all who want it, although the broker takes it.
    pub(crate) fn out_of_reach(&self, key: &RoutingKey) -> Option<String> {
        if self.reach.is_all_in_reach() {
            return None;
        }
        self.reach.hides(key, self.lock().all())
    }

    /// Remembers that a queue cannot be taken up, until it is found again.
    pub(crate) fn lose_sight_of(&self, route: &RouteName, failure: &Failure) {
        if let Some(subscription) = self.subscription(route) {
            self.reach.lose(&subscription, failure);
        }
    }

    /// The connection ended while a queue was about to be taken up.
    pub(crate) fn cut_off(&self, route: &RouteName, failure: &Failure) {
        if let Some(subscription) = self.subscription(route) {
            self.reach.strike_taking(&subscription, failure);
        }
    }

    /// A route was declared that was out of reach.
    pub(crate) fn found(&self, route: &RouteName) {
        self.reach.find(route);
        if self.reach.is_all_in_reach() && self.left_over.load(Ordering::Acquire) {
            self.declare_again();
        }
    }

    /// Has all of it declared once more.
    pub(crate) fn declare_again(&self) {
        self.standing.declare_again();
    }

    /// Makes the broker's side what is wanted. Fails with what the broker refuses of one route as well, though the others stand then.
    pub(crate) async fn declare(&self, session: &Session) -> Result<(), Failure> {
        match self.make(session, true).await?.into_iter().next() {
            Some((route, failure)) => {
                let sentence = format!("route `{route}`: {failure}");
                Err(failure.explained(sentence))
            }
            None => Ok(()),
        }
    }

    /// Returns what was refused; everything else stands, is out of reach, or is asked for beside.
    async fn make(&self, session: &Session, waits: bool) -> Result<Vec<(RouteName, Failure)>, Failure> {
        let _one = self.declaring.lock().await;
        let wanted = self.lock().clone();
        let Some(subscriptions) = wanted.subscriptions else { return Ok(Vec::new()) };
        let left_out = self.reach.left_out(&subscriptions);
        let wish = Wish { wanted: &subscriptions, left_out: &left_out, waits };
        let mut declared = Declared::default();
        let result = topology::declare(session, &self.options, wish, &self.bindings, &mut declared).await;
        for made in &declared.made {
            tracing::info!("{made}");
        }
        for note in &declared.notes {
            tracing::warn!("{note}");
        }
        if result.is_err() {
            // Of a connection that ended only this is certain: what its end was said to be for.
            let (culprits, others): (Vec<_>, Vec<_>) = declared.out_of_reach.drain(..).partition(|(_, failure)| failure.ends_connection());
            declared.out_of_reach = culprits;
            declared.unsettled.extend(others.into_iter().map(|(subscription, _)| subscription));
        }
        // Of another set than is wanted by now nothing of this counts.
        for (subscription, failure) in declared.out_of_reach.iter().filter(|(subscription, _)| self.is_wanted_as(subscription)) {
            self.reach.lose(subscription, failure);
        }
        declared.unsettled.retain(|subscription| self.is_wanted_as(subscription));
        if let Err(failure) = result {
            if session.is_over() {
                self.reach.strike(&declared.unsettled, &failure);
            }
            return Err(failure);
        }
        self.reach.absolve();
        declared.unsettled.iter().for_each(|subscription| self.reach.doubt(subscription));
        self.left_over.store(declared.left_over, Ordering::Release);
        self.notes.set(TOPIC, declared.refused.iter().map(|(route, failure)| format!("route `{route}` gets nothing: {failure}")).collect());
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = declared.refused.iter().map(|(route, _)| route.clone()).collect();
        self.standing.declared(session.epoch(), wanted.number);
        Ok(declared.refused)
    }

    /// Resolves when what is wanted does not stand, and nobody is about to declare it.
    async fn undeclared(&self, bus: &Bus) -> Session {
        let mut changes = bus.changes();
        loop {
            if let Some(session) = bus.now().filter(|session| self.standing.is_to_be_declared(session.epoch())) {
                return session;
            }
            changes.changed().await;
        }
    }

    /// Runs beside, and declares what was not, or seems to be gone.
    pub(crate) async fn mend(self: Arc<Self>, bus: Arc<Bus>, publisher: Arc<Publisher>) {
        let mut wait = MEND_EVERY;
        let mut said = None;
        loop {
            let session = tokio::select! {
                session = self.undeclared(&bus) => Some(session),
                () = publisher.suspects() => {
                    let session = bus.now();
                    if session.is_some() {
                        tracing::warn!("something on the broker seems to be gone; what is bound is declared again");
                    }
                    session
                }
                () = bus.closing() => return,
            };
            if let Some(session) = session {
                match self.declare(&session).await {
                    Ok(()) => (wait, said) = (MEND_EVERY, None),
                    Err(failure) => {
                        if !session.is_over() && said.as_deref() != Some(failure.sentence()) {
                            tracing::warn!("not all could be declared again: {failure}");
                            said = Some(failure.sentence().to_owned());
                        }
                        tokio::select! {
                            () = tokio::time::sleep(wait - MEND_EVERY.min(wait)) => {}
                            () = session.over() => {}
                            () = bus.closing() => return,
                        }
                        wait = if session.is_over() { MEND_EVERY } else { (wait * 2).min(MEND_MAX) };
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(MEND_EVERY) => {}
                () = bus.closing() => return,
            }
        }
    }
}

#[async_trait]
impl OnSession for Bound {
    async fn ready(&self, session: &Session) -> Result<(), Failure> {
        // One route that is refused, or that the broker does not answer for, must not keep the others from the broker. Whoever binds is
        // told; later it is said here only.
        for (route, failure) in self.make(session, false).await? {
            tracing::error!(route = route.as_str(), "route `{route}` gets nothing: {failure}");
        }
        Ok(())
    }
}
