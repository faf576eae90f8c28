//! Secrets of an event are taken out at the door: no byte of them gets into the store, the log, or what a command shows.
//!
//! The needles are made at run time from two halves, so that no scanner of this repository takes them for real ones.

use std::fs;

use router_tests::{Home, Service};
use serde_json::{Value, json};

use crate::world::{finished, posted};

/// What must not be found anywhere, and the text in which it comes. Every needle is the part that a reader could misuse.
fn planted() -> Vec<(&'static str, String, String)> {
    let token = |start: &str, rest: &str| format!("{start}{rest}");
    let jwt = ["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiJhZGEtbmVlZGxlIn0", "c2lnbmF0dXJlLW5lZWRsZS1vZi1hZGE"];
    vec![
        ("github", "FiNdMeGiThUb0123456789abcdef".into(), token("the token is ghp_", "FiNdMeGiThUb0123456789abcdef, keep it")),
        ("aws", "NEEDLEAWSKEY1234".into(), token("AKIA", "NEEDLEAWSKEY1234")),
        ("anthropic", "needle-of-anthropic-0123456789".into(), token("export KEY=sk-ant-", "needle-of-anthropic-0123456789")),
        ("slack", "1234567890-needleofslack".into(), token("xoxb-", "1234567890-needleofslack")),
        ("jwt", jwt[2].into(), jwt.join(".")),
        ("url", "needle-of-url-password".into(), token("postgres://shop:", "needle-of-url-password@localhost/shop")),
        ("bearer", "N33dle0fBearer.abcdef123456".into(), token("Authorization: Bearer ", "N33dle0fBearer.abcdef123456")),
        ("assignment", "needle-of-assignment".into(), token("DB_PASSWORD=", "needle-of-assignment")),
        ("pem", "TmVlZGxlT2ZQZW0".into(), token("-----BEGIN ", "RSA PRIVATE KEY-----\nTmVlZGxlT2ZQZW0\nTmVlZGxlT2ZQZW0\n-----END RSA PRIVATE KEY-----")),
        ("own", "83746510".into(), token("badge ACME-", "83746510")),
    ]
}

/// Routes that put what they get into every place that a handler can: error, detail, reason, log, and an emitted event.
fn home() -> Home {
    let home = Home::new(
        r##"
[redact]
paths = ["payload.diary"]
patterns = ["ACME-[0-9]{8}"]

[[route]]
name = "refuses"
on = ["secret.#"]
handler = "exec"
with = { command = ["sh", "-c", "cat; cat ../own >&2; exit 65"] }

[[route]]
name = "skips"
on = ["secret.#"]
handler = "exec"
with = { command = ["sh", "-c", "head -c 300; cat ../own; exit 3"], exit_codes = { skip = [3] } }

[[route]]
name = "tells"
on = ["secret.#"]
handler = "log"
with = { template = "{{ payload }} {{ session_id }} {{ id }}" }

[[route]]
name = "checks"
on = ["secret.#"]
handler = "ci"
with = { command = ["cat", "../own"], cwd = "." }

[[route]]
name = "fails"
on = ["secret.#"]
handler = "exec"
retry = { attempts_max = 2, first_delay_ms = 1, max_delay_ms = 1 }
with = { command = ["sh", "-c", "cat ../own; echo \"$1\" >&2; exit 7", "fails", "{{ payload.note }}"] }
"##,
    );
    // What the program of a route prints by itself, not from the event.
    home.write("own", &format!("the program's own ghp_{}\n", "oWnNeEdLe0123456789abcdefgh"));
    home
}

fn events() -> Vec<Value> {
    let mut events: Vec<Value> = planted()
        .into_iter()
        .enumerate()
        .map(|(number, (name, _, text))| {
            json!({
                "event_id": format!("planted-{name}"),
                "event_type": "secret.planted",
                "timestamp": "2026-03-02T09:14:06.900Z",
                "source": { "host": "h", "type": "agent", "app": text },
                "correlation_ids": [],
                "payload": {
                    "session_id": format!("session-{number}"),
                    "note": text,
                    "deep": [[{ "inside": text, "lines": format!("first\nsecond {text}\nthird") }]],
                    "json_in_text": json!({ "quoted": text }).to_string(),
                    "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": format!("/srv/{text}"), "content": text } },
                },
            })
        })
        .collect();
    // Where the name of a field, or a rule of the operator, says that it is one.
    events.push(json!({ "event_id": "named", "event_type": "secret.named", "payload": { "password": "needle-of-a-named-field", "note": "x", "diary": { "today": "needle-of-the-diary" } } }));
    // In what becomes a column of its own.
    events.push(json!({ "event_id": "planted-ghp_FiNdMeGiThUb0123456789abcdef", "event_type": "secret.id", "payload": { "session_id": "ghp_FiNdMeGiThUb0123456789abcdef", "note": "x" } }));
    events
}

