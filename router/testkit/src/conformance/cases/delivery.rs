//! What a delivery is, and when the next one comes.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use router_api::{Publication, TransportError};
use serde_json::json;

use crate::conformance::bench::{Bench, CaseResult, Wants, check, key, number, numbers, route, same, subscription};

pub(super) async fn a_delivery_says_what_it_carries(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let before = bench.now();
    // Spaces, order and duplicates of the body are nobody's to change.
    let body = Bytes::from_static(b" {\"z\":1, \"a\" : [ ], \"a\": 1e400}\n");
    let mut publication = Publication::new(key("Some.Key-1"), body.clone());
    publication.hops = 3;
    publication.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    bench.transport().publish(publication.clone()).await?;
    let delivery = bench.take(&bench.consume("one", 1).await?).await?;
    same!((delivery.key.as_str(), &delivery.body), ("Some.Key-1", &body), "key and body");
    same!((delivery.attempts, delivery.history.len(), delivery.hops), (0, 0, 3), "attempts, history and hops");
    same!((delivery.direct, delivery.redelivered), (false, false), "direct and redelivered");
    same!(delivery.traceparent, publication.traceparent, "trace context");
    check!(!delivery.identity.is_empty(), "a delivery has an identity");
    // Whole seconds are what AMQP can carry.
    let (stored_at, after) = (delivery.stored_at.as_second(), bench.now().as_second());
    check!((before.as_second()..=after).contains(&stored_at), "stored at {}, published after {before}", delivery.stored_at);
    Ok(())
}

pub(super) async fn deliveries_come_in_the_order_of_publication(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let consumer = bench.consume("one", 64).await?;
    bench.publish_all("a", 0..100).await?;
    let mut found = Vec::new();
    for _ in 0..10 {
        let deliveries = bench.take_many(&consumer, 10).await?;
        found.extend(numbers(&deliveries));
        bench.done(&consumer, deliveries).await?;
    }
    same!(found, (0..100).collect::<Vec<u64>>(), "order");
    Ok(())
}

pub(super) async fn the_prefetch_bounds_what_is_in_hand(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..5).await?;
    let consumer = bench.consume("one", 3).await?;
    let mut in_hand = bench.take_many(&consumer, 3).await?;
    bench.nothing(&consumer).await?;
    // The middle one: a window is no stack and no queue.
    let middle = in_hand.remove(1);
    bench.done(&consumer, vec![middle]).await?;
    in_hand.push(bench.take(&consumer).await?);
    same!(numbers(&in_hand), [0, 2, 3], "in hand");
    bench.nothing(&consumer).await
}

pub(super) async fn a_wait_that_is_given_up_loses_nothing(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let consumer = bench.consume("one", 100).await?;
    // One wait that is given up for certain; those below race with the publisher.
    bench.nothing(&consumer).await?;
    let transport = bench.transport();
    let publisher = tokio::spawn(async move {
        for n in 0..50 {
            transport.publish(Publication::new(key("a"), json!({ "n": n }).to_string())).await?;
            tokio::task::yield_now().await;
        }
        Ok::<(), TransportError>(())
    });
    let mut found = Vec::new();
    let mut given_up = 0_u64;
    while found.len() < 50 {
        tokio::select! {
            biased;
            next = consumer.next() => match next {
                Some(Ok(delivery)) => found.push(number(&delivery).unwrap_or(u64::MAX)),
                other => check!(false, "instead of a delivery there came {other:?}"),
            },
            () = polls(given_up % 9) => given_up += 1,
        }
        tokio::task::yield_now().await;
    }
    check!(publisher.await.is_ok_and(|result| result.is_ok()), "an event was not published");
    same!(found, (0..50).collect::<Vec<u64>>(), "events");
    Ok(())
}

/// Lets a wait be polled `times` times before it is given up; eight times is long enough for one that asks a thread or a broker.
async fn polls(times: u64) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
    if times == 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn a_queue_without_a_route_cannot_be_consumed(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    match bench.transport().consume(&route("nobody"), 1).await {
        Err(error) => check!(error.to_string().contains("nobody"), "the sentence does not name the route: {error}"),
        Ok(_) => check!(false, "a route that was never bound was consumed"),
    }
    Ok(())
}

pub(super) async fn competing_consumers_share_a_queue(bench: &mut Bench) -> CaseResult {
    let mut shared = subscription("one", &["#"], Wants::all());
    shared.queue.parallel = true;
    bench.transport().bind(&[shared]).await?;
    let (first, second) = (bench.consume("one", 5).await?, bench.consume("one", 5).await?);
    bench.publish_all("a", 0..10).await?;
    let mut found = numbers(&bench.take_many(&first, 5).await?);
    let others = bench.take_many(&second, 5).await?;
    found.extend(numbers(&others));
    same!(found.iter().copied().collect::<BTreeSet<u64>>(), (0..10).collect::<BTreeSet<u64>>(), "events of both");
    // What one gives back, the other gets.
    bench.done(&second, others).await?;
    first.close().await;
    same!(bench.take_many(&second, 5).await?.len(), 5, "events that came back");
    Ok(())
}

pub(super) async fn a_held_lane_is_handed_out_only_when_it_is_free(bench: &mut Bench) -> CaseResult {
    bench.transport().bind(&[subscription("one", &["#"], Wants::all().lane("lane"))]).await?;
    let publish = async |n: u64, lane: &str| bench.transport().publish(Publication::new(key("a"), json!({ "n": n, "lane": lane }).to_string())).await;
    let consumer = bench.consume("one", 10).await?;
    publish(0, "red").await?;
    let head = bench.take(&consumer).await?;
    consumer.hold_lane("red");
    for (n, lane) in [(1, "red"), (2, "blue"), (3, "red"), (4, "blue")] {
        publish(n, lane).await?;
    }
    let blue = bench.take_many(&consumer, 2).await?;
    same!(numbers(&blue), [2, 4], "events of the free lane");
    bench.nothing(&consumer).await?;
    consumer.free_lane("red");
    same!(numbers(&bench.take_many(&consumer, 2).await?), [1, 3], "events of the lane that is free again");
    // A consumer that leaves takes its holds along.
    consumer.hold_lane("red");
    drop(head);
    consumer.close().await;
    same!(numbers(&bench.drain("one").await?), [0, 1, 2, 3, 4], "all events after the holder has left");
    Ok(())
}

pub(super) async fn a_body_of_a_mebibyte_comes_back_byte_for_byte(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    const MEBIBYTE: usize = 1024 * 1024;
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(MEBIBYTE)
    .collect();
    let text = json!({ "n": 1, "text": "ü\u{0}\"".repeat(MEBIBYTE / 8) }).to_string();
    let bodies = [Bytes::from(noise), Bytes::from(text)];
    for body in &bodies {
        bench.transport().publish(Publication::new(key("a"), body.clone())).await?;
    }
    let found = bench.drain("one").await?;
    same!(found.len(), 2, "deliveries");
    for (delivery, body) in found.iter().zip(&bodies) {
        // Not `same!`, which would print a mebibyte.
        check!(delivery.body == *body, "a body of {} bytes came back with {} bytes, or other ones", body.len(), delivery.body.len());
    }
    Ok(())
}
