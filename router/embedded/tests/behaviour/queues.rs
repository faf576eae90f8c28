//! Order, prefetch, held lanes, sessions.

use std::{pin::pin, sync::Arc, task::Poll};

use futures_util::poll;
use router_api::{Consumer, SettleError, Transport, TransportAdmin, TransportError};
use serde_json::json;

use crate::bench::*;

async fn lanes(bench: &Bench, events: &[(u64, &str)]) {
    for (n, lane) in events {
        bench.publish("k", json!({ "n": n, "lane": lane })).await;
    }
}

/// True if nothing comes as long as nothing changes: everything that could be read has been read.
async fn is_idle(consumer: &Arc<dyn Consumer>) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(150), consumer.next()).await.is_err()
}

#[tokio::test]
async fn deliveries_come_in_the_order_of_their_numbers_and_the_prefetch_bounds_them() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..300).await;
    let consumer = bench.consume("a", 7).await;
    let mut seen = Vec::new();
    let mut hand = take_many(&consumer, 7).await;
    while seen.len() < 300 - 7 {
        assert!(matches!(poll!(pin!(consumer.next())), Poll::Pending), "an eighth one was handed out");
        let first = hand.remove(0);
        seen.push(number(&first));
        consumer.settle(vec![first], handled(1)).await.unwrap();
        hand.push(take(&consumer).await);
    }
    seen.extend(numbers(&hand));
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    assert_eq!(bench.store.queues().await.unwrap()[0].in_flight, 7);
}

#[tokio::test]
async fn what_is_published_to_a_route_that_waits_is_handed_out_in_order_without_a_look_at_the_file() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let consumer = bench.consume("a", 500).await;
    let (sender, mut handed) = tokio::sync::mpsc::channel(500);
    let taker = tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery.unwrap();
            let number = number(&delivery);
            consumer.settle(vec![delivery], handled(1)).await.unwrap();
            sender.send(number).await.unwrap();
        }
    });
    let mut seen = 0;
    let mut one = async |n: u64| {
        let visited = bench.store.measures().rows_visited;
        bench.publish("k", json!({ "n": n })).await;
        assert_eq!(within(handed.recv()).await, Some(n));
        bench.store.measures().rows_visited != visited
    };
    // The first ones may come while the queue is read for the first time.
    while one(seen).await {
        seen += 1;
        assert!(seen < 1_000, "each of them was read");
    }
    bench.store.close().await;
    within(taker).await.unwrap();
}

#[tokio::test]
async fn a_held_lane_of_thousands_is_passed_over_once_and_comes_in_order_when_it_is_free() {
    const LONG: u64 = 5_000;
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let mut publications = Vec::new();
    for n in 0..=LONG {
        publications.push(bench.publish("k", json!({ "n": n, "lane": "long" })));
    }
    for publication in publications {
        publication.await;
    }
    let consumer = bench.consume("a", 4).await;
    let head = take(&consumer).await;
    consumer.hold_lane("long");
    for n in 0..200 {
        lanes(&bench, &[(10_000 + n, "short")]).await;
        let delivery = take(&consumer).await;
        assert_eq!(number(&delivery), 10_000 + n);
        consumer.settle(vec![delivery], handled(1)).await.unwrap();
    }
    let visited = bench.store.measures().rows_visited;
    assert!(visited <= LONG + 300, "{visited} rows were looked at for 201 deliveries behind {LONG} held ones");

    consumer.settle(vec![head], handled(1)).await.unwrap();
    consumer.free_lane("long");
    lanes(&bench, &[(20_000, "long")]).await;
    for n in (1..=LONG).chain([20_000]) {
        let delivery = take(&consumer).await;
        assert_eq!(number(&delivery), n);
        consumer.settle(vec![delivery], handled(1)).await.unwrap();
    }
    assert!(is_idle(&consumer).await);
    let visited = bench.store.measures().rows_visited;
    assert!(visited <= 2 * LONG + 600, "{visited} rows were looked at");
}

