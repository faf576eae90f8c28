use std::{
    sync::{Mutex, mpsc},
    time::Instant,
};

use jiff::Timestamp;
use router_api::Outcome;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::crew::{Came, Work, work};

/// The time of this machine.
struct Real(Instant);

impl Clock for Real {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// No test waits so long for what is to come.
const LIMIT: Duration = Duration::from_secs(120);

const NEVER: Duration = Duration::from_secs(1_000_000);

/// Threads where handlers block theirs: see the tests of the crew.
const TO_SPARE: usize = 4;

/// A route's loop, as far as handlings go.
struct Loop {
    handlers: Option<Runtime>,
    handlings: Handlings<bool>,
}

impl Loop {
    fn new(threads: usize) -> Self {
        let handlers = Builder::new_multi_thread().worker_threads(threads).build().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(Real(Instant::now()));
        let crew = Arc::new(Crew::new(handlers.handle().clone(), Arc::clone(&clock), 1_000));
        Self { handlers: Some(handlers), handlings: Handlings::new(crew, clock) }
    }

    fn push(&mut self, work: Work, deadline: Duration) {
        let crew = Arc::clone(self.handlings.crew());
        self.handlings.push(Box::pin(async move { matches!(crew.run(work, deadline).came().await, Came::Back(_)) }));
    }

    /// Lets so many end; says how many of them came back.
    async fn end(&mut self, count: usize) -> usize {
        let mut came_back = 0;
        for _ in 0..count {
            let ended = tokio::time::timeout(LIMIT, self.handlings.next()).await.expect("a handling ends in time");
            came_back += usize::from(ended.expect("as many are under way"));
        }
        came_back
    }

    /// So many handlers that are done at once, a few at a time.
    async fn warm(&mut self, count: usize) {
        for _ in 0..count / 4 {
            (0..4).for_each(|_| self.push(at_once(), NEVER));
            assert_eq!(self.end(4).await, 4);
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(handlers) = self.handlers.take() {
            handlers.shutdown_background();
        }
    }
}

fn at_once() -> Work {
    work(async { Ok(Outcome::Done) })
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_after_many_quick_ones_stops_no_other_one_of_its_route() {
    let mut route = Loop::new(TO_SPARE);
    route.warm(400).await;
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    route.push(
        work(async move {
            let _ = held.lock().unwrap().recv();
            Ok(Outcome::Done)
        }),
        NEVER,
    );
    (0..7).for_each(|_| route.push(at_once(), NEVER));
    // The one that blocks does so until all the others are done, those that stood behind it and those that come later.
    assert_eq!(route.end(7).await, 7);
    route.warm(400).await;
    release.send(()).unwrap();
    assert_eq!(route.end(1).await, 1);
    assert!(route.handlings.is_empty());
}

#[tokio::test]
async fn handlers_that_wait_for_each_other_after_many_quick_ones_meet() {
    let mut route = Loop::new(2);
    route.warm(400).await;
    let meet = Arc::new(tokio::sync::Barrier::new(8));
    for _ in 0..8 {
        let meet = Arc::clone(&meet);
        route.push(
            work(async move {
                meet.wait().await;
                Ok(Outcome::Done)
            }),
            NEVER,
        );
    }
    assert_eq!(route.end(8).await, 8);
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_late_in_time_and_so_is_one_that_never_ends() {
    let mut route = Loop::new(TO_SPARE);
    route.warm(400).await;
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let soon = route.handlings.clock.monotonic() + Duration::from_millis(50);
    route.push(
        work(async move {
            let _ = held.lock().unwrap().recv();
            Ok(Outcome::Done)
        }),
        soon,
    );
    route.push(work(std::future::pending()), soon);
    assert_eq!(route.end(2).await, 0, "neither came back");
    drop(release);
    route.warm(8).await;
}

#[tokio::test]
async fn what_is_under_way_goes_on_while_something_else_is_waited_for() {
    let mut route = Loop::new(1);
    let (tell, told) = tokio::sync::oneshot::channel();
    route.push(
        work(async move {
            let _ = tell.send(());
            Ok(Outcome::Done)
        }),
        NEVER,
    );
    let (told, ended) = tokio::time::timeout(LIMIT, route.handlings.during(told)).await.expect("the handler is begun");
    assert!(told.is_ok());
    assert_eq!(ended.len() + route.end(1 - ended.len()).await, 1);
}
