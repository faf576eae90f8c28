//! Many hooks at once, while the router is killed and started again at random: everything arrives, once by id and in order.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use router_tests::{Home, eventually};
use serde_json::json;

use crate::world::*;

/// Processes at once, and calls of each; `tests/run --long` makes 64 times 200.
fn size() -> (usize, usize) {
    if std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some() { (64, 200) } else { (16, 15) }
}

/// One route whose log has id, session and number of each event that was handled.
fn storm_home() -> Home {
    let home = home("");
    let text = r#"
[[route]]
name = "handled"
on = ["session.thread.agent.action"]
order_by = "session_id"
handler = "exec"
retry = { first_delay_ms = 1, max_delay_ms = 5 }
with = { command = ["sh", "append.sh", "{{ id }}", "{{ session_id }}", "{{ payload.tool_metadata.tool_input.seq }}"], cwd = "HOME" }
"#;
    home.configure(&text.replace("HOME", &home.path().display().to_string()));
    home.write("append.sh", "printf '%s %s %s\\n' \"$1\" \"$2\" \"$3\" >> handled.log\n");
    home
}

fn query(home: &Home, sql: &str) -> i64 {
    let path: PathBuf = home.store();
    let store = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.query_row(sql, [], |row| row.get(0)).expect("the query fits the schema")
}

#[test]
#[expect(clippy::print_stdout, reason = "how long Claude Code would have waited is read by whoever runs the long form")]
fn parallel_hooks_over_kills_of_the_router_are_silent_and_every_event_arrives_once_by_id_and_in_order() {
    let (processes, calls) = size();
    let home = storm_home();
    let made = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let longest = AtomicU64::new(0);
    let mut kills = 0_usize;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..processes)
            .map(|caller| {
                let (home, made, longest) = (&home, &made, &longest);
                scope.spawn(move || {
                    for seq in 0..calls {
                        let more = json!({
                            "session_id": format!("s-{caller}"), "tool_name": "Bash", "tool_use_id": format!("t-{caller}-{seq}"),
                            "tool_input": { "command": "true", "seq": seq }, "tool_response": { "stdout": "" }
                        });
                        let begun = Instant::now();
                        silent_hook(home, "PostToolUse", &more);
                        longest.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let killer = scope.spawn(|| {
            // Seeded, so that a failure can be tried again with the same rhythm; the machine adds its own chance.
            let (mut seed, mut kills) = (0x9E37_79B9_7F4A_7C15_u64, 0);
            while !is_over.load(Ordering::Relaxed) {
                let service = home.serve();
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let goal = made.load(Ordering::Relaxed) + 1 + usize::try_from(seed >> 33).unwrap_or(0) % 60;
                eventually("more hooks are called", || (made.load(Ordering::Relaxed) >= goal || is_over.load(Ordering::Relaxed)).then_some(()));
                if kills % 2 == 0 {
                    service.kill();
                } else {
                    let _ = service.stop();
                }
                kills += 1;
            }
            kills
        });
        for caller in callers {
            caller.join().expect("every call was silent");
        }
        is_over.store(true, Ordering::Relaxed);
        kills = killer.join().expect("the router could be started each time");
    });

    // Not asserted: it is the machine's more than ours. Claude Code is told to wait 5 s.
    println!("{} calls over {kills} ends of the router; the longest took {} ms", processes * calls, longest.load(Ordering::Relaxed));
    let spool = router_claude::Spool::at(&home.path().join("spool"), 1);
    let last = home.serve();
    eventually("the spool is empty", || (spool.waiting().bytes == 0).then_some(()));
    eventually("all queues are empty", || (query(&home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));
    let _ = last.stop();

    let log = home.read("handled.log");
    let mut numbers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, session, number] = words[..] else { panic!("an odd line: {line}") };
        let count = times.entry(id).or_default();
        *count += 1;
        if *count == 1 {
            numbers.entry(session).or_default().push(number.parse().expect("a number"));
        }
    }
    assert_eq!(numbers.len(), processes);
    for (session, numbers) in &numbers {
        assert_eq!(*numbers, (0..calls).collect::<Vec<_>>(), "session {session}, after {kills} ends of the router");
    }
    // Only what ran when the router was killed is handled again, at most `concurrency` each time; as settled it stands there once.
    let repeated = times.values().map(|count| count - 1).sum::<usize>();
    assert!(repeated <= 8 * kills, "{repeated} repetitions after {kills} ends");
    let handled = "SELECT count(*) FROM (SELECT events.event_id FROM deliveries JOIN events ON events.seq = deliveries.seq \
                   WHERE deliveries.fate LIKE '%handled%' GROUP BY events.event_id HAVING count(*) = 1)";
    assert_eq!(query(&home, handled), i64::try_from(processes * calls).expect("it fits"), "each id is handled once by what the store says");
}

#[test]
fn calls_of_one_session_at_once_all_arrive_and_its_start_is_told_once_and_first() {
    let home = home("");
    let count = 24;
    std::thread::scope(|scope| {
        for call in 0..count {
            let home = &home;
            scope.spawn(move || silent_hook(home, "PostToolUse", &json!({ "tool_name": "Read", "tool_use_id": format!("t-{call}") })));
        }
    });
    let service = home.serve();
    let events = seen(&home, count + 1);
    assert_eq!(events[0]["event_type"], "session.thread.start", "told once, and first");
    let _ = service.stop();
}

#[test]
fn a_call_that_is_killed_at_any_moment_breaks_nothing_for_the_next() {
    let home = home("");
    for round in 0..30_u64 {
        let mut child = command(&home, &[]).spawn().expect("the hook runs");
        let input = hook(&home, "PostToolUse", &json!({ "tool_name": "Read", "tool_use_id": format!("t-{round}") })).to_string();
        let _ = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input.as_bytes());
        std::thread::park_timeout(Duration::from_micros(round * 150));
        let _ = child.kill();
        let _ = child.wait();
    }
    silent_hook(&home, "SessionEnd", &json!({ "reason": "other" }));
    let service = home.serve();
    eventually("the end has come", || home.read("seen").contains("session.thread.end").then_some(()));
    let spool = router_claude::Spool::at(&home.path().join("spool"), 1);
    eventually("the spool is empty", || (spool.waiting().bytes == 0).then_some(()));
    let _ = service.stop();
    let text = home.read("seen");
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("each line is an event")).collect();
    assert_eq!(events.iter().filter(|event| event["event_type"] == "session.thread.end").count(), 1);
}
