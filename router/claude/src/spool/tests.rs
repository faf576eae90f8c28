//! What a spool promises: order, nothing lost but what is counted, nothing twice once it is acknowledged.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn record(name: &str) -> Record {
    Record { key: "session.thread.start".into(), session: "s".into(), body: format!("{{\"n\":\"{name}\"}}").into_bytes() }
}

fn spool() -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(&directory.path().join("spool"), 1024 * 1024).unwrap();
    (directory, spool)
}

fn append(spool: &Spool, name: &str) -> Place {
    match spool.append(&[record(name)], PATIENCE).unwrap() {
        Appended::Waiting(place) => place,
        Appended::Full => panic!("full"),
    }
}

fn names(batch: &Batch) -> Vec<String> {
    batch.records.iter().map(|record| serde_json::from_slice::<serde_json::Value>(&record.body).unwrap()["n"].as_str().unwrap_or_default().to_owned()).collect()
}

fn take_all(spool: &Spool) -> Vec<String> {
    let drain = spool.drain().unwrap().unwrap();
    let mut all = Vec::new();
    loop {
        let batch = drain.batch(3, 1024 * 1024).unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(names(&batch));
        drain.acknowledge(&batch, batch.records.len()).unwrap();
    }
}

#[test]
fn events_are_taken_in_their_order_and_once() {
    let (_directory, spool) = spool();
    assert!(spool.drain().unwrap().is_none(), "there is nothing to drain");
    let place = append(&spool, "a");
    spool.append(&[record("b"), record("c")], PATIENCE).unwrap();
    append(&spool, "d");
    assert!(!spool.is_done(place));
    assert_eq!(take_all(&spool), ["a", "b", "c", "d"]);
    assert!(spool.is_done(place));
    assert_eq!((take_all(&spool).len(), spool.waiting().bytes), (0, 0));
    append(&spool, "e");
    assert_eq!(take_all(&spool), ["e"]);
    assert_eq!(fs::metadata(spool.path("events")).unwrap().len(), HEADER_BYTES, "what is done with is cut off");
}

#[test]
fn what_is_not_acknowledged_comes_again() {
    let (_directory, spool) = spool();
    for name in ["a", "b", "c"] {
        append(&spool, name);
    }
    {
        let drain = spool.drain().unwrap().unwrap();
        let batch = drain.batch(10, 1024).unwrap();
        drain.acknowledge(&batch, 0).unwrap();
        drain.acknowledge(&batch, 1).unwrap();
    }
    assert_eq!(take_all(&spool), ["b", "c"]);
}

#[test]
fn one_takes_at_a_time_and_appending_goes_on_meanwhile() {
    let (_directory, spool) = spool();
    append(&spool, "a");
    let drain = spool.drain().unwrap().unwrap();
    assert!(spool.drain().unwrap().is_none());
    append(&spool, "b");
    drop(drain);
    assert_eq!(take_all(&spool), ["a", "b"]);
}

#[test]
fn a_cut_or_changed_record_is_counted_and_the_others_come() {
    let (_directory, spool) = spool();
    append(&spool, "a");
    let end = append(&spool, "b").offset;
    append(&spool, "c");
    let path = spool.path("events");
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(end).unwrap() - 2] ^= 1;
    bytes.truncate(bytes.len() - 3);
    fs::write(&path, &bytes).unwrap();
    append(&spool, "d");
    assert_eq!(take_all(&spool), ["a", "d"]);
    assert!(spool.waiting().lost.damaged >= 2, "{:?}", spool.waiting());
    assert_eq!(spool.waiting().bytes, 0);
}

#[test]
fn a_file_that_is_no_spool_is_set_aside() {
    let (_directory, spool) = spool();
    for odd in ["x", "something that is longer than a header, and no spool"] {
        fs::write(spool.path("events"), odd).unwrap();
        append(&spool, "a");
        assert_eq!(take_all(&spool), ["a"]);
        assert_eq!(fs::read_to_string(spool.path("events.damaged")).unwrap(), odd);
    }
    assert_eq!(spool.waiting().lost.damaged, 2);
}

#[test]
fn a_spool_that_is_full_says_so_and_takes_again_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path(), 600).unwrap();
    let mut taken = 0;
    while let Appended::Waiting(_) = spool.append(&[record("x")], PATIENCE).unwrap() {
        taken += 1;
    }
    assert!(taken > 3);
    assert_eq!((spool.waiting().lost.full, take_all(&spool).len()), (1, taken));
    append(&spool, "y");
    let long = Record { body: vec![b'x'; RECORD_BYTES_MAX], ..record("z") };
    spool.append(&[long], PATIENCE).unwrap();
    assert_eq!(spool.waiting().lost.full, 2);
}

#[test]
fn much_that_is_done_with_is_cut_off_while_the_rest_waits() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path(), 64 * 1024 * 1024).unwrap();
    let big = Record { body: vec![b'x'; 300_000], ..record("") };
    for _ in 0..5 {
        spool.append(std::slice::from_ref(&big), PATIENCE).unwrap();
    }
    append(&spool, "last");
    let drain = spool.drain().unwrap().unwrap();
    let batch = drain.batch(5, usize::MAX).unwrap();
    assert_eq!(batch.records.len(), 5);
    drain.acknowledge(&batch, 5).unwrap();
    assert!(fs::metadata(spool.path("events")).unwrap().len() < 1_000);
    let rest = drain.batch(5, usize::MAX).unwrap();
    assert_eq!(names(&rest), ["last"]);
}

