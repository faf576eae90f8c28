//! The built program is killed at each step of a write, and the other side counts how often it was asked.
//!
//! A step is held by a trigger in the store's file, which refuses the row that would be the next one; so the kill comes when it must, on a
//! slow machine too. Whatever the answers, the router goes on trying to record what it did, which is what these tests wait for.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use router_tests::{Home, eventually};
use serde_json::json;

/// An HTTP server that writes down the bodies it gets and answers 201, or nothing while it is asked to be silent.
struct Target {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
    is_silent: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (calls, is_silent, ends) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let (log, silence, over) = (Arc::clone(&calls), Arc::clone(&is_silent), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            // Those that were not answered stay open: the caller waits, and is killed.
            let mut unanswered = Vec::new();
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(mut stream) = stream else { continue };
                let Some(body) = read_request(&stream) else { continue };
                log.lock().expect("no test panics while it holds the log").push(body);
                if silence.load(Ordering::SeqCst) {
                    unanswered.push(stream);
                } else {
                    // The caller may have been killed meanwhile.
                    let _ = stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
                }
            }
        });
        Self { address, calls, is_silent, ends, thread: Some(thread) }
    }

    fn calls(&self) -> usize {
        self.calls.lock().expect("no test panics while it holds the log").len()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes it up.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(String::from_utf8_lossy(&body).into_owned())
}

fn route(target: &Target, more: &str) -> String {
    format!("[[route]]\nname = \"tell\"\non = [\"a.#\"]\nhandler = \"webhook\"\n{more}\nwith = {{ url = \"http://{}/\" }}\n", target.address)
}

/// A route that calls the target, over a store that is there already.
fn home(target: &Target, more: &str) -> Home {
    let home = Home::new(&route(target, more));
    home.serve().stop();
    home
}

fn sql(home: &Home, text: &str) {
    let store = rusqlite::Connection::open(home.store()).expect("the store can be opened");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    store.execute_batch(text).expect("it fits the schema");
    // What another program has written is damage to the router; without its sums it looks at everything and goes on.
    let _ = std::fs::remove_file(home.store().with_extension("db.sums"));
}

fn count(home: &Home, query: &str) -> i64 {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    store.query_row(query, [], |row| row.get(0)).expect("the query fits the schema")
}

const RESULTS: &str = "SELECT count(*) FROM ledger WHERE done_at IS NOT NULL";
const INTENTS: &str = "SELECT count(*) FROM ledger WHERE done_at IS NULL";
const WRITES: &str = "SELECT count(*) FROM ledger";
const HANDLED: &str = "SELECT count(*) FROM deliveries WHERE state = 2";

const HOLD_INTENTS: &str = "CREATE TRIGGER held_intents BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'the test holds it'); END;";
const HOLD_RESULTS: &str = "CREATE TRIGGER held_results BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the test holds it'); END;";
const HOLD_ENDS: &str = "CREATE TRIGGER held_ends BEFORE UPDATE OF state ON deliveries WHEN NEW.state = 2 BEGIN SELECT RAISE(ABORT, 'the test holds it'); END;";
const FREE: &str = "DROP TRIGGER IF EXISTS held_intents; DROP TRIGGER IF EXISTS held_results; DROP TRIGGER IF EXISTS held_ends;";

fn event(number: u32) -> serde_json::Value {
    json!({ "event_id": format!("00000000-0000-4000-8000-{number:012}"), "event_type": "a.b", "payload": { "session_id": "s1", "n": number } })
}

/// Lets the program finish what is left.
fn finish(home: &Home, events: i64) {
    sql(home, FREE);
    let service = home.serve();
    eventually("everything is handled", || (count(home, HANDLED) == events).then_some(()));
    service.stop();
    assert_eq!(count(home, WRITES), 0, "what is done leaves nothing in the ledger");
}

#[test]
fn a_write_whose_result_is_stored_is_done_once_however_often_the_program_is_killed() {
    let target = Target::start();
    let home = home(&target, "");
    sql(&home, HOLD_ENDS);
    let service = home.serve();
    service.send("a.b", &event(1));
    eventually("the result is stored", || (count(&home, RESULTS) == 1).then_some(()));
    service.kill();
    for _ in 0..3 {
        let mut service = home.serve();
        // It has the reply, so it comes to the end again, which is still held.
        service.wait_for("the test holds it").expect("it says that it cannot settle");
        service.kill();
    }
    assert_eq!(count(&home, HANDLED), 0);
    finish(&home, 1);
    assert_eq!(target.calls(), 1);
}

