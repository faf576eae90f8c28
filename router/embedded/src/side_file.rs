//! The number of the last accepted event and the place of the last commit in the log, in a file of its own: written after each commit,
//! never synced. It may be behind the store, never ahead of it; if it is ahead, the store has lost what was accepted.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::lock_file::{beside, private_file};

const MAGIC: [u8; 8] = *b"evrtseq2";
/// Magic, store, number, salts, frames, checksum.
const LENGTH: usize = 8 + 8 + 8 + 8 + 4 + 4;
/// As it was before the place in the log stood in it.
const MAGIC_1: [u8; 8] = *b"evrtseq1";
const LENGTH_1: usize = 8 + 8 + 8 + 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct SideFile {
    path: PathBuf,
    file: File,
    store: i64,
    troubled: bool,
}

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// The store that it was written beside.
    pub(crate) store: i64,
    /// The last accepted number.
    pub(crate) last: u64,
    /// Where the log ended after the last commit; no frames if that is not known.
    pub(crate) place: Place,
}

/// A place in SQLite's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Of the log's round.
    pub(crate) salts: [u32; 2],
    /// Up to here.
    pub(crate) frames: u32,
}

/// What was found where the file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// Nothing.
    Absent,
    /// Something that it does not say by itself.
    Unreadable,
    /// This.
    Says(Noted),
}

impl Note {
    /// What it says.
    pub(crate) fn noted(self) -> Option<Noted> {
        match self {
            Self::Says(noted) => Some(noted),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// Reads the file beside the store at `path`, and makes none.
pub(crate) fn read(path: &Path) -> io::Result<Note> {
    let bytes = match std::fs::read(beside(path, "seq")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Note::Absent),
        Err(error) => return Err(error),
    };
    Ok(decode(&bytes).map_or(Note::Unreadable, Note::Says))
}

impl SideFile {
    /// Opens the file beside `path`; `store` tells one store from another.
    pub(crate) fn open(path: &Path, store: i64) -> io::Result<Self> {
        let path = beside(path, "seq");
        let file = private_file(&path)?;
        Ok(Self { path, file, store, troubled: false })
    }

    /// Notes that `last` is accepted. Trouble is logged once: the file is a net below the store, not a part of it.
    pub(crate) fn note(&mut self, last: u64, place: Place) {
        let written = self.file.write_all_at(&encode(Noted { store: self.store, last, place }), 0);
        match written {
            Ok(()) => self.troubled = false,
            Err(error) if !self.troubled => {
                self.troubled = true;
                tracing::warn!(path = %self.path.display(), %error, "the last accepted number cannot be noted");
            }
            Err(_) => {}
        }
    }
}

fn encode(noted: Noted) -> [u8; LENGTH] {
    let mut record = [0; LENGTH];
    record[..8].copy_from_slice(&MAGIC);
    record[8..16].copy_from_slice(&noted.store.to_le_bytes());
    record[16..24].copy_from_slice(&noted.last.to_le_bytes());
    record[24..28].copy_from_slice(&noted.place.salts[0].to_le_bytes());
    record[28..32].copy_from_slice(&noted.place.salts[1].to_le_bytes());
    record[32..36].copy_from_slice(&noted.place.frames.to_le_bytes());
    let crc = crc32fast::hash(&record[..36]);
    record[36..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Noted> {
    let magic = record.get(..8)?;
    let content = if magic == MAGIC {
        LENGTH - 4
    } else if magic == MAGIC_1 {
        LENGTH_1 - 4
    } else {
        return None;
    };
    let (content, rest) = record.split_at_checked(content)?;
    if rest.get(..4)? != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    let word = |at: usize| content.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
    Some(Noted {
        store: i64::from_le_bytes(content.get(8..16)?.try_into().ok()?),
        last: u64::from_le_bytes(content.get(16..24)?.try_into().ok()?),
        place: Place { salts: [word(24), word(28)], frames: word(32) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { salts: [3, 4], frames: 5 };

    #[test]
    fn what_was_noted_is_read_again_and_a_flipped_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("a.db");
        assert_eq!(read(&store).unwrap(), Note::Absent);
        let mut side = SideFile::open(&store, 7).unwrap();
        assert_eq!(read(&store).unwrap(), Note::Unreadable, "it is empty until the first commit");
        side.note(41, Place::default());
        side.note(42, PLACE);
        let noted = Noted { store: 7, last: 42, place: PLACE };
        assert_eq!(read(&store).unwrap(), Note::Says(noted));

        for at in 0..LENGTH {
            let mut bytes = encode(noted);
            bytes[at] ^= 1;
            std::fs::write(beside(&store, "seq"), bytes).unwrap();
            assert_eq!(read(&store).unwrap(), Note::Unreadable, "byte {at}");
            std::fs::write(beside(&store, "seq"), &encode(noted)[..at]).unwrap();
            assert_ne!(read(&store).unwrap().noted(), Some(noted), "cut at {at}");
        }
    }

    #[test]
    fn a_note_of_the_version_before_is_understood() {
        let mut record = b"evrtseq1".to_vec();
        record.extend(7i64.to_le_bytes());
        record.extend(42u64.to_le_bytes());
        record.extend(crc32fast::hash(&record).to_le_bytes());
        assert_eq!(decode(&record), Some(Noted { store: 7, last: 42, place: Place::default() }));
    }
}
