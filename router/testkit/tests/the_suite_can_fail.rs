//! The conformance suite finds what it is for: a transport with one thing wrong fails the case that is about it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use router_api::{
    Clock, Consumer, DeadLetterQuery, Delivery, Destination, Features, Publication, Published, QueueStats, RouteName, SettleError, Settlement, Store,
    StoredDeadLetter, Subscription, Transport, TransportAdmin, TransportError,
};
use router_testkit::conformance::{Abilities, Factory, MemoryFactory, Stop, Subject, run_matching};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LosesEveryTenthEvent,
    StoresEveryTenthEventTwice,
    IgnoresDelays,
    CountsLeavingAsAnAttempt,
    ForgetsTheHistory,
    GivesEachRetryANewIdentity,
    HandsOutMoreThanThePrefetch,
    ChangesBodies,
    ChangesBodiesOfDeadLetters,
    LosesWhatASettlementRefused,
    HoldsNoLanes,
    TakesEventsForUnknownRoutes,
    LosesTheRestOfASettlement,
    ForgetsTheInbox,
    RedrivesToNobody,
    CountsWhatIsDeadAsGone,
}

struct Faulty {
    inner: Arc<dyn Transport>,
    fault: Fault,
    published: AtomicU64,
}

struct FaultyConsumer {
    inner: Arc<dyn Consumer>,
    fault: Fault,
    /// Deliveries so far, for identities that are new each time.
    attempts: AtomicU64,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

#[async_trait]
impl Transport for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.inner.bind(subscriptions).await
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        let prefetch = if self.is(Fault::HandsOutMoreThanThePrefetch) { prefetch + 1 } else { prefetch };
        let inner = self.inner.consume(route, prefetch).await?;
        Ok(Arc::new(FaultyConsumer { inner, fault: self.fault, attempts: AtomicU64::new(0) }))
    }

    async fn publish(&self, mut publication: Publication) -> Result<Published, TransportError> {
        let tenth = self.published.fetch_add(1, Ordering::SeqCst) % 10 == 9;
        if tenth && self.is(Fault::LosesEveryTenthEvent) {
            return Ok(Published { routed: true, seq: None });
        }
        if tenth && self.is(Fault::StoresEveryTenthEventTwice) {
            self.inner.publish(publication.clone()).await?;
        }
        if self.is(Fault::ChangesBodies) {
            publication.body = Bytes::copy_from_slice(publication.body.trim_ascii());
        }
        match &mut publication.to {
            Destination::Route { delay, .. } if self.is(Fault::IgnoresDelays) => *delay = Duration::ZERO,
            Destination::Route { route, .. } if self.is(Fault::TakesEventsForUnknownRoutes) && route.as_str() == "nobody" => {
                return Ok(Published { routed: false, seq: None });
            }
            _ => {}
        }
        self.inner.publish(publication).await
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl TransportAdmin for Faulty {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        let mut queues = self.inner.admin().queues().await?;
        if self.is(Fault::CountsWhatIsDeadAsGone) {
            queues.iter_mut().for_each(|stats| stats.dead = 0);
        }
        Ok(queues)
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        let mut letters = self.inner.admin().dead_letters(query).await?;
        if self.is(Fault::ChangesBodiesOfDeadLetters) {
            letters.iter_mut().for_each(|stored| stored.body = Bytes::from(String::from_utf8_lossy(&stored.body).into_owned()));
        }
        Ok(letters)
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        self.inner.admin().dead_letter(id).await
    }

    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError> {
        if self.is(Fault::RedrivesToNobody) {
            return self.inner.admin().discard(ids).await;
        }
        self.inner.admin().redrive(ids).await
    }

    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError> {
        self.inner.admin().discard(ids).await
    }

    async fn remove_queue(&self, route: &RouteName) -> Result<u64, TransportError> {
        self.inner.admin().remove_queue(route).await
    }
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        let mut next = self.inner.next().await;
        if let Some(Ok(delivery)) = &mut next {
            match self.fault {
                Fault::CountsLeavingAsAnAttempt if delivery.redelivered && delivery.attempts == 0 => delivery.attempts = 1,
                Fault::ForgetsTheHistory => delivery.history.clear(),
                Fault::GivesEachRetryANewIdentity => delivery.identity = format!("{}/{}", delivery.identity, self.attempts.fetch_add(1, Ordering::SeqCst)),
                _ => {}
            }
        }
        next
    }

    async fn settle(&self, mut deliveries: Vec<Delivery>, mut settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        match &mut settlement {
            Settlement::RetryIn { delay, .. } if self.fault == Fault::IgnoresDelays => *delay = Duration::ZERO,
            Settlement::Done { inbox, .. } if self.fault == Fault::ForgetsTheInbox => inbox.clear(),
            Settlement::Done { fates, inbox } if self.fault == Fault::LosesTheRestOfASettlement => {
                deliveries.truncate(1);
                fates.truncate(1);
                inbox.truncate(1);
            }
            _ => {}
        }
        let result = self.inner.settle(deliveries, settlement).await;
        match result {
            Err((error, _)) if self.fault == Fault::LosesWhatASettlementRefused => Err((error, Vec::new())),
            other => other,
        }
    }

    fn hold_lane(&self, lane: &str) {
        if self.fault != Fault::HoldsNoLanes {
            self.inner.hold_lane(lane);
        }
    }

    fn free_lane(&self, lane: &str) {
        self.inner.free_lane(lane);
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct FaultyFactory(Fault);

struct FaultySubject {
    inner: Box<dyn Subject>,
    transport: Arc<Faulty>,
}

fn faulty(inner: &dyn Subject, fault: Fault) -> Arc<Faulty> {
    Arc::new(Faulty { inner: inner.transport(), fault, published: AtomicU64::new(0) })
}

#[async_trait]
impl Factory for FaultyFactory {
    fn abilities(&self) -> Abilities {
        MemoryFactory.abilities()
    }

    async fn open(&self) -> Box<dyn Subject> {
        let inner = MemoryFactory.open().await;
        Box::new(FaultySubject { transport: faulty(inner.as_ref(), self.0), inner })
    }
}

#[async_trait]
impl Subject for FaultySubject {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport) as Arc<dyn Transport>
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        self.inner.store()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }

    async fn pass(&self, duration: Duration) {
        self.inner.pass(duration).await;
    }

    fn delay(&self) -> Duration {
        self.inner.delay()
    }

    fn silence(&self) -> Duration {
        self.inner.silence()
    }

    async fn restart(&mut self, stop: Stop) {
        self.inner.restart(stop).await;
        self.transport = faulty(self.inner.as_ref(), self.transport.fault);
    }

    async fn fail_settles(&self, failing: bool) {
        self.inner.fail_settles(failing).await;
    }

    async fn lose_session(&self, route: &RouteName) {
        self.inner.lose_session(route).await;
    }

    async fn end(self: Box<Self>) {
        self.inner.end().await;
    }
}

