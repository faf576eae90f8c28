//! The thread that writes. It owns the only connection that does.
//!
//! Whatever arrives while one commit runs is the next commit: no timer, no waiting for company. A caller is answered after the
//! commit that holds its work. When something in a group fails, the group is rolled back and each piece of work gets a commit of
//! its own, so that one caller's trouble is no other's; that is why [`Work::apply`] may be called again.
//!
//! After an error of the disk itself the connection is dropped: after a failed sync the kernel may have dropped the very pages that the
//! next sync would then report as safe. Whoever writes is told to try again, reading goes on, and the file is opened anew, each second: it
//! must be whole then, and have what was accepted. What is found damaged ends writing for good.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use router_api::failpoint::{self, Failpoint};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::{checkpoint::Checkpoints, disk::Reserve, queue::locked, retention::Retention, schema, side_file::SideFile, store_time::StoreTime};

/// Work that waits for the writer at most; whoever brings more waits too.
const WAITING_MAX: usize = 1_024;
/// Pieces of work in one commit at most.
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

/// Something to be written.
pub(crate) trait Work: Send {
    /// Does it. An error rolls everything back, so this may be called again; what is remembered elsewhere belongs into
    /// [`Work::finish`].
    fn apply(&mut self, writing: &Writing<'_>) -> rusqlite::Result<()>;

    /// Told once what became of it.
    fn finish(self: Box<Self>, outcome: Result<(), WriteError>);

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
    stopping: AtomicBool,
    wake: tokio::sync::Notify,
    broken: Mutex<Option<Break>>,
    /// The last commit found no room.
    is_full: AtomicBool,
}

/// Why nothing is written.
#[derive(Debug, Clone)]
struct Break {
    sentence: String,
    /// The file will be opened anew.
    heals: bool,
}

impl From<Break> for WriteError {
    fn from(Break { sentence, heals }: Break) -> Self {
        Self::Broken { sentence, heals }
    }
}

/// Opens the file anew, given the number of the last event that was accepted, the time, and who copies the log.
pub(crate) type Reopening = Box<dyn Fn(i64, i64, &Checkpoints) -> Result<Connection, Reopened> + Send>;

/// Why it could not be opened anew.
pub(crate) enum Reopened {
    /// The disk still fails.
    NotYet(String),
    /// What is there is not what was there.
    Damaged(String),
}

/// Between two tries to open the file anew.
const REOPEN_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

impl Writer {
    /// The handle, and what the thread runs on.
    pub(crate) fn new() -> (Self, WriterInbox) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(WriterShared::default());
        (Self { sender, shared: Arc::clone(&shared) }, WriterInbox { receiver, shared })
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Hands over work; waits only for room in the queue. Work that cannot be handed over is finished as closed.
    pub(crate) async fn send(&self, work: Box<dyn Work>) {
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
        if let Some(broken) = &*locked(&self.shared.broken) {
            return Err(broken.sentence.clone());
        }
        if self.shared.is_full.load(Ordering::SeqCst) {
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
}

/// In `meta`: when a disk that was full, or failed, was last tried.
pub(crate) const PROBED: &str = "probed_at";

impl WriterInbox {
    /// Works until [`Writer::stop`], or until all handles are gone. Returns what it worked with.
    pub(crate) fn run(mut self, mut desk: WriterDesk) -> WriterDesk {
        // Only for waiting. No SQLite call happens inside `block_on`.
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let waiting = match waiting {
            Ok(runtime) => runtime,
            Err(error) => {
                self.break_down(&format!("the writer of the store `{}` cannot wait: {error}", desk.path), false);
                return desk;
            }
        };
        let mut group: Vec<Box<dyn Work>> = Vec::new();
        loop {
            if self.heals() && !self.shared.stopping.load(Ordering::SeqCst) && !self.receiver.is_closed() {
                self.wait_broken(&mut desk, &waiting);
                self.open_anew(&mut desk);
                continue;
            }
            if let Ok(work) = self.receiver.try_recv() {
                group.push(work);
            } else {
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
            while group.len() < GROUP_MAX
                && let Ok(work) = self.receiver.try_recv()
            {
                group.push(work);
            }
            if !group.is_empty() {
                self.commit_guarded(&mut desk, std::mem::take(&mut group));
            }
            if self.broken().is_none() {
                let is_idle = self.receiver.is_empty();
                if let Err(error) = desk.retention.tick(&desk.conn, &desk.time, is_idle) {
                    let error = self.judge(&desk, &error);
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
            self.break_down(&format!("the writer of the store `{}` panicked, which is a bug; please report it and restart the router", desk.path), false);
        }
    }

    fn commit_group(&self, desk: &mut WriterDesk, mut group: Vec<Box<dyn Work>>) {
        if let Some(broken) = self.broken() {
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
            Err(error) => self.judge(desk, &error),
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
                    failpoint::pass(Failpoint::GroupHalf);
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
                self.shared.is_full.store(false, Ordering::SeqCst);
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
                    self.break_down(&format!("the store `{}` cannot roll back: {again}; restart the router", desk.path), false);
                }
                Err(error)
            }
        }
    }

    /// What an error means for whoever waits, and for the writer.
    fn judge(&self, desk: &WriterDesk, error: &rusqlite::Error) -> WriteError {
        if let Some(broken) = self.broken() {
            return broken.into();
        }
        if is_full(error) {
            self.shared.is_full.store(true, Ordering::SeqCst);
            return WriteError::Full(format!("no room on the disk of the store `{}`: free some space, nothing that was accepted is lost", desk.path));
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::SystemIoFailure) => {
                let sentence = format!("the store `{}` could not be written ({error}) and is opened anew: look at its disk", desk.path);
                self.break_down(&sentence, true).into()
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                let sentence = format!("the store `{}` cannot be written any more ({error}): look at its disk, then restart the router", desk.path);
                self.break_down(&sentence, false).into()
            }
            _ => WriteError::Failed(format!("the store `{}` did not record it: {error}", desk.path)),
        }
    }

    fn broken(&self) -> Option<Break> {
        locked(&self.shared.broken).clone()
    }

    fn break_down(&self, sentence: &str, heals: bool) -> Break {
        tracing::error!("{sentence}");
        let broken = Break { sentence: sentence.to_owned(), heals };
        *locked(&self.shared.broken) = Some(broken.clone());
        broken
    }

    fn heals(&self) -> bool {
        self.broken().is_some_and(|broken| broken.heals)
    }

    /// Closes the old connection, since nothing that it holds in memory may be taken for what is on the disk, and gives the disk a moment.
    /// Whoever comes meanwhile is told to try again.
    fn wait_broken(&mut self, desk: &mut WriterDesk, waiting: &tokio::runtime::Runtime) {
        match Connection::open_in_memory() {
            Ok(nothing) => drop(std::mem::replace(&mut desk.conn, nothing)),
            Err(error) => tracing::debug!(%error, "the old connection stays until the new one is there"),
        }
        let Some(broken) = self.broken() else { return };
        waiting.block_on(async {
            let mut moment = std::pin::pin!(tokio::time::sleep(REOPEN_EVERY));
            loop {
                tokio::select! {
                    biased;
                    () = &mut moment => break,
                    () = self.shared.wake.notified() => break,
                    work = self.receiver.recv() => match work {
                        Some(work) => work.finish(Err(broken.clone().into())),
                        None => break,
                    },
                }
            }
        });
    }

    /// Tries to open the file anew.
    fn open_anew(&self, desk: &mut WriterDesk) {
        match (desk.reopening)(desk.last_seq, desk.time.now(), &desk.checkpoints) {
            Ok(conn) => {
                desk.conn = conn;
                *locked(&self.shared.broken) = None;
                tracing::info!("the store `{}` works again: it is whole, and has all that was accepted", desk.path);
            }
            Err(Reopened::NotYet(error)) => tracing::debug!(error, "the store still cannot be opened anew"),
            Err(Reopened::Damaged(what)) => {
                self.break_down(
                    &format!("the store `{}` was damaged when its disk failed ({what}): restart the router, which says what is missing", desk.path),
                    false,
                );
            }
        }
    }
}

enum Arrived {
    Work(Option<Box<dyn Work>>),
    Nothing,
}

fn chunks(group: &mut Vec<Box<dyn Work>>) -> Vec<Vec<Box<dyn Work>>> {
    let mut chunks = Vec::new();
    while !group.is_empty() {
        let rest = group.split_off(group.len().min(GROUP_MAX));
        chunks.push(std::mem::replace(group, rest));
    }
    chunks
}

fn finish_all(group: Vec<Box<dyn Work>>, error: &WriteError) {
    for work in group {
        work.finish(Err(error.clone()));
    }
}

/// What a sync that failed looks like.
fn disk_error() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None)
}

/// The disk is full: SQLite says so for the database, but for its shared-memory file it says "I/O error".
fn is_full(error: &rusqlite::Error) -> bool {
    const SHM_SIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || error.sqlite_error().is_some_and(|error| error.extended_code == SHM_SIZE)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use jiff::Timestamp;
    use router_api::{BoxFuture, Clock, EventQuery, Publication, Store, Transport, TransportError};

    use super::*;
    use crate::{Embedded, EmbeddedOptions};

    /// It is always the same moment.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> std::time::Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    fn open() -> (tempfile::TempDir, Arc<Embedded>) {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::new(directory.path().join("router.db")) };
        let store = Embedded::open(options, Arc::new(Still)).unwrap();
        (directory, store)
    }

