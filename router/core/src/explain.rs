//! Why did a route run, or not? Every route's answer for one event, the nearest miss first.
//!
//! Told from the configuration and the event alone: what a route has done with the event is in its records, not here. Why a
//! pattern does not fit a key: `explain/key.rs`. The text for people: `explain/text.rs`.

mod key;
mod text;

use std::time::Duration;

use router_api::{DecodeError, Dialect, Envelope, EventId, Matcher, RouteMode, RouteName, RoutingKey};
use serde::Serialize;

use crate::{
    RouteMatcher,
    config::RouteConfig,
    filter::{ClauseFailure, show},
};

/// The name of the JSON form.
pub const SCHEMA: &str = "event-router.explain.v1";

/// More failing clauses of one filter are not told.
const FAILURES_MAX: usize = 8;

/// What all routes say to one event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The event.
    pub event: EventSummary,
    /// Those that fire first, then the nearest miss.
    pub routes: Vec<RouteVerdict>,
}

/// What an event says of itself. Texts are shortened, and what a terminal would obey is escaped.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct EventSummary {
    pub key: String,
    /// Why it is no event; then all that follows is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_branch: Option<String>,
}

/// What one route says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteVerdict {
    /// The route.
    pub route: RouteName,
    /// `file:line` of it.
    pub place: String,
    /// Takes events at all.
    pub enabled: bool,
    /// Live or shadow.
    pub mode: RouteMode,
    /// Its plugin.
    pub handler: String,
    /// Its answer.
    pub verdict: Verdict,
    /// What may still hold the event or keep the work from being done, where the route fires or would if it were enabled.
    pub notes: Vec<String>,
}

/// A route's answer to an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Verdict {
    /// Key and filter fit: the handler gets the event.
    Fires {
        /// The pattern that fits the key.
        pattern: String,
    },
    /// The route is switched off.
    Disabled {
        /// What it would answer if it were not.
        otherwise: Box<Verdict>,
    },
    /// The key fits, and what came is no event: it goes to the route's dead letters.
    Undecodable {
        /// The pattern that fits the key.
        pattern: String,
        /// What is wrong with it.
        error: String,
    },
    /// The key fits, the content does not.
    FilterMismatch {
        /// The pattern that fits the key.
        pattern: String,
        /// The first clause that fails.
        failure: ClauseFailure,
        /// The others, at most seven.
        also: Vec<ClauseFailure>,
    },
    /// No pattern fits the key.
    KeyMismatch {
        /// The pattern that comes nearest; `None` if the route has none.
        nearest: Option<String>,
        /// Why that one does not fit.
        reason: String,
        /// How far it is from fitting; comparable among patterns, no more.
        distance: u32,
    },
}

impl Verdict {
    /// The route gets the event.
    #[must_use]
    pub fn fires(&self) -> bool {
        matches!(self, Self::Fires { .. })
    }

    /// First what fires, then what would, then the nearest miss.
    fn rank(&self) -> (u8, u32, bool) {
        match self {
            Self::Fires { .. } => (0, 0, false),
            Self::Undecodable { .. } => (2, 0, false),
            Self::FilterMismatch { failure, .. } => (3, u32::try_from(failure.clauses.saturating_sub(failure.passed)).unwrap_or(u32::MAX), false),
            Self::KeyMismatch { distance, .. } => (4, *distance, false),
            Self::Disabled { otherwise } => match otherwise.rank() {
                (0, ..) => (1, 0, true),
                (class, miss, _) => (class, miss, true),
            },
        }
    }
}

/// Asks every route. `event` is what decoding the body gave; `key` is the key it came with.
#[must_use]
pub fn explain(routes: &[RouteConfig], event: Result<&Envelope, &DecodeError>, key: &RoutingKey) -> Explanation {
    let mut routes: Vec<RouteVerdict> = routes.iter().map(|route| verdict(route, event, key)).collect();
    // Stable: routes that are equally near stay in the order of the configuration.
    routes.sort_by_key(|route| route.verdict.rank());
    Explanation { schema: SCHEMA, event: summary(event, key), routes }
}

fn verdict(route: &RouteConfig, event: Result<&Envelope, &DecodeError>, key: &RoutingKey) -> RouteVerdict {
    let answer = match (route.on.iter().find(|pattern| pattern.matches(key)), event) {
        (None, _) => key_mismatch(route, key),
        (Some(pattern), Err(error)) => Verdict::Undecodable { pattern: pattern.to_string(), error: show::plain(&error.to_string()) },
        (Some(pattern), Ok(event)) => {
            let mut failures = route.when.failures(event).into_iter();
            match failures.next() {
                None => Verdict::Fires { pattern: pattern.to_string() },
                Some(failure) => Verdict::FilterMismatch { pattern: pattern.to_string(), failure, also: failures.take(FAILURES_MAX - 1).collect() },
            }
        }
    };
    let notes = match event {
        Ok(event) if answer.fires() => notes(route, event),
        _ => Vec::new(),
    };
    RouteVerdict {
        route: route.name.clone(),
        place: route.place.clone(),
        enabled: route.enabled,
        mode: route.mode,
        handler: route.handler.clone(),
        verdict: if route.enabled { answer } else { Verdict::Disabled { otherwise: Box::new(answer) } },
        notes,
    }
}

