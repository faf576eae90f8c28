//! The process dies at random under load, again and again, and nothing that was accepted is lost.
//!
//! The oracle is outside of the router: this test writes down what was accepted (2xx), a shell script that the router runs writes
//! down what was handled, and both are compared with the store's file, read with a plain SQLite client.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use router_tests::{
    Home, Service, eventually,
    lives::{LIFE, Run, repeated, repeated_without_a_death, runs},
    post,
};
use serde_json::json;

/// Kills of the service; `tests/run --long` makes ten times as many.
fn rounds() -> usize {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { 500 } else { 50 }
}

/// More than may run at once, so that it is not their number that bounds what a kill repeats.
const LANES: u64 = 24;
/// What a kill may repeat: the handlings of a route that run at once by default, of events or of bursts, and those that are done and on their way
/// into the store, a fifth of `prefetch`.
const REPEATED_MAX: usize = 8 + 40 / 5;

/// Two routes over the same events: one ordered by session, one coalescing. On a machine under load one event may be what runs at many
/// kills, and is not to be given up on for that. Both append to a log; one short line is one write, so
/// lines of several processes do not mix.
fn home() -> Home {
    let home = Home::new(
        r#"
[defaults]
prefetch = 40

[[route]]
name = "ordered"
on = ["load.#"]
order_by = "session_id"
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000, first_delay_ms = 1, max_delay_ms = 5 }
with = { command = ["sh", "append.sh", "handled.log", "{{ payload.seq }}", "{{ session_id }}", "${LIFE}"], cwd = "HOME" }

[[route]]
name = "bursts"
on = ["load.#"]
coalesce = { by = "session_id", quiet_ms = 20, max_wait_ms = 200, events_max = 10 }
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000 }
with = { command = ["sh", "append.sh", "bursts.log", "{{ burst | map(attribute='payload') | map(attribute='seq') | join(',') }}", "{{ session_id }}", "${LIFE}"], cwd = "HOME" }
"#,
    );
    let text = home.read("config/router.toml").replace("HOME", &home.path().display().to_string());
    home.write("config/router.toml", &text);
    // What is done takes a while, so that as many run at a kill as may.
    home.write("append.sh", "printf '%s %s %s\\n' \"$2\" \"$3\" \"$4\" >> \"$1\"\nsleep 0.05\n");
    home
}

/// Starts the program's life of this number.
fn live(home: &Home, life: usize) -> Service {
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env(LIFE, life.to_string());
    Service::start(command)
}

