//! What is bound: remembered, declared with each session, and declared again when something of it seems to be gone.

use std::{
    sync::{Arc, Mutex, PoisonError},
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
    topology,
};

/// Between two declarations that are made on suspicion.
const MEND_EVERY: Duration = Duration::from_secs(2);

/// What is refused of routes is shown under it.
const TOPIC: &str = "routes";

/// The complete set of subscriptions.
pub(crate) struct Bound {
    options: Arc<AmqpOptions>,
    bindings: Arc<Bindings>,
    notes: Arc<Notes>,
    /// None before the first `bind`: then nobody knows what is not wanted any more, and nothing may be taken away.
    wanted: Mutex<Option<Vec<Subscription>>>,
    /// The patterns of all of them; as `wanted`.
    patterns: Mutex<Option<PatternTrie<()>>>,
    /// Two declarations at once would get into each other's way.
    declaring: tokio::sync::Mutex<()>,
}

impl Bound {
    pub(crate) fn new(options: Arc<AmqpOptions>, bindings: Arc<Bindings>, notes: Arc<Notes>) -> Self {
        Self { options, bindings, notes, wanted: Mutex::default(), patterns: Mutex::default(), declaring: tokio::sync::Mutex::default() }
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
        self.notes.set(TOPIC, declared.refused.iter().map(|(route, failure)| format!("route `{route}` gets nothing: {failure}")).collect());
        Ok(declared.refused)
    }

    /// Runs beside, and declares again what seems to be gone.
    pub(crate) async fn mend(self: Arc<Self>, bus: Arc<Bus>, publisher: Arc<Publisher>) {
        loop {
            tokio::select! {
                () = publisher.suspects() => {}
                () = bus.closing() => return,
            }
            if let Some(session) = bus.now() {
                tracing::warn!("something on the broker seems to be gone; what is bound is declared again");
                if let Err(failure) = self.declare(&session).await {
                    tracing::warn!("not all could be declared again: {failure}");
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
        // One route that is refused must not keep the others from the broker. Whoever binds is told; later it is said here only.
        for (route, failure) in self.make(session).await? {
            tracing::error!(route = route.as_str(), "route `{route}` gets nothing: {failure}");
        }
        Ok(())
    }
}
