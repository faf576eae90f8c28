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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use router_api::InboxKey;

    use super::*;
    use crate::{inbox_keys::InboxKeys, schema, settle::remember, writer::Writing};

    fn conn() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        schema::migrate(&conn).unwrap();
        conn
    }

    fn route() -> RouteName {
        "a".parse().unwrap()
    }

    fn key(event: &str, ordinal: u32) -> LedgerKey {
        LedgerKey { subject: LedgerKey::of_event(event), effect: "http".to_owned(), ordinal, digest: "d".to_owned() }
    }

    fn result(bytes: usize) -> LedgerResult {
        LedgerResult { at: Timestamp::UNIX_EPOCH, summary: "HTTP 201".to_owned(), reply: Some(vec![7; bytes].into()), is_final: true }
    }

    fn events_left(conn: &Connection) -> Vec<String> {
        let mut statement = conn.prepare("SELECT subject FROM ledger ORDER BY number").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_write_is_known_from_its_intent_on_and_forgotten_alone_or_with_its_event() {
        let conn = conn();
        assert_eq!(begin(&conn, &route(), &key("e", 0), 5).unwrap(), None);
        assert_eq!(begin(&conn, &route(), &key("e", 0), 9).unwrap().map(|entry| (entry.begun_at, entry.result)), Some((timestamp(5), None)));
        end(&conn, &route(), &key("e", 0), &result(3)).unwrap();
        assert_eq!(begin(&conn, &route(), &key("e", 0), 9).unwrap().and_then(|entry| entry.result), Some(result(3)));
        begin(&conn, &route(), &key("e", 1), 6).unwrap();
        begin(&conn, &"b".parse().unwrap(), &key("e", 0), 7).unwrap();
        forget(&conn, &route(), &[key("e", 0)]).unwrap();
        assert_eq!(of(&conn, &route(), "event:e").unwrap().into_iter().map(|entry| entry.key).collect::<Vec<_>>(), [key("e", 1)]);
        let done = InboxKey { key: "e".to_owned(), expires_at: Timestamp::MAX };
        let writing = Writing { conn: &conn, now: 0, inbox_keys: &InboxKeys::default() };
        remember(&writing, &route(), &done).unwrap();
        assert_eq!(events_left(&conn), ["event:e"], "that of the other route");
    }

    #[test]
    fn the_oldest_go_when_they_are_too_old_or_too_many() {
        let conn = conn();
        for number in 0..10 {
            let key = key(&format!("e{number}"), 0);
            begin(&conn, &route(), &key, number * 100).unwrap();
            end(&conn, &route(), &key, &result(1_000)).unwrap();
        }
        assert!(!retain(&conn, 250, i64::MAX, 500).unwrap());
        assert_eq!(events_left(&conn).first().map(String::as_str), Some("event:e3"));
        assert!(retain(&conn, 0, 3 * (1_000 + ROW_BYTES), 2).unwrap(), "there is more");
        assert_eq!(events_left(&conn).len(), 5);
        assert!(!retain(&conn, 0, 3 * (1_000 + ROW_BYTES), 500).unwrap());
        assert_eq!(events_left(&conn), ["event:e7", "event:e8", "event:e9"]);
    }

    #[test]
    fn looking_for_writes_seeks_in_the_index() {
        let conn = conn();
        for sql in ["SELECT 1 FROM ledger WHERE route = ?1 AND subject = ?2", "DELETE FROM ledger WHERE route = ?1 AND subject = ?2"] {
            let plan: String = conn.query_row(&format!("EXPLAIN QUERY PLAN {sql}"), ["a", "b"], |row| row.get(3)).unwrap();
            assert!(plan.contains("(route=? AND subject=?)"), "{plan}");
        }
    }
}
