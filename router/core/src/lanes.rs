//! Lanes and bursts: which deliveries in hand may be handled now, which wait behind another one, which still collect.
//!
//! A lane is a queue of batches. Only its first batch may run, one at a time; a route without `coalesce` has batches of one.
//! Nothing here waits or does anything: the route's loop asks, acts, and tells what came of it. Times are monotonic.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use router_api::{AttemptRecord, FrozenBurst};

mod busy;

/// Names a lane.
pub type LaneKey = Arc<str>;

/// When a burst closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurstLimits {
    /// Nothing came for so long.
    pub quiet: Duration,
    /// So long after its first event.
    pub max_wait: Duration,
    /// With so many events.
    pub events_max: usize,
}

/// What is handled and settled as one.
#[derive(Debug)]
pub struct Batch<I> {
    /// In order.
    pub items: Vec<I>,
    /// The id of the burst, once its composition is frozen.
    pub frozen: Option<String>,
    /// Attempts that failed while it waited in hand, beyond those that the deliveries count.
    pub failed: u32,
    /// Their records, oldest first.
    pub history: Vec<AttemptRecord>,
    /// It is done, and the ledger has something of it.
    pub wrote: bool,
    /// When it came to stand where it may run as soon as it is the first, counted in batches.
    came: Option<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// May run as soon as it is the first.
    Ready,
    /// Takes further events.
    Collecting { quiet_until: Duration, closes_at: Duration },
    /// A burst that was frozen before a restart waits for its members to be delivered again.
    Reassembling { missing: Vec<String>, gives_up_at: Duration },
    /// Failed; runs again then.
    Waiting { until: Duration },
}

impl<I> Batch<I> {
    fn new(state: State) -> Self {
        Self { items: Vec::new(), frozen: None, failed: 0, history: Vec::new(), wrote: false, came: None, state }
    }

    fn due_at(&self) -> Option<Duration> {
        match &self.state {
            State::Ready => None,
            State::Collecting { quiet_until, closes_at } => Some(*quiet_until.min(closes_at)),
            State::Reassembling { gives_up_at, .. } => Some(*gives_up_at),
            State::Waiting { until } => Some(*until),
        }
    }
}

#[derive(Debug)]
struct Lane<I> {
    batches: VecDeque<Batch<I>>,
    /// A batch of it is out (see [`Lanes::take_ready`]).
    running: bool,
    /// Stands in `ready`.
    queued: bool,
    /// Where it stood there the last time.
    stood: u64,
    /// A batch of it has had a turn.
    had_turn: bool,
    /// Stands in `timers`.
    timer: Option<Duration>,
}

impl<I> Default for Lane<I> {
    fn default() -> Self {
        Self { batches: VecDeque::new(), running: false, queued: false, stood: 0, had_turn: false, timer: None }
    }
}

impl<I> Lane<I> {
    fn pending(&self) -> usize {
        self.batches.iter().map(|batch| batch.items.len()).sum()
    }

    /// Where the lane comes to stand among those whose first batch may run, if `last` is behind all others.
    ///
    /// By when its batch came: what stands in no other's way is handled in the order in which it came, so that a transport that acknowledges
    /// up to the first unfinished delivery has few gaps. A busy lane queues up behind the others again all the same, since it lets the more of
    /// them go first, the more waits in it.
    fn place(&mut self, last: u64) -> u64 {
        let waiting = u64::try_from(self.batches.len()).unwrap_or(u64::MAX);
        let came = self.batches.front_mut().map_or(last, |front| *front.came.get_or_insert(last));
        if self.had_turn { came.max(last.min(self.stood.saturating_add(LET_FIRST.saturating_mul(waiting)))) } else { came }
    }

    fn is_waiting(&self) -> bool {
        !self.running && matches!(self.batches.front(), Some(Batch { state: State::Waiting { .. }, .. }))
    }
}

