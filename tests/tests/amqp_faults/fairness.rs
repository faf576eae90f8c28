//! A lane that fails does not slow down the others.

use std::time::{Duration, Instant};

use router_tests::{Broker, amqp_client::persistent};

use crate::{
    load::body,
    world::{EXCHANGE, World, kept, size, until, wait},
};

/// Puts events of healthy lanes into the queue and measures how long they take once they may run.
fn round(world: &World, number: u64) -> Duration {
    let client = world.client();
    let (first, count) = (10_000 * (1 + number), size(600_u64, 5_000));
    let log = world.log("kept");
    let before = log.of("done").len();
    world.shut_gate();
    let events = (first..first + count).map(|id| ("kept.event".to_owned(), body(id, 1 + id % 12, id, "done"), persistent()));
    assert_eq!(wait(client.publish_all(EXCHANGE, events)) as u64, count);
    until("as many run as may", || (log.of("begun").len() >= log.entries().iter().filter(|entry| entry.what != "begun").count() + 8).then_some(()));
    world.open_gate();
    let begun = Instant::now();
    // By its size, which costs nothing to look at; each event is two lines.
    until("all are handled", || (log.of("done").len() >= before + usize::try_from(count).expect("few")).then_some(()));
    begun.elapsed()
}

#[test]
fn a_lane_that_waits_five_minutes_leaves_the_others_their_speed() {
    let retry = "retry = { attempts_max = 5, first_delay_ms = 300_000, max_delay_ms = 300_000 }";
    let worlds = [(), ()].map(|()| World::new(Broker::shared().vhost(), &kept(retry)));
    worlds.iter().for_each(|world| world.retry_after(Duration::from_secs(300)));
    let services = [worlds[0].serve(), worlds[1].serve()];
    let [healthy, failing] = &worlds;
    let client = failing.client();
    let events = (0..50).map(|id| ("kept.event".to_owned(), body(id, 0, id, "retry"), persistent()));
    assert_eq!(wait(client.publish_all(EXCHANGE, events)), 50);
    until("the first has failed and is waited for", || (!failing.log("kept").of("retry").is_empty()).then_some(()));
    // One after the other, so that what else the machine does meets both. It meets them unequally, so what counts is the best of each,
    // or the median of the pairs, over as many rounds as it takes: a difference that is real does not go away.
    let (mut undisturbed, mut disturbed, mut pairs) = (Duration::MAX, Duration::MAX, Vec::new());
    let mut ratio = 0.0;
    for number in 0..20 {
        let (alone, beside) = (round(healthy, number), round(failing, number));
        (undisturbed, disturbed) = (undisturbed.min(alone), disturbed.min(beside));
        pairs.push(alone.as_secs_f64() / beside.as_secs_f64());
        pairs.sort_by(f64::total_cmp);
        let (best, median) = (undisturbed.as_secs_f64() / disturbed.as_secs_f64(), pairs[pairs.len() / 2]);
        ratio = f64::max(best, median);
        say!("round {number}: {alone:?} undisturbed, {beside:?} beside a lane that waits: {best:.2} of the rate by the best, {median:.2} by the median");
        if number >= 2 && ratio >= 0.9 {
            break;
        }
    }
    assert!(ratio >= 0.9, "beside a lane that waits the others have {ratio:.2} of their rate");
    assert_eq!(failing.log("kept").of("retry").len(), 1, "those behind it wait too");
    for service in services {
        let _ = service.stop();
    }
}
