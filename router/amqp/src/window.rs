//! What is in hand on one channel, and what to acknowledge now.
//!
//! Decides only; `consumer.rs` does. Tags of a channel count from 1 without gaps, so the window is a queue of slots. What is finished
//! from its front on is acknowledged with one frame; what is finished above something unfinished is acknowledged one by one, and not
//! before [`Rules::gap_delay`], since the gap mostly closes by itself.

use std::{collections::VecDeque, time::Duration};

/// When to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Finished deliveries that are not acknowledged yet never exceed this.
    pub(crate) batch: usize,
    /// A finished front waits so long for more.
    pub(crate) delay: Duration,
    /// What is finished above a gap waits so long for the gap to close.
    pub(crate) gap_delay: Duration,
}

/// What to acknowledge.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acks {
    /// Everything up to this tag, with one frame. The tag itself is never acknowledged twice: a broker closes the channel for that.
    pub(crate) up_to: Option<u64>,
    /// Each of these for itself.
    pub(crate) singly: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// In hand; handed out by the broker since then.
    InHand { since: Duration },
    /// Finished, and not acknowledged.
    Finished,
    /// Acknowledged, behind something that is not.
    Acknowledged,
}

/// The deliveries of one channel.
#[derive(Debug)]
pub(crate) struct Window {
    rules: Rules,
    /// The tag of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Slots at the front of which none is in hand any more.
    front: usize,
    /// The last finished slot of the front, counted from 1: what one frame acknowledges.
    front_finished_up_to: usize,
    /// Finished and not acknowledged, at the front.
    finished_front: usize,
    /// The same above a gap.
    finished_above: usize,
    in_hand: usize,
    /// When the first of the finished front was finished, or earlier, which only acknowledges sooner.
    front_since: Option<Duration>,
    /// The same for what is finished above a gap.
    above_since: Option<Duration>,
    /// When nothing was on its way from the broker to us.
    empty_at: Duration,
}

impl Window {
    /// Of a channel that is opened now.
    pub(crate) fn new(rules: Rules, now: Duration) -> Self {
        Self {
            rules: Rules { batch: rules.batch.max(1), ..rules },
            first: 1,
            slots: VecDeque::new(),
            front: 0,
            front_finished_up_to: 0,
            finished_front: 0,
            finished_above: 0,
            in_hand: 0,
            front_since: None,
            above_since: None,
            empty_at: now,
        }
    }

    /// Nothing is on its way to us: what comes from here on was not handed out before `now`.
    pub(crate) fn seen_empty(&mut self, now: Duration) {
        self.empty_at = now;
    }

    /// A delivery comes into hand. False for a tag out of turn, which no broker sends: the channel is then of no use any more.
    pub(crate) fn take(&mut self, tag: u64) -> bool {
        if tag != self.first + self.slots.len() as u64 {
            return false;
        }
        self.slots.push_back(Slot::InHand { since: self.empty_at });
        self.in_hand += 1;
        true
    }

    /// Is this delivery in hand?
    pub(crate) fn holds(&self, tag: u64) -> bool {
        self.index(tag).is_some_and(|index| matches!(self.slots[index], Slot::InHand { .. }))
    }

    /// A delivery is finished. False if it is not in hand.
    pub(crate) fn finish(&mut self, tag: u64, now: Duration) -> bool {
        let Some(index) = self.index(tag).filter(|index| matches!(self.slots[*index], Slot::InHand { .. })) else { return false };
        self.slots[index] = Slot::Finished;
        self.in_hand -= 1;
        self.finished_above += 1;
        if index > self.front {
            self.above_since.get_or_insert(now);
            return true;
        }
        // The gap closes: what was finished above it belongs to the front from here on.
        self.front_since.get_or_insert(now);
        while let Some(slot) = self.slots.get(self.front).filter(|slot| !matches!(slot, Slot::InHand { .. })) {
            self.front += 1;
            if *slot == Slot::Finished {
                self.finished_above -= 1;
                self.finished_front += 1;
                self.front_finished_up_to = self.front;
            }
        }
        if self.finished_above == 0 {
            self.above_since = None;
        }
        true
    }

