//! The built program when something runs out: descriptors, threads and processes, the reader of its log, memory for keys. It degrades, says
//! so, spins nowhere, loses nothing, and goes on when it can.
//!
//! Handlers that block, panic, hang or leak are in `hostility.rs`, the disk in `disk.rs`, the clock in
//! `router/embedded/tests/behaviour/waiting.rs` and the simulator: a real one cannot be set for one process.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use router_tests::{Answer, Home, Service, as_nobody, eventually, post, request, untested};
use rustix::process::Pid;
use serde_json::json;

fn is_long() -> bool {
    std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some()
}

/// A route that runs a command for each event, which notes its number.
fn home() -> Home {
    let home = Home::new(
        r#"
[[route]]
name = "work"
on = ["work.#"]
handler = "exec"
retry = { attempts_max = 1000, first_delay_ms = 1, max_delay_ms = 50 }
with = { command = ["sh", "note.sh", "{{ payload.seq }}"], cwd = "HOME" }
"#,
    );
    let text = home.read("config/router.toml").replace("HOME", &home.path().display().to_string());
    home.write("config/router.toml", &text);
    home.write("note.sh", "echo \"$1\" >> handled.log\n");
    home
}

fn event(number: u32) -> String {
    json!({
        "event_id": format!("00000000-0000-4000-8000-{number:012}"),
        "event_type": "work.event",
        "payload": { "session_id": format!("s{number}"), "seq": number },
    })
    .to_string()
}

fn send(door: SocketAddr, number: u32) -> Option<Answer> {
    post(door, "/events?key=work.event", &event(number))
}

fn handled(home: &Home) -> Vec<u32> {
    let mut numbers: Vec<u32> = home.read("handled.log").lines().filter_map(|line| line.parse().ok()).collect();
    numbers.sort_unstable();
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

/// Processor time of a process so far, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).expect("the process runs");
    let after = stat.rsplit(')').next().expect("the name is in parentheses");
    let fields: Vec<u64> = after.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    fields[11] + fields[12]
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it says how much it has");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("it is a number")
}

#[test]
fn without_descriptors_the_router_waits_spins_nowhere_and_goes_on() {
    let home = home();
    let mut command = Command::new("sh");
    let program = home.command(&["run"]);
    command.args(["-c", "ulimit -n 64; exec \"$0\" run --log-format json"]).arg(program.get_program()).current_dir(home.path());
    command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let service = Service::start(command);
    let door = service.address();
    for number in 1..=5 {
        assert_eq!(send(door, number).expect("the door answers").status, 200);
    }
    // More than it can have: what it cannot accept waits in the system's queue.
    let crowd: Vec<TcpStream> = (0..80).filter_map(|_| TcpStream::connect_timeout(&door, Duration::from_secs(60)).ok()).collect();
    let descriptors = Path::new("/proc").join(service.pid().to_string()).join("fd");
    eventually("it has all the descriptors that it may have", || {
        let open = fs::read_dir(&descriptors).ok()?.count();
        (open >= 62).then_some(())
    });
    // It may not try again and again to accept: half a processor would be hundreds of thousands of tries.
    let (before, began) = (cpu_ticks(service.pid()), Instant::now());
    while began.elapsed() < Duration::from_millis(1_000) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let (ticks, took) = (cpu_ticks(service.pid()) - before, began.elapsed());
    assert!(u128::from(ticks) * 10 * 2 < took.as_millis().max(1_000), "{ticks} hundredths of a second in {took:?}");
    drop(crowd);
    for number in 6..=10 {
        let answer = eventually("the door answers again", || send(door, number).filter(|answer| answer.status == 200));
        assert_eq!(answer.status, 200);
    }
    eventually("all is handled", || is_done(&home).then_some(()));
    service.stop();
    let mut numbers = handled(&home);
    numbers.dedup();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 0);
}

/// Sets how many processes and threads the user of this service may have; `None` is as many as before. As that user, since not every superuser
/// may set a limit of somebody else.
fn set_processes(service: &Service, limit: Option<u64>) {
    let pid = service.pid().to_string();
    let limits = fs::read_to_string(Path::new("/proc").join(&pid).join("limits")).expect("the process runs");
    let hard = limits.lines().find(|line| line.starts_with("Max processes")).and_then(|line| line.split_whitespace().nth(3)).expect("there is a limit");
    let soft = limit.map_or_else(|| hard.to_owned(), |limit| limit.to_string());
    let set = as_nobody("prlimit").args(["--pid", &pid, &format!("--nproc={soft}:{hard}")]).output().expect("the program runs");
    assert!(set.status.success(), "the limit of a child can be set: {set:?}");
}

