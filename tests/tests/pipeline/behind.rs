//! What is done and not yet recorded: it holds up neither its lane nor its place, and there is a bound to it.

use crate::bench::{Bench, SECOND, coalescing, ids, ordered};

/// For as long as a test lasts.
const FOR_EVER: u32 = u32::MAX;

/// With four that may be done and not yet recorded.
fn narrow() -> router_core::config::RouteConfig {
    let mut narrow = ordered("narrow");
    narrow.prefetch = 20;
    narrow
}

async fn sent(bench: &Bench, session: &str, events: &[&str]) {
    for id in events {
        bench.send_in(session, id).await;
    }
    bench.pass(SECOND).await;
}

#[tokio::test]
async fn a_lane_goes_on_before_what_is_done_is_recorded_and_stops_at_a_fifth_of_the_window() {
    let bench = Bench::new();
    bench.apply(&[narrow()]).await;
    bench.transport.fail_settles(FOR_EVER);
    sent(&bench, "s1", &["e1", "e2", "e3", "e4", "e5", "e6"]).await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e2"], &["e3"], &["e4"]]));
    assert!(bench.settled().is_empty());

    bench.transport.fail_settles(0);
    bench.pass(10 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e2"], &["e3"], &["e4"], &["e5"], &["e6"]]), "each once");
    assert_eq!(bench.settled(), ["handled"; 6]);
}

#[tokio::test]
async fn a_kill_repeats_what_is_done_and_not_recorded_in_its_order_and_nothing_else() {
    let bench = Bench::new();
    bench.apply(&[narrow()]).await;
    sent(&bench, "s1", &["e1", "e2"]).await;
    bench.transport.fail_settles(FOR_EVER);
    sent(&bench, "s1", &["e3", "e4", "e5"]).await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e2"], &["e3"], &["e4"], &["e5"]]));
    bench.state.crash();
    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.transport.fail_settles(0);
    next.apply(&[narrow()]).await;
    next.settle_down().await;
    let calls: Vec<_> = next.calls().into_iter().map(|call| (call.ids[0].clone(), call.attempt)).collect();
    assert_eq!(calls, ["e3", "e4", "e5"].map(|id| (id.to_owned(), 1)), "none of them was running, so none is charged");
    assert_eq!(next.settled(), ["handled"; 5], "two of them in the life before");
}

#[tokio::test]
async fn a_repetition_of_what_is_done_and_not_yet_recorded_is_recognised() {
    let bench = Bench::new();
    bench.apply(&[narrow()]).await;
    bench.transport.fail_settles(FOR_EVER);
    sent(&bench, "s1", &["e1", "e1"]).await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));
    bench.transport.fail_settles(0);
    bench.pass(10 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));
    assert_eq!(bench.settled(), ["handled", "duplicate"]);
}

#[tokio::test]
async fn a_drain_waits_until_what_is_done_is_recorded() {
    let bench = Bench::new();
    bench.apply(&[narrow()]).await;
    bench.transport.fail_settles(3);
    sent(&bench, "s1", &["e1", "e2"]).await;
    bench.transport.fail_settles(3);
    assert_eq!(bench.drain().await, 0, "nothing was cut short");
    assert_eq!(bench.settled(), ["handled"; 2]);
    bench.state.crash();
    let next = Bench::over(bench.state.clone(), bench.clock.clone());
    next.apply(&[narrow()]).await;
    next.settle_down().await;
    assert!(next.calls().is_empty());
}

#[tokio::test]
async fn a_window_that_is_full_of_what_is_done_closes_no_burst_before_its_time() {
    let mut narrow = coalescing("narrow");
    narrow.prefetch = 20;
    narrow.coalesce.as_mut().unwrap().events_max = 5;
    let bench = Bench::new();
    bench.apply(&[narrow]).await;
    bench.transport.fail_settles(FOR_EVER);
    for session in ["s1", "s2", "s3"] {
        bench.send_in(session, session).await;
    }
    bench.pass(60 * SECOND).await;
    assert_eq!(bench.called().len(), 3, "done, and not recorded");
    for session in 0..5 {
        for event in 0..if session < 2 { 4 } else { 3 } {
            bench.send_in(&format!("t{session}"), &format!("t{session}-{event}")).await;
        }
    }
    bench.settle_down().await;
    assert_eq!(bench.called().len(), 3, "with what is done and 17 that collect the window is full");
    bench.transport.fail_settles(0);
    bench.pass(60 * SECOND).await;
    let sizes: Vec<usize> = bench.called()[3..].iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 3, 3, 3]);
}
