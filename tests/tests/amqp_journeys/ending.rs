//! The service is asked to end while its broker is away, and while it is there and says nothing.

use std::time::{Duration, Instant};

use router_tests::{Broker, FaultProxy, Service, eventually};
use rustix::process::Signal;

use crate::world::*;

/// Much longer than the end takes, and shorter than what would be waited for in vain: `drain_ms` of the routes here.
const SOON: Duration = Duration::from_secs(240);

/// A handling that lasts until it is cancelled.
const LASTING: &str = r#"
[[route]]
name = "kept"
on = ["kept.#"]
drain_ms = 600_000
timeout_ms = 700_000
handler = "exec"
with = { command = ["sh", "-c", "echo begun >> ../seen; exec sleep 600"] }
"#;

fn behind_a_proxy(routes: &str) -> (World, FaultProxy) {
    let broker = Broker::shared();
    let proxy = broker.proxy();
    let mut world = World::on(std::sync::Arc::new(broker.vhost()), routes);
    world.url = world.url.replace(&broker.address().to_string(), &proxy.address().to_string());
    (world, proxy)
}

fn end(service: Service) -> Vec<String> {
    let begun = Instant::now();
    let log = service.stop();
    assert!(begun.elapsed() < SOON, "it ended after {:?} only:\n{}", begun.elapsed(), log.join("\n"));
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_whose_broker_has_gone_away_ends_when_it_is_asked_to() {
    let (world, proxy) = behind_a_proxy(ROUTES);
    let mut service = world.serve();
    proxy.refuse();
    let _ = service.wait_for("is lost").expect("the loss is told");
    let log = end(service).join("\n");
    assert!(log.contains("event-router has stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_says_nothing_more_holds_up_no_end() {
    let (world, proxy) = behind_a_proxy(ROUTES);
    let service = world.serve();
    // Something is in hand, handled and not acknowledged yet, when the silence begins.
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "before-the-silence")).unwrap());
    eventually("it is handled", || world.home.read("seen").contains("before-the-silence").then_some(()));
    proxy.black_hole();
    let log = end(service).join("\n");
    assert!(log.contains("event-router has stopped"), "{log}");

    // Nothing of it was noticed by the broker, which gives all back once the connections are gone; the next router has it.
    proxy.heal();
    let service = world.serve();
    eventually("nothing waits", || world.vhost.queue("services.router.kept").filter(|queue| queue.ready + queue.unacked == 0));
    let _ = service.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_router_whose_broker_says_nothing() {
    let (world, proxy) = behind_a_proxy(LASTING);
    let mut service = world.serve();
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "long")).unwrap());
    eventually("the handling has begun", || world.home.read("seen").contains("begun").then_some(()));
    proxy.black_hole();
    service.signal(Signal::TERM);
    let _ = service.wait_for("a signal from now on cuts this short").expect("it is said");
    let log = end(service).join("\n");
    assert!(log.contains("a second signal") && log.contains("event-router has stopped"), "{log}");
    proxy.heal();
    let waiting = eventually("the event is back in its queue", || world.vhost.queue("services.router.kept").filter(|queue| queue.ready == 1));
    assert_eq!(waiting.unacked, 0);
    // Whoever comes next handles it.
    world.configure("", ROUTES);
    let service = world.serve();
    eventually("it is handled after all", || world.home.read("seen").contains("\"long\"").then_some(()));
    let _ = service.stop();
}
