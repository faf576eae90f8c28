//! The built program is killed at every step of the pipeline, and at every commit of its store, while events come in; what is left is
//! compared with what was accepted.
//!
//! The list of steps is [`Failpoint::ALL`], which the program itself uses. It is held against the sources: whatever the core writes by a
//! port stands between two of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    sync::Mutex,
    time::Duration,
};

use router_api::failpoint::{Failpoint, Passed};
use router_tests::{
    Home, Service, eventually,
    lives::{LIFE, Run, repeated, repeated_without_a_death, runs},
    post, workspace,
};
use serde_json::json;

/// Each route has its way through the pipeline, and together they pass every step.
const ROUTES: &str = r##"
[defaults]
prefetch = 80

[[route]]
name = "work"
on = ["work.#"]
order_by = "session_id"
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000, first_delay_ms = 1, max_delay_ms = 5 }
with = { command = ["sh", "note.sh", "work.log", "{{ payload.seq }}", "{{ session_id }}", "${LIFE}"], cwd = "HOME" }

[[route]]
name = "again"
on = ["again.#"]
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000, first_delay_ms = 1, max_delay_ms = 5 }
with = { command = ["sh", "again.sh", "again.log", "{{ payload.seq }}", "{{ attempt }}", "${LIFE}"], cwd = "HOME" }

[[route]]
name = "fails"
on = ["fails.#"]
order_by = "session_id"
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 2, first_delay_ms = 1, max_delay_ms = 5 }
with = { command = ["sh", "exit.sh", "75"], cwd = "HOME" }

[[route]]
name = "parks"
on = ["parks.#"]
order_by = "session_id"
on_exhausted = "park"
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000 }
with = { command = ["sh", "exit.sh", "65"], cwd = "HOME" }

[[route]]
name = "bursts"
on = ["bursts.#"]
coalesce = { by = "session_id", quiet_ms = 5, max_wait_ms = 50, events_max = 20 }
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000 }
with = { command = ["sh", "note.sh", "bursts.log", "{{ burst | map(attribute='payload') | map(attribute='seq') | join(',') }}", "{{ session_id }}", "${LIFE}"], cwd = "HOME" }

[[route]]
name = "emits"
on = ["emits.#"]
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000, first_delay_ms = 1, max_delay_ms = 5 }
with = { command = ["sh", "emit.sh"], cwd = "HOME", keep_alive = true, processes = 1 }

[[route]]
name = "out"
on = ["out.#"]
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000 }
with = { command = ["sh", "note.sh", "out.log", "{{ payload.seq }}", "-", "${LIFE}"], cwd = "HOME" }

[[route]]
name = "plain"
on = ["plain.#"]
dedup = false
handler = "exec"
crashes_max = 1000
retry = { attempts_max = 1000 }
with = { command = ["sh", "note.sh", "plain.log", "{{ payload.seq }}", "-", "${LIFE}"], cwd = "HOME" }
"##;

/// The kinds of events that are sent, each to the route of its name, and the log in which a handled one stands.
const KINDS: &[(&str, Option<&str>)] = &[
    ("work", Some("work.log")),
    ("bursts", Some("bursts.log")),
    ("emits", Some("out.log")),
    ("again", Some("again.log")),
    ("plain", Some("plain.log")),
    ("fails", None),
    ("parks", None),
];

const SENDERS: u64 = 2;
/// Events that one sender sends at most while it waits for the death of the process.
const EVENTS_OF_LIFE_MAX: u64 = 70;
/// Lanes of a route, per sender.
const LANES: u64 = 3;
/// What a kill may repeat: the handlings of a route at once, of events or of bursts, and those that are done and on their way into the store,
/// a fifth of `prefetch`.
const REPEATED_MAX: usize = 8 + 80 / 5;

/// The least that is allowed, so that old events are removed while others are handled.
const LIMIT: &str = "retention_bytes_max = 1048576\n";

