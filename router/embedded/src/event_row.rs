//! An event as a row of the archive: its columns and its checksum.

use bytes::Bytes;
use router_api::{Envelope, RoutingKey};
use rusqlite::{Connection, Row, params};

/// A row of `events` before it has a number.
#[derive(Debug)]
pub(crate) struct EventRow {
    pub(crate) key: RoutingKey,
    pub(crate) body: Bytes,
    /// In microseconds since 1970, as all times here.
    pub(crate) stored_at: i64,
    pub(crate) hops: u8,
    pub(crate) redactions: u32,
    pub(crate) traceparent: Option<String>,
    pub(crate) extracted: Extracted,
    crc: u32,
}

/// What queries look for, taken out of the body at intake.
#[derive(Debug, Default)]
pub(crate) struct Extracted {
    pub(crate) event_id: Option<String>,
    pub(crate) dialect: Option<&'static str>,
    pub(crate) event_type: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) happened_at: Option<i64>,
    pub(crate) tool_name: Option<String>,
}

impl Extracted {
    /// From an event that decodes.
    pub(crate) fn of(event: &Envelope) -> Self {
        Self {
            event_id: event.id().map(|id| id.as_str().to_owned()),
            dialect: Some(event.dialect().name()),
            event_type: event.event_type().map(str::to_owned),
            session: event.session_id().map(str::to_owned),
            happened_at: event.time().map(jiff::Timestamp::as_microsecond),
            tool_name: event.tool_name().map(str::to_owned),
        }
    }
}

/// In the column `wanted`.
pub(crate) const WANTED_UNKNOWN: i64 = -1;

impl EventRow {
    /// Sums it up, too, so that the writer need not.
    pub(crate) fn new(key: RoutingKey, body: Bytes, stored_at: i64, hops: u8, redactions: u32, traceparent: Option<String>, extracted: Extracted) -> Self {
        let crc = checksum(key.as_str(), stored_at, hops, redactions, extracted.event_id.as_deref(), traceparent.as_deref(), &body);
        Self { key, body, stored_at, hops, redactions, traceparent, extracted, crc }
    }

    /// As it would be read, once it has this number.
    pub(crate) fn stored(&self, seq: i64) -> StoredEvent {
        StoredEvent {
            seq,
            key: self.key.clone(),
            stored_at: self.stored_at,
            hops: self.hops,
            redactions: self.redactions,
            event_id: self.extracted.event_id.clone(),
            traceparent: self.traceparent.clone(),
            body: self.body.clone(),
            is_intact: true,
        }
    }

    /// Inserts the row; returns its number. `wanted` is how many routes wanted it, [`WANTED_UNKNOWN`] where nobody can tell.
    pub(crate) fn insert(&self, conn: &Connection, wanted: i64) -> rusqlite::Result<i64> {
        let mut statement = conn.prepare_cached(
            "INSERT INTO events (key, stored_at, hops, redactions, wanted, event_id, dialect, event_type, session, happened_at, tool_name, traceparent, crc, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?;
        let extracted = &self.extracted;
        statement.insert(params![
            self.key.as_str(),
            self.stored_at,
            self.hops,
            self.redactions,
            wanted,
            extracted.event_id,
            extracted.dialect,
            extracted.event_type,
            extracted.session,
            extracted.happened_at,
            extracted.tool_name,
            self.traceparent,
            self.crc,
            self.body.as_ref(),
        ])
    }
}

/// The columns that [`StoredEvent::read`] reads, in its order.
pub(crate) const COLUMNS: &str = "seq, key, stored_at, hops, redactions, event_id, traceparent, crc, body";

/// A row of `events` as it was read.
#[derive(Debug)]
pub(crate) struct StoredEvent {
    pub(crate) seq: i64,
    pub(crate) key: RoutingKey,
    pub(crate) stored_at: i64,
    pub(crate) hops: u8,
    pub(crate) redactions: u32,
    pub(crate) event_id: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) body: Bytes,
    /// The checksum is that of the content.
    pub(crate) is_intact: bool,
}

