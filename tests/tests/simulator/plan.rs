//! What happens in one schedule: everything that is not the router's doing, drawn from a seed before it begins.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::draw::{Dice, dice};

/// What kind of transport the router has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A broker: acknowledgements in batches, waits in other queues, a store of its own.
    Broker,
    /// One file: settlement and inbox are one commit.
    File,
}

/// How a route takes its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Unordered,
    Ordered,
    Bursts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Queue,
    Skip,
    Cancel,
}

/// One route.
#[derive(Debug, Clone)]
pub struct RoutePlan {
    pub name: String,
    pub pattern: &'static str,
    /// Takes events of the kind `wanted` only.
    pub is_picky: bool,
    pub shape: Shape,
    pub busy: Busy,
    pub parallel: bool,
    pub dedup: bool,
    pub parks: bool,
    pub shadow: bool,
    pub ledger: bool,
    pub attempts_max: u32,
    pub crashes_max: u32,
    pub concurrency: u32,
    pub prefetch: u32,
    pub timeout_ms: u64,
    pub drain_ms: u64,
    pub first_delay_ms: u64,
    pub max_delay_ms: u64,
    /// Handlings in a second.
    pub rate: Option<u32>,
    pub max_age_s: Option<u64>,
}

/// One event of a producer.
#[derive(Debug, Clone)]
pub struct EventPlan {
    /// Names it in the schedule; no two are the same.
    pub number: u64,
    pub at: Duration,
    pub lane: u64,
    pub key: &'static str,
    pub wanted: bool,
    /// Says the id of this event again.
    pub repeats: Option<u64>,
    /// No JSON at all.
    pub is_garbage: bool,
}

/// What an operator, or the world, does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Pause(usize),
    Resume(usize),
    Flush(usize),
    DropBurst(usize),
    /// Another configuration: how each route is; 0 and 1 are two ways, 2 is off.
    Reload(Vec<u8>),
    /// The session of a route ends.
    LoseSession(usize),
    /// The broker refuses publications for so long.
    RefusePublications(Duration),
    /// The process stops as it should, and begins again.
    Restart,
    /// The process dies before its so-manieth call from here on.
    Crash(u64),
    /// The wall clock is set, in seconds.
    JumpWall(i64),
    /// The dead letters of a route go back into its queue.
    Redrive(usize),
    /// The dead letters of a route are thrown away.
    Discard(usize),
}

/// How often things go wrong, out of a thousand.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Handlings that do not simply succeed.
    pub handlings: u64,
    /// Handlings that take a while.
    pub slowness: u64,
    /// Settlements that answer late.
    pub late: u64,
    /// Settlements that are refused.
    pub refused: u64,
    /// Recorded, and answered with an error.
    pub lost_confirms: u64,
    /// Sessions that end during a settlement.
    pub cut: u64,
    /// Calls of the store.
    pub store: u64,
    /// Looks for a delivery.
    pub looks: u64,
    /// Consumers that cannot be had.
    pub consumes: u64,
    /// Sessions that must be renewed.
    pub renewals: u64,
}

impl Rates {
    pub fn all(&mut self) -> [(&'static str, &mut u64); 10] {
        [
            ("handlings", &mut self.handlings),
            ("slowness", &mut self.slowness),
            ("late", &mut self.late),
            ("refused", &mut self.refused),
            ("lost confirms", &mut self.lost_confirms),
            ("cut", &mut self.cut),
            ("store", &mut self.store),
            ("looks", &mut self.looks),
            ("consumes", &mut self.consumes),
            ("renewals", &mut self.renewals),
        ]
    }
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub kind: Kind,
    pub routes: Vec<RoutePlan>,
    pub events: Vec<EventPlan>,
    pub acts: Vec<(Duration, Act)>,
    pub rates: Rates,
    /// From here on nothing goes wrong any more.
    pub calm_at: Duration,
    /// Events whose handlings all go like this, whatever the rates.
    pub forced: BTreeMap<u64, Answer>,
}

/// How a handling goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Done,
    Skip,
    Retry,
    RetryAfter(Duration),
    Reject,
    Pause,
    Panic,
    Hang,
    /// Done, and an event more.
    Emit,
    /// Done, and an event that comes back to this route alone after so long.
    EmitAfter(Duration),
    /// Done after a write that the ledger knows.
    Write,
    /// A write, and then a failure.
    WriteThenRetry,
    /// A write, and then nothing more until the time is over.
    WriteThenHang,
}

