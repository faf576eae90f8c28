//! Questions to the archive: which events came, and what became of each.

use router_api::{ArchivedEvent, DeadLetter, DeliveryRecord, DeliveryState, EventQuery, Fate};
use rusqlite::{Connection, Row, ToSql, params, params_from_iter};

use crate::{
    event_row::{COLUMNS, StoredEvent},
    fetch::history,
    schema::state,
    store_time::timestamp,
};

/// Events listed if the query does not say.
const LISTED: u32 = 20;
/// Events listed at most.
const LISTED_MAX: u32 = 10_000;
/// Characters of an id that are enough to look for it.
const PREFIX_MIN: usize = 4;

pub(crate) const UNMATCHED: &str = "SELECT seq, key FROM events WHERE wanted = 0 ORDER BY seq DESC";
/// The upper end is the greatest character that there is, which no id holds.
pub(crate) const BY_ID_PREFIX: &str =
    "SELECT seq FROM events WHERE event_id IS NOT NULL AND event_id >= ?1 AND event_id < ?1 || char(1114111) ORDER BY seq DESC LIMIT ?2";

/// See [`router_api::Store::events`].
pub(crate) fn events(conn: &Connection, query: &EventQuery, now: i64) -> rusqlite::Result<Vec<ArchivedEvent>> {
    let snapshot = conn.unchecked_transaction()?;
    let limit = query.last.unwrap_or(LISTED).min(LISTED_MAX) as usize;
    let (sql, values): (&str, Vec<&dyn ToSql>) = match (&query.session, query.unmatched) {
        (Some(session), false) => ("SELECT seq, key FROM events WHERE session IS NOT NULL AND session = ?1 ORDER BY seq DESC", vec![session]),
        (Some(session), true) => ("SELECT seq, key FROM events WHERE session IS NOT NULL AND session = ?1 AND wanted = 0 ORDER BY seq DESC", vec![session]),
        (None, true) => (UNMATCHED, Vec::new()),
        (None, false) => ("SELECT seq, key FROM events ORDER BY seq DESC", Vec::new()),
    };
    let mut seqs = Vec::new();
    {
        let mut statement = snapshot.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while seqs.len() < limit
            && let Some(row) = rows.next()?
        {
            let fits = match &query.pattern {
                Some(pattern) => row.get_ref(1)?.as_str().ok().and_then(|key| key.parse().ok()).is_some_and(|key| pattern.matches(&key)),
                None => true,
            };
            if fits {
                seqs.push(row.get(0)?);
            }
        }
    }
    read_all(&snapshot, &seqs, now)
}

/// See [`router_api::Store::event`].
pub(crate) fn event(conn: &Connection, reference: &str, now: i64) -> rusqlite::Result<Vec<ArchivedEvent>> {
    let snapshot = conn.unchecked_transaction()?;
    if let Ok(seq) = reference.parse::<i64>() {
        let found = read_all(&snapshot, &[seq], now)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let seqs: Vec<i64> = if reference.chars().count() >= PREFIX_MIN {
        snapshot.prepare_cached(BY_ID_PREFIX)?.query_map(params![reference, LISTED], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    } else {
        let sql = "SELECT seq FROM events WHERE event_id IS NOT NULL AND event_id = ?1 ORDER BY seq DESC LIMIT ?2";
        snapshot.prepare_cached(sql)?.query_map(params![reference, LISTED], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    };
    read_all(&snapshot, &seqs, now)
}

fn read_all(conn: &Connection, seqs: &[i64], now: i64) -> rusqlite::Result<Vec<ArchivedEvent>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM events WHERE seq = ?1"))?;
    let mut events = Vec::new();
    for seq in seqs {
        let Some(event) = statement.query_map([seq], StoredEvent::read)?.next().transpose()? else { continue };
        if !event.is_intact {
            tracing::warn!(seq, "the stored bytes of this event are damaged");
        }
        events.push(ArchivedEvent {
            seq: u64::try_from(event.seq).unwrap_or(0),
            id: event.event_id,
            key: event.key,
            body: event.body,
            stored_at: timestamp(event.stored_at),
            hops: event.hops,
            redactions: event.redactions,
            deliveries: deliveries(conn, *seq, now)?,
        });
    }
    Ok(events)
}

fn deliveries(conn: &Connection, seq: i64, now: i64) -> rusqlite::Result<Vec<DeliveryRecord>> {
    let mut statement = conn.prepare_cached(
        "SELECT r.name AS route, d.state, d.attempts, d.at, d.due_at, d.history, d.fate, l.id AS letter_id, l.letter
         FROM deliveries d JOIN routes r ON r.id = d.route LEFT JOIN dead_letters l ON l.delivery = d.id
         WHERE d.seq = ?1 ORDER BY r.name, d.id",
    )?;
    let rows = statement.query_map([seq], |row| delivery(row, now))?;
    rows.filter_map(Result::transpose).collect()
}

/// `None` for a row that cannot be read, which is logged.
fn delivery(row: &Row<'_>, now: i64) -> rusqlite::Result<Option<DeliveryRecord>> {
    let Ok(route) = row.get::<_, String>("route")?.parse() else { return Ok(None) };
    let mut at: i64 = row.get("at")?;
    let mut attempts = u32::try_from(row.get::<_, i64>("attempts")?).unwrap_or(u32::MAX);
    let state = match row.get::<_, i64>("state")? {
        state::READY => DeliveryState::Queued,
        state::WAITING => {
            at = row.get::<_, Option<i64>>("due_at")?.unwrap_or(at);
            if at <= now { DeliveryState::Queued } else { DeliveryState::Waiting { error: history(row.get("history")?).pop().map(|attempt| attempt.error) } }
        }
        state::DONE => match row.get::<_, Option<String>>("fate")?.map(|fate| serde_json::from_str::<Fate>(&fate)) {
            Some(Ok(fate)) => DeliveryState::Finished(fate),
            trouble => {
                tracing::error!(?trouble, "the fate of a delivery cannot be read");
                return Ok(None);
            }
        },
        _ => {
            let id: Option<i64> = row.get("letter_id")?;
            match (id, row.get::<_, Option<String>>("letter")?.map(|letter| serde_json::from_str::<DeadLetter>(&letter))) {
                (Some(id), Some(Ok(letter))) => {
                    attempts = letter.attempts;
                    DeliveryState::Dead { id: id.to_string(), reason: letter.reason }
                }
                (_, trouble) => {
                    tracing::error!(?trouble, "the dead letter of a delivery cannot be read");
                    return Ok(None);
                }
            }
        }
    };
    Ok(Some(DeliveryRecord { route, state, attempts, at: timestamp(at) }))
}
