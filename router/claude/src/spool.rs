//! Events that wait on disk until a router has them: appended by many processes at once, taken by one at a time, oldest first.
//!
//! Files of a spool, all readable by their user alone:
//!
//! | file | what |
//! | --- | --- |
//! | `events` | a header with a generation, then the records ([`crate::frame`]), in the order in which they came |
//! | `done` | of which generation how many bytes are done with |
//! | `late/` | events of those who were not given the lock in time; they are brought into `events` by whoever takes |
//! | `append.lock`, `drain.lock` | held for moments by whoever appends, and by whoever takes |
//! | `owner.lock` | held by the router that drains this spool, as long as it runs |
//! | `poke` | the socket on which that router is told that there is something new |
//! | `refused/` | events that the router found to be none, for people to look at |
//! | `known/` | the projects whose sessions wait here: their abandoned ones are ended by the owner ([`crate::reaper`]) |
//! | `lost` | how many events were not taken since the spool was full, or were damaged |
//!
//! Nothing is synced: what is written survives the death of every process, and not that of the machine. A spool that is full takes
//! nothing more, so that what it has stays in order without gaps but for the end; how many came too late is counted in `lost`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::frame::{RECORD_BYTES_MAX, Record};
use crate::{
    frame::{self, Found},
    lock::Lock,
    whole_file,
};

const HEADER: &[u8; 8] = b"erspool1";
const HEADER_BYTES: u64 = 16;

/// Bytes that are read at once while taking.
const CHUNK_BYTES: usize = 256 * 1024;

/// What is done with is cut off when there is so much of it.
const COMPACT_BYTES: u64 = 1024 * 1024;

/// Files of events that came late.
const LATE_MAX: usize = 1_000;

/// Bytes that a look reads.
const LOOK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Refused events that are kept.
const REFUSED_MAX: usize = 200;

/// Events that wait on disk.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
    bytes_max: u64,
    /// What this process is done with, should it be impossible to note that: a disk that is full must not make it take the same again and
    /// again.
    done_here: Arc<Mutex<Option<Place>>>,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The events wait, up to this place.
    Waiting(Place),
    /// There was no room; it is counted.
    Full,
}

/// A place in the file of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    generation: u64,
    offset: u64,
}

/// What is known of a spool without taking anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes that wait.
    pub bytes: u64,
    /// Bytes that it takes.
    pub bytes_max: u64,
    /// Events that were lost.
    pub lost: Lost,
}

/// What is known of a spool by reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Events that wait.
    pub events: u64,
    /// When the oldest of them was told.
    pub oldest: Option<Timestamp>,
    /// What is known without reading.
    pub waiting: Waiting,
}

/// Events that never reach a router, since the spool was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// They came when the spool was full, or were longer than a record may be.
    pub full: u64,
    /// Stretches of the file that were no records any more.
    pub damaged: u64,
    /// They were no events for the router; the last ones are in `refused/`.
    pub refused: u64,
}

