//! What is bound: remembered, declared with each session, and declared again when something of it seems to be gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{PatternTrie, RouteName, RoutingKey, Subscription};
use tokio::sync::Notify;

use crate::{
    AmqpOptions, Topology,
    bindings::Bindings,
    connection::{Bus, OnSession, Session},
    failure::Failure,
    names,
    notes::Notes,
    publisher::Publisher,
    topology,
};

/// Between two declarations that are made on suspicion.
const MEND_EVERY: Duration = Duration::from_secs(2);

/// A queue whose machine is down is looked for again after so long.
const REACH_EVERY: Duration = Duration::from_secs(2);

/// What is refused of routes is shown under it.
const TOPIC: &str = "routes";

/// Routes whose queue is on a machine that is down are shown under it.
const OUT_OF_REACH: &str = "routes out of reach";

/// The complete set of subscriptions.
pub(crate) struct Bound {
    options: Arc<AmqpOptions>,
    bindings: Arc<Bindings>,
    notes: Arc<Notes>,
    /// None before the first `bind`: then nobody knows what is not wanted any more, and nothing may be taken away.
    wanted: Mutex<Option<Vec<Subscription>>>,
    /// The patterns of all of them; as `wanted`.
    patterns: Mutex<Option<PatternTrie<()>>>,
    /// Routes whose queue is on a machine that is down, and what the broker said of it.
    out_of_reach: Mutex<BTreeMap<RouteName, String>>,
    /// There is one.
    reach_again: Notify,
    /// Two declarations at once would get into each other's way.
    declaring: tokio::sync::Mutex<()>,
}

impl Bound {
    pub(crate) fn new(options: Arc<AmqpOptions>, bindings: Arc<Bindings>, notes: Arc<Notes>) -> Self {
        Self {
            options,
            bindings,
            notes,
            wanted: Mutex::default(),
            patterns: Mutex::default(),
            out_of_reach: Mutex::default(),
            reach_again: Notify::new(),
            declaring: tokio::sync::Mutex::default(),
        }
    }

    /// Makes `subscriptions` the set that is declared from now on, and declares it where `session` is there; a set that is refused changes
    /// nothing: the one before stays, and what the refused one has added to it is taken away again.
    ///
    /// # Errors
    ///
    /// What is refused of the set; or why it cannot be declared now, and is with the next session.
    pub(crate) async fn bind(&self, subscriptions: &[Subscription], session: Option<Session>, away: impl FnOnce() -> Failure) -> Result<(), Failure> {
        let before = self.replace(Some(subscriptions.to_vec()));
        let answer = match &session {
            Some(session) => self.declare(session).await,
            None => Err(away()),
        };
        if answer.as_ref().is_err_and(Failure::is_refused) {
            let is_set = before.is_some();
            self.replace(before);
            if is_set
                && let Some(session) = &session
                && let Err(failure) = self.declare(session).await
            {
                tracing::warn!("what is bound still could not be declared again: {failure}");
            }
        }
        answer
    }

