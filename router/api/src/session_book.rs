//! Sessions as they are kept, listed and added up: what the store keeps of each ([`SessionEntry`]), and the questions that it answers.

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Session, SessionState, described::Moment};

/// How long a slot is, in seconds: a quarter of an hour, at one of which the days of every time zone begin.
pub const SESSION_SLOT_SECONDS: i64 = 900;

/// What a session did in one slot with one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionSlot {
    /// The number of the quarter of an hour since 1970.
    pub slot: i64,
    /// The language model.
    pub model: Option<String>,
    /// Turns that began, or where only ends were told, ended.
    #[serde(default)]
    pub turns: u64,
    /// Errors.
    #[serde(default)]
    pub errors: u64,
    /// Tokens.
    #[serde(default)]
    pub tokens: u64,
    /// What they cost in US dollars; `None` where nobody knows.
    pub cost_usd: Option<f64>,
    /// Of what kinds they were, as far as that was told.
    #[serde(default, skip_serializing_if = "TokenKinds::is_none")]
    pub kinds: TokenKinds,
}

/// Tokens by how they were used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenKinds {
    /// Read by the model, and from no cache.
    #[serde(default)]
    pub input: u64,
    /// Written by it.
    #[serde(default)]
    pub output: u64,
    /// Put into the cache for five minutes.
    #[serde(default)]
    pub cache_write_5m: u64,
    /// Put into the cache for an hour.
    #[serde(default)]
    pub cache_write_1h: u64,
    /// Taken from the cache.
    #[serde(default)]
    pub cache_read: u64,
}

impl TokenKinds {
    fn each(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            input: of(self.input, other.input),
            output: of(self.output, other.output),
            cache_write_5m: of(self.cache_write_5m, other.cache_write_5m),
            cache_write_1h: of(self.cache_write_1h, other.cache_write_1h),
            cache_read: of(self.cache_read, other.cache_read),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What is more than in `other`.
    #[must_use]
    pub fn beyond(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    /// Is nothing told?
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A session with when it did what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionEntry {
    /// The session.
    pub session: Session,
    /// By slot and model.
    pub slots: Vec<SessionSlot>,
}

impl SessionEntry {
    /// Rows of one session; later ones are added to the last.
    pub const SLOTS_MAX: usize = 2_000;

    /// From rows in any order: those of one slot and model become one, and what is beyond [`SessionEntry::SLOTS_MAX`] is added to the last
    /// row that there is, so that sums stay right.
    #[must_use]
    pub fn new(session: Session, rows: impl IntoIterator<Item = SessionSlot>) -> Self {
        let mut slots: BTreeMap<(i64, Option<String>), SessionSlot> = BTreeMap::new();
        for row in rows {
            match slots.entry((row.slot, row.model.clone())) {
                Entry::Vacant(free) => {
                    free.insert(row);
                }
                Entry::Occupied(mut known) => known.get_mut().add(&row),
            }
        }
        let mut slots: Vec<SessionSlot> = slots.into_values().collect();
        let excess = slots.split_off(slots.len().min(Self::SLOTS_MAX));
        if let Some(last) = slots.last_mut() {
            excess.iter().for_each(|row| last.add(row));
        }
        Self { session, slots }
    }
}

impl SessionSlot {
    /// Nothing, then and of that model.
    #[must_use]
    pub fn empty(slot: i64, model: Option<String>) -> Self {
        Self { slot, model, turns: 0, errors: 0, tokens: 0, cost_usd: None, kinds: TokenKinds::default() }
    }

    /// Tokens of which nobody knows what they cost.
    fn is_unpriced(&self) -> bool {
        self.tokens > 0 && self.cost_usd.is_none()
    }

    /// What is not known makes a sum that is not known.
    fn add(&mut self, other: &Self) {
        self.cost_usd = match (self.cost_usd, other.cost_usd) {
            _ if self.is_unpriced() || other.is_unpriced() => None,
            (Some(one), Some(more)) => Some(one + more),
            (one, more) => one.or(more),
        };
        self.turns = self.turns.saturating_add(other.turns);
        self.errors = self.errors.saturating_add(other.errors);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.kinds = self.kinds.plus(other.kinds);
    }
}

/// What is kept of one session, by where it is known from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredSession {
    /// By its events.
    pub seen: Option<SessionEntry>,
    /// By its transcript.
    pub imported: Option<SessionEntry>,
}

/// A session to be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSession {
    /// What is listed and added up.
    pub shown: SessionEntry,
    /// What it is made of.
    pub stored: StoredSession,
}

/// Which sessions had events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActiveSessions {
    /// Their ids, each once.
    pub ids: Vec<String>,
    /// All events up to this number were looked at before.
    pub read_from: u64,
    /// All events up to this number were looked at now.
    pub read_to: u64,
    /// Events that were not looked at yet, about.
    pub behind: u64,
}

