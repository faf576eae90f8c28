//! Which writes of a handling are done again, and which are not.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use router_api::{EffectClass, EffectReply, HttpReply, LedgerEntry, LedgerKey, RedriveRequest, RouteMode, Store};
use router_core::config::RouteConfig;

use crate::bench::{Answer, Ask, Bench, Found, HOUR, SECOND, coalescing, ids, ordered, route};

/// Answers every call to `path` with this status.
fn status(bench: &Bench, path: &str, status: u16) {
    bench.effects.always(path, move |_| Ok(EffectReply::Http(HttpReply::new(status, "said"))));
}

/// What was called outside, in order.
fn called(bench: &Bench) -> Vec<String> {
    bench.effects.sentences()
}

async fn known(bench: &Bench, subject: &str) -> Vec<LedgerEntry> {
    bench.store.ledger(&"all".parse().unwrap(), subject).await.unwrap()
}

async fn known_of(bench: &Bench, id: &str) -> Vec<LedgerEntry> {
    known(bench, &LedgerKey::of_event(id)).await
}

/// A router whose handler did `first` and then hung, and a new process after its death, whose handler does `second`.
async fn after_a_crash(config: &RouteConfig, first: Answer, second: Answer) -> Bench {
    let bench = Bench::new();
    bench.behave(move |_| first.clone());
    bench.apply(std::slice::from_ref(config)).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(called(&bench).len(), 1, "the first process did the write");
    bench.crash(std::slice::from_ref(config), move |_| second.clone()).await
}

#[tokio::test]
async fn a_write_that_was_finished_before_a_crash_is_not_done_again_and_its_reply_is_the_same() {
    let bench = after_a_crash(&route("all"), Ask::new("launch").then(Answer::Hang), Ask::new("launch").then(Answer::Done)).await;
    bench.pass(SECOND).await;
    assert_eq!((called(&bench), bench.heard(), bench.settled()), (vec![], vec!["200".to_owned()], vec!["handled".to_owned()]));
    assert_eq!(known_of(&bench, "e1").await, [], "what is done is the inbox's affair");
}

#[tokio::test]
async fn a_write_whose_end_nobody_saw_is_done_again_unless_the_plugin_can_look() {
    for (looks, is_done_again, heard) in
        [(None, true, &["200"][..]), (Some(Found::NotDone), true, &["launch: looked", "200"]), (Some(Found::Done), false, &["launch: looked", "299"])]
    {
        let bench = Bench::new();
        bench.effects.hang("launch");
        bench.behave(|_| Ask::new("launch").then(Answer::Done));
        bench.apply(&[route("all")]).await;
        bench.send("a.b", "e1").await;
        bench.settle_down().await;
        assert_eq!(known_of(&bench, "e1").await.len(), 1, "the intent is there while the call runs");
        let ask = Ask { looks, ..Ask::new("launch") };
        let bench = bench.crash(&[route("all")], move |_| ask.clone().then(Answer::Done)).await;
        bench.pass(SECOND).await;
        assert_eq!(called(&bench).len(), usize::from(is_done_again), "{looks:?}");
        assert_eq!((bench.heard(), bench.settled()), (heard.iter().map(ToString::to_string).collect(), vec!["handled".to_owned()]), "{looks:?}");
    }
}

#[tokio::test]
async fn what_a_look_found_is_a_result_and_what_it_could_not_find_out_is_asked_again() {
    let bench = Bench::new();
    bench.effects.hang("launch");
    bench.behave(|_| Ask::new("launch").then(Answer::Done));
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let troubled = Ask { looks: Some(Found::Trouble), ..Ask::new("launch") };
    let found = Ask { looks: Some(Found::Done), ..Ask::new("launch") };
    let bench = bench
        .crash(&[route("all")], move |call| match call.attempt {
            2 => troubled.clone().then(Answer::Done),
            _ => found.clone().then(Answer::Hang),
        })
        .await;
    bench.pass(10 * SECOND).await;
    assert_eq!(bench.heard(), ["launch: looked", "launch: looked", "299"]);
    let bench = bench.crash(&[route("all")], |_| Ask { looks: Some(Found::Trouble), ..Ask::new("launch") }.then(Answer::Done)).await;
    bench.pass(10 * SECOND).await;
    assert_eq!((called(&bench), bench.heard()), (vec![], vec!["299".to_owned()]), "nobody looks for what is known");
}