/// All lanes of one route.
#[derive(Debug)]
pub struct Lanes<I> {
    limits: Option<BurstLimits>,
    lanes: HashMap<LaneKey, Lane<I>>,
    /// Lanes whose first batch may run, the next one on top: see [`Lane::place`].
    ready: BinaryHeap<Reverse<(u64, LaneKey)>>,
    /// Counts what comes to stand in `ready`.
    numbers: u64,
    timers: BTreeSet<(Duration, LaneKey)>,
    /// Lanes whose head waits for its next attempt.
    waiting: HashSet<LaneKey>,
    /// Batches that collect.
    open_bursts: usize,
    /// Emptied queues of lanes that are gone: with many lanes of one event each, every event would need a new one.
    spare: Vec<VecDeque<Batch<I>>>,
}

/// A lane that has had its turn lets so many go first for each batch that waits in it.
const LET_FIRST: u64 = 16;

/// Of [`Lanes::spare`].
const SPARE_MAX: usize = 64;
/// A longer queue is not kept.
const SPARE_BATCHES_MAX: usize = 16;

impl<I> Lanes<I> {
    /// No lanes yet; `limits` for a route that coalesces.
    #[must_use]
    pub fn new(limits: Option<BurstLimits>) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            ready: BinaryHeap::new(),
            numbers: 0,
            timers: BTreeSet::new(),
            waiting: HashSet::new(),
            open_bursts: 0,
            spare: Vec::new(),
        }
    }

    /// Reserves the front of a lane for a burst that was frozen before a restart, until all its members are back or
    /// `gives_up_at` is over.
    pub fn expect(&mut self, burst: &FrozenBurst, gives_up_at: Duration) {
        let key: LaneKey = burst.lane.as_str().into();
        let mut batch = Batch::new(State::Reassembling { missing: burst.members.clone(), gives_up_at });
        batch.frozen = Some(burst.id.clone());
        self.lanes.entry(Arc::clone(&key)).or_default().batches.push_back(batch);
        self.schedule(&key);
    }

    /// A delivery comes by itself, since an operator has put it back: no burst of the lane waits for it any more.
    pub fn comes_alone(&mut self, key: &LaneKey, identity: &str) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        for batch in &mut lane.batches {
            if let State::Reassembling { missing, gives_up_at } = &mut batch.state
                && let Some(position) = missing.iter().position(|member| member == identity)
            {
                missing.remove(position);
                if missing.is_empty() && batch.items.is_empty() {
                    // Nobody comes for it.
                    *gives_up_at = Duration::ZERO;
                } else if missing.is_empty() {
                    batch.state = State::Ready;
                }
            }
        }
        self.schedule(key);
    }

    /// Puts a delivery into its lane. `alone` keeps it out of bursts; `is` tells whether it is that member of a frozen burst.
    pub fn push(&mut self, key: &LaneKey, item: I, alone: bool, now: Duration, is: impl Fn(&I, &str) -> bool) {
        let lane = self.lanes.entry(Arc::clone(key)).or_insert_with(|| Lane { batches: self.spare.pop().unwrap_or_default(), ..Lane::default() });
        for batch in &mut lane.batches {
            if let State::Reassembling { missing, .. } = &mut batch.state
                && let Some(position) = missing.iter().position(|member| is(&item, member))
            {
                missing.remove(position);
                batch.items.push(item);
                if missing.is_empty() {
                    batch.state = State::Ready;
                }
                self.schedule(key);
                return;
            }
        }
        match self.limits {
            Some(limits) if !alone => {
                let change = collect(lane, item, limits, now);
                self.open_bursts = self.open_bursts.saturating_add_signed(change);
            }
            _ => {
                self.numbers += 1;
                lane.batches.push_back(Batch { came: Some(self.numbers), ..Batch::of(item) });
            }
        }
        self.schedule(key);
    }

    /// Moves on what is due. Returns the ids of frozen bursts of which no member came back.
    pub fn advance(&mut self, now: Duration) -> Vec<String> {
        let mut abandoned = Vec::new();
        while let Some((due, key)) = self.timers.first().cloned() {
            if due > now {
                break;
            }
            self.timers.pop_first();
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            lane.timer = None;
            if let Some(front) = lane.batches.front_mut() {
                if front.items.is_empty() {
                    abandoned.extend(front.frozen.take());
                    lane.batches.pop_front();
                } else {
                    if matches!(front.state, State::Collecting { .. }) {
                        self.open_bursts -= 1;
                    }
                    front.state = State::Ready;
                }
            }
            self.schedule(&key);
        }
        abandoned
    }

    /// When [`Lanes::advance`] has something to do next.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Is there a batch to run?
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the next batch that may run. Its lane is busy until [`Lanes::finished`] or [`Lanes::hold`].
    pub fn take_ready(&mut self) -> Option<(LaneKey, Batch<I>)> {
        let Reverse((stood, key)) = self.ready.pop()?;
        let lane = self.lanes.get_mut(&key).expect("a queued lane exists");
        lane.queued = false;
        lane.running = true;
        (lane.stood, lane.had_turn) = (stood, true);
        let batch = lane.batches.pop_front().expect("a queued lane has a first batch");
        Some((key, batch))
    }

    /// The batch that was taken is settled, or gone with its session.
    pub fn finished(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.running = false;
            self.schedule(key);
        }
    }

    /// The batch that was taken waits at the head of its lane and runs again at `until`.
    pub fn hold(&mut self, key: &LaneKey, mut batch: Batch<I>, until: Duration) {
        batch.came = None;
        batch.state = State::Waiting { until };
        let lane = self.lanes.entry(Arc::clone(key)).or_default();
        lane.running = false;
        lane.batches.push_front(batch);
        self.schedule(key);
    }

    /// The batch that was taken has not begun: it stands at the head of its lane as before.
    pub fn put_back(&mut self, key: &LaneKey, mut batch: Batch<I>) {
        batch.state = State::Ready;
        let lane = self.lanes.entry(Arc::clone(key)).or_default();
        lane.running = false;
        lane.batches.push_front(batch);
        self.schedule(key);
    }

    /// Closes the burst that has collected longest, because the window is full. False if none is open.
    pub fn close_oldest_open(&mut self) -> bool {
        let oldest = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.running)
            .filter_map(|(key, lane)| match lane.batches.front()?.state {
                State::Collecting { closes_at, .. } => Some((closes_at, Arc::clone(key))),
                _ => None,
            })
            .min();
        let Some((_, key)) = oldest else { return false };
        if let Some(front) = self.lanes.get_mut(&key).and_then(|lane| lane.batches.front_mut()) {
            front.state = State::Ready;
            self.open_bursts -= 1;
        }
        self.schedule(&key);
        true
    }

    /// Lets bursts that wait for their next attempt run now, if `wanted` says so of their id.
    pub fn hurry(&mut self, wanted: impl Fn(&str) -> bool) {
        let mut waiting: Vec<LaneKey> = self.waiting.iter().cloned().collect();
        // A set has another order in each process.
        waiting.sort_unstable();
        for key in waiting {
            if let Some(front) = self.lanes.get_mut(&key).and_then(|lane| lane.batches.front_mut())
                && front.frozen.as_deref().is_some_and(&wanted)
            {
                front.state = State::Ready;
                self.schedule(&key);
            }
        }
    }

    /// Deliveries in lanes whose head waits for its next attempt, and such a lane.
    #[must_use]
    pub fn held(&self) -> (usize, Option<&LaneKey>) {
        let pending = |key: &LaneKey| self.lanes.get(key).map_or(0, Lane::pending);
        let held = self.waiting.iter().map(pending).sum();
        (held, self.waiting.iter().max_by_key(|key| (pending(key), (*key).clone())))
    }

    /// Deliveries of one lane that do not run yet.
    #[must_use]
    pub fn pending_of(&self, key: &LaneKey) -> usize {
        self.lanes.get(key).map_or(0, Lane::pending)
    }

    /// Does the lane wait for members of a burst that was frozen before a restart?
    #[must_use]
    pub fn is_reassembling(&self, key: &LaneKey) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.batches.iter().any(|batch| matches!(batch.state, State::Reassembling { .. })))
    }

    /// Bursts that collect.
    #[must_use]
    pub fn open_bursts(&self) -> usize {
        self.open_bursts
    }

    /// Bursts that have failed and wait for their next attempt.
    #[must_use]
    pub fn failing_bursts(&self) -> usize {
        let front = |key: &LaneKey| self.lanes.get(key).and_then(|lane| lane.batches.front());
        self.waiting.iter().filter(|key| front(key).is_some_and(|front| front.frozen.is_some() && front.failed > 0)).count()
    }

    /// Forgets everything that does not run: the session is over, and the deliveries come back. Lanes with a running batch stay
    /// busy, so that the next session does not overtake it.
    pub fn forget_pending(&mut self) {
        self.ready.clear();
        self.timers.clear();
        self.waiting.clear();
        self.open_bursts = 0;
        self.lanes.retain(|_, lane| lane.running);
        for lane in self.lanes.values_mut() {
            lane.batches.clear();
            lane.queued = false;
            lane.timer = None;
        }
    }

    /// Brings `ready` and `timers` up to date with a lane's first batch; removes an empty lane.
    fn schedule(&mut self, key: &LaneKey) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let front_due = if lane.running { None } else { lane.batches.front().and_then(Batch::due_at) };
        if lane.timer != front_due {
            if let Some(old) = lane.timer {
                self.timers.remove(&(old, Arc::clone(key)));
            }
            if let Some(new) = front_due {
                self.timers.insert((new, Arc::clone(key)));
            }
            lane.timer = front_due;
        }
        if lane.is_waiting() {
            self.waiting.insert(Arc::clone(key));
        } else if !self.waiting.is_empty() {
            self.waiting.remove(key);
        }
        if lane.running {
            return;
        }
        match lane.batches.front() {
            None => {
                if let Some(lane) = self.lanes.remove(key)
                    && self.spare.len() < SPARE_MAX
                    && lane.batches.capacity() <= SPARE_BATCHES_MAX
                {
                    self.spare.push(lane.batches);
                }
            }
            Some(Batch { state: State::Ready, .. }) if !lane.queued => {
                lane.queued = true;
                self.numbers += 1;
                self.ready.push(Reverse((lane.place(self.numbers), Arc::clone(key))));
            }
            Some(_) => {}
        }
    }
}

