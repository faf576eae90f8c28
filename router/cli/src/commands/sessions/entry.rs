//! What a transcript says, as a session that can be kept.

use std::collections::BTreeMap;

use jiff::Timestamp;
use router_api::{Session, SessionEntry, SessionOrigin, SessionSlot, SessionState};
use router_transcripts::{Prices, SessionTranscript};

/// Names of one session; longer ones are left out.
const NAME_BYTES_MAX: usize = 512;

/// The session, at these prices. The same transcript makes the same session.
pub(super) fn of(transcript: &SessionTranscript, prices: &Prices) -> Option<SessionEntry> {
    let totals = transcript.totals(prices);
    let (started_at, last_at) = (totals.started_at?, totals.last_at?);
    let branch = totals.git_branch.clone();
    let files: std::collections::BTreeSet<String> = totals.files_modified.iter().filter(|name| name.len() <= NAME_BYTES_MAX).cloned().collect();
    let is_complete = totals.is_complete && files.len() == totals.files_modified.len();
    let mut tools = totals.tools.clone();
    for (tool, uses) in &totals.subagent_tools {
        *tools.entry(tool.clone()).or_default() += uses;
    }
    while tools.len() > 200 {
        tools.pop_last();
    }
    let session = Session {
        session_id: transcript.session_id.clone(),
        version: u64::try_from(last_at.as_microsecond()).unwrap_or(0),
        state: SessionState::Ended,
        started_at,
        last_event_at: last_at,
        ended_at: Some(last_at),
        end: None,
        working_directory: totals.working_directory.clone(),
        git_branch: branch,
        git_remote: None,
        project: None,
        feature: None,
        ticket: None,
        parent: totals.parent.clone(),
        origin: SessionOrigin::Import,
        model: totals.model.clone(),
        host: None,
        app: Some("claude-code".to_owned()),
        turns: totals.turns,
        tools,
        files,
        commits: totals.git_commits.clone(),
        tokens: Some(totals.tokens.total()),
        cost_usd: totals.cost_usd,
        errors: totals.failures,
        last_error: None,
        events: 0,
        is_complete,
    };
    let slots = slots(transcript, prices, &session, started_at);
    Some(SessionEntry { session, slots })
}

fn slots(transcript: &SessionTranscript, prices: &Prices, session: &Session, started_at: Timestamp) -> Vec<SessionSlot> {
    let empty = |slot, model: Option<String>| SessionSlot { slot, model, turns: 0, errors: 0, tokens: 0, cost_usd: None };
    let begun = router_transcripts::Slot::of(started_at).0;
    let mut slots: BTreeMap<(i64, Option<String>), SessionSlot> = BTreeMap::new();
    for usage in &transcript.usage {
        // An answer without a time is one of the beginning.
        let key = (usage.slot.map_or(begun, |slot| slot.0), Some(usage.model.clone()));
        let slot = slots.entry(key.clone()).or_insert_with(|| SessionSlot { cost_usd: Some(0.0), ..empty(key.0, key.1) });
        slot.tokens = slot.tokens.saturating_add(usage.tokens.total()).saturating_add(usage.tokens_said.total());
        slot.cost_usd = slot.cost_usd.zip(prices.cost(usage)).map(|(sum, cost)| sum + cost);
    }
    for (slot, turns) in &transcript.turns {
        let key = (slot.0, session.model.clone());
        slots.entry(key.clone()).or_insert_with(|| empty(key.0, key.1)).turns += turns;
    }
    if slots.is_empty() {
        slots.insert((begun, session.model.clone()), empty(begun, session.model.clone()));
    }
    if let Some((_, first)) = slots.iter_mut().next() {
        first.errors = session.errors;
    }
    let mut slots: Vec<SessionSlot> = slots.into_values().collect();
    while slots.len() > SessionEntry::SLOTS_MAX {
        // What is too much is told of the last slot that there is.
        let Some(last) = slots.pop() else { break };
        if let Some(kept) = slots.last_mut() {
            kept.turns += last.turns;
            kept.tokens = kept.tokens.saturating_add(last.tokens);
            kept.cost_usd = kept.cost_usd.zip(last.cost_usd).map(|(a, b)| a + b);
        }
    }
    slots
}
