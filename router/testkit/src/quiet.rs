//! A runtime that knows when nothing more can happen, for tests that move a [`crate::VirtualClock`] exactly.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

/// A current-thread runtime without timers and sockets that tells when all its tasks wait.
///
/// [`crate::VirtualClock::run_until`] takes a number of yields for silence, on whatever runtime. Here the runtime itself says that
/// nothing can go on, so a test of many steps is quick and exact. Dropping it ends every task where it stands, as the death of a process does.
///
/// ```
/// use std::time::Duration;
/// use router_api::Clock;
/// use router_testkit::{QuietRuntime, VirtualClock};
///
/// let (runtime, clock) = (QuietRuntime::new(), VirtualClock::default());
/// let quiet = runtime.quiet();
/// runtime.block_on(async {
///     let sleeping = tokio::spawn(clock.sleep(Duration::from_secs(1)));
///     quiet.wait().await;
///     assert_eq!(clock.next_due(), Some(Duration::from_secs(1)));
///     clock.advance(Duration::from_secs(1));
///     quiet.wait().await;
///     assert!(sleeping.is_finished());
/// });
/// ```
#[derive(Debug)]
pub struct QuietRuntime {
    runtime: tokio::runtime::Runtime,
    quiet: Quiet,
}

/// Waits until nothing can go on in a [`QuietRuntime`]. One task waits at a time.
#[derive(Debug, Clone, Default)]
pub struct Quiet {
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    waiting: Mutex<Option<Waker>>,
    is_quiet: AtomicBool,
}

impl Gate {
    /// The thread has nothing to do.
    fn parks(&self) {
        let waiting = self.waiting.lock().expect("no code panics while it holds the waker").take();
        if let Some(waiting) = waiting {
            self.is_quiet.store(true, Ordering::SeqCst);
            waiting.wake();
        }
    }
}

impl Default for QuietRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl QuietRuntime {
    /// A runtime without tasks.
    ///
    /// # Panics
    ///
    /// When the system gives it no thread-local resources, which a test cannot go on without.
    #[must_use]
    pub fn new() -> Self {
        let quiet = Quiet::default();
        let gate = Arc::clone(&quiet.gate);
        let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(move || gate.parks()).build();
        Self { runtime: runtime.unwrap_or_else(|error| panic!("no runtime: {error}")), quiet }
    }

    /// For the future that drives the clock.
    #[must_use]
    pub fn quiet(&self) -> Quiet {
        self.quiet.clone()
    }

    /// Runs `future` and the tasks that it spawns.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

impl Quiet {
    /// Resolves when every task of the runtime waits for something.
    pub async fn wait(&self) {
        let mut asked = false;
        poll_fn(|cx| {
            if asked && self.gate.is_quiet.swap(false, Ordering::SeqCst) {
                return Poll::Ready(());
            }
            asked = true;
            *self.gate.waiting.lock().expect("no code panics while it holds the waker") = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn it_is_quiet_only_when_a_long_chain_of_tasks_is_at_its_end() {
        let runtime = QuietRuntime::new();
        let quiet = runtime.quiet();
        let turns = Arc::new(AtomicU32::new(0));
        runtime.block_on(async {
            for _ in 0..3 {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move {
                    for _ in 0..1_000 {
                        tokio::task::yield_now().await;
                        turns.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            quiet.wait().await;
            assert_eq!(turns.load(Ordering::Relaxed), 3_000);
            quiet.wait().await;
        });
    }
}
