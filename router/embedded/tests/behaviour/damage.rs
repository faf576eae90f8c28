//! A store of three events, with every byte of it flipped in turn and cut at every length: what was accepted is there, or it is said
//! that it is not.
//!
//! All bytes of the side files and of the headers are flipped in each run, and of the file and its log every [`stride`]th, beginning
//! elsewhere each time; `EVENT_ROUTER_TESTS_LONG` flips all of them and cuts at every length, and repairs one in [`REPAIRED`] of what was refused.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use router_api::{DeadLetterReason, EventQuery, Settlement, Store, Transport};
use router_embedded::{Embedded, EmbeddedOptions, OpenError};
use tempfile::TempDir;

use crate::{bench::*, clock::ManualClock};

fn synced(directory: &Path) -> EmbeddedOptions {
    EmbeddedOptions { sync: true, ..options(directory) }
}

/// What is known of each event: its key, its body, and what became of it.
type Known = BTreeMap<u64, String>;

async fn known(store: &Embedded) -> Known {
    let events = store.events(&EventQuery { last: Some(100), ..EventQuery::default() }).await.unwrap();
    let told = |event: router_api::ArchivedEvent| {
        let mut fates: Vec<String> = event.deliveries.iter().map(|delivery| format!("{} {:?} {}", delivery.route, delivery.state, delivery.attempts)).collect();
        fates.sort();
        (event.seq, format!("{} {} {fates:?}", event.key, String::from_utf8_lossy(&event.body)))
    };
    events.into_iter().map(told).collect()
}

/// One is handled, one is given up on, one waits. As the death of its process leaves it, or closed.
async fn three_events(is_closed: bool) -> (TempDir, Known) {
    let bench = Bench::with(|options| options.sync = true);
    bench.bind(&[("a", &["k"])]).await;
    bench.publish_all("k", 0..3).await;
    let consumer = bench.consume("a", 9).await;
    let mut hand = take_many(&consumer, 3).await;
    consumer.settle(vec![hand.remove(0)], handled(1)).await.unwrap();
    consumer.settle(vec![hand.remove(0)], Settlement::Bury(Box::new(letter("a", DeadLetterReason::Rejected)))).await.unwrap();
    drop((consumer, hand));
    let image = if is_closed {
        bench.store.close().await;
        crash_image(bench.directory.path())
    } else {
        crash_image(bench.directory.path())
    };
    // As it is told when nothing is wrong.
    let copy = crash_image(image.path());
    let store = open(copy.path()).unwrap();
    assert_eq!(store.findings(), []);
    let known = known(&store).await;
    assert_eq!(known.len(), 3);
    drop(store);
    (image, known)
}

fn open(directory: &Path) -> Result<Arc<Embedded>, OpenError> {
    Embedded::open(synced(directory), Arc::new(ManualClock::default()))
}

fn store(directory: &Path) -> PathBuf {
    directory.join("router.db")
}

/// Opens a damaged copy, and holds what is there against what was. Returns whether it was refused.
async fn holds(known_before: &Known, directory: &Path, what: &str) -> bool {
    match open(directory) {
        Ok(opened) => {
            let now = known(&opened).await;
            drop(opened);
            assert_eq!(&now, known_before, "{what}: it was opened, and something is different");
            false
        }
        Err(OpenError::Damaged { .. } | OpenError::ForeignFile { .. } | OpenError::NewerSchema { .. }) => true,
        Err(other) => panic!("{what}: {other:?}"),
    }
}

