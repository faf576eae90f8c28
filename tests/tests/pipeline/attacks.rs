//! Attacks on the promises: combinations of faults, pauses, drains and changes that the other tests show one at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use router_api::{Clock, DeadLetterReason, FailureClass};
use router_core::{
    config::Rate,
    observe::{Observer, RouterEvent},
};
use router_testkit::{MemoryState, VirtualClock};

use crate::bench::{Answer, Bench, Call, HOUR, SECOND, coalescing, ids, ordered, route};

fn unfinished(bench: &Bench, route: &str) -> u64 {
    bench.transport.queue(&route.parse().unwrap()).map_or(0, |queue| queue.ready + queue.waiting + queue.in_flight)
}

fn is_first(call: &Call, id: &str) -> bool {
    call.ids[0] == id
}

// ── pauses and drains ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_drain_keeps_its_limit_while_a_paused_route_waits_for_its_last_handling() {
    let bench = Bench::new();
    let mut slow = route("slow");
    slow.timeout = 10 * HOUR;
    bench.behave(|call| if is_first(call, "hangs") { Answer::Hang } else { Answer::Pause });
    bench.apply(&[slow]).await;
    bench.send("a.b", "hangs").await;
    bench.send("a.b", "pauses").await;
    bench.settle_down().await;
    assert_eq!(bench.calls().len(), 2);
    let started = bench.clock.monotonic();
    assert_eq!(bench.drain().await, 1);
    assert!(bench.clock.monotonic() - started < 60 * SECOND, "{:?}", bench.clock.monotonic() - started);
}

#[tokio::test]
async fn a_target_that_asks_for_no_pause_at_all_is_not_probed_in_a_hot_loop() {
    let bench = Bench::new();
    let calls = AtomicU32::new(0);
    bench.behave(move |_| if calls.fetch_add(1, Ordering::Relaxed) < 10_000 { Answer::PauseFor(Duration::ZERO) } else { Answer::Done });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(10 * SECOND).await;
    assert!(bench.calls().len() < 20, "{} calls in ten seconds", bench.calls().len());
}

#[tokio::test]
async fn nothing_that_waited_for_a_suspect_begins_once_the_suspect_has_paused_the_route() {
    let bench = Bench::new();
    let routes = [route("all")];
    bench.behave(|call| if is_first(call, "suspect") { Answer::Hang } else { Answer::Done });
    bench.apply(&routes).await;
    bench.send("a.b", "suspect").await;
    bench.settle_down().await;
    bench.state.crash();
    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.behave(|call| if is_first(call, "suspect") { Answer::PauseAfter(SECOND) } else { Answer::Done });
    next.apply(&routes).await;
    for id in ["n1", "n2", "n3"] {
        next.send("a.b", id).await;
    }
    next.pass(2 * SECOND).await;
    assert_eq!(next.called(), ids(&[&["suspect"]]), "the target is down: the route drains");
    next.behave(|_| Answer::Done);
    next.pass(HOUR).await;
    assert_eq!(unfinished(&next, "all"), 0);
    assert!(next.calls().iter().filter(|call| !is_first(call, "suspect")).all(|call| call.attempt == 1));
}

#[tokio::test]
async fn a_breaker_a_rate_and_a_drain_together_lose_and_charge_nothing() {
    let bench = Bench::new();
    let mut all = route("all");
    all.rate = Some(Rate { count: 1, per: 10 * SECOND });
    all.concurrency = 2;
    bench.behave(|_| Answer::Pause);
    bench.apply(std::slice::from_ref(&all)).await;
    for number in 0..6 {
        bench.send("a.b", &format!("e{number}")).await;
    }
    bench.pass(60 * SECOND).await;
    let started = bench.clock.monotonic();
    assert_eq!(bench.drain().await, 0);
    assert!(bench.clock.monotonic() - started <= 31 * SECOND);
    assert_eq!(unfinished(&bench, "all"), 6);
    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.apply(&[all]).await;
    next.pass(HOUR).await;
    assert_eq!(next.called(), ids(&[&["e0"], &["e1"], &["e2"], &["e3"], &["e4"], &["e5"]]));
    assert!(next.calls().iter().all(|call| call.attempt == 1));
}

