//! The router is asked to end.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    sync::Arc,
    time::{Duration, Instant},
};

use router_tests::{Broker, Service};
use rustix::process::Signal;

use crate::{
    deaths::{CONCURRENCY, running},
    load::{Load, publish, publish_more},
    oracle::settle,
    outages::chance,
    world::{QUEUE, World, kept, size, until},
};

#[test]
fn drained_restarts_with_a_full_window_cost_no_attempt_and_repeat_nothing() {
    let prefetch = size(100, 500);
    let world = World::new(Broker::shared().vhost(), &kept(&format!("dedup = false\nprefetch = {prefetch}")));
    let log = world.log("kept");
    let mut service = world.serve();
    let mut confirmed = BTreeSet::new();
    // More than a window of each restart's own: of what came before it, all may be handled when the gate is shut.
    let (restarts, events) = (30, size(120, 1_000));
    for restart in 0..restarts {
        // All that may run runs and does not end, and the rest of the window is in hand behind it.
        world.shut_gate();
        confirmed.extend(publish_more(&world.vhost.url(), "kept.event", restart * events..(restart + 1) * events));
        until("as many run as may", || (running(&log.entries()).len() == CONCURRENCY).then_some(()));
        until("the window is full", || world.vhost.queue(QUEUE).filter(|queue| queue.unacked == prefetch));
        service.signal(Signal::TERM);
        world.open_gate();
        let _ = service.stop_asked();
        service = world.serve();
    }
    let account = settle("drained restarts", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn an_end_under_load_repeats_nothing() {
    let world = World::new(Broker::shared().vhost(), &kept("dedup = false"));
    let log = world.log("kept");
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut service = world.serve();
    let load = Load::start(&world.vhost.url(), "kept.event", size(150, 400));
    for _ in 0..size(4, 40) {
        log.await_growth(1 + chance(&mut seed, 3_000));
        let _ = service.stop();
        service = world.serve();
    }
    let account = settle("ends under load", &world, &load.end());
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn an_end_while_the_brokers_disk_stands_still_repeats_nothing() {
    let broker = Broker::start();
    let world = World::new(broker.vhost(), &kept("dedup = false"));
    let log = world.log("kept");
    let mut confirmed = BTreeSet::new();
    let (rounds, events) = (size(2, 20), 600);
    for round in 0..rounds {
        let service = world.serve();
        world.shut_gate();
        confirmed.extend(publish_more(&world.vhost.url(), "kept.event", round * events..(round + 1) * events));
        until("the window is full", || world.vhost.queue(QUEUE).filter(|queue| queue.unacked >= 450));
        broker.hold_log();
        world.open_gate();
        // Some four hundred events, each of which is told when it begins and when it is done: acknowledged in many more than 32 parts.
        log.await_growth(400 * 2 * 20);
        service.signal(Signal::TERM);
        // As long as it would take to end without asking. It waits for ten seconds.
        std::thread::park_timeout(Duration::from_millis(700));
        broker.release_log();
        let _ = service.stop_asked();
    }
    let service = world.serve();
    let account = settle("ends while the broker's disk stands still", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn an_end_during_a_reconnect_and_in_the_middle_of_the_start_repeats_nothing() {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "", &kept("dedup = false"));
    let mut seed = 0x1656_67B1_9E37_79F9_u64;
    for _ in 0..size(2, 10) {
        let mut service = world.serve();
        proxy.refuse();
        let _ = service.wait_for("it is tried again").expect("the loss is told");
        std::thread::park_timeout(Duration::from_millis(chance(&mut seed, 1_500)));
        let begun = Instant::now();
        let _ = service.stop();
        say!("asked to end while the broker is away: ended after {:?}", begun.elapsed());
        proxy.heal();
    }
    // All waits there while it starts, so that it may end in the middle of taking it up.
    let confirmed = publish(&world.vhost.url(), "kept.event", 600);
    for _ in 0..size(6, 50) {
        let mut starting = Service::begin(world.command());
        std::thread::park_timeout(Duration::from_millis(chance(&mut seed, 2_000)));
        starting.signal(Signal::TERM);
        let status = starting.wait();
        // Before it listens to signals there is nothing to end in good order.
        assert!(status.code() == Some(0) || status.signal() == Some(15), "{status:?}:\n{}", starting.log().join("\n"));
    }
    let service = world.serve();
    let account = settle("ends during the start", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn an_end_while_the_broker_is_away_comes_and_loses_nothing_of_what_was_in_hand() {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "", &kept("dedup = false\nprefetch = 200\ndrain_ms = 3_000"));
    let log = world.log("kept");
    let _ = world.serve().stop();
    let confirmed = publish(&world.vhost.url(), "kept.event", size(600, 3_000));
    // What runs ends in time the first time, and does not the second time.
    for in_time in [true, false] {
        let mut service = world.serve();
        log.await_growth(500);
        world.shut_gate();
        until("as many run as may", || (running(&log.entries()).len() == CONCURRENCY).then_some(()));
        proxy.refuse();
        let _ = service.wait_for("is lost").expect("the loss is told");
        service.signal(Signal::TERM);
        let begun = Instant::now();
        if in_time {
            world.open_gate();
        }
        let _ = service.stop_asked();
        say!("asked to end with {CONCURRENCY} running and the broker away: ended after {:?}", begun.elapsed());
        if !in_time {
            world.open_gate();
        }
        proxy.heal();
    }
    let service = world.serve();
    let account = settle("ends while the broker is away", &world, &confirmed);
    // What was in hand when the broker went comes again; what was cut short counts as no attempt.
    assert!(account.repeated <= 2 * 200 && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    let _ = service.stop();
}
