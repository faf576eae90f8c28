//! The router is killed.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use router_tests::{AmqpClient, Broker, Service, amqp_client::persistent};

use crate::{
    load::{Load, body, publish, publish_more},
    oracle::{Entry, settle},
    outages::chance,
    world::{DEAD, EXCHANGE, QUEUE, World, kept, size, until, wait},
};

/// Handlings at once, and finished ones whose acknowledgement may be under way.
pub const CONCURRENCY: usize = 8;
const ACK_BATCH: usize = 100;

/// What has begun and not ended.
pub fn running(entries: &[Entry]) -> BTreeSet<u64> {
    let ends: BTreeSet<(u64, u32)> = entries.iter().filter(|entry| entry.what == "done").map(|entry| (entry.id, entry.attempt)).collect();
    entries.iter().filter(|entry| entry.what == "begun" && !ends.contains(&(entry.id, entry.attempt))).map(|entry| entry.id).collect()
}

#[test]
fn a_kill_charges_what_was_running_and_none_of_its_five_hundred_neighbours() {
    let world = World::new(Broker::shared().vhost(), &kept("dedup = false"));
    let log = world.log("kept");
    let mut charged = BTreeSet::new();
    let mut service = world.serve();
    world.shut_gate();
    let mut confirmed = publish(&world.vhost.url(), "kept.event", 1_500);
    let rounds = size(3, 10);
    for round in 0..rounds {
        // Some run through, then all that run stand still.
        world.open_gate();
        log.await_growth(2_000);
        world.shut_gate();
        // However many came through meanwhile: again there are more than a window takes.
        confirmed.extend(publish_more(&world.vhost.url(), "kept.event", 1_500 + 600 * round as u64..2_100 + 600 * round as u64));
        let mut still: Option<(BTreeSet<u64>, Instant)> = None;
        let running = until("as many run as may, and stand still", || {
            let now = running(&log.entries());
            match &still {
                // One that had passed the gate before it was shut has ended by now.
                Some((before, since)) if *before == now => (now.len() == CONCURRENCY && since.elapsed() > Duration::from_secs(1)).then_some(now),
                _ => {
                    still = Some((now, Instant::now()));
                    None
                }
            }
        });
        let in_hand = until("the window is full of neighbours", || world.vhost.queue(QUEUE).map(|queue| queue.unacked).filter(|unacked| *unacked > 100));
        service.kill();
        charged.extend(running);
        say!("kill {round}: {CONCURRENCY} ran, {in_hand} were in hand");
        service = world.serve();
    }
    world.open_gate();
    let account = settle("killed mid-handler", &world, &confirmed);
    let charges: BTreeSet<u64> = log.entries().iter().filter(|entry| entry.attempt > 1).map(|entry| entry.id).collect();
    assert_eq!(charges, charged, "an attempt is charged to what ran, and to nothing else");
    assert!(account.charged == rounds * CONCURRENCY && account.dead.is_empty(), "{account:?}");
    assert!(account.repeated <= rounds * (CONCURRENCY + ACK_BATCH), "{account:?}");
    let _ = service.stop();
}

#[test]
fn kills_at_random_times_under_load_lose_nothing_and_repeat_little() {
    let world = World::new(Broker::shared().vhost(), &kept("dedup = false"));
    let log = world.log("kept");
    let mut service = world.serve();
    let load = Load::start(&world.vhost.url(), "kept.event", size(150, 400));
    let kills = size(12, 100);
    let mut seed = 0xD1B5_4A32_D192_ED03_u64;
    for _ in 0..kills {
        log.await_growth(1 + chance(&mut seed, 1_500));
        std::thread::park_timeout(Duration::from_millis(chance(&mut seed, 50)));
        service.kill();
        service = world.serve();
    }
    let confirmed = load.end();
    let account = settle("killed at random", &world, &confirmed);
    assert!(account.repeated <= kills * (CONCURRENCY + ACK_BATCH), "{account:?}");
    assert!(account.charged <= kills * CONCURRENCY, "{account:?}");
    let _ = service.stop();
}

