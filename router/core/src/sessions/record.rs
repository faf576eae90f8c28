//! How facts of a session add up: [`Record`]. Every way of adding is one in which order does not matter: the earliest, the newest, the
//! largest, a count of what differs, a set. Where a set is full, its largest names give way, whichever came first.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use jiff::Timestamp;
use router_api::{Session, SessionEnd, SessionEntry, SessionError, SessionOrigin, SessionState};

use super::{
    belonging,
    fact::{Channel, Fact, Kind, MODELS_MAX},
    slots::Slots,
    usage::{Usage, named},
};

/// Events that are known again when they come once more; beyond that the newest so many are.
const IDENTITIES_MAX: usize = 10_000;
/// Files and commits, each.
pub(super) const NAMES_MAX: usize = 500;
/// Tools.
pub(super) const TOOLS_MAX: usize = 200;

/// All that is known of one session.
#[derive(Debug, Default)]
pub(super) struct Record {
    seen: Seen,
    events: u64,
    stored_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    last_event_at: Option<Timestamp>,
    /// What the session did, ends left out.
    went_at: Option<Timestamp>,
    ends: u64,
    end: Newest<SessionEnd>,
    working_directory: Newest<String>,
    git_branch: Newest<String>,
    git_remote: Newest<String>,
    model: Newest<String>,
    feature: Newest<String>,
    parent: Newest<String>,
    slots: Slots,
    host: Newest<String>,
    app: Newest<String>,
    turn_max: u64,
    turns_began: u64,
    turns_ended: u64,
    tools: BTreeMap<String, Uses>,
    files: BTreeSet<String>,
    commits: BTreeSet<String>,
    usage: Usage,
    /// Of single events.
    tokens: u64,
    follows: Newest<Vec<String>>,
    errors: u64,
    last_error: Newest<SessionError>,
    is_cut: bool,
}

