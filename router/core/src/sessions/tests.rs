//! How facts add up. What is read of an archive, and how often, is shown in `tests/tests/sessions.rs`.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::SizeRange};
use router_api::{Envelope, Session, SessionEntry, SessionOrigin, SessionState, StoredSession};
use serde_json::{Value, json};

use super::{ARCHIVED, fact::Fact, merge, record::Record};

fn at(second: u32) -> String {
    format!("2026-03-02T09:{:02}:{:02}.5Z", second / 60, second % 60)
}

/// A v2 event of session `s`, stored a minute after it happened.
fn event(id: &str, key: &str, second: u32, payload: Value) -> (Envelope, u32) {
    let mut payload = payload;
    payload["session_id"] = "s".into();
    let body = json!({ "event_id": id, "event_type": key, "timestamp": at(second), "version": "1.0.0",
        "source": { "host": "ada", "type": "agent", "app": "claude-code" }, "correlation_ids": [], "payload": payload });
    (raw(key, &body), second)
}

fn raw(key: &str, body: &Value) -> Envelope {
    Envelope::decode(key.parse().unwrap(), body.to_string(), ARCHIVED).unwrap()
}

fn fact(event: &Envelope, second: u32) -> Option<Fact> {
    Fact::of(event, "s", at(second + 60).parse().unwrap())
}

fn record(events: &[&(Envelope, u32)]) -> Session {
    let mut record = Record::default();
    for (event, second) in events {
        fact(event, *second).into_iter().for_each(|fact| record.add(fact));
    }
    record.session("s").expect("there are facts")
}

fn start(second: u32) -> (Envelope, u32) {
    let payload = json!({ "working_directory": "/srv/shop", "git_branch": "main", "git_remote": "git@h:a/b.git", "model": "m-1", "started_at": at(second) });
    event(&format!("start-{second}"), "session.thread.start", second, payload)
}

fn tool(name: &str, second: u32) -> (Envelope, u32) {
    let input = json!({ "file_path": "/srv/shop/src/a.py" });
    let payload = json!({ "tool_metadata": { "tool_name": name, "tool_input": input, "success": true }, "working_directory": "/srv/shop", "git_branch": "feat/x", "turn_number": 0 });
    event(&format!("{name}-{second}"), "session.thread.agent.action", second, payload)
}

fn end(second: u32) -> (Envelope, u32) {
    let payload = json!({ "end_reason": "user_stop", "final_status": "success", "duration_seconds": 30, "total_turns": 0, "total_tokens": 1000 * u64::from(second),
        "total_cost_usd": 0.5, "tools_used": { "Grep": 2, "Write": 1 }, "files_modified": ["src/a.py", "b.py"], "git_commits": ["c0ffee"], "summary": "did it" });
    event(&format!("end-{second}"), "session.thread.end", second, payload)
}

fn entry(events: &[&(Envelope, u32)]) -> SessionEntry {
    let mut record = Record::default();
    events.iter().filter_map(|(event, second)| fact(event, *second)).for_each(|fact| record.add(fact));
    record.entry("s").expect("something is known")
}

#[test]
fn what_is_told_again_happened_once() {
    let (event, second) = tool("Write", 3);
    assert!(fact(&event, second).is_some());
    let marks = [json!({ "replayed": { "of": "Write-3", "number": 7, "at": at(9) } }), json!({ "replayof": "Write-3", "replayedat": at(9) })];
    for mark in marks {
        let mut body = event.body().clone();
        body.as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
        body["event_id"] = "another".into();
        assert!(fact(&raw("session.thread.agent.action", &body), second).is_none(), "{mark}");
    }
}

