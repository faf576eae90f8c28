//! Changes to the files of a small store: three bytes of place, one of length, then what to put there, again and again. It opens or says
//! why not; what it then shows are events that were accepted, unchanged, or errors.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use router_api::{EventQuery, Publication, RoutingKey, Store as _, Transport as _};
use router_embedded::{Embedded, EmbeddedOptions};
use router_testkit::VirtualClock;

const EVENTS: usize = 3;

/// The files of a store that was not closed: name and content.
static BASE: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path()).expect("a new store opens");
    runtime().block_on(async {
        for number in 0..EVENTS {
            store.publish(publication(number)).await.expect("it is taken");
        }
    });
    let mut files: Vec<_> = std::fs::read_dir(directory.path())
        .expect("it is readable")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter(|entry| !entry.file_name().to_string_lossy().ends_with(".lock"))
        .map(|entry| (PathBuf::from(entry.file_name()), std::fs::read(entry.path()).expect("it is readable")))
        .collect();
    files.sort();
    runtime().block_on(store.close());
    files
});

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn body(number: usize) -> String {
    format!("{{\"event_id\":\"event-{number}\",\"payload\":{{\"text\":\"{}\"}}}}", "x".repeat(100 * number))
}

fn publication(number: usize) -> Publication {
    Publication::new(RoutingKey::new("a.b").expect("a key"), body(number).into_bytes())
}

fn open(directory: &Path) -> Result<Arc<Embedded>, router_embedded::OpenError> {
    let options = EmbeddedOptions { reserve_bytes: 0, sync: false, ..EmbeddedOptions::new(directory.join("router.db")) };
    Embedded::open(options, Arc::new(VirtualClock::default()))
}

pub(super) fn run(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut files = BASE.clone();
    let mut changes = data;
    while let [which, a, b, length, rest @ ..] = changes {
        let (put, rest) = rest.split_at(usize::from(*length & 0x0f).min(rest.len()));
        let count = files.len();
        let content = &mut files[usize::from(*which) % count].1;
        let place = (usize::from(*a) << 8 | usize::from(*b)) * 7 % content.len().max(1);
        if length & 0x80 != 0 {
            content.truncate(place);
        } else {
            let end = (place + put.len()).min(content.len());
            content[place..end].copy_from_slice(&put[..end - place]);
        }
        changes = rest;
    }
    for (name, content) in &files {
        std::fs::write(directory.path().join(name), content).expect("it is written");
    }
    let store = match open(directory.path()) {
        Ok(store) => store,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    runtime().block_on(async {
        let findings = store.findings();
        let shown = store.events(&EventQuery { last: Some(100), ..EventQuery::default() }).await;
        if let Ok(events) = &shown {
            let unchanged = events.iter().filter(|event| (0..EVENTS).any(|number| event.id.as_deref() == Some(&format!("event-{number}")))).count();
            assert!(unchanged == EVENTS || !findings.is_empty() || events.len() == EVENTS, "{unchanged} of {EVENTS} events, and not a word: {findings:?}");
        }
        store.close().await;
    });
}
