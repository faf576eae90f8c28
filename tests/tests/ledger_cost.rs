//! What the ledger costs: the same events through two routes of one router, of which one keeps a ledger of its writes, by turns.
//!
//! It measures, and fails only when an event is lost; `tests/run --ledger` prints the figures.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use router_tests::{Home, Service};
use serde_json::json;

/// Of each route in each round.
const EVENTS: usize = 400;
const ROUNDS: usize = 8;

/// Longer than a round takes on a slow machine under load.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server that answers everything with 204, over connections that stay.
fn target() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface is there");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let Ok(mut answers) = stream.try_clone() else { return };
                let mut requests = BufReader::new(stream);
                let (mut line, mut length) = (String::new(), 0);
                while requests.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if let Some(told) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = told.trim().parse().unwrap_or(0);
                    }
                    if line.trim().is_empty() {
                        let mut body = vec![0; length];
                        if std::io::Read::read_exact(&mut requests, &mut body).is_err() || answers.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
                            return;
                        }
                        length = 0;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// Handles so many events at a time, and whether it keeps a ledger.
const ROUTES: [(&str, u32, bool); 4] = [("one-noted", 1, true), ("one-plain", 1, false), ("eight-noted", 8, true), ("eight-plain", 8, false)];

fn handled(home: &Home, key: &str) -> usize {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    let query = "SELECT count(*) FROM deliveries JOIN events ON events.seq = deliveries.seq WHERE deliveries.state = 2 AND events.key = ?1";
    store.query_row(query, [key], |row| row.get::<_, i64>(0)).map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// Processor time of a process so far, in milliseconds.
fn processor_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the router runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time, in ticks, of which Linux tells a hundred a second.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() * 10.0
}

/// Events a second, and milliseconds of processor time for each event.
fn measured(home: &Home, service: &Service, name: &str, round: usize) -> (f64, f64) {
    let _ = home.run(&["routes", "pause", name]).code(0);
    let key = format!("{name}.{round}");
    for number in 0..EVENTS {
        let id = format!("{name}-{round}-{number}");
        service.send(&key, &json!({ "event_id": id, "event_type": key, "payload": { "session_id": "s-1", "text": "x".repeat(500) } }));
    }
    let (begun, before) = (Instant::now(), processor_ms(service.pid()));
    let _ = home.run(&["routes", "resume", name]).code(0);
    while handled(home, &key) < EVENTS {
        assert!(begun.elapsed() < PATIENCE, "{name}: not all of {EVENTS} events are handled");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let events = f64::from(u32::try_from(EVENTS).expect("it is small"));
    (events / begun.elapsed().as_secs_f64(), (processor_ms(service.pid()) - before) / events)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[test]
#[ignore = "measures: tests/run --ledger"]
#[expect(clippy::print_stdout, reason = "the figures are the result")]
fn what_the_ledger_costs() {
    let address = target();
    let route = |(name, concurrency, ledger): (&str, u32, bool)| {
        format!(
            "[[route]]\nname = \"{name}\"\non = [\"{name}.*\"]\nhandler = \"webhook\"\nconcurrency = {concurrency}\nledger = {ledger}\nwith = {{ url = \"http://{address}/\" }}\n"
        )
    };
    let home = Home::new(&ROUTES.map(route).concat());
    let service = home.serve();
    let (mut rates, mut costs): ([Vec<f64>; 4], [Vec<f64>; 4]) = Default::default();
    for round in 0..=ROUNDS {
        // Each is the first one as often.
        let mut order = [0, 1, 2, 3];
        order.rotate_left(round % 4);
        for place in order {
            let (rate, cost) = measured(&home, &service, ROUTES[place].0, round);
            // The first round warms up.
            if round > 0 {
                rates[place].push(rate);
                costs[place].push(cost);
            }
        }
    }
    service.stop();
    let ratio = |with: &[f64], without: &[f64]| median(with.iter().zip(without).map(|(with, without)| with / without).collect());
    for pair in 0..2 {
        let (noted, plain) = (2 * pair, 2 * pair + 1);
        println!(
            "{} at a time: with the ledger {:.0} events a second, {:.2} of those without; {:.2} ms of processor time for each, {:.2} times that without (medians of {ROUNDS} rounds)",
            ROUTES[noted].1,
            median(rates[noted].clone()),
            ratio(&rates[noted], &rates[plain]),
            median(costs[noted].clone()),
            ratio(&costs[noted], &costs[plain]),
        );
    }
}