#[test]
fn what_a_session_did_is_spread_over_quarters_of_an_hour_and_adds_up_to_its_totals() {
    let turn = |id: &str, second, turn: u64, tokens: u64, cost: f64| {
        event(id, "session.thread.turn.completed", second, json!({ "turn_number": turn, "total_tokens": tokens, "total_cost_usd": cost, "model": "m" }))
    };
    let events = [start(0), turn("a", 10, 1, 100, 0.5), turn("b", 800, 2, 150, 0.75), turn("c", 1_000, 3, 400, 2.0), turn("d", 2_000, 4, 400, 2.0)];
    let in_order = entry(&events.iter().collect::<Vec<_>>());
    let slots: Vec<_> = in_order.slots.iter().map(|slot| (slot.turns, slot.tokens, slot.cost_usd)).collect();
    assert_eq!(slots, [(2, 150, Some(0.75)), (1, 250, Some(1.25)), (1, 0, Some(0.0))]);
    assert_eq!((in_order.session.turns, in_order.session.tokens, in_order.session.cost_usd), (4, Some(400), Some(2.0)));
    assert_eq!(in_order, entry(&events.iter().rev().chain(&events).collect::<Vec<_>>()));
}

#[test]
fn a_feature_and_a_ticket_are_read_where_producers_say_them() {
    let mut said = start(0);
    let mut body = said.0.body().clone();
    body["source"]["meta"] = json!({ "feature": "coupons" });
    body["payload"]["git_branch"] = "feature/GOD-25-x".into();
    said.0 = raw("session.thread.start", &body);
    let session = entry(&[&said]).session;
    assert_eq!((session.feature.as_deref(), session.ticket.as_deref()), (Some("coupons"), Some("GOD-25")));
    let tagged = event("t", "session.thread.agent.action", 5, json!({ "tool_metadata": { "tool_name": "Bash" }, "tags": ["x", "feature:pay"] }));
    assert_eq!(entry(&[&tagged]).session.feature.as_deref(), Some("pay"));
}

#[test]
fn a_later_look_at_fewer_events_takes_nothing_away() {
    let turn = |id: &str, second, tokens: u64| event(id, "session.thread.turn.completed", second, json!({ "total_tokens": tokens, "total_cost_usd": 1.0 }));
    let (first, second) = (turn("a", 10, 100), turn("b", 1_000, 300));
    let whole = entry(&[&start(0), &tool("Bash", 5), &first, &second]);
    let rest = entry(&[&second]);
    let grown = merge::grown(Some(whole.clone()), rest);
    assert_eq!((grown.session.started_at, grown.session.tokens, &grown.session.tools), (whole.session.started_at, Some(300), &whole.session.tools));
    assert_eq!(merge::grown(Some(whole.clone()), whole.clone()), whole);
    assert_eq!(merge::grown(None, whole.clone()), whole);
}

#[test]
fn events_and_transcript_of_a_session_are_never_added_up() {
    let seen = entry(&[&start(0), &tool("Bash", 5), &event("a", "session.thread.turn.completed", 10, json!({ "turn_number": 3, "total_tokens": 100 }))]);
    let mut imported = seen.clone();
    imported.session.origin = SessionOrigin::Import;
    imported.session.state = SessionState::Ended;
    imported.session.turns = 2;
    imported.session.tokens = Some(250);
    imported.session.cost_usd = Some(0.5);
    imported.session.files = BTreeSet::from(["x".to_owned()]);
    imported.slots[0].tokens = 250;
    let stored = StoredSession { seen: Some(seen.clone()), imported: Some(imported.clone()) };
    let both = merge::shown(&stored).unwrap();
    assert_eq!((both.session.origin, both.session.state, both.session.turns), (SessionOrigin::Both, SessionState::Active, 3));
    assert_eq!((both.session.tokens, both.session.cost_usd, both.session.files.len(), &both.slots), (Some(250), Some(0.5), 1, &imported.slots));
    imported.session.tokens = Some(50);
    let both = merge::shown(&StoredSession { seen: Some(seen.clone()), imported: Some(imported) }).unwrap();
    assert_eq!((both.session.tokens, &both.slots), (Some(100), &seen.slots));
}

