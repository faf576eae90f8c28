//! The way of a log line to the standard error without ever waiting: a bounded queue and a thread of its own.
//!
//! A reader of the log that stands still (a stopped `less`, a full pipe) costs lines, never deliveries: what does not fit is
//! counted, and the count is written when the reader moves again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

/// Lines that may wait.
const LINES_MAX: usize = 4_096;

/// At the end of the program the last lines are waited for so long.
const FLUSH: Duration = Duration::from_secs(1);

/// Bytes of one line; longer ones are cut.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Of this process, whichever pipe they were sent into.
static LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Log lines that did not fit since the process began.
pub(crate) fn lines_dropped() -> u64 {
    LINES_DROPPED.load(Ordering::Relaxed)
}

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The entrance. Clones share one queue.
#[derive(Clone)]
pub(crate) struct LogPipe {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl LogPipe {
    /// A pipe to the standard error.
    pub(crate) fn to_stderr() -> io::Result<Self> {
        Self::to(io::stderr())
    }

    /// A pipe to any writer.
    pub(crate) fn to(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || carry(&lines, writer, &counter))?;
        Ok(Self { queue, dropped })
    }

    /// Hands over a line, or counts it as dropped.
    pub(crate) fn send(&self, line: &[u8]) {
        let line = if line.len() > LINE_BYTES_MAX { [&line[..LINE_BYTES_MAX], b"\n"].concat() } else { line.to_vec() };
        match self.queue.try_send(Item::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until what was sent is written, for a moment at most.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

fn carry(lines: &Receiver<Item>, mut writer: impl Write, dropped: &AtomicU64) {
    while let Ok(item) = lines.recv() {
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = writeln!(writer, "… {missing} log lines are missing here: the log was not read fast enough");
        }
        // A closed standard error is no reason to stop routing.
        match item {
            Item::Line(line) => {
                let _ = writer.write_all(&line);
            }
            Item::Flush(done) => {
                let _ = writer.flush();
                let _ = done.try_send(());
            }
        }
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for LogPipe {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { pipe: self, bytes: Vec::new() }
    }
}

/// One line under construction; handed over when it is dropped.
pub(crate) struct Line<'a> {
    pipe: &'a LogPipe,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.pipe.send(&self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        mpsc::{self, Sender},
    };

    use super::*;

    /// Writes into a shared buffer, and stands still while its gate is closed.
    struct Gated {
        written: Arc<Mutex<Vec<u8>>>,
        gate: Receiver<()>,
        waiting: Sender<()>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.waiting.send(());
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (open, gate) = mpsc::channel();
        let (waiting, stuck) = mpsc::channel();
        let pipe = LogPipe::to(Gated { written: Arc::clone(&written), gate, waiting }).unwrap();
        pipe.send(b"first\n");
        stuck.recv().unwrap();
        // Returns although nobody reads: that is the point.
        for _ in 0..LINES_MAX + 100 {
            pipe.send(b"line\n");
        }
        drop(open);
        pipe.flush();
        // The flush itself may have found the queue full; a line sent after room was made tells of the gap.
        while !String::from_utf8_lossy(&written.lock().unwrap()).contains("log lines are missing") {
            pipe.send(b"last\n");
            pipe.flush();
        }
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("first\n"));
        assert!(text.matches("line\n").count() <= LINES_MAX, "what did not fit was dropped");
        assert!(lines_dropped() >= 100, "and counted");
    }
}
