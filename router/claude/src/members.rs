//! JSON objects whose members keep their order: people read events, and Bloodbank's have an order.

use jiff::{Timestamp, tz::Offset};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

/// The members of an object, in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Members(pub Vec<(&'static str, Field)>);

/// What a member is.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// Any JSON.
    Plain(Value),
    /// An object whose members have an order.
    Nested(Members),
}

impl<T: Into<Value>> From<T> for Field {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::Nested(members) => members.serialize(serializer),
        }
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, field) in &self.0 {
            map.serialize_entry(name, field)?;
        }
        map.end()
    }
}

/// As Python writes it: microseconds only where there are any, the offset as `+00:00`, nothing for a time that has no zone.
#[must_use]
pub fn isoformat(time: &jiff::civil::DateTime, offset: Option<Offset>) -> String {
    let mut text = format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", time.year(), time.month(), time.day(), time.hour(), time.minute(), time.second());
    let micros = time.subsec_nanosecond() / 1_000;
    if micros > 0 {
        text.push_str(&format!(".{micros:06}"));
    }
    if let Some(offset) = offset {
        let seconds = offset.seconds();
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.unsigned_abs() / 60;
        text.push_str(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60));
    }
    text
}

/// A time with its zone, which is UTC.
#[must_use]
pub fn zoned(now: Timestamp) -> String {
    isoformat(&Offset::UTC.to_datetime(now), Some(Offset::UTC))
}

/// A time without a zone: how Bloodbank fills a start that was not given.
#[must_use]
pub fn naive(now: Timestamp) -> String {
    isoformat(&Offset::UTC.to_datetime(now), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        let now: Timestamp = "2026-11-22T11:31:48.057650Z".parse().unwrap();
        assert_eq!(naive(now), "2026-11-22T11:31:48.057650");
        assert_eq!(zoned(now), "2026-11-22T11:31:48.057650+00:00");
        assert_eq!(naive(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00");
        let civil = jiff::civil::date(2026, 1, 2).at(3, 4, 5, 0);
        assert_eq!(isoformat(&civil, Some(jiff::tz::offset(-5))), "2026-01-02T03:04:05-05:00");
    }

    #[test]
    fn members_are_written_in_their_order() {
        let members = Members(vec![("z", 1.into()), ("a", Field::Nested(Members(vec![("c", Value::Null.into()), ("b", "x".into())])))]);
        assert_eq!(serde_json::to_string(&members).unwrap(), r#"{"z":1,"a":{"c":null,"b":"x"}}"#);
    }
}
