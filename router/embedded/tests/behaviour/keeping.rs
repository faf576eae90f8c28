//! Retention, and what operators take away.

use std::time::Duration;

use router_api::{DeadLetterQuery, DeadLetterReason, InboxKey, Settlement, Store, Transport, TransportAdmin, TransportError};
use serde_json::json;

use crate::bench::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Gives the writer occasions to tidy up until there is nothing more to do.
async fn tidy(bench: &Bench, mut is_done: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_done() {
            return;
        }
        bench.clock.advance(Duration::from_secs(1));
        bench.store.set_state(&route("tick"), "tick", None).await.unwrap();
    }
    panic!("it was not tidied up");
}

#[tokio::test]
async fn old_events_go_unless_a_queue_or_a_dead_letter_needs_them() {
    let bench = Bench::with(|options| options.retention_age = 2 * DAY);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..4).await;
    bench.publish_all("nobody", 4..6).await;
    let consumer = bench.consume("a", 9).await;
    let mut hand = take_many(&consumer, 4).await;
    consumer.settle(vec![hand.remove(0)], handled(1)).await.unwrap();
    consumer.settle(vec![hand.remove(0)], Settlement::Bury(Box::new(letter("a", DeadLetterReason::Rejected)))).await.unwrap();
    consumer.settle(vec![hand.remove(0)], Settlement::RetryIn { delay: 9 * DAY, failure: failure(1) }).await.unwrap();
    bench.clock.advance(DAY);
    bench.publish_all("k", 6..7).await;
    bench.clock.advance(DAY + Duration::from_secs(1));
    bench.publish_all("k", 7..8).await;
    tidy(&bench, || bench.count("SELECT count(*) FROM events") == 5).await;
    let left: Vec<u64> = bench.store.events(&router_api::EventQuery::default()).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(left, [8, 7, 4, 3, 2]);

    // What is not needed any more goes in a later walk.
    consumer.settle(hand, handled(1)).await.unwrap();
    let letters = bench.store.dead_letters(&DeadLetterQuery::default()).await.unwrap();
    bench.store.discard(&[letters[0].id.clone()]).await.unwrap();
    tidy(&bench, || bench.count("SELECT count(*) FROM events") == 3).await;
    assert_eq!(bench.count("SELECT count(*) FROM deliveries"), 3);
}

#[tokio::test]
async fn the_oldest_go_when_the_file_is_too_large_and_space_is_given_back() {
    let bench = Bench::with(|options| options.retention_bytes_max = 2 * 1024 * 1024);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..1).await;
    for _ in 0..100 {
        bench.publish("nobody", json!({ "filling": "x".repeat(100_000) })).await;
    }
    let in_use = |bench: &Bench| (bench.count("PRAGMA page_count") - bench.count("PRAGMA freelist_count")) * bench.count("PRAGMA page_size");
    assert!(in_use(&bench) > 8_000_000);
    tidy(&bench, || in_use(&bench) <= 2 * 1024 * 1024).await;
    assert_eq!(bench.count("SELECT min(seq) FROM events"), 1, "the queue still owns the first one");
    tidy(&bench, || bench.count("PRAGMA freelist_count") <= 1_024).await;
}

#[tokio::test]
async fn expired_inbox_keys_go() {
    let bench = Bench::new();
    let soon = "2026-01-02T04:00:00Z".parse().unwrap();
    let later = "2026-01-09T04:00:00Z".parse().unwrap();
    let key = |key: &str, expires_at| InboxKey { key: key.to_owned(), expires_at };
    bench.store.inbox_insert(&route("a"), &[key("1", soon), key("2", later), key("3", later)]).await.unwrap();
    // The longer time wins.
    bench.store.inbox_insert(&route("a"), &[key("3", soon)]).await.unwrap();
    bench.clock.advance(DAY);
    tidy(&bench, || bench.count("SELECT count(*) FROM inbox") == 2).await;
    let now = router_api::Clock::now(&bench.clock);
    assert!(bench.store.inbox_contains(&route("a"), "3", now).await.unwrap());
}

