//! Session records: their schema and page, and a server that keeps the newest.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use router_api::{Clock, EventQuery, Session, Sessions, Store};
use router_core::sessions::Projection;
use router_testkit::{MemoryState, MemoryStore, MemoryTransport, VirtualClock, event};
use router_tests::{Home, eventually, workspace};
use serde_json::{Value, json};

use crate::{schema::Document, server::Server};

const SCHEMA: &str = "docs/integrations/flume.schema.json";

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(workspace().join(SCHEMA)).expect("the schema is there")).expect("it is JSON")
}

/// Without the words that say nothing of a single value, or that the checker does not know: a set of names is a list there.
fn plain(schema: Value) -> Value {
    match schema {
        Value::Object(words) => Value::Object(
            words
                .into_iter()
                .filter(|(word, _)| !matches!(word.as_str(), "$schema" | "$defs" | "uniqueItems"))
                .map(|(word, value)| (word, plain(value)))
                .collect(),
        ),
        Value::Array(values) => values.into_iter().map(plain).collect(),
        value => value,
    }
}

pub(crate) fn problems(body: &Value) -> Vec<String> {
    let document = schema();
    let mut defined = document.clone();
    for (_, shape) in defined["$defs"].as_object_mut().into_iter().flatten() {
        *shape = plain(shape.take());
    }
    Document(&defined).problems(&plain(document), body)
}

#[test]
fn the_schema_is_that_of_the_body() {
    let path = workspace().join(SCHEMA);
    let made = format!("{}\n", serde_json::to_string_pretty(&plugins::flume::body_schema()).expect("it is JSON"));
    if std::env::var_os("EVENT_ROUTER_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &made).expect("it can be written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{SCHEMA} is not what the source makes: run this test with EVENT_ROUTER_UPDATE_GOLDEN=1, and commit it");
}

#[test]
fn the_body_that_the_page_shows_fits_the_schema() {
    let page = fs::read_to_string(workspace().join("docs/integrations/flume.md")).expect("the page is there");
    let shown = page.split("```json\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("a body");
    let mut body: Value = serde_json::from_str(shown).expect("it is JSON");
    assert_eq!(problems(&body), Vec::<String>::new());
    // It can fail.
    body["state"] = "finished".into();
    body["more"] = 1.into();
    let found = problems(&body);
    assert!(found.iter().any(|problem| problem.contains("finished")) && found.iter().any(|problem| problem.contains("more")), "{found:?}");
    let fields = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    body.as_object_mut().expect("an object").remove("more");
    assert_eq!(fields(&body), fields(&schema()["properties"]), "the page shows every field");
}

pub(crate) fn of_session(id: &str, key: &str, second: u32, payload: Value) -> Value {
    let mut payload = payload;
    payload["session_id"] = "s-1".into();
    payload["working_directory"] = "/srv/shop".into();
    json!({ "event_id": id, "event_type": key, "timestamp": format!("2026-03-02T09:00:{second:02}Z"), "version": "1.0.0",
        "source": { "host": "h", "type": "agent", "app": "claude-code" }, "correlation_ids": [], "agent_context": null, "payload": payload })
}

#[test]
fn the_record_on_the_other_side_becomes_what_the_events_say_in_whatever_order_they_came() {
    let records: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let is_down = Arc::new(AtomicBool::new(true));
    let (kept, down) = (Arc::clone(&records), Arc::clone(&is_down));
    // As the page asks for: the largest version stays.
    let server = Server::start(move |asked| {
        if down.load(Ordering::SeqCst) {
            return 500;
        }
        let mut kept = kept.lock().expect("no test panics here");
        let known = kept.get(&asked.path).and_then(|record| record["version"].as_u64());
        if known > asked.body["version"].as_u64() {
            return 409;
        }
        kept.insert(asked.path.clone(), asked.body.clone());
        204
    });
    let home = Home::new(&format!(
        "[[route]]\nname = \"records\"\non = [\"session.thread.#\"]\norder_by = \"session_id\"\nretry = {{ attempts_max = 100, first_delay_ms = 50, max_delay_ms = 200 }}\nhandler = \"flume\"\nwith = {{ base = \"http://{}/api\" }}\n",
        server.address
    ));
    let service = home.serve();
    let tool = |n: u32| {
        of_session(
            &format!("tool-{n}"),
            "session.thread.agent.action",
            n,
            json!({ "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": format!("/srv/shop/{n}.py") }, "success": true } }),
        )
    };
    let end =
        of_session("end", "session.thread.end", 30, json!({ "end_reason": "user_stop", "final_status": "success", "total_turns": 1, "git_commits": ["c1"] }));
    service.send("session.thread.agent.action", &tool(20));
    service.send("session.thread.end", &end);
    service.send("session.thread.start", &of_session("start", "session.thread.start", 1, json!({ "git_branch": "feat/x", "model": "m" })));
    service.send("session.thread.agent.action", &tool(10));
    service.send("session.thread.end", &end);
    eventually("the server was asked while it failed", || (!server.asked().is_empty()).then_some(()));
    is_down.store(false, Ordering::SeqCst);
    let path = "/api/sessions/s-1";
    let record = |wanted: &dyn Fn(&Value) -> bool| {
        eventually("the record", || records.lock().expect("no test panics here").get(path).filter(|record| wanted(record)).cloned())
    };
    let ended = record(&|record| record["events"] == 4);
    assert_eq!(problems(&ended), Vec::<String>::new());
    assert_eq!(
        (&ended["state"], &ended["tools"], &ended["files"], &ended["commits"]),
        (&json!("ended"), &json!({ "Write": 2 }), &json!(["10.py", "20.py"]), &json!(["c1"]))
    );
    assert_eq!((&ended["started_at"], &ended["git_branch"], &ended["is_complete"]), (&json!("2026-03-02T09:00:01Z"), &json!("feat/x"), &json!(true)));

    service.send("session.thread.agent.action", &tool(40));
    let reopened = record(&|record| record["state"] == "reopened");
    assert!(reopened["version"].as_u64() > ended["version"].as_u64());
    assert!(server.asked().iter().all(|asked| asked.method == "PUT" && asked.header("session-version") == Some(asked.body["version"].to_string().as_str())));

    // An older record, of a router that knows less, changes nothing and is no failure.
    let mut newer = reopened.clone();
    newer["version"] = json!(reopened["version"].as_u64().expect("a number") + 1_000_000_000_000);
    records.lock().expect("no test panics here").insert(path.to_owned(), newer.clone());
    service.send("session.thread.end", &of_session("end-2", "session.thread.end", 50, json!({})));
    eventually("the event is skipped", || {
        let events = home.run(&["events", "--json"]).code(0).json();
        events["events"].as_array()?.iter().any(|event| event["id"] == "end-2" && event.to_string().contains("the server has a newer record")).then_some(())
    });
    assert_eq!(records.lock().expect("no test panics here").get(path), Some(&newer));
    service.stop();
}

