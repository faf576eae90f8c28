//! One recorded fate per event and route.

use std::time::Duration;

use router_api::{DeadLetterReason, FailureClass, Fate, Publication, RouteCommand, RouteMode, RoutingKey};
use router_core::{filter::EventFilter, observe::RouterEvent};
use router_testkit::event;

use crate::bench::{Answer, Bench, HOUR, SECOND, ids, ordered, route};

#[tokio::test]
async fn an_event_is_handled_once_by_each_route_that_wants_it() {
    let bench = Bench::new();
    let mut other = route("other");
    other.on = vec!["session.thread.end".parse().unwrap()];
    bench.apply(&[route("all"), other]).await;
    bench.send("session.thread.start", "e1").await;
    bench.send("session.thread.end", "e2").await;
    bench.settle_down().await;
    let mut calls: Vec<(String, String)> = bench.calls().into_iter().map(|call| (call.route, call.ids[0].clone())).collect();
    calls.sort();
    assert_eq!(calls, [("all".into(), "e1".into()), ("all".into(), "e2".into()), ("other".into(), "e2".into())]);
    assert_eq!(bench.settled(), ["handled", "handled", "handled"]);
}

#[tokio::test]
async fn an_event_that_no_route_wants_is_accepted_and_counted_as_unmatched() {
    let bench = Bench::new();
    let mut picky = route("picky");
    picky.on = vec!["other.*".parse().unwrap()];
    bench.apply(&[picky]).await;
    let published = bench.router.admin().publish(event("session.thread.start").publication()).await.unwrap();
    assert!(!published.routed);
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Accepted { routed: false, .. })), 1);
}

#[tokio::test]
async fn a_skipped_event_keeps_the_reason() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Skip);
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let skipped = |event: &RouterEvent| matches!(event, RouterEvent::Finished { fate: Fate::Skipped { reason }, .. } if reason == "nothing to do");
    assert_eq!(bench.observer.count(skipped), 1);
}

#[tokio::test]
async fn a_repeated_event_is_recognised_after_the_first_was_done() {
    let bench = Bench::new();
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));
    assert_eq!(bench.settled(), ["handled", "duplicate"]);
}

#[tokio::test]
async fn a_repetition_waits_for_the_first_one_and_is_handled_if_that_fails_for_good() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Reject);
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.called(), ids(&[&["e1"], &["e1"]]), "remembered after success only");
    assert_eq!(bench.settled(), ["buried: rejected", "buried: rejected"]);
}

#[tokio::test]
async fn a_done_event_is_forgotten_after_the_dedup_window() {
    let bench = Bench::new();
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(25 * HOUR).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.called().len(), 2);
}

#[tokio::test]
async fn what_is_no_event_is_buried_byte_for_byte_without_an_attempt() {
    let bench = Bench::new();
    bench.apply(&[route("all")]).await;
    use router_api::Transport;
    let bytes: &[u8] = b"\xff\xfenot json";
    bench.transport.publish(Publication::new(RoutingKey::new("a.b").unwrap(), bytes)).await.unwrap();
    bench.settle_down().await;
    let letters = bench.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(&letters[0].body[..], bytes);
    assert_eq!((letters[0].letter.reason, letters[0].letter.attempts), (DeadLetterReason::Undecodable, 0));
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn an_event_that_is_too_old_goes_to_the_dead_letters_with_that_reason() {
    let bench = Bench::new();
    let mut aging = route("aging");
    aging.max_age = Some(HOUR);
    bench.behave(|_| Answer::Pause);
    bench.apply(&[aging]).await;
    bench.send("a.b", "e1").await;
    bench.pass(2 * HOUR).await;
    let letters = bench.dead_letters().await;
    assert_eq!(letters.iter().map(|letter| letter.letter.reason).collect::<Vec<_>>(), [DeadLetterReason::TooOld]);
    assert_eq!(letters[0].letter.attempts, 0, "a pause counts no attempt");
}

#[tokio::test]
async fn a_route_that_answers_itself_is_cut_off_after_hops_max() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Emit("loop.again", Box::new(Answer::Done)));
    bench.apply(&[route("loop")]).await;
    bench.send("loop.begin", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.calls().len(), 9, "the event from outside and eight hops");
    assert_eq!(bench.dead_letters().await[0].letter.reason, DeadLetterReason::Loop);
}

