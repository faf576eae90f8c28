//! `when_busy`: an event comes for a lane that has not finished with an earlier one.

use router_api::{Fate, RedriveRequest, RouteCommand};
use router_core::config::{RouteConfig, WhenBusy};
use router_testkit::SettledHow;

use crate::bench::{Answer, Ask, Bench, SECOND, coalescing, ids, ordered};

fn busy(when_busy: WhenBusy) -> RouteConfig {
    RouteConfig { when_busy, ..ordered("all") }
}

/// The reasons of what was skipped, in the order of the settlements.
fn reasons(bench: &Bench) -> Vec<String> {
    let fates = bench.transport.settled().into_iter().flat_map(|settled| match settled.how {
        SettledHow::Done(fates) => fates,
        _ => Vec::new(),
    });
    fates
        .filter_map(|fate| match fate {
            Fate::Skipped { reason } => Some(reason),
            _ => None,
        })
        .collect()
}

const BUSY: &str = "busy with an earlier event";

fn superseded(by: &str) -> String {
    format!("superseded by a newer event of its lane, `{by}`")
}

#[tokio::test]
async fn a_route_that_skips_handles_what_comes_when_its_lane_is_idle() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(10 * SECOND));
    bench.apply(&[busy(WhenBusy::Skip)]).await;
    for (session, id) in [("s1", "a1"), ("s1", "a2"), ("s2", "b1")] {
        bench.send_in(session, id).await;
        bench.settle_down().await;
    }
    assert_eq!((bench.called(), reasons(&bench)), (ids(&[&["a1"], &["b1"]]), vec![BUSY.to_owned()]));
    bench.pass(11 * SECOND).await;
    bench.send_in("s1", "a3").await;
    bench.send_in("s1", "a2").await;
    bench.pass(11 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["b1"], &["a3"]]));
    assert_eq!(reasons(&bench), [BUSY, BUSY], "what was skipped is skipped again while the lane is busy");
}

#[tokio::test]
async fn what_comes_again_with_a_new_session_is_not_skipped_for_its_own_handling_in_the_old_one() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(10 * SECOND));
    // Nothing but its delivery tells that it is the same.
    bench.apply(&[RouteConfig { dedup: None, ..busy(WhenBusy::Skip) }]).await;
    bench.send_in("s1", "a1").await;
    bench.settle_down().await;
    bench.transport.lose_session(&"all".parse().unwrap());
    bench.pass(SECOND * 6).await;
    bench.send_in("s1", "a2").await;
    bench.pass(60 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["a1"]]));
    assert_eq!(reasons(&bench), [BUSY], "of the later one");
}

#[tokio::test]
async fn what_was_skipped_is_done_with() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(10 * SECOND));
    bench.apply(&[busy(WhenBusy::Skip)]).await;
    for id in ["a1", "a2"] {
        bench.send_in("s1", id).await;
        bench.settle_down().await;
    }
    bench.pass(11 * SECOND).await;
    bench.send_in("s1", "a2").await;
    bench.pass(SECOND).await;
    assert_eq!((bench.called(), bench.settled()), (ids(&[&["a1"]]), ["skipped", "handled", "duplicate"].map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn a_lane_whose_head_waits_for_another_attempt_is_busy_and_goes_on_seeing_what_comes() {
    let bench = Bench::new();
    bench.behave(|call| if call.attempt < 3 { Answer::RetryAfter(60 * SECOND) } else { Answer::Done });
    bench.apply(&[busy(WhenBusy::Skip)]).await;
    bench.send_in("s1", "a1").await;
    bench.settle_down().await;
    bench.send_in("s1", "a2").await;
    bench.settle_down().await;
    assert_eq!(reasons(&bench), [BUSY]);
    bench.pass(200 * SECOND).await;
    assert_eq!(bench.settled(), ["skipped", "handled"]);
}

#[tokio::test]
async fn a_route_that_cancels_ends_what_runs_and_handles_the_newest() {
    let bench = Bench::new();
    bench.effects.hang("run");
    bench.behave(|call| if call.ids[0] == "a3" { Answer::Done } else { Ask::new("run").then(Answer::Done) });
    bench.apply(&[busy(WhenBusy::Cancel)]).await;
    for (session, id) in [("s1", "a1"), ("s2", "b1"), ("s1", "a2"), ("s1", "a3")] {
        bench.send_in(session, id).await;
        bench.settle_down().await;
    }
    bench.pass(2 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["b1"], &["a2"], &["a3"]]));
    assert!(bench.calls().iter().all(|call| call.attempt == 1));
    assert_eq!(reasons(&bench), [superseded("a2"), superseded("a3")]);
    assert_eq!((bench.effects.in_progress(), bench.settled().len()), (1, 3), "the other lane goes on");
    assert!(bench.dead_letters().await.is_empty());
    bench.send_in("s1", "a1").await;
    bench.pass(SECOND).await;
    assert_eq!(bench.settled().last().map(String::as_str), Some("duplicate"), "what was superseded is done with");
}

