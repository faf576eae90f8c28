//! A repair that is ended in the middle of its work: each state of the files that it may leave behind, between any two of its steps.
//!
//! Until the finished file lies beside the store, nothing of the store is changed; from there on the next repair ends it, and nothing else
//! opens the store. (The program that is killed in a repair, at random, is in `tests/tests/store`.)

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use router_api::{EventQuery, Store, Transport as _};
use router_embedded::{Embedded, EmbeddedOptions, OpenError, repair};
use tempfile::TempDir;

use crate::{bench::*, clock::ManualClock};

const NOW: &str = "2026-01-02T03:04:05Z";

/// What a repair removes before the finished file takes the store's place, in its order.
const REMOVED: [&str; 5] = ["router.db-wal", "router.db-shm", "router.db-journal", "router.db.sums", "router.db.seq"];

fn open(directory: &Path) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open(EmbeddedOptions { sync: true, ..options(directory) }, Arc::new(ManualClock::default()))
}

async fn keys(directory: &Path) -> Vec<String> {
    let opened = open(directory).unwrap();
    let events = opened.events(&EventQuery { last: Some(100), ..EventQuery::default() }).await.unwrap();
    let mut keys: Vec<String> = events.into_iter().map(|event| format!("{} {}", event.seq, String::from_utf8_lossy(&event.body))).collect();
    keys.sort();
    keys
}

/// Three events, two flipped bits of one page, and what a repair makes of them.
async fn damaged_and_repaired() -> (TempDir, Vec<u8>, Vec<String>) {
    let bench = Bench::with(|options| options.sync = true);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    bench.store.close().await;
    let image = crash_image(bench.directory.path());
    let before = {
        let copy = crash_image(image.path());
        keys(copy.path()).await
    };
    assert_eq!(before.len(), 3);
    let path = image.path().join("router.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 + 40;
    bytes[middle] ^= 0x04;
    fs::write(&path, bytes).unwrap();
    let copy = crash_image(image.path());
    let repaired = repair(&copy.path().join("router.db"), true, NOW.parse().unwrap()).unwrap();
    assert!(repaired.is_done && repaired.lost.is_none(), "{repaired:?}");
    let finished = fs::read(copy.path().join("router.db")).unwrap();
    assert_eq!(keys(copy.path()).await, before);
    (image, finished, before)
}

/// All files below a directory that are not empty, by their path. Who looks at a store makes an empty log.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else if path.extension().is_none_or(|extension| extension != "lock" && extension != "db-shm") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found.retain(|_, bytes| !bytes.is_empty());
    found
}

fn assert_same(was: &BTreeMap<PathBuf, Vec<u8>>, directory: &Path) {
    let is = content(directory);
    let sizes = |of: &BTreeMap<PathBuf, Vec<u8>>| of.iter().map(|(path, bytes)| (path.clone(), bytes.len())).collect::<Vec<_>>();
    assert!(is == *was, "a refusal changes nothing: {:?}, {:?}", sizes(was), sizes(&is));
}

#[tokio::test]
async fn a_repair_that_died_before_its_result_was_there_has_changed_nothing_and_is_done_again() {
    let (image, _, before) = damaged_and_repaired().await;
    let work = image.path().join("router.db.repairing");
    fs::create_dir(&work).unwrap();
    // Half a copy, and half a result.
    let bytes = fs::read(image.path().join("router.db")).unwrap();
    fs::write(work.join("router.db"), &bytes[..bytes.len() / 3]).unwrap();
    fs::write(work.join("result.db"), &bytes[..bytes.len() / 2]).unwrap();
    let was = content(image.path());
    assert!(matches!(open(image.path()), Err(OpenError::Damaged { .. })), "the damage is still there");
    assert_same(&was, image.path());
    let repaired = repair(&image.path().join("router.db"), false, NOW.parse().unwrap()).unwrap();
    assert!(repaired.is_done && repaired.lost.is_none(), "{repaired:?}");
    assert!(!work.exists(), "nothing of it is left");
    assert_eq!(keys(image.path()).await, before);
}

#[tokio::test]
async fn a_repair_that_died_while_its_result_took_the_place_of_the_store_is_ended_by_the_next() {
    let (image, finished, before) = damaged_and_repaired().await;
    for removed in 0..=REMOVED.len() {
        let copy = crash_image(image.path());
        let at = |name: &str| copy.path().join(name);
        fs::write(at("router.db.repaired"), &finished).unwrap();
        for name in &REMOVED[..removed] {
            let _ = fs::remove_file(at(name));
        }
        let was = content(copy.path());
        match open(copy.path()) {
            Err(OpenError::Damaged { what, .. }) => assert!(what.contains("a repair was interrupted"), "{removed} removed: {what}"),
            other => panic!("{removed} removed: {:?}", other.err()),
        }
        assert_same(&was, copy.path());
        // Nothing is lost by it, so nothing has to be accepted.
        let repaired = repair(&at("router.db"), false, NOW.parse().unwrap()).unwrap();
        assert!(repaired.is_done && repaired.lost.is_none() && repaired.events == 3, "{removed} removed: {repaired:?}");
        assert!(!at("router.db.repaired").exists());
        assert_eq!(keys(copy.path()).await, before, "{removed} removed");
    }
}

#[tokio::test]
async fn a_store_that_is_gone_while_its_repaired_one_waits_is_not_made_anew() {
    let (image, finished, before) = damaged_and_repaired().await;
    fs::write(image.path().join("router.db.repaired"), &finished).unwrap();
    fs::remove_file(image.path().join("router.db")).unwrap();
    let refused = open(image.path()).err();
    assert!(matches!(refused, Some(OpenError::Damaged { .. })), "{refused:?}");
    assert!(!image.path().join("router.db").exists(), "an empty one in its place would hide it");
    // By hand it is put there, which is all that a repair would do.
    fs::rename(image.path().join("router.db.repaired"), image.path().join("router.db")).unwrap();
    for name in REMOVED {
        let _ = fs::remove_file(image.path().join(name));
    }
    assert_eq!(keys(image.path()).await, before);
}
