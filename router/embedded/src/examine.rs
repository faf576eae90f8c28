//! Is a store what its files were left as? Looked at before anything is written to it.
//!
//! First the files are read as they are, without SQLite ([`Evidence`]): the log frame by frame, the file page by page against its sums,
//! what the side files say. Then SQLite reads what the store says of itself, and both are held against each other ([`judge`]). Where there
//! are no sums to be believed, everything is looked at instead: SQLite's structure, the rows of events, what refers to what.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{
    Damage, Finding,
    checkpoint::log_of,
    event_row::{COLUMNS, StoredEvent},
    lock_file::beside,
    opening::{CLEAN, CREATED, OPENINGS},
    page_sums::{self, Compared, Head, Sums},
    schema,
    side_file::{self, Note, Noted, Place},
    store_time::timestamp,
    wal_scan::{self, Frames, Log, Tail},
};

/// Page numbers that are told.
const PAGES_TOLD: usize = 8;
/// Problems of SQLite's that are told.
const PROBLEMS_TOLD: usize = 5;
/// How often SQLite's log may have been begun anew since the side file reached the disk: rounds have salts that count up.
const ROUNDS_MAX: u32 = 1 << 20;

/// What the files say without SQLite.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) log: Log,
    pub(crate) note: Note,
    noted_at: Option<Timestamp>,
    pub(crate) sums: Sums,
    pub(crate) compared: Option<Compared>,
    /// Of the file; 0 if there is none.
    pub(crate) bytes: u64,
    repair_waits: bool,
}

/// Of a repair that was finished but for putting its work in place.
pub(crate) fn repaired(store: &Path) -> PathBuf {
    beside(store, "repaired")
}

impl Evidence {
    /// Reads it. No connection to the store may be open in this process: closing a file drops SQLite's locks on it.
    pub(crate) fn gather(path: &Path) -> io::Result<Self> {
        let log = wal_scan::scan(&log_of(path))?;
        let note = side_file::read(path)?;
        let noted_at = fs::metadata(beside(path, "seq")).and_then(|metadata| metadata.modified()).ok().and_then(|time| Timestamp::try_from(time).ok());
        let sums = page_sums::read(path)?;
        let bytes = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut evidence = Self { log, note, noted_at, sums, compared: None, bytes, repair_waits: repaired(path).exists() };
        if let Sums::Of(head) = sums
            && bytes > 0
        {
            let pages_after = evidence.frames().map_or(0, |frames| frames.pages_after);
            evidence.compared = Some(page_sums::compare(path, &head, evidence.in_log(), pages_after)?);
        }
        Ok(evidence)
    }

    fn frames(&self) -> Option<&Frames> {
        match &self.log {
            Log::Frames(frames) => Some(frames),
            Log::Nothing | Log::NoHeader { .. } => None,
        }
    }

    /// The pages that are read from the log, whatever the file says.
    pub(crate) fn in_log(&self) -> &HashMap<u32, u32> {
        static NONE: std::sync::LazyLock<HashMap<u32, u32>> = std::sync::LazyLock::new(HashMap::new);
        self.frames().map_or(&NONE, |frames| &frames.pages)
    }

    /// Where the log ends.
    pub(crate) fn place(&self) -> Place {
        self.frames().map_or_else(Place::default, |frames| Place { salts: frames.salts, frames: frames.committed })
    }

    /// Of a file that is gone, empty, or nothing that SQLite reads, while what lies beside it knows better.
    pub(crate) fn of_no_store(&self) -> Option<Damage> {
        if self.repair_waits {
            return Some(Damage::RepairUnfinished);
        }
        let last = self.note.noted().map(|noted| noted.last).filter(|last| *last > 0);
        let has_pages = matches!(self.sums, Sums::Of(head) if head.pages > 1);
        let has_log = self.frames().is_some_and(|frames| frames.committed > 0) || matches!(self.log, Log::NoHeader { frames: 1.., .. });
        if self.bytes == 0 {
            return (last.is_some() || has_pages || has_log).then_some(Damage::FileGone { last });
        }
        self.bad_pages()
    }

    /// The file has pages that were never copied into it by a router.
    fn is_longer(&self, head: Head) -> bool {
        self.bytes > u64::from(head.pages) * u64::from(head.page_bytes)
    }

    /// The page with the file's own header, schema number included.
    pub(crate) fn is_header_bad(&self) -> bool {
        self.compared.as_ref().is_some_and(|compared| compared.bad.contains(&1))
    }

    fn bad_pages(&self) -> Option<Damage> {
        let bad = &self.compared.as_ref()?.bad;
        (!bad.is_empty()).then(|| Damage::Pages { count: bad.len() as u64, first: bad.iter().copied().take(PAGES_TOLD).collect() })
    }
}

/// What the store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Said {
    pub(crate) created: Option<i64>,
    pub(crate) openings: i64,
    pub(crate) is_clean: bool,
    pub(crate) last_seq: i64,
    newest: Option<i64>,
}

