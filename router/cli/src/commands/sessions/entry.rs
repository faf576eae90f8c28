//! What a transcript says, as a session that can be kept.

use jiff::Timestamp;
use router_api::{ModelUsage, Session, SessionEntry, SessionOrigin, SessionSlot, SessionState, TokenKinds};
use router_transcripts::{ModelTotals, Prices, SessionTranscript, Tokens};

/// Names of one session; longer ones are left out.
const NAME_BYTES_MAX: usize = 512;
/// Models of one session.
const MODELS_MAX: usize = 200;

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
        models: totals.models.iter().take(MODELS_MAX).map(|of| (of.model.clone(), usage(of))).collect(),
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
    let rows = rows(transcript, prices, &session, started_at);
    Some(SessionEntry::new(session, rows))
}

fn usage(of: &ModelTotals) -> ModelUsage {
    let tokens = of.tokens;
    ModelUsage {
        input: tokens.input,
        output: tokens.output,
        cache_write_5m: tokens.cache_write_5m,
        cache_write_1h: tokens.cache_write_1h,
        cache_read: tokens.cache_read,
        cost_usd: of.cost_usd,
    }
}

fn kinds(tokens: Tokens) -> TokenKinds {
    TokenKinds {
        input: tokens.input,
        output: tokens.output,
        cache_write_5m: tokens.cache_write_5m,
        cache_write_1h: tokens.cache_write_1h,
        cache_read: tokens.cache_read,
    }
}

fn rows(transcript: &SessionTranscript, prices: &Prices, session: &Session, started_at: Timestamp) -> Vec<SessionSlot> {
    let begun = router_transcripts::Slot::of(started_at).0;
    // The session itself is something that it did then.
    let mut rows = vec![SessionSlot { errors: session.errors, ..SessionSlot::empty(begun, session.model.clone()) }];
    rows.extend(transcript.usage.iter().map(|usage| SessionSlot {
        tokens: usage.tokens.total().saturating_add(usage.tokens_said.total()),
        kinds: kinds(usage.tokens).plus(kinds(usage.tokens_said)),
        cost_usd: prices.cost(usage),
        // An answer without a time is one of the beginning.
        ..SessionSlot::empty(usage.slot.map_or(begun, |slot| slot.0), Some(usage.model.clone()))
    }));
    rows.extend(transcript.turns.iter().map(|(slot, turns)| SessionSlot { turns: *turns, ..SessionSlot::empty(slot.0, session.model.clone()) }));
    rows
}