#[test]
fn a_write_that_was_under_way_is_done_again_and_no_more_than_that() {
    let target = Target::start();
    let home = home(&target, "");
    target.is_silent.store(true, Ordering::SeqCst);
    let service = home.serve();
    service.send("a.b", &event(1));
    eventually("the target is asked", || (target.calls() == 1).then_some(()));
    assert_eq!(count(&home, INTENTS), 1, "the intent was there before the call");
    service.kill();
    target.is_silent.store(false, Ordering::SeqCst);
    finish(&home, 1);
    assert_eq!(target.calls(), 2);
}

#[test]
fn a_write_whose_result_was_not_stored_is_done_again() {
    let target = Target::start();
    let home = home(&target, "");
    sql(&home, &format!("{HOLD_RESULTS}{HOLD_ENDS}"));
    let mut service = home.serve();
    service.send("a.b", &event(1));
    service.wait_for("is not in the ledger").expect("it says that it cannot keep the result");
    service.kill();
    assert_eq!((target.calls(), count(&home, INTENTS)), (1, 1));
    finish(&home, 1);
    assert_eq!(target.calls(), 2);
}

#[test]
fn a_write_whose_intent_cannot_be_stored_is_not_begun() {
    let target = Target::start();
    let home = home(&target, "");
    sql(&home, HOLD_INTENTS);
    let mut service = home.serve();
    service.send("a.b", &event(1));
    service.wait_for("was not begun").expect("it says so");
    service.kill();
    assert_eq!(target.calls(), 0);
    finish(&home, 1);
    assert_eq!(target.calls(), 1);
}

#[test]
fn the_write_of_a_burst_is_done_once() {
    let target = Target::start();
    let home = home(&target, "coalesce = { by = \"session_id\", quiet_ms = 300 }");
    sql(&home, HOLD_ENDS);
    let service = home.serve();
    for number in 1..=3 {
        service.send("a.b", &event(number));
    }
    eventually("the result is stored", || (count(&home, RESULTS) >= 1).then_some(()));
    service.kill();
    let calls = target.calls();
    finish(&home, 3);
    // On a slow machine the events may have been more than one burst; what was done is done once all the same.
    let bodies = target.calls.lock().expect("no test panics while it holds the log").clone();
    let mut distinct = bodies.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), bodies.len(), "after {calls} calls before the kill: {bodies:?}");
}

#[test]
fn a_redrive_says_what_is_already_done_and_does_it_again_only_when_asked() {
    let target = Target::start();
    let home = home(&target, "");
    sql(&home, HOLD_ENDS);
    let service = home.serve();
    for number in 1..=2 {
        service.send("a.b", &event(number));
    }
    eventually("the results are stored", || (count(&home, RESULTS) == 2).then_some(()));
    service.kill();
    let killed = Instant::now();
    sql(&home, FREE);
    // They come back too old for a route that wants nothing old.
    home.configure(&route(&target, "max_age_s = 1"));
    eventually("they are old", || (killed.elapsed() > Duration::from_millis(1_100)).then_some(()));
    let service = home.serve();
    let ids = eventually("they are dead letters", || {
        let listed = home.run(&["dead-letters", "list", "--json"]).code(0).json();
        let ids: Vec<String> = listed["dead_letters"].as_array()?.iter().filter_map(|letter| Some(letter["id"].as_str()?.to_owned())).collect();
        (ids.len() == 2).then_some(ids)
    });
    service.stop();
    home.configure(&route(&target, ""));
    let service = home.serve();

    let told = |args: &[&str]| home.run(&[&["dead-letters", "redrive"], args].concat()).code(0).stdout;
    let would = told(&["--all", "--dry-run"]);
    assert!(would.starts_with("2 letters would go back: "), "{would}");
    let lines = |text: &str, end: &str| text.lines().filter(|line| line.contains("already done: webhook at ") && line.ends_with(end)).count();
    assert_eq!(lines(&would, "(HTTP 201)"), 2, "{would}");
    assert!(would.ends_with("  what is already done is not done again; `--again` does all of it\n"), "{would}");
    assert_eq!((target.calls(), count(&home, RESULTS)), (2, 2), "looking changes nothing");

    let back = told(&[&ids[0]]);
    assert!(back.contains("1 letter is back in its queue, of 1") && lines(&back, "(HTTP 201)") == 1, "{back}");
    eventually("it is handled", || (count(&home, HANDLED) == 1).then_some(()));
    assert_eq!(target.calls(), 2, "it was not done again");

    let again = told(&["--again", &ids[1]]);
    assert!(lines(&again, "(HTTP 201); it is done again") == 1 && !again.contains("`--again` does"), "{again}");
    eventually("it is handled", || (count(&home, HANDLED) == 2).then_some(()));
    assert_eq!((target.calls(), count(&home, WRITES)), (3, 0));
    service.stop();
}
