//! Events that passed on a bus, and what became of them: the archive of a store that does not own the queues.
//!
//! An event and its fates are joined by the identity that its deliveries have, since either may come first: whoever follows the bus may
//! lag behind the routes. Two publications of the same event share their fates.

use std::collections::{BTreeMap, HashMap};

use router_api::{ArchiveEntry, DecodeLimits, DeliveryRecord, DeliveryState, Fate, FateRecord, RouteName};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    event_row::{EventRow, Extracted, WANTED_UNKNOWN},
    intake::decode,
    schema,
    store_time::timestamp,
};

/// In `meta`: the offset of the last event that was kept.
const POSITION: &str = "archive_position";

/// An event that was seen, ready to be inserted.
pub(crate) struct SeenRow {
    place: i64,
    identity: String,
    wanted: i64,
    event: EventRow,
}

/// Decodes what came, in the caller's task.
pub(crate) fn rows(events: Vec<ArchiveEntry>, limits: DecodeLimits) -> Vec<SeenRow> {
    let row = |ArchiveEntry { event, redactions, wanted }: ArchiveEntry| {
        let extracted = decode(&event.key, &event.body, limits).as_ref().map(Extracted::of).unwrap_or_default();
        SeenRow {
            place: i64::try_from(event.offset).unwrap_or(i64::MAX),
            wanted: wanted.map_or(WANTED_UNKNOWN, i64::from),
            event: EventRow::new(event.key, event.body, event.stored_at.as_microsecond(), event.hops, redactions, event.traceparent, extracted),
            identity: event.identity,
        }
    };
    events.into_iter().map(row).collect()
}

/// See [`router_api::Store::archive_position`].
pub(crate) fn position(conn: &Connection) -> rusqlite::Result<Option<u64>> {
    Ok(schema::meta(conn, POSITION)?.and_then(|position| u64::try_from(position).ok()))
}

/// See [`router_api::Store::archive`].
pub(crate) fn keep(conn: &Connection, rows: &[SeenRow]) -> rusqlite::Result<()> {
    let mut position = schema::meta(conn, POSITION)?;
    let mut statement = conn.prepare_cached("INSERT INTO seen (seq, place, identity) VALUES (?1, ?2, ?3)")?;
    for row in rows {
        if position.is_some_and(|position| row.place <= position) {
            continue;
        }
        let seq = row.event.insert(conn, row.wanted)?;
        statement.execute(params![seq, row.place, row.identity])?;
        position = Some(row.place);
    }
    match position {
        Some(position) => schema::set_meta(conn, POSITION, position),
        None => Ok(()),
    }
}

/// See [`router_api::Store::record_fates`]; each with its state as JSON.
pub(crate) fn note_fates(conn: &Connection, fates: &[(String, FateRecord)], now: i64) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO fates (identity, route, state, attempts, at, is_done, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (identity, route) DO UPDATE
            SET state = excluded.state, attempts = excluded.attempts, at = excluded.at, is_done = excluded.is_done
            WHERE NOT (is_done AND ?8)",
    )?;
    for (state, FateRecord { identity, record }) in fates {
        let is_duplicate = matches!(record.state, DeliveryState::Finished(Fate::Duplicate { .. }));
        let is_done = matches!(record.state, DeliveryState::Finished(_)) && !is_duplicate;
        statement.execute(params![identity, record.route.as_str(), state, record.attempts, record.at.as_microsecond(), is_done, now, is_duplicate,])?;
    }
    Ok(())
}

/// What became of an event that was seen; nothing for one that the store was given itself. `running` are handlings under way, by route
/// and identity.
pub(crate) fn deliveries(conn: &Connection, seq: i64, running: &HashMap<(String, String), i64>) -> rusqlite::Result<Vec<DeliveryRecord>> {
    let identity: Option<String> = conn.prepare_cached("SELECT identity FROM seen WHERE seq = ?1")?.query_row([seq], |row| row.get(0)).optional()?;
    let Some(identity) = identity else { return Ok(Vec::new()) };
    let mut records = BTreeMap::new();
    let mut statement = conn.prepare_cached("SELECT route, state, attempts, at FROM fates WHERE identity = ?1")?;
    let mut rows = statement.query([&identity])?;
    while let Some(row) = rows.next()? {
        let (route, state): (String, String) = (row.get(0)?, row.get(1)?);
        match (route.parse::<RouteName>(), serde_json::from_str(&state)) {
            (Ok(route), Ok(state)) => {
                let attempts = u32::try_from(row.get::<_, i64>(2)?).unwrap_or(u32::MAX);
                records.insert(route.clone(), DeliveryRecord { route, state, attempts, at: timestamp(row.get(3)?) });
            }
            _ => tracing::error!(seq, route, state, "the fate of an event cannot be read"),
        }
    }
    // What runs says so itself; it is written down only when it has ended.
    for ((route, _), since) in running.iter().filter(|((_, running), _)| *running == identity) {
        let Ok(route) = route.parse::<RouteName>() else { continue };
        let attempts = records.get(&route).map_or(0, |record: &DeliveryRecord| record.attempts);
        let state = DeliveryState::InHand { running_since: Some(timestamp(*since)), attempt: attempts.saturating_add(1) };
        records.insert(route.clone(), DeliveryRecord { route, state, attempts, at: timestamp(*since) });
    }
    Ok(records.into_values().collect())
}

/// Forgets where an event was seen, and its fates if it was the only one with its identity.
pub(crate) fn remove(conn: &Connection, seq: i64) -> rusqlite::Result<()> {
    let identity: Option<String> = conn.prepare_cached("DELETE FROM seen WHERE seq = ?1 RETURNING identity")?.query_row([seq], |row| row.get(0)).optional()?;
    if let Some(identity) = identity {
        conn.prepare_cached("DELETE FROM fates WHERE identity = ?1 AND NOT EXISTS (SELECT 1 FROM seen WHERE seen.identity = ?1)")?.execute([identity])?;
    }
    Ok(())
}

/// Looks at up to `step` fates above the number `after` that were noted before `until`, and removes those without an event. Returns the
/// number of the last one; `None` at the end.
pub(crate) fn remove_orphans(conn: &Connection, after: i64, until: i64, step: i64) -> rusqlite::Result<Option<i64>> {
    let mut last = None;
    let mut orphans = Vec::new();
    {
        let mut statement = conn.prepare_cached(
            "SELECT number, since, EXISTS (SELECT 1 FROM seen WHERE seen.identity = fates.identity) FROM fates WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?;
        let mut rows = statement.query(params![after, step])?;
        while let Some(row) = rows.next()? {
            // Later numbers are younger: a walk over all of them would find nothing more.
            if row.get::<_, i64>(1)? >= until {
                break;
            }
            let number: i64 = row.get(0)?;
            if !row.get::<_, bool>(2)? {
                orphans.push(number);
            }
            last = Some(number);
        }
    }
    if !orphans.is_empty() {
        let tx = conn.unchecked_transaction()?;
        {
            let mut statement = tx.prepare_cached("DELETE FROM fates WHERE number = ?1")?;
            orphans.iter().try_for_each(|number| statement.execute([number]).map(|_| ()))?;
        }
        tx.commit()?;
    }
    Ok(last)
}
