//! The configuration changes two hundred times under load, and nothing that was accepted is lost, doubled or overtaken.
//!
//! The oracle is outside of the router: the senders write down what was accepted (2xx) and when, scripts that the router runs write
//! down what was handled, and both are compared with each other and with the store's file, read with a plain SQLite client.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use router_tests::{Home, Service, eventually};
use rustix::process::Signal;
use serde_json::json;

/// Valid changes; `tests/run --long` makes five times as many.
fn rounds() -> u32 {
    if is_long() { 1_000 } else { 200 }
}

fn is_long() -> bool {
    std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some()
}

const SENDERS: u64 = 2;
const SESSIONS_OF_ONE: u64 = 4;
/// In one request, as JSON lines.
const BATCH: u64 = 4;
/// Events for each change: a program that is not optimised handles each of them on five routes, so the load is counted, not timed. The
/// long form sends as much as is handled.
const EVENTS_OF_ROUND: u64 = 16;
/// Events that may wait for the slower of the routes that are always there, so that the end is not a long one.
const BACKLOG_MAX: u64 = 800;
/// `100000001 s0`, a line break: each has its number with nine digits.
const LINE: u64 = 13;
/// Longer than anything should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection that was idle for longer is not used again.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// Stays, notes the mark of each event, and answers. One short line is one write, so lines of several processes do not mix.
const KEEP: &str = r#"exec 3>>"$1"
while read -r line; do
    id=${line#*\"id\":\"}
    mark=${line##*\"mark\":\"}
    printf '%s\n' "${mark%%\"*}" >&3
    printf '{"id":"%s","outcome":"done"}\n' "${id%%\"*}"
done
"#;

/// Notes the marks of a burst.
const BURST: &str = "IFS=,\nset -f\nprintf '%s\\n' $2 >> \"$1\"\n";

/// A configuration, as far as it differs from the others.
#[derive(Clone, Copy)]
struct Plan {
    number: u32,
    /// Whether the route `shifting` wants `load.b` beside `load.a`.
    wants_b: bool,
    visiting: Visiting,
}

#[derive(Clone, Copy, PartialEq)]
enum Visiting {
    There,
    Off,
    Gone,
}

impl Plan {
    fn of(number: u32) -> Self {
        let visiting = match number % 5 {
            0 | 1 => Visiting::There,
            2 | 3 => Visiting::Gone,
            _ => Visiting::Off,
        };
        Self { number, wants_b: number.is_multiple_of(3), visiting }
    }

    /// All routes are there and take what waits.
    fn last(number: u32) -> Self {
        Self { number, wants_b: true, visiting: Visiting::There }
    }

    fn text(&self) -> String {
        let mut text = "[store]\npath = \"../state/router.db\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
                        [log]\nlevel = \"warn,event_router::reload=info,event_router::commands=info\"\n"
            .to_owned();
        let mut kept = |name: &str, on: &str, more: &str| {
            let _ = write!(
                text,
                "\n[[route]]\nname = \"{name}\"\non = {on}\norder_by = \"session_id\"\nhandler = \"exec\"\n{more}\
                 with = {{ command = [\"sh\", \"keep.sh\", \"../{name}.log\"], keep_alive = true, processes = 1 }}\n"
            );
        };
        kept("steady", "[\"load.#\"]", "");
        kept("changed", "[\"load.#\"]", &format!("concurrency = {}\ntimeout_ms = {}\n", 1 + self.number % 7, 60_000 + self.number));
        kept("shifting", if self.wants_b { "[\"load.a\", \"load.b\"]" } else { "[\"load.a\"]" }, "");
        match self.visiting {
            Visiting::There => kept("visiting", "[\"load.#\"]", ""),
            Visiting::Off => kept("visiting", "[\"load.#\"]", "enabled = false\n"),
            Visiting::Gone => {}
        }
        let _ = write!(
            text,
            "\n[[route]]\nname = \"bursts\"\non = [\"load.*\"]\nhandler = \"exec\"\ntimeout_ms = {}\n\
             coalesce = {{ by = \"session_id\", quiet_ms = 20, max_wait_ms = 200, events_max = 100 }}\n\
             with = {{ command = [\"sh\", \"burst.sh\", \"../bursts.log\", \"{{{{ burst | map(attribute='payload') | map(attribute='mark') | join(',') }}}}\"] }}\n",
            60_000 + self.number
        );
        text
    }
}

/// An event that was accepted.
struct Accepted {
    number: u64,
    session: String,
    is_a: bool,
    /// When the request that carried it began, and when its answer had come.
    asked: Instant,
    answered: Instant,
}

struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Accepted>>,
}

/// Sends batch after batch over one connection. Its numbers and sessions are its own, so that numbers ascend within a session. Every
/// request must be answered with 200: no reload closes the door.
fn send(which: u64, door: SocketAddr, logs: Vec<PathBuf>, total: Arc<AtomicU64>, allowed: Arc<AtomicU64>) -> Sender {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let connect = || {
            let stream = TcpStream::connect_timeout(&door, PATIENCE).expect("the door is open");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
            stream.set_nodelay(true).expect("a socket has this option");
            let answers = BufReader::new(stream.try_clone().expect("a socket can be shared"));
            (stream, answers)
        };
        let (mut stream, mut answers) = connect();
        let mut used = Instant::now();
        let (mut accepted, mut number) = (Vec::new(), 100_000_000 + which);
        while !stopped.load(Ordering::Relaxed) {
            let handled = logs.iter().map(|log| fs::metadata(log).map_or(0, |file| file.len() / LINE)).min().unwrap_or(0);
            let sent = total.load(Ordering::Relaxed);
            if sent > handled + BACKLOG_MAX || sent >= allowed.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(1));
                continue;
            }
            let mut batch = Vec::new();
            let mut body = String::new();
            for _ in 0..BATCH {
                let session = format!("s{}", which * SESSIONS_OF_ONE + (number / SENDERS) % SESSIONS_OF_ONE);
                let is_a = !(number / 7).is_multiple_of(3);
                let event = json!({
                    "event_id": format!("00000000-0000-4000-8000-{number:012}"),
                    "event_type": if is_a { "load.a" } else { "load.b" },
                    "payload": { "session_id": session, "mark": format!("{number} {session}") },
                });
                let _ = writeln!(body, "{event}");
                batch.push((number, session, is_a));
                number += SENDERS;
            }
            // The door closes a connection that says nothing for ten seconds, which a reload may take on a busy machine.
            if used.elapsed() > IDLE_MAX {
                (stream, answers) = connect();
            }
            let asked = Instant::now();
            let head = format!("POST /events HTTP/1.1\r\nhost: {door}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).expect("the door takes a request");
            let answer = read_answer(&mut answers);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let answered = Instant::now();
            used = answered;
            total.fetch_add(BATCH, Ordering::Relaxed);
            accepted.extend(batch.into_iter().map(|(number, session, is_a)| Accepted { number, session, is_a, asked, answered }));
        }
        accepted
    });
    Sender { stop, thread }
}

