//! What becomes of deliveries in hand.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use router_api::{
    AttemptRecord, BurstNote, Consumer, DeadLetterQuery, DeadLetterReason, Delivery, DeliveryState, Fate, InboxKey, Publication, SettleError, Settlement,
};

use crate::conformance::{
    Failure,
    bench::{Bench, CaseResult, check, handled, key, number, numbers, route, same},
};

pub(super) async fn an_event_that_failed_comes_back_with_its_history(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("some.key", 1..2).await?;
    let consumer = bench.consume("one", 5).await?;
    let mut history = Vec::new();
    let first = bench.take(&consumer).await?;
    let (identity, stored_at, body) = (first.identity.clone(), first.stored_at, first.body.clone());
    let mut delivery = first;
    for attempts in 1..=3 {
        history.push(bench.retry(&consumer, delivery, bench.subject().delay()).await?);
        bench.subject().pass(bench.subject().delay()).await;
        delivery = bench.take(&consumer).await?;
        same!(delivery.attempts, attempts, "failed attempts");
        same!(delivery.history, history, "history");
        same!((delivery.key.as_str(), &delivery.body), ("some.key", &body), "key and body");
        same!((&delivery.identity, delivery.stored_at), (&identity, stored_at), "identity and time of storing");
        check!(delivery.redelivered, "the delivery does not say that it was handed out before");
        check!(!delivery.direct, "a retry is not addressed to the route");
    }
    bench.done(&consumer, vec![delivery]).await?;
    bench.nothing(&consumer).await
}

pub(super) async fn a_long_history_loses_its_middle_but_not_its_count(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 1..2).await?;
    let consumer = bench.consume("one", 1).await?;
    let mut expected = Vec::new();
    let attempts = 40;
    for _ in 0..attempts {
        let delivery = bench.take(&consumer).await?;
        AttemptRecord::push(&mut expected, bench.retry(&consumer, delivery, Duration::ZERO).await?);
    }
    let delivery = bench.take(&consumer).await?;
    same!((delivery.attempts, delivery.history.len()), (attempts, AttemptRecord::HISTORY_MAX), "count and length");
    same!(delivery.history, expected, "history");
    Ok(())
}

pub(super) async fn an_event_that_waits_blocks_nobody(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"]), ("two", &["#"])]).await?;
    // A prefetch of 1: what waits is in nobody's hand.
    let (one, two) = (bench.consume("one", 1).await?, bench.consume("two", 1).await?);
    let (clock, delay) = (bench.subject().clock(), bench.subject().delay());
    bench.publish_all("a", 0..3).await?;
    let before = clock.monotonic();
    let first = bench.take(&one).await?;
    bench.retry(&one, first, delay).await?;
    for n in 1..3 {
        let next = bench.take(&one).await?;
        same!(number(&next), Some(n), "the event behind the one that waits");
        bench.done(&one, vec![next]).await?;
    }
    for n in 0..3 {
        let next = bench.take(&two).await?;
        same!(number(&next), Some(n), "the event of another route");
        bench.done(&two, vec![next]).await?;
    }
    bench.subject().pass(delay).await;
    let late = bench.take(&one).await?;
    same!((number(&late), late.attempts), (Some(0), 1), "the event that waited");
    let passed = clock.monotonic() - before;
    check!(passed >= delay, "the delay is {delay:?}, and it came after {passed:?}");
    Ok(())
}

pub(super) async fn several_deliveries_are_settled_as_one(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..7).await?;
    let consumer = bench.consume("one", 16).await?;
    let burst = bench.take_many(&consumer, 7).await?;
    let fate = Fate::Handled { burst: Some(BurstNote { id: "burst-1".to_owned(), events: 7 }), note: Some("done".to_owned()) };
    consumer.settle(burst, Settlement::Done { fates: vec![fate; 7], inbox: Vec::new() }).await?;
    // A burst that fails comes back whole.
    bench.publish_all("a", 7..10).await?;
    let burst = bench.take_many(&consumer, 3).await?;
    let failure = AttemptRecord { number: 1, at: bench.now(), class: router_api::FailureClass::Panic, error: "boom".to_owned() };
    consumer.settle(burst, Settlement::RetryIn { delay: Duration::ZERO, failure }).await?;
    let burst = bench.take_many(&consumer, 3).await?;
    let mut found = numbers(&burst);
    found.sort_unstable();
    same!(found, [7, 8, 9], "the burst that failed");
    check!(burst.iter().all(|delivery| delivery.attempts == 1), "every member has the failed attempt: {burst:?}");
    bench.done(&consumer, burst).await?;
    consumer.close().await;
    same!(numbers(&bench.drain("one").await?), [0_u64; 0], "what is left");
    Ok(())
}