async fn failures(fault: Fault, case: &str) -> Vec<&'static str> {
    let features = MemoryFactory.open().await.transport().features();
    let report = run_matching(&format!("{fault:?}"), &FaultyFactory(fault), features, case).await;
    assert!(report.passed.len() + report.failed.len() > 0, "there is no case `{case}`");
    report.failed.into_iter().map(|(case, _)| case).collect()
}

#[tokio::test]
async fn each_fault_fails_the_case_that_is_about_it() {
    let expected = [
        (Fault::LosesEveryTenthEvent, "a_route_that_nobody_consumes_keeps_what_comes"),
        (Fault::StoresEveryTenthEventTwice, "concurrent_publishers_and_consumers_lose_and_repeat_nothing"),
        (Fault::IgnoresDelays, "an_event_that_waits_blocks_nobody"),
        (Fault::IgnoresDelays, "an_event_sent_to_a_route_with_a_delay_comes_after_it"),
        (Fault::CountsLeavingAsAnAttempt, "leaving_gives_back_what_is_unfinished_in_order_and_uncounted"),
        (Fault::ForgetsTheHistory, "an_event_that_failed_comes_back_with_its_history"),
        (Fault::ForgetsTheHistory, "a_redriven_event_comes_back_to_its_route_alone_with_its_history"),
        (Fault::GivesEachRetryANewIdentity, "an_event_that_failed_comes_back_with_its_history"),
        (Fault::HandsOutMoreThanThePrefetch, "the_prefetch_bounds_what_is_in_hand"),
        (Fault::ChangesBodies, "a_delivery_says_what_it_carries"),
        (Fault::ChangesBodiesOfDeadLetters, "a_buried_event_lies_in_the_dead_letters_byte_for_byte"),
        (Fault::LosesWhatASettlementRefused, "a_settlement_that_fails_gives_the_deliveries_back"),
        (Fault::LosesWhatASettlementRefused, "a_closed_consumer_is_over"),
        (Fault::HoldsNoLanes, "a_held_lane_is_handed_out_only_when_it_is_free"),
        (Fault::TakesEventsForUnknownRoutes, "an_event_sent_to_an_unknown_route_is_refused"),
        (Fault::LosesTheRestOfASettlement, "several_deliveries_are_settled_as_one"),
        (Fault::ForgetsTheInbox, "a_done_key_is_in_the_inbox_of_its_route"),
        (Fault::RedrivesToNobody, "a_redriven_event_comes_back_to_its_route_alone_with_its_history"),
        (Fault::CountsWhatIsDeadAsGone, "queues_say_what_waits_what_is_in_hand_and_what_is_dead"),
    ];
    for (fault, case) in expected {
        assert_eq!(failures(fault, case).await, [case], "{fault:?}");
        assert!(failures(Fault::None, case).await.is_empty(), "{case} fails without a fault");
    }
}

#[tokio::test]
async fn a_feature_that_is_not_as_pinned_is_a_failure() {
    let mut features = MemoryFactory.open().await.transport().features();
    features.archives = false;
    let report = run_matching("memory", &MemoryFactory, features, "no case at all").await;
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].0, "features");
}
