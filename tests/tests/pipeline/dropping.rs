//! `routes drop-burst`: an operator gives up on bursts that fail and hold up their lanes, and nothing else.

use router_api::{DeadLetterReason, RouteCommand, RouteState};

use crate::bench::{Answer, Bench, HOUR, SECOND, coalescing, ids, ordered};

async fn drop_burst(bench: &Bench, route: &str) -> Result<u64, String> {
    let dropped = bench.router.admin().command(&route.parse().unwrap(), RouteCommand::DropBurst).await;
    bench.settle_down().await;
    dropped.map(|commanded| commanded.events).map_err(|error| error.to_string())
}

/// Sessions of the dead letters, each with its reason and its failed attempts.
async fn buried(bench: &Bench) -> Vec<(DeadLetterReason, u32, usize)> {
    let mut letters = bench.dead_letters().await;
    letters.sort_by_key(|letter| letter.seq);
    letters.into_iter().map(|letter| (letter.letter.reason, letter.letter.attempts, letter.letter.history.len())).collect()
}

#[tokio::test]
async fn a_failing_burst_becomes_dead_letters_with_its_history_and_its_lane_goes_on() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0] == "w1" { Answer::RetryAfter(600 * SECOND) } else { Answer::Done });
    bench.apply(&[coalescing("ci")]).await;
    for (session, id) in [("s1", "w1"), ("s1", "w2")] {
        bench.send_in(session, id).await;
    }
    bench.pass(3 * SECOND).await;
    // Behind the failing one, and in a lane of its own that still collects.
    bench.send_in("s1", "w3").await;
    bench.send_in("s2", "x1").await;
    bench.settle_down().await;
    let status = bench.router.admin().status().await.unwrap();
    // The transport hands out nothing of a lane whose head waits.
    assert_eq!((status.routes[0].failing_bursts, status.routes[0].open_bursts), (1, 1));

    assert_eq!(drop_burst(&bench, "ci").await, Ok(2));
    assert_eq!(buried(&bench).await, [(DeadLetterReason::Dropped, 1, 1), (DeadLetterReason::Dropped, 1, 1)]);
    let letters = bench.dead_letters().await;
    assert!(letters[0].letter.error.contains("an operator dropped its burst (`routes drop-burst`); its last attempt: "), "{}", letters[0].letter.error);
    assert_eq!(bench.called(), ids(&[&["w1", "w2"]]), "what collects is not handled sooner");
    bench.pass(3 * SECOND).await;
    let mut called = bench.called();
    called.sort();
    assert_eq!(called, ids(&[&["w1", "w2"], &["w3"], &["x1"]]));
    let again = drop_burst(&bench, "ci").await.unwrap_err();
    assert!(again.contains("route `ci` has no burst of which an attempt has failed"), "{again}");
    assert_eq!(bench.router.admin().status().await.unwrap().routes[0].failing_bursts, 0);
}

#[tokio::test]
async fn a_dropped_burst_that_runs_goes_on_to_its_end_and_is_not_repeated() {
    for ends_well in [false, true] {
        let bench = Bench::new();
        bench.behave(|_| Answer::Retry);
        bench.apply(&[coalescing("ci")]).await;
        bench.send_in("s1", "w1").await;
        bench.pass(2 * SECOND).await;
        let end = if ends_well { Answer::Done } else { Answer::Retry };
        bench.behave(move |_| Answer::Then(10 * SECOND, Box::new(end.clone())));
        bench.pass(2 * SECOND).await;
        assert_eq!(bench.calls().len(), 2, "it runs for the second time");
        assert_eq!(drop_burst(&bench, "ci").await, Ok(1));
        bench.pass(HOUR).await;
        assert_eq!(bench.calls().len(), 2);
        let expected: &[_] = if ends_well { &[] } else { &[(DeadLetterReason::Dropped, 2, 2)] };
        assert_eq!(buried(&bench).await, expected);
    }
}

