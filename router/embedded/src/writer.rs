//! How everything is written: what is handed to the thread that owns the only connection that writes, and how its end is told. What the
//! thread does stands in `writer/thread.rs`.
//!
//! Whatever arrives while one commit runs is the next commit. What brings something is never kept waiting for company; what only says that
//! something is over waits for a moment where more is likely to come, so that one commit takes all of it (see
//! [`Work::waits_for_company`]). A caller is answered after the commit that holds its work. When something in a group fails, the group is rolled back and each piece of work gets a commit of
//! its own, so that one caller's trouble is no other's; that is why [`Work::apply`] may be called again.
//!
//! After an error of the disk itself the connection is dropped: after a failed sync the kernel may have dropped the very pages that the
//! next sync would then report as safe. Whoever writes is told to try again, reading goes on, and the file is opened anew: see
//! `writer/reopening.rs`. What is found damaged ends writing for good.

mod reopening;
mod thread;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::Thread,
};

use router_api::failpoint::{self, Failpoint};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use self::reopening::DiskState;
pub(crate) use self::{
    reopening::{Reopened, Reopening},
    thread::{Opening, WriterDesk, WriterInbox},
};
use crate::{inbox_keys::InboxKeys, schema};

/// Work that waits for the writer at most; whoever brings more waits too.
const WAITING_MAX: usize = 1_024;
/// Pieces of work in one commit at most, an event being one. The last one that is taken may go beyond it.
pub(crate) const GROUP_MAX: usize = 512;

/// So long at most what waits for company waits for it, in microseconds. Real time: it only decides what shares a commit.
const COMPANY_US: u64 = 1_000;
/// So many pieces wait for no more: as many as a route that asks for quick handlings has at once.
const COMPANY_MAX: usize = 32;

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// No room, or the reserve is used up.
    Full(String),
    /// Not this time.
    Failed(String),
    /// Not before the file is opened anew, or never again by this process.
    Broken { sentence: String, heals: bool },
    /// The store is closed.
    Closed,
}

impl WriteError {
    /// For people.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Full(sentence) | Self::Failed(sentence) | Self::Broken { sentence, .. } => sentence.clone(),
            Self::Closed => "the store is closed".to_owned(),
        }
    }
}

/// What work may use while it is applied.
pub(crate) struct Writing<'a> {
    /// In a transaction.
    pub(crate) conn: &'a Connection,
    /// The store's time at the beginning of the group.
    pub(crate) now: i64,
    /// To be told of each key that is remembered.
    pub(crate) inbox_keys: &'a InboxKeys,
}

impl Writing<'_> {
    /// Between two pieces of one commit.
    pub(crate) fn half(&self) {
        failpoint::pass(Failpoint::GroupHalf);
    }
}

/// Something to be written.
pub(crate) trait Work: Send {
    /// Does it. An error rolls everything back, so this may be called again; what is remembered elsewhere belongs into
    /// [`Work::finish`].
    fn apply(&mut self, writing: &Writing<'_>) -> rusqlite::Result<()>;

    /// Told once what became of it.
    fn finish(self: Box<Self>, outcome: Result<(), WriteError>);

    /// How much of a group it is.
    fn weight(&self) -> usize {
        1
    }

    /// True if it brings new events, which must stop when the disk's reserve is used up.
    fn adds_events(&self) -> bool {
        false
    }

    /// True if nobody is held up who would not be held up anyway, so that it may wait a moment for other work to share a commit with.
    fn waits_for_company(&self) -> bool {
        false
    }
}

/// Work made of two closures: one that writes, one that is told the outcome.
struct Job<T, R, F> {
    run: R,
    value: Option<T>,
    finish: F,
    kind: Kind,
}

/// What a [`Job`] is like, for those who plan commits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    AddsEvents,
    WaitsForCompany,
    Other,
}

impl<T, R, F> Work for Job<T, R, F>
where
    T: Send,
    R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send,
    F: FnOnce(Result<T, WriteError>) + Send,
{
    fn apply(&mut self, writing: &Writing<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.run)(writing)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), WriteError>) {
        let Self { value, finish, .. } = *self;
        let unapplied = || WriteError::Failed("the work was never begun".to_owned());
        finish(outcome.and_then(|()| value.ok_or_else(unapplied)));
    }

    fn adds_events(&self) -> bool {
        self.kind == Kind::AddsEvents
    }

    fn waits_for_company(&self) -> bool {
        self.kind == Kind::WaitsForCompany
    }
}

/// The other side of the writer thread.
#[derive(Clone)]
pub(crate) struct Writer {
    sender: mpsc::Sender<Box<dyn Work>>,
    shared: Arc<WriterShared>,
}

#[derive(Default)]
struct WriterShared {
    commits: AtomicU64,
    /// The store is not as it was closed any more, or will soon not be.
    used: AtomicBool,
    stopping: AtomicBool,
    wake: tokio::sync::Notify,
    /// The writer has only what waits for company: whoever brings anything else wakes it, and who brings the last of [`COMPANY_MAX`].
    awaits_company: AtomicBool,
    /// Pieces that it has then, beside those that are still in the channel.
    in_company: AtomicUsize,
    company_us: AtomicU64,
    thread: OnceLock<Thread>,
    disk: DiskState,
    inbox_keys: InboxKeys,
}

