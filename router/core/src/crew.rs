//! Runs the handlers of one route on their own runtime, and tells when one has taken too long.
//!
//! A handler gets a task of its own. Where the last ones were done the moment they were begun ([`QUICK`], [`QUICK_AFTER`]), the next ones
//! take turns in one task instead, which spares two thread switches for each event; one that does wait after all gets its task then.
//!
//! Quick ones are asked for in larger numbers than the route may run at once, so that one task takes many turns before it ends. What has not
//! begun by then counts for nothing: as soon as a turn was not quick, those that would be too many come back as [`Came::NotBegun`].
//!
//! Taking turns is serial, so it must never cost what tasks side by side would give:
//!
//! * A turn that takes longer than [`QUICK`] ends the turns of those that come later. A handler that computes is therefore run side by side
//!   with its neighbours, and a quick one is done sooner than the route could ask for the next.
//! * A handler that blocks its thread, or computes for long, after so many quick ones holds up those that stand behind it at that moment,
//!   and only until the second look ([`LOOK_AFTER`]): then they get tasks of their own. So do those that come later, as soon as that was
//!   seen twice without a long row of quick ones in between ([`STUCK`]).
//!
//! Nothing here waits for time by itself: [`Crew::next_look`] says when [`Crew::look`] wants to be called.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
    time::Duration,
};

use router_api::Clock;
use tokio::runtime::Handle;

pub(crate) use self::seat::{Came, Work, work};
use self::seat::{Returned, Seat, Seated};

mod seat;
#[cfg(test)]
mod tests;

/// So many handlers in a row must have been done at once before the next ones take turns.
const QUICK_AFTER: u32 = 64;

/// More than so many do not count …
const QUICK_MAX: u32 = 2 * QUICK_AFTER;

/// … and one that was not makes up for so many: a thread that was stood aside for another program looks slow as well.
const SLOW: u32 = QUICK_AFTER / 3;

/// … and one that stood still in its turn for so many, so that the crew of a route whose handlers were quick for long forgets that only with
/// the second one: a thread that is stood aside for milliseconds looks like a handler that blocks it.
const STUCK: u32 = QUICK_MAX - QUICK_AFTER - 1;

/// A handler that takes longer than this before it is done or waits is not quick. About what a route's loop needs for an event: serial
/// turns of that length keep up with it.
const QUICK: Duration = Duration::from_micros(20);

/// Whoever stands behind a handler does not wait for it longer than twice this.
const LOOK_AFTER: Duration = Duration::from_millis(2);

/// So many of those who wait for turns that were taken are woken together.
const TOLD_MAX: usize = 32;

/// Turns that are taken one after the other before other tasks of the runtime have theirs.
const TURNS: u32 = 32;

/// The handlers of one route.
pub(crate) struct Crew {
    runtime: Handle,
    clock: Arc<dyn Clock>,
    desk: Arc<Desk>,
}

struct Desk {
    /// So many may have begun at the same time.
    at_once: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Will take turns, oldest first.
    waiting: VecDeque<Arc<Seat>>,
    /// The task in which turns are taken, if there is one; an older one has been given up.
    taking: Option<u64>,
    tasks: u64,
    /// A handler has its turn now.
    in_turn: bool,
    /// Who waits for those that have had their turn: woken together.
    told: Vec<Waker>,
    /// When to look whether turns are still taken.
    look_at: Option<Duration>,
    /// Turns begun, and how many that were at the last look.
    turns: u64,
    turns_seen: u64,
    /// Handlers that were done at once; see [`SLOW`].
    quick: u32,
    /// Those that somebody waits for, begun or not.
    live: usize,
    /// Whose time runs, by when it is over.
    deadlines: BTreeMap<(Duration, u64), Arc<Seat>>,
    numbers: u64,
}

impl State {
    /// Gives the task up in which turns are taken. Returns who stands behind, and who is to be told.
    fn give_up_turns(&mut self) -> (VecDeque<Arc<Seat>>, Vec<Waker>) {
        if std::mem::take(&mut self.in_turn) {
            self.quick = self.quick.saturating_sub(STUCK);
        }
        // A task that has no thread says nothing of handlers.
        (self.taking, self.look_at) = (None, None);
        (std::mem::take(&mut self.waiting), std::mem::take(&mut self.told))
    }

    /// Takes those out of `waiting` that would be more than `at_once` with those that have begun.
    fn surplus(&mut self, at_once: usize) -> VecDeque<Arc<Seat>> {
        self.waiting.retain(|seat| !seat.is_unwanted());
        let begun = self.live.saturating_sub(self.waiting.len());
        let may = at_once.saturating_sub(begun).min(self.waiting.len());
        self.waiting.split_off(may)
    }

    fn learn(&mut self, is_quick: bool) {
        self.quick = if is_quick { (self.quick + 1).min(QUICK_MAX) } else { self.quick.saturating_sub(SLOW) };
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the desk")
    }

