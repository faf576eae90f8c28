//! What the fates of deliveries are in the store. One commit for all deliveries of a call.

use router_api::{AttemptRecord, DeadLetter, Delivery, Fate, InboxKey, LedgerKey, RouteName, Settlement};
use rusqlite::{Connection, params};

use crate::{ledger, schema::state, writer::Writing};

/// A settlement as it will be written.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) route: RouteName,
    pub(crate) route_id: i64,
    pub(crate) ids: Vec<i64>,
    pub(crate) change: Change,
}

/// What becomes of the deliveries.
#[derive(Debug)]
pub(crate) enum Change {
    /// Failed attempts and fates as JSON, one for each.
    Done { fates: Vec<(u32, String)>, inbox: Vec<InboxKey> },
    /// Back at this time, each with its attempts and its history.
    Retry { due_at: i64, histories: Vec<(u32, String)> },
    /// To the dead letters.
    Bury { reason: &'static str, letter: String },
}

impl Change {
    /// `Err` with a sentence when the settlement does not fit the deliveries.
    pub(crate) fn new(deliveries: &[Delivery], settlement: Settlement, due_after: impl FnOnce(std::time::Duration) -> i64) -> Result<Self, String> {
        let count = deliveries.len();
        Ok(match settlement {
            Settlement::Done { fates, inbox } => {
                if fates.len() != count || !(inbox.is_empty() || inbox.len() == count) {
                    return Err(format!("{count} deliveries were settled with {} fates and {} inbox keys", fates.len(), inbox.len()));
                }
                let attempts = deliveries.iter().map(|delivery| delivery.attempts);
                let fates = attempts.zip(&fates).map(|(attempts, fate)| Ok((attempts, json::<Fate>(fate)?))).collect::<Result<_, String>>()?;
                Self::Done { fates, inbox: inbox.into_iter().flatten().collect() }
            }
            Settlement::RetryIn { delay, failure } => {
                let histories = deliveries.iter().map(|delivery| {
                    let mut history = delivery.history.clone();
                    AttemptRecord::push(&mut history, failure.clone());
                    Ok((delivery.attempts.saturating_add(1), json(&history)?))
                });
                Self::Retry { histories: histories.collect::<Result<_, String>>()?, due_at: due_after(delay) }
            }
            Settlement::Bury(letter) => Self::Bury { reason: letter.reason.name(), letter: json::<DeadLetter>(&letter)? },
        })
    }

    /// The due time that this gives its deliveries.
    pub(crate) fn due_at(&self) -> Option<i64> {
        match self {
            Self::Retry { due_at, .. } => Some(*due_at),
            _ => None,
        }
    }
}

/// As text for the store.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| format!("it cannot be written as JSON: {error}"))
}

impl Settling {
    /// Writes it. A row that is gone (its queue was removed) has nothing to record.
    pub(crate) fn write(&self, writing: &Writing<'_>) -> rusqlite::Result<()> {
        let Writing { conn, now, .. } = *writing;
        match &self.change {
            Change::Done { fates, inbox } => {
                let mut statement =
                    conn.prepare_cached("UPDATE deliveries SET state = 2, due_at = NULL, at = ?2, fate = ?3, attempts = ?4 WHERE id = ?1 AND state IN (0, 1)")?;
                for (id, (attempts, fate)) in self.ids.iter().zip(fates) {
                    statement.execute(params![id, now, fate, attempts])?;
                }
                for key in inbox {
                    remember(writing, &self.route, key)?;
                }
            }
            Change::Retry { due_at, histories } => {
                let mut statement = conn.prepare_cached(
                    "UPDATE deliveries SET state = 1, due_at = ?2, at = min(?3, ?2), attempts = ?4, history = ?5, handed = 1
                     WHERE id = ?1 AND state IN (0, 1)",
                )?;
                for (id, (attempts, history)) in self.ids.iter().zip(histories) {
                    statement.execute(params![id, due_at, now, attempts, history])?;
                }
            }
            Change::Bury { reason, letter } => {
                for id in &self.ids {
                    bury(conn, self.route_id, *id, reason, letter, now)?;
                }
            }
        }
        Ok(())
    }
}

/// Moves one unfinished delivery to the dead letters.
pub(crate) fn bury(conn: &Connection, route: i64, delivery: i64, reason: &str, letter: &str, now: i64) -> rusqlite::Result<()> {
    let changed = conn
        .prepare_cached("UPDATE deliveries SET state = ?2, due_at = NULL, at = ?3, handed = 1 WHERE id = ?1 AND state IN (0, 1)")?
        .execute(params![delivery, state::DEAD, now])?;
    if changed == 1 {
        conn.prepare_cached("INSERT INTO dead_letters (delivery, route, reason, letter) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![delivery, route, reason, letter])?;
    }
    Ok(())
}

/// Remembers a key as done; a key that is there already stays for the longer of both times. What the event's writes came to is not
/// needed any more: a later event with this key is another one.
pub(crate) fn remember(writing: &Writing<'_>, route: &RouteName, key: &InboxKey) -> rusqlite::Result<()> {
    writing.inbox_keys.add(route, &key.key);
    let conn = writing.conn;
    conn.prepare_cached(
        "INSERT INTO inbox (route, key, expires_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (route, key) DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
    )?
    .execute(params![route.as_str(), key.key, key.expires_at.as_microsecond()])?;
    ledger::clear(conn, route, &LedgerKey::of_event(&key.key)).map(|_| ())
}
