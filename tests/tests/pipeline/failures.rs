//! What failures lead to: retries, pauses, time limits, panics; and that they harm only their own event.

use std::time::Duration;

use router_api::{FailureClass, RouteState};
use router_core::{config::Rate, observe::RouterEvent};
use router_testkit::SettledHow;

use crate::bench::{Answer, Bench, HOUR, SECOND, ids, route};

#[tokio::test]
async fn a_failed_unordered_event_waits_in_the_transport_and_others_go_on() {
    let bench = Bench::new();
    let mut one = route("one");
    one.concurrency = 1;
    bench.behave(|call| if call.ids[0] == "bad" && call.attempt < 3 { Answer::Retry } else { Answer::Done });
    bench.apply(&[one]).await;
    bench.send("a.b", "bad").await;
    bench.send("a.b", "good").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["bad"], &["good"]]));
    bench.pass(10 * SECOND).await;
    assert_eq!(bench.calls().iter().filter(|call| call.ids[0] == "bad").map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(bench.settled(), ["retry", "handled", "retry", "handled"]);
}

#[tokio::test]
async fn delays_are_drawn_below_a_bound_that_doubles() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Retry);
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(24 * HOUR).await;
    let delays: Vec<Duration> = bench
        .transport
        .settled()
        .into_iter()
        .filter_map(|settled| match settled.how {
            SettledHow::RetryIn { delay, .. } => Some(delay),
            _ => None,
        })
        .collect();
    assert_eq!(delays.len(), 7, "eight attempts");
    for (index, delay) in delays.iter().enumerate() {
        assert!(*delay <= SECOND * (1 << index), "delay {index} is {delay:?}");
    }
    assert_ne!(delays[5], SECOND * 32, "jitter");
}

#[tokio::test]
async fn a_handler_that_asks_for_time_gets_it() {
    let bench = Bench::new();
    bench.behave(|call| if call.attempt == 1 { Answer::RetryAfter(30 * SECOND) } else { Answer::Done });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(29 * SECOND).await;
    assert_eq!(bench.calls().len(), 1);
    bench.pass(2 * SECOND).await;
    assert_eq!(bench.calls().len(), 2);
}

#[tokio::test]
async fn a_hanging_handler_is_ended_at_the_time_limit_and_tried_again() {
    let bench = Bench::new();
    bench.behave(|call| if call.attempt == 1 { Answer::Hang } else { Answer::Done });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(59 * SECOND).await;
    assert!(bench.settled().is_empty());
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.settled(), ["retry", "handled"]);
    let timed_out =
        |event: &RouterEvent| matches!(event, RouterEvent::Failed { class: FailureClass::Timeout, error, .. } if error == "no result within 60000 ms");
    assert_eq!(bench.observer.count(timed_out), 1);
}

#[tokio::test]
async fn a_panic_harms_only_its_own_event() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0].ends_with('0') && call.attempt == 1 { Answer::Panic } else { Answer::Done });
    bench.apply(&[route("all")]).await;
    for number in 0..30 {
        bench.send("a.b", &format!("e{number}")).await;
    }
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.settled().iter().filter(|word| *word == "handled").count(), 30);
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Failed { class: FailureClass::Panic, .. })), 3);
}

#[tokio::test]
async fn a_target_that_is_down_stops_the_route_counts_no_attempt_and_is_probed_with_one_event() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[route("all")]).await;
    for number in 0..20 {
        bench.send("a.b", &format!("e{number}")).await;
    }
    bench.settle_down().await;
    let first_try = bench.calls().len();
    assert!(first_try <= 8, "at most what ran at once: {first_try}");
    let status = bench.router.admin().status().await.unwrap().routes.remove(0);
    assert_eq!((status.state, status.note.as_deref()), (RouteState::Paused, Some("connection refused")));

    bench.pass(6 * SECOND).await;
    assert_eq!(bench.calls().len(), first_try + 1, "one event as a probe");
    bench.pass(8 * SECOND).await;
    assert_eq!(bench.calls().len(), first_try + 1, "the pause has doubled");
    bench.pass(2 * SECOND).await;
    assert_eq!(bench.calls().len(), first_try + 2);

    bench.behave(|_| Answer::Done);
    bench.pass(21 * SECOND).await;
    assert_eq!(bench.settled().len(), 20);
    assert!(bench.settled().iter().all(|word| word == "handled"), "{:?}", bench.settled());
    assert!(bench.calls().iter().all(|call| call.attempt == 1), "a pause counts no attempt");
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::RouteResumed { .. })), 1);
}

#[tokio::test]
async fn events_that_come_while_a_route_is_paused_wait_in_order() {
    let bench = Bench::new();
    let mut one = route("one");
    one.concurrency = 1;
    bench.behave(|_| Answer::Pause);
    bench.apply(&[one]).await;
    for id in ["e1", "e2", "e3"] {
        bench.send("a.b", id).await;
    }
    bench.settle_down().await;
    bench.behave(|_| Answer::Done);
    bench.pass(6 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e1"], &["e2"], &["e3"]]));
}

#[tokio::test]
async fn a_rate_limit_delays_the_excess_and_drops_nothing() {
    let bench = Bench::new();
    let mut limited = route("limited");
    limited.rate = Some(Rate { count: 2, per: 10 * SECOND });
    bench.apply(&[limited]).await;
    for number in 0..6 {
        bench.send("a.b", &format!("e{number}")).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.calls().len(), 2);
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.calls().len(), 3);
    bench.pass(15 * SECOND).await;
    assert_eq!(bench.calls().len(), 6);
}

#[tokio::test]
async fn a_consumer_that_is_lost_is_taken_up_again() {
    let bench = Bench::new();
    bench.apply(&[route("all")]).await;
    bench.transport.lose_session(&"all".parse().unwrap());
    bench.send("a.b", "e1").await;
    bench.pass(6 * SECOND).await;
    assert_eq!(bench.settled(), ["handled"]);
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::ConsumerLost { .. })), 1);
}

#[tokio::test]
async fn a_queue_that_cannot_be_taken_up_is_tried_again_with_growing_delays() {
    let bench = Bench::new();
    bench.transport.fail_consumes(5);
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(30 * SECOND).await;
    assert_eq!(bench.settled(), ["handled"]);
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::ConsumerLost { .. })), 5);
}
