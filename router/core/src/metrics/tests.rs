//! What is counted, and how it reads.

use std::time::Duration;

use router_api::{BoxFuture, Condition, DeadLetterReason, Envelope, FailureClass, QueueStats, RouteStatus, RoutingKey};

use super::*;

/// Stands still.
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

fn metrics() -> Metrics {
    Metrics::new(Arc::new(Noon))
}

fn name(text: &str) -> RouteName {
    text.parse().unwrap()
}

fn event() -> Arc<Envelope> {
    Arc::new(Envelope::decode(RoutingKey::new("a.b").unwrap(), "{}", router_api::DecodeLimits::default()).unwrap())
}

fn started(route: &str, attempt: u32, events: usize) -> RouterEvent {
    RouterEvent::Started { route: name(route), event: event(), attempt, events, lane: None }
}

fn ended(route: &str, events: usize) -> RouterEvent {
    RouterEvent::AttemptEnded { route: name(route), events, elapsed: Duration::from_millis(20) }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|other| other == line), "no line `{line}` in\n{text}");
}

fn status(routes: Vec<RouteStatus>) -> RouterStatus {
    let (version, transport, config_hash) = ("1".into(), "embedded".into(), "h".into());
    RouterStatus { version, started_at: Timestamp::UNIX_EPOCH, transport, config_hash, condition: Condition::well(), untold: None, routes }
}

fn route(route: &str, queue: Option<QueueStats>) -> RouteStatus {
    RouteStatus {
        name: name(route),
        handler: "log".into(),
        mode: RouteMode::Live,
        state: RouteState::Paused,
        note: None,
        queue,
        open_bursts: 2,
        failing_bursts: 1,
        rates: None,
        breaker: None,
    }
}

#[test]
fn an_event_that_fails_and_then_succeeds_is_matched_once_and_attempted_twice() {
    let metrics = metrics();
    for told in [
        RouterEvent::Received { route: name("r"), key: RoutingKey::new("a.b").unwrap() },
        started("r", 1, 4),
        ended("r", 4),
        RouterEvent::Failed {
            route: name("r"),
            event: event(),
            attempt: 1,
            events: 4,
            class: FailureClass::Timeout,
            error: String::new(),
            retry_in: Duration::ZERO,
        },
        started("r", 2, 4),
    ] {
        metrics.observe(&told);
    }
    let text = metrics.render(None, ProcessFigures::default());
    has(&text, "event_router_running_events{route=\"r\"} 4");
    metrics.observe(&ended("r", 4));
    metrics.observe(&RouterEvent::Completed { route: name("r"), latency: Duration::from_secs(61) });
    metrics.observe(&RouterEvent::Finished {
        route: name("r"),
        event: event(),
        attempt: 2,
        events: 4,
        fate: router_api::Fate::Handled { burst: None, note: None },
        effects: Vec::new(),
        elapsed: Duration::ZERO,
    });
    let text = metrics.render(None, ProcessFigures::default());
    for line in [
        "event_router_received_events_total{route=\"r\"} 1",
        "event_router_matched_events_total{route=\"r\"} 4",
        "event_router_attempts_total{route=\"r\"} 2",
        "event_router_retries_total{route=\"r\",class=\"timeout\"} 1",
        "event_router_retries_total{route=\"r\",class=\"error\"} 0",
        "event_router_handled_events_total{route=\"r\",outcome=\"handled\"} 4",
        "event_router_running_events{route=\"r\"} 0",
        "event_router_burst_size_events_bucket{route=\"r\",le=\"2\"} 0",
        "event_router_burst_size_events_bucket{route=\"r\",le=\"5\"} 1",
        "event_router_handler_duration_seconds_count{route=\"r\"} 2",
        "event_router_handler_duration_seconds_sum{route=\"r\"} 0.04",
        "event_router_end_to_end_duration_seconds_bucket{route=\"r\",le=\"60\"} 0",
        "event_router_end_to_end_duration_seconds_bucket{route=\"r\",le=\"300\"} 1",
        "received_processed_messages_total{handler=\"r\",status=\"acked\"} 4",
        "received_processed_messages_total{handler=\"r\",status=\"nacked\"} 4",
        "event_router_store_up 0",
    ] {
        has(&text, line);
    }
}

