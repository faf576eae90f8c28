//! The store's own port: what the router remembers beside its queues.

use async_trait::async_trait;
use jiff::Timestamp;
use router_api::{
    ActiveSessions, ArchiveEntry, ArchivedEvent, EventQuery, FateRecord, FrozenBurst, InboxKey, KeptSession, LedgerEntry, LedgerKey, LedgerResult,
    NotedAttempts, Page, PageQuery, RouteName, RunningSlot, Session, SessionQuery, StatsRow, Store, StoreError, StoredSession, SumsQuery, Suspect,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use crate::{
    Embedded, archive,
    embedded::{not_found, not_kept},
    fetch::history,
    inbox_keys::Known,
    ledger, page, seen, sessions,
    settle::{json, remember},
    store_time::timestamp,
    writer::Writing,
};

impl Embedded {
    async fn keep<T, R>(&self, run: R) -> Result<T, StoreError>
    where
        T: Send + 'static,
        R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.shared.writer.write(run).await.map_err(not_kept)
    }

    async fn find<T, R>(&self, read: R) -> Result<T, StoreError>
    where
        T: Send + 'static,
        R: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.shared.near.read(read).await.map_err(not_found)
    }

    fn text<T: serde::Serialize>(&self, value: &T) -> Result<String, StoreError> {
        json(value).map_err(|message| StoreError { message: format!("the store `{}` cannot keep it: {message}", self.path().display()), full: false })
    }
}

#[async_trait]
impl Store for Embedded {
    async fn inbox_contains(&self, route: &RouteName, key: &str, now: Timestamp) -> Result<bool, StoreError> {
        match self.shared.writer.inbox_keys().look(route, key) {
            Known::Lacking => return Ok(false),
            Known::Perhaps => {}
            Known::Unread => self.shared.read_inbox_keys().await,
        }
        let (route, key, now) = (route.clone(), key.to_owned(), now.as_microsecond());
        self.find(move |conn| {
            conn.prepare_cached("SELECT 1 FROM inbox WHERE route = ?1 AND key = ?2 AND expires_at > ?3")?.exists(params![route.as_str(), key, now])
        })
        .await
    }

    async fn inbox_insert(&self, route: &RouteName, keys: &[InboxKey]) -> Result<(), StoreError> {
        let (route, keys) = (route.clone(), keys.to_vec());
        self.keep(move |writing| keys.iter().try_for_each(|key| remember(writing, &route, key))).await
    }

    async fn freeze(&self, route: &RouteName, burst: &FrozenBurst) -> Result<(), StoreError> {
        let members = self.text(&burst.members)?;
        let (route, id, lane) = (route.clone(), burst.id.clone(), burst.lane.clone());
        self.keep(move |writing| {
            writing
                .conn
                .prepare_cached(
                    "INSERT INTO frozen_bursts (route, id, lane, members) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (route, id) DO UPDATE SET lane = excluded.lane, members = excluded.members",
                )?
                .execute(params![route.as_str(), id, lane, members])
                .map(|_| ())
        })
        .await
    }

    async fn thaw(&self, route: &RouteName, burst: &str) -> Result<(), StoreError> {
        let (route, burst) = (route.clone(), burst.to_owned());
        self.keep(move |writing| {
            let mut statement = writing.conn.prepare_cached("DELETE FROM frozen_bursts WHERE route = ?1 AND id = ?2")?;
            statement.execute(params![route.as_str(), burst]).map(|_| ())
        })
        .await
    }

    async fn frozen(&self, route: &RouteName) -> Result<Vec<FrozenBurst>, StoreError> {
        let route = route.clone();
        self.find(move |conn| {
            let mut statement = conn.prepare_cached("SELECT id, lane, members FROM frozen_bursts WHERE route = ?1 ORDER BY number")?;
            let rows = statement.query_map([route.as_str()], |row| {
                let members = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
                Ok(FrozenBurst { id: row.get(0)?, lane: row.get(1)?, members })
            })?;
            rows.collect()
        })
        .await
    }

    async fn note_attempts(&self, route: &RouteName, noted: NotedAttempts) -> Result<(), StoreError> {
        let history = self.text(&noted.history)?;
        let route = route.clone();
        self.keep(move |writing| {
            writing
                .conn
                .prepare_cached(
                    "INSERT INTO noted_attempts (route, identity, attempts, history, due_at) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (route, identity) DO UPDATE SET attempts = excluded.attempts, history = excluded.history, due_at = excluded.due_at",
                )?
                .execute(params![route.as_str(), noted.identity, noted.attempts, history, noted.due_at.as_microsecond()])
                .map(|_| ())
        })
        .await
    }