/// The head of an answer, with its body behind it.
fn read_answer(answers: &mut impl BufRead) -> String {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        assert!(answers.read_line(&mut line).expect("an answer comes") > 0, "the door hung up after: {head}");
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length is a number");
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body).expect("the body comes whole");
    head + &String::from_utf8_lossy(&body)
}

/// A configuration that came into force some time between `begun` and `done`.
struct InForce {
    begun: Instant,
    done: Instant,
    plan: Plan,
}

/// Asks for a reload, by signal or by command, and waits until it is done.
fn reload(home: &Home, service: &mut Service, by_command: bool) {
    if by_command {
        let _ = home.run(&["config", "reload"]).code(0);
    } else {
        service.signal(Signal::HUP);
    }
    service.wait_for("was loaded anew").expect("the router says that it has done it");
}

/// Something that is no configuration, and what must be said about it.
fn broken(which: u32, plan: Plan) -> (Vec<u8>, &'static str) {
    let text = plan.text();
    let second = text.find("\"changed\"").expect("the route is there");
    match which % 8 {
        0 => (b"\x00\x01 {{{ \xff\xfe".to_vec(), "router.toml"),
        // The editor has written the first half only, up to the middle of a name.
        1 => (text.as_bytes()[..second + 4].to_vec(), "router.toml:"),
        2 => (text.replacen("order_by", "ordr_by", 1).into_bytes(), "did you mean `order_by`?"),
        3 => (text.replacen("../steady.log", "${NOT_THERE_AT_ALL}", 1).into_bytes(), "NOT_THERE_AT_ALL"),
        4 => (text.replacen("\"sh\", \"keep.sh\"", "\"no-such-program-anywhere\"", 1).into_bytes(), "no-such-program-anywhere"),
        5 => (text.replacen("\"changed\"", "\"steady\"", 1).into_bytes(), "`steady`"),
        6 => (text.replacen("handler = \"exec\"", "handler = \"exce\"", 1).into_bytes(), "did you mean `exec`?"),
        // Nothing yet, or nothing any more.
        _ => (Vec::new(), "is not there any more"),
    }
}

