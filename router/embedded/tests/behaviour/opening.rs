//! Opening: the lock, foreign and newer files, modes, what SQLite is told.

use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use router_api::{Store, Transport};
use router_embedded::{Embedded, EmbeddedOptions, OpenError};

use crate::{bench::*, clock::ManualClock};

fn open(options: EmbeddedOptions) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open(options, Arc::new(ManualClock::default()))
}

fn refused(options: EmbeddedOptions) -> OpenError {
    match open(options) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_second_opening_is_refused_with_who_holds_it_until_the_first_is_closed() {
    let bench = Bench::new();
    let error = refused(options(bench.directory.path()));
    assert!(matches!(&error, OpenError::HeldByAnother { pid: Some(pid), .. } if *pid == std::process::id()), "{error:?}");
    let sentence = error.to_string();
    assert!(sentence.contains("router.db") && sentence.contains(&format!("process {}", std::process::id())), "{sentence}");
    bench.store.close().await;
    // The value still lives; closing it is what counts.
    open(options(bench.directory.path())).unwrap().close().await;
    drop(bench);
}

#[tokio::test]
async fn waiting_for_the_lock_ends_when_it_is_free_or_when_the_time_is_over() {
    let bench = Bench::new();
    let clock = bench.clock.clone();
    let waiting = tokio::spawn(Embedded::open_waiting(options(bench.directory.path()), Arc::new(clock.clone()), Duration::from_secs(5)));
    clock.somebody_sleeps().await;
    clock.advance(Duration::from_secs(5));
    assert!(matches!(within(waiting).await.unwrap(), Err(OpenError::HeldByAnother { .. })));

    let waiting = tokio::spawn(Embedded::open_waiting(options(bench.directory.path()), Arc::new(clock.clone()), Duration::from_secs(5)));
    clock.somebody_sleeps().await;
    bench.store.close().await;
    clock.advance(Duration::from_secs(1));
    within(waiting).await.unwrap().unwrap().close().await;
}

#[tokio::test]
async fn a_store_that_is_closed_as_soon_as_it_is_open_is_closed_well() {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { sync: false, ..EmbeddedOptions::new(directory.path().join("router.db")) };
    // The writer may not have had its first turn yet.
    for _ in 0..30 {
        open(options.clone()).unwrap().close().await;
        assert!(router_embedded::check(&options.path).unwrap().is_closed);
    }
}

#[tokio::test]
async fn dropping_the_store_frees_it() {
    let bench = Bench::new();
    bench.bind(&[("a", &["k"])]).await;
    let consumer = bench.consume("a", 1).await;
    let Bench { directory, store, .. } = bench;
    drop(store);
    let store = open(options(directory.path())).unwrap();
    assert!(consumer.next().await.is_none());
    store.close().await;
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("router.db");
    std::fs::write(&path, "notes\n").unwrap();
    let error = refused(options(directory.path()));
    assert!(matches!(&error, OpenError::ForeignFile { what, .. } if what.contains("not an SQLite")), "{error:?}");
    assert!(error.to_string().contains("store.path"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"notes\n");

    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)").unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(refused(options(directory.path())), OpenError::ForeignFile { what, .. } if what.contains("another program")));
    assert_eq!(std::fs::read(&path).unwrap(), before);

    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "application_id", 77).unwrap();
    assert!(matches!(refused(options(directory.path())), OpenError::ForeignFile { .. }));

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(refused(options(directory.path())), OpenError::ForeignFile { what, .. } if what == "a directory"));
}

#[tokio::test]
async fn a_store_of_a_later_version_is_left_alone_with_both_numbers() {
    let bench = Bench::new();
    bench.store.close().await;
    bench.sql().pragma_update(None, "user_version", 99).unwrap();
    // A program that knows that version would have kept them.
    std::fs::remove_file(bench.directory.path().join("router.db.sums")).unwrap();
    let error = refused(options(bench.directory.path()));
    assert!(matches!(error, OpenError::NewerSchema { found: 99, known: 6, .. }), "{error:?}");
    assert!(error.to_string().contains("schema 99") && error.to_string().contains("knows 6"), "{error}");
}

