//! Lanes that are busy: which ones are, what waits in them, and what leaves them when something newer counts.

use std::cmp::Reverse;

use super::{Batch, LaneKey, Lanes, State};

impl<I> Batch<I> {
    /// One delivery by itself.
    pub(crate) fn of(item: I) -> Self {
        // Most have one item only: room for exactly that.
        Self { items: vec![item], ..Self::new(State::Ready) }
    }
}

impl<I> Lanes<I> {
    /// Has the lane something earlier that is not finished? A burst that still collects is not yet anything.
    #[must_use]
    pub fn is_busy(&self, key: &LaneKey) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.running || lane.batches.iter().any(|batch| !matches!(batch.state, State::Collecting { .. })))
    }

    /// Does a burst of the lane, that was frozen before a restart, wait for this delivery?
    #[must_use]
    pub fn waits_for(&self, key: &LaneKey, identity: &str) -> bool {
        let is_missing = |batch: &Batch<I>| matches!(&batch.state, State::Reassembling { missing, .. } if missing.iter().any(|member| member == identity));
        self.lanes.get(key).is_some_and(|lane| lane.batches.iter().any(is_missing))
    }

    /// What waits in the lane, oldest first; what runs is out of it.
    pub fn pending(&self, key: &LaneKey) -> impl Iterator<Item = &I> {
        self.lanes.get(key).into_iter().flat_map(|lane| lane.batches.iter().flat_map(|batch| &batch.items))
    }

    /// Takes out of the lane what waits for its turn or for another attempt, unless `stays` says so of one of its items, up to the batch with
    /// the `newcomer`. A burst that collects takes what is newer, and one that comes together again after a restart is waited for.
    pub fn overtake(&mut self, key: &LaneKey, stays: impl Fn(&I) -> bool, newcomer: impl Fn(&I) -> bool) -> Vec<Batch<I>> {
        let Some(lane) = self.lanes.get_mut(key) else { return Vec::new() };
        let mut is_before = true;
        let (overtaken, left) = std::mem::take(&mut lane.batches).into_iter().partition(|batch| {
            is_before &= !batch.items.iter().any(&newcomer);
            is_before && matches!(batch.state, State::Ready | State::Waiting { .. }) && !batch.items.iter().any(&stays)
        });
        lane.batches = left;
        if std::mem::take(&mut lane.queued) {
            self.ready.retain(|Reverse((_, ready))| ready != key);
        }
        self.schedule(key);
        Vec::from_iter::<std::collections::VecDeque<_>>(overtaken)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lanes::BurstLimits;

    const NOW: Duration = Duration::ZERO;

    fn push(lanes: &mut Lanes<u32>, item: u32) {
        lanes.push(&"a".into(), item, false, NOW, |item, member| item.to_string() == member);
    }

    fn overtaken(lanes: &mut Lanes<u32>) -> Vec<Vec<u32>> {
        lanes.overtake(&"a".into(), |item| *item >= 100, |item| *item == 0).into_iter().map(|batch| batch.items).collect()
    }

    #[test]
    fn what_waits_is_taken_out_and_what_is_newer_runs() {
        let mut lanes = Lanes::new(None);
        let key: LaneKey = "a".into();
        assert!(!lanes.is_busy(&key));
        for item in [1, 2, 100] {
            push(&mut lanes, item);
        }
        assert!(lanes.is_busy(&key));
        assert_eq!(lanes.pending(&key).copied().collect::<Vec<_>>(), [1, 2, 100]);
        assert_eq!(overtaken(&mut lanes), [[1], [2]]);
        push(&mut lanes, 3);
        assert_eq!(lanes.take_ready().map(|(_, batch)| batch.items), Some(vec![100]));
        assert!(lanes.take_ready().is_none());
        lanes.finished(&key);
        let (_, head) = lanes.take_ready().unwrap();
        lanes.hold(&key, head, Duration::from_secs(9));
        assert_eq!(overtaken(&mut lanes), [[3]], "what waits for another attempt too");
        assert_eq!((lanes.next_due(), lanes.held().0, lanes.is_busy(&key)), (None, 0, false));
        push(&mut lanes, 4);
        assert_eq!(lanes.take_ready().map(|(_, batch)| batch.items), Some(vec![4]));
    }

    #[test]
    fn a_newcomer_that_waits_already_overtakes_what_is_before_it_only() {
        let mut lanes = Lanes::new(None);
        for item in 1..=4 {
            push(&mut lanes, item);
        }
        let overtaken = lanes.overtake(&"a".into(), |_| false, |item| *item == 3);
        assert_eq!(overtaken.into_iter().map(|batch| batch.items).collect::<Vec<_>>(), [[1], [2]]);
        assert_eq!(lanes.take_ready().map(|(_, batch)| batch.items), Some(vec![3]));
        assert_eq!(lanes.pending(&"a".into()).copied().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_burst_that_collects_is_not_busy_and_stays() {
        let key: LaneKey = "a".into();
        let mut lanes = Lanes::new(Some(BurstLimits { quiet: Duration::from_secs(1), max_wait: Duration::from_secs(9), events_max: 4 }));
        push(&mut lanes, 1);
        assert!(!lanes.is_busy(&key));
        assert!(overtaken(&mut lanes).is_empty());
        push(&mut lanes, 2);
        lanes.advance(Duration::from_secs(1));
        assert_eq!(lanes.take_ready().map(|(_, batch)| batch.items), Some(vec![1, 2]));
        assert!(lanes.is_busy(&key));
        assert_eq!((lanes.open_bursts(), lanes.pending_of(&key)), (0, 0));
    }
}
