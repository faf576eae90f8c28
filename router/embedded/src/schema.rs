//! What is in the file, by version. A version that was released never changes: what is new comes as a further migration.

use router_api::failpoint::{self, Failpoint};
use rusqlite::{Connection, OptionalExtension, params};

/// Stands in the file's header and says whose it is: `evrt`.
pub(crate) const APPLICATION_ID: i32 = 0x6576_7274;

/// The newest schema that this program knows.
pub(crate) const KNOWN: i64 = MIGRATIONS.len() as i64;

/// States of a delivery, as the column `state` has them.
pub(crate) mod state {
    /// To be handed out in the order of `id`.
    pub(crate) const READY: i64 = 0;
    /// To be handed out when `due_at` is reached.
    pub(crate) const WAITING: i64 = 1;
    /// Finished, with a fate.
    pub(crate) const DONE: i64 = 2;
    /// Has a row in `dead_letters`.
    pub(crate) const DEAD: i64 = 3;
}

/// Each brings the file from the version of its index to the next.
const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5, V6];

/// Partial indexes keep the queue small beside a large archive: a finished delivery is in none of them.
/// `events.body` is the last column, so that the others are read without walking the pages of a large body.
/// `deliveries.id` is never used twice, since it is the identity that a handler may have seen.
const V1: &str = "
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE routes (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    patterns TEXT,                          -- JSON list; NULL when the route is not bound
    queue INTEGER NOT NULL DEFAULT 1        -- 0 once its queue was removed
);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    stored_at INTEGER NOT NULL,
    hops INTEGER NOT NULL,
    redactions INTEGER NOT NULL,
    wanted INTEGER NOT NULL,                -- how many routes got it at intake
    event_id TEXT,
    dialect TEXT,                           -- NULL when the body did not decode
    event_type TEXT,
    session TEXT,
    happened_at INTEGER,
    tool_name TEXT,
    traceparent TEXT,
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX events_by_id ON events(event_id) WHERE event_id IS NOT NULL;
CREATE INDEX events_by_session ON events(session) WHERE session IS NOT NULL;
CREATE INDEX events_unmatched ON events(wanted) WHERE wanted = 0;

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route INTEGER NOT NULL REFERENCES routes(id),
    seq INTEGER NOT NULL REFERENCES events(seq),
    state INTEGER NOT NULL,
    lane TEXT,
    due_at INTEGER,                         -- of state 1
    at INTEGER NOT NULL,                    -- when the state was reached
    attempts INTEGER NOT NULL DEFAULT 0,
    direct INTEGER NOT NULL DEFAULT 0,
    handed INTEGER NOT NULL DEFAULT 0,      -- known to have been handed out before
    history TEXT,                           -- JSON list; NULL when empty
    fate TEXT                               -- JSON; of state 2
);
CREATE INDEX deliveries_ready ON deliveries(route, id) WHERE state = 0;
CREATE INDEX deliveries_ready_by_lane ON deliveries(route, lane, id) WHERE state = 0 AND lane IS NOT NULL;
CREATE INDEX deliveries_waiting ON deliveries(route, due_at, id) WHERE state = 1;
CREATE INDEX deliveries_by_event ON deliveries(seq);

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery INTEGER NOT NULL UNIQUE REFERENCES deliveries(id),
    route INTEGER NOT NULL REFERENCES routes(id),
    reason TEXT NOT NULL,
    letter TEXT NOT NULL                    -- JSON
);
CREATE INDEX dead_letters_by_route ON dead_letters(route);

CREATE TABLE inbox (
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (route, key)
) WITHOUT ROWID;
CREATE INDEX inbox_by_expiry ON inbox(expires_at);

CREATE TABLE frozen_bursts (
    number INTEGER PRIMARY KEY,
    route TEXT NOT NULL,
    id TEXT NOT NULL,
    lane TEXT NOT NULL,
    members TEXT NOT NULL,                  -- JSON list
    UNIQUE (route, id)
);

CREATE TABLE noted_attempts (
    route TEXT NOT NULL,
    identity TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    history TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    PRIMARY KEY (route, identity)
) WITHOUT ROWID;

CREATE TABLE suspects (
    route TEXT NOT NULL,
    identity TEXT NOT NULL,
    crashes INTEGER NOT NULL,
    PRIMARY KEY (route, identity)
) WITHOUT ROWID;

CREATE TABLE plugin_state (
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (route, key)
) WITHOUT ROWID;

CREATE TABLE configs (
    hash TEXT PRIMARY KEY,
    since INTEGER NOT NULL,
    text TEXT NOT NULL
) WITHOUT ROWID;
";

