//! Changes to the files of a small store: which file, two bytes of place, a length, then what to put there, again and again. It is looked at,
//! opened, used and repaired; or each says why not.
//!
//! Where nothing but bytes of one file changed, the store opens with exactly what it had, or is refused and left as it is; a repair then
//! brings back each event or says that it is lost. Where several files changed, what is shown are events that were accepted. A change may
//! also make the checksums fit what was put (`SEALED`), as nobody but a bug or somebody with ill intent does: SQLite and everything behind it
//! then read what nobody wrote, and anything may come of it but a panic or a hang.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use router_api::{
    DeadLetter, DeadLetterQuery, DeadLetterReason, Destination, Envelope, EventQuery, Fate, InboxKey, Matcher, PageQuery, Publication, RouteName, RoutingKey,
    SessionQuery, Settlement, Store as _, Subscription, Transport as _,
};
use router_embedded::{Embedded, EmbeddedOptions, OpenError};
use router_testkit::VirtualClock;

/// Of the first byte of a change: the store that was closed, not the one whose process died.
const CLOSED: u8 = 0x80;
/// Of the same: all checksums are made to fit.
const SEALED: u8 = 0x40;
/// Of the length: the file ends at the place.
const CUT: u8 = 0x80;
/// Of the same: the file is taken away.
const GONE: u8 = 0x40;

/// The files of a store: name and content.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// What is known of each event by its number: its body, and what became of it.
type Known = BTreeMap<u64, (Bytes, String)>;

/// The stores that are changed: of a process that died, and one that was closed.
static BASES: LazyLock<[(Files, Known); 2]> = LazyLock::new(|| [base(false), base(true)]);

struct All;

impl Matcher for All {
    fn matches(&self, _: &Envelope) -> bool {
        true
    }

    fn lane(&self, _: &Envelope) -> Option<String> {
        Some("lane".to_owned())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn route() -> RouteName {
    "a".parse().expect("a name")
}

fn publication(number: usize) -> Publication {
    let body = format!("{{\"event_id\":\"event-{number}\",\"payload\":{{\"text\":\"{}\"}}}}", "x".repeat(100 * number));
    Publication::new(RoutingKey::new("a.b").expect("a key"), body.into_bytes())
}

fn open(directory: &Path) -> Result<Arc<Embedded>, OpenError> {
    let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::new(directory.join("router.db")) };
    Embedded::open(options, Arc::new(VirtualClock::default()))
}

/// A store of three events: one is done, one was given up on, one waits.
fn base(is_closed: bool) -> (Files, Known) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).expect("a new store opens");
    runtime().block_on(async {
        let subscription =
            Subscription { route: route(), patterns: vec!["a.#".parse().expect("a pattern")], matcher: Arc::new(All), queue: Default::default() };
        store.bind(&[subscription]).await.expect("it is bound");
        for number in 0..3 {
            store.publish(publication(number)).await.expect("it is taken");
        }
        let consumer = store.consume(&route(), 2).await.expect("it is taken up");
        let mut hand = Vec::new();
        for _ in 0..2 {
            hand.push(consumer.next().await.expect("the session lives").expect("it is readable"));
        }
        let key = InboxKey { key: "event-0".to_owned(), expires_at: jiff::Timestamp::MAX };
        let done = Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }], inbox: vec![Some(key)] };
        consumer.settle(vec![hand.remove(0)], done).await.expect("it is settled");
        consumer.settle(hand, Settlement::Bury(Box::new(letter()))).await.expect("it is buried");
        consumer.close().await;
    });
    if is_closed {
        runtime().block_on(store.close());
    }
    let files = files(directory.path());
    let known = if is_closed { known(&open(directory.path()).expect("it opens")) } else { known(&store) };
    let known = known.expect("it is readable");
    assert_eq!(known.len(), 3);
    (files, known)
}