    /// A handler was done at once, or was not, in a turn of the task `turn` or in a task of its own. After one that was not, of those that
    /// wait for their turns as many stay as may run at once.
    fn learn(&self, is_quick: bool, turn: Option<u64>) {
        let surplus = {
            let mut state = self.state();
            if turn.is_some() && state.taking != turn {
                // Counted when its task was given up.
                return;
            }
            state.learn(is_quick);
            if is_quick { VecDeque::new() } else { state.surplus(self.at_once) }
        };
        surplus.iter().for_each(|seat| tell(seat.end(Came::NotBegun)));
    }

    /// Whose turn it is, for the task `number`, which has ended the turn of `before`. `None` ends that task.
    fn next(&self, number: u64, before: Option<Waker>) -> Option<Arc<Seat>> {
        let mut state = self.state();
        let (next, wakers) = if state.taking == Some(number) {
            if before.is_some() {
                state.learn(true);
            }
            state.told.extend(before);
            let next = state.waiting.pop_front();
            state.in_turn = next.is_some();
            match next {
                Some(_) => state.turns += 1,
                None => (state.taking, state.look_at) = (None, None),
            }
            let all = if next.is_none() || state.told.len() >= TOLD_MAX { std::mem::take(&mut state.told) } else { Vec::new() };
            (next, all)
        } else {
            (None, before.into_iter().collect())
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        next
    }

    /// The task `number` lets others have their turn, and may not come back: whoever has ended the turn of `before` is not kept in its hands.
    fn rest(&self, number: u64, before: Option<Waker>) {
        let mut state = self.state();
        if state.taking == Some(number) {
            state.in_turn = false;
            if before.is_some() {
                state.learn(true);
            }
            state.told.extend(before);
        } else {
            drop(state);
            tell(before);
        }
    }
}

impl Crew {
    /// Nobody runs yet; so many may at once.
    pub(crate) fn new(runtime: Handle, clock: Arc<dyn Clock>, at_once: usize) -> Self {
        Self { runtime, clock, desk: Arc::new(Desk { at_once: at_once.max(1), state: Mutex::default() }) }
    }

    /// May be asked for more than run at once.
    pub(crate) fn is_quick(&self) -> bool {
        self.desk.state().quick >= QUICK_AFTER
    }

    /// Runs `work`, whose time is over at `deadline`; one that is to take turns begins with the next [`Crew::begin`]. Dropping what comes
    /// back ends it.
    pub(crate) fn run(&self, work: Work, deadline: Duration) -> Running<'_> {
        let seat = Arc::new(Seat::of(work));
        let mut state = self.desk.state();
        state.numbers += 1;
        state.live += 1;
        let key = (deadline, state.numbers);
        let takes_turns = state.quick >= QUICK_AFTER;
        let is_surplus = !takes_turns && state.live > self.desk.at_once;
        if !is_surplus {
            state.deadlines.insert(key, Arc::clone(&seat));
        }
        if takes_turns {
            state.waiting.push_back(Arc::clone(&seat));
        }
        drop(state);
        if is_surplus {
            tell(seat.end(Came::NotBegun));
        } else if !takes_turns {
            self.begin_alone(&seat);
        }
        Running { crew: self, seat, key }
    }

    /// Who waits for a turn gets none any more.
    pub(crate) fn begin_no_more(&self) {
        let waiting = std::mem::take(&mut self.desk.state().waiting);
        waiting.iter().for_each(|seat| tell(seat.end(Came::NotBegun)));
    }

    /// Lets those begin who wait for their turn. Called when all have been asked for that may run now, so that they are begun together:
    /// a task that is woken for each of them is faster than who asks, and costs a thread switch each time.
    pub(crate) fn begin(&self) {
        let mut state = self.desk.state();
        if state.taking.is_some() || state.waiting.is_empty() {
            return;
        }
        state.tasks += 1;
        let number = state.tasks;
        state.taking = Some(number);
        state.turns_seen = state.turns;
        state.look_at = Some(self.clock.monotonic() + LOOK_AFTER);
        drop(state);
        self.take_turns(number);
    }

