-- A store of schema version 1 as the program wrote it: one event waits to be handed out, one waits for a time that has come, one is dead.
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA application_id = 1702261364;
PRAGMA journal_mode = WAL;
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

PRAGMA user_version = 1;

INSERT INTO meta (name, value) VALUES ('created_at', 1767319445000000), ('openings', 1), ('clean', 1);
INSERT INTO routes (id, name, patterns, queue) VALUES (1, 'a', '["k"]', 1);
INSERT INTO events (seq, key, stored_at, hops, redactions, wanted, event_id, traceparent, crc, body)
    VALUES (1, 'k', 1767319445000000, 0, 0, 1, NULL, NULL, 246720773, x'7b226e223a307d');
INSERT INTO events (seq, key, stored_at, hops, redactions, wanted, event_id, traceparent, crc, body)
    VALUES (2, 'k', 1767319445000001, 2, 1, 1, 'id-2', '00-1', 105553598, x'7b226e223a317d');
INSERT INTO events (seq, key, stored_at, hops, redactions, wanted, event_id, traceparent, crc, body)
    VALUES (3, 'k', 1767319445000002, 0, 0, 1, NULL, NULL, 3608545573, x'6e6f206a736f6e');
INSERT INTO deliveries (id, route, seq, state, at) VALUES (1, 1, 1, 0, 1767319445000000);
INSERT INTO deliveries (id, route, seq, state, due_at, at, attempts, handed, history)
    VALUES (2, 1, 2, 1, 1767319446000000, 1767319445000000, 1, 1, '[{"number":1,"at":"2026-01-02T03:04:05Z","class":"error","error":"failed 1"}]');
INSERT INTO deliveries (id, route, seq, state, at, handed) VALUES (3, 1, 3, 3, 1767319445000000, 1);
INSERT INTO dead_letters (id, delivery, route, reason, letter)
    VALUES (1, 3, 1, 'undecodable', '{"route":"a","plugin":"test","reason":"undecodable","error":"no use","detail":null,"attempts":1,"history":[{"number":1,"at":"2026-01-02T03:04:05Z","class":"error","error":"failed 1"}],"buried_at":"2026-01-02T03:04:05Z","config_hash":"c","burst":null,"traceparent":null}');
