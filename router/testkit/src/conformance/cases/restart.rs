//! What a new process finds.

use router_api::{DeadLetterQuery, DeadLetterReason};

use crate::conformance::{
    Stop,
    bench::{Bench, CaseResult, check, number, numbers, route, same},
};

pub(super) async fn what_waits_survives_a_restart(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"]), ("idle", &["#"])]).await?;
    bench.publish_all("a", 0..5).await?;
    let consumer = bench.consume("one", 3).await?;
    let mut deliveries = bench.take_many(&consumer, 3).await?;
    let first = deliveries.remove(0);
    let identity = deliveries[0].identity.clone();
    bench.done(&consumer, vec![first]).await?;
    consumer.close().await;
    bench.restart(Stop::Clean).await;
    bench.bind(&[("one", &["#"]), ("idle", &["#"])]).await?;
    bench.publish_all("a", 5..6).await?;
    let deliveries = bench.drain("one").await?;
    same!(numbers(&deliveries), [1, 2, 3, 4, 5], "events of the consumed route, in order");
    same!(deliveries[0].identity, identity, "identity of an event before and after the restart");
    check!(deliveries.iter().all(|delivery| delivery.attempts == 0), "a restart is no failed attempt");
    same!(numbers(&bench.drain("idle").await?), [0, 1, 2, 3, 4, 5], "events of the other route");
    Ok(())
}

pub(super) async fn what_is_in_hand_survives_a_kill_uncounted(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..5).await?;
    let consumer = bench.consume("one", 3).await?;
    let deliveries = bench.take_many(&consumer, 3).await?;
    drop((deliveries, consumer));
    bench.restart(Stop::Kill).await;
    bench.bind(&[("one", &["#"])]).await?;
    let deliveries = bench.drain("one").await?;
    same!(numbers(&deliveries), [0, 1, 2, 3, 4], "events, in order");
    check!(deliveries.iter().all(|delivery| delivery.attempts == 0), "the transport counts no attempt for a kill");
    Ok(())
}

pub(super) async fn attempts_and_due_times_survive_a_restart(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..2).await?;
    let (clock, delay) = (bench.subject().clock(), bench.subject().delay());
    let consumer = bench.consume("one", 2).await?;
    let first = bench.take(&consumer).await?;
    let before = clock.monotonic();
    let failure = bench.retry(&consumer, first, delay).await?;
    consumer.close().await;
    bench.restart(Stop::Clean).await;
    bench.bind(&[("one", &["#"])]).await?;
    let consumer = bench.consume("one", 2).await?;
    same!(number(&bench.take(&consumer).await?), Some(1), "the event that does not wait");
    bench.subject().pass(delay).await;
    let late = bench.take(&consumer).await?;
    same!((number(&late), late.attempts, &late.history), (Some(0), 1, &vec![failure]), "the event that waited");
    let passed = bench.subject().clock().monotonic() - before;
    check!(passed >= delay, "the delay is {delay:?}, and it came after {passed:?}");
    Ok(())
}

pub(super) async fn dead_letters_survive_a_restart(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..1).await?;
    let consumer = bench.consume("one", 2).await?;
    let delivery = bench.take(&consumer).await?;
    let letter = bench.bury(&consumer, "one", DeadLetterReason::TooOld, delivery).await?;
    let before = bench.transport().admin().dead_letters(&DeadLetterQuery::default()).await?;
    consumer.close().await;
    bench.restart(Stop::Clean).await;
    let after = bench.transport().admin().dead_letters(&DeadLetterQuery::default()).await?;
    same!(after.len(), 1, "dead letters after the restart");
    same!((&after[0].id, &after[0].letter, &after[0].body[..]), (&before[0].id, &letter, &b"{\"n\":0}"[..]), "the dead letter");
    Ok(())
}

pub(super) async fn what_is_settled_stays_settled_after_a_kill(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..6).await?;
    let consumer = bench.consume("one", 6).await?;
    let mut deliveries = bench.take_many(&consumer, 6).await?;
    let last = deliveries.split_off(3);
    bench.done(&consumer, deliveries).await?;
    let mut last = last.into_iter();
    if let Some(delivery) = last.next() {
        bench.bury(&consumer, "one", DeadLetterReason::Exhausted, delivery).await?;
    }
    bench.subject().acknowledged(&route("one"), 2).await;
    drop((last, consumer));
    bench.restart(Stop::Kill).await;
    bench.bind(&[("one", &["#"])]).await?;
    same!(numbers(&bench.drain("one").await?), [4, 5], "what was not settled");
    same!(bench.transport().admin().dead_letters(&DeadLetterQuery::default()).await?.len(), 1, "dead letters");
    Ok(())
}