/// What a store keeps that is not the queue itself: where an event was seen, and what became of it. Joined by the identity that the
/// event's deliveries have, since either may come first.
/// A fate has a number of its own, that grows, so that the oldest are found without an index of their own.
const V2: &str = "
CREATE TABLE seen (
    seq INTEGER PRIMARY KEY REFERENCES events(seq),
    place INTEGER NOT NULL,                 -- the offset in what is followed
    identity TEXT NOT NULL
);
CREATE INDEX seen_by_identity ON seen(identity);

CREATE TABLE fates (
    number INTEGER PRIMARY KEY,
    identity TEXT NOT NULL,
    route TEXT NOT NULL,
    state TEXT NOT NULL,                    -- JSON
    attempts INTEGER NOT NULL,
    at INTEGER NOT NULL,
    is_done INTEGER NOT NULL,               -- how it was done is known: that it was done before says nothing new
    since INTEGER NOT NULL,                 -- when the row was made
    UNIQUE (identity, route)
);
";

/// What writes of handlings were begun and what came of them. The number grows, so that the oldest are found without an index of their
/// own; the reply comes last, so that the others are read without walking the pages of a long one.
const V3: &str = "
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY,
    route TEXT NOT NULL,
    subject TEXT NOT NULL,                  -- the event or burst
    effect TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    digest TEXT NOT NULL,                   -- of the request
    begun_at INTEGER NOT NULL,
    done_at INTEGER,                        -- NULL while nobody knows what came of it
    summary TEXT,
    is_final INTEGER NOT NULL DEFAULT 0,
    reply BLOB,
    UNIQUE (route, subject, effect, ordinal, digest)
);
";

/// How CI runs ended is asked for at every stop of an agent, and has to be found among all events within milliseconds.
const V4: &str = "CREATE INDEX events_of_runs ON events(key) WHERE key = 'ci.run.finished';";

/// Sessions, as their events and their transcripts tell of them. What is searched and added up stands in columns; `seen`, `imported` and
/// `shown` are JSON, and come last, so that sums walk over none of it. A session's slots are found by their time first: sums are of times.
const V5: &str = "
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    started_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    project TEXT,
    branch TEXT,
    feature TEXT,
    ticket TEXT,
    model TEXT,
    parent TEXT,
    files INTEGER NOT NULL,
    commits INTEGER NOT NULL,
    seconds INTEGER NOT NULL,
    shown TEXT NOT NULL,
    seen TEXT,
    imported TEXT
);
CREATE INDEX sessions_by_time ON sessions(last_at);
CREATE INDEX sessions_by_start ON sessions(started_at);
CREATE INDEX sessions_by_branch ON sessions(branch, last_at) WHERE branch IS NOT NULL;
CREATE INDEX sessions_by_feature ON sessions(feature, last_at) WHERE feature IS NOT NULL;
CREATE INDEX sessions_by_ticket ON sessions(ticket, last_at) WHERE ticket IS NOT NULL;
CREATE INDEX sessions_by_parent ON sessions(parent, last_at) WHERE parent IS NOT NULL;

CREATE TABLE session_slots (
    slot INTEGER NOT NULL,
    session INTEGER NOT NULL REFERENCES sessions(number),
    model TEXT NOT NULL,                    -- '' where it is not known
    turns INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost REAL,
    PRIMARY KEY (slot, session, model)
) WITHOUT ROWID;
CREATE INDEX session_slots_by_session ON session_slots(session);

CREATE TABLE session_tools (
    session INTEGER NOT NULL REFERENCES sessions(number),
    tool TEXT NOT NULL,
    uses INTEGER NOT NULL,
    PRIMARY KEY (session, tool)
) WITHOUT ROWID;
";

/// Of what kinds the tokens are. What was kept before has none: sessions that go on, or are imported again, get them.
const V6: &str = "
ALTER TABLE session_slots ADD COLUMN input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session_slots ADD COLUMN output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session_slots ADD COLUMN cache_write_5m INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session_slots ADD COLUMN cache_write_1h INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session_slots ADD COLUMN cache_read INTEGER NOT NULL DEFAULT 0;
";

/// The version that the file has; 0 for an empty one.
pub(crate) fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings the file to [`KNOWN`], one commit for each version.
pub(crate) fn migrate(conn: &Connection) -> rusqlite::Result<()> {
    let from = usize::try_from(version(conn)?).unwrap_or(0);
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        failpoint::pass(Failpoint::MigrationBefore);
        let tx = conn.unchecked_transaction()?;
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
        failpoint::pass(Failpoint::MigrationApplied);
        tx.commit()?;
        failpoint::pass(Failpoint::MigrationAfter);
    }
    Ok(())
}