impl Said {
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        if schema::version(conn)? == 0 {
            return Ok(Self::default());
        }
        Ok(Self {
            created: schema::meta(conn, CREATED)?,
            openings: schema::meta(conn, OPENINGS)?.unwrap_or(0),
            is_clean: schema::meta(conn, CLEAN)?.unwrap_or(1) == 1,
            last_seq: schema::last_seq(conn)?,
            newest: conn.query_row("SELECT max(stored_at) FROM (SELECT stored_at FROM events ORDER BY seq DESC LIMIT 1)", [], |row| row.get(0))?,
        })
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) damages: Vec<Damage>,
    pub(crate) findings: Vec<Finding>,
    /// The sums' header, if the sums are to be believed and kept.
    pub(crate) head: Option<Head>,
    pub(crate) said: Said,
    /// What a look at everything counted.
    pub(crate) counted: Option<Counted>,
}

/// A connection that changes nothing: neither the file nor the log. One thing has to be done before: a file that is just being made has a
/// journal and no log, and what a dead process left in it is taken back by SQLite.
pub(crate) fn connect_to_look(path: &Path) -> rusqlite::Result<Connection> {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    if fs::metadata(&journal).is_ok_and(|metadata| metadata.len() > 0) {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        schema::version(&conn)?;
    }
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON")?;
    Ok(conn)
}

/// Holds what the files say against what the store says. `syncs` tells a store whose last commits are on the disk from one that may lose
/// them with the power; `is_thorough` looks at everything in any case.
pub(crate) fn judge(evidence: &Evidence, conn: &Connection, syncs: bool, is_thorough: bool) -> rusqlite::Result<Judged> {
    let said = Said::read(conn)?;
    let mut judged = Judged { damages: Vec::new(), findings: Vec::new(), head: None, said, counted: None };
    if evidence.repair_waits {
        judged.damages.push(Damage::RepairUnfinished);
        return Ok(judged);
    }
    let head = match evidence.sums {
        Sums::Of(head) => Some(head).filter(|head| said.created == Some(head.store) && [head.opening, head.before].contains(&said.openings)),
        Sums::Absent | Sums::Unreadable => None,
    };
    // A file without tables does not say whose it is: everything may have been in the log.
    let noted = evidence.note.noted().filter(|noted| said.created.is_none_or(|created| created == noted.store));
    let log = of_log(evidence, noted, head, said.is_clean);
    let mut missing = noted.and_then(|noted| missing(evidence, noted, said));
    if !syncs && said.created.is_some() && matches!(log, Some(Damage::LogShort { .. } | Damage::LogGone { .. }) | None) {
        // Told when the store is taken over.
        missing = None;
    }
    let compared = evidence.compared.clone().unwrap_or_default();
    // Numbers of openings stand in the file: when nothing but the page that holds them differs, it is that page.
    let is_single = head.is_none() && compared.bad.len() == 1 && compared.good > 0;
    let needs_all = is_thorough || head.is_none() || compared.unknown > 0 || compared.spoilt > 0 || matches!(log, Some(Damage::LogGone { .. }));
    let mut found = Vec::new();
    if needs_all {
        let counted = everything(conn)?;
        found.clone_from(&counted.damages);
        judged.counted = Some(counted);
    }
    let mut pages = evidence.bad_pages().filter(|_| head.is_some() || is_single);
    let mut keeps_sums = head.is_some() && compared.unknown == 0 && compared.spoilt == 0;
    let log = match log {
        Some(Damage::LogGone { .. }) if found.is_empty() && missing.is_none() && (pages.is_some() || head.is_none_or(|head| evidence.is_longer(head))) => {
            // Somebody copied the log into the file, as SQLite does at the end of every program: nothing of it is missing.
            judged.findings.push(Finding::WrittenByAnother);
            (pages, keeps_sums) = (None, false);
            None
        }
        Some(Damage::LogShort { found: frames, noted }) if !syncs => {
            judged.findings.push(Finding::CommitsMissing { frames: noted.saturating_sub(frames) });
            None
        }
        Some(Damage::LogGone { noted }) if !syncs && pages.is_none() => {
            judged.findings.push(Finding::CommitsMissing { frames: noted });
            None
        }
        other => other,
    };
    let is_silent = matches!(evidence.sums, Sums::Absent) || (head.is_some() && compared.spoilt == 0);
    judged.damages.extend([missing, log, pages].into_iter().flatten());
    judged.damages.extend(found);
    // Made by the first opening, it is empty until there is something to note.
    if evidence.note == Note::Unreadable && said.last_seq > 0 {
        judged.findings.push(Finding::SideFileUnreadable);
    }
    if !is_silent && judged.findings.is_empty() {
        judged.findings.push(Finding::SumsUnreadable);
    }
    judged.head = head.filter(|_| keeps_sums);
    Ok(judged)
}