fn key_mismatch(route: &RouteConfig, key: &RoutingKey) -> Verdict {
    let nearest = route.on.iter().map(|pattern| (pattern, key::misfit(pattern, key))).min_by_key(|(_, misfit)| misfit.distance);
    match nearest {
        Some((pattern, misfit)) => Verdict::KeyMismatch { nearest: Some(pattern.to_string()), reason: misfit.reason, distance: misfit.distance },
        None => Verdict::KeyMismatch { nearest: None, reason: "the route has no pattern in `on`".to_owned(), distance: u32::MAX },
    }
}

fn summary(event: Result<&Envelope, &DecodeError>, key: &RoutingKey) -> EventSummary {
    let shown = |text: Option<&str>| text.map(show::plain);
    let ok = event.ok();
    EventSummary {
        key: show::plain(key.as_str()),
        error: event.err().map(|error| show::plain(&error.to_string())),
        dialect: ok.map(Envelope::dialect),
        id: shown(ok.and_then(Envelope::id).map(EventId::as_str)),
        event_type: shown(ok.and_then(Envelope::event_type)),
        time: ok.and_then(Envelope::time).map(|time| time.to_string()),
        session_id: shown(ok.and_then(Envelope::session_id)),
        tool_name: shown(ok.and_then(Envelope::tool_name)),
        file_path: shown(ok.and_then(Envelope::file_path)),
        working_directory: shown(ok.and_then(Envelope::working_directory)),
        git_branch: shown(ok.and_then(Envelope::git_branch)),
    }
}

/// What comes after the filter, in the order of the pipeline.
fn notes(route: &RouteConfig, event: &Envelope) -> Vec<String> {
    let matcher = RouteMatcher::of(route);
    let lane = matcher.lane(event).map(|lane| show::text(&lane));
    let mut notes = Vec::new();
    if let Some(max_age) = route.max_age {
        let since = event.time().map_or_else(String::new, |time| format!("; it says it is from {time}"));
        notes.push(format!("max age: given up on when it has waited {}{since}", span(max_age)));
    }
    if let Some(coalesce) = &route.coalesce {
        notes.push(match &lane {
            Some(lane) => format!(
                "coalesce: waits until nothing more came for {} with `{}` {lane}, at most {} and {} events; then one run handles them all",
                span(coalesce.quiet),
                coalesce.by,
                span(coalesce.max_wait),
                coalesce.events_max,
            ),
            None => format!("coalesce: the event has no `{}`, so it is handled alone and at once", coalesce.by),
        });
    } else if let Some(order_by) = &route.order_by {
        notes.push(match &lane {
            Some(lane) => format!("order: waits for all earlier events with `{order_by}` {lane}, also while one of them is tried again"),
            None => format!("order: the event has no `{order_by}`, so it waits for no other"),
        });
    }
    if let Some(dedup) = &route.dedup {
        let key = if dedup.by.is_empty() { "id".to_owned() } else { dedup.by.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ") };
        notes.push(match (matcher.dedup_key(event), route.mode) {
            (Some(_), RouteMode::Shadow) => "dedup: a shadow route remembers nothing, so a repetition is recorded again".to_owned(),
            (Some(value), RouteMode::Live) => {
                format!("dedup: not handled again if this route has done an event of the same {key} ({}) within {}", show::plain(&value), span(dedup.window))
            }
            (None, _) => format!("dedup: the event has no {key}, so a repetition is not recognised"),
        });
    }
    if let Some(rate) = &route.rate {
        notes.push(format!("rate: at most {} handlings in {}; more wait", rate.count, span(rate.per)));
    }
    if route.mode == RouteMode::Shadow {
        notes.push("shadow: the handler runs, and what it would change outside is recorded instead of done; `mode = \"live\"` does it".to_owned());
    }
    notes
}

/// A duration in the largest unit that needs no fraction.
fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    match [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")].into_iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit)) {
        // A day reads as 24 h wherever it is configured so.
        Some((_, "d")) if millis == 86_400_000 => "24 h".to_owned(),
        Some((unit, name)) => format!("{} {name}", millis / unit),
        None => format!("{millis} ms"),
    }
}

#[cfg(test)]
mod tests;