/// Which sessions. What is not set does not narrow the choice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionQuery {
    /// At most so many, the one with the newest event first; 20 if absent, 1,000 at most.
    pub last: Option<u32>,
    /// That did something since then.
    pub since: Option<Timestamp>,
    /// With this id.
    pub id: Option<String>,
    /// With an id that begins so.
    pub beginning: Option<String>,
    /// In this state.
    pub state: Option<SessionState>,
    /// Of this project.
    pub project: Option<String>,
    /// On this branch.
    pub branch: Option<String>,
    /// For this feature.
    pub feature: Option<String>,
    /// That name this ticket.
    pub ticket: Option<String>,
    /// With this model.
    pub model: Option<String>,
    /// Forked from this session.
    pub parent: Option<String>,
}

impl SessionQuery {
    /// Sessions in one answer.
    pub const LAST_MAX: u32 = 1_000;
}

/// Sessions, the one with the newest event first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<Session>,
    /// Events of the archive that are not in these numbers yet: ask again.
    pub events_behind: u64,
}

/// One session and those that belong to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionShown {
    /// The session.
    pub session: Session,
    /// Others, the newest first; at most 100.
    pub related: Vec<RelatedSession>,
}

/// A session that belongs to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RelatedSession {
    /// Why.
    pub because: Vec<Relation>,
    /// The session.
    pub session: Session,
}

/// Why a session belongs to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It is the one that the session was forked from.
    Parent,
    /// It was forked from the session.
    Child,
    /// Both are for one feature.
    Feature,
    /// Both name one ticket.
    Ticket,
    /// Both work on one branch, which is none that everybody works on.
    Branch,
}

impl Relation {
    /// As JSON and people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Child => "child",
            Self::Feature => "feature",
            Self::Ticket => "ticket",
            Self::Branch => "branch",
        }
    }
}

/// What sums are made by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatsBy {
    /// By tool.
    Tool,
    /// By language model.
    Model,
    /// By project.
    Project,
    /// By branch.
    Branch,
    /// By day.
    #[default]
    Day,
    /// By feature.
    Feature,
}

impl StatsBy {
    /// As JSON and people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Model => "model",
            Self::Project => "project",
            Self::Branch => "branch",
            Self::Day => "day",
            Self::Feature => "feature",
        }
    }
}

/// Which sums.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatsQuery {
    /// By what.
    pub by: StatsBy,
    /// From the beginning of this quarter of an hour; 30 days before `until` if absent.
    pub since: Option<Timestamp>,
    /// Before this quarter of an hour; now if absent.
    pub until: Option<Timestamp>,
    /// The time zone of days, such as `Europe/Berlin`; UTC if absent.
    pub zone: Option<String>,
}

/// A sum over sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatsRow {
    /// What the sum is of; `None` for sessions of which that is not known.
    pub name: Option<String>,
    /// Sessions that did something then. One that did so with several models, or on several days, is counted in each row.
    pub sessions: u64,
    /// Uses of the tool, in whole sessions; 0 in other sums.
    pub uses: u64,
    /// Turns.
    pub turns: u64,
    /// Errors.
    pub errors: u64,
    /// Tokens.
    pub tokens: u64,
    /// Of what kinds, as far as that was told: a session whose events say no more than a sum has tokens that are in none of them.
    #[serde(default)]
    pub kinds: TokenKinds,
    /// What they cost in US dollars, as an estimate; `None` where nobody knows of some, or of any.
    pub cost_usd: Option<f64>,
    /// What is known of that.
    pub known_cost_usd: f64,
    /// Files that were written, of sessions that began then.
    pub files: u64,
    /// Commits, of sessions that began then.
    pub commits: u64,
    /// Seconds between beginning and end, of sessions that began then.
    pub duration_seconds: u64,
}

/// Sums over sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionStats {
    /// By what.
    pub by: StatsBy,
    /// From then.
    #[schemars(with = "Moment")]
    pub since: Timestamp,
    /// To then.
    #[schemars(with = "Moment")]
    pub until: Timestamp,
    /// The time zone of days.
    pub zone: String,
    /// Days in their order; else the dearest first, then the one with more tokens, uses and sessions. At most 1,000.
    pub rows: Vec<StatsRow>,
    /// Of all; a session counts once.
    pub total: StatsRow,
    /// Events of the archive that are not in these numbers yet: ask again.
    pub events_behind: u64,
}

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsImported {
    /// Sessions that were not known by their transcripts.
    pub added: u64,
    /// Sessions of whose transcripts there was more, or less.
    pub updated: u64,
    /// Sessions that nothing is new of.
    pub unchanged: u64,
}

/// What the store adds up by, and of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumsQuery {
    /// By what; `None` for one sum over all. Days are asked for one by one.
    pub by: Option<StatsBy>,
    /// From this slot.
    pub from: i64,
    /// Before this slot.
    pub to: i64,
}
