//! How a store comes to be open: the lock, the file, its schema, what the last process left, the threads.
//!
//! It happens on the thread that will be the writer, which also owns the lock until everything has ended.

use std::{
    error::Error as _,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use router_api::{
    Clock, DecodeLimits, RouteName,
    failpoint::{self, Failpoint},
};
use rusqlite::{Connection, OpenFlags, config::DbConfig, params};

use crate::{
    EmbeddedOptions, Finding, OpenError,
    checkpoint::Checkpoints,
    closed, damage,
    disk::{Floor, Reserve},
    examine::{self, Evidence},
    intake::Bindings,
    lock_file::{LockFile, private_file},
    page_sums::{Head, PageSums, Sums},
    readers::{Readers, Seat},
    retention::Retention,
    running::RunningFile,
    schema,
    side_file::{Noted, SideFile},
    store_time::StoreTime,
    writer::{Opening, PROBED, Reopened, Reopening, Writer, WriterDesk, WriterInbox},
};

/// In `meta`: 1 while the store is closed after a clean end.
pub(crate) const CLEAN: &str = "clean";
/// In `meta`: counts the openings.
pub(crate) const OPENINGS: &str = "openings";
/// In `meta`: when the store was made, which tells it from others.
pub(crate) const CREATED: &str = "created_at";

/// SQLite 3.51.3, the first version without the bug that corrupts a log which is read and checkpointed at the same moment.
const LIBRARY_MIN: i32 = 3_051_003;
/// Pages that the writer keeps in memory. A full group of events with its indexes fits, so that no page of it goes into the log twice.
const WRITER_CACHE_KIB: u32 = 4 * 1024;
/// Threads that read for routes.
const NEAR_READERS: usize = 2;
/// Threads that read for people.
const FAR_READERS: usize = 1;

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// All of it is read first.
    Work,
    /// What was read before and is unchanged is not read again until the first write.
    Look,
}

/// An open store in its parts.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) time: Arc<StoreTime>,
    pub(crate) decode: DecodeLimits,
    pub(crate) writer: Writer,
    pub(crate) near: Readers,
    pub(crate) far: Readers,
    pub(crate) running: RunningFile,
    pub(crate) floor: Floor,
    pub(crate) bindings: Bindings,
    pub(crate) handed_before: i64,
    pub(crate) findings: Vec<Finding>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

/// The lock of the store, or at once who has it.
pub(crate) fn take_lock(options: &EmbeddedOptions) -> Result<LockFile, OpenError> {
    if rusqlite::version_number() < LIBRARY_MIN {
        return Err(OpenError::OldLibrary { found: rusqlite::version().to_owned() });
    }
    LockFile::take(&options.path)
}

/// Starts the writer thread, which opens the store and tells `done`.
pub(crate) fn start(
    options: EmbeddedOptions,
    lock: LockFile,
    clock: Arc<dyn Clock>,
    manner: Manner,
    done: impl FnOnce(Result<Opened, OpenError>) + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let path = options.path.clone();
    let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
        let (writer, inbox) = Writer::new();
        let time = Arc::new(StoreTime::new(clock));
        if manner == Manner::Look
            && let Some(looking) = look_only(&options, &time, &writer)
        {
            let seats = looking.seats;
            done(Ok(looking.opened));
            wake(&options, &time, inbox, &seats);
            drop(lock);
            return;
        }
        match open(&options, &time, writer) {
            Ok((opened, desk)) => {
                done(Ok(opened));
                work(&options, inbox, desk);
                drop(lock);
            }
            Err(error) => {
                // Freed first, so that whoever hears of the failure may try again.
                drop(lock);
                done(Err(error));
            }
        }
    });
    thread.map_err(|error| OpenError::io("start the writer of", &path, error))
}

/// The writer's work until its end.
fn work(options: &EmbeddedOptions, inbox: WriterInbox, desk: WriterDesk) {
    let WriterDesk { conn, checkpoints, opening, .. } = inbox.run(desk);
    let is_whole = checkpoints.finish(conn);
    if is_whole && std::fs::metadata(&options.path).is_ok_and(|metadata| metadata.len() >= options.look_bytes_min) {
        closed::note(&options.path, opening.store, opening.number, opening.examined_at);
    }
}

