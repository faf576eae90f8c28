//! What must hold, watched from outside: by what the transport was asked to do, what handlers saw, and what is left at the end.
//!
//! An event on a route is a [`Track`]. Whatever may repeat it (a crash, a lost session, a lost confirm) gives it an excuse; a repetition
//! without one is a finding.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use router_api::{DeadLetter, DeadLetterReason, Fate};

use crate::plan::{Busy, Plan, Shape};

/// How a handling ended, as the handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    Done,
    Skipped,
    /// An error or a panic.
    Failed,
    Rejected,
    Paused,
    /// A dry run came to a write.
    Dry,
    /// Dropped before its end, at its time limit.
    Late,
    /// Dropped before its end.
    Cut,
}

/// One event on one route.
#[derive(Debug, Default)]
pub struct Track {
    pub lane: u64,
    /// The first event with the same id.
    pub id: u64,
    pub wanted: bool,
    pub key: String,
    pub is_garbage: bool,
    /// Deliveries of it that were put into the queue.
    pub copies: u32,
    /// What may have repeated it.
    pub excuses: u32,
    pub runs: u64,
    pub successes: u32,
    pub failures: u32,
    /// The process died while it ran.
    pub crashes: u32,
    pub cuts: u32,
    pub rejections: u32,
    pub skips: u32,
    /// Handlings in shadow, whatever they came to: it is recorded, and not tried again.
    pub shadowed: u32,
    /// Handlings that ended with an error after a write.
    pub failed_writes: u32,
    /// Times that its write was done outside.
    pub writes: u32,
    /// The router was told that its fate is recorded, or will be.
    pub told: u32,
    pub fates: u32,
    pub letters: u32,
    /// An operator was told to drop its burst.
    pub may_drop: bool,
    /// The route sent it to itself: wanted whatever the pattern says, and not in the order of its lane.
    pub comes_back: bool,
    /// Times that an operator put it back, after which it has another fate.
    pub redriven: u32,
    /// What was charged to it before that.
    pub charged_before: u32,
}

impl Track {
    /// Has it come to an end, so that its lane may go on?
    fn has_ended(&self) -> bool {
        self.is_done() || self.told + self.fates + self.letters > 0
    }

    /// Has a handling of it ended well?
    fn is_done(&self) -> bool {
        self.successes + self.skips + self.shadowed > 0
    }
}

