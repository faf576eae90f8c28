//! What operators see and do.

use std::time::Duration;

use router_api::{DeadLetterQuery, DeadLetterReason, TransportError};

use crate::conformance::{
    Failure,
    bench::{Bench, CaseResult, check, numbers, route, same},
};

/// Buries the events 0 to 5: even ones on `one` as rejected, odd ones on `two` as exhausted.
async fn bury_six(bench: &Bench) -> CaseResult {
    bench.bind(&[("one", &["even"]), ("two", &["odd"])]).await?;
    let (one, two) = (bench.consume("one", 1).await?, bench.consume("two", 1).await?);
    for n in 0..6 {
        let (name, consumer, reason) = if n % 2 == 0 { ("one", &one, DeadLetterReason::Rejected) } else { ("two", &two, DeadLetterReason::Exhausted) };
        bench.publish(if n % 2 == 0 { "even" } else { "odd" }, n).await?;
        let delivery = bench.take(consumer).await?;
        bench.bury(consumer, name, reason, delivery).await?;
        // So that no two have one time.
        bench.subject().pass(Duration::from_millis(2)).await;
    }
    one.close().await;
    two.close().await;
    Ok(())
}

async fn listed(bench: &Bench, query: DeadLetterQuery) -> Result<Vec<(String, u64)>, Failure> {
    let letters = bench.transport().admin().dead_letters(&query).await?;
    let number = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|body| body["n"].as_u64()).unwrap_or(u64::MAX);
    Ok(letters.iter().map(|stored| (stored.id.clone(), number(&stored.body))).collect())
}

fn events(listed: &[(String, u64)]) -> Vec<u64> {
    listed.iter().map(|(_, n)| *n).collect()
}

pub(super) async fn dead_letters_are_listed_newest_first_and_by_route_and_reason(bench: &mut Bench) -> CaseResult {
    bury_six(bench).await?;
    let query = DeadLetterQuery::default;
    same!(events(&listed(bench, query()).await?), [5, 4, 3, 2, 1, 0], "all");
    same!(events(&listed(bench, DeadLetterQuery { route: Some(route("one")), ..query() }).await?), [4, 2, 0], "of a route");
    same!(events(&listed(bench, DeadLetterQuery { reason: Some("exhausted".to_owned()), ..query() }).await?), [5, 3, 1], "of a reason");
    same!(events(&listed(bench, DeadLetterQuery { limit: Some(2), ..query() }).await?), [5, 4], "the newest two");
    let both = DeadLetterQuery { route: Some(route("one")), reason: Some("exhausted".to_owned()), ..query() };
    same!(events(&listed(bench, both).await?), [0_u64; 0], "of a route and a reason that do not go together");
    Ok(())
}

pub(super) async fn a_redriven_event_comes_back_to_its_route_alone_with_its_history(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["a"]), ("two", &["a"])]).await?;
    bench.publish_all("a", 0..2).await?;
    let consumer = bench.consume("one", 2).await?;
    let mut letters = Vec::new();
    for delivery in bench.take_many(&consumer, 2).await? {
        letters.push(bench.bury(&consumer, "one", DeadLetterReason::Exhausted, delivery).await?);
    }
    consumer.close().await;
    bench.drain("two").await?;
    let all = listed(bench, DeadLetterQuery::default()).await?;
    let Some((id, _)) = all.iter().find(|(_, n)| *n == 1) else { return Err(Failure(format!("event 1 is not listed: {all:?}"))) };
    let transport = bench.transport();
    same!(transport.admin().redrive(&[id.clone(), "no-such-id".to_owned()]).await?, 1, "dead letters redriven");
    same!(events(&listed(bench, DeadLetterQuery::default()).await?), [0], "dead letters that are left");
    let back = bench.drain("one").await?;
    same!(numbers(&back), [1], "events of the route");
    same!((back[0].attempts, &back[0].history), (0, &letters[1].history), "attempts and history");
    check!(back[0].direct, "a redriven event is addressed to its route");
    same!(back[0].key.as_str(), "a", "key");
    same!(numbers(&bench.drain("two").await?), [0_u64; 0], "events of the other route");
    same!(transport.admin().redrive(std::slice::from_ref(id)).await?, 0, "dead letters redriven a second time");
    Ok(())
}

