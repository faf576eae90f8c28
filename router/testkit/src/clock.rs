//! A clock that stands still until a test moves it.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use router_api::{BoxFuture, Clock};
use tokio::sync::Notify;

/// How often a helper of [`VirtualClock`] yields to the executor before it takes a silence for "nothing more will happen now".
///
/// One yield lets every task that is ready run once, so this is the longest chain of tasks waking each other that is followed.
const YIELDS: u32 = 64;

/// The most steps that one call of [`VirtualClock::run_until`] or [`VirtualClock::pass`] takes.
const STEPS_MAX: u32 = 1_000_000;

/// A [`Clock`] that tests move by hand. Clones share the time.
///
/// A task that sleeps is a *sleeper* from the first poll of its sleep until it is woken or dropped. [`VirtualClock::advance`]
/// moves the time in one go; [`VirtualClock::pass`] stops at every sleeper and lets the tasks run; [`VirtualClock::run_until`]
/// moves it as far as a future needs.
///
/// ```
/// use std::time::Duration;
/// use router_api::Clock;
/// use router_testkit::VirtualClock;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let clock = VirtualClock::default();
/// let before = clock.now();
/// clock.run_until(clock.sleep(Duration::from_secs(3_600))).await;
/// assert_eq!(clock.now().duration_since(before).as_hours(), 1);
/// # });
/// ```
#[derive(Clone)]
pub struct VirtualClock {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Told whenever a sleeper comes or goes, or the time moves.
    changed: Notify,
    patience: Duration,
}

struct State {
    wall: Timestamp,
    monotonic: Duration,
    /// By due time, then by order of arrival.
    sleepers: BTreeMap<(Duration, u64), Waker>,
    next_id: u64,
    /// Counts what happens at the clock, so that silence can be told.
    activity: u64,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the clock")
    }
}

impl Default for VirtualClock {
    /// Starts on 2026-01-02 at 03:04:05 UTC.
    fn default() -> Self {
        Self::new("2026-01-02T03:04:05Z".parse().expect("the literal is a time"))
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("VirtualClock").field("wall", &state.wall).field("monotonic", &state.monotonic).field("sleepers", &state.sleepers.len()).finish()
    }
}