/// A turn that ended, with what each model took so far: tokens written, and dollars.
fn turn(second: u32, number: u64, model: &str, models: &[(&str, u64, Option<f64>)]) -> (Envelope, u32) {
    let tokens: u64 = models.iter().map(|(_, tokens, _)| tokens).sum();
    let cost: Option<f64> = models.iter().map(|(.., cost)| *cost).sum();
    let by_model: serde_json::Map<String, Value> =
        models.iter().map(|(model, tokens, cost)| ((*model).to_owned(), json!({ "output": tokens, "cost_usd": cost }))).collect();
    let payload = json!({ "turn_number": number, "total_tokens": tokens, "total_cost_usd": cost, "model": model, "usage_by_model": by_model });
    event(&format!("turn-{second}"), "session.thread.turn.completed", second, payload)
}

/// Tokens by slot and model, without rows that have none.
fn taken(entry: &SessionEntry) -> Vec<(i64, &str, u64, Option<f64>)> {
    let first = entry.slots[0].slot;
    let rows = entry.slots.iter().filter(|row| row.tokens > 0);
    rows.map(|row| (row.slot - first, row.model.as_deref().unwrap_or("?"), row.tokens, row.cost_usd)).collect()
}

#[test]
fn each_model_has_what_it_took_when_it_took_it() {
    let first = turn(100, 1, "opus", &[("opus-20260101", 100, Some(1.0))]);
    let second = turn(1_000, 2, "haiku", &[("opus-20260101", 100, Some(1.0)), ("haiku", 50, Some(0.25))]);
    let third = turn(1_010, 3, "haiku", &[("opus-20260101", 130, Some(1.5)), ("haiku", 50, Some(0.25))]);
    let both = entry(&[&start(0), &first, &second, &third]);
    assert_eq!(taken(&both), [(0, "opus-20260101", 100, Some(1.0)), (1, "haiku", 50, Some(0.25)), (1, "opus-20260101", 30, Some(0.5))]);
    let turns: Vec<_> = both.slots.iter().filter(|row| row.turns > 0).map(|row| (row.model.as_deref().unwrap(), row.turns)).collect();
    assert_eq!(turns, [("opus-20260101", 1), ("haiku", 2)], "a turn is of the model that answered then, under the name that its tokens have");
    let session = &both.session;
    assert_eq!(
        (session.tokens, session.cost_usd, session.models["opus-20260101"].output, session.models["haiku"].cost_usd),
        (Some(180), Some(1.75), 130, Some(0.25))
    );

    // An old hook tells no models apart: what it adds is of the one that answered.
    let old =
        event("old", "session.thread.end", 1_100, json!({ "end_reason": "x", "model": "haiku", "total_turns": 3, "total_tokens": 200, "total_cost_usd": 2.0 }));
    let with_old = entry(&[&first, &second, &third, &old]);
    assert_eq!(taken(&with_old)[1..], [(1, "haiku", 70, Some(0.5)), (1, "opus-20260101", 30, Some(0.5))]);
    assert_eq!((with_old.session.tokens, with_old.session.cost_usd), (Some(200), Some(2.0)));
}

#[test]
fn a_cost_that_is_not_known_any_more_is_not_the_last_one_that_was() {
    let known = turn(1, 1, "opus", &[("opus", 100, Some(1.0))]);
    let unknown = turn(2, 2, "mine", &[("opus", 100, Some(1.0)), ("mine", 5, None)]);
    let both = entry(&[&known, &unknown]);
    assert_eq!((both.session.tokens, both.session.cost_usd), (Some(105), None));
    assert_eq!(taken(&both), [(0, "mine", 5, None), (0, "opus", 100, Some(1.0))]);
    // Whoever counts tokens and never knows a cost takes none away from who does.
    let silent = event("silent", "session.thread.message", 1, json!({ "role": "assistant", "total_tokens": 100 }));
    assert_eq!(record(&[&known, &silent]).cost_usd, Some(1.0));
}