/// Repairs it, and holds what is there, or is told to be lost, against what was.
async fn repairs(known_before: &Known, directory: &Path, what: &str) -> bool {
    let path = store(directory);
    let now = "2026-01-02T03:04:05Z".parse().unwrap();
    let repaired = router_embedded::repair(&path, true, now).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(repaired.is_done, "{what}");
    let lost = repaired.lost.clone().unwrap_or_default();
    let is_lost = |seq: &u64| lost.numbers.iter().any(|(first, last)| (*first..=*last).contains(seq));
    let is_unknown = |seq: &u64| lost.fates.is_some_and(|(first, last)| (first..=last).contains(seq));
    let opened = open(directory).unwrap_or_else(|error| panic!("{what}: after the repair: {error}\n{repaired:?}"));
    let after = known(&opened).await;
    drop(opened);
    for (seq, was) in known_before {
        match after.get(seq) {
            Some(is) if is == was => {}
            // Whoever accepts a loss is told which; the last commits may be handled again.
            Some(is) => {
                let content = |text: &str| text.split(" [").next().unwrap_or_default().to_owned();
                assert_eq!(content(is), content(was), "{what}: event {seq} is another one\n{repaired:?}");
                assert!(repaired.lost.is_some(), "{what}: the fate of event {seq} changed without a word: {was} {is}\n{repaired:?}");
                assert!(is_unknown(seq) || is.contains("Queued") || lost.tables.len() + lost.queued_again as usize > 0, "{what}: {was} {is}\n{repaired:?}");
            }
            None => assert!(is_lost(seq), "{what}: event {seq} is neither there nor told to be lost\n{repaired:?}"),
        }
    }
    assert!(after.keys().all(|seq| known_before.contains_key(seq)), "{what}: {after:?}");
    repaired.lost.is_none()
}

fn is_long() -> bool {
    std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some()
}

/// Of the file's bytes one in so many is flipped; a prime, so that the places differ from page to page. `EVENT_ROUTER_TESTS_STRIDE` is
/// another one, where all of them would take too long.
fn stride() -> (usize, usize) {
    let stride = std::env::var("EVENT_ROUTER_TESTS_STRIDE").ok().and_then(|stride| stride.parse().ok()).filter(|stride| *stride > 0);
    let stride = stride.unwrap_or(if is_long() { 1 } else { 3_001 });
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as usize);
    (time % stride, stride)
}

/// Of what was refused, one in so many is repaired: a repair writes a store anew, which takes longer than to refuse one.
const REPAIRED: usize = 31;

/// Is what was refused for the byte at `at`, or for being cut there, repaired too?
fn is_repaired(at: usize) -> bool {
    if is_long() { at < 100 || at.is_multiple_of(REPAIRED) } else { at.is_multiple_of(3) }
}

/// A copy of a store that is damaged again and again: while it is refused nothing changes it, so it need not be copied anew.
struct Copy<'a> {
    image: &'a Path,
    directory: Option<TempDir>,
}

impl<'a> Copy<'a> {
    fn of(image: &'a Path) -> Self {
        Self { image, directory: None }
    }

    fn directory(&mut self) -> &Path {
        self.directory.get_or_insert_with(|| crash_image(self.image)).path()
    }

    fn file(&mut self, name: &str) -> File {
        OpenOptions::new().write(true).open(self.directory().join(name)).unwrap()
    }

    /// It was opened or repaired, and is another one now.
    fn is_spoilt(&mut self) {
        self.directory = None;
    }

    /// What was refused, and got its bytes back, is as it was. Who looks at a store may make an empty file.
    fn assert_unchanged(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let (now, was) = (std::fs::read(&path).unwrap(), std::fs::read(self.image.join(path.file_name().unwrap())).unwrap_or_default());
            let is_lasting = path.extension().is_none_or(|extension| extension != "lock" && extension != "db-shm");
            assert!(now == was || !is_lasting, "a refusal has changed {}", path.display());
        }
    }
}