#[tokio::test]
async fn of_what_waits_for_its_turn_or_another_attempt_only_the_newest_is_handled() {
    let bench = Bench::new();
    bench.behave(|call| match call.ids[0].as_str() {
        "b1" => Answer::Take(10 * SECOND),
        "a4" => Answer::RetryAfter(100 * SECOND),
        _ => Answer::Done,
    });
    bench.apply(&[RouteConfig { concurrency: 1, ..busy(WhenBusy::Cancel) }]).await;
    for (session, id) in [("s2", "b1"), ("s1", "a1"), ("s1", "a2"), ("s1", "a3")] {
        bench.send_in(session, id).await;
        bench.settle_down().await;
    }
    bench.pass(11 * SECOND).await;
    assert_eq!((bench.called(), reasons(&bench)), (ids(&[&["b1"], &["a3"]]), vec![superseded("a2"), superseded("a3")]));
    bench.send_in("s1", "a4").await;
    bench.pass(SECOND).await;
    bench.send_in("s1", "a5").await;
    bench.pass(200 * SECOND).await;
    assert_eq!(bench.called()[2..], ids(&[&["a4"], &["a5"]]));
    assert_eq!(reasons(&bench).last(), Some(&superseded("a5")));
}

#[tokio::test]
async fn a_burst_that_runs_is_superseded_by_what_comes_and_that_is_a_burst_of_its_own() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids.len() == 2 { Answer::Hang } else { Answer::Done });
    bench.apply(&[RouteConfig { when_busy: WhenBusy::Cancel, ..coalescing("all") }]).await;
    for id in ["a1", "a2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    bench.send_in("s1", "a3").await;
    bench.pass(SECOND).await;
    assert_eq!(reasons(&bench), [superseded("a3"), superseded("a3")]);
    bench.pass(5 * SECOND).await;
    assert_eq!((bench.called(), bench.settled()), (ids(&[&["a1", "a2"], &["a3"]]), ["skipped+skipped", "handled"].map(str::to_owned).to_vec()));
    assert_eq!(bench.state.writes(), 0);
    use router_api::Store;
    assert!(bench.store.frozen(&"all".parse().unwrap()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_repetition_of_what_runs_overtakes_nothing_and_is_not_skipped() {
    for when_busy in [WhenBusy::Skip, WhenBusy::Cancel] {
        let bench = Bench::new();
        bench.behave(|_| Answer::Take(10 * SECOND));
        bench.apply(&[busy(when_busy)]).await;
        for id in ["a1", "a1"] {
            bench.send_in("s1", id).await;
            bench.settle_down().await;
        }
        bench.pass(30 * SECOND).await;
        assert_eq!((bench.called(), bench.settled()), (ids(&[&["a1"]]), ["handled", "duplicate"].map(str::to_owned).to_vec()), "{when_busy:?}");
    }
}

#[tokio::test]
async fn what_an_operator_puts_back_waits_for_its_turn() {
    for when_busy in [WhenBusy::Skip, WhenBusy::Cancel] {
        let bench = Bench::new();
        bench.behave(|call| if call.ids[0] == "a1" { Answer::Reject } else { Answer::Take(10 * SECOND) });
        bench.apply(&[busy(when_busy)]).await;
        for id in ["a1", "a2"] {
            bench.send_in("s1", id).await;
            bench.settle_down().await;
        }
        bench.behave(|_| Answer::Done);
        bench.router.admin().redrive(&RedriveRequest::default()).await.unwrap();
        bench.pass(30 * SECOND).await;
        assert_eq!((bench.called(), reasons(&bench)), (ids(&[&["a1"], &["a2"], &["a1"]]), vec![]), "{when_busy:?}");
    }
}

#[tokio::test]
async fn a_crash_while_something_is_superseded_loses_nothing() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    bench.apply(&[busy(WhenBusy::Cancel)]).await;
    for id in ["a1", "a2"] {
        bench.send_in("s1", id).await;
    }
    let bench = bench.crash(&[busy(WhenBusy::Cancel)], |_| Answer::Done).await;
    bench.pass(60 * SECOND).await;
    let fates = bench.settled();
    assert_eq!(fates.iter().filter(|fate| *fate == "handled").count(), bench.called().len());
    assert_eq!(bench.called().last(), Some(&vec!["a2".to_owned()]), "{fates:?}");
}

#[tokio::test]
async fn a_repetition_of_what_is_done_overtakes_nothing_however_long_the_inbox_takes_to_tell() {
    for seed in 0..20 {
        let bench = if seed == 0 { Bench::new() } else { Bench::slow(seed, |router| router) };
        bench.behave(|_| Answer::Take(10 * SECOND));
        bench.apply(&[busy(WhenBusy::Cancel)]).await;
        bench.send_in("s1", "a1").await;
        bench.pass(11 * SECOND).await;
        for id in ["a2", "a1"] {
            bench.send_in("s1", id).await;
            bench.pass(SECOND).await;
        }
        bench.pass(20 * SECOND).await;
        // What is settled behind its handling may be so after the next one.
        let mut settled = bench.settled();
        settled.sort_unstable();
        assert_eq!((bench.called(), settled), (ids(&[&["a1"], &["a2"]]), ["duplicate", "handled", "handled"].map(str::to_owned).to_vec()), "{seed}");
    }
}

#[tokio::test]
async fn of_events_that_come_together_the_newest_is_handled_though_a_repetition_of_an_overtaken_one_is_behind_it() {
    for seed in 0..20 {
        let bench = if seed == 0 { Bench::new() } else { Bench::slow(seed, |router| router) };
        bench.apply(&[busy(WhenBusy::Cancel)]).await;
        let (admin, name) = (bench.router.admin(), "all".parse().unwrap());
        admin.command(&name, RouteCommand::Pause).await.unwrap();
        bench.settle_down().await;
        for id in ["a1", "a2", "a1"] {
            bench.send_in("s1", id).await;
        }
        admin.command(&name, RouteCommand::Resume).await.unwrap();
        bench.pass(60 * SECOND).await;
        assert!(bench.called().contains(&vec!["a2".to_owned()]), "{seed}: {:?}, {:?}", bench.called(), bench.settled());
        assert_eq!(bench.settled().len(), 3, "{seed}");
    }
}

#[tokio::test]
async fn what_runs_is_overtaken_as_soon_as_the_inbox_has_told_that_the_newer_one_is_new() {
    for seed in 1..20 {
        let bench = Bench::slow(seed, |router| router);
        bench.behave(|call| if call.ids[0] == "a4" { Answer::Done } else { Answer::Take(10 * SECOND) });
        bench.apply(&[busy(WhenBusy::Cancel)]).await;
        for id in ["a1", "a2", "a3", "a4"] {
            bench.send_in("s1", id).await;
            if id == "a1" {
                bench.pass(SECOND).await;
            }
        }
        bench.pass(5 * SECOND).await;
        assert_eq!(bench.called().last(), Some(&vec!["a4".to_owned()]), "{seed}: {:?}, {:?}", bench.called(), bench.settled());
        assert_eq!(bench.settled().iter().filter(|fate| *fate == "skipped").count(), 3, "{seed}: {:?}", bench.settled());
    }
}