fn letter() -> DeadLetter {
    DeadLetter {
        route: route(),
        plugin: "p".to_owned(),
        reason: DeadLetterReason::Rejected,
        error: "no use".to_owned(),
        detail: None,
        attempts: 1,
        history: Vec::new(),
        buried_at: jiff::Timestamp::UNIX_EPOCH,
        config_hash: String::new(),
        burst: None,
        traceparent: None,
    }
}

/// All but the lock, by name.
fn files(directory: &Path) -> Files {
    let mut files: Files = std::fs::read_dir(directory)
        .expect("it is readable")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| (PathBuf::from(entry.file_name()), std::fs::read(entry.path()).expect("it is readable")))
        .filter(|(name, _)| !name.to_string_lossy().ends_with(".lock"))
        .collect();
    files.sort();
    files
}

fn known(store: &Embedded) -> Result<Known, String> {
    let events = runtime().block_on(store.events(&EventQuery { last: Some(100), ..EventQuery::default() }));
    let told = |event: router_api::ArchivedEvent| {
        let mut fates: Vec<String> = event.deliveries.iter().map(|delivery| format!("{} {:?} {}", delivery.route, delivery.state, delivery.attempts)).collect();
        fates.sort();
        (event.seq, (event.body, fates.join(", ")))
    };
    events.map(|events| events.into_iter().map(told).collect()).map_err(|error| error.to_string())
}

/// A sentence that may be told. A panic that was caught is one that is to be found here.
fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    assert!(!text.is_empty() && !text.contains("panicked") && !text.contains("the reader failed"), "{text}");
    text
}

/// What an input comes to.
struct Changed {
    files: Files,
    known: &'static Known,
    /// Names of files of which something lasts.
    changed: Vec<PathBuf>,
    is_sealed: bool,
}

impl Changed {
    fn of(data: &[u8]) -> Self {
        let mut changes = Vec::new();
        let mut rest = data;
        while let [which, a, b, length, behind @ ..] = rest {
            let (put, behind) = behind.split_at(usize::from(*length & 0x0f).min(behind.len()));
            changes.push((*which, usize::from(*a) << 8 | usize::from(*b), *length, put));
            rest = behind;
        }
        let has = |flag: u8| changes.iter().any(|(which, ..)| which & flag != 0);
        let (base, known) = &BASES[usize::from(has(CLOSED))];
        let (mut files, is_sealed) = (base.clone(), has(SEALED));
        for (which, place, length, put) in changes {
            let count = files.len();
            let content = &mut files[usize::from(which & 0x3f) % count].1;
            let place = place * 7 % content.len().max(1);
            if length & GONE != 0 {
                content.clear();
            } else if length & CUT != 0 {
                content.truncate(place);
            } else {
                let end = (place + put.len()).min(content.len());
                content[place..end].copy_from_slice(&put[..end - place]);
            }
        }
        if is_sealed {
            seal(&mut files);
        }
        // What the log's shared memory and the file of running handlings say, nobody has to believe.
        let is_lasting = |name: &Path| !["-shm", ".running", ".closed"].iter().any(|end| name.to_string_lossy().ends_with(end));
        let changed = files.iter().zip(base).filter(|(now, was)| now != was && is_lasting(&now.0)).map(|(now, _)| now.0.clone()).collect();
        // An empty file and none are not the same.
        files.retain(|(name, content)| !content.is_empty() || name.as_os_str() == "router.db");
        Self { files, known, changed, is_sealed }
    }

    fn write(&self, directory: &Path) {
        for (name, content) in &self.files {
            std::fs::write(directory.join(name), content).expect("it is written");
        }
    }

    /// What is shown is what was accepted; all of it, and its fates too, where no two changes could hide each other.
    fn holds(&self, shown: &Known, what: &str) {
        for (seq, (body, _)) in shown {
            assert_eq!(self.known.get(seq).map(|(was, _)| was), Some(body), "{what}: event {seq} was never accepted like this");
        }
        assert!(self.changed.len() > 1 || shown == self.known, "{what}: {:?} is changed, and the store shows without a word {shown:?}", self.changed);
    }
}

