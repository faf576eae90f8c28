//! Checksums of the pages of the store's file, in a file of their own beside it.
//!
//! SQLite keeps a checksum for each page in its log and none in the file, so a flipped bit in a table's page is read as what it says:
//! another fate, another route, a row less. The file changes in one situation only, when the log's pages are copied into it
//! (`checkpoint.rs`), and that is where the sums of those pages are written: after the copy is on the disk, and before the log is written
//! anew. Whoever dies in between leaves pages whose sums are old, and they are still in the log, so nobody reads them from the file.
//!
//! The header says which opening of the store the sums belong to, and up to which frame of which log the file is complete. A store that
//! was replaced by another, or by an older copy, has another opening: its pages are then looked at by other means.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    lock_file::{beside, private_file},
    side_file::Place,
};

const MAGIC: [u8; 8] = *b"evrtsum1";
const HEADER: usize = 64;
/// The sum, and a checksum over page number and sum. All zero where the sum is not known.
const ENTRY: usize = 8;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The store that it was written beside.
    pub(crate) store: i64,
    /// Its opening, as the store counts them …
    pub(crate) opening: i64,
    /// … or this one, when a process died while it opened.
    pub(crate) before: i64,
    /// The file holds everything up to here.
    pub(crate) complete: Place,
    pub(crate) page_bytes: u32,
    /// Pages of the file.
    pub(crate) pages: u32,
}

/// What was found where the file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sums {
    /// Nothing.
    Absent,
    /// Something that it does not say by itself.
    Unreadable,
    /// Sums, as the header says.
    Of(Head),
}

/// What a comparison of the file with its sums came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Pages that are what was written.
    pub(crate) good: u64,
    /// Pages that are not, or are not there.
    pub(crate) bad: Vec<u32>,
    /// Pages that are in no log and have no sum.
    pub(crate) unknown: u64,
    /// Sums that are damaged themselves.
    pub(crate) spoilt: u64,
}

/// Reads the header beside the store at `path`, and makes no file.
pub(crate) fn read(path: &Path) -> io::Result<Sums> {
    let file = match File::open(beside(path, "sums")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sums::Absent),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() == 0 {
        return Ok(Sums::Absent);
    }
    let mut header = [0; HEADER];
    match file.read_exact_at(&mut header, 0) {
        // Whoever made them died before they were all there.
        Ok(()) if header == [0; HEADER] => Ok(Sums::Absent),
        Ok(()) => Ok(decode(&header).map_or(Sums::Unreadable, Sums::Of)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Sums::Unreadable),
        Err(error) => Err(error),
    }
}

/// Compares the file at `path` with its sums, but for the pages that are `in_log`. `pages_after` is the number of pages that the log
/// leaves the file with; 0 if the log says nothing.
pub(crate) fn compare(path: &Path, head: &Head, in_log: &HashMap<u32, u32>, pages_after: u32) -> io::Result<Compared> {
    let mut sums = BufReader::with_capacity(1 << 16, File::open(beside(path, "sums"))?);
    sums.read_exact(&mut [0; HEADER])?;
    let mut store = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut page = vec![0; head.page_bytes as usize];
    let mut compared = Compared::default();
    let last = if pages_after == 0 { head.pages } else { pages_after.min(head.pages) };
    let mut is_there = true;
    for number in 1..=last {
        let mut entry = [0; ENTRY];
        let has_entry = whole(&mut sums, &mut entry)?;
        is_there = is_there && whole(&mut store, &mut page)?;
        if !has_entry && !is_there {
            // Both were cut, or the header is wrong about their length. One page stands for all that would follow, which may be four billion.
            compared.bad.extend((number..=last).find(|number| !in_log.contains_key(number)));
            break;
        }
        if in_log.contains_key(&number) {
            continue;
        }
        match (has_entry, known(number, &entry)) {
            (true, Some(sum)) if is_there && crc32fast::hash(&page) == sum => compared.good += 1,
            (true, Some(_)) => compared.bad.push(number),
            // A file that is cut is cut, whatever its sums are like.
            (_, None) if !is_there => compared.bad.push(number),
            (true, None) if entry == [0; ENTRY] => compared.unknown += 1,
            _ => compared.spoilt += 1,
        }
    }
    Ok(compared)
}

/// The sum that page `number` of the store at `path` should have, if that is known.
pub(crate) fn sum_of(path: &Path, number: u32) -> io::Result<Option<u32>> {
    let mut bytes = [0; ENTRY];
    File::open(beside(path, "sums"))?.read_exact_at(&mut bytes, offset(number))?;
    Ok(known(number, &bytes))
}

/// The sums of an open store.
#[derive(Debug)]
pub(crate) struct PageSums {
    path: PathBuf,
    file: File,
    head: Option<Head>,
}

