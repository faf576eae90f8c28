//! The broker goes, and the way to it.

use std::{
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use router_tests::{After, Broker, Towards};

use crate::{
    load::Load,
    oracle::settle,
    world::{QUEUE, World, kept, size, until},
};

/// A number below `limit`, the next of a sequence that is the same in each run.
pub fn chance(seed: &mut u64, limit: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % limit
}

#[test]
fn a_broker_that_is_stopped_and_killed_under_load_loses_nothing_and_is_found_again_at_once() {
    let broker = Broker::start();
    let world = World::new(broker.vhost(), &kept(""));
    let service = world.serve();
    let load = Load::start(&world.vhost.url(), "kept.event", size(150, 500));
    let log = world.log("kept");
    let rounds = size(3, 10);
    for round in 0..rounds {
        log.await_growth(2_000);
        let is_kill = round % 2 == 1;
        if is_kill {
            broker.kill();
        } else {
            broker.stop();
        }
        broker.launch();
        let back = until("the port is back", || TcpStream::connect(broker.address()).ok().map(|_| Instant::now()));
        let before = log.bytes();
        until("something more is handled", || (log.bytes() > before).then_some(()));
        say!("broker {}: the first event came {:?} after its port", if is_kill { "killed" } else { "stopped" }, back.elapsed());
        broker.await_start();
    }
    let confirmed = load.end();
    let account = settle("broker stopped and killed", &world, &confirmed);
    assert!(account.repeated <= 500 * rounds && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    let _ = service.stop();
}

#[test]
fn cuts_at_random_frames_and_silence_lose_nothing_and_keep_the_order() {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "heartbeat_s = 2", &kept(""));
    let service = world.serve();
    // For ten minutes and more in the long form: no faster than a machine handles that does other things besides.
    let load = Load::start(&world.vhost.url(), "kept.event", 150);
    let log = world.log("kept");
    let (cuts, silences) = (size(20, 200), size(2, 20));
    let (mut seed, mut worst) = (0x9E37_79B9_7F4A_7C15_u64, Duration::ZERO);
    for cut in 0..cuts {
        log.await_growth(500);
        let towards = if chance(&mut seed, 2) == 0 { Towards::Broker } else { Towards::Client };
        let (whole, bytes) = (chance(&mut seed, 60), usize::try_from(chance(&mut seed, 12)).expect("a small number"));
        proxy.cut_after(towards, After::Frames { whole, bytes });
        until("the cut comes", || (!proxy.is_armed()).then_some(()));
        worst = worst.max(log.await_growth(1));
        if cut % (cuts / silences) == 0 {
            proxy.half_open();
            let begun = Instant::now();
            let before = proxy.counters().accepted;
            proxy.await_counters("both connections are opened again", |counters| counters.accepted >= before + 2);
            say!("half-open, with a heartbeat of 2 s: reached again after {:?}", begun.elapsed());
            log.await_growth(1);
        }
    }
    say!("{cuts} cuts and {silences} silences; the slowest came through after {worst:?}");
    let confirmed = load.end();
    let account = settle("cuts and silences", &world, &confirmed);
    assert!(account.repeated <= 500 * (cuts + silences) && account.charged == 0 && account.dead.is_empty(), "{account:?}");
    until("no consumer is left behind", || world.vhost.queue(QUEUE).filter(|queue| queue.consumers == 1));
    let _ = service.stop();
}
