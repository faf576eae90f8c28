//! `demo`: the recorded session flows through the shipped routes, on the real pipeline and a store in a temporary directory.
//!
//! Every route is in shadow, so nothing is sent or run. Time is moved by the teller, so that a burst is the same burst on a slow
//! machine and ten quiet minutes are over at once. What is told is in `telling.rs`, how outcomes are caught in `watching.rs`.
//!
//! `demo --crash` is another story, in `crash.rs`.

mod crash;
mod telling;
mod watching;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use router_api::{Admin, Chance, Clock, Envelope, Publication, Store, Transport};
use router_core::{
    Router,
    config::{Config, RouteConfig},
    explain::explain,
    shadow_all,
};
use router_embedded::{Embedded, EmbeddedOptions};
use tokio::runtime::Builder;

use self::{
    telling::{Telling, Told},
    watching::{Outcome, Watching},
};
use crate::{
    Ended,
    access::store_options,
    args::{DemoArgs, Global},
    session::{self, Recorded},
    setup::{self, InvalidConfig, Setup},
    store_key,
    system::{OsChance, StoryClock},
    terminal::Output,
};

/// For one handling, in real time; a dry run that takes longer is told as still under way.
const HANDLING: Duration = Duration::from_secs(30);

/// Recorded time passes in steps of so much.
const STEP: Duration = Duration::from_millis(100);

pub(crate) fn run(global: &Global, args: &DemoArgs, out: &mut Output) -> anyhow::Result<Ended> {
    if let Some([file, number]) = args.note.as_deref() {
        let number = number.to_str().and_then(|number| number.parse().ok()).context("`--note` takes a file and a number")?;
        return crash::note(std::path::Path::new(file), number);
    }
    let _log = global.begin_quiet_log()?;
    if args.crash {
        return crash::run(out);
    }
    let setup = if global.config.is_empty() { setup::load_located(global, setup::built_in()?)? } else { setup::load(global)? };
    let directory = tempfile::Builder::new().prefix("event-router-demo-").tempdir().context("no temporary directory can be made")?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let played = runtime.block_on(play(setup, args.speed, directory.path(), &telling::program(&global.config), out));
    runtime.shutdown_timeout(HANDLING);
    played.map(|()| Ended::Well)
}

async fn play(setup: Setup, speed: u32, directory: &std::path::Path, program: &str, out: &mut Output) -> anyhow::Result<()> {
    let Setup { mut config, registry, effects, .. } = setup;
    shadow_all(&mut config);
    let story = StoryClock::new();
    let clock: Arc<dyn Clock> = Arc::new(story.clone());
    let chance: Arc<dyn Chance> = Arc::new(OsChance);
    // A disk's sync would be stretched with the time, and nobody needs this store after a power failure.
    let options = EmbeddedOptions { path: directory.join("demo.db"), sync: false, reserve_bytes: 0, ..store_options(&config) };
    let embedded = Embedded::open(options, Arc::clone(&clock))?;
    let watching = Arc::new(Watching::default());
    let (transport, store): (Arc<dyn Transport>, Arc<dyn Store>) = (embedded.clone(), embedded.clone());
    let router = Router::builder(registry, transport, store, effects, Arc::clone(&clock), Arc::clone(&chance))
        .observer(watching.clone())
        .host("demo")
        .fingerprint_key(store_key::drawn(&*chance))
        .build();
    router.apply(config.clone()).await.map_err(InvalidConfig::message)?;

    let mut stage = Stage { admin: router.admin(), clock: story.clone(), speed, watching, telling: Telling::new(&config), config, collecting: BTreeMap::new() };
    let told = stage.play(program, out).await;
    let ending = async {
        router.drain().await;
        embedded.close().await;
    };
    let time_goes_on = async {
        loop {
            tokio::time::sleep(STEP / speed).await;
            story.advance(STEP);
        }
    };
    // What still runs has its time to end, which must pass.
    tokio::select! {
        () = ending => {}
        () = time_goes_on => {}
    }
    told
}

/// Events of a burst that is still open.
pub(crate) struct Collecting {
    pub(crate) members: Vec<Envelope>,
    /// When the newest one came.
    since: Duration,
}

/// The running demo.
struct Stage {
    config: Config,
    admin: Arc<dyn Admin>,
    clock: StoryClock,
    watching: Arc<Watching>,
    telling: Telling,
    /// How many times faster than recorded.
    speed: u32,
    /// Open bursts by route.
    collecting: BTreeMap<String, Collecting>,
}