#[expect(clippy::print_stdout, reason = "how much was found and mended, for who reads the long form")]
async fn sweep(is_closed: bool) {
    let (image, known) = three_events(is_closed).await;
    let (first, stride) = stride();
    let mut refused = BTreeMap::new();
    let (mut healed, mut repaired) = (0, 0);
    let mut copy = Copy::of(image.path());
    for name in ["router.db", "router.db-wal", "router.db.seq", "router.db.sums"] {
        let Ok(bytes) = std::fs::read(image.path().join(name)) else { continue };
        let is_small = bytes.len() < 2_000;
        let step = if is_small { 1 } else { stride };
        // The header of the file decides what SQLite takes it for, so each of its bytes is tried.
        let header = if is_small || stride == 1 { 0 } else { 100 };
        for at in (0..header).chain((if is_small { 0 } else { first }..bytes.len()).step_by(step)) {
            // One bit, and sometimes all of the byte.
            let flipped = bytes[at] ^ if at % 5 == 2 { 0xff } else { 1 << (at % 8) };
            let what = format!("byte {at} of `{name}` (first {first}, closed {is_closed})");
            copy.file(name).write_all_at(&[flipped], at as u64).unwrap();
            let is_refused = holds(&known, copy.directory(), &what).await;
            if is_refused && is_repaired(at) {
                repaired += 1;
                healed += usize::from(repairs(&known, copy.directory(), &what).await);
                copy.is_spoilt();
            } else if is_refused {
                copy.file(name).write_all_at(&bytes[at..=at], at as u64).unwrap();
            } else {
                copy.is_spoilt();
            }
            let counted: &mut (usize, usize) = refused.entry(name).or_default();
            counted.0 += usize::from(is_refused);
            counted.1 += 1;
        }
        copy.assert_unchanged();
    }
    println!("closed {is_closed}: refused {refused:?}; {healed} of {repaired} repairs lost nothing");
    let of = |name: &str| refused.get(name).copied().unwrap_or_default();
    let whole = if is_closed { "router.db" } else { "router.db-wal" };
    assert!(of(whole).0 > 0 && of(whole).0 == of(whole).1, "{whole}: {refused:?}");
    assert!(repaired > 0 && healed * 2 >= repaired, "a flipped bit is put right: {healed} of {repaired}");
}

#[tokio::test]
async fn a_flipped_byte_of_a_closed_store_is_told_and_repaired() {
    sweep(true).await;
}

#[tokio::test]
async fn a_flipped_byte_of_a_store_whose_process_died_is_told_and_repaired() {
    sweep(false).await;
}

#[expect(clippy::print_stdout, reason = "how much was found, for who reads the long form")]
#[tokio::test]
async fn a_store_that_was_cut_is_told_and_repaired() {
    for is_closed in [true, false] {
        let (image, known) = three_events(is_closed).await;
        let (first, stride) = stride();
        let mut refused: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut copy = Copy::of(image.path());
        for name in ["router.db", "router.db-wal", "router.db.seq", "router.db.sums"] {
            let Ok(bytes) = std::fs::read(image.path().join(name)) else { continue };
            let cut = if is_long() { stride } else { 4 * stride };
            let is_tried = |length: usize| cut == 1 || length == 0 || bytes.len() < 2_000 && length.is_multiple_of(8) || length % cut == first;
            // The shorter the later, so that what was refused need not be copied anew.
            for length in (0..bytes.len()).rev().filter(|length| is_tried(*length) || *length + 1 == bytes.len()) {
                let what = format!("`{name}` cut at {length} of {} (first {first}, closed {is_closed})", bytes.len());
                copy.file(name).set_len(length as u64).unwrap();
                let is_refused = holds(&known, copy.directory(), &what).await;
                if is_refused && (!is_long() || is_repaired(length)) {
                    repairs(&known, copy.directory(), &what).await;
                    copy.is_spoilt();
                } else if !is_refused {
                    copy.is_spoilt();
                }
                let counted = refused.entry(name).or_default();
                counted.0 += usize::from(is_refused);
                counted.1 += 1;
            }
            copy.is_spoilt();
            let what = format!("`{name}` removed (closed {is_closed})");
            std::fs::remove_file(copy.directory().join(name)).unwrap();
            if holds(&known, copy.directory(), &what).await {
                repairs(&known, copy.directory(), &what).await;
            }
            copy.is_spoilt();
        }
        println!("cut, closed {is_closed}: refused {refused:?}");
        let is_told = |name: &str| refused.get(name).is_some_and(|(told, _)| *told > 0);
        assert!(is_told("router.db"), "{refused:?}");
        assert_eq!(is_told("router.db-wal"), !is_closed, "{refused:?}");
    }
}
