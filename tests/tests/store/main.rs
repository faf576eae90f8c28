//! What an operator types and sees when the disk has flipped a bit, on the built program: the refusal, the check, the repair, the backup.
//!
//! Every byte of a store is flipped in process by `router-embedded`'s own tests; here a sample of them goes through the program, a dozen in
//! each run and 200 with `EVENT_ROUTER_TESTS_LONG`.

#[path = "../journeys/golden.rs"]
mod golden;
mod refusals;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{SystemTime, UNIX_EPOCH},
};

use golden::golden;
use router_tests::{Home, Ran, eventually, workspace};
use serde_json::{Value, json};

const ROUTE: &str = "[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n";

/// What lies in the state directory and makes the store.
const FILES: [&str; 4] = ["router.db", "router.db-wal", "router.db.seq", "router.db.sums"];

/// Numbers that depend on how SQLite fills its pages, and on how many commits the writer made of the same work; and the moment in a name.
fn steady(mut answer: Value) -> Value {
    for field in ["bytes", "bytes_before", "bytes_after", "pages", "log_frames", "store_schema"] {
        if let Some(number) = answer.get_mut(field).filter(|value| value.as_u64().is_some_and(|number| number > 0)) {
            *number = json!("<some>");
        }
    }
    for damage in answer.get_mut("damages").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(said) = damage["said"].as_str() {
            damage["said"] = frames_as_some(said).into();
        }
    }
    if let Some((name, _)) = answer["kept"].as_str().and_then(|kept| kept.rsplit_once(".damaged-")) {
        answer["kept"] = format!("{name}.damaged-<moment>").into();
    }
    answer
}

fn frames_as_some(said: &str) -> String {
    let words: Vec<&str> = said.split(' ').collect();
    let is_count = |at: usize| words.get(at + 1) == Some(&"frames") && words[at].parse::<u32>().is_ok();
    (0..words.len()).map(|at| if is_count(at) { "<some>" } else { words[at] }).collect::<Vec<_>>().join(" ")
}

/// Three events of which the program told everybody that they are safe, and which are handled.
fn lived_in(is_killed: bool) -> Home {
    let home = Home::new(ROUTE);
    let service = home.serve();
    for number in 1..=3 {
        service.send("work.item", &json!({ "event_id": format!("w{number}"), "event_type": "work.item", "payload": { "n": number } }));
    }
    eventually("all are handled", || (events(&home).iter().filter(|event| event.contains("handled")).count() == 3).then_some(()));
    if is_killed {
        service.kill();
    } else {
        service.stop();
    }
    home
}

/// Each event as one text: number, id, what became of it.
fn events(home: &Home) -> Vec<String> {
    told(&home.run(&["events", "--json"]).code(0))
}

fn told(ran: &Ran) -> Vec<String> {
    let answer = ran.json();
    let events = answer["events"].as_array().expect("a list").iter();
    let mut events: Vec<String> = events
        .map(|event| {
            let mut event = event.clone();
            // How long it took is no fate.
            for delivery in event["deliveries"].as_array_mut().into_iter().flatten() {
                delivery.as_object_mut().map(|fields| fields.remove("duration_ms"));
            }
            event.to_string()
        })
        .collect();
    events.sort();
    events
}

/// The same files in a directory of their own.
fn copied(home: &Home) -> Home {
    let copy = Home::new(ROUTE);
    fs::create_dir_all(copy.path().join("state")).unwrap();
    for file in FILES {
        if let Ok(bytes) = fs::read(home.path().join("state").join(file)) {
            fs::write(copy.path().join("state").join(file), bytes).unwrap();
        }
    }
    copy
}

fn bytes(home: &Home, file: &str) -> Vec<u8> {
    fs::read(home.path().join("state").join(file)).unwrap_or_default()
}

fn flip(home: &Home, file: &str, at: usize, mask: u8) {
    let mut content = bytes(home, file);
    content[at] ^= mask;
    fs::write(home.path().join("state").join(file), content).unwrap();
}