/// A store that was opened to look at it, and where its readers sit.
struct Looking {
    opened: Opened,
    seats: Vec<Seat>,
}

/// The store as it was closed, if nothing has changed since. Whatever speaks against that is left to an opening that reads everything.
fn look_only(options: &EmbeddedOptions, time: &Arc<StoreTime>, writer: &Writer) -> Option<Looking> {
    let path = &options.path;
    let closed = closed::unchanged(path, time.now())?;
    let conn = examine::connect_to_look(path).ok()?;
    let said = examine::Said::read(&conn).ok()?;
    let is_current = schema::version(&conn).ok()? == schema::KNOWN;
    let is_same = said.created == Some(closed.store) && said.openings == closed.opening && said.is_clean;
    let bindings = Bindings::load(&conn).ok()?;
    conn.close().ok()?;
    if !is_current || !is_same {
        return None;
    }
    let (running, _) = RunningFile::open(path, None).ok()?;
    let seats: Vec<Seat> =
        (0..NEAR_READERS + FAR_READERS).map(|_| connect_to_read(options).map(|conn| Arc::new(Mutex::new(Some(conn))))).collect::<Result<_, _>>().ok()?;
    let (near, mut threads) = Readers::start("store-near", path.display().to_string(), seats[..NEAR_READERS].to_vec()).ok()?;
    let (far, far_threads) = Readers::start("store-far", path.display().to_string(), seats[NEAR_READERS..].to_vec()).ok()?;
    threads.extend(far_threads);
    let opened = Opened {
        path: path.clone(),
        time: Arc::clone(time),
        decode: options.decode,
        writer: writer.clone(),
        near,
        far,
        running,
        floor: Floor::new(path, options.reserve_bytes),
        bindings,
        handed_before: 0,
        findings: Vec::new(),
        threads,
    };
    Some(Looking { opened, seats })
}

/// Waits for the first write, and opens the store for it as for any other.
fn wake(options: &EmbeddedOptions, time: &Arc<StoreTime>, mut inbox: WriterInbox, seats: &[Seat]) {
    match inbox.wait() {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return inbox.refuse(&format!("the writer of the store `{}` cannot wait: {error}", options.path.display())),
    }
    let mut sitting: Vec<_> = seats.iter().map(|seat| seat.lock().unwrap_or_else(PoisonError::into_inner)).collect();
    // The files are read without SQLite, and closing them would drop the locks of its connections.
    sitting.iter_mut().for_each(|seat| drop(seat.take()));
    let opened = open_desk(options, time).and_then(|found| {
        for seat in &mut sitting {
            **seat = Some(connect_to_read(options).map_err(|error| OpenError::sqlite(&options.path, &error))?);
        }
        Ok(found)
    });
    if opened.is_err() {
        sitting.iter_mut().for_each(|seat| drop(seat.take()));
    }
    drop(sitting);
    match opened {
        Ok(Found { desk, .. }) => work(options, inbox, *desk),
        Err(error) => {
            let reason = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            inbox.refuse(&format!("{error}{reason}"));
        }
    }
}

/// For the case that the thread ended without a word.
pub(crate) fn starter_failed(path: &Path) -> OpenError {
    OpenError::io("open", path, io::Error::other("the thread that opens the store panicked"))
}

