//! Order within a lane, through failures; and that a waiting lane blocks only itself.

use std::time::Duration;

use router_api::DeadLetterReason;
use router_core::{
    config::{OnExhausted, RouteConfig},
    observe::RouterEvent,
};

use crate::bench::{Answer, Bench, HOUR, SECOND, ids, ordered, route};

#[tokio::test]
async fn events_of_one_session_run_one_after_the_other_and_sessions_side_by_side() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(SECOND));
    bench.apply(&[ordered("in-order")]).await;
    for (session, id) in [("s1", "a1"), ("s1", "a2"), ("s2", "b1"), ("s1", "a3"), ("s2", "b2")] {
        bench.send_in(session, id).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["b1"]]));
    bench.pass(SECOND).await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["b1"], &["a2"], &["b2"]]));
    bench.pass(2 * SECOND).await;
    assert_eq!(bench.settled(), ["handled"; 5]);
}

#[tokio::test]
async fn a_failing_head_waits_in_hand_and_holds_back_its_own_session_only() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0] == "a1" && call.attempt < 4 { Answer::Retry } else { Answer::Done });
    bench.apply(&[ordered("in-order")]).await;
    for (session, id) in [("s1", "a1"), ("s1", "a2"), ("s2", "b1"), ("s2", "b2")] {
        bench.send_in(session, id).await;
    }
    bench.settle_down().await;
    bench.pass(60 * SECOND).await;
    let called: Vec<String> = bench.calls().into_iter().map(|call| call.ids[0].clone()).collect();
    let position = |id: &str| called.iter().rposition(|called| called == id).unwrap();
    assert!(position("a2") > position("a1"), "{called:?}");
    assert!(position("b2") < position("a1"), "the other session does not wait: {called:?}");
    assert!(!bench.settled().contains(&"retry".to_owned()), "the head of an ordered lane is never given back");
    assert_eq!(bench.calls().iter().filter(|call| call.ids[0] == "a1").map(|call| call.attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_head_that_is_given_up_on_lets_its_lane_go_on() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0] == "a1" { Answer::Reject } else { Answer::Done });
    bench.apply(&[ordered("in-order")]).await;
    for id in ["a1", "a2"] {
        bench.send_in("s1", id).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.settled(), ["buried: rejected", "handled"]);
}

#[tokio::test]
async fn on_a_parking_route_the_rest_of_the_lane_follows_its_head_even_after_a_restart() {
    let bench = Bench::new();
    let mut parking = ordered("parking");
    parking.on_exhausted = OnExhausted::Park;
    bench.behave(|call| if call.ids[0] == "a1" { Answer::Reject } else { Answer::Done });
    bench.apply(std::slice::from_ref(&parking)).await;
    for (session, id) in [("s1", "a1"), ("s1", "a2"), ("s2", "b1")] {
        bench.send_in(session, id).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["a1"], &["b1"]]));
    let bench = bench.crash(&[parking], |_| Answer::Done).await;
    bench.send_in("s1", "a3").await;
    bench.send_in("s2", "b2").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["b2"]]));
    let reasons: Vec<_> = bench.dead_letters().await.into_iter().map(|letter| letter.letter.reason).collect();
    assert_eq!(reasons, [DeadLetterReason::Parked, DeadLetterReason::Parked, DeadLetterReason::Rejected], "newest first");
}

#[tokio::test]
async fn waiting_lanes_that_fill_half_the_window_stop_the_intake_until_one_head_settles() {
    let bench = Bench::new();
    let mut narrow = ordered("narrow");
    narrow.prefetch = 8;
    narrow.retry.first_delay = 100 * SECOND;
    bench.behave(|call| if call.ids[0].starts_with("bad") && call.attempt == 1 { Answer::RetryAfter(50 * SECOND) } else { Answer::Done });
    bench.apply(&[narrow]).await;
    for number in 0..4 {
        bench.send_in(&format!("s{number}"), &format!("bad{number}")).await;
    }
    bench.settle_down().await;
    bench.send_in("other", "good").await;
    bench.settle_down().await;
    assert!(!bench.called().contains(&vec!["good".to_owned()]), "held up");
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::RouteHeldUp { .. })), 1);
    let note = bench.router.admin().status().await.unwrap().routes.remove(0).note;
    assert!(note.as_deref().is_some_and(|note| note.starts_with("held up by lane s")), "{note:?}");
    bench.pass(HOUR).await;
    assert_eq!(bench.settled(), ["handled"; 5]);
}

