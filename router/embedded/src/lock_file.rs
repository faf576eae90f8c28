//! The lock by which one process at a time has a store: `flock` on a file of its own.
//!
//! It is not the database file, because closing any other descriptor of that file would drop SQLite's own locks.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::OpenError;

/// Holds the store while it lives.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
}

impl LockFile {
    /// Takes the lock of `store`, or says at once who has it.
    pub(crate) fn take(store: &Path) -> Result<Self, OpenError> {
        make_directory(store)?;
        let path = beside(store, "lock");
        let mut file = private_file(&path).map_err(|error| OpenError::io("open", &path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::HeldByAnother { path: store.to_owned(), pid: read_pid(&mut file) }),
            Err(error) => return Err(OpenError::io("lock", &path, error.into())),
        }
        // The number is for the other side's message only; without room for it the lock is as good.
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "the lock file does not say who holds it");
        }
        Ok(Self { file })
    }
}

/// Closing the descriptor would free the lock only with its last copy, and a process that is just being started has one until its `exec`.
impl Drop for LockFile {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock is freed with its descriptor only");
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn make_directory(store: &Path) -> Result<(), OpenError> {
    match store.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.is_dir() => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| OpenError::io("create the directory", directory, error))
        }
        _ => Ok(()),
    }
}

/// The path of a file that lies beside the store: its name with `.suffix` added.
pub(crate) fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Opens a file to read and write, and makes it for its owner alone if it is missing.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("router.db");
        let lock = LockFile::take(&store).unwrap();
        // As a child process has it between `fork` and `exec`.
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(LockFile::take(&store), Err(OpenError::HeldByAnother { .. })));
        drop(lock);
        LockFile::take(&store).unwrap();
    }
}
