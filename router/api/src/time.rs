//! Times as producers write them: with an offset, with `Z`, or naive, which is taken as UTC.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Longer texts are no times; a limit, since the text comes from a peer.
const BYTES_MAX: usize = 64;

/// Reads a time. What is none is simply absent: an event with an odd time is still an event.
#[must_use]
pub fn read(text: &str) -> Option<Timestamp> {
    // With a zone in brackets and no offset the civil parser would take the time as UTC, and be wrong.
    if text.len() > BYTES_MAX || text.contains('[') {
        return None;
    }
    text.parse::<Timestamp>().ok().or_else(|| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_naive_times_are_read() {
        let noon: Timestamp = "2026-01-30T12:00:00Z".parse().unwrap();
        for text in [
            "2026-01-30T12:00:00Z",
            "2026-01-30T12:00:00",
            "2026-01-30T12:00:00+00:00",
            "2026-01-30T14:00:00+02:00",
            "2026-01-30 12:00:00",
            "2026-01-30T12:00:00.000000",
        ] {
            assert_eq!(read(text), Some(noon), "{text}");
        }
        assert_eq!(read("2026-11-22T11:31:47.910419+00:00"), read("2026-11-22T11:31:47.910419"));
        assert_eq!(read("2026-11-22T11:31:47.910419Z").unwrap().subsec_nanosecond(), 910_419_000);
    }

    #[test]
    fn what_is_no_time_is_absent() {
        for text in ["", "now", "1769774400", "2026-13-01T00:00:00Z", "2026-01-30T12:00:00[Europe/Berlin]", "2026-01-30T25:00:00", "99999-01-01T00:00:00Z"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(&"2".repeat(1 << 20)), None);
    }
}