    /// What to acknowledge now; everything that is finished with `all`. What is returned counts as acknowledged.
    pub(crate) fn acks(&mut self, now: Duration, all: bool) -> Acks {
        let mut acks = Acks::default();
        if self.finished_front > 0 && (all || self.is_full() || is_due(self.front_since, self.rules.delay, now)) {
            acks.up_to = Some(self.first + self.front_finished_up_to as u64 - 1);
            self.slots.drain(..self.front);
            self.first += self.front as u64;
            (self.front, self.front_finished_up_to, self.finished_front, self.front_since) = (0, 0, 0, None);
        }
        if self.finished_above > 0 && (all || self.is_full() || is_due(self.above_since, self.rules.gap_delay, now)) {
            acks.singly.reserve_exact(self.finished_above);
            for (index, slot) in self.slots.iter_mut().enumerate().skip(self.front) {
                if *slot == Slot::Finished {
                    *slot = Slot::Acknowledged;
                    acks.singly.push(self.first + index as u64);
                }
            }
            (self.finished_above, self.above_since) = (0, None);
        }
        acks
    }

    /// When [`Window::acks`] has something to say, if nothing else happens before.
    pub(crate) fn due(&self) -> Option<Duration> {
        let front = self.front_since.map(|since| since.saturating_add(self.rules.delay));
        let above = self.above_since.map(|since| since.saturating_add(self.rules.gap_delay));
        front.into_iter().chain(above).min()
    }

    /// Must something be acknowledged at once?
    pub(crate) fn is_full(&self) -> bool {
        self.finished_front + self.finished_above >= self.rules.batch
    }

    /// Deliveries in hand.
    pub(crate) fn in_hand(&self) -> usize {
        self.in_hand
    }

    /// Since when the broker waits for the oldest delivery in hand.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        match self.slots.get(self.front) {
            Some(Slot::InHand { since }) => Some(*since),
            _ => None,
        }
    }

    fn index(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag.checked_sub(self.first)?).ok().filter(|index| *index < self.slots.len())
    }
}

