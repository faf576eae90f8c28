//! What comes in at the door and what is published for it: Bloodbank's endpoints, batches, CloudEvents, and the hooks of Claude Code.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    Admin, AdminError, ArchivedEvent, BoxFuture, Chance, Clock, DeadLetterQuery, DecodeLimits, EventQuery, Publication, Published, RouterStatus,
    StoredDeadLetter, TransportError,
};
use router_http::{Access, Door, DoorParts};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct FakeAdmin {
    published: Mutex<Vec<Publication>>,
    /// Publications that succeed before one fails.
    fails_after: Mutex<Option<usize>>,
}

#[async_trait]
impl Admin for FakeAdmin {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        Err(AdminError::NotFound("nothing".into()))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        let mut fails = self.fails_after.lock().unwrap();
        match *fails {
            Some(0) => {
                *fails = None;
                return Err(TransportError::Unavailable("away".into()).into());
            }
            Some(left) => *fails = Some(left - 1),
            None => {}
        }
        let mut published = self.published.lock().unwrap();
        published.push(publication);
        Ok(Published { routed: true, seq: Some(published.len() as u64) })
    }

    async fn events(&self, _: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(Vec::new())
    }

    async fn event(&self, _: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(Vec::new())
    }

    async fn dead_letters(&self, _: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        Ok(Vec::new())
    }

    async fn dead_letter(&self, _: &str) -> Result<StoredDeadLetter, AdminError> {
        Err(AdminError::NotFound("nothing".into()))
    }
}

struct Still(AtomicU64);

impl Clock for Still {
    fn now(&self) -> jiff::Timestamp {
        "2026-11-22T11:31:47.910419Z".parse().unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Chance for Still {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x0101_0101_0101_0101, Ordering::Relaxed)
    }
}

struct Running {
    address: SocketAddr,
    admin: Arc<FakeAdmin>,
}

async fn open() -> Running {
    open_for(Access::default()).await
}

async fn open_for(access: Access) -> Running {
    let admin = Arc::new(FakeAdmin::default());
    let still = || Arc::new(Still(AtomicU64::new(1)));
    let decode = DecodeLimits { body_bytes_max: 100_000, depth_max: 32 };
    let parts = DoorParts { admin: admin.clone(), clock: still(), chance: still(), decode };
    let door = Door::bind("127.0.0.1:0".parse().unwrap(), access, parts).await.unwrap();
    let address = door.address();
    tokio::spawn(door.serve(std::future::pending()));
    Running { address, admin }
}

