//! `watch [PATTERN]`: events as they come, one line each, and nobody's queue is touched.
//!
//! Where a router runs, its archive is followed through its socket (`following`), on either transport. On a bus without one of ours a queue of
//! one's own is bound beside all others (`tapping`). Whoever falls behind is told how many events he has missed.

mod following;
mod tapping;

use anyhow::bail;
use router_api::{Clock as _, DecodeLimits, FollowRequest};
use router_core::{
    config::{Config, RouteConfig, TransportConfig},
    explain::explain,
};
use router_http::AdminClient;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Ended,
    args::{Global, WatchArgs},
    event_line::ShownEvent,
    filter_text,
    reach::Reach,
    system::SystemClock,
    terminal::{BAD, DIM, GOOD, NAME, Output, WARN, counted, harmless, shortened, styled},
};

/// Names the shape of each line of `--json`.
const SCHEMA: &str = "event-router.watch.v1";

/// Whoever is further behind is brought forward.
const BEHIND_MAX: u64 = 10_000;

pub(crate) fn run(global: &Global, args: &WatchArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let request = FollowRequest {
        key: args.pattern.clone(),
        session: args.session.clone(),
        route: args.route.clone(),
        when: filter_text::tree(&args.when)?,
        limit: Some(FollowRequest::LIMIT),
        wait_ms: FollowRequest::WAIT_MAX.as_millis() as u64,
        behind_max: Some(BEHIND_MAX),
        ..FollowRequest::default()
    };
    let reach = Reach::find_to_look(global)?;
    let config = reach.setup().map(|setup| &setup.config);
    if args.explain && config.is_none() {
        bail!("`--explain` needs the configuration, and its file cannot be used now (`event-router check`)");
    }
    let watching = Watching { args, config, out, shown: 0 };
    // A worker beside: what comes is read while a slow terminal is written to.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            ended = watch(&reach, request, watching) => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        }
    });
    runtime.shutdown_background();
    ended.map(|()| Ended::Well)
}

async fn watch(reach: &Reach, request: FollowRequest, watching: Watching<'_>) -> anyhow::Result<()> {
    let setup = match reach {
        Reach::Running(client) => return following::follow(client.clone(), request, watching).await,
        Reach::Configured(setup) => setup,
    };
    let config = &setup.config;
    let running = AdminClient::connect(&config.store.path).await;
    match (&config.transport, running) {
        (TransportConfig::Embedded, Ok(client)) => following::follow(client, request, watching).await,
        (TransportConfig::Embedded, Err(_)) => {
            let (store, name) = (config.store.path.display().to_string(), setup.located.name());
            bail!("no router runs on `{}` (configuration {}), so no event comes: start it with `event-router run`", harmless(&store), harmless(&name))
        }
        // A router that archives nothing knows nothing of what passes.
        (TransportConfig::Amqp(amqp), Ok(client)) if amqp.archive.is_some() => following::follow(client, request, watching).await,
        (TransportConfig::Amqp(amqp), _) => tapping::tap(config, amqp, request, watching).await,
    }
}

/// What is shown, and where.
struct Watching<'a> {
    args: &'a WatchArgs,
    config: Option<&'a Config>,
    out: &'a mut Output,
    shown: u64,
}

impl Watching<'_> {
    fn limits(&self) -> DecodeLimits {
        self.config.map(|config| config.limits.decode).unwrap_or_default()
    }

    /// Shows an event. False when enough were shown.
    fn event(&mut self, event: &ShownEvent) -> anyhow::Result<bool> {
        let explained = self.config.filter(|_| self.args.explain).map(|config| Explained::of(event, &config.routes, config.limits.decode));
        if self.args.json.json {
            let mut line = event.for_programs();
            line["schema"] = SCHEMA.into();
            line["kind"] = "event".into();
            if let Some(explained) = explained {
                line["routes"] = serde_json::to_value(&explained.0.routes)?;
            }
            self.out.line(line)?;
        } else {
            self.out.line(event.line(SystemClock.now(), self.limits()))?;
            if let Some(explained) = explained {
                explained.tell(self.out)?;
            }
        }
        self.out.flush()?;
        self.shown += 1;
        Ok(self.args.count.is_none_or(|count| self.shown < count))
    }

    fn missed(&mut self, count: u64) -> anyhow::Result<()> {
        if self.args.json.json {
            self.out.line(json!({ "schema": SCHEMA, "kind": "missed", "missed": count }))?;
        } else {
            let events = counted(count, "event was", "events were");
            self.out.line(styled(WARN, format_args!("        … {events} passed over: they came faster than they could be shown")))?;
        }
        Ok(self.out.flush()?)
    }

    /// Something about the watching itself, beside the events.
    fn note(&self, text: &str) {
        let mut stderr = anstream::AutoStream::auto(std::io::stderr());
        // A reader that is gone misses nothing that the events depend on.
        let _ = std::io::Write::write_fmt(&mut stderr, format_args!("{}\n", styled(DIM, harmless(text))));
    }
}

/// What every route says of an event.
struct Explained(router_core::explain::Explanation);

impl Explained {
    fn of(event: &ShownEvent, routes: &[RouteConfig], limits: DecodeLimits) -> Self {
        let decoded = router_api::Envelope::decode(event.key.clone(), event.body.clone(), limits);
        Self(explain(routes, decoded.as_ref(), &event.key))
    }

    /// A line for each route whose key fits, one for all others.
    fn tell(&self, out: &mut Output) -> anyhow::Result<()> {
        let mut elsewhere = 0;
        for route in &self.0.routes {
            if self.0.is_elsewhere(route) {
                elsewhere += 1;
                continue;
            }
            let sign = if route.verdict.fires() { styled(GOOD, "✓") } else { styled(BAD, "✗") };
            let lines = route.lines();
            let why = lines.first().map(|line| shortened(line, 160)).unwrap_or_default();
            out.line(format_args!("        {sign} {}  {}  {}", styled(NAME, &route.route), route.label(), styled(DIM, why)))?;
        }
        if elsewhere > 0 {
            out.line(styled(DIM, format_args!("        · {}", counted(elsewhere, "route listens to other keys", "routes listen to other keys"))))?;
        }
        Ok(())
    }
}
