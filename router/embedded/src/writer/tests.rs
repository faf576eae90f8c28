//! The writer by what its callers see of it.

use std::{sync::mpsc, time::Duration};

use jiff::Timestamp;
use router_api::{BoxFuture, Clock, EventQuery, Publication, Store, Transport, TransportError};

use super::{reopening::disk_error, *};
use crate::{Embedded, EmbeddedOptions};

/// It is always the same moment.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> std::time::Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

fn open() -> (tempfile::TempDir, Arc<Embedded>) {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::new(directory.path().join("router.db")) };
    let store = Embedded::open(options, Arc::new(Still)).unwrap();
    (directory, store)
}

fn event(bytes: usize) -> Publication {
    Publication::new("k".parse().unwrap(), vec![b'x'; bytes])
}

#[tokio::test]
async fn what_arrives_during_one_commit_is_the_next_up_to_the_limit() {
    let (_directory, store) = open();
    let (go, gone) = mpsc::channel::<()>();
    let busy = Arc::clone(&store);
    let begun = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&begun);
    let busy = tokio::spawn(async move {
        let wait = move |_: &Writing<'_>| {
            tell.notify_one();
            Ok(gone.recv().is_ok())
        };
        busy.shared.writer.write(wait).await
    });
    // Begun is said by the work itself, from the writer's thread.
    begun.notified().await;
    let before = store.measures().commits;
    // Unconstrained: else tokio takes turns after a hundred of them, and not all have arrived when the writer goes on.
    let publications = tokio::task::unconstrained(futures_util::future::join_all((0..GROUP_MAX + 100).map(|_| store.publish(event(1)))));
    let mut publications = std::pin::pin!(publications);
    assert!(futures_util::poll!(&mut publications).is_pending());
    go.send(()).unwrap();
    publications.await;
    assert!(busy.await.unwrap().unwrap());
    let commits = store.measures().commits - before;
    assert_eq!(commits, 3, "the one that was busy, one that is full, one with the rest");
}