    async fn forget_attempts(&self, route: &RouteName, identities: &[String]) -> Result<(), StoreError> {
        let (route, identities) = (route.clone(), identities.to_vec());
        if identities.is_empty() {
            return Ok(());
        }
        self.keep(move |writing| {
            let mut statement = writing.conn.prepare_cached("DELETE FROM noted_attempts WHERE route = ?1 AND identity = ?2")?;
            identities.iter().try_for_each(|identity| statement.execute(params![route.as_str(), identity]).map(|_| ()))
        })
        .await
    }

    async fn noted_attempts(&self, route: &RouteName) -> Result<Vec<NotedAttempts>, StoreError> {
        let route = route.clone();
        self.find(move |conn| {
            let mut statement =
                conn.prepare_cached("SELECT identity, attempts, history, due_at FROM noted_attempts WHERE route = ?1 ORDER BY due_at, identity")?;
            let rows = statement.query_map([route.as_str()], |row| {
                Ok(NotedAttempts { identity: row.get(0)?, attempts: row.get(1)?, history: history(row.get(2)?), due_at: timestamp(row.get(3)?) })
            })?;
            rows.collect()
        })
        .await
    }

    fn begin_running(&self, route: &RouteName, identity: &str) -> Option<RunningSlot> {
        self.shared.running.begin(route, identity, self.shared.time.now())
    }

    fn end_running(&self, slot: RunningSlot) {
        self.shared.running.end(slot);
    }

    async fn suspects(&self, route: &RouteName) -> Result<Vec<Suspect>, StoreError> {
        let route = route.clone();
        self.find(move |conn| {
            let mut statement = conn.prepare_cached("SELECT identity, crashes FROM suspects WHERE route = ?1 ORDER BY identity")?;
            let rows = statement.query_map([route.as_str()], |row| Ok(Suspect { identity: row.get(0)?, crashes: row.get(1)? }))?;
            rows.collect()
        })
        .await
    }

    async fn clear_suspect(&self, route: &RouteName, identity: &str) -> Result<(), StoreError> {
        let (route, identity) = (route.clone(), identity.to_owned());
        self.keep(move |writing| {
            let mut statement = writing.conn.prepare_cached("DELETE FROM suspects WHERE route = ?1 AND identity = ?2")?;
            statement.execute(params![route.as_str(), identity]).map(|_| ())
        })
        .await
    }

    async fn ledger_begin(&self, route: &RouteName, key: &LedgerKey, now: Timestamp) -> Result<Option<LedgerEntry>, StoreError> {
        let (route, key, now) = (route.clone(), key.clone(), now.as_microsecond());
        self.keep(move |writing| ledger::begin(writing.conn, &route, &key, now)).await
    }

    async fn ledger_end(&self, route: &RouteName, key: &LedgerKey, result: LedgerResult) -> Result<(), StoreError> {
        let (route, key) = (route.clone(), key.clone());
        self.keep(move |writing| ledger::end(writing.conn, &route, &key, &result)).await
    }

    async fn ledger_forget(&self, route: &RouteName, keys: &[LedgerKey]) -> Result<(), StoreError> {
        let (route, keys) = (route.clone(), keys.to_vec());
        if keys.is_empty() {
            return Ok(());
        }
        self.keep(move |writing| ledger::forget(writing.conn, &route, &keys)).await
    }

    async fn ledger_clear(&self, route: &RouteName, subject: &str) -> Result<u64, StoreError> {
        let (route, subject) = (route.clone(), subject.to_owned());
        self.keep(move |writing| ledger::clear(writing.conn, &route, &subject)).await
    }

    async fn ledger(&self, route: &RouteName, subject: &str) -> Result<Vec<LedgerEntry>, StoreError> {
        let (route, subject) = (route.clone(), subject.to_owned());
        self.find(move |conn| ledger::of(conn, &route, &subject)).await
    }