#[test]
fn every_reason_and_every_class_has_a_counter_of_its_own() {
    let metrics = metrics();
    for (at, reason) in REASONS.into_iter().enumerate() {
        metrics.route(&name("r")).buried(reason).add(at as u64 + 1);
    }
    for (at, class) in CLASSES.into_iter().enumerate() {
        metrics.route(&name("r")).retries(class).add(at as u64 + 1);
    }
    let text = metrics.render(None, ProcessFigures::default());
    for (at, reason) in REASONS.into_iter().enumerate() {
        has(&text, &format!("event_router_dead_letters_total{{route=\"r\",reason=\"{reason}\"}} {}", at + 1));
    }
    for (at, class) in CLASSES.into_iter().enumerate() {
        has(&text, &format!("event_router_retries_total{{route=\"r\",class=\"{class}\"}} {}", at + 1));
    }
    // The last one of the list of the port is the last one here.
    assert_eq!((REASONS.len(), REASONS[7]), (DeadLetterReason::Dropped as usize + 1, DeadLetterReason::Dropped));
}

#[test]
fn a_route_that_did_nothing_has_zeros_and_its_queue_is_shown() {
    let oldest = Some(Timestamp::from_second(1_000_000 - 90).unwrap());
    let queue = QueueStats { route: name("r"), ready: 1, waiting: 2, in_flight: 3, dead: 4, oldest };
    let text = metrics().render(
        Some(&status(vec![route("r", Some(queue)), route("unbound", None)])),
        ProcessFigures { store_bytes: Some(4_096), log_lines_dropped: 7, ..ProcessFigures::default() },
    );
    for line in [
        "event_router_store_up 1",
        "event_router_store_size_bytes 4096",
        "event_router_log_lines_dropped_total 7",
        "event_router_received_events_total{route=\"r\"} 0",
        "event_router_dead_letters_total{route=\"r\",reason=\"too-old\"} 0",
        "event_router_route_info{route=\"r\",handler=\"log\",mode=\"live\"} 1",
        "event_router_route_state{route=\"r\",state=\"paused\"} 1",
        "event_router_route_state{route=\"r\",state=\"running\"} 0",
        "event_router_ready_events{route=\"r\"} 1",
        "event_router_waiting_events{route=\"r\"} 2",
        "event_router_in_flight_events{route=\"r\"} 3",
        "event_router_dead_events{route=\"r\"} 4",
        "event_router_lag_seconds{route=\"r\"} 90",
        "event_router_lag_seconds{route=\"unbound\"} 0",
        "event_router_open_bursts{route=\"r\"} 2",
        "event_router_failing_bursts{route=\"r\"} 1",
    ] {
        has(&text, line);
    }
}

#[test]
fn what_is_younger_than_now_has_no_negative_lag() {
    let oldest = Some(Timestamp::from_second(2_000_000).unwrap());
    let queue = QueueStats { route: name("r"), ready: 1, waiting: 0, in_flight: 0, dead: 0, oldest };
    has(&metrics().render(Some(&status(vec![route("r", Some(queue))])), ProcessFigures::default()), "event_router_lag_seconds{route=\"r\"} 0");
}

#[test]
fn the_first_configuration_is_no_reload() {
    let metrics = metrics();
    assert!(!metrics.render(None, ProcessFigures::default()).contains("config_info"), "there is none yet");
    metrics.observe(&RouterEvent::ConfigApplied { hash: "one".into() });
    has(&metrics.render(None, ProcessFigures::default()), "event_router_reloads_total{outcome=\"applied\"} 0");
    metrics.observe(&RouterEvent::ConfigApplied { hash: "two".into() });
    metrics.observe(&RouterEvent::ConfigRefused { error: "line 3".into() });
    let text = metrics.render(None, ProcessFigures::default());
    has(&text, "event_router_reloads_total{outcome=\"applied\"} 1");
    has(&text, "event_router_reloads_total{outcome=\"refused\"} 1");
    has(&text, "event_router_config_info{hash=\"two\"} 1");
    has(&text, "event_router_config_applied_timestamp_seconds 1000000");
    assert!(!text.contains("\"one\""), "one configuration is in force");
}

#[test]
fn ever_new_routes_take_no_ever_growing_room() {
    let metrics = metrics();
    for at in 0..ROUTES_MAX + 50 {
        metrics.observe(&RouterEvent::Received { route: name(&format!("r{at}")), key: RoutingKey::new("a.b").unwrap() });
    }
    let text = metrics.render(None, ProcessFigures::default());
    has(&text, "event_router_received_events_total{route=\"_other\"} 50");
    has(&text, "event_router_received_events_total{route=\"r0\"} 1");
}
