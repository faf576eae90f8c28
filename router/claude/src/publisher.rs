//! One call of the hook, from its input to the spool and on: which session, which events, and where they went.
//!
//! The order is the promise: events are appended before the session's file is written, and both under the project's lock, so that
//! events of one session stand in the spool in the order in which they were counted. A call that is killed in between has told its
//! event; the next one may tell it again, under the same id.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    event::start_id,
    events::{Circumstances, Usage, events},
    handover::{HandedOver, hand_over},
    input::HookInput,
    interface::Interface,
    process::Process,
    records::Writer,
    redact::Redaction,
    session::{SESSION_ID_BYTES_MAX, Session, Surroundings},
    settings::Settings,
    spool::{Appended, Place, Record, Spool},
    state::StateDir,
    transcript::{self, Reading},
    unread, whole_file,
};

/// For the project's lock. Without it the event is told, and not counted.
const STATE_PATIENCE: Duration = Duration::from_millis(1_000);

/// For the spool's lock, which is held for moments: only a holder that was stopped makes anybody wait.
const SPOOL_PATIENCE: Duration = Duration::from_secs(10);

/// The end of a session has a second and a half for everything. From the call's begin: when nobody waits any more for the project's lock,
/// for the spool's, and for an answer.
const STATE_UNTIL: Duration = Duration::from_millis(850);
const SPOOL_UNTIL: Duration = Duration::from_millis(1_100);
const ANSWER_UNTIL: Duration = Duration::from_millis(1_300);

/// Abandoned sessions that are ended by one start of another.
const ABANDONED_MAX: usize = 5;

/// Names of servers that a project's `.mcp.json` may bring, and bytes of it.
const MCP_BYTES_MAX: u64 = 256 * 1024;

/// What a call is made in.
pub struct Call<'a> {
    /// How it was called.
    pub interface: Interface,
    /// The environment.
    pub settings: &'a Settings,
    /// The machine's name.
    pub host: String,
    /// The working directory of the process.
    pub directory: PathBuf,
    /// When.
    pub now: Timestamp,
    /// How long ago the call began, asked again and again: what is slow stops in time.
    pub elapsed: &'a dyn Fn() -> Duration,
    /// Who calls the hook. Asked when a session begins.
    pub process: &'a dyn Fn() -> Option<Process>,
    /// Random bytes: for a session without an id, an event without an identity, and the key of a new spool.
    pub random: &'a dyn Fn() -> [u8; 32],
}

/// What became of a call.
#[derive(Debug, Default)]
pub struct Published {
    /// Id and key of each event.
    pub events: Vec<(Uuid, &'static str)>,
    /// Up to where they wait.
    pub place: Option<Place>,
    /// Where they went from the spool.
    pub handed_over: Option<HandedOver>,
    /// What went wrong, a sentence fragment each.
    pub troubles: Vec<String>,
    /// The hook, as it was understood.
    pub hook: Option<HookInput>,
    /// Of the hook.
    pub session_id: Option<String>,
    /// Where the session works.
    pub working_directory: Option<PathBuf>,
    /// The spool.
    pub spool: Option<Spool>,
}

impl Call<'_> {
    /// Publishes what `input` tells. Nothing here fails: what goes wrong is in the answer, for whoever debugs.
    #[must_use]
    pub fn publish(&self, input: impl Read) -> Published {
        let mut published = Published::default();
        if let Err(trouble) = self.run(input, &mut published) {
            published.troubles.push(trouble);
        }
        published
    }

