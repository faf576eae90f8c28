//! The OpenAPI document is true: what a running router answers to requests, good and wrong, to every operation, is what the document
//! says. That every path is described is a test of `router-http`.

use std::collections::BTreeSet;

use router_tests::{Answer, Home, Service, request};
use serde_json::{Value, json};

mod schema;

use schema::Document;

const TOKEN: &str = "3f9c51d2a7e94b6c8d1e";
const SENDERS_TOKEN: &str = "81b2d0c4e6f7a9931c55";

/// A route that does its work, one that gives up on everything, one that waits for more.
fn home() -> Home {
    let home = Home::new(
        r#"
[[route]]
name = "does"
on = ["a.#"]
handler = "log"

[[route]]
name = "gives-up"
on = ["bad.#"]
handler = "exec"
with = { command = ["sh", "-c", "exit 65"] }

[[route]]
name = "collects"
on = ["many.#"]
handler = "log"
coalesce = { by = "key", quiet_ms = 600_000, max_wait_ms = 3_000_000 }

[[route]]
name = "waits"
on = ["down.#"]
handler = "exec"
with = { command = ["sh", "-c", "exit 75"] }

[[route]]
name = "sleeps"
enabled = false
on = ["z.#"]
handler = "log"
"#,
    );
    let text = home
        .read("config/router.toml")
        .replace("[http]\n", &format!("[http]\ntokens = {{ ci = \"{SENDERS_TOKEN}\" }}\nadmin_tokens = {{ laptop = \"{TOKEN}\" }}\n"));
    home.write("config/router.toml", &text);
    home
}

fn ask(service: &Service, method: &str, target: &str, headers: &str, body: &str) -> Answer {
    let address = service.address();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    let text = format!("{method} {target} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    request(address, text.as_bytes()).unwrap_or_else(|| panic!("no answer to {method} {target}"))
}

fn authorized() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

const JSON: &str = "Content-Type: application/json\r\n";

/// What is wrong with an answer to an operation.
fn problems(document: Document<'_>, operation: &Value, answer: &Answer) -> Vec<String> {
    let Some(described) = operation["responses"].get(answer.status.to_string()) else { return vec![format!("{} is not described", answer.status)] };
    let described = document.resolved(described);
    let kind = answer.head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type:").map(|kind| kind.trim().to_owned()));
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
    match described["content"].as_object() {
        None if answer.body.is_empty() => Vec::new(),
        None => vec![format!("a body, where none is described: {}", answer.body)],
        Some(content) => match content.get(&kind) {
            None => vec![format!("`{kind}` is not described")],
            Some(_) if kind == "text/plain" => Vec::new(),
            Some(described) => document.problems(&described["schema"], &answer.json()),
        },
    }
}

/// Every operation: its id, method, path and description.
fn operations(document: &Value) -> Vec<(String, String, String, &Value)> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("the document has paths") {
        for (method, operation) in methods.as_object().expect("a path has methods") {
            all.push((operation["operationId"].as_str().expect("an id").to_owned(), method.to_ascii_uppercase(), path.clone(), operation));
        }
    }
    all
}

/// A session by its transcript.
fn imported() -> Value {
    json!({
        "session": {
            "session_id": "imported", "version": 1, "state": "ended", "started_at": "2026-03-02T09:00:00Z", "last_event_at": "2026-03-02T09:10:00Z",
            "ended_at": null, "end": null, "working_directory": "/home/ada/shop", "git_branch": "main", "git_remote": null, "model": "m", "host": null,
            "app": null, "turns": 1, "tools": { "Bash": 2 }, "files": [], "commits": [], "tokens": 7, "cost_usd": 0.5, "errors": 0, "last_error": null,
            "events": 0, "is_complete": true,
        },
        "slots": [{ "slot": 1_969_380, "model": "m", "turns": 1, "tokens": 7, "cost_usd": 0.5 }],
    })
}

