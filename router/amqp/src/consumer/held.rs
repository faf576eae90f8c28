//! What still has to wait when it comes into hand: held there for less than a second, else brought to the next step of the ladder.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc, time::Duration};

use router_api::Delivery;

use super::{Hand, Shared};
use crate::{waits, wire};

/// Between two attempts to bring something to the next step of the ladder.
const FORWARD_AGAIN: Duration = Duration::from_secs(1);

/// All that waits and is in hand.
pub(super) struct HeldBack {
    held: BinaryHeap<Held>,
    /// On their way to the next step of the ladder.
    forwarding: usize,
    /// So many may wait in hand for less than a second each.
    most: usize,
}

impl HeldBack {
    pub(super) fn new(most: usize) -> Self {
        Self { held: BinaryHeap::new(), forwarding: 0, most }
    }

    /// When to look again.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.held.peek().map(|held| held.at)
    }

    /// What is to be looked at by now.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Held> {
        if self.next_at()? <= now { self.held.pop() } else { None }
    }

    pub(super) fn is_forwarding(&self) -> bool {
        self.forwarding > 0
    }

    /// The broker takes it all back.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }

    /// Decides where to wait on.
    fn wait_on(&mut self, now: Duration, held: Held) -> Step {
        let left = held.due.saturating_sub(now);
        if left.is_zero() {
            return Step::Ripe(held.delivery);
        }
        if left < waits::SHORTEST && self.held.len() < self.most {
            self.held.push(Held { at: held.due, ..held });
            return Step::Held;
        }
        self.forwarding += 1;
        Step::Forward(held, left.max(waits::SHORTEST))
    }

    /// A step of the ladder did not take it: it waits on in hand, and is tried again before long.
    fn keep(&mut self, now: Duration, held: Held) {
        let at = now.saturating_add(FORWARD_AGAIN).min(held.due.max(now));
        self.held.push(Held { at, ..held });
    }
}

enum Step {
    /// It has waited enough.
    Ripe(Delivery),
    Held,
    /// To the next step, for so long.
    Forward(Held, Duration),
}

/// A delivery that waits in hand.
pub(super) struct Held {
    /// When to look at it again.
    at: Duration,
    /// When it may be handed out.
    due: Duration,
    delivery: Delivery,
}

impl Held {
    pub(super) fn new(now: Duration, due: Duration, delivery: Delivery) -> Self {
        Self { at: now, due, delivery }
    }

    fn order(&self) -> (Duration, u64) {
        (self.at, self.delivery.tag)
    }
}

/// The earliest is the greatest, since a heap gives the greatest.
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        other.order().cmp(&self.order())
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Held {}

impl Shared {
    /// Waits on with a delivery. Gives it back if it has waited enough.
    pub(super) fn wait_on(self: &Arc<Self>, hand: &mut Hand, held: Held) -> Option<Delivery> {
        match hand.held.wait_on(self.now(), held) {
            Step::Ripe(delivery) => Some(delivery),
            Step::Held => {
                // Who waits in `next` sleeps until an earlier one is due, or for ever if there was none.
                self.changed.notify_one();
                None
            }
            Step::Forward(held, left) => {
                tokio::spawn(Arc::clone(self).forward(held, left));
                None
            }
        }
    }

    async fn forward(self: Arc<Self>, held: Held, left: Duration) {
        let delivery = &held.delivery;
        let sent = waits::send(&self.parts.publisher, &self.queue, delivery.body.clone(), wire::forwarded(delivery), left).await;
        let mut hand = self.hand();
        hand.held.forwarding -= 1;
        match sent {
            Ok(()) => self.finish(&mut hand, &[held.delivery]),
            Err(failure) => {
                tracing::debug!(route = %self.route, "an event that waits stays in hand for now: {failure}");
                hand.held.keep(self.now(), held);
                self.changed.notify_one();
            }
        }
        drop(hand);
        self.work.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn held(tag: u64, due: Duration) -> Held {
        let delivery = Delivery {
            tag,
            identity: String::new(),
            key: "k".parse().expect("a key"),
            body: bytes::Bytes::new(),
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            attempts: 0,
            history: Vec::new(),
            hops: 0,
            direct: false,
            redelivered: false,
            seq: None,
            traceparent: None,
        };
        Held::new(Duration::ZERO, due, delivery)
    }

    fn tags(back: &mut HeldBack, now: Duration) -> Vec<u64> {
        std::iter::from_fn(|| back.pop(now)).map(|held| held.delivery.tag).collect()
    }

    #[test]
    fn the_rest_of_a_wait_is_held_in_hand_and_longer_ones_go_to_the_next_step() {
        let mut back = HeldBack::new(2);
        assert!(matches!(back.wait_on(ms(400), held(1, ms(400))), Step::Ripe(delivery) if delivery.tag == 1));
        assert!(matches!(back.wait_on(ms(0), held(2, ms(1_000))), Step::Forward(_, left) if left == ms(1_000)));
        assert!(matches!(back.wait_on(ms(0), held(3, ms(900))), Step::Held));
        assert!(matches!(back.wait_on(ms(0), held(4, ms(300))), Step::Held));
        // No more than so many: the broker would hand out nothing else.
        assert!(matches!(back.wait_on(ms(0), held(5, ms(300))), Step::Forward(_, left) if left == waits::SHORTEST));
        assert_eq!((back.next_at(), back.is_forwarding()), (Some(ms(300)), true));
        assert!(tags(&mut back, ms(299)).is_empty());
        assert_eq!(tags(&mut back, ms(900)), [4, 3]);
    }

    #[test]
    fn what_no_step_takes_is_tried_again_and_never_kept_beyond_its_time() {
        let mut back = HeldBack::new(1);
        back.keep(ms(100), held(1, ms(9_000)));
        back.keep(ms(100), held(2, ms(500)));
        back.keep(ms(100), held(3, ms(50)));
        assert_eq!(tags(&mut back, ms(100)), [3]);
        assert_eq!(tags(&mut back, ms(500)), [2]);
        assert!(tags(&mut back, ms(1_099)).is_empty());
        assert_eq!(tags(&mut back, ms(1_100)), [1]);
    }
}
