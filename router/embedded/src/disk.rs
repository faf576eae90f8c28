//! The disk reserve: is there room for new events? And its end: is there room for what becomes of the old ones?

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Looked at again after so many commits …
const COMMITS: u32 = 256;
/// … or this long, whichever is first. While there is no room, every time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Asks the file system now and then.
#[derive(Debug)]
pub(crate) struct Reserve {
    directory: PathBuf,
    bytes: u64,
    asked: Option<Duration>,
    commits: u32,
    free: u64,
}

impl Reserve {
    /// Of the disk that `store` lies on; 0 bytes switch it off.
    pub(crate) fn new(store: &Path, bytes: u64) -> Self {
        Self { directory: directory_of(store), bytes, asked: None, commits: 0, free: u64::MAX }
    }

    /// `Err` with a sentence when new events must wait. Call it once a commit.
    pub(crate) fn check(&mut self, now: Duration) -> Result<(), String> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.commits += 1;
        let stale = self.asked.is_none_or(|asked| now.saturating_sub(asked) >= INTERVAL) || self.commits >= COMMITS || self.free < self.bytes;
        if stale {
            match rustix::fs::statvfs(&self.directory) {
                Ok(answer) => self.free = answer.f_bavail.saturating_mul(answer.f_frsize),
                // Not knowing is no reason to refuse: SQLite says so itself when a write finds no room.
                Err(error) => {
                    tracing::debug!(directory = %self.directory.display(), %error, "the free space is not known");
                    self.free = u64::MAX;
                }
            }
            self.asked = Some(now);
            self.commits = 0;
        }
        if self.free >= self.bytes {
            return Ok(());
        }
        Err(format!(
            "{} MiB are free on the disk of `{}`, {} MiB are kept in reserve: free some space, queued events go on being handled",
            self.free >> 20,
            self.directory.display(),
            self.bytes >> 20
        ))
    }
}

/// What must be free so that an attempt begins: a part of the reserve, since the fates of all that runs have to find room.
const FLOOR_MAX: u64 = 4 * 1024 * 1024;

/// So much more than the floor is plenty: nothing fills that within [`PLENTY_FOR`].
const PLENTY: u64 = 64 * 1024 * 1024;
/// So long plenty is taken for granted.
const PLENTY_FOR: Duration = Duration::from_millis(5);

/// The end of the reserve: is there room for the fate of what begins now?
#[derive(Debug)]
pub(crate) struct Floor {
    directory: PathBuf,
    bytes: u64,
    /// In microseconds of the clock that runs on.
    plenty_until: AtomicU64,
}

impl Floor {
    /// Of the disk that `store` lies on, below a reserve of so many bytes; 0 bytes switch it off.
    pub(crate) fn new(store: &Path, reserve: u64) -> Self {
        Self { directory: directory_of(store), bytes: (reserve / 16).min(FLOOR_MAX), plenty_until: AtomicU64::new(0) }
    }

    /// `Err` with a sentence when nothing may begin. Asks the system each time, unless there was plenty a moment ago.
    pub(crate) fn check(&self, now: Duration) -> Result<(), String> {
        if self.bytes == 0 || micros(now) < self.plenty_until.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Ok(answer) = rustix::fs::statvfs(&self.directory) else { return Ok(()) };
        let free = answer.f_bavail.saturating_mul(answer.f_frsize);
        if free >= self.bytes {
            self.plenty_until.store(self.granted_until(free, now), Ordering::Relaxed);
            return Ok(());
        }
        Err(format!("{} KiB are free on the disk of `{}`, the reserve is used up: free some space", free >> 10, self.directory.display()))
    }

    /// Until when nobody needs to ask again.
    fn granted_until(&self, free: u64, now: Duration) -> u64 {
        if free.saturating_sub(self.bytes) >= PLENTY { micros(now.saturating_add(PLENTY_FOR)) } else { 0 }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn directory_of(store: &Path) -> PathBuf {
    store.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_of_zero_is_never_short() {
        let mut reserve = Reserve::new(Path::new("/nowhere/at/all.db"), 0);
        assert!(reserve.check(Duration::ZERO).is_ok());
    }

    #[test]
    fn too_little_room_is_said_with_both_numbers_and_looked_at_again_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(&directory.path().join("a.db"), u64::MAX);
        let sentence = reserve.check(Duration::ZERO).unwrap_err();
        assert!(sentence.contains("in reserve") && sentence.contains("MiB are free"), "{sentence}");
        reserve.bytes = 1;
        assert!(reserve.check(Duration::ZERO).is_ok());
    }

    #[test]
    fn at_the_end_of_the_reserve_nothing_begins() {
        let directory = tempfile::tempdir().unwrap();
        let mut floor = Floor::new(&directory.path().join("a.db"), 64 << 20);
        assert_eq!(floor.bytes, FLOOR_MAX);
        floor.bytes = u64::MAX;
        assert!(floor.check(Duration::ZERO).unwrap_err().contains("reserve is used up"));
        assert!(Floor::new(Path::new("/nowhere/at/all.db"), 0).check(Duration::ZERO).is_ok());
    }

    #[test]
    fn only_plenty_is_taken_for_granted_and_only_for_a_moment() {
        let mut floor = Floor::new(Path::new("/nowhere/at/all.db"), 64 << 20);
        let at = Duration::from_secs(1);
        assert_eq!(floor.granted_until(FLOOR_MAX + PLENTY - 1, at), 0, "others on the same disk leave it so for no time that could be named");
        assert_eq!(floor.granted_until(FLOOR_MAX + PLENTY, at), 1_005_000);

        let directory = tempfile::tempdir().unwrap();
        (floor.directory, floor.bytes) = (directory.path().to_owned(), u64::MAX);
        floor.plenty_until.store(1_005_000, Ordering::Relaxed);
        assert!(floor.check(Duration::from_micros(1_004_999)).is_ok());
        assert!(floor.check(Duration::from_micros(1_005_000)).is_err());
    }

    #[test]
    fn plenty_of_room_is_trusted_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(&directory.path().join("a.db"), 1);
        assert!(reserve.check(Duration::ZERO).is_ok());
        reserve.directory = "/nowhere/at/all".into();
        let free = reserve.free;
        assert!(reserve.check(Duration::from_millis(999)).is_ok());
        assert_eq!(reserve.free, free);
        assert!(reserve.check(Duration::from_millis(1_000)).is_ok());
        assert_eq!(reserve.free, u64::MAX);
    }
}