/// What stands for a path's parameters, and bodies that mean something, where made-up ones would not do. In this order.
fn real(dead_letter: &str) -> Vec<(&'static str, String, Value)> {
    vec![
        ("postEvents", "/events".to_owned(), json!({ "event_type": "a.b", "payload": {} })),
        ("postEvents", "/events?key=bad.x".to_owned(), json!([{ "x": 1 }, { "event_id": "e-1" }])),
        (
            "postClaudeCodeHook",
            "/hooks/claude-code?messages=true".to_owned(),
            json!({ "session_id": "s", "hook_event_name": "UserPromptSubmit", "prompt": "p" }),
        ),
        ("publishEvent", "/api/v1/events?key=a&route=does&delay_ms=10".to_owned(), json!({ "x": 1 })),
        ("listEvents", "/api/v1/events?last=100".to_owned(), Value::Null),
        ("listEvents", "/api/v1/events?unmatched=true&session=s&key=%23".to_owned(), Value::Null),
        ("showEvent", "/api/v1/events/1".to_owned(), Value::Null),
        ("watch", "/api/v1/watch".to_owned(), Value::Null),
        ("watch", "/api/v1/watch?after=0&limit=2&key=%23&behind_max=1000&wait_ms=1&when=%7B%22type%22%3A%5B%22a%22%5D%7D".to_owned(), Value::Null),
        ("lastRun", "/api/v1/last-run?working_directory=%2Fshop".to_owned(), Value::Null),
        ("listDeadLetters", "/api/v1/dead-letters?route=gives-up&limit=5".to_owned(), Value::Null),
        ("groupDeadLetters", "/api/v1/dead-letters/groups?route=gives-up".to_owned(), Value::Null),
        ("showDeadLetter", format!("/api/v1/dead-letters/{dead_letter}"), Value::Null),
        ("redrive", "/api/v1/dead-letters/redrive".to_owned(), json!({ "selection": { "route": "gives-up" }, "dry_run": true })),
        ("redrive", "/api/v1/dead-letters/redrive".to_owned(), json!({ "selection": { "ids": [dead_letter], "limit": 1 } })),
        ("discard", "/api/v1/dead-letters/discard".to_owned(), json!({ "route": "does" })),
        ("commandRoute", "/api/v1/routes/does/pause".to_owned(), Value::Null),
        ("commandRoute", "/api/v1/routes/does/resume".to_owned(), Value::Null),
        ("commandRoute", "/api/v1/routes/collects/flush".to_owned(), Value::Null),
        ("enableRoute", "/api/v1/routes/sleeps/enable".to_owned(), json!({ "from": "beginning" })),
        ("importSessions", "/api/v1/sessions/import".to_owned(), json!({ "sessions": [imported()] })),
        ("listSessions", "/api/v1/sessions?last=5&project=shop".to_owned(), Value::Null),
        ("showSession", "/api/v1/sessions/imported".to_owned(), Value::Null),
        ("sessionStats", "/api/v1/sessions/stats?by=model&zone=UTC".to_owned(), Value::Null),
        ("reload", "/api/v1/reload".to_owned(), Value::Null),
        ("status", "/api/v1/status".to_owned(), Value::Null),
        ("readyz", "/readyz".to_owned(), Value::Null),
    ]
}

fn text(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}