#[test]
fn an_event_that_kills_the_router_is_a_dead_letter_in_the_end_and_its_neighbours_are_handled() {
    let world = World::new(Broker::shared().vhost(), &kept("crashes_max = 3"));
    let service = world.serve();
    let mut confirmed = publish(&world.vhost.url(), "kept.event", 300);
    world.await_empty(QUEUE);
    let _ = service.stop();
    let poison = body(1_000, 3, 1_000, "kill");
    wait(async {
        let client = AmqpClient::connect(&world.vhost.url()).await;
        let events = (1_001..1_100).map(|id| body(id, id % 5, id, "done"));
        let events = std::iter::once(poison.clone()).chain(events).map(|body| ("kept.event".to_owned(), body, persistent()));
        assert_eq!(client.publish_all(EXCHANGE, events).await, 100);
        client.close().await;
    });
    confirmed.extend(1_000..1_100);
    let mut deaths = 0;
    let service = loop {
        let mut service = Service::begin(world.command());
        let over = until("the router is killed or has handled everything", || {
            let handled: BTreeSet<u64> = world.log("kept").of("done").iter().map(|entry| entry.id).collect();
            match service.ended() {
                Some(status) => Some(Some(status)),
                None => (handled.len() == 399).then_some(None),
            }
        });
        let Some(status) = over else { break service };
        assert_eq!(status.signal(), Some(9), "{status:?}:\n{}", service.log().join("\n"));
        deaths += 1;
        assert!(deaths <= 3, "the router died {deaths} times");
    };
    assert_eq!(deaths, 3, "`crashes_max` is 3");
    world.await_empty(QUEUE);
    let client = world.client();
    let letters = wait(client.look(DEAD));
    assert_eq!(letters.iter().map(|letter| letter.body.clone()).collect::<Vec<_>>(), [poison], "byte for byte");
    let account = settle("poison that kills", &world, &confirmed);
    // Those that ran beside it the first time; afterwards it runs alone.
    assert!(account.charged <= 2 + CONCURRENCY && account.repeated <= CONCURRENCY + ACK_BATCH, "{account:?}");
    let _ = service.stop();
}

#[test]
fn bodies_that_are_too_large_or_no_json_are_dead_letters_byte_for_byte() {
    let world = World::new(Broker::shared().vhost(), &format!("[limits]\nbody_bytes_max = 4_096\n{}", kept("")));
    let service = world.serve();
    let mut bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"not json".to_vec(),
        b"\xff\xfe\x00 not even text".to_vec(),
        b"{\"event_id\": \"torn".to_vec(),
        b"{} {}".to_vec(),
        vec![b'['; 4_000],
        vec![b'x'; 5_000],
        body(0, 0, 0, &"y".repeat(200_000)),
    ];
    let sound = body(1, 1, 1, "done");
    wait(async {
        let client = AmqpClient::connect(&world.vhost.url()).await;
        let events = bodies.iter().chain([&sound]).map(|body| ("kept.event".to_owned(), body.clone(), persistent()));
        assert_eq!(client.publish_all(EXCHANGE, events).await, bodies.len() + 1);
        client.close().await;
    });
    world.await_empty(QUEUE);
    until("the sound one is handled", || world.log("kept").of("done").iter().any(|entry| entry.id == 1).then_some(()));
    let client = world.client();
    let mut letters: Vec<Vec<u8>> = wait(client.drain(DEAD)).into_iter().map(|letter| letter.body).collect();
    letters.sort();
    bodies.sort();
    assert!(letters == bodies, "{} of {} letters are there, byte for byte", letters.iter().filter(|letter| bodies.contains(letter)).count(), bodies.len());
    assert_eq!(world.log("kept").of("begun").len(), 1, "no handler has seen them");
    let _ = service.stop();
}

/// A figure of a process, in bytes: `VmRSS` is what it has in memory now, `VmHWM` the most that it ever had.
fn memory(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the router runs");
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':')).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a figure") * 1_024
}

#[test]
fn a_huge_body_is_a_dead_letter_byte_for_byte_and_costs_no_more_memory_than_a_few_copies() {
    let world = World::new(Broker::shared().vhost(), &kept(""));
    let service = world.serve();
    // RabbitMQ 4 takes no more than 16 MiB.
    let mebibytes: u64 = if world.vhost.broker().major() >= 4 { 15 } else { size(32, 64) };
    let bytes = mebibytes * 1_024 * 1_024;
    let huge = body(0, 0, 0, &"y".repeat(usize::try_from(bytes).expect("it fits")));
    let client = world.client();
    let before = memory(service.pid(), "VmRSS");
    assert!(wait(client.publish(EXCHANGE, "kept.event", &huge)));
    assert!(wait(client.publish(EXCHANGE, "kept.event", &body(1, 0, 1, "done"))));
    until("the sound one is handled", || world.log("kept").of("done").iter().any(|entry| entry.id == 1).then_some(()));
    world.await_empty(QUEUE);
    let most = memory(service.pid(), "VmHWM") - before;
    say!("a body of {mebibytes} MiB: at most {} MiB more in memory", most / 1_024 / 1_024);
    let letters: Vec<Vec<u8>> = wait(client.drain(DEAD)).into_iter().map(|letter| letter.body).collect();
    assert!(letters == [huge], "{} letters, or not byte for byte", letters.len());
    assert_eq!(world.log("kept").of("begun").len(), 1, "no handler has seen it");
    // The body in hand, and what lapin has of it on its way in and out.
    assert!(most <= 6 * bytes, "{most} bytes for a body of {bytes}");
    let _ = service.stop();
}