#[test]
fn a_done_mark_of_another_generation_or_a_damaged_one_hides_nothing() {
    let (_directory, spool) = spool();
    append(&spool, "a");
    spool.set_done(Place { generation: 7, offset: 4_000 }).unwrap();
    assert_eq!(take_all(&spool), ["a"]);
    append(&spool, "b");
    fs::write(spool.path("done"), [9; 20]).unwrap();
    assert_eq!(take_all(&spool), ["b"]);
    append(&spool, "c");
    assert_eq!(take_all(&spool), ["c"]);
    fs::remove_file(spool.path("events")).unwrap();
    append(&spool, "d");
    assert_eq!(take_all(&spool), ["d"], "a new file has nothing behind it");
}

#[test]
fn who_is_not_given_the_lock_in_time_loses_nothing() {
    let (_directory, spool) = spool();
    append(&spool, "a");
    let held = Lock::at_once(&spool.path("append.lock")).unwrap().unwrap();
    let Appended::Waiting(place) = spool.append(&[record("late")], Duration::from_millis(1)).unwrap() else { panic!("full") };
    assert!(!spool.is_done(place) && spool.waiting().bytes > 0);
    drop(held);
    append(&spool, "b");
    assert_eq!(take_all(&spool), ["a", "b", "late"]);
    assert!(spool.is_done(place));
}

#[test]
fn only_its_user_reads_it() {
    let (_directory, spool) = spool();
    append(&spool, "a");
    take_all(&spool);
    spool.count(|lost| lost.full += 1);
    for entry in fs::read_dir(spool.directory()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
    assert_eq!(fs::metadata(spool.directory()).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn many_at_once_lose_nothing_while_one_takes_and_compacts() {
    let (_directory, spool) = spool();
    let count = 8 * 50;
    let mut seen: Vec<String> = Vec::new();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let spool = &spool;
            scope.spawn(move || {
                for number in 0..50 {
                    append(spool, &format!("{writer}-{number}"));
                }
            });
        }
        while seen.len() < count {
            if let Some(drain) = spool.drain().unwrap() {
                let batch = drain.batch(7, 1024 * 1024).unwrap();
                seen.extend(names(&batch));
                drain.acknowledge(&batch, batch.records.len()).unwrap();
            }
        }
    });
    for writer in 0..8 {
        let of: Vec<&String> = seen.iter().filter(|name| name.starts_with(&format!("{writer}-"))).collect();
        let expected: Vec<String> = (0..50).map(|number| format!("{writer}-{number}")).collect();
        assert_eq!(of, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn what_is_done_with_is_not_taken_again_where_that_cannot_be_noted() {
    let (_directory, spool) = spool();
    // As good as a disk that is full.
    fs::create_dir(spool.directory().join("done")).unwrap();
    for name in ["a", "b"] {
        append(&spool, name);
        let drain = spool.drain().unwrap().unwrap();
        let batch = drain.batch(10, 1024 * 1024).unwrap();
        assert_eq!(names(&batch), [name]);
        assert!(drain.acknowledge(&batch, 1).is_err());
    }
    fs::remove_dir(spool.directory().join("done")).unwrap();
    append(&spool, "c");
    assert_eq!(take_all(&spool), ["c"]);
    // Whoever comes later knows it too.
    append(&spool, "d");
    assert_eq!(take_all(&Spool::at(spool.directory(), 1024 * 1024)), ["d"]);
}

#[test]
fn a_look_counts_what_waits_and_takes_nothing() {
    let (_directory, spool) = spool();
    assert_eq!(spool.look().unwrap(), Look { waiting: spool.waiting(), ..Look::default() });
    append(&spool, "a");
    let timed = |time: &str| Record { body: format!("{{\"timestamp\":\"{time}\"}}").into_bytes(), ..record("") };
    spool.append(&[timed("2030-01-02T03:04:05.000006+00:00"), timed("2031-01-02T03:04:05Z")], PATIENCE).unwrap();
    let held = Lock::at_once(&spool.path("append.lock")).unwrap();
    spool.append(&[record("late")], Duration::from_millis(1)).unwrap();
    drop(held);
    for _ in 0..2 {
        let look = spool.look().unwrap();
        assert_eq!((look.events, look.oldest), (4, Some("2030-01-02T03:04:05.000006Z".parse().unwrap())));
    }
    assert_eq!(take_all(&spool).len(), 4);
    assert_eq!(spool.look().unwrap().events, 0);
}

#[test]
fn a_directory_where_the_events_should_be_is_set_aside() {
    let (_directory, spool) = spool();
    fs::create_dir(spool.path("events")).unwrap();
    append(&spool, "a");
    assert_eq!(take_all(&spool), ["a"]);
    assert!(spool.path("events.damaged").is_dir());
}
