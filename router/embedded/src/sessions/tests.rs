use std::collections::BTreeMap;

use jiff::Timestamp;
use router_api::{SessionOrigin, SessionSlot, SessionState, TokenKinds};
use rusqlite::StatementStatus;

use super::*;

fn conn() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    schema::migrate(&conn).unwrap();
    conn
}

fn session(id: &str, slot: i64) -> Session {
    let at = Timestamp::from_second(slot * 900).unwrap();
    Session {
        session_id: id.to_owned(),
        version: 1,
        state: SessionState::Active,
        started_at: at,
        last_event_at: at,
        ended_at: None,
        end: None,
        working_directory: None,
        git_branch: Some(format!("b{}", id.len())),
        git_remote: None,
        project: Some("p".to_owned()),
        feature: None,
        ticket: None,
        parent: None,
        origin: SessionOrigin::Events,
        model: Some("m".to_owned()),
        models: BTreeMap::new(),
        host: None,
        app: None,
        turns: 2,
        tools: BTreeMap::from([("Bash".to_owned(), 3), ("Read".to_owned(), 1)]),
        files: BTreeSet::from(["a".to_owned()]),
        commits: BTreeSet::new(),
        tokens: Some(10),
        cost_usd: Some(0.5),
        errors: 0,
        last_error: None,
        events: 9,
        is_complete: true,
    }
}

fn kept(id: &str, slots: &[(i64, &str, u64, Option<f64>)]) -> KeptSession {
    let session = session(id, slots[0].0);
    let slots = slots.iter().map(|(slot, model, tokens, cost_usd)| SessionSlot {
        slot: *slot,
        model: Some((*model).to_owned()),
        turns: 1,
        errors: 0,
        tokens: *tokens,
        cost_usd: *cost_usd,
        kinds: TokenKinds { input: *tokens / 2, cache_read: *tokens - *tokens / 2, ..TokenKinds::default() },
    });
    let shown = SessionEntry { session, slots: slots.collect() };
    KeptSession { stored: StoredSession { seen: Some(shown.clone()), imported: None }, shown }
}

fn total(conn: &Connection, from: i64, to: i64) -> StatsRow {
    sums(conn, SumsQuery { by: None, from, to }).unwrap().pop().unwrap_or_default()
}