struct Publisher {
    accepted: Arc<Mutex<BTreeMap<u64, u64>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

/// Publishes events with ascending numbers, one lane after the other, to whichever service runs now. What is answered with 2xx is
/// written down; what is not is sent again under the same id, so numbers stay in order within a lane.
fn publish(address: Arc<Mutex<Option<SocketAddr>>>, count: Arc<AtomicUsize>) -> Publisher {
    let accepted = Arc::new(Mutex::new(BTreeMap::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let (log, stopped) = (Arc::clone(&accepted), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        let mut number = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let lane = number % LANES;
            let event = json!({
                "event_id": format!("00000000-0000-4000-8000-{number:012}"),
                "event_type": "load.event",
                "payload": { "session_id": format!("s{lane}"), "seq": number },
            });
            let door = *address.lock().unwrap();
            let answer = door.and_then(|door| post(door, "/events?key=load.event", &event.to_string()));
            match answer {
                Some(answer) if answer.status == 200 => {
                    log.lock().unwrap().insert(number, lane);
                    count.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
                // No service just now, or it died before it answered: the event may or may not be stored.
                _ => std::thread::park_timeout(Duration::from_millis(2)),
            }
        }
    });
    Publisher { accepted, stop, thread }
}

#[test]
fn fifty_kills_under_load_lose_nothing_and_keep_the_order_of_each_session() {
    let home = home();
    let address = Arc::new(Mutex::new(None));
    let count = Arc::new(AtomicUsize::new(0));
    let publisher = publish(Arc::clone(&address), Arc::clone(&count));

    // Seeded, so that a failure can be tried again with the same rhythm; the machine adds its own chance.
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    for life in 0..rounds() {
        let service = live(&home, life);
        *address.lock().unwrap() = Some(service.address());
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let more = 1 + usize::try_from(seed >> 33).unwrap_or(0) % 40;
        let goal = count.load(Ordering::Relaxed) + more;
        eventually("more events are accepted", || (count.load(Ordering::Relaxed) >= goal).then_some(()));
        *address.lock().unwrap() = None;
        service.kill();
    }
    publisher.stop.store(true, Ordering::Relaxed);
    publisher.thread.join().unwrap();
    let accepted = publisher.accepted.lock().unwrap().clone();
    assert!(accepted.len() > rounds());
    assert!(query(&home, "SELECT count(*) FROM events") >= i64::try_from(accepted.len()).unwrap(), "the file itself has what was accepted");

    let last = live(&home, rounds());
    eventually("all queues are empty", || (unfinished(&home) == 0).then_some(()));
    last.stop();

    for (name, log) in [("ordered", "handled.log"), ("bursts", "bursts.log")] {
        let runs = runs(&home.read(log));
        let handled: BTreeSet<u64> = runs.iter().flat_map(|run| run.events.iter().copied()).collect();
        let lost: Vec<u64> = accepted.keys().filter(|number| !handled.contains(number)).copied().collect();
        assert!(lost.is_empty(), "route `{name}` lost {lost:?} of {}", accepted.len());
        let dead: i64 = query(&home, &format!("SELECT count(*) FROM dead_letters JOIN routes ON routes.id = dead_letters.route WHERE routes.name = '{name}'"));
        assert_eq!(dead, 0, "nothing was given up on");
        assert_little_is_repeated(&runs, name);
        assert_in_order(&runs, name);
    }
}

/// A repetition needs a handling that was running, or done and not yet in the store, when the process died: so many each time, and of each
/// lane the last ones, since what is stored is so in their order.
fn assert_little_is_repeated(runs: &[Run], name: &str) {
    let twice = repeated_without_a_death(runs);
    assert!(twice.is_empty(), "route `{name}` repeated without a kill, by life and number: {twice:?}");
    for (life, again) in repeated(runs) {
        assert!(again.len() <= REPEATED_MAX, "route `{name}` repeated more than {REPEATED_MAX} handlings of life {life}: {again:?}");
        let lanes: BTreeSet<&str> = again.iter().map(|run| run.lane.as_str()).collect();
        for lane in lanes {
            let is_again: Vec<bool> = runs.iter().filter(|run| run.life == life && run.lane == lane).map(|run| again.contains(&run)).collect();
            assert!(is_again.is_sorted(), "route `{name}` repeated what stood before something that it did not, in lane {lane} of life {life}: {again:?}");
        }
    }
}

/// The first time each number was handled comes in ascending order within its lane.
fn assert_in_order(runs: &[Run], name: &str) {
    let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (number, lane) in runs.iter().flat_map(|run| run.events.iter().map(|number| (*number, run.lane.as_str()))) {
        if seen.insert(number) {
            let before = highest.insert(lane, number);
            assert!(before.is_none_or(|before| before < number), "route `{name}`, lane {lane}: {number} after {before:?}");
        }
    }
}

fn query(home: &Home, sql: &str) -> i64 {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    store.query_row(sql, [], |row| row.get(0)).expect("the query fits the schema")
}

/// States below 2 are "ready" and "waiting".
fn unfinished(home: &Home) -> i64 {
    query(home, "SELECT count(*) FROM deliveries WHERE state < 2")
}

#[test]
fn a_burst_of_seven_writes_that_is_killed_in_the_middle_of_its_run_is_run_again_as_it_was() {
    let home = Home::new(
        r#"
[[route]]
name = "ci"
on = ["session.thread.agent.action"]
when = { tool_name = ["Write", "Edit"], file_path = [{ suffix = ".py" }] }
coalesce = { by = "working_directory", quiet_ms = 3_600_000, max_wait_ms = 3_600_000 }
handler = "ci"
[route.with]
command = ["sh", "HOME/run.sh", "{{ files }}"]
cwd = "HOME"
"#,
    );
    let text = home.read("config/router.toml").replace("HOME", &home.path().display().to_string());
    home.write("config/router.toml", &text);
    // The first run writes down its files and hangs; later ones end at once.
    home.write("run.sh", "shift\nprintf '%s\\n' \"$*\" >> runs.log\n[ -e again ] || { echo $$ > pid; : > again; exec sleep 86400; }\n");
    let write = |service: &Service, number: u32| {
        service.send(
            "session.thread.agent.action",
            &json!({
                "event_id": format!("00000000-0000-4000-8000-{number:012}"),
                "event_type": "session.thread.agent.action",
                "payload": {
                    "session_id": "s-1",
                    "working_directory": home.path(),
                    "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": home.path().join(format!("m{number}.py")) } },
                },
            }),
        );
    };
    let service = home.serve();
    for number in 1..=7 {
        write(&service, number);
    }
    // However long it took to send them: the burst closes when it is told to.
    let route = || home.run(&["routes", "list", "--json"]).code(0).json()["status"]["routes"][0].clone();
    let flush = || {
        let _ = home.run(&["routes", "flush", "ci"]).code(0);
    };
    eventually("all are in the burst", || (route()["queue"]["in_flight"] == 7).then_some(()));
    flush();
    eventually("the first run has begun", || home.path().join("again").exists().then_some(()));
    write(&service, 8);
    service.kill();

    let service = home.serve();
    eventually("the killed run is run again", || (home.read("runs.log").lines().count() >= 2).then_some(()));
    eventually("the last one is in a burst of its own", || (route()["open_bursts"] == 1).then_some(()));
    flush();
    eventually("all queues are empty", || (unfinished(&home) == 0).then_some(()));
    service.stop();
    let files = |numbers: &[u32]| numbers.iter().map(|number| home.path().join(format!("m{number}.py")).display().to_string()).collect::<Vec<_>>().join(" ");
    let runs: Vec<String> = home.read("runs.log").lines().map(str::to_owned).collect();
    assert_eq!(runs, [files(&[1, 2, 3, 4, 5, 6, 7]), files(&[1, 2, 3, 4, 5, 6, 7]), files(&[8])]);
    // Gone, or dead and only waiting for a parent to notice.
    eventually("the run of the killed router has ended", || {
        let stat = std::fs::read_to_string(std::path::Path::new("/proc").join(home.read("pid").trim()).join("stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}
