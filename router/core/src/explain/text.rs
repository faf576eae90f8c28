//! An explanation as plain text. Colours are the command line's business.

use std::fmt;

use router_api::RouteMode;

use super::{Explanation, RouteVerdict, Verdict, key};
use crate::filter::ClauseFailure;

impl Explanation {
    /// How many routes fire.
    #[must_use]
    pub fn fires(&self) -> usize {
        self.routes.iter().filter(|route| route.verdict.fires()).count()
    }

    /// What came and how many routes take it, one line each.
    #[must_use]
    pub fn heading(&self) -> Vec<String> {
        let event = &self.event;
        let mut lines = vec![format!("key        {}", event.key)];
        if let Some(error) = &event.error {
            lines.push(format!("no event   {error}"));
        }
        let dialect = event.dialect.map(|dialect| dialect.to_string());
        let kind = event.event_type.as_ref().filter(|kind| **kind != event.key);
        let parts = [
            ("type", kind),
            ("dialect", dialect.as_ref()),
            ("id", event.id.as_ref()),
            ("time", event.time.as_ref()),
            ("session", event.session_id.as_ref()),
            ("tool", event.tool_name.as_ref()),
            ("file", event.file_path.as_ref()),
            ("directory", event.working_directory.as_ref()),
            ("branch", event.git_branch.as_ref()),
        ];
        lines.extend(parts.into_iter().filter_map(|(name, value)| Some(format!("{name:<10} {}", value?))));
        lines
    }

    /// `2 of 5 routes take this event`.
    #[must_use]
    pub fn count(&self) -> String {
        match (self.fires(), self.routes.len()) {
            (_, 0) => "there are no routes".to_owned(),
            (0, 1) => "the only route does not take this event".to_owned(),
            (1, 1) => "the only route takes this event".to_owned(),
            (0, all) => format!("none of the {all} routes takes this event"),
            (1, all) => format!("1 of {all} routes takes this event"),
            (fires, all) => format!("{fires} of {all} routes take this event"),
        }
    }
}

impl Explanation {
    /// What the order of the routes says, where that is not plain to see.
    #[must_use]
    pub fn order(&self) -> &'static str {
        if self.fires() == 0 && self.routes.len() > 1 { "; the nearest miss comes first" } else { "" }
    }

    /// Does the route listen to keys that have little in common with this one? Its reasons are seldom what somebody looks for.
    #[must_use]
    pub fn is_elsewhere(&self, route: &RouteVerdict) -> bool {
        let verdict = match &route.verdict {
            Verdict::Disabled { otherwise } => otherwise,
            verdict => verdict,
        };
        let Verdict::KeyMismatch { nearest, distance, .. } = verdict else { return false };
        let begins_alike = nearest.as_ref().is_some_and(|nearest| nearest.split('.').next() == self.event.key.split('.').next());
        *distance > if begins_alike { key::OTHER } else { key::OTHER - 1 }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.heading() {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\n{}{}", self.count(), self.order())?;
        for route in &self.routes {
            writeln!(f, "\n{:<10} {}  ({})", route.label(), route.route, route.origin())?;
            for line in route.lines() {
                writeln!(f, "           {line}")?;
            }
        }
        Ok(())
    }
}

impl RouteVerdict {
    /// One word for the verdict: `fires`, `disabled`, `no event`, `filter`, `key`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match &self.verdict {
            Verdict::Fires { .. } => "fires",
            Verdict::Disabled { .. } => "disabled",
            Verdict::Undecodable { .. } => "no event",
            Verdict::FilterMismatch { .. } => "filter",
            Verdict::KeyMismatch { .. } => "key",
        }
    }

    /// What the route is: `ci, shadow, routes.d/ci.toml:3`.
    #[must_use]
    pub fn origin(&self) -> String {
        let mode = if self.mode == RouteMode::Shadow { ", shadow" } else { "" };
        format!("{}{mode}, {}", self.handler, self.place)
    }

    /// Why, and what may still come between, one sentence each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.verdict.lines();
        lines.extend(self.notes.iter().map(|note| format!("- {note}")));
        // Whoever mends the filter would wonder next.
        if self.mode == RouteMode::Shadow && matches!(self.verdict, Verdict::FilterMismatch { .. }) {
            lines.push("- shadow: even when it fires it only records what it would do; `mode = \"live\"` does it".to_owned());
        }
        lines
    }
}

impl Verdict {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Fires { pattern } => vec![format!("`{pattern}` fits the key, and the filter takes the event")],
            Self::Disabled { otherwise } => {
                let mut lines = otherwise.lines();
                lines.insert(
                    0,
                    match otherwise.as_ref() {
                        Self::Fires { .. } => "the route has `enabled = false`; if it were enabled, it would take this event:".to_owned(),
                        _ => "the route has `enabled = false`; if it were enabled, it would not take this event either:".to_owned(),
                    },
                );
                lines
            }
            Self::Undecodable { pattern, error } => {
                vec![format!("`{pattern}` fits the key, but what came is no event ({error}): it goes to the route's dead letters")]
            }
            Self::FilterMismatch { pattern, failure, also } => {
                let mut lines = vec![
                    format!("`{pattern}` fits the key, but the filter (`when`) rejects the event: {} of {} conditions fit", failure.passed, failure.clauses),
                    failure.to_string(),
                ];
                lines.extend(beside(failure));
                for failure in also {
                    lines.push(format!("and {failure}"));
                    lines.extend(beside(failure));
                }
                lines
            }
            Self::KeyMismatch { nearest: None, reason, .. } => vec![reason.clone()],
            Self::KeyMismatch { nearest: Some(nearest), reason, .. } => vec![format!("no pattern in `on` fits the key; nearest is `{nearest}`: {reason}")],
        }
    }
}

/// Where a missing field was looked for, and what may have been meant.
fn beside(failure: &ClauseFailure) -> Vec<String> {
    /// More places are only counted.
    const PLACES_MAX: usize = 4;
    let mut lines = Vec::new();
    let places = &failure.looked_in;
    if !places.is_empty() {
        let more = if places.len() > PLACES_MAX { format!(" and {} more places", places.len() - PLACES_MAX) } else { String::new() };
        lines.push(format!("  looked in {}{more}", places[..places.len().min(PLACES_MAX)].join(", ")));
    }
    if let Some(hint) = &failure.hint {
        lines.push(format!("  but {hint}"));
    }
    lines
}