fn open(options: &EmbeddedOptions, time: &Arc<StoreTime>, writer: Writer) -> Result<(Opened, WriterDesk), OpenError> {
    let path = &options.path;
    let Found { desk, running, bindings, handed_before, findings } = open_desk(options, time)?;
    writer.has_taken_over();
    let text = path.display().to_string();
    let readers = |name: &str, count: usize| -> Result<_, OpenError> {
        let seats = (0..count).map(|_| Ok(Arc::new(Mutex::new(Some(connect_to_read(options)?)))));
        let seats = seats.collect::<rusqlite::Result<_>>().map_err(|error| OpenError::sqlite(path, &error))?;
        Readers::start(name, text.clone(), seats).map_err(|error| OpenError::io("start the readers of", path, error))
    };
    let (near, mut threads) = readers("store-near", NEAR_READERS)?;
    let (far, far_threads) = readers("store-far", FAR_READERS)?;
    threads.extend(far_threads);
    let opened = Opened {
        path: path.clone(),
        time: Arc::clone(time),
        decode: options.decode,
        writer,
        near,
        far,
        running,
        floor: Floor::new(path, options.reserve_bytes),
        bindings,
        handed_before,
        findings,
        threads,
    };
    Ok((opened, *desk))
}

/// What the writer works with, and what was found on the way to it.
struct Found {
    desk: Box<WriterDesk>,
    running: RunningFile,
    bindings: Bindings,
    handed_before: i64,
    findings: Vec<Finding>,
}

/// Reads all of the store, and takes it over.
fn open_desk(options: &EmbeddedOptions, time: &Arc<StoreTime>) -> Result<Found, OpenError> {
    let path = &options.path;
    let sqlite = |error: rusqlite::Error| OpenError::sqlite(path, &error);
    let evidence = recognise(path)?;
    if evidence.is_none() {
        let conn = connect(options, true, None)?;
        created_at(&conn, time).map_err(sqlite)?;
        conn.close().map_err(|(_, error)| sqlite(error))?;
    }
    let Looked { noted, findings: looked, sums, place } = look(options, time, evidence)?;
    let examined_at = time.now();
    closed::forget(path);
    let mut checkpoints = Checkpoints::new(path, sums, place);
    let conn = connect(options, false, Some(&checkpoints))?;

    let created = created_at(&conn, time).map_err(sqlite)?;
    let mut side_file = SideFile::open(path, created).map_err(|error| OpenError::io("open the side file of", path, error))?;
    let openings = schema::meta(&conn, OPENINGS).map_err(sqlite)?.unwrap_or(0);
    let is_clean = schema::meta(&conn, CLEAN).map_err(sqlite)?.unwrap_or(1) == 1;
    let died = (!is_clean).then_some(openings).and_then(|opening| u64::try_from(opening).ok());
    let (mut running, ran) = RunningFile::open(path, died).map_err(|error| OpenError::io("open the file of running handlings of", path, error))?;

    checkpoints.begin_opening(openings + 1).map_err(|error| OpenError::io("write the sums of", path, error))?;
    failpoint::pass(Failpoint::TakeOverBefore);
    let mut taken_over = take_over(&conn, time, TakingOver { created, noted, opening: openings + 1, ran: &ran }).map_err(sqlite)?;
    failpoint::pass(Failpoint::TakeOverAfter);
    side_file.note(u64::try_from(taken_over.last_seq).unwrap_or(0), checkpoints.place());
    taken_over.findings.extend(looked);
    // Only now: before the commit above the slots were the only record of what ran.
    running.begin_opening(u64::try_from(openings + 1).unwrap_or(0)).map_err(|error| OpenError::io("write the file of running handlings of", path, error))?;
    failpoint::pass(Failpoint::OpeningAfter);
    for finding in &taken_over.findings {
        tracing::error!(store = %path.display(), "{finding}");
    }
    if !is_clean {
        tracing::info!(store = %path.display(), suspects = ran.len(), "the last process did not close the store; what was in hand is handed out again");
    }

    let bindings = Bindings::load(&conn).map_err(sqlite)?;
    let handed_before: i64 = if is_clean { 0 } else { conn.query_row("SELECT coalesce(max(id), 0) FROM deliveries", [], |row| row.get(0)).map_err(sqlite)? };
    let desk = WriterDesk {
        time: Arc::clone(time),
        reserve: Reserve::new(path, options.reserve_bytes),
        side_file,
        checkpoints,
        retention: Retention::new(options.retention_age, options.retention_bytes_max, options.ledger_bytes_max),
        last_seq: taken_over.last_seq,
        reopening: reopening(options),
        path: path.display().to_string(),
        opening: Opening { store: created, number: openings + 1, examined_at },
        conn,
    };
    Ok(Found { desk: Box::new(desk), running, bindings, handed_before, findings: taken_over.findings })
}

