//! What the router counts of itself, as Prometheus reads it. `docs/metrics.md` has the table of all names.
//!
//! [`Metrics`] is an [`Observer`]: it adds to atomic numbers, without waiting and without memory of its own for each event. What is a
//! state and no count (queues, routes) is asked for when somebody looks: see [`Metrics::render`].
//!
//! Labels come from the configuration and from closed lists only, never from an event.

mod exposition;
mod route;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use router_api::{Clock, RouteMode, RouteName, RouteState, RouterStatus};

use self::{
    exposition::{Counter, Exposition, Kind},
    route::{CLASSES, COUNTS, Count, Done, REASONS, RouteNumbers},
};
use crate::observe::{Observer, RouterEvent};

/// Routes that are counted each by itself. Reloads can bring ever new names; those beyond are counted together as `_other`, which is
/// no route's name.
const ROUTES_MAX: usize = 2_048;

/// See [`ROUTES_MAX`].
const OTHER: &str = "_other";

/// All states, for a gauge each.
const STATES: [(RouteState, &str); 6] = [
    (RouteState::Disabled, "disabled"),
    (RouteState::Running, "running"),
    (RouteState::Paused, "paused"),
    (RouteState::Reconnecting, "reconnecting"),
    (RouteState::Draining, "draining"),
    (RouteState::Stopped, "stopped"),
];

/// What only the program around the router knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessFigures {
    /// Bytes of the store on disk, its log included; `None` where there is no file.
    pub store_bytes: Option<u64>,
    /// Log lines that nobody read in time.
    pub log_lines_dropped: u64,
    /// What sessions did lately.
    pub sessions: SessionFigures,
}

/// What sessions did in the last 24 hours, as of the last time when somebody added it up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SessionFigures {
    /// Sessions that did something.
    pub sessions: u64,
    /// Their turns.
    pub turns: u64,
    /// Their errors.
    pub errors: u64,
    /// Their tokens.
    pub tokens: u64,
    /// What is known of their cost, in US dollars.
    pub cost_usd: f64,
    /// Events that are not in these numbers yet.
    pub events_behind: u64,
}

/// Counts what a router does. Give it to the router as an observer, and ask it for the text.
pub struct Metrics {
    clock: Arc<dyn Clock>,
    routes: RwLock<BTreeMap<RouteName, Arc<RouteNumbers>>>,
    other: Arc<RouteNumbers>,
    /// Something was counted in `other`.
    overflowed: AtomicBool,
    accepted: Counter,
    unmatched: Counter,
    redactions: Counter,
    store_troubles: Counter,
    fates_lost: Counter,
    reloads_applied: Counter,
    reloads_refused: Counter,
    config: Mutex<Option<(String, Timestamp)>>,
}

