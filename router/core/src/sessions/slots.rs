//! When a session did what: [`Slots`], in quarters of an hour. Order and repetition do not matter here either: what is a running total is
//! kept as the largest of its slot, and what a slot added to it is seen when all of them are there.

use std::collections::BTreeMap;

use router_api::{SESSION_SLOT_SECONDS, Session, SessionEntry, SessionSlot};

use super::fact::{Fact, Kind};

/// What was seen in each slot.
#[derive(Debug, Default)]
pub(super) struct Slots(BTreeMap<i64, Slot>);

#[derive(Debug, Default)]
struct Slot {
    began: u64,
    ended: u64,
    ends: u64,
    turn_max: u64,
    errors: u64,
    tokens: u64,
    total_tokens: u64,
    total_cost_usd: Option<f64>,
}

impl Slots {
    /// Adds what a fact says.
    pub(super) fn add(&mut self, fact: &Fact) {
        let number = fact.at.as_second().div_euclid(SESSION_SLOT_SECONDS);
        // One that is too many is added to the last that there is.
        let is_full = self.0.len() >= SessionEntry::SLOTS_MAX && !self.0.contains_key(&number);
        let number = if is_full { self.0.last_key_value().map_or(number, |(last, _)| *last) } else { number };
        let slot = self.0.entry(number).or_default();
        slot.turn_max = slot.turn_max.max(fact.turn);
        slot.tokens = slot.tokens.saturating_add(fact.tokens);
        slot.total_tokens = slot.total_tokens.max(fact.total_tokens.unwrap_or(0));
        slot.total_cost_usd = match (slot.total_cost_usd, fact.total_cost_usd) {
            (Some(known), Some(said)) => Some(known.max(said)),
            (known, said) => known.or(said),
        };
        match fact.kind {
            Kind::TurnBegan => slot.began += 1,
            Kind::TurnEnded => slot.ended += 1,
            Kind::End { .. } => slot.ends += 1,
            Kind::Error { .. } => slot.errors += 1,
            _ => {}
        }
    }

    /// Spreads a session's totals over its slots: turns and tokens by whatever measure its total comes from, so that the sums are equal.
    pub(super) fn spread(&self, session: &Session) -> Vec<SessionSlot> {
        let sum = |of: fn(&Slot) -> u64| self.0.values().map(of).fold(0, u64::saturating_add);
        let by_turn_max = ![sum(|slot| slot.began), sum(|slot| slot.ended), sum(|slot| slot.ends)].contains(&session.turns);
        let counted: fn(&Slot) -> u64 = if sum(|slot| slot.began) == session.turns {
            |slot| slot.began
        } else if sum(|slot| slot.ended) == session.turns {
            |slot| slot.ended
        } else {
            |slot| slot.ends
        };
        let by_total = sum(|slot| slot.tokens) != session.tokens.unwrap_or(0);
        let (mut turns_before, mut tokens_before, mut cost_before) = (0, 0, 0.0);
        let mut slots = Vec::with_capacity(self.0.len());
        for (number, slot) in &self.0 {
            let cost_usd = slot.total_cost_usd.map(|total| {
                let added = f64::max(total - cost_before, 0.0);
                cost_before = f64::max(total, cost_before);
                added
            });
            slots.push(SessionSlot {
                slot: *number,
                model: session.model.clone(),
                turns: if by_turn_max { added(&mut turns_before, slot.turn_max) } else { counted(slot) },
                errors: slot.errors,
                tokens: if by_total { added(&mut tokens_before, slot.total_tokens) } else { slot.tokens },
                cost_usd,
            });
        }
        slots
    }
}

/// What `total` adds to the largest before.
fn added(before: &mut u64, total: u64) -> u64 {
    let added = total.saturating_sub(*before);
    *before = total.max(*before);
    added
}