#[tokio::test]
async fn holding_takes_back_what_was_read_ahead_and_freeing_gives_it_out_in_order() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    lanes(&bench, &[(1, "x"), (2, "x"), (3, "y"), (4, "x"), (5, "y"), (6, "x")]).await;
    let consumer = bench.consume("a", 16).await;
    let head = take(&consumer).await;
    assert_eq!(number(&head), 1);
    consumer.hold_lane("x");
    assert_eq!(numbers(&take_many(&consumer, 2).await), [3, 5]);
    assert!(is_idle(&consumer).await);
    lanes(&bench, &[(7, "x"), (8, "y")]).await;
    assert_eq!(number(&take(&consumer).await), 8);
    consumer.free_lane("x");
    assert_eq!(number(&take(&consumer).await), 2);
    consumer.hold_lane("x");
    assert!(is_idle(&consumer).await);
    consumer.free_lane("x");
    assert_eq!(numbers(&take_many(&consumer, 3).await), [4, 6, 7]);
    assert!(is_idle(&consumer).await);
    drop(head);
}

#[tokio::test]
async fn holding_and_freeing_at_any_moment_loses_nothing_and_keeps_each_lane_in_order() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let names = ["p", "q", "r"];
    let consumer = bench.consume("a", 8).await;
    let mut last = std::collections::BTreeMap::new();
    let (mut published, mut seen, mut step) = (0u64, 0u64, 0u64);
    while seen < 600 {
        // A walk that is odd enough to meet all orders of publishing, holding, freeing and taking.
        step += 1;
        let turn = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        if published < 600 && !turn.is_multiple_of(3) {
            lanes(&bench, &[(published, names[turn as usize / 7 % 3])]).await;
            published += 1;
        }
        let lane = names[turn as usize / 11 % 3];
        if turn.is_multiple_of(2) && published < 600 {
            consumer.hold_lane(lane);
        } else {
            names.iter().filter(|name| published >= 600 || **name == lane).for_each(|name| consumer.free_lane(name));
        }
        // Given up in the middle now and then.
        let waited = tokio::time::timeout(std::time::Duration::from_micros(turn % 700), consumer.next()).await;
        let Ok(delivery) = waited else { continue };
        let delivery = delivery.unwrap().unwrap();
        let lane = serde_json::from_slice::<serde_json::Value>(&delivery.body).unwrap()["lane"].as_str().unwrap().to_owned();
        let n = number(&delivery);
        if let Some(before) = last.insert(lane.clone(), n) {
            assert!(before < n, "lane {lane}: {n} came after {before}");
        }
        seen += 1;
        consumer.settle(vec![delivery], handled(1)).await.unwrap();
    }
    assert_eq!(bench.count("SELECT count(*) FROM deliveries WHERE state <> 2"), 0);
}

#[tokio::test]
async fn a_wait_that_is_given_up_at_any_moment_loses_nothing() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let consumer = bench.consume("a", 2).await;
    let (mut seen, mut published) = (Vec::new(), 0);
    for n in 0..200u64 {
        let mut next = pin!(consumer.next());
        // Looked at before there is anything, when it may have come, and up to five times after; then given up.
        for look in 0..n % 7 {
            if let Poll::Ready(delivery) = poll!(&mut next) {
                let delivery = delivery.unwrap().unwrap();
                seen.push(number(&delivery));
                consumer.settle(vec![delivery], handled(1)).await.unwrap();
                break;
            }
            if look == 0 {
                bench.publish("k", json!({ "n": n })).await;
                published += 1;
            }
            // Waits for nothing: it moves the next look to another moment of the reading.
            std::thread::sleep(std::time::Duration::from_micros(n * 3));
            tokio::task::yield_now().await;
        }
    }
    assert!(published > 100 && !seen.is_empty());
    while seen.len() < published {
        let delivery = take(&consumer).await;
        seen.push(number(&delivery));
        consumer.settle(vec![delivery], handled(1)).await.unwrap();
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}

#[tokio::test]
async fn a_route_has_one_consumer_at_a_time() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let consumer = bench.consume("a", 1).await;
    let Err(TransportError::Refused(sentence)) = bench.store.consume(&route("a"), 1).await else { panic!("a second consumer was let in") };
    assert!(sentence.contains("`a`") && sentence.contains("close"), "{sentence}");
    consumer.close().await;
    let second = bench.consume("a", 1).await;
    assert!(consumer.next().await.is_none(), "the first one is over");
    drop(second);
    bench.consume("a", 1).await;
}

