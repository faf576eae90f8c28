//! How consumers and transports end.

use std::sync::Arc;

use router_api::{Publication, SettleError};

use crate::conformance::bench::{Bench, CaseResult, PATIENCE, check, handled, key, numbers, route, same};

pub(super) async fn leaving_gives_back_what_is_unfinished_in_order_and_uncounted(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..6).await?;
    // Thirty stops with a full window cost no attempt.
    for _ in 0..30 {
        let consumer = bench.consume("one", 4).await?;
        let deliveries = bench.take_many(&consumer, 4).await?;
        same!(numbers(&deliveries), [0, 1, 2, 3], "order after a stop");
        check!(deliveries.iter().all(|delivery| delivery.attempts == 0), "a stop is no failed attempt");
        consumer.close().await;
    }
    let deliveries = bench.drain("one").await?;
    same!(numbers(&deliveries), [0, 1, 2, 3, 4, 5], "order");
    for delivery in &deliveries {
        same!((delivery.attempts, delivery.history.len()), (0, 0), "attempts and history");
    }
    check!(deliveries[..4].iter().all(|delivery| delivery.redelivered), "what was in hand is not marked as handed out before");
    Ok(())
}

pub(super) async fn a_closed_consumer_is_over(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..2).await?;
    let consumer = bench.consume("one", 2).await?;
    let delivery = bench.take(&consumer).await?;
    consumer.close().await;
    bench.is_over(&consumer).await?;
    match consumer.settle(vec![delivery], handled(1)).await {
        Err((SettleError::SessionOver, deliveries)) => same!(deliveries.len(), 1, "deliveries that came back with the error"),
        other => check!(false, "the session was to be over, but there came {other:?}"),
    }
    // Again: a second close is nothing special.
    consumer.close().await;
    same!(numbers(&bench.drain("one").await?), [0, 1], "what was unfinished");
    Ok(())
}

pub(super) async fn closing_ends_a_wait(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let consumer = bench.consume("one", 1).await?;
    let waiting = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.next().await.is_none() }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    consumer.close().await;
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(Ok(ended)) => check!(ended, "a closed consumer handed something out"),
        _ => check!(false, "the wait goes on after the consumer was closed"),
    }
    Ok(())
}

pub(super) async fn a_closed_transport_ends_its_consumers_and_takes_nothing(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..1).await?;
    let consumer = bench.consume("one", 1).await?;
    let delivery = bench.take(&consumer).await?;
    let transport = bench.transport();
    transport.close().await;
    bench.is_over(&consumer).await?;
    check!(consumer.settle(vec![delivery], handled(1)).await.is_err(), "a delivery was settled on a closed transport");
    check!(transport.publish(Publication::new(key("a"), "{}")).await.is_err(), "a closed transport took an event");
    check!(transport.consume(&route("one"), 1).await.is_err(), "a closed transport gave a consumer");
    check!(transport.bind(&[]).await.is_err(), "a closed transport was bound");
    // Again: a second close is nothing special.
    transport.close().await;
    Ok(())
}
