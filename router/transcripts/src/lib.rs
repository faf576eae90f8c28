//! Reads what Claude Code writes down of its sessions: tokens, what they cost by a table of prices, turns, tools, files and commits.
//!
//! The format of a transcript is internal to Claude Code and changes: nothing here fails because of what a line contains, and a line that
//! is not understood is counted and passed over. Costs are estimates: what an account is billed is known to its provider only.
//!
//! * [`Tally`] follows one session, from call to call, by the bytes that are new.
//! * [`survey`] reads every session below a directory at once, for an import.
//! * [`Prices`] is the table of prices, with the date of which it holds.

mod cursor;
mod dedupe;
mod files;
mod fingerprint;
mod line;
mod prices;
mod slots;
mod survey;
mod tally;
mod tokens;
mod totals;
mod work;

pub use crate::{
    prices::{Price, Prices, PricesError, Rates, WrongPrices},
    slots::{SLOT_SECONDS, Slot, SlotUsage},
    survey::{SessionTranscript, Survey, SurveyLimits, survey},
    tally::Tally,
    tokens::{Reach, Tokens},
    totals::{ModelTotals, Totals},
};