#[test]
fn what_left_the_archive_is_not_counted_again_with_what_came_after_it() {
    let first = turn(100, 1, "opus", &[("opus", 100, Some(1.0))]);
    let second = turn(1_000, 2, "haiku", &[("opus", 100, Some(1.0)), ("haiku", 50, Some(0.25))]);
    let whole = entry(&[&start(0), &first, &second]);
    let third = turn(2_000, 3, "haiku", &[("opus", 100, Some(1.0)), ("haiku", 80, Some(0.5))]);
    // The first two slots have gone; the totals of the third have them all the same.
    let grown = merge::grown(Some(whole), entry(&[&third]));
    assert_eq!(taken(&grown), [(0, "opus", 100, Some(1.0)), (1, "haiku", 50, Some(0.25)), (2, "haiku", 30, Some(0.25))]);
    assert_eq!((grown.session.tokens, grown.session.cost_usd, grown.session.turns), (Some(180), Some(1.5), 3));
    assert_eq!(grown.slots.iter().map(|row| row.turns).sum::<u64>(), 3);

    // The same of a producer that tells no models apart, and of a model that changed meanwhile.
    let old = |id: &str, second, turns: u64, tokens: u64, model: &str| {
        event(
            id,
            "session.thread.turn.completed",
            second,
            json!({ "turn_number": turns, "total_tokens": tokens, "total_cost_usd": 0.01 * tokens as f64, "model": model }),
        )
    };
    let whole = entry(&[&old("a", 100, 1, 100, "opus"), &old("b", 1_000, 2, 150, "opus")]);
    let grown = merge::grown(Some(whole), entry(&[&old("b", 1_000, 2, 150, "opus"), &old("c", 2_000, 3, 200, "haiku")]));
    assert_eq!(taken(&grown).iter().map(|row| (row.0, row.1, row.2)).collect::<Vec<_>>(), [(0, "opus", 100), (1, "opus", 50), (2, "haiku", 50)]);
    assert_eq!((grown.session.tokens, grown.slots.iter().map(|row| row.turns).sum::<u64>()), (Some(200), 3));
}

#[test]
fn a_session_that_is_known_from_both_sides_has_each_number_of_one_of_them() {
    let seen = entry(&[&start(0), &turn(100, 3, "opus", &[("opus", 100, Some(1.0))])]);
    let mut imported = entry(&[&turn(100, 1, "opus", &[("opus", 100, Some(1.0)), ("haiku", 7, Some(0.1))])]);
    imported.session.origin = SessionOrigin::Import;
    let both = merge::shown(&StoredSession { seen: Some(seen), imported: Some(imported) }).unwrap();
    assert_eq!(taken(&both), [(0, "haiku", 7, Some(0.1)), (0, "opus", 100, Some(1.0))]);
    assert_eq!(both.slots.iter().map(|row| row.turns).sum::<u64>(), 3);
    assert_eq!((both.session.turns, both.session.tokens, both.session.models.len()), (3, Some(107), 2));
}

#[test]
fn however_many_models_there_are_said_to_be_what_is_kept_of_them_has_an_end() {
    let names: Vec<String> = (0..200).map(|number| format!("model-{number:03}")).collect();
    let models: Vec<(&str, u64, Option<f64>)> = names.iter().map(|name| (name.as_str(), 10, Some(0.0))).collect();
    let turns: Vec<_> = (0..3_500).step_by(100).map(|second| turn(second, 1, "m", &models)).collect();
    let all = entry(&turns.iter().collect::<Vec<_>>());
    assert_eq!((all.session.models.len(), all.session.tokens), (200, Some(2_000)));
    assert_eq!(all.slots.iter().map(|row| row.tokens).sum::<u64>(), 2_000);
    let mut many = Record::default();
    for number in 0..40 {
        let models: Vec<(String, u64, Option<f64>)> = (0..200).map(|model| (format!("{number}-{model}"), 10, None)).collect();
        let models: Vec<_> = models.iter().map(|(name, tokens, cost)| (name.as_str(), *tokens, *cost)).collect();
        let (event, second) = turn(number * 90, 1, "m", &models);
        many.add(fact(&event, second).unwrap());
    }
    assert!(many.entry("s").unwrap().session.models.len() <= 200);
}

