//! Sessions as rows: what is kept of each, lists of them, and sums over what they did when.
//!
//! Sums read rows of sessions and their slots, never events: what they cost depends on how many sessions there were, not on how much
//! each of them did.

use std::collections::{BTreeMap, BTreeSet};

use router_api::{ActiveSessions, KeptSession, Session, SessionEntry, SessionQuery, StatsBy, StatsRow, StoredSession, SumsQuery, TokenKinds};
use rusqlite::{Connection, OptionalExtension, ToSql, params, params_from_iter};
use serde::{Serialize, de::DeserializeOwned};

use crate::schema;

/// In `meta`: events up to this number are in the sessions.
const READ_TO: &str = "sessions_read_to";
/// Sessions go when nothing was heard of them for so long, in microseconds: 400 days, so that a year can be compared with the one before.
const KEPT_FOR: i64 = 400 * 86_400 * 1_000_000;
/// Sessions that are kept at most; the oldest go.
const KEPT_MAX: i64 = 200_000;
/// Sessions removed with one commit.
const REMOVED_MAX: i64 = 200;
/// Rows of one sum.
const SUMS_MAX: usize = 10_000;

/// An id may be as long as a body, and one of that length is no session's: it is not read.
const ACTIVE: &str = "SELECT seq, iif(length(session) <= 512, session, NULL) FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2";

/// See [`router_api::Store::active_sessions`].
pub(crate) fn active(conn: &Connection, events_max: u32) -> rusqlite::Result<ActiveSessions> {
    let snapshot = conn.unchecked_transaction()?;
    let last = schema::last_seq(&snapshot)?;
    let after = schema::meta(&snapshot, READ_TO)?.unwrap_or(0);
    let (mut read_to, mut looked) = (after, 0);
    let (mut met, mut ids) = (BTreeSet::new(), Vec::new());
    {
        let mut statement = snapshot.prepare_cached(ACTIVE)?;
        let mut rows = statement.query(params![after, events_max])?;
        while let Some(row) = rows.next()? {
            looked += 1;
            read_to = row.get(0)?;
            if let Some(id) = row.get::<_, Option<String>>(1)?
                && met.insert(id.clone())
            {
                ids.push(id);
            }
        }
    }
    if looked < events_max {
        // What is left between here and the last number is gone.
        read_to = read_to.max(last);
    }
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(ActiveSessions { ids, read_from: number(after), read_to: number(read_to), behind: number(last - read_to) })
}

/// See [`router_api::Store::stored_sessions`].
pub(crate) fn stored(conn: &Connection, ids: &[String]) -> rusqlite::Result<Vec<StoredSession>> {
    let mut statement = conn.prepare_cached("SELECT seen, imported FROM sessions WHERE id = ?1")?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let row = statement.query_row([id], |row| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))).optional()?;
        let (seen, imported) = row.unwrap_or_default();
        found.push(StoredSession { seen: read(seen), imported: read(imported) });
    }
    Ok(found)
}

/// What an older program wrote and this one cannot read was made of events or a transcript, and can be made again.
fn read<T: DeserializeOwned>(text: Option<String>) -> Option<T> {
    serde_json::from_str(&text?).ok()
}

fn written<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// See [`router_api::Store::keep_sessions`]. Within a transaction.
pub(crate) fn keep(conn: &Connection, sessions: &[KeptSession], read_to: Option<u64>, now: i64) -> rusqlite::Result<()> {
    for kept in sessions {
        let number = keep_one(conn, kept)?;
        conn.prepare_cached("DELETE FROM session_slots WHERE session = ?1")?.execute([number])?;
        conn.prepare_cached("DELETE FROM session_tools WHERE session = ?1")?.execute([number])?;
        let mut slots = conn.prepare_cached(
            "INSERT INTO session_slots (slot, session, model, turns, errors, tokens, cost, input, output, cache_write_5m, cache_write_1h, cache_read)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (slot, session, model) DO UPDATE SET turns = turns + excluded.turns, errors = errors + excluded.errors,
             tokens = tokens + excluded.tokens, cost = coalesce(cost, 0) + excluded.cost, input = input + excluded.input,
             output = output + excluded.output, cache_write_5m = cache_write_5m + excluded.cache_write_5m,
             cache_write_1h = cache_write_1h + excluded.cache_write_1h, cache_read = cache_read + excluded.cache_read",
        )?;
        for slot in kept.shown.slots.iter().take(SessionEntry::SLOTS_MAX) {
            let model = slot.model.as_deref().unwrap_or_default();
            let TokenKinds { input, output, cache_write_5m, cache_write_1h, cache_read } = slot.kinds;
            let [input, output, for_minutes, for_an_hour, read] = [input, output, cache_write_5m, cache_write_1h, cache_read].map(signed);
            let (turns, errors, tokens) = (signed(slot.turns), signed(slot.errors), signed(slot.tokens));
            slots.execute(params![slot.slot, number, model, turns, errors, tokens, slot.cost_usd, input, output, for_minutes, for_an_hour, read])?;
        }
        let mut tools = conn.prepare_cached("INSERT INTO session_tools (session, tool, uses) VALUES (?1, ?2, ?3)")?;
        for (tool, uses) in &kept.shown.session.tools {
            tools.execute(params![number, tool, signed(*uses)])?;
        }
    }
    if let Some(read_to) = read_to {
        schema::set_meta(conn, READ_TO, signed(read_to))?;
    }
    remove_old(conn, now)
}

