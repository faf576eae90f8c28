//! What the simulator has found, each as the smallest schedule that shows it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    life, panics,
    plan::{Act, Answer, Busy, COMES_BACK, EventPlan, Kind, Plan, Rates, RoutePlan, Shape},
};

/// A schedule of one ordered route in which nothing goes wrong.
fn quiet(kind: Kind) -> Plan {
    let route = RoutePlan {
        name: "r0".to_owned(),
        pattern: "work.#",
        is_picky: false,
        shape: Shape::Ordered,
        busy: Busy::Queue,
        parallel: false,
        dedup: true,
        parks: false,
        shadow: false,
        ledger: true,
        attempts_max: 3,
        crashes_max: 5,
        concurrency: 8,
        prefetch: 20,
        timeout_ms: 2_000,
        drain_ms: 10_000,
        first_delay_ms: 100,
        max_delay_ms: 1_000,
        rate: None,
        max_age_s: None,
    };
    let calm_at = Duration::from_secs(10);
    Plan { seed: 1, kind, routes: vec![route], events: Vec::new(), acts: Vec::new(), rates: Rates::default(), calm_at, forced: BTreeMap::new() }
}

fn event(number: u64, at_ms: u64, lane: u64) -> EventPlan {
    EventPlan { number, at: Duration::from_millis(at_ms), lane, key: "work.a", wanted: true, repeats: None, is_garbage: false }
}

fn holds(plan: &Plan) {
    panics::listen();
    let report = life::run(plan, true);
    panics::ignore();
    assert_eq!(report.finding, None, "{plan}  {}", report.trace.join("\n  "));
    assert_eq!(report.lives, 1 + plan.acts.len() as u64, "every act ends a process");
}

#[test]
fn lanes_whose_heads_are_given_up_on_at_once_are_parked_both() {
    for kind in [Kind::Broker, Kind::File] {
        let mut plan = quiet(kind);
        plan.routes[0].parks = true;
        // A store that takes its time, so that the two meet.
        plan.rates.late = 1_000;
        plan.events = vec![event(1, 1_000, 0), event(2, 1_000, 1), event(3, 1_000, 2), event(4, 8_000, 0), event(5, 8_000, 1), event(6, 8_000, 2)];
        plan.forced = [1, 2, 3].map(|number| (number, Answer::Reject)).into();
        holds(&plan);
    }
}

#[test]
fn what_is_handled_once_is_handled_once_when_nothing_goes_wrong() {
    for kind in [Kind::Broker, Kind::File] {
        let mut plan = quiet(kind);
        plan.events = (1..=40).map(|number| event(number, 10 + number * 7, number % 3)).collect();
        plan.acts = vec![(Duration::from_millis(150), Act::Restart)];
        panics::listen();
        let report = life::run(&plan, false);
        panics::ignore();
        assert_eq!((report.finding, report.lives, report.repeated), (None, 2, 0));
        assert!(report.handled >= 40, "{} were handled", report.handled);
    }
}

#[test]
fn a_lane_whose_head_is_being_buried_stays_parked_while_others_are_redriven() {
    for kind in [Kind::Broker, Kind::File] {
        // Whenever it is that somebody redrives the letter of another lane, and looks which lanes have none left.
        for after in (0..600).step_by(20) {
            let mut plan = quiet(kind);
            plan.routes[0].parks = true;
            plan.rates.late = 1_000;
            plan.events = vec![event(1, 1_000, 0), event(2, 3_000, 1), event(3, 6_000, 1)];
            plan.forced = [1, 2].map(|number| (number, Answer::Reject)).into();
            plan.acts = vec![(Duration::from_millis(2_900 + after), Act::Redrive(0))];
            panics::listen();
            let report = life::run(&plan, true);
            panics::ignore();
            assert_eq!(report.finding, None, "{plan}  {}", report.trace.join("\n  "));
        }
    }
}

#[test]
fn what_is_put_back_again_and_again_starts_anew_each_time_and_ends() {
    for kind in [Kind::Broker, Kind::File] {
        let mut plan = quiet(kind);
        plan.events = vec![event(1, 100, 0), event(2, 200, 0), event(3, 300, 1)];
        plan.forced = [(1, Answer::Retry), (3, Answer::EmitAfter(Duration::from_secs(2)))].into();
        plan.acts = [3, 4, 5, 6].map(|second| (Duration::from_secs(second), Act::Redrive(0))).into();
        plan.acts.push((Duration::from_secs(8), Act::Discard(0)));
        panics::listen();
        let report = life::run(&plan, true);
        panics::ignore();
        assert_eq!((report.finding, report.lives), (None, 1), "{plan}  {}", report.trace.join("\n  "));
        let begun = report.trace.iter().filter(|line| line.contains("of [1] on r0 begins, attempt 1 of 3")).count();
        assert_eq!(begun, 5, "{}", report.trace.join("\n  "));
        assert!(report.trace.iter().any(|line| line.contains("the letter of event 1 of r0 is thrown away")));
        assert!(report.trace.iter().any(|line| line.contains(&format!("of [{}] on r0 begins", COMES_BACK + 48))));
    }
}

#[test]
fn nothing_repeats_an_event_that_was_overtaken_until_its_fate_is_recorded() {
    // Three that lie there when the queue is taken up: the second one overtakes the first, and the third one repeats it.
    let mut plan = quiet(Kind::Broker);
    plan.routes[0].busy = Busy::Cancel;
    // A store that takes its time, so that they meet.
    plan.rates.late = 1_000;
    plan.events = vec![event(1, 1_000, 0), event(2, 1_010, 0), EventPlan { repeats: Some(1), ..event(3, 1_020, 0) }];
    plan.forced = [1, 2, 3].map(|number| (number, Answer::Done)).into();
    plan.acts = vec![(Duration::from_millis(500), Act::Pause(0)), (Duration::from_millis(2_000), Act::Resume(0))];
    panics::listen();
    let report = life::run(&plan, true);
    panics::ignore();
    assert_eq!(report.finding, None, "{plan}  {}", report.trace.join("\n  "));
    assert!(report.trace.iter().any(|line| line.contains("of [2] on r0 begins")), "{}", report.trace.join("\n  "));
}
