//! What begins, as far as concurrency, the breaker and the rate allow.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::{
    RouteLoop,
    ending::{Ended, Part},
    session::{Session, SessionEnd},
};
use crate::worker::{Aside, End, Worker};

/// Quick handlings that are asked for at once. What waits for a neighbour among them has its turn with the next ones: three times so many
/// would be more than is acknowledged together by default, and what is finished behind such a gap would be acknowledged one by one.
const WAVE: usize = 32;

impl RouteLoop<'_> {
    /// Starts handlings as far as concurrency, the breaker, the rate and what is still behind allow. Returns how long the rate wants to wait.
    pub(super) fn start_what_may(&mut self, worker: &Arc<Worker>) -> Option<Duration> {
        // What is done and not remembered yet would be done again after a kill: no more than is acknowledged together.
        let behind_max = usize::try_from(self.route.config.prefetch / 5).unwrap_or(usize::MAX).max(1);
        let concurrency = self.route.concurrency();
        let at_once = match &self.bucket {
            _ if self.breaker.is_probing() => 1,
            // Quick ones take turns, however many are asked for; what the rate lets begin is to begin.
            None if self.running.crew().is_quick() => concurrency.max(WAVE.min(behind_max - self.behind.min(behind_max))),
            _ => concurrency,
        };
        while self.handlings < at_once && self.behind < behind_max && self.lanes.has_ready() {
            if let Some(bucket) = &mut self.bucket
                && let Err(wait) = bucket.take(self.route.parts.clock.monotonic())
            {
                return Some(wait);
            }
            let Some((lane, batch)) = self.lanes.take_ready() else { break };
            let (worker, epoch) = (Arc::clone(worker), self.epoch);
            let deliveries = batch.items.len();
            let overtaking = self.begins(&lane, &batch);
            self.handlings += 1;
            self.running.push_handling(async move {
                // The handler's panics are caught inside; this is for a bug of our own, which must not leave the lane busy for ever.
                let end = AssertUnwindSafe(worker.process(&lane, batch, &overtaking)).catch_unwind().await.unwrap_or(End::Broken);
                Some(Ended { epoch, deliveries, part: Part::Handling(lane, worker, end) })
            });
        }
        None
    }

    pub(super) fn settle_asides(&mut self, worker: &Arc<Worker>, session: &mut Session) {
        if session.asides.is_empty() {
            return;
        }
        let asides = std::mem::take(&mut session.asides);
        let (worker, epoch, deliveries) = (Arc::clone(worker), self.epoch, asides.iter().map(Aside::deliveries).sum());
        let keys: Vec<String> = if self.set_aside.is_empty() { Vec::new() } else { asides.iter().flat_map(Aside::keys).map(str::to_owned).collect() };
        let mut settling = Box::pin(async move { worker.settle_aside(asides).await });
        // A transport that takes an acknowledgement at once needs no task for it.
        match AssertUnwindSafe(settling.as_mut()).catch_unwind().now_or_never() {
            Some(Ok(())) => {
                session.in_hand = session.in_hand.saturating_sub(deliveries);
                self.is_set_aside(&keys);
            }
            Some(Err(_)) => session.leave(SessionEnd::broken()),
            None => self.running.push(Box::pin(async move {
                let settled = AssertUnwindSafe(settling).catch_unwind().await;
                settled.ok().map(|()| Ended { epoch, deliveries, part: Part::Aside(keys) })
            })),
        }
    }

    /// What has these keys is finished unhandled.
    pub(super) fn is_set_aside(&mut self, keys: &[String]) {
        for key in keys {
            self.set_aside.remove(key);
        }
    }

    /// With a full window nothing more can come, so the burst that has collected longest need not wait for its quiet time. What is done and
    /// on its way to its settlement makes room by itself.
    pub(super) fn close_a_burst_if_full(&mut self, session: &Session) {
        let full = session.in_hand >= usize::try_from(self.route.config.prefetch).unwrap_or(usize::MAX).max(1);
        if full && self.handlings == 0 && self.behind == 0 && !self.lanes.has_ready() {
            self.lanes.close_oldest_open();
        }
    }
}