// ── what a handler or a port may answer ─────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_handler_that_says_cancelled_while_nobody_cancelled_has_failed() {
    let bench = Bench::new();
    let mut few = ordered("few");
    few.retry.attempts_max = 2;
    bench.behave(|call| if is_first(call, "a1") { Answer::Cancelled } else { Answer::Done });
    bench.apply(&[few]).await;
    bench.send_in("s1", "a1").await;
    bench.send_in("s1", "a2").await;
    bench.pass(HOUR).await;
    assert_eq!(unfinished(&bench, "few"), 0, "nothing is left in a hand that forgot it");
    assert_eq!(bench.called(), ids(&[&["a1"], &["a1"], &["a2"]]));
    assert_eq!(bench.settled(), ["buried: exhausted", "handled"]);
}

#[tokio::test]
async fn an_intake_that_fails_for_a_moment_costs_no_running_handling_its_result() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(20 * SECOND));
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    bench.transport.fail_nexts(1);
    bench.send("a.b", "e2").await;
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e2"]]), "handled twice without a crash or a lost session");
    assert_eq!(bench.settled(), ["handled", "handled"]);
}

#[tokio::test]
async fn a_store_that_fails_between_two_questions_for_duplicates_loses_none_of_them() {
    let bench = Bench::new();
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.settled(), ["handled"]);
    bench.send_in("s1", "w1").await;
    bench.send_in("s1", "w2").await;
    bench.settle_down().await;
    // The repetition of w1 is recognised, then the question for w2 fails.
    bench.store.fail_after(1, 1);
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[&["w1"], &["w2"]]));
    assert_eq!(unfinished(&bench, "ci"), 0, "the repetition is settled too");
}

/// Panics at the first event that is received.
struct Panicky(AtomicU32);

impl Observer for Panicky {
    fn observe(&self, event: &RouterEvent) {
        if matches!(event, RouterEvent::Received { .. }) {
            assert_ne!(self.0.fetch_add(1, Ordering::Relaxed), 0, "made to panic");
        }
    }
}

#[tokio::test]
async fn a_route_whose_loop_panics_begins_anew_and_loses_nothing() {
    let bench = Bench::watched(MemoryState::new(), VirtualClock::default(), Arc::new(Panicky(AtomicU32::new(0))));
    bench.apply(&[route("all")]).await;
    for id in ["e1", "e2"] {
        bench.send("a.b", id).await;
    }
    bench.pass(10 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e2"]]));
    assert_eq!(bench.settled(), ["handled", "handled"]);
    assert_eq!(bench.drain().await, 0);
}

/// Panics whenever something is told to be finished, so many times.
struct Clumsy(AtomicU32);

impl Observer for Clumsy {
    fn observe(&self, event: &RouterEvent) {
        if matches!(event, RouterEvent::Finished { .. }) && self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            panic!("made to panic");
        }
    }
}

#[tokio::test]
async fn what_panics_behind_a_handling_does_not_count_as_under_way_for_ever() {
    const PANICS: u32 = 10;
    let bench = Bench::slow(1, |router| router.observer(Arc::new(Clumsy(AtomicU32::new(PANICS)))));
    let mut narrow = route("narrow");
    // Two may be under way behind their handlings.
    narrow.prefetch = 10;
    bench.apply(&[narrow]).await;
    for number in 0..PANICS + 5 {
        bench.send("a.b", &format!("e{number}")).await;
        bench.pass(60 * SECOND).await;
    }
    assert_eq!(unfinished(&bench, "narrow"), 0, "the route stands still");
}

