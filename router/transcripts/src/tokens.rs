//! Tokens by what they are charged as: [`Tokens`].

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// How many tokens of each class.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Read by the model, and in no cache.
    pub input: u64,
    /// Written by the model, its thinking included.
    pub output: u64,
    /// Put into the cache for five minutes.
    pub cache_write_5m: u64,
    /// Put into the cache for an hour.
    pub cache_write_1h: u64,
    /// Taken from the cache.
    pub cache_read: u64,
}

impl Tokens {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.input, self.output, self.cache_write_5m, self.cache_write_1h, self.cache_read].into_iter().fold(0, u64::saturating_add)
    }

    /// Those that a request sends.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.total().saturating_sub(self.output)
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.input, other.input),
            (&mut self.output, other.output),
            (&mut self.cache_write_5m, other.cache_write_5m),
            (&mut self.cache_write_1h, other.cache_write_1h),
            (&mut self.cache_read, other.cache_read),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// How much a request sent: providers charge long ones otherwise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Up to 100,000 tokens.
    #[default]
    Short,
    /// More, up to 200,000.
    Long,
    /// More than that.
    Longest,
}

impl Reach {
    /// Of one request.
    #[must_use]
    pub fn of(tokens: &Tokens) -> Self {
        match tokens.context() {
            0..=100_000 => Self::Short,
            100_001..=200_000 => Self::Long,
            _ => Self::Longest,
        }
    }
}