fn needles() -> Vec<String> {
    let named = ["needle-of-a-named-field", "needle-of-the-diary", "oWnNeEdLe0123456789abcdefgh"];
    planted().into_iter().map(|(_, needle, _)| needle).chain(named.map(str::to_owned)).collect()
}

fn assert_clean(place: &str, bytes: &[u8]) {
    for needle in needles() {
        let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(120)..bytes.len().min(at + needle.len() + 40)];
            panic!("`{needle}` is in {place}: …{}…", String::from_utf8_lossy(around).escape_debug());
        }
    }
}

fn assert_clean_store(home: &Home, when: &str) {
    let mut files = 0;
    for entry in fs::read_dir(home.path().join("state")).expect("the store's directory") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            assert_clean(&format!("{} {when}", path.display()), &fs::read(&path).expect("it can be read"));
            files += 1;
        }
    }
    assert!(files >= 2, "the store's file and what lies beside it");
}

#[test]
fn planted_secrets_reach_neither_store_nor_log_nor_screen() {
    let home = home();
    // One half through the command without a router, one through the door of a running one.
    let events = events();
    let (early, late) = events.split_at(events.len() / 2);
    for event in early {
        let ran = home.run_with_input(&["publish", "-"], event.to_string().as_bytes()).code(0);
        assert_clean("the answer of `publish`", (ran.stdout + &ran.stderr).as_bytes());
    }
    assert_clean_store(&home, "before a router ran");

    let mut service = Service::start(home.command(&["run", "--log-format", "text"]));
    for event in late {
        let answer = posted(service.address(), "/events", &event.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        // Its id is told to the sender as it was sent.
        if event["event_type"] != "secret.id" {
            assert_clean("the answer of the door", answer.body.as_bytes());
        }
    }
    // Escaped, so that the bytes are others than the text.
    let escaped = "{\"event_type\":\"secret.escaped\",\"payload\":{\"note\":\"\\u0067hp_\\u0046iNdMeGiThUb0123456789abcdef\"}}";
    assert_eq!(posted(service.address(), "/events", escaped).status, 200);
    finished(&home);
    assert_clean_store(&home, "while the router runs");

    let outputs = |when: &str| {
        let list = home.run(&["dead-letters", "list", "--json"]).code(0).json();
        let letters: Vec<String> =
            list["dead_letters"].as_array().expect("a list").iter().filter_map(|letter| letter["id"].as_str()).map(str::to_owned).collect();
        assert!(letters.len() >= 2 * events.len(), "two routes give up on every event");
        let mut commands: Vec<Vec<&str>> = vec![
            vec!["events", "--last", "1000"],
            vec!["events", "--last", "1000", "--json"],
            vec!["dead-letters", "list"],
            vec!["dead-letters", "list", "--json"],
            vec!["explain", "1"],
            vec!["explain", "planted-github", "--json"],
            vec!["try", "tells", "planted-jwt"],
            vec!["try", "fails", "planted-url", "--json"],
            vec!["config", "show"],
        ];
        commands.extend(letters.iter().take(6).map(|id| vec!["dead-letters", "show", id.as_str()]));
        for args in commands {
            let ran = home.run(&args).code(0);
            assert_clean(&format!("the output of {args:?} {when}"), (ran.stdout + &ran.stderr).as_bytes());
        }
        // It was there, and it is marked.
        assert!(list.to_string().contains("[redacted:"), "{list}");
    };
    outputs("beside a running router");
    assert_clean("the log", service.log().join("\n").as_bytes());
    let log = service.stop().join("\n");
    assert_clean("the log", log.as_bytes());
    assert!(log.contains("[redacted:github-token:"), "the log plugin wrote redacted lines");
    outputs("without a router");
    assert_clean_store(&home, "after the router has stopped");
}

#[test]
fn the_same_secret_has_the_same_mark_over_restarts_and_on_both_ways_in() {
    let home = home();
    let event =
        |id: &str| json!({ "event_id": id, "event_type": "other.key", "payload": { "note": format!("ghp_{}", "FiNdMeGiThUb0123456789abcdef") } }).to_string();
    let _ = home.run_with_input(&["publish", "-"], event("first").as_bytes()).code(0);
    let service = home.serve();
    assert_eq!(posted(service.address(), "/events", &event("second")).status, 200);
    service.stop();
    let answer = home.run(&["events", "--json"]).code(0).json();
    let note = |event: &Value| serde_json::from_str::<Value>(event["body"].as_str().expect("a text")).expect("JSON")["payload"]["note"].clone();
    let events = answer["events"].as_array().expect("a list");
    assert_eq!(events.len(), 2);
    assert_eq!(note(&events[0]), note(&events[1]));
    assert!(note(&events[0]).as_str().is_some_and(|note| note.starts_with("[redacted:github-token:")), "{answer}");
    assert!(events.iter().all(|event| event["redactions"] == 1), "{answer}");
}