#[test]
fn a_flipped_bit_is_told_by_every_command_and_put_right_by_a_repair_which_loses_nothing() {
    let home = lived_in(false);
    let before = events(&home);
    golden(&home, "store-check", &steady(home.run(&["store", "check", "--json"]).code(0).json()));
    let length = bytes(&home, "router.db").len();
    flip(&home, "router.db", length / 2 + 40, 0x04);
    let damaged = FILES.map(|file| bytes(&home, file));
    for command in [&["run"][..], &["events"], &["publish", "--sample", "write"], &["store", "backup", "copy.db"], &["run"]] {
        let refused = home.run(command).code(1);
        assert!(refused.stderr.contains("1 page of the file is not what was written") && refused.stderr.contains("`event-router store repair"), "{refused:?}");
    }
    // Word for word what the page for operators shows, but for the place.
    let page = fs::read_to_string(workspace().join("docs/operations.md")).unwrap();
    let shown = page.lines().find(|line| line.starts_with("error: the store")).expect("the page shows the refusal");
    let (before_place, after_place) = shown.split_once("(17)").expect("the page shows which one");
    let refused = home.run(&["run"]).code(1).stderr;
    let before_place = before_place.replace("state/router.db", &home.store().display().to_string());
    assert!(refused.contains(&before_place) && refused.contains(after_place), "{refused}");

    let checked = home.run(&["store", "check"]).code(1);
    assert!(checked.stdout.contains("is damaged") && checked.stdout.contains("not what was written"), "{}", checked.stdout);
    assert!(damaged == FILES.map(|file| bytes(&home, file)), "nothing was changed by being looked at");
    assert!(!home.path().join("copy.db").exists());

    let repaired = home.run(&["store", "repair"]).code(0);
    assert!(repaired.stdout.contains("put right: a bit of page") && repaired.stdout.contains("nothing is lost"), "{}", repaired.stdout);
    assert_eq!(events(&home), before);
    let again = home.run(&["store", "repair"]).code(0);
    assert!(again.stdout.contains("there is nothing to repair"), "{}", again.stdout);
    let kept = fs::read_dir(home.path().join("state")).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).expect("all files are kept");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(fs::read(kept.join("router.db")).unwrap() == damaged[0]);
    home.serve().stop();
}

#[test]
fn a_loss_is_told_before_it_is_accepted_with_its_numbers() {
    let home = lived_in(true);
    // Nothing of the log is left: the file knows of no event.
    fs::write(home.path().join("state/router.db-wal"), []).unwrap();
    let refused = home.run(&["run"]).code(1);
    assert!(refused.stderr.contains("3 accepted events are missing, numbers 1 to 3"), "{}", refused.stderr);
    let before = FILES.map(|file| bytes(&home, file));
    let told = home.run(&["store", "repair"]).code(1);
    assert!(told.stdout.contains("would be lost: at most 3 events, numbers 1 to 3") && told.stdout.contains("--accept-loss"), "{}", told.stdout);
    assert!(before == FILES.map(|file| bytes(&home, file)), "nothing was changed");
    golden(&home, "store-repair", &steady(home.run(&["store", "repair", "--accept-loss", "--json"]).code(0).json()));
    let service = home.serve();
    service.send("work.item", &json!({ "event_id": "w4", "event_type": "work.item" }));
    eventually("the next event is taken", || (events(&home).len() == 1).then_some(()));
    // The numbers of those that are lost are not given to others.
    assert!(events(&home)[0].contains("\"seq\":4"), "{:?}", events(&home));
    service.stop();
}

#[test]
fn a_backup_of_a_running_router_is_whole_private_and_overwrites_nothing() {
    let home = Home::new(ROUTE);
    let service = home.serve();
    for number in 1..=3 {
        service.send("work.item", &json!({ "event_id": format!("w{number}"), "event_type": "work.item" }));
    }
    eventually("all are handled", || (events(&home).iter().filter(|event| event.contains("handled")).count() == 3).then_some(()));
    golden(&home, "store-backup", &steady(home.run(&["store", "backup", "copy.db", "--json"]).code(0).json()));
    let copy = home.path().join("copy.db");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = home.run(&["store", "backup", "copy.db"]).code(1);
    assert!(refused.stderr.contains("is there already, and nothing is overwritten"), "{}", refused.stderr);
    let checked = home.run(&["store", "check"]).code(0);
    assert!(checked.stdout.contains("is well: 3 events") && checked.stdout.contains("a router has it"), "{}", checked.stdout);
    for verb in ["repair", "vacuum"] {
        let refused = home.run(&["store", verb]).code(1);
        assert!(refused.stderr.contains("is held by process") && refused.stderr.contains("stop it first"), "{}", refused.stderr);
    }
    let before = events(&home);
    service.stop();
    let names: Vec<_> =
        fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name.contains("copy")).collect();
    assert!(names.iter().all(|name| ["copy.db", "copy.db.key"].contains(&name.as_str())), "{names:?}");

    // As the documentation says: all files away, the copy in their place.
    let restored = Home::new(ROUTE);
    fs::create_dir_all(restored.path().join("state")).unwrap();
    fs::copy(&copy, restored.store()).unwrap();
    assert_eq!(events(&restored), before);
    restored.serve().stop();
}

