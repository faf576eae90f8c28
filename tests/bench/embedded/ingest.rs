//! The way in: from a request to a handled event by the whole program; from a call to a stored event by the store; the same rows by SQLite
//! alone; the same bytes by the disk alone. All with the same number of events in one sync.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_router::SystemClock;
use router_api::{Clock, DecodeLimits, Envelope, Matcher, Publication, RoutingKey, Subscription, Transport as _};
use router_embedded::{Embedded, EmbeddedOptions};
use rusqlite::{Connection, params};

use crate::{
    Failed, door, events, process,
    samples::Samples,
    served::{self, Served},
    settings::Settings,
};

/// Who sends how.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// In the results.
    pub name: &'static str,
    pub clients: usize,
    /// Events of one request.
    pub batch: usize,
    /// Events of one sync, for those who are compared: as many as can be under way at once, and no more than the store's writer takes.
    pub group: usize,
    /// Events of one round.
    events: usize,
}

/// From one event at a time to as many as the writer takes.
pub const CASES: [Case; 4] = [
    Case { name: "1 client, single", clients: 1, batch: 1, group: 1, events: 1_000 },
    Case { name: "64 clients, single", clients: 64, batch: 1, group: 64, events: 12_800 },
    Case { name: "1 client, batches of 64", clients: 1, batch: 64, group: 64, events: 12_800 },
    Case { name: "64 clients, batches of 64", clients: 64, batch: 64, group: 512, events: 24_576 },
];

impl Case {
    /// Name of a value of this case.
    pub fn of(&self, what: &str) -> String {
        format!("{what}, {}", self.name)
    }
}

/// An event before it is sent.
struct Event {
    key: RoutingKey,
    body: Bytes,
}

fn made(count: usize) -> Result<Vec<Event>, Failed> {
    let event = |number| {
        let (key, body, _) = events::event(number as u64, 0);
        Ok(Event { key: key.parse()?, body: body.into() })
    };
    (0..count).map(event).collect()
}

/// Measures all four in turn.
pub fn measure(settings: &Settings, case: Case, samples: &mut Samples) -> Result<(), Failed> {
    // A whole number of requests of each client.
    let step = case.clients * case.batch;
    let count = settings.events(case.events).next_multiple_of(step);
    let events = made(count)?;
    let directory = || tempfile::Builder::new().prefix("bench-embedded").tempdir_in(&settings.directory);

    let (rate, cpu) = by_http(directory()?.path(), case, &events)?;
    samples.add(case.of("http"), rate);
    samples.add(case.of("http cpu"), cpu);
    let stored = by_store(directory()?.path(), &events, case.group, true, &[])?;
    samples.add(case.of("store"), count as f64 / stored.time.as_secs_f64());
    samples.add(case.of("store cpu"), stored.cpu * 1e6 / count as f64);
    samples.add(case.of("store at once"), stored.at_once);
    let (rate, cpu) = timed(count, || by_sqlite(directory()?.path(), &events, case.group))?;
    samples.add(case.of("sqlite"), rate);
    samples.add(case.of("sqlite cpu"), cpu);
    let (rate, _) = timed(count, || by_file(directory()?.path(), &events, case.group))?;
    samples.add(case.of("file"), rate);
    let text = |what: &str| samples.cell(&case.of(what), 0);
    println!("  {}: http {}, store {}, sqlite {}, file {}", case.name, text("http"), text("store"), text("sqlite"), text("file"));
    Ok(())
}

/// What a matcher is that wants everything.
struct Everything;

impl Matcher for Everything {
    fn matches(&self, _: &Envelope) -> bool {
        true
    }

    fn lane(&self, _: &Envelope) -> Option<String> {
        None
    }
}

/// Name of the shipped program among those that are compared.
pub const SHIPPED: &str = "this build";

