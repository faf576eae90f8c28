//! The standard input, read without waiting for ever: whoever called may have forgotten to close it.
//!
//! What came until then counts as all of it. Reading is done by a thread of its own, which ends with the process.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use crate::system::Started;

/// So long is waited for what does not come, all in all; what is done with it meanwhile does not count. Claude Code waits for five seconds,
/// by the settings as they are installed.
const PATIENCE: Duration = Duration::from_millis(4_000);

const PART_BYTES: usize = 64 * 1024;

/// Parts that are read ahead.
const PARTS: usize = 4;

/// Reads until the end, or until nobody waits any more.
pub(crate) struct Patient {
    parts: Receiver<Vec<u8>>,
    part: Vec<u8>,
    given: usize,
    waited: Duration,
}

impl Patient {
    /// Reads `inner`; hands it back when no thread can be started.
    pub(crate) fn of(mut inner: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, parts) = sync_channel(PARTS);
        let reading = move || {
            let mut part = vec![0; PART_BYTES];
            loop {
                match inner.read(&mut part) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // What cannot be read ends there.
                    Ok(0) | Err(_) => return,
                    Ok(count) if sender.send(part[..count].to_vec()).is_err() => return,
                    Ok(_) => {}
                }
            }
        };
        std::thread::Builder::new().stack_size(64 * 1024).spawn(reading)?;
        Ok(Self { parts, part: Vec::new(), given: 0, waited: Duration::ZERO })
    }
}

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.part.len() {
            let begun = Started::now();
            let part = self.parts.recv_timeout(PATIENCE.saturating_sub(self.waited));
            self.waited += begun.elapsed();
            match part {
                Ok(part) => (self.part, self.given) = (part, 0),
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return Ok(0),
            }
        }
        let count = into.len().min(self.part.len() - self.given);
        into[..count].copy_from_slice(&self.part[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
