//! `demo --crash`: a router of its own is killed again and again under load, and what was accepted is compared with what became of it.
//!
//! Nothing of the comparison is the router's word. What was accepted is what this process got an answer for; what was handled is what
//! the handlers wrote into a file, which are processes of their own (this program, too); the rest is read from the store of the dead router.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use router_api::{Admin as _, Chance as _, Clock, DeliveryState, EventQuery, Publication, RoutingKey, Store as _, Transport as _};
use router_effects::Itself;
use router_embedded::{Embedded, EmbeddedOptions};
use router_http::AdminClient;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    Ended,
    system::{OsChance, SystemClock},
    terminal::{BAD, BOLD, DIM, GOOD, Output, counted, styled},
};

const KILLS: u32 = 20;
/// Who publish side by side.
const PUBLISHERS: u64 = 8;
/// Sessions; the events of each are handled in order.
const SESSIONS: u64 = 16;
/// One event of so many is refused by its handler.
const REFUSED_EVERY: u64 = 10;
/// Events that are accepted in each life before its end, at least; and how many more by chance.
const EVENTS_OF_LIFE: u64 = 10;
const EVENTS_BY_CHANCE: u64 = 30;
/// Publishers wait while more than this is accepted and not yet handled.
const BACKLOG_MAX: u64 = 100;
/// Between two looks at what another process does.
const LOOK: Duration = Duration::from_millis(5);
/// For whatever takes milliseconds on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// In bytes; a line of the handlers' file.
const LINE: u64 = 9;
/// Events that are read from the store at once.
const PAGE: u32 = 1_000;

/// Runs it. Ends badly if the numbers do not agree.
pub(super) fn run(out: &mut Output) -> anyhow::Result<Ended> {
    let directory = tempfile::Builder::new().prefix("event-router-demo-").tempdir().context("no temporary directory can be made")?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let story = Story::new(directory.path());
    let told = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            told = story.tell(out) => told,
            // The router is killed as this is dropped, and the directory removed.
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted"),
        }
    });
    runtime.shutdown_timeout(PATIENCE);
    told
}

/// What a handler of this demo does, as a process of its own: it notes the number, or refuses.
pub(super) fn note(path: &Path, number: u64) -> anyhow::Result<Ended> {
    if is_refused(number) {
        return Ok(Ended::Badly);
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("`{}` cannot be written", path.display()))?;
    // One write, so that lines of several processes do not mix.
    file.write_all(line(number).as_bytes())?;
    Ok(Ended::Well)
}

fn is_refused(number: u64) -> bool {
    number.is_multiple_of(REFUSED_EVERY)
}

fn line(number: u64) -> String {
    format!("{number:08}\n")
}

struct Story {
    home: PathBuf,
    clock: SystemClock,
    publishing: Arc<Publishing>,
}

/// What the publishers share.
struct Publishing {
    /// The router that runs, if one does.
    router: watch::Sender<Option<AdminClient>>,
    accepted: Mutex<BTreeSet<u64>>,
    count: AtomicU64,
    handled: PathBuf,
    is_over: AtomicBool,
}

impl Publishing {
    fn accepted(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.accepted.lock().expect("no code panics while it holds the numbers")
    }

    /// Lines that the handlers have written.
    fn lines(&self) -> u64 {
        fs::metadata(&self.handled).map_or(0, |file| file.len() / LINE)
    }

