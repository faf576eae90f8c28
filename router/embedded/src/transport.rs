//! The store as a transport.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use router_api::{
    Consumer, Features, Publication, Published, RouteName, Subscription, Transport, TransportAdmin, TransportError,
    failpoint::{self, Failpoint},
};
use rusqlite::OptionalExtension;
use tokio::sync::oneshot;

use crate::{
    Embedded, EmbeddedOptions,
    consumer::EmbeddedConsumer,
    embedded::{BODIES_WAITING_KIB, Shared, refusal, unreadable},
    intake::{Answers, Arrivals, Bindings, BoundRoute},
    writer::{GROUP_MAX, WriteError, Writing},
};

#[async_trait]
impl Transport for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn features(&self) -> Features {
        Features {
            persistent: true,
            filters_at_intake: true,
            inbox_in_settlement: true,
            holds_lanes: true,
            archives: true,
            competing_consumers: false,
            exact_times: true,
        }
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.bind_keeping(subscriptions, |_| false).await
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        let name = route.clone();
        let id: Option<i64> = self
            .shared
            .near
            .read(move |conn| {
                conn.prepare_cached("SELECT id FROM routes WHERE name = ?1 AND queue = 1")?.query_row([name.as_str()], |row| row.get(0)).optional()
            })
            .await
            .map_err(|error| unreadable(&error))?;
        let Some(route_id) = id else {
            return Err(TransportError::Refused(format!("route `{route}` has no queue: bind it first")));
        };
        let queue = self.shared.queue(route_id);
        let Some(session) = queue.begin(prefetch) else {
            return Err(TransportError::Refused(format!("route `{route}` is consumed already: close that consumer first")));
        };
        let consumer =
            EmbeddedConsumer { shared: Arc::clone(&self.shared), queue, route: route.clone(), route_id, session, turn: tokio::sync::Mutex::default() };
        // Looked at after the session began: either the end of the store sees the session, or this sees the end.
        if self.shared.is_closed() {
            return Err(closed());
        }
        Ok(Arc::new(consumer))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        self.check(&publication)?;
        let kib = kib(&publication);
        let answers = self.store_at_once([publication], kib).await?;
        answers.into_iter().next().unwrap_or_else(|| Err(TransportError::Unavailable("the event was not stored".to_owned())))
    }

    async fn publish_all(&self, publications: Vec<Publication>) -> Result<Vec<Published>, (Vec<Published>, TransportError)> {
        let mut all = Vec::with_capacity(publications.len());
        let mut waiting = publications.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut at_once = Vec::new();
            let mut bodies_kib = 0;
            let mut refused = None;
            while at_once.len() < GROUP_MAX
                && let Some(publication) = waiting.next_if(|publication| at_once.is_empty() || bodies_kib + kib(publication) <= BODIES_WAITING_KIB)
            {
                if let Err(error) = self.check(&publication) {
                    refused = Some(error);
                    break;
                }
                bodies_kib += kib(&publication);
                at_once.push(publication);
            }
            if !at_once.is_empty() {
                match self.store_at_once(at_once, bodies_kib).await {
                    Ok(answers) => {
                        for answer in answers {
                            match answer {
                                Ok(published) => all.push(published),
                                Err(error) => return Err((all, error)),
                            }
                        }
                    }
                    Err(error) => return Err((all, error)),
                }
            }
            if let Some(error) = refused {
                return Err((all, error));
            }
        }
        Ok(all)
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self
    }

    async fn close(&self) {
        self.end().await;
    }
}

fn closed() -> TransportError {
    refusal(WriteError::Closed)
}

/// What a body takes of the room for those that wait.
fn kib(publication: &Publication) -> usize {
    publication.body.len().div_ceil(1024)
}

impl Embedded {
    fn check(&self, publication: &Publication) -> Result<(), TransportError> {
        let bytes = publication.body.len();
        if bytes > EmbeddedOptions::BODY_BYTES_HARD_MAX {
            let max = EmbeddedOptions::BODY_BYTES_HARD_MAX;
            return Err(TransportError::Refused(format!("the body has {bytes} bytes, {max} are the limit of the store")));
        }
        if self.shared.is_closed() {
            return Err(closed());
        }
        Ok(())
    }

    /// One commit, with whatever else arrives. No more of them than fit into the room for bodies that wait.
    async fn store_at_once(&self, publications: impl IntoIterator<Item = Publication>, kib: usize) -> Answers {
        let room = u32::try_from(kib).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.shared.bodies_waiting).acquire_many_owned(room).await.map_err(|_| closed())?;
        let (sender, receiver) = oneshot::channel();
        let arrivals = Arrivals::new(&self.shared, publications, room, sender);
        failpoint::pass(Failpoint::AcceptBefore);
        self.shared.writer.send(Box::new(arrivals)).await;
        let answers = receiver.await.unwrap_or_else(|_| Err(closed()));
        failpoint::pass(Failpoint::AcceptAfter);
        answers
    }

    /// Binds `subscriptions` beside those routes of the store that are not `named`: what another configuration has bound stays
    /// bound as the store keeps it, by its patterns. For publishers that do not run the routes.
    ///
    /// # Errors
    ///
    /// As for [`Transport::bind`].
    pub async fn bind_beside(&self, subscriptions: &[Subscription], named: &BTreeSet<RouteName>) -> Result<(), TransportError> {
        self.bind_keeping(subscriptions, |route| !named.contains(route)).await
    }

    async fn bind_keeping(&self, subscriptions: &[Subscription], keeps: impl Fn(&RouteName) -> bool) -> Result<(), TransportError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = subscriptions.iter().find(|subscription| !names.insert(&subscription.route)) {
            return Err(TransportError::Refused(format!("route `{}` is bound twice in one set", twice.route)));
        }
        // Two sets at once would be swapped in another order than they were stored.
        let _turn = self.shared.binding.lock().await;
        let kept: Vec<BoundRoute> = self.shared.bindings().kept(|route| keeps(route) && !names.contains(route));
        let kept_ids: Vec<i64> = kept.iter().map(|route| route.id).collect();
        let (wanted, bound) = (subscriptions.to_vec(), subscriptions.to_vec());
        let shared = Arc::clone(&self.shared);
        // In force once it is stored, even if the caller has gone by then.
        let enforce = move |ids: &Vec<i64>| {
            let bound = bound.into_iter().zip(ids).map(|(subscription, id)| {
                let Subscription { route, patterns, matcher, queue: _ } = subscription;
                BoundRoute { name: route, id: *id, patterns, matcher: Some(matcher) }
            });
            shared.set_bindings(Bindings::new(kept.into_iter().chain(bound).collect()));
        };
        let run = move |writing: &Writing<'_>| Bindings::write(writing.conn, &wanted, &kept_ids);
        self.shared.writer.write_then(run, enforce).await.map(|_| ()).map_err(|error| match error {
            // Not `Unavailable`: nobody binds later by himself here, and until then new routes would miss their events without a word.
            WriteError::Failed(sentence) => TransportError::Refused(sentence),
            error => refusal(error),
        })
    }
}

impl Shared {
    /// True if somebody takes from this route's queue.
    pub(crate) fn is_consumed(&self, route: i64) -> bool {
        self.queue_if_known(route).is_some_and(|queue| queue.is_consumed())
    }
}
