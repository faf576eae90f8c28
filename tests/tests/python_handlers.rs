//! The handlers in Python of `config/examples/python`, each run by the built program for events of its route.
//!
//! Needs `python3`; without it the tests say so loudly and check nothing.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use router_tests::{Home, Service, eventually, workspace};
use serde_json::{Value, json};

/// Longer than anything should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[expect(clippy::print_stderr, reason = "a test that is left out is said aloud")]
fn has_python() -> bool {
    let there = Command::new("python3").args(["-c", "import sqlite3"]).output().is_ok_and(|ran| ran.status.success());
    if !there {
        eprintln!("\n!!! NOT TESTED: the handlers in Python, since there is no `python3` with sqlite3 here (Debian: apt-get install python3) !!!\n");
    }
    there
}

/// The example's directory with a configuration that has the named route of it only, and the test's own store and door.
fn home(route: &str) -> Home {
    let example = workspace().join("config/examples/python");
    let text = fs::read_to_string(example.join("router.toml")).expect("there is an example");
    let routes = text.split("[[route]]").skip(1).find(|block| block.contains(&format!("name = \"{route}\""))).expect("the example has the route");
    // A burst need not wait for people here.
    let home = Home::new(&format!("[[route]]{}", routes.replace("quiet_ms = 2_000", "quiet_ms = 300")));
    for entry in fs::read_dir(&example).expect("the example is a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "py") {
            home.write(&format!("config/{}", path.file_name().unwrap().to_string_lossy()), &fs::read_to_string(&path).unwrap());
        }
    }
    home
}

fn serve(home: &Home, variables: &[(&str, &str)]) -> Service {
    let mut command = home.command(&["run", "--log-format", "json"]);
    let state = home.path().join("state");
    fs::create_dir_all(&state).unwrap();
    command.env("STATE_DIRECTORY", &state).envs(variables.iter().copied());
    Service::start(command)
}

/// What became of the event with this id on its only route, once that is settled: its state, as JSON.
fn fate(home: &Home, id: &str) -> Value {
    eventually(&format!("the event `{id}` is settled"), || {
        let answer = home.run_with(&[("STATE_DIRECTORY", home.path().join("state").to_str().unwrap())], &["events", "--json"]).code(0).json();
        let event = answer["events"].as_array()?.iter().find(|event| event["id"] == id)?.clone();
        let state = event["deliveries"].as_array()?.first()?["state"].clone();
        matches!(state["state"].as_str(), Some("finished" | "dead")).then_some(state)
    })
}

fn end(id: &str, usd: f64, files: &[&str]) -> Value {
    json!({
        "event_id": id, "event_type": "session.thread.end", "payload": {
            "session_id": format!("session-of-{id}"), "duration_seconds": 640, "total_turns": 9, "total_tokens": 21_000, "total_cost_usd": usd,
            "files_modified": files, "git_commits": ["4be81c0"], "working_directory": "/nowhere", "git_branch": "main",
        },
    })
}

fn action(id: &str, tool: &str, file: &str, directory: &str) -> Value {
    json!({
        "event_id": id, "event_type": "session.thread.agent.action", "payload": {
            "session_id": "s-1", "tool_metadata": { "tool_name": tool, "tool_input": { "file_path": file }, "success": true },
            "working_directory": directory, "git_branch": "main", "turn_number": 1,
        },
    })
}

/// A server that answers each request with the next of the answers, the last one for ever, and hands on what it was sent.
struct Target {
    address: SocketAddr,
    requests: Receiver<(String, Value)>,
}

impl Target {
    fn answering(answers: Vec<(u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = sync_channel(100);
        std::thread::spawn(move || {
            for (nth, stream) in listener.incoming().flatten().enumerate() {
                let (status, answer) = &answers[nth.min(answers.len() - 1)];
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let _ = sender.try_send((head, serde_json::from_slice(&body).unwrap_or(Value::Null)));
                let text = answer.to_string();
                let _ = (&stream).write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len()).as_bytes());
            }
        });
        Self { address, requests }
    }

    fn next(&self) -> (String, Value) {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }
}

