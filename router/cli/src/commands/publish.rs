//! `publish`: takes an event in, through the running router, or straight into its store or to its broker.

use anyhow::bail;
use router_api::{Accepted, Clock as _, DecodeError, Envelope, Publication};
use router_core::config::TransportConfig;
use router_http::PublishedAnswer;
use uuid::Uuid;

use crate::{
    Ended,
    access::{Purpose, refuse_stray_store},
    args::{Global, PublishArgs},
    commands::block_on,
    event_input,
    reach::Reach,
    session,
    setup::Setup,
    system::SystemClock,
    terminal::{BOLD, DIM, GOOD, Output, WARN, harmless, styled},
};

pub(crate) fn run(global: &Global, args: &PublishArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let reach = Reach::find(global)?;
    let limits = reach.decode();
    let (key, body) = match (&args.sample, &args.file) {
        (Some(name), _) => {
            let (key, body) = session::sample(name, Uuid::new_v4(), SystemClock.now())?;
            (args.key.clone().unwrap_or(key), body)
        }
        (None, Some(file)) => {
            let body = event_input::read(file, limits.body_bytes_max)?;
            (event_input::keyed(args.key.as_ref(), &body, &file.display().to_string())?, body)
        }
        (None, None) => bail!("an event is needed: a file, `-` or `--sample NAME`"),
    };
    // Before the store is touched: a wrong event makes none.
    Envelope::decode(key.clone(), body.clone(), limits).map_err(|error: DecodeError| anyhow::anyhow!("no event: {error}"))?;
    if let Some(setup) = reach.setup().filter(|_| !args.new_store) {
        refuse_stray_store(&setup.located, &setup.config)?;
    }
    let (accepted, running) = block_on(async {
        let access = reach.open(Purpose::Publish).await?;
        let accepted = access.admin().accept(Publication::new(key.clone(), body)).await;
        let running = access.is_running();
        access.close().await;
        Ok((accepted?, running))
    })?;
    let Accepted { published, event_id, .. } = accepted;
    if args.json.json {
        out.json(&PublishedAnswer { schema: PublishedAnswer::SCHEMA.into(), key, event_id, seq: published.seq, routed: published.routed })?;
        return Ok(Ended::Well);
    }
    // Of a running router whose file is wrong it is known by the number, which only a store gives.
    let on_broker = reach.setup().map_or(published.seq.is_none(), |setup| matches!(setup.config.transport, TransportConfig::Amqp(_)));
    if on_broker {
        out.line(format_args!("{} {} is confirmed by the broker", styled(GOOD, "✓"), styled(BOLD, harmless(key.as_str()))))?;
        if !published.routed {
            let why = "no route's pattern fits the key, or no router has made its queues there yet (`event-router run`)";
            out.line(format_args!("  {} {why}", styled(WARN, "no route wants it:")))?;
        }
        if let Some(Setup { config, located, .. }) = reach.setup().filter(|_| !running) {
            let (store, config) = (config.store.path.display().to_string(), located.name());
            let what = if published.routed { "waits on the broker for a router" } else { "is handled by nobody" };
            let line = format!("  no router runs on `{}` (configuration {}): unless one runs elsewhere, the event {what}", harmless(&store), harmless(&config));
            out.line(styled(DIM, &line))?;
        }
        return Ok(Ended::Well);
    }
    let number = published.seq.map(|seq| format!(" as number {seq}")).unwrap_or_default();
    out.line(format_args!("{} {} is stored{number}", styled(GOOD, "✓"), styled(BOLD, harmless(key.as_str()))))?;
    if !published.routed {
        let reference = published.seq.map(|seq| seq.to_string()).or(event_id).unwrap_or_else(|| "-".to_owned());
        out.line(format_args!("  {} `event-router explain {}` says why", styled(WARN, "no route wants it:"), harmless(&reference)))?;
    }
    if let Some(Setup { config, located, .. }) = reach.setup().filter(|_| !running) {
        let (store, config) = (config.store.path.display().to_string(), located.name());
        let what = if published.routed { "waits" } else { "is kept" };
        let line = format!("  no router runs on `{}` (configuration {}): the event {what} there", harmless(&store), harmless(&config));
        out.line(styled(DIM, &line))?;
    }
    Ok(Ended::Well)
}
