//! Repairing a damaged store: copy everything aside, put single flipped bits right, and else take out what can be read.
//!
//! The store itself is changed in the last step only. Until then all work is done on a copy in a directory of its own; the result is put
//! beside the store under the name `.repaired`, whole and on the disk, and from there it takes the store's place. A repair that dies
//! before that has changed nothing; one that dies after it is ended by the next.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};

use crate::{
    Damage, OpenError, UpkeepError,
    checkpoint::log_of,
    examine, heal,
    lock_file::{LockFile, beside, private_file},
    opening::CREATED,
    page_sums::{self, Sums},
    salvage::{self, Salvaged},
    schema,
    upkeep::{Diagnosis, directory_of, has_room, must_be_there, must_be_whole, sync_directory},
    wal_scan::{self, Log},
};

/// What lies beside the store and is kept with it: names behind the store's.
const FILES: [&str; 7] = ["", "-wal", "-journal", ".seq", ".sums", ".running", ".key"];
/// Of these the work is done.
const WORKED_ON: [&str; 4] = ["", "-wal", ".seq", ".sums"];
/// Ranges of numbers that are told.
const RANGES_TOLD: usize = 100;
/// A log beyond this is not searched for flipped bits: 256 MiB.
const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a repair came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// What was wrong; nothing if the store is well.
    pub damages: Vec<Damage>,
    /// Flipped bits that were put right, in words.
    pub mended: Vec<String>,
    /// What could not be brought back.
    pub lost: Option<Loss>,
    /// The directory with all files as they were.
    pub kept: Option<PathBuf>,
    /// The store can be opened now. False where a loss has to be accepted first; nothing was changed then.
    pub is_done: bool,
    /// Events in it.
    pub events: u64,
}

/// What a repair could not bring back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Loss {
    /// Events, at most: a number that was never given out or has left the archive cannot be told from one that is lost.
    pub events_max: u64,
    /// Their numbers; at most 100 ranges.
    pub numbers: Vec<(u64, u64)>,
    /// When the last event before the first of them was stored.
    pub after: Option<Timestamp>,
    /// When the first event behind the last of them was stored.
    pub before: Option<Timestamp>,
    /// Events that are there, and of which nobody knows what became of them on some route.
    pub fates_unknown: u64,
    /// The numbers of the first and the last of these.
    pub fates: Option<(u64, u64)>,
    /// Events that had been given up on, whose dead letters are lost: they are queued again.
    pub queued_again: u64,
    /// Tables that could not be read wholly.
    pub tables: Vec<String>,
    /// Rows taken over, by table.
    pub rows: BTreeMap<String, u64>,
}

/// Repairs the store at `path`. Where something is lost, it does so only if `accepts_loss`; else it says what would be. `now` names the
/// directory that keeps the files as they were.
///
/// # Errors
///
/// When there is no room for the copies, or the result is not whole; the store is as it was then.
pub fn repair(path: &Path, accepts_loss: bool, now: Timestamp) -> Result<Repaired, UpkeepError> {
    must_be_there(path)?;
    let _lock = LockFile::take(path)?;
    // What a repair has left that died, before its end or right behind it.
    let work = beside(path, "repairing");
    remove_work(&work)?;
    if examine::repaired(path).exists() {
        let damages = vec![Damage::RepairUnfinished];
        take_the_place(path)?;
        let events = events_in(path)?;
        return Ok(Repaired { damages, mended: Vec::new(), lost: None, kept: None, is_done: true, events });
    }
    let found = Diagnosis::make(path)?;
    if found.damages.is_empty() {
        return Ok(Repaired { damages: Vec::new(), mended: Vec::new(), lost: None, kept: None, is_done: true, events: found.counted.events });
    }
    let bytes: u64 = FILES.iter().map(|name| fs::metadata(named(path, name)).map_or(0, |metadata| metadata.len())).sum();
    // Kept, worked on, and made.
    has_room(path, bytes.saturating_mul(3))?;
    make_directory(&work)?;
    let worked = Work { store: path, directory: &work, copy: work.join("router.db"), accepts_loss, now, damages: found.damages };
    let repaired = worked.run();
    remove_work(&work)?;
    repaired
}

