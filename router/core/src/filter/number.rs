//! Numbers of JSON compared by value, whether they are written as integers or not.

use std::{cmp::Ordering, fmt};

use serde_json::{Number, Value};

/// A number, never NaN.
#[derive(Debug, Clone, Copy)]
pub(super) enum Num {
    /// All that JSON's integers can be: `i64` and `u64`.
    Int(i128),
    Float(f64),
}

impl Num {
    /// `None` for what is no finite number.
    pub(super) fn of(number: &Number) -> Option<Self> {
        if let Some(int) = number.as_i64() {
            return Some(Self::Int(int.into()));
        }
        if let Some(int) = number.as_u64() {
            return Some(Self::Int(int.into()));
        }
        number.as_f64().filter(|float| float.is_finite()).map(Self::Float)
    }

    pub(super) fn to_value(self) -> Value {
        match self {
            Self::Int(int) => i64::try_from(int).map(Value::from).or_else(|_| u64::try_from(int).map(Value::from)).unwrap_or(Value::Null),
            Self::Float(float) => Value::from(float),
        }
    }

    /// By value, exactly: no integer is rounded to a float on the way.
    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => left.cmp(&right),
            (Self::Float(left), Self::Float(right)) => left.partial_cmp(&right).unwrap_or(Ordering::Equal),
            (Self::Int(int), Self::Float(float)) => int_to_float(int, float),
            (Self::Float(float), Self::Int(int)) => int_to_float(int, float).reverse(),
        }
    }
}

fn int_to_float(int: i128, float: f64) -> Ordering {
    // Saturates far outside of what `int` can be, which orders just as well.
    let whole = float.trunc();
    int.cmp(&(whole as i128)).then_with(|| 0.0_f64.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal))
}

impl PartialEq for Num {
    fn eq(&self, other: &Self) -> bool {
        self.compare(*other) == Ordering::Equal
    }
}

impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => write!(f, "{int}"),
            Self::Float(_) => write!(f, "{}", self.to_value()),
        }
    }
}

/// From one number to another; a missing end is open.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Range {
    pub(super) lower: Option<Bound>,
    pub(super) upper: Option<Bound>,
}

/// An end of a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) at: Num,
    /// The number itself is within.
    pub(super) inclusive: bool,
}

impl Range {
    pub(super) fn contains(self, number: Num) -> bool {
        let above = self.lower.is_none_or(|bound| match number.compare(bound.at) {
            Ordering::Greater => true,
            Ordering::Equal => bound.inclusive,
            Ordering::Less => false,
        });
        let below = self.upper.is_none_or(|bound| match number.compare(bound.at) {
            Ordering::Less => true,
            Ordering::Equal => bound.inclusive,
            Ordering::Greater => false,
        });
        above && below
    }

    /// No number can be within.
    pub(super) fn is_empty(self) -> bool {
        let (Some(lower), Some(upper)) = (self.lower, self.upper) else { return false };
        match lower.at.compare(upper.at) {
            Ordering::Less => false,
            Ordering::Equal => !(lower.inclusive && upper.inclusive),
            Ordering::Greater => true,
        }
    }

    /// As the operator takes it: `[">", 5, "<=", 10]`.
    pub(super) fn to_value(self) -> Value {
        if let (Some(lower), Some(upper)) = (self.lower, self.upper)
            && lower == upper
        {
            return Value::from(vec![Value::from("="), lower.at.to_value()]);
        }
        let lower = self.lower.map(|bound| (if bound.inclusive { ">=" } else { ">" }, bound.at));
        let upper = self.upper.map(|bound| (if bound.inclusive { "<=" } else { "<" }, bound.at));
        lower.into_iter().chain(upper).flat_map(|(sign, at)| [Value::from(sign), at.to_value()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_by_value_without_rounding() {
        let big = 9_007_199_254_740_993_i128;
        assert_eq!(Num::Int(5), Num::Float(5.0));
        assert_eq!(Num::Int(0), Num::Float(-0.0));
        assert_ne!(Num::Int(big), Num::Float(9_007_199_254_740_992.0));
        assert_eq!(Num::Int(5).compare(Num::Float(5.5)), Ordering::Less);
        assert_eq!(Num::Int(-5).compare(Num::Float(-5.5)), Ordering::Greater);
        assert_eq!(Num::Float(1e300).compare(Num::Int(u64::MAX.into())), Ordering::Greater);
        assert_eq!(Num::Float(-1e300).compare(Num::Int(i64::MIN.into())), Ordering::Less);
        assert_eq!(Num::of(&Number::from(u64::MAX)), Some(Num::Int(u64::MAX.into())));
    }

    #[test]
    fn a_range_knows_its_ends_and_whether_anything_fits() {
        let bound = |at, inclusive| Some(Bound { at: Num::Int(at), inclusive });
        let range = Range { lower: bound(5, false), upper: bound(10, true) };
        assert!(!range.contains(Num::Int(5)) && range.contains(Num::Float(5.1)) && range.contains(Num::Int(10)) && !range.contains(Num::Float(10.1)));
        assert!(!range.is_empty());
        assert!(Range { lower: bound(10, true), upper: bound(5, true) }.is_empty());
        assert!(Range { lower: bound(5, false), upper: bound(5, true) }.is_empty());
        assert!(!Range { lower: bound(5, true), upper: bound(5, true) }.is_empty());
    }
}
