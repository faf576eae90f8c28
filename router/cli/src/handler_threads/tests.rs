use std::{sync::mpsc, time::Instant};

use super::*;
use crate::SystemClock;

/// Long enough for a slow machine; whoever waits so long has found something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime beside the handlers', as the program has one.
fn beside() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn watched(threads: &HandlerThreads) -> Runtime {
    let io = beside();
    io.spawn(threads.watch(Arc::new(SystemClock)));
    io
}

/// Blocks a thread until what comes back is dropped.
fn block(handle: &Handle, begun: &mpsc::Sender<()>) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let begun = begun.clone();
    handle.spawn(async move {
        let _ = begun.send(());
        let _ = held.recv();
    });
    release
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn others_run_though_more_handlers_block_than_there_are_threads_until_the_reserve_is_used_up() {
    let threads = HandlerThreads::with(2, 5).unwrap();
    let io = watched(&threads);
    let (begun, has_begun) = mpsc::channel();
    // One thread is left.
    let blocked: Vec<_> = (0..6).map(|_| block(&threads.handle(), &begun)).collect();
    for _ in &blocked {
        has_begun.recv_timeout(PATIENCE).expect("it has a thread");
    }
    let (tell, told) = mpsc::channel();
    for _ in 0..100 {
        let tell = tell.clone();
        threads.handle().spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = tell.send(());
        });
    }
    for _ in 0..100 {
        told.recv_timeout(PATIENCE).expect("others run");
    }
    assert_eq!(threads.reserve.0.held(), 0);
    drop(blocked);
    threads.end(PATIENCE);
    io.shutdown_background();
}

#[test]
fn timers_go_on_though_the_thread_that_waited_for_them_is_blocked() {
    let threads = HandlerThreads::with(2, 0).unwrap();
    let io = watched(&threads);
    let (tell, told) = mpsc::channel::<()>();
    let (release, held) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    threads.handle().spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = begun.send(());
        let _ = held.recv();
    });
    threads.handle().spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let _ = tell.send(());
    });
    has_begun.recv_timeout(PATIENCE).expect("it blocks its thread");
    told.recv_timeout(PATIENCE).expect("the other one is woken");
    drop(release);
    threads.end(PATIENCE);
    io.shutdown_background();
}

#[test]
fn the_reserve_stays_held_while_handlers_wait_or_come_back() {
    let threads = HandlerThreads::with(2, 3).unwrap();
    until("the reserve is held", || threads.reserve.0.held() == 3);
    let mut watch = Watch::over(threads.handle(), Arc::clone(&threads.reserve.0));
    let io = beside();
    for _ in 0..50 {
        let tasks: Vec<_> = (0..20).map(|_| threads.handle().spawn(async { tokio::time::sleep(Duration::from_millis(1)).await })).collect();
        io.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        until("a thread comes to what is spawned", || watch.probe.as_ref().is_none_or(JoinHandle::is_finished));
        watch.look();
    }
    assert_eq!(threads.reserve.0.held(), 3);
    until("at rest, nobody is looked after", || {
        until("a thread comes to what is spawned", || watch.probe.as_ref().is_none_or(JoinHandle::is_finished));
        !watch.look()
    });
    io.shutdown_background();
    threads.end(PATIENCE);
}

#[test]
fn the_end_waits_for_no_thread_of_the_reserve() {
    let threads = HandlerThreads::with(1, 4).unwrap();
    until("the reserve is held", || threads.reserve.0.held() == 4);
    // Waits for all threads.
    drop(threads);
}
