//! Many runs become a median with its extremes.

use crate::run::Measured;

/// The median of several runs, and between what they lay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Figure {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
        Some(Self { median, min, max })
    }

    /// Of one property of many runs.
    pub fn over(runs: &[Measured], property: impl Fn(&Measured) -> f64) -> Option<Self> {
        Self::of(runs.iter().map(property))
    }
}
