//! What an operator does with a store while no router has it: check, repair, back up, give space back. Each is a function that takes
//! the store's lock itself; `check` and `back_up` also work beside a running router, from a snapshot.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use crate::{
    Damage, Finding, OpenError, damage,
    examine::{self, Counted, Evidence, Judged, Said},
    lock_file::LockFile,
    schema,
    wal_scan::Log,
};

/// Why something was not done with a store.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// As when it is opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is not there.
    #[error("there is no store `{}`", path.display())]
    NotThere {
        /// Where it should be.
        path: PathBuf,
    },
    /// What would be made is there.
    #[error("`{}` is there already, and nothing is overwritten: name another file", path.display())]
    Exists {
        /// It.
        path: PathBuf,
    },
    /// There is no room for it.
    #[error("{needed} MiB are needed beside `{}` and {free} MiB are free: make room first", path.display())]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// In MiB.
        needed: u64,
        /// In MiB.
        free: u64,
    },
    /// What was made is not what it should be.
    #[error("`{}` is not whole ({what}) and was removed: look at the disk, and try again", path.display())]
    NotWhole {
        /// It.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCheck {
    /// A router (or a command) has it, so what SQLite reads was looked at and the files were not.
    pub is_held: bool,
    /// What keeps it from being opened.
    pub damages: Vec<Damage>,
    /// What it can be used with.
    pub findings: Vec<Finding>,
    /// Events that were read and are what was written.
    pub events: u64,
    /// What became of them, or waits.
    pub deliveries: u64,
    /// Events that were given up on.
    pub dead_letters: u64,
    /// The number of the last accepted event.
    pub last_seq: u64,
    /// Of the file's content.
    pub schema: i64,
    /// Of the file.
    pub bytes: u64,
    /// Pages of the file that are what was written.
    pub pages: u64,
    /// Frames of the log that are what was written.
    pub log_frames: u64,
    /// The last process that had it closed it.
    pub is_closed: bool,
}

/// Looks at everything and changes nothing.
///
/// # Errors
///
/// Only where nothing can be said: damage is an answer.
pub fn check(path: &Path) -> Result<StoreCheck, UpkeepError> {
    must_be_there(path)?;
    match LockFile::take(path) {
        Ok(_lock) => check_closed(path),
        Err(OpenError::HeldByAnother { .. }) => check_held(path),
        Err(error) => Err(error.into()),
    }
}

/// A lock would make the directory.
pub(crate) fn must_be_there(path: &Path) -> Result<(), UpkeepError> {
    let is_there = path.exists() || Evidence::gather(path).is_ok_and(|evidence| evidence.of_no_store().is_some());
    if is_there { Ok(()) } else { Err(UpkeepError::NotThere { path: path.to_owned() }) }
}

fn check_closed(path: &Path) -> Result<StoreCheck, UpkeepError> {
    let diagnosis = Diagnosis::make(path)?;
    let Diagnosis { evidence, damages, findings, said, counted, schema, .. } = diagnosis;
    let frames = match &evidence.log {
        Log::Frames(frames) => frames.committed,
        Log::Nothing | Log::NoHeader { .. } => 0,
    };
    Ok(StoreCheck {
        is_held: false,
        damages,
        findings,
        events: counted.events,
        deliveries: counted.deliveries,
        dead_letters: counted.dead_letters,
        last_seq: u64::try_from(said.last_seq).unwrap_or(0),
        schema,
        bytes: evidence.bytes,
        pages: evidence.compared.as_ref().map_or(0, |compared| compared.good),
        log_frames: frames.into(),
        is_closed: said.is_clean,
    })
}