#[test]
fn a_parent_is_said_or_followed() {
    let said = record(&[&event("p", "session.thread.start", 1, json!({ "working_directory": "/w", "model": "m", "parent_session_id": "before" }))]);
    assert_eq!(said.parent.as_deref(), Some("before"));
    let mut body = event("q", "session.thread.start", 1, json!({ "working_directory": "/w", "model": "m" })).0.body().clone();
    body["correlation_ids"] = json!(["x", "", "a".repeat(300), "y", "z", "1", "2", "3"]);
    let follows = |body: &Value| fact(&raw(body["event_type"].as_str().unwrap(), body), 1).unwrap().follows;
    assert_eq!(follows(&body), ["x", "y", "z", "1"]);
    // Of an action the correlated event is its own session's start.
    body["event_type"] = "session.thread.agent.action".into();
    assert!(follows(&body).is_empty());
}

#[test]
fn a_session_is_what_all_of_its_events_say() {
    let told = record(&[&start(0), &tool("Write", 10), &tool("Write", 11), &tool("Read", 12), &end(30)]);
    let expected: Session = serde_json::from_value(json!({
        "session_id": "s", "version": 1_772_442_090_500_000_u64, "state": "ended", "started_at": at(0), "last_event_at": at(30), "ended_at": at(30),
        "end": { "at": at(30), "reason": "user_stop", "status": "success", "summary": "did it", "duration_seconds": 30 },
        "working_directory": "/srv/shop", "git_branch": "feat/x", "git_remote": "git@h:a/b.git", "project": "b", "model": "m-1", "host": "ada", "app": "claude-code",
        "turns": 1, "tools": { "Grep": 2, "Read": 1, "Write": 2 }, "files": ["b.py", "src/a.py"], "commits": ["c0ffee"],
        "tokens": 30_000, "cost_usd": 0.5, "errors": 0, "last_error": null, "events": 5, "is_complete": true,
    }))
    .unwrap();
    assert_eq!(told, expected);
}

#[test]
fn what_happens_after_an_end_opens_the_session_again_and_what_came_late_does_not() {
    let state = |events: &[&(Envelope, u32)]| {
        let session = record(events);
        (session.state, session.ended_at.is_some(), session.end.is_some())
    };
    assert_eq!(state(&[&start(0), &tool("Read", 5)]), (SessionState::Active, false, false));
    assert_eq!(state(&[&start(0), &end(9), &tool("Read", 5)]), (SessionState::Ended, true, true), "it happened before the end");
    assert_eq!(state(&[&start(0), &end(9), &tool("Read", 10)]), (SessionState::Reopened, false, true));
    assert_eq!(state(&[&end(9), &tool("Read", 10), &end(11)]), (SessionState::Ended, true, true));
    assert_eq!(state(&[&end(9), &tool("Read", 9)]), (SessionState::Ended, true, true), "of one moment the end is the end");
}

#[test]
fn what_others_say_of_a_session_opens_it_not_and_what_routers_emit_is_not_of_it() {
    let others = event("o", "billing.session.priced", 20, json!({ "price": 3 }));
    let session = record(&[&end(9), &others]);
    assert_eq!((session.state, session.events), (SessionState::Ended, 2));

    let mut emitted = json!({ "event_id": "w", "event_type": "worktree.synced", "timestamp": at(20), "payload": { "session_id": "s", "branch": "b" } });
    emitted["source"] = json!({ "host": "h", "type": "service", "app": "event-router", "meta": { "route": "worktree" } });
    assert!(fact(&raw("worktree.synced", &emitted), 20).is_none());
    emitted["source"]["app"] = "another".into();
    assert!(fact(&raw("worktree.synced", &emitted), 20).is_some());
}

#[test]
fn every_end_of_an_old_producer_is_a_turn_and_any_better_count_wins() {
    assert_eq!(record(&[&start(0), &end(1), &end(2), &end(3)]).turns, 3);
    let message = |n: u32, role: &str| event(&format!("m{n}-{role}"), "session.thread.message", n, json!({ "role": role, "turn_number": n, "tokens": 7 }));
    let asked: Vec<_> = (1..6).map(|n| message(n, "user")).collect();
    let mut all: Vec<_> = asked.iter().collect();
    let answered = message(2, "assistant");
    all.push(&answered);
    let session = record(&all);
    assert_eq!((session.turns, session.tokens), (5, Some(42)));
    let (said, ended) = (event("t", "session.thread.turn.completed", 3, json!({ "turn_number": 9 })), end(4));
    assert_eq!(record(&[&said, &ended]).turns, 9);
}

