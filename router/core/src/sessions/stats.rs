//! Sums over sessions, by days of a time zone or by what sessions have in common.

use jiff::{SignedDuration, Timestamp, ToSpan as _, tz::TimeZone};
use router_api::{AdminError, SESSION_SLOT_SECONDS, SessionStats, StatsBy, StatsQuery, StatsRow, Store, StoreError, SumsQuery};

/// Rows of one answer.
const ROWS_MAX: usize = 1_000;
/// Days of one question.
const DAYS_MAX: i64 = 800;
/// What is asked for if nothing else is.
const DAYS: i64 = 30;

/// What is asked for, in full.
pub(super) struct Window {
    by: StatsBy,
    since: Timestamp,
    until: Timestamp,
    zone: TimeZone,
    zone_name: String,
}

impl Window {
    /// What a question means at `now`.
    pub(super) fn of(query: &StatsQuery, now: Timestamp) -> Result<Self, AdminError> {
        let zone_name = query.zone.clone().unwrap_or_else(|| "UTC".to_owned());
        let zone = TimeZone::get(&zone_name)
            .map_err(|_| AdminError::Invalid(format!("the time zone `{}` is not known: names are like `Europe/Berlin`", zone_name.escape_debug())))?;
        let until = query.until.unwrap_or(now);
        let since = match query.since {
            Some(since) => since,
            // Whole days: the last of them is today.
            None => {
                let day = until.to_zoned(zone.clone()).date().checked_sub((DAYS - 1).days());
                let start = day.ok().and_then(|day| day.to_zoned(zone.clone()).ok());
                start.map_or(until, |start| start.timestamp())
            }
        };
        if since > until {
            return Err(AdminError::Invalid(format!("`since` ({since}) is later than `until` ({until})")));
        }
        if until.duration_since(since) > SignedDuration::from_hours(24 * DAYS_MAX) {
            return Err(AdminError::Invalid(format!("more than {DAYS_MAX} days at once: ask for fewer")));
        }
        Ok(Self { by: query.by, since, until, zone, zone_name })
    }

    fn slots(&self) -> (i64, i64) {
        (self.since.as_second().div_euclid(SESSION_SLOT_SECONDS), end_slot(self.until))
    }

    /// The days that it touches, and their slots within it.
    fn days(&self) -> Vec<(String, i64, i64)> {
        let (from, to) = self.slots();
        let mut days = Vec::new();
        let mut day = self.since.to_zoned(self.zone.clone()).date();
        while let (Ok(start), Ok(next)) = (day.to_zoned(self.zone.clone()), day.tomorrow()) {
            let Ok(end) = next.to_zoned(self.zone.clone()) else { break };
            if start.timestamp() >= self.until || days.len() > DAYS_MAX as usize + 1 {
                break;
            }
            days.push((day.to_string(), from.max(end_slot(start.timestamp())), to.min(end_slot(end.timestamp()))));
            day = next;
        }
        days
    }
}

/// The first slot that begins at `moment` or later.
fn end_slot(moment: Timestamp) -> i64 {
    -((-moment.as_second()).div_euclid(SESSION_SLOT_SECONDS))
}

/// Adds up.
pub(super) async fn sums(store: &dyn Store, window: &Window, events_behind: u64) -> Result<SessionStats, AdminError> {
    let (from, to) = window.slots();
    let mut total = one(store, from, to).await?.unwrap_or_default();
    total.name = None;
    let rows = if window.by == StatsBy::Day {
        let mut rows = Vec::new();
        for (name, from, to) in window.days() {
            if let Some(row) = one(store, from, to).await? {
                rows.push(StatsRow { name: Some(name), ..row });
            }
        }
        rows
    } else {
        let mut rows = store.session_sums(SumsQuery { by: Some(window.by), from, to }).await?;
        rows.sort_by(|a, b| {
            let dearer = b.known_cost_usd.total_cmp(&a.known_cost_usd);
            dearer.then_with(|| (b.tokens, b.uses, b.sessions).cmp(&(a.tokens, a.uses, a.sessions))).then_with(|| a.name.cmp(&b.name))
        });
        if window.by == StatsBy::Tool {
            total.uses = rows.iter().map(|row| row.uses).fold(0, u64::saturating_add);
        }
        rows.truncate(ROWS_MAX);
        rows
    };
    let (since, until, zone) = (window.since, window.until, window.zone_name.clone());
    Ok(SessionStats { by: window.by, since, until, zone, rows, total, events_behind })
}

/// The sum over the 24 hours before `now`.
pub(super) async fn last_day(store: &dyn Store, now: Timestamp) -> Result<StatsRow, StoreError> {
    let to = end_slot(now);
    Ok(one(store, to - 86_400 / SESSION_SLOT_SECONDS, to).await?.unwrap_or_default())
}

async fn one(store: &dyn Store, from: i64, to: i64) -> Result<Option<StatsRow>, StoreError> {
    Ok(store.session_sums(SumsQuery { by: None, from, to }).await?.pop())
}
