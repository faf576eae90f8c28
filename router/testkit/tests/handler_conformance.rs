//! The check of handlers can fail: each plugin here breaks one promise, and one keeps them all.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use router_api::{
    BuildContext, BuildError, Cancellation, CommandRequest, Context, Effect, EffectContext, EffectKind, EffectPort, EffectRequest, Endpoint, Envelope, Handler,
    HandlerError, HttpRequest, Method, Outcome, Plugin, Program,
};
use router_testkit::{Conformed, handler_conformance};
use serde_json::{Value, json};

/// Says what a panicking check said.
async fn broken<P: Plugin>(good: Value, bad: Value) -> String {
    let checked = std::panic::AssertUnwindSafe(handler_conformance::<P>(good, bad)).catch_unwind().await;
    let panic = checked.expect_err("the plugin breaks a promise");
    panic.downcast_ref::<String>().cloned().expect("the check panics with a text")
}

/// A plugin from its options, its way to be built and its way to handle.
macro_rules! plugin {
    ($options:ident $name:literal { $($field:ident: $type:ty),* } build($self:ident, $build_cx:ident) $build:block handle($handler:ty, $this:ident, $cx:ident) $handle:block) => {
        /// Made for this test.
        #[derive(serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $options {
            $(
                /// An option.
                #[allow(dead_code)]
                $field: $type,
            )*
        }

        #[async_trait]
        impl Plugin for $options {
            const NAME: &'static str = $name;

            async fn build($self, $build_cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> $build
        }

        #[async_trait]
        impl Handler for $handler {
            async fn handle(&self, _: &Envelope, $cx: &Context) -> Result<Outcome, HandlerError> {
                let $this = self;
                $handle
            }
        }
    };
}

fn post(key: &str) -> HttpRequest {
    HttpRequest::new(Method::Post, Endpoint::parse("http://target.example/").expect("the literal is an address").url()).header("idempotency-key", key)
}

fn short_of(text: &str) -> Result<(), BuildError> {
    if text.len() < 3 { Err(BuildError::at("text", "is too short")) } else { Ok(()) }
}

plugin!(Keeps "keeps" { text: String } build(self, _cx) { short_of(&self.text)?; Ok(Box::new(self)) } handle(Keeps, this, cx) {
    cx.http(post(&cx.idempotency_key())).await?.ok()?;
    cx.emit(&"kept.it".parse()?, json!({ "text": this.text }));
    Ok(Outcome::Done)
});

#[tokio::test]
async fn a_plugin_that_keeps_its_promises_passes_and_says_what_was_seen() {
    let conformed: Conformed = handler_conformance::<Keeps>(json!({ "text": "hello" }), json!({ "text": "x" })).await;
    assert_eq!((conformed.recorded, conformed.asked, conformed.emitted), (1, 1, 1));
}

#[tokio::test]
async fn good_options_that_are_refused_are_found() {
    let said = broken::<Keeps>(json!({ "text": "x" }), json!({})).await;
    assert!(said.contains("the good options are refused (live)") && said.contains("is too short"), "{said}");
}

#[tokio::test]
async fn a_bad_value_that_is_taken_is_found() {
    let said = broken::<Keeps>(json!({ "text": "hello" }), json!({ "text": "fine" })).await;
    assert!(said.contains("the bad value of option `text` is taken"), "{said}");
}

plugin!(Vague "vague" { text: String } build(self, _cx) {
    short_of(&self.text).map_err(|_| BuildError::at("", "something is wrong"))?;
    Ok(Box::new(self))
} handle(Vague, _this, cx) {
    cx.note("seen");
    Ok(Outcome::Done)
});

#[tokio::test]
async fn a_problem_without_its_option_is_found() {
    let said = broken::<Vague>(json!({ "text": "hello" }), json!({ "text": "x" })).await;
    assert!(said.contains("not at its place") && said.contains("something is wrong"), "{said}");
}

/// Takes everything.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Tolerant {}

#[async_trait]
impl Plugin for Tolerant {
    const NAME: &'static str = "tolerant";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Handler for Tolerant {
    async fn handle(&self, _: &Envelope, _: &Context) -> Result<Outcome, HandlerError> {
        Ok(Outcome::Done)
    }
}

#[tokio::test]
async fn a_plugin_that_takes_unknown_options_is_found() {
    let said = broken::<Tolerant>(json!({}), json!({})).await;
    assert!(said.contains("deny_unknown_fields"), "{said}");
}

struct Bypass(Arc<dyn EffectPort>);

plugin!(Bypassing "bypassing" {} build(self, cx) { Ok(Box::new(Bypass(Arc::clone(&cx.effects)))) } handle(Bypass, this, cx) {
    let request = EffectRequest::Command(CommandRequest::new(Program::unresolved("rm")));
    let effect = Effect { name: "rm".to_owned(), kind: EffectKind::Write, request, dry_run_reply: None };
    let context = EffectContext { route: "r".to_owned(), handling: "h".to_owned(), remaining: cx.remaining(), cancellation: Cancellation::never() };
    this.0.perform(effect, None, &context).await?;
    Ok(Outcome::Done)
});

#[tokio::test]
async fn a_write_past_the_context_is_found() {
    let said = broken::<Bypassing>(json!({}), json!({})).await;
    assert!(said.contains("a dry run performs a write: rm"), "{said}");
}

plugin!(Stubborn "stubborn" {} build(self, _cx) { Ok(Box::new(self)) } handle(Stubborn, _this, cx) {
    while cx.http(post(&cx.idempotency_key())).await.is_err_and(|error| error.class != router_api::EffectClass::DryRun) {}
    Ok(Outcome::Done)
});

#[tokio::test]
async fn a_handler_that_goes_on_after_it_was_cancelled_is_found() {
    let said = broken::<Stubborn>(json!({}), json!({})).await;
    assert!(said.contains("does not end within"), "{said}");
}

struct Drawing(AtomicU64);

plugin!(Draws "draws" {} build(self, _cx) { Ok(Box::new(Drawing(AtomicU64::new(0)))) } handle(Drawing, this, cx) {
    let drawn = this.0.fetch_add(1, Ordering::SeqCst);
    cx.http(post(&format!("{}-{drawn}", cx.now()))).await?;
    Ok(Outcome::Done)
});

#[tokio::test]
async fn an_idempotency_key_that_differs_at_a_repeat_is_found() {
    let said = broken::<Draws>(json!({}), json!({})).await;
    assert!(said.contains("a repeat has other idempotency keys"), "{said}");
}

plugin!(Counts "counts" {} build(self, _cx) { Ok(Box::new(self)) } handle(Counts, _this, cx) {
    for _ in 0..cx.attempt().number {
        cx.emit(&"counted.it".parse()?, json!({}));
    }
    Ok(Outcome::Done)
});

#[tokio::test]
async fn a_repeat_that_emits_other_events_is_found() {
    let said = broken::<Counts>(json!({}), json!({})).await;
    assert!(said.contains("a repeat emits other events"), "{said}");
}
