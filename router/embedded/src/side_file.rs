//! The number of the last accepted event, in a file of its own: written after each commit, never synced. It may be behind the
//! store, never ahead of it; if it is ahead, the store has lost events that were accepted.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::lock_file::{beside, private_file};

const MAGIC: [u8; 8] = *b"evrtseq1";
/// Magic, store, number, checksum.
const LENGTH: usize = 8 + 8 + 8 + 4;

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
}

impl SideFile {
    /// Opens the file beside `path`; `store` tells one store from another.
    pub(crate) fn open(path: &Path, store: i64) -> io::Result<(Self, Option<Noted>)> {
        let path = beside(path, "seq");
        let file = private_file(&path)?;
        let mut record = [0; LENGTH];
        // A short or torn record says nothing, and a new one is written with the next event.
        let noted = file.read_exact_at(&mut record, 0).ok().and_then(|()| decode(&record));
        Ok((Self { path, file, store, troubled: false }, noted))
    }

    /// Notes that `last` is accepted. Trouble is logged once: the file is a net below the store, not a part of it.
    pub(crate) fn note(&mut self, last: u64) {
        let written = self.file.write_all_at(&encode(Noted { store: self.store, last }), 0);
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
    let crc = crc32fast::hash(&record[..24]);
    record[24..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8; LENGTH]) -> Option<Noted> {
    let (content, crc) = record.split_at(24);
    if content[..8] != MAGIC || crc != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    Some(Noted { store: i64::from_le_bytes(content[8..16].try_into().ok()?), last: u64::from_le_bytes(content[16..24].try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_again_and_a_flipped_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("a.db");
        let (mut side, before) = SideFile::open(&store, 7).unwrap();
        assert_eq!(before, None);
        side.note(41);
        side.note(42);
        assert_eq!(SideFile::open(&store, 9).unwrap().1, Some(Noted { store: 7, last: 42 }));

        for at in 0..LENGTH {
            let mut bytes = encode(Noted { store: 7, last: 42 });
            bytes[at] ^= 1;
            std::fs::write(beside(&store, "seq"), bytes).unwrap();
            assert_eq!(SideFile::open(&store, 7).unwrap().1, None, "byte {at}");
        }
    }
}