/// The way in of the shipped program and of others, in turn, with the `log` handler, since nobody has more in common.
pub fn against(settings: &Settings, case: Case, samples: &mut Samples) -> Result<(), Failed> {
    let events = made(settings.events(case.events).next_multiple_of(case.clients * case.batch))?;
    let others = settings.against.iter().map(|program| (program.display().to_string(), program));
    for (name, program) in [(SHIPPED.to_owned(), &settings.event_router)].into_iter().chain(others) {
        let directory = tempfile::Builder::new().prefix("bench-embedded").tempdir_in(&settings.directory)?;
        served::configure(directory.path(), "handler = \"log\"")?;
        let served = Served::start(Command::new(program), directory.path())?;
        let clients = requests(served.address, case, &events);
        let (begun, cpu) = (Instant::now(), served.cpu_seconds());
        door::send(served.address, clients)?;
        served.has_handled(events.len())?;
        let seconds = begun.elapsed().as_secs_f64();
        samples.add(case.of(&name), events.len() as f64 / seconds);
        samples.add(case.of(&format!("{name} cpu")), (served.cpu_seconds() - cpu) * 1e6 / events.len() as f64);
    }
    Ok(())
}

/// The store path with one route and with ten thousand others beside it. Without syncs: their time would hide what is looked for.
pub fn with_many_routes(settings: &Settings, samples: &mut Samples) -> Result<(), Failed> {
    let count = settings.events(20_480).next_multiple_of(64);
    let events = made(count)?;
    let many: Vec<String> = (0..9_999).map(|number| format!("session.k{number}.#")).collect();
    let directory = || tempfile::Builder::new().prefix("bench-embedded").tempdir_in(&settings.directory);
    // Twice each, the other way round the second time, since who comes second finds a warm machine.
    let mut seconds = [0.0; 2];
    for place in [0, 1, 1, 0] {
        let others: &[String] = if place == 0 { &[] } else { &many };
        seconds[place] += by_store(directory()?.path(), &events, 64, false, others)?.time.as_secs_f64();
    }
    samples.add("1 route", 2.0 * count as f64 / seconds[0]);
    samples.add("10000 routes", 2.0 * count as f64 / seconds[1]);
    println!("  1 route {}, 10000 routes {}", samples.cell("1 route", 0), samples.cell("10000 routes", 0));
    Ok(())
}

/// Events a second, and microseconds of processor time an event.
fn timed(count: usize, run: impl FnOnce() -> Result<(Duration, f64), Failed>) -> Result<(f64, f64), Failed> {
    let (time, cpu) = run()?;
    Ok((count as f64 / time.as_secs_f64(), cpu * 1e6 / count as f64))
}

fn own_cpu() -> f64 {
    process::cpu_seconds(std::process::id()).unwrap_or(f64::NAN)
}

/// Of each client.
fn requests(address: SocketAddr, case: Case, events: &[Event]) -> Vec<Vec<Vec<u8>>> {
    let mut clients = vec![Vec::new(); case.clients];
    for (number, batch) in events.chunks(case.batch).enumerate() {
        let bodies: Vec<&[u8]> = batch.iter().map(|event| event.body.as_ref()).collect();
        clients[number % case.clients].push(door::request(address, batch[0].key.as_str(), &bodies));
    }
    clients
}

/// From the first request to the last handling.
fn by_http(directory: &Path, case: Case, events: &[Event]) -> Result<(f64, f64), Failed> {
    let served = Served::with_nothing(directory, events.len())?;
    let clients = requests(served.address, case, events);
    let (begun, cpu) = (Instant::now(), served.cpu_seconds());
    door::send(served.address, clients)?;
    served.handled()?;
    let seconds = begun.elapsed().as_secs_f64();
    let count = events.len() as f64;
    Ok((count / seconds, (served.cpu_seconds() - cpu) * 1e6 / count))
}

fn subscription(name: &str, pattern: &str) -> Result<Subscription, Failed> {
    Ok(Subscription { route: name.parse()?, patterns: vec![pattern.parse()?], matcher: Arc::new(Everything), queue: Default::default() })
}

async fn opened(directory: &Path, sync: bool, others: &[String]) -> Result<Arc<Embedded>, Failed> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Embedded::open(EmbeddedOptions { sync, ..EmbeddedOptions::new(directory.join("router.db")) }, clock)?;
    let mut subscriptions = vec![subscription("bench", "session.thread.#")?];
    for (number, pattern) in others.iter().enumerate() {
        subscriptions.push(subscription(&format!("other-{number}"), pattern)?);
    }
    store.bind(&subscriptions).await?;
    Ok(store)
}