#[test]
fn a_branch_that_is_none_replaces_none() {
    let session = |branch: Value| event("later", "session.thread.agent.action", 50, json!({ "git_branch": branch, "working_directory": "" }));
    for none in [json!(null), json!(""), json!("unknown"), json!("HEAD"), json!(7)] {
        let told = record(&[&start(0), &session(none.clone())]);
        assert_eq!((told.git_branch.as_deref(), told.working_directory.as_deref()), (Some("main"), Some("/srv/shop")), "{none}");
    }
    assert_eq!(record(&[&start(0), &session(json!("refs/heads/dev"))]).git_branch.as_deref(), Some("dev"));
}

#[test]
fn errors_are_counted_and_the_newest_is_told() {
    let error = |n: u32| event(&format!("e{n}"), "session.thread.error", n, json!({ "error_type": format!("T{n}"), "error_message": "x".repeat(5_000) }));
    let (second, first) = (error(2), error(1));
    let session = record(&[&second, &first]);
    let last = session.last_error.unwrap();
    assert_eq!((session.errors, last.kind.as_deref(), last.message.map(|text| text.len())), (2, Some("T2"), Some(2_000)));
}

#[test]
fn every_dialect_tells_of_its_session() {
    let cloud = |id: &str, kind: &str, data: Value| {
        let body = json!({ "specversion": "1.0", "id": id, "source": "urn:agent", "type": format!("bloodbank.v1.{kind}"), "time": at(5), "correlationid": "s", "data": data });
        (raw(&format!("bloodbank.evt.v1.{kind}"), &body), 5)
    };
    let session = record(&[
        &cloud("1", "agent.session.started", json!({ "session_id": "s", "working_directory": "/w", "git_branch": "b" })),
        &cloud("2", "conversation.turn.started", json!({})),
        &cloud("3", "agent.tool.requested", json!({ "tool_name": "Write" })),
        &cloud(
            "4",
            "agent.tool.completed",
            json!({ "tool_name": "Write", "arguments": { "file_path": "/w/x.py" }, "outcome": "success", "working_directory": "/w" }),
        ),
        &cloud("5", "agent.tool.completed", json!({ "tool_name": "Write", "arguments": { "file_path": "/w/y.py" }, "outcome": "failed" })),
        &cloud("6", "agent.invocation.failed", json!({})),
        &cloud("7", "agent.session.ended", json!({ "git_commits": ["c1"] })),
    ]);
    assert_eq!((session.state, session.turns, session.errors, session.events), (SessionState::Ended, 1, 1, 7));
    assert_eq!((session.tools, session.files), (BTreeMap::from([("Write".to_owned(), 2)]), BTreeSet::from(["x.py".to_owned()])));
    assert_eq!((session.commits, session.app.as_deref()), (BTreeSet::from(["c1".to_owned()]), Some("urn:agent")));

    let hookd = json!({ "event_type": "tool.mutation.write", "hook_type": "post_tool_use", "tool_name": "write", "repo": { "git_root": "/w", "branch": "b", "remote_url": "r" },
        "file_path": "/w/src/x.py", "raw_payload": { "session_id": "s", "tool_name": "Edit" }, "timestamp": at(6) });
    let (one, again) = ((raw("tool.mutation.write", &hookd), 6), (raw("tool.mutation.write", &hookd), 6));
    let action = tool("Edit", 6);
    let session = record(&[&one, &again, &action]);
    assert_eq!(session.events, 2, "without an id, what happened when is what tells copies apart");
    assert_eq!(session.tools, BTreeMap::from([("Edit".to_owned(), 1)]), "told of by two producers, used once");
    assert_eq!((session.git_remote.as_deref(), session.files.len()), (Some("r"), 2));

    let v1 = json!({ "id": "v1", "ts": at(7), "event_type": "session.thread.message", "source": "http", "data": { "role": "user" }, "session_id": "s" });
    let lenient = json!({ "event_type": "session.thread.end", "session_id": "s", "end_reason": "bye" });
    let session = record(&[&(raw("session.thread.message", &v1), 7), &(raw("session.thread.end", &lenient), 8)]);
    assert_eq!((session.turns, session.end.unwrap().reason.as_deref()), (1, Some("bye")));
}

