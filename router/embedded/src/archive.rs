//! Questions to the archive: which events came, and what became of each.

use std::collections::{HashMap, HashSet};

use router_api::{ArchivedEvent, DeadLetter, DeliveryRecord, DeliveryState, EventQuery, Fate, RouteName};
use rusqlite::{Connection, Row, ToSql, params, params_from_iter};

use crate::{
    event_row::{COLUMNS, StoredEvent},
    fetch::history,
    running::Marked,
    schema::state,
    seen,
    store_time::timestamp,
};

/// Events listed if the query does not say.
const LISTED: u32 = 20;
/// Events listed at most.
const LISTED_MAX: u32 = 10_000;
/// Characters of an id that are enough to look for it.
const PREFIX_MIN: usize = 4;

pub(crate) const UNMATCHED: &str = "SELECT seq, key FROM events WHERE wanted = 0 AND seq < ?1 ORDER BY seq DESC";
pub(crate) const OF_SESSION: &str = "SELECT seq, key FROM events WHERE session IS NOT NULL AND session = ?2 AND seq < ?1 ORDER BY seq DESC";
/// Of the key that has an index of its own.
pub(crate) const OF_RUNS: &str = "SELECT seq, key FROM events WHERE key = 'ci.run.finished' AND seq < ?1 ORDER BY seq DESC";
const RUNS: &str = "ci.run.finished";
/// The upper end is the greatest character that there is, which no id holds.
pub(crate) const BY_ID_PREFIX: &str =
    "SELECT seq FROM events WHERE event_id IS NOT NULL AND event_id >= ?1 AND event_id < ?1 || char(1114111) ORDER BY seq DESC LIMIT ?2";

/// See [`router_api::Store::events`].
pub(crate) fn events(conn: &Connection, query: &EventQuery, look: &Look) -> rusqlite::Result<Vec<ArchivedEvent>> {
    let snapshot = conn.unchecked_transaction()?;
    let limit = query.last.unwrap_or(LISTED).min(LISTED_MAX) as usize;
    let before = query.before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let (sql, values): (&str, Vec<&dyn ToSql>) = match (&query.session, query.unmatched) {
        (Some(session), false) => (OF_SESSION, vec![&before, session]),
        (Some(session), true) => {
            ("SELECT seq, key FROM events WHERE session IS NOT NULL AND session = ?2 AND wanted = 0 AND seq < ?1 ORDER BY seq DESC", vec![&before, session])
        }
        (None, false) if query.pattern.as_ref().is_some_and(|pattern| pattern.as_str() == RUNS) => (OF_RUNS, vec![&before]),
        (None, true) => (UNMATCHED, vec![&before]),
        (None, false) => ("SELECT seq, key FROM events WHERE seq < ?1 ORDER BY seq DESC", vec![&before]),
    };
    let mut seqs = Vec::new();
    {
        let mut statement = snapshot.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while seqs.len() < limit
            && let Some(row) = rows.next()?
        {
            let fits = match &query.pattern {
                Some(pattern) => row.get_ref(1)?.as_str().ok().and_then(|key| key.parse().ok()).is_some_and(|key| pattern.matches(&key)),
                None => true,
            };
            if fits {
                seqs.push(row.get(0)?);
            }
        }
    }
    read_all(&snapshot, &seqs, look, usize::MAX)
}

