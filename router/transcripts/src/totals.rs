//! What a session comes to: [`Totals`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Prices, SlotUsage, Tokens};

/// What a session comes to so far.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// All tokens, subagents included.
    pub tokens: Tokens,
    /// What they cost in US dollars, as an estimate; `None` where the price of any of them is not known, and never 0 for that reason.
    pub cost_usd: Option<f64>,
    /// By model, the dearest first.
    pub models: Vec<ModelTotals>,
    /// Models without a price, as the transcript names them; `(fast)` follows where only the price of the fast mode is missing.
    pub unknown_models: Vec<String>,
    /// The date of which the prices hold.
    pub prices_as_of: String,
    /// Answers of models.
    pub messages: u64,
    /// What somebody asked.
    pub turns: u64,
    /// Uses of tools on the main chain.
    pub tools: BTreeMap<String, u64>,
    /// Uses of tools by subagents.
    pub subagent_tools: BTreeMap<String, u64>,
    /// Uses of tools that failed.
    pub failures: u64,
    /// Files that were written by tools, relative to where the session began as far as they lie below it. What commands wrote is not
    /// among them.
    pub files_modified: BTreeSet<String>,
    /// Commits, by the short hashes that the tool told.
    pub git_commits: BTreeSet<String>,
    /// The model of the newest answer on the main chain.
    pub model: Option<String>,
    /// The session, as its lines name it.
    pub session_id: Option<String>,
    /// The session that this one was forked from.
    pub parent: Option<String>,
    /// Where it began.
    pub working_directory: Option<String>,
    /// The newest branch.
    pub git_branch: Option<String>,
    /// Of Claude Code.
    pub version: Option<String>,
    /// The earliest time in the transcript.
    pub started_at: Option<Timestamp>,
    /// The newest one.
    pub last_at: Option<Timestamp>,
    /// Lines that were not understood, or were too long to read.
    pub lines_skipped: u64,
    /// False where a limit was met, so that lists are smaller than the truth.
    pub is_complete: bool,
}

/// What one model took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelTotals {
    /// Its name, as the transcript has it.
    pub model: String,
    /// Its answers.
    pub messages: u64,
    /// Their tokens.
    pub tokens: Tokens,
    /// What they cost; `None` where no price is known.
    pub cost_usd: Option<f64>,
}

impl Totals {
    /// Of usage alone; the rest is empty.
    pub(crate) fn of(usage: impl IntoIterator<Item = SlotUsage>, prices: &Prices) -> Self {
        let mut totals = Self { cost_usd: Some(0.0), prices_as_of: prices.as_of().to_owned(), is_complete: true, ..Self::default() };
        let mut models: BTreeMap<String, ModelTotals> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for usage in usage {
            let cost = prices.cost(&usage);
            if cost.is_none() {
                let fast = if usage.is_fast && prices.knows(&usage.model) { " (fast)" } else { "" };
                unknown.insert(format!("{}{fast}", usage.model));
            }
            let mut tokens = usage.tokens;
            tokens += usage.tokens_said;
            totals.tokens += tokens;
            totals.messages += usage.messages;
            totals.cost_usd = plus(totals.cost_usd, cost);
            let model = models.entry(usage.model.clone()).or_insert_with(|| ModelTotals {
                model: usage.model,
                messages: 0,
                tokens: Tokens::default(),
                cost_usd: Some(0.0),
            });
            model.messages += usage.messages;
            model.tokens += tokens;
            model.cost_usd = plus(model.cost_usd, cost);
        }
        totals.models = models.into_values().collect();
        totals.models.sort_by(|a, b| b.cost_usd.unwrap_or(f64::INFINITY).total_cmp(&a.cost_usd.unwrap_or(f64::INFINITY)).then_with(|| a.model.cmp(&b.model)));
        totals.unknown_models = unknown.into_iter().collect();
        totals
    }

    /// With what the session did.
    pub(crate) fn with(mut self, work: &crate::work::Work) -> Self {
        self.turns = work.turns;
        self.tools.clone_from(&work.tools);
        self.subagent_tools.clone_from(&work.subagent_tools);
        self.failures = work.failures;
        self.files_modified = work.relative_files();
        self.git_commits.clone_from(&work.commits);
        self.model.clone_from(&work.model);
        self.session_id.clone_from(&work.session_id);
        self.parent.clone_from(&work.parent);
        self.working_directory.clone_from(&work.directory);
        self.git_branch.clone_from(&work.git_branch);
        self.version.clone_from(&work.version);
        self.started_at = work.started_at;
        self.last_at = work.last_at;
        self.is_complete = !work.is_cut;
        self
    }
}

/// What is not known makes a sum that is not known.
fn plus(sum: Option<f64>, more: Option<f64>) -> Option<f64> {
    Some(sum? + more?)
}
