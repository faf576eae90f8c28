//! Coalescing: one handling for the events of a burst, all of them, its composition fixed before the first attempt.

use std::time::Duration;

use router_api::Fate;
use router_core::observe::RouterEvent;

use crate::bench::{Answer, Bench, HOUR, SECOND, coalescing, ids};

const SEVEN: [&str; 7] = ["w1", "w2", "w3", "w4", "w5", "w6", "w7"];

#[tokio::test]
async fn seven_writes_are_one_run_that_sees_all_seven() {
    let bench = Bench::new();
    bench.apply(&[coalescing("ci")]).await;
    for id in SEVEN {
        bench.send_in("s1", id).await;
        bench.pass(Duration::from_millis(300)).await;
    }
    assert!(bench.calls().is_empty(), "quiet for two seconds first");
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&SEVEN]));
    assert_eq!(bench.settled(), [["handled"; 7].join("+")], "settled as one");
    let note =
        |event: &RouterEvent| matches!(event, RouterEvent::Finished { fate: Fate::Handled { burst: Some(note), .. }, events: 7, .. } if note.events == 7);
    assert_eq!(bench.observer.count(note), 1);
}

#[tokio::test]
async fn what_arrives_during_a_run_is_one_follow_up() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(20 * SECOND));
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.pass(3 * SECOND).await;
    for id in ["w2", "w3", "w4"] {
        bench.send_in("s1", id).await;
        bench.pass(5 * SECOND).await;
    }
    assert_eq!(bench.called(), ids(&[&["w1"]]));
    bench.pass(60 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["w1"], &["w2", "w3", "w4"]]));
}

#[tokio::test]
async fn a_failing_burst_keeps_its_composition_and_its_key_while_others_collect() {
    let bench = Bench::new();
    bench.behave(|call| if call.attempt < 3 && call.ids[0] == "w1" { Answer::Retry } else { Answer::Done });
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.send_in("s1", "w2").await;
    bench.pass(2 * SECOND).await;
    bench.send_in("s1", "w3").await;
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[&["w1", "w2"], &["w1", "w2"], &["w1", "w2"], &["w3"]]));
    let keys: Vec<_> = bench.calls().into_iter().map(|call| call.idempotency_key).collect();
    assert_eq!(keys[0], keys[2]);
    assert_ne!(keys[0], keys[3]);
}

#[tokio::test]
async fn a_burst_that_the_process_dies_on_comes_together_again_as_it_was() {
    let bench = Bench::new();
    let routes = [coalescing("ci")];
    bench.behave(|_| Answer::Hang);
    bench.apply(&routes).await;
    for id in SEVEN {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&SEVEN]));
    let first_key = bench.calls()[0].idempotency_key.clone();
    bench.send_in("s1", "late").await;
    bench.settle_down().await;

    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(5 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&SEVEN, &["late"]]));
    assert_eq!(bench.calls()[0].idempotency_key, first_key);
    assert_eq!(bench.calls()[0].attempt, 2, "the attempt that the process died in is charged");
}

#[tokio::test]
async fn a_burst_that_had_not_begun_is_collected_anew_after_a_crash_and_none_is_lost() {
    let bench = Bench::new();
    let routes = [coalescing("ci")];
    bench.apply(&routes).await;
    for id in SEVEN {
        bench.send_in("s1", id).await;
    }
    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&SEVEN]));
    assert_eq!(bench.calls()[0].attempt, 1);
}

#[tokio::test]
async fn a_full_window_closes_the_oldest_open_burst_early() {
    let bench = Bench::new();
    let mut narrow = coalescing("narrow");
    narrow.prefetch = 8;
    if let Some(coalesce) = &mut narrow.coalesce {
        coalesce.events_max = 2;
        coalesce.quiet = HOUR;
        coalesce.max_wait = 2 * HOUR;
    }
    bench.apply(&[narrow]).await;
    for number in 0..8 {
        bench.send_in(&format!("s{number}"), &format!("w{number}")).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["w0"]]));
}

#[tokio::test]
async fn a_burst_is_buried_whole_each_member_with_the_reason() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Reject);
    bench.apply(&[coalescing("ci")]).await;
    for id in ["w1", "w2", "w3"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 3);
    assert!(letters[0].letter.burst.is_some() && letters.iter().all(|letter| letter.letter.burst == letters[0].letter.burst));
}

#[tokio::test]
async fn a_repetition_within_a_burst_is_shown_to_the_handler_once() {
    let bench = Bench::new();
    bench.apply(&[coalescing("ci")]).await;
    for id in ["w1", "w1", "w2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["w1", "w2"]]));
    assert_eq!(bench.transport.queue(&"ci".parse().unwrap()).map(|queue| queue.ready + queue.in_flight), Some(0));
}

#[tokio::test]
async fn a_burst_does_not_begin_while_its_composition_cannot_be_stored() {
    let bench = Bench::new();
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.pass(SECOND).await;
    // The inbox is asked first, then the burst is frozen: both fail once.
    bench.store.fail(2);
    bench.pass(2 * SECOND).await;
    assert!(bench.calls().is_empty());
    bench.pass(30 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["w1"]]));
    assert_eq!(bench.calls()[0].attempt, 1);
}