impl StoredEvent {
    /// Reads a row that has [`COLUMNS`] first. Damage never fails it: what cannot be read becomes empty, and the row counts as not
    /// intact.
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let text = |index: usize| -> rusqlite::Result<Option<String>> {
            let value = row.get_ref(index)?;
            Ok(match value {
                rusqlite::types::ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => None,
            })
        };
        let number = |index: usize| -> rusqlite::Result<i64> { Ok(row.get_ref(index)?.as_i64().unwrap_or(0)) };
        let key_text = text(1)?.unwrap_or_default();
        let (stored_at, crc) = (number(2)?, number(7)?);
        let (hops, redactions) = (u8::try_from(number(3)?), u32::try_from(number(4)?));
        let (event_id, traceparent) = (text(5)?, text(6)?);
        let body = match row.get_ref(8)? {
            rusqlite::types::ValueRef::Blob(bytes) | rusqlite::types::ValueRef::Text(bytes) => Bytes::copy_from_slice(bytes),
            _ => Bytes::new(),
        };
        let key = RoutingKey::new(&key_text);
        let is_intact = match (&key, hops, redactions) {
            (Ok(key), Ok(hops), Ok(redactions)) => {
                crc == i64::from(checksum(key.as_str(), stored_at, hops, redactions, event_id.as_deref(), traceparent.as_deref(), &body))
            }
            _ => false,
        };
        let key = key.or_else(|_| RoutingKey::new("")).expect("the empty key is a routing key");
        Ok(Self {
            seq: number(0)?,
            key,
            stored_at,
            hops: hops.unwrap_or_default(),
            redactions: redactions.unwrap_or_default(),
            event_id,
            traceparent,
            body,
            is_intact,
        })
    }
}

/// Over everything that a handler may see. Each part is preceded by its length, so that no byte can move from one to the next.
fn checksum(key: &str, stored_at: i64, hops: u8, redactions: u32, event_id: Option<&str>, traceparent: Option<&str>, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(key.as_bytes());
    part(&stored_at.to_le_bytes());
    part(&[hops]);
    part(&redactions.to_le_bytes());
    for text in [event_id, traceparent] {
        part(&[u8::from(text.is_some())]);
        part(text.unwrap_or_default().as_bytes());
    }
    part(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(conn: &Connection) -> StoredEvent {
        conn.query_row(&format!("SELECT {COLUMNS} FROM events"), [], StoredEvent::read).unwrap()
    }

    #[test]
    fn a_row_comes_back_byte_for_byte_and_each_change_of_it_is_noticed() {
        let conn = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&conn).unwrap();
        let extracted = Extracted { event_id: Some("id".to_owned()), ..Extracted::default() };
        let row = EventRow::new("a.b".parse().unwrap(), Bytes::from_static(b"\x00\xff{"), 17, 3, 2, Some("00-1".to_owned()), extracted);
        row.insert(&conn, 1).unwrap();
        let back = stored(&conn);
        assert!(back.is_intact);
        assert_eq!((back.seq, back.key.as_str(), &back.body[..], back.stored_at, back.hops, back.redactions), (1, "a.b", &b"\x00\xff{"[..], 17, 3, 2));
        assert_eq!((back.event_id.as_deref(), back.traceparent.as_deref()), (Some("id"), Some("00-1")));

        for change in [
            "key = 'a.c'",
            "key = x'ff'",
            "body = x'00fe7b'",
            "body = 1",
            "stored_at = 18",
            "hops = 4",
            "hops = 400",
            "redactions = -1",
            "event_id = NULL",
            "traceparent = ''",
            "crc = 'x'",
        ] {
            conn.execute_batch("BEGIN").unwrap();
            conn.execute(&format!("UPDATE events SET {change}"), []).unwrap();
            assert!(!stored(&conn).is_intact, "{change}");
            conn.execute_batch("ROLLBACK").unwrap();
        }
    }
}
