//! The built program, as a newcomer meets it: the demo, the service with its doors, and the ways in which it says no.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-router"));
    command.current_dir(directory).env_remove("EVENT_ROUTER_CONFIG").env_remove("STATE_DIRECTORY").env("NO_COLOR", "1");
    command
}

fn answer(directory: &Path, args: &[&str]) -> Output {
    program(directory).args(args).output().unwrap()
}

fn text(directory: &Path, args: &[&str]) -> String {
    let output = answer(directory, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(directory: &Path, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&text(directory, args)).unwrap()
}

/// A directory with a configuration of one route, which appends each event to `seen`.
fn workplace(more: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("config")).unwrap();
    let seen = directory.path().join("seen");
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[route]]\nname = \"keep\"\non = [\"kept.#\"]\nhandler = \"exec\"\n[route.with]\ncommand = [\"tee\", \"-a\", \"{}\"]\n{more}",
        seen.display()
    );
    fs::write(directory.path().join("config/router.toml"), config).unwrap();
    directory
}

/// A running `event-router run`; killed if the test fails.
struct Service {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Service {
    fn start(directory: &Path) -> Self {
        let mut child = program(directory).arg("run").stderr(Stdio::piped()).spawn().unwrap();
        let mut service = Self { log: BufReader::new(child.stderr.take().unwrap()), child, address: String::new() };
        loop {
            let line = service.line();
            if let Some((_, rest)) = line.split_once("events come in at http://") {
                rest.split('/').next().unwrap().clone_into(&mut service.address);
            }
            if line.contains("ready") {
                return service;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.log.read_line(&mut line).unwrap() > 0, "the service ended");
        line
    }

    fn post(&self, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST /events HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Sends a signal and waits for the end.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let killed = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        // What it still has to say must not block it.
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(mut seen: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain");
        std::thread::yield_now();
    }
}

#[test]
fn the_demo_shows_one_run_for_seven_writes_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let told = text(directory.path(), &["demo", "--speed", "50"]);
    assert!(told.contains("would run: pytest -q  (7 writes, 1 run)"), "{told}");
    assert!(told.contains("`file_path` is \"/home/ada/shop/README.md\", wanted is suffix \".py\""), "{told}");
    assert!(told.contains("no route wants it"), "{told}");
    assert!(told.contains("1 secret taken out"), "{told}");
    assert!(!told.contains("correct-horse"), "{told}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_event_that_waits_for_a_router_is_handled_when_one_runs_and_can_be_looked_at_from_beside() {
    let workplace = workplace("");
    let directory = workplace.path();
    fs::write(directory.join("event.json"), r#"{"event_type":"kept.first","event_id":"first-1"}"#).unwrap();
    let early = json(directory, &["publish", "event.json", "--json"]);
    assert_eq!((&early["schema"], &early["routed"], &early["seq"]), (&"event-router.published.v1".into(), &true.into(), &1.into()));

    let service = Service::start(directory);
    let answer = service.post(r#"{"event_type":"kept.second","event_id":"second-1"}"#);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let unwanted = text(directory, &["publish", "--sample", "heartbeat"]);
    assert!(unwanted.contains("no route wants it"), "{unwanted}");
    let seen = until(|| fs::read_to_string(directory.join("seen")).ok().filter(|seen| seen.contains("first-1") && seen.contains("second-1")));
    assert_eq!(seen.matches("event_id").count(), 2, "each once: {seen}");

    // Asked through the socket, since the service holds the store.
    let handled = until(|| {
        let events = json(directory, &["events", "--json"]);
        let handled = events["events"].as_array().unwrap().iter().filter(|event| event["deliveries"][0]["state"]["fate"] == "handled").count();
        (handled == 2).then_some(events)
    });
    assert_eq!(handled["schema"], "event-router.events.v1");
    let explained = json(directory, &["explain", "second-1", "--json"]);
    assert_eq!((&explained["routes"][0]["verdict"]["kind"], &explained["stored"]["seq"]), (&"fires".into(), &2.into()));
    assert_eq!(service.stop("-TERM"), Some(0));

    // And without it, straight from the store.
    assert!(text(directory, &["events", "--unmatched"]).contains("heartbeat"));
    assert!(!directory.join("state/router.db.sock").exists());
}

#[test]
fn a_second_router_on_the_same_store_says_who_is_there() {
    let workplace = workplace("");
    let service = Service::start(workplace.path());
    let second = answer(workplace.path(), &["run"]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains(&format!("another event-router (process {})", service.child.id())), "{said}");
    assert_eq!(service.stop("-INT"), Some(0));
}

#[test]
fn a_taken_port_is_said_with_both_ways_out() {
    let workplace = workplace("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = workplace.path().join("config/router.toml");
    let listen = taken.local_addr().unwrap().to_string();
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("127.0.0.1:0", &listen)).unwrap();
    let output = answer(workplace.path(), &["run"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("listen = \"off\"") && said.contains(&listen), "{said}");
}

#[test]
fn a_killed_router_leaves_a_store_and_a_socket_that_the_next_one_takes_over() {
    let workplace = workplace("");
    let service = Service::start(workplace.path());
    assert!(service.post(r#"{"event_type":"kept.a","event_id":"a-1"}"#).starts_with("HTTP/1.1 200"));
    assert_eq!(service.stop("-KILL"), None);
    assert!(workplace.path().join("state/router.db.sock").exists());
    let next = Service::start(workplace.path());
    let events = json(workplace.path(), &["events", "--json"]);
    assert_eq!(events["events"][0]["id"], "a-1");
    assert_eq!(next.stop("-TERM"), Some(0));
}

#[test]
fn an_invalid_configuration_ends_with_78_wherever_it_is_needed_and_usage_with_2() {
    let workplace = workplace("[[route]]\nname = \"bad\"\non = [\"a\"]\nhandler = \"nope\"\n");
    for args in [&["check"][..], &["check", "--json"], &["run"], &["events"], &["config", "show"]] {
        let output = answer(workplace.path(), args);
        assert_eq!(output.status.code(), Some(78), "{args:?}");
        let said = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8(said).unwrap().contains("nope"), "{args:?}");
    }
    assert_eq!(answer(workplace.path(), &["evnts"]).status.code(), Some(2));
    assert!(!workplace.path().join("state").exists(), "no store was made");
}

#[test]
fn trying_a_route_performs_nothing_unless_told_to() {
    let workplace = workplace("");
    fs::write(workplace.path().join("event.json"), r#"{"event_id":"e-1","payload":{}}"#).unwrap();
    let dry = text(workplace.path(), &["try", "keep", "event.json", "--key", "kept.x"]);
    assert!(dry.contains("would run: tee -a"), "{dry}");
    assert!(!workplace.path().join("seen").exists());
    let live = json(workplace.path(), &["try", "keep", "event.json", "--key", "kept.x", "--live", "--json"]);
    assert_eq!((&live["schema"], &live["outcome"], &live["live"]), (&"event-router.try.v1".into(), &"handled".into(), &true.into()));
    assert!(fs::read_to_string(workplace.path().join("seen")).unwrap().contains("e-1"));
}

#[test]
fn looking_at_a_store_that_is_not_there_makes_none() {
    let workplace = workplace("");
    let output = answer(workplace.path(), &["events"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no store"));
    assert!(!workplace.path().join("state").exists());
}