/// Version 1 as it was released, in its own words: a later version of the program must read what it finds there.
#[tokio::test]
async fn a_store_of_version_one_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(directory.path().join("router.db")).unwrap();
    conn.execute_batch(include_str!("version_1.sql")).unwrap();
    conn.close().unwrap();
    let store = open(options(directory.path())).unwrap();
    assert_eq!(store.findings(), []);
    let consumer = store.consume(&route("a"), 9).await.unwrap();
    let deliveries = take_many(&consumer, 2).await;
    assert_eq!(numbers(&deliveries), [1, 0]);
    assert_eq!((deliveries[0].attempts, deliveries[0].history.clone()), (1, vec![failure(1)]));
    assert_eq!(deliveries[0].traceparent.as_deref(), Some("00-1"));
    let letters = store.admin().dead_letters(&router_api::DeadLetterQuery::default()).await.unwrap();
    assert_eq!(letters[0].letter.error, "no use");
    // Bound before the first `bind`, as the file says.
    assert!(store.publish(router_api::Publication::new(key("k"), "{}")).await.unwrap().routed);
    // What later versions added is there.
    assert_eq!(store.archive_position().await.unwrap(), None);
    let record = router_api::DeliveryRecord { route: route("a"), state: router_api::DeliveryState::Queued, attempts: 0, at: jiff::Timestamp::UNIX_EPOCH };
    store.record_fates(vec![router_api::FateRecord { identity: "m".to_owned(), record }]).await.unwrap();
    let write = router_api::LedgerKey { subject: "event:e".to_owned(), effect: "http".to_owned(), ordinal: 0, digest: "d".to_owned() };
    assert_eq!(store.ledger_begin(&route("a"), &write, jiff::Timestamp::UNIX_EPOCH).await.unwrap(), None);
    assert!(store.ledger_begin(&route("a"), &write, jiff::Timestamp::UNIX_EPOCH).await.unwrap().is_some());
    assert_eq!(store.sessions(&router_api::SessionQuery::default()).await.unwrap(), []);
    let active = store.active_sessions(100).await.unwrap();
    assert!(active.read_to > 0 && active.behind == 0, "what was stored before is looked at: {active:?}");
    store.close().await;
    let conn = rusqlite::Connection::open(directory.path().join("router.db")).unwrap();
    assert_eq!(conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 6);
}

#[tokio::test]
async fn files_are_for_their_owner_alone_and_the_directory_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("state/of/router");
    let store = open(options(&deep)).unwrap();
    store.bind(&[subscription("a", &["k"])]).await.unwrap();
    store.publish(router_api::Publication::new(key("k"), "{}")).await.unwrap();
    assert_eq!(std::fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&deep).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["router.db", "router.db-shm", "router.db-wal", "router.db.lock", "router.db.running", "router.db.seq", "router.db.sums"]);
    store.close().await;
}

#[tokio::test]
async fn the_file_can_give_space_back_and_keeps_a_log() {
    let bench = Bench::new();
    let number = |pragma: &str| bench.count(&format!("PRAGMA {pragma}"));
    assert_eq!((number("auto_vacuum"), number("application_id"), number("user_version")), (2, 0x6576_7274, 6));
    let mode: String = bench.sql().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn an_opening_that_died_before_the_schema_was_there_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(directory.path().join("router.db")).unwrap();
    // SQLite's first page, without our mark.
    conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA user_version = 0; VACUUM").unwrap();
    conn.close().unwrap();
    open(options(directory.path())).unwrap().close().await;
    open(options(directory.path())).unwrap().close().await;
}

#[test]
fn a_file_that_is_cut_is_reported_as_damaged_or_foreign() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(options(directory.path())).unwrap();
    drop(store);
    let path = directory.path().join("router.db");
    let whole = std::fs::read(&path).unwrap();
    std::fs::remove_file(directory.path().join("router.db-wal")).ok();
    for length in [1, 50, 100, 4_000, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = refused(options(directory.path()));
        assert!(matches!(error, OpenError::Damaged { .. } | OpenError::ForeignFile { .. }), "cut at {length}: {error:?}");
    }
}
