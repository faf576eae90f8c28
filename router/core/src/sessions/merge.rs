//! How what is known of a session from several sides becomes one: [`grown`] for two looks at its events, [`shown`] for its events and
//! its transcript.

use std::collections::{BTreeMap, BTreeSet};

use router_api::{Session, SessionEntry, SessionOrigin, SessionSlot, StoredSession, TokenKinds};

use super::{
    fact::MODELS_MAX,
    record::{NAMES_MAX, TOOLS_MAX},
    usage::{grow, larger, named},
};

/// A later look at a session's events, of which the oldest may have left the archive meanwhile.
///
/// What is a running total in events is one whose first slot, in the later look, has all that came before: so it is compared as far as it
/// had come in each slot, and the larger number holds.
pub(super) fn grown(before: Option<SessionEntry>, mut now: SessionEntry) -> SessionEntry {
    let Some(before) = before else { return now };
    if before == now {
        return now;
    }
    let is_by_model = |entry: &SessionEntry| !entry.session.models.is_empty();
    let mut rows = Vec::new();
    let turns = |row: &SessionSlot| row.turns;
    let errors = |row: &SessionSlot| row.errors;
    rows.extend(summed(&before, &now, turns).into_iter().map(|(slot, model, turns)| SessionSlot { turns, ..SessionSlot::empty(slot, model) }));
    rows.extend(summed(&before, &now, errors).into_iter().map(|(slot, model, errors)| SessionSlot { errors, ..SessionSlot::empty(slot, model) }));
    match (is_by_model(&before), is_by_model(&now)) {
        (true, true) => {
            let models: BTreeSet<_> = before.slots.iter().chain(&now.slots).map(|row| &row.model).collect();
            for model in models {
                rows.extend(taken(&of_model(&before, model), &of_model(&now, model)));
            }
        }
        // Who tells models apart knows more than who does not.
        (true, false) => rows.extend(before.slots.iter().map(usage_alone)),
        (false, true) => rows.extend(now.slots.iter().map(usage_alone)),
        (false, false) => rows.extend(taken(&before.slots, &now.slots)),
    }
    for (model, usage) in &before.session.models {
        if now.session.models.len() < MODELS_MAX || now.session.models.contains_key(model) {
            grow(now.session.models.entry(model.clone()).or_default(), usage);
        }
    }
    match now.session.tokens.cmp(&before.session.tokens) {
        std::cmp::Ordering::Less => (now.session.tokens, now.session.cost_usd) = (before.session.tokens, before.session.cost_usd),
        std::cmp::Ordering::Equal => now.session.cost_usd = larger(now.session.cost_usd, before.session.cost_usd),
        std::cmp::Ordering::Greater => {}
    }
    SessionEntry::new(with(now.session, before.session), rows)
}

/// What each slot added to a count, whichever model it is told of: the newer look says which. A slot to which nothing was added is one in
/// which the session did something all the same.
fn summed(before: &SessionEntry, now: &SessionEntry, count: fn(&SessionSlot) -> u64) -> Vec<(i64, Option<String>, u64)> {
    let mut slots: BTreeMap<i64, (Vec<&SessionSlot>, Vec<&SessionSlot>)> = BTreeMap::new();
    before.slots.iter().for_each(|row| slots.entry(row.slot).or_default().0.push(row));
    now.slots.iter().for_each(|row| slots.entry(row.slot).or_default().1.push(row));
    let sum = |rows: &[&SessionSlot]| rows.iter().map(|row| count(row)).fold(0, u64::saturating_add);
    let (mut sum_before, mut sum_now, mut done) = (0u64, 0u64, 0u64);
    let mut added = Vec::with_capacity(slots.len());
    for (slot, (in_before, in_now)) in slots {
        sum_before = sum_before.saturating_add(sum(&in_before));
        sum_now = sum_now.saturating_add(sum(&in_now));
        let more = sum_before.max(sum_now).saturating_sub(done);
        done = done.saturating_add(more);
        let leading = if sum(&in_now) > 0 || in_before.is_empty() { in_now } else { in_before };
        let model = leading.iter().max_by_key(|row| count(row)).and_then(|row| row.model.clone());
        added.push((slot, model, more));
    }
    added
}

fn of_model(entry: &SessionEntry, model: &Option<String>) -> Vec<SessionSlot> {
    entry.slots.iter().filter(|row| row.model == *model).cloned().collect()
}

fn usage_alone(row: &SessionSlot) -> SessionSlot {
    SessionSlot { tokens: row.tokens, kinds: row.kinds, cost_usd: row.cost_usd, ..SessionSlot::empty(row.slot, row.model.clone()) }
}

