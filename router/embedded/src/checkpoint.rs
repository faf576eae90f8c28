//! Copying the log into the file, and the sums of the pages that this changes.
//!
//! SQLite would do the copying by itself, whenever a commit finds the log long enough. Here the writer does it, between two commits, since
//! the sums have to be on the disk before the log is begun anew, which the next commit may do.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use router_api::failpoint::{self, Failpoint};
use rusqlite::{Connection, config::DbConfig};

use crate::{
    page_sums::PageSums,
    side_file::Place,
    wal_scan::{self, Log},
};

/// A log that is this long is copied: 4 MiB.
const FRAMES_MAX: u32 = 1_000;
/// When a reader was in the way, it is tried again after so many more.
const FRAMES_MORE: u32 = 250;
/// Of the salts in the log's header.
const SALTS_AT: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    log: PathBuf,
    /// Its file while it is open here; no lock of SQLite's lies on it.
    open_log: Option<File>,
    sums: PageSums,
    /// As the connection tells it with each commit.
    frames: Arc<AtomicU32>,
    /// After the last commit.
    last: Place,
    tried_at: u32,
}

/// The path of SQLite's log.
pub(crate) fn log_of(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

impl Checkpoints {
    /// For the store at `path`, whose log was found to end at `last`.
    pub(crate) fn new(path: &Path, sums: PageSums, last: Place) -> Self {
        Self { log: log_of(path), open_log: None, sums, frames: Arc::new(AtomicU32::new(last.frames)), last, tried_at: 0 }
    }

    /// From now on the connection leaves the copying to [`Checkpoints::tidy`], when it is closed too. What is told of its commits is told here.
    pub(crate) fn attach(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let frames = Arc::clone(&self.frames);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: std::ffi::c_int| {
            frames.store(u32::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))
    }

    /// The sums are those of this opening too. On the disk before the store says so itself.
    pub(crate) fn begin_opening(&mut self, opening: i64) -> std::io::Result<()> {
        self.sums.begin_opening(opening)
    }

    /// Where the log ends now. Call it after each commit.
    pub(crate) fn place(&mut self) -> Place {
        let place = Place { salts: self.salts(), frames: self.frames.load(Ordering::Relaxed) };
        if place.salts != self.last.salts && self.last.frames > 0 && self.sums.head().is_some_and(|head| head.complete != self.last) {
            // The log was begun anew, and what stood in it was copied by somebody else.
            tracing::warn!(log = %self.log.display(), "another program has copied the log into the store: leave that to the router");
            self.void();
        }
        self.last = place;
        place
    }

    fn salts(&mut self) -> [u32; 2] {
        let mut salts = [0; 8];
        if self.open_log.is_none() {
            self.open_log = File::open(&self.log).ok();
        }
        let read = self.open_log.as_ref().map(|log| log.read_exact_at(&mut salts, SALTS_AT));
        if !matches!(read, Some(Ok(()))) {
            return [0; 2];
        }
        let [a, b, c, d, e, f, g, h] = salts;
        [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
    }

    /// Copies the log if it is long.
    pub(crate) fn tidy(&mut self, conn: &Connection) {
        let frames = self.frames.load(Ordering::Relaxed);
        if frames < FRAMES_MAX {
            self.tried_at = 0;
            return;
        }
        if self.tried_at != 0 && frames < self.tried_at.saturating_add(FRAMES_MORE) {
            return;
        }
        self.tried_at = frames;
        self.copy(conn);
    }

    /// Copies the log, and says whether all of it is in the file now.
    pub(crate) fn copy(&mut self, conn: &Connection) -> bool {
        let place = self.place();
        let copied = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
        match copied {
            Ok((0, in_log, in_file)) if in_log == in_file => {
                if in_log > 0 && self.sums.head().is_some_and(|head| head.complete != place) {
                    self.sum_up(place);
                }
                true
            }
            // A reader needs an older page; there is a next time.
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, log = %self.log.display(), "the log cannot be copied into the store now");
                false
            }
        }
    }

    fn sum_up(&mut self, place: Place) {
        let written = match wal_scan::scan(&self.log) {
            Ok(Log::Frames(frames)) if frames.salts == place.salts && frames.committed == place.frames => {
                self.sums.update(&frames.pages, frames.pages_after, place).map_err(|error| error.to_string())
            }
            Ok(_) => Err("the log is not what was written to it".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            tracing::error!(sums = %self.sums.path().display(), error, "the sums of the store's pages cannot be kept; the next opening looks at everything");
            self.void();
        }
    }

    /// Sums that are wrong would be taken for damage of the store.
    fn void(&mut self) {
        if let Err(error) = self.sums.void() {
            tracing::error!(sums = %self.sums.path().display(), %error, "the sums of the store's pages cannot be taken back");
            if let Err(error) = std::fs::remove_file(self.sums.path()) {
                tracing::error!(sums = %self.sums.path().display(), %error, "remove this file before the next start");
            }
        }
    }

    /// Moves the log into the file, so that the file alone is whole, and ends the connection. True if it is, and all its pages have sums.
    pub(crate) fn finish(mut self, conn: Connection) -> bool {
        let is_whole = self.copy(&conn);
        if is_whole {
            let emptied = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            let emptied = emptied.and_then(|()| conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false));
            if let Err(error) = emptied {
                tracing::debug!(%error, "the log was not emptied at the end");
            }
        }
        failpoint::pass(Failpoint::CheckpointAfter);
        if let Err((_, error)) = conn.close() {
            tracing::debug!(%error, "the store was not closed well");
            return false;
        }
        is_whole && self.sums.head().is_some()
    }
}