#[test]
fn hostile_sessions_stay_one_segment_and_kill_nothing() {
    let server = Server::start(|_| 204);
    let home = Home::new(&format!(
        "[[route]]\nname = \"records\"\non = [\"session.thread.#\"]\norder_by = \"session_id\"\nhandler = \"flume\"\nwith = {{ base = \"http://{}/api\" }}\n",
        server.address
    ));
    let service = home.serve();
    let huge = "x".repeat(1 << 20);
    let hostile =
        ["../../admin", "a?b#c", "a\r\nx-evil: 1", "https://evil.example/", "$(touch evil)`id`\"'", "\u{202e}\u{0}ü", "--upload-pack=x", "..", huge.as_str()];
    for (n, id) in hostile.iter().enumerate() {
        // All of an event has a limit at the door, so only one field is huge.
        let other = if id.len() > 1_000 { "x" } else { *id };
        let body = json!({ "event_id": format!("h-{n}"), "event_type": "session.thread.message", "timestamp": "2026-03-02T09:00:00Z",
            "payload": { "session_id": id, "git_branch": other, "working_directory": other, "role": other, "model": other, "summary": other, "tools_used": { other: 1 } } });
        service.send("session.thread.message", &body);
    }
    service.send("session.thread.message", &of_session("last", "session.thread.message", 1, json!({ "role": "user" })));
    eventually("all of them are settled", || {
        let told = home.run(&["events", "--json", "--last", "50"]).code(0).json();
        let events = told["events"].as_array()?;
        events
            .iter()
            .all(|event| {
                event["deliveries"].as_array().is_some_and(|all| all.iter().all(|one| matches!(one["state"]["state"].as_str(), Some("finished" | "dead"))))
            })
            .then_some(())
    });
    let asked = server.asked();
    assert!(asked.len() >= 5, "{}", asked.len());
    for request in asked {
        let rest = request.path.strip_prefix("/api/sessions/").unwrap_or_else(|| panic!("{}", request.path));
        assert!(!rest.is_empty() && !rest.contains(['/', '?', '#']), "{rest}");
        assert_eq!(request.header("x-evil"), None);
        assert_eq!(problems(&request.body), Vec::<String>::new(), "{}", request.path);
    }
    service.stop();
}

fn archived() -> (MemoryTransport, Arc<MemoryStore>) {
    let state = MemoryState::new();
    (MemoryTransport::new(&state, Arc::new(VirtualClock::default())), Arc::new(MemoryStore::new(&state)))
}

