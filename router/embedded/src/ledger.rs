//! The ledger's rows: what writes of handlings were begun, and what came of them.
//!
//! A row goes when its event is remembered as done (see [`crate::settle::remember`]), when its handling says so, or when it is among
//! the oldest of too many. Rows are numbered in the order of their beginnings, so that the oldest are found without an index.

use router_api::{LedgerEntry, LedgerKey, LedgerResult, RouteName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::store_time::timestamp;

/// What a row takes beside its reply, in bytes, roughly: its columns and its place in the index.
const ROW_BYTES: i64 = 512;

/// Inserts the row of an intent; returns the row that is there already.
pub(crate) fn begin(conn: &Connection, route: &RouteName, key: &LedgerKey, begun_at: i64) -> rusqlite::Result<Option<LedgerEntry>> {
    let inserted = conn
        .prepare_cached(
            "INSERT INTO ledger (route, subject, effect, ordinal, digest, begun_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (route, subject, effect, ordinal, digest) DO NOTHING",
        )?
        .execute(params![route.as_str(), key.subject, key.effect, key.ordinal, key.digest, begun_at])?;
    if inserted > 0 {
        return Ok(None);
    }
    conn.prepare_cached(
        "SELECT subject, effect, ordinal, digest, begun_at, done_at, summary, is_final, reply FROM ledger
         WHERE route = ?1 AND subject = ?2 AND effect = ?3 AND ordinal = ?4 AND digest = ?5",
    )?
    .query_row(params![route.as_str(), key.subject, key.effect, key.ordinal, key.digest], entry)
    .optional()
}

/// Notes a result in the row that is there.
pub(crate) fn end(conn: &Connection, route: &RouteName, key: &LedgerKey, result: &LedgerResult) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE ledger SET done_at = ?6, summary = ?7, is_final = ?8, reply = ?9
         WHERE route = ?1 AND subject = ?2 AND effect = ?3 AND ordinal = ?4 AND digest = ?5",
    )?
    .execute(params![
        route.as_str(),
        key.subject,
        key.effect,
        key.ordinal,
        key.digest,
        result.at.as_microsecond(),
        result.summary,
        result.is_final,
        result.reply.as_deref()
    ])
    .map(|_| ())
}

/// Removes single rows.
pub(crate) fn forget(conn: &Connection, route: &RouteName, keys: &[LedgerKey]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("DELETE FROM ledger WHERE route = ?1 AND subject = ?2 AND effect = ?3 AND ordinal = ?4 AND digest = ?5")?;
    keys.iter().try_for_each(|key| statement.execute(params![route.as_str(), key.subject, key.effect, key.ordinal, key.digest]).map(|_| ()))
}

/// Removes all rows of an event or burst.
pub(crate) fn clear(conn: &Connection, route: &RouteName, subject: &str) -> rusqlite::Result<u64> {
    let removed = conn.prepare_cached("DELETE FROM ledger WHERE route = ?1 AND subject = ?2")?.execute(params![route.as_str(), subject])?;
    Ok(removed as u64)
}

/// All rows of an event or burst.
pub(crate) fn of(conn: &Connection, route: &RouteName, subject: &str) -> rusqlite::Result<Vec<LedgerEntry>> {
    let mut statement = conn.prepare_cached(
        "SELECT subject, effect, ordinal, digest, begun_at, done_at, summary, is_final, reply FROM ledger
         WHERE route = ?1 AND subject = ?2 ORDER BY number",
    )?;
    let rows = statement.query_map(params![route.as_str(), subject], entry)?;
    rows.collect()
}

/// Removes up to `count` of the oldest rows, as far as they are older than `cutoff`, or the ledger is longer than `bytes_max`. Returns
/// true if there may be more.
pub(crate) fn retain(conn: &Connection, cutoff: i64, bytes_max: i64, count: i64) -> rusqlite::Result<bool> {
    let bytes: i64 = conn.prepare_cached("SELECT coalesce(sum(length(reply)), 0) + ?1 * count(*) FROM ledger")?.query_row([ROW_BYTES], |row| row.get(0))?;
    let cutoff = if bytes > bytes_max { i64::MAX } else { cutoff };
    let mut excess = bytes.saturating_sub(bytes_max);
    let mut last = None;
    {
        let mut statement = conn.prepare_cached("SELECT number, begun_at, coalesce(length(reply), 0) FROM ledger ORDER BY number LIMIT ?1")?;
        let mut rows = statement.query([count])?;
        while let Some(row) = rows.next()? {
            let begun_at: i64 = row.get(1)?;
            if begun_at >= cutoff || (cutoff == i64::MAX && excess <= 0) {
                break;
            }
            excess = excess.saturating_sub(row.get::<_, i64>(2)?.saturating_add(ROW_BYTES));
            last = Some(row.get::<_, i64>(0)?);
        }
    }
    let Some(last) = last else { return Ok(false) };
    let removed = conn.prepare_cached("DELETE FROM ledger WHERE number <= ?1")?.execute([last])?;
    Ok(i64::try_from(removed).unwrap_or(i64::MAX) >= count)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let key = LedgerKey { subject: row.get(0)?, effect: row.get(1)?, ordinal: row.get(2)?, digest: row.get(3)? };
    let result = match row.get::<_, Option<i64>>(5)? {
        Some(at) => Some(LedgerResult {
            at: timestamp(at),
            summary: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
            is_final: row.get(7)?,
            reply: row.get::<_, Option<Vec<u8>>>(8)?.map(Into::into),
        }),
        None => None,
    };
    Ok(LedgerEntry { key, begun_at: timestamp(row.get(4)?), result })
}
