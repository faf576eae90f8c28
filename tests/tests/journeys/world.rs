//! Configurations and events that several journeys use.

use std::net::SocketAddr;

use router_tests::{Answer, Home, Ran, Service, eventually, post};
use serde_json::{Value, json};

/// Three routes with different ends: `kept` appends the event to `seen` in the home, `poisoned` refuses every event, `off` is off.
pub const ROUTES: &str = r##"
[[route]]
name = "kept"
on = ["session.thread.agent.action", "kept.#"]
when = { tool_name = ["Write", "Edit"], file_path = [{ suffix = ".py" }] }
handler = "exec"
with = { command = ["tee", "-a", "../seen"] }

[[route]]
name = "poisoned"
on = ["poison.#"]
handler = "exec"
with = { command = ["sh", "-c", "echo this is bad data >&2; exit 65"] }

[[route]]
name = "off"
enabled = false
on = ["session.#"]
handler = "log"
"##;

/// Ids are the same in every run, so that answers can be compared with files.
pub fn write(number: u32, file: &str) -> Value {
    json!({
        "event_id": format!("0b8f1c52-5c1e-4a55-9e0a-{number:012}"),
        "event_type": "session.thread.agent.action",
        "timestamp": "2026-03-02T09:14:06.900Z",
        "version": "1.0.0",
        "source": { "host": "127.0.0.1", "type": "agent", "app": "claude-code", "meta": null },
        "correlation_ids": [],
        "agent_context": null,
        "payload": {
            "session_id": "5f0c2f0e-7d0b-4b52-9a63-2f1f6f3a9c11",
            "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": file, "content": "MARKER-OF-THE-PAYLOAD" }, "success": true },
            "working_directory": "/home/ada/shop",
            "git_branch": "feature/coupons",
        },
    })
}

/// Another tool than the routes want.
pub fn read(number: u32, file: &str) -> Value {
    let mut event = write(number, file);
    event["payload"]["tool_metadata"]["tool_name"] = "Read".into();
    event
}

/// An event that the route `poisoned` gives up on.
pub fn poison(number: u32) -> Value {
    json!({ "event_id": format!("poison-{number}"), "event_type": "poison.pill", "payload": { "note": "MARKER-OF-THE-PAYLOAD" } })
}

/// A home whose store has one event of each fate: 1 handled, 2 given up on, 3 unmatched; the service runs.
pub fn lived_in() -> (Home, Service) {
    let home = Home::new(ROUTES);
    let service = home.serve();
    service.send("session.thread.agent.action", &write(1, "/home/ada/shop/cart.py"));
    service.send("poison.pill", &poison(1));
    service.send("agent.workstation.heartbeat", &json!({ "event_type": "agent.workstation.heartbeat", "load": 0.42 }));
    finished(&home);
    (home, service)
}

/// The states that no other one follows.
const ENDS: [&str; 2] = ["finished", "dead"];

/// Waits until every event has come to its end on every route, and returns the answer of `events`.
pub fn finished(home: &Home) -> Value {
    eventually("every event has ended", || {
        let answer = home.run(&["events", "--last", "1000", "--json"]).code(0).json();
        let events = answer["events"].as_array().expect("a list");
        let mut states = events.iter().flat_map(|event| event["deliveries"].as_array().expect("a list")).map(|delivery| &delivery["state"]["state"]);
        states.all(|state| ENDS.contains(&state.as_str().expect("a word"))).then_some(answer)
    })
}

/// Posts to the door with the right headers and expects an answer.
pub fn posted(address: SocketAddr, path: &str, body: &str) -> Answer {
    post(address, path, body).expect("the door answers")
}

/// A `run` that should end by itself: what it said and its exit code. Killed if it stays.
pub fn ended(home: &Home, args: &[&str]) -> Ran {
    let mut service = Service::begin(home.command(args));
    // No line has this, so the wait lasts to the end of the process or to the end of patience.
    assert!(service.wait_for("\u{0}").is_none());
    let status = service.wait();
    Ran { code: status.code(), stdout: String::new(), stderr: service.log().join("\n") }
}
