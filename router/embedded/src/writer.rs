//! The thread that writes. It owns the only connection that does.
//!
//! Whatever arrives while one commit runs is the next commit: no timer, no waiting for company. A caller is answered after the
//! commit that holds its work. When something in a group fails, the group is rolled back and each piece of work gets a commit of
//! its own, so that one caller's trouble is no other's; that is why [`Work::apply`] may be called again.
//!
//! After an error of the disk itself the connection is dropped: after a failed sync the kernel may have dropped the very pages that the
//! next sync would then report as safe. Whoever writes is told to try again, reading goes on, and the file is opened anew: see
//! `writer/reopening.rs`. What is found damaged ends writing for good.

mod reopening;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use router_api::failpoint::{self, Failpoint};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use self::reopening::{DiskState, disk_error};
pub(crate) use self::reopening::{Reopened, Reopening};
use crate::{checkpoint::Checkpoints, disk::Reserve, retention::Retention, schema, side_file::SideFile, store_time::StoreTime};

/// Work that waits for the writer at most; whoever brings more waits too.
const WAITING_MAX: usize = 1_024;
/// Pieces of work in one commit at most, an event being one. The last one that is taken may go beyond it.
pub(crate) const GROUP_MAX: usize = 512;

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
}

/// Work made of two closures: one that writes, one that is told the outcome.
struct Job<T, R, F> {
    run: R,
    value: Option<T>,
    finish: F,
    adds_events: bool,
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
        self.adds_events
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
    /// Anything was ever handed over, or is to be taken so.
    asked: AtomicBool,
    stopping: AtomicBool,
    wake: tokio::sync::Notify,
    disk: DiskState,
}

impl Writer {
    /// The handle, and what the thread runs on.
    pub(crate) fn new() -> (Self, WriterInbox) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(WriterShared::default());
        (Self { sender, shared: Arc::clone(&shared) }, WriterInbox { receiver, shared, waiting: Vec::new() })
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// False while nothing was handed over to a writer that waits for that ([`WriterInbox::wait`]).
    pub(crate) fn is_asked(&self) -> bool {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Hands over work; waits only for room in the queue. Work that cannot be handed over is finished as closed.
    pub(crate) async fn send(&self, work: Box<dyn Work>) {
        self.shared.asked.store(true, Ordering::SeqCst);
        if let Err(mpsc::error::SendError(work)) = self.sender.send(work).await {
            work.finish(Err(WriteError::Closed));
        }
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
        self.send(Box::new(Job { run, value: None, finish, adds_events: true })).await;
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
    }
}

/// Makes work of two closures.
pub(crate) fn job<T, R, F>(run: R, finish: F) -> Box<dyn Work>
where
    T: Send + 'static,
    R: FnMut(&Writing<'_>) -> rusqlite::Result<T> + Send + 'static,
    F: FnOnce(Result<T, WriteError>) + Send + 'static,
{
    Box::new(Job { run, value: None, finish, adds_events: false })
}

/// What comes to the writer thread.
pub(crate) struct WriterInbox {
    receiver: mpsc::Receiver<Box<dyn Work>>,
    shared: Arc<WriterShared>,
    /// What came before there was anything to work with.
    waiting: Vec<Box<dyn Work>>,
}

/// What the writer thread works with.
pub(crate) struct WriterDesk {
    pub(crate) conn: Connection,
    pub(crate) time: Arc<StoreTime>,
    pub(crate) reserve: Reserve,
    pub(crate) side_file: SideFile,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) retention: Retention,
    pub(crate) last_seq: i64,
    /// The store's path, for sentences.
    pub(crate) path: String,
    pub(crate) reopening: Reopening,
    pub(crate) opening: Opening,
}

/// Of which store this is an opening.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) store: i64,
    pub(crate) number: i64,
    /// When all of the store was read.
    pub(crate) examined_at: i64,
}

/// In `meta`: when a disk that was full, or failed, was last tried.
pub(crate) const PROBED: &str = "probed_at";

