//! What a session took so far, as its events say it: [`Usage`]. All of it is running totals, so that the largest is the newest and order
//! does not matter.

use std::collections::BTreeMap;

use router_api::ModelUsage;

use super::fact::{Fact, MODELS_MAX};

/// Running totals.
#[derive(Debug, Default, Clone)]
pub(super) struct Usage {
    /// The most tokens that an event told of, and what that event said they cost.
    total: Option<(u64, Option<f64>)>,
    /// The highest cost of which nobody said for how many tokens it is.
    cost_alone: Option<f64>,
    models: BTreeMap<String, ModelUsage>,
}

impl Usage {
    /// Adds what a fact says, of so many new models at most; returns how many were new.
    pub(super) fn add(&mut self, fact: &Fact, new_max: usize) -> usize {
        match fact.total_tokens {
            None => self.cost_alone = larger(self.cost_alone, fact.total_cost_usd),
            Some(tokens) => match &mut self.total {
                Some((known, _)) if tokens < *known => {}
                Some((known, cost)) if tokens == *known => *cost = larger(*cost, fact.total_cost_usd),
                total => *total = Some((tokens, fact.total_cost_usd)),
            },
        }
        let mut new = 0;
        for (model, usage) in &fact.models {
            let is_new = !self.models.contains_key(model);
            if !is_new || (new < new_max && self.models.len() < MODELS_MAX) {
                new += usize::from(is_new);
                grow(self.models.entry(model.clone()).or_default(), usage);
            }
        }
        new
    }

    /// All tokens; `None` where nobody said.
    pub(super) fn tokens(&self) -> Option<u64> {
        self.total.map(|(tokens, _)| tokens).max(self.is_by_model().then(|| self.of_models()))
    }

    /// What they cost; `None` where the one who told of the most tokens did not know.
    pub(super) fn cost_usd(&self) -> Option<f64> {
        match self.total {
            Some((tokens, cost)) if tokens >= self.of_models() => cost.or(self.cost_alone),
            _ if self.is_by_model() => self.models.values().map(|usage| usage.cost_usd).sum(),
            _ => self.cost_alone,
        }
    }

    /// By model; empty where nobody tells them apart.
    pub(super) fn models(&self) -> BTreeMap<String, ModelUsage> {
        self.models.clone()
    }

    /// Are models told apart?
    pub(super) fn is_by_model(&self) -> bool {
        !self.models.is_empty()
    }

    fn of_models(&self) -> u64 {
        self.models.values().map(ModelUsage::tokens).fold(0, u64::saturating_add)
    }
}

/// The one with more tokens; of two with as many what is known of either.
pub(super) fn grow(known: &mut ModelUsage, said: &ModelUsage) {
    match said.tokens().cmp(&known.tokens()) {
        std::cmp::Ordering::Less => {}
        std::cmp::Ordering::Equal => {
            let cost_usd = larger(known.cost_usd, said.cost_usd);
            // Of two that say the same in other parts either will do, but always the same one.
            let parts = |usage: &ModelUsage| [usage.output, usage.input, usage.cache_write_5m, usage.cache_write_1h, usage.cache_read];
            if parts(said) > parts(known) {
                *known = *said;
            }
            known.cost_usd = cost_usd;
        }
        std::cmp::Ordering::Greater => *known = *said,
    }
}

/// The larger one; what is known goes before what is not.
pub(super) fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The name under which the model's tokens are told: hooks leave out the date that transcripts have.
pub(super) fn named(model: String, models: &BTreeMap<String, ModelUsage>) -> String {
    if models.contains_key(&model) {
        return model;
    }
    let same = models.keys().find(|name| plain(name) == plain(&model));
    same.cloned().unwrap_or(model)
}

/// Without `-20251001` at its end, or how long its context is.
fn plain(model: &str) -> &str {
    let model = model.split_once('[').map_or(model, |(plain, _)| plain);
    match model.rsplit_once('-') {
        Some((plain, date)) if date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit()) => plain,
        _ => model,
    }
}
