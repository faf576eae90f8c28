//! Which queues an event reaches.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use router_api::{Publication, TransportError};

use crate::conformance::bench::{Bench, CaseResult, Wants, check, key, number, numbers, route, same, subscription};

pub(super) async fn an_event_reaches_every_route_that_wants_it_once(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["a.#", "a.b", "*.b"]), ("two", &["a.b"]), ("other", &["c"])]).await?;
    check!(bench.publish("a.b", 1).await?.routed, "the event was routed to nobody");
    for name in ["one", "two"] {
        same!(numbers(&bench.drain(name).await?), [1], name);
    }
    same!(numbers(&bench.drain("other").await?), [0_u64; 0], "other");
    Ok(())
}

pub(super) async fn patterns_follow_the_topic_rules(bench: &mut Bench) -> CaseResult {
    // Pattern, and the keys that fit. Every key is published to every pattern.
    let keys = ["", "a", "b", "A", "a.b", "a.b.c", "a.a.b", "a.", ".a", ".", "a..b", "b.a", "a-b.c_d", "ünï.cödé"];
    let table: &[(&str, &[&str])] = &[
        ("#", &keys),
        ("*", &["a", "b", "A"]),
        ("", &[""]),
        ("a", &["a"]),
        ("a.#", &["a", "a.b", "a.b.c", "a.a.b", "a.", "a..b"]),
        ("#.a", &["a", ".a", "b.a"]),
        ("#.b", &["b", "a.b", "a.a.b", "a..b"]),
        ("a.*", &["a.b", "a."]),
        ("*.a", &[".a", "b.a"]),
        ("*.*", &["a.b", "a.", ".a", ".", "b.a", "a-b.c_d", "ünï.cödé"]),
        ("a.*.b", &["a.a.b", "a..b"]),
        ("a.#.b", &["a.b", "a.a.b", "a..b"]),
        ("#.a.#", &["a", "a.b", "a.b.c", "a.a.b", "a.", ".a", "a..b", "b.a"]),
        ("*.#", &["a", "b", "A", "a.b", "a.b.c", "a.a.b", "a.", ".a", ".", "a..b", "b.a", "a-b.c_d", "ünï.cödé"]),
        ("#.*.#.*", &["a.b", "a.b.c", "a.a.b", "a.", ".a", ".", "a..b", "b.a", "a-b.c_d", "ünï.cödé"]),
        ("a..b", &["a..b"]),
        ("a.", &["a."]),
        (".", &["."]),
        ("ünï.*", &["ünï.cödé"]),
        // Half a wildcard is a word like any other.
        ("a*.#", &[]),
    ];
    let names: Vec<String> = (0..table.len()).map(|index| format!("pattern-{index}")).collect();
    let subscriptions: Vec<_> = names.iter().zip(table).map(|(name, (pattern, _))| subscription(name, &[*pattern], Wants::all())).collect();
    bench.transport().bind(&subscriptions).await?;
    for (n, text) in keys.iter().enumerate() {
        bench.publish(text, n as u64).await?;
    }
    for (name, (pattern, expected)) in names.iter().zip(table) {
        let found: Vec<String> = bench.drain(name).await?.iter().map(|delivery| delivery.key.as_str().to_owned()).collect();
        let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        same!(found, expected, format!("keys that fit `{pattern}`"));
    }
    Ok(())
}

pub(super) async fn an_event_that_nobody_wants_is_safe_but_not_routed(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["a"])]).await?;
    check!(!bench.publish("b", 1).await?.routed, "an event that nobody wants was routed");
    check!(bench.publish("a", 2).await?.routed, "an event that is wanted was not routed");
    same!(numbers(&bench.drain("one").await?), [2], "events of the route");
    Ok(())
}

pub(super) async fn the_filter_is_asked_before_an_event_is_queued(bench: &mut Bench) -> CaseResult {
    let even = Wants::only(|event| event.body()["n"].as_u64().is_some_and(|n| n % 2 == 0));
    bench.transport().bind(&[subscription("even", &["#"], even)]).await?;
    for n in 0..6 {
        let published = bench.publish("a", n).await?;
        same!(published.routed, n % 2 == 0, format!("event {n} was routed"));
    }
    same!(numbers(&bench.drain("even").await?), [0, 2, 4], "events that the filter wants");
    Ok(())
}

pub(super) async fn a_body_that_is_no_json_reaches_every_route_that_its_key_fits(bench: &mut Bench) -> CaseResult {
    // The route buries it, so the filter, which needs an event, is not asked.
    let none = Wants::only(|_| false);
    bench.transport().bind(&[subscription("one", &["a"], none)]).await?;
    let bodies = [&b"\xff\xfe\x00 no text"[..], b"", b"no json", b"[1, 2]", b"{\"n\": 1"];
    for bytes in bodies {
        let published = bench.transport().publish(Publication::new(key("a"), Bytes::from_static(bytes))).await?;
        check!(published.routed, "{bytes:?} was routed to nobody");
    }
    let found: Vec<Bytes> = bench.drain("one").await?.into_iter().map(|delivery| delivery.body).collect();
    same!(found, bodies.map(Bytes::from_static), "bodies");
    Ok(())
}

