//! Sessions that are kept: [`SessionBook`]. It follows the archive, on either transport, and keeps in the store what each session has
//! come to, so that lists and sums cost by the number of sessions, whatever they did.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use router_api::{
    AdminError, Clock, Envelope, KeptSession, RelatedSession, Relation, Session, SessionEntry, SessionList, SessionOrigin, SessionQuery, SessionShown,
    SessionStats, SessionsImported, StatsQuery, Store, StoreError, StoredSession,
};

use super::{Projection, belonging, merge, stats};
use crate::metrics::SessionFigures;

/// Events looked at in one step.
const STEP_EVENTS: u32 = 2_000;
/// Sessions kept with one commit.
const STEP_SESSIONS: usize = 50;
/// Events looked at for one question; what is left is told, and looked at for the next one.
const CATCH_UP_EVENTS: u32 = 20_000;
/// Sessions that belong to another, of each kind and in all.
const RELATED_MAX: usize = 100;
/// Characters of an id that are enough to ask for it.
const BEGINNING_MIN: usize = 4;

/// The sessions that a store keeps.
pub struct SessionBook {
    store: Arc<dyn Store>,
    projection: Arc<Projection>,
    clock: Arc<dyn Clock>,
    /// One reader and writer at a time, since each writes what it has read.
    turn: tokio::sync::Mutex<()>,
    figures: Mutex<SessionFigures>,
}

