//! Numbers that many threads add to, and how they are written in Prometheus's text format 0.0.4.

use std::{
    fmt::{Display, Write as _},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that only grows, while the process lives.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the values of a histogram are counted in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    /// Kept in nanoseconds, shown in seconds.
    Seconds,
    /// Whole things.
    Count,
}

/// How often values came, by size. The bounds are fixed, so a value costs two additions and no memory.
#[derive(Debug)]
pub(super) struct Histogram {
    unit: Unit,
    /// Rising.
    bounds: &'static [u64],
    /// One for each bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(unit: Unit, bounds: &'static [u64]) -> Self {
        Self { unit, bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    fn shown(&self, value: u64) -> f64 {
        match self.unit {
            Unit::Seconds => value as f64 / 1e9,
            Unit::Count => value as f64,
        }
    }
}

/// What kind of number a family has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A name of a label and its value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// The text under construction: a family first, then its samples.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", help.replace('\\', "\\\\").replace('\n', "\\n"));
    }

    /// Adds a sample to the family.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Adds the samples of a histogram to the family.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        let mut total = 0u64;
        for (at, count) in histogram.counts.iter().enumerate() {
            total = total.saturating_add(count.load(Ordering::Relaxed));
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), |bound| histogram.shown(*bound).to_string());
            self.line("_bucket", labels, Some(&bound), total);
        }
        self.line("_sum", labels, None, histogram.shown(histogram.sum.load(Ordering::Relaxed)));
        // Of the same reading as the buckets: the two must not disagree.
        self.line("_count", labels, None, total);
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<&str>, value: impl Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let mut opened = false;
        for (name, text) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.text.push(if opened { ',' } else { '{' });
            opened = true;
            self.text.push_str(name);
            self.text.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if opened {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_within_it_and_buckets_add_up() {
        let histogram = Histogram::new(Unit::Seconds, &[1_000_000, 2_500_000_000]);
        for duration in [Duration::from_millis(1), Duration::from_secs(2), Duration::from_secs(9)] {
            histogram.observe_duration(duration);
        }
        let mut out = Exposition::default();
        out.family("a_seconds", Kind::Histogram, "What\nit \\ is.");
        out.histogram(&[("route", "r")], &histogram);
        assert_eq!(
            out.into_text(),
            "# HELP a_seconds What\\nit \\\\ is.\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{route=\"r\",le=\"0.001\"} 1\na_seconds_bucket{route=\"r\",le=\"2.5\"} 2\na_seconds_bucket{route=\"r\",le=\"+Inf\"} 3\n\
             a_seconds_sum{route=\"r\"} 11.001\na_seconds_count{route=\"r\"} 3\n"
        );
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let mut out = Exposition::default();
        out.family("a", Kind::Gauge, "A.");
        out.sample(&[("x", "a\"b\\c\nd")], 1);
        out.sample(&[], 2);
        assert!(out.into_text().ends_with("a{x=\"a\\\"b\\\\c\\nd\"} 1\na 2\n"));
    }
}