/// Puts something broken into the place of the configuration, and sees that it is refused.
fn break_and_reload(home: &Home, service: &mut Service, number: u32, plan: Plan) {
    let path = home.path().join("config/router.toml");
    let (bytes, told) = broken(number, plan);
    if bytes.is_empty() {
        // Between the two steps of a careless rename there is no file.
        fs::rename(&path, home.path().join("config/router.toml.old")).expect("the file is there");
    } else {
        fs::write(&path, bytes).expect("the file can be written");
    }
    let said = if number.is_multiple_of(3) {
        // The command looks at the file itself; what it cannot know is where the running router read its own.
        let ran = home.run(&["config", "reload"]).code(78);
        if !path.exists() {
            service.wait_for("the old one stays in force").expect("the router says that it is refused");
        }
        ran.stdout + &ran.stderr
    } else {
        service.signal(Signal::HUP);
        service.wait_for("the old one stays in force").expect("the router says that it is refused")
    };
    assert!(said.contains(told), "no `{told}` in: {said}");
}

#[test]
fn two_hundred_reloads_under_load_lose_double_and_reorder_nothing() {
    let home = Home::new("");
    home.write("config/keep.sh", KEEP);
    home.write("config/burst.sh", BURST);
    let first = Plan::of(0);
    home.write("config/router.toml", &first.text());
    let begun = Instant::now();
    let mut service = home.serve();
    let mut history = vec![InForce { begun, done: Instant::now(), plan: first }];

    let total = Arc::new(AtomicU64::new(0));
    let allowed = Arc::new(AtomicU64::new(if is_long() { u64::MAX } else { EVENTS_OF_ROUND }));
    let watched: Vec<PathBuf> = ["steady.log", "changed.log"].iter().map(|name| home.path().join(name)).collect();
    let senders: Vec<Sender> = (0..SENDERS).map(|which| send(which, service.address(), watched.clone(), Arc::clone(&total), Arc::clone(&allowed))).collect();

    let mut refused = 0;
    for number in 1..=rounds() {
        let plan = if number == rounds() { Plan::last(number) } else { Plan::of(number) };
        if number.is_multiple_of(4) {
            break_and_reload(&home, &mut service, number / 4, plan);
            refused += 1;
        }
        // Each of them falls into the load: it is asked for when a part of its events has come, and the rest comes meanwhile.
        let before = total.load(Ordering::Relaxed);
        if !is_long() {
            allowed.fetch_add(EVENTS_OF_ROUND, Ordering::Relaxed);
        }
        eventually("more events are accepted", || (total.load(Ordering::Relaxed) > before).then_some(()));
        let begun = Instant::now();
        home.write("config/router.toml", &plan.text());
        reload(&home, &mut service, number.is_multiple_of(10));
        history.push(InForce { begun, done: Instant::now(), plan });
    }
    assert!(refused >= rounds() / 4);

    let mut accepted = Vec::new();
    for sender in senders {
        sender.stop.store(true, Ordering::Relaxed);
        accepted.extend(sender.thread.join().expect("the sender saw no failure"));
    }
    eventually("all queues are empty", || (query(&home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));
    service.stop();

    assert!(accepted.len() as u64 >= BATCH * u64::from(rounds()));
    assert_eq!(query(&home, "SELECT count(*) FROM events"), i64::try_from(accepted.len()).unwrap(), "the file has what was accepted, once");
    assert_eq!(query(&home, "SELECT count(*) FROM dead_letters"), 0, "nothing was given up on");
    judge(&home.path().join("steady.log"), &accepted, |_| Fate::Handled);
    judge(&home.path().join("changed.log"), &accepted, |_| Fate::Handled);
    judge(&home.path().join("bursts.log"), &accepted, |_| Fate::Handled);
    judge(&home.path().join("shifting.log"), &accepted, |event| match in_force(&history, event, |plan| event.is_a || plan.wants_b) {
        // What is taken from `on` is not wanted any more where it still waits.
        Fate::Handled if !event.is_a => Fate::Either,
        fate => fate,
    });
    let visited = judge(&home.path().join("visiting.log"), &accepted, |event| in_force(&history, event, |plan| plan.visiting == Visiting::There));
    assert!(0 < visited && visited < accepted.len(), "the route was there for some: {visited} of {}", accepted.len());
}

/// What must have become of an event on a route.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Handled,
    Unseen,
    Either,
}

