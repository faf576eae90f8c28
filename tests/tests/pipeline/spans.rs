//! One span for each handling, for who embeds the router and collects traces.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Once};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::bench::{Answer, Bench, SECOND, coalescing, route};

/// The target of what the handler says.
const SAID: &str = "handler";

/// A handling, as somebody sees it who collects spans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    fields: BTreeMap<&'static str, String>,
    /// So often the handler said something within it.
    said: usize,
    ended: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// What was seen on one thread, on which all of a test's router lives.
#[derive(Debug, Default)]
struct Spans {
    seen: BTreeMap<u64, Seen>,
    /// Said outside of all of them.
    lost: usize,
}

thread_local! {
    static SPANS: RefCell<Spans> = RefCell::default();
}

/// Collects the spans of handlings, each thread its own.
struct Collecting;

impl Collecting {
    /// From now on. For all threads: whether a span is wanted at all is asked once, by whichever test comes first.
    fn begin() {
        static BEGUN: Once = Once::new();
        BEGUN.call_once(|| {
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Self)).expect("nobody else collects anything");
            tracing::callsite::rebuild_interest_cache();
        });
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collecting {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.name() == "handle" || metadata.target() == SAID
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut seen = Seen::default();
        attributes.record(&mut seen);
        let number = SPANS.with_borrow_mut(|spans| {
            let number = spans.seen.len() as u64;
            spans.seen.insert(number, seen);
            number
        });
        context.span(id).expect("it is new").extensions_mut().insert(number);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let number = context.event_scope(event).into_iter().flatten().find_map(|span| span.extensions().get::<u64>().copied());
        SPANS.with_borrow_mut(|spans| match number.and_then(|number| spans.seen.get_mut(&number)) {
            Some(seen) => seen.said += 1,
            None => spans.lost += 1,
        });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let number = context.span(&id).and_then(|span| span.extensions().get::<u64>().copied());
        // Threads that end have nothing any more.
        let _ = SPANS.try_with(|spans| {
            let mut spans = spans.borrow_mut();
            if let Some(seen) = number.and_then(|number| spans.seen.get_mut(&number)) {
                seen.ended = true;
            }
        });
    }
}

fn all() -> Vec<Seen> {
    SPANS.with_borrow(|spans| spans.seen.values().cloned().collect())
}

fn seen(key: &str, id: &str, attempt: u32, events: usize) -> Seen {
    let (attempt, events) = (attempt.to_string(), events.to_string());
    let fields = [("route", "one"), ("key", key), ("id", id), ("attempt", &attempt), ("events", &events)];
    Seen { fields: fields.map(|(name, value)| (name, value.to_owned())).into(), said: 1, ended: true }
}

/// Answers, and says something.
fn answers(bench: &Bench, answer: impl Fn(u32) -> Answer + Send + Sync + 'static) {
    bench.behave(move |call| {
        tracing::info!(target: SAID, "here");
        answer(call.attempt)
    });
}

#[tokio::test]
async fn each_handling_is_a_span_of_its_own_and_the_handler_runs_within_it() {
    Collecting::begin();
    let bench = Bench::new();
    answers(&bench, |attempt| if attempt == 1 { Answer::RetryAfter(SECOND) } else { Answer::Then(SECOND, Box::new(Answer::Done)) });
    bench.apply(&[route("one")]).await;
    bench.send("a.b", "e1").await;
    bench.pass(4 * SECOND).await;
    assert_eq!(all(), [seen("a.b", "e1", 1, 1), seen("a.b", "e1", 2, 1)]);
    bench.send("a.b", "e2").await;
    bench.pass(4 * SECOND).await;
    assert_eq!(all()[2..], [seen("a.b", "e2", 1, 1), seen("a.b", "e2", 2, 1)]);
    assert_eq!(SPANS.with_borrow(|spans| spans.lost), 0, "the handler was in no span");
}

#[tokio::test]
async fn a_burst_is_one_span() {
    Collecting::begin();
    let bench = Bench::new();
    answers(&bench, |_| Answer::Done);
    bench.apply(&[coalescing("one")]).await;
    for id in ["e1", "e2", "e3"] {
        bench.send_in("s1", id).await;
    }
    bench.pass(60 * SECOND).await;
    assert_eq!(all(), [seen("session.thread.agent.action", "e3", 1, 3)]);
}