#[test]
fn a_session_that_is_kept_again_is_counted_once() {
    let conn = conn();
    for _ in 0..2 {
        keep(&conn, &[kept("a", &[(10, "m", 7, Some(0.25)), (11, "m", 3, Some(0.25))])], Some(5), 0).unwrap();
    }
    let sum = total(&conn, 0, 100);
    assert_eq!((sum.sessions, sum.turns, sum.tokens, sum.cost_usd, sum.files), (1, 2, 10, Some(0.5), 1));
    assert_eq!(sum.kinds, TokenKinds { input: 4, cache_read: 6, ..TokenKinds::default() });
    let tools = sums(&conn, SumsQuery { by: Some(StatsBy::Tool), from: 0, to: 100 }).unwrap();
    assert_eq!(tools.iter().map(|row| (row.name.as_deref().unwrap(), row.uses)).collect::<Vec<_>>(), [("Bash", 3), ("Read", 1)]);
    assert_eq!(stored(&conn, &["a".to_owned(), "b".to_owned()]).unwrap().iter().map(|stored| stored.seen.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(schema::meta(&conn, READ_TO).unwrap(), Some(5));
}

#[test]
fn a_sum_is_of_what_was_done_then_and_a_cost_that_is_not_known_makes_it_unknown() {
    let conn = conn();
    let sessions = [kept("a", &[(10, "m", 7, Some(0.25)), (20, "m", 3, Some(0.5))]), kept("bb", &[(20, "n", 100, None), (20, "m", 1, Some(0.0))])];
    keep(&conn, &sessions, None, 0).unwrap();
    assert_eq!((total(&conn, 0, 20).tokens, total(&conn, 0, 20).cost_usd), (7, Some(0.25)));
    let later = total(&conn, 20, 21);
    assert_eq!((later.sessions, later.tokens, later.cost_usd, later.known_cost_usd), (2, 104, None, 0.5));
    let models = sums(&conn, SumsQuery { by: Some(StatsBy::Model), from: 0, to: 100 }).unwrap();
    assert_eq!(models.iter().map(|row| (row.name.as_deref().unwrap(), row.cost_usd, row.sessions)).collect::<Vec<_>>(), [("m", Some(0.75), 2), ("n", None, 1)]);
    assert_eq!(sums(&conn, SumsQuery { by: None, from: 50, to: 60 }).unwrap(), []);
}

#[test]
fn a_list_is_narrowed_and_begins_with_the_newest() {
    let conn = conn();
    keep(&conn, &[kept("abc", &[(10, "m", 1, None)]), kept("abd", &[(30, "m", 1, None)]), kept("x", &[(20, "m", 1, None)])], None, 0).unwrap();
    let ids = |query: SessionQuery| list(&conn, &query).unwrap().into_iter().map(|session| session.session_id).collect::<Vec<_>>();
    assert_eq!(ids(SessionQuery::default()), ["abd", "x", "abc"]);
    assert_eq!(ids(SessionQuery { last: Some(1), ..SessionQuery::default() }), ["abd"]);
    assert_eq!(ids(SessionQuery { beginning: Some("ab".to_owned()), ..SessionQuery::default() }), ["abd", "abc"]);
    assert_eq!(ids(SessionQuery { branch: Some("b1".to_owned()), ..SessionQuery::default() }), ["x"]);
    assert_eq!(ids(SessionQuery { since: Some(Timestamp::from_second(20 * 900).unwrap()), ..SessionQuery::default() }), ["abd", "x"]);
    assert!(ids(SessionQuery { state: Some(SessionState::Ended), ..SessionQuery::default() }).is_empty());
}

#[test]
fn sessions_of_new_events_are_found_once_each_and_what_was_looked_at_is_not_looked_at_again() {
    let conn = conn();
    let insert = |session: Option<&str>| {
        conn.execute("INSERT INTO events (key, stored_at, hops, redactions, wanted, session, crc, body) VALUES ('k', 0, 0, 0, 0, ?1, 0, x'')", [session])
            .unwrap();
    };
    for session in [Some("a"), None, Some("b"), Some("a"), Some("c")] {
        insert(session);
    }
    let first = active(&conn, 4).unwrap();
    assert_eq!((first.ids.as_slice(), first.read_from, first.read_to, first.behind), (["a".to_owned(), "b".to_owned()].as_slice(), 0, 4, 1));
    keep(&conn, &[], Some(4), 0).unwrap();
    assert_eq!(active(&conn, 4).unwrap(), ActiveSessions { ids: vec!["c".to_owned()], read_from: 4, read_to: 5, behind: 0 });
    keep(&conn, &[], Some(5), 0).unwrap();
    assert_eq!(active(&conn, 4).unwrap(), ActiveSessions { ids: vec![], read_from: 5, read_to: 5, behind: 0 });
}

#[test]
fn an_id_that_is_longer_than_any_session_has_is_not_read() {
    let conn = conn();
    let insert = "INSERT INTO events (key, stored_at, hops, redactions, wanted, session, crc, body) VALUES ('k', 0, 0, 0, 0, ?1, 0, x'')";
    for session in ["../../etc/passwd".to_owned(), "x".repeat(512), "x".repeat(1 << 20)] {
        conn.execute(insert, [session]).unwrap();
    }
    let found = active(&conn, 10).unwrap();
    assert_eq!((found.ids.len(), found.read_to), (2, 3));
}

#[test]
fn what_nothing_was_heard_of_for_long_goes_with_all_its_rows() {
    let conn = conn();
    let now = 2_000_000 * 900 * 1_000_000;
    keep(&conn, &[kept("old", &[(10, "m", 1, None)]), kept("young", &[(1_999_999, "m", 1, None)])], None, now).unwrap();
    assert_eq!(list(&conn, &SessionQuery::default()).unwrap().len(), 1);
    let rows = |table: &str| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((rows("sessions"), rows("session_slots"), rows("session_tools")), (1, 1, 2));
}

/// Steps of SQLite's machine for the sum over everything, and by project.
fn steps(conn: &Connection) -> i32 {
    let mut steps = 0;
    for by in [None, Some(StatsBy::Project), Some(StatsBy::Model)] {
        for sql in [of_slots(by), of_sessions(by)] {
            let mut statement = conn.prepare(&sql).unwrap();
            let mut rows = statement.query(params![0, i64::MAX / 2]).unwrap();
            while rows.next().unwrap().is_some() {}
            drop(rows);
            steps += statement.get_status(StatementStatus::VmStep);
        }
    }
    steps
}

#[test]
fn a_sum_costs_by_the_number_of_sessions_and_not_by_the_number_of_their_events() {
    let fill = |sessions: usize, events: usize| {
        let conn = conn();
        for number in 0..sessions {
            keep(&conn, &[kept(&format!("s{number}"), &[(10, "m", 1, None), (11, "m", 1, None)])], None, 0).unwrap();
            for _ in 0..events {
                let insert = "INSERT INTO events (key, stored_at, hops, redactions, wanted, session, crc, body) VALUES ('k', 0, 0, 0, 0, ?1, 0, x'')";
                conn.prepare_cached(insert).unwrap().execute([format!("s{number}")]).unwrap();
            }
        }
        steps(&conn)
    };
    let (few_events, many_events, more_sessions) = (fill(20, 1), fill(20, 100), fill(200, 1));
    assert_eq!(few_events, many_events);
    assert!(more_sessions > 5 * few_events, "{more_sessions} steps against {few_events}: nothing is counted");
}

#[test]
fn what_is_asked_seeks_in_an_index() {
    let conn = conn();
    let plan = |sql: &str| {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let lines = statement.query_map(params_from_iter(vec![1i64; count]), |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    };
    for (sql, part) in [
        (of_slots(None), "PRIMARY KEY (slot>? AND slot<?)"),
        (of_sessions(None), "sessions_by_start"),
        ("SELECT shown FROM sessions WHERE feature = ?2 ORDER BY last_at DESC, number DESC LIMIT ?1".to_owned(), "sessions_by_feature"),
        ("SELECT shown FROM sessions ORDER BY last_at DESC, number DESC LIMIT ?1".to_owned(), "sessions_by_time"),
        (ACTIVE.to_owned(), "rowid>?"),
    ] {
        assert!(plan(&sql).contains(part), "{sql}\n{}", plan(&sql));
    }
}
