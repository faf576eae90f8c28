//! A queue in which there is always one more: whatever else a route has to see to is seen to all the same.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use router_api::{
    Clock as _, Consumer, Delivery, Features, Publication, Published, RouteName, RoutingKey, SettleError, Settlement, Subscription, Transport, TransportAdmin,
    TransportError,
};
use router_testkit::{MemoryState, VirtualClock};

use crate::bench::{Answer, Bench, SECOND, ids, ordered};

/// What nobody waits for here ends the flood, so that a test fails instead of standing still.
const FLOOD: u32 = 30_000;

/// The transport in memory, with a flood of events that no route wants whenever it has nothing else.
struct Flooded {
    memory: Arc<dyn Transport>,
    flood: Arc<Flood>,
    clock: VirtualClock,
}

#[derive(Default)]
struct Flood {
    left: AtomicU32,
    settled: AtomicU32,
}

struct Taker {
    memory: Arc<dyn Consumer>,
    flood: Arc<Flood>,
    clock: VirtualClock,
}

/// The tags of the flood; the memory counts from 1.
const TAG: u64 = u64::MAX;

#[async_trait]
impl Transport for Flooded {
    fn name(&self) -> &'static str {
        "flooded"
    }

    fn features(&self) -> Features {
        self.memory.features()
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.memory.bind(subscriptions).await
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        let memory = self.memory.consume(route, prefetch).await?;
        Ok(Arc::new(Taker { memory, flood: Arc::clone(&self.flood), clock: self.clock.clone() }))
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
        if let Some(found) = futures_util::FutureExt::now_or_never(self.memory.next()) {
            return found;
        }
        if self.flood.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return self.memory.next().await;
        }
        Some(Ok(Delivery {
            tag: TAG,
            identity: "flood".to_owned(),
            key: RoutingKey::new("nobody.wants.it").expect("a key"),
            body: Bytes::from_static(b"{}"),
            stored_at: self.clock.now(),
            attempts: 0,
            history: Vec::new(),
            hops: 0,
            direct: false,
            redelivered: false,
            seq: None,
            traceparent: None,
        }))
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        let count = deliveries.len();
        let others: Vec<Delivery> = deliveries.into_iter().filter(|delivery| delivery.tag != TAG).collect();
        self.flood.settled.fetch_add(u32::try_from(count - others.len()).unwrap(), Ordering::SeqCst);
        if others.is_empty() { Ok(()) } else { self.memory.settle(others, settlement).await }
    }

    async fn close(&self) {
        self.memory.close().await;
    }
}

fn flooded() -> (Bench, Arc<Flood>) {
    let (clock, flood) = (VirtualClock::default(), Arc::<Flood>::default());
    let (of_transport, seen) = (Arc::clone(&flood), clock.clone());
    let wrap = |memory: Arc<dyn Transport>| Arc::new(Flooded { memory, flood: of_transport, clock: seen }) as Arc<dyn Transport>;
    (Bench::assembled(MemoryState::new(), clock, wrap, |router| router), flood)
}

#[tokio::test]
async fn a_flood_of_events_that_a_filter_leaves_out_keeps_neither_other_tasks_nor_what_is_due_from_their_turn() {
    let (bench, flood) = flooded();
    let mut picky = ordered("picky");
    picky.on = vec!["session.#".parse().unwrap()];
    bench.behave(|call| if call.attempt == 1 { Answer::RetryAfter(60 * SECOND) } else { Answer::Done });
    bench.apply(&[picky]).await;
    bench.send_in("s1", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));

    // Something on its own thread: from now on, the route's loop has something to do each time it looks.
    flood.left.store(FLOOD, Ordering::SeqCst);
    bench.send_in("s2", "e2").await;
    let mut turns = 0;
    while flood.left.load(Ordering::SeqCst) == FLOOD {
        tokio::task::yield_now().await;
        turns += 1;
        assert!(turns < 1_000, "the flood does not begin");
    }
    assert_ne!(flood.left.load(Ordering::SeqCst), 0, "nobody else had a turn before the end of the flood");
    bench.clock.advance(60 * SECOND);
    while bench.calls().len() < 3 {
        assert_ne!(flood.left.load(Ordering::SeqCst), 0, "what was due has waited for the end of the flood: {:?}", bench.called());
        tokio::task::yield_now().await;
    }
    flood.left.store(0, Ordering::SeqCst);
    bench.pass(60 * SECOND).await;
    assert_eq!(bench.settled().iter().filter(|fate| *fate == "handled").count(), 2, "{:?}", bench.settled());
    assert_ne!(flood.settled.load(Ordering::SeqCst), 0);
}