#[tokio::test]
async fn repetitions_that_leave_a_failing_burst_leave_the_window_too() {
    let bench = Bench::new();
    let mut narrow = coalescing("narrow");
    narrow.prefetch = 8;
    narrow.coalesce.as_mut().unwrap().events_max = 2;
    bench.behave(|call| if call.attempt == 1 { Answer::Retry } else { Answer::Done });
    bench.apply(&[narrow]).await;
    bench.send_in("s1", "done").await;
    bench.pass(60 * SECOND).await;
    for number in 0..8 {
        bench.send_in("s1", "done").await;
        bench.send_in("s1", &format!("w{number}")).await;
        bench.pass(60 * SECOND).await;
    }
    for id in ["last1", "last2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(60 * SECOND).await;
    assert_eq!(bench.called().last(), ids(&[&["last1", "last2"]]).first(), "the window is full of what is not there");
    assert_eq!(unfinished(&bench, "narrow"), 0);
}

// ── bursts ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_frozen_burst_comes_together_though_another_event_of_its_lane_stands_before_it() {
    let mut full = coalescing("full");
    full.prefetch = 16;
    let coalesce = full.coalesce.as_mut().unwrap();
    coalesce.by = "key".parse().unwrap();
    coalesce.events_max = 4;
    let routes = [full];
    let bench = Bench::new();
    bench.behave(|call| if is_first(call, "w0") { Answer::EmitAfter("one.lane") } else { Answer::Hang });
    bench.apply(&routes).await;
    bench.send("one.lane", "w0").await;
    bench.pass(2 * SECOND).await;
    for id in ["w1", "w2", "w3", "w4"] {
        bench.send("one.lane", id).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["w0"], &["w1", "w2", "w3", "w4"]]));
    let key = bench.calls()[1].idempotency_key.clone();
    bench.state.crash();
    bench.clock.advance(2 * SECOND);
    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.apply(&routes).await;
    next.settle_down().await;
    assert_eq!(next.calls().first().map(|call| call.ids.clone()), Some(ids(&[&["w1", "w2", "w3", "w4"]]).remove(0)));
    assert_eq!(next.calls()[0].idempotency_key, key);
    next.pass(HOUR).await;
    assert_eq!(unfinished(&next, "full"), 0);
}

#[tokio::test]
async fn a_frozen_burst_that_no_longer_fits_the_window_is_handled_in_parts_and_none_is_lost() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&[coalescing("ci")]).await;
    for number in 0..20 {
        bench.send_in("s1", &format!("w{number}")).await;
    }
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called()[0].len(), 20);
    let mut narrow = coalescing("ci");
    narrow.prefetch = 8;
    narrow.coalesce.as_mut().unwrap().events_max = 2;
    let bench = bench.crash(&[narrow], |_| Answer::Done).await;
    bench.pass(HOUR).await;
    let called: Vec<String> = bench.called().concat();
    assert_eq!(called, (0..20).map(|number| format!("w{number}")).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(unfinished(&bench, "ci"), 0);
}

#[tokio::test]
async fn a_frozen_burst_of_a_lane_that_is_no_lane_any_more_is_collected_anew() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&[coalescing("ci")]).await;
    for id in ["w1", "w2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    let mut other = coalescing("ci");
    other.coalesce.as_mut().unwrap().by = "key".parse().unwrap();
    let bench = bench.crash(&[other.clone()], |_| Answer::Done).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[&["w1", "w2"]]));
    assert_eq!(bench.settled(), ["handled+handled"]);
    // What was frozen is forgotten with it: nothing waits for it after the next restart.
    let bench = bench.crash(&[coalescing("ci")], |_| Answer::Done).await;
    bench.send_in("s1", "w3").await;
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["w3"]]));
}

#[tokio::test]
async fn a_pause_keeps_the_composition_of_a_burst_and_its_attempts() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[coalescing("ci")]).await;
    for id in ["w1", "w2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    bench.send_in("s1", "late").await;
    bench.behave(|_| Answer::Done);
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[&["w1", "w2"], &["w1", "w2"], &["late"]]));
    assert!(bench.calls().iter().all(|call| call.attempt == 1));
    assert_eq!(bench.calls()[0].idempotency_key, bench.calls()[1].idempotency_key);
}

#[tokio::test]
async fn a_reload_while_bursts_collect_and_fail_loses_and_repeats_nothing() {
    let bench = Bench::new();
    bench.behave(|call| if is_first(call, "f1") && call.attempt < 3 { Answer::RetryAfter(20 * SECOND) } else { Answer::Done });
    bench.apply(&[coalescing("ci")]).await;
    for (session, id) in [("failing", "f1"), ("failing", "f2")] {
        bench.send_in(session, id).await;
    }
    bench.pass(3 * SECOND).await;
    bench.send_in("open", "o1").await;
    bench.send_in("failing", "f3").await;
    bench.settle_down().await;
    let mut changed = coalescing("ci");
    changed.concurrency = 3;
    bench.apply(&[changed]).await;
    bench.send_in("open", "o2").await;
    bench.pass(HOUR).await;
    let mut called = bench.called();
    called.sort();
    assert_eq!(called, ids(&[&["f1", "f2"], &["f1", "f2"], &["f1", "f2"], &["f3"], &["o1", "o2"]]));
    assert_eq!(bench.calls().iter().filter(|call| is_first(call, "f1")).map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(unfinished(&bench, "ci"), 0);
}

#[tokio::test]
async fn repetitions_within_a_burst_stay_recognised_over_a_crash() {
    let bench = Bench::new();
    let routes = [coalescing("ci")];
    bench.behave(|_| Answer::Hang);
    bench.apply(&routes).await;
    for id in ["w1", "w1", "w2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.send_in("s1", "w2").await;
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[&["w1", "w2"]]));
    assert_eq!(bench.settled(), ["handled+handled+handled", "duplicate"]);
    assert_eq!(unfinished(&bench, "ci"), 0);
}

