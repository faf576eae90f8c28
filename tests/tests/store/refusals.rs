//! What the built program does with a store that it may not have, cannot write, or does not understand: it says so, ends, and changes nothing;
//! and a repair that is killed at any moment.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use router_tests::{Home, Ran, eventually};

use super::{FILES, ROUTE, bytes, copied, events, flip, lived_in};

const COMMANDS: [&[&str]; 4] = [&["run"], &["events"], &["publish", "--sample", "write"], &["store", "backup", "copy.db"]];

fn everything(home: &Home) -> Vec<Vec<u8>> {
    FILES.iter().map(|file| bytes(home, file)).collect()
}

#[test]
fn a_store_that_may_not_be_written_is_refused_with_the_reason_and_left_alone() {
    let home = lived_in(false);
    let before = events(&home);
    if home.unprivileged(&["--version"]).is_none() {
        return;
    }
    let state = home.path().join("state");
    let set = |file: u32, directory: u32| {
        for entry in fs::read_dir(&state).unwrap() {
            fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(file)).unwrap();
        }
        fs::set_permissions(&state, fs::Permissions::from_mode(directory)).unwrap();
    };
    set(0o400, 0o500);
    let was = everything(&home);
    for command in COMMANDS {
        let mut program = home.unprivileged(command).expect("it could be started before");
        let refused = Ran::of(program.output().expect("the program runs"));
        assert_eq!(refused.code, Some(1), "{command:?}: {refused:?}");
        assert!(refused.stderr.contains("permission") && refused.stderr.contains("router.db"), "{command:?}: {refused:?}");
        assert!(everything(&home) == was, "{command:?} has changed the store");
    }
    set(0o600, 0o700);
    let mut again = home.unprivileged(&["events", "--json"]).expect("it could be started before");
    assert_eq!(super::told(&Ran::of(again.output().expect("the program runs")).code(0)), before);
}

#[test]
fn a_store_of_a_later_version_or_of_somebody_else_is_refused_and_left_alone() {
    let later = lived_in(false);
    rusqlite::Connection::open(later.store()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    // A program that knows that version would have kept them.
    fs::remove_file(later.path().join("state/router.db.sums")).unwrap();
    let foreign = Home::new(ROUTE);
    fs::create_dir_all(foreign.path().join("state")).unwrap();
    fs::write(foreign.store(), "notes of mine\n").unwrap();
    for (home, sentence) in [(later, "schema 99"), (foreign, "is no event-router store")] {
        let was = everything(&home);
        for command in COMMANDS {
            let refused = home.run(command);
            assert_eq!(refused.code, Some(1), "{command:?}: {refused:?}");
            assert!(refused.stderr.contains(sentence), "{command:?}: {refused:?}");
            assert!(everything(&home) == was, "{command:?} has changed the store");
        }
    }
}

#[test]
fn a_second_router_on_a_store_is_refused_with_the_number_of_the_first_which_goes_on() {
    let home = lived_in(false);
    let service = home.serve();
    let refused = home.run(&["run"]).code(1);
    assert!(refused.stderr.contains(&service.pid().to_string()), "{refused:?}");
    service.send("work.item", &serde_json::json!({ "event_id": "w4", "event_type": "work.item", "payload": { "n": 4 } }));
    eventually("it is handled", || (events(&home).iter().filter(|event| event.contains("handled")).count() == 4).then_some(()));
    service.stop();
}

/// Moments of a repair at which it is killed.
fn moments() -> u32 {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { 200 } else { 10 }
}

#[test]
fn a_repair_that_is_killed_at_any_moment_is_ended_by_the_next_and_loses_nothing() {
    let home = lived_in(true);
    let before = events(&copied(&home));
    flip(&home, "router.db-wal", bytes(&home, "router.db-wal").len() / 2, 0x04);
    let began = Instant::now();
    let _ = copied(&home).run(&["store", "repair"]).code(0);
    let whole = began.elapsed();
    for moment in 0..moments() {
        let copy = copied(&home);
        let mut repair = copy.command(&["store", "repair"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // From its beginning to a little beyond its end: a real one takes now more and now less.
        let (until, began) = (whole * moment * 5 / (moments() * 4), Instant::now());
        while let Some(left) = until.checked_sub(began.elapsed()).filter(|left| *left > Duration::ZERO) {
            std::thread::park_timeout(left);
        }
        // It may have ended.
        let _ = repair.kill();
        let _ = repair.wait();
        let what = format!("killed after {until:?} of {whole:?}");
        let ended = copy.run(&["store", "repair", "--json"]);
        assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
        assert!(ended.json()["loss"].is_null(), "{what}: {ended:?}");
        assert_eq!(events(&copy), before, "{what}");
        for left in ["router.db.repairing", "router.db.repaired"] {
            assert!(!copy.path().join("state").join(left).exists(), "{what}: `{left}` is left");
        }
    }
}