#[derive(Debug, Clone)]
struct Run {
    route: usize,
    numbers: Vec<u64>,
    lane: u64,
    wrote: bool,
    /// The session that it is of is over: whatever it comes to, its events come again.
    is_left_over: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Oracle {
    plan: Plan,
    tracks: BTreeMap<(usize, u64), Track>,
    /// Events of a lane as they came into the queue.
    arrivals: BTreeMap<(usize, u64), Vec<u64>>,
    running: BTreeMap<u64, Run>,
    /// Handlings that ended well, whose events have no fate recorded yet.
    finished: BTreeMap<u64, Run>,
    runs: u64,
    /// Successes by the id of the event, which a repetition shares.
    done: BTreeMap<(usize, u64), u32>,
    parked: BTreeSet<(usize, u64)>,
    /// Lanes that were let go on; what was on its way meanwhile may still be buried behind their heads.
    was_parked: BTreeSet<(usize, u64)>,
    finding: Option<String>,
    pub repeated: u64,
    pub handled: u64,
}

impl Oracle {
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            tracks: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            running: BTreeMap::new(),
            finished: BTreeMap::new(),
            runs: 0,
            done: BTreeMap::new(),
            parked: BTreeSet::new(),
            was_parked: BTreeSet::new(),
            finding: None,
            repeated: 0,
            handled: 0,
        }
    }

    /// The first thing that must not be.
    pub fn finding(&self) -> Option<&str> {
        self.finding.as_deref()
    }

    pub fn find(&mut self, what: String) {
        self.finding.get_or_insert(what);
    }

    fn name(&self, route: usize, number: u64) -> String {
        format!("event {number} on {}", self.plan.routes[route].name)
    }

    fn track(&mut self, route: usize, number: u64) -> &mut Track {
        self.tracks.entry((route, number)).or_default()
    }

    pub fn track_of(&self, route: usize, number: u64) -> Option<&Track> {
        self.tracks.get(&(route, number))
    }

    // ── the queue ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// An event came into the queue of a route.
    pub fn arrived(&mut self, route: usize, number: u64, track: Track) {
        let known = self.tracks.contains_key(&(route, number));
        if !known && !track.comes_back {
            self.arrivals.entry((route, track.lane)).or_default().push(number);
        }
        let entry = self.track(route, number);
        if known {
            // It was emitted again by a handling that was repeated: another delivery of the same event.
            entry.copies += 1;
            entry.excuses += 1;
        } else {
            *entry = Track { copies: 1, ..track };
        }
    }

    /// Something happened after which the event may be handled again.
    pub fn excuse(&mut self, route: usize, number: u64) {
        self.track(route, number).excuses += 1;
    }

    /// There is one delivery more of it, though the router was told that there is none.
    pub fn copied(&mut self, route: usize, number: u64) {
        let track = self.track(route, number);
        track.copies += 1;
        track.excuses += 1;
    }

    /// The router remembers it as done, before it settles it. What is superseded is decided by the router alone, so this is the first that is
    /// seen of it: when the session ends before the settlement, its next delivery is a duplicate of it.
    pub fn remembered(&mut self, route: usize, id: u64) {
        if self.plan.routes[route].busy != Busy::Queue {
            *self.done.entry((route, id)).or_default() += 1;
        }
    }

    /// An operator has put it back: it starts anew, past its lane's park, and is handled or given up on once more.
    pub fn put_back(&mut self, route: usize, number: u64) {
        let track = self.track(route, number);
        track.redriven += 1;
        track.charged_before = track.failures + track.crashes;
    }

    /// No dead letter of the lane is left.
    pub fn unparked(&mut self, route: usize, lane: u64) {
        if self.parked.remove(&(route, lane)) {
            self.was_parked.insert((route, lane));
        }
    }

    /// The router has settled it, and was not refused.
    pub fn told(&mut self, route: usize, number: u64, fate: &Fate) {
        let busy = self.plan.routes[route].busy;
        let track = self.track(route, number);
        track.told += 1;
        let id = track.id;
        // What is superseded is done with, and remembered as that.
        if busy != Busy::Queue && matches!(fate, Fate::Skipped { .. }) {
            *self.done.entry((route, id)).or_default() += 1;
        }
    }

    /// Its fate is recorded: it leaves its queue.
    pub fn recorded(&mut self, route: usize, number: u64, fate: &Fate) {
        let plan = self.plan.routes[route].clone();
        self.finished.retain(|_, run| run.route != route || !run.numbers.contains(&number));
        let track = self.track(route, number);
        track.fates += 1;
        let (id, key, wanted) = (track.id, track.key.clone(), track.wanted);
        let skips = self.most(route, id, |track| track.skips);
        let is_wanted = (!plan.is_picky || wanted) && takes(plan.pattern, &key);
        let done = self.done.get(&(route, id)).copied().unwrap_or(0);
        let wrong = match fate {
            Fate::Handled { .. } if plan.shadow => Some("is recorded as handled by a route in shadow"),
            Fate::Handled { .. } => (done == 0).then_some("is recorded as handled, and no handler has done it"),
            Fate::Skipped { .. } => (skips == 0 && plan.busy == Busy::Queue).then_some("is recorded as skipped, and no handler has said so"),
            Fate::Filtered => is_wanted.then_some("is recorded as filtered, and the route wants it"),
            Fate::Duplicate { .. } => (done == 0).then_some("is recorded as a duplicate, and nothing like it was ever done"),
            Fate::Shadowed { .. } => (!plan.shadow).then_some("is recorded as shadowed by a live route"),
        };
        if let Some(wrong) = wrong {
            let what = format!("{} {wrong} ({fate:?})", self.name(route, number));
            self.find(what);
        }
        self.check_fates(route, number);
    }

    /// It lies in the dead letters.
    pub fn buried(&mut self, route: usize, number: u64, letter: &DeadLetter, age: Duration) {
        let plan = self.plan.routes[route].clone();
        self.finished.retain(|_, run| run.route != route || !run.numbers.contains(&number));
        let track = self.track(route, number);
        track.letters += 1;
        let (id, lane, is_garbage, may_drop) = (track.id, track.lane, track.is_garbage, track.may_drop);
        // A repetition within a burst is settled with it, though no handler sees it.
        let (failures, crashes, rejections) =
            (self.most(route, id, |track| track.failures), self.most(route, id, |track| track.crashes), self.most(route, id, |track| track.rejections));
        let wrong = match letter.reason {
            DeadLetterReason::Undecodable => (!is_garbage).then_some("can be decoded"),
            DeadLetterReason::Rejected => (rejections == 0).then_some("no handler has rejected it"),
            DeadLetterReason::Exhausted => (failures + crashes < plan.attempts_max).then_some("not all its attempts were made"),
            DeadLetterReason::Crashed => (crashes < plan.crashes_max).then_some("the process died less often while it ran"),
            DeadLetterReason::TooOld => plan.max_age_s.is_none_or(|max| age < Duration::from_secs(max)).then_some("it is younger"),
            DeadLetterReason::Parked => {
                let was = self.parked.contains(&(route, lane)) || self.was_parked.contains(&(route, lane));
                (!was && !self.may_be_parked(route, lane)).then_some("its lane is not parked")
            }
            DeadLetterReason::Dropped => (!may_drop).then_some("nobody dropped it"),
            DeadLetterReason::Loop => Some("there is no loop"),
        };
        if let Some(wrong) = wrong {
            let what = format!("{} is buried as {}, but {wrong}: {}", self.name(route, number), letter.reason, letter.error);
            self.find(what);
        }
        if plan.shadow {
            let what = format!("{} is buried by a route in shadow", self.name(route, number));
            self.find(what);
        }
        if plan.parks && !matches!(letter.reason, DeadLetterReason::Dropped | DeadLetterReason::Undecodable) {
            self.parked.insert((route, lane));
        }
        self.check_fates(route, number);
    }

    fn most(&self, route: usize, id: u64, count: impl Fn(&Track) -> u32) -> u32 {
        self.tracks.iter().filter(|((of, _), track)| *of == route && track.id == id).map(|(_, track)| count(track)).max().unwrap_or(0)
    }

    fn check_fates(&mut self, route: usize, number: u64) {
        let track = &self.tracks[&(route, number)];
        if track.fates + track.letters > 1 + track.excuses + track.redriven {
            let what = format!("{} has {} fates and {} letters, with {} excuses", self.name(route, number), track.fates, track.letters, track.excuses);
            self.find(what);
        }
    }

    /// A lane is parked before its head is buried: what comes in between may leave the head itself to be buried as parked.
    fn may_be_parked(&self, route: usize, lane: u64) -> bool {
        let plan = &self.plan.routes[route];
        let is_given_up =
            |track: &Track| track.rejections > 0 || track.failures + track.crashes >= plan.attempts_max.min(plan.crashes_max) || plan.max_age_s.is_some();
        self.tracks.iter().any(|((of, _), track)| *of == route && track.lane == lane && track.excuses > 0 && is_given_up(track))
    }

    /// Bursts of a route may be given up on.
    pub fn may_drop(&mut self, route: usize) {
        for ((of, _), track) in &mut self.tracks {
            track.may_drop |= *of == route;
        }
    }

    // ── handlers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A handler is called. Returns the number of the run, and how many there were of the newest event.
    pub fn begins(&mut self, route: usize, numbers: &[u64], attempt: u32, max: u32, has_done: &BTreeSet<u64>) -> (u64, u64) {
        let plan = self.plan.routes[route].clone();
        let newest = *numbers.last().expect("a handler is called with events");
        let lane = self.tracks.get(&(route, newest)).map_or(0, |track| track.lane);
        for number in numbers {
            let name = self.name(route, *number);
            let Some(track) = self.tracks.get(&(route, *number)) else {
                self.find(format!("{name} is handled, and was never delivered"));
                continue;
            };
            let mut wrong = Vec::new();
            if track.successes > track.excuses {
                wrong.push(format!("is handled again after {} successes, with {} excuses", track.successes, track.excuses));
            }
            if track.letters > track.excuses + track.redriven {
                wrong.push("is handled after it was buried".to_owned());
            }
            // What was superseded is remembered as done while a repetition of it may be about to begin.
            if has_done.contains(&track.id) && (plan.busy == Busy::Queue || self.most(route, track.id, |track| track.successes) > 0) {
                wrong.push("is handled, and the inbox knew it as done".to_owned());
            }
            if track.lane != lane && plan.shape != Shape::Unordered {
                wrong.push(format!("of lane {} is handled with lane {lane}", track.lane));
            }
            if track.is_garbage {
                wrong.push("is handled, and cannot be decoded".to_owned());
            }
            if !track.comes_back && (plan.is_picky && !track.wanted || !takes(plan.pattern, &track.key)) {
                wrong.push("is handled, and the route does not want it".to_owned());
            }
            if let Some(wrong) = wrong.into_iter().next() {
                self.find(format!("{name} {wrong}"));
            }
        }
        self.check_attempt(route, numbers, attempt, max);
        self.check_order(route, numbers, lane);
        let runs = self.tracks.get(&(route, newest)).map_or(0, |track| track.runs);
        for number in numbers {
            let track = self.track(route, *number);
            track.runs += 1;
            if track.successes > 0 {
                self.repeated += 1;
            }
        }
        self.runs += 1;
        self.running.insert(self.runs, Run { route, numbers: numbers.to_vec(), lane, wrote: false, is_left_over: false });
        (self.runs, runs)
    }

    fn check_attempt(&mut self, route: usize, numbers: &[u64], attempt: u32, max: u32) {
        let known = || numbers.iter().filter_map(|number| self.tracks.get(&(route, *number)));
        let most = known().map(|track| track.failures + track.crashes).max().unwrap_or(0);
        // What an excuse stands for may have forgotten an attempt, a store that fails too; each of several copies counts its own.
        let fewest =
            known().filter(|track| track.copies == 1 && track.redriven == 0).map(|track| track.failures.saturating_sub(track.excuses)).max().unwrap_or(0);
        // What was put back starts anew, unless another copy of it is under way.
        let anew = |track: &&Track| track.redriven > 0 && track.copies == 1 && track.excuses == 0;
        let since = known().find(anew).filter(|_| numbers.len() == 1).map(|track| track.failures + track.crashes - track.charged_before);
        let name = self.name(route, numbers[0]);
        if let Some(since) = since.filter(|since| attempt > 1 + since && self.plan.rates.store == 0) {
            self.find(format!("{name} was put back, and is in attempt {attempt}, but {since} were charged to it since"));
        } else if attempt == 0 || attempt > max || max != self.plan.routes[route].attempts_max {
            self.find(format!("{name} is in attempt {attempt} of {max}"));
        } else if attempt > 1 + most {
            self.find(format!("{name} is in attempt {attempt}, but {most} were charged to it"));
        } else if attempt < 1 + fewest && self.plan.rates.store == 0 && numbers.len() == 1 {
            self.find(format!("{name} is in attempt {attempt}, though {fewest} failed before"));
        }
    }

    fn check_order(&mut self, route: usize, numbers: &[u64], lane: u64) {
        let plan = self.plan.routes[route].clone();
        let first = numbers[0];
        if plan.shape == Shape::Unordered {
            let ids: BTreeSet<u64> = numbers.iter().filter_map(|number| self.tracks.get(&(route, *number))).map(|track| track.id).collect();
            let same = |run: &Run| {
                run.route == route && run.numbers.iter().any(|number| self.tracks.get(&(route, *number)).is_some_and(|track| ids.contains(&track.id)))
            };
            if plan.dedup && self.running.values().any(same) {
                let what = format!("{} is handled twice at once", self.name(route, first));
                self.find(what);
            }
            return;
        }
        if self.running.values().any(|run| run.route == route && run.lane == lane) {
            let what = format!("{} is handled beside another event of its lane {lane}", self.name(route, first));
            self.find(what);
        }
        let passes = |number: &u64| self.tracks.get(&(route, *number)).is_some_and(|track| track.comes_back || track.redriven > 0);
        if self.parked.contains(&(route, lane)) && !numbers.iter().all(passes) {
            let what = format!("{} is handled in lane {lane}, which is parked", self.name(route, first));
            self.find(what);
        }
        // What is superseded is settled beside what is newer.
        if plan.busy != Busy::Queue {
            return;
        }
        let arrivals = self.arrivals.get(&(route, lane)).cloned().unwrap_or_default();
        let place = |number: &u64| arrivals.iter().position(|arrived| arrived == number);
        let places: Vec<_> = numbers.iter().filter_map(place).collect();
        let repeats = |number: &u64| self.tracks.get(&(route, *number)).is_some_and(|track| track.copies > 1);
        if !places.is_sorted() && !numbers.iter().any(repeats) {
            let what = format!("a burst of {} is out of order: {numbers:?} of {arrivals:?}", self.plan.routes[route].name);
            self.find(what);
        }
        let last = numbers.iter().filter(|number| !self.tracks.get(&(route, **number)).is_some_and(Track::has_ended)).filter_map(place).max();
        // What repeats something that was done is recognised, and what repeats another event of its burst is handled with that.
        let is_done = |id: u64| plan.dedup && self.tracks.range((route, 0)..=(route, u64::MAX)).any(|(_, track)| track.id == id && track.is_done());
        let is_repeated = |id: u64| numbers.iter().any(|number| self.tracks.get(&(route, *number)).is_some_and(|track| track.id == id));
        let overtaken = last.and_then(|last| {
            arrivals[..last].iter().find(|number| {
                let track = &self.tracks[&(route, **number)];
                // What the route does not want takes no part in the lane.
                let takes_part = !track.is_garbage && (!self.plan.routes[route].is_picky || track.wanted);
                !numbers.contains(number) && !is_repeated(track.id) && !is_done(track.id) && takes_part && !track.has_ended()
            })
        });
        if let Some(overtaken) = overtaken {
            let what = format!("events {numbers:?} of lane {lane} on {} are handled before event {overtaken}", self.plan.routes[route].name);
            self.find(what);
        }
    }

    /// The handler of a run is about to write.
    pub fn wants_to_write(&mut self, run: u64) {
        if let Some(run) = self.running.get_mut(&run) {
            run.wrote = true;
        }
    }

    /// A write was done outside.
    pub fn wrote(&mut self, route: usize, number: u64) {
        let plan = self.plan.routes[route].clone();
        let track = self.track(route, number);
        track.writes += 1;
        // A route that recognises no repetitions forgets its writes with the delivery, and so with each fate that got lost.
        let forgotten = if plan.dedup { 0 } else { track.excuses };
        let allowed = track.copies + track.failed_writes + track.successes + forgotten + track.redriven;
        let (writes, shadow) = (track.writes, plan.shadow);
        if shadow || (plan.ledger && writes > allowed) {
            let what = format!("the write of {} is done {writes} times, where {allowed} are allowed", self.name(route, number));
            self.find(what);
        }
    }

    pub fn has_written(&self, route: usize, number: u64) -> bool {
        self.tracks.get(&(route, number)).is_some_and(|track| track.writes > 0)
    }

    /// A run is over.
    pub fn ends(&mut self, run: u64, end: RunEnd) {
        let Some(ended) = self.running.remove(&run) else { return };
        let Run { route, numbers, wrote, is_left_over, .. } = ended.clone();
        if matches!(end, RunEnd::Done | RunEnd::Dry | RunEnd::Skipped) && !is_left_over {
            self.finished.insert(run, ended);
        }
        let shadow = self.plan.routes[route].shadow;
        let newest = numbers.last().copied();
        for number in numbers {
            let track = self.track(route, number);
            track.shadowed += u32::from(shadow && end != RunEnd::Cut);
            match end {
                RunEnd::Done | RunEnd::Dry => track.successes += 1,
                RunEnd::Skipped => track.skips += 1,
                RunEnd::Failed | RunEnd::Late => track.failures += 1,
                RunEnd::Rejected => {
                    track.rejections += 1;
                    track.failures += 1;
                }
                RunEnd::Paused => {}
                RunEnd::Cut => track.cuts += 1,
            }
            if wrote && newest == Some(number) && matches!(end, RunEnd::Failed | RunEnd::Rejected | RunEnd::Paused) {
                track.failed_writes += 1;
            }
            if matches!(end, RunEnd::Done | RunEnd::Dry | RunEnd::Skipped) && !shadow {
                let id = track.id;
                *self.done.entry((route, id)).or_default() += 1;
                self.handled += 1;
            }
        }
    }

    /// A session of a route is over. What is finished and not recorded comes again for that, and for no death.
    pub fn session_over(&mut self, route: usize) {
        self.finished.retain(|_, run| run.route != route);
        self.running.values_mut().filter(|run| run.route == route).for_each(|run| run.is_left_over = true);
    }

    /// The process has died over a file, where one commit records what many handlings came to. What its death repeats is what ran, which is no
    /// more than may run at once, and what was finished and not recorded, which is no more than is acknowledged together.
    pub fn check_what_a_death_repeats(&mut self) {
        for (index, plan) in self.plan.routes.clone().iter().enumerate() {
            let of_route = |runs: &BTreeMap<u64, Run>| runs.values().filter(|run| run.route == index).count();
            let (running, finished) = (of_route(&self.running), of_route(&self.finished));
            // A reload may have let one more run.
            let bound = plan.concurrency + (plan.prefetch / 5).max(1);
            if running + finished > usize::try_from(bound).unwrap_or(usize::MAX) {
                let what =
                    format!("{}: {running} handlings ran at the death, {finished} were finished and not recorded, and {bound} may be repeated", plan.name);
                self.find(what);
            }
        }
    }

    /// The process died. `marked` is what it had marked as running.
    pub fn crashed(&mut self, marked: impl Iterator<Item = (usize, u64)>) {
        self.running.clear();
        self.finished.clear();
        for (route, number) in marked {
            self.track(route, number).crashes += 1;
        }
    }

    // ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Everything has come to rest: each event has its fate.
    pub fn check_the_end(&mut self) {
        let lost: Vec<(usize, u64)> = self.tracks.iter().filter(|(_, track)| track.fates + track.letters < 1 + track.redriven).map(|(key, _)| *key).collect();
        if let Some((route, number)) = lost.first() {
            let what = format!("{} is lost: {:?}", self.name(*route, *number), self.tracks[&(*route, *number)]);
            self.find(what);
        }
        if !self.running.is_empty() {
            let what = format!("handlings run that nobody waits for: {:?}", self.running);
            self.find(what);
        }
    }
}

fn takes(pattern: &str, key: &str) -> bool {
    match pattern.strip_suffix(".#") {
        Some(prefix) => key == prefix || key.starts_with(&format!("{prefix}.")),
        None => pattern == "#" || pattern == key,
    }
}
