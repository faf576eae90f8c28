//! Watches the heads of requests as they come in, before the parser sees them: a request that states its length twice, by
//! `Content-Length` and by `Transfer-Encoding`, is how a second request is smuggled past a proxy, and the parser drops one of the two
//! without a word.
//!
//! The watcher changes no byte. It follows the requests of one connection by their `Content-Length`; a body of unknown length ends
//! the watch, because [`crate::connections`] closes the connection after it. Whatever it cannot follow it reports, and the connection
//! is refused as a whole, so a disagreement with the parser costs the sender an answer and never lets anything in.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a header line that are looked at; the names and numbers in question are shorter.
const LINE_BYTES: usize = 128;

/// True once a head of the connection stated its length in two ways, or in a way that cannot be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ambiguous(Arc<AtomicBool>);

impl Ambiguous {
    /// Was such a head seen?
    pub(crate) fn seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream whose incoming heads are watched.
pub(crate) struct WatchedHeads<S> {
    stream: S,
    watch: Watch,
    ambiguous: Ambiguous,
}

impl<S> WatchedHeads<S> {
    pub(crate) fn new(stream: S) -> (Self, Ambiguous) {
        let ambiguous = Ambiguous::default();
        (Self { stream, watch: Watch::default(), ambiguous: ambiguous.clone() }, ambiguous)
    }
}

#[derive(Debug, Default)]
struct Watch {
    /// The line that is coming in, its first bytes.
    line: Vec<u8>,
    /// A line that is longer than what is kept.
    cut: bool,
    /// The request line, or any line after it, was there.
    begun: bool,
    length: Option<u64>,
    encoded: bool,
    /// Bytes of a body that are still to come.
    skip: u64,
    /// Nothing more is looked at.
    ended: bool,
}

impl Watch {
    /// True when a head is ambiguous.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut ambiguous = false;
        while !bytes.is_empty() && !self.ended {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = LINE_BYTES - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.cut |= part.len() > room;
            bytes = &bytes[part.len()..];
            if end.is_some() {
                bytes = &bytes[1..];
                ambiguous |= self.line_ends();
                self.line.clear();
                self.cut = false;
            }
        }
        ambiguous
    }

    fn line_ends(&mut self) -> bool {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.is_empty() && !self.cut {
            if self.begun {
                // The head is complete.
                self.skip = self.length.take().unwrap_or(0);
                self.ended = self.encoded;
                self.begun = false;
            }
            return false;
        }
        if !self.begun {
            self.begun = true;
            return false;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().filter(|text| !self.cut && text.bytes().all(|byte| byte.is_ascii_digit()));
            match length.and_then(|text| text.parse::<u64>().ok()) {
                Some(length) if self.length.is_none_or(|before| before == length) => self.length = Some(length),
                _ => {
                    self.ended = true;
                    return true;
                }
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encoded = true;
        }
        self.encoded && self.length.is_some()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedHeads<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) && self.watch.follow(&buffer.filled()[before..]) {
            self.ambiguous.0.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedHeads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, and byte by byte: where the reads are cut makes no difference.
    fn ambiguous(text: &str) -> bool {
        let whole = Watch::default().follow(text.as_bytes());
        let mut watch = Watch::default();
        let verdicts: Vec<bool> = text.bytes().map(|byte| watch.follow(&[byte])).collect();
        let split = verdicts.contains(&true);
        assert_eq!(whole, split, "{text:?}");
        whole
    }

    #[test]
    fn two_lengths_are_seen_in_either_order_and_spelling() {
        for lengths in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "transfer-encoding: chunked\r\nCONTENT-LENGTH: 5",
            "Transfer-Encoding: identity\nContent-Length:5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: five",
            "Content-Length: +5",
            "Content-Length: 5, 5",
        ] {
            assert!(ambiguous(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n")), "{lengths}");
        }
    }

    #[test]
    fn honest_requests_and_what_stands_in_their_bodies_are_no_matter() {
        let body = "x\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let one = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert!(!ambiguous(&one.repeat(3)));
        assert!(!ambiguous("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 1\r\n"));
        assert!(ambiguous(&format!("{one}POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")), "the second one is watched too");
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(10_000));
        assert!(!ambiguous(&long));
    }
}
