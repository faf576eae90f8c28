//! What stands between the socket and lapin: the broker's bytes pass through it, and frames that lapin could not read are made
//! legible on the way. What is wrong with them, and why, says [`crate::legible`].
//!
//! ```text
//!   socket (TLS) ──► space ──► filled ──► give ──► lapin
//! ```
//!
//! Bodies pass as they come; a method or a header is held back until it is whole.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::AsyncTcpStream;

use crate::legible::{self, Reading};

/// Read at once, if there is as much.
const READ_BYTES: usize = 64 * 1024;

/// Before a frame's payload: its kind, its channel, its size.
const HEAD_BYTES: usize = 7;

/// After a frame's payload.
const FRAME_END: u8 = 0xce;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// Lapin's runtime, whose streams have a sieve.
pub(crate) type SiftingRuntime = async_rs::Runtime<RuntimeParts<Tokio, SiftingReactor>>;

/// The stream that lapin reads.
pub(crate) type SiftedStream = Sifted<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;

/// The runtime to give to lapin.
pub(crate) fn runtime() -> SiftingRuntime {
    let tokio = Tokio::current();
    async_rs::Runtime::new(RuntimeParts::new(tokio.clone(), SiftingReactor(tokio)))
}

/// Tokio's, with another kind of stream: lapin takes a stream of its runtime's kind only.
#[derive(Debug, Clone)]
pub(crate) struct SiftingReactor(Tokio);

impl Reactor for SiftingReactor {
    type TcpStream = SiftedStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(&self, socket: H) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Sifted::new(AsyncTcpStream::Plain(connecting.await?), 0)) }
    }
}

/// A stream of which the reading side goes through a sieve.
pub(crate) struct Sifted<S> {
    stream: S,
    sieve: Sieve,
}

