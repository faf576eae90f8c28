//! A whole route whose filter wants nothing, on a transport that hands out what was made beforehand: everything happens on one thread, so
//! that the allocator can count it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use event_router::{OsChance, SystemClock};
use router_api::{
    Consumer, DeadLetterQuery, Delivery, Features, Publication, Published, QueueStats, Registry, RouteName, RoutingKey, SettleError, Settlement,
    StoredDeadLetter, Subscription, Transport, TransportAdmin, TransportError,
};
use router_core::{
    Router,
    config::{self, ProcessEnvironment},
};
use router_effects::{Performer, PerformerOptions};
use router_testkit::{MemoryState, MemoryStore};
use tokio::sync::Notify;

use crate::Failed;

/// Hands out what it has, and counts what is settled.
#[derive(Default)]
struct Flood {
    waiting: Mutex<VecDeque<Delivery>>,
    more: Notify,
    settled: AtomicU64,
    done: Notify,
}

impl Flood {
    fn pop(&self) -> Option<Delivery> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn refill(&self, deliveries: VecDeque<Delivery>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = deliveries;
    }

    /// Until so many were settled since the beginning.
    async fn until(&self, settled: u64) {
        self.more.notify_one();
        while self.settled.load(Ordering::Relaxed) < settled {
            self.done.notified().await;
        }
    }
}

struct Taker(Arc<Flood>);

#[async_trait]
impl Consumer for Taker {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        loop {
            if let Some(delivery) = self.0.pop() {
                return Some(Ok(delivery));
            }
            self.0.more.notified().await;
        }
    }

    fn take(&self) -> Option<Delivery> {
        self.0.pop()
    }

    async fn settle(&self, deliveries: Vec<Delivery>, _: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        self.0.settled.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
        self.0.done.notify_one();
        Ok(())
    }

    async fn close(&self) {}
}

struct Flooding(Arc<Flood>);

const NOT_HERE: TransportError = TransportError::Unsupported("there is nothing to look at");

#[async_trait]
impl Transport for Flooding {
    fn name(&self) -> &'static str {
        "flood"
    }

    fn features(&self) -> Features {
        Features {
            persistent: false,
            filters_at_intake: false,
            inbox_in_settlement: false,
            holds_lanes: false,
            archives: false,
            competing_consumers: false,
            exact_times: true,
        }
    }

    async fn bind(&self, _: &[Subscription]) -> Result<(), TransportError> {
        Ok(())
    }

    async fn consume(&self, _: &RouteName, _: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        Ok(Arc::new(Taker(Arc::clone(&self.0))))
    }

    async fn publish(&self, _: Publication) -> Result<Published, TransportError> {
        Err(NOT_HERE)
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self
    }

    async fn close(&self) {}
}

#[async_trait]
impl TransportAdmin for Flooding {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        Ok(Vec::new())
    }

    async fn dead_letters(&self, _: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        Ok(Vec::new())
    }

    async fn dead_letter(&self, _: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        Ok(None)
    }

    async fn redrive(&self, _: &[String]) -> Result<u64, TransportError> {
        Err(NOT_HERE)
    }

    async fn discard(&self, _: &[String]) -> Result<u64, TransportError> {
        Err(NOT_HERE)
    }

    async fn remove_queue(&self, _: &RouteName) -> Result<u64, TransportError> {
        Err(NOT_HERE)
    }
}

fn deliveries(all: &[(RoutingKey, Bytes)], from: u64) -> VecDeque<Delivery> {
    let delivery = |(number, (key, body)): (u64, &(RoutingKey, Bytes))| Delivery {
        tag: from + number,
        identity: (from + number).to_string(),
        key: key.clone(),
        body: body.clone(),
        stored_at: jiff::Timestamp::UNIX_EPOCH,
        attempts: 0,
        history: Vec::new(),
        hops: 0,
        direct: false,
        redelivered: false,
        seq: None,
        traceparent: None,
    };
    (0..).zip(all).map(delivery).collect()
}

/// Allocations from the first delivery to the last settlement, the decoding included.
pub fn count(all: &[(RoutingKey, Bytes)]) -> Result<u64, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let flood = Arc::new(Flood::default());
    let directory = tempfile::tempdir()?;
    std::fs::write(
        directory.path().join("router.toml"),
        "[http]\nlisten = \"off\"\n[store]\npath = \"none.db\"\n[[route]]\nname = \"nothing\"\non = [\"session.#\"]\nwhen = { tool_name = [\"None\"] }\nhandler = \"log\"\n",
    )?;
    let count = all.len() as u64;
    let router = runtime.block_on(async {
        let effects = Performer::new(PerformerOptions::default())?;
        let located = config::locate(&[directory.path().join("router.toml")], None, directory.path());
        let registry = Registry::linked()?;
        let loaded = config::load(&located, &registry, effects.clone(), &ProcessEnvironment).await.map_err(|problems| problems.report.render(false))?;
        let store = Arc::new(MemoryStore::new(&MemoryState::new()));
        let transport = Arc::new(Flooding(Arc::clone(&flood)));
        let router = Router::builder(registry, transport, store, effects, Arc::new(SystemClock), Arc::new(OsChance)).build();
        router.apply(loaded.config).await?;
        // What is made once is made now.
        flood.refill(deliveries(all, 0));
        flood.until(count).await;
        Ok::<_, Failed>(router)
    })?;
    flood.refill(deliveries(all, count));
    let counted = allocation_counter::measure(|| runtime.block_on(flood.until(2 * count)));
    runtime.block_on(router.drain());
    Ok(counted.count_total)
}
