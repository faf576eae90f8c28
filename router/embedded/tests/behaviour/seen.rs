//! The archive of a store beside a bus: events that were seen passing, and what became of them.

use std::time::Duration;

use router_api::{
    ArchiveEntry, ArchivedEvent, Clock, DeadLetterReason, DeliveryRecord, DeliveryState, EventQuery, Fate, FateRecord, Publication, SeenEvent, Store, Transport,
};
use serde_json::json;

use crate::bench::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn entry(bench: &Bench, offset: u64, identity: &str) -> ArchiveEntry {
    let body = json!({ "event_id": format!("{identity}-{offset}"), "event_type": "x", "payload": { "session_id": "s1" }, "n": offset });
    let event = SeenEvent {
        offset,
        identity: identity.to_owned(),
        key: key("tool.edit"),
        body: body.to_string().into(),
        stored_at: bench.clock.now(),
        hops: 2,
        traceparent: Some("00-1".to_owned()),
    };
    ArchiveEntry { event, redactions: 3, wanted: Some(1) }
}

fn fate(identity: &str, to: &str, state: DeliveryState, at: jiff::Timestamp) -> FateRecord {
    FateRecord { identity: identity.to_owned(), record: DeliveryRecord { route: route(to), state, attempts: 1, at } }
}

fn done(fate: Fate) -> DeliveryState {
    DeliveryState::Finished(fate)
}

fn handled() -> Fate {
    Fate::Handled { burst: None, note: None }
}

async fn all(bench: &Bench) -> Vec<ArchivedEvent> {
    bench.store.events(&EventQuery { last: Some(100), ..EventQuery::default() }).await.unwrap()
}

async fn tidy(bench: &Bench, mut is_done: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_done() {
            return;
        }
        bench.clock.advance(Duration::from_secs(1));
        bench.store.set_state(&route("tick"), "tick", None).await.unwrap();
    }
    panic!("it was not tidied up");
}

#[tokio::test]
async fn an_event_that_was_seen_is_found_like_any_other() {
    let bench = Bench::new();
    bench.store.archive(vec![entry(&bench, 7, "m1"), ArchiveEntry { wanted: Some(0), ..entry(&bench, 8, "m2") }]).await.unwrap();
    bench.store.archive(vec![ArchiveEntry { wanted: None, ..entry(&bench, 9, "m3") }]).await.unwrap();

    let event = bench.store.event("m1-7").await.unwrap().remove(0);
    assert_eq!((event.seq, event.key.as_str(), event.hops, event.redactions, event.stored_at), (1, "tool.edit", 2, 3, bench.clock.now()));
    assert_eq!(event.body, entry(&bench, 7, "m1").event.body);
    let found = async |query: EventQuery| -> Vec<u64> { bench.store.events(&query).await.unwrap().iter().map(|event| event.seq).collect() };
    assert_eq!(found(EventQuery { session: Some("s1".to_owned()), ..EventQuery::default() }).await, [3, 2, 1]);
    assert_eq!(found(EventQuery { pattern: Some("tool.*".parse().unwrap()), ..EventQuery::default() }).await, [3, 2, 1]);
    assert_eq!(found(EventQuery { unmatched: true, ..EventQuery::default() }).await, [2], "what nobody can tell is not said to be unwanted");
    assert_eq!(bench.store.publish(Publication::new(key("k"), "{}")).await.unwrap().seq, Some(4), "one row of numbers for all");
    assert_eq!(bench.count("SELECT count(*) FROM events WHERE crc <> 0"), 4);
}

