//! When a session did what: [`Slots`], in quarters of an hour. Order and repetition do not matter here either: what is a running total is
//! kept as the largest of its slot, and what a slot added to it is seen when all of them are there.

use std::collections::BTreeMap;

use router_api::{ModelUsage, SESSION_SLOT_SECONDS, Session, SessionEntry, SessionSlot, TokenKinds};

use super::{
    fact::{Fact, Kind},
    record::Newest,
    usage::{Usage, named},
};

/// What was seen in each slot.
#[derive(Debug, Default)]
pub(super) struct Slots {
    by_number: BTreeMap<i64, Slot>,
    /// How many models are told apart, over all slots.
    models: usize,
}

#[derive(Debug, Default)]
struct Slot {
    began: u64,
    ended: u64,
    ends: u64,
    turn_max: u64,
    errors: u64,
    /// Of single events.
    tokens: u64,
    /// As far as it had come.
    usage: Usage,
    /// Who answered last.
    model: Newest<String>,
}

impl Slots {
    /// Adds what a fact says.
    pub(super) fn add(&mut self, fact: &Fact) {
        let number = fact.at.as_second().div_euclid(SESSION_SLOT_SECONDS);
        // One that is too many is added to the last that there is.
        let is_full = self.by_number.len() >= SessionEntry::SLOTS_MAX && !self.by_number.contains_key(&number);
        let number = if is_full { self.by_number.last_key_value().map_or(number, |(last, _)| *last) } else { number };
        let slot = self.by_number.entry(number).or_default();
        slot.turn_max = slot.turn_max.max(fact.turn);
        slot.tokens = slot.tokens.saturating_add(fact.tokens);
        self.models += slot.usage.add(fact, SessionEntry::SLOTS_MAX.saturating_sub(self.models));
        slot.model.add((fact.at, fact.identity), fact.model.clone());
        match fact.kind {
            Kind::TurnBegan => slot.began += 1,
            Kind::TurnEnded => slot.ended += 1,
            Kind::End { .. } => slot.ends += 1,
            Kind::Error { .. } => slot.errors += 1,
            _ => {}
        }
    }

    /// Spreads a session's totals over its slots: turns and tokens by whatever measure its total comes from, so that the sums are equal.
    /// Tokens are those of the models that took them, as far as models are told apart; the rest is of the one that answered then.
    pub(super) fn spread(&self, session: &Session) -> Vec<SessionSlot> {
        let mut turns = Turns::of(self, session.turns);
        let mut tokens = Tokens::of(self, session);
        let mut rows = Vec::with_capacity(self.by_number.len() * 2);
        let mut answering = session.model.clone().filter(|_| self.by_number.values().all(|slot| slot.model.value().is_none()));
        for (number, slot) in &self.by_number {
            answering = slot.model.value().map(|model| named(model, &session.models)).or(answering);
            let row = || SessionSlot::empty(*number, answering.clone());
            rows.push(SessionSlot { turns: turns.added(slot), errors: slot.errors, ..row() });
            for Added { model, tokens, kinds, cost_usd } in tokens.added(*number, slot) {
                let row = model.map_or_else(row, |model| SessionSlot::empty(*number, Some(model)));
                rows.push(SessionSlot { tokens, kinds, cost_usd, ..row });
            }
        }
        rows
    }
}

/// Turns, by the measure that the session's own number comes from.
enum Turns {
    Counted(fn(&Slot) -> u64),
    /// As far as they were numbered before.
    Numbered(u64),
}

impl Turns {
    fn of(slots: &Slots, total: u64) -> Self {
        let counts: [fn(&Slot) -> u64; 3] = [|slot| slot.began, |slot| slot.ended, |slot| slot.ends];
        let counted = counts.into_iter().find(|count| slots.by_number.values().map(count).fold(0, u64::saturating_add) == total);
        counted.map_or(Self::Numbered(0), Self::Counted)
    }

    fn added(&mut self, slot: &Slot) -> u64 {
        match self {
            Self::Counted(count) => count(slot),
            Self::Numbered(before) => {
                let added = slot.turn_max.saturating_sub(*before);
                *before = slot.turn_max.max(*before);
                added
            }
        }
    }
}

/// What a slot added.
struct Added {
    model: Option<String>,
    tokens: u64,
    kinds: TokenKinds,
    cost_usd: Option<f64>,
}

/// Tokens and what they cost, by the measure that the session's own number comes from.
enum Tokens {
    /// Of single events.
    Counted,
    Total {
        /// What every slot before has, in all.
        before: (u64, f64),
        models: BTreeMap<String, ModelUsage>,
        /// The last slot in which models were told apart: until then it is they who say what was taken.
        by_model_until: Option<i64>,
    },
}

impl Tokens {
    fn of(slots: &Slots, session: &Session) -> Self {
        let by_model_until = slots.by_number.iter().rev().find(|(_, slot)| slot.usage.is_by_model()).map(|(number, _)| *number);
        let counted = slots.by_number.values().map(|slot| slot.tokens).fold(0, u64::saturating_add);
        if by_model_until.is_none() && counted > 0 && Some(counted) == session.tokens {
            return Self::Counted;
        }
        Self::Total { before: (0, 0.0), models: BTreeMap::new(), by_model_until }
    }

    /// What the slot added, by model; of none where nobody told which.
    fn added(&mut self, number: i64, slot: &Slot) -> Vec<Added> {
        let Self::Total { before, models, by_model_until } = self else {
            return vec![Added { model: None, tokens: slot.tokens, kinds: TokenKinds::default(), cost_usd: None }];
        };
        let mut added = Vec::new();
        for (model, usage) in slot.usage.models() {
            let known = models.entry(model.clone()).or_default();
            let tokens = usage.tokens().saturating_sub(known.tokens());
            let cost = usage.cost_usd.map(|cost| f64::max(cost - known.cost_usd.unwrap_or(0.0), 0.0));
            let kinds = usage.kinds().beyond(known.kinds());
            if tokens > 0 {
                before.0 = before.0.saturating_add(tokens);
                before.1 += cost.unwrap_or(0.0);
                *known = ModelUsage { cost_usd: usage.cost_usd.or(known.cost_usd), ..usage };
                added.push(Added { model: Some(model), tokens, kinds, cost_usd: cost });
            }
        }
        if by_model_until.is_none_or(|until| number >= until) {
            let tokens = slot.usage.tokens().unwrap_or(0).saturating_sub(before.0);
            let cost = slot.usage.cost_usd().map(|cost| f64::max(cost - before.1, 0.0));
            if tokens > 0 || (by_model_until.is_none() && cost.is_some()) {
                before.0 = before.0.saturating_add(tokens);
                before.1 += cost.unwrap_or(0.0);
                added.push(Added { model: None, tokens, kinds: TokenKinds::default(), cost_usd: cost });
            }
        }
        added
    }
}
