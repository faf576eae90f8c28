//! Takes what can be read out of a damaged store into a new one, row by row.
//!
//! Events are believed when their own checksum fits. Everything else has none: it is believed when its page is what was written, so the
//! pages that are not are blotted out before it is read, and what stood on them is lost rather than wrong.

use std::collections::BTreeMap;

use router_api::DecodeLimits;
use rusqlite::{Connection, params, params_from_iter, types::Value};

use crate::{
    event_row::{COLUMNS, EventRow, Extracted, StoredEvent},
    intake::decode,
    schema,
};

/// Places behind which a table is tried again.
const BREAKS_MAX: usize = 100_000;

/// What was taken out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// Rows, by table.
    pub(crate) rows: BTreeMap<String, u64>,
    /// Tables of which a part could not be read.
    pub(crate) torn: Vec<String>,
}

/// Copies the events whose checksum fits.
pub(crate) fn events(from: &Connection, to: &Connection, salvaged: &mut Salvaged) -> rusqlite::Result<()> {
    let sql = format!("SELECT {COLUMNS}, wanted FROM events WHERE seq > ?1 ORDER BY seq");
    let mut insert = to.prepare("UPDATE events SET seq = ?2 WHERE seq = ?1")?;
    let mut taken = 0u64;
    let is_torn = walk(from, "events", &sql, |row| {
        let event = StoredEvent::read(row)?;
        let wanted = row.get::<_, Option<i64>>(9).ok().flatten().unwrap_or(-1);
        if !event.is_intact || event.seq < 1 {
            return Ok(());
        }
        let extracted = decode(&event.key, &event.body, DecodeLimits::default()).as_ref().map(Extracted::of).unwrap_or_default();
        let extracted = Extracted { event_id: event.event_id, ..extracted };
        let fresh = EventRow::new(event.key, event.body, event.stored_at, event.hops, event.redactions, event.traceparent, extracted);
        let number = fresh.insert(to, wanted)?;
        insert.execute(params![number, event.seq])?;
        taken += 1;
        Ok(())
    })?;
    salvaged.rows.insert("events".to_owned(), taken);
    if is_torn {
        salvaged.torn.push("events".to_owned());
    }
    Ok(())
}

/// Copies all other tables that both know, as far as they can be read.
pub(crate) fn others(from: &Connection, to: &Connection, salvaged: &mut Salvaged) -> rusqlite::Result<()> {
    let tables: Vec<(String, bool)> = to
        .prepare(
            "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'events' ORDER BY name",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (table, is_without_rowid) in tables {
        let columns = columns(to, &table)?;
        let there = columns_of(from, &table);
        let shared: Vec<&str> = columns.iter().map(String::as_str).filter(|column| there.iter().any(|there| there == column)).collect();
        if shared.is_empty() {
            continue;
        }
        let list = shared.join(", ");
        let marks: Vec<String> = (1..=shared.len()).map(|number| format!("?{number}")).collect();
        let mut insert = to.prepare(&format!("INSERT OR IGNORE INTO {table} ({list}) VALUES ({})", marks.join(", ")))?;
        let mut taken = 0u64;
        let is_torn = if is_without_rowid {
            let mut put = |row: &rusqlite::Row<'_>| -> rusqlite::Result<()> {
                taken += insert.execute(params_from_iter(values(row, 0, shared.len())?))? as u64;
                Ok(())
            };
            // From both ends: what lies between two unreadable places is lost.
            let keys = keys(to, &table)?;
            let order = |direction: &str| keys.iter().map(|key| format!("{key} {direction}")).collect::<Vec<_>>().join(", ");
            let is_torn = each(from, &format!("SELECT {list} FROM {table} ORDER BY {}", order("ASC")), [], &mut put)?;
            if is_torn {
                each(from, &format!("SELECT {list} FROM {table} ORDER BY {}", order("DESC")), [], &mut put)?;
            }
            is_torn
        } else {
            walk(from, &table, &format!("SELECT rowid, {list} FROM {table} WHERE rowid > ?1 ORDER BY rowid"), |row| {
                taken += insert.execute(params_from_iter(values(row, 1, shared.len())?))? as u64;
                Ok(())
            })?
        };
        salvaged.rows.insert(table.clone(), taken);
        if is_torn {
            salvaged.torn.push(table);
        }
    }
    Ok(())
}

/// Why a row was not taken.
enum Stopped {
    /// The damaged store could not give it.
    Reading,
    /// The new one could not take it.
    Writing(rusqlite::Error),
}

