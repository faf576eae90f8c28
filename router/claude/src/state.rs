//! The documented files of a project: `.claude/sessions/{id}.json` for each session from its first hook on, and
//! `.claude/session-tracking.json`, a copy of the one that was active last.
//!
//! Each is replaced as a whole, under one lock for each project. What cannot be read counts as not there: the session is then built
//! anew from the hooks that come, under the same id, since the id is Claude Code's.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, ToSpan as _};

use crate::{event::derived, lock::Lock, process::Process, session::Session, whole_file};

/// The file that `jq` is shown with.
pub const TRACKING: &str = "session-tracking.json";

/// Bytes of a session's file that are read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files of sessions that are looked through for abandoned ones, and for those that may go.
const FILES_MAX: usize = 2_000;

/// Days after which a silent session is abandoned although its program still runs.
const THERE_DAYS: i64 = 7;

/// Projects that are looked through for abandoned sessions, and bytes of a path.
const PROJECTS_MAX: usize = 1_000;
const PATH_BYTES_MAX: u64 = 4_096;

/// Ended sessions whose files are kept.
const KEPT_MAX: usize = 500;

/// The directory that a project's sessions are kept in.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Where the sessions of a project are, without making anything.
    #[must_use]
    pub fn of_project(project: &Path) -> Self {
        Self { root: project.join(".claude") }
    }

    /// The directory of a project, made if it is not there; where that cannot be written to, one below `fallback`.
    ///
    /// # Errors
    ///
    /// When neither can be made.
    pub fn open(project: &Path, fallback: Option<&Path>) -> io::Result<Self> {
        let state = Self::of_project(project);
        // A directory that is gone stays gone.
        let made = if project.is_dir() { state.make() } else { Err(io::ErrorKind::NotFound.into()) };
        match made {
            Ok(()) => Ok(state),
            Err(error) => {
                let Some(fallback) = fallback else { return Err(error) };
                let name = derived(&["project", &project.to_string_lossy()]).to_string();
                let state = Self { root: fallback.join("projects").join(name) };
                state.make().map(|()| state)
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        let sessions = self.sessions();
        if !sessions.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&sessions)?;
        }
        // A file system that can be read only refuses here, not when a session is saved.
        rustix::fs::access(&sessions, rustix::fs::Access::WRITE_OK).map_err(io::Error::from)?;
        // A list that cannot be added to keeps nobody from counting.
        let _ = self.ignore();
        Ok(())
    }

    /// Keeps the files out of the repository, without touching the project's own list.
    fn ignore(&self) -> io::Result<()> {
        const LINES: [&str; 2] = ["/session-tracking.json*", "/sessions/"];
        let path = self.root.join(".gitignore");
        let there = whole_file::read(&path, FILE_BYTES_MAX)?;
        let text = there.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let missing: Vec<&str> = LINES.into_iter().filter(|line| !text.lines().any(|known| known.trim() == *line)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut added = String::new();
        if there.is_none() {
            // A list that only we need is nobody's to commit.
            added.push_str("# What event-router-hook keeps of sessions\n/.gitignore\n");
        } else if !text.is_empty() && !text.ends_with('\n') {
            added.push('\n');
        }
        for line in missing {
            added.push_str(line);
            added.push('\n');
        }
        fs::OpenOptions::new().append(true).create(true).mode(0o644).custom_flags(whole_file::NOFOLLOW).open(&path)?.write_all(added.as_bytes())
    }

    /// The copy of the session that was active last.
    #[must_use]
    pub fn tracking(&self) -> PathBuf {
        self.root.join(TRACKING)
    }

    /// Where each session has its file.
    #[must_use]
    pub fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// The file of a session. An id that is no file's name has another one.
    #[must_use]
    pub fn file(&self, id: &str) -> PathBuf {
        let is_name =
            !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let name = if is_name { id.to_owned() } else { derived(&["session-file", id]).to_string() };
        self.sessions().join(format!("{name}.json"))
    }

    /// What is known of a session's transcript, for the next call to go on from.
    #[must_use]
    pub fn tally(&self, id: &str) -> PathBuf {
        tally_of(&self.file(id))
    }

    /// Nobody else changes the project's sessions while this is held. `None` when somebody else held it all the while.
    ///
    /// # Errors
    ///
    /// When the file of the lock cannot be made.
    pub fn lock(&self, limit: Duration) -> io::Result<Option<Lock>> {
        Lock::within(&self.sessions().join(".lock"), limit)
    }

    /// What is known of a session; `None` if nothing can be read.
    #[must_use]
    pub fn load(&self, id: &str) -> Option<Session> {
        read(&self.file(id)).filter(|session| session.session_id == id)
    }

    /// The session that was active last.
    #[must_use]
    pub fn active(&self) -> Option<Session> {
        read(&self.tracking())
    }

    /// Writes a session's file, and the copy.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save(&self, session: &Session) -> io::Result<()> {
        let bytes = text(session)?;
        whole_file::replace(&self.file(&session.session_id), &bytes)?;
        whole_file::replace(&self.tracking(), &bytes)
    }

    /// Writes the file of a session that is over; the copy only if it is its own.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn save_ended(&self, session: &Session) -> io::Result<()> {
        if self.active().is_some_and(|active| active.session_id == session.session_id) {
            return self.save(session);
        }
        whole_file::replace(&self.file(&session.session_id), &text(session)?)
    }

    /// Tells whoever owns the spool that this project has sessions.
    pub fn make_known(&self, spool: &Path) {
        let Some(root) = self.root.to_str() else { return };
        let path = known_below(spool).join(derived(&["state", root]).to_string());
        if !path.exists() && fs::DirBuilder::new().recursive(true).mode(0o700).create(known_below(spool)).is_ok() {
            // Told again by the next hook.
            let _ = whole_file::replace(&path, root.as_bytes());
        }
    }

    /// The projects of a spool. Those that are gone are forgotten, and so are those of other users than the spool's.
    #[must_use]
    pub fn known(spool: &Path) -> Vec<Self> {
        let user = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|metadata| metadata.uid());
        let owner = user(spool);
        let of = |path: &Path| {
            let root = whole_file::read(path, PATH_BYTES_MAX).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok()).map(PathBuf::from);
            let state = root.filter(|root| root.is_absolute()).map(|root| Self { root });
            if owner.is_none() || state.as_ref().is_none_or(|state| user(&state.sessions()) != owner) {
                let _ = fs::remove_file(path);
                return None;
            }
            state
        };
        fs::read_dir(known_below(spool)).into_iter().flatten().flatten().take(PROJECTS_MAX).filter_map(|entry| of(&entry.path())).collect()
    }

    /// Sessions that have been silent for so long, have not ended, and of which nobody knows that their program still runs; at most `max`.
    /// Files of ended sessions beyond a number go, the oldest first.
    #[must_use]
    pub fn abandoned(&self, hours: u64, now: Timestamp, max: usize) -> Vec<Session> {
        let Some(before) = i64::try_from(hours).ok().and_then(|hours| now.checked_sub(hours.hours()).ok()) else { return Vec::new() };
        let long_before = now.checked_sub((THERE_DAYS * 24).hours()).map_or(before, |week| week.min(before));
        let is_there = |session: &Session| session.process.as_ref().is_some_and(Process::is_alive) && session.last_seen.is_some_and(|seen| seen >= long_before);
        let mut found = Vec::new();
        let mut ended = Vec::new();
        for entry in fs::read_dir(self.sessions()).into_iter().flatten().flatten().take(FILES_MAX) {
            let path = entry.path();
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| Timestamp::try_from(time).ok());
            let Some(modified) = modified else { continue };
            if path.extension().is_none_or(|extension| extension != "json") {
                // What a call left that was killed while it wrote.
                if path.extension().is_some_and(|extension| extension == "new") && modified < before {
                    let _ = fs::remove_file(path);
                }
                continue;
            }
            if found.len() < max && modified < before {
                match read(&path) {
                    Some(session) if !session.ended && session.last_seen.is_some_and(|seen| seen < before) && !is_there(&session) => found.push(session),
                    _ => ended.push((modified, path)),
                }
            } else {
                ended.push((modified, path));
            }
        }
        if ended.len() > KEPT_MAX {
            ended.sort_unstable();
            for (_, path) in ended.drain(..ended.len() - KEPT_MAX) {
                if read(&path).is_some_and(|session| session.ended) {
                    let _ = fs::remove_file(tally_of(&path));
                    let _ = fs::remove_file(path);
                }
            }
        }
        found
    }
}

