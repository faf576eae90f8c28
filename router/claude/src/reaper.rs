//! Ends sessions that nobody ended: a Claude Code that was killed, a machine that was switched off. The hook does so when another session
//! of the project starts; the router that owns the spool does it here, for projects in which none does.
//!
//! Whoever ends one does it under the project's lock and notes it in the session's file, so that the other finds it ended. Where one of
//! them could not note it both tell of it, under the same id, which the routes' inboxes know.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

use crate::{
    publisher::key_of,
    records::Writer,
    redact::Redaction,
    session::Session,
    spool::{Appended, Spool},
    state::StateDir,
};

/// For a project's lock: who holds it for longer is a hook, and the next look is soon enough.
const PATIENCE: Duration = Duration::from_millis(200);

/// Sessions of one project that are ended at once.
const SESSIONS_MAX: usize = 50;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Reaper {
    /// Whose projects, and where the ends wait.
    pub spool: Spool,
    /// Of silence.
    pub hours: u64,
    /// The machine's name.
    pub host: String,
    /// `HOME`, where transcripts are named from there.
    pub home: Option<PathBuf>,
    /// Prices beside those that are built in.
    pub prices: Option<PathBuf>,
}

impl Reaper {
    /// Ends what is abandoned, and says which sessions that were. What cannot be read or written now is left for the next time.
    #[must_use]
    pub fn reap(&self, now: Timestamp) -> Vec<String> {
        // Made by the first hook.
        let Some(key) = key_of(self.spool.directory()) else { return Vec::new() };
        StateDir::known(self.spool.directory()).iter().flat_map(|state| self.reap_project(state, key, now).unwrap_or_default()).collect()
    }

    fn reap_project(&self, state: &StateDir, key: [u8; 32], now: Timestamp) -> Option<Vec<String>> {
        if state.abandoned(self.hours, now, 1).is_empty() {
            return None;
        }
        let _lock = state.lock(PATIENCE).ok()??;
        // Asked again: a hook may just have come.
        let ended = state.abandoned(self.hours, now, SESSIONS_MAX).into_iter().filter_map(|session| self.end(state, session, key, now));
        Some(ended.collect())
    }

    fn end(&self, state: &StateDir, mut session: Session, key: [u8; 32], now: Timestamp) -> Option<String> {
        let redaction = Redaction::new(&session.redacted_paths, key);
        let writer = Writer { host: &self.host, now, traceparent: None, redaction: &redaction, home: self.home.as_deref(), prices: self.prices.as_deref() };
        let (_, record) = writer.abandoned(state, &session);
        let Ok(Appended::Waiting(_)) = self.spool.append(&[record], Duration::from_secs(1)) else { return None };
        session.ended = true;
        // What cannot be noted is told again, under the same id.
        let _ = state.save_ended(&session);
        Some(session.session_id)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::SystemTime};

    use super::*;
    use crate::{event::end_id, process::Process, whole_file};

    const NOW: &str = "2030-01-10T00:00:00Z";

    fn reaper(directory: &Path) -> Reaper {
        let spool = Spool::open(&directory.join("spool"), 1_000_000).unwrap();
        whole_file::replace(&directory.join("spool/key"), &[7; 32]).unwrap();
        Reaper { spool, hours: 24, host: "h".into(), home: None, prices: None }
    }

    fn session(state: &StateDir, id: &str, seen: &str, change: impl FnOnce(&mut Session)) {
        let seen: Timestamp = seen.parse().unwrap();
        let mut session = Session { started_at: Some(seen), last_seen: Some(seen), ..Session::new(id) };
        change(&mut session);
        state.save(&session).unwrap();
        fs::File::options().write(true).open(state.file(id)).unwrap().set_modified(SystemTime::from(seen)).unwrap();
    }

    fn told(spool: &Spool) -> Vec<serde_json::Value> {
        let drain = spool.drain().unwrap().unwrap();
        let batch = drain.batch(1_000, 1_000_000).unwrap();
        drain.acknowledge(&batch, batch.records.len()).unwrap();
        batch.records.iter().map(|record| serde_json::from_slice(&record.body).unwrap()).collect()
    }

    #[test]
    fn only_what_is_silent_and_without_its_process_is_ended_once_and_with_the_id_of_the_hook() {
        let directory = tempfile::tempdir().unwrap();
        let reaper = reaper(directory.path());
        let project = directory.path().join("p");
        fs::create_dir(&project).unwrap();
        let state = StateDir::open(&project, None).unwrap();
        let own = Process::behind(std::process::id()).unwrap();
        let ours = |session: &mut Session| session.process = Some(own);
        session(&state, "silent", "2030-01-08T00:00:00Z", |session| {
            session.resumes = 2;
            session.summary = Some("what was said".into());
            session.redacted_paths = vec!["payload.summary".into()];
        });
        session(&state, "gone", "2030-01-08T00:00:00Z", |session| session.process = Some(Process { began: own.began + 1, ..own }));
        session(&state, "there", "2030-01-08T00:00:00Z", ours);
        session(&state, "there-for-weeks", "2030-01-01T00:00:00Z", ours);
        session(&state, "ended", "2030-01-08T00:00:00Z", |session| session.ended = true);
        session(&state, "active", "2030-01-09T12:00:00Z", |_| {});
        let now = NOW.parse().unwrap();
        assert!(reaper.reap(now).is_empty(), "a project that no hook made known is nobody's");
        state.make_known(reaper.spool.directory());
        let mut ended = reaper.reap(now);
        ended.sort_unstable();
        assert_eq!(ended, ["gone", "silent", "there-for-weeks"]);
        assert!(reaper.reap(now).is_empty(), "once");
        let events = told(&reaper.spool);
        let silent = events.iter().find(|event| event["payload"]["session_id"] == "silent").unwrap();
        assert_eq!(silent["event_id"], end_id("silent", 2).to_string());
        assert_eq!((&silent["payload"]["end_reason"], &silent["payload"]["final_status"]), (&"abandoned".into(), &"abandoned".into()));
        assert!(silent["payload"]["summary"].as_str().unwrap().starts_with("[redacted:path:"), "{silent}");
        assert_eq!(state.active().unwrap().session_id, "active", "the copy shows who is active");
        assert!(state.load("silent").unwrap().ended && !state.load("there").unwrap().ended);
    }

    #[test]
    fn a_project_whose_hooks_are_busy_is_left_for_the_next_time_and_one_that_is_gone_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let reaper = reaper(directory.path());
        let now = NOW.parse().unwrap();
        let project = directory.path().join("p");
        fs::create_dir(&project).unwrap();
        let state = StateDir::open(&project, None).unwrap();
        state.make_known(reaper.spool.directory());
        session(&state, "silent", "2030-01-08T00:00:00Z", |_| {});
        let held = state.lock(Duration::from_secs(60)).unwrap().unwrap();
        assert!(reaper.reap(now).is_empty());
        drop(held);
        assert_eq!(reaper.reap(now), ["silent"]);
        assert_eq!(StateDir::known(reaper.spool.directory()).len(), 1);
        fs::remove_dir_all(&project).unwrap();
        assert!(reaper.reap(now).is_empty() && !project.exists());
        assert!(StateDir::known(reaper.spool.directory()).is_empty());
    }
}