#[tokio::test]
async fn an_event_addressed_to_a_coalescing_route_is_handled_alone_between_the_bursts_of_its_lane() {
    let bench = Bench::new();
    let mut ci = coalescing("ci");
    ci.coalesce.as_mut().unwrap().by = "key".parse().unwrap();
    bench.behave(|call| if is_first(call, "w0") { Answer::EmitAfter("one.lane") } else { Answer::Done });
    bench.apply(&[ci]).await;
    bench.send("one.lane", "w0").await;
    bench.pass(2 * SECOND).await;
    bench.send("one.lane", "w1").await;
    bench.pass(3 * SECOND / 2).await;
    bench.send("one.lane", "w2").await;
    bench.pass(HOUR).await;
    let called = bench.called();
    assert_eq!((called[0].clone(), called[1].clone(), called.len()), (vec!["w0".into()], vec!["w1".into()], 4), "{called:?}");
    assert_eq!((called[2].len(), called[3].clone()), (1, vec!["w2".to_owned()]), "{called:?}");
    assert_eq!(unfinished(&bench, "ci"), 0);
}

// ── attempts, ages, crashes ─────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn with_one_attempt_a_crash_is_that_attempt() {
    let mut once = route("once");
    once.retry.attempts_max = 1;
    let routes = [once];
    let bench = Bench::new();
    bench.behave(|call| if is_first(call, "dies") { Answer::Hang } else { Answer::Retry });
    bench.apply(&routes).await;
    bench.send("a.b", "dies").await;
    bench.send("a.b", "fails").await;
    bench.settle_down().await;
    assert_eq!(bench.settled(), ["buried: exhausted"]);
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(HOUR).await;
    assert!(bench.calls().is_empty(), "{:?}", bench.calls());
    let letters = bench.dead_letters().await;
    let seen: Vec<_> = letters.iter().map(|letter| (letter.letter.reason, letter.letter.attempts, letter.letter.history[0].class)).collect();
    assert_eq!(seen, [(DeadLetterReason::Exhausted, 1, FailureClass::Crash), (DeadLetterReason::Exhausted, 1, FailureClass::Error)]);
}

#[tokio::test]
async fn of_two_routes_that_share_an_event_only_the_one_that_ran_is_charged_with_the_crash() {
    let mut idle = route("idle");
    idle.rate = Some(Rate { count: 1, per: HOUR });
    let routes = [idle, route("runs")];
    let bench = Bench::new();
    bench.behave(|call| if call.route == "runs" && is_first(call, "shared") { Answer::Hang } else { Answer::Done });
    bench.apply(&routes).await;
    bench.send("a.b", "first").await;
    bench.send("a.b", "shared").await;
    bench.settle_down().await;
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(2 * HOUR).await;
    let mut attempts: Vec<_> = bench.calls().into_iter().map(|call| (call.route, call.attempt)).collect();
    attempts.sort();
    assert_eq!(attempts, [("idle".into(), 1), ("runs".into(), 2)]);
}

#[tokio::test]
async fn a_suspect_on_a_route_of_one_handling_at_a_time_does_not_block_it() {
    let mut one = ordered("one");
    one.concurrency = 1;
    let routes = [one];
    let mut bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&routes).await;
    bench.send_in("s1", "a1").await;
    bench.send_in("s2", "b1").await;
    bench.settle_down().await;
    for _ in 0..2 {
        bench = bench.crash(&routes, |_| Answer::Hang).await;
        bench.settle_down().await;
    }
    let bench = bench.crash(&routes, |call| if call.attempt < 6 && is_first(call, "a1") { Answer::Retry } else { Answer::Done }).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.calls().iter().filter(|call| is_first(call, "a1")).map(|call| call.attempt).collect::<Vec<_>>(), [4, 5, 6]);
    assert_eq!(bench.settled(), ["handled", "handled"]);
}