/// Identities of facts that were added.
#[derive(Debug, Default)]
struct Seen {
    known: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Seen {
    /// False where it was there already.
    fn add(&mut self, identity: u128) -> bool {
        if !self.known.insert(identity) {
            return false;
        }
        self.order.push_back(identity);
        if self.order.len() > IDENTITIES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// The value with the latest time; of two of one time that of the larger identity, so that order decides nothing.
#[derive(Debug)]
pub(super) struct Newest<T>(Option<((Timestamp, u128), T)>);

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone> Newest<T> {
    pub(super) fn add(&mut self, at: (Timestamp, u128), value: Option<T>) {
        if let Some(value) = value
            && self.0.as_ref().is_none_or(|(known, _)| at > *known)
        {
            self.0 = Some((at, value));
        }
    }

    pub(super) fn value(&self) -> Option<T> {
        self.0.as_ref().map(|(_, value)| value.clone())
    }
}

/// How often a tool was used, by who told of it.
#[derive(Debug, Default, Clone, Copy)]
struct Uses {
    counted: [u64; 3],
    reported: u64,
}

impl Uses {
    fn most(self) -> u64 {
        self.counted.into_iter().fold(self.reported, u64::max)
    }
}

impl Record {
    /// Adds a fact, once.
    pub(super) fn add(&mut self, fact: Fact) {
        if !self.seen.add(fact.identity) {
            return;
        }
        self.events += 1;
        self.stored_at = self.stored_at.max(Some(fact.stored_at));
        self.is_cut |= fact.is_cut;
        let at = (fact.at, fact.identity);
        let began = fact.began_at.filter(|_| fact.kind == Kind::Start).map_or(fact.at, |began| began.min(fact.at));
        self.started_at = Some(self.started_at.map_or(began, |known| known.min(began)));
        self.last_event_at = self.last_event_at.max(Some(fact.at));
        self.slots.add(&fact);
        self.usage.add(&fact, MODELS_MAX);
        self.working_directory.add(at, fact.working_directory);
        self.git_branch.add(at, fact.git_branch);
        self.git_remote.add(at, fact.git_remote);
        self.model.add(at, fact.model);
        self.feature.add(at, fact.feature);
        self.parent.add(at, fact.parent);
        self.host.add(at, fact.host);
        self.app.add(at, fact.app);
        self.turn_max = self.turn_max.max(fact.turn);
        self.tokens = self.tokens.saturating_add(fact.tokens);
        self.follows.add(at, Some(fact.follows).filter(|ids| !ids.is_empty()));
        self.is_cut |= keep_smallest(&mut self.files, fact.files) | keep_smallest(&mut self.commits, fact.commits);
        for (tool, count) in fact.tools_used {
            let uses = self.tools.entry(tool).or_default();
            uses.reported = uses.reported.max(count);
        }
        if !matches!(fact.kind, Kind::End { .. } | Kind::Other) {
            self.went_at = self.went_at.max(Some(fact.at));
        }
        match fact.kind {
            Kind::End { reason, status, summary, duration_seconds } => {
                self.ends += 1;
                self.end.add(at, Some(SessionEnd { at: fact.at, reason, status, summary, duration_seconds }));
            }
            Kind::TurnBegan => self.turns_began += 1,
            Kind::TurnEnded => self.turns_ended += 1,
            Kind::Tool { name: Some(name), channel } => {
                let place = match channel {
                    Channel::Action => 0,
                    Channel::Mutation => 1,
                    Channel::Completed => 2,
                };
                self.tools.entry(name).or_default().counted[place] += 1;
            }
            Kind::Error { kind, message } => {
                self.errors += 1;
                self.last_error.add(at, Some(SessionError { at: fact.at, kind, message }));
            }
            Kind::Start | Kind::Tool { name: None, .. } | Kind::Went | Kind::Other => {}
        }
        while self.tools.len() > TOOLS_MAX {
            self.tools.pop_last();
            self.is_cut = true;
        }
    }

    /// More is known elsewhere than was added.
    pub(super) fn is_cut(&mut self) {
        self.is_cut = true;
    }

    fn turns(&self) -> u64 {
        [self.turn_max, self.turns_began, self.turns_ended, self.ends].into_iter().max().unwrap_or(0)
    }

    /// With when it did what; `None` before the first fact.
    pub(super) fn entry(&self, id: &str) -> Option<SessionEntry> {
        let session = self.session(id)?;
        let rows = self.slots.spread(&session);
        Some(SessionEntry::new(session, rows))
    }

    /// The events that its start says it follows.
    pub(super) fn follows(&self) -> Vec<String> {
        self.follows.value().unwrap_or_default()
    }

    /// `None` before the first fact.
    pub(super) fn session(&self, id: &str) -> Option<Session> {
        let end = self.end.value();
        let state = match (&end, self.went_at) {
            (None, _) => SessionState::Active,
            (Some(end), Some(went_at)) if went_at > end.at => SessionState::Reopened,
            (Some(_), _) => SessionState::Ended,
        };
        let (working_directory, git_branch, git_remote) = (self.working_directory.value(), self.git_branch.value(), self.git_remote.value());
        let feature = self.feature.value();
        let models = self.usage.models();
        Some(Session {
            project: belonging::project(git_remote.as_deref(), working_directory.as_deref()),
            ticket: belonging::ticket(feature.as_deref()).or_else(|| belonging::ticket(git_branch.as_deref())),
            feature,
            parent: self.parent.value(),
            origin: SessionOrigin::Events,
            session_id: id.to_owned(),
            version: u64::try_from(self.stored_at?.as_microsecond()).unwrap_or(0),
            state,
            started_at: self.started_at?,
            last_event_at: self.last_event_at?,
            ended_at: end.as_ref().filter(|_| state == SessionState::Ended).map(|end| end.at),
            end,
            working_directory,
            git_branch,
            git_remote,
            model: self.model.value().map(|model| named(model, &models)),
            models,
            host: self.host.value(),
            app: self.app.value(),
            // Old producers tell of an end after every turn, and count no turns.
            turns: self.turns(),
            tools: self.tools.iter().map(|(tool, uses)| (tool.clone(), uses.most())).filter(|(_, count)| *count > 0).collect(),
            files: self.files.clone(),
            commits: self.commits.clone(),
            // Where models are told apart, single events say nothing more.
            tokens: self.usage.tokens().max((self.tokens > 0 && !self.usage.is_by_model()).then_some(self.tokens)),
            cost_usd: self.usage.cost_usd(),
            errors: self.errors,
            last_error: self.last_error.value(),
            events: self.events,
            is_complete: !self.is_cut,
        })
    }
}

/// Adds names; says whether some gave way.
fn keep_smallest(names: &mut BTreeSet<String>, more: Vec<String>) -> bool {
    names.extend(more);
    let is_full = names.len() > NAMES_MAX;
    while names.len() > NAMES_MAX {
        names.pop_last();
    }
    is_full
}
