//! What the router says about itself, as log lines: identifiers in the sentence and as fields, no payloads.
//!
//! A kind of line that comes again and again for one route is written a few times, then only counted: see [`Repeats`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use router_api::{Clock, Envelope, Fate};
use router_core::observe::{Observer, RouterEvent};
use tracing::{Level, debug, enabled, error, info, trace, warn};

use crate::{fates::would_fail, terminal};

/// Writes router events to the log.
pub(crate) struct LogObserver {
    clock: Arc<dyn Clock>,
    repeats: Mutex<Repeats>,
}

impl LogObserver {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, repeats: Mutex::new(Repeats::default()) }
    }

    /// Writes what is still only counted; for the end of the program.
    pub(crate) fn finish(&self) {
        let ended = self.repeats.lock().expect(NO_PANIC).end_all();
        ended.iter().for_each(Ended::write);
    }

    /// May a line of this kind be written now? Writes summaries that are due.
    fn admits(&self, kind: &'static str, route: &str) -> bool {
        let (admitted, ended) = self.repeats.lock().expect(NO_PANIC).admit(kind, route, self.clock.monotonic());
        ended.iter().for_each(Ended::write);
        admitted
    }
}

const NO_PANIC: &str = "no code panics while it holds the counts";

impl Observer for LogObserver {
    fn observe(&self, event: &RouterEvent) {
        match event {
            // The program announces its routes itself, with more to say of each.
            RouterEvent::RouteStarted { route } => debug!(route = route.as_str(), "route `{route}` takes events"),
            RouterEvent::RouteStopped { route } => debug!(route = route.as_str(), "route `{route}` takes no more events"),
            RouterEvent::RoutePaused { route, delay, error } => {
                if self.admits("paused", route.as_str()) {
                    let again = terminal::duration(*delay);
                    warn!(
                        route = route.as_str(),
                        delay_ms = ms(*delay),
                        error = error.as_str(),
                        "the target of route `{route}` is down, it is tried again in {again}"
                    );
                }
            }
            RouterEvent::RouteResumed { route } => {
                if self.admits("resumed", route.as_str()) {
                    info!(route = route.as_str(), "the target of route `{route}` is back");
                }
            }
            RouterEvent::RouteHeldUp { route, lane } => {
                if self.admits("held-up", route.as_str()) {
                    warn!(route = route.as_str(), lane = lane.as_str(), "route `{route}` is held up: waiting events fill half its window");
                }
            }
            RouterEvent::ConsumerLost { route, error, delay } => {
                if self.admits("consumer-lost", route.as_str()) {
                    warn!(route = route.as_str(), error = error.as_str(), delay_ms = ms(*delay), "route `{route}` lost its queue and takes it up again");
                }
            }
            RouterEvent::Accepted { key, seq, routed, redactions } => {
                debug!(key = key.as_str(), seq = *seq, routed, redactions, "event `{key}` is taken in");
            }
            RouterEvent::Received { route, key } => trace!(route = route.as_str(), key = key.as_str(), "route `{route}` took `{key}`"),
            RouterEvent::Filtered { route, key, .. } => trace!(route = route.as_str(), key = key.as_str(), "route `{route}` does not want `{key}`"),
            RouterEvent::Started { route, event, attempt, events, lane } => {
                debug!(
                    route = route.as_str(),
                    key = event.key().as_str(),
                    event_id = id(event),
                    attempt,
                    events,
                    lane = lane.as_deref(),
                    "route `{route}` begins `{}`",
                    event.key()
                );
            }
            RouterEvent::Finished { route, event, attempt, events, fate, effects, elapsed } => {
                // Looked at first: this is the line that comes with every event.
                if !enabled!(Level::WARN) || (would_fail(fate).is_none() && !enabled!(Level::INFO)) || !self.admits("finished", route.as_str()) {
                    return;
                }
                let (key, effects) = (event.key(), effects.len());
                if let Some(error) = would_fail(fate) {
                    let (route, key, event_id) = (route.as_str(), key.as_str(), id(event));
                    warn!(route, key, event_id, events, error, "`{key}` would fail on route `{route}`, which is in shadow: nothing is tried again");
                    return;
                }
                let note = match fate {
                    Fate::Handled { note: Some(note), .. } => format!(": {note}"),
                    _ => String::new(),
                };
                let ended = match fate {
                    Fate::Handled { .. } => "handled".to_owned(),
                    Fate::Skipped { reason } => format!("skipped ({reason})"),
                    Fate::Filtered => "filtered".to_owned(),
                    Fate::Duplicate { .. } => "recognised as done before".to_owned(),
                    Fate::Shadowed { .. } => format!("handled in shadow, {} recorded", terminal::counted(effects as u64, "effect", "effects")),
                };
                let (session, elapsed_ms) = (event.session_id(), ms(*elapsed));
                info!(
                    route = route.as_str(),
                    key = key.as_str(),
                    event_id = id(event),
                    session_id = session,
                    attempt,
                    events,
                    elapsed_ms,
                    "`{key}` is {ended} by route `{route}`{note}"
                );
            }
            RouterEvent::Failed { route, event, attempt, events, class, error, retry_in } => {
                if self.admits("failed", route.as_str()) {
                    let (key, again) = (event.key(), terminal::duration(*retry_in));
                    let (event_id, class, retry_in_ms) = (id(event), class.name(), ms(*retry_in));
                    warn!(
                        route = route.as_str(),
                        key = key.as_str(),
                        event_id,
                        attempt,
                        events,
                        class,
                        error = error.as_str(),
                        retry_in_ms,
                        "`{key}` failed on route `{route}`, it is tried again in {again}"
                    );
                }
            }
            RouterEvent::Buried { route, key, event_id, events, reason, error, attempts } => {
                if self.admits("buried", route.as_str()) {
                    let reason = reason.name();
                    error!(
                        route = route.as_str(),
                        key = key.as_str(),
                        event_id = event_id.as_deref(),
                        events,
                        reason,
                        error = error.as_str(),
                        attempts,
                        "route `{route}` gave up on `{key}` ({reason}): see `event-router dead-letters list --route {route}`"
                    );
                }
            }
            RouterEvent::Emitted { route, key, id } => {
                debug!(route = route.as_str(), key = key.as_str(), event_id = id.as_str(), "route `{route}` emitted `{key}`")
            }
            RouterEvent::SettlementDelayed { route, error } => {
                if self.admits("settlement-delayed", route.as_str()) {
                    warn!(
                        route = route.as_str(),
                        error = error.as_str(),
                        "what became of an event of route `{route}` could not be recorded yet, it is tried again"
                    );
                }
            }
            RouterEvent::Redriven { route, ids } => {
                let letters = terminal::counted(ids.len() as u64, "dead letter is", "dead letters are");
                info!(route = route.as_str(), ids = some(ids), "an operator's wish: {letters} back in the queue of route `{route}`");
            }
            RouterEvent::Discarded { route, ids } => {
                let letters = terminal::counted(ids.len() as u64, "dead letter", "dead letters");
                warn!(route = route.as_str(), ids = some(ids), "an operator's wish: {letters} of route `{route}` deleted");
            }
            RouterEvent::Commanded { route, command } => info!(route = route.as_str(), "an operator's wish: {command:?} for route `{route}`"),
            RouterEvent::StoreTrouble { error } => {
                if self.admits("store-trouble", "") {
                    error!(error = error.as_str(), "the store is in trouble, no event is lost by it");
                }
            }
            RouterEvent::FatesLost { events } => {
                if self.admits("fates-lost", "") {
                    warn!(events, "the archive does not tell what became of {}: the store could not keep up", terminal::counted(*events, "event", "events"));
                }
            }
            RouterEvent::Duplicate { route, key, dedup_key } => {
                debug!(route = route.as_str(), key = key.as_str(), dedup_key = dedup_key.as_str(), "route `{route}` has done `{key}` before");
            }
            // Told by `Router::apply`'s caller, or counted only: see `router_core::metrics`.
            RouterEvent::ConfigApplied { .. }
            | RouterEvent::ConfigRefused { .. }
            | RouterEvent::Draining
            | RouterEvent::AttemptEnded { .. }
            | RouterEvent::Completed { .. } => {}
            // The list grows with the router. Not printed as it is: it may carry a payload.
            _ => debug!("the router reports something that this log has no words for"),
        }
    }
}