/// How the writer opens the file anew after its disk has failed: as at first, and it must be whole and have what was accepted.
fn reopening(options: &EmbeddedOptions) -> Reopening {
    let options = options.clone();
    Box::new(move |last_seq, now, checkpoints| {
        let conn = connect(&options, false, Some(checkpoints)).map_err(|error| Reopened::NotYet(error.to_string()))?;
        let sqlite = |error: rusqlite::Error| Reopened::NotYet(error.to_string());
        // A commit shows whether the disk takes it again.
        schema::set_meta(&conn, PROBED, now).map_err(sqlite)?;
        let told: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
        if told != "ok" {
            return Err(Reopened::Damaged(told));
        }
        let found = schema::last_seq(&conn).map_err(sqlite)?;
        if found < last_seq {
            return Err(Reopened::Damaged(format!("events {} to {last_seq}, which were accepted, are missing", found + 1)));
        }
        Ok(conn)
    })
}

/// Opens the store for one piece of work, without its threads: nothing of its queues is touched, and whoever died before is still to be
/// taken note of.
pub(crate) fn open_alone(options: &EmbeddedOptions, clock: Arc<dyn Clock>, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), OpenError> {
    let path = &options.path;
    let sqlite = |error: rusqlite::Error| OpenError::sqlite(path, &error);
    let _lock = take_lock(options)?;
    let time = StoreTime::new(clock);
    let Some(evidence) = recognise(path)? else { return Ok(()) };
    let Looked { noted, sums, place, .. } = look(options, &time, Some(evidence))?;
    let mut checkpoints = Checkpoints::new(path, sums, place);
    let conn = connect(options, false, Some(&checkpoints))?;
    let worked = work(&conn).map_err(sqlite);
    if let Some(noted) = noted {
        // The log goes on from here, and ends in the file: what is noted of its end has to follow.
        let mut side_file = SideFile::open(path, noted.store).map_err(|error| OpenError::io("open the side file of", path, error))?;
        side_file.note(noted.last, checkpoints.place());
    }
    checkpoints.finish(conn);
    worked
}

/// What a look at the files came to.
struct Looked {
    noted: Option<Noted>,
    findings: Vec<Finding>,
    sums: PageSums,
    place: crate::side_file::Place,
}

/// Looks at everything that lies there before anything is written to it. What was seen already need not be read again.
fn look(options: &EmbeddedOptions, time: &StoreTime, seen: Option<Evidence>) -> Result<Looked, OpenError> {
    let path = &options.path;
    let sqlite = |error: rusqlite::Error| OpenError::sqlite(path, &error);
    let io = |doing: &'static str| move |error| OpenError::io(doing, path, error);
    let evidence = match seen {
        Some(evidence) => evidence,
        None => Evidence::gather(path).map_err(io("read"))?,
    };
    let conn = examine::connect_to_look(path).map_err(|error| unreadable(path, &evidence, &error))?;
    let damaged = |damages: &[crate::Damage]| OpenError::Damaged { path: path.clone(), what: damage::sentence(damages) };
    let found = schema::version(&conn).map_err(|error| unreadable(path, &evidence, &error))?;
    let owner: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(|error| unreadable(path, &evidence, &error))?;
    if owner != schema::APPLICATION_ID && !evidence.is_header_bad() {
        return Err(OpenError::ForeignFile { path: path.clone(), what: "an SQLite database of another program".to_owned() });
    }
    // A newer program keeps the sums of what it writes.
    if found > schema::KNOWN && !evidence.is_header_bad() {
        return Err(OpenError::NewerSchema { path: path.clone(), found, known: schema::KNOWN });
    }
    let judged = examine::judge(&evidence, &conn, options.sync, false).map_err(|error| unreadable(path, &evidence, &error))?;
    let page_bytes: u32 = conn.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(|error| unreadable(path, &evidence, &error))?;
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(|error| unreadable(path, &evidence, &error))?;
    conn.close().map_err(|(_, error)| sqlite(error))?;
    if !judged.damages.is_empty() {
        return Err(damaged(&judged.damages));
    }
    if mode != "wal" {
        // A file that was repaired or copied: switching its log on writes in it beside the log, which must come before the sums.
        connect(options, false, None)?.close().map_err(|(_, error)| sqlite(error))?;
        return look(options, time, None);
    }
    let mut sums = PageSums::open(path, judged.head).map_err(io("open the sums of"))?;
    if judged.head.is_none() {
        let said = judged.said;
        let complete = match evidence.sums {
            Sums::Of(head) if said.created == Some(head.store) => head.complete,
            _ => crate::side_file::Place::default(),
        };
        let head = Head { store: said.created.unwrap_or_else(|| time.now()), opening: said.openings, before: said.openings, complete, page_bytes, pages: 0 };
        // A full disk must not keep the router from its queues; the next opening looks at everything again.
        if let Err(error) = sums.make(path, evidence.in_log(), head) {
            tracing::warn!(sums = %sums.path().display(), %error, "the sums of the store's pages cannot be made now");
            sums.void().map_err(io("write the sums of"))?;
        }
    }
    Ok(Looked { noted: evidence.note.noted(), findings: judged.findings, sums, place: evidence.place() })
}

