//! Durations as people write them by mistake: ours are integers with a unit suffix (`timeout_ms = 5000`), and the message should
//! show the right line.

use super::tree::{Node, NodeValue};

/// The unit that a key's suffix names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Seconds,
    Days,
}

impl Unit {
    const ALL: [(&'static str, Self); 3] = [("_ms", Self::Milliseconds), ("_s", Self::Seconds), ("_days", Self::Days)];

    fn milliseconds(self) -> u64 {
        match self {
            Self::Milliseconds => 1,
            Self::Seconds => 1_000,
            Self::Days => 86_400_000,
        }
    }

    /// So many of this unit, at least one.
    pub(super) fn count(self, milliseconds: u64) -> u64 {
        milliseconds.div_ceil(self.milliseconds())
    }
}

/// The unit of a key.
pub(super) fn unit_of(key: &str) -> Option<Unit> {
    Unit::ALL.iter().find(|(suffix, _)| key.ends_with(suffix)).map(|(_, unit)| *unit)
}

/// Suffixes that people use, longest first, and what they mean.
const SUFFIXES: [(&str, u64); 14] = [
    ("_milliseconds", 1),
    ("_seconds", 1_000),
    ("_minutes", 60_000),
    ("_millis", 1),
    ("_hours", 3_600_000),
    ("_days", 86_400_000),
    ("_secs", 1_000),
    ("_mins", 60_000),
    ("_sec", 1_000),
    ("_min", 60_000),
    ("_ms", 1),
    ("_s", 1_000),
    ("_m", 60_000),
    ("_h", 3_600_000),
];

/// The duration key that was meant by an unknown `key`, and the value for it, if that can be told.
pub(super) fn meant<'a>(key: &str, node: &Node, known: &[&'a str]) -> Option<(&'a str, Option<u64>)> {
    let (stem, factor) = SUFFIXES.iter().find_map(|(suffix, factor)| Some((key.strip_suffix(suffix)?, Some(*factor)))).unwrap_or((key, None));
    let (right, unit) = known.iter().find_map(|known| {
        let (suffix, unit) = Unit::ALL.iter().find(|(suffix, _)| known.ends_with(suffix))?;
        (known.strip_suffix(suffix)? == stem).then_some((*known, *unit))
    })?;
    let milliseconds_given = match &node.value {
        NodeValue::Text(text) => milliseconds(text.shown()),
        NodeValue::Integer(number) => u64::try_from(*number).ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor)),
        // Something else under this name is no duration.
        NodeValue::Float(_) => None,
        _ => return None,
    };
    Some((right, milliseconds_given.map(|given| unit.count(given))))
}

/// Reads `5s`, `500ms`, `1m30s`, `1.5h`.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    const LONGEST: f64 = 1e15;
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let factor = match &rest[..letters].to_ascii_lowercase()[..] {
            "ms" | "millis" | "milliseconds" => 1.0,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000.0,
            "d" | "day" | "days" => 86_400_000.0,
            _ => return None,
        };
        total += number * factor;
        rest = rest[letters..].trim_start();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small, and digits have no sign")]
    (total <= LONGEST).then_some(total.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{source::FileId, tree};

    #[test]
    fn durations_with_units_are_understood() {
        for (text, expected) in [
            ("5s", Some(5_000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1.5 h", Some(5_400_000)),
            ("2 days", Some(172_800_000)),
            ("5", None),
            ("s", None),
            ("", None),
            ("5 parsecs", None),
            ("1..2s", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn the_key_that_was_meant_is_named_with_its_value() {
        let known = ["timeout_ms", "window_s", "retention_days", "name"];
        for (line, expected) in [
            ("timeout = '5s'", Some(("timeout_ms", Some(5_000)))),
            ("timeout = 5", Some(("timeout_ms", None))),
            ("timeout_s = 5", Some(("timeout_ms", Some(5_000)))),
            ("window_ms = 1500", Some(("window_s", Some(2)))),
            ("window_minutes = 2", Some(("window_s", Some(120)))),
            ("retention = '48h'", Some(("retention_days", Some(2)))),
            ("timeout = true", None),
            ("names = 1", None),
        ] {
            let (table, _) = tree::parse(line, FileId::default());
            let entry = &table.entries[0];
            assert_eq!(meant(&entry.key, &entry.node, &known), expected, "{line}");
        }
    }
}
