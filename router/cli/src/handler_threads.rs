//! The threads that handlers run on: one for each processor, and a reserve for handlers that block theirs.
//!
//! The threads of the reserve are there from the start, each held by a task that does nothing but wait: nothing wakes them, so what comes
//! goes from thread to thread as if they were not there. [`HandlerThreads::watch`] lets them go when nobody has come to a task for
//! [`LOOK`]. They are not held again: a thread may carry tasks that have let others have their turn, which would be held with it. Handlers
//! that have blocked all threads once will do so again.
//!
//! The watch also mends what one blocked thread can do. Of the threads of a runtime one waits for timers and sockets in the name of all; if
//! that one is woken by a single timer or socket, whose handler then blocks it, nobody takes its place, until a task comes from outside.
//! And a task may come from outside while the only other thread is on its way to rest: that one counts as awake still, so nobody is woken
//! for the task, and it has looked for the last time, so the task lies there until the next one comes.

use std::{
    io, iter,
    num::NonZero,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use router_api::Clock;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};
use tracing::warn;

/// More handlings than these may not block their threads at once: those beyond stop all handlers. Each costs some 30 KiB, asked for or not.
const RESERVE: usize = 32;

/// A thread that has been at work for so long without a pause may be blocked; whoever waits for a thread for so long gets another one.
const LOOK: Duration = Duration::from_millis(100);

/// Until the next look where no handler is at work.
const LOOK_AT_REST: Duration = Duration::from_secs(1);

/// A runtime for handlers.
pub struct HandlerThreads {
    // Dropped first: the runtime waits for its threads.
    reserve: OpenAtLast,
    runtime: Runtime,
}

impl HandlerThreads {
    /// As many threads as the machine has processors, and the reserve.
    ///
    /// # Errors
    ///
    /// If the runtime cannot be built.
    pub fn start() -> io::Result<Self> {
        Self::with(available_parallelism().map_or(1, NonZero::get), RESERVE)
    }

    fn with(processors: usize, reserve: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(processors + reserve).thread_name("handlers").enable_all().build()?;
        let held = Arc::new(Reserve::default());
        for _ in 0..reserve {
            let held = Arc::clone(&held);
            runtime.spawn(async move { held.hold() });
        }
        Ok(Self { reserve: OpenAtLast(held), runtime })
    }

    /// What handlers are spawned on.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Lets threads of the reserve go when all others are blocked. To be run on another runtime; never ends by itself.
    pub fn watch(&self, clock: Arc<dyn Clock>) -> impl Future<Output = ()> + Send + use<> {
        let mut watch = Watch::over(self.handle(), Arc::clone(&self.reserve.0));
        async move {
            loop {
                let next = if watch.look() { LOOK } else { LOOK_AT_REST };
                clock.sleep(next).await;
            }
        }
    }

    /// Ends what runs, and waits for so long for handlers that do not give their thread back.
    pub fn end(self, within: Duration) {
        let Self { reserve, runtime } = self;
        drop(reserve);
        runtime.shutdown_timeout(within);
    }
}

/// Threads that are held until they are asked for.
#[derive(Default)]
struct Reserve {
    state: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    threads: usize,
    /// So many of them may go.
    freed: usize,
    /// All may.
    is_over: bool,
}

impl Reserve {
    fn state(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self) {
        let mut state = self.state();
        state.threads += 1;
        state = self.changed.wait_while(state, |state| state.freed == 0 && !state.is_over).unwrap_or_else(PoisonError::into_inner);
        state.freed = state.freed.saturating_sub(1);
        state.threads -= 1;
    }

    /// Those that are still held, without those that are about to go.
    fn held(&self) -> usize {
        let state = self.state();
        state.threads - state.freed.min(state.threads)
    }

    /// Returns how many of them go.
    fn free(&self, threads: usize) -> usize {
        let mut state = self.state();
        let free = threads.min(state.threads - state.freed.min(state.threads));
        state.freed += free;
        drop(state);
        self.changed.notify_all();
        free
    }
}

struct OpenAtLast(Arc<Reserve>);

impl Drop for OpenAtLast {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

struct Watch {
    handle: Handle,
    reserve: Arc<Reserve>,
    /// How often each thread had gone to rest or come back at the last look.
    turns: Vec<u64>,
    /// Done when a thread has come to it.
    probe: Option<JoinHandle<()>>,
    has_warned: bool,
}

impl Watch {
    fn over(handle: Handle, reserve: Arc<Reserve>) -> Self {
        Self { handle, reserve, turns: Vec::new(), probe: None, has_warned: false }
    }

    /// False if no handler is at work.
    fn look(&mut self) -> bool {
        let metrics = self.handle.metrics();
        let turns: Vec<u64> = (0..metrics.num_workers()).map(|thread| metrics.worker_park_unpark_count(thread)).collect();
        // An even number is that of a thread at work, and so are those of the reserve.
        let held = self.reserve.held();
        let at_work = turns.iter().filter(|turn| *turn % 2 == 0).count().saturating_sub(held);
        let stay_at_work = iter::zip(&turns, &self.turns).filter(|(turn, before)| *turn % 2 == 0 && turn == before).count().saturating_sub(held);
        self.turns = turns;
        if self.probe.as_ref().is_some_and(|probe| !probe.is_finished()) {
            self.let_go(stay_at_work.max(1));
        } else {
            // Whoever comes to it waits for timers and sockets next.
            self.probe = (stay_at_work > 0).then(|| self.handle.spawn(async {}));
        }
        at_work > 0 || self.probe.is_some()
    }

    fn let_go(&mut self, blocked: usize) {
        let more = self.reserve.free(available_parallelism().map_or(1, NonZero::get));
        let left = self.reserve.held();
        if more > 0 {
            warn!("{blocked} handlings keep their threads, and all threads that there are for handlers: there are {more} more now, and {left} in reserve");
        } else if !self.has_warned {
            self.has_warned = true;
            warn!("{blocked} handlings keep their threads, and all threads that there are for handlers: none is left in reserve, and all routes wait");
        }
    }
}

#[cfg(test)]
mod tests;
