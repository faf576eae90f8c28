//! How what is known of a session from several sides becomes one: [`grown`] for two looks at its events, [`shown`] for its events and
//! its transcript.

use std::collections::BTreeMap;

use router_api::{Session, SessionEntry, SessionOrigin, SessionSlot, StoredSession};

use super::record::{NAMES_MAX, TOOLS_MAX};

/// A later look at a session's events, of which the oldest may have left the archive meanwhile.
pub(super) fn grown(before: Option<SessionEntry>, mut now: SessionEntry) -> SessionEntry {
    let Some(before) = before else { return now };
    if before == now {
        return now;
    }
    let mut slots: BTreeMap<(i64, Option<String>), SessionSlot> = BTreeMap::new();
    // Of one slot there may be one row with the model of then and one with that of now.
    let model = now.session.model.clone();
    for mut slot in before.slots.into_iter().chain(std::mem::take(&mut now.slots)) {
        slot.model.clone_from(&model);
        match slots.entry((slot.slot, slot.model.clone())) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(slot);
            }
            std::collections::btree_map::Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.turns = known.turns.max(slot.turns);
                known.errors = known.errors.max(slot.errors);
                known.tokens = known.tokens.max(slot.tokens);
                known.cost_usd = larger(known.cost_usd, slot.cost_usd);
            }
        }
    }
    now.slots = slots.into_values().collect();
    now.slots.truncate(SessionEntry::SLOTS_MAX);
    now.session.tokens = now.session.tokens.max(before.session.tokens);
    now.session.cost_usd = larger(now.session.cost_usd, before.session.cost_usd);
    now.session = with(now.session, before.session);
    now
}

/// What is told of a session; `None` of one of which nothing is known.
pub(super) fn shown(stored: &StoredSession) -> Option<SessionEntry> {
    match (&stored.seen, &stored.imported) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (Some(seen), Some(imported)) => {
            let by_transcript = imported.session.tokens.unwrap_or(0) >= seen.session.tokens.unwrap_or(0);
            let from = if by_transcript { imported } else { seen };
            let mut session = with(seen.session.clone(), imported.session.clone());
            session.tokens = from.session.tokens;
            session.cost_usd = from.session.cost_usd;
            session.origin = SessionOrigin::Both;
            Some(SessionEntry { session, slots: from.slots.clone() })
        }
    }
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

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}
