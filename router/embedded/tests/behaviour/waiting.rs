//! Due times: retries, delays, redriven events, and clocks that jump.

use std::{pin::pin, time::Duration};

use futures_util::poll;
use jiff::SignedDuration;
use router_api::{DeadLetterReason, Settlement, TransportAdmin};

use crate::bench::*;

const MINUTE: Duration = Duration::from_secs(60);

fn retry(delay: Duration, number: u32) -> Settlement {
    Settlement::RetryIn { delay, failure: failure(number) }
}

#[tokio::test]
async fn a_retry_comes_back_when_it_is_due_with_its_history_and_blocks_nobody() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    let consumer = bench.consume("a", 1).await;
    let first = take(&consumer).await;
    let identity = first.identity.clone();
    consumer.settle(vec![first], retry(MINUTE / 2, 1)).await.unwrap();
    for n in 1..3 {
        let delivery = take(&consumer).await;
        assert_eq!(number(&delivery), n);
        consumer.settle(vec![delivery], handled(1)).await.unwrap();
    }
    {
        let mut next = pin!(consumer.next());
        assert!(poll!(&mut next).is_pending());
        tokio::select! {
            _ = &mut next => panic!("it came before its time"),
            () = bench.clock.somebody_sleeps() => {}
        }
        bench.clock.advance(MINUTE / 2 - Duration::from_micros(1));
        assert!(poll!(&mut next).is_pending());
        bench.clock.advance(Duration::from_micros(1));
        let again = within(next).await.unwrap().unwrap();
        assert_eq!((number(&again), again.attempts, again.redelivered, again.direct), (0, 1, true, false));
        assert_eq!(again.history, [failure(1)]);
        assert_eq!(again.identity, identity);
        consumer.settle(vec![again], retry(Duration::ZERO, 2)).await.unwrap();
    }
    let again = take(&consumer).await;
    assert_eq!((again.attempts, again.history.len()), (2, 2));
}

#[tokio::test]
async fn those_that_fell_due_come_in_the_order_of_their_due_times_before_what_was_never_tried() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    for (n, seconds) in [(0, 30), (1, 10), (2, 20)] {
        bench.send("a", n, Duration::from_secs(seconds)).await;
    }
    bench.publish_all("k", 3..5).await;
    bench.clock.advance(MINUTE);
    let consumer = bench.consume("a", 9).await;
    let all = take_many(&consumer, 5).await;
    assert_eq!(numbers(&all), [1, 2, 0, 3, 4]);
    assert_eq!(all.iter().map(|delivery| delivery.direct).collect::<Vec<_>>(), [true, true, true, false, false]);
}

#[tokio::test]
async fn one_that_becomes_due_behind_the_reading_is_found() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..4).await;
    let consumer = bench.consume("a", 9).await;
    let mut hand = take_many(&consumer, 4).await;
    // The later one first, so that the earlier one is committed behind the place that was read up to.
    consumer.settle(vec![hand.remove(0)], retry(2 * MINUTE, 1)).await.unwrap();
    consumer.settle(vec![hand.remove(0)], retry(MINUTE, 1)).await.unwrap();
    consumer.settle(vec![hand.remove(0)], retry(Duration::ZERO, 1)).await.unwrap();
    let now = take(&consumer).await;
    assert_eq!(number(&now), 2);
    bench.clock.advance(MINUTE);
    let next = take(&consumer).await;
    assert_eq!(number(&next), 1);
    consumer.settle(vec![next], retry(Duration::ZERO, 2)).await.unwrap();
    assert_eq!(number(&take(&consumer).await), 1);
    bench.clock.advance(MINUTE);
    assert_eq!(number(&take(&consumer).await), 0);
}

#[tokio::test]
async fn waiting_rows_of_a_held_lane_come_when_it_is_free() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    for n in 0..3 {
        bench.publish("k", serde_json::json!({ "n": n, "lane": "x" })).await;
    }
    let consumer = bench.consume("a", 9).await;
    let mut hand = take_many(&consumer, 3).await;
    consumer.hold_lane("x");
    consumer.settle(vec![hand.remove(1)], retry(Duration::ZERO, 1)).await.unwrap();
    consumer.settle(vec![hand.remove(1)], retry(Duration::ZERO, 1)).await.unwrap();
    bench.publish("k", serde_json::json!({ "n": 9, "lane": "y" })).await;
    assert_eq!(number(&take(&consumer).await), 9);
    consumer.free_lane("x");
    assert_eq!(numbers(&take_many(&consumer, 2).await), [1, 2]);
}

#[tokio::test]
async fn due_times_survive_a_restart() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.send("a", 0, MINUTE).await;
    let bench = bench.restart().await;
    let consumer = bench.consume("a", 1).await;
    bench.clock.advance(MINUTE / 2);
    assert!(poll!(pin!(consumer.next())).is_pending());
    assert_eq!(bench.store.queues().await.unwrap()[0].waiting, 1);
    bench.clock.advance(MINUTE / 2);
    assert_eq!(number(&take(&consumer).await), 0);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_delays_nothing_while_the_process_lives() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.send("a", 0, MINUTE).await;
    bench.clock.jump_wall(SignedDuration::from_hours(-1));
    let consumer = bench.consume("a", 1).await;
    bench.clock.advance(MINUTE - Duration::from_micros(1));
    assert_eq!(bench.store.queues().await.unwrap()[0].waiting, 1);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(number(&take(&consumer).await), 0);
}

#[tokio::test]
async fn a_wall_clock_that_was_set_back_before_a_restart_lets_wait_the_whole_delay_again_and_no_longer() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.send("a", 0, MINUTE).await;
    bench.clock.jump_wall(SignedDuration::from_hours(-1));
    let bench = bench.restart().await;
    let consumer = bench.consume("a", 1).await;
    assert_eq!(bench.store.queues().await.unwrap()[0].waiting, 1);
    bench.clock.advance(MINUTE);
    assert_eq!(number(&take(&consumer).await), 0);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_forward_makes_due_by_as_much() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.send("a", 0, 2 * MINUTE).await;
    let consumer = bench.consume("a", 1).await;
    bench.clock.jump_wall(SignedDuration::from_mins(1));
    assert_eq!(bench.store.queues().await.unwrap()[0].waiting, 1);
    bench.clock.advance(MINUTE);
    assert_eq!(number(&take(&consumer).await), 0);
}

#[tokio::test]
async fn a_redriven_letter_starts_anew_and_keeps_its_history() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..2).await;
    let consumer = bench.consume("a", 9).await;
    let mut hand = take_many(&consumer, 2).await;
    let identity = hand[0].identity.clone();
    consumer.settle(vec![hand.remove(0)], Settlement::Bury(Box::new(letter("a", DeadLetterReason::Exhausted)))).await.unwrap();
    let letters = bench.store.dead_letters(&router_api::DeadLetterQuery::default()).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].letter, letter("a", DeadLetterReason::Exhausted));
    let ids = [letters[0].id.clone(), "999".to_owned(), "none".to_owned()];
    assert_eq!(bench.store.redrive(&ids).await.unwrap(), 1);
    assert_eq!(bench.store.redrive(&ids).await.unwrap(), 0);
    let again = take(&consumer).await;
    assert_eq!((again.identity, again.attempts, again.direct, again.redelivered, again.history), (identity, 0, true, true, vec![failure(1)]));
    assert!(bench.store.dead_letters(&router_api::DeadLetterQuery::default()).await.unwrap().is_empty());
}
