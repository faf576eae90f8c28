//! `Router::apply`: only what changed restarts, any failure changes nothing, what waits stays.

use router_api::{BreakerState, Clock as _, RouteCommand, RouteState};
use router_core::{ApplyError, config::RouteConfig};

use crate::bench::{Answer, Bench, SECOND, ids, route};

#[tokio::test]
async fn only_changed_routes_restart() {
    let bench = Bench::new();
    let applied = bench.apply(&[route("one"), route("two")]).await;
    assert_eq!(applied.started.len(), 2);
    let mut two = route("two");
    two.concurrency = 1;
    let applied = bench.apply(&[route("one"), two, route("three")]).await;
    let names = |names: &[router_api::RouteName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((names(&applied.started), names(&applied.restarted), names(&applied.stopped)), (vec!["three".into()], vec!["two".into()], vec![]));
}

#[tokio::test]
async fn a_handler_that_cannot_be_built_changes_nothing() {
    let bench = Bench::new();
    bench.apply(&[route("one")]).await;
    let mut broken = route("broken");
    broken.with = serde_json::json!({ "refuse_to_build": true });
    let mut one = route("one");
    one.concurrency = 1;
    let error = bench.router.apply(bench.config(&[one, broken])).await.unwrap_err();
    assert!(matches!(error, ApplyError::Build { .. }));
    assert_eq!(error.to_string(), "route `broken` (test:1): `refuse_to_build`: was asked to refuse");
    assert_eq!(bench.router.admin().status().await.unwrap().routes.len(), 1);
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));
}

#[tokio::test]
async fn a_plugin_that_is_not_linked_is_named_with_those_that_are() {
    let bench = Bench::new();
    let mut unknown = route("unknown");
    unknown.handler = "scripted2".to_owned();
    let error = bench.router.apply(bench.config(&[unknown])).await.unwrap_err();
    assert_eq!(error.to_string(), "route `unknown` (test:1): no plugin `scripted2` is linked into this program; there are `scripted`");
}

#[tokio::test]
async fn a_disabled_route_takes_no_more_and_keeps_what_waits() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[route("one")]).await;
    bench.send("a.b", "waits").await;
    bench.settle_down().await;
    let mut off = route("one");
    off.enabled = false;
    let applied = bench.apply(&[off]).await;
    assert_eq!(applied.waiting, [("one".parse().unwrap(), 1)]);
    bench.send("a.b", "missed").await;
    bench.behave(|_| Answer::Done);
    bench.apply(&[route("one")]).await;
    bench.pass(SECOND).await;
    assert_eq!(bench.called(), ids(&[&["waits"], &["waits"]]));
}

#[tokio::test]
async fn a_changed_filter_is_asked_again_of_what_already_waits() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[route("one")]).await;
    bench.send("a.b", "old").await;
    bench.settle_down().await;
    let mut narrower = route("one");
    narrower.on = vec!["other.*".parse().unwrap()];
    bench.behave(|_| Answer::Done);
    bench.apply(&[narrower]).await;
    bench.pass(SECOND).await;
    assert_eq!(bench.settled(), ["filtered"]);
}

#[tokio::test]
async fn reloads_under_load_lose_and_repeat_nothing() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Take(SECOND / 10));
    bench.apply(&[route("one")]).await;
    for round in 0..40_u32 {
        for number in 0..5 {
            bench.send("a.b", &format!("e{round}-{number}")).await;
        }
        let mut changed = route("one");
        changed.concurrency = 1 + round % 7;
        bench.apply(&[changed]).await;
    }
    bench.pass(60 * SECOND).await;
    let mut called: Vec<String> = bench.calls().into_iter().map(|call| call.ids[0].clone()).collect();
    called.sort();
    let count = called.len();
    called.dedup();
    assert_eq!((count, called.len()), (200, 200));
}

#[tokio::test]
async fn every_configuration_in_force_is_kept_with_its_hash() {
    let bench = Bench::new();
    bench.apply(&[route("one")]).await;
    bench.apply(&[route("one"), route("two")]).await;
    assert_eq!(bench.state.configs().len(), 2);
}