/// Whether the configurations that may have been in force while the event came in agree that it is wanted.
fn in_force(history: &[InForce], event: &Accepted, wants: impl Fn(&Plan) -> bool) -> Fate {
    let settled = history.iter().rposition(|change| change.done <= event.asked).unwrap_or(0);
    let mut said = history[settled..].iter().take_while(|change| change.begun <= event.answered).map(|change| wants(&change.plan));
    let first = said.next().unwrap_or(false);
    match said.all(|other| other == first) {
        true if first => Fate::Handled,
        true => Fate::Unseen,
        false => Fate::Either,
    }
}

/// Holds a log against what was accepted: fates, no repetition, the order of each session. Returns how many were handled.
fn judge(log: &Path, accepted: &[Accepted], fate: impl Fn(&Accepted) -> Fate) -> usize {
    let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read_to_string(log).unwrap_or_default();
    let (mut seen, mut highest) = (BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        let (number, session) = line.split_once(' ').unwrap_or_else(|| panic!("{name}: a torn line: {line}"));
        let number: u64 = number.parse().unwrap_or_else(|_| panic!("{name}: a torn line: {line}"));
        assert!(seen.insert(number), "{name}: {number} was handled twice");
        let before = highest.insert(session, number);
        assert!(before.is_none_or(|before| before < number), "{name}: {number} of {session} after {before:?}");
    }
    let mut known = BTreeSet::new();
    for event in accepted {
        known.insert(event.number);
        match fate(event) {
            Fate::Handled => assert!(seen.contains(&event.number), "{name}: {} of {} was lost", event.number, event.session),
            Fate::Unseen => assert!(!seen.contains(&event.number), "{name}: {} came while no configuration wanted it", event.number),
            Fate::Either => {}
        }
    }
    let strange: Vec<_> = seen.difference(&known).collect();
    assert!(strange.is_empty(), "{name}: nobody sent {strange:?}");
    seen.len()
}

fn query(home: &Home, sql: &str) -> i64 {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(PATIENCE).expect("a time-out can be set");
    store.query_row(sql, [], |row| row.get(0)).expect("the query fits the schema")
}

#[test]
fn signals_in_quick_succession_end_with_the_newest_configuration() {
    let named = |number: u32| format!("[[route]]\nname = \"r{number}\"\non = [\"a\"]\nhandler = \"log\"\n");
    let home = Home::new(&named(0));
    let mut service = home.serve();
    for number in 1..=40 {
        let next = home.read("config/router.toml").replace(&format!("\"r{}\"", number - 1), &format!("\"r{number}\""));
        // A rename, so that no reader sees half a file.
        let path = home.write("config/router.toml.new", &next);
        fs::rename(path, home.path().join("config/router.toml")).expect("the file can be moved");
        service.signal(Signal::HUP);
    }
    service.wait_for("\"r40\"").expect("the newest one comes into force");
    // Whatever was still on its way came before this one.
    let told = home.run(&["config", "reload"]).code(0).stdout;
    assert!(told.contains("no route has changed"), "{told}");
    let routes = home.run(&["routes", "list", "--json"]).code(0).json();
    assert_eq!(
        routes["status"]["routes"].as_array().map(|routes| routes.iter().map(|route| route["name"].clone()).collect::<Vec<_>>()),
        Some(vec!["r40".into()])
    );
    service.stop();
}