#[tokio::test]
async fn one_hot_session_does_not_starve_the_others() {
    let bench = Bench::new();
    let mut one = ordered("one");
    one.prefetch = 16;
    bench.behave(|call| if call.ids[0].starts_with("hot") { Answer::Take(SECOND) } else { Answer::Done });
    bench.apply(&[one]).await;
    for number in 0..100 {
        bench.send_in("hot", &format!("hot{number}")).await;
    }
    bench.send_in("cold", "cold").await;
    bench.pass(3 * SECOND).await;
    assert!(bench.called().contains(&vec!["cold".to_owned()]), "the transport looks past the lane that floods the window: {:?}", bench.called());
}

#[tokio::test]
async fn of_very_many_sessions_each_has_its_turn_before_the_backlog_of_a_hot_one_is_done() {
    const HOT: usize = 400;
    const COLD: usize = 1_000;
    const PREFETCH: usize = 100;
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(SECOND));
    bench.apply(&[RouteConfig { prefetch: u32::try_from(PREFETCH).unwrap(), ..ordered("one") }]).await;
    // The hot one comes first, with more than a window takes, and goes on among the others.
    for number in 0..HOT / 2 {
        bench.send_in("hot", &format!("hot{number}")).await;
    }
    for number in 0..COLD {
        bench.send_in(&format!("s{number}"), &format!("cold{number}")).await;
        if number % (2 * COLD / HOT) == 0 {
            bench.send_in("hot", &format!("hot{}", HOT / 2 + number / (2 * COLD / HOT))).await;
        }
    }
    // At most one of the eight that run is of the hot session.
    bench.pass(SECOND * u32::try_from(COLD.div_ceil(7)).unwrap()).await;
    let called: Vec<String> = bench.called().into_iter().flatten().collect();
    let of = |kind: &str| called.iter().filter(|id| id.starts_with(kind)).cloned().collect::<Vec<_>>();
    assert_eq!(of("cold"), (0..COLD).map(|number| format!("cold{number}")).collect::<Vec<_>>(), "each in its turn, whatever waits of the hot one");
    let hot = of("hot");
    assert_eq!(hot, (0..hot.len()).map(|number| format!("hot{number}")).collect::<Vec<_>>());
    assert!(hot.len() < HOT, "the backlog of the hot one outlasts the others");
    // Nor is the hot one starved: before each of its turns come those that are ready, which are no more than the window has.
    let longest = called.split(|id| id.starts_with("hot")).map(<[String]>::len).max().unwrap_or_default();
    assert!(longest <= PREFETCH, "{longest} others between two turns of the hot one");
}

#[tokio::test]
async fn a_slow_route_leaves_the_rate_of_another_untouched() {
    const TICK: Duration = Duration::from_millis(10);
    /// How many the quick route has begun with after each tick.
    async fn rate(beside: Option<Answer>) -> Vec<usize> {
        let bench = Bench::new();
        let slow = beside.clone().unwrap_or(Answer::Done);
        bench.behave(move |call| if call.route == "quick" { Answer::Take(TICK) } else { slow.clone() });
        let mut routes = vec![route("quick")];
        routes.extend(beside.map(|_| RouteConfig { prefetch: 16, ..route("slow") }));
        bench.apply(&routes).await;
        for number in 0..800 {
            bench.send("any.event", &format!("e{number}")).await;
        }
        bench.settle_down().await;
        let mut begun = Vec::new();
        for _ in 0..100 {
            begun.push(bench.calls().iter().filter(|call| call.route == "quick").count());
            bench.pass(TICK).await;
        }
        begun
    }
    let alone = rate(None).await;
    assert_eq!(alone, (1..=100).map(|tick| 8 * tick).collect::<Vec<_>>(), "eight in each tick");
    for beside in [Answer::Take(HOUR), Answer::Hang, Answer::Take(7 * TICK), Answer::Retry, Answer::Panic, Answer::Pause] {
        assert_eq!(rate(Some(beside.clone())).await, alone, "beside a route whose handler answers {beside:?}");
    }
}

#[tokio::test]
async fn an_event_without_the_order_field_stands_in_a_lane_of_its_own() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(SECOND));
    bench.apply(&[ordered("in-order")]).await;
    for id in ["x1", "x2"] {
        bench.send("no.session", id).await;
    }
    bench.settle_down().await;
    assert_eq!(bench.calls().len(), 2);
}