impl Running {
    async fn send(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", self.address, body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.send(path, "Content-Type: application/json\r\n", &body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Keys and bodies of what was published, in order; forgets them.
    fn published(&self) -> Vec<(String, Value)> {
        let all = std::mem::take(&mut *self.admin.published.lock().unwrap());
        all.iter().map(|publication| (publication.key.as_str().to_owned(), serde_json::from_slice(&publication.body).unwrap())).collect()
    }

    async fn hook(&self, hook: Value) -> Vec<(String, Value)> {
        let (status, body) = self.send("/hooks/claude-code", "Content-Type: application/json\r\n", &hook.to_string()).await;
        assert_eq!((status, body.as_str()), (200, ""), "{hook}");
        self.published()
    }
}

#[tokio::test]
async fn a_session_start_is_answered_with_the_envelope_that_bloodbank_meant() {
    let door = open().await;
    let body = json!({ "session_id": "s", "working_directory": "/p", "model": "m", "started_at": "2026-01-30T12:00:00Z", "mcp_servers": ["a"], "other": 1 });
    let (status, envelope) = door.post("/events/claude-code/session-start", &body).await;
    assert_eq!(status, 200);
    let id = envelope["event_id"].as_str().unwrap().to_owned();
    assert_eq!((id.len(), &id[14..15]), (36, "4"), "a fresh id of version 4");
    let expected = json!({
        "event_id": id, "event_type": "session.thread.start", "timestamp": "2026-11-22T11:31:47.910419+00:00", "version": "1.0.0",
        "source": { "host": "127.0.0.1", "type": "agent", "app": "claude-code", "meta": null }, "correlation_ids": [], "agent_context": null,
        "payload": {
            "session_id": "s", "thread_id": null, "working_directory": "/p", "git_branch": null, "git_remote": null, "model": "m", "user_prompt": null,
            "context_files": [], "mcp_servers": ["a"], "started_at": "2026-01-30T12:00:00+00:00"
        }
    });
    assert_eq!(envelope, expected);
    assert_eq!(door.published(), [("session.thread.start".to_owned(), expected)]);
}

#[tokio::test]
async fn each_of_the_six_and_the_prompt_has_its_key_and_its_required_fields() {
    let door = open().await;
    for (path, key, body) in [
        ("claude-code/tool-action", "session.thread.agent.action", json!({ "session_id": "s", "tool_metadata": { "tool_name": "Bash", "tool_input": {} } })),
        ("claude-code/session-start", "session.thread.start", json!({ "session_id": "s", "working_directory": "/p", "model": "m" })),
        ("claude-code/session-end", "session.thread.end", json!({ "session_id": "s", "end_reason": "user_stop", "final_status": "success" })),
        ("claude-code/message", "session.thread.message", json!({ "session_id": "s", "role": "user", "content": "c", "turn_number": 1 })),
        ("claude-code/error", "session.thread.error", json!({ "session_id": "s", "error_type": "t", "error_message": "m" })),
        ("claude-code/thinking", "session.thread.agent.thinking", json!({ "session_id": "s", "thinking_text": "t" })),
        ("agent/thread/prompt", "agent.thread.prompt", json!({ "provider": "anthropic", "prompt": "hello" })),
    ] {
        let path = format!("/events/{path}");
        let (status, envelope) = door.post(&path, &body).await;
        assert_eq!((status, envelope["event_type"].as_str()), (200, Some(key)), "{path}");
        assert_eq!(door.published()[0].0, key);
        for name in body.as_object().unwrap().keys() {
            let mut without = body.clone();
            without.as_object_mut().unwrap().remove(name);
            let (status, answer) = door.post(&path, &without).await;
            let expected = json!({ "detail": [{ "type": "missing", "loc": ["body", name], "msg": "Field required", "input": without }] });
            assert_eq!((status, answer), (422, expected), "{path} without {name}");
        }
        assert!(door.published().is_empty());
    }
}

#[tokio::test]
async fn wrong_bodies_are_refused_in_the_shape_that_bloodbanks_clients_know() {
    let door = open().await;
    let (status, body) = door.send("/events/claude-code/tool-action", "Content-Type: application/json\r\n", "{not json").await;
    let expected = json!({ "detail": [{
        "type": "json_invalid", "loc": ["body", 1], "msg": "JSON decode error", "input": {}, "ctx": { "error": "Expecting property name enclosed in double quotes" }
    }] });
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (422, expected));
    for (path, body, status, word) in [
        ("/events/claude-code/error", "", 422, "Field required"),
        ("/events/claude-code/error", "[1]", 422, "model_attributes_type"),
        ("/events/claude-code/error", "\"x\"", 422, "model_attributes_type"),
        ("/events/custom", "{\"payload\":{}}", 400, "Missing event_type"),
        ("/events/custom", "{\"event_type\":\"\"}", 400, "Missing event_type"),
        ("/events/custom", "{\"event_type\":5}", 400, "no text"),
        ("/events/custom", "{\"event_type\":\"a\\nb\"}", 400, "routing key"),
        ("/events/custom", "{\"event_type\":\"a\",\"event_id\":\"not-a-uuid\"}", 400, "badly formed hexadecimal UUID string"),
        ("/publish", "{\"event_type\":\"a\"}", 422, "payload"),
        ("/events/agent/cack/nonsense", "{}", 400, "Unknown agent action: nonsense. Valid actions: ['error', 'heartbeat', "),
        ("/events/agent/cack/heartbeat", "{", 400, "Invalid JSON body"),
        ("/events/agent/cack/heartbeat", "{\"agent_name\":\"cack\"}", 422, "Payload validation failed: status: Field required"),
    ] {
        let (found, answer) = door.send(path, "Content-Type: application/json\r\n", body).await;
        assert_eq!(found, status, "{path} {body}: {answer}");
        assert!(answer.contains(word) && answer.starts_with("{\"detail\":"), "{path} {body}: {answer}");
    }
    assert_eq!(door.send("/events/custom", "Content-Type: text/plain\r\n", "{}").await.0, 415);
    assert_eq!(door.send("/events/custom", "Content-Type: application/json\r\n", &" ".repeat(200_000)).await.0, 413);
    *door.admin.fails_after.lock().unwrap() = Some(0);
    assert_eq!(door.post("/events/custom", &json!({ "event_type": "a" })).await, (503, json!({ "detail": "away" })), "not stored is no success");
    assert!(door.published().is_empty());
}