/// SQLite cannot read it: if the pages are not what was written, that is why.
fn unreadable(path: &Path, evidence: &Evidence, error: &rusqlite::Error) -> OpenError {
    match (evidence.of_no_store(), OpenError::sqlite(path, error)) {
        (_, held @ OpenError::HeldByAnother { .. }) => held,
        (Some(damage), _) => OpenError::Damaged { path: path.to_owned(), what: format!("{damage} (SQLite: {error})") },
        (None, other) => other,
    }
}

/// What the files say, or nothing for a store that is not there yet or empty; an error for one that is not ours, or that was there.
fn recognise(path: &Path) -> Result<Option<Evidence>, OpenError> {
    if path.is_dir() {
        return Err(OpenError::ForeignFile { path: path.to_owned(), what: "a directory".to_owned() });
    }
    let evidence = Evidence::gather(path).map_err(|error| OpenError::io("read", path, error))?;
    let foreign = |what: &str| match evidence.of_no_store() {
        Some(damage) => OpenError::Damaged { path: path.to_owned(), what: damage.to_string() },
        None => OpenError::ForeignFile { path: path.to_owned(), what: what.to_owned() },
    };
    if evidence.bytes == 0
        && let Some(damage) = evidence.of_no_store()
    {
        return Err(OpenError::Damaged { path: path.to_owned(), what: damage.to_string() });
    }
    // Made here rather than by SQLite, which would let the umask decide who may read it. SQLite gives its own side files the mode
    // of this one.
    let file = private_file(path).map_err(|error| OpenError::io("open", path, error))?;
    let mut head = Vec::new();
    file.take(100).read_to_end(&mut head).map_err(|error| OpenError::io("read", path, error))?;
    if head.is_empty() {
        return Ok(None);
    }
    // What stands in the log counts, and SQLite tells whose it is.
    if evidence.in_log().contains_key(&1) {
        return Ok(Some(evidence));
    }
    if head.len() < 100 || !head.starts_with(b"SQLite format 3\0") {
        return Err(foreign("not an SQLite database"));
    }
    let word = |at: usize| i32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    match word(68) {
        schema::APPLICATION_ID => Ok(Some(evidence)),
        // A process may have died between SQLite's first page and our mark. Such a file has no tables, which is looked at later.
        0 if evidence.compared.as_ref().is_none_or(|compared| compared.bad.is_empty()) => Ok(None),
        _ => Err(foreign("an SQLite database of another program")),
    }
}

