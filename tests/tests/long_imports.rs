//! `sessions import` of long transcripts, and of many: memory does not grow with them, and a kill in the middle costs nothing.
//!
//! `tests/run --long` takes 200 MiB.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use router_tests::Home;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Of the longer transcript; the shorter one has a tenth.
fn mebibytes() -> u64 {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { 200 } else { 20 }
}

fn home() -> Home {
    Home::new("[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n")
}

fn id(session: u64) -> String {
    format!("{session:08x}-0000-4000-8000-000000000000")
}

/// An answer of a model and what came of it: some ten kilobytes, most of which costs nothing. 1,000 tokens.
fn exchange(session: u64, number: u64, at: Timestamp, talk: &str) -> String {
    let id = id(session);
    let cwd = format!("/home/ada/project-{}", session % 7);
    let answer = json!({
        "type": "assistant", "uuid": format!("a{session}-{number}"), "requestId": format!("req_{session}_{number}"), "sessionId": id, "timestamp": at, "cwd": cwd,
        "message": { "id": format!("msg_{session}_{number}"), "model": "claude-sonnet-4-5", "role": "assistant", "content": [],
            "usage": { "input_tokens": 900, "output_tokens": 100, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0 } }
    });
    let result = json!({ "type": "user", "uuid": format!("u{session}-{number}"), "sessionId": id, "timestamp": at, "cwd": cwd,
        "message": { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": format!("t{number}"), "content": talk }] } });
    format!("{answer}\n{result}\n")
}

/// A transcript of at least so many bytes; returns how many exchanges it has.
fn write(path: &Path, session: u64, bytes: u64) -> u64 {
    fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("the directory can be made");
    let mut file = BufWriter::new(File::create(path).expect("the transcript can be made"));
    let at = Timestamp::now() - SignedDuration::from_hours(30);
    let (mut written, mut number) = (0, 0);
    let talk = "x".repeat(10_000);
    while written < bytes {
        let text = exchange(session, number, at + SignedDuration::from_secs(i64::try_from(number).expect("few")), &talk);
        file.write_all(text.as_bytes()).expect("there is room");
        written += text.len() as u64;
        number += 1;
    }
    file.flush().expect("there is room");
    number
}

/// What an import of `directory` answers, and the most memory that it had, in bytes.
fn import(home: &Home, directory: &str) -> (Value, u64) {
    let mut command = home.command(&["sessions", "import", directory, "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
    let mut peak = 0;
    // The number only grows, so that the last look before the end is as good as any.
    while child.try_wait().expect("it can be asked for").is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<u64>().ok());
        peak = peak.max(kibibytes.unwrap_or(0) * 1024);
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{:?}", output.status);
    (serde_json::from_slice(&output.stdout).expect("an answer"), peak)
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of the long form are read by whoever runs it")]
fn an_import_needs_no_more_memory_for_ten_times_as_much() {
    let home = home();
    let (short, long) = (mebibytes() / 10 * MIB, mebibytes() * MIB);
    let few = write(&home.path().join("short/-p/a.jsonl").with_file_name(format!("{}.jsonl", id(1))), 1, short);
    let many = write(&home.path().join("long/-p/a.jsonl").with_file_name(format!("{}.jsonl", id(2))), 2, long);
    let (answer, small) = import(&home, "short");
    assert_eq!(answer["stats"]["total"]["tokens"], few * 1_000);
    let begun = Instant::now();
    let (answer, large) = import(&home, "long");
    println!("{} MiB in {:.1} s, {} MiB of memory; a tenth of it {} MiB", mebibytes(), begun.elapsed().as_secs_f64(), large / MIB, small / MIB);
    assert_eq!((&answer["stats"]["total"]["tokens"], &answer["result"]["added"]), (&json!(many * 1_000), &json!(1)));
    assert!(small > MIB, "nothing was measured: {small}");
    assert!(large < small + (long - short) / 2, "{large} bytes for {long}, {small} for {short}");
    // And again: it is what it was.
    let (answer, _) = import(&home, "long");
    assert_eq!(answer["result"], json!({ "added": 0, "updated": 0, "unchanged": 1 }));
}

/// What is kept, without what tells when it was asked for.
fn kept(home: &Home) -> (Value, Value) {
    let list = home.run(&["sessions", "list", "--last", "1000", "--json"]).code(0).json();
    let stats = home.run(&["sessions", "stats", "--by", "project", "--json"]).code(0).json();
    let sessions = list["result"]["sessions"].as_array().expect("a list").iter();
    let plain = |session: &Value| (session["session_id"].clone(), session["tokens"].clone(), session["cost_usd"].clone(), session["turns"].clone());
    let mut sessions: Vec<_> = sessions.map(plain).collect();
    sessions.sort_by_key(|session| session.0.to_string());
    (json!(sessions), json!([stats["result"]["rows"], stats["result"]["total"]]))
}

#[test]
fn an_import_that_is_killed_and_done_again_comes_to_the_same() {
    const SESSIONS: u64 = 300;
    let (whole, killed) = (home(), home());
    for session in 0..SESSIONS {
        write(&whole.path().join(format!("many/-p{}/{}.jsonl", session % 7, id(session))), session, 15_000);
    }
    // The same files for both: what was asked for is when they were written.
    std::os::unix::fs::symlink(whole.path().join("many"), killed.path().join("many")).expect("a link can be made");
    let begun = Instant::now();
    let (answer, _) = import(&whole, "many");
    assert_eq!(answer["result"], json!({ "added": SESSIONS, "updated": 0, "unchanged": 0 }));
    let took = begun.elapsed();
    for part in 1..=7 {
        let mut child = killed.command(&["sessions", "import", "many", "--json"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::park_timeout(took * part / 6);
        // At whatever it is doing; the last ones are done, on most machines.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (answer, _) = import(&killed, "many");
    let result = &answer["result"];
    let sum = ["added", "updated", "unchanged"].map(|name| result[name].as_u64().unwrap_or(0)).iter().sum::<u64>();
    assert_eq!((sum, &result["updated"]), (SESSIONS, &json!(0)), "{result}");
    assert_eq!(kept(&killed), kept(&whole));
    assert_eq!(import(&killed, "many").0["result"], json!({ "added": 0, "updated": 0, "unchanged": SESSIONS }));
}
