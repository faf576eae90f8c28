//! Each plugin as a route sees it: built from its `with` table, handed events, and observed by what it asks for and says.
//!
//! For each one: a success, a failure that is tried again, one that is not, and a dry run.

mod ci;
mod dagster;
mod exec;
mod flume;
mod imi;
mod log;
mod remembered;
mod webhook;

use router_api::{BuildError, CommandReply, EffectClass, EffectError, EffectReply, Handler, HandlerError, HttpReply, HttpRequest, Outcome, Plugin, Registry};
use router_testkit::{FakeEffects, Handled, TestContext};
use serde_json::Value;

#[test]
fn every_plugin_is_registered_once_with_a_schema_that_describes_each_option() {
    let registry = Registry::linked().unwrap();
    let names: Vec<_> = registry.iter().map(|plugin| plugin.name).collect();
    assert_eq!(names, ["ci", "dagster", "exec", "flume", "imi", "log", "webhook"]);
    for plugin in registry.iter() {
        let schema = plugin.schema().to_value();
        assert_eq!(schema["additionalProperties"], false, "{}: unknown options are errors", plugin.name);
        assert!(schema["description"].as_str().is_some_and(|text| text.len() > 40), "{} has no description", plugin.name);
        for (name, option) in schema["properties"].as_object().unwrap() {
            assert!(option["description"].as_str().is_some(), "{}: option `{name}` has no description", plugin.name);
        }
    }
}

async fn built<P: Plugin>(test: &TestContext, options: Value) -> Box<dyn Handler> {
    test.build::<P>(options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The fields that are wrong, sorted.
async fn wrong_fields<P: Plugin>(test: &TestContext, options: Value) -> Vec<String> {
    let error: BuildError = test.build::<P>(options).await.err().expect("something is wrong with the options");
    let mut fields: Vec<_> = error.problems.into_iter().map(|problem| problem.field).collect();
    fields.sort();
    fields
}

fn is_done(handled: &Handled) -> bool {
    matches!(handled.result, Ok(Outcome::Done))
}

fn skipped(handled: &Handled) -> &str {
    match &handled.result {
        Ok(Outcome::Skipped { reason }) => reason,
        other => panic!("not skipped: {other:?}"),
    }
}

/// The error of an effect; its class decides what happens next.
fn effect_error(handled: &Handled) -> &EffectError {
    match &handled.result {
        Err(HandlerError::Effect(error)) => error,
        other => panic!("no error of an effect: {other:?}"),
    }
}

fn class(handled: &Handled) -> EffectClass {
    effect_error(handled).class
}

/// The next effect called `name` is answered with this status and body.
fn answer(effects: &FakeEffects, name: &str, status: u16, body: Value) {
    effects.once(name, move |_| Ok(EffectReply::Http(HttpReply::new(status, body.to_string()))));
}

/// The next command called `name` ends like this.
fn end(effects: &FakeEffects, name: &str, code: i32, stdout: &str, stderr: &str) {
    let reply = CommandReply { code: Some(code), stdout: stdout.to_owned().into(), stderr: stderr.to_owned().into(), ..CommandReply::default() };
    effects.once(name, move |_| Ok(EffectReply::Command(reply.clone())));
}

/// What comes of a future without any waiting; one that waits is dropped, as by a crash.
fn polled<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r str> {
    request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
}

fn json_body(request: &HttpRequest) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}
