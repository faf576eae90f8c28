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
    waiting: Mutex<Waiting>,
}

/// Who waits, each in a place of its own, so that who stops waiting leaves nothing behind: a route's cancellation lives as long as the
/// route, and every handling waits for it.
#[derive(Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Waiting {
    fn enter(&mut self, waker: Waker) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(waker);
                place
            }
            None => {
                self.places.push(Some(waker));
                self.places.len() - 1
            }
        }
    }
}

const NO_PANIC: &str = "no code panics while it holds the wakers";

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
        // Taken out of their places, which stay those of who waits.
        let wakers: Vec<Waker> = self.state.waiting.lock().expect(NO_PANIC).places.iter_mut().filter_map(Option::take).collect();
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
        Cancelled { state: &self.state, place: None }.await;
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation").field("cancelled", &self.is_cancelled()).finish()
    }
}

struct Cancelled<'a> {
    state: &'a CancelState,
    place: Option<usize>,
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.state.cancelled.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        let mut waiting = self.state.waiting.lock().expect(NO_PANIC);
        // Looked at again under the lock: `cancel` sets the flag before it takes the wakers.
        if self.state.cancelled.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        match self.place.map(|place| &mut waiting.places[place]) {
            Some(Some(waker)) => waker.clone_from(cx.waker()),
            Some(taken @ None) => *taken = Some(cx.waker().clone()),
            None => self.place = Some(waiting.enter(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let waker = {
            let mut waiting = self.state.waiting.lock().expect(NO_PANIC);
            waiting.free.push(place);
            waiting.places[place].take()
        };
        // Outside of the lock: with it a whole task may end, which waits for the same thing.
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(future: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
        future.poll(&mut TaskContext::from_waker(Waker::noop()))
    }

    #[test]
    fn who_stops_waiting_for_a_cancellation_leaves_nothing_behind() {
        let (canceller, cancellation) = Canceller::new();
        let mut stays = Box::pin(cancellation.cancelled());
        assert!(poll(stays.as_mut()).is_pending());
        for _ in 0..1_000 {
            let mut goes = Box::pin(cancellation.cancelled());
            assert!(poll(goes.as_mut()).is_pending() && poll(goes.as_mut()).is_pending());
        }
        let (places, waiting) = {
            let waiting = canceller.state.waiting.lock().unwrap();
            (waiting.places.len(), waiting.places.iter().flatten().count())
        };
        assert_eq!((places, waiting), (2, 1));
        canceller.cancel();
        assert!(poll(stays.as_mut()).is_ready() && poll(Box::pin(cancellation.cancelled()).as_mut()).is_ready());
    }

    #[test]
    fn a_cancellation_wakes_all_who_wait_and_nobody_who_left() {
        struct Counts(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Counts {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (canceller, cancellation) = Canceller::new();
        let counts = [(); 3].map(|()| Arc::new(Counts(0.into())));
        let mut waits: Vec<_> = counts
            .iter()
            .map(|count| {
                let mut wait = Box::pin(cancellation.cancelled());
                assert!(wait.as_mut().poll(&mut TaskContext::from_waker(&Waker::from(Arc::clone(count)))).is_pending());
                wait
            })
            .collect();
        drop(waits.remove(1));
        canceller.cancel();
        assert_eq!(counts.map(|count| count.0.load(Ordering::SeqCst)), [1, 0, 1]);
    }
}
