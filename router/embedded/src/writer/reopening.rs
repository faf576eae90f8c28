//! What an error of the disk means for those who write, and the way back from it: the file is opened anew, each second, and must then be
//! whole and have what was accepted.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};

use super::{WriteError, WriterDesk, WriterInbox};
use crate::{checkpoint::Checkpoints, queue::locked};

/// Between two tries to open the file anew.
const EVERY: Duration = Duration::from_secs(1);

/// Opens the file anew, given the number of the last event that was accepted, the time, and who copies the log.
pub(crate) type Reopening = Box<dyn Fn(i64, i64, &Checkpoints) -> Result<Connection, Reopened> + Send>;

/// Why it could not be opened anew.
pub(crate) enum Reopened {
    /// The disk still fails.
    NotYet(String),
    /// What is there is not what was there.
    Damaged(String),
}

/// Why nothing is written.
#[derive(Debug, Clone)]
pub(super) struct Break {
    pub(super) sentence: String,
    /// The file will be opened anew.
    heals: bool,
}

impl From<Break> for WriteError {
    fn from(Break { sentence, heals }: Break) -> Self {
        Self::Broken { sentence, heals }
    }
}

/// What the last commits have shown of the disk. The writer's thread says it, everybody may look.
#[derive(Debug, Default)]
pub(super) struct DiskState {
    broken: Mutex<Option<Break>>,
    /// The last commit found no room.
    is_full: AtomicBool,
}

impl DiskState {
    pub(super) fn broken(&self) -> Option<Break> {
        locked(&self.broken).clone()
    }

    /// Will the file be opened anew?
    pub(super) fn heals(&self) -> bool {
        locked(&self.broken).as_ref().is_some_and(|broken| broken.heals)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::SeqCst)
    }

    /// A commit went well.
    pub(super) fn has_room(&self) {
        self.is_full.store(false, Ordering::SeqCst);
    }

    /// From now on nothing is written.
    pub(super) fn break_down(&self, sentence: &str, heals: bool) -> Break {
        tracing::error!("{sentence}");
        let broken = Break { sentence: sentence.to_owned(), heals };
        *locked(&self.broken) = Some(broken.clone());
        broken
    }

    fn works_again(&self) {
        *locked(&self.broken) = None;
    }

    /// What an error means for whoever waits, and for the writer of the store at `path`.
    pub(super) fn judge(&self, path: &str, error: &rusqlite::Error) -> WriteError {
        if let Some(broken) = self.broken() {
            return broken.into();
        }
        if is_full(error) {
            self.is_full.store(true, Ordering::SeqCst);
            return WriteError::Full(format!("no room on the disk of the store `{path}`: free some space, nothing that was accepted is lost"));
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::SystemIoFailure) => {
                let sentence = format!("the store `{path}` could not be written ({error}) and is opened anew: look at its disk");
                self.break_down(&sentence, true).into()
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                let sentence = format!("the store `{path}` cannot be written any more ({error}): look at its disk, then restart the router");
                self.break_down(&sentence, false).into()
            }
            _ => WriteError::Failed(format!("the store `{path}` did not record it: {error}")),
        }
    }
}

/// The disk is full: SQLite says so for the database, but for its shared-memory file it says "I/O error".
fn is_full(error: &rusqlite::Error) -> bool {
    const SHM_SIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || error.sqlite_error().is_some_and(|error| error.extended_code == SHM_SIZE)
}

/// What a sync that failed looks like.
pub(super) fn disk_error() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None)
}

impl WriterInbox {
    /// Closes the old connection, since nothing that it holds in memory may be taken for what is on the disk, and gives the disk a moment.
    /// Whoever comes meanwhile is told to try again.
    pub(super) fn wait_broken(&mut self, desk: &mut WriterDesk, waiting: &tokio::runtime::Runtime) {
        match Connection::open_in_memory() {
            Ok(nothing) => drop(std::mem::replace(&mut desk.conn, nothing)),
            Err(error) => tracing::debug!(%error, "the old connection stays until the new one is there"),
        }
        let Some(broken) = self.shared.disk.broken() else { return };
        waiting.block_on(async {
            let mut moment = std::pin::pin!(tokio::time::sleep(EVERY));
            loop {
                tokio::select! {
                    biased;
                    () = &mut moment => break,
                    () = self.shared.wake.notified() => break,
                    work = self.receiver.recv() => match work {
                        Some(work) => work.finish(Err(broken.clone().into())),
                        None => break,
                    },
                }
            }
        });
    }

    /// Tries to open the file anew.
    pub(super) fn open_anew(&self, desk: &mut WriterDesk) {
        match (desk.reopening)(desk.last_seq, desk.time.now(), &desk.checkpoints) {
            Ok(conn) => {
                desk.conn = conn;
                self.shared.disk.works_again();
                tracing::info!("the store `{}` works again: it is whole, and has all that was accepted", desk.path);
            }
            Err(Reopened::NotYet(error)) => tracing::debug!(error, "the store still cannot be opened anew"),
            Err(Reopened::Damaged(what)) => {
                let sentence = format!("the store `{}` was damaged when its disk failed ({what}): restart the router, which says what is missing", desk.path);
                self.shared.disk.break_down(&sentence, false);
            }
        }
    }
}
