//! `demo`: the recorded session flows through the shipped routes, on the real pipeline and a store in a temporary directory.
//!
//! Every route is in shadow, so nothing is sent or run; time runs faster, so that a quiet time of two seconds does not bore. What
//! is told of it is in `telling.rs`, how outcomes are caught in `watching.rs`.

mod telling;
mod watching;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use router_api::{Admin, Chance, Clock, Envelope, Publication, Store, Transport};
use router_core::{Router, config::Config, explain::explain, shadow_all};
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
    system::{FastClock, OsChance},
    terminal::Output,
};

/// For one handling, in real time; a dry run that takes longer is told as still under way.
const HANDLING: Duration = Duration::from_secs(5);

/// For all open bursts to close at the end, in real time.
const LAST_BURSTS: Duration = Duration::from_secs(20);

pub(crate) fn run(global: &Global, args: &DemoArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let setup = if global.config.is_empty() { setup::load_located(setup::built_in()?)? } else { setup::load(global)? };
    let directory = tempfile::Builder::new().prefix("event-router-demo-").tempdir().context("no temporary directory can be made")?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let played = runtime.block_on(play(setup, args.speed, directory.path(), out));
    runtime.shutdown_timeout(HANDLING);
    played.map(|()| Ended::Well)
}

async fn play(setup: Setup, speed: u32, directory: &std::path::Path, out: &mut Output) -> anyhow::Result<()> {
    let Setup { mut config, registry, effects, .. } = setup;
    shadow_all(&mut config);
    let fast = FastClock::new(speed);
    let clock: Arc<dyn Clock> = Arc::new(fast.clone());
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

    let mut stage = Stage { admin: router.admin(), clock: fast, watching, telling: Telling::new(&config), config, collecting: BTreeMap::new() };
    let told = stage.play(out).await;
    router.drain().await;
    embedded.close().await;
    told
}

/// The running demo.
struct Stage {
    config: Config,
    admin: Arc<dyn Admin>,
    clock: FastClock,
    watching: Arc<Watching>,
    telling: Telling,
    /// Events of bursts that are still open, by route.
    collecting: BTreeMap<String, Vec<Envelope>>,
}

impl Stage {
    async fn play(&mut self, out: &mut Output) -> anyhow::Result<()> {
        self.telling.opening(out, &self.config)?;
        for (index, recorded) in session::recording().iter().enumerate() {
            self.clock.sleep(Duration::from_millis(recorded.after_ms)).await;
            self.tell_bursts(out)?;
            self.tell_event(out, index + 1, recorded).await?;
        }
        let quiet = self.longest_quiet();
        let waiting = async {
            if let Some(quiet) = quiet {
                self.telling.skipping(out, quiet)?;
                self.clock.skip(quiet);
            }
            while !self.collecting.is_empty() {
                self.watching.changed().await;
                self.tell_bursts(out)?;
            }
            anyhow::Ok(())
        };
        // A burst that stays open is told by its absence; the demo ends all the same.
        if let Ok(told) = tokio::time::timeout(LAST_BURSTS, waiting).await {
            told?;
        }
        self.telling.closing(out, &self.config, self.watching.redactions())?;
        Ok(())
    }

    async fn tell_event(&mut self, out: &mut Output, number: usize, recorded: &Recorded) -> anyhow::Result<()> {
        let decode = || Envelope::decode(recorded.key.clone(), recorded.body.clone(), self.config.limits.decode);
        let event = decode().with_context(|| format!("event {number} of the recording"))?;
        let published = self.admin.publish(Publication::new(recorded.key.clone(), recorded.body.clone())).await?;
        let explanation = explain(&self.config.routes, Ok(&event), &recorded.key);
        let fires: Vec<&str> = explanation.routes.iter().filter(|route| route.verdict.fires()).map(|route| route.route.as_str()).collect();
        let mut outcomes = BTreeMap::new();
        for name in fires {
            if self.coalesces(name) {
                self.collecting.entry(name.to_owned()).or_default().push(decode()?);
            } else if let Some(outcome) = self.outcome_of(name, &event).await {
                outcomes.insert(name.to_owned(), outcome);
            }
        }
        let told = Told { number, recorded, routed: published.routed, explanation: &explanation, outcomes: &outcomes, collecting: &self.collecting };
        self.telling.event(out, &told, &self.config)
    }

    async fn outcome_of(&self, route: &str, event: &Envelope) -> Option<Outcome> {
        let waiting = async {
            loop {
                if let Some(outcome) = self.watching.take(|outcome| outcome.route == route && outcome.is_of(event)) {
                    break outcome;
                }
                self.watching.changed().await;
            }
        };
        tokio::time::timeout(HANDLING, waiting).await.ok()
    }

    fn tell_bursts(&mut self, out: &mut Output) -> anyhow::Result<()> {
        while let Some(outcome) = self.watching.take(|outcome| self.collecting.contains_key(&outcome.route)) {
            // A new burst may have begun behind the one that is finished: only its own events leave.
            let mut members = self.collecting.remove(&outcome.route).unwrap_or_default();
            let rest = members.split_off(outcome.events.min(members.len()));
            if !rest.is_empty() {
                self.collecting.insert(outcome.route.clone(), rest);
            }
            self.telling.burst(out, &outcome, &members)?;
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