fn text(session: &Session) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(session)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// One file for each project, which has its path.
fn known_below(spool: &Path) -> PathBuf {
    spool.join("known")
}

fn tally_of(file: &Path) -> PathBuf {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.tally"))
}

fn read(path: &Path) -> Option<Session> {
    serde_json::from_slice(&whole_file::read(path, FILE_BYTES_MAX).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_again_and_its_copy_is_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path(), None).unwrap();
        for id in ["one", "two", "one"] {
            state.save(&Session::new(id)).unwrap();
        }
        assert_eq!(state.load("one").unwrap().session_id, "one");
        assert_eq!(state.active().unwrap().session_id, "one");
        assert!(state.load("three").is_none());
        fs::write(state.file("two"), "{ half").unwrap();
        assert!(state.load("two").is_none(), "what cannot be read is not there");
    }

    #[test]
    fn the_files_are_kept_out_of_the_repository_and_a_list_of_the_users_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join(".claude/.gitignore");
        StateDir::open(directory.path(), None).unwrap();
        StateDir::open(directory.path(), None).unwrap();
        let made = fs::read_to_string(&own).unwrap();
        assert_eq!(made.matches("/sessions/").count(), 1, "{made}");
        assert!(made.contains("/session-tracking.json*") && made.contains("/.gitignore"), "{made}");
        fs::write(&own, "mine").unwrap();
        StateDir::open(directory.path(), None).unwrap();
        let added = fs::read_to_string(&own).unwrap();
        assert!(added.starts_with("mine\n/session-tracking.json*\n") && !added.contains("/.gitignore"), "{added}");
    }

    #[test]
    fn an_id_never_leaves_the_directory() {
        let state = StateDir::of_project(Path::new("/p"));
        for id in ["../../etc/passwd", "", ".", "..", "a/b", ".lock", "a\0b", &"x".repeat(200)] {
            assert_eq!(state.file(id).parent().unwrap(), Path::new("/p/.claude/sessions"), "{id}");
        }
        assert!(state.file("0b7a52a6-3a51").ends_with("0b7a52a6-3a51.json"));
    }

    #[test]
    fn where_a_project_cannot_be_written_to_the_files_are_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let project = directory.path().join("project");
        fs::create_dir(&project).unwrap();
        fs::write(project.join(".claude"), "a file").unwrap();
        let state = StateDir::open(&project, Some(directory.path())).unwrap();
        state.save(&Session::new("s")).unwrap();
        assert!(state.file("s").starts_with(directory.path().join("projects")));
        assert!(StateDir::open(&project, None).is_err());
    }

    #[test]
    fn only_sessions_that_were_silent_for_too_long_are_abandoned() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path(), None).unwrap();
        let now: Timestamp = "2030-01-02T00:00:00Z".parse().unwrap();
        let seen = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        state.save(&Session { last_seen: seen("2029-12-30T00:00:00Z"), ..Session::new("old") }).unwrap();
        state.save(&Session { last_seen: seen("2029-12-30T00:00:00Z"), ended: true, ..Session::new("ended") }).unwrap();
        state.save(&Session { last_seen: seen("2030-01-01T12:00:00Z"), ..Session::new("new") }).unwrap();
        let names: Vec<String> = state.abandoned(24, now, 10).into_iter().map(|session| session.session_id).collect();
        assert_eq!(names, ["old"]);
    }
}
