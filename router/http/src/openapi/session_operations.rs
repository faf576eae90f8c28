//! What the paths of `/api/v1/sessions` take and answer.

use router_api::{SessionList, SessionShown, SessionStats, SessionsImported};
use serde_json::json;

use super::{
    operations::{Operation, READ, VERB, admin_token, answers, get, in_path, json_of, post},
    shapes::Shapes,
};
use crate::{
    operate::schema,
    sessions::{ImportRequest, SessionsQuery, SumsQuery},
};

/// Adds them.
pub(super) fn add(shapes: &mut Shapes, all: &mut Vec<Operation>) {
    let with_not_found: Vec<u16> = READ.iter().copied().chain([404]).collect();
    let sessions = shapes.verb::<SessionList>(schema::SESSIONS);
    all.push(get(
        "/api/v1/sessions",
        json!({
            "operationId": "listSessions",
            "tags": ["admin"],
            "summary": "Coding sessions, the one with the newest event first",
            "security": admin_token(),
            "parameters": shapes.query::<SessionsQuery>(None),
            "responses": answers(shapes, "The sessions", Some(json_of(sessions)), READ),
        }),
    ));
    let sums = shapes.verb::<SessionStats>(schema::SESSION_STATS);
    all.push(get(
        "/api/v1/sessions/stats",
        json!({
            "operationId": "sessionStats",
            "tags": ["admin"],
            "summary": "Turns, tokens, cost, files and commits of sessions, added up",
            "security": admin_token(),
            "parameters": shapes.query::<SumsQuery>(None),
            "responses": answers(shapes, "The sums", Some(json_of(sums)), READ),
        }),
    ));
    let session = shapes.verb::<SessionShown>(schema::SESSION);
    all.push(get(
        "/api/v1/sessions/{id}",
        json!({
            "operationId": "showSession",
            "tags": ["admin"],
            "summary": "One session and those that belong to it",
            "security": admin_token(),
            "parameters": [in_path("id", json!({ "type": "string", "minLength": 1 }), "Its id, or the beginning of it")],
            "responses": answers(shapes, "The session", Some(json_of(session)), &with_not_found),
        }),
    ));
    let (body, answer) = (shapes.request::<ImportRequest>(), shapes.verb::<SessionsImported>(schema::SESSIONS_IMPORTED));
    all.push(post(
        "/api/v1/sessions/import",
        json!({
            "operationId": "importSessions",
            "tags": ["admin"],
            "summary": "Keeps what transcripts say of sessions; makes no event of it",
            "security": admin_token(),
            "requestBody": { "required": true, "content": json_of(body) },
            "responses": answers(shapes, "It is kept", Some(json_of(answer)), VERB),
        }),
    ));
}