/// A repair under way.
struct Work<'w> {
    store: &'w Path,
    directory: &'w Path,
    copy: PathBuf,
    accepts_loss: bool,
    now: Timestamp,
    damages: Vec<Damage>,
}

impl Work<'_> {
    fn run(self) -> Result<Repaired, UpkeepError> {
        for name in WORKED_ON {
            copy_if_there(&named(self.store, name), &named(&self.copy, name))?;
        }
        let mended = mend(&self.copy)?;
        let rest = Diagnosis::make(&self.copy)?;
        let result = self.directory.join("result.db");
        let lost = if rest.damages.is_empty() {
            self.fold(&result)?;
            None
        } else {
            Some(self.salvage(&rest, &result)?)
        };
        let conn = Connection::open_with_flags(&result, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|error| OpenError::sqlite(&result, &error))?;
        let events = must_be_whole(&result, &conn)?.events;
        conn.close().map_err(|(_, error)| OpenError::sqlite(&result, &error))?;
        let Self { store, accepts_loss, now, damages, .. } = self;
        if lost.is_some() && !accepts_loss {
            return Ok(Repaired { damages, mended, lost, kept: None, is_done: false, events });
        }
        let kept = keep_aside(store, now)?;
        let finished = examine::repaired(store);
        File::open(&result).and_then(|file| file.sync_all()).map_err(|error| OpenError::io("sync", &result, error))?;
        fs::rename(&result, &finished).map_err(|error| OpenError::io("rename", &result, error))?;
        sync_directory(directory_of(store)).map_err(|error| OpenError::io("sync the directory of", store, error))?;
        take_the_place(store)?;
        Ok(Repaired { damages, mended, lost, kept: Some(kept), is_done: true, events })
    }

    /// Everything is there: the log goes into the file.
    fn fold(&self, result: &Path) -> Result<(), UpkeepError> {
        let sqlite = |error: rusqlite::Error| OpenError::sqlite(&self.copy, &error);
        let conn = Connection::open_with_flags(&self.copy, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(sqlite)?;
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(sqlite)?;
        conn.close().map_err(|(_, error)| sqlite(error))?;
        fs::rename(&self.copy, result).map_err(|error| OpenError::io("rename", &self.copy, error).into())
    }

    /// Something is not: what can be read goes into a new file.
    fn salvage(&self, rest: &Diagnosis, result: &Path) -> Result<Loss, UpkeepError> {
        let made = |error: rusqlite::Error| UpkeepError::from(OpenError::sqlite(result, &error));
        let io = |error: io::Error| UpkeepError::from(OpenError::io("write", &self.copy, error));
        if let (Sums::Of(head), Log::Frames(log)) = (rest.evidence.sums, &rest.evidence.log)
            && head.complete.salts == log.salts
            && head.complete.frames > log.committed
        {
            // The file is ahead of what can be read of the log: together they would be neither state.
            remove_if_there(&log_of(&self.copy)).map_err(io)?;
        }
        drop(private_file(result).map_err(|error| OpenError::io("make", result, error))?);
        let to = Connection::open_with_flags(result, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(made)?;
        to.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF").map_err(made)?;
        to.pragma_update(None, "application_id", schema::APPLICATION_ID).map_err(made)?;
        schema::migrate(&to).map_err(made)?;
        let tx = to.unchecked_transaction().map_err(made)?;
        let mut salvaged = Salvaged::default();
        if let Ok(from) = examine::connect_to_look(&self.copy) {
            salvage::events(&from, &tx, &mut salvaged).map_err(made)?;
        }
        if rest.trusts_sums
            && let Some(compared) = &rest.evidence.compared
        {
            blot_out(&self.copy, rest.evidence.sums, &compared.bad).map_err(io)?;
        }
        let noted = rest.evidence.note.noted().map_or(0, |noted| noted.last);
        let mut last = noted.max(u64::try_from(rest.said.last_seq).unwrap_or(0));
        if let Ok(from) = examine::connect_to_look(&self.copy) {
            salvage::others(&from, &tx, &mut salvaged).map_err(made)?;
            salvage::keep_numbers(&from, &tx, last).map_err(made)?;
        }
        last = last.max(u64::try_from(schema::last_seq(&tx).map_err(made)?).unwrap_or(0));
        schema::skip_seq(&tx, i64::try_from(last).unwrap_or(i64::MAX - 1)).map_err(made)?;
        if let (None, Some(noted)) = (schema::meta(&tx, CREATED).map_err(made)?, rest.evidence.note.noted()) {
            // It is the same store, whatever became of the row that says so.
            schema::set_meta(&tx, CREATED, noted.store).map_err(made)?;
        }
        let mut loss = losses(&tx, last).map_err(made)?;
        loss.queued_again = salvage::settle_references(&tx).map_err(made)?;
        unknown_fates(&tx, &mut loss).map_err(made)?;
        (loss.tables, loss.rows) = (salvaged.torn, salvaged.rows);
        tx.commit().map_err(made)?;
        to.execute_batch("PRAGMA synchronous = FULL").map_err(made)?;
        to.close().map_err(|(_, error)| made(error))?;
        Ok(loss)
    }
}

/// Which numbers have no event any more.
fn losses(conn: &Connection, last: u64) -> rusqlite::Result<Loss> {
    let mut loss = Loss::default();
    // Retention takes the oldest, so numbers below the first that anything knows of have left in good order.
    let first: Option<i64> =
        conn.query_row("SELECT min(seq) FROM (SELECT min(seq) AS seq FROM events UNION ALL SELECT min(seq) FROM deliveries)", [], |row| row.get(0))?;
    let mut next = first.and_then(|first| u64::try_from(first).ok()).unwrap_or(1);
    let mut at = None;
    let mut lose = |first: u64, last: u64, after: Option<i64>, before: Option<i64>| {
        loss.events_max += last - first + 1;
        if loss.numbers.is_empty() {
            loss.after = after.map(crate::store_time::timestamp);
        }
        loss.before = before.map(crate::store_time::timestamp);
        if loss.numbers.len() < RANGES_TOLD {
            loss.numbers.push((first, last));
        } else if let Some(range) = loss.numbers.last_mut() {
            // The last range then says the rest.
            range.1 = last;
        }
    };
    let mut statement = conn.prepare("SELECT seq, stored_at FROM events ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, stored_at): (i64, i64) = (row.get(0)?, row.get(1)?);
        let seq = u64::try_from(seq).unwrap_or(0);
        if seq > next {
            lose(next, seq - 1, at, Some(stored_at));
        }
        (next, at) = (seq + 1, Some(stored_at));
    }
    if last >= next {
        lose(next, last, at, None);
    }
    Ok(loss)
}

fn unknown_fates(conn: &Connection, loss: &mut Loss) -> rusqlite::Result<()> {
    let sql = "SELECT count(*), min(seq), max(seq) FROM events WHERE wanted > (SELECT count(*) FROM deliveries d WHERE d.seq = events.seq)";
    let (count, first, last): (i64, Option<i64>, Option<i64>) = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    loss.fates_unknown = number(count);
    loss.fates = first.zip(last).map(|(first, last)| (number(first), number(last)));
    Ok(())
}

/// Puts single flipped bits of the log and the file right.
fn mend(copy: &Path) -> Result<Vec<String>, UpkeepError> {
    let io = |error: io::Error| UpkeepError::from(OpenError::io("write", copy, error));
    let mut mended = Vec::new();
    let log = log_of(copy);
    if let Ok(metadata) = fs::metadata(&log)
        && (1..=LOG_BYTES_MAX).contains(&metadata.len())
    {
        let mut bytes = fs::read(&log).map_err(io)?;
        mended = wal_scan::mend(&mut bytes);
        if !mended.is_empty() {
            fs::write(&log, bytes).map_err(io)?;
        }
    }
    let Sums::Of(head) = page_sums::read(copy).map_err(io)? else { return Ok(mended) };
    if !copy.exists() {
        return Ok(mended);
    }
    let (in_log, pages_after) = match wal_scan::scan(&log).map_err(io)? {
        Log::Frames(frames) => (frames.pages, frames.pages_after),
        Log::Nothing | Log::NoHeader { .. } => Default::default(),
    };
    let compared = page_sums::compare(copy, &head, &in_log, pages_after).map_err(io)?;
    let mut file = File::options().read(true).write(true).open(copy).map_err(io)?;
    let mut page = vec![0; head.page_bytes as usize];
    for number in compared.bad {
        let at = u64::from(number - 1) * u64::from(head.page_bytes);
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut page));
        let (Ok(()), Some(wanted)) = (read, page_sums::sum_of(copy, number).map_err(io)?) else { continue };
        if let Some((byte, mask)) = heal::bit_of_crc(page.len(), crc32fast::hash(&page), wanted) {
            page[byte] ^= mask;
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&page)).map_err(io)?;
            mended.push(format!("a bit of page {number} of the file, byte {byte}"));
        }
    }
    file.sync_all().map_err(io)?;
    Ok(mended)
}