#[tokio::test]
async fn what_is_there_already_is_not_kept_twice_and_the_position_survives_a_death() {
    let bench = Bench::new();
    assert_eq!(bench.store.archive_position().await.unwrap(), None);
    bench.store.archive(vec![entry(&bench, 0, "m0")]).await.unwrap();
    assert_eq!(bench.store.archive_position().await.unwrap(), Some(0));
    bench.store.archive((0..4).map(|offset| entry(&bench, offset, &format!("m{offset}"))).collect()).await.unwrap();
    bench.store.archive(vec![entry(&bench, 2, "m2"), entry(&bench, 3, "m3")]).await.unwrap();
    bench.store.archive(Vec::new()).await.unwrap();

    let bench = bench.kill().await;
    assert_eq!(bench.store.archive_position().await.unwrap(), Some(3));
    bench.store.archive((2..6).map(|offset| entry(&bench, offset, &format!("m{offset}"))).collect()).await.unwrap();
    let ids: Vec<String> = all(&bench).await.into_iter().filter_map(|event| event.id).collect();
    assert_eq!(ids, ["m5-5", "m4-4", "m3-3", "m2-2", "m1-1", "m0-0"]);
}

#[tokio::test]
async fn a_fate_is_told_whether_it_came_before_or_after_its_event() {
    let bench = Bench::new();
    let now = bench.clock.now();
    let dead = DeliveryState::Dead { id: "d1".to_owned(), reason: DeadLetterReason::Rejected };
    bench.store.record_fates(vec![fate("m1", "b", done(handled()), now), fate("m9", "b", done(handled()), now)]).await.unwrap();
    bench.store.archive(vec![entry(&bench, 1, "m1"), entry(&bench, 2, "m2")]).await.unwrap();
    let waiting = DeliveryState::Waiting { error: Some("failed".to_owned()) };
    bench.store.record_fates(vec![fate("m1", "a", waiting.clone(), now + DAY), fate("m2", "a", dead.clone(), now)]).await.unwrap();

    let events = all(&bench).await;
    assert_eq!(events[0].deliveries, [DeliveryRecord { route: route("a"), state: dead, attempts: 1, at: now }]);
    let states: Vec<_> = events[1].deliveries.iter().map(|record| (record.route.as_str(), record.state.clone(), record.at)).collect();
    assert_eq!(states, [("a", waiting, now + DAY), ("b", done(handled()), now)]);

    bench.store.record_fates(vec![fate("m1", "a", done(handled()), now)]).await.unwrap();
    assert_eq!(all(&bench).await[1].deliveries[0].state, done(handled()), "a later record takes the place of an earlier one");
}

#[tokio::test]
async fn that_an_event_was_done_before_does_not_hide_how_it_was_done() {
    let bench = Bench::new();
    let now = bench.clock.now();
    let repeated = || done(Fate::Duplicate { key: "k".to_owned() });
    let skipped = done(Fate::Skipped { reason: "no".to_owned() });
    bench.store.archive(vec![entry(&bench, 1, "m1"), entry(&bench, 2, "m2"), entry(&bench, 3, "m1")]).await.unwrap();
    bench.store.record_fates(vec![fate("m1", "a", skipped.clone(), now), fate("m1", "a", repeated(), now)]).await.unwrap();
    let waiting = DeliveryState::Waiting { error: None };
    bench.store.record_fates(vec![fate("m2", "a", waiting, now), fate("m2", "a", repeated(), now)]).await.unwrap();

    let states: Vec<_> = all(&bench).await.into_iter().map(|mut event| event.deliveries.remove(0).state).collect();
    assert_eq!(states, [skipped.clone(), repeated(), skipped], "an event that was published twice has one fate");
}

#[tokio::test]
async fn what_runs_is_told_of_an_event_that_was_seen() {
    let bench = Bench::new();
    let now = bench.clock.now();
    bench.store.archive(vec![entry(&bench, 1, "m1")]).await.unwrap();
    bench.store.record_fates(vec![fate("m1", "a", DeliveryState::Waiting { error: None }, now)]).await.unwrap();
    let slot = bench.store.begin_running(&route("a"), "m1").unwrap();
    assert_eq!(all(&bench).await[0].deliveries[0].state, DeliveryState::InHand { running_since: Some(now), attempt: 2 });
    bench.store.end_running(slot);
    assert_eq!(all(&bench).await[0].deliveries[0].state, DeliveryState::Waiting { error: None });
}

