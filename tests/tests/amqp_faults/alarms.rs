//! The broker is there and does not take, or does not say that it took.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use router_tests::{Broker, post};

use crate::{
    load::body,
    oracle::settle,
    world::{World, kept, until},
};

/// Posts event `id` and says what was answered.
fn try_post(address: SocketAddr, id: u64) -> Option<u16> {
    let event = String::from_utf8(body(id, 0, id, "done")).expect("JSON is text");
    post(address, "/events?key=kept.door", &event).map(|answer| answer.status)
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