fn keep_one(conn: &Connection, kept: &KeptSession) -> rusqlite::Result<i64> {
    let session = &kept.shown.session;
    let said = session.end.as_ref().and_then(|end| end.duration_seconds).and_then(|seconds| i64::try_from(seconds).ok());
    let seconds = said.unwrap_or_else(|| session.last_event_at.duration_since(session.started_at).as_secs().max(0));
    let stored = &kept.stored;
    let mut statement = conn.prepare_cached(
        "INSERT INTO sessions (id, started_at, last_at, state, project, branch, feature, ticket, model, parent, files, commits, seconds, shown, seen, imported)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT (id) DO UPDATE SET started_at = excluded.started_at, last_at = excluded.last_at, state = excluded.state,
         project = excluded.project, branch = excluded.branch, feature = excluded.feature, ticket = excluded.ticket, model = excluded.model,
         parent = excluded.parent, files = excluded.files, commits = excluded.commits, seconds = excluded.seconds, shown = excluded.shown,
         seen = excluded.seen, imported = excluded.imported
         RETURNING number",
    )?;
    statement.query_row(
        params![
            session.session_id,
            session.started_at.as_microsecond(),
            session.last_event_at.as_microsecond(),
            session.state.name(),
            session.project,
            session.git_branch,
            session.feature,
            session.ticket,
            session.model,
            session.parent,
            signed(session.files.len() as u64),
            signed(session.commits.len() as u64),
            seconds,
            written(session)?,
            stored.seen.as_ref().map(written).transpose()?,
            stored.imported.as_ref().map(written).transpose()?,
        ],
        |row| row.get(0),
    )
}

fn remove_old(conn: &Connection, now: i64) -> rusqlite::Result<()> {
    let sessions: i64 = conn.prepare_cached("SELECT count(*) FROM sessions")?.query_row([], |row| row.get(0))?;
    let excess = (sessions - KEPT_MAX).clamp(0, REMOVED_MAX);
    let mut statement = conn.prepare_cached(
        "SELECT number FROM (SELECT number FROM sessions WHERE last_at < ?1 ORDER BY last_at LIMIT ?2)
         UNION SELECT number FROM (SELECT number FROM sessions ORDER BY last_at LIMIT ?3)",
    )?;
    let numbers: Vec<i64> =
        statement.query_map(params![now.saturating_sub(KEPT_FOR), REMOVED_MAX, excess], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for number in numbers {
        for sql in ["DELETE FROM session_slots WHERE session = ?1", "DELETE FROM session_tools WHERE session = ?1", "DELETE FROM sessions WHERE number = ?1"] {
            conn.prepare_cached(sql)?.execute([number])?;
        }
    }
    Ok(())
}

/// See [`router_api::Store::sessions`].
pub(crate) fn list(conn: &Connection, query: &SessionQuery) -> rusqlite::Result<Vec<Session>> {
    let state = query.state.map(|state| state.name().to_owned());
    let since = query.since.map(|since| since.as_microsecond());
    let limit = query.last.unwrap_or(20).min(SessionQuery::LAST_MAX);
    let mut conditions = Vec::new();
    let mut values: Vec<&dyn ToSql> = vec![&limit];
    let equal: [(&str, &Option<String>); 8] = [
        ("id", &query.id),
        ("state", &state),
        ("project", &query.project),
        ("branch", &query.branch),
        ("feature", &query.feature),
        ("ticket", &query.ticket),
        ("model", &query.model),
        ("parent", &query.parent),
    ];
    for (column, value) in &equal {
        if let Some(value) = value {
            values.push(value);
            conditions.push(format!("{column} = ?{}", values.len()));
        }
    }
    if let Some(since) = &since {
        values.push(since);
        conditions.push(format!("last_at >= ?{}", values.len()));
    }
    if let Some(beginning) = &query.beginning {
        values.push(beginning);
        // The upper end is the greatest character that there is, which no id holds.
        conditions.push(format!("id >= ?{0} AND id < ?{0} || char(1114111)", values.len()));
    }
    let which = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let mut statement = conn.prepare_cached(&format!("SELECT shown FROM sessions {which} ORDER BY last_at DESC, number DESC LIMIT ?1"))?;
    let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(0))?;
    let mut sessions = Vec::new();
    for row in rows {
        sessions.extend(read::<Session>(Some(row?)));
    }
    Ok(sessions)
}

