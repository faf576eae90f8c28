//! Ends sessions of HTTP hooks that nobody ended: a Claude Code that was killed, or a machine that was switched off, sends no `SessionEnd`.
//!
//! Which sessions go on is asked of the sessions that the store keeps, so that a restart forgets none; that one came by HTTP hooks, and how
//! often it was resumed, its newest hook's event says (`source.meta.via`). Sessions of the hook that is a program are ended from its
//! spool, by those who can see whether the program is still there. The end has the id that its own `SessionEnd` would have had, so that
//! whoever tells of it a second time is recognised.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use router_api::{Clock, Envelope, EventQuery, Publication, RoutingKey, Session as Kept, SessionQuery, SessionState};
use router_claude::{
    Session,
    event::{Source, envelope},
    events::{Usage, end},
    members::Field,
    session::SESSION_ID_BYTES_MAX,
};
use serde_json::{Value, json};
use tracing::{debug, info};

use crate::{
    claude_sessions::{Remembered, Sessions},
    ingest::Ingest,
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);
/// Sessions that are ended with one look, and that are looked at for it.
const ENDED_MAX: usize = 100;
const LOOKED_MAX: usize = 500;
/// Events of a session among which a hook's is looked for: other producers may have named the session since.
const EVENTS_MAX: u32 = 20;
/// Sessions known to be none of ours, so that they are not asked about again; forgotten together when there are more.
const OTHERS_MAX: usize = 10_000;

/// The mark of an event that an HTTP hook meant.
pub(crate) const VIA: &str = "http";

/// See the module.
pub(crate) struct Endings {
    pub(crate) ingest: Ingest,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sessions: Arc<Sessions>,
    /// Of silence.
    pub(crate) after: Duration,
}

impl Endings {
    /// Looks again and again; ends with whoever drops it.
    pub(crate) async fn run(self) {
        let mut others = HashSet::new();
        loop {
            if let Err(why) = self.look(&mut others).await {
                debug!(why, "sessions that nobody ended are looked for again later");
            }
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    /// Ends what was abandoned.
    async fn look(&self, others: &mut HashSet<String>) -> Result<(), String> {
        let now = self.clock.now();
        let after = SignedDuration::try_from(self.after).unwrap_or(SignedDuration::MAX);
        let mut left = (ENDED_MAX, LOOKED_MAX);
        for state in [SessionState::Active, SessionState::Reopened] {
            let query = SessionQuery { state: Some(state), last: Some(SessionQuery::LAST_MAX), ..SessionQuery::default() };
            let found = self.ingest.admin.sessions(&query).await.map_err(|error| error.to_string())?;
            for kept in found.sessions {
                let is_silent = now.duration_since(kept.last_event_at) >= after;
                if !is_silent || kept.session_id.len() > SESSION_ID_BYTES_MAX || others.contains(&kept.session_id) {
                    continue;
                }
                if left.0 == 0 || left.1 == 0 {
                    return Ok(());
                }
                left.1 -= 1;
                match self.resumes(&kept.session_id).await? {
                    Some(resumes) => {
                        self.end(&kept, resumes, now, after).await?;
                        left.0 -= 1;
                    }
                    None => {
                        if others.len() >= OTHERS_MAX {
                            others.clear();
                        }
                        others.insert(kept.session_id);
                    }
                }
            }
        }
        Ok(())
    }

    /// How often the session was resumed, if its newest hook came by HTTP.
    async fn resumes(&self, session: &str) -> Result<Option<u32>, String> {
        let query = EventQuery { session: Some(session.to_owned()), last: Some(EVENTS_MAX), ..EventQuery::default() };
        let mut events = self.ingest.admin.events(&query).await.map_err(|error| error.to_string())?;
        events.sort_by_key(|event| std::cmp::Reverse(event.seq));
        for event in events {
            let Ok(decoded) = Envelope::decode(event.key, event.body, self.ingest.limits) else { continue };
            let Some(meta) = decoded.body().pointer("/source/meta").filter(|meta| meta.get("hook_event_name").is_some()) else { continue };
            let is_ours = meta.get("via").and_then(Value::as_str) == Some(VIA);
            let resumes = meta.get("resumes").and_then(Value::as_u64).and_then(|resumes| u32::try_from(resumes).ok());
            return Ok(resumes.filter(|_| is_ours));
        }
        Ok(None)
    }

    async fn end(&self, kept: &Kept, resumes: u32, now: Timestamp, after: SignedDuration) -> Result<(), String> {
        let remembered = self.sessions.of(&kept.session_id);
        let mut remembered: tokio::sync::MutexGuard<'_, Session> = Remembered::lock(&remembered).await;
        // A hook may just have come.
        if remembered.ended || remembered.last_seen.is_some_and(|seen| now.duration_since(seen) < after) {
            return Ok(());
        }
        let mut session = if remembered.started_at.is_some() { remembered.clone() } else { known(kept, resumes) };
        let last = session.last_seen.unwrap_or(kept.last_event_at);
        let told = end(&session, "abandoned", None, &Usage::default(), last);
        let key = RoutingKey::new(told.key).map_err(|error| error.to_string())?;
        let host = kept.host.clone().unwrap_or_else(|| "unknown".to_owned());
        let mut meta = json!({ "hook_event_name": null, "via": VIA, "resumes": session.resumes });
        for (name, value) in told.meta {
            meta[name] = value;
        }
        let source = Source { host, kind: "hook", app: "claude-code", meta: Some(meta) };
        let body = envelope(told.id, told.key, now, &source, &told.correlation_ids, &Field::Nested(told.payload));
        self.ingest.store(Publication::new(key, body)).await.map_err(|answer| answer.error)?;
        session.ended = true;
        *remembered = session;
        info!(session = kept.session_id, "a session of HTTP hooks that nobody ended is ended as abandoned");
        Ok(())
    }
}

/// The session as its events tell it, for a router that was not there when its hooks came.
fn known(kept: &Kept, resumes: u32) -> Session {
    let mut session = Session::new(&kept.session_id);
    session.started_at = Some(kept.started_at);
    session.last_seen = Some(kept.last_event_at);
    session.working_directory.clone_from(&kept.working_directory);
    session.git_branch.clone_from(&kept.git_branch);
    session.turn_number = kept.turns;
    session.tools_used.clone_from(&kept.tools);
    session.files_modified.clone_from(&kept.files);
    session.git_commits.clone_from(&kept.commits);
    session.model.clone_from(&kept.model);
    session.resumes = resumes;
    session.told_start = Some(resumes);
    session
}