/// What waits for company, as a settlement of something done does.
fn patient(store: &Embedded) -> (Box<dyn Work>, oneshot::Receiver<u64>) {
    let (sender, receiver) = oneshot::channel();
    let shared = Arc::clone(&store.shared.writer.shared);
    let finish = move |outcome: Result<(), WriteError>| {
        outcome.unwrap();
        let _ = sender.send(shared.commits.load(Ordering::Relaxed));
    };
    (patient_job(|_: &Writing<'_>| Ok(()), finish), receiver)
}

#[tokio::test]
async fn what_waits_for_company_goes_with_the_next_that_does_not_wait() {
    let (_directory, store) = open();
    let writer = &store.shared.writer;
    // Nobody waits so long: each end of the waiting below is one that somebody else has brought about.
    writer.shared.company_us.store(3_600_000_000, Ordering::Relaxed);
    for _ in 0..20 {
        store.publish(event(10)).await.unwrap();
        let before = store.measures().commits;
        let (one, one_done) = patient(&store);
        let (another, another_done) = patient(&store);
        writer.send(one).await;
        writer.send(another).await;
        store.publish(event(10)).await.unwrap();
        assert_eq!((one_done.await.unwrap(), another_done.await.unwrap()), (before + 1, before + 1));
        assert_eq!(store.measures().commits, before + 1);
    }
    // The end of the store is company, too.
    let (last, last_done) = patient(&store);
    writer.send(last).await;
    store.close().await;
    last_done.await.unwrap();
}

#[tokio::test]
async fn enough_that_waits_for_company_is_company_and_what_comes_after_it_waits_again() {
    let (_directory, store) = open();
    let writer = &store.shared.writer;
    writer.shared.company_us.store(3_600_000_000, Ordering::Relaxed);
    store.publish(event(10)).await.unwrap();
    for _ in 0..20 {
        let before = store.measures().commits;
        let mut all = Vec::new();
        for _ in 0..COMPANY_MAX {
            let (work, done) = patient(&store);
            writer.send(work).await;
            all.push(done);
        }
        for done in all {
            assert_eq!(done.await.unwrap(), before + 1);
        }
    }
    // Several came together, so one more waits for the next.
    let before = store.measures().commits;
    let (last, last_done) = patient(&store);
    writer.send(last).await;
    store.publish(event(10)).await.unwrap();
    assert_eq!((last_done.await.unwrap(), store.measures().commits), (before + 1, before + 1));
    store.close().await;
}

#[tokio::test]
async fn where_nothing_came_in_before_nothing_waits_for_company() {
    let (_directory, store) = open();
    let writer = &store.shared.writer;
    writer.shared.company_us.store(3_600_000_000, Ordering::Relaxed);
    store.publish(event(10)).await.unwrap();
    store.set_state(&"a".parse().unwrap(), "s", Some(serde_json::json!(1))).await.unwrap();
    for _ in 0..3 {
        let (work, done) = patient(&store);
        writer.send(work).await;
        done.await.unwrap();
    }
    // It waits once behind each commit that brought something, and no longer than it may.
    writer.shared.company_us.store(1_000, Ordering::Relaxed);
    store.publish(event(10)).await.unwrap();
    let (work, done) = patient(&store);
    writer.send(work).await;
    done.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_as_such_and_what_was_accepted_stays() {
    let (_directory, store) = open();
    store.publish(event(10)).await.unwrap();
    let limit = |pages: u32| store.shared.writer.write(move |writing| writing.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())));
    // SQLite takes the size that the file has for a limit below it.
    limit(1).await.unwrap();
    let Err(TransportError::Full(sentence)) = store.publish(event(1_000_000)).await else { panic!("it was stored") };
    assert!(sentence.contains("no room") && sentence.contains("router.db"), "{sentence}");
    store.set_state(&"a".parse().unwrap(), "small", Some(serde_json::json!(1))).await.unwrap();
    limit(1_000_000).await.unwrap();
    store.publish(event(1_000_000)).await.unwrap();
    assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn in_a_file_that_is_damaged_nothing_is_written_any_more_and_reading_goes_on() {
    let (_directory, store) = open();
    store.publish(event(10)).await.unwrap();
    let damaged = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
    let broken = store.shared.writer.write::<(), _>(move |_| Err(damaged())).await;
    assert!(matches!(broken, Err(WriteError::Broken { heals: false, .. })), "{broken:?}");
    let Err(TransportError::Refused(sentence)) = store.publish(event(10)).await else { panic!("it was stored") };
    assert!(sentence.contains("restart the router"), "{sentence}");
    let error = store.set_state(&"a".parse().unwrap(), "s", Some(serde_json::json!(1))).await.unwrap_err();
    assert!(error.message.contains("restart the router") && !error.full);
    assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 1);
    store.close().await;
}

#[tokio::test]
async fn after_a_failed_sync_the_file_is_opened_anew_and_has_what_was_accepted() {
    let (_directory, store) = open();
    store.publish(event(10)).await.unwrap();
    let broken = store.shared.writer.write::<(), _>(move |_| Err(disk_error())).await;
    assert!(matches!(broken, Err(WriteError::Broken { heals: true, .. })), "{broken:?}");
    // It heals by itself, and until then whoever comes is told to try again.
    loop {
        match store.publish(event(10)).await {
            Ok(_) => break,
            Err(TransportError::Unavailable(sentence)) => assert!(sentence.contains("is opened anew"), "{sentence}"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.shared.writer.works(), Ok(()));
    assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 2);
    store.close().await;
}

#[tokio::test]
async fn a_file_that_is_not_what_it_was_when_it_is_opened_anew_is_not_written_again() {
    let (directory, store) = open();
    store.publish(event(10)).await.unwrap();
    let path = directory.path().join("router.db");
    // As if the disk had lost the event.
    Connection::open(&path).unwrap().execute_batch("DELETE FROM events; DELETE FROM sqlite_sequence").unwrap();
    let broken = store.shared.writer.write::<(), _>(move |_| Err(disk_error())).await;
    assert!(matches!(broken, Err(WriteError::Broken { heals: true, .. })), "{broken:?}");
    let sentence = loop {
        match store.publish(event(10)).await {
            Err(TransportError::Refused(sentence)) => break sentence,
            Err(TransportError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => panic!("{other:?}"),
        }
    };
    assert!(sentence.contains("events 1 to 1, which were accepted, are missing"), "{sentence}");
    store.close().await;
}

#[tokio::test]
async fn work_that_waits_when_the_store_is_closed_is_done_and_later_work_is_refused() {
    let (_directory, store) = open();
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.publish(event(1)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    for publication in waiting {
        match publication.await.unwrap() {
            Ok(published) => assert!(published.seq.is_some()),
            Err(error) => assert!(error.to_string().contains("closed"), "{error}"),
        }
    }
    assert_eq!(store.shared.writer.write(|_| Ok(())).await, Err(WriteError::Closed));
}

#[tokio::test]
async fn a_writer_that_panics_keeps_the_lock_answers_everybody_and_reading_goes_on() {
    let (directory, store) = open();
    store.publish(event(1)).await.unwrap();
    let panicked: Result<(), _> = store.shared.writer.write(|_: &Writing<'_>| panic!("made to panic")).await;
    assert!(panicked.is_err());
    let TransportError::Refused(sentence) = store.publish(event(1)).await.unwrap_err() else { panic!("it will not heal by itself") };
    assert!(sentence.contains("panicked") && sentence.contains("restart the router"), "{sentence}");
    assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 1);
    let options = || EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::new(directory.path().join("router.db")) };
    assert!(matches!(Embedded::open(options(), Arc::new(Still)), Err(crate::OpenError::HeldByAnother { .. })));
    store.close().await;
    let store = Embedded::open(options(), Arc::new(Still)).unwrap();
    assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 1);
}
