//! What models cost: [`Prices`]. Data with a date, that users can replace.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use crate::{Reach, SlotUsage, Tokens};

static BUILTIN: &str = include_str!("prices.toml");
/// Dollars for a million tokens; beyond it a digit is wrong.
const RATE_MAX: f64 = 100_000.0;

/// US dollars for a million tokens of each class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// See [`Tokens::input`].
    pub input: f64,
    /// See [`Tokens::output`].
    pub output: f64,
    /// See [`Tokens::cache_write_5m`].
    pub cache_write_5m: f64,
    /// See [`Tokens::cache_write_1h`].
    pub cache_write_1h: f64,
    /// See [`Tokens::cache_read`].
    pub cache_read: f64,
}

impl Rates {
    fn cost(&self, tokens: &Tokens) -> f64 {
        let parts = [
            (tokens.input, self.input),
            (tokens.output, self.output),
            (tokens.cache_write_5m, self.cache_write_5m),
            (tokens.cache_write_1h, self.cache_write_1h),
            (tokens.cache_read, self.cache_read),
        ];
        parts.into_iter().map(|(tokens, rate)| tokens as f64 * rate).sum::<f64>() / 1e6
    }
}

/// What one model costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Of requests of any length, unless `above` says otherwise.
    pub rates: Rates,
    /// Of requests that reach at least so far.
    pub above: Option<(Reach, Rates)>,
    /// What the fast mode multiplies all of it with; `None` where that is not known.
    pub fast: Option<f64>,
}

/// The table of prices.
#[derive(Debug, Clone, PartialEq)]
pub struct Prices {
    as_of: String,
    source: String,
    models: BTreeMap<String, Price>,
}

/// A table of prices cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// The file.
    #[error("the prices `{}` cannot be read: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// What stands in it.
    #[error("the prices `{}`, line {line}, column {column}: {why}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong there.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    as_of: Option<Spanned<String>>,
    source: Option<String>,
    #[serde(default, rename = "model")]
    models: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    names: Spanned<Vec<Spanned<String>>>,
    input: Spanned<f64>,
    output: Spanned<f64>,
    cache_write_5m: Spanned<f64>,
    cache_write_1h: Spanned<f64>,
    cache_read: Spanned<f64>,
    fast: Option<Spanned<f64>>,
    above: Option<Above>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Above {
    tokens: Spanned<u64>,
    input: Spanned<f64>,
    output: Spanned<f64>,
    cache_write_5m: Spanned<f64>,
    cache_write_1h: Spanned<f64>,
    cache_read: Spanned<f64>,
}

/// What is wrong in a text with prices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct WrongPrices {
    /// Where, in bytes.
    pub span: Range<usize>,
    /// What is wrong there.
    pub why: String,
}

fn wrong(span: Range<usize>, why: impl Into<String>) -> WrongPrices {
    WrongPrices { span, why: why.into() }
}

impl Prices {
    /// A file with prices is no larger.
    pub const FILE_BYTES_MAX: u64 = 1 << 20;

    /// The table that is built in.
    ///
    /// # Panics
    ///
    /// Never: it is read in a test.
    #[must_use]
    pub fn builtin() -> Self {
        Self { as_of: String::new(), source: String::new(), models: BTreeMap::new() }.with(BUILTIN).expect("the table that is built in is read by a test")
    }

