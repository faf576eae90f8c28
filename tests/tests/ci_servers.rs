//! The requests of `config/examples/ci-servers.toml`, one for each server: where to, with which secret, and what is in them. The shapes
//! are those of the servers' own descriptions.

use plugins::webhook::Webhook;
use router_api::{EffectClass, EffectReply, HandlerError, HttpReply, HttpRequest, Outcome};
use router_testkit::{EventBuilder, TestContext, event};
use router_tests::workspace;
use serde_json::{Value, json};

/// The options of a route's handler, its variables filled in.
fn options(route: &str) -> Value {
    let mut text = std::fs::read_to_string(workspace().join("config/examples/ci-servers.toml")).expect("the example is there");
    while let Some((before, rest)) = text.split_once("${") {
        let (variable, after) = rest.split_once('}').expect("a variable ends");
        let name = variable.split(':').next().unwrap_or_default();
        let value = if name.ends_with("_URL") { "https://ci.example".to_owned() } else { format!("the-{name}") };
        text = format!("{before}{value}{after}");
    }
    let config: toml::Table = text.parse().expect("it is TOML");
    let routes = config["route"].as_array().expect("routes");
    let found = routes.iter().find(|found| found["name"].as_str() == Some(route)).expect("the route is there");
    serde_json::to_value(&found["with"]).expect("it is JSON, too")
}

fn ended() -> EventBuilder {
    event("session.thread.end").id("e-1").session("s-1").git_branch("feat/x&y=1")
}

async fn request_of(route: &str) -> HttpRequest {
    let test = TestContext::new();
    let handler = test.build::<Webhook>(options(route)).await.unwrap_or_else(|error| panic!("{route}: {error}"));
    test.effects.once("webhook", |_| Ok(EffectReply::Http(HttpReply::new(201, "{}"))));
    let handled = test.handle(handler.as_ref(), [ended()]).await;
    assert!(matches!(handled.result, Ok(Outcome::Done)), "{route}: {:?}", handled.result);
    // Every row of the table of answers, for each server.
    for (status, expected) in [
        (408, EffectClass::Failed),
        (425, EffectClass::Failed),
        (429, EffectClass::Busy),
        (500, EffectClass::Failed),
        (502, EffectClass::Unreachable),
        (503, EffectClass::Unreachable),
        (504, EffectClass::Unreachable),
        (302, EffectClass::Refused),
        (400, EffectClass::Refused),
        (401, EffectClass::Refused),
        (403, EffectClass::Refused),
        (404, EffectClass::Refused),
        (405, EffectClass::Refused),
        (409, EffectClass::Refused),
        (410, EffectClass::Refused),
        (413, EffectClass::Refused),
        (415, EffectClass::Refused),
        (422, EffectClass::Refused),
    ] {
        test.effects.once("webhook", move |_| Ok(EffectReply::Http(HttpReply::new(status, "no"))));
        match test.handle(handler.as_ref(), [ended()]).await.result {
            Err(HandlerError::Effect(error)) => assert_eq!(error.class, expected, "{route}: {status}"),
            other => panic!("{route}: {status}: {other:?}"),
        }
    }
    test.effects.http().remove(0)
}

fn secret(request: &HttpRequest, name: &str) -> String {
    let header = request.headers.iter().find(|header| header.name == name).expect("the header is there");
    assert!(header.secret, "{name} is never shown");
    header.value.clone()
}

fn body(request: &HttpRequest) -> Value {
    serde_json::from_slice(&request.body).expect("a JSON body")
}

#[tokio::test]
async fn gitlab_is_asked_for_a_pipeline_on_the_branch() {
    let request = request_of("gitlab").await;
    assert_eq!(request.url.as_str(), "https://ci.example/api/v4/projects/42/pipeline");
    assert_eq!(secret(&request, "private-token"), "the-GITLAB_TOKEN");
    let variables = json!([{ "key": "EVENT_ID", "value": "e-1" }, { "key": "SESSION_ID", "value": "s-1" }]);
    assert_eq!(body(&request), json!({ "ref": "feat/x&y=1", "variables": variables }));
}

#[tokio::test]
async fn gitea_and_forgejo_are_asked_for_a_workflow() {
    let request = request_of("gitea").await;
    assert_eq!(request.url.as_str(), "https://ci.example/api/v1/repos/me/shop/actions/workflows/ci.yml/dispatches");
    assert_eq!(secret(&request, "authorization"), "token the-GITEA_TOKEN");
    assert_eq!(body(&request), json!({ "ref": "feat/x&y=1", "inputs": { "event_id": "e-1", "session_id": "s-1" } }));
}

#[tokio::test]
async fn jenkins_takes_parameters_that_stay_values() {
    let request = request_of("jenkins").await;
    assert_eq!(request.url.as_str(), "https://ci.example/job/shop/buildWithParameters?BRANCH=feat%2Fx%26y%3D1&EVENT_ID=e-1");
    assert_eq!(secret(&request, "authorization"), "Basic the-JENKINS_BASIC");
}

#[tokio::test]
async fn buildkite_is_asked_for_a_build_that_can_be_found_by_the_event() {
    let request = request_of("buildkite").await;
    assert_eq!(request.url.as_str(), "https://api.buildkite.com/v2/organizations/me/pipelines/shop/builds");
    assert_eq!(secret(&request, "authorization"), "Bearer the-BUILDKITE_TOKEN");
    assert_eq!(body(&request), json!({ "commit": "HEAD", "branch": "feat/x&y=1", "message": "session s-1", "meta_data": { "event_id": "e-1" } }));
}

#[tokio::test]
async fn woodpecker_is_asked_for_a_pipeline() {
    let request = request_of("woodpecker").await;
    assert_eq!(request.url.as_str(), "https://ci.example/api/repos/7/pipelines");
    assert_eq!(secret(&request, "authorization"), "Bearer the-WOODPECKER_TOKEN");
    assert_eq!(body(&request), json!({ "branch": "feat/x&y=1", "variables": { "EVENT_ID": "e-1", "SESSION_ID": "s-1" } }));
}
