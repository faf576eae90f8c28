//! The built program with a handler that blocks its thread, panics, hangs, or takes memory until there is none (`tests/examples/hostile.rs`):
//! it harms its own event, and nobody else.

use std::{fs, os::unix::process::ExitStatusExt as _, process::Command, time::Duration};

use router_tests::{Home, Service, eventually, hostile_binary, post, request};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A route for what is bad, and one for everything else.
fn home(bad: &str) -> Home {
    let home = Home::new(&format!(
        r#"
[[route]]
name = "bad"
on = ["bad.#"]
handler = "hostile"
with = {{ directory = "HOME" }}
{bad}

[[route]]
name = "good"
on = ["good.#"]
order_by = "session_id"
handler = "hostile"
with = {{ directory = "HOME" }}
"#
    ));
    let text = home.read("config/router.toml").replace("HOME", &home.path().display().to_string());
    home.write("config/router.toml", &text);
    home
}

fn command(home: &Home) -> Command {
    home.command_of(hostile_binary(), &["run", "--log-format", "json"])
}

fn event(key: &str, number: u32, what: &str) -> Value {
    json!({
        "event_id": format!("00000000-0000-4000-8000-{number:012}"),
        "event_type": key,
        "payload": { "session_id": format!("s{}", number % 3), "seq": number, "do": what },
    })
}

fn send(service: &Service, key: &str, number: u32, what: &str) {
    service.send(key, &event(key, number, what));
}

fn handled(home: &Home) -> Vec<u32> {
    noted(home, "handled.log")
}

/// Those that are in this file of the handler's.
fn noted(home: &Home, file: &str) -> Vec<u32> {
    let text = fs::read_to_string(home.path().join(file)).unwrap_or_default();
    let mut numbers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn count(home: &Home, sql: &str) -> i64 {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    store.query_row(sql, [], |row| row.get(0)).expect("the query fits the schema")
}

fn is_done(home: &Home) -> bool {
    count(home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0
}

fn dead(home: &Home, reason: &str) -> i64 {
    count(home, &format!("SELECT count(*) FROM dead_letters WHERE json_extract(letter, '$.reason') = '{reason}'"))
}

#[test]
fn a_handler_that_blocks_its_thread_stops_neither_the_others_nor_the_end() {
    others_and_the_end_stand_no_worse_beside(1);
}

#[test]
fn handlers_that_block_more_threads_than_there_are_processors_stop_neither_the_others_nor_the_end() {
    others_and_the_end_stand_no_worse_beside(std::thread::available_parallelism().map_or(1, Into::into) + 6);
}

fn others_and_the_end_stand_no_worse_beside(blocked: usize) {
    let home = home(&format!("drain_ms = 500\nconcurrency = {blocked}"));
    let service = Service::start(command(&home));
    let bad: Vec<u32> = (1_001..).take(blocked).collect();
    for number in &bad {
        send(&service, "bad.block", *number, "block");
    }
    eventually("they block their threads", || (noted(&home, "blocked.log") == bad).then_some(()));
    for number in 1..=50 {
        send(&service, "good.event", number, "");
    }
    eventually("the others are handled", || (handled(&home) == (1..=50).collect::<Vec<_>>()).then_some(()));
    let door = service.address();
    let health = request(door, format!("GET /healthz HTTP/1.1\r\nhost: {door}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers");
    assert_eq!(health.status, 200, "{health:?}");

    let mut service = service;
    service.signal(Signal::TERM);
    let status = eventually("it ends, though the handler does not", || service.ended());
    assert_eq!(status.code(), Some(0), "{}", service.log().join("\n"));

    // They have no fate yet, and get one.
    assert_eq!(count(&home, "SELECT count(*) FROM deliveries WHERE state < 2"), i64::try_from(blocked).expect("few"));
    fs::write(home.path().join("gate"), "").expect("the gate can be opened");
    let service = Service::start(command(&home));
    eventually("they are handled", || is_done(&home).then_some(()));
    service.stop();
    assert_eq!(handled(&home), (1..=50).chain(bad).collect::<Vec<_>>());
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 0);
}

#[test]
fn handlers_that_panic_or_hang_are_given_up_on_and_harm_nobody_else() {
    let home = home("timeout_ms = 300\nretry = { attempts_max = 2, first_delay_ms = 1, max_delay_ms = 5 }");
    let mut service = Service::start(command(&home));
    for number in 1..=30 {
        match number % 3 {
            0 => send(&service, "bad.panic", number, "panic"),
            1 => send(&service, "bad.hang", number, "hang"),
            _ => send(&service, "good.event", number, ""),
        }
    }
    eventually("everything has its fate", || is_done(&home).then_some(()));
    assert!(service.ended().is_none(), "the process lives");
    service.stop();
    assert_eq!(handled(&home), (1..=30).filter(|number| number % 3 == 2).collect::<Vec<_>>());
    assert_eq!(dead(&home, "exhausted"), 20);
    let attempts = count(&home, "SELECT count(*) FROM dead_letters WHERE json_extract(letter, '$.attempts') = 2");
    assert_eq!(attempts, 20, "each was tried as often as it may");
}

#[test]
fn a_handler_that_takes_memory_until_the_process_dies_is_given_up_on_after_crashes_max() {
    let home = home("crashes_max = 2\nretry = { attempts_max = 100 }");
    // So much address space, and not more: what is asked for beyond is refused, which ends the process.
    let limited = || {
        let program = command(&home);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -c 0; ulimit -v 8388608; exec \"$0\" run --log-format json"]).arg(program.get_program()).current_dir(home.path());
        shell.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell
    };
    let mut service = Service::start(limited());
    for number in 1..=3 {
        send(&service, "good.event", number, "");
    }
    // It may be the end of the process before the door has answered; then it was taken all the same.
    let _ = post(service.address(), "/events?key=bad.leak", &event("bad.leak", 4, "leak").to_string());
    let mut deaths = Vec::new();
    loop {
        let ended = eventually("the process dies, or the event is given up on", || match service.ended() {
            Some(status) => Some(Some(status)),
            None => (dead(&home, "crashed") == 1).then_some(None),
        });
        let Some(status) = ended else { break };
        assert_eq!(status.signal(), Some(6), "{}", service.log().join("\n"));
        deaths.push(status);
        assert!(deaths.len() <= 2, "it is not tried for ever: {}", service.log().join("\n"));
        service = Service::begin(limited());
    }
    assert_eq!(deaths.len(), 2);
    service.wait_for("\"ready\"").expect("it is ready");
    eventually("everything has its fate", || is_done(&home).then_some(()));
    service.stop();
    assert_eq!(handled(&home), [1, 2, 3]);
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 1);
}
