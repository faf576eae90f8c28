//! The open store: what its parts share, and its end. How it is opened stands in `opening.rs`, what it does in `transport.rs`,
//! `admin.rs` and `store.rs`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use router_api::{
    Clock, DecodeLimits, StoreError, TransportError,
    failpoint::{self, Failpoint},
};
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    EmbeddedOptions, Finding, OpenError,
    archive::Look,
    damage::FINDINGS_MAX,
    disk::Floor,
    intake::Bindings,
    opening::{self, Manner, Opened},
    queue::{RouteQueue, locked},
    readers::{ReadError, Readers},
    running::RunningFile,
    store_time::StoreTime,
    writer::{WriteError, Writer, Writing, job},
};

/// Bodies on their way to the writer at most, in KiB: 64 MiB, or one body of the hard maximum.
pub(crate) const BODIES_WAITING_KIB: usize = EmbeddedOptions::BODY_BYTES_HARD_MAX / 1024;

/// A durable queue and store in one file. One value serves both as [`router_api::Transport`] and as [`router_api::Store`].
///
/// End it with [`router_api::Transport::close`]. Dropping it stops its threads too (and waits for the commit that runs), but the
/// next opening then takes it for one whose process died.
pub struct Embedded {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Option<Vec<JoinHandle<()>>>>,
}

/// What the parts of an open store share.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) time: Arc<StoreTime>,
    pub(crate) decode: DecodeLimits,
    pub(crate) writer: Writer,
    /// For what a route waits for: the rows of its queue, its inbox.
    pub(crate) near: Readers,
    /// For what a person waits for; a long query here delays no route.
    pub(crate) far: Readers,
    pub(crate) running: RunningFile,
    pub(crate) floor: Floor,
    pub(crate) binding: tokio::sync::Mutex<()>,
    pub(crate) bodies_waiting: Arc<Semaphore>,
    pub(crate) visited: AtomicU64,
    bindings: RwLock<Arc<Bindings>>,
    queues: Mutex<HashMap<i64, Arc<RouteQueue>>>,
    handed_before: i64,
    findings: Mutex<Vec<Finding>>,
    is_closed: AtomicBool,
}

/// What the store has done since it was opened, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measures {
    /// Commits of the writer; several callers share one.
    pub commits: u64,
    /// Rows of queues that were looked at in order to hand something out.
    pub rows_visited: u64,
}

impl Embedded {
    /// Opens the store, and makes it if it is not there.
    ///
    /// Reads all of it first, to see whether it is what was written: milliseconds, and for a large store as long as its disk needs. In async
    /// code prefer [`Embedded::open_waiting`], which blocks no task.
    ///
    /// # Errors
    ///
    /// At once if another process has it; otherwise see [`OpenError`].
    pub fn open(options: EmbeddedOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        Self::open_as(options, clock, Manner::Work)
    }

    fn open_as(options: EmbeddedOptions, clock: Arc<dyn Clock>, manner: Manner) -> Result<Arc<Self>, OpenError> {
        let lock = opening::take_lock(&options)?;
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let path = options.path.clone();
        let writer = opening::start(options, lock, clock, manner, move |opened| drop(sender.send(opened)))?;
        let opened = receiver.recv().unwrap_or_else(|_| Err(opening::starter_failed(&path)))?;
        Ok(Self::assemble(opened, writer))
    }

    /// Opens a store to look at it. As [`Embedded::open`], but a large store (`look_bytes_min`) that was read as a whole within a day, closed
    /// cleanly and not changed since is not read again before the first write: see `closed.rs` for what such a look does not see. Nothing that
    /// runs may be marked in a store that was opened so; a router opens its store by [`Embedded::open`].
    ///
    /// # Errors
    ///
    /// As [`Embedded::open`].
    pub fn open_to_look(options: EmbeddedOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        Self::open_as(options, clock, Manner::Look)
    }