impl Writer {
    /// The handle, and what the thread runs on.
    pub(crate) fn new() -> (Self, WriterInbox) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(WriterShared { company_us: COMPANY_US.into(), ..WriterShared::default() });
        (Self { sender, shared: Arc::clone(&shared) }, WriterInbox::new(receiver, shared))
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Which keys no inbox has.
    pub(crate) fn inbox_keys(&self) -> &InboxKeys {
        &self.shared.inbox_keys
    }

    /// Has to end the store as closed: false while nothing was handed over to a writer that waits for that ([`WriterInbox::wait`]).
    pub(crate) fn is_used(&self) -> bool {
        self.shared.used.load(Ordering::SeqCst)
    }

    /// The store was taken over, and says since then that it is not closed. Said before anybody can end it.
    pub(crate) fn has_taken_over(&self) {
        self.shared.used.store(true, Ordering::SeqCst);
    }

    /// Hands over work; waits only for room in the queue. Work that cannot be handed over is finished as closed.
    pub(crate) async fn send(&self, work: Box<dyn Work>) {
        self.shared.used.store(true, Ordering::SeqCst);
        let is_patient = work.waits_for_company();
        if let Err(mpsc::error::SendError(work)) = self.sender.send(work).await {
            work.finish(Err(WriteError::Closed));
            return;
        }
        // Either this sees that the writer waits, and with how much, or the writer sees the work before it waits.
        fence(Ordering::SeqCst);
        if self.shared.awaits_company.load(Ordering::SeqCst) && (!is_patient || self.in_company() >= COMPANY_MAX) {
            self.shared.unpark();
        }
    }

    /// Pieces that a writer has that waits for company, and those that it has not looked at yet.
    fn in_company(&self) -> usize {
        self.shared.in_company.load(Ordering::SeqCst) + (self.sender.max_capacity() - self.sender.capacity())
    }

    /// Runs `run` inside a commit. Dropping the future does not undo what was handed over.
    pub(crate) async fn write<T, R>(&self, run: R) -> Result<T, WriteError>
    where
        T: Send + 'static,
        R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_then(run, |_| {}).await
    }

    /// The same; `then` sees the value after the commit, on the writer's thread, even if the caller has gone.
    pub(crate) async fn write_then<T, R, F>(&self, run: R, then: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
        F: FnOnce(&T) + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let finish = move |outcome: Result<T, WriteError>| {
            if let Ok(value) = &outcome {
                then(value);
            }
            // The caller may have gone; the work is done all the same.
            let _ = sender.send(outcome);
        };
        self.send(job(run, finish)).await;
        receiver.await.unwrap_or(Err(WriteError::Closed))
    }

    /// As [`Writer::write`], for what brings new events, which must stop when the disk's reserve is used up.
    pub(crate) async fn write_events<T, R>(&self, run: R) -> Result<T, WriteError>
    where
        T: Send + 'static,
        R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let finish = move |outcome| drop(sender.send(outcome));
        self.send(Box::new(Job { run, value: None, finish, kind: Kind::AddsEvents })).await;
        receiver.await.unwrap_or(Err(WriteError::Closed))
    }

    /// `Err` with a sentence while nothing can be written. After a commit that found no room one small piece of work is sent ahead.
    pub(crate) fn works(&self) -> Result<(), String> {
        if let Some(broken) = self.shared.disk.broken() {
            return Err(broken.sentence);
        }
        if self.shared.disk.is_full() {
            let probe = job(|writing: &Writing<'_>| schema::set_meta(writing.conn, PROBED, writing.now), |_: Result<(), WriteError>| {});
            // A queue that is full of other work is as good a probe.
            let _ = self.sender.try_send(probe);
            return Err("there was no room on the disk of the store".to_owned());
        }
        Ok(())
    }

    /// Ends the thread once it has done what waits.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake.notify_one();
        self.shared.unpark();
    }
}

impl WriterShared {
    /// Ends the writer's waiting for company, or the next one at once.
    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Makes work of two closures.
pub(crate) fn job<T, R, F>(run: R, finish: F) -> Box<dyn Work>
where
    T: Send + 'static,
    R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    F: FnOnce(Result<T, WriteError>) + Send + 'static,
{
    Box::new(Job { run, value: None, finish, kind: Kind::Other })
}

/// As [`job`], of work that [`Work::waits_for_company`].
pub(crate) fn patient_job<T, R, F>(run: R, finish: F) -> Box<dyn Work>
where
    T: Send + 'static,
    R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    F: FnOnce(Result<T, WriteError>) + Send + 'static,
{
    Box::new(Job { run, value: None, finish, kind: Kind::WaitsForCompany })
}

/// In `meta`: when a disk that was full, or failed, was last tried.
pub(crate) const PROBED: &str = "probed_at";

#[cfg(test)]
mod tests;
