//! What is left after a process died, and what is said about it.

use router_api::{DeadLetterQuery, DeadLetterReason, FrozenBurst, InboxKey, Settlement, Store, Suspect, Transport, TransportAdmin};
use router_embedded::{Embedded, EmbeddedOptions, Finding};
use serde_json::json;
use std::{sync::Arc, time::Duration};

use crate::bench::*;

#[tokio::test]
async fn everything_survives_a_kill() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..6).await;
    let consumer = bench.consume("a", 9).await;
    let mut hand = take_many(&consumer, 5).await;
    let expires_at = "2026-01-03T00:00:00Z".parse().unwrap();
    let done = Settlement::Done {
        fates: vec![router_api::Fate::Skipped { reason: "no need".to_owned() }],
        inbox: vec![Some(InboxKey { key: "id-0".to_owned(), expires_at })],
    };
    consumer.settle(vec![hand.remove(0)], done).await.unwrap();
    consumer.settle(vec![hand.remove(0)], Settlement::RetryIn { delay: Duration::from_secs(60), failure: failure(1) }).await.unwrap();
    consumer.settle(vec![hand.remove(0)], Settlement::Bury(Box::new(letter("a", DeadLetterReason::Rejected)))).await.unwrap();
    let identity = hand[0].identity.clone();

    let bench = bench.kill().await;
    assert_eq!(bench.store.findings(), []);
    let now = "2026-01-02T04:00:00Z".parse().unwrap();
    assert!(bench.store.inbox_contains(&route("a"), "id-0", now).await.unwrap());
    assert!(!bench.store.inbox_contains(&route("b"), "id-0", now).await.unwrap());
    assert!(!bench.store.inbox_contains(&route("a"), "id-0", expires_at).await.unwrap());
    assert_eq!(bench.store.dead_letters(&DeadLetterQuery::default()).await.unwrap().len(), 1);
    let queue = &bench.store.queues().await.unwrap()[0];
    assert_eq!((queue.ready, queue.waiting, queue.dead), (3, 1, 1));
    let consumer = bench.consume("a", 9).await;
    let again = take_many(&consumer, 3).await;
    assert_eq!(numbers(&again), [3, 4, 5]);
    assert_eq!(again[0].identity, identity);
    assert!(again.iter().all(|delivery| delivery.attempts == 0 && delivery.redelivered));
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(take(&consumer).await.history, [failure(1)]);
}

#[tokio::test]
async fn only_what_ran_when_the_process_died_is_a_suspect_and_crashes_add_up() {
    let bench = Bench::new();
    let (a, b) = (route("a"), route("b"));
    let ended = bench.store.begin_running(&a, "1").unwrap();
    bench.store.begin_running(&a, "2").unwrap();
    bench.store.begin_running(&b, "burst-x").unwrap();
    bench.store.end_running(ended);
    let bench = bench.kill().await;
    let suspect = |identity: &str, crashes| Suspect { identity: identity.to_owned(), crashes };
    assert_eq!(bench.store.suspects(&a).await.unwrap(), [suspect("2", 1)]);
    assert_eq!(bench.store.suspects(&b).await.unwrap(), [suspect("burst-x", 1)]);

    // Nothing ran this time.
    let bench = bench.kill().await;
    assert_eq!(bench.store.suspects(&a).await.unwrap(), [suspect("2", 1)]);
    bench.store.begin_running(&a, "2").unwrap();
    let bench = bench.kill().await;
    assert_eq!(bench.store.suspects(&a).await.unwrap(), [suspect("2", 2)]);
    bench.store.clear_suspect(&a, "2").await.unwrap();
    assert_eq!(bench.store.suspects(&a).await.unwrap(), []);

    // What still runs at a clean end was cancelled, not killed.
    bench.store.begin_running(&a, "3").unwrap();
    let bench = bench.restart().await;
    assert_eq!(bench.store.suspects(&a).await.unwrap(), []);
    assert_eq!(bench.store.suspects(&b).await.unwrap(), [suspect("burst-x", 1)]);
}

#[tokio::test]
async fn an_older_file_in_place_of_the_store_is_noticed_and_its_numbers_are_not_used_again() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    let older = crash_image(bench.directory.path());
    bench.publish_all("k", 3..5).await;
    bench.store.close().await;
    for name in ["router.db", "router.db-wal"] {
        std::fs::copy(older.path().join(name), bench.directory.path().join(name)).unwrap();
    }
    let synced = EmbeddedOptions { sync: true, ..options(bench.directory.path()) };
    let refused = Embedded::open(synced, Arc::new(bench.clock.clone())).err().unwrap().to_string();
    assert!(refused.contains("2 accepted events are missing, numbers 4 to 5"), "{refused}");
    let store = Embedded::open(options(bench.directory.path()), Arc::new(bench.clock.clone())).unwrap();
    // This one need not wait for the disk, so its last commits may be missing after a power failure; one that does is refused.
    assert_eq!(store.findings()[0], Finding::EventsMissing { first: 4, last: 5 });
    assert!(store.findings()[1..].iter().all(|finding| matches!(finding, Finding::CommitsMissing { .. })), "{:?}", store.findings());
    assert_eq!(store.findings()[0].to_string(), "2 accepted events are missing from the store, numbers 4 to 5");
    assert_eq!(store.publish(router_api::Publication::new(key("k"), "{}")).await.unwrap().seq, Some(6));
    store.close().await;
    let store = Embedded::open(options(bench.directory.path()), Arc::new(bench.clock.clone())).unwrap();
    assert_eq!(store.findings(), [], "it was said once");
    store.close().await;
}

