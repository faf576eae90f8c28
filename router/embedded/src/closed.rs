//! How a large store lay when it was closed, so that whoever only looks need not read all of it again.
//!
//! An opening examines the whole file: half a second for a gigabyte, which is much for a command that prints ten lines. When the writer has
//! ended well, with everything in the file and every page's sum known, it notes how the files lay. A look that finds them just so
//! takes over what was found then. Nothing is written in such a look: the first write examines the store after all (`opening.rs`).
//!
//! What this sees is every change that went through the file system, since each gives the file another time of change, which no
//! program can set. What it does not see is a disk that returns other bytes than it was given. So a note is believed for a day after the
//! last examination and not beyond a restart of the machine; each event has a checksum of its own, which is looked at whenever it is
//! read; and a router's own opening examines always.

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::Duration,
};

use crate::{
    checkpoint::log_of,
    examine,
    lock_file::{beside, private_file},
    page_sums::{self, Sums},
    side_file,
};

const MAGIC: [u8; 8] = *b"evrtclo1";
/// Device, number, length, change of content and of anything, each with its nanoseconds.
const STATE_BYTES: usize = 7 * 8;
/// Magic, store, opening, time, boot, three files, checksum.
const LENGTH: usize = 8 + 8 + 8 + 8 + 16 + 3 * STATE_BYTES + 4;
/// After this a look examines the store again, in microseconds: a day.
const BELIEVED_FOR: i64 = 24 * 3_600 * 1_000_000;
/// The kernel's times move on every 4 ms or 10 ms: a note has to be later than what it is about, or a change right after it could not be told
/// from it.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

/// What is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed {
    /// When the store was made, which tells it from others.
    pub(crate) store: i64,
    /// The number of the last opening.
    pub(crate) opening: i64,
    /// When all of it was last read and found whole.
    pub(crate) examined_at: i64,
    boot: [u8; 16],
    /// The store, its sums, its side file.
    files: [State; 3],
}

/// What the system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State([i64; 7]);

impl State {
    fn of(path: &Path) -> io::Result<Self> {
        let of = fs::metadata(path)?;
        let word = |value: u64| i64::from_le_bytes(value.to_le_bytes());
        Ok(Self([word(of.dev()), word(of.ino()), word(of.len()), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()]))
    }

    /// When anything of it was changed.
    fn changed_at(self) -> (i64, i64) {
        (self.0[5], self.0[6])
    }
}

fn states(store: &Path) -> io::Result<[State; 3]> {
    Ok([State::of(store)?, State::of(&beside(store, "sums"))?, State::of(&beside(store, "seq"))?])
}

/// Of this run of the machine's kernel.
fn boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    uuid::Uuid::parse_str(text.trim()).ok().map(uuid::Uuid::into_bytes)
}

/// Notes how the store at `path` lies; nothing of it may be written afterwards. Whatever fails leaves no note, and the next look examines.
pub(crate) fn note(path: &Path, store: i64, opening: i64, examined_at: i64) {
    let noted = (|| {
        let (Some(boot), files) = (boot(), states(path)?) else { return Ok(false) };
        let record = encode(&Closed { store, opening, examined_at, boot, files });
        let file = private_file(&beside(path, "closed"))?;
        file.set_len(LENGTH as u64)?;
        for _ in 0..TRIES {
            file.write_all_at(&record, 0)?;
            if is_later(State::of(&beside(path, "closed"))?, &files) {
                return Ok(true);
            }
            std::thread::park_timeout(PAUSE);
        }
        Ok::<_, io::Error>(false)
    })();
    match noted {
        Ok(true) => {}
        Ok(false) => forget(path),
        Err(error) => {
            tracing::debug!(%error, "it is not noted how the store was closed");
            forget(path);
        }
    }
}

/// Takes the note away, before anything is written.
pub(crate) fn forget(path: &Path) {
    if let Err(error) = fs::remove_file(beside(path, "closed"))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "the note of how the store was closed stays; what is written now makes it useless");
    }
}

fn is_later(note: State, files: &[State; 3]) -> bool {
    files.iter().all(|file| file.changed_at() < note.changed_at())
}

/// What is noted, if the store at `path` lies just so at `now`, with nothing beside it that would have to be looked at.
pub(crate) fn unchanged(path: &Path, now: i64) -> Option<Closed> {
    let closed = decode(&fs::read(beside(path, "closed")).ok()?)?;
    let is_empty = |path: &Path| fs::metadata(path).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |of| of.len() == 0);
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    let is_alone = is_empty(&log_of(path)) && is_empty(Path::new(&journal)) && !examine::repaired(path).exists();
    let is_fresh = (0..=BELIEVED_FOR).contains(&now.saturating_sub(closed.examined_at)) && boot() == Some(closed.boot);
    let is_as_noted = states(path).ok()? == closed.files && is_later(State::of(&beside(path, "closed")).ok()?, &closed.files);
    let has_sums = matches!(page_sums::read(path), Ok(Sums::Of(head)) if head.store == closed.store && head.opening == closed.opening);
    let has_side_file = side_file::read(path).ok()?.noted().is_some_and(|noted| noted.store == closed.store);
    (is_alone && is_fresh && is_as_noted && has_sums && has_side_file).then_some(closed)
}

fn encode(closed: &Closed) -> [u8; LENGTH] {
    let mut record = [0; LENGTH];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        record[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC);
    for number in [closed.store, closed.opening, closed.examined_at] {
        put(&number.to_le_bytes());
    }
    put(&closed.boot);
    closed.files.iter().flat_map(|file| file.0).for_each(|number| put(&number.to_le_bytes()));
    let crc = crc32fast::hash(&record[..LENGTH - 4]);
    record[LENGTH - 4..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Closed> {
    let (content, crc) = record.split_at_checked(LENGTH - 4)?;
    if crc != crc32fast::hash(content).to_le_bytes() || !content.starts_with(&MAGIC) {
        return None;
    }
    let word = |at: usize| content.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_le_bytes);
    let mut files = [State([0; 7]); 3];
    for (number, value) in files.iter_mut().flat_map(|file| &mut file.0).enumerate() {
        *value = word(48 + number * 8)?;
    }
    Some(Closed { store: word(8)?, opening: word(16)?, examined_at: word(24)?, boot: content.get(32..48)?.try_into().ok()?, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_one_with_a_flipped_byte_or_cut_is_none() {
        let mut files = [State([0; 7]); 3];
        files.iter_mut().flat_map(|file| &mut file.0).enumerate().for_each(|(at, value)| *value = at as i64 - 3);
        let closed = Closed { store: 1, opening: 2, examined_at: 3, boot: [7; 16], files };
        let record = encode(&closed);
        assert_eq!(decode(&record), Some(closed));
        for at in 0..LENGTH {
            let mut flipped = record;
            flipped[at] ^= 4;
            assert_eq!(decode(&flipped), None, "byte {at}");
            assert_eq!(decode(&record[..at]), None, "cut at {at}");
        }
    }
}
