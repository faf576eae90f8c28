//! `log` asks for nothing outside; what it writes is seen through a subscriber of the test's own.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use plugins::log::Log;
use router_api::EffectClass;
use router_testkit::{TestContext, event};
use serde_json::json;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{built, class, is_done};

/// Keeps lines as `LEVEL message`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("plugins::log")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let level: &Level = event.metadata().level();
        self.0.lock().unwrap().push(format!("{level} {}", message.0));
    }
}

async fn lines(options: serde_json::Value) -> Vec<String> {
    let lines = Lines::default();
    let test = TestContext::new();
    let handler = built::<Log>(&test, options).await;
    let _guard = tracing::subscriber::set_default(lines.clone());
    let handled = test.handle(handler.as_ref(), [event("a.b").tool("Write").file("/p/a\nERROR b.py")]).await;
    assert!(is_done(&handled));
    assert!(test.effects.requests().is_empty());
    drop(_guard);
    lines.0.lock().unwrap().clone()
}

#[tokio::test]
async fn without_a_template_the_line_has_nothing_of_the_event_but_its_key() {
    assert_eq!(lines(json!({})).await, ["INFO route `test` saw `a.b`"]);
}

#[tokio::test]
async fn a_template_makes_one_line_whatever_the_event_holds() {
    assert_eq!(lines(json!({ "level": "warn", "template": "{{ tool_name }} wrote {{ file_path }}" })).await, ["WARN Write wrote /p/a ERROR b.py"]);
}

#[tokio::test]
async fn a_dry_run_shows_the_line_and_writes_none() {
    let (lines, test) = (Lines::default(), TestContext::new().shadow());
    let handler = built::<Log>(&test, json!({ "template": "{{ tool_name }} wrote {{ file_path }}" })).await;
    let _guard = tracing::subscriber::set_default(lines.clone());
    let handled = test.handle(handler.as_ref(), [event("a.b").tool("Write").file("/p/a.py")]).await;
    assert!(is_done(&handled));
    assert_eq!(handled.note.as_deref(), Some("would log: Write wrote /p/a.py"));
    assert!(lines.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_field_that_the_event_lacks_is_never_tried_again() {
    let test = TestContext::new();
    let handler = built::<Log>(&test, json!({ "template": "{{ git_branch }}" })).await;
    assert_eq!(class(&test.handle(handler.as_ref(), [event("a.b")]).await), EffectClass::Refused);
}

#[tokio::test]
async fn an_unknown_option_or_level_is_refused() {
    let test = TestContext::new();
    assert!(test.build::<Log>(json!({ "levle": "info" })).await.is_err());
    assert!(test.build::<Log>(json!({ "level": "loud" })).await.is_err());
}
