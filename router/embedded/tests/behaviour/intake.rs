//! Publishing: fan-out, filters, group commit, limits, the disk reserve.

use std::sync::{Arc, Barrier};

use futures_util::future::join_all;
use router_api::{Destination, Envelope, EventQuery, Matcher, Publication, QueueWish, Store, Subscription, Transport, TransportAdmin, TransportError};
use router_embedded::EmbeddedOptions;
use serde_json::json;

use crate::bench::*;

struct Panicking;

impl Matcher for Panicking {
    fn matches(&self, _: &Envelope) -> bool {
        panic!("made to fail")
    }

    fn lane(&self, _: &Envelope) -> Option<String> {
        panic!("made to fail")
    }
}

#[tokio::test]
async fn each_route_that_wants_an_event_gets_it_once_and_the_others_nothing() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k.#", "k.*"]), ("b", &["#"]), ("c", &["other"])]).await;
    let wanted = bench.publish("k.x", json!({ "n": 1 })).await;
    assert_eq!((wanted.routed, wanted.seq), (true, Some(1)));
    let filtered = bench.publish("k.x", json!({ "unwanted": true })).await;
    assert_eq!((filtered.routed, filtered.seq), (false, Some(2)));
    let queues = bench.store.queues().await.unwrap();
    assert_eq!(queues.iter().map(|queue| (queue.route.as_str(), queue.ready)).collect::<Vec<_>>(), [("a", 1), ("b", 1), ("c", 0)]);
}

#[tokio::test]
async fn a_body_that_is_no_event_goes_to_every_route_whose_patterns_fit() {
    let bench = Bench::with(|options| options.decode.body_bytes_max = 100);
    bench.bind(&[("a", &["k"])]).await;
    for body in [&b"no json"[..], b"[1]", b"\xff\x00", b"", &[b' '; 101]] {
        assert!(bench.store.publish(Publication::new(key("k"), body.to_vec())).await.unwrap().routed);
    }
    let consumer = bench.consume("a", 9).await;
    assert_eq!(take_many(&consumer, 5).await[2].body[..], b"\xff\x00"[..]);
}

#[tokio::test]
async fn a_matcher_that_panics_counts_as_wanting_and_takes_nothing_down() {
    let bench = Bench::new();
    let panicking = Subscription { route: route("p"), patterns: vec!["k".parse().unwrap()], matcher: Arc::new(Panicking), queue: QueueWish::default() };
    bench.store.bind(&[panicking, subscription("a", &["k"])]).await.unwrap();
    for n in 0..2 {
        assert!(bench.publish("k", json!({ "n": n })).await.routed);
    }
    let queues = bench.store.queues().await.unwrap();
    assert_eq!(queues.iter().map(|queue| queue.ready).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn publishers_that_come_while_the_writer_is_held_up_share_the_next_commit_in_their_order() {
    let bench = Bench::new();
    let barrier = Arc::new(Barrier::new(2));
    bench.bind(&[("a", &["k"])]).await;
    // Another program holds the file: the first publication waits for it, the others behind the first.
    let other = bench.sql();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = bench.store.measures().commits;
    let released = std::thread::spawn({
        let barrier = Arc::clone(&barrier);
        move || {
            barrier.wait();
            other.execute_batch("ROLLBACK").unwrap();
        }
    });
    let all = tokio::task::unconstrained(join_all((0..300u64).map(|n| bench.publish("k", json!({ "n": n })))));
    let all = async {
        let mut all = std::pin::pin!(all);
        assert!(futures_util::poll!(&mut all).is_pending());
        barrier.wait();
        all.await
    };
    let seqs: Vec<_> = within(all).await.into_iter().map(|published| published.seq.unwrap()).collect();
    assert_eq!(seqs, (1..=300).collect::<Vec<_>>());
    released.join().unwrap();
    let commits = bench.store.measures().commits - before;
    assert!(commits <= 3, "{commits} commits for 300 publications that waited");
}

#[tokio::test]
async fn one_piece_of_work_that_fails_takes_no_other_with_it() {
    let bench = Bench::with(|options| options.busy_timeout = std::time::Duration::from_secs(20));
    bench.bind(&[("a", &["k"])]).await;
    // Whatever is in a commit with the bad one has to be stored nevertheless.
    bench.sql().execute_batch("CREATE TRIGGER bad BEFORE INSERT ON events WHEN NEW.key = 'bad' BEGIN SELECT raise(ABORT, 'made to fail'); END").unwrap();
    let publish = |to: &'static str| bench.store.publish(Publication::new(key(to), "{}"));
    let results = join_all((0..60).map(|n| publish(if n % 20 == 7 { "bad" } else { "k" }))).await;
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n % 20 == 7, "{n}: {result:?}");
    }
    let Err(TransportError::Unavailable(sentence)) = &results[7] else { panic!("{:?}", results[7]) };
    assert!(sentence.contains("made to fail"), "{sentence}");
    assert_eq!(bench.count("SELECT count(*) FROM deliveries"), 57);
}

