//! The memory of the program as it is shipped, before anybody has asked it anything and when 64 clients have.

use std::{fs, process::Command, time::Duration};

use crate::{Failed, door, events, process, samples::Samples, served, served::Served, settings::Settings};

/// For what a start leaves to be given back.
const SETTLES: Duration = Duration::from_secs(1);

/// MiB that a process has now.
fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1_024.0)
}

/// Idle, and the most under load.
pub fn measure(settings: &Settings, samples: &mut Samples) -> Result<(), Failed> {
    let directory = tempfile::Builder::new().prefix("bench-embedded").tempdir_in(&settings.directory)?;
    served::configure(directory.path(), "handler = \"log\"")?;
    let served = Served::start(Command::new(&settings.event_router), directory.path())?;
    std::thread::sleep(SETTLES);
    samples.add("idle memory", rss_mib(served.pid()));
    let mut clients = vec![Vec::new(); 64];
    for number in 0..settings.events(12_800).next_multiple_of(64) {
        let (key, body, _) = events::event(number as u64, 0);
        clients[number % 64].push(door::request(served.address, &key, &[&body]));
    }
    door::send(served.address, clients)?;
    samples.add("memory under load", process::peak_rss_mib(served.pid()).unwrap_or(f64::NAN));
    println!("  memory: idle {}, under load {}", samples.cell("idle memory", 1), samples.cell("memory under load", 1));
    Ok(())
}