fn missing(evidence: &Evidence, noted: Noted, said: Said) -> Option<Damage> {
    let stored = u64::try_from(said.last_seq).unwrap_or(0);
    (noted.last > stored).then(|| Damage::EventsMissing { first: stored + 1, last: noted.last, after: said.newest.map(timestamp), until: evidence.noted_at })
}

/// What is wrong with the log.
fn of_log(evidence: &Evidence, noted: Option<Noted>, head: Option<Head>, is_clean: bool) -> Option<Damage> {
    let place = noted.map(|noted| noted.place).filter(|place| place.frames > 0);
    let is_complete = |place: Place| head.is_some_and(|head| head.complete.salts == place.salts && head.complete.frames >= place.frames);
    match &evidence.log {
        // A store that says that it was closed says so in its last commit.
        Log::Nothing => place.filter(|place| !(is_complete(*place) || head.is_none() && is_clean)).map(|place| Damage::LogGone { noted: place.frames }),
        Log::NoHeader { frames, commits, salts } => {
            let is_needed = match place {
                Some(place) => !is_complete(place),
                None => *frames > 0 && !is_complete(Place { salts: *salts, frames: *frames }),
            };
            is_needed.then_some(Damage::LogHeader { frames: *frames, commits: *commits })
        }
        Log::Frames(log) => {
            let of_this_round = place.filter(|place| place.salts == log.salts);
            let is_short = of_this_round.filter(|place| place.frames > log.committed);
            match (log.tail, is_short) {
                (Tail::Cut { frame, frames, commits, is_certain }, _)
                    if is_certain
                        || is_short.is_some()
                        || (of_this_round.is_none() && commits > 0 && !is_complete(Place { salts: log.salts, frames: frame })) =>
                {
                    Some(Damage::LogCut { frame, frames, commits })
                }
                (_, Some(place)) => Some(Damage::LogShort { found: log.committed, noted: place.frames }),
                _ => {
                    // Rounds count up, and each is begun when the one before is in the file.
                    let is_later = |place: Place| (1..=ROUNDS_MAX).contains(&log.salts[0].wrapping_sub(place.salts[0]));
                    let is_other = |place: &Place| place.salts != log.salts && !is_complete(*place);
                    // Of the round that was last copied, too little was; an earlier one was copied wholly before the next was begun.
                    let is_lost = |place: &Place| head.is_some_and(|head| head.complete.salts == place.salts) || !is_later(*place);
                    place.filter(is_other).filter(is_lost).map(|place| Damage::LogGone { noted: place.frames })
                }
            }
        }
    }
}

/// What a look at everything counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    pub(crate) deliveries: u64,
    pub(crate) dead_letters: u64,
    pub(crate) damages: Vec<Damage>,
}

/// Looks at everything that SQLite can read: its structure, the rows of events, what refers to what.
pub(crate) fn everything(conn: &Connection) -> rusqlite::Result<Counted> {
    let mut counted = Counted::default();
    if schema::version(conn)? == 0 {
        return Ok(counted);
    }
    match structure(conn) {
        Ok(problems) if problems.is_empty() => {}
        Ok(problems) => counted.damages.push(Damage::Structure { problems }),
        Err(error) => counted.damages.push(Damage::Structure { problems: vec![error.to_string()] }),
    }
    if let Err(error) = rows(conn, &mut counted)
        && counted.damages.is_empty()
    {
        counted.damages.push(Damage::Structure { problems: vec![error.to_string()] });
    }
    Ok(counted)
}

fn structure(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(&format!("PRAGMA integrity_check({PROBLEMS_TOLD})"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(lines.iter().filter(|line| *line != "ok").map(words).collect())
}

fn rows(conn: &Connection, counted: &mut Counted) -> rusqlite::Result<()> {
    let mut bad: Option<Damage> = None;
    {
        let mut statement = conn.prepare(&format!("SELECT {COLUMNS} FROM events ORDER BY seq"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let event = StoredEvent::read(row)?;
            counted.events += 1;
            if event.is_intact {
                continue;
            }
            let (seq, at) = (u64::try_from(event.seq).unwrap_or(0), Timestamp::from_microsecond(event.stored_at).ok());
            bad = Some(match bad {
                Some(Damage::Events { count, first, from, .. }) => Damage::Events { count: count + 1, first, last: seq, from, until: at },
                _ => Damage::Events { count: 1, first: seq, last: seq, from: at, until: at },
            });
        }
    }
    counted.damages.extend(bad);
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|count| u64::try_from(count).unwrap_or(0));
    counted.deliveries = number("SELECT count(*) FROM deliveries")?;
    counted.dead_letters = number("SELECT count(*) FROM dead_letters")?;
    let orphans = number("SELECT count(*) FROM pragma_foreign_key_check")?;
    if orphans > 0 {
        counted.damages.push(Damage::Orphans { count: orphans });
    }
    Ok(())
}
