//! What operators do to a running router: redrive, discard, pause, resume, flush, remove.

use router_api::{DeadLetterSelection, RedriveRequest, RouteCommand, RouteState, Transport};
use router_core::{config::OnExhausted, observe::RouterEvent};

use crate::bench::{Answer, Bench, HOUR, SECOND, coalescing, ids, ordered, route};

async fn command(bench: &Bench, route: &str, command: RouteCommand) -> u64 {
    let commanded = bench.router.admin().command(&route.parse().unwrap(), command).await.unwrap();
    bench.settle_down().await;
    commanded.events
}

async fn state(bench: &Bench) -> RouteState {
    bench.router.admin().status().await.unwrap().routes[0].state
}

fn redrive_all() -> RedriveRequest {
    RedriveRequest::default()
}

#[tokio::test]
async fn a_paused_route_finishes_what_runs_and_collects_until_it_is_resumed_even_over_a_restart() {
    let bench = Bench::new();
    let routes = [route("one")];
    bench.behave(|_| Answer::Take(10 * SECOND));
    bench.apply(&routes).await;
    bench.send("a.b", "running").await;
    bench.settle_down().await;
    command(&bench, "one", RouteCommand::Pause).await;
    bench.send("a.b", "waits").await;
    bench.pass(20 * SECOND).await;
    assert_eq!((bench.called(), bench.settled()), (ids(&[&["running"]]), vec!["handled".to_owned()]));
    assert_eq!(state(&bench).await, RouteState::Paused);

    let bench = bench.crash(&routes, |_| Answer::Done).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[]));
    assert_eq!(state(&bench).await, RouteState::Paused);
    assert_eq!(command(&bench, "one", RouteCommand::Resume).await, 1);
    assert_eq!(bench.called(), ids(&[&["waits"]]));
    assert_eq!(state(&bench).await, RouteState::Running);
}

#[tokio::test]
async fn a_paused_route_drains() {
    let bench = Bench::new();
    bench.apply(&[route("one")]).await;
    command(&bench, "one", RouteCommand::Pause).await;
    assert_eq!(bench.drain().await, 0);
}

#[tokio::test]
async fn a_drain_keeps_its_limit_for_a_route_that_is_being_paused() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Hang);
    let mut long = route("long");
    long.timeout = HOUR;
    bench.apply(&[long]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    command(&bench, "long", RouteCommand::Pause).await;
    let begun = router_api::Clock::monotonic(&bench.clock);
    assert_eq!(bench.drain().await, 1);
    assert!(router_api::Clock::monotonic(&bench.clock) - begun < 40 * SECOND);
}

#[tokio::test]
async fn resuming_ends_the_breakers_pause_too() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[route("one")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    bench.behave(|_| Answer::Done);
    command(&bench, "one", RouteCommand::Resume).await;
    assert_eq!(bench.settled(), ["handled"]);
}

#[tokio::test]
async fn a_flush_closes_open_bursts_now() {
    let bench = Bench::new();
    bench.apply(&[coalescing("ci")]).await;
    for (session, id) in [("s1", "w1"), ("s2", "w2"), ("s1", "w3")] {
        bench.send_in(session, id).await;
    }
    bench.settle_down().await;
    assert!(bench.calls().is_empty());
    command(&bench, "ci", RouteCommand::Flush).await;
    let mut called = bench.called();
    called.sort();
    assert_eq!(called, ids(&[&["w1", "w3"], &["w2"]]));
}

#[tokio::test]
async fn redriven_letters_are_handled_in_order_with_their_history_and_an_audit_line() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Reject);
    bench.apply(&[ordered("in-order")]).await;
    for id in ["a1", "a2", "a3"] {
        bench.send_in("s1", id).await;
    }
    bench.settle_down().await;
    let before = bench.calls().len();
    bench.behave(|call| if call.ids[0] == "a2" && call.attempt == 1 { Answer::Retry } else { Answer::Done });
    let dry = bench.router.admin().redrive(&RedriveRequest { dry_run: true, ..redrive_all() }).await.unwrap();
    assert_eq!((dry.selected, dry.redriven), (3, 0));
    let redriven = bench.router.admin().redrive(&redrive_all()).await.unwrap();
    assert_eq!((redriven.selected, redriven.redriven, redriven.stopped), (3, 3, None));
    bench.pass(HOUR).await;
    let called: Vec<String> = bench.calls()[before..].iter().map(|call| call.ids[0].clone()).collect();
    assert_eq!(called, ["a1", "a2", "a2", "a3"]);
    assert!(bench.dead_letters().await.is_empty());
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Redriven { ids, .. } if ids.len() == 3)), 1);
}