#[tokio::test]
async fn fates_go_with_the_last_event_that_they_are_of_and_those_without_one_when_they_are_old() {
    let bench = Bench::with(|options| options.retention_age = 2 * DAY);
    bench.store.archive(vec![entry(&bench, 1, "m1"), entry(&bench, 2, "m2")]).await.unwrap();
    let now = bench.clock.now();
    bench.store.record_fates(["m1", "m2", "lost"].map(|identity| fate(identity, "a", done(handled()), now)).to_vec()).await.unwrap();
    bench.clock.advance(DAY);
    bench.store.archive(vec![entry(&bench, 3, "m1")]).await.unwrap();
    bench.clock.advance(DAY + Duration::from_secs(1));
    bench.store.archive(vec![entry(&bench, 4, "m4")]).await.unwrap();
    bench.store.record_fates(vec![fate("early", "a", done(handled()), now)]).await.unwrap();

    tidy(&bench, || bench.count("SELECT count(*) FROM events") == 2 && bench.count("SELECT count(*) FROM fates") == 2).await;
    let left: Vec<String> = {
        let sql = bench.sql();
        let mut statement = sql.prepare("SELECT identity FROM fates ORDER BY identity").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(left, ["early", "m1"], "of an event that is there, or may still come");
    assert_eq!(all(&bench).await[1].deliveries[0].state, done(handled()));
    assert_eq!(bench.count("SELECT count(*) FROM seen"), 2);
}

#[tokio::test]
async fn what_was_seen_counts_when_the_file_is_too_large() {
    let bench = Bench::with(|options| options.retention_bytes_max = 2 * 1024 * 1024);
    for offset in 0..100 {
        let mut entry = entry(&bench, offset, &format!("m{offset}"));
        entry.event.body = json!({ "filling": "x".repeat(100_000) }).to_string().into();
        bench.store.archive(vec![entry]).await.unwrap();
        let fates = (0..10).map(|n| fate(&format!("lost-{offset}-{n}"), "a", done(handled()), bench.clock.now()));
        bench.store.record_fates(fates.chain([fate(&format!("m{offset}"), "a", done(handled()), bench.clock.now())]).collect()).await.unwrap();
    }
    let in_use = || (bench.count("PRAGMA page_count") - bench.count("PRAGMA freelist_count")) * bench.count("PRAGMA page_size");
    assert!(in_use() > 8_000_000);
    tidy(&bench, || in_use() <= 2 * 1024 * 1024).await;
    let kept = bench.count("SELECT count(*) FROM events");
    assert!(kept < 25, "{kept}");
    assert_eq!((bench.count("SELECT count(*) FROM seen"), bench.count("SELECT count(*) FROM fates WHERE identity LIKE 'm%'")), (kept, kept));
    assert_eq!(bench.store.archive_position().await.unwrap(), Some(99));
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_more_of_the_bus_and_notes_fates_all_the_same() {
    let bench = Bench::with(|options| options.reserve_bytes = u64::MAX);
    let error = bench.store.archive(vec![entry(&bench, 1, "m1")]).await.unwrap_err();
    assert!(error.full, "{error}");
    assert_eq!(bench.store.archive_position().await.unwrap(), None);
    bench.store.record_fates(vec![fate("m1", "a", done(handled()), bench.clock.now())]).await.unwrap();
    assert_eq!(bench.count("SELECT count(*) FROM fates"), 1);
}

#[tokio::test]
async fn a_fate_that_cannot_be_read_hides_neither_its_event_nor_other_fates() {
    let bench = Bench::new();
    bench.store.archive(vec![entry(&bench, 1, "m1")]).await.unwrap();
    bench.store.record_fates(["a", "b"].map(|to| fate("m1", to, done(handled()), bench.clock.now())).to_vec()).await.unwrap();
    bench.sql().execute("UPDATE fates SET state = 'no json' WHERE route = 'a'", []).unwrap();
    let routes: Vec<_> = all(&bench).await.remove(0).deliveries.into_iter().map(|record| record.route).collect();
    assert_eq!(routes, [route("b")]);
}
