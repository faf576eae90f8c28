//! What became of events, written down behind the pipeline for the archive of a store that does not own the queues.
//!
//! A transport that keeps its own archive knows the fates of its deliveries; a bus does not. The worker tells [`FateLog`] what it has
//! settled, a task writes it in batches. Nobody waits for it: when the store lags, records are left out and counted, those that tell
//! least first.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use router_api::{Clock, Delivery, DeliveryRecord, DeliveryState, Fate, FateRecord, RouteName, Settlement, Store};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::observe::{Observers, RouterEvent};

/// Records that wait to be written.
const WAITING_MAX: usize = 16_384;
/// Above so many, what a filter or the inbox put aside is not told any more, so that there is room for the rest.
const ASIDES_MAX: usize = WAITING_MAX / 2;
/// Records of one commit.
const BATCH_MAX: usize = 2_048;
/// So long a batch collects: one commit of the store for many settlements.
const COLLECT: Duration = Duration::from_millis(100);
/// After a failure of the store, doubling up to …
const AGAIN_FIRST: Duration = Duration::from_millis(500);
/// … this.
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// For what still waits when the router stops.
const FLUSH: Duration = Duration::from_secs(5);

enum Line {
    Record(FateRecord),
    Flush(oneshot::Sender<()>),
}

/// Takes records and writes them behind.
pub(crate) struct FateLog {
    lines: mpsc::Sender<Line>,
    /// Until the task is begun.
    unread: Mutex<Option<mpsc::Receiver<Line>>>,
    lost: Arc<AtomicU64>,
    hurry: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

impl FateLog {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let (lines, unread) = mpsc::channel(WAITING_MAX);
        Self { lines, unread: Mutex::new(Some(unread)), lost: Arc::default(), hurry: Arc::default(), clock }
    }

    /// Begins to write, once; later calls do nothing. Needs a runtime.
    pub(crate) fn begin(&self, store: &Arc<dyn Store>, observers: &Observers) {
        let Some(unread) = self.unread.lock().expect("no code panics while it holds the receiver").take() else { return };
        let writer = FateWriter {
            lines: unread,
            store: Arc::clone(store),
            observers: observers.clone(),
            lost: Arc::clone(&self.lost),
            hurry: Arc::clone(&self.hurry),
            clock: Arc::clone(&self.clock),
        };
        tokio::spawn(writer.run());
    }

    /// What a settlement means for each delivery, to be told once it is recorded.
    pub(crate) fn of(&self, route: &RouteName, deliveries: &[Delivery], settlement: &Settlement) -> Vec<FateRecord> {
        let now = self.clock.now();
        let record = |(index, delivery): (usize, &Delivery)| {
            let (state, attempts, at) = match settlement {
                Settlement::Done { fates, .. } => (DeliveryState::Finished(fates.get(index)?.clone()), delivery.attempts, now),
                Settlement::RetryIn { delay, failure } => {
                    let waiting = DeliveryState::Waiting { error: Some(failure.error.clone()) };
                    (waiting, delivery.attempts.saturating_add(1), after(now, *delay))
                }
                Settlement::Bury(letter) => {
                    let id = letter.reference(&delivery.identity);
                    (DeliveryState::Dead { id, reason: letter.reason }, letter.attempts, now)
                }
            };
            Some(FateRecord { identity: delivery.identity.clone(), record: DeliveryRecord { route: route.clone(), state, attempts, at } })
        };
        deliveries.iter().enumerate().filter_map(record).collect()
    }

    /// Deliveries wait in hand after a failed attempt.
    pub(crate) fn held<'d>(&self, route: &RouteName, deliveries: impl Iterator<Item = &'d Delivery>, error: &str, failed: u32, delay: Duration) {
        let at = after(self.clock.now(), delay);
        let record = |delivery: &Delivery| {
            let state = DeliveryState::Waiting { error: Some(error.to_owned()) };
            let attempts = delivery.attempts.saturating_add(failed);
            FateRecord { identity: delivery.identity.clone(), record: DeliveryRecord { route: route.clone(), state, attempts, at } }
        };
        self.note(deliveries.map(record).collect());
    }

    /// Hands over records. Never waits.
    pub(crate) fn note(&self, records: Vec<FateRecord>) {
        for record in records {
            let is_aside = matches!(record.record.state, DeliveryState::Finished(Fate::Filtered | Fate::Duplicate { .. }));
            let is_crowded = is_aside && self.lines.capacity() < WAITING_MAX - ASIDES_MAX;
            if is_crowded || self.lines.try_send(Line::Record(record)).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns when what was noted so far is written, or after a limit.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flushed = async {
            if self.lines.send(Line::Flush(done)).await.is_ok() {
                self.hurry.notify_one();
                let _ = written.await;
            }
        };
        tokio::select! {
            // What is written counts, even at the last moment.
            biased;
            () = flushed => {}
            () = self.clock.sleep(FLUSH) => {}
        }
    }
}

fn after(now: Timestamp, delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay).ok().and_then(|delay| now.checked_add(delay).ok()).unwrap_or(Timestamp::MAX)
}

struct FateWriter {
    lines: mpsc::Receiver<Line>,
    store: Arc<dyn Store>,
    observers: Observers,
    lost: Arc<AtomicU64>,
    hurry: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

impl FateWriter {
    /// Until the router is gone and everything is written.
    async fn run(mut self) {
        while let Some(first) = self.lines.recv().await {
            if matches!(first, Line::Record(_)) {
                tokio::select! {
                    // No order matters here; a stated one is the same in every run.
                    biased;
                    () = self.clock.sleep(COLLECT) => {}
                    () = self.hurry.notified() => {}
                }
            }
            let (mut batch, mut flushes) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(line) = next {
                match line {
                    Line::Record(record) => batch.push(record),
                    Line::Flush(done) => flushes.push(done),
                }
                next = if batch.len() < BATCH_MAX { self.lines.try_recv().ok() } else { None };
            }
            self.write(batch).await;
            // Whoever asked may have gone.
            for done in flushes {
                let _ = done.send(());
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.observers.tell(RouterEvent::FatesLost { events: lost });
            }
        }
    }

    async fn write(&self, batch: Vec<FateRecord>) {
        if batch.is_empty() {
            return;
        }
        let mut wait = AGAIN_FIRST;
        loop {
            let Err(error) = self.store.record_fates(batch.clone()).await else { return };
            self.observers.tell(RouterEvent::StoreTrouble { error: format!("what became of {} events is not noted yet: {error}", batch.len()) });
            if self.lines.is_closed() {
                self.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                return;
            }
            self.clock.sleep(wait).await;
            wait = (wait * 2).min(AGAIN_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> router_api::BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    fn record(fate: Fate) -> FateRecord {
        let record = DeliveryRecord { route: "r".parse().unwrap(), state: DeliveryState::Finished(fate), attempts: 0, at: Timestamp::UNIX_EPOCH };
        FateRecord { identity: "m".to_owned(), record }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_was_put_aside_gives_way_first() {
        let log = FateLog::new(Arc::new(Still));
        let lost = || log.lost.load(Ordering::Relaxed);
        log.note(vec![record(Fate::Filtered); ASIDES_MAX + 10]);
        assert_eq!(lost(), 10 - 1, "the one that finds exactly half of the room is taken");
        let handled = || record(Fate::Handled { burst: None, note: None });
        log.note(vec![handled(); WAITING_MAX - ASIDES_MAX - 1]);
        assert_eq!(lost(), 9);
        log.note(vec![handled()]);
        assert_eq!(lost(), 10);
    }
}