fn rows(home: &Home, database: &str, query: &str) -> Vec<String> {
    let database = rusqlite::Connection::open(home.path().join("state").join(database)).unwrap();
    let mut statement = database.prepare(query).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values: Result<Vec<String>, _> =
            (0..columns).map(|column| row.get::<_, rusqlite::types::Value>(column).map(|value| format!("{value:?}"))).collect();
        values.map(|values| values.join(" "))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_example_is_right() {
    if !has_python() {
        return;
    }
    let home = Home::new("");
    let path = workspace().join("config/examples/python/router.toml");
    let ran = home.run(&["-c", path.to_str().unwrap(), "check"]).code(0);
    assert!(ran.stderr.is_empty() || !ran.stderr.contains("warning"), "{}", ran.stderr);
}

#[test]
fn analytics_counts_the_calls_of_each_tool_in_one_process() {
    if !has_python() {
        return;
    }
    let home = home("analytics");
    let service = serve(&home, &[]);
    for (id, tool) in [("a-1", "Write"), ("a-2", "Read"), ("a-3", "Write")] {
        service.send("session.thread.agent.action", &action(id, tool, "/p/a.py", "/p"));
        let fate = fate(&home, id);
        assert_eq!(fate["fate"], "handled", "{fate}");
    }
    assert_eq!(
        rows(&home, "analytics.db", "select tool, count(*) from calls group by tool order by tool"),
        ["Text(\"Read\") Integer(1)", "Text(\"Write\") Integer(2)"]
    );
    service.stop();
}

#[test]
fn cost_keeps_what_a_session_cost_and_says_when_it_was_too_much() {
    if !has_python() {
        return;
    }
    let home = home("cost");
    let service = serve(&home, &[]);
    service.send("session.thread.end", &end("c-1", 0.081, &[]));
    service.send("session.thread.end", &end("c-2", 7.5, &[]));
    assert_eq!(fate(&home, "c-1")["fate"], "handled");
    assert_eq!(fate(&home, "c-2")["fate"], "handled");
    assert_eq!(
        rows(&home, "cost.db", "select * from sessions order by session"),
        ["Text(\"session-of-c-1\") Integer(21000) Real(0.081)", "Text(\"session-of-c-2\") Integer(21000) Real(7.5)"]
    );
    let emitted = home.run(&["events", "--json"]).code(0).json();
    let alarms: Vec<&Value> = emitted["events"].as_array().unwrap().iter().filter(|event| event["key"] == "session.budget.exceeded").collect();
    assert_eq!(alarms.len(), 1, "{emitted}");
    assert_eq!(alarms[0]["event"]["payload"], json!({ "session_id": "session-of-c-2", "usd": 7.5 }));
    service.stop();
}

#[test]
fn auto_test_runs_the_tests_once_for_a_burst_and_never_outside_of_its_root() {
    if !has_python() {
        return;
    }
    let home = home("auto-test");
    home.write("code/shop/test_cart.py", "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        open('ran', 'a').write('x')\n");
    let (code, shop) = (home.path().join("code"), home.path().join("code/shop"));
    let service = serve(&home, &[("CODE", code.to_str().unwrap())]);
    for id in ["t-1", "t-2", "t-3"] {
        service.send("session.thread.agent.action", &action(id, "Write", shop.join("cart.py").to_str().unwrap(), shop.to_str().unwrap()));
    }
    for id in ["t-1", "t-2", "t-3"] {
        let fate = fate(&home, id);
        assert_eq!(fate["fate"], "handled", "{fate}");
    }
    assert!((1..3).contains(&home.read("code/shop/ran").len()), "one run for a burst, two if the machine was slow");
    let keys = home.run(&["events", "--json"]).code(0).stdout;
    assert!(keys.contains("\"tests.passed\""), "{keys}");

    service.send("session.thread.agent.action", &action("t-9", "Write", "/etc/x.py", "/etc"));
    assert_eq!(fate(&home, "t-9")["state"], "dead");
    service.stop();
}

#[test]
fn productivity_writes_a_line_for_each_session() {
    if !has_python() {
        return;
    }
    let home = home("productivity");
    let service = serve(&home, &[]);
    service.send("session.thread.end", &end("p-1", 0.1, &["a.py", "b.py"]));
    assert_eq!(fate(&home, "p-1")["fate"], "handled");
    let line = home.read("state/productivity.csv");
    assert!(line.trim_end().ends_with(",640,9,2,1") && line.lines().count() == 1, "{line}");
    service.stop();
}

#[test]
fn worktree_finds_the_branch_or_skips() {
    if !has_python() || Command::new("git").arg("--version").output().is_err() {
        return;
    }
    let home = home("worktree");
    let shop = home.path().join("shop");
    let git = Command::new("git").args(["init", "-q", "-b", "main", shop.to_str().unwrap()]).output().unwrap();
    assert!(git.status.success(), "{git:?}");
    let service = serve(&home, &[]);
    for (id, branch, expected) in [("w-1", "main", "handled"), ("w-2", "feature/none", "skipped")] {
        let event =
            json!({ "event_id": id, "event_type": "session.thread.start", "payload": { "session_id": id, "working_directory": shop, "git_branch": branch } });
        service.send("session.thread.start", &event);
        let fate = fate(&home, id);
        assert_eq!(fate["fate"], expected, "{fate}");
    }
    service.stop();
}

#[test]
fn session_sync_keeps_the_record_and_waits_while_the_target_is_down() {
    if !has_python() {
        return;
    }
    let home = home("session-sync");
    let target = Target::answering(vec![(200, json!({}))]);
    let service = serve(&home, &[("FLUME_URL", &format!("http://{}", target.address))]);
    service.send(
        "session.thread.start",
        &json!({ "event_id": "y-1", "event_type": "session.thread.start", "payload": { "session_id": "s/1", "git_branch": "main" } }),
    );
    let (head, body) = target.next();
    assert!(head.starts_with("PUT /sessions/s%2F1 ") && head.to_ascii_lowercase().contains("idempotency-key: "), "{head}");
    assert_eq!(body, json!({ "last_event": "session.thread.start", "payload": { "session_id": "s/1", "git_branch": "main" } }));
    assert_eq!(fate(&home, "y-1")["fate"], "handled");
    service.stop();

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut service = serve(&home, &[("FLUME_URL", &format!("http://{nobody}"))]);
    service.send("session.thread.end", &end("y-2", 0.1, &[]));
    service.wait_for("Flume cannot be reached").expect("the route says why it waits");
    service.stop();
}

#[test]
fn pipeline_is_launched_for_a_session_that_changed_something() {
    if !has_python() {
        return;
    }
    let home = home("pipeline");
    let target =
        Target::answering(vec![(200, json!({ "data": { "launchPipelineExecution": { "__typename": "LaunchRunSuccess", "run": { "runId": "r-1" } } } }))]);
    let service = serve(&home, &[("DAGSTER_URL", &format!("http://{}/graphql", target.address))]);
    service.send("session.thread.end", &end("d-1", 0.1, &[]));
    assert_eq!(fate(&home, "d-1")["fate"], "skipped");
    service.send("session.thread.end", &end("d-2", 0.1, &["a.py"]));
    let (head, body) = target.next();
    assert!(head.starts_with("POST /graphql "), "{head}");
    assert_eq!(body["variables"]["params"]["selector"]["jobName"], "post_session_pipeline");
    assert_eq!(fate(&home, "d-2")["fate"], "handled");
    service.stop();
}

#[test]
fn every_route_in_the_document_loads() {
    if !has_python() {
        return;
    }
    let text = fs::read_to_string(workspace().join("docs/without-rust.md")).expect("there is a document");
    let routes: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(routes.len(), 2);
    for route in routes {
        let _ = Home::new(route).run(&["check"]).code(0);
    }
}