fn is_due(since: Option<Duration>, delay: Duration, now: Duration) -> bool {
    since.is_some_and(|since| now >= since.saturating_add(delay))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { batch: 4, delay: Duration::from_millis(5), gap_delay: Duration::from_millis(50) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn window(taken: u64) -> Window {
        let mut window = Window::new(RULES, ms(0));
        for tag in 1..=taken {
            assert!(window.take(tag));
        }
        window
    }

    fn up_to(tag: u64) -> Acks {
        Acks { up_to: Some(tag), singly: Vec::new() }
    }

    fn singly(tags: &[u64]) -> Acks {
        Acks { up_to: None, singly: tags.to_vec() }
    }

    #[test]
    fn a_finished_front_is_acknowledged_with_one_frame_after_its_delay() {
        let mut window = window(5);
        assert!(window.finish(2, ms(10)) && window.finish(1, ms(11)));
        assert_eq!(window.due(), Some(ms(16)));
        assert_eq!(window.acks(ms(15), false), Acks::default());
        assert_eq!(window.acks(ms(16), false), up_to(2));
        assert_eq!((window.due(), window.in_hand()), (None, 3));
    }

    #[test]
    fn a_slow_delivery_is_never_acknowledged_by_a_later_one() {
        let mut window = window(5);
        for tag in [2, 3, 5] {
            assert!(window.finish(tag, ms(0)));
        }
        assert_eq!(window.due(), Some(ms(50)));
        assert_eq!(window.acks(ms(49), false), Acks::default());
        assert_eq!(window.acks(ms(50), false), singly(&[2, 3, 5]));
        assert!(window.finish(4, ms(60)));
        assert_eq!(window.acks(ms(60), true), singly(&[4]));
        assert_eq!(window.oldest(), Some(ms(0)));
        // Tag 5 is acknowledged already: a frame up to it would be one for nothing, which closes the channel.
        assert!(window.finish(1, ms(61)));
        assert_eq!(window.acks(ms(61), true), up_to(1));
        assert_eq!((window.in_hand(), window.oldest()), (0, None));
        assert!(window.take(6));
    }

    #[test]
    fn a_full_batch_waits_for_nothing() {
        let mut window = window(9);
        for tag in [1, 2, 3] {
            assert!(window.finish(tag, ms(0)) && !window.is_full());
        }
        assert!(window.finish(4, ms(0)) && window.is_full());
        assert_eq!(window.acks(ms(0), false), up_to(4));
        for tag in [6, 7, 8, 9] {
            assert!(window.finish(tag, ms(1)));
        }
        assert_eq!(window.acks(ms(1), false), singly(&[6, 7, 8, 9]));
    }

    #[test]
    fn what_is_not_in_hand_is_not_finished() {
        let mut window = window(2);
        assert!(!window.finish(0, ms(0)) && !window.finish(3, ms(0)) && !window.finish(u64::MAX, ms(0)));
        assert!(window.finish(2, ms(0)) && !window.finish(2, ms(0)) && !window.holds(2) && window.holds(1));
        assert!(!window.take(2) && !window.take(4) && window.take(3));
    }

    #[test]
    fn the_age_of_a_delivery_counts_from_when_nothing_was_on_its_way() {
        let mut window = Window::new(RULES, ms(100));
        assert!(window.take(1));
        window.seen_empty(ms(200));
        assert!(window.take(2) && window.take(3));
        assert_eq!(window.oldest(), Some(ms(100)));
        assert!(window.finish(1, ms(300)));
        assert_eq!(window.oldest(), Some(ms(200)));
        window.acks(ms(300), true);
        assert_eq!(window.oldest(), Some(ms(200)));
    }

    /// What a broker keeps, and does when it is told something that cannot be.
    struct Broker {
        unacknowledged: BTreeSet<u64>,
        finished: BTreeSet<u64>,
    }

    impl Broker {
        fn acknowledge(&mut self, acks: &Acks) {
            if let Some(tag) = acks.up_to {
                assert!(self.unacknowledged.contains(&tag), "{tag} is acknowledged twice");
                let upper = self.unacknowledged.split_off(&(tag + 1));
                for tag in std::mem::replace(&mut self.unacknowledged, upper) {
                    assert!(self.finished.contains(&tag), "{tag} is acknowledged, and not finished");
                }
            }
            for tag in &acks.singly {
                assert!(self.unacknowledged.remove(tag), "{tag} is acknowledged twice");
                assert!(self.finished.contains(tag), "{tag} is acknowledged, and not finished");
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        /// Finishes the delivery at this place among those in hand.
        Finish(prop::sample::Index),
        FinishOldest,
        Pass(u64),
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Take),
            6 => any::<prop::sample::Index>().prop_map(Step::Finish),
            // The oldest, so that gaps close.
            2 => Just(Step::FinishOldest),
            2 => (1_u64..30).prop_map(Step::Pass),
            1 => Just(Step::Flush),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_order_of_finishing_acknowledges_what_is_finished_once_in_time_and_nothing_else(steps in prop::collection::vec(step(), 1..300)) {
            let mut window = Window::new(RULES, ms(0));
            let mut broker = Broker { unacknowledged: BTreeSet::new(), finished: BTreeSet::new() };
            let (mut in_hand, mut next, mut now) = (Vec::new(), 1_u64, ms(0));
            for step in steps {
                match step {
                    Step::Take => {
                        prop_assert!(window.take(next));
                        broker.unacknowledged.insert(next);
                        in_hand.push(next);
                        next += 1;
                    }
                    Step::Finish(_) | Step::FinishOldest if !in_hand.is_empty() => {
                        let place = if let Step::Finish(index) = step { index.index(in_hand.len()) } else { 0 };
                        let tag = in_hand.remove(place);
                        prop_assert!(window.holds(tag) && window.finish(tag, now) && !window.holds(tag));
                        broker.finished.insert(tag);
                    }
                    Step::Finish(_) | Step::FinishOldest => {}
                    Step::Pass(passed) => now += ms(passed),
                    Step::Flush => {
                        broker.acknowledge(&window.acks(now, true));
                        prop_assert!(broker.unacknowledged.is_disjoint(&broker.finished));
                    }
                }
                let was_due = window.is_full() || window.due().is_some_and(|due| due <= now);
                let acks = window.acks(now, false);
                prop_assert!(was_due != (acks == Acks::default()), "due: {was_due}, but there came {acks:?}");
                broker.acknowledge(&acks);
                prop_assert!(!window.is_full(), "more than a batch is finished and not acknowledged");
                prop_assert!(window.due().is_none_or(|due| due > now), "what is due stays");
                prop_assert_eq!(window.in_hand(), in_hand.len());
                prop_assert_eq!(window.oldest().is_some(), !in_hand.is_empty());
                // Nothing finished is forgotten.
                let open = broker.unacknowledged.intersection(&broker.finished).count();
                prop_assert_eq!(window.due().is_some(), open > 0);
            }
            broker.acknowledge(&window.acks(now, true));
            prop_assert_eq!(broker.unacknowledged.into_iter().collect::<Vec<_>>(), in_hand);
        }
    }
}