impl PageSums {
    /// Opens the file beside `store`; `head` is what it was found to say, if that is to be believed.
    pub(crate) fn open(store: &Path, head: Option<Head>) -> io::Result<Self> {
        let path = beside(store, "sums");
        let file = private_file(&path)?;
        Ok(Self { path, file, head })
    }

    /// Makes the sums of the file at `store` as it is, but for the pages that are `in_log`.
    pub(crate) fn make(&mut self, store: &Path, in_log: &HashMap<u32, u32>, mut head: Head) -> io::Result<()> {
        self.void()?;
        let mut from = BufReader::with_capacity(1 << 18, File::open(store)?);
        let mut page = vec![0; head.page_bytes as usize];
        {
            let mut to = BufWriter::with_capacity(1 << 16, OffsetWriter { file: &self.file, at: HEADER as u64 });
            head.pages = 0;
            while whole(&mut from, &mut page)? {
                head.pages = head.pages.saturating_add(1);
                let entry = if in_log.contains_key(&head.pages) { [0; ENTRY] } else { entry(head.pages, crc32fast::hash(&page)) };
                to.write_all(&entry)?;
            }
            to.flush()?;
        }
        // What the header vouches for comes first.
        self.file.sync_data()?;
        self.set_head(head)?;
        self.file.sync_data()
    }

    /// True if they are believed.
    pub(crate) fn head(&self) -> Option<Head> {
        self.head
    }

    /// Another header for the same sums.
    pub(crate) fn set_head(&mut self, head: Head) -> io::Result<()> {
        self.file.write_all_at(&encode(head), 0)?;
        self.head = Some(head);
        Ok(())
    }

    /// The store is about to count another opening; a death in between leaves it with the one before.
    pub(crate) fn begin_opening(&mut self, opening: i64) -> io::Result<()> {
        let Some(head) = self.head else { return Ok(()) };
        self.set_head(Head { before: head.opening, opening, ..head })?;
        self.file.sync_data()
    }

    /// The file has these pages now, up to `complete`. On the disk when this returns.
    pub(crate) fn update(&mut self, pages: &HashMap<u32, u32>, pages_after: u32, complete: Place) -> io::Result<()> {
        let Some(head) = self.head else { return Ok(()) };
        let mut numbers: Vec<u32> = pages.keys().copied().filter(|number| *number <= pages_after).collect();
        numbers.sort_unstable();
        let mut at = 0;
        while at < numbers.len() {
            // Neighbours together: a busy store has long runs.
            let mut run = Vec::new();
            let first = numbers[at];
            while let Some(number) = numbers.get(at).filter(|number| **number - first == u32::try_from(run.len() / ENTRY).unwrap_or(u32::MAX)) {
                run.extend(entry(*number, pages.get(number).copied().unwrap_or_default()));
                at += 1;
            }
            self.file.write_all_at(&run, offset(first))?;
        }
        self.file.set_len(offset(pages_after.saturating_add(1)))?;
        self.set_head(Head { complete, pages: pages_after, ..head })?;
        self.file.sync_data()
    }

    /// They say nothing any more; they are made anew at the next opening, which looks at everything first.
    pub(crate) fn void(&mut self) -> io::Result<()> {
        self.head = None;
        self.file.set_len(0)?;
        self.file.sync_data()
    }

    /// For sentences.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

struct OffsetWriter<'f> {
    file: &'f File,
    at: u64,
}

impl Write for OffsetWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills `buffer`, or says that the file ended before.
fn whole(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn offset(number: u32) -> u64 {
    HEADER as u64 + (u64::from(number) - 1) * ENTRY as u64
}

fn entry(number: u32, sum: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..4].copy_from_slice(&sum.to_le_bytes());
    entry[4..].copy_from_slice(&guard(number, sum).to_le_bytes());
    entry
}

/// Never 0, so that an entry that is known is never all zero.
fn guard(number: u32, sum: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&sum.to_le_bytes());
    hasher.finalize().max(1)
}

fn known(number: u32, entry: &[u8; ENTRY]) -> Option<u32> {
    let [a, b, c, d, e, f, g, h] = *entry;
    let sum = u32::from_le_bytes([a, b, c, d]);
    (u32::from_le_bytes([e, f, g, h]) == guard(number, sum)).then_some(sum)
}