#[tokio::test]
async fn what_is_unfinished_goes_back_in_order_marked_as_handed_out_and_uncounted() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..5).await;
    let consumer = bench.consume("a", 3).await;
    let mut hand = take_many(&consumer, 3).await;
    let identities: Vec<_> = hand.iter().map(|delivery| delivery.identity.clone()).collect();
    consumer.settle(vec![hand.remove(1)], handled(1)).await.unwrap();
    consumer.close().await;
    let (error, back) = consumer.settle(hand, handled(2)).await.unwrap_err();
    assert!(matches!(error, SettleError::SessionOver));
    assert_eq!(back.len(), 2);

    let bench = bench.restart().await;
    let consumer = bench.consume("a", 9).await;
    let again = take_many(&consumer, 4).await;
    assert_eq!(numbers(&again), [0, 2, 3, 4]);
    assert_eq!(again.iter().map(|delivery| delivery.redelivered).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!([&again[0].identity, &again[1].identity], [&identities[0], &identities[2]]);
    assert!(again.iter().all(|delivery| delivery.attempts == 0));
}

#[tokio::test]
async fn a_settlement_on_its_way_when_the_consumer_leaves_is_not_handed_out_again() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    for round in 0..30u64 {
        bench.publish_all("k", round..round + 1).await;
        let consumer = bench.consume("a", 1).await;
        let delivery = take(&consumer).await;
        assert_eq!(number(&delivery), round, "an event came twice");
        let mut settling = pin!(consumer.settle(vec![delivery], handled(1)));
        let first_look = poll!(&mut settling);
        let leaving = bench.consume("a", 1);
        consumer.close().await;
        let next = leaving.await;
        assert!(matches!(poll!(pin!(next.next())), Poll::Pending));
        next.close().await;
        if first_look.is_pending() {
            settling.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_commit_that_fails_leaves_the_deliveries_in_hand() {
    let bench = Bench::with(|options| options.busy_timeout = std::time::Duration::from_millis(20));
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..2).await;
    let consumer = bench.consume("a", 2).await;
    let hand = take_many(&consumer, 2).await;

    let other = bench.sql();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (error, hand) = consumer.settle(hand, handled(2)).await.unwrap_err();
    let SettleError::NotRecorded(sentence) = error else { panic!("{error}") };
    assert!(sentence.contains("router.db"), "{sentence}");
    assert!(matches!(poll!(pin!(consumer.next())), Poll::Pending), "they are still in hand");
    // Given up by its caller while it fails: nobody has them in hand then.
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), consumer.settle(hand, handled(2))).await;
    assert!(given_up.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);

    // Either the settlement came through after all, or both come again.
    bench.publish_all("k", 2..3).await;
    let next = take(&consumer).await;
    if number(&next) == 0 {
        assert!(next.redelivered);
        assert_eq!(number(&take(&consumer).await), 1);
    } else {
        assert_eq!(bench.count("SELECT count(*) FROM deliveries WHERE state = 2"), 2);
    }
}

#[tokio::test]
async fn a_settlement_that_does_not_fit_its_deliveries_is_refused_with_both_numbers() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..2).await;
    let consumer = bench.consume("a", 2).await;
    let hand = take_many(&consumer, 2).await;
    let (error, hand) = consumer.settle(hand, handled(1)).await.unwrap_err();
    assert!(error.to_string().contains("2 deliveries") && error.to_string().contains("1 fates"), "{error}");
    consumer.settle(hand, handled(2)).await.unwrap();
}

#[tokio::test]
async fn closing_the_store_ends_its_consumers() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..1).await;
    let consumer = bench.consume("a", 2).await;
    let delivery = take(&consumer).await;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.next().await.is_none() }
    });
    bench.store.close().await;
    assert!(within(waiting).await.unwrap());
    assert!(matches!(consumer.settle(vec![delivery], handled(1)).await, Err((SettleError::SessionOver, _))));
    assert!(bench.store.consume(&route("a"), 1).await.is_err());
    assert!(bench.store.queues().await.is_err());
    bench.store.close().await;
}
