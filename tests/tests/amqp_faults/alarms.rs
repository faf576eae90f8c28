//! The broker is there and does not take, or does not say that it took.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use router_tests::{Answer, Broker, post, request};

use crate::{
    load::{body, publish},
    oracle::settle,
    world::{QUEUE, World, kept, size, until},
};

pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers")
}

/// Posts event `id` and says what was answered.
pub fn try_post(address: SocketAddr, id: u64) -> Option<u16> {
    let event = String::from_utf8(body(id, 0, id, "done")).expect("JSON is text");
    post(address, "/events?key=kept.door", &event).map(|answer| answer.status)
}

#[test]
fn a_memory_alarm_stops_the_intake_with_503_and_handling_goes_on() {
    let broker = Broker::start();
    let world = World::new(broker.vhost(), &kept(""));
    let service = world.serve();
    let door = service.address();
    let mut confirmed = publish(&world.vhost.url(), "kept.event", size(1_500, 10_000));
    world.shut_gate();
    until("the handler stands still", || (world.vhost.queue(QUEUE)?.unacked > 0).then_some(()));
    let waiting = world.vhost.queue(QUEUE).map_or(0, |queue| queue.ready + queue.unacked);
    broker.raise_memory_alarm();
    until("the alarm is on", || (!broker.alarms().is_empty()).then_some(()));
    // The first may be the one by which the broker notices that we publish.
    until("the door says that it takes nothing now", || {
        let begun = Instant::now();
        let answer = try_post(door, 1_000_000);
        say!("the door answered {answer:?} after {:?}", begun.elapsed());
        (answer == Some(503)).then_some(())
    });
    let ready = until("readiness says why", || Some(get(door, "/readyz")).filter(|ready| ready.status == 503));
    say!("/readyz during the alarm: {}", ready.body);
    world.open_gate();
    let begun = Instant::now();
    until("all that waits is handled during the alarm", || (world.log("kept").of("done").len() >= confirmed.len()).then_some(()));
    say!("memory alarm: {waiting} events were handled in {:?} meanwhile", begun.elapsed());
    assert_eq!(try_post(door, 1_000_000), Some(503), "it is still on");

    broker.end_memory_alarm();
    let ended = Instant::now();
    until("the door takes events again", || (try_post(door, 1_000_000) == Some(200)).then_some(()));
    say!("memory alarm: the door took events {:?} after its end", ended.elapsed());
    confirmed.insert(1_000_000);
    until("readiness is back", || (get(door, "/readyz").status == 200).then_some(()));
    until("the last one is handled", || world.log("kept").of("done").iter().any(|entry| entry.id == 1_000_000).then_some(()));
    let account = settle("memory alarm", &world, &confirmed);
    assert!((account.repeated, account.charged, account.dead.len()) == (0, 0, 0), "{account:?}");
    let _ = service.stop();
}

#[test]
fn an_event_whose_confirm_is_lost_is_not_accepted_and_is_handled_once_when_it_is_sent_again() {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "", &kept(""));
    let service = world.serve();
    let door = service.address();
    assert_eq!(try_post(door, 0), Some(200));
    proxy.drop_confirms();
    let begun = Instant::now();
    let answer = try_post(door, 1);
    say!("lost confirm: answered with {answer:?} after {:?}", begun.elapsed());
    assert_eq!(answer, Some(503), "what is not known to be safe is not accepted");
    assert!(proxy.counters().dropped > 0, "the broker had confirmed it");
    proxy.heal();
    for id in 1..20 {
        until("the door takes it", || (try_post(door, id) == Some(200)).then_some(()));
    }
    until("all are handled", || (world.log("kept").of("done").len() >= 20).then_some(()));
    let account = settle("lost confirm", &world, &(0..20).collect());
    assert_eq!((account.repeated, account.charged, account.dead.len()), (0, 0, 0), "the second delivery of the same event is recognised");
    let _ = service.stop();
}
