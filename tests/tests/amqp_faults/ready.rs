//! What a router means by "ready": whoever publishes on the broker from then on finds that the routes get it.

use std::sync::Arc;

use router_tests::{Broker, EXCHANGE_DECLARE, Service, Then, service_is_ready};

use crate::{
    alarms::{get, try_post},
    load::publish,
    oracle::settle,
    world::{EXCHANGE, QUEUE, World, kept, until},
};

#[test]
fn a_router_whose_declaration_breaks_off_is_ready_only_once_everything_is_bound() {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "", &kept(""));
    // All routes need it, so that it is no route's queue that is out of reach. The question runs into its time limit.
    proxy.trap(EXCHANGE_DECLARE, "services.router.sys.return", Then::Lose);
    let (mut service, line) = Service::start_until(world.command(), "is waited for");
    assert!(!service_is_ready(&line), "nothing is bound: {line}");
    let door = service.address();
    let answer = until("readiness says so", || Some(get(door, "/readyz")).filter(|answer| answer.body.contains("not bound on the broker yet")));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(try_post(door, 1_000), Some(503), "nobody would get it, although the archive may take it");
    assert!(!service.log().iter().any(|line| service_is_ready(line)), "it is not ready");

    proxy.heal();
    service.wait_for_ready();
    let bound = world.vhost.bindings();
    assert!(bound.iter().any(|binding| binding.source == EXCHANGE && binding.destination == QUEUE && binding.key == "kept.#"), "{bound:?}");
    // Past the router, and a queue takes every event.
    let confirmed = publish(&world.vhost.url(), "kept.event", 50);
    let account = settle("bound late", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}