    /// Publishes until it is over. What gets no answer is sent again under the same id, as a producer does that wants to lose nothing.
    async fn publish(self: Arc<Self>, which: u64) {
        let mut router = self.router.subscribe();
        let Ok(key) = "demo.work".parse::<RoutingKey>() else { return };
        let mut number = which;
        while !self.is_over.load(Ordering::SeqCst) {
            if self.count.load(Ordering::SeqCst).saturating_sub(self.lines()) > BACKLOG_MAX + self.count.load(Ordering::SeqCst) / REFUSED_EVERY {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let Some(client) = router.borrow_and_update().clone() else {
                // Its sender outlives the publishers.
                let _ = router.changed().await;
                continue;
            };
            let event = serde_json::json!({
                "event_id": format!("00000000-0000-4000-8000-{number:012}"),
                "event_type": "demo.work",
                "payload": { "session_id": format!("s{}", number % SESSIONS), "number": number },
            });
            match client.publish(Publication::new(key.clone(), event.to_string())).await {
                Ok(_) => {
                    self.accepted().insert(number);
                    self.count.fetch_add(1, Ordering::SeqCst);
                    number += PUBLISHERS;
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// What became of the accepted events.
#[derive(Default)]
struct Tally {
    handled: u64,
    dead: u64,
    waiting: u64,
    /// Of which the store knows nothing, or more than one fate.
    wrong: Vec<u64>,
}

impl Tally {
    fn sum(&self) -> u64 {
        self.handled + self.dead + self.waiting
    }
}

impl Story {
    fn new(directory: &Path) -> Self {
        let home = directory.to_owned();
        let publishing = Publishing {
            router: watch::Sender::new(None),
            accepted: Mutex::default(),
            count: AtomicU64::new(0),
            handled: home.join("handled"),
            is_over: AtomicBool::new(false),
        };
        Self { home, clock: SystemClock, publishing: Arc::new(publishing) }
    }

    async fn tell(&self, out: &mut Output) -> anyhow::Result<Ended> {
        self.configure()?;
        out.line(format_args!("A router in a directory of its own takes events in and runs a command for each. It is killed {KILLS} times with SIGKILL."))?;
        out.gap()?;
        out.flush()?;
        let began = self.clock.monotonic();
        let publishers: Vec<_> = (0..PUBLISHERS).map(|which| tokio::spawn(Arc::clone(&self.publishing).publish(which))).collect();
        for _ in 0..KILLS {
            let router = self.start().await?;
            let goal = self.publishing.count.load(Ordering::SeqCst) + EVENTS_OF_LIFE + OsChance.next_u64() % EVENTS_BY_CHANCE;
            self.until("events are accepted", || self.publishing.count.load(Ordering::SeqCst) >= goal).await?;
            self.publishing.router.send_replace(None);
            router.kill().context("the router had ended before it was killed")?;
        }
        self.publishing.is_over.store(true, Ordering::SeqCst);
        self.publishing.router.send_replace(None);
        for publisher in publishers {
            publisher.await.context("a publisher of the demo ended")?;
        }
        let killed = self.tally().await?;

        let mut router = self.start().await?;
        self.until_nothing_waits().await?;
        router.ask_to_end()?;
        self.publishing.router.send_replace(None);
        let mut ended = None;
        self.until("the router ends", || {
            ended = router.ended().ok().flatten();
            ended.is_some()
        })
        .await?;
        ensure!(ended.is_some_and(|status| status.success()), "the router did not end well: {}", self.log_tail());
        let rest = self.tally().await?;
        self.report(out, &killed, &rest, self.clock.monotonic().saturating_sub(began))
    }

    /// One route, whose handler is this program.
    fn configure(&self) -> anyhow::Result<()> {
        let text = |path: &Path| -> anyhow::Result<String> {
            let path = path.to_str().with_context(|| format!("`{}` is no text", path.display()))?;
            Ok(toml::Value::String(path.to_owned()).to_string())
        };
        let program = text(&std::env::current_exe().context("this program does not know where it lies")?)?;
        let handled = text(&self.publishing.handled)?;
        let config = format!(
            "[store]\npath = \"router.db\"\n\n[http]\nlisten = \"off\"\n\n\
             [[route]]\nname = \"work\"\non = [\"demo.work\"]\norder_by = \"session_id\"\nhandler = \"exec\"\ncrashes_max = 1000\n\
             retry = {{ attempts_max = 1000, first_delay_ms = 1 }}\n\
             [route.with]\ncommand = [{program}, \"demo\", \"--note\", {handled}, \"{{{{ payload.number }}}}\"]\nexit_codes = {{ reject = [1] }}\n"
        );
        fs::write(self.home.join("router.toml"), config).context("the configuration of the demo cannot be written")
    }

    /// Starts the router and waits until it takes events.
    async fn start(&self) -> anyhow::Result<Itself> {
        let log = File::create(self.home.join("log")).context("the log of the demo cannot be written")?;
        let spool = self.home.join("spool");
        let path = std::env::current_exe()?;
        let found = path.parent().unwrap_or(Path::new("/")).as_os_str();
        // Not the spool of whoever runs this.
        let variables = [("EVENT_ROUTER_SPOOL", spool.as_os_str()), ("PATH", found)];
        let arguments = ["run", "-c", "router.toml", "--log-format", "json"].map(OsStr::new);
        let mut router = Itself::start(&arguments, &self.home, &variables, log).context("the router cannot be started")?;
        let until = self.clock.monotonic() + PATIENCE;
        loop {
            if let Ok(client) = AdminClient::connect(&self.home.join("router.db")).await
                && client.ready().await.is_ok_and(|ready| ready.ready)
            {
                self.publishing.router.send_replace(Some(client));
                return Ok(router);
            }
            let ended = router.ended()?.is_some();
            ensure!(!ended && self.clock.monotonic() < until, "the router does not start: {}", self.log_tail());
            tokio::time::sleep(LOOK).await;
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
        let until = self.clock.monotonic() + PATIENCE;
        while !is_so() {
            ensure!(self.clock.monotonic() < until, "gave up waiting until {what}: {}", self.log_tail());
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until the running router has nothing more to do. There is no end to it while it gets on.
    async fn until_nothing_waits(&self) -> anyhow::Result<()> {
        let (mut lines, mut until) = (0, self.clock.monotonic() + PATIENCE);
        let client = self.publishing.router.borrow().clone().context("a router runs")?;
        loop {
            let status = client.status().await.context("the router does not say how it stands")?;
            if status.routes.iter().all(|route| route.queue.as_ref().is_some_and(|queue| queue.ready + queue.waiting + queue.in_flight == 0)) {
                return Ok(());
            }
            if self.publishing.lines() > lines {
                (lines, until) = (self.publishing.lines(), self.clock.monotonic() + PATIENCE);
            }
            ensure!(self.clock.monotonic() < until, "the router handles nothing any more: {}", self.log_tail());
            tokio::time::sleep(LOOK * 4).await;
        }
    }

    /// Reads from the store what became of each accepted event. No router runs.
    async fn tally(&self) -> anyhow::Result<Tally> {
        let options = EmbeddedOptions::new(self.home.join("router.db"));
        let store = Embedded::open_waiting(options, Arc::new(SystemClock), PATIENCE).await?;
        let mut fates: BTreeMap<u64, Vec<DeliveryState>> = BTreeMap::new();
        let mut before = None;
        loop {
            let page = store.events(&EventQuery { last: Some(PAGE), before, ..EventQuery::default() }).await?;
            let Some(oldest) = page.last().map(|event| event.seq) else { break };
            before = Some(oldest);
            for event in page {
                let number = event.id.as_deref().and_then(|id| id.rsplit('-').next()?.parse().ok());
                let number: u64 = number.with_context(|| format!("event {} of the store has another id", event.seq))?;
                fates.entry(number).or_default().extend(event.deliveries.into_iter().map(|delivery| delivery.state));
            }
        }
        store.close().await;
        let mut tally = Tally::default();
        for number in self.publishing.accepted().iter() {
            // What was sent twice, since its answer died with the router, is there twice; the second is recognised or still waits.
            let fates = fates.get(number).map(Vec::as_slice).unwrap_or_default();
            let is_dead = fates.iter().any(|state| matches!(state, DeliveryState::Dead { .. }));
            let is_handled = fates.iter().any(|state| matches!(state, DeliveryState::Finished(router_api::Fate::Handled { .. })));
            match (is_dead, is_handled, fates.is_empty()) {
                (true, false, _) => tally.dead += 1,
                (false, true, _) => tally.handled += 1,
                (false, false, false) => tally.waiting += 1,
                _ => tally.wrong.push(*number),
            }
        }
        Ok(tally)
    }

    fn report(&self, out: &mut Output, killed: &Tally, rest: &Tally, took: Duration) -> anyhow::Result<Ended> {
        let accepted = self.publishing.accepted().clone();
        let count = accepted.len() as u64;
        let text = fs::read_to_string(&self.publishing.handled).unwrap_or_default();
        let noted: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let distinct: BTreeSet<u64> = noted.iter().copied().collect();
        let missing = accepted.iter().filter(|number| !is_refused(**number) && !distinct.contains(number)).count() as u64;
        let refused = accepted.iter().filter(|number| is_refused(**number)).count() as u64;
        let mut holds = true;
        out.line(format_args!("{}", styled(BOLD, format!("{:>28} {:>8} = {:>8} + {:>13} + {:>8}", "", "accepted", "handled", "dead-lettered", "waiting"))))?;
        for (when, tally) in [(format!("after {KILLS} kills"), killed), ("left alone for a moment".to_owned(), rest)] {
            let is_equal = tally.sum() == count && tally.wrong.is_empty();
            holds &= is_equal;
            let verdict = if is_equal { styled(GOOD, "holds") } else { styled(BAD.bold(), "does not hold") };
            out.line(format_args!("{when:>28} {count:>8} = {:>8} + {:>13} + {:>8}   {verdict}", tally.handled, tally.dead, tally.waiting))?;
            if let Some(number) = tally.wrong.first() {
                out.line(format_args!(
                    "    {} without a fate, or with two; the first is event {number}",
                    counted(tally.wrong.len() as u64, "event", "events")
                ))?;
            }
        }
        let agrees = missing == 0 && rest.waiting == 0 && rest.dead == refused;
        holds &= agrees;
        out.gap()?;
        let repeated = (noted.len() - distinct.len()) as u64;
        out.line(format_args!(
            "What the handlers wrote down themselves: {} are missing, {repeated} came twice.",
            if missing == 0 { "none".to_owned() } else { missing.to_string() }
        ))?;
        out.line(format_args!(
            "{}",
            styled(DIM, "Twice is what a kill between a handler's work and its record costs; the dead letters are those that the handler refused.")
        ))?;
        if !agrees {
            out.line(format_args!(
                "{} {missing} missing, {} waiting, {} dead letters where {refused} were refused",
                styled(BAD.bold(), "wrong:"),
                rest.waiting,
                rest.dead
            ))?;
        }
        out.line(format_args!("{}", styled(DIM, format!("{:.1} s", took.as_secs_f64()))))?;
        Ok(if holds { Ended::Well } else { Ended::Badly })
    }
}