    fn replace(&self, wanted: Option<Vec<Subscription>>) -> Option<Vec<Subscription>> {
        let patterns = wanted.as_ref().map(|wanted| {
            let mut patterns = PatternTrie::new();
            for pattern in wanted.iter().flat_map(|wanted| &wanted.patterns) {
                patterns.insert(pattern, ());
            }
            patterns
        });
        *self.patterns.lock().unwrap_or_else(PoisonError::into_inner) = patterns;
        std::mem::replace(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner), wanted)
    }

    pub(crate) fn wanted(&self) -> Vec<Subscription> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Does a bound route listen to this key? `None` before the first `bind`.
    pub(crate) fn wants(&self, key: &RoutingKey) -> Option<bool> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|patterns| !patterns.matches(key).is_empty())
    }

    /// The queue of a bound route.
    pub(crate) fn queue_of(&self, route: &RouteName) -> Option<String> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().find(|wanted| wanted.route == *route).map(names::queue_of)
    }

    /// Is it a bound route whose queue several routers share, so that it has no order?
    pub(crate) fn is_shared(&self, route: &RouteName) -> bool {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().any(|wanted| wanted.route == *route && wanted.queue.parallel)
    }

    /// Why an event with this key would not come to all who want it, although the broker takes it: the queue of one is on a machine that
    /// is down, and the broker passes that over in silence where another queue takes the event.
    pub(crate) fn out_of_reach(&self, key: &RoutingKey) -> Option<String> {
        let out_of_reach = self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner);
        if out_of_reach.is_empty() {
            return None;
        }
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanting = wanted.iter().flatten().filter(|wanted| wanted.patterns.iter().any(|pattern| pattern.matches(key)));
        wanting.find_map(|wanted| out_of_reach.get(&wanted.route).map(|why| out_of_reach_sentence(&wanted.route, why)))
    }

    /// Remembers that a queue cannot be taken up, until it is declared again.
    pub(crate) fn lose_sight_of(&self, route: &RouteName, failure: &Failure) {
        self.see(|out_of_reach| drop(out_of_reach.insert(route.clone(), failure.to_string())));
    }

    /// Remembers that it can.
    pub(crate) fn regain_sight_of(&self, route: &RouteName) {
        self.see(|out_of_reach| drop(out_of_reach.remove(route)));
    }

    /// Changes what is out of reach in one step, since routes find out side by side, and tells what is new of it.
    fn see(&self, change: impl FnOnce(&mut BTreeMap<RouteName, String>)) {
        let mut now = self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner);
        let before = now.clone();
        change(&mut now);
        if *now != before {
            for (route, why) in now.iter().filter(|(route, _)| !before.contains_key(*route)) {
                tracing::warn!(route = route.as_str(), "{}", out_of_reach_sentence(route, why));
            }
            for route in before.keys().filter(|route| !now.contains_key(*route)) {
                tracing::info!(route = route.as_str(), "route `{route}`: the machine of its queue is back, or its queue is another one");
            }
            self.notes.set(OUT_OF_REACH, now.iter().map(|(route, why)| out_of_reach_sentence(route, why)).collect());
        }
        if !now.is_empty() {
            self.reach_again.notify_one();
        }
    }

    /// Resolves a while after a queue was found to be out of reach.
    async fn reach_again(&self) {
        self.reach_again.notified().await;
        tokio::time::sleep(REACH_EVERY).await;
    }

    /// Makes the broker's side what is wanted. Fails with what the broker refuses of one route as well, though the others stand then.
    pub(crate) async fn declare(&self, session: &Session) -> Result<(), Failure> {
        match self.make(session).await?.into_iter().next() {
            Some((route, failure)) => {
                let sentence = format!("route `{route}`: {failure}");
                Err(failure.explained(sentence))
            }
            None => Ok(()),
        }
    }

    /// Returns what was refused; everything else stands.
    async fn make(&self, session: &Session) -> Result<Vec<(RouteName, Failure)>, Failure> {
        let _one = self.declaring.lock().await;
        let Some(wanted) = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(Vec::new()) };
        let declared = topology::declare(session, &self.options, &wanted, &self.bindings).await?;
        for made in &declared.made {
            tracing::info!("{made}");
        }
        for note in &declared.notes {
            tracing::warn!("{note}");
        }
        // Where nothing is looked at, only who takes a queue up knows.
        if self.options.topology != Topology::Off {
            let out_of_reach = declared.out_of_reach.into_iter().map(|(route, failure)| (route, failure.to_string())).collect();
            self.see(|before| *before = out_of_reach);
        }
        self.notes.set(TOPIC, declared.refused.iter().map(|(route, failure)| format!("route `{route}` gets nothing: {failure}")).collect());
        Ok(declared.refused)
    }

    /// Runs beside, and declares again what seems to be gone.
    pub(crate) async fn mend(self: Arc<Self>, bus: Arc<Bus>, publisher: Arc<Publisher>) {
        loop {
            let is_suspected = tokio::select! {
                () = publisher.suspects() => self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner).is_empty(),
                () = self.reach_again() => false,
                () = bus.closing() => return,
            };
            if let Some(session) = bus.now() {
                if is_suspected {
                    tracing::warn!("something on the broker seems to be gone; what is bound is declared again");
                }
                if let Err(failure) = self.declare(&session).await {
                    tracing::warn!("not all could be declared again: {failure}");
                    // What broke off has not asked again for what is out of reach.
                    self.see(|_| ());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(MEND_EVERY) => {}
                () = bus.closing() => return,
            }
        }
    }
}

/// What is said of a route whose queue is on a machine that is down.
fn out_of_reach_sentence(route: &RouteName, why: &str) -> String {
    format!("route `{route}` gets nothing until the machine of its queue is back, and events that it wants are not taken meanwhile: {why}")
}

#[async_trait]
impl OnSession for Bound {
    async fn ready(&self, session: &Session) -> Result<(), Failure> {
        // One route that is refused must not keep the others from the broker. Whoever binds is told; later it is said here only.
        for (route, failure) in self.make(session).await? {
            tracing::error!(route = route.as_str(), "route `{route}` gets nothing: {failure}");
        }
        Ok(())
    }
}
