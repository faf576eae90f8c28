//! Looks at a store that is large: what they need not read again, and when they do.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::SignedDuration;
use router_api::{EventQuery, Publication, Store, Transport};
use router_embedded::{Embedded, EmbeddedOptions, OpenError};
use tempfile::TempDir;

use crate::{bench::*, clock::ManualClock};

/// Every store counts as large.
fn large(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions { look_bytes_min: 0, ..options(directory) }
}

fn beside(directory: &Path, suffix: &str) -> PathBuf {
    directory.join(format!("router.db{suffix}"))
}

/// Two hundred events, closed.
async fn closed() -> (TempDir, ManualClock) {
    let bench = Bench::with(|options| options.look_bytes_min = 0);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..200).await;
    bench.store.close().await;
    let Bench { directory, clock, .. } = bench;
    assert!(beside(directory.path(), ".closed").exists(), "it is noted how the store lies");
    (directory, clock)
}

fn look(directory: &Path, clock: &ManualClock) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open_to_look(large(directory), Arc::new(clock.clone()))
}

async fn events(store: &Embedded) -> usize {
    store.events(&EventQuery { last: Some(1_000), ..EventQuery::default() }).await.unwrap().len()
}

/// What an opening that reads everything changes, whatever comes of it: it counts itself, in the store and in its sums.
fn traces(directory: &Path) -> (Vec<u8>, i64, i64, u64) {
    let of = fs::metadata(beside(directory, "")).unwrap();
    (fs::read(beside(directory, ".sums")).unwrap(), of.ctime(), of.ctime_nsec(), of.ino())
}