pub(super) async fn a_discarded_dead_letter_is_gone(bench: &mut Bench) -> CaseResult {
    bury_six(bench).await?;
    let all = listed(bench, DeadLetterQuery::default()).await?;
    let ids: Vec<String> = all.iter().take(2).map(|(id, _)| id.clone()).chain(["no-such-id".to_owned()]).collect();
    let transport = bench.transport();
    same!(transport.admin().discard(&ids).await?, 2, "dead letters discarded");
    same!(events(&listed(bench, DeadLetterQuery::default()).await?), [3, 2, 1, 0], "dead letters that are left");
    check!(transport.admin().dead_letter(&ids[0]).await?.is_none(), "a discarded dead letter can be shown");
    same!(transport.admin().redrive(&ids).await?, 0, "discarded dead letters redriven");
    Ok(())
}

pub(super) async fn queues_say_what_waits_what_is_in_hand_and_what_is_dead(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("zebra", &["a"]), ("ape", &["nothing"])]).await?;
    bench.publish_all("a", 0..6).await?;
    let consumer = bench.consume("zebra", 3).await?;
    let mut deliveries = bench.take_many(&consumer, 3).await?.into_iter();
    if let Some(delivery) = deliveries.next() {
        bench.retry(&consumer, delivery, Duration::from_secs(3_600)).await?;
    }
    if let Some(delivery) = deliveries.next() {
        bench.bury(&consumer, "zebra", DeadLetterReason::Rejected, delivery).await?;
    }
    // The third stays in hand; nobody asks for more, so nothing else is.
    let transport = bench.transport();
    bench.bind(&[("ape", &["nothing"])]).await?;
    let stats = transport.admin().queues().await?;
    same!(stats.iter().map(|stats| stats.route.as_str()).collect::<Vec<_>>(), ["ape", "zebra"], "routes, sorted, the unbound one included");
    same!((stats[0].ready, stats[0].waiting, stats[0].in_flight, stats[0].dead, stats[0].oldest), (0, 0, 0, 0, None), "the empty queue");
    let zebra = &stats[1];
    if !bench.subject().counts_exactly() {
        same!(zebra.dead, 1, "dead");
        check!((1..=4).contains(&zebra.ready), "one is retried, one is buried, and at most three are in hand: {zebra:?}");
        return Ok(());
    }
    // A broker pushes ahead of `next`, so what is ready may be in flight already.
    same!((zebra.ready + zebra.in_flight, zebra.waiting, zebra.dead), (4, 1, 1), "ready and in flight, waiting, dead");
    check!(zebra.in_flight >= 1, "one delivery is in hand: {zebra:?}");
    check!(zebra.oldest.is_some_and(|oldest| oldest <= bench.now()), "the oldest event has a time: {zebra:?}");
    Ok(())
}

pub(super) async fn only_the_queue_of_a_route_that_is_not_bound_can_be_removed(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("stays", &["a"]), ("goes", &["a"])]).await?;
    bench.publish_all("a", 0..3).await?;
    let transport = bench.transport();
    match transport.admin().remove_queue(&route("goes")).await {
        Err(TransportError::Refused(sentence)) => check!(sentence.contains("goes"), "the sentence does not name the route: {sentence}"),
        other => check!(false, "a bound queue was to stay, but there came {other:?}"),
    }
    bench.bind(&[("stays", &["a"])]).await?;
    same!(transport.admin().remove_queue(&route("goes")).await?, 3, "events that went with the queue");
    let left: Vec<String> = transport.admin().queues().await?.iter().map(|stats| stats.route.to_string()).collect();
    same!(left, ["stays"], "queues that are left");
    check!(transport.consume(&route("goes"), 1).await.is_err(), "a removed queue was consumed");
    bench.bind(&[("stays", &["a"]), ("goes", &["a"])]).await?;
    bench.publish_all("a", 3..4).await?;
    same!(numbers(&bench.drain("goes").await?), [3], "events of the queue that is new");
    same!(numbers(&bench.drain("stays").await?), [0, 1, 2, 3], "events of the other queue");
    Ok(())
}