#[tokio::test]
async fn without_the_reserve_no_new_events_are_taken_but_handling_goes_on_and_it_heals_by_itself() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..2).await;
    bench.store.close().await;
    let short = EmbeddedOptions { reserve_bytes: u64::MAX, ..options(bench.directory.path()) };
    let store = router_embedded::Embedded::open(short, Arc::new(bench.clock.clone())).unwrap();
    let error = store.publish(Publication::new(key("k"), "{}")).await.unwrap_err();
    let TransportError::Full(sentence) = error else { panic!("{error:?}") };
    assert!(sentence.contains("in reserve") && sentence.contains("free some space"), "{sentence}");
    let consumer = store.consume(&route("a"), 2).await.unwrap();
    let hand = take_many(&consumer, 2).await;
    consumer.settle(hand, handled(2)).await.unwrap();
    store.set_state(&route("a"), "s", Some(json!(1))).await.unwrap();
    assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 2);
    store.close().await;
}

#[tokio::test]
async fn a_body_beyond_every_limit_is_refused_and_large_ones_are_stored() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let max = EmbeddedOptions::BODY_BYTES_HARD_MAX;
    let error = bench.store.publish(Publication::new(key("k"), vec![0; max + 1])).await.unwrap_err();
    assert!(matches!(&error, TransportError::Refused(sentence) if sentence.contains("limit")), "{error}");
    let large = vec![0xabu8; 5 * 1024 * 1024 + 1];
    join_all((0..3).map(|_| bench.store.publish(Publication::new(key("k"), large.clone())))).await.into_iter().for_each(|published| {
        published.unwrap();
    });
    let consumer = bench.consume("a", 3).await;
    for delivery in take_many(&consumer, 3).await {
        assert_eq!(delivery.body, large);
    }
}

#[tokio::test]
async fn an_event_for_one_route_skips_patterns_and_filter_and_needs_a_queue() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let publication = |to: &str| Publication {
        to: Destination::Route { route: route(to), delay: std::time::Duration::ZERO },
        hops: 3,
        traceparent: Some("00-2".to_owned()),
        ..Publication::new(key("anything"), json!({ "n": 5, "unwanted": true }).to_string())
    };
    assert!(bench.store.publish(publication("a")).await.unwrap().routed);
    let consumer = bench.consume("a", 1).await;
    let delivery = take(&consumer).await;
    assert_eq!((delivery.direct, delivery.hops, delivery.traceparent.as_deref(), delivery.key.as_str()), (true, 3, Some("00-2"), "anything"));
    let error = bench.store.publish(publication("nobody")).await.unwrap_err();
    assert!(matches!(&error, TransportError::Refused(sentence) if sentence.contains("`nobody`")), "{error}");
}

#[tokio::test]
async fn bindings_are_the_whole_set_and_a_route_is_bound_once() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"]), ("b", &["k"])]).await;
    bench.publish_all("k", 0..1).await;
    bench.bind(&[("b", &["k"]), ("c", &["k"])]).await;
    bench.publish_all("k", 1..2).await;
    let queues = bench.store.queues().await.unwrap();
    assert_eq!(queues.iter().map(|queue| (queue.route.as_str(), queue.ready)).collect::<Vec<_>>(), [("a", 1), ("b", 2), ("c", 1)]);
    let error = bench.store.bind(&[subscription("a", &["k"]), subscription("a", &["j"])]).await.unwrap_err();
    assert!(error.to_string().contains("`a`"), "{error}");
    let consumer = bench.consume("a", 1).await;
    assert_eq!(number(&take(&consumer).await), 0);
}

