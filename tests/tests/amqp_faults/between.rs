//! The router is killed between two things that it does one after the other: what was done first is on the broker, the acknowledgement
//! that should follow never arrives.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt as _, sync::Arc};

use router_api::failpoint::{Failpoint, Passed};
use router_tests::{AmqpClient, Broker, FaultProxy, Service, amqp_client::persistent, request};

use crate::{
    deaths::CONCURRENCY,
    load::{body, id_in, publish},
    oracle::settle,
    world::{DEAD, EXCHANGE, QUEUE, World, kept, size, until, wait},
};

fn behind_a_proxy(routes: &str) -> (World, FaultProxy) {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    // Without an archive nobody acknowledges anything but the route.
    (World::at(vhost, Some(url), "archive = { enabled = false }", routes), proxy)
}

/// Kills it, and lets things through again once nothing that it had sent is on its way any more.
fn kill(service: Service, proxy: &FaultProxy) {
    service.kill();
    proxy.await_counters("its connections are gone", |counters| counters.open == 0);
    proxy.heal();
}

/// How many events the router itself counts as handled: a little later than the handler has written them down.
fn counted(service: &Service, outcome: &str) -> u64 {
    let address = service.address();
    let metrics = request(address, format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).map(|answer| answer.body);
    let metrics = metrics.unwrap_or_default();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("event_router_handled_events_total{") && line.contains("\"kept\"") && line.contains(&format!("\"{outcome}\"")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

/// Publishes so many events over a few lanes.
fn send(world: &World, count: u64, verdict: &str) {
    wait(async {
        let client = AmqpClient::connect(&world.vhost.url()).await;
        let events = (0..count).map(|id| ("kept.event".to_owned(), body(id, id % 5, id / 5, verdict), persistent()));
        assert_eq!(client.publish_all(EXCHANGE, events).await as u64, count, "a queue wants every event");
        client.close().await;
    });
}

/// How often each event lies among the dead letters.
fn buried(world: &World) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for letter in wait(world.client().look(DEAD)) {
        *times.entry(id_in(&letter.body)).or_default() += 1;
    }
    times
}

#[test]
fn a_kill_between_a_burial_and_its_acknowledgement_leaves_each_event_buried_once_or_twice_and_none_lost() {
    let (world, proxy) = behind_a_proxy(&kept(""));
    let count = size(40, 400);
    let service = world.serve();
    proxy.drop_acks();
    send(&world, count, "reject");
    // All are buried, and the broker has heard of none that it is done with.
    until("all are buried", || world.vhost.queue(DEAD).filter(|dead| dead.ready >= count));
    let held = until("the acknowledgements are on their way", || Some(world.vhost.queue(QUEUE)?).filter(|_| proxy.counters().dropped > 0));
    assert_eq!((held.ready, held.unacked), (0, count), "none of them arrived");
    assert!(buried(&world).values().all(|times| *times == 1), "each is buried once");
    kill(service, &proxy);

    let service = world.serve();
    world.await_empty(QUEUE);
    let times = buried(&world);
    say!("killed between burial and acknowledgement: {count} events, {} letters", times.values().sum::<usize>());
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>(), "none is lost and none is invented");
    assert!(times.values().all(|times| *times <= 2), "{times:?}");
    // Each letter has a name of its own, and what is not wanted twice can be discarded.
    let listed = listed(&world);
    assert_eq!(listed, times.values().sum::<usize>());
    let _ = service.stop();
}

/// Letters that the command lists, each under a name of its own.
fn listed(world: &World) -> usize {
    let mut command = world.home.command(&["dead-letters", "list", "--flat", "--limit", "1000", "--json"]);
    command.env("RABBIT_URL", &world.url);
    let answer = router_tests::Ran::of(command.output().expect("the program runs")).code(0).json();
    let letters = answer["dead_letters"].as_array().unwrap_or_else(|| panic!("a list: {answer:#}"));
    let names: std::collections::BTreeSet<&str> = letters.iter().filter_map(|letter| letter["id"].as_str()).collect();
    assert_eq!(names.len(), letters.len(), "no two have one name");
    names.len()
}

/// Kills a router that has handled everything and whose acknowledgements never arrived. How many events the next one handles again.
fn handled_again(dedup: &str) -> u64 {
    let (world, proxy) = behind_a_proxy(&kept(dedup));
    // Fewer than are acknowledged together, so that all may be finished at once.
    let count = 60;
    let service = world.serve();
    proxy.drop_acks();
    send(&world, count, "done");
    let log = world.log("kept");
    until("all are handled", || (counted(&service, "handled") == count).then_some(()));
    assert_eq!(log.of("done").len() as u64, count, "once each");
    let held = until("the acknowledgements are on their way", || Some(world.vhost.queue(QUEUE)?).filter(|_| proxy.counters().dropped > 0));
    assert_eq!((held.ready, held.unacked), (0, count), "none of them arrived");
    kill(service, &proxy);
    let service = world.serve();
    let account = settle("killed between success and acknowledgement", &world, &(0..count).collect());
    assert!(account.dead.is_empty() && account.charged == 0, "{account:?}");
    // What an effect has done and the store knows is not done again.
    assert!(account.repeated as u64 <= count, "{account:?}");
    // All of them came again, and are counted one by one a little later than the broker hears of them.
    let again = until("each is counted as handled or as a repetition", || {
        let again = counted(&service, "handled");
        (again + counted(&service, "duplicate") == count).then_some(again)
    });
    say!("killed between success and acknowledgement: {again} events came to the handler again");
    let _ = service.stop();
    again
}

#[test]
fn a_kill_between_success_and_its_acknowledgement_repeats_just_that_and_dedup_recognises_it() {
    assert_eq!(handled_again("dedup = false"), 60, "all of them, once more");
    let again = handled_again("");
    assert!(again < 60, "what the store remembered before the kill is not handled again: {again}");
}

#[test]
fn a_kill_before_or_after_the_store_remembers_what_is_done_repeats_only_what_it_does_not_know() {
    // A fifth of it is acknowledged together, and as many may be on their way into the store beside what runs.
    let prefetch = 20;
    for point in Failpoint::ALL.iter().filter(|point| point.passed() == Passed::OnBroker) {
        // With a ledger what the store has the answer of is handled again without being done again.
        let world = World::new(Broker::shared().vhost(), &kept(&format!("ledger = false\nprefetch = {prefetch}")));
        let _ = world.serve().stop();
        let confirmed = publish(&world.vhost.url(), "kept.event", size(150, 5_000));
        // At the first of all, and in the middle of many.
        for pass in [1, 40] {
            let mut command = world.command();
            command.env("EVENT_ROUTER_FAILPOINT", format!("{}:{pass}", point.name()));
            let mut service = Service::begin(command);
            let status = service.wait();
            assert_eq!(status.signal(), Some(9), "{}: {status}\n{}", point.name(), service.log().join("\n"));
        }
        let service = world.serve();
        let account = settle(&format!("killed twice at {}", point.name()), &world, &confirmed);
        assert!(account.dead.is_empty() && account.charged <= 2 * CONCURRENCY, "{account:?}");
        assert!(account.repeated <= 2 * (CONCURRENCY + prefetch / 5), "{account:?}");
        if *point == Failpoint::InboxBefore {
            assert!(account.repeated >= 2, "what was done and not remembered is done again: {account:?}");
        } else {
            // The broker was not told of it, so it came again.
            until("what was remembered is recognised", || (counted(&service, "duplicate") >= 1).then_some(()));
        }
        let _ = service.stop();
    }
}
