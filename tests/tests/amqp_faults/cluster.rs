//! A machine of a cluster is lost.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use lapin::options::BasicPublishOptions;
use router_tests::{Cluster, FaultProxy, amqp_client::persistent, post};

use crate::{
    alarms::{get, try_post},
    deaths::{CONCURRENCY, running},
    load::{Load, body, publish},
    oracle::settle,
    world::{EXCHANGE, QUEUE, World, is_long, kept, route, size, until, wait},
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

#[test]
fn a_classic_queue_whose_node_is_lost_is_waited_for_with_all_its_events_and_holds_up_no_other_route() {
    // What it is about is shown without a cluster in each run, by `silent`. Here a broker may take its own time.
    if !is_long() {
        return;
    }
    let cluster = cluster();
    let cluster = cluster.as_ref().expect("it was started");
    let vhost = Arc::new(cluster.vhost());
    // A classic queue lives where it was declared: on another node than the one that the router and the test are connected to.
    let lost = cluster.nodes().iter().find(|node| node.name() != vhost.broker().name()).expect("there are three");
    // It leads what all routes need as well: the other route's queue, and the stream of the archive.
    let routes = format!("{}{}", kept("queue_type = \"classic\""), route("other", ""));
    let world = World::at(Arc::clone(&vhost), Some(vhost.url_at(lost)), "", &routes);
    let _ = world.serve().stop();
    let world = World { url: vhost.url(), ..world };
    let mut service = world.serve();
    let log = world.log("kept");
    assert_eq!(world.vhost.queue(QUEUE).map(|queue| (queue.kind, queue.leader)), Some(("classic".to_owned(), lost.name().to_owned())));
    world.shut_gate();
    let mut confirmed = publish(&vhost.url(), "kept.event", 300);
    until("as many run as may", || (running(&log.entries()).len() == CONCURRENCY).then_some(()));

    lost.kill();
    let begun = Instant::now();
    // It refuses each question, or lets it run into a time limit: both were met on both versions.
    let line = service.wait_for("route `kept` gets nothing until").expect("the router goes on");
    say!("node of a classic queue lost: said after {:?}: {line}", begun.elapsed());
    world.open_gate();
    let client = world.client();
    let mut others = 0;
    // By the router that saw it go, and by one that starts without it.
    for life in ["the router that saw it go", "a router that starts meanwhile"] {
        let door = service.address();
        let ready = until("readiness says so", || Some(get(door, "/readyz")).filter(|ready| ready.body.contains("gets nothing until")));
        assert!(ready.body.contains("`kept`"), "{ready:?}");
        assert_eq!(try_post(door, 1_000), Some(503), "{life}: an event that would not come to its queue is not taken");
        others += 50;
        let first = Instant::now();
        for id in others - 50..others {
            let event = String::from_utf8(body(id, id, id, "done")).expect("JSON is text");
            // The archive's stream may have lost its leader too, and elects another one.
            until("the door takes events of the other route", || post(door, "/events?key=other.event", &event).filter(|answer| answer.status == 200));
            if id == others - 50 {
                say!(
                    "{life}: the first event of the other route was taken {:?} after the loss, and {:?} after it was asked for",
                    begun.elapsed(),
                    first.elapsed()
                );
            }
        }
        let handled = || world.log("other").of("done").into_iter().map(|entry| entry.id).collect::<BTreeSet<u64>>().len() as u64;
        until("the other route goes on", || (handled() >= others).then_some(()));
        let _ = service.stop();
        service = world.serve();
    }
    // What somebody else publishes is confirmed, since the archive's stream takes it, and whether it comes to the queue is the broker's
    // matter: 3.10 passes the queue over.
    let of_others = body(2_000, 20, 0, "done");
    let confirm = wait(async {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        client.channel().basic_publish(EXCHANGE.into(), "kept.event".into(), options, &of_others, persistent()).await?.await
    });

    lost.begin();
    cluster.await_members(3);
    let back = Instant::now();
    until("the door takes events for it again", || (try_post(service.address(), 1_000) == Some(200)).then_some(()));
    confirmed.insert(1_000);
    until("all are handled", || confirmed.iter().all(|id| log.of("done").iter().any(|entry| entry.id == *id)).then_some(()));
    world.await_empty(QUEUE);
    let of_others = log.of("done").iter().any(|entry| entry.id == 2_000);
    if of_others {
        confirmed.insert(2_000);
    }
    say!("what somebody else published meanwhile was answered with {confirm:?}, and {}", if of_others { "came too" } else { "never came" });
    say!("node of a classic queue back: all its events were handled {:?} afterwards", back.elapsed());
    let account = settle("node of a classic queue lost", &world, &confirmed);
    assert!(account.repeated <= 500 && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    let _ = service.stop();
}