#[tokio::test]
async fn only_a_queue_that_is_neither_bound_nor_consumed_can_be_removed_and_its_dead_letters_stay() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"]), ("b", &["k"])]).await;
    bench.publish_all("k", 0..12_000 / 1_000).await;
    let consumer = bench.consume("a", 9).await;
    let first = take(&consumer).await;
    consumer.settle(vec![first], Settlement::Bury(Box::new(letter("a", DeadLetterReason::Rejected)))).await.unwrap();
    let second = take(&consumer).await;
    consumer.settle(vec![second], Settlement::RetryIn { delay: DAY, failure: failure(1) }).await.unwrap();
    let refusal = |result: Result<u64, TransportError>| match result {
        Err(TransportError::Refused(sentence)) => sentence,
        other => panic!("{other:?}"),
    };
    assert!(refusal(bench.store.remove_queue(&route("a")).await).contains("is bound"));
    bench.bind(&[("b", &["k"])]).await;
    assert!(refusal(bench.store.remove_queue(&route("a")).await).contains("consumed"));
    consumer.close().await;
    assert_eq!(bench.store.remove_queue(&route("a")).await.unwrap(), 11);
    assert_eq!(bench.store.remove_queue(&route("a")).await.unwrap(), 0);
    assert_eq!(bench.store.remove_queue(&route("unknown")).await.unwrap(), 0);
    assert!(bench.store.consume(&route("a"), 1).await.is_err());
    let queues = bench.store.queues().await.unwrap();
    assert_eq!(queues.iter().map(|queue| (queue.route.as_str(), queue.ready, queue.dead)).collect::<Vec<_>>(), [("a", 0, 1), ("b", 12, 0)]);

    let letters = bench.store.dead_letters(&DeadLetterQuery { route: Some(route("a")), ..DeadLetterQuery::default() }).await.unwrap();
    assert_eq!(bench.store.discard(&[letters[0].id.clone()]).await.unwrap(), 1);
    assert_eq!(bench.store.discard(&[letters[0].id.clone()]).await.unwrap(), 0);
    assert_eq!(bench.store.queues().await.unwrap().len(), 1);
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_by_route_and_reason() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"]), ("b", &["k"])]).await;
    bench.publish_all("k", 0..2).await;
    for (name, reasons) in [("a", [DeadLetterReason::Rejected, DeadLetterReason::TooOld]), ("b", [DeadLetterReason::TooOld, DeadLetterReason::Loop])] {
        let consumer = bench.consume(name, 2).await;
        for reason in reasons {
            let delivery = take(&consumer).await;
            consumer.settle(vec![delivery], Settlement::Bury(Box::new(letter(name, reason)))).await.unwrap();
        }
    }
    let list = async |route_name: Option<&str>, reason: Option<&str>, limit: Option<u32>| -> Vec<String> {
        let query = DeadLetterQuery { route: route_name.map(route), reason: reason.map(str::to_owned), class: None, limit };
        bench.store.dead_letters(&query).await.unwrap().into_iter().map(|letter| letter.id).collect()
    };
    assert_eq!(list(None, None, None).await, ["4", "3", "2", "1"]);
    assert_eq!(list(None, None, Some(1)).await, ["4"]);
    assert_eq!(list(Some("a"), None, None).await, ["2", "1"]);
    assert_eq!(list(None, Some("too-old"), None).await, ["3", "2"]);
    assert_eq!(list(Some("none"), None, None).await, [""; 0]);
    let one = bench.store.dead_letter("2").await.unwrap().unwrap();
    assert_eq!((one.letter.reason, &one.body[..], one.key.as_str()), (DeadLetterReason::TooOld, &br#"{"n":1}"#[..], "k"));
    assert!(bench.store.dead_letter("x").await.unwrap().is_none());
}