/// See [`router_api::Store::event`].
pub(crate) fn event(conn: &Connection, reference: &str, look: &Look) -> rusqlite::Result<Vec<ArchivedEvent>> {
    let snapshot = conn.unchecked_transaction()?;
    if let Ok(seq) = reference.parse::<i64>() {
        let found = read_all(&snapshot, &[seq], look, usize::MAX)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let seqs: Vec<i64> = if reference.chars().count() >= PREFIX_MIN {
        snapshot.prepare_cached(BY_ID_PREFIX)?.query_map(params![reference, LISTED], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    } else {
        let sql = "SELECT seq FROM events WHERE event_id IS NOT NULL AND event_id = ?1 ORDER BY seq DESC LIMIT ?2";
        snapshot.prepare_cached(sql)?.query_map(params![reference, LISTED], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    };
    read_all(&snapshot, &seqs, look, usize::MAX)
}

/// What the process knows of its queues at a moment, and the file does not.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The store's time.
    pub(crate) now: i64,
    /// Deliveries that were handed out.
    pub(crate) in_hand: HashSet<i64>,
    /// Handlings that run.
    pub(crate) running: Vec<Marked>,
}

/// A [`Look`], joined with what the file notes of handlings that were begun: by the identity of a delivery, wherever it is one of a
/// burst.
struct Moment<'l> {
    now: i64,
    in_hand: &'l HashSet<i64>,
    running: HashMap<(String, String), i64>,
    noted: HashMap<(String, String), Noted>,
    crashes: HashMap<(String, String), u32>,
}

/// What was noted of attempts that failed in hand.
#[derive(Clone)]
struct Noted {
    attempts: u32,
    due_at: i64,
    error: Option<String>,
}

/// What is known of a delivery that has no end yet.
struct Unsettled {
    in_hand: bool,
    running_since: Option<i64>,
    /// Attempts that are counted beside the row.
    failed: u32,
    /// Until when, and why.
    waits: Option<(i64, Option<String>)>,
}

impl<'l> Moment<'l> {
    fn of(conn: &Connection, look: &'l Look) -> rusqlite::Result<Self> {
        let mut running: HashMap<_, _> = look.running.iter().map(|marked| ((marked.route.to_string(), marked.identity.clone()), marked.since)).collect();
        let mut noted = HashMap::new();
        let mut statement = conn.prepare_cached("SELECT route, identity, attempts, history, due_at FROM noted_attempts")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let attempts = u32::try_from(row.get::<_, i64>(2)?).unwrap_or(u32::MAX);
            let error = history(row.get(3)?).pop().map(|attempt| attempt.error);
            noted.insert((row.get(0)?, row.get(1)?), Noted { attempts, due_at: row.get(4)?, error });
        }
        let mut statement = conn.prepare_cached("SELECT route, identity, crashes FROM suspects")?;
        let mut crashes: HashMap<(String, String), u32> =
            statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
        // Members of a burst share what is known of it.
        let mut statement = conn.prepare_cached("SELECT route, id, members FROM frozen_bursts")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let route: String = row.get(0)?;
            let burst = (route.clone(), format!("burst:{}", row.get::<_, String>(1)?));
            let (since, note, crashed) = (running.get(&burst).copied(), noted.get(&burst).cloned(), crashes.get(&burst).copied());
            for member in serde_json::from_str::<Vec<String>>(&row.get::<_, String>(2)?).unwrap_or_default() {
                let member = (route.clone(), member);
                since.map(|since| running.insert(member.clone(), since));
                note.clone().map(|note| noted.insert(member.clone(), note));
                crashed.map(|crashed| crashes.insert(member, crashed));
            }
        }
        Ok(Self { now: look.now, in_hand: &look.in_hand, running, noted, crashes })
    }

    fn unsettled(&self, route: &RouteName, delivery: i64) -> Unsettled {
        let identity = (route.to_string(), delivery.to_string());
        let running_since = self.running.get(&identity).copied();
        let noted = self.noted.get(&identity);
        let waits = noted.filter(|noted| running_since.is_none() && noted.due_at > self.now).map(|noted| (noted.due_at, noted.error.clone()));
        Unsettled {
            in_hand: self.in_hand.contains(&delivery),
            running_since,
            failed: noted.map_or(0, |noted| noted.attempts).saturating_add(self.crashes.get(&identity).copied().unwrap_or(0)),
            waits,
        }
    }
}

