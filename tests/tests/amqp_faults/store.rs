//! The router's own store is lost: the broker has the events, and the store only what is remembered of them.

use std::fs;

use router_tests::{Broker, Ran};

use crate::{
    deaths::{CONCURRENCY, running},
    load::{publish, publish_more},
    oracle::settle,
    world::{World, kept, size, until},
};

/// Finished, and neither acknowledged nor remembered: two batches.
const UNDER_WAY: usize = 200;

/// Takes away the store with all that lies beside it.
fn lose_store(world: &World) {
    fs::remove_dir_all(world.home.path().join("state")).expect("the router has made it");
}

/// Does the router's archive know of this event?
fn is_archived(world: &World, id: u64) -> bool {
    let mut command = world.home.command(&["explain", &format!("00000000-0000-4000-8000-{id:012}")]);
    command.env("RABBIT_URL", &world.url);
    Ran::of(command.output().expect("the program runs")).code == Some(0)
}

#[test]
fn a_store_that_is_lost_with_a_kill_costs_no_event_and_what_is_repeated_is_bounded() {
    let world = World::new(Broker::shared().vhost(), &kept(""));
    let log = world.log("kept");
    let service = world.serve();
    let count = size(600, 6_000);
    let mut confirmed = publish(&world.vhost.url(), "kept.event", count);
    until("some are handled", || (log.of("done").len() >= 100).then_some(()));
    world.shut_gate();
    // However many came through meanwhile, as many run as may.
    confirmed.extend(publish_more(&world.vhost.url(), "kept.event", count..count + 600));
    until("as many run as may", || (running(&log.entries()).len() == CONCURRENCY).then_some(()));
    service.kill();
    lose_store(&world);

    let mut service = world.serve();
    assert!(service.log().iter().any(|line| line.contains("the store is") && line.contains("made now")), "the start says so");
    world.open_gate();
    let account = settle("the store lost with a kill", &world, &confirmed);
    // What ran is not known to have run, so that it is charged nothing.
    assert!(account.repeated <= CONCURRENCY + UNDER_WAY && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    until("the archive has read the broker's stream from its beginning", || (is_archived(&world, 0) && is_archived(&world, count)).then_some(()));
    let _ = service.stop();
}

#[test]
fn a_store_that_is_deleted_under_a_router_stops_nothing_and_the_next_router_begins_a_new_one() {
    let world = World::new(Broker::shared().vhost(), &kept(""));
    let log = world.log("kept");
    let service = world.serve();
    let mut confirmed = publish(&world.vhost.url(), "kept.event", 300);
    until("all are handled", || (log.of("done").len() >= 300).then_some(()));
    lose_store(&world);
    confirmed.extend(publish_more(&world.vhost.url(), "kept.event", 300..600));
    until("those that come afterwards are handled too", || (log.of("done").len() >= 600).then_some(()));
    let _ = service.stop();

    let mut service = world.serve();
    assert!(service.log().iter().any(|line| line.contains("the store is") && line.contains("made now")), "the start says so");
    confirmed.extend(publish_more(&world.vhost.url(), "kept.event", 600..900));
    let account = settle("the store deleted under a router", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}