#[test]
fn what_a_running_router_answers_is_what_the_document_says() {
    let home = home();
    let service = home.serve();
    let served = ask(&service, "GET", "/api/v1/openapi.json", &authorized(), "");
    let document = served.json();
    assert_eq!(home.run(&["schema", "openapi"]).code(0).json(), document, "the command prints what the door serves");
    let described = Document(&document);
    let all = operations(&document);
    assert!(all.len() > 30, "{}", all.len());
    let mut wrong = Vec::new();
    let mut good = BTreeSet::new();
    let mut look = |id: &str, operation: &Value, what: &str, answer: &Answer| {
        if answer.status == 200 {
            good.insert(id.to_owned());
        }
        wrong.extend(problems(described, operation, answer).into_iter().map(|problem| format!("{id}, {what}: {} {problem}", answer.status)));
    };
    let operation = |id: &str| all.iter().find(|(known, ..)| known == id).unwrap_or_else(|| panic!("there is no operation `{id}`"));

    // Bodies as they are described, whole and with no more than they need.
    for (id, method, path, operation) in &all {
        let target = path.replace("{name}", "cack");
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if target.contains('{') || (method == "POST" && path.starts_with("/api/")) {
            continue;
        }
        // What a query must have. A path is a text, so it will do for any.
        let needed = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
        let needed: Vec<String> = needed.filter_map(|parameter| Some(format!("{}=%2Fshop", parameter["name"].as_str()?))).collect();
        let target = if needed.is_empty() { target } else { format!("{target}?{}", needed.join("&")) };
        for whole in [true, false] {
            let text = if body.is_null() { String::new() } else { described.example(body, whole).to_string() };
            let answer = ask(&service, method, &target, &(authorized() + JSON), &text);
            if body.is_null() || whole {
                assert_eq!(answer.status, 200, "{id}: {answer:?}");
            }
            look(id, operation, if whole { "whole" } else { "as short as may be" }, &answer);
        }
    }

    // Something to show, of every kind.
    for (key, body) in [("bad.x", json!({})), ("many.x", json!({})), ("down.x", json!({}))] {
        assert_eq!(ask(&service, "POST", &format!("/events?key={key}"), &(authorized() + JSON), &text(&body)).status, 200);
    }
    let letters = eventually(|| {
        let letters = ask(&service, "GET", "/api/v1/dead-letters", &authorized(), "").json();
        letters["dead_letters"][0]["id"].as_str().map(str::to_owned)
    });
    // What a route is switched on for.
    home.write("config/router.toml", &home.read("config/router.toml").replace("enabled = false", "enabled = true"));
    for (id, target, body) in real(&letters) {
        let (_, method, _, operation) = operation(id);
        let answer = ask(&service, method, &target, &(authorized() + JSON), &text(&body));
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
        look(id, operation, &target, &answer);
    }

    // What is wrong with a request is told as it is described.
    for (id, method, path, operation) in &all {
        let target =
            path.replace("{name}", "cack").replace("{route}", "nobody").replace("{command}", "pause").replace("{reference}", "none").replace("{id}", "none");
        let is_open = operation["security"] == json!([]);
        let asked = ask(&service, method, &target, JSON, "{}");
        assert_eq!(asked.status == 401, !is_open, "{id} without a token: {asked:?}");
        look(id, operation, "without a token", &asked);
        let sender = format!("Authorization: Bearer {SENDERS_TOKEN}\r\n{JSON}Origin: http://localhost\r\n");
        let is_for_admins = operation["security"] == json!([{ "adminToken": [] }]);
        let asked = ask(&service, method, &target, &sender, "{\"a\":");
        assert_eq!(asked.status == 403, is_for_admins, "{id} with a token for sending: {asked:?}");
        look(id, operation, "with a token for sending", &asked);
        for (what, headers, body) in [
            ("from a foreign page", authorized() + JSON + "Origin: https://evil.example\r\n", "{}"),
            ("to a foreign host", authorized() + JSON + "Host: evil.example\r\n", "{}"),
            ("of another type", authorized() + "Content-Type: text/plain\r\n", "{}"),
            ("broken off", authorized() + JSON, "{\"a\":"),
            ("of the wrong fields", authorized() + JSON, "{\"session_id\": [], \"ids\": 1, \"event_type\": 5}"),
            ("of things that are not there", authorized() + JSON, ""),
        ] {
            look(id, operation, what, &ask(&service, method, &target, &headers, body));
        }
        look(id, operation, "of bytes that are no text", &ask(&service, method, &format!("{target}?key=%ff"), &(authorized() + JSON), "{}"));
        let other = if method == "GET" { "PUT" } else { "DELETE" };
        let refused = ask(&service, other, &target, &(authorized() + JSON), "");
        assert_eq!((refused.status, &refused.json()["kind"]), (405, &json!("method-not-allowed")), "{other} {target}");
        assert!(refused.head.to_ascii_lowercase().contains("\nallow:"), "{refused:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let silent: Vec<&String> = all.iter().map(|(id, ..)| id).filter(|id| !good.contains(*id)).collect();
    assert!(silent.is_empty(), "{silent:?} never succeeded, so nothing is known about their answers");
    service.stop();
}

/// Asks until there is an answer.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(120), "it does not happen");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