#[tokio::test]
async fn a_handler_that_fails_by_itself_gets_no_old_reply_again() {
    let bench = Bench::new();
    let tries = AtomicU32::new(0);
    bench.behave(move |_| {
        Ask::new("launch").then(match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::Retry,
            1 => Answer::Pause,
            _ => Answer::Done,
        })
    });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(HOUR).await;
    assert_eq!((called(&bench).len(), bench.settled()), (3, vec!["retry".to_owned(), "handled".to_owned()]));
}

#[tokio::test]
async fn a_reply_that_the_plugin_calls_final_is_kept_over_retries_and_one_that_it_does_not_is_never_stored() {
    let bench = Bench::new();
    status(&bench, "launch", 201);
    let ask = |status| Ask { final_when: Some(status), ..Ask::new("launch") };
    bench.behave(move |call| ask(201).then(if call.attempt < 4 { Answer::Retry } else { Answer::Done }));
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(HOUR).await;
    assert_eq!((called(&bench).len(), bench.heard()), (1, vec!["201".to_owned(); 4]));

    bench.behave(move |_| ask(202).then(Answer::Hang));
    bench.send("a.b", "e2").await;
    bench.settle_down().await;
    let writes = known_of(&bench, "e2").await;
    assert_eq!((writes.len(), writes[0].result.clone()), (1, None));
    let bench = bench.crash(&[route("all")], |_| Ask::new("launch").then(Answer::Done)).await;
    bench.pass(SECOND).await;
    assert_eq!(called(&bench).len(), 1);
}

#[tokio::test]
async fn a_time_out_a_panic_and_a_lost_session_keep_what_was_done() {
    let bench = Bench::new();
    bench.behave(|call| match call.attempt {
        1 => Ask::new("launch").then(Answer::Hang),
        2 => Ask::new("launch").then(Answer::Panic),
        _ => Ask::new("launch").then(Answer::Take(20 * SECOND)),
    });
    bench.apply(&[ordered("all")]).await;
    bench.send_in("s1", "e1").await;
    bench.pass(70 * SECOND).await;
    bench.pass(10 * SECOND).await;
    bench.transport.lose_session(&"all".parse().unwrap());
    bench.pass(120 * SECOND).await;
    assert!(bench.calls().len() >= 4, "{:?}", bench.calls());
    assert_eq!((called(&bench).len(), bench.settled()), (1, vec!["handled".to_owned()]));
}

#[tokio::test]
async fn the_next_attempt_looks_where_the_outcome_is_unknown_and_nowhere_else() {
    for (first, looked) in [
        (Err(EffectClass::Timeout), true),
        (Err(EffectClass::Failed), true),
        (Err(EffectClass::Unreachable), false),
        (Err(EffectClass::Busy), false),
        (Ok(504), true),
        (Ok(500), true),
        (Ok(503), false),
        (Ok(429), false),
    ] {
        let bench = Bench::new();
        match first {
            Ok(code) => bench.effects.once("launch", move |_| Ok(EffectReply::Http(HttpReply::new(code, "")))),
            Err(class) => bench.effects.fail("launch", 1, class, "no"),
        }
        bench.behave(|_| Ask { looks: Some(Found::NotDone), ..Ask::new("launch") }.then(Answer::Done));
        bench.apply(&[route("all")]).await;
        bench.send("a.b", "e1").await;
        bench.pass(HOUR).await;
        assert_eq!((called(&bench).len(), bench.settled().last().cloned()), (2, Some("handled".to_owned())), "{first:?}");
        assert_eq!(bench.heard().contains(&"launch: looked".to_owned()), looked, "{first:?}");
    }
}

