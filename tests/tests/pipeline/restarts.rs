//! Stops, crashes and restarts: what is counted, what is not, and that nothing is lost.

use std::time::Duration;

use router_api::{DeadLetterReason, FailureClass};

use crate::bench::{Answer, Bench, HOUR, SECOND, ids, ordered, route};

#[tokio::test]
async fn a_drain_lets_what_runs_finish_and_gives_the_rest_back_uncounted() {
    let bench = Bench::new();
    let mut one = route("one");
    one.concurrency = 1;
    bench.behave(|_| Answer::Take(10 * SECOND));
    bench.apply(std::slice::from_ref(&one)).await;
    for id in ["e1", "e2", "e3"] {
        bench.send("a.b", id).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.drain().await, 0);
    assert_eq!(bench.called(), ids(&[&["e1"]]));
    assert_eq!(bench.settled(), ["handled"]);

    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.apply(&[one]).await;
    next.pass(SECOND).await;
    assert_eq!(next.called(), ids(&[&["e2"], &["e3"]]));
    assert!(next.calls().iter().all(|call| call.attempt == 1));
}

#[tokio::test]
async fn what_does_not_finish_within_the_drain_limit_is_cancelled_and_not_counted() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let before = bench.clock.clone();
    let started = router_api::Clock::monotonic(&before);
    assert_eq!(bench.drain().await, 1);
    let took = router_api::Clock::monotonic(&before) - started;
    assert!(took >= 30 * SECOND && took < 40 * SECOND, "{took:?}");
    assert!(bench.settled().is_empty());

    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.apply(&[route("all")]).await;
    next.settle_down().await;
    assert_eq!(next.calls().iter().map(|call| call.attempt).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_second_signal_cuts_the_drain_short() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let started = router_api::Clock::monotonic(&bench.clock);
    let drain = bench.router.drain();
    tokio::pin!(drain);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut drain).await.is_err(), "the handler hangs");
    bench.router.force();
    assert_eq!(bench.clock.run_until(drain).await.cancelled, 1);
    assert!(router_api::Clock::monotonic(&bench.clock) - started < 2 * SECOND);
}

#[tokio::test]
async fn thirty_drained_restarts_cost_no_event_an_attempt() {
    let state = router_testkit::MemoryState::new();
    let clock = router_testkit::VirtualClock::default();
    let mut slow = route("slow");
    slow.concurrency = 2;
    slow.drain = Duration::ZERO;
    let first = Bench::over(state.clone(), clock.clone());
    first.behave(|_| Answer::Hang);
    first.apply(std::slice::from_ref(&slow)).await;
    for number in 0..50 {
        first.send("a.b", &format!("e{number}")).await;
    }
    first.settle_down().await;
    first.drain().await;
    for _ in 0..29 {
        let bench = Bench::over(state.clone(), clock.clone());
        bench.behave(|_| Answer::Hang);
        bench.apply(std::slice::from_ref(&slow)).await;
        bench.settle_down().await;
        assert!(bench.calls().iter().all(|call| call.attempt == 1), "{:?}", bench.calls());
        bench.drain().await;
    }
    let last = Bench::over(state, clock);
    last.apply(&[slow]).await;
    last.pass(SECOND).await;
    assert_eq!(last.calls().len(), 50);
    assert!(last.calls().iter().all(|call| call.attempt == 1));
    assert_eq!(last.settled(), ["handled"; 50]);
}

#[tokio::test]
async fn a_crash_is_charged_to_what_was_running_and_to_nothing_else() {
    let bench = Bench::new();
    let mut one = route("one");
    one.concurrency = 1;
    bench.behave(|_| Answer::Hang);
    bench.apply(std::slice::from_ref(&one)).await;
    for id in ["e1", "e2", "e3"] {
        bench.send("a.b", id).await;
    }
    bench.settle_down().await;
    let bench = bench.crash(&[one], |_| Answer::Done).await;
    bench.pass(SECOND).await;
    let attempts: Vec<_> = bench.calls().into_iter().map(|call| (call.ids[0].clone(), call.attempt)).collect();
    assert_eq!(attempts, [("e1".into(), 2), ("e2".into(), 1), ("e3".into(), 1)]);
}

#[tokio::test]
async fn an_event_that_kills_the_process_is_given_up_on_after_crashes_max() {
    let routes = [route("all")];
    let mut bench = Bench::new();
    bench.behave(|call| if call.ids[0] == "poison" { Answer::Hang } else { Answer::Done });
    bench.apply(&routes).await;
    bench.send("a.b", "poison").await;
    bench.settle_down().await;
    for crash in 1..5 {
        bench = bench.crash(&routes, |call| if call.ids[0] == "poison" { Answer::Hang } else { Answer::Done }).await;
        bench.settle_down().await;
        assert_eq!(bench.calls().len(), 1, "tried again after crash {crash}");
    }
    bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.send("a.b", "innocent").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["innocent"]]));
    let letter = bench.dead_letters().await.remove(0).letter;
    assert_eq!((letter.reason, letter.history.last().map(|record| record.class)), (DeadLetterReason::Crashed, Some(FailureClass::Crash)));
}

#[tokio::test]
async fn failed_attempts_of_a_head_in_hand_survive_a_crash() {
    let routes = [ordered("in-order")];
    let bench = Bench::new();
    bench.behave(|_| Answer::RetryAfter(100 * SECOND));
    bench.apply(&routes).await;
    bench.send_in("s1", "a1").await;
    bench.settle_down().await;
    bench.pass(100 * SECOND).await;
    assert_eq!(bench.calls().iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 2]);
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(50 * SECOND).await;
    assert!(bench.calls().is_empty(), "the wait goes on where it was");
    bench.pass(60 * SECOND).await;
    assert_eq!(bench.calls().iter().map(|call| call.attempt).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn failed_attempts_of_an_unordered_event_survive_a_crash() {
    let routes = [route("all")];
    let bench = Bench::new();
    bench.behave(|_| Answer::Retry);
    bench.apply(&routes).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.calls().iter().map(|call| call.attempt).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_lost_session_does_not_let_an_event_overtake_its_own_running_handling() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(20 * SECOND));
    bench.apply(&[ordered("in-order")]).await;
    bench.send_in("s1", "a1").await;
    bench.send_in("s1", "a2").await;
    bench.settle_down().await;
    bench.transport.lose_session(&"in-order".parse().unwrap());
    bench.pass(15 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["a1"]]), "the first handling still runs");
    bench.pass(120 * SECOND).await;
    // Its result had no session to be recorded in, so the event is handled again: the bound is what was in hand.
    assert_eq!(bench.called(), ids(&[&["a1"], &["a1"], &["a2"]]));
    assert!(bench.calls().iter().all(|call| call.attempt == 1), "a lost session charges nobody");
}