fn check_held(path: &Path) -> Result<StoreCheck, UpkeepError> {
    let sqlite = |error: rusqlite::Error| OpenError::sqlite(path, &error);
    let conn = examine::connect_to_look(path).map_err(sqlite)?;
    let snapshot = conn.unchecked_transaction().map_err(sqlite)?;
    let said = Said::read(&snapshot).map_err(sqlite)?;
    let counted = examine::everything(&snapshot).map_err(sqlite)?;
    let schema = schema::version(&snapshot).map_err(sqlite)?;
    Ok(StoreCheck {
        is_held: true,
        damages: counted.damages,
        findings: Vec::new(),
        events: counted.events,
        deliveries: counted.deliveries,
        dead_letters: counted.dead_letters,
        last_seq: u64::try_from(said.last_seq).unwrap_or(0),
        schema,
        bytes: fs::metadata(path).map_or(0, |metadata| metadata.len()),
        pages: 0,
        log_frames: 0,
        is_closed: false,
    })
}

/// Everything that a closed store has to say.
pub(crate) struct Diagnosis {
    pub(crate) evidence: Evidence,
    pub(crate) damages: Vec<Damage>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) said: Said,
    pub(crate) counted: Counted,
    pub(crate) schema: i64,
    /// The sums are those of this store, so that what differs from them is not what was written.
    pub(crate) trusts_sums: bool,
}

impl Diagnosis {
    /// Of the store at `path`, which nobody has open.
    pub(crate) fn make(path: &Path) -> Result<Self, UpkeepError> {
        let evidence = Evidence::gather(path).map_err(|error| OpenError::io("read", path, error))?;
        if evidence.bytes == 0 {
            let damages = evidence.of_no_store().into_iter().collect();
            return Ok(Self::of(evidence, damages));
        }
        match judged(path, &evidence) {
            Ok((judged, schema)) if schema > schema::KNOWN && !evidence.is_header_bad() => {
                drop(judged);
                Err(OpenError::NewerSchema { path: path.to_owned(), found: schema, known: schema::KNOWN }.into())
            }
            Ok((judged, schema)) => {
                let trusts_sums = judged.damages.iter().any(|damage| matches!(damage, Damage::Pages { .. })) || judged.head.is_some();
                let Judged { damages, findings, said, counted, .. } = judged;
                Ok(Self { evidence, damages, findings, said, counted: counted.unwrap_or_default(), schema, trusts_sums })
            }
            Err(error) => match (evidence.of_no_store(), OpenError::sqlite(path, &error)) {
                (None, other @ (OpenError::ReadOnly { .. } | OpenError::ForeignFile { .. } | OpenError::HeldByAnother { .. } | OpenError::NoRoom { .. })) => {
                    Err(other.into())
                }
                (found, _) => {
                    let mut damages: Vec<Damage> = found.into_iter().collect();
                    damages.push(Damage::Structure { problems: vec![error.to_string()] });
                    Ok(Self { trusts_sums: true, ..Self::of(evidence, damages) })
                }
            },
        }
    }

    fn of(evidence: Evidence, damages: Vec<Damage>) -> Self {
        Self { evidence, damages, findings: Vec::new(), said: Said::default(), counted: Counted::default(), schema: 0, trusts_sums: false }
    }
}

fn judged(path: &Path, evidence: &Evidence) -> rusqlite::Result<(Judged, i64)> {
    let conn = examine::connect_to_look(path)?;
    let schema = schema::version(&conn)?;
    // Whether the store waits for the disk is not known here, so what is missing is told as such.
    Ok((examine::judge(evidence, &conn, true, true)?, schema))
}

/// Is there this much room beside `path`?
pub(crate) fn has_room(path: &Path, bytes: u64) -> Result<(), UpkeepError> {
    let directory = directory_of(path);
    // Not knowing is no reason to refuse.
    let Ok(answer) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free = answer.f_bavail.saturating_mul(answer.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    Err(UpkeepError::NoRoom { path: path.to_owned(), needed: bytes.div_ceil(1 << 20), free: free >> 20 })
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What was renamed or removed in it is on the disk when this returns.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Looks at everything in a file that was just made.
pub(crate) fn must_be_whole(path: &Path, conn: &Connection) -> Result<Counted, UpkeepError> {
    let counted = examine::everything(conn).map_err(|error| UpkeepError::NotWhole { path: path.to_owned(), what: error.to_string() })?;
    if counted.damages.is_empty() {
        return Ok(counted);
    }
    Err(UpkeepError::NotWhole { path: path.to_owned(), what: damage::sentence(&counted.damages) })
}