    fn run(&self, input: impl Read, published: &mut Published) -> Result<(), String> {
        let settings = self.settings;
        let directory = settings.spool.as_deref().ok_or("there is no directory for the spool: set `EVENT_ROUTER_SPOOL` or `HOME`")?;
        let spool = Spool::open(directory, settings.spool_bytes_max).map_err(|error| format!("the spool `{}`: {error}", directory.display()))?;
        published.spool = Some(spool.clone());
        let redaction = Redaction::new(&settings.redact_paths, self.key(directory));
        let hook = match HookInput::read(input, Some(&redaction)) {
            Ok(hook) => hook,
            // The original wiring pipes what is no JSON into `session-end`.
            Err(_) if self.interface != Interface::Hook => HookInput::empty(),
            Err(error) => return Err(error.to_string()),
        };
        let mut hook = self.interface.understood(hook, settings);
        let work = hook.text("cwd").map(PathBuf::from).filter(|cwd| cwd.is_absolute()).unwrap_or_else(|| self.directory.clone());
        if hook.text("cwd").is_none() {
            hook.set("cwd", work.to_string_lossy().as_ref().into());
        }
        let around = Surroundings::of(&work);
        let project = settings.project_dir.clone().or_else(|| around.root.clone().map(PathBuf::from)).unwrap_or_else(|| work.clone());
        published.working_directory = Some(work);
        let state = StateDir::open(&project, Some(directory)).map_err(|error| format!("the files of the session cannot be made: {error}"))?;
        state.make_known(directory);
        let id = self.session_id(&hook, &state);
        hook.set("session_id", id.as_str().into());
        published.session_id = Some(id.clone());
        published.hook = Some(hook.clone());
        self.tell(&hook, &id, &state, &around, &project, &spool, &redaction, published)?;
        // What was left by others is handed over by whichever call comes next.
        if !published.events.is_empty() || spool.waiting().bytes > 0 {
            let patience = self.patience(hook.event_name() == "SessionEnd", Duration::MAX, ANSWER_UNTIL);
            published.handed_over = Some(hand_over(&spool, settings, self.now.as_second(), patience));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one call, which only this function joins")]
    fn tell(
        &self,
        hook: &HookInput,
        id: &str,
        state: &StateDir,
        around: &Surroundings,
        project: &Path,
        spool: &Spool,
        redaction: &Redaction,
        published: &mut Published,
    ) -> Result<(), String> {
        let settings = self.settings;
        let name = hook.event_name();
        let is_end = name == "SessionEnd";
        // Before the lock: it may take a while, and others of the project would wait.
        let mut is_unread = false;
        let usage = match name {
            "Stop" | "SessionEnd" | "PostCompact" => {
                let path = hook.text("transcript_path").map(str::to_owned).or_else(|| state.load(id).and_then(|session| session.transcript_path));
                path.map_or_else(Usage::default, |path| {
                    let path = transcript::resolved(&path, settings.home.as_deref());
                    let reading = transcript::read_in_time(&state.tally(id), &path, settings.prices.as_deref(), is_end, self.elapsed);
                    is_unread = matches!(reading, Reading::Unfinished { .. });
                    reading.usage()
                })
            }
            _ => Usage::default(),
        };
        // A lock that cannot be made costs the counting, not the event.
        let lock = state.lock(self.patience(is_end, STATE_PATIENCE, STATE_UNTIL)).unwrap_or_else(|error| {
            published.troubles.push(format!("the session's lock: {error}"));
            None
        });
        let mut session = state.load(id).unwrap_or_else(|| self.begun(hook, id, state, project));
        let seen_end = session.ended;
        session.note(hook, around, settings.messages, self.now);
        session.redacted_paths.clone_from(&settings.redact_paths);
        if session.process.is_none() || name == "SessionStart" {
            session.process = (self.process)();
        }
        if session.model.is_none() {
            session.model.clone_from(&usage.model);
        }
        let mut told = Vec::new();
        if !(is_end && seen_end) {
            let fresh = self.fresh();
            let snapshot = self.snapshot(hook, &session);
            let cx = Circumstances { now: self.now, messages: settings.messages, around, usage: &usage, feature: settings.feature.as_deref(), snapshot, fresh };
            told = events(hook, &mut session, &cx);
            if settings.thinking && name == "Stop" {
                let thoughts = transcript::thoughts(&mut session, settings.home.as_deref(), redaction);
                // Before the turn that they belong to is over.
                let before_turn = told.iter().position(|event| event.key == "session.thread.turn.completed").unwrap_or(told.len());
                told.splice(before_turn..before_turn, thoughts);
            }
        }
        let writer = Writer {
            host: &self.host,
            now: self.now,
            traceparent: settings.traceparent.as_deref(),
            redaction,
            home: settings.home.as_deref(),
            prices: settings.prices.as_deref(),
        };
        if let Some(end) = told.iter_mut().find(|event| is_unread && event.key == unread::KEY) {
            end.meta.extend(writer.unread(state, &session));
        }
        let mut records: Vec<Record> = told.iter().map(|event| writer.record(hook, event, id)).collect();
        let mut abandoned = Vec::new();
        if name == "SessionStart" {
            for mut old in state.abandoned(settings.abandoned_hours, self.now, ABANDONED_MAX).into_iter().filter(|old| old.session_id != id) {
                let (event, record) = writer.abandoned(state, &old);
                records.push(record);
                told.push(event);
                old.ended = true;
                abandoned.push(old);
            }
        }
        if !records.is_empty() {
            match spool.append(&records, self.patience(is_end, SPOOL_PATIENCE, SPOOL_UNTIL)).map_err(|error| format!("the spool: {error}"))? {
                Appended::Waiting(place) => published.place = Some(place),
                Appended::Full => return Err("the spool is full: the event is lost, and counted".to_owned()),
            }
            published.events = told.iter().map(|event| (event.id, event.key)).collect();
        }
        if lock.is_none() {
            published.troubles.push("the project's sessions are locked by somebody else: the event is told, and not counted".to_owned());
            return Ok(());
        }
        for old in &abandoned {
            // The copy shows the session that is active.
            state.save(old).map_err(|error| format!("an abandoned session's file: {error}"))?;
        }
        state.save(&session).map_err(|error| format!("the session's file: {error}"))
    }

    /// A session whose first hook this is, as far as we know.
    fn begun(&self, hook: &HookInput, id: &str, state: &StateDir, project: &Path) -> Session {
        let mut session = Session::new(id);
        if matches!(hook.text("source"), Some("clear" | "fork")) {
            session.parent = state.active().map(|active| active.session_id).filter(|parent| parent != id);
        }
        let servers = whole_file::read(&project.join(".mcp.json"), MCP_BYTES_MAX).ok().flatten();
        let servers = servers.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        if let Some(names) = servers.as_ref().and_then(|file| file["mcpServers"].as_object()) {
            session.mcp_servers = names.keys().filter(|name| name.len() <= 200).take(100).cloned().collect();
        }
        session
    }

    /// Claude Code's id, wherever it stands; else that of the session that was active last, unless a new one begins.
    fn session_id(&self, hook: &HookInput, state: &StateDir) -> String {
        let named = hook.text("session_id").or(self.settings.session_id.as_deref()).filter(|id| id.len() <= SESSION_ID_BYTES_MAX).map(str::to_owned);
        let begins = hook.event_name() == "SessionStart";
        let active = || state.active().filter(|session| !begins && !session.ended).map(|session| session.session_id);
        named.or_else(active).unwrap_or_else(|| self.fresh().to_string())
    }

    fn snapshot(&self, hook: &HookInput, session: &Session) -> Option<&'static str> {
        match hook.event_name() {
            "PostCompact" if self.settings.snapshots => Some("compacted"),
            "Stop" if crate::session::is_main(hook) => {
                let turns = self.settings.snapshot_turns?;
                session.turn().filter(|turn| turn.is_multiple_of(turns)).map(|_| "turns")
            }
            _ => None,
        }
    }

    fn fresh(&self) -> Uuid {
        let random = (self.random)();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&random[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// The key of the spool's fingerprints, made once.
    fn key(&self, directory: &Path) -> [u8; 32] {
        if let Some(key) = key_of(directory) {
            return key;
        }
        let key = (self.random)();
        let _ = whole_file::replace(&directory.join(KEY), &key);
        // Whoever was last has the key that stays.
        key_of(directory).unwrap_or(key)
    }

    /// How long something may take: less than `at_most` where the end of a session would not be over in time.
    fn patience(&self, is_end: bool, at_most: Duration, until: Duration) -> Duration {
        if is_end { until.saturating_sub((self.elapsed)()).min(at_most) } else { at_most }
    }
}

/// Of a spool.
const KEY: &str = "key";

/// The key of a spool's fingerprints, if it has one already.
pub(crate) fn key_of(directory: &Path) -> Option<[u8; 32]> {
    whole_file::read(&directory.join(KEY), 32).ok().flatten().and_then(|bytes| bytes.try_into().ok())
}

/// The event that a session's other events belong to.
#[must_use]
pub fn start_of(session: &Session) -> Uuid {
    start_id(&session.session_id, session.resumes)
}
