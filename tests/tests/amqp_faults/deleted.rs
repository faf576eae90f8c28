//! Queues are deleted while they are in use.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use router_tests::{AmqpClient, Broker, amqp_client::persistent};
use serde_json::{Value, json};

use crate::{
    load::{body, id_in},
    world::{DEAD, EXCHANGE, PATIENCE, QUEUE, World, kept, route, size, until, wait},
};

/// Publishes these events to a key, and expects that a queue wants each of them.
fn send(client: &AmqpClient, key: &str, events: impl IntoIterator<Item = Vec<u8>>) {
    let events: Vec<_> = events.into_iter().map(|body| (key.to_owned(), body, persistent())).collect();
    let count = events.len();
    assert_eq!(wait(client.publish_all(EXCHANGE, events)), count, "a queue wants every event");
}

/// Those that a route has handled.
fn handled(world: &World, route: &str) -> BTreeSet<u64> {
    world.log(route).of("done").iter().map(|entry| entry.id).collect()
}

#[test]
fn a_route_queue_that_is_deleted_is_made_again_and_what_comes_afterwards_is_handled() {
    let world = World::new(Broker::shared().vhost(), &kept(""));
    let mut service = world.serve();
    let client = world.client();
    let rounds = size(2, 20);
    for round in 0..rounds {
        let first = round * 100;
        send(&client, "kept.event", (first..first + 50).map(|id| body(id, id % 5, id, "done")));
        until("all are handled", || (handled(&world, "kept").len() == usize::try_from(50 * (round + 1)).expect("few")).then_some(()));
        world.await_empty(QUEUE);
        wait(client.delete_queue(QUEUE));
        let begun = Instant::now();
        until("the queue is there again, and its consumer", || world.vhost.queue(QUEUE).filter(|queue| queue.consumers == 1));
        until("it is bound again", || world.vhost.bindings().into_iter().find(|binding| binding.destination == QUEUE && binding.key == "kept.#"));
        say!("deleted queue: there again after {:?}", begun.elapsed());
    }
    send(&client, "kept.event", (1_000_000..1_000_050).map(|id| body(id, id % 5, id, "done")));
    until("what came afterwards is handled", || handled(&world, "kept").contains(&1_000_049).then_some(()));
    assert!(service.log().iter().any(|line| line.contains(QUEUE)), "the log names the queue");
    let _ = service.stop();
}

#[test]
fn a_dead_queue_that_is_gone_costs_no_event_and_holds_up_no_other_lane() {
    // With `verify` nobody makes it again behind our back.
    let world = World::new(Broker::shared().vhost(), &kept(""));
    let _ = world.serve().stop();
    let made = world.vhost.queue(DEAD).expect("the router has made it").arguments;
    world.configure("topology = \"verify\"", &kept(""));
    let service = world.serve();
    let client = world.client();
    wait(client.delete_queue(DEAD));
    let hopeless: Vec<Vec<u8>> = (0..3).map(|id| body(id, 0, id, "reject")).collect();
    send(&client, "kept.event", hopeless.clone());
    until("the first is refused by its handler", || (!world.log("kept").of("reject").is_empty()).then_some(()));
    let others = size(500, 5_000);
    send(&client, "kept.event", (10..10 + others).map(|id| body(id, 1 + id % 5, id, "done")));
    until("the other lanes go on", || (handled(&world, "kept").len() as u64 == others).then_some(()));
    until("only the lane of the refused one is still in hand", || world.vhost.queue(QUEUE).filter(|queue| (queue.ready, queue.unacked) == (0, 3)));

    let back = Instant::now();
    wait(client.declare_queue(DEAD, &Value::Object(made.into_iter().collect())));
    world.await_empty(QUEUE);
    say!("dead queue deleted: what could not be buried was, {:?} after it was there again", back.elapsed());
    let letters: Vec<Vec<u8>> = wait(client.drain(DEAD)).into_iter().map(|letter| letter.body).collect();
    assert!(letters == hopeless, "{} letters instead of {}, or in another order", letters.len(), hopeless.len());
    let _ = service.stop();
}