impl WriterInbox {
    /// Waits for the first work, and keeps it for [`WriterInbox::run`]. False if there was none before [`Writer::stop`].
    ///
    /// # Errors
    ///
    /// When the thread cannot wait.
    pub(crate) fn wait(&mut self) -> std::io::Result<bool> {
        // Only for waiting, as in `run`.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        loop {
            let is_stopping = self.shared.stopping.load(Ordering::SeqCst);
            if let Ok(work) = self.receiver.try_recv() {
                self.waiting.push(work);
                return Ok(true);
            }
            if is_stopping {
                return Ok(false);
            }
            let arrived = runtime.block_on(async {
                tokio::select! {
                    biased;
                    work = self.receiver.recv() => work.map(Some),
                    () = self.shared.wake.notified() => Some(None),
                }
            });
            match arrived {
                Some(Some(work)) => self.waiting.push(work),
                Some(None) => continue,
                None => return Ok(false),
            }
            return Ok(true);
        }
    }

    /// Answers everything with `sentence` until [`Writer::stop`].
    pub(crate) fn refuse(mut self, sentence: &str) {
        let broken = self.shared.disk.break_down(sentence, false);
        loop {
            finish_all(std::mem::take(&mut self.waiting), &broken.clone().into());
            if !self.wait().unwrap_or(false) {
                return;
            }
        }
    }

    /// Works until [`Writer::stop`], or until all handles are gone. Returns what it worked with.
    pub(crate) fn run(mut self, mut desk: WriterDesk) -> WriterDesk {
        self.shared.asked.store(true, Ordering::SeqCst);
        // Only for waiting. No SQLite call happens inside `block_on`.
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let waiting = match waiting {
            Ok(runtime) => runtime,
            Err(error) => {
                self.shared.disk.break_down(&format!("the writer of the store `{}` cannot wait: {error}", desk.path), false);
                return desk;
            }
        };
        let mut group = std::mem::take(&mut self.waiting);
        loop {
            if self.shared.disk.heals() && !self.shared.stopping.load(Ordering::SeqCst) && !self.receiver.is_closed() {
                self.wait_broken(&mut desk, &waiting);
                self.open_anew(&mut desk);
                continue;
            }
            if let Ok(work) = self.receiver.try_recv() {
                group.push(work);
            } else if group.is_empty() {
                if self.shared.stopping.load(Ordering::SeqCst) {
                    self.receiver.close();
                    // What slipped in between the last look and the closing.
                    while let Ok(work) = self.receiver.try_recv() {
                        group.push(work);
                    }
                    for chunk in chunks(&mut group) {
                        self.commit_guarded(&mut desk, chunk);
                    }
                    return desk;
                }
                // Real time, not the clock's: it only decides when an idle writer looks whether there is something to tidy up, and a
                // virtual clock must not be driven on by it.
                let pause = desk.retention.pause();
                let arrived = waiting.block_on(async {
                    tokio::select! {
                        biased;
                        work = self.receiver.recv() => Arrived::Work(work),
                        () = self.shared.wake.notified() => Arrived::Nothing,
                        () = tokio::time::sleep(pause) => Arrived::Nothing,
                    }
                });
                match arrived {
                    Arrived::Work(Some(work)) => group.push(work),
                    Arrived::Work(None) => return desk,
                    Arrived::Nothing => {}
                }
            }
            let mut weight = weight(&group);
            while weight < GROUP_MAX
                && let Ok(work) = self.receiver.try_recv()
            {
                weight += work.weight();
                group.push(work);
            }
            if !group.is_empty() {
                self.commit_guarded(&mut desk, std::mem::take(&mut group));
            }
            if self.shared.disk.broken().is_none() {
                let is_idle = self.receiver.is_empty();
                if let Err(error) = desk.retention.tick(&desk.conn, &desk.time, is_idle) {
                    let error = self.shared.disk.judge(&desk.path, &error);
                    tracing::warn!(error = error.sentence(), "old events could not be removed");
                }
                // Behind the answers to whoever waited for the commit.
                desk.checkpoints.tidy(&desk.conn);
            }
        }
    }

    /// A panic in here is a bug of ours, after which nothing can be said of the open transaction. The thread has to outlive it all the
    /// same: it owns the lock of the store, without which another process would hand out what this one still has in hand.
    fn commit_guarded(&self, desk: &mut WriterDesk, group: Vec<Box<dyn Work>>) {
        if catch_unwind(AssertUnwindSafe(|| self.commit_group(desk, group))).is_err() {
            self.shared
                .disk
                .break_down(&format!("the writer of the store `{}` panicked, which is a bug; please report it and restart the router", desk.path), false);
        }
    }

    fn commit_group(&self, desk: &mut WriterDesk, mut group: Vec<Box<dyn Work>>) {
        if let Some(broken) = self.shared.disk.broken() {
            finish_all(group, &broken.into());
            return;
        }
        if group.iter().any(|work| work.adds_events())
            && let Err(sentence) = desk.reserve.check(desk.time.clock().monotonic())
        {
            let (refused, rest) = group.into_iter().partition(|work| work.adds_events());
            finish_all(refused, &WriteError::Full(sentence));
            group = rest;
        }
        if group.is_empty() {
            return;
        }
        let error = match self.commit(desk, &mut group) {
            Ok(()) => {
                for work in group {
                    work.finish(Ok(()));
                }
                return;
            }
            Err(error) => self.shared.disk.judge(&desk.path, &error),
        };
        if group.len() == 1 || matches!(error, WriteError::Broken { .. }) {
            finish_all(group, &error);
            return;
        }
        for work in group {
            self.commit_group(desk, vec![work]);
        }
    }

    /// One transaction round all of `group`.
    fn commit(&self, desk: &mut WriterDesk, group: &mut [Box<dyn Work>]) -> rusqlite::Result<()> {
        let done = (|| {
            desk.conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
            let writing = Writing { conn: &desk.conn, now: desk.time.now() };
            failpoint::pass(Failpoint::GroupBegun);
            for (index, work) in group.iter_mut().enumerate() {
                if index > 0 {
                    writing.half();
                }
                work.apply(&writing)?;
            }
            let last = if group.iter().any(|work| work.adds_events()) { schema::last_seq(&desk.conn)? } else { desk.last_seq };
            if failpoint::fails(Failpoint::GroupApplied) {
                return Err(disk_error());
            }
            desk.conn.prepare_cached("COMMIT")?.raw_execute()?;
            failpoint::pass(Failpoint::GroupAfter);
            Ok(last)
        })();
        match done {
            Ok(last) => {
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                self.shared.disk.has_room();
                desk.last_seq = desk.last_seq.max(last);
                desk.side_file.note(u64::try_from(desk.last_seq).unwrap_or(0), desk.checkpoints.place());
                failpoint::pass(Failpoint::GroupNoted);
                Ok(())
            }
            Err(error) => {
                // Some errors have rolled back already.
                if !desk.conn.is_autocommit()
                    && let Err(again) = desk.conn.execute_batch("ROLLBACK")
                {
                    self.shared.disk.break_down(&format!("the store `{}` cannot roll back: {again}; restart the router", desk.path), false);
                }
                Err(error)
            }
        }
    }
}

enum Arrived {
    Work(Option<Box<dyn Work>>),
    Nothing,
}

fn weight(group: &[Box<dyn Work>]) -> usize {
    group.iter().map(|work| work.weight()).sum()
}

fn chunks(group: &mut Vec<Box<dyn Work>>) -> Vec<Vec<Box<dyn Work>>> {
    let mut chunks: Vec<Vec<Box<dyn Work>>> = Vec::new();
    for work in group.drain(..) {
        match chunks.last_mut() {
            Some(chunk) if weight(chunk) < GROUP_MAX => chunk.push(work),
            _ => chunks.push(vec![work]),
        }
    }
    chunks
}

fn finish_all(group: Vec<Box<dyn Work>>, error: &WriteError) {
    for work in group {
        work.finish(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests;