/// Handlings of one event after which it is left alone.
const TROUBLES_MAX: u64 = 12;

/// Names events that handlers emit, apart from those of producers.
pub const EMITTED: u64 = 1_000_000;

/// Names those among them that come back to their own route.
pub const COMES_BACK: u64 = 1_000_000_000;

impl Plan {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = dice(seed, "plan", &[]);
        let kind = dice.pick(&[Kind::Broker, Kind::File]);
        let routes: Vec<_> = (0..dice.between(1, 3)).map(|nth| route(nth, &mut dice)).collect();
        let span = dice.pick(&[300, 2_000, 20_000, 60_000]);
        let lanes = dice.between(1, 5);
        let mut events: Vec<EventPlan> = Vec::new();
        for number in 1..=dice.pick(&[1, 4, 12, 30, 60]) {
            let repeats = if number > 1 && dice.hits(60) { Some(dice.between(1, number - 1)) } else { None };
            events.push(EventPlan {
                number,
                at: Duration::from_millis(10 + dice.below(span)),
                lane: dice.below(lanes),
                key: dice.pick(&["work.a", "work.a", "work.b"]),
                wanted: dice.hits(700),
                repeats,
                is_garbage: dice.hits(10),
            });
        }
        // The repetition is the same event: only its delivery is another.
        for index in 0..events.len() {
            if let Some(first) = events[index].repeats {
                let first = events[usize::try_from(first - 1).expect("small")].clone();
                events[index] = EventPlan { number: events[index].number, at: events[index].at, repeats: Some(first.repeats.unwrap_or(first.number)), ..first };
            }
        }
        events.sort_by_key(|event| (event.at, event.number));
        let mut acts = Vec::new();
        for _ in 0..dice.pick(&[0, 1, 3, 8]) {
            let at = Duration::from_millis(dice.below(span + span / 2 + 2_000));
            acts.push((at, act(&mut dice, routes.len())));
        }
        acts.sort_by_key(|(at, _)| *at);
        let mut rates = Rates::default();
        let mut switch = dice.clone();
        for (_, rate) in rates.all() {
            // Each kind of trouble is left out of many schedules, so that what the others do alone is seen as well.
            *rate = switch.pick(&[0, 0, 20, 100]);
        }
        rates.handlings = switch.pick(&[0, 200, 500, 900]);
        rates.slowness = switch.pick(&[0, 300, 900]);
        rates.late = switch.pick(&[0, 0, 200, 900]);
        rates.renewals = switch.pick(&[0, 0, 0, 500]);
        let calm_at = Duration::from_millis(span * 2 + 5_000);
        Self { seed, kind, routes, events, acts, rates, calm_at, forced: BTreeMap::new() }
    }

    /// How the `run`th handling goes of event `number` on a route.
    pub fn answer(&self, route: usize, number: u64, run: u64) -> (Duration, Answer) {
        let mut dice = dice(self.seed, "answer", &[route as u64, number, run]);
        if let Some(answer) = self.forced.get(&number) {
            return (Duration::ZERO, *answer);
        }
        let plan = &self.routes[route];
        let slow = if dice.hits(self.rates.slowness) { dice.pick(&[1, 7, 50, 400, plan.timeout_ms - 1]) } else { 0 };
        let later = Duration::from_millis(dice.between(0, 4_000));
        let fine = [Answer::Done, Answer::Done, Answer::Done, Answer::Emit, Answer::EmitAfter(later), Answer::Write];
        let answer = if run < TROUBLES_MAX && dice.hits(self.rates.handlings) {
            let after = Duration::from_millis(dice.between(1, 3_000));
            dice.pick(&[
                Answer::Retry,
                Answer::Retry,
                Answer::RetryAfter(after),
                Answer::Panic,
                Answer::Hang,
                Answer::Pause,
                Answer::Skip,
                Answer::Reject,
                Answer::WriteThenRetry,
                Answer::WriteThenHang,
            ])
        } else {
            dice.pick(&fine)
        };
        // What was emitted emits nothing, so that every schedule ends.
        let answer = if number >= EMITTED && matches!(answer, Answer::Emit | Answer::EmitAfter(_)) { Answer::Done } else { answer };
        (Duration::from_millis(slow), answer)
    }
}