pub(super) async fn a_window_is_settled_in_any_order(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..8).await?;
    let consumer = bench.consume("one", 8).await?;
    let mut window = bench.take_many(&consumer, 8).await?;
    // The last ones, some from the middle, and 0 and 3 not at all.
    for index in [7, 5, 4, 5, 2, 1] {
        let delivery = window.remove(index.min(window.len() - 1));
        bench.done(&consumer, vec![delivery]).await?;
    }
    let left = numbers(&window);
    consumer.close().await;
    same!(numbers(&bench.drain("one").await?), left, "what was not settled comes back, and nothing else");
    Ok(())
}

pub(super) async fn a_buried_event_lies_in_the_dead_letters_byte_for_byte(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let body = Bytes::from_static(b"\xff\xfe{ no \x00 json");
    bench.transport().publish(Publication::new(key("some.key"), body.clone())).await?;
    let consumer = bench.consume("one", 1).await?;
    let delivery = bench.take(&consumer).await?;
    let stored_at = delivery.stored_at;
    let letter = bench.bury(&consumer, "one", DeadLetterReason::Undecodable, delivery).await?;
    let transport = bench.transport();
    let listed = transport.admin().dead_letters(&DeadLetterQuery::default()).await?;
    same!(listed.len(), 1, "dead letters");
    let Some(shown) = transport.admin().dead_letter(&listed[0].id).await? else {
        return Err(Failure(format!("dead letter `{}` is listed but cannot be shown", listed[0].id)));
    };
    for stored in [&listed[0], &shown] {
        same!(stored.letter, letter, "letter");
        same!((stored.key.as_str(), &stored.body), ("some.key", &body), "key and body");
        same!(stored.stored_at, stored_at, "time of storing");
    }
    check!(transport.admin().dead_letter("no-such-id").await?.is_none(), "a dead letter that is not there was shown");
    consumer.close().await;
    same!(numbers(&bench.drain("one").await?), [0_u64; 0], "what is left in the queue");
    Ok(())
}

pub(super) async fn several_buried_deliveries_make_a_dead_letter_each(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..3).await?;
    let consumer = bench.consume("one", 3).await?;
    let burst = bench.take_many(&consumer, 3).await?;
    let letter = bench.letter("one", DeadLetterReason::Exhausted, &burst[0]);
    consumer.settle(burst, Settlement::Bury(Box::new(letter))).await?;
    let transport = bench.transport();
    let listed = transport.admin().dead_letters(&DeadLetterQuery::default()).await?;
    let mut bodies: Vec<&[u8]> = listed.iter().map(|stored| &stored.body[..]).collect();
    bodies.sort_unstable();
    same!(bodies, [&b"{\"n\":0}"[..], b"{\"n\":1}", b"{\"n\":2}"], "bodies of the dead letters");
    let mut ids: Vec<&str> = listed.iter().map(|stored| stored.id.as_str()).collect();
    ids.dedup();
    same!(ids.len(), 3, "ids");
    Ok(())
}

pub(super) async fn a_settlement_that_fails_gives_the_deliveries_back(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..3).await?;
    let consumer = bench.consume("one", 3).await?;
    let mut deliveries = bench.take_many(&consumer, 3).await?;
    bench.subject().fail_settles(true).await;
    if bench.subject().fails_done() {
        deliveries = not_recorded(&consumer, deliveries, handled(3)).await?;
    }
    let letter = bench.letter("one", DeadLetterReason::Exhausted, &deliveries[0]);
    deliveries = not_recorded(&consumer, deliveries, Settlement::Bury(Box::new(letter.clone()))).await?;
    bench.nothing(&consumer).await?;
    bench.subject().fail_settles(false).await;
    let last = deliveries.split_off(2);
    bench.done(&consumer, deliveries).await?;
    consumer.settle(last, Settlement::Bury(Box::new(letter))).await?;
    consumer.close().await;
    same!(numbers(&bench.drain("one").await?), [0_u64; 0], "what is left");
    same!(bench.transport().admin().dead_letters(&DeadLetterQuery::default()).await?.len(), 1, "dead letters");
    Ok(())
}

/// Settles, and expects to get everything back.
async fn not_recorded(consumer: &Arc<dyn Consumer>, deliveries: Vec<Delivery>, settlement: Settlement) -> Result<Vec<Delivery>, Failure> {
    let expected = numbers(&deliveries);
    match consumer.settle(deliveries, settlement).await {
        Err((SettleError::NotRecorded(_), deliveries)) => {
            same!(numbers(&deliveries), expected, "deliveries that are back in hand");
            Ok(deliveries)
        }
        other => Err(Failure(format!("the settlement was to be not recorded, but there came {other:?}"))),
    }
}