/// Publishers with one event under way each, enough of them that `group` are in a commit: those who wait for one bring nothing to it.
fn by_store(directory: &Path, events: &[Event], group: usize, sync: bool, others: &[String]) -> Result<Stored, Failed> {
    let publishers = if group == 1 { 1 } else { 2 * group };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store = opened(directory, sync, others).await?;
        let mut shares = vec![Vec::new(); publishers];
        for (number, event) in events.iter().enumerate() {
            shares[number % publishers].push(Publication::new(event.key.clone(), event.body.clone()));
        }
        let before = store.measures().commits;
        let (begun, cpu) = (Instant::now(), own_cpu());
        let mut publishing = tokio::task::JoinSet::new();
        for share in shares {
            let store = Arc::clone(&store);
            publishing.spawn(async move {
                for publication in share {
                    store.publish(publication).await?;
                }
                Ok::<(), Failed>(())
            });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        let (time, cpu) = (begun.elapsed(), own_cpu() - cpu);
        let commits = store.measures().commits.saturating_sub(before).max(1);
        store.close().await;
        Ok(Stored { time, cpu, at_once: events.len() as f64 / commits as f64 })
    })
}

/// What came of the store path.
struct Stored {
    time: Duration,
    /// Processor seconds.
    cpu: f64,
    /// Events in a commit.
    at_once: f64,
}

/// What the store's rows hold besides the body, known before the clock runs.
struct PlainRow<'a> {
    event: &'a Event,
    id: String,
    session: String,
    tool: String,
    happened_at: i64,
}

/// The rows that the store would write for these events and one route, into the same tables, by one thread that does nothing else.
fn by_sqlite(directory: &Path, events: &[Event], group: usize) -> Result<(Duration, f64), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        opened(directory, true, &[]).await?.close().await;
        Ok::<(), Failed>(())
    })?;
    let mut conn = Connection::open(directory.join("router.db"))?;
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;")?;
    let route: i64 = conn.query_row("SELECT id FROM routes WHERE name = 'bench'", [], |row| row.get(0))?;
    let rows = events.iter().map(|event| {
        let envelope = Envelope::decode(event.key.clone(), event.body.clone(), DecodeLimits::default())?;
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Ok::<_, Failed>(PlainRow {
            event,
            id: text(envelope.id().map(|id| id.as_str())),
            session: text(envelope.session_id()),
            tool: text(envelope.tool_name()),
            happened_at: envelope.time().map_or(0, jiff::Timestamp::as_microsecond),
        })
    });
    let rows: Vec<PlainRow<'_>> = rows.collect::<Result<_, _>>()?;
    let (begun, cpu) = (Instant::now(), own_cpu());
    for chunk in rows.chunks(group) {
        let tx = conn.transaction()?;
        for row in chunk {
            let seq = tx
                .prepare_cached(
                    "INSERT INTO events (key, stored_at, hops, redactions, wanted, event_id, dialect, event_type, session, happened_at, tool_name, traceparent, crc, body)
                     VALUES (?1, ?2, 0, 0, 1, ?3, 'v2', ?1, ?4, ?5, ?6, NULL, 2882400000, ?7)",
                )?
                .insert(params![row.event.key.as_str(), row.happened_at, row.id, row.session, row.happened_at, row.tool, row.event.body.as_ref()])?;
            tx.prepare_cached("INSERT INTO deliveries (route, seq, state, lane, at) VALUES (?1, ?2, 0, NULL, ?3)")?.execute(params![
                route,
                seq,
                row.happened_at
            ])?;
        }
        tx.commit()?;
    }
    Ok((begun.elapsed(), own_cpu() - cpu))
}

/// The bodies alone, appended.
fn by_file(directory: &Path, events: &[Event], group: usize) -> Result<(Duration, f64), Failed> {
    let mut file = std::fs::File::create(directory.join("events"))?;
    let (begun, cpu) = (Instant::now(), own_cpu());
    let mut bytes = Vec::new();
    for chunk in events.chunks(group) {
        bytes.clear();
        for event in chunk {
            bytes.extend_from_slice(&event.body);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    Ok((begun.elapsed(), own_cpu() - cpu))
}
