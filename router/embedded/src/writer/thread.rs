//! What runs on the writer's thread: it takes what has come, makes one commit of it, and answers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use router_api::failpoint::{self, Failpoint};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::{
    COMPANY_MAX, GROUP_MAX, Work, WriteError, WriterShared, Writing,
    reopening::{Reopening, disk_error},
};
use crate::{checkpoint::Checkpoints, disk::Reserve, retention::Retention, schema, side_file::SideFile, store_time::StoreTime};

/// What comes to the writer thread.
pub(crate) struct WriterInbox {
    pub(super) receiver: mpsc::Receiver<Box<dyn Work>>,
    pub(super) shared: Arc<WriterShared>,
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

impl WriterInbox {
    pub(super) fn new(receiver: mpsc::Receiver<Box<dyn Work>>, shared: Arc<WriterShared>) -> Self {
        Self { receiver, shared, waiting: Vec::new() }
    }

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
        let _ = self.shared.thread.set(std::thread::current());
        let mut company = None;
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
            self.take_more(&mut group);
            if let Some(company) = company.take().filter(|_| waits_for_company(&group)) {
                self.await_company(&mut group, company);
            }
            if !group.is_empty() {
                company = Company::after(&group);
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

    /// What is there already, as far as it fits into a group.
    fn take_more(&mut self, group: &mut Vec<Box<dyn Work>>) {
        let mut weight = weight(group);
        while weight < GROUP_MAX
            && let Ok(work) = self.receiver.try_recv()
        {
            weight += work.weight();
            group.push(work);
        }
    }

    /// Gives other work a moment to come along.
    fn await_company(&mut self, group: &mut Vec<Box<dyn Work>>, company: Company) {
        let longest = Duration::from_micros(self.shared.company_us.load(Ordering::Relaxed));
        let begun = Instant::now();
        let (mut count, mut came) = (group.len(), begun);
        self.shared.awaits_company.store(true, Ordering::SeqCst);
        loop {
            self.shared.in_company.store(group.len(), Ordering::SeqCst);
            // Either this sees work that was handed over, or whoever handed it over sees that it is waited for.
            fence(Ordering::SeqCst);
            if !self.receiver.is_empty() && waits_for_company(group) {
                self.take_more(group);
                continue;
            }
            if !waits_for_company(group) || self.shared.stopping.load(Ordering::SeqCst) {
                break;
            }
            let now = Instant::now();
            if group.len() > count {
                (count, came) = (group.len(), now);
            }
            let until = (begun + longest).min(came + longest / company.part());
            if until <= now {
                break;
            }
            std::thread::park_timeout(until - now);
        }
        self.shared.awaits_company.store(false, Ordering::SeqCst);
        self.take_more(group);
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
            let writing = Writing { conn: &desk.conn, now: desk.time.now(), inbox_keys: &self.shared.inbox_keys };
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

/// What is likely to come soon, by what came with the last commit.
#[derive(Debug, Clone, Copy)]
enum Company {
    /// More events came, so there may be more: the longest wait.
    Events,
    /// Several ends came together: for as long as they go on coming.
    Ends,
}

impl Company {
    fn after(group: &[Box<dyn Work>]) -> Option<Self> {
        if group.iter().any(|work| work.adds_events()) {
            Some(Self::Events)
        } else if group.len() > 1 && group.iter().all(|work| work.waits_for_company()) {
            Some(Self::Ends)
        } else {
            None
        }
    }

    /// Of the longest wait, after which nothing more is expected if nothing came.
    fn part(self) -> u32 {
        match self {
            Self::Events => 1,
            Self::Ends => 4,
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

/// Nothing else, and not yet company enough.
fn waits_for_company(group: &[Box<dyn Work>]) -> bool {
    (1..COMPANY_MAX).contains(&group.len()) && group.iter().all(|work| work.waits_for_company())
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
