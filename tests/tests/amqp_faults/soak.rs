//! Ten minutes of random faults, and neither memory nor descriptors grow.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use router_tests::{After, Broker, Towards};

use crate::{
    load::Load,
    oracle::settle,
    outages::chance,
    world::{World, kept, until},
};

/// How long, in seconds; ten minutes unless `EVENT_ROUTER_TEST_SOAK_S` says otherwise.
fn length() -> Duration {
    let seconds = std::env::var("EVENT_ROUTER_TEST_SOAK_S").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(600))
}

/// Memory of a process in KiB, and its open descriptors.
fn weight(pid: u32) -> (u64, usize) {
    let process = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(process.join("status")).expect("the router runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let resident = resident.trim().trim_end_matches(" kB").parse().expect("a figure");
    (resident, fs::read_dir(process.join("fd")).expect("the router runs").count())
}

#[test]
#[ignore = "ten minutes: tests/run --soak"]
fn ten_minutes_of_random_faults_lose_nothing_and_leave_nothing_behind() {
    let broker = Broker::start();
    let vhost = Arc::new(broker.vhost());
    let proxy = broker.proxy();
    let url = vhost.url_through(&proxy);
    let world = World::at(vhost, Some(url), "heartbeat_s = 2", &kept(""));
    let mut service = world.serve();
    let load = Load::start(&world.vhost.url(), "kept.event", 100);
    let log = world.log("kept");
    let mut seed = u64::from(std::process::id());
    say!("seed {seed}");
    let (begun, length) = (Instant::now(), length());
    let (mut weights, mut lives, mut faults) = (Vec::new(), 1, 0);
    while begun.elapsed() < length {
        // The router lives for the first half of the time, so that what grows can be seen to grow; kills come in the second half.
        let kinds = if begun.elapsed() < length / 2 { 6 } else { 8 };
        let fault = chance(&mut seed, kinds);
        faults += 1;
        match fault {
            0 => {
                broker.stop();
                broker.begin();
            }
            1 => {
                broker.kill();
                broker.begin();
            }
            2 | 3 => {
                let towards = if chance(&mut seed, 2) == 0 { Towards::Broker } else { Towards::Client };
                let (whole, bytes) = (chance(&mut seed, 200), usize::try_from(chance(&mut seed, 12)).expect("few"));
                proxy.cut_after(towards, After::Frames { whole, bytes });
                until("the cut comes", || (!proxy.is_armed()).then_some(()));
            }
            4 => proxy.half_open(),
            5 => {
                broker.raise_memory_alarm();
                std::thread::park_timeout(Duration::from_secs(2));
                broker.end_memory_alarm();
            }
            6 => {
                service.kill();
                service = world.serve();
                lives += 1;
            }
            _ => {
                let _ = service.stop();
                service = world.serve();
                lives += 1;
            }
        }
        let recovery = log.await_growth(500);
        if lives == 1 {
            weights.push(weight(service.pid()));
        }
        say!("{:>4} s: fault {fault}, going on after {recovery:?}, {:?}", begun.elapsed().as_secs(), weight(service.pid()));
    }
    let confirmed = load.end();
    let account = settle("soak", &world, &confirmed);
    assert!(account.dead.is_empty() && account.charged <= lives * 8, "{account:?}");
    say!("{faults} faults, {lives} lives of the router, {account:?}");
    // The first third is for caches and pools to fill.
    let settled = &weights[weights.len() / 3..];
    if let (Some(first), Some(last)) = (settled.iter().take(5).map(|weight| weight.0).max(), settled.iter().rev().take(5).map(|weight| weight.0).min()) {
        assert!(last <= first + first / 4 + 16 * 1024, "memory grows: {first} KiB, then {last} KiB");
    }
    if let (Some(first), Some(last)) = (settled.iter().take(5).map(|weight| weight.1).max(), settled.iter().rev().take(5).map(|weight| weight.1).min()) {
        assert!(last <= first + 10, "descriptors are left behind: {first}, then {last}");
    }
    let _ = service.stop();
}