#[test]
fn a_dead_queue_that_is_full_costs_no_event_and_holds_up_no_other_lane() {
    // What cannot be buried keeps its place among them.
    let world = World::new(Broker::shared().vhost(), &kept("concurrency = 64"));
    let room = |events: u64| {
        let definition = json!({ "max-length": events, "overflow": "reject-publish" });
        world.vhost.broker().policy(world.vhost.name(), "room", &format!("^{}$", DEAD.replace('.', "\\.")), &definition);
    };
    room(1);
    let mut service = world.serve();
    let client = world.client();
    // One after the other, each in a lane of its own: a queue takes some more than it should before it refuses.
    let mut hopeless = BTreeSet::new();
    let refuses = |line: &String| line.contains("the broker did not take the event");
    while !service.log().iter().any(refuses) {
        let id = hopeless.len() as u64;
        assert!(id < 40, "the dead queue takes everything");
        send(&client, "kept.event", [body(id, 100 + id, 0, "reject")]);
        hopeless.insert(id);
        until("it is refused by its handler", || (world.log("kept").of("reject").len() == hopeless.len()).then_some(()));
        until("it is buried, or cannot be", || {
            let waits = world.vhost.queue(QUEUE).is_some_and(|queue| queue.ready + queue.unacked > 0);
            (!waits || service.log().iter().any(refuses)).then_some(())
        });
    }
    let others = size(300, 5_000);
    send(&client, "kept.event", (100..100 + others).map(|id| body(id, 1 + id % 5, id, "done")));
    until("the other lanes go on", || (handled(&world, "kept").len() as u64 == others).then_some(()));
    let held = until("what the dead queue does not take is still in hand", || {
        let (queue, dead) = (world.vhost.queue(QUEUE)?, world.vhost.queue(DEAD)?);
        (queue.ready == 0 && queue.unacked > 0 && queue.unacked + dead.ready == hopeless.len() as u64).then_some(queue.unacked)
    });
    say!("full dead queue: {held} of {} stayed in hand", hopeless.len());

    room(1_000);
    world.await_empty(QUEUE);
    let letters: Vec<u64> = wait(client.drain(DEAD)).iter().map(|letter| id_in(&letter.body)).collect();
    assert_eq!(letters.len(), hopeless.len(), "each once: {letters:?}");
    assert_eq!(letters.into_iter().collect::<BTreeSet<_>>(), hopeless);
    let _ = service.stop();
}

/// Two routes on one virtual host: all events of `gone` wait, and their queue is deleted before they are back. `None` where they came
/// back first.
fn waiting_for_a_deleted_queue(delay: Duration, count: u64) -> Option<World> {
    let (vhost, delay_ms) = (Arc::new(Broker::shared().vhost()), delay.as_millis());
    let gone = World::at(vhost, None, "", &route("gone", &format!("retry = {{ attempts_max = 5, first_delay_ms = {delay_ms}, max_delay_ms = {delay_ms} }}")));
    gone.retry_after(delay);
    let service = gone.serve();
    let client = gone.client();
    send(&client, "gone.event", (0..count).map(|id| body(id, id, id, "retry")));
    until("all of one route have failed", || (gone.log("gone").of("retry").len() as u64 >= count).then_some(()));
    gone.await_empty("services.router.gone");
    let _ = service.stop();
    wait(client.delete_queue("services.router.gone"));
    let waits = gone.vhost.queues().into_iter().filter(|queue| queue.name.starts_with("services.router.sys.wait."));
    (waits.map(|queue| queue.ready).sum::<u64>() == count).then_some(gone)
}

#[test]
fn what_waits_for_a_deleted_queue_holds_up_no_other_route() {
    let count = size(32, 300);
    // Both wait in the same step, one behind the other. What comes back before its queue is deleted is deleted with it: where the machine
    // is slower than that, they wait longer.
    let (gone, delay) = [16, 64, 256]
        .map(Duration::from_secs)
        .into_iter()
        .find_map(|delay| waiting_for_a_deleted_queue(delay, count).map(|gone| (gone, delay)))
        .expect("a queue can be deleted before what waits for it is back");
    let vhost = Arc::clone(&gone.vhost);
    let delay_ms = delay.as_millis();
    let unordered = format!("retry = {{ attempts_max = 5, first_delay_ms = {delay_ms}, max_delay_ms = {delay_ms} }}");
    let kept = World::at(Arc::clone(&vhost), None, "", &route("kept", &unordered));
    kept.retry_after(delay);
    let second = kept.serve();
    let client = kept.client();
    send(&client, "kept.event", (0..count).map(|id| body(id, id, id, "retry")));
    until("all of the other route have failed", || (kept.log("kept").of("retry").len() as u64 >= count).then_some(()));
    let begun = Instant::now();
    kept.home.write("mended", "");
    let patience = delay + PATIENCE;
    while (handled(&kept, "kept").len() as u64) < count {
        assert!(begun.elapsed() < patience, "still not: all of the other route have come back");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    say!("waits beside a deleted queue: all came back {:?} after their route was mended", begun.elapsed());
    let lost =
        until("what waited for the deleted queue lies where it can be found", || vhost.queue("services.router.sys.lost").filter(|queue| queue.ready >= count));
    let found: BTreeSet<u64> = wait(client.drain(&lost.name)).iter().map(|message| id_in(&message.body)).collect();
    assert_eq!(found, (0..count).collect(), "no event is lost");
    let _ = second.stop();
}
