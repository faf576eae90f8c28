//! Reads what a [`Plan`] asks for. Runs on a reader thread; decides nothing that outlives it.

use router_api::AttemptRecord;
use rusqlite::{Connection, Row, params};

use crate::{
    event_row::{COLUMNS, StoredEvent},
    queue::{Fetched, Plan, QueuedRow},
};

/// Rows looked at in one go at most, so that a reader is not taken up by one route that passes over a long lane.
const VISITS_MAX: u64 = 10_000;
/// In bytes of bodies; a read ends when it has more in hand.
const BODIES_MAX: usize = 4 * 1024 * 1024;

pub(crate) const DUE: &str = "SELECT id, seq, lane, attempts, direct, handed, history, due_at FROM deliveries
    WHERE state = 1 AND route = ?1 AND due_at >= ?2 AND due_at <= ?3 ORDER BY due_at, id";
pub(crate) const NEXT_DUE: &str = "SELECT due_at FROM deliveries WHERE state = 1 AND route = ?1 AND due_at > ?2 ORDER BY due_at LIMIT 1";
/// Without the hint SQLite walks the whole queue: it does not know that lanes are many and short.
pub(crate) const READY_OF_LANE: &str = "SELECT id, seq, lane, attempts, direct, handed, history, NULL FROM deliveries INDEXED BY deliveries_ready_by_lane
    WHERE state = 0 AND lane IS NOT NULL AND route = ?1 AND lane = ?2 AND id >= ?3 AND id <= ?4 ORDER BY id";
pub(crate) const READY: &str = "SELECT id, seq, lane, attempts, direct, handed, history, NULL FROM deliveries
    WHERE state = 0 AND route = ?1 AND id > ?2 ORDER BY id";

/// Reads rows that may be handed out: first those that fell due, then those of lanes that catch up, then the rest in order.
pub(crate) fn fetch(conn: &Connection, plan: &Plan) -> rusqlite::Result<Fetched> {
    // One for all that follows, else a row could be between two states in none of the queries.
    let _snapshot = Snapshot::begin(conn)?;
    let mut reading = Reading { conn, plan, found: Fetched { cursor: plan.cursor, due_cursor: plan.due_cursor, ..Fetched::default() }, bytes: 0 };
    let is_exhausted = reading.due()? && reading.lanes()? && reading.ready()?;
    let mut found = reading.found;
    found.is_exhausted = is_exhausted;
    found.next_due = conn.prepare_cached(NEXT_DUE)?.query_map(params![plan.route, plan.now], |row| row.get(0))?.next().transpose()?;
    Ok(found)
}

/// A transaction that reads. As `rusqlite`'s own, but its statements are parsed once for a connection and not for each read.
struct Snapshot<'a>(&'a Connection);

impl<'a> Snapshot<'a> {
    fn begin(conn: &'a Connection) -> rusqlite::Result<Self> {
        if !conn.is_autocommit() {
            // The last reading could not be ended.
            conn.execute_batch("ROLLBACK")?;
        }
        conn.prepare_cached("BEGIN")?.raw_execute()?;
        Ok(Self(conn))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let ended = self.0.prepare_cached("ROLLBACK").and_then(|mut statement| statement.raw_execute());
        if let Err(error) = ended {
            // The next reading on this connection tries again.
            tracing::debug!(%error, "a reading was not ended");
        }
    }
}

struct Reading<'a> {
    conn: &'a Connection,
    plan: &'a Plan,
    found: Fetched,
    bytes: usize,
}

impl Reading<'_> {
    /// True if there is nothing more of this kind.
    fn due(&mut self) -> rusqlite::Result<bool> {
        let mut statement = self.conn.prepare_cached(DUE)?;
        let mut rows = statement.query(params![self.plan.route, self.plan.due_cursor.0, self.plan.now])?;
        while let Some(row) = rows.next()? {
            if self.is_enough() {
                return Ok(false);
            }
            let place: (i64, i64) = (row.get(7)?, row.get(0)?);
            if place <= self.plan.due_cursor {
                continue;
            }
            self.found.visited += 1;
            self.found.due_cursor = place;
            match lane_of(row)?.filter(|lane| self.plan.held.contains(lane)) {
                Some(lane) => {
                    self.found.skipped_due.entry(lane).or_insert(place.0);
                }
                None => self.take(row)?,
            }
        }
        Ok(true)
    }

    fn lanes(&mut self) -> rusqlite::Result<bool> {
        for (lane, from) in &self.plan.catch_up {
            if self.is_enough() {
                return Ok(false);
            }
            let mut stands_at = None;
            {
                let mut statement = self.conn.prepare_cached(READY_OF_LANE)?;
                let mut rows = statement.query(params![self.plan.route, lane, from, self.plan.cursor])?;
                while let Some(row) = rows.next()? {
                    if self.is_enough() {
                        stands_at = Some(row.get(0)?);
                        break;
                    }
                    self.found.visited += 1;
                    self.take(row)?;
                }
            }
            let has_caught_up = stands_at.is_none();
            self.found.caught_up.push((lane.clone(), stands_at));
            if !has_caught_up {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn ready(&mut self) -> rusqlite::Result<bool> {
        let mut statement = self.conn.prepare_cached(READY)?;
        let mut rows = statement.query(params![self.plan.route, self.plan.cursor])?;
        while let Some(row) = rows.next()? {
            if self.is_enough() {
                return Ok(false);
            }
            self.found.visited += 1;
            let id: i64 = row.get(0)?;
            self.found.cursor = id;
            match lane_of(row)?.filter(|lane| self.plan.held.contains(lane)) {
                Some(lane) => {
                    self.found.skipped.entry(lane).or_insert(id);
                }
                None => self.take(row)?,
            }
        }
        Ok(true)
    }

    fn is_enough(&self) -> bool {
        self.found.rows.len() >= self.plan.want || self.bytes >= BODIES_MAX || self.found.visited >= VISITS_MAX
    }

    /// Adds a row with its event, unless it is in hand.
    fn take(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let (id, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
        if self.plan.exclude.contains(&id) {
            return Ok(());
        }
        let mut statement = self.conn.prepare_cached(event_sql())?;
        let Some(event) = statement.query_map([seq], StoredEvent::read)?.next().transpose()? else {
            self.found.damaged.push((id, seq));
            return Ok(());
        };
        if !event.is_intact {
            self.found.damaged.push((id, seq));
            return Ok(());
        }
        self.bytes += event.body.len();
        let attempts = u32::try_from(row.get::<_, i64>(3)?).unwrap_or(u32::MAX);
        self.found.rows.push(QueuedRow {
            id,
            lane: lane_of(row)?,
            due_at: row.get(7)?,
            attempts,
            history: history(row.get(6)?),
            direct: row.get(4)?,
            handed: row.get(5)?,
            event,
        });
        Ok(())
    }
}

fn event_sql() -> &'static str {
    static SQL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| format!("SELECT {COLUMNS} FROM events WHERE seq = ?1"));
    &SQL
}

fn lane_of(row: &Row<'_>) -> rusqlite::Result<Option<String>> {
    row.get(2)
}

/// A history as it is stored. What cannot be read is lost, the count of attempts is not.
pub(crate) fn history(text: Option<String>) -> Vec<AttemptRecord> {
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