#[tokio::test]
async fn a_canary_that_fails_again_stops_the_redrive() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Reject);
    bench.apply(&[route("one")]).await;
    for id in ["e1", "e2", "e3"] {
        bench.send("a.b", id).await;
    }
    bench.settle_down().await;
    let admin = bench.router.admin();
    let request = RedriveRequest { canary: 1, ..redrive_all() };
    let stopped = bench.clock.run_until(admin.redrive(&request)).await.unwrap();
    assert_eq!((stopped.selected, stopped.redriven), (3, 1));
    assert!(stopped.stopped.is_some_and(|why| why.contains("failed again")));
    assert_eq!(bench.dead_letters().await.len(), 3);

    bench.behave(|_| Answer::Done);
    let done = bench.clock.run_until(admin.redrive(&request)).await.unwrap();
    assert_eq!((done.redriven, done.stopped), (3, None));
    bench.settle_down().await;
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test]
async fn letters_are_chosen_by_route_reason_class_filter_and_number() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0].starts_with('r') { Answer::Reject } else { Answer::Retry });
    let mut few = route("few");
    few.retry.attempts_max = 1;
    bench.apply(&[few]).await;
    for (session, id) in [("s1", "r1"), ("s2", "x2"), ("s1", "r3"), ("s2", "r4")] {
        bench.send_in(session, id).await;
        bench.settle_down().await;
    }
    let count = async |selection: DeadLetterSelection| {
        bench.router.admin().redrive(&RedriveRequest { selection, dry_run: true, ..redrive_all() }).await.map(|redriven| redriven.selected)
    };
    let all = DeadLetterSelection::default;
    assert_eq!(count(all()).await.unwrap(), 4);
    assert_eq!(count(DeadLetterSelection { reason: Some("exhausted".into()), ..all() }).await.unwrap(), 1);
    assert_eq!(count(DeadLetterSelection { class: Some("rejected".into()), ..all() }).await.unwrap(), 3);
    assert_eq!(count(DeadLetterSelection { when: Some(serde_json::json!({ "session_id": ["s1"] })), ..all() }).await.unwrap(), 2);
    assert_eq!(count(DeadLetterSelection { route: Some("other".parse().unwrap()), ..all() }).await.unwrap(), 0);
    assert_eq!(count(DeadLetterSelection { limit: Some(2), ..all() }).await.unwrap(), 2);
    assert!(count(DeadLetterSelection { ids: vec!["nope".into()], ..all() }).await.is_err());
    for (when, expected) in [
        (serde_json::json!({ "sesion_id": ["s1"] }), "the filter is wrong: `sesion_id` is no field of events (did you mean `session_id`?)"),
        (serde_json::json!(["s1"]), "the filter is wrong: a filter is a table of fields, this is a list (write `{ tool_name = \"Write\" }`)"),
        (
            serde_json::json!({ "session_id": [] }),
            "the filter is wrong: `session_id`: an empty list never matches (list at least one value, or take the field out)",
        ),
    ] {
        assert_eq!(count(DeadLetterSelection { when: Some(when), ..all() }).await.unwrap_err().to_string(), expected);
    }
    let nameless = count(DeadLetterSelection { when: Some(serde_json::json!({ "": ["s1"] })), ..all() }).await.unwrap_err().to_string();
    assert!(nameless.starts_with("the filter is wrong: ") && !nameless.contains("``"), "{nameless}");
}

#[tokio::test]
async fn a_parked_lane_goes_on_when_its_letters_are_redriven_or_discarded() {
    for discards in [false, true] {
        let bench = Bench::new();
        let mut parking = ordered("parking");
        parking.on_exhausted = OnExhausted::Park;
        bench.behave(|call| if call.ids[0] == "a1" { Answer::Reject } else { Answer::Done });
        bench.apply(&[parking]).await;
        bench.send_in("s1", "a1").await;
        bench.send_in("s1", "a2").await;
        bench.settle_down().await;
        bench.behave(|_| Answer::Done);
        let before = bench.calls().len();
        let admin = bench.router.admin();
        if discards {
            assert_eq!(admin.discard(&DeadLetterSelection::default()).await.unwrap(), 2);
        } else {
            admin.redrive(&redrive_all()).await.unwrap();
        }
        bench.send_in("s1", "a3").await;
        bench.settle_down().await;
        let called: Vec<String> = bench.calls()[before..].iter().map(|call| call.ids[0].clone()).collect();
        let expected: &[&str] = if discards { &["a3"] } else { &["a1", "a2", "a3"] };
        assert_eq!(called, expected);
    }
}

#[tokio::test]
async fn a_queue_is_removed_only_when_its_route_is_off() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[route("one")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let admin = bench.router.admin();
    let name = "one".parse().unwrap();
    let refused = admin.command(&name, RouteCommand::Remove).await.unwrap_err().to_string();
    assert!(refused.contains("switch it off"), "{refused}");
    let mut off = route("one");
    off.enabled = false;
    bench.apply(&[off]).await;
    assert_eq!(command(&bench, "one", RouteCommand::Remove).await, 1);
    assert!(bench.transport.admin().queues().await.unwrap().is_empty());
    let unknown = admin.command(&"two".parse().unwrap(), RouteCommand::Pause).await.unwrap_err().to_string();
    assert_eq!(unknown, "there is no route `two`; there are `one`");
}