/// Adds an item to the last burst of a lane, or opens one. Returns by how much the number of open bursts changed.
fn collect<I>(lane: &mut Lane<I>, item: I, limits: BurstLimits, now: Duration) -> isize {
    let mut change = 0;
    if !matches!(lane.batches.back(), Some(Batch { state: State::Collecting { .. }, .. })) {
        lane.batches.push_back(Batch::new(State::Collecting { quiet_until: now + limits.quiet, closes_at: now + limits.max_wait }));
        change += 1;
    }
    let batch = lane.batches.back_mut().expect("pushed just now if there was none");
    batch.items.push(item);
    if batch.items.len() >= limits.events_max {
        batch.state = State::Ready;
        change -= 1;
    } else if let State::Collecting { quiet_until, .. } = &mut batch.state {
        *quiet_until = now + limits.quiet;
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn key(text: &str) -> LaneKey {
        text.into()
    }

    fn plain() -> Lanes<u32> {
        Lanes::new(None)
    }

    fn bursting() -> Lanes<u32> {
        Lanes::new(Some(BurstLimits { quiet: ms(100), max_wait: ms(250), events_max: 4 }))
    }

    fn is(item: &u32, member: &str) -> bool {
        item.to_string() == member
    }

    fn push(lanes: &mut Lanes<u32>, lane: &str, item: u32, now: u64) {
        lanes.push(&key(lane), item, false, ms(now), is);
    }

    fn run(lanes: &mut Lanes<u32>) -> Option<Vec<u32>> {
        lanes.take_ready().map(|(_, batch)| batch.items)
    }

    #[test]
    fn one_lane_runs_one_at_a_time_in_order_and_lanes_run_side_by_side() {
        let mut lanes = plain();
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            push(&mut lanes, lane, item, 0);
        }
        assert_eq!(run(&mut lanes), Some(vec![1]));
        assert_eq!(run(&mut lanes), Some(vec![3]));
        assert_eq!(run(&mut lanes), None);
        lanes.finished(&key("a"));
        assert_eq!(run(&mut lanes), Some(vec![2]));
    }

    #[test]
    fn a_waiting_head_holds_back_its_own_lane_only() {
        let mut lanes = plain();
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            push(&mut lanes, lane, item, 0);
        }
        let (a, head) = lanes.take_ready().expect("lane a is ready");
        lanes.hold(&a, head, ms(1_000));
        assert_eq!(lanes.held(), (2, Some(&key("a"))));
        assert_eq!(run(&mut lanes), Some(vec![3]));
        assert_eq!(run(&mut lanes), None);
        lanes.advance(ms(999));
        assert_eq!(run(&mut lanes), None);
        lanes.advance(ms(1_000));
        assert_eq!(run(&mut lanes), Some(vec![1]));
        assert_eq!(lanes.held().0, 0);
    }

    #[test]
    fn what_has_not_begun_is_the_head_of_its_lane_again() {
        let mut lanes = plain();
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            push(&mut lanes, lane, item, 0);
        }
        let (a, head) = lanes.take_ready().expect("lane a is ready");
        lanes.put_back(&a, head);
        assert_eq!((lanes.held().0, lanes.next_due()), (0, None), "it waits for nothing");
        assert_eq!([run(&mut lanes), run(&mut lanes), run(&mut lanes)], [Some(vec![3]), Some(vec![1]), None]);
    }

    #[test]
    fn a_burst_closes_after_the_quiet_time() {
        let mut lanes = bursting();
        push(&mut lanes, "a", 1, 0);
        push(&mut lanes, "a", 2, 60);
        lanes.advance(ms(159));
        assert_eq!(run(&mut lanes), None);
        lanes.advance(ms(160));
        assert_eq!(run(&mut lanes), Some(vec![1, 2]));
    }

    #[test]
    fn a_constant_stream_closes_at_the_longest_wait() {
        let mut lanes = bursting();
        for (item, at) in [(1, 0), (2, 90), (3, 180)] {
            push(&mut lanes, "a", item, at);
            lanes.advance(ms(at));
        }
        assert_eq!(lanes.next_due(), Some(ms(250)));
        lanes.advance(ms(250));
        assert_eq!(run(&mut lanes), Some(vec![1, 2, 3]));
    }

    #[test]
    fn a_burst_closes_with_its_maximum_of_events_and_the_next_one_opens() {
        let mut lanes = bursting();
        for item in 1..=6 {
            push(&mut lanes, "a", item, 0);
        }
        assert_eq!(run(&mut lanes), Some(vec![1, 2, 3, 4]));
        lanes.finished(&key("a"));
        assert_eq!(run(&mut lanes), None);
        lanes.advance(ms(100));
        assert_eq!(run(&mut lanes), Some(vec![5, 6]));
    }

    #[test]
    fn one_follow_up_collects_while_a_burst_runs_or_waits() {
        let mut lanes = bursting();
        push(&mut lanes, "a", 1, 0);
        lanes.advance(ms(100));
        let (a, first) = lanes.take_ready().expect("closed");
        push(&mut lanes, "a", 2, 110);
        push(&mut lanes, "a", 3, 900);
        assert_eq!(lanes.advance(ms(900)).len(), 0);
        assert_eq!(run(&mut lanes), None, "the lane is busy");
        lanes.hold(&a, first, ms(2_000));
        push(&mut lanes, "a", 4, 1_000);
        lanes.advance(ms(2_000));
        assert_eq!(run(&mut lanes), Some(vec![1]), "the failed burst keeps its composition");
        lanes.finished(&a);
        lanes.advance(ms(2_000));
        assert_eq!(run(&mut lanes), Some(vec![2, 3, 4]));
    }

    #[test]
    fn a_delivery_that_is_to_stay_alone_is_in_no_burst_but_in_order() {
        let mut lanes = bursting();
        push(&mut lanes, "a", 1, 0);
        lanes.push(&key("a"), 2, true, ms(0), is);
        push(&mut lanes, "a", 3, 0);
        lanes.advance(ms(100));
        assert_eq!(run(&mut lanes), Some(vec![1]));
        lanes.finished(&key("a"));
        assert_eq!(run(&mut lanes), Some(vec![2]));
        lanes.finished(&key("a"));
        lanes.advance(ms(100));
        assert_eq!(run(&mut lanes), Some(vec![3]));
    }

    #[test]
    fn a_frozen_burst_comes_together_again_before_anything_newer() {
        let mut lanes = bursting();
        let burst = FrozenBurst { id: "f".into(), lane: "a".into(), members: vec!["1".into(), "2".into()] };
        lanes.expect(&burst, ms(5_000));
        push(&mut lanes, "a", 1, 0);
        push(&mut lanes, "a", 3, 0);
        lanes.advance(ms(200));
        assert_eq!(run(&mut lanes), None, "one member is missing");
        push(&mut lanes, "a", 2, 300);
        let (_, batch) = lanes.take_ready().expect("complete");
        assert_eq!((batch.items, batch.frozen.as_deref()), (vec![1, 2], Some("f")));
    }

    #[test]
    fn a_frozen_burst_does_not_wait_for_members_that_were_put_back_one_by_one() {
        let mut lanes = bursting();
        let burst = FrozenBurst { id: "f".to_owned(), lane: "a".to_owned(), members: vec!["1".to_owned(), "2".to_owned()] };
        lanes.expect(&burst, Duration::from_secs(5));
        for member in ["1", "2"] {
            assert!(lanes.waits_for(&key("a"), member));
            lanes.comes_alone(&key("a"), member);
            assert!(!lanes.waits_for(&key("a"), member));
            lanes.push(&key("a"), member.parse().unwrap(), true, Duration::ZERO, is);
        }
        assert!(!lanes.has_ready());
        assert_eq!(lanes.advance(Duration::ZERO), ["f"]);
        for member in [1, 2] {
            let (key, batch) = lanes.take_ready().unwrap();
            assert_eq!((batch.items, batch.frozen), (vec![member], None));
            lanes.finished(&key);
        }
    }

    #[test]
    fn a_frozen_burst_whose_members_do_not_come_back_runs_with_those_that_did_or_is_given_up() {
        let mut lanes = bursting();
        lanes.expect(&FrozenBurst { id: "f".into(), lane: "a".into(), members: vec!["1".into(), "2".into()] }, ms(5_000));
        lanes.expect(&FrozenBurst { id: "g".into(), lane: "b".into(), members: vec!["8".into()] }, ms(5_000));
        push(&mut lanes, "a", 1, 0);
        assert_eq!(lanes.advance(ms(5_000)), ["g"]);
        assert_eq!(run(&mut lanes), Some(vec![1]));
    }

    #[test]
    fn a_full_window_closes_the_burst_that_has_collected_longest() {
        let mut lanes = bursting();
        push(&mut lanes, "new", 2, 50);
        push(&mut lanes, "old", 1, 0);
        assert!(lanes.close_oldest_open());
        assert_eq!(run(&mut lanes), Some(vec![1]));
        assert_eq!(lanes.open_bursts(), 1);
    }

    #[test]
    fn a_failed_burst_that_is_hurried_runs_at_once_and_the_others_wait_on() {
        let mut lanes = bursting();
        for (lane, item) in [("a", 1), ("b", 2)] {
            push(&mut lanes, lane, item, 0);
        }
        lanes.advance(ms(100));
        while let Some((key, mut batch)) = lanes.take_ready() {
            batch.frozen = Some(format!("burst-of-{key}"));
            batch.failed = 1;
            lanes.hold(&key, batch, ms(9_000));
        }
        assert_eq!(lanes.failing_bursts(), 2);
        lanes.hurry(|burst| burst == "burst-of-b");
        assert_eq!((run(&mut lanes), run(&mut lanes), lanes.failing_bursts()), (Some(vec![2]), None, 1));
        lanes.advance(ms(9_000));
        assert_eq!(run(&mut lanes), Some(vec![1]));
    }

    #[test]
    fn a_lost_session_leaves_running_lanes_busy_and_nothing_else() {
        let mut lanes = plain();
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            push(&mut lanes, lane, item, 0);
        }
        assert_eq!(run(&mut lanes), Some(vec![1]));
        lanes.forget_pending();
        push(&mut lanes, "a", 1, 10);
        push(&mut lanes, "b", 3, 10);
        assert_eq!(run(&mut lanes), Some(vec![3]));
        assert_eq!(run(&mut lanes), None, "the first handling of lane a still runs");
        lanes.finished(&key("a"));
        assert_eq!(run(&mut lanes), Some(vec![1]));
    }

    #[test]
    fn a_busy_lane_does_not_starve_the_others() {
        let mut lanes = plain();
        for item in 0..100 {
            push(&mut lanes, "hot", item, 0);
        }
        push(&mut lanes, "cold", 1_000, 0);
        assert_eq!(run(&mut lanes), Some(vec![0]));
        lanes.finished(&key("hot"));
        assert_eq!(run(&mut lanes), Some(vec![1_000]));
    }

    /// Everything that runs is done in waves, as a route does with quick handlers. Returns the items in the order in which they ran.
    fn in_waves(lanes: &mut Lanes<u32>, size: usize) -> Vec<u32> {
        let mut order = Vec::new();
        while lanes.has_ready() {
            let wave: Vec<_> = std::iter::from_fn(|| lanes.take_ready()).take(size).collect();
            for (key, batch) in wave {
                order.extend(batch.items);
                lanes.finished(&key);
            }
        }
        order
    }

    #[test]
    fn what_waits_for_its_neighbour_only_does_not_fall_far_behind_what_came_after_it() {
        let mut lanes = plain();
        // Every tenth event is of the lane of the one before it.
        for item in 0..400 {
            push(&mut lanes, &format!("lane-{}", if item % 10 == 9 { item - 1 } else { item }), item, 0);
        }
        let order = in_waves(&mut lanes, 32);
        assert_eq!(order.len(), 400);
        for (place, item) in order.into_iter().enumerate() {
            let late = place.saturating_sub(item as usize);
            assert!(late <= 32 + LET_FIRST as usize, "{item} had its turn {late} later than in the order of coming");
        }
    }

    #[test]
    fn a_lane_in_which_much_waits_lets_everyone_go_first() {
        let mut lanes = plain();
        for item in 0..40 {
            push(&mut lanes, "hot", item, 0);
        }
        for item in 100..140 {
            push(&mut lanes, &format!("cold-{item}"), item, 0);
        }
        let order = in_waves(&mut lanes, 1);
        let place = |wanted: u32| order.iter().position(|item| *item == wanted).expect("it ran");
        assert_eq!(place(0), 0);
        assert!(place(1) > place(139), "{order:?}");
    }

    #[test]
    fn nothing_stays_behind_when_everything_is_done() {
        let mut lanes = bursting();
        for lane in 0..1_000 {
            push(&mut lanes, &format!("lane-{lane}"), lane, 0);
        }
        lanes.advance(ms(100));
        while let Some((key, _)) = lanes.take_ready() {
            lanes.finished(&key);
        }
        assert_eq!((lanes.lanes.len(), lanes.timers.len(), lanes.ready.len()), (0, 0, 0));
    }
}
