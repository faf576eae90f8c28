//! Time, chance and cancellation as ports, so that tests run on a virtual clock and a seed.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use jiff::Timestamp;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where the router reads the time and waits.
///
/// Wall time ([`Clock::now`]) is for records and for due times that outlive the process. Waiting and measuring use the
/// monotonic side, which a change of the system's time does not move.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary start; never goes back.
    fn monotonic(&self) -> Duration;

    /// Resolves when `duration` has passed on the monotonic side. Dropping the future cancels the wait.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Where the router takes its randomness from (jitter, fresh ids).
pub trait Chance: Send + Sync + 'static {
    /// Sixty-four random bits.
    fn next_u64(&self) -> u64;

    /// A number in `0.0..1.0`.
    fn fraction(&self) -> f64 {
        // 53 bits are what an f64 can hold exactly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// The side that cancels. Dropping it does not cancel.
#[derive(Clone, Default)]
pub struct Canceller {
    state: Arc<CancelState>,
}

impl Canceller {
    /// Makes a canceller and the [`Cancellation`] that listens to it.
    #[must_use]
    pub fn new() -> (Self, Cancellation) {
        let canceller = Self::default();
        let listener = canceller.listener();
        (canceller, listener)
    }

    /// Another listener of this canceller.
    #[must_use]
    pub fn listener(&self) -> Cancellation {
        Cancellation { state: Arc::clone(&self.state) }
    }

    /// Cancels; later calls change nothing.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.state.wakers.lock().expect("no code panics while it holds the wakers"));
        for waker in wakers {
            waker.wake();
        }
    }
}

/// The side that listens: is this work still wanted?
///
/// A handler whose work is cancelled by a drain that took too long may return anything: the event goes back to its queue
/// and no attempt is counted.
#[derive(Clone, Default)]
pub struct Cancellation {
    state: Arc<CancelState>,
}

impl Cancellation {
    /// A cancellation that never comes.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// True once cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Resolves when cancelled.
    pub async fn cancelled(&self) {
        Cancelled { state: Arc::clone(&self.state) }.await;
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation").field("cancelled", &self.is_cancelled()).finish()
    }
}

struct Cancelled {
    state: Arc<CancelState>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.state.cancelled.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        let mut wakers = self.state.wakers.lock().expect("no code panics while it holds the wakers");
        // Looked at again under the lock: `cancel` sets the flag before it takes the wakers.
        if self.state.cancelled.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