fn id(event: &Envelope) -> Option<&str> {
    event.id().map(router_api::EventId::as_str)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Counts lines of one kind and route; lets the first ones of each window through.
#[derive(Default)]
struct Repeats {
    windows: HashMap<(&'static str, String), Window>,
    next_sweep: Duration,
}

struct Window {
    began: Duration,
    lines: u64,
}

/// A window with lines that were not written.
struct Ended {
    kind: &'static str,
    route: String,
    unwritten: u64,
}

impl Ended {
    fn write(&self) {
        let Self { kind, route, unwritten } = self;
        let within = terminal::duration(WINDOW);
        if *kind == "finished" {
            info!(route = route.as_str(), kind, unwritten, "route `{route}` finished {unwritten} more events within {within}");
        } else {
            warn!(route = route.as_str(), kind, unwritten, "{unwritten} more lines of the kind `{kind}` of route `{route}` within {within}");
        }
    }
}

/// Lines of a kind and route are counted over this time.
const WINDOW: Duration = Duration::from_secs(10);

/// So many of them are written.
const WRITTEN_MAX: u64 = 10;

/// Ended windows are looked for so often.
const SWEEP: Duration = Duration::from_secs(1);

/// Kinds and routes that are counted at once; beyond it lines are written uncounted.
const WINDOWS_MAX: usize = 20_000;

impl Repeats {
    fn admit(&mut self, kind: &'static str, route: &str, now: Duration) -> (bool, Vec<Ended>) {
        let mut ended = Vec::new();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.windows.retain(|(kind, route), window| {
                let over = now >= window.began + WINDOW;
                if over && window.lines > WRITTEN_MAX {
                    ended.push(Ended { kind, route: route.clone(), unwritten: window.lines - WRITTEN_MAX });
                }
                !over
            });
        }
        if self.windows.len() >= WINDOWS_MAX {
            return (true, ended);
        }
        let window = self.windows.entry((kind, route.to_owned())).or_insert(Window { began: now, lines: 0 });
        window.lines += 1;
        (window.lines <= WRITTEN_MAX, ended)
    }

    fn end_all(&mut self) -> Vec<Ended> {
        let unwritten = |window: &Window| window.lines.saturating_sub(WRITTEN_MAX);
        let windows = self.windows.drain().filter(|(_, window)| unwritten(window) > 0);
        windows.map(|((kind, route), window)| Ended { kind, route, unwritten: unwritten(&window) }).collect()
    }
}

/// The first ids of a long list.
fn some(ids: &[String]) -> String {
    const IDS_MAX: usize = 20;
    let more = if ids.len() > IDS_MAX { " …" } else { "" };
    ids.iter().take(IDS_MAX).map(String::as_str).collect::<Vec<_>>().join(" ") + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_written_a_few_times_and_then_counted() {
        let mut repeats = Repeats::default();
        let at = Duration::from_secs(100);
        let written = (0..1_000).filter(|_| repeats.admit("failed", "ci", at).0).count();
        assert_eq!(written as u64, WRITTEN_MAX);
        assert!(repeats.admit("failed", "other", at).0, "another route has a count of its own");
        let (admitted, ended) = repeats.admit("failed", "ci", at + WINDOW);
        assert!(admitted, "a new window begins");
        assert_eq!(ended.iter().map(|ended| (ended.kind, ended.route.as_str(), ended.unwritten)).collect::<Vec<_>>(), [("failed", "ci", 1_000 - WRITTEN_MAX)]);
    }

    #[test]
    fn what_is_only_counted_at_the_end_is_not_forgotten() {
        let mut repeats = Repeats::default();
        for _ in 0..WRITTEN_MAX + 3 {
            repeats.admit("buried", "ci", Duration::ZERO);
        }
        repeats.admit("paused", "ci", Duration::ZERO);
        let ended = repeats.end_all();
        assert_eq!((ended.len(), ended[0].unwritten), (1, 3));
    }
}
