//! A machine of a cluster is lost.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use router_tests::{Cluster, FaultProxy};

use crate::{
    load::Load,
    oracle::settle,
    world::{QUEUE, World, kept, size, until},
};

/// One for all tests, one after the other: six nodes at once are more than a machine for tests should bear, and three take a while to start.
/// What a test has failed on is not given to the next one.
fn cluster() -> MutexGuard<'static, Option<Cluster>> {
    static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);
    let mut cluster = CLUSTER.lock().unwrap_or_else(|poisoned| {
        CLUSTER.clear_poison();
        let mut cluster = poisoned.into_inner();
        *cluster = None;
        cluster
    });
    cluster.get_or_insert_with(|| Cluster::start(3));
    cluster
}

#[test]
fn the_loss_of_the_leader_of_a_queue_under_load_loses_nothing_and_keeps_the_order() {
    let cluster = cluster();
    let cluster = cluster.as_ref().expect("it was started");
    let vhost = Arc::new(cluster.vhost());
    // Whoever declares a queue leads it at first: declared over one node, used over another.
    let there = cluster.nodes().iter().find(|node| node.name() != vhost.broker().name()).expect("there are three");
    let world = World::at(Arc::clone(&vhost), Some(vhost.url_at(there)), "", &kept(""));
    let _ = world.serve().stop();
    let world = World { url: vhost.url(), ..world };
    let service = world.serve();
    let load = Load::start(&vhost.url(), "kept.event", size(150, 500));
    let log = world.log("kept");
    let (mut losses, mut repeats_max) = (0, 0);
    for _ in 0..size(2, 10) {
        log.await_growth(3_000);
        let leader = cluster.leader(&vhost, QUEUE);
        if leader.name() == vhost.broker().name() {
            break;
        }
        leader.kill();
        losses += 1;
        repeats_max += 500;
        let begun = Instant::now();
        // What is in lapin's hands may still be handled; then it needs the new leader.
        let before = load.count();
        until("publishers are confirmed again", || (load.count() > before + 10).then_some(()));
        log.await_growth(2_000);
        say!("leader `{}` lost: going on after {:?}", leader.name(), begun.elapsed());
        leader.begin();
        cluster.await_members(3);
    }
    assert!(losses > 0, "the leader was another node than ours");
    let confirmed = load.end();
    let account = settle("leader lost", &world, &confirmed);
    assert!(account.repeated <= repeats_max && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    let _ = service.stop();
}

#[test]
fn a_router_whose_node_is_lost_goes_on_at_another_behind_the_same_address_and_loses_nothing() {
    let cluster = cluster();
    let cluster = cluster.as_ref().expect("it was started");
    let vhost = Arc::new(cluster.vhost());
    // The node that is looked at from outside stays.
    let others: Vec<_> = cluster.nodes().iter().filter(|node| node.name() != vhost.broker().name()).collect();
    let proxy = FaultProxy::before(others[0].address());
    let world = World::at(Arc::clone(&vhost), Some(vhost.url_through(&proxy)), "", &kept(""));
    // Declared over this node, so that it leads the queues too.
    let service = world.serve();
    let load = Load::start(&vhost.url(), "kept.event", size(150, 500));
    let log = world.log("kept");
    let losses = size(2, 10);
    for loss in 0..losses {
        log.await_growth(3_000);
        let (lost, next) = (others[loss % 2], others[(loss + 1) % 2]);
        lost.kill();
        proxy.redirect(next.address());
        let begun = Instant::now();
        let before = load.count();
        until("publishers are confirmed again", || (load.count() > before + 10).then_some(()));
        log.await_growth(2_000);
        say!("the router's node `{}` lost: going on at `{}` after {:?}", lost.name(), next.name(), begun.elapsed());
        lost.begin();
        cluster.await_members(3);
    }
    let confirmed = load.end();
    let account = settle("the router's node lost", &world, &confirmed);
    assert!(account.repeated <= losses * 500 && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    let _ = service.stop();
}