#[tokio::test]
async fn custom_events_go_through_as_they_came() {
    let door = open().await;
    let text = "{ \"event_type\" : \"anything.goes\", \"no_envelope\": 1.50 }";
    let (status, answer) = door.send("/events/custom", "Content-Type: application/json\r\n", text).await;
    assert_eq!((status, answer.as_str()), (200, "{\"event_id\":null,\"status\":\"published\"}"));
    assert_eq!(door.admin.published.lock().unwrap()[0].body, text.as_bytes());
    let id = "7d4f8ac1-35a1-4c23-9f4a-3a0cbb2f8f10";
    let (_, answer) = door.post("/events/custom", &json!({ "event_type": "a", "event_id": id })).await;
    assert_eq!(answer["event_id"], id);
}

#[tokio::test]
async fn types_with_payloads_and_words_of_agents_get_an_envelope() {
    let door = open().await;
    let (status, answer) = door.post("/publish", &json!({ "event_type": "asset.created", "payload": [1] })).await;
    assert_eq!((status, &answer["status"], &answer["event_type"]), (200, &json!("published"), &json!("asset.created")));
    let (status, agent) = door.post("/events/agent/cack/heartbeat", &json!({ "agent_name": "cack", "status": "ok", "uptime_ms": "7" })).await;
    assert_eq!((status, &agent["ok"], &agent["routing_key"]), (200, &json!(true), &json!("agent.cack.heartbeat")));
    let published = door.published();
    assert_eq!((&published[0].1["payload"], &published[0].1["event_id"]), (&json!([1]), &answer["event_id"]));
    assert_eq!(published[1].1["payload"], json!({ "agent_name": "cack", "status": "ok", "active_sessions": null, "uptime_ms": 7 }));
    assert_eq!((published[1].0.as_str(), &published[1].1["event_id"]), ("agent.cack.heartbeat", &agent["event_id"]));
}

#[tokio::test]
async fn several_events_come_in_together_or_not_at_all() {
    let door = open().await;
    let (status, answer) = door.post("/events", &json!([{ "event_type": "a.b" }, { "type": "c.d" }])).await;
    assert_eq!((status, &answer["schema"]), (200, &json!("event-router.published-batch.v1")));
    assert_eq!((&answer["events"][0]["key"], &answer["events"][1]["seq"]), (&json!("a.b"), &json!(2)));
    let lines = "{\"event_type\":\"a.b\"}\n\n{\"event_type\":\"c.d\"}\r\n";
    assert_eq!(door.send("/events", "Content-Type: application/x-ndjson\r\n", lines).await.0, 200);
    assert_eq!(door.published().len(), 4);
    let (status, answer) = door.post("/events", &json!([{ "event_type": "a.b" }, { "x": 1 }])).await;
    assert_eq!(status, 400);
    let error = answer["error"].as_str().unwrap();
    assert!(error.starts_with("event 2 of 2: no routing key") && error.ends_with("none of them is stored"), "{error}");
    assert!(door.published().is_empty());
    *door.admin.fails_after.lock().unwrap() = Some(1);
    let (status, answer) = door.post("/events", &json!([{ "event_type": "a" }, { "event_type": "b" }, { "event_type": "c" }])).await;
    assert_eq!((status, &answer["error"]), (503, &json!("event 2 of 3: away; the 1 before it are stored")));
    assert_eq!(door.published().len(), 1);
}

