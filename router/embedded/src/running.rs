//! The file that names what is being handled, so that the next process knows what may have killed this one.
//!
//! A fixed number of slots, each written in place and never synced: that survives the death of the process (the pages are the
//! kernel's), which is what it is for. Slots carry the number of the opening that wrote them, so those of an earlier one say nothing.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use router_api::{RouteName, RunningSlot};

use crate::{
    lock_file::{beside, private_file},
    queue::locked,
};

/// Handlings that can be marked at a time.
pub(crate) const SLOTS: u32 = 1_024;
/// In bytes; checksum, length of the rest, opening, length of the route, route, identity.
const SLOT_BYTES: usize = 256;
const HEAD: usize = 4 + 2 + 8 + 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct RunningFile {
    path: PathBuf,
    file: File,
    opening: u64,
    free: Mutex<Vec<u32>>,
    /// What the slots of this process say, for those who ask what runs.
    marked: Mutex<HashMap<u32, Marked>>,
    troubled: AtomicBool,
}

/// A handling that runs.
#[derive(Debug, Clone)]
pub(crate) struct Marked {
    pub(crate) route: RouteName,
    /// Of the delivery, or `burst:` and the id of the frozen burst.
    pub(crate) identity: String,
    /// The store's time.
    pub(crate) since: i64,
}

impl RunningFile {
    /// Opens the file beside `store` and reads what ran in `died`, the opening that did not end well. Slots stay as they are until
    /// [`RunningFile::begin_opening`].
    pub(crate) fn open(store: &Path, died: Option<u64>) -> io::Result<(Self, Vec<(RouteName, String)>)> {
        let path = beside(store, "running");
        let file = private_file(&path)?;
        let mut ran = Vec::new();
        if let Some(died) = died {
            let mut slot = [0; SLOT_BYTES];
            for number in 0..SLOTS {
                // A short file ends the list: slots behind its end were never used.
                if file.read_exact_at(&mut slot, offset(number)).is_err() {
                    break;
                }
                ran.extend(decode(&slot).filter(|(opening, ..)| *opening == died).map(|(_, route, identity)| (route, identity)));
            }
        }
        // Popped from the end, so the first slots are used first and the file's hot part is small.
        let free = Mutex::new((0..SLOTS).rev().collect());
        Ok((Self { path, file, opening: 0, free, marked: Mutex::default(), troubled: AtomicBool::new(false) }, ran))
    }

    /// What is marked from now on belongs to `opening`. All slots become empty.
    pub(crate) fn begin_opening(&mut self, opening: u64) -> io::Result<()> {
        self.opening = opening;
        self.clear()
    }

    /// Makes all slots empty, without giving them back.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(offset(SLOTS))
    }

    /// Marks a handling that begins at `now`. `None` when all slots are taken, the identity is too long for one, or the file cannot be written.
    pub(crate) fn begin(&self, route: &RouteName, identity: &str, now: i64) -> Option<RunningSlot> {
        let slot = encode(self.opening, route.as_str(), identity)?;
        let number = locked(&self.free).pop()?;
        if let Err(error) = self.file.write_all_at(&slot, offset(number)) {
            self.complain(&error);
            locked(&self.free).push(number);
            return None;
        }
        locked(&self.marked).insert(number, Marked { route: route.clone(), identity: identity.to_owned(), since: now });
        Some(RunningSlot(number))
    }

    /// What runs now.
    pub(crate) fn marked(&self) -> Vec<Marked> {
        locked(&self.marked).values().cloned().collect()
    }

    /// Takes the mark away. A number that is not marked is ignored.
    pub(crate) fn end(&self, slot: RunningSlot) {
        if slot.0 >= SLOTS {
            return;
        }
        // The checksum of an empty slot is wrong, so it names nothing.
        if let Err(error) = self.file.write_all_at(&[0; HEAD], offset(slot.0)) {
            self.complain(&error);
        }
        locked(&self.marked).remove(&slot.0);
        let mut free = locked(&self.free);
        if !free.contains(&slot.0) {
            free.push(slot.0);
        }
    }

    fn complain(&self, error: &io::Error) {
        if !self.troubled.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %self.path.display(), %error, "running handlings cannot be marked, so a crash will be blamed on none");
        }
    }
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * SLOT_BYTES as u64
}

