//! The broker's patience with what is in hand.

use std::time::Duration;

use router_tests::Broker;

use crate::{
    load::{body, publish},
    oracle::settle,
    world::{QUEUE, World, kept, until, wait},
};

/// How the broker's log begins to tell that it has lost its patience.
const OUT_OF_PATIENCE: &str = "has timed out waiting for";

/// An event that fails until it is mended, behind others that succeed.
fn run(world: &World, held: Duration) {
    let service = world.serve();
    let mut confirmed = publish(&world.vhost.url(), "kept.event", 100);
    let client = world.client();
    assert!(wait(client.publish(crate::world::EXCHANGE, "kept.event", &body(1_000, 50, 1, "retry"))));
    confirmed.insert(1_000);
    until("it is held in hand", || (!world.log("kept").of("retry").is_empty()).then_some(()));
    std::thread::park_timeout(held);
    world.home.write("mended", "");
    until("it is handled", || world.log("kept").of("done").iter().any(|entry| entry.id == 1_000).then_some(()));
    assert!(wait(client.publish(crate::world::EXCHANGE, "kept.event", &body(1_001, 50, 2, "done"))));
    confirmed.insert(1_001);
    until("what came afterwards is handled", || world.log("kept").of("done").iter().any(|entry| entry.id == 1_001).then_some(()));
    let account = settle("held in hand for long", world, &confirmed);
    assert_eq!((account.repeated, account.dead.len()), (0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn a_lane_that_is_held_for_long_is_given_back_in_time_and_a_broker_out_of_patience_is_survived() {
    let broker = Broker::start();
    let patient = "timeout_ms = 4_000\nretry = { attempts_max = 50, first_delay_ms = 1_000, max_delay_ms = 3_000 }";
    let losses = || broker.log().matches(OUT_OF_PATIENCE).count();
    // Where the machine is too slow to give anything back in a few seconds, the broker has more patience.
    let in_time = [15_u64, 60, 240].into_iter().find(|limit| {
        broker.acknowledgement_timeout(Duration::from_secs(*limit), Duration::from_millis(500));
        let before = losses();
        let world = World::new(broker.vhost(), "");
        world.configure(&format!("ack_timeout_s = {limit}"), &kept(patient));
        run(&world, Duration::from_secs(limit + limit / 2));
        losses() == before
    });
    assert!(in_time.is_some(), "it was never given back before the broker lost its patience");

    // The router does not know how short it is.
    broker.acknowledgement_timeout(Duration::from_secs(15), Duration::from_millis(500));
    let (world, before) = (World::new(broker.vhost(), &kept(patient)), losses());
    run(&world, Duration::from_secs(22));
    until("the broker says that it has closed the channel", || (losses() > before).then_some(()));
    assert!(world.vhost.queue(QUEUE).is_some());
}