    /// The built-in table, with the models of the file at `path` in place of those with the same names.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or says what makes no sense; with line and column.
    pub fn with_overrides(path: &Path) -> Result<Self, PricesError> {
        let unreadable = |error| PricesError::Unreadable { path: path.to_owned(), error };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        let length = metadata.len();
        // What is no file may never end, or begin.
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("it is no file")));
        }
        if length > Self::FILE_BYTES_MAX {
            return Err(unreadable(io::Error::other(format!("it has {length} bytes, and a table of prices at most {}", Self::FILE_BYTES_MAX))));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let base = Self::builtin();
        let mut prices = base.clone().with(&text).map_err(|wrong| {
            let (line, column) = place(&text, wrong.span.start);
            PricesError::Invalid { path: path.to_owned(), line, column, why: wrong.why }
        })?;
        if prices.source == base.source {
            prices.source = format!("{}, and `{}`", base.source, path.display());
        }
        Ok(prices)
    }

    /// The built-in table, with the models of `text` in place of those with the same names.
    ///
    /// # Errors
    ///
    /// When it says what makes no sense.
    pub fn over_builtin(text: &str) -> Result<Self, WrongPrices> {
        Self::builtin().with(text)
    }

    /// The date of which the table holds, `2026-11-22`.
    #[must_use]
    pub fn as_of(&self) -> &str {
        &self.as_of
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What a model costs; its name may have a date at its end, or say how long its context is (`…[1m]`).
    #[must_use]
    pub fn price(&self, model: &str) -> Option<&Price> {
        let plain = model.split_once('[').map_or(model, |(plain, _)| plain);
        [model, plain, undated(plain)].into_iter().find_map(|name| self.models.get(name))
    }

    pub(crate) fn knows(&self, model: &str) -> bool {
        self.price(model).is_some()
    }

    /// What usage cost; `None` where the price is not known. What the transcript itself says it cost is taken as it is.
    #[must_use]
    pub fn cost(&self, usage: &SlotUsage) -> Option<f64> {
        if usage.tokens.total() == 0 {
            return Some(usage.cost_said);
        }
        let price = self.price(&usage.model)?;
        let rates = match &price.above {
            Some((reach, rates)) if usage.reach >= *reach => rates,
            _ => &price.rates,
        };
        let factor = if usage.is_fast { price.fast? } else { 1.0 };
        Some(rates.cost(&usage.tokens) * factor + usage.cost_said)
    }

    fn with(mut self, text: &str) -> Result<Self, WrongPrices> {
        let file: File = toml::from_str(text).map_err(|error| wrong(error.span().unwrap_or_default(), error.message()))?;
        if let Some(as_of) = file.as_of {
            let span = as_of.span();
            let as_of = as_of.into_inner();
            if as_of.parse::<jiff::civil::Date>().is_err() {
                return Err(wrong(span, format!("`as_of` is a date such as `2026-11-22`, not `{as_of}`")));
            }
            self.as_of = as_of;
        }
        if let Some(source) = file.source {
            self.source = source;
        }
        let mut named: BTreeMap<String, Price> = BTreeMap::new();
        for model in file.models {
            let rates = rates([&model.input, &model.output, &model.cache_write_5m, &model.cache_write_1h, &model.cache_read])?;
            let above = match &model.above {
                None => None,
                Some(above) => {
                    let reach = match above.tokens.get_ref() {
                        100_000 => Reach::Long,
                        200_000 => Reach::Longest,
                        other => return Err(wrong(above.tokens.span(), format!("`tokens` is 100_000 or 200_000, not {other}"))),
                    };
                    let rates = self::rates([&above.input, &above.output, &above.cache_write_5m, &above.cache_write_1h, &above.cache_read])?;
                    Some((reach, rates))
                }
            };
            let fast = model.fast.as_ref().map(rate).transpose()?;
            if model.names.get_ref().is_empty() {
                return Err(wrong(model.names.span(), "`names` is empty: say which models these prices are for"));
            }
            for name in model.names.into_inner() {
                let span = name.span();
                let name = name.into_inner();
                if name.is_empty() {
                    return Err(wrong(span, "a model has a name"));
                }
                if named.contains_key(&name) {
                    return Err(wrong(span, format!("the model `{name}` stands here twice")));
                }
                named.insert(name, Price { rates, above, fast });
            }
        }
        self.models.extend(named);
        Ok(self)
    }
}

fn rates([input, output, cache_write_5m, cache_write_1h, cache_read]: [&Spanned<f64>; 5]) -> Result<Rates, WrongPrices> {
    Ok(Rates {
        input: rate(input)?,
        output: rate(output)?,
        cache_write_5m: rate(cache_write_5m)?,
        cache_write_1h: rate(cache_write_1h)?,
        cache_read: rate(cache_read)?,
    })
}

fn rate(value: &Spanned<f64>) -> Result<f64, WrongPrices> {
    let rate = *value.get_ref();
    if rate.is_finite() && (0.0..=RATE_MAX).contains(&rate) {
        return Ok(rate);
    }
    Err(wrong(value.span(), format!("a price is a number of dollars from 0 to {RATE_MAX} for a million tokens, not {rate}")))
}

