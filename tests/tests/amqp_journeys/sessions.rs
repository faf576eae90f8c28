//! Sessions and `replay` on a bus: events come from the broker's stream, and what is delivered again goes to the queue of one route.

use jiff::{SignedDuration, Timestamp};
use router_tests::{AmqpClient, Service, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{looking_on::watching, world::*};

const KEY: &str = "session.thread.agent.action";

/// `kept` handles writes, `other` everything; each appends what it handles to a file in the home.
const OF_SESSIONS: &str = r##"
[[route]]
name = "kept"
on = ["session.#"]
when = { tool_name = ["Write"] }
order_by = "session_id"
handler = "exec"
with = { command = ["tee", "-a", "../seen"] }

[[route]]
name = "other"
on = ["session.#"]
handler = "exec"
with = { command = ["tee", "-a", "../all"] }
"##;

fn told(key: &str, id: &str, session: &str, second: u32, payload: &Value) -> Value {
    let mut payload = payload.clone();
    payload["session_id"] = session.into();
    let at = Timestamp::now() - SignedDuration::from_mins(30) + SignedDuration::from_secs(i64::from(second));
    json!({ "event_id": id, "event_type": key, "timestamp": at, "version": "1.0.0",
        "source": { "host": "ada", "type": "hook", "app": "claude-code" }, "correlation_ids": [], "agent_context": null, "payload": payload })
}

fn action(id: &str, session: &str, second: u32, tool: &str, file: &str) -> Value {
    told(
        KEY,
        id,
        session,
        second,
        &json!({ "tool_metadata": { "tool_name": tool, "tool_input": { "file_path": file }, "success": true }, "working_directory": "/shop" }),
    )
}

/// The numbers of the session's events, as `replay` tells them.
fn numbers(world: &World, session: &str) -> Vec<u64> {
    let ran = world.run(&["replay", "--session", session, "--json"]).code(0);
    let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    lines.filter(|line| line["kind"] == "event").map(|line| line["seq"].as_u64().expect("a number")).collect()
}

fn times(world: &World, file: &str, text: &str) -> usize {
    std::fs::read_to_string(world.home.path().join(file)).unwrap_or_default().matches(text).count()
}

/// Two writes and a read of one session, and a write of another, all of them handled and in the archive.
fn lived_in(world: &World) -> Service {
    let service = world.serve();
    service.send(KEY, &action("e-1", "first", 1, "Write", "/shop/one.py"));
    service.send(KEY, &action("e-2", "first", 2, "Read", "/shop/two.py"));
    service.send(KEY, &action("e-3", "second", 3, "Write", "/shop/other.py"));
    service.send(KEY, &action("e-4", "first", 4, "Write", "/shop/three.py"));
    eventually("every route has handled what it wants", || (times(world, "seen", "event_id") >= 3 && times(world, "all", "event_id") >= 4).then_some(()));
    eventually("the archive has them", || (numbers(world, "first").len() == 3 && numbers(world, "second").len() == 1).then_some(()));
    service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_bus_add_up_by_model_and_know_their_parents() {
    let world = World::new(OF_SESSIONS);
    let service = world.serve();
    let start = |id: &str, session: &str, second| {
        told("session.thread.start", id, session, second, &json!({ "working_directory": "/shop", "git_branch": "fix/GOD-7", "model": "opus" }))
    };
    service.send("session.thread.start", &start("start-1", "first", 1));
    let mut fork = start("start-2", "second", 5);
    fork["correlation_ids"] = json!(["start-1"]);
    service.send("session.thread.start", &fork);
    let mut turn = told(
        "session.thread.turn.completed",
        "turn-1",
        "second",
        9,
        &json!({ "turn_number": 1, "model": "haiku", "total_tokens": 120, "total_cost_usd": 0.5 }),
    );
    turn["source"]["meta"] =
        json!({ "usage_by_model": { "opus": { "input": 90, "output": 10, "cost_usd": 0.4 }, "haiku": { "cache_read": 20, "cost_usd": 0.1 } } });
    service.send("session.thread.turn.completed", &turn);

    let shown = eventually("the archive has the turn", || {
        let ran = world.run(&["sessions", "show", "second", "--related", "--json"]);
        let shown = (ran.code == Some(0)).then(|| ran.json()["result"].clone())?;
        (shown["session"]["tokens"] == 120).then_some(shown)
    });
    let session = &shown["session"];
    assert_eq!(
        (&session["parent"], &session["ticket"], &session["models"]["haiku"]["cache_read"]),
        (&json!("first"), &json!("GOD-7"), &json!(20)),
        "{shown:#}"
    );
    assert_eq!((&shown["related"][0]["session"]["session_id"], &shown["related"][0]["because"]), (&json!("first"), &json!(["parent", "ticket", "branch"])));
    let by_model = |world: &World| {
        let stats = world.run(&["sessions", "stats", "--by", "model", "--json"]).code(0).json();
        let rows = stats["result"]["rows"].as_array().expect("rows").clone();
        rows.iter().map(|row| (row["name"].clone(), row["tokens"].clone(), row["cost_usd"].clone())).collect::<Vec<_>>()
    };
    let expected = [(json!("opus"), json!(100), json!(0.4)), (json!("haiku"), json!(20), json!(0.1))];
    assert_eq!(by_model(&world), expected);
    let _ = service.stop();
    // What is kept is there without a router and without a broker.
    assert_eq!(by_model(&world), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_delivered_again_to_one_route_alone_and_everybody_may_watch() {
    let world = World::new(OF_SESSIONS);
    let client = AmqpClient::connect(&world.vhost.url()).await;
    let service = lived_in(&world);
    client.declare_queue("collector", &json!({})).await;
    client.bind("collector", EXCHANGE, "#").await;
    let text = world.run(&["replay", "--session", "first"]).code(0).stdout;
    let places: Vec<_> = ["one.py", "two.py", "three.py", "3 events"].map(|part| text.find(part).unwrap_or_else(|| panic!("no `{part}` in\n{text}"))).into();
    assert!(places.is_sorted() && !text.contains("other.py"), "{text}");
    let dry = world.run(&["replay", "--session", "first", "--to", "kept"]).code(0).stdout;
    assert!(dry.contains("2 events would be delivered to kept"), "{dry}");
    let refused = world.run(&["replay", "--session", "first", "--to", "kept", "--deliver"]).code(2).stderr;
    assert!(refused.contains("route `kept` is live"), "{refused}");
    assert_eq!(times(&world, "seen", "one.py"), 1, "nothing was delivered yet");

    let mut watch = watching(&world, &["--session", "first", "--json"]);
    let told = world.run(&["replay", "--session", "first", "--to", "kept", "--deliver", "--live"]).code(0).stdout;
    assert!(told.contains("2 events delivered to kept"), "{told}");
    eventually("both are handled again", || (times(&world, "seen", "one.py") == 2 && times(&world, "seen", "three.py") == 2).then_some(()));
    let seen = world.home.read("seen");
    let again = seen.rfind("one.py").zip(seen.rfind("three.py"));
    assert!(again.is_some_and(|(one, three)| one < three) && seen.contains("\"replayed\""), "{seen}");
    assert_eq!((times(&world, "seen", "other.py"), times(&world, "all", "one.py")), (1, 1), "of no other session and for no other route");

    // A new event is seen by whoever looks on, and is still everybody's.
    service.send(KEY, &action("e-5", "first", 8, "Write", "/shop/four.py"));
    let line = watch.wait_for("four.py").expect("it is shown");
    assert!(line.contains("\"kept\""), "{line}");
    watch.signal(Signal::INT);
    assert_eq!(watch.wait().code(), Some(0));
    eventually("it is handled", || (times(&world, "seen", "four.py") == 1 && times(&world, "all", "four.py") == 1).then_some(()));
    let collected = eventually("a queue of somebody else has it", || world.vhost.queue("collector").map(|queue| queue.ready).filter(|ready| *ready > 0));
    assert_eq!(collected, 1, "what is delivered again passes nobody else, and nobody took what is his");
    let _ = service.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_again_without_a_router_waits_on_the_broker() {
    let world = World::new(OF_SESSIONS);
    let service = lived_in(&world);
    let _ = service.stop();
    let told = world.run(&["replay", "--session", "first", "--to", "kept", "--deliver", "--live"]).code(0).stdout;
    assert!(told.contains("2 events delivered to kept") && told.contains("no router is running"), "{told}");
    eventually("they wait in the route's queue", || world.vhost.queue("services.router.kept").filter(|queue| queue.ready == 2));
    assert_eq!(times(&world, "seen", "one.py"), 1);
    let service = world.serve();
    eventually("both are handled again", || (times(&world, "seen", "one.py") == 2 && times(&world, "seen", "three.py") == 2).then_some(()));
    assert_eq!(numbers(&world, "first").len(), 3, "what was replayed is no part of the session");
    let _ = service.stop();
}