fn encode(opening: u64, route: &str, identity: &str) -> Option<Vec<u8>> {
    let length = 8 + 1 + route.len() + identity.len();
    if 4 + 2 + length > SLOT_BYTES {
        return None;
    }
    let mut slot = vec![0; 4];
    slot.extend(u16::try_from(length).ok()?.to_le_bytes());
    slot.extend(opening.to_le_bytes());
    slot.push(u8::try_from(route.len()).ok()?);
    slot.extend(route.as_bytes());
    slot.extend(identity.as_bytes());
    let crc = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&crc.to_le_bytes());
    Some(slot)
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, RouteName, String)> {
    let length = usize::from(u16::from_le_bytes(slot[4..6].try_into().ok()?));
    let end = 6 + length;
    if length < 9 || end > SLOT_BYTES || slot[..4] != crc32fast::hash(&slot[4..end]).to_le_bytes() {
        return None;
    }
    let opening = u64::from_le_bytes(slot[6..14].try_into().ok()?);
    let (route, identity) = slot[HEAD..end].split_at_checked(usize::from(slot[14]))?;
    let route = std::str::from_utf8(route).ok()?.parse().ok()?;
    Some((opening, route, std::str::from_utf8(identity).ok()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> RouteName {
        name.parse().unwrap()
    }

    #[test]
    fn only_what_ran_in_the_opening_that_died_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("a.db");
        let (mut running, _) = RunningFile::open(&store, None).unwrap();
        running.begin_opening(3).unwrap();
        let ended = running.begin(&route("a"), "1", 7).unwrap();
        running.begin(&route("b"), "2", 7).unwrap();
        running.end(ended);
        running.begin(&route("c"), "a longer identity than before", 7).unwrap();
        drop(running);

        let (_, ran) = RunningFile::open(&store, Some(3)).unwrap();
        assert_eq!(ran, [(route("c"), "a longer identity than before".to_owned()), (route("b"), "2".to_owned())]);
        assert_eq!(RunningFile::open(&store, Some(4)).unwrap().1, []);
        assert_eq!(RunningFile::open(&store, None).unwrap().1, []);
    }

    #[test]
    fn slots_have_a_limit_and_are_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut running, _) = RunningFile::open(&directory.path().join("a.db"), None).unwrap();
        running.begin_opening(1).unwrap();
        let slots: Vec<_> = (0..SLOTS).map(|n| running.begin(&route("a"), &n.to_string(), 7).unwrap()).collect();
        assert_eq!(running.begin(&route("a"), "one too many", 7), None);
        running.end(slots[7]);
        running.end(slots[7]);
        assert_eq!(running.begin(&route("a"), "again", 7), Some(slots[7]));
        assert_eq!(running.begin(&route("a"), "one too many", 7), None);
    }

    #[test]
    fn an_identity_that_fits_no_slot_runs_unmarked_and_damage_names_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("a.db");
        let (mut running, _) = RunningFile::open(&store, None).unwrap();
        running.begin_opening(1).unwrap();
        assert_eq!(running.begin(&route("a"), &"x".repeat(SLOT_BYTES), 7), None);
        running.begin(&route("a"), &"x".repeat(SLOT_BYTES - HEAD - 1), 7).unwrap();
        let path = beside(&store, "running");
        let intact = std::fs::read(&path).unwrap();
        for at in 0..SLOT_BYTES {
            let mut bytes = intact.clone();
            bytes[at] ^= 0x80;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(RunningFile::open(&store, Some(1)).unwrap().1, [], "byte {at}");
        }
    }
}
