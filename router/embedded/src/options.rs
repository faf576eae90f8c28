//! What a store is opened with, and why it could not be opened. Nothing is done here; see `opening.rs`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use router_api::DecodeLimits;

/// What a store is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// The database file. Its directory is made if it is missing.
    pub path: PathBuf,
    /// True waits for the disk at every commit (`synchronous = FULL`). False (`NORMAL`) keeps the file consistent, but a power
    /// failure may take the last commits; the death of the process alone never does.
    pub sync: bool,
    /// Events older than this leave the archive, unless a queue or a dead letter still needs them.
    pub retention_age: Duration,
    /// Above this the oldest events leave the archive, with the same exception. In bytes of the file that are in use, so rows
    /// and indexes count as well as bodies.
    pub retention_bytes_max: u64,
    /// Above this the oldest writes leave the ledger, in bytes of their stored replies and rows. Those older than `retention_age` go
    /// anyway.
    pub ledger_bytes_max: u64,
    /// With less free space than this on the file's disk no new events are taken, so that handling can go on. In bytes; 0 is off.
    pub reserve_bytes: u64,
    /// From this size on, in bytes, [`crate::Embedded::open_to_look`] does not read the whole of a store that was examined within a day, closed
    /// cleanly and not changed since.
    pub look_bytes_min: u64,
    /// Bodies beyond these limits are not filtered at intake: every route whose patterns fit gets them, and buries them.
    pub decode: DecodeLimits,
    /// How long SQLite waits for a lock that some other program (a backup, a `sqlite3` shell) holds on the file.
    pub busy_timeout: Duration,
    /// How long [`crate::Embedded::open_waiting`] waits between two looks at the lock.
    pub lock_poll: Duration,
}

impl EmbeddedOptions {
    /// Bodies above this are refused at intake whatever [`EmbeddedOptions::decode`] says: 64 MiB.
    pub const BODY_BYTES_HARD_MAX: usize = 64 * 1024 * 1024;

    /// The defaults: synced, 30 days, 1 GiB, a ledger and a reserve of 64 MiB each.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            sync: true,
            retention_age: Duration::from_secs(30 * 24 * 3600),
            retention_bytes_max: 1024 * 1024 * 1024,
            ledger_bytes_max: 64 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
            look_bytes_min: 64 * 1024 * 1024,
            decode: DecodeLimits::default(),
            busy_timeout: Duration::from_secs(5),
            lock_poll: Duration::from_millis(50),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another part of this one) has it open.
    #[error("the store `{}` is in use{}: stop it, or reach it through its socket", path.display(), holder(*pid))]
    HeldByAnother {
        /// The store.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// The file is something else.
    #[error("`{}` is no event-router store ({what}): give another `store.path`, or move the file away", path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        what: String,
    },
    /// A later version of the program wrote it.
    #[error("the store `{}` has schema {found}, this program knows {known}: use the newer program that wrote it", path.display())]
    NewerSchema {
        /// The store.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// It cannot be written.
    #[error("the store `{}` cannot be written: give the user of this program read and write permission on the file and its directory", path.display())]
    ReadOnly {
        /// The file or directory that refused.
        path: PathBuf,
    },
    /// Its content makes no sense.
    #[error("the store `{}` is damaged: {what}. Nothing was changed. `event-router store check` tells more, `event-router store repair --accept-loss` keeps a copy of all its files and goes on with what can be read", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is missing, or is not what was written.
        what: String,
    },
    /// The disk it lies on has no room.
    #[error("no room on the disk of the store `{}`: free some space", path.display())]
    NoRoom {
        /// The store.
        path: PathBuf,
    },
    /// The SQLite library that was linked is known to corrupt files.
    #[error("linked with SQLite {found}, at least 3.51.3 is needed: earlier ones can corrupt a store that is read while it is written")]
    OldLibrary {
        /// Its version.
        found: String,
    },
    /// The system said no.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

impl OpenError {
    /// From an answer of the file system; permission and space get their own sentences.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path: path.to_owned() },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoRoom { path: path.to_owned() },
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }

    /// From an answer of SQLite.
    pub(crate) fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(Code::ReadOnly | Code::CannotOpen | Code::PermissionDenied) => Self::ReadOnly { path: path.to_owned() },
            Some(Code::DiskFull) => Self::NoRoom { path: path.to_owned() },
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::HeldByAnother { path: path.to_owned(), pid: None },
            Some(Code::SystemIoFailure) => Self::Io { doing: "open", path: path.to_owned(), source: io::Error::other(error.to_string()) },
            Some(Code::NotADatabase) => Self::ForeignFile { path: path.to_owned(), what: "not an SQLite database".to_owned() },
            _ => Self::Damaged { path: path.to_owned(), what: error.to_string() },
        }
    }
}