/// The connection that writes. Only a file that is just being made has no `checkpoints` yet: they must hear of every commit.
fn connect(options: &EmbeddedOptions, is_new: bool, checkpoints: Option<&Checkpoints>) -> Result<Connection, OpenError> {
    let path = &options.path;
    let sqlite = |error: rusqlite::Error| OpenError::sqlite(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    conn.busy_timeout(options.busy_timeout).map_err(sqlite)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sqlite)?;
    if let Some(checkpoints) = checkpoints {
        checkpoints.attach(&mut conn).map_err(sqlite)?;
    }
    conn.set_prepared_statement_cache_capacity(128);
    if conn.is_readonly(rusqlite::MAIN_DB).map_err(sqlite)? {
        return Err(OpenError::ReadOnly { path: path.clone() });
    }
    let found = schema::version(&conn).map_err(sqlite)?;
    if found > schema::KNOWN {
        return Err(OpenError::NewerSchema { path: path.clone(), found, known: schema::KNOWN });
    }
    if is_new {
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite)?;
        if tables > 0 {
            return Err(OpenError::ForeignFile { path: path.clone(), what: "an SQLite database of another program".to_owned() });
        }
        // Has to come before the file has pages and before the log is switched on, or it stays off without a word.
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(sqlite)?;
        conn.pragma_update(None, "application_id", schema::APPLICATION_ID).map_err(sqlite)?;
    }
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sqlite)?;
    if mode != "wal" {
        let source = io::Error::other(format!("SQLite's journal mode is `{mode}`; the file system may not support shared memory"));
        return Err(OpenError::io("switch on the write-ahead log of", path, source));
    }
    let synchronous = if options.sync { "FULL" } else { "NORMAL" };
    let pragmas = format!("PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0; PRAGMA cache_size = -{WRITER_CACHE_KIB};");
    conn.execute_batch(&pragmas).map_err(sqlite)?;
    schema::migrate(&conn).map_err(sqlite)?;
    Ok(conn)
}

fn connect_to_read(options: &EmbeddedOptions) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&options.path, flags)?;
    conn.busy_timeout(options.busy_timeout)?;
    // The writer copies the log; a reader that is closed last leaves it as it is.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0")?;
    Ok(conn)
}

fn created_at(conn: &Connection, time: &StoreTime) -> rusqlite::Result<i64> {
    if let Some(created) = schema::meta(conn, CREATED)? {
        return Ok(created);
    }
    let now = time.now();
    schema::set_meta(conn, CREATED, now)?;
    Ok(now)
}

struct TakingOver<'a> {
    created: i64,
    noted: Option<Noted>,
    opening: i64,
    ran: &'a [(RouteName, String)],
}

struct TakenOver {
    findings: Vec<Finding>,
    last_seq: i64,
}

/// Takes note of what the last process left, in one commit.
fn take_over(conn: &Connection, time: &StoreTime, what: TakingOver<'_>) -> rusqlite::Result<TakenOver> {
    let tx = conn.unchecked_transaction()?;
    let stored = schema::last_seq(&tx)?;
    let mut findings = Vec::new();
    if let Some(Noted { store, last, .. }) = what.noted
        && last > u64::try_from(stored).unwrap_or(0)
    {
        if store == what.created {
            findings.push(Finding::EventsMissing { first: u64::try_from(stored).unwrap_or(0) + 1, last });
            // Else other events would get the numbers that people have seen.
            schema::skip_seq(&tx, i64::try_from(last).unwrap_or(i64::MAX - 1))?;
        } else {
            findings.push(Finding::SideFileOfAnother { last });
        }
    }
    for (route, identity) in what.ran {
        tx.execute(
            "INSERT INTO suspects (route, identity, crashes) VALUES (?1, ?2, 1) ON CONFLICT (route, identity) DO UPDATE SET crashes = crashes + 1",
            params![route.as_str(), identity],
        )?;
    }
    let healed = schema::heal_due_times(&tx, time.now())?;
    if healed > 0 {
        tracing::warn!(rows = healed, "the clock was set back; what waited for a later time waits its delay from now on");
    }
    schema::set_meta(&tx, OPENINGS, what.opening)?;
    schema::set_meta(&tx, CLEAN, 0)?;
    let last_seq = schema::last_seq(&tx)?;
    tx.commit()?;
    Ok(TakenOver { findings, last_seq })
}
