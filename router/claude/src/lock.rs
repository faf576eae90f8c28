//! Locks on files, waited for within limits: whoever holds one may have been stopped, and a hook must not wait for it.
//!
//! `flock` hands a lock on in turn, so that the wait is a blocking call, on a thread of its own that ends with the process if the lock
//! never comes.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::mpsc::sync_channel,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

/// A lock that is held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing alone: a process that another thread starts just now has a copy of the descriptor, and with it the lock, until it
        // is another program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock of the file at `path`, which is made if it is not there. `Ok(None)` when somebody else held it all the while.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or locked.
    pub fn within(path: &Path, limit: Duration) -> io::Result<Option<Self>> {
        if let Some(lock) = Self::at_once(path)? {
            return Ok(Some(lock));
        }
        let file = open(path)?;
        let (sender, receiver) = sync_channel(1);
        let waiting = move || {
            let locked = loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other,
                }
            };
            // Nobody takes it any more: the lock goes with the file.
            let _ = sender.send(locked.map(|()| file));
        };
        std::thread::Builder::new().stack_size(64 * 1024).spawn(waiting)?;
        match receiver.recv_timeout(limit) {
            Ok(Ok(file)) => Ok(Some(Self { file })),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Takes the lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or locked.
    pub fn at_once(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_is_waited_for_and_then_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = Lock::at_once(&path).unwrap().unwrap();
        assert!(Lock::at_once(&path).unwrap().is_none());
        assert!(Lock::within(&path, Duration::from_millis(20)).unwrap().is_none());
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || Lock::within(&path, Duration::from_secs(60)).unwrap().is_some())
        };
        drop(held);
        assert!(waiter.join().unwrap());
    }
}