#[tokio::test]
async fn a_store_that_vanished_is_not_begun_anew_without_a_word() {
    let bench = Bench::new();
    bench.publish_all("k", 0..3).await;
    bench.store.close().await;
    std::fs::remove_file(bench.directory.path().join("router.db")).unwrap();
    let refused = Embedded::open(options(bench.directory.path()), Arc::new(bench.clock.clone())).err().unwrap().to_string();
    assert!(refused.contains("gone or empty, and up to 3 events had been accepted") && refused.contains("store repair --accept-loss"), "{refused}");
    assert!(!bench.directory.path().join("router.db").exists());
}

#[tokio::test]
async fn a_side_file_that_is_behind_or_gone_says_nothing() {
    let bench = Bench::new();
    bench.publish_all("k", 0..1).await;
    let side_file = bench.directory.path().join("router.db.seq");
    let behind = std::fs::read(&side_file).unwrap();
    bench.publish_all("k", 1..3).await;
    std::fs::write(&side_file, behind).unwrap();
    let bench = bench.kill().await;
    assert_eq!(bench.store.findings(), []);
    std::fs::remove_file(bench.directory.path().join("router.db.seq")).unwrap();
    let bench = bench.kill().await;
    assert_eq!(bench.store.findings(), []);
    assert_eq!(bench.publish("k", json!({})).await.seq, Some(4));
}

#[tokio::test]
async fn an_event_whose_bytes_were_changed_is_buried_and_the_others_go_on() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    bench.sql().execute_batch("UPDATE events SET body = CAST('{\"n\":7}' AS BLOB) WHERE seq = 2").unwrap();
    let consumer = bench.consume("a", 9).await;
    assert_eq!(numbers(&take_many(&consumer, 2).await), [0, 2]);
    let letters = bench.store.dead_letters(&DeadLetterQuery::default()).await.unwrap();
    assert_eq!((letters.len(), letters[0].letter.reason), (1, DeadLetterReason::Undecodable));
    assert_eq!(letters[0].body[..], b"{\"n\":7}"[..]);
    assert_eq!(bench.store.findings(), [Finding::EventDamaged { seq: 2, route: route("a") }]);
}

#[tokio::test]
async fn what_is_frozen_noted_and_kept_survives_a_kill() {
    let bench = Bench::new();
    let a = route("a");
    let burst = |id: &str, members: &[&str]| FrozenBurst {
        id: id.to_owned(),
        lane: "/work".to_owned(),
        members: members.iter().map(|member| (*member).to_owned()).collect(),
    };
    bench.store.freeze(&a, &burst("z", &["1", "2"])).await.unwrap();
    bench.store.freeze(&a, &burst("b", &["3"])).await.unwrap();
    bench.store.freeze(&a, &burst("c", &["4"])).await.unwrap();
    bench.store.thaw(&a, "b").await.unwrap();
    bench.store.freeze(&route("other"), &burst("z", &["9"])).await.unwrap();
    let noted = |identity: &str, attempts| router_api::NotedAttempts {
        identity: identity.to_owned(),
        attempts,
        history: (1..=attempts).map(failure).collect(),
        due_at: "2026-01-02T05:00:00Z".parse().unwrap(),
    };
    bench.store.note_attempts(&a, noted("1", 1)).await.unwrap();
    bench.store.note_attempts(&a, noted("1", 2)).await.unwrap();
    bench.store.note_attempts(&a, noted("2", 1)).await.unwrap();
    bench.store.forget_attempts(&a, &["2".to_owned(), "unknown".to_owned()]).await.unwrap();
    bench.store.set_state(&a, "cursor", Some(json!({ "at": [1, null] }))).await.unwrap();
    bench.store.set_state(&a, "gone", Some(json!(1))).await.unwrap();
    bench.store.set_state(&a, "gone", None).await.unwrap();
    bench.store.record_config("h", "text", "2026-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
    bench.store.record_config("h", "text", "2026-01-02T00:00:00Z".parse().unwrap()).await.unwrap();
    bench.store.inbox_insert(&a, &[InboxKey { key: "done".to_owned(), expires_at: "2026-01-04T00:00:00Z".parse().unwrap() }]).await.unwrap();

    let bench = bench.kill().await;
    assert_eq!(bench.store.frozen(&a).await.unwrap(), [burst("z", &["1", "2"]), burst("c", &["4"])]);
    assert_eq!(bench.store.noted_attempts(&a).await.unwrap(), [noted("1", 2)]);
    assert_eq!(bench.store.state(&a, "cursor").await.unwrap(), Some(json!({ "at": [1, null] })));
    assert_eq!(bench.store.state(&a, "gone").await.unwrap(), None);
    assert_eq!(bench.count("SELECT count(*) FROM configs"), 1);
    assert!(bench.store.inbox_contains(&a, "done", "2026-01-03T00:00:00Z".parse().unwrap()).await.unwrap());
    // Such routes have no queue on this transport.
    assert!(bench.store.queues().await.unwrap().is_empty());
}
