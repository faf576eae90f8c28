//! The end of a stream: reads all of it, keeps the last part, counts what it dropped.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The last bytes of a stream. Takes at most twice its limit of memory.
#[derive(Debug)]
pub(crate) struct Tail {
    kept: Vec<u8>,
    bytes_max: usize,
    bytes_seen: u64,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { kept: Vec::new(), bytes_max, bytes_seen: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes_seen += bytes.len() as u64;
        self.kept.extend_from_slice(&bytes[bytes.len().saturating_sub(self.bytes_max)..]);
        // Dropped in large steps, so that each byte is moved about once.
        if self.kept.len() > self.bytes_max * 2 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.kept.drain(..self.kept.len().saturating_sub(self.bytes_max));
    }

    /// A copy of what is kept.
    pub(crate) fn so_far(&self) -> Bytes {
        Bytes::copy_from_slice(&self.kept[self.kept.len().saturating_sub(self.bytes_max)..])
    }

    /// What is kept, and how many bytes were dropped.
    pub(crate) fn finish(mut self) -> (Bytes, u64) {
        self.cut();
        let dropped = self.bytes_seen - self.kept.len() as u64;
        (Bytes::from(self.kept), dropped)
    }
}

/// Reads until the end. An error ends the stream like its end does: there is nobody to tell.
pub(crate) async fn read_all(mut stream: impl AsyncRead + Unpin, tail: &mut Tail) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        tail.push(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_stay_and_the_others_are_counted() {
        for step in [1, 3, 7, 10, 11, 64, 1_000] {
            let all: Vec<u8> = (0..1_000_u32).map(|n| (n % 251) as u8).collect();
            let mut tail = Tail::new(10);
            for part in all.chunks(step) {
                tail.push(part);
                assert!(tail.kept.len() <= 20);
            }
            assert_eq!(tail.finish(), (Bytes::copy_from_slice(&all[990..]), 990), "in steps of {step}");
        }
    }

    #[test]
    fn a_short_stream_stays_whole() {
        let mut tail = Tail::new(10);
        tail.push(b"abc");
        assert_eq!(tail.finish(), (Bytes::from_static(b"abc"), 0));
        assert_eq!(Tail::new(0).finish(), (Bytes::new(), 0));
    }
}
