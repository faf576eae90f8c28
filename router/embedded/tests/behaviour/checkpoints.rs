//! The log goes into the file, and the sums of pages with it, whenever the process dies; and what other programs do to a store meanwhile.

use std::{path::Path, sync::Arc};

use router_api::{EventQuery, Store, Transport};
use router_embedded::{Embedded, EmbeddedOptions, Finding};

use crate::{bench::*, clock::ManualClock};

fn synced(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions { sync: true, ..options(directory) }
}

fn open(directory: &Path) -> Arc<Embedded> {
    Embedded::open(synced(directory), Arc::new(ManualClock::default())).unwrap()
}

async fn count(store: &Embedded) -> usize {
    store.events(&EventQuery { last: Some(10_000), ..EventQuery::default() }).await.unwrap().len()
}

/// Files can be copied one by one only while the log is not about to go into the file, which it does behind the answer to a commit: writes
/// until the side file says that the log is short.
async fn is_quiet(bench: &Bench) {
    for number in 0..1_000 {
        bench.store.set_state(&route("a"), "quiet", Some(number.into())).await.unwrap();
        let noted = std::fs::read(bench.directory.path().join("router.db.seq")).unwrap();
        if u32::from_le_bytes(noted[32..36].try_into().unwrap()) < 900 {
            return;
        }
    }
    panic!("the log stays long");
}

/// Many logs full, and a copy of the files now and then: each is as a death at that moment would leave them.
#[tokio::test]
async fn a_store_that_dies_at_any_time_in_the_life_of_its_log_is_whole() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let mut rounds = std::collections::BTreeSet::new();
    for round in 1..=12 {
        let body = "x".repeat(40_000);
        for number in 0..20 {
            bench.publish("k", serde_json::json!({ "n": number, "body": body })).await;
        }
        is_quiet(&bench).await;
        let image = crash_image(bench.directory.path());
        let header: Vec<u8> = std::fs::read(image.path().join("router.db-wal")).unwrap().into_iter().take(32).collect();
        rounds.insert(header);
        let store = open(image.path());
        assert_eq!(store.findings(), [], "round {round}");
        assert_eq!(count(&store).await, round * 20, "round {round}");
        store.close().await;
        let checked = router_embedded::check(&image.path().join("router.db")).unwrap();
        assert_eq!((checked.damages, checked.findings, checked.events), (vec![], vec![], round as u64 * 20));
        assert!(checked.pages > 0 && checked.is_closed);
    }
    assert!(rounds.len() > 1, "the log was begun anew");
    bench.store.close().await;
}

#[tokio::test]
async fn a_program_that_copies_the_log_of_a_dead_router_is_told_from_damage() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    let image = crash_image(bench.directory.path());
    // As any client of SQLite does when it is closed.
    let conn = rusqlite::Connection::open(image.path().join("router.db")).unwrap();
    assert_eq!(conn.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap(), 3);
    conn.close().unwrap();
    assert!(!image.path().join("router.db-wal").exists());
    let store = open(image.path());
    assert_eq!(store.findings(), [Finding::WrittenByAnother]);
    assert_eq!(count(&store).await, 3);
    store.close().await;
    let store = open(image.path());
    assert_eq!(store.findings(), [], "it was said once");
    store.close().await;
}

#[tokio::test]
async fn a_program_that_writes_in_a_closed_store_is_damage_and_one_that_copies_the_log_of_a_running_router_is_not() {
    let bench = Bench::with(|options| options.sync = true);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    let other = bench.sql();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    bench.publish_all("k", 3..5).await;
    let bench = bench.kill().await;
    assert!(!bench.store.findings().iter().any(|finding| matches!(finding, Finding::EventsMissing { .. })), "{:?}", bench.store.findings());
    assert_eq!(count(&bench.store).await, 5);
    drop(other);
    bench.store.close().await;

    bench.sql().execute_batch("UPDATE deliveries SET state = 2, fate = '{}' WHERE seq = 2").unwrap();
    let refused = Embedded::open(synced(bench.directory.path()), Arc::new(bench.clock.clone())).err().unwrap().to_string();
    assert!(refused.contains("not what was written"), "{refused}");
}

#[tokio::test]
async fn sums_that_are_gone_or_damaged_are_made_anew_after_a_look_at_everything() {
    let bench = Bench::with(|options| options.sync = true);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    bench.store.close().await;
    let sums = bench.directory.path().join("router.db.sums");
    let whole = std::fs::read(&sums).unwrap();
    std::fs::remove_file(&sums).unwrap();
    let store = open(bench.directory.path());
    assert_eq!((store.findings(), count(&store).await), (vec![], 3));
    store.close().await;
    assert_eq!(std::fs::read(&sums).unwrap().len(), whole.len());
    std::fs::write(&sums, vec![7; whole.len()]).unwrap();
    let store = open(bench.directory.path());
    assert_eq!((store.findings(), count(&store).await), (vec![Finding::SumsUnreadable], 3));
    store.close().await;
}

/// The log of the migrations, cut behind each of its frames: what a death leaves at each moment.
#[tokio::test]
async fn a_death_at_any_moment_of_the_migrations_leaves_a_store_that_the_next_opening_finishes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("router.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(include_str!("version_1.sql")).unwrap();
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    conn.close().unwrap();
    let old = std::fs::read(&path).unwrap();
    let store = open(directory.path());
    let events = count(&store).await;
    assert!(events > 0);
    let image = crash_image(directory.path());
    drop(store);
    let log = std::fs::read(image.path().join("router.db-wal")).unwrap();
    let frame = 24 + usize::try_from(u32::from_be_bytes(log[8..12].try_into().unwrap())).unwrap();
    let frames = (log.len() - 32) / frame;
    assert!(frames > 10, "{frames}");
    let mut versions = std::collections::BTreeSet::new();
    for kept in 0..=frames {
        let dead = tempfile::tempdir().unwrap();
        std::fs::write(dead.path().join("router.db"), &old).unwrap();
        std::fs::write(dead.path().join("router.db-wal"), &log[..32 + kept * frame]).unwrap();
        versions.insert(
            rusqlite::Connection::open(crash_image(dead.path()).path().join("router.db"))
                .unwrap()
                .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
                .unwrap(),
        );
        let store = open(dead.path());
        assert_eq!((store.findings(), count(&store).await), (vec![], events), "{kept} frames");
        store.close().await;
        let conn = rusqlite::Connection::open(dead.path().join("router.db")).unwrap();
        assert_eq!(conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 6, "{kept} frames");
        assert_eq!(conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok", "{kept} frames");
    }
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6], "each version was whole at some moment");
}
