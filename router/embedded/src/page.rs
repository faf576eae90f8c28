//! The archive in the order in which it grew, page by page: for those that follow it.

use router_api::{Page, PageQuery};
use rusqlite::{Connection, ToSql, params_from_iter};

use crate::{
    archive::{Look, read_all},
    schema::last_seq,
};

/// Rows that one look walks over: a pattern that fits nothing must not hold a reader for a whole archive.
const ROWS_MAX: usize = 20_000;

pub(crate) const OF_ALL: &str = "SELECT seq, key, stored_at FROM events WHERE seq > ?1 ORDER BY seq";
pub(crate) const OF_SESSION: &str = "SELECT seq, key, stored_at FROM events WHERE session IS NOT NULL AND session = ?2 AND seq > ?1 ORDER BY seq";

/// See [`router_api::Store::page`].
pub(crate) fn page(conn: &Connection, query: &PageQuery, look: &Look) -> rusqlite::Result<Page> {
    let snapshot = conn.unchecked_transaction()?;
    let newest = u64::try_from(last_seq(&snapshot)?).unwrap_or(0);
    let after = i64::try_from(query.after).unwrap_or(i64::MAX);
    let (sql, values): (&str, Vec<&dyn ToSql>) = match &query.session {
        Some(session) => (OF_SESSION, vec![&after, session]),
        None => (OF_ALL, vec![&after]),
    };
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).max(1);
    let (from, to) = (query.from.map(|from| from.as_microsecond()), query.to.map(|to| to.as_microsecond()));
    let (mut seqs, mut looked_to, mut walked) = (Vec::new(), query.after, 0);
    let mut at_end = true;
    {
        let mut statement = snapshot.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            looked_to = u64::try_from(seq).unwrap_or(looked_to);
            walked += 1;
            let at: i64 = row.get(2)?;
            let in_time = from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to);
            let fits = |pattern: &router_api::RoutingPattern| {
                row.get_ref(1).ok().and_then(|key| key.as_str().ok()?.parse().ok()).is_some_and(|key| pattern.matches(&key))
            };
            if in_time && query.key.as_ref().is_none_or(fits) {
                seqs.push(seq);
            }
            if seqs.len() >= limit || walked >= ROWS_MAX {
                at_end = false;
                break;
            }
        }
    }
    // The last rows may have been of other sessions, and need no second look.
    if at_end {
        looked_to = looked_to.max(newest);
    }
    let events = read_all(&snapshot, &seqs, look, query.bytes_max)?;
    // What did not fit into the answer is looked at again.
    if let Some(last) = events.last().filter(|_| events.len() < seqs.len()) {
        looked_to = last.seq;
    }
    Ok(Page { events, looked_to, newest })
}