pub(super) fn run(data: &[u8]) {
    let changed = Changed::of(data);
    let directory = tempfile::tempdir().expect("a directory");
    changed.write(directory.path());
    let path = directory.path().join("router.db");
    let checked = router_embedded::check(&path).map_err(|error| sentence(&error));
    let opened = open(directory.path());
    if changed.is_sealed {
        if let Ok(store) = &opened {
            runtime().block_on(used(store));
        }
    } else {
        match &opened {
            Ok(store) => {
                changed.holds(&known(store).expect("what was opened is readable"), "it opened");
                let checked = checked.as_ref().expect("what opens can be looked at");
                assert!(changed.changed.len() > 1 || checked.damages.is_empty(), "it opened, and a look says {:?}", checked.damages);
            }
            Err(error) => {
                assert!(
                    checked.is_err() || checked.as_ref().is_ok_and(|checked| !checked.damages.is_empty()),
                    "it is refused, and a look finds nothing: {error}"
                );
                let now: BTreeMap<_, _> = files(directory.path()).into_iter().collect();
                let is_same = |(name, content): &(PathBuf, Vec<u8>)| name.to_string_lossy().ends_with("-shm") || now.get(name) == Some(content);
                assert!(changed.files.iter().all(is_same), "it was refused, and changed all the same: {error}");
            }
        }
    }
    match opened {
        Ok(store) => runtime().block_on(store.close()),
        Err(error) => {
            sentence(&error);
            repaired(&changed, directory.path());
        }
    }
}

/// Once a loss is accepted, it opens, and each event is there or told to be lost.
fn repaired(changed: &Changed, directory: &Path) {
    let repaired = match router_embedded::repair(&directory.join("router.db"), true, jiff::Timestamp::UNIX_EPOCH) {
        Ok(repaired) => repaired,
        Err(error) => {
            let text = sentence(&error);
            // A file that does not say that it is ours is nobody's to repair.
            return assert!(changed.is_sealed || changed.changed.len() > 1, "{:?} is changed, and cannot be repaired: {text}", changed.changed);
        }
    };
    let opened = match open(directory) {
        Ok(opened) => opened,
        Err(error) => {
            let text = sentence(&error);
            return assert!(changed.is_sealed || changed.changed.len() > 1, "it does not open after its repair: {text}");
        }
    };
    if changed.is_sealed {
        runtime().block_on(used(&opened));
    } else {
        let shown = known(&opened).expect("what was repaired is readable");
        for (seq, (body, _)) in &shown {
            assert_eq!(changed.known.get(seq).map(|(was, _)| was), Some(body), "after a repair event {seq} is one that was never accepted");
        }
        let lost = repaired.lost.clone().unwrap_or_default();
        let is_told = |seq: &u64| shown.contains_key(seq) || lost.numbers.iter().any(|(first, last)| (*first..=*last).contains(seq));
        assert!(
            changed.changed.len() > 1 || changed.known.keys().all(is_told),
            "{:?} is changed, and not all events are there or told: {repaired:?}",
            changed.changed
        );
    }
    runtime().block_on(opened.close());
}