fn event() -> Publication {
    Publication::new(key("k"), r#"{"n":900}"#.to_owned())
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test]
async fn a_look_at_an_unchanged_store_changes_nothing_of_it_however_often_it_comes() {
    let (directory, clock) = closed().await;
    let before = traces(directory.path());
    for _ in 0..3 {
        let store = look(directory.path(), &clock).unwrap();
        assert_eq!(events(&store).await, 200);
        assert!(matches!(look(directory.path(), &clock), Err(OpenError::HeldByAnother { .. })), "one process has the store, looking or not");
        store.close().await;
        assert_eq!(traces(directory.path()), before, "it was not opened as for work");
        clock.advance(Duration::from_secs(3_600));
    }
    // Whoever works with it examines it, and notes how it lies then.
    let store = Embedded::open(large(directory.path()), Arc::new(clock.clone())).unwrap();
    assert!(!beside(directory.path(), ".closed").exists(), "while it is open it lies in no way");
    store.close().await;
    assert_ne!(traces(directory.path()), before);
    look(directory.path(), &clock).unwrap().close().await;
}

#[tokio::test]
async fn a_small_store_is_read_as_a_whole_by_whoever_looks() {
    let (directory, clock) = closed().await;
    let before = traces(directory.path());
    let small = EmbeddedOptions { look_bytes_min: u64::MAX, ..options(directory.path()) };
    Embedded::open(small, Arc::new(clock.clone())).unwrap().close().await;
    assert!(!beside(directory.path(), ".closed").exists());
    look(directory.path(), &clock).unwrap().close().await;
    assert_ne!(traces(directory.path()), before);
}

#[tokio::test]
async fn a_byte_that_was_changed_anywhere_since_is_seen_by_a_look() {
    let (directory, clock) = closed().await;
    let length = fs::metadata(beside(directory.path(), "")).unwrap().len();
    for at in (0..16).map(|part| length / 16 * part + 40) {
        flip(&beside(directory.path(), ""), at);
        let refused = look(directory.path(), &clock).err();
        assert!(matches!(refused, Some(OpenError::Damaged { .. } | OpenError::ForeignFile { .. })), "byte {at}: {refused:?}");
        // Put right by hand, it is another file for a look, which examines it.
        flip(&beside(directory.path(), ""), at);
    }
    let before = traces(directory.path());
    let store = look(directory.path(), &clock).unwrap();
    assert_eq!(events(&store).await, 200);
    store.close().await;
    assert_ne!(traces(directory.path()), before);
}

#[tokio::test]
async fn a_note_that_is_old_early_cut_or_of_other_files_is_not_believed() {
    async fn examines(what: &str, change: impl FnOnce(&Path, &ManualClock)) {
        let (directory, clock) = closed().await;
        let before = traces(directory.path());
        change(directory.path(), &clock);
        let store = look(directory.path(), &clock).unwrap();
        assert_eq!(events(&store).await, 200, "{what}");
        store.close().await;
        assert_ne!(traces(directory.path()).0, before.0, "{what}: it was believed");
    }
    examines("a day has passed", |_, clock| clock.advance(Duration::from_secs(24 * 3_600 + 1))).await;
    examines("the clock was set back", |_, clock| clock.jump_wall(SignedDuration::from_secs(-60))).await;
    examines("a byte of the note", |directory, _| flip(&beside(directory, ".closed"), 30)).await;
    examines("the note is cut", |directory, _| fs::File::options().write(true).open(beside(directory, ".closed")).unwrap().set_len(100).unwrap()).await;
    examines("another side file", |directory, _| {
        let bytes = fs::read(beside(directory, ".seq")).unwrap();
        fs::remove_file(beside(directory, ".seq")).unwrap();
        fs::write(beside(directory, ".seq"), bytes).unwrap();
    })
    .await;
    examines("a copy of the store", |directory, _| {
        fs::copy(beside(directory, ""), directory.join("copy")).unwrap();
        fs::rename(directory.join("copy"), beside(directory, "")).unwrap();
    })
    .await;
    examines("touched, with its old times put back", |directory, _| {
        let modified = fs::metadata(beside(directory, "")).unwrap().modified().unwrap();
        fs::File::options().write(true).open(beside(directory, "")).unwrap().set_modified(modified).unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_process_left_is_examined_by_a_look() {
    let (directory, clock) = closed().await;
    let store = Embedded::open(large(directory.path()), Arc::new(clock.clone())).unwrap();
    store.publish(event()).await.unwrap();
    let image = crash_image(directory.path());
    store.close().await;
    // The note of the last good end lies there as well.
    fs::copy(beside(directory.path(), ".closed"), beside(image.path(), ".closed")).unwrap();
    let store = look(image.path(), &clock).unwrap();
    assert_eq!(events(&store).await, 201);
    store.close().await;
}

#[tokio::test]
async fn the_first_write_of_a_look_examines_the_store_and_reading_goes_on_beside_it() {
    let (directory, clock) = closed().await;
    let before = traces(directory.path());
    let store = look(directory.path(), &clock).unwrap();
    let (written, read) = tokio::join!(store.publish(event()), events(&store));
    written.unwrap();
    assert!([200, 201].contains(&read), "{read}");
    assert_eq!(events(&store).await, 201);
    store.close().await;
    assert_ne!(traces(directory.path()), before, "it was opened as for work");
    // And closed as such.
    let before = traces(directory.path());
    let store = look(directory.path(), &clock).unwrap();
    assert_eq!(events(&store).await, 201);
    store.close().await;
    assert_eq!(traces(directory.path()), before);
}

#[tokio::test]
async fn damage_that_comes_while_somebody_looks_is_found_by_the_first_write_and_nothing_is_written_or_read_then() {
    let (directory, clock) = closed().await;
    let store = look(directory.path(), &clock).unwrap();
    let length = fs::metadata(beside(directory.path(), "")).unwrap().len();
    flip(&beside(directory.path(), ""), length - 2_000);
    let image = fs::read(beside(directory.path(), "")).unwrap();
    for _ in 0..2 {
        let error = store.publish(event()).await.unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains("store check"), "{error}");
    }
    assert!(store.events(&EventQuery::default()).await.is_err());
    store.close().await;
    assert_eq!(fs::read(beside(directory.path(), "")).unwrap(), image, "nothing was changed");
}
