//! What can be asked about events that came.

use router_api::{BurstNote, DeadLetterReason, DeliveryState, EventQuery, Fate, FrozenBurst, NotedAttempts, Settlement, Store};
use serde_json::json;
use std::time::Duration;

use crate::bench::*;

fn query() -> EventQuery {
    EventQuery::default()
}

async fn seqs(bench: &Bench, query: EventQuery) -> Vec<u64> {
    bench.store.events(&query).await.unwrap().into_iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn events_are_listed_newest_first_by_pattern_session_and_whether_anybody_wanted_them() {
    let bench = Bench::new();
    bench.bind(&[("a", &["tool.#"])]).await;
    let event = |session: &str, id: &str| json!({ "event_id": id, "event_type": "x", "payload": { "session_id": session } });
    bench.publish("tool.edit", event("s1", "aaaa-1")).await;
    bench.publish("other", event("s1", "aaaa-2")).await;
    bench.publish("tool.read", event("s2", "bbbb-3")).await;
    bench.publish("other.more", event("s2", "cccc-4")).await;
    assert_eq!(seqs(&bench, query()).await, [4, 3, 2, 1]);
    assert_eq!(seqs(&bench, EventQuery { last: Some(2), ..query() }).await, [4, 3]);
    assert_eq!(seqs(&bench, EventQuery { unmatched: true, ..query() }).await, [4, 2]);
    assert_eq!(seqs(&bench, EventQuery { pattern: Some("tool.*".parse().unwrap()), ..query() }).await, [3, 1]);
    assert_eq!(seqs(&bench, EventQuery { pattern: Some("#".parse().unwrap()), last: Some(1), ..query() }).await, [4]);
    assert_eq!(seqs(&bench, EventQuery { session: Some("s1".to_owned()), ..query() }).await, [2, 1]);
    let both = EventQuery { session: Some("s2".to_owned()), unmatched: true, ..query() };
    assert_eq!(seqs(&bench, both).await, [4]);
    let event = bench.store.events(&query()).await.unwrap().remove(0);
    assert_eq!((event.id.as_deref(), event.key.as_str()), (Some("cccc-4"), "other.more"));
    assert!(event.deliveries.is_empty());
}

#[tokio::test]
async fn an_event_is_found_by_its_number_its_id_or_four_characters_of_it() {
    let bench = Bench::new();
    for id in ["aaaa-1", "aaaa-2", "ab", "aaab-1", "1234567"] {
        bench.publish("k", json!({ "event_id": id, "event_type": "x", "payload": {} })).await;
    }
    let found = async |reference: &str| -> Vec<u64> { bench.store.event(reference).await.unwrap().iter().map(|event| event.seq).collect() };
    assert_eq!(found("3").await, [3]);
    assert_eq!(found("aaaa").await, [2, 1]);
    assert_eq!(found("aaaa-1").await, [1]);
    assert_eq!(found("aaa").await, [0u64; 0]);
    assert_eq!(found("ab").await, [3]);
    assert_eq!(found("1234").await, [5]);
    assert_eq!(found("99").await, [0u64; 0]);
    assert_eq!(found("a%_'").await, [0u64; 0]);
}

#[tokio::test]
async fn an_event_tells_where_it_stands_on_each_route() {
    let bench = Bench::new();
    let routes = ["dead", "done", "filtered", "queued", "waiting"];
    bench.bind(&routes.map(|name| (name, &["k"][..]))).await;
    bench.publish("k", json!({ "n": 1 })).await;
    let settle = async |name: &str, settlement: Settlement| {
        let consumer = bench.consume(name, 1).await;
        let delivery = take(&consumer).await;
        consumer.settle(vec![delivery], settlement).await.unwrap();
    };
    let fate = Fate::Handled { burst: Some(BurstNote { id: "b".to_owned(), events: 7 }), note: None };
    settle("done", Settlement::Done { fates: vec![fate.clone()], inbox: Vec::new() }).await;
    settle("filtered", Settlement::Done { fates: vec![Fate::Filtered], inbox: vec![None] }).await;
    settle("waiting", Settlement::RetryIn { delay: Duration::from_secs(9), failure: failure(1) }).await;
    settle("dead", Settlement::Bury(Box::new(letter("dead", DeadLetterReason::Exhausted)))).await;

    let deliveries = bench.store.event("1").await.unwrap().remove(0).deliveries;
    let now = router_api::Clock::now(&bench.clock);
    let states: Vec<_> = deliveries.iter().map(|record| (record.route.as_str(), record.state.clone(), record.attempts, record.at - now)).collect();
    let zero = jiff::Span::new();
    assert_eq!(states.len(), 5);
    let expected = [
        ("dead", DeliveryState::Dead { id: "1".to_owned(), reason: DeadLetterReason::Exhausted }, 1, 0),
        ("done", DeliveryState::Finished(fate), 0, 0),
        ("filtered", DeliveryState::Finished(Fate::Filtered), 0, 0),
        ("queued", DeliveryState::Queued, 0, 0),
        ("waiting", DeliveryState::Waiting { error: Some("failed 1".to_owned()) }, 1, 9),
    ];
    for ((route, state, attempts, since), (name, wanted, count, seconds)) in states.into_iter().zip(expected) {
        assert_eq!((route, state, attempts), (name, wanted, count));
        assert_eq!(since.fieldwise(), zero.seconds(seconds).fieldwise(), "{route}");
    }
    bench.clock.advance(Duration::from_secs(9));
    let deliveries = bench.store.event("1").await.unwrap().remove(0).deliveries;
    assert_eq!(deliveries[4].state, DeliveryState::Queued);
}

#[tokio::test]
async fn what_is_in_hand_is_told_from_what_runs_and_from_what_waits_after_a_failure() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    for n in 1..=4 {
        bench.publish("k", json!({ "n": n })).await;
    }
    let consumer = bench.consume("a", 3).await;
    let deliveries = [take(&consumer).await, take(&consumer).await, take(&consumer).await];
    let slot = bench.store.begin_running(&route("a"), &deliveries[0].identity).unwrap();
    let now = router_api::Clock::now(&bench.clock);
    let due_at = now + Duration::from_secs(5);
    let burst = FrozenBurst { id: "b".to_owned(), lane: "l".to_owned(), members: vec![deliveries[1].identity.clone()] };
    bench.store.freeze(&route("a"), &burst).await.unwrap();
    let noted = NotedAttempts { identity: "burst:b".to_owned(), attempts: 2, history: vec![failure(2)], due_at };
    bench.store.note_attempts(&route("a"), noted).await.unwrap();
    let state = async |seq: u64| bench.store.event(&seq.to_string()).await.unwrap().remove(0).deliveries.remove(0);

    assert_eq!(state(1).await.state, DeliveryState::InHand { running_since: Some(now), attempt: 1 });
    let waiting = state(2).await;
    assert_eq!((waiting.state, waiting.attempts, waiting.at), (DeliveryState::Waiting { error: Some("failed 2".to_owned()) }, 2, due_at));
    assert_eq!(state(3).await.state, DeliveryState::InHand { running_since: None, attempt: 1 });
    assert_eq!(state(4).await.state, DeliveryState::Queued);

    bench.store.end_running(slot);
    let _running = bench.store.begin_running(&route("a"), "burst:b").unwrap();
    assert_eq!(state(1).await.state, DeliveryState::InHand { running_since: None, attempt: 1 });
    assert_eq!(state(2).await.state, DeliveryState::InHand { running_since: Some(now), attempt: 3 });
    consumer.close().await;
    assert_eq!(state(3).await.state, DeliveryState::Queued);
}