#[test]
fn without_threads_and_processes_the_router_waits_spins_nowhere_and_goes_on() {
    if !rustix::process::geteuid().is_root() {
        // The limit counts everything that a user has, and this one has more than the router.
        untested("want of threads and processes under the built program (it takes the superuser, to run it as somebody who has nothing else)");
        return;
    }
    let home = home();
    let Some(command) = home.unprivileged(&["run", "--log-format", "json"]) else { return };
    let mut service = Service::start(command);
    let door = service.address();
    for number in 1..=5 {
        assert_eq!(send(door, number).expect("the door answers").status, 200);
    }
    eventually("all is handled", || is_done(&home).then_some(()));

    set_processes(&service, Some(1));
    for number in 6..=10 {
        assert_eq!(send(door, number).expect("the door answers").status, 200, "what comes in needs no process");
    }
    service.wait_for("no room for another process").expect("the router says what it waits for");
    assert!(service.ended().is_none());
    let ticks = |ticks: u64, took: Duration| assert!(u128::from(ticks) * 10 * 2 < took.as_millis().max(1_000), "{ticks} hundredths of a second in {took:?}");
    let (before, began) = (cpu_ticks(service.pid()), Instant::now());
    while began.elapsed() < Duration::from_millis(1_000) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    ticks(cpu_ticks(service.pid()) - before, began.elapsed());
    assert_eq!(handled(&home), (1..=5).collect::<Vec<_>>());
    let health = request(door, format!("GET /healthz HTTP/1.1\r\nhost: {door}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers");
    assert_eq!(health.status, 200, "{health:?}");

    set_processes(&service, None);
    eventually("all is handled", || is_done(&home).then_some(()));
    assert_eq!(handled(&home), (1..=10).collect::<Vec<_>>(), "each once");
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 0);
    assert_eq!(count(&home, "SELECT max(attempts) FROM deliveries"), 0, "what could not begin was no attempt");

    // It ends in good order without another thread, too.
    set_processes(&service, Some(1));
    service.stop();
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_no_delivery() {
    let home = home();
    // Talkative, so that few events are many lines.
    let mut command = home.command(&["run", "--log-format", "json", "-vv"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut log = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    let mut line = String::new();
    let mut door: Option<SocketAddr> = None;
    while !line.contains("\"ready\"") {
        line.clear();
        assert!(log.read_line(&mut line).expect("the log is text") > 0, "the program ended");
        if let Some(rest) = line.split("events come in at http://").nth(1) {
            door = rest.split('/').next().and_then(|address| address.parse().ok());
        }
    }
    // From here on nobody reads.
    let door = door.expect("the door was named");
    let dropped = || {
        let answer = request(door, format!("GET /metrics HTTP/1.1\r\nhost: {door}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers");
        let line = answer.body.lines().find(|line| line.starts_with("event_router_log_lines_dropped_total")).expect("it is measured").to_owned();
        line.split_whitespace().last().and_then(|number| number.parse::<u64>().ok()).expect("it is a number")
    };
    let mut sent = 0;
    while dropped() == 0 {
        assert!(sent < 5_000, "the log never fills");
        for _ in 0..20 {
            sent += 1;
            assert_eq!(send(door, sent).expect("the door answers").status, 200);
        }
    }
    eventually("all is handled", || is_done(&home).then_some(()));
    assert_eq!(handled(&home), (1..=sent).collect::<Vec<_>>());
    // The reader moves again, and is told what it missed.
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        let _ = log.read_to_string(&mut rest);
        rest
    });
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the service runs");
    assert_eq!(child.wait().expect("a child can be waited for").code(), Some(0));
    let rest = reader.join().expect("the log is text");
    assert!(rest.contains("log lines are missing here"), "the log says that lines are missing");
}

/// Events in one request.
const BATCH: u32 = 100;
const SENDERS: u32 = 4;
/// Events that may wait at a time: as many whole requests of each sender as of the others.
const PART: u32 = SENDERS * BATCH * 10;

/// A million in the long form, or as many as `EVENT_ROUTER_TESTS_KEYS` says; two parts or more.
fn keys() -> u32 {
    let told = std::env::var("EVENT_ROUTER_TESTS_KEYS").ok().and_then(|keys| keys.parse().ok());
    told.unwrap_or(if is_long() { 1_000_000_u32 } else { 8_000 }).max(1).next_multiple_of(2 * PART)
}

/// Sends events `from` to `to`, of which one in ten is of one hot session and each other one of its own.
fn flood(door: SocketAddr, from: u32, to: u32) {
    let share = (to - from) / SENDERS;
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            scope.spawn(move || {
                let mut number = from + sender * share;
                let end = number + share;
                while number < end {
                    let mut body = String::new();
                    for _ in 0..BATCH {
                        let session = if number.is_multiple_of(10) { "hot".to_owned() } else { format!("s{number}") };
                        let _ = writeln!(body, r#"{{"event_id":"00000000-0000-4000-8000-{number:012}","event_type":"work.event","payload":{{"session_id":"{session}"}}}}"#);
                        number += 1;
                    }
                    let head = format!("POST /events?key=work.event HTTP/1.1\r\nhost: {door}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let answer = request(door, (head + &body).as_bytes()).expect("the door answers");
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
    });
}

#[test]
fn very_many_keys_and_a_hot_one_cost_no_memory() {
    let keys = keys();
    let home = Home::new(
        "[[route]]\nname = \"all\"\non = [\"work.#\"]\norder_by = \"session_id\"\nconcurrency = 64\nhandler = \"log\"\nwith = { level = \"debug\" }\n",
    );
    // Nothing dies here, so nobody waits for the disk.
    let text = home.read("config/router.toml").replacen("router.db\"\n", "router.db\"\nsynchronous = \"normal\"\n", 1);
    home.write("config/router.toml", &text);
    let service = home.serve();
    let flood_all = |from: u32, to: u32| {
        for part in (from..to).step_by(PART as usize) {
            flood(service.address(), part, part + PART);
            // So that what is waited for is bounded, however slow the machine is.
            eventually("this part is handled", || is_done(&home).then_some(()));
        }
    };
    // What a process takes once and keeps, such as SQLite's page cache, is there after the first half.
    let share = keys / 2;
    flood_all(0, share);
    let before = resident_kib(service.pid());
    flood_all(share, keys);
    let after = resident_kib(service.pid());
    service.stop();
    assert_eq!(count(&home, "SELECT count(*) FROM deliveries WHERE state = 2"), i64::from(keys));
    // A key that was kept would be some hundred bytes; what is allowed beyond is what allocators and caches do.
    let allowed = 24 * 1024 + u64::from(share) / 100;
    assert!(after <= before + allowed, "{before} KiB after {share} keys, {after} KiB after {keys}");
}