    /// When [`Crew::look`] has something to do next.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let state = self.desk.state();
        let deadline = state.deadlines.first_key_value().map(|((at, _), _)| *at);
        deadline.into_iter().chain(state.look_at).min()
    }

    /// Tells those whose time is over, and frees those who stand behind a handler that blocks its thread.
    pub(crate) fn look(&self, now: Duration) {
        let mut late = Vec::new();
        let (mut stuck, mut surplus, mut told) = (VecDeque::new(), VecDeque::new(), Vec::new());
        {
            let mut state = self.desk.state();
            while let Some(first) = state.deadlines.first_entry().filter(|first| first.key().0 <= now) {
                late.push(first.remove());
            }
            if state.look_at.is_some_and(|at| at <= now) {
                if state.turns == state.turns_seen {
                    surplus = state.surplus(self.desk.at_once);
                    (stuck, told) = state.give_up_turns();
                } else {
                    state.turns_seen = state.turns;
                    state.look_at = Some(now + LOOK_AFTER);
                }
            }
        }
        late.iter().filter_map(|seat| seat.is_late()).chain(told).for_each(Waker::wake);
        surplus.iter().for_each(|seat| tell(seat.end(Came::NotBegun)));
        for seat in stuck {
            self.begin_alone(&seat);
        }
    }

    /// In a task of its own.
    fn begin_alone(&self, seat: &Arc<Seat>) {
        let Some(work) = seat.take() else { return };
        let at_work = AtWork { work, seated: Seated(Arc::clone(seat)) };
        let task = self.runtime.spawn(at_work.whole(Arc::clone(&self.desk), Arc::clone(&self.clock)));
        seat.has_task(task.abort_handle());
    }

    /// One task in which all that wait take turns.
    fn take_turns(&self, number: u64) {
        let standing = Standing { desk: Arc::clone(&self.desk), number };
        let (runtime, clock) = (self.runtime.clone(), Arc::clone(&self.clock));
        self.runtime.spawn(async move {
            let standing = standing;
            let (mut turns, mut ended) = (0, None);
            while let Some(seat) = standing.desk.next(number, ended.take()) {
                turns += 1;
                if let Some(work) = seat.take() {
                    ended = AtWork { work, seated: Seated(seat) }.turn(&standing, &*clock, &runtime).await;
                }
                if turns % TURNS == 0 {
                    standing.desk.rest(number, ended.take());
                    tokio::task::yield_now().await;
                }
            }
        });
    }
}

/// A handler in somebody's hands. Dropped before who waits for it is told.
struct AtWork {
    work: Work,
    seated: Seated,
}

impl AtWork {
    /// As far as it comes without waiting.
    async fn first(&mut self, desk: &Desk, clock: &dyn Clock, turn: Option<u64>) -> Poll<Returned> {
        let begun = clock.monotonic();
        let polled = poll_fn(|cx| Poll::Ready(self.work.as_mut().poll(cx))).await;
        let took = clock.monotonic().saturating_sub(begun);
        let is_quick = polled.is_ready() && took <= QUICK;
        if !is_quick || turn.is_none() {
            desk.learn(is_quick, turn);
        }
        polled
    }

    async fn whole(mut self, desk: Arc<Desk>, clock: Arc<dyn Clock>) {
        match self.first(&desk, &*clock, None).await {
            Poll::Ready(returned) => tell(self.seated.0.end(Came::Back(Box::new(returned)))),
            Poll::Pending => self.rest().await,
        }
    }

    async fn rest(mut self) {
        let returned = self.work.as_mut().await;
        tell(self.seated.0.end(Came::Back(Box::new(returned))));
    }

    /// Returns who is to be told that it is done. One that waits gets a task of its own.
    async fn turn(mut self, standing: &Standing, clock: &dyn Clock, runtime: &Handle) -> Option<Waker> {
        match self.first(&standing.desk, clock, Some(standing.number)).await {
            Poll::Ready(returned) => return self.seated.0.end(Came::Back(Box::new(returned))),
            Poll::Pending if self.seated.0.is_unwanted() => {
                // What a handler drops is its own code; its panic must not reach those that stand behind it.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(self)));
            }
            Poll::Pending => {
                let seat = Arc::clone(&self.seated.0);
                let task = runtime.spawn(self.rest());
                seat.has_task(task.abort_handle());
            }
        }
        None
    }
}

fn tell(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The task in which turns are taken. If it ends before its time, with its runtime, nobody waits for it in vain.
struct Standing {
    desk: Arc<Desk>,
    number: u64,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let (left, told) = {
            let mut state = self.desk.state();
            if state.taking != Some(self.number) {
                return;
            }
            state.give_up_turns()
        };
        told.into_iter().for_each(Waker::wake);
        for seat in left {
            seat.abandon();
        }
    }
}

/// A handler that was asked for.
pub(crate) struct Running<'a> {
    crew: &'a Crew,
    seat: Arc<Seat>,
    key: (Duration, u64),
}

impl Running<'_> {
    /// Waits for its end, or the end of its time.
    pub(crate) async fn came(&mut self) -> Came {
        poll_fn(|cx| self.seat.poll_end(cx, false)).await
    }

    /// Waits until it is dropped or done, after [`Running::abandon`].
    pub(crate) async fn gone(&mut self) {
        poll_fn(|cx| self.seat.poll_end(cx, true)).await;
    }

    /// Nobody wants it any more: it is dropped as soon as it lets go of its thread.
    pub(crate) fn abandon(&self) {
        self.seat.abandon();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let seat = {
            let mut state = self.crew.desk.state();
            state.live -= 1;
            state.deadlines.remove(&self.key)
        };
        drop(seat);
        self.seat.abandon();
    }
}
