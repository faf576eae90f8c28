//! The store as operators see it: queues and dead letters.

use async_trait::async_trait;
use router_api::{DeadLetter, DeadLetterQuery, QueueStats, RouteName, StoredDeadLetter, TransportAdmin, TransportError};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    Embedded,
    embedded::{refusal, unreadable},
    event_row::{COLUMNS, StoredEvent},
    settle::json,
    store_time::timestamp,
    writer::Writing,
};

/// Dead letters listed if the query does not say.
const LISTED: u32 = 100;
/// Rows removed in one commit when a queue is removed.
const REMOVED_AT_ONCE: i64 = 5_000;

#[async_trait]
impl TransportAdmin for Embedded {
    async fn queues(&self) -> Result<Vec<QueueStats>, TransportError> {
        let now = self.shared.time.now();
        let counted = self.shared.far.read(move |conn| count_queues(conn, now)).await.map_err(|error| unreadable(&error))?;
        let stats = counted.into_iter().map(|(id, mut stats)| {
            stats.in_flight = self.shared.queue_if_known(id).map_or(0, |queue| queue.in_hand());
            // What is in hand counts as unsettled in the file. Both numbers move while they are read.
            stats.ready = stats.ready.saturating_sub(stats.in_flight);
            stats
        });
        Ok(stats.collect())
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, TransportError> {
        let DeadLetterQuery { route, reason, class, limit } = query.clone();
        let read = move |conn: &Connection| {
            let mut statement = conn.prepare_cached(&letters(
                "(?1 IS NULL OR l.route = (SELECT id FROM routes WHERE name = ?1)) AND (?2 IS NULL OR l.reason = ?2)
                    AND (?4 IS NULL OR (json_valid(l.letter) AND json_extract(l.letter, '$.history[#-1].class') = ?4)) ORDER BY l.id DESC LIMIT ?3",
            ))?;
            let rows = statement.query_map(params![route.as_ref().map(RouteName::as_str), reason, limit.unwrap_or(LISTED), class], stored_letter)?;
            rows.filter_map(Result::transpose).collect()
        };
        self.shared.far.read(read).await.map_err(|error| unreadable(&error))
    }

    async fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>, TransportError> {
        let Ok(id) = id.parse::<i64>() else { return Ok(None) };
        let read = move |conn: &Connection| conn.prepare_cached(&letters("l.id = ?1"))?.query_row([id], stored_letter).optional();
        Ok(self.shared.far.read(read).await.map_err(|error| unreadable(&error))?.flatten())
    }

    async fn redrive(&self, ids: &[String]) -> Result<u64, TransportError> {
        let (ids, shared) = (numbers(ids), std::sync::Arc::clone(&self.shared));
        let run = move |writing: &Writing<'_>| {
            let moved = ids.iter().map(|id| redrive(writing, *id));
            moved.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<(i64, i64)>>>()
        };
        let wake = move |moved: &Vec<(i64, i64)>| {
            for (route, due_at) in moved {
                if let Some(queue) = shared.queue_if_known(*route) {
                    queue.note_waiting(*due_at);
                }
            }
        };
        let moved = self.shared.writer.write_then(run, wake).await.map_err(refusal)?;
        Ok(moved.len() as u64)
    }

    async fn discard(&self, ids: &[String]) -> Result<u64, TransportError> {
        let ids = numbers(ids);
        let discarded = move |writing: &Writing<'_>| {
            let mut letter = writing.conn.prepare_cached("DELETE FROM dead_letters WHERE id = ?1 RETURNING delivery")?;
            let mut delivery = writing.conn.prepare_cached("DELETE FROM deliveries WHERE id = ?1")?;
            let mut count = 0u64;
            for id in &ids {
                let row: Option<i64> = letter.query_row([id], |row| row.get(0)).optional()?;
                if let Some(row) = row {
                    delivery.execute([row])?;
                    count += 1;
                }
            }
            Ok(count)
        };
        self.shared.writer.write(discarded).await.map_err(refusal)
    }

    async fn remove_queue(&self, route: &RouteName) -> Result<u64, TransportError> {
        let mut removed = 0;
        loop {
            let (name, shared) = (route.clone(), std::sync::Arc::clone(&self.shared));
            // Both questions are asked by the writer, between a `bind` and the next.
            let step = self.shared.writer.write(move |writing| remove_some(writing.conn, &name, |id| shared.is_consumed(id))).await.map_err(refusal)??;
            removed += step;
            if step < REMOVED_AT_ONCE as u64 {
                return Ok(removed);
            }
        }
    }
}

fn numbers(ids: &[String]) -> Vec<i64> {
    ids.iter().filter_map(|id| id.parse().ok()).collect()
}