#[test]
fn a_time_from_the_future_does_not_stay_the_newest() {
    let body = json!({ "event_id": "f", "event_type": "session.thread.agent.action", "timestamp": "9000-01-01T00:00:00Z", "payload": { "session_id": "s", "git_branch": "evil" } });
    let session = record(&[&(raw("session.thread.agent.action", &body), 1), &end(200)]);
    assert_eq!((session.state, session.last_event_at), (SessionState::Ended, at(200).parse().unwrap()));
}

#[test]
fn hostile_values_change_no_type_and_no_limit() {
    let huge = "x".repeat(1 << 20);
    let names: serde_json::Map<String, Value> = (0..5_000).map(|n| (format!("tool-{n:05}"), json!(1))).collect();
    let files: Vec<String> = (0..5_000).map(|n| format!("{n:05}.py")).collect();
    let hostile = event(
        "h",
        "session.thread.end",
        1,
        json!({ "end_reason": &huge, "summary": ["no", "text"], "total_turns": -3, "total_tokens": 1e300, "total_cost_usd": -1, "tools_used": names, "duration_seconds": "10",
            "files_modified": files, "git_commits": [&huge, 7, null, "ok"], "git_branch": &huge, "working_directory": format!("/{huge}"), "model": { "a": 1 } }),
    );
    let session = record(&[&hostile]);
    assert_eq!((session.turns, session.tokens, session.cost_usd, session.is_complete), (1, None, None, false));
    assert_eq!((session.tools.len(), session.files.len(), session.commits.len()), (200, 500, 1));
    assert_eq!((session.working_directory, session.git_branch.map(|branch| branch.len()), session.model), (None, Some(256), None));
    assert_eq!(session.end.unwrap().reason.unwrap().len(), 2_000);
    assert!(serde_json::to_vec(&record(&[&hostile])).unwrap().len() < 64 * 1024);
}

fn events() -> impl Strategy<Value = Vec<(Envelope, u32)>> {
    let some = (0u32..7, 0u32..40).prop_map(|(which, second)| match which {
        0 => start(second),
        1 => end(second),
        2 => tool("Write", second),
        3 => tool("Bash", second),
        4 => event(&format!("e-{second}"), "session.thread.error", second, json!({ "error_type": format!("{second}") })),
        5 => turn(
            second,
            u64::from(second / 9),
            ["opus", "haiku"][second as usize % 2],
            &[("opus", u64::from(second) * 10, Some(f64::from(second) / 8.0)), ("mine", u64::from(second / 20), None)],
        ),
        _ => event(&format!("m-{second}"), "session.thread.message", second, json!({ "role": "user", "turn_number": second, "tokens": second })),
    });
    prop::collection::vec(some, SizeRange::from(1..30))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn neither_order_nor_repetition_changes_what_is_known(events in events(), seed in any::<u64>()) {
        let in_order: Vec<_> = events.iter().collect();
        let mut shuffled: Vec<_> = events.iter().chain(events.iter().step_by(2)).collect();
        shuffled.sort_by_key(|(event, second)| {
            let id = event.id().map_or(0, |id| id.as_str().bytes().map(u64::from).sum::<u64>());
            (id.wrapping_mul(seed | 1).rotate_left(seed as u32 % 64), *second)
        });
        prop_assert_eq!(record(&in_order), record(&shuffled));
    }

    #[test]
    fn more_knowledge_is_never_an_older_version(events in events()) {
        let all: Vec<_> = events.iter().collect();
        let mut version = 0;
        for known in 1..=all.len() {
            let session = record(&all[..known]);
            prop_assert!(session.version >= version);
            version = session.version;
        }
    }
}