fn encode(head: Head) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&head.store.to_le_bytes());
    bytes[16..24].copy_from_slice(&head.opening.to_le_bytes());
    bytes[24..32].copy_from_slice(&head.before.to_le_bytes());
    for (at, value) in [(32, head.complete.salts[0]), (36, head.complete.salts[1]), (40, head.complete.frames), (44, head.page_bytes), (48, head.pages)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; HEADER]) -> Option<Head> {
    let (content, crc) = bytes.split_at(HEADER - 4);
    if content[..8] != MAGIC || crc != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    let long = |at: usize| content[at..at + 8].try_into().map(i64::from_le_bytes).ok();
    let word = |at: usize| content[at..at + 4].try_into().map(u32::from_le_bytes).ok();
    let page_bytes = word(44).filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes))?;
    Some(Head {
        store: long(8)?,
        opening: long(16)?,
        before: long(24)?,
        complete: Place { salts: [word(32)?, word(36)?], frames: word(40)? },
        page_bytes,
        pages: word(48)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { store: 7, opening: 3, before: 2, complete: Place { salts: [1, 2], frames: 9 }, page_bytes: 512, pages: 0 };

    fn made(pages: usize) -> (tempfile::TempDir, PathBuf, PageSums) {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("a.db");
        let content: Vec<u8> = (0..pages * 512).map(|at| (at / 7 % 251) as u8).collect();
        std::fs::write(&store, content).unwrap();
        let mut sums = PageSums::open(&store, None).unwrap();
        sums.make(&store, &HashMap::from([(2, 0)]), HEAD).unwrap();
        (directory, store, sums)
    }

    fn head(store: &Path) -> Head {
        match read(store).unwrap() {
            Sums::Of(head) => head,
            other => panic!("{other:?}"),
        }
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_flipped_byte_of_a_page_is_noticed_and_one_of_a_sum_is_told_from_it() {
        let (_directory, store, _) = made(4);
        assert_eq!(head(&store), Head { pages: 4, ..HEAD });
        let none = HashMap::new();
        let compared = |log: &HashMap<u32, u32>| compare(&store, &head(&store), log, 0).unwrap();
        assert_eq!(compared(&none), Compared { good: 3, unknown: 1, ..Compared::default() });
        flip(&store, 3 * 512 + 17);
        assert_eq!(compared(&none), Compared { good: 2, unknown: 1, bad: vec![4], ..Compared::default() });
        assert_eq!(compared(&HashMap::from([(4, 0)])).bad, [0; 0], "it is in the log, and nobody reads it here");
        flip(&beside(&store, "sums"), HEADER + 2 * ENTRY + 1);
        assert_eq!(compared(&none), Compared { good: 1, unknown: 1, bad: vec![4], spoilt: 1 });
        assert_eq!(compare(&store, &head(&store), &none, 2).unwrap().bad, [0; 0], "the log has cut it");
    }

    #[test]
    fn pages_that_are_not_there_are_bad_and_a_header_that_was_changed_says_nothing() {
        let (_directory, store, _) = made(4);
        let head = head(&store);
        std::fs::File::options().write(true).open(&store).unwrap().set_len(3 * 512 - 1).unwrap();
        assert_eq!(compare(&store, &head, &HashMap::new(), 0).unwrap().bad, [3, 4]);
        let sums = beside(&store, "sums");
        let intact = std::fs::read(&sums).unwrap();
        for at in 0..HEADER {
            flip(&sums, at);
            assert_eq!(read(&store).unwrap(), Sums::Unreadable, "byte {at}");
            std::fs::write(&sums, &intact[..at]).unwrap();
            assert_ne!(read(&store).unwrap(), Sums::Of(head), "cut at {at}");
            std::fs::write(&sums, &intact).unwrap();
        }
    }

    #[test]
    fn a_header_that_says_more_pages_than_there_are_is_not_counted_to_its_end() {
        let (_directory, store, mut sums) = made(4);
        sums.set_head(Head { pages: u32::MAX, ..head(&store) }).unwrap();
        let compared = compare(&store, &head(&store), &HashMap::from([(5, 0)]), 0).unwrap();
        assert_eq!(compared, Compared { good: 3, unknown: 1, bad: vec![6], ..Compared::default() });
    }

    #[test]
    fn what_came_from_the_log_has_its_sums_and_the_file_may_grow_and_shrink() {
        let (_directory, store, mut sums) = made(4);
        let mut content = std::fs::read(&store).unwrap();
        content[512..1024].fill(1);
        content.extend([2; 512]);
        std::fs::write(&store, &content).unwrap();
        let pages = HashMap::from([(2, crc32fast::hash(&[1; 512])), (5, crc32fast::hash(&[2; 512])), (9, 0)]);
        sums.update(&pages, 5, Place { salts: [8, 8], frames: 1 }).unwrap();
        let now = head(&store);
        assert_eq!((now.pages, now.complete.salts), (5, [8, 8]));
        assert_eq!(compare(&store, &now, &HashMap::new(), 0).unwrap(), Compared { good: 5, ..Compared::default() });
        sums.update(&HashMap::new(), 2, Place::default()).unwrap();
        assert_eq!(compare(&store, &head(&store), &HashMap::new(), 0).unwrap().good, 2);
        sums.void().unwrap();
        assert_eq!(read(&store).unwrap(), Sums::Absent);
    }
}