#[tokio::test]
async fn a_burst_whose_target_is_down_can_be_dropped_and_what_comes_after_it_is_tried() {
    let bench = Bench::new();
    bench.behave(|_| Answer::PauseFor(200 * SECOND));
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.router.admin().status().await.unwrap().routes[0].state, RouteState::Paused);
    bench.behave(|_| Answer::Done);
    assert_eq!(drop_burst(&bench, "ci").await, Ok(1));
    assert_eq!(buried(&bench).await, [(DeadLetterReason::Dropped, 0, 0)]);
    bench.send_in("s1", "w2").await;
    bench.pass(3 * SECOND).await;
    assert_eq!(bench.called(), ids(&[&["w1"], &["w2"]]));
}

#[tokio::test]
async fn a_burst_that_is_dropped_while_its_route_is_paused_is_buried_after_a_restart_too() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Retry);
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.send_in("s1", "w2").await;
    bench.pass(3 * SECOND).await;
    let name = "ci".parse().unwrap();
    bench.router.admin().command(&name, RouteCommand::Pause).await.unwrap();
    bench.settle_down().await;
    assert_eq!(drop_burst(&bench, "ci").await, Ok(2));
    assert_eq!(buried(&bench).await, [], "nothing is handled, and nothing buried, while the route is paused");

    let bench = bench.crash(&[coalescing("ci")], |_| Answer::Done).await;
    bench.router.admin().command(&name, RouteCommand::Resume).await.unwrap();
    bench.pass(HOUR).await;
    assert_eq!(bench.called(), ids(&[]));
    let letters = buried(&bench).await;
    assert_eq!(letters.iter().map(|(reason, ..)| *reason).collect::<Vec<_>>(), [DeadLetterReason::Dropped; 2]);
    assert!(letters.iter().all(|(_, attempts, history)| *attempts > 0 && *attempts as usize == *history), "{letters:?}");
    // Nothing is left of it in the store.
    use router_api::Store;
    assert_eq!(bench.store.frozen(&name).await.unwrap().len() + bench.store.noted_attempts(&name).await.unwrap().len(), 0);
    assert_eq!(bench.store.state(&name, ".dropped").await.unwrap(), None);
}

#[tokio::test]
async fn a_redriven_burst_is_not_dropped_again() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Retry);
    bench.apply(&[coalescing("ci")]).await;
    bench.send_in("s1", "w1").await;
    bench.pass(2 * SECOND).await;
    assert_eq!(drop_burst(&bench, "ci").await, Ok(1));
    bench.behave(|_| Answer::Done);
    bench.router.admin().redrive(&router_api::RedriveRequest::default()).await.unwrap();
    bench.pass(HOUR).await;
    assert!(bench.dead_letters().await.is_empty());
    assert_eq!(bench.settled().last().map(String::as_str), Some("handled"));
}

#[tokio::test]
async fn a_route_without_bursts_says_so() {
    let bench = Bench::new();
    bench.apply(&[ordered("one")]).await;
    let refused = drop_burst(&bench, "one").await.unwrap_err();
    assert!(refused.contains("no `coalesce`"), "{refused}");
}

#[tokio::test]
async fn a_burst_that_is_dropped_while_its_failure_is_noted_does_not_wait_for_another_attempt() {
    // Wherever its second attempt is on its way to be noted.
    for turns in 0..60 {
        let bench = Bench::slow(turns, |router| router);
        bench.behave(|_| Answer::RetryAfter(600 * SECOND));
        bench.apply(&[coalescing("ci")]).await;
        bench.send_in("s1", "w1").await;
        bench.pass(5 * SECOND).await;
        assert_eq!(bench.calls().len(), 1);
        bench.behave(|_| Answer::Then(10 * SECOND, Box::new(Answer::RetryAfter(600 * SECOND))));
        bench.pass(600 * SECOND).await;
        assert_eq!(bench.calls().len(), 2, "it runs for the second time");
        let (dropped, ()) = tokio::join!(drop_burst(&bench, "ci"), async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            bench.clock.advance(7 * SECOND);
        });
        assert_eq!(dropped, Ok(1));
        bench.pass(SECOND).await;
        assert_eq!(buried(&bench).await, [(DeadLetterReason::Dropped, 2, 2)], "its end came {turns} turns after the wish");
    }
}
