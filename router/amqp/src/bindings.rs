//! Our own record of the bindings that we made. AMQP cannot list bindings, and a pattern that was taken from a route's `on` must lose
//! its binding while those of others stay.
//!
//! The record lies in the store as the state of a route named `amqp`, under a key that begins with a dot, which no plugin can reach;
//! there is one for each broker, virtual host and exchange. It is written before bindings are made and again when stale ones are gone:
//! after a crash in between it names too many, and to take away a binding that is not there does no harm.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use router_api::{RouteName, RoutingPattern, Store, StoreError, Subscription};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use crate::{AmqpOptions, names};

/// The route whose state the record is.
const KEEPER: &str = "amqp";

/// What we have bound, and would have to take away.
pub(crate) struct Bindings {
    store: Arc<dyn Store>,
    keeper: RouteName,
    key: String,
    /// As it was last read or written.
    known: tokio::sync::Mutex<Option<Record>>,
}

/// Queues by name.
type Record = BTreeMap<String, Recorded>;

/// One queue of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// Whose queue it is.
    pub(crate) route: RouteName,
    /// Bound, as far as we know.
    pub(crate) patterns: BTreeSet<RoutingPattern>,
}

/// A binding of ours that nobody wants any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stale {
    /// Whose it was.
    pub(crate) route: RouteName,
    /// The queue.
    pub(crate) queue: String,
    /// The binding key.
    pub(crate) pattern: RoutingPattern,
}

impl Bindings {
    /// The record for the broker of `options`, in `store`.
    pub(crate) fn new(store: Arc<dyn Store>, options: &AmqpOptions) -> Self {
        let keeper = KEEPER.parse().expect("the constant is a route name, as a test shows");
        Self { store, keeper, key: key_of(&options.url, &options.exchange), known: tokio::sync::Mutex::default() }
    }

    /// Every queue that we have bound, by name.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub(crate) async fn all(&self) -> Result<BTreeMap<String, Recorded>, StoreError> {
        self.read(&mut *self.known.lock().await).await
    }

    /// The queues that a route has or had, by name.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub(crate) async fn of_route(&self, route: &RouteName) -> Result<Vec<String>, StoreError> {
        Ok(self.all().await?.into_iter().filter(|(_, recorded)| recorded.route == *route).map(|(queue, _)| queue).collect())
    }

    /// To be called before `wanted`, the complete set, is bound: records it beside what is there already. Returns what is to be unbound
    /// once all of it is bound.
    ///
    /// # Errors
    ///
    /// When the store does not keep it. Then nothing may be unbound.
    pub(crate) async fn begin(&self, wanted: &[Subscription]) -> Result<Vec<Stale>, StoreError> {
        let mut known = self.known.lock().await;
        let before = self.read(&mut known).await?;
        let mut record = before.clone();
        for subscription in wanted {
            let recorded =
                record.entry(names::queue_of(subscription)).or_insert_with(|| Recorded { route: subscription.route.clone(), patterns: BTreeSet::new() });
            recorded.route = subscription.route.clone();
            recorded.patterns.extend(subscription.patterns.iter().cloned());
        }
        if record != before {
            self.write(&mut known, record.clone()).await?;
        }
        Ok(stale(&record, wanted))
    }

    /// To be called when `wanted` is bound and `unbound` is not any more. Queues stay recorded, with what waits in them, until
    /// [`Bindings::forget`].
    ///
    /// # Errors
    ///
    /// When the store does not keep it. Then it names too many, which does no harm.
    pub(crate) async fn finish(&self, unbound: &[Stale]) -> Result<(), StoreError> {
        if unbound.is_empty() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        let mut record = self.read(&mut known).await?;
        for Stale { queue, pattern, .. } in unbound {
            if let Some(recorded) = record.get_mut(queue) {
                recorded.patterns.remove(pattern);
            }
        }
        self.write(&mut known, record).await
    }

    /// A queue is gone, or nobody's business any more.
    ///
    /// # Errors
    ///
    /// When the store does not keep it.
    pub(crate) async fn forget(&self, queue: &str) -> Result<(), StoreError> {
        let mut known = self.known.lock().await;
        let mut record = self.read(&mut known).await?;
        match record.remove(queue) {
            Some(_) => self.write(&mut known, record).await,
            None => Ok(()),
        }
    }

    async fn read(&self, known: &mut Option<Record>) -> Result<Record, StoreError> {
        if let Some(record) = known {
            return Ok(record.clone());
        }
        let record = match self.store.state(&self.keeper, &self.key).await? {
            // What cannot be read is no reason to stop: then nothing is known to be ours.
            Some(value) => serde_json::from_value(value).unwrap_or_else(|error| {
                tracing::warn!(%error, "the record of our bindings cannot be read; bindings of patterns that were taken away since stay");
                Record::new()
            }),
            None => Record::new(),
        };
        Ok(known.insert(record).clone())
    }

    async fn write(&self, known: &mut Option<Record>, record: Record) -> Result<(), StoreError> {
        // Read again after a failure: nobody knows which of both the store has.
        *known = None;
        let value = serde_json::to_value(&record).map_err(|error| StoreError { message: format!("the record of our bindings: {error}"), full: false })?;
        self.store.set_state(&self.keeper, &self.key, Some(value)).await?;
        *known = Some(record);
        Ok(())
    }
}