fn home() -> Home {
    let home = Home::new(ROUTES);
    let text = home.read("config/router.toml").replace("HOME", &home.path().display().to_string());
    home.write("config/router.toml", &text.replacen("router.db\"\n", &format!("router.db\"\n{LIMIT}"), 1));
    home.write("note.sh", "printf '%s %s %s\\n' \"$2\" \"$3\" \"$4\" >> \"$1\"\n");
    home.write("again.sh", "[ \"$3\" -gt 1 ] || exit 75\nprintf '%s - %s\\n' \"$2\" \"$4\" >> \"$1\"\n");
    home.write("exit.sh", "exit \"$1\"\n");
    // A line with the number of its event is answered with an event of that number.
    home.write(
        "emit.sh",
        r#"while read -r line; do
id=${line#*'"id":"'}; id=${id%%'"'*}
seq=${line#*'"seq":'}; seq=${seq%%[!0-9]*}
printf '{"id":"%s","outcome":"done","emit":[{"key":"out.event","payload":{"seq":%s}}]}\n' "$id" "$seq"
done
"#,
    );
    home
}

#[derive(Default)]
struct Sent {
    /// What was answered with 2xx: by number the kind and the lane.
    accepted: BTreeMap<u64, (&'static str, u64)>,
    /// What was sent again, since its answer died: it may be in the store more than once.
    again: BTreeSet<u64>,
}

/// One of those who send. What was not answered is sent again under its own id by the next life's first request, so numbers stay in order
/// within a lane.
struct Sender {
    number: u64,
    /// It was sent, and not answered.
    unanswered: bool,
}

impl Sender {
    fn send(&mut self, door: SocketAddr, sent: &Mutex<Sent>, events_max: u64) {
        for _ in 0..events_max {
            let turn = self.number / SENDERS;
            let (kind, _) = KINDS[usize::try_from(turn).unwrap() % KINDS.len()];
            // Lanes that park are never free again, so each has few events.
            let lane = if kind == "parks" { 1_000 + turn / 14 } else { turn / KINDS.len() as u64 % LANES } * SENDERS + self.number % SENDERS;
            let event = json!({
                "event_id": format!("00000000-0000-4000-8000-{:012}", self.number),
                "event_type": format!("{kind}.event"),
                "payload": { "session_id": format!("s{lane}"), "seq": self.number },
            });
            if std::mem::replace(&mut self.unanswered, true) {
                sent.lock().unwrap().again.insert(self.number);
            }
            // Some come twice, which the inbox knows.
            for _ in 0..if kind == "work" { 2 } else { 1 } {
                let answer = post(door, &format!("/events?key={kind}.event"), &event.to_string());
                if answer.is_none_or(|answer| answer.status != 200) {
                    return;
                }
            }
            sent.lock().unwrap().accepted.insert(self.number, (kind, lane));
            self.number += SENDERS;
            self.unanswered = false;
        }
    }
}

/// A store, and what was sent to it over many lives of the program.
struct Story {
    home: Home,
    senders: Vec<Sender>,
    sent: Mutex<Sent>,
    kills: usize,
}

impl Story {
    fn new() -> Self {
        Self { home: home(), senders: (0..SENDERS).map(|number| Sender { number, unanswered: false }).collect(), sent: Mutex::default(), kills: 0 }
    }

    /// Starts the program so that it dies at `point`, for the `pass`-th time that it comes there, and sees that it does.
    fn die_at(&mut self, point: Failpoint, pass: u32) {
        if point.passed() == Passed::Retaining {
            self.fill();
        }
        let mut command = self.home.command(&["run", "--log-format", "json"]);
        command.env("EVENT_ROUTER_FAILPOINT", format!("{}:{pass}", point.name())).env(LIFE, self.kills.to_string());
        let mut service = if point.passed() == Passed::Opening { Service::begin(command) } else { self.work(command, EVENTS_OF_LIFE_MAX * u64::from(pass)) };
        if point.passed() == Passed::Ending {
            service.signal(rustix::process::Signal::TERM);
        }
        let status = eventually(&format!("the program dies at `{}`", point.name()), || service.ended());
        let _ = service.wait();
        let log = service.log();
        assert_eq!(status.signal(), Some(9), "{}: {status}\n{}", point.name(), log.join("\n"));
        assert!(log.iter().any(|line| *line == format!("failpoint {} at pass {pass}", point.name())), "{}:\n{}", point.name(), log.join("\n"));
        self.kills += 1;
    }

    /// Lets the program run, with events coming in until it dies or they have all come: enough that it comes to each point as often as it is to.
    fn work(&mut self, command: std::process::Command, events_max: u64) -> Service {
        let mut service = Service::begin(command);
        // One that dies before it is ready gets no events.
        let Some(line) = service.wait_for("events come in at") else { return service };
        let door: SocketAddr = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok()).expect("the line has an address");
        if service.wait_for("\"ready\"").is_some() {
            let sent = &self.sent;
            std::thread::scope(|scope| {
                for sender in &mut self.senders {
                    scope.spawn(move || sender.send(door, sent, events_max));
                }
            });
        }
        service
    }

    /// More than the archive may hold, of events that nobody wants, so that the next life has something to remove.
    fn fill(&self) {
        // Without the limit, or this life would tidy up itself.
        let limited = self.home.read("config/router.toml");
        self.home.write("config/router.toml", &limited.replacen(LIMIT, "", 1));
        let service = self.live();
        let body = json!({ "text": "x".repeat(400_000) }).to_string();
        for _ in 0..4 {
            let answer = post(service.address(), "/events?key=nobody.wants", &body).expect("the door answers");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        service.stop();
        self.home.write("config/router.toml", &limited);
    }

    /// A life of the program that ends in good order: it is followed by one of the same number, as nothing of it may be done again.
    fn live(&self) -> Service {
        let mut command = self.home.command(&["run", "--log-format", "json"]);
        command.env(LIFE, self.kills.to_string());
        Service::start(command)
    }

    /// Lets the program finish what is left and holds the result against what was accepted.
    fn judge(self) {
        let last = self.live();
        eventually("all queues are empty", || (self.query("SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));
        last.stop();
        let Sent { accepted, again } = self.sent.into_inner().unwrap();
        for (kind, log) in KINDS {
            let wanted: BTreeSet<u64> = accepted.iter().filter(|(_, (of, _))| of == kind).map(|(number, _)| *number).collect();
            let dead = dead(&self.home, if *kind == "emits" { "out" } else { kind });
            let Some(log) = log else {
                // Given up on by design. What was sent twice because its answer died is two events to a route that has done neither.
                let given_up: BTreeSet<u64> = dead.iter().copied().collect();
                let twice = dead.len() - given_up.len();
                assert!(twice <= self.kills, "route `{kind}` gave up twice on {twice} in {} kills: {dead:?}", self.kills);
                let lost: Vec<_> = wanted.difference(&given_up).collect();
                assert!(lost.is_empty(), "route `{kind}` lost {lost:?}");
                continue;
            };
            assert!(dead.is_empty(), "route `{kind}` gave up on {dead:?}");
            let runs = runs(&self.home.read(log));
            let handled: BTreeSet<u64> = runs.iter().flat_map(|run| run.events.iter().copied()).collect();
            let lost: Vec<_> = wanted.difference(&handled).collect();
            assert!(lost.is_empty(), "route `{kind}` lost {lost:?} of {} in {} kills", wanted.len(), self.kills);
            // What was sent twice because its answer died is known by the inbox; a route without one does it again, in any life.
            let once: Vec<Run> = runs.iter().filter(|run| *kind != "plain" || run.events.iter().all(|number| !again.contains(number))).cloned().collect();
            assert_little_is_repeated(&once, kind);
            if matches!(*kind, "work" | "bursts") {
                let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
                let mut seen = BTreeSet::new();
                let handled = runs.iter().flat_map(|run| run.events.iter().map(|number| (*number, run.lane.as_str())));
                for (number, lane) in handled.filter(|(number, _)| seen.insert(*number)) {
                    let before = highest.insert(lane, number);
                    assert!(before.is_none_or(|before| before < number), "route `{kind}`, lane {lane}: {number} after {before:?}");
                }
            }
        }
    }

    fn query(&self, sql: &str) -> i64 {
        open(&self.home).query_row(sql, [], |row| row.get(0)).expect("the query fits the schema")
    }
}

fn open(home: &Home) -> rusqlite::Connection {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    store
}

/// The numbers of the events that a route gave up on.
fn dead(home: &Home, route: &str) -> Vec<u64> {
    let store = open(home);
    let mut statement = store
        .prepare(
            "SELECT json_extract(events.body, '$.payload.seq') FROM dead_letters JOIN deliveries ON deliveries.id = dead_letters.delivery
             JOIN events USING (seq) JOIN routes ON routes.id = dead_letters.route WHERE routes.name = ?1",
        )
        .expect("the query fits the schema");
    let rows = statement.query_map([route], |row| row.get::<_, i64>(0)).expect("it can be asked");
    rows.map(|row| row.ok().and_then(|number| number.try_into().ok()).expect("it is a number")).collect()
}

/// A kill may repeat what was running, or done and not yet settled, each kill for itself.
fn assert_little_is_repeated(runs: &[Run], route: &str) {
    let twice = repeated_without_a_death(runs);
    assert!(twice.is_empty(), "route `{route}` repeated without a kill, by life and number: {twice:?}");
    for (life, again) in repeated(runs) {
        assert!(again.len() <= REPEATED_MAX, "route `{route}` repeated more than {REPEATED_MAX} handlings of life {life}: {again:?}");
    }
}

fn points(passed: Passed) -> impl Iterator<Item = Failpoint> {
    Failpoint::ALL.iter().copied().filter(move |point| point.passed() == passed)
}

/// Further passes at which the long form kills.
fn passes() -> &'static [u32] {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { &[1, 2, 3, 7, 12] } else { &[1] }
}

#[test]
fn a_kill_at_every_step_of_the_pipeline_loses_nothing_and_repeats_little() {
    for pass in passes() {
        let mut story = Story::new();
        for point in points(Passed::Working) {
            story.die_at(point, *pass);
        }
        story.judge();
    }
}

#[test]
fn a_kill_while_the_store_is_made_opened_tidied_up_or_closed_loses_nothing() {
    let mut story = Story::new();
    // Five versions of the schema are made one after the other: before the first, in the second, after it.
    story.die_at(Failpoint::MigrationBefore, 1);
    story.die_at(Failpoint::MigrationApplied, 2);
    story.die_at(Failpoint::MigrationAfter, 1);
    for point in [Failpoint::TakeOverBefore, Failpoint::TakeOverAfter, Failpoint::OpeningAfter] {
        story.die_at(point, 1);
    }
    for point in points(Passed::Ending).chain(points(Passed::Retaining)) {
        story.die_at(point, 1);
        story.die_at(Failpoint::TakeOverAfter, 1);
    }
    assert_eq!(points(Passed::Opening).count(), 6, "each of them has its line above");
    story.judge();
}

// ── the list against the sources ────────────────────────────────────────────────────────────────────────────────────────────

/// Verbs of the ports that change nothing.
const READING: &[&str] = &[
    "inbox_contains",
    "frozen",
    "noted_attempts",
    "suspects",
    "ledger",
    "state",
    "events",
    "event",
    "page",
    "archive_position",
    "active_sessions",
    "stored_sessions",
    "sessions",
    "session_sums",
];

/// Verbs of the ports that change something, but not on an event's way through the pipeline: operators, the archive, sessions.
const ELSEWHERE: &[&str] = &["record_config", "archive", "record_fates", "keep_sessions"];

/// Where an event's way is, and the memory that it is asked of.
const PIPELINE: &[&str] = &["router/core/src/worker.rs", "router/core/src/worker", "router/core/src/ledger.rs"];

/// How far a failpoint may stand from its call, in lines.
const NEAR: usize = 12;

fn sources(path: &Path) -> Vec<(String, String)> {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        return entries.iter().flat_map(|entry| sources(entry)).collect();
    }
    let is_source = path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs");
    if is_source { vec![(path.display().to_string(), fs::read_to_string(path).unwrap())] } else { Vec::new() }
}

/// The verbs of the store's port.
fn verbs() -> BTreeSet<String> {
    let text = fs::read_to_string(workspace().join("router/api/src/store.rs")).unwrap();
    let port = text.split("pub trait Store").nth(1).expect("the port is there");
    port.lines()
        .filter_map(|line| line.strip_prefix("    async fn ").or_else(|| line.strip_prefix("    fn ")))
        .filter_map(|line| Some(line.split('(').next()?.to_owned()))
        .collect()
}

/// Calls that write and that do not stand between two failpoints.
fn unguarded(file: &str, text: &str, writing: &BTreeSet<String>) -> Vec<String> {
    let lines: Vec<&str> = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect();
    let has_point = |range: &[&str]| range.iter().any(|line| line.contains("failpoint::pass(") || line.contains("failpoint::fails("));
    let mut wrong = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        // By a port, or by the memory: the worker's own verbs of these names call them.
        let calls = |verb: &str| ["store", "transport", "consumer"].iter().any(|port| line.contains(&format!("{port}.{verb}(")));
        let forgets = line.contains("memory.forget").then_some("forget");
        for verb in writing.iter().map(String::as_str).filter(|verb| calls(verb)).chain(forgets) {
            let before = &lines[at.saturating_sub(NEAR)..at];
            let after = &lines[(at + 1).min(lines.len())..(at + 1 + NEAR).min(lines.len())];
            if !has_point(before) || !has_point(after) {
                wrong.push(format!("{file}:{}: `{verb}` has no failpoint before or after it", at + 1));
            }
        }
    }
    wrong
}

#[test]
fn whatever_the_pipeline_writes_by_a_port_stands_between_two_failpoints() {
    let verbs = verbs();
    for known in READING.iter().chain(ELSEWHERE) {
        assert!(verbs.contains(*known), "the store has no `{known}` any more");
    }
    let mut writing: BTreeSet<String> = verbs.into_iter().filter(|verb| !READING.contains(&verb.as_str()) && !ELSEWHERE.contains(&verb.as_str())).collect();
    // Those of the transport, and of the route's memory, which writes by the store.
    writing.extend(["settle", "publish"].map(str::to_owned));
    // The memory's own calls are those of `park`, `forget` and the operators.
    writing.remove("set_state");
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (file, text) in PIPELINE.iter().flat_map(|path| sources(&workspace().join(path))) {
        seen.extend(writing.iter().filter(|verb| text.contains(&format!(".{verb}("))).cloned());
        wrong.extend(unguarded(&file, &text, &writing));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Else the search would find nothing and be content.
    for verb in ["settle", "publish", "freeze", "note_attempts", "ledger_begin", "ledger_end", "ledger_forget", "ledger_clear", "begin_running", "inbox_insert"]
    {
        assert!(seen.contains(verb), "nobody calls `{verb}`");
    }
}

#[test]
fn a_write_without_a_failpoint_is_found() {
    let writing: BTreeSet<String> = ["freeze".to_owned()].into();
    let call = "store.freeze(burst).await?;\n";
    let point = "failpoint::pass(Failpoint::FreezeBefore);\n";
    assert!(unguarded("a", &format!("{point}{call}{point}"), &writing).is_empty());
    for text in [call.to_owned(), format!("{point}{call}"), format!("{call}{point}"), format!("{point}{}{call}{point}", "\n".repeat(NEAR))] {
        assert_eq!(unguarded("a", &text, &writing).len(), 1, "{text}");
    }
}

#[test]
fn each_failpoint_of_the_list_stands_in_the_sources() {
    let crates = ["router/core/src", "router/embedded/src"];
    let text: String = crates.iter().flat_map(|path| sources(&workspace().join(path))).map(|(_, text)| text).collect();
    for point in Failpoint::ALL {
        let name = format!("Failpoint::{}", point.variant());
        let uses = text.match_indices(&name).filter(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_alphanumeric())).count();
        assert_eq!(uses, 1, "`{name}` stands in the sources {uses} times");
    }
}

#[test]
fn each_class_of_failpoints_is_killed_at_by_a_test() {
    let mut classes = BTreeMap::new();
    for point in Failpoint::ALL {
        // Without a default: a new class is to say who kills at it.
        let file = match point.passed() {
            Passed::Opening | Passed::Working | Passed::Retaining | Passed::Ending => "tests/tests/failpoints.rs",
            Passed::OnBroker => "tests/tests/amqp_faults/between.rs",
        };
        classes.insert(format!("{:?}", point.passed()), file);
    }
    for (class, file) in classes {
        let text = fs::read_to_string(workspace().join(file)).unwrap();
        let iterates = [format!("points(Passed::{class})"), format!("Failpoint::ALL.iter().filter(|point| point.passed() == Passed::{class})")];
        assert!(iterates.iter().any(|words| text.contains(words)), "{file} kills at no failpoint of the class `{class}`");
    }
}

#[test]
fn only_a_build_with_debug_assertions_knows_the_variable() {
    let knowing: Vec<String> =
        sources(&workspace().join("router")).into_iter().filter(|(_, text)| text.contains("EVENT_ROUTER_FAILPOINT")).map(|(file, _)| file).collect();
    let allowed = workspace().join("router/cli/src/failpoints.rs").display().to_string();
    assert_eq!(knowing, [allowed], "the variable stands in one file");
    let cli = fs::read_to_string(workspace().join("router/cli/src/lib.rs")).unwrap();
    assert!(cli.contains("#[cfg(debug_assertions)]\nmod failpoints;\n"), "that file is left out of a release build");
    let api = fs::read_to_string(workspace().join("router/api/src/failpoint.rs")).unwrap();
    assert!(api.contains("cfg!(debug_assertions) && ACTION"), "nobody asks there whether there is something to do");
    let profiles = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    assert!(!profiles.contains("debug-assertions"), "no profile of ours that is shipped has them");
}
