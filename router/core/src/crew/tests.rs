use std::{
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    task::Context,
    thread,
};

use jiff::Timestamp;
use router_api::{BoxFuture, Outcome};
use tokio::runtime::{Builder, Runtime};

use super::*;

/// Set by hand.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Hand {
    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

const NEVER: Duration = Duration::from_secs(1_000_000);

/// Where handlers block their threads. Of two threads, one that is on its way to rest is not told of what comes, since it counts as awake;
/// nor does it look again, since it was not the one that looks for others. If the other one is then blocked, what came lies there until
/// the next comes. (In the program the watch over the handlers' threads sees to that.)
const TO_SPARE: usize = 4;

fn crew(threads: usize) -> (Runtime, Hand, Crew) {
    let runtime = Builder::new_multi_thread().worker_threads(threads).build().unwrap();
    let clock = Hand::default();
    let crew = Crew::new(runtime.handle().clone(), Arc::new(clock.clone()), 8);
    (runtime, clock, crew)
}

fn at_once() -> Work {
    work(async { Ok(Outcome::Done) })
}

fn is_done(came: &Came) -> bool {
    matches!(came, Came::Back(returned) if matches!(**returned, Ok(Ok(Outcome::Done))))
}

/// Asks for it and lets it begin.
fn begun(crew: &Crew, work: Work, deadline: Duration) -> Running<'_> {
    let running = crew.run(work, deadline);
    crew.begin();
    running
}

/// Until handlers take turns.
async fn warmed(crew: &Crew) {
    for _ in 0..QUICK_AFTER {
        assert!(is_done(&begun(crew, at_once(), NEVER).came().await));
    }
    // The last one is told before it is counted.
    assert!(crew.desk.state().quick >= QUICK_AFTER);
    assert!(crew.desk.state().deadlines.is_empty());
}

#[tokio::test]
async fn handlers_that_are_done_at_once_take_turns_and_each_is_told() {
    let (runtime, _, crew) = crew(2);
    warmed(&crew).await;
    let mut running: Vec<_> = (0..500).map(|_| crew.run(at_once(), NEVER)).collect();
    crew.begin();
    for running in &mut running {
        assert!(is_done(&running.came().await));
    }
    drop(running);
    assert!(crew.next_look().is_none());
    runtime.shutdown_background();
}

#[tokio::test]
async fn those_behind_a_handler_that_blocks_its_thread_are_freed_by_the_next_look() {
    let (runtime, clock, crew) = crew(TO_SPARE);
    warmed(&crew).await;
    let (release, held) = mpsc::channel::<()>();
    let blocked = Arc::new(AtomicBool::new(false));
    let mut blocks = begun(
        &crew,
        work({
            let blocked = Arc::clone(&blocked);
            async move {
                blocked.store(true, Ordering::SeqCst);
                let _ = held.recv();
                Ok(Outcome::Done)
            }
        }),
        NEVER,
    );
    while !blocked.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let mut behind = begun(&crew, at_once(), NEVER);
    let look = crew.next_look().expect("somebody stands behind");
    clock.advance(look - clock.monotonic());
    // The turn that blocks was begun after the first look was planned; the second one sees that nothing has moved.
    crew.look(clock.monotonic());
    clock.advance(LOOK_AFTER);
    crew.look(clock.monotonic());
    assert!(is_done(&behind.came().await));
    assert!(crew.desk.state().quick < QUICK_AFTER, "whoever comes now has a task of its own");
    release.send(()).unwrap();
    assert!(is_done(&blocks.came().await));
    runtime.shutdown_background();
}

/// A crew whose turns are taken when the test says so, and that has learnt that its handlers are quick.
fn by_hand(quick: u32) -> (Runtime, Hand, Crew) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let clock = Hand::default();
    let crew = Crew::new(runtime.handle().clone(), Arc::new(clock.clone()), 8);
    crew.desk.state().quick = quick;
    (runtime, clock, crew)
}