fn stale(record: &Record, wanted: &[Subscription]) -> Vec<Stale> {
    let is_wanted = |queue: &str, pattern: &RoutingPattern| wanted.iter().any(|wanted| names::queue_of(wanted) == queue && wanted.patterns.contains(pattern));
    let of_queue = |(queue, recorded): (&String, &Recorded)| {
        let stale = recorded.patterns.iter().filter(|pattern| !is_wanted(queue, pattern));
        stale.map(|pattern| Stale { route: recorded.route.clone(), queue: queue.clone(), pattern: pattern.clone() }).collect::<Vec<_>>()
    };
    record.iter().flat_map(of_queue).collect()
}

/// The same for every user and password of a broker.
fn key_of(url: &str, exchange: &str) -> String {
    let place = match Url::parse(url) {
        Ok(url) => {
            let default = if url.scheme() == "amqps" { 5671 } else { 5672 };
            // The path may be empty or `/` alone, which is the virtual host `/` in both cases.
            let vhost = match url.path().trim_start_matches('/') {
                "" => "%2f".to_owned(),
                vhost => vhost.to_ascii_lowercase(),
            };
            format!("{}:{}/{vhost}", url.host_str().unwrap_or_default(), url.port().unwrap_or(default))
        }
        Err(_) => url.to_owned(),
    };
    let mut hash = Sha256::new();
    for part in [place.as_str(), exchange] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(8).fold(".bindings-".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use router_api::{Envelope, Matcher, QueueWish};

    use super::*;

    struct All;

    impl Matcher for All {
        fn matches(&self, _: &Envelope) -> bool {
            true
        }

        fn lane(&self, _: &Envelope) -> Option<String> {
            None
        }
    }

    fn subscription(route: &str, queue: Option<&str>, patterns: &[&str]) -> Subscription {
        Subscription {
            route: route.parse().unwrap(),
            patterns: patterns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
            matcher: Arc::new(All),
            queue: QueueWish { name: queue.map(str::to_owned), ..QueueWish::default() },
        }
    }

    fn recorded(record: &mut Record, queue: &str, route: &str, patterns: &[&str]) {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        record.insert(queue.to_owned(), Recorded { route: route.parse().unwrap(), patterns });
    }

    #[test]
    fn what_a_route_does_not_want_any_more_is_stale_and_what_is_not_recorded_is_not() {
        let mut record = Record::new();
        recorded(&mut record, "services.router.a", "a", &["x.#", "y"]);
        recorded(&mut record, "services.router.gone", "gone", &["z"]);
        recorded(&mut record, "services.router.moved", "moved", &["m"]);
        let wanted = [subscription("a", None, &["y", "new"]), subscription("moved", Some("theirs"), &["m"])];
        let stale: Vec<String> = stale(&record, &wanted).iter().map(|stale| format!("{} {}", stale.queue, stale.pattern)).collect();
        assert_eq!(stale, ["services.router.a x.#", "services.router.gone z", "services.router.moved m"]);
    }

    #[test]
    fn a_record_is_that_of_a_broker_a_virtual_host_and_an_exchange_and_of_no_user() {
        let of = |url: &str| key_of(url, "x");
        assert_eq!(of("amqp://me:secret@host"), of("amqp://you@host:5672/"));
        assert_eq!(of("amqp://host/%2f"), of("amqp://host:5672/%2F?heartbeat=3"));
        for other in ["amqp://host/v", "amqp://other", "amqps://host", "amqp://host:5673"] {
            assert_ne!(of(other), of("amqp://host"), "{other}");
        }
        assert_ne!(key_of("amqp://host", "y"), of("amqp://host"));
        assert!(of("amqp://host").starts_with(".bindings-"), "no plugin reaches a key with a dot");
        assert!(KEEPER.parse::<RouteName>().is_ok());
    }
}