/// Gives every row to `put`; true if reading ended before its end.
fn each<P: rusqlite::Params>(
    from: &Connection,
    sql: &str,
    params: P,
    put: &mut dyn FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<bool> {
    match try_each(from, sql, params, put) {
        Ok(()) => Ok(false),
        Err(Stopped::Reading) => Ok(true),
        Err(Stopped::Writing(error)) => Err(error),
    }
}

fn try_each<P: rusqlite::Params>(
    from: &Connection,
    sql: &str,
    params: P,
    put: &mut dyn FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), Stopped> {
    let reading = |_| Stopped::Reading;
    let mut statement = from.prepare(sql).map_err(reading)?;
    let mut rows = statement.query(params).map_err(reading)?;
    while let Some(row) = rows.next().map_err(reading)? {
        put(row).map_err(Stopped::Writing)?;
    }
    Ok(())
}

/// Gives every row that can be read to `put`, in the order of the rowid that stands first, and goes on behind what cannot. True if there
/// was something that could not.
fn walk(from: &Connection, table: &str, sql: &str, mut put: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>) -> rusqlite::Result<bool> {
    let mut after = i64::MIN;
    let mut is_torn = false;
    for _ in 0..BREAKS_MAX {
        let mut last = after;
        let mut keep = |row: &rusqlite::Row<'_>| {
            let number = row.get::<_, i64>(0).unwrap_or(last);
            put(row)?;
            last = last.max(number);
            Ok(())
        };
        if !each(from, sql, [after], &mut keep)? {
            return Ok(is_torn);
        }
        is_torn = true;
        match readable_behind(from, table, last) {
            Some(number) if number > last => after = number - 1,
            _ => return Ok(true),
        }
    }
    Ok(is_torn)
}

/// The next number behind `last` that can be read.
fn readable_behind(from: &Connection, table: &str, last: i64) -> Option<i64> {
    let sql = format!("SELECT rowid FROM {table} WHERE rowid >= ?1 ORDER BY rowid LIMIT 1");
    let mut statement = from.prepare(&sql).ok()?;
    // `Err` where it cannot be read.
    let mut ask = |number: i64| -> Result<Option<i64>, ()> {
        let mut rows = statement.query([number]).map_err(|_| ())?;
        rows.next().map_err(|_| ())?.map(|row| row.get(0).map_err(|_| ())).transpose()
    };
    let (mut bad, mut step) = (last.max(0), 1i64);
    let mut good = loop {
        let number = bad.checked_add(step)?;
        match ask(number) {
            Ok(Some(found)) => break found.max(number),
            Ok(None) => {
                // Behind the end, or the end cannot be told from what is torn: nearer numbers may be readable.
                if step == 1 {
                    return None;
                }
                break number;
            }
            Err(()) => {
                bad = number;
                step = step.checked_mul(2)?;
            }
        }
    };
    // The first that can be read lies between; what is torn is torn as a whole.
    let mut low = bad;
    while good - low > 1 {
        let middle = low + (good - low) / 2;
        match ask(middle) {
            Ok(_) => good = middle,
            Err(()) => low = middle,
        }
    }
    ask(good).ok().flatten()
}

fn values(row: &rusqlite::Row<'_>, first: usize, count: usize) -> rusqlite::Result<Vec<Value>> {
    (first..first + count).map(|column| row.get::<_, Value>(column)).collect()
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY cid")?.query_map([table], |row| row.get(0))?.collect()
}

/// None where the store cannot say.
fn columns_of(conn: &Connection, table: &str) -> Vec<String> {
    columns(conn, table).unwrap_or_default()
}

fn keys(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")?.query_map([table], |row| row.get(0))?.collect()
}

/// What refers to what is not there goes. Events that were dead letters and have none any more are queued again. Returns how many.
pub(crate) fn settle_references(conn: &Connection) -> rusqlite::Result<u64> {
    for sql in [
        "DELETE FROM deliveries WHERE seq NOT IN (SELECT seq FROM events) OR route NOT IN (SELECT id FROM routes)",
        "DELETE FROM dead_letters WHERE delivery NOT IN (SELECT id FROM deliveries WHERE state = 3)",
        "DELETE FROM seen WHERE seq NOT IN (SELECT seq FROM events)",
        "DELETE FROM session_slots WHERE session NOT IN (SELECT number FROM sessions)",
        "DELETE FROM session_tools WHERE session NOT IN (SELECT number FROM sessions)",
    ] {
        conn.execute(sql, [])?;
    }
    let again =
        conn.execute("UPDATE deliveries SET state = 0, due_at = NULL, handed = 1 WHERE state = 3 AND id NOT IN (SELECT delivery FROM dead_letters)", [])?;
    Ok(again as u64)
}

/// Numbers are not given out again: those of events, deliveries and letters go on where they were.
pub(crate) fn keep_numbers(from: &Connection, to: &Connection, last: u64) -> rusqlite::Result<()> {
    schema::skip_seq(to, i64::try_from(last).unwrap_or(i64::MAX - 1))?;
    let read = || -> rusqlite::Result<Vec<(String, i64)>> {
        from.prepare("SELECT name, seq FROM sqlite_sequence")?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    for (table, last) in read().unwrap_or_default() {
        if to.execute("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1", params![table, last])? == 0 {
            to.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", params![table, last])?;
        }
    }
    Ok(())
}