/// Whatever it says, it is said without a panic and in the end.
async fn used(store: &Embedded) {
    const PATIENCE: Duration = Duration::from_millis(50);
    fn told<T, E: std::error::Error>(answer: Result<T, E>) -> Option<T> {
        answer.map_err(|error| sentence(&error)).ok()
    }
    let (now, admin) = (jiff::Timestamp::UNIX_EPOCH, store.admin());
    told(store.events(&EventQuery { last: Some(100), ..EventQuery::default() }).await);
    told(store.event("event-1").await);
    told(store.page(&PageQuery { after: 0, session: None, key: None, from: None, to: None, limit: 100, bytes_max: 1 << 20 }).await);
    told(store.sessions(&SessionQuery::default()).await);
    told(store.active_sessions(100).await);
    told(store.noted_attempts(&route()).await);
    told(store.frozen(&route()).await);
    told(store.suspects(&route()).await);
    told(store.state(&route(), "k").await);
    told(store.ledger(&route(), "event:event-0").await);
    told(store.inbox_contains(&route(), "event-0", now).await);
    told(admin.queues().await);
    let letters = told(admin.dead_letters(&DeadLetterQuery::default()).await).unwrap_or_default();
    told(admin.redrive(&letters.into_iter().map(|letter| letter.id).collect::<Vec<_>>()).await);
    told(store.publish(Publication { to: Destination::Route { route: route(), delay: Duration::ZERO }, ..publication(1) }).await);
    if let Some(consumer) = told(store.consume(&route(), 9).await) {
        for _ in 0..4 {
            match tokio::time::timeout(PATIENCE, consumer.next()).await {
                Ok(Some(Ok(delivery))) => {
                    let done = Settlement::Done { fates: vec![Fate::Handled { burst: None, note: None }], inbox: vec![None] };
                    told(consumer.settle(vec![delivery], done).await.map_err(|(error, _)| error));
                }
                Ok(Some(Err(error))) => drop(sentence(&error)),
                Ok(None) | Err(_) => break,
            }
        }
        consumer.close().await;
    }
    store.findings().iter().for_each(|finding| assert!(!finding.to_string().is_empty()));
}

/// Makes the checksums of the log, of the side file and of the pages' sums fit what the files say now.
fn seal(files: &mut Files) {
    let store = files.iter().find(|(name, _)| name.as_os_str() == "router.db").map(|(_, content)| content.clone()).unwrap_or_default();
    for (name, content) in files {
        match name.to_string_lossy().strip_prefix("router.db") {
            Some("-wal") => seal_log(content),
            Some(".seq") => seal_end(content),
            Some(".sums") => seal_sums(content, &store),
            _ => {}
        }
    }
}

/// The last four bytes are the CRC of the others.
fn seal_end(content: &mut [u8]) {
    if let Some((content, end)) = content.split_last_chunk_mut::<4>() {
        *end = crc(content).to_le_bytes();
    }
}

fn seal_sums(content: &mut [u8], store: &[u8]) {
    let Some((header, entries)) = content.split_at_mut_checked(64) else { return };
    let page_bytes = u32::from_le_bytes([header[44], header[45], header[46], header[47]]) as usize;
    seal_end(header);
    if page_bytes == 0 {
        return;
    }
    for ((number, page), entry) in (1u32..).zip(store.chunks(page_bytes)).zip(entries.chunks_exact_mut(8)) {
        let sum = crc(page).to_le_bytes();
        entry[..4].copy_from_slice(&sum);
        let guard = crc(&[number.to_le_bytes(), sum].concat()).max(1);
        entry[4..].copy_from_slice(&guard.to_le_bytes());
    }
}

/// SQLite's own, which goes on from frame to frame.
fn seal_log(content: &mut [u8]) {
    let Some((header, frames)) = content.split_at_mut_checked(32) else { return };
    let is_big = header[3] & 1 == 1;
    let sum = |[mut one, mut two]: [u32; 2], bytes: &[u8]| {
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if is_big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
            };
            one = one.wrapping_add(word(0)).wrapping_add(two);
            two = two.wrapping_add(word(4)).wrapping_add(one);
        }
        [one, two]
    };
    let mut running = sum([0, 0], &header[..24]);
    let page_bytes = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let salts: Vec<u8> = header[16..24].to_vec();
    let written = |[one, two]: [u32; 2]| [one.to_be_bytes(), two.to_be_bytes()].concat();
    header[24..].copy_from_slice(&written(running));
    for frame in frames.chunks_exact_mut(24 + page_bytes) {
        frame[8..16].copy_from_slice(&salts);
        running = sum(sum(running, &frame[..8]), &frame[24..]);
        frame[16..24].copy_from_slice(&written(running));
    }
}

/// CRC-32, as the store has it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())))
}