#[tokio::test]
async fn cloud_events_come_in_all_three_forms() {
    let door = open().await;
    let event = json!({ "specversion": "1.0", "id": "1", "source": "urn:x", "type": "a.b", "data": { "x": 1 } });
    let structured = "Content-Type: application/cloudevents+json; charset=UTF-8\r\n";
    let batch = "Content-Type: application/cloudevents-batch+json\r\n";
    let binary = "Content-Type: application/json\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: urn:x\r\nce-type: a.b\r\n";
    assert_eq!(door.send("/events", structured, &event.to_string()).await.0, 200);
    assert_eq!(door.send("/events", batch, &json!([event, event]).to_string()).await.0, 200);
    assert_eq!(door.send("/events", binary, "{\"x\":1}").await.0, 200);
    let published = door.published();
    assert_eq!(published.len(), 4);
    for (key, body) in published {
        assert_eq!((key.as_str(), &body["id"], &body["data"]), ("a.b", &json!("1"), &json!({ "x": 1 })));
    }
    assert_eq!(door.send("/events", structured, "{\"type\":\"a.b\"}").await.0, 400);
    assert_eq!(door.send("/events", batch, &event.to_string()).await.0, 400);
    assert_eq!(door.send("/events", structured, &json!([event]).to_string()).await.0, 400, "a batch says so");
    assert!(door.published().is_empty());
}

#[tokio::test]
async fn with_tokens_a_client_needs_its_own() {
    let door = open_for(Access::new([("ci".to_owned(), "sesame".to_owned())], [])).await;
    let json = "Content-Type: application/json\r\n";
    assert_eq!(door.send("/events", json, "{\"event_type\":\"a\"}").await.0, 401);
    assert_eq!(door.send("/events", &format!("{json}Authorization: Bearer sesam\r\n"), "{\"event_type\":\"a\"}").await.0, 401);
    assert_eq!(door.send("/events", &format!("{json}Authorization: Bearer sesame\r\n"), "{\"event_type\":\"a\"}").await.0, 200);
    assert_eq!(door.published().len(), 1);
}

#[tokio::test]
async fn an_admin_token_is_good_for_sending_and_does_not_close_the_door_to_senders_of_this_machine() {
    let admin = || [("desk".to_owned(), "abracadabra".to_owned())];
    let json = "Content-Type: application/json\r\n";
    let bearer = format!("{json}Authorization: Bearer abracadabra\r\n");
    let door = open_for(Access::new([("ci".to_owned(), "sesame".to_owned())], []).admin(admin())).await;
    assert_eq!(door.send("/events", json, "{\"event_type\":\"a\"}").await.0, 401);
    assert_eq!(door.send("/events", &bearer, "{\"event_type\":\"a\"}").await.0, 200);
    let door = open_for(Access::new([], []).admin(admin())).await;
    assert_eq!(door.send("/events", json, "{\"event_type\":\"a\"}").await.0, 200);
    assert_eq!(door.send("/events", &bearer, "{\"event_type\":\"a\"}").await.0, 200);
}

fn keys(told: &[(String, Value)]) -> Vec<&str> {
    told.iter().map(|(key, _)| key.as_str()).collect()
}

fn hook(name: &str, more: Value) -> Value {
    let mut hook = json!({ "session_id": "s-1", "cwd": "/p", "hook_event_name": name, "prompt_id": "p-1" });
    hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hook
}

