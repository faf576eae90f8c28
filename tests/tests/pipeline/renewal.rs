//! A transport that takes back by force what is in hand for too long, and does not know when it stored an event: what it asks the route
//! for costs no event an attempt and no lane its order, and the age of an event is reckoned from what the event says.

use std::sync::Arc;

use async_trait::async_trait;
use router_api::{
    Clock as _, Consumer, Delivery, Features, Publication, Published, RouteName, SettleError, Settlement, Subscription, Transport, TransportAdmin,
    TransportError,
};
use router_testkit::{MemoryState, VirtualClock, event};
use tokio::sync::watch;

use crate::bench::{Answer, Bench, HOUR, SECOND, ids, ordered, route};

/// The transport in memory, as one that asks for renewal and knows no exact times.
struct Broker {
    memory: Arc<dyn Transport>,
    /// How many renewals were asked for; each consumer is told of those after its beginning.
    renewals: watch::Sender<u32>,
}

struct Taker {
    memory: Arc<dyn Consumer>,
    renewals: watch::Receiver<u32>,
}

#[async_trait]
impl Transport for Broker {
    fn name(&self) -> &'static str {
        "broker"
    }

    fn features(&self) -> Features {
        Features { exact_times: false, holds_lanes: false, ..self.memory.features() }
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.memory.bind(subscriptions).await
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        Ok(Arc::new(Taker { memory: self.memory.consume(route, prefetch).await?, renewals: self.renewals.subscribe() }))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        self.memory.publish(publication).await
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self.memory.admin()
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}

#[async_trait]
impl Consumer for Taker {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        self.memory.next().await
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        self.memory.settle(deliveries, settlement).await
    }

    async fn renewal_due(&self) {
        if self.renewals.clone().changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}

fn on_a_broker() -> (Bench, watch::Sender<u32>) {
    let renewals = watch::Sender::new(0);
    let of_broker = renewals.clone();
    let wrap = |memory: Arc<dyn Transport>| Arc::new(Broker { memory, renewals: of_broker }) as Arc<dyn Transport>;
    (Bench::assembled(MemoryState::new(), VirtualClock::default(), wrap, |router| router), renewals)
}

async fn renew(bench: &Bench, renewals: &watch::Sender<u32>) {
    renewals.send_modify(|count| *count += 1);
    bench.settle_down().await;
}

fn attempts(bench: &Bench) -> Vec<(String, u32)> {
    bench.calls().into_iter().map(|call| (call.ids.join("+"), call.attempt)).collect()
}

fn expected(calls: &[(&str, u32)]) -> Vec<(String, u32)> {
    calls.iter().map(|(id, attempt)| ((*id).to_owned(), *attempt)).collect()
}

#[tokio::test]
async fn a_renewal_settles_what_runs_starts_nothing_and_goes_on_at_once_in_order() {
    let (bench, renewals) = on_a_broker();
    bench.behave(|_| Answer::Take(10 * SECOND));
    let mut route = ordered("all");
    route.concurrency = 2;
    bench.apply(&[route]).await;
    for (session, id) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"), ("a", "a3")] {
        bench.send_in(session, id).await;
    }
    bench.pass(SECOND).await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["b1"]]));
    renew(&bench, &renewals).await;
    bench.pass(8 * SECOND).await;
    assert_eq!(bench.calls().len(), 2, "nothing is started meanwhile, and what runs is not cancelled");
    assert_eq!(bench.transport.calls().consume, 1, "nor is the queue taken up while it runs");

    bench.pass(SECOND).await;
    assert_eq!(bench.settled(), ["handled", "handled"]);
    // No time passes between the end of what ran and the next handling: the delay after a lost consumer is not for this.
    assert_eq!(bench.transport.calls().consume, 2);
    assert_eq!(attempts(&bench), expected(&[("a1", 1), ("b1", 1), ("a2", 1), ("c1", 1)]));
    bench.pass(HOUR).await;
    assert_eq!(attempts(&bench)[4..], expected(&[("a3", 1)]));
    assert_eq!(bench.settled(), ["handled"; 5]);
}

#[tokio::test]
async fn what_waits_in_hand_is_not_charged_for_a_renewal_and_keeps_its_turn_and_its_time() {
    let (bench, renewals) = on_a_broker();
    bench.behave(|call| if call.ids[0] == "a1" && call.attempt < 3 { Answer::RetryAfter(100 * SECOND) } else { Answer::Done });
    bench.apply(&[ordered("all")]).await;
    for (session, id) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        bench.send_in(session, id).await;
    }
    bench.settle_down().await;
    assert_eq!(attempts(&bench), expected(&[("a1", 1), ("b1", 1)]));
    for _ in 0..5 {
        bench.pass(10 * SECOND).await;
        renew(&bench, &renewals).await;
    }
    assert_eq!(bench.transport.calls().consume, 6);
    assert_eq!(bench.calls().len(), 2, "the wait goes on: neither earlier, nor past its lane");
    bench.pass(51 * SECOND).await;
    assert_eq!(attempts(&bench)[2..], expected(&[("a1", 2)]));
    bench.pass(101 * SECOND).await;
    assert_eq!(attempts(&bench)[3..], expected(&[("a1", 3), ("a2", 1)]));
    assert_eq!(bench.dead_letters().await.len(), 0);
}

#[tokio::test]
async fn a_drain_during_a_renewal_ends_the_route() {
    let (bench, renewals) = on_a_broker();
    bench.behave(|_| Answer::Take(10 * SECOND));
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    renew(&bench, &renewals).await;
    assert_eq!(bench.drain().await, 0);
    assert_eq!((bench.settled(), bench.transport.calls().consume), (vec!["handled".to_owned()], 1));
}

#[tokio::test]
async fn without_exact_times_an_event_is_as_old_as_it_says_if_that_can_be_true() {
    let said = |bench: &Bench, hours: i64| bench.clock.now() - jiff::SignedDuration::from_hours(hours);
    for (exact, hours, expected) in [
        (false, 2, "buried: too-old"),
        (false, 0, "handled"),
        // A clock that is wrong is not believed: not one of years ago, and not one of tomorrow.
        (false, 24 * 366, "handled"),
        (false, -24, "handled"),
        (true, 2, "handled"),
    ] {
        let bench = if exact { Bench::new() } else { on_a_broker().0 };
        let mut route = route("all");
        route.max_age = Some(HOUR);
        bench.apply(&[route]).await;
        bench.send_event(event("a.b").id("e1").time(said(&bench, hours))).await;
        bench.settle_down().await;
        assert_eq!(bench.settled(), [expected], "exact: {exact}, {hours} hours ago");
    }
}