#[tokio::test]
async fn emitted_events_come_after_success_under_the_same_id_at_each_repeat() {
    let bench = Bench::new();
    let mut emitter = route("emitter");
    emitter.on = vec!["in.*".parse().unwrap()];
    bench.behave(|call| {
        let then = if call.attempt == 1 { Answer::Retry } else { Answer::Done };
        Answer::Emit("out.event", Box::new(then))
    });
    bench.apply(&[emitter]).await;
    bench.send("in.event", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Emitted { .. })), 0, "a failed attempt emits nothing");
    bench.pass(2 * SECOND).await;
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Emitted { .. })), 1);
    let calls = bench.calls();
    assert_eq!(calls[0].idempotency_key, calls[1].idempotency_key);

    // The same event on a fresh router (nothing remembered) emits under the same id.
    let id = |bench: &Bench| {
        bench.observer.events().into_iter().find_map(|event| match event {
            RouterEvent::Emitted { id, .. } => Some(id),
            _ => None,
        })
    };
    let again = Bench::new();
    let mut emitter = route("emitter");
    emitter.on = vec!["in.*".parse().unwrap()];
    again.behave(|_| Answer::Emit("out.event", Box::new(Answer::Done)));
    again.apply(&[emitter]).await;
    again.send("in.event", "e1").await;
    again.settle_down().await;
    assert_eq!(id(&bench), id(&again));
}

#[tokio::test]
async fn an_event_emitted_for_later_comes_back_to_its_own_route_only_past_the_patterns() {
    let bench = Bench::new();
    let mut emitter = route("emitter");
    emitter.on = vec!["in.*".parse().unwrap()];
    bench.behave(|call| if call.ids[0] == "e1" && call.route == "emitter" { Answer::EmitAfter("later.key") } else { Answer::Done });
    bench.apply(&[emitter, route("other")]).await;
    bench.send("in.event", "e1").await;
    bench.settle_down().await;
    let routes = |bench: &Bench| bench.calls().into_iter().map(|call| call.route).collect::<Vec<_>>();
    let before = routes(&bench).len();
    bench.pass(2 * SECOND).await;
    assert_eq!(&routes(&bench)[before..], ["emitter"]);
}

#[tokio::test]
async fn a_shadow_route_records_what_it_would_do_and_remembers_nothing() {
    let bench = Bench::new();
    let mut shadow = route("shadow");
    shadow.mode = RouteMode::Shadow;
    bench.behave(|_| Answer::Emit("out.event", Box::new(Answer::Done)));
    bench.apply(&[shadow.clone()]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let would = |event: &RouterEvent| matches!(event, RouterEvent::Finished { fate: Fate::Shadowed { effects }, .. } if effects == &["would emit: out.event"]);
    assert_eq!(bench.observer.count(would), 1);
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::Emitted { .. })), 0);

    // Promoted to live, the route handles the event when it comes again.
    bench.behave(|_| Answer::Done);
    shadow.mode = RouteMode::Live;
    bench.apply(&[shadow]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.settled(), ["shadowed", "handled"]);
}

