//! What became of an event on a route, in words: for `events`, `explain` and the demo.

use jiff::Timestamp;
use router_api::{ArchivedEvent, DecodeLimits, DeliveryRecord, DeliveryState, Envelope, Fate, RouteName, RouteState, RouteStatus, Source};
use router_core::config::Config;

use crate::terminal::{BAD, DIM, GOOD, WARN, counted, harmless, shortened, styled, time};

/// A line of a shadow route that begins so tells that the handler would have failed.
pub(crate) const WOULD_FAIL: &str = "would fail: ";

/// Tells fates to somebody who knows of these routes.
pub(crate) struct Fates {
    routes: Vec<Known>,
    /// What an event may be at most.
    pub(crate) decode: DecodeLimits,
    pub(crate) now: Timestamp,
}

/// What has to be known of a route in order to say what its deliveries wait for.
struct Known {
    name: RouteName,
    enabled: bool,
    turn: &'static str,
}

/// What is in hand and does not run waits for this, as far as is known.
const TURN: &str = "taken from its queue, waits for its turn";

/// Of what a broker has this router knows what it has settled. A queue that was made after the event came has nothing of it.
const UNSETTLED: &str = "not settled here: it waits in its queue, another router has it, or the route did not listen to it yet";

/// A fate in words.
pub(crate) struct Told {
    pub(crate) sign: String,
    pub(crate) text: String,
    /// Nothing happens to it until somebody does something: told first.
    pub(crate) stuck: bool,
}

impl Fates {
    /// With a configuration in hand.
    pub(crate) fn configured(config: &Config, now: Timestamp) -> Self {
        let routes = config.routes.iter().map(|route| {
            let turn = match route {
                _ if route.coalesce.is_some() => "collects a burst",
                _ if route.order_by.is_some() => "waits for the earlier events of its lane",
                _ => TURN,
            };
            Known { name: route.name.clone(), enabled: route.enabled, turn }
        });
        Self { routes: routes.collect(), decode: config.limits.decode, now }
    }

    /// With what a running router says of itself.
    pub(crate) fn running(routes: &[RouteStatus], now: Timestamp) -> Self {
        let routes = routes.iter().map(|route| Known { name: route.name.clone(), enabled: route.state != RouteState::Disabled, turn: TURN });
        Self { routes: routes.collect(), decode: DecodeLimits::default(), now }
    }

    /// All deliveries of an event, those that are stuck first.
    pub(crate) fn of<'e>(&self, event: &'e ArchivedEvent) -> Vec<(&'e DeliveryRecord, Told)> {
        let mut told: Vec<_> = event.deliveries.iter().map(|delivery| (delivery, self.tell(delivery))).collect();
        told.sort_by_key(|(_, told)| !told.stuck);
        told
    }

    /// One delivery.
    pub(crate) fn tell(&self, delivery: &DeliveryRecord) -> Told {
        let moving = |sign: String, text: String| Told { sign, text, stuck: false };
        match &delivery.state {
            DeliveryState::Queued | DeliveryState::Waiting { .. } if let Some(text) = self.stuck(delivery) => {
                Told { sign: styled(BAD, "✗"), text, stuck: true }
            }
            DeliveryState::Queued => moving(styled(DIM, "…"), "waits in its queue".to_owned()),
            DeliveryState::Unsettled => moving(styled(DIM, "…"), UNSETTLED.to_owned()),
            DeliveryState::InHand { running_since: Some(since), attempt } => {
                moving(styled(GOOD, "▶"), format!("runs since {}, attempt {attempt}", time(*since, self.now)))
            }
            DeliveryState::InHand { running_since: None, .. } => moving(styled(DIM, "…"), self.turn(delivery).to_owned()),
            DeliveryState::Waiting { error } => {
                let error = error.as_deref().map(|error| format!(": {}", shortened(error, 200))).unwrap_or_default();
                moving(styled(WARN, "↻"), format!("tried again at {}{}{error}", time(delivery.at, self.now), after(delivery)))
            }
            DeliveryState::Finished(fate) => moving(sign(fate), format!("{}{}", fate_text(fate), after(delivery))),
            DeliveryState::Dead { id, reason } => {
                moving(styled(BAD, "✗"), format!("given up on ({reason}){}: see `event-router dead-letters show {}`", after(delivery), harmless(id)))
            }
        }
    }

    /// Why nobody takes from the queue, if the route cannot.
    fn stuck(&self, delivery: &DeliveryRecord) -> Option<String> {
        let name = &delivery.route;
        match self.routes.iter().find(|route| route.name == *name) {
            None => Some(format!("stuck: route `{name}` is gone from the configuration; bring the name back")),
            Some(route) if !route.enabled => Some(format!("stuck: route `{name}` is off (`enabled = false`); switch it on")),
            Some(_) => None,
        }
    }

    /// What something in hand waits for.
    fn turn(&self, delivery: &DeliveryRecord) -> &'static str {
        self.routes.iter().find(|route| route.name == delivery.route).map_or(TURN, |route| route.turn)
    }
}

fn after(delivery: &DeliveryRecord) -> String {
    if delivery.attempts > 0 { format!(" after {}", counted(delivery.attempts.into(), "failed attempt", "failed attempts")) } else { String::new() }
}