#[tokio::test]
async fn a_session_of_claude_code_becomes_its_events() {
    let door = open().await;
    let prompt = door.hook(hook("UserPromptSubmit", json!({ "prompt": "say nothing of this" }))).await;
    assert_eq!(keys(&prompt), ["session.thread.start"], "the first hook of an unknown session tells its start");
    assert_eq!((&prompt[0].1["payload"]["working_directory"], &prompt[0].1["payload"]["model"]), (&json!("/p"), &json!("unknown")));
    let write = hook(
        "PostToolUse",
        json!({
            "tool_name": "Write", "tool_use_id": "t-1", "duration_ms": 12, "tool_input": { "file_path": "/p/src/a.py", "content": "secret" },
            "tool_response": { "filePath": "/p/src/a.py", "content": "secret", "originalFile": "secret" }
        }),
    );
    let told = door.hook(write.clone()).await;
    assert_eq!(keys(&told), ["session.thread.agent.action"]);
    let payload = &told[0].1["payload"];
    let expected = json!({
        "tool_name": "Write", "tool_input": { "file_path": "/p/src/a.py", "content": "[6 bytes]" }, "execution_time_ms": 12, "success": true,
        "error_message": null, "output_preview": "/p/src/a.py"
    });
    assert_eq!((&payload["tool_metadata"], &payload["turn_number"]), (&expected, &json!(1)));
    let again = door.hook(write).await;
    assert_eq!(again[0].1["event_id"], told[0].1["event_id"], "a hook that comes twice tells of one event");
    let failed = hook("PostToolUseFailure", json!({ "tool_name": "Bash", "tool_use_id": "t-2", "tool_input": { "command": "false" }, "error": "Exit code 1" }));
    let told = door.hook(failed).await;
    assert_eq!(keys(&told), ["session.thread.agent.action", "session.thread.error"]);
    assert_eq!((&told[0].1["payload"]["tool_metadata"]["success"], &told[1].1["payload"]["tool_name"]), (&json!(false), &json!("Bash")));
    let told = door.hook(hook("Stop", json!({ "stop_hook_active": false, "last_assistant_message": "nor of this" }))).await;
    assert_eq!(keys(&told), ["session.thread.turn.completed"]);
    let told = door.hook(hook("SessionEnd", json!({ "reason": "other" }))).await;
    assert_eq!(keys(&told), ["session.thread.end"]);
    let expected = json!({
        "session_id": "s-1", "thread_id": null, "end_reason": "other", "duration_seconds": 0, "total_turns": 1, "total_tokens": null, "total_cost_usd": null,
        "tools_used": { "Bash": 1, "Write": 1 }, "files_modified": ["src/a.py"], "git_commits": [], "final_status": "success", "summary": null,
        "working_directory": "/p", "git_branch": null
    });
    assert_eq!(told[0].1["payload"], expected);
    let resumed = door.hook(hook("UserPromptSubmit", json!({ "prompt_id": "p-2" }))).await;
    assert_eq!(keys(&resumed), ["session.thread.resumed"], "a session that goes on after its end is not a new one");
    assert_eq!(resumed[0].1["correlation_ids"], json!([prompt[0].1["event_id"]]));
}

#[tokio::test]
async fn what_was_said_is_told_only_to_those_who_ask_for_it() {
    let door = open().await;
    let said = hook("UserPromptSubmit", json!({ "prompt": "say this" }));
    let (status, _) = door.send("/hooks/claude-code?messages=true", "Content-Type: application/json\r\n", &said.to_string()).await;
    assert_eq!(status, 200);
    let told = door.published();
    assert_eq!(keys(&told), ["session.thread.start", "session.thread.message"]);
    assert_eq!((&told[1].1["payload"]["role"], &told[1].1["payload"]["content"]), (&json!("user"), &json!("say this")));
}

#[tokio::test]
async fn no_hook_is_in_the_way_and_a_start_that_was_not_stored_is_told_again() {
    let door = open().await;
    for odd in [json!([]), json!(5), json!({}), json!({ "session_id": 7 }), json!({ "session_id": "" }), json!({ "session_id": "x".repeat(1_000) })] {
        assert!(door.hook(odd).await.is_empty());
    }
    *door.admin.fails_after.lock().unwrap() = Some(0);
    let unknown = hook("SomethingNew", json!({ "tool_input": 7, "tool_response": [[]] }));
    let (status, _) = door.send("/hooks/claude-code", "Content-Type: application/json\r\n", &unknown.to_string()).await;
    assert_eq!(status, 503);
    assert_eq!(keys(&door.hook(unknown.clone()).await), ["session.thread.start"]);
    assert!(door.hook(unknown).await.is_empty());
    assert_eq!(door.send("/hooks/claude-code", "Content-Type: application/json\r\n", "{").await.0, 400);
    let big = hook("PostToolUse", json!({ "tool_name": "Write", "tool_input": { "content": "x".repeat(1_000_000) }, "tool_response": {} }));
    assert_eq!(keys(&door.hook(big).await), ["session.thread.agent.action"], "larger than an event may be");
}

#[tokio::test]
async fn a_length_that_is_stated_twice_is_a_bad_request() {
    let door = open().await;
    for lengths in ["Transfer-Encoding: chunked\r\nContent-Length: 5", "Content-Length: 5\r\nTransfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        let request =
            format!("POST /events?key=a HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{lengths}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n", door.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert!(door.published().is_empty());
}
