//! What a consumer does in the background: it acknowledges in time, notices what is wrong, and closes the channel at the end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;

use super::{Phase, Shared};
use crate::{
    failure::{Failure, LIMIT, within},
    fence,
    scratch::Scratch,
};

/// A consumer without anything in hand, to which nothing was handed out for so long, has its queue looked at; earlier with a short
/// acknowledgement time-out.
const SILENCE: Duration = Duration::from_secs(30);

/// Between two looks at a queue from which something should have come.
const SUSPICION: Duration = Duration::from_secs(5);

/// Between two looks at whether anything is to be done; less with a short acknowledgement time-out.
const TICK: Duration = Duration::from_secs(1);

impl Shared {
    /// Works in the background until the consumer is gone: acknowledges in time, notices what is wrong, and closes the channel.
    pub(super) async fn tend(self: Arc<Self>) {
        let tick = TICK.min(self.parts.options.ack_timeout / 20).max(Duration::from_millis(10));
        let mut next_tick = tick;
        let mut suspect_since = None;
        loop {
            let (phase, due) = {
                let mut hand = self.hand();
                let now = self.now();
                if hand.window.due().is_some_and(|due| due <= now) {
                    self.acknowledge(&mut hand, now, false);
                }
                (hand.phase, hand.window.due())
            };
            if phase != Phase::Open {
                break;
            }
            let now = self.now();
            if now >= next_tick {
                next_tick = now + tick;
                self.drain_stream();
                self.probe(&mut suspect_since).await;
                continue;
            }
            let wake_at = due.map_or(next_tick, |due| due.min(next_tick));
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(wake_at.saturating_sub(now)) => {}
            }
        }
        self.close_channel().await;
        self.gone.cancel();
    }

    /// What is on its way to a core that wants nothing grows old all the same, so it is taken out of lapin's hands.
    fn drain_stream(self: &Arc<Self>) {
        let mut hand = self.hand();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // A handle of its own: it would take the waker of who waits in `next`.
        let mut stream = hand.stream.clone();
        while hand.phase == Phase::Open {
            match Pin::new(&mut stream).poll_next(&mut cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Some(delivery) = self.admit(&mut hand, message) {
                        hand.stash.push_back(delivery);
                        self.changed.notify_one();
                    }
                }
                Poll::Ready(Some(Err(error))) => self.end(&mut hand, &Failure::of("its channel", &error).to_string()),
                Poll::Ready(None) => self.end(&mut hand, "the broker cancelled it, as it does when the queue is deleted"),
                Poll::Pending => {
                    let now = self.now();
                    hand.window.seen_empty(now);
                    break;
                }
            }
        }
        if self.session.is_over() || !self.channel.status().connected() {
            self.end(&mut hand, "its channel is closed");
        }
    }

    /// Asks the broker whether something should have come.
    async fn probe(&self, suspect_since: &mut Option<Duration>) {
        let (heard_at, now) = {
            let hand = self.hand();
            if hand.phase != Phase::Open || hand.window.in_hand() > 0 {
                *suspect_since = None;
                return;
            }
            (hand.heard_at, self.now())
        };
        if suspect_since.is_some_and(|since| heard_at > since) {
            *suspect_since = None;
        }
        let timeout = self.parts.options.ack_timeout;
        let look_at = suspect_since.map_or(heard_at + SILENCE.min(timeout / 4), |since| since + SUSPICION.min(timeout / 8));
        if now < look_at {
            return;
        }
        let mut scratch = Scratch::new(&self.session);
        let found = scratch.look(&self.queue).await;
        scratch.end().await;
        let mut hand = self.hand();
        match found {
            Ok(None) => self.end(&mut hand, "its queue is not there any more"),
            Err(failure) if !failure.is_refused() => self.end(&mut hand, &failure.to_string()),
            // Another consumer may be the active one, which has enough in hand.
            Ok(Some(count)) if count.ready > 0 && count.consumers <= 1 => match suspect_since {
                Some(_) => self.end(&mut hand, &format!("{} events wait in the queue, and none is handed out", count.ready)),
                None => *suspect_since = Some(self.now()),
            },
            _ => {
                *suspect_since = None;
                if hand.heard_at == heard_at {
                    hand.heard_at = self.now();
                }
            }
        }
    }

    /// Gives back what is unfinished, in order and uncounted.
    async fn close_channel(&self) {
        // What goes to the next step of the ladder is on the broker twice until it is acknowledged here.
        let forwarded = async {
            while self.hand().held.is_forwarding() {
                self.work.notified().await;
            }
        };
        if !self.session.is_over() && tokio::time::timeout(LIMIT, forwarded).await.is_err() {
            tracing::warn!(route = %self.route, "events on their way to a wait were not confirmed in time, and come back twice");
        }
        let may_be_kept_back = {
            let mut hand = self.hand();
            let now = self.now();
            self.acknowledge(&mut hand, now, true);
            // Of a consumer that has ended by itself, nobody knows whether anybody would answer.
            let is_leaving = hand.phase != Phase::Over;
            hand.phase = Phase::Over;
            is_leaving && hand.has_acknowledged && self.parts.takes_a_second
        };
        if may_be_kept_back
            && self.channel.status().connected()
            && let Err(failure) = fence::acknowledged(&self.session, &self.channel, &self.queue).await
            && !self.session.is_over()
            && !failure.is_missing()
        {
            tracing::warn!(route = %self.route, "some of what was handled may come again, since the broker has not said that it has its acknowledgements: {failure}");
        }
        if self.channel.status().connected() {
            let closed = within("closing its channel", LIMIT, self.channel.close(200, "leaving".into())).await;
            if let Err(failure) = closed
                && !self.session.is_over()
            {
                tracing::debug!(route = %self.route, "{failure}");
            }
        }
    }
}