#[tokio::test]
async fn what_was_kept_for_an_event_is_forgotten_when_it_is_settled() {
    use router_api::Store;
    let routes = [coalescing("ci"), ordered("in-order")];
    let bench = Bench::new();
    bench.behave(|call| if call.attempt == 1 { Answer::Retry } else { Answer::Hang });
    bench.apply(&routes).await;
    bench.send_in("s1", "a1").await;
    bench.pass(30 * SECOND).await;
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.calls().iter().map(|call| call.attempt).collect::<Vec<_>>(), [3, 3], "one failed, one crashed");
    for name in ["ci", "in-order"].map(|name| name.parse().unwrap()) {
        assert_eq!(bench.store.suspects(&name).await.unwrap(), []);
        assert_eq!(bench.store.noted_attempts(&name).await.unwrap(), []);
        assert_eq!(bench.store.frozen(&name).await.unwrap(), []);
    }
    assert_eq!(bench.store.running(), []);
}

#[tokio::test]
async fn an_event_whose_wait_outlasts_its_age_is_given_up_on_with_its_attempts() {
    let bench = Bench::new();
    let mut aging = route("aging");
    aging.max_age = Some(60 * SECOND);
    bench.behave(|_| Answer::RetryAfter(100 * SECOND));
    bench.apply(&[aging]).await;
    bench.send("a.b", "e1").await;
    bench.pass(HOUR).await;
    let letters = bench.dead_letters().await;
    assert_eq!(letters.iter().map(|letter| (letter.letter.reason, letter.letter.attempts)).collect::<Vec<_>>(), [(DeadLetterReason::TooOld, 1)]);
    assert_eq!(bench.calls().len(), 1);
}

#[tokio::test]
async fn a_waiting_head_is_tried_again_in_time_though_the_wall_clock_is_set_back() {
    let bench = Bench::new();
    bench.behave(|call| if call.attempt == 1 { Answer::RetryAfter(10 * SECOND) } else { Answer::Done });
    bench.apply(&[ordered("in-order"), route("all")]).await;
    bench.send_in("s1", "a1").await;
    bench.settle_down().await;
    bench.clock.jump_wall(jiff::SignedDuration::from_hours(-24));
    bench.pass(11 * SECOND).await;
    assert_eq!(bench.settled().iter().filter(|word| *word == "handled").count(), 2);
}

// ── the order of the steps ──────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn while_the_handler_runs_nothing_is_remembered_and_nothing_is_emitted() {
    use router_api::Store;
    let bench = Bench::new();
    let mut emitter = route("emitter");
    emitter.on = vec!["in.*".parse().unwrap()];
    bench.behave(|_| Answer::Emit("out.event", Box::new(Answer::Take(10 * SECOND))));
    bench.apply(&[emitter]).await;
    bench.send("in.event", "e1").await;
    bench.pass(5 * SECOND).await;
    let name = "emitter".parse().unwrap();
    let key = "e1";
    assert!(!bench.store.inbox_contains(&name, key, bench.clock.now()).await.unwrap());
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Emitted { .. })), 0);
    assert_eq!(unfinished(&bench, "emitter"), 1);
    bench.pass(6 * SECOND).await;
    assert_eq!(bench.settled(), ["handled"]);
}

#[tokio::test]
async fn an_event_is_not_settled_before_what_it_emitted_is_safe() {
    let bench = Bench::new();
    let mut emitter = route("emitter");
    emitter.on = vec!["in.*".parse().unwrap()];
    bench.behave(|_| Answer::Emit("out.event", Box::new(Answer::Done)));
    bench.apply(&[emitter]).await;
    bench.send("in.event", "e1").await;
    bench.transport.fail_publishes(3);
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));
    assert!(bench.settled().is_empty(), "settled while its emit is not stored: {:?}", bench.settled());
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.settled(), ["handled"]);
    assert_eq!(bench.called(), ids(&[&["e1"]]), "the work is not repeated for it");
}

#[tokio::test]
async fn a_burst_is_frozen_before_its_first_attempt_and_not_after() {
    use router_api::Store;
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.calls().len(), 1);
    let frozen = bench.store.frozen(&"ci".parse().unwrap()).await.unwrap();
    assert_eq!(frozen.iter().map(|burst| burst.members.len()).collect::<Vec<_>>(), [1]);
}