/// Tokens and what they cost, of rows that belong together.
fn taken(before: &[SessionSlot], now: &[SessionSlot]) -> Vec<SessionSlot> {
    /// As far as one look had come.
    #[derive(Default, Clone, Copy)]
    struct Sum {
        tokens: u64,
        kinds: TokenKinds,
        cost: f64,
    }
    impl Sum {
        fn add(&mut self, row: &SessionSlot) {
            self.tokens = self.tokens.saturating_add(row.tokens);
            self.kinds = self.kinds.plus(row.kinds);
            self.cost += row.cost_usd.unwrap_or(0.0);
        }
    }
    let mut slots: BTreeMap<i64, (Vec<&SessionSlot>, Vec<&SessionSlot>)> = BTreeMap::new();
    before.iter().for_each(|row| slots.entry(row.slot).or_default().0.push(row));
    now.iter().for_each(|row| slots.entry(row.slot).or_default().1.push(row));
    let (mut of_before, mut of_now, mut done) = (Sum::default(), Sum::default(), Sum::default());
    let mut rows = Vec::new();
    for (slot, (in_before, in_now)) in slots {
        in_before.iter().for_each(|row| of_before.add(row));
        in_now.iter().for_each(|row| of_now.add(row));
        let leading = if of_now.tokens >= of_before.tokens { of_now } else { of_before };
        let tokens = leading.tokens.saturating_sub(done.tokens);
        let kinds = leading.kinds.beyond(done.kinds);
        let cost = f64::max(f64::max(of_now.cost, of_before.cost) - done.cost, 0.0);
        let told: Vec<&SessionSlot> = in_now.into_iter().chain(in_before).filter(|row| row.tokens > 0 || row.cost_usd.is_some()).collect();
        if told.is_empty() {
            continue;
        }
        let is_known = told.iter().any(|row| row.cost_usd.is_some());
        done = Sum { tokens: done.tokens.saturating_add(tokens), kinds: done.kinds.plus(kinds), cost: done.cost + cost };
        let model = told.iter().max_by_key(|row| row.tokens).and_then(|row| row.model.clone());
        rows.push(SessionSlot { tokens, kinds, cost_usd: is_known.then_some(cost), ..SessionSlot::empty(slot, model) });
    }
    rows
}

/// What is told of a session; `None` of one of which nothing is known.
///
/// Where events and transcript are known, each number is of the one that has more of it, and nothing is of both.
pub(super) fn shown(stored: &StoredSession) -> Option<SessionEntry> {
    let (seen, imported) = match (&stored.seen, &stored.imported) {
        (None, None) => return None,
        (Some(one), None) | (None, Some(one)) => return Some(one.clone()),
        (Some(seen), Some(imported)) => (seen, imported),
    };
    let more = |of: fn(&SessionSlot) -> u64| {
        let sum = |entry: &SessionEntry| entry.slots.iter().map(of).fold(0, u64::saturating_add);
        if sum(imported) > sum(seen) { imported } else { seen }
    };
    let by_transcript = imported.session.tokens.unwrap_or(0) >= seen.session.tokens.unwrap_or(0);
    let from = if by_transcript { imported } else { seen };
    let mut rows: Vec<SessionSlot> = from.slots.iter().map(usage_alone).collect();
    let (turns_of, errors_of) = (more(|row| row.turns), more(|row| row.errors));
    rows.extend(turns_of.slots.iter().map(|row| SessionSlot { turns: row.turns, ..SessionSlot::empty(row.slot, row.model.clone()) }));
    rows.extend(errors_of.slots.iter().map(|row| SessionSlot { errors: row.errors, ..SessionSlot::empty(row.slot, row.model.clone()) }));
    let mut session = with(seen.session.clone(), imported.session.clone());
    session.tokens = from.session.tokens;
    session.cost_usd = from.session.cost_usd;
    session.models.clone_from(&from.session.models);
    session.model = session.model.map(|model| named(model, &session.models));
    session.origin = SessionOrigin::Both;
    Some(SessionEntry::new(session, rows))
}

/// `session`, and of `other` what it does not know, counts less of, or lists not.
fn with(mut session: Session, other: Session) -> Session {
    session.version = session.version.max(other.version);
    session.started_at = session.started_at.min(other.started_at);
    session.last_event_at = session.last_event_at.max(other.last_event_at);
    session.turns = session.turns.max(other.turns);
    session.errors = session.errors.max(other.errors);
    session.events = session.events.max(other.events);
    session.is_complete &= other.is_complete;
    for (known, more) in [
        (&mut session.working_directory, other.working_directory),
        (&mut session.git_branch, other.git_branch),
        (&mut session.git_remote, other.git_remote),
        (&mut session.project, other.project),
        (&mut session.feature, other.feature),
        (&mut session.ticket, other.ticket),
        (&mut session.parent, other.parent),
        (&mut session.model, other.model),
        (&mut session.host, other.host),
        (&mut session.app, other.app),
    ] {
        if known.is_none() {
            *known = more;
        }
    }
    session.last_error = session.last_error.or(other.last_error);
    session.end = session.end.or(other.end);
    for (tool, uses) in other.tools {
        let known = session.tools.entry(tool).or_default();
        *known = uses.max(*known);
    }
    while session.tools.len() > TOOLS_MAX {
        session.tools.pop_last();
        session.is_complete = false;
    }
    for (names, more) in [(&mut session.files, other.files), (&mut session.commits, other.commits)] {
        names.extend(more);
        while names.len() > NAMES_MAX {
            names.pop_last();
            session.is_complete = false;
        }
    }
    session
}