#[tokio::test]
async fn after_a_restart_bound_routes_collect_before_anybody_binds_them_again() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"]), ("b", &["other"])]).await;
    let bench = bench.restart().await;
    // Without a matcher nothing is filtered yet; the router asks again before it handles anything.
    assert!(bench.publish("k", json!({ "n": 1, "unwanted": true })).await.routed);
    let queues = bench.store.queues().await.unwrap();
    assert_eq!(queues.iter().map(|queue| (queue.route.as_str(), queue.ready)).collect::<Vec<_>>(), [("a", 1), ("b", 0)]);
}

#[tokio::test]
async fn a_binding_that_is_not_stored_is_refused_and_not_put_off() {
    let bench = Bench::with(|options| options.busy_timeout = std::time::Duration::from_millis(20));
    bench.bind(&[("a", &["k"])]).await;
    let other = bench.sql();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // `Unavailable` would mean that the transport binds by itself when it can.
    let error = bench.store.bind(&[subscription("b", &["k"])]).await.unwrap_err();
    assert!(matches!(&error, TransportError::Refused(sentence) if sentence.contains("did not record")), "{error:?}");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(bench.publish("k", json!({})).await.routed, "the earlier set is still in force");
    bench.bind(&[("b", &["k"])]).await;
}

#[tokio::test]
async fn what_is_published_together_is_one_commit_in_its_order() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k.#"]), ("b", &["k.3"])]).await;
    let publications = |count: u64| (0..count).map(|n| Publication::new(key(&format!("k.{n}")), json!({ "n": n }).to_string())).collect::<Vec<_>>();
    let before = bench.store.measures().commits;
    let published = bench.store.publish_all(publications(100)).await.unwrap();
    assert_eq!(bench.store.measures().commits - before, 1);
    assert_eq!(published.iter().map(|published| published.seq).collect::<Vec<_>>(), (1..=100).map(Some).collect::<Vec<_>>());
    let consumer = bench.consume("a", 100).await;
    assert_eq!(take_many(&consumer, 100).await.iter().map(|delivery| delivery.seq).collect::<Vec<_>>(), (1..=100).map(Some).collect::<Vec<_>>());
    assert_eq!(take(&bench.consume("b", 1).await).await.seq, Some(4));
    // More than a commit takes come in several, still in order.
    let published = bench.store.publish_all(publications(1_200)).await.unwrap();
    assert_eq!(published.iter().map(|published| published.seq).collect::<Vec<_>>(), (101..=1_300).map(Some).collect::<Vec<_>>());
    assert!(bench.store.publish_all(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_what_is_published_together_those_before_the_first_that_is_refused_are_stored() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let event = |n: u64| Publication::new(key("k"), json!({ "n": n }).to_string());
    let too_long = Publication::new(key("k"), vec![b'x'; EmbeddedOptions::BODY_BYTES_HARD_MAX + 1]);
    let Err((stored, TransportError::Refused(sentence))) = bench.store.publish_all(vec![event(0), event(1), too_long, event(3)]).await else {
        panic!("the third is too long")
    };
    assert_eq!(stored.len(), 2);
    assert!(sentence.contains("the limit of the store"), "{sentence}");
    assert_eq!(bench.store.events(&EventQuery::default()).await.unwrap().len(), 2);
    // What goes to a route that is not there is refused in the middle of a commit.
    let nowhere = Publication { to: Destination::Route { route: route("none"), delay: std::time::Duration::ZERO }, ..event(5) };
    let Err((stored, TransportError::Refused(_))) = bench.store.publish_all(vec![event(4), nowhere, event(6)]).await else { panic!("there is no such route") };
    assert_eq!(stored.iter().map(|published| published.seq).collect::<Vec<_>>(), [Some(3)]);
}

#[tokio::test]
async fn what_is_published_together_and_does_not_fit_on_the_disk_is_stored_as_a_whole_or_not_at_all() {
    let bench = Bench::with(|options| options.reserve_bytes = u64::MAX >> 1);
    bench.bind(&[("a", &["k"])]).await;
    let publications = (0..10).map(|n| Publication::new(key("k"), json!({ "n": n }).to_string())).collect();
    let Err((stored, TransportError::Full(_))) = bench.store.publish_all(publications).await else { panic!("there is no such disk") };
    assert!(stored.is_empty());
    assert_eq!(bench.count("SELECT count(*) FROM events"), 0);
}