    /// Opens the store, and waits up to `wait` for another process to leave it.
    ///
    /// # Errors
    ///
    /// [`OpenError::HeldByAnother`] when the time is over; otherwise see [`OpenError`].
    pub async fn open_waiting(options: EmbeddedOptions, clock: Arc<dyn Clock>, wait: Duration) -> Result<Arc<Self>, OpenError> {
        let until = clock.monotonic().saturating_add(wait);
        let lock = loop {
            match opening::take_lock(&options) {
                Err(error @ OpenError::HeldByAnother { .. }) => {
                    let left = until.saturating_sub(clock.monotonic());
                    if left.is_zero() {
                        return Err(error);
                    }
                    clock.sleep(options.lock_poll.clamp(Duration::from_millis(1), left.max(Duration::from_millis(1)))).await;
                }
                other => break other?,
            }
        };
        let (sender, receiver) = oneshot::channel();
        let path = options.path.clone();
        let writer = opening::start(options, lock, clock, Manner::Work, move |opened| drop(sender.send(opened)))?;
        let opened = receiver.await.unwrap_or_else(|_| Err(opening::starter_failed(&path)))?;
        Ok(Self::assemble(opened, writer))
    }

    fn assemble(opened: Opened, writer_thread: JoinHandle<()>) -> Arc<Self> {
        let Opened { path, time, decode, writer, near, far, running, floor, bindings, handed_before, findings, mut threads } = opened;
        threads.push(writer_thread);
        let shared = Shared {
            path,
            time,
            decode,
            writer,
            near,
            far,
            running,
            floor,
            binding: tokio::sync::Mutex::default(),
            bodies_waiting: Arc::new(Semaphore::new(BODIES_WAITING_KIB)),
            visited: AtomicU64::new(0),
            bindings: RwLock::new(Arc::new(bindings)),
            queues: Mutex::default(),
            handed_before,
            findings: Mutex::new(findings),
            is_closed: AtomicBool::new(false),
        };
        Arc::new(Self { shared: Arc::new(shared), threads: Mutex::new(Some(threads)) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What is wrong with the store, as far as it was noticed. At most 1,000; later ones are in the log only.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        locked(&self.shared.findings).clone()
    }

    /// What it has done so far.
    #[must_use]
    pub fn measures(&self) -> Measures {
        Measures { commits: self.shared.writer.commits(), rows_visited: self.shared.visited.load(Ordering::Relaxed) }
    }

    /// Ends the sessions and then the threads. Later calls return at once, perhaps before the first has ended.
    pub(crate) async fn end(&self) {
        let Some(threads) = self.begin_end() else { return };
        failpoint::pass(Failpoint::EndBefore);
        let unfinished: Vec<i64> = self.shared.all_queues().iter().flat_map(|queue| queue.end_any()).collect();
        if let Err(error) = self.shared.note_handed(unfinished).await {
            tracing::debug!(error = error.sentence(), "what was in hand is not marked as handed out");
        }
        failpoint::pass(Failpoint::EndNoted);
        let is_used = self.shared.writer.is_used();
        let ended = if is_used { self.shared.writer.write(|writing| crate::schema::set_meta(writing.conn, crate::opening::CLEAN, 1)).await } else { Ok(()) };
        failpoint::pass(Failpoint::EndMarked);
        match ended {
            // Whoever only looked has nothing to end.
            Ok(()) if !is_used => {}
            Ok(()) => {
                if let Err(error) = self.shared.running.clear() {
                    tracing::debug!(%error, "the file of running handlings is not emptied");
                }
            }
            Err(error) => tracing::warn!(error = error.sentence(), "the store is closed as if its process had died"),
        }
        failpoint::pass(Failpoint::EndCleared);
        self.shared.stop();
        let (sender, receiver) = oneshot::channel();
        // Joining blocks, for as long as the last commit and the last query take.
        let joiner = std::thread::Builder::new().name("store-end".to_owned()).spawn(move || {
            join(threads);
            let _ = sender.send(());
        });
        match joiner {
            Ok(_) => drop(receiver.await),
            Err(error) => tracing::warn!(%error, "not waiting for the threads of the store"),
        }
    }

    /// The threads, for the one call that ends them.
    fn begin_end(&self) -> Option<Vec<JoinHandle<()>>> {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        locked(&self.threads).take()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(threads) = self.begin_end() {
            for queue in self.shared.all_queues() {
                queue.end_any();
            }
            self.shared.stop();
            join(threads);
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the store panicked");
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.near.stop();
        self.far.stop();
        self.writer.stop();
    }

    /// True once the end has begun.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// The bindings in force.
    pub(crate) fn bindings(&self) -> Arc<Bindings> {
        Arc::clone(&self.bindings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in their place.
    pub(crate) fn set_bindings(&self, bindings: Bindings) {
        *self.bindings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(bindings);
    }

    /// The memory of a route's queue.
    pub(crate) fn queue(&self, route: i64) -> Arc<RouteQueue> {
        let mut queues = locked(&self.queues);
        Arc::clone(queues.entry(route).or_insert_with(|| Arc::new(RouteQueue::new(route, self.handed_before))))
    }

    /// The same, if anybody has asked for it yet: without a consumer there is nobody to tell.
    pub(crate) fn queue_if_known(&self, route: i64) -> Option<Arc<RouteQueue>> {
        locked(&self.queues).get(&route).map(Arc::clone)
    }

    /// What is in hand and what runs, to be told beside what the file says.
    pub(crate) fn look(&self) -> Look {
        let in_hand = self.all_queues().iter().flat_map(|queue| queue.all_in_hand()).collect();
        Look { now: self.time.now(), in_hand, running: self.running.marked() }
    }

    fn all_queues(&self) -> Vec<Arc<RouteQueue>> {
        locked(&self.queues).values().map(Arc::clone).collect()
    }

    /// Has the keys of the inbox read, and waits for none of it.
    pub(crate) async fn read_inbox_keys(self: &Arc<Self>) {
        let begin = |writing: &Writing<'_>| {
            writing.inbox_keys.begin();
            Ok(())
        };
        let shared = Arc::downgrade(self);
        let fill = move |begun: Result<(), WriteError>| {
            let Some(shared) = shared.upgrade() else { return };
            let keeper = Arc::downgrade(&shared);
            let read = move |conn: &Connection| {
                let Some(shared) = keeper.upgrade() else { return };
                let keys = shared.writer.inbox_keys();
                if let Err(error) = keys.fill(conn, || !shared.is_closed()) {
                    tracing::debug!(%error, "the keys of the inbox are not known: the file is asked for each");
                    keys.give_up();
                }
            };
            if begun.is_err() || !shared.far.begin(read) {
                shared.writer.inbox_keys().give_up();
            }
        };
        self.writer.send(job(begin, fill)).await;
    }

    /// Remembers over a restart that these were handed out.
    pub(crate) async fn note_handed(&self, ids: Vec<i64>) -> Result<(), WriteError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.writer
            .write(move |writing| {
                let mut statement = writing.conn.prepare_cached("UPDATE deliveries SET handed = 1 WHERE id = ?1 AND state IN (0, 1)")?;
                ids.iter().try_for_each(|id| statement.execute([id]).map(|_| ()))
            })
            .await
    }

    /// Keeps a finding and logs it.
    pub(crate) fn found(&self, finding: Finding) {
        tracing::error!(store = %self.path.display(), "{finding}");
        let mut findings = locked(&self.findings);
        if findings.len() < FINDINGS_MAX && !findings.contains(&finding) {
            findings.push(finding);
        }
    }
}

/// What a failed write means to whoever publishes or administers.
pub(crate) fn refusal(error: WriteError) -> TransportError {
    match error {
        WriteError::Full(sentence) => TransportError::Full(sentence),
        WriteError::Failed(sentence) | WriteError::Broken { sentence, heals: true } => TransportError::Unavailable(sentence),
        WriteError::Broken { .. } | WriteError::Closed => TransportError::Refused(error.sentence()),
    }
}

/// What a failed read means to them.
pub(crate) fn unreadable(error: &ReadError) -> TransportError {
    match error {
        ReadError::Failed(sentence) => TransportError::Unavailable(sentence.clone()),
        ReadError::Closed => TransportError::Refused(error.sentence()),
    }
}

/// What a failed write means to whoever keeps something in the store.
pub(crate) fn not_kept(error: WriteError) -> StoreError {
    StoreError { full: matches!(error, WriteError::Full(_)), message: error.sentence() }
}

/// What a failed read means to them.
pub(crate) fn not_found(error: ReadError) -> StoreError {
    StoreError { full: false, message: error.sentence() }
}
