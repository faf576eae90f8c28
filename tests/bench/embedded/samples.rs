//! What was measured, by name, one value a round; and what many rounds come to.

use std::collections::BTreeMap;

/// All values, by name.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<String, Vec<f64>>);

/// The median of several rounds, and between what they lay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Figure {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
        Some(Self { median, min, max })
    }

    /// `17 (16–19)`.
    pub fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}

impl Samples {
    /// The value of this round.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    /// Over all rounds.
    pub fn figure(&self, name: &str) -> Option<Figure> {
        Figure::of(self.0.get(name)?.iter().copied())
    }

    /// Of one to the other within each round.
    pub fn ratio(&self, of: &str, to: &str) -> Option<Figure> {
        Figure::of(self.0.get(of)?.iter().zip(self.0.get(to)?).map(|(of, to)| of / to))
    }

    /// As a cell of a table.
    pub fn cell(&self, name: &str, digits: usize) -> String {
        self.figure(name).map_or_else(|| "–".to_owned(), |figure| figure.text(digits))
    }

    /// A ratio as a cell of a table.
    pub fn ratio_cell(&self, of: &str, to: &str) -> String {
        self.ratio(of, to).map_or_else(|| "–".to_owned(), |figure| figure.text(2))
    }
}