#[tokio::test]
async fn a_long_session_is_read_in_pages_and_then_only_what_is_new() {
    let (transport, store) = archived();
    let told = |n: u32| event("session.thread.agent.action").id(format!("e-{n:05}")).session("long").tool("Read").publication();
    for n in 0..300 {
        router_api::Transport::publish(&transport, told(n)).await.expect("it is taken");
    }
    let projection = Projection::new(store.clone(), Arc::new(VirtualClock::default()));
    let known = async || -> Session { projection.session("long", &[]).await.expect("it is read").expect("it is known") };
    let first = known().await;
    assert_eq!((first.events, first.tools["Read"], first.is_complete), (300, 300, true));
    for n in 290..310 {
        router_api::Transport::publish(&transport, told(n)).await.expect("it is taken");
    }
    let second = known().await;
    assert_eq!((second.events, second.version >= first.version), (310, true), "what came twice counts once");
    assert!(projection.session("another", &[]).await.expect("it is read").is_none());
    assert_eq!(
        store.events(&EventQuery { last: Some(10), session: Some("long".to_owned()), before: Some(5), ..EventQuery::default() }).await.expect("read").len(),
        4
    );
}

#[tokio::test]
async fn what_is_in_hand_counts_before_the_archive_has_it_and_once_after() {
    let (transport, store) = archived();
    let projection = Projection::new(store, Arc::new(VirtualClock::default()));
    let (first, second) = (event("session.thread.start").session("s"), event("session.thread.end").session("s"));
    let known = async |in_hand: &[_]| projection.session("s", in_hand).await.expect("it is read").expect("it is known");
    let one = known(&[first.envelope()]).await;
    let both = known(&[second.envelope()]).await;
    assert_eq!((one.events, both.events), (1, 2), "what was handled before is not forgotten while the archive follows");
    for event in [&first, &second, &second] {
        router_api::Transport::publish(&transport, event.publication()).await.expect("it is taken");
    }
    let later = known(&[second.envelope()]).await;
    assert_eq!((later.events, later.state), (2, both.state));
    assert!(one.version <= both.version && both.version <= later.version);
}

#[tokio::test]
async fn more_sessions_than_are_remembered_are_read_again() {
    let (transport, store) = archived();
    let projection = Projection::new(store, Arc::new(VirtualClock::default()));
    let told = async |n: u32| {
        let id = format!("s-{n}");
        router_api::Transport::publish(&transport, event("session.thread.message").session(&id).publication()).await.expect("it is taken");
        projection.session(&id, &[]).await.expect("it is read").expect("it is known").events
    };
    for n in 0..300 {
        assert_eq!(told(n).await, 1, "{n}");
    }
    for n in [0, 1, 299] {
        assert_eq!(told(n).await, 2, "{n}");
    }
}

#[tokio::test]
async fn of_a_session_that_is_new_to_the_process_an_archive_that_is_behind_is_waited_for() {
    let (clock, state) = (VirtualClock::default(), MemoryState::new());
    let transport = MemoryTransport::new(&state, Arc::new(clock.clone()));
    let projection = Projection::new(Arc::new(MemoryStore::new(&state)), Arc::new(clock.clone())).behind(Duration::from_secs(10));
    let (earlier, end) = (event("session.thread.message").session("s"), event("session.thread.end").session("s"));
    let in_hand = [end.envelope()];
    // Who has looked at it before, with nothing in hand, has not waited for anything.
    let first = event("session.thread.start").session("s");
    router_api::Transport::publish(&transport, first.publication()).await.expect("it is taken");
    assert_eq!(projection.session("s", &[]).await.expect("it is read").expect("it is known").events, 1);
    let (session, ()) = clock
        .run_until(async {
            let follow = async {
                clock.sleep(Duration::from_secs(2)).await;
                for event in [&earlier, &end] {
                    router_api::Transport::publish(&transport, event.publication()).await.expect("it is taken");
                }
            };
            tokio::join!(projection.session("s", &in_hand), follow)
        })
        .await;
    assert_eq!(session.expect("it is read").expect("it is known").events, 3);

    // One that does not come is not waited for longer than that, and then not at once again.
    let waited = async |id: &str| {
        let (begun, message) = (clock.monotonic(), event("session.thread.message").session(id).envelope());
        let session = clock.run_until(projection.session(id, &[message])).await;
        assert!(session.expect("it is read").is_some(), "what is in hand is known");
        (clock.monotonic() - begun).as_secs()
    };
    assert!((10..12).contains(&waited("t").await));
    assert_eq!((waited("u").await, waited("t").await), (0, 0));
    clock.advance(Duration::from_secs(60));
    assert!((10..12).contains(&waited("v").await));
}
