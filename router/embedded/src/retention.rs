//! What leaves the archive: events that are too old, or the oldest when there are too many. Likewise writes of the ledger; and inbox
//! keys that have expired.
//!
//! Small steps between commits, so that nobody waits long. An event that a queue or a dead letter still needs never goes.

use std::time::Duration;

use router_api::failpoint::{self, Failpoint};
use rusqlite::{Connection, params};

use crate::{
    ledger, seen,
    store_time::{StoreTime, micros},
};

/// Events looked at, and inbox keys removed, in one step at most.
const STEP: i64 = 500;
/// In bytes of bodies; a step ends when it has gone through more.
const STEP_BYTES: i64 = 16 * 1024 * 1024;
/// When the store is too large, a fate waits no longer than this for an event that has not come.
const FATE_PATIENCE: Duration = Duration::from_secs(3_600);
/// Between two steps while there is something to remove and other work too.
const STEP_EVERY: Duration = Duration::from_millis(250);
/// Between two looks when the last one found nothing more to remove.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pages given back to the file system in one step.
const VACUUM_PAGES: u32 = 256;
/// Free pages that are kept for what comes next: 4 MiB.
const FREE_PAGES_KEPT: i64 = 1_024;

/// Where the walk over the archive stands.
#[derive(Debug)]
pub(crate) struct Retention {
    age: i64,
    bytes_max: i64,
    ledger_bytes_max: i64,
    /// Events up to here were looked at in this walk.
    walked: i64,
    /// Fates up to here were looked at in this walk.
    walked_fates: i64,
    next_at: Option<Duration>,
    pause: Duration,
}

impl Retention {
    pub(crate) fn new(age: Duration, bytes_max: u64, ledger_bytes_max: u64) -> Self {
        let [bytes_max, ledger_bytes_max] = [bytes_max, ledger_bytes_max].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        Self { age: micros(age), bytes_max, ledger_bytes_max, walked: 0, walked_fates: 0, next_at: None, pause: LOOK_EVERY }
    }

    /// How long an idle writer may sleep before the next [`Retention::tick`].
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Does a step if it is time for one.
    pub(crate) fn tick(&mut self, conn: &Connection, time: &StoreTime, is_idle: bool) -> rusqlite::Result<()> {
        let monotonic = time.clock().monotonic();
        match self.next_at {
            Some(at) if monotonic < at => return Ok(()),
            _ => {}
        }
        // Set first, so that an error does not make every commit try again.
        self.pause = LOOK_EVERY;
        self.next_at = Some(monotonic.saturating_add(LOOK_EVERY));
        let is_more = self.step(conn, time.clock().now().as_microsecond(), is_idle)?;
        if is_more {
            self.pause = STEP_EVERY;
            self.next_at = Some(monotonic.saturating_add(STEP_EVERY));
        }
        Ok(())
    }

    /// One step; true if another one would find something to do.
    pub(crate) fn step(&mut self, conn: &Connection, now: i64, is_idle: bool) -> rusqlite::Result<bool> {
        let expired = conn
            .prepare_cached("DELETE FROM inbox WHERE (route, key) IN (SELECT route, key FROM inbox WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)")?
            .execute(params![now, STEP])?;
        let is_more_archive = self.step_archive(conn, now)?;
        let is_more_fates = self.step_fates(conn, now)?;
        let is_more_writes = ledger::retain(conn, now.saturating_sub(self.age), self.ledger_bytes_max, STEP)?;
        let is_more_vacuum = is_idle && vacuum(conn)?;
        Ok(i64::try_from(expired).unwrap_or(i64::MAX) >= STEP || is_more_archive || is_more_fates || is_more_writes || is_more_vacuum)
    }

    fn step_archive(&mut self, conn: &Connection, now: i64) -> rusqlite::Result<bool> {
        let cutoff = if bytes_in_use(conn)? > self.bytes_max { i64::MAX } else { now.saturating_sub(self.age) };
        let mut candidates: Vec<(i64, bool)> = Vec::new();
        {
            // The age is asked here and not in SQL, where a young archive would be walked from end to end to find nothing.
            let mut statement = conn.prepare_cached(
                "SELECT seq, stored_at, length(body), EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = events.seq AND d.state <> 2)
                 FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let mut rows = statement.query(params![self.walked, STEP])?;
            let mut bytes = 0i64;
            while let Some(row) = rows.next()? {
                let (stored_at, length): (i64, i64) = (row.get(1)?, row.get(2)?);
                if stored_at >= cutoff || bytes > STEP_BYTES {
                    break;
                }
                candidates.push((row.get(0)?, row.get(3)?));
                bytes = bytes.saturating_add(length);
            }
        }
        let Some((last, _)) = candidates.last().copied() else {
            // The end of the walk: what was still needed is looked at again in the next one.
            self.walked = 0;
            return Ok(false);
        };
        failpoint::pass(Failpoint::RetentionBefore);
        let tx = conn.unchecked_transaction()?;
        {
            let mut deliveries = tx.prepare_cached("DELETE FROM deliveries WHERE seq = ?1 AND state = 2")?;
            let mut events = tx.prepare_cached("DELETE FROM events WHERE seq = ?1")?;
            for (seq, _) in candidates.iter().filter(|(_, is_needed)| !is_needed) {
                deliveries.execute([seq])?;
                seen::remove(&tx, *seq)?;
                events.execute([seq])?;
            }
        }
        failpoint::pass(Failpoint::RetentionApplied);
        tx.commit()?;
        failpoint::pass(Failpoint::RetentionAfter);
        self.walked = last;
        Ok(true)
    }
}

impl Retention {
    /// Fates whose event never came, since the bus had dropped it before it was copied, or another one follows it.
    fn step_fates(&mut self, conn: &Connection, now: i64) -> rusqlite::Result<bool> {
        let age = if bytes_in_use(conn)? > self.bytes_max { self.age.min(micros(FATE_PATIENCE)) } else { self.age };
        let looked = seen::remove_orphans(conn, self.walked_fates, now.saturating_sub(age), STEP)?;
        self.walked_fates = looked.unwrap_or(0);
        Ok(looked.is_some())
    }
}

/// In bytes; pages that wait to be used again do not count.
fn bytes_in_use(conn: &Connection) -> rusqlite::Result<i64> {
    let number = |pragma: &str| -> rusqlite::Result<i64> { conn.prepare_cached(pragma)?.query_row([], |row| row.get(0)) };
    Ok(number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?).saturating_mul(number("PRAGMA page_size")?))
}

/// Gives some free pages back to the file system; true if there are more.
fn vacuum(conn: &Connection) -> rusqlite::Result<bool> {
    let free: i64 = conn.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?;
    if free <= FREE_PAGES_KEPT {
        return Ok(false);
    }
    // Each step of this statement gives back one page.
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut steps = statement.query([])?;
    while steps.next()?.is_some() {}
    drop(steps);
    let left: i64 = conn.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?;
    Ok(left > FREE_PAGES_KEPT && left < free)
}