/// A number that the store keeps about itself.
pub(crate) fn meta(conn: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

/// Replaces such a number.
pub(crate) fn set_meta(conn: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")?;
    statement.execute(params![name, value]).map(|_| ())
}

/// The number of the last event that was ever stored, removed ones included; 0 if there was none.
pub(crate) fn last_seq(conn: &Connection) -> rusqlite::Result<i64> {
    // Asked with every commit.
    let last: Option<i64> = conn.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?.query_row([], |row| row.get(0)).optional()?;
    Ok(last.unwrap_or(0))
}

/// Numbers up to `last` are not given out any more.
pub(crate) fn skip_seq(conn: &Connection, last: i64) -> rusqlite::Result<()> {
    let changed = conn.execute("UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'events'", [last])?;
    if changed == 0 {
        conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?1)", [last])?;
    }
    Ok(())
}

/// Rows that began to wait in what is the future now (the wall clock was set back while no process ran) wait their whole delay
/// from now on, no longer.
pub(crate) fn heal_due_times(conn: &Connection, now: i64) -> rusqlite::Result<usize> {
    conn.execute("UPDATE deliveries SET due_at = ?1 + (due_at - at), at = ?1 WHERE state = 1 AND at > ?1", [now])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How SQLite finds rows, one line a step.
    fn plan(conn: &Connection, sql: &str) -> String {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let values = vec![1i64; count];
        let lines = statement.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_a_consumer_asks_seeks_in_a_partial_index_and_sorts_nothing() {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn).unwrap();
        for (sql, index) in [
            (crate::fetch::READY, "INDEX deliveries_ready (route=? AND id>?)"),
            (crate::fetch::READY_OF_LANE, "INDEX deliveries_ready_by_lane (route=? AND lane=? AND id>? AND id<?)"),
            (crate::fetch::DUE, "INDEX deliveries_waiting (route=? AND due_at>? AND due_at<?)"),
            (crate::fetch::NEXT_DUE, "INDEX deliveries_waiting (route=? AND due_at>?)"),
        ] {
            let plan = plan(&conn, sql);
            assert!(plan.contains(index), "{sql}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        }
        let unmatched = plan(&conn, crate::archive::UNMATCHED);
        assert!(unmatched.contains("events_unmatched") && !unmatched.contains("TEMP B-TREE"), "{unmatched}");
        let of_session = plan(&conn, crate::archive::OF_SESSION);
        assert!(of_session.contains("INDEX events_by_session (session=? AND rowid<?)") && !of_session.contains("TEMP B-TREE"), "{of_session}");
        let of_runs = plan(&conn, crate::archive::OF_RUNS);
        assert!(of_runs.contains("events_of_runs") && !of_runs.contains("TEMP B-TREE"), "{of_runs}");
        let page = plan(&conn, crate::page::OF_SESSION);
        assert!(page.contains("INDEX events_by_session (session=? AND rowid>?)") && !page.contains("TEMP B-TREE"), "{page}");
        let prefix = plan(&conn, crate::archive::BY_ID_PREFIX);
        assert!(prefix.contains("INDEX events_by_id (event_id>? AND event_id<?)"), "{prefix}");
    }

    #[test]
    fn rows_that_began_to_wait_in_the_future_wait_their_delay_from_now() {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn).unwrap();
        conn.execute_batch(
            "INSERT INTO routes (id, name) VALUES (1, 'a');
             INSERT INTO events (seq, key, stored_at, hops, redactions, wanted, crc, body) VALUES (1, 'k', 0, 0, 0, 1, 0, x'');
             INSERT INTO deliveries (id, route, seq, state, due_at, at) VALUES (1, 1, 1, 1, 5010, 5000), (2, 1, 1, 1, 900, 800);",
        )
        .unwrap();
        assert_eq!(heal_due_times(&conn, 1_000).unwrap(), 1);
        let due = |id: i64| conn.query_row("SELECT due_at FROM deliveries WHERE id = ?1", [id], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((due(1), due(2)), (1_010, 900));
    }

    #[test]
    fn numbers_are_never_given_out_twice() {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn).unwrap();
        assert_eq!(last_seq(&conn).unwrap(), 0);
        skip_seq(&conn, 9).unwrap();
        skip_seq(&conn, 3).unwrap();
        assert_eq!(last_seq(&conn).unwrap(), 9);
        conn.execute("INSERT INTO events (key, stored_at, hops, redactions, wanted, crc, body) VALUES ('k', 0, 0, 0, 0, 0, x'')", []).unwrap();
        conn.execute("DELETE FROM events", []).unwrap();
        assert_eq!(last_seq(&conn).unwrap(), 10);
    }
}