pub(super) async fn an_event_sent_to_a_route_passes_by_patterns_and_filter(bench: &mut Bench) -> CaseResult {
    let subscriptions = [subscription("one", &["a"], Wants::only(|_| false)), subscription("two", &["#"], Wants::all())];
    bench.transport().bind(&subscriptions).await?;
    check!(bench.send("one", 7, Duration::ZERO).await?.routed, "the route is there, but the event was not routed");
    let deliveries = bench.drain("one").await?;
    same!(numbers(&deliveries), [7], "events of the addressed route");
    check!(deliveries[0].direct, "the delivery does not say that it was addressed to this route");
    same!(deliveries[0].key.as_str(), "conformance.direct", "key");
    same!(numbers(&bench.drain("two").await?), [0_u64; 0], "events of a route that was not addressed");
    Ok(())
}

pub(super) async fn an_event_sent_to_a_route_with_a_delay_comes_after_it(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["a"])]).await?;
    let (clock, delay) = (bench.subject().clock(), bench.subject().delay());
    let before = clock.monotonic();
    bench.send("one", 1, delay).await?;
    bench.publish("a", 2).await?;
    let consumer = bench.consume("one", 10).await?;
    same!(number(&bench.take(&consumer).await?), Some(2), "the event without a delay, which comes first");
    bench.subject().pass(delay).await;
    let late = bench.take(&consumer).await?;
    same!(number(&late), Some(1), "the event with a delay");
    check!(late.direct && late.attempts == 0, "a delayed event is direct and has no failed attempt: {late:?}");
    let passed = clock.monotonic() - before;
    check!(passed >= delay, "the delay is {delay:?}, and it came after {passed:?}");
    Ok(())
}

pub(super) async fn an_event_sent_to_an_unknown_route_is_refused(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["#"])]).await?;
    let mut publication = Publication::new(key("a"), "{}");
    publication.to = router_api::Destination::Route { route: route("nobody"), delay: Duration::ZERO };
    match bench.transport().publish(publication).await {
        Err(TransportError::Refused(sentence)) => check!(sentence.contains("nobody"), "the sentence does not name the route: {sentence}"),
        other => check!(false, "an unknown route was to be refused, but there came {other:?}"),
    }
    same!(numbers(&bench.drain("one").await?), [0_u64; 0], "events of another route");
    Ok(())
}

pub(super) async fn a_new_route_collects_as_soon_as_it_is_bound(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("old", &["a"])]).await?;
    bench.publish("a", 1).await?;
    bench.bind(&[("old", &["a"]), ("new", &["a"])]).await?;
    bench.publish("a", 2).await?;
    same!(numbers(&bench.drain("old").await?), [1, 2], "events of the old route");
    same!(numbers(&bench.drain("new").await?), [2], "events of the new route");
    Ok(())
}

pub(super) async fn a_route_that_is_no_longer_bound_keeps_what_waits_and_collects_no_more(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("stays", &["a"]), ("goes", &["a"])]).await?;
    bench.publish("a", 1).await?;
    bench.bind(&[("stays", &["a"])]).await?;
    bench.publish("a", 2).await?;
    bench.bind(&[("stays", &["a"]), ("goes", &["a"])]).await?;
    bench.publish("a", 3).await?;
    same!(numbers(&bench.drain("stays").await?), [1, 2, 3], "events of the route that stayed");
    same!(numbers(&bench.drain("goes").await?), [1, 3], "events of the route that was away for the second one");
    Ok(())
}

pub(super) async fn a_changed_pattern_counts_as_soon_as_it_is_bound(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("one", &["a", "b"])]).await?;
    bench.publish_all("a", 1..2).await?;
    bench.bind(&[("one", &["b", "c"])]).await?;
    check!(!bench.publish("a", 2).await?.routed, "a pattern that was taken away still collects");
    bench.publish_all("b", 3..4).await?;
    bench.publish_all("c", 4..5).await?;
    same!(numbers(&bench.drain("one").await?), [1, 3, 4], "events of the route");
    Ok(())
}

pub(super) async fn a_route_that_nobody_consumes_keeps_what_comes(bench: &mut Bench) -> CaseResult {
    bench.bind(&[("busy", &["#"]), ("idle", &["#"])]).await?;
    bench.publish_all("a", 0..20).await?;
    let all: Vec<u64> = (0..20).collect();
    same!(numbers(&bench.drain("busy").await?), all, "events of the consumed route");
    same!(numbers(&bench.drain("idle").await?), all, "events of the route that was consumed later");
    Ok(())
}