fn count_queues(conn: &Connection, now: i64) -> rusqlite::Result<Vec<(i64, QueueStats)>> {
    let mut statement = conn.prepare_cached(
        "SELECT id, name,
            (SELECT count(*) FROM deliveries d WHERE d.state = 0 AND d.route = routes.id),
            (SELECT count(*) FROM deliveries d WHERE d.state = 1 AND d.route = routes.id AND d.due_at <= ?1),
            (SELECT count(*) FROM deliveries d WHERE d.state = 1 AND d.route = routes.id AND d.due_at > ?1),
            (SELECT count(*) FROM dead_letters l WHERE l.route = routes.id),
            (SELECT seq FROM deliveries d WHERE d.state = 0 AND d.route = routes.id ORDER BY d.id LIMIT 1),
            (SELECT min(seq) FROM deliveries d WHERE d.state = 1 AND d.route = routes.id),
            queue
         FROM routes ORDER BY name",
    )?;
    let mut rows = statement.query([now])?;
    let mut queues = Vec::new();
    while let Some(row) = rows.next()? {
        let count = |index: usize| -> rusqlite::Result<u64> { Ok(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0)) };
        let Ok(route) = row.get::<_, String>(1)?.parse::<RouteName>() else { continue };
        let (ready, due, waiting, dead) = (count(2)?, count(3)?, count(4)?, count(5)?);
        let has_queue: bool = row.get(8)?;
        // The dead letters of a removed queue are still there to be looked at.
        if !has_queue && ready + due + waiting + dead == 0 {
            continue;
        }
        let oldest: Option<i64> = [row.get::<_, Option<i64>>(6)?, row.get(7)?].into_iter().flatten().min();
        let oldest = match oldest {
            Some(seq) => conn.prepare_cached("SELECT stored_at FROM events WHERE seq = ?1")?.query_row([seq], |row| row.get(0)).optional()?.map(timestamp),
            None => None,
        };
        queues.push((row.get(0)?, QueueStats { route, ready: ready + due, waiting, in_flight: 0, dead, oldest }));
    }
    Ok(queues)
}

fn letters(condition: &str) -> String {
    let columns = COLUMNS.split(", ").map(|column| format!("e.{column}")).collect::<Vec<_>>().join(", ");
    format!(
        "SELECT {columns}, l.id, l.delivery, l.letter
         FROM dead_letters l JOIN deliveries d ON d.id = l.delivery JOIN events e ON e.seq = d.seq WHERE {condition}"
    )
}

/// `None` for a letter that cannot be read, which is logged.
fn stored_letter(row: &Row<'_>) -> rusqlite::Result<Option<StoredDeadLetter>> {
    let event = StoredEvent::read(row)?;
    let (id, delivery): (i64, i64) = (row.get("id")?, row.get("delivery")?);
    let letter: DeadLetter = match serde_json::from_str(&row.get::<_, String>("letter")?) {
        Ok(letter) => letter,
        Err(error) => {
            tracing::error!(dead_letter = id, %error, "a dead letter cannot be read");
            return Ok(None);
        }
    };
    let seq = u64::try_from(event.seq).ok();
    Ok(Some(StoredDeadLetter {
        id: id.to_string(),
        key: event.key,
        body: event.body,
        stored_at: timestamp(event.stored_at),
        seq,
        identity: Some(delivery.to_string()),
        letter,
    }))
}

/// Returns the route and when it is due; `None` if there is no such letter.
fn redrive(writing: &Writing<'_>, id: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    let Writing { conn, now, .. } = *writing;
    let letter: Option<(i64, i64, String)> = conn
        .prepare_cached("DELETE FROM dead_letters WHERE id = ?1 RETURNING delivery, route, letter")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((delivery, route, letter)) = letter else { return Ok(None) };
    let history = serde_json::from_str::<DeadLetter>(&letter).ok().and_then(|letter| json(&letter.history).ok());
    conn.prepare_cached(
        "UPDATE deliveries SET state = 1, due_at = ?2, at = ?2, direct = 1, attempts = 0, handed = 1, history = coalesce(?3, history) WHERE id = ?1",
    )?
    .execute(params![delivery, now, history])?;
    // It starts anew: neither earlier attempts nor crashes count against it.
    let identity = delivery.to_string();
    for table in ["noted_attempts", "suspects"] {
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE identity = ?1 AND route = (SELECT name FROM routes WHERE id = ?2)"))?
            .execute(params![identity, route])?;
    }
    conn.prepare_cached("UPDATE routes SET queue = 1 WHERE id = ?1 AND queue = 0")?.execute([route])?;
    Ok(Some((route, now)))
}

/// Removes some of a queue's events; the answer is how many.
fn remove_some(conn: &Connection, route: &RouteName, is_consumed: impl Fn(i64) -> bool) -> rusqlite::Result<Result<u64, TransportError>> {
    let found: Option<(i64, bool)> = conn
        .prepare_cached("SELECT id, patterns IS NOT NULL FROM routes WHERE name = ?1")?
        .query_row([route.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, is_bound)) = found else { return Ok(Ok(0)) };
    if is_bound {
        return Ok(Err(TransportError::Refused(format!("route `{route}` is bound: take it out of the configuration first"))));
    }
    if is_consumed(id) {
        return Ok(Err(TransportError::Refused(format!("the queue of route `{route}` is being consumed: stop the route first"))));
    }
    conn.execute("UPDATE routes SET queue = 0 WHERE id = ?1", [id])?;
    let mut removed = 0;
    for state in ["0", "1"] {
        let sql = format!("DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE state = {state} AND route = ?1 LIMIT ?2)");
        removed += conn.execute(&sql, params![id, REMOVED_AT_ONCE - i64::try_from(removed).unwrap_or(0)])?;
    }
    for table in ["frozen_bursts", "noted_attempts", "suspects", "inbox"] {
        conn.execute(&format!("DELETE FROM {table} WHERE route = ?1"), [route.as_str()])?;
    }
    Ok(Ok(removed as u64))
}