/// The events of these numbers; the one whose body goes beyond `bytes_max` is the last.
pub(crate) fn read_all(conn: &Connection, seqs: &[i64], look: &Look, bytes_max: usize) -> rusqlite::Result<Vec<ArchivedEvent>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM events WHERE seq = ?1"))?;
    let moment = Moment::of(conn, look)?;
    let (mut events, mut bytes) = (Vec::new(), 0_usize);
    for seq in seqs {
        if bytes > bytes_max {
            break;
        }
        let Some(event) = statement.query_map([seq], StoredEvent::read)?.next().transpose()? else { continue };
        if !event.is_intact {
            tracing::warn!(seq, "the stored bytes of this event are damaged");
        }
        bytes = bytes.saturating_add(event.body.len());
        events.push(ArchivedEvent {
            seq: u64::try_from(event.seq).unwrap_or(0),
            id: event.event_id,
            key: event.key,
            body: event.body,
            stored_at: timestamp(event.stored_at),
            hops: event.hops,
            redactions: event.redactions,
            deliveries: [deliveries(conn, *seq, &moment)?, seen::deliveries(conn, *seq, &moment.running)?].concat(),
        });
    }
    Ok(events)
}

fn deliveries(conn: &Connection, seq: i64, moment: &Moment<'_>) -> rusqlite::Result<Vec<DeliveryRecord>> {
    let mut statement = conn.prepare_cached(
        "SELECT d.id, r.name AS route, d.state, d.attempts, d.at, d.due_at, d.history, d.fate, l.id AS letter_id, l.letter
         FROM deliveries d JOIN routes r ON r.id = d.route LEFT JOIN dead_letters l ON l.delivery = d.id
         WHERE d.seq = ?1 ORDER BY r.name, d.id",
    )?;
    let rows = statement.query_map([seq], |row| delivery(row, moment))?;
    rows.filter_map(Result::transpose).collect()
}

/// `None` for a row that cannot be read, which is logged.
fn delivery(row: &Row<'_>, moment: &Moment<'_>) -> rusqlite::Result<Option<DeliveryRecord>> {
    let Ok(route) = row.get::<_, String>("route")?.parse::<RouteName>() else { return Ok(None) };
    let mut at: i64 = row.get("at")?;
    let mut attempts = u32::try_from(row.get::<_, i64>("attempts")?).unwrap_or(u32::MAX);
    let state = match row.get::<_, i64>("state")? {
        state @ (state::READY | state::WAITING) => {
            let due_at = row.get::<_, Option<i64>>("due_at")?.unwrap_or(at);
            if state == state::WAITING {
                at = due_at;
            }
            if state == state::WAITING && due_at > moment.now {
                DeliveryState::Waiting { error: history(row.get("history")?).pop().map(|attempt| attempt.error) }
            } else {
                let unsettled = moment.unsettled(&route, row.get("id")?);
                attempts = attempts.saturating_add(unsettled.failed);
                if let Some((due_at, error)) = unsettled.waits {
                    at = due_at;
                    DeliveryState::Waiting { error }
                } else if unsettled.in_hand {
                    DeliveryState::InHand { running_since: unsettled.running_since.map(timestamp), attempt: attempts.saturating_add(1) }
                } else {
                    DeliveryState::Queued
                }
            }
        }
        state::DONE => match row.get::<_, Option<String>>("fate")?.map(|fate| serde_json::from_str::<Fate>(&fate)) {
            Some(Ok(fate)) => DeliveryState::Finished(fate),
            trouble => {
                tracing::error!(?trouble, "the fate of a delivery cannot be read");
                return Ok(None);
            }
        },
        _ => {
            let id: Option<i64> = row.get("letter_id")?;
            match (id, row.get::<_, Option<String>>("letter")?.map(|letter| serde_json::from_str::<DeadLetter>(&letter))) {
                (Some(id), Some(Ok(letter))) => {
                    attempts = letter.attempts;
                    DeliveryState::Dead { id: id.to_string(), reason: letter.reason }
                }
                (_, trouble) => {
                    tracing::error!(?trouble, "the dead letter of a delivery cannot be read");
                    return Ok(None);
                }
            }
        }
    };
    Ok(Some(DeliveryRecord { route, state, attempts, at: timestamp(at) }))
}
