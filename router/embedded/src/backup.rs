//! A copy of the store as it was at one moment, beside a running router too: SQLite reads a snapshot while others write.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};
use rustix::fs::{CWD, RenameFlags};

use crate::{
    OpenError, UpkeepError, examine,
    lock_file::{LockFile, beside, private_file},
    upkeep::{directory_of, has_room, must_be_there, must_be_whole, sync_directory},
};

/// For a lock that some other program holds for a moment.
const BUSY: Duration = Duration::from_secs(5);

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackedUp {
    /// Its file.
    pub file: PathBuf,
    /// In bytes.
    pub bytes: u64,
    /// Events in it, each held against its checksum.
    pub events: u64,
    /// What became of them, or waits.
    pub deliveries: u64,
    /// The number of the last event.
    pub last_seq: u64,
    /// A router had the store meanwhile.
    pub is_held: bool,
    /// The key of redaction's fingerprints was copied too, to this file.
    pub key: Option<PathBuf>,
}

/// Copies the store at `path` into the new file `to`, reads the copy wholly, and brings it to the disk.
///
/// # Errors
///
/// When `to` is there, there is no room, or the store or its copy is damaged; then no copy is left behind.
pub fn back_up(path: &Path, to: &Path) -> Result<BackedUp, UpkeepError> {
    must_be_there(path)?;
    let key = beside(path, "key");
    let key_copy = beside(to, "key");
    for new in [to, &key_copy] {
        if new.symlink_metadata().is_ok() && (new == to || key.exists()) {
            return Err(UpkeepError::Exists { path: new.to_owned() });
        }
    }
    let is_held = match LockFile::take(path) {
        Ok(lock) => {
            // What nobody has open may be damaged where SQLite does not look.
            let diagnosis = crate::upkeep::Diagnosis::make(path)?;
            if !diagnosis.damages.is_empty() {
                return Err(OpenError::Damaged { path: path.to_owned(), what: crate::damage::sentence(&diagnosis.damages) }.into());
            }
            copy_unfinished(path, to)?;
            drop(lock);
            false
        }
        Err(OpenError::HeldByAnother { .. }) => {
            copy_unfinished(path, to)?;
            true
        }
        Err(error) => return Err(error.into()),
    };
    let unfinished = unfinished(to);
    let finished = finish(&unfinished, to);
    if finished.is_err() {
        // It may be torn, and nobody asked for half a copy.
        let _ = fs::remove_file(&unfinished);
    }
    let (events, deliveries, last_seq) = finished?;
    let io = |doing: &'static str, at: &Path| {
        let at = at.to_owned();
        move |error: io::Error| UpkeepError::from(OpenError::io(doing, &at, error))
    };
    let key = if key.exists() {
        let mut from = fs::File::open(&key).map_err(io("read", &key))?;
        let mut copy = private_file(&key_copy).map_err(io("write", &key_copy))?;
        io::copy(&mut from, &mut copy).and_then(|_| copy.sync_all()).map_err(io("write", &key_copy))?;
        Some(key_copy.clone())
    } else {
        None
    };
    sync_directory(directory_of(to)).map_err(io("sync the directory of", to))?;
    let bytes = fs::metadata(to).map_err(io("look at", to))?.len();
    Ok(BackedUp { file: to.to_owned(), bytes, events, deliveries, last_seq, is_held, key })
}

fn unfinished(to: &Path) -> PathBuf {
    beside(to, "unfinished")
}

fn copy_unfinished(path: &Path, to: &Path) -> Result<(), UpkeepError> {
    let unfinished = unfinished(to);
    let sqlite = |error: rusqlite::Error| UpkeepError::from(OpenError::sqlite(path, &error));
    let from = examine::connect_to_look(path).map_err(sqlite)?;
    from.busy_timeout(BUSY).map_err(sqlite)?;
    let size: u64 = from
        .query_row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", [], |row| row.get::<_, i64>(0))
        .map_err(sqlite)?
        .try_into()
        .unwrap_or(0);
    has_room(to, size)?;
    // Left by a copy that was interrupted; nobody else's file has this name.
    if let Err(error) = fs::remove_file(&unfinished)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(OpenError::io("remove", &unfinished, error).into());
    }
    drop(private_file(&unfinished).map_err(|error| OpenError::io("make", &unfinished, error))?);
    let copied = (|| {
        let mut copy = Connection::open_with_flags(&unfinished, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        copy.execute_batch("PRAGMA synchronous = OFF")?;
        // In one step, so that it is one moment however much is written meanwhile.
        let backup = Backup::new(&from, &mut copy)?;
        let step = backup.step(-1)?;
        drop(backup);
        if step != StepResult::Done {
            return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None));
        }
        copy.close().map_err(|(_, error)| error)
    })();
    copied.map_err(|error: rusqlite::Error| {
        let _ = fs::remove_file(&unfinished);
        OpenError::sqlite(&unfinished, &error).into()
    })
}

/// Reads the copy, and gives it its name.
fn finish(unfinished: &Path, to: &Path) -> Result<(u64, u64, u64), UpkeepError> {
    let io = |doing: &'static str| move |error: io::Error| UpkeepError::from(OpenError::io(doing, unfinished, error));
    let sqlite = |error: rusqlite::Error| UpkeepError::from(OpenError::sqlite(unfinished, &error));
    fs::File::open(unfinished).and_then(|file| file.sync_all()).map_err(io("sync"))?;
    // Nothing is written beside it.
    let uri = format!("file:{}?immutable=1", escaped(unfinished));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(uri, flags).map_err(sqlite)?;
    let counted = must_be_whole(unfinished, &conn)?;
    let last = crate::schema::last_seq(&conn).map_err(sqlite)?;
    conn.close().map_err(|(_, error)| sqlite(error))?;
    match rustix::fs::renameat_with(CWD, unfinished, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Err(UpkeepError::Exists { path: to.to_owned() }),
        // Not every file system can; that it is not there was looked at before.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => fs::rename(unfinished, to).map_err(io("rename"))?,
        Err(error) => return Err(OpenError::io("rename", unfinished, error.into()).into()),
    }
    Ok((counted.events, counted.deliveries, u64::try_from(last).unwrap_or(0)))
}

/// As SQLite wants a path in a URI.
fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
