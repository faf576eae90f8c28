//! The broker goes away and comes back.

use std::{collections::HashSet, fs, process::Command, time::Duration};

use router_api::{Transport, TransportError};
use router_tests::Broker;
use tokio::time::Instant;

use crate::house::{PATIENCE, collector, event, options, publish_until_safe, reached, start, until, within};

/// Set for the process that a test runs itself in.
const ALONE: &str = "EVENT_ROUTER_TEST_ALONE";

/// Threads of this process.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("the process has threads").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_cuts_lose_no_event_that_was_safe_and_leave_nothing_behind() {
    // In a process of its own, whose threads are counted: beside it other tests come and go with theirs.
    if std::env::var_os(ALONE).is_none() {
        let mut alone = Command::new(std::env::current_exe().expect("a running test has a path"));
        alone.args(["--exact", "outages::two_hundred_cuts_lose_no_event_that_was_safe_and_leave_nothing_behind", "--nocapture"]).env(ALONE, "1");
        let ran = tokio::task::block_in_place(|| alone.output()).expect("the test binary runs");
        let told = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && told.contains("1 passed"), "{told}");
        println!("{told}");
        return;
    }
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let proxy = vhost.broker().proxy();
    let transport = reached(options(&vhost.url_through(&proxy))).await;
    let mut safe = HashSet::new();
    let mut worst = Duration::ZERO;
    let mut before = 0;
    for cut in 0..200 {
        let batch: Vec<String> = (0..8).map(|at| format!("{cut}-{at}")).collect();
        let publishing = futures_util::future::join_all(batch.iter().map(|body| publish_until_safe(&transport, "a.b", body)));
        let cutting = async {
            // In the middle, at its begin, at its end: as it comes.
            for _ in 0..cut % 5 {
                tokio::task::yield_now().await;
            }
            proxy.cut();
        };
        let begun = Instant::now();
        let (published, ()) = tokio::join!(publishing, cutting);
        assert!(published.iter().all(|published| published.routed));
        worst = worst.max(begun.elapsed());
        safe.extend(batch);
        if cut == 20 {
            before = threads();
        }
    }
    let after = threads();
    println!("the slowest came through {worst:?} after its cut; {before} threads, then {after}");
    let lain: HashSet<String> = client.drain("all").await.into_iter().map(|message| String::from_utf8(message.body).expect("text")).collect();
    assert!(safe.is_subset(&lain), "{} of {} are there", safe.intersection(&lain).count(), safe.len());
    assert!(after < before + 20, "threads are left behind: {before}, then {after}");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_is_found_again_and_nothing_that_was_safe_is_lost() {
    let broker = Broker::start();
    let vhost = broker.vhost();
    let _client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url())).await;
    let mut safe = HashSet::new();
    for restart in 0..2 {
        for at in 0..50 {
            let body = format!("{restart}-{at}");
            publish_until_safe(&transport, "a.b", &body).await;
            safe.insert(body);
        }
        if restart == 0 {
            broker.stop()
        } else {
            broker.kill()
        }
        until("the loss is noticed", || !transport.condition().reachable).await;
        let answer = transport.publish(event("a.b", "while it is away")).await;
        assert!(matches!(answer, Err(TransportError::Unavailable(_))), "{answer:?}");
        broker.launch();
        until("it is found again", || transport.condition().accepts).await;
        broker.await_start();
        assert_eq!(transport.condition().reconnects, restart + 1);
    }
    let client = router_tests::AmqpClient::connect(&vhost.url()).await;
    let lain: HashSet<String> = client.drain("all").await.into_iter().map(|message| String::from_utf8(message.body).expect("text")).collect();
    assert!(safe.is_subset(&lain), "{} of {} are there", safe.intersection(&lain).count(), safe.len());
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nothing_comes_through_any_more_is_given_up() {
    let vhost = Broker::shared().vhost();
    let _client = collector(&vhost.url(), "all", "#").await;
    let proxy = vhost.broker().proxy();
    let transport = reached(router_amqp::AmqpOptions { heartbeat: Duration::from_secs(3), ..options(&vhost.url_through(&proxy)) }).await;
    proxy.half_open();
    let begun = Instant::now();
    until("the silence is noticed", || transport.condition().reconnects > 0 && transport.condition().accepts).await;
    println!("half-open, with a heartbeat of 3 s: found again after {:?}", begun.elapsed());
    assert!(publish_until_safe(&transport, "a.b", "after").await.routed);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_ever_for_a_broker_that_stands_still() {
    let broker = Broker::start();
    let vhost = broker.vhost();
    let _client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url())).await;
    broker.freeze();
    let answer = within("an answer", transport.publish(event("a.b", "1"))).await;
    assert!(matches!(answer, Err(TransportError::Unavailable(_))), "{answer:?}");
    within("the end", transport.close()).await;
    let answer = within("an answer after the end", transport.publish(event("a.b", "2"))).await;
    assert!(matches!(answer, Err(TransportError::Unavailable(_))), "{answer:?}");
    broker.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_comes_at_once_while_the_broker_is_away() {
    let proxy = Broker::shared().proxy();
    proxy.refuse();
    let transport = start(options(&format!("amqp://router:x@{}/", proxy.address())));
    until("the first try has failed", || !transport.condition().troubles.iter().all(|trouble| trouble.contains("not reached yet"))).await;
    within("the end", transport.close()).await;
    // And while it swallows everything.
    proxy.heal();
    proxy.black_hole();
    let transport = start(options(&format!("amqp://router:x@{}/", proxy.address())));
    proxy.await_counters("a connection is tried", |counters| counters.accepted > 0);
    within("the end", transport.close()).await;
    assert!(transport.reached(PATIENCE).await.is_err());
}