#[tokio::test]
async fn a_shadow_route_that_fails_buries_and_retries_nothing() {
    let bench = Bench::new();
    let mut shadow = route("shadow");
    shadow.mode = RouteMode::Shadow;
    bench.behave(|_| Answer::Reject);
    bench.apply(&[shadow]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(bench.settled(), ["shadowed"]);
}

#[tokio::test]
async fn a_settlement_that_could_not_be_recorded_is_tried_again_and_the_work_is_not() {
    let bench = Bench::new();
    bench.apply(&[route("all")]).await;
    bench.transport.fail_settles(3);
    bench.send("a.b", "e1").await;
    bench.pass(Duration::from_secs(5)).await;
    assert_eq!(bench.called(), ids(&[&["e1"]]));
    assert_eq!(bench.settled(), ["handled"]);
    assert_eq!(bench.observer.count(|event| matches!(event, RouterEvent::SettlementDelayed { .. })), 3);
}

#[tokio::test]
async fn an_event_is_not_settled_while_its_dead_letter_cannot_be_stored() {
    let bench = Bench::new();
    bench.behave(|_| Answer::Reject);
    bench.apply(&[route("all")]).await;
    bench.transport.fail_settles(2);
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let name = "all".parse().unwrap();
    let unfinished = |bench: &Bench| bench.transport.queue(&name).map(|queue| queue.ready + queue.in_flight);
    assert_eq!(unfinished(&bench), Some(1));
    assert!(bench.dead_letters().await.is_empty());
    bench.pass(SECOND).await;
    assert_eq!(unfinished(&bench), Some(0));
    assert_eq!(bench.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn a_dead_letter_has_its_whole_history() {
    let bench = Bench::new();
    let mut few = route("few");
    few.retry.attempts_max = 3;
    bench.behave(|call| if call.attempt == 2 { Answer::Panic } else { Answer::Retry });
    bench.apply(&[few]).await;
    bench.send("a.b", "e1").await;
    bench.pass(HOUR).await;
    let letter = bench.dead_letters().await.remove(0).letter;
    assert_eq!((letter.reason, letter.attempts, letter.plugin.as_str()), (DeadLetterReason::Exhausted, 3, "scripted"));
    let classes: Vec<_> = letter.history.iter().map(|record| (record.number, record.class)).collect();
    assert_eq!(classes, [(1, FailureClass::Error), (2, FailureClass::Panic), (3, FailureClass::Error)]);
    assert!(letter.history[1].error.contains("the script says so"), "{:?}", letter.history[1]);
}

/// Has the shape of a token of GitHub's.
const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";

#[tokio::test]
async fn a_secret_in_an_emitted_event_or_in_an_error_is_replaced_before_it_is_stored() {
    let bench = Bench::new();
    let mut emitter = route("emitter");
    emitter.on = vec!["in.*".parse().unwrap()];
    bench.behave(|call| if call.ids[0] == "e1" { Answer::EmitText("out.event", SECRET) } else { Answer::RejectBecause(SECRET) });
    bench.apply(&[emitter]).await;
    bench.send("in.event", "e1").await;
    bench.send("in.event", "e2").await;
    bench.settle_down().await;
    let admin = bench.router.admin();
    let events = admin.events(&router_api::EventQuery::default()).await.unwrap();
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| !String::from_utf8_lossy(&event.body).contains(SECRET)));
    let letter = serde_json::to_string(&bench.dead_letters().await).unwrap();
    assert!(!letter.contains(SECRET) && letter.contains("[redacted:"), "{letter}");
}

#[tokio::test]
async fn what_a_handler_notes_is_kept_with_the_fate() {
    let bench = Bench::new();
    bench.behave(|call| if call.attempt == 1 { Answer::Retry } else { Answer::DoneNoting("failed: exit code 1,\n7 files") });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(5 * SECOND).await;
    let noted = |event: &RouterEvent| matches!(event, RouterEvent::Finished { fate: Fate::Handled { note: Some(note), .. }, .. } if note == "failed: exit code 1, 7 files");
    assert_eq!(bench.observer.count(noted), 1);
}

#[tokio::test]
async fn a_repetition_that_is_too_old_is_a_duplicate_all_the_same() {
    let bench = Bench::new();
    let mut aging = route("aging");
    aging.max_age = Some(HOUR);
    bench.apply(&[aging]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    bench.router.admin().command(&"aging".parse().unwrap(), RouteCommand::Pause).await.unwrap();
    bench.settle_down().await;
    bench.send("a.b", "e1").await;
    bench.send("a.b", "e2").await;
    bench.pass(2 * HOUR).await;
    bench.router.admin().command(&"aging".parse().unwrap(), RouteCommand::Resume).await.unwrap();
    bench.pass(SECOND).await;
    let mut settled = bench.settled();
    settled.sort();
    assert_eq!(settled, ["buried: too-old", "duplicate", "handled"]);
}

#[tokio::test]
async fn a_route_in_shadow_buries_nothing_and_says_what_it_would_have_given_up_on() {
    let bench = Bench::new();
    let mut shadow = route("shadow");
    (shadow.mode, shadow.max_age, shadow.hops_max) = (RouteMode::Shadow, Some(HOUR), 0);
    bench.apply(&[shadow]).await;
    use router_api::Transport;
    let key = || RoutingKey::new("a.b").unwrap();
    let fates = || {
        let settled = bench.transport.settled().into_iter().map(|settled| settled.how);
        settled.map(|how| format!("{how:?}")).collect::<Vec<_>>()
    };
    bench.transport.publish(Publication::new(key(), &b"not json"[..])).await.unwrap();
    bench.transport.publish(Publication { hops: 1, ..Publication::new(key(), r#"{"event_id":"e1"}"#) }).await.unwrap();
    bench.settle_down().await;
    bench.router.admin().command(&"shadow".parse().unwrap(), RouteCommand::Pause).await.unwrap();
    bench.settle_down().await;
    bench.send("a.b", "e2").await;
    bench.pass(2 * HOUR).await;
    bench.router.admin().command(&"shadow".parse().unwrap(), RouteCommand::Resume).await.unwrap();
    bench.pass(SECOND).await;
    let fates = fates();
    assert_eq!(fates.len(), 3, "{fates:?}");
    for (fate, reason) in fates.iter().zip(["undecodable", "loop", "too-old"]) {
        assert!(fate.contains("Shadowed") && fate.contains(&format!("would fail: {reason}: ")), "{fate}");
    }
    assert!(bench.dead_letters().await.is_empty() && bench.calls().is_empty());
}

#[tokio::test]
async fn notes_of_an_event_that_ends_filtered_or_as_a_duplicate_are_not_kept() {
    let bench = Bench::new();
    bench.behave(|_| Answer::RetryAfter(100 * SECOND));
    bench.apply(&[ordered("one")]).await;
    bench.send_in("s1", "e1").await;
    bench.send_in("s2", "e2").await;
    bench.settle_down().await;
    let name = "one".parse().unwrap();
    use router_api::Store;
    assert_eq!(bench.store.noted_attempts(&name).await.unwrap().len(), 2);
    // One of them is done meanwhile, by another router.
    let later = router_api::Clock::now(&bench.clock).checked_add(jiff::SignedDuration::from_hours(9)).unwrap();
    bench.store.inbox_insert(&name, &[router_api::InboxKey { key: "e1".into(), expires_at: later }]).await.unwrap();
    let mut narrower = ordered("one");
    narrower.when = EventFilter::compile(&serde_json::json!({ "session_id": ["s1"] })).unwrap();
    bench.apply(&[narrower]).await;
    bench.pass(HOUR).await;
    let mut settled = bench.settled();
    settled.sort();
    assert_eq!(settled, ["duplicate", "filtered"]);
    assert_eq!(bench.store.noted_attempts(&name).await.unwrap(), []);
}

#[tokio::test]
async fn what_failed_in_hand_or_with_the_process_stands_in_the_archive_when_the_event_is_handled() {
    let bench = Bench::new();
    bench.behave(|call| if call.ids[0] == "held" && call.attempt < 3 { Answer::Retry } else { Answer::Hang });
    bench.apply(&[ordered("one")]).await;
    bench.send_in("s1", "held").await;
    bench.send_in("s2", "crashed").await;
    bench.pass(10 * SECOND).await;
    let bench = bench.crash(&[ordered("one")], |_| Answer::Done).await;
    bench.pass(HOUR).await;
    let events = bench.router.admin().events(&router_api::EventQuery::default()).await.unwrap();
    let mut attempts: Vec<(String, u32)> = events.iter().map(|event| (event.id.clone().unwrap(), event.deliveries[0].attempts)).collect();
    attempts.sort();
    // Two that failed in hand and one that the process died of; and one that it died of.
    assert_eq!(attempts, [("crashed".into(), 1), ("held".into(), 3)]);
}