impl VirtualClock {
    /// A clock whose wall side shows `start` and whose monotonic side shows 0.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self::build(start, Duration::ZERO)
    }

    /// For tests with real threads beside the executor (a database writer, a child process): [`VirtualClock::run_until`] and
    /// [`VirtualClock::pass`] move the time only after nothing has happened at the clock for `patience` of real time.
    #[must_use]
    pub fn patient(start: Timestamp, patience: Duration) -> Self {
        Self::build(start, patience)
    }

    fn build(wall: Timestamp, patience: Duration) -> Self {
        let state = State { wall, monotonic: Duration::ZERO, sleepers: BTreeMap::new(), next_id: 0, activity: 0 };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Notify::new(), patience }) }
    }

    /// Moves both sides by `duration` and wakes the sleepers that are due, in the order of their due times.
    ///
    /// The woken tasks run when the caller next awaits; until then they see the end of the period. See [`VirtualClock::pass`].
    ///
    /// # Panics
    ///
    /// When the wall side leaves the range of [`Timestamp`].
    pub fn advance(&self, duration: Duration) {
        let target = self.inner.lock().monotonic + duration;
        self.advance_to(target);
    }

    fn advance_to(&self, target: Duration) {
        let mut woken = Vec::new();
        {
            let mut state = self.inner.lock();
            let by = target.saturating_sub(state.monotonic);
            let by = SignedDuration::try_from(by).expect("a test does not advance by billions of years");
            state.wall = state.wall.checked_add(by).expect("a test stays before the year 10000");
            state.monotonic = state.monotonic.max(target);
            state.activity += 1;
            while let Some(entry) = state.sleepers.first_entry() {
                if entry.key().0 > target {
                    break;
                }
                woken.push(entry.remove());
            }
        }
        // Outside the lock: a waker may run anything.
        for waker in woken {
            waker.wake();
        }
        self.inner.changed.notify_waiters();
    }

    /// Moves the wall side only, as a person or a time server does. Sleepers sleep on.
    ///
    /// # Panics
    ///
    /// When the wall side leaves the range of [`Timestamp`].
    pub fn jump_wall(&self, by: SignedDuration) {
        let mut state = self.inner.lock();
        state.wall = state.wall.checked_add(by).expect("a test stays before the year 10000");
    }

    /// How long it is until the first sleeper is due; zero where one is due already, `None` when nobody sleeps.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let state = self.inner.lock();
        state.sleepers.first_key_value().map(|(&(due, _), _)| due.saturating_sub(state.monotonic))
    }

    /// How many sleepers there are.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.inner.lock().sleepers.len()
    }

    /// Resolves when there are at least `at_least` sleepers.
    pub async fn wait_for_sleeper(&self, at_least: usize) {
        self.wait_until(|state| state.sleepers.len() >= at_least).await;
    }

    /// Resolves when somebody's sleep ends exactly `duration` from now.
    pub async fn wait_until_sleeping(&self, duration: Duration) {
        self.wait_until(|state| {
            let due = state.monotonic + duration;
            state.sleepers.range((due, 0)..=(due, u64::MAX)).next().is_some()
        })
        .await;
    }

    async fn wait_until(&self, mut holds: impl FnMut(&State) -> bool) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // Listens before it looks, so that no change in between is missed.
            changed.as_mut().enable();
            if holds(&self.inner.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Lets `duration` pass: stops at every sleeper that becomes due on the way and lets the tasks run there.
    ///
    /// Has the limits of [`VirtualClock::run_until`].
    ///
    /// # Panics
    ///
    /// After a million stops.
    pub async fn pass(&self, duration: Duration) {
        let target = self.monotonic() + duration;
        for _ in 0..STEPS_MAX {
            self.silence().await;
            let now = self.monotonic();
            match self.next_due().map(|left| now + left) {
                Some(due) if due <= target => self.advance_to(due),
                _ => {
                    self.advance_to(target);
                    self.silence().await;
                    // What ran in the last silence may have begun a sleep that is due already; all others stay.
                    if self.next_due().is_none_or(|left| !left.is_zero()) {
                        return;
                    }
                }
            }
        }
        panic!("more than {STEPS_MAX} sleeps ended while {duration:?} passed: something sleeps for no time at all");
    }

    /// Runs `future` to its end and moves the time to the next sleeper whenever nothing else can go on.
    ///
    /// "Nothing else can go on" means: the executor was yielded to 64 times and nothing happened at this clock. That is exact on a
    /// current-thread runtime as long as tasks wait only for each other and for this clock. Where other threads work (a
    /// multi-thread runtime, `spawn_blocking`, a database's writer, real sockets) the time may run ahead of them:
    /// use [`VirtualClock::patient`] there, and do not assert on exact times. When nobody sleeps, it waits in real time.
    ///
    /// # Panics
    ///
    /// After a million moves without an end of `future`.
    pub async fn run_until<F: Future>(&self, future: F) -> F::Output {
        tokio::pin!(future);
        for _ in 0..STEPS_MAX {
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = self.silence() => {}
            }
            match self.next_due() {
                Some(left) => self.advance(left),
                None => {
                    tokio::select! {
                        biased;
                        output = &mut future => return output,
                        () = self.wait_until(|state| !state.sleepers.is_empty()) => {}
                    }
                }
            }
        }
        panic!("still not finished after {STEPS_MAX} moves of the clock, at {:?}", self.monotonic());
    }

    /// Resolves when nothing has happened at the clock for a while.
    async fn silence(&self) {
        loop {
            let before = self.inner.lock().activity;
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
            if !self.inner.patience.is_zero() {
                tokio::time::sleep(self.inner.patience).await;
            }
            if self.inner.lock().activity == before {
                return;
            }
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.inner.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.inner.lock().monotonic
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let due = self.inner.lock().monotonic.saturating_add(duration);
        Box::pin(Sleep { inner: Arc::clone(&self.inner), due, id: None })
    }
}