    fn event(bytes: usize) -> Publication {
        Publication::new("k".parse().unwrap(), vec![b'x'; bytes])
    }

    #[tokio::test]
    async fn what_arrives_during_one_commit_is_the_next_up_to_the_limit() {
        let (_directory, store) = open();
        let (go, gone) = mpsc::channel::<()>();
        let busy = Arc::clone(&store);
        let begun = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&begun);
        let busy = tokio::spawn(async move {
            let wait = move |_: &Writing<'_>| {
                tell.notify_one();
                Ok(gone.recv().is_ok())
            };
            busy.shared.writer.write(wait).await
        });
        // Begun is said by the work itself, from the writer's thread.
        begun.notified().await;
        let before = store.measures().commits;
        // Unconstrained: else tokio takes turns after a hundred of them, and not all have arrived when the writer goes on.
        let publications = tokio::task::unconstrained(futures_util::future::join_all((0..GROUP_MAX + 100).map(|_| store.publish(event(1)))));
        let mut publications = std::pin::pin!(publications);
        assert!(futures_util::poll!(&mut publications).is_pending());
        go.send(()).unwrap();
        publications.await;
        assert!(busy.await.unwrap().unwrap());
        let commits = store.measures().commits - before;
        assert_eq!(commits, 3, "the one that was busy, one that is full, one with the rest");
    }

    #[tokio::test]
    async fn a_full_disk_is_said_as_such_and_what_was_accepted_stays() {
        let (_directory, store) = open();
        store.publish(event(10)).await.unwrap();
        let limit = |pages: u32| store.shared.writer.write(move |writing| writing.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())));
        // SQLite takes the size that the file has for a limit below it.
        limit(1).await.unwrap();
        let Err(TransportError::Full(sentence)) = store.publish(event(1_000_000)).await else { panic!("it was stored") };
        assert!(sentence.contains("no room") && sentence.contains("router.db"), "{sentence}");
        store.set_state(&"a".parse().unwrap(), "small", Some(serde_json::json!(1))).await.unwrap();
        limit(1_000_000).await.unwrap();
        store.publish(event(1_000_000)).await.unwrap();
        assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn in_a_file_that_is_damaged_nothing_is_written_any_more_and_reading_goes_on() {
        let (_directory, store) = open();
        store.publish(event(10)).await.unwrap();
        let damaged = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
        let broken = store.shared.writer.write::<(), _>(move |_| Err(damaged())).await;
        assert!(matches!(broken, Err(WriteError::Broken { heals: false, .. })), "{broken:?}");
        let Err(TransportError::Refused(sentence)) = store.publish(event(10)).await else { panic!("it was stored") };
        assert!(sentence.contains("restart the router"), "{sentence}");
        let error = store.set_state(&"a".parse().unwrap(), "s", Some(serde_json::json!(1))).await.unwrap_err();
        assert!(error.message.contains("restart the router") && !error.full);
        assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 1);
        store.close().await;
    }

    #[tokio::test]
    async fn after_a_failed_sync_the_file_is_opened_anew_and_has_what_was_accepted() {
        let (_directory, store) = open();
        store.publish(event(10)).await.unwrap();
        let broken = store.shared.writer.write::<(), _>(move |_| Err(disk_error())).await;
        assert!(matches!(broken, Err(WriteError::Broken { heals: true, .. })), "{broken:?}");
        // It heals by itself, and until then whoever comes is told to try again.
        loop {
            match store.publish(event(10)).await {
                Ok(_) => break,
                Err(TransportError::Unavailable(sentence)) => assert!(sentence.contains("is opened anew"), "{sentence}"),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(store.shared.writer.works(), Ok(()));
        assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 2);
        store.close().await;
    }

    #[tokio::test]
    async fn a_file_that_is_not_what_it_was_when_it_is_opened_anew_is_not_written_again() {
        let (directory, store) = open();
        store.publish(event(10)).await.unwrap();
        let path = directory.path().join("router.db");
        // As if the disk had lost the event.
        Connection::open(&path).unwrap().execute_batch("DELETE FROM events; DELETE FROM sqlite_sequence").unwrap();
        let broken = store.shared.writer.write::<(), _>(move |_| Err(disk_error())).await;
        assert!(matches!(broken, Err(WriteError::Broken { heals: true, .. })), "{broken:?}");
        let sentence = loop {
            match store.publish(event(10)).await {
                Err(TransportError::Refused(sentence)) => break sentence,
                Err(TransportError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => panic!("{other:?}"),
            }
        };
        assert!(sentence.contains("events 1 to 1, which were accepted, are missing"), "{sentence}");
        store.close().await;
    }

    #[tokio::test]
    async fn work_that_waits_when_the_store_is_closed_is_done_and_later_work_is_refused() {
        let (_directory, store) = open();
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.publish(event(1)).await })
            })
            .collect();
        tokio::task::yield_now().await;
        store.close().await;
        for publication in waiting {
            match publication.await.unwrap() {
                Ok(published) => assert!(published.seq.is_some()),
                Err(error) => assert!(error.to_string().contains("closed"), "{error}"),
            }
        }
        assert_eq!(store.shared.writer.write(|_| Ok(())).await, Err(WriteError::Closed));
    }

    #[tokio::test]
    async fn a_writer_that_panics_keeps_the_lock_answers_everybody_and_reading_goes_on() {
        let (directory, store) = open();
        store.publish(event(1)).await.unwrap();
        let panicked: Result<(), _> = store.shared.writer.write(|_: &Writing<'_>| panic!("made to panic")).await;
        assert!(panicked.is_err());
        let TransportError::Refused(sentence) = store.publish(event(1)).await.unwrap_err() else { panic!("it will not heal by itself") };
        assert!(sentence.contains("panicked") && sentence.contains("restart the router"), "{sentence}");
        assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 1);
        let options = || EmbeddedOptions { reserve_bytes: 0, ..EmbeddedOptions::new(directory.path().join("router.db")) };
        assert!(matches!(Embedded::open(options(), Arc::new(Still)), Err(crate::OpenError::HeldByAnother { .. })));
        store.close().await;
        let store = Embedded::open(options(), Arc::new(Still)).unwrap();
        assert_eq!(store.events(&EventQuery::default()).await.unwrap().len(), 1);
    }
}