impl Spool {
    /// The spool of a directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn open(directory: &Path, bytes_max: u64) -> io::Result<Self> {
        if !directory.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(Self::at(directory, bytes_max))
    }

    /// The spool of a directory that may not be there yet.
    #[must_use]
    pub fn at(directory: &Path, bytes_max: u64) -> Self {
        Self { directory: directory.to_owned(), bytes_max, done_here: Arc::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Adds events, all or none, in their order and with nothing between them.
    ///
    /// Where the lock is not given within `patience` (its holder was stopped), the events wait in a file of their own, and come in when
    /// the lock is free again, behind what others added meanwhile.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn append(&self, records: &[Record], patience: Duration) -> io::Result<Appended> {
        let mut bytes = Vec::new();
        let too_long = records.iter().filter(|record| !record.frame(&mut bytes)).count() as u64;
        if too_long > 0 {
            self.count(|lost| lost.full += too_long);
        }
        let Some(_lock) = Lock::within(&self.path("append.lock"), patience)? else { return self.append_late(&bytes) };
        let (file, generation) = self.file_to_append()?;
        let length = file.metadata()?.len();
        let done = self.done(generation);
        if length.saturating_sub(done) + bytes.len() as u64 > self.bytes_max {
            self.count(|lost| lost.full += records.len() as u64 - too_long);
            return Ok(Appended::Full);
        }
        let written = (&file).write_all(&bytes);
        if written.is_err() {
            // A part of a record, when the disk is full: nobody else appends while we hold the lock.
            let _ = file.set_len(length);
        }
        written?;
        Ok(Appended::Waiting(Place { generation, offset: length + bytes.len() as u64 }))
    }

    fn late_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.path("late")).into_iter().flatten().flatten().take(LATE_MAX).map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "late"));
        files.sort_unstable();
        files
    }

    fn append_late(&self, bytes: &[u8]) -> io::Result<Appended> {
        let directory = self.path("late");
        if self.late_files().len() >= LATE_MAX {
            self.count(|lost| lost.full += 1);
            return Ok(Appended::Full);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let before = fs::metadata(self.path("events")).map_or(0, |metadata| metadata.len());
        // In the order of the file's growth, as far as that can be told without the lock.
        whole_file::replace(&directory.join(format!("{before:020}-{}.late", std::process::id())), bytes)?;
        Ok(Appended::Waiting(Place { generation: u64::MAX, offset: 0 }))
    }

    /// Brings in what came late.
    fn bring_in(&self) -> io::Result<()> {
        let files = self.late_files();
        if files.is_empty() {
            return Ok(());
        }
        let Some(_lock) = Lock::within(&self.path("append.lock"), Duration::from_secs(1))? else { return Ok(()) };
        let (events, _) = self.file_to_append()?;
        for path in files {
            let bytes = fs::read(&path)?;
            (&events).write_all(&bytes)?;
            // Killed before this, it comes twice, under the same ids.
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// The file and its generation, made with its header if need be. With the lock of appending.
    fn file_to_append(&self) -> io::Result<(File, u64)> {
        let path = self.path("events");
        if path.is_dir() {
            self.set_aside(&path)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        if file.metadata()?.len() == 0 {
            return self.begun(file);
        }
        match generation_of(&file)? {
            Some(generation) => Ok((file, generation)),
            None => {
                // No spool, or one whose header was cut: it is set aside, and looked at by people.
                self.set_aside(&path)?;
                self.begun(OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?)
            }
        }
    }

    fn set_aside(&self, path: &Path) -> io::Result<()> {
        fs::rename(path, self.path("events.damaged"))?;
        self.count(|lost| lost.damaged += 1);
        Ok(())
    }

    /// A file that has its header. Its generation is none of which something was noted.
    fn begun(&self, file: File) -> io::Result<(File, u64)> {
        let generation = self.noted().map_or(1, |(generation, _)| generation.wrapping_add(1).max(1));
        (&file).write_all(&header(generation))?;
        Ok((file, generation))
    }

    /// How many bytes of a generation are done with, the header included.
    fn done(&self, generation: u64) -> u64 {
        let here = *self.done_here.lock().unwrap_or_else(PoisonError::into_inner);
        let places = [self.noted(), here.map(|place| (place.generation, place.offset))];
        places.into_iter().flatten().filter(|(of, _)| *of == generation).map(|(_, offset)| offset).fold(HEADER_BYTES, u64::max)
    }

    /// What `done` says: a generation, and bytes of it.
    fn noted(&self) -> Option<(u64, u64)> {
        let bytes: [u8; 20] = whole_file::read(&self.path("done"), 64).ok()??.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let checksum = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        (checksum == crc32fast::hash(&bytes[..16])).then_some((number(0)?, number(8)?))
    }

    fn set_done(&self, place: Place) -> io::Result<()> {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&place.generation.to_le_bytes());
        bytes[8..16].copy_from_slice(&place.offset.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&checksum.to_le_bytes());
        whole_file::replace(&self.path("done"), &bytes)
    }

    /// Whether everything up to a place is done with.
    #[must_use]
    pub fn is_done(&self, place: Place) -> bool {
        let generation = File::open(self.path("events")).ok().and_then(|file| generation_of(&file).ok().flatten());
        match generation {
            Some(now) if now == place.generation => self.done(now) >= place.offset,
            // A later generation has in it what was not done with; it is small when it begins.
            Some(now) => (now > place.generation || place.generation == u64::MAX) && self.waiting().bytes == 0,
            None => self.waiting().bytes == 0,
        }
    }

    /// What waits. Takes no lock: the answer may be that of a moment ago.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        let bytes = File::open(self.path("events")).ok().and_then(|file| {
            let generation = generation_of(&file).ok().flatten()?;
            Some(file.metadata().ok()?.len().saturating_sub(self.done(generation)))
        });
        let late: u64 = self.late_files().iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum();
        Waiting { bytes: bytes.unwrap_or(0) + late, bytes_max: self.bytes_max, lost: self.lost() }
    }

    /// What waits, event by event. Takes no lock and changes nothing: the answer may be that of a moment ago.
    ///
    /// # Errors
    ///
    /// When the spool is there and cannot be read.
    pub fn look(&self) -> io::Result<Look> {
        let mut look = Look { waiting: self.waiting(), ..Look::default() };
        let mut bytes = Vec::new();
        match File::open(self.path("events")) {
            Ok(mut file) => {
                let done = generation_of(&file)?.map_or(0, |generation| self.done(generation));
                file.seek(SeekFrom::Start(done))?;
                file.take(LOOK_BYTES_MAX).read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for path in self.late_files() {
            bytes.extend(whole_file::read(&path, LOOK_BYTES_MAX)?.unwrap_or_default());
        }
        let mut at = 0;
        while at < bytes.len() {
            match frame::next(&bytes[at..], true) {
                Found::Record(record, count) => {
                    at += count;
                    look.events += 1;
                    if look.oldest.is_none() {
                        look.oldest = time_of(&record);
                    }
                }
                Found::Damage(count) => at += count.max(1),
                Found::More => break,
            }
        }
        Ok(look)
    }

    fn lost(&self) -> Lost {
        whole_file::read(&self.path("lost"), 4_096).ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Counts what is lost. A count that cannot be written is not worth another error.
    fn count(&self, change: impl FnOnce(&mut Lost)) {
        let Ok(Some(_lock)) = Lock::within(&self.path("lost.lock"), Duration::from_millis(200)) else { return };
        let mut lost = self.lost();
        change(&mut lost);
        if let Ok(bytes) = serde_json::to_vec(&lost) {
            let _ = whole_file::replace(&self.path("lost"), &bytes);
        }
    }

    /// Begins to take events, unless somebody else does so now.
    ///
    /// # Errors
    ///
    /// When the spool cannot be read.
    pub fn drain(&self) -> io::Result<Option<Drain>> {
        if !self.path("events").exists() && self.late_files().is_empty() {
            return Ok(None);
        }
        let Some(lock) = Lock::at_once(&self.path("drain.lock"))? else { return Ok(None) };
        Ok(Some(Drain { spool: self.clone(), _lock: lock }))
    }

    /// Makes this process the one that drains the spool, until what is returned is dropped; `None` while another one does.
    ///
    /// # Errors
    ///
    /// When the lock cannot be made.
    pub fn own(&self) -> io::Result<Option<Lock>> {
        Lock::at_once(&self.path("owner.lock"))
    }

    /// Where the router that owns the spool listens for pokes.
    #[must_use]
    pub fn poke_path(&self) -> PathBuf {
        self.path("poke")
    }
}

/// When an event was told.
fn time_of(record: &Record) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Timed {
        timestamp: Timestamp,
    }
    serde_json::from_slice::<Timed>(&record.body).ok().map(|timed| timed.timestamp)
}

fn header(generation: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(HEADER);
    bytes[8..].copy_from_slice(&generation.to_le_bytes());
    bytes
}

fn generation_of(file: &File) -> io::Result<Option<u64>> {
    let mut bytes = [0; 16];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {
            let (name, number) = bytes.split_at(8);
            let number = number.try_into().map(u64::from_le_bytes).unwrap_or(0);
            Ok((name == HEADER && number > 0).then_some(number))
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The right to take events: one process at a time has it.
#[derive(Debug)]
pub struct Drain {
    spool: Spool,
    _lock: Lock,
}

/// Events that were taken, and where each ends.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they came.
    pub records: Vec<Record>,
    ends: Vec<Place>,
    /// Behind all of them, damage included.
    end: Option<Place>,
}

impl Batch {
    /// Neither events nor damage.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.is_none()
    }
}

impl Drain {
    /// The oldest events that wait, at most `records_max`, and about `bytes_max` bytes of them. Damage is stepped over and counted.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn batch(&self, records_max: usize, bytes_max: usize) -> io::Result<Batch> {
        let spool = &self.spool;
        spool.bring_in()?;
        let mut file = match File::open(spool.path("events")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Batch::default()),
            Err(error) => return Err(error),
        };
        // Nobody is in the middle of an append while we hold its lock: what is incomplete then stays so.
        let (length, is_quiet) = match Lock::within(&spool.path("append.lock"), Duration::from_secs(1))? {
            Some(_lock) => (file.metadata()?.len(), true),
            None => (file.metadata()?.len(), false),
        };
        let Some(generation) = generation_of(&file)? else { return Ok(Batch::default()) };
        let mut offset = spool.done(generation).min(length);
        file.seek(SeekFrom::Start(offset))?;
        let mut batch = Batch::default();
        let (mut bytes, mut at, mut taken, mut damage) = (Vec::new(), 0, 0, 0_u64);
        let mut unread = length - offset;
        'taking: while batch.records.len() < records_max && taken < bytes_max {
            if at < bytes.len() {
                match frame::next(&bytes[at..], unread == 0) {
                    Found::Record(record, count) => {
                        at += count;
                        taken += count;
                        offset += count as u64;
                        batch.records.push(record);
                        batch.ends.push(Place { generation, offset });
                        batch.end = batch.ends.last().copied();
                        continue;
                    }
                    // What is incomplete at the end may be an append that goes on.
                    Found::Damage(_) if !is_quiet && unread == 0 => break 'taking,
                    Found::Damage(count) => {
                        at += count;
                        offset += count as u64;
                        damage += 1;
                        batch.end = Some(Place { generation, offset });
                        continue;
                    }
                    Found::More => {}
                }
            }
            if unread == 0 {
                break;
            }
            bytes.drain(..at);
            at = 0;
            let want = unread.min(CHUNK_BYTES as u64);
            let before = bytes.len();
            (&mut file).take(want).read_to_end(&mut bytes)?;
            let got = (bytes.len() - before) as u64;
            unread = if got == 0 { 0 } else { unread - got };
        }
        if damage > 0 {
            spool.count(|lost| lost.damaged += damage);
        }
        Ok(batch)
    }

    /// The first `count` events of a batch are safe elsewhere; with all of them, also what was damaged behind them is done with.
    ///
    /// # Errors
    ///
    /// When that cannot be noted: the events come again.
    pub fn acknowledge(&self, batch: &Batch, count: usize) -> io::Result<()> {
        let place = if count >= batch.records.len() { batch.end } else { count.checked_sub(1).map(|last| batch.ends[last]) };
        let Some(place) = place else { return Ok(()) };
        let noted = self.spool.set_done(place);
        *self.spool.done_here.lock().unwrap_or_else(PoisonError::into_inner) = noted.is_err().then_some(place);
        noted?;
        self.compact(place)
    }

    /// Keeps a copy of an event that the router found to be none.
    pub fn refuse(&self, record: &Record, why: &str) {
        self.spool.count(|lost| lost.refused += 1);
        let directory = self.spool.path("refused");
        let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        let number = self.spool.lost().refused;
        let path = directory.join(format!("{:03}.txt", number % REFUSED_MAX as u64));
        let mut text = format!("{why}\n{}\n", record.key).into_bytes();
        text.extend_from_slice(&record.body);
        let _ = whole_file::replace(&path, &text);
    }

    /// Cuts off what is done with, when nothing waits or there is much of it.
    fn compact(&self, done: Place) -> io::Result<()> {
        let spool = &self.spool;
        let path = spool.path("events");
        if done.offset < COMPACT_BYTES && fs::metadata(&path)?.size() > done.offset {
            return Ok(());
        }
        let Some(_lock) = Lock::within(&spool.path("append.lock"), Duration::from_millis(500))? else { return Ok(()) };
        let mut file = File::open(&path)?;
        if generation_of(&file)? != Some(done.generation) {
            return Ok(());
        }
        let rest = file.metadata()?.len().saturating_sub(done.offset);
        if rest > done.offset || done.offset == HEADER_BYTES {
            return Ok(());
        }
        file.seek(SeekFrom::Start(done.offset))?;
        let unfinished = spool.path("events.new");
        let mut next = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        next.write_all(&header(done.generation + 1))?;
        // The old `done` says nothing of this generation, so that it begins at its beginning, whenever we are killed.
        io::copy(&mut file, &mut next)?;
        fs::rename(&unfinished, &path)
    }
}

#[cfg(test)]
mod tests;