fn sign(fate: &Fate) -> String {
    match fate {
        Fate::Shadowed { .. } if would_fail(fate).is_some() => styled(BAD, "✗"),
        Fate::Handled { .. } | Fate::Shadowed { .. } => styled(GOOD, "✓"),
        _ => styled(DIM, "·"),
    }
}

/// The error of a handler that would have failed if its route were not in shadow.
pub(crate) fn would_fail(fate: &Fate) -> Option<&str> {
    let Fate::Shadowed { effects } = fate else { return None };
    effects.iter().find_map(|line| line.strip_prefix(WOULD_FAIL))
}

/// How an event was finished, as a sentence fragment.
pub(crate) fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Handled { burst, note } => {
            let handled = match burst {
                Some(burst) if burst.events > 1 => format!("handled in a burst of {}", counted(burst.events.into(), "event", "events")),
                _ => "handled".to_owned(),
            };
            match note {
                Some(note) => format!("{handled}: {}", shortened(note, 200)),
                None => handled,
            }
        }
        Fate::Skipped { reason } => format!("nothing to do: {}", shortened(reason, 160)),
        Fate::Filtered => "not wanted any more".to_owned(),
        Fate::Duplicate { key } => format!("done before, as `{}`", shortened(key, 60)),
        Fate::Shadowed { effects } if effects.is_empty() => "shadow: nothing to do outside".to_owned(),
        Fate::Shadowed { effects } => {
            // A failure is what somebody must see, so it stands before what came of the handling until then.
            let (failures, others): (Vec<_>, Vec<_>) = effects.iter().partition(|line| line.starts_with(WOULD_FAIL));
            let lines: Vec<String> = failures.into_iter().chain(others).map(|effect| shortened(effect, 200)).collect();
            format!("shadow: {}", lines.join("; "))
        }
    }
}

/// Who emitted an event, if this router did: its route.
pub(crate) fn emitter(event: &ArchivedEvent, decode: DecodeLimits) -> Option<String> {
    let envelope = Envelope::decode(event.key.clone(), event.body.clone(), decode).ok()?;
    let is_ours = matches!(envelope.source(), Some(Source::Object { app: Some(app), .. }) if app == "event-router");
    let route = envelope.body().pointer("/source/meta/route").and_then(serde_json::Value::as_str);
    match route {
        Some(route) if is_ours => Some(format!("emitted by route `{}`", shortened(route, 63))),
        _ if event.hops > 0 => Some("emitted by a route".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use router_api::BurstNote;

    use super::*;

    fn told(toml: &str, state: DeliveryState, attempts: u32) -> (String, bool) {
        let config = crate::setup::tests::config(toml);
        let fates = Fates::configured(&config, Timestamp::UNIX_EPOCH);
        let delivery = DeliveryRecord { route: "a".parse().unwrap(), state, attempts, at: Timestamp::UNIX_EPOCH };
        let Told { text, sign, stuck } = fates.tell(&delivery);
        (format!("{} {text}", anstream::adapter::strip_str(&sign)), stuck)
    }

    const ROUTE: &str = "[[route]]\nname = \"a\"\non = [\"#\"]\nhandler = \"log\"\n";

    #[test]
    fn what_runs_collects_or_is_stuck_does_not_read_as_waiting() {
        let running = DeliveryState::InHand { running_since: Some(Timestamp::UNIX_EPOCH), attempt: 2 };
        let (text, stuck) = told(ROUTE, running, 1);
        assert!(text.starts_with("▶ runs since ") && text.ends_with(", attempt 2") && !stuck, "{text}");
        let in_hand = || DeliveryState::InHand { running_since: None, attempt: 1 };
        let burst = format!("{ROUTE}coalesce = {{ by = \"session_id\", quiet_ms = 100, max_wait_ms = 1000 }}\n");
        assert_eq!(told(&burst, in_hand(), 0).0, "… collects a burst");
        assert_eq!(told(&format!("{ROUTE}order_by = \"session_id\"\n"), in_hand(), 0).0, "… waits for the earlier events of its lane");
        assert_eq!(told(ROUTE, DeliveryState::Queued, 0), ("… waits in its queue".to_owned(), false));
        let gone = told(&ROUTE.replace("\"a\"", "\"b\""), DeliveryState::Queued, 0);
        assert_eq!(gone, ("✗ stuck: route `a` is gone from the configuration; bring the name back".to_owned(), true));
        let off = told(&format!("{ROUTE}enabled = false\n"), DeliveryState::Waiting { error: None }, 0);
        assert_eq!(off, ("✗ stuck: route `a` is off (`enabled = false`); switch it on".to_owned(), true));
    }

    #[test]
    fn notes_bursts_of_one_and_shadow_failures_are_told() {
        let handled = |events| Fate::Handled { burst: Some(BurstNote { id: "b".into(), events }), note: Some("failed: exit code 1, 7 files".into()) };
        assert_eq!(fate_text(&handled(7)), "handled in a burst of 7 events: failed: exit code 1, 7 files");
        assert_eq!(fate_text(&handled(1)), "handled: failed: exit code 1, 7 files");
        let failing = Fate::Shadowed { effects: vec!["would run: pytest".into(), "would fail: no such field".into()] };
        let (text, _) = told(ROUTE, DeliveryState::Finished(failing), 0);
        assert_eq!(text, "✗ shadow: would fail: no such field; would run: pytest");
    }
}
