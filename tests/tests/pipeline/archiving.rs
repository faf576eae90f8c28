//! Beside a bus: what passes is redacted and kept, and what became of each event is written behind the pipeline.

use std::sync::Arc;

use async_trait::async_trait;
use router_api::{
    Archivist, Clock, Consumer, DeadLetterReason, DeliveryState, EventQuery, Fate, Features, Publication, Published, RouteMode, RouteName, SeenEvent, Store,
    Subscription, Transport, TransportAdmin, TransportError,
};
use router_core::{Archiving, config::RedactConfig, observe::RouterEvent};
use router_testkit::{MemoryState, MemoryStore, VirtualClock};

use crate::bench::*;

/// The transport in memory, as one that keeps no archive.
struct Bus(Arc<dyn Transport>);

#[async_trait]
impl Transport for Bus {
    fn name(&self) -> &'static str {
        "bus"
    }

    fn features(&self) -> Features {
        Features { archives: false, ..self.0.features() }
    }

    async fn bind(&self, subscriptions: &[Subscription]) -> Result<(), TransportError> {
        self.0.bind(subscriptions).await
    }

    async fn consume(&self, route: &RouteName, prefetch: u32) -> Result<Arc<dyn Consumer>, TransportError> {
        self.0.consume(route, prefetch).await
    }

    async fn publish(&self, publication: Publication) -> Result<Published, TransportError> {
        self.0.publish(publication).await
    }

    fn admin(&self) -> &dyn TransportAdmin {
        self.0.admin()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

struct OnABus {
    bench: Bench,
    archiving: Arc<Archiving>,
    /// Of the archive alone: the transport in memory notes what it knows in another one.
    archive: MemoryStore,
}

fn on_a_bus() -> OnABus {
    let (clock, state) = (VirtualClock::default(), MemoryState::new());
    let archive = MemoryStore::new(&state);
    let archiving = Archiving::new(Arc::new(archive.clone()), Arc::new(clock.clone()));
    let bench = Bench::assembled(state, clock, |transport| Arc::new(Bus(transport)), |router| router.archiving(Arc::clone(&archiving)));
    OnABus { bench, archiving, archive }
}

fn seen(offset: u64, identity: &str, body: &str) -> SeenEvent {
    SeenEvent {
        offset,
        identity: identity.to_owned(),
        key: "k".parse().unwrap(),
        body: body.to_owned().into(),
        stored_at: jiff::Timestamp::UNIX_EPOCH,
        hops: 0,
        traceparent: None,
    }
}

impl OnABus {
    /// Everything in the archive, newest first, its body as text.
    async fn bodies(&self) -> Vec<String> {
        let events = self.archive.events(&EventQuery { last: Some(100), ..EventQuery::default() }).await.unwrap();
        events.into_iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect()
    }

    /// Lets the fates be written, then asks what is known under each of `identities`, by route.
    async fn fates(&self, identities: &[&str]) -> Vec<Vec<(String, DeliveryState)>> {
        self.bench.pass(SECOND).await;
        let position = self.archive.archive_position().await.unwrap().map_or(0, |position| position + 1);
        let events: Vec<SeenEvent> = (position..).zip(identities).map(|(offset, identity)| seen(offset, identity, "{}")).collect();
        self.archiving.keep(events).await.unwrap();
        let mut events = self.archive.events(&EventQuery { last: Some(identities.len() as u32), ..EventQuery::default() }).await.unwrap();
        events.reverse();
        events.into_iter().map(|event| event.deliveries.into_iter().map(|record| (record.route.to_string(), record.state)).collect()).collect()
    }
}

#[tokio::test]
async fn nothing_is_kept_before_a_configuration_says_what_to_redact() {
    let on = on_a_bus();
    let secret = r#"{"event_id":"1","event_type":"x","payload":{"password":"hunter2hunter2"}}"#;
    let error = on.bench.clock.run_until(on.archiving.keep(vec![seen(0, "m", secret)])).await.unwrap_err();
    assert!(error.message.contains("no configuration"), "{error}");
    assert_eq!(on.archiving.position().await.unwrap(), None);

    let keeping = tokio::spawn({
        let archiving = Arc::clone(&on.archiving);
        async move { archiving.keep(vec![seen(0, "m", secret)]).await }
    });
    on.bench.settle_down().await;
    on.bench.apply(&[]).await;
    keeping.await.unwrap().unwrap();
    let bodies = on.bodies().await;
    assert!(bodies[0].contains("[redacted:key:") && !bodies[0].contains("hunter2"), "{bodies:?}");
    assert_eq!(on.archiving.position().await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_reload_changes_what_is_redacted_from_then_on() {
    let on = on_a_bus();
    let body = r#"{"event_id":"1","event_type":"x","payload":{"prompt":"mine alone"}}"#;
    on.bench.apply(&[]).await;
    on.archiving.keep(vec![seen(0, "m0", body)]).await.unwrap();
    let mut config = on.bench.config(&[]);
    config.redact = RedactConfig { paths: vec!["payload.prompt".to_owned()], ..config.redact };
    on.bench.clock.run_until(on.bench.router.apply(config)).await.unwrap();
    on.archiving.keep(vec![seen(1, "m1", body)]).await.unwrap();
    let bodies = on.bodies().await;
    assert!(bodies[0].contains("[redacted:path:") && bodies[1].contains("mine alone"), "{bodies:?}");
}

#[tokio::test]
async fn a_body_that_nobody_bounded_is_left_out_and_said_so() {
    let on = on_a_bus();
    let mut config = on.bench.config(&[]);
    config.limits.decode.body_bytes_max = 100;
    on.bench.clock.run_until(on.bench.router.apply(config)).await.unwrap();
    on.archiving.keep(vec![seen(0, "m0", &"x".repeat(101)), seen(1, "m1", &"x".repeat(100))]).await.unwrap();
    let bodies = on.bodies().await;
    assert_eq!(bodies[0], "x".repeat(100));
    assert!(bodies[1].contains("limits.body_bytes_max") && bodies[1].contains("101"), "{bodies:?}");
}

/// The identity of a delivery that was settled.
fn identity_of(on: &OnABus, at: usize) -> String {
    on.bench.transport.settled()[at].identities[0].clone()
}

#[tokio::test]
async fn every_end_and_every_wait_of_an_event_is_noted() {
    let on = on_a_bus();
    on.bench.behave(|call| match call.ids[0].as_str() {
        "skip" => Answer::Skip,
        "wait" => Answer::RetryAfter(HOUR),
        "dead" => Answer::Reject,
        _ => Answer::Done,
    });
    let shadow = router_core::config::RouteConfig { mode: RouteMode::Shadow, on: vec!["shadow".parse().unwrap()], ..route("b") };
    let live = router_core::config::RouteConfig { on: vec!["k".parse().unwrap()], ..route("a") };
    on.bench.apply(&[live, shadow]).await;
    for id in ["done", "skip", "wait", "dead", "done"] {
        on.bench.send("k", id).await;
        on.bench.settle_down().await;
    }
    on.bench.send("shadow", "s").await;
    on.bench.settle_down().await;

    let mut identities = Vec::new();
    for at in 0..6 {
        identities.push(identity_of(&on, at));
    }
    let identities: Vec<&str> = identities.iter().map(String::as_str).collect();
    let fates = on.fates(&identities).await;
    let only = |at: usize| {
        assert_eq!(fates[at].len(), 1, "{at}: {:?}", fates[at]);
        fates[at][0].clone()
    };
    assert_eq!(only(0), ("a".to_owned(), DeliveryState::Finished(Fate::Handled { burst: None, note: None })));
    assert_eq!(only(1).1, DeliveryState::Finished(Fate::Skipped { reason: "nothing to do".to_owned() }));
    assert!(matches!(only(2).1, DeliveryState::Waiting { error: Some(error) } if error.contains("asked to wait")));
    let letter = on.bench.dead_letters().await.remove(0).letter;
    assert_eq!(only(3).1, DeliveryState::Dead { id: letter.reference(identities[3]), reason: DeadLetterReason::Rejected });
    assert!(matches!(only(4).1, DeliveryState::Finished(Fate::Duplicate { .. })));
    assert!(matches!(&only(5), (route, DeliveryState::Finished(Fate::Shadowed { .. })) if route == "b"));
}

#[tokio::test]
async fn what_waits_in_hand_is_noted_and_then_how_it_ended() {
    let on = on_a_bus();
    on.bench.behave(|call| if call.attempt == 1 { Answer::RetryAfter(HOUR) } else { Answer::Done });
    on.bench.apply(&[ordered("a")]).await;
    on.bench.send_in("s", "held").await;
    on.bench.settle_down().await;
    let identity = on.archive.noted_attempts(&"a".parse().unwrap()).await.unwrap().remove(0).identity;
    let fates = on.fates(&[&identity]).await;
    assert!(matches!(&fates[0][0].1, DeliveryState::Waiting { error: Some(error) } if error.contains("asked to wait")), "{fates:?}");
    let event = on.archive.events(&EventQuery::default()).await.unwrap().remove(0);
    let left = event.deliveries[0].at.duration_since(on.bench.clock.now()).as_secs();
    assert!((590..=600).contains(&left) && event.deliveries[0].attempts == 1, "{event:?}");
    on.bench.pass(HOUR).await;
    let fates = on.fates(&[&identity]).await;
    assert!(matches!(fates[0][0].1, DeliveryState::Finished(Fate::Handled { .. })), "{fates:?}");
}

#[tokio::test]
async fn what_a_new_filter_does_not_want_any_more_is_noted_as_filtered() {
    let on = on_a_bus();
    let mut held = route("a");
    held.rate = Some(router_core::config::Rate { count: 1, per: HOUR });
    on.bench.apply(&[held]).await;
    for id in ["one", "two"] {
        on.bench.send("k", id).await;
    }
    on.bench.settle_down().await;
    assert_eq!(on.bench.settled(), ["handled"]);
    on.bench.apply(&[router_core::config::RouteConfig { on: vec!["other".parse().unwrap()], ..route("a") }]).await;
    assert_eq!(on.bench.settled(), ["handled", "filtered"]);
    let identity = identity_of(&on, 1);
    assert_eq!(on.fates(&[&identity]).await, [[("a".to_owned(), DeliveryState::Finished(Fate::Filtered))]]);
}

#[tokio::test]
async fn a_store_that_fails_delays_no_handling_and_is_told_later() {
    let on = on_a_bus();
    on.bench.apply(&[router_core::config::RouteConfig { dedup: None, ..route("a") }]).await;
    on.bench.send("k", "one").await;
    on.bench.settle_down().await;
    assert_eq!(on.bench.settled(), ["handled"]);
    on.bench.store.fail(1);
    on.bench.pass(10 * SECOND).await;
    on.bench.observer.wait_for(|event| matches!(event, RouterEvent::StoreTrouble { error } if error.contains("not noted yet"))).await;
    let identity = identity_of(&on, 0);
    let fates = on.fates(&[&identity]).await;
    assert!(matches!(fates[0][0].1, DeliveryState::Finished(Fate::Handled { .. })));
}

#[tokio::test]
async fn what_was_settled_last_is_noted_before_a_drain_ends() {
    let on = on_a_bus();
    on.bench.behave(|_| Answer::Take(SECOND));
    on.bench.apply(&[route("a")]).await;
    on.bench.send("k", "one").await;
    on.bench.settle_down().await;
    on.bench.drain().await;
    assert_eq!(on.bench.settled(), ["handled"]);
    let identity = identity_of(&on, 0);
    on.archiving.keep(vec![seen(0, &identity, "{}")]).await.unwrap();
    let event = on.archive.events(&EventQuery::default()).await.unwrap().remove(0);
    assert!(matches!(event.deliveries[0].state, DeliveryState::Finished(Fate::Handled { .. })), "{event:?}");
}