/// Two looks that see no turn begin.
fn looked_twice(crew: &Crew, clock: &Hand) {
    for _ in 0..2 {
        clock.advance(LOOK_AFTER);
        crew.look(clock.monotonic());
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn whoever_has_had_a_turn_is_told_though_the_task_that_took_it_does_not_come_back() {
    let (runtime, _, crew) = by_hand(QUICK_AFTER);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    // Once as many turns as are taken at a time, and one that stands behind them.
    let mut running: Vec<_> = (0..=TURNS).map(|_| crew.run(at_once(), NEVER)).collect();
    for running in &mut running {
        assert!(running.seat.poll_end(&Context::from_waker(&waker), false).is_pending());
    }
    crew.begin();
    // As far as the task lets others have their turn.
    runtime.block_on(async {});
    runtime.block_on(tokio::task::yield_now());
    assert_eq!(crew.desk.state().turns, u64::from(TURNS), "the last one has not had its turn");
    drop(runtime);
    assert_eq!(woken.0.load(Ordering::SeqCst), TURNS + 1, "each is told of its end");
    for running in &mut running[..TURNS as usize] {
        assert!(matches!(running.seat.poll_end(&Context::from_waker(&waker), false), Poll::Ready(Came::Back(_))));
    }
}

#[test]
fn a_task_that_no_thread_has_come_to_frees_those_who_wait_and_says_nothing_of_their_handlers() {
    let (runtime, clock, crew) = by_hand(QUICK_AFTER);
    let mut running: Vec<_> = (0..3).map(|_| crew.run(at_once(), NEVER)).collect();
    crew.begin();
    looked_twice(&crew, &clock);
    assert!(crew.desk.state().waiting.is_empty(), "each has a task of its own");
    assert!(crew.is_quick());
    runtime.block_on(async {
        for running in &mut running {
            assert!(is_done(&running.came().await));
        }
    });
}

#[tokio::test]
async fn of_handlers_that_were_quick_for_long_one_that_stands_still_is_forgiven_and_a_second_one_is_not() {
    let (runtime, clock, crew) = crew(TO_SPARE);
    crew.desk.state().quick = QUICK_MAX;
    for stands_still in [1, 2] {
        let (release, held) = mpsc::channel::<()>();
        let (tell, has_begun) = tokio::sync::oneshot::channel::<()>();
        let mut still = begun(
            &crew,
            work(async move {
                let _ = tell.send(());
                let _ = held.recv();
                Ok(Outcome::Done)
            }),
            NEVER,
        );
        has_begun.await.unwrap();
        looked_twice(&crew, &clock);
        assert_eq!(crew.is_quick(), stands_still == 1);
        release.send(()).unwrap();
        assert!(is_done(&still.came().await));
    }
    runtime.shutdown_background();
}

#[tokio::test]
async fn with_a_handler_that_waits_or_blocks_only_as_many_begin_as_may_run_at_once() {
    let (runtime, clock, crew) = crew(TO_SPARE);
    for blocks in [false, true] {
        warmed(&crew).await;
        let (release, held) = mpsc::channel::<()>();
        let begun = Arc::new(AtomicU32::new(0));
        let slow = {
            let begun = Arc::clone(&begun);
            work(async move {
                begun.fetch_add(1, Ordering::SeqCst);
                if blocks {
                    let _ = held.recv();
                } else {
                    std::future::pending::<()>().await;
                }
                Ok(Outcome::Done)
            })
        };
        let mut slow = crew.run(slow, NEVER);
        let mut behind: Vec<_> = (0..20)
            .map(|_| {
                let begun = Arc::clone(&begun);
                crew.run(
                    work(async move {
                        begun.fetch_add(1, Ordering::SeqCst);
                        Ok(Outcome::Done)
                    }),
                    NEVER,
                )
            })
            .collect();
        crew.begin();
        while begun.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        if blocks {
            for _ in 0..2 {
                clock.advance(LOOK_AFTER);
                crew.look(clock.monotonic());
            }
        }
        let mut came = [0, 0];
        for behind in &mut behind {
            match behind.came().await {
                Came::Back(_) => came[0] += 1,
                Came::NotBegun => came[1] += 1,
                Came::Late | Came::Gone => panic!("neither is wanted"),
            }
        }
        assert_eq!((came, begun.load(Ordering::SeqCst)), ([7, 13], 8), "eight may run at once, one of them is slow");
        drop(behind);
        let _ = release.send(());
        slow.abandon();
        slow.gone().await;
    }
    runtime.shutdown_background();
}

#[tokio::test]
async fn who_waits_for_a_turn_when_nothing_is_to_begin_any_more_comes_back() {
    let (runtime, _, crew) = crew(1);
    warmed(&crew).await;
    let mut waits = crew.run(at_once(), NEVER);
    crew.begin_no_more();
    assert!(matches!(waits.came().await, Came::NotBegun));
    crew.begin();
    assert!(is_done(&begun(&crew, at_once(), NEVER).came().await));
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_handler_that_waits_in_its_turn_holds_nobody_up_and_is_dropped_when_it_is_abandoned() {
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (runtime, clock, crew) = crew(1);
    warmed(&crew).await;
    let dropped = Arc::new(AtomicU32::new(0));
    let waits = |until| {
        let guard = Dropped(Arc::clone(&dropped));
        begun(
            &crew,
            work(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
                Ok(Outcome::Done)
            }),
            until,
        )
    };
    let mut late = waits(Duration::from_secs(60));
    let mut unwanted = waits(NEVER);
    assert!(is_done(&begun(&crew, at_once(), NEVER).came().await));
    unwanted.abandon();
    unwanted.gone().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(crew.next_look(), Some(Duration::from_secs(60)));
    clock.advance(Duration::from_secs(60));
    crew.look(clock.monotonic());
    assert!(matches!(late.came().await, Came::Late));
    late.abandon();
    late.gone().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    runtime.shutdown_background();
}

#[tokio::test]
async fn with_their_runtime_gone_nobody_waits_for_handlers_in_vain() {
    let (runtime, _, crew) = crew(1);
    warmed(&crew).await;
    let mut waits = begun(&crew, work(async { std::future::pending().await }), NEVER);
    runtime.shutdown_background();
    assert!(matches!(waits.came().await, Came::Gone));
    assert!(matches!(begun(&crew, at_once(), NEVER).came().await, Came::Gone));
    crew.desk.learn(false, None);
    assert!(matches!(begun(&crew, at_once(), NEVER).came().await, Came::Gone));
}

#[tokio::test]
async fn a_panic_is_caught_in_a_turn_as_in_a_task() {
    let (runtime, _, crew) = crew(1);
    for _ in 0..2 {
        let mut panics = begun(&crew, work(async { panic!("told") }), NEVER);
        assert!(matches!(panics.came().await, Came::Back(returned) if returned.is_err()));
        drop(panics);
        warmed(&crew).await;
    }
    runtime.shutdown_background();
}

#[tokio::test]
async fn handlers_that_compute_for_longer_than_a_turn_may_take_are_run_side_by_side() {
    let (runtime, clock, crew) = crew(TO_SPARE);
    warmed(&crew).await;
    let computes = |clock: &Hand| {
        let clock = clock.clone();
        work(async move {
            clock.advance(QUICK * 2);
            Ok(Outcome::Done)
        })
    };
    assert!(is_done(&begun(&crew, computes(&clock), NEVER).came().await));
    // Each of these waits for the other one: in one task, neither would come to its end.
    let meet = Arc::new(std::sync::Barrier::new(2));
    let mut both: Vec<_> = (0..2)
        .map(|_| {
            let meet = Arc::clone(&meet);
            crew.run(
                work(async move {
                    meet.wait();
                    Ok(Outcome::Done)
                }),
                NEVER,
            )
        })
        .collect();
    crew.begin();
    for running in &mut both {
        assert!(is_done(&running.came().await));
    }
    drop(both);
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_past_its_time_is_told_late_and_the_turns_go_on_without_it() {
    let (runtime, clock, crew) = crew(TO_SPARE);
    warmed(&crew).await;
    let (release, held) = mpsc::channel::<()>();
    let (tell, blocks_now) = tokio::sync::oneshot::channel::<()>();
    let mut blocks = begun(
        &crew,
        work(async move {
            let _ = tell.send(());
            let _ = held.recv();
            Ok(Outcome::Done)
        }),
        Duration::from_secs(1),
    );
    blocks_now.await.unwrap();
    clock.advance(Duration::from_secs(1));
    crew.look(clock.monotonic());
    assert!(matches!(blocks.came().await, Came::Late));
    blocks.abandon();
    clock.advance(LOOK_AFTER);
    crew.look(clock.monotonic());
    warmed(&crew).await;
    assert!(is_done(&begun(&crew, at_once(), NEVER).came().await));
    assert!(crew.desk.state().taking.is_none(), "the turns of the new task are over");
    release.send(()).unwrap();
    blocks.gone().await;
    drop(blocks);
    warmed(&crew).await;
    runtime.shutdown_background();
}