struct Sleep {
    inner: Arc<Inner>,
    due: Duration,
    /// Its number, once it is a sleeper.
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let inner = Arc::clone(&self.inner);
        let mut state = inner.lock();
        if state.monotonic >= self.due {
            if let Some(id) = self.id.take() {
                state.sleepers.remove(&(self.due, id));
            }
            return Poll::Ready(());
        }
        let id = match self.id {
            Some(id) => id,
            None => {
                let id = state.next_id;
                state.next_id += 1;
                state.activity += 1;
                self.id = Some(id);
                inner.changed.notify_waiters();
                id
            }
        };
        state.sleepers.insert((self.due, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut state = self.inner.lock();
            if state.sleepers.remove(&(self.due, id)).is_some() {
                state.activity += 1;
                drop(state);
                self.inner.changed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_sleep_ends_exactly_when_its_time_has_passed() {
        let clock = VirtualClock::default();
        let mut sleep = clock.sleep(SECOND);
        assert!((&mut sleep).now_or_never().is_none());
        assert_eq!((clock.sleepers(), clock.next_due()), (1, Some(SECOND)));
        clock.advance(SECOND - Duration::from_nanos(1));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_nanos(1));
        assert!((&mut sleep).now_or_never().is_some());
        assert_eq!((clock.sleepers(), clock.next_due()), (0, None));
    }

    #[tokio::test]
    async fn a_dropped_sleep_is_no_sleeper() {
        let clock = VirtualClock::default();
        let mut sleep = clock.sleep(SECOND);
        assert!((&mut sleep).now_or_never().is_none());
        drop(sleep);
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn a_jump_of_the_wall_moves_no_sleeper() {
        let clock = VirtualClock::default();
        let before = clock.now();
        let mut sleep = clock.sleep(SECOND);
        assert!((&mut sleep).now_or_never().is_none());
        clock.jump_wall(SignedDuration::from_hours(-1));
        assert!((&mut sleep).now_or_never().is_none());
        assert_eq!(clock.now().duration_since(before), SignedDuration::from_hours(-1));
        assert_eq!(clock.monotonic(), Duration::ZERO);
        clock.advance(SECOND);
        assert!(sleep.now_or_never().is_some());
    }

    #[tokio::test]
    async fn sleepers_wake_in_the_order_of_their_due_times() {
        let clock = VirtualClock::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for seconds in [3_u64, 1, 2, 1] {
            let (clock, woken) = (clock.clone(), Arc::clone(&woken));
            tasks.push(tokio::spawn(async move {
                clock.sleep(Duration::from_secs(seconds)).await;
                woken.lock().unwrap().push(seconds);
            }));
        }
        clock.wait_for_sleeper(4).await;
        clock.advance(Duration::from_secs(5));
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), [1, 1, 2, 3]);
    }

    #[tokio::test]
    async fn passing_time_stops_at_every_tick_of_a_loop_that_sleeps() {
        let clock = VirtualClock::default();
        let ticks = Arc::new(Mutex::new(Vec::new()));
        let ticker = tokio::spawn({
            let (clock, ticks) = (clock.clone(), Arc::clone(&ticks));
            async move {
                loop {
                    clock.sleep(SECOND).await;
                    ticks.lock().unwrap().push(clock.monotonic().as_millis());
                }
            }
        });
        clock.pass(Duration::from_millis(3_500)).await;
        assert_eq!(*ticks.lock().unwrap(), [1_000, 2_000, 3_000]);
        assert_eq!(clock.monotonic(), Duration::from_millis(3_500));
        ticker.abort();
    }

    #[tokio::test]
    async fn running_until_an_end_moves_the_time_only_as_far_as_needed() {
        let clock = VirtualClock::default();
        let other = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(1_000)).await }
        });
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(SECOND).await;
                clock.sleep(SECOND).await;
                sender.send(clock.monotonic()).unwrap();
            }
        });
        assert_eq!(clock.run_until(receiver).await.unwrap(), 2 * SECOND);
        assert_eq!(clock.monotonic(), 2 * SECOND);
        other.abort();
    }

    #[tokio::test]
    async fn running_until_an_end_waits_for_a_real_thread_when_nobody_sleeps() {
        let clock = VirtualClock::default();
        let answer = clock.run_until(tokio::task::spawn_blocking(|| 42)).await.unwrap();
        assert_eq!((answer, clock.monotonic()), (42, Duration::ZERO));
    }

    #[tokio::test]
    async fn a_test_can_wait_for_a_sleep_of_a_given_length() {
        let clock = VirtualClock::default();
        let task = tokio::spawn({
            let clock = clock.clone();
            async move {
                tokio::task::yield_now().await;
                clock.sleep(7 * SECOND).await;
            }
        });
        clock.wait_until_sleeping(7 * SECOND).await;
        clock.advance(7 * SECOND);
        task.await.unwrap();
    }
}