impl<S> Sifted<S> {
    /// `frame_max` is what we ask the broker for; 0 is nothing.
    pub(crate) fn new(stream: S, frame_max: u32) -> Self {
        Self { stream, sieve: Sieve::new(frame_max) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sifted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, sieve } = self.get_mut();
        loop {
            let given = sieve.give(out);
            if given > 0 || out.is_empty() {
                return Poll::Ready(Ok(given));
            }
            match ready!(Pin::new(&mut *stream).poll_read(cx, sieve.space()))? {
                0 => {
                    sieve.finish();
                    return Poll::Ready(Ok(sieve.give(out)));
                }
                count => sieve.filled(count),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sifted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Frames in, legible frames out, in pieces of any size.
///
/// ```text
///   held: │ given away │ legible │ not whole yet │ free │
///         0            start     clear           end
/// ```
struct Sieve {
    /// Never larger than one method or header and one read.
    held: Vec<u8>,
    start: usize,
    clear: usize,
    end: usize,
    /// So much passes before the next frame begins.
    passing: usize,
    /// This is no AMQP that we know: lapin says what it thinks of it.
    foreign: bool,
    /// Lapin takes no larger frame; 0 is no limit.
    frame_max: u32,
    told: bool,
}

impl Sieve {
    fn new(frame_max: u32) -> Self {
        Self { held: Vec::new(), start: 0, clear: 0, end: 0, passing: 0, foreign: false, frame_max, told: false }
    }

    /// Hands out what is legible.
    fn give(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.clear - self.start);
        out[..count].copy_from_slice(&self.held[self.start..self.start + count]);
        self.start += count;
        count
    }

    /// Where to put what is read. All that is legible has been given by then.
    fn space(&mut self) -> &mut [u8] {
        self.held.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.clear -= self.start;
        self.start = 0;
        if self.held.len() - self.end < READ_BYTES / 2 {
            self.held.resize(self.end + READ_BYTES, 0);
        } else if self.end == 0 && self.held.len() > READ_BYTES * 4 {
            self.held.truncate(READ_BYTES);
            self.held.shrink_to_fit();
        }
        &mut self.held[self.end..]
    }

    /// So much was read.
    fn filled(&mut self, count: usize) {
        self.end += count;
        while self.advance() {}
    }

    /// Nothing more comes: lapin gets the rest as it is.
    fn finish(&mut self) {
        self.clear = self.end;
    }

    /// Looks at what is next. False when that takes more bytes.
    fn advance(&mut self) -> bool {
        let there = self.end - self.clear;
        if there == 0 {
            return false;
        }
        if self.foreign {
            self.clear = self.end;
            return false;
        }
        if self.passing > 0 {
            let pass = self.passing.min(there);
            self.passing -= pass;
            self.clear += pass;
            return true;
        }
        let kind = self.held[self.clear];
        if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
            self.foreign = true;
            return true;
        }
        if there < HEAD_BYTES {
            return false;
        }
        let size: [u8; 4] = self.held[self.clear + 3..self.clear + HEAD_BYTES].try_into().unwrap_or_default();
        let whole = HEAD_BYTES + u32::from_be_bytes(size) as usize + 1;
        if !matches!(kind, METHOD | HEADER) || whole > WHOLE_MAX {
            self.passing = whole;
            return true;
        }
        if there < whole {
            return false;
        }
        if self.held[self.clear + whole - 1] != FRAME_END {
            self.foreign = true;
            return true;
        }
        self.clear += if kind == METHOD { self.method(whole) } else { self.header(whole) };
        true
    }

    /// Makes the whole method legible that is next. Returns its length.
    fn method(&mut self, whole: usize) -> usize {
        let payload = &mut self.held[self.clear + HEAD_BYTES..self.clear + whole - 1];
        if let Some(tuned) = legible::tuned_frame_max(payload).filter(|tuned| *tuned > 0) {
            // Lapin takes the lower one.
            self.frame_max = if self.frame_max == 0 { tuned } else { tuned.min(self.frame_max) };
        }
        if legible::method(payload) == Reading::Mended {
            self.tell("the routing key or the exchange of an event is not UTF-8: its bytes are shown as `?`");
        }
        whole
    }

    /// Makes the whole header legible that is next. Returns the length that it has then.
    fn header(&mut self, whole: usize) -> usize {
        let is_too_large = self.frame_max > 0 && whole > self.frame_max as usize;
        let payload = &mut self.held[self.clear + HEAD_BYTES..self.clear + whole - 1];
        let reading = if is_too_large { Reading::Hopeless } else { legible::header(payload) };
        match reading {
            Reading::Plain => return whole,
            Reading::Mended => {
                self.tell("properties or names of headers of an event are not UTF-8, or are nested too deeply: what cannot be read is shown as `?`");
                return whole;
            }
            Reading::Hopeless => {}
        }
        let Some(bare) = legible::bare_header(payload) else { return whole };
        if bare.len() >= payload.len() {
            return whole;
        }
        let size = u32::try_from(bare.len()).unwrap_or_default().to_be_bytes();
        let at = self.clear;
        self.held[at + 3..at + HEAD_BYTES].copy_from_slice(&size);
        self.held[at + HEAD_BYTES..at + HEAD_BYTES + bare.len()].copy_from_slice(&bare);
        let left = HEAD_BYTES + bare.len() + 1;
        self.held[at + left - 1] = FRAME_END;
        self.held.copy_within(at + whole..self.end, at + left);
        self.end -= whole - left;
        self.tell("the headers of an event are larger than a frame may be, or cannot be read: it is taken without them, its body as it is");
        left
    }

    /// Loud once for each connection: whoever publishes one such event publishes many.
    fn tell(&mut self, what: &str) {
        if self.told {
            tracing::debug!("{what}");
        } else {
            self.told = true;
            tracing::warn!("{what}; mend the producer");
        }
    }
}

/// No broker has methods or headers that are larger, whatever its frames may be; they would pass unseen.
const WHOLE_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).expect("it fits").to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[FRAME_END]].concat()
    }

    fn deliver(key: &[u8]) -> Vec<u8> {
        let length = u8::try_from(key.len()).expect("it is short");
        frame(METHOD, &[&[0, 60, 0, 60, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0][..], &[length], key].concat())
    }

    fn header(message_id: &[u8]) -> Vec<u8> {
        let length = u8::try_from(message_id.len()).expect("it is short");
        frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0x80][..], &[length], message_id].concat())
    }

    /// What comes out of what comes in, in reads and takes of such sizes.
    fn sift(frame_max: u32, bytes: &[u8], reads: usize, takes: usize) -> Vec<u8> {
        let mut sieve = Sieve::new(frame_max);
        let mut out = Vec::new();
        let mut take = |sieve: &mut Sieve| {
            let mut piece = vec![0; takes];
            loop {
                let given = sieve.give(&mut piece);
                out.extend(&piece[..given]);
                if given == 0 {
                    break;
                }
            }
        };
        for read in bytes.chunks(reads) {
            sieve.space()[..read.len()].copy_from_slice(read);
            sieve.filled(read.len());
            take(&mut sieve);
        }
        sieve.finish();
        take(&mut sieve);
        out
    }

    #[test]
    fn what_is_no_text_is_mended_wherever_the_pieces_end() {
        let body = frame(BODY, b"\xff\xce\x02");
        let sent = [deliver(b"a.\xc3\xa9.\xff"), header(b"\xfe"), body.clone(), frame(HEARTBEAT, b""), deliver(b"b")].concat();
        let expected = [deliver(b"a.\xc3\xa9.?"), header(b"?"), body, frame(HEARTBEAT, b""), deliver(b"b")].concat();
        for reads in 1..sent.len() {
            assert_eq!(sift(0, &sent, reads, 7), expected, "reads of {reads}");
        }
    }

    #[test]
    fn a_header_that_lapin_would_not_take_is_taken_without_its_properties() {
        let bare = frame(HEADER, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]);
        let unreadable = frame(HEADER, b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x20\x00\x00\x00\x00\x03\x01a?");
        let tune = frame(METHOD, &[0, 10, 0, 30, 0, 0, 0, 0, 0, 64, 0, 60]);
        let large = header(&[b'x'; 60]);
        for reads in 1..80 {
            let sent = [tune.clone(), unreadable.clone(), large.clone(), header(b"small")].concat();
            let expected = [tune.clone(), bare.clone(), bare.clone(), header(b"small")].concat();
            assert_eq!(sift(0, &sent, reads, 1000), expected, "reads of {reads}");
        }
        assert_eq!(sift(200, &large, 1000, 1000), large, "only what the broker announced, or we asked for, is a limit");
        assert_eq!(sift(50, &large, 1000, 1000), bare);
    }

    #[test]
    fn what_is_no_amqp_passes_for_lapin_to_judge() {
        for foreign in [&b"AMQP\x00\x00\x09\x01"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\x00\x00\x00\x00\x00\x01\xff\x00\xff\xff", b"\x02\x00"] {
            assert_eq!(sift(0, foreign, 3, 5), foreign);
        }
    }

    #[test]
    fn memory_goes_back_after_a_large_frame() {
        let mut sieve = Sieve::new(0);
        let large = [frame(METHOD, &vec![0; 1 << 20]), deliver(b"a")].concat();
        for read in large.chunks(10_000) {
            sieve.space()[..read.len()].copy_from_slice(read);
            sieve.filled(read.len());
            while sieve.give(&mut [0; 4096]) > 0 {}
        }
        sieve.space();
        assert!(sieve.held.capacity() <= READ_BYTES * 4, "{}", sieve.held.capacity());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_come_out_as_in_one(bytes in prop::collection::vec(any::<u8>(), 0..200), kinds in prop::collection::vec(1..4_u8, 0..6), reads in 1..60_usize, takes in 1..60_usize) {
            let sent: Vec<u8> = kinds.iter().flat_map(|kind| frame(*kind, &bytes[..bytes.len() / usize::from(*kind)])).chain(bytes.clone()).collect();
            prop_assert_eq!(sift(0, &sent, reads, takes), sift(0, &sent, sent.len().max(1), sent.len().max(1)));
        }

        #[test]
        fn text_passes_as_it_is(keys in prop::collection::vec("[a-zé.🦀]{0,40}", 1..5), reads in 1..60_usize) {
            let sent: Vec<u8> = keys.iter().flat_map(|key| [deliver(key.as_bytes()), header(key.as_bytes()), frame(BODY, b"\xff\xff\xff")].concat()).collect();
            prop_assert_eq!(sift(0, &sent, reads, 9), sent);
        }
    }
}
