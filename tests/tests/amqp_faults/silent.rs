//! A broker that does not answer for one queue, in all the ways in which brokers do that. It costs the route of that queue, and no other.

use std::sync::Arc;

use router_tests::{Broker, CONSUME, FaultProxy, Method, QUEUE_DECLARE, Service, Then, post};

use crate::{
    alarms::{get, try_post},
    load::body,
    world::{QUEUE, World, kept, route, until},
};

/// Events of the other route that are sent each time.
const OTHERS: u64 = 20;

/// Sends events to the route `other` and waits until they are handled.
fn others_go_on(world: &World, service: &Service, first: u64) {
    let door = service.address();
    for id in first..first + OTHERS {
        let event = String::from_utf8(body(id, id, id, "done")).expect("JSON is text");
        until("the door takes events of the other route", || post(door, "/events?key=other.event", &event).filter(|answer| answer.status == 200));
    }
    until("the other route goes on", || {
        let done = world.log("other").of("done");
        (first..first + OTHERS).all(|id| done.iter().any(|entry| entry.id == id)).then_some(())
    });
}

/// Questions about a queue: the first is asked when it is declared, the second when it is taken up.
const ALL: &[Method] = &[QUEUE_DECLARE, CONSUME];

/// The broker does not answer these questions for the queue, and `kept` alone feels it.
fn is_felt_by_its_own_route_alone(world: &World, service: &Service, proxy: &FaultProxy, methods: &[Method], first: u64) {
    let door = service.address();
    // Who was asked for at the same time as the one that has cost a connection is under suspicion too, for a moment.
    until("readiness names that route alone", || {
        let ready = get(door, "/readyz").body;
        (ready.contains("route `kept` gets nothing until") && !ready.contains("route `other` gets nothing until")).then_some(())
    });
    others_go_on(world, service, first);
    // One that can be declared collects its events, whoever may take them from it.
    if methods.contains(&QUEUE_DECLARE) {
        assert_eq!(try_post(door, 1_000), Some(503), "an event that would not come to its queue is not taken");
    }
    // It is asked for again and again, beside them.
    let before = proxy.counters();
    proxy.await_counters("it is asked for again", |now| now.dropped > before.dropped);
    others_go_on(world, service, first + OTHERS);
}

fn costs_one_route_only(methods: &[Method], then: Then) {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "", &format!("{}{}", kept(""), route("other", "")));
    let service = world.serve();
    others_go_on(&world, &service, 0);
    for method in methods {
        proxy.trap(*method, QUEUE, then);
    }
    // A connection that is lost has everything declared anew.
    proxy.cut();
    is_felt_by_its_own_route_alone(&world, &service, &proxy, methods, 100);
    let _ = service.stop();
    // And so has a router that starts meanwhile.
    let service = world.serve();
    is_felt_by_its_own_route_alone(&world, &service, &proxy, methods, 200);

    proxy.heal();
    until("the door takes events for it again", || (try_post(service.address(), 1_000) == Some(200)).then_some(()));
    until("they are handled", || world.log("kept").of("done").iter().any(|entry| entry.id == 1_000).then_some(()));
    until("nothing is said of it any more", || (!get(service.address(), "/readyz").body.contains("gets nothing")).then_some(()));
    let _ = service.stop();
}

#[test]
fn a_queue_that_the_broker_never_answers_for_costs_its_own_route_only() {
    costs_one_route_only(ALL, Then::Lose);
}

#[test]
fn a_queue_whose_questions_cost_the_connection_without_a_word_costs_its_own_route_only() {
    costs_one_route_only(ALL, Then::Cut);
}

#[test]
fn a_queue_whose_questions_are_answered_with_541_costs_its_own_route_only() {
    costs_one_route_only(ALL, Then::Close(541));
}

#[test]
fn a_queue_that_costs_the_connection_without_a_word_when_it_is_taken_up_costs_its_own_route_only() {
    costs_one_route_only(&[CONSUME], Then::Cut);
}