impl SessionBook {
    /// Over `store`, whose events `projection` reads.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, projection: Arc<Projection>, clock: Arc<dyn Clock>) -> Self {
        Self { store, projection, clock, turn: tokio::sync::Mutex::default(), figures: Mutex::default() }
    }

    /// Brings what new events say into the sessions, within a limit; returns how many events are left.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written.
    pub async fn catch_up(&self) -> Result<u64, StoreError> {
        let _turn = self.turn.lock().await;
        let mut looked = 0;
        loop {
            let active = self.store.active_sessions(STEP_EVENTS).await?;
            if active.read_to <= active.read_from {
                return Ok(active.behind);
            }
            let mut groups = active.ids.chunks(STEP_SESSIONS).peekable();
            if groups.peek().is_none() {
                self.store.keep_sessions(Vec::new(), Some(active.read_to)).await?;
            }
            while let Some(group) = groups.next() {
                let stored = self.store.stored_sessions(group).await?;
                let mut kept = Vec::with_capacity(group.len());
                for (id, mut stored) in group.iter().zip(stored) {
                    if let Some((mut entry, follows)) = self.projection.entry(id).await? {
                        let known = stored.seen.as_ref().and_then(|seen| seen.session.parent.clone());
                        if entry.session.parent.is_none() && known.is_none() {
                            entry.session.parent = self.parent(id, &follows).await?;
                        }
                        stored.seen = Some(merge::grown(stored.seen.take(), entry));
                        kept.extend(merge::shown(&stored).map(|shown| KeptSession { shown, stored }));
                    }
                }
                // Noted with the last of them: what is done twice comes to the same.
                let read_to = groups.peek().is_none().then_some(active.read_to);
                self.store.keep_sessions(kept, read_to).await?;
            }
            looked += STEP_EVENTS;
            if active.behind == 0 || looked >= CATCH_UP_EVENTS {
                return Ok(active.behind);
            }
        }
    }

    /// The session of an event that a session's start follows, if it is another one.
    async fn parent(&self, id: &str, follows: &[String]) -> Result<Option<String>, StoreError> {
        for event_id in follows {
            for event in self.store.event(event_id).await? {
                // A reference may be a number, or the beginning of an id, too.
                if event.id.as_deref() != Some(event_id.as_str()) {
                    continue;
                }
                let decoded = Envelope::decode(event.key, event.body, super::ARCHIVED).ok();
                let session = decoded.as_ref().and_then(Envelope::session_id).filter(|session| *session != id && session.len() <= super::ID_BYTES_MAX);
                if let Some(session) = session {
                    return Ok(Some(session.to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// Catches up, and adds up the last day for [`SessionBook::figures`]. Whoever runs a router calls it from time to time.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written.
    pub async fn follow(&self) -> Result<(), StoreError> {
        let events_behind = self.catch_up().await?;
        let sum = stats::last_day(&*self.store, self.clock.now()).await?;
        let figures =
            SessionFigures { sessions: sum.sessions, turns: sum.turns, errors: sum.errors, tokens: sum.tokens, cost_usd: sum.known_cost_usd, events_behind };
        *self.figures.lock().expect("no code panics while it holds the figures") = figures;
        Ok(())
    }

    /// The last day, as of the last [`SessionBook::follow`].
    #[must_use]
    pub fn figures(&self) -> SessionFigures {
        *self.figures.lock().expect("no code panics while it holds the figures")
    }

    /// See [`router_api::Admin::sessions`].
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written.
    pub async fn list(&self, query: &SessionQuery) -> Result<SessionList, AdminError> {
        let events_behind = self.catch_up().await?;
        Ok(SessionList { sessions: self.store.sessions(query).await?, events_behind })
    }

    /// See [`router_api::Admin::session`].
    ///
    /// # Errors
    ///
    /// When there is none, or more than one, or the store cannot be read or written.
    pub async fn show(&self, id: &str) -> Result<SessionShown, AdminError> {
        self.catch_up().await?;
        let session = self.find(id).await?;
        let related = self.related(&session).await?;
        Ok(SessionShown { session, related })
    }

    async fn find(&self, id: &str) -> Result<Session, AdminError> {
        let exact = SessionQuery { id: Some(id.to_owned()), last: Some(1), ..SessionQuery::default() };
        if let Some(session) = self.store.sessions(&exact).await?.pop() {
            return Ok(session);
        }
        let none = || AdminError::NotFound(format!("there is no session `{id}`; `sessions list` shows which there are"));
        if id.chars().count() < BEGINNING_MIN {
            return Err(none());
        }
        let beginning = SessionQuery { beginning: Some(id.to_owned()), last: Some(2), ..SessionQuery::default() };
        let mut found = self.store.sessions(&beginning).await?;
        match (found.pop(), found.pop()) {
            (None, _) => Err(none()),
            (Some(session), None) => Ok(session),
            (Some(one), Some(other)) => {
                Err(AdminError::Invalid(format!("several sessions begin with `{id}`: `{}`, `{}`, …; give more of the id", other.session_id, one.session_id)))
            }
        }
    }

    async fn related(&self, session: &Session) -> Result<Vec<RelatedSession>, StoreError> {
        let mut found: BTreeMap<String, RelatedSession> = BTreeMap::new();
        let by = SessionQuery { last: u32::try_from(RELATED_MAX).ok(), ..SessionQuery::default() };
        let branch = belonging::own_branch(session.git_branch.as_deref()).map(str::to_owned);
        let queries = [
            (Relation::Parent, session.parent.is_some(), SessionQuery { id: session.parent.clone(), ..by.clone() }),
            (Relation::Child, true, SessionQuery { parent: Some(session.session_id.clone()), ..by.clone() }),
            (Relation::Feature, session.feature.is_some(), SessionQuery { feature: session.feature.clone(), ..by.clone() }),
            (Relation::Ticket, session.ticket.is_some(), SessionQuery { ticket: session.ticket.clone(), ..by.clone() }),
            (Relation::Branch, branch.is_some(), SessionQuery { branch, ..by }),
        ];
        for (relation, _, query) in queries.iter().filter(|(_, is_known, _)| *is_known) {
            for other in self.store.sessions(query).await?.into_iter().filter(|other| other.session_id != session.session_id) {
                let related = found.entry(other.session_id.clone()).or_insert_with(|| RelatedSession { because: Vec::new(), session: other });
                related.because.push(*relation);
            }
        }
        let mut related: Vec<RelatedSession> = found.into_values().collect();
        related.sort_by(|a, b| b.session.last_event_at.cmp(&a.session.last_event_at).then_with(|| a.session.session_id.cmp(&b.session.session_id)));
        related.truncate(RELATED_MAX);
        Ok(related)
    }

    /// See [`router_api::Admin::session_stats`].
    ///
    /// # Errors
    ///
    /// When the question makes no sense, or the store cannot be read or written.
    pub async fn stats(&self, query: &StatsQuery) -> Result<SessionStats, AdminError> {
        let window = stats::Window::of(query, self.clock.now())?;
        let events_behind = self.catch_up().await?;
        stats::sums(&*self.store, &window, events_behind).await
    }

    /// See [`router_api::Admin::import_sessions`].
    ///
    /// # Errors
    ///
    /// When one of them makes no sense, or the store cannot be read or written.
    pub async fn import(&self, sessions: Vec<SessionEntry>) -> Result<SessionsImported, AdminError> {
        let mut done = SessionsImported::default();
        for mut group in sessions.into_iter().map(checked).collect::<Result<Vec<_>, _>>()?.chunks(STEP_SESSIONS).map(<[SessionEntry]>::to_vec) {
            let _turn = self.turn.lock().await;
            for entry in &mut group {
                let session = &mut entry.session;
                session.origin = SessionOrigin::Import;
                session.project = session.project.take().or_else(|| belonging::project(session.git_remote.as_deref(), session.working_directory.as_deref()));
                let ticket = belonging::ticket(session.feature.as_deref()).or_else(|| belonging::ticket(session.git_branch.as_deref()));
                session.ticket = session.ticket.take().or(ticket);
            }
            let ids: Vec<String> = group.iter().map(|entry| entry.session.session_id.clone()).collect();
            let stored = self.store.stored_sessions(&ids).await?;
            let mut kept = Vec::new();
            for (entry, stored) in group.into_iter().zip(stored) {
                let entry = in_nanodollars(entry);
                match stored.imported.clone().map(in_nanodollars) {
                    Some(known) if known == entry => {
                        done.unchanged += 1;
                        continue;
                    }
                    Some(_) => done.updated += 1,
                    None => done.added += 1,
                }
                let stored = StoredSession { imported: Some(entry), ..stored };
                kept.extend(merge::shown(&stored).map(|shown| KeptSession { shown, stored }));
            }
            if !kept.is_empty() {
                self.store.keep_sessions(kept, None).await?;
            }
        }
        Ok(done)
    }
}

/// Costs as whole billionths: what was written as JSON and read again may differ in its last bit, and is the same all the same.
fn in_nanodollars(mut entry: SessionEntry) -> SessionEntry {
    let whole = |cost: &mut Option<f64>| *cost = cost.map(|cost| (cost * 1e9).round() / 1e9);
    whole(&mut entry.session.cost_usd);
    entry.session.models.values_mut().for_each(|usage| whole(&mut usage.cost_usd));
    entry.slots.iter_mut().for_each(|slot| whole(&mut slot.cost_usd));
    entry
}

/// What comes from outside is within the limits of what is made here.
fn checked(entry: SessionEntry) -> Result<SessionEntry, AdminError> {
    let (session, slots) = (&entry.session, &entry.slots);
    let wrong = |what: &str| Err(AdminError::Invalid(format!("the session `{}` cannot be imported: {what}", session.session_id)));
    if session.session_id.is_empty() || session.session_id.len() > super::ID_BYTES_MAX {
        return wrong("its id is empty, or too long");
    }
    if slots.len() > SessionEntry::SLOTS_MAX {
        return wrong("it has more slots than one session may have");
    }
    let is_cost = |cost: Option<f64>| cost.is_none_or(|cost| cost.is_finite() && cost >= 0.0);
    let mut costs = slots.iter().map(|slot| slot.cost_usd).chain(session.models.values().map(|usage| usage.cost_usd));
    if !is_cost(session.cost_usd) || !costs.all(is_cost) {
        return wrong("a cost is no amount of money");
    }
    if session.files.len() > super::record::NAMES_MAX || session.commits.len() > super::record::NAMES_MAX || session.tools.len() > super::record::TOOLS_MAX {
        return wrong("it lists more files, commits or tools than one session may have");
    }
    if session.models.len() > super::fact::MODELS_MAX {
        return wrong("it lists more models than one session may have");
    }
    Ok(entry)
}
