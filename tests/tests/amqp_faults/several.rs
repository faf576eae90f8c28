//! More than one router on the same queue.

use std::collections::BTreeSet;

use router_tests::{Broker, Service};

use crate::{
    load::Load,
    oracle::{Log, settle, settle_unordered},
    outages::chance,
    world::{QUEUE, World, kept, route, size, until},
};

/// Waits until both routers stand at the queue.
fn await_both(world: &World) {
    until("two consumers stand at the queue", || world.vhost.queue(QUEUE).filter(|queue| queue.consumers == 2));
}

#[test]
fn a_rolling_upgrade_of_two_routers_repeats_nothing_and_keeps_the_order() {
    let one = World::new(Broker::shared().vhost(), &kept("dedup = false"));
    let other = one.neighbour("order_by = \"session_id\"\ndedup = false");
    let worlds = [&one, &other];
    let mut services: Vec<Service> = worlds.iter().map(|world| world.serve()).collect();
    await_both(&one);
    let load = Load::start(&one.vhost.url(), "kept.event", size(150, 500));
    for round in 0..size(4, 40) {
        one.log("kept").await_growth(3_000);
        let which = round % 2;
        // The one that is newer stands by until the other one leaves.
        let leaving = services.remove(0);
        let _ = leaving.stop();
        services.push(worlds[which].serve());
        await_both(&one);
    }
    let confirmed = load.end();
    let account = settle("rolling upgrade", &one, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    for service in services {
        let _ = service.stop();
    }
}

#[test]
fn a_router_that_is_killed_is_followed_by_the_one_that_stands_by_and_the_order_holds() {
    let one = World::new(Broker::shared().vhost(), &kept("dedup = false"));
    let other = one.neighbour("order_by = \"session_id\"\ndedup = false");
    let worlds = [&one, &other];
    let mut services: Vec<Service> = worlds.iter().map(|world| world.serve()).collect();
    await_both(&one);
    let load = Load::start(&one.vhost.url(), "kept.event", size(150, 500));
    let kills: usize = size(4, 40);
    let mut seed = 0x94D0_49BB_1331_11EB_u64;
    for round in 0..kills {
        one.log("kept").await_growth(1_000 + chance(&mut seed, 2_000));
        services.remove(0).kill();
        say!("killed: the other one went on after {:?}", one.log("kept").await_growth(1_000));
        services.push(worlds[round % 2].serve());
        await_both(&one);
    }
    let confirmed = load.end();
    let account = settle("killed beside another", &one, &confirmed);
    assert!(account.repeated <= kills * (8 + 100) && account.dead.is_empty(), "{account:?}");
    for service in services {
        let _ = service.stop();
    }
}

#[test]
fn routers_share_a_parallel_route_and_lose_nothing_when_one_leaves_and_one_is_killed() {
    let parallel = "parallel = true\nprefetch = 50\ndedup = false";
    let one = World::new(Broker::shared().vhost(), &route("kept", parallel));
    let other = World::at(std::sync::Arc::clone(&one.vhost), None, "", &route("kept", parallel));
    let (first, second) = (one.serve(), other.serve());
    await_both(&one);
    let load = Load::start(&one.vhost.url(), "kept.event", size(200, 500));
    let logs = || -> Vec<Log> { [&one, &other].iter().map(|world| world.log("kept")).collect() };
    for log in logs() {
        log.await_growth(5_000);
    }
    let _ = first.stop();
    logs()[1].await_growth(2_000);
    let first = one.serve();
    logs()[0].await_growth(2_000);
    second.kill();
    logs()[0].await_growth(2_000);
    let confirmed = load.end();
    let account = settle_unordered("two routers share a route", &[&one, &other], &confirmed);
    assert!(account.repeated <= 8 + 100 && account.dead.is_empty(), "{account:?}");
    let handled: Vec<BTreeSet<u64>> = logs().iter().map(|log| log.of("done").iter().map(|entry| entry.id).collect()).collect();
    say!("one handled {}, the other {}", handled[0].len(), handled[1].len());
    let _ = first.stop();
}