/// Nothing is read from these pages. The first holds the list of the tables; without it nothing would be read at all.
fn blot_out(copy: &Path, sums: Sums, pages: &[u32]) -> io::Result<()> {
    let Sums::Of(head) = sums else { return Ok(()) };
    let mut file = File::options().write(true).open(copy)?;
    let length = file.metadata()?.len();
    let nothing = vec![0; head.page_bytes as usize];
    for number in pages.iter().filter(|number| **number > 1) {
        let at = u64::from(number - 1) * u64::from(head.page_bytes);
        if at < length {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&nothing)?;
        }
    }
    Ok(())
}

/// Copies all files of the store into a directory beside it.
fn keep_aside(store: &Path, now: Timestamp) -> Result<PathBuf, UpkeepError> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut kept = beside(store, &format!("damaged-{stamp}"));
    for number in 2..100 {
        if !kept.exists() {
            break;
        }
        kept = beside(store, &format!("damaged-{stamp}-{number}"));
    }
    make_directory(&kept)?;
    let name = store.file_name().map_or_else(|| PathBuf::from("router.db"), PathBuf::from);
    for file in FILES {
        copy_if_there(&named(store, file), &named(&kept.join(&name), file))?;
    }
    sync_directory(&kept).map_err(|error| OpenError::io("sync", &kept, error))?;
    Ok(kept)
}

/// The finished file becomes the store. Each step may be the last before a death: the finished file is there until all is done.
fn take_the_place(store: &Path) -> Result<(), UpkeepError> {
    let io = |error: io::Error| UpkeepError::from(OpenError::io("replace", store, error));
    for file in ["-wal", "-shm", "-journal", ".sums", ".seq"] {
        remove_if_there(&named(store, file)).map_err(io)?;
    }
    sync_directory(directory_of(store)).map_err(io)?;
    fs::rename(examine::repaired(store), store).map_err(io)?;
    sync_directory(directory_of(store)).map_err(io)
}

fn events_in(store: &Path) -> Result<u64, UpkeepError> {
    Ok(Diagnosis::make(store)?.counted.events)
}

fn named(store: &Path, file: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(file);
    name.into()
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), UpkeepError> {
    let mut source = match File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenError::io("read", from, error).into()),
    };
    let copied = private_file(to).and_then(|mut copy| io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all()));
    copied.map_err(|error| OpenError::io("write", to, error).into())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Of a repair of ours; nobody else's directory has this name.
fn remove_work(work: &Path) -> Result<(), UpkeepError> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::io("remove", work, error).into()),
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<(), UpkeepError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| OpenError::io("make the directory", path, error).into())
}