    async fn state(&self, route: &RouteName, key: &str) -> Result<Option<Value>, StoreError> {
        let (route_name, key) = (route.clone(), key.to_owned());
        let text: Option<String> = self
            .find(move |conn| {
                let mut statement = conn.prepare_cached("SELECT value FROM plugin_state WHERE route = ?1 AND key = ?2")?;
                statement.query_row(params![route_name.as_str(), key], |row| row.get(0)).optional()
            })
            .await?;
        let unreadable = |error| StoreError { message: format!("a state of route `{route}` in `{}` is no JSON: {error}", self.path().display()), full: false };
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)
    }

    async fn set_state(&self, route: &RouteName, key: &str, value: Option<Value>) -> Result<(), StoreError> {
        let value = value.map(|value| self.text(&value)).transpose()?;
        let (route, key) = (route.clone(), key.to_owned());
        self.keep(move |writing| {
            let conn = writing.conn;
            match &value {
                Some(value) => conn
                    .prepare_cached(
                        "INSERT INTO plugin_state (route, key, value) VALUES (?1, ?2, ?3) ON CONFLICT (route, key) DO UPDATE SET value = excluded.value",
                    )?
                    .execute(params![route.as_str(), key, value]),
                None => conn.prepare_cached("DELETE FROM plugin_state WHERE route = ?1 AND key = ?2")?.execute(params![route.as_str(), key]),
            }
            .map(|_| ())
        })
        .await
    }

    async fn record_config(&self, hash: &str, text: &str, since: Timestamp) -> Result<(), StoreError> {
        let (hash, text, since) = (hash.to_owned(), text.to_owned(), since.as_microsecond());
        self.keep(move |writing| {
            // A configuration that comes back keeps the time when it was first in force.
            let mut statement = writing.conn.prepare_cached("INSERT INTO configs (hash, since, text) VALUES (?1, ?2, ?3) ON CONFLICT (hash) DO NOTHING")?;
            statement.execute(params![hash, since, text]).map(|_| ())
        })
        .await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<ArchivedEvent>, StoreError> {
        let (query, looked) = (query.clone(), self.shared.look());
        self.shared.far.read(move |conn| archive::events(conn, &query, &looked)).await.map_err(not_found)
    }

    async fn event(&self, reference: &str) -> Result<Vec<ArchivedEvent>, StoreError> {
        let (reference, looked) = (reference.to_owned(), self.shared.look());
        self.shared.far.read(move |conn| archive::event(conn, &reference, &looked)).await.map_err(not_found)
    }

    async fn page(&self, query: &PageQuery) -> Result<Page, StoreError> {
        let (query, looked) = (query.clone(), self.shared.look());
        self.shared.far.read(move |conn| page::page(conn, &query, &looked)).await.map_err(not_found)
    }

    async fn archive_position(&self) -> Result<Option<u64>, StoreError> {
        self.find(seen::position).await
    }

    async fn archive(&self, events: Vec<ArchiveEntry>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let rows = seen::rows(events, self.shared.decode);
        self.shared.writer.write_events(move |writing| seen::keep(writing.conn, &rows)).await.map_err(not_kept)
    }

    async fn record_fates(&self, fates: Vec<FateRecord>) -> Result<(), StoreError> {
        if fates.is_empty() {
            return Ok(());
        }
        let rows = fates.into_iter().map(|fate| Ok((self.text(&fate.record.state)?, fate))).collect::<Result<Vec<_>, StoreError>>()?;
        self.keep(move |writing| seen::note_fates(writing.conn, &rows, writing.now)).await
    }

    async fn active_sessions(&self, events_max: u32) -> Result<ActiveSessions, StoreError> {
        self.shared.far.read(move |conn| sessions::active(conn, events_max)).await.map_err(not_found)
    }

    async fn stored_sessions(&self, ids: &[String]) -> Result<Vec<StoredSession>, StoreError> {
        let ids = ids.to_vec();
        self.shared.far.read(move |conn| sessions::stored(conn, &ids)).await.map_err(not_found)
    }

    async fn keep_sessions(&self, kept: Vec<KeptSession>, read_to: Option<u64>) -> Result<(), StoreError> {
        self.keep(move |writing| sessions::keep(writing.conn, &kept, read_to, writing.now)).await
    }

    async fn sessions(&self, query: &SessionQuery) -> Result<Vec<Session>, StoreError> {
        let query = query.clone();
        self.shared.far.read(move |conn| sessions::list(conn, &query)).await.map_err(not_found)
    }

    async fn session_sums(&self, query: SumsQuery) -> Result<Vec<StatsRow>, StoreError> {
        self.shared.far.read(move |conn| sessions::sums(conn, query)).await.map_err(not_found)
    }
}