#[test]
fn a_vacuum_gives_back_what_is_free_and_loses_nothing() {
    let home = lived_in(false);
    let before = events(&home);
    golden(&home, "store-vacuum", &steady(home.run(&["store", "vacuum", "--json"]).code(0).json()));
    let _ = home.run(&["store", "vacuum", "--full"]).code(0);
    let _ = home.run(&["store", "check"]).code(0);
    assert_eq!(events(&home), before);
    let nowhere = Home::new(ROUTE);
    let told = nowhere.run(&["store", "check"]).code(1);
    assert!(told.stderr.contains("there is no store") && !nowhere.path().join("state").exists(), "{}", told.stderr);
}

#[test]
fn a_store_can_be_looked_at_while_the_configuration_is_wrong() {
    let home = lived_in(false);
    let text = home.read("config/router.toml");
    home.write("config/router.toml", &format!("{text}\nsurprise = 1\n"));
    let _ = home.run(&["store", "check"]).code(0);
    let _ = home.run(&["store", "backup", "copy.db"]).code(0);
}

fn sample() -> usize {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { 200 } else { 12 }
}

/// A number that differs from run to run; what fails says where.
fn begin() -> usize {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos() as usize)
}

#[test]
fn a_byte_flipped_anywhere_is_told_and_what_was_accepted_is_there_or_told_to_be_lost() {
    let begin = begin();
    for (is_killed, file) in [(false, "router.db"), (true, "router.db-wal")] {
        let home = lived_in(is_killed);
        let before = events(&copied(&home));
        assert_eq!(before.len(), 3);
        let length = bytes(&home, file).len();
        for round in 0..sample() / 2 {
            let (at, mask) = (begin.wrapping_add(round.wrapping_mul(7_919 * 61)) % length, if round % 2 == 0 { 1 << (round / 2 % 8) } else { 0xff });
            let what = format!("byte {at} of `{file}` ^ {mask:#x}, killed {is_killed}");
            let copy = copied(&home);
            flip(&copy, file, at, mask);
            look(&copy, &before, &what);
        }
    }
}

fn look(copy: &Home, before: &[String], what: &str) {
    let looked = copy.run(&["events", "--json"]);
    match looked.code {
        Some(0) => {
            assert_eq!(told(&looked), before, "{what}: it was opened, and something is different");
            return;
        }
        Some(1) => assert!(looked.stderr.contains("store repair") || looked.stderr.contains("is no event-router store"), "{what}: {}", looked.stderr),
        code => panic!("{what}: {code:?} {}", looked.stderr),
    }
    let repaired = copy.run(&["store", "repair", "--accept-loss", "--json"]);
    assert_eq!(repaired.code, Some(0), "{what}: {repaired:?}");
    let repaired = repaired.json();
    let after = told(&copy.run(&["events", "--json"]).code(0));
    let lost = |seq: u64| {
        let ranges = repaired["loss"]["numbers"].as_array().into_iter().flatten();
        ranges.filter_map(|range| Some((range[0].as_u64()?, range[1].as_u64()?))).any(|(first, last)| (first..=last).contains(&seq))
    };
    for (index, event) in before.iter().enumerate() {
        let seq = index as u64 + 1;
        let is_there = after.contains(event);
        let is_told = lost(seq) || (!repaired["loss"].is_null() && after.iter().any(|event| event.contains(&format!("\"w{seq}\""))));
        assert!(is_there || is_told, "{what}: event {seq}\nbefore {event}\nafter {after:?}\n{repaired}");
    }
    let checked = copy.run(&["store", "check"]);
    assert_eq!(checked.code, Some(0), "{what}: {checked:?}");
}