/// Without `-20251001` at its end.
fn undated(model: &str) -> &str {
    match model.rsplit_once('-') {
        Some((plain, date)) if date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()) => plain,
        _ => model,
    }
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(model: &str, tokens: Tokens) -> SlotUsage {
        SlotUsage {
            slot: None,
            model: model.to_owned(),
            is_fast: false,
            reach: Reach::of(&tokens),
            messages: 1,
            tokens,
            tokens_said: Tokens::default(),
            cost_said: 0.0,
        }
    }

    fn own(text: &str) -> Result<Prices, PricesError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prices.toml");
        fs::write(&path, text).unwrap();
        Prices::with_overrides(&path)
    }

    fn near(a: Option<f64>, b: f64) {
        assert!(a.is_some_and(|a| (a - b).abs() < 1e-9), "{a:?} is not {b}");
    }

    #[test]
    fn the_table_that_is_built_in_can_be_read_and_says_of_when_it_is() {
        let prices = Prices::builtin();
        assert_eq!(prices.as_of(), "2026-11-22");
        assert!(prices.source().contains("pricing"));
        assert!(prices.price("claude-sonnet-5-5").is_some());
    }

    #[test]
    fn a_model_is_found_with_a_date_at_its_end_and_one_that_is_not_known_costs_nothing_that_is_known() {
        let prices = Prices::builtin();
        let tokens = Tokens { output: 1_000_000, ..Tokens::default() };
        near(prices.cost(&usage("claude-haiku-4-5-20251001", tokens)), 5.0);
        near(prices.cost(&usage("claude-opus-5[1m]", tokens)), 25.0);
        for unknown in ["claude-haiku-4", "claude-haiku-4-5-2025", "gpt-9", "", "claude-haiku-4-5-x0251001"] {
            assert_eq!(prices.cost(&usage(unknown, tokens)), None, "{unknown}");
        }
        assert_eq!(prices.cost(&usage("gpt-9", Tokens::default())), Some(0.0));
    }

    #[test]
    fn a_long_request_is_charged_as_a_whole_and_the_fast_mode_multiplies() {
        let prices = Prices::builtin();
        let short = Tokens { input: 100_000, ..Tokens::default() };
        let long = Tokens { input: 100_001, ..Tokens::default() };
        near(prices.cost(&usage("claude-haiku-5-5", short)), 0.01);
        near(prices.cost(&usage("claude-haiku-5-5", long)), 0.050_000_5);
        near(prices.cost(&SlotUsage { is_fast: true, ..usage("claude-opus-5", short) }), 1.0);
        assert_eq!(prices.cost(&SlotUsage { is_fast: true, ..usage("claude-sonnet-5", short) }), None);
    }

    #[test]
    fn a_file_of_ones_own_takes_the_place_of_what_it_names_and_of_nothing_else() {
        let prices =
            own("[[model]]\nnames = [\"claude-opus-5\", \"mine\"]\ninput = 1\noutput = 2\ncache_write_5m = 3\ncache_write_1h = 4\ncache_read = 5\n").unwrap();
        let tokens = Tokens { input: 1_000_000, output: 1_000_000, cache_write_5m: 1_000_000, cache_write_1h: 1_000_000, cache_read: 1_000_000 };
        near(prices.cost(&usage("claude-opus-5", tokens)), 15.0);
        near(prices.cost(&usage("mine", tokens)), 15.0);
        near(prices.cost(&usage("claude-opus-4-8", tokens)), 46.75);
        assert!(prices.source().contains("prices.toml") && prices.as_of() == "2026-11-22");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_its_line_and_column() {
        let model = |change: &str, by: &str| {
            "as_of = \"2026-12-01\"\n[[model]]\nnames = [\"a\"]\ninput = 1\noutput = 2\ncache_write_5m = 3\ncache_write_1h = 4\ncache_read = 5\n"
                .replacen(change, by, 1)
        };
        for (text, place, why) in [
            (model("input = 1", "input = -1"), (4, 9), "from 0 to"),
            (model("input = 1", "input = \"a\""), (4, 9), "invalid type"),
            (model("input = 1", "inptu = 1"), (4, 1), "unknown field `inptu`"),
            (model("input = 1\n", ""), (2, 1), "missing field `input`"),
            (model("[\"a\"]", "[\"a\", \"a\"]"), (3, 15), "stands here twice"),
            (model("[\"a\"]", "[]"), (3, 9), "say which models"),
            (model("2026-12-01", "soon"), (1, 9), "a date"),
            (model("input = 1", "input = ="), (4, 9), ""),
        ] {
            match own(&text) {
                Err(PricesError::Invalid { line, column, why: said, .. }) => {
                    assert_eq!((line, column), place, "{said} in\n{text}");
                    assert!(said.contains(why), "{said}");
                }
                other => panic!("{other:?} of\n{text}"),
            }
        }
        assert!(Prices::with_overrides(Path::new("/nowhere/prices.toml")).unwrap_err().to_string().contains("/nowhere/prices.toml"));
    }
}