impl Metrics {
    /// Has counted nothing. `clock` tells the age of what waits.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            routes: RwLock::default(),
            other: Arc::default(),
            overflowed: AtomicBool::new(false),
            accepted: Counter::default(),
            unmatched: Counter::default(),
            redactions: Counter::default(),
            store_troubles: Counter::default(),
            fates_lost: Counter::default(),
            reloads_applied: Counter::default(),
            reloads_refused: Counter::default(),
            config: Mutex::default(),
        }
    }

    fn route(&self, name: &RouteName) -> Arc<RouteNumbers> {
        if let Some(numbers) = self.routes.read().expect("no code panics while it holds the routes").get(name) {
            return Arc::clone(numbers);
        }
        let mut routes = self.routes.write().expect("no code panics while it holds the routes");
        if routes.len() >= ROUTES_MAX && !routes.contains_key(name) {
            self.overflowed.store(true, Ordering::Relaxed);
            return Arc::clone(&self.other);
        }
        Arc::clone(routes.entry(name.clone()).or_default())
    }

    /// Everything as text. `status` is the router as it stands, `None` when its store does not answer: the counters are shown all the
    /// same, the queues are not.
    #[must_use]
    pub fn render(&self, status: Option<&RouterStatus>, process: ProcessFigures) -> String {
        let mut out = Exposition::default();
        // A route that has done nothing yet has zeros: what appears with its first event has no rate.
        for route in status.into_iter().flat_map(|status| &status.routes) {
            let _ = self.route(&route.name);
        }
        self.of_the_process(&mut out, status, process);
        if let Some(status) = status {
            self.of_the_queues(&mut out, status);
        }
        let mut routes: Vec<(RouteName, Arc<RouteNumbers>)> =
            self.routes.read().expect("no code panics while it holds the routes").iter().map(|(name, numbers)| (name.clone(), Arc::clone(numbers))).collect();
        routes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut all: Vec<(&str, &RouteNumbers)> = routes.iter().map(|(name, numbers)| (name.as_str(), &**numbers)).collect();
        if self.overflowed.load(Ordering::Relaxed) {
            all.push((OTHER, &self.other));
        }
        of_the_routes(&mut out, &all);
        under_faststream_names(&mut out, &all);
        out.into_text()
    }

    fn of_the_process(&self, out: &mut Exposition, status: Option<&RouterStatus>, process: ProcessFigures) {
        out.family("event_router_build_info", Kind::Gauge, "Always 1; the label is the version of the program.");
        out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        out.family("event_router_store_up", Kind::Gauge, "1 when the store answered this scrape, else 0.");
        out.sample(&[], u8::from(status.is_some()));
        if let Some(status) = status {
            out.family("event_router_start_time_seconds", Kind::Gauge, "When the router started, in seconds since 1970.");
            out.sample(&[], seconds(status.started_at));
        }
        if let Some(condition) = status.map(|status| &status.condition) {
            out.family("event_router_transport_up", Kind::Gauge, "1 when events can be taken from the transport, else 0.");
            out.sample(&[], u8::from(condition.reachable));
            out.family("event_router_transport_accepts", Kind::Gauge, "1 when the transport takes new events, else 0.");
            out.sample(&[], u8::from(condition.accepts));
            out.family("event_router_transport_reconnects_total", Kind::Counter, "How often the transport was reached again after it was lost.");
            out.sample(&[], condition.reconnects);
        }
        if let Some(bytes) = process.store_bytes {
            out.family("event_router_store_size_bytes", Kind::Gauge, "Bytes of the store on disk, its write-ahead log included.");
            out.sample(&[], bytes);
        }
        out.family("event_router_store_troubles_total", Kind::Counter, "Troubles with the store beside the delivery; no event is lost by them.");
        out.sample(&[], self.store_troubles.get());
        out.family("event_router_fates_lost_total", Kind::Counter, "Settled events of which the archive does not tell what became, since the store lagged.");
        out.sample(&[], self.fates_lost.get());
        out.family("event_router_log_lines_dropped_total", Kind::Counter, "Log lines that were left out because the log was not read fast enough.");
        out.sample(&[], process.log_lines_dropped);
        out.family("event_router_accepted_events_total", Kind::Counter, "Events taken in from outside through this router's doors.");
        out.sample(&[], self.accepted.get());
        out.family("event_router_unmatched_events_total", Kind::Counter, "Events taken in from outside that no route wanted.");
        out.sample(&[], self.unmatched.get());
        out.family("event_router_redactions_total", Kind::Counter, "Values that redaction replaced in events taken in from outside.");
        out.sample(&[], self.redactions.get());
        out.family("event_router_reloads_total", Kind::Counter, "Configurations after the first one, by outcome; a refused one changed nothing.");
        out.sample(&[("outcome", "applied")], self.reloads_applied.get());
        out.sample(&[("outcome", "refused")], self.reloads_refused.get());
        of_the_sessions(out, &process.sessions);
        if let Some((hash, at)) = self.config.lock().expect("no code panics while it holds the configuration").as_ref() {
            out.family("event_router_config_applied_timestamp_seconds", Kind::Gauge, "When the configuration in force was applied, in seconds since 1970.");
            out.sample(&[], seconds(*at));
            out.family("event_router_config_info", Kind::Gauge, "Always 1; the label is the hash of the configuration in force.");
            out.sample(&[("hash", hash)], 1);
        }
    }

    fn of_the_queues(&self, out: &mut Exposition, status: &RouterStatus) {
        out.family("event_router_route_info", Kind::Gauge, "Always 1; joins a route to its handler and its mode.");
        for route in &status.routes {
            let mode = match route.mode {
                RouteMode::Live => "live",
                RouteMode::Shadow => "shadow",
            };
            out.sample(&[("route", route.name.as_str()), ("handler", &route.handler), ("mode", mode)], 1);
        }
        out.family("event_router_route_state", Kind::Gauge, "1 for the state that the route is in, 0 for the others.");
        for route in &status.routes {
            for (state, name) in STATES {
                out.sample(&[("route", route.name.as_str()), ("state", name)], u8::from(route.state == state));
            }
        }
        let now = self.clock.now();
        let mut gauge = |name, help, value: &dyn Fn(&router_api::QueueStats) -> f64| {
            out.family(name, Kind::Gauge, help);
            for route in &status.routes {
                out.sample(&[("route", route.name.as_str())], route.queue.as_ref().map_or(0.0, value));
            }
        };
        gauge("event_router_ready_events", "Events in the route's queue that can be taken now.", &|queue| queue.ready as f64);
        gauge("event_router_waiting_events", "Events that wait for their next attempt or for a time that they were given.", &|queue| queue.waiting as f64);
        gauge("event_router_in_flight_events", "Events taken from the queue and not settled: they run, or wait in a lane or a burst.", &|queue| {
            queue.in_flight as f64
        });
        gauge("event_router_dead_events", "Dead letters of the route that are kept.", &|queue| queue.dead as f64);
        gauge("event_router_lag_seconds", "Age of the route's oldest event that is not settled; 0 when there is none.", &|queue| {
            // A wall clock that was set back makes nothing younger than now.
            queue.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0))
        });
        out.family("event_router_open_bursts", Kind::Gauge, "Bursts of the route that are collecting.");
        for route in &status.routes {
            out.sample(&[("route", route.name.as_str())], route.open_bursts);
        }
        out.family("event_router_failing_bursts", Kind::Gauge, "Bursts of the route that have failed and wait for their next attempt.");
        for route in &status.routes {
            out.sample(&[("route", route.name.as_str())], route.failing_bursts);
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

type Routes<'a> = [(&'a str, &'a RouteNumbers)];

/// No labels: projects, branches and models come from events.
fn of_the_sessions(out: &mut Exposition, figures: &SessionFigures) {
    let SessionFigures { sessions, turns, errors, tokens, cost_usd, events_behind } = *figures;
    out.family("event_router_sessions_last_day", Kind::Gauge, "Coding sessions that did something in the last 24 hours.");
    out.sample(&[], sessions);
    out.family("event_router_session_turns_last_day", Kind::Gauge, "Turns of sessions in the last 24 hours.");
    out.sample(&[], turns);
    out.family("event_router_session_errors_last_day", Kind::Gauge, "Errors of sessions in the last 24 hours.");
    out.sample(&[], errors);
    out.family("event_router_session_tokens_last_day", Kind::Gauge, "Tokens that sessions took in the last 24 hours.");
    out.sample(&[], tokens);
    out.family("event_router_session_cost_usd_last_day", Kind::Gauge, "Estimated cost of sessions in the last 24 hours, in US dollars, as far as it is known.");
    out.sample(&[], cost_usd);
    out.family("event_router_session_events_behind", Kind::Gauge, "Events of the archive that are not in the numbers of sessions yet.");
    out.sample(&[], events_behind);
}

fn of_the_routes(out: &mut Exposition, routes: &Routes<'_>) {
    for (count, name, help) in COUNTS {
        out.family(name, Kind::Counter, help);
        for (route, numbers) in routes {
            out.sample(&[("route", route)], numbers.count(count).get());
        }
    }
    out.family("event_router_handled_events_total", Kind::Counter, "Events that need nothing more, by outcome.");
    for (route, numbers) in routes {
        for done in Done::ALL {
            out.sample(&[("route", route), ("outcome", done.name())], numbers.done(done).get());
        }
    }
    out.family("event_router_retries_total", Kind::Counter, "Handlings that failed and are repeated, by class of failure.");
    for (route, numbers) in routes {
        for class in CLASSES {
            out.sample(&[("route", route), ("class", class.name())], numbers.retries(class).get());
        }
    }
    out.family("event_router_dead_letters_total", Kind::Counter, "Events given up on, by reason.");
    for (route, numbers) in routes {
        for reason in REASONS {
            out.sample(&[("route", route), ("reason", reason.name())], numbers.buried(reason).get());
        }
    }
    out.family("event_router_running_events", Kind::Gauge, "Events that the route's handler works on now.");
    for (route, numbers) in routes {
        out.sample(&[("route", route)], numbers.running());
    }
    out.family("event_router_burst_size_events", Kind::Histogram, "Events in a handling at its first attempt; 1 on a route without `coalesce`.");
    for (route, numbers) in routes {
        out.histogram(&[("route", route)], &numbers.burst_size);
    }
    out.family("event_router_handler_duration_seconds", Kind::Histogram, "How long handlings took, failed and cancelled ones included.");
    for (route, numbers) in routes {
        out.histogram(&[("route", route)], &numbers.handling);
    }
    out.family(
        "event_router_end_to_end_duration_seconds",
        Kind::Histogram,
        "From the storing of a handling's oldest event to its settlement: waits, bursts and retries included, dead letters not.",
    );
    for (route, numbers) in routes {
        out.histogram(&[("route", route)], &numbers.latency);
    }
}

/// The names that dashboards of FastStream services ask for; what it calls a handler is a route here.
fn under_faststream_names(out: &mut Exposition, routes: &Routes<'_>) {
    out.family("received_messages_total", Kind::Counter, "As event_router_received_events_total.");
    for (route, numbers) in routes {
        out.sample(&[("handler", route)], numbers.count(Count::Received).get());
    }
    out.family(
        "received_processed_messages_total",
        Kind::Counter,
        "Events by status: acked (handled, shadowed, duplicate), skipped (skipped, filtered), nacked (to be repeated), rejected (dead letters).",
    );
    for (route, numbers) in routes {
        let acked = [Done::Handled, Done::Shadowed, Done::Duplicate].map(|done| numbers.done(done).get()).iter().sum::<u64>();
        let skipped = numbers.done(Done::Skipped).get() + numbers.count(Count::Filtered).get();
        let rejected = REASONS.map(|reason| numbers.buried(reason).get()).iter().sum::<u64>();
        for (status, count) in [("acked", acked), ("skipped", skipped), ("nacked", numbers.failed_events.get()), ("rejected", rejected)] {
            out.sample(&[("handler", route), ("status", status)], count);
        }
    }
    out.family("received_messages_in_process", Kind::Gauge, "As event_router_running_events.");
    for (route, numbers) in routes {
        out.sample(&[("handler", route)], numbers.running());
    }
    out.family("received_processed_messages_duration_seconds", Kind::Histogram, "As event_router_handler_duration_seconds.");
    for (route, numbers) in routes {
        out.histogram(&[("handler", route)], &numbers.handling);
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &RouterEvent) {
        match event {
            RouterEvent::Accepted { routed, redactions, .. } => {
                self.accepted.add(1);
                self.unmatched.add(u64::from(!routed));
                self.redactions.add((*redactions).into());
            }
            RouterEvent::RouteStarted { route } => {
                let _ = self.route(route);
            }
            RouterEvent::Received { route, .. } => self.route(route).count(Count::Received).add(1),
            RouterEvent::Filtered { route, .. } => self.route(route).count(Count::Filtered).add(1),
            RouterEvent::Duplicate { route, .. } => self.route(route).done(Done::Duplicate).add(1),
            RouterEvent::Started { route, attempt, events, .. } => {
                let numbers = self.route(route);
                let events = *events as u64;
                numbers.count(Count::Attempts).add(1);
                numbers.begin(events);
                if *attempt == 1 {
                    numbers.count(Count::Matched).add(events);
                    numbers.burst_size.observe(events);
                }
            }
            RouterEvent::AttemptEnded { route, events, elapsed } => {
                let numbers = self.route(route);
                numbers.end(*events as u64);
                numbers.handling.observe_duration(*elapsed);
            }
            RouterEvent::Finished { route, events, fate, .. } => {
                if let Some(done) = Done::of(fate) {
                    self.route(route).done(done).add(*events as u64);
                }
            }
            RouterEvent::Completed { route, latency } => self.route(route).latency.observe_duration(*latency),
            RouterEvent::Failed { route, class, events, .. } => {
                let numbers = self.route(route);
                numbers.retries(*class).add(1);
                numbers.failed_events.add(*events as u64);
            }
            RouterEvent::Buried { route, reason, events, .. } => self.route(route).buried(*reason).add(*events as u64),
            RouterEvent::Emitted { route, .. } => self.route(route).count(Count::Emitted).add(1),
            RouterEvent::Redriven { route, ids } => self.route(route).count(Count::Redriven).add(ids.len() as u64),
            RouterEvent::Discarded { route, ids } => self.route(route).count(Count::Discarded).add(ids.len() as u64),
            RouterEvent::ConsumerLost { route, .. } => self.route(route).count(Count::Reconnects).add(1),
            RouterEvent::RoutePaused { route, .. } => self.route(route).count(Count::Pauses).add(1),
            RouterEvent::RouteHeldUp { route, .. } => self.route(route).count(Count::HeldUp).add(1),
            RouterEvent::SettlementDelayed { route, .. } => self.route(route).count(Count::SettlementDelays).add(1),
            RouterEvent::StoreTrouble { .. } => self.store_troubles.add(1),
            RouterEvent::FatesLost { events } => self.fates_lost.add(*events),
            RouterEvent::ConfigApplied { hash } => {
                let now = self.clock.now();
                let before = self.config.lock().expect("no code panics while it holds the configuration").replace((hash.clone(), now));
                self.reloads_applied.add(u64::from(before.is_some()));
            }
            RouterEvent::ConfigRefused { .. } => self.reloads_refused.add(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
