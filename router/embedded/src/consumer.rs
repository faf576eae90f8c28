//! The taker of one route's queue.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use router_api::{
    Consumer, DeadLetter, DeadLetterReason, Delivery, RouteName, SettleError, Settlement, TransportError,
    failpoint::{self, Failpoint},
};
use tokio::sync::oneshot;

use crate::{
    Finding,
    embedded::{Shared, unreadable},
    fetch::fetch,
    queue::{Next, NotInHand, Plan, RouteQueue},
    settle::{Change, Settling, bury, json},
    store_time::{LOOK_EVERY_MAX, timestamp},
    writer::{WriteError, Writing, job, patient_job},
};

/// See [`Consumer`]. Dropping it leaves as [`Consumer::close`] does, except that a later process may not know what was handed out.
pub(crate) struct EmbeddedConsumer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<RouteQueue>,
    pub(crate) route: RouteName,
    pub(crate) route_id: i64,
    pub(crate) session: u64,
    /// Whoever waits for a delivery. The port says that one task does; a second one waits here and spoils nothing.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&self) -> Option<Result<Delivery, TransportError>> {
        let _turn = self.turn.lock().await;
        loop {
            // Made before the look at the queue, so that what changes in between wakes it.
            let changed = self.queue.changed();
            match self.queue.next(self.session, self.shared.time.now()) {
                Next::Delivery(delivery) => return Some(Ok(handed_out(*delivery))),
                Next::Over => return None,
                Next::Wait(None) => changed.await,
                Next::Wait(Some(due_at)) => {
                    let wait = self.shared.time.until(due_at).min(LOOK_EVERY_MAX);
                    tokio::select! {
                        () = changed => {}
                        () = self.shared.time.clock().sleep(wait) => {}
                    }
                }
                Next::Fetch(plan) => {
                    if let Err(error) = self.fetch(*plan).await {
                        if !self.queue.is_live(self.session) {
                            return None;
                        }
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    fn take(&self) -> Option<Delivery> {
        // Whoever waits in `next` is asked first.
        let _turn = self.turn.try_lock().ok()?;
        self.queue.take(self.session).map(handed_out)
    }

    async fn settle(&self, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<(), (SettleError, Vec<Delivery>)> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = deliveries.iter().map(|delivery| i64::try_from(delivery.tag).unwrap_or(-1)).collect();
        let change = match Change::new(&deliveries, settlement, |delay| self.shared.time.due_after(delay)) {
            Ok(change) => change,
            Err(sentence) => return Err((SettleError::NotRecorded(sentence), deliveries)),
        };
        match self.queue.begin_settling(self.session, &ids) {
            Ok(()) => {}
            Err(NotInHand::SessionOver) => return Err((SettleError::SessionOver, deliveries)),
            Err(NotInHand::Stranger(tag)) => {
                let sentence = format!("delivery {tag} is not in the hand of this consumer of route `{}`", self.route);
                return Err((SettleError::NotRecorded(sentence), deliveries));
            }
        }
        match self.write(ids, change).await {
            Ok(()) => Ok(()),
            Err(error) if self.queue.is_live(self.session) => Err((SettleError::NotRecorded(error.sentence()), deliveries)),
            Err(_) => Err((SettleError::SessionOver, deliveries)),
        }
    }

    fn records(&self) -> Result<(), String> {
        let records = self.shared.writer.works().and_then(|()| self.shared.floor.check(self.shared.time.clock().monotonic()));
        records.map_err(|error| format!("no attempt begins, since what it came to could not be recorded: {error}"))
    }

    fn hold_lane(&self, lane: &str) {
        self.queue.hold(self.session, lane);
    }

    fn free_lane(&self, lane: &str) {
        self.queue.free(self.session, lane);
    }

    async fn close(&self) {
        let unfinished = self.queue.end(self.session);
        if let Err(error) = self.shared.note_handed(unfinished).await {
            tracing::debug!(route = %self.route, error = error.sentence(), "what was in hand is not marked as handed out");
        }
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.queue.end(self.session);
    }
}

fn handed_out(delivery: Delivery) -> Delivery {
    failpoint::pass(Failpoint::HandOut);
    delivery
}

impl EmbeddedConsumer {
    async fn fetch(&self, plan: Plan) -> Result<(), TransportError> {
        let asked = plan.clone();
        let mut fetched = self.shared.near.read(move |conn| fetch(conn, &asked)).await.map_err(|error| unreadable(&error))?;
        self.shared.visited.fetch_add(fetched.visited, Ordering::Relaxed);
        let damaged = std::mem::take(&mut fetched.damaged);
        self.queue.apply(&plan, fetched);
        self.give_up(damaged).await;
        Ok(())
    }

    /// Buries rows whose event is damaged. If that fails, the next session finds them again.
    async fn give_up(&self, damaged: Vec<(i64, i64)>) {
        if damaged.is_empty() {
            return;
        }
        for (_, seq) in &damaged {
            self.shared.found(Finding::EventDamaged { seq: u64::try_from(*seq).unwrap_or(0), route: self.route.clone() });
        }
        let letter = DeadLetter {
            route: self.route.clone(),
            plugin: String::new(),
            reason: DeadLetterReason::Undecodable,
            error: "the stored bytes of the event are damaged".to_owned(),
            detail: None,
            attempts: 0,
            history: Vec::new(),
            buried_at: timestamp(self.shared.time.clock().now().as_microsecond()),
            config_hash: String::new(),
            burst: None,
            traceparent: None,
        };
        let Ok(letter) = json(&letter) else { return };
        let route = self.route_id;
        let ids: Vec<i64> = damaged.into_iter().map(|(id, _)| id).collect();
        let reason = DeadLetterReason::Undecodable.name();
        let buried = self.shared.writer.write(move |writing| ids.iter().try_for_each(|id| bury(writing.conn, route, *id, reason, &letter, writing.now))).await;
        if let Err(error) = buried {
            tracing::warn!(route = %self.route, error = error.sentence(), "damaged events were not buried");
        }
    }

    /// Hands the settlement to the writer, which also tells the queue: the caller may be gone by then.
    async fn write(&self, ids: Vec<i64>, change: Change) -> Result<(), WriteError> {
        let (sender, receiver) = oneshot::channel();
        let due_at = change.due_at();
        let settling = Settling { route: self.route.clone(), route_id: self.route_id, ids: ids.clone(), change };
        let told = Told { queue: Arc::clone(&self.queue), session: self.session, ids: ids.clone(), due_at, reply: Some(sender) };
        let mut answer = Answer { queue: &self.queue, session: self.session, ids, receiver };
        // What is done is settled with what comes in next; a wait or a dead letter is what somebody looks for.
        let is_over = matches!(settling.change, Change::Done { .. });
        let (run, finish) = (move |writing: &Writing<'_>| settling.write(writing), move |outcome| told.tell(outcome));
        self.shared.writer.send(if is_over { patient_job(run, finish) } else { job(run, finish) }).await;
        (&mut answer.receiver).await.unwrap_or(Err(WriteError::Closed))
    }
}

/// Waits for what became of a settlement. If it is dropped with a failure unread, nobody has the deliveries in hand any more.
struct Answer<'a> {
    queue: &'a RouteQueue,
    session: u64,
    ids: Vec<i64>,
    receiver: oneshot::Receiver<Result<(), WriteError>>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        // An answer that was read is not there any more.
        if let Ok(Err(_)) = self.receiver.try_recv() {
            self.queue.not_settled(self.session, &self.ids, false);
        }
    }
}

/// Tells the queue and the caller what became of a settlement, even if the work is dropped before the writer had it.
struct Told {
    queue: Arc<RouteQueue>,
    session: u64,
    ids: Vec<i64>,
    due_at: Option<i64>,
    reply: Option<oneshot::Sender<Result<(), WriteError>>>,
}

impl Told {
    fn tell(mut self, outcome: Result<(), WriteError>) {
        let Some(reply) = self.reply.take() else { return };
        match outcome {
            Ok(()) => {
                self.queue.settled(&self.ids);
                if let Some(due_at) = self.due_at {
                    self.queue.note_waiting(due_at);
                }
                let _ = reply.send(Ok(()));
            }
            Err(error) => {
                // Before the answer: whoever gets it may settle again at once.
                self.queue.not_settled(self.session, &self.ids, true);
                if reply.send(Err(error)).is_err() {
                    self.queue.not_settled(self.session, &self.ids, false);
                }
            }
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.reply.take().is_some() {
            self.queue.not_settled(self.session, &self.ids, false);
        }
    }
}
