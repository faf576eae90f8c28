//! A route that is switched on: with what waits in its queue, or from now on.

use router_api::{DeadLetterReason, EnableFrom, RedriveRequest, RouteName, Store};
use router_core::config::RouteConfig;

use crate::bench::{Answer, Bench, HOUR, SECOND, ids, route};

fn name() -> RouteName {
    "one".parse().unwrap()
}

fn off() -> RouteConfig {
    RouteConfig { enabled: false, ..route("one") }
}

/// A router whose route was on, collected two events and was switched off.
async fn with_two_that_wait() -> Bench {
    let bench = Bench::new();
    bench.behave(|_| Answer::Pause);
    bench.apply(&[route("one")]).await;
    for id in ["old1", "old2"] {
        bench.send("a.b", id).await;
        bench.settle_down().await;
    }
    bench.apply(&[off()]).await;
    bench.pass(HOUR).await;
    bench.send("a.b", "missed").await;
    bench.behave(|_| Answer::Done);
    bench
}

async fn enable(bench: &Bench, from: EnableFrom) -> Result<(u64, bool), String> {
    let config = bench.config(&[route("one")]);
    let enabled = bench.clock.run_until(bench.router.enable(config, &name(), from)).await;
    bench.settle_down().await;
    enabled.map(|(enabled, _)| (enabled.waiting, enabled.since.is_some())).map_err(|error| error.to_string())
}

fn handled_since(bench: &Bench, calls: usize) -> Vec<String> {
    let mut ids: Vec<String> = bench.calls()[calls..].iter().map(|call| call.ids[0].clone()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_route_that_is_switched_on_by_the_configuration_says_what_waited_and_handles_it() {
    let bench = with_two_that_wait().await;
    let calls = bench.calls().len();
    let applied = bench.apply(&[route("one")]).await;
    let taken_up: Vec<_> = applied.taken_up.iter().map(|taken_up| (taken_up.route.as_str(), taken_up.events, taken_up.since.is_some())).collect();
    assert_eq!(taken_up, [("one", 2, true)]);
    bench.pass(SECOND).await;
    assert_eq!(handled_since(&bench, calls), ["old1", "old2"]);
}

#[tokio::test]
async fn from_the_beginning_handles_what_waits() {
    let bench = with_two_that_wait().await;
    let calls = bench.calls().len();
    assert_eq!(enable(&bench, EnableFrom::Beginning).await, Ok((2, true)));
    bench.pass(SECOND).await;
    assert_eq!(handled_since(&bench, calls), ["old1", "old2"]);
    assert!(bench.dead_letters().await.is_empty());
}

#[tokio::test]
async fn from_now_makes_what_waits_dead_letters_and_acts_once() {
    let bench = with_two_that_wait().await;
    let calls = bench.calls().len();
    assert_eq!(enable(&bench, EnableFrom::Now).await, Ok((2, true)));
    bench.pass(SECOND).await;
    bench.send("a.b", "new").await;
    bench.pass(SECOND).await;
    assert_eq!(handled_since(&bench, calls), ["new"]);
    let letters = bench.dead_letters().await;
    assert_eq!(letters.iter().map(|letter| letter.letter.reason).collect::<Vec<_>>(), [DeadLetterReason::Dropped; 2]);
    assert!(letters[0].letter.error.contains("`routes enable --from now`"), "{}", letters[0].letter.error);

    // What was skipped can be taken up again, and the mark goes with the next start.
    bench.router.admin().redrive(&RedriveRequest::default()).await.unwrap();
    bench.pass(SECOND).await;
    assert_eq!(handled_since(&bench, calls), ["new", "old1", "old2"]);
    assert!(bench.dead_letters().await.is_empty());
    assert!(bench.store.state(&name(), ".skips").await.unwrap().is_some());
    bench.apply(&[off()]).await;
    bench.apply(&[route("one")]).await;
    assert_eq!(bench.store.state(&name(), ".skips").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_to_be_skipped_is_skipped_after_a_crash_too() {
    let bench = with_two_that_wait().await;
    bench.behave(|_| Answer::Done);
    // The process dies before the route comes to its queue.
    bench.transport.fail_consumes(1_000);
    assert_eq!(enable(&bench, EnableFrom::Now).await, Ok((2, true)));
    let bench = bench.crash(&[route("one")], |_| Answer::Done).await;
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[]));
    assert_eq!(bench.dead_letters().await.len(), 2);
}

#[tokio::test]
async fn what_the_configuration_leaves_off_or_what_is_on_already_stays_as_it_is() {
    let bench = with_two_that_wait().await;
    let config = bench.config(&[off()]);
    let refused = bench.router.enable(config, &name(), EnableFrom::Now).await.unwrap_err().to_string();
    assert!(refused.contains("route `one` is off in the configuration (test:1): write `enabled = true` there first"), "{refused}");
    let unknown = bench.router.enable(bench.config(&[off()]), &"two".parse().unwrap(), EnableFrom::Now).await.unwrap_err().to_string();
    assert_eq!(unknown, "there is no route `two` in the configuration; there are `one`");
    // One that cannot be built: nothing is skipped afterwards.
    let mut broken = route("broken");
    broken.with = serde_json::json!({ "refuse_to_build": true });
    assert!(bench.router.enable(bench.config(&[route("one"), broken]), &name(), EnableFrom::Now).await.is_err());
    let calls = bench.calls().len();
    bench.apply(&[route("one")]).await;
    bench.pass(SECOND).await;
    assert_eq!(handled_since(&bench, calls), ["old1", "old2"]);
    let twice = enable(&bench, EnableFrom::Now).await.unwrap_err();
    assert!(twice.contains("is on already"), "{twice}");
}