pub(super) async fn a_broken_session_gives_back_what_was_in_hand(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    bench.publish_all("a", 0..4).await?;
    let consumer = bench.consume("one", 2).await?;
    let deliveries = bench.take_many(&consumer, 2).await?;
    bench.subject().lose_session(&route("one")).await;
    bench.is_over(&consumer).await?;
    match consumer.settle(deliveries, handled(2)).await {
        Err((SettleError::SessionOver, deliveries)) => same!(deliveries.len(), 2, "deliveries that came back with the error"),
        other => check!(false, "the session was to be over, but there came {other:?}"),
    }
    let consumer = bench.consume("one", 10).await?;
    let deliveries = bench.take_many(&consumer, 4).await?;
    same!(numbers(&deliveries), [0, 1, 2, 3], "events of the next session, in order");
    check!(deliveries.iter().all(|delivery| delivery.attempts == 0), "a lost session is no failed attempt");
    check!(deliveries[0].redelivered && deliveries[1].redelivered, "what was in hand is not marked as handed out before");
    Ok(())
}

pub(super) async fn a_done_key_is_in_the_inbox_of_its_route(bench: &mut Bench) -> CaseResult {
    let Some(store) = bench.subject().store() else { return Err(Failure("the transport keeps an inbox, but there is no store to look at".to_owned())) };
    bench.bind(&[("one", &["#"]), ("two", &["#"])]).await?;
    bench.publish_all("a", 0..2).await?;
    let consumer = bench.consume("one", 2).await?;
    let deliveries = bench.take_many(&consumer, 2).await?;
    let now = bench.now();
    let expires_at = now + jiff::SignedDuration::from_secs(60);
    check!(!store.inbox_contains(&route("one"), "key-1", now).await?, "a key is in the inbox before anything is done");
    let inbox = vec![Some(InboxKey { key: "key-1".to_owned(), expires_at }), None];
    consumer.settle(deliveries, Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }; 2], inbox }).await?;
    check!(store.inbox_contains(&route("one"), "key-1", now).await?, "the key of a done event is not in the inbox");
    check!(!store.inbox_contains(&route("two"), "key-1", now).await?, "the key is in the inbox of another route");
    check!(!store.inbox_contains(&route("one"), "key-2", now).await?, "a key that was not given is in the inbox");
    let later = expires_at + jiff::SignedDuration::from_secs(1);
    check!(!store.inbox_contains(&route("one"), "key-1", later).await?, "a key is remembered longer than it may be");
    Ok(())
}

pub(super) async fn the_archive_says_what_became_of_an_event(bench: &mut Bench) -> CaseResult {
    let Some(store) = bench.subject().store() else { return Err(Failure("the transport archives, but there is no store to look at".to_owned())) };
    bench.bind(&[("one", &["a"]), ("two", &["a"]), ("three", &["a"])]).await?;
    let seq = bench.publish("a", 1).await?.seq;
    let unmatched = bench.publish("b", 2).await?.seq;
    check!(seq.is_some() && unmatched > seq, "numbers of the archive grow: {seq:?}, {unmatched:?}");
    let one = bench.consume("one", 1).await?;
    let delivery = bench.take(&one).await?;
    same!(delivery.seq, seq, "number of the delivery");
    let fate = Fate::Skipped { reason: "not today".to_owned() };
    one.settle(vec![delivery], Settlement::Done { fates: vec![fate.clone()], inbox: Vec::new() }).await?;
    let two = bench.consume("two", 1).await?;
    let delivery = bench.take(&two).await?;
    bench.bury(&two, "two", DeadLetterReason::Rejected, delivery).await?;
    let events = store.events(&router_api::EventQuery::default()).await?;
    same!(events.iter().map(|event| Some(event.seq)).collect::<Vec<_>>(), [unmatched, seq], "events, newest first");
    let states: Vec<(&str, &DeliveryState)> = events[1].deliveries.iter().map(|record| (record.route.as_str(), &record.state)).collect();
    let state_of = |name: &str| states.iter().find(|(route, _)| *route == name).map(|(_, state)| *state);
    same!(state_of("one"), Some(&DeliveryState::Finished(fate)), "state on the first route");
    check!(matches!(state_of("two"), Some(DeliveryState::Dead { reason: DeadLetterReason::Rejected, .. })), "state on the second route: {states:?}");
    same!(state_of("three"), Some(&DeliveryState::Queued), "state on the third route");
    let only = router_api::EventQuery { unmatched: true, ..Default::default() };
    let found: Vec<_> = store.events(&only).await?.iter().map(|event| Some(event.seq)).collect();
    same!(found, [unmatched], "events that nobody wanted");
    Ok(())
}
