//! Many at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use router_api::{Consumer, Publication, Transport};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

use crate::conformance::{
    Failure,
    bench::{Bench, CaseResult, PATIENCE, Wants, check, handled, key, number, route, same, subscription},
};

const PUBLISHERS: u64 = 4;
const EVENTS: u64 = 50;

/// Publishes the events of publisher `p`: the numbers `p * 1000 ..`.
async fn publish_from(transport: Arc<dyn Transport>, p: u64) -> CaseResult {
    for n in 0..EVENTS {
        publish_one(&transport, p, n).await?;
    }
    Ok(())
}

async fn publish_one(transport: &Arc<dyn Transport>, p: u64, n: u64) -> CaseResult {
    let body = json!({ "n": p * 1_000 + n }).to_string();
    transport.publish(Publication::new(key(&format!("load.{p}")), body)).await?;
    // A transport that is always ready would publish everything before anybody else has run.
    tokio::task::yield_now().await;
    Ok(())
}

/// Takes and finishes deliveries, a few at a time, until the consumer ends or `enough` have been taken.
async fn finish(consumer: &Arc<dyn Consumer>, enough: usize) -> Result<Vec<u64>, Failure> {
    let mut finished = Vec::new();
    let mut in_hand = Vec::new();
    while finished.len() + in_hand.len() < enough {
        match tokio::time::timeout(PATIENCE, consumer.next()).await {
            Ok(Some(Ok(delivery))) => in_hand.push(delivery),
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(None) => return Ok(finished),
            Err(_) => return Err(Failure(format!("nothing more came after {} of {enough}", finished.len() + in_hand.len()))),
        }
        if in_hand.len() >= 3 || finished.len() + in_hand.len() == enough {
            let numbers: Vec<u64> = in_hand.iter().filter_map(number).collect();
            match consumer.settle(std::mem::take(&mut in_hand), handled(numbers.len())).await {
                Ok(()) => finished.extend(numbers),
                // The consumer was closed in between: not finished, so it comes back.
                Err((router_api::SettleError::SessionOver, _)) => return Ok(finished),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(finished)
}

async fn all<T: 'static>(mut tasks: JoinSet<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result.map_err(|error| Failure(format!("a task of the case failed: {error}")))??);
    }
    Ok(results)
}

fn expected() -> Vec<u64> {
    (0..PUBLISHERS).flat_map(|p| (0..EVENTS).map(move |n| p * 1_000 + n)).collect()
}

pub(super) async fn concurrent_publishers_and_consumers_lose_and_repeat_nothing(bench: &mut Bench) -> CaseResult {
    let names = ["all", "also-all", "first", "second"];
    let patterns: [&[&str]; 4] = [&["#"], &["load.*"], &["load.0"], &["load.1", "load.1.#"]];
    let subscriptions: Vec<_> = names.iter().zip(patterns).map(|(name, patterns)| subscription(name, patterns, Wants::all())).collect();
    bench.transport().bind(&subscriptions).await?;
    let mut publishers = JoinSet::new();
    for p in 0..PUBLISHERS {
        publishers.spawn(publish_from(bench.transport(), p));
    }
    let mut consumers = JoinSet::new();
    for (name, of) in names.into_iter().zip([0..PUBLISHERS, 0..PUBLISHERS, 0..1, 1..2]) {
        let consumer = bench.consume(name, 8).await?;
        consumers.spawn(async move {
            let count = (of.end - of.start) * EVENTS;
            let found = finish(&consumer, usize::try_from(count).unwrap_or(usize::MAX)).await?;
            consumer.close().await;
            Ok((name, of, found))
        });
    }
    all(publishers).await?;
    for (name, of, found) in all(consumers).await? {
        // The events of one publisher keep their order; those of several mix.
        for p in of {
            let mine: Vec<u64> = found.iter().copied().filter(|n| n / 1_000 == p).collect();
            same!(mine, (0..EVENTS).map(|n| p * 1_000 + n).collect::<Vec<_>>(), format!("events of publisher {p} on route `{name}`"));
        }
        same!(bench.drain(name).await?.len(), 0, format!("what is left on route `{name}`"));
    }
    Ok(())
}

pub(super) async fn closing_under_load_loses_and_repeats_nothing(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let mut publishers = JoinSet::new();
    for p in 0..PUBLISHERS {
        publishers.spawn(publish_from(bench.transport(), p));
    }
    let total = expected().len();
    let mut finished: BTreeMap<u64, u32> = BTreeMap::new();
    let mut rounds = 0_usize;
    while finished.len() < total {
        rounds += 1;
        check!(rounds < 2_000, "only {} of {total} events were finished", finished.len());
        let consumer = bench.consume("one", 8).await?;
        let worker = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            // Never enough at once, so that the close comes in the middle.
            let enough = (1 + rounds % 17).min(total - finished.len());
            async move { finish(&consumer, enough).await }
        });
        for _ in 0..rounds % 23 {
            tokio::task::yield_now().await;
        }
        if rounds.is_multiple_of(2) {
            consumer.close().await;
        }
        let numbers = worker.await.map_err(|error| Failure(format!("a task of the case failed: {error}")))??;
        consumer.close().await;
        for n in numbers {
            *finished.entry(n).or_default() += 1;
        }
    }
    all(publishers).await?;
    let repeated: Vec<_> = finished.iter().filter(|(_, times)| **times > 1).collect();
    check!(repeated.is_empty(), "finished more than once: {repeated:?}");
    same!(finished.keys().copied().collect::<Vec<_>>(), expected(), "finished events");
    same!(bench.drain("one").await?.len(), 0, "what is left");
    Ok(())
}

pub(super) async fn rebinding_under_load_loses_nothing(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("stays", &["#"])]).await?;
    // So that neither side is done before the other one has begun, whoever gets the processor: every tenth event waits for one more binding.
    let bound = watch::Sender::new(0_u64);
    let mut publishers = JoinSet::new();
    for p in 0..PUBLISHERS {
        let (transport, mut bound) = (bench.transport(), bound.subscribe());
        publishers.spawn(async move {
            for n in 0..EVENTS {
                let waited = tokio::time::timeout(PATIENCE, bound.wait_for(|rounds| *rounds >= n / 10)).await;
                check!(waited.is_ok_and(|changed| changed.is_ok()), "the routes were bound only {} times", n / 10);
                publish_one(&transport, p, n).await?;
            }
            Ok(())
        });
    }
    let (transport, over) = (bench.transport(), Arc::new(AtomicBool::new(false)));
    let rebinding = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let mut rounds = 0_u64;
            while !over.load(Ordering::SeqCst) {
                rounds += 1;
                let mut subscriptions = vec![subscription("stays", &["#"], Wants::all())];
                if rounds.is_multiple_of(2) {
                    subscriptions.push(subscription("comes-and-goes", &["load.0"], Wants::all()));
                }
                transport.bind(&subscriptions).await?;
                bound.send_replace(rounds);
                tokio::task::yield_now().await;
            }
            Ok::<(), Failure>(())
        }
    });
    all(publishers).await?;
    over.store(true, Ordering::SeqCst);
    rebinding.await.map_err(|error| Failure(format!("a task of the case failed: {error}")))??;
    let mut found: Vec<u64> = bench.drain("stays").await?.iter().filter_map(number).collect();
    found.sort_unstable();
    same!(found, expected(), "events of the route that was bound all the time");
    bench.transport().consume(&route("stays"), 1).await?.close().await;
    Ok(())
}