#[tokio::test]
async fn a_slow_drain_does_not_delay_a_quick_one() {
    let bench = Bench::new();
    bench.behave(|call| if call.route == "a-slow" { Answer::Take(20 * SECOND) } else { Answer::Done });
    bench.apply(&[route("a-slow"), route("b-quick")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let changed = ["a-slow", "b-quick"].map(|name| RouteConfig { concurrency: 1, ..route(name) });
    let begun = bench.clock.monotonic();
    let (reload, watching) = (bench.router.apply(bench.config(&changed)), async {
        bench.settle_down().await;
        bench.send("a.b", "e2").await;
        bench.pass(SECOND).await;
        let quick = bench.calls().iter().filter(|call| call.route == "b-quick" && call.ids[0] == "e2").count();
        assert_eq!(quick, 1, "it has started again while the other one still drains");
        bench.pass(60 * SECOND).await;
    });
    let (applied, ()) = tokio::join!(reload, watching);
    assert_eq!(applied.unwrap().restarted.len(), 2);
    assert!(bench.clock.monotonic() - begun >= 20 * SECOND);
    let mut called: Vec<_> = bench.calls().into_iter().map(|call| (call.route, call.ids[0].clone())).collect();
    called.sort();
    assert_eq!(called, [("a-slow".into(), "e1".into()), ("a-slow".into(), "e2".into()), ("b-quick".into(), "e1".into()), ("b-quick".into(), "e2".into())]);
}

#[tokio::test]
async fn what_a_route_did_lately_is_kept_over_a_reload() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0] == "bad" { Answer::Reject } else { Answer::Done });
    bench.apply(&[route("one")]).await;
    for id in ["e1", "e2", "bad"] {
        bench.send("a.b", id).await;
    }
    bench.settle_down().await;
    bench.apply(&[RouteConfig { concurrency: 1, ..route("one") }]).await;
    let rates = async || bench.router.admin().status().await.unwrap().routes[0].rates.unwrap();
    let now = rates().await;
    assert_eq!((now.handled, now.failed, now.window_s, now.handled_per_minute), (2, 1, 60, 2.0));
    bench.pass(600 * SECOND).await;
    assert_eq!((rates().await.handled, rates().await.failed), (0, 0));
}

#[tokio::test]
async fn the_breaker_is_shown_while_it_is_open_and_while_it_probes() {
    let bench = Bench::new();
    bench.behave(|_| Answer::PauseFor(60 * SECOND));
    let breaker = async || bench.router.admin().status().await.unwrap().routes[0].breaker;
    bench.apply(&[route("one")]).await;
    assert_eq!(breaker().await, Some(BreakerState::Closed));
    bench.send("a.b", "e1").await;
    let before = bench.clock.now();
    bench.settle_down().await;
    assert_eq!(breaker().await, Some(BreakerState::Open { until: before.checked_add(jiff::SignedDuration::from_secs(60)).unwrap() }));
    bench.behave(|_| Answer::Take(10 * SECOND));
    bench.pass(61 * SECOND).await;
    assert_eq!(breaker().await, Some(BreakerState::Probing));
    bench.pass(20 * SECOND).await;
    assert_eq!(breaker().await, Some(BreakerState::Closed));
}

#[tokio::test]
async fn a_pause_and_its_end_during_a_reload_are_for_the_route_that_the_reload_has_started() {
    for ends in [false, true] {
        let bench = Bench::new();
        bench.behave(|call| if call.route == "a-slow" { Answer::Take(20 * SECOND) } else { Answer::Done });
        bench.apply(&[route("a-slow"), route("b-quick")]).await;
        let name = "b-quick".parse().unwrap();
        let admin = bench.router.admin();
        if ends {
            admin.command(&name, RouteCommand::Pause).await.unwrap();
        }
        bench.send("a.b", "e1").await;
        bench.settle_down().await;
        let changed = ["a-slow", "b-quick"].map(|name| RouteConfig { concurrency: 1, ..route(name) });
        // The quick one has started anew while the slow one still drains.
        let (reload, commanding) = (bench.router.apply(bench.config(&changed)), async {
            bench.pass(SECOND).await;
            admin.command(&name, if ends { RouteCommand::Resume } else { RouteCommand::Pause }).await.unwrap();
            bench.pass(SECOND).await;
            bench.send("a.b", "e2").await;
            bench.pass(25 * SECOND).await;
        });
        let (applied, ()) = tokio::join!(reload, commanding);
        assert_eq!(applied.unwrap().restarted.len(), 2);
        bench.pass(25 * SECOND).await;
        let quick: Vec<_> = bench.calls().into_iter().filter(|call| call.route == "b-quick").map(|call| call.ids[0].clone()).collect();
        let state = admin.status().await.unwrap().routes[1].state;
        if ends {
            assert_eq!((quick, state), (vec!["e1".to_owned(), "e2".to_owned()], RouteState::Running));
        } else {
            assert_eq!((quick, state), (vec!["e1".to_owned()], RouteState::Paused));
        }
    }
}