#[tokio::test]
async fn another_request_is_another_write_and_equal_ones_are_counted() {
    let bench = after_a_crash(&route("all"), Ask::new("a").then(Answer::Hang), Ask::new("b").then(Ask::new("a").then(Ask::new("a").then(Answer::Done)))).await;
    bench.pass(SECOND).await;
    assert_eq!(called(&bench), ["POST http://target/b", "POST http://target/a"], "the first of the equal ones was done");
}

#[tokio::test]
async fn the_writes_of_a_burst_are_not_done_again_and_the_next_burst_has_its_own() {
    let bench = Bench::new();
    bench.behave(|_| Ask::new("run").then(Answer::Hang));
    bench.apply(&[coalescing("all")]).await;
    for id in ["e1", "e2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(3 * SECOND).await;
    assert_eq!(called(&bench).len(), 1);
    let bench = bench.crash(&[coalescing("all")], |_| Ask::new("run").then(Answer::Done)).await;
    bench.pass(10 * SECOND).await;
    assert_eq!((called(&bench).len(), bench.called()), (0, ids(&[&["e1", "e2"]])));
    bench.send_in("s1", "e3").await;
    bench.pass(10 * SECOND).await;
    assert_eq!((called(&bench).len(), bench.settled()), (1, vec!["handled+handled".to_owned(), "handled".to_owned()]));
    assert_eq!(bench.state.writes(), 0, "what is done leaves nothing");
}

#[tokio::test]
async fn a_route_in_shadow_or_without_a_ledger_stores_nothing() {
    let shadow = RouteConfig { mode: RouteMode::Shadow, ..route("all") };
    let without = RouteConfig { ledger: false, ..route("all") };
    for (config, calls) in [(shadow, 0), (without, 1)] {
        let bench = Bench::new();
        bench.behave(|_| Ask::new("launch").then(Answer::Hang));
        bench.apply(&[config]).await;
        bench.send("a.b", "e1").await;
        bench.settle_down().await;
        assert_eq!((called(&bench).len(), bench.state.writes()), (calls, 0));
    }
}

#[tokio::test]
async fn a_write_whose_intent_cannot_be_stored_does_not_begin_and_costs_no_attempt() {
    let bench = Bench::new();
    let store = bench.store.clone();
    bench.behave(move |call| {
        if call.attempt == 1 && call.ids == ["e1"] {
            store.fail(1);
        }
        Ask::new("launch").then(Answer::Done)
    });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!((bench.calls().len(), called(&bench).len()), (1, 0));
    bench.behave(|_| Ask::new("launch").then(Answer::Done));
    bench.pass(10 * SECOND).await;
    assert_eq!(bench.calls().iter().map(|call| call.attempt).collect::<Vec<_>>(), [1, 1]);
    assert_eq!((called(&bench).len(), bench.settled()), (1, vec!["handled".to_owned()]));
}

#[tokio::test]
async fn a_later_event_with_the_same_key_is_a_new_one() {
    let bench = Bench::new();
    bench.behave(|_| Ask { final_when: Some(200), ..Ask::new("launch") }.then(Answer::Done));
    bench.apply(&[route("all")]).await;
    for (round, expected) in [(1, 1), (2, 1)] {
        bench.send("a.b", "e1").await;
        bench.settle_down().await;
        assert_eq!(called(&bench).len(), expected, "{round}");
    }
    bench.pass(25 * HOUR).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(called(&bench).len(), 2);
}

#[tokio::test]
async fn a_reply_with_a_secret_in_it_is_neither_stored_nor_given_again() {
    let bench = Bench::new();
    bench.effects.always("login", |_| Ok(EffectReply::Http(HttpReply::new(200, r#"{"api_key":"ghp_0123456789abcdefghijklmnopqrstuvwxyzA"}"#))));
    bench.behave(|_| Ask::new("login").then(Answer::Hang));
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    let result = known_of(&bench, "e1").await[0].result.clone().unwrap();
    assert_eq!((result.summary.as_str(), result.reply), ("HTTP 200", None));
    let bench = bench.crash(&[route("all")], |_| Ask::new("login").then(Answer::Done)).await;
    bench.pass(SECOND).await;
    assert_eq!(called(&bench).len(), 1);
}

#[tokio::test]
async fn a_redrive_says_what_is_already_done_and_does_it_again_only_when_asked() {
    let bench = Bench::new();
    let launch = || Ask { final_when: Some(200), ..Ask::new("launch") };
    bench.behave(move |_| launch().then(Ask::new("tell").then(Answer::Reject)));
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "e1").await;
    bench.settle_down().await;
    assert_eq!(called(&bench).len(), 2);
    let admin = bench.router.admin();
    let redriven = admin.redrive(&RedriveRequest::default()).await.unwrap();
    let done: Vec<_> = redriven.already_done.iter().map(|done| (done.effect.as_str(), done.result.as_str(), done.is_kept)).collect();
    assert_eq!(done, [("launch", "HTTP 200", true)]);
    bench.pass(SECOND).await;
    assert_eq!(called(&bench)[2..], ["POST http://target/tell"]);

    let again = RedriveRequest { again: true, ..RedriveRequest::default() };
    let dry = admin.redrive(&RedriveRequest { dry_run: true, ..again.clone() }).await.unwrap();
    assert_eq!((dry.already_done.len(), known_of(&bench, "e1").await.len()), (1, 1), "a dry run forgets nothing");
    admin.redrive(&again).await.unwrap();
    bench.pass(SECOND).await;
    assert_eq!(called(&bench)[3..], ["POST http://target/launch", "POST http://target/tell"]);
}

#[tokio::test]
async fn what_a_burst_did_is_told_at_its_redrive_and_not_recognised() {
    let bench = Bench::new();
    bench.behave(|_| Ask { final_when: Some(200), ..Ask::new("run") }.then(Answer::Reject));
    bench.apply(&[coalescing("all")]).await;
    for id in ["e1", "e2"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(5 * SECOND).await;
    let redriven = bench.router.admin().redrive(&RedriveRequest::default()).await.unwrap();
    assert_eq!(redriven.already_done.iter().map(|done| done.is_kept).collect::<Vec<_>>(), [false, false]);
    bench.pass(5 * SECOND).await;
    assert_eq!(called(&bench).len(), 3, "the events came back one by one");
}

#[tokio::test]
async fn where_nothing_recognises_an_event_its_dead_letter_begins_anew() {
    let bench = Bench::new();
    bench.behave(|_| Ask { final_when: Some(200), ..Ask::new("launch") }.then(Answer::Reject));
    bench.apply(&[RouteConfig { dedup: None, ..route("all") }]).await;
    bench.send("a.b", "e1").await;
    bench.pass(Duration::from_millis(1)).await;
    bench.router.admin().redrive(&RedriveRequest::default()).await.unwrap();
    bench.pass(SECOND).await;
    assert_eq!(called(&bench).len(), 2);
}

#[tokio::test]
async fn where_nothing_recognises_an_event_its_end_leaves_nothing_that_another_one_just_like_it_could_meet() {
    let bench = Bench::new();
    bench.behave(|_| Ask { final_when: Some(200), ..Ask::new("launch") }.then(Answer::Done));
    bench.apply(&[RouteConfig { dedup: None, ..route("all") }]).await;
    for round in 1..=2 {
        bench.send("a.b", "e1").await;
        bench.settle_down().await;
        assert_eq!((called(&bench).len(), bench.state.writes()), (round, 0));
    }
}