impl Stage {
    async fn play(&mut self, program: &str, out: &mut Output) -> anyhow::Result<()> {
        self.telling.opening(out, &self.config)?;
        for (index, recorded) in session::recording().iter().enumerate() {
            self.pass(Duration::from_millis(recorded.after_ms)).await;
            self.tell_bursts(out).await?;
            self.tell_event(out, index + 1, recorded).await?;
        }
        if let Some(quiet) = self.longest_quiet() {
            self.telling.skipping(out, quiet)?;
            self.pass(STEP).await;
            self.clock.advance(quiet);
            self.tell_bursts(out).await?;
        }
        self.telling.closing(out, &self.config, self.watching.redactions(), program)?;
        Ok(())
    }

    /// Lets recorded time go by, in steps, so that what is due in between happens in between.
    async fn pass(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            tokio::time::sleep(step / self.speed).await;
            self.clock.advance(step);
            left -= step;
        }
    }

    async fn tell_event(&mut self, out: &mut Output, number: usize, recorded: &Recorded) -> anyhow::Result<()> {
        let decode = || Envelope::decode(recorded.key.clone(), recorded.body.clone(), self.config.limits.decode);
        let event = decode().with_context(|| format!("event {number} of the recording"))?;
        let received = |stage: &Self, route: &str| stage.watching.received(route);
        let before: BTreeMap<String, u64> =
            self.config.routes.iter().map(|route| route.name.to_string()).map(|name| (name.clone(), received(self, &name))).collect();
        let redacted_before = self.watching.redactions();
        let published = self.admin.publish(Publication::new(recorded.key.clone(), recorded.body.clone())).await?;
        let redactions = self.watching.redactions() - redacted_before;
        let explanation = explain(&self.config.routes, Ok(&event), &recorded.key);
        let fires: Vec<&str> = explanation.routes.iter().filter(|route| route.verdict.fires()).map(|route| route.route.as_str()).collect();
        let mut outcomes = BTreeMap::new();
        for name in fires {
            if self.coalesces(name) {
                // Time must not go on before the burst has its event.
                self.until(|stage| (received(stage, name) > before.get(name).copied().unwrap_or(0)).then_some(())).await;
                let since = self.clock.monotonic();
                let burst = self.collecting.entry(name.to_owned()).or_insert_with(|| Collecting { members: Vec::new(), since });
                burst.members.push(decode()?);
                burst.since = since;
            } else if let Some(outcome) = self.outcome_of(name, &event).await {
                outcomes.insert(name.to_owned(), outcome);
            }
        }
        let told =
            Told { number, recorded, routed: published.routed, redactions, explanation: &explanation, outcomes: &outcomes, collecting: &self.collecting };
        self.telling.event(out, &told, &self.config)
    }

    async fn outcome_of(&self, route: &str, event: &Envelope) -> Option<Outcome> {
        self.outcome(|outcome| outcome.route == route && outcome.is_of(event)).await
    }

    async fn outcome(&self, fits: impl Fn(&Outcome) -> bool) -> Option<Outcome> {
        self.until(|stage| stage.watching.take(&fits)).await
    }

    /// Waits until something was observed, within [`HANDLING`].
    async fn until<T>(&self, seen: impl Fn(&Self) -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                if let Some(seen) = seen(self) {
                    break seen;
                }
                self.watching.changed().await;
            }
        };
        tokio::time::timeout(HANDLING, waiting).await.ok()
    }

    /// Tells of the bursts whose quiet time is over.
    async fn tell_bursts(&mut self, out: &mut Output) -> anyhow::Result<()> {
        let now = self.clock.monotonic();
        let is_over = |route: &&RouteConfig| {
            let quiet = route.coalesce.as_ref().map(|coalesce| coalesce.quiet.min(coalesce.max_wait));
            let open = self.collecting.get(route.name.as_str());
            open.zip(quiet).is_some_and(|(open, quiet)| now >= open.since.saturating_add(quiet))
        };
        let over: Vec<String> = self.config.routes.iter().filter(is_over).map(|route| route.name.to_string()).collect();
        for route in over {
            let Some(outcome) = self.outcome(|outcome| outcome.route == route).await else { continue };
            if let Some(burst) = self.collecting.remove(&route) {
                self.telling.burst(out, &outcome, &burst.members)?;
            }
        }
        Ok(())
    }

    /// How long nothing must happen until all open bursts close.
    fn longest_quiet(&self) -> Option<Duration> {
        let open = self.config.routes.iter().filter(|route| self.collecting.contains_key(route.name.as_str()));
        open.filter_map(|route| route.coalesce.as_ref()).map(|coalesce| coalesce.quiet.min(coalesce.max_wait)).max()
    }

    fn coalesces(&self, route: &str) -> bool {
        self.config.routes.iter().any(|config| config.name.as_str() == route && config.coalesce.is_some())
    }
}