/// What the sums of one kind are made by.
fn column(by: Option<StatsBy>) -> &'static str {
    match by {
        None | Some(StatsBy::Day | StatsBy::Tool) => "NULL",
        Some(StatsBy::Model) => "nullif(x.model, '')",
        Some(StatsBy::Project) => "s.project",
        Some(StatsBy::Branch) => "s.branch",
        Some(StatsBy::Feature) => "s.feature",
    }
}

fn of_slots(by: Option<StatsBy>) -> String {
    let column = column(by);
    let joined = if column.starts_with("s.") { "JOIN sessions s ON s.number = x.session" } else { "" };
    format!(
        "SELECT {column} AS name, count(DISTINCT x.session), sum(x.turns), sum(x.errors), sum(x.tokens), total(x.cost), count(x.cost),
                total(CASE WHEN x.cost IS NULL THEN x.tokens ELSE 0 END),
                sum(x.input), sum(x.output), sum(x.cache_write_5m), sum(x.cache_write_1h), sum(x.cache_read)
         FROM session_slots x {joined} WHERE x.slot >= ?1 AND x.slot < ?2 GROUP BY name"
    )
}

fn of_sessions(by: Option<StatsBy>) -> String {
    let column = if by == Some(StatsBy::Model) { "s.model" } else { column(by) };
    format!(
        "SELECT {column} AS name, sum(s.files), sum(s.commits), sum(s.seconds) FROM sessions s WHERE s.started_at >= ?1 AND s.started_at < ?2 GROUP BY name"
    )
}

/// A session did something then when it has a slot then; how often it used a tool then is not known.
const OF_TOOLS: &str = "
    SELECT t.tool, count(*), sum(t.uses) FROM sessions s JOIN session_tools t ON t.session = s.number
    WHERE s.last_at >= ?1 AND s.started_at < ?2 GROUP BY t.tool";

/// See [`router_api::Store::session_sums`].
pub(crate) fn sums(conn: &Connection, query: SumsQuery) -> rusqlite::Result<Vec<StatsRow>> {
    let snapshot = conn.unchecked_transaction()?;
    let moment = |slot: i64| slot.saturating_mul(router_api::SESSION_SLOT_SECONDS).saturating_mul(1_000_000);
    let (from, to) = (moment(query.from), moment(query.to));
    let mut sums: BTreeMap<Option<String>, StatsRow> = BTreeMap::new();
    if query.by == Some(StatsBy::Tool) {
        let mut statement = snapshot.prepare_cached(OF_TOOLS)?;
        let mut rows = statement.query(params![from, to])?;
        while let Some(row) = rows.next()?
            && sums.len() < SUMS_MAX
        {
            let name: Option<String> = row.get(0)?;
            sums.insert(name.clone(), StatsRow { name, sessions: count(row.get(1)?), uses: count(row.get(2)?), ..StatsRow::default() });
        }
        return Ok(sums.into_values().collect());
    }
    {
        let mut statement = snapshot.prepare_cached(&of_slots(query.by))?;
        let mut rows = statement.query(params![query.from, query.to])?;
        while let Some(row) = rows.next()?
            && sums.len() < SUMS_MAX
        {
            let name: Option<String> = row.get(0)?;
            let (known_cost_usd, known, unpriced): (f64, i64, f64) = (row.get(5)?, row.get(6)?, row.get(7)?);
            let sum = StatsRow {
                name: name.clone(),
                sessions: count(row.get(1)?),
                turns: count(row.get(2)?),
                errors: count(row.get(3)?),
                tokens: count(row.get(4)?),
                kinds: TokenKinds {
                    input: count(row.get(8)?),
                    output: count(row.get(9)?),
                    cache_write_5m: count(row.get(10)?),
                    cache_write_1h: count(row.get(11)?),
                    cache_read: count(row.get(12)?),
                },
                cost_usd: (known > 0 && unpriced == 0.0).then_some(known_cost_usd),
                known_cost_usd,
                ..StatsRow::default()
            };
            sums.insert(name, sum);
        }
    }
    let mut statement = snapshot.prepare_cached(&of_sessions(query.by))?;
    let mut rows = statement.query(params![from, to])?;
    while let Some(row) = rows.next()? {
        let name: Option<String> = row.get(0)?;
        if sums.len() >= SUMS_MAX && !sums.contains_key(&name) {
            continue;
        }
        let sum = sums.entry(name.clone()).or_insert_with(|| StatsRow { name, ..StatsRow::default() });
        (sum.files, sum.commits, sum.duration_seconds) = (count(row.get(1)?), count(row.get(2)?), count(row.get(3)?));
    }
    // A sum over nothing is no row.
    sums.retain(|_, sum| sum.sessions > 0 || sum.files > 0 || sum.commits > 0 || sum.duration_seconds > 0);
    Ok(sums.into_values().collect())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(sum: Option<i64>) -> u64 {
    sum.and_then(|sum| u64::try_from(sum).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