fn route(nth: u64, dice: &mut Dice) -> RoutePlan {
    let shape = dice.pick(&[Shape::Unordered, Shape::Ordered, Shape::Ordered, Shape::Bursts]);
    let prefetch = dice.pick(&[4, 8, 20, 100]);
    let busy = if shape == Shape::Unordered || dice.hits(750) { Busy::Queue } else { dice.pick(&[Busy::Skip, Busy::Cancel]) };
    RoutePlan {
        name: format!("r{nth}"),
        pattern: dice.pick(&["work.#", "work.#", "work.a", "#"]),
        is_picky: dice.hits(300),
        shape,
        busy,
        parallel: shape == Shape::Unordered && dice.hits(300),
        dedup: dice.hits(700),
        parks: shape != Shape::Unordered && dice.hits(200),
        shadow: dice.hits(80),
        ledger: dice.hits(700),
        attempts_max: dice.pick(&[1, 2, 3, 6]),
        crashes_max: dice.pick(&[1, 2, 5]),
        concurrency: dice.pick(&[1, 2, 8]),
        prefetch,
        timeout_ms: dice.pick(&[500, 2_000, 5_000]),
        drain_ms: dice.pick(&[100, 1_000, 10_000]),
        first_delay_ms: dice.pick(&[1, 100, 1_000]),
        max_delay_ms: dice.pick(&[1_000, 5_000]),
        rate: if dice.hits(150) { Some(dice.pick(&[1, 5, 20])) } else { None },
        max_age_s: if dice.hits(100) { Some(dice.pick(&[1, 10])) } else { None },
    }
}

fn act(dice: &mut Dice, routes: usize) -> Act {
    let route = usize::try_from(dice.below(routes as u64)).expect("an index of a slice");
    match dice.below(25) {
        0..=1 => Act::Pause(route),
        2 => Act::Resume(route),
        3 => Act::Flush(route),
        4 => Act::DropBurst(route),
        5..=6 => Act::Reload((0..routes).map(|_| u8::try_from(dice.below(3)).expect("small")).collect()),
        7..=9 => Act::LoseSession(route),
        10 => Act::RefusePublications(Duration::from_millis(dice.pick(&[10, 500, 5_000]))),
        11..=12 => Act::Restart,
        13 => Act::JumpWall(dice.pick(&[-3_600, -5, 5, 3_600])),
        20..=22 => Act::Redrive(route),
        23 => Act::Discard(route),
        _ => Act::Crash(dice.pick(&[0, 1, 3, 10, 30, 100]) + dice.below(10)),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}, calm at {:?}", self.seed, self.kind, self.calm_at)?;
        let rates: Vec<String> = self.rates.clone().all().iter().filter(|(_, rate)| **rate > 0).map(|(name, rate)| format!("{name} {rate}")).collect();
        writeln!(f, "  troubles in a thousand: {}", if rates.is_empty() { "none".to_owned() } else { rates.join(", ") })?;
        for route in &self.routes {
            writeln!(f, "  {route:?}")?;
        }
        for event in &self.events {
            let forced = self.forced.get(&event.number).map(|answer| format!(", always {answer:?}")).unwrap_or_default();
            writeln!(f, "  {event:?}{forced}")?;
        }
        for (at, act) in &self.acts {
            writeln!(f, "  at {at:?}: {act:?}")?;
        }
        Ok(())
    }
}

impl Act {
    /// Can it be done where there are only so many routes?
    pub fn fits(&self, routes: usize) -> bool {
        match self {
            Self::Pause(route)
            | Self::Resume(route)
            | Self::Flush(route)
            | Self::DropBurst(route)
            | Self::LoseSession(route)
            | Self::Redrive(route)
            | Self::Discard(route) => *route < routes,
            _ => true,
        }
    }
}
