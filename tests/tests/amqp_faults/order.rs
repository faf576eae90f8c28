//! The order of each lane while its events fail, and while the configuration changes.

use std::{collections::BTreeSet, time::Duration};

use router_tests::{AmqpClient, Broker, amqp_client::persistent};
use rustix::process::Signal;

use crate::{
    deaths::{CONCURRENCY, running},
    load::{LANES, Load, body, publish},
    oracle::settle,
    world::{EXCHANGE, QUEUE, World, kept, size, until, wait},
};

#[test]
fn events_that_fail_and_succeed_later_keep_their_lane_in_order_and_repeat_nothing() {
    let world = World::new(Broker::shared().vhost(), &kept("dedup = false\nprefetch = 100"));
    world.retry_after(Duration::from_millis(50));
    let service = world.serve();
    let count = size(400, 6_000);
    // Every seventh, so that all lanes have some; first and last events of lanes among them.
    let fails = |id: u64| id.is_multiple_of(7);
    wait(async {
        let client = AmqpClient::connect(&world.vhost.url()).await;
        let event = |id: u64| body(id, id % LANES, id / LANES, if fails(id) { "once" } else { "done" });
        assert_eq!(client.publish_all(EXCHANGE, (0..count).map(|id| ("kept.event".to_owned(), event(id), persistent()))).await as u64, count);
        client.close().await;
    });
    let account = settle("failing once", &world, &(0..count).collect());
    let failed: BTreeSet<u64> = world.log("kept").of("retry").iter().map(|entry| entry.id).collect();
    assert_eq!(failed, (0..count).filter(|id| fails(*id)).collect(), "those that were to fail, and no others");
    assert!((account.repeated, account.charged, account.dead.len()) == (0, failed.len(), 0), "{account:?}");
    // Nobody overtakes while the head of the lane waits.
    let mut waiting: Vec<Option<u64>> = vec![None; usize::try_from(LANES).expect("few")];
    for entry in world.log("kept").entries() {
        let head = &mut waiting[usize::try_from(entry.lane).expect("few")];
        assert!(head.is_none_or(|id| id == entry.id), "{} came while {head:?} waited before it", entry.id);
        match entry.what.as_str() {
            "retry" => *head = Some(entry.id),
            "done" => *head = None,
            _ => {}
        }
    }
    let _ = service.stop();
}

#[test]
fn reloads_under_load_repeat_nothing_charge_nothing_and_keep_the_order() {
    let world = World::new(Broker::shared().vhost(), &kept("dedup = false"));
    let log = world.log("kept");
    let mut service = world.serve();
    let load = Load::start(&world.vhost.url(), "kept.event", size(150, 400));
    let rounds = size(8, 100);
    for round in 1..=rounds {
        log.await_growth(1_500);
        // The window, the limits and the patterns change; the queue stays.
        let more = format!("dedup = false\nprefetch = {}\ntimeout_ms = {}", 100 + 10 * (round % 7), 60_000 + round);
        let text = kept(&more);
        world.configure("", &if round % 2 == 1 { text.replace("\"kept.#\"", "\"kept.*\", \"kept.event.#\"") } else { text });
        service.signal(Signal::HUP);
        let line = service.wait_for("the configuration was loaded anew").expect("the router goes on");
        assert!(line.contains("kept"), "the route is restarted: {line}");
    }
    let account = settle("reloads under load", &world, &load.end());
    say!("{rounds} reloads under load");
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn a_smaller_prefetch_keeps_the_order_of_what_came_back_from_the_larger_one() {
    let routes = |prefetch: u32, round: u32| kept(&format!("dedup = false\nprefetch = {prefetch}\ntimeout_ms = {}", 60_000 + round));
    let world = World::new(Broker::shared().vhost(), &routes(500, 0));
    let log = world.log("kept");
    let mut service = world.serve();
    world.shut_gate();
    let confirmed = publish(&world.vhost.url(), "kept.event", 900);
    until("the window is full", || world.vhost.queue(QUEUE).filter(|queue| queue.unacked == 500));
    // Each time all that is in hand goes back. The second time, the queue has still some of what went back the first time.
    for round in 1..=3 {
        // While this thread stood still, almost all may have been handled, so that too few lanes are left for as many as may run.
        let almost_done = || log.of("done").len() + 100 >= confirmed.len();
        until("as many run as may", || (running(&log.entries()).len() == CONCURRENCY || almost_done()).then_some(()));
        world.configure("", &routes(100, round));
        service.signal(Signal::HUP);
        world.open_gate();
        service.wait_for("the configuration was loaded anew").expect("the router goes on");
        world.shut_gate();
    }
    world.open_gate();
    let account = settle("a smaller prefetch", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}
